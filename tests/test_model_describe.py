"""What `hpcme check` says about a model."""

import json
from pathlib import Path

import pytest

from hpcme.model.builder import ModelBuilder
from hpcme.model.describe import describe, describe_dict
from hpcme.model.reader import load_model

MODELS = Path(__file__).parent.parent / "jobs" / "models"


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_model_is_described_in_full(path):
    net = load_model(path)
    text, data = describe(net), describe_dict(net)
    assert json.loads(json.dumps(data)) == data
    assert text.isascii() and max(map(len, text.splitlines())) < 200
    for word in (net.name, net.law, *net.species, *net.parameters, *(r.equation for r in net.reactions)):
        assert word in text
    assert len(data["reactions"]) == net.R and len(data["species"]) == net.S
    for entry, row in zip(data["reactions"], net.s.tolist(), strict=True):
        assert entry["change"] == {name: c for name, c in zip(net.species, row, strict=True) if c}


def test_toggle_switch_in_both_laws():
    text = describe(load_model(MODELS / "toggle_switch.toml"))
    assert "NOT divided by m!" in text
    assert (
        "a = b * Gy * Px * (Px - 1)\n         = 0.0001 * Gy * Px * (Px - 1)\n       without division by m!"
        in text
    )
    assert "a = u*(1 - Gy)\n         = 0.1*(1 - Gy)" in text
    assert "conservation laws, obeyed by every state\n  none" in text
    power = describe(load_model(MODELS / "toggle_switch_power.toml"))
    assert "a = b * Gy * Px**2" in power and "0 where Px < 2" in power


def test_laws_limits_and_time():
    text = describe(load_model(MODELS / "early_life.toml").with_limits({"A": 150}))
    assert "A + D + L = 100" in text and "0..150" in text and "(laws imply 100)" in text
    assert "1/V * A * D" in text and "time unit: none" in text
    data = describe_dict(load_model(MODELS / "early_life.toml"))
    assert (
        data["equalities"] == [{"coefficients": {"A": 1, "D": 1, "L": 1}, "value": 100}]
        and data["inequalities"] == []
    )
    season = load_model(MODELS / "epidemic.toml")
    assert "propensities depend on the time t" in describe(season)
    assert [entry["time_dependent"] for entry in describe_dict(season)["reactions"]] == [True] + [False] * 5
    assert describe_dict(season)["inequalities"] == [{"coefficients": {"S": 1, "I": 1, "R": 1}, "bound": 60}]


def test_starts_parameters_names_and_units():
    net = (
        ModelBuilder("m", description="a test", time_unit="s")
        .parameter("k", 2)
        .parameter("k2", "2*k")
        .parameter("z", 1)
        .species("X", initial={"poisson": 1.5}, max=30)
        .species("Y", initial=2, max=9)
        .species("Z", initial={"binomial": {"n": 3, "p": 0.5}}, max=9)
        .reaction("X -> Y", rate="k2", name="turn")
        .build()
    )
    text = describe(net)
    assert "independent species: X ~ poisson = 1.5, Y = 2, Z ~ binomial = n = 3, p = 0.5" in text
    assert "[turn]" in text and "time unit: s" in text and "  a test\n" in text
    assert "k2  =  4  = 2*k" in text and text.count("(nothing uses it)") == 1
    used = {entry["name"]: entry["used"] for entry in describe_dict(net)["parameters"]}
    assert used == {"k": True, "k2": True, "z": False}


def test_joint_tables_are_shortened():
    builder = ModelBuilder("m").species("X", max=30).species("Y", max=9).reaction("X -> Y", rate=1)
    few = builder.initial([[3, 4], [5, 6]], [0.25, 0.75]).build()
    assert "joint table of (X, Y): (3, 4) with 0.25; (5, 6) with 0.75\n" in describe(few)
    many = builder.initial([[i, 1] for i in range(20)], [0.05] * 20).build()
    assert "; and 14 more states\n" in describe(many)
    one = builder.initial([[3, 4]], [1.0]).build()
    assert "one state: X = 3, Y = 4" in describe(one)
