"""One run from a job to a finished run folder: what `hpcme run` and `hpcme.solve` do."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from hpcme.beginning import start_of
from hpcme.dynamics.borders import LEAK_ALLOWED, LimitsReached
from hpcme.dynamics.certificate import Certificate
from hpcme.dynamics.enumeration import make_enumeration
from hpcme.dynamics.evolve import Evolution, Progress
from hpcme.dynamics.exponential import Exponential
from hpcme.dynamics.motion import Motion
from hpcme.dynamics.projection import Projection
from hpcme.dynamics.relaunch import Events
from hpcme.dynamics.sampler import Shards
from hpcme.dynamics.tdvp import Tdvp
from hpcme.dynamics.timers import Timers
from hpcme.errors import HpcmeError, NumericalError, OutputError
from hpcme.exact.limits import LimitsReport, grown
from hpcme.model.job import Job, load_job
from hpcme.networks.base import VAN
from hpcme.networks.build import build_network, enumerate_reachable
from hpcme.parallel.ending import ending
from hpcme.parallel.world import World, open_world
from hpcme.scan.neighbours import Warm, find_warm
from hpcme.store.files import LIMITS, MANIFEST, Manifest
from hpcme.store.recorder import Recorder
from hpcme.store.writer import RunWriter

Say = Callable[[str], None]


_CERTIFIED_ALL = 5000  # states up to which the certificate of a scheme that samples sums over all of them


def _nothing(line: str) -> None:
    """A `say` that says nothing."""


def solve(
    job: Job | str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    world: World | None = None,
    say: Say | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
):
    """Solve a job (or continue it) and return the opened run (`hpcme.store.reader.Run`); None on ranks > 0.

    job: a Job, a path of a job or model file, or a nested dict like a job file. out: run folder.
    say: receives lines for the user; progress: is called after every step; stop: asks for a pause when it
    returns True on any rank (the run then returns unfinished, and the same call continues it).
    world: ranks that the caller joined and uses in `with hpcme.parallel.ending.ending(world)`; default: join them here.
    Raises InputError, OutputError or NumericalError on every rank; an error of one rank alone ends all of them.
    """
    from hpcme.store.reader import open_run

    if not isinstance(job, Job):
        job = load_job(job, need_limits=False)
    folder = Path(out) if out is not None else job.out
    if world is None:
        with ending(open_world(job["run.device"], job["run.timeout"])) as joined:
            return solve(job, out=folder, world=joined, say=say, progress=progress, stop=stop)
    job = with_limits(job, world)
    done = False
    with _together(world):
        done = world.main and finished(folder, job)
    if not world.share(done):
        quiet = say is None or not world.main
        _solve(job, folder, world, _nothing if quiet else say, progress if world.main else None, stop)
    # Only rank 0 opens the folder: other hosts may see it late, or not at all.
    run = None
    with _together(world):
        run = open_run(folder) if world.main else None
    return run


def finished(folder: Path, job: Job) -> bool:
    """True when the folder already holds the finished run of this very job. Raises InputError for another's."""
    return RunWriter.is_finished(folder, identity(job))


def identity(job: Job) -> dict[str, Any]:
    """What makes a run this run: the model and the part of the job that determines results.

    The model is told by the hash of what was written, automatic limits included, while the text has the numbers that
    the run used: they may grow while it runs.
    """
    return {
        "kind": "network", "model_text": job.net.text, "model_hash": job.model.hash,
        "job_text": job.text(identity=True),
        "job_hash": job.hash, "species": list(job.net.species), "limits": job.net.limits.tolist(),
        "report_times": job.report_times.tolist(), "units": job.net.time_unit,
    }  # fmt: skip


def _solve(job: Job, folder: Path, world: World, say: Say, progress, stop) -> None:
    job = _with_stored_limits(job, folder, world)
    with _together(world):
        shards = shards_of(job, world)
    # Below some hundred thousand entries a matrix is done before a second thread has woken up.
    world.use_threads(1 + shards.rows * len(shards.owned) * job["network.width"] // 400_000)
    if job["run.deterministic"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # What torch.use_deterministic_algorithms does, without the compiler that it imports, which takes seconds.
    torch.set_deterministic_debug_mode("error" if job["run.deterministic"] else "default")
    writer = warm = None
    with _together(world):
        if world.main:
            warm = _warm(job, say)
            writer = RunWriter.open(folder, {**identity(job), **_circumstances(job, world, warm)})
            for message in writer.messages:
                say(f"hpcme: {message}")
    status = "failed"
    try:
        reached = None
        while reached is None:
            try:
                reached = prepare(job, world, shards, writer, say, warm=world.share(warm)).run(stop, progress)
            except LimitsReached as found:  # on all ranks
                with _together(world):
                    job = _grown(job, found, say)
                    shards = shards_of(job, world)
                    if writer is not None:
                        writer.begin_again(identity(job), **_limits_of(job))
        status = "done" if reached else "stopped"
    except NumericalError:
        if writer is not None:
            writer.finish("failed")
        raise
    finally:
        if writer is not None:
            writer.finish(status) if status != "failed" else writer.close()


def with_limits(job: Job, world: World) -> Job:
    """The job with numbers for its automatic limits, on every rank those that rank 0 finds. Collective."""
    found = None
    with _together(world):
        if world.main:
            found = job.resolved().limits
    found = world.share(found)
    with _together(world):
        job = job if found is None or found == job.limits else job.with_limits(found)
    return job


def _with_stored_limits(job: Job, folder: Path, world: World) -> Job:
    """The job with the limits that its run has come to, if there is one in the folder, the same on every rank."""
    if job.limits is None:
        return job
    limits = job.limits
    with _together(world):
        if world.main and (folder / MANIFEST).exists():
            stored = Manifest.load(folder)
            # Another run is refused by its hashes where the folder is opened.
            if (stored.model_hash, stored.job_hash) == (job.model.hash, job.hash) and LIMITS in stored.provenance:
                limits = LimitsReport.from_plain(stored.provenance[LIMITS])
    limits = world.share(limits)
    with _together(world):
        job = job if limits == job.limits else job.with_limits(limits)
    return job


def _grown(job: Job, found: LimitsReached, say: Say) -> Job:
    """The job with larger limits for the species through whose limits probability left. Raises InputError."""
    names = [name for name, lost in found.lost.items() if lost > 0.1 * found.total]
    before = {limit.species: limit.largest for limit in job.limits}
    larger = job.with_limits(grown(job.model, job.limits, names)[1])
    changes = ", ".join(
        f"{limit.species} {before[limit.species]} -> {limit.largest}"
        for limit in larger.limits
        if limit.largest != before[limit.species]
    )
    say(
        f"hpcme: by t = {found.t:g}, {found.total:.1e} of the probability has left through automatic limits, more than "
        f"{LEAK_ALLOWED:g}: they grow ({changes}), and the run begins again"
    )
    return larger


def _limits_of(job: Job) -> dict[str, Any]:
    """What a run keeps of how its limits were found."""
    return {} if job.limits is None else {LIMITS: job.limits.plain()}


def shards_of(job: Job, world: World) -> Shards:
    """This rank's part of the samples. Raises InputError where a rank would have none."""
    return Shards.split(
        job["run.seed"], job["sampling.samples"], job["sampling.shards"], job["sampling.cover"],
        world.rank, world.size, world.device, job["sampling.tail"],
    )  # fmt: skip


def prepare(
    job: Job, world: World, shards: Shards, writer: RunWriter | None = None, say: Say = _nothing,
    timers: Timers | None = None, warm: Warm | None = None,
) -> Evolution:  # fmt: skip
    """Network, scheme and recorder of a job, at its start or at its newest checkpoint, ready to run. Collective.

    writer: of rank 0; None elsewhere, or for a run that keeps nothing (tests, benchmarks). warm: the run that fits
    begin from, the same on every rank.
    """
    timers = timers or Timers()
    checkpoint = world.share(writer.load_checkpoint() if writer is not None else None)
    start = None
    if checkpoint is None:
        with _together(world):
            if world.main:
                start = start_of(job, say)
        start = world.share(start)  # the others wait here, in MPI, which knows no time-out
        spec = start.spec
    else:
        spec = json.loads(checkpoint[1]["network"])
    network = build_network(spec, job.net, seed=job["run.seed"])
    if start is not None:
        network.load_state_dict(start.parameters)
    network = network.to(world.device)
    say(f"hpcme: {job.net.name}: {job.net.S} species, {job.net.R} reactions; {world.describe()}; "
        f'network "{spec["kind"]}", {sum(p.numel() for p in network.parameters())} parameters')  # fmt: skip
    enumeration = make_enumeration(job.net, world.device)
    states = _all_states(job, world, say)
    summed = states if job["sampling.exact"] is not False else None
    recorder = Recorder(job, world, writer, spec, shards, summed)
    if job["solver.scheme"] == "tdvp":
        if job["solver.integrator"] == "exponential":
            scheme = Exponential(network, world, job, summed, _motion(network, spec, warm, say))
        else:
            scheme = Tdvp(network, enumeration, world, job, summed)
    else:
        scheme = Projection(network, enumeration, shards, world, job, timers)
    certificate = Certificate(network, enumeration, world, shards=shards, states=states)
    evolution = Evolution(
        job, scheme, certificate, world, recorder, timers, Events(job, world, say),
        lambda line: say(f"hpcme: warning: {line}"),
    )  # fmt: skip
    if checkpoint is not None:
        evolution.restore(checkpoint[1])
        say(f"hpcme: continuing at step {evolution.step}, t = {evolution.t:g}")
    else:
        recorder.start()
        evolution.begin(start.t, start.distance)
        recorder.commit(0, evolution.state())
    return evolution


def _all_states(job: Job, world: World, say: Say) -> torch.Tensor | None:
    """The reachable states where they are few enough to be summed over, int32 [M, S]; None else."""
    states = enumerate_reachable(job.net, job["sampling.exact_states"], job["time.end"])
    if states is None:
        return None
    if job["solver.scheme"] == "tdvp" and job["sampling.exact"] is not False:
        say(f"hpcme: {len(states)} states can be reached: sums over states are exact")
    elif len(states) > _CERTIFIED_ALL:
        return None
    return torch.from_numpy(states).to(world.device)


def _warm(job: Job, say: Say) -> Warm | None:
    """The finished run from whose networks fits begin, if the job names one (run.warm)."""
    if job["run.warm"] is None:
        return None
    warm = find_warm(Path(job["run.warm"]), job)
    if warm is None:
        say(f"hpcme: no task near this one is finished in {job['run.warm']}: nothing to begin from")
    return warm


def _motion(network: VAN, spec: dict[str, Any], warm: Warm | None, say: Say) -> Motion | None:
    """How the heads moved in the run that fits begin from; None without one, and for networks of another kind."""
    if warm is None:
        return None
    motion = Motion.of(network, spec, warm.times, warm.specs, warm.parameters)
    of_no_use = ", but its networks are of another kind or too few: of no use" if motion is None else ""
    say(f"hpcme: fits begin from those of {warm.folder}{of_no_use}")
    return motion


def _circumstances(job: Job, world: World, warm: Warm | None = None) -> dict[str, Any]:
    """Where the run happens: `layout` decides whether a resumed run is bitwise the one that was never stopped."""
    layout = {
        "ranks": world.size, "device": world.device.type, "threads": world.threads, "hardware": _processor(world),
        "torch": torch.__version__, "numpy": np.__version__,
    }  # fmt: skip
    if warm is not None:  # fits that begin elsewhere end with other rounding
        layout["warm"] = warm.uuid
    provenance = {
        **_limits_of(job),
        "warm": warm.folder if warm is not None else "",
        "seed": job["run.seed"], "ranks": world.size, "host": platform.node(), "hardware": layout["hardware"],
        "torch": torch.__version__, "numba": numba.__version__, "model_path": str(job.path or ""),
        "slurm_job": os.environ.get("SLURM_JOB_ID", ""),
    }  # fmt: skip
    return {"layout": layout, "provenance": provenance}


def _processor(world: World) -> str:
    """Name of the processor that does the arithmetic."""
    if world.device.type == "cuda":
        return torch.cuda.get_device_name(world.device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{platform.machine()} {named} {torch.backends.cpu.get_cpu_capability()}".strip()


class _together:
    """Errors of rank 0 in the block are raised on every rank, so that none waits for it in vain."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> bool:
        if error is not None and not isinstance(error, HpcmeError | OSError):
            return False
        if isinstance(error, OSError):
            error = OutputError(f"the run folder cannot be written: {error}")
        self.world.raise_together(error)
        return False
