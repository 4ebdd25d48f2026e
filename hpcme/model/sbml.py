"""Reading SBML files (Level 2, and Level 3 Versions 1 and 2) as reaction networks.

What has an exact meaning as a chemical master equation is read; everything else is refused, all of it in one error. The
notes of the network say what the reader decided. Needs libSBML (python-libsbml).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.parsers import expat

from hpcme.errors import InputError
from hpcme.model.files import read_text
from hpcme.model.network import ReactionNetwork
from hpcme.model.sbml_model import ModelReader
from hpcme.model.sbml_problems import Problems
from hpcme.model.sbml_write import as_sbml_says
from hpcme.model.writer import ANNOTATION, written_limits

_DEEPEST = 200
_WHAT = "a chemical master equation"
_PACKAGE = "http://www.sbml.org/sbml/level3/version"


def read_sbml(path: str | os.PathLike, limits: Mapping[str, object] | None = None) -> ReactionNetwork:
    """Read an SBML file. limits: largest counts of species by name, which SBML does not know.

    Raises
    ------
    InputError : libSBML is not installed; the file cannot be read, is not valid SBML, or has elements that are no part
        of a chemical master equation. The message lists all of them with their lines.
    """
    path = Path(path)
    return read_sbml_text(read_text(path, "an SBML file (.xml)"), str(path), path.stem, limits)


def read_sbml_text(
    text: str, where: str, default_name: str = "model", limits: Mapping[str, object] | None = None, *,
    lines: bool = True, known: Mapping[str, object] | None = None,
) -> ReactionNetwork:  # fmt: skip
    """Read the text of an SBML file; `where` names it in messages.

    lines: False leaves lines out of messages, for text that the user has not written. known: limits that are used where
    `limits` has none; names that are no species are allowed there.
    """
    libsbml = _library(where)
    facts = _Facts(text, where)
    problems = Problems(where, lines)
    document = libsbml.readSBMLFromString(text)
    model = document.getModel()
    level, version = document.getLevel(), document.getVersion()
    _library_errors(libsbml, document, problems)
    if model is None:
        problems.add_line(0, "there is no <model> in it")
    if model is None or document.getNumErrors(libsbml.LIBSBML_SEV_FATAL):
        problems.raise_any("SBML")
    if (level, version) not in {(2, v) for v in range(1, 6)} | {(3, 1), (3, 2)}:
        raise InputError(
            f"{where}: SBML Level {level} Version {version} is not read; allowed are Level 2 and Level 3 Versions 1 "
            "and 2. Fix: convert the file, for example with libSBML's convertSBML"
        )
    notes: list[str] = []
    for name, (line, required) in facts.packages.items():
        if required:
            problems.add_line(line, f'package "{name}": it is required to understand the model, and is not supported')
        else:
            notes.append(f'what the package "{name}" says is left out; the model does not require it')
    written = _annotation(facts)
    known = known or {}
    if written is not None:
        known = written_limits(written)

    def read(limits: Mapping[str, object]) -> ReactionNetwork:
        try:
            network = ModelReader(libsbml, model, where, problems, list(notes)).network(default_name, limits, known)
        except RecursionError:
            raise InputError(
                f"{where}: its rules, functions or initial assignments lead through too many others; write some out"
            ) from None
        except InputError:
            if not problems.endless:
                _consistency(libsbml, document, problems)
            problems.raise_any(_WHAT)
            raise
        _consistency(libsbml, document, problems)
        problems.raise_any(_WHAT)
        return network

    if written is None:
        return read(limits or {})
    if _unchanged(read({}), written):
        return written.with_limits(limits) if limits else written
    network = read(limits or {})
    remark = "the SBML was changed after hpcme wrote it: only the limits of the species are taken from its annotation"
    return network.with_notes([*network.notes, remark])


def _annotation(facts: _Facts) -> ReactionNetwork | None:
    """The network that hpcme kept in the file when it wrote it; None where there is none that can be read."""
    from hpcme.model.reader import load_model_text

    try:
        return load_model_text(facts.kept, facts.where) if facts.kept else None
    except InputError:
        return None


def _unchanged(network: ReactionNetwork, written: ReactionNetwork) -> bool:
    """Whether the SBML, read as `network`, is what hpcme writes for the network in its annotation."""
    try:
        return network == as_sbml_says(written)
    except InputError:
        return False


def _library(where: str) -> ModuleType:
    try:
        import libsbml
    except ImportError:
        raise InputError(
            f"{where}: SBML files need libSBML, which is not installed. Fix: "
            'pip install "hpcme[sbml]" or pip install python-libsbml.'
        ) from None
    return libsbml


def _library_errors(libsbml: ModuleType, document: Any, problems: Problems) -> None:
    """The errors that libSBML has found so far."""
    for i in range(document.getNumErrors()):
        error = document.getError(i)
        if error.getSeverity() in (libsbml.LIBSBML_SEV_ERROR, libsbml.LIBSBML_SEV_FATAL):
            problems.add_line(int(error.getLine()), _short(error))


def _consistency(libsbml: ModuleType, document: Any, problems: Problems) -> None:
    """Let libSBML check the model (no units, no modelling practice)."""
    for skipped in (libsbml.LIBSBML_CAT_UNITS_CONSISTENCY, libsbml.LIBSBML_CAT_MODELING_PRACTICE):
        document.setConsistencyChecks(skipped, False)
    document.checkConsistency()
    _library_errors(libsbml, document, problems)


def _short(error: Any) -> str:
    """libSBML's message without the text of the rule, where it says more of the element behind it."""
    text = " ".join(error.getMessage().split())
    detail = re.split(r"Reference: \S+ (?:Sections?|Appendix)[^A-Za-z]*(?:and [^A-Za-z]*)?", text)[-1]
    text = detail if len(detail) > 20 else text
    if len(text) > 400:
        text = f"{text[:150]} ... {text[-240:]}"
    return f"{error.getShortMessage()}: {text} (SBML rule {error.getErrorId()})"


class _Facts:
    """What the plain XML says: packages, and the annotation of hpcme. Refuses what libSBML should not be given.

    packages : name -> (line, required).     kept : TOML text of the network that hpcme wrote, or "".
    """

    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self.packages: dict[str, tuple[int, bool]] = {}
        self._depth, self._inside = 0, 0
        self._parts: list[str] = []
        self._parser = parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        try:
            parser.Parse(text.encode(), True)
        except expat.ExpatError as error:
            raise InputError(
                f"{where}: not well-formed XML: {expat.ErrorString(error.code)} (line {error.lineno}); correct it there"
            ) from None
        self.kept = "".join(self._parts)

    def _doctype(self, *_: object) -> None:
        raise InputError(f"{self.where}: it has a document type declaration, which SBML files do not have; remove it")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        line = self._parser.CurrentLineNumber
        if self._depth == 1:
            if name.split(" ")[-1] != "sbml":
                raise InputError(
                    f"{self.where}: not SBML: its outermost element is <{name.split(' ')[-1]}>, not <sbml>; give an "
                    "SBML file, or a TOML model (.toml)"
                )
            for key, value in attributes.items():
                if key.startswith(_PACKAGE) and key.endswith(" required"):
                    package = key.removeprefix(_PACKAGE).split("/")[1]
                    self.packages[package] = (line, value in ("true", "1"))
        if self._depth > _DEEPEST:
            raise InputError(f"{self.where}: line {line}: elements are nested deeper than {_DEEPEST} levels")
        if self._inside or name == f"{ANNOTATION} network":
            self._inside += 1

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._inside = max(0, self._inside - 1)

    def _characters(self, text: str) -> None:
        if self._inside:
            self._parts.append(text)
