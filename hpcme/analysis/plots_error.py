"""Figures of how the solver did: convergence over the steps, and the certified bound beside measured distances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpcme.analysis.canvas import OKABE_ITO, headline, new_figure, save_figure
from hpcme.analysis.statistics import PARTS, certificate_of
from hpcme.errors import InputError
from hpcme.store.layout import SERIES
from hpcme.store.reader import Run

#: Series worth a panel, in order, and whether on a logarithmic scale; `wall` is added up.
_PANELS = {
    "dt": True,
    "residual": True,
    "loss": False,
    "defect": True,
    "error": True,
    "fit": True,
    "ess": False,
    "iterations": False,
    "epochs": False,
    "wall": False,
}
_MOST = 6
_PART_NAMES = {"time": "time integration", "start": "start", "truncation": "count limits"}


def plot_convergence(run: Run, out: str | Path) -> Path:
    """Up to six series of the solver over model time: steps, residuals, losses, sample sizes, time spent. Returns out.
    Raises InputError for a run without a series (references have none)."""
    series, names = convergence_series(run)
    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    figure = new_figure(4.8 * columns, 2.2 * lines + 0.5)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True).ravel()
    for axis, name in zip(axes, names, strict=False):
        draw_series(axis, series, name, run.time_unit)
    for axis in axes[len(names) :]:
        axis.remove()
    for axis in axes[max(0, len(names) - columns) : len(names)]:
        axis.set_xlabel(f"time ({run.time_unit})")
        axis.tick_params(labelbottom=True)
    headline(figure, run, f"{len(series['t'])} steps")
    return save_figure(figure, out)


def convergence_series(run: Run) -> tuple[dict[str, np.ndarray], list[str]]:
    """The series of a run, and the names of those that a figure shows. Raises InputError where there are none."""
    series = run.series()
    if "t" not in series or len(series["t"]) == 0:
        raise InputError(
            f"{run.path} (kind {run.kind}, status {run.status}) has no series of steps. Fix: use a run of hpcme run"
            " that has made a step."
        )
    names = [name for name in _PANELS if name in series and np.isfinite(series[name]).any()]
    return series, names[: _MOST - 1] + (["wall"] if "wall" in names[_MOST - 1 :] else names[_MOST - 1 : _MOST])


def draw_series(axis, series: dict[str, np.ndarray], name: str, time_unit: str) -> None:
    """Draw one series over model time; steps that were undone are crosses."""
    t, y = series["t"], np.asarray(series[name], dtype=np.float64)
    units, words = SERIES[name]
    if name == "wall":
        y, words = np.cumsum(np.nan_to_num(y)), "wall-clock time so far"
    failed = series["fault"] > 0 if "fault" in series else np.zeros(len(t), dtype=bool)
    if _PANELS[name] and (y[~failed] > 0).any():
        y = np.where(y > 0, y, np.nan)
        axis.set_yscale("log")
    axis.plot(t[~failed], y[~failed], color=OKABE_ITO[0], linewidth=1.2, marker="o", markersize=2.5)
    if failed.any():
        axis.plot(t[failed], y[failed], color=OKABE_ITO[1], linestyle="none", marker="x", label="undone")
        axis.legend(frameon=False, fontsize="x-small")
    unit = units.replace("T", time_unit)
    axis.set_title(words + ("" if unit == "1" else f" ({unit})"), fontsize="small", loc="left")


def plot_certificate(run: Run, out: str | Path, found: dict[str, Any] | None = None) -> Path:
    """The certified bound of the total variation error over time, its parts, and the distance measured in `found` (what
    compare.compare returns; None: none). Returns out. Raises InputError where there is neither."""
    figure = new_figure(6.4, 4.4)
    draw_certificate(figure.subplots(), run, found)
    headline(figure, run, f"against {found['reference']}" if found else "")
    return save_figure(figure, out)


def draw_certificate(axis, run: Run, found: dict[str, Any] | None, below: bool = False) -> None:
    """Draw bound, parts and measured distance; see plot_certificate. below: the legend stands under the axis."""
    certificate = certificate_of(run.extra(), list(range(len(run.times))))
    drawn = []
    if certificate:
        drawn += _line(axis, run.times, certificate["bound"], "certified bound", color="black", linewidth=1.8)
        for colour, style, name in zip(OKABE_ITO, ("--", "-.", ":", (0, (5, 1)), (0, (1, 1))), PARTS, strict=False):
            label = f"of it: {_PART_NAMES.get(name, name)}"
            drawn += _line(axis, run.times, certificate[name], label, color=colour, linestyle=style, linewidth=1.2)
    if found:
        se = np.array([x or 0.0 for x in found["joint"].get("tv_se") or [0.0] * len(found["times"])])
        drawn += _line(
            axis, np.array(found["times"]), found["joint"]["tv"], "measured distance",
            yerr=2 * se if se.any() else None, color="black", linestyle=":", marker="D", markersize=4.5,
            markerfacecolor="white", linewidth=1.0,
        )  # fmt: skip
    if not drawn:
        raise InputError(
            f"{run.path} stores no certified bound, and no distance was measured. Fix: name a reference (--reference),"
            " or use a run of hpcme run."
        )
    axis.set_yscale("log")
    axis.set_ylim(bottom=max(axis.get_ylim()[0], 1e-6 * max(drawn)), top=2.0 * max(drawn))
    axis.set_xlabel(f"time ({run.time_unit})")
    axis.set_ylabel("total variation distance")
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2} if below else {
        "loc": "center left", "bbox_to_anchor": (1.01, 0.5)
    }  # fmt: skip
    axis.legend(frameon=False, fontsize="small", **place)


def _line(axis, times: np.ndarray, values: Any, label: str, **style: Any) -> list[float]:
    """Draw the positive values of a line; returns the largest, [] where there is none."""
    y = np.array([np.nan if value is None or value < 1e-12 else value for value in values], dtype=np.float64)
    if not np.isfinite(y).any():
        return []
    axis.errorbar(times, y, label=label, **{"yerr": None, "marker": "o", "markersize": 3, **style})
    return [float(np.nanmax(y))]
