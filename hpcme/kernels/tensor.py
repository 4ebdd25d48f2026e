"""Propensities, neighbours and distinct states as torch operations: the kernels for batches that live on a
GPU.

Same formulas and rules as propensity.py, neighbours.py and dedup.py (tested to agree); nothing is copied to
the host, except that `unique_states` must learn the number of distinct states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from hpcme.errors import InternalError
from hpcme.kernels.propensity import GAUSS_NODES, GAUSS_WEIGHTS
from hpcme.model.tables import OPCODES, PropensityTables

_NAMES = {number: name for name, number in OPCODES.items()}


def _truth(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float64)


_UNARY = {
    "NEG": torch.neg, "EXP": torch.exp, "LOG": torch.log, "LOG10": torch.log10, "SQRT": torch.sqrt,
    "SIN": torch.sin, "COS": torch.cos, "TAN": torch.tan, "TANH": torch.tanh, "ABS": torch.abs,
    "ASIN": torch.asin, "ACOS": torch.acos, "ATAN": torch.atan,
    "FLOOR": torch.floor, "CEIL": torch.ceil, "NOT": lambda x: _truth(x == 0),
}  # fmt: skip
_BINARY = {
    "ADD": torch.add, "SUB": torch.sub, "MUL": torch.mul, "DIV": torch.div, "POW": torch.pow,
    "MIN": torch.minimum, "MAX": torch.maximum,
    "LT": lambda x, y: _truth(x < y), "LE": lambda x, y: _truth(x <= y), "GT": lambda x, y: _truth(x > y),
    "GE": lambda x, y: _truth(x >= y), "EQ": lambda x, y: _truth(x == y), "NE": lambda x, y: _truth(x != y),
    "AND": lambda x, y: _truth((x != 0) & (y != 0)), "OR": lambda x, y: _truth((x != 0) | (y != 0)),
}  # fmt: skip


@dataclass(frozen=True)
class TensorTables:
    """A network's propensities, state changes and limits on a device.

    coef float64 [R]; species int64 [R, J] and need int64 [R, J] the reactants (padded with need = 0); factor
    bool [m, R, J] where the i-th factor of a reactant's product is wanted; power bool [R, 1]; programs: per
    reaction its postfix program as ((name, argument), ...), empty for none; uses_t tuple of bool; s int64 [R,
    S]; limits int64 [S]; radix int64 [S] or None: place values that number the states of the box, where they
    fit int64.
    """

    coef: torch.Tensor
    species: torch.Tensor
    need: torch.Tensor
    factor: torch.Tensor
    power: torch.Tensor
    programs: tuple[tuple[tuple[str, float], ...], ...]
    uses_t: tuple[bool, ...]
    s: torch.Tensor
    limits: torch.Tensor
    radix: torch.Tensor | None

    @staticmethod
    def from_tables(
        tables: PropensityTables, s: np.ndarray, limits: np.ndarray, device: torch.device | str = "cpu"
    ) -> TensorTables:
        """Put the plain arrays of a network (see model/tables.py) on `device`."""
        R = len(tables.coef)
        counts = np.diff(tables.re_ptr)
        J = int(counts.max()) if len(counts) and counts.max() > 0 else 1
        species, need = np.zeros((R, J), dtype=np.int64), np.zeros((R, J), dtype=np.int64)
        for k in range(R):
            entries = slice(int(tables.re_ptr[k]), int(tables.re_ptr[k + 1]))
            species[k, : counts[k]], need[k, : counts[k]] = tables.re_sp[entries], tables.re_m[entries]
        order = int(need.max()) if need.size else 0
        factor = need[None] > np.arange(order)[:, None, None]
        programs = tuple(
            tuple(
                (_NAMES[int(code)], float(value))
                for code, value in zip(tables.op[begin:end], tables.arg[begin:end], strict=True)
            )
            for begin, end in zip(tables.code_ptr[:-1], tables.code_ptr[1:], strict=True)
        )
        sizes = [int(x) + 1 for x in limits]
        places = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
        fits = math.prod(sizes) < 2**63

        def put(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array).to(device)

        return TensorTables(
            coef=put(tables.coef.astype(np.float64)),
            species=put(species),
            need=put(need),
            factor=put(factor),
            power=put(tables.power[:, None].copy()),
            programs=programs,
            uses_t=tuple(bool(x) for x in tables.uses_t),
            s=put(s.astype(np.int64)),
            limits=put(limits.astype(np.int64)),
            radix=put(np.array(places, dtype=np.int64)) if fits else None,
        )


def _run_program(program: tuple[tuple[str, float], ...], n: torch.Tensor, t: float) -> torch.Tensor:
    """Value float64 [B] (or a scalar tensor) of a postfix program; n float64 [B, S]."""
    stack: list[torch.Tensor] = []
    for name, value in program:
        if name == "CONST":
            stack.append(torch.full((), value, dtype=n.dtype, device=n.device))
        elif name == "SPECIES":
            stack.append(n[:, int(value)])
        elif name == "TIME":
            stack.append(torch.full((), t, dtype=n.dtype, device=n.device))
        elif name == "SELECT":
            other, then, condition = stack.pop(), stack.pop(), stack.pop()
            stack.append(torch.where(condition != 0, then, other))
        elif name in _UNARY:
            stack.append(_UNARY[name](stack.pop()))
        elif name in _BINARY:
            right, left = stack.pop(), stack.pop()
            stack.append(_BINARY[name](left, right))
        else:
            raise InternalError(f"opcode {name} has no torch operation")
    return stack[0]


def _mass_action(tt: TensorTables, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(product of the reactants' factors float64 [B, R], whether all reactants are there bool [B, R])."""
    counts = n[:, tt.species.reshape(-1)].reshape(n.shape[0], *tt.species.shape)  # [B, R, J]
    there = (counts >= tt.need).all(dim=-1)
    x = counts.to(torch.float64)
    product = torch.ones(x.shape[:2], dtype=torch.float64, device=n.device)
    for j in range(tt.species.shape[1]):
        for i in range(tt.factor.shape[0]):
            term = torch.where(tt.power[:, 0], x[:, :, j], x[:, :, j] - i)
            product = product * torch.where(tt.factor[i, :, j], term, 1.0)
    return product, there


def _with_programs(
    tt: TensorTables, n: torch.Tensor, factors: torch.Tensor, there: torch.Tensor, t: float
) -> torch.Tensor:
    x = n.to(torch.float64)
    rate = tt.coef.expand(n.shape[0], -1).clone()
    for k, program in enumerate(tt.programs):
        if program:
            rate[:, k] *= _run_program(program, x, t)
    return torch.where(there, rate * factors, 0.0)


def propensities(tt: TensorTables, n: torch.Tensor, t: float) -> torch.Tensor:
    """Propensities a [B, R] (float64) of the states n (integers [B, S], on the tables' device) at time t."""
    factors, there = _mass_action(tt, n)
    return _with_programs(tt, n, factors, there, t)


def propensities_mean(tt: TensorTables, n: torch.Tensor, t0: float, t1: float) -> torch.Tensor:
    """Time averages [B, R] over [t0, t1] by three-point Gauss-Legendre (plain where no rate reads the
    time).
    """
    factors, there = _mass_action(tt, n)
    first = _with_programs(tt, n, factors, there, t0)
    if t1 == t0 or not any(tt.uses_t):
        return first
    mean = torch.zeros_like(first)
    for node, weight in zip(GAUSS_NODES.tolist(), GAUSS_WEIGHTS.tolist(), strict=True):
        mean += weight * _with_programs(tt, n, factors, there, t0 + node * (t1 - t0))
    return torch.where(torch.tensor(tt.uses_t, device=n.device), mean, first)


def _moved(tt: TensorTables, n: torch.Tensor, sign: int) -> tuple[torch.Tensor, torch.Tensor]:
    y = n[:, None, :].to(torch.int64) + sign * tt.s
    inside = ((y >= 0) & (y <= tt.limits)).all(dim=-1)
    return torch.where(inside[..., None], y, n[:, None, :].to(torch.int64)).to(torch.int32), inside


def incoming(tt: TensorTables, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """y = n - s_k int32 [B, R, S] and inside bool [B, R]; y repeats n where outside 0..limits."""
    return _moved(tt, n, -1)


def outgoing(tt: TensorTables, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """y = n + s_k int32 [B, R, S] and inside bool [B, R]; y repeats n where outside 0..limits."""
    return _moved(tt, n, 1)


def outflow(
    tt: TensorTables, n: torch.Tensor, t: float, t_end: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(a [B, R] with zero where n + s_k is outside, leak [B]): see neighbours.outflow; averaged to t_end
    where given.
    """
    a = propensities_mean(tt, n, t, t if t_end is None else t_end)
    y = n[:, None, :].to(torch.int64) + tt.s
    possible = (y >= 0).all(dim=-1)
    inside = possible & (y <= tt.limits).all(dim=-1)
    return torch.where(inside, a, 0.0), torch.where(possible & ~inside, a, 0.0).sum(dim=-1)


def unique_states(tt: TensorTables, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distinct rows of n (integers [B, S], inside 0..limits) in order of first appearance.

    Returns u [U, S] of n's type, inverse int64 [B] with u[inverse] == n, counts int64 [U]. States are
    compared as single numbers where those of the whole box fit int64, as rows otherwise.
    """
    if tt.radix is not None:
        key = (n.to(torch.int64) * tt.radix).sum(dim=-1)
        _, inverse, counts = torch.unique(key, return_inverse=True, return_counts=True)
    else:
        _, inverse, counts = torch.unique(n, dim=0, return_inverse=True, return_counts=True)
    rows = torch.arange(n.shape[0], device=n.device)
    first = torch.full(counts.shape, n.shape[0], device=n.device, dtype=torch.int64)
    first = first.scatter_reduce(0, inverse, rows, reduce="amin")
    order = torch.argsort(first)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=n.device)
    return n[first[order]], rank[inverse], counts[order]
