"""Propensities a_k(n, t) of batches of states, compiled with numba from the plain arrays of PropensityTables.

The one scalar function here, `propensity`, is what every other compiled kernel (neighbours, reach, ssa)
calls, so there is a single place where a propensity is defined. Formula and opcodes: hpcme/model/tables.py.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from hpcme.kernels.compiling import CHUNK, PARALLEL_FROM, device, hot, parallel, plain
from hpcme.model.tables import OPCODES, PropensityTables

_CONST, _SPECIES, _TIME = OPCODES["CONST"], OPCODES["SPECIES"], OPCODES["TIME"]
_ADD, _SUB, _MUL, _DIV = OPCODES["ADD"], OPCODES["SUB"], OPCODES["MUL"], OPCODES["DIV"]
_POW, _NEG, _MIN, _MAX = OPCODES["POW"], OPCODES["NEG"], OPCODES["MIN"], OPCODES["MAX"]
_LT, _LE, _GT, _GE = OPCODES["LT"], OPCODES["LE"], OPCODES["GT"], OPCODES["GE"]
_EQ, _NE, _AND, _OR, _NOT = OPCODES["EQ"], OPCODES["NE"], OPCODES["AND"], OPCODES["OR"], OPCODES["NOT"]
_EXP, _LOG, _LOG10, _SQRT = OPCODES["EXP"], OPCODES["LOG"], OPCODES["LOG10"], OPCODES["SQRT"]
_SIN, _COS, _TAN, _TANH = OPCODES["SIN"], OPCODES["COS"], OPCODES["TAN"], OPCODES["TANH"]
_ABS, _FLOOR, _CEIL, _SELECT = OPCODES["ABS"], OPCODES["FLOOR"], OPCODES["CEIL"], OPCODES["SELECT"]
_ASIN, _ACOS, _ATAN = OPCODES["ASIN"], OPCODES["ACOS"], OPCODES["ATAN"]

#: Three-point Gauss-Legendre nodes and weights on [0, 1] (exact for polynomials in t up to degree 5).
GAUSS_NODES = np.array([0.5 - math.sqrt(15.0) / 10.0, 0.5, 0.5 + math.sqrt(15.0) / 10.0])
GAUSS_WEIGHTS = np.array([5.0, 8.0, 5.0]) / 18.0


@hot
def _binary(code, x, y):
    """Value of a two-operand opcode; minimum and maximum hand a NaN on, as numpy's do."""
    if code == _ADD:
        return x + y
    if code == _SUB:
        return x - y
    if code == _MUL:
        return x * y
    if code == _DIV:
        return x / y
    if code == _POW:
        return x**y
    if code == _MIN:
        return x if (x < y or x != x) else y
    if code == _MAX:
        return x if (x > y or x != x) else y
    if code == _LT:
        return 1.0 if x < y else 0.0
    if code == _LE:
        return 1.0 if x <= y else 0.0
    if code == _GT:
        return 1.0 if x > y else 0.0
    if code == _GE:
        return 1.0 if x >= y else 0.0
    if code == _EQ:
        return 1.0 if x == y else 0.0
    if code == _NE:
        return 1.0 if x != y else 0.0
    if code == _AND:
        return 1.0 if (x != 0.0 and y != 0.0) else 0.0
    if code == _OR:
        return 1.0 if (x != 0.0 or y != 0.0) else 0.0
    return np.nan


@hot
def _unary(code, x):
    """Value of a one-operand opcode."""
    if code == _NEG:
        return -x
    if code == _NOT:
        return 1.0 if x == 0.0 else 0.0
    if code == _EXP:
        return math.exp(x)
    if code == _LOG:
        return np.log(x)
    if code == _LOG10:
        return np.log10(x)
    if code == _SQRT:
        return np.sqrt(x)
    if code == _SIN:
        return math.sin(x)
    if code == _COS:
        return math.cos(x)
    if code == _TAN:
        return math.tan(x)
    if code == _TANH:
        return math.tanh(x)
    if code == _ABS:
        return abs(x)
    if code == _FLOOR:
        return np.floor(x)
    if code == _CEIL:
        return np.ceil(x)
    if code == _ASIN:
        return np.arcsin(x)
    if code == _ACOS:
        return np.arccos(x)
    if code == _ATAN:
        return np.arctan(x)
    return np.nan


@hot
def _run_program(tables, begin, end, n_row, t, stack):
    """Value of the postfix program op[begin:end] for the state n_row [S] at time t; stack float64 [depth]
    is scratch.
    """
    top = -1
    for i in range(begin, end):
        code = tables.op[i]
        if code == _CONST:
            top += 1
            stack[top] = tables.arg[i]
        elif code == _SPECIES:
            top += 1
            stack[top] = n_row[np.int64(tables.arg[i])]
        elif code == _TIME:
            top += 1
            stack[top] = t
        elif code == _SELECT:
            top -= 2
            stack[top] = stack[top + 1] if stack[top] != 0.0 else stack[top + 2]
        elif (_ADD <= code <= _POW) or (_LT <= code <= _OR) or code in (_MIN, _MAX):
            top -= 1
            stack[top] = _binary(code, stack[top], stack[top + 1])
        else:
            stack[top] = _unary(code, stack[top])
    return stack[0]


@device
def propensity(tables, k, n_row, t, stack):
    """Propensity of reaction k in the state n_row (integers [S]) at time t, per model time unit.

    `stack` is scratch, float64 [>= tables.depth]. Zero where a mass-action reactant is missing (n < m),
    whatever the rate's program gives there. Counts that would become negative are the caller's concern (see
    neighbours.py).
    """
    for j in range(tables.re_ptr[k], tables.re_ptr[k + 1]):
        if n_row[tables.re_sp[j]] < tables.re_m[j]:
            return 0.0
    a = tables.coef[k]
    if tables.code_ptr[k + 1] > tables.code_ptr[k]:
        a *= _run_program(tables, tables.code_ptr[k], tables.code_ptr[k + 1], n_row, t, stack)
    for j in range(tables.re_ptr[k], tables.re_ptr[k + 1]):
        count = float(n_row[tables.re_sp[j]])
        if tables.power[k]:
            for _ in range(tables.re_m[j]):
                a *= count
        else:
            for i in range(tables.re_m[j]):
                a *= count - i
    return a


@device
def propensity_mean(tables, k, n_row, t0, t1, stack):
    """Time average of propensity k over [t0, t1] by three-point Gauss-Legendre; plain where the time is
    not read.
    """
    if not tables.uses_t[k] or t1 == t0:
        return propensity(tables, k, n_row, t0, stack)
    a = 0.0
    for i in range(3):
        a += GAUSS_WEIGHTS[i] * propensity(tables, k, n_row, t0 + GAUSS_NODES[i] * (t1 - t0), stack)
    return a


@hot
def _fill(tables, n, t0, t1, begin, end, stack, a):
    for b in range(begin, end):
        row = n[b]
        for k in range(a.shape[1]):
            a[b, k] = propensity_mean(tables, k, row, t0, t1, stack)


@parallel
def _fill_parallel(tables, n, t0, t1, a):
    for chunk in numba.prange((n.shape[0] + CHUNK - 1) // CHUNK):
        stack = np.empty(tables.depth)
        _fill(tables, n, t0, t1, chunk * CHUNK, min((chunk + 1) * CHUNK, n.shape[0]), stack, a)


def propensities(tables: PropensityTables, n: np.ndarray, t: float) -> np.ndarray:
    """Propensities a [B, R] (float64, per model time unit) of the states n (int32 [B, S]) at time t.

    Negative or non-finite values are returned as they come; `find_bad` points at the first.
    """
    return propensities_mean(tables, n, t, t)


def propensities_mean(tables: PropensityTables, n: np.ndarray, t0: float, t1: float) -> np.ndarray:
    """Time averages [B, R] (float64) of the propensities over [t0, t1] for fixed states n (int32 [B, S]).

    Three-point Gauss-Legendre for reactions whose rate reads the time (exact for rates polynomial in t up to
    degree 5), the plain value for the others.
    """
    n = np.ascontiguousarray(n, dtype=np.int32)
    a = np.empty((n.shape[0], tables.coef.shape[0]))
    if n.shape[0] >= PARALLEL_FROM:
        _fill_parallel(tables, n, float(t0), float(t1), a)
    else:
        _fill(tables, n, float(t0), float(t1), 0, n.shape[0], np.empty(tables.depth), a)
    return a


@plain
def _find_bad(a):
    for b in range(a.shape[0]):
        for k in range(a.shape[1]):
            if not (a[b, k] >= 0.0 and a[b, k] < np.inf):
                return b, k
    return -1, -1


def find_bad(a: np.ndarray) -> tuple[int, int]:
    """(row, reaction) of the first negative or non-finite propensity in a (float64 [B, R]), or (-1, -1)."""
    row, k = _find_bad(np.ascontiguousarray(a, dtype=np.float64))
    return int(row), int(k)
