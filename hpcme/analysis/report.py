"""The report of a run: one self-contained HTML page with its figures, tables, errors and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hpcme.analysis import page, report_tables
from hpcme.analysis.canvas import chosen_species, new_figure, run_name
from hpcme.analysis.cloud import MAX_STATES, SAMPLES
from hpcme.analysis.compare import compare
from hpcme.analysis.information import information_table
from hpcme.analysis.modes import LEAST, PROMINENCE, SMOOTH, modes_table
from hpcme.analysis.plots import draw_heat, draw_marginals, draw_time_courses
from hpcme.analysis.plots_error import convergence_series, draw_certificate, draw_series
from hpcme.analysis.plots_modes import draw_modes, draw_weights, shown_times
from hpcme.analysis.recipe import JOB, MODEL, recipe_of
from hpcme.analysis.report_tables import round_text
from hpcme.errors import InputError
from hpcme.store.files import atomic_write
from hpcme.store.layout import SERIES
from hpcme.store.reader import Run

_WIDTH, _HEIGHT = 4.8, 3.6  # inches of a panel: readable on a screen of 360 pixels
_INFORMED = 8  # species whose pairs are looked at
_KINDS = {
    "network": "solved by a neural network",
    "fsp": "exact law, by finite state projection",
    "ssa": "simulated trajectories",
}


def write_report(
    run: Run,
    out: str | Path,
    reference: Run | str | None = None,
    species: list[str] | None = None,
    *,
    samples: int = SAMPLES,
    max_states: int = MAX_STATES,
    progress: Callable[[float], None] = lambda share: None,
) -> Path:
    """Write the report of a run as one HTML file, whole or not at all; returns its path.

    reference: another run, an exact one or trajectories best: drawn dashed, and the distances to it are measured; or
    what compare.compare takes, "exact" or "ssa": only measured.
    species: the one or two whose modes are shown (None: the two that vary most). samples: of a network whose states are
    more than max_states. Raises InputError (no matplotlib, nothing stored yet, unknown species, other species in the
    reference), OutputError.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f'a report is a .html file, not "{out.suffix}" ({out}). Fix: rename it.')
    run.index()
    new_figure(1.0, 1.0)  # says what is missing before the work begins
    modes = modes_table(run, species, samples=samples, max_states=max_states)
    progress(0.3)
    found = compare(run, reference) if reference is not None else None
    drawn = reference if isinstance(reference, Run) else None
    progress(0.5)
    names = _informed(run)
    facts = information_table(run, names, samples=samples, max_states=max_states)
    progress(0.6)
    sections = [
        ("summary", "Summary", _summary(run, modes, found)),
        ("time", "Over time", _over_time(run, drawn)),
        ("modes", "Modes", _modes(run, modes)),
        ("error", "Error", _error(run, found)),
        ("information", "Dependence", _information(run, facts)),
        ("moments", "Moments", report_tables.moments(run)),
        *([("solver", "Solver", _solver(run))] if run.kind == "network" and run.series() else []),
        ("reproduce", "How to reproduce it", _reproduce(run)),
    ]
    progress(0.95)
    state = "" if run.status == "done" else f"; the run is not finished (status {run.status})"
    lines = [f"{_KINDS[run.kind]}, to t = {run.times[-1]:g} ({run.time_unit}){state}"]
    content = page.page(run.model().name, lines, sections).encode("utf-8")
    atomic_write(out, lambda sink: sink.write(content))
    progress(1.0)
    return out


def _informed(run: Run) -> list[str]:
    """The species that vary most, in their own order."""
    sd = run.sd[run.index()]
    return [run.species[i] for i in sorted(np.argsort(-sd, kind="stable")[:_INFORMED].tolist())]


def _panel(draw: Callable[[Any, Any], None], caption: str, height: float = _HEIGHT) -> str:
    """A picture of one panel; draw(figure, axis)."""
    figure = new_figure(_WIDTH, height)
    draw(figure, figure.subplots())
    return page.picture(figure, caption)


def _summary(run: Run, modes: dict[str, Any], found: dict[str, Any] | None) -> str:
    facts = [("species", str(run.S)), ("report times", str(len(run.times)))]
    bound = report_tables.last_bound(run)
    if bound is not None:
        facts.append((f"certified bound of the error (TV) at t = {run.times[-1]:g}", report_tables.at_most(bound)))
    if found is not None:
        known = [(t, tv) for t, tv in zip(found["times"], found["joint"]["tv"], strict=True) if tv is not None]
        if known:
            worst = max(known, key=lambda pair: pair[1])
            facts.append((f"largest measured distance (TV), at t = {worst[0]:g}", round_text(worst[1])))
    facts.append((f"modes of {' and '.join(modes['species'])}", str(len(modes["weight"]))))
    steps = run.series().get("wall") if run.kind == "network" else None
    if steps is not None:
        facts.append(("time steps", str(len(steps))))
        facts.append(("seconds in steps", round_text(float(np.nansum(steps)))))
    elif run.provenance.get("seconds") is not None:
        facts.append(("seconds", round_text(run.provenance["seconds"])))
    return page.facts(facts) + page.paragraph(report_tables.modes_words(modes)) + page.paragraph(
        report_tables.error_words(run, found)
    )


def _over_time(run: Run, reference: Run | None) -> str:
    index, remark = chosen_species(run, None)
    dashed = "" if reference is None else f"; dashed: {run_name(reference)}"
    parts = []
    # genes and other 0/1 species have a scale of their own, and no distribution worth a picture
    for some in ([i for i in index if run.limits[i] > 1], [i for i in index if run.limits[i] <= 1]):
        if some:
            parts.append(
                _panel(
                    lambda figure, axis, some=some: draw_time_courses(axis, run, some, reference),
                    f"Mean and a band of one standard deviation of {', '.join(run.species[i] for i in some)}{dashed}.",
                )
            )
    rows = shown_times(run.times)
    if reference is not None:
        rows = [k for k in rows if report_tables.has_time(reference, float(run.times[k]))]
    for i in [i for i in index if run.limits[i] > 1]:
        if rows:
            parts.append(
                _panel(
                    lambda figure, axis, i=i: draw_marginals(axis, run, i, rows, reference),
                    f"Distribution of {run.species[i]}{dashed}.",
                )
            )
        parts.append(
            _panel(
                lambda figure, axis, i=i: draw_heat(figure, axis, run, i),
                f"Distribution of {run.species[i]} over time (square-root colours).",
            )
        )
    return (page.paragraph(f"{remark}.") if remark else "") + page.pictures(parts)


def _modes(run: Run, modes: dict[str, Any]) -> str:
    rows, parts = shown_times(modes["times"]), []
    if len(modes["weight"]) > 1:
        parts.append(
            _panel(
                lambda figure, axis: draw_weights(axis, modes, run.time_unit, below=True),
                "Weight of each mode over time: the probability of its basin.",
                4.4,
            )
        )
    parts += [
        _panel(
            lambda figure, axis, k=k: draw_modes(figure, axis, modes, k, run.time_unit),
            f"Law at t = {modes['times'][k]:g}; numbers: modes, lines: borders of their basins.",
            3.9,
        )
        for k in rows
    ]
    method = (
        f"A mode is a peak of the law of {' and '.join(modes['species'])}, smoothed by {SMOOTH:g} counts, that is at"
        f" least {100 * PROMINENCE:g} % higher than any pass to another peak and whose basin of attraction (steepest"
        f" ascent) holds at least {100 * LEAST:g} % of the probability. Basins are those at t = {modes['time']:g};"
        f" weights are their probabilities at each time, from {modes['method']}."
    )
    return page.pictures(parts) + report_tables.modes(modes) + page.paragraph(method)


def _error(run: Run, found: dict[str, Any] | None) -> str:
    words = page.paragraph(report_tables.error_words(run, found))
    if report_tables.last_bound(run) is None and found is None:
        return words
    parts = []
    # trajectories have neither a bound nor a distance of joint laws
    if report_tables.last_bound(run) is not None or any(x is not None for x in found["joint"]["tv"]):
        parts.append(
            _panel(
                lambda figure, axis: draw_certificate(axis, run, found, below=True),
                "Certified bound of the total variation distance to the exact law, its parts, and what was measured.",
                4.6,
            )
        )
    return words + page.pictures(parts) + report_tables.errors(run, found)


def _information(run: Run, facts: dict[str, Any]) -> str:
    words = (
        f"At t = {facts['time']:g}, in nats (natural logarithms), from {facts['method']}. Mutual information is zero"
        " for independent species; correlation sees linear dependence only."
    )
    some = "" if len(facts["species"]) == run.S else f" The {len(facts['species'])} species that vary most of {run.S}."
    return page.paragraph(words + some) + report_tables.information(facts)


def _solver(run: Run) -> str:
    series, names = convergence_series(run)
    parts = []
    for name in names:

        def draw(figure, axis, name=name):
            draw_series(axis, series, name, run.time_unit)
            axis.set_xlabel(f"time ({run.time_unit})")

        parts.append(_panel(draw, f"{SERIES[name][1].capitalize()} ({name}), {len(series['t'])} steps.", 2.6))
    return page.pictures(parts)


def _reproduce(run: Run) -> str:
    recipe, facts = recipe_of(run), run.provenance
    parts = [
        page.paragraph(f"Save the two files below as {MODEL} and {JOB}, then:"),
        page.code(recipe.command),
        *map(page.paragraph, recipe.remarks),
        page.folded(JOB, page.code(recipe.job), opened=True),
        page.folded(MODEL, page.code(recipe.model), opened=True),
    ]
    shown = {
        name: value
        for name, value in facts.items()
        if name not in ("model_text", "job_text", "history", "report_times", "warm") and value not in ("", None)
    }
    rows = [
        [name, value if isinstance(value, str) else json.dumps(value)] for name, value in sorted(shown.items())
    ]
    versions = page.table(["what", "value"], rows, kind="wrap")
    parts.append(page.folded("Versions, hashes, hardware", versions, opened=True))
    events = [
        [str(event.get("when", "")), str(event.get("event", "")),
         ", ".join(f"{k} = {v}" for k, v in event.items() if k not in ("when", "event"))]
        for event in facts.get("history", [])
    ]  # fmt: skip
    if events:
        parts.append(page.folded("History of the run", page.table(["when", "event", "more"], events, kind="wrap")))
    return "".join(parts)
