"""What the commands of `hpcme scan` share: their options, the scan that these name, and its columns in tables."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcme.cli.parsing import add_job, job_overrides
from hpcme.errors import InputError

if TYPE_CHECKING:
    from hpcme.scan.tasks import Scan


def add_scan_job(parser: argparse.ArgumentParser, *, folder_too: bool = True) -> None:
    """The job file with its [scan] table (or the folder of a scan that was begun), and the options that change it."""
    add_job(parser)
    place = next(action for action in parser._actions if action.dest == "job")
    place.metavar = "JOB|SCAN" if folder_too else "JOB"
    place.help = "job file with a [scan] table" + (", or the folder of a scan that was begun" if folder_too else "")
    parser.add_argument("--out", metavar="DIR", help="folder of the scan (default: output.dir, or runs/ and the name)")


def add_only(parser: argparse.ArgumentParser) -> None:
    """--only."""
    parser.add_argument("--only", metavar="TASKS", help="these tasks alone, by number: 3,7-9")


def add_warm(parser: argparse.ArgumentParser) -> None:
    """--warm."""
    parser.add_argument(
        "--warm",
        action="store_true",
        help="begin the fits of a task from the networks of the nearest task that is finished (integrator exponential)",
    )


def begun_scan(args: argparse.Namespace) -> Scan:
    """The scan of a command with `add_scan_place`, as it was begun; says so where the job file is another by now."""
    from hpcme.cli.progress import Display
    from hpcme.scan.tasks import open_scan

    scan = open_scan(Path(args.job))
    if Path(args.job).is_file() and scan.differs_from(Path(args.job)):
        Display("hpcme scan").say(
            f"hpcme: note: {args.job} has changed since this scan was begun; its tasks are those of {scan.folder} "
            "until hpcme scan run or submit takes up the new ones"
        )
    return scan


def add_scan_place(parser: argparse.ArgumentParser) -> None:
    """The scan that was begun."""
    parser.add_argument("job", metavar="JOB|SCAN", help="job file with a [scan] table, or the folder of its scan")


def begin_scan(args: argparse.Namespace) -> Scan:
    """The scan of a command with `add_scan_job`: of a job file expanded anew, of a folder as it was begun.

    Writes nothing; raises InputError or OutputError.
    """
    from hpcme.scan.tasks import check_folder, load_scan, make_scan

    overrides = job_overrides(args)
    if not Path(args.job).is_dir():
        scan = make_scan(Path(args.job), overrides, args.out, warm=getattr(args, "warm", False))
        check_folder(scan.folder)
        return scan
    if overrides or args.out or getattr(args, "warm", False):
        raise InputError(
            f"{args.job} is the folder of a scan, whose tasks are what they are. Fix: --end, --every, --set, --out and "
            "--warm go with the job file."
        )
    return load_scan(Path(args.job))


def labels(scan: Scan) -> list[str]:
    """What the keys that tasks set are called, in the order in which tasks list them."""
    return [label for axis in scan.axes for label in axis.labels]


def cells(row: list[Any]) -> list[Any]:
    """Lists and switches as text."""
    from hpcme.scan.ranges import shown

    plain = (str, int, float, type(None))
    return [cell if isinstance(cell, plain) and not isinstance(cell, bool) else shown(cell) for cell in row]
