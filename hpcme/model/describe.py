"""A network in words: what `hpcme check` prints about a model, as text or as plain data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hpcme.model.initial import ProductLaw
from hpcme.model.network import AUTO, ReactionNetwork
from hpcme.model.reaction import LAW_TEXT, Reaction
from hpcme.model.startlaw import law_text
from hpcme.model.tree import number_text

MOST_TABLE_ROWS = 6


def describe_dict(net: ReactionNetwork, found: Mapping[str, tuple[int, str]] | None = None) -> dict:
    """Everything that `describe` says, as plain lists, dicts, numbers and text that json can write.

    found: the numbers of automatic limits and how they were found, by species.
    """
    found = found or {}
    laws = net.laws
    implied = laws.implied_limits(net.bounds)
    used = _used_parameters(net)
    return {
        "name": net.name,
        "description": net.description,
        "hash": net.hash,
        "law": net.law,
        "law_meaning": LAW_TEXT[net.law],
        "time_unit": net.time_unit,
        "time_dependent": net.time_dependent,
        "parameters": [
            {
                "name": name,
                "value": value,
                "expression": net.parameter_exprs[name].to_text(),
                "used": name in used,
            }
            for name, value in net.parameters.items()
        ],
        "species": [
            {
                "name": name,
                "initial": start,
                "mean": float(mean),
                "max": found.get(name, (AUTO,))[0] if auto else int(limit),
                "max_found": found[name][1] if name in found else None,
                "implied_max": int(tight) if tight < limit or not auto else None,
            }
            for name, start, mean, limit, auto, tight in zip(
                net.species, _starts(net), net.initial.mean(), net.bounds, net.auto_limits, implied, strict=True
            )
        ],
        "initial": _initial_text(net),
        "reactions": [_reaction_dict(net, k, reaction) for k, reaction in enumerate(net.reactions)],
        "events": [
            {
                "time": event.time,
                "name": event.name,
                "set": {name: expr.to_text() for name, expr in event.assignments.items()},
                "text": event.text(),
            }
            for event in net.events
        ],
        "readouts": {name: expr.to_text() for name, expr in net.readouts.items()},
        "notes": list(net.notes),
        "equalities": _law_dicts(laws.equalities, laws.values, net, "value"),
        "inequalities": _law_dicts(laws.inequalities, laws.bounds, net, "bound"),
        "laws": laws.describe(net.species),
    }


def describe(net: ReactionNetwork, found: Mapping[str, tuple[int, str]] | None = None) -> str:
    """The network in full: parameters, reactions with their propensities, limits, start, conservation
    laws. found: as in `describe_dict`."""
    data = describe_dict(net, found)
    lines = [f"model {data['name']}   ({net.S} species, {net.R} reactions)   hash {data['hash'][:12]}"]
    if data["description"]:
        lines.append(f"  {data['description']}")
    lines.append(f"law: {data['law']}: {data['law_meaning']}")
    unit = "none (dimensionless)" if net.time_unit == "1" else net.time_unit
    lines.append(f"time unit: {unit}" + ("; propensities depend on the time t" if net.time_dependent else ""))
    lines += ["", "parameters", *_aligned([_parameter_cells(entry) for entry in data["parameters"]])]
    lines += ["", "reactions (propensity with names, with numbers, and what changes)"]
    for entry in data["reactions"]:
        name = f"   [{entry['name']}]" if entry["name"] else ""
        lines.append(f"  {entry['number']:>3}  {entry['equation']}{name}")
        lines.append(f"       a = {entry['propensity']}")
        if entry["propensity_numbers"] != entry["propensity"]:
            lines.append(f"         = {entry['propensity_numbers']}")
        lines += [f"       {note}" for note in entry["notes"]]
        changes = ", ".join(f"{name} {change:+d}" for name, change in entry["change"].items())
        lines.append(f"       change {changes}")
    lines += [
        "",
        "species (counts run 0..max)",
        *_aligned([_species_cells(entry) for entry in data["species"]]),
    ]
    lines += ["", "start", f"  {data['initial']}"]
    if data["events"]:
        lines += ["", "events (those of one time one after the other)"]
        for entry in data["events"]:
            lines.append(f"  {entry['text']}" + (f"   [{entry['name']}]" if entry["name"] else ""))
    if data["readouts"]:
        cells = [[name, "=", text] for name, text in data["readouts"].items()]
        lines += ["", "readouts", *_aligned(cells)]
    if data["notes"]:
        lines += ["", "notes on how this was read", *(f"  {note}" for note in data["notes"])]
    lines += ["", "conservation laws, obeyed by every state"]
    lines += [f"  {law}" for law in data["laws"]] or ["  none"]
    return "\n".join(lines) + "\n"


def _reaction_dict(net: ReactionNetwork, k: int, reaction: Reaction) -> dict:
    return {
        "number": k + 1,
        "name": reaction.name,
        "equation": reaction.equation,
        "kind": "mass action" if reaction.key == "rate" else "propensity",
        "propensity": reaction.propensity_text(net.law),
        "propensity_numbers": reaction.propensity_text(net.law, net.parameters),
        "notes": reaction.notes(net.law),
        "time_dependent": bool(net.tables.uses_t[k]),
        "change": reaction.change(),
    }


def _law_dicts(rows: np.ndarray, values: np.ndarray, net: ReactionNetwork, key: str) -> list[dict]:
    return [
        {"coefficients": {name: c for name, c in zip(net.species, row, strict=True) if c}, key: value}
        for row, value in zip(rows.tolist(), values.tolist(), strict=True)
    ]


def _used_parameters(net: ReactionNetwork) -> set[str]:
    used: set[str] = set()
    for reaction in net.reactions:
        used |= reaction.kinetics.names()
    for event in net.events:
        used |= event.when.names().union(*(expr.names() for expr in event.assignments.values()))
    for expr in net.readouts.values():
        used |= expr.names()
    for name in reversed(net.parameter_exprs):  # a used parameter uses those further up that it is made of
        if name in used:
            used |= net.parameter_exprs[name].names()
    return used


def _starts(net: ReactionNetwork) -> list[str]:
    if not isinstance(net.initial, ProductLaw):
        return ["joint table"] * net.S
    return [law_text(spec).replace("{ ", "").replace(" }", "") for spec in net.initial.specs]


def _initial_text(net: ReactionNetwork) -> str:
    if net.initial.is_point:
        states, _ = net.initial.support()
        return "one state: " + ", ".join(f"{n} = {c}" for n, c in zip(net.species, states[0], strict=True))
    if isinstance(net.initial, ProductLaw):
        return "independent species: " + ", ".join(
            f"{name} {'=' if start.isdigit() else '~'} {start}"
            for name, start in zip(net.species, _starts(net), strict=True)
        )
    states, p = net.initial.support()
    rows = [
        f"({', '.join(map(str, row))}) with {number_text(x)}"
        for row, x in zip(states.tolist(), p, strict=True)
    ]
    more = f"; and {len(rows) - MOST_TABLE_ROWS} more states" if len(rows) > MOST_TABLE_ROWS else ""
    return f"joint table of ({', '.join(net.species)}): " + "; ".join(rows[:MOST_TABLE_ROWS]) + more


def _parameter_cells(entry: dict) -> list[str]:
    value = number_text(entry["value"])
    formula = f"= {entry['expression']}" if entry["expression"] != value else ""
    return [entry["name"], "=", value, formula, "" if entry["used"] else "(nothing uses it)"]


def _species_cells(entry: dict) -> list[str]:
    tight, most = entry["implied_max"], entry["max"]
    note = f"(laws imply {tight})" if tight is not None and (most == AUTO or tight < most) else ""
    counts = "automatic" if most == AUTO else f"0..{most}"
    return [entry["name"], counts, f"starts at {entry['initial']}", entry["max_found"] or note]


def _aligned(rows: list[list[str]]) -> list[str]:
    if not rows:
        return ["  none"]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
