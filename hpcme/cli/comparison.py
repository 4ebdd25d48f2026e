"""`hpcme compare`: how far a run is from the exact law, from trajectories or from another run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcme.cli.output import Table, add_formats, show, with_error
from hpcme.cli.parsing import Command, add_run, open_run, whole
from hpcme.cli.progress import Display
from hpcme.cli.query import add_seed, add_time, confidence_text
from hpcme.errors import InputError, did_you_mean

#: Probability lost past the limits from which on `compare` speaks of it.
_TELL_LOST = 1e-4


def compare_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--with",
        required=True,
        dest="reference",
        metavar="exact|ssa|RUN2",
        help="exact: solved here on the reachable states; ssa: simulated here; or another run",
    )
    add_time(parser, many=True, of="all, or those that both runs have")
    parser.add_argument(
        "--trajectories",
        type=whole(2),
        default=100_000,
        metavar="N",
        help="trajectories of ssa (default 100000)",
    )
    parser.add_argument(
        "--max-states",
        type=whole(1),
        default=2_000_000,
        metavar="M",
        help="most states of exact (default 2000000)",
    )
    parser.add_argument(
        "--samples",
        type=whole(2),
        default=20_000,
        metavar="N",
        help="samples of each side, network against network",
    )
    add_seed(parser)
    add_formats(parser)


def compare(args: argparse.Namespace) -> int:
    from hpcme.analysis.compare import compare as distances

    reference = args.reference
    if reference not in ("exact", "ssa") and not Path(reference).exists():
        raise InputError(
            f"--with {reference}: allowed are exact, ssa, or a run, and there is no such folder."
            + did_you_mean(reference, ("exact", "ssa"))
        )
    with open_run(args.run) as run, Display("hpcme compare") as display:
        run.index()
        found = distances(
            run,
            reference,
            args.time,
            max_states=args.max_states,
            trajectories=args.trajectories,
            seed=args.seed,
            samples=args.samples,
            progress=display.share,
        )
    show(args, found, lambda: _comparison(found, args.run), lambda: _comparison_csv(found))
    if args.json or args.csv:  # people must see it even where a program reads the numbers
        sys.stderr.writelines(f"hpcme compare: {line}\n" for line in _violation(found))
    return 0


def _violation(found: dict[str, Any]) -> list[str]:
    """The line that says that the measured error exceeds the certified one; none where it does not."""
    certificate, times = found["certificate"], found["times"]
    if not certificate["violated"]:
        return []
    rows = [times.index(t) for t in certificate["violated"]]
    worst = max(rows, key=lambda k: certificate["tv_at_least"][k] - certificate["bound"][k])
    return [
        f"the certificate is violated at t = {', '.join(f'{t:g}' for t in certificate['violated'])}: "
        f"at t = {times[worst]:g} TV is at least {certificate['tv_at_least'][worst]:.5g}, certified were at most "
        f"{certificate['bound'][worst]:.5g}{confidence_text(certificate['confidence'])}. "
        "The reference is wrong or this is a bug of hpcme: please report it"
    ]


def _comparison(found: dict[str, Any], path: str) -> Iterator[Table | str]:
    joint, floor, times = found["joint"], found["noise_floor"], found["times"]
    yield f"{path} against {found['reference']}" + ("" if found["same_model"] else "   (of another model!)")
    yield from _violation(found)
    shown = [name for name in ("tv", "hellinger", "kl", "kl_reverse", "loglik") if name in joint]
    words = {
        "tv": "TV",
        "hellinger": "Hellinger",
        "kl": "KL(ref|run)",
        "kl_reverse": "KL(run|ref)",
        "loglik": "log-likelihood",
    }
    rows = [[t, *(_joint(joint, name, k) for name in shown), joint["method"][k]] for k, t in enumerate(times)]
    header = ["time", *(words[name] for name in shown), "from"]
    certificate = found["certificate"]
    if any(bound is not None for bound in certificate["bound"]):
        header[2:2] = [f"certified{confidence_text(certificate['confidence'])}", "certified/TV"]
        for row, *cells in zip(rows, certificate["bound"], certificate["looseness"], strict=True):
            row[2:2] = cells
    notes: dict[str, list[str]] = {}
    for name, why in joint["reasons"].items():
        notes.setdefault(why, []).append(words.get(name, name))
    if "certified/TV" in header and "looseness" in certificate["reasons"]:
        notes.setdefault(certificate["reasons"]["looseness"], []).append("certified/TV")
    remarks = [f"{', '.join(names)}: {why}" for why, names in notes.items()]
    gone = max((value or 0.0 for value in joint.get("reference_outside", [])), default=0.0)
    if gone > _TELL_LOST:
        remarks.append(
            f"the reference has lost up to {gone:.2g} of its probability past the limits, where the network has walls; "
            "that is part of TV: raise max of the species that reach it"
        )
    yield Table("joint distribution", header, rows, remarks)
    rows = []
    for k, t in enumerate(times):
        worst = max(found["species"], key=lambda name: found["marginals"][name]["tv"][k])
        apart, noise = found["marginals"][worst], floor["marginals"][worst]
        rows.append([t, worst, apart["tv"][k], noise["tv"][k], apart["hellinger"][k], noise["hellinger"][k]])
    yield Table(
        "worst marginal (floor: what sampling noise alone would show)",
        ["time", "species", "TV", "floor", "Hellinger", "floor"],
        rows,
    )
    rows = []
    for k, t in enumerate(times):
        mean, sd = _worst(found, "mean_error", k), _worst(found, "sd_error", k)
        rows.append([t, *mean, *sd])
    yield Table(
        "largest relative error of a mean and of an sd",
        ["time", "species", "mean", "floor", "species", "sd", "floor"],
        rows,
    )


def _joint(joint: dict[str, Any], name: str, k: int) -> Any:
    errors = joint.get(f"{name}_se")
    return (
        joint[name][k] if errors is None or joint[name][k] is None else with_error(joint[name][k], errors[k])
    )


def _worst(found: dict[str, Any], what: str, k: int) -> list[Any]:
    values = found[what][k]
    i = max(range(len(values)), key=lambda i: values[i])
    return [found["species"][i], values[i], found["noise_floor"][what][k][i]]


def _comparison_csv(found: dict[str, Any]) -> Table:
    """One row per time: joint metrics, then each species' distances, errors and floors."""
    joint, floor, species = found["joint"], found["noise_floor"], found["species"]
    metrics = [name for name, values in joint.items() if isinstance(values, list)]
    certificate = found["certificate"]
    header = ["time", *metrics, "certified_tv", "looseness"]
    for name in species:
        header += [f"tv_{name}", f"tv_floor_{name}", f"hellinger_{name}", f"hellinger_floor_{name}"]
        header += [f"mean_error_{name}", f"mean_floor_{name}", f"sd_error_{name}", f"sd_floor_{name}"]
    rows = []
    for k, t in enumerate(found["times"]):
        row = [t, *(joint[name][k] for name in metrics), certificate["bound"][k], certificate["looseness"][k]]
        for i, name in enumerate(species):
            for metric in ("tv", "hellinger"):
                row += [found["marginals"][name][metric][k], floor["marginals"][name][metric][k]]
            for metric in ("mean_error", "sd_error"):
                row += [found[metric][k][i], floor[metric][k][i]]
        rows.append(row)
    return Table("", header, rows)


COMMANDS = (
    Command(
        "compare",
        "distances to the exact law, to trajectories or to another run",
        "hpcme compare runs/toggle --with exact --time 10",
        compare_options,
        compare,
    ),
)
