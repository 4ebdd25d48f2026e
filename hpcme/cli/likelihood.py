"""`hpcme prob`, `loglik`: how likely a condition is, and observed counts are."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any

from hpcme.cli.analysis import UNLISTED, finite, method_text
from hpcme.cli.output import Table, add_formats, show
from hpcme.cli.parsing import Command, add_run, number, open_run
from hpcme.cli.query import add_samples, add_seed, add_time
from hpcme.errors import InputError

# ---- prob ----


def prob_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "condition",
        metavar="CONDITION",
        help='what has to hold, as in "Px > 50 and Gx == 0": species, parameters, t, + - * /, < <= == !=, and, or, not',
    )
    parser.add_argument("--given", metavar="CONDITION", help="another condition: the probability given that it holds")
    add_time(parser, many=True)
    parser.add_argument(
        "--reach",
        type=number,
        nargs="+",
        metavar="P",
        help="also tell when the probability is first at least P, and what that says about first-passage times",
    )
    add_samples(parser, UNLISTED)
    add_seed(parser)
    add_formats(parser)


def prob(args: argparse.Namespace) -> int:
    """Probability of a condition."""
    if args.reach and (args.given is not None or args.time is not None):
        raise InputError("--reach looks at all stored times and at no --given. Fix: leave --time and --given out.")
    from hpcme.analysis.conditions import probability_table
    from hpcme.analysis.passage import passage_table

    settings = {"samples": args.samples, "seed": args.seed}
    with open_run(args.run) as run:
        if args.reach:
            table = passage_table(run, args.condition, tuple(args.reach), **settings)
        else:
            table = probability_table(run, args.condition, args.given, args.time, **settings)
    more = [*(["given_probability"] if args.given else []), *(["reached"] if args.reach else [])]
    columns = ["probability", "se", *more, *(["bound"] if any(x == x for x in table["bound"]) else [])]

    def rows() -> list[list[Any]]:
        return [
            [float(t), *(finite(table[name][k]) for name in columns)] for k, t in enumerate(table["times"])
        ]

    def text() -> Iterator[Table | str]:
        title = f"P({args.condition}" + (f" | {args.given})" if args.given else ")")
        certified = "bound: certified, by which the probability is off at most, besides errors of sampling"
        notes = [certified] if "bound" in columns else []
        yield Table(title, ["time", *columns], rows(), [method_text(table), *notes, *_lost(table)])
        yield from _reached(table)

    show(args, table, text, lambda: Table("", ["time", *columns], rows()))
    return 0


def _lost(table: dict[str, Any]) -> Iterator[str]:
    gone = float(max(table["outside"], default=0.0))
    if gone > 1e-6:
        yield f"the run has lost up to {gone:.2g} of the probability past its limits, which is counted nowhere"


_CLOSED = {
    True: "no reaction leads out of the condition: P is also the probability that it was met by then (first passage)",
    False: "reactions lead out of the condition: P(met by then) is at least the column reached; more does not follow "
    "from laws at single times",
    None: "whether reactions lead out of the condition is not known (more states than can be listed, or rates or a "
    "condition that depend on time): P(met by then) is at least the column reached",
}


def _reached(table: dict[str, Any]) -> Iterator[str]:
    if "levels" not in table:
        return
    for level, first, (low, high) in zip(table["levels"], table["first"], table["between"], strict=True):
        when = "at no stored time" if math.isnan(first) else f"first at the stored time {first:g}"
        between = "" if math.isnan(low) else f" (passed between {low:g} and {high:g})"
        yield f"P >= {level:g}: {when}{between}"
    yield _CLOSED[table["closed"]]


# ---- loglik ----


def loglik_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="+", metavar="RUN", help="run folders, or their results.h5")
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE.csv",
        help="observed counts, a row each: a header of species names (some or all) and perhaps time",
    )
    add_time(parser)
    add_samples(parser, UNLISTED)
    add_seed(parser)
    add_formats(parser)


def loglik(args: argparse.Namespace) -> int:
    """Log-likelihood of observed counts under one run or several."""
    from hpcme.analysis.inference import likelihood_table, read_observations

    found = []
    for path in args.run:
        with open_run(path) as run:
            data = read_observations(args.data, run.species)
            found.append((path, likelihood_table(run, data, args.time, samples=args.samples, seed=args.seed)))
    best = max(table["loglik"] for _, table in found)
    rows = [
        [
            path, table["observations"], table["loglik"], table["loglik_se"],
            table["loglik"] - best if math.isfinite(best) else None, table["impossible"], table["unseen"],
        ]
        for path, table in found
    ]  # fmt: skip
    header = ["run", "observations", "loglik", "se", "less the best", "impossible", "unseen"]

    def text() -> Iterator[Table | str]:
        notes = list(dict.fromkeys(f"from {table['method']}" for _, table in found))
        if any(table["unseen"] for _, table in found):
            notes.append("unseen: no sample agrees with these rows, so the log-likelihood is -inf; raise --samples")
        if any(table["impossible"] for _, table in found):
            notes.append("impossible: these rows have probability zero under the law")
        yield Table(f"log-likelihood (nats) of {args.data}", header, rows, notes)

    show(args, {"data": args.data, "runs": [{"run": path, **table} for path, table in found]}, text,
         lambda: Table("", header, rows))  # fmt: skip
    return 0


COMMANDS = (
    Command(
        "prob",
        "the probability that a condition holds, at each time",
        'hpcme prob runs/toggle "Px > 50 and Gx == 0"\n'
        'hpcme prob runs/toggle "Px > 50" --given "Gx == 1" --time 10\n'
        'hpcme prob runs/epidemic "I == 0" --reach 0.5 0.9',
        prob_options,
        prob,
    ),
    Command(
        "loglik",
        "log-likelihood of observed counts, under one run or several",
        "hpcme loglik runs/a runs/b --data observed.csv --time 10",
        loglik_options,
        loglik,
    ),
)
