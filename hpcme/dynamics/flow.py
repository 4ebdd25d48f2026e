"""The master equation on the tangent space of a network: residuals and matrices over a cloud of states, on all ranks.

Test functions are the scores O of the heads (`hpcme.dynamics.tangent`). With densities over the cloud's states and its
counting weights w,

    F = O^T w (A q),    S = O^T w L O,    K = O^T w A (q O),

S v = F is the time-dependent variational principle for theta' = v (the Fisher matrix where L = q), and S - c K is the
derivative of O^T w (q' - c A q') along the heads' parameters. L is the logarithmic mean of q and the density that it
is about to become: with it a linear solve lands on the right log-probability even at states whose probability grows by
many orders of magnitude within a step (for a table of free log-probabilities L (log p' - log q) = p' - q exactly).
"""

from __future__ import annotations

import torch

from hpcme.dynamics.covering import Cloud, sparse_rows
from hpcme.dynamics.tangent import HeadParameters
from hpcme.parallel.world import World

_LEAST = 1e-3  # the logarithmic mean looks at falls of q by this factor at most
#: Probability that rare states are given, all together, in the metric: their log-probabilities are not thrown about for
#: the sake of directions that nothing else determines.
STILL = 1e-6
_FLOOR = 0.2  # and is at least this share of q
_RARE = 1e-3  # states that together carry less probability than this are thinned out in the matrices,
_SPARE = 8  # to one in eight
#: Entries of the scores that are held at once, over all states of a rank (float64).
_CHUNK = 12_000_000


class Flow:
    """Sums over one cloud. All results are global: each rank adds its states, one all-reduce joins them."""

    def __init__(self, cloud: Cloud, parameters: HeadParameters, world: World, coupled: bool) -> None:
        self.cloud, self.parameters, self.world, self.coupled = cloud, parameters, world, coupled
        self.count = float(world.sum_(cloud.weight.new_tensor([float(cloud.D)])))  # states of all ranks

    def density(self) -> torch.Tensor:
        """q float64 [E] at the tree's states and the present heads."""
        return self.cloud.tree.log_prob().exp()

    def project(self, density: torch.Tensor) -> torch.Tensor:
        """O^T w f, float64 [P], of a density f float64 [D] over the rows."""
        return self.world.sum_(self.cloud.tree.adjoint(self.cloud.weight * density))

    def total(self, density: torch.Tensor) -> float:
        """sum w f of a density f float64 [D]."""
        return float(self.world.sum_((self.cloud.weight * density).sum().reshape(1)))

    def mean_log(self, q: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logarithmic mean of q and a target, float64 [D], kept within bounds where the target vanishes."""
        return bounded_mean(q, target).clamp_min(STILL / self.count)

    def matrices(self, L: torch.Tensor, q: torch.Tensor, leave: torch.Tensor | None = None) -> tuple[list, list]:
        """S = O^T w L O and K = O^T w (A_in q - leave) O as lists of square blocks: one block for all parameters where
        the conditionals are coupled, else one per conditional. L, leave float64 [D] (densities, densities per time);
        q float64 [E]. K is empty where no `leave` is given."""
        transport = leave is not None
        states, weight = self._rows(L)
        S = self.parameters.network.S
        groups = [range(S)] if self.coupled else [range(i, i + 1) for i in range(S)]
        out_s, out_k = [], []
        for group in groups:
            size = sum(self.parameters.offsets[i + 1] - self.parameters.offsets[i] for i in group)
            out_s.append(q.new_zeros(size, size))
            out_k.append(q.new_zeros(size if transport else 0, size if transport else 0))
            rows = max(1, _CHUNK // size)
            for part, w in zip(states.split(rows), weight.split(rows), strict=True):
                self._add(group, part, w, L, q, leave, out_s[-1], out_k[-1])
        sizes = [m.numel() for m in (*out_s, *out_k)]
        flat = self.world.sum_(torch.cat([m.reshape(-1) for m in (*out_s, *out_k)]))
        parts = [part.view(m.shape) for part, m in zip(flat.split(sizes), (*out_s, *out_k), strict=True)]
        return parts[: len(groups)], parts[len(groups) :] if transport else []

    def _rows(self, L: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States that the matrices are summed over, int64 [M], and their weights: all that carry probability, and one
        in so many of the others, which are many. (The equations themselves are always summed over all states.)"""
        weight = self.cloud.weight
        rare = weight * L < _RARE / self.count
        position = torch.arange(self.cloud.D, device=L.device) + self.cloud.first
        used = (~rare | (position % _SPARE == 0)).nonzero()[:, 0]
        return used, torch.where(rare[used], _SPARE * weight[used], weight[used])

    def _add(self, group, states, weight, L, q, leave, S: torch.Tensor, K: torch.Tensor) -> None:
        """Add the sums over some of the rows, int64 [M] with weights [M], to S and K of one group of conditionals."""
        cloud, tree = self.cloud, self.cloud.tree
        O = torch.cat([tree.scores(i, states) for i in group], dim=1)
        w = weight[:, None]
        S += O.T @ (O * (w * L[states, None]))
        if leave is None:
            return
        # What leaves the states and what comes in from their sources, as one product.
        place = torch.full((cloud.D,), -1, dtype=torch.int64, device=q.device)
        place[states] = torch.arange(states.shape[0], device=q.device)
        chosen = place[cloud.row] >= 0
        row, source, rate = place[cloud.row[chosen]], cloud.source[chosen], cloud.rate[chosen]
        used, column = torch.unique(source, return_inverse=True)
        flux = sparse_rows(row, column, rate * q[source], (O.shape[0], used.shape[0]))
        moved = torch.cat([flux @ tree.scores(i, used) for i in group], dim=1)
        moved -= leave[states, None] * O
        K += O.T @ (moved.mul_(w))


def bounded_mean(q: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Logarithmic mean of q and a target, kept within bounds where the target vanishes."""
    return torch.maximum(logarithmic_mean(q, torch.maximum(target, _LEAST * q)), _FLOOR * q)


def logarithmic_mean(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(y - x) / log(y / x) of positive numbers, x where they are equal."""
    x, y = x.clamp_min(1e-290), y.clamp_min(1e-290)
    r = torch.log(y / x)
    near = (x * y).sqrt() * (1.0 + r * r / 24.0)
    return torch.where(r.abs() < 1e-3, near, (y - x) / torch.where(r == 0.0, torch.ones_like(r), r))


class Blocks:
    """Factorised blocks of a matrix S - c K with damping."""

    def __init__(self, S: list[torch.Tensor], K: list[torch.Tensor], c: float, relative: float, ridge: float) -> None:
        self.sizes = [block.shape[0] for block in S]
        self.metric = []
        self.factors = []
        self.damping = torch.cat([relative * block.diagonal() + ridge for block in S])
        for i, block in enumerate(S):
            damping = relative * block.diagonal() + ridge
            metric = block + torch.diag(damping)
            self.metric.append(metric)
            self.factors.append(torch.linalg.lu_factor(metric - c * K[i] if c else metric))

    def solve(self, r: torch.Tensor) -> torch.Tensor:
        """x with (S + damping - c K) x = r, float64 [P]."""
        parts = r.split(self.sizes)
        solved = [torch.linalg.lu_solve(*f, part[:, None])[:, 0] for f, part in zip(self.factors, parts, strict=True)]
        return torch.cat(solved)

    def times(self, d: torch.Tensor) -> torch.Tensor:
        """(S + damping) d, float64 [P]."""
        return torch.cat([metric @ part for metric, part in zip(self.metric, d.split(self.sizes), strict=True)])

    def norm(self, d: torch.Tensor) -> float:
        """Fisher norm sqrt(d^T S d), damping included, of a change of parameters d float64 [P]."""
        return float((d @ self.times(d)).clamp_min(0.0).sqrt())
