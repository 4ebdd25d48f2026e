"""Expressions that are refused: a caret under the place, and no way to run or to exhaust anything."""

import ast
import inspect

import pytest

from hpcme.errors import InputError
from hpcme.model import expression, tree
from hpcme.model.expression import constant, parse, read_value, variable

_WRONG = [
    ("1 +", 3, "the end"),
    ("k * * 2", 4, '"*"'),
    ("2 x", 2, '"2*x"'),
    ("k x", 2, '"*" for a product'),
    ("(1 + 2", 6, '")"'),
    ("1 + 2)", 5, "closes nothing"),
    ("k = 2", 2, '"=="'),
    ("0 < x < 5", 6, "cannot be chained"),
    ("x.y", 1, "cannot stand"),
    ("x[0]", 1, "cannot stand"),
    ("x; y", 1, "cannot stand"),
    ("1 + $", 4, "cannot stand"),
    ("'abc'", 0, "cannot stand"),
    ("foo(x)", 0, "not a function"),
    ("__import__(x)", 0, "not a function"),
    ("eval(x)", 0, "not a function"),
    ("ln(x)", 0, 'Did you mean "log"'),
    ("sqr(x)", 0, 'Did you mean "sqrt"'),
    ("sin + 1", 0, "is a function"),
    ("sin(1, 2)", 0, "takes 1 argument"),
    ("max(1)", 0, "at least 2 arguments"),
    ("piecewise(1, 2, 3, 4)", 0, "odd number"),
    ("sin()", 4, '")"'),
    ("1e999", 0, "too large"),
    ("nan", 0, "reserved"),
    ("inf*2", 0, "reserved"),
    ("2 * not x", 4, "parentheses"),
    ("and 2", 0, '"and"'),
    ("lambda: 1", 6, "cannot stand"),
    ("x if y", 2, "operator is missing"),
    ("1_000", 1, '"1*_000"'),
    ("\u0445 + 1", 0, "cannot stand"),
]


@pytest.mark.parametrize(("text", "position", "words"), _WRONG, ids=[w[0] for w in _WRONG])
def test_errors_show_a_caret_under_the_place(text, position, words):
    with pytest.raises(InputError) as caught:
        parse(text, "toy.toml: reaction 1, rate")
    message = str(caught.value)
    first, shown, caret = message.split("\n")
    assert first.startswith("toy.toml: reaction 1, rate: ") and words in first
    assert shown.strip() == text
    assert caret.index("^") - 4 == position


def test_long_text_shows_the_part_around_the_caret():
    text = " + ".join(["x"] * 60) + " + ? + " + " + ".join(["y"] * 60)
    with pytest.raises(InputError) as caught:
        parse(text)
    _, shown, caret = str(caught.value).split("\n")
    assert shown[caret.index("^")] == "?" and len(shown) < 120


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("(" * 5000 + "x", "nested deeper"),
        ("-" * 5000 + "x", "nested deeper"),
        ("x + " * 1000 + "x", "group them"),
        ("x**" * 1000 + "x", "nested deeper"),
        ("x" * 20000, "at most 10000"),
        ("not " * 2000 + "x", "nested deeper"),
        (f"min({', '.join(['x'] * 300)})", "nested deeper"),
    ],
    ids=["empty", "blank", "parentheses", "signs", "sum", "powers", "long", "nots", "arguments"],
)
def test_hostile_sizes_are_refused(text, words):
    with pytest.raises(InputError, match=words):
        parse(text)


@pytest.mark.parametrize("value", [True, None, [1], {"a": 1}, float("nan"), float("inf"), 10**400])
def test_values_that_are_not_numbers_are_refused(value):
    with pytest.raises(InputError, match=r"m\.toml: rate"):
        read_value(value, "m.toml: rate")


def test_values_are_numbers_or_text():
    assert read_value(3, "r") == constant(3.0)
    assert read_value("k", "r") == variable("k")
    assert read_value(parse("2*k"), "r") == parse("2*k")


def test_nothing_is_handed_to_python():
    for module in (expression, tree):
        called = {
            node.func.id
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec", "compile", "__import__", "getattr"}
