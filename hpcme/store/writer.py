"""RunWriter: puts a run on the disk so that it can be killed at any instant and continued (rank 0 only).

Order of every commit: closed segments first, each whole before it has its name; then the manifest, which is
what makes them part of the run; then what is no longer needed is removed. A crash between two of these leaves
either the old run or the new one, plus stray files that `resume` moves to aside/.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpcme.errors import InputError, InternalError, OutputError
from hpcme.store.files import MANIFEST, Entry, Manifest, cannot_write, check_status
from hpcme.store.folder import clean, delete, problem_of, refuse_foreign_content
from hpcme.store.identity import manifest_of, plain, refuse_other_run, resume_level
from hpcme.store.layout import RESULTS, Report, check_series, join_series
from hpcme.store.lock import RunLock
from hpcme.store.results import Content, write_results
from hpcme.store.segments import FOLDERS, read_segment, write_segment

KEPT_CHECKPOINTS = 2
MERGE = 64  # series files merged at a time: keeps the number of files and of manifest lines small


class RunWriter:
    """A run folder opened for writing, locked against other jobs. Use `open`, or `create` and `resume`.

    identity: dict with kind ("network", "fsp", "ssa"), model_text, model_hash, job_text, job_hash, species,
    limits, report_times, units ({"time": unit}); optional: provenance (anything worth keeping), layout (what
    must be the same for a resumed run to be bitwise the same: rank layout, hardware, software).

    messages: lines that the user should see (what was found and done when resuming).
    """

    def __init__(self, folder: Path, manifest: Manifest, lock: RunLock, messages: list[str]) -> None:
        self.folder = folder
        self.messages = messages
        self._manifest = manifest
        self._lock = lock
        self._checkpoint: tuple[int, dict[str, Any]] | None = None

    @classmethod
    def open(cls, path: str | Path, identity: dict[str, Any], **lock: float) -> RunWriter:
        """`resume` the run in `path` if there is one, else `create` it: what repeating a command needs."""
        return (cls.resume if (Path(path) / MANIFEST).exists() else cls.create)(path, identity, **lock)

    @classmethod
    def create(cls, path: str | Path, identity: dict[str, Any], **lock: float) -> RunWriter:
        """Start a run in a new or empty folder.

        lock: beat and patience of RunLock. Raises InputError when the folder holds something else or is in
        use, OutputError when it cannot be written; nothing is lost in either case.
        """
        folder = Path(path)
        manifest = manifest_of(identity)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            refuse_foreign_content(folder)
        except OSError as error:
            raise cannot_write(folder, error) from error
        held = RunLock(folder, **lock)
        notice = held.acquire()
        try:
            refuse_foreign_content(folder)
            clean(folder, set(), aside=False)
            for name in FOLDERS.values():
                (folder / name).mkdir(exist_ok=True)
            manifest.save(folder)
        except OSError as error:
            held.release()
            raise cannot_write(folder, error) from error
        except BaseException:
            held.release()
            raise
        return cls(folder, manifest, held, [notice] if notice else [])

    @classmethod
    def resume(cls, path: str | Path, identity: dict[str, Any], **lock: float) -> RunWriter:
        """Continue the run in `path` from its newest good checkpoint.

        Raises InputError when the folder belongs to another model or job (the message shows the difference
        and nothing was touched), is in use, or an early report is damaged; OutputError if it cannot be written.
        """
        folder = Path(path)
        refuse_other_run(folder, Manifest.load(folder), identity)
        held = RunLock(folder, **lock)
        notice = held.acquire()
        try:
            manifest = Manifest.load(folder)  # again: another job may have ended just now
            refuse_other_run(folder, manifest, identity)
            writer = cls(folder, manifest, held, [notice] if notice else [])
            writer._restore(identity)
        except OSError as error:
            held.release()
            raise cannot_write(folder, error) from error
        except BaseException:
            held.release()
            raise
        return writer

    @classmethod
    def is_finished(cls, path: str | Path, identity: dict[str, Any]) -> bool:
        """Whether `path` holds the finished run of this identity. InputError for another model or job."""
        folder = Path(path)
        if not (folder / MANIFEST).exists():
            return False
        manifest = Manifest.load(folder)
        refuse_other_run(folder, manifest, identity)
        return manifest.status == "done"

    @property
    def status(self) -> str:
        """ "running", "stopped", "failed" or "done"; a run that is done takes no more commits."""
        return self._manifest.status

    @property
    def done(self) -> bool:
        """Whether results.h5 is there and nothing is left to do."""
        return self._manifest.status == "done"

    @property
    def uuid(self) -> str:
        """Identity of this run; the same after every resume."""
        return self._manifest.uuid

    @property
    def history(self) -> list[dict[str, Any]]:
        """What happened to the run (created, resumed with its level, notes), oldest first."""
        return list(self._manifest.history)

    @property
    def reports(self) -> list[int]:
        """Indices of the reports that are stored, in order."""
        return sorted(entry.index for entry in self._manifest.of_kind("report"))

    def load_checkpoint(self) -> tuple[int, dict[str, Any]] | None:
        """(step, dictionary) of the newest good checkpoint; None when there is none (start anew)."""
        return self._checkpoint

    def note(self, event: str, **details: Any) -> None:
        """Add an event to the history; it reaches the disk with the next commit or finish."""
        self._manifest.history.append({"when": _now(), "event": event, **plain(details)})

    def commit(
        self,
        step: int,
        checkpoint: dict[str, Any] | None = None,
        report: Report | None = None,
        series: dict[str, Any] | None = None,
    ) -> None:
        """Write what is given and make it part of the run, all of it or nothing.

        step: number of the last finished time step; must not go back. A checkpoint covers everything
        committed before it and with it: what comes after the newest checkpoint is dropped by `resume`.
        Raises OutputError (the run is as it was before the call), InternalError for wrong shapes or order.
        """
        manifest = self._manifest
        if self.done:
            raise InternalError("commit to a run that is done")
        if manifest.entries and step < manifest.entries[-1].step:
            raise InternalError(f"commit of step {step} after step {manifest.entries[-1].step}")
        jobs: list[tuple[str, int, Any]] = []
        if report is not None:
            if report.index in self.reports:
                raise InternalError(f"report {report.index} is committed twice")
            jobs.append(("report", report.index, replace(report, step=step).conform(len(manifest.species))))
        columns = check_series(series) if series else {}
        if columns and len(next(iter(columns.values()))):
            jobs.append(("series", 0, columns))
        if checkpoint is not None:
            jobs.append(("checkpoint", 0, checkpoint))
        written: list[Entry] = []
        try:
            self._lock.check()
            for kind, index, content in jobs:
                name = self._free_name(kind, index, step)
                written.append(write_segment(self.folder, manifest.uuid, kind, name, index, step, content))
            if checkpoint is not None:
                written[-1].verify(self.folder)  # older ones are deleted on the strength of this one
            dropped, kept = self._prune([*manifest.entries, *written], checkpoint is not None)
            self._publish(replace(manifest, entries=kept, status="running"))
        except OutputError as error:
            delete(self.folder, written)
            raise self._with_last_checkpoint(error) from error
        delete(self.folder, dropped)

    def begin_again(self, identity: dict[str, Any], **provenance: Any) -> None:
        """Forget all that was committed: the same run begins anew, with other limits.

        identity: as in `open`, of the same hashes; its limits and texts replace those of the run, provenance is added
        to the run's. An interruption leaves the old run or the new one, without a file. Raises OutputError.
        """
        old, new = self._manifest, manifest_of(identity)
        if (old.model_hash, old.job_hash) != (new.model_hash, new.job_hash):
            raise InternalError("a run begins again as another one")
        self._checkpoint = None
        self.note("began again with larger limits", limits=dict(zip(new.species, new.limits, strict=True)))
        self._publish(
            replace(
                old, limits=new.limits, model_text=new.model_text, job_text=new.job_text, entries=[], status="running",
                provenance={**old.provenance, **plain(provenance)},
            )
        )  # fmt: skip
        delete(self.folder, old.entries)

    def finish(self, status: str = "done") -> None:
        """End the run and release the lock. "done": make results.h5, verify it, then remove the segments;
        "stopped" and "failed" only record the status. Raises OutputError; then the segments are intact and
        the run can be resumed."""
        check_status(status)
        try:
            if status == "done" and not self.done:
                self._compact()
            elif not self.done:
                self._publish(replace(self._manifest, status=status))
        finally:
            self.close()

    def _compact(self) -> None:
        manifest = self._manifest
        self._lock.check()
        self.note("finished")
        reports = sorted(manifest.of_kind("report"), key=lambda entry: entry.index)
        if [entry.index for entry in reports] != list(range(len(reports))):
            raise InternalError(f"reports {[entry.index for entry in reports]} are not 0, 1, 2, ...")
        for entry in manifest.entries:
            if entry.kind != "checkpoint":
                entry.verify(self.folder)
        content = Content(
            number=len(reports),
            report=lambda k: read_segment(self.folder, reports[k], manifest.uuid),
            series=join_series(
                [read_segment(self.folder, entry, manifest.uuid) for entry in manifest.of_kind("series")]
            ),
        )
        self.publish_results(content)

    def publish_results(self, content: Content) -> None:
        """Write results.h5 from `content`, make it the run's only file and mark the run as done."""
        manifest = self._manifest
        try:
            record = write_results(self.folder, manifest, content)
            entry = Entry(
                RESULTS,
                "results",
                0,
                manifest.entries[-1].step if manifest.entries else 0,
                record.bytes,
                record.sha256,
            )
            self._publish(replace(manifest, entries=[entry], status="done"))
        except OutputError as error:
            raise self._with_last_checkpoint(error) from error
        delete(self.folder, manifest.entries)
        with contextlib.suppress(OSError):  # the run is done and safe: what cannot be tidied up is harmless
            clean(self.folder, {RESULTS}, aside=False)

    def close(self) -> None:
        """Release the lock; the folder is as the last commit or finish left it."""
        self._lock.release()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *problem) -> None:
        self.close()

    def _publish(self, manifest: Manifest) -> None:
        self._lock.check()
        manifest.save(self.folder)
        self._manifest = manifest

    def _free_name(self, kind: str, index: int, step: int, suffix: str = "") -> str:
        """A file name that no entry has: what is part of the run is never overwritten."""
        stem = {
            "report": f"report-{index:05d}",
            "series": f"series-{step:08d}{suffix}",
            "checkpoint": f"step-{step:08d}",
        }[kind]
        taken = {entry.name for entry in self._manifest.entries}
        names = (f"{FOLDERS[kind]}/{stem}{f'-{i}' if i else ''}.h5" for i in range(len(taken) + 1))
        return next(name for name in names if name not in taken)

    def _prune(self, entries: list[Entry], new_checkpoint: bool) -> tuple[list[Entry], list[Entry]]:
        """(entries to delete, entries to keep): two checkpoints stay, old series files are merged."""
        if not new_checkpoint:
            return [], entries
        checkpoints = [entry for entry in entries if entry.kind == "checkpoint"]
        old = checkpoints[:-KEPT_CHECKPOINTS]
        kept = [entry for entry in entries if entry not in old]
        oldest = kept.index(checkpoints[-KEPT_CHECKPOINTS:][0])
        for level in range(3):
            # only rows that every kept checkpoint covers: the others may have to be dropped by resume
            ripe = [entry for entry in kept[:oldest] if entry.kind == "series" and entry.level == level]
            if len(ripe) < MERGE:
                break
            for entry in ripe:
                entry.verify(self.folder)
            rows = join_series([read_segment(self.folder, entry, self.uuid) for entry in ripe])
            name = self._free_name("series", 0, ripe[-1].step, f"-merged{level + 1}")
            merged = write_segment(self.folder, self.uuid, "series", name, 0, ripe[-1].step, rows, level + 1)
            kept[kept.index(ripe[-1])] = merged
            kept = [entry for entry in kept if entry not in ripe]
            old = old + ripe
            oldest -= len(ripe) - 1
        return old, kept

    def _restore(self, identity: dict[str, Any]) -> None:
        """Go back to the newest good checkpoint: cut the list of entries after it, move the rest aside."""
        manifest = self._manifest
        if manifest.status == "done":
            clean(self.folder, {entry.name for entry in manifest.entries}, aside=False)
            return
        damage = {
            entry.name: problem for entry in manifest.entries if (problem := problem_of(self.folder, entry))
        }
        keep = 0
        for position in range(len(manifest.entries), 0, -1):
            entry = manifest.entries[position - 1]
            if entry.kind != "checkpoint" or entry.name in damage:
                continue
            covered = [e for e in manifest.entries[:position] if e.kind != "checkpoint" and e.name in damage]
            if not covered:
                self._checkpoint = (entry.step, read_segment(self.folder, entry, manifest.uuid))
                keep = position
                break
            last_hope = not any(
                e.kind == "checkpoint" and e.name not in damage for e in manifest.entries[: position - 1]
            )
            if last_hope:
                raise InputError(
                    f"{damage[covered[0].name]} No good checkpoint is older than this file, so it could"
                    f" only be made again from the beginning; for that, delete {self.folder}."
                )
        kept = [entry for entry in manifest.entries[:keep] if entry.name not in damage]
        self.messages += [f"{problem} Going back to an older checkpoint." for name, problem in damage.items()]
        level, reason, changed = resume_level(manifest, identity)
        step = self._checkpoint[0] if self._checkpoint else None
        self._manifest = replace(manifest, entries=kept, status="running")
        self.note("resumed", step=step, level=level, reason=reason, changed=changed, damaged=sorted(damage))
        where = f"from step {step}" if step is not None else "from the beginning: there is no checkpoint"
        self.messages.append(f"continuing {where} (level: {level}; {reason})")
        self._publish(self._manifest)
        for name in FOLDERS.values():
            (self.folder / name).mkdir(exist_ok=True)
        clean(self.folder, {entry.name for entry in kept}, aside=True)

    def _with_last_checkpoint(self, error: OutputError) -> OutputError:
        steps = [entry.step for entry in self._manifest.of_kind("checkpoint")]
        intact = f"the checkpoint of step {steps[-1]} is intact" if steps else "there was no checkpoint yet"
        return OutputError(f"{error} In {self.folder}, {intact}; repeating the command continues from there.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
