"""The exact law a short time after the start, on few states: what the network solver starts from.

The set grows from the starting states by number of reactions; the limits are walls (the rule of the network
solver), so probability is lost only from the set itself.
"""

from __future__ import annotations

import numpy as np
import scipy.integrate
import scipy.stats

from hpcme.errors import InputError
from hpcme.exact.propagate import Propagator
from hpcme.exact.statespace import StateSpace, generator_with_sink
from hpcme.exact.timedependent import TimeDependentPropagator, check_rates
from hpcme.kernels.neighbours import outflow
from hpcme.kernels.reach import reachable
from hpcme.model.network import ReactionNetwork

#: Times at which rates that read the time are probed, pieces of [0, t] on which laws are looked at, and
#: search rounds.
_PROBES = 17
_PIECES = 16
_ROUNDS = 60
#: How closely the expected number of reactions is met.
_CLOSE = 0.02
_LARGEST_START = 5_000_000


def bounded(
    net: ReactionNetwork, t: float, max_states: int = 20_000, tol: float = 1e-6
) -> tuple[np.ndarray, np.ndarray, float]:
    """Law at a short time t >= 0 from net.initial, under the reflecting limits rule.

    States are added by number of reactions until the Poisson bound on the probability of more reactions, with
    the largest exit rate met as its rate, is below tol, or until max_states (of a starting law with more
    states the most probable ones are kept). Returns states int32 [M, S], p float64 [M] and lost, the
    probability that is not on the set at t: the law is a lower bound, state by state, and its total variation
    error is at most lost. At t = 0: the starting law.

    Raises InputError when the starting law has too many states to list (5e6), or a propensity is not a rate.
    """
    if not (np.isfinite(t) and t >= 0):
        raise InputError(f"the time of a short-time law is {t}; it must be finite and not negative")
    space, law = _small_set(net, t, max_states, tol)
    law = _propagator(space, t, 1).advance(law, t)
    return space.states, law[:-1], float(law[-1])


def short_time_law(
    net: ReactionNetwork, jumps: float = 3.0, t_max: float = 1.0, max_states: int = 20_000, tol: float = 1e-6
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """Time t0 <= t_max at which `jumps` reactions are expected to have happened, and the law then.

    The expected number is the integral of E[a0] over the law on the bounded set (see `bounded`), met to about
    2%. Where the states do not fit, t0 is shortened until the probability lost is at most tol; where nothing
    happens, t0 = t_max. Returns (t0, states int32 [M, S], p float64 [M], lost). Raises as `bounded`.
    """
    space, law = _small_set(net, 0.0, max_states, tol)
    best = (0.0, space.states, law[:-1], float(law[-1]))
    rate = float(_exit_rates(net, space.states, 0.0) @ law[:-1])
    t, too_long = min(t_max, jumps / rate) if rate > 0 else t_max, np.inf
    known = np.zeros(1)  # times that resolve the history up to the longest time that was right
    for _ in range(_ROUNDS):
        if (
            not best[0] < t < too_long
        ):  # between the longest time that was right and the shortest that was too long
            t = 0.5 * (best[0] + min(too_long, t_max))
        if law[-1] > tol or t <= 1.001 * best[0]:
            break
        space, law = _small_set(net, t, max_states, tol)
        times = np.concatenate([known, np.linspace(known[-1], t, _PIECES + 1)[1:]])
        laws, counts, rate = _history(space, law, times)
        last = int(np.flatnonzero(laws[:, -1] <= tol)[-1])
        if counts[last] > (1 + _CLOSE) * jumps:
            too_long, t = t, float(np.interp(jumps, counts, times))
        elif last == 0:  # nothing fits by far
            too_long, t = t, t / _PIECES
        else:
            if times[last] > best[0]:
                best = (float(times[last]), space.states, laws[last, :-1], float(laws[last, -1]))
            if last < len(times) - 1 or counts[-1] > (1 - _CLOSE) * jumps or t >= t_max:
                break
            known = times
            t = min(t_max, 4 * t, t + (jumps - float(counts[-1])) / rate if rate > 0 else np.inf)
    return best


def _small_set(net: ReactionNetwork, t: float, max_states: int, tol: float) -> tuple[StateSpace, np.ndarray]:
    """The bounded set for [0, t] and the starting law on it and the sink (float64 [M+1])."""
    start, p = net.initial.support(max_states=_LARGEST_START)
    if len(start) > max_states:
        kept = np.sort(np.argsort(-p, kind="stable")[:max_states])
        start, p = start[kept], p[kept]
    times = np.linspace(0.0, t, _PROBES)
    jumps, states, complete = 0, start, True
    while t > 0 and complete and len(states) < max_states:
        rate = max(
            float(_exit_rates(net, states, u).max()) for u in (times if net.time_dependent else times[:1])
        )
        if not (np.isfinite(rate) and rate >= 0.0):
            break  # the generator names the reaction and the state
        needed = int(scipy.stats.poisson.isf(tol, rate * t))
        if needed <= jumps:
            break
        jumps = needed
        states, complete = reachable(
            start, net.tables, net.s, net.limits, max_states, max_jumps=jumps, times=times
        )
    space = StateSpace(net, states, complete=False, reflecting=True)
    law = np.append(space.law(start, p)[0], 0.0)
    law[-1] = max(0.0, 1.0 - law.sum())
    return space, law


def _exit_rates(net: ReactionNetwork, states: np.ndarray, t: float) -> np.ndarray:
    """a0 with reflecting limits, float64 [M]."""
    return outflow(net.tables, states, net.s, net.limits, t)[0].sum(axis=1)


def _propagator(space: StateSpace, t: float, steps: int) -> Propagator | TimeDependentPropagator:
    if not space.net.time_dependent:
        return Propagator(generator_with_sink(space, 0.0), t, steps)
    check_rates(space, np.linspace(0.0, t, 3))
    return TimeDependentPropagator(space, 0.0, t, rtol=1e-10)


def _history(space: StateSpace, law: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Laws [T, M+1] at times from 0, expected number of reactions until each, and their rate at the end."""
    propagator = _propagator(space, float(times[-1]), len(times))
    laws = [law]
    for step in np.diff(times):
        laws.append(propagator.advance(laws[-1], float(step)))
    constant = None if space.net.time_dependent else _exit_rates(space.net, space.states, 0.0)
    rates = [
        float((_exit_rates(space.net, space.states, t) if constant is None else constant) @ p[:-1])
        for t, p in zip(times, laws, strict=True)
    ]
    counts = np.maximum.accumulate(scipy.integrate.cumulative_simpson(rates, x=times, initial=0.0))
    return np.stack(laws), counts, rates[-1]
