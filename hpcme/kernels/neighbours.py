"""The states one reaction away: n - s_k (incoming) and n + s_k (outgoing), inside the box 0 <= n <= limits.

Limits rule of the network solver (a reflecting box): a transition n -> n + s_k for which any count becomes
negative or passes its limit has propensity zero. A transition to a negative count never fires anywhere; the
propensity of a transition past a limit is what the box neglects, and `outflow` returns it as the leak.
"""

from __future__ import annotations

import numba
import numpy as np

from hpcme.kernels.compiling import CHUNK, PARALLEL_FROM, device, hot, parallel
from hpcme.kernels.propensity import propensity_mean
from hpcme.model.tables import PropensityTables

INSIDE, NEGATIVE, ABOVE = 0, 1, 2


@device
def where_lands(n_row, s_row, sign, limits):
    """INSIDE, NEGATIVE (some count below 0) or ABOVE (none below 0, some past its limit) for n_row + sign
    * s_row.
    """
    above = False
    for i in range(n_row.shape[0]):
        y = n_row[i] + sign * s_row[i]
        if y < 0:
            return NEGATIVE
        if y > limits[i]:
            above = True
    return ABOVE if above else INSIDE


@hot
def _padded(n, s, limits, sign, begin, end, y, inside):
    for b in range(begin, end):
        for k in range(s.shape[0]):
            ok = where_lands(n[b], s[k], sign, limits) == INSIDE
            inside[b, k] = ok
            for i in range(n.shape[1]):
                y[b, k, i] = n[b, i] + sign * s[k, i] if ok else n[b, i]


@parallel
def _padded_parallel(n, s, limits, sign, y, inside):
    for chunk in numba.prange((n.shape[0] + CHUNK - 1) // CHUNK):
        _padded(n, s, limits, sign, chunk * CHUNK, min((chunk + 1) * CHUNK, n.shape[0]), y, inside)


def _neighbours(n, s, limits, sign):
    n = np.ascontiguousarray(n, dtype=np.int32)
    y = np.empty((n.shape[0], s.shape[0], n.shape[1]), dtype=np.int32)
    inside = np.empty((n.shape[0], s.shape[0]), dtype=np.bool_)
    if n.shape[0] >= PARALLEL_FROM:
        _padded_parallel(n, s, limits, sign, y, inside)
    else:
        _padded(n, s, limits, sign, 0, n.shape[0], y, inside)
    return y, inside


def incoming(n: np.ndarray, s: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States y = n - s_k from which reaction k leads to n.

    n int32 [B, S], s int64 [R, S], limits int64 [S] -> y int32 [B, R, S], inside bool [B, R]. Where n - s_k
    is outside 0..limits, inside is False and y repeats n (padding that is safe to evaluate).
    """
    return _neighbours(n, s, limits, -1)


def outgoing(n: np.ndarray, s: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States y = n + s_k to which reaction k leads from n; shapes and padding as `incoming`."""
    return _neighbours(n, s, limits, 1)


@hot
def _count(n, s, limits, sign, ptr):
    ptr[0] = 0
    for b in range(n.shape[0]):
        inside = 0
        for k in range(s.shape[0]):
            if where_lands(n[b], s[k], sign, limits) == INSIDE:
                inside += 1
        ptr[b + 1] = ptr[b] + inside


@hot
def _fill_flat(n, s, limits, sign, ptr, reaction, y):
    for b in range(n.shape[0]):
        e = ptr[b]
        for k in range(s.shape[0]):
            if where_lands(n[b], s[k], sign, limits) == INSIDE:
                reaction[e] = k
                for i in range(n.shape[1]):
                    y[e, i] = n[b, i] + sign * s[k, i]
                e += 1


def _flat(n, s, limits, sign):
    n = np.ascontiguousarray(n, dtype=np.int32)
    ptr = np.empty(n.shape[0] + 1, dtype=np.int64)
    _count(n, s, limits, sign, ptr)
    reaction = np.empty(ptr[-1], dtype=np.int64)
    y = np.empty((ptr[-1], n.shape[1]), dtype=np.int32)
    _fill_flat(n, s, limits, sign, ptr, reaction, y)
    return ptr, reaction, y


def incoming_flat(n, s, limits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Incoming neighbours without padding, like the rows of a CSR matrix.

    Returns ptr int64 [B+1], reaction int64 [E], states int32 [E, S]: the neighbours of row b are entries
    ptr[b]:ptr[b+1], in the order of the reactions, only those inside 0..limits.
    """
    return _flat(n, s, limits, -1)


def outgoing_flat(n, s, limits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outgoing neighbours without padding; layout as `incoming_flat`."""
    return _flat(n, s, limits, 1)


@hot
def _outflow(tables, n, s, limits, t0, t1, begin, end, stack, a, leak):
    for b in range(begin, end):
        row = n[b]
        leak[b] = 0.0
        for k in range(s.shape[0]):
            a[b, k] = 0.0
            place = where_lands(row, s[k], 1, limits)
            if place == NEGATIVE:
                continue
            value = propensity_mean(tables, k, row, t0, t1, stack)
            if place == INSIDE:
                a[b, k] = value
            else:
                leak[b] += value


@parallel
def _outflow_parallel(tables, n, s, limits, t0, t1, a, leak):
    for chunk in numba.prange((n.shape[0] + CHUNK - 1) // CHUNK):
        stack = np.empty(tables.depth)
        _outflow(
            tables, n, s, limits, t0, t1, chunk * CHUNK, min((chunk + 1) * CHUNK, n.shape[0]), stack, a, leak
        )


def outflow(
    tables: PropensityTables,
    n: np.ndarray,
    s: np.ndarray,
    limits: np.ndarray,
    t: float,
    t_end: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Propensities of the transitions that stay in the box, and the rate at which the box is left.

    Returns a float64 [B, R], zero where n + s_k is outside, and leak float64 [B], the summed propensity of
    the transitions past a limit (transitions to negative counts are zero and no leak), both at time t, or
    averaged over [t, t_end] (as `propensities_mean`) when t_end is given.
    """
    n = np.ascontiguousarray(n, dtype=np.int32)
    a = np.empty((n.shape[0], s.shape[0]))
    leak = np.empty(n.shape[0])
    t0, t1 = float(t), float(t if t_end is None else t_end)
    if n.shape[0] >= PARALLEL_FROM:
        _outflow_parallel(tables, n, s, limits, t0, t1, a, leak)
    else:
        _outflow(tables, n, s, limits, t0, t1, 0, n.shape[0], np.empty(tables.depth), a, leak)
    return a, leak
