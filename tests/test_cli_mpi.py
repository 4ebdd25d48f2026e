"""The command line under mpiexec: one voice, one exit code, and no rank left behind."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import process, run_words, tree, write_inputs

from hpcme.store.reader import open_run


def _mpiexec() -> str | None:
    """The mpiexec that belongs to this Python's MPI (an mpich wheel puts it beside), else the one on the
    path."""
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec")


pytestmark = [pytest.mark.mpi, pytest.mark.skipif(_mpiexec() is None, reason="there is no mpiexec")]
TWO = (_mpiexec() or "", "-n", "2")


@pytest.fixture
def place(tmp_path):
    write_inputs(tmp_path)
    return tmp_path


def test_two_ranks_solve_a_job_with_one_voice(place):
    result = process(place, "run", "job.toml", "--out", "two", before=TWO)
    assert result.code == 0, result.err
    assert result.out.count("done in ") == 1 and result.out.count("next: hpcme stats two") == 1
    assert "2 ranks on 1 host" in result.err and result.err.count("parameters") == 1
    again = process(place, "run", "job.toml", "--out", "two", before=TWO)
    assert (
        again.code == 0 and again.out.startswith("already finished: nothing was done\n") and again.err == ""
    )
    with open_run(place / "two") as run:
        assert run.status == "done" and run.times.tolist() == [0.0, 0.3, 0.6]
        assert np.isfinite(run.mean).all()


def test_wrong_input_is_told_once(place):
    before = tree(place)
    result = process(place, "run", "job.toml", "--set", "solver.epoks=3", before=TWO)
    assert result.code == 65 and result.out == ""
    assert result.err.count("hpcme: error") == 1 and 'Did you mean "solver.epochs"' in result.err
    result = process(place, "run", "job.toml", "--set", "sampling.shards=1", before=TWO)
    assert result.code == 65 and result.err.count("hpcme: error") == 1
    assert "sampling.shards = 1" in result.err and "2 ranks" in result.err and "Traceback" not in result.err
    result = process(place, "stats", "two", before=TWO)
    assert result.code == 65 and result.err.count("hpcme: error") == 1 and "2 processes" in result.err
    assert tree(place) == before


def test_an_error_of_one_rank_ends_all_with_its_code(place):
    """Rank 1 fails while rank 0 waits for it in a collective; then both fail and one of them speaks."""
    (place / "fail.py").write_text(
        "import sys\n"
        "import torch\n"
        "from hpcme.cli.main import main\n"
        "from hpcme.errors import NumericalError\n"
        "import hpcme.driver\n"
        "def solve(job, *, world, **rest):\n"
        "    if world.rank in map(int, sys.argv[1].split(',')):\n"
        "        raise NumericalError('the loss is not finite')\n"
        "    world.sum_(torch.ones(1))\n"
        "hpcme.driver.solve = solve\n"
        "sys.exit(main(['run', 'job.toml', '--out', 'x']))\n"
    )
    one = run_words(place, [*TWO, sys.executable, "fail.py", "1"])
    assert one.code == 76 and one.err.count("hpcme: error on rank 1 of 2: the loss is not finite") == 1
    both = run_words(place, [*TWO, sys.executable, "fail.py", "0,1"])
    assert both.code == 76 and both.err == "hpcme: error: the loss is not finite\n"


def test_doctor_joins_the_ranks(place):
    result = process(place, "doctor", before=TWO)
    assert result.code == 0, result.out + result.err
    assert result.out.count("everything is in order") == 1
    assert (
        "2 processes" in result.out
        and "ranks: 2 on" in result.out
        and "all-reduce over 2 rank(s)" in result.out
    )
