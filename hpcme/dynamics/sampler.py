"""Which samples a rank draws: logical shards, covering rows, and the network's flat parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hpcme.dynamics.streams import uniforms
from hpcme.errors import InputError


@dataclass(frozen=True)
class Shards:
    """The part of the global sample set that this rank owns.

    The number of shards belongs to the job and each shard has its own random stream, so the sample set does not
    depend on how many ranks share the work.
    """

    seed: int
    owned: range  # shards of this rank
    total: int  # shards of the job
    drawn: int  # rows per shard drawn from the network
    pushed: int  # rows per shard pushed one transition ahead
    tempered: int  # rows per shard drawn from the flattened law, for the tails
    device: torch.device

    @classmethod
    def split(
        cls, seed: int, samples: int, shards: int, cover: float, rank: int, size: int, device: torch.device,
        tail: float = 0.0,
    ) -> Shards:  # fmt: skip
        """Share `samples` (rounded up to equal shards) among ranks; `cover` and `tail` are the pushed and the tempered
        share of each shard."""
        if shards < size:
            raise InputError(
                f"sampling.shards = {shards} leaves ranks without work: the job runs on {size} ranks. Set "
                f"sampling.shards to at least {size} (a multiple of it shares the work evenly), or start fewer ranks."
            )
        rows = -(-samples // shards)
        tempered = min(round(tail * rows), rows - 1)
        pushed = min(round(cover * rows), rows - tempered - 1)
        return cls(seed, owned_range(shards, rank, size), shards, rows - pushed - tempered, pushed, tempered, device)

    @property
    def rows(self) -> int:
        """Rows per shard."""
        return self.drawn + self.pushed + self.tempered

    @property
    def samples(self) -> int:
        """Rows of the whole job in one epoch."""
        return self.rows * self.total

    def uniforms(self, purpose: str, step: int, epoch: int, rows: int, columns: int) -> torch.Tensor:
        """This rank's uniforms, float64 [len(owned) * rows, columns]."""
        return uniforms(self.seed, purpose, step, epoch, self.owned, rows, columns, self.device)

    def rotate(self, base: torch.Tensor, epoch: int, count: int) -> torch.Tensor:
        """`count` rows per shard out of base [len(owned) * drawn, S], other ones in every epoch."""
        shard = torch.arange(len(self.owned), device=base.device)[:, None] * self.drawn
        row = (torch.arange(count, device=base.device) + epoch * count) % self.drawn
        return base[(shard + row[None, :]).reshape(-1)]


def owned_range(shards: int, rank: int, size: int) -> range:
    """Contiguous shards of one rank; their numbers differ by at most one between ranks."""
    return range(rank * shards // size, (rank + 1) * shards // size)


class FlatNetwork:
    """A network whose parameters are views of one flat vector: one buffer to reduce, update and store."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network
        self.parameters = list(network.parameters())
        flat = torch.nn.utils.parameters_to_vector(self.parameters).detach().clone()
        self.flat = torch.nn.Parameter(flat)
        torch.nn.utils.vector_to_parameters(self.flat.data, self.parameters)

    def gradient(self, scalar: torch.Tensor) -> torch.Tensor:
        """Gradient of a scalar as one flat vector [P]; zero for parameters it does not touch."""
        parts = torch.autograd.grad(scalar, self.parameters, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(self.parameters, parts, strict=True)]
        )
