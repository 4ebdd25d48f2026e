"""Events of SBML whose trigger is a time: as events of the network, and as steps of parameters.

A trigger is read as the times at which it holds: from `lower` on, and before `upper`. The event fires when it begins to
hold, at `lower`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpcme.model.event import Event
from hpcme.model.sbml_problems import Place, Problems
from hpcme.model.sbml_symbols import Symbols
from hpcme.model.tree import Expr, constant, number_text

_ZERO = constant(0)
_FLIPPED = {"GE": "LE", "GT": "LT", "LE": "GE", "LT": "GT"}
_NEGATED = {"GE": "LT", "GT": "LE", "LE": "GT", "LT": "GE"}


@dataclass
class RawEvent:
    """An event as it stands in the file; formulas over SBML ids."""

    place: Place
    id: str
    trigger: Expr
    initial_value: bool  # whether the trigger counts as true before t = 0
    assignments: list[tuple[str, Expr, Place]]
    at_trigger: bool  # right-hand sides are of the state at the trigger, not of that at the execution
    priority: Expr | None


@dataclass
class _Span:
    """The trigger holds for lower <= t <= upper, or < where an end is open; time is lower as written."""

    time: Expr
    lower: float = -math.inf
    open: bool = False
    upper: float = math.inf
    upper_open: bool = False

    @property
    def empty(self) -> bool:
        """Whether it holds at no time from 0 on."""
        if self.upper < max(self.lower, 0.0):
            return True
        return self.upper == self.lower and (self.open or self.upper_open)


@dataclass
class _Timed:
    raw: RawEvent
    span: _Span
    priority: float | None
    reads: set[str]  # ids of what its right-hand sides depend on


class EventReader:
    """Turns the raw events of a model into what a network has; problems and notes are recorded."""

    def __init__(self, symbols: Symbols, problems: Problems, notes: list[str]) -> None:
        self._symbols, self._problems, self._notes = symbols, problems, notes
        self._steps: dict[str, Expr] = {}

    def firing(self, raws: Sequence[RawEvent]) -> list[_Timed]:
        """The events that happen, in the order in which they do."""
        timed = [found for raw in raws if (found := self._timed(raw)) is not None]
        groups = itertools.groupby(sorted(timed, key=_when), key=_when)
        return [event for _, group in groups for event in self._ordered(list(group))]

    def apply(self, timed: Sequence[_Timed]) -> list[Event]:
        """Events of the network; those at t = 0 change the start, and parameters get their steps."""
        symbols = self._symbols
        for symbol in symbols.all.values():
            if symbol.role == "stepped":
                self._steps[symbol.id] = Expr("NAME", name=symbol.name)
        at_zero = [event for event in timed if event.span.lower <= 0]
        for event in at_zero:
            self._at_start(event)
        return [made for event in timed if event.span.lower > 0 if (made := self._later(event)) is not None]

    # ---- when ----

    def _timed(self, raw: RawEvent) -> _Timed | None:
        place = raw.place
        steps = {s.id: Expr("NAME", name=f"?{s.id}") for s in self._symbols.all.values() if s.role == "stepped"}
        trigger = self._symbols.resolve(raw.trigger, place, steps)
        states = {s.name: s.id for s in self._symbols.all.values() if s.role == "state"}
        used = sorted(trigger.names())
        if any(name in states for name in used):
            read = ", ".join(states[name] for name in used if name in states)
            self._problems.add(
                place, f"its trigger depends on the state ({read}); supported are times, such as t >= 25"
            )
            return None
        if any(name.startswith("?") for name in used):
            self._problems.add(place, "its trigger depends on a parameter that events change; write its time out")
            return None
        span = self._span(trigger)
        if span is None:
            self._problems.add(place, "its trigger is not of the form t >= c with a constant c, as is supported")
            return None
        name = raw.id or "an event"
        if span.empty:
            self._notes.append(f"event {name}: its trigger never holds; left out")
            return None
        true_at_start = span.lower < 0 or (span.lower == 0 and not span.open)
        if true_at_start and raw.initial_value:
            self._notes.append(f"event {name}: its trigger holds from the start on, so it never fires; left out")
            return None
        if true_at_start or span.lower == 0:
            self._notes.append(f"event {name}: fires at t = 0 and is part of the start")
            span.lower = 0.0
        elif span.open:
            self._notes.append(
                f"event {name}: t > {span.time.to_text()} is read as t >= {span.time.to_text()}; "
                "what is reported for that very time is after the event"
            )
        ids = {s.name: s.id for s in self._symbols.all.values()} | {f"?{name}": name for name in steps}
        sides = [self._symbols.resolve(expr, where, steps) for _, expr, where in raw.assignments]
        reads = {ids[name] for side in sides for name in side.names()}
        return _Timed(raw, span, self._priority(raw, states, steps), reads)

    def _priority(self, raw: RawEvent, states: Mapping[str, str], steps: Mapping[str, Expr]) -> float | None:
        """The event's priority where it is one number, else None."""
        if raw.priority is None:
            return None
        expr = self._symbols.resolve(raw.priority, raw.place, steps)
        if expr.uses_time() or any(name in states or name.startswith("?") for name in expr.names()):
            return None
        return self._constant(expr)

    def _span(self, trigger: Expr) -> _Span | None:
        """When a trigger over parameters and t holds; None where it is of no known form."""
        if not trigger.uses_time():
            value = self._constant(trigger)
            return None if value is None else _Span(_ZERO, upper=math.inf if value else -math.inf)
        if trigger.op == "NOT" and trigger.args[0].op in _NEGATED:
            return self._span(Expr(_NEGATED[trigger.args[0].op], trigger.args[0].args))
        if trigger.op == "AND":
            a, b = (self._span(arg) for arg in trigger.args)
            return None if a is None or b is None else _both(a, b)
        if trigger.op not in _FLIPPED:
            return None
        left, right, op = *trigger.args, trigger.op
        if right.op == "TIME":
            left, right, op = right, left, _FLIPPED[op]
        if left.op == "TIME" and not right.uses_time():
            bound = right
        else:
            line = _linear(Expr("SUB", (left, right)))
            slope = None if line is None else self._constant(line[0])
            if line is None or not slope or not math.isfinite(slope):
                return None
            bound = Expr("DIV", (Expr("NEG", (line[1],)), line[0]))
            op = op if slope > 0 else _FLIPPED[op]
        value = self._constant(bound)
        if value is None or not math.isfinite(value):
            return None
        if op in ("GE", "GT"):
            return _Span(bound.fold(), value, op == "GT")
        return _Span(_ZERO, upper=value, upper_open=op == "LT")

    def _constant(self, expr: Expr) -> float | None:
        """Value of an expression of parameters of the network."""
        by_name = {s.name: s for s in self._symbols.all.values()}
        values = {}
        for name in expr.names():
            symbol = by_name[name]
            species = symbol.kind == "species"
            values[name] = (
                self._symbols.amount(symbol) if species else self._symbols.value(symbol.id, symbol.place)
            )
        return float(expr.evaluate(values))

    # ---- in which order ----

    def _ordered(self, group: list[_Timed]) -> list[_Timed]:
        """Events of one time in the order in which they act, where that makes a difference."""
        if len(group) == 1 or not _interfere(group):
            return group
        priorities = [event.priority for event in group]
        if None in priorities or len(set(priorities)) < len(group):
            for event in group:
                self._problems.add(
                    event.raw.place,
                    f"it fires at the same time as others (t = {event.span.lower:g}) that set or read what it sets, in "
                    "an order that SBML leaves to chance; give them different priorities, or make one event of them",
                )
            return group
        group = sorted(group, key=lambda event: -event.priority)
        done: set[str] = set()
        for event in group:
            if event.raw.at_trigger and done & event.reads:
                self._problems.add(
                    event.raw.place,
                    "it uses the values from before another event of the same time that comes first; set "
                    'useValuesFromTriggerTime="false", or make one event of them',
                )
            done |= _sets(event)
        return group

    # ---- what ----

    def _at_start(self, event: _Timed) -> None:
        new = {}
        for target, expr, place in event.raw.assignments:
            new[target] = self._symbols.number(expr, place)
            if not math.isfinite(new[target]):
                self._problems.add(place, f"it sets {new[target]} at t = 0; a value must be finite")
                new[target] = 1.0
        self._symbols.replace(new)

    def _later(self, event: _Timed) -> Event | None:
        """The event on the species; None where it sets parameters only."""
        time = event.span.time
        sets: dict[str, Expr] = {}
        steps: dict[str, Expr] = {}
        for target, raw, place in event.raw.assignments:
            symbol = self._symbols.all[target]
            expr = self._symbols.resolve(raw, place, self._steps, time)
            if symbol.role == "stepped":
                if self._reads_state(expr):
                    self._problems.add(
                        place,
                        "it sets a parameter to a value that depends on the state, and rates cannot depend on the past",
                    )
                steps[target] = expr.fold()
                continue
            if not symbol.by_amount:
                expr = times(expr, self._symbols.size(symbol, place, self._steps, time))
            sets[symbol.name] = expr.fold()
        for target, expr in steps.items():
            self._steps[target] = expr
            self._symbols.all[target].steps.append((time, expr))
            self._notes.append(
                f"event {event.raw.id or number_text(event.span.lower)}: the parameter {target} is "
                f"{expr.to_text()} from t = {time.to_text()} on; rates that use it read the time"
            )
        return Event(event.span.lower, sets, event.raw.id, time) if sets else None

    def _reads_state(self, expr: Expr) -> bool:
        states = {s.name for s in self._symbols.all.values() if s.role == "state"}
        return bool(expr.names() & states)


def _when(event: _Timed) -> float:
    return event.span.lower


def _both(a: _Span, b: _Span) -> _Span:
    """Where both hold."""
    late, early = (a, b) if (a.lower, a.open) >= (b.lower, b.open) else (b, a)
    time = late.time
    if math.isfinite(early.lower) and not (a.time.is_constant and b.time.is_constant):
        time = Expr("MAX", (a.time, b.time))  # which of them is later may change with the parameters
    first = min(a, b, key=lambda span: (span.upper, not span.upper_open))
    return _Span(time, late.lower, late.open, first.upper, first.upper_open)


def _linear(expr: Expr) -> tuple[Expr, Expr] | None:
    """(a, b) with expr = a t + b and a, b without t; None where it is not of this form."""
    if expr.op == "TIME":
        return constant(1), _ZERO
    if not expr.uses_time():
        return _ZERO, expr
    if expr.op in ("ADD", "SUB"):
        parts = [_linear(arg) for arg in expr.args]
        if None in parts:
            return None
        (a, b), (c, d) = parts  # type: ignore[misc]
        return Expr(expr.op, (a, c)).fold(), Expr(expr.op, (b, d)).fold()
    if expr.op == "NEG":
        part = _linear(expr.args[0])
        return None if part is None else (Expr("NEG", (part[0],)).fold(), Expr("NEG", (part[1],)).fold())
    if expr.op in ("MUL", "DIV"):
        left, right = expr.args
        if expr.op == "MUL" and not left.uses_time():
            left, right = right, left
        part = _linear(left)
        if part is None or right.uses_time():
            return None
        return Expr(expr.op, (part[0], right)).fold(), Expr(expr.op, (part[1], right)).fold()
    return None


def _sets(event: _Timed) -> set[str]:
    return {target for target, _, _ in event.raw.assignments}


def _interfere(group: Sequence[_Timed]) -> bool:
    """Whether the order of the events makes a difference."""
    pairs = itertools.combinations(group, 2)
    return any(_sets(a) & (_sets(b) | b.reads) or _sets(b) & a.reads for a, b in pairs)


def times(expr: Expr, size: Expr) -> Expr:
    """expr * size, without a factor 1, and without size/size."""
    if size == constant(1):
        return expr
    if expr.op == "DIV" and expr.args[1] == size:
        return expr.args[0]
    return Expr("MUL", (expr, size))
