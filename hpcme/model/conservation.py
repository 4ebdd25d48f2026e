"""Conservation laws of a network: what every trajectory from the starting law must obey.

A vector y with s_k.y = 0 for all reactions k is conserved; where y.n has one value over the whole starting
law, it is an equality that every state obeys. A nonnegative y with s_k.y <= 0 for all k never grows, so y.n
stays at or below its largest value at the start: an inequality. All arithmetic is exact.

An event may give a species any count, so that laws hold of the other species only: as if there were a reaction that
makes this species out of nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpcme.model.cone import Vector, dot, echelon, extreme_rays, null_space, rank, simplicity
from hpcme.model.initial import InitialLaw

#: Rays held while inequalities or nonnegative laws are enumerated; beyond it they are given up (never wrong,
#: only fewer).
MOST_RAYS = 256
#: Inequalities that are kept, simplest first.
MOST_INEQUALITIES = 64
#: Laws with larger coefficients are left out.
LARGEST_COEFFICIENT = 1_000_000


@dataclass(frozen=True, eq=False)
class ConservationLaws:
    """Linear laws of the states that can occur.

    equalities : int64 [E, S] and values int64 [E]: equalities @ n == values, always; linearly independent,
        nonnegative where that is possible.
    inequalities : int64 [I, S], nonnegative, and bounds int64 [I]: inequalities @ n <= bounds, always; each
        says more than the equalities and the limits of single species do. At most 64, simplest first.
    """

    equalities: np.ndarray
    values: np.ndarray
    inequalities: np.ndarray
    bounds: np.ndarray

    def implied_limits(self, limits: np.ndarray) -> np.ndarray:
        """Largest counts (int64 [S]) that the laws and `limits` allow together; at most `limits`.

        Each law bounds each species by what is left when the others are as small (or as large) as they may
        be; repeated until nothing changes.
        """
        low = [0] * len(limits)
        high = [int(limit) for limit in limits]
        laws: list[tuple[Sequence[int], int, bool]] = [(y, v, True) for y, v in self.pairs()]
        laws += [(y, b, False) for y, b in zip(self.inequalities.tolist(), self.bounds.tolist(), strict=True)]
        for _ in range(10 * len(high)):
            before = (list(low), list(high))
            for y, value, is_equal in laws:
                _tighten(y, value, low, high)
                if is_equal:
                    _tighten([-x for x in y], -value, low, high)
            if (low, high) == before:
                break
        return np.array(high, dtype=np.int64)

    def pairs(self) -> list[tuple[Vector, int]]:
        """The equalities as (coefficients, value)."""
        return [(tuple(y), v) for y, v in zip(self.equalities.tolist(), self.values.tolist(), strict=True)]

    def satisfied(self, n: np.ndarray) -> np.ndarray:
        """bool [B]: which states n [B, S] obey all laws."""
        n = np.asarray(n, dtype=np.int64)
        equal = n @ self.equalities.T == self.values
        below = n @ self.inequalities.T <= self.bounds
        return equal.all(axis=1) & below.all(axis=1)

    def describe(self, species: Sequence[str]) -> list[str]:
        """Lines such as "A + D + L = 100" and "S + I + R <= 60"."""
        equal = zip(self.equalities, self.values, strict=True)
        below = zip(self.inequalities, self.bounds, strict=True)
        return [f"{linear_text(y, species)} = {value}" for y, value in equal] + [
            f"{linear_text(y, species)} <= {bound}" for y, bound in below
        ]


def find_laws(
    s: np.ndarray, initial: InitialLaw, limits: np.ndarray | None = None, free: Sequence[int] = ()
) -> ConservationLaws:
    """Laws of a network with state changes s (int64 [R, S]) that starts from `initial`.

    limits: largest counts int64 [S] of single species, beside which inequalities have to say more; default those of
    `initial`. free: indices of species that events set; no law is about them.
    """
    units = np.eye(s.shape[1], dtype=np.int64)[list(free)]
    changes = list(dict.fromkeys(tuple(row) for row in [*s.tolist(), *units.tolist()]))
    differences = [tuple(row) for row in initial.varying().tolist()]
    width = s.shape[1]
    equalities = [y for y in _equalities(changes, differences, width) if _small(y)]
    values = [initial.extent(np.array(y))[0] for y in equalities]
    fixed = _laws(equalities, values, [], [], width)
    limits = fixed.implied_limits(initial.limits if limits is None else limits).tolist()
    useful: list[tuple[Vector, int]] = []
    for y in _never_growing(changes, width):
        if not _small(y) or rank([*equalities, y], width) == len(equalities):
            continue
        bound = initial.extent(np.array(y))[1]
        if bound < dot(y, limits) and not any(_implies(e, v, y, bound) for e, v in fixed.pairs()):
            useful.append((y, bound))
    del useful[MOST_INEQUALITIES:]
    return _laws(equalities, values, [y for y, _ in useful], [bound for _, bound in useful], width)


def linear_text(y: Sequence[int] | np.ndarray, species: Sequence[str]) -> str:
    """Text of y.n, such as "X + 2 Y - Z"."""
    text = ""
    for coefficient, name in zip(np.asarray(y).tolist(), species, strict=True):
        if coefficient:
            sign = (" - " if text else "-") if coefficient < 0 else (" + " if text else "")
            size = abs(coefficient)
            text += f"{sign}{name}" if size == 1 else f"{sign}{size} {name}"
    return text or "0"


def _equalities(changes: list[Vector], differences: list[Vector], width: int) -> list[Vector]:
    """Basis of the laws that are conserved and have one value at the start, simple nonnegative ones first.

    A value is the same for all starting states when y is orthogonal to their differences, so both conditions
    make one null space.
    """
    rows, _ = echelon([*changes, *differences], width)
    basis = null_space(rows, width)
    if not basis:
        return []
    nonnegative = extreme_rays(rows, [], width, MOST_RAYS) or []
    candidates = nonnegative + sorted((_upright(y) for y in basis), key=simplicity)
    chosen: list[Vector] = []
    for y in candidates:
        if rank([*chosen, y], width) > len(chosen):
            chosen.append(y)
        if len(chosen) == len(basis):
            break
    return chosen


def _never_growing(changes: list[Vector], width: int) -> list[Vector]:
    """Extreme rays of {y >= 0, s_k.y <= 0 for all k}, or none when there are too many.

    A reaction that only makes species with y_i >= 0 forces y_i = 0 for what it makes; this removes most
    species of an open network before the enumeration.
    """
    alive = set(range(width))
    shrinking = True
    while shrinking:
        shrinking = False
        for change in changes:
            made = {i for i in alive if change[i] > 0}
            if made and not any(change[i] < 0 for i in alive):
                alive -= made
                shrinking = True
    order = sorted(alive)
    if not order:
        return []
    rows = {tuple(change[i] for i in order) for change in changes}
    rows.discard((0,) * len(order))
    rays = extreme_rays([], sorted(rows), len(order), MOST_RAYS) or []
    whole = []
    for ray in rays:
        y = [0] * width
        for i, value in zip(order, ray, strict=True):
            y[i] = value
        whole.append(tuple(y))
    return whole


def _tighten(y: Sequence[int], value: int, low: list[int], high: list[int]) -> None:
    """Use y.n <= value to move the ends of 0 <= low <= n <= high inwards."""
    least = sum(c * (low[i] if c > 0 else high[i]) for i, c in enumerate(y))
    for i, c in enumerate(y):
        if c > 0:
            room = value - (least - c * low[i])
            high[i] = max(low[i], min(high[i], room // c))
        elif c < 0:
            room = value - (least - c * high[i])
            low[i] = min(high[i], max(low[i], -(room // -c)))


def _upright(y: Vector) -> Vector:
    """The sign with more positive entries, the first nonzero one positive when there are as many."""
    positive, negative = sum(x > 0 for x in y), sum(x < 0 for x in y)
    first = next(x for x in y if x)
    flip = negative > positive or (negative == positive and first < 0)
    return tuple(-x for x in y) if flip else y


def _implies(equality: Vector, value: int, y: Vector, bound: int) -> bool:
    """Whether equality.n = value, n >= 0 give y.n <= bound, as y <= c * equality with c * value <= bound."""
    if min(equality) < 0 or any(a and not e for a, e in zip(y, equality, strict=True)):
        return False
    return all(a * value <= bound * e for a, e in zip(y, equality, strict=True) if a)


def _small(y: Vector) -> bool:
    """Whether y.n is safe in int64; networks with larger coefficients are not met outside contrived cases."""
    return max(map(abs, y)) <= LARGEST_COEFFICIENT


def _laws(
    equalities: Sequence[Vector],
    values: Sequence[int],
    inequalities: Sequence[Vector],
    bounds: Sequence[int],
    width: int,
) -> ConservationLaws:
    return ConservationLaws(
        equalities=np.array(equalities, dtype=np.int64).reshape(len(equalities), width),
        values=np.array(values, dtype=np.int64),
        inequalities=np.array(inequalities, dtype=np.int64).reshape(len(inequalities), width),
        bounds=np.array(bounds, dtype=np.int64),
    )
