"""From the model of an SBML document to a reaction network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from hpcme.errors import InputError, did_you_mean
from hpcme.model.builder import ModelBuilder
from hpcme.model.equation import LARGEST_COEFFICIENT, equation_text
from hpcme.model.event import Event
from hpcme.model.expression import DEEPEST_TREE, LONGEST_TEXT
from hpcme.model.network import ReactionNetwork
from hpcme.model.sbml_collect import Collector, RawReaction
from hpcme.model.sbml_events import EventReader, times
from hpcme.model.sbml_laws import forward_and_backward, has_difference, mass_action, squares
from hpcme.model.sbml_problems import Place, Problems
from hpcme.model.sbml_symbols import Symbol
from hpcme.model.sbml_units import time_unit
from hpcme.model.tree import Expr, variable

_WHAT = "a chemical master equation"
_WHOLE = 1e-9


class ModelReader:
    """Reads one model (an object of libsbml). Problems are recorded and raised together by `network`."""

    def __init__(self, libsbml: ModuleType, model: Any, source: str, problems: Problems, notes: list[str]) -> None:
        self._model, self._source, self._problems, self.notes = model, source, problems, notes
        collected = Collector(libsbml, model, problems, notes)
        self._symbols, self._reactions, self._events = collected.symbols, collected.reactions, collected.events
        self._order: list[str] = []  # names of the species
        self._rates: dict[str, list[str]] = {"mass action": [], "as written": []}

    def network(
        self, default_name: str, limits: Mapping[str, object], known: Mapping[str, object] | None = None
    ) -> ReactionNetwork:
        """The network. limits: largest counts by name; known: more of them, of which some may be of no use.

        Raises InputError with everything that cannot be read.
        """
        events = self._roles()
        self._order = [symbol.name for symbol in self._states()]
        builder = self._builder(default_name)
        self._add_all(builder, events, limits, known or {})
        return builder.build()

    # ---- what changes ----

    def _states(self) -> list[Symbol]:
        return [symbol for symbol in self._symbols.all.values() if symbol.role == "state"]

    def _roles(self) -> list[Event]:
        """Give every id its role, and return the events of the network."""
        symbols = self._symbols.all
        for raw in self._reactions:
            left, right = self._amounts(raw)
            for name in {*left, *right}:
                symbol = symbols[name]
                if left.get(name, 0) != right.get(name, 0) and not symbol.fixed and symbol.role != "ruled":
                    symbol.role = "state"
        by_reaction = {symbol.id for symbol in self._states()}

        def set_roles(targets: set[str]) -> None:
            for symbol in symbols.values():
                if symbol.kind == "species" and symbol.role in ("state", "constant"):
                    symbol.role = "state" if symbol.id in by_reaction | targets else "constant"
                if symbol.kind == "parameter" and symbol.role in ("stepped", "constant"):
                    symbol.role = "stepped" if symbol.id in targets else "constant"

        set_roles({target for raw in self._events for target, _, _ in raw.assignments})
        reader = EventReader(self._symbols, self._problems, self.notes)
        timed = reader.firing(self._events)
        set_roles({target for event in timed if event.span.lower > 0 for target, _, _ in event.raw.assignments})
        return reader.apply(timed)

    def _amounts(self, raw: RawReaction) -> tuple[dict[str, int], dict[str, int]]:
        """Reactants and products: species id -> whole stoichiometry, references to the same species added up."""
        sides: tuple[dict[str, int], dict[str, int]] = ({}, {})
        for side, references in zip(sides, raw.sides, strict=True):
            for species, name in references:
                symbol = self._symbols.all[name]
                value = self._symbols.value(name, symbol.place)
                if abs(value - round(value)) > _WHOLE or not 0 <= value <= LARGEST_COEFFICIENT:
                    self._problems.add(
                        symbol.place,
                        f"its stoichiometry is {value:g}; it must be a whole number from 0 to {LARGEST_COEFFICIENT}",
                    )
                    value = 1
                if round(value):
                    side[species] = side.get(species, 0) + round(value)
        return sides

    # ---- building ----

    def _builder(self, default_name: str) -> ModelBuilder:
        model = self._model
        name = model.getId() or model.getName().strip() or default_name
        title = "" if model.getName().strip() == name else model.getName()
        return ModelBuilder(name, source=self._source, description=title, time_unit=time_unit(model))

    def _add_all(
        self, builder: ModelBuilder, events: list[Event], limits: Mapping[str, object], known: Mapping[str, object]
    ) -> None:
        """Everything of the network, or InputError with everything that stands in the way."""
        ready = [part for raw in self._reactions for part in self._read_reaction(raw)]
        readouts = self._readouts()
        parameters = self._parameter_exprs(
            set().union(*(expr.names() for *_, expr in ready), *(expr.names() for expr in readouts.values()),
                        *(_event_names(event) for event in events))
        )  # fmt: skip
        counts = {symbol.name: self._count(symbol) for symbol in self._states()}
        if not counts and not len(self._problems):
            place = Place("model", self._model.getId(), 0)
            self._problems.add(place, "no reaction or event changes the count of a species")
        self._problems.raise_any(_WHAT)
        for name in limits:
            if name not in counts:
                raise InputError(
                    f'{self._source}: limit "{name} = {limits[name]}" names no species whose count changes; they are '
                    f"{', '.join(counts)}.{did_you_mean(name, counts)} Correct the name"
                )
        for name, expr in parameters.items():
            builder.parameter(name, expr)
        for name, count in counts.items():
            builder.species(name, initial=count, max=limits.get(name, known.get(name)))
        for name, left, right, key, expr in ready:
            builder.reaction(equation_text(left, right), name=name, **{key: expr})
        for event in events:
            builder.event(event.when, event.assignments, event.name)
        for name, expr in readouts.items():
            builder.readout(name, expr)
        headings = {"mass action": "reactions read as mass action", "as written": "laws taken as the propensity"}
        self.notes += [f"{headings[key]}: {', '.join(names)}" for key, names in self._rates.items() if names]
        for name, new in self._symbols.renamed.items():
            if ":" in name:
                self.notes.append(f"the local parameter {name.split(':')[1]} of reaction {name.split(':')[0]} is {new}")
            else:
                self.notes.append(f"{name} is named {new}: the name means something else in expressions")
        for note in dict.fromkeys(self.notes):
            builder.note(note)

    def _read_reaction(self, raw: RawReaction) -> list[tuple[str, dict, dict, str, Expr]]:
        """(name, reactants, products, "rate" or "propensity", expression) of each direction of a reaction."""
        symbols = self._symbols.all
        left, right = (
            {symbols[name].name: m for name, m in side.items() if symbols[name].role == "state"}
            for side in self._amounts(raw)
        )
        fixed = {symbols[n].name for side in self._amounts(raw) for n in side if symbols[n].fixed}
        left, right = ({name: m for name, m in side.items() if name not in fixed} for side in (left, right))
        law = self._symbols.resolve(raw.law, raw.law_place)
        self._printable(law, raw.law_place)
        if left == right:
            self.notes.append(f"reaction {raw.id}: it changes no count; left out")
            return []
        if self._problems.at(raw.law_place):
            return []  # the law is not what stands there
        if not raw.reversible or mass_action(law, self._order):
            return [self._direction(raw.id, left, right, law)]
        consumed = [name for name in {**left, **right} if left.get(name, 0) > right.get(name, 0)]
        made = [name for name in {**left, **right} if left.get(name, 0) < right.get(name, 0)]
        split = forward_and_backward(law, consumed, made, self._order, self._parameter_values())
        if split is None and has_difference(law, self._order):
            self._problems.add(
                raw.place,
                "it is reversible, and its law is not a difference forward - backward in which each part vanishes "
                'without the species that it consumes; write two reactions, or reversible="false" if the law is never '
                "negative",
            )
            return []
        if split is None:
            self.notes.append(f"reaction {raw.id}: reversible, but its law has no backward part; read as forward only")
            return [self._direction(raw.id, left, right, law)]
        back = f"{raw.id}_reverse"
        while back in self._symbols.all:
            back += "_"
        self.notes.append(f"reaction {raw.id}: reversible; read as two reactions, {raw.id} and {back}")
        return [
            self._direction(raw.id, left, right, split[0]), self._direction(back, right, left, split[1]),
        ]  # fmt: skip

    def _direction(self, name: str, left: dict, right: dict, law: Expr) -> tuple[str, dict, dict, str, Expr]:
        """One direction, as mass action where its law is that of the counts it reads."""
        order = self._order
        found = mass_action(law, order)
        if found is not None:
            rate, orders = found
            # The law decides how many molecules take part: what it reads and the reaction leaves as it is is a
            # catalyst, on both sides of the equation.
            makes = {n: right.get(n, 0) + orders.get(n, 0) - left.get(n, 0) for n in {**left, **right, **orders}}
            if all(m >= 0 for m in makes.values()):
                if orders != {n: left[n] for n in order if n in left}:
                    self.notes.append(
                        f"reaction {name}: {equation_text(left, right)} is written with what its law reads, as "
                        f"{equation_text(orders, {n: makes[n] for n in order if makes.get(n)})}"
                    )
                self._rates["mass action"].append(name)
                return name, orders, {n: makes[n] for n in order if makes.get(n)}, "rate", rate
        for species in squares(law, [n for n in order if left.get(n, 0) > 1]):
            self.notes.append(
                f"reaction {name}: its law has a power of {species}, not {species}*({species} - 1); kept as written"
            )
        self._rates["as written"].append(name)
        return name, left, right, "propensity", law

    def _count(self, symbol: Symbol) -> int:
        """Starting count of a species."""
        if not self._symbols.has_value(symbol):
            self._problems.add(symbol.place, "it has no initial amount or concentration; give it one")
            return 0
        amount = self._symbols.amount(symbol)
        if not math.isfinite(amount) or amount < 0 or abs(amount - round(amount)) > _WHOLE * max(1.0, amount):
            self._problems.add(
                symbol.place,
                f"it starts with an amount of {amount:.10g}, which is no count; a count must be a whole number >= 0 "
                "(an amount is concentration * size of the compartment)",
            )
            return 0
        return round(amount)

    def _parameter_values(self) -> dict[str, float]:
        """Values at the start of all parameters that may stand in a law, by name; 1 for those that have none."""
        symbols = self._symbols
        values = {}
        for symbol in symbols.all.values():
            if symbol.role in ("constant", "stepped"):
                value = symbols.amount if symbol.kind == "species" else lambda s: symbols.value(s.id, s.place)
                values[symbol.name] = value(symbol) if symbols.has_value(symbol) else 1.0
        return values

    def _parameter_exprs(self, needed: set[str]) -> dict[str, Expr]:
        """Parameters of the network, each behind those that it is made of. Compartments stand there where needed."""
        by_name = {s.name: s for s in self._symbols.all.values() if s.role in ("constant", "stepped")}
        exprs: dict[str, Expr] = {}

        def add(symbol: Symbol) -> None:
            if symbol.name in exprs:
                return
            expr = self._symbols.parameter(symbol)
            self._printable(expr, symbol.place)
            for name in sorted(expr.names()):
                add(by_name[name])
            exprs[symbol.name] = expr

        for symbol in by_name.values():
            if symbol.kind == "reaction" or (symbol.kind == "compartment" and symbol.name not in needed):
                continue
            if self._symbols.has_value(symbol):
                add(symbol)
            elif symbol.name not in needed:
                self.notes.append(f"{symbol.place} has no value, and nothing needs it; left out")
        return exprs

    def _readouts(self) -> dict[str, Expr]:
        """Species that nothing changes, and what assignment rules give; of species the amounts."""
        found: dict[str, Expr] = {}
        for symbol in self._symbols.all.values():
            if symbol.kind == "species" and symbol.role == "constant" and self._symbols.has_value(symbol):
                found[symbol.name] = variable(symbol.name)
            elif symbol.role == "ruled":
                expr = self._symbols.resolve(variable(symbol.id), symbol.place)
                if symbol.kind == "species" and not symbol.by_amount:
                    expr = times(expr, self._symbols.size(symbol, symbol.place))
                self._printable(expr, symbol.place)
                if expr.uses_time():
                    self.notes.append(f"{symbol.id} is used in rates, but not reported: its rule reads the time")
                else:
                    found[symbol.name] = expr
        return found

    def _printable(self, expr: Expr, place: Place) -> None:
        """Expressions must fit the text of a model."""
        if expr.depth() > DEEPEST_TREE or len(expr.to_text()) > LONGEST_TEXT:
            self._problems.endless = True
            self._problems.add(
                place,
                f"its formula is too long or too deep once rules and functions are written out (at most {LONGEST_TEXT} "
                f"characters, {DEEPEST_TREE} levels); shorten it",
            )


def _event_names(event: Event) -> set[str]:
    return event.when.names().union(*(expr.names() for expr in event.assignments.values()))
