"""Kill runs at random moments again and again; every published file has to verify, and the ends have to be equal.

    python tests/benchmarks/kills.py [--kills 200] [--seed 0] [--ranks 1 2 3] [--jobs projection tdvp ...]

Rounds over jobs and numbers of ranks (those of tests/test_restart.py). In each a run is started, SIGKILLed after a
random time - all of it, or one rank - verified, and started again, until it has met its share of kills; then it is let
run to its end and compared, bit for bit, with a run that was never disturbed. Exits with 1 when anything differs.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from cli_helpers import clean_environment
from run_helpers import JOBS, datasets, end, kill, same, start, write_jobs


def verified(place: Path, out: str) -> str:
    """What `hpcme verify` says against a run folder; '' when it is whole, or holds nothing yet."""
    if not (place / out / "manifest.json").exists():
        return ""
    words = [sys.executable, "-m", "hpcme", "verify", out]
    done = subprocess.run(words, cwd=place, env=clean_environment(), capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--per-run", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    args = parser.parse_args()
    chance = random.Random(args.seed)
    cases = [(job, ranks) for ranks in args.ranks for job in args.jobs]
    whole: dict[tuple[str, int], tuple[dict, float]] = {}
    kills = runs = bad = missed = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = write_jobs(Path(folder))
        while kills < args.kills:
            job, ranks = cases[runs % len(cases)]
            if (job, ranks) not in whole:
                out, since = f"whole-{job}-{ranks}", time.monotonic()
                end(start(place, job, ranks, out), place, out)
                whole[job, ranks] = datasets(place / out / "results.h5"), time.monotonic() - since
            expected, seconds = whole[job, ranks]
            runs += 1
            out, own = f"run-{runs}", 0
            while own < args.per_run and kills < args.kills:
                process = start(place, job, ranks, out)
                pause = chance.uniform(0.0, 0.9 * seconds)
                try:
                    process.wait(timeout=pause)
                    missed += 1
                    break  # it was done before
                except subprocess.TimeoutExpired:
                    whom = "all" if ranks == 1 or chance.random() < 0.5 else str(chance.randrange(ranks))
                    try:
                        kill(process, whom)
                    except (KeyError, AssertionError):  # the rank was not there yet, or the run had just ended
                        kill_all(process)
                kills, own = kills + 1, own + 1
                if problem := verified(place, out):
                    bad += 1
                    print(f"{job}, {ranks} rank(s), kill {kills}: {problem}", flush=True)
            end(start(place, job, ranks, out), place, out)
            found = datasets(place / out / "results.h5")
            rows = found["series/step"].tolist()
            wrong = [name for name in expected if name not in found or not same(found[name], expected[name])]
            if wrong or found.keys() != expected.keys() or rows != list(range(1, len(rows) + 1)):
                bad += 1
                print(f"{job}, {ranks} rank(s), run {runs}: differs in {wrong or 'names or rows'}", flush=True)
            print(f"run {runs}, {job}, {ranks} rank(s): {own} kills, {kills} in all", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{kills} kills in {runs} runs ({missed} ended before a kill), {minutes:.0f} min: {bad} folders wrong")
    return 1 if bad else 0


def kill_all(process: subprocess.Popen) -> None:
    """The end of what is left of a run."""
    if process.poll() is None:
        kill(process, "all")


if __name__ == "__main__":
    raise SystemExit(main())
