"""Moments with standard errors, of weighted samples and of tabulated laws. Pure functions on arrays.

With normalised weights w (sum 1; equal weights 1/N) and residuals d = n - mean:

    covariance    sum w d d^T / (1 - sum w^2)                       unbiased; equal weights: the usual 1/(N-1)
    mean_se^2     sum w^2 d^2 / (1 - sum w^2)                       equal weights: s^2 / N
    cov_se^2      sum w^2 (d_i d_j - c_ij)^2                        equal weights: (m_22 - m_11^2) / N
    sd_se         sqrt(Var s^2) / (2 sd)                            equal weights: Var s^2 = (m4 - m2^2) / N

The last two are the delta method (large N); c_ij = sum w d_i d_j. A species that does not vary has sd_se 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hpcme.errors import InputError

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Moments:
    """mean, mean_se, sd, sd_se float64 [S]; covariance, covariance_se [S,S]; effective float (Kish)."""

    mean: np.ndarray
    mean_se: np.ndarray
    covariance: np.ndarray
    covariance_se: np.ndarray
    sd: np.ndarray
    sd_se: np.ndarray
    effective: float


def normalised_weights(number: int, weights: np.ndarray | None) -> np.ndarray:
    """Weights float64 [N] that sum to 1. InputError: wrong length, negative, non-finite."""
    if weights is None:
        return np.full(number, 1.0 / number)
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (number,):
        raise InputError(f"weights have shape {w.shape}, expected ({number},): one weight per sample.")
    total = w.sum()
    if not np.isfinite(total) or (w < 0).any() or total <= 0:
        raise InputError("weights must be finite, not negative, and not all zero.")
    return w / total


def sample_moments(n: np.ndarray, weights: np.ndarray | None = None) -> Moments:
    """Moments of samples n [N,S] (any real dtype) with weights [N] (None: equal), with standard errors.

    One sample has no spread: all errors and covariances are then zero. Raises InputError for bad shapes.
    """
    n = np.asarray(n)
    if n.ndim != 2 or n.shape[0] == 0:
        raise InputError(
            f"samples have shape {n.shape}, expected (samples, species) with at least one sample."
        )
    number, species = n.shape
    w = normalised_weights(number, weights)
    w2 = float(np.sum(w * w))
    mean = _mean(n, w)
    second = np.zeros((species, species))
    wide = np.zeros((species, species))  # sum w^2 (d_i d_j)^2
    cross = np.zeros((species, species))  # sum w^2 d_i d_j
    for k in _blocks(number):
        d = n[k].astype(np.float64) - mean
        second += (d * w[k, None]).T @ d
        cross += (d * (w[k] ** 2)[:, None]).T @ d
        wide += (d * d * (w[k] ** 2)[:, None]).T @ (d * d)
    spread = 1.0 - w2
    unbiased = 1.0 / spread if number > 1 and spread > 1e-12 else 0.0
    covariance = second * unbiased
    covariance_se = np.sqrt(np.maximum(wide - 2.0 * second * cross + second**2 * w2, 0.0))
    sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    mean_se = np.sqrt(np.diag(cross) * unbiased)
    return Moments(mean, mean_se, covariance, covariance_se, sd, sd_error(covariance_se, sd), 1.0 / w2)


def sd_error(covariance_se: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Standard error of the standard deviation [...,S] from those of the covariance [...,S,S]."""
    variance_se = np.diagonal(covariance_se, axis1=-2, axis2=-1)
    return np.divide(variance_se, 2.0 * sd, out=np.zeros_like(sd), where=sd > 0)


def law_moments(states: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [S] and covariance [S,S] of a tabulated law: states [M,S], p [M] (normalised here)."""
    total = float(np.sum(p))
    if not total > 0:
        raise InputError("the law has no probability on the given states.")
    w = np.asarray(p, dtype=np.float64) / total
    species = states.shape[1]
    mean = _mean(states, w)
    covariance = np.zeros((species, species))
    for k in _blocks(len(states)):
        d = states[k].astype(np.float64) - mean
        covariance += (d * w[k, None]).T @ d
    return mean, covariance


def readout_moments(
    names: Iterable[str], values: np.ndarray, weights: np.ndarray | None = None, *, exact: bool = False
) -> dict[str, np.ndarray]:
    """Moments of readouts by name, float64 [4] each: mean, mean_se, sd, sd_se (layout.READOUTS).

    values float64 [N,K] of N samples or, with exact=True, of N states with probabilities `weights`, whose moments have
    no errors. A readout that has no finite value in some of them has NaN.
    """
    if exact and weights is not None:
        values, weights = values[weights > 0], weights[weights > 0]
    found = {}
    for name, column in zip(names, values.T, strict=True):
        if not np.isfinite(column).all():
            found[name] = np.full(4, np.nan)
        elif exact:
            mean, covariance = law_moments(column[:, None], weights)
            found[name] = np.array([mean[0], 0.0, np.sqrt(covariance[0, 0]), 0.0])
        else:
            m = sample_moments(column[:, None], weights)
            found[name] = np.array([m.mean[0], m.mean_se[0], m.sd[0], m.sd_se[0]])
    return found


def histogram(counts: np.ndarray, weights: np.ndarray | None, length: int) -> np.ndarray:
    """Weighted frequencies float64 [length] of counts [N] in 0..length-1; sums to the total weight."""
    return np.bincount(counts, weights=weights, minlength=length).astype(np.float64)


def _blocks(number: int):
    for start in range(0, number, _BLOCK):
        yield slice(start, min(start + _BLOCK, number))


def _mean(n: np.ndarray, w: np.ndarray) -> np.ndarray:
    # around the first row: a species that does not vary then has exactly its value as mean and no spread
    origin = n[0].astype(np.float64)
    total = np.zeros(n.shape[1])
    for k in _blocks(len(n)):
        total += w[k] @ (n[k].astype(np.float64) - origin)
    return origin + total
