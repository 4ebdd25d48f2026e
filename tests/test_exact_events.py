"""Events in the exact solver, in trajectories and in the reachable states, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from hpcme.errors import InputError
from hpcme.exact.ensemble import solve_ssa
from hpcme.exact.fsp import solve_fsp
from hpcme.kernels.reach import reachable
from hpcme.model.event import events_at, remaps
from hpcme.model.reader import load_model_text
from hpcme.networks.build import enumerate_reachable

IMMIGRATION = """
[parameters]
k = 2.0
mu = 0.5
[species]
X = {{ initial = 0, max = {limit} }}
[[reactions]]
equation = "0 -> X"
rate = "k"
[[reactions]]
equation = "X -> 0"
rate = "mu"
"""
RESET = '[[events]]\nat = 3\nset = { X = 25 }\n'
DOSE = '[[events]]\nat = 3\nset = { X = "X + 12" }\n'
TIMES = np.array([1.0, 2.999999, 3.0, 3.000001, 4.5, 8.0])


def immigration(events: str, limit: int = 60):
    return load_model_text(IMMIGRATION.format(limit=limit) + events)


def law(t: float, start: int, k: float = 2.0, mu: float = 0.5, size: int = 61) -> np.ndarray:
    """Immigration and death from `start` molecules: binomial survivors and Poisson newcomers, independent."""
    stay = scipy.stats.binom.pmf(np.arange(size), start, np.exp(-mu * t))
    come = scipy.stats.poisson.pmf(np.arange(size), k / mu * (1 - np.exp(-mu * t)))
    return np.convolve(stay, come)[:size]


def expected(kind: str, t: float) -> np.ndarray:
    if t < 3.0:
        return law(t, 0)
    if kind == "reset":
        return law(t - 3.0, 25)
    # A Poisson law stays one; the 12 added molecules live and die for themselves.
    extra = scipy.stats.binom.pmf(np.arange(61), 12, np.exp(-0.5 * (t - 3.0)))
    return np.convolve(law(t, 0), extra)[:61]


@pytest.mark.parametrize("kind", ["reset", "dose"])
def test_exact_laws_before_at_and_after_an_event_are_the_closed_form(kind):
    net = immigration({"reset": RESET, "dose": DOSE}[kind])
    found = solve_fsp(net, TIMES)
    order = np.argsort(found.states[:, 0])
    for t, p in zip(TIMES, found.p, strict=True):
        np.testing.assert_allclose(p[order], expected(kind, t)[np.sort(found.states[:, 0])], atol=1e-11)
    assert found.lost.max() < 1e-12


@pytest.mark.parametrize("method", ["uniformisation", "dense", "chebyshev"])
def test_every_propagator_goes_on_after_an_event(method):
    found = solve_fsp(immigration(DOSE), TIMES, method=method)
    mean = [4 * (1 - np.exp(-0.5 * t)) + (12 * np.exp(-0.5 * (t - 3.0)) if t >= 3.0 else 0.0) for t in TIMES]
    np.testing.assert_allclose(found.mean()[:, 0], mean, rtol=1e-8)


@pytest.mark.parametrize("method", ["dop853", "radau"])
def test_rates_that_read_the_time_go_on_after_an_event(method):
    text = IMMIGRATION.format(limit=60).replace('rate = "k"', 'rate = "k*(1 + sin(2*t))"') + DOSE
    found = solve_fsp(load_model_text(text), TIMES, method=method)
    s, mu = np.linspace(0.0, 1.0, 20001), 0.5
    for t, mean in zip(TIMES, found.mean()[:, 0], strict=True):
        u = s * t
        births = np.trapezoid(2.0 * (1 + np.sin(2 * u)) * np.exp(-mu * (t - u)), u)
        assert mean == pytest.approx(births + (12 * np.exp(-mu * (t - 3.0)) if t >= 3.0 else 0.0), abs=1e-6)


def test_what_an_event_leads_past_the_limits_is_lost():
    net = immigration('[[events]]\nat = 3\nset = { X = "X + 12" }\n', limit=18)
    found = solve_fsp(net, [3.0], reflecting=True)
    walled = solve_fsp(immigration("", limit=18), [3.0], reflecting=True)
    gone = walled.p[0][walled.states[:, 0] + 12 > 18].sum()
    assert 0.01 < gone < 0.5 and found.lost[0] == pytest.approx(gone, abs=1e-12)
    assert found.p.sum() + found.lost[0] == pytest.approx(1.0, abs=1e-12)


def test_events_of_one_time_happen_one_after_the_other_and_right_hand_sides_see_the_state_before():
    net = load_model_text(
        """
        [species]
        X = { initial = 3, max = 40 }
        Y = { initial = 8, max = 40 }
        [[reactions]]
        equation = "X -> Y"
        rate = 1e-12
        [[events]]
        at = 2
        set = { X = "Y", Y = "X" }
        [[events]]
        at = 1
        set = { X = "2*X" }
        [[events]]
        at = 2
        set = { X = "X + 10*Y" }
        """
    )
    # 3, 8 -> 6, 8 -> 8, 6 -> 68: past the limit; with Y the smaller one it stays inside.
    assert solve_fsp(net, [2.0]).lost[0] == pytest.approx(1.0)
    net = net.with_limits({"X": 100})
    found = solve_fsp(net, [1.0, 1.5, 2.0])
    likeliest = found.states[found.p.argmax(axis=1)].tolist()
    assert likeliest == [[6, 8], [6, 8], [68, 6]]
    assert solve_ssa(net, [1.0, 1.5, 2.0], 3).samples[:, 0].tolist() == likeliest


def test_reachable_states_go_through_events_like_a_plain_search():
    net = load_model_text(
        """
        [species]
        X = { initial = 4, max = 30 }
        Y = { initial = 0, max = 9 }
        [[reactions]]
        equation = "2 X -> Y"
        rate = 1
        [[events]]
        at = 1
        set = { X = "X + 7" }
        [[events]]
        at = 2
        set = { Y = "floor(Y/2)" }
        """
    )
    found = {(4, 0)}

    def close(states):
        todo = list(states)
        while todo:
            x, y = todo.pop()
            if x >= 2 and y < 9 and (x - 2, y + 1) not in states:
                states.add((x - 2, y + 1))
                todo.append((x - 2, y + 1))
        return states

    close(found)
    found |= {(x + 7, y) for x, y in found}
    close(found)
    found |= {(x, y // 2) for x, y in found}
    close(found)
    states, complete = reachable(
        np.array([[4, 0]], np.int32), net.tables, net.s, net.limits, 1000, remaps=remaps(net, 5.0)
    )
    assert complete and set(map(tuple, states.tolist())) == found
    assert set(map(tuple, enumerate_reachable(net, 1000, 5.0).tolist())) == found
    # Events after the end are none, and those at the end count.
    assert len(enumerate_reachable(net, 1000, 0.5)) == 3
    assert (11, 0) in set(map(tuple, enumerate_reachable(net, 1000, 1.0).tolist()))


@pytest.mark.parametrize("kind", ["reset", "dose"])
def test_trajectories_have_the_closed_form_before_at_and_after_an_event(kind):
    N = 20_000
    found = solve_ssa(immigration({"reset": RESET, "dose": DOSE}[kind]), TIMES, N, seed=4)
    for t, n in zip(TIMES, found.samples[:, :, 0], strict=True):
        p = expected(kind, t)
        common = N * p > 8
        seen = np.bincount(n, minlength=61)[:61]
        rest = N * (1 - p[common].sum())  # all other counts together
        chi2 = ((seen[common] - N * p[common]) ** 2 / (N * p[common])).sum()
        chi2 += (N - seen[common].sum() - rest) ** 2 / max(rest, 1.0)
        # The 1e-5 quantile: twelve laws are looked at.
        assert chi2 < scipy.stats.chi2.isf(1e-5, max(common.sum(), 1)), (t, chi2)


def test_a_trajectory_with_events_depends_on_its_number_alone():
    net = immigration(DOSE)
    whole = solve_ssa(net, TIMES, 50, seed=9)
    part = solve_ssa(net, TIMES, 20, seed=9, first_index=30)
    np.testing.assert_array_equal(whole.samples[:, 30:], part.samples)
    np.testing.assert_array_equal(whole.events[30:], part.events)
    # Until the event they are those of the model without it.
    plain = solve_ssa(immigration(""), TIMES, 50, seed=9)
    np.testing.assert_array_equal(whole.samples[:2], plain.samples[:2])


def test_reports_at_other_times_leave_the_laws_alone():
    """A law between does not change what comes after, whether or not an event lies between."""
    net = immigration(RESET)
    dense, few = solve_fsp(net, np.linspace(0.0, 8.0, 33)), solve_fsp(net, [8.0])
    np.testing.assert_allclose(dense.p[-1], few.p[0], atol=1e-12)


def test_an_event_that_makes_no_count_names_the_state():
    net = immigration('[[events]]\nat = 3\nset = { X = "X - 5" }\nname = "sample"\n')
    for solve in (lambda: solve_fsp(net, [4.0]), lambda: solve_ssa(net, [4.0], 100)):
        with pytest.raises(InputError, match=r"event sample sets X = .*in the state X = \d"):
            solve()
    assert len(events_at(net, 3.0)) == 1 and not events_at(net, 2.0)
