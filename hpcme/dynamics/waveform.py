"""Exponential collocation on covering samples: the integrator for many species, where no set of states is closed.

At every state of the cloud the master equation is dT/dt = -a T + g(t), with a the state's exit rate and g the flow in
from its sources. Duhamel's formula gives T at t + h/2 and t + h from the law q at t and the flow at t, t + h/2 and
t + h (`hpcme.dynamics.duhamel`): Lobatto IIIA of order four with its stiff part exact (Hochbruck and Ostermann 2010). T
is positive however long the step. Where rates depend on time, a is the largest exit rate at the three nodes, and what
is left of the exits joins g.

The laws q_m at t + h/2 and q' at t + h are those with sum w k (T - q) O = 0 over the heads' scores O: T depends on them
through g, and all are found together. At the solution the residual T - q vanishes state by state where the network can
hold T, so samples add no noise there. Where it cannot, let r = g - a q - dq/dt be what the master equation is missed
by: T - q is the integral of exp(-a (h - s)) r. It counts the last 1/a of a step, states that are left quickly count
less, and mean counts would drift. k = a h / (1 - exp(-a h)) undoes that: h r remains, as in the time-dependent
variational principle.

The equations are solved by Newton's method for the logarithms, one conditional after the other
(`hpcme.dynamics.blocknewton`), so the cost grows linearly with the number of species. Every update knows how the flows
follow the parameters at the present laws (`hpcme.dynamics.transport`): without that, updates would be as many as there
are transitions in a step. Matrices are dear, and are formed once a step as long as they serve. What Newton's method
leaves out makes it converge linearly; Anderson's acceleration helps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from hpcme.dynamics.anderson import Anderson
from hpcme.dynamics.blocknewton import BlockNewton
from hpcme.dynamics.duhamel import NOTHING, Duhamel
from hpcme.dynamics.flow import Flow, bounded_mean
from hpcme.dynamics.integrators import Integrator, Outcome
from hpcme.dynamics.transport import Ways

_MOST = 24  # updates
_ENOUGH = 0.05  # they end when one is below this share of the tolerance, in the Fisher norm,
_TRUST = 10.0  # and was below so many times that before acceleration, which may cancel what it extrapolates
_FALLS, _STALE, _GROWTH = 0.5, 5, 10.0  # see _Course
_FARTHEST = 0.4  # a law that moves further in a step, in the Fisher norm, leaves the states of the cloud behind
_AIM = 16  # updates of a step of good length
_RAISES, _RAISE = 1, 10.0  # of the ridge, where a search for the laws is lost;
_LOWER, _EASY = 1.2, 6  # after a step of so few updates it falls by this factor, down to where it was
_MEMORY = 8  # updates that the acceleration remembers


class _Laws(NamedTuple):
    """Both laws that are looked for: heads x float64 [2, P], their probabilities q at the states [2, D], the flows in g
    [2, D], and the probabilities of all states of the tree under the second, [E]."""

    x: torch.Tensor
    q: torch.Tensor
    g: torch.Tensor
    density: torch.Tensor


class _Course:
    """Whether the updates of a search get smaller. Where the laws are hardly determined they do not, and waiting is
    dear: a search is lost when an update has grown by _GROWTH, or _STALE of them have not fallen by _FALLS."""

    least, stale = math.inf, 0

    def lost(self, size: float, cut: bool) -> bool:
        """size: of the next update, in the Fisher norm. cut: the last one was cut short: this need not be smaller."""
        falls, grows = size < _FALLS * self.least, size > _GROWTH * self.least
        self.least = size if falls else self.least
        self.stale = 0 if falls or cut else self.stale + 1
        return not math.isfinite(size) or self.stale == _STALE or (grows and not cut)


class Waveform(Integrator):
    """See the module."""

    damping = 1e-4, 1e-6  # conditionals are solved one by one, without a long memory
    each = True
    order = 5  # of the error estimate in the length of a step
    raised = 1.0  # the ridge, as a multiple of what is asked for

    def state(self) -> dict[str, torch.Tensor]:
        """What later steps depend on: how far the ridge is raised."""
        return {"raised": torch.tensor(self.raised, dtype=torch.float64)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Undo `state`."""
        self.raised = float(state.get("raised", 1.0))

    def _step(self, flow: Flow, t: float, h: float, predict: torch.Tensor | None) -> Outcome | None:
        parameters, D = flow.parameters, flow.cloud.D
        begin, nodes = parameters.get(), []
        for time in (t, t + 0.5 * h, t + h):  # later ones may know more sources than earlier ones
            flow.cloud.at(time)
            nodes.append((flow.cloud.inflow, flow.cloud.a0))
        a = torch.stack([exits for _, exits in nodes]).amax(dim=0)
        duhamel = Duhamel(a, h)

        def inward(k: int, density: torch.Tensor) -> torch.Tensor:
            inflow, exits = nodes[k]
            return inflow @ density[: inflow.shape[1]] + (a - exits) * density[:D]

        def laws(x: torch.Tensor) -> _Laws:
            q, g = [], []
            for k in range(2):
                parameters.set(x[k])
                density = flow.density()
                q.append(density[:D])
                g.append(inward(k + 1, density))
            self.evaluations += 2
            return _Laws(x, torch.stack(q), torch.stack(g), density)

        def targets(found: _Laws) -> torch.Tensor:
            return duhamel.targets(q0, g0, *found.g)

        def distance(p: torch.Tensor, r: torch.Tensor) -> float:
            """In the Fisher norm: its square is twice a KL divergence, for laws that are close."""
            return math.sqrt(flow.total((p - r) ** 2 / (0.5 * (p + r)).clamp_min(NOTHING)))

        density = flow.density()
        self.evaluations += 1
        q0, g0 = density[:D], inward(0, density)
        first = _Laws(
            torch.stack([begin, begin]), torch.stack([q0, q0]), torch.stack([inward(k, density) for k in (1, 2)]),
            density,
        )  # fmt: skip
        if predict is not None:  # the motion of the last step goes on, where that is the better guess
            guess = laws(torch.stack([begin + 0.5 * h * predict, begin + h * predict]))
            better = distance(targets(guess)[1], guess.q[1]) < distance(targets(first)[1], q0)
            first = guess if better else laws(first.x)

        ways = [Ways(flow.cloud, i) for i in range(parameters.network.S)]
        # Where conditionals are hardly determined, their states' flow into others may feed back. A ridge ends that.
        for k in range(_RAISES + 1):
            if k:
                first = laws(first.x)  # scores are those of the laws evaluated last, which came to nothing
            raised = self.raised * _RAISE**k
            found = self._found(flow, duhamel, q0, g0, first, begin, laws, ways, raised * self.settings.ridge)
            if found is not None:
                break
        else:
            return None
        found, updates = found
        self.raised = max(1.0, raised / _LOWER) if updates <= _EASY else raised
        target = targets(found)[1]
        simple = distance(target, duhamel.simple(q0, g0, found.g[1]))  # the error of a straight line for g, order h^3
        left, moved = distance(target, found.q[1]), distance(target, q0)
        if not (math.isfinite(simple) and math.isfinite(left)):
            return None
        # Errors of higher orders fall like a geometric series: moved, simple, and this one, of order h^5.
        error = min(simple, 2.0 * simple**2 / moved) if moved > 0.0 else simple
        grow = min(_AIM / updates, _FARTHEST / moved if moved > 0.0 else math.inf)
        return Outcome(error, self.evaluations, self.matrices, left / moved if moved > 0.0 else 0.0, grow)

    def _found(
        self, flow: Flow, duhamel: Duhamel, q0: torch.Tensor, g0: torch.Tensor, first: _Laws, begin: torch.Tensor,
        laws, ways: list[Ways], ridge: float,
    ) -> tuple[_Laws, int] | None:  # fmt: skip
        """The laws at t + h/2 and t + h, searched from `first`, and the updates taken; None if they are not found.

        first: the laws evaluated last. q0, g0 float64 [D]: law and flow at t; begin float64 [P]: the heads there; laws:
        evaluates heads [2, P].
        """
        cloud, tolerance, now = flow.cloud, self.settings.tolerance, first
        kept, safe, course = None, 1.0, _Course()
        for update in range(_MOST):
            target = duhamel.targets(q0, g0, *now.g)
            L = bounded_mean(now.q[1], target[1]).clamp_min(NOTHING)
            even = cloud.weight * L * duhamel.even
            share = cloud.rate * now.density[cloud.source] / now.g[1].clamp_min(NOTHING)[cloud.row]
            follow = duhamel.follow(q0, g0, *now.g)
            fresh = kept is None
            newton = BlockNewton(flow, ways, even, follow, share, self.settings.relative, ridge, kept)
            self.matrices += fresh
            if not newton.matrices.fine:
                return None
            move, change = newton.solve(even, (target - now.q) / L, now.x - begin, 0.5 * _ENOUGH * tolerance)
            if fresh or safe < 1.0:
                memory = Anderson(flow.world, move.numel(), _MEMORY)  # updates begin anew
            root = (cloud.weight * L).sqrt()
            step = torch.cat([move.reshape(-1), (root * change).reshape(-1)])
            plain = math.sqrt(memory.square(step[move.numel() :]))
            if course.lost(plain, safe < 1.0):
                return None
            step = memory.extended(step)
            move, change = step[: move.numel()].view_as(move), step[move.numel() :].view_as(change)
            safe = self._bridle(flow, change[1] / root.clamp_min(NOTHING), now.q[1], target[1])
            memory.take(safe * step)
            size = math.sqrt(memory.square(change.reshape(-1)))
            if not math.isfinite(size):
                return None
            now = laws(now.x + safe * move)
            if newton.solved and max(size, plain / _TRUST) < _ENOUGH * tolerance:
                return now, update + 1
            kept = newton.matrices if newton.solved else None
            del newton  # with its scores, before new ones are looked up
        return None
