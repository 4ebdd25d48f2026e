"""Exact support: decision diagrams from states and from laws say the same and mask exactly."""

import numpy as np
import pytest
import torch
from solver_cases import all_states

from hpcme.errors import InputError
from hpcme.networks import support as supports

NONE = np.zeros((0, 4), dtype=np.int64)
EMPTY = np.zeros(0, dtype=np.int64)
LIMITS = np.array([3, 4, 2, 5])


def members(diagram, limits=LIMITS):
    states = all_states(limits)
    inside = diagram.contains(torch.from_numpy(states)).numpy()
    return {tuple(row) for row in states[inside].tolist()}


def test_box_holds_every_state_and_masks_nothing():
    diagram = supports.box(LIMITS)
    assert diagram.is_box and diagram.size == np.prod(LIMITS + 1)
    assert all(diagram.mask(i, torch.zeros(3, dtype=torch.int64)) is None for i in range(4))


@pytest.mark.parametrize("seed", range(8))
def test_diagram_of_a_random_set_holds_exactly_that_set(seed):
    random = np.random.default_rng(seed)
    states = all_states(LIMITS)
    chosen = states[random.random(len(states)) < random.uniform(0.02, 0.9)]
    diagram = supports.from_states(random.permutation(chosen), LIMITS)
    assert members(diagram) == {tuple(row) for row in chosen.tolist()}
    assert diagram.size == len(chosen)


@pytest.mark.parametrize("seed", range(12))
def test_laws_and_enumeration_build_the_same_set(seed):
    random = np.random.default_rng(seed)
    equalities = random.integers(-1, 3, (random.integers(0, 3), 4))
    inequalities = random.integers(0, 3, (random.integers(0, 2), 4))
    anchor = random.integers(0, LIMITS + 1)
    values, bounds = equalities @ anchor, inequalities @ anchor + random.integers(0, 3, len(inequalities))
    states = all_states(LIMITS)
    obeys = (states @ equalities.T == values).all(1) & (states @ inequalities.T <= bounds).all(1)
    by_laws = supports.from_laws(LIMITS, equalities, values, inequalities, bounds)
    assert members(by_laws) == {tuple(row) for row in states[obeys].tolist()}
    assert by_laws.size == obeys.sum()


def test_every_kept_prefix_can_be_completed():
    diagram = supports.from_laws(LIMITS, np.array([[1, 1, 1, 1]]), np.array([9]), NONE, EMPTY)
    for i in range(4):
        assert (diagram.table(i) >= 0).any(dim=1).all()


def test_diagram_is_small_where_prefixes_are_alike():
    limits = np.array([100, 100, 100])
    ones = np.array([[1, 1, 1]])
    no = np.zeros((0, 3), dtype=np.int64)
    diagram = supports.from_laws(limits, ones, np.array([100]), no, EMPTY)
    assert [diagram.table(i).shape[0] for i in range(3)] == [1, 101, 101] and diagram.size == 5151
    slack = supports.from_laws(np.array([5, 5, 5]), no, EMPTY, ones, np.array([15]))
    assert slack.is_box  # a bound that no state can break costs nothing


def test_contradictory_laws_are_refused():
    with pytest.raises(InputError, match="no state within the limits"):
        supports.from_laws(LIMITS, np.array([[2, 2, 2, 2]]), np.array([7]), NONE, EMPTY)


def test_a_support_beyond_memory_is_refused_with_the_fix():
    no = np.zeros((0, 2), dtype=np.int64)
    with pytest.raises(InputError, match=r"network\.order"):
        supports.from_laws(np.array([40000, 40000]), np.array([[1, 1]]), np.array([40000]), no, EMPTY)
