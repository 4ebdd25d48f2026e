"""The run folder of a command, looked at before the work begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hpcme.errors import InputError, OutputError


def claim(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether the folder holds the finished run of this identity. Writes nothing.

    Refuses, before hours of work, a folder that could not take the results: InputError when it holds another
    run or something else, or is a file; OutputError when it, or the place where it would be made, is not
    writable.
    """
    from hpcme.store.files import MANIFEST
    from hpcme.store.folder import refuse_foreign_content
    from hpcme.store.writer import RunWriter

    if RunWriter.is_finished(folder, identity):
        return True
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir():
        raise InputError(
            f"the run folder {folder} cannot be made: {place} is a file. Fix: name another --out."
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            f"the run folder {folder}: {place} is not writable. Fix: choose an --out that you may write to."
        )
    if place == folder and not (folder / MANIFEST).exists():
        refuse_foreign_content(folder)
    return False
