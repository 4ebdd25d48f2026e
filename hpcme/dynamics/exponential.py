"""Exponential integrator of scheme `tdvp`, for reachable states that are few enough to be summed over.

One step from q to q':   T = exp(h A) q on the reachable states,   q' = argmin KL(T || q') over the heads.

As h goes to zero this is the time-dependent variational principle, S theta' = E_q[O e]: it is what the derivative of
the likelihood equations E_T[O'] = 0 says. For any h the step has no error in time, cannot become unstable however stiff
the network of reactions is, keeps every probability positive, and its error is known: TV(T, q'). As the master equation
contracts the total variation distance, the sum of these distances bounds the error of the run. Steps are long where the
law moves little, since every projection adds to that sum.

Rank 0 propagates, which is cheap beside the fits; the states of the fits are shared among the ranks.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from hpcme.dynamics.likelihood import fit_conditionals
from hpcme.dynamics.motion import Motion
from hpcme.dynamics.scheme import Advance, clock, flat_parameters, network_state, restore_network
from hpcme.dynamics.tangent import HeadParameters, StateTree
from hpcme.errors import Fault, HpcmeError, NumericalError
from hpcme.exact.borders import Borders
from hpcme.exact.fsp import make_propagator
from hpcme.exact.statespace import StateSpace
from hpcme.kernels.neighbours import outflow
from hpcme.networks.base import VAN
from hpcme.parallel.world import World

_ADVICE = (
    "Results up to here are kept. Try again in another --out with a larger network.width or another network.order; "
    "`hpcme fsp` solves a model of so few states exactly."
)
#: KL(T || q) of a step at most: a fit that starts further away takes many more iterations.
_FARTHEST = 3.0
_LATER, _GROW = 1.0, 2.0  # steps grow by the clock at first, and at most to this multiple of the last one
_PIECES = 4  # of a step, at whose ends the flux through the limits is known (Boole's rule)
_BOOLE = np.array([7.0, 32.0, 12.0, 32.0, 7.0]) / 90.0
_STEPS = 20  # of a run, at least: for the choice of the propagator's method
_RTOL = 1e-10  # of the propagator, where rates depend on time
_PULL, _ACCURACY = 1e-9, 1e-18  # of the fits: converged to what ranks in any number agree on
_ITERATIONS = 100
#: TV(T, q') of one step from which the network is said to be unable to hold the law.
_HOPELESS = 0.1
_MAX_HALVINGS = 60


class Exponential:
    """Owns the network; `advance` takes one step. Same face as the other schemes."""

    def __init__(self, network: VAN, world: World, job, states: torch.Tensor, motion: Motion | None = None) -> None:
        """states int32 [M, S]: all reachable ones, the same on every rank. motion: how a similar run moved; fits begin
        there, and end where they would have without it."""
        self.network, self.net, self.world = network, job.net, world
        self.borders = Borders.of(job)
        self.longest = math.inf if job["solver.dt"] == "auto" else job["solver.dt"]
        self.parameters = HeadParameters(network)
        self.h = 0.0  # last step, 0: none yet
        self.motion = motion
        self.M = states.shape[0]
        self.mine = world.part(self.M)
        self.tree = StateTree(self.parameters, states[self.mine])
        self.space = self.propagator = None
        error = None
        if world.main:
            try:
                self.space = StateSpace(self.net, states.cpu().numpy(), complete=True, reflecting=True)
                self.propagator = make_propagator(
                    self.space, float(job.report_times[-1]), max(len(job.report_times), _STEPS), _RTOL, None
                )
                self.rates = self._rates(0.0)
            except HpcmeError as problem:
                error = problem
        world.raise_together(error)

    # ---- state -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """Everything that determines the future, as arrays for a checkpoint."""
        return {**network_state(self.network), "h": float(self.h)}

    def restore(self, state: dict[str, object]) -> None:
        """Undo `state`."""
        restore_network(self.network, state)
        self.h = float(state["h"])

    def flat(self) -> torch.Tensor:
        """All parameters of the network as one vector, float64 [P]."""
        return flat_parameters(self.network)

    def forget(self) -> None:
        """The law has changed all at once: what past steps taught does not hold."""
        self.h = 0.0

    # ---- one step --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def advance(self, step: int, t: float, rest: float) -> Advance:
        """One step from t, at most to t + rest. Raises NumericalError where the network cannot hold the law; the law is
        then as before."""
        begin, logq = self.parameters.get(), self._all(self.tree.log_prob())
        since = clock(self.net, t)
        h = min(rest, _LATER * since if since > 0.0 else 1e-3 * rest, _GROW * self.h if self.h else rest, self.longest)
        halvings = 0
        while halvings < _MAX_HALVINGS:
            dt = rest / max(1, math.ceil(rest / h - 1e-9))
            target, leak, exits, borders = self._propagate(logq, t, dt)
            moved = _divergence(target, logq)
            if math.isnan(moved):
                raise Fault(f"step {step} at t = {t:g}: the law has probabilities that are not finite.")
            if moved <= _FARTHEST:
                break
            h, halvings = 0.5 * dt, halvings + 1
        else:
            raise NumericalError(
                f"step {step} at t = {t:g}: the law moves too far from the network within any step, down to {dt:.3g}. "
                f"{_ADVICE}"
            )
        moves = None if self.motion is None else self.motion.between(t, t + dt)
        fits = fit_conditionals(
            self.parameters, self.tree, target[self.mine], pull=_PULL, accuracy=_ACCURACY, iterations=_ITERATIONS,
            damping=0.0, world=self.world, guess=None if moves is None else begin + moves.to(begin.device),
        )  # fmt: skip
        new = self._all(self.tree.log_prob())
        defect = 0.5 * float((new.exp() - target).abs().sum())
        if not defect <= _HOPELESS:
            self.parameters.set(begin)
            if math.isnan(defect):
                raise Fault(f"step {step} at t = {t:g}: the fit has probabilities that are not finite.")
            raise NumericalError(
                f"step {step} at t = {t:g}: the network cannot hold the law at t = {t + dt:g}: the best it can do is a "
                f"total variation distance of {defect:.2g}. {_ADVICE}"
            )
        # A step cut short by a report says nothing about the next one.
        self.h = max(dt, self.h if dt >= rest and not halvings else 0.0)
        left = _divergence(target, new)
        row = {
            "error": math.sqrt(2.0 * max(left, 0.0)), "fit": math.sqrt(max(left, 0.0) / moved) if moved > 0.0 else 0.0,
            "stages": 1 + halvings, "iterations": fits, "rejected": halvings, "distinct": self.M,
            "evaluations": self.M * (fits + 2), "a0": exits, "ess": float(self.M),
        }  # fmt: skip
        return Advance(dt, leak, row, defect, borders)

    def _all(self, part: torch.Tensor) -> torch.Tensor:
        """Numbers of all states, float64 [M], from this rank's."""
        whole = torch.zeros(self.M, dtype=torch.float64, device=part.device)
        whole[self.mine] = part
        return self.world.sum_(whole)

    def _propagate(self, logq: torch.Tensor, t: float, dt: float) -> tuple[torch.Tensor, float, float, np.ndarray]:
        """exp(dt A) q, float64 [M], with the mean rate of leaving the limits over the step, E[a0] at t, and the mean
        rates of leaving through each limit that may grow."""
        found, error = None, None
        if self.world.main:
            try:
                found = self._propagated(logq.exp().cpu().numpy(), t, dt)
            except HpcmeError as problem:
                error = problem
        self.world.raise_together(error)
        target, leak, exits, borders = self.world.share(found)
        return torch.from_numpy(target).to(logq.device), leak, exits, borders

    def _propagated(self, q: np.ndarray, t: float, dt: float) -> tuple[np.ndarray, float, float, np.ndarray]:
        self.propagator.restart(t)
        p = np.append(q / q.sum(), 0.0)
        flux, exits, borders = [], [], []
        for k in range(_PIECES + 1):
            if self.net.time_dependent:
                self.rates = self._rates(t + k * dt / _PIECES)
            a0, leak, through = self.rates
            borders.append(p[:-1] @ through)
            flux.append(float(p[:-1] @ leak))
            exits.append(float(p[:-1] @ a0))
            if k < _PIECES:
                p = self.propagator.advance(p, dt / _PIECES)
        return np.maximum(p[:-1], 0.0) / p[:-1].sum(), float(_BOOLE @ flux), exits[0], _BOOLE @ np.array(borders)

    def _rates(self, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Exit rates of all states, the summed rates of transitions past the limits, float64 [M] each, and the rates of
        leaving through limits that may grow [M, G]."""
        a, leak = outflow(self.net.tables, self.space.states, self.net.s, self.net.limits, t, t)
        return a.sum(axis=1), leak, self.borders.rates(self.space.states, leak, t)


def _divergence(p: torch.Tensor, logq: torch.Tensor) -> float:
    """KL(p || q)."""
    seen = p > 0.0
    return float((p[seen] * (p[seen].log() - logq[seen])).sum())
