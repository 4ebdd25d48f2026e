"""The tasks of a scan, and its folder: what is where, and the record that makes a scan one thing.

    SCAN/scan.json                     the axes, the tasks, and the jobs that were handed to Slurm
    SCAN/jobs/task-0007-1a2b3c4d.toml  the job of a task, complete with its model; the name holds a hash of the content,
                                       so that an array that still waits never finds another job
    SCAN/task-0007/                    its run folder
    SCAN/logs/task-0007.log            what its process printed

A task is a function of its job file alone: running it twice does nothing the second time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpcme.errors import InputError, OutputError
from hpcme.model.job import Job, flatten_job, load_job, read_job_file
from hpcme.model.writer import job_text, nested
from hpcme.scan.design import Axis, combinations, read_design
from hpcme.scan.ranges import shown
from hpcme.store.files import atomic_write, cannot_write, check_version, sha256_of

RECORD = "scan.json"
FORMAT, FORMAT_VERSION = "hpcme-scan-record", 1
LOGS, JOBS = "logs", "jobs"


@dataclass(frozen=True)
class Task:
    """One task: its number (from 1), what it sets, and its job or the reason why it has none.

    settings: {dotted key: value}; text: the whole job as TOML; name: of its job file, relative to the scan's folder;
    model_hash and job_hash: the identity of its run; error: why this combination is no job, '' when it is one.
    """

    number: int
    settings: dict[str, Any]
    name: str
    model_hash: str
    job_hash: str
    error: str
    text: str = ""

    def described(self) -> str:
        """'b = 0.001, run.seed = 3'."""
        return ", ".join(f"{key.removeprefix('parameters.')} = {shown(value)}" for key, value in self.settings.items())


@dataclass
class Scan:
    """All tasks of a scan. shared: what they have in common (species, limits, report_times, units, model_text,
    base_text, source_sha256); submissions: [{"job_id": text, "indices": {array index: [task numbers]}}]."""

    folder: Path
    source: str
    axes: list[Axis]
    tasks: list[Task]
    shared: dict[str, Any]
    submissions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def width(self) -> int:
        """Digits of a task's number in names."""
        return max(4, len(str(len(self.tasks))))

    def differs_from(self, job: Path) -> bool:
        """Whether a job file has been changed since the scan was begun with it."""
        return sha256_of(job).sha256 != self.shared["source_sha256"]

    def run_folder(self, task: Task) -> Path:
        """Where the task's run is."""
        return self.folder / f"task-{task.number:0{self.width}d}"

    def log(self, task: Task) -> Path:
        """What the task's process printed."""
        return self.folder / LOGS / f"task-{task.number:0{self.width}d}.log"

    def job_file(self, task: Task) -> Path:
        """The task's job file."""
        return self.folder / task.name

    def task(self, number: int) -> Task:
        """The task of a number. Raises InputError."""
        if not 1 <= number <= len(self.tasks):
            raise InputError(f"there is no task {number}: {self.source} has the tasks 1 to {len(self.tasks)}.")
        return self.tasks[number - 1]

    def selected(self, text: str | None) -> list[Task]:
        """The tasks that a text like 3,7-9 names; None: all. Raises InputError."""
        if text is None:
            return list(self.tasks)
        numbers: set[int] = set()
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
                raise InputError(f'--only "{text}": "{part}" names no tasks. Example: --only 3,7-9')
            low, high = self.task(int(first)).number, self.task(int(last or first)).number
            numbers.update(range(low, high + 1))
        return [self.task(number) for number in sorted(numbers)]

    def save(self) -> None:
        """Write the record and the job files that are not there yet. Raises OutputError."""
        try:
            for name in (LOGS, JOBS):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            for task in self.tasks:
                if task.text:
                    _write_if_new(self.job_file(task), task.text)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        body = {"format": FORMAT, "format_version": FORMAT_VERSION, "source": self.source, "shared": self.shared}
        body["axes"] = [asdict(axis) for axis in self.axes]
        body["tasks"] = [{key: value for key, value in asdict(task).items() if key != "text"} for task in self.tasks]
        body["submissions"] = self.submissions
        text = json.dumps(body, indent=1).encode()
        atomic_write(self.folder / RECORD, lambda sink: sink.write(text))


def ranges_text(numbers: Iterable[int]) -> str:
    """1,3-5 for 1, 3, 4, 5: as Slurm writes the indices of an array, and as `Scan.selected` reads them."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def make_scan(path: Path, overrides: Mapping[str, Any], out: str | None, *, warm: bool = False) -> Scan:
    """Expand a job file with a [scan] table; writes nothing. Jobs that Slurm was given before are remembered.

    overrides: {dotted key: value} for all tasks; out: folder of the scan (default: output.dir, or runs/ and the job's
    name); warm: tasks begin their fits from the nearest task that is finished when they start. A combination that is no
    job becomes a task with an error; raises InputError when the table itself is wrong, or when no combination is a job.
    """
    raw = read_job_file(path)
    if "scan" not in raw:
        raise InputError(
            f"{path}: there is no [scan] table. Fix: add one ([scan], and below it b = [0.1, 1.0]) or use hpcme run."
        )
    table = raw.pop("scan")
    base = load_job({**raw, "name": path.stem}, overrides=overrides, base=path.parent, where=str(path))
    axes = read_design(table, base.net, str(path))
    for axis in axes:
        for key in set(axis.keys) & set(overrides):
            raise InputError(f"--set {key}: this key is an axis of the scan in {path}. Fix: leave --set out.")
    flat = flatten_job(raw, str(path)) | dict(overrides) | {"model": base.model.text}
    flat.pop("output.dir", None)
    folder = Path(out) if out else base.out
    if warm:
        flat["run.warm"] = str(folder.absolute())
    settings = combinations(axes)
    width = max(4, len(str(len(settings))))
    tasks = [_task(number, own, flat, path, width) for number, own in enumerate(settings, 1)]
    if all(task.error for task in tasks):
        raise InputError(f"none of the {len(tasks)} tasks is a job that can be run; the first: {tasks[0].error}")
    scan = Scan(folder, str(path), axes, tasks, {**_shared(base), "source_sha256": sha256_of(path).sha256})
    if (scan.folder / RECORD).exists():
        scan.submissions = load_scan(scan.folder).submissions
    return scan


def load_scan(folder: Path) -> Scan:
    """The scan of a folder, from its record. Raises InputError."""
    path = folder / RECORD
    try:
        body = json.loads(path.read_bytes())
        if body.get("format") != FORMAT:
            raise InputError(f'{path} is not the record of a scan: its "format" is not "{FORMAT}".')
        check_version(path, body.get("format_version"), FORMAT_VERSION)
        axes = [
            Axis(
                axis["name"], tuple(axis["keys"]), tuple(axis["labels"]), tuple(tuple(row) for row in axis["values"])
            )
            for axis in body["axes"]
        ]
        tasks = [Task(**task) for task in body["tasks"]]
        return Scan(folder, body["source"], axes, tasks, body["shared"], body["submissions"])
    except FileNotFoundError:
        raise InputError(
            f"{folder} is no folder of a scan: it has no {RECORD}. Fix: name the job file with its [scan] table, or "
            "the folder that hpcme scan run or submit made."
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Fix: check its permissions.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged ({error}). Fix: repeat hpcme scan run or submit with the job file, which write it anew."
        ) from error


def open_scan(place: Path) -> Scan:
    """The scan that was begun with a job file, or that a folder holds; from its record. Raises InputError."""
    if place.is_dir():
        return load_scan(place)
    raw = read_job_file(place)
    given = raw.get("output", {})
    folder = Path((given.get("dir") if isinstance(given, dict) else None) or Path("runs") / place.stem)
    if not (folder / RECORD).exists():
        raise InputError(
            f"{place}: this scan has not been begun in {folder}. Fix: hpcme scan run {place}, or hpcme scan submit; "
            "one that was begun with --out is named by its folder."
        )
    return load_scan(folder)


def _shared(base: Job) -> dict[str, Any]:
    return {
        "species": list(base.net.species), "limits": base.net.limits.tolist(), "units": base.net.time_unit,
        "report_times": base.report_times.tolist(), "model_text": base.model.text, "base_text": base.text(),
    }  # fmt: skip


def _task(number: int, settings: dict[str, Any], flat: dict[str, Any], path: Path, width: int) -> Task:
    text = job_text(flat | settings)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    name = f"{JOBS}/task-{number:0{width}d}-{digest}.toml"
    where = f"{path}, task {number}"
    try:
        job = load_job(nested(flat | settings), where=where)
    except InputError as error:
        return Task(number, settings, name, "", "", str(error))
    return Task(number, settings, name, job.model.hash, job.hash, "", text)


def _write_if_new(path: Path, text: str) -> None:
    """The name holds a hash of the content: a file that is whole stays as it is, one that was cut is written again."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_text(encoding="utf-8") == text:
            return
    path.write_text(text, encoding="utf-8")


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else than a scan, before anything is written: InputError, OutputError."""
    if (folder / RECORD).exists() or not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"the folder of the scan {folder} cannot be made: there is a file of this name.")
    try:
        held = next(iter(sorted(folder.iterdir())), None)
    except OSError as error:
        raise OutputError(f"the folder of the scan {folder} cannot be read: {error.strerror}.") from error
    if held is not None:
        raise InputError(
            f"{folder} is not empty and no folder of a scan: it holds {held.name}. Fix: name another --out."
        )
