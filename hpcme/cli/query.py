"""`hpcme stats`, `marginal`, `logprob`, `sample`, `compare`: what a finished (or running) run knows."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import Any

from hpcme.cli.output import Table, add_formats, show, with_error
from hpcme.cli.parsing import Command, add_run, number, open_run, whole
from hpcme.cli.run import moments, moments_csv
from hpcme.errors import InputError

_LEAST = 1e-9  # smaller probabilities at the end of a marginal are left out of the table for people
_PAIRS = 40  # most probable pairs of counts that are shown
_TELL_LOST = 1e-3  # probability lost through the limits from which on `stats` warns


def add_time(parser: argparse.ArgumentParser, *, many: bool = False, of: str = "all") -> None:
    if many:
        parser.add_argument(
            "--time", type=number, nargs="+", metavar="T", help=f"stored times (default: {of})"
        )
    else:
        parser.add_argument("--time", type=number, metavar="T", help="a stored time (default: the last)")


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="SEED", help="seed of the samples (default 0)"
    )


def add_samples(parser: argparse.ArgumentParser, of: str) -> None:
    """--samples; of: what they are."""
    parser.add_argument(
        "--samples", type=whole(1), default=100_000, metavar="N", help=f"fresh samples {of} (default 100000)"
    )


# ---- stats ----


def stats_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_time(parser, many=True)
    add_formats(parser)


def stats(args: argparse.Namespace) -> int:
    from hpcme.analysis.statistics import stats_table

    with open_run(args.run) as run:
        run.index()  # says so when there is no report yet
        table = stats_table(run, args.time)

    def text() -> Iterator[Table | str]:
        yield moments(table)._replace(notes=[*_certified(table), *_lost(table)])
        if len(table["species"]) > 1:
            yield _covariances(table, range(len(table["times"])) if args.time else [-1])

    show(args, table, text, lambda: _stats_csv(table))
    return 0


def at_most(x: float) -> str:
    """A number rounded up to two digits, so that "<= 0.032" is true of 0.0311."""
    return f"{float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(float(x)))):g}"


def confidence_text(confidence: float | None) -> str:
    """' at 99.9 %'; nothing where the confidence is not known."""
    return "" if confidence is None else f" at {100 * confidence:.8g} %"


def _certified(table: dict[str, Any]) -> Iterator[str]:
    """The certified bound and its parts, a line for each time that has one."""
    from hpcme.analysis.statistics import PARTS

    found, words = table["certificate"], {"time": "time integration"}
    for k, t in enumerate(table["times"]):
        bound = found["bound"][k] if found else None
        if bound is None:
            continue
        parts = [f"{words.get(name, name)} {at_most(found[name][k])}" for name in PARTS if found[name][k] is not None]
        yield (
            f"t = {t:g}: certified TV error <= {at_most(bound)}{confidence_text(found['confidence'])}"
            + (f": {' + '.join(parts)}" if parts else "")
            + (" (1 says nothing)" if bound >= 1.0 else "")
        )


def _lost(table: dict[str, Any]) -> Iterator[str]:
    """One line when more probability than can be overlooked went through the count limits."""
    gone = [(lost, t) for lost, t in zip(table["lost"] or (), table["times"], strict=False) if lost is not None]
    lost, t = max(gone, default=(0.0, None))
    if lost > _TELL_LOST:
        yield (
            f"warning: {lost:.2g} of the probability was lost through the count limits by t = {t:g}. "
            "Fix: raise max of the species that reach it"
        )


def _stats_csv(table: dict[str, Any]) -> Table:
    """The moments, and in the last column the certified bound at the time of the row (empty: none)."""
    plain, found = moments_csv(table), table["certificate"]
    bounds = dict(zip(table["times"], found["bound"], strict=True)) if found else {}
    return plain._replace(
        header=[*plain.header, "certified_tv"], rows=[[*row, bounds.get(row[0])] for row in plain.rows]
    )


def _covariances(table: dict[str, Any], times) -> Table:
    species, rows = table["species"], []
    for k in times:
        for i, first in enumerate(species):
            for j, second in enumerate(species[:i]):
                scale = table["sd"][k][i] * table["sd"][k][j]
                value, error = table["covariance"][k][i][j], table["covariance_se"][k][i][j]
                rows.append(
                    [
                        table["times"][k],
                        second,
                        first,
                        with_error(value, error),
                        value / scale if scale else None,
                    ]
                )
    return Table("covariances", ["time", "species", "and", "covariance", "correlation"], rows)


# ---- marginal ----


def marginal_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--species", nargs="+", required=True, metavar="NAME", help="one species, or two")
    add_time(parser)
    add_samples(parser, "behind a two-species distribution of a network run")
    add_seed(parser)
    add_formats(parser)


def marginal(args: argparse.Namespace) -> int:
    from hpcme.analysis.queries import marginal_table

    with open_run(args.run) as run:
        table = marginal_table(run, args.species, args.time, samples=args.samples, seed=args.seed)
    names, p, se = table["species"], table["probability"], table["se"]
    header = [*names, "probability", "se"]

    def rows(chosen) -> list[list[Any]]:
        return [[*map(int, n), float(p[n]), float(se[n])] for n in chosen]

    def text() -> Iterator[Table | str]:
        import numpy as np

        title = f"t = {table['time']:g} ({table['method']})"
        if len(names) == 1:
            seen = np.flatnonzero(p > _LEAST)
            last = int(seen[-1]) if len(seen) else 0
            tail = float(p[last + 1 :].sum())
            rest = [f"counts {last + 1}..{len(p) - 1}: {tail:.2g} in all"] if last + 1 < len(p) else []
            yield Table(title, header, rows((n,) for n in range(last + 1)), rest)
        else:
            order = np.argsort(-p, axis=None, kind="stable")[:_PAIRS]
            best = [tuple(n) for n in zip(*np.unravel_index(order, p.shape), strict=True) if p[tuple(n)] > 0]
            note = [
                f"the {len(best)} most probable of {p.size} pairs, together {sum(p[n] for n in best):.4g}; "
                "--csv has all"
            ]
            yield Table(title, header, rows(best), note)

    def everything() -> Table:
        import numpy as np

        return Table("", header, rows(np.ndindex(p.shape)))

    show(args, table, text, everything)
    return 0


# ---- logprob ----


def logprob_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--states",
        required=True,
        metavar="FILE.csv",
        help="states: a header of species names in any order, a row each",
    )
    add_time(parser)
    add_formats(parser)


def logprob(args: argparse.Namespace) -> int:
    from hpcme.analysis.queries import logprob_table, read_states

    with open_run(args.run) as run:
        table = logprob_table(run, args.time, read_states(args.states, run.species))
    values = table["logprob"].tolist()
    rows = [[*map(int, n), value] for n, value in zip(table["states"], values, strict=True)]
    what = Table(
        f"t = {table['time']:g}: natural logarithm of the joint probability (-inf: impossible)",
        [*table["species"], "logprob"],
        rows,
    )
    data = {**table, "impossible": [value == float("-inf") for value in values]}
    show(args, data, lambda: [what], lambda: what)
    return 0


# ---- sample ----


def sample_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "-n", type=whole(1), required=True, metavar="N", dest="count", help="how many samples"
    )
    add_time(parser)
    add_seed(parser)
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="write FILE.csv (a header of species names) or FILE.npy (int32 [N, species])",
    )
    add_formats(parser)


def sample(args: argparse.Namespace) -> int:
    out = Path(args.out) if args.out else None
    if out is not None and out.suffix not in (".csv", ".npy"):
        raise InputError(
            f'--out {out}: samples are written as .csv or .npy, not as "{out.suffix}". Fix: rename the file.'
        )
    if out is not None and not out.parent.is_dir():
        raise InputError(
            f"--out {out}: there is no folder {out.parent}. Fix: make it first, or name another file."
        )
    from hpcme.analysis.queries import sample_table

    with open_run(args.run) as run:
        table = sample_table(run, args.time, args.count, args.seed)
    rows = table["samples"]
    if out is None:
        # Samples are data: CSV is what people get too.
        args.csv = not args.json
        show(args, table, lambda: [], lambda: Table("", table["species"], rows.tolist()))
        return 0
    _write_samples(out, table["species"], rows)
    data = {"file": str(out), "samples": len(rows), "time": table["time"], "species": table["species"]}
    line = f"{len(rows)} samples of {', '.join(table['species'])} at t = {table['time']:g} written to {out}"
    summary = Table("", list(data), [[str(out), len(rows), table["time"], " ".join(table["species"])]])
    show(args, data, lambda: [line], lambda: summary)
    return 0


def _write_samples(out: Path, species: list[str], rows) -> None:
    import io

    import numpy as np

    from hpcme.cli.output import csv_text
    from hpcme.store.files import atomic_write

    if out.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, rows, allow_pickle=False)
        content = buffer.getvalue()
    else:
        content = csv_text(Table("", species, rows.tolist())).encode()
    atomic_write(out, lambda sink: sink.write(content))


COMMANDS = (
    Command(
        "stats",
        "means, standard deviations and covariances with standard errors",
        "hpcme stats runs/bd --time 1 10 --json",
        stats_options,
        stats,
    ),
    Command(
        "marginal",
        "the distribution of one species, or of two together",
        "hpcme marginal runs/toggle --species Px Py --time 10",
        marginal_options,
        marginal,
    ),
    Command(
        "logprob",
        "normalised joint log-probabilities of given states",
        "hpcme logprob runs/toggle --time 10 --states states.csv --csv",
        logprob_options,
        logprob,
    ),
    Command(
        "sample",
        "fresh samples of the joint distribution",
        "hpcme sample runs/toggle --time 10 -n 100000 --out samples.npy",
        sample_options,
        sample,
    ),
)
