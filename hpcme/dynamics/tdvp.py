"""Scheme `tdvp`: the law follows the master equation in the tangent space of the network's heads, with adaptive steps.

One step: gather a cloud of states (all that matter, or covering samples), take one step of the integrator on it, accept
or shorten by the local error in the Fisher norm, and look at the divergence of the laws before and after.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from hpcme.dynamics.borders import border_rates
from hpcme.dynamics.covering import MANY, NEGLIGIBLE, NEGLIGIBLE_OF_MANY, Cloud, Coverage, Sampler
from hpcme.dynamics.enumeration import Enumeration
from hpcme.dynamics.flow import Flow
from hpcme.dynamics.integrators import Heun, Implicit, Integrator, Rkc2, Ros2, Settings
from hpcme.dynamics.scheme import Advance, clock, flat_parameters, network_state, restore_network
from hpcme.dynamics.tangent import HeadParameters, StateTree
from hpcme.dynamics.waveform import Waveform
from hpcme.errors import NumericalError
from hpcme.exact.borders import Borders
from hpcme.networks.base import VAN
from hpcme.parallel.world import World

_GROW, _SHRINK, _SAFETY = 2.0, 0.2, 0.9
_ACCEPT = 2.0  # a step is accepted up to this multiple of the tolerance
_SMALLEST = 1e-12  # smallest step, as a share of the end time
_MAX_REJECTIONS = 40
_ADVICE = (
    "Results up to here are kept. Try again in another --out with a larger network.width, another network.order, more "
    'sampling.samples where sums are sampled, or scheme "projection".'
)


INTEGRATORS: dict[str, type[Integrator]] = {
    "implicit": Implicit, "waveform": Waveform, "ros2": Ros2, "rkc2": Rkc2, "heun": Heun,
}  # fmt: skip
_LEAP = 1.0  # largest symmetric KL divergence between the laws before and after a step
TEMPER = 0.5  # exponent of the flattened conditionals: they meet states of probability 1e-6 as often as q meets 1e-3
TEMPER_EACH = 0.3  # the same where one conditional at a time is flattened: counts of probability 1e-4 as often as 0.06


def settings_of(job, integrator: type[Integrator]) -> Settings:
    """Tolerance and damping of a job."""
    relative, ridge = integrator.damping
    if job["solver.damping"] != "auto":
        relative = job["solver.damping"]
    if job["solver.ridge"] != "auto":
        ridge = job["solver.ridge"]
    return Settings(job["solver.tolerance"], relative, ridge)


class Tdvp:
    """Owns the network and the step size; `advance` takes one step."""

    def __init__(
        self, network: VAN, enumeration: Enumeration, world: World, job, states: torch.Tensor | None
    ) -> None:
        """states: all reachable states, int32 [M, S], for exact sums; None for sampled ones."""
        self.network, self.enumeration, self.world = network, enumeration, world
        self.borders = Borders.of(job)
        self.parameters = HeadParameters(network)
        self.coupled = self.parameters.size <= job["solver.coupled"]
        name = job["solver.integrator"]
        if name == "auto":
            name = "implicit" if self.coupled else "heun"
        kind = INTEGRATORS[name]
        self.settings = settings_of(job, kind)
        self.integrator = kind(self.settings)
        self.end = float(job.report_times[-1])
        self.longest = math.inf if job["solver.dt"] == "auto" else job["solver.dt"]
        self.h = 0.0  # next step, 0: not chosen yet
        self.slope: torch.Tensor | None = None  # d theta / dt over the last step
        self.states = states
        coverage = Coverage(
            job["sampling.samples"], job["sampling.tail"], job["sampling.cover"],
            TEMPER_EACH if kind.each else TEMPER, job["run.seed"], each=kind.each,
        )  # fmt: skip
        self.sampler = Sampler(self.parameters, enumeration, coverage)
        self.every: StateTree | None = None

    # ---- state -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """Everything that determines the future, as arrays for a checkpoint."""
        out: dict[str, object] = {**network_state(self.network), "h": float(self.h)}
        out["points"] = np.array([self.sampler.points["train"], self.sampler.points["tail"]])
        for name, value in self.integrator.state().items():
            out[f"integrator/{name}"] = value.cpu().numpy().copy()
        if self.slope is not None:
            out["slope"] = self.slope.cpu().numpy().copy()
        return out

    def restore(self, state: dict[str, object]) -> None:
        """Undo `state`."""
        restore_network(self.network, state)
        self.h = float(state["h"])
        self.sampler.points["train"], self.sampler.points["tail"] = (float(v) for v in np.asarray(state["points"]))
        matrices = {name[11:]: torch.as_tensor(v) for name, v in state.items() if name.startswith("integrator/")}
        self.integrator.restore({name: value.to(self.network.device).clone() for name, value in matrices.items()})
        slope = state.get("slope")
        self.slope = None if slope is None else torch.as_tensor(slope).to(self.network.device).clone()

    def flat(self) -> torch.Tensor:
        """All parameters of the network as one vector, float64 [P]."""
        return flat_parameters(self.network)

    def forget(self) -> None:
        """The law has changed all at once: what past steps taught does not hold."""
        self.h, self.slope = 0.0, None
        self.integrator.restore({})

    # ---- one step --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def advance(self, step: int, t: float, rest: float) -> Advance:
        """One step from t, at most to t + rest. Raises NumericalError when no step works; the law is then as before."""
        begin = self.parameters.get()
        h = min(self.h or self._first_step(t, rest), self.longest)
        cloud, leak, exits, borders = self._cloud(step, t, h)
        flow = Flow(cloud, self.parameters, self.world, self.coupled)
        before = cloud.tree.log_prob()[: cloud.D]
        evaluations = matrices = rejected = 0
        power = 1.0 / self.integrator.order
        while True:
            pieces = max(1, math.ceil(rest / h - 1e-9))
            dt = rest / pieces
            outcome = self.integrator.step(flow, t, dt, self.slope)
            evaluations += self.integrator.evaluations
            matrices += self.integrator.matrices
            if outcome is not None and not self._divergence(flow, before) <= _LEAP:
                outcome = None  # the law has come apart, whatever the error estimate says
            if outcome is not None and outcome.error <= _ACCEPT * self.settings.tolerance:
                break
            self.parameters.set(begin)
            self.slope = None
            rejected += 1
            shrink = 0.3 if outcome is None else _SAFETY * (self.settings.tolerance / outcome.error) ** power
            h = dt * min(0.7, max(_SHRINK, shrink))
            if h < _SMALLEST * self.end or rejected > _MAX_REJECTIONS:
                raise NumericalError(
                    f"step {step} at t = {t:g}: the network does not follow the law any more: no step, down to "
                    f"{h:.3g}, keeps the local error below the tolerance {self.settings.tolerance:g}. {_ADVICE}"
                )
        after = self.parameters.get()
        self.slope = (after - begin) / dt
        grow = min(_GROW, outcome.grow, _SAFETY * (self.settings.tolerance / max(outcome.error, 1e-12)) ** power)
        self.h = max(dt * max(_SHRINK, grow), h if pieces == 1 and dt < h and not rejected else 0.0)
        size = self.world.sum_(begin.new_tensor([float(cloud.D), float(cloud.states.shape[0])]))
        row = {
            "error": outcome.error, "fit": outcome.fit, "stages": evaluations, "iterations": matrices,
            "rejected": rejected, "distinct": int(size[0]), "evaluations": int(size[1]) * evaluations, "a0": exits,
            "ess": self._effective(cloud),
        }  # fmt: skip
        return Advance(dt, leak, row, borders=borders)

    def _cloud(self, step: int, t: float, h: float) -> tuple[Cloud, float, float, np.ndarray]:
        """This rank's part of the states of one step, with E[rate of leaving the limits], E[a0] and E[rate of leaving
        through each limit that may grow]."""
        if self.states is None:
            n, info = self.sampler.draw(step, t)
            mine = self.world.part(n.shape[0])
            cloud = Cloud(self.parameters, self.enumeration, n[mine], t, mine.start)
            cloud.weigh({name: value[mine] for name, value in info.items()}, self.sampler)
            if self.integrator.each:
                cloud.tree.narrow()
        else:
            n = self._matter(t, h)
            mine = self.world.part(n.shape[0])
            cloud = Cloud(self.parameters, self.enumeration, n[mine], t, mine.start)
        q = cloud.tree.log_prob().exp()[: cloud.D] * cloud.weight
        a, leak = self.enumeration.outflow(cloud.n, t, t)
        sums = torch.stack([q @ leak, q @ a.sum(dim=1), q.sum()])
        sums = self.world.sum_(torch.cat([sums, border_rates(self.borders, cloud.n, leak, q, t)]))
        sums = sums.cpu().numpy() / float(sums[2])
        return cloud, float(sums[0]), float(sums[1]), sums[3:]

    @staticmethod
    def _divergence(flow: Flow, before: torch.Tensor) -> float:
        """KL(q', q) + KL(q, q') = sum (q' - q) log(q'/q) of the present law q' and the law before the step."""
        after = flow.cloud.tree.log_prob()[: flow.cloud.D]
        known = torch.isfinite(before) & ~torch.isneginf(after)
        change = torch.where(known, after - before, torch.zeros_like(before))
        return flow.total((after.exp() - before.exp()) * change)

    def _matter(self, t: float, h: float) -> torch.Tensor:
        """Reachable states but those that have, all together and within h, a negligible probability: int32 [D, S]."""
        if self.every is None:
            self.every = StateTree(self.parameters, self.states)
            self.links = None
        if self.links is None or self.enumeration.net.time_dependent:
            row, _, y, rate = self.enumeration.inflow(self.states, t, t)
            index = self.enumeration.new_index()
            index.add(self.states)
            source = index.add(y)[0]
            known = source < self.states.shape[0]  # others cannot be reached: their probability is zero
            self.links = row[known], source[known], rate[known]
            self.exits = self.enumeration.outflow(self.states, t, t)[0].sum(dim=1)
        q = self.every.log_prob().exp()
        row, source, rate = self.links
        inflow = torch.zeros_like(q).index_add_(0, row, rate * q[source])
        mass = q + h * (inflow - self.exits * q).clamp_min(0.0)
        order = torch.argsort(mass)
        below = mass[order].cumsum(0)
        rank = torch.arange(len(order), device=mass.device)
        out = (below < NEGLIGIBLE) | ((below < NEGLIGIBLE_OF_MANY) & (rank < len(order) - MANY))
        keep = torch.ones_like(out)
        keep[order] = ~out
        return self.states[keep]

    def _first_step(self, t: float, rest: float) -> float:
        """A cautious first step: a tenth of the time that has passed since the start, or since the last events."""
        since = clock(self.enumeration.net, t)
        return min(rest, 0.1 * since) if since > 0.0 else 1e-3 * rest

    def _effective(self, cloud: Cloud) -> float:
        """Effective sample size (sum w q)^2 / sum (w q)^2 (1 - probability of being drawn); the number of states
        where nothing was left to chance."""
        mass = cloud.weight * cloud.tree.log_prob().exp()[: cloud.D]
        sums = self.world.sum_(torch.stack([mass.sum(), (mass**2 * cloud.sampled).sum(), mass.new_tensor(cloud.D)]))
        return float(sums[0] ** 2 / sums[1]) if float(sums[1]) > 0.0 else float(sums[2])
