"""Scheme `projection`: fit the network to T = exp(dt A) q_t (to Taylor order) by a policy gradient, step after step.

The method of Tang, Weng and Zhang (Nat. Mach. Intell. 5, 376, 2023), with a target that is evaluated once per distinct
state, a sampling law that covers states about to be invaded, and any Taylor order (1 is theirs).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch

from hpcme.dynamics.enumeration import Enumeration
from hpcme.dynamics.losses import LOSSES
from hpcme.dynamics.sampler import FlatNetwork, Shards
from hpcme.dynamics.target import MIN_RATIO, Target
from hpcme.dynamics.timers import Timers
from hpcme.errors import NumericalError
from hpcme.networks.base import VAN, Draw
from hpcme.parallel.world import World

_MAX_SHORTENINGS = 40


@dataclass
class StepResult:
    """What one time step did; all numbers are global (over ranks)."""

    dt: float  # step taken, model time units
    loss: float  # KL(q' || T) estimated in the last epoch
    residual: float  # standard deviation of log q' - log T in the last epoch
    gradient_norm: float
    ess: float  # effective sample size of q' under the sampling law, last epoch
    distinct: float  # distinct states met, summed over ranks
    evaluations: float  # states that the frozen network evaluated, summed over ranks
    epochs: int
    shortened: int  # times the step was shortened to keep the target positive


class Projection:
    """Owns the network, its frozen copy and the optimiser; `step` advances the law from t to t + dt."""

    def __init__(self, network: VAN, enumeration: Enumeration, shards: Shards, world: World, job, timers: Timers) -> None:
        self.world, self.shards, self.enumeration, self.timers = world, shards, enumeration, timers
        self.live = FlatNetwork(network)
        self.frozen = FlatNetwork(copy.deepcopy(network))
        self.epochs, self.order = job["solver.epochs"], job["solver.order"]
        self.rate, self.decay = job["solver.learning_rate"], job["solver.decay"]
        self.loss_name = job["solver.loss"]
        self.optimiser = torch.optim.Adam([self.live.flat], lr=self.rate, betas=(0.9, 0.99), eps=1e-6, foreach=False)
        self.extrapolate = job["solver.extrapolate"]
        self.velocity = torch.zeros_like(self.live.flat.detach())  # d theta / dt over the last step
        self.base: torch.Tensor | None = None

    @property
    def network(self) -> VAN:
        return self.live.network

    # ---- state -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """Everything that determines the future, as arrays for a checkpoint."""
        out: dict[str, object] = {"flat": self.live.flat.detach().cpu().numpy().copy()}
        out["velocity"] = self.velocity.cpu().numpy().copy()
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
        moments = {
            name[5:]: torch.as_tensor(value).to(self.live.flat.device if name != "adam/step" else "cpu").clone()
            for name, value in state.items()
            if name.startswith("adam/")
        }
        if moments:
            self.optimiser.state[self.live.flat] = moments
        self.sync_frozen()

    def sync_frozen(self) -> None:
        """Freeze the present law as q_t, fixed parts of the heads included."""
        with torch.no_grad():
            self.frozen.flat.copy_(self.live.flat)
            for mine, theirs in zip(self.frozen.network.buffers(), self.network.buffers(), strict=True):
                if mine.numel():
                    mine.copy_(theirs)

    # ---- one time step ---------------------------------------------------------------------------------------

    def survey(self, step: int) -> torch.Tensor:
        """Freeze the law and draw this rank's samples of it, int32 [B, S]: they serve the step-size control and
        are the states from which covering samples are pushed."""
        self.sync_frozen()
        with self.timers("sampling"):
            u = self.shards.uniforms("cover", step, 0, self.shards.drawn, self.network.S)
            self.base, _ = self.frozen.network.sample(u)
        return self.base

    @torch.no_grad()
    def _frozen_log_prob(self, n: torch.Tensor) -> torch.Tensor:
        with self.timers("frozen network"):
            return self.frozen.network.log_prob(n)

    def step(self, step: int, t: float, dt: float) -> StepResult:
        """Fit q' to the target of the step t -> t + dt (after `survey`). Raises NumericalError when it cannot."""
        needs_push = self.loss_name != "kl" and self.shards.pushed > 0
        target = Target(self.enumeration, self._frozen_log_prob, t, dt, self.order, needs_push)
        shortened, epoch, used = 0, 0, 0
        begin = self.live.flat.detach().clone()
        with torch.no_grad():
            # The law moves smoothly: starting where the last step's motion leads removes most of the lag that a
            # finite number of epochs leaves behind.
            self.live.flat += (self.extrapolate * dt) * self.velocity
        result = None
        while epoch < self.epochs:
            result = self._epoch(step, used, epoch, target)
            used += 1
            if result is None:  # some target was too small: every rank agreed on a shorter step
                shortened += 1
                if shortened > _MAX_SHORTENINGS:
                    raise NumericalError(
                        f"step {step} at t = {t:g}: the target stays negative even at dt = {target.dt:.3g}. Raise "
                        "solver.order, or lower the limits of species whose large counts have huge propensities."
                    )
                epoch = 0
            else:
                epoch += 1
        self.velocity = (self.live.flat.detach() - begin) / target.dt
        counts = self.world.sum_(
            torch.tensor([len(target), target.evaluations], dtype=torch.float64, device=self.shards.device)
        ).tolist()
        return StepResult(target.dt, *result, *counts, used, shortened)

    def _epoch(self, step: int, stream: int, epoch: int, target: Target) -> tuple[float, float, float, float] | None:
        """One gradient step; None when the time step was shortened instead."""
        draw = self._draw(step, stream, target)
        logq = draw.logq.detach()
        with self.timers("neighbours"):
            index = target.number(draw.n)
            log_ratio = target.log_ratio(index)
        sums = self._sums(draw, logq, target.logq[index] + log_ratio, log_ratio, index, target)
        with self.timers("all-reduce"):
            self.world.sum_(sums)
        drawn, total_weight, weighted, d_sum, d_drawn, d_square, w_square, too_small = sums.tolist()
        if too_small:
            allowed = torch.tensor([target.admissible_step()], dtype=torch.float64, device=self.shards.device)
            target.dt = float(self.world.min_(allowed))
            return None
        coefficient = self._weight * (self._value - weighted / total_weight) / self.shards.samples
        with self.timers("gradient"):
            gradient = self.live.gradient((coefficient * draw.logq).sum())
        with self.timers("all-reduce"):
            self.world.sum_(gradient)
        norm = float(torch.linalg.vector_norm(gradient))
        if not math.isfinite(norm):
            raise NumericalError(
                f"step {step} at t = {target.t:g}, epoch {epoch}: the gradient is not finite; the parameters were "
                "not changed. Lower solver.learning_rate or solver.dt."
            )
        with self.timers("optimiser"):
            self._update(gradient, epoch)
        mean = d_sum / self.shards.samples
        variance = max(0.0, d_square / self.shards.samples - mean * mean)
        return d_drawn / drawn, math.sqrt(variance), norm, total_weight**2 / w_square

    def _draw(self, step: int, stream: int, target: Target) -> Draw:
        """Samples of q' and pushed samples of q_t with log q' (differentiable)."""
        with self.timers("sampling"):
            u = self.shards.uniforms("train", step, stream, self.shards.drawn, self.network.S)
            given = None
            if self.shards.pushed:
                source = self.shards.rotate(self.base, stream)
                v = self.shards.uniforms("cover", step, stream + 1, self.shards.pushed, 1)[:, 0]
                given = self.enumeration.jump(source, v, target.t, target.averaged_to)
            return self.network.draw(u, given)

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
        self._value, w = LOSSES[self.loss_name](logq, log_target, weight, target.logq.max())
        self._weight = many * w
        too_small = (~(log_ratio >= math.log(MIN_RATIO))).sum()
        difference = logq - log_target
        return torch.stack(
            [
                logq.new_tensor(float(drawn)), self._weight.sum(), (self._weight * self._value).sum(),
                (many * difference).sum(), (many_drawn * difference).sum(), (many * difference**2).sum(),
                (many * w * w).sum(), too_small.double(),
            ]
        )  # fmt: skip

    def _update(self, gradient: torch.Tensor, epoch: int) -> None:
        # The rate falls geometrically within a time step: large moves first, then the noise is averaged out.
        rate = self.rate * self.decay ** (epoch / max(1, self.epochs - 1))
        self.optimiser.param_groups[0]["lr"] = rate
        self.live.flat.grad = gradient.to(self.live.flat.dtype)
        self.optimiser.step()
