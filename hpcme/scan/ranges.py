"""The values of one key of a scan: lists, linear and logarithmic ranges, and Sobol points in such ranges.

All values are rounded to 12 significant digits. They are then the same on every machine, and can be found by the
numbers that a person would write: the third of {log = [1e-4, 1e-1], number = 4} is 0.01 and not 0.010000000000000002.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hpcme.errors import InputError, did_you_mean

MOST = 100_000  # values of one key, and tasks of one scan
SPACINGS = ("linear", "log")
_BITS = 30  # of a Sobol point

Spread = Callable[[float], float]  # from [0, 1] to the range


def read_values(key: str, given: Any, where: str) -> list[Any]:
    """The values of a list [v, ...] or of a range {linear|log = [low, high], number = N}, in their order.

    Raises InputError naming the key, what was seen and what would be right.
    """
    if isinstance(given, list):
        values = given
        if not values:
            raise InputError(f"{where}: scan.{key} = []: a list needs at least one value. Example: {key} = [0.1, 0.2]")
    elif isinstance(given, Mapping):
        spread = read_range(key, given, where, extra=("number",))
        number = whole_number(f"scan.{key}.number", given.get("number"), 2, MOST, where)
        values = [spread(i / (number - 1)) for i in range(number)]
        values = _whole_where_meant(given, values)
    else:
        raise InputError(
            f"{where}: scan.{key} = {given!r}: allowed is a list of values, or a range like "
            "{log = [1e-4, 1e-1], number = 7} or {linear = [0, 1], number = 5}."
        )
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{where}: scan.{key} has the value {value!r}: numbers must be finite.")
    kinds = {_kind(value) for value in values}
    if len(kinds) > 1:
        raise InputError(
            f"{where}: scan.{key} mixes {' and '.join(sorted(kinds))}: all values of a key must be of one kind."
        )
    return values


def read_range(key: str, given: Any, where: str, extra: tuple[str, ...] = ()) -> Spread:
    """{linear = [low, high]} or {log = [low, high]} as a function from [0, 1] to the range. Raises InputError."""
    example = f"{key} = {{log = [1e-4, 1e-1]{', number = 7' if extra else ''}}}"
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: scan.{key} = {given!r} is no range. Example: {example}")
    for word in given:
        if word not in SPACINGS + extra:
            raise InputError(
                f'{where}: scan.{key} has the unknown word "{word}".{did_you_mean(word, SPACINGS + extra)} '
                f"Allowed: {', '.join(SPACINGS + extra)}. Example: {example}"
            )
    spacing = [word for word in SPACINGS if word in given]
    if len(spacing) != 1:
        raise InputError(f"{where}: scan.{key} needs one of linear and log, and not both. Example: {example}")
    ends = given[spacing[0]]
    if not (isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends)) and ends[0] != ends[1]):
        raise InputError(
            f"{where}: scan.{key}.{spacing[0]} = {ends!r} must be two different numbers, the ends. Example: {example}"
        )
    low, high = map(float, ends)
    if spacing[0] == "linear":
        return lambda u: rounded(low + (high - low) * u)
    if low <= 0 or high <= 0:
        raise InputError(f"{where}: scan.{key}.log = {ends!r}: both ends of a logarithmic range must be above 0.")
    return lambda u: rounded(low * (high / low) ** u)


def whole_number(key: str, given: Any, low: int, high: int, where: str) -> int:
    """A whole number from low to high. Raises InputError naming the key."""
    if not isinstance(given, int) or isinstance(given, bool) or not low <= given <= high:
        seen = "is missing" if given is None else f"= {given!r}"
        raise InputError(f"{where}: {key} {seen}: it must be a whole number from {low} to {high}.")
    return given


def sobol_points(number: int, dimensions: int, seed: int) -> np.ndarray:
    """The first points of a Sobol sequence with a digital shift, float64 [number, dimensions] in (0, 1).

    A digital shift (all points XOR one random point, L'Ecuyer and Lemieux 2002) keeps the even spread of the sequence
    and moves its first point away from the corner. The shift is made from the raw output of PCG64, which numpy keeps
    the same for ever, so that a seed means the same design everywhere.
    """
    from scipy.stats.qmc import Sobol

    power = max(0, math.ceil(math.log2(number)))  # scipy warns of numbers that are no powers of 2
    points = Sobol(dimensions, scramble=False, bits=_BITS).random_base2(power)[:number]
    shift = np.random.PCG64(seed).random_raw(dimensions) >> np.uint64(64 - _BITS)
    bits = (points * 2.0**_BITS).astype(np.uint64) ^ shift
    return (bits.astype(np.float64) + 0.5) / 2.0**_BITS


def rounded(x: float) -> float:
    """x to 12 significant digits."""
    return float(f"{x:.12g}")


def shown(value: Any) -> str:
    """A value of a scan for people and for files: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _whole_where_meant(given: Mapping[str, Any], values: list[float]) -> list[float] | list[int]:
    """Integers where a linear range has integer ends and steps: keys such as run.seed take no other numbers."""
    ends = given.get("linear", [0.5])
    whole = all(isinstance(end, int) for end in ends) and all(value == int(value) for value in values)
    return [int(value) for value in values] if whole else values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "switches"
    if isinstance(value, int | float):
        return "numbers"
    return {str: "texts", list: "lists", dict: "tables"}.get(type(value), type(value).__name__)
