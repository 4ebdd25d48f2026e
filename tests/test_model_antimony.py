"""Antimony files: models as papers print them, against the same models as TOML, state by state."""

import sys

import pytest
from sbml_texts import assert_same_generator

from hpcme.errors import InputError
from hpcme.model.antimony import antimony_to_sbml, read_antimony
from hpcme.model.reader import load_model, load_model_text

pytest.importorskip("antimony")
pytest.importorskip("libsbml")

# Each model as a table of reactions, once as Antimony and once as TOML.
LOTKA = (
    """
    # Predators and prey: reaction, propensity
    model lotka
      Prey = 8; Predator = 5
      c1 = 10; c2 = 0.01; c3 = 10
      birth:  Prey -> 2 Prey;               c1*Prey
      eaten:  Prey + Predator -> 2 Predator; c2*Prey*Predator
      death:  Predator -> ;                 c3*Predator
    end
    """,
    """
    [model]
    name = "lotka"
    [parameters]
    c1 = 10
    c2 = 0.01
    c3 = 10
    [species]
    Prey = { initial = 8, max = 20 }
    Predator = { initial = 5, max = 20 }
    [[reactions]]
    equation = "Prey -> 2 Prey"
    rate = "c1"
    [[reactions]]
    equation = "Prey + Predator -> 2 Predator"
    rate = "c2"
    [[reactions]]
    equation = "Predator -> 0"
    rate = "c3"
    """,
    (0.0,),
)
SCHLOGL = (
    """
    model schlogl
      compartment cell = 1
      substanceOnly species X in cell
      X = 12; A = 100; B = 200; const A, B
      c1 = 3e-2; c2 = 1e-3; c3 = 1e-1; c4 = 3.5
      R1: 2 X -> 3 X; c1/2*A*X*(X - 1)
      R2: 3 X -> 2 X; c2/6*X*(X - 1)*(X - 2)
      R3:   -> X; c3*B
      R4: X -> ; c4*X
    end
    """,
    """
    [model]
    name = "schlogl"
    [species]
    X = { initial = 12, max = 60 }
    [[reactions]]
    equation = "2 X -> 3 X"
    rate = "3e-2/2*100"
    [[reactions]]
    equation = "3 X -> 2 X"
    rate = "1e-3/6"
    [[reactions]]
    equation = "0 -> X"
    rate = "1e-1*200"
    [[reactions]]
    equation = "X -> 0"
    rate = 3.5
    """,
    (0.0,),
)
REPRESSED = (
    """
    function hill(x, K, n)
      K^n/(K^n + x^n)
    end
    model repressed
      species M = 0, P = 3, D = 0
      a = 5; K = 4; n = 2; kp = 2; dm = 1; dp = 0.2; kf = 0.1; kr = 1; light = 1
      transcription: -> M; light*a*hill(P, K, n)
      translation:   M -> M + P; kp*M
      decay_m:       M -> ; dm*M
      decay_p:       P -> ; dp*P
      dimer:         2 P -> D; kf*P*(P - 1)/2 - kr*D
      dark:          at (time >= 3): light = 0.1
      total := P + 2*D
    end
    """,
    """
    [model]
    name = "repressed"
    [species]
    M = { initial = 0, max = 4 }
    P = { initial = 3, max = 12 }
    D = { initial = 0, max = 5 }
    [[reactions]]
    equation = "0 -> M"
    propensity = "where(t < 3, 1, 0.1)*5*4**2/(4**2 + P**2)"
    [[reactions]]
    equation = "M -> M + P"
    rate = 2
    [[reactions]]
    equation = "M -> 0"
    rate = 1
    [[reactions]]
    equation = "P -> 0"
    rate = 0.2
    [[reactions]]
    equation = "2 P <-> D"
    rate = [0.05, 1]
    [readouts]
    total = "P + 2*D"
    """,
    (0.0, 2.9, 3.0, 8.0),
)


@pytest.mark.parametrize("model", [LOTKA, SCHLOGL, REPRESSED], ids=["lotka", "schlogl", "repressed"])
def test_models_as_papers_print_them(model, tmp_path):
    antimony, toml, times = model
    expected = load_model_text(toml)
    (tmp_path / "model.ant").write_text(antimony)
    limits = dict(zip(expected.species, expected.limits.tolist(), strict=True))
    net = read_antimony(tmp_path / "model.ant", limits)
    assert net.name == expected.name
    assert_same_generator(net, expected, times)
    point = net.initial.support()[0][0]
    assert dict(zip(net.species, point, strict=True)) == dict(
        zip(expected.species, expected.initial.support()[0][0], strict=True)
    )
    assert sum(r.key == "rate" for r in net.reactions) == sum(r.key == "rate" for r in expected.reactions)


def test_default_compartments_hold_amounts_and_readouts_are_kept(tmp_path):
    (tmp_path / "model.ant").write_text(REPRESSED[0])
    net = load_model(tmp_path / "model.ant", limits={"M": 4, "P": 12, "D": 5})
    total = list(net.readouts).index("total")
    assert net.readout_values(net.initial.support()[0])[0][total] == 3


def test_a_file_without_a_model_is_named_after_the_file(tmp_path):
    (tmp_path / "decay.ant").write_text("A = 4; k = 2\nA -> ; k*A\n")
    net = read_antimony(tmp_path / "decay.ant", {"A": 9})
    assert net.name == "decay" and net.reactions[0].key == "rate"


def test_imports_are_looked_for_beside_the_file(tmp_path):
    (tmp_path / "inner.ant").write_text("model inner(A)\n  A -> ; k*A; k = 1\nend\n")
    (tmp_path / "outer.ant").write_text('import "inner.ant"\nmodel *outer()\n  A = 5; m: inner(A)\n  -> A; 2\nend\n')
    net = read_antimony(tmp_path / "outer.ant", {"A": 9})
    assert net.R == 2 and net.initial_spec["species"] == [5]


WRONG = {
    "syntax": ("A = 4\nA -> ; k*A\nfoo(\n", "not valid Antimony: line 3"),
    "import": ('import "nothing.ant"\nA -> ; A\n', "nothing.ant"),
    "rate rule": ("A = 4\nx = 1\nx' = 2\nA -> ; x*A\n", 'rate rule "x": continuous change'),
    "state event": ("A = 4\nA -> ; A\nE: at (A > 3): A = 2\n", 'event "E": its trigger depends on the state (A)'),
    "no value": ("A = 4\nJ: A -> ; k*A\n", 'parameter "k": it has no value, and kinetic law of reaction "J" needs it'),
    "no reactions": ("A = 4\n", "it has no reactions"),
    "empty": ("", "it has no reactions"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files(case, tmp_path):
    text, message = WRONG[case]
    path = tmp_path / "model.ant"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_antimony(path, {"A": 9})
    assert message in str(caught.value) and str(caught.value).startswith(str(path))
    assert "model string" not in str(caught.value)
    if case != "syntax":
        assert "  line " not in str(caught.value)  # of a text that the user has not seen


def test_without_antimony_the_command_to_install_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "antimony", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'antimony, which is not installed. Fix: pip install "hpcme\[antimony\]"'):
        antimony_to_sbml("", "m.ant")


def test_a_library_that_breaks_down_is_an_error_of_the_file(monkeypatch):
    monkeypatch.setattr("hpcme.model.antimony._CHILD", "import os; os.abort()")
    with pytest.raises(InputError, match=r"m\.ant: antimony broke down over this file \(signal 6\)"):
        antimony_to_sbml("A -> ; A", "m.ant")
    monkeypatch.setattr("hpcme.model.antimony._CHILD", "raise SystemError('odd')")
    with pytest.raises(InputError, match="antimony gave no answer: SystemError: odd"):
        antimony_to_sbml("A -> ; A", "m.ant")
