"""Disks that are full and folders that cannot be written, with real limits and real mounts: nothing good is lost.

A job runs in a process of its own; after a certain step something happens to the disk. The command must then end with
exit code 74 and say what is wrong, what to do and which checkpoint is intact; `hpcme verify` must find the folder
whole; and when there is room again the same command must go on to the very bits of the run that nothing happened to.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import Result, process, run_words, write_inputs
from store_fakes import contents

from hpcme.store.files import Manifest
from hpcme.store.reader import verify_run

pytestmark = pytest.mark.fault

HARM_AT = 3  # the step after which something happens to the disk; a checkpoint is made every second step
RUN = ("run", "job.toml", "--quiet", "--set", "output.checkpoint_steps=2", "--out")

# The job, and what happens to its disk: `what` is called once, in the process of the run, after step `at`.
PROGRAM = """
import os, resource, subprocess, sys
from hpcme.cli import progress
from hpcme.cli.main import main

what, number, place, at, *argv = sys.argv[1:]
number, at, done = int(number), int(at), []

def limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))

def fill():
    with open(os.path.join(place, "filler"), "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - number))

def read_only():
    # A read-only view on top: the file system itself cannot change while the lock is open for writing.
    subprocess.run(["mount", "--bind", place, place], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)

def forbid():
    for folder, _, _ in os.walk(place):
        os.chmod(folder, 0o555)

def step(self, now):
    if now.step == at and not done:
        done.append(now.step)
        globals()[what]()

progress.Display.step = step
code = main(argv)
assert done, f"the run never came to step {at}"
sys.exit(code)
"""


def harmed(
    folder: Path, what: str, number: int, place: Path, out: Path, at: int = HARM_AT, before: tuple[str, ...] = ()
) -> Result:
    """The job in a process of its own, whose disk meets with `what` after step `at`; `before`: words before it."""
    words = [*before, sys.executable, "-c", PROGRAM, what, str(number), str(place), str(at), *RUN, str(out)]
    return run_words(folder, words)


def numbers(run: Path):
    """Every dataset of results.h5 but the times that the computer took."""
    return {name: value for name, value in contents(run).items() if "wall" not in name}


def checkpoints(run: Path) -> list[int]:
    return [entry.step for entry in Manifest.load(run).of_kind("checkpoint")]


def check_failure(result: Result, run: Path, reason: int, file: str = "") -> None:
    """Exit code 74; one message with the file, the reason, the remedy and the checkpoint; the folder whole."""
    assert result.code == 74 and result.out == "", result
    assert "Traceback" not in result.err and result.err.count("hpcme: error: ") == 1, result.err
    assert f"cannot write {run}/{file}" in result.err and os.strerror(reason) in result.err and "Fix: " in result.err
    step = checkpoints(run)[-1]
    assert f"the checkpoint of step {step} is intact; repeating the command continues" in result.err
    assert verify_run(run) == [] and len(checkpoints(run)) <= 2
    assert not [path for path in run.rglob("*") if ".tmp-" in path.name]


def check_continued(folder: Path, run: Path, right) -> None:
    """The same command goes on from the checkpoint to the same bits."""
    step = checkpoints(run)[-1]
    result = process(folder, *[word for word in RUN if word != "--quiet"], run)
    assert result.code == 0 and f"continuing from step {step} (level: exact" in result.err, result
    assert numbers(run) == right
    assert verify_run(run) == []
    assert sorted(item.name for item in run.iterdir()) == ["manifest.json", "results.h5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def right(place):
    """The numbers of the run that nothing happened to."""
    result = process(place, *RUN, "whole")
    assert result.code == 0, result.err
    return numbers(place / "whole")


@pytest.fixture
def disk(tmp_path):
    """A disk of 1 MB, mounted for this test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    while os.path.ismount(folder) and subprocess.run(["umount", "-l", str(folder)]).returncode == 0:
        pass


@pytest.mark.parametrize(
    ("size", "file"), [(0, "series/"), (12_000, "checkpoints/"), (40_000, "results.h5")], ids=["0", "12k", "40k"]
)
def test_a_limit_on_the_size_of_files(place, right, tmp_path, size, file):
    """ulimit -f: the first file of a commit, its last one, or results.h5 does not fit."""
    run = tmp_path / "run"
    result = harmed(place, "limit", size, tmp_path, run)
    check_failure(result, run, errno.EFBIG, file)
    assert "ulimit -f" in result.err
    check_continued(place, run, right)


@pytest.mark.parametrize(
    ("room", "file"), [(0, "series/"), (16_384, "checkpoints/")], ids=["no room", "room for a part"]
)
def test_a_disk_that_fills_up_in_the_middle_of_a_run(place, right, disk, room, file):
    run = disk / "run"
    result = harmed(place, "fill", room, disk, run)
    check_failure(result, run, errno.ENOSPC, file)
    assert "free some space" in result.err
    before = {entry.name: entry.sha256 for entry in Manifest.load(run).entries}
    again = process(place, *RUN, run)  # still no room
    assert again.code == 74 and "free some space" in again.err and "Traceback" not in again.err
    now = {entry.name: entry.sha256 for entry in Manifest.load(run).entries}
    assert before.items() <= now.items() and verify_run(run) == []
    (disk / "filler").unlink()
    check_continued(place, run, right)


def test_a_disk_without_room_for_the_results(place, right, disk):
    """Everything fits but results.h5: the segments stay, and only the last step of the run is done again."""
    run, last = disk / "run", len(contents(place / "whole")["series/t"][2]) // 8
    result = harmed(place, "fill", 180_000, disk, run, at=last)
    check_failure(result, run, errno.ENOSPC, "results.h5")
    assert checkpoints(run)[-1] == last and Manifest.load(run).status == "running"
    (disk / "filler").unlink()
    check_continued(place, run, right)


def test_a_disk_that_is_full_from_the_start(place, disk):
    """Nothing can be made: each command says so and leaves nothing that the next one would stumble over."""
    with open(disk / "filler", "wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    commands = [(*RUN, disk / "run"), ("fsp", "job.toml", "--quiet", "--out", disk / "fsp"),
                ("sample", "whole", "-n", 500, "--out", disk / "samples.csv")]  # fmt: skip
    if not (place / "whole").exists():
        assert process(place, *RUN, "whole").code == 0
    for argv in commands:
        result = process(place, *argv)
        assert result.code == 74 and "Traceback" not in result.err and "free some space" in result.err, result
        assert result.err.count("hpcme: error: ") == 1 and str(disk) in result.err
    assert not (disk / "samples.csv").exists()
    (disk / "filler").unlink()
    for argv in commands:
        result = process(place, *argv)
        assert result.code == 0, result.err


def test_a_file_system_that_turns_read_only(place, right, disk):
    """Not even the lock can be removed: the next command sees that its owner is gone."""
    run = disk / "run"
    result = harmed(place, "read_only", 0, disk, run)
    check_failure(result, run, errno.EROFS)
    assert "writable" in result.err and (run / "run.lock").exists()
    again = process(place, *RUN, run)
    assert again.code == 74 and "not writable" in again.err and "Traceback" not in again.err
    (row,) = json.loads(process(place, "status", run, "--json").out)
    assert row["state"] == "interrupted" and row["step"] == checkpoints(run)[-1]
    subprocess.run(["umount", str(disk)], check=True)  # the read-only view on top
    check_continued(place, run, right)


def test_a_finished_run_on_a_read_only_file_system_can_be_read(place, right, disk):
    shutil.copytree(place / "whole", disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for argv in (("stats", disk / "run"), ("verify", disk / "run"), ("status", disk), (*RUN, disk / "run")):
        result = process(place, *argv)
        assert result.code == 0 and result.err == "", result


def test_a_folder_whose_permission_is_taken_away(place, right, tmp_path):
    """For a user, or for root without the right to pass over permissions."""
    before = ()
    if os.geteuid() == 0:
        before = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
        if shutil.which(before[0]) is None or subprocess.run([*before, "true"], capture_output=True).returncode:
            pytest.skip("root cannot give up its rights over permissions here: no setpriv that works")
    run = tmp_path / "run"
    result = harmed(place, "forbid", 0, run, run, before=before)
    check_failure(result, run, errno.EACCES)
    assert "that you may write to" in result.err
    for folder in (run, *run.iterdir()):
        if folder.is_dir():
            folder.chmod(0o755)
    check_continued(place, run, right)
