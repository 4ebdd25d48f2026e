"""Figures of joint laws: modes and their weights over time, and corner plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcme.analysis.canvas import OKABE_ITO, headline, last_count, new_figure, save_figure
from hpcme.analysis.cloud import MAX_STATES, SAMPLES, cloud_of
from hpcme.analysis.modes import modes_table, pair_table
from hpcme.analysis.plots import draw_joint
from hpcme.errors import InputError
from hpcme.store.reader import Run

_CORNER = 6  # species in a corner plot at most
_PANELS = 4
_SHORT = 6  # characters of a name that leave room for the unit beside it


def plot_modes(
    run: Run, out: str | Path, species: Sequence[str] | None = None, time: float | None = None, **settings: Any
) -> Path:
    """Weights of the modes over time, and the law with its modes at up to four times. settings: those of
    modes.modes_table, which tells the method. Returns out."""
    table = modes_table(run, species, time, **settings)
    rows = shown_times(table["times"])
    lines = -(-len(rows) // 2)
    figure = new_figure(9.6, 3.4 + 3.4 * lines)
    upper, lower = figure.subfigures(2, 1, height_ratios=[3.4, 3.4 * lines])
    draw_weights(upper.subplots(), table, run.time_unit)
    axes = lower.subplots(lines, 2, squeeze=False).ravel()
    for axis, k in zip(axes, rows, strict=False):
        draw_modes(lower, axis, table, k, run.time_unit)
    for axis in axes[len(rows) :]:
        axis.remove()
    headline(figure, run, table["method"])
    return save_figure(figure, out)


def shown_times(times: np.ndarray) -> list[int]:
    """Up to four report numbers, spread evenly from the second to the last."""
    first = min(1, len(times) - 1)
    return np.unique(np.linspace(first, len(times) - 1, _PANELS).round().astype(int)).tolist()


def mode_names(table: dict[str, Any]) -> list[str]:
    """What each mode is called: its place, such as "1: Px 0, Py 49"."""
    return [
        f"{m + 1}: " + ", ".join(f"{name} {count}" for name, count in zip(table["species"], peak, strict=True))
        for m, peak in enumerate(table["peak"].tolist())
    ]


def mode_colour(m: int) -> str:
    """Colour of mode m."""
    return OKABE_ITO[m % len(OKABE_ITO)]


def draw_weights(axis, table: dict[str, Any], time_unit: str, below: bool = False) -> None:
    """Draw the weights of modes over time, with two standard errors; below: the legend stands under the axis."""
    styles = ("-", "--", "-.", ":")
    for m, name in enumerate(mode_names(table)):
        axis.errorbar(
            table["times"],
            table["weights"][:, m],
            2.0 * table["weights_se"][:, m] if table["weights_se"].any() else None,
            color=mode_colour(m),
            linestyle=styles[m % len(styles)],
            linewidth=1.6,
            marker="o" if len(table["times"]) < 12 else None,
            markersize=3.5,
            capsize=1.5,
            label=name,
        )
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel(f"time ({time_unit})")
    axis.set_ylabel("weight (probability)")
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22), "ncols": 2} if below else {
        "loc": "center left", "bbox_to_anchor": (1.01, 0.5)
    }  # fmt: skip
    axis.legend(frameon=False, fontsize="small", title="mode: counts at its peak", title_fontsize="small", **place)


def draw_modes(figure, axis, table: dict[str, Any], k: int, time_unit: str) -> None:
    """Draw the law at report k, with the borders of the basins and the numbers of the modes at their peaks."""
    p = table["tables"][k]
    if p.ndim == 1:
        _draw_line(axis, table, p)
    else:
        tops = [last_count(max((t.max(axis=a) for t in table["tables"]), key=last_count)) for a in (1, 0)]
        tops = [min(top, size - 1) for top, size in zip(tops, p.shape, strict=True)]
        draw_joint(figure, axis, p, table["species"], tops)
        if len(table["peak"]) > 1:
            _draw_borders(axis, table["basin"], tops)
        for m, (x, y) in enumerate(table["peak"].tolist()):
            _number(axis, m, x, y, tops)
    unit = "" if time_unit == "model time unit" else f" {time_unit}"
    axis.set_title(f"t = {table['times'][k]:g}{unit}", fontsize="medium")


def _number(axis, m: int, x: int, y: int, tops: Sequence[int]) -> None:
    """The number of a mode in a disc of its colour, kept inside the axis."""
    x, y = (min(max(at, 0.05 * top), 0.95 * top) for at, top in zip((x, y), tops, strict=True))
    axis.text(
        x, y, str(m + 1), ha="center", va="center", fontsize="small", color="white", fontweight="bold",
        bbox={"boxstyle": "circle,pad=0.2", "facecolor": mode_colour(m), "edgecolor": "white", "linewidth": 0.8},
    )  # fmt: skip


def _draw_borders(axis, basin: np.ndarray, tops: Sequence[int]) -> None:
    """White lines along the borders of basins."""
    part = basin[: tops[0] + 1, : tops[1] + 1]
    lines = []
    for x, y in np.argwhere(part[1:] != part[:-1]).tolist():
        lines.append([(x + 0.5, y - 0.5), (x + 0.5, y + 0.5)])
    for x, y in np.argwhere(part[:, 1:] != part[:, :-1]).tolist():
        lines.append([(x - 0.5, y + 0.5), (x + 0.5, y + 0.5)])
    from matplotlib.collections import LineCollection

    axis.add_collection(LineCollection(lines, colors="white", linewidths=0.8, alpha=0.8))


def _draw_line(axis, table: dict[str, Any], p: np.ndarray) -> None:
    """A law of one species, coloured by basin."""
    counts, top = np.arange(len(p)), max(map(last_count, table["tables"]))
    axis.step(counts, p, where="mid", color="black", linewidth=1.0)
    for m, peak in enumerate(table["peak"][:, 0].tolist()):
        inside = table["basin"][np.minimum(counts, len(table["basin"]) - 1)] == m
        axis.fill_between(counts, np.where(inside, p, 0.0), step="mid", color=mode_colour(m), alpha=0.5, linewidth=0)
        axis.annotate(str(m + 1), (peak, p[peak]), (0, 3), textcoords="offset points", ha="center", fontsize="small")
    axis.set_xlim(-0.5, top + 0.5)
    axis.set_ylim(bottom=0.0)
    axis.margins(y=0.15)
    axis.set_xlabel(f"{table['species'][0]} (molecules)")
    axis.set_ylabel("probability")


def plot_corner(
    run: Run,
    out: str | Path,
    species: Sequence[str] | None = None,
    time: float | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    max_states: int = MAX_STATES,
) -> Path:
    """All pairs of species at one time (None: the last): marginals on the diagonal, joint laws below it. Two to six
    species (None: the first six). Returns out."""
    names = list(run.species[:_CORNER] if species is None else species)
    index = [run.species_index(name) for name in names]
    if not 2 <= len(index) <= _CORNER or len(set(index)) < len(index):
        raise InputError(
            f"a corner plot shows 2 to {_CORNER} different species, not {len(index)}: {', '.join(map(str, names))}."
            " Fix: name others."
        )
    t = float(run.times[run.index(time)])
    cloud = cloud_of(run, t, samples=samples, seed=seed, max_states=max_states)
    size = len(index)
    figure = new_figure(1.9 * size + 1.2, 1.8 * size + 0.6)
    axes = figure.subplots(size, size, squeeze=False)
    tops = [last_count(pair_table(cloud, [i], run.limits)) for i in index]
    for a, i in enumerate(index):
        for b, j in enumerate(index):
            if b > a:
                axes[a, b].remove()
            else:
                p = pair_table(cloud, [i] if a == b else [j, i], run.limits)
                _corner_panel(axes[a, b], p, [tops[b], tops[a]], OKABE_ITO[a])
            if b <= a:
                axes[a, b].set_xlabel(_axis_words(run.species[j]) if a == size - 1 else "")
                axes[a, b].tick_params(labelbottom=a == size - 1, labelleft=b == 0 and a > 0)
        axes[a, 0].set_ylabel(_axis_words(run.species[i]) if a else "probability")
    figure.align_labels()
    where = "" if size == run.S else f", {size} of {run.S} species"
    headline(figure, run, f"t = {t:g}{where}\n{cloud.method}; square-root colours")
    return save_figure(figure, out)


def _axis_words(name: str) -> str:
    """The label of a narrow axis; long names have a line of their own."""
    return f"{name}{' ' if len(name) <= _SHORT else chr(10)}(molecules)"


def _corner_panel(axis, p: np.ndarray, tops: Sequence[int], colour: str) -> None:
    from matplotlib.colors import PowerNorm

    if p.ndim == 1:
        axis.stairs(p, np.arange(len(p) + 1) - 0.5, fill=True, color=colour, alpha=0.35)
        axis.stairs(p, np.arange(len(p) + 1) - 0.5, color=colour, linewidth=1.3)
        axis.set_ylim(0.0, 1.1 * p.max())
    else:
        edges = [np.arange(top + 2) - 0.5 for top in tops]
        norm = PowerNorm(0.5, vmin=0.0, vmax=max(float(p.max()), 1e-300))
        axis.pcolormesh(*edges, p[: tops[0] + 1, : tops[1] + 1].T, cmap="cividis", norm=norm, rasterized=True)
        axis.set_ylim(-0.5, tops[1] + 0.5)
        axis.locator_params(axis="y", integer=True, nbins=4)
    axis.set_xlim(-0.5, tops[0] + 0.5)
    axis.locator_params(axis="x", integer=True, nbins=4)
