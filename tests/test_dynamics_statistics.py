"""Sums over counts of a head's features: sparse matrices give what dense ones give."""

import pytest
import torch

from hpcme.dynamics import statistics
from hpcme.dynamics.statistics import Features
from hpcme.networks.heads import FineSplineHead, SplineHead


@pytest.mark.parametrize("head", [SplineHead, FineSplineHead])
def test_sparse_sums_are_the_dense_ones(head, monkeypatch):
    phi = head(1, 300, torch.float64).features()
    dense = Features(phi, 301, phi.device)
    monkeypatch.setattr(statistics, "_DENSE", 0)
    sparse = Features(phi, 301, phi.device)
    assert dense.sparse is None and sparse.sparse is not None
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(7, 301, dtype=torch.float64, generator=generator)
    natural = torch.randn(7, len(phi), dtype=torch.float64, generator=generator)
    torch.testing.assert_close(sparse.logits(natural), dense.logits(natural), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sparse.mean(p), dense.mean(p), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sparse.second(p), dense.second(p), rtol=1e-12, atol=1e-12)
    k, l = dense.pairs
    torch.testing.assert_close(dense.second(p), p @ (phi[k] * phi[l]).T, rtol=1e-12, atol=1e-12)


def test_free_logits_are_their_own_features():
    features, p = Features(None, 4, torch.device("cpu")), torch.rand(3, 4, dtype=torch.float64)
    assert features.logits(p) is p and features.mean(p) is p and features.second(p) is p
    assert features.pairs[0].tolist() == features.pairs[1].tolist() == [0, 1, 2, 3]
