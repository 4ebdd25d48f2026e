"""Exact support of a network: which counts may follow which prefix.

The support of an autoregressive law is a layered decision diagram (a multi-valued decision diagram, the usual
data structure for state spaces of the chemical master equation). Level i holds nodes; `tables[i][node, count]` is
the node of level i + 1 reached when the species at position i has that count, or -1 when no state of the support
continues that way. A network masks the -1 entries, so every sample lies in the support and the law is normalised
on it exactly. Two sources build the same object: an enumerated set of reachable states, or conservation laws.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hpcme.errors import InputError

_MAX_ENTRIES = 200_000_000  # 0.8 GB of int32: more is refused with a message
_M1, _M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


class Support(nn.Module):
    """Decision diagram over the species in network order.

    tables: list of S int32 arrays [nodes_i, K_i], K_i = limit + 1 of the species at position i; level 0 has one node.
    """

    def __init__(self, tables: list[np.ndarray]) -> None:
        super().__init__()
        self.levels = len(tables)
        # A level without a single -1 needs no mask; one node at the next level needs no look-up.
        self.masked = [bool((table < 0).any()) for table in tables]
        for i, table in enumerate(tables):
            self.register_buffer(f"table{i}", torch.from_numpy(table.astype(np.int64)), persistent=False)
        self.single = [i + 1 < len(tables) and tables[i + 1].shape[0] == 1 for i in range(len(tables))]
        self.is_box = not any(self.masked)

    def table(self, i: int) -> torch.Tensor:
        """Transition table of level i, int64 [nodes_i, K_i]."""
        return getattr(self, f"table{i}")

    def mask(self, i: int, node: torch.Tensor) -> torch.Tensor | None:
        """Allowed counts at position i, bool [B, K_i], or None where all are allowed."""
        return self.table(i)[node] >= 0 if self.masked[i] else None

    def advance(self, i: int, node: torch.Tensor, n_i: torch.Tensor) -> torch.Tensor:
        """Node of level i + 1, int64 [B]; -1 where (node, n_i) leaves the support."""
        if self.single[i] and not self.masked[i]:
            return torch.zeros_like(node)
        return self.table(i)[node, n_i]

    def contains(self, n: torch.Tensor) -> torch.Tensor:
        """bool [B]: states n int [B, S], in network order, that lie in the support (counts must be in the box)."""
        node = torch.zeros(n.shape[0], dtype=torch.int64, device=n.device)
        inside = torch.ones_like(node, dtype=torch.bool)
        for i in range(self.levels):
            node = self.table(i)[node, n[:, i].long()]
            inside &= node >= 0
            node = node.clamp_min(0)
        return inside

    @property
    def size(self) -> int:
        """Number of states in the support (exact Python integer)."""
        counts = [1]
        for i in reversed(range(self.levels)):
            table = self.table(i).cpu().numpy()
            counts = [sum(counts[c] for c in row[row >= 0]) for row in table]
        return int(counts[0])


def box(limits: np.ndarray) -> Support:
    """Support of all states 0..limits[i]; limits int64 [S] in network order."""
    return Support([np.zeros((1, int(k) + 1), dtype=np.int32) for k in limits])


def from_states(states: np.ndarray, limits: np.ndarray) -> Support:
    """Minimal diagram of a set of states.

    states: int [M, S], distinct rows, columns in network order; limits int64 [S].
    Built from the last level up: prefixes with equal continuations share a node.
    """
    rows = np.asarray(states)[np.lexsort(np.asarray(states).T[::-1])]
    child = np.zeros(len(rows), dtype=np.int64)
    tables: list[np.ndarray] = []
    for i in reversed(range(rows.shape[1])):
        prefix = rows[:, :i]
        first = np.concatenate([[True], (prefix[1:] != prefix[:-1]).any(axis=1)]) if i else None
        starts = np.flatnonzero(first) if i else np.zeros(1, dtype=np.int64)
        group = np.cumsum(first) - 1 if i else np.zeros(len(rows), dtype=np.int64)
        node = _group_nodes(rows[:, i].astype(np.int64), child, starts)
        count = int(node.max()) + 1
        _check_size(count, int(limits[i]) + 1)
        table = np.full((count, int(limits[i]) + 1), -1, dtype=np.int32)
        table[node[group], rows[:, i]] = child  # equal groups write equal entries
        tables.append(table)
        rows, child = rows[starts], node
    return Support(tables[::-1])


def _group_nodes(count: np.ndarray, child: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Number groups of (count, child) edges by content; a 128-bit sum of mixed edges identifies the content."""
    sums = []
    with np.errstate(over="ignore"):
        for m1, m2 in ((_M1, _M2), (_M2, _M1)):
            x = count.astype(np.uint64) * m1 + (child.astype(np.uint64) + np.uint64(1)) * m2
            for shift in (np.uint64(29), np.uint64(32), np.uint64(31)):
                x = (x ^ (x >> shift)) * m1
            sums.append(np.add.reduceat(x, starts))
    _, first, inverse = np.unique(np.stack(sums, axis=1), axis=0, return_index=True, return_inverse=True)
    # Number nodes by first appearance: independent of the hash values.
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def from_laws(
    limits: np.ndarray,
    equalities: np.ndarray,
    values: np.ndarray,
    inequalities: np.ndarray,
    bounds: np.ndarray,
) -> Support:
    """Support of all states in the box with equalities . n = values and inequalities . n <= bounds.

    limits int64 [S]; equalities int64 [E, S]; values int64 [E]; inequalities int64 [I, S]; bounds int64 [I];
    columns in network order. Raises InputError when no state obeys the laws.
    """
    S, E = len(limits), len(equalities)
    y = np.concatenate([equalities.reshape(-1, S), inequalities.reshape(-1, S)]).astype(np.int64)
    total = np.concatenate([values, bounds]).astype(np.int64)
    high = np.maximum(y, 0) * limits  # most and least that each later species can add to each law
    low = np.minimum(y, 0) * limits
    nodes = np.zeros((1, len(y)), dtype=np.int64)
    tables = []
    for i in range(S):
        rest_high, rest_low = high[:, i + 1 :].sum(axis=1), low[:, i + 1 :].sum(axis=1)
        K = int(limits[i]) + 1
        _check_size(len(nodes), K)
        part = nodes[:, None, :] + np.arange(K)[None, :, None] * y[None, None, :, i]
        possible = (part + rest_low <= total).all(axis=2)
        possible &= (part[:, :, :E] + rest_high[:E] >= total[:E]).all(axis=2)
        # Partial sums from which an inequality can no longer be broken are all alike: one node for them.
        part[:, :, E:] = np.maximum(part[:, :, E:], total[E:] - rest_high[E:])
        table = np.full((len(nodes), K), -1, dtype=np.int32)
        nodes, child = np.unique(part[possible], axis=0, return_inverse=True)
        if not len(nodes):
            raise InputError("no state within the limits obeys the conservation laws: check initial counts and limits")
        table[possible] = child.reshape(-1)
        tables.append(table)
    return Support(_prune(tables))


def _prune(tables: list[np.ndarray]) -> list[np.ndarray]:
    """Remove nodes from which no state of the support can be completed (last level upwards)."""
    for i in reversed(range(1, len(tables))):
        alive = (tables[i] >= 0).any(axis=1)
        renumber = np.where(alive, np.cumsum(alive) - 1, -1).astype(np.int32)
        tables[i] = tables[i][alive]
        above = tables[i - 1]
        tables[i - 1] = np.where(above >= 0, renumber[np.maximum(above, 0)], -1).astype(np.int32)
    if not (tables[0] >= 0).any():
        raise InputError("no state within the limits obeys the conservation laws: check initial counts and limits")
    return tables


def _check_size(nodes: int, counts: int) -> None:
    if nodes * counts > _MAX_ENTRIES:
        raise InputError(
            f"the exact support needs a table of {nodes} x {counts} entries, more than {_MAX_ENTRIES}: "
            "lower the species' max, or put species with small limits first in network.order"
        )
