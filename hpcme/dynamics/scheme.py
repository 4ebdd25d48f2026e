"""What schemes share: what the time loop learns of a step, and a network's part of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpcme.model.network import ReactionNetwork
from hpcme.networks.base import VAN

_PREFIX = "network/"


@dataclass
class Advance:
    """One accepted step of a scheme.

    dt: its length; leak: rate of leaving the limits over it; row: numbers for the series. defect: what the step adds to
    the total variation distance from the exact law at most, where the scheme knows; None leaves it to the certificate.
    borders: rates of leaving through each limit that may grow, float64 [G] (see borders.py), the same on every rank.
    """

    dt: float
    leak: float
    row: dict[str, float]
    defect: float | None = None
    borders: np.ndarray | None = None


def network_state(network: VAN) -> dict[str, np.ndarray]:
    """Parameters and head bases of a network as named arrays, for a checkpoint."""
    return {f"{_PREFIX}{name}": value.cpu().numpy().copy() for name, value in network.state_dict().items()}


def restore_network(network: VAN, state: dict[str, object]) -> None:
    """Undo `network_state`; other names are passed over."""
    arrays = {name: torch.as_tensor(value) for name, value in state.items() if name.startswith(_PREFIX)}
    network.load_state_dict({name.removeprefix(_PREFIX): value for name, value in arrays.items()})


def clock(net: ReactionNetwork, t: float) -> float:
    """Time since the start, or since the last events: laws move by it at first."""
    return t - max((event.time for event in net.events if event.time <= t), default=0.0)


def flat_parameters(network: VAN) -> torch.Tensor:
    """All parameters of a network as one vector, float64 [P]."""
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach().double()
