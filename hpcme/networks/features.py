"""Fixed features of a count, the input side of every network.

Small counts are told apart one by one (one-hot). Large counts are described by smooth bumps in sqrt(n), the scale
on which Poisson-like laws have constant width: neighbouring counts then share what is learned, and a count that no
sample has visited yet still gets a sensible input.
"""

from __future__ import annotations

import numpy as np

ONE_HOT_LIMIT = 24  # largest limit that is still described one-hot
BUMPS = 20


def count_features(limit: int) -> np.ndarray:
    """Features of the counts 0..limit, float64 [limit + 1, F].

    limit <= 24: identity, F = limit + 1. Above: 20 cubic B-spline bumps in sqrt(n) (a partition of unity) and one
    column linear in sqrt(n), F = 21. The column lies in the span of the bumps: it is there because a slope is what
    conditionals depend on most, and one weight learns it faster than twenty.
    """
    if limit <= ONE_HOT_LIMIT:
        return np.eye(limit + 1)
    x = np.sqrt(np.arange(limit + 1)) / np.sqrt(limit)
    linear = 2.0 * x - 1.0
    return np.column_stack([uniform_bsplines(x, BUMPS), linear])


def uniform_bsplines(x: np.ndarray, K: int) -> np.ndarray:
    """K uniform cubic B-splines on [0, 1] at points x float64 [N]: float64 [N, K], rows sum to 1."""
    intervals = K - 3
    z = np.clip(np.asarray(x, dtype=np.float64), 0.0, 1.0) * intervals
    cell = np.minimum(z.astype(np.int64), intervals - 1)
    f = z - cell
    pieces = np.stack(
        [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=1
    ) / 6.0
    out = np.zeros((len(z), K))
    for j in range(4):
        out[np.arange(len(z)), cell + j] = pieces[:, j]
    return out
