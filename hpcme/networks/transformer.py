"""Causal transformer over the species (Vaswani et al. 2017), in the pre-norm form (Xiong et al. 2020).

Token 0 stands for the empty prefix, token i + 1 for the count at position i: that count's row of the position's table
plus the position's own vector. In every block a token looks at itself and at the tokens before it; what leaves the last
block at token i is the hidden vector of conditional i. The keys and values that later tokens need are kept, once for
every distinct prefix, so each token of each distinct prefix is computed once: a sweep is one pass of the network.

Scheme `tdvp` never trains what is below the heads, so all of it starts as features worth having: entries of the tables
are steps at random places in the range of a count, attention is sharp enough to depend on what it looks at, and units
turn over at random places. A norm behind the last block, usual elsewhere, would take the size of what was seen from the
heads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from hpcme.networks.base import VAN
from hpcme.networks.features import CountTables, random_steps
from hpcme.networks.support import Support

_WIDER = 4  # hidden units of a block, in widths
_POSITION = 0.5  # size of the positions' vectors, in that of the tables' entries
_GATHERED = 1_000_000  # numbers of keys and values that are gathered at a time
_SMALL = 1e-5  # below every mean square of a norm


class Transformer(VAN):
    """Blocks x -> y = x + attention(norm(x)) -> y + units(norm(y)).

    width: of tokens; depth: number of blocks. Tokens look back in 4, 2 or 1 parts, each on its own: the most that
    divide the width.
    """

    def __init__(
        self, limits: np.ndarray, order: list[int], support: Support, width: int, depth: int, heads: list[str],
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        super().__init__(limits, order, support, width, heads, dtype)
        self.width, self.depth = width, depth
        self.inputs = CountTables(self.limits[:-1], [random_steps(limit, width) for limit in self.limits[:-1]], dtype)
        self.positions = nn.Parameter(_POSITION * torch.randn(self.S, width, dtype=dtype))
        parts = next(parts for parts in (4, 2, 1) if width % parts == 0)
        self.blocks = nn.ModuleList(Block(width, parts, dtype) for _ in range(depth))

    def begin(self) -> Carry:
        first = self.positions[:1]
        seen = torch.zeros(1, 0, dtype=torch.int64, device=first.device)
        return self._append(first, seen, [first.new_zeros(0, 2 * self.width)] * self.depth)

    def hidden(self, i: int, carry: Carry) -> torch.Tensor:
        return carry.top

    def advance(self, i: int, carry: Carry, parent: torch.Tensor | None, count: torch.Tensor) -> Carry:
        seen = carry.seen if parent is None else carry.seen.index_select(0, parent)
        return self._append(self.inputs.rows(i, count) + self.positions[i + 1], seen, carry.memory)

    def _append(self, x: torch.Tensor, seen: torch.Tensor, memory: list[torch.Tensor]) -> Carry:
        """Send the next token of every prefix, [U, width], through the blocks."""
        own = memory[0].shape[0] + torch.arange(x.shape[0], device=x.device)
        seen = torch.cat([seen, own[:, None]], dim=1)
        kept = []
        for block, before in zip(self.blocks, memory, strict=True):
            x, after = block(x, before, seen)
            kept.append(after)
        return Carry(x, seen, kept)


class Carry(NamedTuple):
    """Sweep state at token i.

    top: what leaves the last block there, [U, width]. memory: for each block keys and values of all tokens of all
    distinct prefixes so far, [M, 2 width]. seen: where the tokens 0..i of each prefix stand in it, int64 [U, i + 1].
    """

    top: torch.Tensor
    seen: torch.Tensor
    memory: list[torch.Tensor]


class Block(nn.Module):
    """Attention of a token to itself and the tokens before it, then a layer of hidden units, both residual."""

    def __init__(self, width: int, attention_heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.width, self.attention_heads = width, attention_heads
        self.before_attention, self.before_units = Norm(width, dtype), Norm(width, dtype)
        self.project = _normal((width, 3 * width), dtype)  # to query, key and value
        self.join = _normal((width, width), dtype)
        self.up = _normal((width, _WIDER * width), dtype)
        self.up_bias = nn.Parameter(torch.empty(_WIDER * width, dtype=dtype).uniform_(-1.0, 1.0))
        self.down = _normal((_WIDER * width, width), dtype)
        self.down_bias = nn.Parameter(torch.zeros(width, dtype=dtype))

    def forward(self, x: torch.Tensor, memory: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One more token x [U, width]; memory, seen: see `Carry`. Returns what leaves and the memory with it."""
        query, own = (self.before_attention(x) @ self.project).split([self.width, 2 * self.width], dim=1)
        memory = torch.cat([memory, own])
        rows = max(1, _GATHERED // (2 * self.width * seen.shape[1]))
        found = [self._attend(*part, memory) for part in zip(query.split(rows), seen.split(rows), strict=True)]
        x = x + torch.cat(found) @ self.join
        units = nn.functional.gelu(torch.addmm(self.up_bias, self.before_units(x), self.up))
        return x + torch.addmm(self.down_bias, units, self.down), memory

    def _attend(self, query: torch.Tensor, seen: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """softmax(query . keys / sqrt(size)) values over the tokens seen, in each part of the width: [U, width]."""
        U, tokens, size = *seen.shape, self.width // self.attention_heads
        gathered = memory.index_select(0, seen.reshape(-1)).view(U, tokens, 2, self.attention_heads, size)
        keys, values = gathered.unbind(dim=2)
        score = (keys * query.view(U, 1, self.attention_heads, size)).sum(dim=3) / math.sqrt(size)
        share = torch.softmax(score, dim=1)
        return (share[..., None] * values).sum(dim=1).reshape(U, self.width)


class Norm(nn.Module):
    """x / sqrt(mean of x^2) times a learnt gain (Zhang and Sennrich 2019).

    A norm that takes the mean off as well would leave nothing of a token of width 1, and a sign of one of width 2.
    """

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt((x * x).mean(dim=1, keepdim=True) + _SMALL) * self.gain


def _normal(shape: tuple[int, int], dtype: torch.dtype) -> nn.Parameter:
    """Weights that keep the size of what they take."""
    return nn.Parameter(torch.randn(shape, dtype=dtype) / math.sqrt(shape[0]))
