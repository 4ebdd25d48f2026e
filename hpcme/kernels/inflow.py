"""In-flow of the generator: every transition into a batch of states with its rate, in one pass.

Row n of the generator acts on a law q as (A q)(n) = sum_k a_k(n - s_k) q(n - s_k) - a0(n) q(n); this kernel lists the
terms of the sum, for the reflecting box of limits (see neighbours.py).
"""

from __future__ import annotations

import numba
import numpy as np

from hpcme.kernels.neighbours import INSIDE, where_lands
from hpcme.kernels.propensity import propensity_mean
from hpcme.model.tables import PropensityTables


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _fill(tables, n, s, limits, t0, t1, row, reaction, y, rate):
    stack = np.empty(tables.depth)
    e = 0
    for b in range(n.shape[0]):
        for k in range(s.shape[0]):
            if where_lands(n[b], s[k], -1, limits) != INSIDE:
                continue
            for i in range(n.shape[1]):
                y[e, i] = n[b, i] - s[k, i]
            a = propensity_mean(tables, k, y[e], t0, t1, stack)
            if a != 0.0:  # also keeps NaN, which the caller reports
                row[e], reaction[e], rate[e] = b, k, a
                e += 1
    return e


def inflow(
    tables: PropensityTables, n: np.ndarray, s: np.ndarray, limits: np.ndarray, t0: float, t1: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Transitions into the states n, those of rate zero left out.

    n int32 [B, S]; s int64 [R, S]; limits int64 [S]; rates are averaged over [t0, t1] (see propensities_mean).
    Returns row int64 [E], reaction int64 [E], y = n[row] - s[reaction] int32 [E, S], rate float64 [E] per time unit.
    Negative or non-finite rates are returned as they come.
    """
    n = np.ascontiguousarray(n, dtype=np.int32)
    most = n.shape[0] * s.shape[0]
    row, reaction = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    y, rate = np.empty((most + 1, n.shape[1]), dtype=np.int32), np.empty(most)
    used = _fill(tables, n, s, limits, float(t0), float(t1), row, reaction, y, rate)
    return row[:used], reaction[:used], y[:used], rate[:used]
