"""Time and memory of `hpcme scan merge`: a scan of the toggle switch with 1,000 finished tasks.

    python tests/benchmarks/merge.py [--tasks 1000] [--folder DIR]

One task is really solved (five report times, 2,000 samples, 25,596 states); its results are copied into the folders of
all others, with noise on the numbers, and the identity of their own jobs. What is measured is the command itself, as a
process, at the number of tasks asked for and at a tenth of it: the memory should not differ by more than what a task's
entry in the record of the scan takes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from store_fakes import changed_results

ROOT = Path(__file__).resolve().parents[2]

JOB = """model = {model!r}
[time]
end = 4.0
report = {{ every = 1.0 }}
[scan]
b = {{ linear = [0.01, 0.4], number = {columns} }}
run.seed = {{ linear = [1, {rows}], number = {rows} }}
"""


def begin(folder: Path, tasks: int) -> None:
    """A scan of so many tasks (a multiple of 10), all of them done."""
    from hpcme.scan.tasks import make_scan
    from hpcme.store.files import Manifest, sha256_of

    columns, noise = 10, np.random.default_rng(0)
    model = str(ROOT / "jobs/models/toggle_switch.toml")
    (folder / "job.toml").write_text(JOB.format(model=model, columns=columns, rows=tasks // columns))
    scan = make_scan(folder / "job.toml", {}, str(folder / "scan"))
    scan.save()
    first = scan.run_folder(scan.tasks[0])
    words = [sys.executable, "-m", "hpcme", "run", str(scan.job_file(scan.tasks[0])), "--out", str(first), "--quiet"]
    subprocess.run(words, check=True)
    manifest = Manifest.load(first)
    for task in scan.tasks[1:]:
        place = scan.run_folder(task)
        place.mkdir()
        shutil.copy(first / "results.h5", place)
        with changed_results(place / "results.h5") as file:  # equal numbers would compress too well
            for name in ("moments", "marginals"):
                for dataset in file[name].values():
                    if dataset.dtype.kind == "f":
                        dataset[...] *= 1.0 + 1e-3 * noise.standard_normal(dataset.shape)
        record = sha256_of(place / "results.h5")
        entry = replace(manifest.entries[0], bytes=record.bytes, sha256=record.sha256)
        replace(manifest, model_hash=task.model_hash, job_hash=task.job_hash, entries=[entry]).save(place)


def measure(folder: Path) -> tuple[float, float, int]:
    """Seconds, peak memory in MB and size of the file of `hpcme scan merge`."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "hpcme", "scan", "merge", str(folder / "scan"), "--quiet"])
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"hpcme scan merge ended with {status}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024, (folder / "scan/merged.h5").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1000, help="a multiple of 100")
    parser.add_argument("--folder", type=Path, help="keep the scans here")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for tasks in (args.tasks // 10, args.tasks):
            place = folder / str(tasks)
            place.mkdir(parents=True)
            begin(place, tasks)
            seconds, memory, size = measure(place)
            print(f"{tasks} tasks: {seconds:.1f} s, {memory:.0f} MB of memory, {size / 2**20:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
