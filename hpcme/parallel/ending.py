"""How a run on several ranks ends when something fails: one rule for the command line and for hpcme.solve.

An error that every rank meets is raised on every rank, and whoever catches it prints it once. An error that only
some ranks meet would leave the others waiting in a collective for ever: the rank that met it says so, with its
number, and ends all ranks with the error's exit code.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hpcme.errors import explain
from hpcme.parallel.launch import launched_rank, launched_size

if TYPE_CHECKING:
    from hpcme.parallel.world import World

PATIENCE = 5.0  # seconds in which the other ranks meet the same error, if it is everybody's


def say_once(text: str) -> None:
    """Print the last words of a program on rank 0, when every rank is about to end with an error code.

    A launcher drops what it has not yet read when the first rank ends like that, hence the pause.
    """
    if launched_rank() == 0:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    if launched_size()[0] > 1:
        time.sleep(1.0)


@contextmanager
def ending(world: World) -> Iterator[World]:
    """Use a world for a block and leave it: in good order, or by the rule above."""
    try:
        yield world
    except BaseException as error:
        if not world.all_arrived(PATIENCE):
            text, code = explain(error, f" on rank {world.rank} of {world.size}")
            sys.stderr.write(text + "\n")
            world.abort(code)
        world.close()
        raise
    world.close()
