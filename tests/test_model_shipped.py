"""The model files that come with hpcme: they read, and their propensities are those of the literature."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from model_tables import table_propensity

import hpcme
from hpcme.model.network import ReactionNetwork
from hpcme.model.reader import load_model, load_model_text

MODELS = sorted((Path(__file__).parent.parent / "jobs" / "models").glob("*.toml"))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_shipped_models_are_sound(path):
    net = load_model(path)
    assert net.name == path.stem
    assert path.read_text().startswith("# ") and "# Source: " in path.read_text()
    assert load_model_text(net.text) == net
    states, p = net.initial.support()
    assert p.sum() == pytest.approx(1.0, abs=1e-13) and (states <= net.limits).all()
    assert net.laws.satisfied(states).all()
    for k, n in itertools.product(range(net.R), states[:3]):
        assert table_propensity(net, k, n, 0.7) >= 0


def shipped(name: str) -> ReactionNetwork:
    return hpcme.load_model(next(path for path in MODELS if path.stem == name))


def test_all_systems_are_there():
    assert {path.stem for path in MODELS} >= {
        "birth_death",
        "gene_expression",
        "autoregulation",
        "toggle_switch",
        "toggle_switch_power",
        "early_life",
        "epidemic",
        "cascade_linear",
        "cascade_hill",
        "cascade_feedback",
        "schlogl",
    }


@pytest.mark.parametrize("name", ["toggle_switch", "toggle_switch_power"])
def test_toggle_switch_propensities(name):
    net = shipped(name)
    for gx, gy, px, py in itertools.product((0, 1), (0, 1), (0, 1, 2, 30), (0, 1, 5)):
        pairs = (lambda n: n * (n - 1)) if name == "toggle_switch" else (lambda n: n * n if n > 1 else 0)
        expected = [
            50 * gx,
            50 * gy,
            px,
            py,
            1e-4 * pairs(px) * gy,
            1e-4 * pairs(py) * gx,
            0.1 * (1 - gy),
            0.1 * (1 - gx),
        ]
        assert [table_propensity(net, k, (gx, gy, px, py)) for k in range(8)] == pytest.approx(
            expected, rel=1e-15
        )
    assert net.s.tolist()[4:] == [[0, -1, -2, 0], [-1, 0, 0, -2], [0, 1, 2, 0], [1, 0, 0, 2]]


def test_hill_cascade_stops_at_zero():
    net = shipped("cascade_hill")
    n = np.zeros(15, dtype=int)
    assert table_propensity(net, 1, n) == 0.0
    n[0] = 3
    assert table_propensity(net, 1, n) == pytest.approx(16.667 + 1666.7 * 3 / (66.67 + 3), rel=1e-15)


def test_epidemic_season():
    net = shipped("epidemic")
    for t in (0.0, 1.5, 4.0):
        expected = 0.003 * (1 + 0.2 * math.sin(2 * math.pi * t / 6)) * 50 * 10
        assert table_propensity(net, 0, (50, 10, 0), t) == pytest.approx(expected, rel=1e-14)


def test_early_life_volume():
    net = shipped("early_life").with_parameters({"V": 0.1})
    assert table_propensity(net, 0, (2, 49, 49)) == pytest.approx(10 * 2 * 49, rel=1e-15)
