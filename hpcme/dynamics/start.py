"""The start: an exact law after a few transitions, and the network fitted to it.

A point start is no law that a network holds well (all but one state would need probability zero), and a smeared point
is a wrong start. So time zero keeps the exact initial law, and the network takes over at the short time t0 at which
about `start_jumps` transitions have happened; until then the law is computed exactly on the few states it lives on.
The fit minimises KL(p || q) = sum p log(p/q) with exact sums over those states, no samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hpcme.dynamics.likelihood import fit_conditionals
from hpcme.dynamics.sampler import FlatNetwork
from hpcme.dynamics.streams import generator
from hpcme.dynamics.tangent import HeadParameters, StateTree
from hpcme.networks.base import VAN

#: Expected transitions until the network takes over, at the start or after events: later where it cannot hold the law.
JUMPS = (3.0, 10.0, 30.0, 100.0)
GOOD = 1e-3  # total variation distance at which a fit is good enough

_BATCH = 2048  # states per epoch where the law has more
_STOP = 1e-7  # KL(p || q) at which the fit is good enough to stop early
_PULL = 1e-9  # on parameters that the start does not determine
_RATE, _DECAY = 1e-2, 0.02  # Adam's step size at the first epoch, and its last as a fraction of it


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
    progress: Callable[[int, float], None] | None = None,
) -> float:
    """Fit a network to a tabulated law, in place; returns KL(p || q), summed exactly over the states.

    states int32 [M, S], p float64 [M] (normalised here). All states are used in every epoch where there are at most
    2048, else that many are drawn from p by stratified uniforms. One rank does this for all: the work is small, and
    every rank then starts from the same bits.
    """
    flat = FlatNetwork(network)
    device = network.device
    p = p / p.sum()
    entropy = -float(p[p > 0] @ np.log(p[p > 0]))
    optimiser = torch.optim.Adam([flat.flat], lr=_RATE, betas=(0.9, 0.99), eps=1e-6, foreach=False)
    every = len(states) <= _BATCH
    cdf = np.cumsum(p)
    for epoch in range(epochs):
        rows, weight = (np.arange(len(p)), p) if every else _stratified(cdf, seed, epoch)
        logq = network.log_prob(torch.from_numpy(states[rows]).to(device))
        loss = -(torch.from_numpy(weight).to(device) * logq).sum()
        flat.flat.grad = flat.gradient(loss)
        kl = float(loss.detach()) - entropy
        if progress is not None:
            progress(epoch, kl)
        if every and kl < _STOP:
            break
        optimiser.param_groups[0]["lr"] = _RATE * _DECAY ** (epoch / epochs)
        optimiser.step()
    with torch.no_grad():
        logq = network.log_prob(torch.from_numpy(states).to(device)).cpu().numpy()
    return float(-(p[p > 0] @ logq[p > 0]) - entropy)


def _stratified(cdf: np.ndarray, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows drawn from a law by one uniform number in each of 2048 equal strata, and their equal weights."""
    u = (np.arange(_BATCH) + generator(seed, "fit", 0, epoch, 0).random(_BATCH)) / _BATCH
    rows = np.minimum(np.searchsorted(cdf, u * cdf[-1], side="right"), len(cdf) - 1)
    return rows, np.full(_BATCH, 1.0 / _BATCH)


def settle(network: VAN, states: np.ndarray, p: np.ndarray, job, pull: float | None = None) -> tuple[float, float]:
    """Fit a network to a tabulated law, states int32 [M, S] and p float64 [M], in place, as suits a job's scheme.

    pull: weight of |theta - theta_before|^2 / 2 in a fit of the heads, for laws that are samples. Returns KL(p || q)
    and the total variation distance.
    """
    if job["solver.scheme"] == "tdvp":
        return fit_heads(network, states, p, pull=_PULL if pull is None else pull)
    kl = fit(network, states, p, epochs=job["solver.start_epochs"], seed=job["run.seed"])
    return kl, distance_to(network, states, p)


@torch.no_grad()
def fit_heads(
    network: VAN, states: np.ndarray, p: np.ndarray, *, iterations: int = 60, pull: float = _PULL
) -> tuple[float, float]:
    """Fit the heads of a network to a tabulated law by Newton's method, in place (the hidden part stays).

    states int32 [M, S], p float64 [M] (normalised here). Returns KL(p || q) and the total variation distance, summed
    exactly over the states (what q has elsewhere counts in the distance). See `hpcme.dynamics.likelihood`.
    """
    parameters = HeadParameters(network)
    n, weight = torch.from_numpy(states).to(network.device), torch.from_numpy(p / p.sum()).to(network.device)
    seen = weight > 0.0
    tree = StateTree(parameters, n[seen])
    weight = weight[seen]
    entropy = -float(weight @ weight.log())
    fit_conditionals(parameters, tree, weight, pull=pull, accuracy=1e-2 * _STOP, iterations=iterations)
    return -float(weight @ tree.log_prob()) - entropy, distance_to(network, states, p)


@torch.no_grad()
def distance_to(network: VAN, states: np.ndarray, p: np.ndarray) -> float:
    """Total variation distance of a network and a tabulated law; what the network has elsewhere counts."""
    q = network.log_prob(torch.from_numpy(states).to(network.device)).exp().cpu().numpy()
    return 0.5 * float(np.abs(q - p / p.sum()).sum() + max(0.0, 1.0 - q.sum()))
