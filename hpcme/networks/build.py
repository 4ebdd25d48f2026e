"""From a plain description to a network, and back: what a checkpoint needs to be opened on any machine."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import numpy as np
import torch

from hpcme.errors import InputError
from hpcme.kernels.reach import reachable
from hpcme.model.event import remaps
from hpcme.model.influence import distances, regulators
from hpcme.model.network import ReactionNetwork
from hpcme.model.ordering import resolved_order
from hpcme.networks import support as supports
from hpcme.networks.base import VAN
from hpcme.networks.basis import Basis
from hpcme.networks.gru import GRU
from hpcme.networks.made import MADE
from hpcme.networks.nade import NADE
from hpcme.networks.remapped import RemappedLaw
from hpcme.networks.transformer import Transformer

_HUBS = 2  # regulators are seen from far off where they are so few: they are correlated with all that they regulate
KINDS: dict[str, type[VAN]] = {"basis": Basis, "gru": GRU, "made": MADE, "transformer": Transformer, "nade": NADE}


def network_spec(
    net: ReactionNetwork, *, kind: str, width: int, depth: int, heads: list[str], order: str | list[str], dtype: str,
    support_states: int, end: float, sight: int | None = None, far: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Description of a network as plain values (JSON-able): everything but the parameters.

    end: horizon over which time-dependent rates are looked at for reachability. sight: conditionals see species up to
    this many reactions away (None: all); far: and, of those further away, the total count, and one by one the counts
    of regulators (which set the rates of reactions that leave them as they are), if these are few.
    """
    names = resolved_order(net, order)
    spec = {
        "kind": kind, "width": width, "depth": depth, "heads": list(heads), "order": names, "dtype": dtype,
        "support_states": support_states, "end": end,
    }  # fmt: skip
    if sight is not None:
        places = [net.species.index(name) for name in names]
        away = distances(net)[np.ix_(places, places)]
        if (away > sight).any():
            near, joined = away <= sight, away < net.S  # a distance of S: no reaction leads there
            if far and (hubs := regulators(net)[places]).sum() <= _HUBS:
                near |= joined & hubs
            spec["sees"] = [np.flatnonzero(near[i, :i]).tolist() for i in range(net.S)]
            if far:
                beyond = joined & ~near
                spec["far"] = [np.flatnonzero(beyond[i, :i]).tolist() for i in range(net.S)]
    return spec


def build_network(spec: dict[str, Any], net: ReactionNetwork, seed: int = 0, support: Any = None) -> VAN:
    """A network with freshly drawn parameters, a function of the seed alone.

    spec: from `network_spec`. support: an already built `Support`, to share it between networks.
    """
    order = [net.species.index(name) for name in spec["order"]]
    if support is None:
        support = build_support(net, order, spec["support_states"], spec["end"])
    dtype = getattr(torch, spec["dtype"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec["kind"] == "basis":
            laws = net.laws
            sums = [*zip(laws.equalities.tolist(), laws.values.tolist(), strict=True)]
            sums += zip(laws.inequalities.tolist(), laws.bounds.tolist(), strict=True)
            return Basis(
                net.limits, order, support, spec["width"], spec["heads"], dtype, sums, spec.get("sees"),
                spec.get("far"),
            )  # fmt: skip
        return KINDS[spec["kind"]](net.limits, order, support, spec["width"], spec["depth"], spec["heads"], dtype)


def build_support(net: ReactionNetwork, order: list[int], max_states: int, end: float) -> supports.Support:
    """Exact support: the reachable states where they can be enumerated, else all states that obey the laws.

    The laws are the network's limits, its conservation laws, and the sums that no reaction can raise.
    """
    limits = np.asarray(net.limits, dtype=np.int64)
    states = enumerate_reachable(net, max_states, end)
    if states is not None:
        return supports.from_states(states[:, order], limits[order])
    laws = net.laws
    if len(laws.equalities) or len(laws.inequalities):
        return supports.from_laws(
            limits[order], laws.equalities[:, order], laws.values, laws.inequalities[:, order], laws.bounds
        )
    return supports.box(limits[order])


def enumerate_reachable(net: ReactionNetwork, max_states: int, end: float) -> np.ndarray | None:
    """Reachable states within the limits, int32 [M, S], through events until `end` too, or None when there are more
    than max_states.

    The last answer is remembered: reading a job, its support and its solver all ask for the same states. Never write
    into them.
    """
    global _last
    if not net.time_dependent:
        end = float(max(net.event_times(end), default=0.0))
    if _last is not None and _last.net() is net and _last.end == end:
        if _last.states is not None:
            return _last.states if len(_last.states) <= max_states else None
        if max_states <= _last.limit:
            return None
    states = _enumerate(net, max_states, end)
    _last = _Reached(weakref.ref(net), end, max_states, states)
    return states


class _Reached(NamedTuple):
    """The reachable states of a network, or None where there are more than the limit."""

    net: weakref.ref
    end: float
    limit: int
    states: np.ndarray | None


_last: _Reached | None = None


def _enumerate(net: ReactionNetwork, max_states: int, end: float) -> np.ndarray | None:
    try:
        start, _ = net.initial.support(max_states=max_states)
    except InputError:
        return None  # the start alone has more states than that
    states, complete = reachable(
        start, net.tables, net.s, net.limits, max_states, times=probe_times(end) if net.time_dependent else None,
        remaps=remaps(net, end),
    )  # fmt: skip
    return states if complete else None


def probe_times(end: float) -> np.ndarray:
    """Times at which a time-dependent propensity is looked at to see whether it can be positive, float64 [1025].

    A rate that is positive for less than about a thousandth of the time can be missed; the solver then says so.
    """
    golden = 0.6180339887498949  # a low-discrepancy sequence meets no period of the rates systematically
    return np.concatenate([[0.0], (np.arange(1, 1024) * golden % 1.0) * end, [end]])


def parameters_of(network: VAN) -> dict[str, np.ndarray]:
    """Trainable parameters and head bases of a network as named arrays."""
    return {name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}


def load_law(spec: dict[str, Any], arrays: dict[str, np.ndarray], net: ReactionNetwork) -> StoredLaw:
    """The law that a report stored: the model's initial law, a table, a network, or what events made of one."""
    if spec["kind"] == "initial":
        return StoredLaw(net.initial)
    if spec["kind"] == "table":
        from hpcme.model.initial import TableLaw

        return StoredLaw(TableLaw(arrays["states"], arrays["p"], net.limits))
    if spec["kind"] == "remapped":
        before = load_law(spec["of"], arrays, net).law
        return StoredLaw(RemappedLaw(net, before, spec["t"], spec["lost"]))
    network = build_network(spec, net)
    _refuse_unfitting(network.state_dict(), arrays)
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
    return StoredLaw(network)


def _refuse_unfitting(wanted: dict[str, torch.Tensor], stored: dict[str, np.ndarray]) -> None:
    """Raise InputError when the stored parameters are not those of the network that their description gives."""
    differing = sorted(f"{name} is missing" for name in wanted.keys() - stored.keys())
    differing += sorted(f"{name} is unknown" for name in stored.keys() - wanted.keys())
    for name in sorted(wanted.keys() & stored.keys()):
        shape, seen = tuple(wanted[name].shape), np.shape(stored[name])
        if shape != seen:
            differing.append(f"{name} has shape {seen} instead of {shape}")
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise InputError(
            f"the stored network was written by another version of hpcme, whose networks had other parameters: "
            f"{'; '.join(differing[:5])}{more}. Moments, marginals and samples of the run can still be read. Fix: open "
            "it with the version that wrote it (hpcme in its provenance), or repeat the run with this one."
        )


class StoredLaw:
    """A law at one time, opened for use: samples and log-probabilities as numpy arrays."""

    def __init__(self, law: Any) -> None:
        self.law = law

    def sample(self, N: int, seed: int = 0) -> np.ndarray:
        """N independent states, int32 [N, S] in the model's species order; a function of the seed alone."""
        u = np.random.default_rng(seed).random((N, len(self.law.limits)))
        if isinstance(self.law, VAN):
            return np.concatenate([self.law.sample(part)[0].numpy() for part in torch.from_numpy(u).split(50_000)])
        return self.law.sample(u)

    def log_prob(self, n: np.ndarray) -> np.ndarray:
        """Natural log-probabilities float64 [N] of states n int [N, S]; -inf outside the support."""
        n = np.ascontiguousarray(n, dtype=np.int64)
        if isinstance(self.law, VAN):
            with torch.no_grad():
                return self.law.log_prob(torch.from_numpy(n)).numpy()
        return self.law.log_prob(n)

