"""Events in the time loop: the law is remapped at their time, and the network takes over again a short time later.

An event may set a count to one value, and no network holds such a law well. So it is treated like the start: the law
right after the events is kept as it is, exactly (a table of all states, or samples), moved on by the master equation
for a few transitions (exactly, or by trajectories), and only then is the network fitted to it. With a table the
distance of the fit is known and goes into the certificate; with samples it is not, and the bound ends there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from hpcme.dynamics.start import GOOD, JUMPS, marginals, settle
from hpcme.dynamics.streams import generator
from hpcme.errors import HpcmeError, InputError
from hpcme.exact.fsp import make_propagator
from hpcme.exact.statespace import StateSpace
from hpcme.kernels import ssa
from hpcme.kernels.neighbours import outflow
from hpcme.networks.base import VAN
from hpcme.networks.build import enumerate_reachable
from hpcme.networks.remapped import RemappedLaw
from hpcme.parallel.world import World

_OTHER_JUMPS = 10.0  # where there is one trial only: with samples, or by the slower fits of projection
_SAMPLES = 100_000  # drawn where the states cannot be listed; the fit misses about P / 2 of them, P parameters, in KL
_RTOL = 1e-10


class After(NamedTuple):
    """The law right after events, on rank 0: states int32 [M, S] with probabilities float64 [M] (all of them, or
    samples), and as a law to store. On every rank: lost, the probability that the events led past the limits, and
    past, that they led past the limit of each species, float64 [S]."""

    t: float
    lost: float
    past: np.ndarray
    exact: bool
    law: RemappedLaw | None = None
    states: np.ndarray | None = None
    p: np.ndarray | None = None


class Events:
    """What a run does at the times of its model's events. All methods are collective; rank 0 does the work."""

    def __init__(self, job, world: World, say: Callable[[str], None]) -> None:
        self.job, self.net, self.world, self.say = job, job.net, world, say
        self.times = set(job.net.event_times(float(job.report_times[-1])).tolist())
        self.space: StateSpace | None = None
        self.propagator = None

    def remap(self, network: VAN, t: float) -> After:
        """The law after the events of time t. Raises InputError where a new count is none."""

        def numbers(found: After) -> After:
            return After(t, found.lost, found.past, found.exact)

        return self._on_rank_0(lambda: self._remap(network, t), numbers)

    def launch(self, network: VAN, after: After, stop: float) -> tuple[float, float]:
        """Fit the network, in place, to the law a short time later, at most `stop`.

        Returns that time and the total variation distance of the fit, 1 where it is not known.
        """
        t, distance, parameters = self._on_rank_0(lambda: self._launch(network, after, stop))
        network.load_state_dict({name: value.to(network.device) for name, value in parameters.items()})
        return t, distance

    def _on_rank_0(self, work: Callable, shown: Callable = lambda found: found):
        """What `work` gives on rank 0; the others get what `shown` makes of it. Errors are raised on every rank."""
        found = error = None
        if self.world.main:
            try:
                found = work()
            except HpcmeError as problem:
                error = problem
        self.world.raise_together(error)
        others = self.world.share(None if found is None else shown(found))
        return found if self.world.main else others

    # ---- on rank 0 -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _remap(self, network: VAN, t: float) -> After:
        before = copy.deepcopy(network).cpu()
        law = RemappedLaw(self.net, before, t, 0.0)
        states = enumerate_reachable(self.net, self.job["sampling.exact_states"], self.job["time.end"])
        if states is None:
            k = sorted(self.times).index(t)
            random = generator(self.job["run.seed"], "event", k, 0, 0)
            moved, inside = law.moved(random.random((_SAMPLES, self.net.S)))
            past = (moved > self.net.limits).mean(axis=0)
            if not inside.any():
                raise InputError(_lost_all(t))
            law.lost = 1.0 - float(inside.mean())
            return After(t, law.lost, past, False, law, moved[inside], np.full(inside.sum(), 1.0 / inside.sum()))
        if self.space is None:
            self.space = StateSpace(self.net, states, complete=True, reflecting=True)
        q = before.log_prob(torch.from_numpy(self.space.states)).exp().numpy()
        p, past = self.space.remapped(np.append(q / q.sum(), 0.0), t)
        if not p[-1] < 1.0 - 1e-12:
            raise InputError(_lost_all(t))
        law.lost = float(p[-1])
        held = p[:-1] > 0.0
        return After(t, law.lost, past, True, law, self.space.states[held], p[:-1][held] / p[:-1].sum())

    def _launch(self, network: VAN, after: After, stop: float) -> tuple[float, float, dict[str, torch.Tensor]]:
        wanted = self.job["solver.start_jumps"]
        trials = (wanted,)
        if wanted == "auto":
            trials = JUMPS if after.exact and self.job["solver.scheme"] == "tdvp" else (_OTHER_JUMPS,)
        a, _ = outflow(self.net.tables, after.states, self.net.s, self.net.limits, after.t)
        rate = float(after.p @ a.sum(axis=1))
        best = None
        for jumps in trials:
            t = min(stop, after.t + jumps / rate) if rate > 0.0 else stop
            states, p = self._later(after, t)
            trial = copy.deepcopy(network).cpu()
            trial.set_marginals(marginals(states, p, self.net.limits))
            kl, tv = settle(trial, states, p, self.job, pull=None if after.exact else 1.0 / len(after.p))
            if best is None or tv < best[1]:
                best = t, tv, trial.state_dict()
                line = f"hpcme: events at t = {after.t:g}; the network goes on at t = {t:.6g}"
                line += f" (fit KL {kl:.1e}, TV {tv:.1e})" if after.exact else f", fitted to {len(after.p)} samples"
            if tv <= GOOD or t >= stop:
                break
        self.say(line)
        t, tv, parameters = best
        return t, tv if after.exact else 1.0, parameters

    def _later(self, after: After, t: float) -> tuple[np.ndarray, np.ndarray]:
        """The law at time t: distinct states int32 [M, S] and their probabilities float64 [M]."""
        if after.exact:
            if self.propagator is None:
                self.propagator = make_propagator(self.space, float(self.job.report_times[-1]), 1, _RTOL)
            p = np.append(self.space.law(after.states, after.p)[0], 0.0)
            self.propagator.restart(after.t)
            p = self.propagator.advance(p, t - after.t)[:-1]
            # What is neglected is far below what a fit can tell.
            held = p > 1e-16
            return self.space.states[held], p[held] / p[held].sum()
        seed = int(generator(self.job["run.seed"], "event", sorted(self.times).index(after.t), 1, 0).integers(1 << 62))
        n = ssa.simulate(self.net.tables, self.net.s, after.states, np.array([t]), after.t, seed)[0][0]
        n = n[(n <= self.net.limits).all(axis=1)]
        states, count = np.unique(n, axis=0, return_counts=True)
        return states, count / count.sum()


def _lost_all(t: float) -> str:
    return (
        f"the events at t = {t:g} lead every state past the limits. Fix: raise max of the species that they set"
    )
