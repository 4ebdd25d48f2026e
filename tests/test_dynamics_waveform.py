"""The exponential trapezoidal rule on covering samples, for many species."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from solver_cases import evolution_of, follow, tdvp_job

from hpcme import load_job
from hpcme.dynamics.covering import Coverage
from hpcme.dynamics.waveform import Waveform, _phi1, _phi2
from hpcme.errors import NumericalError
from hpcme.model.builder import ModelBuilder
from hpcme.networks.heads import choose_head

LINKS = 8


def chain(limit=9):
    """Births of X1 at rate 4, X1 -> X2 -> ... at rate 3, deaths at rate 1: product of Poisson laws at all times."""
    builder = ModelBuilder("chain")
    for i in range(1, LINKS + 1):
        builder.species(f"X{i}", initial=0, max=limit)
    builder.reaction("0 -> X1", rate=4.0)
    for i in range(1, LINKS + 1):
        builder.reaction(f"X{i} -> 0", rate=1.0)
        if i < LINKS:
            builder.reaction(f"X{i} -> X{i + 1}", rate=3.0)
    return builder.build()


def means(t):
    M = np.diag([-4.0] * (LINKS - 1) + [-1.0, 0.0]) + np.diag([3.0] * (LINKS - 1) + [0.0], -1)
    M[0, LINKS] = 4.0
    return scipy.linalg.expm(M * t)[:LINKS, LINKS]


def chain_job(end, **overrides):
    keys = {"time.end": end, "time.report": [end], "output.report_samples": 200, "solver.start_jumps": 3.0}
    return load_job({"model": chain()}, overrides=keys | {k.replace("__", "."): v for k, v in overrides.items()})


def divergence(network, t):
    """KL(exact || q) by samples of the exact law, and its standard error."""
    n = np.random.default_rng(1).poisson(means(t), size=(20_000, LINKS)).astype(np.int32)
    n = n[(n <= 9).all(axis=1)]
    exact = scipy.stats.poisson.logpmf(n, means(t)).sum(axis=1) - scipy.stats.poisson.logcdf(9, means(t)).sum()
    with torch.no_grad():
        difference = exact - network.log_prob(torch.from_numpy(n)).numpy()
    return difference.mean(), difference.std() / np.sqrt(len(n))


def test_phi_functions():
    x = np.array([0.0, 1e-12, 1e-7, 1e-4, 9e-3, 1.1e-2, 0.5, 3.0, 80.0])
    exact1 = np.array([float(np.longdouble(1)) if v == 0 else -np.expm1(-v) / v for v in x])
    np.testing.assert_allclose(_phi1(torch.from_numpy(x)).numpy(), exact1, rtol=1e-12)
    # phi_2 is the integral of (1 - s) exp(-x s) over s in [0, 1].
    s, w = np.polynomial.legendre.leggauss(60)
    s, w = 0.5 * (s + 1), 0.5 * w
    exact2 = [(w * (1 - s) * np.exp(-v * s)).sum() for v in x]
    np.testing.assert_allclose(_phi2(torch.from_numpy(x)).numpy(), exact2, rtol=1e-8)


def test_many_species_choose_it():
    job = chain_job(1.0)
    assert (job["solver.scheme"], job["solver.integrator"], job["network.head"]) == ("tdvp", "waveform", "smooth")
    scheme = evolution_of(job).scheme
    assert isinstance(scheme.integrator, Waveform)
    assert scheme.sampler.coverage == Coverage(5000, 0.5, 0.1, 0.3, 0, each=True)
    assert {type(head).__name__ for head in scheme.network.heads} == {"SplineHead"}
    flat = torch.full((5,), 0.2, dtype=torch.float64)
    assert choose_head("smooth", flat) == "categorical"  # limits up to 4


@pytest.mark.parametrize("seed", range(2))
def test_a_chain_of_eight_species_follows_its_product_of_poisson_laws(seed):
    """1e8 states. Fronts run along the chain: every species is invaded in turn, and none may lag behind."""
    evolution, rows, _ = follow(chain_job(1.5, run__seed=seed, sampling__samples=2500), exact=False)
    network = evolution.scheme.network
    kl, error = divergence(network, 1.5)
    assert kl <= 0.003 + 3 * error
    n = network.sample(torch.from_numpy(np.random.default_rng(2).random((100_000, LINKS))))[0].double().numpy()
    limit = 0.02 * means(1.5) + 4 * n.std(axis=0) / np.sqrt(len(n))
    assert (np.abs(n.mean(axis=0) - means(1.5)) <= limit).all()
    assert len(rows) < 150


@torch.no_grad()
def test_a_restored_run_takes_bitwise_the_same_step():
    job = chain_job(1.0, sampling__samples=400)
    first, second = evolution_of(job), evolution_of(job)
    first._advance()
    second.restore(first.state())
    first._advance()
    second._advance()
    assert torch.equal(first.scheme.flat(), second.scheme.flat()) and first.t == second.t


@torch.no_grad()
def test_numbers_that_are_not_finite_fail_the_step_and_nothing_else():
    evolution = evolution_of(chain_job(1.0, sampling__samples=400))
    scheme, before = evolution.scheme, evolution.scheme.flat().clone()
    cloud = scheme._cloud

    def spoiled(step, t, h):
        found = cloud(step, t, h)
        found[0].weight[0] = torch.nan
        return found

    scheme._cloud = spoiled
    with pytest.raises(NumericalError, match="does not follow the law"):
        scheme.advance(0, evolution.t, 0.1)
    assert torch.equal(scheme.flat(), before)


def test_a_small_network_and_its_bound():
    """Exact sums, where the true distance is known."""
    keys = {"solver__integrator": "waveform", "solver__tolerance": 0.02}
    _, _, reports = follow(tdvp_job("driven", 1.0, **keys))
    assert reports[-1][1] <= 0.01 and reports[-1][1] <= reports[-1][2]


@pytest.mark.parametrize(("name", "end"), [("toggle", 0.3), ("closed", 0.6)])
def test_more_samples_leave_less_error(name, end):
    """Twice the samples, half the squared error: here four times as many, in eight seeds, against the exact law.
    The ratio of mean squared distances is 4 in theory; chance moves it by a factor of two."""
    found = []
    for samples in (60, 240) if name == "toggle" else (10, 40):
        keys = {"solver__integrator": "waveform", "sampling__exact": False, "sampling__samples": samples}
        distances = [follow(tdvp_job(name, end, run__seed=seed, **keys))[2][-1][1] for seed in range(8)]
        found.append(np.mean(np.square(distances)))
    assert found[0] > 2.0 * found[1]
