"""Scheme `projection`: fit the network to T = exp(dt A) q_t (to Taylor order) by a policy gradient, step after step.

The method of Tang, Weng and Zhang (Nat. Mach. Intell. 5, 376, 2023), with a target that is evaluated once per distinct
state, a sampling law that covers states about to be invaded, any Taylor order (1 is theirs), and beside their Adam the
natural gradient (hpcme.dynamics.natural).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from hpcme.dynamics.enumeration import Enumeration
from hpcme.dynamics.losses import LOSSES
from hpcme.dynamics.natural import DAMPING, LevenbergMarquardt, Scores
from hpcme.dynamics.sampler import FlatNetwork, Shards
from hpcme.dynamics.scheme import Advance
from hpcme.dynamics.steplength import StepLength
from hpcme.dynamics.target import Target
from hpcme.dynamics.timers import Timers
from hpcme.errors import Fault, NumericalError
from hpcme.networks.base import VAN, Draw
from hpcme.parallel.world import World

#: Exponent of the conditionals from which tail samples are drawn. They meet counts of probability 1e-6 about as often
#: as samples of q meet 1e-3; without them tails that no sample has visited drift for whole runs.
TEMPER = 0.5
#: Largest residual of an accepted step. A good fit leaves a few hundredths; at 1 the law has come apart.
MAX_RESIDUAL = 1.0
_MAX_REJECTIONS = 6
_ADVICE = (
    "Results up to here are kept. Try again in another --out with more sampling.samples or solver.epochs, or with "
    "smaller solver.jumps or solver.learning_rate."
)


class Fit(NamedTuple):
    """The last epoch of a fit; all numbers are global (over ranks)."""

    loss: float  # KL(q' || T), estimated
    residual: float  # standard deviation of log q' - log T under the sampling law
    gradient_norm: float
    ess: float  # effective sample size of q' under the sampling law


@dataclass
class StepResult:
    """What one time step did; all numbers are global (over ranks)."""

    dt: float  # step taken, model time units
    loss: float
    residual: float
    gradient_norm: float
    ess: float
    distinct: float  # distinct states met, summed over ranks
    evaluations: float  # states that the frozen network evaluated, summed over ranks
    epochs: int
    shortened: int  # times the step was shortened to keep the target positive and stable
    rejected: int  # times the fit failed and was tried again


class Projection:
    """Owns the network, its frozen copy and the optimiser; `step` advances the law from t to t + dt."""

    def __init__(
        self, network: VAN, enumeration: Enumeration, shards: Shards, world: World, job, timers: Timers
    ) -> None:
        self.world, self.shards, self.enumeration, self.timers = world, shards, enumeration, timers
        self.live = FlatNetwork(network)
        self.frozen = FlatNetwork(copy.deepcopy(network))
        self.epochs, self.order = job["solver.epochs"], job["solver.order"]
        self.rate, self.decay = job["solver.learning_rate"], job["solver.decay"]
        self.loss_name = job["solver.loss"]
        self.optimiser = torch.optim.Adam([self.live.flat], lr=self.rate, betas=(0.9, 0.99), eps=1e-6, foreach=False)
        self.natural: LevenbergMarquardt | None = None
        if job["solver.optimiser"] == "natural":
            damping = job["solver.damping"]
            damping = DAMPING if damping == "auto" else damping
            self.natural = LevenbergMarquardt(Scores(network), world, damping)
        self.rows: torch.Tensor | None = None  # the samples that a fit by natural gradient keeps
        self.extrapolate = job["solver.extrapolate"]
        self.velocity = torch.zeros_like(self.live.flat.detach())  # d theta / dt over the last step
        self.length = StepLength(job, enumeration, world)
        self.base: torch.Tensor | None = None  # samples of q_t, and of its flattened form
        self.wide: torch.Tensor | None = None

    @property
    def network(self) -> VAN:
        return self.live.network

    # ---- state -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """Everything that determines the future, as arrays for a checkpoint."""
        out: dict[str, object] = {"flat": self.live.flat.detach().cpu().numpy().copy()}
        out["velocity"] = self.velocity.cpu().numpy().copy()
        out["longest"] = float(self.length.longest)
        for name, value in self.optimiser.state.get(self.live.flat, {}).items():
            out[f"adam/{name}"] = value.detach().cpu().numpy().copy()
        for name, value in self.network.named_buffers():
            if name.endswith(".base"):
                out[f"base/{name}"] = value.cpu().numpy().copy()
        return out

    def restore(self, state: dict[str, object]) -> None:
        """Undo `state`."""
        buffers = dict(self.network.named_buffers())
        with torch.no_grad():
            self.live.flat.copy_(torch.as_tensor(state["flat"]))
            self.velocity = torch.as_tensor(state["velocity"]).to(self.live.flat.device).clone()
            for name, value in state.items():
                if name.startswith("base/"):
                    buffers[name[5:]].copy_(torch.as_tensor(value))
        self.length.longest = float(state["longest"])
        moments = {
            name[5:]: torch.as_tensor(value).to(self.live.flat.device if name != "adam/step" else "cpu").clone()
            for name, value in state.items()
            if name.startswith("adam/")
        }
        self.optimiser.state.clear()
        if moments:
            self.optimiser.state[self.live.flat] = moments
        self.sync_frozen()

    def forget(self) -> None:
        """The law has changed all at once: what past steps taught does not hold."""
        self.velocity.zero_()
        self.optimiser.state.clear()
        self.length.longest = math.inf
        self.sync_frozen()

    def sync_frozen(self) -> None:
        """Freeze the present law as q_t, fixed parts of the heads included."""
        with torch.no_grad():
            self.frozen.flat.copy_(self.live.flat)
            for mine, theirs in zip(self.frozen.network.heads, self.network.heads, strict=True):
                mine.base.copy_(theirs.base)

    # ---- one time step ---------------------------------------------------------------------------------------

    def flat(self) -> torch.Tensor:
        """All parameters of the network as one vector, float64 [P]."""
        return self.live.flat.detach().double()

    def advance(self, step: int, t: float, rest: float) -> Advance:
        """One step from t, at most to t + rest. Raises NumericalError when no step works; the law is then as before."""
        n = self.survey(step)
        wanted, exit_rate, leak, borders = self.length.choose(n, t, rest)
        result = self.step(step, t, wanted)
        self.length.taken(wanted, result.dt)
        row = {
            "loss": result.loss, "residual": result.residual, "ess": result.ess, "a0": exit_rate,
            "distinct": int(result.distinct), "evaluations": int(result.evaluations), "epochs": result.epochs,
            "shortened": result.shortened, "rejected": result.rejected, "gradient_norm": result.gradient_norm,
        }  # fmt: skip
        return Advance(result.dt, leak, row, borders=borders)

    def survey(self, step: int) -> torch.Tensor:
        """Freeze the law and draw this rank's samples of it, int32 [B, S]: they serve the step-size control and
        are the states from which covering samples are pushed."""
        self.sync_frozen()
        with self.timers("sampling"):
            u = self.shards.uniforms("cover", step, 0, self.shards.drawn, self.network.S)
            self.base, logq = self.frozen.network.sample(u)
            self.scale = -self.world.min_(-logq.max().reshape(1))[0]  # the same on every rank
            if self.shards.tempered:
                u = self.shards.uniforms("tail", step, 0, self.shards.drawn, self.network.S)
                self.wide, _ = self.frozen.network.sample(u, TEMPER)
        return self.base

    @torch.no_grad()
    def _frozen_log_prob(self, n: torch.Tensor) -> torch.Tensor:
        with self.timers("frozen network"):
            return self.frozen.network.log_prob(n)

    def step(self, step: int, t: float, dt: float) -> StepResult:
        """Fit q' to the target of the step t -> t + dt (after `survey`).

        A step whose fit fails (the laws are further apart at the end than a step can explain) is undone and tried
        again at half the length, without extrapolation. Raises NumericalError when that does not help either.
        """
        needs_push = self.loss_name != "kl" and self.shards.pushed > 0
        target = Target(self.enumeration, self._frozen_log_prob, t, dt, self.order, needs_push)
        begin = self.live.flat.detach().clone()
        epochs = shortened = 0
        for rejected in range(_MAX_REJECTIONS + 1):
            try:
                result, used, shorter = self._fit(step, epochs, target, begin)
            except NumericalError:
                self._restore_law(begin)
                raise
            epochs, shortened = epochs + used, shortened + shorter
            if result.residual <= MAX_RESIDUAL:
                self.velocity = (self.live.flat.detach() - begin) / target.dt
                met = torch.tensor([len(target), target.evaluations], dtype=torch.float64, device=self.shards.device)
                distinct, evaluations = self.world.sum_(met).tolist()
                return StepResult(target.dt, *result, distinct, evaluations, epochs, shortened, rejected)
            self.optimiser.state.clear()
            self.velocity = torch.zeros_like(begin)
            target.shorten(0.5 * target.dt)
        self._restore_law(begin)
        raise NumericalError(
            f"step {step} at t = {t:g}: the network does not follow the law any more (the residual, the standard "
            f"deviation of log q' - log T, stays above {MAX_RESIDUAL:g} down to dt = {target.dt:.3g}). {_ADVICE}"
        )

    def _restore_law(self, begin: torch.Tensor) -> None:
        """Undo a fit, so that what is stored is the law at the start of the step."""
        with torch.no_grad():
            self.live.flat.copy_(begin)

    def _predict(self, begin: torch.Tensor, dt: float) -> None:
        """Start a fit where the last step's motion leads: the law moves smoothly, and this removes most of the lag
        that a finite number of epochs leaves behind."""
        with torch.no_grad():
            torch.add(begin, self.velocity, alpha=self.extrapolate * dt, out=self.live.flat.data)

    def _fit(self, step: int, stream: int, target: Target, begin: torch.Tensor) -> tuple[Fit, int, int]:
        """Epochs of one try; returns the last epoch's figures, the epochs used and how often dt was shortened."""
        epoch = used = shortened = 0
        result = None
        self._predict(begin, target.dt)
        while epoch < self.epochs:
            result = self._epoch(step, stream + used, epoch, target)
            used += 1
            if result is not None:
                epoch += 1
                if self.natural is not None and self.natural.settled:
                    break
                continue
            # Some state does not admit this step: every rank agreed on a shorter one, and the fit begins anew.
            epoch, shortened = 0, shortened + 1
            if target.dt <= 0.0:
                raise NumericalError(
                    f"step {step} at t = {target.t:g}: no step, however short, keeps the target positive and finite. "
                    f"{_ADVICE}"
                )
            self._predict(begin, target.dt)
        return result, used, shortened

    def _epoch(self, step: int, stream: int, epoch: int, target: Target) -> Fit | None:
        """One gradient step; None when the time step was shortened instead."""
        draw = self._draw(step, stream, epoch, target)
        logq = draw.logq.detach()
        if bool(torch.isneginf(logq).any()):
            raise NumericalError(_missed(self.enumeration.net, draw.n[torch.isneginf(logq)][0].tolist(), target))
        with self.timers("neighbours"):
            index = target.number(draw.n)
            log_ratio = target.log_ratio(index)
        sums = self._sums(draw, logq, target.logq[index] + log_ratio, log_ratio, index, target)
        with self.timers("all-reduce"):
            self.world.sum_(sums)
        drawn, total_weight, weighted, d_sum, d_drawn, d_square, w_square, too_small = sums.tolist()
        if too_small > 0.0:
            allowed = torch.tensor([target.admissible_step()], dtype=torch.float64, device=self.shards.device)
            target.shorten(float(self.world.min_(allowed)))
            return None
        coefficient = self._weight * (self._value - weighted / total_weight) / self.shards.samples
        with self.timers("gradient"):
            gradient = self.live.gradient((coefficient * draw.logq).sum())
        with self.timers("all-reduce"):
            self.world.sum_(gradient)
        norm = float(torch.linalg.vector_norm(gradient))
        if not math.isfinite(norm + d_square + d_sum):
            raise Fault(
                f"step {step} at t = {target.t:g}, epoch {epoch}: the gradient or the loss is not finite. If this "
                "happens again and again, lower solver.learning_rate or solver.dt."
            )
        mean = d_sum / self.shards.samples
        variance = max(0.0, d_square / self.shards.samples - mean * mean)
        with self.timers("optimiser"):
            if self.natural is None:
                self._update(gradient, epoch)
            else:
                variance = self._step_naturally(draw, logq - target.log_target(index), variance, epoch)
        return Fit(d_drawn / drawn, math.sqrt(variance), norm, total_weight**2 / w_square)

    def _draw(self, step: int, stream: int, epoch: int, target: Target) -> Draw:
        """Samples of q', pushed samples of q_t and tail samples, with log q' (differentiable).

        A fit by natural gradient keeps the samples of its first epoch.
        """
        with self.timers("sampling"):
            if self.natural is not None and epoch:
                return self.network.draw(self.rows.new_zeros(0, self.network.S, dtype=torch.float64), self.rows)
            u = self.shards.uniforms("train", step, stream, self.shards.drawn, self.network.S)
            given = None
            if self.shards.pushed:
                source = self.shards.rotate(self.base, stream, self.shards.pushed)
                v = self.shards.uniforms("cover", step, stream + 1, self.shards.pushed, 1)[:, 0]
                given = self.enumeration.jump(source, v, target.t, target.averaged_to)
            if self.shards.tempered:
                wide = self.shards.rotate(self.wide, stream, self.shards.tempered)
                given = wide if given is None else torch.cat([given, wide])
            draw = self.network.draw(u, given)
            if self.natural is not None:
                self.rows = draw.n[draw.row]
                self.natural.begin()
            return draw

    def _sums(self, draw: Draw, logq, log_target, log_ratio, index, target: Target) -> torch.Tensor:
        """Local sums of one epoch over all rows, float64 [8]; states count with their multiplicities.

        Also keeps the loss's value and the weight (times multiplicity) of every distinct state.
        """
        drawn = self.shards.drawn * len(self.shards.owned)
        many = torch.bincount(draw.row, minlength=logq.shape[0]).double()
        many_drawn = torch.bincount(draw.row[:drawn], minlength=logq.shape[0]).double()
        weight = torch.ones_like(logq)
        if self.loss_name != "kl" and self.shards.pushed:
            f = self.shards.pushed / self.shards.rows
            weight = 1.0 / ((1.0 - f) + f * torch.exp(target.log_push(index) - logq))
        self._value, w = LOSSES[self.loss_name](logq, log_target, weight, self.scale)
        self._weight = many * w
        too_small = (~torch.isfinite(log_ratio)).sum()
        difference = logq - log_target
        return torch.stack(
            [
                logq.new_tensor(float(drawn)), self._weight.sum(), (self._weight * self._value).sum(),
                (many * difference).sum(), (many_drawn * difference).sum(), (many * difference**2).sum(),
                (many * w * w).sum(), too_small.double(),
            ]
        )  # fmt: skip

    def _step_naturally(self, draw: Draw, difference: torch.Tensor, variance: float, epoch: int) -> float:
        """One step by natural gradient, none after the last look; returns the variance of the parameters kept."""
        flat = self.live.flat.data
        if epoch + 1 == self.epochs:
            return self.natural.settle(flat, variance)
        many = torch.bincount(draw.row, minlength=draw.n.shape[0]).double()
        self.natural.update(flat, draw.n, many, difference, variance)
        return variance

    def _update(self, gradient: torch.Tensor, epoch: int) -> None:
        # The rate falls geometrically within a time step: large moves first, then the noise is averaged out.
        rate = self.rate * self.decay ** (epoch / max(1, self.epochs - 1))
        self.optimiser.param_groups[0]["lr"] = rate
        self.live.flat.grad = gradient.to(self.live.flat.dtype)
        self.optimiser.step()


def _missed(net, state: list[int], target: Target) -> str:
    """Message for a state that a transition reaches although the support excludes it."""
    where = ", ".join(f"{name} = {count}" for name, count in zip(net.species, state, strict=True))
    return (
        f"between t = {target.t:g} and {target.averaged_to:g} a transition leads to {where}, which the search for "
        "reachable states had missed: a rate that is positive for a very short time only. Set "
        "network.support_states = 1, so that limits and conservation laws alone decide which states exist."
    )
