"""Where the time goes: wall seconds per named part of the work."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Timers:
    """Adds up wall seconds per part; nested parts are counted once, for the innermost.

    On a GPU work is asynchronous: with `synchronise` every part waits for the device, which is for benchmarks only.
    """

    def __init__(self, synchronise: bool = False) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.synchronise = synchronise
        self._stack: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._switch()
        self._stack.append(part)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    def _switch(self) -> None:
        if self.synchronise and torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now
