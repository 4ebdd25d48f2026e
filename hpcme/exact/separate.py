"""Splitting a propensity into a factor of time and a factor of the state: a_k(n, t) = g_k(t) h_k(n).

Works on the postfix programs: products and quotients at the top of an expression are taken apart; when every
factor reads the time or counts, never both, the reaction is separable. Then the generator on a state set is a
sum of constant matrices times numbers, which is many times cheaper than evaluating every propensity at every
time.
"""

from __future__ import annotations

import numpy as np

from hpcme.model.tables import ARITY, OPCODES, PropensityTables, program_depth

_NAMES = {number: name for name, number in OPCODES.items()}

#: A postfix program: list of (opcode, argument).
Program = list[tuple[int, float]]


def _operands(program: Program) -> list[Program]:
    """The operands of the last operation of a postfix program, in order."""
    operands: list[Program] = []
    end = len(program) - 1
    for _ in range(ARITY[_NAMES[program[-1][0]]]):
        begin, needed = end, 1
        while needed:  # walk back until one complete value has been passed
            begin -= 1
            needed += ARITY[_NAMES[program[begin][0]]] - 1
        operands.insert(0, program[begin:end])
        end = begin
    return operands


def _factors(program: Program, inverse: bool = False) -> list[tuple[Program, bool]]:
    """The factors of a product or quotient, as (program, divides)."""
    name = _NAMES[program[-1][0]]
    if name not in ("MUL", "DIV"):
        return [(program, inverse)]
    left, right = _operands(program)
    return _factors(left, inverse) + _factors(right, inverse != (name == "DIV"))


def _reads(program: Program, name: str) -> bool:
    return any(code == OPCODES[name] for code, _ in program)


def _product(factors: list[tuple[Program, bool]]) -> Program:
    """A program for the product (or quotient) of factors; empty for none."""
    result: Program = []
    for program, divides in factors:
        if not result and not divides:
            result = list(program)
            continue
        result = result or [(OPCODES["CONST"], 1.0)]
        result = result + program + [(OPCODES["DIV" if divides else "MUL"], 0.0)]
    return result


def split_time(tables: PropensityTables) -> tuple[PropensityTables, PropensityTables, np.ndarray]:
    """(space, clock, separable): tables with a_k(n, t) = clock_k(t) space_k(n) for every separable reaction
    that reads t.

    separable bool [R] is False for reactions that do not read the time and for those that cannot be taken
    apart; their entries in `space` are as in `tables`, those in `clock` are 1.
    """
    R = len(tables.coef)
    separable = np.zeros(R, dtype=np.bool_)
    spaces: list[Program] = []
    clocks: list[Program] = []
    for k in range(R):
        begin, end = int(tables.code_ptr[k]), int(tables.code_ptr[k + 1])
        program = list(zip(tables.op[begin:end].tolist(), tables.arg[begin:end].tolist(), strict=True))
        factors = _factors(program) if tables.uses_t[k] else []
        separable[k] = bool(factors) and not any(
            _reads(f, "TIME") and _reads(f, "SPECIES") for f, _ in factors
        )
        if separable[k]:
            clocks.append(_product([f for f in factors if _reads(f[0], "TIME")]))
            spaces.append(_product([f for f in factors if not _reads(f[0], "TIME")]))
        else:
            clocks.append([])
            spaces.append(program)
    space = _with_programs(tables, spaces)._replace(uses_t=tables.uses_t & ~separable)
    none = np.zeros(0, dtype=np.int64)
    clock = _with_programs(tables, clocks)._replace(
        coef=np.ones(R),
        re_ptr=np.zeros(R + 1, dtype=np.int64),
        re_sp=none,
        re_m=none,
        uses_t=separable.copy(),
    )
    return space, clock, separable


def _with_programs(tables: PropensityTables, programs: list[Program]) -> PropensityTables:
    """The tables with other programs."""
    flat = [entry for program in programs for entry in program]
    depths = [program_depth(np.array([code for code, _ in program])) for program in programs if program]
    return tables._replace(
        code_ptr=np.concatenate([[0], np.cumsum([len(program) for program in programs])]).astype(np.int64),
        op=np.array([code for code, _ in flat], dtype=np.int64),
        arg=np.array([value for _, value in flat], dtype=np.float64),
        depth=max([1, *depths]),
    )


def same_clocks(clock: PropensityTables, separable: np.ndarray) -> list[list[int]]:
    """The separable reactions in groups with the same clock program, each a list of reaction indices."""
    groups: dict[tuple, list[int]] = {}
    for k in np.flatnonzero(separable).tolist():
        begin, end = int(clock.code_ptr[k]), int(clock.code_ptr[k + 1])
        key = (tuple(clock.op[begin:end].tolist()), tuple(clock.arg[begin:end].tolist()))
        groups.setdefault(key, []).append(k)
    return list(groups.values())
