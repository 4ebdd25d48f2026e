"""What a scan hands to the merged file: its axes as arrays, and where each task stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import hpcme
from hpcme.scan.design import Axis
from hpcme.scan.ranges import shown
from hpcme.scan.states import states_of
from hpcme.scan.tasks import Scan
from hpcme.store.files import Manifest
from hpcme.store.merged import MERGED, Cell, Content, MergedAxis, merged_name, text_array, write_merged


def merge(scan: Scan, out: Path | None, progress: Callable[[float], None] = lambda share: None) -> tuple[Path, list]:
    """Copy the results of all finished tasks into one file (default: SCAN/merged.h5); see hpcme.store.merged.

    Returns its path and the cells that are in it (hpcme.store.merged.Cell), one per task. Raises InputError when no
    task is done, OutputError when the file cannot be written.
    """
    path = out or scan.folder / MERGED
    cells = [
        Cell(
            state.task.number, scan.run_folder(state.task), state.state, state.reason, state.task.model_hash,
            state.task.job_hash,
        )
        for state in states_of(scan)
    ]  # fmt: skip
    shared = scan.shared
    texts = {
        "model_text": shared["model_text"], "job_text": shared["base_text"], "source": scan.source,
        "scan": json.dumps([asdict(axis) for axis in scan.axes]), "hpcme": hpcme.__version__,
    }  # fmt: skip
    content = Content(
        [_axis(axis) for axis in scan.axes], cells, shared["species"], _limits(cells, shared["limits"]),
        np.array(shared["report_times"]), shared["units"], texts,
    )  # fmt: skip
    return path, write_merged(path, content, progress)


def _limits(cells: list[Cell], limits: list[int]) -> list[int]:
    """The largest limits of the finished tasks: automatic ones differ from task to task."""
    for cell in cells:
        if cell.state == "done":
            limits = [max(pair) for pair in zip(limits, Manifest.load(cell.folder).limits, strict=True)]
    return limits


def _axis(axis: Axis) -> MergedAxis:
    columns = {
        merged_name(label): (key, _array([row[i] for row in axis.values]))
        for i, (label, key) in enumerate(zip(axis.labels, axis.keys, strict=True))
    }
    name = merged_name(axis.name)
    if axis.name not in axis.labels:  # a design has no values of its own along its axis
        number = np.arange(1, len(axis) + 1, dtype=np.int64)
        return MergedAxis(name, "number of the point of the design", number, columns)
    about, scale = columns.pop(name)
    return MergedAxis(name, about, scale, columns)


def _array(values: list[Any]) -> np.ndarray:
    """int64 or float64 for numbers, text for everything else; [n]."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return np.array(values, dtype=np.int64 if all(isinstance(value, int) for value in values) else np.float64)
    return text_array([shown(value) for value in values])
