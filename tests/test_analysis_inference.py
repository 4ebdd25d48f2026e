"""Log-likelihoods of observed counts: closed forms, part of the species, honest errors, and the truth is likeliest."""

from __future__ import annotations

import numpy as np
import pytest
from analysis_fakes import STATES, TIMES, exact_run, means, network_run, product_law, trajectory_run
from analysis_systems import exact_law, solved
from scipy.stats import poisson

from hpcme.analysis.inference import Observations, likelihood_table, read_observations
from hpcme.errors import InputError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "exact": exact_run(folder / "exact"),
        "network": network_run(folder / "network", [product_law(means(t)) for t in TIMES]),
        "ssa": trajectory_run(folder / "ssa", number=20_000),
        **{
            f"{factor:g}": network_run(folder / f"{factor:g}", [product_law(factor * means(t)) for t in TIMES])
            for factor in (0.7, 1.4)
        },
    }


def seen(number, species=("X", "Y"), t=1.0, seed=0):
    """Observations of the true law at one time."""
    n = np.random.default_rng(seed).poisson(means(t), (number, 2))
    return Observations(tuple(species), n[:, ["XY".index(name) for name in species]], None)


@pytest.mark.parametrize("kind", ["exact", "network"])
def test_all_species_seen(runs, kind):
    data = seen(200)
    found = likelihood_table(runs[kind], data, 1.0)
    right = poisson.logpmf(data.counts, means(1.0)).sum()
    assert found["loglik"] == pytest.approx(right, abs=1e-6) and found["loglik_se"] == 0.0
    np.testing.assert_allclose(found["logprob"], poisson.logpmf(data.counts, means(1.0)).sum(axis=1), atol=1e-8)


@pytest.mark.parametrize("kind", ["exact", "network"])
def test_some_species_seen_in_any_order(runs, kind):
    for species in (("Y",), ("X",), ("Y", "X")):
        data = seen(100, species)
        mean = [means(1.0)["XY".index(name)] for name in species]
        found = likelihood_table(runs[kind], data, 1.0)
        assert found["loglik"] == pytest.approx(poisson.logpmf(data.counts, mean).sum(), abs=1e-6)


def test_times_of_their_own(runs):
    counts = np.array([[1, 0], [2, 1], [0, 0]])
    times = np.array([0.5, 2.0, 0.5])
    found = likelihood_table(runs["exact"], Observations(("X", "Y"), counts, times))
    right = [poisson.logpmf(n, means(t)).sum() for n, t in zip(counts, times, strict=True)]
    np.testing.assert_allclose(found["logprob"], right, atol=1e-8)
    assert found["times"].tolist() == [0.5, 2.0] and found["rows"].tolist() == [2, 1]
    assert found["loglik_at"][0] == pytest.approx(right[0] + right[2])
    with pytest.raises(InputError, match="leave one out"):
        likelihood_table(runs["exact"], Observations(("X",), counts[:, :1], times), 0.5)
    with pytest.raises(InputError, match=r"time 0\.7 is not stored"):
        likelihood_table(runs["exact"], Observations(("X",), counts[:, :1], times + 0.2))


def test_the_error_of_trajectories_is_honest(tmp_path):
    """z-scores of 30 sets of trajectories: mean square 1 but for chance (3 sd of chi-square)."""
    data = seen(60, ("X",), seed=5)
    right = poisson.logpmf(data.counts, means(1.0)[0]).sum()
    z = []
    for seed in range(30):
        found = likelihood_table(trajectory_run(tmp_path / str(seed), 2000, seed=seed), data, 1.0)
        z.append((found["loglik"] - right) / found["loglik_se"])
    assert 0.45 < np.mean(np.square(z)) < 1.8


def test_rows_that_cannot_be_are_told_from_rows_not_seen(runs):
    data = Observations(("X", "Y"), np.array([[1, 1], [22, 19], [500, 0], [2**40, 0]]), None)
    found = likelihood_table(runs["network"], data)
    assert found["impossible"] == 2 and found["unseen"] == 0 and found["loglik"] == -np.inf
    assert np.isfinite(found["logprob"][:2]).all()  # rare, and yet the network knows its probability
    found = likelihood_table(runs["ssa"], data)
    assert found["impossible"] == 0 and found["unseen"] == 3 and found["loglik"] == -np.inf


def test_the_truth_is_likeliest(runs):
    data = seen(300, ("X",), t=2.0)
    best = {name: likelihood_table(runs[name], data)["loglik"] for name in ("0.7", "network", "1.4")}
    assert max(best, key=best.get) == "network"


def test_a_solved_system_gives_the_exact_likelihood():
    """Partly seen toggle switch: per observation within 0.01 nats of the exact one."""
    run, (states, p) = solved("toggle_switch"), exact_law("toggle_switch")
    rng = np.random.default_rng(0)
    n = states[rng.choice(len(p), 200, p=p / p.sum())]
    i = run.species.index("Px")
    found = likelihood_table(run, Observations(("Px",), n[:, [i]].astype(np.int64), None))
    right = np.log(np.bincount(states[:, i], p)[n[:, i]]).sum()
    assert abs(found["loglik"] - right) < 0.01 * 200
    sampled = likelihood_table(run, Observations(("Gx", "Px"), n[:, [0, i]].astype(np.int64), None), max_states=10)
    full = likelihood_table(run, Observations(("Gx", "Px"), n[:, [0, i]].astype(np.int64), None))
    assert full["loglik_se"] == 0.0 < sampled["loglik_se"]
    assert abs(sampled["loglik"] - full["loglik"]) < 4 * sampled["loglik_se"]


def test_reading_files(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("time, Y\n0.5,3\n1,4\n\n")
    data = read_observations(path, ["X", "Y"])
    assert data.species == ("Y",) and data.counts.tolist() == [[3], [4]] and data.times.tolist() == [0.5, 1.0]
    path.write_text("\ufeffX,Y\n1,2\n")  # as Excel writes it
    assert read_observations(path, ["X", "Y"]).times is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X,Z\n1,2\n", 'column "Z": allowed are X, Y and time'),
        ("X,Tme\n1,2\n", "column"),
        ("time\n1\n", "must have a header"),
        ("X,X\n1,2\n", "each once"),
        ("X,Y\n", "at least one row"),
        ("X,Y\n1\n", "row 2: 1 values, but 2 columns"),
        ("X\n1.5\n", r"X = 1\.5. Fix: counts are integers"),
        ("X\n3\n-1\n", "row 3 has X = -1. Fix: counts are 0 or more"),
        ("X,time\n3,noon\n", 'row 2 has time = "noon"'),
        ("X,time\n3,nan\n", 'row 2 has time = "nan"'),
    ],
)
def test_wrong_files_are_told(tmp_path, text, message):
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(InputError, match=message) as told:
        read_observations(tmp_path / "data.csv", ["X", "Y"])
    assert "data.csv" in str(told.value)
    with pytest.raises(InputError, match="cannot read"):
        read_observations(tmp_path / "none.csv", ["X", "Y"])


def test_states_of_the_fakes_hold_what_is_observed():
    assert STATES.max() >= seen(200).counts.max()


def test_nothing_agrees_at_a_time(runs):
    """Not one of the trajectories: unseen, and not a crash."""
    found = likelihood_table(runs["ssa"], Observations(("X",), np.array([[22]]), None), 0.5)
    assert found["unseen"] == 1 and found["loglik"] == -np.inf and found["loglik_se"] == 0.0
