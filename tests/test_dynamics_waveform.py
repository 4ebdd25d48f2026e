"""Exponential collocation on covering samples, for many species."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
import torch
from solver_cases import all_states, evolution_of, follow, job_of, tdvp_job

from hpcme import load_job
from hpcme.dynamics.anderson import Anderson
from hpcme.dynamics.blocknewton import BlockNewton
from hpcme.dynamics.covering import Coverage
from hpcme.dynamics.duhamel import Duhamel, _phi
from hpcme.dynamics.flow import Flow
from hpcme.dynamics.tangent import StateTree
from hpcme.dynamics.transport import Transport, Ways
from hpcme.dynamics.waveform import Waveform, _Course
from hpcme.errors import NumericalError
from hpcme.model.builder import ModelBuilder
from hpcme.networks.heads import choose_head

LINKS = 8


def chain(limit=9):
    """Births of X1 at rate 4, X1 -> X2 -> ... at rate 3, deaths at rate 1: product of Poisson laws at all times."""
    builder = ModelBuilder("chain")
    for i in range(1, LINKS + 1):
        builder.species(f"X{i}", initial=0, max=limit)
    builder.reaction("0 -> X1", rate=4.0)
    for i in range(1, LINKS + 1):
        builder.reaction(f"X{i} -> 0", rate=1.0)
        if i < LINKS:
            builder.reaction(f"X{i} -> X{i + 1}", rate=3.0)
    return builder.build()


def means(t):
    M = np.diag([-4.0] * (LINKS - 1) + [-1.0, 0.0]) + np.diag([3.0] * (LINKS - 1) + [0.0], -1)
    M[0, LINKS] = 4.0
    return scipy.linalg.expm(M * t)[:LINKS, LINKS]


def chain_job(end, **overrides):
    keys = {"time.end": end, "time.report": [end], "output.report_samples": 200, "solver.start_jumps": 3.0}
    return load_job({"model": chain()}, overrides=keys | {k.replace("__", "."): v for k, v in overrides.items()})


def divergence(network, t):
    """KL(exact || q) by samples of the exact law, and its standard error."""
    n = np.random.default_rng(1).poisson(means(t), size=(20_000, LINKS)).astype(np.int32)
    n = n[(n <= 9).all(axis=1)]
    exact = scipy.stats.poisson.logpmf(n, means(t)).sum(axis=1) - scipy.stats.poisson.logcdf(9, means(t)).sum()
    with torch.no_grad():
        difference = exact - network.log_prob(torch.from_numpy(n)).numpy()
    return difference.mean(), difference.std() / np.sqrt(len(n))


def test_phi_functions():
    """phi_k(x) is the integral of exp(-x (1 - s)) s^(k-1) / (k-1)! over s in [0, 1]."""
    x = np.array([0.0, 1e-12, 1e-7, 1e-4, 9e-3, 0.49, 0.51, 3.0, 80.0])
    s, w = np.polynomial.legendre.leggauss(60)
    s, w = 0.5 * (s + 1), 0.5 * w
    for k, found in enumerate(_phi(torch.from_numpy(x))):
        exact = [(w * np.exp(-v * (1 - s)) * s**k).sum() / math.factorial(k) for v in x]
        np.testing.assert_allclose(found.numpy(), exact, rtol=1e-11)


@pytest.mark.parametrize(("power", "bound"), [(0.0, 1e-13), (2.0, 3e-4), (9.0, 2e-3), (-20.0, 5e-3)])
def test_the_integral_over_a_step(power, bound):
    """Flow in like (1 + s)^power over a step of 0.3, slow and fast exits: against quadrature."""
    exits, h = np.array([0.0, 1.0, 50.0, 300.0]), 0.3
    duhamel = Duhamel(torch.from_numpy(exits), h)
    g = [torch.full((4,), (1.0 + s) ** power, dtype=torch.float64) for s in (0.0, 0.5 * h, h)]
    found = duhamel.targets(torch.full((4,), 0.7, dtype=torch.float64), *g).numpy()
    for row, end in zip(found, (0.5 * h, h), strict=True):
        for value, a in zip(row, exits, strict=True):
            integral = scipy.integrate.quad(lambda s, a=a, end=end: np.exp(-a * (end - s)) * (1 + s) ** power, 0, end)
            assert value == pytest.approx(0.7 * np.exp(-a * end) + integral[0], rel=bound)


@pytest.mark.parametrize("a", [0.0, 5.0])
def test_the_law_of_one_step_has_order_four(a):
    """Half the step, a 32nd of the error of one step."""
    errors = []
    for h in (0.2, 0.1, 0.05):
        g = [torch.tensor([(1.0 + s) ** 9], dtype=torch.float64) for s in (0.0, 0.5 * h, h)]
        exact, _ = scipy.integrate.quad(lambda s, h=h: np.exp(-a * (h - s)) * (1 + s) ** 9, 0, h, epsabs=1e-14)
        T = Duhamel(torch.tensor([a], dtype=torch.float64), h).targets(torch.zeros(1, dtype=torch.float64), *g)
        errors.append(abs(float(T[1, 0]) - exact))
    assert errors[0] > 28 * errors[1] > 28**2 * errors[2]


def test_flow_that_appears_within_a_step_does_not_overshoot():
    """log g = -690, -23, -11 at the nodes: a parabola through these would peak at e^65."""
    g = [torch.tensor([v], dtype=torch.float64) for v in (0.0, 1e-10, 1e-5)]
    T = Duhamel(torch.tensor([1.0], dtype=torch.float64), 1.0).targets(torch.zeros(1, dtype=torch.float64), *g)
    assert 0.0 < float(T[0, 0]) <= 1e-10 and 0.0 < float(T[1, 0]) <= 1e-5


def test_acceleration_solves_a_linear_problem_in_as_many_steps_as_it_has_dimensions():
    """Walker and Ni 2011: Anderson's acceleration with enough memory is GMRES. Plain iteration would need thousands."""
    eigenvalues = torch.tensor([0.999, 0.9, 0.5, -0.3], dtype=torch.float64)
    goal = torch.tensor([1.0, -2.0, 3.0, 4.0], dtype=torch.float64)
    memory, x = Anderson(evolution_of(chain_job(1.0)).world, 4, 8), torch.zeros(4, dtype=torch.float64)
    for _ in range(7):
        f = (eigenvalues - 1.0) * (x - goal)
        step = memory.extended(torch.cat([f, f]))
        memory.take(step)
        x = x + step[:4]
    assert torch.allclose(x, goal, atol=1e-6)


def test_how_targets_follow_the_flow_in_is_their_derivative():
    rng = np.random.default_rng(3)
    a, q, *g = (torch.from_numpy(rng.uniform(0.1, 3.0, 40)) for _ in range(5))
    a[:4] = torch.tensor([0.0, 1e-9, 40.0, 300.0])
    g[1][:10] *= 5.0  # some are straight lines
    duhamel = Duhamel(a, 0.7)
    follow, e = duhamel.follow(q, *g), 1e-6
    for b in range(2):
        up, down = [g[0], *(x.clone() for x in g[1:])], [g[0], *(x.clone() for x in g[1:])]
        up[1 + b] *= np.exp(e)
        down[1 + b] *= np.exp(-e)
        slope = (duhamel.targets(q, *up).log() - duhamel.targets(q, *down).log()) / (2 * e)
        np.testing.assert_allclose(follow[:, b].numpy(), slope.numpy(), atol=1e-7)


@pytest.mark.parametrize("far", [False, True])
def test_transport_is_how_the_flow_in_follows_the_heads(far):
    """d log g along d, by differences, is u + Y d; rates of reactions that a conditional does not see drop out.

    With a total of counts far off this holds nearly: what changes through it alone is left out.
    """
    job = chain_job(1.0, sampling__samples=150, network__sight=1, network__far=far, sampling__shards=6)
    evolution = evolution_of(job)
    scheme = evolution.scheme
    cloud = scheme._cloud(1, evolution.t, 0.01)[0]
    parameters, tree = scheme.parameters, cloud.tree
    theta, density = parameters.get(), tree.log_prob().exp()
    g = cloud.inflow @ density
    share = cloud.rate * density[cloud.source] / g[cloud.row]
    rng, e = np.random.default_rng(0), 1e-5
    for i in range(LINKS):
        own = parameters.slice(i)
        d = torch.from_numpy(rng.standard_normal((1, own.stop - own.start)))
        transport, scores = Transport(cloud, Ways(cloud, i), share), tree.score_factors(i, slice(0, cloud.D))
        u = scores.apply(d)
        found = u + transport.apply(d, u)
        dense = d[0] @ transport.rows(scores.rows())
        np.testing.assert_allclose(transport.apply(d, u)[0].numpy(), dense.numpy(), atol=1e-9)
        logs = []
        for sign in (1.0, -1.0):
            moved = theta.clone()
            moved[own] += sign * e * d[0]
            parameters.set(moved)
            logs.append((cloud.inflow @ tree.log_prob().exp()).log())
        parameters.set(theta)
        tree.log_prob()
        slope = (logs[0] - logs[1]) / (2 * e)
        if far:
            assert (found[0] - slope).norm() < 0.3 * slope.norm()
        else:
            np.testing.assert_allclose(found[0].numpy(), slope.numpy(), atol=1e-5 * float(d.abs().sum()))
        assert len(transport.flow.values()) < len(share)


@torch.no_grad()
def test_linear_equations_of_all_conditionals(monkeypatch):
    """Sweeps and their combinations end at the solution of the whole system, formed and solved densely."""
    monkeypatch.setattr("hpcme.dynamics.blocknewton._SWEEPS", 60)
    monkeypatch.setattr("hpcme.dynamics.blocknewton._SOLVED", 1e-9)
    evolution = evolution_of(chain_job(1.0, sampling__samples=150, network__sight=1))
    scheme = evolution.scheme
    cloud, parameters = scheme._cloud(1, evolution.t, 0.01)[0], scheme.parameters
    density = cloud.tree.log_prob().exp()
    share = cloud.rate * density[cloud.source] / (cloud.inflow @ density)[cloud.row]
    rng, D, P = np.random.default_rng(4), cloud.D, parameters.size
    base = torch.from_numpy(rng.random(D)) * density[:D]
    follow, rho, moved = (torch.from_numpy(rng.random(s)) for s in ((2, 2, D), (2, D), (2, P)))
    follow = 0.3 * follow
    ways = [Ways(cloud, i) for i in range(LINKS)]
    flow, kept = Flow(cloud, parameters, scheme.world, False), None
    for factor in (torch.ones(D), torch.from_numpy(rng.uniform(0.5, 2.0, D))):
        weight = factor * base
        newton = BlockNewton(flow, ways, weight, follow, share, 1e-4, 1e-3, kept)
        update, change = newton.solve(weight, rho, moved)
        assert newton.solved and (kept is None or newton.matrices is kept)  # which serve other weights too
        O = torch.cat([scores.dense() for scores in newton.scores], dim=1)
        Y = torch.cat([t.rows(s.rows()).T for t, s in zip(newton.transport, newton.scores, strict=True)], dim=1)
        ridges = newton.matrices.ridges
        W, ridge, rows = O.T * weight, torch.diag(ridges), []
        for k in range(2):
            blocks = [((k == c) * W @ O) - (W * follow[k, c]) @ (O + Y) + (k == c) * ridge for c in range(2)]
            rows.append(torch.cat(blocks, dim=1))
        right = torch.cat([W @ rho[k] - ridges * moved[k] for k in range(2)])
        exact = torch.linalg.solve(torch.cat(rows), right).view(2, P)
        np.testing.assert_allclose((exact @ O.T - change).abs().max().item(), 0.0, atol=1e-5)
        np.testing.assert_allclose((update @ O.T).numpy(), change.numpy(), atol=1e-9)
        kept = newton.matrices
    monkeypatch.setattr("hpcme.dynamics.blocknewton._SWEEPS", 1)
    once, solved = newton.solve(weight, rho, moved), newton.solved
    monkeypatch.setattr("hpcme.dynamics.blocknewton._SWEEPS", 60)
    small = newton.solve(weight, rho, moved, 1e9)  # what is small enough takes one sweep
    assert not solved and newton.solved and torch.equal(small[0], once[0])


def test_searches_are_lost_when_updates_stop_getting_smaller():
    def lost_after(sizes, cut=()):
        course = _Course()
        return next((k for k, size in enumerate(sizes) if course.lost(size, k in cut)), None)

    assert lost_after([1.0, 0.3, 0.1, 0.12, 0.08, 0.04, 1e-9]) is None
    assert lost_after([1.0, 0.1, 0.9, 1.1]) == 3  # grows
    assert lost_after([1.0, 0.1, 1.1, 0.2, 0.04], cut=(2,)) is None  # the update before was cut short
    assert lost_after([1.0, 0.9, 0.8, 0.7, 0.6, 0.55]) == 5  # hardly falls
    assert lost_after([1.0, 0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.25, 0.21, 0.205, 0.15]) is None
    assert lost_after([1.0, math.nan]) == 1 and lost_after([math.inf]) == 0


@torch.no_grad()
def test_a_count_that_is_about_to_appear_rises_in_time():
    """Next to no probability determines a species that the front has not reached; the ridge must not hold it back. Its
    marginal is the first conditional, products being first. (With the whole ridge 80 % of it is missing.)"""
    evolution, rows, _ = follow(chain_job(0.3, network__far=True, solver__start_jumps=1.0), exact=False)
    network, appeared = evolution.scheme.network, 1.0 - np.exp(-means(0.3)[-1])
    assert len(rows) > 2 and network.order[0] == LINKS - 1 and appeared < 1e-5
    logp = network.conditional(0, network.hidden(0, network.begin()), torch.zeros(1, dtype=torch.int64))
    assert 1.0 - float(logp[0, 0].exp()) == pytest.approx(appeared, rel=0.1)


def test_counts_that_no_conditional_gives_anything_are_left_out():
    evolution = evolution_of(chain_job(1.0, sampling__samples=300))
    scheme = evolution.scheme
    cloud = scheme._cloud(1, evolution.t, 0.01)[0]
    full = StateTree(scheme.parameters, cloud.states)
    narrow = cloud.tree
    assert [len(base) for base in narrow.bases] < [len(base) for base in full.bases]
    np.testing.assert_allclose(narrow.log_prob().numpy(), full.log_prob().numpy(), atol=1e-11)
    w = torch.from_numpy(np.random.default_rng(1).standard_normal(cloud.D))
    np.testing.assert_allclose(narrow.adjoint(w).numpy(), full.adjoint(w).numpy(), atol=1e-9)


def test_many_species_choose_it():
    job = chain_job(1.0)
    assert (job["solver.scheme"], job["solver.integrator"], job["network.head"]) == ("tdvp", "waveform", "smooth")
    scheme = evolution_of(job).scheme
    assert isinstance(scheme.integrator, Waveform)
    assert scheme.sampler.coverage == Coverage(5000, 0.5, 0.1, 0.3, 0, each=True)
    assert {type(head).__name__ for head in scheme.network.heads} == {"CoarseSplineHead"}
    flat = torch.full((5,), 0.2, dtype=torch.float64)
    assert choose_head("smooth", flat) == "categorical"  # limits up to 4


@pytest.mark.parametrize("seed", range(2))
def test_a_chain_of_eight_species_follows_its_product_of_poisson_laws(seed):
    """1e8 states. Fronts run along the chain: every species is invaded in turn, and none may lag behind."""
    evolution, rows, _ = follow(chain_job(1.5, run__seed=seed, sampling__samples=2500), exact=False)
    network = evolution.scheme.network
    kl, error = divergence(network, 1.5)
    assert kl <= 0.0005 + 3 * error
    n = network.sample(torch.from_numpy(np.random.default_rng(2).random((100_000, LINKS))))[0].double().numpy()
    limit = 0.02 * means(1.5) + 4 * n.std(axis=0) / np.sqrt(len(n))
    assert (np.abs(n.mean(axis=0) - means(1.5)) <= limit).all()
    assert len(rows) < 150


@torch.no_grad()
def test_a_restored_run_takes_bitwise_the_same_step():
    job = chain_job(1.0, sampling__samples=400)
    first, second = evolution_of(job), evolution_of(job)
    first._advance()
    second.restore(first.state())
    first._advance()
    second._advance()
    assert torch.equal(first.scheme.flat(), second.scheme.flat()) and first.t == second.t


@torch.no_grad()
def test_laws_that_are_not_found_are_not_taken(monkeypatch):
    """With too few updates for its length a step is refused and tried shorter, until they suffice."""
    evolution = evolution_of(chain_job(1.0, sampling__samples=400, solver__tolerance=0.0005))
    monkeypatch.setattr("hpcme.dynamics.waveform._MOST", 2)
    scheme, rest = evolution.scheme, 1.0 - evolution.t
    scheme.h = 0.3
    done = scheme.advance(1, evolution.t, rest)
    assert done.row["rejected"] >= 1 and done.dt < 0.3


def test_means_are_kept_by_steps_longer_than_states_live_where_the_network_cannot_hold_the_law():
    """M makes P, and no conditional sees the other species: the variational principle keeps both means all the same.

    The means' equations are linear, so that they end at 3 and 7.5. Were T - q fitted as it stands, states would count
    by how long they live, and the steps here, twenty lifetimes long, would end at 2.7 and 5.6.
    """
    builder = ModelBuilder("stages").species("M", initial=0, max=16).species("P", initial=0, max=30)
    builder.reaction("0 -> M", rate=3.0).reaction("M -> 0", rate=1.0)
    builder.reaction("M -> M + P", rate=2.0).reaction("P -> 0", rate=0.8)
    net = builder.build()
    job = tdvp_job(
        net, 12.0, solver__integrator="waveform", sampling__exact=False, sampling__samples=1500, solver__tolerance=0.05,
        network__sight=0, network__order=["M", "P"],
    )  # fmt: skip
    evolution, rows, _ = follow(job, exact=False)
    assert max(row["dt"] * row["a0"] for row in rows) > 20.0
    states = all_states(net.limits)
    with torch.no_grad():
        p = evolution.scheme.network.log_prob(torch.from_numpy(states)).exp().numpy()
    np.testing.assert_allclose(p @ states, [3.0, 7.5], rtol=0.02)


@torch.no_grad()
def test_laws_that_feed_back_on_themselves_are_found():
    """Few states leave much of the network open: updates that take the flow in as given refuse steps of this run."""
    keys = {"solver__scheme": "tdvp", "solver__start_jumps": 3.0, "solver__tolerance": 0.01, "network__width": 4}
    keys |= {"sampling__exact": False, "solver__ridge": 1e-7}
    job = job_of("toggle", 30.0, solver__integrator="waveform", sampling__samples=400, sampling__shards=7, **keys)
    evolution = evolution_of(job)
    t, rejected = evolution.t, 0
    for step in range(1, 13):
        done = evolution.scheme.advance(step, t, 30.0 - t)
        t, rejected = t + done.dt, rejected + done.row["rejected"]
    assert rejected == 0


def test_a_larger_ridge_is_tried_where_laws_are_not_found(monkeypatch):
    evolution = evolution_of(chain_job(1.0, sampling__samples=400))
    found, ridges = Waveform._found, []

    def watched(self, flow, duhamel, q0, g0, first, begin, laws, ways, ridge):
        ridges.append(ridge)
        # Every search begins where the tree stands, whatever the last one left there.
        assert torch.equal(flow.parameters.get(), first.x[1])
        if len(ridges) > 1:
            return found(self, flow, duhamel, q0, g0, first, begin, laws, ways, ridge)
        laws(first.x + 1.0)
        return None

    monkeypatch.setattr(Waveform, "_found", watched)
    done = evolution.scheme.advance(1, evolution.t, 0.01)
    assert ridges == pytest.approx([1e-6, 1e-5]) and done.row["rejected"] == 0
    # The next step, of this run or of one that continues it, begins near the ridge that helped.
    again = evolution_of(chain_job(1.0, sampling__samples=400))
    again.restore(evolution.state())
    for each in (evolution, again):
        ridges.clear()
        ridges.extend([0.0] * 2)
        each.scheme.advance(2, each.t + 0.01, 0.01)
        assert ridges[2:] == pytest.approx([1e-5 / 1.2])


@torch.no_grad()
def test_numbers_that_are_not_finite_fail_the_step_and_nothing_else():
    evolution = evolution_of(chain_job(1.0, sampling__samples=400))
    scheme, before = evolution.scheme, evolution.scheme.flat().clone()
    cloud = scheme._cloud

    def spoiled(step, t, h):
        found = cloud(step, t, h)
        found[0].weight[0] = torch.nan
        return found

    scheme._cloud = spoiled
    with pytest.raises(NumericalError, match="does not follow the law"):
        scheme.advance(0, evolution.t, 0.1)
    assert torch.equal(scheme.flat(), before)


def test_a_small_network_and_its_bound():
    """Exact sums, where the true distance is known."""
    keys = {"solver__integrator": "waveform", "solver__tolerance": 0.02}
    _, _, reports = follow(tdvp_job("driven", 1.0, **keys))
    assert reports[-1][1] <= 0.01 and reports[-1][1] <= reports[-1][2]


@pytest.mark.parametrize(("name", "end"), [("toggle", 0.3), ("closed", 0.6)])
def test_more_samples_leave_less_error(name, end):
    """Twice the samples, half the squared error: here four times as many, in eight seeds, against the exact law.
    The ratio of mean squared distances is 4 in theory; chance moves it by a factor of two."""
    found = []
    for samples in (60, 240) if name == "toggle" else (10, 40):
        keys = {"solver__integrator": "waveform", "sampling__exact": False, "sampling__samples": samples}
        distances = [follow(tdvp_job(name, end, run__seed=seed, **keys))[2][-1][1] for seed in range(8)]
        found.append(np.mean(np.square(distances)))
    assert found[0] > 2.0 * found[1]
