"""The exact solver against published benchmark networks with independent exact references.

The references are not part of this repository: HPCME_BENCHMARKS names a folder with models/NAME.json and
refs/NAME.json, and the tests are skipped without it. Moments must agree to 1e-6 relative, the accuracy that
hpcme claims for its exact solver.
"""

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest

from hpcme.exact.fsp import solve_fsp
from hpcme.kernels.dedup import StateTable
from hpcme.kernels.neighbours import outgoing_flat
from hpcme.model.builder import ModelBuilder
from hpcme.model.expression import parse

FOLDER = os.environ.get("HPCME_BENCHMARKS")
LARGEST = int(os.environ.get("HPCME_BENCHMARKS_STATES", "200000"))
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="HPCME_BENCHMARKS does not name a folder with models/*.json and refs/*.json"
)


def names():
    """Benchmarks whose reference lists a number of states: the others are closed forms on too many states."""
    if not FOLDER:
        return ["none"]
    found = []
    for path in sorted(Path(FOLDER, "refs").glob("*.json")):
        count = json.loads(path.read_text()).get("states")
        if count is not None and count <= LARGEST:
            found.append(path.stem)
    return found


def side(counts):
    """One side of a reaction equation."""
    return " + ".join(f"{m} {name}" for name, m in counts.items()) or "0"


def network(model, caps):
    """ReactionNetwork of a benchmark file."""
    builder = ModelBuilder(model["name"])
    for name, value in model.get("parameters", {}).items():
        builder.parameter(name, value)
    joint = model.get("initial_distribution")
    for (name, count), cap in zip(model["species"].items(), caps, strict=True):
        builder.species(name, initial=None if joint else count, max=cap)
    for reaction in model["reactions"]:
        equation = f"{side(reaction['reactants'])} -> {side(reaction['products'])}"
        if "rate" in reaction:
            # The benchmarks count pairs, n (n - 1) / 2; hpcme's mass action does not divide by m!.
            pairs = math.prod(math.factorial(m) for m in reaction["reactants"].values())
            builder.reaction(equation, rate=f"({reaction['rate']}) / {pairs}")
        else:
            builder.reaction(equation, propensity=reaction["propensity"])
    if joint:
        builder.initial([state for state, _ in joint], [p for _, p in joint])
    return builder.build()


def constrained_states(net, text):
    """Reachable states that also satisfy a constraint such as "A*B <= 2600 and A <= 9"."""
    condition = parse(text, "constraint")
    table = StateTable(net.S)
    frontier = table.add(net.initial.support()[0])[1]
    while len(frontier):
        n = outgoing_flat(frontier, net.s, net.limits)[2]
        env = {name: n[:, i].astype(float) for i, name in enumerate(net.species)}
        frontier = table.add(n[np.asarray(condition.evaluate(env, 0.0)) != 0])[1]
    return table.states


@pytest.mark.parametrize("name", names())
def test_moments_of_reference(name):
    model = json.loads(Path(FOLDER, "models", name + ".json").read_text())
    reference = json.loads(Path(FOLDER, "refs", name + ".json").read_text())
    net = network(model, reference["caps"])
    start = time.perf_counter()
    states = constrained_states(net, model["constraint"]) if "constraint" in model else None
    solution = solve_fsp(net, model["times"], states=states, max_states=6_000_000)
    seconds = time.perf_counter() - start
    worst = 0.0
    mean, sd = solution.mean(), solution.sd()
    for i, t in enumerate(model["times"]):
        expected = reference["times"][str(t)]
        for got, key in ((mean[i], "mean"), (sd[i], "sd")):
            want = np.array([expected[key][species] for species in net.species])
            scale = np.abs(want) + 1e-9  # a moment that is zero up to rounding has no relative error
            worst = max(worst, float((np.abs(got - want) / scale).max()))
        # The references take 1 - sum p, with its rounding errors.
        assert solution.lost[i] == pytest.approx(expected["leak"], rel=1e-4, abs=1e-10)
    line = f"{name:26s} {len(solution.states):8d} {worst:.1e} {seconds:7.2f} s {solution.lost[-1]:.1e}"
    print(f"\n{line} {solution.method}")
    assert (np.diff(solution.lost) >= 0).all()
    assert worst < 1e-6
