"""Target of one time step, a fixed number per state, computed once per distinct state.

With the frozen law q at time t and the generator A (averaged over the step where rates depend on time), the target
of order m is the Taylor polynomial of exp(dt A) q,

    T(n) = q(n) [1 + dt g_1(n) + ... + dt^m / m! g_m(n)],
    g_0 = 1,  g_j(n) = sum_k a_k(n - s_k) q(n - s_k)/q(n) g_{j-1}(n - s_k) - a0(n) g_{j-1}(n).

Order 1 is the explicit Euler target of Tang, Weng and Zhang (2023); g_1 is the local rate e. The step enters only
through the polynomial, so a step that must be shortened reuses all that was computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from hpcme.dynamics.enumeration import Enumeration

#: Smallest T/q that a step may ask for; below it the step is shortened. Zero would be the bare positivity bound,
#: but log T must stay a quantity that a network can follow.
MIN_RATIO = 0.02


class Target:
    """Cache of frozen log-probabilities and Taylor terms over the distinct states met in one step.

    frozen: function n int32 [U, S] -> log q float64 [U]; it is called with states it has not seen before only.
    t, dt: the step runs from t to t + dt; dt may be shortened later, rates stay averaged over [t, t + dt].
    push: also keep the density of the law pushed by one random transition (`log_push`).
    """

    def __init__(
        self,
        enumeration: Enumeration,
        frozen: Callable[[torch.Tensor], torch.Tensor],
        t: float,
        dt: float,
        order: int,
        push: bool = False,
    ) -> None:
        self.enumeration, self.frozen, self.order, self.push = enumeration, frozen, order, push
        self.t, self.dt, self.averaged_to = t, dt, t + dt
        self.index = enumeration.new_index()
        self.device = enumeration.changes.device
        self.states = torch.zeros(0, enumeration.net.S, dtype=torch.int32, device=self.device)
        self.logq = torch.zeros(0, dtype=torch.float64, device=self.device)
        R = enumeration.net.R
        # Per state: exit rate, in-flow weights a_k(y) q(y)/q(n) and the numbers of the y, and the Taylor terms.
        self.a0 = self.logq.clone()
        self.weight = torch.zeros(0, R, dtype=torch.float64, device=self.device)
        self.source = torch.zeros(0, R, dtype=torch.int64, device=self.device)
        self.linked = torch.zeros(0, dtype=torch.bool, device=self.device)
        self.pushed = self.logq.clone()  # (J q)(n) / q(n), where asked for
        self.g = [torch.zeros(0, dtype=torch.float64, device=self.device) for _ in range(order)]
        self.evaluations = 0  # states handed to the frozen network

    def __len__(self) -> int:
        """Number of distinct states whose frozen probability is known."""
        return int(self.logq.shape[0])

    def number(self, n: torch.Tensor) -> torch.Tensor:
        """Numbers of states n int32 [B, S], int64 [B], with all their Taylor terms computed."""
        index = self._add(n)
        self._ensure(self.order, index)
        return index

    def log_ratio(self, index: torch.Tensor) -> torch.Tensor:
        """log(T/q) float64 [B] at numbered states, for the current dt; NaN where the target would be negative."""
        return torch.log(self._ratio(index, self.dt))

    def log_target(self, index: torch.Tensor) -> torch.Tensor:
        """log T, float64 [B], at numbered states."""
        return self.logq[index] + self.log_ratio(index)

    def log_push(self, index: torch.Tensor) -> torch.Tensor:
        """log (J q)(n), float64 [B]: the density of q followed by one random transition (see Enumeration.jump)."""
        return self.logq[index] + torch.log(self.pushed[index])

    def admissible_step(self) -> float:
        """Largest of dt, dt/2, dt/4, ... that keeps T/q >= MIN_RATIO at every state met so far."""
        every = (~torch.isnan(self.g[-1])).nonzero()[:, 0]
        dt = self.dt
        while dt > 0.0 and every.numel() and not bool((self._ratio(every, dt) >= MIN_RATIO).all()):
            dt *= 0.5
        return dt

    def _ratio(self, index: torch.Tensor, dt: float) -> torch.Tensor:
        ratio = torch.ones(index.shape[0], dtype=torch.float64, device=self.device)
        for j, g in enumerate(self.g, start=1):
            ratio = ratio + (dt**j / math.factorial(j)) * g[index]
        return ratio

    def _add(self, n: torch.Tensor) -> torch.Tensor:
        index, fresh = self.index.add(n)
        if fresh.shape[0]:
            self.evaluations += fresh.shape[0]
            self.states = torch.cat([self.states, fresh])
            self.logq = torch.cat([self.logq, self.frozen(fresh)])
            self._grow(fresh.shape[0])
        return index

    def _grow(self, count: int) -> None:
        """Room for new states in every per-state array."""
        missing = self.logq.new_full((count,), torch.nan)
        self.a0 = torch.cat([self.a0, missing])
        self.pushed = torch.cat([self.pushed, missing])
        self.g = [torch.cat([g, missing]) for g in self.g]
        self.weight = torch.cat([self.weight, self.weight.new_zeros(count, self.weight.shape[1])])
        self.source = torch.cat([self.source, self.source.new_zeros(count, self.source.shape[1])])
        self.linked = torch.cat([self.linked, self.linked.new_zeros(count)])

    def _link(self, index: torch.Tensor) -> None:
        """Find incoming neighbours and their weights for numbered states (distinct)."""
        todo = index[~self.linked[index]]
        if not todo.numel():
            return
        n = self.states[todo]
        row, reaction, y, rate = self.enumeration.inflow(n, self.t, self.averaged_to)
        source = self._add(y)
        # A source outside the support has probability zero; a state with q = 0 never occurs among samples.
        ratio = torch.exp(self.logq[source] - self.logq[todo[row]])
        weight = self.weight.new_zeros(n.shape[0], self.weight.shape[1])
        numbers = self.source.new_zeros(weight.shape)
        weight[row, reaction] = rate * ratio
        numbers[row, reaction] = source
        self.weight[todo], self.source[todo] = weight, numbers
        self._exit_rates(torch.cat([todo, source]) if self.push else todo)
        if self.push:
            share = weight.new_zeros(weight.shape)
            share[row, reaction] = rate * ratio / self.a0[source]  # a0(y) >= rate > 0 at every source
            stays = (self.a0[todo] == 0.0).double()  # a state without transitions stays where it is
            self.pushed[todo] = share.sum(dim=1) + stays
        self.linked[todo] = True

    def _exit_rates(self, index: torch.Tensor) -> None:
        todo = torch.unique(index[torch.isnan(self.a0[index])])
        if todo.numel():
            a, _ = self.enumeration.outflow(self.states[todo], self.t, self.averaged_to)
            self.a0[todo] = a.sum(dim=1)

    def _ensure(self, level: int, index: torch.Tensor) -> None:
        """Compute g_level at numbered states, after g_{level-1} at them and at their sources."""
        todo = index[torch.isnan(self.g[level - 1][index])]
        if not todo.numel():
            return
        todo = torch.unique(todo)
        self._link(todo)
        weight, source = self.weight[todo], self.source[todo]
        if level == 1:
            value = weight.sum(dim=1) - self.a0[todo]
        else:
            used = weight > 0.0
            self._ensure(level - 1, torch.cat([todo, torch.unique(source[used])]))
            below = torch.where(used, self.g[level - 2][source], torch.zeros_like(weight))
            value = (weight * below).sum(dim=1) - self.a0[todo] * self.g[level - 2][todo]
        self.g[level - 1][todo] = value
