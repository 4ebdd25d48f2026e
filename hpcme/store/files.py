"""Files that are either whole or absent: atomic writes, checksums and the manifest of a run folder.

HDF5 must never see a failing write: the library keeps dirty buffers of a file that it could not close and
crashes the process later (segmentation fault when the disk is full, HDF5 2.0). So every file goes through a
`Sink`, which keeps the first error to itself, lets the library finish, and has the error raised afterwards.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpcme.errors import InputError, OutputError, did_you_mean

MANIFEST = "manifest.json"
LIMITS = "automatic_limits"  # of the provenance: how automatic limits were found (exact.limits.LimitsReport)
FORMAT = "hpcme-run"
FORMAT_VERSION = 1
ENTRY_KINDS = ("report", "series", "checkpoint", "results")
STATUSES = ("running", "stopped", "failed", "done")
_ENTRY_NAME = re.compile(r"(?:(?:reports|series|checkpoints)/[A-Za-z0-9-]+\.h5|results\.h5)")
_TEMPORARY = re.compile(r"\..+\.tmp-[0-9]+")
_BLOCK = 1 << 20


class MissingFile(InputError):
    """A file that the manifest names is not there (deleted, or the run moved on while it was read)."""


class Sink:
    """A binary file that swallows the first OSError, drops all later writes and remembers the error.

    It has the methods h5py asks of a file object (read marks it as one; readinto, write, seek, tell, truncate
    and flush are used). Unbuffered: only `write` and `truncate` can fail; what was dropped reads as 0.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._position = 0
        self._size = 0
        self.error: OSError | None = None

    def write(self, data) -> int:
        left = memoryview(data).cast("B")
        size = left.nbytes
        while left.nbytes and self.error is None:
            try:
                done = os.pwrite(self._handle, left, self._position)
            except OSError as error:
                self.error = error
                break
            left = left[done:]  # a disk that fills up takes a part first
            self._position += done
        self._position += left.nbytes
        self._size = max(self._size, self._position) if size else self._size
        return size

    def read(self, size: int = -1) -> bytes:
        buffer = bytearray(max(0, self._size - self._position) if size < 0 else size)
        return bytes(buffer[: self.readinto(buffer)])

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        try:
            done = os.preadv(self._handle, [view], self._position)
        except OSError as error:
            self.error = self.error or error
            done = 0
        view[done:] = bytes(view.nbytes - done)
        self._position += view.nbytes
        return view.nbytes

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        if self.error is None:
            try:
                os.ftruncate(self._handle, self._size)
            except OSError as error:
                self.error = error
        return self._size

    def flush(self) -> None:
        """Nothing is buffered here; atomic_write flushes to the disk."""

    def check(self) -> None:
        """Raise the error that was kept, so that long writes end early."""
        if self.error is not None:
            raise self.error


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of a file as it lies on the disk."""

    bytes: int
    sha256: str


def cannot_write(path: Path, error: OSError) -> OutputError:
    """Return the OutputError for a failed write: names the file, the reason and what to do about it."""
    fix = {
        errno.ENOSPC: "free some space (or choose another --out), then repeat the command",
        errno.EDQUOT: "free some of your quota (or choose another --out), then repeat the command",
        errno.EFBIG: "raise the file size limit (ulimit -f), then repeat the command",
        errno.EROFS: "choose an --out on a writable file system",
        errno.EACCES: "choose an --out that you may write to",
        errno.EPERM: "choose an --out that you may write to",
    }.get(error.errno or 0, "choose another --out or repair the file system, then repeat the command")
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {path}: {reason}. Fix: {fix}.")


def sha256_of(path: Path) -> FileRecord:
    """Read a whole file and return its size and SHA-256."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return FileRecord(size, digest.hexdigest())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut, where the file system can do that."""
    handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def atomic_write(
    path: Path, write: Callable[[Sink], None], inspect: Callable[[Path], None] | None = None
) -> FileRecord:
    """Write a file so that at any instant `path` holds the old content, the new content, or nothing.

    `write(sink)` fills `.NAME.tmp-PID` in the same folder; it is flushed, closed, looked at by `inspect`
    (which raises to refuse it), hashed from the disk, renamed to `path`, and the folder is flushed.
    Raises OutputError when the system refuses to write; then nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            sink = Sink(handle)
            try:
                write(sink)
            except Exception:
                sink.check()  # the cause, rather than what the library made of it
                raise
            sink.check()
            os.fsync(handle)
        finally:
            os.close(handle)
        if inspect is not None:
            inspect(temporary)
        record = sha256_of(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
        return record
    except OSError as error:
        _remove_quietly(temporary)
        raise cannot_write(path, error) from error
    except BaseException:
        _remove_quietly(temporary)
        raise


def _remove_quietly(path: Path) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def is_temporary(name: str) -> bool:
    """Say whether a file name is one that atomic_write uses before the rename."""
    return _TEMPORARY.fullmatch(name) is not None


@dataclass(frozen=True)
class Entry:
    """One segment of a run: where it is (relative to the folder), what it holds, its size and SHA-256.

    `index` is the report index (0 for other kinds), `step` the step of the commit that wrote it, `level` how
    often series rows were merged. The order of entries in the manifest is the order of the commits.
    """

    name: str
    kind: str
    index: int
    step: int
    bytes: int
    sha256: str
    level: int = 0

    def verify(self, folder: Path) -> None:
        """Check size and SHA-256 of the file. Raises MissingFile or InputError naming the file."""
        record = self._looked_at(folder, sha256_of)
        if record != FileRecord(self.bytes, self.sha256):
            raise InputError(
                f"{folder / self.name} is damaged: {MANIFEST} says {self.bytes} bytes with SHA-256 {self.sha256[:16]},"
                f" the file has {record.bytes} bytes with {record.sha256[:16]}... Fix: restore it from a copy."
            )

    def check_size(self, folder: Path) -> None:
        """Check that the file is there and has its size, without reading it. Raises as `verify`."""
        size = self._looked_at(folder, lambda path: path.stat().st_size)
        if size != self.bytes:
            raise InputError(
                f"{folder / self.name} is damaged: {MANIFEST} says {self.bytes} bytes, the file has {size}."
                " Fix: restore it from a copy."
            )

    def _looked_at(self, folder: Path, look: Callable[[Path], Any]) -> Any:
        path = folder / self.name
        try:
            return look(path)
        except FileNotFoundError:
            raise MissingFile(f"{path} is missing, but {MANIFEST} lists it. Fix: restore it from a copy.") from None
        except OSError as error:
            raise InputError(
                f"cannot read {path}: {error.strerror}. Fix: check the file and its permissions."
            ) from error


@dataclass
class Manifest:
    """What a run folder holds: identity of the run, its status and the list of its files.

    Stored as manifest.json with a checksum over its own content; replaced atomically by `save`.
    """

    uuid: str
    kind: str
    model_hash: str
    job_hash: str
    model_text: str
    job_text: str
    created: str
    species: list[str]
    limits: list[int]
    report_times: list[float]
    units: dict[str, str]
    status: str = "running"
    entries: list[Entry] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Entry]:
        """Entries of one kind, in commit order."""
        return [entry for entry in self.entries if entry.kind == kind]

    def described(self) -> dict[str, Any]:
        """What is known about how the run came about, in one flat dictionary: /provenance of results.h5."""
        names = (
            "uuid",
            "kind",
            "created",
            "model_text",
            "model_hash",
            "job_text",
            "job_hash",
            "units",
            "report_times",
            "layout",
            "history",
        )
        return {**self.provenance, **{name: getattr(self, name) for name in names}}

    def save(self, folder: Path) -> None:
        """Replace manifest.json. Raises OutputError."""
        body = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        body["checksum"] = _checksum(body)
        atomic_write(Path(folder) / MANIFEST, lambda sink: sink.write(_manifest_text(body)))

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read manifest.json. Raises InputError (absent, damaged, not ours, or of a newer hpcme)."""
        path = Path(folder) / MANIFEST
        fix = "Fix: restore it from a copy, or delete the folder and run again."
        if (Path(folder) / "results.h5").is_file():
            fix = "Fix: restore it from a copy; the results.h5 beside it can be read without it, by its own name."
        try:
            text = path.read_bytes()
            body = json.loads(text)
        except FileNotFoundError:
            raise InputError(
                f"{folder} is not a run folder: it has no {MANIFEST}. Fix: name the folder given to"
                " --out, or its results.h5."
            ) from None
        except NotADirectoryError:
            raise InputError(f"{folder} is not a folder. Fix: name a run folder or its results.h5.") from None
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}. Fix: check its permissions.") from error
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}). {fix}") from error
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise InputError(
                f'{path} is not a manifest of hpcme: its "format" is not "{FORMAT}". Fix: name a run folder.'
            )
        # The rule of the checksum is that of all versions, so that a newer file can be told from a damaged one.
        stated = body.pop("checksum", None)
        if stated != _checksum(body):
            raise InputError(f"{path} is damaged: its content does not match its checksum. {fix}")
        check_version(path, body.get("format_version"), FORMAT_VERSION)
        if text != _manifest_text({**body, "checksum": stated}):
            raise InputError(f"{path} is damaged or was edited: hpcme does not write it like this. {fix}")
        del body["format"], body["format_version"]
        body["entries"] = [_entry(path, item) for item in body["entries"]]
        return cls(**body)


def check_version(path: Path, version: Any, known: int) -> None:
    """Refuse files of a newer (or senseless) format version with an InputError."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(
            f"{path} has format_version {version!r}, which no hpcme writes. Fix: restore the file."
        )
    if version > known:
        raise InputError(
            f"{path} was written by a newer hpcme: format_version {version}, this one reads up to"
            f" {known}. Fix: update hpcme (pip install --upgrade hpcme)."
        )


def check_status(status: str) -> None:
    """Raise InputError unless `status` is one a run can have."""
    if status not in STATUSES:
        raise InputError(
            f'unknown run status "{status}": allowed are {", ".join(STATUSES)}.'
            + did_you_mean(status, STATUSES)
        )


def _entry(path: Path, item: dict) -> Entry:
    entry = Entry(**item)
    # names are opened, moved and deleted, so a name that points elsewhere is refused
    if _ENTRY_NAME.fullmatch(entry.name) is None or entry.kind not in ENTRY_KINDS:
        raise InputError(
            f"{path} lists a file that no run has: {entry.name!r} of kind {entry.kind!r}. Fix: restore"
            " the manifest from a copy."
        )
    return entry


def _manifest_text(body: dict) -> bytes:
    return (json.dumps(body, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def _checksum(body: dict) -> str:
    # a manifest holds no infinity, but a damaged one may: it must not fail here but differ
    canonical = json.dumps(body, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
