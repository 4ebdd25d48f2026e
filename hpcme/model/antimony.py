"""Reading Antimony files: the antimony library translates them to SBML, and sbml.py reads that.

The library runs in a process of its own. It keeps what it has read in global variables, and some broken files end the
process that reads them; neither is to reach the caller. Models are read before MPI starts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from hpcme.errors import InputError
from hpcme.model.files import read_text
from hpcme.model.network import ReactionNetwork
from hpcme.model.sbml import read_sbml_text

_WHOLE_MODEL = "__main"  # antimony's name for what stands outside of any model ... end
_LONGEST = 120  # seconds

#: Reads Antimony from standard input and answers in JSON, {"sbml": text} or {"error": message}.
_CHILD = """
import json, os, sys
text = sys.stdin.buffer.read().decode("utf-8")
answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)  # what the library prints is no answer
import antimony
if sys.argv[1]:
    antimony.addDirectory(sys.argv[1])
found = {}
if antimony.loadAntimonyString(text) >= 0:
    found["sbml"] = antimony.getSBMLString(antimony.getMainModuleName() or "__main") or ""
if not found.get("sbml"):
    found = {"error": antimony.getLastError() or ""}
json.dump(found, answer)
answer.close()
"""


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
    if importlib.util.find_spec("antimony") is None:
        raise InputError(
            f"{where}: Antimony files need antimony, which is not installed. Fix: "
            'pip install "hpcme[antimony]" or pip install antimony python-libsbml.'
        )
    if "\0" in text:
        raise InputError(f"{where}: it has a zero byte, which is no text; correct the file")
    command = [sys.executable, "-c", _CHILD, str(folder or "")]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=_LONGEST, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"{where}: antimony did not finish with this file in {_LONGEST} s; simplify it") from None
    except OSError as error:
        raise InputError(f"{where}: antimony could not be started ({error.strerror})") from None
    if done.returncode < 0:
        raise InputError(
            f"{where}: antimony broke down over this file (signal {-done.returncode}), as it does where something is "
            "badly out of place and it has no message for that. Fix: leave out parts until it is read, or write TOML"
        )
    try:
        answer = json.loads(done.stdout.decode("utf-8", "replace"))
    except ValueError:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise InputError(f"{where}: antimony gave no answer: {' '.join(said)[:400] or 'no reason given'}") from None
    if "error" in answer:
        raise InputError(f"{where}: not valid Antimony: {_own_words(answer['error'])}; correct that place")
    # A file without "model NAME" is named after the file, not after antimony's name for it.
    return answer["sbml"].replace(f' metaid="{_WHOLE_MODEL}" id="{_WHOLE_MODEL}"', "", 1)


def _own_words(error: str) -> str:
    """antimony's message without what it says of the string that it was given."""
    error = " ".join(error.split()).removeprefix("Error in model string, ").rstrip(". ")
    return error[:400] or "no reason given"
