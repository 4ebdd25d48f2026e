"""Exact solution when rates depend on time: dp/dt = A(t) p by an explicit Runge-Kutta pair of order 8
(DOP853), or by the implicit Radau IIA method of order 5 where a small set is stiff (both of scipy).

The generator is split: reactions with constant rates are assembled once; those whose rate is a function of
time times one of the state are assembled once per function of time (separate.py) and scaled; the rest is
evaluated in place at every call. The integrator lands on the times at which rates switch
(ReactionNetwork.switch_times), so that it sees smooth rates and steps over no pulse.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numba
import numpy as np
import scipy.sparse
from scipy.integrate import DOP853, Radau

from hpcme.errors import InputError, NumericalError
from hpcme.exact.propagate import PARALLEL_ENTRIES, Race, equal_tasks
from hpcme.exact.separate import same_clocks, split_time
from hpcme.exact.statespace import StateSpace, generator_with_sink
from hpcme.kernels.compiling import hot, parallel
from hpcme.kernels.propensity import find_bad, propensities, propensity

#: Assumed cost of the explicit method: evaluations per jump, seconds per entry and per evaluation; and when
#: to leave it.
_EVALUATIONS, _ENTRY_SECONDS, _CALL_SECONDS = 4.5, 2e-9, 5e-5
_PATIENCE, _IMPLICIT_STATES = 20.0, 20_000
#: No step is longer than this part of the whole time, so that a short smooth pulse is not stepped over.
_LONGEST_STEP = 1 / 100
#: Rates are read no closer than this part of the whole time to the ends of a piece between switches: a rate
#: that switches there has the value of the one side or the other at the very end.
_SIDE = 1e-14


@hot
def _evaluate(tables, reactions, states, t, stack, allowed, a, exit_rate, begin, end):
    """a[j, :] = propensities of the listed reactions in state j (zero where not allowed), exit_rate[j]
    their sum.
    """
    for j in range(begin, end):
        row = states[j]
        total = 0.0
        for i in range(reactions.shape[0]):
            a[j, i] = propensity(tables, reactions[i], row, t, stack) if allowed[j, i] else 0.0
            total += a[j, i]
        exit_rate[j] = total


@hot
def _add_evaluated(ptr, source, entry, a, exit_rate, p, y, begin, end):
    """y += A p for rows begin..end, with the entries a.flat[entry] from the states `source`."""
    flat = a.reshape(a.size)
    for i in range(begin, end):
        x = y[i]
        for e in range(ptr[i], ptr[i + 1]):
            x += flat[entry[e]] * p[source[e]]
        if i < exit_rate.shape[0]:
            x -= exit_rate[i] * p[i]
        y[i] = x


@hot
def _combine(ptr, column, value, group, factors, p, y, begin, end):
    """y = sum over groups g of factors[g] * A_g p for rows begin..end; group[e] says to which A_g entry e
    belongs.
    """
    for i in range(begin, end):
        x = 0.0
        for e in range(ptr[i], ptr[i + 1]):
            x += factors[group[e]] * value[e] * p[column[e]]
        y[i] = x


@parallel
def _combine_parallel(ptr, column, value, group, factors, p, y, tasks):
    for task in numba.prange(tasks.shape[0] - 1):
        _combine(ptr, column, value, group, factors, p, y, tasks[task], tasks[task + 1])


@parallel
def _evaluate_parallel(tables, reactions, states, t, allowed, a, exit_rate, tasks):
    for task in numba.prange(tasks.shape[0] - 1):
        stack = np.empty(tables.depth)
        last = min(tasks[task + 1], states.shape[0])
        _evaluate(tables, reactions, states, t, stack, allowed, a, exit_rate, tasks[task], last)


class TimeDependentPropagator:
    """Advances laws over a state set and its sink (float64 [M+1]) when some rates read the time.

    rtol is the relative tolerance of the integrator per step, with an absolute one of 1e-4 rtol. t0 and
    total_time are in model time units; no step is longer than a hundredth of total_time, and steps end where
    rates switch before t0 + total_time. method is "dop853" or "radau", by default the one that should be
    faster.
    """

    def __init__(
        self, space: StateSpace, t0: float, total_time: float, rtol: float, method: str | None = None
    ) -> None:
        if method not in (None, "dop853", "radau"):
            raise InputError(
                f'method = "{method}" is not for rates that read the time; allowed are dop853, radau'
            )
        self.space, self.t, self.rtol = space, t0, rtol
        self.longest = total_time * _LONGEST_STEP
        self._switches = space.net.switch_times(t0 + total_time)
        self._side = _SIDE * (t0 + total_time)
        self._step: float | None = None
        self._races = (Race(), Race())
        tables, self._clock, separable = split_time(space.net.tables)
        self._groups = same_clocks(self._clock, separable)
        self._assemble(tables, separable)
        self._reactions = np.flatnonzero(tables.uses_t).astype(np.int64)
        self._entries()
        self._a = np.zeros((len(space), len(self._reactions)))
        self._exit = np.zeros(len(space))
        self.method = method or self._faster(total_time)

    def _faster(self, total_time: float) -> str:
        if len(self.space) > _IMPLICIT_STATES:
            return "dop853"
        rate = max(
            -self.matrix(self.t + x * total_time).diagonal().min() for x in (0.0, 0.25, 0.5, 0.75, 1.0)
        )
        each = _CALL_SECONDS + _ENTRY_SECONDS * len(self._value) + 50 * _ENTRY_SECONDS * self._a.size
        return "dop853" if _EVALUATIONS * rate * total_time * each < _PATIENCE else "radau"

    def _assemble(self, tables, separable: np.ndarray) -> None:
        """One CSR pattern for the constant part (group 0) and every clock's part (groups 1, 2, ...),
        diagonals included.
        """
        wanted = [~self.space.net.tables.uses_t]
        for group in self._groups:
            wanted.append(np.isin(np.arange(len(separable)), group))
        parts = [generator_with_sink(self.space, self.t, w, tables).matrix.tocoo() for w in wanted]
        row = np.concatenate([part.coords[0] for part in parts])
        order = np.argsort(row, kind="stable")
        self._column = np.concatenate([part.coords[1] for part in parts])[order].astype(np.int32)
        self._value = np.concatenate([part.data for part in parts])[order]
        self._group = np.repeat(np.arange(len(parts)), [part.nnz for part in parts])[order].astype(np.int32)
        self._ptr = np.searchsorted(row[order], np.arange(len(self.space) + 2)).astype(np.int64)
        self._tasks = equal_tasks(self._ptr)

    def _entries(self) -> None:
        """Where the entries evaluated in place stand: CSR pattern with (source state, place in a.flat) for
        values.
        """
        M, T = len(self.space), len(self._reactions)
        target = self.space.targets(0, M)[:, self._reactions]
        self._allowed = np.ascontiguousarray(target >= 0)
        place = np.flatnonzero(self._allowed.reshape(-1))
        self._entry = place[np.argsort(target.reshape(-1)[place], kind="stable")].astype(np.int64)
        self._source = (self._entry // max(T, 1)).astype(np.int32)
        rows = target.reshape(-1)[self._entry]
        self._entry_ptr = np.searchsorted(rows, np.arange(M + 2)).astype(np.int64)

    def _factors(self, t: float) -> np.ndarray:
        """The number that each group's part of the generator is multiplied with at time t."""
        clock = propensities(self._clock, np.zeros((1, self.space.net.S), dtype=np.int32), t)[0]
        factors = np.array([1.0, *(clock[group[0]] for group in self._groups)])
        if not (factors >= 0.0).all():  # False for NaN too
            check_rates(self.space, np.array([t]))
        return factors

    def matrix(self, t: float) -> scipy.sparse.csc_array:
        """A(t) with the sink last, float64 [M+1, M+1]."""
        size = len(self.space) + 1
        value = self._value * self._factors(t)[self._group]
        A = scipy.sparse.csr_array((value, self._column, self._ptr), shape=(size, size)).tocsc()
        if len(self._reactions):
            self._evaluate(t)
            value = self._a.reshape(-1)[self._entry]
            A = A + scipy.sparse.csr_array((value, self._source, self._entry_ptr), shape=(size, size))
            A = (A - scipy.sparse.diags_array(np.append(self._exit, 0.0))).tocsc()
        return A

    def derivative(self, t: float, p: np.ndarray) -> np.ndarray:
        """A(t) p, float64 [M+1]. InputError when a rate is negative or not finite at this time."""
        y = np.empty_like(p)
        factors = self._factors(t)
        matrix = (self._ptr, self._column, self._value, self._group, factors, p, y)
        if len(self._value) < PARALLEL_ENTRIES or numba.get_num_threads() == 1:
            _combine(*matrix, 0, len(p))
        else:
            serial, threads = (
                lambda: _combine(*matrix, 0, len(p)),
                lambda: _combine_parallel(*matrix, self._tasks),
            )
            self._races[0].run(serial, threads, 1)
        if len(self._reactions):
            self._evaluate(t)
            _add_evaluated(self._entry_ptr, self._source, self._entry, self._a, self._exit, p, y, 0, len(p))
        return y

    def _evaluate(self, t: float) -> None:
        """Fill _a and _exit with the propensities at time t of the reactions that are evaluated in place."""
        tables, states, work = self.space.net.tables, self.space.states, (self._allowed, self._a, self._exit)
        args = (tables, self._reactions, states, t)

        def serial() -> None:
            _evaluate(*args, np.empty(tables.depth), *work, 0, len(states))

        # An evaluation costs far more than an entry of a matrix.
        if self._a.size < PARALLEL_ENTRIES // 16 or numba.get_num_threads() == 1:
            serial()
        else:
            self._races[1].run(serial, lambda: _evaluate_parallel(*args, *work, self._tasks), 1)
        if find_bad(self._a)[0] >= 0:
            check_rates(self.space, np.array([t]))

    def restart(self, t: float) -> None:
        """Go on from time t as if there had been no steps before."""
        self.t, self._step = t, None

    def advance(
        self, p: np.ndarray, dt: float, progress: Callable[[float], None] | None = None
    ) -> np.ndarray:
        """The law a time dt later; the propagator remembers its time."""
        if dt == 0.0:
            return p.copy()
        start, end = self.t, self.t + dt
        inside = (self._switches > start + self._side) & (self._switches < end - self._side)
        for a, b in itertools.pairwise([start, *self._switches[inside].tolist(), end]):
            if (self._switches == a).any():
                self._step = None  # the step that suited the rates before says nothing about those after
            p = self._integrate(p, a, b, lambda t: progress((t - start) / dt) if progress else None)
        self.t = end
        p = np.maximum(p, 0.0)
        return p / p.sum()

    def _integrate(self, p: np.ndarray, a: float, b: float, reached: Callable[[float], None]) -> np.ndarray:
        """The law at b from that at a, with rates that do not switch between; reached(t) after every step."""
        side = min(self._side, 0.25 * (b - a))
        first, last = a + side, b - side

        def slope(t: float, y: np.ndarray) -> np.ndarray:
            return self.derivative(min(max(t, first), last), y)

        def jacobian(t: float, y: np.ndarray) -> scipy.sparse.csc_array:
            return self.matrix(min(max(t, first), last))

        kind, more = (DOP853, {}) if self.method == "dop853" else (Radau, {"jac": jacobian})
        step = None if self._step is None else min(self._step, b - a)
        solver = kind(
            slope, a, p, b, max_step=self.longest, rtol=self.rtol, atol=1e-4 * self.rtol, first_step=step,
            **more,
        )  # fmt: skip
        while solver.status == "running":
            message = solver.step()
            if solver.status == "failed" or not np.isfinite(solver.y).all():
                raise NumericalError(
                    f"the exact solver stopped at t = {solver.t:g}: {message or 'non-finite values'}"
                )
            if solver.t < b:
                self._step = solver.h_abs
            reached(solver.t)
        return solver.y


def check_rates(space: StateSpace, times: np.ndarray) -> None:
    """InputError when a propensity is negative or not finite in a state of the set at one of the times."""
    target = space.targets(0, len(space))
    for t in times:
        space.rates(0, len(space), float(t), target)
