"""The target of a step: equal to the dense Taylor polynomial, at most one frozen evaluation per distinct state."""

import math

import numpy as np
import pytest
import torch
from solver_cases import MODELS, all_states, evolution_of, job_of, model, random_network

from hpcme import load_job
from hpcme.dynamics.enumeration import DeviceEnumeration, HostEnumeration
from hpcme.dynamics.target import MAX_EXITS, MIN_RATIO, Target
from hpcme.errors import InputError
from hpcme.kernels.dedup import StateTable
from hpcme.kernels.neighbours import outflow
from hpcme.kernels.propensity import propensities
from hpcme.model.reader import load_model_text
from hpcme.networks.build import build_support


def dense_generator(net, states, t0, t1):
    """Reflecting generator on all states of the box, float64 [M, M], averaged over [t0, t1] by many points."""
    table = StateTable(net.S)
    table.add(states)
    A = np.zeros((len(states), len(states)))
    points, weights = np.polynomial.legendre.leggauss(12)
    for x, w in zip(points, weights, strict=True):
        a, _ = outflow(net.tables, states, net.s, net.limits, t0 + (x + 1) / 2 * (t1 - t0))
        for k in range(net.R):
            there = a[:, k] > 0
            A[table.find(states[there] + net.s[k].astype(np.int32)), np.flatnonzero(there)] += w / 2 * a[there, k]
            A[np.flatnonzero(there), np.flatnonzero(there)] -= w / 2 * a[there, k]
    return A


def frozen_network(net, seed=0):
    order = list(range(net.S))
    return random_network("gru", net.limits, order, build_support(net, order, 10**5, 2.0), seed=seed)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("enumerate_with", [HostEnumeration, lambda net: DeviceEnumeration(net, torch.device("cpu"))])
def test_target_is_the_dense_taylor_polynomial(name, order, enumerate_with):
    net = model(name)
    network = frozen_network(net)
    states = all_states(net.limits)
    with torch.no_grad():
        q = network.log_prob(torch.from_numpy(states)).exp().numpy()
    t, dt = 0.3, 0.004
    A = dense_generator(net, states, t, t + dt)
    term, expected = q.copy(), q.copy()
    for j in range(1, order + 1):
        term = A @ term * dt / j
        expected = expected + term
    target = Target(enumerate_with(net), lambda n: network.log_prob(n).detach(), t, dt, order)
    positive = np.flatnonzero((q > 0) & (expected > 0))
    asked = np.random.default_rng(1).choice(positive, 150)
    value = target.log_target(target.number(torch.from_numpy(states[asked]))).numpy()
    # 3-point Gauss against 12 points: the rates of `driven` vary by sin(3 t) over dt = 0.004
    assert np.allclose(np.exp(value), expected[asked], rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_pushed_density_is_that_of_one_random_transition(name):
    net = model(name)
    network, states = frozen_network(net), all_states(net.limits)
    with torch.no_grad():
        q = network.log_prob(torch.from_numpy(states)).exp().numpy()
    A = dense_generator(net, states, 0.1, 0.2)
    a0 = -np.diag(A)
    J = np.where(a0 > 0, 1.0, 0.0) * (A + np.diag(a0)) / np.where(a0 > 0, a0, 1.0) + np.diag(a0 == 0)
    expected = J @ q
    target = Target(HostEnumeration(net), lambda n: network.log_prob(n).detach(), 0.1, 0.1, 1, push=True)
    asked = np.flatnonzero((q > 0) & (expected > 0))[::3]
    value = target.log_push(target.number(torch.from_numpy(states[asked]))).numpy()
    assert np.allclose(np.exp(value), expected[asked], rtol=1e-10)
    assert abs(expected.sum() - 1) < 1e-12


def test_jump_takes_reactions_by_their_propensities_and_stays_inside():
    net = model("toggle")
    enumeration = HostEnumeration(net)
    state = torch.tensor([[1, 1, 24, 5]], dtype=torch.int32)  # Px is at its limit: its production is not possible
    N = 40_000
    u = torch.from_numpy((np.arange(N) + 0.5) / N)
    moved = enumeration.jump(state.expand(N, -1), u, 0.0, 0.0)
    a, leak = outflow(net.tables, state.numpy(), net.s, net.limits, 0.0)
    assert leak[0] == 8.0
    for k in range(net.R):
        share = (moved == state + enumeration.changes[k]).all(1).double().mean()
        assert abs(share - a[0, k] / a.sum()) < 2 / N
    still = load_model_text(
        '[model]\nname="d"\n[species]\nX = {initial=1,max=3}\n[[reactions]]\nequation="X -> 0"\nrate=1\n', "d"
    )
    empty = torch.zeros(5, 1, dtype=torch.int32)
    assert torch.equal(HostEnumeration(still).jump(empty, torch.rand(5).double(), 0.0, 0.0), empty)


def test_every_distinct_state_is_evaluated_at_most_once_per_step():
    evolution = evolution_of(job_of("toggle", 0.6))
    scheme = evolution.scheme
    asked = []
    own = scheme._frozen_log_prob
    scheme._frozen_log_prob = lambda n: asked.append(n.clone()) or own(n)
    for _ in range(3):
        asked.clear()
        row = evolution._advance()
        states = torch.cat(asked)
        assert len(torch.unique(states, dim=0)) == len(states) == row["evaluations"] == row["distinct"]
        assert len(asked) <= row["epochs"]


def test_steps_are_shortened_until_the_target_is_positive_and_nothing_is_evaluated_again():
    net = model("toggle")
    network = frozen_network(net)
    calls = []
    target = Target(
        HostEnumeration(net), lambda n: calls.append(len(n)) or network.log_prob(n).detach(), 0.0, 1.0, 1
    )
    index = target.number(torch.from_numpy(all_states(net.limits)[::7]))
    assert torch.isnan(target.log_ratio(index)).any()  # 1 - dt a0 < 0 at many states
    assert torch.isnan(target.log_ratio(index)[target.a0[index] > MAX_EXITS[1]]).all()
    dt = target.admissible_step()
    assert dt in [0.5**j for j in range(1, 30)]
    before = sum(calls)
    target.dt = dt
    assert (target.log_ratio(index) >= math.log(MIN_RATIO)).all()
    target.dt = 2 * dt
    assert not (target.log_ratio(index) >= math.log(MIN_RATIO)).all()
    assert sum(calls) == before


def test_a_shortened_step_averages_time_dependent_rates_over_what_is_left():
    net, t = model("driven"), 0.2
    network = frozen_network(net)
    states = torch.from_numpy(all_states(net.limits)[::5])
    asked = []

    def frozen(n):
        asked.append(n)
        return network.log_prob(n).detach()

    shortened = Target(HostEnumeration(net), frozen, t, 0.8, 2)
    shortened.number(states)
    evaluations = shortened.evaluations
    shortened.shorten(0.01)
    value = shortened.log_ratio(shortened.number(states))
    fresh = Target(HostEnumeration(net), lambda n: network.log_prob(n).detach(), t, 0.01, 2)
    assert torch.equal(value, fresh.log_ratio(fresh.number(states)))
    assert shortened.evaluations == evaluations == sum(map(len, asked))


def test_a_rate_that_rises_within_the_step_shortens_it():
    text = (
        '[model]\nname="rise"\n[species]\nX = {initial=2,max=90}\n[[reactions]]\nequation="0 -> X"\n'
        'rate="2 + 58/(1 + exp(-1000*(t - 1)))"\n[[reactions]]\nequation="X -> 0"\nrate=1\n'
    )
    job = load_job({"model": load_model_text(text, "rise")}, overrides={
        "solver.scheme": "projection", "time.end": 1.4, "time.report": [0.95, 1.4], "sampling.samples": 2000,
        "network.width": 12, "output.report_samples": 200})  # fmt: skip
    evolution = evolution_of(job)
    rows, advance = [], evolution._advance
    evolution._advance = lambda: rows.append(advance()) or rows[-1]
    evolution.run()
    over = [row["dt"] for row in rows if row["t"] - row["dt"] < 1.0 < row["t"]]
    assert max(over) < 0.02  # 0.5 transitions at a rate above 60
    n, _ = evolution.scheme.network.sample(torch.from_numpy(np.random.default_rng(1).random((40_000, 1))))
    exact = 2.0 * np.exp(-0.4) + 60.0 * (1 - np.exp(-0.4))
    assert float(n.double().mean()) == pytest.approx(exact, rel=0.03)


def test_a_step_too_long_is_shortened_and_the_series_says_so():
    evolution = evolution_of(job_of("toggle", 2.0, solver__dt=1.0, solver__order=1))
    row = evolution._advance()
    assert row["shortened"] >= 1 and row["dt"] < 1.0 and evolution.t < 1.5
    assert evolution.scheme.length.longest == pytest.approx(1.5 * row["dt"])


def test_a_negative_propensity_is_refused_with_state_and_reaction():
    net = load_model_text(
        '[model]\nname="bad"\n[species]\nX = {initial=1,max=9}\n[[reactions]]\nequation="0 -> X"\npropensity="3 - X"\n'
        '[[reactions]]\nequation="X -> 0"\nrate=1\n', "bad",
    )  # fmt: skip
    for enumeration in (HostEnumeration(net), DeviceEnumeration(net, torch.device("cpu"))):
        with pytest.raises(InputError, match=r"reaction 1 .*propensity -[1-5]\.0 at X = [4-8]"):
            enumeration.inflow(torch.tensor([[5], [6], [9]], dtype=torch.int32), 0.0, 0.0)


@pytest.mark.parametrize("name", MODELS)
def test_device_numbering_agrees_with_the_host(name):
    net = model(name)
    host, device = HostEnumeration(net).new_index(), DeviceEnumeration(net, torch.device("cpu")).new_index()
    hashed = DeviceEnumeration(net, torch.device("cpu")).new_index()
    object.__setattr__(hashed.tt, "radix", None)  # as for a box whose states do not fit one int64
    random = np.random.default_rng(3)
    for _ in range(6):
        n = torch.from_numpy(random.integers(0, net.limits + 1, (200, net.S)).astype(np.int32))
        expected = host.add(n)
        for index in (device, hashed):
            got = index.add(n)
            assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


def test_inflow_is_the_reverse_of_outflow():
    net = model("closed")
    states = all_states(net.limits)
    row, reaction, y, rate = (x.numpy() for x in HostEnumeration(net).inflow(torch.from_numpy(states), 0.0, 0.0))
    assert np.array_equal(y + net.s[reaction], states[row])
    assert np.array_equal(rate, propensities(net.tables, y, 0.0)[np.arange(len(y)), reaction])
    a, _ = outflow(net.tables, states, net.s, net.limits, 0.0)
    assert len(rate) == (a > 0).sum() and rate.sum() == pytest.approx(a.sum(), rel=1e-12)
