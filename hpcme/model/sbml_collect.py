"""What stands in the model of an SBML document: its ids, reactions and events, with formulas over SBML ids."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from hpcme.model.sbml_events import RawEvent
from hpcme.model.sbml_math import MOST_NESTED, MathReader
from hpcme.model.sbml_problems import Place, Problems, place_of
from hpcme.model.sbml_symbols import Symbol, Symbols
from hpcme.model.sbml_units import counts_things, definition
from hpcme.model.tree import Expr, constant, variable


@dataclass
class RawReaction:
    """A reaction as it stands in the file; the law over SBML ids."""

    place: Place
    id: str
    sides: tuple[list[tuple[str, str]], list[tuple[str, str]]]  # (species, id of its stoichiometry) of each reference
    law: Expr
    law_place: Place
    reversible: bool


class Collector:
    """Reads a model (an object of libsbml). Problems and notes are recorded.

    Attributes: symbols, every id; reactions and events, as they stand in the file.
    """

    def __init__(self, libsbml: ModuleType, model: Any, problems: Problems, notes: list[str]) -> None:
        self._model, self._problems, self._notes = model, problems, notes
        self._math = MathReader(libsbml, problems)
        self._two = model.getLevel() == 2
        self.symbols = Symbols(problems)
        self._functions()
        self._units()
        self._compartments()
        self._species()
        self._parameters()
        self.reactions = self._reactions()
        self._rules()
        self.events = self._events()
        self._refuse_others()
        self.symbols.name_all()

    def _functions(self) -> None:
        for function in self._model.getListOfFunctionDefinitions():
            body = function.getBody()
            if body is None:
                self._problems.add(place_of(function), "it has no formula (math); add one")
                continue
            arguments = [function.getArgument(i).getName() for i in range(function.getNumArguments())]
            self._math.define(function.getId(), arguments, body)
            if self._math.nested_too_deep(function.getId()):
                self._problems.endless = True
                self._problems.add(place_of(function), f"it leads through more than {MOST_NESTED} other functions")

    def _units(self) -> None:
        model = self._model
        fix = 'counts need "item" (or "dimensionless"); if the numbers are counts, change the unit, else scale them'
        place = Place("model", model.getId(), int(model.getLine()))
        names = {"substance": "substance"} if self._two else {
            "substanceUnits": model.getSubstanceUnits(), "extentUnits": model.getExtentUnits()
        }  # fmt: skip
        for key, unit in names.items():
            if self._two and definition(model, unit) is None:
                self._notes.append("amounts are taken as counts: no unit is given, though SBML Level 2 would mean mole")
            elif not counts_things(model, unit):
                self._problems.add(place, f'{key} = "{unit}" is not a unit of counts; {fix}')
        if not self._two and model.isSetConversionFactor():
            self._problems.add(place, "it has a conversionFactor, which is not supported; write it into the laws")

    def _compartments(self) -> None:
        for item in self._model.getListOfCompartments():
            place = place_of(item)
            value = float(item.getSize()) if item.isSetSize() else None
            role = "number" if value == 1 and item.getConstant() else "constant"
            self.symbols.add(Symbol(item.getId(), "compartment", place, value, role=role))

    def _species(self) -> None:
        for item in self._model.getListOfSpecies():
            place = place_of(item)
            by_concentration = item.isSetInitialConcentration()
            value = item.getInitialConcentration() if by_concentration else item.getInitialAmount()
            home = self._model.getCompartment(item.getCompartment())
            if home is None:
                self._problems.add(place, f'its compartment "{item.getCompartment()}" is not defined in the model')
            pointlike = home is not None and home.isSetSpatialDimensions() and home.getSpatialDimensionsAsDouble() == 0
            self.symbols.add(Symbol(
                item.getId(), "species", place, float(value) if by_concentration or item.isSetInitialAmount() else None,
                concentration=by_concentration, by_amount=bool(item.getHasOnlySubstanceUnits() or pointlike),
                compartment=item.getCompartment(), fixed=bool(item.getBoundaryCondition() or item.getConstant()),
            ))  # fmt: skip
            unit = item.getSubstanceUnits()
            if not (self._two and unit == "substance") and not counts_things(self._model, unit):
                self._problems.add(place, f'its unit "{unit}" is not a unit of counts (item)')
            if not self._two and item.isSetConversionFactor():
                self._problems.add(place, "it has a conversionFactor, which is not supported; write it into the laws")

    def _parameters(self) -> None:
        for item in self._model.getListOfParameters():
            self.symbols.add(_parameter(item, item.getId(), item.getId()))

    def _reactions(self) -> list[RawReaction]:
        found = []
        for item in self._model.getListOfReactions():
            place = place_of(item)
            self.symbols.add(Symbol(item.getId(), "reaction", place))
            if item.isSetFast() and item.getFast():
                self._problems.add(place, 'fast="true" means an equilibrium, which has no rate; remove the attribute')
            sides = (
                self._side(item, item.getListOfReactants(), "reactant"),
                self._side(item, item.getListOfProducts(), "product"),
            )
            if not item.isSetKineticLaw():
                self._problems.add(place, "it has no kinetic law, so that its rate is not known; add one")
                continue
            law = item.getKineticLaw()
            law_place = place_of(law)
            if self._two and (law.isSetSubstanceUnits() or law.isSetTimeUnits()):
                self._problems.add(law_place, "it has units of its own; remove them, or scale the law")
            scope = self._local_parameters(item, law)
            expr = self._math.read(law.getMath(), law_place, scope)
            found.append(RawReaction(place, item.getId(), sides, expr, law_place, bool(item.getReversible())))
        return found

    def _local_parameters(self, reaction: Any, law: Any) -> dict[str, Expr]:
        """Parameters of one kinetic law: their ids, and what stands for them among all ids."""
        scope = {}
        for item in law.getListOfParameters() if self._two else law.getListOfLocalParameters():
            inner = f"{reaction.getId()}:{item.getId()}"  # no id has a colon
            self.symbols.add(_parameter(item, inner, f"{reaction.getId()}_{item.getId()}"))
            scope[item.getId()] = variable(inner)
        return scope

    def _side(self, reaction: Any, references: Any, what: str) -> list[tuple[str, str]]:
        found = []
        for number, item in enumerate(references):
            place = place_of(item)._replace(kind=f"{what} of reaction {reaction.getId()}")
            if self._model.getSpecies(item.getSpecies()) is None:
                self._problems.add(place, "this species is not defined in the model")
                continue
            name = item.getIdAttribute() or f"{reaction.getId()}:{what}:{number}"
            value: float | None = None
            if self._two and item.isSetStoichiometryMath():
                self._problems.add(place, "its stoichiometry is a formula; only whole numbers are supported")
                value = 1.0
            elif self._two:
                value = item.getStoichiometry() / (item.getDenominator() or 1)
            elif item.isSetStoichiometry():
                value = float(item.getStoichiometry())
            self.symbols.add(Symbol(name, "species reference", place, value, role="number"))
            found.append((item.getSpecies(), name))
        return found

    def _rules(self) -> None:
        symbols = self.symbols.all
        for item in self._model.getListOfInitialAssignments():
            place = place_of(item)
            expr = self._math.read(item.getMath(), place)
            symbol = symbols.get(item.getSymbol())
            if symbol is not None:
                symbol.assignment = expr
                if symbol.kind == "compartment":
                    symbol.role = "constant"
        for item in self._model.getListOfRules():
            place = place_of(item)
            if item.isAlgebraic():
                self._problems.add(place, "equations that hold at every time are not supported; solve it by hand")
            elif item.isRate():
                self._problems.add(place, "continuous change is no part of a jump process; write reactions instead")
                if item.getVariable() in symbols:
                    symbols[item.getVariable()].continuous = True
            else:
                expr = self._math.read(item.getMath(), place)
                symbol = symbols.get(item.getVariable())
                if symbol is None:
                    self._problems.add(place, "its variable is not defined in the model")
                elif symbol.kind == "species reference":
                    self._problems.add(place, "a stoichiometry that changes is not supported")
                else:
                    symbol.rule, symbol.role, symbol.place = expr, "ruled", place

    def _events(self) -> list[RawEvent]:
        found = []
        for item in self._model.getListOfEvents():
            place = place_of(item)
            if item.isSetDelay() and self._math.read(item.getDelay().getMath(), place) != constant(0):
                self._problems.add(place, "it has a delay, which is not supported; put the delay into the trigger time")
            if self._two and item.isSetTimeUnits():
                self._problems.add(place, "it has a unit of time of its own; remove it, or scale its times")
            if not item.isSetTrigger() or not item.getTrigger().isSetMath():
                self._problems.add(place, "it has no trigger; add one, such as t >= 25")
                continue
            trigger = item.getTrigger()
            priority = item.getPriority().getMath() if item.isSetPriority() else None
            found.append(RawEvent(
                place, item.getIdAttribute(), self._math.read(trigger.getMath(), place),
                True if self._two else bool(trigger.getInitialValue()), self._assignments(item),
                bool(item.getUseValuesFromTriggerTime()),
                None if priority is None else self._math.read(priority, place),
            ))  # fmt: skip
        return found

    def _assignments(self, event: Any) -> list[tuple[str, Expr, Place]]:
        found = []
        for item in event.getListOfEventAssignments():
            place = place_of(item)
            name = event.getIdAttribute()
            place = place._replace(kind=f"event assignment (event {name}) to" if name else "event assignment to")
            expr = self._math.read(item.getMath(), place)
            symbol = self.symbols.all.get(item.getVariable())
            if symbol is None:
                self._problems.add(place, "its variable is not defined in the model")
            elif symbol.kind == "compartment":
                self._problems.add(place, "a compartment whose size changes is not supported")
            elif symbol.kind not in ("species", "parameter"):
                self._problems.add(place, f"an event cannot set a {symbol.kind} here")
            elif symbol.role == "ruled" or self._model.getRateRule(item.getVariable()) is not None:
                self._problems.add(place, "a rule gives this variable its value; an event cannot set it too")
            else:
                found.append((item.getVariable(), expr, place))
        return found

    def _refuse_others(self) -> None:
        if self._model.getNumConstraints():
            self._notes.append("constraints are left out: they say when a simulation should stop")
        if not self._model.getNumReactions():
            place = Place("model", self._model.getId(), int(self._model.getLine()))
            self._problems.add(place, "it has no reactions; a chemical master equation needs at least one")


def _parameter(item: Any, name: str, wanted: str) -> Symbol:
    value = float(item.getValue()) if item.isSetValue() else None
    return Symbol(name, "parameter", place_of(item), value, name=wanted)
