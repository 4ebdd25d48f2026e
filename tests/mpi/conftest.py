"""The ranks that the tests in this folder share: those of the launcher, or this process alone under plain pytest."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # solver_cases


@pytest.fixture(scope="session")
def world():
    from hpcme.parallel.world import open_world

    joined = open_world("cpu", 120.0)
    joined.use_threads(1)
    yield joined
    joined.close()


@pytest.fixture
def shared(world, tmp_path):
    """One empty folder for all ranks."""
    return world.share(tmp_path)
