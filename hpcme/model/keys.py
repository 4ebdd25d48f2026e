"""The keys of a job file: one table that says all that a job may hold, and the check of single values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hpcme.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Key:
    """One job key: kind of value, default, allowed range or words, and a line of documentation."""

    kind: str  # "int" | "float" | "word" | "bool" | "switch" | "text" | "words" | "report"
    default: Any
    doc: str
    low: float = -math.inf
    high: float = math.inf
    words: tuple[str, ...] = ()
    resume: bool = False  # may change between the parts of one run


KEYS: dict[str, Key] = {
    "time.end": Key("float", None, "end time; required", low=0.0),
    "time.report": Key("report", None, "report times: {every = x} or a list; default {every = end/10}"),
    "network.kind": Key(
        "word",
        "auto",
        'architecture; "auto": basis for tdvp, gru for projection (others: made, transformer, nade)',
        words=("auto", "basis", "gru", "made", "transformer", "nade"),
    ),
    "network.width": Key(
        "int",
        "auto",
        'hidden units (per species for basis and made, of a token for transformer); "auto": 32, for basis 12 or fewer',
        low=1,
        high=4096,
    ),
    "network.depth": Key("int", 1, "hidden layers, of a transformer blocks", low=1, high=16),
    "network.head": Key(
        "word",
        "auto",
        'logits of a count: "auto" is free up to a limit of 16, splines where these fit the start above; with waveform '
        "smooth (splines from a limit of 5 on), with exponential the first species is free",
        words=("auto", "categorical", "spline", "fine", "smooth"),
    ),
    "network.order": Key("words", "auto", '"auto" (from the reactions; hpcme check shows it) or a list of all species'),
    "network.sight": Key(
        "int",
        "auto",
        "basis: a conditional sees species up to this many reactions away from its own; "
        '"auto": all up to six species, 3 for more, 1 with network.far',
        low=0,
        high=1_000_000,
    ),
    "network.far": Key(
        "bool",
        False,
        "basis: a conditional also sees the total count of the species beyond network.sight (and regulators one by "
        "one, if there are at most two), and order auto puts products first; for chains of conversions, whose weak "
        "correlations add up in these totals",
    ),
    "network.support_states": Key(
        "int",
        "auto",
        'enumerate the reachable states for an exact support up to this many; "auto": 300,000, for one or two species '
        "1,500,000",
        low=1,
        high=20_000_000,
    ),
    "solver.scheme": Key(
        "word",
        "auto",
        'time-stepping scheme; "auto": tdvp, but projection for up to six species with too many states to sum over',
        words=("auto", "tdvp", "projection"),
    ),
    "solver.tolerance": Key(
        "float",
        "auto",
        'tdvp: local error per step in the Fisher norm; "auto": 0.05, with waveform 0.004',
        low=1e-9,
        high=1.0,
    ),
    "solver.integrator": Key(
        "word",
        "auto",
        'tdvp: "auto" is exponential where sums are exact; else waveform from seven species on, for fewer implicit, or '
        "heun where the network has more parameters than solver.coupled",
        words=("auto", "exponential", "implicit", "waveform", "ros2", "rkc2", "heun"),
    ),
    "solver.damping": Key(
        "float", "auto", "tdvp and natural: damping as a share of the Fisher diagonal", low=0.0, high=1.0
    ),
    "solver.ridge": Key(
        "float",
        "auto",
        "tdvp: absolute damping; what carries less probability than this stands still (waveform: what a conditional "
        "says whatever it sees is damped by 3 % of it, and searches that fail are repeated with ten times as much)",
        low=0.0,
        high=1.0,
    ),
    "solver.coupled": Key(
        "int",
        3000,
        "tdvp: up to this many parameters conditionals are solved together, else each alone",
        low=0,
        high=50_000,
    ),
    "solver.loss": Key("word", "kl", "what the projection minimises", words=("kl", "l2", "hellinger")),
    "solver.order": Key("int", 2, "Taylor order of the target: 1 is the paper's explicit Euler", low=1, high=4),
    "solver.dt": Key("float", "auto", 'largest time step; "auto": jumps / E[a0], with tdvp any', low=0.0),
    "solver.jumps": Key("float", 0.5, "expected transitions per automatic step", low=1e-6, high=1e3),
    "solver.optimiser": Key(
        "word",
        "auto",
        'projection: "natural", damped Gauss-Newton steps on one set of samples a step; "adam", the paper\'s, fresh '
        'samples in every epoch; "auto": natural for loss "kl"',
        words=("auto", "natural", "adam"),
    ),
    "solver.epochs": Key(
        "int", "auto", 'gradient steps per time step; "auto": 20, with natural 4 or fewer', low=1, high=1_000_000
    ),
    "solver.learning_rate": Key("float", 0.01, "Adam's step size at the start of a time step", low=0.0, high=10.0),
    "solver.decay": Key("float", 0.05, "learning rate at the last epoch of a step, as a fraction", low=1e-6, high=1.0),
    "solver.extrapolate": Key(
        "float",
        0.9,
        "start each fit this far along the last step's motion; 0 is the paper's warm start",
        low=0.0,
        high=1.0,
    ),
    "solver.start_jumps": Key(
        "float",
        "auto",
        'the exact law after this many expected jumps starts the network; "auto": 3, or what it takes',
        low=0.0,
    ),
    "solver.start_states": Key("int", 20_000, "most states of that exact short-time law", low=1, high=5_000_000),
    "solver.start_epochs": Key("int", 1500, "gradient steps that fit the network to its start", low=1),
    "sampling.exact": Key("switch", "auto", 'tdvp: sum over all reachable states; "auto": where they are few'),
    "sampling.exact_states": Key(
        "int",
        "auto",
        'most states that are summed exactly; "auto": 200,000, for one or two species, whose sums are cheap, 1,500,000',
        low=1,
        high=20_000_000,
    ),
    "sampling.samples": Key(
        "int",
        "auto",
        'samples per epoch (projection) or distinct states per step (tdvp); "auto": 1000 with '
        "natural, 2000 with adam, 5000",
        low=1,
        high=1_000_000_000,
    ),
    "sampling.shards": Key("int", 4, "logical shards: the random streams; at least one per rank", low=1, high=65536),
    "sampling.cover": Key(
        "float", "auto", 'share of samples pushed one transition ahead; "auto": 0.3, with tdvp 0.1', low=0.0, high=0.9
    ),
    "sampling.tail": Key(
        "float",
        "auto",
        'share of samples drawn from the flattened law, for tails; "auto": 0.1 (tdvp 0.3, waveform 0.5), 0 where loss '
        'is not "kl"',
        low=0.0,
        high=0.5,
    ),
    "run.seed": Key("int", 0, "seed of all random streams", low=0, high=2**63 - 1),
    "run.dtype": Key("word", "float64", "network arithmetic (sums are float64)", words=("float32", "float64")),
    "run.device": Key("word", "auto", "where the network lives", words=("auto", "cpu", "cuda")),
    "run.deterministic": Key("bool", True, "use deterministic algorithms only, so that a repeat is bitwise equal"),
    "run.warm": Key(
        "text",
        None,
        "exponential: a finished run, or a scan's folder (its nearest finished task), from whose networks fits begin",
        resume=True,
    ),
    "run.timeout": Key(
        "float", 300.0, "seconds after which a rank that does not answer ends the run", low=1.0, resume=True
    ),
    "output.dir": Key("text", None, "run folder; default runs/<job name>", resume=True),
    "output.samples": Key("int", 2000, "samples stored per report time", low=0, high=100_000_000),
    "output.report_samples": Key("int", 20_000, "samples behind each report's moments", low=2, high=1_000_000_000),
    "output.checkpoint_steps": Key("int", 50, "steps between checkpoints", low=1, high=10**9, resume=True),
    "output.checkpoint_seconds": Key(
        "float", 120.0, "seconds between checkpoints, whichever comes first", low=0.0, resume=True
    ),
}


def checked(key: str, value: Any, where: str) -> Any:
    """The value of a key after type and range checks."""
    spec = KEYS[key]

    def refuse(allowed: str) -> InputError:
        hint = did_you_mean(value, spec.words) if isinstance(value, str) and spec.words else ""
        return InputError(f"{where}: {key} = {value!r}: allowed is {allowed} ({spec.doc}).{hint}")

    if spec.kind == "word":
        if value not in spec.words:
            raise refuse(" | ".join(f'"{word}"' for word in spec.words))
    elif spec.kind == "switch":
        if value != "auto" and not isinstance(value, bool):
            raise refuse('true, false or "auto"')
    elif spec.kind == "bool":
        if not isinstance(value, bool):
            raise refuse("true or false")
    elif spec.kind == "text":
        if not isinstance(value, str) or not value:
            raise refuse("a text in quotes")
    elif spec.kind == "words":
        if value != "auto" and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise refuse('"auto" or a list of names')
    elif spec.kind in ("int", "float"):
        if spec.default == "auto" and value == "auto":
            return value
        range_text = f"{spec.low:g} to {spec.high:g}" if math.isfinite(spec.high) else f"at least {spec.low:g}"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (spec.kind == "int" and not isinstance(value, int)) or not math.isfinite(value):
            kind = "an integer" if spec.kind == "int" else "a number"
            raise refuse(f"{kind}, {range_text}" + (', or "auto"' if spec.default == "auto" else ""))
        if not spec.low <= value <= spec.high:
            raise refuse(range_text)
        return value if spec.kind == "int" else float(value)
    return value
