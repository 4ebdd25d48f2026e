"""The scheme `projection`: unbiased gradients, convergence to the exact law, exact start, time steps that land."""

import numpy as np
import pytest
import torch
from solver_cases import MODELS, all_states, evolution_of, exact, job_of, model, total_variation

from hpcme import load_job
from hpcme.dynamics.losses import LOSSES
from hpcme.dynamics.sampler import Shards, owned_range
from hpcme.dynamics.start import fit, marginals
from hpcme.dynamics.streams import generator, uniforms
from hpcme.dynamics.target import Target
from hpcme.errors import InputError, NumericalError
from hpcme.exact.fsp import solve_fsp
from hpcme.kernels.neighbours import outflow

# ---- gradients -------------------------------------------------------------------------------------------------


def exact_gradient(loss, live, network, states, target_log, r_log):
    """Gradient of the loss by sums over all states, through autograd."""
    logq = network.log_prob(states)
    q = logq.exp()
    if loss == "kl":  # half the variance of log q' - log T under the fixed law r
        r = r_log.exp()
        d = logq - target_log
        value = 0.5 * (r * (d - (r * d).sum().detach()) ** 2).sum()
    elif loss == "l2":
        scale = target_log.max()
        value = 0.5 * ((q - target_log.exp()) ** 2).sum() * (-scale).exp()
    else:
        value = 1 - (q * target_log.exp()).sqrt().sum()
    return live.gradient(value)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("cover", [0.0, 0.4])
def test_sampled_gradient_is_the_gradient_of_the_loss(loss, cover):
    job = job_of("closed", 1.0, solver__loss=loss, sampling__cover=cover, sampling__tail=0.0, sampling__samples=60_000)
    evolution = evolution_of(job)
    scheme, net = evolution.scheme, job.net
    scheme.survey(0)
    torch.manual_seed(0)
    with torch.no_grad():
        scheme.live.flat += 0.05 * torch.randn_like(scheme.live.flat)  # q' differs from q_t and T
    target = Target(scheme.enumeration, scheme._frozen_log_prob, evolution.t, 0.01, 1, push=loss != "kl" and cover > 0)
    found = []
    scheme._update = lambda gradient, epoch: found.append(gradient.clone())
    for stream in range(4):
        scheme._epoch(0, stream, 0, target)
    sampled = torch.stack(found)
    states = torch.from_numpy(exact(net, 0.01)[0])
    full = Target(scheme.enumeration, scheme._frozen_log_prob, evolution.t, 0.01, 1, push=True)
    index = full.number(states)
    logq = scheme.network.log_prob(states).detach()
    f = scheme.shards.pushed / scheme.shards.rows
    r_log = torch.log((1 - f) * logq.exp() + f * full.log_push(index).exp())
    expected = exact_gradient(loss, scheme.live, scheme.network, states, full.log_target(index), r_log)
    # cosine and length: 60,000 samples leave about one per cent; l2's scale is the largest frozen q met, not T
    mean = sampled.mean(0)
    cosine = float(mean @ expected / mean.norm() / expected.norm())
    assert cosine > 0.995
    if loss != "l2":
        assert float(mean.norm() / expected.norm()) == pytest.approx(1.0, abs=0.05)


def test_gradient_vanishes_exactly_at_the_optimum():
    """Zero variance where q' = T: with dt = 0 the target is q_t itself."""
    evolution = evolution_of(job_of("toggle", 1.0, solver__extrapolate=0.0))
    scheme = evolution.scheme
    scheme.survey(0)
    target = Target(scheme.enumeration, scheme._frozen_log_prob, evolution.t, 0.0, 1)
    scheme._update = lambda gradient, epoch: None
    loss, residual, norm, _ = scheme._epoch(0, 0, 0, target)
    assert abs(loss) < 1e-14 and residual < 1e-7 and norm < 1e-14


# ---- convergence -----------------------------------------------------------------------------------------------

CONVERGED = {"sampling__samples": 3000, "solver__epochs": 25, "network__width": 24, "solver__start_epochs": 1500}


@pytest.mark.parametrize(
    ("name", "end", "bound", "more"),
    [
        ("toggle", 0.5, 0.03, {}),
        ("closed", 0.4, 0.02, {}),
        ("driven", 1.0, 0.02, {}),
        ("driven", 0.6, 0.03, {"network__kind": "made", "network__depth": 2}),
        ("closed", 0.2, 0.03, {"network__order": ["L", "D", "A"], "solver__loss": "hellinger"}),
        ("toggle", 0.3, 0.04, {"run__dtype": "float32"}),
        ("closed", 0.2, 0.05, {"solver__order": 1, "sampling__cover": 0.0, "sampling__tail": 0.0,
                               "solver__extrapolate": 0.0, "solver__dt": 0.005, "solver__epochs": 60}),
    ],
)  # fmt: skip
def test_law_follows_the_exact_solution(name, end, bound, more):
    job = job_of(name, end, **{**CONVERGED, **more})
    evolution = evolution_of(job)
    assert evolution.run()
    assert evolution.t == end
    assert total_variation(evolution.scheme.network, job.net, end) < bound


def test_a_bimodal_law_keeps_both_modes():
    job = job_of("toggle", 4.0, **{**CONVERGED, "solver__jumps": 1.0, "sampling__samples": 2000})
    evolution = evolution_of(job)
    evolution.run()
    states, p = exact(job.net, 4.0)
    with torch.no_grad():
        q = evolution.scheme.network.log_prob(torch.from_numpy(states)).exp().numpy()
    for mode in ((states[:, 0] == 1) & (states[:, 1] == 0), (states[:, 0] == 0) & (states[:, 1] == 1)):
        assert p[mode].sum() > 0.1
        assert q[mode].sum() == pytest.approx(p[mode].sum(), abs=0.05)


@pytest.mark.parametrize("kind", ["gru", "made"])
def test_conservation_is_exact_in_every_sample(kind):
    job = job_of("closed", 0.1, network__kind=kind, solver__epochs=2)
    evolution = evolution_of(job)
    evolution.run()
    u = torch.from_numpy(np.random.default_rng(0).random((1_000_000, 3)))
    n, _ = evolution.scheme.network.sample(u)
    assert bool((n.sum(dim=1) == 12).all()) and int(n.min()) >= 0


# ---- start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_start_is_the_exact_law_at_a_short_time(name):
    evolution = evolution_of(job_of(name, 2.0, solver__start_epochs=2500))
    assert 0 < evolution.t < 2.0
    assert total_variation(evolution.scheme.network, model(name), evolution.t) < 3e-3


def test_a_report_at_the_start_is_the_initial_law_not_a_network(tmp_path):
    from hpcme.driver import solve

    run = solve(job_of("closed", 0.05, solver__epochs=1), out=tmp_path / "run")
    law = run.network(0.0)
    assert (law.sample(1000) == [2, 5, 5]).all()
    assert law.log_prob(np.array([[2, 5, 5], [1, 6, 5]])).tolist() == [0.0, -np.inf]
    assert run.mean[0].tolist() == [2, 5, 5] and run.sd[0].tolist() == [0, 0, 0]


def test_fit_reaches_a_product_law():
    job = job_of("toggle", 1.0)
    network = evolution_of(job).scheme.network
    states = all_states(job.net.limits)[::11]
    p = np.random.default_rng(0).dirichlet(np.ones(len(states)) * 50)
    start = marginals(states, p, job.net.limits)
    assert all(abs(float(m.sum()) - 1) < 1e-12 for m in start)
    first = fit(network, states, p, epochs=1, seed=0)
    assert fit(network, states, p, epochs=200, seed=0) < first


# ---- time steps ------------------------------------------------------------------------------------------------


def test_steps_land_on_report_times_exactly():
    times = [0.2, 0.23, 0.5]
    job = load_job({"model": model("driven")}, overrides={
        "solver.scheme": "projection", "time.end": 0.7, "time.report": times, "solver.dt": 0.06, "solver.epochs": 1,
        "sampling.samples": 60, "solver.start_epochs": 5, "output.report_samples": 100, "solver.start_jumps": 0.5,
    })  # fmt: skip
    evolution = evolution_of(job)
    seen, reports = [], []
    advance, report = evolution._advance, evolution.make_report
    evolution._advance = lambda: seen.append(advance()) or seen[-1]
    evolution.make_report = lambda after: reports.append(evolution.t) or report(after)
    evolution.run()
    assert reports == [*times, 0.7] and all(row["dt"] <= 0.06 + 1e-12 for row in seen)
    ends = [row["t"] for row in seen]
    assert all(np.diff([0.0, *ends]) > 0) and set(times) <= set(ends)


def test_leak_through_the_limits_is_that_of_the_exact_law():
    """lost = integral of E[rate of the transitions past a limit], here held against the exact reflecting law."""
    net, end = model("driven").with_limits({"Y": 3}), 0.5
    job = load_job({"model": net}, overrides={
        "solver.scheme": "projection", "time.end": end, "time.report": [end], "sampling.samples": 2000,
        "solver.jumps": 0.25, "network.width": 16, "output.report_samples": 100})  # fmt: skip
    evolution = evolution_of(job)
    rows, advance = [], evolution._advance
    evolution._advance = lambda: rows.append(advance()) or rows[-1]
    began = evolution.t
    evolution.run()
    assert rows[-1]["lost"] == pytest.approx(sum(row["leak"] * row["dt"] for row in rows), rel=1e-9)
    times = np.linspace(began, end, 41)
    exact_law = solve_fsp(net, times, reflecting=True)
    leak = [outflow(net.tables, exact_law.states, net.s, net.limits, t)[1] @ p
            for t, p in zip(times, exact_law.p, strict=True)]  # fmt: skip
    # rates are taken at the start of each of some thirty steps: a few per cent low while the leak grows
    assert rows[-1]["lost"] == pytest.approx(np.trapezoid(leak, times), rel=0.15)


def test_a_fit_that_fails_is_undone_tried_shorter_and_given_up_honestly():
    evolution = evolution_of(job_of("toggle", 1.0, solver__dt=0.01))
    scheme, own = evolution.scheme, evolution.scheme._epoch
    evolution._advance()
    tried = []

    def failing(times):
        def epoch(step, stream, epoch, target):
            tried.append(target.dt)
            result = own(step, stream, epoch, target)
            return result._replace(residual=5.0) if len(tried) <= times * scheme.epochs else result

        return epoch

    scheme._epoch = failing(2)
    row = evolution._advance()
    assert row["rejected"] == 2 and row["dt"] == pytest.approx(tried[0] / 4) and row["residual"] < 1.0
    assert len(tried) == row["epochs"] == 3 * scheme.epochs
    before = scheme.live.flat.detach().clone()
    scheme._epoch = failing(10**9)
    with pytest.raises(NumericalError, match="does not follow the law any more"):
        evolution._advance()
    assert torch.equal(scheme.live.flat.detach(), before)


def test_automatic_steps_are_stable_for_the_fastest_state_sampled():
    evolution = evolution_of(job_of("toggle", 2.0, solver__jumps=50.0, solver__order=2))
    n = evolution.scheme.survey(0)
    length = evolution.scheme.length
    exit_rate, fastest, *_ = length.rates(n, evolution.t)
    assert fastest > exit_rate
    assert length.length(exit_rate, fastest, 2.0 - evolution.t) * fastest <= 1.5


def test_non_finite_gradients_stop_before_the_parameters_change():
    evolution = evolution_of(job_of("toggle", 1.0))
    scheme = evolution.scheme
    before = scheme.live.flat.detach().clone()
    scheme.extrapolate = 0.0
    scheme.live.gradient = lambda scalar: torch.full_like(before, torch.nan)
    with pytest.raises(NumericalError, match="not finite"):
        evolution._advance()
    assert torch.equal(scheme.live.flat.detach(), before)


# ---- shards and streams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_ranks_share_all_shards_once(size):
    owned = [owned_range(7, rank, size) for rank in range(size)]
    assert [s for part in owned for s in part] == list(range(7))
    assert max(map(len, owned)) - min(map(len, owned)) <= 1


def test_samples_do_not_depend_on_the_number_of_ranks():
    cpu = torch.device("cpu")

    def of(size):
        parts = [Shards.split(5, 100, 7, 0.3, rank, size, cpu) for rank in range(size)]
        return torch.cat([part.uniforms("train", 3, 2, part.rows, 4) for part in parts])

    assert torch.equal(of(1), of(2)) and torch.equal(of(1), of(7))
    assert Shards.split(5, 100, 7, 0.3, 0, 1, cpu).samples == 105  # rounded up to equal shards


def test_shards_are_split_into_drawn_pushed_and_tail_rows():
    shards = Shards.split(5, 1000, 4, 0.3, 0, 2, torch.device("cpu"), 0.1)
    assert (shards.drawn, shards.pushed, shards.tempered, shards.rows) == (150, 75, 25, 250)
    base = torch.arange(2 * 150)[:, None].expand(-1, 3)
    seen = torch.cat([shards.rotate(base, epoch, 75)[:, 0] for epoch in (0, 1)])
    assert sorted(seen.tolist()) == list(range(300))  # two epochs use every row once


def test_tail_samples_reach_further_and_keep_the_support():
    job = job_of("closed", 1.0, sampling__samples=6000, sampling__tail=0.3)
    scheme = evolution_of(job).scheme
    base = scheme.survey(0)
    spread = [part.double().std(dim=0).sum() for part in (base, scheme.wide)]
    assert spread[1] > 1.1 * spread[0]
    assert bool((scheme.wide.sum(dim=1) == 12).all())


def test_fewer_shards_than_ranks_is_refused():
    with pytest.raises(InputError, match=r"sampling\.shards = 2 .* 3 ranks.*at least 3"):
        Shards.split(0, 100, 2, 0.3, 0, 3, torch.device("cpu"))


def test_streams_differ_in_every_argument_and_repeat():
    cpu = torch.device("cpu")
    base = (1, "train", 4, 2)
    first = uniforms(*base, range(3, 4), 50, 2, cpu)
    assert torch.equal(first, uniforms(*base, range(2, 5), 50, 2, cpu)[50:100])
    for other in ((2, "train", 4, 2), (1, "cover", 4, 2), (1, "train", 5, 2), (1, "train", 4, 3)):
        assert not torch.equal(first, uniforms(*other, range(3, 4), 50, 2, cpu))
    draws = generator(2**63 - 1, "report", 10**6, 10**6, 65535).random(10_000)
    assert draws.min() >= 0 and draws.max() < 1 and abs(draws.mean() - 0.5) < 4.5 * np.sqrt(1 / 12 / 10_000)
