"""`hpcme status` and `hpcme verify`: where runs stand, and whether their files are whole."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcme.cli.output import Table, add_formats, show
from hpcme.cli.parsing import Command, add_run
from hpcme.errors import InputError

if TYPE_CHECKING:
    from hpcme.store.files import Manifest


def status_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", metavar="DIR", nargs="+", help="run folders, or folders that hold run folders"
    )
    add_formats(parser)


def status(args: argparse.Namespace) -> int:
    """One line per run; a run that cannot be read is a line too."""
    rows = [_row(folder) for place in args.folders for folder in _runs_in(Path(place))]
    header = ["folder", "state", "kind", "t", "end", "step", "bound", "last_commit", "remark"]
    table = Table("", header, [[row[name] for name in header] for row in rows])
    show(args, rows, lambda: [table], lambda: table)
    return 0


def _runs_in(place: Path) -> list[Path]:
    """The folder itself when it is a run, else the runs one level below it."""
    from hpcme.store.files import MANIFEST

    if not place.is_dir():
        raise InputError(
            f"{place}: there is no such folder. Fix: name run folders, or a folder that holds some."
        )
    if (place / MANIFEST).exists():
        return [place]
    found = sorted(folder.parent for folder in place.glob(f"*/{MANIFEST}"))
    if not found:
        raise InputError(
            f"{place} is no run folder and holds none (no {MANIFEST}). Fix: name the folder given to --out."
        )
    return found


def _row(folder: Path) -> dict[str, Any]:
    from hpcme.store.files import LIMITS, MANIFEST, Manifest, MissingFile
    from hpcme.store.standing import state_of

    try:
        manifest = Manifest.load(folder)
    except InputError as error:
        empty = dict.fromkeys(("kind", "t", "end", "step", "bound", "bound_t", "last_commit"))
        return {"folder": str(folder), "state": "damaged", **empty, "remark": str(error)}
    state, remark = state_of(folder, manifest)
    remarks = [remark] if remark else []
    grown = manifest.provenance.get(LIMITS, {}).get("grown", 0)
    if grown:
        remarks.append(f"automatic limits grew {grown} time{'s' if grown > 1 else ''}")
    t = bound = bound_t = None
    try:
        t = _reached(folder, manifest)
        bound, bound_t = _bound(folder, manifest)
    except MissingFile as error:
        if Manifest.load(folder) != manifest:
            return _row(folder)  # the run moved on while it was looked at
        remarks.append(str(error))
    except InputError as error:
        remarks.append(str(error))
    if bound is not None and bound_t != t:
        remarks.append(f"the bound is that of t = {bound_t:g}")
    when = datetime.fromtimestamp((folder / MANIFEST).stat().st_mtime).astimezone()
    return {
        "folder": str(folder),
        "state": state,
        "kind": manifest.kind,
        "t": t,
        "end": manifest.report_times[-1],
        "step": manifest.entries[-1].step if manifest.entries else None,
        "bound": bound,
        "bound_t": bound_t,
        "last_commit": when.isoformat(sep=" ", timespec="seconds"),
        "remark": "; ".join(remarks),
    }


def _reached(folder: Path, manifest: Manifest) -> float | None:
    """Time of the last step on the disk; None when there is none. Raises InputError for a damaged file."""
    if manifest.status == "done":
        return manifest.report_times[-1]
    times = _last_rows(folder, manifest).get("t", ())
    return float(times[-1]) if len(times) else None


def _last_rows(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The newest file of series rows, checked; {} when there is none. Raises InputError for a damaged file."""
    from hpcme.store.segments import read_segment

    rows = manifest.of_kind("series")
    if not rows:
        return {}
    rows[-1].verify(folder)
    return read_segment(folder, rows[-1], manifest.uuid)


def _bound(folder: Path, manifest: Manifest) -> tuple[float | None, float | None]:
    """The newest certified bound of the TV error on the disk, and its time; (None, None) when there is none.

    Raises InputError for a damaged file.
    """
    import math

    from hpcme.store.sources import ResultsSource, SegmentSource

    results = manifest.of_kind("results")
    if results:
        results[0].check_size(folder)
        with ResultsSource(folder / results[0].name) as source:
            series, last = source.series(), source.report(source.number - 1, {"small"})
    else:
        segments = SegmentSource(folder, manifest)
        series = _last_rows(folder, manifest)
        last = segments.report(segments.number - 1, {"small"}) if segments.number else None
    columns = (series.get(name, ()) for name in ("t", "certificate"))
    found = [(float(t), float(bound)) for t, bound in zip(*columns, strict=False)]
    found += [(last.time, last.extra["bound"])] if last is not None and "bound" in last.extra else []
    t, bound = max((pair for pair in found if math.isfinite(pair[1])), default=(None, None))
    return bound, t


def verify_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_formats(parser, csv_too=False)


def verify(args: argparse.Namespace) -> int:
    """Exit code 0 when every file is whole, else 65 with the problems. A results.h5 may stand alone."""
    from hpcme.store.files import Manifest
    from hpcme.store.reader import verify_run

    place = Path(args.run)
    problems = verify_run(place)
    if place.is_dir():
        manifest = Manifest.load(place)
        state, files, total = manifest.status, len(manifest.entries), sum(entry.bytes for entry in manifest.entries)
    else:
        state, files, total = "done", 1, place.stat().st_size
    data = {"folder": args.run, "status": state, "files": files, "bytes": total, "problems": problems}
    if problems and not args.json:
        raise InputError(f"{args.run}: {len(problems)} of {files} files are not whole:\n" + "\n".join(problems))
    show(args, data, lambda: [f"{args.run}: all {files} files are whole ({total} bytes), status {state}"])
    return InputError.exit_code if problems else 0


COMMANDS = (
    Command(
        "status",
        "one line per run: state, time, step, last commit",
        "hpcme status runs",
        status_options,
        status,
    ),
    Command(
        "verify",
        "check every byte of a run, or of a results.h5 alone, by checksums",
        "hpcme verify runs/bd",
        verify_options,
        verify,
    ),
)
