"""Automatic limits on the command line: check tells them, fsp and run report and grow them, scans find their own."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest
from cli_helpers import call, process
from test_cli_mpi import TWO

from hpcme import load_model, open_run
from hpcme.errors import InputError

MODEL = """[model]
name = "immigration"
[parameters]
k = 3.0
[species]
X = { initial = 0 }
Y = { initial = 2, max = "auto" }
Z = { initial = 0, max = 5 }
[[reactions]]
equation = "0 -> X"
rate = "k"
[[reactions]]
equation = "X -> 0"
rate = 1.0
[[reactions]]
equation = "Y -> Z"
rate = 1.0
"""
#: A gene that switches on with probability 1e-5, and then makes P: no trajectory of the ensemble shows it.
RARE = """[model]
name = "rare"
[species]
G = { initial = 0 }
P = { initial = 0 }
[[reactions]]
equation = "0 -> G"
propensity = "3e-6*(1 - G)"
[[reactions]]
equation = "G -> G + P"
rate = 8.0
[[reactions]]
equation = "P -> 0"
rate = 1.0
"""
YULE = """[model]
name = "yule"
[species]
X = { initial = 1 }
[[reactions]]
equation = "X -> 2 X"
rate = 1.0
"""
JOB = """model = "m.toml"
[time]
end = 1.0
report = { every = 0.5 }
[output]
samples = 20
report_samples = 200
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name, text in (("m", MODEL), ("rare", RARE), ("yule", YULE), ("job", JOB)):
        (tmp_path / f"{name}.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    return tmp_path


def test_check_tells_the_limits_and_where_they_come_from(place, capsys):
    text = call(capsys, "check", "m.toml", "--end", "2").out
    assert "automatic: trajectories went up to" in text and "automatic: conservation laws" in text
    data = json.loads(call(capsys, "check", "m.toml", "--end", "2", "--json").out)
    x, y, z = data["species"]
    assert 10 < x["max"] < 60 and y["max"] == 2 and z["max"] == 5
    assert z["max_found"] is None and "conservation" in y["max_found"]
    assert data["states"]["complete"] and data["hash"] == load_model("m.toml").hash
    more = json.loads(call(capsys, "check", "m.toml", "--end", "2", "--json", "--set", "parameters.k=30").out)
    assert more["species"][0]["max"] > x["max"]


def test_check_without_an_end_says_what_is_missing(place, capsys):
    text = call(capsys, "check", "m.toml").out
    assert "automatic" in text and "(laws imply 2)" in text and "give --end T" in text
    data = json.loads(call(capsys, "check", "m.toml", "--json").out)
    assert [s["max"] for s in data["species"]] == ["auto", "auto", 5] and data["states"] is None


def test_fsp_grows_limits_and_keeps_what_it_did(place, capsys):
    result = call(capsys, "fsp", "rare.toml", "--end", "10", "--out", "exact")
    assert result.code == 0 and "automatic limits: G 0..1, P 0.." in result.out and "grown" in result.out
    assert "of the probability left through automatic limits, more than 1e-09: they grow to" in result.err
    with open_run("exact") as run:
        assert run.lost[-1] <= 1e-9 and run.model().limits.tolist() == run.limits.tolist()
        assert run.provenance["automatic_limits"]["grown"] >= 1
    again = json.loads(call(capsys, "fsp", "rare.toml", "--end", "10", "--out", "exact", "--json").out)
    assert again["already_finished"] and again["limits"]["G"] == 1 and again["lost"][-1] <= 1e-9
    assert call(capsys, "compare", "exact", "--with", "exact").code == 0


def test_fsp_takes_limits_beyond_which_nothing_is_lost_without_a_word(place, capsys):
    result = call(capsys, "fsp", "m.toml", "--end", "2", "--out", "exact")
    assert result.code == 0 and "grow" not in result.err
    data = json.loads(call(capsys, "fsp", "m.toml", "--end", "2", "--out", "exact", "--json").out)
    assert max(data["lost"]) <= 1e-9


def test_trajectories_need_no_limits(place, capsys):
    """At t = 12 counts are of the order of 1e5 and reach further than any limit could."""
    result = call(capsys, "ssa", "yule.toml", "--end", "12", "--trajectories", "20", "--out", "paths", "--json")
    assert result.code == 0, result.err
    with open_run("paths") as run:
        most = max(int(run.samples(t).max()) for t in run.times)
        assert run.limits.tolist() == [most] and run.model().auto_limits == (True,)
    assert call(capsys, "stats", "paths").code == 0


@pytest.mark.parametrize("command", ["run", "fsp", "check"])
def test_growth_beyond_all_limits_is_refused_before_anything_is_written(place, capsys, command):
    out = [] if command == "check" else ["--out", "x"]
    result = call(capsys, command, "yule.toml", "--end", "20", *out)
    assert result.code == InputError.exit_code and "max of species X is automatic" in result.err
    assert "passes it by" in result.err and not (place / "x").exists()


def test_run_reports_limits_and_loss(place, capsys):
    result = call(capsys, "run", "job.toml", "--out", "r")
    assert result.code == 0 and "automatic limits: X 0.." in result.out
    assert "probability lost through the limits" in result.out
    data = json.loads(call(capsys, "run", "job.toml", "--out", "r", "--json").out)
    assert data["already_finished"] and data["limits"]["Y"] == 2 and data["lost"][-1] < 1e-6
    assert call(capsys, "fsp", "job.toml", "--out", "f", "--quiet").code == 0
    compared = json.loads(call(capsys, "compare", "r", "--with", "f", "--json").out)
    assert max(compared["joint"]["tv"]) < 0.01
    other = call(capsys, "run", "job.toml", "--out", "r", "--set", "parameters.k=4.0")
    assert other.code == InputError.exit_code and "another model" in other.err


def test_status_names_runs_that_began_again(place, capsys):
    assert call(capsys, "run", "rare.toml", "--end", "10", "--out", "r", "--quiet").code == 0
    with open_run("r") as run:
        times = run.provenance["automatic_limits"]["grown"]
        assert times >= 1 and run.extra()["lost"][-1] < 1e-6
    text = call(capsys, "status", "r").out
    assert f"automatic limits grew {times} time" in text


def test_tasks_of_a_scan_find_their_own_limits(place, capsys):
    (place / "scan.toml").write_text(JOB + "[scan]\nk = [1.0, 20.0]\n")
    assert call(capsys, "scan", "run", "scan.toml", "--processes", "1", "--quiet").code == 0
    tops = []
    for number in (1, 2):
        with open_run(place / f"runs/scan/task-000{number}") as run:
            tops.append(int(run.limits[0]))
            assert run.status == "done" and run.extra()["lost"][-1] < 1e-6
    assert tops[0] < tops[1]
    tasks = json.loads(call(capsys, "scan", "status", "scan.toml", "--json").out)["tasks"]
    assert [task["state"] for task in tasks] == ["done", "done"]
    assert call(capsys, "scan", "merge", "scan.toml").code == 0
    with h5py.File(place / "runs/scan/merged.h5") as file, open_run(place / "runs/scan/task-0001") as run:
        assert file["marginal_X"].shape == (2, 3, tops[1] + 1)
        assert np.array_equal(file["marginal_X"][0, -1, : tops[0] + 1], run.marginal("X", 1.0))
        assert not file["marginal_X"][0, -1, tops[0] + 1 :].any()


@pytest.mark.mpi
@pytest.mark.skipif(not TWO[0], reason="there is no mpiexec")
def test_two_ranks_grow_and_continue_like_one(place):
    one = process(place, "run", "rare.toml", "--end", "10", "--out", "one")
    two = process(place, "run", "rare.toml", "--end", "10", "--out", "two", before=TWO)
    assert one.code == two.code == 0, two.err
    assert one.err.count("begins again") == two.err.count("begins again") >= 1
    with open_run(place / "one") as a, open_run(place / "two") as b:
        assert a.limits.tolist() == b.limits.tolist()
        assert np.allclose(a.mean, b.mean, rtol=1e-9, atol=1e-12)
    again = process(place, "run", "rare.toml", "--end", "10", "--out", "two")
    assert again.code == 0 and again.out.startswith("already finished")
    wrong = process(place, "run", "yule.toml", "--end", "20", "--out", "x", before=TWO)
    assert wrong.code == InputError.exit_code and wrong.err.count("hpcme: error") == 1, wrong.err
    assert "max of species X is automatic" in wrong.err and not (place / "x").exists()
