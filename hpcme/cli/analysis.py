"""`hpcme info`, `quantiles`, `modes`: what the stored laws are like."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any

from hpcme.cli.output import Table, add_formats, show, with_error
from hpcme.cli.parsing import Command, add_run, number, open_run
from hpcme.cli.query import add_samples, add_seed, add_time

UNLISTED = "of a network whose states are too many to list"


def finite(value: float) -> float | None:
    """The value, None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def method_text(table: dict[str, Any]) -> str:
    """Where the numbers of a table come from."""
    if table["kind"] == "fsp":
        return f"from the {table['method']}"
    listed = table["method"].startswith("the network's law")
    what = "without errors of sampling; hpcme stats tells" if listed else "whose errors are given; hpcme stats tells"
    return f"from {table['method']}" + (f", {what} that of the network" if table["kind"] == "network" else "")


# ---- info ----


def info_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--species", nargs="+", metavar="NAME", help="species of the tables (default: all)")
    add_time(parser)
    add_samples(parser, UNLISTED)
    add_seed(parser)
    add_formats(parser)


def info(args: argparse.Namespace) -> int:
    """Entropies, mutual information, correlations."""
    from hpcme.analysis.information import information_table

    with open_run(args.run) as run:
        table = information_table(run, args.species, args.time, samples=args.samples, seed=args.seed)
    names = table["species"]
    pairs = [(i, j) for j in range(len(names)) for i in range(j)]

    def text() -> Iterator[Table | str]:
        rows = [["all together", with_error(table["joint_entropy"], table["joint_entropy_se"])]]
        rows += [
            [name, with_error(h, se)]
            for name, h, se in zip(names, table["entropy"], table["entropy_se"], strict=True)
        ]
        total = with_error(table["total_correlation"], table["total_correlation_se"])
        yield Table(
            f"t = {table['time']:g}: entropy in nats",
            ["of", "entropy"],
            rows,
            [f"total correlation (sum of all species' entropies less the joint one): {total}", method_text(table)],
        )
        if pairs:
            columns = ("mutual_information", "correlation")
            rows = [
                [names[i], names[j], *(with_error(table[name][i, j], table[f"{name}_se"][i, j]) for name in columns)]
                for i, j in pairs
            ]
            yield Table("pairs", ["species", "and", "mutual information (nats)", "correlation"], rows)

    def everything() -> Table:
        rows: list[list[Any]] = [
            [name, "", "", finite(table[name]), finite(table[f"{name}_se"])]
            for name in ("joint_entropy", "total_correlation")
        ]
        rows += [
            ["entropy", name, "", finite(table["entropy"][i]), finite(table["entropy_se"][i])]
            for i, name in enumerate(names)
        ]
        rows += [
            [what, names[i], names[j], finite(table[what][i, j]), finite(table[f"{what}_se"][i, j])]
            for what in ("mutual_information", "correlation")
            for i, j in pairs
        ]
        return Table("", ["quantity", "species", "and", "value", "se"], rows)

    show(args, table, text, everything)
    return 0


# ---- quantiles ----


def quantiles_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--species", nargs="+", metavar="NAME", help="which species (default: all)")
    add_time(parser, many=True, of="the last")
    parser.add_argument(
        "--level",
        type=number,
        nargs="+",
        default=[0.05, 0.25, 0.5, 0.75, 0.95],
        metavar="P",
        help="levels between 0 and 1 (default 0.05 0.25 0.5 0.75 0.95)",
    )
    add_formats(parser)


def quantiles(args: argparse.Namespace) -> int:
    """Quantiles of the counts."""
    from hpcme.analysis.quantiles import quantile_table

    with open_run(args.run) as run:
        times = args.time or [float(run.times[run.index()])]
        table = quantile_table(run, args.species, args.level, times)
    rows = [
        [float(t), name, level, *(int(table[what][k, i, m]) for what in ("quantile", "low", "high"))]
        for k, t in enumerate(table["times"])
        for i, name in enumerate(table["species"])
        for m, level in enumerate(table["levels"].tolist())
    ]
    shown = Table(
        "smallest count with at least this probability up to it; low and high: 95 % confidence, of sampling only",
        ["time", "species", "level", "quantile", "low", "high"],
        rows,
    )
    show(args, table, lambda: [shown], lambda: shown)
    return 0


# ---- modes ----


def modes_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--species", nargs="+", metavar="NAME", help="one or two (default: the two that vary most)")
    add_time(parser)
    # the defaults are those of modes_table, which this module cannot ask: help must not load numpy
    parser.add_argument("--smooth", type=number, metavar="COUNTS", help="sd of the smoothing (default 2)")
    parser.add_argument(
        "--prominence",
        type=number,
        metavar="X",
        help="a mode is this much higher than any pass out of its basin (default 0.2, that is 20 %%)",
    )
    parser.add_argument("--least", type=number, metavar="P", help="probability a mode must hold (default 0.01)")
    add_samples(parser, UNLISTED)
    add_seed(parser)
    add_formats(parser)


def modes(args: argparse.Namespace) -> int:
    """Modes, and their weights over time."""
    from hpcme.analysis.modes import modes_table

    given = {name: getattr(args, name) for name in ("smooth", "prominence", "least") if getattr(args, name) is not None}
    with open_run(args.run) as run:
        table = modes_table(run, args.species, args.time, samples=args.samples, seed=args.seed, **given)
    names = table["species"]

    def text() -> Iterator[Table | str]:
        rows = [
            [
                m + 1,
                *table["peak"][m].tolist(),
                with_error(table["weight"][m], table["weight_se"][m]),
                *map(float, table["mean"][m]),
            ]
            for m in range(len(table["peak"]))
        ]
        header = ["mode", *(f"{name} at peak" for name in names), "weight", *(f"mean {name}" for name in names)]
        yield Table(f"modes of {' and '.join(names)} at t = {table['time']:g}", header, rows, [method_text(table)])
        header = ["time", *(f"mode {m + 1}" for m in range(len(table["peak"]))), "own modes"]
        pairs = zip(table["weights"], table["weights_se"], strict=True)
        shares = [[with_error(x, se) for x, se in zip(*pair, strict=True)] for pair in pairs]
        rows = [[float(t), *share, int(n)] for t, share, n in zip(table["times"], shares, table["count"], strict=True)]
        yield Table("weights of these modes over time; own modes: how many each time has by itself", header, rows)

    def everything() -> Table:
        header = ["time", "mode", *(f"peak_{name}" for name in names), "weight", "weight_se"]
        rows = [
            [float(t), m + 1, *table["peak"][m].tolist(), *(float(table[w][k, m]) for w in ("weights", "weights_se"))]
            for k, t in enumerate(table["times"])
            for m in range(len(table["peak"]))
        ]
        return Table("", header, rows)

    data = {name: value for name, value in table.items() if name not in ("basin", "tables")}
    show(args, data, text, everything)
    return 0


COMMANDS = (
    Command(
        "info",
        "entropies, mutual information and correlations",
        "hpcme info runs/toggle --time 10",
        info_options,
        info,
    ),
    Command(
        "quantiles",
        "quantiles of the counts of each species",
        "hpcme quantiles runs/toggle --species Px --level 0.05 0.5 0.95 --time 10",
        quantiles_options,
        quantiles,
    ),
    Command(
        "modes",
        "modes of one or two species, and their weights over time",
        "hpcme modes runs/toggle --species Px Py",
        modes_options,
        modes,
    ),
)
