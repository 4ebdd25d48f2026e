"""The SBML stochastic test suite, read from the folder that HPCME_DSMTS names (it is no part of this repository).

One folder per case, NNNNN, with NNNNN-sbml-l3v1.xml (NNNNN-sbml-l2v4.xml) and NNNNN-results.csv: means and standard
deviations with five decimals or seven digits. An exact solution agrees to that rounding.
"""

import csv
import os
import re
from pathlib import Path

import numpy as np
import pytest
from sbml_texts import assert_same_generator

from hpcme.errors import InputError
from hpcme.exact.fsp import solve_fsp
from hpcme.model.network import ReactionNetwork
from hpcme.model.sbml import read_sbml_text

pytest.importorskip("libsbml")
FOLDER = os.environ.get("HPCME_DSMTS", "")
CASES = sorted(path.name for path in Path(FOLDER).glob("[0-9]*")) if FOLDER else []
pytestmark = pytest.mark.skipif(not CASES, reason="HPCME_DSMTS does not name the folder of the suite")

#: What of each case that is no master equation must be named.
REFUSED = {
    case: ['package "distrib"', 'rate rule "t"', 'event "E0"', f'"{name}"', 'event assignment (event E0) to "t"']
    for case, name in (("00040", "normal"), ("00052", "rayleigh"), ("00077", "exponential"))
}
#: Largest counts from which exact solutions agree with the published values; cases that take seconds.
SOLVED = {
    "00001": {"X": 330}, "00006": {"X": 330}, "00009": {"X": 330}, "00011": {"X": 330}, "00013": {"X": 330},
    "00018": {"X": 330}, "00019": {"X": 330}, "00020": {"X": 50}, "00022": {"X": 120}, "00024": {"X": 190},
    "00028": {"X": 100}, "00030": {"P": 100, "P2": 50}, "00034": {"P2": 50}, "00037": {"X": 150}, "00039": {"X": 810},
}  # fmt: skip


def file_of(case: str, kind: str) -> Path:
    return Path(FOLDER) / case / f"{case}-{kind}"


def read(path: Path, limits: dict[str, int] | None = None) -> ReactionNetwork:
    """The network of a file; limits beyond the starting counts where none are given."""
    text = path.read_text()
    starts = re.findall(r'<species id="(\w+)"[^>]*initialAmount="(\d+)"', text)
    known = {name: int(start) + 60 for name, start in starts} | (limits or {})
    return read_sbml_text(text, str(path), known=known)


@pytest.mark.parametrize("case", [case for case in CASES if case not in REFUSED])
def test_level_2_and_level_3_are_the_same_network(case):
    net = read(file_of(case, "sbml-l3v1.xml"))
    old = file_of(case, "sbml-l2v4.xml")
    if not old.exists():
        pytest.skip("the case has no file of Level 2")
    other = read(old)
    assert_same_generator(net, other)
    assert net.initial_spec == other.initial_spec
    assert [event.text() for event in net.events] == [event.text() for event in other.events]
    assert {k: v.to_text() for k, v in net.readouts.items()} == {k: v.to_text() for k, v in other.readouts.items()}


@pytest.mark.parametrize("case", [case for case in CASES if case in REFUSED])
def test_what_is_no_master_equation_is_refused_element_by_element(case):
    with pytest.raises(InputError) as caught:
        read(file_of(case, "sbml-l3v1.xml"))
    for part in REFUSED[case]:
        assert part in str(caught.value)


@pytest.mark.parametrize("case", [case for case in CASES if case in SOLVED])
def test_exact_solutions_are_the_published_ones(case):
    net = read(file_of(case, "sbml-l3v1.xml"), SOLVED[case])
    with file_of(case, "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    times = np.array([float(row["time"]) for row in rows])
    if len(net.event_times(times[-1])):
        rows = [row for row in rows if float(row["time"]) < net.events[0].time]  # events are for other tests
        times = times[: len(rows)]
    found = solve_fsp(net, times)
    assert found.lost[-1] < 1e-8
    values = np.concatenate([found.states, net.readout_values(found.states)], axis=1)
    mean = found.p @ values
    sd = np.sqrt(np.maximum(0.0, found.p @ values**2 - mean**2))
    for i, name in enumerate([*net.species, *net.readouts]):
        for table, statistic in ((mean, "mean"), (sd, "sd")):
            published = [row.get(f"{name}-{statistic}") for row in rows]
            if None in published:
                continue
            expected = np.array(published, dtype=float)
            np.testing.assert_allclose(table[:, i], expected, rtol=2e-6, atol=1.1e-5)
