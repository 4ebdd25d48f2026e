"""The contract of a variational autoregressive network (VAN).

q(n) = prod_i q_i(n_i | n_before_i): exactly normalised on its support, sampled in one sweep over the species. A new
architecture implements four methods (`begin`, `hidden`, `advance`, `all_hidden`); heads, masks, sampling and
probabilities are shared. Laws that every network obeys, and that the tests hold it to:

    sum_n exp(log_prob(n)) = 1 over the support; samples lie in the support;
    the logq that `draw` returns equals log_prob of the drawn states;
    all_hidden(n)[i] equals hidden(i) of the sweep, and does not depend on n at positions >= i.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import nn

from hpcme.errors import InternalError
from hpcme.networks.heads import make_head
from hpcme.networks.support import Support

_CHUNK_ENTRIES = 16_000_000  # float64 entries of the widest intermediate in one chunk of log_prob


class VAN(nn.Module, ABC):
    """Abstract variational autoregressive network.

    limits: int64 [S], largest count of each species, in model order.
    order: permutation of range(S): the species at each position of the sweep.
    support: decision diagram, in network order (`hpcme.networks.support`).
    width: size of the hidden vector that feeds each head; head: "auto", "categorical" or "spline".
    """

    def __init__(
        self, limits: np.ndarray, order: list[int], support: Support, width: int, head: str, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.S = len(limits)
        self.order = [int(i) for i in order]
        self.limits = [int(limits[i]) for i in self.order]  # in network order
        self.position = [self.order.index(i) for i in range(self.S)]
        self.support = support
        self.dtype = dtype
        self.heads = nn.ModuleList(make_head(head, width, limit, dtype) for limit in self.limits)
        self.register_buffer("device_marker", torch.zeros(0), persistent=False)

    # ---- what an architecture provides -----------------------------------------------------------------------

    @abstractmethod
    def begin(self, B: int) -> Any:
        """State of the sweep before the first species, for B rows."""

    @abstractmethod
    def hidden(self, i: int, carry: Any) -> torch.Tensor:
        """Hidden vector of conditional i given the species before it, [B, width] (or [1, width] at i = 0)."""

    @abstractmethod
    def advance(self, i: int, carry: Any, n_i: torch.Tensor) -> Any:
        """State of the sweep after position i took the counts n_i, int64 [B]."""

    def all_hidden(self, n: torch.Tensor) -> list[torch.Tensor]:
        """Hidden vectors of all conditionals for given states, n int64 [B, S] in network order."""
        carry, out = self.begin(n.shape[0]), []
        for i in range(self.S):
            out.append(self.hidden(i, carry))
            if i + 1 < self.S:
                carry = self.advance(i, carry, n[:, i])
        return out

    # ---- shared ----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.device_marker.device

    def conditional(self, i: int, hidden: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of position i, float64 [B, K_i], -inf outside the support.

        node: int64 [B], node of the support at level i.
        """
        logits = self.heads[i](hidden).double()
        mask = self.support.mask(i, node)
        if mask is not None:
            logits = logits.expand(mask.shape).masked_fill(~mask, -torch.inf)
        return torch.log_softmax(logits, dim=-1)

    def draw(
        self, u: torch.Tensor, given: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One sweep that draws states and gives their log-probabilities (with gradients where enabled).

        u: float64 [B, S] uniforms in [0, 1), in network order, turned into counts by the inverse conditional
        distribution functions. given: int [G, S] states (model order) appended as rows whose log-probability is
        evaluated in the same sweep. Returns n int32 [B + G, S] in model order, logq float64 [B + G].
        """
        B, G = u.shape[0], 0 if given is None else given.shape[0]
        fixed = None if given is None else given[:, self.order].long()
        node = torch.zeros(B + G, dtype=torch.int64, device=u.device)
        logq: torch.Tensor | float = 0.0
        carry, columns = self.begin(B + G), []
        for i in range(self.S):
            logp = self.conditional(i, self.hidden(i, carry), node)
            n_i = _inverse_cdf(logp.detach(), u[:, i], B)
            if fixed is not None:
                n_i = torch.cat([n_i, fixed[:, i]])
            logq = logq + _pick(logp, n_i)
            columns.append(n_i)
            if i + 1 < self.S:
                carry = self.advance(i, carry, n_i)
                node = self.support.advance(i, node, n_i)
                if G:
                    node = node.clamp_min(0)  # a given state outside the support already has logq = -inf
        n = torch.stack([columns[p] for p in self.position], dim=1)
        return n.to(torch.int32), logq

    @torch.no_grad()
    def sample(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw states without gradients: u float64 [B, S] -> n int32 [B, S], logq float64 [B]."""
        return self.draw(u)

    def log_prob(self, n: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of states, n int [B, S] in model order -> float64 [B]; -inf outside the support."""
        rows = max(1, _CHUNK_ENTRIES // (max(self.limits) + 1))
        if n.shape[0] > rows and not torch.is_grad_enabled():
            return torch.cat([self.log_prob(part) for part in n.split(rows)])
        x = n[:, self.order].long()
        inside = ((x >= 0) & (x <= torch.tensor(self.limits, device=x.device))).all(dim=1)
        everything = bool(inside.all())
        x = x if everything else torch.where(inside[:, None], x, torch.zeros_like(x))
        node = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        logq = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
        for i, hidden in enumerate(self.all_hidden(x)):
            logq = logq + _pick(self.conditional(i, hidden, node), x[:, i])
            node = self.support.advance(i, node, x[:, i]).clamp_min(0)
        return logq if everything else torch.where(inside, logq, torch.full_like(logq, -torch.inf))

    @torch.no_grad()
    def conditionals(self, n: torch.Tensor) -> list[torch.Tensor]:
        """Log-probabilities of every conditional at states n int [B, S].

        Returns a list over species in model order: float64 [B, limit + 1] of log q(n_i | n_before_i).
        """
        x = n[:, self.order].long()
        node = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        out = []
        for i, hidden in enumerate(self.all_hidden(x)):
            logp = self.conditional(i, hidden, node)
            out.append(logp.expand(x.shape[0], logp.shape[1]))
            node = self.support.advance(i, node, x[:, i])
        return [out[p] for p in self.position]

    def set_marginals(self, pmfs: list[torch.Tensor]) -> None:
        """Start the heads from independent marginals: pmfs[i] float64 [limit_i + 1], in model order."""
        for i, species in enumerate(self.order):
            if pmfs[species].shape[0] != self.limits[i] + 1:
                raise InternalError(f"marginal of species {species} has {pmfs[species].shape[0]} entries")
            self.heads[i].set_marginal(pmfs[species])


def _inverse_cdf(logp: torch.Tensor, u: torch.Tensor, B: int) -> torch.Tensor:
    """Counts at which the distribution function first exceeds u; never a count of probability zero. int64 [B]."""
    cdf = logp[:B].exp().cumsum(dim=-1)
    # u < 1 times the total stays below the last entry, so rounding can not push a count past the support.
    point = u * cdf[:, -1]
    if cdf.shape[0] == 1:
        return torch.searchsorted(cdf[0], point, right=True)
    return torch.searchsorted(cdf, point[:, None], right=True)[:, 0]


def _pick(logp: torch.Tensor, n_i: torch.Tensor) -> torch.Tensor:
    return logp[0, n_i] if logp.shape[0] == 1 else logp.gather(1, n_i[:, None])[:, 0]
