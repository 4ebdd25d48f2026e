"""The command `hpcme`: finds the command, runs it, turns every failure into one message and an exit code."""

from __future__ import annotations

import os
import sys
import traceback

import hpcme
from hpcme.cli import check, comparison, doctor, plot, query, references, run, status
from hpcme.cli.parsing import Command, parse
from hpcme.cli.ranks import BUG, launched_rank
from hpcme.errors import HpcmeError, InputError, InternalError, MoreTime
from hpcme.parallel.launch import launched_size

COMMANDS: dict[str, Command] = {
    command.name: command
    for module in (run, check, references, query, comparison, plot, status, doctor)
    for command in module.COMMANDS
}
_INTERRUPTED = 130  # what a shell gives for a program ended by Ctrl-C


def main(argv: list[str] | None = None) -> int:
    """Run one command line (default: sys.argv) and return its exit code (see hpcme.errors; 130 after Ctrl-C).

    Results go to standard output; messages, progress and errors to standard error; under mpiexec from rank 0.
    """
    try:
        return _checked(list(sys.argv[1:]) if argv is None else list(argv))
    except SystemExit as ended:  # --help and --version
        return ended.code if isinstance(ended.code, int) else 0
    except HpcmeError as error:
        trace = traceback.format_exc() if isinstance(error, InternalError) else ""
        _say(f"{trace}hpcme: {error}" if isinstance(error, MoreTime) else f"{trace}hpcme: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say("hpcme: interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        _say(
            f"hpcme: error: not enough memory ({str(error) or 'nothing more is known'}). Fix: fewer states, "
            "samples or trajectories, or lower limits (max) of the species."
        )
        return InputError.exit_code
    except Exception:
        _say(traceback.format_exc() + BUG.rstrip())
        return 70


def _checked(argv: list[str]) -> int:
    args = parse(argv, COMMANDS, hpcme.__version__)
    size, launcher = launched_size()
    if size > 1 and not args.command.parallel:
        raise InputError(
            f"hpcme {args.command.name} was started as {size} processes by {launcher}, but works in one. "
            "Fix: leave "
            f"the launcher out; parallel are {' and '.join(c.name for c in COMMANDS.values() if c.parallel)}."
        )
    code = args.command.execute(args)
    sys.stdout.flush()
    return code


def _say(text: str) -> None:
    if launched_rank() == 0:
        sys.stderr.write(text.rstrip() + "\n")
