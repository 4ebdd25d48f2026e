"""Conservation laws: on the systems of the literature, and their defining properties on random networks."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcme.model.builder import ModelBuilder
from hpcme.model.cone import echelon, extreme_rays, null_space, primitive, rank
from hpcme.model.conservation import ConservationLaws, find_laws, linear_text
from hpcme.model.initial import ProductLaw, TableLaw
from hpcme.model.network import ReactionNetwork
from hpcme.model.reader import load_model

MODELS = Path(__file__).parent.parent / "jobs" / "models"
REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=150)

MAPK = """0 -> X0; X0 -> 0; X5 -> X5 + X0; 0 -> X2; X2 -> 0; X3 -> 0; X4 -> 0; X5 -> 0; X0 + X2 <-> X6; X6 ->
X0 + X3; X0 + X3 <-> X8; X8 -> X0 + X5; X0 + X2 <-> X7; X7 -> X0 + X4; X0 + X4 <-> X9; X9 -> X0 + X5; X1 + X5
<-> X10; X10 -> X12; X12 <-> X1 + X4; X1 + X4 <-> X13; X13 -> X14; X14 <-> X1 + X2; X1 + X3 <-> X11; X11 ->
X15; X15 <-> X1 + X2"""


def network(start: dict, equations: str, limit: int = 200) -> ReactionNetwork:
    builder = ModelBuilder("m")
    for name, count in start.items():
        builder.species(name, initial=count, max=limit)
    for equation in equations.split(";"):
        builder.reaction(equation.strip(), rate=[1.0, 1.0] if "<->" in equation else 1.0)
    return builder.build()


@pytest.mark.parametrize(
    ("start", "equations", "lines", "implied"),
    [
        ({"X": 0, "Y": 10}, "2 X <-> Y", ["X + 2 Y = 20"], [20, 10]),
        ({"A": 2, "B": 3}, "A <-> B", ["A + B = 5"], [5, 5]),
        ({"X": 5}, "X -> 0", ["X <= 5"], [5]),
        ({"X": 5}, "0 -> X; X -> 0", [], [200]),
        ({"A": 5, "B": 7}, "A + B -> 0", ["A - B = -2", "A <= 5", "B <= 7"], [5, 7]),
        ({"A": 5, "B": 7}, "0 <-> A + B", ["A - B = -2"], [198, 200]),
        ({"X": 4, "Y": 0, "Z": 0}, "X -> Y; Y -> Z", ["X + Y + Z = 4"], [4, 4, 4]),
        ({"X": 4, "Y": 3}, "X -> Y; Y -> 0", ["X <= 4", "X + Y <= 7"], [4, 7]),
        (
            {"E": 2, "S": 9, "C": 0, "P": 0},
            "E + S <-> C; C -> E + P",
            ["E + C = 2", "S + C + P = 9"],
            [2, 9, 2, 9],
        ),
        ({"G": 1, "P": 0}, "G -> G + P; P -> 0", ["G = 1"], [1, 200]),
        (
            {f"X{i}": {1: 1, 2: 3}.get(i, 0) for i in range(16)},
            MAPK,
            ["X1 + X10 + X11 + X12 + X13 + X14 + X15 = 1"],
            [200, 1, *[200] * 8, *[1] * 6],
        ),
    ],
    ids=[
        "dimer",
        "isomer",
        "decay",
        "open",
        "annihilation",
        "pair creation",
        "chain",
        "leaky chain",
        "enzyme",
        "gene",
        "mapk",
    ],
)
def test_known_laws(start, equations, lines, implied):
    net = network(start, equations)
    assert net.laws.describe(net.species) == lines
    assert net.laws.implied_limits(net.limits).tolist() == implied


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("early_life", ["A + D + L = 100"]),
        ("epidemic", ["S + I + R <= 60"]),
        ("toggle_switch", []),
        ("birth_death", []),
        ("gene_expression", []),
        ("autoregulation", []),
        ("cascade_linear", []),
        ("schlogl", []),
    ],
)
def test_laws_of_the_shipped_models(name, lines):
    net = load_model(MODELS / f"{name}.toml")
    assert net.laws.describe(net.species) == lines
    assert np.array_equal(net.laws.implied_limits(net.limits), net.limits)


def test_shapes_and_types_also_without_laws():
    for laws in (network({"X": 0}, "0 <-> X").laws, network({"X": 0, "Y": 1}, "X <-> Y").laws):
        E, I, S = len(laws.values), len(laws.bounds), laws.equalities.shape[1]
        assert laws.equalities.shape == (E, S) and laws.inequalities.shape == (I, S)
        for array in (laws.equalities, laws.values, laws.inequalities, laws.bounds):
            assert array.dtype == np.int64


def test_a_total_that_varies_at_the_start_is_a_bound_and_not_an_equality():
    net = (
        ModelBuilder("m")
        .species("A", initial={"uniform": [2, 4]}, max=50)
        .species("B", initial=3, max=50)
        .reaction("A <-> B", rate=[1, 1])
        .build()
    )
    assert net.laws.describe(net.species) == ["A + B <= 7"]
    assert net.laws.implied_limits(net.limits).tolist() == [7, 7]


def test_a_joint_start_may_fix_a_combination_of_totals():
    builder = ModelBuilder("m").reaction("A <-> B", rate=[1, 1]).reaction("C <-> D", rate=[1, 1])
    for name in "ABCD":
        builder.species(name, max=20)
    net = builder.initial([[1, 2, 3, 4], [4, 0, 6, 0]], [0.5, 0.5]).build()  # A+B is 3 or 4, C+D is 7 or 6
    assert net.laws.describe(net.species) == ["A + B + C + D = 10", "A + B <= 4", "C + D <= 7"]
    same = builder.initial([[1, 2, 3, 4], [3, 0, 0, 7]], [0.5, 0.5]).build()
    assert same.laws.describe(same.species) == ["A + B = 3", "C + D = 7"]


def test_satisfied():
    laws = network({"X": 2, "Y": 0, "Z": 5}, "2 X <-> Y; Z -> 0").laws
    n = np.array([[2, 0, 5], [0, 1, 0], [1, 0, 3], [2, 0, 6]])
    assert laws.satisfied(n).tolist() == [True, True, False, False]


def test_linear_text():
    assert linear_text([1, 0, -2, 3], "ABCD") == "A - 2 C + 3 D"
    assert linear_text([-1, 1], "AB") == "-A + B" and linear_text([0, 0], "AB") == "0"


def test_many_species_stay_cheap_and_right():
    S = 60
    net = network({f"X{i}": 1 for i in range(S)}, "; ".join(f"X{i} <-> X{(i + 1) % S}" for i in range(S)))
    assert net.laws.equalities.tolist() == [[1] * S] and net.laws.values.tolist() == [S]


def test_too_many_rays_are_given_up_but_equalities_stay():
    """A complete tree of products has a ray for each subset; the equalities come from the null space all the
    same."""
    S = 24
    s = np.zeros((1, S), dtype=np.int64)
    s[0, : S // 2], s[0, S // 2 :] = -1, 1
    laws = find_laws(s, ProductLaw([np.eye(10)[1]] * S))
    assert len(laws.values) == S - 1 and not (s @ laws.equalities.T).any()
    assert np.linalg.matrix_rank(laws.equalities) == S - 1


# --- properties on random networks ---

_changes = st.integers(1, 5).flatmap(
    lambda S: st.lists(
        st.lists(st.integers(-2, 2), min_size=S, max_size=S).filter(any), min_size=1, max_size=5
    )
)


@REPRODUCIBLE
@given(_changes)
def test_equalities_annihilate_s_and_are_as_many_as_the_rank_says(rows):
    s = np.array(rows, dtype=np.int64)
    start = np.arange(1, s.shape[1] + 1)
    laws = find_laws(s, ProductLaw([np.eye(40)[c] for c in start]))
    assert not (s @ laws.equalities.T).any()
    assert len(laws.values) == s.shape[1] - np.linalg.matrix_rank(s)
    assert len(laws.values) == 0 or np.linalg.matrix_rank(laws.equalities) == len(laws.values)
    assert np.array_equal(laws.equalities @ start, laws.values)
    for y in laws.equalities.tolist():
        assert tuple(y) == primitive(y)


@REPRODUCIBLE
@given(_changes)
def test_inequalities_never_grow(rows):
    s = np.array(rows, dtype=np.int64)
    start = np.arange(1, s.shape[1] + 1)
    laws = find_laws(s, ProductLaw([np.eye(40)[c] for c in start]))
    assert (laws.inequalities >= 0).all() and (s @ laws.inequalities.T <= 0).all()
    assert np.array_equal(laws.inequalities @ start, laws.bounds)


@REPRODUCIBLE
@given(_changes)
def test_every_nonnegative_law_in_a_box_is_found(rows):
    """Conserved nonnegative vectors with entries up to 2 lie in the span of the equalities; bounds are
    implied likewise."""
    s = np.array(rows, dtype=np.int64)
    S = s.shape[1]
    laws = find_laws(s, ProductLaw([np.eye(40)[3]] * S))
    rays = extreme_rays([], [tuple(row) for row in rows], S, 10_000)
    for y in itertools.product(range(3), repeat=S):
        if not any(y):
            continue
        flow = s @ np.array(y)
        if not flow.any():
            assert rank([*laws.equalities.tolist(), y], S) == len(laws.values)
        if (flow <= 0).all():
            assert in_cone(np.array(y), np.array(rays))


def in_cone(y: np.ndarray, rays: np.ndarray) -> bool:
    from scipy.optimize import nnls

    return len(rays) > 0 and nnls(rays.T.astype(float), y.astype(float))[1] < 1e-9


@REPRODUCIBLE
@given(_changes)
def test_extreme_rays_are_feasible_and_none_is_made_of_the_others(rows):
    S = len(rows[0])
    rays = extreme_rays([tuple(rows[0])], [tuple(row) for row in rows[1:]], S, 10_000)
    assert len(set(rays)) == len(rays)
    for i, ray in enumerate(rays):
        assert min(ray) >= 0 and np.dot(rows[0], ray) == 0 and all(np.dot(row, ray) <= 0 for row in rows[1:])
        assert not in_cone(np.array(ray), np.array(rays[:i] + rays[i + 1 :]))


@REPRODUCIBLE
@given(_changes, st.randoms(use_true_random=False))
def test_every_state_of_a_random_walk_obeys_the_laws_and_the_implied_limits(rows, random):
    s = np.array(rows, dtype=np.int64)
    limits = np.full(s.shape[1], 12)
    start = np.array([random.randint(0, 6) for _ in limits])
    laws = find_laws(s, ProductLaw([np.eye(13)[c] for c in start]))
    implied = laws.implied_limits(limits)
    n = start.copy()
    for _ in range(60):
        moved = n + s[random.randrange(len(s))]
        if ((moved >= 0) & (moved <= limits)).all():
            n = moved
        assert laws.satisfied(n[None]).all() and (n <= implied).all()


@REPRODUCIBLE
@given(_changes)
def test_null_space_and_echelon(rows):
    S = len(rows[0])
    exact = np.linalg.matrix_rank(np.array(rows))
    reduced, pivots = echelon(rows, S)
    assert len(reduced) == exact == rank(rows, S)
    for row, pivot in zip(reduced, pivots, strict=True):
        assert row[pivot] and all(other is row or not other[pivot] for other in reduced)
    basis = null_space(rows, S)
    assert len(basis) == S - exact and all(np.dot(row, y) == 0 for row in rows for y in basis)
    assert rank(basis, S) == len(basis)


def test_implied_limits_use_laws_together():
    """A + B = 5 and A + C = 3: A <= 3, so B >= 2 and C <= 3."""
    laws = ConservationLaws(
        np.array([[1, 1, 0], [1, 0, 1]]), np.array([5, 3]), np.zeros((0, 3), int), np.zeros(0, int)
    )
    assert laws.implied_limits(np.array([9, 9, 9])).tolist() == [3, 5, 3]
    assert laws.implied_limits(np.array([9, 4, 1])).tolist() == [3, 3, 1]  # C <= 1 makes A >= 2 and B <= 3


def test_joint_tables_with_many_rows_are_cheap():
    states = np.array(list(itertools.product(range(30), repeat=3)))
    law = TableLaw(
        np.hstack([states, 100 - states.sum(axis=1, keepdims=True)]), np.ones(len(states)), np.full(4, 100)
    )
    s = np.array([[-1, 1, 0, 0], [0, -1, 1, 0], [0, 0, -1, 1]])
    assert find_laws(s, law).describe("ABCD") == [
        "A + B + C + D = 100",
        "A <= 29",
        "A + B <= 58",
        "A + B + C <= 87",
    ]
