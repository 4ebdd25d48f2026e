"""Broken SBML and Antimony files: each reads to a network or is refused as bad input, and nothing crashes.

Mutations of good files, by a seed: cut, shuffled, tags deleted or doubled, ids exchanged, numbers made wrong.
"""

import functools
import random
import re

import pytest
from sbml_texts import document, event, math, reaction

from hpcme.errors import InputError, explain
from hpcme.model.antimony import antimony_to_sbml
from hpcme.model.network import ReactionNetwork
from hpcme.model.sbml import read_sbml_text

MUTATIONS = {"sbml": 300, "antimony": 120}  # antimony starts a process for each
NUMBERS = ("NaN", "INF", "-INF", "1e999", "-1", "1e-320", "99999999999999999999", "0", "", "abc", "0x10", "1,5", "1e6")
LIMITS = dict.fromkeys("ABCXYZ", 40)


@functools.cache
def sbml_seeds() -> list[str]:
    """Good documents that use most of what can be read."""
    species = ["id='X' initialAmount='3'", "id='Y' initialConcentration='2' hasOnlySubstanceUnits='false'"]
    parameters = ["id='k' value='0.5' constant='false'", "id='q' value='1e-3'", "id='w' constant='false'"]
    functions = [f"<functionDefinition id='f'>{math('lambda(x, n, x^n/(1 + x^n))')}</functionDefinition>"]
    reactions = [
        reaction("R", "X + Y -> 2 Y", "c*k*X*Y"), reaction("S", "2 Y -> X", "c*(k*Y - q*X)", reversible=True),
        reaction("T", "-> X", "f(X, 2)*piecewise(1, time < 3, r)", local=["id='r' value='2'"]),
    ]  # fmt: skip
    events = [
        event("E", "time >= 5", {"X": "X + 1", "k": "2"}),
        event("F", "and(time > q, time < 9)", {"Y": "3"}, priority="1"),
    ]
    full = document(
        species=species, parameters=parameters, functions=functions, reactions=reactions, events=events,
        rules=["w = 2*X"], initial=[("q", "k/4")], compartments=["id='c' size='2'"],
    )  # fmt: skip
    old = document(
        level=2, version=4, species=["id='X' initialAmount='4'", "id='Z' initialAmount='0' boundaryCondition='true'"],
        parameters=["id='k' value='1'"],
        reactions=[reaction("A", "Z -> X", "k", level=2), reaction("B", "2 X -> Z", "k*X*(X - 1)/2", level=2)],
    )  # fmt: skip
    return [full, old]


@functools.cache
def antimony_seeds() -> list[str]:
    """Good Antimony texts."""
    return [
        "function hill(x, n)\n  x^n/(1 + x^n)\nend\nmodel one\n  compartment c = 2\n  species X in c, Y in c\n"
        "  X = 4; Y = 0\n  k = 0.5; q := 2*X\n  R: X -> Y; c*k*X\n  S: 2 Y => X; c*hill(Y, 2)\n"
        "  E: at (time >= 5): Y = 3, k = 2\nend\n",
        "X = 3; $Z = 2; k = 1e-2\nJ0: X + Z => 2 X; k*X*Z\nJ1: X -> ; X\n# a remark\nat time > 4: X = 0\n",
        "model inner(A)\n  A -> ; k*A; k = 1\nend\nmodel *outer()\n  A = 5; m: inner(A)\n  -> A; 2\nend\n",
    ]


def mutated_xml(rng: random.Random, text: str) -> str:
    """One to three mutations of an XML text."""
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(9)
        tags = list(re.finditer(r"<[^>]+>", text))
        values = list(re.finditer(r"='([^']*)'", text))
        if kind == 0:
            text = text[: rng.randrange(len(text) + 1)]
        elif kind == 1 and tags:  # a tag is gone
            tag = rng.choice(tags)
            text = text[: tag.start()] + text[tag.end() :]
        elif kind == 2 and tags:  # an element or tag stands twice
            tag = rng.choice(tags)
            text = text[: tag.end()] + tag.group() + text[tag.end() :]
        elif kind == 3 and values:  # an attribute is something else
            value = rng.choice(values)
            new = rng.choice([*NUMBERS, rng.choice(values).group(1)])
            text = text[: value.start(1)] + new + text[value.end(1) :]
        elif kind == 4 and (attributes := list(re.finditer(r" \w+='[^']*'", text))):  # an attribute is gone
            attribute = rng.choice(attributes)
            text = text[: attribute.start()] + text[attribute.end() :]
        elif kind == 5 and (names := list(re.finditer(r"<(\w+)[ />]", text))):  # an element is another one
            name = rng.choice(names)
            text = text[: name.start(1)] + rng.choice(names).group(1) + text[name.end(1) :]
        elif kind == 6 and (numbers := list(re.finditer(r"> ([\d.e-]+) <", text))):
            number = rng.choice(numbers)
            text = text[: number.start(1)] + rng.choice(NUMBERS) + text[number.end(1) :]
        elif kind == 7 and (whole := list(re.finditer(r"<(\w+)[^>]*>[^<]*(?:<[^>]+/>\s*)*</\1>", text))):
            element = rng.choice(whole)  # an element of some size is gone, or moves
            rest = text[: element.start()] + text[element.end() :]
            at = rng.choice([0, rng.randrange(len(rest) + 1)])
            text = rest[:at] + (element.group() if at else "") + rest[at:]
        elif kind == 8 and (names := list(re.finditer(r"<ci> (\w+) </ci>", text))):
            name = rng.choice(names)
            text = text[: name.start(1)] + rng.choice([*names[:1], rng.choice(names)]).group(1) + text[name.end(1) :]
    return text


def mutated_text(rng: random.Random, text: str) -> str:
    """One to three mutations of a text in lines."""
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(6)
        at = rng.randrange(len(text) + 1)
        if kind == 0:
            text = text[:at]
        elif kind == 1:
            text = text[:at] + rng.choice("();:,=+-*/^><$&\"'\\#@ \n\t{}[]~%0aX") + text[at:]
        elif kind == 2:
            text = text[:at] + text[at + rng.randint(1, 6) :]
        elif kind == 3:
            words = list(re.finditer(r"\w+", text)) or [re.match("", text)]
            one, other = rng.choice(words), rng.choice(words)
            text = text[: one.start()] + other.group() + text[one.end() :]
        elif kind == 4 and (numbers := list(re.finditer(r"\d[\d.e-]*", text))):
            number = rng.choice(numbers)
            text = text[: number.start()] + rng.choice(NUMBERS) + text[number.end() :]
        else:
            lines = text.splitlines(keepends=True)
            rng.shuffle(lines)
            text = "".join(lines)
    return text


def fate(read, *args) -> str:
    """"network" or "refused"; anything else fails the test."""
    try:
        network = read(*args)
    except InputError as error:
        message, code = explain(error)
        assert code == 65 and message.startswith("hpcme: error: ") and "Traceback" not in message
        return "refused"
    assert isinstance(network, ReactionNetwork)
    assert network.S and network.R and network.text
    return "network"


def read_sbml_of(text: str) -> ReactionNetwork:
    return read_sbml_text(text, "m.xml", known=LIMITS)


def read_antimony_of(text: str) -> ReactionNetwork:
    return read_sbml_text(antimony_to_sbml(text, "m.ant"), "m.ant", known=LIMITS, lines=False)


def test_seeds_are_good():
    pytest.importorskip("libsbml")
    assert [fate(read_sbml_of, text) for text in sbml_seeds()] == ["network"] * 2


def test_antimony_seeds_are_good():
    pytest.importorskip("antimony")
    assert [fate(read_antimony_of, text) for text in antimony_seeds()] == ["network"] * 3


def fates(read, mutated, seeds, count: int) -> list[str]:
    """What became of `count` mutations."""
    found = []
    for seed in range(count):
        rng = random.Random(seed)
        found.append(fate(read, mutated(rng, rng.choice(seeds))))
    return found


def test_mutated_sbml():
    pytest.importorskip("libsbml")
    found = fates(read_sbml_of, mutated_xml, sbml_seeds(), MUTATIONS["sbml"])
    assert found.count("refused") > 100 and found.count("network") > 10


@pytest.mark.slow
def test_mutated_antimony():
    pytest.importorskip("antimony")
    found = fates(read_antimony_of, mutated_text, antimony_seeds(), MUTATIONS["antimony"])
    assert found.count("refused") > 40 and found.count("network") > 5
