"""Trajectories: the random streams, independence of threads and splitting, and laws known in closed form.

Seeds are fixed; limits are z-scores and chi-square quantiles at a probability of about 1e-6 per check.
"""

import numba
import numpy as np
import pytest
import scipy.stats
from kernel_networks import NETWORKS
from twins import xoshiro_words

from hpcme.kernels.randomness import next_uniform, next_word, seed_stream
from hpcme.kernels.ssa import (
    BAD_PROPENSITY,
    TOO_LARGE_COUNT,
    TOO_MANY_EVENTS,
    dependency_graph,
    simulate,
)
from hpcme.model.builder import ModelBuilder

Z = 4.9  # two-sided normal tail 1e-6


def run(net, trajectories, times, **options):
    n0 = np.repeat(net.initial.support()[0][:1], trajectories, axis=0)
    return simulate(net.tables, net.s, n0, np.asarray(times, dtype=float), **options)


def poisson_check(samples, mean):
    """Chi-square test of samples against a Poisson law, counts in bins of at least 20 expected."""
    edges = np.unique(scipy.stats.poisson.ppf(np.linspace(0, 1, 25)[1:-1], mean)).astype(int)
    p = np.diff(np.concatenate([[0.0], scipy.stats.poisson.cdf(edges, mean), [1.0]]))
    observed = np.bincount(np.searchsorted(edges, samples, side="left"), minlength=len(p))
    expected = p * len(samples)
    keep = expected > 20
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    assert statistic < scipy.stats.chi2.isf(1e-6, keep.sum() - 1)


@pytest.mark.parametrize("seed, index", [(0, 0), (1, 0), (0, 1), (2**63 + 5, 123456789)])
def test_stream_equals_the_published_generator(seed, index):
    state = np.empty(4, dtype=np.uint64)
    seed_stream(state, np.uint64(seed), index)
    assert [int(next_word(state)) for _ in range(20)] == xoshiro_words(seed, index, 20)
    seed_stream(state, np.uint64(seed), index)
    assert next_uniform(state) == (xoshiro_words(seed, index, 1)[0] >> 11) / 2**53


def test_streams_of_neighbouring_seeds_and_indices_differ():
    words = [tuple(xoshiro_words(seed, index, 2)) for seed in range(20) for index in range(20)]
    assert len(set(words)) == 400


def test_published_words_of_xoshiro256plusplus():
    """State 1, 2, 3, 4: the first outputs follow from the definition by hand: rotl(1 + 4, 23) + 1, ..."""
    state = np.array([1, 2, 3, 4], dtype=np.uint64)
    assert int(next_word(state)) == (5 << 23) + 1


@pytest.mark.parametrize("name", ["toggle", "epidemic"])
def test_splitting_and_threads_change_nothing(name):
    net = NETWORKS[name]
    times = [0.5, 2.0]
    whole, events = run(net, 300, times, seed=7)
    parts = [
        run(net, count, times, seed=7, first_index=first) for first, count in ((0, 1), (1, 130), (131, 169))
    ]
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts], axis=1), whole)
    np.testing.assert_array_equal(np.concatenate([p[1] for p in parts]), events)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(run(net, 300, times, seed=7)[0], whole)
    finally:
        numba.set_num_threads(before)
    assert (run(net, 300, times, seed=8)[0] != whole).any()


def test_birth_death_is_poisson():
    net = (
        ModelBuilder("m")
        .species("X", initial=0, max=99)
        .reaction("0 -> X", rate=9.0)
        .reaction("X -> 0", rate=0.7)
        .build()
    )
    samples, _ = run(net, 40_000, [0.3, 2.0, 8.0], seed=2)
    for i, t in enumerate([0.3, 2.0, 8.0]):
        poisson_check(samples[i, :, 0], 9.0 / 0.7 * (1 - np.exp(-0.7 * t)))


@pytest.mark.parametrize("w, eps", [(2.0, 1.0), (9.0, 0.8), (0.3, 1.0)])
def test_birth_with_an_oscillating_rate_is_poisson(w, eps):
    """0 -> X at b (1 + eps sin(w t)): X(t) is Poisson with mean b (t + eps (1 - cos(w t)) / w)."""
    net = (
        ModelBuilder("m")
        .species("X", initial=0, max=99)
        .reaction("0 -> X", rate=f"3*(1 + {eps}*sin({w}*t))")
        .build()
    )
    times = np.array([0.4, 1.7, 5.0])
    samples, _ = run(net, 20_000, times, seed=4)
    for i, t in enumerate(times):
        poisson_check(samples[i, :, 0], 3.0 * (t + eps * (1 - np.cos(w * t)) / w))


def test_a_rate_that_is_switched_on_and_off():
    """The rate jumps: 5 between t = 1 and t = 1.5, else 0; what is born must be Poisson(2.5), none before
    t = 1.
    """
    rate = "where(t >= 1 and t < 1.5, 5, 0)"
    net = ModelBuilder("m").species("X", initial=0, max=99).reaction("0 -> X", rate=rate).build()
    samples, _ = run(net, 20_000, [0.999, 3.0], seed=5)
    assert samples[0].max() == 0
    poisson_check(samples[1, :, 0], 2.5)


def test_time_dependent_death_keeps_the_exact_survival_law():
    """X -> 0 at 2 t: each molecule survives with probability exp(-t^2)."""
    net = ModelBuilder("m").species("X", initial=30, max=30).reaction("X -> 0", rate="2*t").build()
    samples, _ = run(net, 20_000, [0.6], seed=6)
    survive = np.exp(-0.36)
    mean, variance = 30 * survive, 30 * survive * (1 - survive)
    assert abs(samples.mean() - mean) < Z * np.sqrt(variance / 20_000)
    # The variance of a sample variance is (mu4 - var^2)/N; for a binomial mu4 = 3 var^2 + var (1 - 6 p q).
    mu4 = 3 * variance**2 + variance * (1 - 6 * survive * (1 - survive))
    assert abs(samples.var() - variance) < Z * np.sqrt((mu4 - variance**2) / 20_000)


def test_counts_stay_nonnegative_and_conserved():
    samples, _ = run(NETWORKS["early_life"], 300, [1.0, 8.0], seed=1)
    assert samples.min() >= 0 and (samples.sum(axis=2) == 100).all()
    net = ModelBuilder("m").species("X", initial=3, max=9).reaction("2 X -> 0", propensity="1.0").build()
    samples, events = run(net, 50, [100.0], seed=1)
    assert (samples == 1).all() and (events == 1).all()


def test_limits_of_the_model_do_not_bind():
    net = ModelBuilder("m").species("X", initial=0, max=2).reaction("0 -> X", rate=50.0).build()
    samples, events = run(net, 200, [1.0], seed=1)
    np.testing.assert_array_equal(samples[0, :, 0], events)
    assert events.min() > 2


def test_state_at_the_start_and_between_events():
    net = NETWORKS["toggle"]
    samples, _ = run(net, 5, [0.0, 0.0], seed=3)
    np.testing.assert_array_equal(samples, np.broadcast_to([1, 1, 0, 0], (2, 5, 4)))


def test_failures_are_told():
    grow = ModelBuilder("m").species("X", initial=1, max=9).reaction("X -> 2 X", rate=5.0).build()
    assert (run(grow, 3, [10.0], max_events=1000)[1] == TOO_MANY_EVENTS).all()
    assert (run(grow, 3, [1e-9], max_events=0)[1] == 0).all()
    bad = ModelBuilder("m").species("X", initial=3, max=9).reaction("X -> 0", propensity="X - 1.5").build()
    assert (run(bad, 3, [50.0])[1] == BAD_PROPENSITY).all()
    timed = ModelBuilder("m").species("X", initial=3, max=9).reaction("X -> 0", rate="cos(t)").build()
    n0 = np.full((3, 1), 3, dtype=np.int32)
    late = simulate(timed.tables, timed.s, n0, np.array([3.0]), t0=1.8)
    assert (late[1] == BAD_PROPENSITY).all()
    jump = ModelBuilder("m").species("X", initial=0, max=9).reaction("0 -> 1000 X", rate=1e3).build()
    assert (run(jump, 1, [2300.0])[1] == TOO_LARGE_COUNT).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_dependency_graph_covers_every_change(name):
    """After any reaction, propensities that the graph does not list are unchanged."""
    from kernel_networks import random_states
    from twins import propensities

    net = NETWORKS[name]
    ptr, affected, _ = dependency_graph(net.tables, net.s)
    n = random_states(net, 25)
    before = propensities(net, n, 0.4)
    for k in range(net.R):
        y = n + net.s[k].astype(np.int32)
        ok = (y >= 0).all(axis=1)
        others = np.setdiff1d(np.arange(net.R), affected[ptr[k] : ptr[k + 1]])
        np.testing.assert_array_equal(propensities(net, y[ok], 0.4)[:, others], before[ok][:, others])
