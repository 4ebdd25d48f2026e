"""How the parameters of a finished run moved in time: where the fits of a similar run begin.

A neighbour in a scan has the same hidden features, and heads that move in nearly the same way. With m its parameters,
theta(t) + m(t + dt) - m(t) is then closer to the solution of a step's fit than theta(t). As that fit is a convex
problem with one solution, where it begins changes how many Newton steps it takes, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hpcme.networks.base import VAN

#: What of a head may differ: parameters, and the base measure, a constant that differences in time do not see.
_HEADS = (".bias", ".weight", ".base")


class Motion:
    """Head parameters at some times, linear in between. times float64 [K] increasing; parameters float64 [K, P]."""

    def __init__(self, times: np.ndarray, parameters: np.ndarray) -> None:
        self.times, self.parameters = times, parameters

    @classmethod
    def of(
        cls, network: VAN, spec: dict[str, Any], times: Sequence[float], specs: Sequence[str],
        stored: Sequence[Mapping[str, np.ndarray]],
    ) -> Motion | None:  # fmt: skip
        """From the networks that another run stored at its times (JSON descriptions and arrays by name); None where
        these are not of the same kind as `network`, whose description is spec, with the same hidden features."""
        own = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
        heads = {f"heads.{i}{part}" for i in range(network.S) for part in _HEADS}
        for text, arrays in zip(specs, stored, strict=True):
            same = json.loads(text) == json.loads(json.dumps(spec)) and arrays.keys() == own.keys()
            if not same or not all(np.array_equal(arrays[name], own[name]) for name in own.keys() - heads):
                return None
        rows = [_vector(arrays, network.S) for arrays in stored]
        return cls(np.asarray(times, dtype=np.float64), np.stack(rows)) if len(rows) > 1 else None

    def between(self, t0: float, t1: float) -> torch.Tensor | None:
        """Parameters at t1 less those at t0, float64 [P]; None where not both times are known."""
        end = float(self.times[-1])
        if t0 < self.times[0] or t1 > end * (1.0 + 1e-9):
            return None
        t1 = min(t1, end)  # rounding
        return torch.from_numpy(self._at(t1) - self._at(t0))

    def _at(self, t: float) -> np.ndarray:
        k = min(int(np.searchsorted(self.times, t, side="right")) - 1, len(self.times) - 2)
        share = (t - self.times[k]) / (self.times[k + 1] - self.times[k])
        return (1.0 - share) * self.parameters[k] + share * self.parameters[k + 1]


def _vector(arrays: Mapping[str, np.ndarray], S: int) -> np.ndarray:
    """The heads' parameters in the order of HeadParameters, float64 [P]."""
    parts = [np.concatenate([arrays[f"heads.{i}.bias"][None, :], arrays[f"heads.{i}.weight"]]) for i in range(S)]
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float64)
