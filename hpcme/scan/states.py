"""Where the tasks of a scan stand: what their folders, their logs and Slurm's queue say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from hpcme.errors import InputError
from hpcme.scan.tasks import Scan, Task
from hpcme.store.files import MANIFEST, Manifest
from hpcme.store.standing import state_of

#: All states, in the order in which they are counted for people.
STATES = (
    "done",  # results.h5 is there
    "running",
    "queued",  # handed to Slurm, and waiting there
    "stopped",  # in good order at a checkpoint; wants more time
    "interrupted",  # killed
    "failed",  # ended with an error
    "missing",  # not begun, or ended before its first checkpoint
    "damaged",  # files that are not those that were written
    "foreign",  # the folder holds the run of another job
    "invalid",  # the values make no job
)
BUSY = ("running", "queued")
_TAIL = 1 << 16  # bytes of a log that are searched
_BEGIN = re.compile(r"start \d+, from step|task \d+ begins")
_ERRORS = (r"hpcme: error.*", r"slurmstepd: error: .*", r"hpcme: .* ended with exit code [^0].*")


@dataclass(frozen=True)
class TaskState:
    """A task with its state (one of STATES), its newest safe step (None: none yet) and why it is not done."""

    task: Task
    state: str
    step: int | None
    reason: str


def states_of(scan: Scan, tasks: Iterable[Task] | None = None, *, queue: bool = True) -> list[TaskState]:
    """The states of these tasks (default: all). Reads manifests and ends of logs, and asks Slurm unless queue=False
    (a job would find its own tasks running)."""
    waiting = queue_of(scan) if queue else {}
    return [_state_of(scan, task, waiting.get(task.number)) for task in (scan.tasks if tasks is None else tasks)]


def counted(states: Iterable[TaskState]) -> dict[str, int]:
    """How many tasks are in each state that occurs."""
    found = Counter(state.state for state in states)
    return {name: found[name] for name in STATES if found[name]}


def _state_of(scan: Scan, task: Task, queue: str | None) -> TaskState:
    """queue: what Slurm says of the task, None when it knows nothing of it."""
    if task.error:
        return TaskState(task, "invalid", None, task.error)
    folder = scan.run_folder(task)
    if not (folder / MANIFEST).exists():
        if queue:
            return TaskState(task, queue, None, "")
        return _ended(TaskState(task, "missing", None, "it was never begun"), scan)
    try:
        manifest = Manifest.load(folder)
        for entry in manifest.of_kind("results"):
            entry.check_size(folder)
    except InputError as error:
        return TaskState(task, "damaged", None, str(error))
    step = manifest.entries[-1].step if manifest.entries else None
    if (manifest.model_hash, manifest.job_hash) != (task.model_hash, task.job_hash):
        reason = f"{folder} holds the run of another job. Fix: another --out for the scan, or delete this folder"
        return TaskState(task, "foreign", step, reason)
    state, remark = state_of(folder, manifest)
    if state == "done":
        return TaskState(task, state, step, "")
    if queue:
        return TaskState(task, queue, step, "")
    if state == "running":
        return TaskState(task, state, step, remark)
    return _ended(TaskState(task, state, step, remark or "it wants more time"), scan)


def _ended(state: TaskState, scan: Scan) -> TaskState:
    """A task that is not done and that nobody works on, with what its log says of its end."""
    said = last_error(scan.log(state.task))
    failed = said.startswith("error")  # in hpcme's own words: it was not killed
    return replace(state, state="failed" if failed else state.state, reason=said or state.reason)


def last_error(log: Path) -> str:
    """Why the newest try of a task ended, from its log; '' when it does not say."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    begin = max((i for i, line in enumerate(lines) if _BEGIN.search(line)), default=0)
    for pattern in _ERRORS:
        found = [match[0] for line in lines[begin:] if (match := re.search(pattern, line))]
        if found:
            return found[-1].removeprefix("hpcme: ").strip()
    return ""


def queue_of(scan: Scan) -> dict[int, str]:
    """Which tasks Slurm holds, {number: "queued" or "running"}; {} where there is no Slurm or it does not answer."""
    if not scan.submissions or shutil.which("squeue") is None:
        return {}
    try:
        done = subprocess.run(
            ["squeue", "-h", "-r", "--me", "-o", "%F|%K|%T"], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    indices = {submission["job_id"]: submission["indices"] for submission in scan.submissions}
    found: dict[int, str] = {}
    for line in done.stdout.splitlines():
        job, index, state = (*line.split("|"), "", "")[:3]
        for number in indices.get(job, {}).get(index, ()):
            found[number] = "queued" if state == "PENDING" else "running"
    return found
