"""Kinetic laws: which of them are mass action, and which are the difference of a forward and a backward rate.

Both are found from the form of the law, never by guessing from numbers alone; a law that is neither stays as it is. The
propensity is the same function of the state in every case.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hpcme.model.tree import Expr, constant

_MOST_POWER = 20
#: Counts and times at which the two parts of a law are looked at.
_COUNTS = (1, 2, 5)
_TIMES = (0.0, 1.7)
_MOST_TRIED = 600


def mass_action(law: Expr, species: Sequence[str]) -> tuple[Expr, dict[str, int]] | None:
    """(rate, order of each species) where law = rate * prod_i n_i (n_i - 1) ... (n_i - m_i + 1), with a rate that
    depends on no species; None where the law is not written as such a product.

    n**2 is no such product (that would be n (n - 1)).
    """
    above, below = _factors(law)
    found: dict[str, Counter[int]] = {}
    rest: list[Expr] = []
    names = set(species)
    for factor in above:
        if not factor.names() & names:
            rest.append(factor)
            continue
        part = _lowered(factor, names)
        if part is None:
            return None
        name, less = part
        found.setdefault(name, Counter())[less] += 1
    if any(factor.names() & names for factor in below):
        return None
    orders = {name: sum(part.values()) for name, part in found.items()}
    if any(found[name] != Counter(range(order)) for name, order in orders.items()):
        return None
    return _quotient(rest, below), {name: orders[name] for name in species if name in orders}


def squares(law: Expr, species: Sequence[str]) -> list[str]:
    """Species that stand as a plain power in a product, such as X in k*X*X or k*X**2."""
    factors, _ = _factors(law)
    counted = Counter(factor.name for factor in factors if factor.op == "NAME" and factor.name in set(species))
    return [name for name, times in counted.items() if times > 1]


def forward_and_backward(
    law: Expr, consumed: Sequence[str], made: Sequence[str], species: Sequence[str], parameters: Mapping[str, float]
) -> tuple[Expr, Expr] | None:
    """(forward, backward) with law = forward - backward; None where the law is not written as such a difference.

    Each of them must be >= 0, and vanish where any species that it consumes is missing; both are looked at in some
    hundred states with few counts.
    """
    for forward, backward in _differences(law):
        if _is_rate(forward, consumed, species, parameters) and _is_rate(backward, made, species, parameters):
            return forward, backward
    return None


def has_difference(law: Expr, species: Sequence[str]) -> bool:
    """Whether the law could be negative by its form: a difference, other than X - 1 and the like, or a minus sign."""
    if law.op == "NEG" or (law.is_constant and law.value < 0):
        return True
    if law.op == "SUB" and _lowered(law, set(species)) is None:
        return bool(law.names() & set(species))
    if law.op in ("EXP", "POW"):  # a difference in an exponent makes nothing negative
        return any(has_difference(arg, species) for arg in law.args[: law.op == "POW"])
    if law.op == "SELECT":
        return any(has_difference(arg, species) for arg in law.args[1:])
    return any(has_difference(arg, species) for arg in law.args)


def _factors(expr: Expr) -> tuple[list[Expr], list[Expr]]:
    """Factors of a product, and those that it is divided by; whole powers are written out."""
    if expr.op == "MUL":
        parts = [_factors(arg) for arg in expr.args]
        return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
    if expr.op == "DIV":
        (a, b), (c, d) = (_factors(arg) for arg in expr.args)
        return a + d, b + c
    if expr.op == "POW" and expr.args[1].is_constant:
        power = expr.args[1].value
        if power.is_integer() and 1 <= power <= _MOST_POWER:
            a, b = _factors(expr.args[0])
            return a * int(power), b * int(power)
    return [expr], []


def _lowered(factor: Expr, species: set[str]) -> tuple[str, int] | None:
    """(X, j) for the factor X - j, with j = 0 for X itself."""
    if factor.op == "NAME" and factor.name in species:
        return factor.name, 0
    if factor.op in ("SUB", "ADD"):
        left, right = factor.args
        if factor.op == "ADD" and left.is_constant:
            left, right = right, left
        less = right.value if right.is_constant else np.nan
        if right.op == "NEG" and right.args[0].is_constant:
            less = -right.args[0].value
        less = less if factor.op == "SUB" else -less
        if left.op == "NAME" and left.name in species and less >= 1 and float(less).is_integer():
            return left.name, int(less)
    return None


def _quotient(above: Sequence[Expr], below: Sequence[Expr]) -> Expr:
    """Product of `above` divided by that of `below`; names that stand in both are left out."""
    above, below = list(above), list(below)
    for factor in list(below):
        if factor.op == "NAME" and factor in above:
            above.remove(factor)
            below.remove(factor)
    node = _product(above)
    return Expr("DIV", (node, _product(below))) if below else node


def _product(factors: Sequence[Expr]) -> Expr:
    factors = [factor for factor in factors if factor != constant(1)]
    if not factors:
        return constant(1)
    node = factors[0]
    for factor in factors[1:]:
        node = Expr("MUL", (node, factor))
    return node


def _differences(law: Expr) -> list[tuple[Expr, Expr]]:
    """All ways to read the law as P - Q: by the sum it is, or by a sum that is one factor of it."""
    terms = _terms(law)
    signs = {sign for sign, _ in terms}
    if len(signs) == 2:
        return [(_sum(terms, 1), _sum(terms, -1))]
    found: list[tuple[Expr, Expr]] = []
    if law.op == "MUL":
        for inner, other in (law.args, law.args[::-1]):
            found += [(Expr("MUL", (other, p)), Expr("MUL", (other, q))) for p, q in _differences(inner)]
    elif law.op == "DIV":
        inner, below = law.args
        found += [(Expr("DIV", (p, below)), Expr("DIV", (q, below))) for p, q in _differences(inner)]
    return found


def _terms(expr: Expr, sign: int = 1) -> list[tuple[int, Expr]]:
    """The terms of a sum with their signs."""
    if expr.op in ("ADD", "SUB"):
        left, right = expr.args
        return _terms(left, sign) + _terms(right, sign if expr.op == "ADD" else -sign)
    if expr.op == "NEG":
        return _terms(expr.args[0], -sign)
    own, rest = _signed(expr)
    return _terms(rest, -sign) if own < 0 else [(sign, expr)]


def _signed(expr: Expr) -> tuple[int, Expr]:
    """(sign, rest) with the minus signs of factors taken out: (-k)*X is minus k*X."""
    if expr.op == "NEG":
        sign, rest = _signed(expr.args[0])
        return -sign, rest
    if expr.op == "CONST" and expr.value < 0:
        return -1, constant(-expr.value)
    if expr.op in ("MUL", "DIV"):
        (a, left), (b, right) = (_signed(arg) for arg in expr.args)
        return a * b, Expr(expr.op, (left, right)) if (left, right) != expr.args else expr
    return 1, expr


def _sum(terms: Sequence[tuple[int, Expr]], sign: int) -> Expr:
    chosen = [expr for s, expr in terms if s == sign]
    node = chosen[0]
    for expr in chosen[1:]:
        node = Expr("ADD", (node, expr))
    return node


def _is_rate(
    part: Expr, consumed: Sequence[str], species: Sequence[str], parameters: Mapping[str, float]
) -> bool:
    """Whether a part is >= 0 in states with few counts, and 0 where something that it consumes is missing."""
    used = part.names().union(consumed)
    read = [name for name in species if name in used]
    rows = list(itertools.islice(itertools.product(_COUNTS, repeat=len(read)), _MOST_TRIED))
    states = np.array(rows, dtype=np.float64).reshape(len(rows), len(read))
    bound = part.bind(parameters)

    def values(n: np.ndarray, t: float) -> np.ndarray:
        return np.broadcast_to(bound.evaluate({name: n[:, i] for i, name in enumerate(read)}, t), len(n))

    for t in _TIMES:
        if not (values(states, t) >= 0).all():
            return False
        for name in consumed:
            without = states.copy()
            without[:, read.index(name)] = 0
            if not (values(without, t) == 0).all():
                return False
    return True
