"""Numbers for automatic limits: what they leave out, measured in huge boxes; conservation laws; growth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from hpcme import InputError, ModelBuilder
from hpcme.exact import limits as module
from hpcme.exact.borders import Borders
from hpcme.exact.fsp import lost_through, solve_fsp
from hpcme.exact.limits import LimitsReport, grown, resolve_limits, rounded_up, tail_limit
from hpcme.kernels.neighbours import outflow

PROMISE = 1e-6


def one(*reactions, initial=0, most=None):
    """X with reactions (equation, rate or propensity)."""
    builder = ModelBuilder("one").species("X", initial=initial, max=most)
    for equation, rate in reactions:
        key = "propensity" if isinstance(rate, str) and "X" in rate else "rate"
        builder.reaction(equation, **{key: rate})
    return builder.build()


def two(*reactions, **species):
    builder = ModelBuilder("two")
    for name, start in species.items():
        builder.species(name, initial=start)
    for equation, rate in reactions:
        key = "propensity" if isinstance(rate, str) and any(name in rate for name in species) else "rate"
        builder.reaction(equation, **{key: rate})
    return builder.build()


#: Networks with automatic limits, the time to which they run, and sizes of a box that loses nothing to speak of.
CASES = {
    "birth-death": (one(("X -> 2 X", 0.1), ("X -> 0", 0.11), initial=100), 50.0, [700]),
    "heavy tail": (one(("X -> 2 X", 1.0), ("X -> 0", 1.1), initial=100), 50.0, [600]),
    "yule": (one(("X -> 2 X", 1.0), initial=1), 3.0, [900]),
    "immigration-death": (one(("0 -> X", 1.0), ("X -> 0", 0.1)), 50.0, [120]),
    "batches of 5": (one(("0 -> 5 X", 1.0), ("X -> 0", 0.2)), 50.0, [400]),
    "batches of 100": (one(("0 -> 100 X", 0.2), ("X -> 0", 0.4)), 20.0, [2500]),
    "poisson start": (one(("0 -> X", 2.0), ("X -> 0", 1.0), initial={"poisson": 30.0}), 5.0, [200]),
    "driven": (one(("0 -> X", "4*(1 + 0.8*sin(3*t))"), ("X -> 0", 1.0), initial=3), 5.0, [100]),
    "pairs": (one(("0 -> X", 3.0), ("2 X -> 0", 0.1)), 10.0, [120]),
    "gene": (two(("0 -> G", "1 - G"), ("G -> 0", 2.0), ("G -> G + P", 20.0), ("P -> 0", 1.0), G=0, P=0), 5.0, [1, 200]),
    "counter": (two(("0 -> X", 1.0), ("X -> Y", 0.5), X=0, Y=0), 10.0, [40, 60]),
    "cascade": (two(("0 -> M", 2.0), ("M -> 0", 1.0), ("M -> M + P", 3.0), ("P -> 0", 1.0), M=0, P=0), 4.0, [40, 150]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_lies_beyond_the_limits_is_below_the_promise(name):
    """The probability of ever passing a limit is what a box of these limits loses; the larger box holds the tail."""
    net, end, wide = CASES[name]
    for seed in (0, 1):
        resolved, report = resolve_limits(net, end, seed)
        assert np.all(resolved.limits <= 2 * np.array(wide)), report.automatic_text()
        assert solve_fsp(resolved, [end]).lost[-1] < PROMISE
    whole = solve_fsp(net.with_limits(dict(zip(net.species, wide, strict=True))), [end])
    assert whole.lost[-1] < 1e-11  # the sizes in CASES, which the bound above rests on, are wide enough


def test_the_tail_of_birth_and_death_is_met():
    """Birth l, death m per molecule from 100: the limit is passed at most with the gambler's probability
    ((m/l)^100 - 1) / ((m/l)^(L+1) - 1), the chance of ever getting to L + 1 before 0."""
    net, end, _ = CASES["heavy tail"]
    for seed in range(4):
        limit = int(resolve_limits(net, end, seed)[0].limits[0])
        assert (1.1**100 - 1) / (1.1 ** (limit + 1) - 1) < PROMISE
        assert limit < 500


def test_poisson_laws_get_their_closed_tail():
    """From a Poisson law of the stationary mean, X(t) is Poisson at every time."""
    net = one(("0 -> X", 60.0), ("X -> 0", 2.0), initial={"poisson": 30.0})
    limit = int(resolve_limits(net, 3.0)[0].limits[0])
    assert scipy.stats.poisson.sf(limit, 30.0) < 1e-12 and limit <= 100


def test_the_tail_rule_finds_the_quantile_of_a_geometric_law():
    """Beta has a relative standard error of 1/sqrt(k) and is made larger by it: within 3 of them."""
    p, N, tail = 0.08, 2000, 1e-8
    exact = np.log(tail) / np.log1p(-p)
    for seed in range(5):
        found = tail_limit(np.random.default_rng(seed).geometric(p, N), tail)
        assert 1 - 2 / np.sqrt(100) < found / exact < 1 + 4 / np.sqrt(100)


@pytest.mark.parametrize(("x", "up"), [(0.2, 1), (47.2, 48), (100, 100), (463, 470), (10265, 11000), (2e6, 1e6)])
def test_limits_are_rounded_up_to_two_digits(x, up):
    assert rounded_up(x) == up


def test_results_are_a_function_of_the_seed():
    net, end, _ = CASES["heavy tail"]
    assert resolve_limits(net, end, 3) == resolve_limits(net, end, 3)
    assert len({resolve_limits(net, end, seed)[0].limits[0] for seed in range(6)}) > 1


def test_conserved_species_get_exact_limits_without_trajectories(monkeypatch):
    monkeypatch.setattr(module, "solve_ssa", lambda *a, **b: pytest.fail("nothing was to be simulated"))
    net = two(("2 P -> P2", 0.001), ("P2 -> 2 P", 0.01), P=100, P2=0)
    resolved, report = resolve_limits(net, 50.0)
    assert resolved.limits.tolist() == [100, 50] and [limit.how for limit in report] == ["conserved"] * 2
    assert report.trajectories == 0 and not report.grows.any()
    sir = two(("S + I -> 2 I", 0.1), ("I -> R", 1.0), ("R -> 0", 1.0), S=20, I=1, R=0)
    assert resolve_limits(sir, 1.0)[0].limits.tolist() == [20, 21, 21]


def test_laws_that_bind_unbounded_species_to_each_other_are_no_bounds():
    """2 A - C is conserved, and both grow."""
    net = two(("0 -> A + 2 C", 1.0), A=0, C=0)
    resolved, report = resolve_limits(net, 4.0)
    a, c = resolved.limits.tolist()
    assert c <= 2 * a and {limit.how for limit in report} <= {"trajectories", "reachable"}
    assert solve_fsp(resolved, [4.0]).lost[-1] < PROMISE


def test_rates_that_vanish_are_walls():
    net = two(("0 -> G", "1 - G"), ("G -> 0", 2.0), ("G -> G + P", 20.0), ("P -> 0", 1.0), G=0, P=0)
    resolved, report = resolve_limits(net, 5.0)
    assert resolved.limits[0] == 1 and report.limits[0].how in ("wall", "reachable")
    dimer = one(("0 -> X", "0.0005*(100 - 2*X)*(99 - 2*X)"), ("X -> 0", 0.01))
    assert resolve_limits(dimer, 50.0)[0].limits.tolist() == [50]


def test_what_trajectories_have_seen_is_never_cut_off(monkeypatch):
    """X only decays from 5; were trajectories to show more (as after an event that sets it), more it would be."""
    net = two(("X -> Y", 1.0), ("Y -> 0", 1.0), ("0 -> X", "0*X"), X=5, Y=0)
    assert resolve_limits(net, 1.0)[0].limits.tolist() == [5, 5]
    plain = module.solve_ssa

    def jumped(*arguments, **options):
        found = plain(*arguments, **options)
        found.samples[-1, :, 0] += 40
        return found

    monkeypatch.setattr(module, "solve_ssa", jumped)
    x, y = resolve_limits(net, 1.0)[0].limits.tolist()
    assert x >= 45 and y >= 5


def test_given_limits_are_kept():
    net = two(("0 -> X", 5.0), ("X -> Y", 1.0), ("Y -> 0", 1.0), X=0, Y=0).with_limits({"X": 4})
    resolved, report = resolve_limits(net, 5.0)
    assert resolved.limits[0] == 4 and report.limits[0].how == "given" and report.grows.tolist() == [False, True]
    fixed = resolved.with_limits({"X": 4})
    assert resolve_limits(fixed, 5.0)[0] == fixed


def test_reports_survive_json():
    import json

    report = resolve_limits(CASES["gene"][0], 1.0)[1]
    assert LimitsReport.from_plain(json.loads(json.dumps(report.plain()))) == report


@pytest.mark.parametrize(
    ("net", "end", "words"),
    [
        (one(("X -> 2 X", 1.0), initial=1), 50.0, r"species X .*passes it by (about )?t = 1\d"),
        (one(("2 X -> 3 X", 1.0), initial=3), 10.0, r"species X .*passes it by about t = 0\.\d"),
        (one(("0 -> 1000 X", 50.0)), 100.0, r"species X .*passes it by t = \d"),
        (one(("0 -> X", 1e6), ("X -> 0", 1e5)), 100.0, r"more than 2000000 reactions to get to t = \d.*give max"),
    ],
)
def test_growth_without_bound_is_named(net, end, words):
    with pytest.raises(InputError, match=words):
        resolve_limits(net, end)


def test_conserved_counts_beyond_every_limit_are_named():
    net = two(("A -> 2 B", 1.0), A=700_000, B=0)
    with pytest.raises(InputError, match=r"species B .*conservation laws allow it 1400000"):
        resolve_limits(net, 1.0)


# ---- growth ----


def rare(rate: float = 3e-6):
    """A gene that hardly ever switches on, and then makes P up to some 30: no trajectory shows it."""
    return two(("0 -> G", f"{rate}*(1 - G)"), ("G -> G + P", 20.0), ("P -> 0", 1.0), G=0, P=0)


def test_fsp_grows_the_limits_that_leak_and_says_so():
    net, said = rare(), []
    guess = resolve_limits(net, 10.0)[1]
    assert guess.limits[1].seen == 0 and guess.numbers[1] < 15
    found = solve_fsp(net, np.linspace(0.0, 10.0, 11), say=said.append)
    assert found.limits.grown >= 2 and len(said) == found.limits.grown and found.lost[-1] < 1e-9
    assert found.net.limits.tolist() == found.limits.numbers and found.limits.numbers[0] == 1
    assert "P 0.." in said[-1]
    # E[P(t)] = 20 E[G off for s, then on], with P(on at s) = 1 - exp(-r s) from the birth law.
    r, t = 3e-6, 10.0
    mean = 20 * ((1 - np.exp(-t)) - (np.exp(-r * t) - np.exp(-t)) / (1 - r))
    assert found.mean()[-1, 1] == pytest.approx(mean, rel=1e-4)


def test_what_leaves_through_given_limits_makes_nothing_grow():
    net = rare().with_limits({"P": 5})
    found = solve_fsp(net, [0.0, 5.0, 10.0])
    assert found.limits.grown == 0 and found.lost[-1] > 1e-6 and found.net.limits.tolist() == [1, 5]


def test_the_leak_is_shared_out_by_species():
    net = two(("0 -> X", 3.0), ("X -> 0", 1.0), ("0 -> Y", 0.1), ("Y -> 0", 1.0), X=0, Y=0)
    report = resolve_limits(net, 2.0)[1]
    limits = tuple(module.replace(limit, largest=m) for limit, m in zip(report, (4, 12), strict=True))
    small = LimitsReport(limits, 1, 2.0)
    lost = lost_through(solve_fsp(small.apply(net), np.linspace(0, 2, 9)), small)
    assert lost["X"] > 0.05 and lost["Y"] < 1e-6


def test_growing_stops_at_the_largest_limit():
    net = rare()
    report = resolve_limits(net, 1.0)[1]
    with pytest.raises(InputError, match=r"species P .*probability still leaves"):
        for _ in range(30):
            report = grown(net, report, ["P"])[1]
    assert report.numbers[1] == 1_000_000 and report.numbers[0] == 1


def test_borders_split_the_leak_of_every_state():
    """Through X alone, through Y alone, through both (counted for both), and past a user's wall (for none)."""
    net = (
        ModelBuilder("b").species("X", initial=0, max=3).species("Y", initial=0, max=2).species("Z", initial=0, max=1)
        .reaction("0 -> X", rate=1.0).reaction("0 -> Y", rate=2.0).reaction("0 -> X + Y", rate=4.0)
        .reaction("0 -> X + Z", rate=8.0).reaction("X -> 0", rate=1.0).build()
    )  # fmt: skip
    n = np.array([[0, 0, 0], [3, 0, 0], [0, 2, 0], [3, 2, 0], [3, 0, 1], [0, 0, 1]], dtype=np.int32)
    leak = outflow(net.tables, n, net.s, net.limits, 0.0)[1]
    rates = Borders(net, np.array([True, True, False])).rates(n, leak, 0.0)
    assert rates.tolist() == [[0, 0], [13, 0], [0, 6], [13, 6], [5, 0], [0, 0]]
    assert leak.tolist() == [0, 13, 6, 15, 13, 8]
