"""A run on a GPU: the same law as on the CPU, states that never leave the device, and collectives by NCCL or none."""

import numpy as np
import pytest
import torch
from solver_cases import evolution_of, job_of

from hpcme.exact.fsp import solve_fsp
from hpcme.parallel.world import open_world

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")]


@pytest.mark.parametrize("name", ["toggle", "closed", "driven"])
def test_law_on_the_gpu_follows_the_exact_solution(name):
    job = job_of(name, 0.3, run__device="cuda", sampling__samples=3000, solver__epochs=25, network__width=24)
    world = open_world("cuda")
    evolution = evolution_of(job, world)
    assert evolution.run() and evolution.scheme.network.device.type == "cuda"
    solution = solve_fsp(job.net, [0.3], reflecting=True)
    with torch.no_grad():
        q = evolution.scheme.network.log_prob(torch.from_numpy(solution.states).cuda()).exp().cpu().numpy()
    assert 0.5 * np.abs(q - solution.p[-1]).sum() < 0.05


def test_samples_are_those_of_the_cpu():
    gpu, cpu = open_world("cuda"), None
    on_gpu = evolution_of(job_of("toggle", 0.3, run__device="cuda"), gpu).scheme.survey(0).cpu()
    on_cpu = evolution_of(job_of("toggle", 0.3, run__device="cpu"), cpu).scheme.survey(0)
    # the start is fitted on each device: probabilities differ by rounding, so a few draws may differ
    assert (on_gpu == on_cpu).all(dim=1).double().mean() > 0.98
