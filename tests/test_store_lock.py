"""The run lock: a living owner is respected, a dead one is recognised by process, boot, job or silence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from store_fakes import QUICK

from hpcme.errors import InputError, OutputError
from hpcme.store.lock import LOCK, RunLock, owner_is_dead, owner_of_this_process, process_start


@pytest.fixture
def sleeper():
    """A living process that does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def plant(folder, **changes):
    """Leave a lock as another process would."""
    owner = {**owner_of_this_process(), **{key: str(value) for key, value in changes.items()}}
    (folder / LOCK).write_bytes(
        json.dumps({**owner, "token": "other", "beat": 0}).encode().ljust(511) + b"\n"
    )


def test_acquire_and_release(tmp_path):
    lock = RunLock(tmp_path, **QUICK)
    assert lock.acquire() is None and lock.held
    lock.check()
    assert os.listdir(tmp_path) == [LOCK]
    lock.release()
    lock.release()
    assert os.listdir(tmp_path) == [] and not lock.held


def test_a_living_process_is_named_and_nothing_is_touched(tmp_path, sleeper):
    plant(tmp_path, pid=sleeper.pid, start=process_start(sleeper.pid), slurm_job="4711")
    before = (tmp_path / LOCK).read_bytes()
    with pytest.raises(InputError, match=rf"in use by process {sleeper.pid} on .*, Slurm job 4711.*Fix:"):
        RunLock(tmp_path, **QUICK).acquire()
    assert (tmp_path / LOCK).read_bytes() == before and os.listdir(tmp_path) == [LOCK]


def test_this_very_process_is_respected_too(tmp_path):
    first = RunLock(tmp_path, **QUICK)
    first.acquire()
    with pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
        RunLock(tmp_path, **QUICK).acquire()
    first.check()
    first.release()


def test_a_dead_process_is_taken_over(tmp_path, sleeper):
    plant(tmp_path, pid=sleeper.pid, start=process_start(sleeper.pid))
    sleeper.send_signal(signal.SIGKILL)
    sleeper.wait()
    lock = RunLock(tmp_path, **QUICK)
    assert f"process {sleeper.pid}" in lock.acquire()
    lock.check()
    lock.release()


def test_a_process_id_given_to_another_process_is_not_the_owner(tmp_path, sleeper):
    plant(tmp_path, pid=sleeper.pid, start="1")
    assert RunLock(tmp_path, **QUICK).acquire() is not None


ME = {
    "host": "n1",
    "boot": "b1",
    "namespace": "7",
    "pid": "1",
    "start": "1",
    "slurm_job": "9",
    "slurm_restart": "2",
}


@pytest.mark.parametrize(
    ("changes", "dead"),
    [
        ({"boot": "b0"}, True),  # the machine was restarted
        ({"namespace": "8"}, None),  # a container: its processes cannot be seen
        ({"host": "n2"}, None),
        ({"host": "n2", "slurm_restart": "1"}, True),  # an earlier life of this very job
        ({"host": "n2", "slurm_restart": "2"}, None),  # a second step of this very job
        ({"host": "n2", "slurm_job": "8", "slurm_restart": "1"}, None),
        ({"host": "n2", "slurm_job": "", "slurm_restart": "0"}, None),
    ],
)
def test_owner_is_dead(changes, dead):
    assert owner_is_dead({**ME, **changes}, ME) is dead


@pytest.mark.parametrize("pid", ["99999999999999999999", "\u00b2", "-1", "x", ""])
def test_a_damaged_process_id_is_nobody(tmp_path, pid):
    """Numbers that no kernel takes, and digits that int() does not."""
    plant(tmp_path, pid=pid)
    lock = RunLock(tmp_path, **QUICK)
    assert "which is gone" in lock.acquire()
    lock.release()


def test_a_silent_owner_elsewhere_is_taken_over(tmp_path):
    plant(tmp_path, host="elsewhere")
    assert "on elsewhere" in RunLock(tmp_path, beat=0.02, patience=0.1).acquire()


def test_an_owner_elsewhere_that_gives_signs_of_life_is_respected(tmp_path, monkeypatch):
    owner = RunLock(tmp_path, beat=0.02, patience=60)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    owner.acquire()
    owner_of_the_beats = owner.path.read_bytes()
    assert b"elsewhere" in owner_of_the_beats
    monkeypatch.setattr("hpcme.store.lock.owner_is_dead", lambda owner, me: None)
    with pytest.raises(InputError, match="in use by"):
        RunLock(tmp_path, beat=0.5, patience=60).acquire()
    owner.release()


def test_a_lock_released_while_it_is_watched_is_free(tmp_path):
    plant(tmp_path, host="elsewhere")
    threading.Timer(0.1, (tmp_path / LOCK).unlink).start()
    assert RunLock(tmp_path, beat=0.1, patience=600).acquire() is None


def test_an_unreadable_lock_is_taken_over_when_silent(tmp_path):
    (tmp_path / LOCK).write_bytes(b"")
    assert "an unknown job" in RunLock(tmp_path, beat=0.02, patience=0.1).acquire()


def test_a_job_that_lost_its_lock_stops(tmp_path, sleeper):
    lock = RunLock(tmp_path, **QUICK)
    lock.acquire()
    (tmp_path / LOCK).unlink()
    with pytest.raises(OutputError, match="was removed while this job runs"):
        lock.check()
    plant(tmp_path, pid=sleeper.pid)
    with pytest.raises(OutputError, match=f"taken over by process {sleeper.pid}"):
        lock.check()
    lock.release()
    assert (tmp_path / LOCK).exists(), "the new owner's lock was removed"


def test_without_hard_links_the_lock_is_still_exclusive(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    lock = RunLock(tmp_path, **QUICK)
    assert lock.acquire() is None
    with pytest.raises(InputError, match="in use"):
        RunLock(tmp_path, **QUICK).acquire()
    lock.check()
    lock.release()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*run\.lock"):
        RunLock(tmp_path / "missing").acquire()


def test_many_contenders_for_a_dead_lock_give_one_owner(tmp_path):
    """Law: of many jobs that find the same dead lock at once, at most one holds it afterwards."""
    plant(tmp_path, pid=2**22 + 1, start="1")
    locks = [RunLock(tmp_path, **QUICK) for _ in range(8)]
    barrier = threading.Barrier(len(locks))

    def contend(lock):
        barrier.wait()
        try:
            lock.acquire()
        except InputError:
            return

    threads = [threading.Thread(target=contend, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owners = []
    for lock in locks:
        if lock.held:
            try:
                lock.check()
                owners.append(lock)
            except OutputError:
                continue
    assert len(owners) == 1


def test_a_lock_that_keeps_changing_hands_is_given_up(tmp_path, monkeypatch):
    plant(tmp_path, pid=2**22 + 1, start="1")
    monkeypatch.setattr(RunLock, "_create", lambda self: False)
    monkeypatch.setattr(RunLock, "_remove", lambda self, seen: False)
    with pytest.raises(InputError, match="keeps changing hands"):
        RunLock(tmp_path, **QUICK).acquire()


def test_a_lock_that_cannot_be_read(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(InputError, match=r"cannot read .*run\.lock"):
        RunLock(tmp_path, **QUICK).acquire()
