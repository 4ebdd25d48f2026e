"""What is read of a large results.h5: one time, one species, one network cost what they hold, not what all do."""

from __future__ import annotations

import numpy as np
import pytest
from large_results import bytes_read, large_run

from hpcme.store.reader import open_run
from hpcme.store.results import _CHUNK
from hpcme.store.seal import BLOCK

TIMES, SAMPLES, SPECIES, WEIGHTS = 60, 30_000, 10, 200_000


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """60 times of 30,000 samples of ten species and of a network of 0.8 MB: 120 MB, packed to half."""
    return large_run(tmp_path_factory.mktemp("large"), TIMES, SAMPLES, SPECIES, weights=WEIGHTS)


QUESTIONS = {
    # name: (question to the run, most blocks of 1 MiB that may be read besides opening)
    "times": (lambda run: run.times, 1),
    "means": (lambda run: run.mean, 2),
    "marginal": (lambda run: run.marginal("X3", 30.0), 3),
    "scalars": (lambda run: run.extra()["entropy"], 3),
    "network": (lambda run: run._read(lambda source: source.network(30)), 6),
    "samples": (lambda run: run.samples(30.0), 5),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_reads_what_it_needs(path, name):
    """Opening reads the blocks that hold HDF5's tables; an answer only those with its own numbers and their index."""
    size = path.stat().st_size
    assert size > 50 * BLOCK
    ask, most = QUESTIONS[name]
    with bytes_read() as opening, open_run(path):
        pass
    with bytes_read() as all_, open_run(path) as run:
        ask(run)
    assert sum(opening) <= 10 * BLOCK  # the same for any size, but for 32 bytes of checksum for each MiB
    assert sum(all_) - sum(opening) <= most * BLOCK, f"{(sum(all_) - sum(opening)) / BLOCK:.1f} blocks"
    assert sum(all_) < 0.25 * size


def test_the_cost_of_one_time_does_not_grow_with_the_number_of_times(path, tmp_path):
    def cost(where):
        with bytes_read() as found, open_run(where) as run:
            run.samples(3.0)
            run.marginal("X3", 3.0)
        return sum(found)

    # Not fewer times: of 15, opening the file reads all that these questions need; HDF5's tables lie together there.
    few = large_run(tmp_path / "few", TIMES // 2, SAMPLES, SPECIES, weights=WEIGHTS)
    more = path.stat().st_size - few.stat().st_size
    assert more > 25 * BLOCK
    assert cost(path) <= cost(few) + 4 * BLOCK  # HDF5's tables are spread over more blocks


def test_the_answers_are_right(path):
    with open_run(path) as run:
        n = run.samples(30.0)
        assert n.shape == (SAMPLES, SPECIES)
        np.testing.assert_allclose(np.bincount(n[:, 3], minlength=100) / SAMPLES, run.marginal("X3", 30.0))
        np.testing.assert_allclose(run.mean[30], n.mean(axis=0))
        assert run.extra()["entropy"][30] == 30.0 and run.steps.tolist() == list(range(TIMES))


def test_chunks_of_samples_hold_one_time(path):
    """A chunk is what HDF5 has to read and unpack at least: never more than 1 MiB, never two times of many samples."""
    import h5py

    with h5py.File(path) as file:
        chunks = file["samples"].chunks
        assert chunks[0] == 1 and chunks[2] == SPECIES and np.prod(chunks) * 4 <= _CHUNK
        stored = file["samples"].id.get_storage_size()
        assert stored < 0.3 * file["samples"].size * 4  # counts pack to less than 30 %
        for dataset in (file["marginals/X3"], file["moments/covariance"]):
            assert np.prod(dataset.chunks) * 8 <= _CHUNK
