"""Parsing of command lines: wrong usage is an InputError with a did-you-mean, like all wrong input."""

from __future__ import annotations

import argparse
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hpcme.errors import InputError, did_you_mean
from hpcme.model.files import MODEL_SUFFIXES
from hpcme.parallel.launch import launched_rank

if TYPE_CHECKING:
    from hpcme.model.job import Job
    from hpcme.store.reader import Run


_OPTION = re.compile(r"--?[A-Za-z]")


class Command(NamedTuple):
    """One command: name, a line of help, examples, its options and what it does (returns the exit code)."""

    name: str
    summary: str
    example: str
    options: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], int]
    parallel: bool = False  # may run under mpiexec


class Parser(argparse.ArgumentParser):
    """argparse that raises InputError instead of exiting, and prints help on rank 0 only."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(f"{self.prog}: {message}. Try: {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        if launched_rank() == 0:
            super()._print_message(message, file)


def make_parser(commands: dict[str, Command], version: str) -> tuple[Parser, dict[str, Parser]]:
    """The parser of `hpcme` and those of its commands."""
    lines = "\n".join(f"  {command.name:<11} {command.summary}" for command in commands.values())
    top = Parser(
        prog="hpcme",
        usage="hpcme COMMAND ...",
        description="Neural solutions of the chemical master equation, with exact and trajectory references.",
        epilog=f"commands:\n{lines}\n\nhpcme COMMAND --help tells more. Exit codes: 0 done, 65 wrong input, "
        "70 bug, 74 results cannot be\nwritten, 75 stopped at a checkpoint (the same command continues), "
        "76 numerical failure.\n\n"
        "example:\n  hpcme run jobs/models/birth_death.toml --end 10",
    )
    top.add_argument("--version", action="version", version=f"hpcme {version}")
    parsers = {}
    for name, command in commands.items():
        example = "\n".join(f"  {line}" for line in command.example.strip().splitlines())
        parsers[name] = Parser(
            prog=f"hpcme {name}",
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog=f"example:\n{example}",
        )
        command.options(parsers[name])
    return top, parsers


def parse(argv: list[str], commands: dict[str, Command], version: str) -> argparse.Namespace:
    """Read a command line; `.command` of the result is the Command. InputError; SystemExit after --help."""
    top, parsers = make_parser(commands, version)
    if not argv:
        raise InputError(f"no command was given. Commands: {', '.join(commands)}. Try: hpcme --help")
    if argv[0] == "help":
        argv = [*argv[1:], "--help"]
    word, rest = argv[0], argv[1:]
    if any(name.startswith(f"{word} ") for name in commands):
        word, rest = _two_words(argv, commands)
    if word.startswith("-"):
        _, extra = top.parse_known_args(argv)
        raise InputError(
            f'unknown option "{(extra or argv)[0]}" before the command.'
            f"{did_you_mean(word, ['--help', '--version'])} Allowed: --help, --version. Try: hpcme --help"
        )
    if word not in parsers:
        hint = (
            f" To solve it: hpcme run {word}."
            if Path(word).suffix in MODEL_SUFFIXES
            else did_you_mean(word, commands)
        )
        raise InputError(
            f'unknown command "{word}".{hint} Commands: {", ".join(commands)}. Try: hpcme --help'
        )
    parser = parsers[word]
    _refuse_unknown_options(parser, rest)
    args, extra = parser.parse_known_args(rest)
    if extra:
        raise InputError(f'{parser.prog}: unexpected argument "{extra[0]}". Try: {parser.prog} --help')
    args.command = commands[word]
    return args


def _two_words(argv: list[str], commands: dict[str, Command]) -> tuple[str, list[str]]:
    """The command of two words (scan run) and the words behind it. Raises InputError; SystemExit after --help."""
    first = argv[0]
    seconds = [name.removeprefix(f"{first} ") for name in commands if name.startswith(f"{first} ")]
    second = argv[1] if len(argv) > 1 else ""
    if second in seconds:
        return f"{first} {second}", argv[2:]
    if second in ("--help", "-h"):
        lines = "\n".join(f"  {first} {word:<7} {commands[f'{first} {word}'].summary}" for word in seconds)
        top = Parser(
            prog=f"hpcme {first}",
            usage=f"hpcme {first} COMMAND ...",
            epilog=f"commands:\n{lines}\n\nhpcme {first} COMMAND --help tells more.",
        )
        top.parse_args(["--help"])
    seen = f'unknown command "{first} {second}".{did_you_mean(second, seconds)}' if second else "which one?"
    words = ", ".join(f"{first} {word}" for word in seconds)
    raise InputError(f"hpcme {first}: {seen} Commands: {words}. Try: hpcme {first} --help")


def _refuse_unknown_options(parser: Parser, words: list[str]) -> None:
    """A mistyped option is named before argparse complains about what it made missing."""
    known = parser._option_string_actions
    for word in words:
        name = word.split("=")[0]
        if word == "--":
            return
        if name in known or not _OPTION.match(word) or (word[1] != "-" and word[:2] in known):
            continue
        options = sorted(option for option in known if option.startswith("--"))
        raise InputError(
            f'{parser.prog}: unknown option "{name}".{did_you_mean(name, options)} '
            f"Options: {', '.join(options)}. Try: {parser.prog} --help"
        )


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f'"{text}" is not a finite number')
    return value


def positive(text: str) -> float:
    """A finite number above zero."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def whole(low: int) -> Callable[[str], int]:
    """Type of a whole number of at least `low` (1e5 is one too)."""

    def read(text: str) -> int:
        value = number(text)
        if value != int(value) or value < low:
            raise argparse.ArgumentTypeError(f'"{text}" must be a whole number of at least {low}')
        return int(text) if text.isdigit() else int(value)

    return read


def one_of(words: Iterable[str]) -> Callable[[str], str]:
    """Type of one of these words."""
    allowed = tuple(words)

    def read(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(
                f'"{text}" is not one of {", ".join(allowed)}.{did_you_mean(text, allowed)}'.rstrip(".")
            )
        return text

    return read


def add_job(parser: argparse.ArgumentParser) -> None:
    """JOB|MODEL and the options that change it."""
    parser.add_argument(
        "job", metavar="JOB|MODEL", help="job file (TOML), or model file (TOML, SBML, Antimony) together with --end"
    )
    parser.add_argument("--end", type=positive, metavar="T", help="end time; replaces time.end")
    parser.add_argument(
        "--every", type=positive, metavar="DT", help="time between reports; replaces time.report"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="another value for a key of the job: solver.epochs=50, parameters.k=0.2; may be repeated",
    )


def add_run(parser: argparse.ArgumentParser, what: str = "run folder, or its results.h5") -> None:
    """RUN."""
    parser.add_argument("run", metavar="RUN", help=what)


def open_run(path: str) -> Run:
    """The run of a command with `add_run`. Raises InputError."""
    if Path(path).suffix in MODEL_SUFFIXES and Path(path).is_file():
        raise InputError(
            f"{path} is a job or model file, not a run. Fix: name the run folder that hpcme run {path} made."
        )
    from hpcme.store import reader

    return reader.open_run(path)


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """--quiet."""
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing but errors, and what --json or --csv ask for"
    )


def read_job(args: argparse.Namespace, *, need_end: bool = True, need_limits: bool = True) -> Job:
    """The job of a command with `add_job`; see load_job. Raises InputError."""
    from hpcme.model.job import load_job

    return load_job(args.job, overrides=job_overrides(args), need_end=need_end, need_limits=need_limits)


def job_overrides(args: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_job` change in the job, by dotted key. Raises InputError."""
    from hpcme.model.job import parse_override

    overrides: dict[str, Any] = {}
    for text in args.changes:
        key, value = parse_override(text)
        if key in overrides:
            raise InputError(f"--set {text}: {key} is set twice. Fix: set it once.")
        overrides[key] = value
    for option, key, value in (("--end", "time.end", args.end), ("--every", "time.report", args.every)):
        if value is not None:
            if key in overrides:
                raise InputError(
                    f"{option} {value:g} and --set {key}=... both set {key}. Fix: keep one of them."
                )
            overrides[key] = value if key == "time.end" else {"every": value}
    return overrides


def is_model_file(path: str | os.PathLike) -> bool:
    """True for an SBML or Antimony file, and for a readable TOML file that holds a model rather than a job."""
    if Path(path).suffix.lower() in MODEL_SUFFIXES[1:]:
        return True
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever reads it says what is wrong
    return "species" in raw or "reactions" in raw
