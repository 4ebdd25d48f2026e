"""`hpcme submit`: what it hands to sbatch, and that wrong input is told before anything is submitted.

sbatch is a stand-in here that writes down its words; tests/test_slurm.py submits to a real Slurm.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from cli_helpers import JOB, call, tree, write_inputs


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with jobs, a site of three scripts and an sbatch; the current folder."""
    write_inputs(tmp_path)
    (tmp_path / "second.toml").write_text(JOB)
    site = tmp_path / "site"
    site.mkdir()
    for name in ("hpcme", "hpcme-array", "hpcme-after"):
        (site / f"{name}.sbatch").write_text(f"#!/bin/bash\n# {name} of this site\n")
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    sbatch = bin_dir / "sbatch"
    sbatch.write_text(
        '#!/bin/bash\nprintf "%s|" "$@" >>calls; echo >>calls\nenv | grep ^SLURM_ >>calls\n'
        "[ ! -e refuse ] || { echo 'sbatch: error: invalid partition specified: x' >&2; exit 1; }\n"
        "echo $((100 + $(grep -c -- --parsable calls)))';cluster'\n"
    )
    sbatch.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPCME_SITE", "site")
    monkeypatch.setenv("PATH", f"{bin_dir}{os.pathsep}{os.environ['PATH']}")
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    return tmp_path


def calls(place: Path) -> list[list[str]]:
    """The words of each call of sbatch."""
    return [line.split("|")[:-1] for line in (place / "calls").read_text().splitlines()]


def test_one_job_with_what_it_asks_for(place, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "9")  # of a job that this is called in: none of the new one's business
    result = call(
        capsys, "submit", "job.toml", "--out", "out dir", "--nodes", 2, "--tasks", 3, "--gpus", 4, "--time", "1-0",
        "--sbatch=--qos=high", "--set", "solver.epochs=5", "--end", 0.3,
    )  # fmt: skip
    assert result.code == 0 and "submitted job 101\n" in result.out, result.err
    assert calls(place) == [
        ["--parsable", "--nodes=2", "--ntasks-per-node=3", "--gpus-per-node=4", "--time=1-0", "--qos=high",
         "site/hpcme.sbatch", "job.toml", "out dir", "--end=0.29999999999999999", "--set=solver.epochs=5"]
    ]  # fmt: skip


def test_the_folder_is_that_of_hpcme_run(place, capsys):
    data = json.loads(call(capsys, "submit", "job.toml", "--json").out)
    assert data["job_id"] == "101" and data["after_id"] is None
    assert data["runs"] == [{"job": "job.toml", "folder": "runs/job", "finished": False}]
    assert calls(place) == [["--parsable", "site/hpcme.sbatch", "job.toml", "runs/job"]]


def test_several_jobs_are_an_array_with_a_list(place, capsys):
    result = call(capsys, "submit", "job.toml", "second.toml", "--out", "all", "--at-once", 1)
    assert result.code == 0 and "submitted job 101, an array of 2" in result.out, result.err
    (words,) = calls(place)
    assert words[:3] == ["--parsable", "--array=1-2%1", "site/hpcme-array.sbatch"]
    assert (place / words[3]).read_text() == "job.toml\tall/job\nsecond.toml\tall/second\n"
    (place / "jobs.txt").write_text("# mine\n\njob.toml\nsecond.toml  # the other\n")
    assert call(capsys, "submit", "--array", "jobs.txt", "--out", "all", "--at-once", 1).code == 0
    assert calls(place)[1] == words


def test_finished_runs_are_not_submitted_again(place, capsys):
    assert call(capsys, "run", "job.toml", "--out", "all/job", "--quiet").code == 0
    result = call(capsys, "submit", "job.toml", "second.toml", "--out", "all")
    assert "already finished: all/job\n" in result.out and "an array of 1" in result.out
    assert "--array=2" in calls(place)[0]
    result = call(capsys, "submit", "job.toml", "--out", "all/job", "--then", "stats")
    assert result.code == 0 and "already finished" in result.out
    assert calls(place)[1:] == [["--parsable", "site/hpcme-after.sbatch", "all/job", "--", "stats"]]


def test_what_comes_then_waits_for_a_good_end(place, capsys):
    result = call(
        capsys, "submit", "job.toml", "second.toml", "--then", "stats --json", "--then", "compare --with exact"
    )
    assert result.code == 0 and "submitted job 102, after it" in result.out, result.err
    assert calls(place)[1] == [
        "--parsable", "--dependency=afterok:101", "--kill-on-invalid-dep=yes", "site/hpcme-after.sbatch",
        "runs/job", "runs/second", "--", "stats --json", "compare --with exact",
    ]  # fmt: skip


def test_a_dry_run_shows_all_and_writes_nothing(place, capsys):
    before = tree(place)
    result = call(capsys, "submit", "job.toml", "second.toml", "--then", "stats", "--dry-run")
    assert result.code == 0 and tree(place) == before
    assert "sbatch --parsable --array=1-2 site/hpcme-array.sbatch" in result.out
    assert "--dependency=afterok:JOB_ID" in result.out and "job.toml\truns/job\nsecond.toml\truns/second" in result.out
    assert "# hpcme-array of this site" in result.out and "# hpcme-after of this site" in result.out
    data = json.loads(call(capsys, "submit", "job.toml", "--dry-run", "--json").out)
    assert data["dry_run"] and data["job_id"] is None
    assert data["commands"] == ["sbatch --parsable site/hpcme.sbatch job.toml runs/job"]
    assert tree(place) == before


WRONG = [
    ([], ["name job files"]),
    (["job.toml", "--array", "list"], ["not both"]),
    (["jobb.toml"], ["jobb.toml"]),
    (["job.toml", "--set", "solver.epoks=3"], ['Did you mean "solver.epochs"']),
    (["job.toml", "second.toml", "lost.toml"], ["lost.toml"]),
    (["job.toml", "site/../job.toml"], ["both write to runs/job"]),
    (["job.toml", "--out", "full"], ["full"]),
    (["job.toml", "--time", "tomorrow"], ['"tomorrow"', "HH:MM:SS"]),
    (["job.toml", "--nodes", "0"], ["--nodes", "at least 1"]),
    (["job.toml", "--tasks", "4", "--gpus", "2"], ["--tasks 4", "--gpus 2"]),
    (["job.toml", "--at-once", "2"], ["--at-once"]),
    (["job.toml", "--sbatch", "qos"], ['--sbatch "qos"', "starts with -"]),
    (["job.toml", "--then", "run"], ['--then "run"', "compare"]),
    (["job.toml", "--then", ""], ["must begin with"]),
    (["job.toml", "--then", "prob"], ["CONDITION", "required"]),
    (["job.toml", "--then", "stats --jsn"], ["--jsn", 'Did you mean "--json"']),
    (["job.toml", "--then", "stats 'x"], ["quotes"]),
    (["--array", "nowhere.txt"], ["nowhere.txt"]),
    (["--array", "empty.txt"], ["names no job"]),
    (["job.toml", "--site", "elsewhere"], ["elsewhere (--site)", "cmake -S"]),
]


@pytest.mark.parametrize(("words", "expected"), WRONG, ids=[" ".join(words) or "nothing" for words, _ in WRONG])
def test_wrong_input_is_told_and_nothing_is_submitted(place, capsys, words, expected):
    (place / "empty.txt").write_text("# nothing\n")
    (place / "full").mkdir()
    (place / "full" / "thesis.txt").write_text("important")
    before = tree(place)
    result = call(capsys, "submit", *words)
    assert result.code == 65 and result.out == "" and result.err.count("hpcme: error") == 1
    for word in expected:
        assert word in result.err
    assert tree(place) == before


def test_where_the_scripts_of_the_site_are_looked_for(place, capsys, monkeypatch):
    monkeypatch.delenv("HPCME_SITE")
    monkeypatch.setattr(sys, "prefix", str(place / "python"))
    (place / "build").mkdir()
    (place / "site").rename(place / "build/slurm")
    assert "build/slurm/hpcme.sbatch" in call(capsys, "submit", "job.toml", "--dry-run").out
    share = place / "python/share/hpcme"
    share.mkdir(parents=True)
    (place / "build/slurm").rename(share / "slurm")
    assert f"{share}/slurm/hpcme.sbatch" in call(capsys, "submit", "job.toml", "--dry-run").out
    monkeypatch.setenv("HPCME_SITE", "gone")
    result = call(capsys, "submit", "job.toml")
    assert result.code == 65 and f"{place}/gone (HPCME_SITE)" in result.err and not (place / "calls").exists()


def test_an_sbatch_that_refuses_is_quoted(place, capsys):
    (place / "refuse").touch()
    result = call(capsys, "submit", "job.toml")
    assert result.code == 65 and "sbatch refused: invalid partition specified: x. The command was" in result.err
    assert result.err.count("\n") == 1


def test_an_sbatch_that_refuses_only_what_comes_then(place, capsys):
    sbatch = place / "bin/sbatch"
    sbatch.write_text(sbatch.read_text().replace("[ ! -e refuse ]", "[[ $* != *dependency* ]]"))
    result = call(capsys, "submit", "job.toml", "--then", "stats")
    assert result.code == 65 and "job 101 is submitted, but not its --then: sbatch refused" in result.err


def test_no_sbatch_at_all(place, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(place))
    result = call(capsys, "submit", "job.toml")
    assert result.code == 65 and "there is no sbatch here" in result.err and "--dry-run" in result.err
