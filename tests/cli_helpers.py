"""What the tests of the command line share: calling it here or as a process, and tiny models and jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from hpcme.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
LAUNCHERS = ("OMPI_", "PMI", "MPI_LOCAL", "SLURM_", "HYDRA", "GLOO", "MPIR_CVAR")

BIRTH_DEATH = """[model]
name = "birth_death"
[parameters]
k = 2.0
d = 0.5
[species]
X = { initial = 1, max = 30 }
[[reactions]]
equation = "0 -> X"
rate = "k"
[[reactions]]
equation = "X -> 0"
rate = "d"
"""

SWITCH = """[model]
name = "switch"
[parameters]
on = 1.0
off = 2.0
make = 3.0
[species]
G = { initial = 0, max = 1 }
P = { initial = 0, max = 12 }
[[reactions]]
equation = "0 -> G"
propensity = "on*(1 - G)"
[[reactions]]
equation = "G -> 0"
rate = "off"
[[reactions]]
equation = "G -> G + P"
rate = "make"
[[reactions]]
equation = "P -> 0"
rate = 1.0
"""

JOB = """model = "switch.toml"
[time]
end = 0.6
report = { every = 0.3 }
[network]
width = 8
[solver]
scheme = "projection"
epochs = 4
start_epochs = 60
start_jumps = 0.3
jumps = 0.1
[sampling]
samples = 64
[output]
samples = 50
report_samples = 400
"""


class Result(NamedTuple):
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


def write_inputs(folder: Path) -> None:
    """The models and the job above as files."""
    (folder / "birth_death.toml").write_text(BIRTH_DEATH)
    (folder / "switch.toml").write_text(SWITCH)
    (folder / "job.toml").write_text(JOB)


def call(capsys, *argv: object) -> Result:
    """main(argv) in this process."""
    capsys.readouterr()
    code = main([str(word) for word in argv])
    out, err = capsys.readouterr()
    return Result(code, out, err)


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without a launcher's variables, for a process that starts from nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    path = os.pathsep.join(part for part in (str(ROOT), kept.get("PYTHONPATH", "")) if part)
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | extra


def process(folder: Path, *argv: object, before: tuple[str, ...] = (), **extra: str) -> Result:
    """`python -m hpcme` as a process in `folder`; `before` are the words of a launcher."""
    words = [*before, sys.executable, "-m", "hpcme", *map(str, argv)]
    return run_words(folder, words, **extra)


def run_words(folder: Path, words: list[str], **extra: str) -> Result:
    done = subprocess.run(
        words, cwd=folder, env=clean_environment(**extra), capture_output=True, text=True, timeout=300
    )
    return Result(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below `folder` with its size and time of change."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_size if path.is_file() else -1,
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }
