"""What stands in the way of reading an SBML file: collected with the place of each, and refused together."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from hpcme.errors import InputError

#: Words for the elements whose names in SBML are not plain English.
_WORDS = {
    "kineticLaw": "kinetic law", "assignmentRule": "assignment rule", "rateRule": "rate rule",
    "algebraicRule": "algebraic rule", "initialAssignment": "initial assignment", "eventAssignment": "event assignment",
    "speciesReference": "species reference", "functionDefinition": "function definition",
    "localParameter": "local parameter", "unitDefinition": "unit definition",
}  # fmt: skip
_MOST_SHOWN = 60


class Place(NamedTuple):
    """An element of the file: what it is, its id (or what it is about), and its line (0: not known)."""

    kind: str
    id: str
    line: int

    def __str__(self) -> str:
        return f'{self.kind} "{self.id}"' if self.id else self.kind


class Problems:
    """Collects problems; `raise_any` raises all of them as one InputError.

    endless: formulas lead through very many others, which libSBML's checks would take minutes or hours for.
    """

    def __init__(self, source: str, lines: bool = True) -> None:
        self.source, self._lines = source, lines
        self.endless = False
        self._found: dict[tuple[int, str], None] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, place: Place, why: str) -> None:
        """One problem; the same one at the same place is listed once."""
        self.add_line(place.line, f"{place}: {why}")

    def at(self, place: Place) -> bool:
        """Whether there is a problem at a place."""
        return any(text.startswith(f"{place}: ") for _, text in self._found)

    def add_line(self, line: int, text: str) -> None:
        """One problem without an element, such as a message of libSBML."""
        self._found[line if self._lines else 0, re.sub(r"\s+", " ", text).strip()] = None

    def raise_any(self, what: str) -> None:
        """InputError that lists everything found, by line; `what` says what the file should have been."""
        if not self._found:
            return
        rows = sorted(self._found)
        lines = [f"  line {line}: {text}" if line else f"  {text}" for line, text in rows[:_MOST_SHOWN]]
        if len(rows) > _MOST_SHOWN:
            lines.append(f"  ... and {len(rows) - _MOST_SHOWN} more")
        many = f"{len(rows)} elements of it" if len(rows) > 1 else "this"
        raise InputError(
            f"{self.source}: cannot be read as {what}, because of {many}:\n" + "\n".join(lines)
        )


def place_of(element: Any) -> Place:
    """The place of an SBML element (an object of libsbml)."""
    name = element.getElementName()
    subject = element.getIdAttribute() if hasattr(element, "getIdAttribute") else element.getId()
    if name in ("assignmentRule", "rateRule", "eventAssignment"):
        subject = element.getVariable()
    elif name == "initialAssignment":
        subject = element.getSymbol()
    elif name in ("speciesReference", "modifierSpeciesReference"):
        subject = element.getSpecies()
    parent = element.getParentSBMLObject()
    if name == "kineticLaw" and parent is not None:
        return Place("kinetic law of reaction", parent.getIdAttribute(), int(element.getLine()))
    return Place(_WORDS.get(name, name), subject, int(element.getLine()))
