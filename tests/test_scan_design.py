"""The [scan] table: which tasks it makes, in which order, with which values; and what is wrong with wrong ones."""

import json
import tomllib

import numpy as np
import pytest
from cli_helpers import SWITCH

from hpcme.errors import InputError
from hpcme.model.job import load_job
from hpcme.model.reader import load_model_text
from hpcme.scan.design import combinations, read_design
from hpcme.scan.merging import _axis
from hpcme.scan.ranges import sobol_points
from hpcme.scan.tasks import load_scan, make_scan, ranges_text

HEAD = 'model = "switch.toml"\n[time]\nend = 1.0\nreport = [0.25]\n[parameters]\nmake = 4.0\n[output]\ndir = "o"\n'


def axes_of(text: str):
    return read_design(tomllib.loads(text)["scan"], load_model_text(SWITCH), "job.toml")


def write(folder, scan: str, head: str = HEAD):
    (folder / "switch.toml").write_text(SWITCH)
    path = folder / "job.toml"
    path.write_text(head + scan)
    return path


def test_a_grid_has_all_combinations_and_its_last_axis_runs_fastest():
    axes = axes_of('[scan]\non = [1.0, 2.0]\nsolver.scheme = ["tdvp", "projection"]\n"run.seed" = [5]\n')
    assert [(axis.name, len(axis)) for axis in axes] == [("on", 2), ("solver_scheme", 2), ("run_seed", 1)]
    found = [tuple(settings.values()) for settings in combinations(axes)]
    assert found == [(1.0, "tdvp", 5), (1.0, "projection", 5), (2.0, "tdvp", 5), (2.0, "projection", 5)]
    assert list(combinations(axes)[0]) == ["parameters.on", "solver.scheme", "run.seed"]


def test_ranges_have_the_values_that_a_person_would_write():
    (axis,) = axes_of("[scan]\non = {log = [1e-4, 1e-1], number = 4}\n")
    assert [row[0] for row in axis.values] == [0.0001, 0.001, 0.01, 0.1]
    (axis,) = axes_of("[scan]\non = {linear = [0, 0.3], number = 4}\n")
    assert [row[0] for row in axis.values] == [0.0, 0.1, 0.2, 0.3]  # 0.1 * 3 is not 0.3 in floating point
    (axis,) = axes_of("[scan]\non = {log = [8, 1], number = 4}\n")
    assert [row[0] for row in axis.values] == [8.0, 4.0, 2.0, 1.0]
    (axis,) = axes_of("[scan]\nrun.seed = {linear = [3, 5], number = 3}\n")
    assert [row[0] for row in axis.values] == [3, 4, 5] and all(isinstance(row[0], int) for row in axis.values)


def test_linked_lists_go_together_and_count_as_one_axis():
    axes = axes_of("[scan]\nmake = [1, 2]\n[[scan.linked]]\non = [1.0, 2.0, 3.0]\noff = [3.0, 2.0, 1.0]\n")
    assert [(axis.name, axis.labels, len(axis)) for axis in axes] == [
        ("make", ("make",), 2),
        ("on", ("on", "off"), 3),
    ]
    assert [list(settings.values()) for settings in combinations(axes)] == [
        [1, 1.0, 3.0], [1, 2.0, 2.0], [1, 3.0, 1.0], [2, 1.0, 3.0], [2, 2.0, 2.0], [2, 3.0, 1.0],
    ]  # fmt: skip


def test_sobol_points_are_spread_evenly_and_the_same_everywhere():
    """Of the first 2^m points exactly one lies in each of 2^m equal intervals of every dimension, and, in two
    dimensions, one in each cell of a grid of the same number of cells: a (t, m, s)-net with t = 0."""
    points = sobol_points(64, 2, seed=3)
    for i in range(2):
        assert sorted((points[:, i] * 64).astype(int)) == list(range(64))
    cells = {(int(x * 8), int(y * 8)) for x, y in points}
    assert len(cells) == 64 and points.min() > 0 and points.max() < 1
    # The first of them, for ever: a design that changed would be another scan under the same name.
    np.testing.assert_array_equal(sobol_points(5, 2, seed=3), points[:5])
    assert points[0].tolist() == [0.08564916672185063, 0.2368105067871511]
    assert (sobol_points(64, 2, seed=4) != points).any(axis=0).all()


def test_a_sobol_design_fills_its_ranges():
    text = "[scan.sobol]\nnumber = 16\nseed = 1\non = {log = [0.01, 1.0]}\nmake = {linear = [-1.0, 3.0]}\n"
    (axis,) = axes_of(text)
    assert axis.name == "sobol" and axis.labels == ("on", "make") and len(axis) == 16
    values = np.array(axis.values)
    assert sorted(((np.log10(values[:, 0]) + 2) * 8).astype(int)) == list(range(16))  # one in each sixteenth
    assert sorted(((values[:, 1] + 1) * 4).astype(int)) == list(range(16))
    assert axes_of(text) == [axis] and axes_of(text.replace("seed = 1", "seed = 2")) != [axis]


def test_axes_become_arrays_of_plain_types():
    """Scales are values, or numbers of points of a design; further keys of an axis are columns along it."""
    text = "[scan]\nmake = [1.5, 2]\nrun.seed = [3, 4]\nrun.deterministic = [true, false]\n"
    text += 'network.order = [["G", "P"], "auto"]\n'
    make, seed, switch, _ = [_axis(axis) for axis in axes_of(text.replace('"auto"', '["P", "G"]'))]
    assert (make.name, make.about, make.scale.dtype, make.columns) == ("make", "parameters.make", np.float64, {})
    assert (seed.name, seed.about, seed.scale.tolist()) == ("run_seed", "run.seed", [3, 4])
    assert seed.scale.dtype == np.int64 and switch.scale.tolist() == [b"true", b"false"]
    with pytest.raises(InputError, match="mixes lists and texts"):
        axes_of(text)
    (linked,) = [_axis(axis) for axis in axes_of('[[scan.linked]]\non = [1.0, 2.0]\nnetwork.kind = ["gru", "made"]\n')]
    assert linked.scale.tolist() == [1.0, 2.0]
    about, values = linked.columns["network_kind"]
    assert about == "network.kind" and values.tolist() == [b"gru", b"made"]
    (design,) = [_axis(axis) for axis in axes_of("[scan.sobol]\nnumber = 3\non = {linear = [0, 1]}\n")]
    assert design.name == "sobol" and design.scale.tolist() == [1, 2, 3] and list(design.columns) == ["on"]


WRONG = [
    ("scan = 3\n", ["scan = 3", "table", "Example"]),
    ("[scan]\n", ["names no key", "Example"]),
    ("[scan]\nonn = [1]\n", ["scan.onn", 'Did you mean "on"', "on, off, make"]),
    ("[scan]\nrun.sed = [1]\n", ["scan.run.sed", 'Did you mean "run.seed"']),
    ("[scan]\non = 1.0\n", ["scan.on = 1.0", "list", "number = 7"]),
    ("[scan]\non = []\n", ["scan.on = []", "at least one"]),
    ('[scan]\non = [1.0, "a"]\n', ["scan.on", "numbers and texts"]),
    ("[scan]\non = [1.0, inf]\n", ["scan.on", "inf", "finite"]),
    ("[scan]\non = [1, 1.0]\n", ["parameters.on = 1.0 twice"]),
    ("[scan]\non = {lin = [0, 1], number = 3}\n", ['"lin"', 'Did you mean "linear"']),
    ("[scan]\non = {number = 3}\n", ["scan.on", "one of linear and log"]),
    ("[scan]\non = {log = [1, 2], linear = [1, 2], number = 3}\n", ["scan.on", "not both"]),
    ("[scan]\non = {log = [0, 1], number = 3}\n", ["scan.on.log = [0, 1]", "above 0"]),
    ("[scan]\non = {linear = [1], number = 3}\n", ["scan.on.linear = [1]", "two different numbers"]),
    ("[scan]\non = {linear = [1, 1], number = 3}\n", ["two different numbers"]),
    ("[scan]\non = {linear = [0, 1]}\n", ["scan.on.number is missing", "2 to 100000"]),
    ("[scan]\non = {linear = [0, 1], number = 1}\n", ["scan.on.number = 1", "2 to 100000"]),
    ("[scan]\ntime.end = [1.0]\n", ["scan.time.end", "share their report times"]),
    ('[scan]\noutput.dir = ["a"]\n', ["scan.output.dir", "own folder"]),
    ("[scan]\noutput.checkpoint_steps = [1, 2]\n", ["scan.output.checkpoint_steps", "changes no result"]),
    ("[scan]\non = [1]\n[[scan.linked]]\non = [1, 2]\noff = [1, 2]\n", ["parameters.on twice"]),
    ("[[scan.linked]]\non = [1, 2]\noff = [1]\n", ["one length", "on has 2, off has 1"]),
    ("[[scan.linked]]\non = [1, 2]\n", ["links on with nothing"]),
    ("[scan]\nlinked = 3\n", ["[[scan.linked]]"]),
    ("[scan.sobol]\nnumber = 4\n", ["scan.sobol", "names no range"]),
    ("[scan.sobol]\non = {linear = [0, 1]}\n", ["scan.sobol.number is missing"]),
    ("[scan.sobol]\nnumber = 4\nseed = -1\non = {linear = [0, 1]}\n", ["scan.sobol.seed = -1"]),
    ("[scan.sobol]\nnumber = 4\non = [1, 2]\n", ["scan.on = [1, 2] is no range"]),
    ("[scan.sobol]\nnumber = 4\non = {linear = [0, 1], number = 2}\n", ['unknown word "number"']),
    ("[scan]\non = {linear = [0, 1], number = 1000}\noff = {linear = [0, 1], number = 101}\n",
     ["101000 tasks", "1000 (on) * 101 (off)", "100000"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), WRONG, ids=[text.replace("\n", " ") for text, _ in WRONG])
def test_wrong_tables_are_refused_with_the_fix(text, words):
    with pytest.raises(InputError) as caught:
        axes_of(text)
    assert not [word for word in ("job.toml", *words) if word not in str(caught.value)], caught.value


def test_a_task_is_the_job_with_its_values_set(tmp_path):
    path = write(tmp_path, '[scan]\non = [0.5, 2.0]\nnetwork.order = [["G", "P"], ["P", "G"]]\n')
    scan = make_scan(path, {"solver.epochs": 7}, None)
    assert str(scan.folder) == "o" and scan.shape == (2, 2)
    own = tmp_path / "own"
    own.mkdir()
    base = own / "job.toml"
    base.write_text(HEAD.replace('"switch.toml"', '"../switch.toml"'))
    for task in scan.tasks:
        file = own / "task.toml"
        file.write_text(task.text)  # needs no other file
        found, wanted = load_job(file), load_job(base, overrides={"solver.epochs": 7, **task.settings})
        assert (found.net.hash, found.hash) == (wanted.net.hash, wanted.hash) == (task.model_hash, task.job_hash)
        assert found.net.parameters["make"] == 4.0 and found["output.dir"] is None


def test_the_record_brings_back_the_same_scan(tmp_path):
    path = write(tmp_path, '[scan]\noff = [0.5, -2.0]\nsolver.scheme = ["tdvp", "auto"]\n')
    scan = make_scan(path, {}, str(tmp_path / "s"))
    assert [bool(task.error) for task in scan.tasks] == [False, False, True, True]
    scan.submissions = [{"job_id": "7", "indices": {"1": [1, 2]}}]
    scan.save()
    found = load_scan(tmp_path / "s")
    assert found.axes == scan.axes and found.shared == scan.shared and found.submissions == scan.submissions
    assert [(t.number, t.settings, t.name, t.job_hash, t.error) for t in found.tasks] == [
        (t.number, t.settings, t.name, t.job_hash, t.error) for t in scan.tasks
    ]
    assert sorted(file.name for file in (tmp_path / "s/jobs").iterdir()) == [
        scan.job_file(task).name for task in scan.tasks[:2]
    ]
    assert make_scan(path, {}, str(tmp_path / "s")).submissions == scan.submissions
    # A job file that was cut by a crash is written again; another job gets another name, the old file stays.
    scan.job_file(scan.tasks[0]).write_text("")
    scan.save()
    assert scan.job_file(scan.tasks[0]).read_text() == scan.tasks[0].text
    make_scan(path, {"run.seed": 3}, str(tmp_path / "s")).save()
    assert len(list((tmp_path / "s/jobs").iterdir())) == 4


def test_scans_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match=r"there is no \[scan\] table"):
        make_scan(write(tmp_path, ""), {}, None)
    with pytest.raises(InputError, match=r"none of the 2 tasks is a job that can be run; the first: .*task 1.* -1"):
        make_scan(write(tmp_path, "[scan]\noff = [-1, -2]\n"), {}, None)
    with pytest.raises(InputError, match=r"--set parameters\.on: this key is an axis"):
        make_scan(write(tmp_path, "[scan]\non = [1, 2]\n"), {"parameters.on": 3}, None)
    with pytest.raises(InputError, match=r"\[scan\] makes many tasks.*hpcme scan run .*job\.toml"):
        load_job(write(tmp_path, "[scan]\non = [1, 2]\n"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is damaged"), ("[1]", "is damaged"), ('{"format": "x"}', 'its "format" is not'),
        (json.dumps({"format": "hpcme-scan-record", "format_version": 2}), "newer hpcme"),
        (json.dumps({"format": "hpcme-scan-record", "format_version": 1}), "is damaged"), (None, "no folder of a scan"),
    ],
)  # fmt: skip
def test_records_that_cannot_be_used(tmp_path, content, words):
    if content is not None:
        (tmp_path / "scan.json").write_text(content)
    with pytest.raises(InputError, match=words):
        load_scan(tmp_path)


def test_tasks_are_named_by_numbers_and_ranges(tmp_path):
    scan = make_scan(write(tmp_path, "[scan]\non = {linear = [1, 12], number = 12}\n"), {}, None)
    for text, numbers in (("3", [3]), ("3,7-9", [3, 7, 8, 9]), ("7-9, 3,8", [3, 7, 8, 9]), (None, [*range(1, 13)])):
        assert [task.number for task in scan.selected(text)] == numbers
        if text:
            assert [task.number for task in scan.selected(ranges_text(numbers))] == numbers
    assert ranges_text([5, 1, 2, 3, 9, 10]) == "1-3,5,9-10" and ranges_text([]) == ""
    for text, word in (("0", "no task 0"), ("13", "1 to 12"), ("5-13", "no task 13"), ("a", '"a"'), ("9-7", '"9-7"')):
        with pytest.raises(InputError, match=word):
            scan.selected(text)
