"""What the ids of an SBML model stand for in its formulas, now and at the start.

The counts of a network are amounts. In formulas a species means its amount where hasOnlySubstanceUnits is true, else
its concentration, amount / size of the compartment. Every id has one role:

    state      a species that reactions or events change: a species of the network
    constant   nothing changes it: a parameter of the network (for a species, its amount)
    stepped    a parameter that events set to constants: a function of the time
    ruled      an assignment rule gives it: replaced by its formula
    number     a species reference (its stoichiometry), or a compartment of size 1, which leaves every product as it is
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hpcme.model.expression import RESERVED
from hpcme.model.sbml_math import MOST_NODES, size_of
from hpcme.model.sbml_problems import Place, Problems
from hpcme.model.tree import Expr, constant, variable

#: What gives a value to an id of each kind; a parameter simply has a value.
_VALUES = {
    "compartment": "size", "species": "initial amount or concentration", "species reference": "stoichiometry",
}  # fmt: skip


@dataclass
class Symbol:
    """One id. value is an amount or, where `concentration` is true, a concentration; None where none is given."""

    id: str
    kind: str  # species, parameter, compartment, reaction, species reference
    place: Place
    value: float | None = None
    concentration: bool = False
    by_amount: bool = True  # species: formulas mean the amount
    compartment: str = ""
    fixed: bool = False  # constant="true", or a boundary species: no reaction changes it
    assignment: Expr | None = None  # initial assignment, over SBML ids
    rule: Expr | None = None  # assignment rule, over SBML ids
    continuous: bool = False  # a rate rule changes it, which is refused
    role: str = "constant"
    name: str = ""  # in the network
    steps: list[tuple[Expr, Expr]] = field(default_factory=list)  # (time, value) over names of the network


class Symbols:
    """All ids of a model. Problems are recorded; 1 stands in for what has no value."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self.all: dict[str, Symbol] = {}
        self.renamed: dict[str, str] = {}
        self._values: dict[str, float] = {}
        self._open: list[str] = []
        self._meanings: dict[str, Expr] = {}
        self.replaced: dict[str, float] = {}  # symbol values after events at t = 0

    def add(self, symbol: Symbol) -> None:
        """Make an id known."""
        if symbol.id in self.all:
            self._problems.add(symbol.place, f'the id "{symbol.id}" is given twice; rename one of them')
        self.all[symbol.id] = symbol

    def name_all(self) -> None:
        """Give every id its name in the network: the id itself, unless it means something in expressions."""
        taken = set(self.all) | RESERVED
        for symbol in self.all.values():
            wanted = symbol.name or symbol.id
            if wanted not in RESERVED and (wanted == symbol.id or wanted not in taken):
                symbol.name = wanted
            else:
                number = 0
                while f"{wanted}_{number}" in taken:
                    number += 1
                symbol.name = f"{wanted}_{number}"
                self.renamed[symbol.id] = symbol.name
            taken.add(symbol.name)

    # ---- at a time ----

    def resolve(
        self, expr: Expr, place: Place, steps: Mapping[str, Expr] | None = None, time: Expr | None = None
    ) -> Expr:
        """The formula over names of the network (counts, parameters, t).

        steps, time: values of stepped parameters and of the time, for what happens at one known time.
        """
        values = {name: self._meaning(name, place, steps, time) for name in sorted(expr.names())}
        return _without_ones(self._checked(expr.substitute(values, time), place))

    def _meaning(self, name: str, place: Place, steps: Mapping[str, Expr] | None, time: Expr | None) -> Expr:
        general = steps is None and time is None
        if general and name in self._meanings:
            return self._meanings[name]
        symbol = self._known(name, place)
        if symbol is None:
            return constant(1)
        if symbol.role == "ruled":
            meaning = self._inside(symbol, place, lambda: self.resolve(_rule(symbol), symbol.place, steps, time))
        elif symbol.role == "stepped":
            meaning = steps[name] if steps is not None else _stepped(symbol)
            self._needs_value(symbol, place)
        elif symbol.role == "number":
            meaning = constant(self.value(name, place))
        else:
            if symbol.role == "constant":
                self._needs_value(symbol, place)
            meaning = variable(symbol.name)
            if symbol.kind == "species" and not symbol.by_amount:
                size = self._meaning(symbol.compartment, place, steps, time)
                meaning = _without_ones(Expr("DIV", (meaning, size)))
        if general:
            self._meanings[name] = meaning
        return meaning

    def size(
        self, symbol: Symbol, place: Place, steps: Mapping[str, Expr] | None = None, time: Expr | None = None
    ) -> Expr:
        """Size of a species' compartment, over names of the network."""
        return self._meaning(symbol.compartment, place, steps, time)

    def _inside(self, symbol: Symbol, place: Place, make: Callable[[], Expr]) -> Expr:
        """make() while the symbol counts as open; a problem where it is open already (it depends on itself)."""
        if symbol.id in self._open:
            self._problems.add(place, f'"{symbol.id}" is given by a formula that leads back to itself')
            return constant(1)
        self._open.append(symbol.id)
        try:
            return make()
        finally:
            self._open.pop()

    def _checked(self, expr: Expr, place: Place) -> Expr:
        if size_of(expr) > MOST_NODES:
            self._problems.add(place, f"its formula has more than {MOST_NODES} parts with all rules written out")
            return constant(1)
        return expr

    def _known(self, name: str, place: Place) -> Symbol | None:
        symbol = self.all.get(name)
        if symbol is None:
            self._problems.add(place, f'its formula uses "{name}", which is not defined in the model')
        elif symbol.kind == "reaction":
            self._problems.add(place, f'its formula uses the rate of the reaction "{name}"; write the rate out')
            return None
        elif symbol.continuous and place != symbol.place:
            self._problems.add(place, f'its formula uses "{name}", which a rate rule changes continuously')
        return symbol

    # ---- at the start ----

    def start(self, expr: Expr, place: Place) -> Expr:
        """The formula at t = 0 over names of parameters: what changes later is replaced by its starting value."""
        values = {name: self._start_meaning(name, place) for name in sorted(expr.names())}
        return self._checked(expr.substitute(values, constant(0)), place)

    def _start_meaning(self, name: str, place: Place) -> Expr:
        symbol = self._known(name, place)
        if symbol is None:
            return constant(1)
        if symbol.role == "ruled":
            return self._inside(symbol, place, lambda: self.start(_rule(symbol), symbol.place))
        if symbol.role in ("state", "number"):
            return constant(self.value(name, place))
        self._needs_value(symbol, place)
        meaning = variable(symbol.name)
        if symbol.kind == "species" and not symbol.by_amount:
            meaning = Expr("DIV", (meaning, self._start_meaning(symbol.compartment, place)))
        return meaning

    def value(self, name: str, place: Place) -> float:
        """The number that a formula sees for the id at t = 0; a problem and 1 where it has none."""
        if name in self.replaced:
            return self.replaced[name]
        if name not in self._values:
            symbol = self._known(name, place)
            if symbol is None:
                return 1.0
            found = self._inside(symbol, place, lambda: constant(self._value(symbol, place)))
            self._values[name] = found.value
        return self._values[name]

    def number(self, expr: Expr, place: Place) -> float:
        """The value of a formula over SBML ids at t = 0."""
        return float(expr.evaluate({name: self.value(name, place) for name in expr.names()}))

    def amount(self, symbol: Symbol) -> float:
        """Amount of a species at t = 0. The size of its compartment is needed only where a concentration is given."""
        given = symbol.id not in self.replaced and symbol.assignment is None and symbol.value is not None
        if given and not symbol.concentration and math.isfinite(symbol.value):
            return symbol.value
        value = self.value(symbol.id, symbol.place)
        return value if symbol.by_amount else value * self.value(symbol.compartment, symbol.place)

    def replace(self, values: Mapping[str, float]) -> None:
        """Values that an event at t = 0 sets, after initial assignments and before everything else."""
        for symbol in self.all.values():
            if symbol.assignment is not None:
                self.value(symbol.id, symbol.place)
        self.replaced |= values
        for symbol in self.all.values():  # rules hold at every time
            if symbol.role == "ruled":
                self._values.pop(symbol.id, None)

    def _value(self, symbol: Symbol, place: Place) -> float:
        given = _rule(symbol) if symbol.role == "ruled" else symbol.assignment
        if given is not None:
            value = self.number(given, symbol.place)
        elif symbol.value is None or not math.isfinite(symbol.value):
            self._needs_value(symbol, place)
            return 1.0
        elif symbol.kind == "species" and symbol.concentration == symbol.by_amount:
            size = self.value(symbol.compartment, symbol.place)
            value = symbol.value * size if symbol.by_amount else symbol.value / size if size else math.nan
        else:
            value = symbol.value
        if not math.isfinite(value):
            self._problems.add(symbol.place, f"its value at the start is {value}; it must be a finite number")
            return 1.0
        return value

    def has_value(self, symbol: Symbol) -> bool:
        """Whether a value, an initial assignment or a rule gives it one."""
        finite = symbol.value is not None and math.isfinite(symbol.value)
        return finite or symbol.assignment is not None or symbol.rule is not None or symbol.id in self.replaced

    def _needs_value(self, symbol: Symbol, place: Place) -> None:
        if self.has_value(symbol):
            return
        what = _VALUES.get(symbol.kind, "value")
        by = "" if place == symbol.place else f", and {place} needs it"
        self._problems.add(symbol.place, f"it has no {what}{by}; give it one")

    def parameter(self, symbol: Symbol) -> Expr:
        """The parameter of the network that stands for a constant or stepped id: a number, or an expression of other
        parameters where an initial assignment gives it. For a species it is the amount."""
        value = self.amount(symbol) if symbol.kind == "species" else self.value(symbol.id, symbol.place)
        if self.replaced or symbol.assignment is None:
            return constant(value)
        expr = self._inside(symbol, symbol.place, lambda: self.start(symbol.assignment, symbol.place))
        if symbol.kind == "species" and not symbol.by_amount:
            expr = Expr("MUL", (expr, self._start_meaning(symbol.compartment, symbol.place)))
        return _without_ones(expr.fold())


def _without_ones(expr: Expr) -> Expr:
    """The expression without factors and divisors 1."""
    if not expr.args:
        return expr
    args = tuple(_without_ones(arg) for arg in expr.args)
    if expr.op in ("MUL", "DIV") and args[1] == constant(1):
        return args[0]
    if expr.op == "MUL" and args[0] == constant(1):
        return args[1]
    return expr if args == expr.args else Expr(expr.op, args)


def _rule(symbol: Symbol) -> Expr:
    return constant(1) if symbol.rule is None else symbol.rule


def _stepped(symbol: Symbol) -> Expr:
    """The parameter as a function of the time: its value until the first step, and so on."""
    times = [time for time, _ in symbol.steps]
    values = [variable(symbol.name), *(value for _, value in symbol.steps)]
    node = values[-1]
    for time, value in reversed(list(zip(times, values[:-1], strict=True))):
        node = Expr("SELECT", (Expr("LT", (Expr("TIME"), time)), value, node))
    return node
