"""Fixed features of a count, the input side of every network.

Small counts are told apart one by one (one-hot). Large counts are described by smooth bumps in sqrt(n), the scale
on which Poisson-like laws have constant width: neighbouring counts then share what is learned, and a count that no
sample has visited yet still gets a sensible input.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

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


def features_of(limit: int) -> int:
    """Number of features of a count, F."""
    return limit + 1 if limit <= ONE_HOT_LIMIT else BUMPS + 1


class CountTables(nn.ParameterList):
    """One trained table per species, [limit + 1, columns]: its features times weights [F, columns]."""

    def __init__(self, limits: list[int], weights: Iterable[torch.Tensor], dtype: torch.dtype) -> None:
        super().__init__(nn.Parameter(weight.detach().to(dtype)) for weight in weights)
        for i, limit in enumerate(limits):
            features = torch.from_numpy(count_features(limit)).to(dtype)
            self.register_buffer(f"features{i}", features, persistent=False)

    def rows(self, i: int, count: torch.Tensor) -> torch.Tensor:
        """Rows of table i for counts int64 [U]: [U, columns]."""
        return nn.functional.embedding(count, getattr(self, f"features{i}") @ self[i])


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


_UNIT = 0.4  # of sqrt(n): a Poisson law then has a standard deviation of about 0.2, whatever its mean
_SLOPE = 2.0  # of ramps and steps, in that unit
_FEW = 4  # largest limit whose counts are told apart by numbers that have nothing to do with each other


def random_ramps(limit: int, columns: int) -> torch.Tensor:
    """Weights of `count_features` that make random ramps of a count, float64 [F, columns].

    Ramps are w (x - c) with x = 0.4 sqrt(n), w normal and c uniform over the range of x. Sums of them over species,
    sent through tanh, are hidden units that turn over where a random combination of the counts passes a random point of
    their range. Limits up to 4: independent normal numbers.
    """
    if limit <= _FEW:
        return _SLOPE * torch.randn(limit + 1, columns, dtype=torch.float64)
    return _smooth(limit, _ramps(limit, columns))


def random_steps(limit: int, columns: int) -> torch.Tensor:
    """Weights of `count_features` that make random steps of a count, tanh of the ramps of `random_ramps`; float64
    [F, columns]. Limits up to 4: independent normal numbers."""
    if limit <= _FEW:
        return torch.randn(limit + 1, columns, dtype=torch.float64)
    return _smooth(limit, torch.tanh(_ramps(limit, columns)))


def _ramps(limit: int, columns: int) -> torch.Tensor:
    """w (x - c) at the counts of one-hot features, or at the middles of the bumps; float64 [places, columns]."""
    end = _UNIT * limit**0.5
    if limit <= ONE_HOT_LIMIT:
        x = _UNIT * torch.arange(limit + 1, dtype=torch.float64).sqrt()
    else:
        x = end * torch.arange(-1, BUMPS - 1, dtype=torch.float64) / (BUMPS - 3)
    slope, turn = torch.randn(columns, dtype=torch.float64), torch.rand(columns, dtype=torch.float64)
    return _SLOPE * slope * (x[:, None] - end * turn)


def _smooth(limit: int, values: torch.Tensor) -> torch.Tensor:
    """Weights with which the features follow values at the places of `_ramps`: splines whose coefficients are a
    function's values at the middles of the bumps follow it, and a straight line exactly (Schoenberg 1967)."""
    return values if limit <= ONE_HOT_LIMIT else torch.cat([values, values.new_zeros(1, values.shape[1])])
