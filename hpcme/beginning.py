"""The network of a job, and its start: fitted to the exact law after a few transitions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from hpcme.dynamics.start import GOOD, JUMPS, marginals, settle
from hpcme.exact.shorttime import short_time_law
from hpcme.model.event import species_set
from hpcme.model.job import Job
from hpcme.model.ordering import resolved_order
from hpcme.networks.build import build_network, network_spec
from hpcme.networks.heads import choose_head

_FREE_FIRST = 1000  # largest limit of a first species with a free logit for every count


def network_of(job: Job, pmfs: list[torch.Tensor]) -> dict[str, Any]:
    """Description of the network that a job asks for, with heads that can represent the marginals pmfs of the start."""
    basis = job["network.kind"] == "basis"
    exact = job["solver.scheme"] == "tdvp" and job["solver.integrator"] == "exponential"
    order = resolved_order(job.net, job["network.order"], job["network.far"])
    heads = [choose_head(job["network.head"], pmf, basis, exact) for pmf in pmfs]
    if exact and job["network.head"] == "auto":
        # The first species has one law, not one for every prefix: exact sums can afford it a logit for every count.
        first = job.net.species.index(order[0])
        if job.net.limits[first] <= _FREE_FIRST:
            heads[first] = "categorical"
    for name in species_set(job.net.events):  # the law of a count that is set to a value is narrow for a while
        s = job.net.species.index(name)
        heads[s] = "fine" if heads[s] in ("spline", "coarse") and basis else heads[s]
    return network_spec(
        job.net, kind=job["network.kind"], width=job["network.width"], depth=job["network.depth"],
        heads=heads, order=order,
        dtype=job["run.dtype"], sight=job["network.sight"] if basis else None, far=job["network.far"],
        support_states=job["network.support_states"], end=job["time.end"],
    )  # fmt: skip


class Start(NamedTuple):
    """The network at its first time: t, description, parameters by name, and its total variation distance from the
    exact law (probability that the exact law neglects included)."""

    t: float
    spec: dict[str, Any]
    parameters: dict[str, torch.Tensor]
    distance: float


def start_of(job: Job, say: Callable[[str], None]) -> Start:
    """Fit a network to the exact law at a short time; one rank does it for all.

    solver.start_jumps = "auto": after 3 expected transitions, or later where the network cannot represent so narrow a
    law: 10, 30 and 100, as long as the exact law stays on few states.
    """
    wanted = job["solver.start_jumps"]
    trials = (wanted,)
    if wanted == "auto":
        trials = JUMPS if job["solver.scheme"] == "tdvp" else JUMPS[:1]
    first = min([float(job.report_times[1]), *job.net.event_times(float(job.report_times[1])).tolist()])
    found = support = None
    for jumps in trials:
        began = time.perf_counter()
        t0, states, p, lost = short_time_law(
            job.net, jumps=jumps, t_max=first, max_states=job["solver.start_states"]
        )
        pmfs = marginals(states, p, job.net.limits)
        spec = network_of(job, pmfs)
        network = build_network(spec, job.net, seed=job["run.seed"], support=support)
        support = network.support  # the same for every trial
        network.set_marginals(pmfs)
        kl, tv = settle(network, states, p, job)
        if found is None or tv + lost < found.distance:
            found = Start(t0, spec, network.state_dict(), min(1.0, tv + lost))
            line = (f"hpcme: start at t = {t0:.4g}, exact on {len(states)} states (neglected {lost:.1e}); "
                    f"fit KL {kl:.1e}, TV {tv:.1e} in {time.perf_counter() - began:.1f} s")  # fmt: skip
        if found.distance <= GOOD or t0 >= first:
            break
    say(line)
    return found
