"""Distances against closed forms and inequalities; noise floors against exact sums and repeated sampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, poisson

from hpcme.analysis.distances import (
    floors,
    hellinger,
    hellinger_floor,
    kl,
    sampled_joint,
    tabulated_joint,
    tv,
    tv_floor,
)
from hpcme.errors import InputError

COUNTS = np.arange(80)


def hellinger_poisson(a, b):
    return np.sqrt(-np.expm1(-0.5 * (np.sqrt(a) - np.sqrt(b)) ** 2))


def kl_poisson(a, b):
    return a * np.log(a / b) - a + b


def tv_poisson(a, b):
    return 0.5 * np.abs(poisson.pmf(COUNTS, a) - poisson.pmf(COUNTS, b)).sum()


laws = (
    st.lists(st.floats(0, 1), min_size=2, max_size=8)
    .filter(lambda x: sum(x) > 1e-3)
    .map(lambda x: np.array(x) / sum(x))
)


def test_closed_forms():
    p, q = poisson.pmf(COUNTS, 5.0), poisson.pmf(COUNTS, 7.0)
    assert hellinger(p, q) == pytest.approx(hellinger_poisson(5, 7), rel=1e-12)
    assert kl(p, q) == pytest.approx(kl_poisson(5, 7), rel=1e-12)
    assert tv([0.3, 0.7], [0.5, 0.5]) == pytest.approx(0.2, rel=1e-14)
    assert tv([1.0], [0.0, 1.0]) == hellinger([1.0], [0.0, 1.0]) == 1.0
    assert kl([1.0], [0.0, 1.0]) == np.inf and kl([0.0, 1.0], [0.5, 0.5]) == pytest.approx(np.log(2))


@given(laws, laws)
@settings(max_examples=200, deadline=None)
def test_inequalities(p, q):
    """0 <= H^2 <= TV <= H sqrt(2 - H^2) <= sqrt(2) H; Pinsker KL >= 2 TV^2; symmetry; zero for equal laws."""
    t, h = tv(p, q), hellinger(p, q)
    assert 0 <= t <= 1 + 1e-12 and 0 <= h <= 1 + 1e-12
    assert h**2 <= t + 1e-12 and t <= h * np.sqrt(max(0, 2 - h**2)) + 1e-12
    assert kl(p, q) >= 2 * t**2 - 1e-12
    assert t == pytest.approx(tv(q, p), abs=1e-15) and h == pytest.approx(hellinger(q, p), abs=1e-15)
    assert tv(p, p) == 0 and kl(p, p) == pytest.approx(0, abs=1e-15) and hellinger(p, p) < 1e-7


@given(laws, laws)
@settings(max_examples=100, deadline=None)
def test_missing_mass_is_one_more_outcome(p, q):
    """Law: dropping the last outcome of both laws gives the distance in which it stayed."""
    length = max(len(p), len(q))
    p, q = np.pad(p, (0, length - len(p))), np.pad(q, (0, length - len(q)))
    assert tv(p[:-1], q[:-1]) == pytest.approx(tv(p, q), abs=1e-12)
    # sqrt of a difference of order 1e-16 limits the comparison
    assert hellinger(p[:-1], q[:-1]) == pytest.approx(hellinger(p, q), abs=1e-7)


def test_small_hellinger_distances_do_not_cancel():
    """1 - sum sqrt(p q) would give 0 or 1e-8 here."""
    p = np.array([0.5, 0.5])
    q = np.array([0.5 + 1e-10, 0.5 - 1e-10])
    assert hellinger(p, q) == pytest.approx(1e-10 / np.sqrt(2), rel=1e-5)


@pytest.mark.parametrize("bad", [[[0.5, 0.5]], [0.6, 0.6], [-0.1, 1.1], [np.nan, 1.0], [np.inf, 0.0]])
def test_what_is_not_a_law_is_refused(bad):
    for distance in (tv, hellinger, kl):
        with pytest.raises(InputError, match=r"probabilit"):
            distance(bad, [1.0])


@pytest.mark.parametrize("p", [0.001, 0.03, 0.5, 0.9])
@pytest.mark.parametrize("number", [1, 2, 10, 1000])
def test_the_total_variation_floor_is_the_mean_absolute_deviation(p, number):
    x = np.arange(number + 1)
    direct = (binom.pmf(x, number, p) * np.abs(x / number - p)).sum()
    assert tv_floor([p, 1 - p], number) == pytest.approx(direct, rel=1e-10)


@pytest.mark.parametrize("p", [0.001, 0.03, 0.041, 0.5, 0.9])
@pytest.mark.parametrize("number", [1, 10, 1000, 100_000])
def test_the_hellinger_floor_is_the_mean_square_distance(p, number):
    """Relative error of the expansion for N p > 40 is below (1/40)^2 = 6e-4 of the leading term."""
    x = np.arange(number + 1)
    direct = sum(r - np.sqrt(r) * (binom.pmf(x, number, r) * np.sqrt(x / number)).sum() for r in (p, 1 - p))
    assert hellinger_floor([p, 1 - p], number) ** 2 == pytest.approx(direct, rel=6e-4)


def test_floors_for_many_samples_are_the_asymptotic_formulas():
    p, N = poisson.pmf(np.arange(14), 5.0), 10**7
    p = p / p.sum()
    assert tv_floor(p, N) == pytest.approx(0.5 * np.sqrt(2 * p * (1 - p) / (np.pi * N)).sum(), rel=1e-3)
    assert hellinger_floor(p, N) == pytest.approx(np.sqrt((len(p) - 1) / (8 * N)), rel=1e-3)


def test_floors_are_what_sampling_gives():
    """300 histograms of 500 samples: the means of TV and H^2 are within 5 of their standard errors."""
    rng = np.random.default_rng(3)
    p, N, R = poisson.pmf(np.arange(30), 4.0), 500, 300
    p = p / p.sum()
    found = np.array([(tv(h, p), hellinger(h, p) ** 2) for h in rng.multinomial(N, p, R) / N])
    expected = np.array([tv_floor(p, N), hellinger_floor(p, N) ** 2])
    assert (np.abs(found.mean(axis=0) - expected) < 5 * found.std(axis=0) / np.sqrt(R)).all()


def test_no_noise_without_choice():
    assert tv_floor([0.0, 1.0], 10) == hellinger_floor([1.0], 10) == 0
    zero = np.zeros(3)
    assert floors(np.ones(3) / 3, np.ones(3) / 3, zero, zero) == (0, 0)


def test_floors_from_standard_errors():
    """Binomial errors of one side give the one-sample formulas; two equal sides sqrt(2) more; never above 2
    m."""
    p, N = np.array([0.5, 0.3, 0.2]), 10_000
    se = np.sqrt(p * (1 - p) / N)
    one, two = floors(p, p, se, 0 * se), floors(p, p, se, se)
    assert one[0] == pytest.approx(0.5 * np.sqrt(2 / np.pi) * se.sum(), rel=1e-12)
    assert one[1] == pytest.approx(np.sqrt(2 / (8 * N)), rel=1e-12)
    assert two == pytest.approx([one[0] * np.sqrt(2), one[1] * np.sqrt(2)], rel=1e-12)
    assert floors(p, p[:2], se, 0 * se[:2])[0] > 0
    assert floors([1e-9], [1e-9], [1.0], [0.0]) == pytest.approx((1e-9, np.sqrt(1e-9)))


def test_joint_sums_are_the_plain_distances_when_nothing_is_outside():
    p, q = poisson.pmf(COUNTS, 5.0), poisson.pmf(COUNTS, 7.0)
    found = tabulated_joint(p, np.log(q))
    assert found["tv"] == pytest.approx(tv_poisson(5, 7), rel=1e-12)
    assert found["hellinger"] == pytest.approx(hellinger_poisson(5, 7), rel=1e-12)
    assert found["kl"] == pytest.approx(kl_poisson(5, 7), rel=1e-12)
    assert found["kl_reverse"] == pytest.approx(kl_poisson(7, 5), rel=1e-12)
    assert found["reasons"] == {} and abs(found["p_outside"]) < 1e-14


@pytest.mark.parametrize("cut", [4, 6, 9])
def test_joint_sums_over_a_part_bound_the_truth(cut):
    """With P cut off (mass l lost) and q whole: TV in [value - l, value], H <= value, and the closed form of
    kl."""
    p, q = poisson.pmf(np.arange(cut), 5.0), poisson.pmf(np.arange(cut), 7.0)
    found, lost = tabulated_joint(p, np.log(q)), 1 - p.sum()
    assert found["tv"] - lost - 1e-12 <= tv_poisson(5, 7) <= found["tv"] + 1e-12
    assert found["hellinger"] >= hellinger_poisson(5, 7)
    assert found["p_outside"] == pytest.approx(lost) and found["q_outside"] == pytest.approx(1 - q.sum())
    assert found["kl"] == pytest.approx((p * np.log(p / q)).sum() + lost, rel=1e-12)
    assert (
        found["kl_reverse"] is None
        and "on states on which the reference is zero" in found["reasons"]["kl_reverse"]
    )


def test_impossible_states_make_divergences_infinite_not_wrong():
    found = tabulated_joint(np.array([0.5, 0.5]), np.log(np.array([1.0, 1e-300])) + np.array([0.0, -np.inf]))
    assert found["kl"] is None and "0.5 on states on which the run's law is zero" in found["reasons"]["kl"]
    assert found["tv"] == pytest.approx(0.5) and found["kl_reverse"] == pytest.approx(np.log(2))
    # below the accuracy of exact solutions a mass is taken as zero
    assert tabulated_joint(np.array([1 - 1e-11, 1e-11]), np.array([0.0, -np.inf]))["kl"] == pytest.approx(
        0, abs=1e-10
    )
    assert tabulated_joint(np.array([1.0, -1e-17]), np.array([0.0, -50.0]))["tv"] < 1e-12


def test_sampled_distances_match_closed_forms():
    """Two Poisson laws in two dimensions, 40,000 samples: within 5 standard errors of the closed forms."""
    rng = np.random.default_rng(7)
    a, b = np.array([5.0, 2.0]), np.array([6.0, 2.5])
    n = rng.poisson(a, (40_000, 2))
    found = sampled_joint(poisson.logpmf(n, a).sum(axis=1), poisson.logpmf(n, b).sum(axis=1))
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40), indexing="ij"), axis=-1).reshape(-1, 2)
    qa, qb = (poisson.pmf(grid, m).prod(axis=1) for m in (a, b))
    expected = {
        "tv": 0.5 * np.abs(qa - qb).sum(),
        "hellinger": np.sqrt(-np.expm1(-0.5 * ((np.sqrt(a) - np.sqrt(b)) ** 2).sum())),
        "kl_reverse": kl_poisson(a, b).sum(),
    }
    for name, value in expected.items():
        assert abs(found[name] - value) < 5 * found[f"{name}_se"], name
        assert found[f"{name}_se"] < 0.1 * value
    assert found["reasons"] == {}


def test_sampled_standard_errors_are_the_scatter():
    """Variance of z over 300 repetitions within 5 sqrt(2/300) of one, plus the bias of H of order 1/(N
    H^2)."""
    rng = np.random.default_rng(8)
    a, b, N, R = 5.0, 7.0, 500, 300
    truth = {"tv": tv_poisson(a, b), "hellinger": hellinger_poisson(a, b), "kl_reverse": kl_poisson(a, b)}
    z = {name: [] for name in truth}
    for _ in range(R):
        n = rng.poisson(a, N)
        found = sampled_joint(poisson.logpmf(n, a), poisson.logpmf(n, b))
        for name in truth:
            z[name].append((found[name] - truth[name]) / found[f"{name}_se"])
    for name, values in z.items():
        assert abs(np.var(values) - 1) < 5 * np.sqrt(2 / R) + 1 / (N * truth["hellinger"] ** 2), name


def test_samples_that_are_impossible_under_the_reference():
    found = sampled_joint(np.log([0.5, 0.5]), np.array([0.0, -np.inf]))
    assert found["kl_reverse"] is None and "1 of 2 samples" in found["reasons"]["kl_reverse"]
    assert found["tv"] == 0.5
    same = sampled_joint(np.log([0.5, 0.5]), np.log([0.5, 0.5]))
    assert same["tv"] == same["hellinger"] == same["kl_reverse"] == same["hellinger_se"] == 0
    for logq in (np.array([0.0]), np.array([0.0, -np.inf])):
        with pytest.raises(InputError, match="under their own law"):
            sampled_joint(logq, np.zeros(len(logq)))
