"""From the ranks to the run folder: reports, series rows and checkpoints of a network run.

Every rank calls the same methods (sampling a report is collective); only rank 0 holds a writer.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from hpcme.dynamics.relaunch import After
from hpcme.dynamics.sampler import Shards
from hpcme.errors import Fault, InputError
from hpcme.model.initial import ProductLaw
from hpcme.model.network import ReactionNetwork
from hpcme.networks.base import VAN
from hpcme.networks.build import parameters_of
from hpcme.parallel.world import World
from hpcme.store.layout import Report
from hpcme.store.moments import law_moments, readout_moments, sample_moments
from hpcme.store.writer import RunWriter

_CHUNK = 4096  # rows whose conditionals are held at once
_STATES = 50_000  # states that are evaluated at once


class Recorder:
    """Collects what happens between two commits and hands it to the writer of rank 0.

    writer: RunWriter on rank 0, None elsewhere. spec: the network's description (`networks.build.network_spec`).
    states: int32 [M, S], all reachable ones, where reports are sums over them; None where they are of samples.
    """

    def __init__(
        self, job, world: World, writer: RunWriter | None, spec: dict[str, Any], shards: Shards,
        states: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        self.job, self.world, self.writer, self.spec, self.shards = job, world, writer, spec, shards
        self.states = states
        self.rows: list[dict[str, float]] = []
        self.reports: list[Report] = []

    def row(self, values: dict[str, float]) -> None:
        """One row of the series (the same numbers on every rank)."""
        if self.writer is not None:
            self.rows.append(values)

    def report(self, index: int, t: float, step: int, network: VAN, extra: dict[str, float]) -> None:
        """Keep a report of the network's law at time t, summed over its states or of samples. Collective."""
        if self.states is None:
            report = sampled_report(self.job, self.world, self.shards, index, t, step, network)
        else:
            report = summed_report(self.job, self.world, self.shards, self.states, index, t, step, network)
        if report is not None:
            report.network = {"spec": json.dumps(self.spec), "parameters": parameters_of(network)}
            report.extra.update(extra)
            self.reports.append(report)

    def remapped(self, index: int, step: int, after: After, extra: dict[str, float]) -> None:
        """Keep a report of the law right after events (`hpcme.dynamics.relaunch`), the same on every rank."""
        if self.writer is not None:
            self.reports.append(remapped_report(self.job, self.spec, index, step, after))
            self.reports[-1].extra.update(extra)

    def start(self) -> None:
        """Keep the report at t = 0: the exact initial law."""
        if self.writer is not None:
            self.reports.append(initial_report(self.job))

    def commit(self, step: int, state: dict[str, Any]) -> None:
        """Write everything since the last commit, with a checkpoint."""
        if self.writer is None:
            return
        # A row of an event lacks most columns.
        names = dict.fromkeys(name for row in reversed(self.rows) for name in row)
        series = {name: np.array([row.get(name, np.nan) for row in self.rows]) for name in names} or None
        # Several reports never meet in one commit, but the start may stand beside the first.
        for report in self.reports[:-1]:
            self.writer.commit(step, None, report, None)
        state = {**state, "network": json.dumps(self.spec)}
        self.writer.commit(step, state, self.reports[-1] if self.reports else None, series)
        self.rows, self.reports = [], []


def sampled_report(
    job, world: World, shards: Shards, index: int, t: float, step: int, network: VAN
) -> Report | None:
    """Moments, marginals and samples of a network; a Report on rank 0, None elsewhere. Collective.

    Marginals are averages of the conditionals over samples (Rao-Blackwell): p_i(c) = E[q(n_i = c | n_before_i)],
    positive wherever the network is, with less noise than a histogram.
    """
    rows = -(-job["output.report_samples"] // shards.total)
    u = shards.uniforms("report", step, index, rows, network.S)
    parts, entropy = [], torch.zeros((), dtype=torch.float64, device=world.device)
    sums = [torch.zeros(2, limit + 1, dtype=torch.float64, device=world.device) for limit in job.net.limits.tolist()]
    for chunk in u.split(_CHUNK):
        n, logq = network.sample(chunk)
        entropy -= logq.sum()
        for total, (logp, row) in zip(sums, network.conditionals(n), strict=True):
            p, many = logp.exp(), torch.bincount(row, minlength=logp.shape[0]).double()
            total += torch.stack([many @ p, many @ (p * p)])
        parts.append(n.cpu().numpy())
    flat = world.sum_(torch.cat([entropy.reshape(1), *(total.reshape(-1) for total in sums)])).cpu().numpy()
    if not np.isfinite(flat).all():
        raise Fault(f"the report at t = {t:g} has numbers that are not finite.")
    gathered = world.gather(np.concatenate(parts))
    if gathered is None:
        return None
    n = np.concatenate(gathered)
    N, at = len(n), 1
    marginals, errors = [], []
    for limit in job.net.limits.tolist():
        first, second = flat[at : at + limit + 1] / N, flat[at + limit + 1 : at + 2 * (limit + 1)] / N
        marginals.append(first)
        errors.append(np.sqrt(np.maximum(second - first**2, 0.0) / N))
        at += 2 * (limit + 1)
    m = sample_moments(n)
    return Report(
        index=index, time=t, samples=n[: job["output.samples"]], weights=None, mean=m.mean, mean_se=m.mean_se,
        covariance=m.covariance, covariance_se=m.covariance_se, sd_se=m.sd_se, marginals=marginals,
        marginals_se=errors, extra={"entropy": flat[0] / N}, step=step,
        readouts=readout_moments(job.net.readouts, job.net.readout_values(n)),
    )  # fmt: skip


@torch.no_grad()
def summed_report(
    job, world: World, shards: Shards, states: torch.Tensor, index: int, t: float, step: int, network: VAN
) -> Report | None:
    """Moments and marginals of a network, sums over all reachable states int32 [M, S] (the same on every rank) without
    standard errors, and samples; a Report on rank 0, None elsewhere. Collective."""
    mine = world.part(len(states))
    logq = torch.zeros(len(states), dtype=torch.float64, device=states.device)
    logq[mine] = torch.cat([network.log_prob(part).double() for part in states[mine].split(_STATES)])
    logq = world.sum_(logq).cpu().numpy()
    rows = -(-max(1, job["output.samples"]) // shards.total)
    u = shards.uniforms("report", step, index, rows, network.S)
    gathered = world.gather(torch.cat([network.sample(part)[0] for part in u.split(_CHUNK)]).cpu().numpy())
    q = np.exp(logq)
    if not np.isfinite(q.sum()):
        raise Fault(f"the report at t = {t:g} has numbers that are not finite.")
    if gathered is None:
        return None
    q, logq = q / q.sum(), np.where(q > 0.0, logq, 0.0)
    return Report(
        index=index, time=t, samples=np.concatenate(gathered)[: job["output.samples"]], weights=None,
        extra={"entropy": -float(q @ logq)}, step=step, **_exact_moments(job.net, states.cpu().numpy(), q),
    )  # fmt: skip


def _exact_moments(net: ReactionNetwork, states: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    """What a report says about a law that is known, states int32 [M, S] with p float64 [M]: no standard errors."""
    mean, covariance = law_moments(states, p)
    zero = np.zeros(net.S)
    marginals = [np.bincount(states[:, i], weights=p, minlength=limit + 1) for i, limit in enumerate(net.limits)]
    return {
        "mean": mean, "mean_se": zero, "covariance": covariance, "covariance_se": np.zeros_like(covariance),
        "sd_se": zero, "marginals": marginals, "marginals_se": [np.zeros_like(m) for m in marginals],
        "readouts": readout_moments(net.readouts, net.readout_values(states), p, exact=True),
    }  # fmt: skip


def remapped_report(job, spec: dict[str, Any], index: int, step: int, after: After) -> Report:
    """The law right after events as a report: of all its states, without standard errors, or of samples of it."""
    law, states, p = after.law, after.states, after.p
    u = np.random.default_rng([job["run.seed"], index]).random((max(1, job["output.samples"]), job.net.S))
    moments = _exact_moments(job.net, states, p)
    if not after.exact:
        m, marginals = sample_moments(states), moments["marginals"]
        moments |= {
            "mean": m.mean, "mean_se": m.mean_se, "covariance": m.covariance, "covariance_se": m.covariance_se,
            "sd_se": m.sd_se, "marginals_se": [np.sqrt(q * (1.0 - q) / len(p)) for q in marginals],
            "readouts": readout_moments(job.net.readouts, job.net.readout_values(states)),
        }  # fmt: skip
    described = {"kind": "remapped", "of": spec, "t": after.t, "lost": after.lost}
    return Report(
        index=index, time=after.t, samples=law.sample(u)[: job["output.samples"]], weights=None, extra={}, step=step,
        network={"spec": json.dumps(described), "parameters": parameters_of(law.before)}, **moments,
    )  # fmt: skip


def initial_report(job) -> Report:
    """The exact initial law as a report; standard errors are zero."""
    net, law, S = job.net, job.net.initial, job.net.S
    u = np.random.default_rng(job["run.seed"]).random((max(1, job["output.samples"]), S))
    samples = law.sample(u)
    try:
        moments = _exact_moments(net, *law.support())
    except InputError:  # too many states to list; a joint table never is, so the species are independent
        assert isinstance(law, ProductLaw)
        marginals, mean = [np.asarray(pmf) for pmf in law.pmfs], law.mean()
        n = law.sample(np.random.default_rng(job["run.seed"]).random((job["output.report_samples"], S)))
        squares = [pmf @ np.arange(len(pmf)) ** 2 - m * m for pmf, m in zip(marginals, mean, strict=True)]
        moments = {
            "mean": mean, "mean_se": np.zeros(S), "covariance": np.diag(squares), "covariance_se": np.zeros((S, S)),
            "sd_se": np.zeros(S), "marginals": marginals, "marginals_se": [np.zeros_like(m) for m in marginals],
            "readouts": readout_moments(net.readouts, net.readout_values(n)),
        }  # fmt: skip
    return Report(
        index=0, time=0.0, samples=samples[: job["output.samples"]], weights=None,
        network={"spec": json.dumps({"kind": "initial"}), "parameters": {}}, extra={"lost": 0.0, "bound": 0.0},
        **moments,
    )  # fmt: skip
