"""The finite state set of an exact solution, and the generator of the master equation on it.

Everything that leaves the set goes to one absorbing state, the sink, whose probability is the "lost" one: the
finite state projection of Munsky and Khammash (J. Chem. Phys. 124, 044104, 2006). The law on the set is then
a lower bound of the true one, state by state, and the lost probability bounds the total variation distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from hpcme.errors import InputError
from hpcme.kernels.compiling import hot
from hpcme.kernels.dedup import BELOW_ZERO, PAST_LIMIT, StateTable
from hpcme.kernels.propensity import find_bad, propensities
from hpcme.kernels.reach import reachable
from hpcme.model.event import events_at, remaps
from hpcme.model.network import ReactionNetwork
from hpcme.model.tables import PropensityTables

#: Rows whose propensities and targets are held at a time.
_BLOCK = 262_144


class StateSpace:
    """Distinct states with an index; `complete` says that no move of positive propensity leads to another
    state in the box.

    Attributes: net; states int32 [M, S]; complete bool; reflecting bool: moves past a limit have propensity
    zero (the rule of the network solver) instead of leading to the sink.
    """

    def __init__(
        self, net: ReactionNetwork, states: np.ndarray, complete: bool, reflecting: bool = False
    ) -> None:
        self.net, self.complete, self.reflecting = net, complete, reflecting
        self._table = StateTable(net.S, room=len(states))
        self.states = self._table.add(states)[1]

    def __len__(self) -> int:
        return len(self.states)

    def index(self, n: np.ndarray) -> np.ndarray:
        """Index int64 [B] of the rows of n (int32 [B, S]); -1 where a state is not in the set."""
        return self._table.find(n)

    def law(self, n: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, float]:
        """Probabilities p [B] of states n [B, S] as a vector over the set (float64 [M]), and the
        probability outside it.
        """
        index = self.index(n)
        inside = index >= 0
        return np.bincount(index[inside], p[inside], minlength=len(self)), float(p[~inside].sum())

    def remapped(self, p: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
        """The law p over the set and its sink (float64 [M+1]) after the events of time t, and the probability that they
        led past the limit of each species (float64 [S]). What they lead out of the set goes to the sink."""
        held = np.flatnonzero(p[:-1] > 0.0)  # events need mean nothing in states that are never taken
        moved = self.net.remap(self.states[held], events_at(self.net, t))
        past = moved > self.net.limits
        inside = ~past.any(axis=1)
        index = np.full(len(held), -1, dtype=np.int64)
        index[inside] = self.index(moved[inside].astype(np.int32))
        index[index < 0] = len(self)
        out = np.bincount(index, p[held], minlength=len(self) + 1)
        out[-1] += p[-1]
        return out, p[held] @ past

    def targets(self, begin: int, end: int) -> np.ndarray:
        """Where each reaction leads from states begin..end: index int64 [end-begin, R], M for the sink, -1
        for nowhere.
        """
        found = self._table.find_moved(self.states[begin:end], self.net.s, self.net.limits)
        sink = (found < 0) & (found != BELOW_ZERO)
        if self.reflecting:
            sink &= found != PAST_LIMIT
        return np.where(found >= 0, found, np.where(sink, len(self), -1))

    def rates(
        self, begin: int, end: int, t: float, target: np.ndarray, tables: PropensityTables | None = None
    ) -> np.ndarray:
        """Propensities float64 [end-begin, R] at time t of the moves in `target` (zero for those that lead
        nowhere).

        InputError names the first one that is negative or not finite. `tables` (unchecked) replaces those of
        the network.
        """
        a = propensities(tables or self.net.tables, self.states[begin:end], t)
        a[target < 0] = 0.0
        if tables is not None:
            return a
        row, k = find_bad(a)
        if row >= 0:
            raise InputError(_bad_propensity(self.net, self.states[begin + row], k, t, a[row, k]))
        return a


def _bad_propensity(net: ReactionNetwork, n: np.ndarray, k: int, t: float, value: float) -> str:
    where = ", ".join(f"{name} = {count}" for name, count in zip(net.species, n.tolist(), strict=True))
    return (
        f"model {net.name}: the propensity of reaction {k + 1} ({net.reactions[k].label}) is {value:g} "
        f"at {where}, t = {t:g}; it must be finite and not negative in every state that can be reached. "
        "Change the expression, for example with max(0, ...) or where(condition, ..., 0), or lower the limits"
    )


def enumerate_states(
    net: ReactionNetwork, start: np.ndarray, times: np.ndarray, max_states: int, reflecting: bool = False
) -> StateSpace:
    """All states reachable from `start` (int32 [M, S]) within the limits, through events until the last of `times` too.

    Reactions whose rate reads the time count as possible when positive at any of `times`. InputError when
    there are more than max_states.
    """
    states, complete = reachable(
        start, net.tables, net.s, net.limits, max_states, times=times, remaps=remaps(net, float(times[-1]))
    )
    if not complete:
        raise InputError(
            f"model {net.name}: more than {max_states} states can be reached, too many for the exact solver "
            "as set. Lower the largest counts of the species (max in the model), allow more states (about "
            f"{_bytes_per_state(net)} bytes each), or solve it with the network (hpcme run) or with "
            "trajectories (hpcme ssa)"
        )
    return StateSpace(net, states, complete, reflecting)


def _bytes_per_state(net: ReactionNetwork) -> int:
    return 12 * (net.R + 1) + 8 * 8 + 12 * net.S


@dataclass
class Generator:
    """The generator on a state set plus its sink at fixed rates: dp/dt = matrix @ p.

    matrix : CSR float64 [M+1, M+1], entry (i, j) the rate from state j to state i; row M is the sink, whose
    column is zero; every column sums to zero. rate : the largest exit rate of a state.
    """

    matrix: scipy.sparse.csr_array
    rate: float


@hot
def _scatter(target, a, wanted, first, position, row, column, value):
    """Append the entries of one block of states (column = source state); returns the entries used so far."""
    for j in range(a.shape[0]):
        for k in range(a.shape[1]):
            if wanted[k] and target[j, k] >= 0 and a[j, k] != 0.0:
                row[position] = target[j, k]
                column[position] = first + j
                value[position] = a[j, k]
                position += 1
    return position


def generator_with_sink(
    space: StateSpace, t: float, wanted: np.ndarray | None = None, tables: PropensityTables | None = None
) -> Generator:
    """Generator at time t on the state set and its sink, from the reactions in `wanted` (bool [R], default
    all).

    `tables` (unchecked) replaces the propensities of the network.
    """
    M, R = len(space), space.net.R
    wanted = np.ones(R, dtype=np.bool_) if wanted is None else wanted
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for begin in range(0, M, _BLOCK):
        end = min(begin + _BLOCK, M)
        target = space.targets(begin, end)
        a = space.rates(begin, end, t, target, tables)
        room = (end - begin) * int(wanted.sum())
        row, column, value = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room)
        used = _scatter(target, a, wanted, begin, 0, row, column, value)
        parts.append((row[:used], column[:used], value[:used]))
    row, column, value = (np.concatenate(part) for part in zip(*parts, strict=True))
    exit_rate = np.bincount(column, value, minlength=M + 1)
    diagonal = np.arange(M, dtype=np.int32)
    matrix = scipy.sparse.coo_array(
        (
            np.concatenate([value, -exit_rate[:M]]),
            (np.concatenate([row, diagonal]), np.concatenate([column, diagonal])),
        ),
        shape=(M + 1, M + 1),
    ).tocsr()
    return Generator(matrix, float(exit_rate.max()))


def build_generator(
    net: ReactionNetwork, states: np.ndarray, t: float = 0.0, reflecting: bool = False
) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """Generator at time t on the distinct `states` (int32 [M, S]), as (A, sink).

    A is CSR float64 [M, M]: dp/dt = A p. sink float64 [M] is the rate at which each state leaves the set
    (past a limit or to a state that is not in it; with reflecting=True moves past a limit are forbidden
    instead). Columns of A plus sink sum to zero.
    """
    space = StateSpace(net, states, complete=False, reflecting=reflecting)
    if len(space) != len(states):
        raise InputError(
            f"build_generator: {len(states) - len(space)} of {len(states)} states stand twice; give each once"
        )
    matrix = generator_with_sink(space, t).matrix
    M = len(space)
    return matrix[:M, :M], matrix[[M], :M].toarray()[0]
