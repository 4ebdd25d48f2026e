"""info, prob, quantiles, modes and loglik on the command line: JSON, CSV and text say the same, and the right thing."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from analysis_fakes import STATES, TIMES, certificate, exact_run, means, network_run, product_law, trajectory_run
from cli_helpers import call
from scipy.stats import poisson

from hpcme.analysis.modes import LEAST, PROMINENCE, SMOOTH


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    exact_run(folder / "exact").close()
    trajectory_run(folder / "ssa").close()
    laws = [w * product_law((2.0, 14.0)) + (1 - w) * product_law((16.0, 2.0)) for w in (0.9, 0.5, 0.2)]
    network_run(folder / "two", laws).close()
    extra, series = [certificate(b) for b in (0.01, 0.02, 0.2)], [{"dt": dt, "wall": 0.1} for dt in (0.1, 0.2, 0.4)]
    network_run(folder / "certified", laws, extra=extra, series=series).close()
    return folder


def _csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_info(place, capsys):
    data = json.loads(call(capsys, "info", place / "exact", "--time", 1, "--json").out)
    own = [poisson.entropy(m) for m in means(1.0)]
    assert data["entropy"] == pytest.approx(own) and data["joint_entropy"] == pytest.approx(sum(own))
    rows = _csv(call(capsys, "info", place / "exact", "--time", 1, "--csv").out)
    rows = {(r["quantity"], r["species"], r["and"]): r for r in rows}
    assert float(rows["entropy", "Y", ""]["value"]) == data["entropy"][1]
    assert float(rows["mutual_information", "X", "Y"]["value"]) == data["mutual_information"][0][1]
    assert float(rows["total_correlation", "", ""]["value"]) == data["total_correlation"]
    text = call(capsys, "info", place / "exact", "--time", 1).out
    assert f"{data['entropy'][0]:.6g}" in text and "exact law of 460 states" in text and "nats" in text
    data = json.loads(call(capsys, "info", place / "ssa", "--json").out)
    assert data["joint_entropy"] is None and data["entropy_se"][0] > 0
    assert " +- " in call(capsys, "info", place / "ssa").out


def test_prob(place, capsys):
    words = ("prob", place / "exact", "X > 1 and Y == 0")
    data = json.loads(call(capsys, *words, "--json").out)
    right = [poisson.sf(1, means(t)[0]) * poisson.pmf(0, means(t)[1]) for t in TIMES]
    assert data["probability"] == pytest.approx(right) and data["times"] == TIMES.tolist()
    rows = _csv(call(capsys, *words, "--csv").out)
    assert [float(r["probability"]) for r in rows] == data["probability"]
    assert list(rows[0]) == ["time", "probability", "se"]
    text = call(capsys, *words, "--given", "X < 0", "--time", 1).out
    assert "P(X > 1 and Y == 0 | X < 0)" in text and text.splitlines()[2].split() == ["1", "-", "-", "0"]
    text = call(capsys, "prob", place / "exact", "X > 1", "--reach", 0.5, 0.9999).out
    first = next(t for t in TIMES if poisson.sf(1, means(t)[0]) >= 0.5)
    assert f"P >= 0.5: first at the stored time {first:g}\n" in text and "P >= 0.9999: at no stored time" in text
    assert "at least the column reached" in text
    data = json.loads(call(capsys, "prob", place / "exact", "X >= 0", "--reach", 0.5, "--json").out)
    assert data["closed"] is True and data["between"] == [[0.5, 0.5]]


def test_quantiles(place, capsys):
    data = json.loads(call(capsys, "quantiles", place / "exact", "--level", 0.1, 0.5, "--json").out)
    assert data["quantile"] == [[[int(poisson.ppf(level, m)) for level in (0.1, 0.5)] for m in means(2.0)]]
    rows = _csv(call(capsys, "quantiles", place / "ssa", "--species", "Y", "--time", 0.5, 2, "--csv").out)
    assert len(rows) == 10 and {r["species"] for r in rows} == {"Y"}
    assert all(int(r["low"]) <= int(r["quantile"]) <= int(r["high"]) for r in rows)
    assert "95 % confidence" in call(capsys, "quantiles", place / "exact").out


def test_modes(place, capsys):
    words = ("modes", place / "two", "--smooth", 1)
    data = json.loads(call(capsys, *words, "--json").out)
    assert len(data["weight"]) == 2 and data["weight"][0] == pytest.approx(0.8, abs=0.01)
    assert "tables" not in data and "basin" not in data
    rows = _csv(call(capsys, *words, "--csv").out)
    assert [float(r["weight"]) for r in rows] == pytest.approx(np.ravel(data["weights"]).tolist())
    assert [int(r["peak_X"]) for r in rows[:2]] == [peak[0] for peak in data["peak"]]
    text = call(capsys, *words).out
    assert "modes of X and Y at t = 2" in text and "own modes" in text
    defaults = {f"(default {value:g}" for value in (SMOOTH, PROMINENCE, LEAST)}
    assert all(word in " ".join(call(capsys, "modes", "--help").out.split()) for word in defaults)
    assert len(json.loads(call(capsys, *words, "--least", 0.3, "--json").out)["weight"]) == 1
    one = json.loads(call(capsys, *words, "--species", "Y", "--time", 0.5, "--json").out)
    assert one["species"] == ["Y"] and one["time"] == 0.5 and len(one["peak"][0]) == 1


def test_loglik(place, tmp_path, capsys):
    path = tmp_path / "data.csv"
    p = product_law(means(2.0))
    n = STATES[np.random.default_rng(0).choice(len(STATES), 40, p=p / p.sum())]
    path.write_text("Y,X\n" + "".join(f"{y},{x}\n" for x, y in n))
    words = ("loglik", place / "exact", place / "two", "--data", path)
    data = json.loads(call(capsys, *words, "--json").out)
    right = poisson.logpmf(n, means(2.0)).sum()
    assert data["runs"][0]["loglik"] == pytest.approx(right, abs=1e-6)
    assert data["runs"][0]["loglik"] > data["runs"][1]["loglik"] and len(data["runs"][0]["logprob"]) == 40
    rows = _csv(call(capsys, *words, "--csv").out)
    assert [float(r["loglik"]) for r in rows] == [run["loglik"] for run in data["runs"]]
    assert float(rows[0]["less the best"]) == 0.0 > float(rows[1]["less the best"])
    path.write_text("X,time\n1,0.5\n21,2\n")
    found = json.loads(call(capsys, "loglik", place / "ssa", "--data", path, "--json").out)["runs"][0]
    assert found["loglik"] is None and found["unseen"] == 1  # minus infinity, which JSON lacks
    text = call(capsys, "loglik", place / "ssa", "--data", path).out
    assert "raise --samples" in text and "-inf" not in text.splitlines()[0]
    found = call(capsys, "loglik", place / "exact", "--data", path, "--time", 2)
    assert found.code == 65 and "leave one out" in found.err
    path.write_text("X\n1\n")
    value = json.loads(call(capsys, "loglik", place / "exact", "--data", path, "--time", 0.5, "--json").out)["runs"][0]
    assert value["loglik"] == pytest.approx(math.log(poisson.pmf(1, means(0.5)[0])), abs=1e-9)


@pytest.mark.parametrize(
    "words",
    [
        ("two", "--kind", "heat"),
        ("two", "--kind", "heat", "--species", "Y"),
        ("exact", "--kind", "corner", "--time", 1),
        ("two", "--kind", "modes", "--species", "X", "--time", 0.5),
        ("two", "--kind", "joint", "--species", "Y", "X"),
        ("exact", "--kind", "marginals", "--time", 0.5, 2, "--reference", "ssa"),
        ("two", "--kind", "certificate", "--reference", "exact"),
        ("certified", "--kind", "certificate"),
        ("certified", "--kind", "convergence"),
    ],
)
def test_plot_makes_every_kind(place, tmp_path, capsys, words):
    pytest.importorskip("matplotlib")
    name, *options = (place / word if word in ("ssa", "exact", "two", "certified") else word for word in words)
    found = call(capsys, "plot", name, *options, "--out", tmp_path / "a.svg", "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out) == {"figure": str(tmp_path / "a.svg"), "kind": words[2]}
    assert (tmp_path / "a.svg").read_text().count("<path") > 10
