"""The command `hpcme`: finds the command, runs it, turns every failure into one message and an exit code."""

from __future__ import annotations

import sys

import hpcme
from hpcme.cli import (
    analysis,
    check,
    comparison,
    convert,
    doctor,
    likelihood,
    plot,
    query,
    references,
    report,
    run,
    scan,
    scansubmit,
    status,
    submit,
)
from hpcme.cli.output import write
from hpcme.cli.parsing import Command, parse
from hpcme.errors import InputError, explain
from hpcme.parallel.ending import say_once
from hpcme.parallel.launch import launched_size

MODULES = (
    run, check, references, query, analysis, likelihood, comparison, plot, report, status, submit, scan, scansubmit,
    convert, doctor,
)  # fmt: skip
COMMANDS: dict[str, Command] = {
    command.name: command
    for module in MODULES
    for command in module.COMMANDS
}


def main(argv: list[str] | None = None) -> int:
    """Run one command line (default: sys.argv) and return its exit code (see hpcme.errors; 130 after Ctrl-C).

    Results go to standard output; messages, progress and errors to standard error; under mpiexec from rank 0.
    """
    try:
        code = _checked(list(sys.argv[1:]) if argv is None else list(argv))
        write("")  # flushes what argparse printed
        return code
    except BrokenPipeError:
        return 0  # the reader (head, less) has seen enough
    except (Exception, KeyboardInterrupt) as error:
        text, code = explain(error)
        say_once(text)
        return code


def _checked(argv: list[str]) -> int:
    try:
        args = parse(argv, COMMANDS, hpcme.__version__)
    except SystemExit as ended:  # --help and --version
        return ended.code if isinstance(ended.code, int) else 0
    size, launcher = launched_size()
    if size > 1 and not args.command.parallel:
        raise InputError(
            f"hpcme {args.command.name} was started as {size} processes by {launcher}, but works in one. "
            "Fix: leave "
            f"the launcher out; parallel are {' and '.join(c.name for c in COMMANDS.values() if c.parallel)}."
        )
    return args.command.execute(args)
