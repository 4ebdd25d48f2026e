"""The joint law of a run at one time, whatever kind of run it is: .sample(N, seed), .log_prob(n)."""

from __future__ import annotations

import numpy as np

from hpcme.errors import InputError
from hpcme.kernels.dedup import StateTable
from hpcme.store.reader import Run

_BATCH = 1 << 15


class TabulatedLaw:
    """A law given by its states int32 [M,S] (each once) and probabilities p float64 [M] (sum at most 1)."""

    def __init__(self, states: np.ndarray, p: np.ndarray) -> None:
        self.states = np.ascontiguousarray(states, dtype=np.int32)
        self.p = np.maximum(np.asarray(p, dtype=np.float64), 0.0)
        self._table = StateTable(self.states.shape[1])
        self._table.add(self.states)

    def log_prob(self, n: np.ndarray) -> np.ndarray:
        """Log-probabilities float64 [N] of states n [N,S]; -inf for a state that is not in the table."""
        where = self._table.find(np.ascontiguousarray(n, dtype=np.int32))
        with np.errstate(divide="ignore"):
            return np.where(where >= 0, np.log(self.p[where]), -np.inf)

    def sample(self, N: int, seed: int = 0) -> np.ndarray:
        """N independent states int32 [N,S] of the law conditioned on its table; a function of the seed."""
        total = np.cumsum(self.p)
        u = np.random.default_rng(seed).random(N) * total[-1]
        return self.states[np.searchsorted(total, u, side="right").clip(max=len(total) - 1)]


class BoxedLaw:
    """A network's law: zero outside 0..limits, and evaluated in batches, for any number of states."""

    def __init__(self, law, limits: np.ndarray) -> None:
        self._law = law
        self._limits = np.asarray(limits, dtype=np.int64)

    def log_prob(self, n: np.ndarray) -> np.ndarray:
        """Log-probabilities float64 [N] of integer states n [N,S]; -inf outside the limits."""
        n = np.asarray(n)
        inside = ((n >= 0) & (n <= self._limits)).all(axis=1)
        found = np.full(len(n), -np.inf)
        rows = np.flatnonzero(inside)
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            found[part] = np.asarray(
                self._law.log_prob(np.ascontiguousarray(n[part], dtype=np.int32)), dtype=np.float64
            )
        return found

    def sample(self, N: int, seed: int = 0) -> np.ndarray:
        """N independent states int32 [N,S]; a function of the seed alone."""
        return self._law.sample(N, seed=seed)


def law_of(run: Run, t: float | None = None) -> TabulatedLaw | BoxedLaw:
    """The joint law of an exact or network run at time t. Raises InputError for trajectory runs."""
    if run.kind == "fsp":
        return TabulatedLaw(run.fsp_states(), run.probability(t))
    if run.kind == "ssa":
        raise InputError(
            f"{run.path} holds trajectories (kind ssa): they give samples, but no probabilities of states."
            " Fix: use a run made by hpcme run or hpcme fsp."
        )
    return BoxedLaw(run.network(t), run.limits)
