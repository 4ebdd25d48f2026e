"""Small reaction networks and jobs shared by the tests of networks, dynamics and ranks."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from hpcme import load_job
from hpcme.driver import prepare, shards_of
from hpcme.dynamics.evolve import Evolution
from hpcme.exact.fsp import solve_fsp
from hpcme.model.reader import load_model_text
from hpcme.networks import support as supports
from hpcme.networks.build import KINDS
from hpcme.networks.heads import CATEGORICAL_LIMIT
from hpcme.parallel.world import World

WORLD = World(torch.device("cpu"), 1)
TOGGLE = """
[model]
name = "small_toggle"
[parameters]
s = 8.0
b = 0.05
u = 0.4
[species]
Gx = { initial = 1, max = 1 }
Gy = { initial = 1, max = 1 }
Px = { initial = 0, max = 24 }
Py = { initial = 0, max = 20 }
[[reactions]]
equation = "Gx -> Gx + Px"
rate = "s"
[[reactions]]
equation = "Gy -> Gy + Py"
rate = "s"
[[reactions]]
equation = "Px -> 0"
rate = 1
[[reactions]]
equation = "Py -> 0"
rate = 1
[[reactions]]
equation = "2 Px + Gy -> 0"
rate = "b"
[[reactions]]
equation = "2 Py + Gx -> 0"
rate = "b"
[[reactions]]
equation = "0 -> 2 Px + Gy"
propensity = "u*(1 - Gy)"
[[reactions]]
equation = "0 -> 2 Py + Gx"
propensity = "u*(1 - Gx)"
"""

CLOSED = """
[model]
name = "closed"
[species]
A = { initial = 2, max = 12 }
D = { initial = 5, max = 12 }
L = { initial = 5, max = 12 }
[[reactions]]
equation = "A + D -> 2 D"
rate = 1
[[reactions]]
equation = "A + L -> 2 L"
rate = 1
[[reactions]]
equation = "A -> D"
rate = 1
reverse_rate = 1
[[reactions]]
equation = "A -> L"
rate = 1
reverse_rate = 1
"""

DRIVEN = """
[model]
name = "driven"
[species]
X = { initial = 3, max = 20 }
Y = { initial = 0, max = 6 }
[[reactions]]
equation = "0 -> X"
rate = "4*(1 + 0.8*sin(3*t))"
[[reactions]]
equation = "X -> Y"
rate = 1
[[reactions]]
equation = "2 Y -> 0"
rate = 0.5
"""

MODELS = {"toggle": TOGGLE, "closed": CLOSED, "driven": DRIVEN}


def model(name: str):
    """One of MODELS as a ReactionNetwork; `<->` needs reverse rates, so closed is written with both directions."""
    text = MODELS[name].replace('equation = "A -> D"', 'equation = "A <-> D"')
    return load_model_text(text.replace('equation = "A -> L"', 'equation = "A <-> L"'), name)


def job_of(name: str, end: float, **overrides):
    """A job on one of MODELS with small sizes, by projection unless told; overrides use __ for the dot in a key."""
    keys = {
        "solver.scheme": "projection", "time.end": end, "time.report": [end], "sampling.samples": 400,
        "sampling.shards": 6, "network.width": 12, "solver.optimiser": "adam", "solver.epochs": 5,
        "solver.start_epochs": 200,
        "output.report_samples": 600,
    }  # fmt: skip
    keys.update({key.replace("__", "."): value for key, value in overrides.items()})
    return load_job({"model": model(name)}, overrides=keys)


def evolution_of(job, world: World | None = None) -> Evolution:
    """A run that keeps nothing, at its start."""
    world = world or World(torch.device("cpu"), 1)
    return prepare(job, world, shards_of(job, world))


def tdvp_job(source, end, **overrides):
    """Defaults of the scheme, but for the size of reports."""
    net = model(source) if isinstance(source, str) else source
    keys = {"solver.scheme": "tdvp", "time.end": end, "time.report": [end], "output.report_samples": 200}
    return load_job({"model": net}, overrides=keys | {k.replace("__", "."): v for k, v in overrides.items()})


def all_states(limits) -> np.ndarray:
    """Every state of the box, int32 [M, S]."""
    return np.array(list(itertools.product(*(range(int(k) + 1) for k in limits))), dtype=np.int32)


def random_network(kind: str, limits, order, support=None, *, depth: int = 1, head: str = "spline", seed: int = 0):
    """A network whose heads are random too, so that nothing is zero by construction."""
    limits = np.asarray(limits)
    support = support or supports.box(limits[order])
    heads = ["categorical" if limit <= CATEGORICAL_LIMIT else head for limit in limits]
    torch.manual_seed(seed)
    sizes = (8,) if kind == "basis" else (8, depth)
    network = KINDS[kind](limits, order, support, *sizes, heads, torch.float64)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network


def exact(net, t):
    """Exact law with reflecting limits at time t: states int32 [M, S], p float64 [M]."""
    solution = solve_fsp(net, [t], reflecting=True)
    return solution.states, solution.p[-1]


def total_variation(network, net, t):
    """Joint total variation distance of a network to the exact law; the reachable states must hold all of q."""
    states, p = exact(net, t)
    with torch.no_grad():
        q = network.log_prob(torch.from_numpy(states)).exp().numpy()
    assert abs(q.sum() - 1) < 1e-10
    return 0.5 * float(np.abs(q - p).sum())


def follow(job, exact: bool = True):
    """Run a job; returns the evolution, rows of the series and (t, TV, certified bound) of every report.

    exact=False: there is no exact law to compare with, TV is NaN.
    """
    evolution = evolution_of(job)
    rows, reports = [], []
    advance, report = evolution._advance, evolution.make_report

    def make_report(after=None):
        distance = total_variation(evolution.scheme.network, job.net, evolution.t) if exact else np.nan
        reports.append((evolution.t, distance, evolution.certificate.bound(evolution.lost)))
        report(after)

    evolution._advance = lambda: rows.append(advance()) or rows[-1]
    evolution.make_report = make_report
    assert evolution.run()
    return evolution, rows, reports
