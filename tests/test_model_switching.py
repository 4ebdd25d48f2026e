"""When rates switch: texts with known times, and the exact solver, which must land on them."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import scipy.stats
from cli_helpers import SWITCH, call

from hpcme.errors import InputError
from hpcme.exact.fsp import solve_fsp
from hpcme.model.builder import ModelBuilder
from hpcme.model.network import ReactionNetwork
from hpcme.model.switching import MOST_SWITCHES, switch_times

PARAMETERS = {"on": 3.0, "off": 7.5, "half": 0.5, "day": 24.0}


def network(*texts: str) -> ReactionNetwork:
    """Births with these propensities; X is the species."""
    builder = ModelBuilder("switching").species("X", initial=0, max=9)
    for name, value in PARAMETERS.items():
        builder.parameter(name, value)
    for text in texts:
        builder.reaction("0 -> X", propensity=text)
    return builder.build()


def steps(first: float, by: float, end: float) -> list[float]:
    return np.arange(first, end, by).tolist()


#: Text, end, times.
CASES = [
    # comparisons
    ("where(t < 3600, 1, 2)", 1e4, [3600]),
    ("where(t > 3600, 1, 2)", 1e4, [3600]),
    ("piecewise(1, t < 3600, 2)", 1e4, [3600]),
    ("piecewise(1, t < 10, 2, t < 20, 3)", 100, [10, 20]),
    ("where(t < 10, where(t < 4, 1, 2), where(t >= 30, 3, 4))", 100, [4, 10, 30]),
    ("(t < 5) + 2*(t >= 7)", 10, [5, 7]),
    ("where(t > 2 and t < 3, 1, 0)", 10, [2, 3]),
    ("where(not (t < 2 or 9 < t), 1, 0)", 10, [2, 9]),
    ("where(sin(2*pi*t/6) > 0, 1, 0)", 20, [3, 6, 9, 12, 15, 18]),
    ("where(1/t > 0.1, 1, 2)", 100, [10]),
    ("where(exp(-t) < 0.25, 1, 2)", 10, [math.log(4)]),
    ("where(t**2 - 4*t + 3 < 0, 1, 2)", 10, [1, 3]),
    ("where(2*t < 8 - 2*t, 1, 2)", 10, [2]),
    ("where(tan(t) > 1, 1, 2)", 4, [math.pi / 4, math.pi / 2, 5 * math.pi / 4]),  # and its pole
    # parameters in thresholds
    ("where(t >= on and t < off, 1, 0)", 10, [3, 7.5]),
    ("where(t < 2*on + half, 1, 0)", 10, [6.5]),
    ("where(t < on, half, 1)*X", 10, [3]),
    # periods, which are written with floor
    ("where(t - day*floor(t/day) < 12, 1, 0)", 100, steps(12, 12, 100)),
    ("t - 10*floor(t/10)", 35, [10, 20, 30]),
    ("floor(t)", 5.5, [1, 2, 3, 4, 5]),
    ("ceil(t/half)", 2.2, [0.5, 1, 1.5, 2]),
    ("floor(10 - t)", 3.5, [1, 2, 3]),
    ("floor(t*t)", 2.1, [1, math.sqrt(2), math.sqrt(3), 2]),
    ("floor(2.5*sin(t) + 3)", 3.1, [0.411516846067488, 0.927295218001612, 2.214297435588181, 2.730075807522305]),
    ("where(floor(t/10) < 1, 1, 2)", 1e6, [10]),  # the other steps of floor change nothing
    # kinks
    ("abs(t - 5)", 10, [5]),
    ("min(1, t/10)", 50, [10]),
    ("max(0, sin(2*pi*t/day))", 60, [12, 24, 36, 48]),
    ("min(t, 3, 8 - t)", 7.9, [3, 5]),
    ("exp(-abs(t - half))", 2, [0.5]),
    # short ones
    ("where(abs(t - 5) < 1e-6, 1, 0)", 1e4, [5 - 1e-6, 5 + 1e-6]),
    ("where((t - 5)**2 < 1e-10, 1, 0)", 1e3, [5 - 1e-5, 5 + 1e-5]),
    ("where(t > 777 and t < 777.0001, 1, 0)", 1e4, [777, 777.0001]),
    ("where(t < 1e-7, 1, 0)", 1e3, [1e-7]),
    ("where(cos(2*pi*t) > 0.9999999, 1, 0)", 2.5, [x + s * math.acos(0.9999999) / (2 * math.pi) for x, s in
        ((0, 1), (1, -1), (1, 1), (2, -1), (2, 1))]),
    # counts
    ("where(X > t, 1, 2)", 10, []),
    ("min(X, t)", 10, []),
    ("abs(X - t) + floor(X*t)", 10, []),
    ("where(X > 3, 1, 2)*(1 + sin(t))", 10, []),
    ("where(X > 3 and t > 4, 1, 2)", 10, [4]),
    ("where(X > where(t < 5, 1, 2), 1, 2)", 10, [5]),
    # nothing switches
    ("1 + sin(t)", 100, []),
    ("X + half", 100, []),
    ("where(on > 2, t, 1)", 10, []),
    ("where(0*t > 1, 1, 2)", 10, []),
    ("where(on < 2, where(t < 5, 1, 2), t)", 10, []),  # the branch that the parameters rule out
    ("where(t == 5, 1, 2)", 10, []),  # at a point only
    ("where((t - 5)**2 > 0, 1, 2)", 10, []),
    ("floor(1.5 + 0.4*sin(t))", 1e3, []),
    ("where(t < 50, 1, 2)", 10, []),
    ("where(t > -1, 1, 2)", 10, []),
    ("where(t > 0, 1, 2)", 10, []),
    ("where(t < 10, 1, 2)", 10, []),  # not inside
]  # fmt: skip


@pytest.mark.parametrize(("text", "end", "times"), CASES, ids=[case[0] for case in CASES])
def test_known_times(text, end, times):
    found = switch_times(network(text), end)
    assert found.dtype == np.float64 and (np.diff(found) > 0).all()
    np.testing.assert_allclose(found, times, rtol=1e-15, atol=1e-12 * ("cos" in text))  # a flat crossing


def test_times_written_as_numbers_are_met_to_the_last_bit():
    """But for rates that do not do so themselves: 10 - t is 9 a few floats beyond 1."""
    for text, end, times in CASES:
        rounded = any(part in text for part in ("sin", "**", "(10 - t"))
        if not rounded and all(float(t).is_integer() for t in times):
            np.testing.assert_array_equal(switch_times(network(text), end), times)


@pytest.mark.parametrize("end", [30.0, 700.0, 1e5])
def test_the_value_changes_at_every_step_of_a_daily_rate_and_nowhere_else(end):
    net = network("where(sin(2*pi*t/day) > 0.3, 2, 1) + 4*(t - day*floor(t/day) >= 7)")
    times = net.switch_times(end)
    first = math.asin(0.3) * 24 / (2 * math.pi)
    expected = np.sort([24 * n + x for n in range(int(end / 24) + 1) for x in (first, 12 - first, 7, 24)])
    expected = expected[expected < end]
    np.testing.assert_allclose(times, expected[:MOST_SWITCHES], rtol=1e-13)
    edges = np.concatenate([[0.0], times])
    value = net.reactions[0].kinetics.evaluate(PARAMETERS, np.nextafter(edges, np.inf) + 1e-9)
    assert (np.diff(value) != 0).all()


def test_times_of_all_reactions_are_one_list():
    net = network("where(t < 0.1 + 0.2, 1, 2)", "where(t < 0.3, 1, 2) + abs(t - 2)", "floor(t)", "1")
    np.testing.assert_allclose(net.switch_times(3.0), [0.3, 1, 2], rtol=1e-15)  # 0.1 + 0.2 is not 0.3


def test_rates_of_mass_action_and_other_parameters():
    builder = ModelBuilder("decay").parameter("stop", 4).species("X", initial=3, max=3)
    net = builder.reaction("X -> 0", rate="where(t < stop, 1, 0)").build()
    assert net.switch_times(10.0).tolist() == [4.0]
    assert net.with_parameters({"stop": 5}).switch_times(10.0).tolist() == [5.0]
    assert pickle.loads(pickle.dumps(net)).switch_times(10.0).tolist() == [4.0]


def test_the_last_end_is_kept():
    net = network("floor(t)")
    assert net.switch_times(2.5).tolist() == [1, 2] and net.switch_times(2.5) is net.switch_times(2.5)
    assert net.switch_times(3.5).tolist() == [1, 2, 3] and net.switch_times(0.0).tolist() == []


@pytest.mark.parametrize("end", [1e5, 777_777.0, 1e6])
@pytest.mark.parametrize("text", ["floor(t)", "where(sin(2*pi*t) > 0, 1, 0)", "where(t - floor(t) < 0.5, 1, 0)"])
def test_of_very_many_times_the_first_ones_are_there(text, end):
    first = steps(1, 1, 1000) if text == "floor(t)" else steps(0.5, 0.5, 1000)
    found = switch_times(network(text), end)
    assert 0.99 * MOST_SWITCHES <= len(found) <= MOST_SWITCHES
    np.testing.assert_allclose(found[: len(first)], first, rtol=1e-12)


def test_rounding_noise_is_no_switch_that_must_be_met():
    assert len(switch_times(network("where(sin(t)**2 + cos(t)**2 > 1, 1, 1)"), 100.0)) == 0


@pytest.mark.parametrize("end", [-1.0, math.inf, math.nan])
def test_an_end_that_is_no_time_is_refused(end):
    with pytest.raises(InputError, match="finite and not negative"):
        network("floor(t)").switch_times(end)


# ---- the exact solver ----


def births(rate: str) -> ReactionNetwork:
    return ModelBuilder("pulse").species("X", initial=0, max=60).reaction("0 -> X", rate=rate).build()


@pytest.mark.parametrize("method", ["dop853", "radau"])
@pytest.mark.parametrize("end", [1.0, 1e5])
def test_a_short_pulse_is_not_stepped_over(method, end):
    """Births at rate 2/end, and in a pulse of width 1e-4 end at 3 per pulse more: Poisson of 2 + 3 at the end."""
    begin, width = 0.3337 * end, 1e-4 * end
    net = births(f"2/{end} + where(t >= {begin} and t < {begin} + {width}, 3/{width}, 0)")
    times = [0.2 * end, begin, begin + 0.5 * width, begin + width, end]
    solution = solve_fsp(net, times, method=method, tol=1e-11)
    mean = [0.4, 2 * 0.3337, 2 * 0.33375 + 1.5, 2 * 0.3338 + 3, 5]
    np.testing.assert_allclose(solution.mean()[:, 0], mean, atol=1e-8)
    law = scipy.stats.poisson.pmf(solution.states[:, 0], np.array(mean)[:, None])
    np.testing.assert_allclose(solution.p, law, atol=1e-9)


def test_many_strong_pulses_cost_no_accuracy_at_their_edges():
    """Pulses of width 1e-5 each hour at a rate of 5e3: 0.05 births a pulse, also one that ends with the time."""
    net = births("where(t - floor(t) >= 0.5 and t - floor(t) < 0.50001, 5e3, 1e-3)")
    solution = solve_fsp(net, [50.0, 99.50001])
    mean = 1e-3 * solution.times + (5e3 - 1e-3) * 1e-5 * np.array([50, 100])
    np.testing.assert_allclose(solution.mean()[:, 0], mean, rtol=1e-8)


def test_a_rate_that_counts_and_time_share_lands_on_its_switch_too():
    """X + 5 births in a pulse that is not separable: linear growth of the mean in a very short time."""
    net = (
        ModelBuilder("growth")
        .species("X", initial=1, max=120)
        .reaction("0 -> X", propensity="where(t >= 0.7 and t < 0.7001, 1e4*(X + 5), 0*X + 1e-12)")
        .build()
    )
    solution = solve_fsp(net, [1.0])
    # the mean of a Yule process with immigration: (1 + 5) e^(rate width) - 5
    assert solution.mean()[0, 0] == pytest.approx(6 * math.exp(1e4 * (0.7001 - 0.7)) - 5, rel=1e-8)


# ---- hpcme check ----


def test_check_tells_when_rates_switch(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pulse.toml").write_text(SWITCH.replace('"on*(1 - G)"', '"where(t < 3.25, on, 1)*(1 - G)"'))
    (tmp_path / "many.toml").write_text(SWITCH.replace('"on*(1 - G)"', '"floor(t)*(1 - G)"'))
    (tmp_path / "plain.toml").write_text(SWITCH)
    assert "  rates switch at t = 3.25\n" in call(capsys, "check", "pulse.toml", "--end", "9").out
    text = call(capsys, "check", "many.toml", "--end", "9.5").out
    assert "  rates switch at t = 1, 2, 3, 4, 5, 6, ... (9 times until the end)\n" in text
    for argv in (["plain.toml", "--end", "9"], ["pulse.toml", "--end", "3"], ["pulse.toml"]):
        assert "rates switch" not in call(capsys, "check", *argv).out
    data = json.loads(call(capsys, "check", "many.toml", "--end", "9.5", "--json").out)
    assert data["states"]["switch_times"] == list(range(1, 10))
