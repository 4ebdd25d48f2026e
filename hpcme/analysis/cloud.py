"""The law of a run at one time as weighted states: what probabilities, entropies, quantiles and modes are summed over.

Three ways to get them, best first; `method` names the one that was taken:

    exact run       the states and probabilities that it stores; no error of sampling
    network run     all states that can be reached, each with the probability that the network gives it, where they can
                    be listed (at most `max_states`) and hold all of the network's probability; no error of sampling
    otherwise       independent samples of the network, or the trajectories of the run; sums then have standard errors
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcme.analysis.laws import law_of
from hpcme.analysis.queries import positive
from hpcme.store.reader import Run

MAX_STATES = 200_000
SAMPLES = 100_000
_WHOLE = 1e-6  # probability that the listed states may lack before samples are taken instead


@dataclass(frozen=True)
class Cloud:
    """States n int32 [M,S] with probabilities or weights p float64 [M].

    logq float64 [M]: natural logarithm of the joint probability of each state, None for trajectories.
    number: how many independent samples of equal weight the states are, None where p are the probabilities themselves.
    outside: probability of states that are not listed (lost by an exact run).
    """

    n: np.ndarray
    p: np.ndarray
    logq: np.ndarray | None
    number: float | None
    method: str
    outside: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether sums over these states have no error of sampling."""
        return self.number is None

    def share(self, holds: np.ndarray) -> tuple[float, float]:
        """Probability of the states marked in bool [M], and its standard error sqrt(P (1 - P) / N)."""
        found = min(1.0, float(self.p[holds].sum()))
        return found, 0.0 if self.exact else float(np.sqrt(found * (1.0 - found) / self.number))

    def average(self, x: np.ndarray) -> tuple[float, float]:
        """Mean of x float64 [M] under the law conditioned on the listed states, and its standard error sd(x) / sqrt(N).

        The error is right to first order also where x holds estimates from the same samples and the mean does not
        depend on them to first order, as with entropies (delta method).
        """
        p = self.p / self.p.sum()
        mean = float(p @ x)
        return mean, 0.0 if self.exact else float(np.sqrt(max(0.0, p @ (x - mean) ** 2) / max(1.0, self.number - 1.0)))


def cloud_of(
    run: Run, t: float | None = None, *, samples: int = SAMPLES, seed: int = 0, max_states: int = MAX_STATES
) -> Cloud:
    """The law of a run at a stored time (None: the last).

    samples, seed: how many samples of a network are drawn, and from which stream, where its states are not listed.
    Raises InputError: a time that is not stored, samples below 1, a run that stores no network at this time.
    """
    positive(samples, "samples")
    k = run.index(t)
    t = float(run.times[k])
    if run.kind == "fsp":
        n, p = run.fsp_states(), np.maximum(run.probability(t), 0.0)
        with np.errstate(divide="ignore"):
            logq = np.log(p)
        return Cloud(n, p, logq, None, f"exact law of {len(n)} states", max(0.0, 1.0 - float(p.sum())))
    if run.kind == "ssa":
        n = run.samples(t)
        return Cloud(n, np.full(len(n), 1.0 / len(n)), None, float(len(n)), f"{len(n)} trajectories")
    law, states = law_of(run, t), reachable_states(run, max_states)
    if states is not None:
        logq = law.log_prob(states)
        p = np.exp(logq)
        if abs(1.0 - p.sum()) < _WHOLE:
            return Cloud(states, p, logq, None, f"the network's law of {len(states)} states")
    n = law.sample(samples, seed=seed)
    return Cloud(n, np.full(len(n), 1.0 / len(n)), law.log_prob(n), float(len(n)), f"{len(n)} samples of the network")


def reachable_states(run: Run, max_states: int = MAX_STATES) -> np.ndarray | None:
    """States int32 [M,S] that a run's model can reach within its limits, None where there are more than max_states, or
    no limits (trajectories of a model whose limits are automatic).

    Never write into them: they are remembered.
    """
    from hpcme.networks.build import enumerate_reachable

    net = run.model()
    return None if any(net.auto_limits) else enumerate_reachable(net, max_states, float(run.times[-1]))
