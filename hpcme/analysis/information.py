"""Entropies, mutual information and correlations of a run at one time, with standard errors. Natural logarithms (nats).

Where the law can be listed (see cloud.py) all of them are sums over its states. From N samples of a network:

    entropy of the joint law    -mean log q(n), with the network's own log-probabilities: unbiased
    entropy of a species        Chao, Wang and Jost's estimator from the counts seen: see entropy.py
    mutual information          the entropies of the two species less that of the pair, each estimated so, not below 0
    total correlation           sum of the species' entropies less the joint entropy

Standard errors are the standard deviation over samples of the logarithm that is averaged, over sqrt(N) (delta method;
Roulston, Physica D 125, 285, 1999), and, added in quadrature, a fifth of the correction for the bias of counting: what
may be left of it. That of a correlation r is from z_i z_j - r (z_i^2 + z_j^2) / 2 with standardised z.
Trajectories know no log-probabilities: there the joint entropy and the total correlation are not given (NaN).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcme.analysis.cloud import MAX_STATES, SAMPLES, Cloud, cloud_of
from hpcme.analysis.entropy import LEFT, counted_entropy
from hpcme.errors import InputError
from hpcme.store.reader import Run


def information_table(
    run: Run,
    species: Sequence[str] | None = None,
    time: float | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    max_states: int = MAX_STATES,
) -> dict[str, Any]:
    """Entropies and dependences at one stored time (None: the last).

    species: which ones (None: all); the joint entropy and the total correlation are those of all species. Returns
    {"kind", "time", "species" [s], "method", "joint_entropy", "joint_entropy_se", "total_correlation",
     "total_correlation_se", "entropy" [s], "entropy_se" [s], "mutual_information", "mutual_information_se",
     "correlation", "correlation_se" [s,s]} in nats, as floats and float64 arrays. The diagonal of the mutual
    information is the entropy. A species that does not vary has correlation NaN. Raises InputError for unknown species
    or times.
    """
    index = list(range(run.S)) if species is None else [run.species_index(name) for name in species]
    if len(set(index)) < len(index) or not index:
        raise InputError(f"species {', '.join(map(str, species or []))}: name each one once, and at least one.")
    k = run.index(time)
    cloud = cloud_of(run, float(run.times[k]), samples=samples, seed=seed, max_states=max_states)
    joint, total = joint_entropy(cloud), total_correlation(cloud)
    size = len(index)
    tables = {name: np.zeros((size, size)) for name in ("mutual_information", "correlation")}
    errors = {name: np.zeros((size, size)) for name in tables}
    entropies = np.array([species_entropy(cloud, i) for i in index]).reshape(size, 2)
    for a, i in enumerate(index):
        for b, j in enumerate(index[: a + 1]):
            found = {
                "mutual_information": tuple(entropies[a]) if a == b else mutual_information(cloud, i, j),
                "correlation": correlation(cloud, i, j),
            }
            for name, (value, se) in found.items():
                tables[name][a, b] = tables[name][b, a] = value
                errors[name][a, b] = errors[name][b, a] = se
    return {
        "kind": run.kind,
        "time": float(run.times[k]),
        "species": [run.species[i] for i in index],
        "method": cloud.method,
        "joint_entropy": joint[0],
        "joint_entropy_se": joint[1],
        "total_correlation": total[0],
        "total_correlation_se": total[1],
        "entropy": entropies[:, 0],
        "entropy_se": entropies[:, 1],
        **tables,
        **{f"{name}_se": error for name, error in errors.items()},
    }


def joint_entropy(cloud: Cloud) -> tuple[float, float]:
    """Entropy of the joint law and its standard error, nats."""
    return (np.nan, np.nan) if cloud.logq is None else cloud.average(-_own_log(cloud))


def species_entropy(cloud: Cloud, i: int) -> tuple[float, float]:
    """Entropy of the marginal law of species i and its standard error, nats."""
    logp, bias = _table_log(cloud, [i])
    return _corrected(cloud, -logp, bias)


def mutual_information(cloud: Cloud, i: int, j: int) -> tuple[float, float]:
    """Mutual information of two species and its standard error, nats."""
    (pair, both), (one, bias_i), (two, bias_j) = (_table_log(cloud, which) for which in ([i, j], [i], [j]))
    value, se = _corrected(cloud, pair - one - two, bias_i + bias_j - both)
    return max(0.0, value), se


def total_correlation(cloud: Cloud) -> tuple[float, float]:
    """Sum of the entropies of all species less the joint entropy, and its standard error, nats."""
    if cloud.logq is None:
        return np.nan, np.nan
    tables = [_table_log(cloud, [i]) for i in range(cloud.n.shape[1])]
    return _corrected(cloud, _own_log(cloud) - sum(logp for logp, _ in tables), sum(bias for _, bias in tables))


def _corrected(cloud: Cloud, logs: np.ndarray, correction: float) -> tuple[float, float]:
    """Mean of logarithms of observed shares, corrected for the bias of counting; and its standard error."""
    value, se = cloud.average(logs)
    return value + correction, float(np.hypot(se, LEFT * correction))


def correlation(cloud: Cloud, i: int, j: int) -> tuple[float, float]:
    """Pearson's correlation of two species and its standard error; NaN where one of them does not vary."""
    x, y = (cloud.n[:, k].astype(np.float64) for k in (i, j))
    x, y = x - cloud.average(x)[0], y - cloud.average(y)[0]
    scale = cloud.average(x**2)[0], cloud.average(y**2)[0]
    if min(scale) <= 0.0:
        return np.nan, np.nan
    x, y = x / np.sqrt(scale[0]), y / np.sqrt(scale[1])
    r = cloud.average(x * y)[0]
    return min(1.0, max(-1.0, r)), cloud.average(x * y - 0.5 * r * (x**2 + y**2))[1]


def _own_log(cloud: Cloud) -> np.ndarray:
    """Log-probability of each listed state under the law conditioned on the listed states, 0 where it has none."""
    found = cloud.logq - (np.log(cloud.p.sum()) if cloud.exact else 0.0)
    return np.where(cloud.p > 0.0, found, 0.0)


def _table_log(cloud: Cloud, which: list[int]) -> tuple[np.ndarray, float]:
    """Log-probability of the counts of one or two species at each listed state, float64 [M] (0 where the state has no
    probability), and the correction of their entropy for the bias of counting (0 where nothing was counted)."""
    n = cloud.n[:, which].astype(np.int64)
    key = n[:, 0] if len(which) == 1 else n[:, 0] * (n[:, 1].max(initial=0) + 1) + n[:, 1]
    _, place = np.unique(key, return_inverse=True)
    p = np.bincount(place, cloud.p / cloud.p.sum())
    bias = 0.0 if cloud.exact else counted_entropy(np.bincount(place))[1]
    with np.errstate(divide="ignore"):
        return np.where(cloud.p > 0.0, np.log(p)[place], 0.0), bias
