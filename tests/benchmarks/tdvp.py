"""What scheme `tdvp` reaches and costs, computed anew; run by hand, never by the test suite.

    python tests/benchmarks/tdvp.py accuracy [--out FOLDER]  joint TV to the exact law and certified bound, seeds 0-2
    python tests/benchmarks/tdvp.py cascade RUN              KL and means of a run of cascade_linear: closed form
    python tests/benchmarks/tdvp.py speed [--end 2]          wall time against `projection` at the paper's settings
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import scipy.stats
from epoch import PAPER

import hpcme
from hpcme.analysis.compare import compare
from hpcme.driver import prepare, shards_of
from hpcme.parallel.world import open_world

JOBS = Path(__file__).parents[2] / "jobs"
MODELS = JOBS / "models"
sys.path.insert(0, str(JOBS))
from reproduce import Poisson, divergence  # noqa: E402

#: Model, report times, parameters that differ from the model's, and seeds.
CASES = [
    ("toggle_switch_power", [1.0, 2.0, 5.0, 10.0, 20.0, 40.0], {}, (0, 1, 2)),
    ("schlogl", [1.0], {}, (0, 1, 2)),
    ("early_life", [1.0, 2.0, 4.0, 6.0, 8.0], {}, (0,)),
    ("epidemic", [2.0 * k for k in range(1, 11)], {"parameters.eps": 0.6}, (0, 1, 2)),
]


def accuracy(out: Path) -> None:
    """One line per run: worst joint TV, bound there, steps and seconds."""
    for name, times, changes, seeds in CASES:
        for seed in seeds:
            keys = {"time.end": times[-1], "time.report": times, "run.seed": seed, **changes}
            began = time.monotonic()
            run = hpcme.solve(hpcme.load_job(MODELS / f"{name}.toml", overrides=keys), out=out / f"{name}-{seed}")
            seconds = time.monotonic() - began
            found = compare(run, "exact", times=times)
            tv, bound = found["joint"]["tv"], found["certificate"]["bound"]
            shown = " ".join(f"{x:.4f}" for x in tv)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            print(
                f"{name}, seed {seed}: TV {shown} at t = {times}; certified at the end {bound[-1]:.3f}; "
                f"{len(run.series()['step'])} steps, {seconds:.0f} s, peak memory so far {memory:.2f} GB", flush=True,
            )  # fmt: skip
            if name == "schlogl":
                print(f"  P(n <= 15) = {run.marginal(run.species[0], 1.0)[:16].sum():.5f} (exact 0.3209)")


def cascade(folder: str) -> None:
    """KL(exact || q) from samples of the exact law within the limits, and the worst relative error of a mean."""
    run = hpcme.open_run(folder)
    law = Poisson(run)
    for t in run.times[1:]:
        lam = law.means(t)
        n = np.random.default_rng(1).poisson(lam, size=(100_000, 15))
        n = n[(n <= 9).all(axis=1)].astype(np.int32)
        exact = scipy.stats.poisson.logpmf(n, lam).sum(axis=1) - scipy.stats.poisson.logcdf(9, lam).sum()
        drawn = run.network(t).sample(1_000_000, seed=3)
        error = drawn.mean(axis=0) / lam - 1.0
        sure = 1.0 / np.sqrt(len(drawn) * lam)
        kl, se = divergence(exact, run.network(t).log_prob(n))
        worst = ", ".join(f"{100 * e:+.2f}({100 * s:.2f})" for e, s in zip(error, sure, strict=True))
        print(f"t = {t:g}: KL {kl:.1e} +- {se:.1e}; errors of the means in % (standard errors): {worst}")
    print(f"{len(run.series()['step'])} steps, {run.series()['wall'].sum():.0f} s in steps")


def speed(end: float) -> None:
    """Seconds of both schemes on the toggle switch (power law) to the same time, in one process, starts left out."""
    seconds = {}
    for name, keys in (("tdvp", {}), ("projection", PAPER)):
        keys = {"time.end": end, "time.report": [end], "output.report_samples": 1000, **keys}
        job = hpcme.load_job(MODELS / "toggle_switch_power.toml", overrides=keys)
        world = open_world("cpu")
        for warm in (True, False):  # the first run compiles kernels
            evolution = prepare(job, world, shards_of(job, world))
            began = time.monotonic()
            evolution.run(stop=lambda warm=warm, evolution=evolution: warm and evolution.step >= 2)
            seconds[name] = time.monotonic() - began
        print(f"{name}: {seconds[name]:.1f} s to t = {end:g}, {evolution.step} steps", flush=True)
    print(f"ratio {seconds['projection'] / seconds['tdvp']:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["accuracy", "cascade", "speed"])
    parser.add_argument("run", nargs="?")
    parser.add_argument("--out", type=Path, default=Path("runs/tdvp"))
    parser.add_argument("--end", type=float, default=2.0)
    args = parser.parse_args()
    if args.what == "accuracy":
        accuracy(args.out)
    elif args.what == "cascade":
        cascade(args.run)
    else:
        speed(args.end)


if __name__ == "__main__":
    main()
