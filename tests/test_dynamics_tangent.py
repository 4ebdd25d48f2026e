"""The tangent space of the heads: log-probabilities, derivatives and their transpose, and the convex fits on it."""

import numpy as np
import pytest
import torch
from solver_cases import all_states, model, random_network

from hpcme.dynamics.start import distance_to, fit_heads
from hpcme.dynamics.tangent import HeadParameters, StateTree
from hpcme.networks import support as supports
from hpcme.networks.build import build_support

CASES = [("basis", "closed"), ("basis", "driven"), ("gru", "closed"), ("made", "driven"), ("basis", "box")]


def case(kind, name):
    """A random network with its parameters, and all states of its support in a random order."""
    limits = np.array([2, 19, 1]) if name == "box" else model(name).limits
    order = [2, 0, 1] if len(limits) == 3 else [1, 0]
    support = build_support(model(name), order, 10 ** 5, 2.0) if name == "closed" else supports.box(limits[order])
    network = random_network(kind, limits, order, support)
    states = torch.from_numpy(np.random.default_rng(1).permutation(all_states(limits)))
    inside = support.contains(states[:, order])
    return network, HeadParameters(network), states[inside], states[~inside]


def direction(size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=size))


@pytest.mark.parametrize(("kind", "name"), CASES)
@torch.no_grad()
def test_log_prob_is_that_of_the_network(kind, name):
    network, parameters, inside, outside = case(kind, name)
    n = torch.cat([inside, outside[:50]])
    tree = StateTree(parameters, n)
    for _ in range(2):  # also after the heads have moved
        logq = tree.log_prob()
        np.testing.assert_allclose(logq.numpy(), network.log_prob(n).numpy(), rtol=1e-12, atol=1e-11)
        assert float(logq[: len(inside)].exp().sum()) == pytest.approx(1.0, abs=1e-11)
        assert bool((logq[len(inside) :] == -torch.inf).all())
        parameters.set(parameters.get() + 0.1 * direction(parameters.size))
    # The flattened law: conditionals to the power 1, and a normalised law for another one.
    logq, flat = tree.log_prob(1.0)
    np.testing.assert_allclose(flat.numpy(), logq.numpy(), atol=1e-11)
    assert float(tree.log_prob(0.3)[1].exp().sum()) == pytest.approx(1.0, abs=1e-11)


@pytest.mark.parametrize(("kind", "name"), CASES)
@torch.no_grad()
def test_parameters_come_back_as_they_were_set(kind, name):
    _, parameters, _, _ = case(kind, name)
    x = direction(parameters.size)
    parameters.set(x)
    assert torch.equal(parameters.get(), x)


@pytest.mark.parametrize(("kind", "name"), CASES)
@torch.no_grad()
def test_apply_is_the_derivative_of_log_q(kind, name):
    network, parameters, n, _ = case(kind, name)
    tree, theta = StateTree(parameters, n), parameters.get()
    tree.log_prob()
    v = direction(parameters.size)
    found, eps = tree.apply(v), 1e-5
    parameters.set(theta + eps * v)
    above = network.log_prob(n)
    parameters.set(theta - eps * v)
    below = network.log_prob(n)
    difference = ((above - below) / (2 * eps)).numpy()
    np.testing.assert_allclose(found.numpy(), difference, rtol=1e-5, atol=1e-6 * np.abs(difference).max())


@pytest.mark.parametrize(("kind", "name"), CASES)
@torch.no_grad()
def test_scores_adjoint_and_apply_are_one_matrix(kind, name):
    network, parameters, n, _ = case(kind, name)
    n = n[:60]
    tree = StateTree(parameters, n)
    q = tree.log_prob().exp()
    O = torch.cat([tree.scores(i, slice(None)) for i in range(network.S)], dim=1)
    assert O.shape == (len(n), parameters.size)
    for i in range(network.S):
        rows = torch.tensor([7, 3, 3, 41])
        assert torch.equal(tree.scores(i, rows), tree.scores(i, slice(None))[rows])
        for j in (0, (parameters.offsets[i + 1] - parameters.offsets[i]) // 2):
            unit = torch.zeros(parameters.size, dtype=torch.float64)
            unit[parameters.offsets[i] + j] = 1.0
            column = O[:, parameters.offsets[i] + j]
            np.testing.assert_allclose(tree.apply(unit).numpy(), column.numpy(), atol=1e-12)
    v, w = direction(parameters.size), direction(len(n), 1)
    np.testing.assert_allclose(tree.apply(v).numpy(), (O @ v).numpy(), atol=1e-10)
    np.testing.assert_allclose(tree.adjoint(w).numpy(), (O.T @ w).numpy(), atol=1e-10)
    np.testing.assert_allclose(tree.adjoint(w[:20]).numpy(), (O[:20].T @ w[:20]).numpy(), atol=1e-10)
    assert float(w @ tree.apply(v)) == pytest.approx(float(tree.adjoint(w) @ v), rel=1e-10)
    for i in range(network.S):
        own, factors = parameters.slice(i), tree.score_factors(i, slice(0, 50))
        part, vs, ws = O[:50, own], torch.stack([v, 2.0 - v])[:, own], torch.stack([w, w**2])[:, :50]
        np.testing.assert_allclose(factors.apply(vs).numpy(), (vs @ part.T).numpy(), atol=1e-10)
        np.testing.assert_allclose(factors.adjoint(ws).numpy(), (ws @ part).numpy(), atol=1e-10)
        for w, gram in zip(ws, factors.grams(ws), strict=True):
            np.testing.assert_allclose(gram.numpy(), (part.T @ (w[:, None] * part)).numpy(), atol=1e-10)
    assert bool(torch.isfinite(q).all())


@torch.no_grad()
def test_scores_have_mean_zero_and_conditionals_are_uncorrelated():
    network, parameters, n, _ = case("basis", "closed")
    tree = StateTree(parameters, n)
    q = tree.log_prob().exp()
    parts = [tree.scores(i, slice(None)) for i in range(network.S)]
    for i, part in enumerate(parts):
        assert float((q @ part).abs().max()) < 1e-12
        for other in parts[:i]:
            assert float((part.T @ (q[:, None] * other)).abs().max()) < 1e-12


@pytest.mark.parametrize(("kind", "name"), CASES)
@torch.no_grad()
def test_conditional_fit_gradient_and_hessian_by_differences(kind, name):
    network, parameters, n, _ = case(kind, name)
    tree, theta = StateTree(parameters, n), parameters.get()
    p = torch.from_numpy(np.random.default_rng(2).dirichlet(np.ones(len(n))))
    total = 0.0
    for i in range(network.S):
        prefix = torch.zeros(tree.hidden[i].shape[0], dtype=torch.float64).index_add_(0, tree.rows[i], p)
        loss, descent, hessian = tree.conditional_fit(i, theta, p, prefix)
        total += loss
        d = torch.zeros_like(theta)
        d[parameters.slice(i)] = direction(len(descent), i)
        eps = 1e-5
        above = tree.conditional_fit(i, theta + eps * d, p, prefix)
        below = tree.conditional_fit(i, theta - eps * d, p, prefix)
        own = d[parameters.slice(i)]
        assert -float(descent @ own) == pytest.approx((above[0] - below[0]) / (2 * eps), rel=1e-6, abs=1e-8)
        change = ((below[1] - above[1]) / (2 * eps)).numpy()
        np.testing.assert_allclose((hessian @ own).numpy(), change, rtol=1e-5, atol=1e-6 * np.abs(change).max() + 1e-9)
        np.testing.assert_allclose(hessian.numpy(), hessian.T.numpy(), atol=1e-12)
        assert float(torch.linalg.eigvalsh(hessian)[0]) > -1e-9  # convex
    tree.log_prob()
    assert total == pytest.approx(-float(p @ tree.log_prob()), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_fit_heads_reaches_a_random_law(seed):
    """Eight tanh units and the one-hot counts tell all prefixes of so small a network apart: any law can be held."""
    limits = np.array([2, 3, 1])
    network = random_network("basis", limits, [1, 0, 2], seed=seed)
    states = all_states(limits)
    p = np.random.default_rng(seed).dirichlet(np.ones(len(states)))
    kl, tv = fit_heads(network, states, 7.0 * p)  # normalised inside
    q = network.log_prob(torch.from_numpy(states)).exp().numpy()
    assert -1e-12 < kl < 1e-3
    assert kl == pytest.approx(float((p * np.log(p / q)).sum()), abs=1e-9)
    assert tv == pytest.approx(0.5 * np.abs(p - q).sum(), abs=1e-12) and tv < 1e-6
    assert tv == distance_to(network, states, 7.0 * p)


@torch.no_grad()
def test_fit_heads_on_a_law_with_holes_counts_what_the_network_has_elsewhere():
    limits = np.array([2, 3, 1])
    network = random_network("basis", limits, [0, 1, 2])
    states = all_states(limits)[::2]
    p = np.random.default_rng(3).dirichlet(np.ones(len(states)))
    p[:2] = 0.0
    p /= p.sum()
    kl, tv = fit_heads(network, states, p)
    every = all_states(limits)
    q = network.log_prob(torch.from_numpy(every)).exp().numpy()
    full = np.zeros(len(every))
    full[::2] = p
    assert kl < 1e-3
    assert tv == pytest.approx(0.5 * np.abs(full - q).sum(), abs=1e-12)
