"""`hpcme run` in one process: results, repetition, pauses by signal, failures."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
from cli_helpers import call, process, tree, write_inputs

from hpcme.cli import progress
from hpcme.exact.fsp import solve_fsp
from hpcme.model.reader import load_model
from hpcme.store.lock import RunLock
from hpcme.store.reader import open_run


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The job, run without a pause in a folder of its own."""
    from hpcme.cli.main import main

    folder = tmp_path_factory.mktemp("whole")
    write_inputs(folder)
    assert main(["run", str(folder / "job.toml"), "--out", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


def test_a_run_prints_where_it_is_what_it_found_and_what_to_do_next(whole, capsys):
    """The finished run again: the summary is the same but for its first line, and nothing is written."""
    job = whole.parent / "job.toml"
    before = tree(whole)
    result = call(capsys, "run", job, "--out", whole)
    assert result.code == 0 and result.err == ""
    first, *lines = result.out.splitlines()
    assert first == "already finished: nothing was done"
    assert lines[0].endswith(str(whole)) and lines[1].endswith(f"{whole}/results.h5")
    assert lines[-3].startswith(f"next: hpcme stats {whole}") and "--with exact" in lines[-2]
    data = json.loads(call(capsys, "run", job, "--out", whole, "--json").out)
    assert data["already_finished"] is True and data["times"] == [0.6] and data["species"] == ["G", "P"]
    with open_run(whole) as run:
        assert data["mean"] == [run.mean[-1].tolist()] and data["sd"] == [run.sd[-1].tolist()]
        assert data["steps"] == len(run.series()["t"]) > 3
        assert run.kind == "network" and run.times.tolist() == [0.0, 0.3, 0.6]
    rows = call(capsys, "run", job, "--out", whole, "--csv").out.splitlines()
    assert len(rows) == 3 and rows[0].startswith("time,species,mean,mean_se")
    assert call(capsys, "run", job, "--out", whole, "--quiet") == (0, "", "")
    assert tree(whole) == before


def test_another_job_in_the_folder_is_refused_with_the_difference(whole, capsys):
    before = tree(whole)
    result = call(capsys, "run", whole.parent / "job.toml", "--out", whole, "--set", "solver.epochs=7")
    assert result.code == 65 and '- "solver.epochs": 4' in result.err and '+ "solver.epochs": 7' in result.err
    assert tree(whole) == before


def test_questions_to_a_network_run(whole, capsys, tmp_path):
    states = tmp_path / "all.csv"
    states.write_text("G,P\n" + "".join(f"{g},{p}\n" for g in range(2) for p in range(13)))
    data = json.loads(call(capsys, "logprob", whole, "--states", states, "--json").out)
    assert sum(map(np.exp, data["logprob"])) == pytest.approx(1.0, abs=1e-12)  # the network is normalised
    first = call(capsys, "sample", whole, "-n", 50, "--time", 0.3)
    assert first.code == 0 and first == call(capsys, "sample", whole, "-n", 50, "--time", 0.3)
    result = json.loads(call(capsys, "compare", whole, "--with", "exact", "--json").out)
    assert result["joint"]["tv"][0] < 1e-12  # the start is exact
    # a tiny network after a few epochs is no good solution, but closer than the start, one state: 1 - p(0, 0)
    exact = solve_fsp(load_model(whole.parent / "switch.toml"), [0.6])
    stayed = float(exact.p[0][(exact.states == 0).all(axis=1)][0])
    assert 0 < result["joint"]["tv"][-1] < 0.5 * (1.0 - stayed)
    pair = call(capsys, "marginal", whole, "--species", "G", "P", "--samples", 1000, "--csv").out.splitlines()
    assert len(pair) == 1 + 26


@pytest.mark.parametrize(
    "number, name", [(signal.SIGTERM, "SIGTERM"), (signal.SIGUSR2, "SIGUSR2"), (signal.SIGINT, "SIGINT")]
)
def test_a_signal_pauses_the_run_and_the_same_command_continues_it(
    place, whole, capsys, monkeypatch, number, name
):
    seen = []

    def step(self, now):
        seen.append(now.step)
        if len(seen) == 2:
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(progress.Display, "step", step)
        result = call(capsys, "run", "job.toml", "--out", "run")
    assert result.code == 75 and result.out == ""
    assert f"hpcme: stopped after {name} at step {seen[1]}" in result.err
    assert result.err.rstrip().endswith("the same command continues it") and "error" not in result.err
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)] == handlers
    (row,) = json.loads(call(capsys, "status", "run", "--json").out)
    assert row["state"] == "stopped" and row["step"] == seen[1] and 0 < row["t"] < 0.6
    assert call(capsys, "stats", "run").code == 0  # a stopped run can be asked
    result = call(capsys, "run", "job.toml", "--out", "run")
    assert result.code == 0 and result.out.startswith("done in ")
    with open_run("run") as a, open_run(whole) as b:  # bitwise the run that was never stopped
        assert np.array_equal(a.mean, b.mean) and np.array_equal(a.samples(), b.samples())
        for column in ("t", "loss", "residual"):
            assert np.array_equal(a.series()[column], b.series()[column])


def test_a_file_named_stop_pauses_the_run_and_repeating_the_command_removes_it(place, capsys, monkeypatch):
    """For whoever may write to the folder but not signal the job."""
    with monkeypatch.context() as patch:
        patch.setattr(progress.Display, "step", lambda self, now: (place / "run" / "STOP").touch())
        result = call(capsys, "run", "job.toml", "--out", "run")
    assert result.code == 75
    assert "hpcme: stopped after the file run/STOP at step 1" in result.err
    result = call(capsys, "run", "job.toml", "--out", "run")
    assert result.code == 0 and result.out.startswith("done in ") and not (place / "run" / "STOP").exists()
    assert call(capsys, "verify", "run").code == 0


def test_a_second_ctrl_c_ends_at_once_and_keeps_the_checkpoint(place, capsys, monkeypatch):
    def step(self, now):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(progress.Display, "step", step)
        result = call(capsys, "run", "job.toml", "--out", "run")
    assert result.code == 75 and "Ctrl-C again ends at once" in result.err
    assert result.err.rstrip().endswith("the same command continues from the last checkpoint")
    (row,) = json.loads(call(capsys, "status", "run", "--json").out)
    assert (
        row["state"] == "interrupted"
        and row["step"] == 0
        and row["remark"] == "the same command continues it; the bound is that of t = 0"
    )
    assert call(capsys, "verify", "run").code == 0


def test_status_tells_who_works_on_a_run(place, capsys, monkeypatch):
    def step(self, now):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress.Display, "step", step)
        assert call(capsys, "run", "job.toml", "--out", "run").code == 75
    lock = RunLock(place / "run")
    lock.acquire()
    try:
        (row,) = json.loads(call(capsys, "status", "run", "--json").out)
        assert row["state"] == "running" and f"process {os.getpid()} on" in row["remark"]
        busy = call(capsys, "run", "job.toml", "--out", "run")
        assert busy.code == 65 and f"in use by process {os.getpid()}" in busy.err
        owner = json.loads((place / "run" / "run.lock").read_text())
        (place / "run" / "run.lock").write_text(
            json.dumps(owner | {"start": "1"})
        )  # its id went to another process
        (row,) = json.loads(call(capsys, "status", "run", "--json").out)
        assert row["state"] == "interrupted" and "is gone; the same command continues it" in row["remark"]
    finally:
        lock.release()


def test_a_numerical_failure_has_its_own_code(place, capsys, monkeypatch):
    from hpcme.errors import NumericalError

    def fail(*arguments, **options):
        raise NumericalError("step 3 at t = 0.1: the loss is not finite. Lower solver.learning_rate.")

    monkeypatch.setattr("hpcme.driver.solve", fail)
    result = call(capsys, "run", "job.toml", "--out", "run")
    assert result == (
        76,
        "",
        "hpcme: error: step 3 at t = 0.1: the loss is not finite. Lower solver.learning_rate.\n",
    )


def test_numbers_that_break_down_once_are_an_event_in_the_results(place, capsys, monkeypatch):
    from hpcme.dynamics.projection import Projection
    from hpcme.errors import Fault

    step, calls = Projection.step, []

    def breaking(self, number, t, dt):
        calls.append(number)
        if len(calls) == 3:
            raise Fault("the gradient is not finite.")
        return step(self, number, t, dt)

    monkeypatch.setattr(Projection, "step", breaking)
    result = call(capsys, "run", "job.toml", "--out", "run")
    assert result.code == 0 and "the numbers broke down in the step from t = " in result.err
    with open_run("run") as run:
        series = run.series()
    event = series["fault"].tolist().index(1)
    assert event == 2 and series["fault"].sum() == 1
    assert series["step"][:4].tolist() == [1, 2, 2, 3] and series["t"][2] == series["t"][1]
    assert np.isnan(series["loss"][event]) and np.isfinite(np.delete(series["loss"], event)).all()
    assert calls[:4] == [0, 1, 2, 3]  # fresh samples
    assert 0 < series["dt"][3] <= 0.5 * series["dt"][1] and series["dt"][event] == 0
    assert call(capsys, "verify", "run").code == 0


def test_a_model_may_stand_where_a_job_stands(place, capsys):
    argv = [
        "run",
        "birth_death.toml",
        "--end",
        0.2,
        "--every",
        0.1,
        "--set",
        "output.report_samples=50",
    ]
    result = call(capsys, *argv, "--json")
    assert result.code == 0, result.err
    data = json.loads(result.out)
    assert data["folder"] == "runs/birth_death" and data["species"] == ["X"] and not data["already_finished"]
    assert "1 species, 2 reactions" in result.err
    with open_run("runs/birth_death") as run:
        assert run.times.tolist() == [0.0, 0.1, 0.2]


def test_a_folder_that_cannot_be_written_is_an_output_error(place, capsys, monkeypatch):
    if os.access("/proc", os.W_OK):  # root: the permission bits say yes, the file system says no
        out = "/proc/hpcme-run"
        result = call(capsys, "run", "job.toml", "--out", out)
        assert result.code == 74 and out in result.err and "Traceback" not in result.err
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    for command in ("run", "fsp"):
        result = call(capsys, command, "job.toml", "--out", "new/run")
        assert result.code == 74 and "not writable" in result.err and str(place) in result.err
    assert not (place / "new").exists()


def test_doctor_in_one_process(place):
    result = process(place, "doctor")
    assert result.code == 0, result.out + result.err
    assert result.out.endswith("everything is in order\n") and "PROBLEM" not in result.out
    assert "each is a world of size 1" in result.out and "results can be written to" in result.out
    assert sorted(path.name for path in place.iterdir()) == ["birth_death.toml", "job.toml", "switch.toml"]


def test_doctor_explains_worlds_of_size_one_and_folders_that_cannot_be_written(place):
    """A launcher that says two ranks to an MPI library that hears nothing from it."""
    result = process(
        place, "doctor", "--json", "--folder", "/proc", OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0"
    )
    assert result.code == 65
    data = json.loads(result.out)
    assert data["facts"]["launched"] == 2
    problems = [finding for finding in data["findings"] if finding["result"] == "PROBLEM"]
    assert data["problems"] == len(problems) == 2 and all(finding["fix"] for finding in problems)
    assert "sees only this process" in problems[0]["what"] and "world of size 1" in problems[0]["fix"]
    assert "/proc" in problems[1]["what"]
