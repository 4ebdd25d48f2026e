"""Moments and their standard errors against closed forms, brute force and repeated sampling."""

from __future__ import annotations

import numpy as np
import pytest

from hpcme.errors import InputError
from hpcme.store.moments import histogram, law_moments, normalised_weights, sample_moments


def brute(n, w):
    """The formulas of the module written out with loops."""
    N = len(n)
    mean = sum(w[k] * n[k] for k in range(N))
    second = sum(w[k] * np.outer(n[k] - mean, n[k] - mean) for k in range(N))
    w2 = np.sum(w**2)
    covariance = second / (1 - w2)
    mean_se = np.sqrt(sum(w[k] ** 2 * (n[k] - mean) ** 2 for k in range(N)) / (1 - w2))
    covariance_se = np.sqrt(
        sum(w[k] ** 2 * (np.outer(n[k] - mean, n[k] - mean) - second) ** 2 for k in range(N))
    )
    return mean, mean_se, covariance, covariance_se


@pytest.mark.parametrize("weighted", [False, True])
def test_against_the_formulas(weighted):
    rng = np.random.default_rng(1)
    n = rng.integers(0, 50, (300, 3)).astype(np.int32)
    w = rng.random(300) if weighted else np.ones(300)
    w /= w.sum()
    m = sample_moments(n, w * 7.0 if weighted else None)
    for got, want in zip(
        (m.mean, m.mean_se, m.covariance, m.covariance_se), brute(n.astype(float), w), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-11)
    np.testing.assert_allclose(m.sd, np.sqrt(np.diag(m.covariance)))
    np.testing.assert_allclose(m.sd_se, np.diag(m.covariance_se) / (2 * m.sd))
    assert m.effective == pytest.approx(1 / np.sum(w**2))


def test_equal_weights_are_the_textbook_formulas():
    n = np.random.default_rng(2).poisson(4.0, (1000, 2))
    m = sample_moments(n)
    np.testing.assert_allclose(m.covariance, np.cov(n.T), rtol=1e-12)
    np.testing.assert_allclose(m.mean_se, n.std(axis=0, ddof=1) / np.sqrt(1000), rtol=1e-12)
    d = n - n.mean(axis=0)
    var_of_variance = ((d**4).mean(axis=0) - (d**2).mean(axis=0) ** 2) / 1000
    np.testing.assert_allclose(m.sd_se, np.sqrt(var_of_variance) / (2 * m.sd), rtol=1e-12)


def test_many_blocks_give_what_one_block_gives(monkeypatch):
    n = np.random.default_rng(3).integers(0, 9, (1000, 2))
    w = np.random.default_rng(4).random(1000)
    whole = sample_moments(n, w)
    monkeypatch.setattr("hpcme.store.moments._BLOCK", 37)
    pieces = sample_moments(n, w)
    for name in ("mean", "mean_se", "covariance", "covariance_se"):
        np.testing.assert_allclose(getattr(pieces, name), getattr(whole, name), rtol=1e-12)


def test_standard_errors_are_the_scatter_of_repeated_estimates():
    """z-scores of 400 repeated estimates of a Poisson law have variance 1; the 5-sigma band of a variance
    estimated from R values is 5 sqrt(2/R) (normal) plus the O(1/N) bias of the delta method."""
    rng = np.random.default_rng(5)
    lam, N, R = 9.0, 2000, 400
    z = []
    for _ in range(R):
        n = rng.poisson(lam, (N, 2))
        m = sample_moments(n)
        z.append(
            [
                (m.mean[0] - lam) / m.mean_se[0],
                (m.covariance[0, 0] - lam) / m.covariance_se[0, 0],
                m.covariance[0, 1] / m.covariance_se[0, 1],
                (m.sd[0] - np.sqrt(lam)) / m.sd_se[0],
            ]
        )
    z = np.array(z)
    band = 5 * np.sqrt(2 / R) + 10 / N
    assert (np.abs(z.var(axis=0) - 1) < band).all(), z.var(axis=0)
    assert (np.abs(z.mean(axis=0)) < 5 / np.sqrt(R) + 0.1).all(), z.mean(axis=0)


def test_importance_weights_recover_the_target():
    """Samples of Poisson(6) weighted by the ratio to Poisson(5): mean within 5 of its own standard errors."""
    rng = np.random.default_rng(6)
    n = rng.poisson(6.0, (40000, 1))
    m = sample_moments(n, np.exp(n[:, 0] * np.log(5 / 6)))
    assert abs(m.mean[0] - 5) < 5 * m.mean_se[0] and m.mean_se[0] < 0.05
    assert abs(m.covariance[0, 0] - 5) < 5 * m.covariance_se[0, 0]
    assert m.effective < 40000


def test_constant_and_single_samples_have_no_error():
    m = sample_moments(np.array([[3, 4]]))
    assert m.mean.tolist() == [3, 4] and not m.covariance.any() and not m.mean_se.any() and not m.sd_se.any()
    m = sample_moments(np.full((10, 1), 7))
    assert m.mean == [7] and m.sd == [0] and m.sd_se == [0]
    m = sample_moments(np.array([[1], [2]]), np.array([1.0, 0.0]))
    assert m.mean == [1] and m.covariance == [[0]] and m.effective == 1


def test_large_counts_do_not_cancel():
    """Variance of 10^9 + {0, 1}: 1/4 N/(N-1), which a difference of squares would lose."""
    n = 10**9 + np.tile([0, 1], 500)[:, None]
    assert sample_moments(n).covariance[0, 0] == pytest.approx(0.25 * 1000 / 999, rel=1e-9)


def test_law_moments_of_a_binomial():
    from scipy.stats import binom

    states = np.array([[a, 10 - a] for a in range(11)])
    mean, covariance = law_moments(states, 3.0 * binom.pmf(np.arange(11), 10, 0.3))
    np.testing.assert_allclose(mean, [3, 7], rtol=1e-13)
    np.testing.assert_allclose(covariance, [[2.1, -2.1], [-2.1, 2.1]], rtol=1e-12)


def test_histogram_counts_weights():
    assert histogram(np.array([0, 2, 2]), None, 4).tolist() == [1, 0, 2, 0]
    assert histogram(np.array([0, 2, 2]), np.array([0.5, 0.25, 0.25]), 3).tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize(
    "call",
    [
        lambda: sample_moments(np.zeros((0, 2))),
        lambda: sample_moments(np.zeros(3)),
        lambda: normalised_weights(2, np.ones(3)),
        lambda: normalised_weights(2, np.array([1, -1])),
        lambda: normalised_weights(2, np.zeros(2)),
        lambda: normalised_weights(2, np.array([1, np.nan])),
        lambda: law_moments(np.zeros((2, 1)), np.zeros(2)),
    ],
)
def test_senseless_input_is_refused(call):
    with pytest.raises(InputError):
        call()
