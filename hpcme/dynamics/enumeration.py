"""Transition neighbours for the dynamics, on the host (numba kernels) or on a GPU (torch kernels), behind one face."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from hpcme.errors import InputError
from hpcme.kernels import dedup, inflow, neighbours, tensor
from hpcme.model.network import ReactionNetwork
from hpcme.networks.base import cumulative


class Enumeration(ABC):
    """Neighbours, rates and state numbering for one reaction network; tensors in, tensors out.

    Transitions that leave the box of limits do not exist here (reflecting box, see `hpcme.kernels.neighbours`).
    """

    def __init__(self, net: ReactionNetwork) -> None:
        self.net = net

    @abstractmethod
    def inflow(self, n: torch.Tensor, t0: float, t1: float) -> tuple[torch.Tensor, ...]:
        """Transitions into states n int32 [B, S] with rates averaged over [t0, t1].

        Returns row int64 [E], reaction int64 [E], y = n[row] - s[reaction] int32 [E, S], rate float64 [E].
        """

    @abstractmethod
    def outflow(self, n: torch.Tensor, t0: float, t1: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Propensities [B, R] averaged over [t0, t1], zero where the transition leaves the box, and the summed rate
        of the transitions that would leave it, float64 [B]."""

    @abstractmethod
    def new_index(self) -> StateIndex:
        """An empty numbering of states."""

    def jump(self, n: torch.Tensor, u: torch.Tensor, t0: float, t1: float) -> torch.Tensor:
        """One random transition from every state: n int32 [B, S], u float64 [B] -> int32 [B, S].

        Reaction k is taken with probability a_k / a0; a state without transitions stays where it is.
        """
        a, _ = self.outflow(n, t0, t1)
        cdf = cumulative(a)
        k = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)[:, 0].clamp_max(a.shape[1] - 1)
        moved = n + self.changes[k]
        return torch.where((cdf[:, -1] > 0)[:, None], moved, n)

    changes: torch.Tensor  # int32 [R, S]


class StateIndex(ABC):
    """Numbers distinct states 0, 1, ... in the order of their first appearance."""

    @abstractmethod
    def add(self, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Number of every row, int64 [B], and the states that were new, int32 [U, S], in the order of numbers."""


class HostEnumeration(Enumeration):
    """CPU: the numba kernels on the tensors' own memory."""

    def __init__(self, net: ReactionNetwork) -> None:
        super().__init__(net)
        self.tables, self.s = net.tables, np.ascontiguousarray(net.s, dtype=np.int64)
        self.limits = np.ascontiguousarray(net.limits, dtype=np.int64)
        self.changes = torch.from_numpy(self.s.astype(np.int32))

    def inflow(self, n, t0, t1):
        row, reaction, y, rate = inflow.inflow(self.tables, n.numpy(), self.s, self.limits, t0, t1)
        if rate.size and not (rate.min() >= 0.0 and np.isfinite(rate.max())):
            bad = int(np.flatnonzero(~((rate >= 0.0) & np.isfinite(rate)))[0])
            raise _bad_propensity(self.net, y[bad].tolist(), int(reaction[bad]), float(rate[bad]), t0)
        return torch.from_numpy(row), torch.from_numpy(reaction), torch.from_numpy(y), torch.from_numpy(rate)

    def outflow(self, n, t0, t1):
        a, leak = neighbours.outflow(self.tables, n.numpy(), self.s, self.limits, t0, t1)
        return torch.from_numpy(a), torch.from_numpy(leak)

    def new_index(self) -> StateIndex:
        return _HostIndex(self.net.S)


class _HostIndex(StateIndex):
    def __init__(self, S: int) -> None:
        self.table = dedup.StateTable(S)

    def add(self, n):
        index, fresh = self.table.add(n.numpy())
        return torch.from_numpy(index), torch.from_numpy(fresh)


class DeviceEnumeration(Enumeration):
    """GPU: the torch kernels; states never travel to the host."""

    def __init__(self, net: ReactionNetwork, device: torch.device) -> None:
        super().__init__(net)
        self.tt = tensor.TensorTables.from_tables(net.tables, net.s, net.limits, device)
        self.changes = torch.from_numpy(np.asarray(net.s, dtype=np.int32)).to(device)

    def inflow(self, n, t0, t1):
        y, inside = tensor.incoming(self.tt, n)
        row, reaction = inside.nonzero(as_tuple=True)
        y = y[row, reaction]
        rate = tensor.propensities_mean(self.tt, y, t0, t1).gather(1, reaction[:, None])[:, 0]
        bad = ~((rate >= 0.0) & torch.isfinite(rate))
        if bool(bad.any()):
            i = int(bad.nonzero()[0, 0])
            raise _bad_propensity(self.net, y[i].tolist(), int(reaction[i]), float(rate[i]), t0)
        return row, reaction, y, rate

    def outflow(self, n, t0, t1):
        return tensor.outflow(self.tt, n, t0, t1)

    def new_index(self) -> StateIndex:
        return _DeviceIndex(self.tt, self.changes.device)


class _DeviceIndex(StateIndex):
    """Sorted keys with their numbers; new keys are merged by sorting. See `_keys`."""

    def __init__(self, tt: tensor.TensorTables, device: torch.device) -> None:
        self.tt = tt
        self.keys = torch.zeros(0, dtype=torch.int64, device=device)
        self.numbers = torch.zeros(0, dtype=torch.int64, device=device)

    def add(self, n):
        unique, inverse = torch.unique(_keys(self.tt, n), return_inverse=True)
        rows = torch.arange(n.shape[0], device=n.device)
        first = torch.full_like(unique, n.shape[0]).scatter_reduce_(0, inverse, rows, reduce="amin")
        number = torch.full_like(unique, -1)
        if self.keys.numel():
            at = torch.searchsorted(self.keys, unique).clamp_max(self.keys.numel() - 1)
            number = torch.where(self.keys[at] == unique, self.numbers[at], number)
        new = (number < 0).nonzero()[:, 0]
        new = new[torch.argsort(first[new])]  # numbers follow first appearance
        number[new] = torch.arange(new.numel(), device=n.device) + self.keys.numel()
        self.keys, sorting = torch.sort(torch.cat([self.keys, unique[new]]))
        self.numbers = torch.cat([self.numbers, number[new]])[sorting]
        return number[inverse], n[first[new]]


def _keys(tt: tensor.TensorTables, n: torch.Tensor) -> torch.Tensor:
    """One int64 per state: the mixed-radix number where the whole box fits, else a 64-bit hash.

    Two of M hashed states collide with probability below M^2 / 2^64, that is 1e-7 at a million states.
    """
    if tt.radix is not None:
        return (n.to(torch.int64) * tt.radix).sum(dim=1)
    key = torch.zeros(n.shape[0], dtype=torch.int64, device=n.device)
    for i in range(n.shape[1]):  # splitmix64's mixing of each count in turn; int64 arithmetic wraps
        key = (key ^ n[:, i].to(torch.int64)) * -7046029254386353131
        for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
            key = (key ^ ((key >> shift) & ((1 << (64 - shift)) - 1))) * factor
        key = key ^ ((key >> 31) & ((1 << 33) - 1))
    return key


def make_enumeration(net: ReactionNetwork, device: torch.device) -> Enumeration:
    """The enumeration that runs where the samples live."""
    return HostEnumeration(net) if device.type == "cpu" else DeviceEnumeration(net, device)


def _bad_propensity(net: ReactionNetwork, state: list[int], k: int, value: float, t: float) -> InputError:
    where = ", ".join(f"{name} = {count}" for name, count in zip(net.species, state, strict=True))
    return InputError(
        f"reaction {k + 1} ({net.reactions[k].equation}) has propensity {value} at {where}, t = {t:g}. "
        "A propensity must be finite and not negative at every state within the limits: guard it, for example "
        "with piecewise(value, condition, 0) or max(0, value)."
    )
