"""A rank that stands still, is killed or fails ends the whole job in time, its number in the log; the run goes on."""

from __future__ import annotations

import os
import signal
import time

import pytest
from run_helpers import (
    MPIEXEC,
    below,
    datasets,
    end,
    last_step,
    processes,
    ranks_of,
    resumptions,
    same,
    start,
    write_jobs,
)

pytestmark = [pytest.mark.fault, pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec")]
TIMEOUT = 4.0
GRACE = 20.0  # seconds for noticing (tenths of the time-out), telling, and the launcher's own end, on a busy machine


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_jobs(tmp_path_factory.mktemp("ranks"), f"[run]\ntimeout = {TIMEOUT}\n")


@pytest.fixture(scope="module")
def whole(place):
    """Datasets of an uninterrupted run on three ranks."""
    end(start(place, "tdvp", 3, "whole"), place, "whole")
    return datasets(place / "whole" / "results.h5")


def under_way(place, out: str, step: int = 5):
    """A run on three ranks that has made `step` safe, with its ranks."""
    process = start(place, "tdvp", 3, out)
    while last_step(place / out) < step:
        assert process.poll() is None, (place / f"{out}.log").read_text()
        time.sleep(0.002)
    return process, ranks_of(process.pid)


def ended(process, place, out: str, seconds: float) -> tuple[int, str]:
    """Exit code and log of a job that has to end by itself within `seconds`, with all of its processes."""
    family = below(process.pid)
    code = process.wait(timeout=seconds)
    deadline = time.monotonic() + 10
    while any(processes().get(pid, (0, "Z"))[1] not in "ZX" for pid in family):
        assert time.monotonic() < deadline, "a rank outlives its job"
        time.sleep(0.02)
    return code, (place / f"{out}.log").read_text()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_rank_that_stands_still_ends_the_job_in_time(place, whole, victim):
    out = f"stopped-{victim}"
    process, ranks = under_way(place, out)
    os.kill(ranks[victim], signal.SIGSTOP)
    began = time.monotonic()
    code, log = ended(process, place, out, 2 * TIMEOUT + GRACE)
    assert code != 0
    assert time.monotonic() - began > 0.45 * TIMEOUT  # a shorter pause is no reason to end
    assert f"rank {victim} of 3 on " in log and "has given no sign of life for 2 s, half of run.timeout" in log, log
    assert "Traceback" not in log
    end(start(place, "tdvp", 3, out), place, out)
    found = datasets(place / out / "results.h5")
    assert found.keys() == whole.keys() and all(same(found[name], whole[name]) for name in whole)
    assert resumptions(place / out) == 1


def test_a_rank_that_pauses_for_a_moment_is_waited_for(place, whole):
    process, ranks = under_way(place, "paused")
    os.kill(ranks[1], signal.SIGSTOP)
    time.sleep(0.25 * TIMEOUT)
    os.kill(ranks[1], signal.SIGCONT)
    end(process, place, "paused")
    found = datasets(place / "paused" / "results.h5")
    assert all(same(found[name], whole[name]) for name in whole)


def test_a_job_that_was_suspended_as_a_whole_goes_on(place, whole):
    """As Slurm's gang scheduling does: every rank was silent for longer than one alone may be, none is to blame."""
    process, ranks = under_way(place, "suspended")
    for pid in ranks.values():
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.8 * TIMEOUT)
    for pid in ranks.values():
        os.kill(pid, signal.SIGCONT)
    code, log = ended(process, place, "suspended", 60)
    assert code == 0, log
    found = datasets(place / "suspended" / "results.h5")
    assert all(same(found[name], whole[name]) for name in whole)


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_ends_the_job_at_once(place, whole, victim):
    out = f"killed-{victim}"
    process, ranks = under_way(place, out)
    os.kill(ranks[victim], signal.SIGKILL)
    code, log = ended(process, place, out, TIMEOUT + GRACE)
    assert code != 0 and "Traceback" not in log
    # The launcher's words, or ours. It kills the other ranks at once, and may name one of them: seen with MPICH.
    assert "signal 9" in log or f"rank {victim} of 3" in log, log
    end(start(place, "tdvp", 3, out), place, out)
    found = datasets(place / out / "results.h5")
    assert all(same(found[name], whole[name]) for name in whole)
