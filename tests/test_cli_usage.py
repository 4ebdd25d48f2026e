"""Usage of the command line: help, versions, exit codes, and wrong input that must be told in one message."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from cli_helpers import LAUNCHERS, SWITCH, call, process, run_words, tree, write_inputs

import hpcme
from hpcme.cli.main import COMMANDS


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with models, jobs, finished runs and broken inputs."""
    folder = tmp_path_factory.mktemp("usage")
    write_inputs(folder)
    from hpcme.cli.main import main

    for argv in (
        ["fsp", folder / "switch.toml", "--end", "1", "--every", "0.5", "--out", folder / "exact", "--quiet"],
        [
            "ssa",
            folder / "switch.toml",
            "--end",
            "1",
            "--trajectories",
            "20",
            "--out",
            folder / "paths",
            "--quiet",
        ],
        ["fsp", folder / "birth_death.toml", "--end", "1", "--out", folder / "other", "--quiet"],
    ):
        assert main([str(word) for word in argv]) == 0
    broken = {
        "negative.toml": SWITCH.replace("initial = 0, max = 12", "initial = -1, max = 12"),
        "limit.toml": SWITCH.replace("initial = 0, max = 12", "initial = 5, max = 3"),
        "species.toml": SWITCH.replace('"on*(1 - G)"', '"on*(1 - Gx)"'),
        "expression.toml": SWITCH.replace('"on*(1 - G)"', '"on*(1 - G"'),
        "badrate.toml": SWITCH.replace("off = 2.0", "off = -2.0"),
        "syntax.toml": "[model\nname = 3",
        "bad_propensity.toml": SWITCH.replace('"on*(1 - G)"', '"on*(0.5 - P)*(1 - G)"'),
        "unknown_key.toml": 'model = "switch.toml"\n[time]\nend = 1.0\n[solver]\nepoch = 3\n',
        "unknown_table.toml": 'model = "switch.toml"\n[time]\nend = 1.0\n[solvr]\nepochs = 3\n',
        "no_end.toml": 'model = "switch.toml"\n',
        "no_model.toml": "[time]\nend = 1.0\n",
        "lost_model.toml": 'model = "swich.toml"\n[time]\nend = 1.0\n',
    }
    for name, text in broken.items():
        (folder / name).write_text(text)
    (folder / "states.csv").write_text("P,G\n1,0\n")
    (folder / "unknown.csv").write_text("P,H\n1,0\n")
    (folder / "half.csv").write_text("P,G\n0.5,0\n")
    (folder / "ragged.csv").write_text("P,G\n0.5\n")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("important")
    (folder / "notes.txt").write_text("no TOML here")
    return folder


WRONG = [
    # (command line, what the message must hold)
    ([], ["no command", "hpcme --help"]),
    (["rnu", "job.toml"], ["rnu", 'Did you mean "run"']),
    (["job.toml"], ["unknown command", "hpcme run job.toml"]),
    (["--jsn"], ["--jsn", "--help"]),
    (["run"], ["JOB|MODEL", "required"]),
    (["run", "job.toml", "--outt", "x"], ["--outt", 'Did you mean "--out"']),
    (["stats", "--jsn"], ["--jsn", 'Did you mean "--json"']),
    (["run", "job.toml", "extra"], ["unexpected", "extra"]),
    (["stats", "exact", "--json", "--csv"], ["--csv", "not allowed with", "--json"]),
    (["run", "jobb.toml"], ["jobb.toml"]),
    (["run", "notes.txt", "--end", "1"], ["notes.txt", ".toml"]),
    (["run", "syntax.toml", "--end", "1"], ["syntax.toml", "TOML"]),
    (["run", "switch.toml"], ["time.end", "--end"]),
    (["run", "switch.toml", "--end", "0"], ["--end", "above 0"]),
    (["run", "switch.toml", "--end", "soon"], ["--end", "soon", "number"]),
    (["run", "negative.toml", "--end", "1"], ["negative.toml", "P", "-1"]),
    (["run", "limit.toml", "--end", "1"], ["limit.toml", "P", "5", "3"]),
    (["check", "species.toml"], ["species.toml", "Gx", 'Did you mean "G"']),
    (["check", "expression.toml"], ["expression.toml", "on*(1 - G", "^"]),
    (["check", "badrate.toml"], ["badrate.toml", "off", "-2", "negative"]),
    (["check", "bad_propensity.toml"], ["reaction 1", "negative", "P = 1"]),
    (["run", "unknown_key.toml"], ["unknown_key.toml", "solver.epoch", 'Did you mean "solver.epochs"']),
    (["run", "unknown_table.toml"], ["solvr", 'Did you mean "solver"']),
    (["run", "no_end.toml"], ["no_end.toml", "time.end"]),
    (["check", "no_end.toml"], ["no_end.toml", "time.end"]),
    (["run", "no_model.toml"], ["no_model.toml", "model"]),
    (["run", "lost_model.toml"], ["swich.toml", 'Did you mean "switch.toml"']),
    (["run", "job.toml", "--set", "solver.epochs"], ["solver.epochs", "key=value"]),
    (["run", "job.toml", "--set", "solver.epochs=many"], ["solver.epochs", "many", "integer"]),
    (["run", "job.toml", "--set", "solver.epochs=0"], ["solver.epochs", "0", "1"]),
    (["run", "job.toml", "--set", "solver.epoks=3"], ["solver.epoks", 'Did you mean "solver.epochs"']),
    (["run", "job.toml", "--set", "parameters.onn=3"], ["onn", 'Did you mean "on"']),
    (["run", "job.toml", "--set", "solver.epochs=3", "--set", "solver.epochs=4"], ["solver.epochs", "twice"]),
    (["run", "job.toml", "--end", "2", "--set", "time.end=3"], ["--end", "time.end"]),
    (["fsp", "job.toml", "--out", "exact"], ["exact", "another job", "--out"]),
    (["fsp", "birth_death.toml", "--end", "1", "--out", "exact"], ["exact", "another model", "--out"]),
    (["ssa", "switch.toml", "--end", "1", "--out", "exact"], ["exact", "kind fsp", "kind ssa"]),
    (["ssa", "switch.toml", "--end", "1", "--out", "full"], ["full", "thesis.txt", "--out"]),
    (["fsp", "switch.toml", "--end", "1", "--out", "notes.txt"], ["notes.txt", "file", "--out"]),
    (["fsp", "switch.toml", "--end", "1", "--max-states", "5", "--out", "new"], ["5 states", "hpcme ssa"]),
    (["ssa", "switch.toml", "--end", "1", "--trajectories", "0"], ["--trajectories", "at least 1"]),
    (["ssa", "switch.toml", "--end", "1", "--trajectories", "2.5"], ["--trajectories", "2.5"]),
    (["stats", "nowhere"], ["nowhere", "does not exist"]),
    (["stats", "full"], ["full", "manifest.json"]),
    (["stats", "job.toml"], ["job.toml", "not a run"]),
    (["stats", "exact", "--time", "0.7"], ["0.7", "0.5", "nearest"]),
    (["stats", "exact", "--time", "noon"], ["--time", "noon", "number"]),
    (["marginal", "exact"], ["--species", "required"]),
    (["marginal", "exact", "--species", "PP"], ["PP", 'Did you mean "P"']),
    (["marginal", "exact", "--species", "P", "G", "P"], ["two", "3"]),
    (["logprob", "exact", "--states", "nowhere.csv"], ["nowhere.csv"]),
    (["logprob", "exact", "--states", "unknown.csv"], ["unknown.csv", "H", "G, P"]),
    (["logprob", "exact", "--states", "half.csv"], ["half.csv", "0.5", "integers"]),
    (["logprob", "exact", "--states", "ragged.csv"], ["ragged.csv", "row 2"]),
    (["logprob", "paths", "--states", "states.csv"], ["paths", "trajectories"]),
    (["sample", "exact"], ["-n", "required"]),
    (["sample", "exact", "-n", "0"], ["-n", "at least 1"]),
    (["sample", "exact", "-n", "5", "--out", "s.txt"], ["s.txt", ".csv", ".npy"]),
    (["sample", "exact", "-n", "5", "--out", "no/s.csv"], ["no/s.csv", "no folder"]),
    (["sample", "paths", "-n", "21"], ["20 trajectories", "21"]),
    (["compare", "exact"], ["--with", "required"]),
    (["compare", "exact", "--with", "exakt"], ["exakt", 'Did you mean "exact"']),
    (["compare", "exact", "--with", "other"], ["other", "X", "G, P"]),
    (["compare", "exact", "--with", "exact", "--max-states", "5"], ["5 states", "ssa"]),
    (["plot", "exact", "--kind", "heet"], ["heet", 'Did you mean "heat"']),
    (["plot", "exact", "--kind", "heat", "--time", "1"], ["--time", "no use", "heat"]),
    (["plot", "exact", "--kind", "corner", "--time", "0.5", "1"], ["one time", "2 were given"]),
    (["plot", "exact", "--quantity", "sd"], ["--quantity", "overview"]),
    (["plot", "exact", "--kind", "scan"], ["exact", "a run", "merged.h5"]),
    (["plot", "exact", "--kind", "convergence"], ["exact", "no series"]),
    (["prob", "exact"], ["CONDITION", "required"]),
    (["prob", "exact", "PP > 1"], ["PP", "no species or parameter", 'Did you mean "P"']),
    (["prob", "exact", "P > 1 and"], ["P > 1 and", "^"]),
    (["prob", "exact", "P > 1", "--reach", "2"], ["level 2", "below 1"]),
    (["prob", "exact", "P > 1", "--reach", "0.5", "--time", "1"], ["--reach", "--time"]),
    (["info", "exact", "--species", "PP"], ["PP", 'Did you mean "P"']),
    (["info", "exact", "--time", "0.7"], ["0.7", "nearest"]),
    (["quantiles", "exact", "--level", "1"], ["level 1", "below 1"]),
    (["modes", "exact", "--species", "P", "P"], ["two different", "P, P"]),
    (["modes", "exact", "--smooth", "-1"], ["smooth", "-1", "from 0"]),
    (["loglik", "exact"], ["--data", "required"]),
    (["loglik", "exact", "--data", "unknown.csv"], ["unknown.csv", "H", "G, P"]),
    (["loglik", "exact", "--data", "half.csv"], ["half.csv", "0.5", "integers"]),
    (["report", "exact", "--out", "report.pdf"], [".pdf", ".html"]),
    (["report", "exact", "--reference", "nowhere"], ["nowhere", "does not exist"]),
    (["plot", "exact", "--kind", "joint", "--species", "P"], ["two species"]),
    (["plot", "exact", "--species", "P"], ["--species", "overview"]),
    (["plot", "exact", "--out", "figure.doc"], [".doc", ".png"]),
    (["status", "full"], ["full", "no run folder"]),
    (["verify", "full"], ["full", "manifest.json"]),
    (["doctor", "--folder", "nowhere"], ["nowhere", "no such folder"]),
]  # fmt: skip


@pytest.mark.parametrize("argv, pieces", WRONG, ids=[" ".join(argv) or "nothing" for argv, _ in WRONG])
def test_wrong_input_is_told_in_one_message_and_nothing_is_written(place, capsys, monkeypatch, argv, pieces):
    monkeypatch.chdir(place)
    before = tree(place)
    result = call(capsys, *argv)
    assert result.code == 65
    assert result.out == ""
    assert result.err.startswith("hpcme: error: ") and result.err.count("hpcme: error") == 1
    assert "Traceback" not in result.err
    missing = [piece for piece in pieces if piece not in result.err]
    assert not missing, result.err
    assert tree(place) == before


def test_a_network_run_refuses_folders_of_others_and_writes_nothing(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    before = tree(place)
    for out, pieces in (
        ("exact", ["kind fsp", "kind network"]),
        ("full", ["thesis.txt"]),
        ("notes.txt", ["a file"]),
    ):
        result = call(capsys, "run", "job.toml", "--out", out)
        assert result.code == 65 and all(piece in result.err for piece in pieces), result.err
        assert result.err.startswith("hpcme: error: ") and result.out == ""
    assert tree(place) == before


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_help_ends_with_an_example_of_the_command(capsys, name):
    result = call(capsys, name, "--help")
    assert (result.code, result.err) == (0, "")
    example = result.out.rstrip().split("example:\n")[1].splitlines()
    assert example and all(f"hpcme {name} " in f"{line} " for line in example)
    assert call(capsys, "help", name).out == result.out


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_example_is_a_command_line_that_parses(name):
    import shlex

    from hpcme.cli.parsing import parse

    for line in COMMANDS[name].example.splitlines():
        words = shlex.split(line)
        parsed = parse(words[words.index("hpcme") + 1 :], COMMANDS, "0")
        assert parsed.command is COMMANDS[name]


def test_top_help_lists_every_command_and_the_version_is_told(capsys):
    result = call(capsys, "--help")
    assert result.code == 0
    assert all(f"\n  {name} " in result.out for name in COMMANDS)
    assert call(capsys, "--version") == (0, f"hpcme {hpcme.__version__}\n", "")


def test_help_and_wrong_usage_load_nothing_heavy(tmp_path):
    code = (
        "import sys; from hpcme.cli.main import main; "
        "codes = [main(['--help']), main(['run', '--help']), main(['rnu']), main(['stats', '--tim', '3'])]; "
        "print(codes, [m for m in ('numpy', 'numba', 'torch', 'h5py', 'mpi4py') if m in sys.modules])"
    )
    result = run_words(tmp_path, [sys.executable, "-c", code])
    assert result.out.splitlines()[-1] == "[0, 0, 65, 65] []"


def test_as_a_process_the_exit_code_is_that_of_the_error(place):
    result = process(place, "run", "unknown_key.toml")
    assert result.code == 65 and result.out == ""
    assert result.err.count("\n") == 1 and "solver.epochs" in result.err


def test_full_standard_output_is_an_output_error_and_a_closed_pipe_is_none(place):
    full = run_words(place, ["sh", "-c", f"{sys.executable} -m hpcme stats exact > /dev/full"])
    assert full.code == 74 and full.err.count("\n") == 1 and "standard output" in full.err
    usage = run_words(place, ["sh", "-c", f"{sys.executable} -m hpcme --help > /dev/full"])
    assert usage.code == 74 and usage.err == full.err
    words = f"{{ {sys.executable} -m hpcme sample exact -n 100000; echo code $? >&2; }} | head -n 1"
    closed = run_words(place, ["sh", "-c", words])
    assert closed.out == "G,P\n" and closed.err == "code 0\n"


def test_an_internal_error_shows_the_traceback_and_says_that_it_is_a_bug(place, capsys, monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("hpcme.analysis.statistics.stats_table", fail)
    result = call(capsys, "stats", place / "exact")
    assert result.code == 70
    assert "Traceback" in result.err and "oops" in result.err and "this is a bug in hpcme" in result.err


def test_too_little_memory_is_told_with_what_to_do(place, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError("Unable to allocate 3.00 TiB")

    monkeypatch.setattr("hpcme.exact.fsp.solve_fsp", fail)
    result = call(capsys, "fsp", place / "switch.toml", "--end", "1", "--out", place / "never")
    assert result.code == 65 and "3.00 TiB" in result.err and "fewer states" in result.err
    assert "Traceback" not in result.err and not (place / "never").exists()


def test_ctrl_c_ends_a_reference_without_a_trace(place, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hpcme.exact.ensemble.solve_ssa", fail)
    result = call(capsys, "ssa", place / "switch.toml", "--end", "1", "--out", place / "never")
    assert result == (130, "", "hpcme: interrupted\n")
    assert not (place / "never").exists()


def test_serial_commands_refuse_several_processes(place, capsys, monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "0")
    result = call(capsys, "stats", place / "exact")
    assert result.code == 65 and "2 processes" in result.err and "run and doctor" in result.err
    monkeypatch.setenv("PMI_RANK", "1")
    assert call(capsys, "stats", place / "exact") == (65, "", "")
    assert call(capsys, "--help") == (0, "", "")


@pytest.mark.parametrize(
    "variables, rank",
    [
        ({}, 0), ({"PMI_RANK": "3"}, 3), ({"OMPI_COMM_WORLD_RANK": "2"}, 2), ({"PMIX_RANK": "5"}, 5),
        ({"SLURM_PROCID": "4", "SLURM_STEP_NUM_TASKS": "8"}, 4), ({"SLURM_PROCID": "0"}, 0),
        ({"SLURM_PROCID": "4"}, 0),
    ],
)  # fmt: skip
def test_the_rank_that_prints_is_read_from_the_launcher(monkeypatch, variables, rank):
    import os

    from hpcme.parallel.launch import launched_rank

    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched_rank() == rank


def test_sizes_are_read_as_whole_numbers_exactly():
    from hpcme.cli.parsing import whole

    assert whole(0)("9007199254740993") == 9007199254740993  # above 2^53, where floats skip numbers
    assert whole(1)("1e5") == 100_000 and isinstance(whole(1)("1e5"), int)
    assert np.isfinite(whole(0)("0"))
