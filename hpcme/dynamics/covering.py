"""Covering samples: distinct states with counting weights, drawn so that what the law is about to invade is seen.

A `Cloud` stands for sums over all states, sum_n f(n) ~ sum_{n in cloud} w(n) f(n), with E[w 1(n in cloud)] = 1 for
every state that may be drawn. Three parts draw states:

  q          systematic points through the law's own conditionals (below),
  tail       the same through flattened conditionals q_i^alpha, renormalised: tails and rare modes,
  pushed     states of q moved by one random transition: states about to be invaded.

Systematic sampling: N equidistant points with one random offset are sent through the conditional distribution
functions; a state of probability p receives floor(N p) or ceil(N p) of them, so it is in the set with probability
min(1, N p), known without looking at the other states (systematic sampling with unequal probabilities: Madow 1949).
Such a set weighs each of its states by the inverse of that probability (Horvitz and Thompson 1952): a state with
N p >= 1 carries weight 1 and no noise at all, so small systems are summed exactly without being treated apart. The
parts are combined by the balance heuristic (Veach and Guibas 1995): w = (number of parts that drew n) / (sum of the
probabilities that they draw it). Points are counted per prefix, not carried one by one: a huge N costs nothing.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from hpcme.dynamics.enumeration import Enumeration
from hpcme.dynamics.streams import generator
from hpcme.dynamics.tangent import HeadParameters, StateTree, flattened
from hpcme.networks.base import VAN, cumulative

_MOST_POINTS = 1e12  # beyond it the spacing of float64 numbers in [0, 1) would show
#: Probability that exact sums may leave out per step, all together, now and by inflow: hardly any while the states are
#: few, more where there are many. What is left out is not held by the equations, only by damping.
NEGLIGIBLE, MANY, NEGLIGIBLE_OF_MANY = 1e-12, 8000, 1e-6

SPREAD = 0.5  # share of the samples with one flattened conditional in which that count is moved by one instead


@torch.no_grad()
def systematic(
    network: VAN, points: float, offset: float, temper: float | list[float], fresh: torch.Tensor,
    spread: float = 0.0,
) -> tuple:  # fmt: skip
    """States hit by `points` equidistant points with a random offset in [0, 1).

    temper: exponent of every conditional, or of each; spread: what else is done to those flattened (`flattened`).
    fresh: uniforms that replace the position of a point once it is alone in its prefix (its position there is uniform,
    but float64 has run out of digits for it). Returns n int32 [U, S], how many points hit each, float64 [U], and the
    natural logarithm of the probability of each under the law that was drawn from, float64 [U].
    """
    device = network.device
    hits = torch.tensor([float(points)], dtype=torch.float64, device=device)
    first = torch.tensor([offset / points], dtype=torch.float64, device=device)  # first point, in its prefix's [0, 1)
    spacing = torch.tensor([1.0 / points], dtype=torch.float64, device=device)
    logr, node, carry = torch.zeros_like(hits), torch.zeros(1, dtype=torch.int64, device=device), network.begin()
    columns: list[torch.Tensor] = []
    used = 0
    for i in range(network.S):
        logp = network.conditional(i, network.hidden(i, carry), node)
        exponent = temper[i] if isinstance(temper, list) else temper
        if exponent != 1.0:
            logp = flattened(logp, exponent, spread)
        top = cumulative(logp.exp())
        top = top / top[:, -1:]
        low = torch.cat([torch.zeros_like(top[:, :1]), top[:, :-1]], dim=1)
        # Points first + k spacing, k = 0 .. hits - 1, that lie in [low, top): from..until - 1.
        begin = torch.ceil((low - first[:, None]) / spacing[:, None]).clamp_min(0.0)
        end = torch.ceil((top - first[:, None]) / spacing[:, None]).clamp_min(0.0)
        end[:, -1] = torch.inf  # rounding must not drop the last point
        end = torch.minimum(end, hits[:, None])
        begin = torch.minimum(begin, hits[:, None])
        parent, count = ((end > begin) & (top > low)).nonzero(as_tuple=True)
        width = (top - low)[parent, count]
        hits = (end - begin)[parent, count]
        first = ((first[parent] + begin[parent, count] * spacing[parent] - low[parent, count]) / width).clamp(0.0, 1.0)
        spacing = spacing[parent] / width
        logr = logr[parent] + logp[parent, count]
        alone = (spacing >= 1.0) & (hits == 1.0)
        rank = torch.cumsum(alone, dim=0) - 1 + used
        first = torch.where(alone, fresh[rank.clamp_min(0) % fresh.shape[0]], first)
        used += int(alone.sum())
        columns = [column[parent] for column in columns] + [count]
        if i + 1 < network.S:
            carry = network.advance(i, carry, parent, count)
            node = network.support.advance(i, node[parent], count)
    n = torch.stack([columns[p] for p in network.position], dim=1).to(torch.int32)
    return n, hits, logr


@dataclass(frozen=True)
class Coverage:
    """How states are drawn: about `states` distinct ones, of which the shares `tail` and `pushed` come from the
    flattened law (exponent `temper`) and from one random transition.

    With many species a law that is flattened everywhere meets nothing but states far from all others. `each` flattens
    the conditional of one species at a time: rare counts of every species, among typical counts of the others.
    """

    states: int
    tail: float
    pushed: float
    temper: float
    seed: int
    each: bool = False  # flatten one conditional at a time, all others as they are


class Sampler:
    """Draws clouds; the number of systematic points follows the wanted number of distinct states from step to step."""

    def __init__(self, parameters: HeadParameters, enumeration: Enumeration, coverage: Coverage) -> None:
        self.parameters, self.enumeration, self.coverage = parameters, enumeration, coverage
        self.points = {"train": float(coverage.states), "tail": float(coverage.states)}

    def draw(self, step: int, t: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Distinct states of all parts, int32 [D, S], the same on every rank, and what their weights need."""
        cover = self.coverage
        own = 1.0 - cover.tail - cover.pushed
        parts = []
        for purpose, share, temper in (("train", own, 1.0), ("tail", cover.tail, cover.temper)):
            if share > 0.0 and purpose == "tail" and cover.each:
                parts += self._each(step)
            elif share > 0.0:
                parts.append(self._distinct(step, purpose, share * cover.states, temper))
        index = self.enumeration.new_index()
        pushed = self._pushed(step, t)
        number, n = index.add(torch.cat(parts if pushed is None else [*parts, pushed]))
        D, by_law = n.shape[0], sum(part.shape[0] for part in parts)
        info = {
            "hits": torch.bincount(number[:by_law], minlength=D).double(),
            "pushed": torch.bincount(number[by_law:], minlength=D).double(),
        }
        return n, info

    def _each(self, step: int) -> list[torch.Tensor]:
        """Distinct states of the laws with one flattened conditional, as many points for each."""
        cover, network = self.coverage, self.parameters.network
        found = []
        for i in range(network.S):
            random = generator(cover.seed, "tail", step, i, 0)
            tempers = [cover.temper if j == i else 1.0 for j in range(network.S)]
            fresh = torch.from_numpy(random.random(max(1024, 4 * cover.states))).to(network.device)
            found.append(systematic(network, self.points_each, float(random.random()), tempers, fresh, SPREAD)[0])
        return found

    @property
    def points_each(self) -> float:
        """Points through the law with one flattened conditional."""
        return max(1.0, self.coverage.tail * self.coverage.states / self.parameters.network.S)

    def _distinct(self, step: int, purpose: str, wanted: float, temper: float) -> torch.Tensor:
        """States of one part: points are halved or doubled until about `wanted` distinct states are hit."""
        network = self.parameters.network
        for trial in range(60):
            random = generator(self.coverage.seed, purpose, step, trial, 0)
            offset = float(random.random())
            fresh = torch.from_numpy(random.random(max(1024, 4 * self.coverage.states))).to(network.device)
            n, _, _ = systematic(network, self.points[purpose], offset, temper, fresh)
            if n.shape[0] > 1.5 * wanted and self.points[purpose] > 0.5 * wanted:
                self.points[purpose] *= 0.5
            elif n.shape[0] < 0.6 * wanted and self.points[purpose] < _MOST_POINTS and trial < 40:
                self.points[purpose] *= 2.0
                if n.shape[0] < 0.3 * wanted:
                    self.points[purpose] *= 2.0
            else:
                break
        return n

    def _pushed(self, step: int, t: float) -> torch.Tensor | None:
        count = int(self.coverage.pushed * self.coverage.states)
        if not count:
            return None
        random = generator(self.coverage.seed, "cover", step, 0, 0)
        fresh = torch.from_numpy(random.random(max(1024, 4 * count))).to(self.parameters.network.device)
        n, hits, _ = systematic(self.parameters.network, float(count), float(random.random()), 1.0, fresh)
        source = n.repeat_interleave(hits.long(), dim=0)
        u = torch.from_numpy(random.random(source.shape[0])).to(n.device)
        return self.enumeration.jump(source, u, t, t)


class Cloud:
    """This rank's part of a set of states, with all that the right-hand side of the master equation needs there.

    Rows are the states `n` (the first D of the tree), columns all states of the tree: rows and the sources of
    transitions into them. `inflow` [D, E] holds a_k(y) for every transition y -> n at time `t`.
    """

    def __init__(
        self, parameters: HeadParameters, enumeration: Enumeration, n: torch.Tensor, t: float, first: int = 0
    ) -> None:
        """n int32 [D, S]: states number first, first + 1, ... of all ranks' states."""
        self.parameters, self.enumeration, self.n, self.D, self.first = parameters, enumeration, n, n.shape[0], first
        self.index = enumeration.new_index()
        self.states = self.index.add(n)[1]
        self.tree: StateTree | None = None
        self.t = torch.nan
        self.weight = torch.ones(self.D, dtype=torch.float64, device=n.device)
        self.sampled = torch.zeros_like(self.weight)  # 1 - probability of being drawn
        self.at(t)

    def at(self, t: float) -> None:
        """Rates at time t. Transitions that were impossible before bring their sources into the tree."""
        if self.tree is not None and (t == self.t or not self.enumeration.net.time_dependent):
            return
        row, _, y, rate = self.enumeration.inflow(self.n, t, t)
        source, fresh = self.index.add(y)
        if fresh.shape[0] or self.tree is None:
            self.states = torch.cat([self.states, fresh])
            self.tree = StateTree(self.parameters, self.states)
        self.row, self.source, self.rate, self.t = row, source, rate, t
        self.inflow = sparse_rows(row, source, rate, (self.D, self.states.shape[0]))
        self.a0 = self.enumeration.outflow(self.n, t, t)[0].sum(dim=1)

    def balance(self, q: torch.Tensor) -> torch.Tensor:
        """(A q)(n), float64 [D], from probabilities q float64 [E] of the tree's states."""
        return self.inflow @ q - self.a0 * q[: self.D]

    def weigh(self, info: dict[str, torch.Tensor], sampler: Sampler) -> None:
        """Counting weights of sampled states (`Sampler.draw`), by the balance heuristic; collective with nobody."""
        cover = sampler.coverage
        if cover.tail and not cover.each:
            logq, flat = self.tree.log_prob(cover.temper)
            tail = (sampler.points["tail"] * flat[: self.D].exp()).clamp_max(1.0)
        else:
            logq, tail = self.tree.log_prob(), torch.zeros(self.D, dtype=torch.float64, device=self.n.device)
            if cover.tail:
                log = logq[: self.D] + self.tree.flattened_each(cover.temper, SPREAD)[:, : self.D]
                tail = (sampler.points_each * log.exp()).clamp_max(1.0).sum(dim=0)
        q = logq.exp()
        own = (sampler.points["train"] * q[: self.D]).clamp_max(1.0)
        total, drawn = own + tail, info["hits"]
        count = int(cover.pushed * cover.states)
        if count:
            exits = self.enumeration.outflow(self.states, self.t, self.t)[0].sum(dim=1)
            share = self.rate / exits[self.source] * q[self.source]
            arrive = torch.zeros_like(own).index_add_(0, self.row, share)
            arrive += torch.where(self.a0 == 0.0, q[: self.D], torch.zeros_like(own))
            # States that are certain to be drawn from q need no pushed samples: these would only add noise there.
            random = (own < 1.0).double()
            total = total + random * count * arrive
            drawn = drawn + random * info["pushed"]
        self.weight = torch.where(total > 0.0, drawn / total.clamp_min(1e-300), torch.zeros_like(total))
        self.sampled = (1.0 - total).clamp(0.0, 1.0)


def first_of_rows(row: torch.Tensor, number: int) -> torch.Tensor:
    """Where each of `number` rows begins among entries in ascending order of rows int64 [E]: int64 [number + 1]."""
    sizes = torch.bincount(row, minlength=number)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def compressed_rows(
    first: torch.Tensor, column: torch.Tensor, value: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    """Compressed sparse rows whose entries first[r] .. first[r + 1] - 1 belong to row r."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(first, column, value, shape, check_invariants=False)


def sparse_rows(row: torch.Tensor, column: torch.Tensor, value: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Compressed sparse rows; several transitions between the same states are added up."""
    entries = torch.sparse_coo_tensor(torch.stack([row, column]), value, shape, check_invariants=False)
    entries = entries.coalesce()
    row, column = entries.indices()
    return compressed_rows(first_of_rows(row, shape[0]), column, entries.values(), shape)
