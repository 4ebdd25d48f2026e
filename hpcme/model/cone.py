"""Exact integer linear algebra for conservation laws: null spaces, and extreme rays of polyhedral cones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

Vector = tuple[int, ...]


def primitive(vector: Iterable[int]) -> Vector:
    """The vector divided by the greatest common divisor of its entries."""
    values = [int(x) for x in vector]
    divisor = math.gcd(*values) if values else 0
    return tuple(x // divisor for x in values) if divisor else tuple(values)


def dot(a: Sequence[int], b: Sequence[int]) -> int:
    """Exact inner product."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def echelon(rows: Iterable[Sequence[int]], width: int) -> tuple[list[Vector], list[int]]:
    """Primitive integer rows with the same span, and a pivot column of each, zero in all other rows.

    Elimination without fractions; the number of rows returned is the rank.
    """
    reduced: list[Vector] = []
    pivots: list[int] = []
    for row in rows:
        work = tuple(int(x) for x in row)
        for pivot, known in zip(pivots, reduced, strict=True):
            work = _eliminate(work, known, pivot)
        column = next((j for j in range(width) if work[j]), None)
        if column is None:
            continue
        work = primitive(work)
        reduced = [_eliminate(known, work, column) for known in reduced]
        reduced.append(work)
        pivots.append(column)
        if len(pivots) == width:
            break
    return reduced, pivots


def _eliminate(row: Vector, known: Vector, pivot: int) -> Vector:
    """The multiple of `row` plus a multiple of `known` that is zero in column `pivot`, made primitive."""
    if not row[pivot]:
        return row
    a, b = known[pivot], row[pivot]
    return primitive(a * x - b * y for x, y in zip(row, known, strict=True))


def rank(rows: Iterable[Sequence[int]], width: int) -> int:
    """Exact rank of integer rows."""
    return len(echelon(rows, width)[1])


def null_space(rows: Iterable[Sequence[int]], width: int) -> list[Vector]:
    """Basis of {y : row.y = 0 for all rows}, as primitive integer vectors."""
    reduced, pivots = echelon(rows, width)
    basis = []
    for free in (j for j in range(width) if j not in pivots):
        scale = math.lcm(*[row[pivot] for pivot, row in zip(pivots, reduced, strict=True)])
        y = [0] * width
        y[free] = scale
        for pivot, row in zip(pivots, reduced, strict=True):
            y[pivot] = -row[free] * (scale // row[pivot])
        basis.append(primitive(y))
    return basis


def extreme_rays(
    equal: Sequence[Vector], at_most: Sequence[Vector], width: int, cap: int
) -> list[Vector] | None:
    """Extreme rays of {y >= 0, row.y = 0 for `equal`, row.y <= 0 for `at_most`}.

    The double description method: constraints are added one by one (the one that needs the fewest new rays
    first); a new ray is the combination of two adjacent rays on either side, adjacent meaning that no third
    ray is tight wherever both are (Motzkin et al. 1953; Fukuda and Prodon 1996). Returns None when more than
    `cap` rays would be held on the way.
    """
    rays: list[tuple[Vector, int]] = []  # a ray, and the bit set of constraints that it meets with equality
    for i in range(width):
        ray = tuple(int(i == j) for j in range(width))
        rays.append((ray, ((1 << width) - 1) & ~(1 << i)))
    waiting = [(row, True) for row in dict.fromkeys(equal)] + [(row, False) for row in dict.fromkeys(at_most)]
    bit = 1 << width
    while waiting and rays:
        row, is_equal = waiting.pop(_cheapest(rays, [row for row, _ in waiting]))
        rays = _cut(rays, row, is_equal, bit)
        bit <<= 1
        if len(rays) > cap:
            return None
    return sorted((ray for ray, _ in rays), key=simplicity)


def simplicity(vector: Vector) -> tuple:
    """Sort key: few species first, then small coefficients, then the order of the species."""
    return (sum(x != 0 for x in vector), sum(map(abs, vector)), tuple(-x for x in vector))


def _cheapest(rays: Sequence[tuple[Vector, int]], rows: Sequence[Vector]) -> int:
    """Index of the row that splits the rays into the fewest pairs; floats will do, as any order is
    correct."""
    values = np.array([ray for ray, _ in rays], dtype=np.float64) @ np.array(rows, dtype=np.float64).T
    return int(np.argmin((values > 0).sum(axis=0) * (values < 0).sum(axis=0)))


def _cut(rays: list[tuple[Vector, int]], row: Vector, is_equal: bool, bit: int) -> list[tuple[Vector, int]]:
    """Rays of the cone after adding row.y = 0 or row.y <= 0."""
    values = [dot(row, ray) for ray, _ in rays]
    kept = [(ray, tight | bit) for (ray, tight), v in zip(rays, values, strict=True) if v == 0]
    if not is_equal:
        kept += [entry for entry, v in zip(rays, values, strict=True) if v < 0]
    above = [i for i, v in enumerate(values) if v > 0]
    below = [i for i, v in enumerate(values) if v < 0]
    for i in above:
        for j in below:
            common = rays[i][1] & rays[j][1]
            if any(common & ~tight == 0 for k, (_, tight) in enumerate(rays) if k not in (i, j)):
                continue
            pairs = zip(rays[i][0], rays[j][0], strict=True)
            kept.append((primitive(values[i] * y - values[j] * x for x, y in pairs), common | bit))
    return kept
