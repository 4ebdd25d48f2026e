"""Reading the text of model files, with errors that say what to do."""

from __future__ import annotations

from pathlib import Path

from hpcme.errors import InputError, did_you_mean

LARGEST_FILE = 16 * 2**20

#: How model files end: TOML, SBML and Antimony.
MODEL_SUFFIXES = (".toml", ".xml", ".sbml", ".ant")


def read_text(path: Path, what: str) -> str:
    """The text of a model file; `what` it should be, for messages. Raises InputError."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise InputError(
                f"{path}: {size} bytes is more than the {LARGEST_FILE} that a model file may have; give a "
                "smaller file"
            )
        return path.read_bytes().decode("utf-8-sig" if path.suffix != ".toml" else "utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such model file; give the path of {what}{nearby(path)}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give the path of a model file ({what}) in it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None


def nearby(path: Path) -> str:
    """Did-you-mean over the model files beside a missing one; '' when none is close."""
    try:
        names = [file.name for suffix in MODEL_SUFFIXES for file in path.parent.glob(f"*{suffix}")]
        return did_you_mean(path.name, names)
    except OSError:
        return ""
