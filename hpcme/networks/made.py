"""Masked autoencoder for distribution estimation (MADE; Germain et al. 2015), in blocks.

Every position owns a block of hidden units in every layer. Block i of the first layer reads the counts of positions
before i; block i of a later layer reads blocks 0..i of the layer below: the masks of the paper, written as blocks that
exist. The sweep computes each block once, when its position comes, so it costs one pass of the network in all.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from hpcme.networks.base import VAN
from hpcme.networks.features import CountTables, random_ramps
from hpcme.networks.support import Support


class MADE(VAN):
    """Block-masked multilayer network with tanh units and residual connections between layers.

    width: hidden units per position and layer; depth: number of hidden layers.
    """

    def __init__(
        self, limits: np.ndarray, order: list[int], support: Support, width: int, depth: int, heads: list[str],
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        super().__init__(limits, order, support, width, heads, dtype)
        self.width, self.depth = width, depth
        S = self.S
        # Position i feeds the first-layer blocks i + 1 .. S - 1 only. Block j sums the ramps of j counts, and keeps the
        # size of a single one.
        tables = [
            torch.cat([random_ramps(limit, width) / math.sqrt(j) for j in range(i + 1, S)], dim=1)
            for i, limit in enumerate(self.limits[:-1])
        ]
        self.inputs = CountTables(self.limits[:-1], tables, dtype)
        self.first_bias = nn.Parameter(torch.empty(S * width, dtype=dtype).uniform_(-1.0, 1.0))
        self.weights = nn.ParameterList(
            _normal(((i + 1) * width, width), 1.0 / math.sqrt((i + 1) * width), dtype)
            for _ in range(depth - 1)
            for i in range(S)
        )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(width, dtype=dtype)) for _ in range((depth - 1) * S)
        )

    def begin(self) -> Carry:
        return self._block(0, self.first_bias[None, :], [self.first_bias.new_zeros(1, 0)] * (self.depth - 1))

    def hidden(self, i: int, carry: Carry) -> torch.Tensor:
        return carry.top

    def advance(self, i: int, carry: Carry, parent: torch.Tensor | None, count: torch.Tensor) -> Carry:
        pre, done = carry.pre, carry.done
        if parent is not None:
            pre, done = pre.index_select(0, parent), [d.index_select(0, parent) for d in done]
        pre = pre + self.inputs.rows(i, count)
        return self._block(i + 1, pre, done)

    def _block(self, i: int, pre: torch.Tensor, done: list[torch.Tensor]) -> Carry:
        """Compute block i in every layer; pre [U, (S - i) width], done: per layer below the top [U, i width]."""
        front, rest = pre.split([self.width, pre.shape[1] - self.width], dim=1)
        h = torch.tanh(front)
        kept = []
        for layer in range(self.depth - 1):
            kept.append(torch.cat([done[layer], h], dim=1))
            k = layer * self.S + i
            h = h + torch.tanh(torch.addmm(self.biases[k], kept[-1], self.weights[k]))
        return Carry(rest, kept, h)


class Carry(NamedTuple):
    """Sweep state after block i: first-layer pre-activations of the later blocks, [U, (S - 1 - i) width]; the blocks
    0..i of every layer but the top, [U, (i + 1) width] each; block i of the top layer, [U, width]."""

    pre: torch.Tensor
    done: list[torch.Tensor]
    top: torch.Tensor


def _normal(shape: tuple[int, int], scale: float, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, dtype=dtype) * scale)
