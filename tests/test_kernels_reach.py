"""Reachable states against a python search, and counts known in closed form."""

import numpy as np
import pytest
import twins
from kernel_networks import NETWORKS, build

from hpcme.kernels.reach import reachable
from hpcme.model.builder import ModelBuilder

SMALL = {x: net for x, net in NETWORKS.items() if x.startswith("random")} | {
    "toggle": build("toggle", limits={"Px": 5, "Py": 4}),
    "early_life": build("early_life", limits={"A": 4, "D": 52, "L": 52}),
    "cascade_hill": build("cascade_hill", limits={"X1": 3, "X2": 4, "X3": 3}),
}


def start_of(net):
    return net.initial.support()[0]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("max_jumps", [None, 0, 1, 3])
def test_equals_a_python_search_in_content_and_order(name, max_jumps):
    net = SMALL[name]
    times = np.array([0.0, 0.9, 2.3])
    states, complete = reachable(start_of(net), net.tables, net.s, net.limits, 10_000, max_jumps, times)
    assert complete
    assert [tuple(row) for row in states.tolist()] == twins.reachable(net, start_of(net), times, max_jumps)


@pytest.mark.parametrize("name, count", [("early_life", 5151), ("epidemic", 39711), ("schlogl", 85)])
def test_known_numbers_of_states(name, count):
    """early_life: A + D + L = 100 has C(102, 2) solutions; epidemic: S + I + R <= 60 has C(63, 3);
    schlogl: the box.
    """
    net = NETWORKS[name]
    states, complete = reachable(start_of(net), net.tables, net.s, net.limits, 100_000)
    assert complete and len(states) == count
    if name == "early_life":
        assert (states.sum(axis=1) == 100).all()


def test_stops_at_max_states_and_says_so():
    net = NETWORKS["early_life"]
    full, _ = reachable(start_of(net), net.tables, net.s, net.limits, 5151)
    for most in (1, 100, 5150):
        states, complete = reachable(start_of(net), net.tables, net.s, net.limits, most)
        assert not complete
        np.testing.assert_array_equal(states, full[:most])
    assert reachable(start_of(net), net.tables, net.s, net.limits, 5151)[1]


def test_a_switched_rate_counts_at_the_times_given():
    net = (
        ModelBuilder("m").species("X", initial=0, max=5).reaction("0 -> X", rate="where(t > 2, 1, 0)").build()
    )
    assert len(reachable(start_of(net), net.tables, net.s, net.limits, 100)[0]) == 1
    times = np.array([0.0, 1.0, 3.0])
    assert len(reachable(start_of(net), net.tables, net.s, net.limits, 100, times=times)[0]) == 6


def test_several_starts_repeats_dropped():
    net = NETWORKS["schlogl"]
    start = np.array([[3], [80], [3]], dtype=np.int32)
    states, _ = reachable(start, net.tables, net.s, net.limits, 1000, max_jumps=1)
    assert states[:, 0].tolist() == [3, 80, 4, 2, 81, 79]
