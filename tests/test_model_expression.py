"""The expression language: against Python's own arithmetic, against a stack machine, and safe against hostile
text."""

import math
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcme.errors import InputError
from hpcme.model.expression import FUNCTIONS, compile_program, constant, parse
from hpcme.model.tables import ARITY, OPCODES, program_depth
from hpcme.model.tree import Expr

SPECIES = {"x": 0, "y": 1, "zz_9": 2}
PARAMETERS = MappingProxyType({"k": 1.75, "mu": -0.5})
REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=400)

# --- random expressions, written twice: for hpcme, and for Python (whose literals become numpy's, so 1/0 is
# inf) ---

_NUMPY = {
    "exp": np.exp,
    "log": np.log,
    "log10": np.log10,
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "tanh": np.tanh,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "abs": np.abs,
    "floor": np.floor,
    "ceil": np.ceil,
    "pow": np.power,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "where": np.where,
    "min": lambda *a: np.min(a),
    "max": lambda *a: np.max(a),
    "piecewise": lambda *a: np.select(a[1::2], a[0:-1:2], a[-1]),
    "F": np.float64,
    "pi": np.float64(math.pi),
    "e": np.float64(math.e),
}

_leaf = st.one_of(
    st.sampled_from(["x", "y", "zz_9", "k", "mu", "t", "pi", "e"]).map(lambda name: (name, name)),
    st.sampled_from(["0", "1", "2", "3.5", ".25", "1e-2", "2.E+1", "7"]).map(
        lambda number: (number, f"F({number})")
    ),
)


def _both(template: str, *parts: tuple[str, str]) -> tuple[str, str]:
    return template.format(*[p[0] for p in parts]), template.format(*[p[1] for p in parts])


def _grow(inner):
    chain = st.tuples(inner, st.sampled_from(["+", "-", "*", "/", " + ", " * ", "**", " ** "]), inner)
    test = st.tuples(inner, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), inner).map(
        lambda c: _both("{0}" + f" {c[1]} " + "{1}", _both("({0})", c[0]), _both("({0})", c[2]))
    )
    logic = st.one_of(
        test,
        test.map(lambda a: _both("not {0}", a)),
        st.tuples(test, test).map(lambda ab: _both("{0} and not {1}", *ab)),
        st.tuples(test, test, test).map(lambda abc: _both("{0} or {1} and {2}", *abc)),
    )
    return st.one_of(
        chain.map(lambda c: _both("{0}" + c[1] + "{1}", c[0], c[2])),
        inner.map(lambda a: _both("-{0}", a)),
        inner.map(lambda a: _both("({0})", a)),
        st.tuples(st.sampled_from(["abs", "sin", "tanh", "floor", "ceil", "sqrt"]), inner).map(
            lambda c: _both(c[0] + "({0})", c[1])
        ),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner, inner).map(
            lambda c: _both(c[0] + "({0}, {1},{2})", *c[1:])
        ),
        st.tuples(logic, inner, inner).map(lambda c: _both("where({0}, {1}, {2})", *c)),
        st.tuples(inner, logic, inner, logic, inner).map(
            lambda c: _both("piecewise({0}, {1}, {2}, {3}, {4})", *c)
        ),
    )


_expressions = st.recursive(_leaf, _grow, max_leaves=12)
_counts = st.tuples(*[st.integers(0, 9)] * 3)


def _python(text: str, env: dict) -> float:
    with np.errstate(all="ignore"):
        return float(eval(text, {"__builtins__": {}}, {**_NUMPY, **env}))


def _environment(n, t: float) -> dict:
    counts = {name: np.float64(n[i]) for name, i in SPECIES.items()}
    return {**{name: np.float64(v) for name, v in PARAMETERS.items()}, **counts, "t": np.float64(t)}


def run_program(op: list[int], arg: list[float], n, t: float) -> float:
    """A stack machine in plain Python, written from the text of tables.OPCODES."""
    names = {number: name for name, number in OPCODES.items()}
    one = {
        "NEG": np.negative,
        "NOT": lambda a: float(a == 0),
        "EXP": np.exp,
        "LOG": np.log,
        "LOG10": np.log10,
        "SQRT": np.sqrt,
        "SIN": np.sin,
        "COS": np.cos,
        "TAN": np.tan,
        "TANH": np.tanh,
        "ASIN": np.arcsin,
        "ACOS": np.arccos,
        "ATAN": np.arctan,
        "ABS": np.abs,
        "FLOOR": np.floor,
        "CEIL": np.ceil,
    }
    two = {
        "ADD": np.add,
        "SUB": np.subtract,
        "MUL": np.multiply,
        "DIV": np.divide,
        "POW": np.power,
        "LT": lambda a, b: float(a < b),
        "LE": lambda a, b: float(a <= b),
        "GT": lambda a, b: float(a > b),
        "GE": lambda a, b: float(a >= b),
        "EQ": lambda a, b: float(a == b),
        "NE": lambda a, b: float(a != b),
        "AND": lambda a, b: float(a != 0 and b != 0),
        "OR": lambda a, b: float(a != 0 or b != 0),
        "MIN": np.minimum,
        "MAX": np.maximum,
    }
    stack: list[np.float64] = []
    with np.errstate(all="ignore"):
        for code, value in zip(op, arg, strict=True):
            name = names[code]
            if name == "CONST":
                stack.append(np.float64(value))
            elif name == "SPECIES":
                stack.append(np.float64(n[int(value)]))
            elif name == "TIME":
                stack.append(np.float64(t))
            elif name in one:
                stack.append(np.float64(one[name](stack.pop())))
            elif name in two:
                right = stack.pop()
                stack.append(np.float64(two[name](stack.pop(), right)))
            else:
                other, then, condition = stack.pop(), stack.pop(), stack.pop()
                stack.append(then if condition != 0 else other)
    assert len(stack) == 1
    return float(stack[0])


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


@REPRODUCIBLE
@given(_expressions, _counts, st.sampled_from([0.0, 0.5, 3.0]))
def test_value_is_that_of_python(pair, n, t):
    ours, theirs = pair
    env = _environment(n, t)
    assert _same(float(parse(ours).evaluate(env, t)), _python(theirs, env)), ours


@REPRODUCIBLE
@given(_expressions, _counts, st.sampled_from([0.0, 0.5, 3.0]))
def test_program_on_a_stack_machine_is_the_tree(pair, n, t):
    tree = parse(pair[0])
    op, arg = compile_program(tree.bind(PARAMETERS).fold(), SPECIES)
    assert _same(run_program(op, arg, n, t), float(tree.evaluate(_environment(n, t), t)))


@REPRODUCIBLE
@given(_expressions)
def test_text_reads_back_to_the_same_tree(pair):
    tree = parse(pair[0])
    assert parse(tree.to_text()) == tree


@REPRODUCIBLE
@given(_expressions, _counts)
def test_printing_after_folding_keeps_the_value(pair, n):
    folded = parse(pair[0]).bind(PARAMETERS).fold()
    if not _finite_constants(folded):
        return  # inf and nan have no text in the language; networks refuse them
    env = _environment(n, 0.5)
    assert _same(float(parse(folded.to_text()).evaluate(env, 0.5)), float(folded.evaluate(env, 0.5)))


def _finite_constants(expr: Expr) -> bool:
    return math.isfinite(expr.value) and all(_finite_constants(arg) for arg in expr.args)


@REPRODUCIBLE
@given(_expressions)
def test_folding_leaves_no_constant_subexpression(pair):
    def check(expr: Expr) -> None:
        assert not expr.args or not all(arg.is_constant for arg in expr.args)
        for arg in expr.args:
            check(arg)

    check(parse(pair[0]).bind(PARAMETERS).fold())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-2**2", -4),
        ("(-2)**2", 4),
        ("2**-1", 0.5),
        ("2**3**2", 512),
        ("-2**-2", -0.25),
        ("2^3", 8),
        ("--3", 3),
        ("+4 - -1", 5),
        ("2*-3", -6),
        ("1 - 2 - 3", -4),
        ("16/4/2", 2),
        ("2 + 3*4", 14),
        ("2*3**2", 18),
        ("-3*2", -6),
        ("1 < 2", 1),
        ("2 <= 1", 0),
        ("1 + 1 == 2", 1),
        ("1 != 1", 0),
        ("not 0", 1),
        ("not 2 > 1", 0),
        ("!0 + 1", 2),
        ("1 > 2 or 3 > 2", 1),
        ("1 > 2 || 3 > 2 && 0", 0),
        ("not 0 and 0", 0),
        ("not (0 and 0)", 1),
        ("min(3, 1, 2)", 1),
        ("maximum(3, 1)", 3),
        ("pow(2, 5)", 32),
        ("where(0, 1/0, 7)", 7),
        ("piecewise(1, 0, 2, 1, 3)", 2),
        ("piecewise(1, 0, 2, 0, 3)", 3),
        ("piecewise(5, 0/0 == 0, 6)", 6),
        ("log10(1000)", 3),
        ("log(e**2)", 2),
        ("floor(-1.5)", -2),
        ("ceil(-1.5)", -1),
        ("abs(-2)", 2),
        ("1e3 + .5", 1000.5),
        ("cos(pi)", -1),
        ("\n 1 +\t2 ", 3),
    ],
)
def test_precedence_and_functions(text, value):
    assert float(parse(text).evaluate({})) == pytest.approx(value, rel=1e-15)
    folded = parse(text).fold()
    assert folded.is_constant and folded.value == pytest.approx(value, rel=1e-15)


def test_every_function_is_defined_and_prints():
    for name, (fewest, _) in FUNCTIONS.items():
        args = ", ".join(["0.5", "0.25", "2"][:fewest])
        tree = parse(f"{name}({args})")
        expected = _python(f"{name}({args})", {}) if name != "piecewise" else 0.5
        assert float(tree.evaluate({})) == pytest.approx(expected, rel=1e-15)
        assert parse(tree.to_text()) == tree


def test_every_opcode_is_compiled_from_text():
    text = (
        "where(x < 1, y, t) + (x <= 1) - (x > 1)*(x >= 1)/(x == 1)**(x != 1) + (x and y) + (x or y) + (not "
        "x) + (-x)+ min(x, y) + max(x, 1) + exp(x) + log(x) + log10(x) + sqrt(x) + sin(x) + cos(x) + tan(x) "
        "+ tanh(x) + abs(x)+ floor(x) + ceil(x) + asin(x/4) + acos(x/4) + atan(x)"
    )
    op, arg = compile_program(parse(text), SPECIES)
    assert set(op) == set(OPCODES.values())
    assert len(op) == len(arg)
    assert set(ARITY) == set(OPCODES)
    n = (2, 3, 4)
    assert run_program(op, arg, n, 0.5) == pytest.approx(
        float(parse(text).evaluate(_environment(n, 0.5), 0.5)), rel=1e-14
    )


def test_a_branch_not_taken_does_not_leak():
    tree = parse("where(x > 0, 1/x, 0) + piecewise(log(x), x >= 1, 0)")
    for x in (0, 2):
        expected = 0.0 if x == 0 else 0.5 + math.log(2)
        assert float(tree.evaluate({"x": x})) == pytest.approx(expected, rel=1e-15)
        assert run_program(*compile_program(tree, SPECIES), (x, 0, 0), 0.0) == pytest.approx(
            expected, rel=1e-15
        )


def test_arrays_broadcast():
    x, t = np.arange(5.0)[:, None], np.linspace(0, 1, 3)
    value = parse("k*x*(1 + sin(t)) + where(x > 2, 1, t)").evaluate({"x": x, "k": 2.0}, t)
    assert value.shape == (5, 3) and value.dtype == np.float64
    assert np.allclose(value, 2 * x * (1 + np.sin(t)) + np.where(x > 2, 1, t), rtol=1e-15)


def test_names_time_and_depth():
    tree = parse("k*x/(y + max(x, 1)) + sin(2*pi*t) + e")
    assert tree.names() == {"k", "x", "y"}
    assert tree.uses_time() and not parse("k*pi").uses_time()
    assert constant(1).depth() == 1 and parse("1 + 2*x").depth() == 3


@pytest.mark.parametrize(
    ("text", "depth"),
    [("1", 1), ("x + y", 2), ("x + y + x", 2), ("x + (y + (x + 1))", 4), ("where(x, y, 1)", 3), ("-x", 1)],
)
def test_stack_need(text, depth):
    assert program_depth(np.array(compile_program(parse(text), SPECIES)[0])) == depth


def test_missing_value_is_an_input_error():
    with pytest.raises(InputError, match=r'"kk" has no value.*Did you mean "k"'):
        parse("kk*2").evaluate({"k": 1.0})
