"""`hpcme plot`: figures of a run."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hpcme.cli.output import add_formats, show
from hpcme.cli.parsing import Command, add_run, number, one_of, open_run
from hpcme.errors import InputError, OutputError

KINDS = {
    "overview": "time courses, and the marginals at the last time",
    "time": "mean and standard deviation of each species over time",
    "marginals": "marginal distributions at up to four times",
    "heat": "the distribution of one species over time",
    "joint": "the joint distribution of two species at one time",
}


def options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    words = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    parser.add_argument(
        "--kind",
        type=one_of(KINDS),
        default="overview",
        metavar="KIND",
        help=f"{words} (default overview)",
    )
    parser.add_argument(
        "--species", nargs="+", metavar="NAME", help="species to show (default: the first six)"
    )
    parser.add_argument(
        "--time", type=number, nargs="+", metavar="T", help="stored times, for marginals and joint"
    )
    parser.add_argument(
        "--reference", metavar="RUN2", help="another run, drawn dashed: hpcme fsp or hpcme ssa make one"
    )
    parser.add_argument(
        "--out", metavar="FILE", help=".png, .pdf or .svg (default: RUN-KIND.png in this folder)"
    )
    add_formats(parser, csv_too=False)


def execute(args: argparse.Namespace) -> int:
    _refuse_what_does_nothing(args)
    path = Path(args.run).absolute()
    name = path.parent.name if path.suffix == ".h5" else path.name
    out = Path(args.out) if args.out else Path(f"{name}-{args.kind}.png")
    if not out.parent.is_dir():
        raise InputError(
            f"--out {out}: there is no folder {out.parent}. Fix: make it first, or name another file."
        )
    if not os.access(out.parent, os.W_OK):
        raise OutputError(
            f"--out {out}: the folder {out.parent.absolute()} is not writable. Fix: name another file."
        )
    with open_run(args.run) as run:
        reference = open_run(args.reference) if args.reference else None
        out = _draw(args, run, reference, out)
    show(args, {"figure": str(out), "kind": args.kind}, lambda: [str(out)])
    return 0


def _refuse_what_does_nothing(args: argparse.Namespace) -> None:
    species, times = args.species or [], args.time or []
    uses = {
        "species": args.kind != "overview",
        "time": args.kind in ("marginals", "joint"),
        "reference": args.kind in ("overview", "time", "marginals"),
    }
    for option, used in uses.items():
        if getattr(args, option) is not None and not used:
            raise InputError(
                f"--{option} has no use in a figure of kind {args.kind}. Fix: leave it out, or take another "
                "--kind."
            )
    if args.kind == "heat" and len(species) != 1:
        raise InputError(
            f"--kind heat shows one species, {len(species)} were given. Fix: add --species NAME."
        )
    if args.kind == "joint" and (len(species) != 2 or len(times) > 1):
        raise InputError(
            f"--kind joint shows two species at one time, seen {len(species)} species and {len(times)} "
            "times. Fix: add --species NAME NAME2, and at most one --time."
        )


def _draw(args: argparse.Namespace, run, reference, out: Path) -> Path:
    from hpcme.analysis import plots

    if args.kind == "overview":
        return plots.plot_overview(run, out, reference)
    if args.kind == "time":
        return plots.plot_time_courses(run, out, args.species, reference)
    if args.kind == "marginals":
        return plots.plot_marginals(run, out, args.species, args.time, reference)
    if args.kind == "heat":
        return plots.plot_heat(run, out, args.species[0])
    return plots.plot_joint(run, out, args.species, args.time[0] if args.time else None)


COMMANDS = (
    Command(
        "plot",
        "draw figures of a run (needs matplotlib)",
        "hpcme plot runs/toggle --reference runs/toggle-exact --out toggle.png\n"
        "hpcme plot runs/toggle --kind joint --species Px Py --time 10",
        options,
        execute,
    ),
)
