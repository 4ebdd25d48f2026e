"""Times at which rates that read the time switch: jumps and kinks in t, known before anything is solved.

An integrator that lands on these times sees smooth rates between them, and cannot step over a short pulse.

Every part of a rate that reads t and no counts is looked at: comparisons and min, max where their two sides
meet, abs at zeros, floor and ceil at whole numbers. (A period is written with floor: t - 24*floor(t/24).)
A comparison in which counts meet the time, such as X > t, switches at a time of its own for every count and is
left out, but parts of it that read t alone are not: X > where(t < 5, 1, 2) switches at 5.

Found on a grid that is made finer until nothing new appears, with the turning points between its points and
the switch times of the parts, which are found first: abs(t - 5) < 1e-6 is seen however long the time is,
because abs has its kink at 5. What can be missed is a smooth bump that is flat in double precision on a grid
of 4096 points. Sides that touch without crossing make no switch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hpcme.errors import InputError
from hpcme.model.tree import Expr

if TYPE_CHECKING:
    from hpcme.model.network import ReactionNetwork

#: At most this many times are returned: with more of them a solver is better off with its own steps.
MOST_SWITCHES = 10_000

_COMPARISONS = frozenset({"LT", "LE", "GT", "GE", "EQ", "NE"})
#: Operations whose value is constant between switches, so that those which do not change it can be dropped.
_STEPS = _COMPARISONS | {"AND", "OR", "NOT", "FLOOR", "CEIL"}

#: Times closer than this part of the whole time are one; the grid has points at a tenth of it from a switch.
_SAME = 1e-12
#: Points of the grids that are tried, and the part of the whole time below which the search gives up.
_GRIDS = (4096, 8192, 16_384, 32_768, 65_536, 131_072)
_SHORTEST = 1e-6
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
#: Turning points: rounds of the search (2e-10 of the bracket), and how far one must pass a level to count, as
#: a part of the values that are compared there.
_ROUNDS = 46
_TOUCH = 1e-13

_NONE = np.zeros(0)


def switch_times(net: ReactionNetwork, end: float) -> np.ndarray:
    """Every time in (0, end) at which a rate of `net` may jump or have a kink because of t.

    Parameters
    ----------
    net : its parameters are used with their values.
    end : model time units, finite, >= 0.

    Returns
    -------
    float64 [K], increasing, in model time units, to the last bit or so: of the two neighbouring floats between
    which a switch lies, the one nearer to it. Times within 1e-12 end of each other, of 0 or of `end` are one.
    A time may be listed at which nothing happens, such as a switch in the branch not taken. K is at most
    MOST_SWITCHES: where rates or parts of them switch more often, the first times are there and later ones are
    not, or not all.

    Raises
    ------
    InputError : `end` is negative or not finite.
    """
    end = float(end)
    if not (math.isfinite(end) and end >= 0):
        raise InputError(f"the end of the time for switch times is {end}; it must be finite and not negative")
    if end == 0.0 or not net.time_dependent:
        return _NONE.copy()
    search = _Search(end)
    rates = dict.fromkeys(r.kinetics.bind(net.parameters).fold() for r in net.reactions)
    with np.errstate(all="ignore"):
        return search.merged([search.times(rate) for rate in rates])[:MOST_SWITCHES]


class _Search:
    """Switch times in (0, end) of expressions; each part that occurs several times is searched once."""

    def __init__(self, end: float) -> None:
        self.end = end
        self._known: dict[Expr, np.ndarray] = {}

    def times(self, expr: Expr) -> np.ndarray:
        """Switch times float64 [K] of an expression of t and counts."""
        if not expr.uses_time():
            return _NONE
        if expr not in self._known:
            self._known[expr] = self._search(expr)[:MOST_SWITCHES]
        return self._known[expr]

    def _search(self, expr: Expr) -> np.ndarray:
        inner = self.merged([self.times(arg) for arg in expr.args])
        if expr.names():  # counts decide too
            return inner
        own = _NONE
        if expr.op in _COMPARISONS or expr.op in ("MIN", "MAX"):
            own = crossings(Expr("SUB", expr.args), inner, self.end, whole=False)
        elif expr.op == "ABS":
            own = crossings(expr.args[0], inner, self.end, whole=False)
        elif expr.op in ("FLOOR", "CEIL"):
            own = crossings(expr.args[0], inner, self.end, whole=True)
        found = self.merged([inner, own])
        return self._changing(expr, found) if expr.op in _STEPS else found

    def merged(self, parts: list[np.ndarray]) -> np.ndarray:
        """Times of all parts in order; of times that are the same, the one of the earliest part is kept.

        An inner switch is exact, while a jump that it makes in something else is met within a float or two.
        """
        times = np.concatenate([_NONE, *parts])
        same = _SAME * self.end
        times = times[(times > same) & (times < self.end - same)]
        if len(times) == 0:
            return _NONE
        order = np.argsort(times, kind="stable")
        first = np.flatnonzero(np.diff(times[order], prepend=-np.inf) > same)
        return times[np.minimum.reduceat(order, first)]

    def _changing(self, expr: Expr, times: np.ndarray) -> np.ndarray:
        """The times at which a step function of t has different values on both sides."""
        edges = np.concatenate([[0.0], times, [self.end]])
        value = _values(expr, 0.5 * (edges[:-1] + edges[1:]))
        alike = (value[1:] == value[:-1]) | (np.isnan(value[1:]) & np.isnan(value[:-1]))
        return times[~alike]


def crossings(g: Expr, inner: np.ndarray, end: float, *, whole: bool) -> np.ndarray:
    """Times float64 [K] in [0, end] at which g(t) passes 0, or with `whole` any whole number.

    `inner` float64 [J] are the switch times of g itself. The grid is fine enough when twice its points show no
    more crossings; where g swings too fast for that, the time is halved, so that the first ones are right.
    """
    horizon = end
    while horizon > _SHORTEST * end:
        before = -1.0
        for n in _GRIDS:
            x = _grid(n, horizon, inner, end)
            y = _values(g, x)
            if np.count_nonzero(_passed(y, whole)) > n / 3:  # too fast for this grid in any case
                continue
            x, y = _with_turns(g, x, y)
            steps = _passed(y, whole)
            if np.abs(steps).sum() == before:
                return _bisected(g, x, np.floor(y), steps, whole)
            before = float(np.abs(steps).sum())
        horizon /= 2
    return _NONE


def _passed(y: np.ndarray, whole: bool) -> np.ndarray:
    """Levels passed between each two of the values y [K], upwards positive, float64 [K-1]."""
    steps = np.diff(np.floor(y) if whole else (y >= 0.0).astype(np.float64))
    return np.where(np.isfinite(steps), steps, 0.0)


def _grid(n: int, horizon: float, inner: np.ndarray, end: float) -> np.ndarray:
    """About n times from 0 to `horizon`, with every inner switch and a point close to either side of it.

    One point in each of n cells, at random places of a fixed seed: even spacing, or that of any simple sequence,
    shows a rate of some period a slower one, on the finer grid too.
    """
    cells = np.arange(n) + np.random.default_rng(n).random(n)
    near = inner[:, None] + 0.1 * _SAME * end * np.array([-1.0, 0.0, 1.0])
    x = np.concatenate([[0.0], cells * (horizon / n), near.reshape(-1), [horizon]])
    return np.unique(x[(x >= 0.0) & (x <= horizon)])


def _with_turns(g: Expr, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The grid x and its values y with the turning points of g between its points."""
    turns = [_turns(g, x, y, sign) for sign in (1.0, -1.0)]
    x = np.concatenate([x, *(at for at, _ in turns)])
    y = np.concatenate([y, *(value for _, value in turns)])
    order = np.argsort(x, kind="stable")
    return x[order], y[order]


def _turns(g: Expr, x: np.ndarray, y: np.ndarray, sign: float) -> tuple[np.ndarray, np.ndarray]:
    """Maxima (sign 1) or minima (sign -1) of g between the points x with values y, by golden section.

    Returns their times and values. The values are moved back by more than they are rounded, so that it is not
    left to chance whether a maximum that touches a level has crossed it.
    """
    z = sign * y
    i = 1 + np.flatnonzero((z[1:-1] > z[:-2]) & (z[1:-1] >= z[2:]))
    if len(i) == 0:
        return _NONE, _NONE
    a, b = x[i - 1], x[i + 1]
    for _ in range(_ROUNDS):
        c, d = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
        left = sign * _values(g, c) > sign * _values(g, d)
        a, b = np.where(left, a, c), np.where(left, d, b)
    at = 0.5 * (a + b)
    terms = g.args if g.op in ("ADD", "SUB") else (g,)
    value = _values(g, at) - sign * _TOUCH * sum(np.abs(_values(term, at)) for term in terms)
    better = sign * value > z[i]
    return at[better], value[better]


def _bisected(g: Expr, x: np.ndarray, level: np.ndarray, steps: np.ndarray, whole: bool) -> np.ndarray:
    """The first MOST_SWITCHES crossings, float64 [K]: `steps` [J-1] of them between the points x [J].

    With `whole` they begin at `level` [J], the whole numbers just below the values.
    """
    i = np.flatnonzero(steps)
    done = np.cumsum(np.abs(steps[i])) - np.abs(steps[i])
    i, done = i[done < MOST_SWITCHES], done[done < MOST_SWITCHES]
    number = np.minimum(np.abs(steps[i]), MOST_SWITCHES - done).astype(np.int64)
    place = np.arange(int(number.sum())) - np.repeat(np.cumsum(number) - number, number)
    i = np.repeat(i, number)
    rising = steps[i] > 0
    at = np.where(rising, level[i] + 1.0 + place, level[i] - place) if whole else np.zeros(len(i))
    low, high = x[i], x[i + 1]
    while True:  # until no float lies between: 50 rounds or so, more for a switch close to 0
        middle = low + 0.5 * (high - low)
        inside = (middle > low) & (middle < high)
        if not inside.any():
            break
        right = (_values(g, middle) >= at) == rising
        high, low = np.where(inside & right, middle, high), np.where(inside & ~right, middle, low)
    nearer = np.abs(_values(g, low) - at) < np.abs(_values(g, high) - at)
    return np.where(nearer, low, high)


def _values(expr: Expr, t: np.ndarray) -> np.ndarray:
    """Values float64 [K] at times t [K] of an expression without names."""
    return np.broadcast_to(expr.evaluate({}, t), t.shape)
