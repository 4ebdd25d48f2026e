"""`hpcme doctor`: is this machine, this launcher and this folder fit for hpcme? In words, with the fix."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from hpcme.cli.output import seconds_text, write
from hpcme.cli.parsing import Command
from hpcme.errors import HpcmeError, InputError
from hpcme.parallel.ending import ending
from hpcme.parallel.launch import launched_rank, launched_size

_NEEDED = ("numpy", "scipy", "numba", "h5py", "torch", "mpi4py")
#: Module -> (package, what needs it).
_OPTIONAL = {
    "matplotlib": ("matplotlib", "hpcme plot"),
    "xarray": ("xarray", "Run.to_xarray"),
    "libsbml": ("python-libsbml", "reading and writing SBML"),
    "antimony": ("antimony", "reading Antimony"),
}
_MODEL = """[model]
name = "doctor"
[species]
X = { initial = 0, max = 1 }
[[reactions]]
equation = "0 -> X"
rate = 1.0
"""


class Report:
    """Findings in order: (word, what, fix). `problem` makes the command fail, `note` does not."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def ok(self, what: str) -> None:
        self.lines.append(("OK", what, ""))

    def note(self, what: str, fix: str = "") -> None:
        self.lines.append(("NOTE", what, fix))

    def problem(self, what: str, fix: str) -> None:
        self.lines.append(("PROBLEM", what, fix))

    @property
    def problems(self) -> int:
        return sum(word == "PROBLEM" for word, _, _ in self.lines)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", default=".", metavar="DIR", help="test writing results here (default: this folder)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def execute(args: argparse.Namespace) -> int:
    """Exit code 0, or 65 when there is a problem; under mpiexec rank 0 prints for all."""
    if not Path(args.folder).is_dir():
        raise InputError(f"--folder {args.folder}: there is no such folder. Fix: name one that exists.")
    report = Report()
    ready = _packages(report)
    slurm = _slurm(report)  # before MPI starts: it asks scontrol
    facts = slurm | (_ranks(report) if ready else {})
    failed = facts.pop("failed", False)
    if launched_rank() == 0:
        if ready:
            _compiler(report)
            _storage(report, Path(args.folder))
        _extras(report)
        _print(args, report, facts)
    return InputError.exit_code if failed or report.problems else 0


def _print(args: argparse.Namespace, report: Report, facts: dict[str, Any]) -> None:
    if args.json:
        lines = [dict(zip(("result", "what", "fix"), line, strict=True)) for line in report.lines]
        write(json.dumps({"problems": report.problems, "facts": facts, "findings": lines}, indent=1) + "\n")
        return
    text = ""
    for word, what, fix in report.lines:
        text += f"{word:<8} {what}\n" + (f"{'':<8} fix: {fix}\n" if fix else "")
    count = report.problems
    text += (
        f"{count} problem{'s' if count > 1 else ''}: see PROBLEM above" if count else "everything is in order"
    )
    write(text + "\n")


def _packages(report: Report) -> bool:
    """Python and the packages that hpcme cannot do without; True when all can be loaded."""
    report.ok(f"python {platform.python_version()} ({sys.executable})")
    good = True
    for name in _NEEDED:
        try:
            found = importlib.metadata.version(name)
            if name != "mpi4py":  # loading it starts MPI; that has its own test below
                importlib.import_module(name)
        except Exception as problem:
            report.problem(f"{name} cannot be loaded: {problem}", f"pip install {name}")
            good = good and name == "mpi4py"
        else:
            report.ok(f"{name} {found}")
    return good


def _slurm(report: Report) -> dict[str, Any]:
    """What Slurm gave to this job, and whether the launcher used it. Empty outside a job, and but for rank 0."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or launched_rank() != 0:
        return {}
    told = _told_by_slurm(job)
    size, launcher = launched_size()
    # Not SLURM_NTASKS: below mpiexec, which starts itself through srun, it counts those starts.
    tasks = int(told["NumTasks"]) if told.get("NumTasks", "").isdigit() else None
    report.ok(f"Slurm: job {job}, {told.get('NumNodes', 'unknown')} node(s), {tasks or 'unknown'} task(s)")
    if tasks and tasks > 1 and size == 1:
        report.problem(
            f"Slurm: the job has {tasks} tasks, but no launcher started this process: it runs alone, as on one task",
            "in the batch script, start hpcme with srun --mpi=pmi2 (MPICH) or --mpi=pmix (Open MPI), or with "
            "mpiexec -n $SLURM_NTASKS; hpcme submit does so",
        )
    elif tasks and tasks != size:
        report.note(
            f"Slurm: {launcher} started {size} rank(s) in a job of {tasks} task(s)",
            "as many ranks as tasks: mpiexec -n $SLURM_NTASKS, or srun without -n",
        )
    facts = {"slurm_job": job, "slurm_tasks": tasks, "requeue": {"1": True, "0": False}.get(told.get("Requeue", ""))}
    if facts["requeue"]:
        report.ok("Slurm: this job may be requeued, so a run can go on beyond its time limit by itself")
    elif facts["requeue"] is False:
        report.note(
            "Slurm: this job may not be requeued: a run ends at its time limit, with a checkpoint",
            "sbatch --requeue; where the cluster has JobRequeue=0, submit the same line again: the run continues",
        )
    return facts | {"seconds_left": _time_left(report)}


def _told_by_slurm(job: str) -> dict[str, str]:
    """What `scontrol show job` says; empty when it says nothing. Starts a program: only before MPI starts."""
    if "SLURM_ARRAY_TASK_ID" in os.environ:  # the id of one task may also name the whole array
        job = f"{os.environ.get('SLURM_ARRAY_JOB_ID', job)}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)


def _time_left(report: Report) -> float | None:
    """Seconds until HPCME_DEADLINE; None when there is none."""
    from hpcme.cli.run import last_moment

    deadline = os.environ.get("HPCME_DEADLINE", "")
    try:
        last_moment(deadline, time.time())
    except InputError as problem:
        report.problem(str(problem), "as said")
        return None
    if not deadline:
        report.note(
            "time: HPCME_DEADLINE is not set, so a run does not know when the job will be ended",
            "hpcme submit sets it; in a script of your own, before MPI starts: "
            "export HPCME_DEADLINE=$(date -d \"$(squeue -h -j $SLURM_JOB_ID -o %e)\" +%s)",
        )
        return None
    left = float(deadline) - time.time()
    if left > 0:
        report.ok(f"time: {seconds_text(left)} left (HPCME_DEADLINE)")
    else:
        report.problem(
            f"time: HPCME_DEADLINE passed {seconds_text(-left)} ago: a run would stop after one step",
            "unset it, or set it to the end of this job",
        )
    return left


def _ranks(report: Report) -> dict[str, Any]:
    """Launcher, MPI, devices, threads and an all-reduce over the ranks."""
    from hpcme.parallel.world import mpi_library, open_world

    size, launcher = launched_size()
    facts: dict[str, Any] = {"launched": size, "launcher": launcher}
    if size > 1:
        report.ok(f"launcher: {launcher}, {size} processes")
    else:
        report.note(
            "launcher: none seen, so this is one process. If you did start several and this report stands "
            "here several times, they do not know of each other: each is a world of size 1 and would do all "
            "of the work",
            "only if so: use the mpiexec that came with the MPI library, or srun --mpi=pmi2 (MPICH) or "
            "--mpi=pmix (Open MPI)",
        )
    try:
        world = open_world("auto", 60.0)
    except Exception as problem:  # whatever it is, the user needs the rest of the report
        fix = "as said above"
        if "sees only this process" in str(problem):
            fix += (
                "; until then every process is a world of size 1 of its own, and all would do the same work. "
                f"The MPI library that is loaded here: {mpi_library()[1]}"
            )
        report.problem(f"the {size} processes cannot be joined: {problem}", fix)
        return facts | {"failed": True}
    with ending(world):
        _world(report, facts, world)
        facts["failed"] = world.any(report.problems > 0)
    return facts


def _world(report: Report, facts: dict[str, Any], world) -> None:
    import torch

    from hpcme.parallel.world import mpi_library

    found, library = mpi_library()
    facts |= {"size": world.size, "mpi": library, "threads": world.threads, "gpus": torch.cuda.device_count()}
    total = world.sum_(torch.ones(1, dtype=torch.float64, device=world.device)).item()
    hosts = world.gather((socket.gethostname(), str(world.device)))
    if total == world.size:
        report.ok(f"torch.distributed: an all-reduce over {world.size} rank(s) adds up")
    else:
        report.problem(
            f"torch.distributed: adding 1 over {world.size} ranks gave {total}", "report this launch"
        )
    report.ok(f"MPI: {library}") if found else report.note(
        f"MPI: {library}; one process needs none", "for several: pip install mpich"
    )
    if hosts is not None:
        names = dict.fromkeys(name for name, _ in hosts)
        facts["ranks_per_host"] = {name: sum(name == other for other, _ in hosts) for name in names}
        places = ", ".join(f"{count} on {name}" for name, count in facts["ranks_per_host"].items())
        report.ok(f"ranks: {places}; rank 0 computes on {hosts[0][1]}")
    cpus = len(os.sched_getaffinity(0))
    report.ok(f"threads: {world.threads} a rank ({cpus} CPUs may be used here; HPCME_THREADS overrides)")
    if world.local_size * world.threads > os.cpu_count():
        report.note(
            f"{world.local_size} ranks share {os.cpu_count()} CPUs of this host", "start fewer ranks a host"
        )
    _gpus(report, facts["gpus"])


def _gpus(report: Report, seen: int) -> None:
    """GPUs that torch sees, and those that were allotted."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    allotted = os.environ.get("SLURM_JOB_GPUS") or os.environ.get("SLURM_STEP_GPUS") or visible
    if seen == 0 and allotted not in ("", "-1", "NoDevFiles"):
        built = "was built without CUDA" if torch.version.cuda is None else f"was built for CUDA {torch.version.cuda}"
        report.problem(
            f"GPUs: {allotted} allotted (CUDA_VISIBLE_DEVICES = \"{visible}\"), but torch {torch.__version__}, which "
            f"{built}, sees none: the CPU would be used",
            "install a torch with CUDA (see HPCME_TORCH in jobs/setup.sh), and see whether nvidia-smi works on this "
            "node; without need of GPUs, ask Slurm for none",
        )
    elif seen == 0:
        report.note("GPUs: torch sees none; the CPU will be used")
    else:
        report.ok(f"GPUs: {', '.join(torch.cuda.get_device_name(i) for i in range(seen))}")


def _compiler(report: Report) -> None:
    """Compile and run a kernel, and see where compiled code is kept."""
    import numpy as np

    try:
        from hpcme.kernels.dedup import unique_states
        from hpcme.kernels.randomness import next_word

        count = len(unique_states(np.array([[1, 2], [1, 2], [0, 3]], dtype=np.int32))[0])
    except Exception as problem:
        report.problem(
            f"numba cannot compile: {problem}", "set NUMBA_CACHE_DIR to a writable folder on a local disk"
        )
        return
    if count != 2:
        report.problem(f"a compiled kernel counted {count} distinct states of 2", "reinstall numba")
    else:
        report.ok(f"numba compiles; compiled code is kept in {next_word.stats.cache_path}")


def _storage(report: Report, folder: Path) -> None:
    """Write, verify and read a tiny run."""
    import numpy as np

    from hpcme.model.reader import load_model_text
    from hpcme.store.reader import open_run, verify_run
    from hpcme.store.reference import write_fsp_run

    place = folder.absolute()
    net = load_model_text(_MODEL)
    identity = {
        "kind": "fsp",
        "model_text": net.text,
        "model_hash": net.hash,
        "job_text": "doctor",
        "job_hash": "doctor",
        "species": list(net.species),
        "limits": net.limits.tolist(),
        "report_times": [0.0],
        "units": {"time": "1"},
    }
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".hpcme-doctor-") as temporary:
            run = Path(temporary) / "run"
            write_fsp_run(
                run, identity, np.zeros(1), np.array([[0], [1]]), np.array([[0.25, 0.75]]), np.zeros(1)
            )
            problems = verify_run(run)
            with open_run(run) as opened:
                good = not problems and opened.mean[0, 0] == 0.75
    except (HpcmeError, OSError) as problem:
        report.problem(
            f"results cannot be written to {place}: {problem}",
            "run in, or give --out in, a folder that you may write to",
        )
        return
    except Exception:
        report.problem(
            f"HDF5 fails in {place}: {traceback.format_exc(limit=-1).strip()}",
            "reinstall h5py: pip install h5py",
        )
        return
    if good:
        report.ok(f"results can be written to {place} and read back (HDF5)")
    else:
        report.problem(f"results written to {place} read back wrong", "use another file system")


def _extras(report: Report) -> None:
    for module, (name, use) in _OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            report.note(f"{name} is not installed; only {use} needs it", f"pip install {name}")
        else:
            report.ok(f"{name} {importlib.metadata.version(name)} (for {use})")


COMMANDS = (
    Command(
        "doctor",
        "test this machine: packages, MPI, ranks, GPUs and results folder",
        "hpcme doctor\nmpiexec -n 2 hpcme doctor",
        options,
        execute,
        parallel=True,
    ),
)
