"""HPCME_DEADLINE: a run ends in good order, with a checkpoint, before its time runs out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cli_helpers import call, tree, write_inputs

from hpcme.cli import run as command
from hpcme.errors import InputError
from hpcme.store.reader import open_run


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Clock:
    """A clock that every look moves on by `tick` seconds."""

    def __init__(self, now: float, tick: float) -> None:
        self.now, self.tick = now, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@pytest.mark.parametrize(
    "deadline, last",
    [
        ("", math.inf),
        ("5000", 4940.0),  # a minute is kept
        ("1600", 1540.0),  # both rules agree
        ("1100", 1090.0),  # of 100 seconds a tenth
        ("1000.0", 1000.0),
        ("900", 900.0),  # it has passed already
    ],
)
def test_the_margin_is_a_minute_or_a_tenth(deadline, last):
    assert command.last_moment(deadline, 1000.0) == pytest.approx(last)


@pytest.mark.parametrize("deadline", ["soon", "nan", "inf", "-5", "2026-01-01T00:00:00", " "])
def test_a_deadline_that_is_no_time_is_refused(place, capsys, monkeypatch, deadline):
    monkeypatch.setenv("HPCME_DEADLINE", deadline)
    before = tree(place)
    result = call(capsys, "run", "job.toml", "--out", "run")
    assert result.code == 65 and f'HPCME_DEADLINE = "{deadline}"' in result.err and "Fix:" in result.err
    assert result.err.count("\n") == 1 and tree(place) == before
    with pytest.raises(InputError):
        command.last_moment(deadline, 0.0)


def test_a_run_stops_at_its_deadline_and_continues_to_the_same_results(place, capsys, monkeypatch):
    assert call(capsys, "run", "job.toml", "--out", "whole").code == 0
    with monkeypatch.context() as patch:
        # Time goes by 10 s a step: started at 1010, of the 40 s until 1050 a tenth is kept.
        patch.setattr(command.time, "time", Clock(1000.0, 10.0))
        patch.setenv("HPCME_DEADLINE", "1050")
        result = call(capsys, "run", "job.toml", "--out", "run")
        assert result.code == 75 and result.out == ""
        assert "hpcme: stopped before the time ran out (HPCME_DEADLINE) at step 4," in result.err
    with open_run("run") as run:
        assert run.status == "stopped" and run.series()["step"].tolist() == [1, 2, 3, 4]
    with monkeypatch.context() as patch:  # no time at all: one step, so that repeating the command gets on
        patch.setenv("HPCME_DEADLINE", "1000")
        assert call(capsys, "run", "job.toml", "--out", "run").code == 75
    with open_run("run") as run:
        assert run.series()["step"].tolist() == [1, 2, 3, 4, 5]
    monkeypatch.setenv("HPCME_DEADLINE", "99999999999")
    assert call(capsys, "run", "job.toml", "--out", "run").code == 0
    with open_run("run") as a, open_run("whole") as b:
        assert np.array_equal(a.mean, b.mean) and np.array_equal(a.samples(), b.samples())
        assert np.array_equal(a.series()["loss"], b.series()["loss"])
