"""Which species have to do with which: the graph of a reaction network, for choices that follow its structure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcme.model.tables import OPCODES

if TYPE_CHECKING:
    from hpcme.model.network import ReactionNetwork


def reads_and_changes(net: ReactionNetwork) -> tuple[np.ndarray, np.ndarray]:
    """bool [R+E, S] each: species that the propensity of a reaction depends on, and species that the reaction changes.

    The E rows behind those of the reactions are those of the events: species that one reads, and species that it sets.
    """
    tables = net.tables
    reads = np.zeros((net.R, net.S), dtype=bool)
    for k in range(net.R):
        code = slice(tables.code_ptr[k], tables.code_ptr[k + 1])
        reads[k, tables.arg[code][tables.op[code] == OPCODES["SPECIES"]].astype(np.int64)] = True
        reads[k, tables.re_sp[tables.re_ptr[k] : tables.re_ptr[k + 1]]] = True
    uses = [set().union(*(expr.names() for expr in event.assignments.values())) for event in net.events]
    sets = [event.assignments for event in net.events]
    changes = np.asarray(net.s) != 0
    return np.concatenate([reads, _rows(uses, net)]), np.concatenate([changes, _rows(sets, net)])


def regulators(net: ReactionNetwork) -> np.ndarray:
    """Species that the propensity of some reaction depends on, though it leaves them as they are: bool [S]."""
    reads, changes = reads_and_changes(net)
    return (reads[: net.R] & ~changes[: net.R]).any(axis=0)


def _rows(names: list, net: ReactionNetwork) -> np.ndarray:
    """bool [E, S]: which species are among the names of each event."""
    rows = [[name in found for name in net.species] for found in names]
    return np.array(rows, dtype=bool).reshape(len(rows), net.S)


def distances(net: ReactionNetwork) -> np.ndarray:
    """Number of reactions between any two species, int64 [S, S]: 1 where a reaction reads or changes both, and S where
    no chain of reactions joins them."""
    reads, changes = reads_and_changes(net)
    involved = (reads | changes).astype(np.int64)
    joined = (involved.T @ involved) > 0
    out = np.where(joined, 1, net.S).astype(np.int64)
    np.fill_diagonal(out, 0)
    for via in range(net.S):  # Floyd 1962
        out = np.minimum(out, out[:, via, None] + out[None, via, :])
    return np.minimum(out, net.S)
