"""Exact and trajectory solutions as finished runs, in the layout of a network run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpcme.errors import InternalError
from hpcme.model.network import ReactionNetwork
from hpcme.store.layout import Report, counts_int32
from hpcme.store.moments import histogram, law_moments, readout_moments, sample_moments
from hpcme.store.results import Content
from hpcme.store.writer import RunWriter


def write_fsp_run(
    path: str | Path,
    identity: dict[str, Any],
    times: np.ndarray,
    states: np.ndarray,
    probability: np.ndarray,
    lost: np.ndarray,
    extra: dict[str, Any] | None = None,
    net: ReactionNetwork | None = None,
) -> Path:
    """Write an exact solution as a finished run of kind "fsp"; returns the folder.

    times [T]; states int [M,S], each state once; probability float64 [T,M] with sum_M = 1 - lost [T].
    Moments are those of the law conditioned on `states` (divided by 1 - lost); marginals sum to 1 - lost.
    Standard errors are zero. extra: further provenance (method, seconds). net: the network, whose readouts are
    stored. A folder that holds the same finished run is left as it is. Raises InputError (another run is
    there), OutputError, InternalError.
    """
    times = np.asarray(times, dtype=np.float64)
    states = counts_int32(0, states, len(identity["species"]))
    probability = np.ascontiguousarray(probability, dtype=np.float64)
    lost = np.ascontiguousarray(lost, dtype=np.float64)
    if states is None or probability.shape != (len(times), len(states)) or lost.shape != times.shape:
        raise InternalError(
            f"exact solution with shapes {probability.shape}, {lost.shape} for {len(times)} times"
        )
    lengths = [int(max(limit, states[:, i].max())) + 1 for i, limit in enumerate(identity["limits"])]
    zero = np.zeros(states.shape[1])
    names = () if net is None else tuple(net.readouts)
    values = np.zeros((len(states), 0)) if net is None else net.readout_values(states)

    def report(k: int) -> Report:
        mean, covariance = law_moments(states, probability[k])
        marginals = [histogram(states[:, i], probability[k], length) for i, length in enumerate(lengths)]
        return Report(
            index=k,
            time=times[k],
            samples=None,
            weights=None,
            mean=mean,
            mean_se=zero,
            covariance=covariance,
            covariance_se=np.zeros_like(covariance),
            sd_se=zero,
            marginals=marginals,
            marginals_se=[np.zeros_like(m) for m in marginals],
            extra={"lost": lost[k]},
            readouts=readout_moments(names, values, probability[k], exact=True),
        ).conform(len(zero))

    reports = [report(k) for k in range(len(times))]  # each is read several times
    fsp = {"states": states, "probability": probability, "lost": lost}
    return _write(path, {**identity, "kind": "fsp"}, Content(len(times), reports.__getitem__, {}, fsp=fsp), extra)


def write_ssa_run(
    path: str | Path,
    identity: dict[str, Any],
    times: np.ndarray,
    samples: np.ndarray,
    events: np.ndarray,
    extra: dict[str, Any] | None = None,
    net: ReactionNetwork | None = None,
) -> Path:
    """Write simulated trajectories as a finished run of kind "ssa"; returns the folder.

    times [T]; samples int [T,N,S], state of trajectory i at each time; events int64 [N]. Marginals are
    histograms with binomial standard errors sqrt(p (1-p) / N), up to the largest count seen. Otherwise as
    write_fsp_run.
    """
    times = np.asarray(times, dtype=np.float64)
    events = np.ascontiguousarray(events, dtype=np.int64)
    samples = np.asarray(samples)
    if samples.ndim != 3 or samples.shape[:2] != (len(times), len(events)) or len(events) == 0:
        raise InternalError(
            f"trajectories with shapes {samples.shape} and {events.shape} for {len(times)} times"
        )
    species, number = samples.shape[2], samples.shape[1]
    lengths = [int(max(limit, samples[:, :, i].max())) + 1 for i, limit in enumerate(identity["limits"])]

    def report(k: int) -> Report:
        n = counts_int32(k, samples[k], species)
        m = sample_moments(n)
        marginals = [histogram(n[:, i], None, length) / number for i, length in enumerate(lengths)]
        return Report(
            index=k,
            time=times[k],
            samples=n,
            weights=None,
            mean=m.mean,
            mean_se=m.mean_se,
            covariance=m.covariance,
            covariance_se=m.covariance_se,
            sd_se=m.sd_se,
            marginals=marginals,
            marginals_se=[np.sqrt(p * (1.0 - p) / number) for p in marginals],
            readouts={} if net is None else readout_moments(net.readouts, net.readout_values(n)),
        ).conform(species)

    reports = [report(k) for k in range(len(times))]  # each is read several times; samples are not copied
    return _write(
        path, {**identity, "kind": "ssa"}, Content(len(times), reports.__getitem__, {}, events=events), extra
    )


def _write(
    path: str | Path, identity: dict[str, Any], content: Content, extra: dict[str, Any] | None
) -> Path:
    identity = {**identity, "provenance": {**identity.get("provenance", {}), **(extra or {})}}
    with RunWriter.open(path, identity) as writer:
        if not writer.done:
            writer.note("finished")
            writer.publish_results(content)
    return Path(path)
