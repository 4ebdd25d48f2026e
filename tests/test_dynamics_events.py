"""Events in network runs: the law right after them, what the network makes of it, and what is stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solver_cases import all_states, evolution_of, random_network

from hpcme import load_job
from hpcme.driver import solve
from hpcme.errors import InputError
from hpcme.exact.fsp import solve_fsp
from hpcme.model.event import events_at
from hpcme.model.reader import load_model_text
from hpcme.networks.remapped import RemappedLaw

DOSED = """
[model]
name = "dosed"
[species]
X = { initial = 1, max = 34 }
Y = { initial = 0, max = 20 }
[[reactions]]
equation = "0 -> X"
rate = 3
[[reactions]]
equation = "X -> Y"
rate = 1
[[reactions]]
equation = "Y -> 0"
rate = "1 + 0.5*sin(t)"
[[events]]
at = 1
set = { X = "X + 9" }
[[events]]
at = 1.75
set = { X = "Y", Y = 4 }
"""
REPORTS = [0.5, 1.0, 1.4, 1.75, 2.5]


def dosed_job(**overrides):
    keys = {"time.end": 2.5, "time.report": REPORTS, "output.report_samples": 2000, "output.samples": 500}
    keys |= {key.replace("__", "."): value for key, value in overrides.items()}
    return load_job({"model": load_model_text(DOSED)}, overrides=keys)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return solve(dosed_job(), out=tmp_path_factory.mktemp("events") / "run")


def distance(run, t: float, exact) -> float:
    """Total variation distance of the stored network from the exact law."""
    q = np.exp(run.network(t).log_prob(exact.states))
    assert abs(q.sum() - 1) < 1e-9
    return 0.5 * float(np.abs(q - exact.p[list(exact.times).index(t)]).sum())


def test_a_run_follows_the_exact_law_through_events(run):
    exact = solve_fsp(run.model(), REPORTS, reflecting=True)
    assert run.status == "done" and run.times.tolist() == [0.0, *REPORTS]
    bound = dict(zip(run.times.tolist(), run.extra()["bound"].tolist(), strict=True))
    for t in REPORTS:
        found = distance(run, t, exact)
        assert found < 2e-3 and found <= bound[t] + 1e-12, (t, found, bound[t])
    # Reports of the times of events show the law after them, summed over its states.
    for t in (1.0, 1.75):
        k, i = run.times.tolist().index(t), REPORTS.index(t)
        np.testing.assert_allclose(run.mean[k], exact.mean()[i], rtol=2e-3)
        np.testing.assert_allclose(run.sd[k], exact.sd()[i], rtol=1e-2, atol=2e-3)
        assert (run.mean_se[k] == 0.0).all()
    assert run.marginal("Y", 1.75)[4] == pytest.approx(1.0)
    assert (run.samples(1.75)[:, 1] == 4).all() and run.samples(1.0)[:, 0].min() >= 9


def test_the_law_after_an_event_is_stored_so_that_it_can_be_opened(run):
    law = run.network(1.75)
    n = law.sample(2000, seed=3)
    assert (n[:, 1] == 4).all() and np.isfinite(law.log_prob(n)).all()
    states = all_states([34, 20])
    p = np.exp(law.log_prob(states))
    assert p.sum() == pytest.approx(1.0, abs=1e-9) and p[states[:, 1] != 4].max() == 0.0
    assert n[:, 0].mean() == pytest.approx(p @ states[:, 0], abs=5 * np.sqrt(p @ states[:, 0] ** 2 / 2000))
    assert run.network(2.5).log_prob(states).shape == (len(states),)


def test_a_remapped_law_is_the_sum_over_the_states_before():
    net = load_model_text(DOSED).with_limits({"X": 8, "Y": 7})
    net = load_model_text(net.text.replace('"X + 9"', '"floor(X/2) + Y"'))
    network = random_network("gru", net.limits, [1, 0])
    states = all_states(net.limits)
    q = network.log_prob(torch.from_numpy(states)).exp().detach().numpy()
    moved = net.remap(states, events_at(net, 1.0))
    inside = (moved <= net.limits).all(axis=1)
    law = RemappedLaw(net, network, 1.0, 1.0 - q[inside].sum())
    expected = np.zeros(len(states))
    np.add.at(expected, moved[inside] @ [8, 1], q[inside] / q[inside].sum())
    np.testing.assert_allclose(np.exp(law.log_prob(states)), expected, atol=1e-12)
    assert np.isneginf(law.log_prob(np.array([[-1, 0], [9, 0], [0, 8]]))).all()
    N = 40_000
    seen = np.bincount(law.sample(np.random.default_rng(1).random((N, 2))) @ [8, 1], minlength=len(states)) / N
    np.testing.assert_allclose(seen, expected, atol=5 * np.sqrt(expected.max() / N))


def test_too_many_states_before_are_refused_by_number():
    text = DOSED.replace("max = 34", "max = 3000").replace("max = 20", "max = 3000")
    net = load_model_text(text)
    with pytest.raises(InputError, match=r"9\.01e\+06 states before"):
        RemappedLaw(net, None, 1.75, 0.0).log_prob(np.zeros((1, 2), int))


@pytest.mark.parametrize("scheme", ["projection", "tdvp"])
def test_states_that_cannot_be_listed_go_through_events_as_samples(scheme, tmp_path):
    job = dosed_job(
        sampling__exact_states=50, network__support_states=50, solver__scheme=scheme, network__width=12,
        time__end=1.4, time__report=[0.5, 1.0, 1.4], solver__start_epochs=400,
    )  # fmt: skip
    run = solve(job, out=tmp_path / "run")
    exact = solve_fsp(run.model(), [0.5, 1.0, 1.4], reflecting=True)
    # P = some 500 parameters fitted to 1e5 samples: sqrt(P / (2 N) / 2) is 0.035 at most, and less where they agree.
    assert distance(run, 1.4, exact) < 0.035
    assert distance(run, 1.0, exact) < 0.02 and (run.mean_se[2] > 0.0).all()
    # How far a fit to samples is from the law is not known, and the certificate says so.
    assert run.extra()["bound"][1] < 0.5 and run.extra()["bound"][-1] == 1.0


def test_what_an_event_loses_is_counted():
    net = load_model_text(DOSED).with_limits({"X": 13})
    job = load_job({"model": net}, overrides={"time.end": 1.2, "time.report": [1.2], "output.report_samples": 200})
    evolution = evolution_of(job)
    assert evolution.run()
    walled = load_model_text(net.text.split("[[events]]")[0])
    before = solve_fsp(walled, [1.0], reflecting=True)
    gone = before.p[0][before.states[:, 0] + 9 > 13].sum()
    assert evolution.lost == pytest.approx(gone, rel=0.02) and gone > 0.05


def test_an_event_before_the_first_report_and_at_the_end(tmp_path):
    text = DOSED.replace("at = 1\n", "at = 0.01\n").replace("at = 1.75", "at = 1")
    job = load_job({"model": load_model_text(text)}, overrides={"time.end": 1.0, "output.report_samples": 500})
    run = solve(job, out=tmp_path / "run")
    exact = solve_fsp(run.model(), run.times, reflecting=True)
    assert run.mean[-1] == pytest.approx(exact.mean()[-1], rel=5e-3) and run.times[-1] == 1.0


def test_an_event_that_makes_no_count_ends_the_run_with_its_name(tmp_path):
    text = DOSED.replace('"X + 9"', '"X - 9"')
    with pytest.raises(InputError, match=r"sets X = X - 9, which is -\d"):
        solve(load_job({"model": load_model_text(text)}, overrides={"time.end": 1.5}), out=tmp_path / "run")
