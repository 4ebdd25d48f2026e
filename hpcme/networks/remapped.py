"""The law right after events: what they make of a network's law, sampled and evaluated without any fit."""

from __future__ import annotations

import math

import numpy as np
import torch

from hpcme.errors import InputError
from hpcme.model.event import events_at, species_set
from hpcme.model.network import ReactionNetwork
from hpcme.networks.base import VAN

#: Counts of the species that the events set, all together, that are tried as the state before; rows evaluated at once.
_MOST, _ROWS = 1_000_000, 50_000


class RemappedLaw:
    """The law of n' = f(n) for n drawn from a network's law, f being the events of time t, on condition that n' lies
    within the limits; lost is the probability that it does not."""

    def __init__(self, net: ReactionNetwork, before: VAN, t: float, lost: float) -> None:
        self.net, self.before, self.t, self.lost, self.limits = net, before, t, lost, net.limits

    def sample(self, u: np.ndarray) -> np.ndarray:
        """States int32 [N, S] from uniforms float64 [N, S] in [0, 1), a function of them alone."""
        out = np.zeros(u.shape, dtype=np.int32)
        missing = np.arange(len(u))
        again = np.random.default_rng(np.ascontiguousarray(u[:1]).view(np.uint64).reshape(-1))
        while len(missing):
            found, inside = self.moved(u)
            out[missing[inside]] = found[inside]
            missing = missing[~inside]
            u = again.random((len(missing), u.shape[1]))
        return out

    def moved(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f(n), int32 [N, S], for the states that uniforms [N, S] give, and whether it lies within the limits [N]."""
        parts = torch.from_numpy(np.ascontiguousarray(u)).to(self.before.device).split(_ROWS)
        n = np.concatenate([self.before.sample(part)[0].cpu().numpy() for part in parts])
        moved = self.net.remap(n, events_at(self.net, self.t))
        return moved.astype(np.int32), (moved <= self.limits).all(axis=1)

    def log_prob(self, n: np.ndarray) -> np.ndarray:
        """Natural log-probabilities float64 [N] of states n int [N, S]: sums over all states before that lead there.

        Raises InputError where the events set so many counts that their states before are too many to try.
        """
        n = np.asarray(n, dtype=np.int64)
        events = events_at(self.net, self.t)
        columns = sorted(self.net.species.index(name) for name in species_set(events))
        sizes = [int(self.limits[i]) + 1 for i in columns]
        if math.prod(sizes) > _MOST:
            raise InputError(
                f"the law right after the events of t = {self.t:g} sums over {math.prod(sizes):.3g} states before for "
                "each state, more than a million: its log-probabilities are not available. Fix: ask for a later time"
            )
        grid = np.stack([c.reshape(-1) for c in np.meshgrid(*map(np.arange, sizes), indexing="ij")], axis=1)
        each = max(1, _ROWS // len(grid))
        parts = [self._log_prob(n[k : k + each], grid, columns, events) for k in range(0, len(n), each)]
        return np.concatenate([*parts, np.zeros(0)]) - math.log1p(-self.lost)

    def _log_prob(self, n: np.ndarray, grid: np.ndarray, columns: list[int], events) -> np.ndarray:
        inside = ((n >= 0) & (n <= self.limits)).all(axis=1)
        tried = np.repeat(np.where(inside[:, None], n, 0), len(grid), axis=0)
        tried[:, columns] = np.tile(grid, (len(n), 1))
        with torch.no_grad():
            logq = self.before.log_prob(torch.from_numpy(tried).to(self.before.device)).cpu().numpy()
        possible = np.isfinite(logq)  # events need mean nothing in states that are never taken
        leads = np.zeros(len(tried), dtype=bool)
        target = np.repeat(n, len(grid), axis=0)[possible]
        leads[possible] = (self.net.remap(tried[possible], events) == target).all(axis=1)
        logq = np.where(leads, logq, -np.inf).reshape(len(n), len(grid))
        return np.where(inside, np.logaddexp.reduce(logq, axis=1), -np.inf)
