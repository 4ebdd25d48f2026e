"""compare: every pair of kinds of runs against closed forms, and honest nulls where nothing can be known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from analysis_fakes import NET, SHIFT, STATES, TIMES, exact_run, four_runs, means, network_run, product_law
from scipy.stats import poisson

from hpcme.analysis.compare import compare
from hpcme.errors import InputError
from hpcme.model.reader import load_model_text
from hpcme.store.reader import open_run


def hellinger_poisson(a, b):
    return np.sqrt(-np.expm1(-0.5 * ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()))


def kl_poisson(a, b):
    return (a * np.log(a / b) - a + b).sum()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return four_runs(tmp_path_factory.mktemp("runs"))


def check_wrong_against_truth(found, tolerance=1e-6):
    """The closed forms of the distance between the wrong network and the truth."""
    for k, t in enumerate(TIMES):
        m = means(t)
        grid = [
            np.abs(np.diff([poisson.pmf(np.arange(60), x) for x in (m[i], SHIFT * m[i])], axis=0)).sum() / 2
            for i in (0, 1)
        ]
        joint = 0.5 * np.abs(product_law(m) - product_law(SHIFT * m)).sum()
        assert found["joint"]["tv"][k] == pytest.approx(joint, abs=tolerance)
        assert found["joint"]["hellinger"][k] == pytest.approx(hellinger_poisson(m, SHIFT * m), abs=tolerance)
        assert found["joint"]["kl"][k] == pytest.approx(kl_poisson(m, SHIFT * m), abs=tolerance)
        assert found["joint"]["kl_reverse"][k] == pytest.approx(kl_poisson(SHIFT * m, m), abs=tolerance)
        for i, name in enumerate("XY"):
            assert found["marginals"][name]["tv"][k] == pytest.approx(grid[i], abs=tolerance)
            assert found["marginals"][name]["hellinger"][k] == pytest.approx(
                hellinger_poisson(m[i : i + 1], SHIFT * m[i : i + 1]), abs=tolerance
            )
            assert found["mean_error"][k][i] == pytest.approx(SHIFT - 1, abs=tolerance)
            assert found["sd_error"][k][i] == pytest.approx(np.sqrt(SHIFT) - 1, abs=tolerance)


def test_against_the_exact_run(runs):
    found = compare(runs["wrong"], runs["exact"])
    check_wrong_against_truth(found)
    assert (
        found["reference_kind"] == "fsp" and found["same_model"] is True and found["times"] == TIMES.tolist()
    )
    assert (
        found["joint"]["method"] == [f"exact sums over {len(STATES)} states"] * 3
        and found["joint"]["reasons"] == {}
    )
    assert found["noise_floor"]["marginals"]["X"]["tv"] == [0, 0, 0], "both laws are without noise"
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_against_exact_solved_here(runs):
    fractions = []
    found = compare(runs["wrong"], "exact", progress=fractions.append)
    check_wrong_against_truth(found)
    assert found["reference"] == found["reference_kind"] == "exact" and found["same_model"] is True
    good = compare(runs["good"], "exact", [1.0])
    # the tails cut off are below 1e-10, the exact solution is accurate to 1e-10
    assert good["times"] == [1.0] and good["joint"]["tv"][0] < 1e-8 and good["joint"]["kl"][0] < 1e-8


def test_directions_swap_with_the_sides(runs):
    there, back = (
        compare(runs["wrong"], runs["exact"])["joint"],
        compare(runs["exact"], runs["wrong"])["joint"],
    )
    for ours, theirs in (
        ("tv", "tv"),
        ("hellinger", "hellinger"),
        ("kl", "kl_reverse"),
        ("kl_reverse", "kl"),
    ):
        np.testing.assert_allclose(there[ours], back[theirs], rtol=1e-9)


def test_an_exact_run_against_exact_solved_here(runs):
    found = compare(runs["exact"], "exact")
    assert max(found["joint"]["tv"]) < 1e-8 and max(map(max, found["mean_error"])) < 1e-8


def test_two_networks_by_sampling(runs):
    found = compare(runs["wrong"], runs["good"], samples=20_000)
    for k, t in enumerate(TIMES):
        m = means(t)
        expected = {
            "tv": 0.5 * np.abs(product_law(m) - product_law(SHIFT * m)).sum(),
            "kl": kl_poisson(m, SHIFT * m),
            "hellinger": hellinger_poisson(m, SHIFT * m),
            "kl_reverse": kl_poisson(SHIFT * m, m),
        }
        for name, value in expected.items():
            se = found["joint"][f"{name}_se"][k]
            assert abs(found["joint"][name][k] - value) < 5 * se and 0 < se < 0.3 * value, name
    assert found["joint"]["method"][0] == "20000 samples of each side" and "loglik" not in found["joint"]
    assert compare(runs["wrong"], runs["good"], samples=20_000) == found, "a function of the seed alone"


def test_networks_with_different_support(tmp_path, runs):
    """A network that is zero for X > 2: samples of the other one are impossible under it, and the result says
    so."""
    laws = [product_law(means(t)) * (STATES[:, 0] <= 2) for t in TIMES]
    cut = network_run(tmp_path / "cut", laws)
    found = compare(cut, runs["good"])["joint"]
    assert (
        found["kl"] == [None] * 3
        and "samples of the reference are impossible under the run" in found["reasons"]["kl"]
    )
    assert None not in found["kl_reverse"]
    # the run is the truth conditioned on X <= 2: KL(run || truth) = -log P(X <= 2), TV = 1 - P(X <= 2)
    inside = poisson.cdf(2, means(TIMES[1])[0])
    assert abs(found["kl_reverse"][1] + np.log(inside)) < 5 * found["kl_reverse_se"][1] + 1e-9
    assert abs(found["tv"][1] - (1 - inside)) < 5 * found["tv_se"][1] + 1e-9
    back = compare(cut, runs["exact"])["joint"]
    assert back["kl"] == [None] * 3 and "the reference has" in back["reasons"]["kl"]
    forth = compare(runs["exact"], cut)["joint"]
    assert forth["kl_reverse"] == [None] * 3 and "the run's law has" in forth["reasons"]["kl_reverse"]
    np.testing.assert_allclose(forth["kl"], back["kl_reverse"])


def test_against_trajectories(runs):
    """Marginal distances of the right network are at the noise floor; the log-likelihood is minus the
    entropy."""
    found = compare(runs["good"], runs["ssa"])
    assert found["joint"]["tv"] == found["joint"]["hellinger"] == found["joint"]["kl"] == [None] * 3
    assert "know no probabilities" in found["joint"]["reasons"]["tv"]
    for k, t in enumerate(TIMES):
        p = product_law(means(t))
        entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
        assert abs(found["joint"]["loglik"][k] + entropy) < 5 * found["joint"]["loglik_se"][k]
        for i, name in enumerate("XY"):
            floor = found["noise_floor"]["marginals"][name]
            # TV of 4000 samples scatters by less than its mean; H^2 has mean floor^2 and is positive: Markov
            assert 0 < found["marginals"][name]["tv"][k] < 3 * floor["tv"][k]
            assert 0 < found["marginals"][name]["hellinger"][k] < 5 * floor["hellinger"][k]
            assert found["mean_error"][k][i] < 5 / 0.8 * found["noise_floor"]["mean_error"][k][i]
    wrong = compare(runs["wrong"], runs["ssa"])
    assert wrong["marginals"]["X"]["tv"][2] > 3 * wrong["noise_floor"]["marginals"]["X"]["tv"][2]
    assert wrong["joint"]["loglik"][2] < found["joint"]["loglik"][2]


def test_against_trajectories_simulated_here(runs):
    found = compare(runs["good"], "ssa", [1.0], trajectories=500, seed=3)
    assert found["reference_kind"] == "ssa" and "500 reference trajectories" in found["joint"]["method"][0]
    assert found["marginals"]["X"]["tv"][0] < 3 * found["noise_floor"]["marginals"]["X"]["tv"][0]
    assert found["joint"]["loglik"][0] < 0
    assert compare(runs["good"], "ssa", [1.0], trajectories=500, seed=3) == found


def test_trajectories_as_the_run(runs):
    exact = compare(runs["ssa"], runs["exact"])
    assert exact["joint"]["tv"] == [None] * 3 and "trajectories of the run" in exact["joint"]["method"][0]
    assert exact["joint"]["loglik"] == pytest.approx(compare(runs["exact"], runs["ssa"])["joint"]["loglik"])
    both = compare(runs["ssa"], runs["ssa"])
    assert (
        both["joint"]["kl"] == [None] * 3 and "both sides are trajectories" in both["joint"]["reasons"]["kl"]
    )
    assert both["marginals"]["Y"]["tv"] == [0, 0, 0] and both["noise_floor"]["marginals"]["Y"]["tv"][0] > 0


def test_one_impossible_trajectory_is_reported(tmp_path, runs):
    laws = [product_law(means(t)) * (STATES[:, 0] <= 2) for t in TIMES]
    found = compare(network_run(tmp_path / "cut", laws), runs["ssa"])["joint"]
    assert found["loglik"] == [None] * 3 and "are impossible under the run" in found["reasons"]["loglik"]


def test_a_path_and_an_opened_run_are_the_same(runs):
    by_path = compare(runs["wrong"], str(runs["exact"].path))
    assert by_path == compare(runs["wrong"], runs["exact"]) == compare(runs["wrong"], runs["exact"].path)
    assert compare(open_run(runs["wrong"].path / "results.h5"), runs["exact"]) == by_path


def test_only_common_times_are_compared(tmp_path, runs):
    other = exact_run(tmp_path / "other", times=np.array([1.0, 5.0]))
    assert compare(runs["good"], other)["times"] == [1.0]
    with pytest.raises(InputError, match=r"time 2 is not stored in .*other"):
        compare(runs["good"], other, [2.0])
    with pytest.raises(InputError, match="no report time in common"):
        compare(runs["good"], exact_run(tmp_path / "never", times=np.array([7.0])))


def test_small_means_are_compared_absolutely(tmp_path):
    point = np.where((STATES == 0).all(axis=1), 1.0, 0.0)
    run = network_run(tmp_path / "one", [product_law(np.array([0.5, 0.25]))], times=[0.0])
    found = compare(run, exact_run(tmp_path / "zero", [point], times=np.array([0.0])))
    np.testing.assert_allclose(found["mean_error"], [[0.5, 0.25]], atol=1e-9)
    assert (
        found["joint"]["kl_reverse"] == [None]
        and "reference is zero" in found["joint"]["reasons"]["kl_reverse"]
    )
    assert found["joint"]["kl"][0] == pytest.approx(0.75, abs=1e-9)


def test_other_models_are_told_apart(tmp_path, runs):
    faster = load_model_text(NET.text).with_limits({"X": 21})
    other = network_run(
        tmp_path / "other", [product_law(means(1.0)) * (STATES[:, 0] <= 21)], times=[1.0], net=faster
    )
    assert compare(runs["good"], other)["same_model"] is False


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("exakt", 'unknown reference "exakt": allowed are exact, ssa, or the path'),
        ("/nowhere/run", "unknown reference"),
    ],
)
def test_unknown_references(runs, reference, message):
    with pytest.raises(InputError, match=message):
        compare(runs["good"], reference)


def test_too_many_states_name_the_way_out(runs):
    with pytest.raises(InputError, match="out of reach; compare with ssa instead"):
        compare(runs["good"], "exact", max_states=10)


def test_other_species_are_refused(tmp_path, runs):
    text = NET.text.replace("Y", "Z")
    other = network_run(tmp_path / "z", [product_law(means(1.0))], times=[1.0], net=load_model_text(text))
    with pytest.raises(InputError, match=r"species X, Z, .* has X, Y.*same species"):
        compare(runs["good"], other)
