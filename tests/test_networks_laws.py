"""Laws that every network obeys (see networks/base.py), for all architectures, depths, heads and supports."""

import numpy as np
import pytest
import torch
from scipy import stats
from solver_cases import all_states, model, random_network

import hpcme.networks.base as base
from hpcme.networks import support as supports
from hpcme.networks.build import KINDS, build_network, build_support, load_law, network_spec, parameters_of
from hpcme.networks.features import BUMPS, count_features, uniform_bsplines
from hpcme.networks.heads import CategoricalHead, SplineHead, choose_head

LIMITS = np.array([2, 18, 1, 3])
ORDERS = ([0, 1, 2, 3], [2, 0, 3, 1])


def sum_law(order):
    """Support n_0 + n_1 + n_3 = 4, in network order."""
    y = np.array([[1, 1, 0, 1]])[:, order]
    return supports.from_laws(LIMITS[order], y, np.array([4]), np.zeros((0, 4), int), np.zeros(0, int))


CASES = [
    (kind, depth, order, law)
    for kind, depth in (("gru", 1), ("gru", 3), ("made", 1), ("made", 3), ("basis", 1), ("transformer", 1),
                        ("transformer", 3), ("nade", 1), ("nade", 3))
    for order in ORDERS
    for law in ("box", "sum")
]  # fmt: skip
DEEP = [("gru", 2), ("made", 2), ("basis", 1), ("transformer", 2), ("nade", 2)]


def network_of(kind, depth, order, law, head="spline"):
    order = list(order)
    return random_network(kind, LIMITS, order, sum_law(order) if law == "sum" else None, depth=depth, head=head)


def uniforms(rows, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).random((rows, 4)))


@pytest.mark.parametrize("case", CASES)
def test_probabilities_sum_to_one_on_the_support_and_vanish_outside(case):
    network = network_of(*case)
    states = all_states(LIMITS)
    q = network.log_prob(torch.from_numpy(states)).exp().detach().numpy()
    inside = states[:, [0, 1, 3]].sum(1) == 4 if case[3] == "sum" else np.ones(len(states), bool)
    assert abs(q[inside].sum() - 1) < 1e-12
    assert (q[~inside] == 0).all() and (q[inside] > 0).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("share", [0.0, 0.6, 2.0])
def test_drawn_log_probabilities_are_those_of_log_prob(case, share, monkeypatch):
    monkeypatch.setattr(base, "_SHARED_SHARE", share)  # never, usually, always look for shared prefixes
    network = network_of(*case)
    n, logq = network.sample(uniforms(300))
    again = network.draw(uniforms(200, 2), n)
    rows = again.n[again.row]
    assert torch.equal(rows[200:], n) and torch.equal(rows[:200], network.sample(uniforms(200, 2))[0])
    for values in (network.log_prob(n), again.logq[again.row][200:]):
        assert torch.allclose(values, logq, rtol=0, atol=1e-13)
    conditionals = network.conditionals(n)
    total = sum(logp[row, n[:, i].long()] for i, (logp, row) in enumerate(conditionals))
    assert torch.allclose(total, logq, rtol=0, atol=1e-13)


@pytest.mark.parametrize("case", CASES[::3])
def test_a_conditional_does_not_depend_on_later_counts(case):
    network = network_of(*case[:3], "box")
    random = np.random.default_rng(0)
    n = torch.from_numpy(random.integers(0, LIMITS + 1, (50, 4)).astype(np.int32))
    for position, species in enumerate(network.order):
        other = n.clone()
        for later in network.order[position:]:
            other[:, later] = torch.from_numpy(random.integers(0, LIMITS[later] + 1, 50).astype(np.int32))
        (p, row), (p2, row2) = network.conditionals(n)[species], network.conditionals(other)[species]
        assert torch.allclose(p[row], p2[row2], rtol=0, atol=1e-13)


@pytest.mark.parametrize("case", CASES[::5])
def test_samples_have_the_networks_own_law(case):
    network = network_of(*case)
    states = all_states(LIMITS)
    q = network.log_prob(torch.from_numpy(states)).exp().detach().numpy()
    N = 40_000
    n, _ = network.sample(uniforms(N))
    counts = np.zeros(len(states))
    np.add.at(counts, np.ravel_multi_index(n.numpy().T, LIMITS + 1), 1)
    assert counts[q == 0].sum() == 0
    common = N * q >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(N * q[common], N * q[~common].sum())
    keep = expected > 0
    assert stats.chisquare(observed[keep], expected[keep]).pvalue > 1e-4


@pytest.mark.parametrize(("kind", "depth"), DEEP)
@pytest.mark.parametrize("head", ["categorical", "spline"])
def test_gradients_of_drawn_log_probabilities_agree_with_finite_differences(kind, depth, head):
    network = network_of(kind, depth, ORDERS[1], "box", head)
    n, _ = network.sample(uniforms(20))
    weight = torch.linspace(-1, 1, 20, dtype=torch.float64)
    parameters = list(network.parameters())
    draw = network.draw(uniforms(0), n)
    gradients = torch.autograd.grad((weight * draw.logq[draw.row]).sum(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.nn.functional.normalize(torch.randn_like(parameter).view(-1), dim=0).view_as(parameter)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += step * direction
                values.append(float((weight * network.log_prob(n)).sum()))
                parameter -= step * direction
        assert abs((values[0] - values[1]) / 2e-5 - float((gradient * direction).sum())) < 1e-7


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_asked_once_per_distinct_prefix(kind, monkeypatch):
    """O(S) conditionals a sweep, and rows that share a prefix share its evaluation."""
    network = network_of(kind, 1, ORDERS[0], "box")
    seen = []
    own = type(network).hidden

    def hidden(self, i, carry):
        seen.append((i, own(self, i, carry).shape[0]))
        return own(self, i, carry)

    monkeypatch.setattr(type(network), "hidden", hidden)
    n, _ = network.sample(uniforms(500))
    prefixes = [len(torch.unique(n[:, :i], dim=0)) if i else 1 for i in range(4)]
    assert seen == list(enumerate(prefixes))


def test_running_sums_by_doubling_strides_are_running_sums():
    for K in (1, 2, 7, 80, 129):
        p = torch.rand(5, K, dtype=torch.float64)
        assert torch.allclose(base.strided_cumulative(p), p.cumsum(-1), rtol=1e-14)


def test_tempered_samples_follow_flattened_conditionals_and_carry_the_laws_own_probabilities():
    network = network_of("gru", 1, ORDERS[0], "box")
    N = 20_000
    n, logq = network.sample(uniforms(N), temper=0.5)
    assert torch.allclose(logq, network.log_prob(n).detach(), rtol=0, atol=1e-13)
    first = network.order[0]
    p = torch.softmax(0.5 * network.conditionals(n)[first][0][0], dim=0).numpy()
    seen = np.bincount(n[:, first].numpy(), minlength=len(p))
    assert stats.chisquare(seen, N * p / p.sum()).pvalue > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_states_outside_the_box_have_probability_zero(kind):
    network = network_of(kind, 1, ORDERS[0], "box")
    n = torch.tensor([[3, 0, 0, 0], [0, -1, 0, 0], [0, 19, 0, 0], [1, 1, 1, 1]])
    logq = network.log_prob(n)
    assert torch.isneginf(logq[:3]).all() and torch.isfinite(logq[3])


@pytest.mark.parametrize("kind", KINDS)
def test_float32_networks_are_normalised_in_float64(kind):
    heads = ["categorical"] * 2 + ["spline"] * 2
    spec = network_spec(model("toggle"), kind=kind, width=8, depth=1, heads=heads, order="auto", dtype="float32",
                        support_states=10**5, end=1.0)  # fmt: skip
    network = build_network(spec, model("toggle"), seed=3)
    logq = network.log_prob(torch.from_numpy(all_states(model("toggle").limits)))
    assert logq.dtype == torch.float64 and abs(float(logq.detach().exp().sum()) - 1) < 1e-10


@pytest.mark.parametrize(("kind", "depth"), DEEP)
def test_a_network_survives_its_description_bitwise(kind, depth):
    net = model("closed")
    spec = network_spec(net, kind=kind, width=8, depth=depth, heads=["categorical"] * 3, order=["L", "A", "D"],
                        dtype="float64", support_states=10**5, end=1.0)  # fmt: skip
    network = build_network(spec, net, seed=5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn_like(parameter)
    law = load_law(spec, parameters_of(network), net)
    n = law.sample(200, seed=4)
    assert np.array_equal(law.log_prob(n), network.log_prob(torch.from_numpy(n).long()).detach().numpy())
    assert (n.sum(1) == 12).all()
    assert np.array_equal(n, law.sample(200, seed=4)) and not np.array_equal(n, law.sample(200, seed=5))


def test_the_initial_law_stands_in_for_a_network():
    law = load_law({"kind": "initial"}, {}, model("closed"))
    assert (law.sample(10) == [2, 5, 5]).all()
    assert law.log_prob(np.array([[2, 5, 5], [3, 4, 5]])).tolist() == [0.0, -np.inf]


def test_support_falls_back_on_laws_when_states_are_too_many():
    net = model("closed")
    enumerated = build_support(net, [0, 1, 2], 10**5, 1.0)
    by_laws = build_support(net, [0, 1, 2], 10, 1.0)
    assert enumerated.size == by_laws.size == 91
    assert build_support(model("toggle"), [0, 1, 2, 3], 10, 1.0).is_box


def test_poisson_laws_are_exact_for_splines():
    head = SplineHead(4, 60, torch.float64)
    pmf = torch.from_numpy(stats.poisson.pmf(np.arange(61), 12.5))
    head.set_marginal(pmf / pmf.sum())
    logp = torch.log_softmax(head(torch.zeros(1, 4, dtype=torch.float64))[0], 0)
    assert float((logp.exp() - pmf / pmf.sum()).abs().sum()) / 2 < 1e-5


def test_categorical_heads_start_at_a_narrow_marginal_and_leave_no_count_impossible():
    pmf = torch.zeros(40, dtype=torch.float64)
    pmf[28:32] = torch.tensor([0.1, 0.5, 0.3, 0.1], dtype=torch.float64)
    made = CategoricalHead(4, 39, torch.float64)
    made.set_marginal(pmf)
    p = torch.softmax(made(torch.zeros(1, 4, dtype=torch.float64))[0], 0)
    assert (p > 0).all()
    assert torch.allclose(p[28:32] / p[28:32].sum(), pmf[28:32], atol=1e-9)


def test_heads_follow_the_limit_and_the_start():
    counts = np.arange(61)
    wide = torch.from_numpy(stats.poisson.pmf(counts, 9.0))
    narrow = torch.from_numpy(stats.norm.pdf(counts, 50.0, 0.2))
    assert choose_head("auto", wide / wide.sum()) == "spline"
    assert choose_head("auto", narrow / narrow.sum()) == "categorical"
    assert choose_head("spline", narrow / narrow.sum()) == "spline"
    assert choose_head("categorical", wide / wide.sum()) == "categorical"
    assert choose_head("spline", torch.full((17,), 1 / 17, dtype=torch.float64)) == "categorical"


def test_features_tell_small_counts_apart_and_splines_sum_to_one():
    assert np.array_equal(count_features(7), np.eye(8))
    phi = count_features(90)
    assert np.allclose(phi[:, :-1].sum(1), 1) and np.linalg.matrix_rank(phi) == BUMPS
    x = np.linspace(0, 1, 301)
    splines = uniform_bsplines(x, 9)
    assert (splines >= 0).all() and np.allclose(splines.sum(1), 1) and (splines > 0).sum(1).max() == 4
