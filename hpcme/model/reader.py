"""Reading model files: TOML, and SBML and Antimony by their endings (sbml.py, antimony.py)."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from hpcme.errors import InputError, did_you_mean
from hpcme.model.builder import ModelBuilder
from hpcme.model.files import read_text
from hpcme.model.network import ReactionNetwork

_TABLES = ("model", "parameters", "species", "initial", "reactions", "events", "readouts")
_JOB_KEYS = frozenset({"time", "network", "solver", "sampling", "run", "output", "scan"})
_MODEL_KEYS = ("name", "law", "description", "time_unit")
_SPECIES_KEYS = ("initial", "max")
_INITIAL_KEYS = ("states", "probabilities")
_EVENT_KEYS = ("at", "set", "name")
_REACTION_KEYS = ("equation", "rate", "propensity", "reverse_rate", "name")


def load_model(path: str | os.PathLike, *, limits: Mapping[str, object] | None = None) -> ReactionNetwork:
    """Read a model file: TOML, SBML (.xml, .sbml) or Antimony (.ant).

    limits: largest counts by species, for formats that do not hold them; in place of those of the file.

    Raises
    ------
    InputError : the file cannot be read, is not what its ending says, or does not describe a network; the message names
        the file, the key and value seen, what is allowed, and the fix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".xml", ".sbml"):
        from hpcme.model.sbml import read_sbml

        return read_sbml(path, limits)
    if suffix == ".ant":
        from hpcme.model.antimony import read_antimony

        return read_antimony(path, limits)
    network = load_model_text(read_text(path, "a .toml file"), str(path), default_name=path.stem)
    return network.with_limits(limits) if limits else network


def load_model_text(text: str, where: str = "model text", default_name: str = "model") -> ReactionNetwork:
    """Read the text of a model file; `where` names it in messages."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so are endless integers
        raise InputError(
            f"{where}: not valid TOML: {error}; correct that place (text needs quotes, and a key may stand "
            "only once)"
        ) from None
    _check_tables(data, where)
    head = _table(data, "model", where, required=False)
    _check_keys(head, _MODEL_KEYS, f"{where}: [model]")
    builder = ModelBuilder(
        head.get("name", default_name),
        head.get("law", "combinatorial"),
        description=head.get("description", ""),
        time_unit=head.get("time_unit", "1"),
        source=where,
    )
    for name, value in _table(data, "parameters", where, required=False).items():
        builder.parameter(name, value)
    _read_species(builder, _table(data, "species", where), where)
    if "initial" in data:
        _read_initial(builder, _table(data, "initial", where), where)
    _read_reactions(builder, data.get("reactions"), where)
    _read_events(builder, data.get("events", []), where)
    for name, value in _table(data, "readouts", where, required=False).items():
        builder.readout(name, value)
    return builder.build()


def _check_tables(data: Mapping, where: str) -> None:
    for key in data:
        if key in _TABLES:
            continue
        if key in _JOB_KEYS:
            raise InputError(
                f"{where}: [{key}] belongs in a job file, not in a model file; a model file holds "
                f"{', '.join(_TABLES)}. Move it to the job, or give this file as a job"
            )
        raise InputError(
            f'{where}: unknown table or key "{key}"; allowed are '
            f"{', '.join(_TABLES)}.{did_you_mean(key, _TABLES)} Rename or remove it"
        )


def _table(data: Mapping, key: str, where: str, required: bool = True) -> Mapping:
    value = data.get(key)
    if value is None:
        if not required:
            return {}
        raise InputError(f"{where}: the table [{key}] is missing; add it")
    if not isinstance(value, Mapping):
        raise InputError(
            f"{where}: {key} = {_short(value)} must be a table; write [{key}] and its keys below"
        )
    return value


def _check_keys(table: Mapping, allowed: Iterable[str], where: str) -> None:
    allowed = tuple(allowed)
    for key, value in table.items():
        if key not in allowed:
            raise InputError(
                f'{where}: unknown key "{key}" (= {_short(value)}); allowed are {", ".join(allowed)}.'
                f"{did_you_mean(key, allowed)} Rename or remove it"
            )


def _read_species(builder: ModelBuilder, table: Mapping, where: str) -> None:
    for name, value in table.items():
        here = f"{where}: species {name}"
        if not isinstance(value, Mapping):
            raise InputError(
                f"{here} = {_short(value)} must be a table; write {name} = {{ initial = 0, max = 79 }}"
            )
        _check_keys(value, _SPECIES_KEYS, here)
        builder.species(name, initial=value.get("initial"), max=value.get("max"))


def _read_initial(builder: ModelBuilder, table: Mapping, where: str) -> None:
    here = f"{where}: [initial]"
    _check_keys(table, _INITIAL_KEYS, here)
    for key in _INITIAL_KEYS:
        if key not in table:
            raise InputError(f"{here} has no {key}; give states = [[...], ...] and probabilities = [...]")
    builder.initial(table["states"], table["probabilities"])


def _read_reactions(builder: ModelBuilder, value: object, where: str) -> None:
    if value is None:
        return  # the builder says what is missing
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise InputError(
            f"{where}: reactions must be tables [[reactions]] with double brackets, one per reaction"
        )
    for number, entry in enumerate(value, 1):
        here = f"{where}: reaction {number}"
        _check_keys(entry, _REACTION_KEYS, here)
        if "equation" not in entry:
            raise InputError(f'{here} has no equation; add for example equation = "2 A + B -> C"')
        builder.reaction(
            entry["equation"],
            rate=entry.get("rate"),
            propensity=entry.get("propensity"),
            reverse_rate=entry.get("reverse_rate"),
            name=entry.get("name", ""),
        )


def _read_events(builder: ModelBuilder, value: object, where: str) -> None:
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise InputError(f"{where}: events must be tables [[events]] with double brackets, one per event")
    for number, entry in enumerate(value, 1):
        here = f"{where}: event {number}"
        _check_keys(entry, _EVENT_KEYS, here)
        for key, example in (("at", "at = 25"), ("set", "set = { X = 50 }")):
            if key not in entry:
                raise InputError(f"{here} has no {key}; add for example {example}")
        builder.event(entry["at"], entry["set"], entry.get("name", ""))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
