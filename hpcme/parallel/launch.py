"""What the launcher says: how this process was started, before any MPI call."""

from __future__ import annotations

import os
from collections.abc import Mapping

# (variable with the number of ranks, variable with this rank, launcher), in the order in which they are believed.
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "Open MPI mpiexec"),
    ("PMI_SIZE", "PMI_RANK", "MPICH mpiexec or srun --mpi=pmi2"),
    ("MPI_LOCALNRANKS", "MPI_LOCALRANKID", "MPICH mpiexec"),
    ("PMIX_SIZE", "PMIX_RANK", "PMIx launcher"),
)
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MPI_LOCALRANKID", "SLURM_PROCID")


def launched_size() -> tuple[int, str]:
    """Number of ranks that the launcher started and its name; (1, '') when there is no launcher.

    Inside a Slurm batch script SLURM_NTASKS is set without any launcher; only a job step started by srun counts,
    which sets SLURM_PROCID and SLURM_STEP_NUM_TASKS (the batch shell itself is a step of one task).
    """
    for size, _, name in _LAUNCHERS:
        if os.environ.get(size, "").isdigit():
            return int(os.environ[size]), name
    if "PMIX_RANK" in os.environ and os.environ.get("SLURM_STEP_NUM_TASKS", "").isdigit():
        return int(os.environ["SLURM_STEP_NUM_TASKS"]), "srun --mpi=pmix"
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    if tasks.isdigit() and int(tasks) > 1:
        return int(tasks), "srun"
    return 1, ""


def launched_rank() -> int:
    """This process's rank as the launcher tells it, before any MPI call; 0 without a launcher.

    SLURM_PROCID counts only inside a step of several tasks: a batch shell has it too.
    """
    for name in _RANKS:
        value = os.environ.get(name, "")
        if name == "SLURM_PROCID" and os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
            continue
        if value.isdigit():
            return int(value)
    return 0


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that is a rank of nobody, started from one that may be: without what a launcher
    tells its ranks. What Slurm says of the job stays."""
    names = {*_RANKS, "SLURM_STEP_NUM_TASKS", *(name for launcher in _LAUNCHERS for name in launcher[:2])}
    kept = {name: value for name, value in environment.items() if name not in names}
    return {name: value for name, value in kept.items() if not name.startswith(("PMI_", "PMIX_", "OMPI_", "HYDRA"))}


def set_threads(local_ranks: int, useful: int | None = None) -> int:
    """Share the CPUs of this host among its ranks, for torch and numba; returns torch's threads per rank.

    useful: more threads than this would only wait for each other (small matrices); numba keeps its share.
    The environment variable HPCME_THREADS overrides both.
    """
    wanted = os.environ.get("HPCME_THREADS", "")
    allowed = len(os.sched_getaffinity(0))
    # Bound ranks (Open MPI binds each to one core) see only their own cores: nothing to divide then.
    threads = int(wanted) if wanted.isdigit() and int(wanted) > 0 else max(1, allowed // max(1, local_ranks))
    import numba
    import torch

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if useful is not None and not wanted.isdigit():
        threads = max(1, min(threads, useful))
    torch.set_num_threads(threads)
    return threads
