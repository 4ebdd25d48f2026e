"""Quantiles of the counts of each species, from the stored marginals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hpcme.analysis.statistics import chosen_times
from hpcme.errors import InputError
from hpcme.store.reader import Run

_SURE = 1.959963984540054  # standard normal quantile of 0.975
_ROUNDING = 1e-12


def quantile_table(
    run: Run,
    species: Sequence[str] | None = None,
    levels: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
    times: Iterable[float] | None = None,
) -> dict[str, Any]:
    """Smallest count c with P(X <= c) >= level, for each time (None: all), species (None: all) and level.

    Returns {"kind", "times" [T], "species" [s], "levels" [L], "quantile", "low", "high" int64 [T,s,L]}. low and high
    bound the quantile with 95 % confidence where the marginals have errors of sampling: the quantiles of F + 1.96 se
    and F - 1.96 se, with F the distribution function and se = sqrt(F (1 - F) / N), N the number of samples that the
    stored errors stand for (their median). Without such errors they equal the quantile. A marginal that has lost
    probability is scaled to sum 1. Raises InputError: unknown species or times, levels outside (0, 1).
    """
    index = list(range(run.S)) if species is None else [run.species_index(name) for name in species]
    for level in levels:
        if not 0.0 < level < 1.0:
            raise InputError(f"level {level:g} must be above 0 and below 1: it is a probability.")
    rows = chosen_times(run, times)
    run.index()
    found = np.zeros((3, len(rows), len(index), len(levels)), dtype=np.int64)
    for a, k in enumerate(rows):
        t = float(run.times[k])
        for b, i in enumerate(index):
            found[:, a, b] = quantiles(run.marginal(i, t), run.marginal_se(i, t), np.asarray(levels, dtype=np.float64))
    return {
        "kind": run.kind,
        "times": run.times[rows],
        "species": [run.species[i] for i in index],
        "levels": np.asarray(levels, dtype=np.float64),
        **dict(zip(("quantile", "low", "high"), found, strict=True)),
    }


def quantiles(p: np.ndarray, se: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles of a law p [counts] with standard errors se [counts] and their 95 % bounds, int64 [3, L]; see above."""
    below = np.cumsum(p) / p.sum()
    known = (se > 0.0) & (p > 0.0) & (p < 1.0)
    spread = np.zeros_like(below)
    if known.any():
        # the errors of single probabilities are sqrt(p (1 - p) / N): the number of samples follows from them
        number = np.median(p[known] * (1.0 - p[known]) / se[known] ** 2)
        spread = _SURE * np.sqrt(np.maximum(0.0, below * (1.0 - below)) / number)
    last = len(p) - 1
    curves = (below, np.minimum(1.0, below + spread), np.maximum.accumulate(below - spread))
    return np.array([[_first(curve, level, last) for level in levels] for curve in curves])


def _first(curve: np.ndarray, level: float, last: int) -> int:
    return min(last, int(np.searchsorted(curve, level - _ROUNDING)))
