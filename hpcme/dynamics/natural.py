"""Natural gradient of a network's law for any architecture: damped Gauss-Newton steps on a fixed set of samples.

A fit wants log q' - log T to be the same number at all states. With scores O(n) = d log q'(n) / d theta, weights w of
the samples (sum 1) and residuals r (weighted mean 0), the step of Levenberg and Marquardt is

    delta = - argmin_v  sum_n w (O_c(n) . v - r(n))^2 + lambda |D^(1/2) v|^2,     O_c = O - sum_n w O,  D = diag(S),

which is the natural gradient step of KL(q' || T) (Amari 1998) where the samples follow q'. With S = sum_n w O_c O_c^T,
of size P x P, it costs P^3; where parameters outnumber states the same step follows from the B x B matrix of products
of scores ("minSR": Chen and Heyl 2024), at B^3. The damping is relative to D, so rare states are not frozen; D has a
floor, or parameters that hardly any sample depends on would move far for nothing.
"""

from __future__ import annotations

import torch
from torch.func import functional_call, grad, vmap

from hpcme.networks.base import VAN
from hpcme.parallel.world import World

DAMPING = 1e-3  # of the diagonal of the Fisher matrix
_SETTLED = 0.02  # a fit ends when a step removes less than this share of the variance
_CHUNK_ENTRIES = 20_000_000  # numbers in the scores of states that are differentiated at a time
_FLOOR = 0.1  # of the largest entry of D


class Scores:
    """Scores of single states: d log q(n) / d theta for every parameter of the network, in order."""

    def __init__(self, network: VAN) -> None:
        self.network = network
        self.size = sum(p.numel() for p in network.parameters())

        def log_prob(parameters: dict[str, torch.Tensor], n: torch.Tensor) -> torch.Tensor:
            return functional_call(network, parameters, (n[None],))[0]

        self._each = vmap(grad(log_prob), in_dims=(None, 0))

    def __call__(self, n: torch.Tensor) -> torch.Tensor:
        """float64 [B, P] at states n int32 [B, S] of the support."""
        parameters = {name: p.detach() for name, p in self.network.named_parameters()}
        out = torch.empty(n.shape[0], self.size, dtype=torch.float64, device=n.device)
        rows = max(1, _CHUNK_ENTRIES // self.size)
        for first in range(0, n.shape[0], rows):
            part = n[first : first + rows]
            found = self._each(parameters, part)
            columns = [found[name].reshape(len(part), -1).double() for name in parameters]
            torch.cat(columns, 1, out=out[first : first + rows])
        return out


class Equations:
    """The linear problem of one step, over the samples of all ranks; every rank gets the same answer.

    scores float64 [B, P], weight float64 [B] (positive; any scale), residual float64 [B]: this rank's samples.
    form: "parameters" (P x P) or "states" (B x B over all ranks); default: the smaller one.
    """

    def __init__(
        self, scores: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor, world: World, form: str | None = None
    ) -> None:
        P = scores.shape[1]
        counts = torch.zeros(world.size, dtype=torch.float64, device=scores.device)
        counts[world.rank] = scores.shape[0]
        total = weight.sum()
        sums = torch.cat([scores.T @ weight, (weight @ residual)[None], total[None], counts])
        sums = world.sum_(sums)
        mean, mean_residual, total, counts = sums[:P], sums[P], sums[P + 1], sums[P + 2 :].long().tolist()
        root = (weight / total).sqrt()
        rows = (scores - mean / total).mul_(root[:, None])
        residual = (residual - mean_residual / total) * root
        diagonal = world.sum_((rows * rows).sum(dim=0))
        self.scale = diagonal.clamp_min(_FLOOR * float(diagonal.max()) + 1e-300).rsqrt()
        self.rows = rows.mul_(self.scale)
        first, B = sum(counts[: world.rank]), sum(counts)
        self.world, self.own = world, slice(first, first + scores.shape[0])
        self.form = form or ("parameters" if P <= B else "states")
        if self.form == "parameters":
            both = torch.cat([self.rows.T @ self.rows, (self.rows.T @ residual)[None]])
            both = world.sum_(both)
            self.matrix, self.right = both[:P], both[P]
        else:
            every = self._of_all_ranks(self.rows, B)
            self.right = self._of_all_ranks(residual, B)
            self.matrix = self._of_all_ranks(self.rows @ every.T, B)

    def _of_all_ranks(self, own: torch.Tensor, B: int) -> torch.Tensor:
        """The rows of all ranks, float64 [B, ...], from this rank's."""
        if self.world.size == 1:
            return own
        every = own.new_zeros(B, *own.shape[1:])
        every[self.own] = own
        return self.world.sum_(every)

    def step(self, damping: float) -> torch.Tensor:
        """delta, float64 [P]; damping: lambda above, relative to the diagonal of S."""
        factor = torch.linalg.cholesky(self.matrix + damping * torch.eye(len(self.matrix)).to(self.matrix))
        x = torch.cholesky_solve(self.right[:, None], factor)[:, 0]
        if self.form == "states":
            x = self.world.sum_(self.rows.T @ x[self.own])
        return -self.scale * x


class LevenbergMarquardt:
    """Steps of a fit on a fixed set of samples: a step that makes the fit worse is undone and damped more."""

    def __init__(self, scores: Scores, world: World, damping: float) -> None:
        self.scores, self.world, self.start = scores, world, damping
        self.begin()

    def begin(self) -> None:
        """Forget the last fit: other samples or another target follow."""
        self.damping = self.start
        self.best = float("inf")
        self.equations: Equations | None = None
        self.at: torch.Tensor | None = None
        self.settled = False  # nothing more to win

    def update(
        self, flat: torch.Tensor, n: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor, variance: float
    ) -> None:
        """Move the parameters `flat` [P] in place, given the residuals at them and their variance over all ranks."""
        if not variance <= self.best:  # also where it is not finite
            self.damping *= 10.0
        else:
            self.settled = variance > (1.0 - _SETTLED) * self.best
            self.best, self.at = variance, flat.clone()
            if self.settled:
                return
            self.damping = max(self.start, self.damping / 10.0)
            self.equations = Equations(self.scores(n), weight, residual, self.world)
        flat.copy_(self.at + self.equations.step(self.damping).to(flat.dtype))

    def settle(self, flat: torch.Tensor, variance: float) -> float:
        """End of a fit: keep the better of the present parameters and the best before them; returns its variance."""
        if self.at is None or variance <= self.best:
            return variance
        flat.copy_(self.at)
        return self.best
