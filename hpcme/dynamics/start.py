"""The start: an exact law after a few transitions, and the network fitted to it.

A point start is no law that a network holds well (all but one state would need probability zero), and a smeared point is
a wrong start. So time zero keeps the exact initial law, and the network takes over at the short time t0 at which
about `start_jumps` transitions have happened; until then the law is computed exactly on the few states it lives on.
The fit minimises KL(p || q) = sum p log(p/q) with exact sums over those states, no samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hpcme.dynamics.sampler import FlatNetwork, owned_range
from hpcme.dynamics.streams import generator
from hpcme.networks.base import VAN
from hpcme.parallel.world import World

_BATCH = 2048  # states per epoch where the law has more
_STOP = 1e-7  # KL(p || q) at which the fit is good enough to stop early


def marginals(states: np.ndarray, p: np.ndarray, limits: np.ndarray) -> list[torch.Tensor]:
    """Marginals of a tabulated law: states int32 [M, S], p float64 [M] -> list of float64 [limit + 1]."""
    return [
        torch.from_numpy(np.bincount(states[:, i], weights=p, minlength=int(limit) + 1))
        for i, limit in enumerate(limits)
    ]


def fit(
    network: VAN,
    states: np.ndarray,
    p: np.ndarray,
    *,
    epochs: int,
    seed: int,
    world: World,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[np.ndarray, float]:
    """Fit a network to a tabulated law; returns the flat parameters and the final KL(p || q).

    states int32 [M, S], p float64 [M] (normalised here). All states are used in every epoch where there are at most
    2048, else that many are drawn from p by stratified uniforms. Ranks share the states of every epoch.
    """
    flat = FlatNetwork(network)
    p = p / p.sum()
    entropy = -float(p[p > 0] @ np.log(p[p > 0]))
    optimiser = torch.optim.Adam([flat.flat], lr=1e-2, betas=(0.9, 0.99), foreach=False)
    every = len(states) <= _BATCH
    cdf = np.cumsum(p)
    kl = np.inf
    for epoch in range(epochs):
        rows, weight = _rows(p, cdf, every, seed, epoch)
        part = owned_range(len(rows), world.rank, world.size)
        mine, w = rows[part.start : part.stop], torch.from_numpy(weight[part.start : part.stop]).to(world.device)
        logq = network.log_prob(torch.from_numpy(states[mine]).to(world.device))
        loss = -(w * logq).sum()
        buffer = torch.cat([flat.gradient(loss).double(), loss.detach().reshape(1)])
        world.sum_(buffer)
        kl = float(buffer[-1]) - entropy
        if progress is not None:
            progress(epoch, kl)
        if every and kl < _STOP:
            break
        optimiser.param_groups[0]["lr"] = 1e-2 * 0.02 ** (epoch / epochs)
        flat.flat.grad = buffer[:-1].to(flat.flat.dtype)
        optimiser.step()
    return flat.flat.detach().cpu().numpy().copy(), _exact_kl(network, states, p, entropy, world)


def _rows(p: np.ndarray, cdf: np.ndarray, every: bool, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and weights of one epoch: everything, or a stratified draw from p."""
    if every:
        return np.arange(len(p)), p
    u = (np.arange(_BATCH) + generator(seed, "fit", 0, epoch, 0).random(_BATCH)) / _BATCH
    rows = np.minimum(np.searchsorted(cdf, u * cdf[-1], side="right"), len(p) - 1)
    return rows, np.full(_BATCH, 1.0 / _BATCH)


@torch.no_grad()
def _exact_kl(network: VAN, states: np.ndarray, p: np.ndarray, entropy: float, world: World) -> float:
    logq = network.log_prob(torch.from_numpy(states).to(world.device)).cpu().numpy()
    return float(-(p[p > 0] @ logq[p > 0]) - entropy)
