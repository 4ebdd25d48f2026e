"""Readouts: named expressions of the counts that results report beside the species."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from hpcme.errors import InputError, did_you_mean
from hpcme.model.tree import TIME_NAME, Expr

if TYPE_CHECKING:
    from hpcme.model.network import ReactionNetwork


def check_readouts(readouts: Mapping[str, Expr], net: ReactionNetwork) -> None:
    """InputError for a readout that reads the time or something unknown, or has the name of something else.

    A parameter may be reported under its own name: k = "k".
    """
    allowed = [*net.species, *net.parameters]
    for name, expr in readouts.items():
        where = f"{net.source}: readout {name} = {expr.to_text()}"
        if name in allowed and not (name in net.parameters and expr.op == "NAME" and expr.name == name):
            kind = "species" if name in net.species else "parameter"
            raise InputError(f"{where}: {name} is already the name of a {kind}; rename the readout")
        if expr.uses_time():
            raise InputError(f'{where}: a readout is of the state alone and cannot use the time "{TIME_NAME}"')
        for used in sorted(expr.names()):
            if used not in allowed:
                what = "another readout" if used in readouts else "not a species or parameter"
                raise InputError(
                    f'{where}: "{used}" is {what}; a readout may use {", ".join(allowed)}.'
                    f"{did_you_mean(used, allowed)} Correct the name, or write the expression out"
                )


def readout_values(net: ReactionNetwork, n: np.ndarray) -> np.ndarray:
    """Values float64 [B, K] of the K readouts of `net`, in order, in the states n (integers [B, S]).

    Under numpy's rules: where an expression is not defined, such as 1/X at X = 0, the value is inf or nan.
    """
    counts = {name: np.asarray(n)[:, i].astype(np.float64) for i, name in enumerate(net.species)}
    values = np.empty((len(n), len(net.readouts)))
    for j, expr in enumerate(net.readouts.values()):
        values[:, j] = expr.bind(net.parameters).evaluate(counts)
    return values
