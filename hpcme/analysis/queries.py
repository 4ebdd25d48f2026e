"""Answers from a run: marginal distributions, log-probabilities of states, fresh samples."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcme.analysis.laws import law_of
from hpcme.errors import InputError, did_you_mean
from hpcme.store.moments import histogram
from hpcme.store.reader import Run


def marginal_table(
    run: Run,
    species: Sequence[str] | str,
    time: float | None = None,
    *,
    samples: int = 100_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Distribution of one or two species at one stored time (None: the last), with standard errors.

    One species: the stored marginal. Two: exact runs sum the joint law; trajectory runs count their
    trajectories; network runs count `samples` fresh samples; errors are then binomial, sqrt(p (1-p) / N).
    Returns {"kind", "time", "species" [1 or 2], "counts": list of count axes, "probability", "se", "method"}
    with probability and se as array [counts] or [counts, counts2]. InputError: unknown species or time.
    """
    names = [species] if isinstance(species, str) else list(species)
    index = [run.species_index(name) for name in names]
    if len(index) not in (1, 2) or len(set(index)) != len(index):
        raise InputError(
            f"marginals are of one species or of two different ones, not of {len(names)}:"
            f" {', '.join(map(str, names))}."
        )
    k = run.index(time)
    t = float(run.times[k])
    if len(index) == 1:
        p, se, method = run.marginal(index[0], t), run.marginal_se(index[0], t), "stored"
    else:
        p, se, method = _two_species(run, index, t, samples, seed)
    return {
        "kind": run.kind,
        "time": t,
        "species": [run.species[i] for i in index],
        "counts": [np.arange(length) for length in p.shape],
        "probability": p,
        "se": se,
        "method": method,
    }


def _two_species(
    run: Run, index: list[int], t: float, samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, str]:
    if run.kind == "fsp":
        n, weights, method = run.fsp_states(), run.probability(t), "sum of the joint law"
    elif run.kind == "ssa":
        n, weights, method = run.samples(t), run.weights(t), "trajectories"
    else:
        positive(samples, "samples")
        n, weights, method = law_of(run, t).sample(samples, seed=seed), None, f"{samples} fresh samples"
    pair = n[:, index].astype(np.int64)
    shape = [max(int(run.limits[i]), int(pair[:, j].max())) + 1 for j, i in enumerate(index)]
    flat = histogram(pair[:, 0] * shape[1] + pair[:, 1], weights, shape[0] * shape[1])
    p = flat.reshape(shape) / (len(n) if weights is None else 1.0)
    if run.kind == "fsp":
        return p, np.zeros_like(p), method
    number = len(n) if weights is None else 1.0 / np.sum(weights**2)
    return p, np.sqrt(p * (1.0 - p) / number), method


def logprob_table(run: Run, time: float | None, states: Any) -> dict[str, Any]:
    """Normalised joint log-probabilities (natural logarithm) of states at one stored time.

    states: integer array [N,S] in the run's species order, a list of rows, or a mapping from every species
    name to a column. A state outside the limits or the support has -inf. Returns {"kind", "time", "species",
    "states" int64 [N,S], "logprob" float64 [N]}. Raises InputError for wrong shapes, unknown or missing
    species, fractional counts, and for trajectory runs.
    """
    n = checked_states(run.species, states)
    k = run.index(time)
    law = law_of(run, float(run.times[k]))
    possible = ((n >= 0) & (n <= np.iinfo(np.int32).max)).all(axis=1)
    logprob = np.full(len(n), -np.inf)
    if possible.any():
        logprob[possible] = law.log_prob(n[possible].astype(np.int32))
    return {
        "kind": run.kind,
        "time": float(run.times[k]),
        "species": list(run.species),
        "states": n,
        "logprob": logprob,
    }


def checked_states(species: Sequence[str], states: Any) -> np.ndarray:
    """States as int64 [N,S] in the order of `species`; see logprob_table. Raises InputError."""
    if isinstance(states, Mapping):
        for name in states:
            if name not in species:
                raise InputError(
                    f'the states have a column "{name}", which is no species: allowed are'
                    f" {', '.join(species)}." + did_you_mean(str(name), species)
                )
        missing = [name for name in species if name not in states]
        if missing:
            raise InputError(
                f"the states lack the species {', '.join(missing)}. Fix: give one column per species."
            )
        lengths = {np.size(states[name]) for name in species}
        if len(lengths) > 1:
            raise InputError(f"the columns of the states have different lengths: {sorted(lengths)}.")
        states = np.stack([np.asarray(states[name]).reshape(-1) for name in species], axis=1)
    try:
        given = np.asarray(states)
        numbers = given if given.dtype.kind in "iu" else given.astype(np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"the states are not numbers. Fix: give integer counts of {', '.join(species)}."
        ) from None
    if numbers.ndim == 1 and len(numbers) == len(species) > 0:
        numbers = numbers[None, :]
    if numbers.ndim != 2 or numbers.shape[1] != len(species):
        raise InputError(
            f"the states have shape {numbers.shape}, expected (states, {len(species)}): one row per state,"
            f" one column each for {', '.join(species)}."
        )
    if numbers.dtype.kind == "u" and numbers.size and numbers.max() > np.iinfo(np.int64).max:
        raise InputError(f"the state {numbers.max()} is too large for a count.")
    if numbers.dtype.kind == "f":
        bad = ~np.isfinite(numbers) | (numbers != np.round(numbers)) | (np.abs(numbers) > 2.0**53)
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise InputError(
                f"state {row} has {species[column]} = {numbers[row, column]:g}. Fix: counts are integers."
            )
    return numbers.astype(np.int64)


def read_columns(path: str | Path, what: str, names: str) -> dict[str, list[str]]:
    """Texts of a CSV file by column, all of the same length, at least 1.

    what: "states"; names: what its header must hold; both for messages. A byte order mark, which spreadsheets write, is
    passed over. Raises InputError naming the file: unreadable, no or repeated columns, ragged or no rows.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, skipinitialspace=True) if row]
    except OSError as error:
        raise InputError(f"cannot read the {what} in {path}: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV text file ({error}).") from error
    header = [name.strip() for name in rows[0]] if rows else []
    if len(rows) < 2 or len(set(header)) < len(header):
        raise InputError(f"{path} must have a header with {names}, and at least one row.")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise InputError(f"{path}, row {number}: {len(row)} values, but {len(header)} columns.")
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(header)}


def read_states(path: str | Path, species: Sequence[str]) -> np.ndarray:
    """States int64 [N,S] from a CSV file with a header of species names, in any order. Raises InputError."""
    columns = read_columns(path, "states", f"the names {', '.join(species)}, each once")
    try:
        return checked_states(species, columns)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def sample_table(run: Run, time: float | None, number: int, seed: int = 0) -> dict[str, Any]:
    """Independent samples at one stored time: fresh ones from a network or an exact law (a function of the
    seed), the first `number` trajectories of a trajectory run.

    Returns {"kind", "time", "species", "samples" int32 [N,S]}. InputError: too few trajectories.
    """
    positive(number, "the number of samples")
    k = run.index(time)
    t = float(run.times[k])
    if run.kind == "ssa":
        n = run.samples(t)
        if len(n) < number:
            raise InputError(
                f"{run.path} holds {len(n)} trajectories, {number} were asked for. Fix: ask for fewer, or"
                " simulate more."
            )
        n = n[:number]
    else:
        n = law_of(run, t).sample(number, seed=seed)
    return {
        "kind": run.kind,
        "time": t,
        "species": list(run.species),
        "samples": np.asarray(n, dtype=np.int32),
    }


def positive(number: int, what: str) -> None:
    """InputError unless a number of samples is an integer of at least 1; what: its name in the message."""
    if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < 1:
        raise InputError(f"{what} = {number!r} must be an integer of at least 1.")
