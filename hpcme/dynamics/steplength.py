"""Step lengths of the explicit scheme `projection`: by expected transitions, stable for the fastest state sampled."""

from __future__ import annotations

import numpy as np
import torch

from hpcme.dynamics.borders import border_rates
from hpcme.dynamics.enumeration import Enumeration
from hpcme.dynamics.target import MAX_EXITS
from hpcme.exact.borders import Borders
from hpcme.parallel.world import World

_MARGIN = 0.8  # of the stable step of the fastest state sampled: the epochs will meet faster ones
_LOOKS = 8  # times within a step at which rates that depend on time are looked at
_GROWTH = 1.5  # after a shortened step the next may be longer by this factor


class StepLength:
    """Chooses steps; `longest` is the length that positivity allowed last, growing back."""

    def __init__(self, job, enumeration: Enumeration, world: World) -> None:
        self.job, self.enumeration, self.world = job, enumeration, world
        self.longest = np.inf
        self.borders = Borders.of(job)

    def choose(self, n: torch.Tensor, t: float, rest: float) -> tuple[float, float, float, np.ndarray]:
        """Step from t, at most to t + rest, given samples n int32 [B, S] of the law: (dt, E[a0], rate of leaving,
        rates of leaving through limits that may grow [G])."""
        exit_rate, fastest, leak, borders = self.rates(n, t)
        dt = self.length(exit_rate, fastest, rest)
        if self.enumeration.net.time_dependent:
            # Step by the largest rates on the way: a rate that rises within the step shortens it.
            most = exit_rate
            for ahead in range(1, _LOOKS + 1):
                later = self.rates(n, t + dt * ahead / _LOOKS)
                most, fastest = max(most, later[0]), max(fastest, later[1])
            dt = min(dt, self.length(most, fastest, rest))
        return dt, exit_rate, leak, borders

    def taken(self, wanted: float, dt: float) -> None:
        """The step that was wanted was done with length dt."""
        self.longest = dt * _GROWTH if dt < wanted else self.longest * _GROWTH

    def rates(self, n: torch.Tensor, t: float) -> tuple[float, float, float, np.ndarray]:
        """E_q[a0], the largest a0 met, the mean rate of leaving the limits at time t and those of leaving through each
        limit that may grow [G], over all ranks."""
        a, leak = self.enumeration.outflow(n, t, t)
        a0 = a.sum(dim=1)
        sums = torch.stack([a0.sum(), leak.sum(), a.new_tensor(float(n.shape[0]))])
        sums = self.world.sum_(torch.cat([sums, border_rates(self.borders, n, leak, None, t)]))
        total, leaving, count = sums[:3].tolist()
        fastest = -float(self.world.min_(-a0.max().reshape(1)))
        return total / count, fastest, leaving / count, sums[3:].cpu().numpy() / count

    def length(self, exit_rate: float, fastest: float, rest: float) -> float:
        """Step by the job's rule, stable for the states just sampled, fitted to `rest` without a sliver left over."""
        dt = self.job["solver.dt"]
        if dt == "auto":
            dt = self.job["solver.jumps"] / exit_rate if exit_rate > 0.0 else np.inf
        if self.job["solver.dt"] == "auto" and fastest > 0.0:
            dt = min(dt, _MARGIN * MAX_EXITS[self.job["solver.order"]] / fastest)
        dt = min(dt, self.longest)
        return rest / max(1, int(np.ceil(rest / dt - 1e-9))) if np.isfinite(dt) else rest
