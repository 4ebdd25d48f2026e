"""Reaction networks: mass action, equality of the two ways to write one, canonical text, overrides, the
shipped models."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
from model_tables import table_propensity

import hpcme
from hpcme.errors import InputError
from hpcme.model.builder import ModelBuilder
from hpcme.model.network import ReactionNetwork
from hpcme.model.reader import load_model_text


def expected_mass_action(rate: float, counts, ms, law: str) -> float:
    """Falling factorials, or powers that vanish where there are too few: from the definition, by loops."""
    value = rate
    for n, m in zip(counts, ms, strict=True):
        factor = 1
        for j in range(m):
            factor *= n - j if law == "combinatorial" else n
        value *= factor if n >= m else 0
    return value


@pytest.mark.parametrize("law", ["combinatorial", "power"])
@pytest.mark.parametrize("ms", [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (2, 3)], ids=str)
def test_mass_action_at_all_small_counts(law, ms):
    left = " + ".join(f"{m} {name}" for m, name in zip(ms, "AB", strict=True) if m)
    net = (
        ModelBuilder("m", law)
        .species("A", initial=0, max=6)
        .species("B", initial=0, max=6)
        .parameter("k", 0.25)
        .reaction(f"{left} -> 0", rate="2*k")
        .build()
    )
    whole = net.reactions[0].expression(law)
    for n in itertools.product(range(6), repeat=2):
        expected = expected_mass_action(0.5, n, ms, law)
        assert table_propensity(net, 0, n) == expected
        if all(count >= m or law == "combinatorial" for count, m in zip(n, ms, strict=True)):
            assert float(whole.evaluate({"A": n[0], "B": n[1], "k": 0.25})) == expected


def test_text_says_that_there_is_no_division_by_a_factorial():
    net = (
        ModelBuilder("m")
        .species("X", initial=0, max=9)
        .parameter("k", 2)
        .reaction("2 X -> 0", rate="k")
        .build()
    )
    assert net.reactions[0].text(net.law) == "2 X -> 0   propensity k * X * (X - 1) (without division by m!)"
    assert "2 * X * (X - 1)" in net.reactions[0].text(net.law, net.parameters)
    power = ModelBuilder("m", "power").species("X", initial=0, max=9).reaction("2 X -> 0", rate=3).build()
    assert power.reactions[0].text("power").endswith("3 * X**2 (without division by m!) (0 where X < 2)")


def test_text_of_sums_and_high_orders():
    net = (
        ModelBuilder("m")
        .species("X", initial=0, max=9)
        .parameter("k", 2)
        .reaction("7 X -> 0", rate="k + 1")
        .reaction("X -> 0", rate=1)
        .build()
    )
    assert net.reactions[0].propensity_text(net.law) == "(k + 1) * X * (X - 1) * ... * (X - 6)"
    assert net.reactions[1].propensity_text(net.law) == "X"


TOML = """
[model]
name = "both"
law = "power"
time_unit = "s"
[parameters]
k = 2
k2 = "2*k"   # follows k
V = 0.5
[species]
A = { initial = 3, max = 20 }
B = { initial = { poisson = 1.5 }, max = 30 }
C = { initial = { binomial = { n = 4, p = 0.25 } }, max = 4 }
D = { initial = { uniform = [1, 3] }, max = 5 }
E = { initial = { table = [0.25, 0, 0.75] }, max = 5 }
[[reactions]]
equation = "2A+B -> C"
rate = "k/V"
name = "join"
[[reactions]]
equation = "B + A <-> D"
rate = ["k", "k2"]
name = "swap"
[[reactions]]
equation = "C <-> E"
rate = 1.5
reverse_rate = "0.5*(1 + sin(2*pi*t))"
[[reactions]]
equation = "0 -> A"
propensity = "where(E >= 1, k*A/(1 + B), 0)"
"""


def built(name: str = "both", **changes) -> ReactionNetwork:
    """The model of TOML, in Python, with other spacing and order of terms."""
    k = changes.get("k", 2.0)
    return (
        ModelBuilder(name, law="power", time_unit="s", description=changes.get("description", ""))
        .parameter("k", k)
        .parameter("k2", "2 * k")
        .parameter("V", 0.5)
        .reaction("B + 2 A -> C", rate="k / V", name="join")
        .species("A", initial=3, max=20)
        .species("B", initial={"poisson": 1.5}, max=30)
        .species("C", initial={"binomial": {"n": 4, "p": 0.25}}, max=4)
        .species("D", initial={"uniform": [1, 3]}, max=5)
        .species("E", initial={"table": [0.25, 0.0, 0.75]}, max=5)
        .reaction("A+B <-> D", rate="k", reverse_rate="k2", name="swap")
        .reaction("C<->E", rate=[1.5, "0.5*(1 + sin(2*pi*t))"])
        .reaction(" -> A", propensity="where(E>=1, k*A/(1+B), 0)")
        .build()
    )


def test_both_ways_of_writing_give_the_same_network():
    read, made = load_model_text(TOML), built()
    assert read == made and read.hash == made.hash and read.text == made.text and hash(read) == hash(made)
    assert np.array_equal(read.s, made.s) and np.array_equal(read.limits, made.limits)
    for ours, theirs in zip(read.tables, made.tables, strict=True):
        assert np.array_equal(ours, theirs)


def test_shapes_and_types():
    net = built()
    assert (net.S, net.R) == (5, 6) and net.species == ("A", "B", "C", "D", "E")
    assert net.s.dtype == np.int64 and net.s.shape == (6, 5)
    assert net.s[0].tolist() == [-2, -1, 1, 0, 0] and net.s[2].tolist() == [1, 1, 0, -1, 0]
    assert net.limits.tolist() == [20, 30, 4, 5, 5] and net.limits.dtype == np.int64
    tables = net.tables
    assert tables.coef.tolist() == [4.0, 2.0, 4.0, 1.5, 1.0, 1.0]
    assert tables.uses_t.tolist() == [False] * 4 + [True, False] and net.time_dependent
    assert tables.power.all() and tables.power.dtype == bool
    assert np.diff(tables.re_ptr).tolist() == [2, 2, 1, 1, 1, 0]
    assert tables.re_sp[:2].tolist() == [0, 1] and tables.re_m[:2].tolist() == [2, 1]
    assert np.diff(tables.code_ptr).tolist()[:4] == [0, 0, 0, 0]
    for array in (tables.code_ptr, tables.op, tables.re_ptr, tables.re_sp, tables.re_m):
        assert array.dtype == np.int64
    assert tables.coef.dtype == tables.arg.dtype == np.float64


def test_reversible_reactions_become_two():
    net = load_model_text(TOML)
    assert [r.equation for r in net.reactions] == [
        "2 A + B -> C",
        "A + B -> D",
        "D -> A + B",
        "C -> E",
        "E -> C",
        "0 -> A",
    ]
    assert [r.name for r in net.reactions] == ["join", "swap", "swap_reverse", "", "", ""]
    assert net.reactions[3].label == "C -> E" and net.reactions[0].label == "join"


@pytest.mark.parametrize("change", ["name", "k", "limit", "law"])
def test_the_hash_sees_every_change(change):
    other = {
        "name": lambda: built("other"),
        "k": lambda: built(k=2.5),
        "limit": lambda: built().with_limits({"A": 21}),
        "law": lambda: load_model_text(TOML.replace('"power"', '"combinatorial"')),
    }[change]()
    assert other != built() and other.hash != built().hash and other.text != built().text


def test_a_description_is_kept_but_is_not_part_of_the_identity():
    net = built(description='shows "all" \\ of it')
    assert net == built() and net.description in load_model_text(net.text).description
    assert load_model_text(net.text).description == net.description


def test_canonical_text_is_a_fixed_point():
    net = built()
    again = load_model_text(net.text, "again")
    assert again == net and again.text == net.text
    states, p = net.initial.support()
    states_again, p_again = again.initial.support()
    assert np.array_equal(states, states_again) and np.array_equal(p, p_again)


def test_odd_text_survives_the_canonical_form():
    net = built('a "b" \\ \t \x7f \u03b1')
    assert load_model_text(net.text).name == net.name and load_model_text(net.text) == net


def test_joint_table_survives_the_canonical_form():
    def make():
        return (
            ModelBuilder("j")
            .species("A", max=5)
            .species("B", max=9)
            .initial([[1, 2], [0, 4], [1, 0]], [0.5, 0.25, 0.25])
            .reaction("A -> B", rate=1)
            .build()
        )

    net = make()
    again = load_model_text(net.text)
    assert again == net == make()
    assert again.initial.support()[0].tolist() == [[0, 4], [1, 0], [1, 2]]
    assert again.initial.support()[1].tolist() == [0.25, 0.25, 0.5]


def test_joint_table_of_rounded_thirds_is_a_fixed_point():
    p = [0.3333333, 0.3333333, 0.3333333, 1e-9, 0.0]  # sums to 1 only nearly, and is normalised on reading
    states = [[3, 0], [0, 1], [2, 2], [1, 1], [0, 0]]

    def make(order):
        builder = ModelBuilder("j").species("A", max=5).species("B", max=9).reaction("A -> B", rate=1)
        return builder.initial([states[i] for i in order], [p[i] for i in order]).build()

    net = make([0, 1, 2, 3, 4])
    assert load_model_text(net.text).text == net.text == make([4, 2, 0, 3, 1]).text
    again = load_model_text(net.text).initial.support()
    assert all(np.array_equal(x, y) for x, y in zip(again, net.initial.support(), strict=True))
    assert len(again[1]) == 4 and again[1].sum() == pytest.approx(1.0, abs=1e-15)


def test_overrides():
    net = built()
    new = net.with_parameters({"k": 5, "V": "k/2"})
    assert dict(new.parameters) == {"k": 5.0, "k2": 10.0, "V": 2.5}  # k2 = 2*k follows
    assert new.tables.coef[0] == 2.0 and net.tables.coef[0] == 4.0
    assert new.with_parameters({"k": 2.0, "V": 0.5}) == net
    assert net.with_parameters({}) == net
    assert net.with_parameters({"k2": 1}).tables.coef[2] == 1.0
    with pytest.raises(InputError, match=r'"kk = 1" names no parameter.*k, k2, V.*Did you mean "k"'):
        net.with_parameters({"kk": 1})
    with pytest.raises(InputError, match=r'reaction 1 \("join"\), rate = "k/V" is inf'):
        net.with_parameters({"V": 0})
    with pytest.raises(InputError, match="override of parameter k"):
        net.with_parameters({"k": True})
    with pytest.raises(InputError, match="it has no parameters"):
        ModelBuilder("m").species("X", initial=0, max=1).reaction("0 -> X", rate=1).build().with_parameters(
            {"k": 1}
        )


def test_new_limits():
    net = built().with_limits({"B": 60})
    assert net.limits.tolist() == [20, 60, 4, 5, 5] and net.initial.limits.tolist() == [20, 60, 4, 5, 5]
    with pytest.raises(InputError, match=r'"b = 3" names no species; they are A, B, C, D, E\. Correct'):
        net.with_limits({"b": 3})
    with pytest.raises(InputError, match="limit of species A: max = 0 must be from 1"):
        net.with_limits({"A": 0})
    with pytest.raises(InputError, match=r"species A, initial = 3 is above max = 2; raise max to at least 3"):
        net.with_limits({"A": 2})


def test_networks_travel_between_processes():
    net = built()
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert other == net and np.array_equal(other.s, net.s) and other.source == net.source


def test_parameters_cannot_be_changed_in_place():
    with pytest.raises(TypeError):
        built().parameters["k"] = 3.0


def test_permuting_species_permutes_everything_and_changes_the_hash():
    lines = [f"{name} = {{ initial = {i}, max = {9 + i} }}" for i, name in enumerate("ABC")]
    body = (
        '[[reactions]]\nequation = "2 A + C -> B"\nrate = 0.5\n'
        '[[reactions]]\nequation = "B -> A"\npropensity = "B/(1 + C*A)"\n'
    )
    net = load_model_text("[species]\n" + "\n".join(lines) + "\n" + body)
    rng = np.random.default_rng(1)
    for order in itertools.permutations(range(3)):
        other = load_model_text("[species]\n" + "\n".join(lines[i] for i in order) + "\n" + body)
        assert (other.hash == net.hash) == (order == (0, 1, 2))
        assert np.array_equal(other.s, net.s[:, order]) and np.array_equal(
            other.limits, net.limits[list(order)]
        )
        for n in rng.integers(0, 9, size=(20, 3)):
            for k in range(2):
                assert table_propensity(other, k, n[list(order)]) == table_propensity(net, k, n)


def test_permuting_reactions_permutes_propensities_and_changes_the_hash():
    blocks = [
        '[[reactions]]\nequation = "2 A -> B"\nrate = 0.5\n',
        '[[reactions]]\nequation = "0 -> A"\nrate = "1 + sin(t)"\n',
        '[[reactions]]\nequation = "B -> A"\npropensity = "B/(1 + A)"\n',
    ]
    head = "[species]\nA = { initial = 1, max = 9 }\nB = { initial = 1, max = 9 }\n"
    net = load_model_text(head + "".join(blocks))
    for order in itertools.permutations(range(3)):
        other = load_model_text(head + "".join(blocks[k] for k in order))
        assert (other.hash == net.hash) == (order == (0, 1, 2))
        for n in itertools.product(range(4), repeat=2):
            for position, k in enumerate(order):
                assert table_propensity(other, position, n, 0.3) == table_propensity(net, k, n, 0.3)


@pytest.mark.parametrize(
    ("equation", "canonical"),
    [
        ("0 -> X", "0 -> X"),
        ("-> X", "0 -> X"),
        ("\u00d8 -> X", "0 -> X"),
        ("\u2205->X", "0 -> X"),
        ("2X->0", "2 X -> 0"),
        ("2*X + Y -> ", "2 X + Y -> 0"),
        ("Y+X+X->Y", "2 X + Y -> Y"),
        ("1 X -> 3Y", "X -> 3 Y"),
    ],
)
def test_equations(equation, canonical):
    net = (
        ModelBuilder("m")
        .species("X", initial=0, max=9)
        .species("Y", initial=0, max=9)
        .reaction(equation, rate=1)
        .build()
    )
    assert net.reactions[0].equation == canonical


def test_a_parameter_may_be_an_expression_of_earlier_ones():
    net = load_model_text(
        '[parameters]\na = 2\nb = "a**3"\nc = "b + pi"\n[species]\nX = { initial = 0, max = 1 }\n'
        '[[reactions]]\nequation = "0 -> X"\nrate = "c"\n'
    )
    assert dict(net.parameters) == {"a": 2.0, "b": 8.0, "c": 8.0 + math.pi}


def test_loading_by_a_path_in_text(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text('[species]\nX = { initial = 0, max = 1 }\n[[reactions]]\nequation = "0 -> X"\nrate = 1\n')
    assert hpcme.load_model(str(path)).name == "small"  # the file's name where none is given
    assert hpcme.load_model(path).source == str(path)
