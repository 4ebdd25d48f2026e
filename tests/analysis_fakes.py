"""Runs with known laws for the tests of the analysis: two independent birth-death processes.

0 -> X at 3, X -> 0 at 1, 0 -> Y at 1, Y -> 0 at 0.5, start (0, 0): independent Poisson laws with means
3 (1 - exp(-t)) and 2 (1 - exp(-t/2)), here cut off at counts of probability below 1e-12.
"""

from __future__ import annotations

import json

import numpy as np
from scipy.stats import poisson

from hpcme.model.reader import load_model_text
from hpcme.store.layout import Report
from hpcme.store.moments import histogram, law_moments
from hpcme.store.reader import open_run
from hpcme.store.reference import write_fsp_run, write_ssa_run
from hpcme.store.writer import RunWriter

MODEL = """
[model]
name = "two_birth_deaths"
[species]
X = { initial = 0, max = 22 }
Y = { initial = 0, max = 19 }
[[reactions]]
equation = "0 -> X"
rate = 3.0
[[reactions]]
equation = "X -> 0"
rate = 1.0
[[reactions]]
equation = "0 -> Y"
rate = 1.0
[[reactions]]
equation = "Y -> 0"
rate = 0.5
"""
NET = load_model_text(MODEL)
TIMES = np.array([0.5, 1.0, 2.0])
STATES = np.array([[x, y] for x in range(23) for y in range(20)], dtype=np.int32)


def means(t):
    """Closed-form means of X and Y at time t."""
    return np.array([3 * (1 - np.exp(-t)), 2 * (1 - np.exp(-t / 2))])


def product_law(mean):
    """Probabilities on STATES of independent Poisson laws."""
    return poisson.pmf(STATES[:, 0], mean[0]) * poisson.pmf(STATES[:, 1], mean[1])


def identity(net=NET, **changes):
    base = {
        "kind": "network",
        "model_text": net.text,
        "model_hash": net.hash,
        "job_text": "",
        "job_hash": "j",
        "species": list(net.species),
        "limits": net.limits.tolist(),
        "report_times": TIMES.tolist(),
        "units": "1",
    }
    return {**base, **changes}


def certificate(bound, confidence=0.999, **more):
    """Scalars of a report with a certified bound, split into parts in fixed shares."""
    shares = {"start": 0.1, "projection": 0.2, "time": 0.3, "truncation": 0.15, "sampling": 0.25}
    parts = {f"bound_{name}": share * bound for name, share in shares.items()}
    return {"bound": bound, **parts, "bound_confidence": confidence, **more}


def network_run(
    folder, laws, times=TIMES, net=NET, states=STATES, samples=50, extra=(), series=(), status="done"
):
    """A network run whose law at each time is the table (states, p).

    extra: scalars of each report; series: further columns of each report's row; both may be empty.
    """
    rng = np.random.default_rng(0)
    zero = np.zeros(net.S)
    with RunWriter.create(folder, identity(net)) as writer:
        for k, (t, p) in enumerate(zip(times, laws, strict=True)):
            p = p / p.sum()
            mean, covariance = law_moments(states, p)
            marginals = [histogram(states[:, i], p, int(net.limits[i]) + 1) for i in range(net.S)]
            writer.commit(
                k,
                {"k": k},
                Report(
                    index=k,
                    time=float(t),
                    samples=states[rng.choice(len(states), samples, p=p)],
                    weights=None,
                    mean=mean,
                    mean_se=zero,
                    covariance=covariance,
                    covariance_se=np.zeros_like(covariance),
                    sd_se=zero,
                    marginals=marginals,
                    marginals_se=[np.zeros_like(m) for m in marginals],
                    network={"spec": json.dumps({"kind": "table"}), "parameters": {"states": states, "p": p}},
                    extra=dict(extra[k]) if extra else {},
                ),
                {"t": [float(t)], **({name: [value] for name, value in series[k].items()} if series else {})},
            )
        writer.finish(status)
    return open_run(folder)


def exact_run(folder, laws=None, times=TIMES):
    """A finished exact run: the true laws, or the given ones."""
    laws = [product_law(means(t)) for t in times] if laws is None else laws
    p = np.array(laws)
    return open_run(write_fsp_run(folder, identity(), times, STATES, p, np.maximum(0, 1 - p.sum(axis=1))))


def trajectory_run(folder, number=4000, times=TIMES, seed=1):
    """A finished trajectory run: independent draws of the true laws at each time."""
    rng = np.random.default_rng(seed)
    samples = np.array([rng.poisson(means(t), (number, 2)) for t in times], dtype=np.int32)
    return open_run(write_ssa_run(folder, identity(), times, samples, np.ones(number, dtype=np.int64)))


SHIFT = 1.1  # the wrong networks' means are this much too large


def four_runs(folder):
    """Runs without certificates: a good network, a wrong one (means 10 % too large), the exact run, trajectories."""
    return {
        "good": network_run(folder / "good", [product_law(means(t)) for t in TIMES]),
        "wrong": network_run(folder / "wrong", [product_law(SHIFT * means(t)) for t in TIMES]),
        "exact": exact_run(folder / "exact"),
        "ssa": trajectory_run(folder / "ssa"),
    }
