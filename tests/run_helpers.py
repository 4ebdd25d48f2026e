"""Runs as processes of their own, for tests that stop, kill and continue them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
from cli_helpers import clean_environment
from solver_cases import TOGGLE

MPIEXEC = shutil.which(
    "mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)

#: Jobs of some forty steps that take seconds: both schemes, and every kind of integrator and optimiser.
COMMON = """model = "toggle.toml"
[time]
end = 2.0
report = { every = 0.5 }
[output]
samples = 100
report_samples = 1000
checkpoint_steps = 3
"""
PROJECTION = """[network]
width = 12
[solver]
scheme = "projection"
start_epochs = 100
"""
TDVP = """[network]
width = 4
[solver]
scheme = "tdvp"
start_jumps = 3.0
"""
#: One event between reports, and one at a report.
EVENTS = """[[events]]
at = 0.8
set = { Px = "min(Px + 4, 24)", Gx = 1 }
[[events]]
at = 1.5
set = { Py = 3 }
"""
JOBS = {
    "projection": PROJECTION + 'optimiser = "adam"\nepochs = 8\n[sampling]\nsamples = 400\n',
    "projection-natural": PROJECTION + "[sampling]\nsamples = 200\n",
    "tdvp": TDVP + "dt = 0.05\n",  # exact sums, exponential
    "tdvp-implicit": TDVP + 'tolerance = 0.005\nintegrator = "implicit"\n',
    "tdvp-events": TDVP + "dt = 0.05\n",
    "tdvp-sampled": TDVP + "tolerance = 0.02\n[sampling]\nsamples = 1000\nexact = false\n",
}


def write_jobs(folder: Path, more: str = "") -> Path:
    """Write the JOBS and their model into a folder; more: further lines of TOML for each."""
    (folder / "toggle.toml").write_text(TOGGLE)
    (folder / "dosed.toml").write_text(TOGGLE + EVENTS)
    for name, text in JOBS.items():
        common = COMMON.replace("toggle.toml", "dosed.toml") if "events" in name else COMMON
        (folder / f"{name}.toml").write_text(common + text + more)
    return folder


def start(folder: Path, job: str, ranks: int, out: str) -> subprocess.Popen:
    """`hpcme run` in the background; the same command starts a run and continues it."""
    words = [sys.executable, "-m", "hpcme", "run", f"{job}.toml", "--out", out, "--quiet"]
    if ranks > 1:
        words = [MPIEXEC, "-n", str(ranks), *words]
    with (folder / f"{out}.log").open("ab") as log:
        return subprocess.Popen(words, cwd=folder, env=clean_environment(), stdout=log, stderr=log)


def end(process: subprocess.Popen, folder: Path, out: str) -> None:
    """Wait for a good end."""
    assert process.wait(timeout=240) == 0, (folder / f"{out}.log").read_text()


def processes() -> dict[int, tuple[int, str]]:
    """Parent and state of every process of this machine, by its id."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            found[int(stat.parent.name)] = (int(parent), state)
    return found


def below(root: int) -> list[int]:
    """The processes that a process started, and those that these started."""
    parents = {pid: parent for pid, (parent, _) in processes().items()}
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sorted(family - {root})


def ranks_of(launcher: int) -> dict[int, int]:
    """Process ids of the ranks below mpiexec, by rank."""
    found = {}
    for pid in below(launcher):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            rank = next((word[9:] for word in words if word.startswith(b"PMI_RANK=")), b"")
            if rank:
                found[int(rank)] = pid
    return found


def last_step(folder: Path) -> int:
    """The newest step that a run has made safe; -1 before there is a manifest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError:
        return -1
    return max((entry["step"] for entry in manifest["entries"]), default=-1)


def kill(process: subprocess.Popen, whom: str) -> None:
    """SIGKILL to everything ("all") or to one rank under mpiexec ("0", "1"), and wait until all are gone."""
    family = below(process.pid)
    targets = [process.pid, *family] if whom == "all" else [ranks_of(process.pid)[int(whom)]]
    for pid in targets:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    deadline = time.monotonic() + 60
    while any(processes().get(pid, (0, "Z"))[1] not in "ZX" for pid in family):
        assert time.monotonic() < deadline, "a rank goes on although another one was killed"
        time.sleep(0.02)


def resumptions(folder: Path) -> int:
    """How often a run says that it went on from a checkpoint."""
    try:
        history = json.loads((folder / "manifest.json").read_text())["history"]
    except FileNotFoundError:
        return 0
    return sum(event["event"] == "resumed" for event in history)


def kill_at(process: subprocess.Popen, run: Path, step: int, pause: float, whom: str, resumed: int) -> bool:
    """Kill a run `pause` seconds after it made `step` safe and said that it went on `resumed` times; False
    when it ended before."""
    while last_step(run) < step or resumptions(run) < resumed:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(pause)
    if process.poll() is not None:
        return False
    kill(process, whom)
    return True


def datasets(path: Path) -> dict[str, np.ndarray]:
    """Every dataset of results.h5 except wall times and where it was made."""
    found = {}

    def visit(name: str, item) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("provenance"):
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    del found["series/wall"]
    return found


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bitwise."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.hasobject or b.dtype.hasobject:
        return a.tolist() == b.tolist()
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
