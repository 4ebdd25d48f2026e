"""Numbers that break down on one rank: no parameter changes, the event is a row, the run goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solver_cases import evolution_of, job_of, total_variation

from hpcme.dynamics.evolve import FAULTS
from hpcme.errors import Fault, NumericalError
from hpcme.parallel.world import World

SCHEMES = {
    "adam": {},
    "natural": {"solver__optimiser": "natural", "solver__epochs": 3},
    "exponential": {"solver__scheme": "tdvp", "sampling__exact": True, "solver__dt": 0.02},
    "implicit": {"solver__scheme": "tdvp", "sampling__exact": False, "solver__integrator": "implicit"},
    "waveform": {"solver__scheme": "tdvp", "sampling__exact": False, "solver__integrator": "waveform"},
}
VICTIM = 1  # the rank whose numbers break down; the only one where there is one


class Faulty:
    """Makes this rank's part of the n-th sum over ranks after `arm` NaN, times times, and counts sums."""

    def __init__(self, world: World) -> None:
        self.world, self.sum_ = world, world.sum_
        self.count, self.at = 0, range(0)
        world.sum_ = self

    def arm(self, first: int, times: int = 1) -> None:
        self.count, self.at = 0, range(first, first + times)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        if self.count - 1 in self.at and self.world.rank == min(VICTIM, self.world.size - 1):
            x = x.fill_(torch.nan)
        return self.sum_(x)


class Recorder:
    """Keeps rows, and the parameters at the time of each."""

    def __init__(self) -> None:
        self.rows, self.parameters, self.reports, self.scheme = [], [], [], None

    def row(self, values) -> None:
        self.rows.append(values)
        self.parameters.append(self.scheme.flat().numpy().copy())

    def commit(self, step, state) -> None: ...

    def report(self, index, t, step, network, extra) -> None:
        self.reports.append(t)


def started(scheme: str, world: World, **more):
    keys = {"sampling__samples": 140, "sampling__shards": 7, "network__width": 4, "solver__start_epochs": 100}
    end = 1.5 if scheme == "waveform" else 0.4  # of more steps than the tests take
    job = job_of("toggle", end, **{**keys, **SCHEMES[scheme], **more})
    evolution = evolution_of(job, world)
    evolution.recorder = recorder = Recorder()
    recorder.scheme = evolution.scheme
    return evolution, recorder


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_number_that_is_not_finite_changes_nothing_and_the_run_goes_on(world, scheme):
    faulty = Faulty(world)
    try:
        evolution, recorder = started(scheme, world)
        for _ in range(3):
            recorder.row(evolution._advance())
        faulty.arm(10**9)
        recorder.row(evolution._advance())
        sums = faulty.count
        assert sums > 0
        events = 0
        # Early, late, and spread over one step: whatever sum is hit, the law stays good.
        for first in sorted({int(f * (sums - 1)) for f in (0.0, 0.13, 0.3, 0.5, 0.77, 1.0)}):
            before = evolution.scheme.flat().numpy().copy()
            faulty.arm(first)
            rows, t = len(recorder.rows), evolution.t
            recorder.row(evolution._advance())
            assert evolution.t > t and np.isfinite(recorder.parameters[-1]).all()
            for row, parameters in zip(recorder.rows[rows:-1], recorder.parameters[rows:-1], strict=True):
                events += 1
                assert row["fault"] == 1 and row["dt"] == 0.0 and row["t"] == t
                assert np.array_equal(parameters, before)
            assert recorder.rows[-1]["fault"] == 0
        assert events > 0
        faulty.arm(10**9)
        assert evolution.run()
        steps = [row["step"] for row in recorder.rows if not row["fault"]]
        assert steps == list(range(1, len(steps) + 1))
        # The same parameters everywhere, to the last bit, and still the law: broken numbers are not averaged in.
        everyone = world.gather(evolution.scheme.flat().numpy())
        if world.main:
            assert all(np.array_equal(everyone[0], other) for other in everyone)
            assert total_variation(evolution.scheme.network, evolution.job.net, evolution.t) < 0.3
    finally:
        world.sum_ = faulty.sum_


@pytest.mark.parametrize("scheme", SCHEMES)
def test_numbers_that_stay_broken_end_the_run_with_the_last_good_law(world, scheme):
    faulty = Faulty(world)
    try:
        evolution, recorder = started(scheme, world)
        recorder.row(evolution._advance())
        before = evolution.scheme.flat().numpy().copy()
        faulty.arm(0, 10**9)
        with pytest.raises((NumericalError, ValueError, torch.linalg.LinAlgError)) as caught:
            evolution.run()
        assert np.array_equal(evolution.scheme.flat().numpy(), before)
        events = sum(row.get("fault", 0) for row in recorder.rows)
        if isinstance(caught.value, NumericalError) and not isinstance(caught.value, Fault):
            assert scheme in ("implicit", "waveform")  # rejects such steps itself, down to hopeless ones
        else:
            # A run that is started again does not meet the same samples.
            assert events == FAULTS and evolution.faults == FAULTS + 1
    finally:
        world.sum_ = faulty.sum_
