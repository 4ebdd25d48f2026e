"""Formulas of SBML (MathML, as libsbml's syntax trees) as expression trees over SBML ids."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpcme.model.sbml_problems import Place, Problems
from hpcme.model.tree import CONSTANTS, Expr, constant, variable

#: Nodes that one formula may have when all its functions are written out.
MOST_NODES = 20_000
#: Functions that one function may lead through, one inside the other.
MOST_NESTED = 40
#: Terms of a sum or product that are read one after the other; longer ones are halved, so that trees stay shallow.
_FLAT = 40
_AVOGADRO = 6.02214179e23  # the value that SBML Level 3 fixes

_ONE, _TWO, _HALF = constant(1), constant(2), constant(0.5)


def size_of(expr: Expr, known: dict[int, int] | None = None) -> int:
    """Nodes of the tree when it is written out; shared parts are counted as often as they occur."""
    known = {} if known is None else known
    if id(expr) not in known:
        known[id(expr)] = 1 + sum(size_of(arg, known) for arg in expr.args)
    return known[id(expr)]


def _exp(x: Expr) -> Expr:
    return Expr("EXP", (x,))


def _binary(op: str, a: Expr, b: Expr) -> Expr:
    return Expr(op, (a, b))


def _inverse(x: Expr) -> Expr:
    return _binary("DIV", _ONE, x)


def _halved(op: str, x: Expr) -> Expr:
    """(e^x op e^-x)/2."""
    return _binary("DIV", _binary(op, _exp(x), _exp(Expr("NEG", (x,)))), _TWO)


def _quotient(a: Expr, b: Expr) -> Expr:
    """Whole quotient, rounded towards zero, as MathML has it."""
    whole = _binary("DIV", a, b)
    rounded = Expr("FLOOR", (whole,)), Expr("CEIL", (whole,))
    return Expr("SELECT", (_binary("GE", whole, constant(0)), *rounded))


def _root(degree: Expr, x: Expr) -> Expr:
    if degree.is_constant and degree.value == 2:
        return Expr("SQRT", (x,))
    return _binary("POW", x, _inverse(degree))


def _log(base: Expr, x: Expr) -> Expr:
    if base.is_constant and base.value == 10:
        return Expr("LOG10", (x,))
    return _binary("DIV", Expr("LOG", (x,)), Expr("LOG", (base,)))


def _unary(op: str) -> Callable[[Expr], Expr]:
    return lambda x: Expr(op, (x,))


#: Functions by the end of libsbml's name for them (AST_FUNCTION_...), and their number of arguments.
_FUNCTIONS: dict[str, tuple[int, Callable[..., Expr]]] = {
    "ABS": (1, _unary("ABS")),
    "CEILING": (1, _unary("CEIL")),
    "FLOOR": (1, _unary("FLOOR")),
    "EXP": (1, _exp),
    "LN": (1, _unary("LOG")),
    "LOG": (2, _log),
    "ROOT": (2, _root),
    "POWER": (2, lambda a, b: _binary("POW", a, b)),
    "QUOTIENT": (2, _quotient),
    "REM": (2, lambda a, b: _binary("SUB", a, _binary("MUL", b, _quotient(a, b)))),
    "SIN": (1, _unary("SIN")),
    "COS": (1, _unary("COS")),
    "TAN": (1, _unary("TAN")),
    "SEC": (1, lambda x: _inverse(Expr("COS", (x,)))),
    "CSC": (1, lambda x: _inverse(Expr("SIN", (x,)))),
    "COT": (1, lambda x: _inverse(Expr("TAN", (x,)))),
    "SINH": (1, lambda x: _halved("SUB", x)),
    "COSH": (1, lambda x: _halved("ADD", x)),
    "TANH": (1, _unary("TANH")),
    "SECH": (1, lambda x: _inverse(_halved("ADD", x))),
    "CSCH": (1, lambda x: _inverse(_halved("SUB", x))),
    "COTH": (1, lambda x: _inverse(Expr("TANH", (x,)))),
    "ARCSIN": (1, _unary("ASIN")),
    "ARCCOS": (1, _unary("ACOS")),
    "ARCTAN": (1, _unary("ATAN")),
}

_RELATIONS = {"EQ": "EQ", "NEQ": "NE", "GEQ": "GE", "GT": "GT", "LEQ": "LE", "LT": "LT"}

_TOO_LARGE = f"the formula has more than {MOST_NODES} parts once functions and rules are written out; shorten it"


class MathReader:
    """Reads formulas of one model. Problems are recorded, and 1 stands in for what could not be read."""

    def __init__(self, libsbml: Any, problems: Problems) -> None:
        self._library = libsbml
        self._problems = problems
        self._functions: dict[str, tuple[list[str], Any]] = {}
        self._depths: dict[str, int] = {}
        self._place = Place("formula", "", 0)
        self._visits = 0
        self._sizes: dict[int, int] = {}
        self._kept: list[Expr] = []  # keeps ids in _sizes valid
        named = {getattr(libsbml, name): name for name in dir(libsbml) if name.startswith("AST_")}
        self._names = {number: name.removeprefix("AST_") for number, name in named.items()}

    def define(self, name: str, arguments: list[str], body: Any) -> None:
        """Make a function definition known; `body` is libsbml's tree, and what it calls has been defined before."""
        self._functions[name] = (arguments, body)
        self._depths[name] = 1 + max((self._depths.get(called, 0) for called in _called(body)), default=0)

    def nested_too_deep(self, name: str) -> bool:
        """Whether a function leads through more than MOST_NESTED others."""
        return self._depths[name] > MOST_NESTED

    def read(self, tree: Any, place: Place, scope: Mapping[str, Expr] | None = None) -> Expr:
        """The formula as an expression of SBML ids; ids in `scope` are replaced."""
        self._place, self._visits = place, 0
        self._sizes, self._kept = {}, []
        if tree is None:
            return self._refuse("it has no formula (math); add one")
        expr = self._read(tree, scope or {}, ())
        return expr if self._fits(expr) else self._refuse(_TOO_LARGE)

    def _refuse(self, why: str) -> Expr:
        self._problems.add(self._place, why)
        return _ONE

    def _fits(self, expr: Expr) -> bool:
        self._kept.append(expr)
        return size_of(expr, self._sizes) <= MOST_NODES

    def _read(self, tree: Any, scope: Mapping[str, Expr], inside: tuple[str, ...]) -> Expr:
        self._visits += 1
        if self._visits > MOST_NODES:
            return self._refuse(_TOO_LARGE)
        kind = self._names.get(tree.getType(), "UNKNOWN")
        if kind in ("INTEGER", "REAL", "REAL_E", "RATIONAL"):
            return self._number(tree, kind)
        if kind == "NAME":
            name = tree.getName()
            return scope.get(name, variable(name))
        if kind == "NAME_TIME":
            return Expr("TIME")
        if kind == "NAME_AVOGADRO":
            return constant(_AVOGADRO)
        if kind in ("CONSTANT_E", "CONSTANT_PI"):
            name = kind.removeprefix("CONSTANT_").lower()
            return constant(CONSTANTS[name], name)
        if kind in ("CONSTANT_TRUE", "CONSTANT_FALSE"):
            return constant(float(kind == "CONSTANT_TRUE"))
        children = [tree.getChild(i) for i in range(tree.getNumChildren())]
        if any(child is None for child in children):
            return self._refuse("the formula is broken (an operand is missing)")
        if kind == "FUNCTION" and tree.getName() in self._functions:
            return self._call(tree.getName(), [self._read(child, scope, inside) for child in children], inside)
        return self._operation(tree, kind, [self._read(child, scope, inside) for child in children])

    def _number(self, tree: Any, kind: str) -> Expr:
        value = float(tree.getInteger()) if kind == "INTEGER" else float(tree.getReal())
        if kind == "REAL_E":  # rounded once, as Python reads it
            value = float(f"{tree.getMantissa()!r}e{tree.getExponent()}")
        if not math.isfinite(value):
            return self._refuse(f"the number {value:g} cannot stand in a formula; it must be finite")
        return constant(value)

    def _call(self, name: str, args: Sequence[Expr], inside: tuple[str, ...]) -> Expr:
        """The body of a function definition with its arguments put in."""
        names, body = self._functions[name]
        if name in inside:
            return self._refuse(f'the function "{name}" calls itself, which SBML does not allow')
        if len(args) != len(names):
            return self._refuse(f'the function "{name}" takes {len(names)} arguments, but {len(args)} are given')
        # What a body names that is no argument of it is not allowed in SBML, and found as an unknown id later.
        result = self._read(body, dict(zip(names, args, strict=True)), (*inside, name))
        return result if self._fits(result) else self._refuse(_TOO_LARGE)

    def _operation(self, tree: Any, kind: str, args: list[Expr]) -> Expr:
        word = kind.removeprefix("FUNCTION_")
        if kind in ("PLUS", "TIMES"):
            return _folded("ADD" if kind == "PLUS" else "MUL", args, constant(float(kind == "TIMES")))
        if kind == "MINUS" and len(args) in (1, 2):
            return Expr("NEG", tuple(args)) if len(args) == 1 else Expr("SUB", tuple(args))
        if kind in ("DIVIDE", "POWER") and len(args) == 2:
            return Expr("DIV" if kind == "DIVIDE" else "POW", tuple(args))
        if kind.startswith("RELATIONAL_") and len(args) >= 2:
            op = _RELATIONS[kind.removeprefix("RELATIONAL_")]
            return _folded("AND", [Expr(op, pair) for pair in itertools.pairwise(args)], _ONE)
        if kind.startswith("LOGICAL_"):
            return self._logical(kind.removeprefix("LOGICAL_"), args)
        if word == "PIECEWISE":
            return self._piecewise(args)
        if word in ("MIN", "MAX") and args:
            return _folded(word, args, _ONE)
        if word in _FUNCTIONS:
            wanted, make = _FUNCTIONS[word]
            if word in ("LOG", "ROOT") and len(args) == 1:  # the base 10 and the degree 2 may be left out
                args = [constant(10 if word == "LOG" else 2), *args]
            if len(args) == wanted:
                return make(*args)
        return self._unreadable(tree, kind)

    def _logical(self, word: str, args: list[Expr]) -> Expr:
        if word in ("AND", "OR"):
            return _folded(word, args, constant(float(word == "AND")))
        if word == "NOT" and len(args) == 1:
            return Expr("NOT", tuple(args))
        if word == "IMPLIES" and len(args) == 2:
            return Expr("OR", (Expr("NOT", (args[0],)), args[1]))
        if word == "XOR":
            # An odd number of true ones; comparing with 0 makes 0 or 1 of any number.
            truths = [Expr("NE", (arg, constant(0))) for arg in args]
            return _folded("NE", truths, constant(0))
        return self._refuse(f'the operation "{word.lower()}" with {len(args)} operands cannot be read')

    def _piecewise(self, args: list[Expr]) -> Expr:
        if len(args) % 2 == 0:
            return self._refuse(
                "its piecewise has no <otherwise>, so that it has no value where no condition holds; add <otherwise>"
            )
        node = args[-1]
        for value, condition in reversed(list(zip(args[:-1:2], args[1:-1:2], strict=True))):
            node = Expr("SELECT", (condition, value, node))
        return node

    def _unreadable(self, tree: Any, kind: str) -> Expr:
        name = tree.getName() or tree.getOperatorName() or kind.lower().removeprefix("function_")
        if kind == "FUNCTION_DELAY":
            return self._refuse("it uses delay(...): the past of a state is no part of a Markov process")
        if kind == "FUNCTION_RATE_OF":
            return self._refuse("it uses rateOf(...), which a jump process does not have")
        if kind.startswith("DISTRIB_") or kind == "CSYMBOL_FUNCTION":
            return self._refuse(f'it uses the distribution or symbol function "{name}", which is not supported')
        if kind == "FUNCTION":
            return self._refuse(f'it calls "{name}", and there is no function definition with that id')
        return self._refuse(f'its formula uses "{name}" with {tree.getNumChildren()} operands, which cannot be read')


def _called(tree: Any) -> set[str]:
    """Names that stand in a formula as functions (and others that libsbml has a name for)."""
    found = {tree.getName()} if tree.getNumChildren() and tree.getName() else set()
    for i in range(tree.getNumChildren()):
        child = tree.getChild(i)
        found |= set() if child is None else _called(child)
    return found


def _folded(op: str, args: Sequence[Expr], none: Expr) -> Expr:
    """args[0] op args[1] op ...; `none` where there are none."""
    if not args:
        return none
    if len(args) > _FLAT:
        middle = len(args) // 2
        return Expr(op, (_folded(op, args[:middle], none), _folded(op, args[middle:], none)))
    node = args[0]
    for arg in args[1:]:
        node = Expr(op, (node, arg))
    return node
