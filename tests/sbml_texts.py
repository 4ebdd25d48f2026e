"""Small SBML documents for tests, typed with infix formulas; and how networks are compared state by state."""

import itertools

import numpy as np
import pytest

from hpcme.errors import InputError
from hpcme.exact.fsp import build_generator
from hpcme.model.builder import ModelBuilder
from hpcme.model.sbml import read_sbml_text

CORE = {
    (2, v): f"http://www.sbml.org/sbml/level2{'' if v == 1 else f'/version{v}'}" for v in range(1, 6)
} | {(3, v): f"http://www.sbml.org/sbml/level3/version{v}/core" for v in (1, 2)}


def math(formula: str) -> str:
    """MathML of an infix formula (time is the time symbol)."""
    import libsbml

    tree = libsbml.parseL3Formula(formula)
    assert tree is not None, libsbml.getLastParseL3Error()
    return libsbml.writeMathMLToString(tree).split("?>", 1)[-1]


def listed(what: str, entries: list[str]) -> str:
    return f"<listOf{what}>{' '.join(entries)}</listOf{what}>" if entries else ""


def document(
    *, level=3, version=1, species=(), parameters=(), compartments=("id='c' size='1'",), reactions=(), rules=(),
    initial=(), events=(), functions=(), units=(), model="", head="", extra="",
) -> str:  # fmt: skip
    """A document. Entries of the lists are attributes, or whole elements where they begin with '<'.

    One element stands on one line of its own, so that line numbers can be predicted.
    """
    three = level == 3
    own = {
        "compartment": "constant='true' spatialDimensions='3'" if three else "",
        "species": "boundaryCondition='false' constant='false'" if three else "",
        "parameter": "constant='true'" if three else "",
    }

    def elements(name: str, entries) -> list[str]:
        found = []
        for entry in entries:
            if entry.startswith("<"):
                found.append(f"\n{entry}")
                continue
            rest = [part for part in own.get(name, "").split() if part.split("=")[0] + "=" not in entry]
            if name == "species" and "compartment=" not in entry:
                rest.append("compartment='c'")
            if name == "species" and three and "hasOnly" not in entry:
                rest.append("hasOnlySubstanceUnits='true'")
            found.append(f"\n<{name} {entry} {' '.join(rest)}/>")
        return found

    return (
        f"<?xml version='1.0' encoding='UTF-8'?>\n<sbml xmlns='{CORE[level, version]}' level='{level}' "
        f"version='{version}' {head}>\n<model id='m' {model}>"
        + listed("FunctionDefinitions", [f"\n{entry}" for entry in functions])
        + listed("UnitDefinitions", [f"\n{entry}" for entry in units])
        + listed("Compartments", elements("compartment", compartments))
        + listed("Species", elements("species", species))
        + listed("Parameters", elements("parameter", parameters))
        + listed("InitialAssignments", [
            f"\n<initialAssignment symbol='{name}'>{math(formula)}</initialAssignment>" for name, formula in initial
        ])
        + listed("Rules", [
            entry if entry.startswith("<") else
            f"\n<assignmentRule variable='{entry.split('=', 1)[0].strip()}'>{math(entry.split('=', 1)[1])}"
            "</assignmentRule>" for entry in rules
        ])
        + extra
        + listed("Reactions", [f"\n{entry}" for entry in reactions])
        + listed("Events", [f"\n{entry}" for entry in events])
        + "\n</model>\n</sbml>\n"
    )  # fmt: skip


def reaction(
    name: str, equation: str, law: str, *, level=3, version=1, local=(), modifiers=(), reversible=False, attributes="",
) -> str:  # fmt: skip
    """A reaction element: reaction("R", "2 A + B -> C", "k*A*B")."""
    three = level == 3
    sides = []
    for side, what in zip(equation.split("->"), ("Reactants", "Products"), strict=True):
        references = []
        for term in filter(None, (part.strip() for part in side.split("+"))):
            number, _, species = term.rpartition(" ")
            constant = " constant='true'" if three else ""
            references.append(f"<speciesReference species='{species}' stoichiometry='{number or 1}'{constant}/>")
        sides.append(listed(what, references))
    sides.append(listed("Modifiers", [f"<modifierSpeciesReference species='{name}'/>" for name in modifiers]))
    kind = "LocalParameter" if three else "Parameter"
    parameters = listed(f"{kind}s", [f"<{kind[0].lower()}{kind[1:]} {entry}/>" for entry in local])
    fast = " fast='false'" if (level, version) == (3, 1) and "fast=" not in attributes else ""
    return (
        f"<reaction id='{name}' reversible='{str(reversible).lower()}'{fast} {attributes}>{''.join(sides)}"
        f"<kineticLaw>{math(law)}{parameters}</kineticLaw></reaction>"
    )


def event(
    name: str, trigger: str, sets: dict[str, str], *, level=3, initial=True, at_trigger=True, priority=None, extra=""
) -> str:
    """An event element: event("E", "time >= 5", {"X": "3"})."""
    values = f" initialValue='{str(initial).lower()}' persistent='true'" if level == 3 else ""
    use = f" useValuesFromTriggerTime='{str(at_trigger).lower()}'" if level == 3 else ""
    order = f"<priority>{math(priority)}</priority>" if priority is not None else ""
    assignments = "".join(
        f"<eventAssignment variable='{target}'>{math(formula)}</eventAssignment>" for target, formula in sets.items()
    )
    return (
        f"<event id='{name}'{use}><trigger{values}>{math(trigger)}</trigger>{extra}{order}"
        f"<listOfEventAssignments>{assignments}</listOfEventAssignments></event>"
    )


def states_of(net) -> np.ndarray:
    """All states of the box, int32 [M, S]."""
    return np.array(list(itertools.product(*(range(k + 1) for k in net.limits))), dtype=np.int32)


def assert_same_generator(a, b, times=(0.0,), rtol=1e-12) -> None:
    """The same generator on the box, whatever the order in which species and reactions stand."""
    assert sorted(a.species) == sorted(b.species)
    order = [a.species.index(name) for name in b.species]
    assert a.limits[order].tolist() == b.limits.tolist()
    states = states_of(b)
    theirs = np.empty_like(states)
    theirs[:, order] = states
    for t in times:
        (one, sink_one), (two, sink_two) = build_generator(a, theirs, t), build_generator(b, states, t)
        assert abs(one - two).max() <= rtol * abs(two).max()
        np.testing.assert_allclose(sink_one, sink_two, rtol=rtol, atol=rtol)


def read(limits, **parts):
    """The network of a document with these limits."""
    return read_sbml_text(document(**parts), "m.xml", limits=limits)


def refused(*messages, limits=None, **parts):
    """The error of a document; every message must be in it."""
    with pytest.raises(InputError) as caught:
        read(limits or {"X": 9}, **parts)
    for message in messages:
        assert message in str(caught.value), str(caught.value)
    return str(caught.value)


def built(species, reactions, **parameters):
    """The network that is expected: species name -> (start, limit), reactions (equation, key, value)."""
    builder = ModelBuilder("m")
    for name, value in parameters.items():
        builder.parameter(name, value)
    for name, (start, limit) in species.items():
        builder.species(name, initial=start, max=limit)
    for equation, key, value in reactions:
        builder.reaction(equation, **{key: value})
    return builder.build()
