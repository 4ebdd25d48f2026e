"""SBML text (Level 3 Version 1) of a network.

SBML holds the reactions, parameters, events and readouts. What it cannot hold (limits, laws of the start, which law
means mass action, names and forms as they were written) is kept as TOML text in an annotation, from which hpcme reads
back an equal network as long as the SBML around it still says what hpcme writes for this network. For other programs
the start is one state, the most probable one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from hpcme.model.initial import ProductLaw
from hpcme.model.network import ReactionNetwork
from hpcme.model.reaction import Reaction
from hpcme.model.tree import TIME_NAME, Expr, constant, number_text
from hpcme.model.writer import ANNOTATION, written_limits

_SBML = "http://www.sbml.org/sbml/level3/version1/core"
_MATH = "http://www.w3.org/1998/Math/MathML"
_TIME = "http://www.sbml.org/sbml/symbols/time"
_ID = re.compile(r"[A-Za-z_][A-Za-z_0-9]*", re.ASCII)

_RELATIONS = {"LT": "lt", "LE": "leq", "GT": "gt", "GE": "geq", "EQ": "eq", "NE": "neq"}
_BOOLEAN = {*_RELATIONS, "AND", "OR", "NOT"}
_APPLIED = {
    "ADD": "plus", "SUB": "minus", "NEG": "minus", "MUL": "times", "DIV": "divide", "POW": "power", "EXP": "exp",
    "LOG": "ln", "LOG10": "log", "SQRT": "root", "SIN": "sin", "COS": "cos", "TAN": "tan", "TANH": "tanh",
    "ASIN": "arcsin", "ACOS": "arccos", "ATAN": "arctan", "ABS": "abs", "FLOOR": "floor", "CEIL": "ceiling",
}  # fmt: skip


def sbml_text(net: ReactionNetwork) -> str:
    """The network as an SBML document, with its annotation. Needs libSBML, which checks what was written.

    Raises InputError where libSBML is not installed.
    """
    as_sbml_says(net)
    kept = f'<hpcme:network xmlns:hpcme="{ANNOTATION}">{escape(net.text)}</hpcme:network>'
    return _document(net, f"<annotation>{kept}</annotation>")


def as_sbml_says(net: ReactionNetwork) -> ReactionNetwork:
    """The network that is read from the SBML of `net` without the annotation, with its limits."""
    from hpcme.model.sbml import read_sbml_text

    where = f"{net.source}, written as SBML"
    return read_sbml_text(_document(net, ""), where, net.name, known=written_limits(net))


def lost_in_sbml(net: ReactionNetwork) -> list[str]:
    """What only the annotation holds, in words: for programs that do not know it."""
    limits = ", ".join(f"{name} {limit}" for name, limit in written_limits(net).items())
    found = [f"limits (max) of the species: {limits}"]
    if not net.initial.is_point:
        state = ", ".join(f"{name} = {count}" for name, count in zip(net.species, _start(net), strict=True))
        found.append(f"the law of the start; in SBML it is the most probable state, {state}")
    if net.time_unit not in ("1", "s", "second"):
        found.append(f'the unit of time, "{net.time_unit}"')
    return found


def _document(net: ReactionNetwork, annotation: str) -> str:
    names = _Names(net)
    unit = ' timeUnits="second"' if net.time_unit in ("s", "second") else ""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<sbml xmlns="{_SBML}" level="3" version="1">']
    lines.append(
        f"  <model id={quoteattr(names.model)} name={_attribute(net.name)} "
        f'substanceUnits="item" extentUnits="item"{unit}>'
    )
    if annotation:
        lines.append(f"    {annotation}")
    lines += _listed("Compartments", [
        f'<compartment id="{names.compartment}" spatialDimensions="3" size="1" constant="true"/>'
    ])  # fmt: skip
    lines += _listed("Species", [
        f'<species id="{name}" compartment="{names.compartment}" initialAmount="{count}" hasOnlySubstanceUnits="true" '
        'boundaryCondition="false" constant="false"/>' for name, count in zip(net.species, _start(net), strict=True)
    ])  # fmt: skip
    own = {name: expr for name, expr in net.readouts.items() if name not in net.parameters}
    lines += _listed("Parameters", [
        *(f'<parameter id="{name}" value="{value!r}" constant="true"/>' for name, value in net.parameters.items()),
        *(f'<parameter id="{name}" constant="false"/>' for name in own),
    ])  # fmt: skip
    lines += _listed("InitialAssignments", [
        f'<initialAssignment symbol="{name}">{_math(expr)}</initialAssignment>'
        for name, expr in net.parameter_exprs.items() if not expr.is_constant
    ])  # fmt: skip
    lines += _listed("Rules", [
        f'<assignmentRule variable="{name}">{_math(expr)}</assignmentRule>' for name, expr in own.items()
    ])  # fmt: skip
    lines += _listed("Reactions", [
        _reaction(net, reaction, name) for name, reaction in zip(names.reactions, net.reactions, strict=True)
    ])  # fmt: skip
    lines += _listed("Events", list(_events(net, names.events)))
    return "\n".join([*lines, "  </model>", "</sbml>"]) + "\n"


class _Names:
    """Ids of what has none in the network; all ids of a model are different."""

    def __init__(self, net: ReactionNetwork) -> None:
        self._taken = {*net.species, *net.parameters, *net.readouts}
        self.model = net.name if _ID.fullmatch(net.name) else "model"
        self.compartment = self._new("compartment")
        self.reactions = [self._new(r.name, f"reaction_{k}") for k, r in enumerate(net.reactions, 1)]
        self.events = [self._new(e.name, f"event_{k}") for k, e in enumerate(net.events, 1)]

    def _new(self, wanted: str, other: str = "") -> str:
        """The wanted name, if it is an id and free; else the other one, with a number where that is needed."""
        name = wanted if _ID.fullmatch(wanted) else other
        number = 0
        while name in self._taken or not name:
            number += 1
            name = f"{other or wanted}_{number}"
        self._taken.add(name)
        return name


def _attribute(text: str) -> str:
    """A quoted attribute; what XML cannot hold (control characters) is left out."""
    return quoteattr("".join(c for c in text if c in "\t\n" or ord(c) >= 32))


def _listed(what: str, entries: Sequence[str]) -> list[str]:
    if not entries:
        return []
    return [f"    <listOf{what}>", *(f"      {entry}" for entry in entries), f"    </listOf{what}>"]


def _start(net: ReactionNetwork) -> list[int]:
    """The most probable starting state."""
    if isinstance(net.initial, ProductLaw):
        return [int(np.argmax(pmf)) for pmf in net.initial.pmfs]
    states, p = net.initial.support()
    return states[int(np.argmax(p))].tolist()


def _reaction(net: ReactionNetwork, reaction: Reaction, name: str) -> str:
    law = reaction.expression(net.law)
    if reaction.rate is not None and net.law == "power":
        for species, m in reaction.reactants.items():
            if m > 1:  # a power does not vanish by itself where there are too few
                enough = Expr("GE", (Expr("NAME", name=species), constant(m)))
                law = Expr("SELECT", (enough, law, constant(0)))
    label = f" name={_attribute(reaction.name)}" if reaction.name and reaction.name != name else ""
    parts = [f'<reaction id="{name}"{label} reversible="false" fast="false">']
    for side, what in ((reaction.reactants, "Reactants"), (reaction.products, "Products")):
        if side:
            references = "".join(
                f'<speciesReference species="{species}" stoichiometry="{m}" constant="true"/>'
                for species, m in side.items()
            )
            parts.append(f"<listOf{what}>{references}</listOf{what}>")
    others = [n for n in net.species if n in law.names() and n not in {**reaction.reactants, **reaction.products}]
    if others:
        references = "".join(f'<modifierSpeciesReference species="{species}"/>' for species in others)
        parts.append(f"<listOfModifiers>{references}</listOfModifiers>")
    return "".join([*parts, f"<kineticLaw>{_math(law)}</kineticLaw></reaction>"])


def _events(net: ReactionNetwork, names: Sequence[str]) -> Iterator[str]:
    """Events in order; those of one time act one after the other, which priorities say."""
    times = [event.time for event in net.events]
    for k, (event, name) in enumerate(zip(net.events, names, strict=True)):
        label = f" name={_attribute(event.name)}" if event.name and event.name != name else ""
        priority = f"<priority>{_math(constant(len(times) - k))}</priority>" if times.count(event.time) > 1 else ""
        trigger = _math(Expr("GE", (Expr("TIME"), event.when)), boolean=True)
        sets = "".join(
            f'<eventAssignment variable="{species}">{_math(expr)}</eventAssignment>'
            for species, expr in event.assignments.items()
        )
        yield (
            f'<event id="{name}"{label} useValuesFromTriggerTime="false">'
            f'<trigger initialValue="true" persistent="true">{trigger}</trigger>{priority}'
            f"<listOfEventAssignments>{sets}</listOfEventAssignments></event>"
        )


def _math(expr: Expr, boolean: bool = False) -> str:
    return f'<math xmlns="{_MATH}">{(_truth if boolean else _value)(expr)}</math>'


def _value(expr: Expr) -> str:
    """MathML of a number."""
    if expr.op == "CONST":
        return {"pi": "<pi/>", "e": "<exponentiale/>"}.get(expr.name) or _number(expr.value)
    if expr.op == "NAME":
        return f"<ci>{expr.name}</ci>"
    if expr.op == "TIME":
        return f'<csymbol encoding="text" definitionURL="{_TIME}">{TIME_NAME}</csymbol>'
    if expr.op in _BOOLEAN:
        return f"<piecewise><piece><cn>1</cn>{_truth(expr)}</piece><otherwise><cn>0</cn></otherwise></piecewise>"
    if expr.op == "SELECT":
        condition, then, other = expr.args
        piece = f"<piece>{_value(then)}{_truth(condition)}</piece>"
        return f"<piecewise>{piece}<otherwise>{_value(other)}</otherwise></piecewise>"
    if expr.op in ("MIN", "MAX"):  # functions of their own from Level 3 Version 2 on only
        left, right = expr.args
        return _value(Expr("SELECT", (Expr("LE" if expr.op == "MIN" else "GE", (left, right)), left, right)))
    return f"<apply><{_APPLIED[expr.op]}/>{''.join(_value(arg) for arg in expr.args)}</apply>"


def _truth(expr: Expr) -> str:
    """MathML of a condition: a number is true where it is not 0."""
    if expr.op in _RELATIONS:
        return f"<apply><{_RELATIONS[expr.op]}/>{''.join(_value(arg) for arg in expr.args)}</apply>"
    if expr.op in _BOOLEAN:
        return f"<apply><{expr.op.lower()}/>{''.join(_truth(arg) for arg in expr.args)}</apply>"
    return f"<apply><neq/>{_value(expr)}<cn>0</cn></apply>"


def _number(value: float) -> str:
    """All digits, in plain notation unless that is long."""
    plain = format(Decimal(number_text(value)), "f")
    if len(plain) <= 40:
        return f"<cn>{plain}</cn>"
    mantissa, _, exponent = f"{value!r}".partition("e")
    return f'<cn type="e-notation">{mantissa}<sep/>{int(exponent)}</cn>'
