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

from hpcme.dynamics.borders import LEAK_ALLOWED, MOST_GROWTHS, LimitsReached
from hpcme.dynamics.certificate import DELTA, Certificate
from hpcme.dynamics.exponential import Exponential
from hpcme.dynamics.projection import Projection
from hpcme.dynamics.relaunch import After, Events
from hpcme.dynamics.tdvp import Tdvp
from hpcme.dynamics.timers import Timers
from hpcme.errors import Fault, InternalError, NumericalError
from hpcme.exact.borders import Borders
from hpcme.parallel.ending import PATIENCE
from hpcme.parallel.world import World

#: How often a step that failed is tried again, each time at half the length and with fresh samples.
FAULTS = 3
#: What numbers that are not finite, or matrices that have come apart, raise in the libraries below.
_BROKEN = (NumericalError, ArithmeticError, ValueError, torch.linalg.LinAlgError, np.linalg.LinAlgError)
LEAK = 1e-3  # probability lost through the count limits from which the user is warned


@dataclass
class Progress:
    """Where a run stands, for bars and logs."""

    t: float
    end: float
    step: int
    dt: float
    bound: float  # certified bound of the total variation error so far
    wall: float


class Evolution:
    """State of a run between steps.

    recorder: what keeps results (`hpcme.store.recorder.Recorder` or a stand-in with the same methods).
    """

    def __init__(
        self, job, scheme: Projection | Tdvp | Exponential, certificate: Certificate, world: World, recorder,
        timers: Timers, events: Events, warn: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        self.job, self.scheme, self.certificate, self.world = job, scheme, certificate, world
        self.recorder, self.timers, self.events, self.warn = recorder, timers, events, warn
        self.times = job.report_times
        # Steps land on the report times, on events and on times at which rates switch.
        end = float(self.times[-1])
        self.stops = np.unique([*self.times, *job.net.event_times(end), *job.net.switch_times(end)])
        self.t, self.step, self.report, self.lost = 0.0, 0, 0, 0.0
        # Probability lost through each limit that may grow, and whether it still may.
        self.borders = Borders.of(job)
        self.left = np.zeros(len(self.borders.names))
        self.may_grow = job.limits is not None and job.limits.grown < MOST_GROWTHS
        self.dt, self.faults = 0.0, 0  # the last step's length; failed tries so far: each moves the random streams on

    def state(self) -> dict[str, object]:
        """Checkpoint of the run: arrays and numbers only."""
        own = {
            "t": float(self.t), "step": int(self.step), "report": int(self.report),
            "lost": float(self.lost), "dt": float(self.dt), "faults": int(self.faults),
        }  # fmt: skip
        if self.borders.names:
            own["left"] = self.left.copy()
        own |= {f"scheme/{name}": value for name, value in self.scheme.state().items()}
        return own | {f"certificate/{name}": value for name, value in self.certificate.state().items()}

    def restore(self, state: dict[str, object]) -> None:
        """Continue from `state`."""
        self.t, self.step, self.report = float(state["t"]), int(state["step"]), int(state["report"])
        self.lost, self.dt, self.faults = float(state["lost"]), float(state["dt"]), int(state["faults"])
        self.left = np.array(state.get("left", self.left), dtype=np.float64)
        for part, name in ((self.scheme, "scheme/"), (self.certificate, "certificate/")):
            part.restore({key.removeprefix(name): value for key, value in state.items() if key.startswith(name)})

    def begin(self, t0: float, distance: float) -> None:
        """Start at t0, the time of the law that the network was fitted to, up to a total variation distance; the
        report at t = 0 exists already."""
        self.report, self.t = 1, t0
        self.certificate.begin(t0, self.scheme.flat(), distance)
        if t0 >= self._next_stop_after(0.0):
            self.t = self._next_stop_after(0.0)
        self._arrive()

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
                progress(Progress(self.t, self.times[-1], self.step, row["dt"], row["certificate"], now - begun))
            reported = self._arrive()
            due = steps_since >= self.job["output.checkpoint_steps"]
            late = now - last_checkpoint >= self.job["output.checkpoint_seconds"]
            pause, late = self._agree(stop(), late)
            if reported or due or late or pause:
                self.recorder.commit(self.step, self.state())
                last_checkpoint, steps_since = time.monotonic(), 0
            if pause and self.report < len(self.times):
                return False
        return True

    def _arrive(self) -> bool:
        """Events and reports that are due at the present time; True where a report was made. Collective."""
        reported = False
        while self.report < len(self.times):
            after = None
            if self.t in self.events.times:
                after = self.events.remap(self.scheme.network, self.t)
                self.lost += after.lost
                self._look_at_borders(self.t, after.past[self.borders.grows])
            if self.t >= self.times[self.report]:
                self.make_report(after)
                reported = True
            if after is None or self.report == len(self.times):
                break
            t, distance = self.events.launch(self.scheme.network, after, self._next_stop())
            self.scheme.forget()
            self.certificate.leap(t, self.scheme.flat(), distance)
            self.t, self.dt = t, 0.0
        return reported

    def make_report(self, after: After | None = None) -> None:
        """Keep a report of the present law, or of the one right after events, as the next one. Collective."""
        with self.timers("report"):
            parts = self.certificate.parts
            extra = {
                "lost": self.lost, "bound": self.certificate.bound(self.lost), "bound_start": parts["start"],
                "bound_projection": parts["path"], "bound_time": self.certificate.timing, "bound_truncation": self.lost,
                "bound_sampling": parts["sampling"],
                "bound_confidence": 1.0 if self.certificate.summed else 1.0 - DELTA,
            }  # fmt: skip
            for failed in range(FAULTS + 1):
                try:
                    if after is not None:
                        self.recorder.remapped(self.report, self.step, after, extra)
                        break
                    self.recorder.report(self.report, self.t, self.step, self.scheme.network, extra)
                    break
                except NumericalError as error:  # met by all ranks
                    if failed == FAULTS:
                        raise
                    self.warn(f"{error} It is sampled again")
        self.report += 1

    def _agree(self, *flags: bool) -> list[bool]:
        """Each flag is true everywhere when it is true on one rank (clocks and signals differ between ranks)."""
        both = torch.tensor([-float(flag) for flag in flags], dtype=torch.float64, device=self.world.device)
        return [value < 0 for value in self.world.min_(both).tolist()]

    def _advance(self) -> dict[str, float]:
        """One time step; returns its row of the series.

        A try whose numbers break down changes nothing: the state before it comes back on every rank, the event gets a
        row of its own (fault = 1, dt = 0), and fresh samples and half the step follow. Raises NumericalError when that
        does not help, or when the scheme gave up; an error that some ranks do not meet goes through.
        """
        before, limit = self.state(), np.inf
        for failed in range(FAULTS + 1):
            began = time.perf_counter()
            try:
                return self._try(limit)
            except _BROKEN as error:
                if not self.world.all_arrived(PATIENCE):
                    raise
                self.restore(before)
                if isinstance(error, NumericalError) and not isinstance(error, Fault):
                    raise  # the scheme has tried all that it knows
                self.faults += failed + 1
                if failed == FAULTS:
                    raise
                limit = 0.5 * min(limit, self.dt or np.inf, self._next_stop() - self.t)
                self.warn(
                    f"the numbers broke down in the step from t = {self.t:g} ({error}). It is tried again with fresh "
                    f"samples, at most {limit:.3g} long"
                )
                wall = time.perf_counter() - began
                self.recorder.row({"step": self.step, "t": self.t, "dt": 0.0, "fault": 1, "wall": wall})
        raise InternalError("a step was neither taken nor given up")

    def _look_at_borders(self, t: float, left: np.ndarray | float) -> None:
        """Add what left through automatic limits until t, float64 [G]. Raises LimitsReached, on all ranks, when it is
        too much."""
        before = self.left.sum()
        self.left = self.left + left
        total = self.left.sum()
        if not before <= LEAK_ALLOWED < total < np.inf:
            return
        if self.may_grow:
            raise LimitsReached(t, dict(zip(self.borders.names, self.left.tolist(), strict=True)))
        self.warn(
            f"{total:.1e} of the probability has left through automatic limits by t = {t:g} although they have grown "
            f"{MOST_GROWTHS} times: it is the network that puts it there, or the law has a very heavy tail. Give max "
            f"for {', '.join(self.borders.names)}, or a better network (hpcme compare tells)"
        )

    def _next_stop(self) -> float:
        """The next time on which a step has to land."""
        return self._next_stop_after(self.t)

    def _next_stop_after(self, t: float) -> float:
        return float(self.stops[np.searchsorted(self.stops, t, side="right")])

    def _try(self, limit: float) -> dict[str, float]:
        """One try of a step, of length `limit` at most. Raises one of _BROKEN where what it gave is not finite."""
        began = time.perf_counter()
        stop = self._next_stop()
        result = self.scheme.advance(self.step + self.faults, self.t, min(stop - self.t, limit))
        if result.dt <= 1e-12 * self.times[-1]:
            raise NumericalError(
                f"step {self.step} at t = {self.t:g}: the step collapsed to {result.dt:.3g}. Raise solver.order, or "
                "lower the limits of species whose large counts have huge propensities."
            )
        before, self.lost = self.lost, self.lost + result.leak * result.dt
        if before <= LEAK <= self.lost:
            self.warn(
                f"more than {LEAK:g} of the probability has left through the count limits by t = "
                f"{self.t + result.dt:g}: raise max of the species whose counts come near it, unless the limits are "
                "walls of the system itself"
            )
        self._look_at_borders(self.t + result.dt, 0.0 if result.borders is None else result.borders * result.dt)
        landed = abs(self.t + result.dt - stop) <= 1e-9 * self.times[-1]
        self.t = stop if landed else self.t + result.dt
        self.step, self.dt = self.step + 1, result.dt
        parameters = self.scheme.flat()
        with self.timers("certificate"):
            if result.defect is None:
                defect = self.certificate.step(self.t, parameters)
            else:
                defect = self.certificate.add(self.t, result.defect)
        bound = self.certificate.bound(self.lost)
        numbers = torch.tensor([result.dt, self.lost, defect, bound], dtype=torch.float64)
        if self._agree(not (torch.isfinite(parameters).all() and torch.isfinite(numbers).all()))[0]:
            raise Fault(
                f"step {self.step - 1}, to t = {self.t:g}: parameters, leak or certificate are not finite."
            )
        return {
            "step": self.step, "t": self.t, "dt": result.dt, "fault": 0, **result.row, "leak": result.leak,
            "lost": self.lost, "defect": defect, "certificate": bound, "wall": time.perf_counter() - began,
        }  # fmt: skip
