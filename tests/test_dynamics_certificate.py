"""The certificate: above the exact total variation, equal to a brute-force integral, sampled within its confidence."""

import copy

import numpy as np
import pytest
import scipy.stats
import torch
from solver_cases import all_states, model, random_network

from hpcme.dynamics import certificate as module
from hpcme.dynamics.certificate import Certificate
from hpcme.dynamics.enumeration import HostEnumeration
from hpcme.dynamics.sampler import FlatNetwork, Shards
from hpcme.errors import InternalError
from hpcme.exact.fsp import build_generator, solve_fsp
from hpcme.model.builder import ModelBuilder
from hpcme.networks import support as supports
from hpcme.networks.build import build_support
from hpcme.networks.made import MADE
from hpcme.parallel.world import World

CPU = torch.device("cpu")
WORLD = World(CPU, 1)


def birth_death(largest=40):
    builder = ModelBuilder("birth_death").species("X", initial=3, max=largest)
    return builder.reaction("0 -> X", rate=10.0).reaction("X -> 0", rate=1.0).build()


def network_of(net, kind="gru", seed=0):
    order = list(range(net.S))
    return random_network(kind, net.limits, order, build_support(net, order, 10**5, 2.0), seed=seed)


def wander(network, steps, size, seed=0):
    """Flat parameters of a random walk from the network's own, float64 [steps + 1, P]."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    moves = size * torch.randn(steps, len(theta), generator=generator, dtype=torch.float64)
    return torch.cat([theta[None], theta + moves.cumsum(0)])


def law(network, theta, states):
    """Probabilities at flat parameters, float64 [M]; the network is not changed."""
    live = FlatNetwork(copy.deepcopy(network))
    with torch.no_grad():
        live.flat.copy_(theta)
        return live.network.log_prob(torch.from_numpy(states)).exp().numpy()


def certify(network, net, times, thetas, *, rows=None, seed=5, **more):
    """A certificate led along a path: with exact sums, or with `rows` samples in each of 3 shards."""
    if rows is None:
        more["states"] = torch.from_numpy(all_states(net.limits))
    else:
        more |= {"shards": Shards.split(seed, 3, 3, 0.0, 0, 1, CPU), "rows": rows}
    certificate = Certificate(network, HostEnumeration(net), WORLD, **more)
    certificate.begin(times[0], thetas[0], 0.0)
    defects = [certificate.step(t, theta) for t, theta in zip(times[1:], thetas[1:], strict=True)]
    assert sum(defects) == pytest.approx(sum(certificate.parts.values()))
    return certificate


def exact_distance(network, net, times, thetas):
    """TV(q, P) at the last time, P from q at times[0] = 0 by the exact solver."""
    states = all_states(net.limits)
    q = law(network, thetas[0], states)
    p = solve_fsp(net, [times[-1]], states=states, p0=q / q.sum(), reflecting=True).p[-1]
    return 0.5 * np.abs(law(network, thetas[-1], states) - p).sum()


# ---- truth -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [0.0, 0.004])
@pytest.mark.parametrize(
    ("name", "end"), [("birth_death", 0.02), ("driven", 0.02), ("closed", 0.005), ("toggle", 0.01)]
)
def test_bound_holds_for_any_motion(name, end, size, seed):
    net = birth_death() if name == "birth_death" else model(name)
    network = network_of(net, "made" if seed == 1 else "gru", seed)
    steps = 4
    times = np.linspace(0.0, end, steps + 1)
    thetas = wander(network, steps, size, seed)
    true = exact_distance(network, net, times, thetas)
    summed = certify(network, net, times, thetas)
    assert summed.parts["sampling"] == 0.0 and summed.parts["start"] == 0.0
    assert true <= summed.bound(0.0) < 0.7
    if size == 0.0:  # at rest the first moments of the inequality are an equation
        assert true > 0.7 * summed.bound(0.0)
    sampled = certify(network, net, times, thetas, rows=400)
    assert true <= sampled.bound(0.0)
    assert sampled.bound(0.125) == min(1.0, sampled.bound(0.0) + 0.125)


def test_mass_that_leaves_the_support_of_the_network_is_seen():
    """The network's law cannot follow into states that its support lacks; the truth moves there."""
    net = birth_death(20)
    states = all_states(net.limits)
    network = random_network("made", net.limits, [0], supports.from_states(states[:8], net.limits), seed=1)
    times, thetas = [0.0, 0.01, 0.02], wander(network, 2, 0.0)
    true = exact_distance(network, net, times, thetas)
    leaving = 10.0 * law(network, thetas[0], states)[7] * 0.02
    bound = certify(network, net, times, thetas).bound(0.0)
    assert 0.5 * leaving < true <= bound < 1.3 * true


def test_a_missed_mode_is_seen_without_a_sample_of_it():
    """q sits at one end of two; the truth jumps to the other at a known rate, where q has probability e^-40."""
    builder = ModelBuilder("switch").species("G", initial=0, max=1).species("X", initial=0, max=30)
    net = builder.reaction("G -> G + 30 X", propensity="0.7 * G * (X < 1)").build()
    network = random_network("made", net.limits, [0, 1], supports.box(net.limits))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.heads[0].bias[1] = 40.0
    network.set_marginals([torch.tensor([0.0, 1.0]), torch.eye(31)[0].double()])
    times, thetas = np.linspace(0.0, 0.4, 9), wander(network, 8, 0.0)
    true = exact_distance(network, net, times, thetas)
    assert true == pytest.approx(1.0 - np.exp(-0.7 * 0.4), abs=1e-3)
    for rows in (None, 100):
        assert true <= certify(network, net, times, thetas, rows=rows).bound(0.0)


# ---- the integral ----------------------------------------------------------------------------------------------


def brute_force(network, net, t, h, path, velocity):
    """Three-point Gauss sum of 1/2 ||dq/dt - A q||_1 over [t, t + h], with matrices and a difference of q itself."""
    states, total = all_states(net.limits), 0.0
    for x, w in zip(*np.polynomial.legendre.leggauss(3), strict=True):
        tau = t + 0.5 * h * (x + 1.0)
        theta, v = path(tau), velocity(tau)
        eps = 1e-5 / float(v.abs().max())
        motion = (law(network, theta + eps * v, states) - law(network, theta - eps * v, states)) / (2 * eps)
        A, _ = build_generator(net, states, tau, reflecting=True)
        total += 0.5 * h * w * 0.5 * np.abs(motion - A @ law(network, theta, states)).sum()
    return total


@pytest.mark.parametrize("name", ["driven", "closed"])
def test_exact_sums_are_the_brute_force_integral_of_the_better_path(name):
    net = model(name)
    network = network_of(net, seed=2)
    t, thetas = [0.3, 0.32, 0.35], wander(network, 2, 0.03, seed=1)
    certificate = certify(network, net, t[:2], thetas[:2])
    first = (thetas[1] - thetas[0]) / 0.02
    expected = brute_force(network, net, t[0], 0.02, lambda tau: thetas[0] + (tau - t[0]) * first, lambda tau: first)
    assert certificate.parts["path"] == pytest.approx(expected, rel=1e-7)
    # the second step has two paths: the straight one, and Lagrange's parabola through three points
    slope = (thetas[2] - thetas[1]) / (t[2] - t[1])
    straight = brute_force(network, net, t[1], 0.03, lambda tau: thetas[1] + (tau - t[1]) * slope, lambda tau: slope)

    def parabola(tau, derivative=0):
        bases = [np.poly1d(np.poly([s for s in t if s != own])) for own in t]
        return sum(b.deriv(derivative)(tau) / b(own) * theta if derivative else b(tau) / b(own) * theta
                   for b, own, theta in zip(bases, t, thetas, strict=True))  # fmt: skip

    curved = brute_force(network, net, t[1], 0.03, parabola, lambda tau: parabola(tau, 1))
    assert abs(straight - curved) > 1e-3 * straight
    assert certificate.step(t[2], thetas[2]) == pytest.approx(min(straight, curved), rel=1e-7)


def poisson_path(steps, end=0.5, limit=40):
    """A network that follows the exact solution of birth_death from Poisson(3), and its times and parameters."""
    network = MADE(np.array([limit]), [0], supports.box(np.array([limit])), 4, 1, ["spline"], torch.float64)
    times, thetas = np.linspace(0.0, end, steps + 1), []
    for t in times:
        pmf = scipy.stats.poisson.pmf(np.arange(limit + 1), 3.0 * np.exp(-t) + 10.0 * (1.0 - np.exp(-t)))
        network.set_marginals([torch.from_numpy(pmf / pmf.sum())])
        thetas.append(torch.nn.utils.parameters_to_vector(network.parameters()).detach())
    return network, times, torch.stack(thetas)


def test_bound_shrinks_as_a_path_follows_the_truth_more_finely(monkeypatch):
    """Second order in the step for parabolas (dq/dt is followed to h^2), first order for straight lines."""
    net, at, curved, straight = birth_death(), module._Path.at, [], []
    for steps in (8, 16, 32):
        network, times, thetas = poisson_path(steps)
        curved.append(certify(network, net, times, thetas).bound(0.0))
        with monkeypatch.context() as patch:
            patch.setattr(module._Path, "at", lambda self, x: at(self._replace(bend=0.0), x))
            straight.append(certify(network, net, times, thetas).bound(0.0))
        true = exact_distance(network, net, times, thetas)
        assert true <= curved[-1] < 0.5 * straight[-1]
        # samples find out which path is the better one, too
        assert certify(network, net, times, thetas, rows=200).parts["path"] == pytest.approx(curved[-1], rel=0.3)
    assert np.allclose(np.log2(np.divide(straight[:-1], straight[1:])), 1.0, atol=0.15)
    assert np.all(np.log2(np.divide(curved[:-1], curved[1:])) > 1.7)
    assert curved[-1] < 1e-3


# ---- samples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["driven", "toggle"])
def test_sampled_estimate_agrees_with_exact_sums_within_its_confidence(name):
    net = model(name)
    network = network_of(net, seed=3)
    times, thetas = np.linspace(0.0, 0.03, 4), wander(network, 3, 0.002, seed=2)
    exact = certify(network, net, times, thetas).parts["path"]
    found = [certify(network, net, times, thetas, rows=rows, seed=seed).parts
             for rows in (200, 3200) for seed in range(3)]  # fmt: skip
    for parts in found:
        assert abs(parts["path"] - exact) <= parts["sampling"]
    # confidence shrinks at least with the root of the number of samples, and is of use
    assert 4.0 < found[0]["sampling"] / found[-1]["sampling"] < 16.0
    assert found[-1]["sampling"] < 0.25 * exact


def test_estimate_is_unbiased_and_confidence_is_not_wide():
    """Over many streams: mean within 4.5 standard errors of the exact sum, and the added term a few deviations."""
    net = birth_death()
    network = network_of(net, "made", seed=4)
    times, thetas = [0.0, 0.01, 0.02, 0.03], wander(network, 3, 0.003, seed=3)
    exact = certify(network, net, times, thetas).parts["path"]
    found = [certify(network, net, times, thetas, rows=300, seed=seed).parts for seed in range(60)]
    estimates = np.array([parts["path"] for parts in found])
    deviation = estimates.std(ddof=1)
    assert abs(estimates.mean() - exact) < 4.5 * deviation / np.sqrt(60)
    assert np.mean([parts["sampling"] for parts in found]) < 15 * deviation


def test_delta_and_steps_enter_the_confidence():
    net = birth_death()
    network = network_of(net, "made", seed=4)
    times, thetas = [0.0, 0.01], wander(network, 1, 0.003)
    loose, strict = (certify(network, net, times, thetas, rows=100, delta=delta) for delta in (0.1, 1e-6))
    assert loose.parts["path"] == strict.parts["path"]
    assert loose.parts["sampling"] < strict.parts["sampling"]
    n, x = strict.drawn, strict.first / strict.drawn
    assert n == 900
    log = np.log(2 / (1e-6 * 6 / np.pi**2))
    variance = (strict.second / n - x**2) * n / (n - 1)
    expected = np.sqrt(2 * variance * log / n) + 7 * strict.widest * log / (3 * (n - 1))
    assert strict.parts["sampling"] == pytest.approx(3 * expected, rel=1e-9)  # three points in time


def test_the_range_is_the_largest_exit_rate_met():
    """At rest O.theta' = 0, so that c = h w a0: ten births a time, and one death per molecule."""
    net = birth_death()
    network = network_of(net, "made", seed=3)
    certificate = certify(network, net, [0.0, 0.01], wander(network, 1, 0.0), rows=500)
    most = certificate.widest / (0.01 * 8 / 18) - 10.0
    assert most == pytest.approx(round(most), abs=1e-9)
    q = law(network, wander(network, 1, 0.0)[0], all_states(net.limits))
    assert 1e-5 < q[round(most) :].sum() < 0.02  # the largest of 1,500 counts
    widest = certificate.widest
    certificate.step(0.0101, certificate.now)  # a short step: its range is smaller, that of all samples is not
    assert certificate.widest == widest and certificate.second <= widest * certificate.first


def test_the_path_is_chosen_by_samples_that_make_no_estimate(monkeypatch):
    """Streams of nodes 0..2 make the estimate; both paths of the pilot see 3..5. Rates are those of the node's time."""
    asked, times = [], []
    uniforms, inflow = Shards.uniforms, HostEnumeration.inflow

    def spy_uniforms(self, purpose, step, epoch, rows, columns):
        asked.append((purpose, step, epoch, rows))
        return uniforms(self, purpose, step, epoch, rows, columns)

    def spy_inflow(self, n, t0, t1):
        times.append((t0, t1))
        return inflow(self, n, t0, t1)

    monkeypatch.setattr(Shards, "uniforms", spy_uniforms)
    monkeypatch.setattr(HostEnumeration, "inflow", spy_inflow)
    net = model("driven")
    network = network_of(net)
    certify(network, net, [0.1, 0.2, 0.4], wander(network, 2, 0.01), rows=160)
    estimate = [[("certificate", step, node, 160) for node in range(3)] for step in (1, 2)]
    pilot = [("certificate", 2, 3 + node, 10) for node in range(3)]
    assert asked == estimate[0] + pilot + pilot + estimate[1]
    nodes = 0.5 + 0.5 * np.polynomial.legendre.leggauss(3)[0]
    expected = np.concatenate([0.1 + 0.1 * nodes, *[0.2 + 0.2 * nodes] * 3])
    assert np.allclose(times, expected[:, None], rtol=1e-14)


def test_states_that_are_drawn_twice_count_as_one_state():
    """A draw of rows that hardly share anything may list a state several times."""
    net = model("driven")
    network = network_of(net)
    thetas = wander(network, 1, 0.1)
    certificate = certify(network, net, [0.2], thetas[:1])
    states = torch.from_numpy(all_states(net.limits))

    def residual(n):
        with torch.no_grad():
            certificate._place(thetas[0])
            logq = certificate.live.network.log_prob(n)
            return certificate._residual(n, logq, certificate._surroundings(n, 0.2), thetas[0], thetas[1] - thetas[0])

    rows = torch.tensor([12, 12, 5, 12, 6, 18, 13, 5])  # births and conversions lead from 5 and 18 to 12, from 12 to 6
    for repeated, once in zip(residual(states[rows]), residual(states), strict=True):
        assert torch.allclose(repeated, once[rows], rtol=1e-7, atol=1e-9)
        assert float(once[rows[[0, 2, 4, 6]]].min()) > 1.0


# ---- continuation and failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, 60])
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_a_restored_certificate_goes_on_bitwise(rows, cut):
    net = model("closed")
    network = network_of(net, seed=1)
    network.set_marginals([torch.full((13,), 1 / 13, dtype=torch.float64)] * 3)  # bases of the heads are state too
    network.heads[0].base += 0.1 * torch.arange(13)
    times, thetas = np.linspace(0.1, 0.2, 6), wander(network, 5, 0.01)
    whole = certify(network, net, times, thetas, rows=rows)
    state = certify(network, net, times[: cut + 1], thetas[: cut + 1], rows=rows).state()
    assert all(isinstance(value, int | float | np.ndarray) for value in state.values())
    other = network_of(net, seed=7)
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), network.parameters(), strict=True):
            mine.copy_(theirs)
    more = {"states": whole.states} if rows is None else {"shards": whole.shards, "rows": rows}
    second = Certificate(other, HostEnumeration(net), WORLD, **more)
    second.restore(copy.deepcopy(state))
    for t, theta in zip(times[cut + 1 :], thetas[cut + 1 :], strict=True):
        second.step(t, theta)
    assert second.parts == whole.parts and second.parts["path"] > 0.0
    ends = second.state(), whole.state()
    assert ends[0].keys() == ends[1].keys()
    assert all(np.array_equal(ends[0][name], ends[1][name], equal_nan=True) for name in ends[0])


def test_the_callers_vector_and_network_are_neither_kept_nor_changed():
    net = birth_death()
    network = network_of(net, "made")
    live = FlatNetwork(network)
    before = live.flat.detach().clone()
    certificate = certify(network, net, [0.0], before[None])
    network.heads[0].base += 0.1 * torch.arange(41)  # what no parameter says is taken over when the path begins
    certificate.begin(0.0, live.flat, 0.0)
    expected = certify(network, net, [0.0, 0.01], [before, before + 0.001]).parts
    with torch.no_grad():
        live.flat += 0.001
    certificate.step(0.01, live.flat)
    assert certificate.parts == expected
    assert torch.equal(live.flat.detach(), before + 0.001)


def test_float32_networks_are_certified_in_float64():
    net = birth_death()
    network = network_of(net, "made").float()
    thetas = wander(network, 2, 0.01).float()
    found = certify(network, net, [0.0, 0.01, 0.02], thetas).parts
    wanted = certify(copy.deepcopy(network).double(), net, [0.0, 0.01, 0.02], thetas.double()).parts
    assert found == wanted and next(network.parameters()).dtype == torch.float32


@pytest.mark.parametrize("rows", [None, 50])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_what_is_not_finite_makes_the_bound_one_and_no_more(rows, bad):
    net = birth_death()
    network = network_of(net, "made")
    thetas = wander(network, 5, 0.002)
    certificate = certify(network, net, [0.0, 0.01, 0.02], thetas[:3], rows=rows)
    known = certificate.bound(0.0)
    assert certificate.step(0.03, thetas[3] * bad) == pytest.approx(1.0 - known)
    assert certificate.bound(0.0) == pytest.approx(1.0)
    assert certificate.step(0.04, thetas[4]) == pytest.approx(0.0, abs=1e-12)  # this step begins where the last ended
    assert np.isfinite(certificate.step(0.05, thetas[5]))
    assert certificate.bound(np.nan) == 1.0
    certificate.begin(0.0, thetas[0], np.nan)
    assert certificate.bound(0.0) == 1.0 and certificate.parts["start"] == 1.0


def test_broken_promises_of_the_caller_are_internal_errors():
    net = birth_death()
    network = network_of(net, "made")
    thetas = wander(network, 1, 0.01)
    with pytest.raises(InternalError, match="needs a table of states"):
        Certificate(network, HostEnumeration(net), WORLD)
    certificate = certify(network, net, [0.5], thetas[:1])
    for t in (0.5, 0.4, np.nan):
        with pytest.raises(InternalError, match=r"from t = 0\.5"):
            certificate.step(t, thetas[1])
    with pytest.raises(InternalError, match="parameters for a network"):
        certificate.step(0.6, thetas[1][1:])
    lacking = Certificate(network, HostEnumeration(net), WORLD, states=torch.from_numpy(all_states(net.limits))[:5])
    with pytest.raises(InternalError, match="led from t = nan"):
        lacking.step(0.1, thetas[0])
    lacking.begin(0.0, thetas[0], 0.0)
    with pytest.raises(InternalError, match=r"holds 0\.\d+ of the law"):
        lacking.step(0.1, thetas[1])
