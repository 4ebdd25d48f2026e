"""results.h5: the whole run in one plain HDF5 file that h5py, xarray, MATLAB and Julia read.

Written once, from the closed segments (or from the arrays of an exact or trajectory solution), under a
temporary name; read back and compared bit for bit before it gets its name. See layout.py for what is where,
seal.py for the checksums at its end.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcme.errors import InternalError, OutputError
from hpcme.store.encode import write_items
from hpcme.store.files import FileRecord, Manifest, Sink, atomic_write
from hpcme.store.layout import (
    DATASETS,
    DEFAULT_TIME_UNIT,
    MOMENTS,
    READOUTS,
    RESULTS,
    RESULTS_FORMAT,
    RESULTS_VERSION,
    SERIES,
    Report,
    attributes,
    same_bits,
)
from hpcme.store.seal import append_seal
from hpcme.store.segments import new_hdf5
from hpcme.store.sources import ResultsSource

_CHUNK = 1 << 20  # bytes; small enough to read one time cheaply, large enough for the compressor


@dataclass(frozen=True)
class Content:
    """What goes into results.h5: reports by number, series columns, and the blocks of reference runs.

    report(k) -> Report for k = 0..number-1 (called several times; reports are not all held in memory).
    fsp: None or {"states" int32 [M,S], "probability" float64 [T,M], "lost" float64 [T]}.
    events: None or int64 [N].
    """

    number: int
    report: Callable[[int], Report]
    series: dict[str, np.ndarray]
    fsp: dict[str, np.ndarray] | None = None
    events: np.ndarray | None = None


def write_results(folder: Path, manifest: Manifest, content: Content) -> FileRecord:
    """Write and verify folder/results.h5. Raises OutputError (cannot write, or read back differently)."""
    path = Path(folder) / RESULTS
    if content.number == 0:
        raise InternalError("a run without reports cannot be finished")
    shapes = _Shapes.of(content)

    def write(sink: Sink) -> None:
        with new_hdf5(sink) as file:
            _Writer(file, manifest, content, shapes, sink).write_all()
        append_seal(sink)

    return atomic_write(path, write, lambda temporary: _compare(temporary, path, manifest, content, shapes))


@dataclass(frozen=True)
class _Shapes:
    """Sizes shared by all reports: samples N, marginal lengths per species, weights or not, extra names."""

    samples: int
    lengths: tuple[int, ...]
    weighted: bool
    extra: tuple[str, ...]
    readouts: tuple[str, ...]

    @classmethod
    def of(cls, content: Content) -> _Shapes:
        samples, lengths, weighted, extra, readouts = 0, None, False, {}, {}
        for k in range(content.number):
            report = content.report(k)
            samples = max(samples, 0 if report.samples is None else len(report.samples))
            weighted = weighted or report.weights is not None
            own = [len(m) for m in report.marginals]
            lengths = own if lengths is None else [max(pair) for pair in zip(lengths, own, strict=True)]
            extra.update(dict.fromkeys(report.extra))
            readouts.update(dict.fromkeys(report.readouts))
        return cls(samples, tuple(lengths or ()), weighted, tuple(extra), tuple(readouts))

    def stored(self, report: Report) -> Report:
        """The report as the file holds it: marginals padded with zeros, equal weights written out."""
        weights = report.weights
        if self.weighted and weights is None and report.samples is not None:
            weights = np.full(len(report.samples), 1.0 / len(report.samples))
        pad = [self._padded(report.marginals), self._padded(report.marginals_se)]
        none = np.full(len(READOUTS), np.nan)
        readouts = {name: report.readouts.get(name, none) for name in self.readouts}
        return replace(report, weights=weights, marginals=pad[0], marginals_se=pad[1], readouts=readouts)

    def _padded(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [
            np.pad(array, (0, length - len(array)))
            for array, length in zip(arrays, self.lengths, strict=True)
        ]


class _Writer:
    """Fills the file; one method per group."""

    def __init__(
        self, file: h5py.File, manifest: Manifest, content: Content, shapes: _Shapes, sink: Sink
    ) -> None:
        self.file = file
        self.manifest = manifest
        self.content = content
        self.shapes = shapes
        self.sink = sink
        self.time_unit = manifest.units.get("time", DEFAULT_TIME_UNIT)
        self.species = len(manifest.species)

    def write_all(self) -> None:
        self.attributes()
        self.scales()
        self.create_report_datasets()
        for k in range(self.content.number):
            self.fill_report(k, self.shapes.stored(self.content.report(k)))
            self.sink.check()
        self.series()
        self.blocks()
        self.provenance()

    def attributes(self) -> None:
        manifest = self.manifest
        for name, text in (("format", RESULTS_FORMAT), ("uuid", manifest.uuid), ("kind", manifest.kind)):
            self.file.attrs[name] = np.bytes_(text.encode("ascii"))
        self.file.attrs["format_version"] = np.int64(RESULTS_VERSION)

    def dataset(
        self,
        path: str,
        shape: tuple[int, ...],
        dtype: Any,
        dims: tuple[str, ...] = (),
        *,
        about: str = "",
        table: dict = DATASETS,
        data: np.ndarray | None = None,
    ) -> h5py.Dataset:
        """Create a dataset with chunks, checksums, units, long name, dimension scales (a path per axis)."""
        options: dict[str, Any] = {}
        if shape and 0 not in shape:
            options = {"chunks": _chunks(shape, np.dtype(dtype).itemsize), "fletcher32": True}
            if np.prod(shape) > 64:
                options |= {"compression": "gzip", "compression_opts": 4, "shuffle": True}
        dataset = self.file.create_dataset(path, shape=shape, dtype=dtype, data=data, **options)
        for name, text in attributes(about or path.rpartition("/")[2], self.time_unit, table).items():
            dataset.attrs[name] = _fixed(text)
        for axis, dim in enumerate(dims):
            dataset.dims[axis].attach_scale(self.file[dim])
            dataset.dims[axis].label = dim.rpartition("/")[2]
        return dataset

    def scale(self, path: str, data: np.ndarray, about: str = "") -> None:
        name = path.rpartition("/")[2]
        self.dataset(path, data.shape, data.dtype, about=about, data=data).make_scale(name)

    def scales(self) -> None:
        number = self.content.number
        self.dataset("time", (number,), np.float64).make_scale("time")
        for name in ("species", "species_2"):
            self.scale(name, _names(self.manifest.species))
        if self.shapes.readouts:
            self.scale("readout", _names(list(self.shapes.readouts)))
        if self.shapes.samples:
            self.scale("sample", np.arange(self.shapes.samples, dtype=np.int64))
        self.dataset(
            "limits",
            (self.species,),
            np.int64,
            ("species",),
            data=np.asarray(self.manifest.limits, dtype=np.int64),
        )

    def create_report_datasets(self) -> None:
        number, species, samples = self.content.number, self.species, self.shapes.samples
        self.dataset("step", (number,), np.int64, ("time",))
        for name in MOMENTS:
            two = "covariance" in name
            self.dataset(
                f"moments/{name}",
                (number, species, species)[: 3 if two else 2],
                np.float64,
                ("time", "species", "species_2")[: 3 if two else 2],
            )
        for species_name, length in zip(self.manifest.species, self.shapes.lengths, strict=True):
            count = f"marginals/{species_name}.count"
            self.scale(count, np.arange(length, dtype=np.int64), about="count")
            for suffix, about in (("", "marginal"), (".se", "marginal_se")):
                self.dataset(
                    f"marginals/{species_name}{suffix}",
                    (number, length),
                    np.float64,
                    ("time", count),
                    about=about,
                )
        if samples:
            self.dataset("samples_count", (number,), np.int64, ("time",))
            self.dataset("samples", (number, samples, species), np.int32, ("time", "sample", "species"))
            if self.shapes.weighted:
                self.dataset("samples_weight", (number, samples), np.float64, ("time", "sample"))
        for name in READOUTS if self.shapes.readouts else ():
            shape = (number, len(self.shapes.readouts))
            self.dataset(f"readouts/{name}", shape, np.float64, ("time", "readout"), about=f"readout_{name}")
        for name in self.shapes.extra:
            self.dataset(f"extra/{name}", (number,), np.float64, ("time",), table=SERIES)

    def fill_report(self, k: int, report: Report) -> None:
        file = self.file
        file["time"][k] = report.time
        file["step"][k] = report.step
        for name in MOMENTS:
            file[f"moments/{name}"][k] = getattr(report, name)
        for i, name in enumerate(self.manifest.species):
            file[f"marginals/{name}"][k] = report.marginals[i]
            file[f"marginals/{name}.se"][k] = report.marginals_se[i]
        if self.shapes.samples:
            self.fill_samples(k, report)
        for j, name in enumerate(READOUTS if self.shapes.readouts else ()):
            file[f"readouts/{name}"][k] = [report.readouts[own][j] for own in self.shapes.readouts]
        for name in self.shapes.extra:
            file[f"extra/{name}"][k] = report.extra.get(name, np.nan)
        if report.network is not None:
            group = file.create_group(f"networks/{k}")
            spec = _fixed(report.network["spec"])
            group.create_dataset("spec", data=spec)
            write_items(group.create_group("parameters"), report.network["parameters"])

    def fill_samples(self, k: int, report: Report) -> None:
        number = 0 if report.samples is None else len(report.samples)
        self.file["samples_count"][k] = number
        padded = np.full((self.shapes.samples, self.species), -1, dtype=np.int32)
        weights = np.zeros(self.shapes.samples)
        if number:
            padded[:number] = report.samples
            if report.weights is not None:
                weights[:number] = report.weights
        self.file["samples"][k] = padded
        if self.shapes.weighted:
            self.file["samples_weight"][k] = weights

    def series(self) -> None:
        if not self.content.series:
            return
        rows = len(next(iter(self.content.series.values())))
        self.scale("series/row", np.arange(rows, dtype=np.int64))
        for name, column in self.content.series.items():
            self.dataset(
                f"series/{name}", column.shape, column.dtype, ("series/row",), table=SERIES, data=column
            )
            self.sink.check()

    def blocks(self) -> None:
        fsp, events = self.content.fsp, self.content.events
        if fsp is not None:
            number, states = fsp["probability"].shape
            self.scale("fsp/state", np.arange(states, dtype=np.int64))
            self.dataset(
                "fsp/states", fsp["states"].shape, np.int32, ("fsp/state", "species"), data=fsp["states"]
            )
            self.dataset("fsp/lost", (number,), np.float64, ("time",), data=fsp["lost"])
            self.dataset("fsp/probability", (number, states), np.float64, ("time", "fsp/state"))
            for k in range(number):
                self.file["fsp/probability"][k] = fsp["probability"][k]
                self.sink.check()
        if events is not None:
            self.dataset("ssa/events", events.shape, np.int64, ("sample",), data=events)

    def provenance(self) -> None:
        group = self.file.create_group("provenance")
        for name, value in self.manifest.described().items():
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                dataset = group.create_dataset(name, data=json.dumps(value), dtype=h5py.string_dtype("utf-8"))
                dataset.attrs["encoding"] = np.bytes_(b"json")
            elif isinstance(value, str):
                group.create_dataset(name, data=value, dtype=h5py.string_dtype("utf-8"))
            elif isinstance(value, int) and not -(2**63) <= value < 2**63:
                group.create_dataset(name, data=json.dumps(value), dtype=h5py.string_dtype("utf-8")).attrs[
                    "encoding"
                ] = np.bytes_(b"json")
            else:
                group.attrs[name] = np.int64(value) if isinstance(value, int) else np.float64(value)


def _compare(temporary: Path, path: Path, manifest: Manifest, content: Content, shapes: _Shapes) -> None:
    """Read the new file back and compare it with what went in."""

    def expect(what: str, right: Any, read: Any) -> None:
        if not same_bits(right, read):
            raise OutputError(
                f"{path} reads back differently from what was written ({what}); it was discarded and"
                " the run's other files are intact. Fix: check the file system, then repeat the"
                " command."
            )

    with ResultsSource(temporary) as source:
        expect("number of reports", content.number, source.number)
        for k in range(content.number):
            expect(f"report {k}", vars(shapes.stored(content.report(k))), vars(source.report(k)))
        expect("series", content.series, source.series())
        expect("provenance", manifest.described(), source.provenance)
        if content.fsp is not None:
            expect("states", content.fsp["states"], source.fsp_states())
            for k in range(content.number):
                expect(f"probability {k}", content.fsp["probability"][k], source.fsp_probability(k))
            expect("lost", content.fsp["lost"], source.fsp_lost())
        if content.events is not None:
            expect("events", content.events, source.ssa_events())


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunks of at most about 1 MiB: whole rows of the first axis where they fit, else pieces of one row."""
    row = int(np.prod(shape[1:], dtype=np.int64)) * itemsize
    if len(shape) == 1 or row * 8 <= _CHUNK:
        return (max(1, min(shape[0], _CHUNK // row)), *shape[1:])
    rest = int(np.prod(shape[2:], dtype=np.int64)) * itemsize
    return (1, max(1, min(shape[1], _CHUNK // rest)), *shape[2:])


def _names(names: list[str]) -> np.ndarray:
    encoded = [name.encode("utf-8") for name in names]
    length = max(len(name) for name in encoded)
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", length))


def _fixed(text: str) -> np.ndarray:
    """A fixed-length UTF-8 string scalar, which every HDF5 reader understands."""
    data = text.encode("utf-8")
    return np.array(data, dtype=h5py.string_dtype("utf-8", max(1, len(data))))
