"""The last line of tests/run.sh is true, and a failure on one MPI rank ends all ranks instead of hanging."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The launcher of the environment that runs the tests comes first.
PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
MPIEXEC = shutil.which("mpiexec", path=PLACES)
needs_mpiexec = pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec (pip install mpich)")

CASES = '<testcase classname="a" name="{}">{}</testcase>'


def build_folder(folder: Path, reports: dict[str, list[str]], broken: list[str]) -> Path:
    """A build folder as CTest leaves it. reports: by name, a list of words ok, failure, error, skipped."""
    (folder / "junit").mkdir(parents=True)
    (folder / "Testing/Temporary").mkdir(parents=True)
    for name, results in reports.items():
        cases = [CASES.format(i, "" if r == "ok" else f'<{r} message="why"/>') for i, r in enumerate(results)]
        text = f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>"
        (folder / "junit" / f"{name}.xml").write_text(text)
    if broken:
        log = folder / "Testing/Temporary/LastTestsFailed.log"
        log.write_text("".join(f"{i}:{name}\n" for i, name in enumerate(broken)))
    return folder


@pytest.mark.parametrize(
    ("reports", "broken", "ctest", "last", "code"),
    [
        ({"x": ["ok", "skipped"], "y": ["ok"]}, [], 0, "2 passed, 0 failed, 1 skipped", 0),
        ({"x": ["ok", "failure"], "y": ["error"]}, ["x", "y"], 8, "1 passed, 2 failed, 0 skipped", 1),
        ({"x": ["ok"], "mpi.3": ["ok"]}, ["mpi.3"], 8, "2 passed, 1 failed, 0 skipped", 1),
        ({"x": ["ok"]}, ["timed-out"], 8, "1 passed, 1 failed, 0 skipped", 1),
        ({"x": ["ok"]}, [], 8, "1 passed, 1 failed, 0 skipped", 1),
        ({}, [], 0, "0 passed, 1 failed, 0 skipped", 1),
    ],
)
def test_totals_over_all_runs(tmp_path, reports, broken, ctest, last, code):
    folder = build_folder(tmp_path, reports, broken)
    command = [sys.executable, str(ROOT / "tests/count_results.py"), str(folder), str(ctest)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == last
    assert done.returncode == code


def on_ranks(folder: Path, ranks: int, expected: int, body: str) -> subprocess.CompletedProcess[str]:
    """Run a test file with this body under mpiexec through tests/mpi_pytest.py."""
    (folder / "test_it.py").write_text(f"from mpi4py import MPI\ncomm = MPI.COMM_WORLD\n{body}")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -ra\n")  # as in pyproject.toml
    start = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "mpi4py", str(ROOT / "tests/mpi_pytest.py")]
    command = [*start, str(expected), "--junitxml=report.xml", "-p", "no:cacheprovider", "test_it.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@needs_mpiexec
@pytest.mark.mpi
def test_ranks_that_pass_give_one_report(tmp_path):
    done = on_ranks(tmp_path, 3, 3, "def test_a():\n    assert comm.allreduce(1) == 3\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("1 passed") == 1  # only rank 0 speaks
    assert len(list(xml.parse(tmp_path / "report.xml").iter("testcase"))) == 1


@needs_mpiexec
@pytest.mark.mpi
def test_a_failure_on_one_rank_ends_all_with_its_traceback(tmp_path):
    body = "def test_a():\n    assert comm.rank != 1, 'rank one is wrong'\n    comm.barrier()\n"
    done = on_ranks(tmp_path, 2, 2, body)
    assert done.returncode != 0
    assert "rank 1 of 2: test_it.py::test_a failed in call" in done.stderr
    assert "rank one is wrong" in done.stderr


@needs_mpiexec
@pytest.mark.mpi
def test_a_launcher_that_makes_another_number_of_ranks_is_refused(tmp_path):
    done = on_ranks(tmp_path, 1, 2, "def test_a():\n    pass\n")
    assert done.returncode == 1
    assert "2 ranks were started, but MPI sees 1" in done.stderr
