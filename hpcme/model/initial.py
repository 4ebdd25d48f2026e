"""Laws of the counts at the start: products of one-species laws, or a joint table."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence

import numpy as np

from hpcme.errors import InputError


class InitialLaw(abc.ABC):
    """Probability law of the starting state, exactly normalised.

    Laws that every implementation keeps (tested): exp(log_prob) sums to 1 over the support; `sample` of
    uniforms has that law; `mean` is the mean over the support; `extent(y)` bounds y.n over the support, and
    both bounds are attained.
    """

    limits: np.ndarray  #: int64 [S], largest count per species

    @property
    def S(self) -> int:
        """Number of species."""
        return len(self.limits)

    @property
    @abc.abstractmethod
    def is_point(self) -> bool:
        """True when the start is one state with probability 1."""

    @abc.abstractmethod
    def support(self, tail: float = 1e-14, max_states: int = 2_000_000) -> tuple[np.ndarray, np.ndarray]:
        """States (int32 [M, S], in lexicographic order) and their probabilities (float64 [M]).

        At most `tail` of probability is cut per species (joint tables: nothing), so p sums to 1 minus what
        was cut. InputError when more than `max_states` states would be needed.
        """

    @abc.abstractmethod
    def sample(self, u: np.ndarray) -> np.ndarray:
        """Counts (int32 [B, S]) from uniforms u in [0, 1) (float64 [B, S]): inverse conditional CDFs, in
        order."""

    @abc.abstractmethod
    def log_prob(self, n: np.ndarray) -> np.ndarray:
        """Log-probability (float64 [B]) of states n [B, S]; -inf outside the support."""

    @abc.abstractmethod
    def mean(self) -> np.ndarray:
        """Mean counts, float64 [S]."""

    @abc.abstractmethod
    def extent(self, y: np.ndarray) -> tuple[int, int]:
        """Smallest and largest value of y.n over the support, for an integer vector y [S]."""

    @abc.abstractmethod
    def varying(self) -> np.ndarray:
        """Integer rows [V, S] with the span of all differences of two states of the support; 0 for a
        point."""


class ProductLaw(InitialLaw):
    """Independent species, each with its own law over the counts 0..limit.

    Parameters
    ----------
    pmfs : one array per species, pmf over 0..limit (float64 [limit+1]), nonnegative, normalised here.
    specs : how each law was written in the model file (a count, or a table such as {"poisson": 1.0}); by
        default the arrays themselves as {"table": [...]}.
    """

    def __init__(self, pmfs: Sequence[np.ndarray], specs: Sequence[int | Mapping] | None = None) -> None:
        self.pmfs = tuple(_frozen_pmf(pmf, f"species {i}") for i, pmf in enumerate(pmfs))
        self.limits = np.array([len(pmf) - 1 for pmf in self.pmfs], dtype=np.int64)
        self.specs = tuple({"table": pmf.tolist()} for pmf in self.pmfs) if specs is None else tuple(specs)

    @property
    def is_point(self) -> bool:
        return all(np.count_nonzero(pmf) == 1 for pmf in self.pmfs)

    def support(self, tail: float = 1e-14, max_states: int = 2_000_000) -> tuple[np.ndarray, np.ndarray]:
        kept = [_without_tails(pmf, tail) for pmf in self.pmfs]
        total = 1
        for counts in kept:
            total *= len(counts)
        if total > max_states:
            raise InputError(
                f"the initial law has {total:.3g} states, more than the {max_states} allowed here; start "
                "from narrower laws or from one state (initial = count), or raise the number of states "
                "allowed"
            )
        grids = np.meshgrid(*kept, indexing="ij")
        states = np.stack([grid.reshape(-1) for grid in grids], axis=1).astype(np.int32)
        p = np.ones(total)
        for i, pmf in enumerate(self.pmfs):
            p *= pmf[states[:, i]]
        return states, p

    def sample(self, u: np.ndarray) -> np.ndarray:
        n = np.empty(u.shape, dtype=np.int32)
        for i, pmf in enumerate(self.pmfs):
            last = int(np.flatnonzero(pmf)[-1])
            n[:, i] = np.minimum(np.searchsorted(np.cumsum(pmf), u[:, i], side="right"), last)
        return n

    def log_prob(self, n: np.ndarray) -> np.ndarray:
        n = np.asarray(n)
        logp = np.zeros(len(n))
        with np.errstate(divide="ignore"):
            for i, pmf in enumerate(self.pmfs):
                inside = (n[:, i] >= 0) & (n[:, i] < len(pmf))
                logp += np.where(inside, np.log(pmf)[np.where(inside, n[:, i], 0)], -np.inf)
        return logp

    def mean(self) -> np.ndarray:
        return np.array([np.arange(len(pmf)) @ pmf for pmf in self.pmfs])

    def extent(self, y: np.ndarray) -> tuple[int, int]:
        low = high = 0
        for weight, pmf in zip(np.asarray(y).tolist(), self.pmfs, strict=True):
            possible = np.flatnonzero(pmf)
            ends = (int(weight) * int(possible[0]), int(weight) * int(possible[-1]))
            low, high = low + min(ends), high + max(ends)
        return low, high

    def varying(self) -> np.ndarray:
        wide = [np.count_nonzero(pmf) > 1 for pmf in self.pmfs]
        return np.eye(self.S, dtype=np.int64)[np.array(wide, dtype=bool)]


class TableLaw(InitialLaw):
    """A joint table: states [M, S] and their probabilities [M], normalised here; those of zero are dropped.

    `states` (int32, in lexicographic order), `p`, and `weights`, the probabilities as they were given.
    """

    def __init__(self, states: np.ndarray, p: np.ndarray, limits: np.ndarray) -> None:
        states = np.asarray(states, dtype=np.int32)
        p = np.asarray(p, dtype=np.float64)
        order = np.lexsort(states.T[::-1])
        order = order[p[order] > 0]
        self.states = _frozen(states[order])
        self.weights = _frozen(p[order])
        self.p = _frozen(self.weights / math.fsum(self.weights))  # the sum does not depend on the order
        self.limits = _frozen(np.asarray(limits, dtype=np.int64))

    @property
    def is_point(self) -> bool:
        return len(self.states) == 1

    def support(self, tail: float = 1e-14, max_states: int = 2_000_000) -> tuple[np.ndarray, np.ndarray]:
        if len(self.states) > max_states:
            raise InputError(
                f"the initial table has {len(self.states)} states, more than the {max_states} allowed here; "
                "raise the number of states allowed, or shorten the table"
            )
        return self.states.copy(), self.p.copy()

    def sample(self, u: np.ndarray) -> np.ndarray:
        cdf = np.concatenate(([0.0], np.cumsum(self.p)))
        low = np.zeros(len(u), dtype=np.int64)  # rows low..high-1 agree with the counts drawn so far
        high = np.full(len(u), len(self.states), dtype=np.int64)
        n = np.empty(u.shape, dtype=np.int32)
        for i in range(self.S):
            target = cdf[low] + u[:, i] * (cdf[high] - cdf[low])
            row = np.clip(np.searchsorted(cdf, target, side="right") - 1, low, high - 1)
            n[:, i] = self.states[row, i]
            starts = np.flatnonzero(
                np.append(True, (np.diff(self.states[:, : i + 1], axis=0) != 0).any(axis=1))
            )
            group = np.searchsorted(starts, row, side="right") - 1
            low = starts[group]
            high = np.append(starts, len(self.states))[group + 1]
        return n

    def log_prob(self, n: np.ndarray) -> np.ndarray:
        n = np.asarray(n)
        both = np.concatenate([self.states.astype(np.int64), n.astype(np.int64)])
        _, inverse = np.unique(both, axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        logp = np.full(int(inverse.max()) + 1, -np.inf)
        logp[inverse[: len(self.states)]] = np.log(self.p)
        return logp[inverse[len(self.states) :]]

    def mean(self) -> np.ndarray:
        return self.p @ self.states

    def extent(self, y: np.ndarray) -> tuple[int, int]:
        values = self.states.astype(np.int64) @ np.asarray(y, dtype=np.int64)
        return int(values.min()), int(values.max())

    def varying(self) -> np.ndarray:
        differences = (self.states[1:] - self.states[0]).astype(np.int64)
        return (
            differences.T @ differences
        )  # the same row space in S rows, and exact: entries stay far below 2**63


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


def _frozen_pmf(pmf: np.ndarray, who: str) -> np.ndarray:
    pmf = np.array(pmf, dtype=np.float64)
    if pmf.ndim != 1 or len(pmf) == 0 or not np.isfinite(pmf).all() or (pmf < 0).any() or pmf.sum() <= 0:
        raise InputError(
            f"the initial law of {who} must be a list of finite, nonnegative probabilities of the counts 0, "
            "1, 2, ... with a positive sum"
        )
    return _frozen(pmf / pmf.sum())


def _without_tails(pmf: np.ndarray, tail: float) -> np.ndarray:
    """Counts with positive probability, less the two ends that hold at most `tail` together."""
    counts = np.flatnonzero(pmf)
    low = np.cumsum(pmf[counts])
    high = np.cumsum(pmf[counts][::-1])[::-1]
    kept = counts[(low > tail / 2) & (high > tail / 2)]
    return kept if len(kept) else counts[[int(np.argmax(pmf[counts]))]]
