"""Starting and ending ranks: what a launch that fails says, and who is ended by it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from cli_helpers import process, run_words, tree, write_inputs
from run_helpers import MPIEXEC

from hpcme.errors import InputError, InternalError, MoreTime, NumericalError, explain
from hpcme.parallel.launch import launched_size, set_threads

needs_mpiexec = [pytest.mark.mpi, pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec")]
JOIN = "import sys, torch\nfrom hpcme.parallel.world import open_world\nworld = open_world('cpu', 60.0)\n"


def mpi(test):
    """A test that starts mpiexec."""
    for mark in needs_mpiexec:
        test = mark(test)
    return test


def on_ranks(folder: Path, ranks: int, program: str, *arguments: str, **environment: str):
    """Run a Python program on ranks; one that hangs fails the test by run_words's time-out."""
    (folder / "program.py").write_text(program)
    return run_words(
        folder, [MPIEXEC, "-n", str(ranks), sys.executable, "program.py", *arguments], **environment
    )


@pytest.fixture
def place(tmp_path):
    write_inputs(tmp_path)
    return tmp_path


@mpi
def test_an_unexpected_exception_on_one_rank_ends_all(place):
    """In a user's script, while the other ranks wait in a collective."""
    result = on_ranks(
        place,
        3,
        JOIN + "if world.rank == 1:\n    raise ZeroDivisionError('boom')\nworld.sum_(torch.ones(1))\n",
    )
    assert result.code == 70
    assert result.err.count("hpcme: rank 1 of 3 on ") == 1 and result.err.count("ZeroDivisionError: boom") == 1
    assert 'program.py", line 5' in result.err


@mpi
def test_an_unexpected_exception_inside_a_run_ends_all(place):
    """In hpcme.solve, which joined the ranks itself: rank 1 breaks down in its third step."""
    program = (
        "import hpcme\n"
        "from hpcme.dynamics.evolve import Evolution\n"
        "from hpcme.parallel.launch import launched_rank\n"
        "advance = Evolution._advance\n"
        "def breaking(self):\n"
        "    if launched_rank() == 1 and self.step == 2:\n"
        "        raise ZeroDivisionError('boom')\n"
        "    return advance(self)\n"
        "Evolution._advance = breaking\n"
        "hpcme.solve('job.toml', out='run')\n"
    )
    result = on_ranks(place, 2, program)
    assert result.code == 70
    assert result.err.count("ZeroDivisionError: boom") == 1 and "Traceback" in result.err
    assert "hpcme: error on rank 1 of 2: this is a bug in hpcme" in result.err
    again = process(place, "run", "job.toml", "--out", "run", before=(MPIEXEC, "-n", "2"))
    assert again.code == 0, again.err  # what was there before is of use


@mpi
def test_an_error_of_all_ranks_is_told_once_with_its_code(place):
    program = JOIN + "from hpcme.errors import OutputError\nraise OutputError('the disk is full')\n"
    result = on_ranks(place, 2, program)
    assert result.code == 74 and result.err == "hpcme: error: the disk is full\n"
    result = on_ranks(place, 2, JOIN + "raise ZeroDivisionError('boom')\n")
    assert result.code == 70 and result.err.count("ZeroDivisionError: boom") == 1


@mpi
def test_a_job_that_one_rank_cannot_read_is_refused_by_all(place):
    """As on a host that does not see the file; rank 1 prints nothing itself."""
    program = (
        "import sys\n"
        "from hpcme.cli.main import main\n"
        "from hpcme.parallel.launch import launched_rank\n"
        "sys.exit(main(['run', 'jop.toml' if launched_rank() else 'job.toml', '--out', 'run']))\n"
    )
    before = set(tree(place))
    result = on_ranks(place, 2, program)
    assert result.code == 65 and result.err.count("hpcme: error") == 1 and result.out == ""
    assert "jop.toml: there is no such file" in result.err and 'Did you mean "job.toml"' in result.err
    assert set(tree(place)) - before == {"program.py"}


@mpi
def test_ranks_share_the_cpus_of_their_host(place):
    program = JOIN + "lines = world.gather((torch.get_num_threads(), world.threads))\n"
    program += "if lines:\n    print(lines)\nworld.close()\n"
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert on_ranks(place, 2, program).out == f"[({share}, {share}), ({share}, {share})]\n"
    assert on_ranks(place, 2, program, HPCME_THREADS="3").out == "[(3, 3), (3, 3)]\n"


@pytest.mark.parametrize(
    "variables",
    [
        {"PMI_SIZE": "2", "PMI_RANK": "0"},
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
    ],
)
def test_several_worlds_of_size_one_are_refused_with_a_hint(place, variables):
    """The launcher says two ranks, MPI hears nothing from it: each process would do all of the work."""
    before = tree(place)
    result = process(place, "run", "job.toml", "--out", "run", **variables)
    assert result.code == 65 and result.out == ""
    assert result.err.startswith("hpcme: error: started as 2 ranks by ") and result.err.count("\n") == 1
    assert "sees only this process" in result.err and "srun --mpi=pmi2" in result.err
    assert tree(place) == before


def test_one_process_needs_no_mpi(place):
    """Neither mpi4py nor torch.distributed is set up for a run without a launcher."""
    program = (
        "import sys\n"
        "sys.modules['mpi4py'] = None  # an import of it fails\n"
        "from hpcme.cli.main import main\n"
        "code = main(['run', 'job.toml', '--out', 'run', '--quiet'])\n"
        "import torch.distributed\n"
        "print(code, 'mpi4py.MPI' in sys.modules, torch.distributed.is_initialized())\n"
    )
    (place / "program.py").write_text(program)
    result = run_words(place, [sys.executable, "program.py"])
    assert result.out == "0 False False\n", result.err


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, (1, "")),
        ({"SLURM_NTASKS": "8"}, (1, "")),  # the batch shell of a job with 8 tasks
        ({"SLURM_STEP_NUM_TASKS": "1"}, (1, "")),
        ({"SLURM_STEP_NUM_TASKS": "8"}, (8, "srun")),
        ({"PMI_SIZE": "4", "SLURM_STEP_NUM_TASKS": "1"}, (4, "MPICH mpiexec or srun --mpi=pmi2")),
        ({"OMPI_COMM_WORLD_SIZE": "3", "PMI_SIZE": "4"}, (3, "Open MPI mpiexec")),
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "6"}, (6, "srun --mpi=pmix")),
    ],
)
def test_the_number_of_ranks_is_read_from_the_launcher(monkeypatch, variables, expected):
    from cli_helpers import LAUNCHERS

    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched_size() == expected


def test_threads_of_one_rank(monkeypatch):
    import torch

    before = torch.get_num_threads()
    monkeypatch.delenv("HPCME_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    try:
        assert set_threads(1) == torch.get_num_threads() == 8
        assert set_threads(4) == 2 and set_threads(16) == 1  # never none
        assert set_threads(2, useful=3) == 3 and set_threads(2, useful=100) == 4
        monkeypatch.setenv("HPCME_THREADS", "5")
        assert set_threads(2, useful=1) == torch.get_num_threads() == 5
        monkeypatch.setenv("HPCME_THREADS", "many")
        assert set_threads(2) == 4
    finally:
        monkeypatch.undo()
        set_threads(1)
        torch.set_num_threads(before)


def test_errors_in_words_and_codes():
    assert explain(InputError("no")) == ("hpcme: error: no", 65)
    assert explain(NumericalError("no"), " on rank 1 of 2") == ("hpcme: error on rank 1 of 2: no", 76)
    assert explain(MoreTime("stopped")) == ("hpcme: stopped", 75)  # not an error
    assert explain(KeyboardInterrupt()) == ("hpcme: interrupted", 130)
    text, code = explain(MemoryError())
    assert code == 65 and "not enough memory" in text and "Fix:" in text
    for bug in (InternalError("oops"), ZeroDivisionError("oops")):
        try:
            raise bug
        except Exception as error:
            text, code = explain(error, " on rank 3 of 4")
        assert code == 70 and text.startswith("Traceback") and "oops" in text and "rank 3 of 4" in text
        assert text.count("this is a bug in hpcme") >= 1
