"""Reading Antimony files: the antimony library translates them to SBML, and sbml.py reads that."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from hpcme.errors import InputError
from hpcme.model.files import read_text
from hpcme.model.network import ReactionNetwork
from hpcme.model.sbml import read_sbml_text

_WHOLE_MODEL = "__main"  # antimony's name for what stands outside of any model ... end
_one_at_a_time = threading.Lock()


def read_antimony(path: str | os.PathLike, limits: Mapping[str, object] | None = None) -> ReactionNetwork:
    """Read an Antimony file; of several models in it the one that antimony takes for the main one (the last, or that
    with a star). limits: largest counts of species by name, which Antimony does not know.

    Raises
    ------
    InputError : antimony or libSBML is not installed; a syntax error, with its line; or what `read_sbml` refuses, by
        the names in the file (lines of the SBML between would mean nothing).
    """
    path = Path(path)
    text = read_text(path, "an Antimony file (.ant)")
    sbml = antimony_to_sbml(text, str(path), path.parent)
    return read_sbml_text(sbml, str(path), path.stem, limits, lines=False)


def antimony_to_sbml(text: str, where: str, folder: Path | None = None) -> str:
    """SBML text of an Antimony text; `where` names it in messages, `folder` is where its imports lie.

    Raises InputError.
    """
    if "\0" in text:
        raise InputError(f"{where}: it has a zero byte, which is no text; correct the file")
    with _library(where, folder) as antimony:
        code = antimony.loadAntimonyString(text)
        error = " ".join((antimony.getLastError() or "").split())
        if code < 0:
            raise InputError(f"{where}: not valid Antimony: {_own_words(error)}; correct that place")
        name = antimony.getMainModuleName() or _WHOLE_MODEL
        sbml = antimony.getSBMLString(name)
        error = " ".join((antimony.getLastError() or "").split())
    if not sbml:
        raise InputError(f"{where}: antimony cannot write this model as SBML: {_own_words(error)}; correct the file")
    # A file without "model NAME" is named after the file, not after antimony's name for it.
    return sbml.replace(f' metaid="{_WHOLE_MODEL}" id="{_WHOLE_MODEL}"', "", 1)


def _own_words(error: str) -> str:
    """antimony's message without what it says of the string that it was given."""
    error = error.removeprefix("Error in model string, ").rstrip(". ")
    return error[:400] or "no reason given"


@contextlib.contextmanager
def _library(where: str, folder: Path | None) -> Iterator[ModuleType]:
    """The library, for one model at a time: it keeps what it has read in global variables, which are emptied here."""
    try:
        import antimony
    except ImportError:
        raise InputError(
            f"{where}: Antimony files need antimony, which is not installed. Fix: "
            'pip install "hpcme[antimony]" or pip install antimony python-libsbml.'
        ) from None
    with _one_at_a_time:
        try:
            _empty(antimony)
            if folder is not None:
                antimony.addDirectory(str(folder))
            yield antimony
        finally:
            _empty(antimony)


def _empty(antimony: ModuleType) -> None:
    antimony.clearPreviousLoads()
    antimony.clearDirectories()
    antimony.freeAll()
