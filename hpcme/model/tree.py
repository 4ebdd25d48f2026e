"""Expression trees: the arithmetic that rates and propensities are written in.

One node class serves all operations; its name is the opcode it compiles to (tables.OPCODES), plus NAME for a
parameter or species that is not yet bound. Trees are immutable and compare by structure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hpcme.errors import InputError, did_you_mean

#: Names with a fixed value inside expressions; `t` is the time.
CONSTANTS: dict[str, float] = {"pi": float(np.pi), "e": float(np.e)}
TIME_NAME = "t"

#: Functions of one argument and the opcode of each.
UNARY_FUNCTIONS = {
    "exp": "EXP", "log": "LOG", "log10": "LOG10", "sqrt": "SQRT", "sin": "SIN", "cos": "COS", "tan": "TAN",
    "tanh": "TANH", "asin": "ASIN", "acos": "ACOS", "atan": "ATAN", "abs": "ABS", "floor": "FLOOR", "ceil": "CEIL",
}  # fmt: skip

BINARY_SYMBOLS = {
    "OR": "or", "AND": "and", "LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "EQ": "==", "NE": "!=",
    "ADD": "+", "SUB": "-", "MUL": "*", "DIV": "/", "POW": "**",
}  # fmt: skip

#: How tightly an operation binds in text; atoms and calls bind tightest.
PRECEDENCE = {
    "OR": 1, "AND": 2, "NOT": 3, "LT": 4, "LE": 4, "GT": 4, "GE": 4, "EQ": 4, "NE": 4,
    "ADD": 5, "SUB": 5, "MUL": 6, "DIV": 6, "NEG": 7, "POW": 8,
}  # fmt: skip
ATOM = 9

_CALL_NAMES = {opcode: name for name, opcode in UNARY_FUNCTIONS.items()} | {"MIN": "min", "MAX": "max"}


def _truth(value):
    return np.asarray(value) != 0


def _number(condition) -> np.ndarray:
    return np.asarray(condition, dtype=np.float64)


_EVALUATE: dict[str, Callable] = {
    "ADD": np.add, "SUB": np.subtract, "MUL": np.multiply, "DIV": np.divide, "POW": np.power,
    "NEG": np.negative,
    "LT": lambda a, b: _number(np.less(a, b)),
    "LE": lambda a, b: _number(np.less_equal(a, b)),
    "GT": lambda a, b: _number(np.greater(a, b)),
    "GE": lambda a, b: _number(np.greater_equal(a, b)),
    "EQ": lambda a, b: _number(np.equal(a, b)),
    "NE": lambda a, b: _number(np.not_equal(a, b)),
    "AND": lambda a, b: _number(_truth(a) & _truth(b)),
    "OR": lambda a, b: _number(_truth(a) | _truth(b)),
    "NOT": lambda a: _number(~_truth(a)),
    "MIN": np.minimum, "MAX": np.maximum,
    "EXP": np.exp, "LOG": np.log, "LOG10": np.log10, "SQRT": np.sqrt, "SIN": np.sin, "COS": np.cos,
    "TAN": np.tan, "TANH": np.tanh, "ASIN": np.arcsin, "ACOS": np.arccos, "ATAN": np.arctan,
    "ABS": np.abs, "FLOOR": np.floor, "CEIL": np.ceil,
    "SELECT": lambda c, a, b: np.where(_truth(c), a, b),
}  # fmt: skip


def number_text(value: float) -> str:
    """Shortest text that reads back to the same float64; whole numbers without a decimal point."""
    value = float(value)
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value)


@dataclass(frozen=True)
class Expr:
    """A node: its operation (an opcode name, or NAME), its operands, and the value or name of a leaf.

    A CONST node that came from a named constant keeps that name, for printing.
    """

    op: str
    args: tuple[Expr, ...] = ()
    value: float = 0.0
    name: str = ""

    @property
    def is_constant(self) -> bool:
        return self.op == "CONST"

    def names(self) -> set[str]:
        """All parameter and species names that occur; the time `t` and named constants are not among them."""
        if self.op == "NAME":
            return {self.name}
        found: set[str] = set()
        for arg in self.args:
            found |= arg.names()
        return found

    def uses_time(self) -> bool:
        """True when the time `t` occurs."""
        return self.op == "TIME" or any(arg.uses_time() for arg in self.args)

    def depth(self) -> int:
        """Number of levels of the tree; a leaf has one."""
        return 1 + max((arg.depth() for arg in self.args), default=0)

    def evaluate(self, env: Mapping[str, float | np.ndarray], t: float | np.ndarray = 0.0) -> np.ndarray:
        """Value in float64 for values of the names, under numpy's rules: broadcasting, 1/0 is inf, log(-1)
        nan.

        InputError when a name has no value in `env`.
        """
        with np.errstate(all="ignore"):
            return self._evaluate(env, t)

    def _evaluate(self, env: Mapping[str, float | np.ndarray], t: float | np.ndarray) -> np.ndarray:
        if self.op == "CONST":
            return np.asarray(self.value)[()]
        if self.op == "TIME":
            return np.asarray(t, dtype=np.float64)[()]
        if self.op == "NAME":
            if self.name not in env:
                raise InputError(
                    f'"{self.name}" has no value here; known names are {", ".join(sorted(env)) or "none"}.'
                    f"{did_you_mean(self.name, env)} Correct the name or give it a value"
                )
            return np.asarray(env[self.name], dtype=np.float64)[()]
        return _EVALUATE[self.op](*[arg._evaluate(env, t) for arg in self.args])

    def bind(self, values: Mapping[str, float]) -> Expr:
        """Replace names by numbers; names that are not in `values` stay."""
        if self.op == "NAME":
            return constant(values[self.name]) if self.name in values else self
        if not self.args:
            return self
        return Expr(self.op, tuple(arg.bind(values) for arg in self.args))

    def substitute(self, values: Mapping[str, Expr], time: Expr | None = None) -> Expr:
        """Replace names by expressions, all at once, and the time `t` by `time` where given; other names stay."""
        if self.op == "NAME":
            return values.get(self.name, self)
        if self.op == "TIME":
            return self if time is None else time
        if not self.args:
            return self
        return Expr(self.op, tuple(arg.substitute(values, time) for arg in self.args))

    def fold(self) -> Expr:
        """Replace every sub-expression of constants by its value, and a SELECT on a constant by its
        branch."""
        if not self.args:
            return self
        args = tuple(arg.fold() for arg in self.args)
        if self.op == "SELECT" and args[0].is_constant:
            return args[1] if args[0].value != 0 else args[2]
        folded = Expr(self.op, args)
        if all(arg.is_constant for arg in args):
            return constant(float(folded.evaluate({})))
        return folded

    def to_text(self) -> str:
        """Text in full, with no more parentheses than needed; parsing it gives the same tree again."""
        if self.op == "CONST":
            return self.name or number_text(self.value)
        if self.op == "TIME":
            return TIME_NAME
        if self.op == "NAME":
            return self.name
        if self.op in ("NEG", "NOT"):
            sign = "-" if self.op == "NEG" else "not "
            return sign + self.args[0]._inside(PRECEDENCE[self.op])
        if self.op in BINARY_SYMBOLS:
            return self._binary_text()
        if self.op == "SELECT":
            return self._select_text()
        return f"{_CALL_NAMES[self.op]}({', '.join(arg.to_text() for arg in self._call_arguments())})"

    def _precedence(self) -> int:
        if self.op == "CONST" and not self.name and (self.value < 0 or str(self.value) == "-0.0"):
            return PRECEDENCE["NEG"]
        return PRECEDENCE.get(self.op, ATOM)

    def _inside(self, least: int) -> str:
        text = self.to_text()
        return text if self._precedence() >= least else f"({text})"

    def _binary_text(self) -> str:
        left, right = self.args
        own = PRECEDENCE[self.op]
        symbol = BINARY_SYMBOLS[self.op]
        if self.op == "POW":  # binds to the right, and its exponent may carry a sign
            return f"{left._inside(own + 1)}**{right._inside(PRECEDENCE['NEG'])}"
        compares = own == PRECEDENCE["LT"]  # comparisons do not chain
        space = "" if self.op in ("MUL", "DIV") else " "
        return f"{left._inside(own + compares)}{space}{symbol}{space}{right._inside(own + 1)}"

    def _select_text(self) -> str:
        condition, chosen, other = self.args
        if other.op != "SELECT":
            return f"where({condition.to_text()}, {chosen.to_text()}, {other.to_text()})"
        pieces = [chosen, condition]
        while other.op == "SELECT":
            condition, chosen, other = other.args
            pieces += [chosen, condition]
        return f"piecewise({', '.join(piece.to_text() for piece in [*pieces, other])})"

    def _call_arguments(self) -> list[Expr]:
        """Arguments of a call; min(min(a, b), c) is how min(a, b, c) is stored, and prints as that."""
        args = list(self.args)
        while self.op in ("MIN", "MAX") and args[0].op == self.op:
            args[:1] = args[0].args
        return args


def constant(value: float, name: str = "") -> Expr:
    """Leaf that holds a number."""
    return Expr("CONST", value=float(value), name=name)


def variable(name: str) -> Expr:
    """Leaf that stands for a parameter or a species."""
    return Expr("NAME", name=name)
