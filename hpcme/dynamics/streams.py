"""Random numbers as a function of (seed, purpose, step, epoch, shard), never of rank count or call order.

The stream is Philox (Salmon et al. 2011), a counter-based generator: key = (seed, purpose), counter = (0, shard,
epoch, step). Every stream has 2**64 blocks of its own, so streams cannot overlap.
"""

from __future__ import annotations

import numpy as np
import torch

#: What random numbers are for; each purpose has its own key.
PURPOSES = {"fit": 1, "train": 2, "cover": 3, "report": 4, "user": 5, "tail": 6, "certificate": 7, "event": 8}


def uniforms(
    seed: int, purpose: str, step: int, epoch: int, shards: range, rows: int, columns: int, device: torch.device
) -> torch.Tensor:
    """Uniform numbers in [0, 1), float64 [len(shards) * rows, columns], shard after shard."""
    blocks = [generator(seed, purpose, step, epoch, shard).random((rows, columns)) for shard in shards]
    return torch.from_numpy(np.concatenate(blocks) if len(blocks) != 1 else blocks[0]).to(device)


def generator(seed: int, purpose: str, step: int, epoch: int, shard: int) -> np.random.Generator:
    """The numpy generator behind one stream."""
    key = np.array([seed, PURPOSES[purpose]], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, shard, epoch, step], dtype=np.uint64)))
