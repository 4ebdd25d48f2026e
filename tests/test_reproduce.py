"""jobs/reproduce.py: one table and figures from jobs run to a small share of their horizons; what fails is a row."""

import contextlib
import csv
import importlib.util
import io
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats

import hpcme
from hpcme.cli.main import main
from hpcme.errors import InputError

JOBS = Path(__file__).parent.parent / "jobs"
SCRIPT = JOBS / "reproduce.py"
_SHARE = "0.05"


@pytest.fixture(scope="module")
def reproduce():
    """The script as a module, with the one beside it."""
    sys.path.insert(0, str(JOBS))
    try:
        spec = importlib.util.spec_from_file_location("reproduce", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        sys.modules["reproduce"] = module  # dataclasses look there
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(JOBS))
        sys.modules.pop("reproduce", None)


class Ended(NamedTuple):
    """How the script ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def place(reproduce, tmp_path_factory):
    """A folder in which the script ran: one job well, another one into a place that is taken."""
    place = tmp_path_factory.mktemp("paper")
    (place / "runs").mkdir()
    (place / "runs" / "autoregulation_2").write_text("in the way")
    words = ["--out", str(place / "runs"), "--figures", str(place / "figures"), "--share", _SHARE]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = reproduce.main([*words, "--only", "birth_death", "autoregulation_2"])
    return place, Ended(code, out.getvalue(), err.getvalue())


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))


def test_what_fails_is_a_row_and_the_rest_goes_on(place):
    folder, done = place
    assert done.code == 1
    rows = rows_of(folder / "runs")
    assert [(row["system"], row["variant"]) for row in rows] == [("birth_death", ""), ("autoregulation", "set 2")]
    good, failed = rows
    assert failed["remark"].startswith("FAILED: hpcme run ended with exit code 65: ") and not failed["tv"]
    assert failed["remark"].removeprefix("FAILED: ") in done.err
    assert good["remark"] == "" and 0.0 < float(good["tv"]) < 0.01 and float(good["mean_error"]) < 0.01
    assert float(good["tv"]) <= float(good["bound"]) and good["states"] == "30" and int(good["steps"]) > 0
    table = (folder / "runs" / "table.md").read_text(encoding="utf-8")
    assert table in done.out
    head, _, row, empty, last = table.splitlines()
    assert row.startswith("| birth_death | - | 1 | 30 | ") and row.count(" | ") == head.count(" | ") and not empty
    assert last == f"autoregulation set 2: {failed['remark']}"


def test_figures_are_small_and_of_what_ran(place):
    pytest.importorskip("matplotlib")
    figures = sorted((place[0] / "figures").iterdir())
    assert [path.name for path in figures] == ["birth_death_marginals.png", "birth_death_means.png"]
    assert all(1_000 < path.stat().st_size < 150_000 for path in figures)


def test_repeating_goes_on_with_what_is_missing(place, reproduce, monkeypatch, capsys):
    """Nothing that is finished is computed again, and without matplotlib there is a table and a message."""
    folder, _ = place
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("results.h5")}
    assert {path.parent.name for path in stamps} == {"birth_death", "birth_death-exact"}
    (folder / "runs" / "autoregulation_2").unlink()
    monkeypatch.setattr(reproduce, "row_of", recorded := Recorded(reproduce.row_of))
    monkeypatch.setattr(reproduce.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(reproduce, "command", lambda words, log: main([*words, "--quiet"]))  # spares the start-up
    words = ["--out", str(folder / "runs"), "--share", _SHARE, "--figures", str(folder / "none")]
    assert reproduce.main([*words, "--only", "birth_death", "autoregulation_2"]) == 1
    assert [case.job for case, *_ in recorded.calls] == ["autoregulation_2"]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert "need matplotlib" in capsys.readouterr().err and not (folder / "none").exists()
    rows = rows_of(folder / "runs")
    assert len(rows) == 2 and all(row["remark"] == "" and float(row["tv"]) < 0.01 for row in rows)


class Recorded:
    """A function that remembers its calls."""

    def __init__(self, function):
        self.function, self.calls = function, []

    def __call__(self, *args):
        self.calls.append(args)
        return self.function(*args)


def test_cases_are_all_jobs_but_the_short_ones(reproduce):
    assert {case.job for case in reproduce.CASES} == {path.stem for path in JOBS.glob("*.toml")} - {
        "quickstart", "toggle_switch",
    }  # fmt: skip
    assert [case.job for case in reproduce.chosen(["early_life_small", "birth_death"])] == [
        "birth_death", "early_life_small",
    ]  # fmt: skip
    assert len(reproduce.chosen(["epidemic"])) == 3 and reproduce.chosen(None) == list(reproduce.CASES)
    with pytest.raises(InputError, match='"epidemic"'):
        reproduce.chosen(["epidemics"])


class Law:
    """A law of a run as the script sees it: samples and log-probabilities."""

    def __init__(self, lam, limits):
        self.lam, self.limits = lam, limits

    def sample(self, N, seed):
        n = np.random.default_rng(seed + 100).poisson(self.lam, size=(2 * N, len(self.lam)))
        return n[(n <= self.limits).all(axis=1)][:N].astype(np.int32)

    def log_prob(self, n):
        cut = scipy.stats.poisson.logcdf(self.limits, self.lam)
        return (scipy.stats.poisson.logpmf(n, self.lam) - cut).sum(axis=1)


class Cascade:
    """What the script asks of a run of cascade_linear."""

    S, species = 15, [f"X{i}" for i in range(1, 16)]
    times = np.array([0.0, 2.0])

    def model(self):
        return hpcme.load_model(JOBS / "models" / "cascade_linear.toml")

    @property
    def limits(self):
        return self.model().limits

    def species_index(self, species):
        return species if isinstance(species, int) else self.species.index(species)


def test_closed_form_of_the_cascade(reproduce):
    """First species: k/(c + d) (1 - exp(-(c + d) t)); then dm_i/dt = c m_(i-1) - (c + d) m_i, the last without c."""
    exact, net = reproduce.Poisson(Cascade()), Cascade().model()
    k, c, d = (net.parameters[name] for name in "kcd")
    for t in (0.3, 2.0):
        m, h = exact.means(t), 1e-4
        assert m[0] == pytest.approx(k / (c + d) * (1 - np.exp(-(c + d) * t)), rel=1e-12)
        slope = (exact.means(t + h) - exact.means(t - h)) / (2 * h)
        rates = np.array([k - (c + d) * m[0], *(c * m[:13] - (c + d) * m[1:14]), c * m[13] - d * m[14]])
        assert slope == pytest.approx(rates, abs=1e-6)
    assert exact.mean[-1] == pytest.approx(exact.means(2.0)) and exact.marginal("X1", 2.0).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("wrong", [1.0, 1.02])
def test_distances_to_the_closed_form(reproduce, monkeypatch, wrong):
    """KL of product laws is the sum of KLs of Poisson laws, m log(m/m') - m + m', but for the limits' cut."""
    run = Cascade()
    exact = reproduce.Poisson(run)
    lam = exact.means(2.0)
    monkeypatch.setattr(reproduce, "law_of", lambda run, t: Law(wrong * lam, run.limits))
    found = reproduce.against_poisson(run, exact, 2.0)
    kl = float((lam * (np.log(1 / wrong) - 1 + wrong)).sum())
    sd = np.log(wrong) * np.sqrt(lam.sum() / 100_000)  # of the mean of log p - log q
    assert found["kl"] == pytest.approx(kl, abs=5 * sd + 1e-6)
    # Of two Poisson laws: H^2 = 1 - exp(-(sqrt m - sqrt m')^2 / 2).
    far = np.sqrt(-np.expm1(-0.5 * (np.sqrt(wrong * lam) - np.sqrt(lam)) ** 2)).max()
    assert abs(found["hellinger"] - far) < 2 * found["hellinger_floor"]
    assert abs(found["mean_error"] - (wrong - 1.0)) < 5 * found["mean_noise"]


def test_relative_errors_leave_out_next_to_nothing(reproduce):
    ours, right = np.array([1.1, 1e-3, 5.0]), np.array([1.0, 1e-6, 4.9])
    found = reproduce.mean_error(ours, right, np.array([0.3, 1.0, 1.0]))
    assert found == {"mean_error": pytest.approx(0.1), "mean_noise": pytest.approx(0.3), "means_off": 0}
    found = reproduce.mean_error(np.array([1e-3]), np.array([1e-6]), np.array([1.0]))
    assert found == {"mean_error": 0.0, "mean_noise": 0.0, "means_off": 0}


def test_a_mean_is_held_within_half_a_percent_or_three_standard_errors(reproduce):
    right = np.array([1.0, 1.0, 1.0, 1e-4])
    ours, noise = right + np.array([0.004, 0.02, 0.02, 4e-5]), np.array([1e-4, 0.007, 0.006, 1e-5])
    assert reproduce.mean_error(ours, right, noise)["means_off"] == 2  # the third, and the rare one


def test_noise_of_two_ensembles(reproduce):
    """E H^2 = (K - 1)/8 (1/N + 1/M) where every count is seen often; the tail weighs as its own samples do."""
    pmf = np.array([0.4, 0.3, 0.2, 0.1])
    both, one = reproduce.noise_of(pmf, (1000, 4000), 0), reproduce.noise_of(pmf, (1000,), 1)
    for found, expected in ((both, 3 / 8 * (1 / 1000 + 1 / 4000)), (one, 3 / 8 / 1000)):
        assert (found**2).mean() == pytest.approx(expected, abs=5 * (found**2).std() / np.sqrt(len(found)))
    still = reproduce.noise_of(np.array([1.0, 0.0]), (100, 100), 2)
    told = reproduce.marginals([0.02, 0.03, 0.0], [both, one, still])
    floors = [np.sqrt((found**2).mean()) for found in (both, one)]
    assert told["hellinger"] == 0.03 and told["hellinger_floor"] == pytest.approx(floors[1])
    assert told["ratio"] == pytest.approx(max(0.02 / floors[0], 0.03 / floors[1]))
    # The larger of two independent ones is below r with probability .95 where each is with .975: chi with 3 degrees.
    assert told["ratio_noise"] == pytest.approx(np.sqrt(scipy.stats.chi2.ppf(0.95**0.5, 3) / 3), abs=0.08)
    assert reproduce.marginals([0.0], [still])["ratio"] == 0.0
