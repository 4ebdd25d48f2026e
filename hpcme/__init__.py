"""hpcme: neural-network solutions of the chemical master equation, in parallel, on clusters.

Glossary, used with these names everywhere in the code:

    S, R, B     number of species, reactions, states in a batch
    n           states (counts), int32 [B, S]; counts of species i run 0..limits[i] inclusive
    s           state change of each reaction, int64 [R, S]
    a, a0       propensities, float64 [B, R], and their sum over reactions [B], per model time unit
    q, logq     probability under the network and its logarithm, float64 [B]
    T           target of one time step, the law that the network is fitted to
    e           local rate (A q)(n) / q(n) with A the generator of the chemical master equation
    O           score, gradient of log q with respect to the network's parameters
    t, dt       time and time step, in the model's time unit

Importing this package has no side effects: torch, MPI and HDF5 are loaded when first used.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "load_model": "hpcme.model.reader",
    "ModelBuilder": "hpcme.model.builder",
    "ReactionNetwork": "hpcme.model.network",
    "load_job": "hpcme.model.job",
    "open_run": "hpcme.store.reader",
    "solve": "hpcme.driver",
    "HpcmeError": "hpcme.errors",
    "InputError": "hpcme.errors",
    "NumericalError": "hpcme.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hpcme' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
