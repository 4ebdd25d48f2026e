"""Events of SBML: by time to events of the network or to rates that read the time; others are refused."""

import numpy as np
import pytest
from sbml_texts import assert_same_generator, built, event, math, reaction, read, refused

pytest.importorskip("libsbml")

SPECIES = ["id='X' initialAmount='3'", "id='Y' initialAmount='1'"]
PARAMETERS = ["id='k' value='2' constant='false'", "id='when' value='5'", "id='q' value='1' constant='false'"]
REACTIONS = [reaction("R", "X -> Y", "k*X"), reaction("S", "Y ->", "q*Y")]


def network(*events, species=SPECIES, parameters=PARAMETERS, reactions=REACTIONS, **parts):
    return read({"X": 30, "Y": 30}, species=species, parameters=parameters, reactions=reactions, events=events, **parts)


def not_read(message, *events, **parts):
    parts = {"species": SPECIES, "parameters": PARAMETERS, "reactions": REACTIONS} | parts
    return refused(message, limits={"X": 30, "Y": 30}, events=events, **parts)


@pytest.mark.parametrize(
    ("trigger", "time"),
    [
        ("time >= 25", 25), ("time > 25", 25), ("25 <= time", 25), ("25 < time", 25), ("time >= when", 5),
        ("time >= 2*when + 1", 11), ("time - 5 >= when", 10), ("2*time >= 8", 4), ("-time <= -8", 8),
        ("(time - 1)/2 > 3", 7), ("3 + time >= 10 - time", 3.5), ("and(time >= 5, time > 7)", 7),
        ("and(time >= when, time >= 3, true)", 5), ("and(time >= 5, time < 6)", 5), ("not(time < 12)", 12),
        ("and(time >= 5, 2 > 1)", 5),
    ],
)  # fmt: skip
def test_triggers_by_time(trigger, time):
    net = network(event("E", trigger, {"X": "7"}))
    assert [e.time for e in net.events] == [time] and net.events[0].name == "E"
    assert net.remap(np.array([[3, 1]]), net.events).tolist() == [[7, 1]]


def test_the_time_of_a_trigger_follows_the_parameters():
    net = network(event("E", "and(time >= 2*when, time >= 4)", {"X": "7"}))
    assert [net.with_parameters({"when": w}).events[0].time for w in (1, 2, 5)] == [4, 4, 10]


def test_what_is_reported_at_the_time_of_a_strict_trigger_is_noted():
    assert any("t > 25 is read as t >= 25" in note for note in network(event("E", "time > 25", {"X": "7"})).notes)
    assert not any("is read as" in note for note in network(event("E", "time >= 25", {"X": "7"})).notes)


@pytest.mark.parametrize("trigger", ["time >= 0", "time >= -2", "true", "time > -1", "time < 4", "time <= 0"])
def test_a_trigger_that_holds_at_the_start_fires_only_if_it_counts_as_false_before(trigger):
    never = network(event("E", trigger, {"X": "7"}, initial=True))
    assert not never.events and never.initial_spec["species"] == [3, 1]
    assert any("never fires" in note for note in never.notes)
    at_once = network(event("E", trigger, {"X": "X + 4"}, initial=False))
    assert not at_once.events and at_once.initial_spec["species"] == [7, 1]
    assert any("fires at t = 0" in note for note in at_once.notes)


def test_a_trigger_that_begins_to_hold_just_after_the_start():
    net = network(event("E", "time > 0", {"X": "7"}, initial=True))
    assert not net.events and net.initial_spec["species"] == [7, 1]


@pytest.mark.parametrize("trigger", ["false", "time < -1", "and(time >= 5, time < 5)", "and(time > 6, time < 3)"])
def test_a_trigger_that_never_holds_is_left_out(trigger):
    net = network(event("E", trigger, {"X": "7"}, initial=False))
    assert not net.events and any("never holds" in note for note in net.notes)


def test_a_species_that_only_an_event_sets_is_a_species():
    species = [*SPECIES, "id='Z' initialAmount='2' boundaryCondition='true'"]
    net = read(
        {"X": 9, "Y": 9, "Z": 9}, species=species, parameters=PARAMETERS, reactions=REACTIONS,
        events=[event("E", "time >= 5", {"Z": "4"})],
    )  # fmt: skip
    assert net.species == ("X", "Y", "Z") and [e.text() for e in net.events] == ["t = 5: Z = 4"]
    assert not net.readouts


def test_concentrations_are_set_as_amounts():
    species = ["id='X' initialAmount='3' hasOnlySubstanceUnits='false'", "id='Y' initialAmount='1'"]
    reactions = [reaction("R", "X -> Y", "k*X*c"), reaction("S", "Y ->", "q*Y")]
    net = network(
        event("E", "time >= 5", {"X": "X + 2", "Y": "X*c"}), species=species, compartments=["id='c' size='4'"],
        reactions=reactions,
    )  # fmt: skip
    assert net.remap(np.array([[3, 1]]), net.events).tolist() == [[11, 3]]


def test_the_time_in_a_right_hand_side_is_that_of_the_event():
    net = network(event("E", "time >= when", {"X": "time + 1"}))
    assert net.remap(np.array([[3, 1]]), net.events).tolist() == [[6, 1]]
    moved = net.with_parameters({"when": 8})
    assert moved.remap(np.array([[3, 1]]), moved.events).tolist() == [[9, 1]]


def test_a_parameter_that_events_set_makes_rates_read_the_time():
    net = network(
        event("On", "time >= 2", {"k": "3*k"}), event("Off", "time >= when", {"k": "0", "X": "X + 1"}),
        event("Again", "time >= 7", {"k": "q + time", "q": "4"}),
    )  # fmt: skip
    k = "piecewise(2, t < 2, 6, t < 5, 0, t < 7, 8)"
    expected = built(
        {"X": (3, 30), "Y": (1, 30)}, [("X -> Y", "rate", k), ("Y -> 0", "rate", "where(t < 7, 1, 4)")]
    )
    assert_same_generator(net, expected, times=(0.0, 1.9, 2.0, 3.0, 5.0, 6.9, 7.0, 100.0))
    assert [e.text() for e in net.events] == ["t = 5: X = X + 1"]
    assert net.switch_times(10).tolist() == [2, 5, 7]
    assert any("the parameter k is 3*k from t = 2 on" in note for note in net.notes)
    follows = net.with_parameters({"k": 1})
    assert_same_generator(
        follows, built({"X": (3, 30), "Y": (1, 30)}, [
            ("X -> Y", "rate", "piecewise(1, t < 2, 3, t < 5, 0, t < 7, 8)"), ("Y -> 0", "rate", "where(t < 7, 1, 4)"),
        ]), times=(0.0, 3.0),
    )  # fmt: skip


def test_a_parameter_set_at_the_start():
    net = network(event("E", "time >= 0", {"k": "X + 2"}, initial=False))
    assert net.parameters["k"] == 5 and not net.events
    assert_same_generator(net, built({"X": (3, 30), "Y": (1, 30)}, [("X -> Y", "rate", 5), ("Y -> 0", "rate", 1)]))


def test_events_at_the_start_come_after_initial_assignments_and_before_rules():
    net = network(
        event("E", "time >= 0", {"X": "2*X"}, initial=False), initial=[("k", "X/3")],
        parameters=[*PARAMETERS, "id='w' constant='false'"], rules=["w = X + 1"],
    )  # fmt: skip
    assert net.parameters["k"] == 1 and net.initial_spec["species"] == [6, 1]
    assert net.readout_values(net.initial.support()[0]).tolist() == [[7]]


def test_events_of_one_time_that_do_not_meet():
    net = network(event("A", "time >= 5", {"X": "7"}), event("B", "time >= 5", {"Y": "Y + 1"}))
    assert net.remap(np.array([[3, 1]]), net.events).tolist() == [[7, 2]]


def test_priorities_order_events_of_one_time():
    first = event("A", "time >= 5", {"X": "7"}, priority="1")
    net = network(first, event("B", "time >= 5", {"X": "9"}, priority="2"))
    assert net.remap(np.array([[3, 1]]), net.events).tolist() == [[7, 1]]
    net = network(first, event("B", "time >= 5", {"X": "9"}, priority="when - 9"))
    assert net.remap(np.array([[3, 1]]), net.events).tolist() == [[9, 1]]
    late = event("B", "time >= 5", {"Y": "X"}, priority="0", at_trigger=False)
    net = network(first, late)
    assert net.remap(np.array([[3, 1]]), net.events).tolist() == [[7, 7]]


def test_ties_that_sbml_leaves_to_chance_are_refused():
    message = 'event "A": it fires at the same time as others (t = 5)'
    not_read(message, event("A", "time >= 5", {"X": "7"}), event("B", "time >= when", {"X": "8"}))
    not_read(message, event("A", "time >= 5", {"X": "7"}), event("B", "time >= 5", {"Y": "X"}))
    not_read(
        message, event("A", "time >= 5", {"X": "7"}, priority="1"), event("B", "time >= 5", {"X": "8"}, priority="1")
    )
    not_read(
        'event "B": it uses the values from before another event',
        event("A", "time >= 5", {"X": "7"}, priority="2"), event("B", "time >= 5", {"Y": "X"}, priority="1"),
    )  # fmt: skip
    through_a_rule = {"parameters": [*PARAMETERS, "id='w' constant='false'"], "rules": ["w = 2*X"]}
    not_read(
        message, event("A", "time >= 5", {"X": "7"}), event("B", "time >= 5", {"Y": "w"}), **through_a_rule
    )


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        ("X >= 5", "its trigger depends on the state (X)"),
        ("and(time >= 3, X > Y)", "its trigger depends on the state (X, Y)"),
        ("time >= q", "its trigger depends on a parameter that events change"),
        ("time == 5", "its trigger is not of the form t >= c"),
        ("or(time >= 5, time >= 7)", "its trigger is not of the form t >= c"),
        ("time^2 >= 5", "its trigger is not of the form t >= c"),
        ("sin(time) >= 0.5", "its trigger is not of the form t >= c"),
        ("time >= nothing", 'its formula uses "nothing", which is not defined'),
    ],
)
def test_other_triggers_are_refused(trigger, message):
    text = not_read(message, event("Bad", trigger, {"X": "7", "q": "2"}))
    assert 'event "Bad"' in text


def test_other_events_are_refused():
    delay = f"<delay>{math('3')}</delay>"
    not_read('event "E": it has a delay', event("E", "time >= 5", {"X": "7"}, extra=delay))
    none = event("E", "time >= 5", {"X": "7"}, extra=f"<delay>{math('0')}</delay>")
    assert [e.text() for e in network(none).events] == ["t = 5: X = 7"]
    not_read(
        'event assignment (event E) to "k": it sets a parameter to a value that depends on the state',
        event("E", "time >= 5", {"k": "X"}),
    )
    not_read(
        'event assignment (event E) to "c": a compartment whose size changes', event("E", "time >= 5", {"c": "7"}),
        compartments=["id='c' size='1' constant='false'"],
    )  # fmt: skip
    not_read("X = 50 is 50, above max = 30 of X", event("E", "time >= 5", {"X": "50"}))
    not_read("a count must be a whole number", event("E", "time >= 5", {"X": "2.5"}))


def test_level_2_events_do_not_fire_at_the_start():
    parts = {"level": 2, "version": 4}
    species = [f"{entry} hasOnlySubstanceUnits='true'" for entry in SPECIES]
    reactions = [reaction("R", "X -> Y", "k*X", level=2), reaction("S", "Y ->", "q*Y", level=2)]
    events = [event("A", "time >= 0", {"X": "9"}, level=2), event("B", "time >= 25", {"X": "7"}, level=2)]
    net = network(*events, species=species, reactions=reactions, **parts)
    assert [e.text() for e in net.events] == ["t = 25: X = 7"] and net.initial_spec["species"] == [3, 1]
