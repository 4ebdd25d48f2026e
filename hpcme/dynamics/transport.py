"""How the flow into the states of a cloud changes with the heads of one conditional.

Let u = O d be the change of log q along parameters d of conditional i. The flow into n is g(n) = sum_k f_k(n), with
f_k(n) what comes from n - s_k by reaction k, and its logarithm changes by

    sum_k f_k(n) / g(n) u(n - s_k) = u(n) + (Y d)(n),    (Y d)(n) = sum_k f_k(n) / g(n) (u(n - s_k) - u(n)).

Only reactions that change what the conditional sees, or its own count, have u(n - s_k) other than u(n): with many
species these are few. Reactions that change nothing but a total count far off are many, and change u little: they are
left out, which costs Newton's method little and changes nothing in what it finds.
"""

from __future__ import annotations

import torch

from hpcme.dynamics.covering import Cloud, compressed_rows, first_of_rows
from hpcme.dynamics.tangent import Scores


class Ways:
    """The transitions into the states of a cloud across which the score of conditional i changes: what of its transport
    stays the same while the heads move.

    entries int64 [m], transitions of the cloud; row int64 [m], states they lead to; alike int64 [U]: states, one for
    all sources that look alike to the conditional, and so have the same score. Sparse rows [D, U] with `size` entries:
    first int64 [D + 1], column int64 [size], and the place int64 [m] of every transition among them.
    """

    def __init__(self, cloud: Cloud, i: int) -> None:
        at, near = cloud.tree.at[i], cloud.parameters.network.near(i)
        places = at[cloud.source]
        other = (places != at[cloud.row]).nonzero()[:, 0]
        if len(near) < i:
            seen = cloud.tree.x[:, [*near, i]]
            other = other[(seen[cloud.source[other]] != seen[cloud.row[other]]).any(dim=1)]
        self.i, self.entries, self.row, self.D = i, other, cloud.row[other], cloud.D
        used, column = torch.unique(places[other], return_inverse=True)
        self.alike = torch.zeros(len(used), dtype=torch.int64, device=at.device)
        self.alike[column] = cloud.source[other]
        pairs, self.place = torch.unique(self.row * len(used) + column, return_inverse=True)
        self.size, self.column = len(pairs), pairs % max(1, len(used))
        self.first = first_of_rows(pairs // max(1, len(used)), cloud.D)

    def flow(self, share: torch.Tensor) -> torch.Tensor:
        """Sparse rows float64 [D, U] of the shares float64 [m]."""
        values = share.new_zeros(self.size).index_add_(0, self.place, share)
        return compressed_rows(self.first, self.column, values, (self.D, len(self.alike)))


class Transport:
    """The operator Y of one conditional over a cloud, at the present heads (after `StateTree.log_prob`)."""

    def __init__(self, cloud: Cloud, ways: Ways, share: torch.Tensor) -> None:
        """share float64 [entries]: f_k(n) / g(n) of every transition of the cloud."""
        share = share[ways.entries]
        self.sources: Scores = cloud.tree.score_factors(ways.i, ways.alike)
        self.flow = ways.flow(share)
        self.moved = torch.zeros(cloud.D, dtype=torch.float64, device=share.device).index_add_(0, ways.row, share)

    def rows(self, O: torch.Tensor) -> torch.Tensor:
        """Y^T, float64 [P, D], from the scores O^T of the states, float64 [P, D]."""
        return (self.flow @ self.sources.dense()).T - self.moved * O

    def apply(self, d: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Y d, float64 [n, D], of d float64 [n, P] and u = O d at the states, float64 [n, D]."""
        return (self.flow @ self.sources.apply(d).T.contiguous()).T - self.moved * u
