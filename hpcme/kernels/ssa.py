"""Exact trajectories: the direct method of Gillespie (J. Phys. Chem. 81, 2340, 1977), one random stream per
trajectory.

Counts have no upper limit here. Where rates read the time, the waiting time solves int_t^(t+tau) a0 ds = E, E
exponential, for the state held fixed: the integral is taken by adaptive Gauss-Legendre pieces, and the root
in the last piece by Newton steps safeguarded with bisection. Nothing is discretised in between, so the law is
exact up to the quadrature (1e-10).
"""

from __future__ import annotations

import math

import numba
import numpy as np

from hpcme.kernels.compiling import hot, parallel
from hpcme.kernels.propensity import propensity
from hpcme.kernels.randomness import next_uniform, seed_stream
from hpcme.model.tables import OPCODES, PropensityTables

_LARGEST_COUNT = 2**31 - 1
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_NODES, _WEIGHTS = (_NODES + 1.0) / 2.0, _WEIGHTS / 2.0
#: A piece is accepted when one 8-point rule and two on its halves agree to this (relative, or absolute in
#: jumps).
_AGREE = 1e-10
#: Longest piece, as a part of the simulated time: a pulse shorter than this can be missed where all rates
#: vanish.
_LONGEST_PIECE = 1 / 64
#: What `events` holds, instead of a number of events, for trajectories that were given up.
TOO_MANY_EVENTS, TOO_LARGE_COUNT, BAD_PROPENSITY = -1, -2, -3


@hot
def _can_fire(n, change):
    for i in range(n.shape[0]):  # noqa: SIM110 (a generator would not compile to a plain loop)
        if n[i] + change[i] < 0:
            return False
    return True


@hot
def _update(tables, s, n, t, stack, a, first, last, affected):
    """Recompute a[k] for k in affected[first:last]; False when one is negative or not finite."""
    good = True
    for j in range(first, last):
        k = affected[j]
        a[k] = propensity(tables, k, n, t, stack) if _can_fire(n, s[k]) else 0.0
        if not (a[k] >= 0.0 and a[k] < np.inf):
            good = False
    return good


@hot
def _timed_rate(tables, s, n, t, stack, timed):
    """Summed propensity of the reactions that read the time; NaN when one is negative or not finite."""
    total = 0.0
    for j in range(timed.shape[0]):
        k = timed[j]
        if _can_fire(n, s[k]):
            x = propensity(tables, k, n, t, stack)
            total += x if x >= 0.0 else np.nan
    return total


@hot
def _timed_integral(tables, s, n, t0, t1, stack, timed):
    total = 0.0
    for j in range(8):
        total += _WEIGHTS[j] * _timed_rate(tables, s, n, t0 + _NODES[j] * (t1 - t0), stack, timed)
    return total * (t1 - t0)


@hot
def _root(tables, s, n, t0, t1, plain, need, area, stack, timed):
    """The time in [t0, t1] by which the integral of plain + timed rate reaches `need` <= area, the
    integral up to t1.
    """
    low, high = t0, t1
    t = t0 + (t1 - t0) * need / area  # exact when the rate is constant
    for _ in range(100):
        value = plain * (t - t0) + _timed_integral(tables, s, n, t0, t, stack, timed) - need
        if abs(value) <= _AGREE * 1e-2:
            break
        if value > 0.0:
            high = t
        else:
            low = t
        slope = plain + _timed_rate(tables, s, n, t, stack, timed)
        new = t - value / slope if slope > 0.0 else low
        if not (low < new < high):
            new = 0.5 * (low + high)
            if new in (low, high):
                break
        t = new
    return t


@hot
def _waiting_end(tables, s, n, t, end, plain, need, longest, stack, timed, guess):
    """Time of the next event, or np.inf when it lies after `end`; NaN for a bad propensity.

    guess[0] is the length of the piece to try first; it is adapted.
    """
    piece = min(guess[0], longest)
    while t < end:
        piece = min(piece, end - t)
        whole = _timed_integral(tables, s, n, t, t + piece, stack, timed)
        left = _timed_integral(tables, s, n, t, t + 0.5 * piece, stack, timed)
        both = left + _timed_integral(tables, s, n, t + 0.5 * piece, t + piece, stack, timed)
        if whole != whole or both != both:
            return np.nan
        if abs(whole - both) > _AGREE * max(1.0, both) and piece > 1e-12 * (abs(t) + longest):
            piece *= 0.25
            continue
        total = both + plain * piece
        if total >= need:
            guess[0] = piece
            half = left + 0.5 * plain * piece
            middle = t + 0.5 * piece
            if half >= need:
                return _root(tables, s, n, t, middle, plain, need, half, stack, timed)
            return _root(tables, s, n, middle, t + piece, plain, need - half, total - half, stack, timed)
        need -= total
        t += piece
        piece = min(2.0 * piece, longest)
    guess[0] = piece
    return np.inf


@hot
def _choose(a, target):
    """The reaction whose stretch of the cumulated propensities holds `target`; the last positive one at
    the end.
    """
    chosen = -1
    for k in range(a.shape[0]):
        if a[k] > 0.0:
            chosen = k
            target -= a[k]
            if target < 0.0:
                break
    return chosen


@hot
def _record(out, i, column, n):
    """Store the state for report time i; False when a count does not fit int32."""
    for j in range(n.shape[0]):
        if n[j] > _LARGEST_COUNT:
            return False
        out[i, column, j] = n[j]
    return True


@hot
def _trajectory(
    tables, s, t0, times, max_events, graph, timed, longest, stream, stack, a, n, guess, out, column
):
    """One trajectory from n (int64 [S], overwritten); writes out[:, column, :]; number of events or a
    failure code.
    """
    ptr, affected, everything = graph
    R = s.shape[0]
    t, events, i = t0, 0, 0
    if not _update(tables, s, n, t, stack, a, 0, R, everything):
        return BAD_PROPENSITY
    while i < times.shape[0]:
        plain = 0.0
        for k in range(R):
            if not tables.uses_t[k]:
                plain += a[k]
        need = -math.log1p(-next_uniform(stream))
        if timed.shape[0]:
            at = _waiting_end(
                tables, s, n, t, times[times.shape[0] - 1], plain, need, longest, stack, timed, guess
            )
            if at != at:
                return BAD_PROPENSITY
        else:
            at = t + need / plain if plain > 0.0 else np.inf
        while i < times.shape[0] and times[i] < at:
            if not _record(out, i, column, n):
                return TOO_LARGE_COUNT
            i += 1
        if i == times.shape[0]:
            break
        if events >= max_events:
            return TOO_MANY_EVENTS
        t = at
        if timed.shape[0] and not _update(tables, s, n, t, stack, a, 0, timed.shape[0], timed):
            return BAD_PROPENSITY
        total = 0.0
        for k in range(R):
            total += a[k]
        k = _choose(a, next_uniform(stream) * total)
        if k < 0:  # all rates vanish just here (rounding at the edge of a switched rate)
            continue
        for j in range(n.shape[0]):
            n[j] += s[k, j]
        events += 1
        if not _update(tables, s, n, t, stack, a, ptr[k], ptr[k + 1], affected):
            return BAD_PROPENSITY
    return events


@hot
def _some(
    tables, s, n0, times, t0, seed, first, max_events, graph, timed, longest, work, out, events, begin, end
):
    stream, stack, a, n, guess = work
    for i in range(begin, end):
        seed_stream(stream, seed, first + i)
        guess[0] = longest
        for j in range(n.shape[0]):
            n[j] = n0[i, j]
        events[i] = _trajectory(
            tables, s, t0, times, max_events, graph, timed, longest, stream, stack, a, n, guess, out, i
        )


@parallel
def _all(tables, s, n0, times, t0, seed, first, max_events, graph, timed, longest, out, events, chunk):
    for task in numba.prange((n0.shape[0] + chunk - 1) // chunk):
        work = (
            np.empty(4, np.uint64),
            np.empty(tables.depth),
            np.empty(s.shape[0]),
            np.empty(s.shape[1], np.int64),
            np.empty(1),
        )
        end = min((task + 1) * chunk, n0.shape[0])
        _some(
            tables,
            s,
            n0,
            times,
            t0,
            seed,
            first,
            max_events,
            graph,
            timed,
            longest,
            work,
            out,
            events,
            task * chunk,
            end,
        )


def dependency_graph(tables: PropensityTables, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which propensities to recompute after each reaction: (ptr int64 [R+1], affected int64 [E], 0..R-1).

    Reaction j is affected by k when k changes a species that j's propensity reads, or that j itself changes
    (whether it can fire depends on it), and when j reads the time.
    """
    R = s.shape[0]
    reads = s != 0
    for k in range(R):
        reads[k, tables.re_sp[tables.re_ptr[k] : tables.re_ptr[k + 1]]] = True
        code = slice(int(tables.code_ptr[k]), int(tables.code_ptr[k + 1]))
        used = tables.op[code] == OPCODES["SPECIES"]
        reads[k, tables.arg[code][used].astype(np.int64)] = True
    lists = [np.flatnonzero((reads & (s[k] != 0)).any(axis=1) | tables.uses_t) for k in range(R)]
    ptr = np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64)
    return ptr, np.concatenate([*lists, np.zeros(0)]).astype(np.int64), np.arange(R, dtype=np.int64)


def simulate(
    tables: PropensityTables,
    s: np.ndarray,
    n0: np.ndarray,
    times: np.ndarray,
    t0: float = 0.0,
    seed: int = 0,
    first_index: int = 0,
    max_events: int = 1_000_000_000,
) -> tuple[np.ndarray, np.ndarray]:
    """Trajectories from the states n0 (int32 [N, S]) at time t0, looked at at `times` (float64 [T],
    increasing, >= t0).

    Trajectory i uses the random stream (seed, first_index + i) and nothing else. Returns samples int32 [T, N,
    S], the state at each time, and events int64 [N], the number of reactions that fired; instead of it
    TOO_MANY_EVENTS (more than max_events), TOO_LARGE_COUNT (a count above 2^31 - 1 at a report) or
    BAD_PROPENSITY (negative or not finite), and then the samples of that trajectory from there on are not to
    be used.
    """
    n0 = np.ascontiguousarray(n0, dtype=np.int32)
    times = np.ascontiguousarray(times, dtype=np.float64)
    samples = np.zeros((len(times), *n0.shape), dtype=np.int32)
    events = np.zeros(len(n0), dtype=np.int64)
    if len(times) == 0 or len(n0) == 0:
        return samples, events
    graph = dependency_graph(tables, s)
    timed = np.flatnonzero(tables.uses_t).astype(np.int64)
    longest = max((float(times[-1]) - t0) * _LONGEST_PIECE, 1e-300)
    chunk = max(1, min(64, len(n0) // (4 * numba.get_num_threads())))
    _all(
        tables,
        s,
        n0,
        times,
        float(t0),
        seed,
        first_index,
        max_events,
        graph,
        timed,
        longest,
        samples,
        events,
        chunk,
    )
    return samples, events
