"""Which finished run another one may begin its fits from: that of the nearest task of a scan."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpcme.errors import InputError
from hpcme.model.job import Job
from hpcme.scan.tasks import RECORD, Scan, Task, load_scan
from hpcme.store.files import MANIFEST, Manifest
from hpcme.store.reader import open_run


class Warm(NamedTuple):
    """The networks of a finished run: its folder and uuid; times, descriptions and parameters."""

    folder: str
    uuid: str
    times: list[float]
    specs: list[str]
    parameters: list[dict[str, np.ndarray]]


def find_warm(place: Path, job: Job) -> Warm | None:
    """The networks of the run in `place`, or of the nearest finished task where this is the folder of a scan; None
    while no such task is finished. Raises InputError for what is neither, and for a run that is not finished."""
    if (place / RECORD).exists():
        folder = nearest_finished(load_scan(place), job)
        if folder is None:
            return None
    else:
        folder = place
    with open_run(folder) as run:
        if run.status != "done":
            raise InputError(f"run.warm = {str(place)!r}: this run is not finished. Fix: finish it first.")
        networks = run.stored_networks()
        return Warm(str(folder), run.uuid, [t for t, _, _ in networks], [s for _, s, _ in networks],
                    [p for _, _, p in networks])  # fmt: skip


def nearest_finished(scan: Scan, job: Job) -> Path | None:
    """The run folder of the finished task that is nearest to the one of this job. Raises InputError when it is none."""
    own = next((t for t in scan.tasks if (t.model_hash, t.job_hash) == (job.model.hash, job.hash)), None)
    if own is None:
        raise InputError(
            f"run.warm = {str(scan.folder)!r}: this job is none of the tasks of that scan. Fix: name a run folder."
        )
    for task in by_distance(scan, own):
        folder = scan.run_folder(task)
        if (folder / MANIFEST).exists():
            try:
                manifest = Manifest.load(folder)
            except InputError:
                continue  # damaged: no neighbour
            same = (manifest.model_hash, manifest.job_hash) == (task.model_hash, task.job_hash)
            if manifest.status == "done" and same:
                return folder
    return None


def by_distance(scan: Scan, own: Task) -> list[Task]:
    """The tasks that differ from one in parameters alone, nearest first.

    Distances are Euclidean; a parameter counts by its logarithm where all its values are above 0, relative to the range
    that the scan covers.
    """
    keys = [key for key in own.settings if key.startswith("parameters.")]
    others = [key for key in own.settings if key not in keys]
    values = {key: [_place(task.settings[key]) for task in scan.tasks if not task.error] for key in keys}
    keys = [key for key in keys if None not in values[key]]
    logs = {key: min(values[key]) > 0.0 for key in keys}

    def at(task: Task, key: str) -> float:
        x = _place(task.settings[key])
        return math.log(x) if logs[key] else x

    usable = [task for task in scan.tasks if not task.error]
    spans = {key: max(at(t, key) for t in usable) - min(at(t, key) for t in usable) or 1.0 for key in keys}

    def distance(task: Task) -> float:
        return math.hypot(*((at(task, key) - at(own, key)) / spans[key] for key in keys))

    alike = [t for t in usable if t != own and all(t.settings[key] == own.settings[key] for key in others)]
    return sorted(alike, key=lambda task: (distance(task), task.number))


def _place(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None  # a parameter may be an expression
