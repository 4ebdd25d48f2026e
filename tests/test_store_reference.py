"""Exact and trajectory solutions as runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from store_fakes import identity

from hpcme.errors import InputError, InternalError
from hpcme.store.reader import open_run, verify_run
from hpcme.store.reference import write_fsp_run, write_ssa_run

TIMES = np.array([0.0, 0.5, 2.0])
STATES = np.array([[a, b] for a in range(6) for b in range(4)], dtype=np.int32)


def exact_law():
    p = np.array(
        [[binom.pmf(a, 5, 0.1 + 0.2 * k) * binom.pmf(b, 3, 0.5) for a, b in STATES] for k in range(3)]
    )
    lost = np.array([0.0, 0.01, 0.1])
    return p * (1 - lost)[:, None], lost


def test_exact_run(tmp_path):
    p, lost = exact_law()
    folder = write_fsp_run(tmp_path / "fsp", identity(), TIMES, STATES, p, lost, {"method": "test"})
    run = open_run(folder)
    assert (
        run.kind == "fsp"
        and run.status == "done"
        and run.provenance["method"] == "test"
        and verify_run(folder) == []
    )
    np.testing.assert_array_equal(run.fsp_states(), STATES)
    np.testing.assert_array_equal(run.probability(2.0), p[2])
    np.testing.assert_array_equal(run.lost, lost)
    np.testing.assert_allclose(run.mean[:, 0], 5 * (0.1 + 0.2 * np.arange(3)), rtol=1e-13)
    np.testing.assert_allclose(run.covariance[1], [[5 * 0.3 * 0.7, 0], [0, 0.75]], atol=1e-13)
    np.testing.assert_allclose(run.marginal("A", 2.0), 0.9 * binom.pmf(np.arange(6), 5, 0.5), rtol=1e-13)
    assert run.marginal("B").shape == (8,) and run.marginal("B")[4:].tolist() == [0] * 4
    assert not run.mean_se.any() and not run.sd_se.any() and not run.marginal_se("A").any()
    with pytest.raises(InputError, match=r"stores no samples.*use probability"):
        run.samples()
    with pytest.raises(InputError, match="kind fsp and stores no network"):
        run.network()


def test_trajectory_run(tmp_path):
    rng = np.random.default_rng(0)
    samples = rng.poisson(3.0, (3, 500, 2)).astype(np.int32)
    samples[2, 0, 0] = 23  # beyond the limits: trajectories have none
    folder = write_ssa_run(tmp_path / "ssa", identity(), TIMES, samples, np.arange(500))
    run = open_run(folder)
    assert run.kind == "ssa" and verify_run(folder) == []
    np.testing.assert_array_equal(run.samples(0.5), samples[1])
    np.testing.assert_array_equal(run.events, np.arange(500))
    np.testing.assert_allclose(run.covariance[2], np.cov(samples[2].T), rtol=1e-12)
    np.testing.assert_allclose(run.mean_se[1], samples[1].std(axis=0, ddof=1) / np.sqrt(500), rtol=1e-12)
    assert run.marginal("A").shape == (24,) and run.marginal("A")[23] == 1 / 500
    np.testing.assert_allclose(run.marginal_se("A")[23], np.sqrt(1 / 500 * 499 / 500 / 500), rtol=1e-12)
    with pytest.raises(InputError, match=r"kind ssa and stores no network.*samples"):
        run.network()


def test_repeating_and_replacing_a_reference(tmp_path):
    p, lost = exact_law()
    write_fsp_run(tmp_path / "fsp", identity(), TIMES, STATES, p, lost)
    before = (tmp_path / "fsp" / "results.h5").read_bytes()
    write_fsp_run(tmp_path / "fsp", identity(), TIMES, STATES, p, lost)
    assert (tmp_path / "fsp" / "results.h5").read_bytes() == before
    with pytest.raises(InputError, match="another model"):
        write_fsp_run(tmp_path / "fsp", identity(model_hash="m1"), TIMES, STATES, p, lost)
    with pytest.raises(InputError, match="kind fsp, this one is of kind ssa"):
        write_ssa_run(
            tmp_path / "fsp", identity(), TIMES, np.zeros((3, 4, 2), dtype=int), np.zeros(4, dtype=int)
        )
    assert (tmp_path / "fsp" / "results.h5").read_bytes() == before


def test_arrays_that_do_not_fit_together_are_bugs(tmp_path):
    p, lost = exact_law()
    for arrays in (
        (TIMES, STATES, p[:2], lost),
        (TIMES, STATES, p, lost[:2]),
        (TIMES, STATES[:0], p[:, :0], lost),
    ):
        with pytest.raises(InternalError, match="exact solution"):
            write_fsp_run(tmp_path / "a", identity(), *arrays)
    for samples, events in (
        (np.zeros((2, 4, 2), int), np.zeros(4)),
        (np.zeros((3, 4, 2), int), np.zeros(5)),
        (np.zeros((3, 0, 2), int), np.zeros(0)),
    ):
        with pytest.raises(InternalError, match="trajectories"):
            write_ssa_run(tmp_path / "a", identity(), TIMES, samples, events)
    assert not (tmp_path / "a").exists()
