"""The order in which a network takes the species, chosen from the graph of the reactions: `network.order = "auto"`.

q(n) = prod_i q_i(n_i | n_before_i) can be written in any order, but a network of given size holds some factorisations
better than others. A species comes before another one

1. where it acts on it one way: it is a catalyst or regulator that the other one never acts back on (a gene before what
   it makes, messenger RNA before protein). Loops of feedback are cut in front of their species with the smallest limit;
2. else where its limit is smaller: given the state of a gene, counts have one mode;
3. else where matter flows from it to the other one (along a cascade); the other way round where the two belong to
   conserved sums: the last one of a sum is what the others leave, and that had better be the one that all began as;
4. else where more species react in pairs with it: the hub of a mechanism before what it holds together.

Where none of these decides (species with the same part in the graph), the order of the model stays. With `network.far`
a conditional knows the total of what lies downstream, and after the first rule matter alone decides: products first.

Found by fitting networks to exact laws in every order (`python tests/benchmarks/orders.py`: the systems of jobs/ with
at most four species, and eighteen small networks). Small limits matter most: the toggle switch, genes first, is held to
a total variation of 0.006, proteins first to 0.024. Upstream before downstream alone is no better than chance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcme.model.influence import reads_and_changes

if TYPE_CHECKING:
    from hpcme.model.network import ReactionNetwork


def resolved_order(net: ReactionNetwork, order: str | list[str], far: bool = False) -> list[str]:
    """The order of the species that the job key `network.order` asks for: "auto", or a list of all names.

    far: the key `network.far`, for which totals of what lies downstream have to be known: "auto" puts products first.
    """
    return species_order(net, products_first=far) if order == "auto" else list(order)


def species_order(net: ReactionNetwork, products_first: bool = False) -> list[str]:
    """Names of all species in the order chosen from the reactions; a function of the network alone.

    products_first: where neither acts on the other one way, matter flows to a species from those after it, whatever
    their limits.
    """
    reads, changes = reads_and_changes(net)
    acts, flows = _edges(reads, changes), _edges(net.s < 0, net.s > 0)
    # A species that a reaction reads and leaves as it is acts on what changes; one way, where no chain leads back.
    one_way = _edges(reads & ~changes, changes) & ~_chains(_cut(acts, net.bounds)).T
    acting, flowing = _levels(one_way), _levels(flows)
    conserved = (net.laws.equalities != 0).any(axis=0)
    partners = _edges(reads, reads).sum(axis=1)

    def key(i: int) -> tuple[int, ...]:
        if products_first:
            return acting[i], -flowing[i], int(net.bounds[i]), -int(partners[i])
        return acting[i], int(net.bounds[i]), -flowing[i] if conserved[i] else flowing[i], -int(partners[i])

    return [net.species[i] for i in sorted(range(net.S), key=key)]


def _edges(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """bool [S, S]: one reaction has i among its sources and another species j among its targets; both bool [R, S]."""
    edges = (sources.T.astype(np.int64) @ targets.astype(np.int64)) > 0
    np.fill_diagonal(edges, False)
    return edges


def _chains(edges: np.ndarray) -> np.ndarray:
    """bool [S, S]: a chain of one or more edges leads from i to j (Warshall 1962)."""
    chains = edges.copy()
    for via in range(len(chains)):
        chains |= chains[:, via, None] & chains[None, via, :]
    return chains


def _cut(edges: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Edges without those that lead, within a cycle, to its nodes with the smallest limit; cycles of one limit stay."""
    edges = edges.copy()
    while True:
        chains = _chains(edges)
        cycle = chains & chains.T
        smallest = np.array([limits[members].min(initial=limits[j]) for j, members in enumerate(cycle)])
        largest = np.array([limits[members].max(initial=limits[j]) for j, members in enumerate(cycle)])
        cut = edges & cycle & ((limits == smallest) & (smallest < largest))[None, :]
        if not cut.any():
            return edges
        edges &= ~cut


def _levels(edges: np.ndarray) -> list[int]:
    """Edges on the longest path to each node when every cycle is drawn together to one node."""
    chains = _chains(edges)
    cycle = (chains & chains.T) | np.eye(len(edges), dtype=bool)
    between = chains & ~cycle
    levels = np.zeros(len(edges), dtype=np.int64)
    # Nodes upstream of others have fewer nodes upstream themselves: in that order every level is final when it is used.
    for j in sorted(range(len(edges)), key=lambda j: int(between[:, j].sum())):
        levels[j] = max((levels[i] + 1 for i in np.flatnonzero(between[:, j])), default=0)
    return levels.tolist()
