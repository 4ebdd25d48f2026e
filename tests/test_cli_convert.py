"""`hpcme convert`, and models in other formats wherever a model is taken."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import BIRTH_DEATH, call, process
from sbml_texts import assert_same_generator, document, event, reaction
from test_model_events import EVENTS, HEAD

from hpcme.kernels.propensity import propensities
from hpcme.model.describe import describe, describe_dict
from hpcme.model.job import load_job
from hpcme.model.reader import load_model, load_model_text
from hpcme.model.sbml import read_sbml_text
from hpcme.model.sbml_write import lost_in_sbml, sbml_text

pytest.importorskip("libsbml")

MODELS = sorted((Path(__file__).resolve().parents[1] / "jobs" / "models").glob("*.toml"))

#: Everything that SBML has other words for, or none.
HARD = """
[model]
name = "a name with spaces & <signs>"
law = "power"
description = "what it is\\nin two lines"
time_unit = "h"
[parameters]
k = 0.1
k2 = "2*k + 1e-12"
[species]
A = { initial = { poisson = 2.5 }, max = 30 }
B = { initial = 1, max = 9 }
compartment = { initial = 0, max = 9 }
[[reactions]]
equation = "2 A + B -> compartment"
rate = "k*(1 + sin(pi*t))"
[[reactions]]
equation = "0 -> A"
propensity = "min(k, A, 3) + max(1, B)*(A < 3) + where(A and not B > 2, e, piecewise(1, t > 2, 2, B == 1, 3))"
name = "made of nothing!"
[[reactions]]
equation = "0 -> B"
propensity = "log10(A + 1) + sqrt(B)**1.5 + abs(A - 2) + floor(A/2) + ceil(B/2) + exp(-A) + log(B + 1) + tanh(A)"
name = "B"
[[reactions]]
equation = "compartment -> 0"
propensity = "asin(compartment/20) + acos(0.5) + atan(A) + cos(0.1) + tan(0.2) + (A != 2 or B >= 4)"
[[events]]
at = "30*k"
set = { B = "A", A = "min(B, 3)" }
name = "swap"
[[events]]
at = 3
set = { B = "B + 1" }
[readouts]
sum = "A + B"
k = "k"
"""


def plain(text: str) -> str:
    """The SBML without the annotation of hpcme."""
    begin, end = text.index("<annotation>"), text.index("</annotation>") + len("</annotation>")
    return text[:begin] + text[end:]


def known(net) -> dict[str, int]:
    return dict(zip(net.species, net.limits.tolist(), strict=True))


NETWORKS = {path.stem: path.read_text() for path in MODELS} | {"hard": HARD, "events": HEAD + EVENTS}


@pytest.mark.parametrize("name", NETWORKS)
def test_toml_to_sbml_and_back_is_an_equal_network(name):
    net = load_model_text(NETWORKS[name])
    text = sbml_text(net)
    back = read_sbml_text(text, "m.xml")
    assert back == net and back.text == net.text
    assert sbml_text(back) == text


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith(("toggle", "birth", "hard", "events"))])
def test_sbml_without_the_annotation_has_the_same_generator_events_and_readouts(name):
    net = load_model_text(NETWORKS[name])
    net = net.with_limits({name: min(limit, 9) for name, limit in known(net).items()}) if name != "hard" else net
    other = read_sbml_text(plain(sbml_text(net)), "m.xml", known=known(net))
    rng = np.random.default_rng(0)
    n = np.unique(rng.integers(0, net.limits + 1, size=(300, net.S)), axis=0)
    if net.S <= 2:
        assert_same_generator(net, other, times=(0.0, 1.3, 2.6))
    for t in (0.0, 1.3, 2.6):
        ours, theirs = propensities(net.tables, n, t), propensities(other.tables, n, t)
        possible = (n[:, None, :] + net.s >= 0).all(axis=2)  # at fewer a law may say what it likes
        np.testing.assert_allclose(theirs[possible], ours[possible], rtol=1e-12)
    assert other.s.tolist() == net.s.tolist()
    assert [e.time for e in other.events] == [e.time for e in net.events]
    for one, two in zip(net.events, other.events, strict=True):
        assert other.remap(n, two).tolist() == net.remap(n, one).tolist()
    own = [name for name in net.readouts if name not in net.parameters]
    columns = [list(net.readouts).index(name) for name in own], [list(other.readouts).index(name) for name in own]
    np.testing.assert_allclose(
        other.readout_values(n)[:, columns[1]], net.readout_values(n)[:, columns[0]], rtol=1e-13
    )


def test_sbml_that_was_changed_after_hpcme_wrote_it_keeps_its_limits_and_is_believed():
    net = load_model_text(BIRTH_DEATH)
    changed = sbml_text(net).replace('id="k" value="2.0"', 'id="k" value="7"')
    back = read_sbml_text(changed, "m.xml")
    assert back.parameters["k"] == 7 and back.limits.tolist() == [30]
    assert any("was changed after hpcme wrote it" in note for note in back.notes)
    assert read_sbml_text(sbml_text(net), "m.xml", limits={"X": 50}).limits.tolist() == [50]


def test_an_annotation_that_says_something_else_is_not_believed():
    text = sbml_text(load_model_text(BIRTH_DEATH))
    assert text.count("k = 2\n") == 1
    back = read_sbml_text(text.replace("k = 2\n", "k = 3\n"), "m.xml")
    assert back.parameters["k"] == 2 and any("was changed after" in note for note in back.notes)


def test_annotations_that_cannot_be_read_are_passed_over():
    text = sbml_text(load_model_text(BIRTH_DEATH)).replace("[[reactions]]", "[[reactionss]]")
    assert read_sbml_text(text, "m.xml", known={"X": 9}).limits.tolist() == [9]


def test_what_sbml_cannot_hold_is_told():
    lost = lost_in_sbml(load_model_text(HARD))
    assert lost[0] == "limits (max) of the species: A 30, B 9, compartment 9"
    assert lost[1] == "the law of the start; in SBML it is the most probable state, A = 2, B = 1, compartment = 0"
    assert lost[2] == 'the unit of time, "h"' and len(lost) == 3


# ---- the command ----


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "birth_death.toml").write_text(BIRTH_DEATH)
    law, death = reaction("Birth", "-> X", "k"), reaction("Death", "X ->", "d*X")
    parts = {"species": ["id='X' initialAmount='1'"], "parameters": ["id='k' value='2'", "id='d' value='0.5'"]}
    (tmp_path / "bd.xml").write_text(document(reactions=[law, death], **parts))
    (tmp_path / "pulse.sbml").write_text(
        document(reactions=[law, death], events=[event("E", "time >= 0.5", {"X": "9"})], rules=["y = 2*X"], **parts
                 | {"parameters": [*parts["parameters"], "id='y' constant='false'"]})
    )  # fmt: skip
    (tmp_path / "bd.ant").write_text("X = 1; k = 2; d = 0.5\nBirth: -> X; k\nDeath: X -> ; d*X\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_convert_prints_notes_and_writes_them_as_comments(place, capsys):
    done = call(capsys, "convert", "bd.xml", "out.toml", "--max", "X=30")
    assert done.code == 0 and "note: reactions read as mass action: Birth, Death" in done.out
    text = (place / "out.toml").read_text()
    assert text.startswith("# Read from bd.xml:\n# reactions read as mass action: Birth, Death\n\n[model]")
    assert_same_generator(load_model(place / "out.toml"), load_model(place / "birth_death.toml"))
    data = json.loads(call(capsys, "convert", "out.toml", "out.xml", "--json").out)
    assert data["only_in_annotation"] == ["limits (max) of the species: X 30"] and data["notes"] == []
    assert call(capsys, "convert", "out.xml", "again.toml").code == 0
    assert (place / "again.toml").read_text() == load_model(place / "out.toml").text


def test_convert_from_antimony(place, capsys):
    pytest.importorskip("antimony")
    assert call(capsys, "convert", "bd.ant", "ant.toml", "--max", "X=30").code == 0
    assert_same_generator(load_model(place / "ant.toml"), load_model(place / "birth_death.toml"))
    assert call(capsys, "convert", "bd.ant", "ant.sbml", "--max", "X=30").code == 0
    assert load_model(place / "ant.sbml") == load_model(place / "ant.toml")


def test_convert_refuses_what_it_cannot_do(place, capsys):
    for words, message in (
        (("bd.xml", "out.ant"), 'must end in .toml, .xml, .sbml, seen ".ant"'),
        (("bd.xml", "birth_death.toml", "--max", "X=3"), "exists already. Fix: name another file, or add --force"),
        (("bd.xml", "out.toml", "--max", "X"), "--max X is not of the form NAME=COUNT"),
        (("bd.xml", "out.toml", "--max", "Y=3"), "names no species whose count changes; they are X"),
        (("bdd.xml", "out.toml"), 'Did you mean "bd.xml"'),
        (("bd.xml", "nowhere/out.toml"), "there is no folder nowhere"),
    ):
        done = call(capsys, "convert", *words)
        assert done.code == 65 and message in done.err, done.err
    assert (place / "birth_death.toml").read_text() == BIRTH_DEATH
    assert call(capsys, "convert", "bd.xml", "birth_death.toml", "--max", "X=30", "--force").code == 0


# ---- other commands ----


def test_jobs_and_commands_take_sbml(place, capsys):
    (place / "model.xml").write_text(sbml_text(load_model("birth_death.toml")))
    (place / "job.toml").write_text('model = "model.xml"\n[time]\nend = 1.0\n')
    assert load_job("job.toml").net == load_model("birth_death.toml")
    assert load_job("model.xml", overrides={"time.end": 1.0}).net == load_model("birth_death.toml")
    data = json.loads(call(capsys, "check", "model.xml", "--json").out)
    assert data["states"]["reachable"] == 31
    done = call(capsys, "fsp", "model.xml", "--end", "1", "--out", "exact", "--json")
    assert done.code == 0
    expected = json.loads(call(capsys, "fsp", "birth_death.toml", "--end", "1", "--out", "same", "--json").out)
    assert json.loads(done.out)["mean"] == expected["mean"]
    assert call(capsys, "ssa", "job.toml", "--trajectories", "10", "--out", "ssa", "--quiet").code == 0
    wrong = call(capsys, "fsp", "modell.xml", "--end", "1")
    assert wrong.code == 65 and 'Did you mean "model.xml"' in wrong.err
    assert "To solve it: hpcme run model.xml" in call(capsys, "model.xml").err
    assert "is a job or model file, not a run" in call(capsys, "stats", "model.xml").err
    assert call(capsys, "check", "bd.xml").code in (0, 65)  # without limits: refused, unless they are found


def test_a_finished_run_needs_no_libsbml(place, capsys, monkeypatch):
    (place / "model.xml").write_text(sbml_text(load_model("birth_death.toml")))
    assert call(capsys, "fsp", "model.xml", "--end", "1", "--out", "exact", "--quiet").code == 0
    (place / "model.xml").unlink()
    import sys

    monkeypatch.setitem(sys.modules, "libsbml", None)
    assert call(capsys, "stats", "exact").code == 0
    assert call(capsys, "compare", "exact", "--with", "exact").code == 0
    (place / "model.xml").write_text("<sbml/>")
    missing = call(capsys, "check", "model.xml")
    assert missing.code == 65 and "python-libsbml" in missing.err


def test_refused_models_end_with_65_and_no_traceback(place):
    bad = document(species=["id='X' initialAmount='1.5'"], reactions=[reaction("R", "X ->", "X*k", attributes="")])
    (place / "bad.xml").write_text(bad)
    done = process(place, "check", "bad.xml")
    assert done.code == 65 and "Traceback" not in done.err
    assert "because of 3 elements of it" in done.err and 'species "X": it starts with an amount of 1.5' in done.err


def test_check_lists_events_readouts_and_notes_and_commands_solve_events(place, capsys):
    assert call(capsys, "convert", "pulse.sbml", "pulse.xml", "--max", "X=20").code == 0
    text = call(capsys, "check", "pulse.xml").out
    assert "t = 0.5: X = 9   [E]" in text and "y  =  2*X" in text
    data = json.loads(call(capsys, "check", "pulse.xml", "--json").out)
    assert data["events"] == [{"time": 0.5, "name": "E", "set": {"X": "9"}, "text": "t = 0.5: X = 9"}]
    assert data["readouts"] == {"y": "2*X"} and data["states"]["complete"]
    for command in (("run",), ("fsp",), ("ssa", "--trajectories", "3")):
        words = ("--end", "0.5", "--out", f"out-{command[0]}", "--json", "--quiet")
        done = call(capsys, command[0], "pulse.xml", *words, *command[1:])
        assert done.code == 0, done.err
        data = json.loads(done.out)
        assert data["mean"][-1] == [9.0] and data["readouts"]["y"]["mean"][-1] == 18.0, data
    said = "events at t = 0.5: what stands there is right after them"
    assert said in call(capsys, "fsp", "pulse.xml", "--end", "0.5", "--out", "at").out
    assert said not in call(capsys, "fsp", "pulse.xml", "--end", "0.4", "--out", "before").out


def test_notes_stay_with_the_network(place):
    net = read_sbml_text((place / "bd.xml").read_text(), "bd.xml", limits={"X": 9})
    assert "reactions read as mass action: Birth, Death" in describe(net)
    assert describe_dict(net)["notes"] == list(net.notes) == list(net.with_parameters({"k": 3}).notes)
    assert net.with_notes([]) == net and net.with_notes(["x"]).notes == ("x",)
