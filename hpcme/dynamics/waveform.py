"""Exponential trapezoidal rule on covering samples: the integrator for many species, where no set of states is closed.

At every state of the cloud the master equation is dT/dt = -a0 T + g(t), with g the flow in from its sources. With g
linear in time between its values under q at t and under q' at t + h,

    T = exp(-a0 h) q + h phi_1(a0 h) g(t) + h phi_2(a0 h) (g(t + h) - g(t)),
    phi_1(x) = (1 - exp(-x)) / x,    phi_2(x) = (x - 1 + exp(-x)) / x^2,

and q' is the law with sum w (T - q') O' = 0 over the heads' scores O': T depends on q' through g(t + h), and both are
found together by Gauss-Newton steps. T is positive, so what is invaded within a step comes out right at once; at the
solution the residual T - q' vanishes state by state where the network can hold T, so samples add no noise there. The
linear systems are one per conditional, solved in order, each seeing what the others explain (block Gauss-Seidel): their
cost grows linearly with the number of species. Waveform relaxation: Lelarasmee, Ruehli, Sangiovanni-Vincentelli 1982.
"""

from __future__ import annotations

import math

import torch

from hpcme.dynamics.flow import Flow, bounded_mean
from hpcme.dynamics.integrators import Integrator, Outcome

_SWEEPS = 4  # over the conditionals, per Gauss-Newton step
_MOST = 14  # Gauss-Newton steps. Too few let fast-growing rare counts lag behind, and the lag stays for the whole run:
_ENOUGH = 0.005  # they end when the update is below this share of the tolerance, in the Fisher norm.
_FRESH = 2  # the first so many form their matrices, the others use the last ones


class Waveform(Integrator):
    """See the module."""

    damping = 1e-4, 1e-6  # conditionals are solved one by one, without a long memory
    each = True

    def _step(self, flow: Flow, t: float, h: float, predict: torch.Tensor | None) -> Outcome | None:
        cloud, parameters, settings = flow.cloud, flow.parameters, self.settings
        D, w, begin = cloud.D, cloud.weight, parameters.get()
        cloud.at(t)
        q0 = flow.density()
        self.evaluations += 1
        g0, a0 = cloud.inflow @ q0, cloud.a0
        q0 = q0[:D]
        cloud.at(t + h)
        x = 0.5 * h * (a0 + cloud.a0)
        decay, first, second = torch.exp(-x), h * _phi1(x), h * _phi2(x)
        # The rates may have changed since g0: with q unchanged, g(t + h) starts from today's law and tomorrow's rates.
        q = flow.density()
        start = target = decay * q0 + (first - second) * g0 + second * (cloud.inflow @ q)
        q = q[:D]
        self._factors: list[torch.Tensor] = []
        last = torch.zeros_like(q)
        for iteration in range(_MOST):
            L = bounded_mean(q, target).clamp_min(1e-300)
            if iteration < _FRESH and not self._form(flow, w * L):
                return None
            update, change = self._solve(flow, w * L, (target - q) / L, parameters.get() - begin)
            # The dependence of T on q' makes the updates shrink by a factor only: their sum is seen in two of them.
            inner = flow.total(L * change * last) if iteration > 1 else 0.0
            ratio = min(max(inner / flow.total(L * last**2), 0.0), 0.7) if inner > 0.0 else 0.0
            share = self._bridle(flow, change / (1.0 - ratio), q, target) / (1.0 - ratio)
            # A longer update leaves no factor to be seen in the next one.
            last = change if not ratio else torch.zeros_like(change)
            update, size = share * update, share * math.sqrt(max(flow.total(L * change**2), 0.0))
            if not math.isfinite(size):
                return None
            parameters.set(parameters.get() + update)
            q = flow.density()
            self.evaluations += 1
            target = decay * q0 + (first - second) * g0 + second * (cloud.inflow @ q)
            q = q[:D]
            if size < _ENOUGH * settings.tolerance:
                break
        error = math.sqrt(flow.total((target - start) ** 2 / (0.5 * (target + start)).clamp_min(1e-300)))
        left = flow.total((target - q) ** 2 / (0.5 * (target + q)).clamp_min(1e-300))
        moved = flow.total((target - q0) ** 2 / (0.5 * (target + q0)).clamp_min(1e-300))
        if not (math.isfinite(error) and math.isfinite(left)):
            return None
        return Outcome(error, self.evaluations, self.matrices, math.sqrt(left / moved) if moved > 0.0 else 0.0)

    def _form(self, flow: Flow, weight: torch.Tensor) -> bool:
        """Factors of the damped matrices O_i^T weight O_i of all conditionals, weight float64 [D], and the scores.

        False where there are none, as with numbers that are not finite.
        """
        S, settings = flow.parameters.network.S, self.settings
        self._scores = [flow.cloud.tree.scores(i, slice(0, flow.cloud.D)) for i in range(S)]
        parts = [(O.T @ (O * weight[:, None])).reshape(-1) for O in self._scores]
        self._factors = []
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


def _phi1(x: torch.Tensor) -> torch.Tensor:
    """(1 - exp(-x)) / x."""
    small = x < 1e-6
    return torch.where(small, 1.0 - 0.5 * x, -torch.expm1(-x) / torch.where(small, torch.ones_like(x), x))


def _phi2(x: torch.Tensor) -> torch.Tensor:
    """(x - 1 + exp(-x)) / x^2, by its series where the difference cancels."""
    small = x < 1e-2
    series = 0.5 - x / 6.0 + x**2 / 24.0 - x**3 / 120.0
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, series, (safe + torch.expm1(-safe)) / safe**2)
