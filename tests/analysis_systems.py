"""Solved systems for the tests of the analysis, each solved once per process, and their exact laws."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np

import hpcme
from hpcme.exact.fsp import solve_fsp

MODELS = Path(__file__).resolve().parents[1] / "jobs" / "models"
TIMES = {"autoregulation": [1.0, 4.0], "toggle_switch": [2.0, 10.0]}


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="hpcme-analysis-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def solved(system: str) -> hpcme.store.reader.Run:
    """The network run of a system at default settings."""
    times = TIMES[system]
    job = {"model": str(MODELS / f"{system}.toml"), "time": {"end": times[-1], "report": times}, "name": system}
    return hpcme.solve(job, out=_folder() / system)


@functools.cache
def exact_law(system: str) -> tuple[np.ndarray, np.ndarray]:
    """States [M,S] and probabilities [M] at the last time, with the walls that the network has."""
    found = solve_fsp(solved(system).model(), TIMES[system], reflecting=True)
    return found.states, found.p[-1]


def table(states: np.ndarray, p: np.ndarray, i: int, j: int) -> np.ndarray:
    """Joint probabilities of two species, summed one state after the other."""
    found = np.zeros((states[:, i].max() + 1, states[:, j].max() + 1))
    np.add.at(found, (states[:, i], states[:, j]), p)
    return found


def entropy(p: np.ndarray) -> float:
    """-sum p log p."""
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
