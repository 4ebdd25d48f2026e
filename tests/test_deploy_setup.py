"""The set-up of jobs/setup.sh: what it refuses and in which words, what it reuses and repairs. No network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tree(tmp_path):
    """A checkout of only what set-up reads."""
    (tmp_path / "jobs").mkdir()
    for name in ("jobs/setup.sh", "jobs/constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)
    return path


def bare_environment() -> dict[str, str]:
    """This process's, without what steers set-up: whoever runs the tests may well have set HPCME_TORCH."""
    dropped = ("PIP_", "HPCME_", "VIRTUAL_ENV", "PYTHONPATH")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)}


def set_up(tree: Path, level: str = "run", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run hpcme_setup with a pip that finds nothing anywhere, and print what it has chosen."""
    clean = bare_environment() | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", **environment}
    script = f". jobs/setup.sh; hpcme_setup {level}; echo python=$hpcme_python launcher=$hpcme_launcher"
    command = ["bash", "-c", f"set -euo pipefail; {script}"]
    return subprocess.run(command, cwd=tree, env=clean, capture_output=True, text=True, timeout=300)


def quick_base(tree: Path) -> str:
    """A Python whose virtual environments have no pip: set-up stops soon after making one."""
    text = '[ "$1 $2" != "-m venv" ] || set -- -m venv --without-pip "${@:3}"\n'
    return str(program(tree / "quick-python", f'{text}exec {sys.executable} "$@"\n'))


def finished_venv(tree: Path) -> Path:
    """A .venv as a successful set-up of level run leaves it, with a mark to see whether it is touched."""
    bin_dir = tree / ".venv" / "bin"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tree / ".venv")], check=True)
    program(bin_dir / "hpcme", "exit 0\n")
    program(bin_dir / "mpiexec", "exit 0\n")
    (tree / ".venv" / "mark").touch()
    script = '. jobs/setup.sh; echo "$hpcme_venv" >.venv/.hpcme-path; hpcme_wanted run >.venv/.hpcme-run'
    subprocess.run(["bash", "-c", script], cwd=tree, env=bare_environment(), check=True)
    return tree / ".venv"


def test_a_python_that_is_too_old_is_named_with_the_fix(tree):
    old = program(tree / "old-python", 'echo "3.8 False"\n')
    done = set_up(tree, HPCME_BASE_PYTHON=str(old))
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert "Python 3.8" in done.stderr and str(old) in done.stderr
    assert "Fix:" in done.stderr and not (tree / ".venv").exists()


def test_no_python_at_all(tree):
    done = set_up(tree, HPCME_BASE_PYTHON="no-such-python")
    assert done.returncode == 1
    assert "none was found" in done.stderr


def test_a_python_without_venv_and_pip_modules_is_explained(tree):
    text = f'case "$*" in *ensurepip* | *"import venv, pip"*) exit 1 ;; esac\nexec {sys.executable} "$@"\n'
    done = set_up(tree, HPCME_BASE_PYTHON=str(program(tree / "bare-python", text)))
    assert done.returncode == 1
    assert "cannot make virtual environments" in done.stderr
    assert "apt install python3-venv" in done.stderr


def test_pip_that_finds_nothing_says_why_and_can_be_repeated(tree):
    for _ in range(2):
        done = set_up(tree, HPCME_BASE_PYTHON=sys.executable)
        assert done.returncode == 1
        assert "pip failed" in done.stderr
        assert "not on your index" in done.stderr and "PIP_INDEX_URL" in done.stderr
        assert not (tree / ".venv/.hpcme-run").exists()
    assert "making .venv" not in done.stdout  # the second call went on with the same .venv


@pytest.mark.parametrize("broken", ["killed", "without python"])
def test_a_half_finished_set_up_starts_afresh(tree, broken):
    (tree / ".venv").mkdir()
    (tree / ".venv" / "rubbish").touch()
    if broken == "killed":
        (tree / ".venv" / ".hpcme-unfinished").touch()
    done = set_up(tree, HPCME_BASE_PYTHON=quick_base(tree))
    assert ("did not end" if broken == "killed" else "no Python or pip that works") in done.stdout
    assert "making .venv" in done.stdout
    assert not (tree / ".venv" / "rubbish").exists()


def test_a_finished_set_up_is_used_as_it_is(tree):
    venv = finished_venv(tree)
    done = set_up(tree)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"python={venv}/bin/python launcher={venv}/bin/mpiexec\n"
    assert (venv / "mark").exists()


@pytest.mark.parametrize("change", ["jobs/constraints.txt", "pyproject.toml", "level", "torch"])
def test_whatever_set_up_depends_on_makes_it_run_again(tree, change):
    finished_venv(tree)
    if change not in ("level", "torch"):
        with open(tree / change, "a") as file:
            file.write("# changed\n")
    environment = {"HPCME_TORCH": "torch==2.13.0+cpu"} if change == "torch" else {}
    level = "test" if change == "level" else "run"
    done = set_up(tree, level, HPCME_BASE_PYTHON=quick_base(tree), **environment)
    assert "installing into .venv" in done.stdout
    assert done.returncode == 1  # nothing to install with


def test_a_set_up_that_was_moved_is_made_afresh(tree, tmp_path_factory):
    finished_venv(tree)
    moved = tmp_path_factory.mktemp("moved") / "tree"
    shutil.copytree(tree, moved, symlinks=True)
    done = set_up(moved, HPCME_BASE_PYTHON=quick_base(tree))
    assert "making .venv" in done.stdout
    assert not (moved / ".venv" / "mark").exists()


@pytest.mark.parametrize("same", [True, False])
def test_venv_is_made_afresh_only_for_another_version_of_the_base_python(tree, same):
    venv = finished_venv(tree)
    (venv / "bin/python").unlink()
    program(venv / "bin/python", f'[ "$*" != "-m pip --version" ] || exit 0\nexec {sys.executable} -S "$@"\n')
    version = f"{sys.version_info.major}.{sys.version_info.minor}" if same else "3.99"
    answers = f'case "$*" in *">= (3, 11)"*) echo "{version} True" ;; *version_info*) echo {version} ;;'
    base = program(tree / "base-python", f'{answers} *) exec {quick_base(tree)} "$@" ;; esac\n')
    done = set_up(tree, HPCME_BASE_PYTHON=str(base))
    assert "installing into .venv" in done.stdout
    assert ("making .venv" in done.stdout) != same
    assert (venv / "mark").exists() == same


def test_hpcme_python_is_used_as_it_is_or_refused_with_what_it_lacks(tree):
    (tree / "hpcme").mkdir()
    (tree / "hpcme/__init__.py").touch()
    modules = "numpy scipy numba h5py torch mpi4py matplotlib hpcme"
    fake = program(tree / "own/python", f'exec env PYTHONPATH={tree} {sys.executable} "$@"\n')
    done = set_up(tree, HPCME_PYTHON=str(fake))
    assert done.returncode == 0, done.stderr
    assert f"python={fake} " in done.stdout and not (tree / ".venv").exists()
    bare = program(tree / "bare/python", f'exec {sys.executable} -I -S "$@"\n')
    done = set_up(tree, HPCME_PYTHON=str(bare))
    assert done.returncode == 1
    assert f"it lacks: {modules}" in done.stderr and "-m pip install" in done.stderr


def test_hpcme_of_another_checkout_is_not_taken_for_this_one(tree):
    other = tree / "other"
    (other / "hpcme").mkdir(parents=True)
    (other / "hpcme/__init__.py").touch()
    fake = program(other / "bin/python", f'exec env PYTHONPATH={other} {sys.executable} "$@"\n')
    shutil.move(other, tree.parent / f"{tree.name}-other")
    fake = tree.parent / f"{tree.name}-other" / "bin/python"
    fake.write_text(fake.read_text().replace(str(other), str(fake.parent.parent)))
    done = set_up(tree, HPCME_PYTHON=str(fake))
    assert done.returncode == 1
    assert "hpcme of this checkout" in done.stderr


def test_an_active_environment_that_lacks_something_is_left_alone(tree):
    finished_venv(tree)
    active = tree / "active"
    program(active / "bin/python", f'exec {sys.executable} -I -S "$@"\n')
    done = set_up(tree, VIRTUAL_ENV=str(active))
    assert done.returncode == 0, done.stderr
    assert f"{active} lacks numpy" in done.stdout
    assert f"python={tree}/.venv/bin/python" in done.stdout


def test_a_launcher_that_is_no_command_is_refused(tree):
    finished_venv(tree)
    done = set_up(tree, HPCME_LAUNCHER="no-such-mpiexec")
    assert done.returncode == 1
    assert "HPCME_LAUNCHER=no-such-mpiexec is not a command" in done.stderr


@pytest.mark.parametrize(
    ("script", "environment", "arguments", "words"),
    [
        ("jobs/quickstart.sh", {"HPCME_RANKS": "two"}, [], "HPCME_RANKS=two must be a whole number"),
        ("tests/run.sh", {}, ["seriel"], 'unknown tier "seriel". Tiers: serial mpi restart fault slurm gpu dsmts'),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_installed(script, environment, arguments, words, tree):
    (tree / "tests").mkdir()
    shutil.copy(ROOT / script, tree / script)
    done = subprocess.run(
        ["bash", script, *arguments], cwd=tree, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert not (tree / ".venv").exists()
