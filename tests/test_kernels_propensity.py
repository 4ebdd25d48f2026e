"""Propensities: compiled kernel against the definition, closed forms for both mass-action laws and time
averages.
"""

import numpy as np
import pytest
from kernel_networks import NETWORKS, SPECS, build, random_states
from twins import program_tables, random_program, run_program
from twins import propensities as twin

from hpcme.kernels.compiling import CHUNK, PARALLEL_FROM
from hpcme.kernels.propensity import find_bad, propensities, propensities_mean
from hpcme.model.builder import ModelBuilder
from hpcme.model.tables import OPCODES


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("t", [0.0, 1.7])
def test_equals_the_definition(name, t):
    net = NETWORKS[name]
    n = random_states(net, 60)
    np.testing.assert_allclose(propensities(net.tables, n, t), twin(net, n, t), rtol=1e-14)


@pytest.mark.parametrize(
    "law, values", [("combinatorial", [0, 0, 0, 6, 24, 60]), ("power", [0, 0, 0, 27, 64, 125])]
)
def test_mass_action_laws(law, values):
    net = ModelBuilder("m", law=law).species("X", initial=0, max=9).reaction("3 X -> 0", rate=2.0).build()
    n = np.arange(6, dtype=np.int32)[:, None]
    np.testing.assert_array_equal(propensities(net.tables, n, 0.0)[:, 0], 2.0 * np.array(values, dtype=float))


def test_random_programs_use_every_opcode():
    rng = np.random.default_rng(3)
    used = set()
    n = rng.integers(0, 9, size=(8, 3)).astype(np.int32)
    for _ in range(400):
        program = random_program(rng, 3, int(rng.integers(3, 25)))
        used |= {name for name, _ in program}
        tables = program_tables(program)
        with np.errstate(all="ignore"):
            expected = [run_program(program, row, 0.7) for row in n.tolist()]
        np.testing.assert_allclose(
            propensities(tables, n, 0.7)[:, 0], expected, rtol=1e-9, err_msg=str(program)
        )
    assert used == set(OPCODES)


def test_missing_reactant_silences_a_bad_rate():
    net = ModelBuilder("m").species("X", initial=1, max=3).reaction("X -> 0", rate="1/(t-1)").build()
    n = np.array([[0], [1]], dtype=np.int32)
    np.testing.assert_array_equal(propensities(net.tables, n, 1.0), [[0.0], [np.inf]])


@pytest.mark.parametrize("degree", range(6))
def test_time_average_is_exact_for_polynomials_up_to_degree_5(degree):
    builder = ModelBuilder("m").species("X", initial=1, max=3).reaction("X -> 0", rate=f"t**{degree}")
    net = builder.reaction("0 -> X", rate=0.3).build()
    n = np.array([[2]], dtype=np.int32)
    t0, t1 = 0.4, 1.9
    exact = (t1 ** (degree + 1) - t0 ** (degree + 1)) / (degree + 1) / (t1 - t0)
    np.testing.assert_allclose(propensities_mean(net.tables, n, t0, t1), [[2 * exact, 0.3]], rtol=1e-14)


def test_threads_change_nothing():
    net = NETWORKS["toggle"]
    n = random_states(net, PARALLEL_FROM + CHUNK + 17)
    pieces = [propensities(net.tables, n[i : i + 1000], 0.0) for i in range(0, len(n), 1000)]
    np.testing.assert_array_equal(propensities(net.tables, n, 0.0), np.concatenate(pieces))


@pytest.mark.parametrize("name", SPECS)
def test_order_of_species_and_reactions_does_not_matter(name):
    net = build(name)
    rng = np.random.default_rng(5)
    species, reactions = rng.permutation(net.S), rng.permutation(net.R)
    other = build(name, species_order=species.tolist(), reaction_order=reactions.tolist())
    n = random_states(net, 50)
    a = propensities(net.tables, n, 0.9)
    # A permuted product rounds differently in the last digit.
    np.testing.assert_allclose(propensities(other.tables, n[:, species], 0.9), a[:, reactions], rtol=1e-14)


def test_find_bad_is_the_first_in_row_order():
    a = np.ones((4, 3))
    assert find_bad(a) == (-1, -1)
    for value in (-1e-300, np.nan, np.inf, -np.inf):
        bad = a.copy()
        bad[2, 1] = bad[3, 0] = value
        assert find_bad(bad) == (2, 1)
