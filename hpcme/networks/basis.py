"""Autoregressive network with fixed hidden features and trained heads: every conditional is an exponential family.

Position i sees the counts before it through features that do not change during a run: the counts themselves (one-hot
where the limit is small, linear in sqrt(n) above) and `width` random tanh units of them. What is trained are the heads,
so log q_i is linear in the parameters up to its normalisation, fits of a conditional are convex, and no two conditionals
share a parameter. Scheme `tdvp` lives on that: its equations stay well conditioned for whole runs, where trained hidden
layers bring redundant directions that noise drifts along. Random features with trained output layers: Rahimi and Recht
2008; Huang, Zhu and Siew 2006.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from hpcme.networks.base import VAN
from hpcme.networks.support import Support

_SLOPE = 2.0  # scale of the hidden weights
_UNIT = 0.4  # of sqrt(n)
_ONE_HOT = 4  # largest limit whose counts are told apart one by one


class Basis(VAN):
    """Heads on fixed features: hidden vector of position i = [counts before i, tanh(counts before i . A_i + c_i)]."""

    def __init__(
        self, limits: np.ndarray, order: list[int], support: Support, width: int, heads: list[str], dtype: torch.dtype
    ) -> None:
        columns = [_features(int(limits[s])).shape[1] for s in order]
        before = [sum(columns[:i]) for i in range(len(order))]
        widths = [before[i] + width if i else 0 for i in range(len(order))]
        super().__init__(limits, order, support, widths, heads, dtype)
        self.width = width
        middle = torch.cat([torch.from_numpy(_middle(limit)) for limit in self.limits])
        for i in range(self.S):
            features = torch.from_numpy(_features(self.limits[i])).to(dtype)
            self.register_buffer(f"features{i}", features, persistent=False)
            if i:
                # Each unit turns over where a random combination of the counts passes a random point of their range.
                scale = _SLOPE / math.sqrt(max(1.0, i / 2.0))
                weight = torch.randn(before[i], width, dtype=torch.float64) * scale
                spread = (weight.abs() * middle[: before[i], None]).sum(dim=0).clamp_min(1.0)
                bias = (2.0 * torch.rand(width, dtype=torch.float64) - 1.0) * spread
                self.register_buffer(f"hidden_weight{i}", weight.to(dtype))
                self.register_buffer(f"hidden_bias{i}", bias.to(dtype))

    def begin(self) -> Counts:
        return Counts(self.features0.new_zeros(1, 0))

    def hidden(self, i: int, carry: Counts) -> torch.Tensor:
        if not i:
            return carry.seen
        z = torch.addmm(getattr(self, f"hidden_bias{i}"), carry.seen, getattr(self, f"hidden_weight{i}"))
        return torch.cat([carry.seen, torch.tanh(z)], dim=1)

    def advance(self, i: int, carry: Counts, parent: torch.Tensor | None, count: torch.Tensor) -> Counts:
        seen = carry.seen if parent is None else carry.seen.index_select(0, parent)
        return Counts(torch.cat([seen, getattr(self, f"features{i}").index_select(0, count)], dim=1))


class Counts(NamedTuple):
    """Sweep state: features of the counts so far, [U, F]."""

    seen: torch.Tensor


def _features(limit: int) -> np.ndarray:
    """Features of the counts 0..limit, float64 [limit + 1, F].

    Limits up to 4: one-hot without the zero. Above: whether the count is zero, and sqrt(n) about the middle of its
    range, in units in which a Poisson law has a standard deviation of about 0.2 whatever its mean.
    """
    if limit <= _ONE_HOT:
        return np.eye(limit + 1)[:, 1:]
    root = np.sqrt(np.arange(limit + 1))
    return np.column_stack([root == 0.0, _UNIT * (root - 0.5 * root[-1])])


def _middle(limit: int) -> np.ndarray:
    """Half the range of each feature, float64 [F]."""
    features = _features(limit)
    return 0.5 * (features.max(axis=0) - features.min(axis=0))
