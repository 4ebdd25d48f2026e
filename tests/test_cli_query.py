"""References and questions to runs, through the command line, against closed forms."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from cli_helpers import call, write_inputs
from scipy import stats

from hpcme.cli.main import main
from hpcme.exact.fsp import solve_fsp
from hpcme.model.reader import load_model
from hpcme.store.reader import open_run

TIMES = [0.0, 0.5, 1.0]
TRAJECTORIES = 4000


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Exact and trajectory runs of the switch and of birth and death."""
    folder = tmp_path_factory.mktemp("query")
    write_inputs(folder)
    for model in ("switch", "birth_death"):
        common = [str(folder / f"{model}.toml"), "--end", "1", "--every", "0.5", "--quiet"]
        assert main(["fsp", *common, "--out", str(folder / f"{model}-fsp")]) == 0
    assert main(["ssa", *common, "--out", str(folder / "bd-ssa"), "--trajectories", str(TRAJECTORIES)]) == 0
    return folder


def _csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _lost(run) -> float:
    """Probability that has left the limits at the last time."""
    with open_run(run) as opened:
        return float(opened.lost[-1])


def _birth_death(t: float) -> tuple[float, float]:
    """Mean and variance from one molecule, k = 2, d = 0.5: a thinned molecule and an independent Poisson
    law."""
    alive = math.exp(-0.5 * t)
    return alive + 4.0 * (1.0 - alive), alive * (1.0 - alive) + 4.0 * (1.0 - alive)


def test_stats_of_an_exact_run_are_those_of_the_closed_form(place, capsys):
    data = json.loads(call(capsys, "stats", place / "birth_death-fsp", "--json").out)
    assert data["times"] == TIMES and data["species"] == ["X"]
    for k, t in enumerate(TIMES):
        mean, variance = _birth_death(t)
        # the limit of 30 cuts less than 1e-15 at these means; the exact solver is good to 1e-10
        assert data["mean"][k][0] == pytest.approx(mean, rel=1e-9)
        assert data["sd"][k][0] ** 2 == pytest.approx(variance, rel=1e-8, abs=1e-12)
        assert data["mean_se"][k] == [0.0] and data["sd_se"][k] == [0.0]


def test_stats_of_trajectories_lie_within_their_errors(place, capsys):
    data = json.loads(call(capsys, "stats", place / "bd-ssa", "--json").out)
    for k, t in list(enumerate(TIMES))[1:]:
        mean, variance = _birth_death(t)
        assert abs(data["mean"][k][0] - mean) < 5 * math.sqrt(variance / TRAJECTORIES)  # 5 standard errors
        assert data["mean_se"][k][0] == pytest.approx(math.sqrt(variance / TRAJECTORIES), rel=0.1)


def test_csv_json_and_text_of_stats_agree(place, capsys):
    run = place / "switch-fsp"
    data = json.loads(call(capsys, "stats", run, "--time", 0.5, 1, "--json").out)
    rows = _csv(call(capsys, "stats", run, "--time", 0.5, 1, "--csv").out)
    assert [(float(r["time"]), r["species"]) for r in rows] == [
        (0.5, "G"),
        (0.5, "P"),
        (1.0, "G"),
        (1.0, "P"),
    ]
    for r in rows:
        k, i = data["times"].index(float(r["time"])), data["species"].index(r["species"])
        assert float(r["mean"]) == data["mean"][k][i] and float(r["sd"]) == data["sd"][k][i]
        assert float(r["cov_P"]) == data["covariance"][k][i][1]
    text = call(capsys, "stats", run, "--time", 1).out
    assert f"{data['mean'][1][1]:.6g}" in text and "covariances" in text


def test_marginals_sum_to_one_and_pairs_to_the_marginal(place, capsys):
    run = place / "switch-fsp"
    one = json.loads(call(capsys, "marginal", run, "--species", "P", "--time", 1, "--json").out)
    two = json.loads(call(capsys, "marginal", run, "--species", "G", "P", "--json").out)
    assert sum(one["probability"]) == pytest.approx(1.0 - _lost(run), abs=1e-13)
    assert np.sum(two["probability"], axis=0) == pytest.approx(one["probability"], abs=1e-14)
    assert two["time"] == 1.0 and two["species"] == ["G", "P"]
    rows = _csv(call(capsys, "marginal", run, "--species", "G", "P", "--csv").out)
    assert len(rows) == 26
    assert float(rows[13 + 2]["probability"]) == two["probability"][1][2]
    text = call(capsys, "marginal", run, "--species", "P").out
    assert text.startswith("t = 1 (stored)\n") and f"{one['probability'][0]:.6g}" in text
    assert "of 26 pairs, together 1;" in call(capsys, "marginal", run, "--species", "G", "P").out


def test_logprob_takes_columns_in_any_order_and_sums_to_one(place, tmp_path, capsys):
    states = [(g, p) for g in range(2) for p in range(13)]
    (tmp_path / "states.csv").write_text("P,G\n" + "".join(f"{p},{g}\n" for g, p in states) + "99,0\n")
    run = place / "switch-fsp"
    rows = _csv(call(capsys, "logprob", run, "--states", tmp_path / "states.csv", "--csv").out)
    values = [float(r["logprob"]) for r in rows]
    assert math.fsum(map(math.exp, values)) == pytest.approx(1.0 - _lost(run), abs=1e-13)
    with open_run(run) as opened:
        table = {tuple(n): p for n, p in zip(opened.fsp_states().tolist(), opened.probability(1.0), strict=True)}
    for (g, p), r in zip(states, rows, strict=False):
        assert (int(r["G"]), int(r["P"])) == (g, p)
        assert float(r["logprob"]) == pytest.approx(math.log(table[g, p]), rel=1e-12)
    assert values[-1] == -math.inf
    data = json.loads(call(capsys, "logprob", run, "--states", tmp_path / "states.csv", "--json").out)
    assert data["logprob"][-1] is None and data["impossible"] == [False] * 26 + [True]
    assert "-inf" in call(capsys, "logprob", run, "--states", tmp_path / "states.csv").out


def test_samples_depend_on_the_seed_alone_and_have_the_law(place, tmp_path, capsys):
    run, count = place / "switch-fsp", 20_000
    text = call(capsys, "sample", run, "-n", count, "--time", 1).out
    assert text == call(capsys, "sample", run, "-n", count, "--time", 1, "--csv", "--seed", 0).out
    assert text != call(capsys, "sample", run, "-n", count, "--time", 1, "--seed", 1).out
    for name in ("s.csv", "s.npy"):
        result = call(capsys, "sample", run, "-n", count, "--out", tmp_path / name)
        assert result.code == 0 and str(tmp_path / name) in result.out
    n = np.load(tmp_path / "s.npy", allow_pickle=False)
    assert n.dtype == np.int32 and n.shape == (count, 2)
    assert (tmp_path / "s.csv").read_text() == text
    assert np.array_equal(np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1, dtype=np.int32), n)
    with open_run(run) as opened:
        deviation = (n.mean(axis=0) - opened.mean[-1]) / (opened.sd[-1] / math.sqrt(count))
    assert (np.abs(deviation) < 5).all()
    data = json.loads(call(capsys, "sample", run, "-n", 3, "--json").out)
    assert data["samples"] == n[:3].tolist() and data["species"] == ["G", "P"]


def test_an_exact_run_compared_with_exact_is_apart_by_what_it_lost(place, capsys):
    data = json.loads(call(capsys, "compare", place / "switch-fsp", "--with", "exact", "--json").out)
    assert data["times"] == TIMES and data["reference"] == "exact" and data["same_model"]
    # What left the limits (6e-9) is one more outcome of the run; of the reference, whose limits are walls, it stays
    # within them, so that no state is less likely than in the run.
    lost = _lost(place / "switch-fsp")
    assert 1e-9 < lost < 1e-8
    assert data["joint"]["tv"][-1] == pytest.approx(lost, abs=1e-13)
    net = load_model(place / "switch.toml")
    absorbed, reflected = solve_fsp(net, TIMES), solve_fsp(net, TIMES, reflecting=True)
    assert np.array_equal(absorbed.states, reflected.states)
    square = 0.5 * (((np.sqrt(absorbed.p[-1]) - np.sqrt(reflected.p[-1])) ** 2).sum() + lost)
    assert data["joint"]["hellinger"][-1] == pytest.approx(math.sqrt(square), rel=1e-3)
    assert data["joint"]["tv"][0] == data["joint"]["hellinger"][0] == 0.0


def test_trajectories_are_at_their_noise_floor(place, capsys):
    argv = ["compare", place / "bd-ssa", "--with", place / "birth_death-fsp", "--time", 1]
    data = json.loads(call(capsys, *argv, "--json").out)
    apart, floor = data["marginals"]["X"], data["noise_floor"]["marginals"]["X"]
    # the floor is the mean of a sum over about ten counts; 1.8 times it is more than five of its sds
    assert 0.3 * floor["tv"][0] < apart["tv"][0] < 1.8 * floor["tv"][0]
    assert data["joint"]["tv"] == [None] and "tv" in data["joint"]["reasons"]
    text = call(capsys, *argv).out
    assert "joint distribution" in text and "know no probabilities" in text and "log-likelihood" in text
    assert f"{apart['tv'][0]:.6g}" in text and f"{floor['tv'][0]:.6g}" in text
    (row,) = _csv(call(capsys, *argv, "--csv").out)
    assert float(row["tv_X"]) == apart["tv"][0] and row["tv"] == "" and float(row["tv_floor_X"]) == floor["tv"][0]


def test_compare_with_ssa_simulates_here(place, capsys):
    argv = [
        "compare",
        place / "birth_death-fsp",
        "--with",
        "ssa",
        "--trajectories",
        500,
        "--time",
        0.5,
        "--json",
    ]
    first = json.loads(call(capsys, *argv).out)
    assert first["reference"] == "ssa" and first["noise_floor"]["marginals"]["X"]["tv"][0] > 0
    assert first == json.loads(call(capsys, *argv).out)
    assert first != json.loads(call(capsys, *argv, "--seed", 1).out)


def test_another_model_with_the_same_species_is_pointed_out(place, capsys):
    argv = [
        "fsp",
        place / "birth_death.toml",
        "--end",
        1,
        "--set",
        "parameters.k=3.0",
        "--out",
        place / "k3",
        "--quiet",
    ]
    assert call(capsys, *argv) == (0, "", "")
    result = call(capsys, "compare", place / "birth_death-fsp", "--with", place / "k3")
    assert result.code == 0 and "of another model!" in result.out


def test_a_reference_made_again_is_said_to_be_finished(place, capsys):
    argv = ["fsp", place / "switch.toml", "--end", 1, "--every", 0.5, "--out", place / "switch-fsp"]
    before = (place / "switch-fsp" / "results.h5").read_bytes()
    result = call(capsys, *argv)
    assert result.code == 0 and result.out.startswith("already finished")
    assert json.loads(call(capsys, *argv, "--json").out)["already_finished"] is True
    assert (place / "switch-fsp" / "results.h5").read_bytes() == before


def test_fsp_tells_states_method_and_what_was_lost(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    data = json.loads(call(capsys, "fsp", "switch.toml", "--end", 1, "--json").out)
    assert data["folder"] == "runs/switch-fsp" and data["states"] == 26 and not data["already_finished"]
    assert len(data["times"]) == 11 and len(data["lost"]) == 11 and 0 < data["lost"][-1] < 1e-6
    again = call(capsys, "fsp", "switch.toml", "--end", 1).out
    assert f"{data['lost'][-1]:.3g}" in again and "hpcme plot runs/switch-fsp" in again


def test_the_seed_and_number_of_trajectories_make_the_run(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    argv = ["ssa", "switch.toml", "--end", 1, "--trajectories", 30]
    assert call(capsys, *argv, "--quiet") == (0, "", "")
    assert call(capsys, *argv).out.startswith("already finished")
    assert call(capsys, *argv, "--seed", 3).code == 65
    other = json.loads(call(capsys, *argv, "--seed", 3, "--out", "seed3", "--json").out)
    set_in_job = json.loads(call(capsys, *argv, "--set", "run.seed=3", "--out", "seed3b", "--json").out)
    assert other["mean"] == set_in_job["mean"] and other["trajectories"] == 30
    with open_run("seed3") as a, open_run("runs/switch-ssa") as b:
        assert not np.array_equal(a.samples(), b.samples())


def test_status_and_verify(place, tmp_path, capsys):
    rows = json.loads(call(capsys, "status", place, "--json").out)
    assert {row["folder"].rsplit("/", 1)[1] for row in rows} >= {"switch-fsp", "birth_death-fsp", "bd-ssa"}
    assert all(row["state"] == "done" and row["t"] == row["end"] == 1.0 for row in rows)
    assert call(capsys, "status", place / "bd-ssa", "--csv").out.count("\n") == 2
    result = call(capsys, "verify", place / "bd-ssa")
    assert result.code == 0 and "all 1 files are whole" in result.out
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(place / "bd-ssa", copy)
    with open(copy / "results.h5", "r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    result = call(capsys, "verify", copy)
    assert result.code == 65 and "results.h5 is damaged" in result.err and result.out == ""
    result = call(capsys, "verify", copy, "--json")
    assert result.code == 65 and len(json.loads(result.out)["problems"]) == 1
    (copy / "manifest.json").write_text("{")
    (row,) = json.loads(call(capsys, "status", tmp_path, "--json").out)
    assert row["state"] == "damaged" and "manifest.json" in row["remark"]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--kind", "time", "--species", "P"],
        ["--kind", "marginals", "--time", "0.5", "1"],
        ["--kind", "heat", "--species", "P"],
        ["--kind", "joint", "--species", "G", "P", "--time", "0.5"],
    ],
    ids=lambda options: options[1] if options else "overview",
)
def test_every_kind_of_figure_is_drawn(place, tmp_path, capsys, monkeypatch, options):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    result = call(capsys, "plot", place / "switch-fsp", *options)
    kind = options[1] if options else "overview"
    assert result == (0, f"switch-fsp-{kind}.png\n", "")
    assert (tmp_path / f"switch-fsp-{kind}.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_with_a_reference_of_another_type(place, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    argv = [
        "plot",
        place / "bd-ssa",
        "--reference",
        place / "birth_death-fsp",
        "--out",
        tmp_path / "a.svg",
        "--json",
    ]
    assert json.loads(call(capsys, *argv).out)["kind"] == "overview"
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_compare_tells_probability_lost_past_the_limits(tmp_path, capsys):
    """By a reference that lets it go; the exact law of `--with exact` has the walls of the network and loses none."""
    (tmp_path / "small.toml").write_text(
        '[model]\nname = "small"\n[species]\nX = { initial = 0, max = 4 }\n'
        '[[reactions]]\nequation = "0 -> X"\nrate = 5\n'
    )
    model, run, exact = (str(tmp_path / name) for name in ("small.toml", "run", "exact"))
    assert main(["run", model, "--end", "0.5", "--out", run, "--quiet", "--set", "output.report_samples=200"]) == 0
    assert main(["fsp", model, "--end", "0.5", "--out", exact, "--quiet"]) == 0
    outside = stats.poisson.sf(4, 2.5)  # 0.109
    result = call(capsys, "compare", run, "--with", exact)
    assert result.code == 0 and f"lost up to {outside:.2g} of its probability past the limits" in result.out
    found = json.loads(call(capsys, "compare", run, "--with", exact, "--json").out)
    # Without a way down the walls keep on X = 4 what the reference lost there: the laws differ by just that.
    assert found["joint"]["tv"][-1] == pytest.approx(outside, rel=1e-2)
    result = call(capsys, "compare", run, "--with", "exact")
    assert result.code == 0 and "lost" not in result.out
    found = json.loads(call(capsys, "compare", run, "--with", "exact", "--json").out)
    assert max(found["joint"]["tv"]) < 0.05 * outside
    assert main(["stats", run]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert line.strip().endswith("by t = 0.5. Fix: raise max of the species that reach it")
