"""Random harm to the files of runs: always detected, never a traceback, never another number.

A copy of a run is harmed in one place (a flipped bit, another byte, a cut, a deletion, zeros, garbage at the end, the
file of another run) and asked everything that hpcme can say about it. Every answer must be the right one or an error
of exit code 65 or 74 with one message that names the path. A run under way is then continued: it must come to the
numbers of the run that was never harmed, or be refused.

HPCME_HARMS: number of harms, 120 unless set; the full number is 500.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from cli_helpers import Result, process, write_inputs
from store_fakes import contents

from hpcme.cli import progress
from hpcme.cli.main import main
from hpcme.errors import InputError
from hpcme.store.files import Manifest
from hpcme.store.layout import same_bits
from hpcme.store.reader import open_run

pytestmark = pytest.mark.fault

HARMS = int(os.environ.get("HPCME_HARMS", "120"))
BATCHES = 4
STOP_AT = 5  # steps; with a checkpoint every second one
SOURCES = ("under way", "network", "fsp", "ssa", "lone network", "lone fsp")
REFUSED = (65, 74)
RUN = ("run", "job.toml", "--quiet", "--set", "output.checkpoint_steps=2", "--out")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The runs: a network run under way and finished, an exact one, trajectories; and what each of them says."""
    folder = tmp_path_factory.mktemp("harms")
    write_inputs(folder)
    (folder / "states.csv").write_text("G,P\n0,0\n1,3\n0,2\n")
    before = Path.cwd()
    os.chdir(folder)
    asked = []

    def step(self, now):
        asked.append(now.step)
        if len(asked) == STOP_AT:
            os.kill(os.getpid(), 15)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress.Display, "step", step)
        assert main([*RUN, "originals/under way"]) == 75
    assert main([*RUN, "originals/network"]) == 0
    assert main(["fsp", "job.toml", "--quiet", "--out", "originals/fsp"]) == 0
    assert main(["ssa", "job.toml", "--quiet", "--trajectories", "300", "--out", "originals/ssa"]) == 0
    for kind in ("network", "fsp"):
        (folder / f"originals/lone {kind}").mkdir()
        shutil.copy(folder / f"originals/{kind}/results.h5", folder / f"originals/lone {kind}/file.h5")
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def right(place):
    """What is said about each run before it is harmed: {source: {question: answer}}, and the finished numbers."""
    answers = {}
    for source in SOURCES:
        run = fresh(place, source)
        answers[source] = {name: ask(run) for name, ask in questions(source).items()}
        refused = [name for name, answer in answers[source].items() if isinstance(answer, InputError)]
        assert not refused or (source, refused) == ("ssa", ["logprob"]), (source, refused)
    entries = Manifest.load(place / "originals/under way").entries
    kinds = Counter(entry.kind for entry in entries)
    assert kinds["checkpoint"] == 2 and kinds["report"] >= 2 and kinds["series"] >= 2, kinds
    answers["numbers"] = numbers(place / "originals/network")
    return answers


def call(*argv):
    """main(argv): exit code and what was printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in argv])
    return Result(code, out.getvalue(), err.getvalue())


def fresh(place, source):
    """A new copy of a run under the one path at which all of them are asked; returns that path."""
    shutil.rmtree(place / "run", ignore_errors=True)
    shutil.copytree(place / "originals" / source, place / "run")
    return place / "run" / "file.h5" if source.startswith("lone") else place / "run"


def numbers(folder):
    """Every dataset of results.h5 but the times that the computer took."""
    return {name: value for name, value in contents(folder).items() if "wall" not in name}


def questions(source):
    """Every way to ask a run for numbers: name -> function of its path that returns the answer or an InputError."""

    def command(*words):
        return lambda run: said(words[0], run, *words[1:])

    found = {
        "stats": command("stats", "--json"),
        "marginal": command("marginal", "--species", "P", "--json"),
        "joint": command("marginal", "--species", "G", "P", "--samples", 200, "--json"),
        "logprob": command("logprob", "--states", "states.csv", "--json"),
        "sample": command("sample", "-n", 20, "--time", 0.3),
        "library": library,
    }
    if not source.startswith("lone"):
        found["status"] = status
    return found


class Said(Exception):
    """Raised when an answer is neither a result nor a proper refusal."""


def said(*argv):
    """Standard output of a command, or the InputError that it ended with."""
    result = call(*argv)
    if result.code == 0:
        return result.out
    proper = (
        result.code in REFUSED
        and "Traceback" not in result.err
        and result.err.count("hpcme: error: ") == 1
        and "Fix: " in result.err
        and result.out == ""
    )
    if not proper:
        raise Said(f"{argv}: exit code {result.code}\n{result.out}\n{result.err}")
    return InputError(result.err)


def status(run):
    """The line of the run, without the time of the last commit; an InputError where a file of it is damaged."""
    result = call("status", run, "--json")
    if result.code != 0:
        return said("status", run, "--json")
    (row,) = json.loads(result.out)
    del row["last_commit"]
    return InputError(row["remark"]) if "Fix: " in row["remark"] else row


def library(run):
    """Everything that open_run gives, item by item: {name: value or InputError}."""
    try:
        found = open_run(run)
    except InputError as error:
        return error
    with found:
        asks = {
            "facts": lambda: [found.kind, found.uuid, found.species, found.limits, found.status, found.time_unit],
            "series": found.series,
            "extra": found.extra,
            "model": lambda: found.model().hash,
            **{
                name: lambda name=name: getattr(found, name)
                for name in ("times", "steps", "mean", "mean_se", "covariance", "covariance_se", "sd", "sd_se")
            },
            "provenance": lambda: found.provenance["history"][:1],
            "marginal": lambda: [found.marginal("G"), found.marginal_se("P", 0.3)],
        }
        if found.kind == "network":
            asks["network"] = lambda: found.network(0.3).sample(7)
        if found.kind == "fsp":
            asks["exact"] = lambda: [found.fsp_states(), found.probability(0.3), found.lost]
        else:
            asks["samples"] = lambda: [found.samples(0.3), found.weights()]
        if found.kind == "ssa":
            asks["events"] = lambda: found.events
        return {name: attempt(ask) for name, ask in asks.items()}


def attempt(ask):
    try:
        return ask()
    except InputError as error:
        return error


def harm(dice, path, other):
    """Change one file so that it is not what it was; returns what was done, in words. other: another run's file."""
    data = path.read_bytes()
    what = dice.choice(["bit", "bit", "byte", "byte", "cut", "delete", "zeros", "garbage", "other"])
    where = dice.randrange(len(data))
    new = bytearray(data)
    if what == "bit":
        new[where] ^= 1 << dice.randrange(8)
    elif what == "byte":
        new[where] = (new[where] + dice.randrange(1, 256)) % 256
    elif what == "cut":
        del new[where:]
    elif what == "zeros":
        length = dice.choice([1, 16, 512, 4096, len(data)])
        new[where : where + length] = bytes(len(new[where : where + length]))
    elif what == "garbage":
        new += dice.randbytes(dice.choice([1, 64, 5000])) if dice.random() < 0.5 else bytes(64)
    elif what == "other":
        new = bytearray(other.read_bytes())
    if what == "delete":
        path.unlink()
    elif bytes(new) == data:
        return harm(dice, path, other)
    else:
        path.write_bytes(new)
    return f"{what} at {where} of {len(data)} in {path.name}"


def check_answer(name, expected, answer, path):
    """The right answer, or a refusal that names a path of the run. Returns whether it was refused."""
    if isinstance(answer, InputError):
        assert str(path) in str(answer), f"{name}: the message does not name a file of the run: {answer}"
        return True
    if isinstance(answer, dict) and name == "library":
        assert answer.keys() == expected.keys()
        refused = [check_answer(f"library, {item}", expected[item], answer[item], path) for item in answer]
        return any(refused)
    assert same_bits(answer, expected), f"{name}: another answer: {answer}"
    return False


@pytest.mark.parametrize("batch", range(BATCHES))
def test_random_harm_to_the_files_of_runs(place, right, capsys, batch, record_property):
    seen = Counter()
    for number in range(batch, HARMS, BATCHES):
        dice = random.Random(number)
        source = dice.choice([*SOURCES, "under way"])
        run = fresh(place, source)
        files = sorted(path for path in place.joinpath("run").rglob("*") if path.is_file())
        path = dice.choice(files)
        others = {".json": "originals/fsp/manifest.json", ".h5": "originals/ssa/results.h5"}
        other = place / others[path.suffix]
        if other.read_bytes() == path.read_bytes():
            other = place / "originals/network" / other.name
        if source.startswith("lone"):
            other = path  # nothing says which run a file that stands alone should be of
        done = f"harm {number}: {source}, {harm(dice, path, other)}"
        try:
            seen[one_harm(run, source, path, right)] += 1
        except (Said, AssertionError) as error:
            raise AssertionError(f"{done}: {error}") from error
    record_property("outcomes", dict(seen))
    with capsys.disabled():
        print(f"\n  batch {batch}: " + ", ".join(f"{count} {what}" for what, count in sorted(seen.items())))
    assert sum(seen.values()) == len(range(batch, HARMS, BATCHES))
    if HARMS >= 120:  # else the dice may leave one out
        assert {"under way: made again", "finished: refused"} <= seen.keys(), "the test has lost its subject"


def one_harm(run, source, path, right):
    """Ask a harmed run everything, and continue it where it is under way; returns what became of it."""
    base = run if source.startswith("lone") else run.parent / run.name
    result = call("verify", run)
    assert result.code == 65 and "Traceback" not in result.err and result.out == "", ("verify", result)
    named = path.name in result.err or (path.name == "manifest.json" and str(run) in result.err)
    assert named, f"verify does not name {path.name}: {result.err}"
    refused = []
    for name, ask in questions(source).items():
        if check_answer(name, right[source][name], ask(run), base):
            refused.append(name)
    if path.suffix == ".json" or source != "under way":
        assert refused, "nobody noticed"
    if source != "under way":
        return "finished: refused"
    result = call(*RUN, run)
    if result.code == 0:
        assert numbers(run) == right["numbers"], "the continued run has other numbers"
        assert call("verify", run).code == 0
        return "under way: made again"
    assert result.code in REFUSED and result.err.count("hpcme: error: ") == 1, result
    assert "Traceback" not in result.err and str(run) in result.err and "Fix: " in result.err, result
    return "under way: refused"


@pytest.mark.parametrize(
    ("source", "file"), [("under way", "reports/report-00001.h5"), ("fsp", "results.h5"), ("lone network", "file.h5")]
)
def test_a_process_that_meets_damage_ends_with_its_exit_code(place, source, file):
    """Not with that of a crash: HDF5 tidies up after Python has ended, where a test in one process sees nothing."""
    run = fresh(place, source)
    data = bytearray((place / "run" / file).read_bytes())
    data[len(data) // 2] ^= 4
    (place / "run" / file).write_bytes(data)
    result = process(place, "stats", run)
    assert result.code == 65 and result.out == "" and f"{file} is damaged" in result.err, result
    assert len(result.err.splitlines()) == 1


def damage(path, dataset):
    """Flip a bit of the last number of a dataset of a segment: HDF5 itself sees nothing wrong with it."""
    with h5py.File(path, "r") as file:
        node = file[f"content/{dataset}"]
        last = node.id.get_offset() + node.nbytes - node.dtype.itemsize
        before = node[()].reshape(-1)[-1]
    data = bytearray(path.read_bytes())
    data[last + 2] ^= 1
    path.write_bytes(data)
    with h5py.File(path, "r") as file:
        assert file[f"content/{dataset}"][()].reshape(-1)[-1] != before


def newest(place, kind):
    return place / "run" / Manifest.load(place / "run").of_kind(kind)[-1].name


def test_a_wrong_number_in_the_newest_checkpoint_is_not_continued_from(place, right):
    run = fresh(place, "under way")
    path = newest(place, "checkpoint")
    with h5py.File(path, "r") as file:
        found = []
        file["content"].visititems(lambda name, node: found.append(name) if getattr(node, "ndim", 0) > 0 else None)
        floats = [name for name in found if file["content"][name].dtype.kind == "f" and "parameters" in name]
    damage(path, (floats or found)[0])
    result = call(*RUN, run)
    assert result.code == 0, result
    assert numbers(run) == right["numbers"]


def test_status_does_not_tell_a_wrong_time(place, right):
    run = fresh(place, "under way")
    path = newest(place, "series")
    damage(path, "t")
    (row,) = json.loads(call("status", run, "--json").out)
    assert row["t"] is row["bound"] is None and f"{path} is damaged" in row["remark"]
    expected = right["under way"]["status"]
    assert (row["state"], row["step"], row["end"]) == (expected["state"], expected["step"], expected["end"])


def test_numbers_do_not_depend_on_the_path_or_the_time(place, right, tmp_path):
    """What `numbers` compares is the same for a second run, else a continued run could not be told from a wrong one."""
    assert main(["run", "job.toml", "--quiet", "--out", str(tmp_path / "second")]) == 0
    assert numbers(tmp_path / "second") == right["numbers"]
    assert any(np.frombuffer(value[2], dtype=np.uint8).any() for value in right["numbers"].values())


@pytest.mark.parametrize("source", ["lone network", "lone fsp"])
def test_verify_takes_results_that_stand_alone(place, source):
    run = fresh(place, source)
    result = call("verify", run)
    assert result.code == 0 and f"all 1 files are whole ({run.stat().st_size} bytes)" in result.out
    data = bytearray(run.read_bytes())
    data[-100] ^= 1
    run.write_bytes(data)
    assert json.loads(call("verify", run, "--json").out)["problems"]
    run.unlink()
    assert call("verify", run).code == 65
