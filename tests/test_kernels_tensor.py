"""Torch kernels agree with the compiled ones, on the CPU here and on a CUDA device where there is one."""

import numpy as np
import pytest
import torch
from kernel_networks import NETWORKS, random_states
from twins import program_tables, random_program, run_program

from hpcme.kernels import dedup, neighbours, propensity, tensor
from hpcme.model.builder import ModelBuilder
from hpcme.model.tables import OPCODES

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is present"),
        ],
    ),
]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(params=NETWORKS)
def case(request, device):
    """(network, its tensor tables, states as array, states as tensor)."""
    net = NETWORKS[request.param]
    n = random_states(net, 200)
    return (
        net,
        tensor.TensorTables.from_tables(net.tables, net.s, net.limits, device),
        n,
        torch.as_tensor(n).to(device),
    )


def test_propensities(case):
    net, tt, n, x = case
    expected = propensity.propensities(net.tables, n, 0.6)
    np.testing.assert_allclose(tensor.propensities(tt, x, 0.6).cpu().numpy(), expected, rtol=1e-14)
    expected = propensity.propensities_mean(net.tables, n, 0.6, 1.4)
    np.testing.assert_allclose(tensor.propensities_mean(tt, x, 0.6, 1.4).cpu().numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
def test_neighbours(case, direction):
    net, tt, n, x = case
    y, inside = getattr(tensor, direction)(tt, x)
    expected, expected_inside = getattr(neighbours, direction)(n, net.s, net.limits)
    np.testing.assert_array_equal(inside.cpu().numpy(), expected_inside)
    np.testing.assert_array_equal(y.cpu().numpy(), expected)
    assert y.dtype == torch.int32


def test_outflow(case):
    net, tt, n, x = case
    for times in ((0.6, None), (0.6, 1.1)):
        a, leak = tensor.outflow(tt, x, *times)
        expected, expected_leak = neighbours.outflow(net.tables, n, net.s, net.limits, *times)
        np.testing.assert_allclose(a.cpu().numpy(), expected, rtol=1e-14)
        np.testing.assert_allclose(leak.cpu().numpy(), expected_leak, rtol=1e-13)


def test_unique_states(case):
    _, tt, n, x = case
    got = tensor.unique_states(tt, x)
    for array, expected in zip(got, dedup.unique_states(n), strict=True):
        np.testing.assert_array_equal(array.cpu().numpy(), expected)


def test_unique_states_in_a_box_too_large_for_one_number(device):
    builder = ModelBuilder("wide")
    for i in range(12):
        builder.species(f"X{i}", initial=0, max=99)
    net = builder.reaction("0 -> X0", rate=1.0).build()
    tt = tensor.TensorTables.from_tables(net.tables, net.s, net.limits, device)
    assert tt.radix is None
    n = random_states(net, 30)[np.random.default_rng(0).integers(0, 30, 500)]
    got = tensor.unique_states(tt, torch.as_tensor(n).to(device))
    for array, expected in zip(got, dedup.unique_states(n), strict=True):
        np.testing.assert_array_equal(array.cpu().numpy(), expected)


def test_every_opcode(device):
    rng = np.random.default_rng(11)
    n = rng.integers(0, 9, size=(8, 3)).astype(np.int32)
    used = set()
    for _ in range(300):
        program = random_program(rng, 3, int(rng.integers(3, 25)))
        used |= {name for name, _ in program}
        tables = program_tables(program)
        tt = tensor.TensorTables.from_tables(tables, np.ones((1, 3), dtype=np.int64), np.full(3, 9), device)
        with np.errstate(all="ignore"):
            expected = [run_program(program, row, 0.7) for row in n.tolist()]
        got = tensor.propensities(tt, torch.as_tensor(n).to(device), 0.7).cpu().numpy()[:, 0]
        np.testing.assert_allclose(got, expected, rtol=1e-9, err_msg=str(program))
    assert used == set(OPCODES)
