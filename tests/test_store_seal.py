"""The seal of results.h5: invisible to other programs, and no byte is used that does not agree with it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from store_fakes import simulate

from hpcme.errors import InputError
from hpcme.store import seal
from hpcme.store.files import Sink
from hpcme.store.reader import open_run, verify_run
from hpcme.store.seal import BrokenSeal, SealedFile, append_seal

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed") / "run"
    simulate(folder)
    return folder


@pytest.fixture
def lone(finished, tmp_path):
    return shutil.copy(finished / "results.h5", tmp_path / "lone.h5")


def make(path, data, block):
    """A file with `data` under a seal of small blocks; returns the open handle."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    sink = Sink(handle)
    sink.write(data)
    append_seal(sink, block)
    sink.check()
    return handle


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1234])
def test_a_sealed_file_reads_like_the_data_in_it(tmp_path, size):
    """Law: any seek and read gives what a plain file of the data gives, within and across blocks and at the end."""
    data = np.random.default_rng(size).bytes(size)
    handle = make(tmp_path / "a", data, 100)
    try:
        file = SealedFile(tmp_path / "a", handle)
        assert file.size == size and file.read() == data and file.read() == b"" and file.tell() == size
        dice = np.random.default_rng(1)
        for _ in range(200):
            start, length = dice.integers(0, size + 50), dice.integers(0, 350)
            assert file.seek(int(start)) == start
            assert file.read(int(length)) == data[start : start + length]
        assert file.seek(0, os.SEEK_END) == size
        file.check_all()
        file.check()
    finally:
        os.close(handle)


@pytest.mark.parametrize("many", [3, 40])
def test_every_flipped_bit_is_found_before_its_byte_is_used(tmp_path, many, monkeypatch):
    """Every single byte of a small sealed file in turn; blocks that are whole can still be read."""
    monkeypatch.setattr(seal, "_KEPT", 2)
    data = np.random.default_rng(0).bytes(many * 10 - 4)
    os.close(make(tmp_path / "a", data, 10))
    whole = (tmp_path / "a").read_bytes()
    for where in range(len(whole)):
        (tmp_path / "a").write_bytes(whole[:where] + bytes([whole[where] ^ 1 << where % 8]) + whole[where + 1 :])
        handle = os.open(tmp_path / "a", os.O_RDONLY)
        try:
            if where >= len(data):  # in the seal itself
                with pytest.raises(InputError, match=r"a is (damaged|not a readable)"):
                    SealedFile(tmp_path / "a", handle)
                continue
            file = SealedFile(tmp_path / "a", handle)
            for k in range(many):
                file.seek(10 * k)
                if k != where // 10:
                    assert file.read(10) == data[10 * k : 10 * k + 10]
                    continue
                with pytest.raises(BrokenSeal, match=rf"bytes {10 * k} to "):
                    file.read(1)
            with pytest.raises(InputError, match="a is damaged: bytes"):
                file.check()
            with pytest.raises(InputError, match="a is damaged: bytes"):
                file.check_all()
        finally:
            os.close(handle)


def test_opening_a_large_file_reads_a_small_part_of_it(finished, tmp_path, monkeypatch):
    """Opening and reading one mean must not hash the samples."""
    seen = []
    real = SealedFile._get

    def get(self, k):
        if k not in self._kept:
            seen.append(k)
        return real(self, k)

    monkeypatch.setattr(SealedFile, "_get", get)
    path = tmp_path / "big.h5"
    os.close(make(path, _enlarged(finished, tmp_path / "copy.h5"), 1 << 16))
    with open_run(path) as run:
        assert run.mean.shape == (3, 2)
        blocks = len(run._source._seal._digests)
    assert blocks > 200 and len(set(seen)) < 20


def _enlarged(finished, copy):
    """The bytes of a results.h5 with a large dataset in its middle."""
    shutil.copy(finished / "results.h5", copy)
    with h5py.File(copy, "a") as file:
        file["filler"] = np.zeros(2_000_000)
    return copy.read_bytes()


def test_other_programs_see_a_plain_hdf5_file(lone):
    """The end of the HDF5 data, as the superblock states it, is where the seal begins."""
    with open(lone, "rb") as handle:
        size = SealedFile(lone, handle.fileno()).size
    assert 0 < os.path.getsize(lone) - size < 200
    with open(lone, "rb") as file:
        head = file.read(48)
    assert head[8] == 0 and struct.unpack("<Q", head[40:48]) == (size,)  # superblock 0: end of file address
    for options in ({}, {"driver": "stdio"}, {"driver": "core", "backing_store": False}, {"libver": "latest"}):
        with h5py.File(lone, "r", **options) as file:
            assert file["moments/mean"].shape == (3, 2)
    h5dump = shutil.which("h5dump")
    if h5dump is not None:
        done = subprocess.run([h5dump, "-d", "/moments/mean", str(lone)], capture_output=True, text=True)
        assert done.returncode == 0 and "DATASPACE" in done.stdout and not done.stderr


def test_a_file_changed_by_another_program_is_refused(lone):
    with h5py.File(lone, "a") as file:
        file["moments/mean"][0, 0] = 17.0
    with pytest.raises(InputError, match=r"lone\.h5 is not a whole results file.*seal.*changed by another program"):
        open_run(lone)
    assert "seal" in verify_run(lone)[0]


@pytest.mark.parametrize("length", [None, 30_000, 4])
def test_a_process_that_keeps_the_error_ends_in_good_order(lone, length):
    """HDF5 frees what a failed open left when the process ends, after Python: that must not touch Python any more."""
    data = bytearray(lone.read_bytes())
    if length is None:
        data[5000] ^= 1  # the seal sees it
    else:
        del data[length:]
    lone.write_bytes(data)
    program = (
        "import ctypes, sys\nfrom hpcme.store.reader import open_run\nfrom hpcme.store.segments import open_hdf5\n"
        "kept = 0\n"
        "for use in (open_run, lambda path: open_hdf5(path).__enter__().keys()):\n"
        "    try: use(sys.argv[1])\n"
        "    except Exception as error: ctypes.pythonapi.Py_IncRef(ctypes.py_object(error)); kept += 1\n"
        "print(kept)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(lone)], capture_output=True, text=True, cwd=ROOT)
    kept = "1" if length is None else "2"  # without its seal the first file can be opened, for it says what it said
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, kept, "")


def test_a_newer_seal_is_refused_clearly(lone, monkeypatch):
    with open(lone, "rb") as handle:
        data = handle.read(SealedFile(lone, handle.fileno()).size)
    with monkeypatch.context() as patch:
        patch.setattr(seal, "SEAL_VERSION", 2)
        os.close(make(lone, data, 1 << 20))
    with pytest.raises(InputError, match=r"newer hpcme: format_version 2, this one reads up to 1.*update"):
        open_run(lone)


def test_results_of_another_run_under_this_name(finished, tmp_path):
    """Whole and of the right size, but not this run's: the folder refuses it, and so does verify."""
    shutil.copytree(finished, tmp_path / "a")
    simulate(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "results.h5", tmp_path / "a" / "results.h5")
    assert os.path.getsize(tmp_path / "a" / "results.h5") == os.path.getsize(finished / "results.h5")
    with pytest.raises(InputError, match=r"results\.h5 belongs to another run"):
        open_run(tmp_path / "a")
    assert "results.h5" in verify_run(tmp_path / "a")[0]


def test_results_can_be_read_by_their_name_when_the_manifest_is_damaged(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text("{")
    with open_run(tmp_path / "a" / "results.h5") as run, open_run(finished) as right:
        assert np.array_equal(run.mean, right.mean)
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        open_run(tmp_path / "a")
