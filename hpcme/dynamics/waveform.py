"""Exponential collocation on covering samples: the integrator for many species, where no set of states is closed.

At every state of the cloud the master equation is dT/dt = -a T + g(t), with a the state's exit rate and g the flow in
from its sources. With g the parabola in time through its values under the laws q at t, q_m at t + h/2 and q' at t + h,
the equation is solved exactly: with x = a h,

    T(t + c h) = exp(-c x) q + h (W_0 g(t) + W_m g(t + h/2) + W_1 g(t + h)),
    W_0 = I_0 - 3 I_1 + 2 I_2,  W_m = 4 I_1 - 4 I_2,  W_1 = 2 I_2 - I_1,   I_j = j! c^(j+1) phi_(j+1)(c x),
    phi_1(x) = (1 - exp(-x)) / x,   phi_(k+1)(x) = (1/k! - phi_k(x)) / x

(Lobatto IIIA of order four with its stiff part exact: Hochbruck and Ostermann 2010, sections 2.1 and 2.3). Where rates
depend on time, a is their largest value at the three nodes, and what is left of the exits joins g.

The laws q_m and q' are those with sum w (T - q) O = 0 over the heads' scores O: T depends on them through g, and all
are found together. At the solution the residual T - q vanishes state by state where the network can hold T, so samples
add no noise there. One update solves a linear system per conditional, in order, each seeing what the others explain
(block Gauss-Seidel): its cost grows linearly with the number of species. It treats T as given, though, so slow motions
would take as many updates as there are transitions in a step; Anderson's acceleration (1965; Walker and Ni 2011) finds
them in a few. Waveform relaxation: Lelarasmee, Ruehli, Sangiovanni-Vincentelli 1982.
"""

from __future__ import annotations

import math

import torch

from hpcme.dynamics.flow import Flow, bounded_mean
from hpcme.dynamics.integrators import Integrator, Outcome

_SWEEPS = 2  # over the conditionals, per update
_MOST = 40  # updates
_ENOUGH = 0.005  # they end when an update is below this share of the tolerance, in the Fisher norm
_FRESH = 2  # the first so many form their matrices, the others use the last ones
_MEMORY = 8  # updates that the acceleration remembers
_SHORT = 0.2  # of the value that follows from g without a parabola, T is at least this share


class Waveform(Integrator):
    """See the module."""

    damping = 1e-4, 1e-6  # conditionals are solved one by one, without a long memory
    each = True
    order = 3  # of the error estimate in the length of a step

    def _step(self, flow: Flow, t: float, h: float, predict: torch.Tensor | None) -> Outcome | None:
        parameters, settings, D = flow.parameters, self.settings, flow.cloud.D
        begin, w = parameters.get(), flow.cloud.weight
        nodes = self._nodes(flow, [t, t + 0.5 * h, t + h])
        a = torch.stack([exits for _, exits in nodes]).amax(dim=0)
        halfway, whole = _Weights(a * h, 0.5, h), _Weights(a * h, 1.0, h)

        def inward(k: int, density: torch.Tensor) -> torch.Tensor:
            inflow, exits = nodes[k]
            return inflow @ density + (a - exits) * density[:D]

        density = flow.density()
        self.evaluations += 1
        q0, g0 = density[:D], inward(0, density)
        x, q, g = torch.stack([begin, begin]), torch.stack([q0, q0]), [inward(1, density), inward(2, density)]
        memory = _Anderson(flow.world, x.numel(), _MEMORY)
        for update in range(_MOST):
            target = torch.stack([halfway.target(q0, g0, *g), whole.target(q0, g0, *g)])
            if update < _FRESH:
                L = bounded_mean(q[1], target[1]).clamp_min(1e-300)
                if not self._form(flow, w * L):
                    return None
            moves, changes = zip(
                *(self._solve(flow, w * L, (target[k] - q[k]) / L, x[k] - begin) for k in range(2)), strict=True
            )
            root = (w * L).sqrt()
            found = memory.extended(torch.cat([*moves, *(root * change for change in changes)]))
            change = found[x.numel() + D :] / root.clamp_min(1e-300)
            found = found * self._bridle(flow, change, q[1], target[1])
            memory.take(found)
            size = math.sqrt(memory.square(found[x.numel() :]))
            if not math.isfinite(size):
                return None
            x = x + found[: x.numel()].view_as(x)
            for k in range(2):
                parameters.set(x[k])
                density = flow.density()
                q[k], g[k] = density[:D], inward(k + 1, density)
            self.evaluations += 2
            if size < _ENOUGH * settings.tolerance:
                break
        target, simple = whole.target(q0, g0, *g), whole.simple(q0, g0, g[1])
        self.updates = update + 1

        def distance(p: torch.Tensor, r: torch.Tensor) -> float:
            """In the Fisher norm: its square is twice a KL divergence, for laws that are close."""
            return math.sqrt(flow.total((p - r) ** 2 / (0.5 * (p + r)).clamp_min(1e-300)))

        error, left, moved = distance(target, simple), distance(target, q[1]), distance(target, q0)
        if not (math.isfinite(error) and math.isfinite(left)):
            return None
        return Outcome(error, self.evaluations, self.matrices, left / moved if moved > 0.0 else 0.0)

    @staticmethod
    def _nodes(flow: Flow, times: list[float]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Inflow matrix [D, E] and exit rates [D] at each of the times."""
        cloud = flow.cloud
        if not cloud.enumeration.net.time_dependent:
            cloud.at(times[0])
            return [(cloud.inflow, cloud.a0)] * len(times)
        for time in times:
            cloud.at(time)  # brings all sources in first: the matrices then have the same columns
        out = []
        for time in times:
            cloud.at(time)
            out.append((cloud.inflow, cloud.a0))
        return out

    def _form(self, flow: Flow, weight: torch.Tensor) -> bool:
        """Factors of the damped matrices O_i^T weight O_i of all conditionals, weight float64 [D], and the scores.

        False where there are none, as with numbers that are not finite.
        """
        S, settings = flow.parameters.network.S, self.settings
        self._scores = [flow.cloud.tree.scores(i, slice(0, flow.cloud.D)) for i in range(S)]
        parts = [(O.T @ (O * weight[:, None])).reshape(-1) for O in self._scores]
        self._factors: list[torch.Tensor] = []
        for M in flow.world.sum_(torch.cat(parts)).split([len(part) for part in parts]):
            M = M.view(math.isqrt(len(M)), -1)
            damped = M + torch.diag(settings.relative * M.diagonal() + settings.ridge)
            factor, problem = torch.linalg.cholesky_ex(damped)
            if int(problem) or not bool(torch.isfinite(factor).all()):
                return False
            self._factors.append(factor)
        self.matrices += 1
        return True

    def _solve(self, flow: Flow, weight: torch.Tensor, rho: torch.Tensor, moved: torch.Tensor) -> tuple:
        """Damped least squares of rho float64 [D] on the scores with weights [D], conditional by conditional.

        moved float64 [P]: how far the parameters are from where the step began. Returns the update [P] and how it
        changes log q at the states, [D]. The scores are those of `_form`: their means may have moved a little since.
        """
        parameters, ridge, world = flow.parameters, self.settings.ridge, flow.world
        update, wanted = torch.zeros_like(moved), rho
        for _ in range(_SWEEPS):
            for i, (O, factor) in enumerate(zip(self._scores, self._factors, strict=True)):
                own = parameters.slice(i)
                r = world.sum_(O.T @ (weight * rho)) - ridge * (moved[own] + update[own])
                d = torch.cholesky_solve(r[:, None], factor)[:, 0]
                update[own] += d
                rho = rho - O @ d
        return update, wanted - rho


class _Weights:
    """How T(t + c h) follows from q and g, at every state; x = a h float64 [D]."""

    def __init__(self, x: torch.Tensor, c: float, h: float) -> None:
        phi = _phi(c * x)
        I = [math.factorial(j) * c ** (j + 1) * phi[j] for j in range(3)]
        self.decay = torch.exp(-c * x)
        self.parabola = h * (I[0] - 3.0 * I[1] + 2.0 * I[2]), h * 4.0 * (I[1] - I[2]), h * (2.0 * I[2] - I[1])
        self.line = h * (I[0] - I[1] / c), h * I[1] / c
        self.end = c == 1.0

    def simple(self, q: torch.Tensor, g0: torch.Tensor, g1: torch.Tensor) -> torch.Tensor:
        """T with g linear between its values at t and t + c h: always positive."""
        return self.decay * q + self.line[0] * g0 + self.line[1] * g1

    def target(self, q: torch.Tensor, g0: torch.Tensor, gm: torch.Tensor, g1: torch.Tensor) -> torch.Tensor:
        """T with g a parabola; where that is hardly positive, as for counts that appear within the step, what a line
        gives counts."""
        W0, Wm, W1 = self.parabola
        T = self.decay * q + W0 * g0 + Wm * gm + W1 * g1
        return torch.maximum(T, _SHORT * self.simple(q, g0, g1 if self.end else gm))


class _Anderson:
    """Anderson's acceleration of a fixed-point iteration x <- x + f(x), over all ranks.

    Vectors hold `head` numbers that are the same on all ranks (parameters) and, behind them, this rank's part of those
    whose sum of squares is made small (changes of log-probabilities, weighted).
    """

    def __init__(self, world, head: int, size: int) -> None:
        self.world, self.head, self.size = world, head, size
        self.taken: list[torch.Tensor] = []
        self.differences: list[torch.Tensor] = []
        self.last: torch.Tensor | None = None

    def square(self, v: torch.Tensor) -> float:
        """Sum of squares of a vector without its head, over all ranks."""
        return float(self.world.sum_(v.square().sum().reshape(1)))

    def extended(self, f: torch.Tensor) -> torch.Tensor:
        """What to add to x instead of f."""
        if self.last is not None:
            self.differences.append(f - self.last)
            self.differences, self.taken = self.differences[-self.size :], self.taken[-self.size :]
        self.last = f
        if not self.differences:
            return f
        F = torch.stack(self.differences)
        tail = F[:, self.head :]
        sums = self.world.sum_(torch.cat([tail @ tail.T, (tail @ f[self.head :])[:, None]], dim=1))
        G, b = sums[:, :-1], sums[:, -1]
        G = G + 1e-10 * torch.diag(G.diagonal()) + 1e-300 * torch.eye(len(G), dtype=G.dtype, device=G.device)
        gamma = torch.linalg.lstsq(G, b[:, None]).solution[:, 0]
        return f - gamma @ (F + torch.stack(self.taken))

    def take(self, step: torch.Tensor) -> None:
        """What was added to x in the end."""
        self.taken.append(step)


def _phi(x: torch.Tensor) -> list[torch.Tensor]:
    """phi_1, phi_2 and phi_3 of exp(-x), by their series where differences cancel: phi_k(x) = sum (-x)^j / (j + k)!."""
    small = x < 0.5
    y, z = torch.where(small, x, torch.zeros_like(x)), torch.where(small, torch.ones_like(x), x)
    out, value = [], torch.exp(-z)
    for k in (1, 2, 3):
        value = (1.0 / math.factorial(k - 1) - value) / z
        series = torch.zeros_like(y)
        for j in reversed(range(14)):
            series = series * -y + 1.0 / math.factorial(j + k)
        out.append(torch.where(small, series, value))
    return out
