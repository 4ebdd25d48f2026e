"""What leaves through automatic limits, species by species: the sign that they are too small."""

from __future__ import annotations

import itertools

import numpy as np

from hpcme.kernels.propensity import propensities
from hpcme.model.network import ReactionNetwork

_ROWS = 4096  # border states looked at at a time


class Borders:
    """The limits of a network that may grow: names, length G; limits of other species are the user's walls."""

    def __init__(self, net: ReactionNetwork, grows: np.ndarray) -> None:
        """grows: bool [S]."""
        self.net, self.grows = net, np.asarray(grows, dtype=bool)
        self.names = list(itertools.compress(net.species, self.grows))

    @classmethod
    def of(cls, job) -> Borders:
        """Those of a job; none where it has no automatic limits."""
        none = np.zeros(job.net.S, dtype=bool)
        return cls(job.net, none if job.limits is None else job.limits.grows)

    def rates(self, n: np.ndarray, leak: np.ndarray, t: float) -> np.ndarray:
        """Rate of leaving states n int32 [B, S] through each of the limits at time t, float64 [B, G].

        leak float64 [B]: the rate of leaving through all limits (`kernels.neighbours.outflow`). A transition past a
        user's wall counts for the wall alone.
        """
        rates = np.zeros((len(n), len(self.names)))
        rows = np.flatnonzero(leak > 0.0) if self.names else []
        for begin in range(0, len(rows), _ROWS):
            some = rows[begin : begin + _ROWS]
            lands = n[some].astype(np.int64)[:, None, :] + self.net.s
            past = lands > self.net.limits
            counted = (lands >= 0).all(axis=2) & ~past[:, :, ~self.grows].any(axis=2)
            a = np.where(counted, propensities(self.net.tables, np.ascontiguousarray(n[some]), t), 0.0)
            rates[some] = np.einsum("bk,bkg->bg", a, past[:, :, self.grows].astype(np.float64))
        return rates
