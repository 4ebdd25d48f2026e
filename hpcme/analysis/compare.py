"""How far a run is from a reference: the exact law, trajectories, or another run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcme.analysis.distances import (
    NOTHING,
    floors,
    hellinger,
    hellinger_floor,
    sampled_joint,
    tabulated_joint,
    tv,
    tv_floor,
)
from hpcme.analysis.laws import TabulatedLaw, law_of
from hpcme.analysis.statistics import certificate_of, chosen_times, plain_numbers
from hpcme.errors import InputError
from hpcme.store.moments import histogram, law_moments, sample_moments
from hpcme.store.reader import Run, open_run

JOINT = (
    "tv",
    "tv_se",
    "hellinger",
    "hellinger_se",
    "kl",
    "kl_se",
    "kl_reverse",
    "kl_reverse_se",
    "loglik",
    "loglik_se",
    "run_outside",
    "reference_outside",
)
_ZERO = 1e-12  # means smaller than this are compared absolutely
_SURE = 5.0  # standard errors, or noise floors, that chance is given before a certificate counts as violated


@dataclass
class Law:
    """One side of the comparison at one time.

    mean, mean_se, sd, sd_se [S]; marginals and marginals_se per species; table: (states, p) of an exact law;
    joint: object with sample and log_prob, or None; samples int32 [N,S] of trajectories, or None.
    """

    mean: np.ndarray
    mean_se: np.ndarray
    sd: np.ndarray
    sd_se: np.ndarray
    marginals: list[np.ndarray]
    marginals_se: list[np.ndarray]
    table: tuple[np.ndarray, np.ndarray] | None = None
    joint: Any = None
    samples: np.ndarray | None = None

    @classmethod
    def of_run(cls, run: Run, k: int) -> Law:
        """Report k of a run."""
        t = float(run.times[k])
        law = cls(
            run.mean[k],
            run.mean_se[k],
            run.sd[k],
            run.sd_se[k],
            [run.marginal(i, t) for i in range(run.S)],
            [run.marginal_se(i, t) for i in range(run.S)],
        )
        if run.kind == "ssa":
            law.samples = run.samples(t)
        else:
            law.joint = law_of(run, t)
            law.table = (law.joint.states, law.joint.p) if run.kind == "fsp" else None
        return law

    @classmethod
    def of_table(cls, states: np.ndarray, p: np.ndarray) -> Law:
        """An exact law given by its states [M,S] and probabilities [M]."""
        mean, covariance = law_moments(states, p)
        sd, zero = np.sqrt(np.diag(covariance)), np.zeros(len(mean))
        marginals = [histogram(states[:, i], p, int(states[:, i].max()) + 1) for i in range(len(mean))]
        none = [np.zeros_like(m) for m in marginals]
        joint = TabulatedLaw(states, p)
        return cls(mean, zero, sd, zero, marginals, none, (joint.states, joint.p), joint)

    @classmethod
    def of_samples(cls, samples: np.ndarray) -> Law:
        """A law known by independent samples int [N,S]."""
        m = sample_moments(samples)
        marginals = [
            histogram(samples[:, i], None, int(samples[:, i].max()) + 1) / len(samples)
            for i in range(samples.shape[1])
        ]
        errors = [np.sqrt(p * (1.0 - p) / len(samples)) for p in marginals]
        return cls(m.mean, m.mean_se, m.sd, m.sd_se, marginals, errors, samples=samples)


def compare(
    run: Run,
    reference: str | Path | Run,
    times: Iterable[float] | None = None,
    *,
    max_states: int = 2_000_000,
    trajectories: int = 100_000,
    seed: int = 0,
    samples: int = 20_000,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Compare a run with "exact" (solved here, up to max_states states), "ssa" (simulated) or another run.

    times: stored times (None: all of the run's; with another run, those that both have). Returns plain lists,
    one value per time:

    {"times", "species", "reference", "reference_kind", "same_model",
     "joint": {"tv", "hellinger", "kl", ..., "method", "reasons"},       see distances.py for the conventions
     "marginals": {species: {"tv", "hellinger"}},
     "mean_error", "sd_error" [T][S]: |run - reference| / |reference|, absolute below 1e-12,
     "noise_floor": {"marginals": {species: {"tv", "hellinger"}}, "mean_error", "sd_error"}: sampling alone,
     "certificate": {"bound", "looseness", "tv_at_least", "violated", "confidence", "reasons"}}   see _certificate

    kl is KL(reference || run), kl_reverse the other direction. With an exact law on either side the joint
    metrics are sums over all its states; between two networks they come from `samples` samples of each, with
    standard errors; trajectories know no probabilities, so there "loglik" is the mean log-probability of the
    trajectories' states under the other law. What cannot be computed is None, and "reasons" says why, by
    metric, at the first time it happened.
    Raises InputError: unknown reference or time, other species, too many states for "exact".
    """
    name, kind, same_model, laws = _reference(run, reference, times, max_states, trajectories, seed, progress)
    foreign = None if same_model else "the reference is of another model"
    found: dict[str, Any] = {
        "times": [],
        "species": list(run.species),
        "reference": name,
        "reference_kind": kind,
        "same_model": same_model,
        "joint": {metric: [] for metric in JOINT} | {"method": [], "reasons": {}},
        "marginals": {species: {"tv": [], "hellinger": []} for species in run.species},
        "mean_error": [],
        "sd_error": [],
        "noise_floor": {
            "marginals": {species: {"tv": [], "hellinger": []} for species in run.species},
            "mean_error": [],
            "sd_error": [],
        },
    }
    for k, make, _ in laws:
        q, p = Law.of_run(run, k), make()
        found["times"].append(float(run.times[k]))
        _add_joint(found["joint"], compare_joint(q, p, samples, seed))
        _add_marginals(found, run.species, q, p)
        _add_moments(found, q, p)
    # a metric that no time could give stays as a list of None; those of other methods are dropped
    for metric in [metric for metric in JOINT if metric not in ("tv", "hellinger", "kl")]:
        if all(value is None for value in found["joint"][metric]) and metric not in found["joint"]["reasons"]:
            del found["joint"][metric]
    certificate = certificate_of(run.extra(), [k for k, _, _ in laws])
    found["certificate"] = _certificate(found, certificate, [error for _, _, error in laws], foreign)
    return plain_numbers(found)


def _reference(run, reference, times, max_states, trajectories, seed, progress):
    """(name, kind, same model?, [(report number of the run, function giving the reference's Law, its own error)]).

    The error is a bound of the TV between the reference and what it stands for, apart from the noise and the
    lost probability that the metrics know of: 0 but for networks, whose bound it is (infinite: there is none).
    """
    if isinstance(reference, str) and reference in ("exact", "ssa"):
        rows = sorted(chosen_times(run, times))
        solve = _exact if reference == "exact" else _ssa
        make = solve(run, run.times[rows], max_states, trajectories, seed, progress)
        return reference, reference, True, [(k, lambda j=j: make(j), 0.0) for j, k in enumerate(rows)]
    if not isinstance(reference, Run):
        if not Path(reference).exists():
            raise InputError(
                f'unknown reference "{reference}": allowed are exact, ssa, or the path of another run.'
            )
        reference = open_run(reference)
    if list(reference.species) != list(run.species):
        raise InputError(
            f"{reference.path} has the species {', '.join(reference.species)}, {run.path} has"
            f" {', '.join(run.species)}. Fix: compare runs with the same species in the same order."
        )
    if times is None:
        pairs = [(k, j) for k, t in enumerate(run.times) if (j := _stored(reference, t)) is not None]
        if not pairs:
            raise InputError(
                f"{run.path} (times {run.times[0]:g}..{run.times[-1]:g}) and {reference.path} (times"
                f" {reference.times[0]:g}..{reference.times[-1]:g}) have no report time in common. Fix: run"
                " one of them with the other's report times."
            )
    else:
        pairs = [(run.index(t), reference.index(t)) for t in map(float, times)]
    same = run.provenance["model_hash"] == reference.provenance["model_hash"]
    error = np.zeros(len(reference.times))
    if reference.kind == "network":
        bound = reference.extra().get("bound", error + np.nan)
        error = np.where(np.isnan(bound), np.inf, bound)
    laws = [(k, lambda j=j: Law.of_run(reference, j), float(error[j])) for k, j in pairs]
    return str(reference.path), reference.kind, same, laws


def _stored(run: Run, t: float) -> int | None:
    try:
        return run.index(float(t))
    except InputError:
        return None


def _exact(run, times, max_states, trajectories, seed, progress):
    from hpcme.exact.fsp import solve_fsp

    try:
        solution = solve_fsp(run.model(), times, max_states=max_states, progress=progress, reflecting=True)
    except InputError as error:
        raise InputError(
            f"{error} The exact law of {run.path} is out of reach; compare with ssa instead."
        ) from error
    return lambda j: Law.of_table(solution.states, solution.p[j])


def _ssa(run, times, max_states, trajectories, seed, progress):
    from hpcme.exact.ensemble import solve_ssa

    solution = solve_ssa(run.model(), times, trajectories, seed, progress=progress)
    return lambda j: Law.of_samples(solution.samples[j])


def compare_joint(q: Law, p: Law, samples: int, seed: int) -> dict[str, Any]:
    """Joint metrics of the run's law q against the reference p, by the best method the two sides allow."""
    if p.table is not None and q.joint is not None:
        states, probability = p.table
        found = tabulated_joint(probability, q.joint.log_prob(states))
        return {
            "method": f"exact sums over {len(states)} states",
            "reasons": found["reasons"],
            "run_outside": found["q_outside"],
            "reference_outside": found["p_outside"],
            **{metric: found[metric] for metric in ("tv", "hellinger", "kl", "kl_reverse")},
        }
    if q.table is not None and p.joint is not None:
        return _exchanged(compare_joint(p, q, samples, seed))
    if q.joint is not None and p.joint is not None:
        return _two_networks(q, p, samples, seed)
    if q.joint is None and p.joint is None:
        why = "both sides are trajectories, which know no probabilities of states"
        return {"method": "none", "reasons": dict.fromkeys(("tv", "hellinger", "kl"), why)}
    if p.samples is not None:
        return _loglik(q.joint, p.samples, "reference trajectories", "the run")
    return _loglik(p.joint, q.samples, "trajectories of the run", "the reference")


def _exchanged(found: dict[str, Any]) -> dict[str, Any]:
    """Metrics of (p, q) from those of (q, p): the symmetric ones stay, the directions and sides swap."""
    swaps = {
        "kl": "kl_reverse",
        "kl_reverse": "kl",
        "run_outside": "reference_outside",
        "reference_outside": "run_outside",
    }
    reasons = {
        swaps.get(metric, metric): text.replace("the reference", "\0")
        .replace("the run's law", "the reference")
        .replace("\0", "the run's law")
        for metric, text in found["reasons"].items()
    }
    return {**{swaps.get(metric, metric): value for metric, value in found.items()}, "reasons": reasons}


def _two_networks(q: Law, p: Law, samples: int, seed: int) -> dict[str, Any]:
    n = q.joint.sample(samples, seed=seed)
    found = sampled_joint(q.joint.log_prob(n), p.joint.log_prob(n))
    m = p.joint.sample(samples, seed=seed + 1)
    back = sampled_joint(p.joint.log_prob(m), q.joint.log_prob(m))
    found["kl"], found["kl_se"] = back["kl_reverse"], back["kl_reverse_se"]
    if "kl_reverse" in back["reasons"]:
        found["reasons"]["kl"] = (
            back["reasons"]["kl_reverse"]
            .replace("the reference", "\0")
            .replace("the run", "the reference")
            .replace("\0", "the run")
        )
    return {"method": f"{samples} samples of each side", **found}


def _loglik(law: Any, n: np.ndarray, whose: str, under: str) -> dict[str, Any]:
    why = (
        f"{whose} know no probabilities of states; loglik is the mean log-probability of their states under"
        f" {under}"
    )
    found: dict[str, Any] = {
        "method": f"log-likelihood of {len(n)} {whose}",
        "reasons": dict.fromkeys(("tv", "hellinger", "kl"), why),
    }
    values = law.log_prob(n)
    impossible = int(np.sum(values == -np.inf))
    if impossible:
        found["reasons"]["loglik"] = (
            f"{impossible} of {len(n)} states of the {whose} are impossible under {under}"
        )
    else:
        found["loglik"] = float(values.mean())
        found["loglik_se"] = float(values.std(ddof=1) / np.sqrt(len(n))) if len(n) > 1 else None
    return found


def _add_joint(table: dict[str, Any], found: dict[str, Any]) -> None:
    for metric in JOINT:
        table[metric].append(found.get(metric))
    table["method"].append(found["method"])
    table["reasons"] = {**found["reasons"], **table["reasons"]}


def _add_marginals(found: dict[str, Any], species: list[str], q: Law, p: Law) -> None:
    for i, name in enumerate(species):
        marginals, floor = found["marginals"][name], found["noise_floor"]["marginals"][name]
        marginals["tv"].append(tv(q.marginals[i], p.marginals[i]))
        marginals["hellinger"].append(hellinger(q.marginals[i], p.marginals[i]))
        if (q.samples is None) != (p.samples is None) and (q.table or p.table):
            # independent samples against an exact law: the floors are known without approximation
            exact, number = (p.marginals[i], len(q.samples)) if p.table else (q.marginals[i], len(p.samples))
            low = tv_floor(exact, number), hellinger_floor(exact, number)
        else:
            low = floors(q.marginals[i], p.marginals[i], q.marginals_se[i], p.marginals_se[i])
        floor["tv"].append(low[0])
        floor["hellinger"].append(low[1])


def _add_moments(found: dict[str, Any], q: Law, p: Law) -> None:
    for name in ("mean", "sd"):
        ours, right = getattr(q, name), getattr(p, name)
        scale = np.where(np.abs(right) < _ZERO, 1.0, np.abs(right))
        found[f"{name}_error"].append(np.abs(ours - right) / scale)
        # E|x| of a normal x with variance v is sqrt(2 v / pi)
        noise = getattr(q, f"{name}_se") ** 2 + getattr(p, f"{name}_se") ** 2
        found["noise_floor"][f"{name}_error"].append(np.sqrt(2.0 * noise / np.pi) / scale)


def _certificate(
    found: dict[str, Any], certificate: dict[str, Any] | None, errors: list[float], foreign: str | None
) -> dict[str, Any]:
    """The certified bound of the run beside the measured TV; lists have one value per time.

    looseness = bound / TV of the joint laws. tv_at_least: what the TV to the true law is at least, when chance
    is given _SURE standard errors (joint TV) or noise floors (marginals of trajectories; a marginal TV never
    exceeds the joint one), and the reference its lost probability and its own error. "violated" lists the times
    at which that exceeds the bound. What is None has a reason. foreign: why the reference says nothing, or None.
    """
    joint, bounds = found["joint"], certificate["bound"] if certificate else [None] * len(errors)
    unknown = "the run stores no certified bound" + (" at some times" if certificate else "")
    reasons: dict[str, str] = {}
    looseness: list[float | None] = [None] * len(errors)
    least, violated = list(looseness), []
    for k, (bound, error, distance) in enumerate(zip(bounds, errors, joint["tv"], strict=True)):
        if foreign is None and np.isfinite(error):
            least[k] = max(0.0, _sure_distance(found, k) - error)
        else:
            reasons.setdefault("tv_at_least", foreign or "the reference is a network without a certified bound")
        if bound is None:
            why = reasons["bound"] = unknown
        elif foreign is not None:
            why = foreign
        elif distance is None:
            why = joint["reasons"]["tv"]
        elif found["reference_kind"] == "network":
            why = "the reference is a network, and TV holds the errors of both"
        elif distance <= NOTHING:
            why = "the measured TV is zero to rounding"
        else:
            why, looseness[k] = "", bound / distance
        if why:
            reasons.setdefault("looseness", why)
        if bound is not None and least[k] is not None and least[k] > bound + NOTHING:
            violated.append(found["times"][k])
    return {
        "bound": bounds, "looseness": looseness, "tv_at_least": least, "violated": violated,
        "confidence": certificate["confidence"] if certificate else None, "reasons": reasons,
    }  # fmt: skip


def _sure_distance(found: dict[str, Any], k: int) -> float:
    """TV at time k less what sampling noise and the probability that the reference lost can explain."""
    joint = found["joint"]
    if joint["tv"][k] is not None:
        error, lost = joint.get("tv_se"), joint.get("reference_outside")
        noise = _SURE * ((error[k] if error else None) or 0.0) + ((lost[k] if lost else None) or 0.0)
        return joint["tv"][k] - noise
    floor = found["noise_floor"]["marginals"]
    return max(found["marginals"][name]["tv"][k] - _SURE * floor[name]["tv"][k] for name in found["species"])
