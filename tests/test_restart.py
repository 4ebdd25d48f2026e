"""Runs that are killed at any moment and started again give, bit for bit, what the uninterrupted run gives."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest
from run_helpers import JOBS, MPIEXEC, datasets, end, kill, kill_at, resumptions, same, start, write_jobs

pytestmark = pytest.mark.restart
needs_mpiexec = pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec")

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_jobs(tmp_path_factory.mktemp("restart"))


@pytest.fixture(scope="module")
def whole(place):
    """Datasets of the uninterrupted run, by job and number of ranks; each is made once."""
    made: dict[tuple[str, int], dict[str, np.ndarray]] = {}

    def get(job: str, ranks: int) -> dict[str, np.ndarray]:
        if (job, ranks) not in made:
            out = f"whole-{job}-{ranks}"
            end(start(place, job, ranks, out), place, out)
            made[job, ranks] = datasets(place / out / "results.h5")
        return made[job, ranks]

    return get


CASES = [(job, *case) for job in JOBS for case in ((1, ["all"] * 3), (2, ["1", "0"]))]
CASES += [(job, *case) for job in ("projection", "tdvp") for case in ((2, ["all"] * 2), (3, ["all", "1"]))]


@pytest.mark.parametrize(
    "job, ranks, victims",
    [pytest.param(*case, marks=needs_mpiexec if case[1] > 1 else ()) for case in CASES],
    ids=[f"{job}, {ranks} ranks, kill {' and '.join(victims)}" for job, ranks, victims in CASES],
)
def test_a_killed_run_that_is_repeated_gives_the_uninterrupted_run(place, whole, job, ranks, victims):
    expected = whole(job, ranks)
    steps = len(expected["series/step"])
    assert steps >= 20
    out = f"killed-{job}-{ranks}-{'-'.join(victims)}"
    moments = random.SystemRandom()
    # One kill in each part of the run, so that every one of them meets a run that is under way.
    bounds = np.linspace(0, 0.8 * steps, len(victims) + 1).astype(int)
    plan = [(moments.randrange(a, b), moments.uniform(0.0, 0.1)) for a, b in itertools.pairwise(bounds)]
    for kills, ((step, pause), whom) in enumerate(zip(plan, victims, strict=True)):
        killed = kill_at(start(place, job, ranks, out), place / out, step, pause, whom, kills)
        assert killed, f"plan {plan}: the run ended before step {step}; {(place / f'{out}.log').read_text()}"
        assert not (place / out / "results.h5").exists()
    end(start(place, job, ranks, out), place, out)
    found = datasets(place / out / "results.h5")
    assert found["series/step"].tolist() == list(range(1, steps + 1)), f"plan {plan}"
    assert found.keys() == expected.keys()
    differing = [name for name in expected if not same(found[name], expected[name])]
    assert not differing, f"plan {plan}: {differing}"
    assert found["samples"].any() and len(found["time"]) == 5
    assert resumptions(place / out) == len(victims)


def test_a_run_that_is_killed_before_it_has_a_checkpoint_begins_anew(place, whole):
    """Killed while it makes its folder: what is there is no obstacle."""
    process = start(place, "projection", 1, "early")
    while not (place / "early").exists():
        assert process.poll() is None
        time.sleep(0.001)
    kill(process, "all")
    end(start(place, "projection", 1, "early"), place, "early")
    found, expected = datasets(place / "early" / "results.h5"), whole("projection", 1)
    assert found.keys() == expected.keys() and all(same(found[name], expected[name]) for name in expected)
