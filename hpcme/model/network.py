"""The reaction network: the one model object that everything else is derived from."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from hpcme.errors import InputError, did_you_mean
from hpcme.model import event as event_rules
from hpcme.model.conservation import ConservationLaws, find_laws
from hpcme.model.event import Event
from hpcme.model.expression import compile_program, read_value
from hpcme.model.initial import InitialLaw, ProductLaw
from hpcme.model.reaction import LAW_TEXT, LAWS, Reaction
from hpcme.model.readout import check_readouts, readout_values
from hpcme.model.startlaw import count_pmf, is_whole, joint_table, largest_count
from hpcme.model.switching import switch_times
from hpcme.model.tables import PropensityTables, program_depth
from hpcme.model.tree import TIME_NAME, Expr
from hpcme.model.writer import canonical_text

__all__ = ["AUTO", "LARGEST_LIMIT", "LAWS", "LAW_TEXT", "Reaction", "ReactionNetwork", "read_limit"]

#: Largest `max` of a species: tables over 0..max (starting laws, marginals) must fit in memory.
LARGEST_LIMIT = 1_000_000
#: How a model says that the largest count of a species is to be found (leaving max out says the same).
AUTO = "auto"


class ReactionNetwork:
    """An immutable reaction network with its starting law and count limits.

    Build it with `load_model` (TOML) or `ModelBuilder`; both check names. Two networks are equal when their
    canonical texts are equal, except for the description.

    Attributes
    ----------
    name, law, description, time_unit : text; law is "combinatorial" or "power".
    species : names, length S.           reactions : tuple of Reaction, length R.
    parameters : name -> float.          parameter_exprs : name -> Expr as written.
    limits : int64 [S], counts of species i run 0..limits[i] inclusive. InputError while some are automatic
        (max = "auto"): hpcme.exact.limits.resolve_limits gives the same network with numbers.
    auto_limits : tuple of S bools, which limits are automatic.
    bounds : int64 [S], the limits, with LARGEST_LIMIT in place of automatic ones.
    initial : InitialLaw.                initial_spec : the same as written (canonical text is made from it).
    s : int64 [R, S], state changes.     tables : PropensityTables.
    time_dependent : True when any propensity reads t.
    events : tuple of Event, sorted by time; those of one time are applied one after the other, as written.
    written_events : the same in the order written.
    readouts : name -> Expr of species and parameters, reported beside the species.
    notes : what a reader of other formats (SBML) did to the model, in words; no part of the text or of equality.
    source : where it was read, for messages.

    The arrays are plain and writeable, because numba and torch treat read-only ones apart; never write into
    them.

    Raises
    ------
    InputError : a rate names a species or something unknown, evaluates to a negative or non-finite number, a
        reaction changes nothing, a limit lies below the start; an event or readout that means nothing
        (hpcme/model/event.py, readout.py).
    """

    def __init__(
        self,
        *,
        name: str,
        law: str,
        species: Sequence[str],
        parameter_exprs: Mapping[str, Expr],
        reactions: Sequence[Reaction],
        limits: Sequence[int | None],
        initial_spec: Mapping,
        description: str = "",
        time_unit: str = "1",
        source: str = "model",
        events: Sequence[Event] = (),
        readouts: Mapping[str, Expr] = MappingProxyType({}),
        notes: Sequence[str] = (),
    ) -> None:
        self.name, self.law, self.source = name, law, source
        self.description, self.time_unit = description, time_unit
        self.species = tuple(species)
        self.parameter_exprs = MappingProxyType(dict(parameter_exprs))
        self.parameters = MappingProxyType(evaluate_parameters(self.parameter_exprs, self.species, source))
        self.reactions = tuple(reactions)
        self.auto_limits = tuple(limit is None for limit in limits)
        self.bounds = _integers([LARGEST_LIMIT if limit is None else limit for limit in limits])
        self.initial_spec = MappingProxyType(dict(initial_spec))
        self.initial = self._initial_law()
        self.s = self._state_changes()
        self.tables = self._tables()
        self.time_dependent = bool(self.tables.uses_t.any())
        self.written_events = event_rules.checked_events(events, self, limits)
        self.events = event_rules.in_order(self.written_events)
        self.readouts = MappingProxyType(dict(readouts))
        check_readouts(self.readouts, self)
        self.notes = tuple(notes)
        self._switches: tuple[float, np.ndarray] = (0.0, np.zeros(0))

    @property
    def S(self) -> int:
        """Number of species."""
        return len(self.species)

    @property
    def R(self) -> int:
        """Number of reactions."""
        return len(self.reactions)

    @property
    def limits(self) -> np.ndarray:
        if any(self.auto_limits):
            names = ", ".join(itertools.compress(self.species, self.auto_limits))
            raise InputError(
                f'{self.source}: max of {names} is "{AUTO}", and this needs numbers. Fix: give a job of this model an '
                "end time (hpcme.load_job finds them), call hpcme.exact.limits.resolve_limits, or give max = largest "
                "count"
            )
        return self.bounds

    @functools.cached_property
    def laws(self) -> ConservationLaws:
        """Conservation laws and inequalities that every trajectory from the starting law obeys, events included."""
        return find_laws(self.s, self.initial, self.bounds, self._set_by_events())

    def switch_times(self, end: float) -> np.ndarray:
        """Times in (0, end) at which a rate may jump or have a kink in t, float64 [K]; see model/switching.py.

        Those of the last `end` are kept. InputError when `end` is negative or not finite.
        """
        if self._switches[0] != end:
            self._switches = (end, switch_times(self, end))
        return self._switches[1]

    def event_times(self, end: float) -> np.ndarray:
        """Distinct times of events in (0, end], float64 [K], increasing."""
        return event_rules.event_times(self.events, end)

    def remap(self, n: np.ndarray, events: Event | Sequence[Event]) -> np.ndarray:
        """Where one event, or several in turn, lead from states n (integers [B, S]): int64 [B, S]; limits are not
        applied. InputError where a new value is no count; see model/event.py."""
        return event_rules.remap(self, n, events)

    def readout_values(self, n: np.ndarray) -> np.ndarray:
        """Values of the readouts in the states n (integers [B, S]), float64 [B, K]."""
        return readout_values(self, n)

    @functools.cached_property
    def text(self) -> str:
        """Canonical TOML text; reading it gives an equal network."""
        return canonical_text(self)

    @functools.cached_property
    def hash(self) -> str:
        """sha256 (hex) of the canonical text without the description: everything that can change a result."""
        return hashlib.sha256(canonical_text(self, description=False).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.hash == other.hash if isinstance(other, ReactionNetwork) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"ReactionNetwork({self.name!r}, S={self.S}, R={self.R}, law={self.law!r})"

    def __reduce__(self):
        return _rebuild, (self._parts(),)

    def with_parameters(self, values: Mapping[str, object]) -> ReactionNetwork:
        """The same network with other parameter values (numbers, or expressions of earlier parameters).

        Parameters written as expressions of an overridden one follow it.
        """
        exprs = dict(self.parameter_exprs)
        for name, value in values.items():
            if name not in exprs:
                known = f"its parameters are {', '.join(exprs)}" if exprs else "it has no parameters"
                raise InputError(
                    f'{self.source}: override "{name} = {value}" names no parameter of this model; {known}.'
                    f"{did_you_mean(name, exprs)} Correct the name, or add it to [parameters] of the model"
                )
            exprs[name] = read_value(value, f"{self.source}: override of parameter {name}")
        return ReactionNetwork(**self._parts() | {"parameter_exprs": exprs})

    def with_limits(self, limits: Mapping[str, object]) -> ReactionNetwork:
        """The same network with other largest counts (or "auto") for some species."""
        new = dict(zip(self.species, self._written_limits(), strict=True))
        for name, value in limits.items():
            if name not in new:
                raise InputError(
                    f'{self.source}: limit "{name} = {value}" names no species; they are '
                    f"{', '.join(self.species)}.{did_you_mean(name, new)} Correct the name"
                )
            new[name] = read_limit(value, f"{self.source}: limit of species {name}")
        return ReactionNetwork(**self._parts() | {"limits": list(new.values())})

    def with_notes(self, notes: Sequence[str]) -> ReactionNetwork:
        """The same network with other notes."""
        return ReactionNetwork(**self._parts() | {"notes": notes})

    def _parts(self) -> dict:
        keys = ("name", "law", "species", "reactions", "description", "time_unit", "source", "notes")
        parts = {key: getattr(self, key) for key in keys}
        return parts | {
            "parameter_exprs": dict(self.parameter_exprs),
            "limits": self._written_limits(),
            "initial_spec": dict(self.initial_spec),
            "events": self.written_events,
            "readouts": dict(self.readouts),
        }

    def _set_by_events(self) -> list[int]:
        """Indices of the species that some event sets."""
        return sorted(self.species.index(name) for name in event_rules.species_set(self.events))

    def _written_limits(self) -> list[int | None]:
        """The limits as the model has them; None for automatic ones."""
        pairs = zip(self.bounds.tolist(), self.auto_limits, strict=True)
        return [None if auto else limit for limit, auto in pairs]

    def _initial_law(self) -> InitialLaw:
        """From {"species": [count or law, ...]} or {"states": [[...]], "probabilities": [...]}."""
        if "states" in self.initial_spec:
            return joint_table(
                self.initial_spec["states"], self.initial_spec["probabilities"], self.bounds, self.species,
                f"{self.source}: [initial]",
            )  # fmt: skip
        laws = []
        for i, (name, value) in enumerate(zip(self.species, self.initial_spec["species"], strict=True)):
            where = f"{self.source}: species {name}, initial"
            # Until an automatic limit has its number, the starting law is all that has to fit.
            limit = largest_count(value, LARGEST_LIMIT, where) if self.auto_limits[i] else int(self.bounds[i])
            laws.append(count_pmf(value, limit, where))
        return ProductLaw([pmf for pmf, _ in laws], [spec for _, spec in laws])

    def _where(self, k: int) -> str:
        return f'{self.source}: reaction {k + 1} ("{self.reactions[k].label}")'

    def _state_changes(self) -> np.ndarray:
        s = np.zeros((len(self.reactions), len(self.species)), dtype=np.int64)
        for k, reaction in enumerate(self.reactions):
            changes = reaction.change()
            if not changes:
                raise InputError(
                    f"{self._where(k)} has no effect: it makes as much of every species as it consumes; "
                    "remove it, or correct its equation"
                )
            for name, change in changes.items():
                s[k, self.species.index(name)] = change
        return s

    def _tables(self) -> PropensityTables:
        index = {name: i for i, name in enumerate(self.species)}
        coef = np.ones(self.R)
        uses_t = np.zeros(self.R, dtype=bool)
        op: list[int] = []
        arg: list[float] = []
        re_sp: list[int] = []
        re_m: list[int] = []
        code_ptr, re_ptr = [0], [0]
        for k, reaction in enumerate(self.reactions):
            expr = self._bound(k, reaction)
            uses_t[k] = expr.uses_time()
            if expr.is_constant:
                coef[k] = expr.value
            else:
                program_op, program_arg = compile_program(expr, index)
                op += program_op
                arg += program_arg
            if reaction.rate is not None:
                re_sp += [index[name] for name in reaction.reactants]
                re_m += list(reaction.reactants.values())
            code_ptr.append(len(op))
            re_ptr.append(len(re_sp))
        depths = [program_depth(np.array(op[begin:end])) for begin, end in itertools.pairwise(code_ptr)]
        return PropensityTables(
            coef=coef,
            code_ptr=_integers(code_ptr),
            op=_integers(op),
            arg=np.array(arg, dtype=np.float64),
            re_ptr=_integers(re_ptr),
            re_sp=_integers(re_sp),
            re_m=_integers(re_m),
            power=np.full(self.R, self.law == "power"),
            uses_t=uses_t,
            depth=max([1, *depths]),
        )

    def _bound(self, k: int, reaction: Reaction) -> Expr:
        """Rate or propensity with numbers for its parameters, checked."""
        key, expr = reaction.key, reaction.kinetics
        where = f'{self._where(k)}, {key} = "{expr.to_text()}"'
        for name in sorted(expr.names()):
            if name in self.species:
                if key == "rate":
                    raise InputError(
                        f"{where}: a rate is multiplied by the reactants and cannot depend on species "
                        f'"{name}"; give the whole propensity instead: propensity = "..."'
                    )
            elif name not in self.parameters:
                allowed = [*self.parameters, *(self.species if key == "propensity" else ()), TIME_NAME]
                kinds = "parameter or species" if key == "propensity" else "parameter"
                raise InputError(
                    f'{where}: "{name}" is not a {kinds}; known names are {", ".join(allowed)}.'
                    f"{did_you_mean(name, allowed)} Define it in [parameters] or correct it"
                )
        expr = expr.bind(self.parameters).fold()
        if expr.is_constant and not (math.isfinite(expr.value) and expr.value >= 0):
            raise InputError(
                f"{where} is {expr.value:g} with these parameters; it must be finite and not negative. "
                "Correct the expression or a parameter"
            )
        return expr


def evaluate_parameters(exprs: Mapping[str, Expr], species: Sequence[str], source: str) -> dict[str, float]:
    """Values of the parameters, in order; each may use those before it."""
    values: dict[str, float] = {}
    for name, expr in exprs.items():
        where = f"{source}: parameter {name} = {expr.to_text()}"
        if expr.uses_time():
            raise InputError(
                f'{where}: parameters are constants and cannot use the time "t"; put t in a rate'
            )
        for used in sorted(expr.names()):
            if used in values:
                continue
            if used == name:
                raise InputError(f"{where}: it uses itself; give it a number")
            if used in exprs:
                raise InputError(f'{where}: "{used}" is defined further down; move {used} above {name}')
            if used in species:
                raise InputError(
                    f'{where}: "{used}" is a species; parameters are constants, use a propensity instead'
                )
            raise InputError(
                f'{where}: "{used}" is not a parameter above; these are {", ".join(values) or "none"}.'
                f"{did_you_mean(used, values)} Correct the name or define it first"
            )
        value = float(expr.evaluate(values))
        if not math.isfinite(value):
            raise InputError(
                f"{where} gives {value}; a parameter must be a finite number. Correct the expression"
            )
        values[name] = value
    return values


def read_limit(value: object, where: str) -> int | None:
    """A largest count: a whole number from 1 to a million; None for an automatic one ("auto", or not given)."""
    if value is None or (isinstance(value, str) and value == AUTO):
        return None
    if not is_whole(value):
        raise InputError(
            f'{where}: max = {value!r} must be a whole number, the largest count (80 states are max = 79), or "{AUTO}"'
        )
    if not 1 <= int(value) <= LARGEST_LIMIT:  # type: ignore[call-overload]
        raise InputError(
            f"{where}: max = {value} must be from 1 to {LARGEST_LIMIT}; for larger counts use a larger unit "
            "(such as hundreds of molecules) and scale the rates"
        )
    return int(value)  # type: ignore[call-overload]


def _rebuild(parts: dict) -> ReactionNetwork:
    return ReactionNetwork(**parts)


def _integers(values: Sequence[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)
