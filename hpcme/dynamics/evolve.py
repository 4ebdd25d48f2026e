"""The time loop: from the start to the end time, step by step.

One step: draw samples of the present law, choose the step, fit the network to the target, record. Reports are made
exactly at their times; checkpoints at their cadence; a stop request is agreed over the ranks at step boundaries.
Everything that determines the future is in `Evolution.state`, so a run that continues from a checkpoint takes the
same steps as one that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hpcme.dynamics.enumeration import Enumeration
from hpcme.dynamics.projection import Projection
from hpcme.dynamics.target import MAX_EXITS
from hpcme.dynamics.timers import Timers
from hpcme.errors import NumericalError
from hpcme.parallel.world import World

_MARGIN = 0.8  # of the stable step of the fastest state sampled: the epochs will meet faster ones
_LOOKS = 8  # times within a step at which rates that depend on time are looked at
_GROWTH = 1.5  # after a shortened step the next may be longer by this factor


@dataclass
class Progress:
    """Where a run stands, for bars and logs."""

    t: float
    end: float
    step: int
    dt: float
    residual: float
    wall: float


class Evolution:
    """State of a run between steps.

    recorder: what keeps results (`hpcme.store.recorder.Recorder` or a stand-in with the same methods).
    """

    def __init__(
        self, job, scheme: Projection, enumeration: Enumeration, world: World, recorder, timers: Timers
    ) -> None:
        self.job, self.scheme, self.enumeration, self.world = job, scheme, enumeration, world
        self.recorder, self.timers = recorder, timers
        self.times = job.report_times
        self.t, self.step, self.report, self.lost = 0.0, 0, 0, 0.0
        self.longest = np.inf  # step length that positivity allowed last, growing back

    def state(self) -> dict[str, object]:
        """Checkpoint of the run: arrays and numbers only."""
        own = {
            "t": float(self.t), "step": int(self.step), "report": int(self.report),
            "lost": float(self.lost), "longest": float(self.longest),
        }  # fmt: skip
        return {**own, **{f"scheme/{name}": value for name, value in self.scheme.state().items()}}

    def restore(self, state: dict[str, object]) -> None:
        """Continue from `state`."""
        self.t, self.step, self.report = float(state["t"]), int(state["step"]), int(state["report"])
        self.lost, self.longest = float(state["lost"]), float(state["longest"])
        self.scheme.restore({name[7:]: value for name, value in state.items() if name.startswith("scheme/")})

    def begin(self, t0: float) -> None:
        """Start at t0, the time of the law that the network was fitted to; the report at t = 0 exists already."""
        self.report, self.t = 1, t0
        if t0 >= self.times[1]:
            self.t = float(self.times[1])
            self.make_report()

    def run(
        self, stop: Callable[[], bool] = lambda: False, progress: Callable[[Progress], None] | None = None
    ) -> bool:
        """Advance to the end; True when it was reached, False when `stop` asked for a pause on any rank."""
        begun, last_checkpoint, steps_since = time.monotonic(), time.monotonic(), 0
        while self.report < len(self.times):
            try:
                row = self._advance()
            except NumericalError:  # met by all ranks: keep what led here
                self.recorder.commit(self.step, self.state())
                raise
            self.recorder.row(row)
            steps_since += 1
            now = time.monotonic()
            if progress is not None:
                progress(Progress(self.t, self.times[-1], self.step, row["dt"], row["residual"], now - begun))
            reported = self.t >= self.times[self.report]
            if reported:
                self.make_report()
            due = steps_since >= self.job["output.checkpoint_steps"]
            late = now - last_checkpoint >= self.job["output.checkpoint_seconds"]
            pause, late = self._agree(stop(), late)
            if reported or due or late or pause:
                self.recorder.commit(self.step, self.state())
                last_checkpoint, steps_since = time.monotonic(), 0
            if pause and self.report < len(self.times):
                return False
        return True

    def make_report(self) -> None:
        """Keep a report of the present law as the next one. Collective."""
        with self.timers("report"):
            self.recorder.report(self.report, self.t, self.step, self.scheme.network, {"lost": self.lost})
        self.report += 1

    def _agree(self, *flags: bool) -> list[bool]:
        """Each flag is true everywhere when it is true on one rank (clocks and signals differ between ranks)."""
        both = torch.tensor([-float(flag) for flag in flags], dtype=torch.float64, device=self.world.device)
        return [value < 0 for value in self.world.min_(both).tolist()]

    def _advance(self) -> dict[str, float]:
        """One time step; returns its row of the series."""
        began = time.perf_counter()
        n = self.scheme.survey(self.step)
        exit_rate, fastest, leak = self._rates(n, self.t)
        dt = self._step_length(exit_rate, fastest)
        if self.enumeration.net.time_dependent:
            dt = self._look_ahead(n, dt, exit_rate, fastest)
        result = self.scheme.step(self.step, self.t, dt)
        if result.dt <= 1e-12 * self.times[-1]:
            raise NumericalError(
                f"step {self.step} at t = {self.t:g}: the step collapsed to {result.dt:.3g}. Raise solver.order, or "
                "lower the limits of species whose large counts have huge propensities."
            )
        self.longest = result.dt * _GROWTH if result.dt < dt else self.longest * _GROWTH
        self.lost += leak * result.dt
        landed = result.dt == dt and self._lands(dt)
        self.t = float(self.times[self.report]) if landed else self.t + result.dt
        self.step += 1
        return {
            "step": self.step, "t": self.t, "dt": result.dt, "loss": result.loss, "residual": result.residual,
            "ess": result.ess, "leak": leak, "lost": self.lost, "a0": exit_rate, "distinct": int(result.distinct),
            "evaluations": int(result.evaluations), "epochs": result.epochs, "shortened": result.shortened,
            "rejected": result.rejected,
            "gradient_norm": result.gradient_norm, "wall": time.perf_counter() - began,
        }  # fmt: skip

    def _look_ahead(self, n: torch.Tensor, dt: float, exit_rate: float, fastest: float) -> float:
        """Step by the largest rates on the way: a rate that rises within the step shortens it."""
        for ahead in range(1, _LOOKS + 1):
            later = self._rates(n, self.t + dt * ahead / _LOOKS)
            exit_rate, fastest = max(exit_rate, later[0]), max(fastest, later[1])
        return min(dt, self._step_length(exit_rate, fastest))

    def _rates(self, n: torch.Tensor, t: float) -> tuple[float, float, float]:
        """E_q[a0], the largest a0 met and the mean rate of leaving the limits at time t, over all ranks."""
        a, leak = self.enumeration.outflow(n, t, t)
        a0 = a.sum(dim=1)
        sums = torch.stack([a0.sum(), leak.sum(), a.new_tensor(float(n.shape[0]))])
        total, leaving, count = self.world.sum_(sums).tolist()
        fastest = -float(self.world.min_(-a0.max().reshape(1)))
        return total / count, fastest, leaving / count

    def _step_length(self, exit_rate: float, fastest: float) -> float:
        """Step by the job's rule, stable for the states just sampled, fitted to the next report time without a
        sliver left over."""
        dt = self.job["solver.dt"]
        if dt == "auto":
            dt = self.job["solver.jumps"] / exit_rate if exit_rate > 0.0 else np.inf
        if self.job["solver.dt"] == "auto" and fastest > 0.0:
            dt = min(dt, _MARGIN * MAX_EXITS[self.job["solver.order"]] / fastest)
        dt = min(dt, self.longest)
        rest = float(self.times[self.report]) - self.t
        return rest / max(1, int(np.ceil(rest / dt - 1e-9))) if np.isfinite(dt) else rest

    def _lands(self, dt: float) -> bool:
        return abs(self.t + dt - float(self.times[self.report])) <= 1e-9 * self.times[-1]
