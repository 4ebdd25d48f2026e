"""Figures of a run. matplotlib is optional; no figure opens a window or touches global state.

Colours are the colour-blind-safe ones of Okabe and Ito. The file type follows the name: .png, .pdf or .svg.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcme.analysis.queries import marginal_table
from hpcme.errors import InputError
from hpcme.store.files import atomic_write
from hpcme.store.reader import Run

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SHOWN = len(OKABE_ITO)
_TYPES = (".png", ".pdf", ".svg")
_LINES = ("-", "--", "-.", ":")


def new_figure(width: float, height: float):
    """An empty matplotlib figure (inches) that needs no display. InputError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            'figures need matplotlib, which is not installed. Fix: pip install "hpcme[plot]" or'
            ' pip install "matplotlib>=3.8".'
        ) from None
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure, out: str | Path) -> Path:
    """Write a figure, whole or not at all. Raises InputError for an unknown file type, OutputError."""
    out = Path(out)
    if out.suffix.lower() not in _TYPES:
        raise InputError(
            f'cannot make a figure of type "{out.suffix}": {out.name} must end in {", ".join(_TYPES)}.'
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format=out.suffix.lower()[1:])
    atomic_write(out, lambda sink: sink.write(buffer.getvalue()))
    return out


def chosen_species(run: Run, species: Sequence[str] | None) -> tuple[list[int], str]:
    """(at most six species numbers, remark on those that are not shown). None: the first six."""
    index = list(range(run.S)) if species is None else [run.species_index(name) for name in species]
    if not index:
        raise InputError("no species to show. Fix: name at least one of " + ", ".join(run.species) + ".")
    hidden = len(index) - SHOWN
    return index[:SHOWN], f"{SHOWN} of {len(index)} species shown" if hidden > 0 else ""


def plot_time_courses(
    run: Run, out: str | Path, species: Sequence[str] | None = None, reference: Run | None = None
) -> Path:
    """Mean of each species over time with a band of one standard deviation and error bars of two standard
    errors of the mean; the reference's mean and sd are dashed. At most six species. Returns out."""
    index, remark = chosen_species(run, species)
    figure = new_figure(6.4, 4.4)
    draw_time_courses(figure.subplots(), run, index, reference)
    _headline(figure, run, remark)
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
    _headline(figure, run, remark)
    return save_figure(figure, out)


def plot_heat(run: Run, out: str | Path, species: str) -> Path:
    """Marginal distribution of one species over time as a heat map (square-root colours). Returns out."""
    i = run.species_index(species)
    run.index()
    table = np.array([run.marginal(i, t) for t in run.times])
    figure = new_figure(6.4, 4.0)
    axis = figure.subplots()
    edges = _edges(run.times)
    top = _last_count(table.max(axis=0))
    _heat(figure, axis, edges, np.arange(top + 2) - 0.5, table[:, : top + 1].T)
    axis.set_xlabel(f"time ({run.time_unit})")
    axis.set_ylabel(f"{run.species[i]} (molecules)")
    _headline(figure, run, "")
    return save_figure(figure, out)


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
    table = marginal_table(run, species, time, samples=samples, seed=seed)
    p = table["probability"]
    top = [_last_count(p.max(axis=1)), _last_count(p.max(axis=0))]
    figure = new_figure(5.4, 4.6)
    axis = figure.subplots()
    _heat(
        figure,
        axis,
        np.arange(top[0] + 2) - 0.5,
        np.arange(top[1] + 2) - 0.5,
        p[: top[0] + 1, : top[1] + 1].T,
    )
    axis.set_xlabel(f"{table['species'][0]} (molecules)")
    axis.set_ylabel(f"{table['species'][1]} (molecules)")
    _headline(figure, run, f"t = {table['time']:g} {run.time_unit}, {table['method']}")
    return save_figure(figure, out)


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
    _headline(figure, run, remark)
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
        axis.plot([], [], color="black", linestyle="--", label=_name(reference))
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
        top = max(top, _last_count(p))
        axis.step(
            np.arange(len(p)), p, where="mid", color=OKABE_ITO[first + number], label=f"t = {t:g}", linewidth=1.4
        )
        if reference is not None:
            r = reference.marginal(run.species[i], t)
            top = max(top, _last_count(r))
            axis.step(
                np.arange(len(r)),
                r,
                where="mid",
                color="black",
                linestyle="--",
                linewidth=0.9,
                label=_name(reference) if number == 0 else None,
            )
    axis.set_xlim(-0.5, top + 0.5)
    axis.set_ylim(bottom=0.0)
    axis.margins(y=0.25)
    axis.locator_params(axis="x", integer=True, nbins=5)
    axis.set_xlabel(f"{run.species[i]} (molecules)")
    axis.set_ylabel("probability")
    axis.legend(frameon=False, fontsize="x-small", loc="upper right")


def _headline(figure, run: Run, remark: str) -> None:
    words = [
        run.model().name,
        _name(run),
        *([f"status {run.status}"] if run.status != "done" else []),
        *([remark] if remark else []),
    ]
    figure.suptitle(", ".join(words), fontsize="medium")


def _name(run: Run) -> str:
    return {"network": "network", "fsp": "exact", "ssa": "trajectories"}[run.kind]


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


def _last_count(p: np.ndarray) -> int:
    """Last count worth showing: beyond it every probability is below a thousandth of the largest."""
    shown = np.flatnonzero(p > 1e-3 * p.max(initial=0.0))
    return max(1, int(shown[-1])) if len(shown) else 1


def _edges(times: np.ndarray) -> np.ndarray:
    """Cell borders halfway between times; a single time gets a cell of width 1."""
    if len(times) == 1:
        return np.array([times[0] - 0.5, times[0] + 0.5])
    middle = 0.5 * (times[1:] + times[:-1])
    return np.concatenate([[times[0]], middle, [times[-1]]])


def _heat(figure, axis, x: np.ndarray, y: np.ndarray, values: np.ndarray) -> Any:
    from matplotlib.colors import PowerNorm

    mesh = axis.pcolormesh(
        x,
        y,
        values,
        cmap="cividis",
        norm=PowerNorm(0.5, vmin=0.0, vmax=max(values.max(), 1e-300)),
        rasterized=True,
    )
    figure.colorbar(mesh, ax=axis, label="probability")
    return mesh
