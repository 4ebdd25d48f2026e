"""Job files: what to solve and how. `hpcme.model.keys` lists all that a job may hold.

A job is TOML (or an equal dict). Every key has one reader, a type, a range and a default; anything else is refused
with the key, the value seen, what is allowed and the likely fix. The resolved job, defaults included, is stored with
the results.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcme.errors import InputError, did_you_mean
from hpcme.model.files import MODEL_SUFFIXES, nearby
from hpcme.model.keys import KEYS, checked
from hpcme.model.network import ReactionNetwork
from hpcme.model.reader import load_model, load_model_text

if TYPE_CHECKING:
    from hpcme.exact.limits import LimitsReport

_ENDINGS = ", ".join(MODEL_SUFFIXES)
_FEW_SPECIES_STATES = 1_500_000  # of one or two species up to which sums over states are exact
_MANY = 7  # species from which sampled sums need the integrator for many


@dataclass(frozen=True)
class Job:
    """A resolved job: the reaction network, every key with its value, and where it came from.

    model: the network as it was written; net: the same with a number for every limit, and limits says how automatic
    ones were found (None: there are none, or they were not wanted). given: what the job said, by dotted key.
    """

    net: ReactionNetwork
    values: dict[str, Any]
    name: str
    path: Path | None
    model: ReactionNetwork
    given: dict[str, Any] = field(repr=False)
    where: str = "job"
    limits: LimitsReport | None = None
    first_hash: str = ""

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @property
    def report_times(self) -> np.ndarray:
        """Report times, float64 [T], from 0 (the start) to the end."""
        return self.values["time.report"]

    @property
    def out(self) -> Path:
        """The run folder."""
        return Path(self.values["output.dir"] or Path("runs") / self.name)

    def text(self, *, identity: bool = False) -> str:
        """The resolved job as JSON text; identity=True leaves out keys that may change between parts of a run."""
        shown = {
            key: (value.tolist() if isinstance(value, np.ndarray) else value)
            for key, value in self.values.items()
            if not (identity and KEYS[key].resume)
        }
        return json.dumps(shown, indent=1)

    @property
    def hash(self) -> str:
        """SHA-256 of the part of the job that determines the results.

        With automatic limits: as it was before any of them was grown, so that a run whose limits have grown is
        recognised by the job that began it.
        """
        return self.first_hash or hashlib.sha256(self.text(identity=True).encode()).hexdigest()

    def resolved(self) -> Job:
        """The job with a number for every limit; itself where it has them. Raises InputError (resolve_limits)."""
        if not any(self.net.auto_limits):
            return self
        from hpcme.exact.limits import resolve_limits

        return self.with_limits(resolve_limits(self.net, self["time.end"], self["run.seed"])[1])

    def with_limits(self, limits: LimitsReport) -> Job:
        """The same job with these numbers for automatic limits, and what follows from them. Its hash is that of the
        first numbers it had."""
        net = limits.apply(self.model)
        return replace(
            self, net=net, values=_resolve(self.given, net, self.where, need_end=True), limits=limits,
            first_hash="" if self.limits is None else self.hash,
        )  # fmt: skip


def load_job(
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Mapping[str, Any] | None = None,
    need_end: bool = True,
    base: Path | None = None,
    where: str = "job",
    need_limits: bool = True,
) -> Job:
    """Read a job file, a model file, or a dict of the same shape.

    source: path of a TOML job or model, or a nested dict whose "model" is a path, TOML text or a ReactionNetwork.
    overrides: dotted keys ("time.end", "parameters.b", "model") with values, applied last.
    base: folder to which relative model paths refer (default: the job file's). where: what messages call a dict.
    need_limits: find numbers for automatic limits (max = "auto"); False, or no end time, leaves them automatic.
    Raises InputError for anything that cannot be used.
    """
    if isinstance(source, Mapping):
        raw, name, path = dict(source), str(source.get("name", "job")), None
        raw.pop("name", None)
        base = base or Path.cwd()
    else:
        path = Path(source)
        raw, name, where, base = read_job_file(path), path.stem, str(path), path.parent
    if "scan" in raw:
        raise InputError(
            f"{where}: the table [scan] makes many tasks of this job, and this command takes one job. Fix: use "
            f"hpcme scan run {path or 'JOB.toml'} (hpcme scan list shows the tasks), or take [scan] out."
        )
    flat = flatten_job(raw, where) | dict(overrides or {})
    net = _network(flat, base, where)
    job = Job(net, _resolve(flat, net, where, need_end), name, path, net, flat, where)
    return job.resolved() if need_limits and job["time.end"] is not None else job


def parse_override(text: str) -> tuple[str, Any]:
    """One --set key=value: the value is read as TOML, a bare word as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {text!r} is not of the form key=value. Example: --set solver.epochs=50")
    try:
        return key.strip(), tomllib.loads(f"x = {value.strip()}")["x"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def read_job_file(path: Path) -> dict[str, Any]:
    """A job as a nested dict; a model file becomes a job that only names it."""
    if path.suffix.lower() in MODEL_SUFFIXES[1:] and path.is_file():
        return {"model": path.name}
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{path}: there is no such file. Fix: give the path of a job or model file ({_ENDINGS}).{nearby(path)}"
        ) from None
    except IsADirectoryError:
        raise InputError(
            f"{path}: cannot be read: it is a folder. Fix: give the path of a job or model file in it."
        ) from None
    except UnicodeDecodeError as problem:
        raise InputError(
            f"{path}: cannot be read: not UTF-8 text (byte {problem.start}). Fix: save the file as UTF-8."
        ) from None
    except OSError as problem:
        raise InputError(
            f"{path}: cannot be read: {problem.strerror}. Fix: check the path and its permissions."
        ) from None
    if path.suffix != ".toml":
        raise InputError(
            f'{path}: a job file must end in .toml and a model file in {", ".join(MODEL_SUFFIXES)}, seen '
            f'"{path.suffix}". Fix: give such a file, renamed if need be.{nearby(path)}'
        )
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise InputError(
            f"{path}: not valid TOML: {problem}. Fix: correct that place (text needs quotes, and a key may stand only "
            "once)."
        ) from None
    if "species" in raw or "reactions" in raw:
        return {"model": path.name}
    return raw


def flatten_job(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Nested tables to dotted keys; unknown tables and keys are refused."""
    tables = {key.split(".")[0] for key in KEYS} | {"parameters"}
    flat: dict[str, Any] = {}
    for table, content in raw.items():
        if table == "model":
            flat["model"] = content
        elif table not in tables:
            allowed = ["model", *sorted(tables), "scan"]
            raise InputError(
                f'{where}: unknown {"table" if isinstance(content, Mapping) else "key"} "{table}".'
                f"{did_you_mean(table, allowed)} Allowed: {', '.join(allowed)}."
            )
        elif not isinstance(content, Mapping):
            raise InputError(f"{where}: {table} = {content!r} must be a table: write [{table}] and its keys below it.")
        else:
            flat.update({f"{table}.{key}": value for key, value in content.items()})
    return flat


def _network(flat: dict[str, Any], base: Path, where: str) -> ReactionNetwork:
    model = flat.get("model")
    if model is None:
        raise InputError(f'{where}: the key "model" is missing. Example: model = "models/toggle_switch.toml"')
    if isinstance(model, ReactionNetwork):
        net = model
    elif isinstance(model, str) and "\n" in model:
        net = load_model_text(model, where)
    elif isinstance(model, str):
        net = load_model(base / model)
    else:
        raise InputError(f"{where}: model = {model!r} must be the path of a model file")
    changed = {key.split(".", 1)[1]: value for key, value in flat.items() if key.startswith("parameters.")}
    return net.with_parameters(changed) if changed else net


def _resolve(flat: dict[str, Any], net: ReactionNetwork, where: str, need_end: bool) -> dict[str, Any]:
    for key in flat:
        if key not in KEYS and key != "model" and not key.startswith("parameters."):
            raise InputError(
                f'{where}: unknown key "{key}".{did_you_mean(key, KEYS)} '
                f"Keys of its table: {', '.join(k for k in KEYS if k.split('.')[0] == key.split('.')[0]) or 'none'}."
            )
    values = {key: checked(key, flat[key], where) if key in flat else spec.default for key, spec in KEYS.items()}
    end = values["time.end"]
    if end is None and need_end:
        raise InputError(f'{where}: "time.end" is missing. Write [time] end = 10.0, or give --end 10')
    if end is not None:
        values["time.report"] = _report_times(values["time.report"], end, where)
    order = values["network.order"]
    if order != "auto" and sorted(order) != sorted(net.species):
        raise InputError(
            f'{where}: network.order = {order!r} must be "auto" or name every species once: {list(net.species)}'
        )
    if isinstance(values["solver.dt"], float) and values["solver.dt"] <= 0.0:
        raise InputError(f'{where}: solver.dt = {values["solver.dt"]!r} must be > 0 or "auto"')
    _choose(values, net, where)
    _check_together(values, where)
    if values["sampling.samples"] < 2 * values["sampling.shards"]:
        raise InputError(
            f"{where}: sampling.samples = {values['sampling.samples']} leaves fewer than 2 samples for each of "
            f"sampling.shards = {values['sampling.shards']}: raise samples or lower shards."
        )
    return values


def _choose(values: dict[str, Any], net: ReactionNetwork, where: str) -> None:
    """Give the keys that were left at "auto" their values where these depend on the job alone."""
    for key, most in (("sampling.exact_states", 200_000), ("network.support_states", 300_000)):
        if values[key] == "auto":
            # What costs is not a state but a prefix, of which one or two species have few.
            values[key] = _FEW_SPECIES_STATES if net.S <= 2 else most
    insists = [f"{key} = {word}" for key, word in _EXACT.items() if json.dumps(values[key]) == word]
    few = bool(insists)
    if any(net.auto_limits):
        pass  # how many states there are is known when the limits are
    elif values["solver.scheme"] in ("auto", "tdvp") or insists:
        few = _few_states(values, net)
        if insists and not few:
            reason = f"more than sampling.exact_states = {values['sampling.exact_states']} states can be reached"
            if values["sampling.exact"] is False:
                reason = "sampling.exact = false"
            raise InputError(
                f'{where}: {insists[0]} needs sums over all reachable states, but {reason}: leave both at "auto", or '
                "raise sampling.exact_states."
            )
    if values["solver.scheme"] == "auto":
        values["solver.scheme"] = "tdvp" if few or net.S >= _MANY else "projection"
    tdvp = values["solver.scheme"] == "tdvp"
    if tdvp and values["solver.integrator"] == "auto" and (few or net.S >= _MANY):
        values["solver.integrator"] = "exponential" if few else "waveform"
    waveform = values["solver.integrator"] == "waveform"
    if tdvp and waveform and values["network.head"] == "auto":
        values["network.head"] = "smooth"
    kind = values["network.kind"]
    if kind == "auto":
        kind = "basis" if tdvp else "gru"
    width = 32
    if kind == "basis":
        # The heads of a network of few species can afford many hidden units; with many species the counts themselves,
        # which every conditional sees, are what matters.
        width = 12 if net.S <= 4 else 8 if net.S <= 6 else 4
    if values["solver.optimiser"] == "auto":
        values["solver.optimiser"] = "natural" if values["solver.loss"] == "kl" else "adam"
    natural = values["solver.optimiser"] == "natural"
    sight = 1 if values["network.far"] else 3 if net.S >= _MANY else net.S  # far: the rest is in the total
    chosen = {
        "network.kind": kind, "network.width": width, "network.sight": sight,
        "sampling.samples": 5000 if tdvp else 1000 if natural else 2000,
        "solver.tolerance": 0.004 if tdvp and waveform else 0.05,
        "sampling.cover": 0.1 if tdvp else 0.3, "solver.epochs": 4 if natural else 20,
        "sampling.tail": 0.5 if tdvp and waveform else 0.3 if tdvp else 0.1 if values["solver.loss"] == "kl" else 0.0,
    }  # fmt: skip
    for key, default in (("network.sight", "auto"), ("network.far", False)):
        if values[key] != default and kind != "basis":
            raise InputError(
                f'{where}: {key} goes with network.kind = "basis" only, not with "{kind}": leave one of the two out.'
            )
    for key, value in chosen.items():
        if values[key] == "auto":
            values[key] = value
    if values["network.kind"] == "basis" and values["network.depth"] != 1:
        raise InputError(
            f'{where}: network.depth = {values["network.depth"]} goes with kind "gru", "made", "transformer" and '
            '"nade" only; "basis" has one layer of hidden units. Leave it out, or name another network.kind.'
        )


#: Settings that need sums over all reachable states.
_EXACT = {"sampling.exact": "true", "solver.integrator": '"exponential"'}


def _few_states(values: dict[str, Any], net: ReactionNetwork) -> bool:
    """Whether all reachable states can be summed over."""
    from hpcme.networks.build import enumerate_reachable

    if values["sampling.exact"] is False:
        return False
    return enumerate_reachable(net, values["sampling.exact_states"], values["time.end"] or 1.0) is not None


def _check_together(values: Mapping[str, Any], where: str) -> None:
    """Keys that are right one by one, but not together. Raises InputError."""
    if values["solver.optimiser"] == "natural" and values["solver.loss"] != "kl":
        raise InputError(
            f'{where}: solver.optimiser = "natural" goes with solver.loss = "kl" only, not with '
            f'"{values["solver.loss"]}": leave one of the two out.'
        )
    if values["run.warm"] is not None and values["solver.integrator"] != "exponential":
        raise InputError(
            f'{where}: run.warm = "{values["run.warm"]}" goes with solver.integrator = "exponential" only, where fits '
            "have one solution wherever they begin: leave it out."
        )
    tail = values["sampling.tail"]
    if tail > 0.0 and values["solver.scheme"] == "projection" and values["solver.loss"] != "kl":
        raise InputError(
            f'{where}: sampling.tail = {tail} goes with solver.loss = "kl" only, not with '
            f'"{values["solver.loss"]}": leave it out, or set it to 0.'
        )
    if tail + values["sampling.cover"] > 0.9:
        raise InputError(
            f"{where}: sampling.cover = {values['sampling.cover']} and sampling.tail = {tail} leave too few samples of "
            "the law itself: their sum must be at most 0.9."
        )


def _report_times(report: Any, end: float, where: str) -> np.ndarray:
    """Report times from 0 to end, both always included; float64 [T], strictly increasing."""
    if end <= 0.0:
        raise InputError(f"{where}: time.end = {end!r} must be > 0")
    if report is None:
        report = {"every": end / 10}
    if isinstance(report, Mapping):
        if set(report) != {"every"} or not _positive(report["every"]):
            raise InputError(f"{where}: time.report = {dict(report)!r}: allowed is {{every = x}} with x > 0, or a list")
        count = math.floor(end / report["every"] * (1 + 1e-12))
        if count > 100_000:
            raise InputError(f"{where}: time.report asks for {count} report times; at most 100000")
        times = [i * float(report["every"]) for i in range(count + 1)]
    elif isinstance(report, list | tuple | np.ndarray):
        times = list(report)
        for time in times:
            if isinstance(time, bool) or not isinstance(time, int | float | np.floating) or not 0.0 <= time <= end:
                raise InputError(
                    f"{where}: time.report has {time!r}: report times must be numbers from 0 to end = {end:g}"
                )
    else:
        raise InputError(f"{where}: time.report = {report!r}: allowed is {{every = x}} or a list of times")
    times = sorted({0.0, end, *(float(time) for time in times)})
    # A multiple of `every` that rounding put next to the end is the end.
    kept = [time for time in times[:-1] if end - time > 1e-9 * end]
    return np.array([*kept, end])


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
