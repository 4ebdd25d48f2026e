"""The short-time law: agreement with the whole solution, an honest account of what is neglected, and the
choice of t0.
"""

import numpy as np
import pytest
from kernel_networks import NETWORKS, SMALL_EPIDEMIC, build

from hpcme.errors import InputError
from hpcme.exact.fsp import bounded, short_time_law, solve_fsp
from hpcme.exact.statespace import StateSpace
from hpcme.kernels.neighbours import outflow
from hpcme.model.builder import ModelBuilder

CASES = ["toggle", "schlogl", "early_life", "epidemic", "cascade_hill", "random1", "random4", "random7"]


SETS = NETWORKS | {
    "toggle": build("toggle", limits={"Px": 29, "Py": 29}),
    "epidemic": build("epidemic", **SMALL_EPIDEMIC),
    "cascade_hill": build("cascade_hill", limits={"X1": 14, "X2": 14, "X3": 14}),
}


def short(name):
    """A time with about three reactions."""
    return {"toggle": 0.03, "schlogl": 2e-4, "early_life": 0.01, "epidemic": 1.0, "cascade_hill": 0.02}.get(
        name, 0.4
    )


@pytest.mark.parametrize("name", CASES)
def test_is_the_reflecting_law_up_to_what_is_lost(name):
    net = SETS[name]
    states, p, lost = bounded(net, short(name), tol=1e-7)
    full = solve_fsp(net, [short(name)], reflecting=True)
    index = StateSpace(net, full.states, True).index(states)
    assert (index >= 0).all()
    exact = full.p[0, index]
    assert (p <= exact + 1e-9).all()
    assert p.sum() + lost == pytest.approx(1.0, abs=1e-9)
    outside = 1.0 - exact.sum()
    assert outside <= lost + 1e-9 and lost <= 1e-7 + 1e-9
    assert np.abs(p - exact).sum() + outside <= 2 * lost + 2e-9


@pytest.mark.parametrize("most", [5, 30, 100])
def test_small_sets_lose_probability_and_say_so(most):
    net = NETWORKS["toggle"]
    states, p, lost = bounded(net, 0.1, max_states=most)
    assert len(states) <= most and lost > 1e-3
    assert p.sum() + lost == pytest.approx(1.0, abs=1e-12)


def test_at_time_zero_it_is_the_starting_law():
    net = (
        ModelBuilder("m").species("X", initial={"poisson": 2.0}, max=40).reaction("X -> 0", rate=1.0).build()
    )
    states, p, lost = bounded(net, 0.0)
    expected_states, expected = net.initial.support()
    np.testing.assert_array_equal(states, expected_states)
    np.testing.assert_allclose(p, expected, rtol=1e-12)
    assert lost < 1e-13
    states, p, lost = bounded(net, 0.0, max_states=3)
    assert sorted(states[:, 0].tolist()) == [1, 2, 3] or len(states) == 3
    assert lost == pytest.approx(1 - np.sort(expected)[::-1][:3].sum(), abs=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("jumps", [0.5, 3.0])
def test_expected_number_of_reactions(name, jumps):
    """The integral of E[a0] over [0, t0], taken from a fine independent solution, is the number asked for."""
    net = SETS[name]
    t0, _, p, lost = short_time_law(net, jumps, t_max=10.0)
    assert lost <= 1e-6 and p.sum() + lost == pytest.approx(1.0, abs=1e-9)
    times = np.concatenate([[0.0], np.geomspace(1e-4 * t0, t0, 300)])
    full = solve_fsp(net, times, reflecting=True)
    a0 = [outflow(net.tables, full.states, net.s, net.limits, t)[0].sum(axis=1) for t in times]
    count = np.trapezoid([a @ q for a, q in zip(a0, full.p, strict=True)], times)
    assert count == pytest.approx(jumps, rel=0.03) or (t0 == 10.0 and count < jumps)


def test_t_max_and_a_system_at_rest():
    net = NETWORKS["toggle"]
    assert short_time_law(net, 3.0, t_max=0.001)[0] == 0.001
    rest = ModelBuilder("m").species("X", initial=0, max=9).reaction("X -> 0", rate=1.0).build()
    t0, states, p, lost = short_time_law(rest, 3.0, t_max=7.0)
    assert t0 == 7.0 and states.tolist() == [[0]] and p.tolist() == [1.0] and lost == 0.0


def test_reactions_that_run_out():
    """4 (1 - e^-t) reactions are expected by time t, never 5."""
    net = ModelBuilder("m").species("X", initial=4, max=4).reaction("X -> 0", rate=1.0).build()
    t0, _, _, lost = short_time_law(net, 3.0, t_max=50.0)
    assert 4 * (1 - np.exp(-t0)) == pytest.approx(3.0, rel=0.03)
    assert short_time_law(net, 5.0, t_max=50.0)[0] == 50.0 and lost < 1e-6


def test_slow_start_then_explosion():
    """0 -> X at b, X -> 2 X at k: the expected number of reactions is E[X] = (b/k)(e^(k t) - 1), nearly
    all of it late.
    """
    b, k = 0.1, 5.0
    builder = ModelBuilder("m").species("X", initial=0, max=2000)
    net = builder.reaction("0 -> X", rate=b).reaction("X -> 2 X", rate=k).build()
    t0, _, p, lost = short_time_law(net, 1.0, t_max=100.0)
    assert b / k * np.expm1(k * t0) == pytest.approx(1.0, rel=0.1)
    assert lost <= 1e-6 and p.sum() + lost == pytest.approx(1.0)


def test_t0_shrinks_until_the_states_fit():
    net = NETWORKS["toggle"]
    free = short_time_law(net, 20.0, t_max=10.0)
    tight = short_time_law(net, 20.0, t_max=10.0, max_states=300)
    assert 0 < tight[0] < free[0] and len(tight[1]) <= 300 and tight[3] <= 1e-6 and free[3] <= 1e-6


def test_time_dependent_rates():
    net = SETS["epidemic"]
    t0, states, p, _ = short_time_law(net, 3.0, t_max=20.0)
    full = solve_fsp(net, [t0], reflecting=True)
    index = StateSpace(net, full.states, True).index(states)
    np.testing.assert_allclose(p, full.p[0, index], atol=2e-6)
    off = (
        ModelBuilder("m")
        .species("X", initial=0, max=30)
        .reaction("0 -> X", rate="where(t > 2, 1, 0)")
        .build()
    )
    t0, states, _, _ = short_time_law(off, 1.0, t_max=10.0)
    assert t0 == pytest.approx(3.0, rel=0.05) and len(states) > 1


def test_bad_time_is_refused():
    for t in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="finite and not negative"):
            bounded(NETWORKS["schlogl"], t)


@pytest.mark.parametrize("birth", [1.0, 9.0])
def test_a_negative_propensity_at_the_start_is_named(birth):
    """Whether or not the others make up for it in the sum."""
    builder = ModelBuilder("negative").species("X", initial=3, max=20)
    net = builder.reaction("X -> 0", propensity="X - 5").reaction("0 -> X", rate=birth).build()
    with pytest.raises(InputError, match=r"reaction 1 \(X -> 0\) is -2 at X = 3"):
        short_time_law(net, 0.1)
