"""Neural autoregressive distribution estimator (NADE; Larochelle and Murray 2011): one accumulator for all positions.

All conditionals share their hidden units. Their pre-activations a start at one learnt vector, and each count seen adds
its row of a table, a_{i+1} = a_i + W_i f(n_i): a whole sweep costs one pass of a first layer. Deeper layers, computed
anew at every position, are shared by the positions too, as in the deep form of Uria, Cote, Gregor, Murray and
Larochelle (2016); that one knows all orders of the species, by masks among its inputs, where this one has one order.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from hpcme.networks.base import VAN
from hpcme.networks.features import CountTables, random_ramps
from hpcme.networks.support import Support


class NADE(VAN):
    """h_1 = tanh(a_i), h_{l+1} = h_l + tanh(h_l W_l + b_l); position i's head reads the last of them.

    width: hidden units of each layer; depth: number of hidden layers.
    """

    def __init__(
        self, limits: np.ndarray, order: list[int], support: Support, width: int, depth: int, heads: list[str],
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        super().__init__(limits, order, support, width, heads, dtype)
        self.width, self.depth = width, depth
        # Units turn over at random points of the counts' range. The sum over all species keeps the size of a single
        # one: units that saturate are steps in many counts at once, with which heads fit the noise of samples.
        ramps = [random_ramps(limit, width) / math.sqrt(self.S - 1) for limit in self.limits[:-1]]
        self.inputs = CountTables(self.limits[:-1], ramps, dtype)
        self.first = nn.Parameter(torch.empty(1, width, dtype=dtype).uniform_(-1.0, 1.0))
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(width, width, dtype=dtype) / math.sqrt(width)) for _ in range(depth - 1)
        )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.empty(width, dtype=dtype).uniform_(-1.0, 1.0)) for _ in range(depth - 1)
        )

    def begin(self) -> torch.Tensor:
        return self.first

    def hidden(self, i: int, carry: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(carry)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = h + torch.tanh(torch.addmm(bias, h, weight))
        return h

    def advance(self, i: int, carry: torch.Tensor, parent: torch.Tensor | None, count: torch.Tensor) -> torch.Tensor:
        """carry: the accumulator a_i, [U, width]."""
        if parent is not None:
            carry = carry.index_select(0, parent)
        return carry + self.inputs.rows(i, count)
