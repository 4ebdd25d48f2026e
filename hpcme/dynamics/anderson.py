"""Anderson's acceleration of fixed-point iterations (1965; Walker and Ni 2011). For linear ones it is GMRES."""

from __future__ import annotations

import torch

from hpcme.dynamics.duhamel import NOTHING

_ALIKE = 1e-10  # updates that differ by less than this share of their square are taken for the same


class Anderson:
    """Acceleration of x <- x + f(x), over all ranks.

    Vectors hold `head` numbers that go along with the others, and behind them this rank's part of those whose sum of
    squares is made small.
    """

    def __init__(self, world, head: int, size: int) -> None:
        """size: how many updates are remembered."""
        self.world, self.head, self.size = world, head, size
        self.taken: list[torch.Tensor] = []
        self.differences: list[torch.Tensor] = []
        self.last: torch.Tensor | None = None

    def square(self, v: torch.Tensor) -> float:
        """Sum of squares of a vector without its head, over all ranks."""
        return float(self.world.sum_(v.square().sum().reshape(1)))

    def extended(self, f: torch.Tensor) -> torch.Tensor:
        """What to add to x instead of f."""
        if self.last is not None:
            self.differences.append(f - self.last)
            self.differences, self.taken = self.differences[-self.size :], self.taken[-self.size :]
        self.last = f
        if not self.differences:
            return f
        F = torch.stack(self.differences)
        # Copies, so that memory is aligned alike every time: else products of the same numbers may differ in a bit.
        tail = F[:, self.head :].contiguous()
        sums = self.world.sum_(torch.cat([tail @ tail.T, (tail @ f[self.head :].contiguous())[:, None]], dim=1))
        G, b = sums[:, :-1].contiguous(), sums[:, -1:].contiguous()
        factor, problem = torch.linalg.cholesky_ex(G + torch.diag(_ALIKE * G.diagonal() + NOTHING))
        if int(problem):
            return f
        gamma = torch.cholesky_solve(b, factor)[:, 0]
        return f - gamma @ (F + torch.stack(self.taken))

    def take(self, step: torch.Tensor) -> None:
        """What was added to x in the end."""
        self.taken.append(step)
