"""Modes and their weights: tables with known modes, laws of the method, and the toggle switch against exact."""

from __future__ import annotations

import numpy as np
import pytest
from analysis_fakes import STATES, exact_run, network_run, product_law
from analysis_systems import exact_law, solved, table

from hpcme.analysis import modes
from hpcme.analysis.cloud import cloud_of
from hpcme.analysis.modes import find_modes, modes_table
from hpcme.errors import InputError


def bumps(shape, *parts):
    """A table of normal bumps: (weight, centre x, centre y, sd)."""
    x, y = np.indices(shape)
    found = np.zeros(shape)
    for weight, a, b, sd in parts:
        bump = np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * sd**2))
        found += weight * bump / bump.sum()
    return found


THREE = bumps((70, 60), (0.5, 12, 40, 4), (0.3, 50, 10, 4), (0.2, 55, 48, 4))


def test_bumps_far_apart_are_modes_of_their_weights():
    found = find_modes(THREE)
    assert found.peak.tolist() == [[12, 40], [50, 10], [55, 48]]
    np.testing.assert_allclose(found.weight, [0.5, 0.3, 0.2], atol=1e-4)  # 4 sd and more apart
    np.testing.assert_allclose(found.mean, found.peak, atol=0.06)  # one bump is cut at 2.5 sd
    assert found.basin[12, 40] == 0 and found.basin[50, 10] == 1 and found.basin[55, 48] == 2
    assert found.basin.shape == THREE.shape and found.weight.sum() == pytest.approx(1.0)


def test_permuting_the_species_changes_nothing():
    ours, theirs = find_modes(THREE), find_modes(THREE.T)
    assert ours.peak[:, ::-1].tolist() == theirs.peak.tolist()
    np.testing.assert_allclose(ours.weight, theirs.weight, rtol=1e-12)


def test_one_species():
    c = np.arange(80)
    p = 0.7 * np.exp(-((c - 20) ** 2) / 32) + 0.3 * np.exp(-((c - 60) ** 2) / 32)
    found = find_modes(p)
    assert found.peak.tolist() == [[20], [60]]
    np.testing.assert_allclose(found.weight, [0.7, 0.3], atol=1e-5)


def test_a_peak_that_hardly_stands_out_is_none():
    """Equal bumps 2.4 sd apart: the dip between them is a few percent. Prominence decides."""
    p = bumps((60, 60), (0.5, 24, 30, 5), (0.5, 36, 30, 5))
    dip = p[30, 30] / p[24, 30]
    assert 0.9 < dip < 1.0
    assert len(find_modes(p, smooth=0.0, prominence=0.2)) == 1
    assert len(find_modes(p, smooth=0.0, prominence=0.5 * (1 / dip - 1))) == 2


def test_a_bump_without_weight_is_none():
    p = bumps((70, 60), (0.995, 12, 40, 4), (0.005, 50, 10, 1))
    assert len(find_modes(p)) == 1 and len(find_modes(p, least=0.004)) == 2


def test_noise_of_sampling_makes_no_modes():
    """5,000 samples in 4,200 cells: the raw table has hundreds of peaks, the smoothed one the three of the law."""
    rng = np.random.default_rng(1)
    p = THREE / THREE.sum()
    for _ in range(5):
        counts = rng.multinomial(5000, p.ravel()).reshape(p.shape)
        found = find_modes(counts)
        assert len(found) == 3
        np.testing.assert_allclose(found.weight, [0.5, 0.3, 0.2], atol=4 * np.sqrt(0.25 / 5000))
        assert np.abs(found.peak - [[12, 40], [50, 10], [55, 48]]).max() <= 3


def test_a_gene_is_not_smeared():
    """Two states of a gene, each with its own peak of the protein: two modes, whatever the smoothing of counts."""
    c = np.arange(60)
    p = np.stack([0.4 * np.exp(-((c - 10) ** 2) / 32), 0.6 * np.exp(-((c - 40) ** 2) / 32)])
    found = find_modes(p)
    assert found.peak.tolist() == [[1, 40], [0, 10]]
    np.testing.assert_allclose(found.weight, p.sum(axis=1)[::-1] / p.sum(), atol=1e-4)


def test_point_laws_and_flat_laws_have_one_mode():
    point = np.zeros((30, 30))
    point[3, 4] = 1.0
    assert find_modes(point).peak.tolist() == [[3, 4]] and find_modes(point).weight.tolist() == [1.0]
    assert len(find_modes(np.ones((20, 30)))) == 1
    assert len(find_modes(np.array([1.0]))) == 1


def test_the_toggle_switch_has_the_modes_of_its_exact_law():
    """At t = 10: one protein or the other, both, and none, with weights within 0.01 of exact."""
    run, (states, p) = solved("toggle_switch"), exact_law("toggle_switch")
    found, right = modes_table(run), find_modes(table(states, p, 2, 3))
    assert found["species"] == ["Px", "Py"] and found["count"].tolist() == [1, 1, 4]
    assert len(right) == 4
    order = [int(np.argmin(np.abs(right.peak - peak).sum(axis=1))) for peak in found["peak"]]  # the first two are equal
    assert sorted(order) == [0, 1, 2, 3]
    assert np.abs(found["peak"] - right.peak[order]).max() <= 2
    np.testing.assert_allclose(found["weight"], right.weight[order], atol=0.01)
    assert found["weight"][:2].sum() > 0.7 and set(found["peak"][:2].ravel() < 5) == {True, False}
    np.testing.assert_allclose(found["weights"].sum(axis=1), 1.0)
    assert not found["weights_se"].any()


def test_weights_over_time_are_those_of_fixed_basins(tmp_path):
    laws = [w * product_law((2.0, 14.0)) + (1 - w) * product_law((16.0, 2.0)) for w in (0.9, 0.5, 0.2)]
    run = network_run(tmp_path / "a", laws)
    found = modes_table(run, smooth=1.0)
    assert found["count"].tolist() == [2, 2, 2] and found["time"] == 2.0
    inside = found["basin"] == 0
    for k, law in enumerate(laws):
        right = law[inside[STATES[:, 0], STATES[:, 1]]].sum() / law.sum()
        assert found["weights"][k, 0] == pytest.approx(right, rel=1e-12)
    assert found["weights"][:, 0] == pytest.approx([0.1, 0.5, 0.8], abs=0.01)
    sampled = modes_table(run, smooth=1.0, samples=5000, max_states=10)
    assert (np.abs(sampled["weights"] - found["weights"]) < 0.01 + 4 * sampled["weights_se"]).all()
    assert (sampled["weights_se"] > 0).all()
    early = modes_table(run, ["Y"], 0.5, smooth=1.0)
    assert early["peak"].shape == (2, 1) and early["time"] == 0.5


def test_tables_that_do_not_fit_are_refused_or_avoided(tmp_path, monkeypatch):
    run = exact_run(tmp_path / "a")  # 23 x 20 cells at three times
    monkeypatch.setattr(modes, "_CELLS", 1000)
    with pytest.raises(InputError, match=r"1\.4e\+03 cells.*name one species"):
        modes_table(run, ["X", "Y"])
    assert modes_table(run)["species"] == ["X"]  # the one that varies more
    monkeypatch.setattr(modes, "_CELLS", 400)
    with pytest.raises(InputError, match=r"4\.6e\+02 cells"):
        modes.pair_table(cloud_of(run), [0, 1], run.limits)


def test_what_is_refused(tmp_path):
    run = exact_run(tmp_path / "a")
    with pytest.raises(InputError, match='no species "Z"'):
        modes_table(run, ["Z"])
    with pytest.raises(InputError, match="one species or of two different ones"):
        modes_table(run, ["X", "X"])
    for name, value in (("smooth", -1.0), ("prominence", -0.1), ("least", 0.6)):
        with pytest.raises(InputError, match=f"{name} = {value:g} must be"):
            modes_table(run, **{name: value})
