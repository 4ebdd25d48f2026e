"""Network runs with automatic limits: what leaks makes them grow, in every scheme, and a run that stops goes on so."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from limit_cases import QUICK, immigration, small_job
from run_helpers import datasets, same

from hpcme import open_run
from hpcme.driver import identity, solve
from hpcme.dynamics.borders import LEAK_ALLOWED, MOST_GROWTHS, border_rates
from hpcme.exact.borders import Borders
from hpcme.exact.limits import LimitsReport
from hpcme.kernels.neighbours import outflow
from hpcme.store.files import LIMITS, Manifest

SCHEMES = {
    "exponential": {},
    "sampled": {"solver.scheme": "tdvp", "sampling.exact": False},
    "projection": {"solver.scheme": "projection"},
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_run_begins_again_with_larger_limits_until_nothing_leaks(tmp_path, scheme):
    said: list[str] = []
    job = small_job(4, **SCHEMES[scheme])
    run = solve(job, out=tmp_path / "run", say=said.append)
    grew = [line for line in said if "begins again" in line]
    assert len(grew) == 1 and "X 4 -> 14" in grew[0] and "1e-06" in grew[0]
    assert run.status == "done" and run.limits.tolist() == [14]
    assert run.extra()["lost"][-1] <= LEAK_ALLOWED
    assert run.marginal("X", 1.0).shape == (15,) and run.model().limits.tolist() == [14]
    report = LimitsReport.from_plain(run.provenance[LIMITS])
    assert report.numbers == [14] and report.grown == 1
    with h5py.File(tmp_path / "run" / "results.h5") as file:
        assert file["limits"][()].tolist() == [14] and np.all(np.diff(file["series/step"][()]) == 1)
        history = [event["event"] for event in json.loads(file["provenance/history"][()])]
    assert history[:2] == ["created", "began again with larger limits"]


def test_a_run_that_stops_after_growth_goes_on_with_the_grown_limits(tmp_path):
    """Bit for bit as if it had never stopped, although the job still begins with the small guess."""
    solve(small_job(4), out=tmp_path / "whole")
    said: list[str] = []
    run = solve(small_job(4), out=tmp_path / "parts", say=said.append, stop=lambda: "begins again" in " ".join(said))
    assert run.status == "stopped" and run.limits.tolist() == [14]
    again: list[str] = []
    run = solve(small_job(4), out=tmp_path / "parts", say=again.append)
    assert run.status == "done" and run.limits.tolist() == [14]
    assert "continuing" in " ".join(again) and "begins again" not in " ".join(again)
    one, two = (datasets(tmp_path / name / "results.h5") for name in ("whole", "parts"))
    assert one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)


def test_a_crash_right_after_growth_keeps_the_decision(tmp_path):
    def crash(progress):
        raise KeyboardInterrupt

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        solve(small_job(4), out=tmp_path / "run", say=said.append, progress=crash)
    before = Manifest.load(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        # the first step of the small guess already leaks too much: the crash is that of the second beginning
        solve(small_job(1), out=tmp_path / "other", progress=crash)
    manifest = Manifest.load(tmp_path / "other")
    assert manifest.limits == [11] and LimitsReport.from_plain(manifest.provenance[LIMITS]).grown == 1
    assert before.model_hash == manifest.model_hash  # of what was written
    run = solve(small_job(1), out=tmp_path / "other", say=said.append)
    assert run.status == "done" and run.limits[0] >= 11


def test_the_identity_is_that_of_what_was_written(tmp_path):
    job = small_job(4)
    other = small_job(9)
    assert identity(job)["model_hash"] == identity(other)["model_hash"] == immigration().hash
    assert identity(job)["limits"] == [4] and "max = 4 " in identity(job)["model_text"]
    run = solve(job, out=tmp_path / "run")
    said: list[str] = []
    assert solve(job, out=tmp_path / "run", say=said.append).uuid == run.uuid and not said


def test_walls_of_the_user_leak_without_growth(tmp_path):
    from hpcme import load_job

    job = load_job({"model": immigration(4), **QUICK})
    said: list[str] = []
    run = solve(job, out=tmp_path / "run", say=said.append)
    assert run.limits.tolist() == [4] and run.extra()["lost"][-1] > LEAK_ALLOWED
    assert not any("begins again" in line for line in said) and LIMITS not in run.provenance


def test_growth_ends_after_some_times_with_a_warning(tmp_path):
    job = small_job(4)
    job = job.with_limits(replace(job.limits, grown=MOST_GROWTHS))
    said: list[str] = []
    run = solve(job, out=tmp_path / "run", say=said.append)
    assert run.status == "done" and run.limits.tolist() == [4]
    warned = [line for line in said if "grown" in line and "warning" in line]
    assert len(warned) == 1 and "Give max for X" in warned[0]


def test_border_rates_are_sums_over_weighted_states():
    net = immigration(4)
    n = np.array([[4], [2], [4], [0]], dtype=np.int32)
    leak = outflow(net.tables, n, net.s, net.limits, 0.0)[1]
    tensors = torch.from_numpy(n), torch.from_numpy(leak)
    borders = Borders(net, np.array([True]))
    assert border_rates(borders, *tensors, None, 0.0).tolist() == [6.0]
    weights = torch.tensor([0.5, 1.0, 0.25, 1.0], dtype=torch.float64)
    assert border_rates(borders, *tensors, weights, 0.0).tolist() == [2.25]
    assert border_rates(Borders(net, np.array([False])), *tensors, None, 0.0).tolist() == []


def test_a_run_with_automatic_limits_is_the_run_with_their_numbers(tmp_path):
    """Same networks, samples and moments: only who chose the numbers differs."""
    from hpcme import load_job

    job = load_job({"model": immigration(), **QUICK})
    solve(job, out=tmp_path / "auto")
    solve(load_job({"model": job.net, **QUICK}), out=tmp_path / "given")
    one, two = (datasets(tmp_path / name / "results.h5") for name in ("auto", "given"))
    assert one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
    with open_run(tmp_path / "auto") as run:
        assert run.extra()["lost"][-1] < LEAK_ALLOWED
