"""One-species starting laws as model files have them: a count, or a table such as { poisson = 1.0 }."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeGuard

import numpy as np

from hpcme.errors import InputError, did_you_mean
from hpcme.model.initial import TableLaw
from hpcme.model.tree import number_text

#: How far a table of probabilities may be from summing to 1, and how much of a law a limit may cut.
SUM_TOLERANCE = 1e-6
LARGEST_CUT = 1e-6

_ALLOWED = (
    "a count such as 5, { poisson = mean }, { binomial = { n = trials, p = probability } }, "
    "{ uniform = [lowest, highest] } or { table = [p0, p1, ...] }"
)


def is_whole(value: object) -> TypeGuard[int]:
    """True for a whole number that is not a truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_real(value: object) -> TypeGuard[float]:
    """True for a finite number that is not a truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def count_pmf(value: object, limit: int, where: str) -> tuple[np.ndarray, int | dict]:
    """pmf over 0..limit (float64 [limit+1]) of a starting law, and the law in plain form, as the text has it.

    Raises
    ------
    InputError : not one of the allowed forms; a count outside 0..limit; a law of which the limit cuts more
        than 1e-6.
    """
    if is_whole(value):
        return _point(int(value), limit, where), int(value)
    if not isinstance(value, Mapping) or len(value) != 1:
        raise InputError(f"{where} = {value!r}: allowed are {_ALLOWED}")
    ((kind, argument),) = value.items()
    if kind not in _LAWS:
        raise InputError(
            f'{where} = {dict(value)!r}: "{kind}" is not a law; allowed are '
            f"{_ALLOWED}.{did_you_mean(kind, _LAWS)}"
        )
    pmf, plain = _LAWS[kind](argument, limit, f"{where} = {{ {kind} = {argument!r} }}")
    return pmf, {kind: plain}


def largest_count(value: object, most: int, where: str) -> int:
    """The largest count of a starting law, at least 1; of a Poisson law the one beyond which less than 1e-15 lies.

    InputError for a law that goes beyond `most`. What is not an allowed form gives 1: count_pmf says what is wrong.
    """
    kind, argument = next(iter(value.items())) if isinstance(value, Mapping) and len(value) == 1 else ("", value)
    try:
        if kind == "poisson":
            mean = float(argument)
            # Chernoff: P(X >= mean + y) <= exp(-y^2 / (2 mean + 2 y / 3)), here at most exp(-35).
            found = math.ceil(mean + 35 / 3 + math.sqrt((35 / 3) ** 2 + 70 * mean)) if mean > 0 else 0
        else:
            found = {"binomial": lambda law: law["n"], "uniform": lambda law: law[1],
                     "table": lambda law: len(law) - 1, "": lambda count: count}[kind](argument)  # fmt: skip
        found = int(found)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return 1
    if found > most:
        raise InputError(
            f"{where} = {dict(value) if isinstance(value, Mapping) else value!r}: this law goes up to a count of "
            f"{found}, beyond the largest limit {most}. Fix: use a larger unit (such as hundreds of molecules), and "
            "scale the rates"
        )
    return max(1, found) if found >= 0 else most


def _point(count: int, limit: int, where: str) -> np.ndarray:
    if count < 0:
        raise InputError(f"{where} = {count}: a count cannot be negative; give 0..{limit}")
    if count > limit:
        raise InputError(
            f"{where} = {count} is above max = {limit}; raise max to at least {count}, or start from a "
            "smaller count"
        )
    pmf = np.zeros(limit + 1)
    pmf[count] = 1.0
    return pmf


def _log_factorials(largest: int) -> np.ndarray:
    return np.array([math.lgamma(k + 1.0) for k in range(largest + 1)])


def _cut(pmf: np.ndarray, exact_needed, limit: int, where: str) -> np.ndarray:
    """Renormalise a law that the limit cuts, or refuse when it cuts too much."""
    lost = max(0.0, 1.0 - float(pmf.sum()))
    if lost > LARGEST_CUT:
        raise InputError(
            f"{where}: max = {limit} cuts {lost:.2g} of this law, more than {LARGEST_CUT:g}; raise max to "
            f"at least {exact_needed()}, or lower the law's mean"
        )
    return pmf / pmf.sum()


def _poisson(mean: object, limit: int, where: str) -> tuple[np.ndarray, float]:
    if not is_real(mean) or not 0 <= float(mean) <= 1e9:
        raise InputError(f"{where}: the mean must be a number from 0 to 1e9, such as {{ poisson = 1.0 }}")
    mean = float(mean)
    if mean == 0:
        return _point(0, limit, where), 0.0

    def law(largest: int) -> np.ndarray:
        k = np.arange(largest + 1)
        return np.exp(k * math.log(mean) - mean - _log_factorials(largest))

    def needed() -> int:
        wide = int(mean + 12 * math.sqrt(mean) + 30)
        if wide > 1_000_000:  # beyond any max that is allowed; a rough answer will do
            return wide
        return int(np.flatnonzero(1.0 - np.cumsum(law(wide)) <= LARGEST_CUT)[0])

    return _cut(law(limit), needed, limit, where), mean


def _binomial(argument: object, limit: int, where: str) -> tuple[np.ndarray, dict]:
    fix = "give { binomial = { n = trials, p = probability } } with a whole n >= 0 and 0 <= p <= 1"
    if not isinstance(argument, Mapping) or set(argument) != {"n", "p"}:
        raise InputError(f"{where}: {fix}")
    trials, p = argument["n"], argument["p"]
    if not is_whole(trials) or not 0 <= trials <= 1_000_000 or not is_real(p) or not 0 <= p <= 1:
        raise InputError(f"{where}: {fix} (n at most 1e6)")
    trials, p = int(trials), float(p)
    plain = {"n": trials, "p": p}
    if p in (0.0, 1.0):
        return _point(trials * int(p), limit, where), plain
    logf = _log_factorials(trials)
    k = np.arange(trials + 1)
    full = np.exp(logf[trials] - logf - logf[::-1] + k * math.log(p) + (trials - k) * math.log1p(-p))
    pmf = np.zeros(limit + 1)
    common = min(limit, trials) + 1
    pmf[:common] = full[:common]
    return _cut(
        pmf, lambda: int(np.flatnonzero(1.0 - np.cumsum(full) <= LARGEST_CUT)[0]), limit, where
    ), plain


def _uniform(argument: object, limit: int, where: str) -> tuple[np.ndarray, list[int]]:
    ends = list(argument) if isinstance(argument, Sequence) and not isinstance(argument, str) else []
    if len(ends) != 2 or not all(is_whole(end) for end in ends) or not 0 <= ends[0] <= ends[1]:
        raise InputError(
            f"{where}: give {{ uniform = [lowest, highest] }} with whole counts 0 <= lowest <= highest"
        )
    low, high = int(ends[0]), int(ends[1])
    if high > limit:
        raise InputError(
            f"{where}: the highest count {high} is above max = {limit}; raise max to at least {high}"
        )
    pmf = np.zeros(limit + 1)
    pmf[low : high + 1] = 1.0 / (high - low + 1)
    return pmf, [low, high]


def _table(argument: object, limit: int, where: str) -> tuple[np.ndarray, list[float]]:
    p = probabilities(argument, where)
    used = int(np.flatnonzero(p)[-1])
    if used > limit:
        raise InputError(
            f"{where}: the table gives count {used} a probability, above max = {limit}; raise max to at "
            f"least {used}"
        )
    pmf = np.zeros(limit + 1)
    pmf[: used + 1] = p[: used + 1]
    return pmf / pmf.sum(), [float(x) for x in p]


def probabilities(argument: object, where: str) -> np.ndarray:
    """A list of probabilities that sums to 1 within 1e-6, float64."""
    values = (
        list(argument)
        if isinstance(argument, Sequence | np.ndarray) and not isinstance(argument, str)
        else []
    )
    if not values or not all(is_real(x) and x >= 0 for x in values):
        raise InputError(
            f"{where}: expected a list of finite, nonnegative probabilities such as [0.25, 0.75]"
        )
    total = math.fsum(values)
    if abs(total - 1) > SUM_TOLERANCE:
        raise InputError(
            f"{where}: the probabilities sum to {total:.8g}, not to 1 (within {SUM_TOLERANCE:g}); divide "
            f"each by {total:.8g}"
        )
    return np.array(values, dtype=np.float64)


_LAWS = {"poisson": _poisson, "binomial": _binomial, "uniform": _uniform, "table": _table}


def joint_table(
    states: object, p: object, limits: np.ndarray, species: Sequence[str], where: str
) -> TableLaw:
    """Joint starting law from lists of states (columns in the order of the species) and probabilities."""
    rows = list(states) if isinstance(states, Sequence | np.ndarray) and not isinstance(states, str) else []
    values = probabilities(p, f"{where}: probabilities")
    if len(rows) != len(values):
        raise InputError(
            f"{where}: states has {len(rows)} rows and probabilities {len(values)} numbers; give one each"
        )
    for number, row in enumerate(rows, 1):
        cells = list(row) if isinstance(row, Sequence | np.ndarray) and not isinstance(row, str) else []
        if len(cells) != len(species) or not all(is_whole(x) for x in cells):
            raise InputError(
                f"{where}: row {number} of states is {row!r}; give {len(species)} whole counts, in the order "
                f"{', '.join(species)}"
            )
        for name, count, limit in zip(species, cells, limits.tolist(), strict=True):
            if not 0 <= count <= limit:
                raise InputError(
                    f"{where}: row {number} of states has {name} = {count}, outside 0..{limit}; correct it "
                    f"or raise max of {name}"
                )
    table = np.array(rows, dtype=np.int32)
    if len(np.unique(table, axis=0)) != len(table):
        raise InputError(
            f"{where}: a state stands twice in states; give each state once, with its whole probability"
        )
    return TableLaw(table, values, limits)


def law_text(spec: int | Mapping) -> str:
    """TOML text of a one-species law."""
    if not isinstance(spec, Mapping):
        return str(int(spec))
    ((kind, argument),) = spec.items()
    if isinstance(argument, Mapping):
        inner = ", ".join(f"{key} = {number_text(value)}" for key, value in argument.items())
        return f"{{ {kind} = {{ {inner} }} }}"
    if isinstance(argument, list):
        return f"{{ {kind} = [{', '.join(number_text(x) for x in argument)}] }}"
    return f"{{ {kind} = {number_text(argument)} }}"
