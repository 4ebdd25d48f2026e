"""`hpcme check`: what it counts and estimates, against closed forms."""

from __future__ import annotations

import json
import math

import pytest
from cli_helpers import BIRTH_DEATH, SWITCH, call, write_inputs

BIRTH = """[model]
name = "birth"
[species]
X = { initial = 0, max = 900 }
[[reactions]]
equation = "0 -> X"
rate = 2.0
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_inputs(tmp_path)
    (tmp_path / "birth.toml").write_text(BIRTH)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_states_are_counted_and_the_box_and_support_told(place, capsys):
    data = json.loads(call(capsys, "check", "switch.toml", "--json").out)
    assert data["states"]["reachable"] == 2 * 13 and data["states"]["complete"]
    assert data["states"]["box"] == 26 and data["states"]["exact_support"]
    assert data["name"] == "switch" and [s["max"] for s in data["species"]] == [1, 12]
    assert "job" not in data and "cost" not in data
    text = call(capsys, "check", "switch.toml").out
    assert "26 reachable, of 26 within the limits" in text and "give --end T" in text
    assert "a = on*(1 - G)" in text


def test_many_states_are_more_than_the_count(place, capsys):
    data = json.loads(call(capsys, "check", "switch.toml", "--json", "--max-states", "10").out)
    assert data["states"]["reachable"] == 10 and not data["states"]["complete"]
    assert data["states"]["exact_solver_bytes"] is None and not data["states"]["exact_support"]
    assert "more than 10 reachable, of 26" in call(capsys, "check", "switch.toml", "--max-states", "10").out


def test_a_large_starting_law_is_more_than_the_count_too(place, capsys):
    wide = BIRTH_DEATH.replace("initial = 1,", "initial = { poisson = 9.0 },")
    (place / "wide.toml").write_text(wide)
    data = json.loads(call(capsys, "check", "wide.toml", "--json", "--max-states", "3").out)
    assert not data["states"]["complete"] and data["states"]["reachable"] == 3


def test_keys_that_differ_from_the_defaults_are_shown(place, capsys):
    data = json.loads(call(capsys, "check", "job.toml", "--set", "run.seed=9", "--json").out)
    assert data["job"]["changed"] == {
        "network.width": 8,
        "solver.scheme": "projection",
        "solver.jumps": 0.1,
        "solver.start_jumps": 0.3,
        "solver.start_epochs": 60,
        "sampling.samples": 64,
        "run.seed": 9,
        "output.samples": 50,
        "output.report_samples": 400,
    }
    assert data["job"]["report_times"] == [0.0, 0.3, 0.6]
    text = call(capsys, "check", "job.toml").out
    assert "keys that differ from their defaults" in text and "    solver.jumps = 0.1\n" in text
    assert "every key has its default" in call(capsys, "check", "switch.toml", "--end", "1").out


def test_the_number_of_steps_is_exact_where_the_exit_rate_is_constant(place, capsys):
    """Births at rate 2 up to t = 10, 3 expected jumps done at the start: t0 = 1.5; steps of 0.5 / 2, landing
    on 5 and 10."""
    argv = ["check", "birth.toml", "--end", "10", "--every", "5", "--json", "--set", "solver.start_jumps=3.0"]
    argv += ["--set", "solver.scheme=projection"]
    cost = json.loads(call(capsys, *argv).out)["cost"]
    assert cost["start_exit_rate"] == pytest.approx(2.0, rel=1e-9)
    assert cost["start_time"] == pytest.approx(1.5, rel=0.03)  # met to about 2% (see short_time_law)
    assert cost["steps"] == math.ceil((5 - cost["start_time"]) / 0.25) + 20
    assert cost["epochs"] == 4
    assert cost["seconds_at_least"] == pytest.approx(cost["steps"] * 4 * cost["epoch_seconds"])
    adam = json.loads(call(capsys, *argv, "--set", "solver.optimiser=adam", "--set", "sampling.samples=1000").out)
    adam = adam["cost"]
    assert adam["epochs"] == 20 and adam["steps"] == cost["steps"]
    # the scores of every sample, and their centred copy
    assert cost["bytes"] - adam["bytes"] == 2 * 8 * 1000 * cost["parameters"]
    # no gated unit is needed for one species: the network is its head and what leads to it
    wider = json.loads(call(capsys, *argv, "--set", "network.width=64").out)["cost"]
    assert wider["parameters"] > cost["parameters"] and wider["bytes"] > cost["bytes"]


def test_a_fixed_step_is_counted_too(place, capsys):
    argv = ["check", "birth.toml", "--end", "10", "--every", "5", "--json", "--set", "solver.dt=0.1"]
    argv += ["--set", "solver.scheme=projection"]
    cost = json.loads(call(capsys, *argv).out)["cost"]
    assert cost["steps"] == math.ceil((5 - cost["start_time"]) / 0.1 - 1e-9) + 50


def test_rates_that_read_the_time_are_looked_at_up_to_the_end(place, capsys):
    later = SWITCH.replace('"on*(1 - G)"', '"where(t > 1, on*(1 - G), 0)"')
    (place / "later.toml").write_text(later)
    text = call(capsys, "check", "later.toml").out
    assert "1 reachable, of 26" in text and "t = 0 only: give --end T" in text
    assert "26 reachable, of 26" in call(capsys, "check", "later.toml", "--end", "2").out
