"""A small deterministic run for the store's tests, with no solver in it; also a program that can be killed.

python store_fakes.py simulate DIR STEPS PAUSE      simulate (or continue) a run
python store_fakes.py crash DIR                     crash at every file operation in turn, resume, compare
python store_fakes.py limit DIR BYTES               simulate with a limit on the file size (a full disk)
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from hpcme.store import writer as writer_module
from hpcme.store.files import Sink
from hpcme.store.layout import Report
from hpcme.store.moments import sample_moments
from hpcme.store.seal import append_seal
from hpcme.store.writer import RunWriter

SPECIES = ["A", "B"]
LIMITS = [5, 7]
MODEL = """[model]
name = "fake"
[parameters]
k = 2.0
[species]
A = { initial = 1, max = 5 }
B = { initial = 0, max = 7 }
[[reactions]]
equation = "A -> B"
rate = "k"
"""
QUICK = {"beat": 0.05, "patience": 0.5}


def identity(**changes):
    """Identity of the fake run; keyword arguments replace items."""
    base = {
        "kind": "network",
        "model_text": MODEL,
        "model_hash": "m0",
        "job_text": "[time]\nend = 3.0\n",
        "job_hash": "j0",
        "species": SPECIES,
        "limits": LIMITS,
        "report_times": [0.0, 1.0, 2.0],
        "units": {"time": "s"},
        "layout": {"ranks": 1},
        "provenance": {"seed": 7},
    }
    return {**base, **changes}


def make_report(index, time_=None, x=0, samples=40, network=True):
    """A report whose numbers are a function of (index, x)."""
    rng = np.random.default_rng([index, x])
    n = np.stack([rng.integers(0, limit + 1, samples) for limit in LIMITS], axis=1).astype(np.int32)
    m = sample_moments(n)
    marginals = [np.bincount(n[:, i], minlength=limit + 1) / samples for i, limit in enumerate(LIMITS)]
    law = {
        "spec": '{"kind": "initial"}',
        "parameters": {
            "layers.0.weight": rng.random((3, 2), dtype=np.float32),
            "mask": np.array([True, False]),
        },
    }
    return Report(
        index=index,
        time=float(index if time_ is None else time_),
        samples=n,
        weights=None,
        mean=m.mean,
        mean_se=m.mean_se,
        covariance=m.covariance,
        covariance_se=m.covariance_se,
        sd_se=m.sd_se,
        marginals=marginals,
        marginals_se=[np.sqrt(p * (1 - p) / samples) for p in marginals],
        network=law if network else None,
        extra={"entropy": float(rng.random())},
    )


@contextmanager
def changed_results(path):
    """Change a results.h5 as h5py.File and give it a new seal: a file that is whole, but wrong in its content."""
    with h5py.File(path, "a") as file:  # HDF5 cuts the old seal off when it closes the file
        yield file
    handle = os.open(path, os.O_RDWR)
    try:
        sink = Sink(handle)
        sink._size = os.fstat(handle).st_size
        append_seal(sink)
        sink.check()
    finally:
        os.close(handle)


def simulate(folder, steps=8, pause=0.0, before_commit=None):
    """Run the fake to its end, from wherever it stopped. A row every step, commits every second step,
    checkpoints every fourth, a report every third: commits without checkpoint and rows to drop occur."""
    with RunWriter.open(folder, identity(), **QUICK) as writer:
        if writer.done:
            return
        found = writer.load_checkpoint()
        if found is None:
            step, x = 0, 12345
            writer.commit(0, {"x": x, "rng/state": np.array([x], dtype=np.uint64)}, make_report(0), None)
        else:
            step, state = found
            x = state["x"]
            assert state["rng/state"][0] == x
        rows = []
        while step < steps:
            step += 1
            x = (x * 6364136223846793005 + step) % 2**63
            rows.append((0.1 * step, x / 2**63, x % 97))
            time.sleep(pause)
            report = make_report(step // 3, x=x) if step % 3 == 0 else None
            if report is not None or step % 2 == 0:
                columns = np.array([row[:2] for row in rows]).T
                series = {"t": columns[0], "loss": columns[1], "epochs": np.array([row[2] for row in rows])}
                checkpoint = {"x": x, "rng/state": np.array([x], dtype=np.uint64)} if step % 4 == 0 else None
                if before_commit is not None:
                    before_commit(step)
                writer.commit(step, checkpoint, report, series)
                rows = []
        writer.finish()


def contents(folder):
    """All data of results.h5 but its provenance: {dataset: (dtype, shape, bytes)}."""
    found = {}
    with h5py.File(Path(folder) / "results.h5", "r") as file:

        def visit(name, node):
            if isinstance(node, h5py.Dataset) and not name.startswith("provenance"):
                found[name] = (str(node.dtype), node.shape, np.asarray(node[()]).tobytes())

        file.visititems(visit)
    return found


def _crash_everywhere(folder):
    """Kill the process before its k-th file operation, for every k; resume (killed once more); compare."""
    writer_module.MERGE = 2
    real_fsync = os.fsync
    os.fsync = lambda handle: None  # a killed process loses nothing that was written; this only saves time
    try:
        simulate(folder / "whole")
    finally:
        os.fsync = real_fsync
    whole = contents(folder / "whole")
    k = 0
    while True:
        k += 1
        place = folder / f"crash-{k}"
        finished = _child(place, k)
        _child(place, 5 + 7 * k % 40)
        if not _child(place, 10**9):
            sys.exit(f"the run killed before operation {k} could not be continued")
        if contents(place) != whole:
            sys.exit(f"the run killed before operation {k} differs from the uninterrupted one")
        if sorted(item.name for item in place.iterdir()) != ["manifest.json", "results.h5"]:
            sys.exit(f"the run killed before operation {k} left {sorted(place.rglob('*'))}")
        shutil.rmtree(place)
        if finished:
            print(k)
            return


def _child(place, fatal):
    """Fork, simulate, die with _exit(9) before file operation number `fatal`; True if it came to its end."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    count = 0

    def deadly(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == fatal:
                os._exit(9)
            return function(*args, **kwargs)

        return call

    for name in ("replace", "rename", "unlink", "link", "mkdir", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))
    os.fsync = deadly(lambda handle: None)
    try:
        simulate(place)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(3)
    os._exit(0)


def _limited(folder, size):
    import resource

    from hpcme.errors import OutputError

    def choke(step):
        if step >= 6:  # the first commits fit
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    try:
        simulate(folder, before_commit=choke)
    except OutputError as error:
        print(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    command, target = sys.argv[1], Path(sys.argv[2])
    if command == "simulate":
        print("ready", flush=True)
        simulate(target, int(sys.argv[3]), float(sys.argv[4]))
    elif command == "crash":
        _crash_everywhere(target)
    elif command == "limit":
        _limited(target, int(sys.argv[3]))
