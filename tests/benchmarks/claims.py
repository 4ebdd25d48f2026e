"""The table of results in the README, computed anew: one line per claim, with what was found and the bound.

    python tests/benchmarks/claims.py [--out FOLDER] [--json]

Runs (or reopens, where FOLDER holds them already) the jobs birth_death, autoregulation, toggle_switch and early_life
as they stand in jobs/ (the last one to t = 1), and compares them with the exact solver. Half a minute on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import hpcme
from hpcme.analysis.compare import compare
from hpcme.networks.build import enumerate_reachable

JOBS = Path(__file__).parents[2] / "jobs"


def solved(name: str, out: Path, overrides: dict | None = None):
    """The finished run of a job in jobs/."""
    job = hpcme.load_job(JOBS / f"{name}.toml", overrides=overrides)
    return hpcme.solve(job, out=out / name, say=print)


def against_exact(name: str, out: Path, t: float, tv_bound: float, mean_bound: float | None = None) -> list[dict]:
    """Joint total variation at time t and, where asked for, the largest relative error of a mean."""
    found = compare(solved(name, out), "exact", times=[t])
    rows = [claim(f"{name}, t = {t:g}: joint TV to exact", found["joint"]["tv"][0], tv_bound)]
    if mean_bound is not None:
        worst = max(found["mean_error"][0])
        rows.append(claim(f"{name}, t = {t:g}: largest relative error of a mean", worst, mean_bound))
    return rows


def claim(what: str, found: float, bound: float) -> dict:
    """One row of the table."""
    return {"claim": what, "found": float(found), "bound": bound, "holds": bool(found <= bound)}


def normalisation(name: str, run) -> dict:
    """|sum of exp(log_prob) over all reachable states - 1|, the worst stored time."""
    states = enumerate_reachable(run.model(), 10**6, float(run.times[-1]))
    worst = max(abs(np.exp(run.network(t).log_prob(states)).sum() - 1) for t in run.times)
    return claim(f"{name}: |sum of probabilities over {len(states)} reachable states - 1|, all times", worst, 1e-10)


def early_life(out: Path):
    """early_life to t = 1, an eighth of its horizon."""
    return solved("early_life", out, {"time.end": 1.0, "time.report": [0.5, 1.0]})


def conservation(out: Path) -> dict:
    """Samples of early_life that break A + D + L = 100, among a million."""
    run = early_life(out)
    n = run.network(run.times[-1]).sample(1_000_000, seed=1)
    return claim("early_life, t = 1: samples with A + D + L != 100 among 1e6", (n.sum(axis=1) != 100).sum(), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [
        *against_exact("birth_death", options.out, 100.0, 0.01),
        *against_exact("autoregulation", options.out, 10.0, 0.03),
        *against_exact("toggle_switch", options.out, 1.0, 0.08, 0.02),
        *(
            normalisation(name, solved(name, options.out))
            for name in ("birth_death", "autoregulation", "toggle_switch")
        ),
        normalisation("early_life, t = 1", early_life(options.out)),
        conservation(options.out),
    ]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(
            f"{row['claim']:85s} {row['found']:10.3g}  bound {row['bound']:g}  {'holds' if row['holds'] else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
