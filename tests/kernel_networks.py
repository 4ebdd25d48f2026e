"""Networks over which the laws of the kernels and of the exact solver are tested, built from one
description each.
"""

from __future__ import annotations

import numpy as np

from hpcme.model.builder import ModelBuilder
from hpcme.model.network import ReactionNetwork

# name -> (law, parameters, {species: (initial, max)}, [(equation, "rate" | "propensity", value), ...])
SPECS: dict[str, tuple] = {
    "toggle": (
        "combinatorial",
        {"s": 50.0, "d": 1.0, "b": 1e-4, "u": 0.1},
        {"Gx": (1, 1), "Gy": (1, 1), "Px": (0, 79), "Py": (0, 79)},
        [
            ("Gx -> Gx + Px", "rate", "s"), ("Gy -> Gy + Py", "rate", "s"),
            ("Px -> 0", "rate", "d"), ("Py -> 0", "rate", "d"),
            ("2 Px + Gy -> 0", "rate", "b"), ("2 Py + Gx -> 0", "rate", "b"),
            ("0 -> 2 Px + Gy", "propensity", "u*(1-Gy)"), ("0 -> 2 Py + Gx", "propensity", "u*(1-Gx)"),
        ],
    ),
    "schlogl": (
        "combinatorial", {}, {"X": (50, 84)},
        [("2 X -> 3 X", "rate", 2.676), ("3 X -> 2 X", "rate", 0.040), ("0 -> X", "rate", 108.102),
         ("X -> 0", "rate", 37.881)],
    ),
    "early_life": (
        "combinatorial", {"V": 1.0}, {"A": (2, 100), "D": (49, 100), "L": (49, 100)},
        [("A + D -> 2 D", "rate", "1/V"), ("A + L -> 2 L", "rate", "1/V"), ("A -> D", "rate", 1.0),
         ("A -> L", "rate", 1.0), ("D -> A", "rate", 1.0), ("L -> A", "rate", 1.0)],
    ),
    "epidemic": (
        "combinatorial", {"eps": 0.6}, {"S": (50, 60), "I": (10, 60), "R": (0, 60)},
        [("S + I -> 2 I", "rate", "0.003*(1 + eps*sin(2*pi*t/6))"), ("I -> R", "rate", 0.02),
         ("R -> S", "rate", 0.007), ("S -> 0", "rate", 0.002), ("I -> 0", "rate", 0.05),
         ("R -> 0", "rate", 0.002)],
    ),
    "cascade_hill": (
        "combinatorial", {"b": 16.667, "km": 1666.7, "k0": 66.67},
        {"X1": (0, 40), "X2": (0, 40), "X3": (0, 40)},
        [("0 -> X1", "rate", 166.67),
         ("X1 -> X2", "propensity", "where(X1 >= 1, b + km*X1/(k0 + X1), 0)"),
         ("X2 -> X3", "propensity", "where(X2 >= 1, b + km*X2/(k0 + X2), 0)"),
         ("X1 -> 0", "rate", 2.5), ("X2 -> 0", "rate", 2.5), ("X3 -> 0", "rate", 2.5)],
    ),
    "autoregulation": (
        "combinatorial", {"su": 0.94, "sb": 0.01, "ru": 8.40, "rb": 28.1}, {"G": (0, 1), "P": (0, 79)},
        [("0 -> G + P", "propensity", "su*(1-G)"), ("G + P -> 0", "rate", "sb"), ("G -> G + P", "rate", "ru"),
         ("0 -> P", "propensity", "rb*(1-G)"), ("P -> 0", "rate", 1.0)],
    ),
}  # fmt: skip
SPECS["toggle_power"] = ("power", *SPECS["toggle"][1:])


def build(
    name: str,
    parameters: dict | None = None,
    limits: dict | None = None,
    initial: dict | None = None,
    species_order: list[int] | None = None,
    reaction_order: list[int] | None = None,
) -> ReactionNetwork:
    """The network, optionally with other parameters, limits and start, or with its species or reactions in
    another order.
    """
    law, given, species, reactions = SPECS[name]
    builder = ModelBuilder(name, law=law)
    for key, value in {**given, **(parameters or {})}.items():
        builder.parameter(key, value)
    order = list(species)
    for i in species_order or range(len(order)):
        start, largest = species[order[i]]
        start = (initial or {}).get(order[i], start)
        builder.species(order[i], initial=start, max=(limits or {}).get(order[i], largest))
    for k in reaction_order or range(len(reactions)):
        equation, kind, value = reactions[k]
        builder.reaction(equation, **{kind: value})
    return builder.build()


def random_network(seed: int) -> ReactionNetwork:
    """A small random network: mass action of either law, propensity expressions, some rates that read the
    time.
    """
    rng = np.random.default_rng(seed)
    names = ["A", "B", "C", "D"][: rng.integers(1, 5)]
    builder = ModelBuilder(f"random{seed}", law=str(rng.choice(["combinatorial", "power"])))
    for name in names:
        largest = int(rng.integers(2, 7))
        builder.species(name, initial=int(rng.integers(0, largest + 1)), max=largest)
    made = 0
    while made < rng.integers(2, 7):
        left = {x: int(rng.integers(1, 4)) for x in names if rng.random() < 0.4}
        right = {x: int(rng.integers(1, 4)) for x in names if rng.random() < 0.4}
        if left == right:
            continue
        sides = [" + ".join(f"{m} {x}" for x, m in side.items()) or "0" for side in (left, right)]
        value, x = f"{rng.uniform(0.1, 3):.3f}", str(rng.choice(names))
        clock = f"(1 + 0.9*cos({rng.uniform(0.5, 3):.2f}*t))"
        kind, text = [
            ("rate", value),
            ("rate", f"{value}*{clock}"),
            ("propensity", f"{value}*{x}/(1 + {x})"),
            ("propensity", f"{clock}*where({x} > 1, {value}*sqrt({x}), 0.2)"),
            ("propensity", f"max(0, {value}*cos(t + {x}))"),
        ][rng.integers(0, 5)]
        builder.reaction(f"{sides[0]} -> {sides[1]}", **{kind: text})
        made += 1
    return builder.build()


def random_states(net: ReactionNetwork, count: int, seed: int = 0) -> np.ndarray:
    """States int32 [count, S], each count uniform over 0..limit."""
    return np.random.default_rng(seed).integers(0, net.limits + 1, size=(count, net.S)).astype(np.int32)


#: An epidemic among 20 instead of 60.
SMALL_EPIDEMIC = {"limits": {"S": 20, "I": 20, "R": 20}, "initial": {"S": 16, "I": 4}}

NETWORKS = {name: build(name) for name in SPECS} | {f"random{i}": random_network(i) for i in range(12)}
