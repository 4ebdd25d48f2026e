"""Exact solution of the chemical master equation on the reachable states (finite state projection).

The law it returns is a lower bound of the true one, state by state: what leaves the limits goes to a sink and
is reported as `lost` (Munsky and Khammash, J. Chem. Phys. 124, 044104, 2006). With reflecting=True the limits
are walls instead, which is the law that the network solver approximates.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpcme.errors import InputError
from hpcme.exact.borders import Borders
from hpcme.exact.limits import LimitsReport, grown, resolve_limits
from hpcme.exact.propagate import Propagator
from hpcme.exact.shorttime import bounded, short_time_law
from hpcme.exact.statespace import StateSpace, build_generator, enumerate_states, generator_with_sink
from hpcme.exact.timedependent import TimeDependentPropagator, check_rates
from hpcme.kernels.neighbours import outflow
from hpcme.model.network import ReactionNetwork

__all__ = ["FspSolution", "StateSpace", "bounded", "build_generator", "short_time_law", "solve_fsp"]

#: Times at which a rate that reads the time is probed, to see which reactions are possible.
_PROBES = 65
#: Probability that may be lost through automatic limits: ten times the tolerance of the integrators.
LEAK = 1e-9


@dataclass
class FspSolution:
    """Probabilities of a set of states at a list of times.

    states int32 [M, S]; times float64 [T], model time units; p float64 [T, M]; lost float64 [T], the
    probability that has left the set (never decreasing, so sum p + lost = 1); method, how it was computed;
    seconds, wall time; net, the network with the limits it was solved with; limits, how automatic ones were found
    (None: there are none). Moments and marginals are those of the law on the set, conditioned on it (divided by 1
    - lost), unless `lost` is wanted as unnormalised=True.
    """

    states: np.ndarray
    times: np.ndarray
    p: np.ndarray
    lost: np.ndarray
    method: str
    seconds: float
    net: ReactionNetwork | None = None
    limits: LimitsReport | None = None

    def _weights(self) -> np.ndarray:
        return self.p / self.p.sum(axis=1, keepdims=True)

    def mean(self) -> np.ndarray:
        """Mean counts, float64 [T, S]."""
        return self._weights() @ self.states

    def covariance(self) -> np.ndarray:
        """Covariance matrices of the counts, float64 [T, S, S]."""
        result = np.empty((len(self.times), self.states.shape[1], self.states.shape[1]))
        for i, w in enumerate(self._weights()):
            centred = self.states - w @ self.states
            result[i] = (centred * w[:, None]).T @ centred
        return result

    def sd(self) -> np.ndarray:
        """Standard deviations of the counts, float64 [T, S]."""
        return np.sqrt(np.diagonal(self.covariance(), axis1=1, axis2=2))

    def marginal(self, i: int) -> np.ndarray:
        """Probability of each count 0, 1, ..., largest of species i, float64 [T, largest+1]; rows sum
        to 1 - lost.
        """
        counts = self.states[:, i]
        length = int(counts.max()) + 1
        return np.stack([np.bincount(counts, p, minlength=length) for p in self.p])


def solve_fsp(
    net: ReactionNetwork,
    times: Sequence[float],
    *,
    max_states: int = 2_000_000,
    tol: float = 1e-10,
    states: np.ndarray | None = None,
    p0: np.ndarray | None = None,
    reflecting: bool = False,
    method: str | None = None,
    progress: Callable[[float], None] | None = None,
    leak: float = LEAK,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> FspSolution:
    """Solve the master equation of `net` from t = 0 and report the law at `times` (>= 0, in order).

    Automatic limits (max = "auto") are found first (limits.py, with `seed`); while more than `leak` of the probability
    leaves through them they grow, and the law is solved for again; `say` is told.

    The states are those reachable from net.initial within the limits, or `states` (int32 [M, S]) when given;
    p0 (float64 [M]) replaces the starting probabilities of given states. Starting probability outside the
    states is lost from the start. Constant rates are propagated by uniformisation, dense squaring or a
    Chebyshev series (propagate.py; `method` forces one of "uniformisation", "dense", "chebyshev"); rates that
    read the time by DOP853 or Radau with relative tolerance `tol` (timedependent.py; "dop853", "radau").
    progress is called with the fraction of the time done.

    Raises
    ------
    InputError : more than max_states states can be reached, a propensity is negative or not finite in one of
        them, times are not in order, `states` repeat.
    NumericalError : the integrator cannot advance.
    """
    start = time.perf_counter()
    times = _checked_times(times)
    if any(net.auto_limits):
        again = functools.partial(
            solve_fsp, times=times, max_states=max_states, tol=tol, states=states, p0=p0, reflecting=reflecting,
            method=method, progress=progress,
        )  # fmt: skip
        return _with_limits(net, again, float(times[-1]), leak, seed, say)
    space, p = _start(net, times, max_states, states, p0, reflecting)
    propagator = make_propagator(space, float(times[-1]), len(times), tol, method)
    rows = np.empty((len(times), len(space)))
    lost = np.empty(len(times))
    now, worst = 0.0, 0.0
    events = set(net.event_times(float(times[-1])).tolist())
    for t in np.union1d(times, sorted(events)).tolist():
        report = _part(progress, now, t, times[-1])
        p = propagator.advance(p, t - now, report)
        now = t
        if t in events:
            p, _ = space.remapped(p, t)
            propagator.restart(t)
        for i in np.flatnonzero(times == t):
            rows[i], lost[i] = p[:-1], max(worst, p[-1])
        worst = max(worst, p[-1])
    return FspSolution(space.states, times, rows, lost, propagator.method, time.perf_counter() - start, net)


def _with_limits(net: ReactionNetwork, solve, end: float, leak: float, seed: int, say) -> FspSolution:
    """Solve with automatic limits that grow until at most `leak` is lost through them."""
    start = time.perf_counter()
    resolved, limits = resolve_limits(net, end, seed)
    while True:
        found = solve(resolved)
        lost = lost_through(found, limits)
        total = sum(lost.values())
        if total <= leak:
            return replace(found, limits=limits, seconds=time.perf_counter() - start)
        names = [name for name, x in lost.items() if x > 0.1 * total]
        resolved, limits = grown(net, limits, names)
        say(
            f"{total:.1e} of the probability left through automatic limits, more than {leak:g}: they grow to "
            f"{limits.automatic_text()}"
        )


def lost_through(found: FspSolution, limits: LimitsReport) -> dict[str, float]:
    """What was lost by the end, shared out among the species whose limits may grow, {name: probability}.

    Shares are those of the probability flux past each limit, integrated over the report times; what leaves through a
    user's limit counts for that one alone.
    """
    borders, net, times = Borders(found.net, limits.grows), found.net, found.times
    lost = max(0.0, float(found.lost[-1] - found.lost[0]))
    if not borders.names or lost == 0.0:
        return dict.fromkeys(borders.names, 0.0)
    past, flux = [], []
    for k, t in enumerate(times.tolist()):
        if k == 0 or net.time_dependent:
            leak = outflow(net.tables, found.states, net.s, net.limits, t)[1]
            rates = borders.rates(found.states, leak, t)
        past.append(found.p[k] @ rates)
        flux.append(found.p[k] @ leak)
    weight = np.zeros(len(times))
    weight[0] = times[0]
    weight[1:] += 0.5 * np.diff(times)
    weight[:-1] += 0.5 * np.diff(times)
    through, total = weight @ np.array(past), float(weight @ np.array(flux))
    if total <= 0.0:  # it left between reports: through any of them, unless it may have been a user's limit
        given = any(limit.how == "given" for limit in limits)
        return dict.fromkeys(borders.names, 0.0 if given else lost / len(borders.names))
    return dict(zip(borders.names, (lost * through / total).tolist(), strict=True))


def make_propagator(
    space: StateSpace, end: float, steps: int, tol: float, method: str | None = None
) -> Propagator | TimeDependentPropagator:
    """What advances laws over the set from t = 0 to `end` in `steps` reports."""
    if not space.net.time_dependent:
        return Propagator(generator_with_sink(space, 0.0), end, steps, method)
    check_rates(space, np.linspace(0.0, end, 3))
    return TimeDependentPropagator(space, 0.0, end, tol, method)


def _checked_times(times: Sequence[float]) -> np.ndarray:
    times = np.asarray(times, dtype=np.float64).reshape(-1)
    if len(times) == 0 or not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) < 0).any():
        raise InputError(
            f"times = {times.tolist()[:6]} must be a non-empty list of finite numbers >= 0 in increasing "
            "order; sort them"
        )
    return times


def _start(net, times, max_states, states, p0, reflecting) -> tuple[StateSpace, np.ndarray]:
    """The state set and the starting law over it and the sink, float64 [M+1]."""
    first, probability = net.initial.support(max_states=max_states)
    if states is None:
        if p0 is not None:
            raise InputError("p0 was given without states; give the states [M, S] that it belongs to")
        probes = np.linspace(0.0, times[-1], _PROBES)
        space = enumerate_states(net, first, probes, max_states, reflecting)
    else:
        space = StateSpace(net, states, complete=False, reflecting=reflecting)
        if len(space) != len(states):
            raise InputError(
                f"{len(states) - len(space)} of the {len(states)} states stand twice; give each once"
            )
    p = np.zeros(len(space) + 1)
    p[:-1] = space.law(first, probability)[0] if p0 is None else np.asarray(p0, dtype=np.float64)
    if (p < 0).any() or p.sum() > 1 + 1e-9:
        raise InputError("p0 must be probabilities: nonnegative, with a sum of at most 1")
    p[-1] = max(0.0, 1.0 - p.sum())
    return space, p


def _part(progress, begin: float, end: float, total: float) -> Callable[[float], None] | None:
    """Progress of the piece begin..end as a fraction of the whole."""
    if progress is None or total <= 0:
        return None
    return lambda fraction: progress((begin + fraction * (end - begin)) / total)
