"""Numbers for automatic limits (max = "auto"): exact where conservation laws give them, else from trajectories.

1. A species that the conservation laws and inequalities bound gets that bound: nothing is guessed.
2. For the others, exact trajectories over [0, end] show how far counts go. Their largest counts M have a tail, and the
   limit is where the tail, extrapolated, has fallen to 1e-9. The tail is taken for geometric beyond its highest
   twentieth, and beyond its ten largest counts (which see a second mode of small weight); the larger limit counts:

       P(M > u + y) = k/N exp(-y / beta),   1 / (1 - exp(-1/beta)) = mean excess of the k largest over u,

   (Pickands, Ann. Stat. 3, 119, 1975, with shape 0; Davison and Smith, J. R. Stat. Soc. B 52, 393, 1990): right for
   birth and death and all else whose tail is geometric, too wide for lighter tails, such as those of Poisson laws.
3. Where the states within these limits can be listed, counts that none of them has are left out: a gene that a
   propensity keeps at 0 or 1 gets the limit 1.

What no trajectory has met (a burst of probability 1e-5) is not in such a limit: solvers measure what leaves through
automatic limits and grow them (`grown`). Everything is a function of (model, end, seed).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hpcme.errors import InputError, NumericalError
from hpcme.exact.ensemble import solve_ssa
from hpcme.kernels.propensity import propensities
from hpcme.kernels.reach import reachable
from hpcme.model.event import remaps
from hpcme.model.network import LARGEST_LIMIT, ReactionNetwork

#: Probability that a limit found from trajectories leaves above it, by the extrapolated tail.
TAIL = 1e-9
TRAJECTORIES = 2000
#: Reactions that an ensemble, or one trajectory, may take; of rates that read the time, which cost more, fewer.
_BUDGET, _BUDGET_TIMED = 10_000_000, 1_000_000
_FIRST = 16  # trajectories that are simulated whatever they cost
_CHUNK = 250  # trajectories whose states are held at a time
_STREAM = 0x11_3175  # keeps these trajectories apart from those of `hpcme ssa`
_UNBOUNDED = 10**15  # stands for "no limit" in conservation laws with coefficients up to 1e6
_LISTED = 200_000  # states within the limits that are listed
_PROBES = 1025  # times at which rates that read the time are looked at for that
_WALL, _VISITS = 50, 100  # largest count, and visits of it, from which a wall is believed where states are too many
_FACTORS = (1.5, 2.0)  # by which a limit grows at first, and later


@dataclass(frozen=True)
class Limit:
    """The largest count of one species: its name, the number, and how it was found.

    how: "given" (by the model), "conserved" (laws), "trajectories", "reachable" (no state within the other limits has
    more), "wall" (the rates vanish there). seen: largest count met. box: the number before step 3.
    """

    species: str
    largest: int
    how: str
    seen: int
    box: int

    @property
    def grows(self) -> bool:
        """Whether what leaves through this limit says that it is too small."""
        return self.how not in ("given", "conserved")

    def text(self) -> str:
        """How it was found, for people."""
        return {
            "given": "given",
            "conserved": "automatic: conservation laws",
            "trajectories": f"automatic: trajectories went up to {self.seen}",
            "reachable": "automatic: no more can be reached",
            "wall": f"automatic: rates vanish at {self.largest}",
        }[self.how]


@dataclass(frozen=True)
class LimitsReport:
    """The limits of all species, in order, and what they rest on: trajectories to the time `end`, and how often they
    were grown since."""

    limits: tuple[Limit, ...]
    trajectories: int
    end: float
    grown: int = 0

    def __iter__(self):
        return iter(self.limits)

    @property
    def numbers(self) -> list[int]:
        """The largest counts, in the order of the species."""
        return [limit.largest for limit in self.limits]

    @property
    def grows(self) -> np.ndarray:
        """bool [S]: the limits that grow when probability leaves through them."""
        return np.array([limit.grows for limit in self.limits])

    def apply(self, net: ReactionNetwork) -> ReactionNetwork:
        """The network with these numbers."""
        return net.with_limits({limit.species: limit.largest for limit in self.limits})

    def plain(self) -> dict[str, Any]:
        """As JSON holds it; `from_plain` undoes it."""
        return asdict(self) | {"limits": [asdict(limit) for limit in self.limits]}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> LimitsReport:
        """Undo `plain`."""
        return cls(**{**data, "limits": tuple(Limit(**limit) for limit in data["limits"])})

    def automatic_text(self) -> str:
        """ "X 0..47, Y 0..12" for the automatic ones."""
        return ", ".join(f"{limit.species} 0..{limit.largest}" for limit in self.limits if limit.how != "given")


def resolve_limits(net: ReactionNetwork, end: float, seed: int = 0) -> tuple[ReactionNetwork, LimitsReport]:
    """The network with a number for every limit that was automatic, and how each was found.

    end: time up to which the limits have to hold, model time units. Networks without automatic limits come back as they
    are. Takes seconds at most, whatever the model: the number of reactions simulated is bounded.

    Raises
    ------
    InputError : a count passes 1e6 before `end` (names the species and the time), trajectories take too many reactions,
        a propensity is negative or not finite.
    """
    auto = np.array(net.auto_limits)
    bounds = np.where(auto, _UNBOUNDED, net.bounds)
    implied = net.laws.implied_limits(bounds)
    conserved = auto & (implied < LARGEST_LIMIT * 100)
    _refuse_beyond(net, conserved & (implied > LARGEST_LIMIT), implied)
    start = _starts(net)
    box = np.where(conserved, np.maximum(implied, 1), np.minimum(bounds, LARGEST_LIMIT))
    how = np.where(conserved, "conserved", np.where(auto, "trajectories", "given"))
    seen, number, walls = start.copy(), 0, np.zeros(net.S, dtype=bool)
    free = auto & ~conserved
    if free.any():
        ensemble = _Ensemble.of(net, end, seed)
        seen, number = np.maximum(start, ensemble.seen), ensemble.number
        jumps = np.maximum(net.s.max(axis=0), 0)
        for i in np.flatnonzero(free):
            box[i] = rounded_up(max(tail_limit(ensemble.maxima[:, i], TAIL), seen[i] + jumps[i], start[i], 1))
        walls = free & ensemble.walls() & (ensemble.seen >= start)
        box, how = np.where(walls, np.maximum(seen, 1), box), np.where(walls, "wall", how)
    rows = zip(net.species, box.tolist(), how.tolist(), seen.tolist(), strict=True)
    report = LimitsReport(tuple(Limit(name, most, h, s, most) for name, most, h, s in rows), number, float(end))
    return _tightened(net, report)


def grown(net: ReactionNetwork, report: LimitsReport, names: Iterable[str]) -> tuple[ReactionNetwork, LimitsReport]:
    """The network (with its limits as written) and the report with larger limits for these species.

    InputError when one of them has the largest limit already.
    """
    names, factor = set(names), _FACTORS[min(report.grown, 1)]
    limits = []
    for limit in report:
        if limit.grows and limit.species in names:
            if limit.box >= LARGEST_LIMIT:
                raise _unbounded(net, limit.species, f"probability still leaves through {LARGEST_LIMIT}")
            most = rounded_up(max(factor * limit.box, limit.box + 10))
            limit = replace(limit, largest=most, box=most, how="trajectories")
        limits.append(limit)
    return _tightened(net, replace(report, limits=tuple(limits), grown=report.grown + 1))


def rounded_up(x: float) -> int:
    """The next larger number of two digits and zeros, at most the largest limit."""
    unit = 10 ** max(0, math.floor(math.log10(max(x, 1.0))) - 1)
    return min(LARGEST_LIMIT, math.ceil(x / unit - 1e-9) * unit)


def tail_limit(maxima: np.ndarray, tail: float) -> float:
    """The count beyond which the extrapolated tail of the largest counts of N trajectories carries `tail`.

    maxima int [N], N >= 4. See the head of this file; mean excesses are made larger by their own relative standard
    error, 1 / sqrt(k).
    """
    N, found = len(maxima), 0.0
    fewest = min(10, N // 2)
    for wanted in {fewest, max(fewest, N // 20)}:
        u = int(np.sort(maxima)[N - wanted]) - 1  # counts tie: all that are equal are above it
        above = maxima[maxima > u] - u
        excess = float(above.mean()) * (1.0 + 1.0 / math.sqrt(len(above)))
        found = max(found, u + math.log(len(above) / N / tail) / -math.log1p(-1.0 / excess))
    return found


def looked_at(net: ReactionNetwork, end: float) -> np.ndarray:
    """Times from 0 to end at which trajectories are looked at, float64 [T]: dense at the start, where rates switch, and
    right after events."""
    even, early = np.linspace(0.0, end, 257), np.geomspace(1e-4 * end, end, 33)
    return np.unique(np.concatenate([even, early, net.switch_times(end)[:200], net.event_times(end)]))


class _Ensemble:
    """What trajectories showed: number; maxima int64 [N, S], their largest counts; seen and least, extremes [S]."""

    def __init__(self, net: ReactionNetwork, end: float, seed: int) -> None:
        self.net, self.times = net, looked_at(net, end)
        self.seed = (seed ^ _STREAM) & (2**63 - 1)
        self.budget = _BUDGET_TIMED if net.time_dependent else _BUDGET
        self.number, self.events = 0, 0
        self.maxima = np.zeros((0, net.S), dtype=np.int64)
        self.seen = np.zeros(net.S, dtype=np.int64)
        self.least = np.full(net.S, _UNBOUNDED)
        self.visits = np.zeros(net.S, dtype=np.int64)  # how often the largest count was met, and whether it can be left
        self.open = np.zeros(net.S, dtype=bool)  # upwards

    @classmethod
    def of(cls, net: ReactionNetwork, end: float, seed: int) -> _Ensemble:
        """As many trajectories as the budget allows. Raises InputError."""
        self = cls(net, end, seed)
        self.add(1)
        self.add(_FIRST - 1)
        wanted = int(np.clip(self.budget * _FIRST / max(self.events, 1), _FIRST, TRAJECTORIES))
        while self.number < wanted:
            self.add(min(_CHUNK, wanted - self.number))
        return self

    def add(self, number: int) -> None:
        try:
            found = solve_ssa(
                self.net, self.times, number, self.seed, first_index=self.number, max_events=self.budget
            )
        except NumericalError:
            raise self.too_long() from None
        samples = found.samples
        self.refuse_large(samples)
        self.look_at_walls(samples)
        self.maxima = np.concatenate([self.maxima, samples.max(axis=0)])
        self.seen = self.maxima.max(axis=0)
        self.least = np.minimum(self.least, samples.min(axis=(0, 1)))
        self.number += number
        self.events += int(found.events.sum())

    def look_at_walls(self, samples: np.ndarray) -> None:
        """Count visits of the largest counts so far, and see whether any reaction leads beyond them."""
        for i in np.flatnonzero(np.array(self.net.auto_limits) & (samples.max(axis=(0, 1)) <= _WALL)):
            most = int(samples[:, :, i].max())
            if most > self.seen[i] or self.number == 0:
                self.visits[i], self.open[i] = 0, False
            if most < self.seen[i] or self.open[i]:
                continue
            raising = np.flatnonzero(self.net.s[:, i] > 0)
            timed = self.net.time_dependent
            looks = zip(self.times, samples, strict=True) if timed else [(0.0, samples.reshape(-1, self.net.S))]
            for t, row in looks:
                n = np.ascontiguousarray(row[row[:, i] == most])
                self.visits[i] += len(n)
                if len(n) and (propensities(self.net.tables, n, float(t))[:, raising] > 0.0).any():
                    self.open[i] = True
                    break

    def walls(self) -> np.ndarray:
        """bool [S]: species that moved, whose largest count was met often, and never with a reaction that leads beyond
        it."""
        return ~self.open & (self.visits >= _VISITS) & (self.seen <= _WALL) & (self.least < self.seen)

    def refuse_large(self, samples: np.ndarray) -> None:
        """Raise InputError where a count passes what a limit may be."""
        most = np.where(self.net.auto_limits, samples.max(axis=1), 0)  # [T, S]
        over = np.argwhere(most > LARGEST_LIMIT)
        if len(over):
            t, i = over[0]
            raise _unbounded(self.net, self.net.species[i], f"a trajectory passes it by t = {self.times[t]:.4g}")

    def too_long(self) -> InputError:
        """Why trajectories take too many reactions: a count that explodes, or many reactions without growth."""
        low, high, counts, most = 0.0, float(self.times[-1]), None, self.budget // 5
        while high - low > 1e-6 * high:
            middle = 0.5 * (low + high)
            try:
                found = solve_ssa(self.net, [middle], 1, self.seed, first_index=self.number, max_events=most)
            except NumericalError:
                high = middle
                continue
            low, counts = middle, found.samples[0, 0]
        counts = np.where(self.net.auto_limits, self.net.initial.mean() if counts is None else counts, 0)
        i = int(np.argmax(counts))
        if counts[i] > LARGEST_LIMIT / 50:
            return _unbounded(self.net, self.net.species[i], f"a trajectory passes it by about t = {high:.4g}")
        names = ", ".join(itertools.compress(self.net.species, self.net.auto_limits))
        return InputError(
            f"{self.net.source}: max of {names} is automatic, but trajectories take more than {most} "
            f"reactions to get to t = {high:.4g}, too many to find limits from. Fix: give max = largest count, or an "
            "earlier end"
        )


def _tightened(net: ReactionNetwork, report: LimitsReport) -> tuple[ReactionNetwork, LimitsReport]:
    """Limits of which some cannot be reached, made as small as the states within all limits allow.

    Where these are too many to be listed the limits stay; what was found in a smaller box is a guess then.
    """
    resolved = report.apply(net)
    if not report.grows.any():
        return resolved, report
    box = net.with_limits({limit.species: limit.box for limit in report})
    try:
        first, _ = box.initial.support(max_states=_LISTED)
    except InputError:  # the start alone has more states
        return resolved, report
    times = np.linspace(0.0, report.end, _PROBES) if net.time_dependent else None
    states, complete = reachable(
        first, net.tables, net.s, box.limits, _LISTED, times=times, remaps=remaps(box, report.end)
    )
    if not complete:
        return resolved, report
    most = np.maximum(np.maximum(states.max(axis=0), _starts(net)), 1).tolist()
    if any(limit.seen > m for limit, m in zip(report, most, strict=True) if limit.grows):
        return resolved, report  # trajectories go where no reaction within these limits leads: trust them
    limits = []
    for limit, m in zip(report, most, strict=True):
        if limit.grows:
            how = "reachable" if m < limit.box else "trajectories" if limit.how == "reachable" else limit.how
            limit = replace(limit, largest=m, how=how)
        limits.append(limit)
    report = replace(report, limits=tuple(limits))
    return report.apply(net), report


def _starts(net: ReactionNetwork) -> np.ndarray:
    """Largest counts of the starting law, int64 [S]."""
    return np.array([net.initial.extent(unit)[1] for unit in np.eye(net.S, dtype=np.int64)], dtype=np.int64)


def _refuse_beyond(net: ReactionNetwork, beyond: np.ndarray, bounds: np.ndarray) -> None:
    """InputError for a species whose conservation laws allow more than the largest limit."""
    for i in np.flatnonzero(beyond):
        raise _unbounded(net, net.species[i], f"conservation laws allow it {bounds[i]}")


def _unbounded(net: ReactionNetwork, name: str, why: str) -> InputError:
    return InputError(
        f"{net.source}: max of species {name} is automatic, and no limit up to {LARGEST_LIMIT} will do: {why}. Fix: an "
        f"earlier end, rates that do not let {name} grow so far, or a larger unit (such as hundreds of molecules)"
    )
