"""Run pytest on every rank of an MPI job: what CTest starts under the launcher.

    mpiexec -n N python -m mpi4py tests/mpi_pytest.py N [pytest arguments]

All ranks run the same tests in the same order. Rank 0 reports. The first failure on any rank prints its
traceback with the rank and ends the whole job: the others would otherwise wait in a collective for a rank
that has left the test.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import redirect_stdout

import pytest


class AllOrNothing:
    """A pytest plugin: a test that fails on one rank ends all of them, with words."""

    def __init__(self, comm) -> None:
        self.comm = comm

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.comm.size > 1:
            where = f"rank {self.comm.rank} of {self.comm.size}: {report.nodeid} failed in {report.when}"
            sys.__stderr__.write(f"\n{where}\n{report.longreprtext}\n{report.capstderr}\nending all ranks\n")
            sys.__stderr__.flush()
            time.sleep(1.0)  # mpiexec drops what it has not yet read when a rank aborts
            self.comm.Abort(1)


def main(arguments: list[str]) -> int:
    """Run pytest on this rank; returns its exit code.

    arguments: the expected number of ranks, then pytest's own.
    """
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    expected, own = int(arguments[0]), arguments[1:]
    if comm.size != expected:
        sys.stderr.write(
            f"mpi_pytest: {expected} ranks were started, but MPI sees {comm.size}: launcher and MPI library "
            "do not fit together. Use the mpiexec of the library that mpi4py loads (HPCME_LAUNCHER).\n"
        )
        return 1
    if comm.rank:
        own = [word for word in own if not word.startswith("--junitxml")]
    # The reports of the other ranks would say the same; what fails there speaks on standard error.
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere if comm.rank else sys.stdout),
    ):
        return int(pytest.main(own, plugins=[AllOrNothing(comm)]))


if __name__ == "__main__":
    # As `python -m pytest` does: the tree that is tested comes first.
    sys.path.insert(0, os.getcwd())
    sys.exit(main(sys.argv[1:]))
