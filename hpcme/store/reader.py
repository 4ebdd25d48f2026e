"""open_run: read a run folder (under way, stopped or finished) or a results.h5. Never writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hpcme.errors import InputError, did_you_mean
from hpcme.store.files import MANIFEST, Entry, Manifest, MissingFile
from hpcme.store.layout import DATASETS, DEFAULT_TIME_UNIT, READOUTS, RESULTS, attributes
from hpcme.store.moments import normalised_weights
from hpcme.store.segments import read_segment
from hpcme.store.sources import ResultsSource, SegmentSource, Source

_Value = TypeVar("_Value")


def open_run(path: str | Path) -> Run:
    """Open a run for reading: its folder, or its results.h5 (which may have been moved elsewhere).

    Only checked bytes are used: segments are compared with the SHA-256 in the manifest when they are first read,
    and results.h5, which may be large, block by block with the seal at its end. Raises InputError for what is not
    a run, is damaged (the file is named) or was written by a newer hpcme.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist. Fix: name a run folder or its results.h5.")
    return Run(path)


def verify_run(path: str | Path) -> list[str]:
    """Check every byte of a run: a folder, or a results.h5 alone. One line per problem, [] when all is well.

    Raises InputError when the manifest itself cannot be used, or there is nothing at `path`.
    """
    folder = Path(path)
    if not folder.exists():
        raise InputError(f"{path} does not exist. Fix: name a run folder or its results.h5.")
    if not folder.is_dir():
        line = _problem_of_results(folder)
        return [line] if line else []
    problems: list[str] = []
    for _ in range(10):
        manifest = Manifest.load(folder)
        problems = [line for entry in manifest.entries if (line := _problem(folder, manifest, entry))]
        if not problems or Manifest.load(folder) == manifest:
            break  # else the run moved on meanwhile, and files were removed in good order
    return problems


def _problem(folder: Path, manifest: Manifest, entry: Entry) -> str | None:
    try:
        entry.verify(folder)
        if entry.kind == "results":
            return _problem_of_results(folder / entry.name, manifest.uuid)
        read_segment(folder, entry, manifest.uuid)
    except InputError as error:
        return str(error)
    return None


def _problem_of_results(path: Path, uuid: str | None = None) -> str | None:
    """What is wrong with a results.h5: its seal, something that cannot be read, or another run's uuid."""
    try:
        with ResultsSource(path) as source:
            source.check_all()
            _refuse_other_uuid(source, uuid)
            for k in range(source.number):
                source.report(k)
                if source.kind == "fsp":
                    source.fsp_probability(k)
            source.series()
    except InputError as error:
        return str(error)
    return None


def _refuse_other_uuid(source: ResultsSource, uuid: str | None) -> None:
    if uuid is not None and source.uuid != uuid:
        raise InputError(f"{source.path} belongs to another run. Fix: restore the file of this run.")


class Run:
    """What a run knows, as numpy arrays; rows are report times. A run under way shows what is there.

    Times are given in model time units; `t=None` means the last stored time, and a time that is not stored is
    an InputError that lists the nearest ones.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cache: dict[str, Any] = {}
        self._source = self._open()
        self._number = self._source.number
        self.kind: str = self._source.kind
        self.uuid: str = self._source.uuid
        self.species: list[str] = list(self._source.species)
        self.limits: np.ndarray = self._source.limits

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *problem) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, kind={self.kind!r}, status={self.status!r}, reports={self._number})"

    def close(self) -> None:
        """Close open files."""
        if isinstance(self._source, ResultsSource):
            self._source.close()

    def _open(self) -> Source:
        if not self.path.is_dir():
            if self.path.name == RESULTS and (self.path.parent / MANIFEST).exists():
                try:
                    Manifest.load(self.path.parent)
                except InputError:
                    pass  # the file vouches for itself: it needs no manifest
                else:
                    return self._open_folder(self.path.parent)
            self._manifest: Manifest | None = None
            return ResultsSource(self.path)
        return self._open_folder(self.path)

    def _open_folder(self, folder: Path) -> Source:
        self._manifest = manifest = Manifest.load(folder)
        results = manifest.of_kind("results")
        if not results:
            return SegmentSource(folder, manifest)
        path = folder / results[0].name
        results[0].check_size(folder)
        source = ResultsSource(path)
        try:
            _refuse_other_uuid(source, manifest.uuid)
        except InputError:
            source.close()
            raise
        return source

    def _read(self, get: Callable[[Source], _Value]) -> _Value:
        """Read from the source; if a file went away because the run moved on, from what replaced it."""
        for _ in range(10):
            try:
                return get(self._source)
            except MissingFile:
                before = self._manifest
                source = self._open()
                if before is None or self._manifest == before:
                    raise  # nobody replaced it: it was deleted
                if source.uuid != self.uuid or source.number < self._number:
                    raise InputError(
                        f"{self.path} was set back or replaced while it was read. Fix: open it again."
                    ) from None
                self._source = source
        raise InputError(f"{self.path} changes faster than it can be read. Fix: try again.")

    def _cached(self, name: str, get: Callable[[Source], _Value]) -> _Value:
        if name not in self._cache:
            self._cache[name] = self._read(get)
        return self._cache[name]

    @property
    def status(self) -> str:
        """ "running" (or killed), "stopped", "failed" or "done"."""
        return self._manifest.status if self._manifest is not None else "done"

    @property
    def S(self) -> int:
        """Number of species."""
        return len(self.species)

    @property
    def provenance(self) -> dict[str, Any]:
        """How the run came about: texts and hashes of model and job, versions, history, notes."""
        return dict(self._read(lambda source: source.provenance))

    @property
    def time_unit(self) -> str:
        """Name of the model's time unit."""
        return self.provenance["units"].get("time", DEFAULT_TIME_UNIT)

    @property
    def times(self) -> np.ndarray:
        """Stored report times float64 [T]."""
        return self._cached("times", lambda source: source.times()[: self._number])

    @property
    def steps(self) -> np.ndarray:
        """Time step at which each report was made, int64 [T]."""
        return self._read(lambda source: source.steps()[: self._number])

    def _moments(self, name: str) -> np.ndarray:
        return self._cached(name, lambda source: source.moments(name)[: self._number])

    @property
    def mean(self) -> np.ndarray:
        """Mean counts float64 [T,S]."""
        return self._moments("mean")

    @property
    def mean_se(self) -> np.ndarray:
        """Standard errors of the means float64 [T,S]; zero for exact laws."""
        return self._moments("mean_se")

    @property
    def covariance(self) -> np.ndarray:
        """Covariances float64 [T,S,S]."""
        return self._moments("covariance")

    @property
    def covariance_se(self) -> np.ndarray:
        """Standard errors of the covariances float64 [T,S,S]."""
        return self._moments("covariance_se")

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations float64 [T,S]."""
        return np.sqrt(np.maximum(np.diagonal(self.covariance, axis1=1, axis2=2), 0.0))

    @property
    def sd_se(self) -> np.ndarray:
        """Standard errors of the standard deviations float64 [T,S]."""
        return self._moments("sd_se")

    @property
    def readouts(self) -> list[str]:
        """Names of the model's readouts, in its order."""
        stored = self._stored_readouts()
        return [name for name in self.model().readouts if name in stored] if stored else []

    def readout(self, name: str) -> dict[str, np.ndarray]:
        """"mean", "sd" and their standard errors "mean_se", "sd_se" of a readout, float64 [T] each; errors are zero for
        exact laws, and all are NaN where the readout has no value. Raises InputError for an unknown name."""
        stored = self._stored_readouts()
        if name not in stored:
            raise InputError(
                f'there is no readout "{name}" in {self.path}: it has {", ".join(stored) or "none"}.'
                + did_you_mean(name, stored)
            )
        return {what: stored[name][:, j] for j, what in enumerate(READOUTS)}

    def _stored_readouts(self) -> dict[str, np.ndarray]:
        found = self._cached("readouts", lambda source: source.readouts())
        return {name: values[: self._number] for name, values in found.items()}

    def index(self, t: float | None = None) -> int:
        """Number of the report at time t (None: the last). InputError lists the nearest stored times."""
        times = self.times
        if len(times) == 0:
            raise InputError(
                f"{self.path} has no reports yet. Fix: wait until the run has reached its first report."
            )
        if t is None:
            return len(times) - 1
        k = int(np.argmin(np.abs(times - t)))
        if abs(times[k] - t) <= 1e-9 * max(1.0, float(np.abs(times).max())):
            return k
        nearest = ", ".join(f"{x:g}" for x in np.sort(times[np.argsort(np.abs(times - t))[:3]]))
        raise InputError(
            f"time {t:g} is not stored in {self.path}: it has {len(times)} times from {times[0]:g} to"
            f" {times[-1]:g}, nearest {nearest}. Fix: ask for one of these."
        )

    def species_index(self, species: str | int) -> int:
        """Number of a species given by name (or number). Raises InputError with the names there are."""
        if isinstance(species, (int, np.integer)) and 0 <= species < self.S:
            return int(species)
        if species in self.species:
            return self.species.index(species)
        raise InputError(
            f'there is no species "{species}" in {self.path}: it has {", ".join(self.species)}.'
            + did_you_mean(str(species), self.species)
        )

    def marginal(self, species: str | int, t: float | None = None) -> np.ndarray:
        """Probability of each count 0, 1, ... of one species at time t, float64 [counts]."""
        k, i = self.index(t), self.species_index(species)
        return self._read(lambda source: source.marginal(k, i))

    def marginal_se(self, species: str | int, t: float | None = None) -> np.ndarray:
        """Standard errors of `marginal`, float64 [counts]; zero for exact laws."""
        k, i = self.index(t), self.species_index(species)
        return self._read(lambda source: source.marginal_se(k, i))

    def samples(self, t: float | None = None) -> np.ndarray:
        """Stored samples int32 [N,S] at time t. Raises InputError when none are stored (exact runs)."""
        return self._with_samples(t)[0]

    def weights(self, t: float | None = None) -> np.ndarray:
        """Weights of the stored samples, float64 [N], sum 1."""
        samples, weights = self._with_samples(t)
        return normalised_weights(len(samples), weights)

    def _with_samples(self, t: float | None) -> tuple[np.ndarray, np.ndarray | None]:
        k = self.index(t)
        samples, weights = self._read(lambda source: source.samples(k))
        if samples is None:
            hint = "use probability(t)" if self.kind == "fsp" else "use network(t).sample(N)"
            raise InputError(f"{self.path} stores no samples at time {self.times[k]:g}. Fix: {hint}.")
        return samples, weights

    def extra(self) -> dict[str, np.ndarray]:
        """Scalars of the reports by name (entropy, lost, ...), float64 [T], NaN where a report has none."""
        return self._read(lambda source: {name: values[: self._number] for name, values in source.extras().items()})

    def series(self) -> dict[str, np.ndarray]:
        """One value per time step for each recorded quantity (t, dt, loss, ...), float64 or int64 [rows]."""
        return self._read(lambda source: source.series())

    def model(self):
        """The ReactionNetwork that was solved, read from the stored text."""
        from hpcme.model.reader import load_model_text

        return load_model_text(self.provenance["model_text"], f"the model stored in {self.path}")

    def network(self, t: float | None = None):
        """The law at time t as the network that represents it: .sample(N, seed=0), .log_prob(n).

        Raises InputError for runs that are not network runs.
        """
        k = self.index(t)
        stored = self._read(lambda source: source.network(k))
        if stored is None:
            raise InputError(
                f"{self.path} is a run of kind {self.kind} and stores no network. Fix: use a run made by"
                " hpcme run" + (", or probability(t)." if self.kind == "fsp" else ", or samples(t).")
            )
        from hpcme.networks.build import load_law

        return load_law(json.loads(stored["spec"]), stored["parameters"], self.model())

    def stored_networks(self) -> list[tuple[float, str, dict[str, np.ndarray]]]:
        """Time, description (JSON) and parameters by name of every network that is stored, in order of time; the exact
        law at the start is none."""
        found = []
        for k, t in enumerate(self.times):
            stored = self._read(lambda source, k=k: source.network(k))
            if stored is not None and json.loads(stored["spec"])["kind"] not in ("initial", "table", "remapped"):
                found.append((float(t), stored["spec"], stored["parameters"]))
        return found

    def fsp_states(self) -> np.ndarray:
        """States int32 [M,S] of an exact run."""
        return self._cached("states", lambda source: source.fsp_states())

    def probability(self, t: float | None = None) -> np.ndarray:
        """Probabilities float64 [M] of `fsp_states` at time t (exact runs)."""
        k = self.index(t)
        return self._read(lambda source: source.fsp_probability(k))

    @property
    def lost(self) -> np.ndarray:
        """Probability that left the set of states, float64 [T] (exact runs)."""
        return self._read(lambda source: source.fsp_lost())

    @property
    def events(self) -> np.ndarray:
        """Reaction events of each trajectory, int64 [N] (trajectory runs)."""
        return self._read(lambda source: source.ssa_events())

    def to_xarray(self):
        """Moments, marginals and series as an xarray.Dataset with coordinates and units (needs xarray)."""
        try:
            import xarray
        except ImportError:
            raise InputError(
                'to_xarray needs xarray, which is not installed. Fix: pip install "xarray>=2024.1".'
            ) from None
        unit = self.time_unit
        data: dict[str, Any] = {}
        for name in ("mean", "mean_se", "sd", "sd_se"):
            about = (
                attributes(name, unit)
                if name in DATASETS
                else {"units": "molecules", "long_name": "standard deviation of the count"}
            )
            data[name] = (("time", "species"), getattr(self, name), about)
        for name in ("covariance", "covariance_se"):
            data[name] = (("time", "species", "species_2"), getattr(self, name), attributes(name, unit))
        for i, name in enumerate(self.species):
            rows = [self.marginal(i, float(t)) for t in self.times]
            data[f"marginal_{name}"] = (
                ("time", f"count_{name}"),
                np.array(rows),
                attributes("marginal", unit),
            )
        if self.readouts:
            parts = [self.readout(name) for name in self.readouts]
            for what in READOUTS:
                about = attributes(f"readout_{what}", unit)
                values = np.stack([part[what] for part in parts], axis=1)
                data[f"readout_{what}"] = (("time", "readout"), values, about)
        for name, column in self.series().items():
            data[f"series_{name}"] = (("row",), column)
        for name, values in self.extra().items():
            data[f"extra_{name}"] = (("time",), values)
        coords = {
            "time": ("time", self.times, attributes("time", unit)),
            "species": self.species,
            "species_2": self.species,
        }
        if self.readouts:
            coords["readout"] = self.readouts
        facts = {"kind": self.kind, "uuid": self.uuid, "status": self.status}
        return xarray.Dataset(data, coords=coords, attrs=facts)
