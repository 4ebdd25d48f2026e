"""`hpcme submit`: hand jobs to Slurm, with the batch scripts that CMake wrote for this site."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from hpcme.cli.folders import claim
from hpcme.cli.output import add_formats, show
from hpcme.cli.parsing import Command, parse, positive, read_job, whole
from hpcme.errors import HpcmeError, InputError, OutputError

_TIME = re.compile(r"(\d+-)?\d+(:\d\d?){0,2}")  # as Slurm writes it: minutes, MM:SS, HH:MM:SS, D-HH[:MM[:SS]]
# What can be done with a run folder once the job has ended.
_AFTER = (
    "stats", "marginal", "logprob", "sample", "info", "prob", "quantiles", "modes", "loglik", "compare", "plot",
    "report", "verify", "status",
)  # fmt: skip
_CONFIGURE = "cmake -S {root} -B build   (slurm/site.cmake there lists what a site can set)"


class Part(NamedTuple):
    """One job: its file, its run folder, and whether the folder holds the finished run already."""

    job: Path
    folder: Path
    finished: bool


def add_site_options(parser: argparse.ArgumentParser) -> None:
    """What is asked of Slurm, where the batch scripts are, and --dry-run."""
    site = parser.add_argument_group("what to ask of Slurm, where it differs from the site's settings")
    site.add_argument("--nodes", type=whole(1), metavar="N", help="nodes of a job")
    site.add_argument("--tasks", type=whole(1), metavar="N", help="MPI ranks on each node; with GPUs, one a GPU")
    site.add_argument("--gpus", type=whole(0), metavar="N", help="GPUs of each node")
    site.add_argument("--time", metavar="LIMIT", help="time limit of one part of a job: minutes, H:MM:SS or D-HH:MM:SS")
    site.add_argument("--at-once", type=whole(1), metavar="N", help="how many jobs of an array may run at a time")
    site.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="further option of sbatch: --sbatch=--qos=high"
    )
    parser.add_argument("--site", metavar="DIR", help="folder of the batch scripts (default: found, see HPCME_SITE)")
    parser.add_argument("--dry-run", action="store_true", help="submit nothing: print the commands and scripts")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", metavar="JOB|MODEL", nargs="*", help="job file; several are submitted as one array")
    parser.add_argument("--array", metavar="FILE", help="file that names job files, one a line: an array of them")
    parser.add_argument("--out", metavar="DIR", help="run folder; of an array, the folder that holds all run folders")
    parser.add_argument("--end", type=positive, metavar="T", help="end time; replaces time.end")
    parser.add_argument("--every", type=positive, metavar="DT", help="time between reports; replaces time.report")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="changes", help="as for hpcme run"
    )
    add_site_options(parser)
    parser.add_argument(
        "--then",
        action="append",
        default=[],
        metavar="COMMAND",
        help="command of hpcme for each run folder, in a job of its own after a good end; may be repeated",
    )
    add_formats(parser, csv_too=False)


def execute(args: argparse.Namespace) -> int:
    """Check everything first: after an error nothing has been submitted."""
    check_resources(args)
    for command in args.then:
        _check_after(command)
    parts = _parts(args)
    as_array = args.array is not None or len(parts) > 1
    if args.at_once and not as_array:
        raise InputError("--at-once has no use for one job. Fix: leave it out, or name several jobs.")
    site = find_site(args.site)
    plan: dict[str, Any] = {
        "site": str(site),
        "runs": [{"job": str(p.job), "folder": str(p.folder), "finished": p.finished} for p in parts],
        "dry_run": args.dry_run,
        "job_id": None,
        "after_id": None,
        "commands": [],
    }
    if not all(part.finished for part in parts):
        command = _run_command(args, site, parts, as_array)
        plan["commands"].append(shlex.join(command))
        if as_array:
            plan["list"] = command[len(command) - 1 - len(_overrides(args))]
            plan["list_text"] = _list_text(parts)
        if not args.dry_run:
            if as_array:
                write_list(Path(plan["list"]), plan["list_text"])
            plan["job_id"] = sbatch(command)
    if args.then:
        waits_for = (plan["job_id"] or "JOB_ID") if plan["commands"] else None
        command = _after_command(args, site, parts, waits_for)
        plan["commands"].append(shlex.join(command))
        if not args.dry_run:
            try:
                plan["after_id"] = sbatch(command)
            except HpcmeError as error:
                submitted = f"job {plan['job_id']} is submitted, but not its --then: " if plan["job_id"] else ""
                raise type(error)(f"{submitted}{error}") from None
    show(args, plan, lambda: _text(plan, site))
    return 0


def check_resources(args: argparse.Namespace) -> None:
    """Refuse what Slurm would not take, or not as it was meant. Raises InputError."""
    if args.time is not None and not _TIME.fullmatch(args.time):
        raise InputError(f'--time "{args.time}" is no time of Slurm. Allowed: minutes, MM:SS, HH:MM:SS, D-HH:MM:SS.')
    if args.gpus and args.tasks and args.tasks > args.gpus:
        raise InputError(
            f"--tasks {args.tasks} ranks of a node cannot share --gpus {args.gpus}: every rank needs its own. "
            "Fix: no more tasks than GPUs."
        )
    for option in args.sbatch:
        if not option.startswith("-"):
            raise InputError(f'--sbatch "{option}": an option starts with -. Example: --sbatch=--qos=high')


def _check_after(command: str) -> None:
    """The command must parse, with a run folder in it. Raises InputError."""
    from hpcme import __version__
    from hpcme.cli.main import COMMANDS

    known = [name for name in _AFTER if name in COMMANDS]
    try:
        words = shlex.split(command)
    except ValueError as problem:
        raise InputError(f'--then "{command}": {problem}. Fix: close the quotes.') from None
    if not words or words[0] not in known:
        raise InputError(
            f'--then "{command}" must begin with one of {", ".join(known)}; the run folder is put in behind it. '
            'Example: --then "compare --with exact"'
        )
    try:
        parse([words[0], "RUN", *words[1:]], COMMANDS, __version__)
    except InputError as problem:
        raise InputError(f'--then "{command}": {problem}') from None


def _parts(args: argparse.Namespace) -> list[Part]:
    """Read and check every job and its folder. Raises InputError or OutputError, naming the job."""
    from hpcme.driver import identity

    if (args.array is None) == (not args.jobs):
        raise InputError("name job files, or a file with their names (--array FILE), and not both.")
    names = args.jobs if args.array is None else _names_in(Path(args.array))
    as_array = args.array is not None or len(names) > 1
    parts: list[Part] = []
    owner: dict[Path, str] = {}
    for name in names:
        job = read_job(argparse.Namespace(**{**vars(args), "job": name}))
        folder = job.out
        if args.out:
            folder = Path(args.out) / Path(name).stem if as_array else Path(args.out)
        key = folder.absolute()
        if key in owner:
            raise InputError(
                f"{owner[key]} and {name} would both write to {folder}. Fix: give them different file names, or "
                "their own output.dir (and no --out)."
            )
        owner[key] = name
        if "\n" in f"{name}{folder}" or "\t" in f"{name}{folder}":
            raise InputError(f"{name!r}: tabs and line ends in names cannot be handed to Slurm. Fix: rename it.")
        parts.append(Part(Path(name), folder, claim(folder, identity(job))))
    return parts


def _names_in(file: Path) -> list[str]:
    """The names in an --array file: one a line, # begins a remark, relative to this folder. Raises InputError."""
    try:
        lines = [line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"--array {file} cannot be read: {problem}. It holds names of job files.") from None
    names = [line for line in lines if line]
    if not names:
        raise InputError(f"--array {file} names no job. Fix: write the name of one job file on each line.")
    return names


def find_site(asked: str | None) -> Path:
    """The folder with the batch scripts of this site. Raises InputError that says where it looked."""
    root = Path(__file__).resolve().parents[2]
    if asked is not None:
        places = {"--site": Path(asked)}
    elif os.environ.get("HPCME_SITE"):
        places = {"HPCME_SITE": Path(os.environ["HPCME_SITE"])}
    else:
        places = {
            "this folder": Path("build/slurm"),
            "this Python": Path(sys.prefix) / "share/hpcme/slurm",
            "the repository": root / "build/slurm",
        }
    for place in places.values():
        if (place / "hpcme.sbatch").is_file():
            return place
    looked = "; ".join(f"{place.absolute()} ({why})" for why, place in places.items())
    source = root if (root / "slurm/site.cmake").exists() else "REPOSITORY"
    raise InputError(
        f"there is no hpcme.sbatch, the batch script of this site. Looked in: {looked}. "
        f"Fix: {_CONFIGURE.format(root=source)}, or name its folder with --site."
    )


def _overrides(args: argparse.Namespace) -> list[str]:
    """What changes the job, for `hpcme run`."""
    words = [f"--end={args.end:.17g}"] if args.end is not None else []
    words += [f"--every={args.every:.17g}"] if args.every is not None else []
    return words + [f"--set={change}" for change in args.changes]


def _run_command(args: argparse.Namespace, site: Path, parts: list[Part], as_array: bool) -> list[str]:
    """The sbatch command of the job or the array."""
    words = ["sbatch", "--parsable"]
    if as_array:
        left = ",".join(str(i) for i, part in enumerate(parts, 1) if not part.finished)
        if len(left.split(",")) == len(parts):
            left = f"1-{len(parts)}"
        words += [f"--array={left}" + (f"%{args.at_once}" if args.at_once else "")]
    words += resource_words(args)
    if not as_array:
        words += [str(site / "hpcme.sbatch"), str(parts[0].job), str(parts[0].folder)]
    else:
        text = _list_text(parts)
        name = f"hpcme-array-{hashlib.sha256(text.encode()).hexdigest()[:8]}.txt"
        words += [str(site / "hpcme-array.sbatch"), str((Path(args.out) if args.out else Path()) / name)]
    return words + _overrides(args)


def resource_words(args: argparse.Namespace) -> list[str]:
    """The options of sbatch that `add_site_options` asked for."""
    asked = {
        "nodes": args.nodes, "ntasks-per-node": args.tasks, "gpus-per-node": args.gpus, "time": args.time,
    }  # fmt: skip
    return [*(f"--{option}={value}" for option, value in asked.items() if value is not None), *args.sbatch]


def _after_command(args: argparse.Namespace, site: Path, parts: list[Part], waits_for: str | None) -> list[str]:
    """The sbatch command of the post-processing job; waits_for: id of the job that must end well before."""
    words = ["sbatch", "--parsable"]
    if waits_for:
        words += [f"--dependency=afterok:{waits_for}", "--kill-on-invalid-dep=yes"]
    return [*words, str(site / "hpcme-after.sbatch"), *(str(part.folder) for part in parts), "--", *args.then]


def _list_text(parts: list[Part]) -> str:
    """The content of an array's list: line i is the job and the folder of task i."""
    return "".join(f"{part.job}\t{part.folder}\n" for part in parts)


def write_list(path: Path, text: str) -> None:
    """Its name holds a hash of its content, so that an array that still waits never finds another list."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise OutputError(f"the list of jobs {path} cannot be written: {problem}. Fix: choose another --out.") from None


def sbatch(command: list[str]) -> str:
    """Submit; returns the job's id. Raises InputError with Slurm's words."""
    if shutil.which("sbatch") is None:
        raise InputError(
            "there is no sbatch here. Fix: work on a login node of the cluster (on some: "
            "module load slurm), or use hpcme run; --dry-run shows what would be submitted."
        )
    # Inside a job its own SLURM_ and SBATCH_ settings would be taken for this one's.
    settings = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
    done = subprocess.run(command, capture_output=True, text=True, env=settings)
    if done.returncode != 0:
        words = " ".join(done.stderr.replace("sbatch: error:", "").replace("sbatch:", "").split())
        raise InputError(f"sbatch refused: {words}. The command was: {shlex.join(command)}")
    return done.stdout.strip().splitlines()[-1].split(";")[0]  # on some clusters ID;CLUSTER


def _text(plan: dict[str, Any], site: Path):
    for run in plan["runs"]:
        if run["finished"]:
            yield f"already finished: {run['folder']}"
    if plan["dry_run"]:
        yield from plan["commands"]
        if "list" in plan:
            yield f"\n# {plan['list']}\n{plan['list_text']}"
        for name in dict.fromkeys(re.findall(r"hpcme[a-z-]*\.sbatch", "\n".join(plan["commands"]))):
            yield f"\n# {site / name}\n{(site / name).read_text(encoding='utf-8')}"
        return
    if plan["job_id"]:
        count = sum(not run["finished"] for run in plan["runs"])
        yield f"submitted job {plan['job_id']}" + (f", an array of {count}" if "list" in plan else "")
        folders = " ".join(shlex.quote(run["folder"]) for run in plan["runs"])
        yield f"next: squeue -j {plan['job_id']};  hpcme status {folders}"
    if plan["after_id"]:
        yield f"submitted job {plan['after_id']}, after it" if plan["job_id"] else f"submitted job {plan['after_id']}"


COMMANDS = (
    Command(
        "submit",
        "hand jobs to Slurm: one, or several as an array",
        "hpcme submit job.toml --out runs/job --nodes 2 --time 4:00:00\n"
        'hpcme submit job.toml --then "compare --with exact --json" --then plot\n'
        "hpcme submit a.toml b.toml c.toml --at-once 2\n"
        "hpcme submit --array jobs.txt --out runs/all --dry-run",
        options,
        execute,
    ),
)
