"""Natural gradient: scores against autograd, steps against dense least squares, fits against exact laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solver_cases import WORLD, evolution_of, job_of, model, random_network, total_variation

from hpcme.dynamics.natural import Equations, LevenbergMarquardt, Scores
from hpcme.errors import InputError
from hpcme.networks import support as supports


def network_and_states(kind: str, head: str = "spline", depth: int = 1):
    limits = np.array([3, 20, 5])
    support = supports.from_laws(
        limits, np.array([[1, 0, 1]]), np.array([5]), np.zeros((0, 3), dtype=int), np.zeros(0, dtype=int)
    )
    network = random_network(kind, limits, [0, 1, 2], support, head=head, depth=depth)
    u = torch.rand(17, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return network, network.sample(u)[0]


@pytest.mark.parametrize(
    ("kind", "depth"),
    [("gru", 1), ("gru", 2), ("made", 1), ("made", 2), ("basis", 1), ("transformer", 2), ("nade", 1), ("nade", 2)],
)
def test_scores_are_gradients_of_single_log_probabilities(kind, depth, monkeypatch):
    network, n = network_and_states(kind, depth=depth)
    monkeypatch.setattr("hpcme.dynamics.natural._CHUNK_ENTRIES", 5 * Scores(network).size)  # several chunks
    scores = Scores(network)(n)
    parameters = list(network.parameters())
    for b in range(len(n)):
        parts = torch.autograd.grad(network.log_prob(n[b : b + 1])[0], parameters, allow_unused=True)
        row = [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(parameters, parts, strict=True)]
        # the same sums in another order: a few units in the last place of numbers of size 1
        assert torch.allclose(scores[b], torch.cat(row), rtol=1e-12, atol=1e-13)
    assert torch.allclose(network(n), network.log_prob(n), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("B", "P"), [(12, 40), (40, 12)])
def test_both_forms_solve_the_damped_least_squares_problem(B, P):
    random = np.random.default_rng(0)
    scores, weight, residual = random.normal(size=(B, P)), random.random(B) + 0.1, random.normal(size=B)
    damping = 1e-3
    w = weight / weight.sum()
    centred = scores - w @ scores
    r = residual - w @ residual
    diagonal = (w[:, None] * centred**2).sum(axis=0)
    metric = np.maximum(diagonal, 0.1 * diagonal.max())
    rows = np.vstack([np.sqrt(w)[:, None] * centred, np.diag(np.sqrt(damping * metric))])
    expected = -np.linalg.lstsq(rows, np.concatenate([np.sqrt(w) * r, np.zeros(P)]), rcond=None)[0]
    for form in ("parameters", "states", None):
        equations = Equations(*(torch.from_numpy(x.copy()) for x in (scores, weight, residual)), WORLD, form)
        assert equations.form == (form or ("states" if P > B else "parameters"))
        # condition number 1e3 to 1e4 of the normal equations, rounding 1e-16
        assert np.allclose(equations.step(damping).numpy(), expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_equal_samples_count_like_one_of_their_common_weight():
    random = np.random.default_rng(1)
    scores, residual = random.normal(size=(6, 20)), random.normal(size=6)
    many = np.array([3, 1, 2, 1, 1, 4])
    merged = [torch.from_numpy(x.copy()) for x in (scores, many.astype(float), residual)]
    spread = [torch.from_numpy(np.repeat(x, many, axis=0)) for x in (scores, np.ones(6), residual)]
    a, b = (Equations(*x, WORLD).step(1e-3) for x in (merged, spread))
    assert torch.allclose(a, b, rtol=0, atol=1e-11 * float(a.abs().max()))


def test_a_step_that_makes_the_fit_worse_is_undone_and_damped():
    network, n = network_and_states("gru")
    fit = LevenbergMarquardt(Scores(network), WORLD, 1e-3)
    start = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    flat, weight = start.clone(), torch.ones(len(n), dtype=torch.float64)
    residual = torch.linspace(-1, 1, len(n), dtype=torch.float64)
    fit.update(flat, n, weight, residual, 0.5)
    first = flat - start
    fit.update(flat, n, weight, residual, 0.7)
    second = flat - start
    assert 0.0 < second.norm() < first.norm() and fit.damping == pytest.approx(1e-2)
    fit.update(flat, n, weight, residual, float("nan"))
    assert fit.damping == pytest.approx(1e-1)
    assert fit.settle(flat, 0.6) == 0.5 and torch.equal(flat, start)  # the best was the start
    fit.begin()
    flat = start.clone()
    fit.update(flat, n, weight, residual, 0.5)
    moved = flat.clone()
    assert fit.settle(flat, 0.4) == 0.4 and torch.equal(flat, moved)
    fit.update(flat, n, weight, residual, 0.499)
    assert fit.settled and torch.equal(flat, moved)  # hardly anything was won: this is the end


@pytest.mark.parametrize(
    ("name", "end", "bound", "kind"),
    [("closed", 0.4, 0.004, kind) for kind in ("gru", "made", "nade")]
    + [("driven", 0.5, 0.004, kind) for kind in ("gru", "made", "transformer")],
)
def test_laws_follow_the_exact_solution_closer_than_with_adam(name, end, bound, kind):
    """Adam is held to 0.02 to 0.03 on these (test_dynamics_projection)."""
    more = {"sampling__samples": 2000, "network__kind": kind, "solver__start_epochs": 1500}
    job = job_of(name, end, solver__optimiser="natural", solver__epochs=4, **more)
    evolution = evolution_of(job)
    assert evolution.run()
    assert total_variation(evolution.scheme.network, job.net, end) < bound


def test_epochs_follow_the_optimiser_and_other_losses_are_refused():
    from hpcme import load_job

    def keys(**more):
        return {"solver.scheme": "projection", "time.end": 1.0} | {k.replace("__", "."): v for k, v in more.items()}

    source = {"model": model("closed")}
    assert load_job(source, overrides=keys())["solver.optimiser"] == "natural"
    assert load_job(source, overrides=keys())["solver.epochs"] == 4
    assert load_job(source, overrides=keys(solver__optimiser="adam"))["solver.epochs"] == 20
    assert load_job(source, overrides=keys(solver__loss="l2"))["solver.optimiser"] == "adam"
    with pytest.raises(InputError, match=r'solver.optimiser = "natural" goes with solver.loss = "kl" only'):
        load_job(source, overrides=keys(solver__optimiser="natural", solver__loss="l2"))
