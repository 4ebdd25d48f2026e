"""The architectures one by one: twins, devices, what starts random, and what a transformer keeps."""

import numpy as np
import pytest
import torch
import twins
from scipy import stats
from solver_cases import all_states, model, random_network
from test_networks_laws import DEEP, LIMITS, ORDERS, network_of

import hpcme.networks.transformer as transformer
from hpcme.dynamics.tangent import HeadParameters, StateTree
from hpcme.networks import support as supports
from hpcme.networks.build import KINDS, build_network, load_law, network_spec, parameters_of
from hpcme.networks.features import ONE_HOT_LIMIT, count_features, random_ramps, random_steps
from hpcme.networks.transformer import Transformer


def states(rows, seed=0):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, LIMITS + 1, (rows, 4)).astype(np.int32))


@pytest.mark.parametrize(("kind", "depth"), [(kind, 1) for kind in KINDS] + [case for case in DEEP if case[1] > 1])
def test_log_prob_is_that_of_a_plain_twin(kind, depth):
    limits = np.array([2, 30, 1, 3])  # bumps for one species, one-hot features for the others
    network = random_network(kind, limits, [2, 1, 0, 3], depth=depth)
    n = states(40) * torch.tensor([1, 30 / 18, 1, 1])
    n = n.to(torch.int32)
    expected = twins.network_log_prob(network, n.numpy())
    # sums of a few hundred products of size one
    np.testing.assert_allclose(network.log_prob(n).detach().numpy(), expected, rtol=0, atol=1e-12)
    assert expected.std() > 0.1


@pytest.mark.parametrize(("kind", "depth"), DEEP)
def test_without_shared_prefixes_and_state_by_state_the_same_law(kind, depth):
    network = network_of(kind, depth, ORDERS[1], "sum")
    n, logq = network.sample(torch.rand(150, 4, dtype=torch.float64))
    assert torch.allclose(network(n), logq, rtol=0, atol=1e-13)
    tree = StateTree(HeadParameters(network), n)
    assert torch.allclose(tree.log_prob(), logq, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "depth"), DEEP)
def test_tensors_are_made_where_the_network_is(kind, depth):
    """On the device "meta" nothing is computed, and a tensor from elsewhere is refused."""
    network = network_of(kind, depth, ORDERS[0], "box").to("meta")
    assert network(states(5).to("meta")).device.type == "meta"


def test_a_transformer_keeps_keys_and_values_once_per_distinct_prefix(monkeypatch):
    network = network_of("transformer", 2, ORDERS[0], "box")
    kept, own = [], Transformer.advance

    def advance(self, *arguments):
        carry = own(self, *arguments)
        kept.append(([part.shape for part in carry.memory], carry.seen))
        return carry

    monkeypatch.setattr(Transformer, "advance", advance)
    n, _ = network.sample(torch.rand(500, 4, dtype=torch.float64))
    prefixes = [1] + [len(torch.unique(n[:, :i], dim=0)) for i in range(1, 4)]
    for i, (shapes, seen) in enumerate(kept, 1):
        assert shapes == [(sum(prefixes[: i + 1]), 16)] * 2 and seen.shape == (prefixes[i], i + 1)
        assert (seen[:, 0] == 0).all() and len(torch.unique(seen[:, -1])) == prefixes[i]


def test_attention_in_parts_is_attention(monkeypatch):
    network, n = network_of("transformer", 2, ORDERS[0], "box"), states(200)
    whole = network.log_prob(n)
    monkeypatch.setattr(transformer, "_GATHERED", 2 * 8 * 4 * 7)  # seven rows at a time at the last token
    assert torch.allclose(network.log_prob(n), whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("width", "used"), [(8, 4), (6, 2), (5, 1)])
def test_a_transformer_looks_back_in_as_many_parts_as_divide_its_width(width, used):
    spec = network_spec(
        model("driven"), kind="transformer", width=width, depth=2, heads=["spline", "categorical"], order=["X", "Y"],
        dtype="float64", support_states=1, end=1.0,
    )  # fmt: skip
    network = build_network(spec, model("driven"), seed=2)
    with torch.no_grad():
        for head in network.heads:
            head.weight += torch.randn_like(head.weight)
    n = all_states(model("driven").limits)[::7]
    stored = load_law(spec, parameters_of(network), model("driven"))
    np.testing.assert_allclose(stored.log_prob(n), twins.network_log_prob(network, n, attention_heads=used), atol=1e-12)
    other = twins.network_log_prob(network, n, attention_heads=width)
    assert np.abs(stored.log_prob(n) - other).max() > 1e-3


@pytest.mark.parametrize("make", [random_ramps, random_steps])
@pytest.mark.parametrize("limit", [ONE_HOT_LIMIT - 4, 90])
def test_random_features_turn_over_everywhere_in_the_range_of_a_count(make, limit):
    """Where they pass zero is uniform in sqrt(n); each is monotonic, half of them rise."""
    torch.manual_seed(0)
    values = torch.from_numpy(count_features(limit)) @ make(limit, 2000)
    rise = values.diff(dim=0)
    up = (rise > -1e-12).all(dim=0)
    assert (up | (rise < 1e-12).all(dim=0)).all() and stats.binomtest(int(up.sum()), 2000).pvalue > 1e-4
    passed = (values * values[-1].sign() > 0).double().argmax(dim=0).numpy()  # first count past zero
    observed = np.bincount(passed, minlength=limit + 1)[1:]
    expected = 2000 * np.diff(np.sqrt(np.arange(limit + 1) / limit))
    groups = np.array_split(np.arange(limit), 6)
    pairs = [(observed[group].sum(), expected[group].sum()) for group in groups]
    assert stats.chisquare(*np.transpose(pairs)).pvalue > 1e-4


def test_random_features_of_few_counts_tell_them_apart():
    for make in (random_ramps, random_steps):
        table = make(4, 50)
        assert np.linalg.matrix_rank(table.numpy()) == 5


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "basis"])
def test_fresh_hidden_vectors_are_features_worth_having(kind):
    """Scheme tdvp trains heads only. On a network that was never trained they can turn a conditional over at any count
    of another species, and tell prefixes of several species apart."""
    limits = np.array([60, 60, 3, 60])
    heads = ["spline", "spline", "categorical", "spline"]
    torch.manual_seed(3)
    network = KINDS[kind](limits, [0, 1, 2, 3], supports.box(limits), 32, 1, heads, torch.float64)
    first, count = network.begin(), torch.arange(61)
    hidden = network.hidden(1, network.advance(0, first, torch.zeros_like(count), count)).detach()
    h = torch.cat([torch.ones(61, 1), hidden], dim=1)
    # Steps of height 2, as narrow as a Poisson law, at several places: nearly all of them is in the span.
    wanted = torch.tanh(count.double().sqrt()[:, None] - torch.linspace(1.0, 7.0, 7))
    solution = torch.linalg.solve(h.T @ h + 1e-4 * torch.eye(33, dtype=torch.float64), h.T @ wanted)
    assert float((h @ solution - wanted).abs().max()) < 0.1
    n = np.unique(np.random.default_rng(0).integers(0, limits[:3] + 1, (300, 3)), axis=0)
    x, carry = torch.from_numpy(n), first
    for i in range(3):
        carry = network.advance(i, carry, None if i else torch.zeros(len(x), dtype=torch.int64), x[:, i])
    assert float(torch.pdist(network.hidden(3, carry).detach()).min()) > 1e-3
