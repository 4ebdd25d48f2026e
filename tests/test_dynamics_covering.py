"""Covering samples: systematic points hit every state as often as they should, and counting weights are unbiased."""

import numpy as np
import pytest
import torch
from solver_cases import all_states, model, random_network

from hpcme.dynamics.covering import Cloud, Coverage, Sampler, systematic
from hpcme.dynamics.enumeration import HostEnumeration
from hpcme.dynamics.tangent import HeadParameters, StateTree, flattened
from hpcme.model.builder import ModelBuilder
from hpcme.networks import support as supports
from hpcme.networks.build import build_network, build_support, network_spec


def network_of(name, kind="basis", seed=0):
    net = model(name)
    order = list(range(net.S))[::-1]
    support = build_support(net, order, 10**5, 2.0) if name == "closed" else supports.box(net.limits[order])
    return net, random_network(kind, net.limits, order, support, seed=seed)


def law(network, net):
    states = all_states(net.limits)
    with torch.no_grad():
        p = network.log_prob(torch.from_numpy(states)).exp().numpy()
    return states[p > 0], p[p > 0]


def number(net, n):
    """Every state's place in the box, int64 [N]."""
    return np.ravel_multi_index(np.asarray(n).T, net.limits + 1)


def fresh(seed, count=4096):
    return torch.from_numpy(np.random.default_rng(seed).random(count))


@pytest.mark.parametrize("name", ["closed", "driven", "toggle"])
@pytest.mark.parametrize("points", [1.0, 37.0, 1000.0, 1e6, 1e9])
def test_states_are_hit_floor_or_ceil_times(name, points):
    net, network = network_of(name)
    states, p = law(network, net)
    where = dict(zip(number(net, states).tolist(), range(len(p)), strict=True))
    for offset in (0.0, 0.123, 0.5, 0.999):
        n, hits, logr = systematic(network, points, offset, 1.0, fresh(1))
        rows = np.array([where[k] for k in number(net, n.numpy()).tolist()])
        assert len(set(rows.tolist())) == len(rows)  # distinct
        assert float(hits.sum()) == points
        count = np.zeros(len(p))
        count[rows] = hits.numpy()
        slack = 1e-6 + 1e-12 * points
        assert (count >= np.floor(points * p - slack)).all() and (count <= np.ceil(points * p + slack)).all()
        assert (count[points * p >= 1.0 + slack] > 0).all()
        with torch.no_grad():
            np.testing.assert_allclose(logr.numpy(), network.log_prob(n).numpy(), atol=1e-10)


def test_tempered_points_follow_the_flattened_conditionals():
    net, network = network_of("closed")
    n, hits, logr = systematic(network, 1e9, 0.3, 0.4, fresh(2))
    np.testing.assert_allclose(hits.numpy() / 1e9, logr.exp().numpy(), atol=2e-9)
    enumeration = HostEnumeration(net)
    tree = Cloud(HeadParameters(network), enumeration, n, 0.0).tree
    np.testing.assert_allclose(tree.log_prob(0.4)[1][: len(n)].numpy(), logr.numpy(), atol=1e-10)


@pytest.mark.parametrize(("name", "temper"), [("closed", 1.0), ("driven", 1.0), ("closed", 0.5)])
def test_inclusion_probability(name, temper):
    net, network = network_of(name)
    points, trials = 20.0, 3000
    n, _, logr = systematic(network, 1e12, 0.5, temper, fresh(0))  # every state that matters, with its probability
    where = dict(zip(number(net, n.numpy()).tolist(), range(len(n)), strict=True))
    expected = np.minimum(1.0, points * logr.exp().numpy())
    seen, random = np.zeros(len(n)), np.random.default_rng(5)
    for _ in range(trials):
        drawn, _, _ = systematic(network, points, random.random(), temper, torch.from_numpy(random.random(64)))
        seen[[where[k] for k in number(net, drawn.numpy()).tolist()]] += 1
    assert (seen[expected == 1.0] == trials).all()
    error = np.sqrt(expected * (1 - expected) / trials)
    # Counts of rare states are Poisson: one more than none is no error of the method.
    assert (np.abs(seen / trials - expected) <= 4 * error + 2.0 / trials).all()


@pytest.mark.parametrize(("name", "tail", "pushed"), [
    ("closed", 0.3, 0.3), ("driven", 0.25, 0.25), ("toggle", 0.3, 0.2), ("closed", 0.0, 0.4), ("closed", 0.4, 0.0),
    ("toggle", 0.0, 0.0),
])  # fmt: skip
@torch.no_grad()
def test_weighted_sums_are_unbiased(name, tail, pushed):
    def look(sampler, cloud, q):
        certain = sampler.points["train"] * q >= 1.0 + 1e-9
        if not tail:  # one part draws these, and it never misses them
            assert bool((cloud.weight[certain] == 1.0).all())
        else:
            flat = sampler.points["tail"] * cloud.tree.log_prob(0.5)[1][: cloud.D].exp()
            both = certain & (flat >= 1.0 + 1e-9)
            assert torch.allclose(cloud.weight[both], torch.ones_like(q[both]), atol=1e-12)
            assert bool((cloud.sampled[certain] == 0.0).all())

    weighted_sums_are_unbiased(name, Coverage(30, tail, pushed, 0.5, 3), look)


@pytest.mark.parametrize("name", ["closed", "driven", "toggle"])
@torch.no_grad()
def test_sums_with_one_flattened_conditional_at_a_time_are_unbiased(name):
    weighted_sums_are_unbiased(name, Coverage(40, 0.5, 0.1, 0.3, 3, each=True))


def weighted_sums_are_unbiased(name, coverage, look=lambda sampler, cloud, q: None):
    """Mean of sums of q, n_0 q and n_1^2 q over 400 clouds against the exact sums; look at every cloud."""
    net, network = network_of(name, seed=1)
    parameters, enumeration = HeadParameters(network), HostEnumeration(net)
    sampler = Sampler(parameters, enumeration, coverage)
    for step in range(10):  # the number of points settles
        sampler.draw(step, 0.2)
    settled = dict(sampler.points)
    states, p = law(network, net)
    f = np.stack([np.ones(len(p)), states[:, 0].astype(float), states[:, 1].astype(float) ** 2])
    found = []
    for step in range(10, 410):
        n, info = sampler.draw(step, 0.2)
        cloud = Cloud(parameters, enumeration, n, 0.2)
        cloud.weigh(info, sampler)
        q = cloud.tree.log_prob().exp()[: cloud.D]
        value = torch.stack([torch.ones_like(q), n[:, 0].double(), n[:, 1].double() ** 2])
        found.append((value @ (cloud.weight * q)).numpy())
        look(sampler, cloud, q)
    assert sampler.points == settled  # nothing above depends on how the number of points was found
    error = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - f @ p) <= 4 * error + 1e-12).all()


@pytest.mark.parametrize("spread", [0.0, 0.5])
@torch.no_grad()
def test_flattened_conditionals_one_by_one(spread):
    """Each row is the log-ratio of a normalised law, flattened in one conditional, to the law itself."""
    net, network = network_of("closed")
    states = torch.from_numpy(law(network, net)[0])
    tree = Cloud(HeadParameters(network), HostEnumeration(net), states, 0.0).tree
    logq = tree.log_prob()
    ratio = tree.flattened_each(0.3, spread)
    assert ratio.shape == (3, tree.N)
    for row, i in zip(ratio, range(3), strict=True):
        assert float((logq + row).exp().sum()) == pytest.approx(1.0, abs=1e-10)
        tempers = [0.3 if j == i else 1.0 for j in range(3)]
        n, hits, _ = systematic(network, 1e9, 0.3, tempers, fresh(2), spread)
        where = dict(zip(number(net, states.numpy()).tolist(), (logq + row).exp().tolist(), strict=False))
        expected = np.array([where[k] for k in number(net, n.numpy()).tolist()])
        np.testing.assert_allclose(hits.numpy() / 1e9, expected, atol=2e-9)


@torch.no_grad()
def test_few_states_are_summed_exactly():
    """With points enough for every state all weights are one, whichever parts draw them."""
    net, network = network_of("closed")
    parameters, enumeration = HeadParameters(network), HostEnumeration(net)
    sampler = Sampler(parameters, enumeration, Coverage(2000, 0.25, 0.25, 0.5, 0))
    n, info = sampler.draw(0, 0.0)
    cloud = Cloud(parameters, enumeration, n, 0.0)
    cloud.weigh(info, sampler)
    states, _p = law(network, net)
    assert cloud.D == len(states) == 91
    assert torch.allclose(cloud.weight, torch.ones_like(cloud.weight), atol=1e-12)
    q = cloud.tree.log_prob().exp()[: cloud.D]
    assert float(q @ cloud.weight) == pytest.approx(1.0, abs=1e-12)
    assert float(cloud.balance(cloud.tree.log_prob().exp()).sum()) == pytest.approx(0.0, abs=1e-12)


def test_flattening_meets_counts_that_the_law_does_not_know_yet():
    """Two shares: q^0.5, renormalised, and q moved by one count either way; counts of probability zero keep it."""
    q = np.array([[0.9, 0.1 - 1e-20, 1e-20, 0.0], [0.25, 0.25, 0.25, 0.25]])
    with np.errstate(divide="ignore"):
        found = flattened(torch.from_numpy(np.log(q)), 0.5, 0.4).exp().numpy()
    for law, row in zip(q, found, strict=True):
        root = np.sqrt(law) / np.sqrt(law).sum()
        moved = np.where(law > 0, np.append(law[1:], 0.0) + np.append(0.0, law[:-1]), 0.0)
        np.testing.assert_allclose(row, 0.6 * root + 0.4 * moved / moved.sum(), rtol=1e-12, atol=1e-15)
    assert found[0, 2] > 0.03


@pytest.mark.parametrize(
    ("hubs", "sees", "far"),
    [
        (1, [[], [0], [0, 1], [0, 2], [0, 3], [0, 4]], [[], [], [], [1], [1, 2], [1, 2, 3]]),
        (3, [[], [0], [1], [2], [3], [0, 1, 2, 4]], [[], [], [0], [0, 1], [0, 1, 2], [3]]),
    ],
)
def test_regulators_are_seen_from_far_off(hubs, sees, far):
    """What sets rates and is left as it is by them is seen one by one with network.far, if there is little of it."""
    builder = ModelBuilder("row")
    for i in range(6):
        builder.species(f"X{i}", initial=2, max=4)
    for i in range(5):
        builder.reaction(f"X{i} -> X{i + 1}", rate=1.0)
    for i in range(hubs):
        builder.reaction("0 -> X0", propensity=f"1/(1 + X{5 - i})")
    spec = network_spec(
        builder.build(), kind="basis", width=3, depth=1, heads=["categorical"] * 6, dtype="float64",
        order=[f"X{5 - i}" for i in range(6)], support_states=100_000, end=1.0, sight=1, far=True,
    )  # fmt: skip
    assert spec["sees"] == sees and spec["far"] == far


@pytest.mark.parametrize("far", [False, True])
@torch.no_grad()
def test_conditionals_that_see_little_give_the_same_law_either_way(far):
    """Evaluated once for all states that see the same, or prefix by prefix; and nothing unseen matters."""
    builder = ModelBuilder("row")
    for i in range(6):
        builder.species(f"X{i}", initial=2, max=4)
    for i in range(5):
        builder.reaction(f"X{i} -> X{i + 1}", rate=1.0)
    net = builder.build()
    spec = network_spec(
        net, kind="basis", width=3, depth=1, heads=["categorical"] * 6, order=list(net.species), dtype="float64",
        support_states=100_000, end=1.0, sight=1, far=far,
    )  # fmt: skip
    assert spec["sees"] == [[], [0], [1], [2], [3], [4]]
    assert spec.get("far") == ([[], [], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3]] if far else None)
    network = build_network(spec, net, seed=1)
    torch.manual_seed(2)
    parameters = HeadParameters(network)
    parameters.set(0.5 * torch.randn(parameters.size, dtype=torch.float64))
    n, logq = network.sample(torch.rand(3000, 6, dtype=torch.float64))
    assert torch.allclose(network.log_prob(n), logq, atol=1e-12)
    assert torch.allclose(StateTree(parameters, n).log_prob(), logq, atol=1e-12)
    assert (n.sum(dim=1) == 12).all()  # what is conserved is known to all
    states = torch.from_numpy(np.array(np.meshgrid(*[range(5)] * 6)).reshape(6, -1).T.astype(np.int32))
    p = network.log_prob(states).exp()
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-12) and bool((p[states.sum(dim=1) != 12] == 0.0).all())
