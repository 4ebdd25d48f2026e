"""Moments of a run as a table, and of samples with their standard errors.

The estimators and their errors are derived in hpcme.store.moments, which the solver uses for its reports too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from hpcme.store.moments import Moments, law_moments, normalised_weights, sample_moments, sd_error
from hpcme.store.reader import Run

__all__ = [
    "PARTS",
    "Moments",
    "certificate_of",
    "chosen_times",
    "law_moments",
    "normalised_weights",
    "plain_numbers",
    "sample_moments",
    "sd_error",
    "stats_table",
]

#: Parts of a certified bound by their names in tables; the run stores each as the extra "bound_NAME".
PARTS = ("start", "projection", "time", "truncation", "sampling")


def chosen_times(run: Run, times: Iterable[float] | None) -> list[int]:
    """Report numbers of the given times (None: all). Raises InputError for a time that is not stored."""
    return list(range(len(run.times))) if times is None else [run.index(float(t)) for t in times]


def plain_numbers(array: Any) -> Any:
    """Nested lists of Python numbers; NaN and infinity, which JSON lacks, become None."""
    if isinstance(array, dict):
        return {name: plain_numbers(value) for name, value in array.items()}
    if isinstance(array, (list, tuple)):
        return [plain_numbers(value) for value in array]
    if isinstance(array, np.ndarray):
        return plain_numbers(array.tolist())
    if isinstance(array, (float, np.floating)):
        return float(array) if np.isfinite(array) else None
    return array.item() if isinstance(array, np.generic) else array


def stats_table(run: Run, times: Iterable[float] | None = None) -> dict[str, Any]:
    """Mean, standard deviation and covariance with standard errors; rows are times, columns species.

    Returns {"kind", "times" [T], "species" [S], "mean", "sd", "mean_se", "sd_se" [T][S], "covariance",
    "covariance_se" [T][S][S], "readouts" {name: {"mean", "mean_se", "sd", "sd_se" [T]}}, "lost" [T] (probability
    lost through the limits), "certificate" (see certificate_of)} as plain lists; lost and certificate are None
    for a run without them. Standard errors of exact runs are zero. times: None means all stored ones. Raises
    InputError for a time that is not stored.
    """
    rows = chosen_times(run, times)
    extra = run.extra()
    names = ("mean", "sd", "mean_se", "sd_se", "covariance", "covariance_se")
    return {
        "kind": run.kind,
        "times": plain_numbers(run.times[rows]),
        "species": list(run.species),
        **{name: plain_numbers(getattr(run, name)[rows]) for name in names},
        "readouts": {
            name: {what: plain_numbers(values[rows]) for what, values in run.readout(name).items()}
            for name in run.readouts
        },
        "lost": plain_numbers(extra["lost"][rows]) if "lost" in extra else None,
        "certificate": certificate_of(extra, rows),
    }


def certificate_of(extra: dict[str, np.ndarray], rows: list[int]) -> dict[str, Any] | None:
    """The certified bound of the total variation error and its PARTS at the given reports.

    extra: `Run.extra()`. Returns {"bound", "start", "projection", "time", "truncation", "sampling" [T],
    "confidence"}, None where a report has none; confidence is the least of the chosen reports. None for a run
    that stores no bound at all.
    """
    if "bound" not in extra:
        return None
    absent = np.full(len(extra["bound"]), np.nan)
    columns = {"bound": extra["bound"]} | {name: extra.get(f"bound_{name}", absent) for name in PARTS}
    confidence = extra.get("bound_confidence", absent)[rows]
    known = confidence[np.isfinite(confidence)]
    return {
        **{name: plain_numbers(column[rows]) for name, column in columns.items()},
        "confidence": float(known.min()) if len(known) else None,
    }
