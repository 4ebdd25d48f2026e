"""The seal at the end of results.h5: checksums of every byte before it, so that the file vouches for itself.

    HDF5 data       `size` bytes; HDF5 knows where they end, so every reader (h5py, h5dump, MATLAB) ignores the rest
    digests         SHA-256 of each block of `block` bytes (the last may be shorter), 32 bytes each
    footer          64 bytes: magic [16], version uint32, block uint32, size uint64 (little-endian), and the
                    SHA-256 of the digests and of the footer up to here [32]

HDF5's own checksums (fletcher32) cover the chunks of data but not attributes, headers, names, heaps and offsets,
where one flipped bit gives a wrong number, another dataset, or a crash inside the library. Here HDF5 never sees a
byte that was not checked: `SealedFile` compares each block with its digest when it is first needed. Opening a
file of any size thus costs a few blocks, not a pass over the file; `hpcme verify` makes that pass.

Every version of the footer starts with the same magic and ends with this checksum, so that a newer file can be
told from a damaged one. A program that opens the file for writing removes the seal, and hpcme then refuses the file.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import OrderedDict
from pathlib import Path

from hpcme.errors import InputError
from hpcme.store.files import Sink, check_version

SEAL_VERSION = 1
BLOCK = 1 << 20
_MAGIC = b"hpcme-seal\r\n\x1a\n\0\0"
_HEAD = struct.Struct("<16sIIQ")
_DIGEST = 32
_FOOTER = _HEAD.size + _DIGEST
_KEPT = 16  # checked blocks in memory: HDF5 comes back to its metadata
_HDF5 = b"\x89HDF\r\n\x1a\n"
_RESTORE = "Fix: restore it from a copy."


class BrokenSeal(OSError):
    """A block that differs from its digest. An OSError, since it is raised inside a file object."""


def append_seal(sink: Sink, block: int = BLOCK) -> None:
    """Write the seal after everything that was written to the sink so far."""
    size = sink.seek(0, os.SEEK_END)
    sink.seek(0)
    digests = b"".join(
        hashlib.sha256(sink.read(min(block, size - start))).digest() for start in range(0, size, block)
    )
    head = _HEAD.pack(_MAGIC, SEAL_VERSION, block, size)
    sink.seek(size)
    sink.write(digests + head + hashlib.sha256(digests + head).digest())


class SealedFile:
    """The HDF5 part of a sealed file, for reading; a file object for h5py that checks what it hands out.

    Raises InputError naming the file when the seal is absent, broken or of a newer hpcme; reading a damaged
    block raises BrokenSeal, now and (in case the library swallowed it) in the next `check`.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle
        self._position = 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._broken = ""
        whole = os.fstat(handle).st_size
        footer = self._at(max(0, whole - _FOOTER), _FOOTER)
        if len(footer) < _FOOTER or not footer.startswith(_MAGIC):
            raise InputError(self._without_seal())
        head, stated = footer[: _HEAD.size], footer[_HEAD.size :]
        _, version, self._block, self.size = _HEAD.unpack(head)
        number = -(-self.size // self._block) if self._block else 0
        if number * _DIGEST + self.size + _FOOTER != whole:
            raise InputError(f"{path} is damaged: its seal is of a file of another size. {_RESTORE}")
        digests = self._at(self.size, number * _DIGEST)
        if hashlib.sha256(digests + head).digest() != stated:
            raise InputError(f"{path} is damaged: its seal does not match its own checksum. {_RESTORE}")
        check_version(path, version, SEAL_VERSION)
        self._digests = [digests[k : k + _DIGEST] for k in range(0, len(digests), _DIGEST)]

    def _at(self, start: int, size: int) -> bytes:
        parts = []
        while size > 0 and (part := os.pread(self._handle, size, start)):  # one pread gives at most 2 GiB
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return b"".join(parts)

    def _without_seal(self) -> str:
        if self._at(0, len(_HDF5)) != _HDF5:
            return f"{self._path} is not a readable HDF5 file. Fix: name a run folder or its results.h5."
        return (
            f"{self._path} is not a whole results file of hpcme: it does not end with the seal that hpcme writes. It is"
            " damaged, was changed by another program, or comes from elsewhere. Fix: restore it from a copy."
        )

    def _get(self, k: int) -> bytes:
        """Block k, checked; the blocks used last are kept."""
        if k in self._kept:
            self._kept.move_to_end(k)
            return self._kept[k]
        start = k * self._block
        data = self._at(start, min(self._block, self.size - start))
        if hashlib.sha256(data).digest() != self._digests[k]:
            # a string: an error kept here would keep the frames of HDF5's callers, and they this file, for ever
            self._broken = f"bytes {start} to {start + len(data)} are not those that were written"
            raise BrokenSeal(self._broken)
        self._kept[k] = data
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return data

    def check(self) -> None:
        """Raise InputError if a damaged block was met."""
        if self._broken:
            raise InputError(f"{self._path} is damaged: {self._broken}. {_RESTORE}")

    def check_all(self) -> None:
        """Read and check every block. Raises InputError."""
        for k in range(len(self._digests)):
            try:
                self._get(k)
            except BrokenSeal:
                self.check()

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        while done < view.nbytes and self._position < self.size:
            k, offset = divmod(self._position, self._block)
            part = self._get(k)[offset : offset + view.nbytes - done]
            view[done : done + len(part)] = part
            done, self._position = done + len(part), self._position + len(part)
        return done

    def read(self, size: int = -1) -> bytes:
        buffer = bytearray(max(0, self.size - self._position) if size < 0 else size)
        return bytes(buffer[: self.readinto(buffer)])

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing is ever written here; h5py calls it all the same."""
