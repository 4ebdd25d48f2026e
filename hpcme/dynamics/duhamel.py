"""Duhamel's formula for a state that is left at a constant rate, with a flow in that is known at three times.

    T(t + c h) = exp(-a c h) q + integral over s from 0 to c h of exp(-a (c h - s)) g(t + s)

The logarithm of g is a parabola through its values at t, t + h/2 and t + h, which suits counts that come up like a
power of time as well as those that decay. The integral takes g on a finer grid, with exact weights for the exponential.
"""

from __future__ import annotations

import math

import torch

NOTHING = 1e-300
_PIECES = 8  # of the finer grid, an even number
_OVERSHOOT = 0.5  # log g may pass its three values by this much; else it is two straight lines


class Duhamel:
    """T at t + h/2 and t + h from q at t and the flow in at the three nodes, at every state."""

    def __init__(self, a: torch.Tensor, h: float) -> None:
        """a float64 [D]: exit rates."""
        phi = _phi(a * h)
        self.even = 1.0 / phi[0]  # k of the module, float64 [D]
        self.whole = torch.exp(-a * h), h * (phi[0] - phi[1]), h * phi[1]
        # On each of the pieces a parabola again, now through values that differ little.
        k = h / _PIECES
        one, two, three = _phi(a * k)
        three = 2.0 * three
        self.decay = torch.exp(-a * k)
        self.weights = k * (one - 3.0 * two + 2.0 * three), 4.0 * k * (two - three), k * (2.0 * three - two)
        c = torch.linspace(0.0, 1.0, 2 * _PIECES + 1, dtype=a.dtype, device=a.device)[:, None]
        self.parabola = (1.0 - c) * (1.0 - 2.0 * c), 4.0 * c * (1.0 - c), c * (2.0 * c - 1.0)
        self.lines = (1.0 - 2.0 * c).clamp_min(0.0), 1.0 - (1.0 - 2.0 * c).abs(), (2.0 * c - 1.0).clamp_min(0.0)

    def simple(self, q: torch.Tensor, g0: torch.Tensor, g1: torch.Tensor) -> torch.Tensor:
        """T at t + h with g a straight line between its values at t and t + h."""
        decay, first, second = self.whole
        return decay * q + first * g0 + second * g1

    def targets(self, q: torch.Tensor, g0: torch.Tensor, gm: torch.Tensor, g1: torch.Tensor) -> torch.Tensor:
        """T at t + h/2 and t + h, float64 [2, D]."""
        g, _ = self._path(g0, gm, g1)
        return torch.stack(self._integrals(q, g)).clamp_min(NOTHING)

    def follow(self, q: torch.Tensor, g0: torch.Tensor, gm: torch.Tensor, g1: torch.Tensor) -> torch.Tensor:
        """d log T / d log g, float64 [2, 2, D]: of T at t + h/2 and t + h (first) with g at the same times (second)."""
        g, bases = self._path(g0, gm, g1)
        targets, nothing = torch.stack(self._integrals(q, g)).clamp_min(NOTHING), torch.zeros_like(q)
        return torch.stack([torch.stack(self._integrals(nothing, g * basis)) / targets for basis in bases[1:]], dim=1)

    def _path(self, g0: torch.Tensor, gm: torch.Tensor, g1: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The flow in on the finer grid, float64 [17, D], and the bases of its logarithm at the three nodes there."""
        logs = [g.clamp_min(NOTHING).log() for g in (g0, gm, g1)]
        path = sum(basis * log[None, :] for basis, log in zip(self.parabola, logs, strict=True))
        highest = torch.stack(logs).amax(dim=0)
        over = path.amax(dim=0) > highest + _OVERSHOOT
        straight = sum(basis * log[None, :] for basis, log in zip(self.lines, logs, strict=True))
        bases = [torch.where(over, a, b) for a, b in zip(self.lines, self.parabola, strict=True)]
        return torch.where(over, straight, path).exp(), bases

    def _integrals(self, q: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
        """T at t + h/2 and t + h for flows g float64 [17, D] on the finer grid."""
        out, (W0, Wm, W1) = [], self.weights
        for piece in range(_PIECES):
            q = self.decay * q + W0 * g[2 * piece] + Wm * g[2 * piece + 1] + W1 * g[2 * piece + 2]
            if piece in (_PIECES // 2 - 1, _PIECES - 1):
                out.append(q)
        return out


def _phi(x: torch.Tensor) -> list[torch.Tensor]:
    """phi_1, phi_2 and phi_3 of exp(-x), by their series where differences cancel: phi_k(x) = sum (-x)^j / (j + k)!."""
    small = x < 0.5
    y, z = torch.where(small, x, torch.zeros_like(x)), torch.where(small, torch.ones_like(x), x)
    out, value = [], torch.exp(-z)
    for k in (1, 2, 3):
        value = (1.0 / math.factorial(k - 1) - value) / z
        series = torch.zeros_like(y)
        for j in reversed(range(14)):
            series = series * -y + 1.0 / math.factorial(j + k)
        out.append(torch.where(small, series, value))
    return out
