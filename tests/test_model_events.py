"""Events and readouts of the model object and of TOML files."""

import copy
import itertools
import pickle

import numpy as np
import pytest

from hpcme.errors import InputError
from hpcme.model.builder import ModelBuilder
from hpcme.model.describe import describe, describe_dict
from hpcme.model.influence import distances, reads_and_changes
from hpcme.model.reader import load_model_text
from hpcme.networks.build import enumerate_reachable

HEAD = """
[model]
name = "pulse"
[parameters]
k = 2.0
dose = 5
when = 4
[species]
X = { initial = 3, max = 20 }
Y = { initial = 0, max = 30 }
Z = { initial = 1, max = 30 }
[[reactions]]
equation = "X -> Y"
rate = "k"
"""

EVENTS = """
[[events]]
at = 9
set = { Z = 7 }
[[events]]
at = "2*when"
set = { X = "Y + dose", Y = "X" }
name = "swap"
[[events]]
at = 9
set = { Z = "Z + 1" }
[readouts]
total = "X + 2*Y"
share = "X/(X + Y)"
fixed = "dose"
"""


@pytest.fixture
def net():
    return load_model_text(HEAD + EVENTS)


def test_events_are_sorted_and_those_of_one_time_keep_their_order(net):
    assert [event.time for event in net.events] == [8, 9, 9]
    assert [event.label for event in net.events] == ["swap", "t = 9", "t = 9"]
    assert [event.text() for event in net.events] == ["t = 8: X = Y + dose, Y = X", "t = 9: Z = 7", "t = 9: Z = Z + 1"]
    assert net.event_times(8.9).tolist() == [8] and net.event_times(9).tolist() == [8, 9]
    assert net.event_times(7.9).tolist() == []


def test_all_right_hand_sides_see_the_counts_before_the_event(net):
    n = np.array([[1, 2, 3], [0, 30, 9]], dtype=np.int32)
    moved = net.remap(n, net.events[0])
    assert moved.dtype == np.int64
    assert moved.tolist() == [[7, 1, 3], [35, 0, 9]]  # above max = 20, and returned as it is
    assert n.tolist() == [[1, 2, 3], [0, 30, 9]]


def test_events_of_one_time_act_one_after_the_other(net):
    n = np.array([[1, 2, 3]])
    assert net.remap(n, net.events[1:]).tolist() == [[1, 2, 8]]
    assert net.remap(n, net.events[:0:-1]).tolist() == [[1, 2, 7]]
    assert net.remap(np.zeros((0, 3), dtype=np.int32), net.events).shape == (0, 3)


def test_remap_equals_a_loop_over_states():
    net = (
        ModelBuilder("m").parameter("c", 3).species("A", initial=0, max=6).species("B", initial=0, max=6)
        .reaction("0 -> A", rate=1).event("c/2", {"A": "where(A > B, A - B, c*B)", "B": "floor(A/2)"}).build()
    )  # fmt: skip
    states = np.array(list(itertools.product(range(7), repeat=2)))
    expected = [[a - b if a > b else 3 * b, a // 2] for a, b in states.tolist()]
    assert net.remap(states, net.events).tolist() == expected


def test_a_value_that_is_no_count_names_event_species_state_and_value():
    net = load_model_text(HEAD + '[[events]]\nat = 1\nset = { X = "Y/2" }\nname = "half"\n')
    assert net.remap(np.array([[3, 4, 1]]), net.events).tolist() == [[2, 4, 1]]
    with pytest.raises(InputError, match=r"event half sets X = Y/2, which is 2.5 in the state X = 3, Y = 5, Z = 1;"):
        net.remap(np.array([[3, 4, 1], [3, 5, 1]]), net.events)
    for right, value in (("Y - 5", "-1"), ("1/(Y - 4)", "inf"), ("0*log(-Y)", "nan"), ("1e10*Y", "40000000000")):
        net = load_model_text(HEAD + f'[[events]]\nat = 1\nset = {{ X = "{right}" }}\n')
        with pytest.raises(InputError, match=f"which is {value} in the state X = 3, Y = 4"):
            net.remap(np.array([[3, 4, 1]]), net.events)


def test_rounding_errors_of_whole_numbers_are_no_fractions():
    net = load_model_text(HEAD + '[[events]]\nat = 1\nset = { X = "(0.1 + 0.2)*10*Y" }\n')
    assert net.remap(np.array([[0, 1, 0]]), net.events).tolist() == [[3, 1, 0]]


def test_text_hash_pickle_and_copies_carry_everything(net):
    again = load_model_text(net.text)
    assert again == net and again.text == net.text and again.hash == net.hash
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net), net.with_limits({"X": 25})):
        assert [event.text() for event in other.events] == [event.text() for event in net.events]
        assert dict(other.readouts) == dict(net.readouts)
    assert load_model_text(HEAD) != net
    assert load_model_text(HEAD + EVENTS.replace("Z = 7", "Z = 8")) != net
    assert load_model_text(HEAD + EVENTS.replace("2*Y", "3*Y")) != net
    assert "at = \"2*when\"\nset = { X = \"Y + dose\", Y = \"X\" }\nname = \"swap\"" in net.text


def test_times_and_values_follow_overridden_parameters(net):
    later = net.with_parameters({"when": 5, "dose": 1})
    assert [event.time for event in later.events] == [9, 9, 10]
    assert later.events[-1].name == "swap"
    assert later.remap(np.array([[1, 2, 3]]), later.events[-1]).tolist() == [[3, 1, 3]]
    assert later.with_parameters({"when": 4, "dose": 5}) == net.with_parameters({"when": 4, "dose": 5})
    with pytest.raises(InputError, match=r"at = 2\*when is 0; the time of an event must be finite and above 0"):
        net.with_parameters({"when": 0})


def test_builder_and_toml_make_the_same_network(net):
    built = ModelBuilder("pulse")
    for name, value in (("k", 2.0), ("dose", 5), ("when", 4)):
        built.parameter(name, value)
    for name, start, limit in (("X", 3, 20), ("Y", 0, 30), ("Z", 1, 30)):
        built.species(name, initial=start, max=limit)
    built.reaction("X -> Y", rate="k").event(9, {"Z": 7}).event("2*when", {"X": "Y + dose", "Y": "X"}, "swap")
    built.event(9, {"Z": "Z + 1"}).readout("total", "X + 2*Y").readout("share", "X/(X + Y)").readout("fixed", "dose")
    assert built.build() == net


def test_readouts_are_evaluated_state_by_state(net):
    values = net.readout_values(np.array([[1, 2, 0], [4, 0, 0], [0, 0, 0]], dtype=np.int32))
    assert values.dtype == np.float64
    assert values[:, 0].tolist() == [5, 4, 0] and values[:, 2].tolist() == [5, 5, 5]
    assert values[:2, 1].tolist() == [1 / 3, 1.0] and np.isnan(values[2, 1])
    assert load_model_text(HEAD).readout_values(np.zeros((4, 3), dtype=np.int32)).shape == (4, 0)


def test_laws_are_about_species_that_no_event_sets():
    plain = load_model_text(HEAD)
    assert plain.laws.describe(plain.species) == ["Z = 1", "X + Y = 3"]
    only_z = load_model_text(HEAD + "[[events]]\nat = 1\nset = { Z = 7 }\n")
    assert only_z.laws.describe(plain.species) == ["X + Y = 3"]
    only_x = load_model_text(HEAD + "[[events]]\nat = 1\nset = { X = 7 }\n")
    assert only_x.laws.describe(plain.species) == ["Z = 1"]
    assert load_model_text(HEAD + EVENTS).laws.describe(plain.species) == []


def test_a_law_survives_as_a_combination_without_the_species_that_is_set():
    # The laws found first are A + B + C and C + D; once C may be set, their difference is left.
    text = '[species]\nA = { initial = 2, max = 9 }\nB = { initial = 1, max = 9 }\nC = { initial = 4, max = 9 }\n'
    text += 'D = { initial = 0, max = 9 }\n[[reactions]]\nequation = "A -> B"\nrate = 1\n'
    text += '[[reactions]]\nequation = "C -> D + B"\nrate = 1\n[[events]]\nat = 1\nset = { C = 9 }\n'
    net = load_model_text(text)
    assert net.laws.describe(net.species) == ["A + B - D = 3", "A <= 2"]
    n = np.array([[2, 1, 4, 0]])
    for s in net.s:
        assert (net.laws.satisfied(n + s)).all()
    assert net.laws.satisfied(net.remap(n, net.events)).all()


def test_inequalities_do_not_bound_a_species_that_is_set():
    text = '[species]\nA = { initial = 3, max = 50 }\nB = { initial = 3, max = 50 }\n[[reactions]]\n'
    text += 'equation = "A -> 0"\nrate = 1\n[[reactions]]\nequation = "B -> 0"\nrate = 1\n'
    assert load_model_text(text).laws.implied_limits(np.array([50, 50])).tolist() == [3, 3]
    net = load_model_text(text + "[[events]]\nat = 1\nset = { B = 40 }\n")
    assert net.laws.implied_limits(net.limits).tolist() == [3, 50]


def test_an_event_joins_the_species_that_it_reads_and_sets():
    net = load_model_text(HEAD)
    assert distances(net)[0, 2] == 3  # no chain of reactions: S
    set_from_x = load_model_text(HEAD + '[[events]]\nat = 1\nset = { Z = "X" }\n')
    assert distances(set_from_x)[0, 2] == 1
    reads, changes = reads_and_changes(set_from_x)
    assert reads.tolist() == [[True, False, False], [True, False, False]]
    assert changes.tolist() == [[True, True, False], [False, False, True]]


def test_reachable_states_are_those_through_events_until_the_end():
    net = load_model_text(HEAD + "[[events]]\nat = 5\nset = { Z = 7 }\n")
    assert len(enumerate_reachable(net, 1000, 4.9)) == 4
    assert len(enumerate_reachable(net, 1000, 5.0)) == 8
    assert enumerate_reachable(net, 7, 5.0) is None


def test_description_lists_events_and_readouts(net):
    text = describe(net)
    assert "t = 8: X = Y + dose, Y = X   [swap]" in text and "t = 9: Z = Z + 1" in text
    assert "total  =  X + 2*Y" in text and "uses it" not in text
    data = describe_dict(net)
    assert data["events"][0]["set"] == {"X": "Y + dose", "Y": "X"} and data["readouts"]["total"] == "X + 2*Y"


def event(body: str) -> str:
    return f"{HEAD}[[events]]\n{body}\n"


# name of the case: (text, what the message must show)
WRONG = {
    "no time": (event("set = { X = 1 }"), r"event 1 has no at; add for example at = 25"),
    "no set": (event("at = 3"), r"event 1 has no set"),
    "sets nothing": (event("at = 3\nset = {}"), r"event 1 sets nothing; give set"),
    "set is no table": (event("at = 3\nset = 4"), r"set = 4 must be a table"),
    "unknown key": (event("att = 3\nset = { X = 1 }"), r'unknown key "att".*Did you mean "at"'),
    "not a list": (HEAD + "[events]\nat = 3\n", r"events must be tables \[\[events\]\]"),
    "name is no text": (event("at = 3\nset = { X = 1 }\nname = 3"), r"name = 3 must be text"),
    "name twice": (
        event('at = 3\nset = { X = 1 }\nname = "a"\n[[events]]\nat = 4\nset = { X = 2 }\nname = "a"'),
        r'event 2 \("a"\) has the name of event 1',
    ),
    "time zero": (event("at = 0\nset = { X = 1 }"), r"at = 0 is 0; .*above 0"),
    "time negative": (event("at = -1\nset = { X = 1 }"), r"at = -1 is -1"),
    "time infinite": (event("at = inf\nset = { X = 1 }"), r"must be finite"),
    "time no number": (event("at = true\nset = { X = 1 }"), r"at = True: expected a number"),
    "time infinite expression": (event('at = "1/0"\nset = { X = 1 }'), r"at = 1/0 is inf"),
    "time of a species": (event('at = "X"\nset = { X = 1 }'), r'"X" is a species; events happen at fixed times'),
    "time of t": (event('at = "t"\nset = { X = 1 }'), r"time of an event is a constant"),
    "time of something": (event('at = "wen"\nset = { X = 1 }'), r'"wen".*Did you mean "when"'),
    "sets a parameter": (event("at = 1\nset = { dose = 1 }"), r"sets the parameter dose; events set species"),
    "sets something": (event("at = 1\nset = { XX = 1 }"), r'sets "XX", which is not a species.*Did you mean "X"'),
    "reads t": (event('at = 1\nset = { X = "t" }'), r"cannot use the time"),
    "reads something": (event('at = 1\nset = { X = "dos" }'), r'"dos".*Did you mean "dose"'),
    "fraction": (event("at = 1\nset = { X = 1.5 }"), r"X = 1.5 is 1.5; a count must be a whole number from 0 to 20"),
    "negative": (event('at = 1\nset = { X = "dose - 6" }'), r"X = dose - 6 is -1; a count must be"),
    "above max": (event('at = 1\nset = { X = "5*dose" }'), r"is 25, above max = 20 of X; raise max to at least 25"),
    "broken": (event('at = 1\nset = { X = "5*" }'), r"expected a number"),
    "readout t": (HEAD + '[readouts]\ny = "t"\n', r"readout y = t: a readout is of the state alone"),
    "readout unknown": (HEAD + '[readouts]\ny = "dos"\n', r'"dos" is not a species.*Did you mean "dose"'),
    "readout of readout": (HEAD + '[readouts]\ny = "X"\nz = "y"\n', r'"y" is another readout'),
    "readout clash": (HEAD + '[readouts]\nX = "Y"\n', r"already the name of a species"),
    "readout parameter": (HEAD + '[readouts]\ndose = "Y"\n', r"already the name of a parameter"),
    "readout reserved": (HEAD + '[readouts]\nmin = "Y"\n', r"reserved for expressions"),
    "readouts no table": (HEAD.replace("[model]", "readouts = 3\n[model]"), r"readouts = 3 must be a table"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_events_and_readouts_are_refused(case):
    text, message = WRONG[case]
    with pytest.raises(InputError, match=f"(?s){message}"):
        load_model_text(text)
