"""The [scan] table of a job file: which keys take which values, and in which order the tasks are numbered.

    [scan]
    b = [1e-4, 1e-3, 1e-2]                        # a list; a name without a dot is a parameter of the model
    k = { log = [0.1, 10.0], number = 5 }         # 5 values, evenly spaced on a logarithmic scale
    run.seed = { linear = [0, 3], number = 4 }    # 0, 1, 2, 3
    [[scan.linked]]                               # lists of one length whose values go together
    on = [1.0, 2.0]
    off = [0.5, 0.25]
    [scan.sobol]                                  # points that fill a box evenly
    number = 64
    seed = 1
    make = { linear = [1.0, 5.0] }
    decay = { log = [0.1, 10.0] }

Every key, every linked group and the Sobol design is one axis; the tasks are all combinations of the axes, numbered
from 1, the last axis running fastest. The order of the axes is that of the file: keys, then linked groups, then sobol.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpcme.errors import InputError, did_you_mean
from hpcme.model.keys import KEYS
from hpcme.model.network import ReactionNetwork
from hpcme.scan.ranges import MOST, read_range, read_values, shown, sobol_points, whole_number

_RESERVED = ("linked", "sobol")
#: Keys that all tasks share, with the reason.
_SHARED = {
    "time.end": "all tasks of a scan share their report times",
    "time.report": "all tasks of a scan share their report times",
    "output.dir": "every task has its own folder already",
    "model": "all tasks of a scan share their model",
}
_EXAMPLE = "Example: [scan] and below it b = [1e-4, 1e-3]"


@dataclass(frozen=True)
class Axis:
    """One axis of a scan: its name, the keys that it sets, and their values.

    name: of the dimension in merged results; keys: dotted keys of the job; labels: what they are called there;
    values: one row per position on the axis, one value per key. A design has no value of its own along its axis: its
    positions are numbered.
    """

    name: str
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]

    def __len__(self) -> int:
        return len(self.values)


def read_design(table: Any, net: ReactionNetwork, where: str) -> list[Axis]:
    """The axes of a [scan] table. Raises InputError naming the key, what was seen, and what would be right.

    Whether a value suits its key is not looked at here: that is a matter of the task that gets it.
    """
    if not isinstance(table, Mapping):
        raise InputError(f"{where}: scan = {table!r} must be a table. {_EXAMPLE}")
    axes = []
    for name, given in _flat(table):
        key = _key(name, net, where)
        rows = tuple((value,) for value in read_values(name, given, where))
        axes.append(Axis(_label(key), (key,), (_label(key),), rows))
    axes += _linked(table.get("linked", []), net, where)
    if "sobol" in table:
        axes.append(_sobol(table["sobol"], net, where))
    if not axes:
        raise InputError(f"{where}: [scan] names no key. {_EXAMPLE}")
    _refuse_repeats(axes, where)
    return axes


def combinations(axes: list[Axis]) -> list[dict[str, Any]]:
    """What each task sets, {dotted key: value}, in the order of the tasks."""
    settings = [[dict(zip(axis.keys, row, strict=True)) for row in axis.values] for axis in axes]
    return [{key: value for part in parts for key, value in part.items()} for parts in itertools.product(*settings)]


def _flat(table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys with what was given for them; run.seed may be written with a dot, in quotes, or in a table of its own."""
    found = []
    for name, given in table.items():
        if name in _RESERVED:
            continue
        tables = {key.split(".")[0] for key in KEYS} | {"parameters"}
        if isinstance(given, Mapping) and name in tables:
            found += [(f"{name}.{inner}", value) for inner, value in given.items()]
        else:
            found.append((name, given))
    return found


def _key(name: str, net: ReactionNetwork, where: str) -> str:
    """The dotted key of the job that a name of the [scan] table stands for."""
    if name in _SHARED:
        raise InputError(f"{where}: scan.{name}: {_SHARED[name]}. Fix: set it once, outside [scan].")
    if name in KEYS:
        if KEYS[name].resume:
            raise InputError(f"{where}: scan.{name}: this key changes no result. Fix: set it once, outside [scan].")
        return name
    parameter = name.removeprefix("parameters.")
    if parameter in net.parameters:
        return f"parameters.{parameter}"
    known = [*net.parameters, *(key for key in KEYS if key not in _SHARED and not KEYS[key].resume)]
    raise InputError(
        f'{where}: scan.{name}: there is no parameter and no key of this name.{did_you_mean(parameter, known)} '
        f"Parameters of the model: {', '.join(net.parameters) or 'none'}. Other keys stand in full, like run.seed."
    )


def _label(key: str) -> str:
    """How a key is called in merged results: a parameter by its name, other keys with _ for the dot."""
    return key.removeprefix("parameters.") if key.startswith("parameters.") else key.replace(".", "_")


def _linked(groups: Any, net: ReactionNetwork, where: str) -> list[Axis]:
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) and group for group in groups):
        raise InputError(f"{where}: scan.linked must be written as [[scan.linked]] with two or more lists below it.")
    axes = []
    for group in groups:
        columns = {name: read_values(name, given, where) for name, given in _flat(group)}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(columns) < 2:
            raise InputError(f"{where}: [[scan.linked]] links {', '.join(columns)} with nothing: name two keys.")
        if len(set(lengths.values())) > 1:
            seen = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise InputError(f"{where}: [[scan.linked]]: linked lists must have one length, but {seen} values.")
        keys = tuple(_key(name, net, where) for name in columns)
        labels = tuple(map(_label, keys))
        axes.append(Axis(labels[0], keys, labels, tuple(zip(*columns.values(), strict=True))))
    return axes


def _sobol(table: Any, net: ReactionNetwork, where: str) -> Axis:
    if not isinstance(table, Mapping):
        raise InputError(f"{where}: scan.sobol = {table!r} must be a table with number and ranges. See the README.")
    number = whole_number("scan.sobol.number", table.get("number"), 1, MOST, where)
    seed = whole_number("scan.sobol.seed", table.get("seed", 0), 0, 2**63 - 1, where)
    given = _flat({name: value for name, value in table.items() if name not in ("number", "seed")})
    if not given:
        raise InputError(f"{where}: [scan.sobol] names no range. Example: b = {{log = [1e-4, 1e-1]}}")
    spreads = [read_range(name, value, where) for name, value in given]
    keys = tuple(_key(name, net, where) for name, _ in given)
    points = sobol_points(number, len(keys), seed)
    values = [tuple(spread(float(u)) for spread, u in zip(spreads, row, strict=True)) for row in points]
    return Axis("sobol", keys, tuple(map(_label, keys)), tuple(values))


def _refuse_repeats(axes: list[Axis], where: str) -> None:
    """No key on two axes, no combination twice on one, not too many tasks. Raises InputError."""
    seen: set[str] = set()
    for axis in axes:
        for key in axis.keys:
            if key in seen:
                raise InputError(f"{where}: [scan] names {key} twice. Fix: keep one of them.")
            seen.add(key)
        rows: set[tuple[str, ...]] = set()
        for row in axis.values:
            known = tuple(shown(value if isinstance(value, bool | str | list) else float(value)) for value in row)
            if known in rows:
                text = ", ".join(f"{key} = {shown(value)}" for key, value in zip(axis.keys, row, strict=True))
                raise InputError(f"{where}: [scan] has {text} twice. Fix: keep each value once.")
            rows.add(known)
    names = [label for axis in axes for label in axis.labels]
    if len(set(names)) < len(names):
        raise InputError(f"{where}: [scan] has keys whose names in merged results are the same: {', '.join(names)}.")
    number = math.prod(map(len, axes))
    if number > MOST:
        sizes = " * ".join(f"{len(axis)} ({axis.name})" for axis in axes)
        raise InputError(f"{where}: [scan] makes {number} tasks, {sizes}; at most {MOST}.")
