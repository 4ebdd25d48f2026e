"""TOML text of networks and jobs. That of a network is canonical: the same for equal networks, whatever way they were
written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpcme.model.initial import ProductLaw, TableLaw
from hpcme.model.startlaw import law_text
from hpcme.model.tree import Expr, number_text

if TYPE_CHECKING:
    from hpcme.model.network import ReactionNetwork

#: Namespace of what hpcme keeps of a network in the annotation of an SBML file.
ANNOTATION = "urn:hpcme:network:1"


def canonical_text(net: ReactionNetwork, description: bool = True) -> str:
    """TOML text that `load_model_text` reads back to an equal network; `description=False` leaves that line
    out."""
    lines = ["[model]", f"name = {quoted(net.name)}", f"law = {quoted(net.law)}"]
    if description and net.description:
        lines.append(f"description = {quoted(net.description)}")
    lines += [f"time_unit = {quoted(net.time_unit)}", ""]
    if net.parameter_exprs:
        lines.append("[parameters]")
        lines += [f"{name} = {_value(expr)}" for name, expr in net.parameter_exprs.items()]
        lines.append("")
    lines.append("[species]")
    law = net.initial
    for i, name in enumerate(net.species):
        start = f"initial = {law_text(law.specs[i])}, " if isinstance(law, ProductLaw) else ""
        largest = quoted("auto") if net.auto_limits[i] else net.bounds[i]
        lines.append(f"{name} = {{ {start}max = {largest} }}")
    if isinstance(law, TableLaw):
        rows = ", ".join(str(row) for row in law.states.tolist())
        lines += ["", "[initial]", f"states = [{rows}]"]
        lines.append(f"probabilities = [{', '.join(number_text(x) for x in law.weights)}]")
    for reaction in net.reactions:
        lines += ["", "[[reactions]]", f"equation = {quoted(reaction.equation)}"]
        if reaction.rate is not None:
            lines.append(f"rate = {_value(reaction.rate)}")
        if reaction.propensity is not None:
            lines.append(f"propensity = {_value(reaction.propensity)}")
        if reaction.name:
            lines.append(f"name = {quoted(reaction.name)}")
    for event in net.written_events:
        sets = ", ".join(f"{name} = {_value(expr)}" for name, expr in event.assignments.items())
        lines += ["", "[[events]]", f"at = {_value(event.when)}", f"set = {{ {sets} }}"]
        if event.name:
            lines.append(f"name = {quoted(event.name)}")
    if net.readouts:
        lines += ["", "[readouts]", *(f"{name} = {_value(expr)}" for name, expr in net.readouts.items())]
    return "\n".join(lines) + "\n"


def written_limits(net: ReactionNetwork) -> dict[str, object]:
    """`max` of every species as the text of the network has it."""
    return {name: table["max"] for name, table in tomllib.loads(net.text)["species"].items()}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"table.key": value} as tables; keys without a table stay at the top, before the tables."""
    top: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        table, dot, inner = key.partition(".")
        if dot:
            tables.setdefault(table, {})[inner] = value
        else:
            top[table] = value
    return top | tables


def job_text(values: Mapping[str, Any]) -> str:
    """A job file with these keys, {"table.key": value}. None, which TOML lacks, is left out: it is the default."""
    lines = []
    for name, content in nested({key: value for key, value in values.items() if value is not None}).items():
        if isinstance(content, dict):
            lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in content.items())]
        else:
            lines.append(f"{name} = {_toml(content)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def quoted(text: str) -> str:
    """A TOML basic string (its escapes are those of JSON, with DEL escaped too)."""
    return json.dumps(text).replace("\x7f", "\\u007f")


def _value(expr: Expr) -> str:
    if expr.is_constant and not expr.name:
        return number_text(expr.value)
    return quoted(expr.to_text())
