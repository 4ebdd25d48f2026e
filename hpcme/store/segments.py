"""The closed files of a run that is under way: one per report, per batch of series rows, per checkpoint."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcme.errors import InputError
from hpcme.store.encode import read_items, write_items
from hpcme.store.files import Entry, MissingFile, Sink, atomic_write, check_version
from hpcme.store.layout import MOMENTS, SEGMENT_FORMAT, SEGMENT_VERSION, Report
from hpcme.store.seal import BrokenSeal

# what h5py raises for damage: an absent dataset, a failed checksum, a broken header, senseless text or sizes
HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError)
FOLDERS = {"report": "reports", "series": "series", "checkpoint": "checkpoints"}


@contextmanager
def new_hdf5(sink: Sink) -> Iterator[h5py.File]:
    """An HDF5 file over a Sink: closed whatever happens, and the sink's error raised after the close."""
    file = h5py.File(sink, "w", libver=("earliest", "v110"))
    try:
        yield file
    finally:
        file.close()
    sink.check()


@contextmanager
def open_hdf5(path: Path, through: Callable[[Path, int], Any] | None = None) -> Iterator[h5py.File]:
    """An HDF5 file for reading. Raises MissingFile, or InputError naming the file when HDF5 cannot read it.

    through(path, handle): the file object that HDF5 reads through; None: the file as it is.

    Through a Python file HDF5 takes no file lock (not all cluster file systems have them) and does not mind
    if the user has the same file open in xarray or h5py with other settings.
    """
    try:
        handle = open(path, "rb")  # noqa: SIM115 - the context manager is two lines below
    except FileNotFoundError:
        raise MissingFile(f"{path} is missing. Fix: restore it from a copy.") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Fix: check its permissions.") from error
    with handle:
        source = handle if through is None else through(path, handle.fileno())
        try:
            file = h5py.File(source, "r")
        except HDF5_ERRORS as error:
            # The frames of h5py hold the settings of the failed open, and these hold `source`. Whoever keeps the error
            # until the interpreter has ended has HDF5 free them then, which crashes the process.
            traceback.clear_frames(error.__traceback__)
            if isinstance(error, BrokenSeal):
                raise InputError(f"{path} is damaged: {error}. Fix: restore it from a copy.") from error
            raise InputError(
                f"{path} is not a readable HDF5 file ({_first_line(error)}). Fix: restore it from a copy."
            ) from error
        try:
            yield file
        except HDF5_ERRORS as error:
            raise InputError(
                f"{path} is damaged ({_first_line(error)}). Fix: restore it from a copy."
            ) from error
        finally:
            file.close()


def _first_line(error: Exception) -> str:
    lines = str(error.args[0] if error.args else error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def write_segment(
    folder: Path, run_uuid: str, kind: str, name: str, index: int, step: int, content: Any, level: int = 0
) -> Entry:
    """Write one segment (content: a Report, series columns or a checkpoint dict). Raises OutputError."""
    fill = {"report": _write_report, "series": _write_series, "checkpoint": write_items}[kind]

    def write(sink: Sink) -> None:
        with new_hdf5(sink) as file:
            file.attrs["format"] = np.bytes_(SEGMENT_FORMAT.encode("ascii"))
            file.attrs["format_version"] = np.int64(SEGMENT_VERSION)
            file.attrs["uuid"] = np.bytes_(run_uuid.encode("ascii"))
            file.attrs["kind"] = np.bytes_(kind.encode("ascii"))
            file.attrs["index"] = np.int64(index)
            file.attrs["step"] = np.int64(step)
            fill(file.create_group("content"), content)

    record = atomic_write(folder / name, write)
    return Entry(name, kind, index, step, record.bytes, record.sha256, level)


def read_segment(folder: Path, entry: Entry, run_uuid: str, parts: set[str] | None = None) -> Any:
    """Read a segment that the caller verified (Entry.verify): Report, series columns or checkpoint dict.

    parts: of a report, read only these ("samples", "network", "small"); None: all. Raises InputError.
    """
    path = folder / entry.name
    with open_hdf5(path) as file:
        check_version(path, int(file.attrs["format_version"]), SEGMENT_VERSION)
        if file.attrs["uuid"].decode("ascii") != run_uuid:
            raise InputError(f"{path} belongs to another run. Fix: restore the file of this run.")
        group = file["content"]
        if entry.kind == "report":
            return _read_report(group, parts)
        if entry.kind == "series":
            return {
                name: group[name][()] for name in group.attrs["columns"].tobytes().decode("utf-8").split("\n")
            }
        return read_items(group)


def _write_series(group: h5py.Group, columns: dict[str, np.ndarray]) -> None:
    group.attrs["columns"] = np.frombuffer("\n".join(columns).encode("utf-8"), dtype=np.uint8)
    for name, column in columns.items():
        group.create_dataset(name, data=column)


def _write_report(group: h5py.Group, report: Report) -> None:
    group.attrs["time"] = np.float64(report.time)
    group.attrs["index"] = np.int64(report.index)
    group.attrs["step"] = np.int64(report.step)
    if report.samples is not None:
        options = (
            {"compression": "gzip", "compression_opts": 4, "shuffle": True} if report.samples.size else {}
        )
        group.create_dataset("samples", data=report.samples, **options)
    if report.weights is not None:
        group.create_dataset("weights", data=report.weights)
    for name in MOMENTS:
        group.create_dataset(name, data=getattr(report, name))
    for name in ("marginals", "marginals_se"):
        for i, values in enumerate(getattr(report, name)):
            group.create_dataset(f"{name}/{i}", data=values)
    write_items(group.create_group("extra"), report.extra)
    if report.readouts:
        write_items(group.create_group("readouts"), report.readouts)
    if report.network is not None:
        write_items(group.create_group("network"), {"spec": report.network["spec"]})
        write_items(group.create_group("network/parameters"), report.network["parameters"])


def _read_report(group: h5py.Group, parts: set[str] | None) -> Report:
    wants = parts or {"samples", "network", "small"}
    names = len(group["marginals"])
    network = None
    if "network" in wants and "network" in group:
        network = {
            "spec": read_items(group["network"])["spec"],
            "parameters": read_items(group["network/parameters"]),
        }
    return Report(
        index=int(group.attrs["index"]),
        time=float(group.attrs["time"]),
        step=int(group.attrs["step"]),
        samples=group["samples"][()] if "samples" in wants and "samples" in group else None,
        weights=group["weights"][()] if "samples" in wants and "weights" in group else None,
        **{name: group[name][()] for name in MOMENTS},
        marginals=[group[f"marginals/{i}"][()] for i in range(names)],
        marginals_se=[group[f"marginals_se/{i}"][()] for i in range(names)],
        network=network,
        extra=read_items(group["extra"]),
        readouts=read_items(group["readouts"]) if "readouts" in group else {},
    )
