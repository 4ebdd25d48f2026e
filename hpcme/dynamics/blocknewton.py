"""Newton's method for all conditionals of a network at once, at two times: its matrices, and its linear equations.

Unknown are the heads d [2, P] at both times, and the residuals of log q at the states of a cloud depend on them as

    rho - u + C (u + Y d),    u = O d,

with O the scores, Y the transport of the flow in (`hpcme.dynamics.transport`) and C how much log T at each time follows
log g at each. What is to vanish are O^T w rho, less a ridge. Scores of different conditionals are uncorrelated, so the
blocks of single conditionals are what matters most: sweeps over them in order (block Gauss-Seidel) would be all it
takes in a feed-forward chain with exact sums. Feedback, and samples, leave a remainder that GMRES takes care of: the
blocks are its preconditioner, so those of earlier updates serve as long as it converges.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from hpcme.dynamics.anderson import Anderson
from hpcme.dynamics.flow import Flow
from hpcme.dynamics.tangent import HeadParameters
from hpcme.dynamics.transport import Transport, Ways

_SWEEPS = 24  # over the conditionals: as long as forming the matrices anew takes
_SOLVED = 0.1  # they end when one is below this share of the first, in the Fisher norm
#: Of the ridge, for the parameters that do not depend on what a conditional sees. A count that is about to appear has
#: next to no probability, and these are what lets it rise in time; many states determine each of them.
_PLAIN = 0.03


def ridges(parameters: HeadParameters, ridge: float, device: torch.device) -> torch.Tensor:
    """What is added to the diagonals of all matrices, float64 [P]."""
    parts = []
    for rows, columns in parameters.shapes:
        part = torch.full((rows, columns), ridge, dtype=torch.float64, device=device)
        part[0] *= _PLAIN
        parts.append(part.reshape(-1))
    return torch.cat(parts)


class Matrices(NamedTuple):
    """LU factors and pivots of the matrices float64 [2 P, 2 P] of all conditionals, and the ridges float64 [P] in
    them. `fine` is False where numbers are not finite or a matrix is singular."""

    factors: list[tuple[torch.Tensor, torch.Tensor]]
    ridges: torch.Tensor
    fine: bool


class BlockNewton:
    """See the module. `matrices` are formed, or those of an earlier update; `solved` after each `solve`: whether its
    sweeps came to their end."""

    def __init__(
        self, flow: Flow, ways: list[Ways], weight: torch.Tensor, follow: torch.Tensor, share: torch.Tensor,
        relative: float, ridge: float, kept: Matrices | None = None,
    ) -> None:  # fmt: skip
        """Scores, transport and factorised damped matrices of all conditionals, at the laws evaluated last.

        weight float64 [D]; follow float64 [2, 2, D]: C of the module; share float64 [entries]: see `Transport`.
        relative, ridge: damping, as a share of the diagonal, and absolute. kept: matrices of an earlier update.
        """
        S, cloud = flow.parameters.network.S, flow.cloud
        self.flow, self.follow = flow, follow
        self.scores = [cloud.tree.score_factors(i, slice(0, cloud.D)) for i in range(S)]
        self.transport = [Transport(cloud, ways[i], share) for i in range(S)]
        self.solved = True
        if kept is None:
            kept = self._formed(weight, relative, ridges(flow.parameters, ridge, weight.device))
        self.matrices = kept

    def _formed(self, weight: torch.Tensor, relative: float, ridges: torch.Tensor) -> Matrices:
        """Those at the laws evaluated last."""
        # float64: float32 costs two thirds, but rounding then makes step lengths depend on the number of ranks.
        weights = (weight * self.follow).flatten(0, 1)
        parts = []
        for scores, transport in zip(self.scores, self.transport, strict=True):
            O = scores.rows()
            whole = (O + transport.rows(O)).T
            parts += scores.grams(weight[None, :]) + [(O * c) @ whole for c in weights]
        factors, fine = [], True
        sums = self.flow.world.sum_(torch.cat([part.reshape(-1) for part in parts]))
        for i, part in enumerate(sums.split([5 * parts[5 * i].numel() for i in range(len(self.scores))])):
            P = math.isqrt(len(part) // 5)
            M, blocks = part[: P * P].view(P, P), part[P * P :].view(2, 2, P, P)
            damped = M + torch.diag(relative * M.diagonal() + ridges[self.flow.parameters.slice(i)])
            both = torch.kron(torch.eye(2, dtype=M.dtype, device=M.device), damped)
            both -= blocks.transpose(1, 2).reshape(2 * P, 2 * P)
            factor, pivots, problem = torch.linalg.lu_factor_ex(both)
            fine = fine and not int(problem) and bool(torch.isfinite(factor).all())
            factors.append((factor, pivots))
        return Matrices(factors, ridges, fine)

    def solve(
        self, weight: torch.Tensor, rho: torch.Tensor, moved: torch.Tensor, small: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Update for residuals rho float64 [2, D] of log q with weights [D].

        moved float64 [2, P]: how far the parameters are from where the step began: what the ridge holds back. small:
        a sweep that is smaller than this, in the Fisher norm, is the last one. Returns the updates [2, P] and how they
        change log q at the states, [2, D].
        """
        root = weight.sqrt()
        sizes = [moved.numel(), rho.numel(), rho.numel(), rho.numel()]
        memory = Anderson(self.flow.world, sum(sizes[:3]), _SWEEPS)
        update, change, enough = torch.zeros_like(moved), torch.zeros_like(rho), None
        for _ in range(_SWEEPS):
            d, u, left = self._sweep(weight, rho, moved + update)
            parts = [part.reshape(-1) for part in (d, u, left - rho, root * u)]
            size = memory.square(parts[-1])
            step = memory.extended(torch.cat(parts))
            memory.take(step)
            d, u, more, _ = step.split(sizes)
            # Residuals are linear in the updates: what combinations of sweeps do to them is a combination too.
            update, change, rho = update + d.view_as(update), change + u.view_as(change), rho + more.view_as(rho)
            enough = max(_SOLVED**2 * size, small**2) if enough is None else enough
            self.solved = size <= enough
            if self.solved or not math.isfinite(size):
                break
        return update, change

    def _sweep(
        self, weight: torch.Tensor, rho: torch.Tensor, moved: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One conditional after the other: updates [2, P], changes of log q [2, D], and the residuals that are left."""
        update, change = torch.zeros_like(moved), torch.zeros_like(rho)
        factors, ridges, _ = self.matrices
        for i, (scores, transport, factor) in enumerate(zip(self.scores, self.transport, factors, strict=True)):
            own = self.flow.parameters.slice(i)
            r = self.flow.world.sum_(scores.adjoint(weight * rho)) - ridges[own] * moved[:, own]
            d = torch.linalg.lu_solve(*factor, r.reshape(-1, 1)).view_as(r)
            update[:, own] = d
            u = scores.apply(d)
            rho = rho - u + (self.follow * (u + transport.apply(d, u))[None, :, :]).sum(dim=1)
            change = change + u
        return update, change, rho
