"""What lies in a run folder besides the run: leftovers of killed jobs, files set aside, files of the user."""

from __future__ import annotations

import os
from pathlib import Path

from hpcme.errors import InputError
from hpcme.store.files import MANIFEST, Entry, is_temporary
from hpcme.store.layout import RESULTS
from hpcme.store.lock import LOCK
from hpcme.store.segments import FOLDERS

ASIDE = "aside"


def problem_of(folder: Path, entry: Entry) -> str | None:
    try:
        entry.verify(folder)
    except InputError as error:
        return str(error)
    return None


def delete(folder: Path, entries: list[Entry]) -> None:
    """Remove files that are no longer part of the run; what cannot be removed is harmless and stays."""
    for entry in entries:
        try:
            (folder / entry.name).unlink(missing_ok=True)
        except OSError:
            continue


def refuse_foreign_content(folder: Path) -> None:
    """Raise InputError unless the folder is empty or holds only what a killed `create` leaves."""
    if (folder / MANIFEST).exists():
        raise InputError(
            f"{folder} already holds a run. Fix: resume it, use another --out, or delete the folder."
        )
    for item in sorted(folder.iterdir()):
        own = item.name == LOCK or is_temporary(item.name)
        empty = item.name in FOLDERS.values() and item.is_dir() and not any(item.iterdir())
        if not own and not empty:
            raise InputError(
                f"{folder} is not empty and not a run folder: it holds {item.name}. Fix: use another"
                " --out or an empty folder."
            )


def clean(folder: Path, names: set[str], *, aside: bool) -> None:
    """Tidy the folder under the lock: temporary files go; segments not in `names` go to aside/, or are
    deleted together with aside/ and the emptied folders."""
    for sub in ("", *FOLDERS.values(), ASIDE):
        place = folder / sub
        if not place.is_dir():
            continue
        for item in place.iterdir():
            name = f"{sub}/{item.name}" if sub else item.name
            if is_temporary(item.name) or (sub == ASIDE and not aside):
                item.unlink(missing_ok=True)
            elif name not in names and (sub not in ("", ASIDE) or name == RESULTS):
                if aside:
                    (folder / ASIDE).mkdir(exist_ok=True)
                    os.replace(item, folder / ASIDE / item.name)
                else:
                    item.unlink(missing_ok=True)
        if sub and not aside and names == {RESULTS} and not any(place.iterdir()):
            place.rmdir()
