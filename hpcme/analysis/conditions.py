"""Conditions on states ("Px > 50 and Gx == 0"): how likely they are, at each time and given another one.

A condition is written in the language of propensities (hpcme.model.expression): species, parameters of the model, the
time t, numbers, + - * / **, comparisons, and, or, not, and functions. It holds where its value is not zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcme.analysis.cloud import MAX_STATES, SAMPLES, Cloud, cloud_of, reachable_states
from hpcme.analysis.statistics import certificate_of, chosen_times
from hpcme.errors import InputError, did_you_mean
from hpcme.model.expression import Expr, parse, variable
from hpcme.model.network import ReactionNetwork
from hpcme.model.tree import TIME_NAME
from hpcme.store.reader import Run

_BLOCK = 262_144
_TRUTHS = ("LT", "LE", "GT", "GE", "EQ", "NE", "AND", "OR", "NOT")


@dataclass(frozen=True)
class Condition:
    """A condition on the counts of a network's species; text is what was written."""

    text: str
    expr: Expr
    species: tuple[str, ...]

    @property
    def uses_time(self) -> bool:
        """Whether it reads the time t."""
        return self.expr.uses_time()

    def holds(self, n: np.ndarray, t: float) -> np.ndarray:
        """Where it holds, bool [M], for states n [M,S] at time t. InputError where its value is not a number."""
        counts = {name: n[:, i].astype(np.float64) for i, name in enumerate(self.species) if name in self.expr.names()}
        value = np.broadcast_to(_value(self.expr, counts, t), (len(n),))
        bad = np.flatnonzero(np.isnan(value))
        if len(bad):
            state = ", ".join(f"{name} = {count}" for name, count in zip(self.species, n[bad[0]], strict=True))
            raise InputError(
                f'condition "{self.text}" has no value at {state}, t = {t:g} (such as 0/0). Fix: write it so that it '
                "has one in every state, for example with where(...)."
            )
        return value != 0.0


def _value(expr: Expr, counts: Mapping[str, np.ndarray], t: float) -> np.ndarray:
    """Value of an expression where NaN (0/0) stands for not known, also through comparisons, for which numpy has 0:
    "Y > 0 and X / Y > 2" is false at Y = 0, and "X / Y > 2" has no value there."""
    if not expr.args:
        return np.asarray(expr.evaluate(counts, t), dtype=np.float64)
    args = [_value(arg, counts, t) for arg in expr.args]
    names = [f"_{i}" for i in range(len(args))]
    found = np.asarray(Expr(expr.op, tuple(map(variable, names))).evaluate(dict(zip(names, args, strict=True))))
    if expr.op == "SELECT":
        unknown = np.isnan(args[0])
    elif expr.op in _TRUTHS:
        unknown = np.any(np.broadcast_arrays(*map(np.isnan, args)), axis=0)
        if expr.op in ("AND", "OR"):  # one operand may decide alone
            deciding = [x == 0 if expr.op == "AND" else (x != 0) & ~np.isnan(x) for x in args]
            unknown &= ~np.any(np.broadcast_arrays(*deciding), axis=0)
    else:
        return found
    return np.where(unknown, np.nan, found)


def read_condition(text: str, net: ReactionNetwork) -> Condition:
    """A condition over the species of a network, with numbers for its parameters.

    Raises InputError: not an expression (with a caret), an unknown name (did you mean), or one that depends on no
    species and not on the time.
    """
    where = f'condition "{text}"'
    expr = parse(text, where)
    allowed = [*net.species, *net.parameters, TIME_NAME]
    for name in sorted(expr.names()):
        if name not in allowed:
            raise InputError(
                f'{where}: "{name}" is no species or parameter; known names are {", ".join(allowed)}.'
                f"{did_you_mean(name, allowed)} Fix: correct the name."
            )
    expr = expr.bind({name: value for name, value in net.parameters.items() if name not in net.species}).fold()
    if expr.is_constant:
        raise InputError(f'{where} depends on no species. Fix: name one of {", ".join(net.species)}, as in "X > 5".')
    return Condition(text, expr, tuple(net.species))


def probability_table(
    run: Run,
    condition: str,
    given: str | None = None,
    times: Iterable[float] | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    max_states: int = MAX_STATES,
) -> dict[str, Any]:
    """Probability that a condition holds at each time (None: all stored), or given that another one does.

    Returns {"kind", "condition", "given", "times" [T], "probability" [T], "se" [T], "given_probability" [T],
    "outside" [T], "bound" [T], "method"}. P(A | B) = P(A and B) / P(B), NaN where P(B) is zero. Standard
    errors are those of sampling, sqrt(P (1 - P) / N) with the number N of samples (of those in B for P(A | B)); zero
    where laws are summed. outside: probability that an exact run has lost; P lies between "probability" and that plus
    "outside". bound: the certified bound of the total variation distance to the exact law, by which P is off at most
    (NaN: there is none, or for P(A | B)).
    Raises InputError; see read_condition and cloud_of.
    """
    net = run.model()
    wanted = read_condition(condition, net)
    base = read_condition(given, net) if given is not None else None
    rows = chosen_times(run, times)
    run.index()
    columns: dict[str, list[float]] = {name: [] for name in ("probability", "se", "given_probability", "outside")}
    method = ""
    for k in rows:
        t = float(run.times[k])
        cloud = cloud_of(run, t, samples=samples, seed=seed, max_states=max_states)
        p, se, below = conditional(cloud, wanted, base, t)
        for name, value in (("probability", p), ("se", se), ("given_probability", below), ("outside", cloud.outside)):
            columns[name].append(value)
        method = cloud.method  # that of the last time; the start may be known exactly
    certificate = None if base else certificate_of(run.extra(), rows)
    bound = certificate["bound"] if certificate else [None] * len(rows)
    return {
        "kind": run.kind,
        "condition": condition,
        "given": given,
        "times": run.times[rows],
        **{name: np.array(values) for name, values in columns.items()},
        "bound": np.array([np.nan if value is None else value for value in bound]),
        "method": method,
    }


def conditional(cloud: Cloud, wanted: Condition, base: Condition | None, t: float) -> tuple[float, float, float]:
    """P(wanted | base), its standard error and P(base), at time t; base None: everything, of probability 1."""
    holds = wanted.holds(cloud.n, t)
    if base is None:
        return *cloud.share(holds), 1.0
    inside = base.holds(cloud.n, t)
    below = float(cloud.p[inside].sum())
    if below <= 0.0:
        return np.nan, np.nan, 0.0
    p = float(cloud.p[holds & inside].sum()) / below
    return p, 0.0 if cloud.exact else float(np.sqrt(p * (1.0 - p) / (cloud.number * below))), below


def is_closed(run: Run, condition: Condition, max_states: int = MAX_STATES) -> bool | None:
    """Whether no reaction leads from a state where the condition holds to one where it does not.

    None where that is not known: more states than can be listed, a condition that reads the time, or rates that do
    (True is then still found where the states alone say so: a move that is never possible is none).
    """
    from hpcme.exact.statespace import StateSpace

    states = reachable_states(run, max_states)
    if states is None or condition.uses_time:
        return None
    net = run.model()
    space = StateSpace(net, states, True, reflecting=True)
    holds = np.append(condition.holds(space.states, 0.0), True)  # the sink, where nothing leads
    for begin in range(0, len(space), _BLOCK):
        end = min(len(space), begin + _BLOCK)
        target = space.targets(begin, end)
        leaves = holds[begin:end, None] & (target >= 0) & ~holds[np.maximum(target, 0)]
        if not net.time_dependent:
            leaves &= space.rates(begin, end, 0.0, target) > 0.0
        if leaves.any():
            return None if net.time_dependent else False
    return True
