"""Errors with exit codes: every failure hpcme can explain is one of these.

Exit codes (shared by all commands): 0 done, 65 bad input, 70 internal error, 74 output cannot be written,
75 checkpointed and wants more time, 76 numerical failure.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable

_INTERRUPTED = 130  # what a shell gives for a program ended by Ctrl-C


class HpcmeError(Exception):
    """Base class. The message is for the user: what was seen, what is allowed, how to fix it."""

    exit_code = 70


class InputError(HpcmeError):
    """Something the user wrote (model, job, option, folder) cannot be used as it is."""

    exit_code = 65


class InternalError(HpcmeError):
    """A broken promise inside hpcme: always a bug, and the message says so."""

    exit_code = 70

    def __init__(self, message: str) -> None:
        super().__init__(f"{message} (this is a bug in hpcme, not in your input; please report it)")


class OutputError(HpcmeError):
    """Results cannot be written (disk full, read-only folder, no permission)."""

    exit_code = 74


class MoreTime(HpcmeError):
    """The run stopped in good order at a checkpoint before its end; the same command continues it."""

    exit_code = 75


class RankError(HpcmeError):
    """Another rank is gone or stands still; the run continues from its newest checkpoint with the same command."""

    exit_code = 70


class NumericalError(HpcmeError):
    """The solver cannot go on honestly: non-finite values or a step size that collapsed.

    Raised on quantities that were reduced over the ranks, hence by all of them.
    """

    exit_code = 76


class Fault(NumericalError):
    """Numbers broke down in a way that another try, with fresh samples, may not meet again."""


def explain(error: BaseException, who: str = "") -> tuple[str, int]:
    """What to print for an error that ends a command, and the command's exit code.

    who: whose error it is where that is not everybody's, like " on rank 1 of 2".
    """
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, MoreTime):
        return f"hpcme{who}: {error}", error.exit_code
    if isinstance(error, HpcmeError):
        return f"{trace if isinstance(error, InternalError) else ''}hpcme: error{who}: {error}", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return f"hpcme: interrupted{who}", _INTERRUPTED
    if isinstance(error, MemoryError):
        return (
            f"hpcme: error{who}: not enough memory ({str(error) or 'nothing more is known'}). Fix: fewer states, "
            "samples or trajectories, or lower limits (max) of the species.",
            InputError.exit_code,
        )
    bug = f"hpcme: error{who}: this is a bug in hpcme, not in your input; please report it with the lines above."
    return trace + bug, InternalError.exit_code


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ' Did you mean "x"?' for the closest allowed word, or '' when none is close."""
    close = difflib.get_close_matches(str(word), [str(a) for a in allowed], n=1, cutoff=0.6)
    return f' Did you mean "{close[0]}"?' if close else ""
