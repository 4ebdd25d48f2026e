"""Tables and sentences of a report."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context
from typing import Any

from hpcme.analysis import page
from hpcme.analysis.statistics import PARTS, certificate_of
from hpcme.errors import InputError
from hpcme.store.reader import Run

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TELL_LOST = 1e-3
_PARTS = {"time": "time integration", "truncation": "count limits"}
_DISTANCES = ("joint TV", "Hellinger", "KL", "largest marginal TV", "largest error of a mean")


def round_text(value: float | None, digits: int = 3) -> str:
    """A number with a few digits; "-" where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def at_most(value: float | None) -> str:
    """A bound, rounded up to two digits."""
    if not value or not math.isfinite(value):
        return "0" if value == 0.0 else "-"
    return f"<= {float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(float(value)))):g}"


def with_se(value: float, se: float) -> str:
    """A value with its standard error, where it has one."""
    if not math.isfinite(value):
        return "-"
    return f"{round_text(value, 4)} ± {round_text(se, 2)}" if se > 0.0 else round_text(value, 4)


def has_time(run: Run, t: float) -> bool:
    """Whether a run stores a time."""
    try:
        run.index(t)
    except InputError:
        return False
    return True


def last_bound(run: Run) -> float | None:
    """The certified bound at the last report, None where there is none."""
    certificate = certificate_of(run.extra(), [len(run.times) - 1])
    return certificate["bound"][0] if certificate else None


def modes_words(modes: dict[str, Any]) -> str:
    """What the modes are, in a sentence or two."""
    number, names = len(modes["weight"]), modes["species"]
    law = f"the {'joint ' if len(names) > 1 else ''}law of {' and '.join(names)}"
    places = [
        f"at {', '.join(f'{name} = {count}' for name, count in zip(names, peak, strict=True))} "
        f"({100.0 * float(weight):.1f} % of the probability)"
        for peak, weight in zip(modes["peak"].tolist(), modes["weight"], strict=True)
    ]
    if number == 1:
        return f"At t = {modes['time']:g} {law} has one mode, {places[0].partition(' (')[0]}."
    counted = _NUMBERS[number] if number < len(_NUMBERS) else str(number)
    words = f"At t = {modes['time']:g} {law} has {counted} modes: {'; '.join(places)}."
    if number > 2:
        words += f" The two heaviest hold {100.0 * float(modes['weight'][:2].sum()):.0f} % together."
    return words


def error_words(run: Run, found: dict[str, Any] | None) -> str:
    """What is known about the error, in a sentence or three."""
    words = []
    certificate = certificate_of(run.extra(), [len(run.times) - 1])
    if certificate and certificate["bound"][0] is not None:
        bound, sure = certificate["bound"][0], certificate["confidence"]
        confidence = "" if sure is None or sure >= 1.0 else f", with confidence {100 * sure:.6g} %"
        words.append(
            f"Certified without a reference: at t = {run.times[-1]:g} the total variation distance to the exact law is "
            f"{at_most(bound).replace('<=', 'at most')}{confidence}"
            + (" (a bound of 1 says nothing)." if bound >= 1.0 else ".")
        )
        lost = certificate["truncation"][0]
        if lost is not None and lost > max(_TELL_LOST, 0.25 * bound):
            words.append(
                f"Of this, {round_text(lost)} is probability that could have passed the count limits (max in the"
                " model); larger limits make the bound smaller."
            )
    elif run.kind == "fsp":
        words.append(
            f"The exact law on the states within the limits: {round_text(float(run.lost[-1]))} of the probability has"
            f" left them by t = {run.times[-1]:g}, which bounds the total variation distance to the law without limits."
        )
    elif run.kind == "ssa":
        words.append(f"{len(run.events)} exact trajectories: the only error is that of sampling.")
    else:
        words.append("The run stores no certified bound.")
    if found is None:
        words.append("No reference run was given; with one (--reference) the distance to it is measured here.")
    else:
        words.append(_measured(found))
    return " ".join(words)


def _measured(found: dict[str, Any]) -> str:
    kind = found["reference_kind"]
    name = {"fsp": "the exact law", "exact": "the exact law", "ssa": "trajectories", "network": "another network"}[kind]
    known = [(t, tv) for t, tv in zip(found["times"], found["joint"]["tv"], strict=True) if tv is not None]
    if known:
        words = f"Measured against {name}: {round_text(known[-1][1])} at t = {known[-1][0]:g}"
        worst = max(known, key=lambda pair: pair[1])
        words += f", at most {round_text(worst[1])} (t = {worst[0]:g})." if len(known) > 1 else "."
        gone = max((x or 0.0 for x in found["joint"].get("reference_outside", [])), default=0.0)
        if gone > _TELL_LOST:
            words += (
                f" The reference has lost up to {round_text(gone)} of its probability past the limits, where the"
                " network has walls; that is part of the distance (--reference exact solves with walls too)."
            )
        return words
    worst = max(
        ((tv, floor, species) for species, distances in found["marginals"].items()
         for tv, floor in zip(distances["tv"], found["noise_floor"]["marginals"][species]["tv"], strict=True)),
    )  # fmt: skip
    return (
        f"Measured against {name}: the largest distance of a marginal law is {round_text(worst[0])} ({worst[2]}), of"
        f" which sampling alone makes about {round_text(worst[1])}; joint laws cannot be compared with trajectories so."
    )


def modes(table: dict[str, Any]) -> str:
    """Where the modes are, and their weights at each time."""
    names, number = table["species"], len(table["weight"])
    rows = [
        [m + 1, *table["peak"][m].tolist(), *(round_text(float(x), 4) for x in table["mean"][m]),
         with_se(float(table["weight"][m]), float(table["weight_se"][m]))]
        for m in range(number)
    ]  # fmt: skip
    header = ["mode", *(f"{name} at its peak" for name in names), *(f"mean {name}" for name in names), "weight"]
    first = page.table(header, rows, f"Modes at t = {table['time']:g}, counts in molecules")
    rows = [
        [f"{t:g}", *(with_se(float(w), float(se)) for w, se in zip(ws, ses, strict=True)), int(own)]
        for t, ws, ses, own in zip(table["times"], table["weights"], table["weights_se"], table["count"], strict=True)
    ]
    header = ["time", *(f"mode {m + 1}" for m in range(number)), "modes of its own"]
    second = page.table(header, rows, "Weights over time; modes of its own: how many each time has by itself", "tall")
    return first + second


def errors(run: Run, found: dict[str, Any] | None) -> str:
    """The bound with its parts, and measured distances, at each time."""
    certificate = certificate_of(run.extra(), list(range(len(run.times))))
    words, columns = ["Distances"], []
    if certificate:
        words = ["Total variation distance (TV): certified bound and its parts"]
        columns.append(("certified bound", [at_most(value) for value in certificate["bound"]]))
        columns += [(_PARTS.get(name, name), list(map(round_text, certificate[name]))) for name in PARTS]
    if found:
        words.append(f"measured: against {found['reference']}; errors of means are relative")
        place = {t: k for k, t in enumerate(found["times"])}
        rows = [_distances(found, place.get(t)) for t in run.times.tolist()]
        columns += [(name, [row[i] for row in rows]) for i, name in enumerate(_DISTANCES)]
    columns = [(name, cells) for name, cells in columns if any(cell != "-" for cell in cells)]
    rows = [[f"{t:g}", *(cells[k] for _, cells in columns)] for k, t in enumerate(run.times.tolist())]
    return page.table(["time", *(name for name, _ in columns)], rows, "; ".join(words), "tall")


def _distances(found: dict[str, Any], k: int | None) -> list[str]:
    if k is None:
        return ["-"] * len(_DISTANCES)
    joint = found["joint"]
    return [
        *(round_text(joint[name][k]) for name in ("tv", "hellinger", "kl")),
        round_text(max(found["marginals"][name]["tv"][k] for name in found["species"])),
        round_text(max(found["mean_error"][k])),
    ]


def information(facts: dict[str, Any]) -> str:
    """Entropies, and mutual information and correlations of pairs, the most dependent first."""
    names = facts["species"]
    rows = [["all species together", with_se(facts["joint_entropy"], facts["joint_entropy_se"])]]
    rows += [
        [name, with_se(float(h), float(se))]
        for name, h, se in zip(names, facts["entropy"], facts["entropy_se"], strict=True)
    ]
    content = page.table(["entropy of", "nats"], rows)
    pairs = sorted(
        ((i, j) for j in range(len(names)) for i in range(j)), key=lambda pair: -facts["mutual_information"][pair]
    )
    if pairs:
        columns = ("mutual_information", "correlation")
        rows = [
            [f"{names[i]}, {names[j]}",
             *(with_se(float(facts[name][i, j]), float(facts[f"{name}_se"][i, j])) for name in columns)]
            for i, j in pairs
        ]  # fmt: skip
        content += page.table(["pair", "mutual information (nats)", "correlation"], rows, kind="tall")
    return content


def moments(run: Run) -> str:
    """Mean and standard deviation of each species and readout at each time."""
    header = ["time", *(f"{what} {name}" for name in [*run.species, *run.readouts] for what in ("mean", "sd"))]
    readouts = [run.readout(name) for name in run.readouts]
    rows = []
    for k, t in enumerate(run.times):
        cells = [
            with_se(float(run_values[k, i]), float(errors[k, i]))
            for i in range(run.S)
            for run_values, errors in ((run.mean, run.mean_se), (run.sd, run.sd_se))
        ]
        cells += [
            with_se(float(found[what][k]), float(found[f"{what}_se"][k]))
            for found in readouts
            for what in ("mean", "sd")
        ]
        rows.append([f"{t:g}", *cells])
    return page.table(header, rows, "Counts in molecules, with standard errors of sampling where there are any", "tall")
