"""Whether somebody works on a run, as its folder tells."""

from __future__ import annotations

import json
from pathlib import Path

from hpcme.store.files import Manifest
from hpcme.store.lock import LOCK, describe_owner, owner_is_dead, owner_of_this_process


def state_of(folder: Path, manifest: Manifest) -> tuple[str, str]:
    """The state of a run and a remark: "done", "stopped", "failed", "running" or "interrupted".

    "running" stays in the manifest until the run ends in good order; the lock tells who works on it.
    """
    if manifest.status != "running":
        return manifest.status, ""
    again = "the same command continues it"
    try:
        owner = {key: str(value) for key, value in json.loads((folder / LOCK).read_bytes()).items()}
        dead = owner_is_dead(owner, owner_of_this_process())
        who = describe_owner(owner)
    except FileNotFoundError:
        return "interrupted", again
    except (OSError, ValueError, KeyError, AttributeError):
        return "running", "its lock cannot be read"
    if dead:
        return "interrupted", f"{who} is gone; {again}"
    return "running", who if dead is False else f"{who}, as far as can be seen from here"
