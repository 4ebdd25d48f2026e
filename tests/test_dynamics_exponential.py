"""The exponential integrator of scheme `tdvp`: each step is the exact evolution, projected; its errors are known."""

import numpy as np
import pytest
import torch
from solver_cases import WORLD, all_states, evolution_of, exact, follow, model, tdvp_job

from hpcme.dynamics import exponential as module
from hpcme.dynamics.covering import Cloud
from hpcme.dynamics.enumeration import HostEnumeration
from hpcme.dynamics.exponential import Exponential
from hpcme.dynamics.flow import Blocks, Flow
from hpcme.dynamics.tangent import HeadParameters
from hpcme.errors import InputError, NumericalError
from hpcme.exact.fsp import solve_fsp
from hpcme.model.builder import ModelBuilder

NAMES = ["toggle", "closed", "driven"]


def law_of(network, states):
    with torch.no_grad():
        return network.log_prob(torch.from_numpy(states)).exp().numpy()


@pytest.mark.parametrize("name", NAMES)
def test_runs_hold_the_exact_law_and_their_bound(name):
    _, rows, reports = follow(tdvp_job(name, 3.0, time__report=[0.4, 1.3, 3.0]))
    assert [t for t, _, _ in reports][-2:] == [1.3, 3.0]  # the start may lie past 0.4
    for _, distance, bound in reports:
        assert distance <= 0.006 and distance <= bound
        assert bound <= 0.03 or name == "driven"  # whose limits lose probability
    assert all(row["defect"] >= 0.0 and row["rejected"] >= 0 for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_defect_of_a_step_is_its_distance_from_the_exact_evolution(name):
    evolution = evolution_of(tdvp_job(name, 1.0))
    scheme, net, t = evolution.scheme, model(name), evolution.t
    assert isinstance(scheme, Exponential)
    states = exact(net, 1.0)[0]
    q = law_of(scheme.network, states)
    advance = scheme.advance(0, t, 0.05)
    assert advance.dt <= 0.05 and advance.defect < 0.01
    if not net.time_dependent:
        target = solve_fsp(net, [advance.dt], states=states, p0=q / q.sum(), reflecting=True).p[0]
        distance = 0.5 * np.abs(law_of(scheme.network, states) - target).sum()
        assert advance.defect == pytest.approx(distance, rel=1e-6, abs=1e-10)


@torch.no_grad()
def test_short_steps_are_the_variational_principle():
    """(theta(h) - theta) / h tends to v with S v = F, here as the change of log q along both. (The damping of S keeps v
    off the states of probability 1e-10, which least squares in e would follow to infinity.)"""
    net = model("closed")
    evolution = evolution_of(tdvp_job("closed", 1.0))
    scheme = evolution.scheme
    t, later = evolution.t, evolution.t + 0.3
    while t < later - 1e-9:  # away from the start, which is narrow
        t += scheme.advance(0, t, later - t).dt
    parameters = scheme.parameters
    states = all_states(net.limits)
    states = torch.from_numpy(states[states.sum(axis=1) == 12])
    flow = Flow(Cloud(parameters, HostEnumeration(net), states, t), parameters, WORLD, True)
    q = flow.density()
    v = Blocks(flow.matrices(q, q)[0], [], 0.0, 0.0, 1e-5).solve(flow.project(flow.cloud.balance(q)))
    wanted = flow.cloud.tree.apply(v)
    begin, errors = parameters.get(), []
    for h in (1e-2, 1e-3):
        parameters.set(begin)
        assert scheme.advance(1, t, h).dt == h
        found = (flow.cloud.tree.log_prob() - q.log()) / h
        errors.append(float((q @ (found - wanted) ** 2).sqrt() / (q @ wanted**2).sqrt()))
    assert errors[1] < 0.03, errors  # what the damping leaves


def test_probability_past_the_limits_is_counted():
    """Births at rate 6 into at most 9: the flux is 6 P(9), in the law with walls."""
    net = ModelBuilder("births").species("X", initial=0, max=9).reaction("0 -> X", rate=6.0).build()
    evolution, _, _ = follow(tdvp_job(net, 1.5))
    times = np.linspace(0.0, 1.5, 4001)
    walls = solve_fsp(net, times, reflecting=True)
    flux = 6.0 * walls.p[:, walls.states[:, 0] == 9][:, 0]
    expected = float(((flux[1:] + flux[:-1]) / 2 * np.diff(times)).sum())
    assert evolution.lost == pytest.approx(expected, rel=0.02)
    sink = solve_fsp(net, [1.5]).lost[0]
    assert evolution.lost >= sink * 0.98


def test_steps_land_on_reports_and_switches_and_see_rates_jump():
    builder = ModelBuilder("switched").species("X", initial=3, max=30)
    net = builder.reaction("0 -> X", rate="2 + 8*(t >= 1.437)").reaction("X -> 0", rate=1.0).build()
    _, rows, reports = follow(tdvp_job(net, 2.0, time__report=[1.1, 2.0]))
    assert {1.1, 1.437, 2.0} <= {row["t"] for row in rows}
    assert all(distance <= 1e-3 for _, distance, _ in reports)


def test_stiff_rates_cost_no_small_steps():
    """X and Y exchange at 1e5 a second, X is born and dies at about one: no step follows the exchange."""
    builder = ModelBuilder("stiff").species("X", initial=0, max=30).species("Y", initial=0, max=30)
    builder.reaction("0 -> X", rate=4.0).reaction("X -> 0", rate=1.0)
    net = builder.reaction("X -> Y", rate=1e5).reaction("Y -> X", rate=1e5).build()
    _, rows, reports = follow(tdvp_job(net, 4.0, time__report=[0.5, 4.0]))
    assert all(distance <= 0.003 and distance <= bound for _, distance, bound in reports)
    assert len(rows) < 40


def test_a_network_that_cannot_hold_the_law_says_so_and_stays(monkeypatch):
    monkeypatch.setattr(module, "_HOPELESS", 1e-9)
    evolution = evolution_of(tdvp_job("toggle", 1.0))
    before, t = evolution.scheme.flat().clone(), evolution.t
    with pytest.raises(NumericalError, match=r"cannot hold the law .* total variation distance of .*network.width"):
        evolution.run()
    assert torch.equal(evolution.scheme.flat(), before) and evolution.t == t and evolution.step == 0


def test_steps_are_shortened_where_the_law_moves_far(monkeypatch):
    """A hundred counts that all die within a short time: laws one doubling of the time apart hardly overlap."""
    net = ModelBuilder("deaths").species("X", initial=100, max=100).reaction("X -> 0", rate=1.0).build()
    evolution, rows, reports = follow(tdvp_job(net, 3.0))
    assert max(row["rejected"] for row in rows) > 0
    p = exact(net, 3.0)
    assert reports[-1][1] <= 0.002 and abs(p[1].sum() - 1.0) < 1e-10
    monkeypatch.setattr(module, "_FARTHEST", -1.0)
    evolution = evolution_of(tdvp_job(net, 3.0))
    with pytest.raises(NumericalError, match="moves too far"):
        evolution.run()


def test_exact_sums_out_of_reach_are_refused():
    with pytest.raises(InputError, match=r"solver\.integrator = .exponential. needs sums over all reachable states"):
        tdvp_job("toggle", 1.0, solver__integrator="exponential", sampling__exact_states=1000)
    with pytest.raises(InputError, match=r"but sampling\.exact = false"):
        tdvp_job("toggle", 1.0, solver__integrator="exponential", sampling__exact=False)


@torch.no_grad()
def test_a_step_forgets_how_the_last_one_was_computed():
    """Restored from its state, a scheme takes bitwise the same step, wherever the propagator had been before."""
    for name in NAMES:
        job = tdvp_job(name, 1.0)
        first, second = evolution_of(job), evolution_of(job)
        t = first.t + first.scheme.advance(0, first.t, 0.2).dt
        state = first.scheme.state()
        first.scheme.advance(1, t, 0.2)
        second.scheme.restore(state)
        second.scheme.advance(1, t, 0.2)
        assert torch.equal(first.scheme.flat(), second.scheme.flat())
        assert first.scheme.h == second.scheme.h


@torch.no_grad()
def test_where_the_fit_starts_hardly_matters():
    """The minimum is unique: from other parameters the same law comes out."""
    evolution = evolution_of(tdvp_job("toggle", 1.0))
    scheme, net = evolution.scheme, model("toggle")
    parameters = HeadParameters(scheme.network)
    begin = parameters.get()
    states = torch.from_numpy(all_states(net.limits))
    found = []
    for shift in (0.0, 1e-3):
        parameters.set(begin + shift * torch.sin(torch.arange(len(begin), dtype=torch.float64)))
        logq = scheme._all(scheme.tree.log_prob())
        target, *_ = scheme._propagate(torch.zeros_like(logq) + found[0] if found else logq, 0.2, 0.2)
        if not found:
            found.append(logq)
        parameters.set(begin + shift * torch.sin(torch.arange(len(begin), dtype=torch.float64)))
        module.fit_conditionals(
            parameters, scheme.tree, target, pull=module._PULL, accuracy=module._ACCURACY, iterations=100
        )
        found.append(scheme.network.log_prob(states).exp())
    assert float((found[1] - found[2]).abs().sum()) < 1e-6


def test_totals_downstream_hold_what_many_weak_correlations_add_up_to():
    """Saturating conversions, products first: with the total of what lies further downstream every variance is right,
    though a conditional sees one neighbour only. Without it the last one is too broad by more than 1 %."""
    builder = ModelBuilder("saturating")
    for i in range(1, 6):
        builder.species(f"X{i}", initial=0, max=6 if i < 5 else 10)
    builder.reaction("0 -> X1", rate=5.0)
    for i in range(1, 5):
        builder.reaction(f"X{i} -> X{i + 1}", propensity=f"where(X{i} >= 1, 3 + 2*X{i}, 0)")
    builder.reaction("X5 -> 0", rate=1.0)
    net = builder.build()
    solution = solve_fsp(net, np.array([2.0]), reflecting=True)

    def sd(p):
        return np.sqrt(p @ (solution.states - p @ solution.states) ** 2)

    right, off = sd(solution.p[-1]), {}
    for far in (False, True):
        order = [f"X{i}" for i in range(5, 0, -1)]
        job = tdvp_job(net, 2.0, **({"network__far": True} if far else {"network__sight": 1, "network__order": order}))
        assert job["network.sight"] == 1
        evolution, _, _ = follow(job, exact=False)
        off[far] = np.abs(sd(law_of(evolution.scheme.network, solution.states)) / right - 1.0)
    assert off[True].max() < 0.001
    assert off[False][-1] > 0.01
