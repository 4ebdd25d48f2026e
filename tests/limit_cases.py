"""A small network with automatic limits, and jobs whose first guess of them is too small."""

from __future__ import annotations

from dataclasses import replace

from hpcme import ModelBuilder, load_job

#: A short job with small sizes.
QUICK = {
    "time": {"end": 1.0, "report": [0.5, 1.0]},
    "output": {"samples": 20, "report_samples": 200},
    "sampling": {"samples": 200, "shards": 4},
    "solver": {"start_epochs": 60, "start_jumps": 0.3, "epochs": 4},
    "network": {"width": 4},
}


def immigration(most=None):
    """Births at rate 3, deaths at rate 1 from X = 0: a Poisson law at every time; X has this largest count."""
    builder = ModelBuilder("immigration").species("X", initial=0, max=most)
    return builder.reaction("0 -> X", rate=3.0).reaction("X -> 0", rate=1.0).build()


def small_job(guess: int, **overrides):
    """A job of that network with an automatic limit of which the first guess is `guess`."""
    job = load_job({"model": immigration(), **QUICK}, overrides=overrides)
    limits = tuple(replace(limit, largest=guess, box=guess) for limit in job.limits)
    return job.with_limits(replace(job.limits, limits=limits))
