"""SBML that is no chemical master equation: refused with the kind, id and line of every element, all at once."""

import pytest
from sbml_texts import document, event, math, reaction, read, refused

from hpcme.errors import InputError
from hpcme.model.sbml import read_sbml_text

pytest.importorskip("libsbml")

X = "id='X' initialAmount='3'"
GOOD = {"species": [X], "reactions": [reaction("R", "X ->", "X")]}


def rule(kind: str, formula: str, variable: str = "") -> str:
    name = f" variable='{variable}'" if variable else ""
    return f"<{kind}Rule{name}>{math(formula)}</{kind}Rule>"


def test_everything_is_listed_with_its_line_in_one_error():
    parts = {
        "species": [X, "id='Y' initialAmount='1.5'"],
        "parameters": ["id='p' value='1' constant='false'", "id='nothing'"],
        "rules": [rule("rate", "2", "p")],
        "reactions": [
            reaction("R", "X ->", "X*nothing"), reaction("Fast", "X -> Y", "X", attributes="fast='true'"),
            reaction("Q", "Y -> X", "Y*p"),
        ],
        "events": [event("E", "X > 5", {"X": "3"})],
    }  # fmt: skip
    text = refused(**parts)
    lines = [line for line in text.splitlines() if line.startswith("  line")]
    assert text.startswith("m.xml: cannot be read as a chemical master equation, because of 6 elements of it:")
    messages = [
        'species "Y": it starts with an amount of 1.5',
        'parameter "nothing": it has no value, and kinetic law of reaction "R" needs it',
        'rate rule "p": continuous change is no part of a jump process',
        'reaction "Fast": fast="true" means an equilibrium',
        'kinetic law of reaction "Q": its formula uses "p", which a rate rule changes continuously',
        'event "E": its trigger depends on the state (X)',
    ]
    assert len(lines) == len(messages)
    for line, message in zip(lines, messages, strict=True):
        assert message in line
    numbers = [int(line.split(":")[0].split()[-1]) for line in lines]
    source = document(**parts).splitlines()
    for number, word in zip(numbers, ("'Y'", "nothing", "rateRule", "Fast", "kineticLaw", "'E'"), strict=True):
        assert word in source[number - 1]


def test_laws_that_are_no_difference_are_listed_beside_other_problems():
    refused(
        'parameter "k": it has no value', 'reaction "R": it is reversible', 'compartment "c": it has no size',
        'rate rule "p"', limits={"X": 9, "Y": 9}, species=[X, "id='Y' initialAmount='3' hasOnlySubstanceUnits='false'"],
        compartments=["id='c'"], parameters=["id='k'", "id='p' constant='false'"], rules=[rule("rate", "1", "p")],
        reactions=[reaction("R", "X -> Y", "X*(2 - X)", reversible=True), reaction("S", "Y ->", "k*Y")],
    )  # fmt: skip


CASES = {
    "rate rule": ('rate rule "p": continuous change', {"parameters": ["id='p' constant='false'"], "rules": [
        rule("rate", "1", "p")]}),
    "algebraic rule": ("algebraic rule: equations that hold at every time", {
        "parameters": ["id='p' constant='false'"], "rules": [rule("algebraic", "p - X")]}),
    "rule in a circle": ("m.xml: cannot be read", {
        "parameters": ["id='p' constant='false'", "id='r' constant='false'"], "rules": ["p = r", "r = p"]}),
    "no reactions": ('model "m": it has no reactions', {"reactions": []}),
    "nothing changes": ("no reaction or event changes the count of a species", {
        "reactions": [reaction("R", "X -> X", "X")]}),
    "no law": ('reaction "Q": it has no kinetic law', {"reactions": [
        reaction("R", "X ->", "X"), "<reaction id='Q' reversible='false' fast='false'/>"]}),
    "fast": ('reaction "Q": fast="true"', {"reactions": [reaction("Q", "X ->", "X", attributes="fast='true'")]}),
    "half a molecule": ('reactant of reaction Q "X": its stoichiometry is 0.5', {
        "reactions": [reaction("Q", "0.5 X ->", "X")]}),
    "too many": ("its stoichiometry is 1001", {"reactions": [reaction("Q", "1001 X ->", "X")]}),
    "no stoichiometry": ('product of reaction Q "X": it has no stoichiometry; give it one', {"reactions": [
        reaction("Q", "-> X", "X").replace("stoichiometry='1'", "")]}),
    "delay": ("it uses delay(...)", {"reactions": [reaction("Q", "X ->", "delay(X, 1)")]}),
    "reaction rate": ('its formula uses the rate of the reaction "R"', {"reactions": [
        reaction("R", "X ->", "X"), reaction("Q", "X ->", "R")]}),
    "no otherwise": ("its piecewise has no <otherwise>", {"reactions": [
        reaction("Q", "X ->", "piecewise(1, X > 3)")]}),
    "factorial": ('its formula uses "factorial"', {"reactions": [reaction("Q", "X ->", "factorial(X)")]}),
    "unknown compartment": ("compartment", {"species": ["id='X' initialAmount='3' compartment='nowhere'"]}),
    "conversion factor": ("it has a conversionFactor", {
        "model": "conversionFactor='f'", "parameters": ["id='f' value='2'"]}),
    "conversion factor of a species": ('species "X": it has a conversionFactor', {
        "species": [f"{X} conversionFactor='f'"], "parameters": ["id='f' value='2'"]}),
    "package": ('package "multi": it is required to understand the model', {
        "head": "xmlns:multi='http://www.sbml.org/sbml/level3/version1/multi/version1' multi:required='true'"}),
    "unknown package": ('package "secrets": it is required', {
        "head": "xmlns:s='http://www.sbml.org/sbml/level3/version1/secrets/version1' s:required='true'"}),
    "infinite number": ("the number inf cannot stand in a formula", {"reactions": [
        reaction("Q", "X ->", "X").replace("<ci> X </ci>", "<infinity/>")]}),
    "parameter without a value": ('parameter "p": it has no value, and kinetic law of reaction "Q" needs it', {
        "parameters": ["id='p'"], "reactions": [reaction("Q", "X ->", "p*X")]}),
    "parameter that is infinite": ('parameter "p": it has no value', {
        "parameters": ["id='p' value='INF'"], "reactions": [reaction("Q", "X ->", "p*X")]}),
    "assignment that divides by 0": ("its value at the start is inf", {
        "parameters": ["id='p'"], "initial": [("p", "1/0")], "reactions": [reaction("Q", "X ->", "p*X")]}),
    "negative rate": ("it must be finite and not negative", {
        "parameters": ["id='p' value='-2'"], "reactions": [reaction("Q", "X ->", "p*X")]}),
    "duplicate id": ("Duplicate", {"parameters": ["id='X' value='1'"]}),
    "unknown name": ("zz", {"reactions": [reaction("Q", "X ->", "zz*X")]}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused(case):
    message, parts = CASES[case]
    refused(message, **GOOD | parts)


def test_stoichiometry_formulas_of_level_2():
    inner = f"<speciesReference species='X'><stoichiometryMath>{math('2*3')}</stoichiometryMath></speciesReference>"
    law = f"<kineticLaw>{math('X')}</kineticLaw>"
    body = f"<reaction id='Q' reversible='false'><listOfReactants>{inner}</listOfReactants>{law}</reaction>"
    refused(
        'reactant of reaction Q "X": its stoichiometry is a formula', level=2, version=4,
        species=[f"{X} hasOnlySubstanceUnits='true'"], reactions=[body],
    )  # fmt: skip


def test_rates_of_change_of_level_3_version_2():
    parts = {"level": 3, "version": 2}
    refused("it uses rateOf(...)", species=[X], reactions=[reaction("Q", "X ->", "1 + rateOf(X)", **parts)], **parts)


def test_functions_that_call_themselves():
    functions = [
        f"<functionDefinition id='f'>{math('lambda(x, g(x))')}</functionDefinition>",
        f"<functionDefinition id='g'>{math('lambda(x, f(x) + 1)')}</functionDefinition>",
    ]
    refused("m.xml: cannot be read", functions=functions, species=[X], reactions=[reaction("Q", "X ->", "f(X)")])


def test_formulas_that_explode_are_refused_quickly():
    functions = [f"<functionDefinition id='f0'>{math('lambda(x, x*x)')}</functionDefinition>"]
    functions += [
        f"<functionDefinition id='f{k}'>{math(f'lambda(x, f{k - 1}(f{k - 1}(x)))')}</functionDefinition>"
        for k in range(1, 12)
    ]
    refused("parts", functions=functions, species=[X], reactions=[reaction("Q", "X ->", "f11(X)")])
    rules = ["p0 = X + 1", *(f"p{k} = p{k - 1}*p{k - 1}" for k in range(1, 40))]
    parameters = [f"id='p{k}' constant='false'" for k in range(40)]
    refused("parts with all rules", parameters=parameters, rules=rules, **GOOD)


def test_long_chains_of_rules_and_functions_are_refused():
    rules = ["p0 = X + 1", *(f"p{k} = p{k - 1} + 1" for k in range(1, 400))]
    parameters = [f"id='p{k}' constant='false'" for k in range(400)]
    refused("m.xml: ", parameters=parameters, rules=rules, **GOOD)
    functions = [f"<functionDefinition id='f0'>{math('lambda(x, x + 1)')}</functionDefinition>"]
    functions += [
        f"<functionDefinition id='f{k}'>{math(f'lambda(x, f{k - 1}(x) + 1)')}</functionDefinition>"
        for k in range(1, 600)
    ]
    refused("m.xml: ", functions=functions, species=[X], reactions=[reaction("Q", "X ->", "f599(X)")])


def test_packages_that_are_not_required_are_left_out_with_a_note():
    head = "xmlns:layout='http://www.sbml.org/sbml/level3/version1/layout/version1' layout:required='false'"
    net = read({"X": 9}, head=head, **GOOD)
    assert 'what the package "layout" says is left out; the model does not require it' in net.notes


def test_constraints_and_unused_values_are_noted():
    constraint = f"<listOfConstraints><constraint>{math('X < 5')}</constraint></listOfConstraints>"
    net = read({"X": 9}, extra=constraint, parameters=["id='unused'"], **GOOD)
    assert "constraints are left out: they say when a simulation should stop" in net.notes
    assert 'parameter "unused" has no value, and nothing needs it; left out' in net.notes


NOT_SBML = {
    "nothing": ("", "not well-formed XML: no element found"),
    "text": ("model x", "not well-formed XML"),
    "cut": (document(**GOOD)[:400], "not well-formed XML"),
    "html": ("<html><body/></html>", "its outermost element is <html>, not <sbml>"),
    "no model": (
        "<sbml xmlns='http://www.sbml.org/sbml/level3/version1/core' level='3' version='1'/>", "there is no <model>"
    ),
    "level 1": (
        "<sbml xmlns='http://www.sbml.org/sbml/level1' level='1' version='2'><model name='m'><listOfCompartments>"
        "<compartment name='c'/></listOfCompartments></model></sbml>",
        "SBML Level 1 Version 2 is not read",
    ),
    "document type": ("<!DOCTYPE sbml [<!ENTITY a 'b'>]><sbml>&a;</sbml>", "document type declaration"),
    "deep": ("<sbml>" + "<a>" * 5000 + "</a>" * 5000 + "</sbml>", "nested deeper than 200 levels"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_SBML)
def test_what_is_no_sbml(case):
    text, message = NOT_SBML[case]
    with pytest.raises(InputError, match=r"^m\.xml: ") as caught:
        read_sbml_text(text, "m.xml")
    assert message in str(caught.value)


def test_libsbml_names_the_element_and_the_line():
    bad = document(**GOOD).replace("id='c'", "id='c d'")
    with pytest.raises(InputError) as caught:
        read_sbml_text(bad, "m.xml")
    assert "SBML rule" in str(caught.value) and "line" in str(caught.value) and "c d" in str(caught.value)


def test_too_many_problems_are_counted():
    species = [f"id='X{k}' initialAmount='0.5'" for k in range(80)]
    reactions = [reaction(f"R{k}", f"X{k} ->", f"X{k}") for k in range(80)]
    text = refused("because of 80 elements of it", species=species, reactions=reactions)
    assert "... and 20 more" in text
