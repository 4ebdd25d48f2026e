"""A run that is killed at any instant, or whose disk fills up, continues as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from store_fakes import contents, simulate

from hpcme.store.files import MANIFEST
from hpcme.store.reader import open_run, verify_run

FAKES = Path(__file__).with_name("store_fakes.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(FAKES.parent.parent), "OMP_NUM_THREADS": "1"}


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, str(FAKES), *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_killed_before_every_single_file_operation(tmp_path):
    """The fake forks, dies before its k-th file operation, for every k there is, is resumed, dies once more,
    is resumed, and must equal the uninterrupted run."""
    result = run("crash", tmp_path)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 50, "hardly any file operations were seen: the test has lost its subject"


def test_killed_by_the_kernel_at_random_moments(tmp_path):
    """20 times kill -9; the folder is readable after each, and no row or report is missing or doubled."""
    steps, pause = 60, 0.002
    simulate(tmp_path / "whole", steps=steps)
    whole = contents(tmp_path / "whole")
    dice = random.Random(4)
    kills, finished = 0, 0
    folder = tmp_path / "run-0"
    for _ in range(60):
        process = subprocess.Popen(
            [sys.executable, str(FAKES), "simulate", str(folder), str(steps), str(pause)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdout.readline()
        time.sleep(dice.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        message = process.communicate()[1].decode()
        assert process.returncode in (0, -signal.SIGKILL), message
        kills += process.returncode != 0
        if (folder / MANIFEST).exists():
            seen = open_run(folder)
            rows = seen.series().get("t", np.zeros(0))
            assert np.array_equal(rows, 0.1 * np.arange(1, len(rows) + 1))
            assert np.array_equal(seen.times, np.arange(len(seen.times)))
            assert verify_run(folder) == []
            if seen.status == "done":
                assert contents(folder) == whole
                finished += 1
                folder = tmp_path / f"run-{finished}"
        if kills >= 20:
            break
    assert kills >= 20
    simulate(folder, steps=steps)
    assert contents(folder) == whole


@pytest.mark.parametrize("size", [0, 3000, 20000, 60000])
def test_a_disk_that_fills_up(tmp_path, size):
    """A limit on the file size is, to the program, a disk that fills up: in a segment, in results.h5."""
    result = run("limit", tmp_path / "run", size)
    assert result.returncode == 74, (result.returncode, result.stderr)
    assert result.stderr == "", "HDF5 saw the failure: it crashes the process sooner or later"
    assert (
        "cannot write" in result.stdout and "File too large" in result.stdout and "is intact" in result.stdout
    )
    assert verify_run(tmp_path / "run") == []
    assert not [name for name in os.listdir(tmp_path / "run") if ".tmp-" in name]
    simulate(tmp_path / "run")
    simulate(tmp_path / "whole")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
