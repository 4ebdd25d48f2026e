"""Log-likelihood of observed counts under a run: the basis of inference.

Observations are independent snapshots: a row is what was counted in one cell (or vessel) at one time, of all species or
of some. The log-likelihood of a data set is then the sum over rows of log P(counts seen), natural logarithms:

    all species seen            the joint law of an exact or network run, exact
    some species seen           their marginal law: summed where the states of the run can be listed (see cloud.py), the
                                stored marginal for a single species, else the share of samples that agree
    trajectories                the share of trajectories that agree

The last two have standard errors; the samples behind all rows of one time are the same, which the error takes into
account. A row with which no sample agrees has probability zero as far as one can see; it is counted in "unseen", and
the log-likelihood is -inf. Several measurements of the same cell over time are not independent: their likelihood does
not follow from laws at single times, and adding such rows here gives a composite likelihood, not a likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcme.analysis.cloud import MAX_STATES, SAMPLES, Cloud, cloud_of
from hpcme.analysis.laws import law_of
from hpcme.analysis.queries import checked_states, read_columns
from hpcme.errors import InputError, did_you_mean
from hpcme.store.reader import Run

TIME = "time"


@dataclass(frozen=True)
class Observations:
    """counts int64 [N,s] of the species named, at times float64 [N] (None: all at one time, chosen later)."""

    species: tuple[str, ...]
    counts: np.ndarray
    times: np.ndarray | None


def read_observations(path: str | Path, species: list[str]) -> Observations:
    """Observations from a CSV file: a header with species names (some or all, in any order) and perhaps "time".

    Raises InputError naming the file: unreadable, unknown or repeated columns, ragged rows, counts that are no whole
    numbers of at least 0.
    """
    names = f"some of the names {', '.join(species)} and perhaps {TIME}, each once"
    columns = read_columns(path, "observations", names)
    for name in columns:
        if name not in (*species, TIME):
            raise InputError(
                f'{path} has a column "{name}": allowed are {", ".join(species)} and {TIME}.'
                + did_you_mean(name, (*species, TIME))
            )
    seen = [name for name in columns if name != TIME]
    if not seen:
        raise InputError(f"{path} must have a header with {names}: it names no species.")
    try:
        counts = checked_states(seen, {name: columns[name] for name in seen})
        if (counts < 0).any():
            row, column = (int(i) for i in np.argwhere(counts < 0)[0])
            raise InputError(f"row {row + 2} has {seen[column]} = {counts[row, column]}. Fix: counts are 0 or more.")
        times = _times(columns[TIME]) if TIME in columns else None
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return Observations(tuple(seen), counts, times)


def _times(texts: list[str]) -> np.ndarray:
    for number, text in enumerate(texts, 2):
        try:
            good = np.isfinite(float(text))
        except ValueError:
            good = False
        if not good:
            raise InputError(f'row {number} has {TIME} = "{text}". Fix: times are numbers, as stored by the run.')
    return np.array([float(text) for text in texts])


def likelihood_table(
    run: Run,
    data: Observations,
    time: float | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    max_states: int = MAX_STATES,
) -> dict[str, Any]:
    """Log-likelihood of observations under a run.

    time: the stored time of all rows (None: the last), for data without a column of times. Returns {"kind", "species",
    "observations", "loglik", "loglik_se", "impossible", "unseen", "times" [T], "rows" [T], "loglik_at" [T],
    "se_at" [T], "logprob" float64 [N], "method"}, one of the times for each that the data have. impossible: rows of
    probability zero under an exact law; unseen: rows with which no sample agrees; either makes loglik -inf. Raises
    InputError: a time that is not stored, `time` given although the data have times.
    """
    if data.times is not None and time is not None:
        raise InputError(
            f"the time {time:g} was given, but the observations have a column {TIME} of their own. Fix: leave one out."
        )
    index = [run.species_index(name) for name in data.species]
    if data.times is None:
        rows = np.full(len(data.counts), run.index(time))
    else:
        rows = np.array([run.index(float(t)) for t in data.times])
    logprob = np.full(len(rows), -np.inf)
    found: dict[str, list] = {"times": [], "rows": [], "loglik_at": [], "se_at": []}
    impossible = unseen = 0
    methods = []
    for k in np.unique(rows):
        at = np.flatnonzero(rows == k)
        t = float(run.times[k])
        values, se, sampled, method = _logprob(run, index, data.counts[at], t, samples, seed, max_states)
        logprob[at] = values
        nothing = int(np.sum(values == -np.inf))
        unseen, impossible = unseen + nothing * sampled, impossible + nothing * (not sampled)
        for name, value in (("times", t), ("rows", len(at)), ("loglik_at", float(values.sum())), ("se_at", se)):
            found[name].append(value)
        methods.append(method)
    return {
        "kind": run.kind,
        "species": list(data.species),
        "observations": len(rows),
        "loglik": float(logprob.sum()),
        "loglik_se": float(np.sqrt(np.sum(np.square(found["se_at"])))),
        "impossible": impossible,
        "unseen": unseen,
        **{name: np.array(values) for name, values in found.items()},
        "logprob": logprob,
        "method": methods[-1],
    }


def _logprob(run, index, counts, t, samples, seed, max_states) -> tuple[np.ndarray, float, bool, str]:
    """Log-probability of each row, standard error of their sum, whether zero only means unseen, and the method."""
    within = (counts <= np.iinfo(np.int32).max).all(axis=1)
    if run.kind != "ssa" and len(index) == run.S:
        n = np.zeros((len(counts), run.S), dtype=np.int32)
        n[:, index] = np.where(within[:, None], counts, 0)
        return np.where(within, law_of(run, t).log_prob(n), -np.inf), 0.0, False, "the joint law"
    cloud = cloud_of(run, t, samples=samples, seed=seed, max_states=max_states)
    if not cloud.exact and len(index) == 1 and run.kind != "ssa":
        return _single(run, index[0], counts[:, 0], t)
    place, p, observed = _match(cloud, index, counts)
    with np.errstate(divide="ignore"):
        values = np.log(p)[observed]
    if cloud.exact:
        return values, 0.0, False, cloud.method
    # d(sum log p) = sum over samples of (rows that agree with the sample) / p: one number for each sample
    number = np.bincount(observed, minlength=len(p))
    pull = np.divide(number, p, out=np.zeros_like(p), where=p > 0.0)
    return values, cloud.average(np.where(place >= 0, pull[place], 0.0))[1], True, cloud.method


def _single(run: Run, i: int, counts: np.ndarray, t: float) -> tuple[np.ndarray, float, bool, str]:
    p, se = run.marginal(i, t), run.marginal_se(i, t)
    inside = counts < len(p)
    c = np.where(inside, counts, 0)
    with np.errstate(divide="ignore"):
        values = np.where(inside, np.log(p[c]), -np.inf)
    number = np.bincount(c[inside], minlength=len(p))
    share = np.divide(se, p, out=np.zeros_like(p), where=p > 0.0)
    # errors of different counts are treated as independent (multinomial shares are, but for a small negative part)
    return values, float(np.sqrt(np.sum((number * share) ** 2))), bool(se.any()), "the stored marginal"


def _match(cloud: Cloud, index: list[int], counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each listed state the number of the observed combination of counts it has, or -1; the probability of each
    combination; and which combination each row of the data is."""
    combinations, observed = np.unique(counts, axis=0, return_inverse=True)
    observed = observed.reshape(-1)
    number = {tuple(row): i for i, row in enumerate(combinations.tolist())}
    distinct, where = np.unique(cloud.n[:, index].astype(np.int64), axis=0, return_inverse=True)
    place = np.array([number.get(tuple(row), -1) for row in distinct.tolist()])[where.reshape(-1)]
    agree = place >= 0
    p = np.bincount(place[agree], cloud.p[agree], minlength=len(combinations))
    return place, p.astype(np.float64), observed  # numpy counts in integers where nothing agrees
