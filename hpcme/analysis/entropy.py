"""Entropy from counts of samples, with little bias where many different values were seen only once or twice.

The estimator of Chao, Wang and Jost (Methods in Ecology and Evolution 4, 1091, 2013), natural logarithms:

    H = sum_c (c / N) (psi(N) - psi(c)) + (f1 / N) (1 - A)^(1 - N) (-log A - sum_{r < N} (1 - A)^r / r)

with c the number of samples of each value seen, N their sum, psi the digamma function, f1 and f2 the numbers of values
seen once and twice, and A = 2 f2 / ((N - 1) f1 + 2 f2) (2 / ((N - 1) (f1 - 1) + 2) where f2 = 0). The last factor is
summed as the tail it is, sum_{j >= 0} (1 - A)^(j + 1) / (N + j).

On the two proteins of the toggle switch (6,400 cells, mutual information 0.281) 5,000 samples give on average 0.332,
plain counting 0.636; 100,000 samples 0.283 and 0.309. What is left of the bias was 8 to 25 % of the correction, from
1,000 to 100,000 samples, so `LEFT` of the correction counts as one standard error.
"""

from __future__ import annotations

import numpy as np

LEFT = 0.2
_SMALL = 45.0  # exp(-45) of a sum is below rounding
_TERMS = 1 << 24


def counted_entropy(counts: np.ndarray) -> tuple[float, float]:
    """Entropy in nats from the number of samples of each value, int [K], and the correction: what it adds to the
    entropy of the observed shares. Values that were not seen do not matter."""
    from scipy.special import digamma

    c = np.asarray(counts, dtype=np.float64)
    c = c[c > 0]
    N = float(c.sum())
    p = c / N
    plain = float(-(p * np.log(p)).sum())
    found = float((p * (digamma(N) - digamma(c))).sum())
    once, twice = int(np.sum(c == 1)), int(np.sum(c == 2))
    if once:
        A = 2 * twice / ((N - 1) * once + 2 * twice) if twice else 2 / ((N - 1) * (once - 1) + 2)
        if A < 1.0:
            j = np.arange(min(_TERMS, int(_SMALL / A) + 1))
            found += once / N * float(np.sum(np.exp((j + 1) * np.log1p(-A)) / (N + j)))
    return found, found - plain
