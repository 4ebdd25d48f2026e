"""Seconds per epoch of `projection` and where they go; run by hand, never by the test suite.

    OMP_NUM_THREADS=1 python tests/benchmarks/epoch.py [--model jobs/models/toggle_switch.toml] [--end 0.5] [--json]
    mpiexec -n 2 python tests/benchmarks/epoch.py

The default is the toggle switch at the paper's sizes: 1,000 samples, a GRU of width 32, explicit Euler, no covering
samples, h = 0.005 and 100 epochs a step. Every part is timed in the same run. As a ratio that does not depend on the
machine, the same run also times one plain epoch: the same network and samples, but with every row and every neighbour
evaluated in every epoch, as a straightforward implementation of the method does.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from hpcme import load_job
from hpcme.driver import prepare, shards_of
from hpcme.dynamics.timers import Timers
from hpcme.kernels.tensor import TensorTables, incoming, outflow, propensities_mean
from hpcme.model.job import parse_override
from hpcme.networks import base
from hpcme.parallel.world import open_world

PAPER = {
    "sampling.samples": 1000, "sampling.cover": 0.0, "sampling.tail": 0.0,
    "network.kind": "gru", "network.width": 32, "network.depth": 1,
    "solver.scheme": "projection", "solver.order": 1, "solver.optimiser": "adam", "solver.dt": 0.005,
    "solver.epochs": 100, "solver.learning_rate": 1e-3, "solver.decay": 1.0, "solver.extrapolate": 0.0,
}  # fmt: skip


def plain_epoch(scheme, tt: TensorTables, rows: int, t: float, dt: float) -> None:
    """One epoch without shared prefixes, distinct states or a cached target: every row and neighbour anew."""
    network, frozen = scheme.network, scheme.frozen.network
    draw = network.draw(torch.rand(rows, network.S, dtype=torch.float64, device=tt.coef.device))
    n = draw.n[draw.row]
    with torch.no_grad():
        y, inside = incoming(tt, n)
        flat = y.reshape(-1, network.S)
        rate = propensities_mean(tt, flat, t, t + dt).reshape(rows, -1, tt.s.shape[0]).diagonal(dim1=1, dim2=2)
        q_in = (frozen.log_prob(flat).reshape(rows, -1).exp() * rate * inside).sum(dim=1)
        a0 = outflow(tt, n, t, t + dt)[0].sum(dim=1)
        target = torch.log((frozen.log_prob(n).exp() * (1 - dt * a0) + dt * q_in).clamp_min(1e-300))
    d = draw.logq.detach()[draw.row] - target
    scheme.live.gradient(((d - d.mean()) * draw.logq[draw.row]).mean())


def time_plain(scheme, tt: TensorTables, rows: int, t: float, dt: float, repeats: int) -> float:
    """Seconds per plain epoch."""
    share, base._SHARED_SHARE = base._SHARED_SHARE, -1.0  # every row stands alone from the first species on
    try:
        plain_epoch(scheme, tt, rows, t, dt)
        began = time.perf_counter()
        for _ in range(repeats):
            plain_epoch(scheme, tt, rows, t, dt)
        return (time.perf_counter() - began) / repeats
    finally:
        base._SHARED_SHARE = share


def measure(model: str, end: float, overrides: dict, threads: int = 1, repeats: int = 20, most: int = 10**9):
    """The figures (dict) of one run of at most so many steps, and whether this process prints them."""
    keys = {**PAPER, "time.end": end, "time.report": [end], **overrides}
    job = load_job(model, overrides=keys)
    world = open_world(job["run.device"])
    world.use_threads(threads)
    timers = Timers(synchronise=world.device.type == "cuda")
    evolution = prepare(job, world, shards_of(job, world), timers=timers)
    evolution._advance()  # compiled and warm
    timers.seconds.clear()
    began, epochs, steps, evaluated = time.perf_counter(), 0, 0, 0
    while evolution.t < end * (1 - 1e-9) and steps < most:
        row = evolution._advance()
        epochs, steps, evaluated = epochs + row["epochs"], steps + 1, evaluated + row["evaluations"]
    seconds = (time.perf_counter() - began) / epochs
    tt = TensorTables.from_tables(job.net.tables, job.net.s, job.net.limits, world.device)
    rows = evolution.scheme.shards.rows * len(evolution.scheme.shards.owned)
    alone = world.size == 1 and repeats > 0
    plain = time_plain(evolution.scheme, tt, rows, evolution.t, job["solver.dt"], repeats) if alone else None
    shares = {name: value / epochs / seconds for name, value in timers.seconds.items()}
    shares["rest"] = 1.0 - sum(shares.values())
    result = {
        "model": job.net.name, "device": world.describe(), "samples": evolution.scheme.shards.samples,
        "steps": steps, "epochs": epochs, "ms_per_epoch": 1e3 * seconds,
        "plain_ms_per_epoch": None if plain is None else 1e3 * plain,
        "times_faster": None if plain is None else plain / seconds,
        "frozen_evaluations_per_epoch": evaluated / epochs, "shares": shares,
    }  # fmt: skip
    main = world.main
    world.close()
    return result, main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="jobs/models/toggle_switch.toml")
    parser.add_argument("--end", type=float, default=0.5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a job key")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result, printing = measure(options.model, options.end, dict(map(parse_override, options.set)))
    if printing:
        print(json.dumps(result, indent=1) if options.json else text(result))


def text(result: dict) -> str:
    """The result as lines."""
    lines = [
        f"{result['model']}: {result['samples']} samples, {result['steps']} steps, {result['epochs']} epochs, "
        f"{result['device']}",
        f"  {result['ms_per_epoch']:.2f} ms an epoch, "
        f"{result['frozen_evaluations_per_epoch']:.0f} frozen evaluations an epoch",
    ]
    if result["times_faster"] is not None:
        lines.append(
            f"  plain epoch {result['plain_ms_per_epoch']:.2f} ms: {result['times_faster']:.1f} times faster"
        )
    lines += [
        f"  {name:15s} {100 * share:5.1f} %" for name, share in sorted(result["shares"].items(), key=lambda x: -x[1])
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
