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

from hpcme.dynamics.covering import Cloud, sparse_rows
from hpcme.dynamics.tangent import Scores


class Transport:
    """The operator Y of one conditional over a cloud, at the present heads (after `StateTree.log_prob`)."""

    def __init__(self, cloud: Cloud, i: int, share: torch.Tensor) -> None:
        """share float64 [entries]: f_k(n) / g(n) of every transition of the cloud."""
        at, near = cloud.tree.at[i], cloud.parameters.network.near(i)
        places = at[cloud.source]
        other = (places != at[cloud.row]).nonzero()[:, 0]
        if len(near) < i:
            seen = cloud.tree.x[:, [*near, i]]
            other = other[(seen[cloud.source[other]] != seen[cloud.row[other]]).any(dim=1)]
        row, share = cloud.row[other], share[other]
        # Sources that look alike to the conditional have the same score.
        used, column = torch.unique(places[other], return_inverse=True)
        alike = torch.zeros(len(used), dtype=torch.int64, device=at.device)
        alike[column] = cloud.source[other]
        self.sources: Scores = cloud.tree.score_factors(i, alike)
        self.flow = sparse_rows(row, column, share, (cloud.D, len(used)))
        self.moved = torch.zeros(cloud.D, dtype=torch.float64, device=at.device).index_add_(0, row, share)

    def dense(self, O: torch.Tensor) -> torch.Tensor:
        """Y, float64 [D, P], from the scores O of the states, float64 [D, P]."""
        return self.flow @ self.sources.dense() - self.moved[:, None] * O

    def apply(self, d: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Y d, float64 [n, D], of d float64 [n, P] and u = O d at the states, float64 [n, D]."""
        return (self.flow @ self.sources.apply(d).T.contiguous()).T - self.moved * u
