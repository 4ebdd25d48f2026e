"""Heads: from a hidden vector to the logits of one species' count.

`CategoricalHead` has one free logit per count. `SplineHead` describes the logits of a large count by few numbers: the
base measure -log n!, a term linear in n, and cubic B-splines in sqrt(n). Poisson laws are exact for it, tails stay
sane where no sample has been, and what is learned at one count serves its neighbours. `CountHead` is their sum: the
splines carry what is smooth, free logits what is narrower than a Poisson law.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy.special import gammaln
from torch import nn

from hpcme.networks.features import uniform_bsplines

SPLINES = 16  # represents a bimodal one-site Schloegl law to a total variation of about 1e-4
_FREE = 0.3  # free logits learn at this share of the splines' pace, so that noise in rare counts stays small
CATEGORICAL_LIMIT = 16  # largest limit for which "auto" takes one free logit per count


class Head(nn.Module, ABC):
    """Logits [B, limit + 1] from hidden vectors [B, width]; parameters of the hidden part start at zero."""

    base: torch.Tensor  # fixed part of the logits, [limit + 1]

    @abstractmethod
    def forward(self, hidden: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def set_marginal(self, pmf: torch.Tensor) -> None:
        """Start from a marginal law, pmf float64 [limit + 1]; counts it lacks become unlikely, not impossible."""


class CategoricalHead(Head):
    """logits = base + hidden W + b."""

    def __init__(self, width: int, limit: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, limit + 1, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(limit + 1, dtype=dtype))
        self.register_buffer("base", torch.zeros(limit + 1, dtype=dtype))

    def set_marginal(self, pmf: torch.Tensor) -> None:
        self.base.copy_(_continued_log(pmf.cpu().numpy()))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias + self.base, hidden, self.weight)


class SplineHead(Head):
    """logits = base + (hidden W + b) Phi, with base = -log n! and Phi [F, limit + 1]: n / sqrt(limit) and 16 splines."""

    def __init__(self, width: int, limit: int, dtype: torch.dtype) -> None:
        super().__init__()
        n = np.arange(limit + 1)
        phi = np.vstack([n / np.sqrt(limit), uniform_bsplines(np.sqrt(n / limit), SPLINES).T])
        self.register_buffer("phi", torch.from_numpy(phi).to(dtype), persistent=False)
        self.register_buffer("base", torch.from_numpy(-gammaln(n + 1.0)).to(dtype), persistent=False)
        self.weight = nn.Parameter(torch.zeros(width, phi.shape[0], dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(phi.shape[0], dtype=dtype))

    def set_marginal(self, pmf: torch.Tensor) -> None:
        """Ridge regression of log pmf + log n! on the features, each count weighted by its probability."""
        p = pmf.double().cpu().numpy()
        phi, base = self.phi.double().cpu().numpy(), self.base.double().cpu().numpy()
        # A Poisson law of the same mean carries the linear term; splines only correct it.
        mean = max(1e-3, float(p @ np.arange(len(p))))
        slope = np.log(mean) * np.sqrt(len(p) - 1)
        seen = p > 1e-12
        rest = np.log(p[seen]) - base[seen] - slope * phi[0, seen] + mean
        weight = np.sqrt(p[seen])
        design = phi[1:, seen].T * weight[:, None]
        # The ridge keeps splines that no seen count reaches at zero: the Poisson law goes on there.
        ridge = 1e-3 * np.eye(design.shape[1])
        splines = np.linalg.solve(design.T @ design + ridge, design.T @ (rest * weight))
        with torch.no_grad():
            self.bias.copy_(torch.from_numpy(np.concatenate([[slope], splines])))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.base, torch.addmm(self.bias, hidden, self.weight), self.phi)


class CountHead(SplineHead):
    """logits = base + (hidden W + b) Phi + hidden V + c: splines plus one free logit per count, which starts at zero."""

    def __init__(self, width: int, limit: int, dtype: torch.dtype) -> None:
        super().__init__(width, limit, dtype)
        self.free_weight = nn.Parameter(torch.zeros(width, limit + 1, dtype=dtype))
        self.free_bias = nn.Parameter(torch.zeros(limit + 1, dtype=dtype))

    def set_marginal(self, pmf: torch.Tensor) -> None:
        """As the spline head; the free logits then take what the splines left over, where the marginal is positive."""
        super().set_marginal(pmf)
        p = pmf.double()
        with torch.no_grad():
            rough = torch.log_softmax((self.bias @ self.phi + self.base).double(), dim=0)
            rest = torch.where(p > 1e-9, torch.log(p.clamp_min(1e-300)) - rough, torch.zeros_like(p))
            self.free_bias.copy_(rest / _FREE)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return _FREE * torch.addmm(self.free_bias, hidden, self.free_weight) + super().forward(hidden)


HEADS: dict[str, type[Head]] = {"categorical": CategoricalHead, "count": CountHead, "spline": SplineHead}


def make_head(kind: str, width: int, limit: int, dtype: torch.dtype) -> Head:
    """Head for counts 0..limit: categorical up to a limit of 16, above it the kind that was asked for ("auto": count)."""
    if limit <= CATEGORICAL_LIMIT:
        return CategoricalHead(width, limit, dtype)
    return HEADS["count" if kind == "auto" else kind](width, limit, dtype)


_LOWEST = -45.0  # log-probability of counts far outside a start's support


def _continued_log(pmf: np.ndarray) -> torch.Tensor:
    """log pmf, continued linearly past its support with the slope at its edge (at least one a count), down to -45."""
    seen = np.flatnonzero(pmf > 1e-12)
    low, high = int(seen[0]), int(seen[-1])
    logp = np.log(np.maximum(pmf, 1e-12))
    count = np.arange(len(pmf))
    up = max(1.0, logp[high - 1] - logp[high]) if high > low else 3.0
    down = max(1.0, logp[low + 1] - logp[low]) if high > low else 3.0
    logp = np.where(count > high, logp[high] - up * (count - high), logp)
    logp = np.where(count < low, logp[low] - down * (low - count), logp)
    return torch.from_numpy(np.maximum(logp, _LOWEST))
