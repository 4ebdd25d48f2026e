"""Scheme `tdvp`: its matrices against dense formulas, its integrators' order, and whole runs against exact laws."""

import numpy as np
import pytest
import torch
from solver_cases import (
    WORLD,
    all_states,
    evolution_of,
    follow,
    job_of,
    model,
    random_network,
    tdvp_job,
    total_variation,
)

from hpcme.dynamics import flow as flow_module
from hpcme.dynamics.covering import Cloud
from hpcme.dynamics.enumeration import HostEnumeration
from hpcme.dynamics.flow import Flow
from hpcme.dynamics.integrators import Settings
from hpcme.dynamics.start import fit_heads
from hpcme.dynamics.tangent import HeadParameters
from hpcme.dynamics.tdvp import INTEGRATORS
from hpcme.errors import NumericalError
from hpcme.exact.fsp import build_generator
from hpcme.model.builder import ModelBuilder
from hpcme.networks.build import build_support

# ---- matrices --------------------------------------------------------------------------------------------------


@pytest.fixture
def mild():
    """A network on the closed model whose states all have a probability of 1e-4 and more: none counts as rare, so none
    is thinned out in the matrices and the dense formulas hold to rounding."""
    net = model("closed")
    order = [2, 0, 1]
    network = random_network("basis", net.limits, order, build_support(net, order, 10**5, 2.0))
    parameters = HeadParameters(network)
    parameters.set(0.15 * parameters.get())
    states = all_states(net.limits)
    states = torch.from_numpy(states[states.sum(axis=1) == 12])
    with torch.no_grad():
        assert float(network.log_prob(states).exp().min()) > 1e-4
    return net, network, parameters, states


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("part", ["all", "some"])
@torch.no_grad()
def test_sums_equal_dense_formulas(mild, coupled, part, monkeypatch):
    monkeypatch.setattr(flow_module, "_CHUNK", 3000)  # several chunks
    net, _network, parameters, states = mild
    random = np.random.default_rng(0)
    n = states if part == "all" else states[torch.from_numpy(random.permutation(len(states))[:40])]
    cloud = Cloud(parameters, HostEnumeration(net), n, 0.0)
    cloud.weight = torch.from_numpy(random.uniform(0.5, 2.0, len(n)))
    flow = Flow(cloud, parameters, WORLD, coupled)
    q = flow.density()
    D, q_all, w = len(n), q.numpy(), cloud.weight.numpy()
    every = cloud.states.numpy()
    O = torch.cat([cloud.tree.scores(i, slice(None)) for i in range(3)], dim=1).numpy()
    A = build_generator(net, every, 0.0, reflecting=True)[0].toarray()[:D]
    inflow = A.copy()
    inflow[np.arange(D), np.arange(D)] = 0.0  # no reaction of this model leads from a state to itself
    exits = HostEnumeration(net).outflow(n, 0.0, 0.0)[0].sum(dim=1).numpy()
    np.testing.assert_allclose(cloud.a0.numpy(), exits)
    Aq = inflow @ q_all - exits * q_all[:D]
    np.testing.assert_allclose(cloud.balance(q).numpy(), Aq, atol=1e-13)
    F = O[:D].T @ (w * Aq)
    np.testing.assert_allclose(flow.project(cloud.balance(q)).numpy(), F, atol=1e-12)
    assert flow.total(q[:D]) == pytest.approx(float(w @ q_all[:D]), rel=1e-12)
    L = torch.from_numpy(q_all[:D] * random.uniform(0.6, 1.5, D))
    assert float((cloud.weight * L).min()) > flow_module._RARE / D
    leave = torch.from_numpy(q_all[:D] * random.uniform(0.5, 3.0, D))
    S, K = flow.matrices(L, q, leave)
    dense_S = O[:D].T @ ((w * L.numpy())[:, None] * O[:D])
    dense_K = O[:D].T @ (w[:, None] * (inflow @ (q_all[:, None] * O) - leave.numpy()[:, None] * O[:D]))
    groups = [slice(0, parameters.size)] if coupled else [parameters.slice(i) for i in range(3)]
    assert len(S) == len(K) == len(groups)
    for i, at in enumerate(groups):
        np.testing.assert_allclose(S[i].numpy(), dense_S[at, at], atol=1e-11)
        np.testing.assert_allclose(K[i].numpy(), dense_K[at, at], atol=1e-11)
    S_only, none = flow.matrices(L, q)
    assert none == [] and all(torch.equal(a, b) for a, b in zip(S, S_only, strict=True))


@torch.no_grad()
def test_rare_states_are_thinned_without_moving_the_matrices():
    """Rare states together carry less than 1e-3: matrices with and without thinning agree to that order, and the
    equations (F) do not change at all."""
    net = model("toggle")
    network = random_network("basis", net.limits, [0, 1, 2, 3])
    parameters = HeadParameters(network)
    cloud = Cloud(parameters, HostEnumeration(net), torch.from_numpy(all_states(net.limits)), 0.0)
    flow = Flow(cloud, parameters, WORLD, True)
    q = flow.density()
    used, _ = flow._rows(q)
    assert len(used) < 0.9 * cloud.D
    S = flow.matrices(q, q)[0][0]
    O = torch.cat([cloud.tree.scores(i, slice(None)) for i in range(4)], dim=1)[: cloud.D]
    dense = O.T @ (q[: cloud.D, None] * O)
    assert float((S - dense).norm() / dense.norm()) < 5e-3


@torch.no_grad()
def test_k_minus_motion_of_the_metric_is_the_derivative_of_the_equations(mild):
    """K with leave = a0 q is dF/dtheta but for the second derivatives of log q, which A q meets: here along one v, by
    differences of F(theta) = O^T A q with the scores held fixed."""
    net, _network, parameters, states = mild
    cloud = Cloud(parameters, HostEnumeration(net), states, 0.0)
    flow = Flow(cloud, parameters, WORLD, True)
    q = flow.density()
    O = torch.cat([cloud.tree.scores(i, slice(None)) for i in range(3)], dim=1)
    K = flow.matrices(q, q, q * cloud.a0)[1][0]
    theta, v, eps = parameters.get(), torch.from_numpy(np.random.default_rng(0).normal(size=parameters.size)), 1e-5
    found = []
    for sign in (1, -1):
        parameters.set(theta + sign * eps * v)
        found.append(O.T @ cloud.balance(flow.density()))
    parameters.set(theta)
    np.testing.assert_allclose((K @ v).numpy(), ((found[0] - found[1]) / (2 * eps)).numpy(), atol=1e-7)


# ---- integrators -----------------------------------------------------------------------------------------------


def birth_death(initial=3, largest=30, birth=6.0):
    builder = ModelBuilder("birth_death").species("X", initial=initial, max=largest)
    return builder.reaction("0 -> X", rate=birth).reaction("X -> 0", rate=1.0).build()


def fixed_steps(name, steps, end, settings, driven):
    """log q of all states after equal steps from a Poisson law of mean 4, float64 [31], and that law."""
    net = birth_death() if not driven else ModelBuilder("driven").species("X", initial=3, max=30).reaction(
        "0 -> X", rate="6*(1 + 0.5*sin(2*t))").reaction("X -> 0", rate=1.0).build()  # fmt: skip
    network = random_network("basis", net.limits, [0])
    states = all_states(net.limits)
    count = states[:, 0]
    log_p = count * np.log(4.0) - np.array([np.log(np.arange(1, k + 1)).sum() for k in count])
    fit_heads(network, states, np.exp(log_p))
    parameters = HeadParameters(network)
    cloud = Cloud(parameters, HostEnumeration(net), torch.from_numpy(states), 0.0)
    flow = Flow(cloud, parameters, WORLD, True)
    integrator = INTEGRATORS[name](settings)
    h = end / steps
    for k in range(steps):
        with torch.no_grad():
            outcome = integrator.step(flow, k * h, h, None)
        assert outcome is not None, (steps, k)
    with torch.no_grad():
        return network.log_prob(torch.from_numpy(states)).numpy()


@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize("name", INTEGRATORS)
def test_integrators_have_their_order(name, driven, monkeypatch):
    # Which states are thinned out changes from step to step: a jump of the metric, which is no part of the method.
    monkeypatch.setattr(flow_module, "_RARE", 0.0)
    # Newton's method of the implicit rule stops at a share of the tolerance, far below the errors looked at.
    settings = Settings(1e-4, 1e-6, 1e-7) if name == "implicit" else Settings(1e-7, 1e-10, 1e-10)
    steps = {"implicit": 4, "waveform": 2}.get(name, 8)
    end = 0.8 if name in ("implicit", "waveform") and not driven else 0.4
    logs = [fixed_steps(name, steps * k, end, settings, driven) for k in (1, 2, 4, 16)]
    q = np.exp(logs[-1])
    errors = [np.sqrt(q @ (log - logs[-1]) ** 2) for log in logs[:-1]]
    less = 7 if name == "waveform" else 3  # 16 and 4 in the limit
    assert errors[0] < 0.05 and errors[0] > less * errors[1] and errors[1] > less * errors[2]


# ---- whole runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exponential", "implicit"])
@pytest.mark.parametrize("seed", range(3))
def test_exact_sums_follow_the_toggle(seed, name):
    keys = {"time__report": [0.5, 1.0, 2.0], "run__seed": seed, "solver__integrator": name}
    _, _, reports = follow(tdvp_job("toggle", 2.0, **keys))
    assert [t for t, _, _ in reports] == [0.5, 1.0, 2.0]
    for _, distance, bound in reports:
        assert distance <= (0.01 if name == "exponential" else 0.02) and distance <= bound


@pytest.mark.parametrize("seed", range(2))
def test_sampled_sums_follow_the_toggle(seed):
    _, _, reports = follow(tdvp_job("toggle", 2.0, sampling__exact=False, run__seed=seed))
    assert reports[-1][1] <= 0.03 and reports[-1][1] <= reports[-1][2]


@pytest.mark.parametrize("name", ["implicit", "ros2", "rkc2"])
def test_every_stable_integrator_follows_birth_and_death(name):
    _, _, reports = follow(tdvp_job(birth_death(), 2.0, solver__integrator=name))
    assert reports[-1][1] <= 0.01


def test_a_tolerance_that_cannot_be_met_is_an_error_and_leaves_the_law():
    evolution = evolution_of(job_of("closed", 1.0, solver__scheme="tdvp", solver__integrator="implicit"))
    scheme, t = evolution.scheme, evolution.t
    before, asked = scheme.flat().clone(), []

    def step(flow, t, h, predict):
        asked.append(h)
        flow.parameters.set(flow.parameters.get() + 1.0)  # as a step that fails leaves them
        return None

    scheme.integrator.step = step
    with pytest.raises(NumericalError, match="does not follow the law"):
        evolution.run()
    assert torch.equal(scheme.flat(), before) and evolution.t == t and evolution.step == 0
    assert len(asked) > 10 and all(np.diff(asked) < 0)


def test_steps_that_fail_at_first_do_not_spoil_the_law():
    evolution = evolution_of(tdvp_job("driven", 1.0, solver__integrator="implicit", network__order=["X", "Y"]))
    scheme, step, failed = evolution.scheme, evolution.scheme.integrator.step, []

    def sometimes(flow, t, h, predict):
        if len(failed) < 3:
            failed.append(h)
            flow.parameters.set(flow.parameters.get() + 0.3)
            return None
        return step(flow, t, h, predict)

    scheme.integrator.step = sometimes
    assert evolution.run() and len(failed) == 3
    assert total_variation(scheme.network, model("driven"), 1.0) <= 0.01


def test_steps_land_on_reports_and_switches():
    builder = ModelBuilder("switched").species("X", initial=3, max=30)
    net = builder.reaction("0 -> X", rate="2 + 8*(t >= 1.437)").reaction("X -> 0", rate=1.0).build()
    assert net.switch_times(2.0).tolist() == [1.437]
    _, rows, reports = follow(tdvp_job(net, 2.0, time__report=[1.1, 2.0], solver__integrator="implicit"))
    ends = [row["t"] for row in rows]
    assert all(np.diff(ends) > 0)
    assert {1.1, 1.437, 2.0} <= set(ends) and [t for t, _, _ in reports] == [1.1, 2.0]
    assert reports[-1][1] <= 0.02


def test_driven_rates_are_followed():
    _, _, reports = follow(tdvp_job("driven", 1.5, solver__integrator="implicit", network__order=["X", "Y"]))
    assert reports[-1][1] <= 0.01 and reports[-1][1] <= reports[-1][2]


def test_conservation_is_exact_in_every_sample():
    evolution, _, reports = follow(tdvp_job("closed", 0.5, sampling__exact=False))
    u = torch.from_numpy(np.random.default_rng(0).random((200_000, 3)))
    n, _ = evolution.scheme.network.sample(u)
    assert bool((n.sum(dim=1) == 12).all()) and int(n.min()) >= 0
    assert reports[-1][1] <= 0.03 and reports[-1][1] <= reports[-1][2]
