"""A GPU against the CPU cores beside it, in one run; run by hand where torch sees a GPU, never by the test suite.

    python tests/benchmarks/gpu.py [--samples 1000 10000 50000] [--json]

Three ratios. `projection`: milliseconds per epoch of the toggle switch at the paper's sizes (see epoch.py) with more
and more samples, and of the cascade of 15 species with a wide network (GRU of width 256, 10,000 samples). `tdvp`:
seconds per time step of that cascade, whose states are enumerated on the CPU and whose laws are evaluated on the
device. Each is timed on the CPU with one thread, with all cores, and on the GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import torch
from epoch import measure

from hpcme import load_job
from hpcme.driver import prepare, shards_of
from hpcme.parallel.world import open_world


def places() -> list[tuple[str, int]]:
    """Device and threads of every measurement."""
    cores = len(os.sched_getaffinity(0))
    return [("cpu", 1), ("cpu", cores), ("cuda", 1)]


def seconds_per_step(device: str, threads: int, samples: int, steps: int) -> float:
    """Of the cascade of 15 species in the middle of its rise."""
    job = load_job(
        "jobs/models/cascade_linear.toml",
        overrides={"time.end": 10.0, "sampling.samples": samples, "run.device": device, "time.report": [10.0]},
    )
    world = open_world(device)
    world.use_threads(threads)
    evolution = prepare(job, world, shards_of(job, world))
    for _ in range(8):  # compiled, warm, and past the shortest steps
        evolution._advance()
    began = time.perf_counter()
    for _ in range(steps):
        evolution._advance()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / steps
    world.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 10000, 50000])
    parser.add_argument("--states", type=int, nargs="+", default=[5000])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here")
    rows = []
    for samples in options.samples:
        for device, threads in places():
            keys = {"sampling.samples": samples, "run.device": device, "solver.epochs": 20}
            result, _ = measure("jobs/models/toggle_switch.toml", 0.5, keys, threads, repeats=0, most=options.steps)
            rows.append(("projection epoch", samples, device, threads, result["ms_per_epoch"]))
            report(rows[-1], options.json)
    wide = {"network.width": 256, "sampling.samples": 10_000, "solver.start_epochs": 5, "solver.epochs": 5}
    for device, threads in places():
        keys = {**wide, "run.device": device, "solver.dt": 0.01}
        result, _ = measure("jobs/models/cascade_linear.toml", 0.5, keys, threads, repeats=0, most=2)
        rows.append(("wide epoch", 10_000, device, threads, result["ms_per_epoch"]))
        report(rows[-1], options.json)
    for samples in options.states:
        for device, threads in places():
            seconds = seconds_per_step(device, threads, samples, options.steps)
            rows.append(("tdvp step", samples, device, threads, 1e3 * seconds))
            report(rows[-1], options.json)
    if options.json:
        names = ("what", "samples", "device", "threads", "ms")
        print(
            json.dumps({"gpu": torch.cuda.get_device_name(), "rows": [dict(zip(names, r, strict=True)) for r in rows]})
        )


def report(row: tuple, quiet: bool) -> None:
    """A line as soon as it is known."""
    if not quiet:
        what, samples, device, threads, ms = row
        print(f"{what:18s} {samples:7d} samples  {device:4s} {threads:3d} thread(s)  {ms:10.2f} ms", flush=True)


if __name__ == "__main__":
    main()
