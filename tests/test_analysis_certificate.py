"""Certified bounds of the error: in the files, in stats, beside the measured distances of compare, in status."""

from __future__ import annotations

import csv
import io
import json

import h5py
import numpy as np
import pytest
from analysis_fakes import (
    NET,
    SHIFT,
    TIMES,
    certificate,
    exact_run,
    four_runs,
    means,
    network_run,
    product_law,
    trajectory_run,
)
from cli_helpers import call

from hpcme.analysis.compare import compare
from hpcme.analysis.statistics import PARTS, stats_table
from hpcme.cli.query import at_most
from hpcme.model.reader import load_model_text
from hpcme.store.layout import SERIES


def wrong_tv(t):
    """Joint TV error of the wrong network at time t, 0.03 to 0.07."""
    return 0.5 * float(np.abs(product_law(means(t)) - product_law(SHIFT * means(t))).sum())


def _csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return four_runs(tmp_path_factory.mktemp("runs"))


# ---- in files and statistics ----


def test_certificate_of_a_run_and_what_was_lost(tmp_path):
    laws = [product_law(means(t)) for t in TIMES]
    extra = [{"lost": 0.0}, certificate(0.01, lost=1e-4), certificate(0.04, confidence=0.99, lost=2e-3)]
    run = network_run(tmp_path / "run", laws, extra=extra)
    found = stats_table(run)
    assert list(found["certificate"]) == ["bound", *PARTS, "confidence"]
    assert found["certificate"]["bound"] == [None, 0.01, 0.04] and found["lost"] == [0.0, 1e-4, 2e-3]
    for name in PARTS:
        assert found["certificate"][name] == [None, *(row[f"bound_{name}"] for row in extra[1:])]
    assert [sum(found["certificate"][name][k] for name in PARTS) for k in (1, 2)] == pytest.approx([0.01, 0.04])
    assert found["certificate"]["confidence"] == 0.99, "what holds for all times shown"
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    some = stats_table(run, [1.0, 0.5])
    assert some["certificate"]["bound"] == [0.01, None] and some["certificate"]["confidence"] == 0.999
    start = stats_table(run, [0.5])["certificate"]
    assert start == {"bound": [None], **{name: [None] for name in PARTS}, "confidence": None}


def test_a_bound_without_parts_has_none_for_them(tmp_path):
    laws = [product_law(means(t)) for t in TIMES]
    run = network_run(tmp_path / "run", laws, extra=[{"bound": 0.5}, {"bound": np.inf}, {"bound": 1.0}])
    found = stats_table(run)["certificate"]
    assert found == {"bound": [0.5, None, 1.0], **{name: [None] * 3 for name in PARTS}, "confidence": None}


def test_runs_without_a_certificate_have_none(runs):
    for run in runs.values():
        assert stats_table(run)["certificate"] is None
    assert stats_table(runs["good"])["lost"] is None and stats_table(runs["ssa"])["lost"] is None
    np.testing.assert_allclose(stats_table(runs["exact"])["lost"], runs["exact"].lost)


def test_what_is_stored_of_a_certificate_names_its_units(tmp_path):
    columns = dict.fromkeys(("defect", "certificate", "fit", "error", "stages", "iterations"), 0.5)
    laws = [product_law(means(t)) for t in TIMES]
    network_run(tmp_path / "run", laws, extra=[certificate(0.1)] * 3, series=[columns] * 3)
    with h5py.File(tmp_path / "run" / "results.h5") as file:
        for group, names in (("extra", certificate(0.1)), ("series", columns)):
            for name in names:
                assert file[group][name].attrs["units"] == b"1"
                assert file[group][name].attrs["long_name"].decode() == SERIES[name][1], name


# ---- beside measured distances ----


def certified(folder, factors, shift=SHIFT):
    """A wrong network that certifies these multiples of its true error (None: no bound at this time)."""
    laws = [product_law(shift * means(t)) for t in TIMES]
    extra = [{} if x is None else certificate(x * wrong_tv(t)) for x, t in zip(factors, TIMES, strict=True)]
    return network_run(folder, laws, extra=extra)


@pytest.mark.parametrize("reference", ["exact", "run"])
def test_looseness_is_bound_over_distance(tmp_path, runs, reference):
    run = certified(tmp_path / "run", [2.0, None, 1.001])
    found = compare(run, runs["exact"] if reference == "run" else "exact")["certificate"]
    assert found["bound"] == [2.0 * wrong_tv(TIMES[0]), None, 1.001 * wrong_tv(TIMES[2])]
    # the reference is accurate to 1e-8, the error about 0.05
    assert [found["looseness"][k] for k in (0, 2)] == pytest.approx([2.0, 1.001], rel=1e-6)
    assert found["looseness"][1] is None and found["confidence"] == 0.999 and found["violated"] == []
    assert found["reasons"] == dict.fromkeys(("bound", "looseness"), "the run stores no certified bound at some times")
    np.testing.assert_allclose(found["tv_at_least"], [wrong_tv(t) for t in TIMES], atol=1e-7)


def test_a_bound_below_the_measured_distance_is_violated(tmp_path, runs):
    run = certified(tmp_path / "run", [0.999, 1.5, 0.5])
    found = compare(run, runs["exact"])
    assert found["certificate"]["violated"] == [0.5, 2.0]
    assert found["certificate"]["looseness"] == pytest.approx([0.999, 1.5, 0.5], rel=1e-6)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert compare(run, runs["exact"], [1.0])["certificate"]["violated"] == []


def test_without_a_certificate_there_is_a_reason(runs):
    for run, reference in (("wrong", "exact"), ("ssa", "exact"), ("exact", "wrong"), ("good", "ssa")):
        found = compare(runs[run], runs[reference])["certificate"]
        assert found["bound"] == found["looseness"] == [None] * 3 and found["violated"] == []
        assert found["reasons"]["bound"] == found["reasons"]["looseness"] == "the run stores no certified bound"
        assert found["confidence"] is None


def test_a_distance_of_zero_has_no_looseness(tmp_path, runs):
    run = network_run(tmp_path / "run", [runs["exact"].probability(t) for t in TIMES], extra=[certificate(0.1)] * 3)
    found = compare(run, runs["exact"])["certificate"]
    assert found["looseness"] == [None] * 3 and found["reasons"] == {"looseness": "the measured TV is zero to rounding"}
    assert found["violated"] == []


def test_trajectories_violate_only_what_noise_cannot_explain(tmp_path, runs):
    """No joint TV there: the marginals, less their noise, bound it from below."""
    right = network_run(tmp_path / "right", [product_law(means(t)) for t in TIMES], extra=[certificate(0.0)] * 3)
    found = compare(right, runs["ssa"])["certificate"]
    assert found["violated"] == [] and found["tv_at_least"] == [0.0] * 3
    assert found["looseness"] == [None] * 3 and "know no probabilities" in found["reasons"]["looseness"]
    laws = [product_law(3.0 * means(t)) for t in TIMES]
    far = network_run(tmp_path / "far", laws, extra=[certificate(0.1), certificate(0.9), certificate(0.1)])
    found = compare(far, runs["ssa"])["certificate"]
    assert found["violated"] == [0.5, 2.0]
    for k, p in enumerate(laws):
        assert 0.1 < found["tv_at_least"][k] < 0.5 * np.abs(p - product_law(means(TIMES[k]))).sum()


def test_a_network_as_reference_is_given_its_own_error(tmp_path, runs):
    run = certified(tmp_path / "run", [0.1, 0.1, 0.1])
    found = compare(run, runs["good"])["certificate"]
    assert found["violated"] == [] and found["tv_at_least"] == found["looseness"] == [None] * 3
    assert found["reasons"]["tv_at_least"] == "the reference is a network without a certified bound"
    assert "holds the errors of both" in found["reasons"]["looseness"]
    laws = [product_law(means(t)) for t in TIMES]
    for name, bound, violated in (("sharp", 0.0, TIMES.tolist()), ("blunt", 0.95, [])):
        other = network_run(tmp_path / name, laws, extra=[certificate(bound * wrong_tv(t)) for t in TIMES])
        found = compare(run, other, samples=200_000)["certificate"]
        # 5 standard errors of 200 000 samples are below 0.0012, the error to be seen 0.9 of 0.03 or more
        assert found["violated"] == violated


def test_what_the_reference_lost_does_not_violate(tmp_path):
    """The network is right; the exact law that it is compared with lost 10 % of the probability."""
    laws = [product_law(means(t)) for t in TIMES]
    run = network_run(tmp_path / "run", laws, extra=[certificate(0.01)] * 3)
    found = compare(run, exact_run(tmp_path / "exact", [0.9 * p for p in laws]))
    assert found["joint"]["tv"] == pytest.approx([0.1] * 3) and found["certificate"]["violated"] == []
    assert found["certificate"]["tv_at_least"] == pytest.approx([0.0] * 3, abs=1e-9)


def test_another_model_says_nothing_about_a_certificate(tmp_path):
    run = certified(tmp_path / "run", [0.1, 0.1, 0.1])
    net = load_model_text(NET.text.replace("rate = 3\n", "rate = 4\n"))
    other = network_run(tmp_path / "other", [product_law(means(t)) for t in TIMES], net=net)
    found = compare(run, other)["certificate"]
    assert found["violated"] == [] and found["looseness"] == [None] * 3
    assert found["reasons"]["looseness"] == found["reasons"]["tv_at_least"] == "the reference is of another model"


# ---- on the command line ----


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs with certificates: one at two of the three times, one that certifies too little, and runs without."""
    folder = tmp_path_factory.mktemp("place")
    laws = [product_law(SHIFT * means(t)) for t in TIMES]
    network_run(folder / "some", laws, extra=[{"lost": 0.0}, certificate(0.25, lost=9e-4), certificate(1.0, lost=4e-3)])
    network_run(folder / "low", laws, extra=[certificate(0.5 * wrong_tv(t)) for t in TIMES])
    network_run(folder / "plain", laws)
    exact_run(folder / "exact")
    trajectory_run(folder / "ssa")
    return folder


@pytest.mark.parametrize(
    ("x", "text"),
    [(0, "0"), (0.031, "0.031"), (0.0311, "0.032"), (0.0996, "0.1"), (1, "1"), (131, "140"), (1.01e-7, "1.1e-07")],
)
def test_bounds_are_rounded_up(x, text):
    assert at_most(x) == text


def test_stats_print_the_certified_bound_and_its_parts(place, capsys):
    text = call(capsys, "stats", place / "some").out
    assert (
        "  t = 1: certified TV error <= 0.25 at 99.9 %: start 0.025 + projection 0.05 + time integration 0.075"
        " + truncation 0.038 + sampling 0.063\n"
    ) in text
    assert text.count("certified") == 2 and "t = 0.5:" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("  t = 2: certified TV error <= 1 at 99.9 %: ")]
    assert line.endswith("(1 says nothing)")
    data = json.loads(call(capsys, "stats", place / "some", "--json").out)
    assert data["certificate"]["bound"] == [None, 0.25, 1.0] and data["certificate"]["confidence"] == 0.999
    assert data["certificate"]["start"] == [None, 0.025, 0.1] and data["lost"] == [0.0, 9e-4, 4e-3]
    rows = _csv(call(capsys, "stats", place / "some", "--csv").out)
    assert [row["certified_tv"] for row in rows] == ["", "", "0.25", "0.25", "1.0", "1.0"]


def test_stats_without_a_certificate_are_as_before(place, capsys):
    for run in (place / "plain", place / "exact", place / "ssa"):
        text = call(capsys, "stats", run).out
        assert "certified" not in text and "warning" not in text
        assert json.loads(call(capsys, "stats", run, "--json").out)["certificate"] is None
        assert {row["certified_tv"] for row in _csv(call(capsys, "stats", run, "--csv").out)} == {""}


def test_stats_warn_of_probability_lost_through_the_limits(place, capsys):
    line = (
        "  warning: 0.004 of the probability was lost through the count limits by t = 2. "
        "Fix: raise max of the species that reach it\n"
    )
    assert line in call(capsys, "stats", place / "some").out
    assert "warning" not in call(capsys, "stats", place / "some", "--time", 0.5, 1).out


def test_compare_prints_the_bound_and_how_loose_it_is(place, capsys):
    argv = ["compare", place / "some", "--with"]
    for reference in ("exact", place / "exact"):
        data = json.loads(call(capsys, *argv, reference, "--json").out)["certificate"]
        assert data["bound"] == [None, 0.25, 1.0] and data["looseness"][0] is None and data["violated"] == []
        assert data["looseness"][1:] == pytest.approx([0.25 / wrong_tv(1.0), 1.0 / wrong_tv(2.0)], rel=1e-6)
    result = call(capsys, *argv, place / "exact")
    joint = result.out.splitlines()
    assert "violated" not in result.out and "certified at 99.9 %  certified/TV" in joint[2]
    assert joint[4].split()[:4] == ["1", f"{wrong_tv(1.0):.6g}", "0.25", f"{0.25 / wrong_tv(1.0):.6g}"]
    assert joint[3].split()[2:4] == ["-", "-"] and "certified/TV: the run stores no certified bound" in result.out
    rows = _csv(call(capsys, *argv, place / "exact", "--csv").out)
    assert [row["certified_tv"] for row in rows] == ["", "0.25", "1.0"]
    assert [row["looseness"] for row in rows] == ["", *(repr(x) for x in data["looseness"][1:])]


def test_compare_without_a_certificate_is_as_before(place, capsys):
    argv = ["compare", place / "plain", "--with", place / "exact"]
    result = call(capsys, *argv)
    assert "certif" not in result.out and result.err == ""
    data = json.loads(call(capsys, *argv, "--json").out)["certificate"]
    assert data["bound"] == data["looseness"] == [None] * 3
    assert data["reasons"]["bound"] == data["reasons"]["looseness"] == "the run stores no certified bound"


def test_a_violated_certificate_is_said_loudly(place, capsys):
    argv = ["compare", place / "low", "--with", place / "exact"]
    line = call(capsys, *argv).out.splitlines()[1]
    worst = max(TIMES, key=wrong_tv)
    assert line == (
        f"the certificate is violated at t = 0.5, 1, 2: at t = {worst:g} TV is at least {wrong_tv(worst):.5g}, "
        f"certified were at most {0.5 * wrong_tv(worst):.5g} at 99.9 %. "
        "The reference is wrong or this is a bug of hpcme: please report it"
    )
    for form in ("--json", "--csv"):
        assert call(capsys, *argv, form).err == f"hpcme compare: {line}\n"
    data = json.loads(call(capsys, *argv, "--json").out)
    assert data["certificate"]["violated"] == TIMES.tolist()


def test_status_shows_the_newest_bound(place, tmp_path, capsys):
    rows = {row["folder"].rsplit("/", 1)[1]: row for row in json.loads(call(capsys, "status", place, "--json").out)}
    assert {name: (row["bound"], row["bound_t"]) for name, row in rows.items()} == {
        "some": (1.0, 2.0), "low": (0.5 * wrong_tv(2.0), 2.0), "plain": (None, None), "exact": (None, None),
        "ssa": (None, None),
    }  # fmt: skip
    assert not any(row["remark"] for row in rows.values())
    laws = [product_law(means(t)) for t in TIMES[:2]]
    columns = [{"certificate": 0.125}, {"certificate": 0.25}]
    network_run(tmp_path / "stopped", laws, times=TIMES[:2], series=columns, status="stopped")
    columns = [{"certificate": 0.125}, {"certificate": np.nan}]
    extra = [certificate(0.125), {}]
    for status in ("stopped", "done"):
        network_run(tmp_path / f"late-{status}", laws, times=TIMES[:2], extra=extra, series=columns, status=status)
    rows = {row["folder"].rsplit("/", 1)[1]: row for row in json.loads(call(capsys, "status", tmp_path, "--json").out)}
    assert (rows["stopped"]["bound"], rows["stopped"]["bound_t"], rows["stopped"]["remark"]) == (0.25, 1.0, "")
    assert (rows["late-done"]["bound"], rows["late-done"]["bound_t"]) == (0.125, 0.5)
    assert rows["late-done"]["remark"] == "the bound is that of t = 0.5"
    assert [row["bound"] for row in _csv(call(capsys, "status", tmp_path / "stopped", "--csv").out)] == ["0.25"]
    assert "0.25" in call(capsys, "status", tmp_path / "stopped").out


def test_status_of_a_run_whose_results_are_damaged_has_no_bound(tmp_path, capsys):
    run = network_run(tmp_path / "run", [product_law(means(1.0))], times=[1.0], extra=[certificate(0.1)])
    run.close()
    (row,) = json.loads(call(capsys, "status", tmp_path / "run", "--json").out)
    assert row["bound"] == 0.1
    (tmp_path / "run" / "results.h5").write_bytes(b"not HDF5")
    (row,) = json.loads(call(capsys, "status", tmp_path / "run", "--json").out)
    assert row["bound"] is row["bound_t"] is None and row["state"] == "done"
