"""RunWriter: commits are all or nothing, resume takes the newest good checkpoint, other runs are refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from store_fakes import MODEL, QUICK, contents, identity, make_report, simulate

from hpcme.errors import InputError, InternalError, OutputError
from hpcme.store import writer as writer_module
from hpcme.store.files import MANIFEST, Manifest
from hpcme.store.layout import same_bits
from hpcme.store.reader import open_run
from hpcme.store.writer import RunWriter


def tree(folder):
    """Every file below a folder with its content; without the lock, which lives while it is held."""
    files = [item for item in Path(folder).rglob("*") if item.is_file() and item.name != "run.lock"]
    return {str(item.relative_to(folder)): item.read_bytes() for item in files}


def start(folder, steps=(4, 8, 12)):
    """A run with a report, rows and a checkpoint at each of the steps; returns the folder."""
    with RunWriter.create(folder, identity(), **QUICK) as writer:
        writer.commit(0, {"step": 0}, make_report(0), None)
        for index, step in enumerate(steps, 1):
            writer.commit(
                step, {"step": step, "x": np.arange(step)}, make_report(index), {"t": [float(step)]}
            )
    return folder


def names(folder, kind):
    return [entry.name for entry in Manifest.load(folder).of_kind(kind)]


def flip(path, where=0.5):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 4
    path.write_bytes(content)


def test_files_of_a_run_under_way(tmp_path):
    folder = start(tmp_path / "run")
    assert names(folder, "report") == [f"reports/report-{i:05d}.h5" for i in range(4)]
    assert names(folder, "series") == [f"series/series-{step:08d}.h5" for step in (4, 8, 12)]
    assert names(folder, "checkpoint") == ["checkpoints/step-00000008.h5", "checkpoints/step-00000012.h5"]
    on_disk = {str(item.relative_to(folder)) for item in folder.rglob("*") if item.is_file()}
    assert on_disk == {MANIFEST, *(entry.name for entry in Manifest.load(folder).entries)}


def test_the_newest_checkpoint_comes_back_bit_for_bit(tmp_path):
    folder = start(tmp_path / "run")
    with RunWriter.resume(folder, identity(), **QUICK) as writer:
        step, state = writer.load_checkpoint()
        assert step == 12 and same_bits(state, {"step": 12, "x": np.arange(12)})
        assert "continuing from step 12 (level: exact" in writer.messages[0]
        assert writer.reports == [0, 1, 2, 3] and writer.status == "running" and not writer.done
        assert [event["event"] for event in writer.history] == ["created", "resumed"]


def test_a_new_run_has_no_checkpoint(tmp_path):
    with RunWriter.open(tmp_path / "a" / "b", identity(), **QUICK) as writer:
        assert writer.load_checkpoint() is None and writer.reports == [] and writer.messages == []
        assert len(writer.uuid) == 32


def test_what_comes_after_the_checkpoint_is_dropped_and_set_aside(tmp_path):
    folder = start(tmp_path / "run")
    with RunWriter.resume(folder, identity(), **QUICK) as writer:
        writer.commit(13, None, None, {"t": [13.0]})
        writer.commit(14, None, make_report(4), {"t": [14.0]})
    with RunWriter.resume(folder, identity(), **QUICK) as writer:
        assert writer.load_checkpoint()[0] == 12 and writer.reports == [0, 1, 2, 3]
        assert sorted(os.listdir(folder / "aside")) == [
            "report-00004.h5",
            "series-00000013.h5",
            "series-00000014.h5",
        ]
        writer.commit(13, None, make_report(4), {"t": [13.0]})
        writer.finish()
    assert open_run(folder).series()["t"].tolist() == [4, 8, 12, 13]
    assert sorted(os.listdir(folder)) == [MANIFEST, "results.h5"]


def test_without_any_checkpoint_the_run_starts_again(tmp_path):
    with RunWriter.create(tmp_path / "run", identity(), **QUICK) as writer:
        writer.commit(0, None, make_report(0), None)
        writer.commit(2, None, None, {"t": [1.0]})
    with RunWriter.resume(tmp_path / "run", identity(), **QUICK) as writer:
        assert writer.load_checkpoint() is None and writer.reports == []
        assert "from the beginning" in writer.messages[-1]


@pytest.mark.parametrize(
    "harm",
    [
        flip,
        lambda path: os.truncate(path, 100),
        lambda path: path.unlink(),
        lambda path: os.truncate(path, 0),
    ],
)
def test_a_damaged_checkpoint_is_walked_past(tmp_path, harm):
    folder = start(tmp_path / "run")
    harm(folder / "checkpoints/step-00000012.h5")
    with RunWriter.resume(folder, identity(), **QUICK) as writer:
        assert writer.load_checkpoint()[0] == 8 and writer.reports == [0, 1, 2]
        assert "step-00000012.h5" in writer.messages[0] and "older checkpoint" in writer.messages[0]
        assert writer.history[-1]["damaged"] == ["checkpoints/step-00000012.h5"]
    assert open_run(folder).series()["t"].tolist() == [4, 8]


def test_both_checkpoints_damaged_means_the_beginning(tmp_path):
    folder = start(tmp_path / "run")
    for name in names(folder, "checkpoint"):
        flip(folder / name)
    with RunWriter.resume(folder, identity(), **QUICK) as writer:
        assert writer.load_checkpoint() is None and writer.reports == []
        assert "report-00003.h5" in os.listdir(folder / "aside")


@pytest.mark.parametrize("name", ["reports/report-00003.h5", "series/series-00000012.h5"])
def test_a_damaged_late_segment_is_made_again(tmp_path, name):
    folder = start(tmp_path / "run")
    flip(folder / name)
    with RunWriter.resume(folder, identity(), **QUICK) as writer:
        assert writer.load_checkpoint()[0] == 8 and name in writer.messages[0]


@pytest.mark.parametrize("name", ["reports/report-00000.h5", "series/series-00000004.h5"])
def test_a_damaged_early_segment_is_refused_and_nothing_changes(tmp_path, name):
    folder = start(tmp_path / "run")
    flip(folder / name)
    before = tree(folder)
    with pytest.raises(InputError, match=rf"{name}.* is damaged.*delete"):
        RunWriter.resume(folder, identity(), **QUICK)
    assert tree(folder) == before and not (folder / "run.lock").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "ssa"}, "kind network, this one is of kind ssa"),
        (
            {"model_hash": "m1", "model_text": identity()["model_text"].replace("k = 2.0", "k = 3.0")},
            "another model.*\n.*\n \\[parameters\\]\n-k = 2.0\n\\+k = 3.0",
        ),
        (
            {"job_hash": "j1", "job_text": "[time]\nend = 4.0\n"},
            "another job.*\n.*\n \\[time\\]\n-end = 3.0\n\\+end = 4.0",
        ),
        ({"job_hash": "j1"}, "the texts agree, the hashes do not"),
        ({"model_hash": "m1", "model_text": "\n".join(map(str, range(100)))}, "and 7[0-9] more lines"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_another_run_is_refused_with_the_difference_and_nothing_changes(tmp_path, changes, message, finished):
    folder = start(tmp_path / "run")
    if finished:
        RunWriter.resume(folder, identity(), **QUICK).finish()
    before = tree(folder)
    for attempt in (RunWriter.open, RunWriter.resume, RunWriter.is_finished):
        with pytest.raises(InputError, match=message) as caught:
            attempt(folder, identity(**changes))
        assert caught.value.exit_code == 65 and "Fix: use another --out" in str(caught.value)
    assert tree(folder) == before and not (folder / "run.lock").exists()


def test_create_refuses_what_it_could_destroy(tmp_path):
    start(tmp_path / "run")
    with pytest.raises(InputError, match="already holds a run"):
        RunWriter.create(tmp_path / "run", identity())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"not empty.*thesis\.tex.*another --out"):
        RunWriter.create(tmp_path / "mine", identity())
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]
    (tmp_path / "full" / "reports").mkdir(parents=True)
    (tmp_path / "full" / "reports" / "x").write_text("")
    with pytest.raises(InputError, match="holds reports"):
        RunWriter.create(tmp_path / "full", identity())


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that nobody may write to")
def test_a_folder_that_cannot_be_made():
    with pytest.raises(OutputError, match="cannot write /proc/hpcme-run"):
        RunWriter.create("/proc/hpcme-run", identity())


def test_a_folder_in_use_is_refused(tmp_path):
    with (
        RunWriter.create(tmp_path / "run", identity(), **QUICK),
        pytest.raises(InputError, match="in use by process"),
    ):
        RunWriter.resume(tmp_path / "run", identity(), **QUICK)
    RunWriter.resume(tmp_path / "run", identity(), **QUICK).close()


def test_a_writer_that_lost_its_folder_writes_nothing_more(tmp_path):
    with RunWriter.create(tmp_path / "run", identity(), **QUICK) as writer:
        (tmp_path / "run" / "run.lock").unlink()
        before = tree(tmp_path / "run")
        with pytest.raises(OutputError, match="was removed"):
            writer.commit(1, {"x": 1}, None, None)
        assert tree(tmp_path / "run") == before


def test_a_failed_commit_changes_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    folder = start(tmp_path / "run")
    with RunWriter.resume(folder, identity(), **QUICK) as writer:
        before = tree(folder)
        real = os.replace

        def full(source, target):
            if str(target).endswith(MANIFEST):
                raise OSError(28, "No space left on device")
            real(source, target)

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(
            OutputError, match=r"No space left.*free some space.*checkpoint of step 12 is intact"
        ) as caught:
            writer.commit(16, {"x": 1}, make_report(4), {"t": [16.0]})
        assert caught.value.exit_code == 74 and tree(folder) == before
        monkeypatch.setattr(os, "replace", real)
        writer.commit(16, {"x": 1}, make_report(4), {"t": [16.0]})
    assert open_run(folder).series()["t"].tolist() == [4, 8, 12, 16]


def test_a_folder_that_turns_read_only_within_a_commit(tmp_path, monkeypatch):
    """The new segments cannot even be removed: they stay as strays, and the error is that of the commit."""
    folder = start(tmp_path / "run")
    with RunWriter.resume(folder, identity(), **QUICK) as writer:
        with monkeypatch.context() as patch:

            def refuse(*arguments, **options):
                raise OSError(30, "Read-only file system")

            def replace(source, target, real=os.replace):
                real(source, target) if not str(target).endswith(MANIFEST) else refuse()

            patch.setattr(os, "replace", replace)
            patch.setattr(os, "unlink", refuse)
            with pytest.raises(OutputError, match=r"Read-only.*writable.*checkpoint of step 12 is intact"):
                writer.commit(16, {"x": 1}, make_report(4), {"t": [16.0]})
        assert (folder / "checkpoints/step-00000016.h5").exists()
    with RunWriter.resume(folder, identity(), **QUICK) as writer:
        assert writer.load_checkpoint()[0] == 12
        assert not (folder / "checkpoints/step-00000016.h5").exists()


def test_commits_in_the_wrong_order_are_bugs(tmp_path):
    with RunWriter.create(tmp_path / "run", identity(), **QUICK) as writer:
        writer.commit(5, None, make_report(0), None)
        with pytest.raises(InternalError, match="step 4 after step 5"):
            writer.commit(4, {"x": 1})
        with pytest.raises(InternalError, match="report 0 is committed twice"):
            writer.commit(6, None, make_report(0))
        writer.commit(7, None, make_report(2))
        with pytest.raises(InternalError, match=r"are not 0, 1, 2"):
            writer.finish()


def test_the_same_step_may_be_committed_again(tmp_path):
    """A stop may ask for a checkpoint of a step whose rows are already written."""
    with RunWriter.create(tmp_path / "run", identity(), **QUICK) as writer:
        writer.commit(3, {"x": 1}, make_report(0), {"t": [1.0]})
        writer.commit(3, {"x": 2}, None, {"t": [2.0]})
    with RunWriter.resume(tmp_path / "run", identity(), **QUICK) as writer:
        assert writer.load_checkpoint() == (3, {"x": 2})
        writer.finish()
    assert open_run(tmp_path / "run").series()["t"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"mean": np.zeros(3)},
        {"covariance": np.zeros(2)},
        {"samples": np.zeros((4, 3), dtype=np.int32)},
        {"samples": np.zeros((4, 2))},
        {"samples": np.full((4, 2), -1)},
        {"samples": np.full((4, 2), 2**31)},
        {"weights": np.ones(3)},
        {"marginals": [np.ones(6)]},
        {"marginals_se": [np.ones(6), np.ones(9)]},
        {"samples": None, "weights": np.ones(3)},
    ],
)
def test_reports_of_the_wrong_shape_are_bugs(tmp_path, change):
    report = make_report(0)
    for name, value in change.items():
        setattr(report, name, value)
    with RunWriter.create(tmp_path / "run", identity(), **QUICK) as writer:
        with pytest.raises(InternalError, match="report 0"):
            writer.commit(0, None, report)
        assert writer.reports == []


def test_incomplete_identities_are_bugs(tmp_path):
    for changes in ({"kind": "other"}, {"limits": [1]}, {"colour": 1}):
        with pytest.raises(InternalError):
            RunWriter.create(tmp_path / "run", identity(**changes))
    with pytest.raises(InternalError, match="model_text"):
        RunWriter.create(
            tmp_path / "run", {key: value for key, value in identity().items() if key != "model_text"}
        )


def test_stopped_and_failed_runs_can_be_resumed(tmp_path):
    folder = start(tmp_path / "run")
    for status in ("stopped", "failed"):
        RunWriter.resume(folder, identity(), **QUICK).finish(status)
        assert open_run(folder).status == status
    with RunWriter.resume(folder, identity(), **QUICK) as writer:
        assert writer.load_checkpoint()[0] == 12
        with pytest.raises(InputError, match=r'unknown run status "stoped".*Did you mean "stopped"'):
            writer.finish("stoped")


def test_a_finished_run_is_left_alone(tmp_path):
    folder = start(tmp_path / "run")
    assert not RunWriter.is_finished(folder, identity()) and not RunWriter.is_finished(
        tmp_path / "no", identity()
    )
    RunWriter.resume(folder, identity(), **QUICK).finish()
    before = tree(folder)
    assert RunWriter.is_finished(folder, identity())
    with RunWriter.open(folder, identity(), **QUICK) as writer:
        assert writer.done and writer.load_checkpoint() is None
        with pytest.raises(InternalError, match="done"):
            writer.commit(99, {"x": 1})
        writer.finish()
    assert tree(folder) == before


def test_finish_needs_reports_and_undamaged_segments(tmp_path):
    with pytest.raises(InternalError, match="without reports"):
        RunWriter.create(tmp_path / "empty", identity(), **QUICK).finish()
    folder = start(tmp_path / "run")
    writer = RunWriter.resume(folder, identity(), **QUICK)
    flip(folder / "reports/report-00001.h5")
    with pytest.raises(InputError, match=r"report-00001\.h5 is damaged"):
        writer.finish()
    assert (folder / "reports/report-00000.h5").exists() and not (folder / "results.h5").exists()


def test_results_that_read_back_differently_are_discarded(tmp_path, monkeypatch):
    folder = start(tmp_path / "run")
    before = set(tree(folder))
    monkeypatch.setattr("hpcme.store.results._Writer.fill_samples", lambda self, k, report: None)
    with pytest.raises(OutputError, match=r"reads back differently.*report 0.*discarded"):
        RunWriter.resume(folder, identity(), **QUICK).finish()
    assert set(tree(folder)) == before
    monkeypatch.undo()
    RunWriter.resume(folder, identity(), **QUICK).finish()
    assert open_run(folder).status == "done"


def test_resume_levels(tmp_path):
    folder = start(tmp_path / "run")
    with RunWriter.resume(folder, identity(layout={"ranks": 2, "cpu": "x"}), **QUICK) as writer:
        event = writer.history[-1]
        assert event["level"] == "statistical" and event["changed"] == {"ranks": [1, 2], "cpu": [None, "x"]}
        assert "ranks 1 -> 2" in event["reason"]
    with RunWriter.resume(folder, identity(layout={}), **QUICK) as writer:
        assert "not known" in writer.history[-1]["reason"]


def test_notes_reach_the_results(tmp_path):
    with RunWriter.create(tmp_path / "run", identity(), **QUICK) as writer:
        writer.note(
            "rolled back", step=np.int64(3), loss=float("inf"), where=Path("x"), shape=(1, 2), a=np.zeros(2)
        )
        writer.commit(0, None, make_report(0))
        writer.finish()
    events = open_run(tmp_path / "run").provenance["history"]
    assert [event["event"] for event in events] == ["created", "rolled back", "finished"]
    assert events[1]["step"] == 3 and events[1]["loss"] == "inf" and events[1]["shape"] == [1, 2]


def test_old_series_files_are_merged_without_losing_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "MERGE", 3)
    folder = tmp_path / "run"
    with RunWriter.create(folder, identity(), **QUICK) as writer:
        writer.commit(0, None, make_report(0))
        for step in range(1, 41):
            writer.commit(step, {"s": step} if step % 2 else None, None, {"t": [float(step)], "n": [step]})
    assert len(names(folder, "series")) < 14
    assert open_run(folder).series()["n"].tolist() == list(range(1, 41))
    with RunWriter.resume(folder, identity(), **QUICK) as writer:  # the last commit had no checkpoint
        assert writer.load_checkpoint() == (39, {"s": 39})
    assert open_run(folder).series()["n"].tolist() == list(range(1, 40))
    flip(folder / "checkpoints/step-00000039.h5")
    with RunWriter.resume(folder, identity(), **QUICK) as writer:
        assert writer.load_checkpoint() == (37, {"s": 37})
    assert open_run(folder).series()["t"].tolist() == list(range(1, 38))


def test_stray_files_of_a_killed_job_are_tidied(tmp_path):
    folder = start(tmp_path / "run")
    (folder / "reports" / ".report-00009.h5.tmp-12").write_text("half")
    (folder / ".manifest.json.tmp-12").write_text("half")
    (folder / "reports" / "report-00009.h5").write_text("not in the manifest")
    (folder / "results.h5").write_text("not in the manifest")
    RunWriter.resume(folder, identity(), **QUICK).close()
    assert sorted(os.listdir(folder)) == ["aside", "checkpoints", MANIFEST, "reports", "series"]
    assert sorted(os.listdir(folder / "aside")) == ["report-00009.h5", "results.h5"]


def test_a_copy_of_a_run_continues_like_the_original(tmp_path):
    simulate(tmp_path / "a", steps=4)
    with RunWriter.create(tmp_path / "b", identity(), **QUICK) as writer:
        writer.commit(0, {"x": 12345, "rng/state": np.array([12345], dtype=np.uint64)}, make_report(0))
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    simulate(tmp_path / "b", steps=4)
    simulate(tmp_path / "c", steps=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


LARGER = {"limits": [5, 20], "model_text": MODEL.replace("max = 7", "max = 20")}


def test_a_run_that_begins_again_keeps_its_name_and_nothing_else(tmp_path):
    folder = start(tmp_path / "run")
    with RunWriter.resume(folder, identity(), **QUICK) as writer:
        uuid = writer.uuid
        writer.begin_again(identity(**LARGER), automatic_limits={"grown": 1})
        assert writer.load_checkpoint() is None and writer.reports == []
        writer.commit(0, {"step": 0}, make_report(0), None)
    manifest = Manifest.load(folder)
    assert manifest.uuid == uuid and manifest.limits == [5, 20] and "max = 20" in manifest.model_text
    assert manifest.provenance["automatic_limits"] == {"grown": 1} and manifest.provenance["seed"] == 7
    assert names(folder, "report") == ["reports/report-00000.h5"] and names(folder, "series") == []
    assert manifest.history[-1] == {**manifest.history[-1], "limits": {"A": 5, "B": 20}}
    on_disk = {str(item.relative_to(folder)) for item in folder.rglob("*") if item.is_file()}
    assert on_disk == {MANIFEST, *(entry.name for entry in manifest.entries)}


def test_a_crash_while_a_run_begins_again_leaves_its_beginning(tmp_path, monkeypatch):
    """The manifest counts: files of the old beginning that were not deleted any more are set aside."""
    folder = start(tmp_path / "run")
    with RunWriter.resume(folder, identity(), **QUICK) as writer, monkeypatch.context() as patch:
        patch.setattr(writer_module, "delete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            writer.begin_again(identity(**LARGER))
    assert Manifest.load(folder).entries == []
    with RunWriter.resume(folder, identity(), **QUICK) as writer:  # hashes are the run's, whatever its limits
        assert writer.load_checkpoint() is None
        writer.commit(0, {"step": 0}, make_report(0), None)
    assert Manifest.load(folder).limits == [5, 20]


def test_a_run_does_not_begin_again_as_another_one(tmp_path):
    folder = start(tmp_path / "run")
    with RunWriter.resume(folder, identity(), **QUICK) as writer, pytest.raises(InternalError):
        writer.begin_again(identity(model_hash="m1"))
    assert len(Manifest.load(folder).of_kind("report")) == 4
