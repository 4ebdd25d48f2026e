"""What a command must know about its ranks: who prints, and how a failure ends all of them.

Nothing here starts MPI: the rank that prints is read from the launcher's variables, and the communicator
comes from the world that `hpcme.parallel.world.open_world` made.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hpcme.errors import HpcmeError

_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MPI_LOCALRANKID", "SLURM_PROCID")
BUG = "hpcme: this is a bug in hpcme, not in your input; please report it with the lines above.\n"
_PATIENCE = 5.0  # seconds in which the other ranks meet the same error, if it is everybody's


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


def all_arrived(world, seconds: float) -> bool:
    """True when every rank of the world calls this within `seconds`: then all of them met the same end."""
    if world.size == 1:
        return True
    request = world.comm.Ibarrier()
    deadline = time.monotonic() + seconds
    while not request.Test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def ending(world) -> Iterator[None]:
    """Leave the world in good order, or end all ranks when an error is not everybody's.

    An error that every rank meets passes through (the caller prints it once). One that only some ranks meet
    would leave the others waiting in a collective: those ranks say what happened, and the job is aborted
    with the error's exit code.
    """
    try:
        yield
    except BaseException as error:
        if not all_arrived(world, _PATIENCE):
            code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 70)
            text = str(error) if isinstance(error, HpcmeError) else traceback.format_exc().rstrip()
            sys.stderr.write(f"hpcme: error on rank {world.rank} of {world.size}: {text}\n")
            if not isinstance(error, HpcmeError | KeyboardInterrupt):
                sys.stderr.write(BUG)
            world.abort(code)
        world.close()
        raise
    world.close()
