"""`hpcme run`: solve a job, or continue it where it stopped."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hpcme.cli.folders import claim
from hpcme.cli.output import Table, add_formats, events_text, limits_text, seconds_text, show, with_error
from hpcme.cli.parsing import Command, add_job, add_quiet, read_job
from hpcme.cli.progress import Display
from hpcme.errors import HpcmeError, InputError, MoreTime
from hpcme.parallel.ending import ending
from hpcme.parallel.launch import launched_rank

if TYPE_CHECKING:
    from hpcme.model.job import Job
    from hpcme.store.reader import Run

STOP = "STOP"  # a file of this name in the run folder asks the run to stop at a checkpoint
_MARGIN = 60.0  # seconds before a deadline in which no new step begins


class StopRequest:
    """What asks for a pause: SIGTERM, SIGUSR2, Ctrl-C, a file named STOP in the run folder, or the end of the time that
    HPCME_DEADLINE grants.

    All are looked at after each step; rank 0 looks for the file, at most once a second. A second Ctrl-C ends the
    process at once. NCCL takes SIGUSR1 for itself, hence SIGUSR2. Use as a context manager; call it to learn whether
    to pause. Raises InputError for an HPCME_DEADLINE that is no time.
    """

    def __init__(self) -> None:
        self.name = ""
        self._file: Path | None = None
        self._looked = -math.inf
        self._before: dict[int, Any] = {}
        self._last = last_moment(os.environ.get("HPCME_DEADLINE", ""), time.time())

    def __call__(self) -> bool:
        return bool(self.name) or time.time() > self._last or self._file_asks()

    def watch(self, folder: Path) -> None:
        """Also stop when a file named STOP appears in the run folder. One that lies there from before asked the last
        part of the run, and is removed."""
        self._file = folder / STOP
        with contextlib.suppress(OSError):  # none there, or a folder that only takes reading: the writer will say so
            self._file.unlink()

    def _file_asks(self) -> bool:
        now = time.monotonic()
        if self._file is not None and now - self._looked > 1.0:
            self._looked = now
            if self._file.exists():
                self.name = f"the file {self._file}"
        return bool(self.name)

    @property
    def reason(self) -> str:
        """Why to pause, in words; '' while there is no reason."""
        if self.name:
            return f"after {self.name}"
        return "before the time ran out (HPCME_DEADLINE)" if self() else ""

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            self._before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, *problem: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.name:
                raise KeyboardInterrupt
            if launched_rank() == 0:
                sys.stderr.write("\nhpcme: stopping after this step; Ctrl-C again ends at once\n")
        self.name = signal.Signals(number).name


def last_moment(deadline: str, now: float) -> float:
    """When to stop so that a checkpoint is safe before the deadline, in seconds since 1970; inf without a deadline.

    deadline: HPCME_DEADLINE, seconds since 1970, or '' for none. A minute is kept, of short times a tenth.
    Raises InputError.
    """
    if not deadline:
        return math.inf
    try:
        end = float(deadline)
    except ValueError:
        end = math.nan
    if not math.isfinite(end) or end < 0:
        raise InputError(
            f'the environment variable HPCME_DEADLINE = "{deadline}" is not a time. It says when this job will be '
            "ended, in seconds since 1970. Fix: export HPCME_DEADLINE=$(date -d '+1 hour' +%s), or unset it."
        )
    return end - max(0.0, min(_MARGIN, 0.1 * (end - now)))


def options(parser: argparse.ArgumentParser) -> None:
    add_job(parser)
    parser.add_argument(
        "--out", metavar="DIR", help="run folder (default: output.dir, or runs/ and the job's name)"
    )
    add_quiet(parser)
    add_formats(parser)


def execute(args: argparse.Namespace) -> int:
    began = time.perf_counter()
    with StopRequest() as stop:
        job = _read_job(args)
        folder = Path(args.out) if args.out else job.out
        from hpcme.driver import solve, with_limits
        from hpcme.parallel.world import open_world

        world = open_world(job["run.device"], job["run.timeout"])
        with ending(world), Display("hpcme", quiet=args.quiet or not world.main) as display:
            job = with_limits(job, world)
            before = _already(world, folder, job)
            if world.main:
                stop.watch(folder)
            try:
                run = solve(job, out=folder, world=world, say=display.say, progress=display.step, stop=stop)
            except KeyboardInterrupt:
                raise MoreTime("ended at once; the same command continues from the last checkpoint") from None
            display.wipe()
            unfinished = world.share(_unfinished(run, folder, stop) if world.main and run.status != "done" else "")
            if unfinished:
                raise MoreTime(unfinished)
        # The other ranks need not wait for this, nor fail with it.
        if world.main and (not args.quiet or args.json or args.csv):
            _summary(args, run, folder, before, time.perf_counter() - began)
    return 0


def _read_job(args: argparse.Namespace) -> Job:
    """The job, on every rank. Raises on every rank where one cannot read it (a file that only some hosts see)."""
    from hpcme.parallel.world import agree_on

    error = job = None
    try:
        job = read_job(args, need_limits=False)  # rank 0 finds them for all
    except HpcmeError as problem:
        error = problem
    agree_on(error)
    return job


def _already(world, folder: Path, job) -> bool:
    """Whether the folder holds this run, finished; on every rank. Raises on every rank if it is unusable."""
    from hpcme.driver import identity

    error, done = None, False
    if world.main:
        try:
            done = claim(folder, identity(job))
        except HpcmeError as problem:
            error = problem
    world.raise_together(error)
    return world.share(done)


def _unfinished(run: Run, folder: Path, stop: StopRequest) -> str:
    series = run.series()
    where = (
        f"at step {series['step'][-1]}, t = {series['t'][-1]:g}"
        if len(series.get("t", ()))
        else "at its start"
    )
    why = f" {stop.reason}" if stop.reason else ""
    return f"stopped{why} {where}, with a checkpoint in {folder}; the same command continues it"


def _summary(args: argparse.Namespace, run: Run, folder: Path, before: bool, wall: float) -> None:
    from hpcme.analysis.statistics import stats_table

    last = stats_table(run, [run.times[-1]])
    series = run.series()
    data = {
        "folder": str(folder),
        "results": str(folder / "results.h5"),
        "already_finished": before,
        "wall_seconds": wall,
        "steps": len(series.get("t", ())),
        "solver_seconds": float(series["wall"].sum()) if "wall" in series else None,
        "limits": dict(zip(run.species, run.limits.tolist(), strict=True)),
        **last,
    }
    name = shlex.quote(str(folder))

    def text():
        yield (
            "already finished: nothing was done"
            if before
            else f"done in {seconds_text(wall)}, {data['steps']} time steps"
        )
        yield f"run folder  {folder}"
        yield f"results     {data['results']}"
        yield moments(last)
        yield from events_text(run)
        automatic = list(limits_text(run.provenance))
        yield from automatic
        if automatic:
            yield f"probability lost through the limits: {data['lost'][-1]:.3g}"
        yield f"next: hpcme stats {name}"
        yield f"      hpcme compare {name} --with exact    (or ssa, where the states are too many)"
        yield f"      hpcme plot {name}"

    show(args, data, text, lambda: moments_csv(last))


def moments(stats: dict[str, Any]) -> Table:
    """Mean +- standard error and sd +- standard error of every species and readout, for people."""
    rows = [
        [
            t,
            name,
            with_error(stats["mean"][k][i], stats["mean_se"][k][i]),
            with_error(stats["sd"][k][i], stats["sd_se"][k][i]),
        ]
        for k, t in enumerate(stats["times"])
        for i, name in enumerate(stats["species"])
    ]
    species = len(stats["species"])
    for k, t in reversed(list(enumerate(stats["times"]))):  # behind the species of the same time
        rows[(k + 1) * species : (k + 1) * species] = [
            [t, name, with_error(found["mean"][k], found["mean_se"][k]), with_error(found["sd"][k], found["sd_se"][k])]
            for name, found in stats["readouts"].items()
        ]
    return Table("", ["time", "species" if not stats["readouts"] else "species, readouts", "mean", "sd"], rows)


def moments_csv(stats: dict[str, Any]) -> Table:
    """One row per time and species: moments, and the covariances with all species; then those of readouts, without."""
    species = stats["species"]
    columns = ["mean", "mean_se", "sd", "sd_se"]
    header = ["time", "species", *columns]
    header += [f"cov_{name}" for name in species] + [f"cov_se_{name}" for name in species]
    rows = [
        [
            t,
            name,
            *(stats[c][k][i] for c in columns),
            *stats["covariance"][k][i],
            *stats["covariance_se"][k][i],
        ]
        for k, t in enumerate(stats["times"])
        for i, name in enumerate(species)
    ]
    rows += [
        [t, name, *(found[c][k] for c in columns), *[None] * (2 * len(species))]
        for name, found in stats["readouts"].items()
        for k, t in enumerate(stats["times"])
    ]
    return Table("", header, rows)


COMMANDS = (
    Command(
        "run",
        "solve a job, or continue it where it stopped",
        "hpcme run jobs/models/birth_death.toml --end 10 --out runs/bd\n"
        "mpiexec -n 4 hpcme run job.toml --set solver.epochs=50",
        options,
        execute,
        parallel=True,
    ),
)
