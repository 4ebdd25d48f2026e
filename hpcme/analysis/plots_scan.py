"""Maps of a scan, from its merged file: one number per task over one or two axes of the scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcme.analysis.canvas import OKABE_ITO, new_figure, save_figure
from hpcme.errors import InputError, did_you_mean
from hpcme.store.merged import MERGED_FORMAT
from hpcme.store.segments import HDF5_ERRORS, open_hdf5

#: Quantities of a species, and what they are called.
QUANTITIES = {"mean": "mean", "sd": "standard deviation", "fano": "Fano factor (variance / mean)", "cv": "sd / mean"}
_LINES = ("-", "--", "-.", ":")
_MOST_LINES = len(OKABE_ITO)


@dataclass(frozen=True)
class ScanMap:
    """One number per task. values float64 [A] over the axes that are left (one or two), NaN where a task is missing;
    names and scales of these axes; what: in words with units; fixed: where the other axes stand; missing: tasks."""

    names: list[str]
    scales: list[np.ndarray]
    values: np.ndarray
    what: str
    fixed: dict[str, Any]
    missing: int


def is_merged(path: str | Path) -> bool:
    """Whether a file is the merged file of a scan."""
    if not Path(path).is_file():
        return False
    try:
        with h5py.File(path) as file:
            return _text(file.attrs.get("format", b"")) == MERGED_FORMAT
    except HDF5_ERRORS:
        return False


def scan_map(
    path: str | Path,
    quantity: str = "mean",
    species: str | None = None,
    time: float | None = None,
    at: Mapping[str, str] | None = None,
) -> ScanMap:
    """Read one number per task from a merged file; only the chunks that hold the time and species are read.

    quantity: one of QUANTITIES of a species, or the name of a scalar of the reports (bound, lost, entropy, ...).
    species: which one (None: the first; not for scalars). time: a stored time (None: the last). at: {axis: value} for
    axes that are not shown, by value as printed; axes that are left unsaid beyond two stand at their first value.
    Raises InputError for what is not there, naming what is.
    """
    with open_hdf5(Path(path)) as file:
        dims = [_text(dim.label) for dim in file["mean"].dims]
        axes = dims[: dims.index("time")]
        scales = {name: _scale(file[name]) for name in axes}
        chosen = {name: _place(name, text, scales) for name, text in (at or {}).items()}
        free = [name for name in axes if name not in chosen and len(scales[name]) > 1]
        if not free:
            free = [name for name in axes if name not in chosen][:1]
        if not free:
            raise InputError(f"all axes of the scan are fixed ({', '.join(axes)}). Fix: leave one of them out of --at.")
        for name in axes:
            if name not in free[:2]:
                chosen.setdefault(name, 0)
        free = free[:2]
        k = _time(file["time"][()], time, path)
        where = tuple(slice(None) if name in free else chosen[name] for name in axes)
        values, what = _read(file, quantity, species, where, k)
        shape = tuple(len(scales[name]) for name in free)
        t, unit = float(file["time"][k]), _text(file["time"].attrs["units"])
        missing = int(np.sum(file["mask"][where] == 0))
    fixed = {name: scales[name][i] for name, i in chosen.items() if len(scales[name]) > 1} | {"t": t}
    return ScanMap(free, [scales[name] for name in free], values.reshape(shape), what, fixed | {"unit": unit}, missing)


def _read(file: h5py.File, quantity: str, species: str | None, where: tuple, k: int) -> tuple[np.ndarray, str]:
    names = [_text(name) for name in file["species"][()]]
    scalars = sorted(name.removeprefix("extra_") for name in file if name.startswith("extra_"))
    if quantity in scalars:
        if species is not None:
            raise InputError(f"{quantity} is a number of the whole law, not of a species. Fix: leave --species out.")
        data = file[f"extra_{quantity}"]
        units = _text(data.attrs["units"])
        return data[(*where, k)], _text(data.attrs["long_name"]) + ("" if units == "1" else f" ({units})")
    if quantity not in QUANTITIES:
        allowed = [*QUANTITIES, *scalars]
        raise InputError(
            f'there is no quantity "{quantity}" in this scan: there are {", ".join(allowed)}.'
            + did_you_mean(quantity, allowed)
        )
    if species is not None and species not in names:
        raise InputError(
            f'there is no species "{species}" in this scan: it has {", ".join(names)}.' + did_you_mean(species, names)
        )
    i = 0 if species is None else names.index(species)
    mean, sd = (file[name][(*where, k, i)] for name in ("mean", "sd"))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {"mean": mean, "sd": sd, "fano": sd**2 / mean, "cv": sd / mean}[quantity]
    unit = " (molecules)" if quantity in ("mean", "sd", "fano") else ""
    return values, f"{QUANTITIES[quantity]} of {names[i]}{unit}"


def plot_scan(path: str | Path, out: str | Path, shown: ScanMap) -> Path:
    """Draw a ScanMap: over two axes a heat map (missing tasks are hatched), over one a line. Returns out."""
    figure = new_figure(6.4, 4.6)
    axis = figure.subplots()
    if len(shown.names) == 1:
        _draw_line(axis, shown)
    else:
        _draw_map(figure, axis, shown)
    fixed = dict(shown.fixed)
    unit = fixed.pop("unit")
    words = [f"{name} = {_word(value)}" for name, value in fixed.items()]
    if unit != "model time unit":
        words[-1] += f" {unit}"
    missing = [f"{shown.missing} tasks missing"] if shown.missing else []
    figure.suptitle(", ".join([Path(path).parent.name or Path(path).name, *words, *missing]), fontsize="medium")
    return save_figure(figure, out)


def _draw_line(axis, shown: ScanMap) -> None:
    place, labels = _positions(shown.scales[0])
    axis.plot(place, shown.values, color=OKABE_ITO[0], marker="o", markersize=4, linewidth=1.4)
    _label(axis, "x", place, labels, shown.names[0])
    axis.set_ylabel(shown.what)


def _draw_map(figure, axis, shown: ScanMap) -> None:
    places = [_positions(scale) for scale in shown.scales]
    x, y = (np.arange(len(scale) + 1) - 0.5 for scale in shown.scales)
    axis.set_facecolor("#dddddd")
    values = np.ma.masked_invalid(shown.values)
    mesh = axis.pcolormesh(x, y, values.T, cmap="cividis", rasterized=True)
    if values.mask.any():
        axis.patch.set_hatch("//")
        axis.patch.set_edgecolor("#999999")
    for way, (_, labels), scale, name in zip("xy", places, shown.scales, shown.names, strict=True):
        _label(axis, way, np.arange(len(scale)), labels or [_word(value) for value in scale], name)
    figure.colorbar(mesh, ax=axis, label=shown.what)


def _positions(scale: np.ndarray) -> tuple[np.ndarray, list[str] | None]:
    """Where the values of an axis stand, and their words where they are no numbers."""
    if np.asarray(scale).dtype.kind in "iuf":
        return np.asarray(scale, dtype=np.float64), None
    return np.arange(len(scale), dtype=np.float64), [str(value) for value in scale]


def _label(axis, way: str, place: np.ndarray, labels: list[str] | None, name: str) -> None:
    getattr(axis, f"set_{way}label")(name)
    if labels is not None:
        step = -(-len(labels) // 10)  # ten labels at most have room
        chosen = list(range(0, len(labels), step))
        getattr(axis, f"set_{way}ticks")([place[i] for i in chosen], [labels[i] for i in chosen])
        return
    positive = (place > 0).all() and len(place) > 2
    if positive and np.allclose(np.diff(np.log(place)), np.log(place[1] / place[0])) and place[-1] > 3 * place[0]:
        getattr(axis, f"set_{way}scale")("log")


def _time(times: np.ndarray, time: float | None, path: str | Path) -> int:
    if time is None:
        return len(times) - 1
    k = int(np.argmin(np.abs(times - time)))
    if abs(times[k] - time) > 1e-9 * max(1.0, float(np.abs(times).max())):
        near = ", ".join(f"{t:g}" for t in np.sort(times[np.argsort(np.abs(times - time))[:3]]))
        raise InputError(f"time {time:g} is not stored in {path}: nearest are {near}. Fix: ask for one of these.")
    return k


def _place(name: str, text: str, scales: Mapping[str, np.ndarray]) -> int:
    """Where an axis has the value that was written. Raises InputError."""
    if name not in scales:
        raise InputError(
            f'the scan has no axis "{name}": it has {", ".join(scales)}.' + did_you_mean(name, list(scales))
        )
    scale = scales[name]
    for i, value in enumerate(scale):
        if _word(value) == text or (_is_number(text) and scale.dtype.kind in "iuf" and np.isclose(value, float(text))):
            return i
    raise InputError(f"axis {name} has no value {text}: it has {', '.join(map(_word, scale))}.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def _scale(dataset: h5py.Dataset) -> np.ndarray:
    values = dataset[()]
    return np.array([_text(value) for value in values]) if values.dtype.kind == "S" else values


def _text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode("utf-8")
