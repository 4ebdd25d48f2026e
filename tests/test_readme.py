"""The README holds what it says: files that exist, a model that loads, Python names that are there, nothing left open."""

import re
import tomllib
from pathlib import Path

import hpcme
from hpcme.model.keys import KEYS
from hpcme.model.reader import load_model_text

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
    job = tomllib.loads(block("toml", "# job.toml"))
    keys = {f"{table}.{key}" for table, content in job.items() if isinstance(content, dict) for key in content}
    assert {key for key in keys if not key.startswith("parameters.")} <= set(KEYS)


def test_its_python_names_exist():
    code = block("python", "import hpcme")
    for name in re.findall(r"hpcme\.(\w+)\(", code):
        assert hasattr(hpcme, name)
    from hpcme.store.reader import Run

    for name in re.findall(r"run\.(\w+)", code):
        assert hasattr(Run, name)
