"""What it costs to read one time of a large results.h5, and what compression and chunks cost: prints tables.

    python tests/benchmarks/reading.py [--times 400] [--samples 100000] [--species 15] [--folder DIR]

The defaults write a file that holds 2.4 GB of counts (needs about 0.6 GB of disk and two minutes).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from large_results import bytes_read, large_run

from hpcme.store.reader import open_run


def reading(path: Path, times: int) -> None:
    """Bytes and seconds of single questions."""
    middle, MiB = float(times // 2), 2.0**20
    questions = {
        "open": lambda run: None,
        "one marginal": lambda run: run.marginal("X3", middle),
        "means of all times": lambda run: run.mean,
        "one network": lambda run: run._read(lambda source: source.network(times // 2)),
        "samples of one time": lambda run: run.samples(middle),
        "marginals of all times": lambda run: [run.marginal("X3", t) for t in run.times],
    }
    print(f"\nfile: {path.stat().st_size / MiB:.0f} MiB")
    print(f"{'question':24} {'MiB read':>10} {'share':>8} {'seconds':>8}")
    for name, ask in questions.items():
        with bytes_read() as found:
            start = time.perf_counter()
            with open_run(path) as run:
                ask(run)
            seconds = time.perf_counter() - start
        print(f"{name:24} {sum(found) / MiB:10.2f} {100 * sum(found) / path.stat().st_size:7.2f}% {seconds:8.3f}")


def packing(path: Path, folder: Path) -> None:
    """Size and speed of the same counts with other filters and chunks."""
    with h5py.File(path) as file:
        half = len(file["samples"]) // 2
        data = file["samples"][half : half + 8]
    rows, species = data.shape[1], data.shape[2]
    print(f"\n{data.nbytes / 2**20:.0f} MiB of counts")
    print(f"{'filters':22} {'chunk KiB':>10} {'size':>7} {'write MB/s':>11} {'read MB/s':>10}")
    for name, options in {
        "none": {},
        "gzip 1": {"compression": "gzip", "compression_opts": 1},
        "shuffle + gzip 1": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
        "shuffle + gzip 4": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
        "shuffle + gzip 9": {"compression": "gzip", "compression_opts": 9, "shuffle": True},
        "shuffle + lzf": {"compression": "lzf", "shuffle": True},
    }.items():
        for kib in (64, 256, 1024, 4096) if name == "shuffle + gzip 4" else (1024,):
            chunk = (1, min(rows, kib * 1024 // (4 * species)), species)
            where = folder / "packed.h5"
            start = time.perf_counter()
            with h5py.File(where, "w") as file:
                file.create_dataset("n", data=data, chunks=chunk, fletcher32=True, **options)
            middle = time.perf_counter()
            with h5py.File(where) as file:
                assert np.array_equal(file["n"][()], data)
            end = time.perf_counter()
            share, size = 100 * where.stat().st_size / data.nbytes, data.nbytes / 1e6
            print(f"{name:22} {kib:10} {share:6.1f}% {size / (middle - start):11.0f} {size / (end - middle):10.0f}")
            where.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("times", 400), ("samples", 100_000), ("species", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        start = time.perf_counter()
        path = large_run(Path(folder), args.times, args.samples, args.species)
        held = args.times * args.samples * args.species * 4 / 1e9
        print(f"{held:.1f} GB of counts written, read back and compared in {time.perf_counter() - start:.0f} s")
        reading(path, args.times)
        packing(path, Path(folder))


if __name__ == "__main__":
    main()
