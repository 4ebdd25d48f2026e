"""The nine systems of Tang, Weng, Zhang, Nature Machine Intelligence 5, 376 (2023), with all their variants: one table
and the figures, computed from nothing.

    python jobs/reproduce.py [--out runs/paper] [--only NAME ...] [--figures jobs/figures]

Runs the jobs one after another (`hpcme run`, in processes of their own) and compares each with what is known about it:
the exact law where the states can be listed, the closed form of cascade_linear, an ensemble of trajectories for the
other cascades. Writes table.md and table.csv (all that is known of each) into --out, and the figures. Some 20 minutes
on two threads of a core (2026-11-27), more than half of them for cascade_hill and its trajectories.

Repeating the command continues: runs, references and comparisons that are finished are used as they are. A job that
fails gives a row that says so; the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import scipy.stats

import hpcme
from hpcme.analysis.distances import hellinger, sampled_joint, tabulated_joint
from hpcme.analysis.laws import law_of
from hpcme.errors import HpcmeError, InputError, did_you_mean
from hpcme.exact.fsp import solve_fsp
from hpcme.kernels.neighbours import outflow
from hpcme.store.moments import histogram
from hpcme.store.reader import Run
from hpcme.store.reference import write_fsp_run
from hpcme.store.writer import RunWriter

JOBS = Path(__file__).resolve().parent
_SAMPLES = 1_000_000  # drawn from a network whose states cannot be listed, per report time: little noise of their own
_DRAWN = 100_000  # drawn from a closed form
_MEANS_FROM = 0.05  # means below this have no relative error worth telling
_MEANS_WITHIN = 0.005, 3.0  # relative error, and standard errors: a mean is held where it is within either
_AGAIN = 400  # times that sampling is repeated, to see how far apart two ensembles of one law are
_CURVE = 40  # times of an exact law, besides the report times: for smooth curves in figures


@dataclass(frozen=True)
class Case:
    """One job: its file, the system it belongs to, what is special about it, and what it is compared with."""

    job: str
    system: str
    variant: str
    reference: str  # "exact" | "poisson" | "ssa"


CASES = tuple(
    Case(*words)
    for words in (
        ("birth_death", "birth_death", "", "exact"),
        ("gene_expression", "gene_expression", "set 1", "exact"),
        ("gene_expression_swapped", "gene_expression", "set 1, p before r", "exact"),
        ("gene_expression_bursts", "gene_expression", "set 2 (bursts)", "exact"),
        ("gene_expression_bursts_swapped", "gene_expression", "set 2, p before r", "exact"),
        ("autoregulation", "autoregulation", "set 1", "exact"),
        ("autoregulation_2", "autoregulation", "set 2", "exact"),
        ("autoregulation_3", "autoregulation", "set 3", "exact"),
        ("toggle_switch_long", "toggle_switch", "combinatorial", "exact"),
        ("toggle_switch_power", "toggle_switch", "power", "exact"),
        ("early_life_small", "early_life", "V = 0.1", "exact"),
        ("early_life", "early_life", "V = 1", "exact"),
        ("early_life_large", "early_life", "V = 10", "exact"),
        ("epidemic_constant", "epidemic", "eps = 0", "exact"),
        ("epidemic", "epidemic", "eps = 0.2", "exact"),
        ("epidemic_strong", "epidemic", "eps = 0.6", "exact"),
        ("cascade_linear", "cascade_linear", "source first", "poisson"),
        ("cascade_linear_reversed", "cascade_linear", "source last", "poisson"),
        ("cascade_hill", "cascade_hill", "", "ssa"),
        ("cascade_feedback", "cascade_feedback", "", "ssa"),
    )
)

#: What a row holds: its key, the heading in table.md, and how a number is written there; the worst of all report times.
COLUMNS = {
    "system": ("system", str),
    "variant": ("variant", str),
    "reference": ("compared with", str),
    "species": ("species", str),
    "states": ("states", str),
    "steps": ("steps", str),
    "seconds": ("seconds in steps", "{:.3g}".format),
    "tv": ("joint TV", "{:.2g}".format),
    "kl": ("KL(reference, network)", "{:.2g}".format),
    "hellinger": ("Hellinger distance of a marginal", "{:.2g}".format),
    "hellinger_floor": ("its noise floor", "{:.2g}".format),
    "ratio": ("Hellinger distance / noise floor, at each time (95 % of what sampling alone gives)", str),
    "mean_error": ("relative error of a mean of 0.05 or more", "{:.2g}".format),
    "mean_noise": ("its standard error", "{:.2g}".format),
    "means_off": ("means off by more than 0.5 % and 3 standard errors", str),
    "bound": ("certified bound of the TV", "{:.2g}".format),
    "remark": ("remark", str),
}
#: table.md: rows against an exact law, and the others, whose distances are sampled.
EXACT = "system", "variant", "species", "states", "steps", "seconds", "tv", "kl", "hellinger", "mean_error", "bound"
SAMPLED = "system", "variant", "reference", "states", "steps", "seconds", "tv", "kl", "means_off", "ratio"


class Failure(Exception):
    """Why a case has no numbers, in one line."""


# ---- runs and references -------------------------------------------------------------------------------------------


def command(words: list[str], log: Path) -> None:
    """Run `hpcme WORDS` in a process of its own; everything it prints goes to the log. Raises Failure."""
    with log.open("ab") as sink:
        code = subprocess.run([sys.executable, "-m", "hpcme", *words], stdout=sink, stderr=sink).returncode
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it printed nothing"]
        raise Failure(f"hpcme {words[0]} ended with exit code {code}: {lines[-1]} (see {log})")


def job_words(case: Case, share: float) -> list[str]:
    """The words that name a job, cut off at a share of its horizon."""
    path = JOBS / f"{case.job}.toml"
    if share == 1.0:
        return [str(path)]
    job = hpcme.load_job(path)
    times = [float(t) for t in share * job.report_times]
    return [str(path), "--end", repr(times[-1]), "--set", f"time.report={times}"]


def solve_exactly(run: Run, folder: Path) -> None:
    """The exact law within the limits of the run's model, walls included as the network has them; solved once."""
    net, end = run.model(), float(run.times[-1])
    grid = np.linspace(0.0, end, _CURVE + 1)
    between = np.abs(grid[:, None] - run.times[None, :]).min(axis=1) > 1e-6 * end
    times = np.sort(np.concatenate([run.times, grid[between]]))
    text = json.dumps({"reference": "fsp", "walls": True, "time.report": times.tolist()})
    identity = {
        "kind": "fsp", "model_text": net.text, "model_hash": net.hash, "job_text": text,
        "job_hash": hashlib.sha256(text.encode()).hexdigest(), "species": list(net.species),
        "limits": net.limits.tolist(), "report_times": times.tolist(), "units": {"time": net.time_unit},
    }  # fmt: skip
    if not RunWriter.is_finished(folder, identity):
        found = solve_fsp(net, times, reflecting=True)
        write_fsp_run(folder, identity, found.times, found.states, found.p, found.lost, {"method": found.method})


class Poisson:
    """The closed form of a network of first-order reactions that starts empty: a product of Poisson laws (Jahnke and
    Huisinga 2007) with dm/dt = M m + b, read off the propensities of one molecule and of none. Where figures ask, it
    looks like an exact run."""

    kind, uuid = "fsp", ""

    def __init__(self, run: Run) -> None:
        net, self.limits = run.model(), run.limits
        self.species_index = run.species_index
        states = np.vstack([np.zeros(net.S, dtype=np.int32), np.eye(net.S, dtype=np.int32)])
        a, _ = outflow(net.tables, states, net.s, net.limits, 0.0)
        self._drift = np.zeros((net.S + 1, net.S + 1))
        self._drift[: net.S, net.S] = a[0] @ net.s
        self._drift[: net.S, : net.S] = ((a[1:] - a[0]) @ net.s).T
        self.times = np.linspace(0.0, float(run.times[-1]), _CURVE + 1)
        self.mean = np.array([self.means(t) for t in self.times])
        self.sd = np.sqrt(self.mean)

    def means(self, t: float) -> np.ndarray:
        """Means at t, float64 [S]; without limits."""
        return scipy.linalg.expm(self._drift * t)[:-1, -1]

    def marginal(self, species: str | int, t: float) -> np.ndarray:
        """Law of one species at t within its limit, float64 [limit + 1]."""
        i = self.species_index(species)
        pmf = scipy.stats.poisson.pmf(np.arange(self.limits[i] + 1), self.means(t)[i])
        return pmf / pmf.sum()


def reference_of(case: Case, run: Run, out: Path) -> Run | Poisson:
    """What a finished run is compared with; InputError where it is not there."""
    return Poisson(run) if case.reference == "poisson" else hpcme.open_run(out / f"{case.job}-{case.reference}")


def solved(case: Case, out: Path, share: float, trajectories: int) -> tuple[Run, Run | Poisson]:
    """The finished run of a case and its reference. Raises Failure and HpcmeError."""
    folder, words = out / case.job, job_words(case, share)
    command(["run", *words, "--out", str(folder)], out / f"{case.job}.log")
    run = hpcme.open_run(folder)
    other = out / f"{case.job}-{case.reference}"
    if case.reference == "exact":
        solve_exactly(run, other)
    elif case.reference == "ssa":
        counted = ["--trajectories", str(trajectories)]
        command(["ssa", *words, *counted, "--out", str(other)], out / f"{case.job}-ssa.log")
    return run, reference_of(case, run, out)


# ---- distances at one time -----------------------------------------------------------------------------------------


def against_exact(run: Run, exact: Run, t: float) -> dict[str, float]:
    """Distances by sums over all states: no sampling noise."""
    states, p = exact.fsp_states(), exact.probability(t)
    logq = law_of(run, t).log_prob(states)
    q = np.exp(logq)
    joint = tabulated_joint(p, logq)
    apart = [hellinger(np.bincount(n, q), np.bincount(n, p)) for n in states.T]
    means = mean_error(q @ states, p @ states, np.zeros(run.S))
    return {"tv": joint["tv"], "kl": joint["kl"], "hellinger": max(apart), **means}


def against_poisson(run: Run, exact: Poisson, t: float) -> dict[str, float]:
    """Distances to a product of Poisson laws, cut off at the limits: sums are sampled."""
    lam, limits = exact.means(t), run.limits
    n = np.random.default_rng(1).poisson(lam, size=(_DRAWN, run.S))
    n = n[(n <= limits).all(axis=1)].astype(np.int32)
    logp = (scipy.stats.poisson.logpmf(n, lam) - scipy.stats.poisson.logcdf(limits, lam)).sum(axis=1)
    law = law_of(run, t)
    logq = law.log_prob(n)
    joint = sampled_joint(logp, logq)
    drawn = law.sample(_SAMPLES, seed=1)
    laws = [exact.marginal(i, t) for i in range(run.S)]
    apart = [hellinger(histogram(drawn[:, i], None, len(pmf)) / _SAMPLES, pmf) for i, pmf in enumerate(laws)]
    again = [noise_of(pmf, (_SAMPLES,), i) for i, pmf in enumerate(laws)]
    # Of a species that no sample has, the samples do not know their noise: the Poisson law does.
    noise = np.sqrt(np.maximum(drawn.var(axis=0), lam) / _SAMPLES)
    return {"tv": joint["tv"], "kl": divergence(logp, logq)[0], **marginals(apart, again),
            **mean_error(drawn.mean(axis=0), lam, noise)}  # fmt: skip


def against_ssa(run: Run, ssa: Run, t: float) -> dict[str, float]:
    """Distances to trajectories, which know no joint probabilities: marginals and means, both sides sampled."""
    drawn, seen = law_of(run, t).sample(_SAMPLES, seed=1), ssa.samples(t)
    apart, again = [], []
    for i in range(run.S):
        length = 1 + max(int(drawn[:, i].max()), int(seen[:, i].max()))
        q, p = (histogram(n[:, i], None, length) for n in (drawn, seen))
        apart.append(hellinger(q / len(drawn), p / len(seen)))
        again.append(noise_of((q + p) / (len(drawn) + len(seen)), (len(drawn), len(seen)), i))
    noise = np.sqrt(drawn.var(axis=0) / len(drawn) + seen.var(axis=0) / len(seen))
    return {**marginals(apart, again), **mean_error(drawn.mean(axis=0), seen.mean(axis=0), noise)}


def noise_of(pmf: np.ndarray, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """Hellinger distances between the histograms of two ensembles (or of one, and the law) of one law pmf float64 [L],
    drawn anew again and again: float64 [_AGAIN]. The seeds of different species differ."""
    rng = np.random.default_rng([1, seed])
    roots = [np.sqrt(rng.multinomial(size, pmf, size=_AGAIN) / size) for size in sizes]
    other = roots[1] if len(roots) > 1 else np.sqrt(pmf)
    return np.sqrt(0.5 * ((roots[0] - other) ** 2).sum(axis=1))


def marginals(apart: list[float], again: list[np.ndarray]) -> dict[str, float]:
    """What the table tells of the marginals' Hellinger distances, and what sampling alone gives, float64 [_AGAIN] each.

    The floor is the root mean square of the latter. `ratio_noise` is the 95 % quantile of `ratio` where there is
    nothing but noise: of many marginals, one is easily at 1.5 of its floor.
    """
    worst = int(np.argmax(apart))
    if not np.any(again):
        return {"hellinger": apart[worst], "hellinger_floor": 0.0, "ratio": 0.0, "ratio_noise": 0.0}
    told = np.array([found.any() for found in again])  # the others stand still
    noise = np.stack(again)[told]
    floor = np.sqrt((noise**2).mean(axis=1))
    return {
        "hellinger": apart[worst],
        "hellinger_floor": float(np.sqrt((again[worst] ** 2).mean())),
        "ratio": float((np.array(apart)[told] / floor).max()),
        "ratio_noise": float(np.quantile((noise / floor[:, None]).max(axis=0), 0.95)),
    }


def divergence(logp: np.ndarray, logq: np.ndarray) -> tuple[float, float]:
    """KL(p || q) and its standard error, from log-probabilities float64 [N] at samples of p.

    For laws without other states than p's, for which E[q/p] = 1 and KL is the mean of q/p - 1 - log q/p too: where
    they are close, that has next to no noise.
    """
    part = np.expm1(logq - logp) - (logq - logp)
    return float(part.mean()), float(part.std() / np.sqrt(len(part)))


def mean_error(ours: np.ndarray, right: np.ndarray, noise: np.ndarray) -> dict[str, float]:
    """Largest relative error of a mean that is not next to nothing, and the standard error there; how many of all means
    are neither within 0.5 % nor within 3 standard errors. Arrays are [S]."""
    told = right >= _MEANS_FROM
    off = np.abs(ours - right)
    relative = np.where(told, off / np.where(told, right, 1.0), 0.0)
    i = int(relative.argmax())
    within, errors = _MEANS_WITHIN
    return {
        "mean_error": float(relative[i]), "mean_noise": float(noise[i] / right[i]) if told[i] else 0.0,
        "means_off": int((off > np.maximum(within * right, errors * noise)).sum()),
    }  # fmt: skip


DISTANCES: dict[str, Callable] = {"exact": against_exact, "poisson": against_poisson, "ssa": against_ssa}


# ---- rows ----------------------------------------------------------------------------------------------------------


def row_of(case: Case, run: Run, reference: Run | Poisson) -> dict[str, Any]:
    """One row of the table: facts of the run, and of every distance the worst report time."""
    found = [DISTANCES[case.reference](run, reference, float(t)) for t in run.times[1:]]
    series, bound = run.series(), run.extra().get("bound", [np.nan])[-1]
    box = float(np.prod(run.limits + 1.0))
    row = {
        "system": case.system, "variant": case.variant, "species": run.S,
        "states": len(reference.fsp_states()) if case.reference == "exact" else f"{box:.0e} box".replace("e+", "e"),
        "steps": len(series["step"]), "seconds": float(series["wall"].sum()),
        "bound": float(bound) if np.isfinite(bound) else None, "remark": "",
        "reference": {"exact": "exact", "poisson": "closed form"}.get(case.reference) or
        f"{len(reference.events)} trajectories",
    }  # fmt: skip
    for metric, beside in (("tv", None), ("kl", None), ("hellinger", "hellinger_floor"), ("mean_error", "mean_noise")):
        known = [at for at in found if at.get(metric) is not None]
        worst = max(known, key=lambda at: at[metric], default={})
        row[metric] = worst.get(metric)
        if beside:
            row[beside] = worst.get(beside)
    if "ratio" in found[0]:
        row["ratio"] = ", ".join(f"{at['ratio']:.2f} ({at['ratio_noise']:.2f})" for at in found)
    row["means_off"] = f"{sum(at['means_off'] for at in found)} of {len(found) * run.S}"
    return row


def stored_row(case: Case, out: Path, run: Run, reference: Run | Poisson) -> dict[str, Any]:
    """The row of these very runs, computed once."""
    path = out / f"{case.job}-row.json"
    key = [run.uuid, reference.uuid, _SAMPLES, _AGAIN, *_MEANS_WITHIN]
    stored = read_row(case, out)
    if stored is None or stored["key"] != key:
        stored = {"key": key, "row": row_of(case, run, reference)}
        path.write_text(json.dumps(stored, indent=1), encoding="utf-8")
    return stored["row"]


def read_row(case: Case, out: Path) -> dict[str, Any] | None:
    """What stored_row stored, or None where there is nothing to be read."""
    try:
        return json.loads((out / f"{case.job}-row.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_table(rows: list[dict[str, Any]], out: Path) -> str:
    """table.md and table.csv; returns the markdown. The CSV holds all numbers of a row, in full."""
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as sink:
        writer = csv.DictWriter(sink, list(COLUMNS))
        writer.writeheader()
        writer.writerows({key: row.get(key) for key in COLUMNS} for row in rows)
    good = [row for row in rows if not row["remark"]]
    exact = [row for row in good if row["reference"] == "exact"]
    parts = [markdown(exact, EXACT), markdown([row for row in good if row not in exact], SAMPLED)]
    parts += [f"{row['system']} {row['variant']}: {row['remark']}\n" for row in rows if row["remark"]]
    text = "\n".join(part for part in parts if part)
    (out / "table.md").write_text(text, encoding="utf-8")
    return text


def markdown(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> str:
    """A table of some columns; empty without rows."""

    def cell(row: dict[str, Any], key: str) -> str:
        value = row.get(key)
        return "-" if value in (None, "") else str(COLUMNS[key][1](value)).replace("|", "\\|")

    lines = ["| " + " | ".join(COLUMNS[key][0] for key in keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(cell(row, key) for key in keys) + " |" for row in rows]
    return "\n".join(lines) + "\n" if rows else ""


# ---- the command ---------------------------------------------------------------------------------------------------


def chosen(names: Iterable[str] | None) -> list[Case]:
    """Cases by names of jobs or systems (None: all). Raises InputError for a name that is neither."""
    allowed = sorted({case.job for case in CASES} | {case.system for case in CASES})
    for name in names or ():
        if name not in allowed:
            raise InputError(f'--only {name}: no such job or system.{did_you_mean(name, allowed)} There are: '
                             f"{', '.join(allowed)}.")  # fmt: skip
    return [case for case in CASES if names is None or case.job in names or case.system in names]


def draw(systems: list[str], out: Path, figures: Path) -> list[str]:
    """Figures of the systems, from all of their runs that are finished; returns what went wrong."""
    from reproduce_figures import draw_system

    problems = []
    for system in systems:
        found = []
        for case in (case for case in CASES if case.system == system):
            try:
                run = hpcme.open_run(out / case.job)
                if run.status == "done":
                    found.append((case, run, reference_of(case, run, out)))
            except InputError:
                pass  # not run, or failed: its row says so
        try:
            for path in draw_system(system, found, figures) if found else ():
                print(f"reproduce: {path}", flush=True)
        except (HpcmeError, OSError) as error:
            problems.append(f"figures of {system}: {error}")
    return problems


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder of all runs and of the table")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="jobs or systems; default: all")
    parser.add_argument("--figures", type=Path, default=JOBS / "figures", help="folder of the figures")
    parser.add_argument("--share", type=float, default=1.0, help="solve only this share of each horizon: a quick look")
    parser.add_argument("--trajectories", type=int, default=100_000, help="of an ensemble (default 100000)")
    options = parser.parse_args(argv)
    if not 0.0 < options.share <= 1.0:
        parser.error(f"--share {options.share:g} must be above 0 and at most 1")
    try:
        cases = chosen(options.only)
        options.out.mkdir(parents=True, exist_ok=True)
    except (InputError, OSError) as error:
        parser.error(str(error))
    failed: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    for number, case in enumerate(cases, 1):
        print(f"reproduce: {number} of {len(cases)}: {case.job}", flush=True)
        try:
            pair = solved(case, options.out, options.share, options.trajectories)
            rows[case.job] = stored_row(case, options.out, *pair)
        except (Failure, HpcmeError, OSError, MemoryError) as error:
            failed[case.job] = f"FAILED: {str(error) or type(error).__name__}"
            print(f"reproduce: {case.job} {failed[case.job]}", file=sys.stderr, flush=True)
    for case in CASES:  # cases that were not asked for now keep the rows they have
        if case not in cases and (stored := read_row(case, options.out)):
            rows[case.job] = stored["row"]
    for case in cases:
        if case.job in failed:
            rows[case.job] = {"system": case.system, "variant": case.variant, "remark": failed[case.job]}
    print(write_table([rows[case.job] for case in CASES if case.job in rows], options.out))
    print(f"reproduce: {options.out / 'table.md'}, {options.out / 'table.csv'}")
    if importlib.util.find_spec("matplotlib") is None:
        problems = ['no figures: they need matplotlib, which is not installed. Fix: pip install "matplotlib>=3.8"']
    else:
        options.figures.mkdir(parents=True, exist_ok=True)
        problems = draw(list(dict.fromkeys(case.system for case in cases)), options.out, options.figures)
    for problem in problems:
        print(f"reproduce: {problem}", file=sys.stderr)
    return 1 if failed or problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("reproduce: interrupted; the same command continues")
