"""Starting laws: the contract of InitialLaw for every kind, and each law against its definition."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from hpcme.errors import InputError
from hpcme.model.initial import ProductLaw, TableLaw
from hpcme.model.startlaw import count_pmf


def product(*specs_and_limits) -> ProductLaw:
    laws = [count_pmf(spec, limit, "m.toml: species X, initial") for spec, limit in specs_and_limits]
    return ProductLaw([pmf for pmf, _ in laws], [spec for _, spec in laws])


LAWS = {
    "point": product((3, 9), (0, 1)),
    "poisson": product(({"poisson": 1.0}, 29)),
    "mixed": product(({"poisson": 2.5}, 40), (1, 1), ({"table": [0.0, 0.25, 0.0, 0.75]}, 5)),
    "flat": product(({"uniform": [2, 4]}, 6), ({"binomial": {"n": 5, "p": 0.3}}, 7)),
    "joint": TableLaw(
        np.array([[2, 0, 1], [0, 1, 1], [2, 0, 0], [1, 3, 3], [0, 1, 0]]),
        np.array([0.1, 0.2, 0.3, 0.4, 0.0]),
        np.array([3, 3, 3]),
    ),
}
law_names = pytest.mark.parametrize("name", LAWS)


def box(limits) -> np.ndarray:
    return np.array(list(itertools.product(*[range(limit + 1) for limit in limits])), dtype=np.int32)


@law_names
def test_support_holds_the_law_up_to_its_tails(name):
    law = LAWS[name]
    states, p = law.support(tail=1e-6)
    assert states.dtype == np.int32 and p.dtype == np.float64 and states.shape == (len(p), law.S)
    assert (p > 0).all() and 1 - law.S * 1e-6 <= p.sum() <= 1 + 1e-13
    assert np.array_equal(states, states[np.lexsort(states.T[::-1])])
    assert len(np.unique(states, axis=0)) == len(states)
    assert np.allclose(np.exp(law.log_prob(states)), p, rtol=1e-13, atol=0)


@law_names
def test_log_prob_is_normalised_over_the_box_and_zero_outside(name):
    law = LAWS[name]
    everything = box(law.limits)
    logp = law.log_prob(everything)
    assert logp.dtype == np.float64 and np.exp(logp).sum() == pytest.approx(1.0, abs=1e-13)
    assert (law.log_prob(np.vstack([everything[:1] - 1, everything[-1:] + 1])) == -np.inf).all()


@law_names
def test_mean_and_extent_against_the_box(name):
    law = LAWS[name]
    everything = box(law.limits)
    p = np.exp(law.log_prob(everything))
    assert np.allclose(law.mean(), p @ everything, rtol=1e-12)
    possible = everything[p > 0].astype(np.int64)
    for y in itertools.product((-2, 0, 1), repeat=law.S):
        assert law.extent(np.array(y)) == ((possible @ y).min(), (possible @ y).max())
    assert law.is_point == (len(possible) == 1)


@law_names
def test_varying_spans_the_differences(name):
    law = LAWS[name]
    everything = box(law.limits)
    possible = everything[np.isfinite(law.log_prob(everything))].astype(np.int64)
    differences = possible - possible[0]
    rank = np.linalg.matrix_rank(differences)
    assert np.linalg.matrix_rank(law.varying()) == rank
    assert np.linalg.matrix_rank(np.vstack([law.varying(), differences])) == rank


@law_names
def test_samples_of_uniforms_follow_the_law(name):
    law = LAWS[name]
    N = 40_000
    n = law.sample(np.random.default_rng(5).random((N, law.S)))
    assert n.dtype == np.int32 and np.isfinite(law.log_prob(n)).all()
    states, p = law.support()
    seen = {
        tuple(row): count
        for row, count in zip(*map(np.ndarray.tolist, np.unique(n, axis=0, return_counts=True)), strict=True)
    }
    for state, probability in zip(states.tolist(), p, strict=True):
        if N * probability > 20:  # z-score of a binomial count; 5 sigma over a few hundred states
            z = (seen.get(tuple(state), 0) - N * probability) / math.sqrt(
                N * probability * (1 - probability) + 1e-9
            )
            assert abs(z) < 5


@law_names
def test_samples_at_the_ends_of_the_uniforms_are_possible(name):
    law = LAWS[name]
    u = np.array(list(itertools.product((0.0, np.nextafter(1, 0)), repeat=law.S)))
    assert np.isfinite(law.log_prob(law.sample(u))).all()


@law_names
def test_stratified_uniforms_reproduce_the_first_marginal(name):
    law = LAWS[name]
    N = 10_000
    u = np.full((N, law.S), 0.5)
    u[:, 0] = (np.arange(N) + 0.5) / N
    marginal = np.bincount(law.sample(u)[:, 0], minlength=law.limits[0] + 1) / N
    everything = box(law.limits)
    exact = np.bincount(
        everything[:, 0], weights=np.exp(law.log_prob(everything)), minlength=law.limits[0] + 1
    )
    assert (
        np.abs(marginal - exact).max() <= 1.0 / N + 1e-12
    )  # an interval holds its share of midpoints to within one


@pytest.mark.parametrize(("mean", "limit"), [(1.0, 29), (0.05, 8), (50.0, 120), (400.0, 600)])
def test_poisson(mean, limit):
    pmf, spec = count_pmf({"poisson": mean}, limit, "w")
    exact = stats.poisson.pmf(np.arange(limit + 1), mean)
    assert np.allclose(pmf, exact / exact.sum(), rtol=1e-10, atol=1e-300) and spec == {"poisson": mean}


@pytest.mark.parametrize(
    ("n", "p", "limit"), [(10, 0.3, 10), (10, 0.3, 25), (1000, 0.01, 60), (4, 0.0, 4), (4, 1.0, 4)]
)
def test_binomial(n, p, limit):
    pmf, _ = count_pmf({"binomial": {"n": n, "p": p}}, limit, "w")
    exact = stats.binom.pmf(np.arange(limit + 1), n, p)
    assert np.allclose(pmf, exact / exact.sum(), rtol=1e-10, atol=1e-300)


def test_poisson_of_mean_zero_is_a_point():
    assert product(({"poisson": 0}, 4)).is_point


def test_a_limit_may_cut_a_little_and_says_how_far_to_go_otherwise():
    least = int(stats.poisson.isf(1e-6, 20.0))  # smallest count with sf <= 1e-6
    assert count_pmf({"poisson": 20.0}, least, "w")[0].sum() == pytest.approx(1.0, abs=1e-14)
    with pytest.raises(InputError, match=rf"raise max to at least {least},"):
        count_pmf({"poisson": 20.0}, least - 1, "w")
    with pytest.raises(InputError, match=r"cuts 1 of this law"):
        count_pmf({"poisson": 1e9}, 10, "w")
    with pytest.raises(InputError, match=r"raise max to at least 10,"):
        count_pmf({"binomial": {"n": 10, "p": 0.5}}, 5, "w")


def test_too_many_states_are_refused_with_the_number():
    law = product(*[({"poisson": 50.0}, 200)] * 5)
    with pytest.raises(InputError, match=r"states, more than the 1000 allowed"):
        law.support(max_states=1000)
    with pytest.raises(InputError, match=r"has 4 states, more than the 2 allowed"):
        LAWS["joint"].support(max_states=2)


def test_arrays_alone_make_a_product_law():
    law = ProductLaw([np.array([1.0, 3.0]), np.array([0.0, 0.0, 5.0])])
    assert np.array_equal(law.pmfs[0], [0.25, 0.75]) and law.specs[0] == {"table": [0.25, 0.75]}
    assert law.limits.tolist() == [1, 2]
    for bad in ([], [-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0], [[1.0]]):
        with pytest.raises(InputError, match="initial law of species 0"):
            ProductLaw([np.array(bad)])
