"""The merged file of a scan: its numbers are those of the tasks, other programs read it, and damage is told."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from store_fakes import LIMITS, SPECIES, changed_results, simulate

from hpcme import open_run
from hpcme.errors import InputError, OutputError
from hpcme.store import merged
from hpcme.store.files import sha256_of
from hpcme.store.merged import Cell, Content, MergedAxis, merged_name, text_array, write_merged

TIMES = np.array([0.0, 1.0, 2.0])
A, B = 2, 3
REASON = "it was killed at Köln"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Six finished runs, whose means differ; the folder that holds them."""
    folder = tmp_path_factory.mktemp("runs")
    simulate(folder / "0", steps=6)
    for i in range(1, A * B):
        shutil.copytree(folder / "0", folder / str(i))
        with changed_results(folder / f"{i}/results.h5") as file:
            file["moments/mean"][...] *= 1.0 + i
            file["marginals/A"][...] *= 1.0 - 0.1 * i
    return folder


def content(runs: Path, missing: dict[int, tuple[str, str]] | None = None, **changes) -> Content:
    """A scan of two axes, the second of which carries a further key."""
    missing = missing or {}
    cells = [Cell(i + 1, runs / str(i), *missing.get(i, ("done", "")), "m0", "j0") for i in range(A * B)]
    axes = [
        MergedAxis("b", "parameters.b", np.array([1e-4, 1e-3]), {}),
        MergedAxis("kind", "network.kind", text_array(["gru", "made", "été"]), {"k": ("parameters.k", np.arange(B))}),
    ]
    own = {"axes": axes, "cells": cells, "species": SPECIES, "limits": LIMITS, "times": TIMES, "time_unit": "s"}
    return Content(**{**own, "texts": {"job_text": "[time]\n"}, **changes})


@pytest.fixture(scope="module")
def path(runs):
    """A merged file in which the fourth of six tasks is missing."""
    write_merged(runs / "merged.h5", content(runs, {3: ("interrupted", REASON)}))
    return runs / "merged.h5"


def test_every_number_is_that_of_the_task(runs, path):
    with h5py.File(path) as file:
        assert file["task"][()].tolist() == [[1, 2, 3], [4, 5, 6]]
        assert file["mask"][()].tolist() == [[1, 1, 1], [0, 1, 1]]
        for i, index in enumerate(np.ndindex(A, B)):
            if i == 3:
                continue
            with open_run(runs / str(i)) as run:
                for name in ("mean", "mean_se", "sd", "sd_se", "covariance", "covariance_se"):
                    np.testing.assert_array_equal(file[name][index], getattr(run, name))
                for k, t in enumerate(TIMES):
                    np.testing.assert_array_equal(file["marginal_A"][index][k], run.marginal("A", t))
                    np.testing.assert_array_equal(file["marginal_B.se"][index][k], run.marginal_se("B", t))
                np.testing.assert_array_equal(file["extra_entropy"][index], run.extra()["entropy"])
                assert file["run"][index].decode() == run.uuid
        assert file["mean"][0, 1, 0, 0] == 2 * file["mean"][0, 0, 0, 0] != 0  # the tasks are not all alike


def test_missing_tasks_are_nan_with_their_reason(path):
    with h5py.File(path) as file:
        for name, dataset in file.items():
            if isinstance(dataset, h5py.Dataset) and dataset.dtype.kind == "f" and dataset.shape[:2] == (A, B):
                assert np.isnan(dataset[1, 0]).all(), name
                assert np.isfinite(dataset[0, 0]).all(), name
        assert file["state"][1, 0] == b"interrupted" and file["reason"][1, 0].decode() == REASON
        assert file["state"][0, 0] == b"done" and file["reason"][0, 0] == b"" == file["run"][1, 0]


def test_other_programs_need_no_exotic_types(path):
    """Numbers and texts of a fixed length, real copies; references only where HDF5's dimension scales keep them."""
    scales = {"b", "kind", "time", "species", "species_2", "count_A", "count_B"}
    found = set()

    def visit(name: str, node) -> None:
        if not isinstance(node, h5py.Dataset):
            return
        found.add(name)
        kind = node.id.get_type()
        allowed = (h5py.h5t.IEEE_F64LE, h5py.h5t.STD_I64LE, h5py.h5t.STD_I8LE)
        text = isinstance(kind, h5py.h5t.TypeStringID) and not kind.is_variable_str()
        assert text or any(kind.equal(other) for other in allowed), (name, kind)
        assert not node.is_virtual and node.external is None
        if name.startswith("provenance"):
            return
        assert set(node.attrs) - {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "DIMENSION_LABELS"} <= {
            "units", "long_name", "_Encoding"
        }, name  # fmt: skip
        assert node.attrs["units"] and node.attrs["long_name"]
        assert node.is_scale == (name in scales)
        if not node.is_scale:
            assert [dim[0].name.strip("/") for dim in node.dims] == [dim.label for dim in node.dims]

    with h5py.File(path) as file:
        file.visititems(visit)
        assert all(isinstance(file.get(name, getlink=True), h5py.HardLink) for name in file)
        assert file.attrs["format"] == b"hpcme-scan" and file.attrs["format_version"] == 1
        assert file["provenance/job_text"][()] == b"[time]\n"
        assert file["time"].attrs["units"] == b"s"
    assert scales | {"k", "mean", "marginal_B", "mask", "reason", "provenance/job_text"} <= found


def test_xarray_selects_by_value(runs, path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    with xarray.open_dataset(path, engine="h5netcdf") as data, open_run(runs / "2") as run:
        one = data.sel(b=1e-4, kind="été", time=1.0)
        np.testing.assert_array_equal(one["mean"].values, run.mean[1])
        np.testing.assert_array_equal(one["marginal_A"].values, run.marginal("A", 1.0))
        assert one["mean"].sel(species="B").item() == run.mean[1, 1]
        assert one["k"].item() == 2 and {"k", "task"} <= set(data.coords)
        assert data["mean"].dims == ("b", "kind", "time", "species")
        assert data["covariance"].dims[-2:] == ("species", "species_2")
        assert data["reason"].sel(b=1e-3, kind="gru").item() == REASON
        assert data["mean"].where(data["mask"] == 1).isnull().sum() == data["mean"].isnull().sum() == 3 * 2
        swapped = data.swap_dims(kind="k").sel(k=1, b=1e-3)
        assert swapped["task"].item() == 5


def test_h5dump_reads_it(path):
    h5dump = shutil.which("h5dump")
    if h5dump is None:
        pytest.skip("there is no h5dump")
    done = subprocess.run([h5dump, str(path)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    done = subprocess.run([h5dump, "-d", "/mask", str(path)], capture_output=True, text=True)
    assert "(1,0): 0, 1, 1" in done.stdout


def test_tasks_that_cannot_be_read_are_missing_with_the_reason(runs, tmp_path):
    """A flipped byte, another job's run, other report times and a run that went away: the others are merged."""
    for i in range(A * B):
        shutil.copytree(runs / str(i), tmp_path / str(i))
    data = bytearray((tmp_path / "1/results.h5").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "1/results.h5").write_bytes(data)
    with changed_results(tmp_path / "2/results.h5") as file:
        file["time"][1] = 1.5
    shutil.rmtree(tmp_path / "4")
    own = content(tmp_path)
    cells = list(own.cells)
    cells[3] = Cell(4, tmp_path / "3", "done", "", "m0", "another")
    found = write_merged(tmp_path / "merged.h5", content(tmp_path, cells=cells))
    assert [cell.state for cell in found] == ["done", "damaged", "damaged", "damaged", "damaged", "done"]
    words = ["damaged", "other report times", "another job", "manifest.json"]
    assert all(word in cell.reason for word, cell in zip(words, found[1:5], strict=True)), found
    with h5py.File(tmp_path / "merged.h5") as file:
        assert file["mask"][()].tolist() == [[1, 0, 0], [0, 0, 1]]
        assert np.isnan(file["mean"][()]).all(axis=(2, 3)).tolist() == [[False, True, True], [True, True, False]]


def test_a_scalar_that_only_some_tasks_have_is_nan_in_the_others(runs, tmp_path):
    shutil.copytree(runs / "5", tmp_path / "5")
    with changed_results(tmp_path / "5/results.h5") as file:
        file["extra/bound"] = np.array([0.0, 0.1, 0.2])
    cells = list(content(runs).cells)
    cells[5] = Cell(6, tmp_path / "5", "done", "", "m0", "j0")
    assert all(cell.state == "done" for cell in write_merged(tmp_path / "merged.h5", content(runs, cells=cells)))
    with h5py.File(tmp_path / "merged.h5") as file:
        assert file["extra_bound"][1, 2].tolist() == [0.0, 0.1, 0.2] and np.isnan(file["extra_bound"][0]).all()


def test_nothing_to_merge_and_nowhere_to_write(runs, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no task of the scan is done"):
        write_merged(tmp_path / "m.h5", content(runs, dict.fromkeys(range(6), ("missing", ""))))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*m\.h5"):
        write_merged(tmp_path / "file/m.h5", content(runs))
    # a file system that gives back other bytes than it took
    monkeypatch.setattr(merged, "_digest", lambda arrays, count=iter(range(99)): bytes([next(count)]))
    with pytest.raises(OutputError, match=r"reads back differently .*\(task 1\)"):
        write_merged(tmp_path / "m.h5", content(runs))
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_file_that_was_there_stays_until_the_new_one_is_whole(runs, tmp_path):
    path = tmp_path / "m.h5"
    write_merged(path, content(runs))
    before = sha256_of(path)
    with pytest.raises(InputError):
        write_merged(path, content(runs, dict.fromkeys(range(6), ("missing", ""))))
    assert sha256_of(path) == before


def test_chunks_hold_whole_tasks_and_do_not_grow_with_their_number():
    assert merged._chunks((7, 4), 8) == (7, 4)
    assert merged._chunks((10**6, 4), 8) == (8192, 4)  # 256 KiB
    assert merged._chunks((30, 50, 100, 64), 8) == (1, 5, 100, 64)
    assert merged._chunks((30, 10, 10**6), 8) == (1, 1, 32768)
    for shape in ((1000, 1000, 11, 80), (3, 10**5, 2)):
        assert np.prod(merged._chunks(shape, 8)) * 8 <= 1 << 18


def test_names_that_are_taken_get_another_one():
    assert [merged_name(name) for name in ("b", "time", "mean", "count_X", "run_seed")] == [
        "b", "parameter_time", "parameter_mean", "parameter_count_X", "run_seed",
    ]  # fmt: skip
