"""Readouts in results: exact, trajectories and networks store their moments, and stats shows them."""

import csv
import io
import json

import h5py
import numpy as np
import pytest
from cli_helpers import BIRTH_DEATH, JOB, SWITCH, call

from hpcme.errors import InputError
from hpcme.model.reader import load_model_text
from hpcme.store.moments import readout_moments, sample_moments
from hpcme.store.reader import open_run, verify_run

READOUTS = """
[readouts]
twice = "2*X"
fixed = "k"
share = "X/X"
above = "X > 3"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "model.toml").write_text(BIRTH_DEATH + READOUTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_exact_moments_of_readouts(place, capsys):
    done = call(capsys, "fsp", "model.toml", "--end", "1", "--every", "0.5", "--out", "exact")
    assert done.code == 0 and "species, readouts" in done.out and "twice" in done.out
    with open_run("exact") as run:
        assert run.readouts == ["twice", "fixed", "share", "above"]  # in the order of the model
        np.testing.assert_allclose(run.readout("twice")["mean"], 2 * run.mean[:, 0], rtol=1e-14)
        np.testing.assert_allclose(run.readout("twice")["sd"], 2 * run.sd[:, 0], rtol=1e-13)
        assert (run.readout("twice")["mean_se"] == 0).all() and (run.readout("twice")["sd_se"] == 0).all()
        assert run.readout("fixed")["mean"].tolist() == [2, 2, 2] and run.readout("fixed")["sd"].tolist() == [0, 0, 0]
        # 0/0 has no value, and X = 0 is possible from the start on: only X = 1 at t = 0 is not
        assert run.readout("share")["mean"][0] == 1 and np.isnan(run.readout("share")["mean"][1:]).all()
        p = run.probability(1.0) / run.probability(1.0).sum()
        expected = p[run.fsp_states()[:, 0] > 3].sum()
        assert run.readout("above")["mean"][2] == pytest.approx(expected, rel=1e-12)
        assert run.readout("above")["sd"][2] == pytest.approx(np.sqrt(expected * (1 - expected)), rel=1e-10)
        with pytest.raises(InputError, match=r'no readout "twise".*Did you mean "twice"'):
            run.readout("twise")
    assert verify_run("exact") == []
    with h5py.File(place / "exact" / "results.h5") as file:
        assert [name.decode() for name in file["readout"][()]] == ["twice", "fixed", "share", "above"]
        assert file["readouts/mean"].shape == (3, 4) and file["readouts/mean"].dims[1].label == "readout"
        assert file["readouts/sd_se"].attrs["long_name"].decode().startswith("standard error of the standard")


def test_stats_in_all_formats(place, capsys):
    call(capsys, "fsp", "model.toml", "--end", "1", "--every", "0.5", "--out", "exact", "--quiet")
    data = json.loads(call(capsys, "stats", "exact", "--json").out)
    assert data["species"] == ["X"] and len(data["mean"][0]) == 1
    assert list(data["readouts"]) == ["twice", "fixed", "share", "above"]
    assert data["readouts"]["twice"]["mean"][-1] == pytest.approx(2 * data["mean"][-1][0])
    assert data["readouts"]["share"]["mean"] == [1, None, None]
    rows = list(csv.DictReader(io.StringIO(call(capsys, "stats", "exact", "--csv").out)))
    assert [row["species"] for row in rows] == ["X"] * 3 + ["twice"] * 3 + ["fixed"] * 3 + ["share"] * 3 + ["above"] * 3
    assert float(rows[5]["mean"]) == data["readouts"]["twice"]["mean"][-1] and rows[5]["cov_X"] == ""
    text = call(capsys, "stats", "exact", "--time", "1").out
    lines = [line.split() for line in text.splitlines()]
    assert [line[1] for line in lines if line and line[0] == "1"] == ["X", "twice", "fixed", "share", "above"]


def test_trajectories_have_errors(place, capsys):
    call(capsys, "ssa", "model.toml", "--end", "1", "--trajectories", "400", "--out", "ssa", "--quiet")
    with open_run("ssa") as run:
        n = run.samples(1.0)
        m = sample_moments(2.0 * n)
        found = run.readout("twice")
        assert found["mean"][-1] == m.mean[0] and found["mean_se"][-1] == m.mean_se[0] > 0
        assert found["sd"][-1] == m.sd[0] and found["sd_se"][-1] == m.sd_se[0] > 0
        exact = np.exp(-0.5) + 4 * (1 - np.exp(-0.5))
        assert abs(found["mean"][-1] / 2 - exact) < 5 * found["mean_se"][-1] / 2


def test_models_without_readouts_store_none(place, capsys):
    (place / "plain.toml").write_text(BIRTH_DEATH)
    call(capsys, "fsp", "plain.toml", "--end", "1", "--out", "exact", "--quiet")
    with open_run("exact") as run:
        assert run.readouts == []
    with h5py.File(place / "exact" / "results.h5") as file:
        assert "readouts" not in file and "readout" not in file
    assert json.loads(call(capsys, "stats", "exact", "--json").out)["readouts"] == {}


@pytest.mark.parametrize("exact", ["true", "false"])
def test_network_runs_store_readouts(place, capsys, exact):
    """Sums over all states have no standard errors, samples do."""
    (place / "switch.toml").write_text(SWITCH + '[readouts]\nboth = "G + P"\n')
    (place / "job.toml").write_text(JOB)
    args = ["run", "job.toml", "--set", "solver.scheme=tdvp", "--set", f"sampling.exact={exact}"]
    assert call(capsys, *args, "--out", "run", "--quiet").code == 0
    with open_run("run") as run:
        found = run.readout("both")
        np.testing.assert_allclose(found["mean"], run.mean.sum(axis=1), rtol=1e-12)
        np.testing.assert_allclose(found["sd"] ** 2, run.covariance.sum(axis=(1, 2)), rtol=1e-10, atol=1e-12)
        assert ((found["mean_se"][1:] > 0) == (exact == "false")).all() and found["mean_se"][0] == 0
        assert ((run.mean_se[1:] > 0) == (exact == "false")).all() and (run.mean_se[0] == 0).all()
        pytest.importorskip("xarray")
        data = run.to_xarray()
        assert data["readout_mean"].dims == ("time", "readout") and data["readout"].values.tolist() == ["both"]
    assert verify_run("run") == []


def test_moments_of_readouts_alone():
    net = load_model_text(BIRTH_DEATH + READOUTS)
    n = np.array([[1], [2], [5], [9]])
    found = readout_moments(net.readouts, net.readout_values(n))
    sd = np.std(2 * n, ddof=1)
    assert found["twice"][:3].tolist() == pytest.approx([8.5, sd / 2, sd]) and found["twice"][3] > 0
    p = np.array([0.5, 0.5, 0.0, 0.0])
    exact = readout_moments(net.readouts, net.readout_values(np.array([[1], [2], [0], [0]])), p, exact=True)
    assert exact["share"].tolist() == [1, 0, 0, 0]  # states without probability do not count
    assert exact["twice"].tolist() == pytest.approx([3, 0, 1, 0])
    assert readout_moments([], np.zeros((3, 0))) == {}
