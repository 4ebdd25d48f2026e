"""The model and job files that come with hpcme: they read, they cover the systems of the literature with all their
variants, and propensities are those of the literature."""

import itertools
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
from model_tables import table_propensity

import hpcme
from hpcme.model.network import ReactionNetwork
from hpcme.model.reader import load_model, load_model_text

ROOT = Path(__file__).parent.parent / "jobs"
MODELS = sorted((ROOT / "models").glob("*.toml"))
JOBS = sorted(ROOT.glob("*.toml"))
#: Systems of Tang, Weng, Zhang 2023: model, end, and the parameters that a job sets, one line per variant.
VARIANTS = [
    ("birth_death", 100.0, {}),
    ("gene_expression", 3600.0, {}),
    ("gene_expression_bursts", 3600.0, {}),
    ("autoregulation", 10.0, {"su": 0.94, "sb": 0.01, "ru": 8.40, "rb": 28.1}),
    ("autoregulation", 10.0, {"su": 0.69, "sb": 0.07, "ru": 7.2, "rb": 40.6}),
    ("autoregulation", 10.0, {"su": 0.44, "sb": 0.08, "ru": 0.94, "rb": 53.1}),
    ("toggle_switch", 40.0, {}),
    ("toggle_switch_power", 40.0, {}),
    ("early_life", 8.0, {"V": 0.1}),
    ("early_life", 8.0, {"V": 1.0}),
    ("early_life", 8.0, {"V": 10.0}),
    ("epidemic", 20.0, {"eps": 0.0}),
    ("epidemic", 20.0, {"eps": 0.2}),
    ("epidemic", 20.0, {"eps": 0.6}),
    ("cascade_linear", 10.0, {}),
    ("cascade_hill", 10.0, {}),
    ("cascade_feedback", 10.0, {}),
]
#: Systems whose network is also solved with its species in the opposite order.
REVERSED = ["gene_expression", "gene_expression_bursts", "cascade_linear"]
_KEYS = 3  # job keys beyond model, parameters, time and the order, at most


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


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_shipped_jobs_load_and_say_what_they_are(path):
    job = hpcme.load_job(path)
    assert (ROOT / "models" / f"{job.net.name}.toml").exists()
    head = path.read_text(encoding="utf-8").split("model = ")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    for word in ("Shows: ", "Cost: ", "Expected error: "):
        assert word in head.replace("\n# ", " "), word
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    further = [key for table in tables.keys() - {"model", "parameters", "time"} for key in tables[table]]
    assert len(further) <= _KEYS


def test_jobs_cover_every_variant_at_its_full_horizon():
    jobs = [hpcme.load_job(path) for path in JOBS]
    for model, end, parameters in VARIANTS:
        assert any(
            job.net.name == model and job["time.end"] == end and parameters.items() <= job.net.parameters.items()
            for job in jobs
        ), (model, parameters)
    for model in REVERSED:
        net = shipped(model)
        assert any(job.net.name == model and job["network.order"] == list(net.species[::-1]) for job in jobs), model


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
