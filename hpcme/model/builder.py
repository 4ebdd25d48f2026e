"""Building a network in Python, step by step; the TOML reader uses the same steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hpcme.errors import InputError, did_you_mean
from hpcme.model.equation import parse_equation
from hpcme.model.event import Event
from hpcme.model.expression import RESERVED, read_value
from hpcme.model.network import LAW_TEXT, LAWS, ReactionNetwork, read_limit
from hpcme.model.reaction import Reaction, make_reaction
from hpcme.model.tree import Expr

_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*", re.ASCII)


class ModelBuilder:
    """Collects parameters, species, reactions, events and readouts; `build` returns the network.

    Every method returns the builder, so calls can be chained:

        net = (
            ModelBuilder("birth_death")
            .parameter("k", 0.1)
            .species("X", initial={"poisson": 1.0}, max=29)
            .reaction("0 -> X", rate="k")
            .reaction("X -> 0", rate=0.01)
            .build()
        )

    Reactions may come before the species they name. All errors are InputError.
    """

    def __init__(
        self,
        name: str,
        law: str = "combinatorial",
        *,
        description: str = "",
        time_unit: str = "1",
        source: str = "",
    ) -> None:
        self._source = source or f'model "{name}"'
        self._head = {"name": name, "law": law, "description": description, "time_unit": time_unit}
        for key, value in self._head.items():
            if not isinstance(value, str):
                raise InputError(f"{self._source}: {key} = {value!r} in [model] must be text in quotes")
        for key in ("name", "time_unit"):
            if not self._head[key].strip():
                raise InputError(
                    f'{self._source}: {key} = "" in [model] is empty; give a word, or leave {key} out'
                )
        if law not in LAWS:
            raise InputError(
                f'{self._source}: law = "{law}" in [model] is not known; allowed are '
                + ", ".join(f'"{known}" ({LAW_TEXT[known]})' for known in LAWS)
                + did_you_mean(law, LAWS)
            )
        self._parameters: dict[str, Expr] = {}
        self._species: dict[str, tuple[object, int | None]] = {}
        self._reactions: list[dict] = []
        self._table: dict | None = None
        self._events: list[Event] = []
        self._readouts: dict[str, Expr] = {}
        self._notes: list[str] = []

    def parameter(self, name: str, value: object) -> ModelBuilder:
        """Add a constant: a number, or the text of an expression of parameters added before."""
        self._check_name(name, "parameter")
        self._parameters[name] = read_value(value, f"{self._source}: parameter {name}")
        return self

    def species(self, name: str, *, initial: object = None, max: object = None) -> ModelBuilder:
        """Add a species with counts 0..max, starting from a count or from a law such as {"poisson": 1.0}.

        max: the largest count; None or "auto" where it is to be found (hpcme.exact.limits).
        """
        self._check_name(name, "species")
        self._species[name] = (initial, read_limit(max, f"{self._source}: species {name}"))
        return self

    def reaction(
        self,
        equation: str,
        *,
        rate: object = None,
        propensity: object = None,
        reverse_rate: object = None,
        name: str = "",
    ) -> ModelBuilder:
        """Add a reaction "2 A + B -> C" with a mass-action `rate` or a whole `propensity`.

        "A <-> B" takes two rates, as rate=[forward, backward] or rate and reverse_rate, and adds two
        reactions.
        """
        where = f'{self._source}: reaction {len(self._reactions) + 1} ("{equation}")'
        if not isinstance(name, str):
            raise InputError(f"{where}: name = {name!r} must be text in quotes")
        given = {"rate": rate, "propensity": propensity, "reverse_rate": reverse_rate}
        if rate is None and propensity is None:
            raise InputError(
                f'{where} has neither rate nor propensity; give rate = "k" for mass action, or '
                'propensity = "..." for the whole propensity'
            )
        if propensity is not None and (rate is not None or reverse_rate is not None):
            raise InputError(f"{where} has both a rate and a propensity; keep one of them")
        self._reactions.append({"where": where, "equation": equation, "name": name, **given})
        return self

    def initial(self, states: Sequence[Sequence[int]], probabilities: Sequence[float]) -> ModelBuilder:
        """Start from a joint table; the columns of `states` are in the order in which species were added."""
        self._table = {"states": states, "probabilities": probabilities}
        return self

    def event(self, at: object, set: Mapping[str, object], name: str = "") -> ModelBuilder:
        """At time `at` (a number, or an expression of parameters) set species to numbers or expressions of the counts
        before: event(25, {"X": 50, "Y": "Y + 20"})."""
        where = f"{self._source}: event {len(self._events) + 1}"
        if not isinstance(name, str):
            raise InputError(f"{where}: name = {name!r} must be text in quotes")
        if not isinstance(set, Mapping):
            raise InputError(f"{where}: set = {set!r} must be a table, such as set = {{ X = 50 }}")
        when = read_value(at, f"{where}, at")
        sets = {str(species): read_value(value, f"{where}, {species}") for species, value in set.items()}
        time = when.value if when.is_constant else 0.0  # the network evaluates it with its parameters
        self._events.append(Event(time, sets, name, when))
        return self

    def readout(self, name: str, value: object) -> ModelBuilder:
        """Report an expression of species and parameters beside the species: readout("total", "X + 2*Y")."""
        expr = read_value(value, f"{self._source}: readout {name}")
        if not (expr.op == "NAME" and expr.name == name and name not in self._readouts):  # a parameter by its own name
            self._check_name(name, "readout")
        self._readouts[name] = expr
        return self

    def note(self, text: str) -> ModelBuilder:
        """Keep a remark about how the model was read; it changes nothing."""
        self._notes.append(text)
        return self

    def build(self) -> ReactionNetwork:
        """The network, with everything checked."""
        if not self._species:
            raise InputError(
                f"{self._source}: no species; add for example X = {{ initial = 0, max = 79 }} to [species]"
            )
        if not self._reactions:
            raise InputError(
                f'{self._source}: no reactions; add at least one, such as equation = "0 -> X", rate = 1.0'
            )
        reactions: list[Reaction] = []
        for raw in self._reactions:
            reactions += self._split(raw)
        self._check_reaction_names(reactions)
        return ReactionNetwork(
            **self._head,
            species=tuple(self._species),
            parameter_exprs=self._parameters,
            reactions=reactions,
            limits=[limit for _, limit in self._species.values()],
            initial_spec=self._initial_spec(),
            source=self._source,
            events=self._events,
            readouts=self._readouts,
            notes=self._notes,
        )

    def _initial_spec(self) -> Mapping:
        missing = [name for name, (start, _) in self._species.items() if start is None]
        if self._table is None:
            if missing:
                raise InputError(
                    f"{self._source}: species {missing[0]} has no initial; give initial = count or a law "
                    "such as initial = { poisson = 1.0 }, or an [initial] table for all species"
                )
            return {"species": [start for start, _ in self._species.values()]}
        if len(missing) < len(self._species):
            twice = next(name for name in self._species if name not in missing)
            raise InputError(
                f"{self._source}: species {twice} has an initial, and there is an [initial] table too; keep "
                "one of them"
            )
        return self._table

    def _split(self, raw: dict) -> list[Reaction]:
        where, rate, back = raw["where"], raw["rate"], raw["reverse_rate"]
        left, right, reversible = parse_equation(raw["equation"], tuple(self._species), where)
        if not reversible:
            if back is not None or _is_list(rate):
                raise InputError(
                    f'{where}: two rates need a reversible equation; write "<->", or give one rate'
                )
            key = "propensity" if rate is None else "rate"
            given = {key: read_value(raw[key], f"{where}, {key}")}
            return [make_reaction(left, right, name=raw["name"], **given)]
        if rate is None:
            raise InputError(
                f"{where}: a reversible reaction takes rates; for propensities write two reactions"
            )
        if _is_list(rate):
            if len(rate) != 2 or back is not None:
                raise InputError(
                    f"{where}: rate = {rate!r}; give two rates, rate = [forward, backward], or rate and "
                    "reverse_rate"
                )
            rate, back = rate
        if back is None:
            raise InputError(
                f'{where} is reversible and needs a second rate; add reverse_rate, or write "->"'
            )
        name = raw["name"]
        forward = read_value(rate, f"{where}, rate")
        backward = read_value(back, f"{where}, reverse_rate")
        return [
            make_reaction(left, right, rate=forward, name=name),
            make_reaction(right, left, rate=backward, name=f"{name}_reverse" if name else ""),
        ]

    def _check_name(self, name: object, kind: str) -> None:
        where = f"{self._source}: {kind} name {name!r}"
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise InputError(f"{where}: use letters, digits and _ (ASCII), not starting with a digit")
        if name in RESERVED:
            raise InputError(
                f"{where} is reserved for expressions ({', '.join(sorted(RESERVED))}); choose another name, "
                f"such as {name}_0"
            )
        for other, names in (
            ("parameter", self._parameters), ("species", self._species), ("readout", self._readouts),
        ):  # fmt: skip
            if name in names:
                raise InputError(f"{where} is already the name of a {other}; rename one of them")

    def _check_reaction_names(self, reactions: Sequence[Reaction]) -> None:
        seen: dict[str, int] = {}
        for number, reaction in enumerate(reactions, 1):
            if reaction.name and reaction.name in seen:
                raise InputError(
                    f"{self._source}: reactions {seen[reaction.name]} and {number} are both named "
                    f'"{reaction.name}"; rename one of them'
                )
            seen[reaction.name] = number


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
