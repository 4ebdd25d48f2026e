"""What the files of a run contain: the report, the names, units and long names of everything stored.

results.h5 (format "hpcme-results", version 1; T report times, S species, N samples):
    /time [T], /species [S], /species_2 [S], /sample [N]         dimension scales
    /step [T], /limits [S], /samples_count [T]
    /moments/mean, mean_se, sd_se [T,S], covariance, covariance_se [T,S,S]
    /readouts/mean, mean_se, sd, sd_se [T,K]                     readouts of the model, with the scale /readout [K]
    /marginals/X, X.se [T,count] with the scale X.count          one of each per species X
    /samples [T,N,S] int32 (rows past samples_count are -1), /samples_weight [T,N]
    /networks/I/spec (JSON), /networks/I/parameters/...          network of report I
    /extra/NAME [T]                                              scalars of the reports, NaN where absent
    /series/NAME [row]                                           one row per time step
    /fsp/states [M,S], /fsp/probability [T,M], /fsp/lost [T]     exact runs
    /ssa/events [N]                                              trajectory runs
    /provenance                                                  texts as UTF-8 strings, numbers as attributes
and, after the end of the HDF5 data, checksums of all of it (seal.py).
The dot in X.se and X.count cannot be part of a species name, so no two names collide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpcme.errors import InternalError

RESULTS = "results.h5"
RESULTS_FORMAT = "hpcme-results"
RESULTS_VERSION = 1
SEGMENT_FORMAT = "hpcme-segment"
SEGMENT_VERSION = 1
DEFAULT_TIME_UNIT = "model time unit"
MOMENTS = ("mean", "mean_se", "sd_se", "covariance", "covariance_se")
READOUTS = ("mean", "mean_se", "sd", "sd_se")  # of a readout, in this order

# name: (units, long_name); "T" stands for the model's time unit
DATASETS = {
    "time": ("T", "report time"),
    "species": ("1", "species name"),
    "species_2": ("1", "species name (second axis of a covariance)"),
    "sample": ("1", "sample number"),
    "step": ("1", "time step at which the report was made"),
    "limits": ("molecules", "largest count kept, inclusive"),
    "samples": ("molecules", "sampled states"),
    "samples_weight": ("1", "weight of the sample"),
    "samples_count": ("1", "number of samples at this report time"),
    "mean": ("molecules", "mean count"),
    "mean_se": ("molecules", "standard error of the mean"),
    "sd_se": ("molecules", "standard error of the standard deviation"),
    "covariance": ("molecules^2", "covariance of counts"),
    "covariance_se": ("molecules^2", "standard error of the covariance"),
    "readout": ("1", "readout name"),
    "readout_mean": ("1", "mean of the readout"),
    "readout_mean_se": ("1", "standard error of the mean of the readout"),
    "readout_sd": ("1", "standard deviation of the readout"),
    "readout_sd_se": ("1", "standard error of the standard deviation of the readout"),
    "count": ("molecules", "count"),
    "marginal": ("1", "marginal probability"),
    "marginal_se": ("1", "standard error of the marginal probability"),
    "states": ("molecules", "states of the exact law"),
    "state": ("1", "state number"),
    "probability": ("1", "probability of the state"),
    "lost": ("1", "probability that left the set of states"),
    "events": ("1", "reaction events of the trajectory"),
    "row": ("1", "row of the series"),
}

# the series, one row per step, and the scalars of the reports (/extra)
SERIES = {
    "step": ("1", "time step"),
    "t": ("T", "time at the end of the step"),
    "dt": ("T", "length of the time step"),
    "loss": ("1", "loss at the end of the step"),
    "residual": ("1", "relative residual of the step"),
    "ess": ("1", "effective sample size"),
    "leak": ("1/T", "probability flux through the count limits"),
    "lost": ("1", "probability lost through the count limits so far"),
    "certificate": ("1", "certified bound of the total variation error so far"),
    "defect": ("1", "step defect, the certified error of the step"),
    "fit": ("1", "relative residual of the regression of the step"),
    "error": ("1", "estimated local error of the step in the Fisher norm"),
    "stages": ("1", "velocity evaluations of the step"),
    "iterations": ("1", "iterations of the solver in the step"),
    "bound": ("1", "certified bound of the total variation error"),
    "bound_start": ("1", "part of the certified bound: fit of the law at the start"),
    "bound_projection": ("1", "part of the certified bound: projection onto the network's laws"),
    "bound_time": ("1", "part of the certified bound: time integration"),
    "bound_truncation": ("1", "part of the certified bound: truncation at the count limits"),
    "bound_sampling": ("1", "part of the certified bound: statistical error of its estimate"),
    "bound_confidence": ("1", "probability with which the certified bound holds"),
    "epochs": ("1", "optimiser epochs of the step"),
    "distinct": ("1", "distinct states among the samples"),
    "evaluations": ("1", "network evaluations"),
    "gradient_norm": ("1", "norm of the gradient at the end of the step"),
    "learning_rate": ("1", "learning rate at the end of the step"),
    "entropy": ("nat", "entropy of the law"),
    "a0": ("1/T", "mean total propensity"),
    "shortened": ("1", "times that the step was shortened"),
    "rejected": ("1", "rejected trials of the step"),
    "fault": ("1", "1: the numbers broke down, nothing was changed and the step is tried again"),
    "wall": ("s", "wall-clock time of the step"),
    "wall_seconds": ("s", "wall-clock time of the step"),
}


def attributes(name: str, time_unit: str, table: dict[str, tuple[str, str]] = DATASETS) -> dict[str, str]:
    """units and long_name of a dataset or, with table=SERIES, of a series; unknown names keep theirs."""
    units, long_name = table.get(name, ("1", name.replace("_", " ")))
    return {"units": units.replace("T", time_unit), "long_name": long_name}


@dataclass
class Report:
    """The law at one report time, as stored.

    index: number of the report, from 0; time: model time; step: set by the writer.
    samples int32 [N,S] (None for exact laws), weights float64 [N] (None: equal).
    mean, mean_se, sd_se float64 [S]; covariance, covariance_se float64 [S,S].
    marginals, marginals_se: per species, float64 [limits_i + 1] (longer where a law has no upper limit).
    network: None or {"spec": JSON text, "parameters": {name: array}}, what networks.build.load_law reads.
    extra: scalars by name.
    readouts: by name, float64 [4], its moments in the order of READOUTS; NaN where a readout has no value.
    """

    index: int
    time: float
    samples: np.ndarray | None
    weights: np.ndarray | None
    mean: np.ndarray
    mean_se: np.ndarray
    covariance: np.ndarray
    covariance_se: np.ndarray
    sd_se: np.ndarray
    marginals: list[np.ndarray]
    marginals_se: list[np.ndarray]
    network: dict[str, Any] | None = None
    extra: dict[str, float] = field(default_factory=dict)
    step: int = 0
    readouts: dict[str, np.ndarray] = field(default_factory=dict)

    def conform(self, species: int) -> Report:
        """Return the report with the dtypes of the file; InternalError if a shape is wrong.

        Counts must fit int32 and are never rounded: a non-integer dtype is refused. No samples and an empty
        array mean the same, and so do an absent extra and NaN.
        """
        samples = counts_int32(self.index, self.samples, species)
        weights = self.weights
        if weights is not None:
            weights = _float(self.index, "weights", weights, (0 if samples is None else len(samples),))
            weights = weights if len(weights) else None
        shapes = {name: (species, species) if "covariance" in name else (species,) for name in MOMENTS}
        moments = {
            name: _float(self.index, name, getattr(self, name), shape) for name, shape in shapes.items()
        }
        if len(self.marginals) != species or len(self.marginals_se) != species:
            raise InternalError(
                f"report {self.index}: marginals of {len(self.marginals)} species instead of {species}"
            )
        marginals = [_float(self.index, "marginals", m, (len(m),)) for m in self.marginals]
        errors = [
            _float(self.index, "marginals_se", e, m.shape)
            for e, m in zip(self.marginals_se, marginals, strict=True)
        ]
        extra = {str(name): float(value) for name, value in self.extra.items() if value == value}
        return Report(
            index=int(self.index),
            time=float(self.time),
            samples=samples,
            weights=weights,
            **moments,
            marginals=marginals,
            marginals_se=errors,
            network=self.network,
            extra=extra,
            step=int(self.step),
            readouts={
                str(name): _float(self.index, f"readout {name}", values, (len(READOUTS),))
                for name, values in self.readouts.items()
            },
        )


def counts_int32(index: int, samples: np.ndarray | None, species: int) -> np.ndarray | None:
    """Samples as int32 [N,S], None when there are none. Raises InternalError for wrong shapes or counts."""
    if samples is None or len(samples) == 0:
        return None
    samples = np.asarray(samples)
    if samples.dtype.kind not in "iu":
        raise InternalError(f"report {index}: samples have dtype {samples.dtype}, not integers")
    _expect(index, "samples", samples, (len(samples), species))
    if samples.max() > np.iinfo(np.int32).max or samples.min() < 0:
        raise InternalError(f"report {index}: sampled counts do not fit 0..2^31-1")
    return np.ascontiguousarray(samples, dtype=np.int32)


def _expect(index: int, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise InternalError(f"report {index}: {name} has shape {array.shape}, expected {shape}")


def _float(index: int, name: str, value, shape: tuple[int, ...]) -> np.ndarray:
    array = np.ascontiguousarray(value, dtype=np.float64)
    _expect(index, name, array, shape)
    return array


def same_bits(a: Any, b: Any) -> bool:
    """Whether two values (arrays, numbers, strings, None, lists, dictionaries of them) have the same bits."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_bits(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same_bits, a, b))
    if isinstance(a, (np.ndarray, np.generic)):
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return isinstance(b, float) and np.float64(a).tobytes() == np.float64(b).tobytes()
    return type(a) is type(b) and a == b


def check_series(series: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the columns as float64 or int64 arrays of one length. Raises InternalError otherwise."""
    columns: dict[str, np.ndarray] = {}
    for name, values in series.items():
        array = np.atleast_1d(np.asarray(values))
        if array.ndim != 1 or array.dtype.kind not in "biuf":
            raise InternalError(
                f'series "{name}" has shape {array.shape} and dtype {array.dtype}; expected one'
                " dimension of float64 or int64"
            )
        if not name or "/" in name or name in (".", "..", "row"):
            raise InternalError(f'series name "{name}" is empty, reserved or contains "/"')
        columns[name] = np.ascontiguousarray(array, dtype=np.float64 if array.dtype.kind == "f" else np.int64)
    if len({len(column) for column in columns.values()}) > 1:
        raise InternalError(
            "series of one commit have different lengths: "
            + ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        )
    return columns


def join_series(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenate the series of several commits; a column that a part lacks is NaN there (float64)."""
    names = dict.fromkeys(name for part in parts for name in part)
    lengths = [len(next(iter(part.values()))) if part else 0 for part in parts]
    joined = {}
    for name in names:
        blank = any(name not in part and length for part, length in zip(parts, lengths, strict=True))
        columns = [
            part.get(name, np.full(length, np.nan))
            for part, length in zip(parts, lengths, strict=True)
            if name in part or length
        ]
        whole = all(column.dtype.kind == "i" for column in columns) and not blank
        joined[name] = np.concatenate(columns).astype(np.int64 if whole else np.float64)
    return joined
