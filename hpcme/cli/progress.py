"""Progress on standard error: a bar where it is a terminal, else a line every ten seconds."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from hpcme.cli.output import seconds_text

if TYPE_CHECKING:
    from hpcme.dynamics.evolve import Progress

_BAR_SECONDS, _LINE_SECONDS = 0.1, 10.0
_TEXT = 70  # characters of "t = 1.974 of 10  19.7%  step 3712, dt 0.0043, error <= 0.057  ETA 16 s"


class Display:
    """Lines and progress of one command; `quiet` ones show nothing.

    The bar is one line that is redrawn in place and wiped before any other line and at the end, so a log
    never holds control characters: they are written to a terminal only.
    """

    def __init__(self, what: str, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.what, self.quiet = what, quiet
        self.stream = sys.stderr if stream is None else stream
        self.bar = not quiet and self.stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._begun = self._last = time.monotonic()
        self._first: float | None = None  # share of the work that was done when we began to count
        self._drawn = False

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *problem: Any) -> None:
        self.wipe()

    def say(self, line: str) -> None:
        """One line for the user."""
        if not self.quiet:
            self.wipe()
            self._put(line + "\n")

    def step(self, progress: Progress) -> None:
        """After a time step of a run (`hpcme.dynamics.evolve.Progress`)."""
        where = f"t = {progress.t:.4g} of {progress.end:g}"
        how = f"step {progress.step}, dt {progress.dt:.2g}, error <= {progress.bound:.2g}"
        self._advance(progress.t / progress.end, where, how)

    def share(self, fraction: float) -> None:
        """After a part of the work; fraction in 0..1."""
        self._advance(fraction, "", "")

    def wipe(self) -> None:
        """Remove the bar from the terminal."""
        if self._drawn:
            self._put("\r\x1b[K")
            self._drawn = False

    def _advance(self, fraction: float, where: str, how: str) -> None:
        if self.quiet:
            return
        now = time.monotonic()
        if self._first is None:
            self._first, self._begun = fraction, now
        if now - self._last < (_BAR_SECONDS if self.bar else _LINE_SECONDS):
            return
        self._last = now
        left = self._left(fraction, now)
        parts = [
            part for part in (where, f"{100 * fraction:.1f}%", how, f"ETA {left}" if left else "") if part
        ]
        self._draw(fraction, parts) if self.bar else self._put(f"{self.what}: {', '.join(parts)}\n")

    def _left(self, fraction: float, now: float) -> str:
        """Time to go if the rest goes like what was seen; '' while nothing was."""
        gone = fraction - (self._first or 0.0)
        return seconds_text((now - self._begun) * (1.0 - fraction) / gone) if gone > 1e-9 else ""

    def _draw(self, fraction: float, parts: list[str]) -> None:
        room = shutil.get_terminal_size().columns - 1
        text = "  ".join(parts)
        if len(parts) <= 2:  # no time step to tell about: say whose bar it is
            text = f"{self.what}  {text}"
        # The bar leaves room for the longest usual text, so its length does not change at every step.
        length = min(30, room - (_TEXT if len(parts) > 2 else len(self.what) + 22) - 3)
        full = round(max(0.0, min(1.0, fraction)) * length)
        bar = f"[{'#' * full}{'.' * (length - full)}] " if length >= 5 else ""
        self._put("\r\x1b[K" + f"{bar}{text}"[:room])
        self._drawn = True

    def _put(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            self.quiet = True  # nobody can read it: the work goes on
