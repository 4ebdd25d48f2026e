"""`hpcme report`: one self-contained HTML page about a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpcme.cli.analysis import UNLISTED
from hpcme.cli.output import add_formats, bytes_text, show
from hpcme.cli.parsing import Command, add_quiet, add_run, open_run
from hpcme.cli.plot import writable
from hpcme.cli.progress import Display
from hpcme.cli.query import add_samples


def options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--reference",
        metavar="exact|ssa|RUN2",
        help="another run (of hpcme fsp or hpcme ssa best), drawn dashed, whose distance is measured; or exact or ssa, "
        "solved here and not drawn",
    )
    parser.add_argument(
        "--species",
        nargs="+",
        metavar="NAME",
        help="one or two whose modes are shown (default: the two that vary most)",
    )
    add_samples(parser, UNLISTED)
    parser.add_argument("--out", metavar="FILE.html", help="the page (default: RUN-report.html in this folder)")
    add_quiet(parser)
    add_formats(parser, csv_too=False)


def execute(args: argparse.Namespace) -> int:
    path = Path(args.run).absolute()
    name = path.parent.name if path.suffix == ".h5" else path.name
    out = writable(Path(args.out) if args.out else Path(f"{name}-report.html"))
    from hpcme.analysis.report import write_report

    with Display("hpcme report", quiet=args.quiet) as display, open_run(args.run) as run:
        known = args.reference in (None, "exact", "ssa")
        reference = args.reference if known else open_run(args.reference)
        write_report(run, out, reference, args.species, samples=args.samples, progress=display.share)
    size = out.stat().st_size
    if args.json or not args.quiet:
        show(args, {"report": str(out), "bytes": size}, lambda: [f"{out} ({bytes_text(size)}); open it in any browser"])
    return 0


COMMANDS = (
    Command(
        "report",
        "one HTML page with figures, tables, errors and how to reproduce it (needs matplotlib)",
        "hpcme report runs/toggle --reference runs/toggle-exact --out toggle.html",
        options,
        execute,
    ),
)
