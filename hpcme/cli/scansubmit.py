"""`hpcme scan submit`: the tasks of a scan that are not done, as an array of Slurm."""

from __future__ import annotations

import argparse
import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcme.cli.output import add_formats, show
from hpcme.cli.parsing import Command, whole
from hpcme.cli.scanplace import add_only, add_scan_job, add_warm, begin_scan
from hpcme.cli.submit import add_site_options, check_resources, find_site, resource_words, sbatch, write_list
from hpcme.errors import InputError

if TYPE_CHECKING:
    from hpcme.scan.tasks import Scan


def options(parser: argparse.ArgumentParser) -> None:
    add_scan_job(parser)
    add_only(parser)
    add_warm(parser)
    parser.add_argument(
        "--group",
        type=whole(1),
        metavar="N",
        help="small tasks: N in each task of the array, on one rank each and as many at a time as the job has ranks",
    )
    add_site_options(parser)
    add_formats(parser, csv_too=False)


def execute(args: argparse.Namespace) -> int:
    """Submit the tasks that are neither done nor with Slurm already; those whose values make no job are told.

    Everything is checked first: after an error nothing has been submitted.
    """
    from hpcme.scan.states import BUSY, queue_of, states_of

    check_resources(args)
    scan = begin_scan(args)
    site = find_site(args.site)
    states = states_of(scan, scan.selected(args.only))
    left = [state.task.number for state in states if state.state not in ("done", "invalid", "foreign", *BUSY)]
    plan: dict[str, Any] = {
        "site": str(site),
        "folder": str(scan.folder),
        "submitted": left,
        "left_out": [
            {"task": state.task.number, "state": state.state, "reason": state.reason}
            for state in states
            if state.task.number not in left
        ],
        "dry_run": args.dry_run,
        "job_id": None,
        "commands": [],
    }
    if left:
        command, indices, texts = _array(args, site, scan, left)
        plan["commands"].append(shlex.join(command))
        plan["list_text"] = texts[1]
        if not args.dry_run:
            scan.save()
            write_list(Path(texts[0]), texts[1])
            plan["job_id"] = sbatch(command)
            queue = queue_of(scan)
            held = [s for s in scan.submissions if any(t in queue for tasks in s["indices"].values() for t in tasks)]
            scan.submissions = [*held, {"job_id": plan["job_id"], "indices": indices}]
            scan.save()
    show(args, plan, lambda: _text(plan, scan))
    return 0


def _array(
    args: argparse.Namespace, site: Path, scan: Scan, left: list[int]
) -> tuple[list[str], dict[str, list[int]], tuple[str, str]]:
    """The sbatch command; the tasks of each array index; the name and the text of the list that the script reads."""
    from hpcme.scan.tasks import LOGS, ranges_text

    if args.group:
        groups = [left[i : i + args.group] for i in range(0, len(left), args.group)]
        indices = {str(i): group for i, group in enumerate(groups, 1)}
        text = "".join(f"{ranges_text(group)}\n" for group in groups)
        script, log = "hpcme-scan.sbatch", f"group-{hashlib.sha256(text.encode()).hexdigest()[:8]}-%4a.log"
    else:
        indices = {str(number): [number] for number in left}
        text = "".join(f"{scan.job_file(task)}\t{scan.run_folder(task)}\n" for task in scan.tasks)
        script, log = "hpcme-array.sbatch", f"task-%{scan.width}a.log"
    if "\n" in str(scan.folder) or "\t" in str(scan.folder):
        raise InputError(f"{str(scan.folder)!r}: tabs and line ends cannot be handed to Slurm. Fix: another --out.")
    if not (site / script).is_file():
        raise InputError(f"{site} has no {script}: it was made by an older hpcme. Fix: run cmake for this site again.")
    name = str(scan.folder / f"array-{hashlib.sha256(text.encode()).hexdigest()[:8]}.txt")
    array = ranges_text(map(int, indices)) + (f"%{args.at_once}" if args.at_once else "")
    words = ["sbatch", "--parsable", f"--array={array}", f"--output={scan.folder / LOGS / log}", *resource_words(args)]
    words += [str(site / script), name, *([str(scan.folder)] if args.group else [])]
    return words, indices, (name, text)


def _text(plan: dict[str, Any], scan: Scan) -> Iterator[str]:
    for item in plan["left_out"]:
        if item["state"] != "done":
            why = f": {item['reason']}" if item["reason"] else ""
            yield f"left out: task {item['task']}, {item['state']}{why}"
    done = sum(item["state"] == "done" for item in plan["left_out"])
    if done:
        yield f"already done: {done} tasks"
    if plan["dry_run"]:
        yield from plan["commands"]
        if "list_text" in plan:
            yield plan["list_text"]
    elif plan["job_id"]:
        yield f"submitted job {plan['job_id']}, an array: {len(plan['submitted'])} tasks"
        yield f"next: squeue -j {plan['job_id']};  hpcme scan status {shlex.quote(str(scan.folder))}"
    else:
        yield "nothing is left to submit"


COMMANDS = (
    Command(
        "scan submit",
        "hand the tasks of a scan that are not done to Slurm, as an array",
        "hpcme scan submit job.toml --time 1:00:00 --at-once 100\n"
        "hpcme scan submit job.toml --group 20 --tasks 4\n"
        "hpcme scan submit job.toml --only 3,7-9 --dry-run",
        options,
        execute,
    ),
)
