"""Neighbours: compiled kernels against the definition, and the laws that the limits rule must obey."""

import numpy as np
import pytest
import twins
from kernel_networks import NETWORKS, SPECS, build, random_states

from hpcme.kernels.compiling import PARALLEL_FROM
from hpcme.kernels.inflow import inflow
from hpcme.kernels.neighbours import incoming, incoming_flat, outflow, outgoing, outgoing_flat
from hpcme.kernels.propensity import propensities_mean
from hpcme.model.builder import ModelBuilder

BOTH = [(incoming, -1), (outgoing, 1)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kernel, sign", BOTH)
def test_equals_the_definition(name, kernel, sign):
    net = NETWORKS[name]
    n = random_states(net, 40)
    y, inside = kernel(n, net.s, net.limits)
    expected, expected_inside, _ = twins.moved(n, net.s, net.limits, sign)
    np.testing.assert_array_equal(inside, expected_inside)
    np.testing.assert_array_equal(y, expected)
    assert y.dtype == np.int32


@pytest.mark.parametrize("name", NETWORKS)
def test_outgoing_then_incoming_returns(name):
    net = NETWORKS[name]
    n = random_states(net, 50)
    y, inside = outgoing(n, net.s, net.limits)
    for k in range(net.R):
        back, back_inside = incoming(y[:, k], net.s, net.limits)
        assert back_inside[inside[:, k], k].all()
        np.testing.assert_array_equal(back[inside[:, k], k], n[inside[:, k]])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("padded, flat", [(incoming, incoming_flat), (outgoing, outgoing_flat)])
def test_flat_lists_what_the_padded_ones_hold(name, padded, flat):
    net = NETWORKS[name]
    n = random_states(net, 50)
    y, inside = padded(n, net.s, net.limits)
    ptr, reaction, states = flat(n, net.s, net.limits)
    np.testing.assert_array_equal(np.diff(ptr), inside.sum(axis=1))
    row, k = np.nonzero(inside)
    np.testing.assert_array_equal(reaction, k)
    np.testing.assert_array_equal(states, y[row, k])


@pytest.mark.parametrize("name", NETWORKS)
def test_outflow_equals_the_definition(name):
    net = NETWORKS[name]
    n = random_states(net, 50)
    a, leak = outflow(net.tables, n, net.s, net.limits, 0.8)
    expected_a, expected_leak = twins.outflow(net, n, 0.8)
    np.testing.assert_allclose(a, expected_a, rtol=1e-14)
    np.testing.assert_allclose(leak, expected_leak, rtol=1e-14)


@pytest.mark.parametrize("name", ["epidemic", "random0", "random3", "random7"])
def test_averaged_outflow_uses_the_averaged_propensities(name):
    net = NETWORKS[name]
    n = random_states(net, 30)
    inside = outgoing(n, net.s, net.limits)[1]
    a = outflow(net.tables, n, net.s, net.limits, 0.2, 0.9)[0]
    np.testing.assert_array_equal(a, np.where(inside, propensities_mean(net.tables, n, 0.2, 0.9), 0.0))


@pytest.mark.parametrize("name", [x for x in NETWORKS if x.startswith("random")])
def test_box_generator_keeps_probability(name):
    """Reflecting rule: over all states of the box, what flows out of a state flows into others."""
    net = NETWORKS[name]
    grid = np.stack(np.meshgrid(*[np.arange(m + 1) for m in net.limits], indexing="ij"), -1)
    n = grid.reshape(-1, net.S).astype(np.int32)
    place = np.array([np.prod(net.limits[i + 1 :] + 1) for i in range(net.S)])
    a, _ = outflow(net.tables, n, net.s, net.limits, 0.3)
    row, _, y, rate = inflow(net.tables, n, net.s, net.limits, 0.3, 0.3)
    A = np.zeros((len(n), len(n)))
    np.add.at(A, (row, y @ place), rate)
    np.testing.assert_allclose(A.sum(axis=0), a.sum(axis=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_order_of_species_and_reactions_does_not_matter(name):
    net = build(name)
    rng = np.random.default_rng(6)
    species, reactions = rng.permutation(net.S), rng.permutation(net.R)
    other = build(name, species_order=species.tolist(), reaction_order=reactions.tolist())
    n = random_states(net, 40)
    y, inside = incoming(n, net.s, net.limits)
    y2, inside2 = incoming(n[:, species], other.s, other.limits)
    np.testing.assert_array_equal(inside2, inside[:, reactions])
    np.testing.assert_array_equal(y2, y[:, reactions][:, :, species])


def test_threads_change_nothing():
    net = NETWORKS["toggle"]
    n = random_states(net, PARALLEL_FROM + 999)
    y, inside = incoming(n, net.s, net.limits)
    a, leak = outflow(net.tables, n, net.s, net.limits, 0.0)
    for i in range(0, len(n), 5000):
        part = slice(i, i + 5000)
        y2, inside2 = incoming(n[part], net.s, net.limits)
        a2, leak2 = outflow(net.tables, n[part], net.s, net.limits, 0.0)
        for whole, piece in ((y, y2), (inside, inside2), (a, a2), (leak, leak2)):
            np.testing.assert_array_equal(whole[part], piece)


def test_a_move_below_zero_is_no_leak():
    builder = ModelBuilder("m").species("X", initial=0, max=2).species("Y", initial=0, max=2)
    net = builder.reaction("X -> 3 Y", propensity="1 + X").build()
    n = np.array([[0, 2], [1, 2], [0, 0]], dtype=np.int32)
    a, leak = outflow(net.tables, n, net.s, net.limits, 0.0)
    np.testing.assert_array_equal(a[:, 0], 0.0)
    np.testing.assert_array_equal(leak, [0.0, 2.0, 0.0])
