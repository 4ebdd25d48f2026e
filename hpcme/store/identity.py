"""Is this the same run? Model, job and kind must agree; if not, the difference is shown line by line."""

from __future__ import annotations

import difflib
import math
import platform
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import hpcme
from hpcme.errors import InputError, InternalError
from hpcme.store.files import Manifest
from hpcme.store.layout import DEFAULT_TIME_UNIT

KINDS = ("network", "fsp", "ssa")
_REQUIRED = {
    "kind",
    "model_text",
    "model_hash",
    "job_text",
    "job_hash",
    "species",
    "limits",
    "report_times",
    "units",
}
_OPTIONAL = {"provenance", "layout"}
_SHOWN = 40


def manifest_of(identity: dict[str, Any]) -> Manifest:
    """The manifest of a new run. Raises InternalError when the identity is incomplete."""
    names = set(identity)
    if _REQUIRED - names or names - _REQUIRED - _OPTIONAL:
        raise InternalError(
            f"run identity lacks {sorted(_REQUIRED - names)} and has unknown"
            f" {sorted(names - _REQUIRED - _OPTIONAL)}"
        )
    if identity["kind"] not in KINDS:
        raise InternalError(f"run kind {identity['kind']!r} is none of {KINDS}")
    if len(identity["species"]) != len(identity["limits"]):
        raise InternalError("run identity has different numbers of species and limits")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Manifest(
        uuid=uuid.uuid4().hex,
        kind=identity["kind"],
        model_hash=identity["model_hash"],
        job_hash=identity["job_hash"],
        model_text=identity["model_text"],
        job_text=identity["job_text"],
        created=now,
        species=[str(name) for name in identity["species"]],
        limits=[int(x) for x in identity["limits"]],
        report_times=[float(t) for t in identity["report_times"]],
        units=_units(identity["units"]),
        provenance={**versions(), **plain(identity.get("provenance", {}))},
        layout=plain(identity.get("layout", {})),
        history=[{"when": now, "event": "created"}],
    )


def _units(units: Any) -> dict[str, str]:
    """{"time": unit}; a bare string is the time unit, and "1" or nothing is the model's own unit."""
    named = {"time": units} if isinstance(units, str) else dict(units or {})
    return {**named, "time": DEFAULT_TIME_UNIT if named.get("time", "1") == "1" else named["time"]}


def versions() -> dict[str, str]:
    """Versions of what writes the files."""
    return {
        "hpcme": hpcme.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }


def plain(value: Any) -> Any:
    """The value as JSON holds it: numpy numbers and tuples converted, non-finite numbers as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)


def refuse_other_run(folder: Path, stored: Manifest, identity: dict[str, Any]) -> None:
    """Raise InputError with the difference when the folder holds another kind, model or job."""
    new = manifest_of(identity)
    fix = f"Fix: use another --out, or delete {folder}."
    if stored.kind != new.kind:
        raise InputError(f"{folder} holds a run of kind {stored.kind}, this one is of kind {new.kind}. {fix}")
    for what in ("model", "job"):
        old_hash, new_hash = getattr(stored, f"{what}_hash"), getattr(new, f"{what}_hash")
        if old_hash == new_hash:
            continue
        old_text, new_text = getattr(stored, f"{what}_text"), getattr(new, f"{what}_text")
        difference = show_difference(old_text, new_text) or (
            f"the texts agree, the hashes do not: stored {old_hash[:16]}, now {new_hash[:16]}"
        )
        raise InputError(
            f"{folder} holds a run of another {what} (- stored, + now):\n{difference}\n"
            f"Nothing was changed. {fix}"
        )


def show_difference(old: str, new: str) -> str:
    """Lines that differ, with one line of context, at most 40 of them; '' when the texts agree."""
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), "stored", "now", lineterm="", n=1))[
        2:
    ]
    more = [f"... and {len(lines) - _SHOWN} more lines"] if len(lines) > _SHOWN else []
    return "\n".join(lines[:_SHOWN] + more)


def resume_level(stored: Manifest, identity: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """(level, reason, changed): "exact" when the layout (ranks, hardware, software) is the same, so that the
    continued run is bitwise the one that was never stopped; else "statistical" with what changed."""
    new = plain(identity.get("layout", {}))
    if not stored.layout or not new:
        return "statistical", "the layout of ranks, hardware and software is not known", {}
    names = sorted(stored.layout.keys() | new.keys())
    changed = {
        name: [stored.layout.get(name), new.get(name)]
        for name in names
        if stored.layout.get(name) != new.get(name)
    }
    if not changed:
        return "exact", "same ranks, hardware and software", {}
    text = ", ".join(f"{name} {old!r} -> {now!r}" for name, (old, now) in changed.items())
    return "statistical", f"changed: {text}", changed
