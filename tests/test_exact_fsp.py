"""The exact solver against closed forms and known values, its account of lost probability, and its error
messages.
"""

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from kernel_networks import NETWORKS, SMALL_EPIDEMIC, build

from hpcme.errors import InputError
from hpcme.exact.fsp import FspSolution, solve_fsp
from hpcme.model.builder import ModelBuilder


def birth_death(largest=60):
    builder = ModelBuilder("birth_death").species("X", initial={"poisson": 1.0}, max=largest)
    return builder.reaction("0 -> X", rate=0.1).reaction("X -> 0", rate=0.01).build()


def total_variation(p, q):
    return 0.5 * np.abs(p - q).sum()


def test_birth_death_from_a_poisson_start_stays_poisson():
    """Mean e^(-d t) + (b/d)(1 - e^(-d t)) for X(0) Poisson(1); the solver's law must be that to rounding."""
    times = [0.0, 10.0, 100.0, 1000.0]
    solution = solve_fsp(birth_death(), times)
    for i, t in enumerate(times):
        mean = np.exp(-0.01 * t) + 10 * (1 - np.exp(-0.01 * t))
        law = scipy.stats.poisson.pmf(solution.states[:, 0], mean)
        assert total_variation(solution.p[i], law) < 1e-12
    assert solution.mean()[2, 0] == pytest.approx(6.689, abs=5e-4)


def test_linear_cascade_is_a_product_of_poissons():
    """0 -> X1 -> X2 -> X3 with degradation, from the empty state (Jahnke and Huisinga, J. Math. Biol. 54,
    1, 2007).
    """
    k, b, d = 1.5, 2.0, 1.0
    builder = ModelBuilder("cascade")
    for name in ("X1", "X2", "X3"):
        builder.species(name, initial=0, max=22)
    builder.reaction("0 -> X1", rate=b).reaction("X1 -> X2", rate=k).reaction("X2 -> X3", rate=k)
    for name in ("X1", "X2", "X3"):
        builder.reaction(f"{name} -> 0", rate=d)
    solution = solve_fsp(builder.build(), [0.4, 1.5])
    B = np.array([[-k - d, 0, 0], [k, -k - d, 0], [0, k, -d]])
    for i, t in enumerate([0.4, 1.5]):
        means = np.linalg.solve(B, (scipy.linalg.expm(B * t) - np.eye(3)) @ [b, 0, 0])
        law = scipy.stats.poisson.pmf(solution.states, means).prod(axis=1)
        assert total_variation(solution.p[i], law) < 1e-11
        np.testing.assert_allclose(solution.covariance()[i], np.diag(means), atol=1e-10)


def test_two_state_gene():
    """G on/off at rates u, v: P(on) relaxes to u/(u+v) at rate u + v."""
    u, v = 0.7, 1.9
    builder = ModelBuilder("gene").species("G", initial=0, max=1).species("H", initial=1, max=1)
    net = builder.reaction("H -> G", rate=u).reaction("G -> H", rate=v).build()
    times = np.array([0.1, 1.0, 20.0])
    on = u / (u + v) * (1 - np.exp(-(u + v) * times))
    np.testing.assert_allclose(solve_fsp(net, times).mean(), np.stack([on, 1 - on], axis=1), atol=1e-13)


def test_dimerisation_equals_a_dense_exponential():
    """2 A <-> B with A + 2 B = 30, written down by hand: state j has j dimers."""
    f, r, total = 0.02, 0.4, 30
    builder = ModelBuilder("dimer").species("A", initial=total, max=total).species("B", initial=0, max=total)
    net = builder.reaction("2 A -> B", rate=f).reaction("B -> 2 A", rate=r).build()
    A = np.zeros((16, 16))
    for j in range(16):
        a = total - 2 * j
        for target, rate in ((j + 1, f * a * (a - 1)), (j - 1, r * j)):
            if rate:
                A[target, j] += rate
                A[j, j] -= rate
    solution = solve_fsp(net, [0.3, 2.0])
    assert len(solution.states) == 16
    for i, t in enumerate([0.3, 2.0]):
        expected = scipy.linalg.expm(t * A)[:, 0]
        np.testing.assert_allclose(solution.p[i], expected[solution.states[:, 1]], atol=1e-13)


def test_birth_with_an_oscillating_rate():
    """0 -> X at b (1 + sin(w t)), X -> 0: Poisson with the mean of the linear equation; here without
    death, in closed form.
    """
    builder = ModelBuilder("m").species("X", initial=0, max=60)
    net = builder.reaction("0 -> X", rate="4*(1 + sin(3*t))").build()
    times = np.array([0.5, 2.0, 4.0])
    solution = solve_fsp(net, times)
    for i, t in enumerate(times):
        law = scipy.stats.poisson.pmf(solution.states[:, 0], 4.0 * (t + (1 - np.cos(3 * t)) / 3))
        assert total_variation(solution.p[i], law) < 1e-9


def test_oscillating_birth_with_death():
    """dm/dt = b (1 + sin t) - m from m = 0: m = b [1 - e^-t + (sin t - cos t + e^-t) / 2], and the law is
    Poisson(m).
    """
    builder = ModelBuilder("m").species("X", initial=0, max=50)
    net = builder.reaction("0 -> X", rate="5*(1 + sin(t))").reaction("X -> 0", rate=1.0).build()
    t = 3.0
    mean = 5 * (1 - np.exp(-t) + (np.sin(t) - np.cos(t) + np.exp(-t)) / 2)
    solution = solve_fsp(net, [t])
    assert total_variation(solution.p[0], scipy.stats.poisson.pmf(solution.states[:, 0], mean)) < 1e-9


def test_a_short_pulse_is_not_stepped_over():
    builder = ModelBuilder("m").species("X", initial=0, max=40)
    net = builder.reaction("0 -> X", rate="where(t >= 7 and t < 7.5, 8, 0)").build()
    solution = solve_fsp(net, [6.9, 10.0])
    assert solution.p[0, 0] == 1.0
    law = scipy.stats.poisson.pmf(solution.states[:, 0], 4.0)
    assert total_variation(solution.p[1], law) < 1e-6


# Values of the literature systems with walls at the limits (see the README for the systems), to the digits
# known.
TOGGLE = {
    "toggle": {1: (0.9605, 31.077, 6.199), 5: (0.6178, 33.264, 21.239), 40: (0.5811, 29.056, 23.642)},
    "toggle_power": {1: (0.9589, 31.051, 6.232), 5: (0.6135, 33.039, 21.307), 40: (0.5790, 28.949, 23.654)},
}


@pytest.mark.parametrize(
    "name, times",
    [("toggle", [1, 5]), ("toggle_power", [1, 5]), pytest.param("toggle", [1, 5, 40], marks=pytest.mark.slow),
     pytest.param("toggle_power", [1, 5, 40], marks=pytest.mark.slow)],
)  # fmt: skip
def test_toggle_switch_values(name, times):
    solution = solve_fsp(NETWORKS[name], times, reflecting=True)
    mean, sd = solution.mean(), solution.sd()
    for i, t in enumerate(times):
        gene, protein, spread = TOGGLE[name][t]
        np.testing.assert_allclose(mean[i, :2], gene, atol=5.1e-5)
        np.testing.assert_allclose(mean[i, 2:], protein, atol=5.1e-4)
        np.testing.assert_allclose(sd[i, 2:], spread, atol=5.1e-4)


def test_schlogl_values():
    solution = solve_fsp(NETWORKS["schlogl"], [0.1, 0.5, 1.0], reflecting=True)
    np.testing.assert_allclose(solution.mean()[:, 0], [44.163, 37.288, 31.431], atol=1e-3)
    np.testing.assert_allclose(solution.sd()[:, 0], [12.251, 18.375, 20.940], atol=1e-3)
    low = solution.marginal(0)[:, :16].sum(axis=1)
    assert low[0] == pytest.approx(0.02159, abs=6e-6)
    np.testing.assert_allclose(low[1:], [0.1793, 0.3209], atol=6e-5)


@pytest.mark.parametrize("V, mean, sd", [(0.1, 0.101, 19.167), (1.0, 0.990, 17.837), (10.0, 8.283, 10.871)])
def test_early_life_values(V, mean, sd):
    solution = solve_fsp(build("early_life", parameters={"V": V}), [8.0], method="chebyshev")
    assert len(solution.states) == 5151
    assert solution.mean()[0, 0] == pytest.approx(mean, abs=6e-4)
    assert solution.sd()[0, 1] == pytest.approx(sd, abs=6e-4)
    assert solution.lost[0] < 1e-12


@pytest.mark.parametrize(
    "sets", [(0.94, 0.01, 8.40, 28.1), (0.69, 0.07, 7.2, 40.6), (0.44, 0.08, 0.94, 53.1)]
)
def test_autoregulation_mean_obeys_its_moment_equation(sets):
    """At a stationary law the protein balance holds: E[P] = ru E[G] + rb E[1-G] + su E[1-G] - sb E[G P]."""
    su, sb, ru, rb = sets
    net = build("autoregulation", dict(zip(("su", "sb", "ru", "rb"), sets, strict=True)), limits={"P": 140})
    solution = solve_fsp(net, [3000.0])
    w, (G, P) = solution.p[0], solution.states.T
    balance = ru * (w @ G) + (rb + su) * (w @ (1 - G)) - sb * (w @ (G * P)) - w @ P
    assert abs(balance) < 1e-9 and solution.lost[0] < 1e-10


def test_lost_probability_is_what_a_larger_box_finds_outside():
    """The law on a small box is a lower bound of the true one, and lost is at least the probability beyond
    the box.
    """
    small, large = (
        solve_fsp(birth_death(12), [5.0, 50.0, 200.0]),
        solve_fsp(birth_death(80), [5.0, 50.0, 200.0]),
    )
    order = np.argsort(small.states[:, 0])
    exact = large.p[:, np.argsort(large.states[:, 0])]
    # The start, Poisson(1), is cut at the limit and renormalised: 6e-11 more on the small box.
    assert (small.p[:, order] <= exact[:, :13] + 1e-10).all()
    assert (np.diff(small.lost) >= 0).all() and small.lost[-1] > 1e-3
    assert (small.lost >= exact[:, 13:].sum(axis=1) - 1e-10).all()
    np.testing.assert_allclose(small.p.sum(axis=1) + small.lost, 1.0, atol=1e-12)
    for i in range(3):
        bound = total_variation(np.append(small.p[i, order], np.zeros(68)), exact[i])
        assert bound <= small.lost[i] + 1e-10


@pytest.mark.parametrize("name", ["toggle", "epidemic", "cascade_hill"])
def test_lost_never_decreases(name):
    tight = {
        "toggle": {"Px": 12, "Py": 15},
        "epidemic": {"S": 20, "I": 5, "R": 20},
        "cascade_hill": {"X1": 8},
    }[name]
    net = build(name, limits=tight, initial={"S": 16, "I": 4})
    solution = solve_fsp(net, np.linspace(0.0, 2.0, 9))
    assert (np.diff(solution.lost) >= 0).all() and solution.lost[0] == 0.0 and solution.lost[-1] > 0
    assert (solution.p >= 0).all()
    np.testing.assert_allclose(solution.p.sum(axis=1) + solution.lost, 1.0, atol=1e-12)


def test_reports_do_not_change_the_law():
    net = NETWORKS["autoregulation"]
    one, many = solve_fsp(net, [3.0]), solve_fsp(net, np.linspace(0.1, 3.0, 30))
    np.testing.assert_allclose(many.p[-1], one.p[0], atol=1e-13)


@pytest.mark.parametrize("name", ["random1", "random4", "random6"])
def test_order_of_states_does_not_matter(name):
    net = NETWORKS[name]
    first = solve_fsp(net, [0.8])
    shuffle = np.random.default_rng(1).permutation(len(first.states))
    again = solve_fsp(net, [0.8], states=first.states[shuffle])
    np.testing.assert_allclose(again.p[0], first.p[0, shuffle], atol=1e-9)


def test_given_states_and_starting_law():
    net = NETWORKS["schlogl"]
    states = np.arange(85, dtype=np.int32)[:, None]
    p0 = scipy.stats.binom.pmf(states[:, 0], 84, 0.3)
    pieces = solve_fsp(net, [0.01, 0.03], states=states, p0=p0, reflecting=True)
    again = solve_fsp(net, [0.02], states=states, p0=pieces.p[0], reflecting=True)
    np.testing.assert_allclose(again.p[0], pieces.p[1], atol=1e-13)
    outside = solve_fsp(net, [0.0], states=states[:20])
    assert outside.lost[0] == 1.0 and outside.p.sum() == 0.0


def test_moments_and_marginals_are_those_of_the_law():
    states = np.array(list(itertools.product(range(3), range(4))), dtype=np.int32)
    p = np.random.default_rng(2).dirichlet(np.ones(12)) * 0.75
    solution = FspSolution(states, np.array([1.0]), p[None], np.array([0.25]), "given", 0.0)
    q = p / p.sum()
    mean = q @ states
    np.testing.assert_allclose(solution.mean()[0], mean)
    np.testing.assert_allclose(solution.covariance()[0], np.cov(states.T, aweights=q, ddof=0))
    np.testing.assert_allclose(solution.sd()[0] ** 2, np.diag(solution.covariance()[0]))
    np.testing.assert_allclose(solution.marginal(1)[0], p.reshape(3, 4).sum(axis=0))


def test_progress_rises_to_one():
    for net in (NETWORKS["schlogl"], NETWORKS["autoregulation"], build("epidemic", **SMALL_EPIDEMIC)):
        seen = []
        solve_fsp(net, [0.5, 1.0], progress=seen.append, method="uniformisation" if net.S < 3 else None)
        assert seen == sorted(seen) and seen[-1] == pytest.approx(1.0) and min(seen) > 0


@pytest.mark.parametrize(
    "options, words",
    [
        ({"times": []}, ["non-empty"]), ({"times": [2.0, 1.0]}, ["increasing order"]),
        ({"times": [-1.0]}, [">= 0"]), ({"times": [float("nan")]}, ["finite"]),
        ({"max_states": 40}, ["more than 40 states", "max in the model"]),
        ({"p0": np.ones(3)}, ["without states"]),
        ({"states": np.array([[1], [1]], dtype=np.int32)}, ["twice"]),
        ({"states": np.array([[1], [2]], dtype=np.int32), "p0": np.array([0.5, 0.6])}, ["at most 1"]),
        ({"method": "euler"}, ["euler", "uniformisation"]),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_fix(options, words):
    with pytest.raises(InputError) as info:
        solve_fsp(NETWORKS["schlogl"], **{"times": [0.1], **options})
    for word in words:
        assert word in str(info.value)


def test_a_propensity_that_is_no_rate_is_named():
    builder = ModelBuilder("bad").species("X", initial=0, max=9).reaction("0 -> X", rate=1.0)
    net = builder.reaction("X -> 0", propensity="X*(4 - X)").build()
    with pytest.raises(InputError, match=r"reaction 2 .* is -5 at X = 5"):
        solve_fsp(net, [1.0])
    builder = ModelBuilder("bad").species("X", initial=0, max=9).reaction("0 -> X", rate="cos(t)")
    with pytest.raises(InputError, match=r"reaction 1 .* is -"):
        solve_fsp(builder.build(), [8.0])
