"""The run lock: two jobs never write to one folder, and a lock left by a killed job is recognised.

The lock is a file `run.lock` that names its owner: host, boot, process namespace, process id and start, Slurm
job and restart count. Whether an owner is dead is decided, in this order:
  - same machine and process namespace: the process is gone, or its id was given to a younger process;
  - same host name but another boot: the machine was restarted;
  - same Slurm job with a lower restart count: Slurm requeues a job only after its end;
  - otherwise (another machine, whose processes cannot be seen): the owner counts up a number in the file
    every `beat` seconds; if it stands still for `patience` seconds of our own clock, the owner is dead.
A job that was suspended so long that another took over notices at its next commit (`check`) and stops.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from hpcme.errors import InputError, OutputError
from hpcme.store.files import cannot_write

LOCK = "run.lock"
_SIZE = 512  # fixed, so that a beat overwrites the file in place and never truncates it


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def process_start(pid: int) -> str:
    """Start of a process in clock ticks since boot (field 22 of /proc/PID/stat), '' where unknown."""
    stat = _read_text(f"/proc/{pid}/stat")
    # the command, in parentheses, may itself hold blanks and parentheses
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""


def owner_of_this_process() -> dict[str, str]:
    """Who we are, as written into the lock."""
    return {
        "host": socket.gethostname(),
        "boot": _read_text("/proc/sys/kernel/random/boot_id"),
        "namespace": _namespace(),
        "pid": str(os.getpid()),
        "start": process_start(os.getpid()),
        "slurm_job": os.environ.get("SLURM_JOB_ID", ""),
        "slurm_restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
    }


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it exists, but belongs to another user
    return True


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0  # what a damaged lock says may be anything


def owner_is_dead(owner: dict[str, str], me: dict[str, str]) -> bool | None:
    """True: surely dead. False: surely alive. None: cannot be told from here."""
    if owner["host"] == me["host"]:
        if owner["boot"] == me["boot"] and owner["namespace"] == me["namespace"]:
            pid = _number(owner["pid"])
            return not _alive(pid) or process_start(pid) != owner["start"]
        if owner["boot"] and me["boot"] and owner["boot"] != me["boot"]:
            return True
    if (
        owner["slurm_job"]
        and owner["slurm_job"] == me["slurm_job"]
        and _number(owner["slurm_restart"]) < _number(me["slurm_restart"])
    ):
        return True
    return None


def describe_owner(owner: dict[str, str]) -> str:
    """A line that lets a user find the job that holds a lock."""
    job = f", Slurm job {owner['slurm_job']}" if owner["slurm_job"] else ""
    return f"process {owner['pid']} on {owner['host']}{job}"


class RunLock:
    """Exclusive use of a run folder by this process; `acquire`, `check` before every commit, `release`.

    beat: seconds between signs of life; patience: how long a silent owner on another machine is watched.
    """

    def __init__(self, folder: Path, *, beat: float = 15.0, patience: float = 60.0) -> None:
        self.path = Path(folder) / LOCK
        self.beat = beat
        self.patience = patience
        self._token = uuid.uuid4().hex
        self._handle: int | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._handle is not None

    def acquire(self) -> str | None:
        """Take the lock. Returns None, or a line about the dead owner whose lock was taken over.

        Raises InputError naming a living owner, OutputError when the folder cannot be written.
        """
        notice = None
        for _ in range(10):
            if self._create():
                self._thread = threading.Thread(target=self._beat_on, name="hpcme-run-lock", daemon=True)
                self._thread.start()
                return notice
            seen = self._read()
            if seen is None:
                continue  # released just now
            owner = _owner_in(seen)
            self._refuse_living(owner, seen)
            if self._remove(seen):
                who = describe_owner(owner) if owner else "an unknown job"
                notice = f"took over the folder from {who}, which is gone"
        raise InputError(
            f"{self.path} keeps changing hands. Fix: see which jobs use {self.path.parent}, stop all but one."
        )

    def check(self) -> None:
        """Raise OutputError if the folder was taken over by another job (we were suspended too long)."""
        for _ in range(5):
            seen = self._read()
            if seen is not None and self._token.encode() in seen:
                return
            if seen is not None:
                owner = _owner_in(seen)
                who = describe_owner(owner) if owner else "an unknown job"
                raise OutputError(
                    f"the run folder {self.path.parent} was taken over by {who} while this job was"
                    " silent; this job stops and writes nothing more. Fix: run one job at a time."
                )
            time.sleep(0.1)  # two jobs that find the same dead lock may move it for a moment
        raise OutputError(
            f"the lock {self.path} was removed while this job runs; this job stops and writes nothing"
            " more. Fix: leave run.lock alone, then repeat the command."
        )

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        if self._handle is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        seen = self._read()
        os.close(self._handle)
        self._handle = None
        if seen is not None and self._token.encode() in seen:
            try:
                os.unlink(self.path)
            except OSError:
                return  # a lock of a dead process: the next job takes it over

    def _content(self, count: int) -> bytes:
        body = {**owner_of_this_process(), "token": self._token, "beat": count}
        return json.dumps(body).encode("ascii").ljust(_SIZE - 1) + b"\n"

    def _create(self) -> bool:
        """Make the lock file with its content in one step; False when there is one already."""
        try:
            try:
                self._handle = self._create_linked()
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise
                # no hard links here: exclusive creation; a crash before the write leaves an empty lock, which
                # the next job watches for `patience` seconds and then takes over
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
                os.write(handle, self._content(0))
                self._handle = handle
        except FileExistsError:
            return False
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return True

    def _create_linked(self) -> int:
        temporary = self.path.with_name(f".{LOCK}.{self._token}.new.tmp-{os.getpid()}")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(handle, self._content(0))
            os.fsync(handle)
            os.link(temporary, self.path)
        except FileNotFoundError:
            os.close(handle)
            raise FileExistsError from None  # a job that just took the lock tidied our temporary file away
        except BaseException:
            os.close(handle)
            raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        return handle

    def _read(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(
                f"cannot read {self.path}: {error.strerror}. Fix: check its permissions."
            ) from error

    def _refuse_living(self, owner: dict[str, str] | None, seen: bytes) -> None:
        dead = owner_is_dead(owner, owner_of_this_process()) if owner else None
        if dead:
            return
        deadline = time.monotonic() + self.patience
        while dead is None and time.monotonic() < deadline:
            time.sleep(min(self.beat, self.patience) / 5)
            now = self._read()
            if now is None:
                return  # released while we looked
            dead = False if now != seen else None
        if dead is None:
            return
        who = describe_owner(owner) if owner else "another job"
        raise InputError(
            f"{self.path.parent} is in use by {who}. Fix: wait for it or stop it; or use another --out."
            f" If no such job exists, delete {self.path}."
        )

    def _remove(self, seen: bytes) -> bool:
        """Remove the dead lock that was looked at, and no other one that took its place meanwhile."""
        aside = self.path.with_name(f".{LOCK}.{self._token}.old.tmp-{os.getpid()}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise cannot_write(self.path, error) from error
        with contextlib.suppress(FileNotFoundError):  # tidied away by a job that took the lock just now
            ours = aside.read_bytes() == seen
            if not ours:
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self.path)
            os.unlink(aside)
            return ours
        return False

    def _beat_on(self) -> None:
        count = 0
        while not self._stop.wait(self.beat):
            count += 1
            try:
                os.pwrite(self._handle, self._content(count), 0)
            except OSError:
                continue  # a full disk: the commit reports it, and blocks in place need no space


def _owner_in(content: bytes) -> dict[str, str] | None:
    try:
        body = json.loads(content)
        return {
            key: str(body[key])
            for key in ("host", "boot", "namespace", "pid", "start", "slurm_job", "slurm_restart")
        }
    except (ValueError, KeyError, TypeError):
        return None
