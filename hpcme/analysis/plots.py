"""Figures of a run: time courses, marginals, heat maps over time, joints, and all of it in an overview.

The file type follows the name: .png, .pdf or .svg. What figures share is in canvas.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpcme.analysis.canvas import (
    OKABE_ITO,
    chosen_species,
    edges,
    headline,
    heat,
    last_count,
    new_figure,
    run_name,
    save_figure,
)
from hpcme.analysis.cloud import cloud_of
from hpcme.analysis.modes import pair_table
from hpcme.errors import InputError
from hpcme.store.reader import Run

_LINES = ("-", "--", "-.", ":")


def plot_time_courses(
    run: Run, out: str | Path, species: Sequence[str] | None = None, reference: Run | None = None
) -> Path:
    """Mean of each species over time with a band of one standard deviation and error bars of two standard
    errors of the mean; the reference's mean and sd are dashed. At most six species. Returns out."""
    index, remark = chosen_species(run, species)
    figure = new_figure(6.4, 4.4)
    draw_time_courses(figure.subplots(), run, index, reference)
    headline(figure, run, remark)
    return save_figure(figure, out)


def plot_marginals(
    run: Run,
    out: str | Path,
    species: Sequence[str] | None = None,
    times: Sequence[float] | None = None,
    reference: Run | None = None,
) -> Path:
    """Marginal distributions at up to four times (None: the last), one panel per species (at most six); the
    reference is dashed and black. Returns the path."""
    index, remark = chosen_species(run, species)
    rows = [run.index(t) for t in ([None] if times is None else times)]
    if not 1 <= len(rows) <= len(_LINES):
        raise InputError(f"{len(rows)} times were given; a figure of marginals shows 1 to {len(_LINES)}.")
    columns = min(3, len(index))
    figure = new_figure(3.4 * columns + 0.6, 2.9 * -(-len(index) // columns) + 0.5)
    axes = figure.subplots(-(-len(index) // columns), columns, squeeze=False).ravel()
    for axis, i in zip(axes, index, strict=False):
        draw_marginals(axis, run, i, rows, reference)
    for axis in axes[len(index) :]:
        axis.remove()
    headline(figure, run, remark)
    return save_figure(figure, out)


def plot_heat(run: Run, out: str | Path, species: Sequence[str] | str | None = None) -> Path:
    """Marginal distributions over time as heat maps (square-root colours), one panel per species, at most six (None:
    the first six; a name: that one). Returns out."""
    index, remark = chosen_species(run, [species] if isinstance(species, str) else species)
    run.index()
    columns = min(2, len(index))
    lines = -(-len(index) // columns)
    figure = new_figure(6.4 if columns == 1 else 9.6, 4.0 if lines == 1 else 2.8 * lines + 0.5)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, i in zip(axes, index, strict=False):
        draw_heat(figure, axis, run, i)
    for axis in axes[len(index) :]:
        axis.remove()
    headline(figure, run, remark)
    return save_figure(figure, out)


def draw_heat(figure, axis, run: Run, i: int) -> None:
    """Draw the marginal of species i over time onto an axis of a figure, with its colour bar."""
    rows = [run.marginal(i, float(t)) for t in run.times]
    table = np.array([np.pad(p, (0, max(map(len, rows)) - len(p))) for p in rows])
    top = last_count(table.max(axis=0))
    # a certain start would leave the colours of all later times to a few dark ones
    after = float(table[1:].max()) if len(table) > 1 else None
    heat(figure, axis, edges(run.times), np.arange(top + 2) - 0.5, table[:, : top + 1].T, after)
    axis.locator_params(axis="y", integer=True, nbins=6)
    axis.set_xlabel(f"time ({run.time_unit})")
    axis.set_ylabel(f"{run.species[i]} (molecules)")


def plot_joint(
    run: Run,
    out: str | Path,
    species: Sequence[str],
    time: float | None = None,
    *,
    samples: int = 100_000,
    seed: int = 0,
) -> Path:
    """Joint distribution of two species at one time as a heat map (square-root colours). Returns the path."""
    if isinstance(species, str) or len(species) != 2:
        raise InputError(f"a joint distribution needs two species, got {species!r}.")
    index = [run.species_index(name) for name in species]
    if index[0] == index[1]:
        raise InputError(f"a joint distribution needs two different species, got {species!r}.")
    t = float(run.times[run.index(time)])
    cloud = cloud_of(run, t, samples=samples, seed=seed)
    figure = new_figure(5.4, 4.6)
    draw_joint(figure, figure.subplots(), pair_table(cloud, index, run.limits), [run.species[i] for i in index])
    headline(figure, run, f"t = {t:g}, {cloud.method}")
    return save_figure(figure, out)


def draw_joint(figure, axis, p: np.ndarray, species: Sequence[str], top: Sequence[int] | None = None) -> None:
    """Draw a table of probabilities of two species as a heat map with a colour bar; top: last counts to show (None:
    those with probabilities above a thousandth of the largest)."""
    top = [last_count(p.max(axis=1)), last_count(p.max(axis=0))] if top is None else top
    heat(
        figure,
        axis,
        np.arange(top[0] + 2) - 0.5,
        np.arange(top[1] + 2) - 0.5,
        p[: top[0] + 1, : top[1] + 1].T,
    )
    for way in "xy":
        axis.locator_params(axis=way, integer=True, nbins=6)
    axis.set_xlabel(f"{species[0]} (molecules)")
    axis.set_ylabel(f"{species[1]} (molecules)")


def plot_overview(run: Run, out: str | Path, reference: Run | None = None) -> Path:
    """The standard figure: time courses on top, marginals at the last common time below; reference dashed.

    At most six species; the headline says how many are not shown. Returns the path.
    """
    index, remark = chosen_species(run, None)
    columns = min(3, len(index))
    lines = -(-len(index) // columns)
    figure = new_figure(3.2 * columns + 1.6, 3.4 + 2.5 * lines)
    upper, lower = figure.subfigures(2, 1, height_ratios=[3.4, 2.5 * lines])
    draw_time_courses(upper.subplots(), run, index, reference)
    axes = lower.subplots(lines, columns, squeeze=False).ravel()
    row = _last_common(run, reference)
    for number, (axis, i) in enumerate(zip(axes, index, strict=False)):
        draw_marginals(axis, run, i, [row], reference, number)
    for axis in axes[len(index) :]:
        axis.remove()
    headline(figure, run, remark)
    return save_figure(figure, out)


def draw_time_courses(axis, run: Run, index: list[int], reference: Run | None) -> None:
    """Draw means with bands of one sd onto an axis."""
    run.index()
    for colour, i in zip(OKABE_ITO, index, strict=False):
        mean, sd, error = run.mean[:, i], run.sd[:, i], 2 * run.mean_se[:, i]
        axis.fill_between(run.times, mean - sd, mean + sd, color=colour, alpha=0.18, linewidth=0)
        axis.errorbar(
            run.times,
            mean,
            yerr=error if error.any() else None,
            color=colour,
            linewidth=1.4,
            capsize=1.5,
            elinewidth=0.8,
            label=run.species[i],
            marker="o" if len(run.times) < 12 else None,
            markersize=3,
        )
        if reference is not None:
            j = reference.species_index(run.species[i])
            for sign, width in ((0, 1.3), (1, 0.7), (-1, 0.7)):
                axis.plot(
                    reference.times,
                    reference.mean[:, j] + sign * reference.sd[:, j],
                    color="black",
                    linestyle="--",
                    linewidth=width,
                    zorder=3,
                )
    if reference is not None:
        axis.plot([], [], color="black", linestyle="--", label=run_name(reference))
    axis.set_xlabel(f"time ({run.time_unit})")
    axis.set_ylabel("mean and sd (molecules)")
    axis.margins(x=0.02)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")


def draw_marginals(axis, run: Run, i: int, rows: list[int], reference: Run | None, first: int = 0) -> None:
    """Draw the marginal of species i at reports `rows` onto an axis; first: number of the first colour."""
    top = 1
    for number, k in enumerate(rows):
        t = float(run.times[k])
        p = run.marginal(i, t)
        top = max(top, last_count(p))
        axis.step(
            np.arange(len(p)), p, where="mid", color=OKABE_ITO[first + number], label=f"t = {t:g}", linewidth=1.4
        )
        if reference is not None:
            r = reference.marginal(run.species[i], t)
            top = max(top, last_count(r))
            axis.step(
                np.arange(len(r)),
                r,
                where="mid",
                color="black",
                linestyle="--",
                linewidth=0.9,
                label=run_name(reference) if number == 0 else None,
            )
    axis.set_xlim(-0.5, top + 0.5)
    axis.set_ylim(bottom=0.0)
    axis.margins(y=0.25)
    axis.locator_params(axis="x", integer=True, nbins=5)
    axis.set_xlabel(f"{run.species[i]} (molecules)")
    axis.set_ylabel("probability")
    axis.legend(frameon=False, fontsize="x-small", loc="upper right")


def _last_common(run: Run, reference: Run | None) -> int:
    for k in range(run.index(), -1, -1):
        if reference is None:
            return k
        try:
            reference.index(float(run.times[k]))
        except InputError:
            continue
        return k
    raise InputError(
        f"{run.path} and {reference.path} have no report time in common. Fix: run one of them with the"
        " other's report times."
    )
