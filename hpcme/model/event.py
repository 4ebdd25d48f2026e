"""Events: at fixed times, some species are set to new counts."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from hpcme.errors import InputError, did_you_mean
from hpcme.model.tree import TIME_NAME, Expr, constant, number_text

if TYPE_CHECKING:
    from hpcme.model.network import ReactionNetwork

#: Largest count that an event may set, whatever the limits: states are stored as int32.
LARGEST_COUNT = 2**31 - 1
#: How far from a whole number a new count may be, for what floating-point arithmetic leaves of one.
_WHOLE = 1e-9


@dataclass(frozen=True)
class Event:
    """At `time` (model time units) every species in `assignments` is set to the value of its expression.

    The expressions are of parameters and of species counts BEFORE the event: all right-hand sides are evaluated,
    then all species are set. `at` is the time as it was written, an expression of parameters; it gives `time`.
    """

    time: float
    assignments: Mapping[str, Expr] = field(hash=False)
    name: str = ""
    at: Expr | None = None

    @property
    def label(self) -> str:
        """The name, or the time where there is none."""
        return self.name or f"t = {number_text(self.time)}"

    @property
    def when(self) -> Expr:
        """The time as it was written."""
        return constant(self.time) if self.at is None else self.at

    def text(self) -> str:
        """'t = 25: X = 50, Y = Y + 20'."""
        sets = ", ".join(f"{name} = {expr.to_text()}" for name, expr in self.assignments.items())
        return f"t = {number_text(self.time)}: {sets}"


def checked_events(
    events: Sequence[Event], net: ReactionNetwork, limits: Sequence[int | None]
) -> tuple[Event, ...]:
    """The events with their times for the parameters of `net`, in the order written.

    limits: largest counts of the species, None where there is none yet.

    Raises
    ------
    InputError : a time that is not finite and > 0; an event that sets nothing; a name that is not a species (on the
        left) or not a species or parameter (on the right); a constant that is no count from 0 to the limit.
    """
    found = []
    names: dict[str, int] = {}
    for number, event in enumerate(events, 1):
        where = f"{net.source}: event {number}" + (f' ("{event.name}")' if event.name else "")
        if event.name and event.name in names:
            raise InputError(f"{where} has the name of event {names[event.name]}; rename one of them")
        names[event.name] = number
        found.append(replace(event, time=_time(event, net, where)))
        if not event.assignments:
            raise InputError(f"{where} sets nothing; give set = {{ X = 50 }} with the species that it changes")
        for name, expr in event.assignments.items():
            limit = limits[net.species.index(name)] if name in net.species else None
            _check_assignment(name, expr, net, LARGEST_COUNT if limit is None else limit, where)
    return tuple(found)


def in_order(events: Sequence[Event]) -> tuple[Event, ...]:
    """Sorted by time; those at one time stay in the order given."""
    return tuple(sorted(events, key=lambda event: event.time))


def species_set(events: Sequence[Event]) -> set[str]:
    """Names of all species that some event sets."""
    return {name for event in events for name in event.assignments}


def event_times(events: Sequence[Event], end: float) -> np.ndarray:
    """Distinct times of events in (0, end], float64 [K], increasing."""
    return np.array(sorted({event.time for event in events if event.time <= end}), dtype=np.float64)


def events_at(net: ReactionNetwork, t: float) -> tuple[Event, ...]:
    """The events of exactly that time, in the order in which they are applied."""
    return tuple(event for event in net.events if event.time == t)


def remaps(net: ReactionNetwork, end: float) -> list[Callable[[np.ndarray], np.ndarray]]:
    """For every time of events in (0, end], in order, what they make of states: integers [B, S] -> int64 [B, S]."""
    return [functools.partial(remap, net, events=events_at(net, t)) for t in net.event_times(end).tolist()]


def remap(net: ReactionNetwork, n: np.ndarray, events: Event | Sequence[Event]) -> np.ndarray:
    """Where one event, or several one after the other, lead from the states n (integers [B, S]): int64 [B, S].

    Counts above the limits are returned as they are.

    Raises
    ------
    InputError : in some state a new value is not a whole number from 0 to 2^31 - 1 (within 1e-9); names the event,
        the species, the state and the value.
    """
    moved = np.array(n, dtype=np.int64)
    for event in [events] if isinstance(events, Event) else events:
        before = moved.astype(np.float64)
        counts = {name: before[:, i] for i, name in enumerate(net.species)}
        for name, expr in event.assignments.items():
            value = np.broadcast_to(expr.bind(net.parameters).evaluate(counts), len(moved))
            good = _is_count(value)
            if not good.all():
                row = int(np.flatnonzero(~good)[0])
                state = ", ".join(f"{s} = {c:.0f}" for s, c in zip(net.species, before[row], strict=True))
                raise InputError(
                    f"{net.source}: event {event.label} sets {name} = {expr.to_text()}, which is "
                    f"{number_text(value[row])} in the state {state}; a count must be a whole number from 0 to "
                    f"{LARGEST_COUNT}. Use for example max(0, ...) or floor(...)"
                )
            moved[:, net.species.index(name)] = np.rint(value).astype(np.int64)
    return moved


def _is_count(value: np.ndarray) -> np.ndarray:
    near = np.rint(np.where(np.isfinite(value), value, -1.0))
    close = np.abs(np.where(np.isfinite(value), value, 0.0) - near) <= _WHOLE * np.maximum(1.0, near)
    return close & (near >= 0) & (near <= LARGEST_COUNT)


def _time(event: Event, net: ReactionNetwork, where: str) -> float:
    expr = event.when
    where = f"{where}, at = {expr.to_text()}"
    if expr.uses_time():
        raise InputError(f'{where}: the time of an event is a constant and cannot use "{TIME_NAME}"')
    for name in sorted(expr.names()):
        if name in net.species:
            raise InputError(
                f'{where}: "{name}" is a species; events happen at fixed times, given by a number or parameters'
            )
        if name not in net.parameters:
            raise InputError(f"{where}: {_unknown(name, 'parameter', net.parameters)}")
    time = float(expr.evaluate(net.parameters))
    if not (math.isfinite(time) and time > 0):
        raise InputError(
            f"{where} is {time:g}; the time of an event must be finite and above 0 (what happens at 0 belongs into the "
            "start: initial)"
        )
    return time


def _check_assignment(name: str, expr: Expr, net: ReactionNetwork, limit: int, where: str) -> None:
    if name in net.parameters:
        raise InputError(
            f"{where} sets the parameter {name}; events set species. Let the rate depend on the time instead, such as "
            f'"where({TIME_NAME} < 25, 1, 2)"'
        )
    if name not in net.species:
        raise InputError(f"{where} sets {_unknown(name, 'species', net.species)}")
    where = f"{where}, {name} = {expr.to_text()}"
    if expr.uses_time():
        raise InputError(f'{where}: what an event sets cannot use the time "{TIME_NAME}"; write the number')
    allowed = [*net.species, *net.parameters]
    for used in sorted(expr.names()):
        if used not in allowed:
            raise InputError(f"{where}: {_unknown(used, 'species or parameter', allowed)}")
    folded = expr.bind(net.parameters).fold()
    if folded.is_constant:
        if not _is_count(np.array([folded.value]))[0]:
            raise InputError(f"{where} is {folded.value:g}; a count must be a whole number from 0 to {limit}")
        if round(folded.value) > limit:
            raise InputError(
                f"{where} is {folded.value:g}, above max = {limit} of {name}; raise max to at least "
                f"{folded.value:g}, or set less"
            )


def _unknown(name: str, kind: str, allowed: Mapping | Sequence[str]) -> str:
    known = ", ".join(itertools.islice(allowed, 40)) or "none"
    return f'"{name}", which is not a {kind}; known are {known}.{did_you_mean(name, allowed)} Correct the name'
