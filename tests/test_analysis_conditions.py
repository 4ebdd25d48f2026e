"""Probabilities of conditions, over time and given others; when they are met; quantiles: closed forms, exact laws."""

from __future__ import annotations

import numpy as np
import pytest
from analysis_fakes import MODEL, NET, TIMES, exact_run, means, trajectory_run
from analysis_systems import exact_law, solved
from scipy.stats import binom, poisson

from hpcme.analysis.conditions import is_closed, probability_table, read_condition
from hpcme.analysis.passage import passage_table
from hpcme.analysis.quantiles import quantile_table, quantiles
from hpcme.errors import InputError
from hpcme.exact.fsp import solve_fsp
from hpcme.model.reader import load_model_text
from hpcme.store.reader import open_run
from hpcme.store.reference import write_fsp_run

DEATH = """
[model]
name = "death"
[parameters]
low = 2
[species]
X = { initial = 8, max = 8 }
[[reactions]]
equation = "X -> 0"
rate = RATE
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {"exact": exact_run(folder / "exact"), "ssa": trajectory_run(folder / "ssa")}


def death(folder, rate="1.0"):
    """An exact run of eight molecules that decay; each is alive at t with probability exp(-t)."""
    net = load_model_text(DEATH.replace("RATE", rate))
    times = np.array([0.0, 0.5, 1.0, 2.0, 4.0])
    found = solve_fsp(net, times)
    identity = {
        "kind": "fsp", "model_text": net.text, "model_hash": net.hash, "job_text": "", "job_hash": "j",
        "species": list(net.species), "limits": net.limits.tolist(), "report_times": times.tolist(), "units": "1",
    }  # fmt: skip
    return open_run(write_fsp_run(folder, identity, times, found.states, found.p, found.lost))


def test_closed_forms_at_every_time(runs):
    found = probability_table(runs["exact"], "X > 2 and (Y == 0 or Y >= 3)")
    for k, t in enumerate(TIMES):
        x, y = means(t)
        right = poisson.sf(2, x) * (poisson.pmf(0, y) + poisson.sf(2, y))
        assert found["probability"][k] == pytest.approx(right, rel=1e-9)
    assert not found["se"].any() and found["given"] is None
    given = probability_table(runs["exact"], "X > 2", "X + Y == 4", [1.0])
    x, y = means(1.0)  # given its sum, a Poisson count is binomial
    assert given["probability"][0] == pytest.approx(binom.sf(2, 4, x / (x + y)), rel=1e-9)
    assert given["given_probability"][0] == pytest.approx(poisson.pmf(4, x + y), rel=1e-9)


def test_trajectories_have_binomial_errors(runs):
    for condition, given in (("X > 1", None), ("X > 1", "Y == 1")):
        found = probability_table(runs["ssa"], condition, given)
        right = np.array([poisson.sf(1, means(t)[0]) for t in TIMES])  # independent of Y
        number = 4000 * (found["given_probability"] if given else 1.0)
        assert (np.abs(found["probability"] - right) < 4 * np.sqrt(right * (1 - right) / number)).all()
        p = found["probability"]
        np.testing.assert_allclose(found["se"], np.sqrt(p * (1 - p) / number))


CONDITIONS = {
    "autoregulation": [("P > 15", "G == 0"), ("G == 0", "P < 10"), ("P >= 8 and P <= 12", "G == 1")],
    "toggle_switch": [("Px > 30", "Gx == 1"), ("Gx == 0", "Px < 10"), ("Px > 30 and Py > 30", None)],
}


@pytest.mark.parametrize("system", CONDITIONS)
@pytest.mark.parametrize("limit", [200_000, 10])
def test_solved_systems_agree_with_exact(system, limit):
    """Within 1 % where the network's law is listed; within 3 standard errors more where it is sampled."""
    run, (states, p) = solved(system), exact_law(system)
    n = dict(zip(run.species, states.T, strict=True))
    for condition, given in CONDITIONS[system]:
        holds = eval(condition.replace("and", ") & (").join("()"), {}, n)
        inside = eval(given, {}, n) if given else np.ones(len(p), dtype=bool)
        right = p[holds & inside].sum() / p[inside].sum()
        found = probability_table(run, condition, given, [run.times[-1]], samples=50_000, max_states=limit)
        assert abs(found["probability"][0] - right) <= 0.01 * right + 3 * found["se"][0], condition
        assert (found["se"][0] > 0) == (limit == 10)


def test_what_cannot_be_known_is_nan(runs):
    found = probability_table(runs["exact"], "X > 2", "X < 0")
    assert np.isnan(found["probability"]).all() and (found["given_probability"] == 0).all()


def test_certified_bounds_hold_the_exact_probability():
    run, (states, p) = solved("toggle_switch"), exact_law("toggle_switch")
    found = probability_table(run, "Px > 30")
    right = p[states[:, 2] > 30].sum()
    assert 0.0 < found["bound"][-1] < 0.1 and abs(found["probability"][-1] - right) <= found["bound"][-1]
    assert np.isnan(probability_table(run, "Px > 30", "Gx == 1")["bound"]).all()


def test_parameters_and_time_can_be_used(tmp_path):
    run = death(tmp_path / "a")
    found = probability_table(run, "X <= low", times=[1.0])
    assert found["probability"][0] == pytest.approx(binom.cdf(2, 8, np.exp(-1.0)), rel=1e-9)
    found = probability_table(run, "X <= t", times=[2.0])
    assert found["probability"][0] == pytest.approx(binom.cdf(2, 8, np.exp(-2.0)), rel=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Xx > 5", r'"Xx" is no species or parameter; known names are X, Y, t.*Did you mean "X"'),
        ("X > 5 and", r"found the end\n.*X > 5 and\n.*\^"),
        ("X = 5", 'use "==" to compare'),
        ("0 < X < 5", "cannot be chained"),
        ("1 > 0", "depends on no species"),
        ("", "is empty"),
    ],
)
def test_wrong_conditions_are_told(text, message):
    with pytest.raises(InputError, match=message):
        read_condition(text, NET)


def test_a_condition_without_a_value_names_the_state(runs):
    with pytest.raises(InputError, match=r"no value at X = 0, Y = 0, t = 1.*where"):
        probability_table(runs["exact"], "X / Y > 1", times=[1.0])
    for condition in ("not (X / Y > 1)", "where(X / Y > 1, 1, 0)", "X > 1 or X / Y > 1", "X >= 0 and X / Y > 1"):
        with pytest.raises(InputError, match="no value at X = 0, Y = 0"):
            probability_table(runs["exact"], condition, times=[1.0])
    # what is decided without the undefined part has a value
    found = [
        probability_table(runs["exact"], condition, times=[1.0])["probability"][0]
        for condition in ("Y > 0 and X / Y > 1", "where(Y > 0, X / Y > 1, 0)", "not (Y == 0 or X / Y <= 1)")
    ]
    x, y = means(1.0)
    right = sum(poisson.pmf(j, y) * poisson.sf(j, x) for j in range(1, 20))
    assert found == pytest.approx([right] * 3, rel=1e-9)


def test_a_closed_condition_has_its_first_passage_law(tmp_path):
    run = death(tmp_path / "a")
    found = passage_table(run, "X == 0", (0.5, 0.8, 0.99))
    right = (1.0 - np.exp(-run.times)) ** 8
    assert found["closed"] is True
    np.testing.assert_allclose(found["reached"], right, rtol=1e-8)
    assert found["first"][:2].tolist() == [4.0, 4.0] and np.isnan(found["first"][2])
    assert found["between"][:2].tolist() == [[2.0, 4.0], [2.0, 4.0]] and np.isnan(found["between"][2]).all()


def test_an_open_condition_has_a_lower_bound_only(tmp_path):
    """P(X = 4) rises and falls again: what was reached does not fall, and nothing is said about when between."""
    run = death(tmp_path / "a")
    found = passage_table(run, "X == 4", (0.2,))
    p = binom.pmf(4, 8, np.exp(-run.times))
    assert found["closed"] is False and p[-1] < p.max()
    np.testing.assert_allclose(found["reached"], np.maximum.accumulate(p), rtol=1e-8, atol=1e-12)
    # the true law of the first time: X passes 4 on its way down, so it was there once X <= 4
    assert (found["reached"] <= binom.cdf(4, 8, np.exp(-run.times)) + 1e-12).all()
    assert found["first"][0] == run.times[np.argmax(p >= 0.2)] and np.isnan(found["between"]).all()


def test_closedness_that_is_not_known_is_none(tmp_path):
    run = death(tmp_path / "a", rate='"1 + sin(t)"')
    assert is_closed(run, read_condition("X == 0", run.model())) is True  # no move leads out, whatever the rates
    assert is_closed(run, read_condition("X == 4", run.model())) is None
    assert is_closed(run, read_condition("X < t", run.model())) is None
    assert is_closed(run, read_condition("X == 0", run.model()), max_states=3) is None
    with pytest.raises(InputError, match=r"level 1\.5 must be above 0 and below 1"):
        passage_table(run, "X == 0", (1.5,))


def test_quantiles_are_those_of_the_law(runs):
    levels = (0.01, 0.25, 0.5, 0.9, 0.999)
    found = quantile_table(runs["exact"], levels=levels)
    for k, t in enumerate(TIMES):
        for i in (0, 1):
            np.testing.assert_array_equal(found["quantile"][k, i], poisson.ppf(levels, means(t)[i]))
    np.testing.assert_array_equal(found["low"], found["quantile"])
    np.testing.assert_array_equal(found["high"], found["quantile"])


def test_confidence_bounds_of_quantiles_cover(runs):
    """Of 200 samples each, the bounds hold the true median in at least 90 % of 300 trials (95 % is meant)."""
    rng = np.random.default_rng(2)
    right, inside, narrow = poisson.ppf(0.5, 12.3), 0, 0
    for _ in range(300):
        p = np.bincount(rng.poisson(12.3, 200), minlength=40) / 200
        q, low, high = quantiles(p, np.sqrt(p * (1 - p) / 200), np.array([0.5]))[:, 0]
        inside += low <= right <= high
        narrow += high - low <= 3
        assert low <= q <= high
    assert inside >= 270 and narrow >= 270
    with pytest.raises(InputError, match="level 0 must be"):
        quantile_table(runs["exact"], levels=[0.0])


def test_the_model_of_the_tests_is_that_of_the_fakes():
    assert NET.text == load_model_text(MODEL).text
