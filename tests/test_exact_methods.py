"""Matrix methods of the exact solver against dense matrix exponentials of an independently built
generator.
"""

import time

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.special
import scipy.stats
import twins
from kernel_networks import NETWORKS, build, random_states

from hpcme.errors import InputError
from hpcme.exact import propagate, timedependent
from hpcme.exact.fsp import build_generator, solve_fsp
from hpcme.exact.propagate import Propagator, chebyshev_coefficients, poisson_weights
from hpcme.exact.separate import same_clocks, split_time
from hpcme.exact.statespace import StateSpace, generator_with_sink
from hpcme.exact.timedependent import TimeDependentPropagator
from hpcme.kernels.propensity import propensities
from hpcme.kernels.reach import reachable
from hpcme.model.builder import ModelBuilder

METHODS = ["uniformisation", "dense", "chebyshev"]
SMALL = [x for x in NETWORKS if x.startswith("random")]


def some_states(net, most=250):
    """A part of the reachable states, so that there is a boundary inside the box."""
    states, _ = reachable(
        net.initial.support()[0], net.tables, net.s, net.limits, most, times=np.linspace(0, 6, 20)
    )
    return states[: max(1, 3 * len(states) // 4)]


def constant(net):
    """Whether the dense exponential applies."""
    return not net.time_dependent


@pytest.mark.parametrize("name", [*SMALL, "toggle", "epidemic", "early_life", "autoregulation"])
@pytest.mark.parametrize("reflecting", [False, True])
def test_generator_equals_the_definition_and_keeps_probability(name, reflecting):
    net = NETWORKS[name]
    states = some_states(net)
    A, sink = build_generator(net, states, 0.7, reflecting)
    expected = twins.generator(net, states, 0.7, reflecting)
    np.testing.assert_allclose(A.toarray(), expected[:-1, :-1], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(sink, expected[-1, :-1], rtol=1e-12, atol=1e-13)
    scale = abs(A.diagonal()).max()
    np.testing.assert_allclose(A.sum(axis=0) + sink, 0.0, atol=1e-14 * scale)


@pytest.mark.parametrize("name", [x for x in NETWORKS if constant(NETWORKS[x])])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reflecting", [False, True])
def test_methods_equal_the_matrix_exponential(name, method, reflecting):
    net = NETWORKS[name]
    states = some_states(net)
    A = twins.generator(net, states, 0.0, reflecting)
    times = np.array([0.05, 0.3, 2.0, 2.0]) / max(1.0, abs(A).max() / 500)
    p0 = np.zeros(len(A))
    p0[0] = 1.0
    solution = solve_fsp(net, times, states=states, p0=p0[:-1], method=method, reflecting=reflecting)
    for i, t in enumerate(times):
        expected = scipy.linalg.expm(t * A) @ p0
        np.testing.assert_allclose(solution.p[i], expected[:-1], atol=1e-12)
        assert solution.lost[i] == pytest.approx(expected[-1], abs=1e-12)
    assert solution.method == method


@pytest.mark.parametrize("method", METHODS)
def test_one_way_chains_and_fast_cycles(method):
    """Far from reversible: a pure birth chain (Poisson), and a ring driven one way at rate 200 (complex
    eigenvalues).
    """
    net = ModelBuilder("birth").species("X", initial=0, max=400).reaction("0 -> X", rate=200.0).build()
    solution = solve_fsp(net, [0.01, 1.0], method=method)
    np.testing.assert_allclose(
        solution.p[1], scipy.stats.poisson.pmf(solution.states[:, 0], 200.0), atol=1e-12
    )
    builder = ModelBuilder("ring")
    for i in range(12):
        builder.species(f"X{i}", initial=int(i == 0), max=1)
    for i in range(12):
        builder.reaction(f"X{i} -> X{(i + 1) % 12}", rate=200.0)
    net = builder.build()
    solution = solve_fsp(net, [0.05, 0.2], method=method)
    A = twins.generator(net, solution.states, 0.0, True)[:-1, :-1]
    np.testing.assert_allclose(solution.p[1], scipy.linalg.expm(0.2 * A)[:, 0], atol=1e-12)


def test_uniformisation_keeps_the_relative_accuracy_of_tails():
    net = build("schlogl", limits={"X": 150})
    birth = (
        ModelBuilder("m")
        .species("X", initial=0, max=300)
        .reaction("0 -> X", rate=2.0)
        .reaction("X -> 0", rate=1.0)
    )
    solution = solve_fsp(birth.build(), [3.0], method="uniformisation")
    law = scipy.stats.poisson.pmf(solution.states[:60, 0], 2.0 * (1 - np.exp(-3.0)))
    assert law.min() < 1e-60
    np.testing.assert_allclose(solution.p[0, :60], law, rtol=1e-9)
    dense = solve_fsp(net, [0.5], method="dense")
    uniform = solve_fsp(net, [0.5], method="uniformisation")
    assert uniform.p.min() < 1e-16
    np.testing.assert_allclose(dense.p, uniform.p, rtol=1e-7)


@pytest.mark.parametrize("w", [1e-12, 0.3, 1.0, 7.7, 250.0, 1e5])
def test_poisson_weights(w):
    first, weights = poisson_weights(w)
    assert weights.sum() == pytest.approx(1.0, abs=1e-14)
    exact = scipy.stats.poisson.pmf(np.arange(first, first + len(weights)), w)
    np.testing.assert_allclose(weights, exact, rtol=1e-8 if w > 1e4 else 1e-11)
    assert scipy.stats.poisson.sf(first + len(weights) - 1, w) < 1e-20
    assert first == 0 or scipy.stats.poisson.cdf(first - 1, w) < 1e-20


@pytest.mark.parametrize("w", [1e-6, 0.5, 30.0, 4000.0])
def test_chebyshev_coefficients_sum_to_the_exponential(w):
    z = np.linspace(-1, 1, 101)
    series = np.polynomial.chebyshev.chebval(z, chebyshev_coefficients(w))
    np.testing.assert_allclose(series, np.exp(w * (z - 1)), atol=1e-14)


def test_stationary_law_stops_the_products_early_without_changing_them():
    net = build("autoregulation")
    long = solve_fsp(net, [4000.0], method="uniformisation", reflecting=True)
    longer = solve_fsp(net, [4000.0, 8000.0], method="dense", reflecting=True)
    np.testing.assert_allclose(long.p[0], longer.p[1], atol=1e-12)
    A, _ = build_generator(net, long.states, 0.0, reflecting=True)
    np.testing.assert_allclose(A @ long.p[0], 0.0, atol=1e-11)


@pytest.mark.parametrize("name", [x for x in NETWORKS if not constant(NETWORKS[x])])
def test_split_rates_multiply_back(name):
    net = NETWORKS[name]
    space, clock, separable = split_time(net.tables)
    n = random_states(net, 40)
    for t in (0.0, 0.9, 4.1):
        product = propensities(clock, n, t) * propensities(space, n, t)
        np.testing.assert_allclose(product, propensities(net.tables, n, t), rtol=1e-13)
    assert (separable <= net.tables.uses_t).all() and not (space.uses_t & separable).any()
    assert (
        sorted(k for group in same_clocks(clock, separable) for k in group)
        == np.flatnonzero(separable).tolist()
    )


def test_products_and_quotients_are_taken_apart():
    cases = {
        "exp(-t)*X/(1 + X)": True, "X/(1 + t)": True, "1/(t + 1)/X": True,
        "(1 + t)*where(X > 2, X, 0)*sin(t)**2": True,
        "where(t > 1, 2, 3)*(1 + X)": True, "X + t": False, "where(X > t, 1, 2)": False, "exp(-t*X)": False,
    }  # fmt: skip
    builder = ModelBuilder("m").species("X", initial=1, max=5)
    for text in cases:
        builder.reaction("0 -> X", propensity=text)
    net = builder.build()
    np.testing.assert_array_equal(split_time(net.tables)[2], list(cases.values()))


@pytest.mark.parametrize("name", [x for x in NETWORKS if not constant(NETWORKS[x])])
def test_time_dependent_derivative_equals_the_definition(name):
    net = NETWORKS[name]
    states = some_states(net)
    propagator = TimeDependentPropagator(StateSpace(net, states, complete=False), 0.0, 5.0, 1e-10)
    p = np.random.default_rng(0).dirichlet(np.ones(len(states) + 1))
    for t in (0.0, 1.3):
        expected = twins.generator(net, states, t, False) @ p
        np.testing.assert_allclose(propagator.derivative(t, p), expected, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(propagator.matrix(t) @ p, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", [x for x in NETWORKS if not constant(NETWORKS[x])])
@pytest.mark.parametrize("method", ["dop853", "radau"])
def test_time_dependent_law_equals_an_independent_integration(name, method):
    """Reference: scipy's LSODA, an implicit multistep method, on a generator built from the definition."""
    net = NETWORKS[name]
    states = some_states(net, 60)
    p = np.zeros(len(states) + 1)
    p[0] = 1.0
    solution = solve_fsp(net, [0.4, 1.0], states=states, p0=p[:-1], method=method)
    assert solution.method == method

    def slope(t, y):
        return twins.generator(net, states, t, False) @ y

    reference = scipy.integrate.solve_ivp(
        slope, (0, 1), p, "LSODA", [0.4, 1.0], rtol=1e-10, atol=1e-13, max_step=0.02
    )
    np.testing.assert_allclose(solution.p, reference.y[:-1].T, atol=1e-8)
    np.testing.assert_allclose(solution.lost, reference.y[-1], atol=1e-8)


def test_a_method_for_constant_rates_is_refused_where_rates_read_the_time():
    with pytest.raises(InputError, match=r"dense.*dop853, radau"):
        solve_fsp(NETWORKS["random4"], [1.0], method="dense")


def test_stiff_rates_that_read_the_time():
    """X <-> Y at rates near 1e6 with an oscillating ratio: X stays binomial with the share of dx/dt = k -
    (f + k) x.
    """
    f, k = 3e5, 1e6
    builder = ModelBuilder("m").species("X", initial=12, max=12).species("Y", initial=0, max=12)
    net = builder.reaction("X -> Y", rate=f"{f}*(1 + sin(t))").reaction("Y -> X", rate=k).build()
    solution = solve_fsp(net, [0.5, 3.0])
    assert solution.method == "radau"
    for i, t in enumerate([0.5, 3.0]):
        u, du = f * (1 + np.sin(t)) + k, f * np.cos(t)
        # The quasi-steady share and its first correction; the next is of order 1/u^2.
        share = k / u + k * du / u**3
        law = scipy.stats.binom.pmf(solution.states[:, 0], 12, share)
        np.testing.assert_allclose(solution.p[i], law, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_many_jumps_keep_the_sum(method):
    """1.5 million jumps of a gene with two states: the law is stationary, and still sums to 1."""
    builder = ModelBuilder("gene").species("G", initial=0, max=1).species("H", initial=1, max=1)
    net = builder.reaction("H -> G", rate=1e6).reaction("G -> H", rate=3e6).build()
    solution = solve_fsp(net, [0.4, 0.5], method=method)
    np.testing.assert_allclose(solution.p, [[0.75, 0.25]] * 2, atol=1e-12)


def test_threads_change_nothing(monkeypatch):
    net = NETWORKS["autoregulation"]
    expected = solve_fsp(net, [2.0], method="uniformisation")
    monkeypatch.setattr(propagate, "PARALLEL_ENTRIES", 1)
    monkeypatch.setattr(propagate, "_TASK", 100)
    np.testing.assert_array_equal(solve_fsp(net, [2.0], method="uniformisation").p, expected.p)
    monkeypatch.setattr(timedependent, "PARALLEL_ENTRIES", 1)
    timed = [net for net in NETWORKS.values() if net.time_dependent and net.name.startswith("random")]
    in_threads = [solve_fsp(net, [0.5]).p for net in timed]
    monkeypatch.undo()
    for net, p in zip(timed, in_threads, strict=True):
        np.testing.assert_array_equal(solve_fsp(net, [0.5]).p, p)


def test_a_race_is_won_by_the_faster_way_and_run_again():
    ran = []
    race = propagate.Race()
    for _ in range(64):
        race.run(lambda: ran.append("fast"), lambda: (ran.append("slow"), time.sleep(1e-3)), 1)
    assert set(ran[:2]) == {"fast", "slow"}  # both are tried
    assert ran.count("slow") <= 8 and "slow" in ran[10:]


def test_choice_of_method():
    def chosen(limit, t):
        net = build("schlogl", limits={"X": limit})
        states = np.arange(limit + 1, dtype=np.int32)[:, None]
        return Propagator(generator_with_sink(StateSpace(net, states, True), 0.0), t, 1).method

    assert chosen(84, 1e-4) == "uniformisation"  # few jumps
    assert chosen(84, 1.0) == "dense"  # a small set at high rates
    assert chosen(4000, 1.0) == "chebyshev"  # a larger one


@pytest.mark.parametrize("name", ["schlogl", "autoregulation"])
def test_reflecting_walls_keep_all_probability(name):
    net = build(name, limits={"X": 84, "P": 30})
    solution = solve_fsp(net, [0.1, 1.0], reflecting=True)
    np.testing.assert_allclose(solution.p.sum(axis=1), 1.0, atol=1e-12)
    assert (solution.lost < 1e-12).all()
    assert solve_fsp(net, [0.1, 1.0]).lost[-1] > 1e-9
