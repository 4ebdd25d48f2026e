"""What warm starts save: two tasks of a scan, the second solved cold and from the networks of the first.

    OMP_NUM_THREADS=1 HPCME_THREADS=1 python tests/benchmarks/warm.py

Newton steps, and solver seconds of the quickest of three runs, for neighbours 2 % and 20 % apart.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hpcme import load_job, solve

ROOT = Path(__file__).resolve().parents[2]
#: Job, parameter, time between reports (None: the job's).
CASES = [
    ("toggle_switch_power", "b", {"time.end": 10.0, "time.report": {"every": 1.0}}),
    ("early_life", "V", {}),
    ("autoregulation", "sb", {}),
]


def run(job, out: Path) -> tuple[int, float]:
    """Newton steps and solver seconds."""
    with solve(job, out=out) as found:
        series = found.series()
        return int(series["iterations"].sum()), float(series["wall"].sum())


def main() -> None:
    print("job, apart: Newton steps cold -> warm, seconds cold -> warm")
    with tempfile.TemporaryDirectory() as place:
        for name, parameter, changes in CASES:
            file = ROOT / f"jobs/{name}.toml"
            base = load_job(file, overrides=changes)
            value = base.net.parameters[parameter]
            first = Path(place) / name
            run(base, first)
            for apart in (0.02, 0.2):
                own = {**changes, f"parameters.{parameter}": value * (1.0 + apart)}
                found = {}
                for kind, more in (("cold", {}), ("warm", {"run.warm": str(first)})):
                    job = load_job(file, overrides={**own, **more})
                    runs = [run(job, Path(place) / f"{name}-{apart}-{kind}-{i}") for i in range(3)]
                    found[kind] = (runs[0][0], min(seconds for _, seconds in runs))
                (a, x), (b, y) = found["cold"], found["warm"]
                print(f"{name}, {apart:.0%}: {a} -> {b}, {x:.2f} s -> {y:.2f} s", flush=True)


if __name__ == "__main__":
    main()
