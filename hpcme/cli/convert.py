"""`hpcme convert`: a model from one format into another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hpcme.cli.output import add_formats, show
from hpcme.cli.parsing import Command
from hpcme.cli.plot import writable
from hpcme.errors import InputError, OutputError
from hpcme.model.files import MODEL_SUFFIXES

if TYPE_CHECKING:
    from hpcme.model.network import ReactionNetwork

_WRITTEN = MODEL_SUFFIXES[:3]  # TOML and SBML


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="IN", help=f"model file ({', '.join(MODEL_SUFFIXES)})")
    parser.add_argument("out", metavar="OUT", help=f"file to write; its ending is its format ({', '.join(_WRITTEN)})")
    parser.add_argument(
        "--max", action="append", default=[], metavar="NAME=COUNT", dest="limits",
        help="largest count of a species, which SBML and Antimony do not know; may be repeated",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace OUT where it exists")
    add_formats(parser, csv_too=False)


def execute(args: argparse.Namespace) -> int:
    """Read IN, write OUT, and print what was decided on the way."""
    source, out = Path(args.model), Path(args.out)
    if out.suffix.lower() not in _WRITTEN:
        raise InputError(
            f'OUT {out} must end in {", ".join(_WRITTEN)}, seen "{out.suffix}". Fix: name a file with one of these '
            "endings (Antimony can be read, not written)."
        )
    if out.exists() and not args.force:
        raise InputError(f"{out} exists already. Fix: name another file, or add --force to replace it.")
    writable(out)
    net = load(source, limits(args.limits))
    lost: list[str] = []
    if out.suffix.lower() == ".toml":
        text = toml_text(net, source)
    else:
        from hpcme.model.sbml_write import lost_in_sbml, sbml_text

        text, lost = sbml_text(net), lost_in_sbml(net)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}. Fix: name another file.") from error
    data = {
        "model": str(source), "out": str(out), "hash": net.hash, "notes": list(net.notes), "only_in_annotation": lost,
    }  # fmt: skip

    def lines():
        yield f"{out}: {net.name}, {net.S} species, {net.R} reactions"
        yield from (f"note: {note}" for note in net.notes)
        yield from (f"only in hpcme's annotation: {part}" for part in lost)

    show(args, data, lines)
    return 0


def limits(words: list[str]) -> dict[str, int]:
    """Largest counts from --max NAME=COUNT. Raises InputError."""
    found: dict[str, int] = {}
    for word in words:
        name, _, count = word.partition("=")
        if not name.strip() or not count.strip().isdigit():
            raise InputError(f"--max {word} is not of the form NAME=COUNT. Example: --max X=300")
        found[name.strip()] = int(count)
    return found


def load(path: Path, known: dict[str, int]) -> ReactionNetwork:
    """The network of a model file, with these limits. Raises InputError."""
    from hpcme.model.reader import load_model

    return load_model(path, limits=known)


def toml_text(net: ReactionNetwork, source: Path) -> str:
    """TOML text, with the notes as comments."""
    if not net.notes:
        return net.text
    return "".join(f"# {line}\n" for line in (f"Read from {source.name}:", *net.notes)) + "\n" + net.text


COMMANDS = (
    Command(
        "convert",
        "write a model in another format: TOML or SBML from TOML, SBML or Antimony",
        "hpcme convert toggle.xml toggle.toml --max X=300\nhpcme convert jobs/models/toggle_switch.toml toggle.xml",
        options,
        execute,
    ),
)
