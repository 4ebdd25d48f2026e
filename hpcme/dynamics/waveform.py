"""Exponential collocation on covering samples: the integrator for many species, where no set of states is closed.

At every state of the cloud the master equation is dT/dt = -a T + g(t), with a the state's exit rate and g the flow in
from its sources, so that (Duhamel)

    T(t + c h) = exp(-a c h) q + integral over s from 0 to c h of exp(-a (c h - s)) g(t + s).

g follows from the laws q at t, q_m at t + h/2 and q' at t + h: its logarithm is a parabola through the three values,
which suits counts that come up like a power of time as well as those that decay. The integral takes g on a finer grid,
with exact weights for the exponential (Lobatto IIIA of order four with its stiff part exact: Hochbruck and Ostermann
2010). T is positive however long the step. Where rates depend on time, a is the largest exit rate at the three nodes,
and what is left of the exits joins g.

The laws q_m and q' are those with sum w k (T - q) O = 0 over the heads' scores O: T depends on them through g, and all
are found together. At the solution the residual T - q vanishes state by state where the network can hold T, so samples
add no noise there. Where it cannot, let r = g - a q - dq/dt be what the master equation is missed by: T - q is the
integral of exp(-a (h - s)) r. It counts the last 1/a of a step, states that are left quickly count less, and mean
counts would drift. k = a h / (1 - exp(-a h)) undoes that: h r remains, as in the time-dependent variational principle.

One update solves a linear system per conditional, in order, each seeing what the others explain (block Gauss-Seidel):
its cost grows linearly with the number of species. It treats T as given, though, so slow motions would take as many
updates as there are transitions in a step; Anderson's acceleration (1965; Walker and Ni 2011) finds them in a few.
Waveform relaxation: Lelarasmee, Ruehli, Sangiovanni-Vincentelli 1982.
"""

from __future__ import annotations

import math

import torch

from hpcme.dynamics.flow import Flow, bounded_mean
from hpcme.dynamics.integrators import Integrator, Outcome

_SWEEPS = 2  # over the conditionals, per update
_MOST = 50  # updates
_AIM = 25  # updates of a step of good length: they grow with its length once it is many transitions long
_RAISES = 2  # of the ridge, where so many updates do not find the laws
_RAISE = 10.0
_ENOUGH = 0.005  # they end when an update is below this share of the tolerance, in the Fisher norm
_FRESH = 2  # the first so many form their matrices, the others use the last ones
_MEMORY = 8  # updates that the acceleration remembers
_PIECES = 8  # of the finer grid, an even number
_OVERSHOOT = 0.5  # log g may pass its three values by this much; else it is two straight lines
_NOTHING = 1e-300
_ALIKE = 1e-10  # updates that differ by less than this share of their square are taken for the same


class Waveform(Integrator):
    """See the module."""

    damping = 1e-4, 1e-6  # conditionals are solved one by one, without a long memory
    each = True
    order = 3  # of the error estimate in the length of a step

    def _step(self, flow: Flow, t: float, h: float, predict: torch.Tensor | None) -> Outcome | None:
        parameters, settings, D = flow.parameters, self.settings, flow.cloud.D
        begin, w = parameters.get(), flow.cloud.weight
        nodes = []
        for time in (t, t + 0.5 * h, t + h):  # later ones may know more sources than earlier ones
            flow.cloud.at(time)
            nodes.append((flow.cloud.inflow, flow.cloud.a0))
        a = torch.stack([exits for _, exits in nodes]).amax(dim=0)
        duhamel = _Duhamel(a, h)

        def inward(k: int, density: torch.Tensor) -> torch.Tensor:
            inflow, exits = nodes[k]
            return inflow @ density[: inflow.shape[1]] + (a - exits) * density[:D]

        density = flow.density()
        self.evaluations += 1
        q0, g0 = density[:D], inward(0, density)

        def found(ridge: float) -> tuple[torch.Tensor, list[torch.Tensor], int] | None:
            """The laws at t + h/2 and t + h, float64 [2, D], the flows in, and updates taken; None if not found."""
            x, q, g = torch.stack([begin, begin]), torch.stack([q0, q0]), [inward(1, density), inward(2, density)]
            memory = _Anderson(flow.world, x.numel(), _MEMORY)
            for update in range(_MOST):
                target = duhamel.targets(q0, g0, *g)
                if update < _FRESH:
                    L = bounded_mean(q[1], target[1]).clamp_min(_NOTHING)
                    even = w * L * duhamel.even
                    if not self._form(flow, even, ridge):
                        return None
                move, change = self._solve(flow, even, (target - q) / L, x - begin, ridge)
                root = (w * L).sqrt()
                step = memory.extended(torch.cat([move.reshape(-1), (root * change).reshape(-1)]))
                change = step[x.numel() + D :] / root.clamp_min(_NOTHING)
                step = step * self._bridle(flow, change, q[1], target[1])
                memory.take(step)
                size = math.sqrt(memory.square(step[x.numel() :]))
                if not math.isfinite(size):
                    return None
                x = x + step[: x.numel()].view_as(x)
                for k in range(2):
                    parameters.set(x[k])
                    new = flow.density()
                    q[k], g[k] = new[:D], inward(k + 1, new)
                self.evaluations += 2
                if size < _ENOUGH * settings.tolerance:
                    return q, g, update + 1
            return None

        # Where conditionals are hardly determined, their states' flow into others may feed back. A ridge ends that.
        laws = None
        for k in range(_RAISES + 1):
            laws = laws or found(settings.ridge * _RAISE**k)
        if laws is None:
            return None
        q, g, updates = laws
        target, simple = duhamel.targets(q0, g0, *g)[1], duhamel.simple(q0, g0, g[1])

        def distance(p: torch.Tensor, r: torch.Tensor) -> float:
            """In the Fisher norm: its square is twice a KL divergence, for laws that are close."""
            return math.sqrt(flow.total((p - r) ** 2 / (0.5 * (p + r)).clamp_min(_NOTHING)))

        error, left, moved = distance(target, simple), distance(target, q[1]), distance(target, q0)
        if not (math.isfinite(error) and math.isfinite(left)):
            return None
        return Outcome(error, self.evaluations, self.matrices, left / moved if moved > 0.0 else 0.0, _AIM / updates)

    def _form(self, flow: Flow, weight: torch.Tensor, ridge: float) -> bool:
        """Factors of the damped matrices O_i^T weight O_i of all conditionals, weight float64 [D], and the scores.

        False where there are none, as with numbers that are not finite.
        """
        S, tree, states = flow.parameters.network.S, flow.cloud.tree, slice(0, flow.cloud.D)
        self._scores = [tree.score_factors(i, states) for i in range(S)]
        parts = [scores.gram(weight).reshape(-1) for scores in self._scores]
        self._factors: list[torch.Tensor] = []
        for M in flow.world.sum_(torch.cat(parts)).split([len(part) for part in parts]):
            M = M.view(math.isqrt(len(M)), -1)
            damped = M + torch.diag(self.settings.relative * M.diagonal() + ridge)
            factor, problem = torch.linalg.cholesky_ex(damped)
            if int(problem) or not bool(torch.isfinite(factor).all()):
                return False
            self._factors.append(factor)
        self.matrices += 1
        return True

    def _solve(self, flow: Flow, weight: torch.Tensor, rho: torch.Tensor, moved: torch.Tensor, ridge: float):
        """Damped least squares of rho float64 [2, D] on the scores, weights [D], conditional by conditional.

        moved float64 [2, P]: how far the parameters are from where the step began. Returns the updates [2, P] and how
        they change log q at the states, [2, D]. The scores are those of `_form`: their means may have moved since.
        """
        parameters, world = flow.parameters, flow.world
        update, wanted = torch.zeros_like(moved), rho
        for _ in range(_SWEEPS):
            for i, (scores, factor) in enumerate(zip(self._scores, self._factors, strict=True)):
                own = parameters.slice(i)
                r = world.sum_(scores.adjoint(weight * rho)) - ridge * (moved[:, own] + update[:, own])
                d = torch.cholesky_solve(r.T, factor).T.contiguous()
                update[:, own] += d
                rho = rho - scores.apply(d)
        return update, wanted - rho


class _Duhamel:
    """T at t + h/2 and t + h from q at t and the flow in at the three nodes, at every state."""

    def __init__(self, a: torch.Tensor, h: float) -> None:
        """a float64 [D]: exit rates."""
        phi = _phi(a * h)
        self.even = 1.0 / phi[0]  # k of the module, float64 [D]
        self.whole = torch.exp(-a * h), h * (phi[0] - phi[1]), h * phi[1]
        # On each of the pieces a parabola again, now through values that differ little.
        k = h / _PIECES
        one, two, three = _phi(a * k)
        three = 2.0 * three
        self.decay = torch.exp(-a * k)
        self.weights = k * (one - 3.0 * two + 2.0 * three), 4.0 * k * (two - three), k * (2.0 * three - two)
        c = torch.linspace(0.0, 1.0, 2 * _PIECES + 1, dtype=a.dtype, device=a.device)[:, None]
        self.parabola = (1.0 - c) * (1.0 - 2.0 * c), 4.0 * c * (1.0 - c), c * (2.0 * c - 1.0)
        self.lines = (1.0 - 2.0 * c).clamp_min(0.0), 1.0 - (1.0 - 2.0 * c).abs(), (2.0 * c - 1.0).clamp_min(0.0)

    def simple(self, q: torch.Tensor, g0: torch.Tensor, g1: torch.Tensor) -> torch.Tensor:
        """T at t + h with g a straight line between its values at t and t + h."""
        decay, first, second = self.whole
        return decay * q + first * g0 + second * g1

    def targets(self, q: torch.Tensor, g0: torch.Tensor, gm: torch.Tensor, g1: torch.Tensor) -> torch.Tensor:
        """T at t + h/2 and t + h, float64 [2, D]."""
        logs = [g.clamp_min(_NOTHING).log() for g in (g0, gm, g1)]
        path = sum(basis * log[None, :] for basis, log in zip(self.parabola, logs, strict=True))
        highest = torch.stack(logs).amax(dim=0)
        over = path.amax(dim=0) > highest + _OVERSHOOT
        straight = sum(basis * log[None, :] for basis, log in zip(self.lines, logs, strict=True))
        g = torch.where(over, straight, path).exp()
        out, (W0, Wm, W1) = [], self.weights
        for piece in range(_PIECES):
            q = self.decay * q + W0 * g[2 * piece] + Wm * g[2 * piece + 1] + W1 * g[2 * piece + 2]
            if piece in (_PIECES // 2 - 1, _PIECES - 1):
                out.append(q)
        return torch.stack(out).clamp_min(_NOTHING)


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
        # Copies, so that memory is aligned alike every time: else products of the same numbers may differ in a bit.
        tail = F[:, self.head :].contiguous()
        sums = self.world.sum_(torch.cat([tail @ tail.T, (tail @ f[self.head :].contiguous())[:, None]], dim=1))
        G, b = sums[:, :-1].contiguous(), sums[:, -1:].contiguous()
        factor, problem = torch.linalg.cholesky_ex(G + torch.diag(_ALIKE * G.diagonal() + _NOTHING))
        if int(problem):
            return f
        gamma = torch.cholesky_solve(b, factor)[:, 0]
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
