"""Laws of the files that put hpcme on a machine: scripts parse, pins cover dependencies, jobs can be read."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hpcme

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["jobs/quickstart.sh", "jobs/setup.sh", "tests/run.sh", ".ci/run", "slurm/hpcme.sbatch.in"]
JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.toml"))


def pins() -> dict[str, str]:
    """Version by normalised name of every line of jobs/constraints.txt."""
    lines = [line.strip() for line in (ROOT / "jobs/constraints.txt").read_text().splitlines()]
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, exact, version = line.partition("==")
            assert exact and re.fullmatch(r"[0-9][0-9a-z.]*", version), f"not an exact pin: {line}"
            found[canonicalize_name(name)] = version
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse(script):
    check = subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize("script", SCRIPTS[:-1])
def test_shellcheck_finds_nothing(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    check = subprocess.run(["shellcheck", "-x", str(ROOT / script)], capture_output=True, text=True, cwd=ROOT)
    assert check.returncode == 0, check.stdout


def test_pins_cover_and_satisfy_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    known = pins()
    assert wanted
    for text in wanted:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in known, f"{text} has no line in jobs/constraints.txt"
        pin = known[name]
        assert requirement.specifier.contains(pin), f"the pin {name}=={pin} does not satisfy {text}"


def test_set_up_asks_for_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    line = re.search(r"hpcme_extras\(\).*", (ROOT / "jobs/setup.sh").read_text())[0]
    asked = {name for group in re.findall(r'echo "([^"]+)"', line) for name in group.split(",")}
    assert asked and asked <= set(extras)


@pytest.mark.parametrize("job", JOBS)
def test_every_job_can_be_read(job):
    loaded = hpcme.load_job(ROOT / "jobs" / job)
    assert loaded.report_times[0] == 0.0
    assert loaded.report_times[-1] == loaded["time.end"]
    assert (ROOT / "jobs" / "models" / f"{loaded.net.name}.toml").exists()


def test_there_is_a_job_for_the_named_systems():
    named = {"birth_death", "gene_expression", "autoregulation", "toggle_switch", "early_life", "epidemic"}
    assert {f"{name}.toml" for name in named | {"quickstart"}} <= set(JOBS)


def test_continuous_integration_runs_the_suite_that_users_run():
    text = (ROOT / ".ci/run").read_text()
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert "set -euo pipefail" in text
    assert re.search(r"^exec bash tests/run\.sh </dev/null$", text, re.MULTILINE)
