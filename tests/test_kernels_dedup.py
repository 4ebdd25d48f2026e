"""Distinct states: laws of unique_states, and the state table against a python dictionary."""

import numpy as np
import pytest
import twins
from kernel_networks import NETWORKS, random_states

from hpcme.kernels.compiling import PARALLEL_FROM
from hpcme.kernels.dedup import BELOW_ZERO, PAST_LIMIT, UNKNOWN, StateTable, unique_states


def batches(seed):
    """Random batches with many and with few repeats, of few and many species, of small and of the largest
    counts.
    """
    rng = np.random.default_rng(seed)
    for _ in range(12):
        S = int(rng.choice([1, 2, 4, 17, 40]))
        largest = int(rng.choice([1, 3, 50, 2**31 - 1]))
        yield rng.integers(0, largest, size=(int(rng.integers(0, 900)), S), endpoint=True).astype(np.int32)


@pytest.mark.parametrize("seed", range(4))
def test_laws_of_unique_states(seed):
    for n in batches(seed):
        u, inverse, counts = unique_states(n)
        np.testing.assert_array_equal(u[inverse], n)
        assert len({tuple(row) for row in u.tolist()}) == len(u)
        assert counts.sum() == len(n) and (counts == np.bincount(inverse, minlength=len(u))).all()
        first = np.array([np.flatnonzero(inverse == i)[0] for i in range(len(u))], dtype=int)
        assert (np.diff(first) > 0).all()


@pytest.mark.parametrize("S, largest", [(1, 5000), (3, 12), (6, 3), (25, 1)])
def test_table_equals_a_dictionary_while_it_grows(S, largest):
    rng = np.random.default_rng(S)
    table, known = StateTable(S, room=1), {}
    for _ in range(40):
        n = rng.integers(0, largest, size=(int(rng.integers(0, 300)), S), endpoint=True).astype(np.int32)
        before = len(known)
        expected = [known.setdefault(tuple(row), len(known)) for row in n.tolist()]
        index, new = table.add(n)
        np.testing.assert_array_equal(index, expected)
        assert [tuple(row) for row in new.tolist()] == list(known)[before:]
        probe = rng.integers(0, largest + 2, size=(50, S)).astype(np.int32)
        np.testing.assert_array_equal(
            table.find(probe), [known.get(tuple(row), -1) for row in probe.tolist()]
        )
    assert len(table) == len(known) > 100 or largest == 1
    assert [tuple(row) for row in table.states.tolist()] == list(known)


def test_rows_are_compared_not_only_their_hashes():
    """Every state of a full box is found again under its own number (a collision taken for equality would
    merge two).
    """
    n = np.stack(np.meshgrid(*[np.arange(20)] * 4, indexing="ij"), -1).reshape(-1, 4).astype(np.int32)
    table = StateTable(4)
    index, _ = table.add(n)
    np.testing.assert_array_equal(index, np.arange(len(n)))
    np.testing.assert_array_equal(table.find(n[::-1]), np.arange(len(n))[::-1])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("sign", [1, -1])
def test_find_moved_equals_the_definition(name, sign):
    net = NETWORKS[name]
    n = random_states(net, 300)
    table = StateTable(net.S)
    table.add(n)
    rows = table.states[:80]
    y, inside, negative = twins.moved(rows, net.s, net.limits, sign)
    expected = np.where(negative, BELOW_ZERO, PAST_LIMIT)
    found = np.stack([table.find(y[:, k]) for k in range(net.R)], axis=1)
    expected[inside] = found[inside]
    got = table.find_moved(rows, net.s, net.limits, sign)
    np.testing.assert_array_equal(got, expected)
    assert net.S > 2 or (got != UNKNOWN).any()


def test_threads_change_nothing():
    net = NETWORKS["toggle"]
    n = random_states(net, PARALLEL_FROM + 500)
    table = StateTable(net.S)
    table.add(n)
    pieces = [table.find_moved(n[i : i + 4000], net.s, net.limits) for i in range(0, len(n), 4000)]
    np.testing.assert_array_equal(table.find_moved(n, net.s, net.limits), np.concatenate(pieces))
