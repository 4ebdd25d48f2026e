"""One reaction: what it consumes and makes, and how often it fires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hpcme.errors import InternalError
from hpcme.model.equation import equation_text
from hpcme.model.tree import ATOM, PRECEDENCE, Expr, constant, variable

LAWS = ("combinatorial", "power")

#: What mass action means for a reactant of coefficient m and count n.
LAW_TEXT = {
    "combinatorial": "the rate times n (n-1) ... (n-m+1) per reactant of coefficient m, NOT divided by m!",
    "power": "the rate times n**m per reactant of coefficient m (0 where n < m), NOT divided by m!",
}


@dataclass(frozen=True)
class Reaction:
    """A reaction channel of one direction.

    Exactly one of `rate` (mass action: multiplied by a factor per reactant, see `LAW_TEXT`) and `propensity`
    (the whole propensity, whatever the reactants) is set. Reactants and products map species to coefficients,
    in species order.
    """

    equation: str
    reactants: Mapping[str, int] = field(hash=False)
    products: Mapping[str, int] = field(hash=False)
    rate: Expr | None = None
    propensity: Expr | None = None
    name: str = ""

    @property
    def label(self) -> str:
        """The name, or the equation where there is none."""
        return self.name or self.equation

    @property
    def key(self) -> str:
        """How often it fires is given by "rate" or by "propensity"."""
        return "rate" if self.rate is not None else "propensity"

    @property
    def kinetics(self) -> Expr:
        """The rate or the propensity, whichever is set."""
        found = self.rate if self.rate is not None else self.propensity
        if found is None:
            raise InternalError(f'reaction "{self.equation}" has neither a rate nor a propensity')
        return found

    def change(self) -> dict[str, int]:
        """Net change of each species that changes."""
        names = dict.fromkeys([*self.reactants, *self.products])
        net = {name: self.products.get(name, 0) - self.reactants.get(name, 0) for name in names}
        return {name: change for name, change in net.items() if change}

    def expression(self, law: str) -> Expr:
        """The whole propensity as one expression of species, parameters and time.

        Under the power law this leaves out that it is 0 where n < m; `text` says so.
        """
        if self.propensity is not None:
            return self.propensity
        whole = self.kinetics
        for name, m in self.reactants.items():
            for factor in _factors(variable(name), m, law):
                whole = Expr("MUL", (whole, factor))
        return whole

    def propensity_text(self, law: str, values: Mapping[str, float] | None = None) -> str:
        """The propensity written out in full; with `values` its parameters are replaced by numbers."""
        source = self.kinetics
        if values is not None:
            source = source.bind(values).fold()
        if self.propensity is not None:
            return source.to_text()
        pieces = [source.to_text()]
        if PRECEDENCE.get(source.op, ATOM) < PRECEDENCE["MUL"]:
            pieces = [f"({pieces[0]})"]
        for name, m in self.reactants.items():
            if m <= 4 or law == "power":
                pieces += [_factor_text(piece) for piece in _factors(variable(name), m, law)]
            else:
                pieces += [name, f"({name} - 1)", "...", f"({name} - {m - 1})"]
        if len(pieces) > 1 and pieces[0] == "1":
            del pieces[0]
        return " * ".join(pieces)

    def notes(self, law: str) -> list[str]:
        """Conventions that a reader of the propensity could doubt, in words."""
        steep = {name: m for name, m in self.reactants.items() if m > 1} if self.rate is not None else {}
        found = ["without division by m!"] if steep else []
        if steep and law == "power":
            found.append("0 where " + " or ".join(f"{name} < {m}" for name, m in steep.items()))
        return found

    def text(self, law: str, values: Mapping[str, float] | None = None) -> str:
        """Equation, propensity in full, and `notes`."""
        notes = "".join(f" ({note})" for note in self.notes(law))
        return f"{self.equation}   propensity {self.propensity_text(law, values)}{notes}"


def _factors(species: Expr, m: int, law: str) -> list[Expr]:
    if law == "power":
        return [species if m == 1 else Expr("POW", (species, constant(m)))]
    return [species if j == 0 else Expr("SUB", (species, constant(j))) for j in range(m)]


def _factor_text(factor: Expr) -> str:
    return f"({factor.to_text()})" if factor.op == "SUB" else factor.to_text()


def make_reaction(
    reactants: Mapping[str, int],
    products: Mapping[str, int],
    *,
    rate: Expr | None = None,
    propensity: Expr | None = None,
    name: str = "",
) -> Reaction:
    """A reaction with its canonical equation text."""
    return Reaction(
        equation_text(reactants, products), dict(reactants), dict(products), rate, propensity, name
    )
