"""Gated recurrent unit over the species, the network of Tang, Weng and Zhang (2023)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from hpcme.networks.base import VAN
from hpcme.networks.features import count_features
from hpcme.networks.support import Support


class GRU(VAN):
    """Stacked GRU (Cho et al. 2014); position i reads the count of position i - 1 through its own input table.

    With x the input table's row of the last count, W the recurrent weights (all three gates) and h the old state:
    r, z = sigmoid(x_rz + (h W)_rz); c = tanh(x_c + r * ((h W)_c + b)); h' = (1 - z) c + z h.
    """

    def __init__(
        self, limits: np.ndarray, order: list[int], support: Support, width: int, depth: int, head: str,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        super().__init__(limits, order, support, width, head, dtype)
        self.width, self.depth = width, depth
        bound = 1.0 / math.sqrt(width)
        for i in range(self.S - 1):
            features = torch.from_numpy(count_features(self.limits[i])).to(dtype)
            self.register_buffer(f"features{i}", features, persistent=False)
        self.inputs = nn.ParameterList(
            _uniform((getattr(self, f"features{i}").shape[1], 3 * width), bound, dtype) for i in range(self.S - 1)
        )
        self.between = nn.ParameterList(_uniform((width, 3 * width), bound, dtype) for _ in range(depth - 1))
        self.recurrent = nn.ParameterList(_uniform((width, 3 * width), bound, dtype) for _ in range(depth))
        self.gate_bias = nn.ParameterList(nn.Parameter(torch.zeros(3 * width, dtype=dtype)) for _ in range(depth))
        self.start = nn.ParameterList(_uniform((1, width), 1.0, dtype) for _ in range(depth))

    def begin(self, B: int) -> list[torch.Tensor]:
        return [torch.tanh(p) for p in self.start]  # one row serves all until the first count is known

    def hidden(self, i: int, carry: list[torch.Tensor]) -> torch.Tensor:
        return carry[-1]

    def advance(self, i: int, carry: list[torch.Tensor], n_i: torch.Tensor) -> list[torch.Tensor]:
        x = (getattr(self, f"features{i}") @ self.inputs[i])[n_i]
        out = []
        for layer, h in enumerate(carry):
            if layer:
                x = out[-1] @ self.between[layer - 1]
            recurrent = torch.addmm(self.gate_bias[layer], h, self.recurrent[layer])
            out.append(_gates(x, recurrent, h, self.width))
        return out


def _gates(x: torch.Tensor, recurrent: torch.Tensor, h: torch.Tensor, width: int) -> torch.Tensor:
    rz = torch.sigmoid(x[:, : 2 * width] + recurrent[:, : 2 * width])
    r, z = rz[:, :width], rz[:, width:]
    c = torch.tanh(torch.addcmul(x[:, 2 * width :], r, recurrent[:, 2 * width :]))
    return torch.lerp(c, h.expand_as(c), z)


def _uniform(shape: tuple[int, int], bound: float, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype).uniform_(-bound, bound))
