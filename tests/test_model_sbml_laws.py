"""Kinetic laws: mass action is recognised only where the propensity stays the same, and so are reversible laws."""

import re

import pytest
from sbml_texts import assert_same_generator, built, document, reaction, read, refused

from hpcme.model.expression import parse
from hpcme.model.sbml_laws import forward_and_backward, mass_action

pytest.importorskip("libsbml")

LIMITS = {"A": 7, "B": 7, "C": 7}
SPECIES = ["id='A' initialAmount='4'", "id='B' initialAmount='3'", "id='C' initialAmount='1'"]
PARAMETERS = ["id='k' value='0.5'", "id='q' value='3'"]


def law_of(equation, law, **more):
    """The reaction R, with what its law reads besides as modifiers."""
    read_besides = set(re.findall("[ABC]", law)) - set(re.findall("[ABC]", equation))
    return reaction("R", equation, law, modifiers=sorted(read_besides), **more)


def network(*reactions, species=SPECIES, **parts):
    """A network of A, B, C; a reaction that moves all of them is added, so that all are species."""
    all_move = reaction("Move", "A + B + C ->", "0")
    return read(LIMITS, species=species, parameters=PARAMETERS, reactions=[*reactions, all_move], **parts)


def expected(*reactions):
    return built(
        {"A": (4, 7), "B": (3, 7), "C": (1, 7)}, [*reactions, ("A + B + C -> 0", "rate", 0)], k=0.5, q=3
    )


@pytest.mark.parametrize(
    ("equation", "law", "rate", "same_as"),
    [
        ("A -> B", "k*A", "k", "A -> B"),
        ("A + B -> C", "k*A*B", "k", "A + B -> C"),
        ("2 A -> B", "k*A*(A - 1)", "k", "2 A -> B"),
        ("2 A -> B", "k*A*(A - 1)/2", "k/2", "2 A -> B"),
        ("2 A -> B", "0.5*k*(A - 1)*A", "0.5*k", "2 A -> B"),
        ("2 A -> B", "k*A*(-1 + A)", None, "2 A -> B"),
        ("3 A -> B", "k*A*(A - 1)*(A - 2)/6", "k/6", "3 A -> B"),
        ("2 A + 2 B -> C", "k*A*B*(A - 1)*(B - 1)/4", "k/4", "2 A + 2 B -> C"),
        ("-> A", "k", "k", "0 -> A"),
        ("-> A", "k*(1 + sin(time))", "k*(1 + sin(t))", "0 -> A"),
        ("A -> B", "k*A*C", "k", "A + C -> B + C"),  # C is a catalyst
        ("A -> 2 A", "k*A*q/2", "k*q/2", "A -> 2 A"),
        ("2 A -> 3 A", "k*A", "k", "A -> 2 A"),  # the law reads one A only
        ("A -> B", "k*A/(q*2)", "k/(q*2)", "A -> B"),
        ("A -> B", "A*piecewise(k, time < 2, q)", "where(t < 2, k, q)", "A -> B"),
    ],
)
def test_mass_action_is_found_and_stays_the_same_function(equation, law, rate, same_as):
    net = network(law_of(equation, law))
    read_as = net.reactions[0]
    text = law.replace("time", "t").replace("piecewise(k, t < 2, q)", "where(t < 2, k, q)")
    # The same as the law as it stands, as a propensity, and as mass action of the rate.
    assert_same_generator(net, expected((equation, "propensity", text)), times=(0.0, 2.2))
    if rate is not None:
        assert read_as.key == "rate" and read_as.rate == parse(rate) and read_as.equation == same_as
        assert_same_generator(net, expected((same_as, "rate", rate)), times=(0.0, 2.2))
        assert "R" in next(note for note in net.notes if note.startswith("reactions read as mass action"))


@pytest.mark.parametrize(
    ("equation", "law"),
    [
        ("2 A -> B", "k*A*A"),
        ("2 A -> B", "k*A^2"),
        ("2 A -> B", "k*A"),
        ("2 A -> B", "k*A*(A - 2)*(A - 1)/(A - 2 + 1e-9)"),
        ("2 A -> B", "k*A*(A - 1.5)"),
        ("A -> B", "k"),
        ("A -> B", "k*A/(q + A)"),
        ("A -> B", "k*A*exp(-B)"),
        ("A -> B", "k*A + q*A"),
        ("A + B -> C", "k*A*B/A"),
        ("A -> B", "k*A*A*(A - 1)"),
        ("A -> B", "k*piecewise(A, A > 2, 0)"),
    ],
)
def test_what_is_no_mass_action_is_kept_as_it_is_written(equation, law):
    net = network(law_of(equation, law))
    assert net.reactions[0].key == "propensity"
    text = law.replace("piecewise(A, A > 2, 0)", "where(A > 2, A, 0)")
    # States in which a propensity is negative cannot be compared: A*(A - 1.5) is, at one.
    if "1.5" not in law and "A - 2" not in law and "/A" not in law:
        assert_same_generator(net, expected((equation, "propensity", text)))


def test_a_square_for_two_of_a_kind_is_noted():
    for law in ("k*A*A", "k*A^2"):
        net = network(law_of("2 A -> B", law))
        assert "reaction R: its law has a power of A, not A*(A - 1); kept as written" in net.notes
    assert not any("power" in note for note in network(reaction("R", "2 A -> B", "k*A*(A - 1)")).notes)


def test_compartments_cancel_from_concentrations():
    species = [f"id='{name}' initialAmount='4' hasOnlySubstanceUnits='false'" for name in "ABC"]
    net = network(
        reaction("R", "A + B -> C", "c*k*A*B"), reaction("S", "A -> B", "c*(k*A)"), compartments=["id='c' size='2'"],
        species=species,
    )  # fmt: skip
    assert [r.kinetics.to_text() for r in net.reactions[:2]] == ["k/c", "k"]
    assert [r.key for r in net.reactions[:2]] == ["rate", "rate"]
    assert_same_generator(
        net,
        built(dict.fromkeys("ABC", (4, 7)), [
            ("A + B -> C", "rate", 0.25), ("A -> B", "rate", 0.5), ("A + B + C -> 0", "rate", 0),
        ]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("equation", "law", "forward", "backward"),
    [
        ("A -> B", "k*A - q*B", "k*A", "q*B"),
        ("A -> B", "c*(k*A - q*B)", "2*k*A", "2*q*B"),
        ("A -> B", "c*k*(A - B/q)", "2*k*A", "2*k*B/q"),
        ("2 A -> B", "k*A*(A - 1)/2 - q*B", "k*A*(A - 1)/2", "q*B"),
        ("A + B -> C", "k*A*B - q*C", "k*A*B", "q*C"),
        ("A -> B", "-q*B + k*A", "k*A", "q*B"),
        ("A -> B", "(k*A - q*B)/(1 + A + B)", "k*A/(1 + A + B)", "q*B/(1 + A + B)"),
        ("-> A", "k - q*A", "k", "q*A"),
        ("A ->", "q*A - k", "q*A", "k"),
        ("2 A -> B", "k*A^2 - q*B", "k*A**2", "q*B"),
        ("A -> B", "k*A + k*A*C - q*B - B", "k*A + k*A*C", "q*B + B"),
        ("A -> B", "c*A*(C + 1) - c*(2*B)", "2*A*(C + 1)", "2*(2*B)"),
        ("A -> B", "k*A*(1 - B/10)", "k*A", "k*A*B/10"),
        ("A + C -> B + C", "C*(k*A - q*B)", "C*k*A", "C*q*B"),
    ],
)
def test_a_reversible_law_is_split_where_it_is_a_difference(equation, law, forward, backward):
    net = network(law_of(equation, law, reversible=True), compartments=["id='c' size='2'"])
    left, right = equation.split("->")
    assert [r.name for r in net.reactions] == ["R", "R_reverse", "Move"]
    assert_same_generator(
        net, expected((equation, "propensity", forward), (f"{right} -> {left}", "propensity", backward))
    )
    assert "reaction R: reversible; read as two reactions, R and R_reverse" in net.notes


def test_a_reversible_reaction_without_a_backward_part_goes_forward():
    for law in ("k*A", "k*A*(A + 1)/(q + A)", "k*A*exp(-B)", "k*A*(A - 1)"):
        net = network(law_of("2 A -> B", law, reversible=True))
        assert net.R == 2
        assert_same_generator(net, expected(("2 A -> B", "propensity", law)))


@pytest.mark.parametrize(
    ("equation", "law"),
    [
        ("2 A -> B", "k*(A*A - A)/2"),  # a propensity in another spelling: the second part is no backward rate
        ("A -> B", "k*A - q"),
        ("A -> B", "k*A*(2 - A) - q*B"),
        ("A -> B", "q*B - k*A"),
        ("A -> B", "-(k*A)"),
        ("A -> B", "exp(k)*(A - B - C)"),
    ],
)
def test_a_reversible_law_that_is_no_difference_of_rates_is_refused(equation, law):
    refused(
        'reaction "R": it is reversible, and its law is not a difference forward - backward',
        limits=LIMITS, species=SPECIES, parameters=PARAMETERS,
        reactions=[law_of(equation, law, reversible=True), reaction("Move", "A + B + C ->", "0")],
    )  # fmt: skip


def test_forms_alone():
    assert mass_action(parse("k*X*(X - 1)*Y"), ["Y", "X"]) == (parse("k"), {"Y": 1, "X": 2})
    assert mass_action(parse("k*(X + -1)*X"), ["X"]) == (parse("k"), {"X": 2})
    assert mass_action(parse("k"), ["X"]) == (parse("k"), {})
    assert mass_action(parse("X"), ["X"]) == (parse("1"), {"X": 1})
    assert mass_action(parse("k*X**2"), ["X"]) is None
    assert mass_action(parse("k*(X - 1)"), ["X"]) is None
    assert mass_action(parse("k/X"), ["X"]) is None
    split = forward_and_backward(parse("a*X - b*Y"), ["X"], ["Y"], ["X", "Y"], {"a": 1.0, "b": 2.0})
    assert split == (parse("a*X"), parse("b*Y"))
    assert forward_and_backward(parse("a*X - b*Y"), ["X"], ["Y"], ["X", "Y"], {"a": 1.0, "b": -2.0}) is None


def test_document_and_lines_of_the_helper():
    text = document(species=["id='X' initialAmount='3'"], reactions=[reaction("R", "X ->", "X")])
    assert text.splitlines()[5].startswith("<reaction id='R'")
