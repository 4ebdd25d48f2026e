"""Heads: from a hidden vector to the logits of one species' count.

`CategoricalHead` has one free logit per count. `SplineHead` describes the logits of a large count by few numbers: the
base measure -log n!, a term linear in n, and cubic B-splines in sqrt(n). Poisson laws are exact for it, tails stay
sane where no sample has been, and what is learned at one count serves its neighbours. Both at once were tried and
left out: splines and free logits can trade places, and drift along that direction spoils long runs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy.special import gammaln
from torch import nn

from hpcme.networks.features import uniform_bsplines

SPLINES = 16  # represents a bimodal one-site Schloegl law to a total variation of about 1e-4
#: KL divergence up to which splines may miss a start. A start at a large count is narrower than they can be, but not
#: for long, and where counts move on, smoothness wins: free logits have to learn every count that is invaded anew.
#: (Epidemic to t = 20: joint TV 0.015 with splines whose start is off by KL 0.035, 0.5 with free logits.)
_REPRESENTED = 1.0
_FEW, _SMOOTH_LIMIT = 5, 5  # splines for counts up to that limit, and the smallest limit that has any
CATEGORICAL_LIMIT = 16  # largest limit for which "auto" takes one free logit per count


def splines_of(limit: int, density: float, least: int = SPLINES) -> int:
    """Splines for counts 0..limit: about `density` knots per unit of sqrt(n), in which a Poisson law has a standard
    deviation of one half; `least` at least, but 5 for the few counts up to a limit of 16."""
    if limit <= CATEGORICAL_LIMIT:
        return _FEW
    return max(least, 3 + math.ceil(density * math.sqrt(limit)))


class Head(nn.Module, ABC):
    """Logits [B, limit + 1] from hidden vectors [B, width]; parameters of the hidden part start at zero."""

    base: torch.Tensor  # fixed part of the logits, [limit + 1]
    weight: nn.Parameter  # [width, K]
    bias: nn.Parameter  # [K]

    @abstractmethod
    def features(self) -> torch.Tensor | None:
        """Phi [K, limit + 1] in logits = base + (hidden W + b) Phi; None for the identity."""

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

    def features(self) -> None:
        return None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias + self.base, hidden, self.weight)


class SplineHead(Head):
    """logits = base + (hidden W + b) Phi: base = -log n!; Phi [K, limit + 1]: n / sqrt(limit) and K - 1 splines."""

    density, least = 1.4, SPLINES

    def __init__(self, width: int, limit: int, dtype: torch.dtype) -> None:
        super().__init__()
        n = np.arange(limit + 1)
        splines = uniform_bsplines(np.sqrt(n / limit), splines_of(limit, self.density, self.least))
        phi = np.vstack([n / np.sqrt(limit), splines.T])
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
        ridge = 1e-6 * np.eye(design.shape[1])
        splines = np.linalg.solve(design.T @ design + ridge, design.T @ (rest * weight))
        with torch.no_grad():
            self.bias.copy_(torch.from_numpy(np.concatenate([[slope], splines])))

    def features(self) -> torch.Tensor:
        return self.phi

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.base, torch.addmm(self.bias, hidden, self.weight), self.phi)


class FineSplineHead(SplineHead):
    """Twice the splines, for a count that starts large and known: its law is narrow for a long time."""

    density = 3.0


class CoarseSplineHead(SplineHead):
    """About half the splines, for sampled laws of many species, which are close to Poisson laws given the others."""

    density, least = 1.0, 6


HEADS: dict[str, type[Head]] = {
    "categorical": CategoricalHead, "spline": SplineHead, "fine": FineSplineHead, "coarse": CoarseSplineHead,
}  # fmt: skip
#: Standard deviation of sqrt(n) below which a count needs the finer splines, and mean count from which this matters;
#: where sums are exact, and more parameters cost nothing but time, earlier.
_NARROW, _LARGE = 0.35, 15.0
_NARROW_EXACT, _LARGE_EXACT = 0.6, 4.0


def choose_head(kind: str, pmf: torch.Tensor, fine: bool = False, exact: bool = False) -> str:
    """Head for a species that starts with the marginal pmf, float64 [limit + 1]: "categorical", "spline" or "fine".

    Free logits up to a limit of 16; above it what was asked for. "auto" takes splines unless they cannot represent the
    start at all, as for a large count that hardly ever changes. "smooth", for sampled laws of many species: splines
    from a limit of 5 on, whatever the start; a count that no sample meets then follows its neighbours, where a free
    logit would stay behind. fine: narrow laws of large counts get finer splines; with exact sums less narrow ones too.
    """
    limit = pmf.shape[0] - 1
    if kind == "smooth":
        return "categorical" if limit < _SMOOTH_LIMIT else "coarse"
    if limit <= CATEGORICAL_LIMIT:
        return "categorical"
    if kind != "auto":
        return kind
    root = torch.arange(pmf.shape[0], dtype=torch.float64).sqrt()
    p = pmf.double().cpu()
    mean = float(p @ root)
    large, narrow = (_LARGE_EXACT, _NARROW_EXACT) if exact else (_LARGE, _NARROW)
    if fine and mean**2 > large and float(p @ (root - mean) ** 2) < narrow**2:
        return "fine"
    head = SplineHead(1, pmf.shape[0] - 1, torch.float64)
    head.set_marginal(pmf)
    with torch.no_grad():
        logq = torch.log_softmax(head(torch.zeros(1, 1, dtype=torch.float64))[0], dim=0)
    p = pmf.double().cpu()
    kl = float(torch.where(p > 0, p * (torch.log(p.clamp_min(1e-300)) - logq), torch.zeros_like(p)).sum())
    return "spline" if kl < _REPRESENTED else "categorical"


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
