"""`hpcme scan`: tasks as processes of this machine, what is said of those that fail, submission, merging."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from cli_helpers import SWITCH, call, clean_environment, process, tree, write_inputs
from run_helpers import below, last_step

from hpcme import open_run
from hpcme.cli.main import COMMANDS

QUICK = """model = "switch.toml"
[time]
end = 0.5
report = { every = 0.25 }
[output]
samples = 20
report_samples = 200
[scan]
"""
#: Steps so short that a task outlasts every test, with a checkpoint after each.
LONG = QUICK.replace("[output]", "[solver]\ndt = 1e-6\n[output]\ncheckpoint_steps = 1")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model; the current folder."""
    (tmp_path / "switch.toml").write_text(SWITCH)
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    return tmp_path


def answer(capsys, *words: object, code: int = 0) -> dict:
    result = call(capsys, "scan", *words, "--json")
    assert result.code == code, result.err
    return json.loads(result.out)


def states(capsys, scan: str = "job.toml") -> list[str]:
    return [task["state"] for task in answer(capsys, "status", scan)["tasks"]]


def solve(capsys, scan: str, *numbers: int) -> None:
    """Run these tasks of a scan that was begun, in this process: much faster than processes of their own."""
    for number in numbers:
        (file,) = Path(scan, "jobs").glob(f"task-{number:04d}-*.toml")
        assert call(capsys, "run", file, "--out", f"{scan}/task-{number:04d}", "--quiet").code == 0


def begun(capsys, monkeypatch, text: str) -> None:
    """A scan that was begun (its record is there) without any task being run."""
    Path("job.toml").write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr("hpcme.scan.local.run_tasks", lambda *arguments: {})
        assert call(capsys, "scan", "run", "job.toml", "--quiet").code == 75


def test_list_shows_every_task_and_what_is_wrong_with_it_and_writes_nothing(place, capsys):
    Path("job.toml").write_text(QUICK + "off = [1.0, -1.0]\nrun.seed = [7, 8]\n")
    before = tree(place)
    result = call(capsys, "scan", "list", "job.toml")
    assert result.code == 0 and "4 tasks: 2 (off) x 2 (run_seed)" in result.out
    assert "2 of them cannot be run: tasks 3-4" in result.out and "not negative" in result.out
    csv = call(capsys, "scan", "list", "job.toml", "--csv").out.splitlines()
    assert csv[:3] == ["task,off,run_seed,check", "1,1.0,7,ok", "2,1.0,8,ok"]
    data = answer(capsys, "list", "job.toml", "--only", "2,3", "--set", "parameters.make=5")
    assert [task["task"] for task in data["tasks"]] == [2, 3] and data["invalid"] == 1
    assert data["tasks"][0] == {
        "task": 2, "parameters.off": 1.0, "run.seed": 8, "folder": "runs/job/task-0002", "error": ""
    }  # fmt: skip
    assert tree(place) == before


def test_tasks_run_as_processes_are_those_of_hpcme_run_and_are_run_once(place, capsys):
    """Two good tasks, one whose values make no job, and one that is found wrong at work only: its propensity is
    negative."""
    Path("job.toml").write_text(QUICK + "[[scan.linked]]\noff = [1.0, 2.0, -1.0, 1.0]\non = [1.0, 1.0, 1.0, -1.0]\n")
    result = process(place, "scan", "run", "job.toml", "--processes", 2)
    assert result.code == 65, result.err
    assert "4 tasks: 2 done" in result.out and "task 3 is invalid" in result.err and "task 4 is" in result.err
    data = answer(capsys, "status", "job.toml")
    assert [task["state"] for task in data["tasks"]] == ["done", "done", "invalid", "failed"]
    assert "not negative" in data["tasks"][2]["reason"] and data["tasks"][3]["reason"].startswith("error: ")
    text = QUICK.split("[scan]")[0]
    Path("alone.toml").write_text(text)
    assert call(capsys, "run", "alone.toml", "--set", "parameters.off=2.0", "--quiet").code == 0
    with open_run("runs/alone") as alone, open_run("runs/job/task-0002") as task:
        np.testing.assert_array_equal(alone.mean, task.mean)
        assert alone.model().hash == task.model().hash
    before = tree(place / "runs/job/task-0001")
    again = process(place, "scan", "run", "job.toml", "--only", "1,2", "--json")
    assert again.code == 0 and json.loads(again.out)["counts"] == {"done": 2}
    assert tree(place / "runs/job/task-0001") == before


def test_a_value_that_was_wrong_is_put_right_and_its_task_alone_is_run(place, capsys):
    Path("job.toml").write_text(QUICK + "off = [1.0, -2.0, 3.0]\n")
    assert process(place, "scan", "run", "job.toml", "--only", "1-2").code == 65
    before = tree(place / "runs/job/task-0001")
    Path("job.toml").write_text(QUICK + "off = [1.0, 2.0, 3.0]\n")
    assert states(capsys) == ["done", "invalid", "missing"]  # what was begun is what counts, until it is run again
    assert "job.toml has changed since this scan was begun" in call(capsys, "scan", "status", "job.toml").err
    result = process(place, "scan", "run", "job.toml", "--only", "1-2")
    assert result.code == 0 and "task 2 is done (off = 2.0)" in result.err and "task 1" not in result.err
    assert tree(place / "runs/job/task-0001") == before and states(capsys) == ["done", "done", "missing"]
    assert call(capsys, "scan", "status", "job.toml").err == ""
    # A task whose values change after it was run is told, and its folder is left as it is.
    Path("job.toml").write_text(QUICK + "off = [9.0, 2.0, 3.0]\n")
    result = process(place, "scan", "run", "job.toml", "--only", "1")
    assert result.code == 65 and "another job" in result.err
    assert tree(place / "runs/job/task-0001") == before and states(capsys)[0] == "foreign"


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_task_is_told_and_a_stopped_scan_goes_on(place, capsys):
    Path("job.toml").write_text(LONG + "off = [1.0, 2.0, 3.0]\n")
    words = [sys.executable, "-m", "hpcme", "scan", "run", "job.toml", "--processes", "2", "--quiet"]
    scan = subprocess.Popen(words, cwd=place, env=clean_environment())
    try:
        wait_for(lambda: all(last_step(place / f"runs/job/task-000{i}") > 1 for i in (1, 2)))
        owner = json.loads((place / "runs/job/task-0002/run.lock").read_text().strip("\0 \n"))
        os.kill(int(owner["pid"]), signal.SIGKILL)
        wait_for(lambda: last_step(place / "runs/job/task-0003") > 1)  # its place is taken by the next
        assert states(capsys) == ["running", "interrupted", "running"]
        scan.send_signal(signal.SIGTERM)
        assert scan.wait(timeout=60) == 75
    finally:
        for pid in [*below(scan.pid), scan.pid]:
            if scan.poll() is None:
                os.kill(pid, signal.SIGKILL)
    found = answer(capsys, "status", "job.toml")
    assert found["counts"] == {"stopped": 2, "interrupted": 1}
    assert "exit code -9" in found["tasks"][1]["reason"]
    steps = [task["step"] for task in found["tasks"]]
    again = process(place, "scan", "run", "job.toml", "--only", "2", HPCME_DEADLINE=str(time.time() + 20))
    assert again.code == 75
    found = answer(capsys, "status", "job.toml")["tasks"]
    assert found[1]["step"] > steps[1] and found[0]["step"] == steps[0]


def test_warm_tasks_begin_from_the_nearest_one_that_is_done(place, capsys):
    Path("job.toml").write_text(QUICK + "off = [1.0, 2.0, 1.1]\n")
    result = process(place, "scan", "run", "job.toml", "--warm", "--processes", 1)
    assert result.code == 0, result.err
    warm = []
    for i in (1, 2, 3):
        with open_run(f"runs/job/task-000{i}") as run:
            warm.append(run.provenance["warm"])
    assert warm == ["", f"{place}/runs/job/task-0001", f"{place}/runs/job/task-0001"]
    assert process(place, "scan", "run", "job.toml", "--quiet").code == 0  # done is done, warm or not
    assert states(capsys) == ["done"] * 3
    sampled = QUICK.replace("[output]", '[solver]\nscheme = "projection"\n[output]')
    Path("other.toml").write_text(sampled + "off = [1.0]\n")
    result = call(capsys, "scan", "run", "other.toml", "--warm")
    assert result.code == 65 and "run.warm" in result.err and '"exponential" only' in result.err


def test_merging_tells_what_is_missing_and_why(place, capsys, monkeypatch):
    begun(capsys, monkeypatch, QUICK + "off = [1.0, -2.0]\nmake = [1.0, 2.0]\n")
    nothing = call(capsys, "scan", "merge", "job.toml")
    assert nothing.code == 65 and "no task of the scan is done" in nothing.err
    assert not Path("runs/job/merged.h5").exists()
    solve(capsys, "runs/job", 2)
    result = call(capsys, "scan", "merge", "job.toml", "--out", "new/all.h5")
    assert result.code == 0 and "new/all.h5: 1 of 4 tasks, 2 (off) x 2 (make)" in result.out
    assert "off = 1.0, make = 1.0" in result.out and "it was never begun" in result.out and "not negative" in result.out
    data = answer(capsys, "merge", "runs/job")
    assert data["merged"] == 1 and [item["state"] for item in data["missing"]] == ["missing", "invalid", "invalid"]
    with h5py.File(data["file"]) as file, open_run("runs/job/task-0002") as run:
        assert file["mask"][()].tolist() == [[0, 1], [0, 0]]
        np.testing.assert_array_equal(file["mean"][0, 1], run.mean)
        assert np.isnan(file["mean"][0, 0]).all()


WRONG = [
    (["run", "nowhere.toml"], ["nowhere.toml"]),
    (["run", "plain.toml"], ["plain.toml", "no [scan] table"]),
    (["run", "job.toml", "--only", "5"], ["no task 5", "1 to 2"]),
    (["run", "job.toml", "--processes", "0"], ["--processes", "at least 1"]),
    (["run", "job.toml", "--out", "full"], ["full", "thesis.txt"]),
    (["run", "job.toml", "--out", "plain.toml"], ["plain.toml", "file"]),
    (["run", "full"], ["full", "scan.json"]),
    (["run", "full", "--warm"], ["full", "--warm go with the job file"]),
    (["list", "job.toml", "--set", "parameters.off=3"], ["parameters.off", "axis"]),
    (["status", "job.toml"], ["job.toml", "has not been begun in runs/job"]),
    (["merge", "full"], ["full", "scan.json"]),
    (["stauts", "job.toml"], ['"scan stauts"', 'Did you mean "status"']),
    ([], ["scan list", "--help"]),
    (["submit", "job.toml"], ["hpcme.sbatch"]),
    (["submit", "job.toml", "--time", "soon"], ['"soon"']),
]


@pytest.mark.parametrize(("words", "expected"), WRONG, ids=[" ".join(words) or "nothing" for words, _ in WRONG])
def test_wrong_input_is_told_and_nothing_is_written(place, capsys, monkeypatch, words, expected):
    write_inputs(place)
    Path("plain.toml").write_text(QUICK.replace("[scan]\n", ""))
    Path("job.toml").write_text(QUICK + "off = [1.0, 2.0]\n")
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("important")
    monkeypatch.setenv("HPCME_SITE", "nosite")
    before = tree(place)
    result = call(capsys, "scan", *words)
    assert result.code == 65 and result.out == "" and result.err.count("hpcme: error") == 1
    assert not [word for word in expected if word not in result.err], result.err
    assert tree(place) == before


def test_a_job_with_a_scan_is_not_taken_for_one_job(place, capsys):
    Path("job.toml").write_text(QUICK + "off = [1.0, 2.0]\n")
    for command in ("run", "check", "fsp", "submit"):
        result = call(capsys, command, "job.toml")
        assert result.code == 65 and "hpcme scan run job.toml" in result.err
    assert not Path("runs").exists()


def test_help_knows_the_group(capsys):
    result = call(capsys, "scan", "--help")
    assert result.code == 0 and all(f"  {name} " in result.out for name in COMMANDS if name.startswith("scan "))
    assert call(capsys, "scan", "run", "--help").out == call(capsys, "help", "scan", "run").out != ""


# ---- submission, to a stand-in for Slurm that writes down its words; tests/test_slurm.py has a real one ----


@pytest.fixture
def site(place, monkeypatch):
    """A site's scripts, an sbatch, and a squeue that prints the file `queue`."""
    (place / "site").mkdir()
    for name in ("hpcme", "hpcme-array", "hpcme-scan", "hpcme-after"):
        (place / f"site/{name}.sbatch").write_text("#!/bin/bash\n")
    (place / "bin").mkdir()
    (place / "bin/sbatch").write_text(
        '#!/bin/bash\nprintf "%s|" "$@" >>calls; echo >>calls\n[ ! -e refuse ] || { echo no >&2; exit 1; }\n'
        "echo $((100 + $(grep -c -- --parsable calls)))\n"
    )
    (place / "bin/squeue").write_text("#!/bin/bash\ncat queue 2>/dev/null\n")
    for name in ("sbatch", "squeue"):
        (place / f"bin/{name}").chmod(0o755)
    monkeypatch.setenv("HPCME_SITE", "site")
    monkeypatch.setenv("PATH", f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return place


def calls(place: Path) -> list[list[str]]:
    return [line.split("|")[:-1] for line in (place / "calls").read_text().splitlines()]


def test_what_is_not_done_nor_with_slurm_is_submitted(site, capsys):
    Path("job.toml").write_text(QUICK + "off = [1.0, 2.0, -3.0, 4.0, 5.0]\n")
    result = call(capsys, "scan", "submit", "job.toml", "--at-once", 3, "--nodes", 2)
    assert result.code == 0 and "submitted job 101, an array: 4 tasks" in result.out, result.err
    assert "left out: task 3, invalid: " in result.out and "not negative" in result.out
    (words,) = calls(site)
    assert words[:-1] == ["--parsable", "--array=1-2,4-5%3", "--output=runs/job/logs/task-%4a.log", "--nodes=2",
                          "site/hpcme-array.sbatch"]  # fmt: skip
    lines = [line.split("\t") for line in Path(words[-1]).read_text().splitlines()]
    assert [folder for _, folder in lines] == [f"runs/job/task-000{i}" for i in range(1, 6)]
    assert [Path(job).exists() for job, _ in lines] == [True, True, False, True, True]

    solve(capsys, "runs/job", 1)
    Path("queue").write_text("101|2|PENDING\n101|4|RUNNING\n99|5|RUNNING\n")  # 99 is another scan's
    assert states(capsys) == ["done", "queued", "invalid", "running", "missing"]
    data = answer(capsys, "submit", "job.toml")
    assert data["submitted"] == [5] and data["job_id"] == "102"
    assert "--array=5" in calls(site)[1]
    Path("queue").write_text("102|5|PENDING\n")
    assert states(capsys) == ["done", "missing", "invalid", "missing", "queued"]
    assert answer(capsys, "submit", "runs/job", "--only", "2,5")["submitted"] == [2]


def test_small_tasks_in_groups(site, capsys):
    Path("job.toml").write_text(QUICK + "off = [1.0, 2.0, -3.0, 4.0, 5.0, 6.0]\n")
    data = answer(capsys, "submit", "job.toml", "--group", 2, "--tasks", 2, "--out", "s")
    assert data["submitted"] == [1, 2, 4, 5, 6]
    (words,) = calls(site)
    assert words[:2] == ["--parsable", "--array=1-3"] and words[-3] == "site/hpcme-scan.sbatch" and words[-1] == "s"
    assert Path(words[-2]).read_text() == "1-2\n4-5\n6\n"
    Path("queue").write_text("101|2|PENDING\n")
    assert states(capsys, "s") == ["missing", "missing", "invalid", "queued", "queued", "missing"]
    assert answer(capsys, "submit", "s", "--group", 9)["submitted"] == [1, 2, 6]


def test_a_dry_run_and_a_refusal_leave_nothing_with_slurm(site, capsys):
    Path("job.toml").write_text(QUICK + "off = [1.0, 2.0]\n")
    before = tree(site)
    result = call(capsys, "scan", "submit", "job.toml", "--dry-run")
    assert result.code == 0 and "sbatch --parsable --array=1-2" in result.out and "runs/job/task-0002" in result.out
    assert tree(site) == before
    Path("refuse").touch()
    result = call(capsys, "scan", "submit", "job.toml")
    assert result.code == 65 and "sbatch refused: no" in result.err
    Path("refuse").unlink()
    assert states(capsys) == ["missing", "missing"]
    assert answer(capsys, "submit", "job.toml")["submitted"] == [1, 2]
