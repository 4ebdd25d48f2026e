"""How the kernels are compiled: the decorators used by every numba function of this folder.

`hot` is for loops that allocate nothing (scratch arrays are passed in). Numba then need not count references
to the arrays, whose atomic operations otherwise cost several times the arithmetic of a propensity (measured:
130 ns against 10 ns each). `device` is for small functions that are inlined into such loops. `plain` is for
everything else.

Numba's cache on disk knows the source file of a function, not those of the
functions it calls: after a change to a `device` function or an opcode, remove the __pycache__ folders.
"""

from __future__ import annotations

import numba

_COMMON = {"cache": True, "nogil": True, "error_model": "numpy"}


def _without_references() -> dict:
    """The option that switches reference counting off, where this numba has it (it is not documented)."""
    try:
        numba.njit(_nrt=False)(lambda: None)
    except Exception:
        return {}
    return {"_nrt": False}


_HOT = {**_COMMON, **_without_references()}

hot = numba.njit(**_HOT)
device = numba.njit(inline="always", **_HOT)
plain = numba.njit(**_COMMON)
parallel = numba.njit(parallel=True, **_COMMON)

#: Rows handled by one parallel task, and the batch size from which threads pay for their start.
CHUNK = 4096
PARALLEL_FROM = 32_768
