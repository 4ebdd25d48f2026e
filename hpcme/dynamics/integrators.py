"""Time integrators of the projected master equation, all of order two, on one cloud of states per step.

implicit  SDIRK2 (Alexander 1977, gamma = 1 - 1/sqrt(2), L-stable) written for densities: each stage asks for heads with
          O^T w (q' - gamma h A q' - b) = 0 and is solved by Newton's method with the logarithmic-mean matrix. Steps are
          limited by accuracy only, and states that are invaded within a step cost no more than others.
ros2      ROS2 (Verwer, Spee, Blom, Hundsdorfer 1999): one linear solve a stage with S - gamma h K, order two for any K.
rkc2      Runge-Kutta-Chebyshev of second order (Sommeijer, Shampine, Verwer 1998) for theta' = S^-1 F: explicit, stages
          by the spectral radius of S^-1 K.
heun      the explicit trapezoidal rule for theta' = S^-1 F.

Every integrator takes (flow, t, h) with the heads at theta(t) and leaves them at theta(t + h); it returns an estimate
of its local error in the Fisher norm (its square is twice a KL divergence), or None where the step failed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hpcme.dynamics.flow import Blocks, Flow

GAMMA = 1.0 - 1.0 / math.sqrt(2.0)
_NEWTON = 0.1  # Newton's method stops when its update is below this share of the tolerance
_MAX_NEWTON = 14
_MOST_KEPT = 2_000_000  # entries of a matrix that is kept from step to step
_MOST_MATRICES = 3  # formed per stage
_LEAP = 0.3  # largest first update from an extrapolated start, in the Fisher norm
_LONGEST = 2.0  # longest Newton update, in the Fisher norm
_RENEW = 0.6  # matrices are formed anew where an update is more than this share of the one before
_MAX_STAGES = 200


@dataclass
class Outcome:
    """What one step did: local error, evaluations of the right-hand side, solves, the relative residual of the velocity
    in the tangent space at the start (0: the network can follow exactly), and how much longer the next step may be."""

    error: float
    evaluations: int
    matrices: int
    fit: float
    grow: float = math.inf


@dataclass(frozen=True)
class Settings:
    tolerance: float
    relative: float  # damping, as a share of the diagonal of S
    ridge: float  # and absolute: directions that carry less probability than this hardly move


class Integrator:
    """Shared parts; `predict` is the last step's d theta / dt, a start for Newton's method.

    damping: relative to the diagonal of the Fisher matrix, and absolute, where a job leaves them open. each: its
    covering samples flatten one conditional at a time.
    """

    #: With an absolute part of 1e-6 and less, directions that hardly any probability determines are followed too: steps
    #: collapse, and rounding grows until runs on different numbers of ranks differ.
    damping = 1e-4, 1e-5
    each = False
    order = 2  # of the error estimate in the length of a step

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.evaluations = self.matrices = 0

    def state(self) -> dict[str, torch.Tensor]:
        """What later steps depend on, for a checkpoint."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Undo `state`."""

    def step(self, flow: Flow, t: float, h: float, predict: torch.Tensor | None) -> Outcome | None:
        self.evaluations = self.matrices = 0
        return self._step(flow, t, h, predict)

    def _velocity(self, flow: Flow, t: float) -> tuple[torch.Tensor, Blocks, torch.Tensor]:
        """theta' = S^-1 F at the present heads, the factorised S, and q at the tree's states."""
        flow.cloud.at(t)
        q = flow.density()
        self.evaluations += 1
        S, _ = flow.matrices(q[: flow.cloud.D], q)
        fisher = Blocks(S, [], 0.0, self.settings.relative, self.settings.ridge)
        return fisher.solve(flow.project(flow.cloud.balance(q))), fisher, q

    @staticmethod
    def _leave(flow: Flow, q: torch.Tensor) -> torch.Tensor:
        """What makes K the derivative of S v (= F at v = S^-1 F) and not of F alone: dS/dtheta v = O^T w (A q) O."""
        qD = q[: flow.cloud.D]
        return qD * flow.cloud.a0 + flow.cloud.balance(q)

    def _fit(self, flow: Flow, q: torch.Tensor, v: torch.Tensor) -> float:
        """Relative residual of the velocity: sqrt(E (O v - e)^2 / E e^2), 0 where the network can follow exactly."""
        D = flow.cloud.D
        Aq, qD = flow.cloud.balance(q), q[:D].clamp_min(1e-290)
        e = Aq / qD
        left = flow.total(qD * (flow.cloud.tree.apply(v)[:D] - e) ** 2)
        whole = flow.total(qD * e**2)
        return math.sqrt(left / whole) if whole > 0.0 and math.isfinite(left) else 0.0

    def _bridle(self, flow: Flow, change: torch.Tensor, q: torch.Tensor, target: torch.Tensor) -> float:
        """Share of an update that is safe; `change` float64 [D] is what all of it does to log q. Log-probabilities move
        along it, so states that the linear solve sends up by much could take all probability. None may take more than
        twice the larger of what it has and should have, but for a small total."""
        shares = 0.5 ** torch.arange(8, dtype=torch.float64, device=q.device)
        new = q[:, None] * torch.exp((change[:, None] * shares).clamp_max(300.0))
        over = (new - 2.0 * torch.maximum(q, target)[:, None]).clamp_min(0.0)
        excess = flow.world.sum_((flow.cloud.weight[:, None] * over).sum(dim=0))
        allowed = (excess <= 0.2 * self.settings.tolerance**2).nonzero()
        return float(shares[allowed[0, 0]]) if allowed.numel() else float(shares[-1])


class Implicit(Integrator):
    """SDIRK2 for the densities. S and K are kept from step to step as long as Newton's method converges with them."""

    kept: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None

    def state(self) -> dict[str, torch.Tensor]:
        """What later steps depend on: the kept matrices."""
        if self.kept is None or sum(block.numel() for block in self.kept[0]) > _MOST_KEPT:
            return {}  # large ones are not used again
        named = {f"S{i}": block for i, block in enumerate(self.kept[0])}
        return named | {f"K{i}": block for i, block in enumerate(self.kept[1])}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Undo `state`."""
        count = len(state) // 2
        self.kept = None
        if count:
            self.kept = [state[f"S{i}"] for i in range(count)], [state[f"K{i}"] for i in range(count)]

    def _step(self, flow, t, h, predict):
        parameters, D = flow.parameters, flow.cloud.D
        begin = parameters.get()
        self.blocks: Blocks | None = None
        if sum(block.numel() for block in (self.kept or [[]])[0]) > _MOST_KEPT:
            self.kept = None  # checkpoints hold them
        if self.kept is not None:
            self.blocks = Blocks(*self.kept, GAMMA * h, self.settings.relative, self.settings.ridge)
        flow.cloud.at(t)
        q = flow.density()[:D]
        if predict is not None:
            parameters.set(begin + GAMMA * h * predict)
        first = self._stage(flow, t + GAMMA * h, GAMMA * h, q, begin, begin)
        if first is None:
            return None
        middle = parameters.get()
        target = q + (1.0 - GAMMA) * h * first
        parameters.set(middle + (1.0 / GAMMA - 1.0) * (middle - begin))
        second = self._stage(flow, t + h, GAMMA * h, target, begin, middle)
        if second is None:
            return None
        # First-order solution inside: q + h A q_1. The filter by (S - gamma h K)^-1 keeps stiff directions from
        # ruling the estimate (Hosea and Shampine 1996).
        difference = self.blocks.solve(flow.project(GAMMA * h * (second - first)))
        return Outcome(self.blocks.norm(difference), self.evaluations, self.matrices, math.nan)

    def _stage(
        self, flow: Flow, t: float, gh: float, b: torch.Tensor, anchor: torch.Tensor, fallback: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Heads with O^T w (q' - gh A q' - b) = 0, in place; returns A q' float64 [D], None where Newton fails."""
        cloud, parameters, settings = flow.cloud, flow.parameters, self.settings
        cloud.at(t)
        last, wanted = math.inf, _NEWTON * settings.tolerance
        held, d, halvings, formed = parameters.get(), None, 0, 0
        for iteration in range(_MAX_NEWTON):
            q = flow.density()
            self.evaluations += 1
            qD, inflow = q[: cloud.D], cloud.inflow @ q
            r = flow.project(qD - b - gh * (inflow - cloud.a0 * qD))
            fresh = self.blocks is None
            target = (b + gh * inflow).clamp_min(0.0) / (1.0 + gh * cloud.a0)  # what one sweep of Jacobi gives
            if fresh:
                L = flow.mean_log(qD, target)
                self.kept = flow.matrices(L, q, L * cloud.a0)
                self.blocks = Blocks(*self.kept, gh, settings.relative, settings.ridge)
                self.matrices += 1
                formed += 1
            new = -self.blocks.solve(r + self.blocks.damping * (parameters.get() - anchor))
            size = self.blocks.norm(new)
            if iteration == 0 and fallback is not None and not size < _LEAP:
                parameters.set(fallback)  # the start led astray: begin where the law is known
                fallback = None
                continue
            if not size < 1.5 * last:  # the last update went too far (NaN included): half of it
                halvings += 1
                if halvings > 3 or d is None:
                    self.kept = None
                    return None
                d = 0.5 * d
                parameters.set(held + d)
                continue
            held, d = parameters.get(), new * min(1.0, _LONGEST / max(size, 1e-300))
            d = d * self._bridle(flow, flow.cloud.tree.apply(d)[: cloud.D], qD, target)
            parameters.set(held + d)
            # Directions that the cloud hardly determines converge slowly, and need not: they carry no probability.
            if size < wanted or (iteration >= 4 and size < 2.0 * wanted and size > 0.5 * last):
                break
            if (size > _RENEW * last or size > 0.5) and formed < _MOST_MATRICES:
                self.blocks = None
            last = size
        else:
            return None
        if self.blocks is None:
            self.blocks = Blocks(*self.kept, gh, settings.relative, settings.ridge)
        q = flow.density()
        self.evaluations += 1
        return cloud.balance(q)


class Ros2(Integrator):
    """ROS2 for theta' = S^-1 F with the tangent-space generator as its matrix."""

    def _step(self, flow, t, h, predict):
        parameters, settings = flow.parameters, self.settings
        begin, D = parameters.get(), flow.cloud.D
        flow.cloud.at(t)
        q = flow.density()
        self.evaluations += 1
        S, K = flow.matrices(q[:D], q, self._leave(flow, q))
        self.matrices += 1
        blocks = Blocks(S, K, GAMMA * h, settings.relative, settings.ridge)
        k1 = blocks.solve(flow.project(flow.cloud.balance(q)))
        fit = self._fit(flow, q, k1)
        parameters.set(begin + h * k1)
        v2, fisher, _ = self._velocity(flow, t + h)
        k2 = blocks.solve(blocks.times(v2 - 2.0 * k1))
        error = fisher.norm(0.5 * h * (k1 + k2))
        parameters.set(begin + h * (1.5 * k1 + 0.5 * k2))
        return Outcome(error, self.evaluations, self.matrices, fit) if math.isfinite(error) else None


class Heun(Integrator):
    """Explicit trapezoidal rule."""

    def _step(self, flow, t, h, predict):
        begin = flow.parameters.get()
        v1, _, q = self._velocity(flow, t)
        fit = self._fit(flow, q, v1)
        flow.parameters.set(begin + h * v1)
        v2, fisher, _ = self._velocity(flow, t + h)
        flow.parameters.set(begin + 0.5 * h * (v1 + v2))
        error = fisher.norm(0.5 * h * (v2 - v1))
        return Outcome(error, self.evaluations, self.matrices, fit) if math.isfinite(error) else None


class Rkc2(Integrator):
    """Runge-Kutta-Chebyshev, order two, damping epsilon = 2/13; stable to h rho <= 2 (s^2 - 1) / 3 (1 - 2/15 eps)."""

    def _step(self, flow, t, h, predict):
        parameters = flow.parameters
        begin = parameters.get()
        v0, fisher, q = self._velocity(flow, t)
        fit = self._fit(flow, q, v0)
        rho = self._radius(flow, q, fisher)
        s = max(2, math.ceil(math.sqrt(1.0 + h * rho / 0.653)))
        if s > _MAX_STAGES:
            return None
        c, steps = _rkc_coefficients(s)
        older, old = begin, begin + steps[1][2] * h * v0
        v = v0
        for j in range(2, s + 1):
            parameters.set(old)
            v, fisher, _ = self._velocity(flow, t + c[j - 1] * h)
            mu, nu, mu_t, gamma_t = steps[j]
            new = (1.0 - mu - nu) * begin + mu * old + nu * older + mu_t * h * v + gamma_t * h * v0
            older, old = old, new
        parameters.set(old)
        v, fisher, _ = self._velocity(flow, t + h)
        error = fisher.norm(0.8 * (begin - old) + 0.4 * h * (v0 + v))
        parameters.set(old)
        return Outcome(error, self.evaluations, self.matrices, fit) if math.isfinite(error) else None

    def _radius(self, flow: Flow, q: torch.Tensor, fisher: Blocks) -> float:
        """Spectral radius of S^-1 K by the power method, with a margin."""
        _, K = flow.matrices(q[: flow.cloud.D], q, self._leave(flow, q))
        self.matrices += 1
        x = torch.ones(flow.parameters.size, dtype=torch.float64, device=q.device)
        x = x + 0.1 * torch.sin(torch.arange(x.shape[0], dtype=torch.float64, device=q.device))  # no special direction
        rho = 0.0
        for _ in range(30):
            x = x / fisher.norm(x)
            y = fisher.solve(torch.cat([k @ part for k, part in zip(K, x.split(fisher.sizes), strict=True)]))
            rho, x = fisher.norm(y), y
        return 1.2 * rho


def _rkc_coefficients(s: int) -> tuple[list[float], list[tuple[float, ...]]]:
    """Times c_j and (mu_j, nu_j, mu~_j, gamma~_j) of the s-stage method; entry 1 holds (0, 0, mu~_1, 0)."""
    w0 = 1.0 + (2.0 / 13.0) / s**2
    T, dT, ddT = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, s + 1):
        T.append(2.0 * w0 * T[-1] - T[-2])
        dT.append(2.0 * T[-2] + 2.0 * w0 * dT[-1] - dT[-2])
        ddT.append(4.0 * dT[-2] + 2.0 * w0 * ddT[-1] - ddT[-2])
    w1 = dT[s] / ddT[s]
    b = [0.0, 0.0] + [ddT[j] / dT[j] ** 2 for j in range(2, s + 1)]
    b[0] = b[1] = b[2]
    c = [0.0, 0.0] + [w1 * ddT[j] / dT[j] for j in range(2, s + 1)]
    c[1] = c[2] / dT[2]
    steps: list[tuple[float, ...]] = [(0.0,) * 4, (0.0, 0.0, b[1] * w1, 0.0)]
    for j in range(2, s + 1):
        mu, nu = 2.0 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2]
        mu_t = 2.0 * b[j] * w1 / b[j - 1]
        steps.append((mu, nu, mu_t, -(1.0 - b[j - 1] * T[j - 1]) * mu_t))
    return c, steps
