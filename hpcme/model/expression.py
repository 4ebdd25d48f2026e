"""Reading expressions from text, and compiling them to postfix programs.

The text is cut into tokens by one regular expression and read by a Pratt parser; nothing is ever handed to
Python's own evaluation. Grammar, loosest first: or (||), and (&&), not, comparisons (no chains), + -, * /,
unary - + !, power (** or ^, to the right, so -2**2 is -4 and 2**-1 is 0.5), then numbers, names, calls and
parentheses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from hpcme.errors import InputError, did_you_mean
from hpcme.model.tables import OPCODES
from hpcme.model.tree import CONSTANTS, PRECEDENCE, TIME_NAME, UNARY_FUNCTIONS, Expr, constant, variable

__all__ = ["FUNCTIONS", "RESERVED", "Expr", "compile_program", "constant", "parse", "read_value", "variable"]

#: Function name -> (fewest arguments, most arguments, or None for any number).
FUNCTIONS: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(UNARY_FUNCTIONS, (1, 1)),
    **dict.fromkeys(("min", "max", "minimum", "maximum"), (2, None)),
    "pow": (2, 2),
    "where": (3, 3),
    "piecewise": (3, None),
}

#: Names that a parameter or species cannot have.
RESERVED = frozenset({TIME_NAME, *CONSTANTS, *FUNCTIONS, "and", "or", "not", "inf", "nan", "true", "false"})

LONGEST_TEXT = 10_000
DEEPEST_TREE = 100

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z_0-9]*)"
    r"|(?P<symbol>\*\*|<=|>=|==|!=|&&|\|\||[-+*/^<>!(),=]))",
    re.ASCII,
)

_BINARY = {
    "or": "OR", "||": "OR", "and": "AND", "&&": "AND", "<": "LT", "<=": "LE", ">": "GT", ">=": "GE",
    "==": "EQ", "!=": "NE", "+": "ADD", "-": "SUB", "*": "MUL", "/": "DIV", "**": "POW", "^": "POW",
}  # fmt: skip

_OTHER_NAMES = {
    "ln": "log",
    "fabs": "abs",
    "ceiling": "ceil",
    "if": "where",
    "select": "where",
    "power": "pow",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
}


class _Parser:
    """One pass over the tokens (kind, text, position) of one expression."""

    def __init__(self, text: str, where: str) -> None:
        self.text = re.sub(r"\s", " ", text)
        self.where = where
        self.nesting = 0
        self.tokens = self._tokenise()
        self.at = 0

    def error(self, what: str, position: int) -> InputError:
        """The text with a caret under the position; of a long text, the part around it."""
        begin = max(0, position - 60)
        part = self.text[begin : position + 40]
        return InputError(f"{self.where}: {what}\n    {part}\n    {' ' * (position - begin)}^")

    def _tokenise(self) -> list[tuple[str, str, int]]:
        tokens: list[tuple[str, str, int]] = []
        position = 0
        end = len(self.text.rstrip())
        while position < end:
            match = _TOKEN.match(self.text, position)
            if match is None:
                position += len(self.text[position:]) - len(self.text[position:].lstrip())
                raise self.error(
                    f'the character "{self.text[position]}" cannot stand in an expression; allowed are '
                    "numbers, "
                    "names, + - * / ** ^ < <= > >= == != and or not ( ) and commas",
                    position,
                )
            kind = match.lastgroup or ""
            tokens.append((kind, match.group(kind), match.start(kind)))
            position = match.end()
        tokens.append(("end", "", end))
        return tokens

    def take(self) -> tuple[str, str, int]:
        token = self.tokens[self.at]
        if token[0] != "end":
            self.at += 1
        return token

    def expect(self, symbol: str, purpose: str) -> None:
        kind, text, position = self.take()
        if text != symbol or kind == "end":
            raise self.error(f'expected "{symbol}" {purpose}, but found {_seen(kind, text)}', position)

    def whole(self) -> Expr:
        expr = self.expression(0)
        kind, text, position = self.tokens[self.at]
        if kind == "end":
            return expr
        if text == "=":
            raise self.error('a single "=" has no meaning here; use "==" to compare', position)
        if text == ")":
            raise self.error('this ")" closes nothing; remove it or add "(" before', position)
        if kind in ("number", "name") or text == "(":
            raise self.error('an operator is missing here; write "*" for a product', position)
        raise self.error(f"unexpected {_seen(kind, text)}; the expression should end here", position)

    def expression(self, least: int) -> Expr:
        """Read operators that bind at least as tightly as `least`."""
        self.nesting += 1
        if self.nesting > DEEPEST_TREE:
            raise self.error(
                f"nested deeper than {DEEPEST_TREE} levels; split it into several reactions or parameters",
                self.tokens[self.at][2],
            )
        left = self.prefix(least)
        while True:
            _, text, position = self.tokens[self.at]
            op = _BINARY.get(text)
            if op is None or PRECEDENCE[op] < least:
                break
            self.take()
            left = Expr(op, (left, self.expression(_right_side(op))))
            following = _BINARY.get(self.tokens[self.at][1])
            if _compares(op) and following is not None and _compares(following):
                raise self.error(
                    'comparisons cannot be chained; write for example "0 < x and x < 5"',
                    self.tokens[self.at][2],
                )
            if left.depth() > DEEPEST_TREE:
                raise self.error(
                    f"more than {DEEPEST_TREE} operations in one chain; group them with parentheses", position
                )
        self.nesting -= 1
        return left

    def prefix(self, least: int) -> Expr:
        kind, text, position = self.take()
        if kind == "number":
            return self.number(text, position)
        if text in ("-", "+"):
            operand = self.expression(PRECEDENCE["NEG"])
            return Expr("NEG", (operand,)) if text == "-" else operand
        if text == "!":
            return Expr("NOT", (self.expression(PRECEDENCE["NEG"]),))
        if text == "not":
            if least > PRECEDENCE["NOT"]:
                raise self.error('put "not ..." in parentheses here', position)
            return Expr("NOT", (self.expression(PRECEDENCE["NOT"]),))
        if text == "(":
            inner = self.expression(0)
            self.expect(")", "to close the parenthesis")
            return inner
        if kind == "name" and text not in ("and", "or"):
            return self.named(text, position)
        raise self.error(f"expected a number, a name or '(', but found {_seen(kind, text)}", position)

    def number(self, text: str, position: int) -> Expr:
        value = float(text)
        if not math.isfinite(value):
            raise self.error(
                f"the number {text} is too large for double precision (largest 1.8e308)", position
            )
        kind, following, following_at = self.tokens[self.at]
        if kind in ("name", "number") and following not in ("and", "or"):
            raise self.error(
                f'an operator is missing; write "{text}*{following}" for a product', following_at
            )
        return constant(value)

    def named(self, name: str, position: int) -> Expr:
        if self.tokens[self.at][1] == "(" and self.tokens[self.at][0] == "symbol":
            return self.call(name, position)
        if name in FUNCTIONS:
            raise self.error(f'"{name}" is a function; write {name}(...)', position)
        if name == TIME_NAME:
            return Expr("TIME")
        if name in CONSTANTS:
            return constant(CONSTANTS[name], name)
        if name in RESERVED:
            raise self.error(f'"{name}" is reserved and cannot be used as a value', position)
        return variable(name)

    def call(self, name: str, position: int) -> Expr:
        if name not in FUNCTIONS:
            other = _OTHER_NAMES.get(name)
            hint = f' Did you mean "{other}"?' if other else did_you_mean(name, FUNCTIONS)
            raise self.error(
                f'"{name}" is not a function here; functions are {", ".join(sorted(FUNCTIONS))}.{hint} '
                'For a product write "*"',
                position,
            )
        self.expect("(", "after the function name")
        args = [self.expression(0)]
        while self.tokens[self.at][1] == ",":
            self.take()
            args.append(self.expression(0))
        self.expect(")", f"to close {name}(")
        fewest, most = FUNCTIONS[name]
        if len(args) < fewest or (most is not None and len(args) > most):
            wanted = f"{fewest}" if most == fewest else f"at least {fewest}"
            raise self.error(
                f"{name} takes {wanted} argument{'s' * (wanted != '1')}, but {len(args)} given", position
            )
        if name == "piecewise" and len(args) % 2 == 0:
            raise self.error(
                "piecewise takes value, condition, value, condition, ..., and one last value for all other "
                f"cases; that is an odd number of arguments, but {len(args)} given",
                position,
            )
        return _call_node(name, args)


def _seen(kind: str, text: str) -> str:
    return "the end" if kind == "end" else f'"{text}"'


def _compares(op: str) -> bool:
    return PRECEDENCE[op] == PRECEDENCE["LT"]


def _right_side(op: str) -> int:
    return PRECEDENCE["NEG"] if op == "POW" else PRECEDENCE[op] + 1


def _call_node(name: str, args: list[Expr]) -> Expr:
    if name in UNARY_FUNCTIONS:
        return Expr(UNARY_FUNCTIONS[name], (args[0],))
    if name == "pow":
        return Expr("POW", tuple(args))
    if name == "where":
        return Expr("SELECT", tuple(args))
    if name == "piecewise":
        node = args[-1]
        for value, condition in reversed(list(zip(args[:-1:2], args[1:-1:2], strict=True))):
            node = Expr("SELECT", (condition, value, node))
        return node
    op = "MIN" if name.startswith("min") else "MAX"
    node = args[0]
    for arg in args[1:]:
        node = Expr(op, (node, arg))
    return node


def parse(text: str, where: str = "expression") -> Expr:
    """Read an expression.

    Parameters
    ----------
    text : the expression; names are kept as they are, `t` is the time, `pi` and `e` are constants.
    where : what is being read, for messages, such as 'toggle.toml: reaction 1, rate'.

    Raises
    ------
    InputError : with the text and a caret under the place where reading stopped.
    """
    if not text.strip():
        raise InputError(
            f'{where}: the expression is empty; give a number or an expression such as "k*X/(1 + X)"'
        )
    if len(text) > LONGEST_TEXT:
        raise InputError(
            f"{where}: the expression has {len(text)} characters; at most {LONGEST_TEXT} are allowed"
        )
    expr = _Parser(text, where).whole()
    if expr.depth() > DEEPEST_TREE:
        raise InputError(
            f"{where}: the expression is nested deeper than {DEEPEST_TREE} levels; name parts of it in "
            "[parameters], or group long sums with parentheses"
        )
    return expr


def read_value(value: object, where: str) -> Expr:
    """Read a number or the text of an expression, as model files hold them."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, str):
        return parse(value, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(
            f'{where} = {value!r}: expected a number or an expression in quotes, such as 0.5 or "2*k", '
            f"but this is {type(value).__name__}"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{where} = {str(value)[:40]}: the number must be finite and below 1.8e308")
    return constant(number)


def compile_program(expr: Expr, species: Mapping[str, int]) -> tuple[list[int], list[float]]:
    """Postfix program of a tree whose parameters are bound (`Expr.bind`): opcodes and their arguments.

    `species` gives the index of every name that is left. Equal length lists; see tables.PropensityTables.
    """
    if expr.op == "CONST":
        return [OPCODES["CONST"]], [expr.value]
    if expr.op == "NAME":
        return [OPCODES["SPECIES"]], [float(species[expr.name])]
    op: list[int] = []
    arg: list[float] = []
    for child in expr.args:
        child_op, child_arg = compile_program(child, species)
        op += child_op
        arg += child_arg
    return [*op, OPCODES[expr.op]], [*arg, 0.0]
