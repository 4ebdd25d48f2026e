"""results.h5 and open_run: the same numbers from segments and from the compacted file, readable by others."""

from __future__ import annotations

import builtins
import os
import shutil

import h5py
import numpy as np
import pytest
from store_fakes import LIMITS, MODEL, QUICK, SPECIES, changed_results, identity, make_report, simulate

from hpcme.errors import InputError
from hpcme.store.layout import SERIES, attributes, same_bits
from hpcme.store.reader import open_run, verify_run
from hpcme.store.results import _chunks
from hpcme.store.writer import RunWriter


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    simulate(folder)
    return folder


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("running") / "run"
    with RunWriter.create(folder, identity(), **QUICK) as writer:
        for index in range(3):
            series = {"t": [0.5 * index], "epochs": [index]} if index else None
            writer.commit(index, {"i": index}, make_report(index), series)
    return folder


def everything(run):
    """All a Run says about its law, in one dictionary."""
    facts = {
        name: getattr(run, name)
        for name in (
            "kind",
            "uuid",
            "species",
            "times",
            "steps",
            "limits",
            "mean",
            "mean_se",
            "sd",
            "sd_se",
            "covariance",
            "covariance_se",
        )
    }
    for t in run.times:
        facts[f"samples {t}"] = run.samples(t)
        facts[f"weights {t}"] = run.weights(t)
        for name in run.species:
            facts[f"marginal {name} {t}"] = run.marginal(name, t)
            facts[f"marginal_se {name} {t}"] = run.marginal_se(name, t)
    return {**facts, "series": run.series(), "extra": run.extra()}


def test_segments_and_results_say_the_same(running, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(running, folder)
    before = everything(open_run(folder))
    RunWriter.resume(folder, identity(), **QUICK).finish()
    after = everything(open_run(folder))
    assert before.keys() == after.keys()
    for name in before:
        assert same_bits(before[name], after[name]), name


def test_what_went_in_comes_out(finished):
    run = open_run(finished)
    report = make_report(0)
    assert (
        run.kind == "network"
        and run.status == "done"
        and run.species == SPECIES
        and run.limits.tolist() == LIMITS
    )
    assert run.S == 2 and "kind='network'" in repr(run)
    assert same_bits(run.samples(0), report.samples) and same_bits(run.mean[0], report.mean)
    assert same_bits(run.covariance[0], report.covariance) and same_bits(
        run.covariance_se[0], report.covariance_se
    )
    assert same_bits(run.mean_se[0], report.mean_se) and same_bits(run.sd_se[0], report.sd_se)
    np.testing.assert_array_equal(run.sd[0], np.sqrt(np.diag(report.covariance)))
    assert same_bits(run.marginal("B", 0.0), report.marginals[1]) and same_bits(
        run.marginal_se(1, 0), report.marginals_se[1]
    )
    assert run.weights(0).tolist() == [1 / 40] * 40
    assert run.extra()["entropy"][0] == report.extra["entropy"]
    assert (
        run.series()["t"].tolist() == [0.1 * step for step in range(1, 9)]
        and run.series()["epochs"].dtype == np.int64
    )
    assert run.steps.tolist() == [0, 3, 6]
    assert same_bits(run.marginal("A"), run.marginal("A", 2.0))


def test_provenance(finished, running):
    for folder in (finished, running):
        facts = open_run(folder).provenance
        assert facts["model_text"] == MODEL and facts["model_hash"] == "m0" and facts["seed"] == 7
        assert (
            facts["layout"] == {"ranks": 1}
            and facts["units"] == {"time": "s"}
            and facts["h5py"] == h5py.__version__
        )
        assert facts["history"][0]["event"] == "created" and facts["report_times"] == [0.0, 1.0, 2.0]
    assert open_run(finished).time_unit == "s"


def test_the_file_stands_alone(finished, tmp_path):
    shutil.copy(finished / "results.h5", tmp_path / "moved.h5")
    assert set(everything(open_run(tmp_path / "moved.h5"))) == set(
        everything(open_run(finished / "results.h5"))
    )
    assert open_run(tmp_path / "moved.h5").status == "done"


def test_every_dataset_is_plain_and_described(finished):
    """Dimension scales on every axis, units and long names, checksums, and no types only Python knows."""
    with h5py.File(finished / "results.h5", "r") as file:
        assert file.attrs["format"] == b"hpcme-results" and file.attrs["format_version"] == 1
        seen = []

        def visit(name, node):
            if isinstance(node, h5py.Dataset):
                seen.append(name)
                assert node.dtype.kind in "iufS" or name.startswith("provenance/"), name
                if not name.startswith(("networks/", "provenance/")):
                    assert node.attrs["units"] and node.attrs["long_name"], name
                    assert node.fletcher32, name
                    for dim in node.dims:
                        assert len(dim) == 1 or "CLASS" in node.attrs, name
                        assert not len(dim) or len(dim[0]) == node.shape[list(node.dims).index(dim)]

        file.visititems(visit)
        assert {
            "time",
            "species",
            "moments/mean",
            "moments/covariance",
            "marginals/A",
            "marginals/A.se",
            "samples",
            "networks/0/spec",
            "networks/2/parameters/layers.0.weight",
            "series/loss",
            "limits",
        } <= set(seen)
        assert file["time"].attrs["units"] == file["series/t"].attrs["units"] == b"s"
        assert file["species"][()].tolist() == [b"A", b"B"]
        assert file["samples"].compression == "gzip" and file["samples"].shuffle


def test_xarray_opens_the_file(finished):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    run = open_run(finished)
    root = xarray.open_dataset(finished / "results.h5", engine="h5netcdf")
    assert root["samples"].dims == ("time", "sample", "species") and root["time"].values.tolist() == [0, 1, 2]
    moments = xarray.open_dataset(finished / "results.h5", engine="h5netcdf", group="moments")
    assert moments["covariance"].dims == ("time", "species", "species_2")
    np.testing.assert_array_equal(moments["mean"].values, run.mean)
    marginals = xarray.open_dataset(finished / "results.h5", engine="h5netcdf", group="marginals")
    np.testing.assert_array_equal(marginals["B"].values[1], run.marginal("B", 1.0))
    series = xarray.open_dataset(finished / "results.h5", engine="h5netcdf", group="series")
    assert series["t"].attrs["long_name"] == SERIES["t"][1] and series["t"].dims == ("row",)


def test_to_xarray(finished, running):
    pytest.importorskip("xarray")
    for folder in (finished, running):
        run = open_run(folder)
        data = run.to_xarray()
        np.testing.assert_array_equal(data["mean"].sel(species="B").values, run.mean[:, 1])
        np.testing.assert_array_equal(
            data["covariance"].sel(time=1.0, species="A", species_2="B").values, run.covariance[1, 0, 1]
        )
        np.testing.assert_array_equal(data["marginal_A"].values[2], run.marginal("A", 2.0))
        assert data["time"].attrs["units"] == "s" and data.attrs["kind"] == "network" and "series_t" in data
        assert data["sd"].attrs["long_name"]


def test_to_xarray_without_xarray_says_what_to_install(finished, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "xarray":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match="pip install"):
        open_run(finished).to_xarray()


def test_times_that_are_not_stored(finished):
    run = open_run(finished)
    assert run.index(1.0 + 1e-10) == 1 and run.index() == 2
    with pytest.raises(
        InputError, match=r"time 1.4 is not stored.*3 times from 0 to 2, nearest 0, 1, 2.*Fix:"
    ):
        run.marginal("A", 1.4)


def test_species_that_do_not_exist(finished):
    with pytest.raises(InputError, match=r'no species "a".*it has A, B'):
        open_run(finished).marginal("a")
    with pytest.raises(InputError, match='no species "2"'):
        open_run(finished).marginal(2)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.fsp_states(), "only exact runs"),
        (lambda run: run.probability(), "only exact runs"),
        (lambda run: run.lost, "only exact runs"),
        (lambda run: run.events, "only trajectory runs"),
    ],
)
def test_what_a_network_run_does_not_have(finished, running, ask, message):
    for folder in (finished, running):
        with pytest.raises(InputError, match=message):
            ask(open_run(folder))


def test_a_run_without_reports_yet(tmp_path):
    RunWriter.create(tmp_path / "run", identity(), **QUICK).close()
    run = open_run(tmp_path / "run")
    assert run.times.shape == (0,) and run.series() == {} and run.status == "running"
    with pytest.raises(InputError, match="no reports yet"):
        run.index()


def test_reading_goes_on_while_the_run_does(tmp_path):
    """A Run opened early keeps its view; files that vanish are found again in what replaced them."""
    folder = tmp_path / "run"
    writer = RunWriter.create(folder, identity(), **QUICK)
    writer.commit(0, {"x": 0}, make_report(0))
    writer.commit(1, {"x": 1}, make_report(1), {"t": [1.0]})
    early, idle = open_run(folder), open_run(folder)
    assert early.times.tolist() == [0, 1]
    writer.commit(2, {"x": 2}, make_report(2), {"t": [2.0]})
    assert open_run(folder).times.tolist() == [0, 1, 2]
    writer.finish()
    assert early.times.tolist() == idle.times.tolist() == [0, 1] and early.mean.shape == (2, 2)
    assert same_bits(early.samples(1.0), make_report(1).samples) and same_bits(
        idle.samples(), make_report(1).samples
    )
    assert early.series()["t"].tolist() == [1, 2]


def test_a_run_that_was_replaced_while_it_was_read(tmp_path):
    folder = tmp_path / "run"
    with RunWriter.create(folder, identity(), **QUICK) as writer:
        writer.commit(0, {"x": 0}, make_report(0))
    run = open_run(folder)
    shutil.rmtree(folder)
    with RunWriter.create(folder, identity(), **QUICK) as writer:
        writer.commit(0, {"x": 0}, None, {"t": [0.0]})
    with pytest.raises(InputError, match="was set back or replaced"):
        run.samples()


def test_a_deleted_segment_is_named(running, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(running, folder)
    (folder / "reports/report-00001.h5").unlink()
    with pytest.raises(InputError, match=r"report-00001\.h5 is missing"):
        open_run(folder).mean  # noqa: B018


@pytest.mark.parametrize("where", [0.001, 0.2, 0.5, 0.8, 0.999])
@pytest.mark.parametrize("kind", ["report", "series", "results"])
def test_a_flipped_bit_is_found_and_the_file_named(running, finished, tmp_path, where, kind):
    folder = tmp_path / "run"
    shutil.copytree(finished if kind == "results" else running, folder)
    name = {
        "report": "reports/report-00001.h5",
        "series": "series/series-00000001.h5",
        "results": "results.h5",
    }[kind]
    content = bytearray((folder / name).read_bytes())
    content[int(where * len(content))] ^= 16
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} is damaged"):
        run = open_run(folder)
        everything(run)
    problems = [str(verify_run(folder))]
    assert name in problems[0]


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_truncated_results_file_is_named(finished, tmp_path, size):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    os.truncate(folder / "results.h5", size)
    with pytest.raises(InputError, match=r"results\.h5 is damaged"):
        open_run(folder)
    os.remove(folder / "manifest.json")
    message = r"is not a whole results file" if size > 8 else "is not a readable HDF5 file"
    with pytest.raises(InputError, match=rf"results\.h5 {message}"):
        open_run(folder / "results.h5")


def test_damaged_data_in_a_lone_file_are_found_by_its_seal(finished, tmp_path):
    shutil.copy(finished / "results.h5", tmp_path / "r.h5")
    with h5py.File(tmp_path / "r.h5", "r") as file:
        where = file["moments/mean"].id.get_chunk_info(0).byte_offset
    content = bytearray((tmp_path / "r.h5").read_bytes())
    content[where] ^= 1
    (tmp_path / "r.h5").write_bytes(content)
    with pytest.raises(InputError, match=r"r\.h5 is damaged: bytes 0 to \d+ are not those that were written"):
        open_run(tmp_path / "r.h5")
    assert len(verify_run(tmp_path / "r.h5")) == 1


def test_missing_parts_of_a_lone_file_are_named(finished, tmp_path):
    shutil.copy(finished / "results.h5", tmp_path / "r.h5")
    with changed_results(tmp_path / "r.h5") as file:
        del file["marginals/A"]
    with pytest.raises(InputError, match=r"r\.h5 is damaged: marginals/A cannot be read"):
        open_run(tmp_path / "r.h5").marginal("A")
    with changed_results(tmp_path / "r.h5") as file:
        del file["limits"]
    with pytest.raises(InputError, match=r"r\.h5 is damaged: the start of the file cannot be read"):
        open_run(tmp_path / "r.h5")


def _changed(finished, tmp_path, **attrs):
    shutil.copy(finished / "results.h5", tmp_path / "r.h5")
    with changed_results(tmp_path / "r.h5") as file:
        file.attrs.update(attrs)
    return tmp_path / "r.h5"


def test_a_newer_format_is_refused_clearly(finished, tmp_path):
    with pytest.raises(InputError, match=r"newer hpcme: format_version 2, this one reads up to 1.*update"):
        open_run(_changed(finished, tmp_path, format_version=np.int64(2)))


def test_a_newer_segment_is_refused_clearly(running, tmp_path):
    from hpcme.store.files import Manifest, sha256_of

    folder = tmp_path / "run"
    shutil.copytree(running, folder)
    for attr, value, message in (
        ("format_version", np.int64(9), "newer hpcme"),
        ("uuid", np.bytes_(b"x"), "another run"),
    ):
        with h5py.File(folder / "reports/report-00000.h5", "a") as file:
            file.attrs[attr] = value
        manifest = Manifest.load(folder)
        record = sha256_of(folder / "reports/report-00000.h5")
        old = next(entry for entry in manifest.entries if entry.name.endswith("report-00000.h5"))
        new = type(old)(old.name, old.kind, old.index, old.step, record.bytes, record.sha256)
        manifest.entries[manifest.entries.index(old)] = new
        manifest.save(folder)
        with pytest.raises(InputError, match=message):
            open_run(folder).mean  # noqa: B018
        with h5py.File(folder / "reports/report-00000.h5", "a") as file:
            file.attrs["format_version"] = np.int64(1)


def test_what_is_not_a_run(finished, tmp_path):
    with pytest.raises(InputError, match="is not a results file of hpcme"):
        open_run(_changed(finished, tmp_path, format=np.bytes_(b"netcdf")))
    with pytest.raises(InputError, match="does not exist"):
        open_run(tmp_path / "nothing")
    with pytest.raises(InputError, match="is not a run folder"):
        open_run(tmp_path)
    (tmp_path / "a.csv").write_text("1,2\n")
    with pytest.raises(InputError, match=r"a\.csv is not a readable HDF5 file"):
        open_run(tmp_path / "a.csv")


def test_verify_run(finished, running):
    assert verify_run(finished) == [] and verify_run(running) == []


def test_reports_that_differ_in_size_weights_and_extras(tmp_path):
    """Fewer samples, no samples, weights in one report only, longer marginals, other scalars: all return."""
    folder = tmp_path / "run"
    reports = [
        make_report(0, samples=10),
        make_report(1, samples=25),
        make_report(2, samples=5, network=False),
    ]
    reports[0].extra = {"lost": 0.5, "nothing": float("nan")}
    reports[1].weights = np.random.default_rng(0).random(25)
    reports[1].marginals[0] = np.arange(9.0)
    reports[1].marginals_se[0] = np.arange(9.0)
    reports[2].samples = None
    with RunWriter.create(folder, identity(), **QUICK) as writer:
        for report in reports:
            writer.commit(report.index, {"x": 1}, report)
        writer.finish()
    run = open_run(folder)
    assert same_bits(run.samples(0), reports[0].samples) and same_bits(run.samples(1), reports[1].samples)
    np.testing.assert_allclose(run.weights(1), reports[1].weights / reports[1].weights.sum(), rtol=1e-15)
    assert run.weights(0).tolist() == [0.1] * 10
    assert run.marginal("A", 1).tolist() == list(range(9)) and run.marginal("A", 0).tolist()[6:] == [0, 0, 0]
    assert (
        run.extra()["lost"][0] == 0.5
        and np.isnan(run.extra()["lost"][1:]).all()
        and "nothing" not in run.extra()
    )
    with pytest.raises(InputError, match="stores no samples at time 2"):
        run.samples(2)
    with pytest.raises(InputError, match="stores no network"):
        run.network(2)


def test_many_reports_and_species_with_awkward_names(tmp_path):
    names = ["X", "X_se", "time", "sample", "count"]
    facts = identity(species=names, limits=[1] * 5)
    with RunWriter.create(tmp_path / "run", facts, **QUICK) as writer:
        for index in range(12):
            report = make_report(index, network=False)
            report.mean = report.mean_se = report.sd_se = np.full(5, float(index))
            report.covariance = report.covariance_se = np.eye(5)
            report.samples = np.full((3, 5), index, dtype=np.int32)
            report.marginals = [np.full(2, index + 0.1 * i) for i in range(5)]
            report.marginals_se = [np.zeros(2)] * 5
            writer.commit(index, None, report)
        writer.finish()
    run = open_run(tmp_path / "run")
    assert run.mean[:, 0].tolist() == list(range(12))
    for i, name in enumerate(names):
        assert run.marginal(name, 3.0).tolist() == [3 + 0.1 * i] * 2
    assert run.samples(11).tolist() == [[11] * 5] * 3


def test_chunks_hold_one_time_and_stay_small():
    assert _chunks((40, 1_000_000, 4), 4) == (1, 65536, 4)
    assert _chunks((40, 15), 8) == (40, 15)
    assert _chunks((3, 10_000_000), 8) == (1, 131072)
    assert _chunks((5_000_000,), 8) == (131072,)
    for shape in ((40, 1_000_000, 4), (7, 100, 100), (1, 1), (3, 50_000)):
        assert np.prod(_chunks(shape, 8)) * 8 <= 2**20


def test_units_follow_the_time_unit():
    assert attributes("leak", "s", SERIES) == {"units": "1/s", "long_name": SERIES["leak"][1]}
    assert attributes("my_number", "s", SERIES) == {"units": "1", "long_name": "my number"}
    assert attributes("time", "h")["units"] == "h"


def test_the_model_comes_from_the_stored_text(finished, running):
    for folder in (finished, running):
        model = open_run(folder).model()
        assert list(model.species) == SPECIES and model.limits.tolist() == LIMITS


def test_the_network_is_rebuilt_from_the_stored_description(finished, running):
    for folder in (finished, running):
        law = open_run(folder).network(0.0)
        assert law.sample(3).tolist() == [[1, 0]] * 3
        assert law.log_prob(np.array([[1, 0]], dtype=np.int32)).tolist() == [0.0]


def test_a_damaged_network_in_a_lone_file_is_named(finished, tmp_path):
    shutil.copy(finished / "results.h5", tmp_path / "r.h5")
    with changed_results(tmp_path / "r.h5") as file:
        del file["networks/1/parameters"]
    with pytest.raises(InputError, match=r"r\.h5 is damaged: network 1 cannot be read"):
        open_run(tmp_path / "r.h5").network(1.0)


def test_verify_reads_what_the_checksums_cover(running, tmp_path):
    """A segment with the right checksum but of another run is a problem too."""
    from hpcme.store.files import Manifest

    folder = tmp_path / "run"
    shutil.copytree(running, folder)
    manifest = Manifest.load(folder)
    manifest.uuid = "f" * 32
    manifest.save(folder)
    problems = verify_run(folder)
    assert len(problems) == len(manifest.entries) and all("belongs to another run" in line for line in problems)


def test_a_file_that_cannot_be_opened(finished, tmp_path):
    (tmp_path / "results.h5").mkdir()
    from hpcme.store.segments import open_hdf5

    with pytest.raises(InputError, match=r"cannot read .*results\.h5"), open_hdf5(tmp_path / "results.h5"):
        pass


def test_verify_is_not_fooled_by_a_run_that_moves_on(running, tmp_path, monkeypatch):
    from hpcme.store import reader

    folder = tmp_path / "run"
    shutil.copytree(running, folder)
    real = reader._problem
    calls = []

    def finish_first(*arguments):
        if not calls:
            RunWriter.resume(folder, identity(), **QUICK).finish()
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(reader, "_problem", finish_first)
    assert verify_run(folder) == [] and len(calls) > 1
