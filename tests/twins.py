"""Plain, slow twins of the compiled kernels and of the networks, written from the definitions and sharing no code with
them."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf, expit, log_softmax, softmax

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
        "ASIN": lambda x: _safely(math.asin, x), "ACOS": lambda x: _safely(math.acos, x), "ATAN": math.atan,
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
        (
            "NEG", "NOT", "EXP", "LOG", "LOG10", "SQRT", "SIN", "COS", "TAN", "TANH", "ABS", "FLOOR", "CEIL", "ASIN",
            "ACOS", "ATAN",
        ), 1
    )  # fmt: skip
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


# ---- networks: one state at a time, from named parameters, without a sweep ------------------------------------------


def network_log_prob(network, n: np.ndarray, **more) -> np.ndarray:
    """log q of states n int [B, S] (model order) under a network whose support is the box: float64 [B].

    more: what the parameters do not tell of the architecture.
    """
    hidden = {"Basis": basis_hidden, "GRU": gru_hidden, "MADE": made_hidden, "NADE": nade_hidden,
              "Transformer": transformer_hidden}[type(network).__name__]  # fmt: skip
    value = {name: x.detach().numpy() for name, x in (*network.named_parameters(), *network.named_buffers())}
    out = np.zeros(len(n))
    for b, row in enumerate(np.asarray(n)[:, network.order]):
        for i, h in enumerate(hidden(value, row.tolist(), **more)):
            logits = h @ value[f"heads.{i}.weight"] + value[f"heads.{i}.bias"]
            logits = logits @ value.get(f"heads.{i}.phi", np.eye(len(logits))) + value[f"heads.{i}.base"]
            out[b] += log_softmax(logits)[row[i]]
    return out


def _listed(value: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    """The arrays name.0, name.1, ..."""
    found = []
    while f"{name}.{len(found)}" in value:
        found.append(value[f"{name}.{len(found)}"])
    return found


def _inputs(value: dict[str, np.ndarray], x: list[int]) -> list[np.ndarray]:
    """What each count but the last brings in: its features times the table of its position."""
    return [value[f"inputs.features{i}"][x[i]] @ table for i, table in enumerate(_listed(value, "inputs"))]


def basis_hidden(value: dict[str, np.ndarray], x: list[int]) -> list[np.ndarray]:
    """Features of the counts before, and tanh units of them; nothing at the first position. No conservation laws."""
    out = [np.zeros(0)]
    for i in range(1, len(x)):
        seen = np.concatenate([value[f"features{j}"][x[j]] for j in range(i)])
        out.append(np.append(seen, np.tanh(seen @ value[f"hidden_weight{i}"] + value[f"hidden_bias{i}"])))
    return out


def gru_hidden(value: dict[str, np.ndarray], x: list[int]) -> list[np.ndarray]:
    """Layer by layer over the whole sequence; states before the first count are learnt."""
    inputs = _inputs(value, x)
    for layer, start in enumerate(_listed(value, "start")):
        states = [np.tanh(start[0])]
        for row in inputs:
            h, (xr, xz, xc) = states[-1], np.split(row, 3)
            hr, hz, hc = np.split(h @ value[f"recurrent.{layer}"] + value[f"gate_bias.{layer}"], 3)
            z = expit(xz + hz)
            states.append((1 - z) * np.tanh(xc + expit(xr + hr) * hc) + z * h)
        if f"between.{layer}" in value:
            inputs = [h @ value[f"between.{layer}"] for h in states[1:]]
    return states


def made_hidden(value: dict[str, np.ndarray], x: list[int]) -> list[np.ndarray]:
    """All positions at once, with masked matrices [S width, S width]."""
    S = len(x)
    pre = value["first_bias"].copy()
    width = len(pre) // S
    for i, row in enumerate(_inputs(value, x)):
        pre[(i + 1) * width :] += row
    h = np.tanh(pre)
    weights, biases = _listed(value, "weights"), _listed(value, "biases")
    for layer in range(len(weights) // S):
        matrix = np.zeros((S * width, S * width))
        for i in range(S):
            matrix[: (i + 1) * width, i * width : (i + 1) * width] = weights[layer * S + i]
        h = h + np.tanh(h @ matrix + np.concatenate(biases[layer * S : (layer + 1) * S]))
    return np.split(h, S)


def nade_hidden(value: dict[str, np.ndarray], x: list[int]) -> list[np.ndarray]:
    """At every position anew the sum of what all counts before it bring in."""
    inputs, out = _inputs(value, x), []
    for i in range(len(x)):
        h = np.tanh(sum(inputs[:i], value["first"][0]))
        for weight, bias in zip(_listed(value, "weights"), _listed(value, "biases"), strict=True):
            h = h + np.tanh(h @ weight + bias)
        out.append(h)
    return out


def transformer_hidden(value: dict[str, np.ndarray], x: list[int], attention_heads: int = 4) -> list[np.ndarray]:
    """All tokens at once, with a causal mask, one attention head after the other."""
    tokens = value["positions"] + np.stack([np.zeros(value["positions"].shape[1]), *_inputs(value, x)])
    S, width = tokens.shape
    later = np.triu(np.ones((S, S), dtype=bool), 1)

    def norm(tokens: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return gain * tokens / np.sqrt((tokens**2).mean(axis=1, keepdims=True) + 1e-5)

    depth = 0
    while f"blocks.{depth}.join" in value:
        block = {name.removeprefix(f"blocks.{depth}."): x for name, x in value.items()}
        depth += 1
        query, key, values = np.split(norm(tokens, block["before_attention.gain"]) @ block["project"], 3, axis=1)
        found = np.zeros_like(tokens)
        for head in np.split(np.arange(width), attention_heads):
            score = query[:, head] @ key[:, head].T / math.sqrt(len(head))
            found[:, head] = softmax(np.where(later, -np.inf, score), axis=1) @ values[:, head]
        tokens = tokens + found @ block["join"]
        z = norm(tokens, block["before_units.gain"]) @ block["up"] + block["up_bias"]
        tokens = tokens + 0.5 * z * (1 + erf(z / math.sqrt(2))) @ block["down"] + block["down_bias"]
    return list(tokens)
