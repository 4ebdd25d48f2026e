"""One file for all runs of a scan: the axes of the scan are dimensions in front of those of a single run.

merged.h5 (format "hpcme-scan", version 1; A the axes of the scan, T report times, S species), all at the root:
    /AXIS [n]                          dimension scale of each axis: its values, or 1, 2, ... for a design
    /KEY [n]                           what a further key of the same axis is at each position (linked lists, designs)
    /time [T], /species [S], /species_2 [S], /count_X [limit + 1]          dimension scales
    /task [A] int64                    number of the task
    /mask [A] int8                     1: the task's results are here; 0: missing
    /state, /reason [A] text           done, or where the task stood when the file was made, and why
    /run [A] text                      uuid of the run that was copied, '' where missing
    /mean, mean_se, sd, sd_se [A,T,S], /covariance, covariance_se [A,T,S,S]
    /marginal_X, marginal_X.se [A,T,count_X]                               one of each per species X
    /extra_NAME [A,T]                  scalars of the reports
    /provenance                        texts: model, job, scan
Numbers of missing tasks are NaN. Datasets hold float64, int64, int8 or text of a fixed length; HDF5 references occur
only where HDF5's own dimension scales keep them (the attributes DIMENSION_LIST and REFERENCE_LIST), as in results.h5.
Everything is copied: the folders of the tasks can be deleted afterwards. Samples, networks and series are not copied.

Tasks are read and written one at a time, and a chunk is never larger than a fixed size: the memory needed does not grow
with the number of tasks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcme.errors import InputError, OutputError
from hpcme.store.files import Manifest, Sink, atomic_write, cannot_write
from hpcme.store.layout import DATASETS, DEFAULT_TIME_UNIT, RESULTS, SERIES, attributes
from hpcme.store.segments import new_hdf5, open_hdf5
from hpcme.store.sources import ResultsSource

MERGED = "merged.h5"
MERGED_FORMAT = "hpcme-scan"
MERGED_VERSION = 1
_MOMENTS = ("mean", "mean_se", "sd", "sd_se", "covariance", "covariance_se")
#: Names at the root that no axis may have.
_TAKEN = frozenset(("time", "species", "species_2", "task", "mask", "state", "reason", "run", "provenance", *_MOMENTS))
_PREFIXES = ("marginal_", "count_", "extra_")
_CHUNK = 1 << 18  # bytes of a chunk at most, unless the last dimension alone is larger
_REASON = 500  # characters
_SD = {"units": "molecules", "long_name": "standard deviation of the count"}


@dataclass(frozen=True)
class MergedAxis:
    """An axis of the scan: its name, its scale (int64, float64 or text [n]) with a long name, and what further keys are
    along it, {name: (long name, values [n])}."""

    name: str
    about: str
    scale: np.ndarray
    columns: dict[str, tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Cell:
    """A task: its number, its run folder, its state, why it is not done, and the identity that its run must have."""

    number: int
    folder: Path
    state: str
    reason: str
    model_hash: str
    job_hash: str


@dataclass(frozen=True)
class Content:
    """What is merged. axes: outermost first; cells: one per combination, the last axis running fastest; species,
    limits and report times of all tasks; texts: what /provenance holds."""

    axes: Sequence[MergedAxis]
    cells: Sequence[Cell]
    species: list[str]
    limits: list[int]
    times: np.ndarray
    time_unit: str
    texts: dict[str, str]

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(len(axis.scale) for axis in self.axes)


def merged_name(label: str) -> str:
    """The name of a key at the root of a merged file: its own, with parameter_ in front where that is taken."""
    return f"parameter_{label}" if label in _TAKEN or label.startswith(_PREFIXES) else label


def text_array(texts: Sequence[str]) -> np.ndarray:
    """Texts as fixed-length UTF-8 strings [n], which every HDF5 reader understands."""
    encoded = [text.encode("utf-8") for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(1, *map(len, encoded))))


def write_merged(path: Path, content: Content, progress: Callable[[float], None] = lambda share: None) -> list[Cell]:
    """Write the merged file and compare what it holds with what went in; returns the cells as they are in the file.

    A task that was done but cannot be read is missing in the file, with the reason. progress(share) is called after
    each task. Raises InputError when no task is done, OutputError when the file cannot be written.
    """
    if not any(cell.state == "done" for cell in content.cells):
        raise InputError(f"no task of the scan is done: there is nothing to merge into {path}.")
    cells: list[Cell] = []
    digests: dict[int, bytes] = {}

    def write(sink: Sink) -> None:
        with new_hdf5(sink) as file:
            cells.extend(_Writer(file, content, sink, digests, progress).write_all())

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    atomic_write(path, write, lambda temporary: _compare(temporary, path, content.shape, cells, digests))
    return cells


class _Writer:
    """Fills the file, one task at a time."""

    def __init__(
        self, file: h5py.File, content: Content, sink: Sink, digests: dict[int, bytes], progress: Callable
    ) -> None:
        self.file, self.content, self.sink, self.digests, self.progress = file, content, sink, digests, progress
        self.unit = DEFAULT_TIME_UNIT if content.time_unit == "1" else content.time_unit
        self.axes = tuple(axis.name for axis in content.axes)
        # A dataset that is closed gives up its chunks, and tasks share chunks: these stay open.
        self.open: dict[str, h5py.Dataset] = {}

    def write_all(self) -> list[Cell]:
        self.scales()
        self.tables()
        cells, runs = [], []
        for index, cell in zip(np.ndindex(*self.content.shape), self.content.cells, strict=True):
            cell, run = self.copy(index, cell)
            cells.append(cell)
            runs.append(run)
            self.sink.check()
            self.progress(len(cells) / len(self.content.cells))
        self.per_task(cells, runs)
        self.texts()
        return cells

    def texts(self) -> None:
        file, columns = self.file, [name for axis in self.content.axes for name in axis.columns]
        file.attrs["format"] = np.bytes_(MERGED_FORMAT.encode("ascii"))
        file.attrs["format_version"] = np.int64(MERGED_VERSION)
        # By the CF conventions, these are coordinates: xarray takes them for such.
        _label(file.attrs, "coordinates", " ".join(["task", *columns]))
        group = file.create_group("provenance")
        for name, text in self.content.texts.items():
            array = text_array([text])
            group.create_dataset(name, data=array[0], dtype=array.dtype)

    def dataset(
        self, name: str, shape: tuple[int, ...], dtype: Any, dims: tuple[str, ...], about: dict[str, str],
        data: np.ndarray | None = None,
    ) -> h5py.Dataset:  # fmt: skip
        """A dataset with chunks, checksums, units, long name and dimension scales; numbers not written are NaN."""
        options: dict[str, Any] = {"chunks": _chunks(shape, np.dtype(dtype).itemsize), "fletcher32": True}
        if math.prod(shape) > 64:
            options |= {"compression": "gzip", "compression_opts": 4, "shuffle": True}
        if np.dtype(dtype).kind == "f":
            options["fillvalue"] = np.nan
        dataset = self.file.create_dataset(name, shape=shape, dtype=dtype, data=data, **options)
        for key, text in about.items():
            _label(dataset.attrs, key, text)
        if np.dtype(dtype).kind == "S":
            _label(dataset.attrs, "_Encoding", "utf-8")  # netCDF's convention: xarray then gives texts and not bytes
        for axis, dim in enumerate(dims):
            dataset.dims[axis].attach_scale(self.file[dim])
            dataset.dims[axis].label = dim
        return dataset

    def scales(self) -> None:
        content, unit = self.content, self.unit
        scales = [(axis.name, axis.scale, {"units": "1", "long_name": axis.about}) for axis in content.axes]
        scales.append(("time", np.asarray(content.times, dtype=np.float64), attributes("time", unit)))
        scales += [(name, text_array(content.species), attributes(name, unit)) for name in ("species", "species_2")]
        for name, limit in zip(content.species, content.limits, strict=True):
            scales.append((f"count_{name}", np.arange(limit + 1, dtype=np.int64), attributes("count", unit)))
        for name, data, about in scales:
            self.dataset(name, data.shape, data.dtype, (), about, data).make_scale(name)
        for axis in content.axes:
            for name, (about, data) in axis.columns.items():
                self.dataset(name, data.shape, data.dtype, (axis.name,), {"units": "1", "long_name": about}, data)

    def tables(self) -> None:
        """The datasets of moments and marginals, as yet without numbers."""
        A, T, S = self.content.shape, len(self.content.times), len(self.content.species)
        for name in _MOMENTS:
            more = ("species", "species_2") if "covariance" in name else ("species",)
            about = attributes(name, self.unit) if name in DATASETS else _SD
            dims = (*self.axes, "time", *more)
            self.open[name] = self.dataset(name, (*A, T, *([S] * len(more))), np.float64, dims, about)
        for name, limit in zip(self.content.species, self.content.limits, strict=True):
            for suffix, about in (("", "marginal"), (".se", "marginal_se")):
                dims, shape = (*self.axes, "time", f"count_{name}"), (*A, T, limit + 1)
                self.open[f"marginal_{name}{suffix}"] = self.dataset(
                    f"marginal_{name}{suffix}", shape, np.float64, dims, attributes(about, self.unit)
                )

    def copy(self, index: tuple[int, ...], cell: Cell) -> tuple[Cell, str]:
        """Copy a task that is done; returns the cell as it is in the file, and the uuid of its run."""
        if cell.state != "done":
            return cell, ""
        try:
            run, arrays = self.read(cell)
        except InputError as error:
            return replace(cell, state="damaged", reason=str(error)), ""
        for name in sorted(arrays):
            if name not in self.open:  # a scalar of the reports that no task before had
                shape = (*self.content.shape, len(self.content.times))
                about = attributes(name.removeprefix("extra_"), self.unit, SERIES)
                self.open[name] = self.dataset(name, shape, np.float64, (*self.axes, "time"), about)
            self.open[name][index] = arrays[name]
        self.digests[cell.number] = _digest(arrays)
        return cell, run

    def read(self, cell: Cell) -> tuple[str, dict[str, np.ndarray]]:
        """uuid and all arrays of a run, by their names in the merged file. Raises InputError."""
        manifest = Manifest.load(cell.folder)
        if (manifest.model_hash, manifest.job_hash) != (cell.model_hash, cell.job_hash):
            raise InputError(f"{cell.folder} holds the run of another job.")
        with ResultsSource(cell.folder / RESULTS) as source:
            if source.uuid != manifest.uuid:
                raise InputError(f"{source.path} belongs to another run. Fix: restore the file of this run.")
            arrays = {name: source.moments(name) for name in _MOMENTS if not name.startswith("sd")}
            variance = np.diagonal(arrays["covariance"], axis1=1, axis2=2)
            arrays |= {"sd": np.sqrt(np.maximum(variance, 0.0)), "sd_se": source.moments("sd_se")}
            for name, limit in zip(self.content.species, self.content.limits, strict=True):
                for suffix, table in zip(("", ".se"), source.marginals(name), strict=True):
                    # A task with a smaller automatic limit has no counts above it.
                    short = max(0, limit + 1 - table.shape[1])
                    arrays[f"marginal_{name}{suffix}"] = np.pad(table, ((0, 0), (0, short)))
            arrays |= {f"extra_{name}": values for name, values in source.extras().items()}
            if not np.array_equal(source.times(), self.content.times):
                raise InputError(f"{source.path} has other report times than the scan.")
        return source.uuid, arrays

    def per_task(self, cells: list[Cell], runs: list[str]) -> None:
        A = self.content.shape
        columns = {
            "task": ("number of the task", np.array([cell.number for cell in cells], dtype=np.int64)),
            "mask": ("1: the results of the task are here, 0: missing",
                     np.array([cell.state == "done" for cell in cells], dtype=np.int8)),
            "state": ("where the task stood when this file was made", text_array([cell.state for cell in cells])),
            "reason": ("why the task is missing", text_array([cell.reason[:_REASON] for cell in cells])),
            "run": ("uuid of the run", text_array(runs)),
        }  # fmt: skip
        for name, (about, data) in columns.items():
            self.dataset(name, A, data.dtype, self.axes, {"units": "1", "long_name": about}, data.reshape(A))


def _compare(
    temporary: Path, path: Path, shape: tuple[int, ...], cells: list[Cell], digests: dict[int, bytes]
) -> None:
    """Read the new file back, task by task. Raises OutputError."""
    with open_hdf5(temporary) as file:
        tables = {name: file[name] for name in file if name in _MOMENTS or name.startswith(("marginal_", "extra_"))}
        mask = file["mask"][()]
        for index, cell in zip(np.ndindex(*shape), cells, strict=True):
            found = _digest({name: table[index] for name, table in tables.items()}) if cell.number in digests else None
            if found != digests.get(cell.number) or bool(mask[index]) != (cell.state == "done"):
                raise OutputError(
                    f"{path} reads back differently from what was written (task {cell.number}); it was discarded. Fix: "
                    "check the file system, then repeat the command."
                )


def _digest(arrays: dict[str, np.ndarray]) -> bytes:
    """SHA-256 of the numbers of a task; a scalar that it lacks counts like one that is NaN."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        if not (name.startswith("extra_") and np.isnan(arrays[name]).all()):
            digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.digest()


def _label(attrs: h5py.AttributeManager, name: str, text: str) -> None:
    array = text_array([text])
    attrs.create(name, array[0], dtype=array.dtype)


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """As many of the last dimensions as fit into a chunk, and as much as fits of the one before: tasks that follow each
    other share a chunk, so each is compressed once."""
    chunks, size = [], itemsize
    for length in reversed(shape):
        fits = max(1, min(length, _CHUNK // size))
        chunks.append(fits)
        size *= fits
    return tuple(reversed(chunks))
