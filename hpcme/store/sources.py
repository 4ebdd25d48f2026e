"""Where a run's numbers are read from: the segments of a run under way, or results.h5 of a finished one."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcme.errors import InputError
from hpcme.store.encode import read_items
from hpcme.store.files import Manifest, check_version
from hpcme.store.layout import MOMENTS, READOUTS, RESULTS_FORMAT, RESULTS_VERSION, Report, join_series
from hpcme.store.seal import SealedFile
from hpcme.store.segments import HDF5_ERRORS, open_hdf5, read_segment


class Source(ABC):
    """Read access to the reports 0..number-1 of a run, its series and its provenance.

    Law: report(k) is the same whichever source it comes from (marginals may be padded with zeros, and equal
    weights written out). All methods raise InputError naming the file for damage, MissingFile for absence.
    """

    kind: str
    uuid: str
    species: list[str]
    limits: np.ndarray
    number: int
    provenance: dict[str, Any]

    @abstractmethod
    def report(self, k: int, parts: set[str] | None = None) -> Report:
        """Report k; parts: {"small"} leaves samples and network out, {"samples"}, {"network"} add them."""

    def times(self) -> np.ndarray:
        """Report times float64 [T]."""
        return np.array([self.report(k, {"small"}).time for k in range(self.number)])

    def moments(self, name: str) -> np.ndarray:
        """One of layout.MOMENTS over all reports, float64 [T,S] or [T,S,S]."""
        return np.array([getattr(self.report(k, {"small"}), name) for k in range(self.number)])

    def steps(self) -> np.ndarray:
        """Time step at which each report was made, int64 [T]."""
        return np.array([self.report(k, {"small"}).step for k in range(self.number)], dtype=np.int64)

    # What follows asks for one thing of one report: results.h5 then reads no more than that.

    def marginal(self, k: int, i: int) -> np.ndarray:
        """Marginal of species i at report k, float64 [count]."""
        return self.report(k, {"small"}).marginals[i]

    def marginal_se(self, k: int, i: int) -> np.ndarray:
        """Standard errors of `marginal`."""
        return self.report(k, {"small"}).marginals_se[i]

    def samples(self, k: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Samples int32 [N,S] at report k and their weights, None where there are none."""
        report = self.report(k, {"samples"})
        return report.samples, report.weights

    def network(self, k: int) -> dict[str, Any] | None:
        """The network of report k as stored, None where there is none."""
        return self.report(k, {"network"}).network

    def extras(self) -> dict[str, np.ndarray]:
        """Scalars of the reports by name, float64 [T], NaN where a report has none."""
        found = [self.report(k, {"small"}).extra for k in range(self.number)]
        names = dict.fromkeys(name for extra in found for name in extra)
        return {name: np.array([extra.get(name, np.nan) for extra in found]) for name in names}

    def readouts(self) -> dict[str, np.ndarray]:
        """Moments of the readouts by name, float64 [T,4] (layout.READOUTS), NaN where a report has none."""
        found = [self.report(k, {"small"}).readouts for k in range(self.number)]
        names = dict.fromkeys(name for readouts in found for name in readouts)
        none = np.full(len(READOUTS), np.nan)
        return {name: np.array([readouts.get(name, none) for readouts in found]) for name in names}

    @abstractmethod
    def series(self) -> dict[str, np.ndarray]:
        """Series columns over all steps."""

    def fsp_states(self) -> np.ndarray:
        """States int32 [M,S] of an exact run."""
        raise InputError(f"this is a run of kind {self.kind}: only exact runs (hpcme fsp) have states.")

    def fsp_probability(self, k: int) -> np.ndarray:
        """Probabilities float64 [M] of an exact run at report k."""
        raise InputError(
            f"this is a run of kind {self.kind}: only exact runs (hpcme fsp) have probabilities."
        )

    def fsp_lost(self) -> np.ndarray:
        """Lost probability float64 [T] of an exact run."""
        raise InputError(
            f"this is a run of kind {self.kind}: only exact runs (hpcme fsp) have a lost probability."
        )

    def ssa_events(self) -> np.ndarray:
        """Events per trajectory int64 [N] of a trajectory run."""
        raise InputError(f"this is a run of kind {self.kind}: only trajectory runs (hpcme ssa) count events.")


class SegmentSource(Source):
    """A run folder without results.h5: every file is checked against the manifest when it is first read."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = Path(folder)
        self.manifest = manifest
        self.kind, self.uuid = manifest.kind, manifest.uuid
        self.species, self.limits = list(manifest.species), np.asarray(manifest.limits, dtype=np.int64)
        self.provenance = manifest.described()
        self._entries = sorted(manifest.of_kind("report"), key=lambda entry: entry.index)
        self.number = len(self._entries)
        self._verified: set[str] = set()
        self._small: dict[int, Report] = {}

    def _read(self, entry, parts: set[str] | None = None) -> Any:
        if entry.name not in self._verified:
            entry.verify(self.folder)
            self._verified.add(entry.name)
        return read_segment(self.folder, entry, self.uuid, parts)

    def report(self, k: int, parts: set[str] | None = None) -> Report:
        if parts == {"small"}:
            if k not in self._small:
                self._small[k] = self._read(self._entries[k], parts)
            return self._small[k]
        return self._read(self._entries[k], parts)

    def series(self) -> dict[str, np.ndarray]:
        return join_series([self._read(entry) for entry in self.manifest.of_kind("series")])


class ResultsSource(Source):
    """A results.h5; kept open until `close` (it never changes). Only bytes that agree with its seal are used."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._opened = open_hdf5(self.path, self._through)
        self._file: h5py.File = self._opened.__enter__()
        try:
            with self._reading("the start of the file"):
                self._read_root()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ResultsSource:
        return self

    def __exit__(self, *problem) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""
        self._opened.__exit__(None, None, None)

    def check_all(self) -> None:
        """Compare every byte of the file with its seal. Raises InputError."""
        self._seal.check_all()

    def _through(self, path: Path, handle: int) -> SealedFile:
        self._seal = SealedFile(path, handle)
        return self._seal

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Errors of HDF5 become InputErrors naming the file; damage that HDF5 kept to itself is one too."""
        try:
            yield
        except HDF5_ERRORS as error:
            self._seal.check()  # the cause, rather than what the library made of it
            raise InputError(
                f"{self.path} is damaged: {what} cannot be read. Fix: restore it from a copy."
            ) from error
        self._seal.check()

    def _read_root(self) -> None:
        attrs = self._file.attrs
        if _text(attrs.get("format", b"")) != RESULTS_FORMAT:
            raise InputError(
                f'{self.path} is not a results file of hpcme: its "format" is not "{RESULTS_FORMAT}".'
                " Fix: name a run folder or its results.h5."
            )
        check_version(self.path, int(attrs["format_version"]), RESULTS_VERSION)
        self.kind, self.uuid = _text(attrs["kind"]), _text(attrs["uuid"])
        self.species = [_text(name) for name in self._file["species"][()]]
        self.limits = self._file["limits"][()]
        self.number = len(self._file["time"])
        self.provenance = _read_provenance(self._file["provenance"])

    def _get(self, name: str, where: Any = ()) -> Any:
        with self._reading(name):
            return self._file[name][where]

    def _has(self, name: str) -> bool:
        with self._reading(name):
            return name in self._file

    def _names(self, group: str) -> list[str]:
        with self._reading(group):
            return list(self._file[group]) if group in self._file else []

    def times(self) -> np.ndarray:
        return self._get("time")

    def moments(self, name: str) -> np.ndarray:
        return self._get(f"moments/{name}")

    def report(self, k: int, parts: set[str] | None = None) -> Report:
        wants = parts or {"samples", "network", "small"}
        samples, weights = self.samples(k) if "samples" in wants else (None, None)
        extra = {name: float(self._get(f"extra/{name}", k)) for name in self._names("extra")}
        return Report(
            index=k,
            time=float(self._get("time", k)),
            step=int(self._get("step", k)),
            samples=samples,
            weights=weights,
            **{name: self._get(f"moments/{name}", k) for name in MOMENTS},
            marginals=[self._get(f"marginals/{name}", k) for name in self.species],
            marginals_se=[self._get(f"marginals/{name}.se", k) for name in self.species],
            network=self.network(k) if "network" in wants else None,
            extra={name: value for name, value in extra.items() if value == value},
            readouts={name: values[k] for name, values in self.readouts().items()},
        )

    def readouts(self) -> dict[str, np.ndarray]:
        if not self._has("readouts"):
            return {}
        columns = np.stack([self._get(f"readouts/{name}") for name in READOUTS], axis=-1)  # [T,K,4]
        return {_text(name): np.ascontiguousarray(columns[:, j]) for j, name in enumerate(self._get("readout"))}

    def steps(self) -> np.ndarray:
        return self._get("step")

    def marginal(self, k: int, i: int) -> np.ndarray:
        return self._get(f"marginals/{self.species[i]}", k)

    def marginal_se(self, k: int, i: int) -> np.ndarray:
        return self._get(f"marginals/{self.species[i]}.se", k)

    def marginals(self, species: str) -> tuple[np.ndarray, np.ndarray]:
        """Marginal of a species over all reports and its standard errors, float64 [T, count] each."""
        return self._get(f"marginals/{species}"), self._get(f"marginals/{species}.se")

    def extras(self) -> dict[str, np.ndarray]:
        return {name: self._get(f"extra/{name}") for name in self._names("extra")}

    def samples(self, k: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        number = int(self._get("samples_count", k)) if self._has("samples_count") else 0
        if number == 0:
            return None, None
        weights = self._get("samples_weight", (k, slice(number))) if self._has("samples_weight") else None
        return self._get("samples", (k, slice(number))), weights

    def network(self, k: int) -> dict[str, Any] | None:
        if not self._has(f"networks/{k}"):
            return None
        with self._reading(f"network {k}"):
            spec = _text(self._file[f"networks/{k}/spec"][()])
            return {"spec": spec, "parameters": read_items(self._file[f"networks/{k}/parameters"])}

    def series(self) -> dict[str, np.ndarray]:
        return {name: self._get(f"series/{name}") for name in self._names("series") if name != "row"}

    def fsp_states(self) -> np.ndarray:
        return self._get("fsp/states") if self._has("fsp") else super().fsp_states()

    def fsp_probability(self, k: int) -> np.ndarray:
        return self._get("fsp/probability", k) if self._has("fsp") else super().fsp_probability(k)

    def fsp_lost(self) -> np.ndarray:
        return self._get("fsp/lost") if self._has("fsp") else super().fsp_lost()

    def ssa_events(self) -> np.ndarray:
        return self._get("ssa/events") if self._has("ssa") else super().ssa_events()


def _read_provenance(group: h5py.Group) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, node in group.items():
        text = _text(node[()])
        found[name] = json.loads(text) if "encoding" in node.attrs else text
    for name, value in group.attrs.items():
        found[name] = int(value) if np.asarray(value).dtype.kind in "iu" else float(value)
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode("utf-8")
