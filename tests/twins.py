"""Plain, slow twins of the compiled kernels, written from the definitions and sharing no code with them."""

from __future__ import annotations

import math

import numpy as np

from hpcme.model.network import ReactionNetwork
from hpcme.model.tables import OPCODES, PropensityTables, program_depth


def factor(count: int, m: int, law: str) -> float:
    """Mass-action factor of one reactant."""
    if count < m:
        return 0.0
    return float(count) ** m if law == "power" else math.prod(float(count - i) for i in range(m))


def propensities(net: ReactionNetwork, n: np.ndarray, t: float) -> np.ndarray:
    """a float64 [B, R] from the reactions' expressions, not from the tables."""
    a = np.empty((len(n), net.R))
    for b, row in enumerate(n.tolist()):
        env = {**net.parameters, **dict(zip(net.species, map(float, row), strict=True))}
        for k, reaction in enumerate(net.reactions):
            if reaction.propensity is not None:
                a[b, k] = reaction.propensity.evaluate(env, t)
            else:
                a[b, k] = reaction.rate.evaluate(dict(net.parameters), t)
                for name, m in reaction.reactants.items():
                    a[b, k] *= factor(row[net.species.index(name)], m, net.law)
    return a


def moved(
    n: np.ndarray, s: np.ndarray, limits: np.ndarray, sign: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n + sign * s_k or n, inside, negative), row by row."""
    y = np.empty((len(n), len(s), n.shape[1]), dtype=np.int32)
    inside = np.zeros((len(n), len(s)), dtype=bool)
    negative = np.zeros((len(n), len(s)), dtype=bool)
    for b in range(len(n)):
        for k in range(len(s)):
            z = n[b].astype(int) + sign * s[k]
            negative[b, k] = min(z) < 0
            inside[b, k] = not negative[b, k] and all(z <= limits)
            y[b, k] = z if inside[b, k] else n[b]
    return y, inside, negative


def outflow(net: ReactionNetwork, n: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """(propensities inside the box, leak past the limits)."""
    a = propensities(net, n, t)
    _, inside, negative = moved(n, net.s, net.limits, 1)
    return np.where(inside, a, 0.0), np.where(~inside & ~negative, a, 0.0).sum(axis=1)


def reachable(
    net: ReactionNetwork, start: np.ndarray, times=(0.0,), max_jumps: int | None = None
) -> list[tuple[int, ...]]:
    """States in breadth-first order, with a python dictionary."""
    seen = dict.fromkeys(tuple(row) for row in start.tolist())
    frontier, jumps = list(seen), 0
    while frontier and (max_jumps is None or jumps < max_jumps):
        new: dict[tuple[int, ...], None] = {}
        for state in frontier:
            n = np.array([state], dtype=np.int32)
            a = np.max([propensities(net, n, t)[0] for t in times], axis=0)
            y, inside, _ = moved(n, net.s, net.limits, 1)
            for k in range(net.R):
                target = tuple(y[0, k].tolist())
                if inside[0, k] and a[k] > 0 and target not in seen and target not in new:
                    new[target] = None
        seen.update(new)
        frontier, jumps = list(new), jumps + 1
    return list(seen)


def generator(net: ReactionNetwork, states: np.ndarray, t: float, reflecting: bool) -> np.ndarray:
    """Dense generator [M+1, M+1] with the sink last."""
    index = {tuple(row): i for i, row in enumerate(states.tolist())}
    M = len(states)
    A = np.zeros((M + 1, M + 1))
    a = propensities(net, states, t)
    for j, row in enumerate(states):
        for k in range(net.R):
            z = row.astype(int) + net.s[k]
            if min(z) < 0 or (reflecting and any(z > net.limits)):
                continue
            i = index.get(tuple(z.tolist()), M)
            A[i, j] += a[j, k]
            A[j, j] -= a[j, k]
    return A


def _safely(function, *arguments: float) -> float:
    """A math function with the IEEE value where math raises."""
    try:
        result = function(*arguments)
    except OverflowError:
        return math.inf
    except ValueError:
        return math.nan
    except ZeroDivisionError:
        x, y = arguments
        return math.nan if x == 0 or x != x else math.copysign(math.inf, x) * math.copysign(1.0, y)
    return result if isinstance(result, float) else math.nan  # a complex power is not a number here


def _log(x: float, function) -> float:
    return -math.inf if x == 0 else _safely(function, x)


def _extreme(x: float, y: float, function) -> float:
    return math.nan if x != x or y != y else function(x, y)


def _divide(x: float, y: float) -> float:
    return x / y


def run_program(program: list[tuple[str, float]], row: list[int], t: float) -> float:
    """Value of a postfix program given as (opcode name, argument) pairs."""
    stack: list[float] = []
    compare = {"LT": "__lt__", "LE": "__le__", "GT": "__gt__", "GE": "__ge__", "EQ": "__eq__", "NE": "__ne__"}
    single = {
        "NEG": lambda x: -x, "EXP": lambda x: _safely(math.exp, x), "LOG": lambda x: _log(x, math.log),
        "LOG10": lambda x: _log(x, math.log10), "SQRT": lambda x: _safely(math.sqrt, x),
        "SIN": lambda x: _safely(math.sin, x), "COS": lambda x: _safely(math.cos, x),
        "TAN": lambda x: _safely(math.tan, x), "TANH": math.tanh, "ABS": abs,
        "FLOOR": lambda x: float(np.floor(x)), "CEIL": lambda x: float(np.ceil(x)),
        "NOT": lambda x: float(x == 0),
    }  # fmt: skip
    double = {
        "ADD": lambda x, y: x + y, "SUB": lambda x, y: x - y, "MUL": lambda x, y: x * y,
        "DIV": lambda x, y: _safely(_divide, x, y), "POW": lambda x, y: float(np.float64(x) ** np.float64(y)),
        "MIN": lambda x, y: _extreme(x, y, min), "MAX": lambda x, y: _extreme(x, y, max),
        "AND": lambda x, y: float(x != 0 and y != 0), "OR": lambda x, y: float(x != 0 or y != 0),
    }  # fmt: skip
    for name, value in program:
        if name == "CONST":
            stack.append(value)
        elif name == "SPECIES":
            stack.append(float(row[int(value)]))
        elif name == "TIME":
            stack.append(t)
        elif name == "SELECT":
            other, then, condition = stack.pop(), stack.pop(), stack.pop()
            stack.append(then if condition != 0 else other)
        elif name in single:
            stack.append(single[name](stack.pop()))
        else:
            right, left = stack.pop(), stack.pop()
            if name in compare:
                stack.append(float(getattr(left, compare[name])(right)))
            else:
                stack.append(double[name](left, right))
    return stack[0]


def random_program(rng: np.random.Generator, species: int, length: int) -> list[tuple[str, float]]:
    """A random postfix program over all opcodes."""
    arity = {"SELECT": 3} | dict.fromkeys(
        ("NEG", "NOT", "EXP", "LOG", "LOG10", "SQRT", "SIN", "COS", "TAN", "TANH", "ABS", "FLOOR", "CEIL"), 1
    )
    program: list[tuple[str, float]] = []
    depth = 0
    names = list(OPCODES)
    while len(program) < length or depth > 1:
        name = str(rng.choice(names)) if len(program) < length else "ADD"
        pops = 0 if name in ("CONST", "SPECIES", "TIME") else arity.get(name, 2)
        if pops > depth:
            continue
        value = {"CONST": float(np.round(rng.normal(0, 2), 2)), "SPECIES": float(rng.integers(species))}.get(
            name, 0.0
        )
        program.append((name, value))
        depth += 1 - pops
    return program


def program_tables(program: list[tuple[str, float]]) -> PropensityTables:
    """Tables of one reaction whose propensity is the program."""
    op = np.array([OPCODES[name] for name, _ in program])
    none = np.zeros(0, dtype=np.int64)
    return PropensityTables(
        coef=np.ones(1), code_ptr=np.array([0, len(program)]), op=op,
        arg=np.array([value for _, value in program]),
        re_ptr=np.zeros(2, dtype=np.int64), re_sp=none, re_m=none, power=np.zeros(1, dtype=bool),
        uses_t=np.ones(1, dtype=bool), depth=program_depth(op),
    )  # fmt: skip


SPLIT = 0x9E3779B97F4A7C15
WORD = 2**64 - 1


def splitmix64(x: int) -> int:
    """Output function of splitmix64 on python integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def xoshiro_words(seed: int, index: int, count: int) -> list[int]:
    """First words of stream `index` of `seed`, on python integers."""
    z = splitmix64((seed + SPLIT) & WORD) ^ ((index * SPLIT) & WORD)
    s = []
    for _ in range(4):
        z = (z + SPLIT) & WORD
        s.append(splitmix64(z))

    def rotate(x: int, k: int) -> int:
        return ((x << k) | (x >> (64 - k))) & WORD

    words = []
    for _ in range(count):
        words.append((rotate((s[0] + s[3]) & WORD, 23) + s[0]) & WORD)
        shifted = (s[1] << 17) & WORD
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= shifted
        s[3] = rotate(s[3], 45)
    return words
