"""States that can be reached: breadth-first over reactions, inside the box 0 <= n <= limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hpcme.kernels.compiling import hot
from hpcme.kernels.dedup import StateTable
from hpcme.kernels.neighbours import INSIDE, where_lands
from hpcme.kernels.propensity import propensity
from hpcme.model.tables import PropensityTables

#: Frontier rows expanded at a time, so that memory stays bounded by this times R states.
_BLOCK = 65536


@hot
def _expand(tables, n, s, limits, times, stack, y):
    """Write the states one possible move away from the rows of n into y, in order of row and reaction;
    their number.
    """
    found = 0
    for b in range(n.shape[0]):
        row = n[b]
        for k in range(s.shape[0]):
            if where_lands(row, s[k], 1, limits) != INSIDE:
                continue
            for j in range(times.shape[0] if tables.uses_t[k] else 1):
                if propensity(tables, k, row, times[j], stack) > 0.0:
                    for i in range(n.shape[1]):
                        y[found, i] = n[b, i] + s[k, i]
                    found += 1
                    break
    return found


def reachable(
    start: np.ndarray,
    tables: PropensityTables,
    s: np.ndarray,
    limits: np.ndarray,
    max_states: int,
    max_jumps: int | None = None,
    times: np.ndarray | None = None,
    remaps: Sequence[Callable[[np.ndarray], np.ndarray]] = (),
) -> tuple[np.ndarray, bool]:
    """States reachable from `start` (int32 [M, S]) by moves of positive propensity inside 0..limits.

    A reaction whose rate reads the time counts as possible when its propensity is positive at any of `times`
    (float64 [T], default t = 0); one that is positive only between them is missed here, and shows up as lost
    probability in the exact solver. `max_jumps` stops after so many reactions. remaps: what events do, in the order
    of their times; each takes states int32 [B, S] to integers [B, S] and is applied to all states found so far, and
    moves go on from where it leads; what it leads past the limits is left out. Returns (states int32 [M', S],
    complete): the distinct start states first, then by number of jumps, within it in order of state and
    reaction (deterministic); complete is False when more than max_states were found, and then only the first
    max_states are returned. Stopping by max_jumps leaves complete True.
    """
    times = np.zeros(1) if times is None else np.ascontiguousarray(times, dtype=np.float64)
    table = StateTable(s.shape[1])
    frontier = table.add(start)[1]
    jumps = 0
    stack = np.empty(tables.depth)
    scratch = np.empty((min(_BLOCK, max_states + 1) * max(s.shape[0], 1), s.shape[1]), dtype=np.int32)
    remaps = list(remaps)
    while len(table) <= max_states and (max_jumps is None or jumps < max_jumps):
        while remaps and not len(frontier):
            moved = remaps.pop(0)(table.states)
            inside = ((moved >= 0) & (moved <= limits)).all(axis=1)
            frontier = table.add(moved[inside].astype(np.int32))[1]
        if not len(frontier):
            break
        new = []
        for begin in range(0, len(frontier), _BLOCK):
            rows = frontier[begin : begin + _BLOCK]
            found = _expand(tables, rows, s, limits, times, stack, scratch)
            new.append(table.add(scratch[:found])[1])
            if len(table) > max_states:
                break
        frontier = np.concatenate(new)
        jumps += 1
    return table.states[:max_states].copy(), len(table) <= max_states
