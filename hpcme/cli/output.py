"""Results on standard output: aligned tables for people, --json and --csv for programs."""

from __future__ import annotations

import argparse
import contextlib
import csv
import errno
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hpcme.errors import OutputError


class Table(NamedTuple):
    """A titled table; cells are text or numbers (None: not known)."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()


def add_formats(parser: argparse.ArgumentParser, *, csv_too: bool = True) -> None:
    """--json and --csv, which exclude each other."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help="print JSON; a value that is not known is null")
    if csv_too:
        group.add_argument("--csv", action="store_true", help="print CSV with a header, at full precision")


def show(
    args: argparse.Namespace,
    data: Any,
    text: Callable[[], Iterable[Table | str]],
    table: Callable[[], Table] | None = None,
) -> None:
    """Print in the format asked for: `data` as JSON, `table` as CSV, or `text` (tables and lines).

    Raises OutputError when standard output cannot be written.
    """
    if args.json:
        write(json_text(data))
    elif table is not None and args.csv:
        write(csv_text(table()))
    else:
        write("\n".join(_text(part) if isinstance(part, Table) else part for part in text()) + "\n")


def write(text: str) -> None:
    """Text to standard output. Raises OutputError (a full disk); a closed pipe passes as BrokenPipeError."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is left in Python's buffer would fail once more at exit, with another exit code (120).
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # BrokenPipeError, which main takes for a good end
            raise
        raise OutputError(
            f"cannot write to standard output: {error.strerror or error}. Fix: write it somewhere else."
        ) from error


def json_text(data: Any) -> str:
    """JSON of plain data and numpy arrays; NaN and infinity, which JSON lacks, become null."""
    from hpcme.analysis.statistics import plain_numbers

    return json.dumps(plain_numbers(data), indent=1, allow_nan=False) + "\n"


def csv_text(table: Table) -> str:
    """CSV with a header; None and NaN are empty, floats have all their digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows([_csv_cell(cell) for cell in row] for row in table.rows)
    return buffer.getvalue()


def _csv_cell(cell: Any) -> Any:
    if isinstance(cell, float):
        return "" if math.isnan(cell) else repr(float(cell))
    return "" if cell is None else cell


def _text(table: Table) -> str:
    """Aligned columns: numbers to the right, text to the left."""
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    right = [all(not isinstance(row[i], str) for row in table.rows) for i in range(len(table.header))]
    widths = [max([len(name), *(len(row[i]) for row in rows)]) for i, name in enumerate(table.header)]
    lines = [table.title] if table.title else []
    for row in [list(table.header), *rows]:
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    lines += [f"  {note}" for note in table.notes]
    return "\n".join(lines)


def _cell(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def with_error(value: float | None, error: float | None) -> str:
    """'12.345 +- 0.023': the error with two digits, the value to the same place; exact values stand alone."""
    if value is None or not math.isfinite(value):
        return "-"
    if not error or not math.isfinite(error):
        return f"{value:.6g}"
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{places}f} +- {error:.{places}f}" if places < 16 else f"{value:.6g} +- {error:.1e}"


def limits_text(provenance: Mapping[str, Any]) -> Iterator[str]:
    """A line about the automatic limits of a run, from its provenance; none where it has none."""
    found = provenance.get("automatic_limits")
    if found:
        automatic = [limit for limit in found["limits"] if limit["how"] != "given"]
        times = f", grown {found['grown']} time{'s' if found['grown'] > 1 else ''}" if found["grown"] else ""
        ranges = ", ".join(f"{limit['species']} 0..{limit['largest']}" for limit in automatic)
        yield f"automatic limits: {ranges}{times}"


def events_text(run) -> Iterator[str]:
    """A line about events at report times, which show the law right after them; none where there are none."""
    times = set(run.times.tolist())
    at = [f"{t:g}" for t in run.model().event_times(float(run.times[-1])) if t in times]
    if at:
        shown = ", ".join(at[:5]) + (f" and {len(at) - 5} more" if len(at) > 5 else "")
        yield f"events at t = {shown}: what stands there is right after them"


def bytes_text(size: float) -> str:
    """'1.5 MiB'."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError


def seconds_text(seconds: float) -> str:
    """'12.3 s', '4 min 05 s', '2 h 03 min', '3 d 04 h'."""
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"
