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
#: Largest dt a0 of a state, per order. Beyond 1, 2, 2.51, 2.79 the Taylor polynomial of a decaying state grows in
#: size instead of decaying: the step would be unstable even where the target is positive. Half a unit inside that.
MAX_EXITS = {1: 1.0 - MIN_RATIO, 2: 1.5, 3: 2.0, 4: 2.3}


class Target:
    """Cache of frozen log-probabilities and Taylor terms over the distinct states met in one step.

    frozen: function n int32 [U, S] -> log q float64 [U]; it is called with states it has not seen before only.
    t, dt: the step runs from t to t + dt; see `shorten`.
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
        # Per state: exit rate, the sources y = n - s_k (their numbers) with a_k(y), and the Taylor terms.
        self.a0 = self.logq.clone()
        self.rate = torch.zeros(0, R, dtype=torch.float64, device=self.device)
        self.source = torch.zeros(0, R, dtype=torch.int64, device=self.device)
        self.linked = torch.zeros(0, dtype=torch.bool, device=self.device)
        self.pushed = self.logq.clone()  # (J q)(n) / q(n), where asked for
        self.g = [torch.zeros(0, dtype=torch.float64, device=self.device) for _ in range(order)]
        self.evaluations = 0  # states handed to the frozen network

    def __len__(self) -> int:
        """Number of distinct states met: samples and the states they need."""
        return int(self.logq.shape[0])

    def number(self, n: torch.Tensor) -> torch.Tensor:
        """Numbers of states n int32 [B, S], int64 [B], with all their Taylor terms computed."""
        index, _ = self._add(n)
        self._complete(index)
        return index

    def log_ratio(self, index: torch.Tensor) -> torch.Tensor:
        """log(T/q) float64 [B] at numbered states, for the current dt; NaN where the step is too long for them:
        the target would be below MIN_RATIO of q, or dt a0 above MAX_EXITS."""
        ratio = self._ratio(index, self.dt)
        return torch.where(self._fits(index, ratio, self.dt), torch.log(ratio), torch.full_like(ratio, torch.nan))

    def log_target(self, index: torch.Tensor) -> torch.Tensor:
        """log T, float64 [B], at numbered states."""
        return self.logq[index] + self.log_ratio(index)

    def log_push(self, index: torch.Tensor) -> torch.Tensor:
        """log (J q)(n), float64 [B]: the density of q followed by one random transition (see Enumeration.jump)."""
        return self.logq[index] + torch.log(self.pushed[index])

    def shorten(self, dt: float) -> None:
        """Make the step end at t + dt. What was computed is kept, but for rates that depend on time: their averages
        and the terms built on them are found anew (frozen probabilities are not)."""
        self.dt = dt
        if self.enumeration.net.time_dependent:
            self.averaged_to = self.t + dt
            self.rate.zero_()
            self.linked.zero_()
            for values in (self.a0, self.pushed, *self.g):
                values.fill_(torch.nan)

    def admissible_step(self) -> float:
        """Largest of dt, dt/2, dt/4, ... that fits every state met so far; 0 where none does."""
        every = (~torch.isnan(self.g[-1])).nonzero()[:, 0]
        dt = self.dt
        while dt > 0.0 and every.numel() and not bool(self._fits(every, self._ratio(every, dt), dt).all()):
            dt *= 0.5
        return dt

    def _fits(self, index: torch.Tensor, ratio: torch.Tensor, dt: float) -> torch.Tensor:
        return (ratio >= MIN_RATIO) & (dt * self.a0[index] <= MAX_EXITS[self.order])

    def _ratio(self, index: torch.Tensor, dt: float) -> torch.Tensor:
        ratio = torch.ones(index.shape[0], dtype=torch.float64, device=self.device)
        for j, g in enumerate(self.g, start=1):
            ratio = ratio + (dt**j / math.factorial(j)) * g[index]
        return ratio

    def _complete(self, index: torch.Tensor) -> None:
        """Compute the Taylor terms of numbered states that lack them.

        First the states are linked to their sources, those to theirs, and so on, `order` times; then the frozen
        network is asked once for all probabilities that are missing; then the terms follow from the lowest up.
        """
        todo = torch.unique(index[torch.isnan(self.g[-1][index])])
        if not todo.numel():
            return
        layers = [todo]  # layers[j]: states whose term of order m - j is wanted
        for _ in range(self.order):
            new = layers[-1][~self.linked[layers[-1]]]
            self._link(new)
            layers.append(torch.unique(torch.cat([layers[-1], self.source[layers[-1]][self.rate[layers[-1]] > 0]])))
        missing = torch.isnan(self.logq).nonzero()[:, 0]
        if missing.numel():
            self.evaluations += int(missing.numel())
            self.logq[missing] = self.frozen(self.states[missing])
        for level in range(1, self.order + 1):
            self._term(level, layers[self.order - level])

    def _term(self, level: int, index: torch.Tensor) -> None:
        """g_level at numbered states, from g_{level-1} there and at their sources."""
        index = index[torch.isnan(self.g[level - 1][index])]
        if not index.numel():
            return
        source = self.source[index]
        # A source outside the support has probability zero; a state with q = 0 never occurs among samples.
        weight = self.rate[index] * torch.exp(self.logq[source] - self.logq[index][:, None])
        if level == 1:
            if self.push:
                stays = (self.a0[index] == 0.0).double()  # a state without transitions stays where it is
                share = torch.where(weight > 0.0, weight / self.a0[source], torch.zeros_like(weight))
                self.pushed[index] = share.sum(dim=1) + stays
            self.g[0][index] = weight.sum(dim=1) - self.a0[index]
        else:
            below = self.g[level - 2]
            inward = torch.where(weight > 0.0, weight * below[source], torch.zeros_like(weight))
            self.g[level - 1][index] = inward.sum(dim=1) - self.a0[index] * below[index]

    def _add(self, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Number states; new ones get room in every per-state array. Returns numbers [B] and new states [U, S]."""
        index, fresh = self.index.add(n)
        count = fresh.shape[0]
        if count:
            self.states = torch.cat([self.states, fresh])
            missing = self.logq.new_full((count,), torch.nan)
            for name in ("logq", "a0", "pushed"):
                setattr(self, name, torch.cat([getattr(self, name), missing]))
            self.g = [torch.cat([g, missing]) for g in self.g]
            self.rate = torch.cat([self.rate, self.rate.new_zeros(count, self.rate.shape[1])])
            self.source = torch.cat([self.source, self.source.new_zeros(count, self.source.shape[1])])
            self.linked = torch.cat([self.linked, self.linked.new_zeros(count)])
        return index, fresh

    def _link(self, index: torch.Tensor) -> None:
        """Find the sources of numbered states (distinct, not linked yet), their rates, and exit rates."""
        if not index.numel():
            return
        n = self.states[index]
        row, reaction, y, rate = self.enumeration.inflow(n, self.t, self.averaged_to)
        source, _ = self._add(y)
        self.rate[index[row], reaction] = rate
        self.source[index[row], reaction] = source
        self._exit_rates(torch.cat([index, source]) if self.push else index)
        self.linked[index] = True

    def _exit_rates(self, index: torch.Tensor) -> None:
        todo = torch.unique(index[torch.isnan(self.a0[index])])
        if todo.numel():
            a, _ = self.enumeration.outflow(self.states[todo], self.t, self.averaged_to)
            self.a0[todo] = a.sum(dim=1)
