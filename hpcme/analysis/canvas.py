"""The ground of all figures: making and writing them, colours, and what panels share. matplotlib is optional; no figure
opens a window or touches global state.

Colours are the colour-blind-safe ones of Okabe and Ito, maps are cividis (amounts) and PuOr (differences).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcme.errors import InputError
from hpcme.store.files import atomic_write
from hpcme.store.reader import Run

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SHOWN = len(OKABE_ITO)
_TYPES = (".png", ".pdf", ".svg")


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


def headline(figure, run: Run, remark: str) -> None:
    words = [
        run.model().name,
        run_name(run),
        *([f"status {run.status}"] if run.status != "done" else []),
        *([remark] if remark else []),
    ]
    figure.suptitle(", ".join(words), fontsize="medium")


def run_name(run: Run) -> str:
    return {"network": "network", "fsp": "exact", "ssa": "trajectories"}[run.kind]


def last_count(p: np.ndarray) -> int:
    """Last count worth showing: beyond it every probability is below a thousandth of the largest."""
    shown = np.flatnonzero(p > 1e-3 * p.max(initial=0.0))
    return max(1, int(shown[-1])) if len(shown) else 1


def edges(times: np.ndarray) -> np.ndarray:
    """Cell borders halfway between times; a single time gets a cell of width 1."""
    if len(times) == 1:
        return np.array([times[0] - 0.5, times[0] + 0.5])
    middle = 0.5 * (times[1:] + times[:-1])
    return np.concatenate([[times[0]], middle, [times[-1]]])


def heat(figure, axis, x: np.ndarray, y: np.ndarray, values: np.ndarray, top: float | None = None) -> Any:
    """Draw probabilities [y, x] as a map in square-root colours with a colour bar; top: where colours end (None: at the
    largest; what is above has the last colour, and the bar says so)."""
    from matplotlib.colors import PowerNorm

    mesh = axis.pcolormesh(
        x,
        y,
        values,
        cmap="cividis",
        norm=PowerNorm(0.5, vmin=0.0, vmax=max(values.max() if top is None else top, 1e-300)),
        rasterized=True,
    )
    beyond = top is not None and values.max() > 1.001 * top
    figure.colorbar(mesh, ax=axis, label="probability", extend="max" if beyond else "neither")
    return mesh
