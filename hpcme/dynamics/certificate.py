"""A certified bound of a run's total variation error, whatever scheme moved its parameters.

The master equation dP/dt = A P contracts the L1 distance. For ANY continuous path q_t of normalised laws, therefore,

    d/dt TV(q_t, P_t) <= 1/2 ||dq/dt - A q||_1 = E_q[(R)_+],   R(n) = O(n).theta' - e(n),
    O = grad_theta log q,   e(n) = (A q)(n)/q(n) = sum_k a_k(n-s_k) q(n-s_k)/q(n) - a0(n).

dq/dt - A q sums to zero, so its positive part is half of the absolute value, also where A leads out of the support of
q: there dq/dt - A q <= 0. And R <= O.theta' + a0, so nothing hides in states that q does not visit: a missed mode shows
as flux that leaves the visited ones. Added up,

    TV(q_T, P_T) <= TV(q_0, P_0) + int_0^T E_q[(R)_+] dt + probability lost past the limits (the caller's `lost`).

The path is laid through the parameters after each step. The time integral is a Gauss-Legendre sum of three points a
step; its error is not bounded: (R)_+ has kinks, and where R changes sign in the middle of a step the sum is up to 14 %
too small. Sampled expectations get a confidence (`Certificate._confidence`). Derived for hpcme.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch

from hpcme.dynamics.enumeration import Enumeration
from hpcme.dynamics.sampler import FlatNetwork, Shards
from hpcme.errors import InternalError
from hpcme.networks.base import VAN
from hpcme.parallel.world import World

_NODES = (0.5 - 0.5 * math.sqrt(0.6), 0.5, 0.5 + 0.5 * math.sqrt(0.6))  # Gauss-Legendre on [0, 1]
_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)
_PROBE = 1e-5  # change of the fastest parameter in the central difference: curvature and rounding each leave 1e-10
DELTA = 1e-3  # probability that a sampled bound fails
_PILOT = 16  # one sample in so many, of a stream of its own, decides which path a step takes
_LARGEST = 1e100  # parameters up to here cannot overflow inside a network
_MASS = 1e-9  # a table of all states holds all of q up to this
_NUMBERS = ("t", "before", "steps", "start", "path", "sampling", "timing", "drawn", "first", "second", "widest")


class _Path(NamedTuple):
    """Parameters between t and t + h: begin + x h slope + x h (x h - h) bend at t + x h, 0 <= x <= 1; float64 [P]."""

    t: float
    h: float
    begin: torch.Tensor
    slope: torch.Tensor
    bend: torch.Tensor | float  # half the second derivative

    def at(self, x: float) -> tuple[torch.Tensor, torch.Tensor]:
        """theta and theta' at t + x h."""
        since, until = x * self.h, (x - 1.0) * self.h
        return self.begin + since * (self.slope + until * self.bend), self.slope + (since + until) * self.bend


class _Surroundings(NamedTuple):
    """What the rates say about states n int32 [B, S] at one time; all states are numbered."""

    number: torch.Tensor  # int64 [B], of n; below `own`
    own: int
    fresh: torch.Tensor  # int32 [F, S], the states own, own + 1, ...: sources that are not among n
    row: torch.Tensor  # int64 [E]: transitions into n[row]
    source: torch.Tensor  # int64 [E], number of the state that it comes from
    rate: torch.Tensor  # float64 [E]
    a0: torch.Tensor  # float64 [B], exit rates


class Certificate:
    """Bound of TV(q_t, P_t), growing step by step; `step` is collective, and its result the same on every rank.

    network: the live network, never changed. Its law is evaluated in float64 on a private copy, for float32 networks
    too; what no parameter says (bases of heads) is taken over at `begin`, or from a restored state.
    states: int32 [M, S], the whole support of q or more: expectations are sums over it, shared among the ranks (memory:
    24 bytes a transition). shards, rows: else, `rows` samples per shard and point in time.
    delta: probability that the sampled bound fails. It needs a run that does not react to its certificate's samples.
    Raises InternalError without states and shards.
    """

    def __init__(
        self, network: VAN, enumeration: Enumeration, world: World, *, shards: Shards | None = None, rows: int = 1024,
        states: torch.Tensor | None = None, delta: float = DELTA,
    ) -> None:  # fmt: skip
        if shards is None and states is None:
            raise InternalError("a certificate needs a table of states, or shards to draw samples")
        self.source, self.live = network, FlatNetwork(copy.deepcopy(network).double())
        self.enumeration, self.world, self.shards, self.rows, self.delta = enumeration, world, shards, rows, delta
        self.states = states
        if states is not None:
            self.states = states[world.part(len(states))].to(self.live.flat.device, torch.int32)
        self.known: _Surroundings | None = None  # of `states`: once, or at the last time asked for
        self._clear()

    def _clear(self) -> None:
        self.t, self.before = math.nan, math.nan  # times of the two newest points of the path, and their parameters
        self.now: torch.Tensor | None = None
        self.previous: torch.Tensor | None = None
        self.steps, self.start, self.path, self.sampling, self.timing = 0, 0.0, 0.0, 0.0, math.nan
        # Of all samples x so far (see _confidence): number, sum of x, of x^2, range of x.
        self.drawn, self.first, self.second, self.widest = 0, 0.0, 0.0, 0.0

    @property
    def summed(self) -> bool:
        """Whether expectations are summed over all states, so that no chance is left."""
        return self.states is not None

    @property
    def parts(self) -> dict[str, float]:
        """What adds up to the bound: "start", "path" (known defects, or the integral), "sampling" (confidence).

        `timing` is the share of time integration in "path": zero where steps are exact in time; NaN where the integral
        sees the motion of the parameters as a whole, whatever made it.
        """
        return {"start": self.start, "path": self.path, "sampling": self.sampling}

    def bound(self, lost: float) -> float:
        """Bound of TV(q_t, P_t) now; lost: probability that left through the limits."""
        return min(1.0, sum(self.parts.values()) + lost)  # 1 also where lost is NaN

    def state(self) -> dict[str, object]:
        """Everything that determines the future: numbers and arrays."""
        out: dict[str, object] = {name: getattr(self, name) for name in _NUMBERS}
        arrays = {"now": self.now, "previous": self.previous}
        arrays |= {f"base/{name}": base for name, base in _bases(self.live.network).items()}
        return out | {name: value.cpu().numpy().copy() for name, value in arrays.items() if value is not None}

    def restore(self, state: dict[str, object]) -> None:
        """Continue from `state`, bitwise."""
        self._clear()
        for name in _NUMBERS:
            setattr(self, name, type(getattr(self, name))(state[name]))
        for name in ("now", "previous"):
            if name in state:
                setattr(self, name, self._own(torch.as_tensor(state[name])))
        for name, base in _bases(self.live.network).items():
            base.copy_(torch.as_tensor(state[f"base/{name}"]))

    def _own(self, parameters: torch.Tensor) -> torch.Tensor:
        """A copy that the caller cannot change any more, float64 [P]."""
        if parameters.shape != self.live.flat.shape:
            raise InternalError(f"{tuple(parameters.shape)} parameters for a network of {self.live.flat.numel()}")
        return parameters.detach().to(self.live.flat.device, torch.float64, copy=True)

    # ---- the path --------------------------------------------------------------------------------------------

    def begin(self, t: float, parameters: torch.Tensor, start: float) -> None:
        """Start at time t with flat parameters [P]; start: bound of TV(q_t, P_t) there."""
        self._clear()
        for name, base in _bases(self.source).items():
            _bases(self.live.network)[name].copy_(base)
        self.t, self.now = float(t), self._own(parameters)
        self.start = float(start) if math.isfinite(start) else 1.0

    @torch.no_grad()
    def step(self, t: float, parameters: torch.Tensor) -> float:
        """Go on to time t and flat parameters [P]; returns what this adds to the bound (estimate and confidence).

        Where anything is not finite it adds all that is missing to 1. Raises InternalError when t does not advance, or
        when the table of states lacks some that q holds.
        """
        if self.now is None or not t > self.t:
            raise InternalError(f"the certificate was led from t = {self.t} to t = {t}")
        flat, bound, h = self._own(parameters), self.path + self.sampling, float(t) - self.t
        if self.start + bound >= 1.0:  # the bound says nothing any more, and need not be worked at
            self.before, self.t, self.previous, self.now = self.t, float(t), self.now, flat
            self.steps += 1
            return 0.0
        slope = (flat - self.now) / h
        paths = [_Path(self.t, h, self.now, slope, 0.0)]
        if self.previous is not None:
            # The parabola through the newest three points follows smooth motion to one order more in h, but exaggerates
            # jitter. Both paths are continuous with the same ends, so every step may take the better one.
            bend = (slope - (self.now - self.previous) / (self.t - self.before)) / (h + self.t - self.before)
            paths.append(_Path(self.t, h, self.now, slope, bend))
        self.before, self.t, self.previous, self.now = self.t, float(t), self.now, flat
        self.steps += 1
        estimate = self._sampled(paths) if self.states is None else self._summed(paths)
        missing = max(0.0, 1.0 - self.start - bound)
        self.path += estimate if math.isfinite(estimate) else missing
        return self.path + self.sampling - bound

    def add(self, t: float, defect: float) -> float:
        """Go on to time t by a step whose distance from the exact evolution, exp(h A) q, is known: `defect`, a total
        variation distance. The bound grows by no more, as the master equation contracts; returns it."""
        missing = max(0.0, 1.0 - self.start - self.path - self.sampling)
        self.t, self.now, self.previous, self.timing = float(t), None, None, 0.0
        self.steps += 1
        defect = float(defect) if math.isfinite(defect) else missing
        self.path += defect
        return defect

    def leap(self, t: float, parameters: torch.Tensor, distance: float) -> None:
        """Go on to time t and flat parameters [P] that were fitted anew to the law there, but for `distance`, a total
        variation distance. Laws come no further apart by events that act on both, nor by the time since."""
        for name, base in _bases(self.source).items():
            _bases(self.live.network)[name].copy_(base)
        self.t, self.now, self.previous = float(t), self._own(parameters), None
        missing = max(0.0, 1.0 - self.start - self.path - self.sampling)
        self.path += float(distance) if math.isfinite(distance) else missing

    def _place(self, theta: torch.Tensor) -> bool:
        """Give the network these parameters, unless it cannot bear them: then False, on every rank."""
        if not bool((theta.abs() <= _LARGEST).all()):
            return False
        self.live.flat.data.copy_(theta)
        return True

    # ---- exact sums ------------------------------------------------------------------------------------------

    def _summed(self, paths: list[_Path]) -> float:
        """The integral over the step along the better path, summed over all states; not finite where it fails."""
        sums = torch.zeros(len(paths), 2, dtype=torch.float64, device=self.live.flat.device)  # integral, mean mass
        for x, weight in zip(_NODES, _WEIGHTS, strict=True):
            if self.known is None or self.enumeration.net.time_dependent:
                self.known = self._surroundings(self.states, paths[0].t + x * paths[0].h)
            for i, path in enumerate(paths):
                theta, velocity = path.at(x)
                if not self._place(theta):
                    sums[i] = torch.nan
                    continue
                logq = self.live.network.log_prob(self.states)
                q = logq.exp()
                defect = q * self._residual(self.states, logq, self.known, theta, velocity)[0]
                # Nothing where q = 0, whose residual may be 0/0; a q that is NaN stays one.
                sums[i, 0] += path.h * weight * torch.where(q == 0.0, torch.zeros_like(q), defect).sum()
                sums[i, 1] += weight * q.sum()
        # Decided on the quadrature that also makes the bound: exact sums leave nothing to chance.
        integral, mass = min(self.world.sum_(sums).tolist(), key=lambda found: _or_inf(found[0]))
        if math.isfinite(integral) and abs(mass - 1.0) > _MASS:
            raise InternalError(f"the certificate's table of states holds {mass:.12g} of the law instead of all of it")
        return integral

    # ---- samples ---------------------------------------------------------------------------------------------

    def _sampled(self, paths: list[_Path]) -> float:
        """Estimate of the integral over the step, its samples added to those behind `sampling`; NaN where it fails."""
        path = paths[0]
        if len(paths) > 1:
            # Fewer samples of another stream decide, on the same quadrature, which path is taken: the smaller of two
            # estimates would be biased if it were chosen by the samples that make it.
            pilot = torch.stack([self._moments(path, max(1, self.rows // _PILOT), len(_NODES))[0] for path in paths])
            found = self.world.sum_(pilot).tolist()
            path = paths[min(range(len(paths)), key=lambda i: _or_inf(found[i]))]
        moments = self._moments(path, self.rows, 0)
        first, second = self.world.sum_(moments[:2].clone()).tolist()
        widest = -float(self.world.min_(-moments[2:]))
        if not math.isfinite(first + second + widest):
            return math.nan
        samples = self.rows * self.shards.total
        self.drawn += len(_NODES) * samples
        self.first, self.second, self.widest = self.first + first, self.second + second, max(self.widest, widest)
        self.sampling = max(self.sampling, self._confidence(samples))
        return first / samples

    def _moments(self, path: _Path, rows: int, stream: int) -> torch.Tensor:
        """Of this rank's samples x = h w_j (R)_+ at all nodes j: sums of x and x^2, and range; float64 [3]."""
        out = torch.zeros(3, dtype=torch.float64, device=self.live.flat.device)
        for j, x in enumerate(_NODES):
            theta, velocity = path.at(x)
            if not self._place(theta):
                return torch.full_like(out, torch.nan)
            network = self.live.network
            draw = network.draw(self.shards.uniforms("certificate", self.steps, stream + j, rows, network.S))
            around = self._surroundings(draw.n, path.t + x * path.h)
            positive, most = self._residual(draw.n, draw.logq, around, theta, velocity)
            many = torch.bincount(draw.row, minlength=draw.n.shape[0]).double()
            scaled = path.h * _WEIGHTS[j] * positive
            out[:2] += torch.stack([(many * scaled).sum(), (many * scaled**2).sum()])
            out[2] = torch.maximum(out[2], path.h * _WEIGHTS[j] * most.max())
        return out

    def _confidence(self, samples: int) -> float:
        """What must be added to the integral up to here: too little with probability below delta only.

        samples: number at one node. Empirical Bernstein (Maurer and Pontil 2009, theorem 11): the mean of n independent
        variables in [0, c], alike or not, exceeds their sample mean by sqrt(2 V log(2/p)/n) + 7 c log(2/p)/(3 (n-1))
        with probability p at most; V: sample variance. The variables are the x = h w_j (R)_+ of all nodes and steps so
        far, so that the range is paid for once, not in every step. p = delta 6/(pi k)^2 at step k: bounds of all times
        hold together. c: the largest h w_j (O.theta' + a0) of all samples, an estimate where a0 has no bound.
        """
        n, log = self.drawn, math.log((math.pi * self.steps) ** 2 / (3.0 * self.delta))
        variance = max(0.0, self.second - self.first**2 / n) / (n - 1)
        return n / samples * (math.sqrt(2.0 * variance * log / n) + 7.0 * self.widest * log / (3.0 * (n - 1)))

    # ---- the residual ----------------------------------------------------------------------------------------

    def _surroundings(self, n: torch.Tensor, t: float) -> _Surroundings:
        index = self.enumeration.new_index()
        number, own = index.add(n)
        row, _, y, rate = self.enumeration.inflow(n, t, t)
        source, fresh = index.add(y)
        a, _ = self.enumeration.outflow(n, t, t)
        return _Surroundings(number, own.shape[0], fresh, row, source, rate, a.sum(dim=1))

    def _residual(
        self, n: torch.Tensor, logq: torch.Tensor, around: _Surroundings, theta: torch.Tensor, velocity: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(R)_+ and its bound (O.theta' + a0)_+ at states n with their log q; float64 [B] each.

        The network must hold theta, and is left at parameters next to it.
        """
        known = logq.new_empty(around.own)
        known[around.number] = logq
        known = torch.cat([known, self.live.network.log_prob(around.fresh)])
        # A source outside the support has logq = -inf and gives nothing.
        inward = around.rate * torch.exp(known[around.source] - logq[around.row])
        inward = torch.zeros_like(logq).index_add_(0, around.row, inward)
        most = around.a0 + self._motion(n, theta, velocity)
        return (most - inward).clamp_min(0.0), most.clamp_min(0.0)

    def _motion(self, n: torch.Tensor, theta: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
        """O.theta' = d log q(n) / dt along the path, float64 [B], by a central difference."""
        fastest = float(velocity.abs().max())
        if fastest == 0.0:
            return torch.zeros(n.shape[0], dtype=torch.float64, device=n.device)
        step = _PROBE / fastest
        self.live.flat.data.copy_(theta + step * velocity)
        ahead = self.live.network.log_prob(n)
        self.live.flat.data.copy_(theta - step * velocity)
        return (ahead - self.live.network.log_prob(n)) / (2.0 * step)


def _bases(network: VAN) -> dict[str, torch.Tensor]:
    """Fixed parts of the logits."""
    return {name: value for name, value in network.named_buffers() if name.endswith(".base")}


def _or_inf(value: float) -> float:
    """A number that compares, and loses where it is not finite."""
    return value if math.isfinite(value) else math.inf
