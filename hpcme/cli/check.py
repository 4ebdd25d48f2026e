"""`hpcme check`: everything that can be known about a job or model before it is solved."""

from __future__ import annotations

import argparse
import math
import time
from typing import TYPE_CHECKING, Any

from hpcme.cli.output import add_formats, bytes_text, seconds_text, show
from hpcme.cli.parsing import Command, add_job, is_model_file, read_job, whole
from hpcme.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from hpcme.model.job import Job
    from hpcme.model.network import ReactionNetwork

_COUNTED = 2_000_000  # reachable states counted at most
_CHECKED = 200_000  # reachable states whose propensities are all evaluated
_SHOWN = 6  # switch times in the text
_SCORES = 400_000_000  # bytes of the scores that scheme tdvp holds at once
_COPIES = 6  # parameters, gradient, two moments of the optimiser, the frozen copy, the last motion


def options(parser: argparse.ArgumentParser) -> None:
    add_job(parser)
    parser.add_argument(
        "--max-states",
        type=whole(1),
        default=_COUNTED,
        metavar="M",
        help="count reachable states up to this (default 2000000)",
    )
    add_formats(parser, csv_too=False)


def execute(args: argparse.Namespace) -> int:
    job = read_job(args, need_end=not is_model_file(args.job))
    from hpcme.model.describe import describe, describe_dict
    from hpcme.model.ordering import resolved_order

    found = {limit.species: (limit.largest, limit.text()) for limit in job.limits or () if limit.how != "given"}
    states = None if any(job.net.auto_limits) else reachable_states(job, args.max_states)
    order = resolved_order(job.net, job["network.order"], job["network.far"])
    data = {**describe_dict(job.model, found), "states": states, "order": order}
    if job["time.end"] is not None:
        data["job"] = job_dict(job)
        data["cost"] = cost(job)
    order = f"  order of the species in the network: {', '.join(data['order'])}"
    text = describe(job.model, found).rstrip()
    show(args, data, lambda: [text, *_states_text(states), order, *_job_text(job, data)])
    return 0


# ---- states ----


def reachable_states(job: Job, most: int) -> dict[str, Any]:
    """Reachable states counted up to `most`, size of the box of limits, and needs of an exact solution.

    Raises InputError when a propensity is negative or not finite in one of the first reachable states.
    """
    from hpcme.kernels.reach import reachable
    from hpcme.model.event import remaps

    net = job.net
    end = job["time.end"] or 0.0
    times = _probes(end) if net.time_dependent else None
    try:
        start, _ = net.initial.support(max_states=most)
        last = math.inf if job["time.end"] is None else end
        found, complete = reachable(
            start, net.tables, net.s, net.limits, most, times=times, remaps=remaps(net, last)
        )  # fmt: skip
    except InputError:  # the start alone has more states than that
        found, complete = None, False
    if found is not None:
        _check_propensities(net, found[:_CHECKED], [0.0] if times is None else times.tolist())
    count = most if found is None else len(found)
    reports = 0 if job["time.end"] is None else len(job.report_times)
    return {
        "reachable": count,
        "complete": complete,
        "box": math.prod(int(limit) + 1 for limit in net.limits),
        "exact_support": complete and count <= job["network.support_states"],
        "exact_solver_bytes": exact_bytes(net, count, reports) if complete else None,
        "rates_probed_at": None if times is None else times.tolist(),
        "switch_times": net.switch_times(end).tolist(),
    }


def _probes(end: float) -> np.ndarray:
    import numpy as np

    return np.linspace(0.0, end, 33)


def exact_bytes(net: ReactionNetwork, count: int, reports: int) -> int:
    """Memory of the exact solver: 12 bytes for each of at most R + 1 rates per state, about eight vectors,
    the states with their hash table, and the law at every report time."""
    return count * (12 * (net.R + 1) + 8 * 8 + 12 * net.S + 8 * reports)


def _check_propensities(net: ReactionNetwork, states: np.ndarray, times: list[float]) -> None:
    from hpcme.exact.statespace import StateSpace

    space = StateSpace(net, states, complete=False, reflecting=True)
    target = space.targets(0, len(space))
    for t in times:
        space.rates(0, len(space), t, target)


def _states_text(states: dict[str, Any] | None) -> list[str]:
    if states is None:
        return ["", "states", '  some limits are automatic and depend on how long the system runs: give --end T']
    count, box = states["reachable"], states["box"]
    within = (
        f"{box}" if box < 10**12 else f"{float(box):.3g}" if box < 1e300 else f"about 1e{math.log10(box):.0f}"
    )
    lines = ["", "states"]
    if not states["complete"]:
        lines.append(f"  more than {count} reachable, of {within} within the limits")
        lines.append("  exact solution (hpcme fsp): not with this many states; hpcme ssa gives trajectories")
    else:
        lines.append(f"  {count} reachable, of {within} within the limits")
        lines.append(
            "  exact solution (hpcme fsp): possible, about "
            f"{bytes_text(states['exact_solver_bytes'])} of memory"
        )
    if states["rates_probed_at"] and states["rates_probed_at"][-1] == 0.0:
        lines.append("  rates read the time and were looked at for t = 0 only: give --end T")
    if states["switch_times"]:
        lines.append(f"  {_switches_text(states['switch_times'])}")
    support = (
        "the reachable states exactly"
        if states["exact_support"]
        else "all states that obey limits and conservation laws"
    )
    lines.append(f"  support of the network: {support}")
    return lines


def _switches_text(times: list[float]) -> str:
    """The first switch times, and how many there are."""
    from hpcme.model.switching import MOST_SWITCHES

    shown = ", ".join(f"{t:.10g}" for t in times[:_SHOWN])
    if len(times) <= _SHOWN:
        return f"rates switch at t = {shown}"
    many = "or more " if len(times) >= MOST_SWITCHES else ""
    return f"rates switch at t = {shown}, ... ({len(times)} {many}times until the end)"


# ---- job ----


def job_dict(job: Job) -> dict[str, Any]:
    """The resolved job: values that differ from the defaults, and the report times."""
    default = _defaults(job)
    changed = {
        key: value
        for key, value in job.values.items()
        if key not in ("time.end", "time.report") and value != default[key]
    }
    return {
        "name": job.name,
        "end": job["time.end"],
        "report_times": job.report_times.tolist(),
        "integrator": job["solver.integrator"],
        "out": str(job.out),
        "changed": changed,
    }


def _defaults(job: Job) -> dict[str, Any]:
    """The value that each key would have, were it left out: some follow the scheme, the loss or the network."""
    from hpcme.model.job import load_job
    from hpcme.model.keys import KEYS

    def left_out(*kept: str) -> dict[str, Any]:
        kept = (*kept, *(("time.end",) if job["time.end"] else ()))
        return load_job({"model": job.net}, overrides={key: job[key] for key in kept}, need_end=False).values

    default = left_out("solver.scheme", "solver.loss")
    default["network.width"] = left_out("solver.scheme", "network.kind")["network.width"]
    sums = ("sampling.exact", "sampling.exact_states")
    default["solver.scheme"] = left_out(*sums)["solver.scheme"]
    default["solver.integrator"] = left_out("solver.scheme", *sums)["solver.integrator"]
    followed = left_out("solver.scheme", "solver.loss", "solver.integrator", *sums)
    default |= {key: followed[key] for key in ("network.head", "sampling.tail")}
    return default | {"solver.loss": KEYS["solver.loss"].default}


def cost(job: Job) -> dict[str, Any]:
    """Rough cost of `hpcme run` in one process, from the law at the solver's starting time.

    steps: if the mean total propensity E[a0] stayed what it is at the start. epoch_seconds: one forward and
    backward pass of the network over one epoch's samples, measured here on one thread. Memory counts the
    network's parameters with gradients and optimiser, its support tables, and an upper bound for one epoch's
    intermediates.
    """
    import numpy as np
    import torch

    from hpcme.dynamics.start import marginals
    from hpcme.exact.shorttime import short_time_law
    from hpcme.kernels.neighbours import outflow

    net = job.net
    jumps = job["solver.start_jumps"]
    t0, states, p, _ = short_time_law(
        net,
        jumps=3.0 if jumps == "auto" else jumps,
        t_max=float(job.report_times[1]),
        max_states=job["solver.start_states"],
    )
    pmfs = marginals(states, p, net.limits)
    network = _network(job, pmfs)
    network.set_marginals(pmfs)
    a, _ = outflow(net.tables, states, net.s, net.limits, t0)
    rate = float(a.sum(axis=1) @ p / p.sum())
    steps = _steps(job, rate, t0)
    rows = job["sampling.samples"]
    u = torch.from_numpy(np.random.default_rng(0).random((rows, net.S)))
    seconds = _epoch_seconds(network, u)
    parameters = sum(value.numel() for value in network.parameters())
    size = 8 if job["run.dtype"] == "float64" else 4
    counts = int((net.limits + 1).sum())
    batch = rows * 8 * (3 * counts + 12 * net.S * job["network.width"] * job["network.depth"])
    tables = sum(value.numel() * value.element_size() for value in network.buffers())
    found = {
        "parameters": parameters,
        "bytes": _COPIES * size * parameters + 2 * tables + batch,
        "start_time": t0,
        "start_exit_rate": rate,
        "steps": steps,
        "epochs": job["solver.epochs"],
        "epoch_seconds": seconds,
        "seconds_at_least": steps * job["solver.epochs"] * seconds,
    }
    if job["solver.scheme"] == "projection" and job["solver.optimiser"] == "natural":
        found["bytes"] += 2 * 8 * rows * parameters
    if job["solver.scheme"] == "tdvp":  # its steps follow the law, not the rates: nothing is known before the run
        found |= {"steps": None, "epochs": None, "seconds_at_least": None}
        found["bytes"] += 6 * 8 * parameters**2 + _SCORES
    return found


def _network(job: Job, pmfs):
    """The network that `hpcme run` makes for the marginals pmfs of its start."""
    from hpcme.beginning import network_of
    from hpcme.networks.build import build_network

    return build_network(network_of(job, pmfs), job.net, seed=job["run.seed"])


def _steps(job: Job, rate: float, t0: float) -> int:
    """Steps from t0 to the end by the job's rule at a fixed exit rate; at least one between report times."""
    import numpy as np

    dt = job["solver.dt"]
    if dt == "auto":
        dt = job["solver.jumps"] / rate if rate > 0 else math.inf
    edges = np.unique(np.maximum(job.report_times, t0))
    return int(np.maximum(1, np.ceil(np.diff(edges) / dt - 1e-9)).sum())


def _epoch_seconds(network, u) -> float:
    """CPU seconds of a forward and backward pass on one thread, which other programs do not disturb."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        took = []
        for _ in range(3):
            began = time.thread_time()
            network.draw(u).logq.sum().backward()
            took.append(time.thread_time() - began)
        return min(took)
    finally:
        torch.set_num_threads(threads)


def _job_text(job: Job, data: dict[str, Any]) -> list[str]:
    if "job" not in data:
        return ["", "give --end T to see what solving it would take"]
    facts, found = data["job"], data["cost"]
    times = facts["report_times"]
    lines = [
        "",
        f"job {facts['name']}",
        f"  to t = {facts['end']:g}, {len(times)} report times, run folder {facts['out']}",
    ]
    changed = [f"  {key} = {value}" for key, value in facts["changed"].items()]
    lines += ["  every key has its default" if not changed else "  keys that differ from their defaults:"]
    lines += [f"  {line}" for line in changed]
    lines += ["", "cost of hpcme run (rough)"]
    lines.append(
        f"  network: {found['parameters']} parameters; memory at most about {bytes_text(found['bytes'])} "
        "a process beside the libraries'"
    )
    if found["steps"] is None:
        chosen = f"scheme tdvp ({facts['integrator']}) chooses its steps itself"
        lines.append(f"  steps and time: {chosen}; progress shows an ETA")
        return lines
    lines.append(
        f"  steps: about {found['steps']}, if the mean total propensity stayed the "
        f"{found['start_exit_rate']:.4g} that it is at the start "
        f"(t = {found['start_time']:.3g}); it changes, and so will this number"
    )
    lines.append(
        f"  time: {seconds_text(found['seconds_at_least'])} or several times that, on one thread of "
        f"this CPU: the network's passes alone take {seconds_text(found['epoch_seconds'])} an epoch, "
        f"{found['epochs']} epochs a step"
    )
    return lines


COMMANDS = (
    Command(
        "check",
        "validate a job or model, and show its reactions, laws, states and cost",
        "hpcme check jobs/models/toggle_switch.toml\nhpcme check job.toml --json",
        options,
        execute,
    ),
)
