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

from hpcme.dynamics.flow import Flow, logarithmic_mean
from hpcme.dynamics.integrators import Integrator, Outcome

_SWEEPS = 4  # over the conditionals, per Gauss-Newton step
_MOST = 10  # Gauss-Newton steps. Too few let fast-growing rare counts lag behind, and the lag stays for the whole run:
_ENOUGH = 0.02  # they end when the update is below this share of the tolerance, in the Fisher norm.
_LEAST, _FLOOR = 1e-3, 0.2  # bounds of the logarithmic mean, as in `flow`


class Waveform(Integrator):
    """See the module."""

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
        for _ in range(_MOST):
            self.matrices += 1
            L = torch.maximum(logarithmic_mean(q, torch.maximum(target, _LEAST * q)), _FLOOR * q).clamp_min(1e-300)
            update = self._solve(flow, w * L, (target - q) / L, parameters.get() - begin)
            update = update * self._bridle(flow, update, q, target)
            change = cloud.tree.apply(update)[:D]
            size = math.sqrt(max(flow.total(L * change**2), 0.0))
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

    def _solve(self, flow: Flow, weight: torch.Tensor, rho: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """Damped least squares of rho float64 [D] on the scores with weights [D], conditional by conditional, float64
        [P]; moved [P]: how far the parameters are from where the step began."""
        parameters, settings, world = flow.parameters, self.settings, flow.world
        S, states = parameters.network.S, slice(0, flow.cloud.D)
        scores = [flow.cloud.tree.scores(i, states) for i in range(S)]
        parts = [(O.T @ (O * weight[:, None])).reshape(-1) for O in scores]
        flat = world.sum_(torch.cat(parts))
        factors = []
        for M in flat.split([len(part) for part in parts]):
            M = M.view(math.isqrt(len(M)), -1)
            factors.append(torch.linalg.cholesky(M + torch.diag(settings.relative * M.diagonal() + settings.ridge)))
        update = torch.zeros_like(moved)
        for _ in range(_SWEEPS):
            for i in range(S):
                own = parameters.slice(i)
                r = world.sum_(scores[i].T @ (weight * rho)) - settings.ridge * (moved[own] + update[own])
                d = torch.cholesky_solve(r[:, None], factors[i])[:, 0]
                update[own] += d
                rho = rho - scores[i] @ d
        return update


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
