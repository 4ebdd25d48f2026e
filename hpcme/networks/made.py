"""Masked autoencoder for distribution estimation (MADE; Germain et al. 2015), in blocks.

Every position owns a block of hidden units in every layer. Block i of the first layer reads the counts of positions
before i; block i of a later layer reads blocks 0..i of the layer below. A teacher-forced pass is a few dense matrix
products; the sampling sweep computes each block once, when its position comes, so it costs one pass in all.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from hpcme.networks.base import VAN
from hpcme.networks.features import count_features
from hpcme.networks.support import Support


class MADE(VAN):
    """Block-masked multilayer network with tanh units and residual connections between layers.

    width: hidden units per position and layer; depth: number of hidden layers.
    """

    def __init__(
        self, limits: np.ndarray, order: list[int], support: Support, width: int, depth: int, head: str,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        super().__init__(limits, order, support, width, head, dtype)
        self.width, self.depth = width, depth
        S = self.S
        for i in range(S - 1):
            features = torch.from_numpy(count_features(self.limits[i])).to(dtype)
            self.register_buffer(f"features{i}", features, persistent=False)
        # Position i feeds the first-layer blocks i + 1 .. S - 1 only.
        self.inputs = nn.ParameterList(
            _normal((getattr(self, f"features{i}").shape[1], (S - 1 - i) * width), 1.0 / math.sqrt(i + 1), dtype)
            for i in range(S - 1)
        )
        self.first_bias = nn.Parameter(torch.empty(S * width, dtype=dtype).uniform_(-1.0, 1.0))
        block = torch.arange(S).repeat_interleave(width)
        self.register_buffer("mask", (block[:, None] <= block[None, :]).to(dtype), persistent=False)
        self.weights = nn.ParameterList(
            _normal((S * width, S * width), 1.0 / math.sqrt(width * S), dtype) for _ in range(depth - 1)
        )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(S * width, dtype=dtype)) for _ in range(depth - 1)
        )

    def begin(self, B: int) -> dict:
        # pre: first-layer pre-activations of all blocks, complete for a block once its position comes.
        return {"pre": self.first_bias[None, :], "layers": [[] for _ in range(self.depth)], "done": -1}

    def hidden(self, i: int, carry: dict) -> torch.Tensor:
        if carry["done"] < i:
            self._block(i, carry)
        return carry["layers"][-1][i]

    def advance(self, i: int, carry: dict, n_i: torch.Tensor) -> dict:
        self.hidden(i, carry)
        added = (getattr(self, f"features{i}") @ self.inputs[i])[n_i]
        pre = carry["pre"]
        layers = carry["layers"]
        if pre.shape[0] == 1:
            layers = [[h.expand(n_i.shape[0], -1) for h in layer] for layer in layers]
        return {"pre": pre[:, self.width :] + added, "layers": layers, "done": i}

    def _block(self, i: int, carry: dict) -> None:
        w, layers = self.width, carry["layers"]
        h = torch.tanh(carry["pre"][:, :w])  # the front block is position i: passed ones were cut off
        layers[0] = [*layers[0], h]
        for depth in range(1, self.depth):
            below = torch.cat(layers[depth - 1], dim=1)
            columns = slice(i * w, (i + 1) * w)
            weight = self.weights[depth - 1][: (i + 1) * w, columns]
            h = h + torch.tanh(torch.addmm(self.biases[depth - 1][columns], below, weight))
            layers[depth] = [*layers[depth], h]
        carry["done"] = i

    def all_hidden(self, n: torch.Tensor) -> list[torch.Tensor]:
        B, w = n.shape[0], self.width
        pre = self.first_bias.expand(B, -1)
        for i in range(self.S - 1):
            added = (getattr(self, f"features{i}") @ self.inputs[i])[n[:, i]]
            pre = pre + nn.functional.pad(added, ((i + 1) * w, 0))
        h = torch.tanh(pre)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = h + torch.tanh(torch.addmm(bias, h, weight * self.mask))
        return list(h.split(w, dim=1))


def _normal(shape: tuple[int, int], scale: float, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, dtype=dtype) * scale)
