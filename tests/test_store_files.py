"""Atomic files, the manifest and the encoding of values: what is on the disk is whole, checked and exact."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_fakes import identity

from hpcme.errors import InputError, InternalError, OutputError
from hpcme.store import files
from hpcme.store.encode import read_items, write_items
from hpcme.store.files import MANIFEST, Entry, Manifest, MissingFile, Sink, atomic_write, sha256_of
from hpcme.store.identity import manifest_of
from hpcme.store.layout import check_series, join_series, same_bits


def test_atomic_write_gives_the_new_content_and_its_checksum(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    record = atomic_write(path, lambda sink: sink.write(b"new content"))
    assert path.read_bytes() == b"new content"
    assert record == sha256_of(path) and record.bytes == 11
    assert os.listdir(tmp_path) == ["a.bin"]


def test_atomic_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def explode(sink):
        sink.write(b"half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        atomic_write(path, explode)
    with pytest.raises(InputError, match="refused"):
        atomic_write(
            path,
            lambda sink: sink.write(b"x"),
            inspect=lambda p: (_ for _ in ()).throw(InputError("refused")),
        )
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_atomic_write_into_a_missing_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match=r"gone.*No such file.*Fix:"):
        atomic_write(tmp_path / "gone" / "a", lambda sink: sink.write(b""))


def test_sink_keeps_the_first_error_and_never_raises(tmp_path):
    handle = os.open(tmp_path / "a", os.O_RDONLY | os.O_CREAT)  # writing to it fails
    try:
        sink = Sink(handle)
        assert sink.write(b"abc") == 3 and sink.tell() == 3
        assert sink.seek(1) == 1
        assert sink.read(2) == b"\0\0"
        assert sink.truncate(5) == 5 and sink.seek(0, os.SEEK_END) == 5
        with pytest.raises(OSError):
            sink.check()
    finally:
        os.close(handle)


@given(st.lists(st.tuples(st.integers(0, 60), st.binary(max_size=20)), max_size=20))
@settings(max_examples=50, deadline=None)
def test_sink_is_a_file(tmp_path_factory, writes):
    """Law: seek-and-write on a Sink equals the same on an ordinary file."""
    folder = tmp_path_factory.mktemp("sink")
    with open(folder / "plain", "w+b") as plain, open(folder / "sink", "w+b", buffering=0) as raw:
        sink = Sink(raw.fileno())
        for offset, data in writes:
            plain.seek(offset)
            plain.write(data)
            sink.seek(offset)
            sink.write(data)
        plain.seek(0)
        sink.seek(0)
        assert plain.read() == sink.read()


def test_manifest_round_trip(tmp_path):
    manifest = manifest_of(identity())
    manifest.entries.append(Entry("reports/report-00001.h5", "report", 1, 7, 10, "ab"))
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest


@pytest.mark.parametrize("position", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_flipped_bit_in_the_manifest_is_found(tmp_path, position):
    manifest_of(identity()).save(tmp_path)
    path = tmp_path / MANIFEST
    content = bytearray(path.read_bytes())
    where = int(position * len(content))
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json"):
        Manifest.load(tmp_path)


def _rewrite(folder, **changes):
    body = json.loads((folder / MANIFEST).read_text())
    body.update(changes)
    if "format_version" in changes:  # of a newer hpcme, hence with the checksum it would have
        del body["checksum"]
        body["checksum"] = files._checksum(body)
    (folder / MANIFEST).write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not a manifest of hpcme"),
        ({"format_version": 2}, "newer hpcme.*up to 1.*update"),
        ({"format_version": "x"}, "format_version 'x'"),
        ({"status": "done"}, "does not match its checksum"),
    ],
)
def test_manifests_that_are_refused(tmp_path, changes, message):
    manifest_of(identity()).save(tmp_path)
    _rewrite(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"2.0", b"1e999", "does not match its checksum"),  # infinity, which JSON cannot write back
        (b'"format_version": 1', b'"format_version": 3', "is damaged"),  # a flipped bit, not a newer hpcme
        (b"\n ", b"  ", "hpcme does not write it like this"),  # says the same, but is not the file that was written
    ],
)
def test_small_damage_to_a_manifest_that_is_still_json(tmp_path, old, new, message):
    manifest_of(identity()).save(tmp_path)
    text = (tmp_path / MANIFEST).read_bytes()
    assert old in text
    (tmp_path / MANIFEST).write_bytes(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("name", ["../x.h5", "/etc/passwd", "reports/../../x.h5", "notes.txt"])
def test_a_manifest_cannot_name_files_outside_the_run(tmp_path, name):
    manifest = manifest_of(identity())
    manifest.entries.append(Entry(name, "report", 0, 0, 1, ""))
    manifest.save(tmp_path)
    with pytest.raises(InputError, match="lists a file that no run has"):
        Manifest.load(tmp_path)


def test_folders_without_a_manifest(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        Manifest.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        Manifest.load(tmp_path / "file")
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(InputError, match="cannot read"):
        Manifest.load(tmp_path)


def test_a_damaged_manifest_beside_results_does_not_advise_to_delete_them(tmp_path):
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(InputError, match="delete the folder"):
        Manifest.load(tmp_path)
    (tmp_path / "results.h5").write_bytes(b"")
    with pytest.raises(InputError, match=r"results\.h5 beside it can be read") as caught:
        Manifest.load(tmp_path)
    assert "delete" not in str(caught.value)


def test_entry_verify_names_missing_and_damaged_files(tmp_path):
    (tmp_path / "results.h5").write_bytes(b"12345")
    record = sha256_of(tmp_path / "results.h5")
    entry = Entry("results.h5", "results", 0, 0, record.bytes, record.sha256)
    entry.verify(tmp_path)
    (tmp_path / "results.h5").write_bytes(b"12346")
    entry.check_size(tmp_path)
    with pytest.raises(InputError, match=r"results\.h5 is damaged"):
        entry.verify(tmp_path)
    (tmp_path / "results.h5").write_bytes(b"1234")
    with pytest.raises(InputError, match=r"results\.h5 is damaged.*says 5 bytes, the file has 4"):
        entry.check_size(tmp_path)
    (tmp_path / "results.h5").unlink()
    with pytest.raises(MissingFile, match=r"results\.h5 is missing"):
        entry.verify(tmp_path)
    (tmp_path / "results.h5").mkdir()
    with pytest.raises(InputError, match="cannot read"):
        entry.verify(tmp_path)


NASTY = {
    "random/state": np.arange(5, dtype=np.uint64) + np.uint64(2**63),
    "random/counter": 2**200 - 1,
    "negative": -(2**63),
    "flag": True,
    "off": False,
    "text": "h\u00e9llo\0",
    "empty": "",
    "nan": float("nan"),
    "minus zero": -0.0,
    "f32": np.float32(1.5),
    "bool scalar": np.bool_(True),
    "zero-d": np.array(3.0),
    "no rows": np.zeros((0, 3)),
    "mask": np.array([[True, False]]),
    "half": np.ones(3, dtype=np.float16),
    "i8": np.array([-128], dtype=np.int8),
    "big endian": np.arange(3, dtype=">i4"),
    "complex": np.array([1 + 2j]),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "layers.0.weight": np.array([np.nan, -np.inf, 5e-324]),
    "nan payload": np.array([0x7FF8DEADBEEF0000], dtype=np.uint64).view(np.float64),
}


def test_values_round_trip_bit_for_bit(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_items(file.create_group("content"), NASTY)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        read = read_items(file["content"])
    assert read.keys() == NASTY.keys()
    for name, value in NASTY.items():
        assert type(read[name]) is type(value), name
        assert same_bits(value, read[name]), name


@pytest.mark.parametrize(
    "items",
    [
        {"a": 1, "a/b": 2},
        {"": 1},
        {"a//b": 1},
        {"/a": 1},
        {"a/..": 1},
        {"a\0": 1},
        {3: 1},
        {"a": None},
        {"a": [1]},
        {"a": {"b": 1}},
        {"a": np.array(["x"])},
        {"a": np.array([None])},
        {"a": np.array(["2020"], dtype="datetime64[Y]")},
    ],
)
def test_values_that_have_no_place_are_refused(tmp_path, items):
    with h5py.File(tmp_path / "a.h5", "w") as file, pytest.raises(InternalError, match="checkpoint"):
        write_items(file.create_group("content"), items)


def test_same_bits_sees_what_equality_does_not():
    assert same_bits(float("nan"), float("nan")) and not same_bits(0.0, -0.0)
    assert not same_bits(np.zeros(2), np.zeros(2, dtype=np.float32))
    assert not same_bits({"a": 1}, {"a": 1, "b": 2}) and not same_bits([1], [1, 2]) and not same_bits(1, True)


def test_join_series_concatenates_and_marks_gaps():
    joined = join_series([{"t": np.array([1.0]), "n": np.array([1])}, {"t": np.array([2.0, 3.0])}, {}])
    assert joined["t"].tolist() == [1, 2, 3] and joined["n"].dtype == np.float64
    assert joined["n"][0] == 1 and np.isnan(joined["n"][1:]).all()
    assert join_series([{"n": np.array([1])}, {"n": np.array([2**60 + 1])}])["n"].tolist() == [1, 2**60 + 1]
    assert join_series([]) == {}


@pytest.mark.parametrize(
    "series",
    [
        {"t": [1.0], "dt": [1.0, 2.0]},
        {"t": [[1.0]]},
        {"t": ["x"]},
        {"a/b": [1]},
        {"row": [1]},
        {"": [1]},
    ],
)
def test_series_that_are_refused(series):
    with pytest.raises(InternalError, match="series"):
        check_series(series)
