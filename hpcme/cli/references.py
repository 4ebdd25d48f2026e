"""`hpcme fsp` and `hpcme ssa`: exact and trajectory references, stored like runs."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcme.cli.folders import claim
from hpcme.cli.output import add_formats, events_text, limits_text, seconds_text, show
from hpcme.cli.parsing import Command, add_job, add_quiet, open_run, read_job, whole
from hpcme.cli.progress import Display
from hpcme.cli.run import moments, moments_csv

if TYPE_CHECKING:
    from hpcme.model.job import Job


def _common(parser: argparse.ArgumentParser, kind: str) -> None:
    add_job(parser)
    parser.add_argument(
        "--out", metavar="DIR", help=f"run folder (default: that of hpcme run with -{kind} added)"
    )
    add_quiet(parser)
    add_formats(parser)


def fsp_options(parser: argparse.ArgumentParser) -> None:
    _common(parser, "fsp")
    parser.add_argument(
        "--max-states",
        type=whole(1),
        default=2_000_000,
        metavar="M",
        help="refuse more reachable states than this",
    )


def ssa_options(parser: argparse.ArgumentParser) -> None:
    _common(parser, "ssa")
    parser.add_argument(
        "--trajectories", type=whole(1), default=10_000, metavar="N", help="how many (default 10000)"
    )
    parser.add_argument(
        "--seed", type=whole(0), metavar="SEED", help="seed of the trajectories (default: run.seed)"
    )


def fsp(args: argparse.Namespace) -> int:
    """Solve the master equation on the reachable states."""
    job = read_job(args, need_limits=False)  # the solver finds them, and lets them grow
    folder = _folder(args, job, "fsp")
    identity = _identity(job, "fsp", {})
    before = claim(folder, identity)
    if not before:
        from hpcme.exact.fsp import solve_fsp
        from hpcme.store.files import LIMITS
        from hpcme.store.reference import write_fsp_run

        with Display("hpcme fsp", quiet=args.quiet) as display:
            found = solve_fsp(
                job.net, job.report_times, max_states=args.max_states, progress=display.share, seed=job["run.seed"],
                say=lambda line: display.say(f"hpcme: {line}"),
            )  # fmt: skip
        extra = {"method": found.method, "seconds": found.seconds}
        if found.limits is not None:
            extra[LIMITS] = found.limits.plain()
        identity |= {"model_text": found.net.text, "limits": found.net.limits.tolist()}
        write_fsp_run(folder, identity, found.times, found.states, found.p, found.lost, extra, found.net)
    return _finish(args, folder, before)


def ssa(args: argparse.Namespace) -> int:
    """Simulate trajectories."""
    job = read_job(args, need_limits=False)  # counts of trajectories have no limits
    folder = _folder(args, job, "ssa")
    seed = job["run.seed"] if args.seed is None else args.seed
    identity = _identity(job, "ssa", {"trajectories": args.trajectories, "seed": seed})
    before = claim(folder, identity)
    if not before:
        import numpy as np

        from hpcme.exact.ensemble import solve_ssa
        from hpcme.store.reference import write_ssa_run

        with Display("hpcme ssa", quiet=args.quiet) as display:
            found = solve_ssa(job.net, job.report_times, args.trajectories, seed, progress=display.share)
        most = np.maximum(found.samples.max(axis=(0, 1)), 1)
        identity["limits"] = np.where(job.net.auto_limits, most, job.net.bounds).tolist()
        extra = {"seconds": found.seconds}
        write_ssa_run(folder, identity, found.times, found.samples, found.events, extra, job.net)
    return _finish(args, folder, before)


def _folder(args: argparse.Namespace, job: Job, kind: str) -> Path:
    return Path(args.out) if args.out else job.out.with_name(f"{job.out.name}-{kind}")


def _identity(job: Job, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What makes a reference this one: the model, the report times and what else changes its numbers."""
    times = job.report_times.tolist()
    text = json.dumps({"reference": kind, "time.report": times, **settings}, indent=1)
    return {
        "kind": kind,
        "model_text": job.net.text,
        "model_hash": job.model.hash,
        "job_text": text,
        "job_hash": hashlib.sha256(text.encode()).hexdigest(),
        "species": list(job.net.species),
        "limits": job.net.bounds.tolist(),  # automatic ones are known when it is solved
        "report_times": times,
        "units": {"time": job.net.time_unit},
    }


def _finish(args: argparse.Namespace, folder: Path, before: bool) -> int:
    if args.quiet and not (args.json or args.csv):
        return 0
    from hpcme.analysis.statistics import stats_table

    with open_run(str(folder)) as run:
        stats = stats_table(run)
        facts = run.provenance
        data = {
            "folder": str(folder),
            "results": str(folder / "results.h5"),
            "already_finished": before,
            "seconds": facts.get("seconds"),
            "limits": dict(zip(run.species, run.limits.tolist(), strict=True)),
            **stats,
        }
        if run.kind == "fsp":
            size = f"{len(run.fsp_states())} states, {facts.get('method')}"
            lost = run.lost.tolist()
            data |= {"states": len(run.fsp_states()), "method": facts.get("method"), "lost": lost}
            remark = f"probability lost through the limits by t = {run.times[-1]:g}: {lost[-1]:.3g}"
        else:
            size = f"{len(run.events)} trajectories"
            data |= {"trajectories": len(run.events), "events": int(run.events.sum())}
            remark = f"reactions simulated: {data['events']}"
    name = shlex.quote(str(folder))

    def text():
        took = f" in {seconds_text(data['seconds'])}" if isinstance(data["seconds"], float) else ""
        yield "already finished: nothing was done" if before else f"done{took}: {size}"
        yield f"run folder  {folder}"
        yield f"results     {data['results']}"
        yield moments(stats)
        yield from events_text(run)
        yield from limits_text(facts)
        yield remark
        yield f"next: hpcme compare RUN --with {name}"
        yield f"      hpcme plot {name}"

    show(args, data, text, lambda: moments_csv(stats))
    return 0


COMMANDS = (
    Command(
        "fsp",
        "solve the master equation exactly on the reachable states, where these are few enough",
        "hpcme fsp jobs/models/toggle_switch.toml --end 10 --every 1 --out runs/toggle-exact",
        fsp_options,
        fsp,
    ),
    Command(
        "ssa",
        "simulate exact trajectories (Gillespie)",
        "hpcme ssa jobs/models/cascade_linear.toml --end 10 --trajectories 100000 --out runs/cascade-ssa",
        ssa_options,
        ssa,
    ),
)
