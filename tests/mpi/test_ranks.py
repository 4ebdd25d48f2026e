"""One job on several ranks: the same samples, losses, parameters and reports as on one, and errors met together.

CTest runs this file at 1, 2 and 3 ranks through tests/mpi_pytest.py; under plain pytest it runs on one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from run_helpers import EVENTS
from solver_cases import TOGGLE, evolution_of, job_of

from hpcme import load_job
from hpcme.driver import shards_of, solve
from hpcme.dynamics.exponential import Exponential
from hpcme.dynamics.projection import Projection
from hpcme.dynamics.sampler import owned_range
from hpcme.errors import InputError, NumericalError
from hpcme.model.reader import load_model_text
from hpcme.parallel.world import World
from hpcme.store.recorder import sampled_report

STEPS = 20


def small_job(kind: str = "gru", loss: str = "kl", **overrides):
    """A job of more than STEPS steps whose 7 shards are shared unevenly by 2 and by 3 ranks."""
    sizes = {"sampling__samples": 140, "sampling__shards": 7, "solver__start_epochs": 100}
    return job_of("toggle", 30.0, network__kind=kind, solver__loss=loss, **{**sizes, **overrides})


#: Jobs of the scheme tdvp: sums over all states, sampled ones, and conditionals that are solved one by one.
TDVP = {
    "exponential": {"sampling__exact": True, "solver__dt": 0.1},
    "exact": {"sampling__exact": True, "solver__integrator": "implicit"},
    "sampled": {"sampling__exact": False},
    "uncoupled": {"sampling__exact": False, "solver__coupled": 0},
    # Its own tolerance, and states enough: a step whose updates hardly converge makes rounding grow without bound.
    "waveform": {
        "sampling__exact": False, "solver__integrator": "waveform", "sampling__samples": 800,
        "solver__tolerance": 0.004,
    },
}


def tdvp_job(case: str = "sampled", **overrides):
    """A job of the scheme tdvp of more than STEPS steps."""
    keys = {
        "solver__scheme": "tdvp", "solver__start_jumps": 3.0, "solver__tolerance": 0.01, "network__width": 4,
        "sampling__samples": 140, "sampling__shards": 7, **TDVP[case],
    }  # fmt: skip
    return job_of("toggle", 30.0, **{**keys, **overrides})


class Rows:
    """A recorder that keeps the rows of the series and nothing else."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def row(self, values: dict[str, float]) -> None:
        self.rows.append(values)

    def commit(self, step: int, state: dict[str, object]) -> None:
        """The start of a run writes a checkpoint; nobody needs it here."""


class Watched:
    """A run in memory with everything that it drew in its first epoch."""

    def __init__(self, job, world: World | None) -> None:
        self.evolution = evolution_of(job, world)
        self.evolution.recorder = self.recorder = Rows()
        self.surveys: list[np.ndarray] = []  # samples of the law, of tdvp this rank's states
        self.draws: list[list[np.ndarray]] = []  # drawn, pushed and tail states with their multiplicities
        if isinstance(self.evolution.scheme, Projection):
            self._watch_projection()
        else:
            self._watch_tdvp()

    def _watch_tdvp(self) -> None:
        scheme = self.evolution.scheme
        if isinstance(scheme, Exponential):  # every step looks at all states
            self.surveys.append(scheme.tree.x.numpy()[:, scheme.network.position])
            return
        cloud_of = scheme._cloud

        def watch(step, t, h):
            found = cloud_of(step, t, h)
            self.surveys.append(found[0].n.numpy().copy())
            return found

        scheme._cloud = watch

    def _watch_projection(self) -> None:
        scheme = self.evolution.scheme
        survey, draw = scheme.survey, scheme.network.draw

        def watch_survey(step):
            n = survey(step)
            self.surveys.append(n.numpy().copy())
            return n

        def watch_draw(u, given):
            result = draw(u, given)
            n = result.n[result.row].numpy().copy()
            pushed = len(u) + scheme.shards.pushed * len(scheme.shards.owned)
            self.draws.append([part for part in (n[: len(u)], n[len(u) : pushed], n[pushed:]) if len(part)])
            return result

        scheme.survey, scheme.network.draw = watch_survey, watch_draw

    def advance(self, steps: int) -> np.ndarray:
        """Take time steps; returns the parameters."""
        assert not self.evolution.run(stop=lambda: len(self.recorder.rows) >= steps)
        assert [row["step"] for row in self.recorder.rows] == list(range(1, steps + 1))
        return self.evolution.scheme.flat().numpy().copy()

    def column(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.recorder.rows])


@pytest.mark.parametrize(
    "fit",
    [{"loss": "kl"}, {"loss": "l2"}, {"loss": "hellinger"}, {"solver__optimiser": "natural", "solver__epochs": 3}],
    ids=["kl", "l2", "hellinger", "natural"],
)
@pytest.mark.parametrize("kind", ["gru", "made"])
def test_a_job_does_not_depend_on_the_number_of_ranks(world, kind, fit):
    """Identical samples in the first step; loss and parameters to 1e-9 relative after 20 steps."""
    job = small_job(kind, **fit)
    here, alone = Watched(job, world), Watched(job, None)
    start = [run.evolution.scheme.flat().numpy().copy() for run in (here, alone)]
    assert np.array_equal(*start)
    theta, expected = here.advance(STEPS), alone.advance(STEPS)

    firsts = [(here.surveys[0], alone.surveys[0])]
    firsts += zip(here.draws[0], alone.draws[0], strict=True)
    for own, all_of_them in firsts:
        gathered = world.gather(own)
        assert len(all_of_them) > 0
        if world.main:
            assert np.array_equal(np.concatenate(gathered), all_of_them)

    # A loss is a mean of log-ratios of spread `residual`, so rounding leaves an error of that scale, too.
    loss_error = np.abs(here.column("loss") - alone.column("loss"))
    scale = 1e-9 * np.abs(alone.column("loss")) + 1e-12 * alone.column("residual")
    assert (loss_error <= scale).all(), loss_error / scale
    assert np.allclose(here.column("t"), alone.column("t"), rtol=1e-9, atol=0.0)
    assert np.linalg.norm(theta - expected) <= 1e-9 * np.linalg.norm(expected)
    assert np.abs(theta - expected).max() <= 1e-9 * np.abs(expected).max()
    assert np.linalg.norm(theta - start[0]) > 1e-3 * np.linalg.norm(theta)  # they were 20 steps, not none


@pytest.mark.parametrize("case", TDVP)
def test_a_job_of_tdvp_does_not_depend_on_the_number_of_ranks(world, case):
    """Identical states in the first step; times, errors and parameters to 1e-9 relative after 20 steps."""
    job = tdvp_job(case)
    here, alone = Watched(job, world), Watched(job, None)
    start = [run.evolution.scheme.flat().numpy().copy() for run in (here, alone)]
    assert np.array_equal(*start)
    theta, expected = here.advance(STEPS), alone.advance(STEPS)

    gathered = world.gather(here.surveys[0])
    assert len(alone.surveys[0]) > 50
    if world.main:
        assert np.array_equal(np.concatenate(gathered), alone.surveys[0])

    # A leak is a sum of probabilities times rates: known, however small, to rounding of the sum of all, which is a0.
    rounding = {"t": 0.0, "a0": 0.0, "leak": np.finfo(float).eps * alone.column("a0")}
    for name, atol in rounding.items():
        assert (np.abs(here.column(name) - alone.column(name)) <= 1e-9 * np.abs(alone.column(name)) + atol).all(), name
    # The certificate differentiates by differences of 1e-7 or so: rounding of 1e-16 is 1e-9 in a rate, and the bound
    # is a small difference of rates.
    assert np.allclose(here.column("certificate"), alone.column("certificate"), rtol=1e-6, atol=0.0)
    for name in ("distinct", "stages", "rejected"):
        assert np.array_equal(here.column(name), alone.column(name)), name
    if case == "exponential":
        # Its fits leave directions that do not move the law (a constant added to all logits) to rounding.
        n = torch.from_numpy(alone.surveys[0]).int()
        laws = [run.evolution.scheme.network.log_prob(n).exp() for run in (here, alone)]
        assert float((laws[0] - laws[1]).abs().sum()) <= 1e-9
        assert np.linalg.norm(theta - expected) <= 1e-5 * np.linalg.norm(expected)
    else:
        assert np.linalg.norm(theta - expected) <= 1e-9 * np.linalg.norm(expected)
        assert np.abs(theta - expected).max() <= 1e-9 * np.abs(expected).max()
    assert np.linalg.norm(theta - start[0]) > 1e-3 * np.linalg.norm(theta)  # they were 20 steps, not none


@pytest.mark.parametrize("listed", [True, False])
def test_a_run_through_events_does_not_depend_on_the_number_of_ranks(world, listed):
    """Rank 0 remaps and fits for all; with states that cannot be listed, from the same samples on any number."""
    net = load_model_text(TOGGLE + EVENTS)
    keys = {"time.end": 1.6, "time.report": [0.5, 1.5, 1.6], "solver.scheme": "tdvp", "network.width": 2}
    if not listed:
        keys |= {"sampling.exact_states": 100, "network.support_states": 100, "sampling.samples": 300}
        keys |= {"solver.integrator": "heun", "solver.tolerance": 0.1, "time.end": 0.85, "time.report": [0.8, 0.85]}
    job = load_job({"model": net}, overrides=keys | {"sampling.shards": 7})
    runs = [evolution_of(job, world), evolution_of(job)]
    assert all(run.run() for run in runs)
    assert runs[0].report == runs[1].report == len(job.report_times)
    theta, expected = (run.scheme.flat().numpy() for run in runs)
    assert np.linalg.norm(theta - expected) <= 1e-5 * np.linalg.norm(expected)
    gathered = world.gather(theta)
    if world.main:
        assert all(np.array_equal(gathered[0], other) for other in gathered)


@pytest.mark.parametrize("make", [small_job, tdvp_job])
def test_every_rank_has_bitwise_the_same_parameters(world, make):
    """No rank drifts from the others: all apply the same reduced gradient, or solve the same reduced equations."""
    here = Watched(make(), world)
    gathered = world.gather(here.advance(5))
    if world.main:
        assert all(np.array_equal(gathered[0], theta) for theta in gathered)


def test_reductions_and_messages(world):
    rank, size = world.rank, world.size
    x = torch.tensor([[1.0 + rank, -2.0 * rank], [0.5, 3.0**rank]], dtype=torch.float64)
    total = world.sum_(x)
    rows = [[sum(1.0 + r for r in range(size)), sum(-2.0 * r for r in range(size))]]
    rows.append([0.5 * size, sum(3.0**r for r in range(size))])
    assert total is x and total.tolist() == rows
    least = torch.tensor([float(rank), float(-rank)], dtype=torch.float64)
    assert world.min_(least) is least and least.tolist() == [0.0, -(size - 1.0)]
    whole = torch.tensor([rank + 5, 7 * rank], dtype=torch.int64)
    assert world.broadcast_(whole) is whole and whole.tolist() == [5, 0]
    assert world.share({"rank": rank, "name": "x"}) == {"rank": 0, "name": "x"}
    gathered = world.gather(np.full(rank + 1, rank))
    assert (gathered is None) == (rank > 0)
    if gathered is not None:
        assert [part.tolist() for part in gathered] == [[r] * (r + 1) for r in range(size)]
    for culprit in range(size):
        assert world.any(rank == culprit) is True
    assert world.any(False) is False
    assert world.all_arrived(60.0)


def test_an_error_of_one_rank_is_raised_on_all(world):
    for culprit in range(world.size):
        error = NumericalError(f"of rank {culprit}") if world.rank == culprit else None
        with pytest.raises(NumericalError, match=f"of rank {culprit}"):
            world.raise_together(error)
    world.raise_together(None)


def test_all_arrived_sees_who_is_missing_and_disturbs_no_collective(world):
    """Rank 0 waits in vain while the others are in a collective, which then still works."""
    if world.main and world.size > 1:
        assert not world.all_arrived(0.2)
    assert world.share(world.rank) == 0
    assert world.all_arrived(60.0)
    assert world.sum_(torch.ones(1)).item() == world.size


def test_shards_are_shared_without_gap_or_overlap(world):
    job = small_job()
    gathered = world.gather(np.array(shards_of(job, world).owned))
    if world.main:
        assert np.concatenate(gathered).tolist() == list(range(7))
        assert max(map(len, gathered)) - min(map(len, gathered)) <= 1
    for shards in (1, 5, 64):
        for size in range(1, shards + 1):
            parts = [owned_range(shards, rank, size) for rank in range(size)]
            assert [shard for part in parts for shard in part] == list(range(shards)) and all(parts)


@pytest.mark.parametrize("kind", ["gru", "made"])
def test_summed_gradients_are_the_gradient_of_the_whole_batch(world, kind):
    """Of the mean of n0 * log q(n) over all samples of a step."""
    gradients = []
    job = small_job(kind)
    for place in (world, World(torch.device("cpu"), 1)):
        scheme = evolution_of(job, place).scheme
        n = scheme.survey(0)
        weighted = n[:, 2].double() * scheme.network.log_prob(n)
        drawn = scheme.shards.drawn * scheme.shards.total
        gradients.append(place.sum_(scheme.live.gradient(weighted.sum() / drawn)))
    size = torch.linalg.vector_norm(gradients[1])
    assert size > 0.0 and torch.linalg.vector_norm(gradients[0] - gradients[1]) <= 1e-12 * size


@pytest.mark.parametrize("make", [small_job, tdvp_job])
def test_a_report_is_that_of_one_rank(world, make):
    """Samples identical and in order; what is summed over ranks to 1e-12."""
    job = make(output__samples=300, output__report_samples=600)
    reports = []
    for place in (world, World(torch.device("cpu"), 1)):
        scheme = evolution_of(job, place).scheme
        reports.append(sampled_report(job, place, shards_of(job, place), 1, 0.5, 0, scheme.network))
    here, alone = reports
    assert (here is None) == (not world.main)
    if here is None:
        return
    assert here.samples.shape == (300, 4) and np.array_equal(here.samples, alone.samples)
    for name in ("mean", "mean_se", "covariance", "covariance_se", "sd_se"):
        assert np.allclose(getattr(here, name), getattr(alone, name), rtol=1e-12, atol=1e-13), name
    for own, other in zip(here.marginals, alone.marginals, strict=True):
        assert own.sum() == pytest.approx(1.0, abs=1e-12) and np.allclose(own, other, rtol=0.0, atol=1e-12)
    # A standard error is a root: rounding of 1e-16 in p - p^2 is 1e-8 in it, over sqrt(N).
    for own, other in zip(here.marginals_se, alone.marginals_se, strict=True):
        assert np.allclose(own, other, rtol=1e-9, atol=1e-8)
    assert here.extra["entropy"] == pytest.approx(alone.extra["entropy"], rel=1e-12)


def test_fewer_shards_than_ranks_are_refused_on_all_ranks(world, shared):
    if world.size == 1:
        assert shards_of(small_job(sampling__shards=1), world).owned == range(1)
        return
    job = small_job(sampling__shards=world.size - 1)
    with pytest.raises(InputError, match=rf"sampling\.shards = {world.size - 1} .* runs on {world.size} ranks"):
        solve(job, out=shared / "run", world=world)
    assert world.sum_(torch.ones(1)).item() == world.size  # nobody is left behind
    assert not (shared / "run").exists()


def test_a_folder_that_rank_0_refuses_is_refused_on_all_ranks(world, shared):
    if world.main:
        (shared / "thesis.txt").write_text("important")
    world.share(None)
    with pytest.raises(InputError, match=r"thesis\.txt"):
        solve(small_job(), out=shared, world=world)
    assert world.sum_(torch.ones(1)).item() == world.size
    assert [path.name for path in shared.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("scheme", ["projection", "tdvp"])
def test_solve_gives_the_finished_run_to_rank_0_alone(world, shared, scheme):
    sizes = {"sampling__samples": 120, "output__report_samples": 210, "output__samples": 50}
    job = job_of("driven", 0.4, solver__scheme=scheme, solver__start_jumps=0.3, **sizes)
    progress = []
    run = solve(job, out=shared / "run", world=world, progress=progress.append)
    assert (run is not None) == world.main
    if world.main:
        assert run.status == "done" and run.times.tolist() == [0.0, 0.4] and np.isfinite(run.mean).all()
        assert len(progress) == len(run.series()["step"]) > 0
    else:
        assert not progress
    assert world.sum_(torch.ones(1)).item() == world.size


@pytest.mark.parametrize("scheme", [{}, {"solver.scheme": "projection"}])
def test_automatic_limits_grow_on_all_ranks_together(world, shared, scheme):
    """Rank 0 alone knows the folder; a stopped run goes on with the limits that it had come to."""
    from limit_cases import small_job

    said: list[str] = []
    stop = lambda: world.share(any("begins again" in line for line in said))  # noqa: E731
    run = solve(small_job(4, **scheme), out=shared / "run", world=world, say=said.append, stop=stop)
    assert not world.main or (run.status == "stopped" and run.limits.tolist() == [14])
    # Another rank may have guessed otherwise: the folder and rank 0 decide.
    run = solve(small_job(4 + world.rank, **scheme), out=shared / "run", world=world)
    assert not world.main or (run.status == "done" and run.limits.tolist() == [14])
    assert world.sum_(torch.ones(1)).item() == world.size
