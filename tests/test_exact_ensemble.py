"""Ensembles of trajectories against the exact solution, and their independence of chunks."""

import numpy as np
import pytest
from kernel_networks import NETWORKS, SMALL_EPIDEMIC, build

from hpcme.errors import InputError, NumericalError
from hpcme.exact import ensemble
from hpcme.exact.ensemble import solve_ssa, starting_states
from hpcme.exact.fsp import solve_fsp
from hpcme.model.builder import ModelBuilder

Z = 4.5


def z_scores(samples, exact):
    """z-scores of sample means and variances, with the exact moments of order 1, 2 and 4 (exact is
    (states, p)).
    """
    states, p = exact
    p = p / p.sum()
    N = len(samples)
    mean = p @ states
    centred = states - mean
    variance, fourth = p @ centred**2, p @ centred**4
    moving = variance > 0
    z_mean = (samples.mean(axis=0) - mean)[moving] / np.sqrt(variance[moving] / N)
    spread = ((samples - mean) ** 2).mean(axis=0)  # its variance is (mu4 - var^2) / N; zero for a fair coin
    width = np.sqrt(np.maximum(fourth - variance**2, 1e-12)[moving] / N)
    return z_mean, (spread - variance)[moving] / width


@pytest.mark.parametrize(
    "name, limits, times, count",
    [
        ("toggle", {"Px": 95, "Py": 95}, [1.0, 4.0], 4000),
        ("toggle_power", {"Px": 95, "Py": 95}, [1.0], 4000),
        ("schlogl", {"X": 150}, [0.05, 0.4], 4000), ("autoregulation", {"P": 110}, [0.7, 6.0], 10_000),
        ("epidemic", SMALL_EPIDEMIC["limits"], [5.0, 20.0], 4000), ("early_life", None, [0.5], 4000),
    ],
)  # fmt: skip
def test_moments_agree_with_the_exact_law(name, limits, times, count):
    net = build(name, limits=limits, initial=SMALL_EPIDEMIC["initial"] if name == "epidemic" else None)
    exact = solve_fsp(net, times)
    assert exact.lost[-1] < 1e-6
    samples = solve_ssa(net, times, count, seed=20).samples
    for i in range(len(times)):
        for z in z_scores(samples[i].astype(float), (exact.states, exact.p[i])):
            assert np.abs(z).max() < Z


def test_chunks_change_nothing(monkeypatch):
    net = ModelBuilder("m").species("X", initial={"poisson": 3.0}, max=40).species("Y", initial=2, max=9)
    net = net.reaction("X -> Y", rate=1.0).reaction("Y -> 0", rate=0.3).build()
    whole = solve_ssa(net, [0.0, 1.0], 500, seed=9)
    parts = [solve_ssa(net, [0.0, 1.0], 125, seed=9, first_index=125 * i).samples for i in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole.samples)
    monkeypatch.setattr(ensemble, "_CHUNK", 77)
    np.testing.assert_array_equal(solve_ssa(net, [0.0, 1.0], 500, seed=9).samples, whole.samples)


def test_starts_follow_the_starting_law():
    builder = (
        ModelBuilder("m")
        .species("X", initial={"poisson": 3.0}, max=40)
        .species("Y", initial={"uniform": [2, 5]}, max=9)
    )
    net = builder.reaction("X -> Y", rate=1.0).build()
    start = starting_states(net, 5, 0, 20_000).astype(float)
    states, p = net.initial.support()
    for z in z_scores(start, (states, p)):
        assert np.abs(z).max() < Z
    assert abs(np.corrcoef(start.T)[0, 1]) < Z / np.sqrt(20_000)


def test_moments_of_the_samples():
    solution = solve_ssa(NETWORKS["toggle"], [0.5, 1.0], 50, seed=1)
    flat = solution.samples.astype(float)
    np.testing.assert_allclose(solution.mean(), flat.mean(axis=1))
    np.testing.assert_allclose(solution.sd(), flat.std(axis=1, ddof=1))
    np.testing.assert_allclose(solution.covariance()[1], np.cov(flat[1].T), atol=1e-12)
    assert solution.events.shape == (50,) and solution.samples.dtype == np.int32


def test_progress_rises_to_one(monkeypatch):
    monkeypatch.setattr(ensemble, "_CHUNK", 40)
    seen = []
    solve_ssa(NETWORKS["schlogl"], [1e-4], 100, progress=seen.append)
    assert seen == [0.4, 0.8, 1.0]


def test_failures_name_the_trajectory_and_the_fix():
    grow = ModelBuilder("grow").species("X", initial=1, max=9).reaction("X -> 2 X", rate=5.0).build()
    with pytest.raises(NumericalError, match=r"trajectory 0 had more than 100 reactions"):
        solve_ssa(grow, [10.0], 3, max_events=100)
    bad = ModelBuilder("bad").species("X", initial=3, max=9).reaction("X -> 0", propensity="X - 1.5").build()
    with pytest.raises(InputError, match="negative or not finite"):
        solve_ssa(bad, [50.0], 3)
    jump = ModelBuilder("jump").species("X", initial=0, max=9).reaction("0 -> 1000 X", rate=1e3).build()
    with pytest.raises(NumericalError, match="2147483647"):
        solve_ssa(jump, [2300.0], 1)
    for times, count, words in (
        ([], 3, "non-empty"),
        ([1.0, 0.5], 3, "increasing"),
        ([1.0], 0, "at least 1"),
    ):
        with pytest.raises(InputError, match=words):
            solve_ssa(grow, times, count)
