"""Reaction equations in text: "2 Px + Gy -> 0"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hpcme.errors import InputError, did_you_mean

LARGEST_COEFFICIENT = 1000

#: What stands for "no species" on a side of an equation (the last two are the empty-set signs).
NOTHING = frozenset({"", "0", "\u00d8", "\u2205"})

_TERM = re.compile(r"(?:(\d{1,6})\s*\*?\s*)?([A-Za-z_][A-Za-z_0-9]*)", re.ASCII)
_HINT = 'write for example "2 A + B -> C", "A -> 0", or "A <-> B" with rate and reverse_rate'


def parse_equation(
    text: object, species: Sequence[str], where: str
) -> tuple[dict[str, int], dict[str, int], bool]:
    """Read an equation: (reactants, products, reversible), each side from species to its coefficient.

    The sides hold the species in the order of `species`, whatever their order in the text. Coefficients are
    whole numbers from 1 to 1000; a species that stands twice on a side is added up.

    Raises
    ------
    InputError : names `where`, the equation, the term and what is allowed.
    """
    if not isinstance(text, str):
        raise InputError(f"{where}: equation = {text!r} must be text in quotes; {_HINT}")
    if text.count("->") != 1 or re.search(r"<-(?!>)|=>|<=|-->", text):
        raise InputError(f'{where}: equation = "{text}" needs exactly one arrow, "->" or "<->"; {_HINT}')
    left, right = text.split("->")
    reversible = left.endswith("<")
    sides = [_side(side, text, species, where) for side in (left.removesuffix("<"), right)]
    return sides[0], sides[1], reversible


def _side(side: str, equation: str, species: Sequence[str], where: str) -> dict[str, int]:
    if side.strip() in NOTHING:
        return {}
    found: dict[str, int] = {}
    for term in side.split("+"):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise InputError(
                f'{where}: the term "{term.strip()}" in equation = "{equation}" is not a species with an '
                f"optional whole coefficient such as 2 X; {_HINT}"
            )
        coefficient = int(match[1]) if match[1] else 1
        name = match[2]
        if not 1 <= coefficient <= LARGEST_COEFFICIENT:
            raise InputError(
                f'{where}: coefficient {match[1]} of "{name}" in equation = "{equation}" must be a whole '
                f"number from 1 to {LARGEST_COEFFICIENT}; leave the species out where it does not take part"
            )
        if name not in species:
            raise InputError(
                f'{where}: "{name}" in equation = "{equation}" is not a species; the species are '
                f"{', '.join(species)}.{did_you_mean(name, species)} Add it to [species], or correct the name"
            )
        found[name] = found.get(name, 0) + coefficient
    return {name: found[name] for name in species if name in found}


def side_text(side: Mapping[str, int]) -> str:
    """One side of an equation: "2 Px + Gy", or "0" for nothing."""
    return " + ".join(name if m == 1 else f"{m} {name}" for name, m in side.items()) or "0"


def equation_text(reactants: Mapping[str, int], products: Mapping[str, int]) -> str:
    """The canonical text of an equation."""
    return f"{side_text(reactants)} -> {side_text(products)}"
