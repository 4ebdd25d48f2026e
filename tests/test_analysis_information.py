"""Entropies, mutual information and correlations: closed forms, exact sums on solved systems, honest errors."""

from __future__ import annotations

import numpy as np
import pytest
from analysis_fakes import STATES, TIMES, exact_run, means, network_run, product_law, trajectory_run
from analysis_systems import entropy, exact_law, solved, table
from scipy.stats import poisson

from hpcme.analysis.cloud import cloud_of
from hpcme.analysis.entropy import counted_entropy
from hpcme.analysis.information import correlation, information_table, joint_entropy, mutual_information
from hpcme.errors import InputError

#: A correlated law of two counts with known numbers: a mixture of two products of Poisson laws.
MIXED = 0.6 * product_law((1.0, 6.0)) + 0.4 * product_law((9.0, 2.0))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "exact": exact_run(folder / "exact"),
        "ssa": trajectory_run(folder / "ssa"),
        "mixed": network_run(folder / "mixed", [MIXED] * len(TIMES)),
    }


def _known():
    """Joint entropy, mutual information and correlation of MIXED."""
    p = MIXED / MIXED.sum()
    t = table(STATES, p, 0, 1)
    mutual = entropy(t.sum(0)) + entropy(t.sum(1)) - entropy(p)
    x, y = (STATES[:, i] - p @ STATES[:, i] for i in (0, 1))
    return entropy(p), mutual, (p @ (x * y)) / np.sqrt((p @ x**2) * (p @ y**2))


def test_independent_poisson_laws_have_their_entropies_and_nothing_in_common(runs):
    found = information_table(runs["exact"], time=1.0)
    own = [poisson.entropy(m) for m in means(1.0)]
    np.testing.assert_allclose(found["entropy"], own, rtol=1e-9)
    assert found["joint_entropy"] == pytest.approx(sum(own), rel=1e-9)
    assert found["mutual_information"][0, 1] == pytest.approx(0.0, abs=1e-9)
    assert found["total_correlation"] == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(found["correlation"], np.eye(2), atol=1e-9)
    assert not found["entropy_se"].any() and found["joint_entropy_se"] == 0.0


@pytest.mark.parametrize("system", ["autoregulation", "toggle_switch"])
@pytest.mark.parametrize("limit", [200_000, 10])
def test_solved_systems_agree_with_exact_sums(system, limit):
    """Within 1 % where the network's law is listed; within 3 standard errors more where it is sampled."""
    run, (states, p) = solved(system), exact_law(system)
    found = information_table(run, max_states=limit, samples=50_000)
    assert ("samples" in found["method"]) == (limit == 10)

    def near(value, se, right):
        assert abs(value - right) <= 0.01 * abs(right) + 3 * se

    near(found["joint_entropy"], found["joint_entropy_se"], entropy(p))
    for i in range(run.S):
        near(found["entropy"][i], found["entropy_se"][i], entropy(np.bincount(states[:, i], p)))
        for j in range(i):
            t = table(states, p, i, j)
            right = entropy(t.sum(0)) + entropy(t.sum(1)) - entropy(t.ravel())
            near(found["mutual_information"][i, j], found["mutual_information_se"][i, j], right)


def test_standard_errors_of_sampled_numbers_are_honest(runs):
    """z-scores of 30 seeds: their mean square is 1 but for chance (chi-square: 0.45 and 1.8 are 3 sd out)."""
    right = _known()
    z = np.zeros((3, 30))
    for seed in range(30):
        cloud = cloud_of(runs["mixed"], 1.0, samples=4000, seed=seed, max_states=10)
        found = joint_entropy(cloud), mutual_information(cloud, 0, 1), correlation(cloud, 0, 1)
        z[:, seed] = [(value - truth) / se for (value, se), truth in zip(found, right, strict=True)]
    square = (z**2).mean(axis=1)
    assert ((square > 0.45) & (square < 1.8))[[0, 2]].all(), square
    assert square[1] < 1.8 and abs(z[1].mean()) < 1.0  # its error holds room for the bias of counting
    # counting alone is far off here: the correction is what makes the mutual information right
    counts = np.bincount(cloud.n[:, 0] * 30 + cloud.n[:, 1])
    assert counted_entropy(counts)[1] > 2 * mutual_information(cloud, 0, 1)[1]


def test_entropy_from_counts_of_a_law_that_is_hardly_seen():
    """As many samples as values: counting alone is 0.4 nats low, the estimator within 0.1 (mean of 20)."""
    rng = np.random.default_rng(0)
    found = [counted_entropy(np.bincount(rng.integers(0, 1000, 1000))) for _ in range(20)]
    assert np.mean([h for h, _ in found]) == pytest.approx(np.log(1000), abs=0.1)
    assert np.mean([h - change for h, change in found]) < np.log(1000) - 0.4
    # many samples of each value: Miller's correction (K - 1) / (2 N)
    h, change = counted_entropy(np.full(50, 2000))
    assert change == pytest.approx(49 / (2 * 100_000), rel=1e-3) and h == pytest.approx(np.log(50), abs=1e-3)
    assert counted_entropy(np.array([0, 7])) == (0.0, 0.0)


def test_trajectories_know_no_joint_entropy(runs):
    found = information_table(runs["ssa"], time=2.0)
    assert np.isnan(found["joint_entropy"]) and np.isnan(found["total_correlation"])
    own = [poisson.entropy(m) for m in means(2.0)]
    assert (np.abs(found["entropy"] - own) < 4 * found["entropy_se"]).all()
    assert abs(found["correlation"][0, 1]) < 4 * found["correlation_se"][0, 1]


def test_a_species_that_does_not_vary_has_no_correlation(tmp_path):
    run = network_run(tmp_path / "a", [np.where(STATES[:, 1] == 3, MIXED, 0.0)] * len(TIMES))
    found = information_table(run)
    assert np.isnan(found["correlation"][0, 1]) and found["entropy"][1] == pytest.approx(0.0, abs=1e-12)


def test_what_is_refused(runs):
    with pytest.raises(InputError, match='no species "Z"'):
        information_table(runs["exact"], ["Z"])
    with pytest.raises(InputError, match="each one once"):
        information_table(runs["exact"], ["X", "X"])
    with pytest.raises(InputError, match="samples = 0"):
        information_table(runs["exact"], samples=0)
