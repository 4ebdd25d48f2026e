"""`hpcme plot`: figures of a run, or of the merged file of a scan."""

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
    "heat": "marginal distributions over time as heat maps",
    "joint": "the joint distribution of two species at one time",
    "corner": "all pairs of up to six species at one time",
    "modes": "modes of one or two species: where they are, and their weights over time",
    "convergence": "what the solver did: steps, residuals, time spent",
    "certificate": "the certified bound of the error, and the distance to a reference",
    "scan": "one number per task of a scan, over one or two of its axes (RUN is a merged.h5)",
}

#: Which options each kind reads, besides --out.
_USES = {
    "species": ("time", "marginals", "heat", "joint", "corner", "modes", "scan"),
    "time": ("marginals", "joint", "corner", "modes", "scan"),
    "reference": ("overview", "time", "marginals", "certificate"),
    "quantity": ("scan",),
    "at": ("scan",),
}
_DEFAULT = "overview"


def options(parser: argparse.ArgumentParser) -> None:
    add_run(parser, "run folder, or its results.h5; or the merged.h5 of a scan")
    words = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    parser.add_argument(
        "--kind",
        type=one_of(KINDS),
        metavar="KIND",
        help=f"{words} (default overview, of a merged.h5 scan)",
    )
    parser.add_argument(
        "--species",
        nargs="+",
        metavar="NAME",
        help="species to show (default: the first six; modes: the two that vary most)",
    )
    parser.add_argument(
        "--time",
        type=number,
        nargs="+",
        metavar="T",
        help="stored times: up to four for marginals, else one (default: the last)",
    )
    parser.add_argument(
        "--reference",
        metavar="RUN2",
        help="another run, drawn dashed: hpcme fsp or hpcme ssa make one; certificate: its distance",
    )
    parser.add_argument(
        "--quantity",
        metavar="NAME",
        help="of a scan: mean, sd, fano, cv, or a number of the reports such as bound or entropy (default mean)",
    )
    parser.add_argument(
        "--at",
        nargs="+",
        metavar="AXIS=VALUE",
        help="of a scan: where axes stand that are not shown (default: first value)",
    )
    parser.add_argument(
        "--out", metavar="FILE", help=".png, .pdf or .svg (default: RUN-KIND.png in this folder)"
    )
    add_formats(parser, csv_too=False)


def execute(args: argparse.Namespace) -> int:
    from hpcme.analysis.plots_scan import is_merged

    merged = is_merged(args.run)
    args.kind = args.kind or ("scan" if merged else _DEFAULT)
    if merged != (args.kind == "scan"):
        what = "the merged file of a scan" if merged else "a run"
        fix = "leave --kind out" if merged else "name the merged.h5 that hpcme scan merge wrote"
        raise InputError(f"--kind {args.kind} does not go with {args.run}, which is {what}. Fix: {fix}.")
    _refuse_what_does_nothing(args)
    path = Path(args.run).absolute()
    name = path.parent.name if path.suffix == ".h5" else path.name
    out = writable(Path(args.out) if args.out else Path(f"{name}-{args.kind}.png"))
    if merged:
        out = _draw_scan(args, out)
    else:
        with open_run(args.run) as run:
            reference = open_run(args.reference) if args.reference else None
            out = _draw(args, run, reference, out)
    show(args, {"figure": str(out), "kind": args.kind}, lambda: [str(out)])
    return 0


def writable(out: Path) -> Path:
    """The file of --out, in a folder that can be written to. Raises InputError, OutputError."""
    if not out.parent.is_dir():
        raise InputError(
            f"--out {out}: there is no folder {out.parent}. Fix: make it first, or name another file."
        )
    if not os.access(out.parent, os.W_OK):
        raise OutputError(
            f"--out {out}: the folder {out.parent.absolute()} is not writable. Fix: name another file."
        )
    return out


def _refuse_what_does_nothing(args: argparse.Namespace) -> None:
    species, times = args.species or [], args.time or []
    for option, kinds in _USES.items():
        if getattr(args, option) is not None and args.kind not in kinds:
            raise InputError(
                f"--{option} has no use in a figure of kind {args.kind}. Fix: leave it out, or take another "
                "--kind."
            )
    if args.kind == "joint" and (len(species) != 2 or len(times) > 1):
        raise InputError(
            f"--kind joint shows two species at one time, seen {len(species)} species and {len(times)} "
            "times. Fix: add --species NAME NAME2, and at most one --time."
        )
    if args.kind != "marginals" and len(times) > 1:
        raise InputError(f"--kind {args.kind} shows one time, {len(times)} were given. Fix: give one --time.")
    if args.kind == "scan" and len(species) > 1:
        raise InputError(f"--kind scan shows one species, {len(species)} were given. Fix: give one --species.")


def _draw(args: argparse.Namespace, run, reference, out: Path) -> Path:
    from hpcme.analysis import plots, plots_error, plots_modes

    time = args.time[0] if args.time else None
    if args.kind == "overview":
        return plots.plot_overview(run, out, reference)
    if args.kind == "time":
        return plots.plot_time_courses(run, out, args.species, reference)
    if args.kind == "marginals":
        return plots.plot_marginals(run, out, args.species, args.time, reference)
    if args.kind == "heat":
        return plots.plot_heat(run, out, args.species)
    if args.kind == "corner":
        return plots_modes.plot_corner(run, out, args.species, time)
    if args.kind == "modes":
        return plots_modes.plot_modes(run, out, args.species, time)
    if args.kind == "convergence":
        return plots_error.plot_convergence(run, out)
    if args.kind == "certificate":
        from hpcme.analysis.compare import compare

        return plots_error.plot_certificate(run, out, compare(run, reference) if reference else None)
    return plots.plot_joint(run, out, args.species, time)


def _draw_scan(args: argparse.Namespace, out: Path) -> Path:
    from hpcme.analysis import plots_scan

    at = {}
    for word in args.at or []:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--at {word} is not of the form AXIS=VALUE. Example: --at k=0.5")
        at[name] = value
    species, time = (args.species or [None])[0], (args.time or [None])[0]
    shown = plots_scan.scan_map(args.run, args.quantity or "mean", species, time, at)
    return plots_scan.plot_scan(args.run, out, shown)


COMMANDS = (
    Command(
        "plot",
        "draw figures of a run or of a scan (needs matplotlib)",
        "hpcme plot runs/toggle --reference runs/toggle-exact --out toggle.png\n"
        "hpcme plot runs/toggle --kind joint --species Px Py --time 10\n"
        "hpcme plot runs/toggle --kind modes --species Px Py\n"
        "hpcme plot runs/scan/merged.h5 --quantity sd --species Px --at run_seed=0",
        options,
        execute,
    ),
)
