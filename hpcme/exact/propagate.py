"""exp(t A) applied to a law, for a generator A with constant rates: three methods and a choice of them.

With w = Lambda t, Lambda the largest exit rate, P = I + A / Lambda is stochastic; exp(t A) = exp(w (P - I)).

* uniformisation (Jensen 1953): Poisson mixture of powers of P. Only nonnegative numbers are added, so every
  probability, however small, keeps its relative accuracy. Lambda t products.
* dense: the same series for a short time, squared until the time is reached; also positive. For small sets at
  high rates.
* Chebyshev: exp(w (z - 1)) = e^-w [I_0(w) + 2 sum_m I_m(w) T_m(z)] on the spectrum of P in [-1, 1], about
  sqrt(70 w) products instead of w. For stiff sets. The T_m(P) p are watched: where the chain is far from
  reversible they grow, and steps are shortened, down to where uniformisation is as good and takes over.
  Errors are absolute (about 1e-13 per step), not relative.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numba
import numpy as np
import scipy.sparse
import scipy.special

from hpcme.errors import InputError
from hpcme.exact.statespace import Generator
from hpcme.kernels.compiling import hot, parallel

METHODS = ("uniformisation", "dense", "chebyshev")

#: Poisson weights below this fraction of the largest are cut; jumps of one Poisson mixture.
_SMALLEST_WEIGHT, _LONGEST_WALK = 1e-24, 1e6
#: Chebyshev series: the smallest coefficient kept, and the norm of a term at which it ends.
_SMALLEST_COEFFICIENT, _SMALLEST_TERM = 1e-24, 1e-17
#: The largest norm of a term that is accepted, the one that invites longer steps, the step that pays no
#: longer (300 products for 400 jumps), and how far uniformisation then goes before another try.
_MOST_GROWTH, _LITTLE_GROWTH, _SHORTEST_STEP, _FIRST_WALK = 1e3, 10.0, 400.0, 5000.0
#: Smaller numbers are set to zero: arithmetic with subnormal ones is a hundred times slower.
_NOTHING = 1e-290
#: Entries of one parallel task, and the matrix size from which threads pay (on a busy machine a barrier costs
#: milliseconds).
_TASK, PARALLEL_ENTRIES = 65_536, 1_500_000
#: Assumed speed: seconds per matrix entry and per product (for choosing a method only).
_ENTRY_SECONDS, _PRODUCT_SECONDS, _FLOP_SECONDS = 1.3e-9, 1.0e-6, 1.0 / 2e10
#: Uniformisation is kept (for its relative accuracy) up to this many estimated seconds.
_PATIENCE = 5.0


@hot
def _rows(ptr, column, value, v, y, acc, scale, keep, weight, begin, end):
    """y = scale * P v + keep * y and acc += weight * y, for rows begin..end."""
    for i in range(begin, end):
        x = 0.0
        for e in range(ptr[i], ptr[i + 1]):
            x += value[e] * v[column[e]]
        x = scale * x + keep * y[i]
        if -_NOTHING < x < _NOTHING:
            x = 0.0
        y[i] = x
        acc[i] += weight * x


@hot
def _products(ptr, column, value, pair, acc, scale, keep, weights):
    """One product per weight, v and y taking turns in pair [2, M+1] (the newest is pair[len(weights) %
    2]).
    """
    for j in range(weights.shape[0]):
        v, y = pair[j % 2], pair[(j + 1) % 2]
        _rows(ptr, column, value, v, y, acc, scale, keep, weights[j], 0, ptr.shape[0] - 1)


@parallel
def _products_parallel(ptr, column, value, pair, acc, scale, keep, weights, tasks):
    for j in range(weights.shape[0]):
        v, y = pair[j % 2], pair[(j + 1) % 2]
        for task in numba.prange(tasks.shape[0] - 1):
            _rows(ptr, column, value, v, y, acc, scale, keep, weights[j], tasks[task], tasks[task + 1])


class Race:
    """Chooses between two ways to the same numbers by their speed; the slower one is tried again at times.

    Threads pay on a machine of one's own; on a busy one every barrier can cost a time slice, ten times the
    work.
    """

    def __init__(self) -> None:
        self._seconds = [0.0, 0.0]  # per piece of work, newest measurement; untried ways look best
        self._runs = 0

    def run(self, first: Callable[[], None], second: Callable[[], None], work: int) -> None:
        """Do `work` pieces by one of the two ways."""
        self._runs += 1
        way = 0 if self._seconds[0] <= self._seconds[1] else 1
        if self._runs % 16 == 0:
            way = 1 - way
        start = time.perf_counter()
        (first, second)[way]()
        self._seconds[way] = (time.perf_counter() - start) / work


class Propagator:
    """Advances laws over a state set and its sink (float64 [M+1]) in time by a constant generator.

    method : "uniformisation", "dense" or "chebyshev"; by default the cheapest, with a preference for the two
    positive ones. `advance(p, dt)` returns exp(dt A) p. progress: function of the fraction of dt done, or
    None.
    """

    def __init__(
        self, generator: Generator, total_time: float, steps: int, method: str | None = None
    ) -> None:
        self.rate = generator.rate
        self.size = generator.matrix.shape[0]
        identity = scipy.sparse.eye_array(self.size, format="csr")
        P = (identity + generator.matrix / self.rate).tocsr() if self.rate > 0 else identity.tocsr()
        self._P = P
        self._ptr = P.indptr.astype(np.int64)
        self._column, self._value = P.indices.astype(np.int32), P.data
        self._tasks, self._race = equal_tasks(self._ptr), Race()
        self._product_seconds = _PRODUCT_SECONDS + _ENTRY_SECONDS * len(self._value)
        if method is not None and method not in METHODS:
            raise InputError(
                f'method = "{method}" of the exact solver is not known; allowed are {", ".join(METHODS)}'
            )
        self.method = method or self._cheapest(total_time, steps)
        self._dense: dict[float, np.ndarray] = {}
        # Chebyshev step in units of 1 / rate, adapted on the way; the walk by uniformisation where it does
        # not pay.
        self.restart(0.0)

    def restart(self, t: float) -> None:
        """Forget what earlier calls of `advance` taught: the next result depends on its arguments alone. The rates are
        constant, so the time t says nothing here."""
        self._step, self._walk, self._since_failure = 1024.0, _FIRST_WALK, 6

    def _cheapest(self, total_time: float, steps: int) -> str:
        jumps = self.rate * total_time
        gap = jumps / max(steps, 1)
        uniform = (jumps + steps * 10 * np.sqrt(gap + 1)) * self._product_seconds
        squarings = np.log2(max(gap, 1.0)) + 1
        dense = steps * squarings * 2.0 * self.size**3 * _FLOP_SECONDS
        if self.size <= 3000 and dense < 0.5 * uniform and uniform > 0.02:
            return "dense"
        return "chebyshev" if uniform > _PATIENCE and gap > 4 * _SHORTEST_STEP else "uniformisation"

    def advance(
        self, p: np.ndarray, dt: float, progress: Callable[[float], None] | None = None
    ) -> np.ndarray:
        """exp(dt A) p for a law p (float64 [M+1], the sink last); dt in model time units, dt >= 0."""
        if self.rate == 0.0 or dt == 0.0:
            return p.copy()
        progress = progress or (lambda fraction: None)
        if self.method == "dense":
            return self._matrix(dt) @ p
        if self.method == "uniformisation":
            return self._uniformise(p, self.rate * dt, progress)
        return self._chebyshev(p, self.rate * dt, progress)

    def _run(self, pair: np.ndarray, acc: np.ndarray, scale: float, keep: float, weights: np.ndarray) -> None:
        args = (self._ptr, self._column, self._value, pair, acc, scale, keep, weights)
        if len(self._value) < PARALLEL_ENTRIES or numba.get_num_threads() == 1:
            _products(*args)
        else:
            self._race.run(
                lambda: _products(*args), lambda: _products_parallel(*args, self._tasks), len(weights)
            )
        if len(weights) % 2:
            pair[:] = pair[::-1].copy()

    def _block(self) -> int:
        """Products per call: about 50 ms of work, an even number."""
        return 2 * max(1, int(0.025 / self._product_seconds))

    def _uniformise(self, p: np.ndarray, w: float, progress: Callable[[float], None]) -> np.ndarray:
        """exp(w (P - I)) p, in pieces that keep the list of weights short."""
        pieces = int(np.ceil(w / _LONGEST_WALK))
        for i in range(pieces):

            def part(fraction: float, i: int = i) -> None:
                progress((i + fraction) / pieces)

            p = self._uniformise_piece(p, w / pieces, part)
        return p

    def _uniformise_piece(self, p: np.ndarray, w: float, progress: Callable[[float], None]) -> np.ndarray:
        first, weights = poisson_weights(w)
        pair = np.stack([p, np.zeros_like(p)])
        acc = weights[0] * p if first == 0 else np.zeros_like(p)
        all_weights = np.concatenate([np.zeros(max(first - 1, 0)), weights[1 if first == 0 else 0 :]])
        done, block = 0, self._block()
        while done < len(all_weights):
            now = all_weights[done : done + block]
            self._run(pair, acc, 1.0, 0.0, now)
            done += len(now)
            left = len(all_weights) - done
            # ||P d||_1 <= ||d||_1, so all later iterates stay within left * ||last change||_1 of this one.
            if left and left * np.abs(pair[0] - pair[1]).sum() < 1e-14:
                acc += all_weights[done:].sum() * pair[0]
                break
            progress(done / len(all_weights))
        return acc * (p.sum() / acc.sum())  # P keeps the sum; this removes the drift of many rounded products

    def _matrix(self, dt: float) -> np.ndarray:
        """exp(dt A) as a dense column-stochastic matrix; kept, since report times are mostly equally
        spaced.
        """
        key = float(f"{dt:.12g}")
        if key not in self._dense:
            w = self.rate * dt
            squarings = max(0, int(np.ceil(np.log2(w / 0.5))))
            w /= 2.0**squarings
            identity = np.eye(self.size)
            E = identity.copy()
            for j in range(
                16, 0, -1
            ):  # Horner form of sum_j w^j/j! P^j; the rest is below 0.5^17/17! = 2e-20
                E = identity + (w / j) * (self._P @ E)
            E /= E.sum(axis=0)
            for _ in range(squarings):
                E = E @ E
                E /= E.sum(
                    axis=0
                )  # columns sum to 1 exactly; without this, rounding errors double in every squaring
            if len(self._dense) >= 4:
                self._dense.clear()
            self._dense[key] = E
        return self._dense[key]

    def _chebyshev(self, p: np.ndarray, w: float, progress: Callable[[float], None]) -> np.ndarray:
        done = 0.0
        while done < w * (1 - 1e-14):
            left = w - done
            if self._step < _SHORTEST_STEP and left > 0.5 * self._step:
                # The series does not pay here: walk on by uniformisation, then try again, more and more
                # rarely.
                step = min(left, self._walk)
                p = self._uniformise(p, step, lambda fraction: None)
                self._step, self._walk = 2 * _SHORTEST_STEP, 2 * self._walk
            else:
                step = left if left <= self._step else min(self._step, left / 2)
                new, growth = self._chebyshev_step(p, step)
                if growth > _MOST_GROWTH:
                    self._step, self._since_failure = step / 2, 0
                    continue
                self._since_failure += 1
                self._walk = _FIRST_WALK
                if growth < _LITTLE_GROWTH and step > 0.9 * self._step and self._since_failure > 6:
                    self._step = 2 * step
                p = np.maximum(new, 0.0)
                p /= p.sum()
            done += step
            progress(done / w)
        return p

    def _chebyshev_step(self, p: np.ndarray, w: float) -> tuple[np.ndarray, float]:
        """exp(w (P - I)) p, and the largest l1 norm of a term c_m T_m(P) p: rounding errors are about
        1e-16 times that.
        """
        c = chebyshev_coefficients(w)
        acc = c[0] * p
        pair = np.stack([p, np.zeros_like(p)])
        self._run(pair, acc, 1.0, 0.0, c[1:2])  # pair: T_1 p, T_0 p
        growth, done, block = 1.0, 2, min(self._block(), 32)
        while done < len(c):
            now = c[done : done + block]
            self._run(pair, acc, 2.0, -1.0, now)
            done += len(now)
            term = float(now[-1] * np.abs(pair).sum(axis=1).max())
            growth = max(growth, term if np.isfinite(term) else np.inf)
            if growth > _MOST_GROWTH or (term < _SMALLEST_TERM and done > np.sqrt(w)):
                return acc, growth
        return acc, np.inf if term > 1e3 * _SMALLEST_TERM else growth


def equal_tasks(ptr: np.ndarray) -> np.ndarray:
    """Row boundaries int64 [tasks+1] that give every task about _TASK entries."""
    count = max(1, int(ptr[-1]) // _TASK)
    inner = np.searchsorted(ptr, np.linspace(0, ptr[-1], count + 1)[1:-1])
    return np.unique(np.concatenate([[0], inner, [len(ptr) - 1]])).astype(np.int64)


def poisson_weights(w: float) -> tuple[int, np.ndarray]:
    """(first, weights): Poisson(w) probabilities of first, first + 1, ..., cut below 1e-24 of the largest and
    normalised.

    Built outwards from the mode by ratios (Fox and Glynn, Commun. ACM 31, 440, 1988), so none underflows.
    """
    mode = int(w)
    reach = int(12 * np.sqrt(w + 10) + 40)
    down = np.cumprod(np.arange(mode, max(mode - reach, 0), -1) / w)
    up = np.cumprod(w / np.arange(mode + 1, mode + reach + 1))
    weights = np.concatenate([down[::-1], [1.0], up])
    first = mode - len(down)
    kept = np.flatnonzero(weights > _SMALLEST_WEIGHT)
    weights = weights[kept[0] : kept[-1] + 1]
    return first + int(kept[0]), weights / weights.sum()


def chebyshev_coefficients(w: float) -> np.ndarray:
    """Coefficients of exp(w (z - 1)) = sum_m c_m T_m(z) on [-1, 1]: c_m = (2 - [m = 0]) e^-w I_m(w), cut
    below 1e-24.
    """
    most = int(12 * np.sqrt(w + 30) + 40)
    c = 2.0 * scipy.special.ive(np.arange(most + 1), w)
    c[0] /= 2.0
    return c[: max(3, int(np.flatnonzero(c > _SMALLEST_COEFFICIENT)[-1]) + 1)]
