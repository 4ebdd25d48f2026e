"""The README holds what it says: files that exist, models that load, Python names that are there, nothing left open."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import hpcme
from hpcme.cli.main import COMMANDS
from hpcme.cli.parsing import parse
from hpcme.model.keys import KEYS
from hpcme.model.reader import load_model_text
from hpcme.scan.tasks import make_scan

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, word: str) -> str:
    """The fenced block of a language that contains a word."""
    return next(b for b in re.findall(rf"```{language}\n(.*?)```", TEXT, re.S) if word in b)


def test_nothing_is_left_open():
    assert not re.search(r"@@|TODO|TBD|XXX", TEXT)


def test_every_file_it_names_exists():
    named = set(re.findall(r"(?:jobs|tests|slurm|hpcme)/[\w./-]+\.(?:sh|py|toml|png|cmake|in)", TEXT))
    assert len(named) >= 10
    assert not [name for name in named if not (ROOT / name).exists()]


def test_its_model_loads_and_its_job_has_known_keys():
    net = load_model_text(block("toml", "# pump.toml"), "README")
    assert net.species == ("X",) and net.R == 3
    hunt = load_model_text(block("toml", "# hunt.toml"), "README")
    assert hunt.species == ("Prey", "Hunter") and hunt.R == 5
    pulse = load_model_text(block("toml", "# pulse.toml"), "README")
    assert len(pulse.events) == 1 and list(pulse.readouts) == ["total"]
    job = tomllib.loads(block("toml", "# job.toml"))
    keys = {f"{table}.{key}" for table, content in job.items() if isinstance(content, dict) for key in content}
    assert {key for key in keys if not key.startswith("parameters.")} <= set(KEYS)


def test_its_scan_makes_tasks_that_can_be_run(tmp_path):
    for name in ("pump.toml", "scan.toml"):
        (tmp_path / name).write_text(block("toml", f"# {name}"), encoding="utf-8")
    scan = make_scan(tmp_path / "scan.toml", {}, None)
    assert [task.error for task in scan.tasks] == [""] * 18 and str(scan.folder) == "runs/scan"
    chosen = {"k": 0.5, "v": 4.0, "run_seed": 0, "time": 5.0}
    words = ", ".join(f"{name}={value}" for name, value in chosen.items())
    assert f"data.sel({words})" in block("python", "import xarray")
    values = {label: [row[i] for row in axis.values] for axis in scan.axes for i, label in enumerate(axis.labels)}
    values["time"] = scan.shared["report_times"]
    assert all(chosen[name] in values[name] for name in chosen)


def test_its_python_names_exist():
    code = block("python", "import hpcme")
    for name in re.findall(r"hpcme\.(\w+)\(", code):
        assert hasattr(hpcme, name)
    functions = re.findall(r"`(\w+)\.(\w+_table|write_report)`", TEXT)
    assert len(functions) == 7
    for module, name in functions:
        assert hasattr(importlib.import_module(f"hpcme.analysis.{module}"), name)
    from hpcme.store.reader import Run

    for name in re.findall(r"run\.(\w+)", code):
        assert hasattr(Run, name)


def test_its_commands_are_commands():
    """Every line of a bash block that begins with hpcme is a command with options that there are."""
    blocks = "".join(re.findall(r"```bash\n(.*?)```", TEXT, re.S))
    lines = [line for line in blocks.splitlines() if line.startswith("hpcme ")]
    assert len(lines) > 25
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        assert parse(words, COMMANDS, "0").command.name in (words[0], " ".join(words[:2])), line
