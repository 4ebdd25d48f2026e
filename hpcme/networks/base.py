"""The contract of a variational autoregressive network (VAN).

q(n) = prod_i q_i(n_i | n_before_i): exactly normalised on its support, sampled in one sweep over the species. A new
architecture implements three methods (`begin`, `hidden`, `advance`); heads, masks, sampling and probabilities are
shared. Laws that every network obeys, and that the tests hold it to:

    sum_n exp(log_prob(n)) = 1 over the support; samples lie in the support;
    the logq that `draw` returns equals log_prob of the drawn states;
    conditional i does not depend on counts at positions >= i.

The sweep works on distinct prefixes. A conditional depends on the counts before it only, and samples share prefixes: of
1,000 samples of the toggle switch, 1, 2, 4 and about 100 prefixes are distinct. Each is evaluated once, and rows point
to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hpcme.errors import InternalError
from hpcme.networks.heads import HEADS
from hpcme.networks.support import Support

_CHUNK_ENTRIES = 16_000_000  # float64 entries of the widest intermediate of one sweep
_SHARED_SHARE = 0.6  # distinct prefixes per row up to which prefixes are shared


@dataclass(frozen=True)
class Draw:
    """States of one sweep: n int32 [U, S] (model order), logq float64 [U], and row int64 [N], the state of every row.

    States are distinct unless nearly all rows differ anyway.
    """

    n: torch.Tensor
    logq: torch.Tensor
    row: torch.Tensor


class VAN(nn.Module, ABC):
    """Abstract variational autoregressive network.

    limits: int64 [S], largest count of each species, in model order.
    order: permutation of range(S): the species at each position of the sweep.
    support: decision diagram, in network order (`hpcme.networks.support`).
    width: size of the hidden vector that feeds each head, or a list of them in network order.
    heads: kind of head of each species, in model order (`hpcme.networks.heads`).
    """

    def __init__(
        self, limits: np.ndarray, order: list[int], support: Support, width: int | list[int], heads: list[str],
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        super().__init__()
        self.S = len(limits)
        widths = [width] * self.S if isinstance(width, int) else width
        self.order = [int(i) for i in order]
        self.limits = [int(limits[i]) for i in self.order]  # in network order
        self.position = [self.order.index(i) for i in range(self.S)]
        self.support = support
        self.dtype = dtype
        self.heads = nn.ModuleList(
            HEADS[heads[species]](wide, limit, dtype)
            for species, limit, wide in zip(self.order, self.limits, widths, strict=True)
        )
        self.register_buffer("device_marker", torch.zeros(0), persistent=False)

    # ---- what an architecture provides -----------------------------------------------------------------------

    @abstractmethod
    def begin(self) -> Any:
        """State of the sweep before the first species: one node, the empty prefix."""

    @abstractmethod
    def hidden(self, i: int, carry: Any) -> torch.Tensor:
        """Hidden vector of conditional i at every prefix, [U, width]."""

    @abstractmethod
    def advance(self, i: int, carry: Any, parent: torch.Tensor | None, count: torch.Tensor) -> Any:
        """State of the sweep one position on: prefix j continues prefix parent[j] (None: j) with the count count[j].

        parent, count: int64 [U'], U' the number of new prefixes.
        """

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

    def draw(self, u: torch.Tensor, given: torch.Tensor | None = None, temper: float = 1.0) -> Draw:
        """One sweep that draws states and gives their log-probabilities (with gradients where enabled).

        u: float64 [B, S] uniforms in [0, 1), in network order, turned into counts by the inverse conditional
        distribution functions. given: int [G, S] states (model order, inside the box of limits) appended as rows
        whose log-probability is evaluated in the same sweep. temper: drawn counts follow q_i^temper, renormalised, in
        every conditional (1: q itself); the log-probabilities are those of q.
        """
        B, N = u.shape[0], u.shape[0] + (0 if given is None else given.shape[0])
        fixed = None if given is None else given[:, self.order].long()
        row = torch.zeros(N, dtype=torch.int64, device=u.device)  # prefix of every row
        support_node = row[:1]
        carry, logq = self.begin(), torch.zeros(1, dtype=torch.float64, device=u.device)
        columns: list[torch.Tensor] = []
        shared = True
        for i in range(self.S):
            logp = self.conditional(i, self.hidden(i, carry), support_node)
            flat = logp.detach() if temper == 1.0 else torch.log_softmax(temper * logp.detach(), dim=-1)
            n_i = _inverse_cdf(flat, row, u[:, i]) if B else row[:0]
            if fixed is not None:
                n_i = torch.cat([n_i, fixed[:, i]])
            if shared:
                key, row = torch.unique(row * logp.shape[1] + n_i, return_inverse=True)
                parent, count = key // logp.shape[1], key % logp.shape[1]
                # Once most rows stand alone, looking for shared prefixes costs more than it saves.
                shared = key.shape[0] <= _SHARED_SHARE * N
                if not shared and i + 1 < self.S:
                    parent, count, row = parent[row], count[row], torch.arange(N, device=u.device)
            else:
                parent, count = None, n_i
            logq = _step(logq, logp, parent, count)
            columns = [column if parent is None else column[parent] for column in columns] + [count]
            if i + 1 < self.S:
                carry = self.advance(i, carry, parent, count)
                support_node = self.support.advance(
                    i, support_node if parent is None else support_node[parent], count
                ).clamp_min(0)  # a given state outside the support has logq = -inf by now
        n = torch.stack([columns[p] for p in self.position], dim=1)
        return Draw(n.to(torch.int32), logq, row)

    @torch.no_grad()
    def sample(self, u: torch.Tensor, temper: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw states without gradients: u float64 [B, S] -> n int32 [B, S], logq float64 [B] (see `draw`)."""
        drawn = [self.draw(part, temper=temper) for part in u.split(self._rows())]
        return torch.cat([d.n[d.row] for d in drawn]), torch.cat([d.logq[d.row] for d in drawn])

    def log_prob(self, n: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of states, n int [B, S] in model order -> float64 [B]; -inf outside the support."""
        if n.shape[0] > self._rows():
            return torch.cat([self.log_prob(part) for part in n.split(self._rows())])
        limits = torch.tensor([self.limits[p] for p in self.position], device=n.device)
        inside = ((n >= 0) & (n <= limits)).all(dim=1)
        everything = bool(inside.all())
        drawn = self.draw(
            torch.zeros(0, self.S, dtype=torch.float64, device=n.device),
            n if everything else torch.where(inside[:, None], n, torch.zeros_like(n)),
        )
        logq = drawn.logq[drawn.row]
        return logq if everything else torch.where(inside, logq, torch.full_like(logq, -torch.inf))

    def forward(self, n: torch.Tensor) -> torch.Tensor:
        """`log_prob` at states of the support, n int [B, S], without shared prefixes and without a look at values:
        what torch.func can differentiate state by state."""
        x = n[:, self.order].long()
        first = torch.zeros_like(x[:, 0])
        node, carry, logq = first, self.begin(), torch.zeros_like(first, dtype=torch.float64)
        for i in range(self.S):
            logp = self.conditional(i, self.hidden(i, carry), node).expand(n.shape[0], -1)
            logq = logq + logp.gather(1, x[:, i : i + 1])[:, 0]
            if i + 1 < self.S:
                carry = self.advance(i, carry, None if i else first, x[:, i])
                node = self.support.advance(i, node, x[:, i]).clamp_min(0)
        return logq

    @torch.no_grad()
    def conditionals(self, n: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Log-probabilities of every conditional at states n int [B, S] of the support.

        Returns, for each species in model order, (logp float64 [U, limit + 1], row int64 [B]): the conditional
        log q(n_i | n_before_i) of state b is logp[row[b]].
        """
        contexts = self.contexts(n[:, self.order].long())
        out = [(self.conditional(i, hidden, node), row) for i, (row, hidden, node) in enumerate(contexts)]
        return [out[p] for p in self.position]

    def contexts(self, x: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """What the conditionals of states depend on, position by position: x int64 [N, S] in network order.

        Yields the number of the prefix of every state, int64 [N], and for each of these U distinct prefixes the hidden
        vector [U, width] and the node of the support, int64 [U]. States outside the support go on anywhere.
        """
        row = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        node, carry = row[:1], self.begin()
        for i, limit in enumerate(self.limits):
            yield row, self.hidden(i, carry), node
            if i + 1 < self.S:
                key, row = torch.unique(row * (limit + 1) + x[:, i], return_inverse=True)
                parent, count = key // (limit + 1), key % (limit + 1)
                carry = self.advance(i, carry, parent, count)
                node = self.support.advance(i, node[parent], count).clamp_min(0)

    def near(self, i: int) -> list[int]:
        """Positions before i, but those of which conditional i sees no more than a total."""
        return list(range(i))

    def _rows(self) -> int:
        """Rows in one sweep, so that the widest intermediate stays in memory."""
        return max(1, _CHUNK_ENTRIES // (max(self.limits) + 1))

    def set_marginals(self, pmfs: list[torch.Tensor]) -> None:
        """Start the heads from independent marginals: pmfs[i] float64 [limit_i + 1], in model order."""
        for i, species in enumerate(self.order):
            if pmfs[species].shape[0] != self.limits[i] + 1:
                raise InternalError(f"marginal of species {species} has {pmfs[species].shape[0]} entries")
            self.heads[i].set_marginal(pmfs[species])


def cumulative(p: torch.Tensor) -> torch.Tensor:
    """Running sums along the last dimension, float64 [U, K], the same bits every time.

    torch's scan on a GPU adds in an order that may differ between runs (and is refused in deterministic mode); doubling
    strides add in one fixed order, in log2(K) passes.
    """
    if p.device.type == "cpu":
        return p.cumsum(dim=-1)
    return strided_cumulative(p)


def strided_cumulative(p: torch.Tensor) -> torch.Tensor:
    """`cumulative` by doubling strides (Hillis and Steele 1986), on any device."""
    stride = 1
    while stride < p.shape[-1]:
        p = torch.cat([p[..., :stride], p[..., stride:] + p[..., :-stride]], dim=-1)
        stride *= 2
    return p


def _inverse_cdf(logp: torch.Tensor, row: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Counts at which the distribution function first exceeds u; never a count of probability zero.

    logp float64 [U, K]; row int64 [N], prefix of every row; u float64 [B], B <= N. Returns int64 [B].
    """
    cdf = cumulative(logp.exp())
    if cdf.shape[0] == 1:
        return torch.searchsorted(cdf[0], u * cdf[0, -1], right=True)
    cdf = cdf[row[: u.shape[0]]]
    # u < 1 times the total stays below the last entry, so rounding can not push a count past the support.
    return torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)[:, 0]


def _step(logq: torch.Tensor, logp: torch.Tensor, parent: torch.Tensor | None, count: torch.Tensor) -> torch.Tensor:
    """log q of prefixes one position on, float64 [U']."""
    if parent is None:
        return logq + logp.gather(1, count[:, None])[:, 0]
    # one flat look-up: its backward is a single scatter
    return logq[parent] + logp.reshape(-1).index_select(0, parent * logp.shape[1] + count)
