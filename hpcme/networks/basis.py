"""Autoregressive network with fixed hidden features and trained heads: every conditional is an exponential family.

Position i sees the counts before it through features that do not change during a run: the counts themselves (one-hot
where the limit is small, sqrt(n) above, and n where totals are seen), what conservation laws leave for the species to
come, and `width` random tanh units of all these. What is trained are the heads, so log q_i is linear in the parameters
up to its normalisation, fits of a conditional are convex, and no two conditionals share a parameter. Scheme `tdvp`
lives on that: its equations stay well conditioned for whole runs, where trained hidden layers bring redundant
directions that noise drifts along. Random features with trained output layers: Rahimi and Recht 2008; Huang, Zhu and
Siew 2006.

With many species a conditional sees those counts only whose species are close to its own in the graph of reactions.
States then share their conditionals not by whole prefixes but by the few counts seen (`contexts`), which are few. What
lies further off may be seen as one total count. In a chain of conversions with the products first, that total is all
that has passed a species and is still there, and the variance of every total then follows the master equation as it
should: sums of many weak correlations, which no single pair of species would show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from hpcme.networks.base import VAN
from hpcme.networks.support import Support

_SLOPE = 2.0  # scale of the hidden weights
_UNIT = 0.4  # of sqrt(n), and of n / sqrt(limit)
_LEFT = 9  # features of what a conservation law leaves
_ONE_HOT = 4  # largest limit whose counts are told apart one by one


class Basis(VAN):
    """Heads on fixed features: hidden vector of position i = [counts before i, tanh(counts before i . A_i + c_i)]."""

    def __init__(
        self, limits: np.ndarray, order: list[int], support: Support, width: int, heads: list[str], dtype: torch.dtype,
        laws: list[tuple[list[int], int]] | None = None, sees: list[list[int]] | None = None,
        far: list[list[int]] | None = None,
    ) -> None:  # fmt: skip
        """laws: (y, total), integers in model order: sums y . n of counts that are, or stay below, a total. sees: for
        every position the earlier positions whose counts it sees, in ascending order; None: all. far: for every
        position further earlier positions, of which it sees the total count; None: none."""
        laws = [([y[s] for s in order], total) for y, total in laws or []]
        far = [[] for _ in order] if far is None else far
        linear = any(far)
        columns = [_features(int(limits[s]), linear).shape[1] for s in order]
        sees = [list(range(i)) if sees is None else list(sees[i]) for i in range(len(order))]
        before = [sum(columns[j] for j in sees[i]) for i in range(len(order))]
        # What a law leaves is a feature where it depends on counts seen and concerns species to come.
        live = [[k for k, (y, _) in enumerate(laws) if any(y[:i]) and any(y[i:])] for i in range(len(order))]
        before = [before[i] + _LEFT * len(live[i]) for i in range(len(order))]
        before = [before[i] + 2 * bool(far[i]) for i in range(len(order))]
        widths = [before[i] + width if i else 0 for i in range(len(order))]
        super().__init__(limits, order, support, widths, heads, dtype)
        self.width, self.live, self.sees, self.far = width, live, sees, far
        self.sees_all = all(len(seen) == i for i, seen in enumerate(sees))
        self.register_buffer("totals", torch.tensor([t for _, t in laws], dtype=torch.int64), persistent=False)
        self.register_buffer(
            "stakes", torch.tensor([y for y, _ in laws], dtype=torch.int64).reshape(-1, self.S).T, persistent=False
        )
        middle = [torch.from_numpy(_middle(limit, linear)) for limit in self.limits]
        starts = np.concatenate([[0], np.cumsum(columns)])
        for i in range(self.S):
            features = torch.from_numpy(_features(self.limits[i], linear)).to(dtype)
            self.register_buffer(f"features{i}", features, persistent=False)
            if i:
                # Each unit turns over where a random combination of the counts passes a random point of their range.
                scale = _SLOPE / math.sqrt(max(1.0, len(sees[i]) / 2.0))
                weight = torch.randn(before[i], width, dtype=torch.float64) * scale
                half = [middle[j] for j in sees[i]] + [torch.from_numpy(_half(laws[k][1])) for k in live[i]]
                if far[i]:
                    total = torch.from_numpy(_roots_and_counts(sum(self.limits[j] for j in far[i])))
                    self.register_buffer(f"beyond{i}", total.to(dtype), persistent=False)
                    half.append(total[0].abs())
                half = torch.cat([weight.new_zeros(0), *half])
                spread = (weight.abs() * half[:, None]).sum(dim=0).clamp_min(1.0)
                bias = (2.0 * torch.rand(width, dtype=torch.float64) - 1.0) * spread
                self.register_buffer(f"hidden_weight{i}", weight.to(dtype))
                self.register_buffer(f"hidden_bias{i}", bias.to(dtype))
                if not self.sees_all:
                    # Columns of all features so far that belong to the counts seen.
                    seen = [np.arange(starts[j], starts[j + 1]) for j in sees[i]]
                    columns_seen = torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *seen]))
                    self.register_buffer(f"seen{i}", columns_seen, persistent=False)

    def begin(self) -> Counts:
        nothing = self.features0.new_zeros(1, 0)
        return Counts(nothing, self.totals[None, :], nothing.long())

    def near(self, i: int) -> list[int]:
        return self.sees[i] if self.far[i] else super().near(i)

    def hidden(self, i: int, carry: Counts) -> torch.Tensor:
        seen = carry.seen if self.sees_all or not i else carry.seen.index_select(1, getattr(self, f"seen{i}"))
        return self._units(i, seen, carry.left, carry.counts[:, self.far[i]].sum(dim=1) if self.far[i] else None)

    def _units(self, i: int, seen: torch.Tensor, left: torch.Tensor, beyond: torch.Tensor | None) -> torch.Tensor:
        """Hidden vector from the features of the counts seen, [U, F], what the laws leave, int64 [U, laws], and, where
        it is seen, the total count further off, int64 [U]."""
        if not i:
            return seen
        more = [_left(left[:, k], int(self.totals[k])).to(seen.dtype) for k in self.live[i]]
        if beyond is not None:
            more.append(getattr(self, f"beyond{i}").index_select(0, beyond))
        seen = torch.cat([seen, *more], dim=1)
        z = torch.addmm(getattr(self, f"hidden_bias{i}"), seen, getattr(self, f"hidden_weight{i}"))
        return torch.cat([seen, torch.tanh(z)], dim=1)

    def advance(self, i: int, carry: Counts, parent: torch.Tensor | None, count: torch.Tensor) -> Counts:
        seen = carry.seen if parent is None else carry.seen.index_select(0, parent)
        left = carry.left if parent is None else carry.left.index_select(0, parent)
        left = left - count[:, None] * self.stakes[i][None, :]
        counts = carry.counts
        if any(self.far):
            counts = counts if parent is None else counts.index_select(0, parent)
            counts = torch.cat([counts, count[:, None]], dim=1)
        return Counts(torch.cat([seen, getattr(self, f"features{i}").index_select(0, count)], dim=1), left, counts)

    def contexts(self, x: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """See `VAN.contexts`; where little is seen, states share it whenever what is seen of them is equal."""
        if self.sees_all:
            yield from super().contexts(x)
            return
        node = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        left = self.totals[None, :] - x.new_zeros(x.shape[0], 1)
        for i in range(self.S):
            columns = [(node, self.support.table(i).shape[0])]
            columns += [(x[:, j], self.limits[j] + 1) for j in self.sees[i]]
            for k in self.live[i]:
                total = int(self.totals[k])
                columns.append((left[:, k].clamp(-1, total) + 1, total + 2))
            beyond = x[:, self.far[i]].sum(dim=1)
            if self.far[i]:
                columns.append((beyond, sum(self.limits[j] for j in self.far[i]) + 1))
            row, first = distinct(columns)
            features = [getattr(self, f"features{j}").index_select(0, x[first, j]) for j in self.sees[i]]
            seen = torch.cat([self.features0.new_zeros(first.shape[0], 0), *features], dim=1)
            yield row, self._units(i, seen, left[first], beyond[first] if self.far[i] else None), node[first]
            if i + 1 < self.S:
                left = left - x[:, i, None] * self.stakes[i][None, :]
                node = self.support.advance(i, node, x[:, i]).clamp_min(0)

    def log_prob(self, n: torch.Tensor) -> torch.Tensor:
        """See `VAN.log_prob`; where little is seen, each conditional is evaluated once for all states that share it."""
        if self.sees_all or torch.is_grad_enabled():
            return super().log_prob(n)
        x = n[:, self.order].long()
        limits = torch.tensor(self.limits, device=n.device)
        inside = ((x >= 0) & (x <= limits)).all(dim=1)
        x = torch.where(inside[:, None], x, torch.zeros_like(x))
        logq = torch.where(inside, 0.0, -torch.inf).double()
        for i, (row, hidden, node) in enumerate(self.contexts(x)):
            logp = self.conditional(i, hidden, node).expand(hidden.shape[0], -1)
            logq = logq + logp.reshape(-1)[row * logp.shape[1] + x[:, i]]
        return logq


class Counts(NamedTuple):
    """Sweep state: features of the counts so far, [U, F], what every law leaves, int64 [U, laws], and the counts, int64
    [U, i], where totals of them are seen."""

    seen: torch.Tensor
    left: torch.Tensor
    counts: torch.Tensor


def distinct(columns: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Number the distinct rows of columns int64 [N], each with its number of values.

    Returns the number of every row, int64 [N], and for each number a row that has it, int64 [U].
    """
    key, size = columns[0]
    for column, values in columns[1:]:
        if size > (1 << 62) // values:
            found, key = torch.unique(key, return_inverse=True)
            size = max(1, found.shape[0])
        key, size = key * values + column, size * values
    N = key.shape[0]
    if size <= 4 * N:
        # Few possible keys: a table of them is quicker than sorting.
        used = torch.zeros(size, dtype=torch.int64, device=key.device)
        used[key] = 1
        number = torch.cumsum(used, dim=0) - 1
        row, U = number[key], int(number[-1]) + 1
    else:
        found, row = torch.unique(key, return_inverse=True)
        U = found.shape[0]
    first = torch.full((U,), N, dtype=torch.int64, device=key.device)
    first.scatter_reduce_(0, row, torch.arange(N, device=key.device), reduce="amin")
    return row, first


def _features(limit: int, linear: bool) -> np.ndarray:
    """Features of the counts 0..limit, float64 [limit + 1, F].

    Limits up to 4: one-hot without the zero. Above: whether the count is zero, and sqrt(n) about the middle of its
    range, in units in which a Poisson law has a standard deviation of about 0.2 whatever its mean. linear: n as well,
    since the share that one species has of a total falls with the others' counts themselves.
    """
    if limit <= _ONE_HOT:
        return np.eye(limit + 1)[:, 1:]
    return np.column_stack([np.arange(limit + 1) == 0, _roots_and_counts(limit) if linear else _roots(limit)])


def _roots_and_counts(limit: int) -> np.ndarray:
    """sqrt(n) and n about the middle of their ranges: float64 [limit + 1, 2]."""
    n = np.arange(limit + 1)
    return np.column_stack([_roots(limit), _UNIT * (n - 0.5 * limit) / math.sqrt(max(limit, 1))])


def _roots(limit: int) -> np.ndarray:
    """sqrt(n) about the middle of its range, in the module's units, for n = 0..limit: float64 [limit + 1]."""
    root = np.sqrt(np.arange(limit + 1))
    return _UNIT * (root - 0.5 * root[-1])


def _left(left: torch.Tensor, total: int) -> torch.Tensor:
    """Features of what a law leaves, int64 [U] -> float64 [U, 9]: small amounts one by one, then sqrt."""
    left = left.clamp(0, max(total, 0))
    root = _UNIT * (left.double().sqrt() - 0.5 * math.sqrt(max(total, 0)))
    return torch.cat([(left[:, None] == torch.arange(_LEFT - 1, device=left.device)).double(), root[:, None]], dim=1)


def _half(total: int) -> np.ndarray:
    """Half the range of each feature of `_left`, float64 [9]."""
    return np.array([0.5] * (_LEFT - 1) + [0.5 * _UNIT * math.sqrt(max(total, 0))])


def _middle(limit: int, linear: bool) -> np.ndarray:
    """Half the range of each feature, float64 [F]."""
    features = _features(limit, linear)
    return 0.5 * (features.max(axis=0) - features.min(axis=0))
