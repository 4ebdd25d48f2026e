"""stats, marginals, log-probabilities and samples: the same law whatever the kind of run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from analysis_fakes import STATES, TIMES, exact_run, means, network_run, product_law, trajectory_run
from scipy.stats import poisson

from hpcme.analysis.laws import TabulatedLaw, law_of
from hpcme.analysis.queries import checked_states, logprob_table, marginal_table, read_states, sample_table
from hpcme.analysis.statistics import plain_numbers, sample_moments, stats_table
from hpcme.errors import InputError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "network": network_run(folder / "network", [product_law(means(t)) for t in TIMES]),
        "fsp": exact_run(folder / "fsp"),
        "ssa": trajectory_run(folder / "ssa"),
    }


def test_stats_are_the_json_of_the_interface(runs):
    table = stats_table(runs["fsp"])
    assert set(table) == {
        "kind",
        "times",
        "species",
        "mean",
        "sd",
        "mean_se",
        "sd_se",
        "covariance",
        "covariance_se",
        "readouts",
        "lost",
        "certificate",
    }
    assert table["readouts"] == {}
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert table["kind"] == "fsp" and table["times"] == TIMES.tolist() and table["species"] == ["X", "Y"]
    for k, t in enumerate(TIMES):
        np.testing.assert_allclose(table["mean"][k], means(t), rtol=1e-9)
        np.testing.assert_allclose(table["sd"][k], np.sqrt(means(t)), rtol=1e-9)
        np.testing.assert_allclose(table["covariance"][k], np.diag(means(t)), atol=1e-9)
    assert table["mean_se"] == [[0, 0]] * 3


def test_stats_of_trajectories_have_errors(runs):
    table = stats_table(runs["ssa"], [2.0, 0.5])
    assert table["times"] == [2.0, 0.5]
    m = sample_moments(runs["ssa"].samples(2.0))
    np.testing.assert_array_equal(table["mean_se"][0], m.mean_se)
    np.testing.assert_array_equal(table["sd_se"][0], m.sd_se)
    assert (np.abs(table["mean"][0] - means(2.0)) < 5 * np.array(table["mean_se"][0])).all()
    with pytest.raises(InputError, match="time 3 is not stored"):
        stats_table(runs["ssa"], [3.0])


def test_plain_numbers_have_no_nan():
    assert plain_numbers(
        {"a": [np.nan, np.float64(1), np.inf, (np.int64(2), None)], "b": np.array([[1.5]]), "c": "x"}
    ) == {"a": [None, 1.0, None, [2, None]], "b": [[1.5]], "c": "x"}


@pytest.mark.parametrize("kind", ["network", "fsp", "ssa"])
def test_one_species(runs, kind):
    table = marginal_table(runs[kind], "X", 1.0)
    assert table["species"] == ["X"] and table["time"] == 1.0 and table["method"] == "stored"
    p, se = table["probability"], table["se"]
    assert table["counts"][0].tolist() == list(range(len(p)))
    expected = poisson.pmf(np.arange(len(p)), means(1.0)[0])
    # cells seen less than a few times are not normal: allow three more events
    assert (np.abs(p - expected) <= 5 * se + (3 / 4000 if kind == "ssa" else 1e-9)).all()
    assert marginal_table(runs[kind], ["Y"])["time"] == 2.0


@pytest.mark.parametrize("kind", ["network", "fsp", "ssa"])
def test_two_species(runs, kind):
    table = marginal_table(runs[kind], ["Y", "X"], 1.0, samples=20_000)
    p, se = table["probability"], table["se"]
    assert p.shape == se.shape == tuple(len(axis) for axis in table["counts"]) and p.sum() == pytest.approx(
        1, abs=1e-9
    )
    my, mx = means(1.0)[::-1]
    expected = np.outer(poisson.pmf(np.arange(p.shape[0]), my), poisson.pmf(np.arange(p.shape[1]), mx))
    assert (np.abs(p - expected) <= 5 * se + (1e-9 if kind == "fsp" else 5 / 4000)).all()
    if kind != "fsp":
        number = {"network": 20_000, "ssa": 4000}[kind]
        np.testing.assert_allclose(se, np.sqrt(p * (1 - p) / number), rtol=1e-9)
    assert (
        table["method"]
        == {"network": "20000 fresh samples", "fsp": "sum of the joint law", "ssa": "trajectories"}[kind]
    )


@pytest.mark.parametrize(
    ("species", "message"),
    [
        (["X", "Z"], 'no species "Z".*it has X, Y'),
        (["X", "X"], "two different ones"),
        ([], "not of 0"),
        (["X", "Y", "X"], "not of 3"),
    ],
)
def test_marginals_that_are_refused(runs, species, message):
    with pytest.raises(InputError, match=message):
        marginal_table(runs["fsp"], species)


@pytest.mark.parametrize("samples", [0, -1, 2.5, True])
def test_numbers_of_samples_that_are_refused(runs, samples):
    with pytest.raises(InputError, match="integer of at least 1"):
        marginal_table(runs["network"], ["X", "Y"], samples=samples)
    with pytest.raises(InputError, match="integer of at least 1"):
        sample_table(runs["network"], None, samples)


@pytest.mark.parametrize("kind", ["network", "fsp"])
def test_logprob_is_the_law(runs, kind):
    table = logprob_table(runs[kind], 1.0, STATES)
    np.testing.assert_allclose(np.exp(table["logprob"]), product_law(means(1.0)), rtol=1e-7, atol=1e-12)
    assert table["species"] == ["X", "Y"] and table["time"] == 1.0 and table["states"].dtype == np.int64
    by_name = logprob_table(runs[kind], 1.0, {"Y": STATES[:, 1], "X": STATES[:, 0]})
    np.testing.assert_array_equal(by_name["logprob"], table["logprob"])


@pytest.mark.parametrize("kind", ["network", "fsp"])
def test_states_outside_the_limits_have_probability_zero(runs, kind):
    table = logprob_table(runs[kind], None, [[0, 0], [-1, 0], [23, 0], [10**12, 0], [0.0, 1.0]])
    assert np.isfinite(table["logprob"]).tolist() == [True, False, False, False, True]
    assert (table["logprob"][1:4] == -np.inf).all()
    assert logprob_table(runs[kind], None, np.zeros((0, 2), dtype=int))["logprob"].shape == (0,)
    assert logprob_table(runs[kind], None, [0, 0])["logprob"].shape == (1,)


def test_trajectories_have_no_logprob(runs):
    with pytest.raises(InputError, match="no probabilities of states"):
        logprob_table(runs["ssa"], None, [[0, 0]])


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"X": [1], "x": [1], "Y": [1]}, 'column "x", which is no species: allowed are X, Y'),
        ({"X": [1]}, "lack the species Y"),
        ({"X": [1, 2], "Y": [1]}, "different lengths"),
        ([[1, 2, 3]], r"shape \(1, 3\), expected \(states, 2\)"),
        (5, "shape"),
        ([[1.5, 0]], "state 0 has X = 1.5"),
        ([[0, 0], [0, np.nan]], "state 1 has Y = nan"),
        ([["a", "b"]], "not numbers"),
        ([[1, 2], [3]], "not numbers"),
        ([[1e300, 0]], "counts are integers"),
        (np.array([[2**63, 0]], dtype=np.uint64), "too large"),
        (None, "shape"),
    ],
)
def test_states_that_are_refused(states, message):
    with pytest.raises(InputError, match=message):
        checked_states(["X", "Y"], states)


def test_states_from_a_file(tmp_path):
    path = tmp_path / "states.csv"
    path.write_text("Y, X\n1, 2\n\n3,4.0\n")
    assert read_states(path, ["X", "Y"]).tolist() == [[2, 1], [4, 3]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have a header"),
        (b"X,Y\n", "at least one row"),
        (b"X,X\n1,2\n", "each once"),
        (b"X,Y\n1\n", "row 2: 1 values"),
        (b"X,Z\n1,2\n", 'column "Z"'),
        (b"X,Y\n1,b\n", "not numbers"),
        (b"\xff\xfe\x00", "not a CSV text file"),
    ],
)
def test_state_files_that_are_refused(tmp_path, content, message):
    path = tmp_path / "states.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"(?s)states\.csv.*{message}"):
        read_states(path, ["X", "Y"])
    with pytest.raises(InputError, match="cannot read the states"):
        read_states(tmp_path / "none.csv", ["X", "Y"])


@pytest.mark.parametrize("kind", ["network", "fsp"])
def test_fresh_samples_follow_the_law(runs, kind):
    table = sample_table(runs[kind], 2.0, 20_000, seed=5)
    n = table["samples"]
    assert n.dtype == np.int32 and n.shape == (20_000, 2)
    m = sample_moments(n)
    assert (np.abs(m.mean - means(2.0)) < 5 * m.mean_se).all()
    assert (np.abs(m.covariance - np.diag(means(2.0))) < 5 * m.covariance_se).all()
    np.testing.assert_array_equal(sample_table(runs[kind], 2.0, 20_000, seed=5)["samples"], n)
    assert (sample_table(runs[kind], 2.0, 20_000, seed=6)["samples"] != n).any()


def test_trajectories_are_given_as_they_are(runs):
    np.testing.assert_array_equal(
        sample_table(runs["ssa"], None, 10)["samples"], runs["ssa"].samples(2.0)[:10]
    )
    with pytest.raises(InputError, match="holds 4000 trajectories, 4001 were asked for"):
        sample_table(runs["ssa"], None, 4001)


def test_a_tabulated_law_samples_only_what_is_possible():
    law = TabulatedLaw(np.array([[0, 0], [0, 1], [5, 5], [7, 7]]), np.array([0.0, 0.25, 0.25, -1e-18]))
    n = law.sample(1000, seed=1)
    assert {tuple(row) for row in n.tolist()} == {(0, 1), (5, 5)}
    assert law.log_prob(np.array([[0, 1], [0, 0], [9, 9]])).tolist() == [np.log(0.25), -np.inf, -np.inf]


def test_laws_are_evaluated_in_batches(runs, monkeypatch):
    whole = law_of(runs["network"], 1.0).log_prob(STATES)
    monkeypatch.setattr("hpcme.analysis.laws._BATCH", 7)
    np.testing.assert_array_equal(law_of(runs["network"], 1.0).log_prob(STATES), whole)
