"""Shared by the model tests: propensities from the tables, in plain Python."""

import math

from hpcme.model.network import ReactionNetwork
from hpcme.model.tables import OPCODES


def table_propensity(net: ReactionNetwork, k: int, n, t: float = 0.0) -> float:
    """a_k(n, t) from the tables alone, as the formula in tables.py states it."""
    tables = net.tables
    names = {number: name for name, number in OPCODES.items()}
    stack: list[float] = [1.0]
    for j in range(tables.code_ptr[k], tables.code_ptr[k + 1]):
        name, arg = names[int(tables.op[j])], float(tables.arg[j])
        if name == "CONST":
            stack.append(arg)
        elif name == "SPECIES":
            stack.append(float(n[int(arg)]))
        elif name == "TIME":
            stack.append(t)
        elif name == "SIN":
            stack.append(math.sin(stack.pop()))
        elif name == "SELECT":
            other, then, condition = stack.pop(), stack.pop(), stack.pop()
            stack.append(then if condition else other)
        else:
            right, left = stack.pop(), stack.pop()
            quotient = left / right if right else math.nan
            values = {"ADD": left + right, "SUB": left - right, "MUL": left * right, "DIV": quotient}
            stack.append({**values, "GE": float(left >= right)}[name])
    value = float(tables.coef[k]) * stack[-1]
    for j in range(tables.re_ptr[k], tables.re_ptr[k + 1]):
        count, m = int(n[tables.re_sp[j]]), int(tables.re_m[j])
        value *= (count**m if count >= m else 0) if tables.power[k] else math.perm(count, m)
    return value
