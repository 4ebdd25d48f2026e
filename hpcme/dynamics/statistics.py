"""Sums over counts of a head's features: what fits need of logits = base + natural Phi, again and again.

Splines are local. Each count sees four of them and the linear term, whatever the limit, so for large limits Phi and
the products of its rows are sparse matrices here: a count of 1e4 has 300 splines, whose 1600 products that do not
vanish would be 140 MB, nearly all of it zeros.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from scipy import sparse

_DENSE = 500_000  # numbers in the table of products up to which it is dense


class Features:
    """Phi float64 [K, C] of a head (None: the identity) with the methods that sum over counts.

    pairs: (k, l) int64 [pairs] each, k <= l: the rows of Phi whose product does not vanish.
    """

    def __init__(self, phi: torch.Tensor | None, counts: int, device: torch.device) -> None:
        self.phi, self.sparse = phi, None
        if phi is None:
            every = torch.arange(counts, device=device)
            self.pairs = every, every
            return
        self.pairs = torch.triu((phi.abs() @ phi.abs().T) > 0.0).nonzero(as_tuple=True)
        if device.type == "cpu" and len(self.pairs[0]) * counts > _DENSE:
            rows = sparse.csr_matrix(phi.numpy())
            self.sparse = rows, rows.T.tocsr()

    @cached_property
    def products(self) -> torch.Tensor | sparse.csr_matrix:
        """phi_k(c) phi_l(c) for all pairs: float64 [C, pairs], or sparse [pairs, C]."""
        k, l = self.pairs
        if self.sparse is None:
            return (self.phi[k] * self.phi[l]).T.contiguous()
        rows = self.sparse[0]
        return rows[k.numpy()].multiply(rows[l.numpy()]).tocsr()

    def logits(self, natural: torch.Tensor) -> torch.Tensor:
        """natural Phi, float64 [U, C], of natural float64 [U, K]."""
        if self.phi is None:
            return natural
        return natural @ self.phi if self.sparse is None else _times(natural, self.sparse[1])

    def mean(self, p: torch.Tensor) -> torch.Tensor:
        """sum_c p(c) phi(c), float64 [U, K], of p float64 [U, C]."""
        if self.phi is None:
            return p
        return p @ self.phi.T if self.sparse is None else _times(p, self.sparse[0])

    def second(self, p: torch.Tensor) -> torch.Tensor:
        """sum_c p(c) phi_k(c) phi_l(c) for all pairs, float64 [U, pairs], of p float64 [U, C]."""
        if self.phi is None:
            return p
        return p @ self.products if self.sparse is None else _times(p, self.products)


def _times(x: torch.Tensor, matrix: sparse.csr_matrix) -> torch.Tensor:
    """x matrix^T, float64 [U, N], of x [U, C] and matrix [N, C]."""
    found = matrix @ np.ascontiguousarray(x.numpy().T)
    return torch.from_numpy(np.ascontiguousarray(found.T))
