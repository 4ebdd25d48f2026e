"""`hpcme scan`: many tasks from one job file, run, looked after and merged; `hpcme scan submit` is in scansubmit.py."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hpcme.cli.output import Table, add_formats, bytes_text, show
from hpcme.cli.parsing import Command, add_quiet, whole
from hpcme.cli.scanplace import (
    add_only,
    add_scan_job,
    add_scan_place,
    add_warm,
    begin_scan,
    begun_scan,
    cells,
    labels,
)
from hpcme.errors import InputError

if TYPE_CHECKING:
    from hpcme.scan.states import TaskState
    from hpcme.scan.tasks import Scan, Task

_SHOWN = 50  # tasks that a table for people shows


# ---- list ----


def list_options(parser: argparse.ArgumentParser) -> None:
    add_scan_job(parser)
    add_only(parser)
    add_formats(parser)


def list_tasks(args: argparse.Namespace) -> int:
    """Expand and check; nothing is written."""
    scan = begin_scan(args)
    tasks = scan.selected(args.only)
    wrong = sum(bool(task.error) for task in tasks)
    data = {
        "folder": str(scan.folder),
        "axes": [{"name": axis.name, "keys": list(axis.keys), "length": len(axis)} for axis in scan.axes],
        "invalid": wrong,
        "tasks": [{"task": t.number, **t.settings, "folder": str(scan.run_folder(t)), "error": t.error} for t in tasks],
    }

    def table(most: int | None = None) -> Table:
        rows = [[task.number, *task.settings.values(), task.error or "ok"] for task in tasks[:most]]
        notes = [f"... and {len(tasks) - most} more (--csv shows all)"] if most and len(tasks) > most else []
        return Table("", ["task", *labels(scan), "check"], [cells(row) for row in rows], notes)

    def text() -> Iterator[Table | str]:
        sizes = " x ".join(f"{len(axis)} ({axis.name})" for axis in scan.axes)
        yield f"{len(scan.tasks)} tasks: {sizes}; each in a folder of its own below {scan.folder}"
        yield table(_SHOWN)
        if wrong:
            yield f"{wrong} of them cannot be run: {_invalid(tasks)}"

    show(args, data, text, table)
    return 0


def _invalid(tasks: list[Task]) -> str:
    from hpcme.scan.tasks import ranges_text

    return f"tasks {ranges_text(task.number for task in tasks if task.error)}"


# ---- run ----


def run_options(parser: argparse.ArgumentParser) -> None:
    add_scan_job(parser)
    add_only(parser)
    add_warm(parser)
    parser.add_argument(
        "--processes", type=whole(1), metavar="N", help="tasks at a time (default: one for each CPU that may be used)"
    )
    add_quiet(parser)
    add_formats(parser)


def run(args: argparse.Namespace) -> int:
    """Run what is not done, here; returns 0 when all of it is done, else as `hpcme.scan.local.exit_code` says."""
    from hpcme.cli.progress import Display
    from hpcme.cli.run import StopRequest
    from hpcme.errors import MoreTime
    from hpcme.scan.local import exit_code, run_tasks
    from hpcme.scan.states import states_of

    with StopRequest() as stop:
        scan = begin_scan(args)
        tasks = scan.selected(args.only)
        if not Path(args.job).is_dir():  # several jobs of one scan must not write its record over each other
            scan.save()
        before = states_of(scan, tasks, queue=False)
        todo = [state.task for state in before if state.state not in ("done", "invalid", "running")]
        stop.watch(scan.folder)
        with Display("hpcme scan", quiet=args.quiet) as display:
            for state in before:
                if state.state in ("invalid", "running"):
                    display.say(f"hpcme: task {state.task.number} is {state.state}, and left out: {state.reason}")
            done = 0

            def ended(task: Task, code: int) -> None:
                nonlocal done
                done += 1
                state = states_of(scan, [task], queue=False)[0]
                why = f": {state.reason}" if code else ""
                display.say(f"hpcme: task {task.number} is {state.state} ({task.described()}){why}")
                display.share(done / len(todo))

            codes = run_tasks(scan, todo, args.processes or len(os.sched_getaffinity(0)), stop, ended)
    states = states_of(scan, tasks, queue=False)
    if not args.quiet or args.json or args.csv:
        show_states(args, scan, states, everything=False)
    ends = [InputError.exit_code for state in states if state.state == "invalid"] + list(codes.values())
    return exit_code(ends + [MoreTime.exit_code] * (len(todo) - len(codes)))


# ---- status ----


def status_options(parser: argparse.ArgumentParser) -> None:
    add_scan_place(parser)
    add_only(parser)
    parser.add_argument("--all", action="store_true", help="show the tasks that are done as well")
    add_formats(parser)


def status(args: argparse.Namespace) -> int:
    """Counts, and a line for each task that is not done."""
    from hpcme.scan.states import states_of

    scan = begun_scan(args)
    show_states(args, scan, states_of(scan, scan.selected(args.only)), everything=args.all)
    return 0


def show_states(args: argparse.Namespace, scan: Scan, states: list[TaskState], *, everything: bool) -> None:
    """Print where tasks stand; to people those that are not done, or everything."""
    from hpcme.scan.states import BUSY, counted

    counts = counted(states)
    data = {
        "folder": str(scan.folder),
        "counts": counts,
        "tasks": [
            {
                "task": s.task.number, **s.task.settings, "state": s.state, "step": s.step, "reason": s.reason,
                "folder": str(scan.run_folder(s.task)),
            }
            for s in states
        ],
    }  # fmt: skip

    def table(shown: list[TaskState] = states, most: int | None = None) -> Table:
        rows = [[s.task.number, s.state, s.step, *s.task.settings.values(), s.reason] for s in shown[:most]]
        notes = [f"... and {len(shown) - most} more (--csv shows all)"] if most and len(shown) > most else []
        header = ["task", "state", "step", *labels(scan), "reason"]
        return Table("", header, [cells(row) for row in rows], notes)

    def text() -> Iterator[Table | str]:
        yield f"{scan.folder}: {len(states)} tasks: " + ", ".join(f"{n} {name}" for name, n in counts.items())
        open_ = [s for s in states if everything or s.state != "done"]
        if open_:
            yield table(open_, _SHOWN)
        name = shlex.quote(str(scan.folder))
        if any(s.state not in ("done", "invalid", *BUSY) for s in states):
            yield f"next: hpcme scan run {name}    (or submit: what is done is not run again)"
        elif counts.get("done"):
            yield f"next: hpcme scan merge {name}"

    show(args, data, text, table)


# ---- merge ----


def merge_options(parser: argparse.ArgumentParser) -> None:
    add_scan_place(parser)
    parser.add_argument("--out", metavar="FILE", help="the merged file (default: merged.h5 in the folder of the scan)")
    add_quiet(parser)
    add_formats(parser, csv_too=False)


def merge(args: argparse.Namespace) -> int:
    """Copy the results of all finished tasks into one file."""
    from hpcme.cli.progress import Display
    from hpcme.scan import merging

    scan = begun_scan(args)
    with Display("hpcme scan", quiet=args.quiet) as display:
        path, merged = merging.merge(scan, Path(args.out) if args.out else None, display.share)
    missing = [cell for cell in merged if cell.state != "done"]
    size = path.stat().st_size
    data = {
        "file": str(path),
        "bytes": size,
        "merged": len(merged) - len(missing),
        "missing": [{"task": cell.number, "state": cell.state, "reason": cell.reason} for cell in missing],
    }

    def text() -> Iterator[Table | str]:
        sizes = " x ".join(f"{len(axis)} ({axis.name})" for axis in scan.axes)
        yield f"{path}: {data['merged']} of {len(merged)} tasks, {sizes}; {bytes_text(size)}"
        if missing:
            rows = [[cell.number, cell.state, scan.task(cell.number).described(), cell.reason] for cell in missing]
            yield Table("missing, as NaN:", ["task", "state", "values", "reason"], rows[:_SHOWN])
        yield f"next: xarray.open_dataset({str(path)!r}, engine='h5netcdf') in Python, or any program that reads HDF5"

    if not args.quiet or args.json:
        show(args, data, text)
    return 0


COMMANDS = (
    Command(
        "scan list",
        "show and check the tasks that a job file with a [scan] table makes",
        "hpcme scan list job.toml\nhpcme scan list job.toml --csv",
        list_options,
        list_tasks,
    ),
    Command(
        "scan run",
        "run the tasks of a scan that are not done, as processes of this machine",
        "hpcme scan run job.toml --processes 4\nhpcme scan run job.toml --only 3,7-9",
        run_options,
        run,
    ),
    Command(
        "scan status",
        "count the tasks of a scan by state, and name those that are not done",
        "hpcme scan status job.toml\nhpcme scan status runs/job --json",
        status_options,
        status,
    ),
    Command(
        "scan merge",
        "copy the results of a scan into one HDF5 file",
        "hpcme scan merge job.toml --out scan.h5",
        merge_options,
        merge,
    ),
)
