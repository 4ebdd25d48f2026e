"""Propensities as plain arrays: the form in which a reaction network reaches the kernels.

A propensity is a constant, times a small postfix program, times one factor per reactant:

    a_k(n, t) = coef[k] * program_k(n, t) * prod_j factor_k(n[re_sp[j]], re_m[j])

with j over re_ptr[k] .. re_ptr[k+1]. The factor for a reactant of stoichiometry m is n (n-1) ... (n-m+1) (no
division by m!) under the combinatorial law, and n**m where n >= m, else 0, under the power law. Nothing here
knows about text.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_OPCODE_NAMES = (
    "CONST", "SPECIES", "TIME",
    "ADD", "SUB", "MUL", "DIV", "POW", "NEG",
    "LT", "LE", "GT", "GE", "EQ", "NE",
    "AND", "OR", "NOT",
    "MIN", "MAX",
    "EXP", "LOG", "LOG10", "SQRT", "SIN", "COS", "TAN", "TANH", "ABS", "FLOOR", "CEIL",
    "SELECT",
    "ASIN", "ACOS", "ATAN",
)  # fmt: skip

#: Opcode numbers, shared with the kernels. CONST pushes `arg`, SPECIES pushes n[arg], TIME pushes t. Binary
#: operations pop the right operand first. SELECT pops `else`, then `then`, then `cond`, and pushes cond != 0
#: ? then : else; all three were evaluated, so it must pick and never multiply (a NaN in the branch not taken
#: does not leak). Comparisons, AND, OR and NOT push 0.0 or 1.0; any operand != 0 counts as true. MIN and MAX
#: take two operands.
OPCODES: dict[str, int] = {name: number for number, name in enumerate(_OPCODE_NAMES)}

#: Number of operands each opcode pops; every opcode pushes one value.
ARITY: dict[str, int] = {
    **dict.fromkeys(("CONST", "SPECIES", "TIME"), 0),
    **dict.fromkeys(
        (
            "NEG", "NOT", "EXP", "LOG", "LOG10", "SQRT", "SIN", "COS", "TAN", "TANH", "ABS", "FLOOR", "CEIL", "ASIN",
            "ACOS", "ATAN",
        ), 1
    ),
    **dict.fromkeys(
        ("ADD", "SUB", "MUL", "DIV", "POW", "LT", "LE", "GT", "GE", "EQ", "NE", "AND", "OR", "MIN", "MAX"), 2
    ),
    "SELECT": 3,
}


class PropensityTables(NamedTuple):
    """All propensities of a network as plain arrays (numba-friendly); the module's text has the formula."""

    coef: np.ndarray  #: float64 [R], constant factor (1.0 where a program gives what the reaction has)
    code_ptr: np.ndarray  #: int64 [R+1], program of k is op[code_ptr[k]:code_ptr[k+1]]; empty means 1
    op: np.ndarray  #: int64 [L], opcodes in postfix order
    arg: np.ndarray  #: float64 [L], the literal of CONST, the species index of SPECIES, 0 otherwise
    re_ptr: np.ndarray  #: int64 [R+1], reactants of reaction k (empty where the whole propensity is given)
    re_sp: np.ndarray  #: int64 [N], species index of a reactant
    re_m: np.ndarray  #: int64 [N], its stoichiometry m >= 1
    power: np.ndarray  #: bool [R], True for the power law n**m (0 where n < m), False for combinatorial
    uses_t: np.ndarray  #: bool [R], the program reads the time
    depth: int  #: largest stack that any program needs (at least 1)


def program_depth(op: np.ndarray) -> int:
    """Largest number of values on the stack while the postfix program `op` (int64 [L]) runs."""
    pops = {number: ARITY[name] for name, number in OPCODES.items()}
    depth = largest = 0
    for code in op:
        depth += 1 - pops[int(code)]
        largest = max(largest, depth)
    return largest
