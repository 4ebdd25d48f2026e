"""What SBML elements mean: amounts and concentrations, starts, rules, laws; against the same models as TOML."""

import pytest
from sbml_texts import assert_same_generator, built, document, math, reaction, read, refused

from hpcme.errors import InputError
from hpcme.model.sbml import read_sbml, read_sbml_text

pytest.importorskip("libsbml")


# ---- amounts and concentrations ----


def test_amounts_in_a_compartment_without_a_size():
    net = read(
        {"X": 12}, compartments=["id='c'"], species=["id='X' initialAmount='5'"], parameters=["id='k' value='0.5'"],
        reactions=[reaction("Birth", "X -> 2 X", "k*X"), reaction("Death", "X ->", "X")],
    )  # fmt: skip
    assert_same_generator(net, built({"X": (5, 12)}, [("X -> 2 X", "rate", 0.5), ("X -> 0", "rate", 1)]))
    assert net.initial_spec["species"] == [5]
    assert [r.key for r in net.reactions] == ["rate", "rate"] and [r.name for r in net.reactions] == ["Birth", "Death"]


def test_a_species_symbol_is_a_concentration_unless_the_species_says_otherwise():
    parts = {
        "compartments": ["id='c' size='2'"], "parameters": ["id='k' value='3'"],
        "reactions": [reaction("R", "A + B -> C", "c*k*A*B"), reaction("S", "C -> A", "k*C")],
    }  # fmt: skip
    species = [
        "id='A' initialConcentration='2' hasOnlySubstanceUnits='false'",
        "id='B' initialAmount='5' hasOnlySubstanceUnits='true'",
        "id='C' initialConcentration='1.5' hasOnlySubstanceUnits='true'",
    ]
    net = read({"A": 8, "B": 8, "C": 8}, species=species, **parts)
    # c k (A/c) B for amounts A, B: the compartment cancels. C has only amounts, and starts with 1.5 * 2.
    expected = built(
        {"A": (4, 8), "B": (5, 8), "C": (3, 8)}, [("A + B -> C", "rate", 3), ("C -> A", "rate", 3)]
    )
    assert_same_generator(net, expected)
    assert net.initial_spec["species"] == [4, 5, 3]
    assert net.reactions[0].rate.to_text() == "k" and "c" not in net.parameters


def test_two_compartments_and_concentrations_in_both():
    net = read(
        {"A": 8, "B": 8}, compartments=["id='c' size='2'", "id='d' size='0.5'"], parameters=["id='k' value='3'"],
        species=[
            "id='A' initialAmount='6' hasOnlySubstanceUnits='false'",
            "id='B' compartment='d' initialConcentration='4' hasOnlySubstanceUnits='false'",
        ],
        reactions=[reaction("R", "A -> B", "k*A/(1 + B)")],
    )  # fmt: skip
    assert_same_generator(net, built({"A": (6, 8), "B": (2, 8)}, [("A -> B", "propensity", "3*(A/2)/(1 + B/0.5)")]))


def test_a_compartment_of_no_dimensions_has_amounts():
    net = read(
        {"X": 9}, compartments=["id='c' spatialDimensions='0'"], parameters=["id='k' value='3'"],
        species=["id='X' initialAmount='6' hasOnlySubstanceUnits='false'"], reactions=[reaction("R", "X ->", "k*X")],
    )  # fmt: skip
    assert_same_generator(net, built({"X": (6, 9)}, [("X -> 0", "rate", 3)]))


def test_a_size_that_is_needed_must_be_given():
    parts = {"compartments": ["id='c'"], "reactions": [reaction("R", "X ->", "X")]}
    message = 'compartment "c": it has no size, and kinetic law of reaction "R" needs it; give it one'
    refused(message, species=["id='X' initialAmount='6' hasOnlySubstanceUnits='false'"], **parts)
    refused('compartment "c": it has no size', species=["id='X' initialConcentration='6'"], **parts)
    read({"X": 9}, species=["id='X' initialAmount='6'"], **parts)
    not_needed = {"compartments": ["id='c'"], "reactions": [reaction("R", "-> X", "2")]}
    species = ["id='X' initialAmount='6' hasOnlySubstanceUnits='false'", "id='Y' initialAmount='0.5'"]
    net = read({"X": 9}, species=species, **not_needed)
    assert net.initial_spec["species"] == [6] and net.parameters == {"Y": 0.5}


def test_counts_must_be_whole():
    parts = {"reactions": [reaction("R", "X ->", "X")]}
    assert "2.5, which is no count" in refused(species=["id='X' initialAmount='2.5'"], **parts)
    assert "amount of -1" in refused(species=["id='X' initialAmount='-1'"], **parts)
    refused('species "X": it has no initial amount or concentration', species=["id='X'"], **parts)
    refused("has no initial", species=["id='X' initialAmount='NaN'"], **parts)
    net = read(
        {"X": 9}, compartments=["id='c' size='0.1'"], species=["id='X' initialConcentration='70'"], **parts
    )  # 70 * 0.1 is 7.000000000000001 in floating point
    assert net.initial_spec["species"] == [7]


def test_initial_assignments_to_species_parameters_and_compartments():
    net = read(
        {"X": 20, "Y": 20}, compartments=["id='c'"],
        species=["id='X' initialAmount='1'", "id='Y' hasOnlySubstanceUnits='false'"],
        parameters=["id='k'", "id='a' value='4'", "id='half'"],
        initial=[("X", "2*a"), ("c", "a/2"), ("Y", "a + 1"), ("k", "2*a"), ("half", "X/2")],
        reactions=[reaction("R", "X -> Y", "k*X"), reaction("S", "Y -> X", "half*c*Y")],
    )  # fmt: skip
    assert net.initial_spec["species"] == [8, 10]  # Y: concentration 5 in a size of 2
    assert net.parameters["k"] == 8 and net.parameters["half"] == 4
    assert net.parameter_exprs["k"].to_text() == "2*a"
    assert net.with_parameters({"a": 5}).parameters["k"] == 10
    assert_same_generator(net, built({"X": (8, 20), "Y": (10, 20)}, [("X -> Y", "rate", 8), ("Y -> X", "rate", 4)]))


# ---- what does not change ----


def test_boundary_and_constant_species_are_parameters_that_are_reported():
    net = read(
        {"X": 9},
        species=[
            "id='X' initialAmount='3'", "id='Source' initialAmount='0' boundaryCondition='true'",
            "id='E' initialAmount='4' constant='true' boundaryCondition='true'", "id='Idle' initialAmount='7'",
        ],
        parameters=["id='k' value='2'"],
        reactions=[reaction("In", "Source -> X", "k"), reaction("Out", "X + E -> E", "k*X*E")],
    )  # fmt: skip
    assert net.species == ("X",)
    assert_same_generator(net, built({"X": (3, 9)}, [("0 -> X", "rate", 2), ("X -> 0", "rate", 8)]))
    assert {name: expr.to_text() for name, expr in net.readouts.items()} == {
        "Source": "Source", "E": "E", "Idle": "Idle",
    }  # fmt: skip
    assert net.readout_values(net.initial.support()[0]).tolist() == [[0, 4, 7]]
    assert net.with_parameters({"E": 1}).parameters["E"] == 1


def test_a_boundary_species_of_a_concentration_is_used_as_one_and_reported_as_amount():
    net = read(
        {"X": 9}, compartments=["id='c' size='4'"],
        species=[
            "id='X' initialAmount='3'",
            "id='B' initialConcentration='1.5' boundaryCondition='true' hasOnlySubstanceUnits='false'",
        ],
        reactions=[reaction("In", "B -> X", "c*B")],
    )  # fmt: skip
    assert_same_generator(net, built({"X": (3, 9)}, [("0 -> X", "rate", 6)]))
    assert net.readout_values(net.initial.support()[0]).tolist() == [[6]]


def test_a_species_that_stands_on_both_sides_does_not_change():
    net = read(
        {"X": 9}, species=["id='X' initialAmount='3'", "id='E' initialAmount='2'"],
        reactions=[reaction("R", "X + E -> E", "X*E")],
    )  # fmt: skip
    assert net.species == ("X",) and net.parameters["E"] == 2
    assert_same_generator(net, built({"X": (3, 9)}, [("X -> 0", "rate", 2)]))


def test_a_reaction_of_boundary_species_alone_is_left_out():
    net = read(
        {"X": 9},
        species=["id='X' initialAmount='3'", "id='A' initialAmount='3' boundaryCondition='true'"],
        reactions=[reaction("R", "X ->", "X"), reaction("Gone", "A ->", "A")],
    )  # fmt: skip
    assert net.R == 1 and "reaction Gone: it changes no count; left out" in net.notes


# ---- rules, functions, local parameters ----


def test_assignment_rules_are_written_out_and_reported():
    net = read(
        {"X": 9}, compartments=["id='c' size='2'", "id='d' constant='false'"],
        species=[
            "id='X' initialAmount='3'", "id='y' initialAmount='77'",
            "id='z' hasOnlySubstanceUnits='false'",
        ],
        parameters=["id='k' value='0.5'", "id='w' constant='false'"],
        rules=["w = k*y", "y = 2*X", "z = 10*X", "d = 3"],
        reactions=[reaction("R", "X ->", "w*X + d")],
    )  # fmt: skip
    assert_same_generator(net, built({"X": (3, 9)}, [("X -> 0", "propensity", "0.5*(2*X)*X + 3")]))
    values = dict(zip(net.readouts, net.readout_values(net.initial.support()[0])[0].tolist(), strict=True))
    assert values == {"y": 6, "w": 3, "z": 60, "d": 3}  # y overrides its initial amount; z is an amount, 2 * 30


def test_a_rule_that_reads_the_time_is_used_and_not_reported():
    net = read(
        {"X": 9}, species=["id='X' initialAmount='3'"], parameters=["id='w' constant='false'"],
        rules=["w = 1 + time"], reactions=[reaction("R", "X ->", "w*X")],
    )  # fmt: skip
    assert_same_generator(net, built({"X": (3, 9)}, [("X -> 0", "rate", "1 + t")]), times=(0.0, 2.5))
    assert not net.readouts and any("not reported" in note for note in net.notes)


def test_local_parameters_shadow_global_ones_and_each_other():
    net = read(
        {"X": 9}, species=["id='X' initialAmount='3'"], parameters=["id='k' value='100'"],
        reactions=[
            reaction("R", "X ->", "k*X", local=["id='k' value='2'"]),
            reaction("S", "-> X", "k + q", local=["id='k' value='5'", "id='q' value='1'"]),
            reaction("T", "X ->", "k*X"),
        ],
    )  # fmt: skip
    expected = [("X -> 0", "rate", 2), ("0 -> X", "rate", 6), ("X -> 0", "rate", 100)]
    assert_same_generator(net, built({"X": (3, 9)}, expected))
    assert net.parameters == {"k": 100, "R_k": 2, "S_k": 5, "S_q": 1}


def test_function_definitions_are_written_out():
    functions = [
        f"<functionDefinition id='hill'>{math('lambda(x, K, n, x^n/(K^n + x^n))')}</functionDefinition>",
        f"<functionDefinition id='twice'>{math('lambda(x, 2*hill(x, 3, 2))')}</functionDefinition>",
    ]
    net = read(
        {"X": 9}, species=["id='X' initialAmount='3'"], functions=functions,
        reactions=[reaction("R", "-> X", "twice(X)")],
    )  # fmt: skip
    assert_same_generator(net, built({"X": (3, 9)}, [("0 -> X", "propensity", "2*X**2/(3**2 + X**2)")]))


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("piecewise(2, X > 3, 1, X >= 1, 0.5)", "where(X > 3, 2, where(X >= 1, 1, 0.5))"),
        ("exp(-X) + ln(X + 1) + log10(X + 1) + log(2, X + 1)", "exp(-X) + log(X+1) + log10(X+1) + log(X+1)/log(2)"),
        ("sqrt(X) + root(3, X + 1)", "sqrt(X) + (X + 1)**(1/3)"),
        ("floor(X/2) + ceil(X/2) + abs(X - 4)", "floor(X/2) + ceil(X/2) + abs(X - 4)"),
        ("2 + sin(X) + cos(X)*tan(0.1)", "2 + sin(X) + cos(X)*tan(0.1)"),
        ("cosh(X/9) + sinh(X/9) + tanh(X)", "exp(X/9) + tanh(X)"),
        ("arctan(X) + arcsin(X/9) + arccos(X/9)", "atan(X) + asin(X/9) + acos(X/9)"),
        ("2 + 0.01*(sec(X/9) + csc(X/9 + 1) + cot(X/9 + 1))", "2 + 0.01*(1/cos(X/9) + 1/sin(X/9+1) + 1/tan(X/9+1))"),
        ("piecewise(1, and(X > 1, X < 5, not(X == 3)), 0.25)", "where(X > 1 and X < 5 and not X == 3, 1, 0.25)"),
        ("piecewise(1, or(X < 2, X != 4), 0.25)", "where(X < 2 or X != 4, 1, 0.25)"),
        ("piecewise(1, xor(X < 2, X < 4, X < 6), 0.25)", "where(X < 2 or (X >= 4 and X < 6), 1, 0.25)"),
        ("pi*X + exponentiale", "pi*X + e"),
        ("avogadro/1e23*X", "6.02214179*X"),
        ("time*X + 1", "t*X + 1"),
        ("X + 1e-30 + 1.5e3 + 7", "X + 1e-30 + 1.5e3 + 7"),
    ],
)  # fmt: skip
def test_mathml_means_what_it_says(formula, expected):
    net = read({"X": 9}, species=["id='X' initialAmount='3'"], reactions=[reaction("R", "-> X", formula)])
    assert_same_generator(net, built({"X": (3, 9)}, [("0 -> X", "propensity", expected)]), times=(0.0, 1.5))


def test_functions_of_level_3_version_2():
    parts = {"level": 3, "version": 2}
    for formula, expected in (
        ("min(X, 4, 6) + max(X, 2)", "min(X, 4, 6) + max(X, 2)"),
        ("quotient(X, 2) + rem(X, 2)", "floor(X/2) + X - 2*floor(X/2)"),
        ("piecewise(1, implies(X > 2, X > 5), 0.5)", "where(not X > 2 or X > 5, 1, 0.5)"),
    ):
        law = reaction("R", "-> X", formula, **parts)
        net = read({"X": 9}, species=["id='X' initialAmount='3'"], reactions=[law], **parts)
        assert_same_generator(net, built({"X": (3, 9)}, [("0 -> X", "propensity", expected)]))


# ---- levels, units, names ----


@pytest.mark.parametrize(("level", "version"), [(2, 1), (2, 2), (2, 3), (2, 4), (2, 5), (3, 1), (3, 2)])
def test_levels_and_versions(level, version):
    parts = {"level": level, "version": version}
    net = read(
        {"X": 9}, species=["id='X' initialAmount='3'" + (" hasOnlySubstanceUnits='true'" if level == 2 else "")],
        parameters=["id='k' value='2'"],
        reactions=[reaction("R", "2 X -> X", "k*X*(X - 1)/2", local=["id='k' value='6'"], **parts)], **parts,
    )  # fmt: skip
    assert_same_generator(net, built({"X": (3, 9)}, [("2 X -> X", "rate", 3)]))
    assert net.reactions[0].key == "rate"
    assert net.time_unit == ("second" if level == 2 else "1")
    assert any("taken as counts" in note for note in net.notes) == (level == 2)


def test_level_2_defaults_are_concentrations_and_one_of_each():
    law = "<reaction id='R'><listOfReactants><speciesReference species='X'/></listOfReactants>"
    law += f"<kineticLaw>{math('c*X')}"
    net = read(
        {"X": 9}, level=2, version=4, compartments=["id='c' size='2'"], species=["id='X' initialAmount='4'"],
        reactions=[f"{law}</kineticLaw></reaction>"],
    )  # fmt: skip
    assert_same_generator(net, built({"X": (4, 9)}, [("X -> 0", "rate", 1)]))
    assert "reaction R: reversible" not in " ".join(net.notes)  # the default, and mass action cannot go backward


@pytest.mark.parametrize("where", ["model", "species", "extent", "level 2"])
def test_other_units_of_amount_are_refused(where):
    parts = {"species": ["id='X' initialAmount='3'"], "reactions": [reaction("R", "X ->", "X")]}
    unit = "<unitDefinition id='{}'><listOfUnits><unit kind='{}' exponent='1' scale='{}' multiplier='1'/></listOfUnits>"
    unit += "</unitDefinition>"
    if where == "model":
        refused('model "m": substanceUnits = "mole" is not a unit of counts', model="substanceUnits='mole'", **parts)
        units = [unit.format("many", "item", 3)]
        refused('substanceUnits = "many"', model="substanceUnits='many'", units=units, **parts)
        read({"X": 9}, model="substanceUnits='one'", units=[unit.format("one", "item", 0)], **parts)
        read({"X": 9}, model="substanceUnits='dimensionless' timeUnits='second'", **parts)
    elif where == "extent":
        refused('extentUnits = "mole"', model="extentUnits='mole'", **parts)
    elif where == "species":
        parts["species"] = ["id='X' initialAmount='3' substanceUnits='mole'"]
        refused('species "X": its unit "mole"', **parts)
    else:
        parts = {
            "level": 2, "version": 4, "species": ["id='X' initialAmount='3' hasOnlySubstanceUnits='true'"],
            "reactions": [reaction("R", "X ->", "X", level=2)],
        }  # fmt: skip
        define = "<unitDefinition id='{}'><listOfUnits><unit kind='{}'/></listOfUnits></unitDefinition>"
        refused('substance = "substance" is not', units=[define.format("substance", "mole")], **parts)
        units = [define.format("substance", "item"), define.format("time", "second")]
        assert read({"X": 9}, units=units, **parts).time_unit == "second"


def test_names_that_mean_something_else_are_changed_with_a_note():
    net = read(
        {"t_1": 9, "min_0": 9},
        species=["id='t' initialAmount='3'", "id='min' initialAmount='1'"],
        parameters=["id='e' value='5'", "id='t_0' value='2'", "id='R_k' value='7'"],
        reactions=[
            reaction("R", "t -> min", "e*t*t_0*k", local=["id='k' value='1'"]), reaction("S", "min ->", "R_k*min"),
        ],
    )  # fmt: skip
    assert net.species == ("t_1", "min_0")
    assert net.parameters == {"e_0": 5, "t_0": 2, "R_k": 7, "R_k_0": 1}
    assert_same_generator(
        net, built({"t_1": (3, 9), "min_0": (1, 9)}, [("t_1 -> min_0", "rate", 10), ("min_0 -> 0", "rate", 7)])
    )
    assert "t is named t_1: the name means something else in expressions" in net.notes
    assert "the local parameter k of reaction R is R_k_0" in net.notes


def test_several_references_to_a_species_add_up_and_have_ids():
    reference = "<speciesReference {} species='{}' {} constant='true'/>"
    body = (
        "<reaction id='R' reversible='false' fast='false'><listOfReactants>"
        + reference.format("id='one'", "X", "stoichiometry='1'") + reference.format("", "X", "stoichiometry='1'")
        + "</listOfReactants><listOfProducts>" + reference.format("id='made'", "Y", "")
        + f"</listOfProducts><kineticLaw>{math('one*made*X*(X - 1)')}</kineticLaw></reaction>"
    )  # fmt: skip
    net = read(
        {"X": 9, "Y": 9}, species=["id='X' initialAmount='3'", "id='Y' initialAmount='0'"],
        parameters=["id='three' value='3'"], initial=[("made", "three")], reactions=[body],
    )  # fmt: skip
    assert_same_generator(net, built({"X": (3, 9), "Y": (0, 9)}, [("2 X -> 3 Y", "rate", 3)]))


def test_limits_by_name_and_wrong_ones():
    parts = {"species": ["id='X' initialAmount='3'"], "reactions": [reaction("R", "X ->", "X")]}
    assert read({"X": 42}, **parts).limits.tolist() == [42]
    with pytest.raises(InputError, match=r'limit "XX = 3" names no species.*Did you mean "X"'):
        read({"XX": 3, "X": 9}, **parts)


def test_files_are_read_and_missing_ones_named(tmp_path):
    text = document(species=["id='X' initialAmount='3'"], reactions=[reaction("R", "X ->", "X")])
    (tmp_path / "a.xml").write_text(text)
    assert read_sbml(tmp_path / "a.xml", {"X": 9}).name == "m"
    with pytest.raises(InputError, match=r'no such model file; .*Did you mean "a\.xml"'):
        read_sbml(tmp_path / "b.xml")


def test_without_libsbml_the_command_to_install_it_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "libsbml", None)
    with pytest.raises(InputError, match=r'needs? libSBML, which is not installed. Fix: pip install "hpcme\[sbml\]"'):
        read_sbml_text("<sbml/>", "m.xml")
