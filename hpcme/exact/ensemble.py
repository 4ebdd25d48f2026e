"""Ensembles of exact trajectories, solved in chunks so that progress can be shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hpcme.errors import InputError, InternalError, NumericalError
from hpcme.kernels import ssa
from hpcme.model.event import events_at
from hpcme.model.network import ReactionNetwork

#: Trajectories started at a time: enough to fill the threads, few enough to report progress.
_CHUNK = 2_000
_STARTS = 0x5EED_0F_57A7E5  # keeps the stream of starting states apart from those of the trajectories


@dataclass
class SsaSolution:
    """Independent samples of the exact law at a list of times.

    times float64 [T], model time units; samples int32 [T, N, S]; events int64 [N], reactions fired per
    trajectory; seconds, wall time. Trajectory i depends on (model, times' end, seed, i) only, never on
    threads or chunks.
    """

    times: np.ndarray
    samples: np.ndarray
    events: np.ndarray
    seconds: float

    def mean(self) -> np.ndarray:
        """Sample means, float64 [T, S]."""
        return self.samples.mean(axis=1, dtype=np.float64)

    def sd(self) -> np.ndarray:
        """Sample standard deviations (divisor N - 1), float64 [T, S]."""
        return self.samples.std(axis=1, ddof=1, dtype=np.float64)

    def covariance(self) -> np.ndarray:
        """Sample covariance matrices (divisor N - 1), float64 [T, S, S]."""
        centred = self.samples - self.mean()[:, None, :]
        return np.einsum("tni,tnj->tij", centred, centred) / (self.samples.shape[1] - 1)


def starting_states(net: ReactionNetwork, seed: int, first: int, count: int) -> np.ndarray:
    """Starts (int32 [count, S]) of trajectories first, first + 1, ...: a function of (seed, index) for
    each.
    """
    # Philox is a counter generator: skipping to `first` gives every trajectory its own S numbers.
    bits = np.random.Philox(key=[seed & 0xFFFF_FFFF_FFFF_FFFF, _STARTS])
    words = 4 * -(-net.S // 4)  # whole blocks of four words per trajectory
    bits.advance(first * words // 4)
    u = np.random.Generator(bits).random((count, words))[:, : net.S]
    return net.initial.sample(u)


def solve_ssa(
    net: ReactionNetwork,
    times: Sequence[float],
    trajectories: int,
    seed: int = 0,
    *,
    first_index: int = 0,
    max_events: int = 1_000_000_000,
    progress: Callable[[float], None] | None = None,
) -> SsaSolution:
    """Simulate `trajectories` (numbers first_index, ...) of `net` from its starting law at t = 0, recorded at
    `times`.

    Counts are not limited by the model's max. At the time of an event the state after it is recorded.
    progress is called with the fraction done.

    Raises
    ------
    InputError : times not in order; a propensity that is negative or not finite was met; no or too few
        trajectories.
    NumericalError : more than max_events reactions in one trajectory, or a count that passes 2^31 - 1.
    """
    start = time.perf_counter()
    times = np.asarray(times, dtype=np.float64).reshape(-1)
    if len(times) == 0 or not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) < 0).any():
        raise InputError(
            "the report times must be a non-empty list of finite numbers >= 0 in increasing order; sort them"
        )
    if trajectories < 1:
        raise InputError(f"trajectories = {trajectories} must be at least 1")
    samples = np.empty((len(times), trajectories, net.S), dtype=np.int32)
    events = np.empty(trajectories, dtype=np.int64)
    for begin in range(0, trajectories, _CHUNK):
        end = min(begin + _CHUNK, trajectories)
        n0 = starting_states(net, seed, first_index + begin, end - begin)
        samples[:, begin:end], events[begin:end] = _simulate(net, n0, times, seed, first_index + begin, max_events)
        if (events[begin:end] < 0).any():
            worst = begin + int(np.flatnonzero(events[begin:end] < 0)[0])
            raise _failure(net, int(events[worst]), first_index + worst, max_events)
        if progress:
            progress(end / trajectories)
    return SsaSolution(times, samples, events, time.perf_counter() - start)


def _simulate(
    net: ReactionNetwork, n0: np.ndarray, times: np.ndarray, seed: int, first: int, max_events: int
) -> tuple[np.ndarray, np.ndarray]:
    """Trajectories first, first + 1, ... from n0 (int32 [N, S]) at t = 0, stopped at events and started anew after
    them: samples int32 [T, N, S] and events int64 [N] as of `ssa.simulate`."""
    stops = net.event_times(float(times[-1]))
    if not len(stops):
        return ssa.simulate(net.tables, net.s, n0, times, 0.0, seed, first, max_events)
    samples = np.empty((len(times), *n0.shape), dtype=np.int32)
    fired = np.zeros(len(n0), dtype=np.int64)
    begin = 0.0
    for k, stop in enumerate([*stops.tolist(), np.inf]):
        mine = (times >= begin) & (times < stop)
        until = np.append(times[mine], stop) if np.isfinite(stop) else times[mine]
        if k:  # waiting times have no memory: a stream of its own for each piece leaves the law what it is
            seed = int(np.random.SeedSequence([seed, k]).generate_state(1, np.uint64)[0] >> 1)
        parts, more = ssa.simulate(net.tables, net.s, n0, until, begin, seed, first, max_events)
        samples[mine] = parts[: int(mine.sum())]
        fired = np.where(fired < 0, fired, np.where(more < 0, more, fired + more))
        if (fired < 0).any() or not np.isfinite(stop):
            break
        n0, begin = net.remap(parts[-1], events_at(net, stop)).astype(np.int32), stop
    return samples, fired


def _failure(net: ReactionNetwork, code: int, index: int, max_events: int) -> Exception:
    who = f"model {net.name}: trajectory {index}"
    if code == ssa.BAD_PROPENSITY:
        return InputError(
            f"{who} met a propensity that is negative or not finite; change the expression, for example with "
            "max(0, ...) (hpcme check lists the propensities)"
        )
    if code == ssa.TOO_MANY_EVENTS:
        return NumericalError(
            f"{who} had more than {max_events} reactions before the last report time; counts may grow "
            "without bound. Shorten the time, check the rates, or allow more events"
        )
    if code == ssa.TOO_LARGE_COUNT:
        return NumericalError(f"{who} reached a count above 2147483647; shorten the time or check the rates")
    return InternalError(f"unknown trajectory code {code}")
