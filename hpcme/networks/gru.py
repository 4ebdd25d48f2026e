"""Gated recurrent unit over the species, the network of Tang, Weng and Zhang (2023)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from hpcme.networks.base import VAN
from hpcme.networks.features import CountTables, features_of
from hpcme.networks.support import Support


class GRU(VAN):
    """Stacked GRU (Cho et al. 2014); position i reads the count of position i - 1 through its own input table.

    With x the input table's row of the last count, W the recurrent weights (all three gates) and h the old state:
    r, z = sigmoid(x_rz + (h W)_rz); c = tanh(x_c + r * ((h W)_c + b)); h' = (1 - z) c + z h.
    """

    def __init__(
        self, limits: np.ndarray, order: list[int], support: Support, width: int, depth: int, heads: list[str],
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        super().__init__(limits, order, support, width, heads, dtype)
        self.width, self.depth = width, depth
        bound = 1.0 / math.sqrt(width)
        sizes = [(features_of(limit), 3 * width) for limit in self.limits[:-1]]
        self.inputs = CountTables(self.limits[:-1], [_uniform(size, bound, dtype) for size in sizes], dtype)
        self.between = nn.ParameterList(_uniform((width, 3 * width), bound, dtype) for _ in range(depth - 1))
        self.recurrent = nn.ParameterList(_uniform((width, 3 * width), bound, dtype) for _ in range(depth))
        self.gate_bias = nn.ParameterList(nn.Parameter(torch.zeros(3 * width, dtype=dtype)) for _ in range(depth))
        self.start = nn.ParameterList(_uniform((1, width), 1.0, dtype) for _ in range(depth))

    def begin(self) -> list[torch.Tensor]:
        return [torch.tanh(p) for p in self.start]

    def hidden(self, i: int, carry: list[torch.Tensor]) -> torch.Tensor:
        return carry[-1]

    def advance(
        self, i: int, carry: list[torch.Tensor], parent: torch.Tensor | None, count: torch.Tensor
    ) -> list[torch.Tensor]:
        x = self.inputs.rows(i, count)
        out: list[torch.Tensor] = []
        for layer, h in enumerate(carry):
            if layer:
                x = out[-1] @ self.between[layer - 1]
            # The recurrent product is the dear part: it is taken per old prefix, then handed to the new ones.
            both = torch.cat([torch.addmm(self.gate_bias[layer], h, self.recurrent[layer]), h], dim=1)
            if parent is not None:
                both = both.index_select(0, parent)
            out.append(_gates(x, both, self.width))
        return out


def _gates(x: torch.Tensor, both: torch.Tensor, width: int) -> torch.Tensor:
    """New hidden state [U, width]; both holds the recurrent pre-activations and the old state, [U, 4 width]."""
    # split, not slices: the backward of a slice fills a zero tensor of full size each time
    x_rz, x_c = x.split([2 * width, width], dim=1)
    h_rz, h_c, h = both.split([2 * width, width, width], dim=1)
    r, z = torch.sigmoid(x_rz + h_rz).chunk(2, dim=1)
    return torch.lerp(torch.tanh(torch.addcmul(x_c, r, h_c)), h, z)


def _uniform(shape: tuple[int, int], bound: float, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype).uniform_(-bound, bound))
