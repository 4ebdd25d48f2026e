"""Wrong model files: each is refused with a message that names the file, what was seen, and what to do."""

import os

import pytest

from hpcme.errors import InputError
from hpcme.model.builder import ModelBuilder
from hpcme.model.network import ReactionNetwork
from hpcme.model.reader import load_model, load_model_text

GOOD = """
[model]
name = "toy"
law = "combinatorial"
[parameters]
k = 2.0
d = 0.5
[species]
A = { initial = 3, max = 20 }
B = { initial = 0, max = 30 }
[[reactions]]
equation = "2 A -> B"
rate = "k"
[[reactions]]
equation = "B -> 0"
propensity = "d*B"
"""


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def species(line: str) -> str:
    return changed("A = { initial = 3, max = 20 }", line)


def reaction(body: str) -> str:
    return changed('equation = "2 A -> B"\nrate = "k"', body)


# name of the case: (file, what the message must show of the cause, the fix it must offer)
WRONG = {
    "not toml": ("[model\n", "not valid TOML", "correct that place"),
    "duplicate key": (changed("d = 0.5", "d = 0.5\nd = 0.6"), "line 8", "a key may stand only once"),
    "duplicate species": (
        species("A = { initial = 3, max = 20 }\nA = { initial = 1, max = 20 }"),
        "not valid TOML",
        "only once",
    ),
    "unknown table": (GOOD + "[specis]\nX = 1\n", 'unknown table or key "specis"', 'Did you mean "species"'),
    "unknown top key": ("law = 'power'\n" + GOOD, 'unknown table or key "law"', "Rename or remove"),
    "job file": (GOOD + "[time]\nend = 3\n", "[time] belongs in a job file", "Move it to the job"),
    "unknown model key": (
        changed("law =", "laws ="),
        "unknown key \"laws\" (= 'combinatorial')",
        'Did you mean "law"',
    ),
    "volume": (
        changed("[model]", "[model]\nvolume = 1.0"),
        'unknown key "volume" (= 1.0)',
        "name, law, description, time_unit",
    ),
    "unknown law": (changed("combinatorial", "powers"), 'law = "powers"', 'Did you mean "power"'),
    "law of a wrong type": (changed('"combinatorial"', "1"), "law = 1", "must be text in quotes"),
    "empty name": (changed('"toy"', '" "'), 'name = ""', "give a word"),
    "model not a table": (
        "model = 3\n" + GOOD.replace('[model]\nname = "toy"\nlaw = "combinatorial"\n', ""),
        "model = 3",
        "write [model]",
    ),
    "no species table": (GOOD.replace("[species]", "[[species]]"), "species = [{", "write [species]"),
    "missing species": ("[[reactions]]\nequation = '0 -> X'\nrate = 1\n", "[species] is missing", "add it"),
    "empty species": (
        "[species]\n[[reactions]]\nequation = '0 -> X'\nrate = 1\n",
        "no species",
        "add for example X = {",
    ),
    "no reactions": (GOOD.split("[[reactions]]")[0], "no reactions", "add at least one"),
    "single brackets": (
        GOOD.split("[[reactions]]")[0] + "[reactions]\nequation = '0 -> A'\n",
        "[[reactions]]",
        "double brackets",
    ),
    "species as number": (species("A = 3"), "species A = 3", "write A = { initial = 0, max = 79 }"),
    "unknown species key": (
        species("A = { initial = 3, maximum = 20 }"),
        'unknown key "maximum" (= 20)',
        'Did you mean "max"',
    ),
    "max a float": (species("A = { initial = 3, max = 20.0 }"), "max = 20.0", "whole number"),
    "max negative": (species("A = { initial = 3, max = -1 }"), "max = -1", "from 1 to 1000000"),
    "max zero": (species("A = { initial = 0, max = 0 }"), "max = 0", "from 1 to 1000000"),
    "max huge": (species("A = { initial = 3, max = 2000000000 }"), "max = 2000000000", "scale the rates"),
    "max text": (species("A = { initial = 3, max = 'most' }"), "max = 'most'", 'or "auto"'),
    "max truth value": (species("A = { initial = 1, max = true }"), "max = True", "whole number"),
    "no initial": (species("A = { max = 20 }"), "species A has no initial", "give initial = count"),
    "initial above max": (
        species("A = { initial = 21, max = 20 }"),
        "initial = 21 is above max = 20",
        "raise max to at least 21",
    ),
    "initial negative": (species("A = { initial = -1, max = 20 }"), "initial = -1", "give 0..20"),
    "initial a float": (species("A = { initial = 1.5, max = 20 }"), "initial = 1.5", "a count such as 5"),
    "initial truth value": (
        species("A = { initial = true, max = 20 }"),
        "initial = True",
        "a count such as 5",
    ),
    "initial text": (species("A = { initial = 'x', max = 20 }"), "initial = 'x'", "allowed are a count"),
    "unknown start law": (
        species("A = { initial = { poison = 1.0 }, max = 20 }"),
        '"poison" is not a law',
        'Did you mean "poisson"',
    ),
    "two start laws": (
        species("A = { initial = { poisson = 1, uniform = [0, 1] }, max = 20 }"),
        "uniform",
        "allowed are a count",
    ),
    "poisson negative": (
        species("A = { initial = { poisson = -1 }, max = 20 }"),
        "poisson = -1",
        "from 0 to 1e9",
    ),
    "poisson nan": (
        species("A = { initial = { poisson = nan }, max = 20 }"),
        "poisson = nan",
        "from 0 to 1e9",
    ),
    "poisson cut": (
        species("A = { initial = { poisson = 15.0 }, max = 20 }"),
        "max = 20 cuts 0.083",
        "raise max to at least 37",
    ),
    "binomial keys": (
        species("A = { initial = { binomial = { n = 3, q = 0.5 } }, max = 20 }"),
        "'q': 0.5",
        "{ n = trials, p = probability }",
    ),
    "binomial p": (
        species("A = { initial = { binomial = { n = 3, p = 1.5 } }, max = 20 }"),
        "1.5",
        "0 <= p <= 1",
    ),
    "uniform reversed": (
        species("A = { initial = { uniform = [4, 2] }, max = 20 }"),
        "[4, 2]",
        "lowest <= highest",
    ),
    "uniform high": (
        species("A = { initial = { uniform = [4, 21] }, max = 20 }"),
        "count 21 is above max = 20",
        "raise max to at least 21",
    ),
    "table sum": (
        species("A = { initial = { table = [0.5, 0.4] }, max = 20 }"),
        "sum to 0.9",
        "divide each by 0.9",
    ),
    "table negative": (
        species("A = { initial = { table = [1.5, -0.5] }, max = 20 }"),
        "[1.5, -0.5]",
        "nonnegative probabilities",
    ),
    "table long": (
        species("A = { initial = { table = [0.5, 0, 0.5] }, max = 1 }"),
        "count 2",
        "raise max to at least 2",
    ),
    "reserved t": (species("t = { initial = 3, max = 20 }"), "'t' is reserved", "choose another name"),
    "reserved e": (changed("k = 2.0", "e = 2.0"), "parameter name 'e' is reserved", "such as e_0"),
    "reserved function": (
        species("max = { initial = 3, max = 20 }"),
        "'max' is reserved",
        "choose another name",
    ),
    "bad species name": (species('"A-1" = { initial = 3, max = 20 }'), "'A-1'", "use letters, digits and _"),
    "greek species name": (species('"\u03b1" = { initial = 3, max = 20 }'), "'\u03b1'", "(ASCII)"),
    "same name twice": (
        changed("k = 2.0", "A = 2.0"),
        "species name 'A' is already the name of a parameter",
        "rename one",
    ),
    "parameter truth value": (
        changed("k = 2.0", "k = true"),
        "parameter k = True",
        "a number or an expression in quotes",
    ),
    "parameter nan": (changed("k = 2.0", "k = nan"), "parameter k = nan", "must be finite"),
    "parameter list": (
        changed("k = 2.0", "k = [1, 2]"),
        "parameter k = [1, 2]",
        "a number or an expression in quotes",
    ),
    "parameter of later": (changed("k = 2.0", "k = '2*d'"), '"d" is defined further down', "move d above k"),
    "parameter of itself": (changed("k = 2.0", "k = '2*k'"), "it uses itself", "give it a number"),
    "parameter of species": (changed("k = 2.0", "k = '2*A'"), '"A" is a species', "use a propensity"),
    "parameter of time": (changed("k = 2.0", "k = '2*t'"), 'cannot use the time "t"', "put t in a rate"),
    "parameter unknown": (
        changed("d = 0.5", "d = '2*kk'"),
        '"kk" is not a parameter above',
        'Did you mean "k"',
    ),
    "parameter infinite": (changed("k = 2.0", "k = '1/0'"), "gives inf", "Correct the expression"),
    "unknown reaction key": (
        reaction("equation = '2 A -> B'\nrates = 'k'"),
        "unknown key \"rates\" (= 'k')",
        'Did you mean "rate"',
    ),
    "no equation": (reaction("rate = 'k'"), "reaction 1 has no equation", 'equation = "2 A + B -> C"'),
    "equation not text": (reaction("equation = 3\nrate = 'k'"), "equation = 3", "must be text"),
    "no arrow": (
        reaction("equation = '2 A = B'\nrate = 'k'"),
        'equation = "2 A = B" needs exactly one arrow',
        '"->" or "<->"',
    ),
    "double arrow": (reaction("equation = 'A => B'\nrate = 'k'"), 'equation = "A => B"', '"->" or "<->"'),
    "two arrows": (
        reaction("equation = 'A -> B -> 0'\nrate = 'k'"),
        "exactly one arrow",
        'write for example "2 A + B -> C"',
    ),
    "backward arrow": (reaction("equation = 'A <- B'\nrate = 'k'"), 'equation = "A <- B"', '"->" or "<->"'),
    "unknown species": (
        reaction("equation = '2 A -> BB'\nrate = 'k'"),
        '"BB" in equation = "2 A -> BB"',
        "Add it to [species]",
    ),
    "fractional coefficient": (
        reaction("equation = '0.5 A -> B'\nrate = 'k'"),
        'the term "0.5 A"',
        "whole coefficient",
    ),
    "zero coefficient": (
        reaction("equation = '0 A -> B'\nrate = 'k'"),
        'coefficient 0 of "A"',
        "from 1 to 1000",
    ),
    "huge coefficient": (
        reaction("equation = '1001 A -> B'\nrate = 'k'"),
        'coefficient 1001 of "A"',
        "from 1 to 1000",
    ),
    "empty term": (reaction("equation = 'A + -> B'\nrate = 'k'"), 'the term ""', "such as 2 X"),
    "no effect": (reaction("equation = '2 A -> 2 A'\nrate = 'k'"), "has no effect", "remove it"),
    "nothing to nothing": (reaction("equation = '0 -> 0'\nrate = 'k'"), "has no effect", "remove it"),
    "no rate": (reaction("equation = '2 A -> B'"), "neither rate nor propensity", 'give rate = "k"'),
    "rate and propensity": (
        reaction("equation = '2 A -> B'\nrate = 1\npropensity = 'A'"),
        "both a rate and a propensity",
        "keep one",
    ),
    "reverse rate and propensity": (
        reaction("equation = '2 A <-> B'\nreverse_rate = 1\npropensity = 'A'"),
        "both a rate and a propensity",
        "keep one",
    ),
    "rate negative": (
        reaction("equation = '2 A -> B'\nrate = -1"),
        'reaction 1 ("2 A -> B"), rate = "-1" is -1',
        "not negative",
    ),
    "rate evaluates negative": (
        reaction("equation = '2 A -> B'\nrate = 'd - k'"),
        'rate = "d - k" is -1.5',
        "Correct the expression",
    ),
    "rate nan": (reaction("equation = '2 A -> B'\nrate = nan"), "rate = nan", "must be finite"),
    "rate evaluates nan": (
        reaction("equation = '2 A -> B'\nrate = 'log(-k)'"),
        'rate = "log(-k)" is nan',
        "must be finite",
    ),
    "rate infinite": (reaction("equation = '2 A -> B'\nrate = 'k/(d - 0.5)'"), "is inf", "must be finite"),
    "rate truth value": (
        reaction("equation = '2 A -> B'\nrate = true"),
        "rate = True",
        "a number or an expression in quotes",
    ),
    "rate list": (
        reaction("equation = '2 A -> B'\nrate = [1, 2]"),
        "two rates need a reversible equation",
        'write "<->"',
    ),
    "reverse rate of one way": (
        reaction("equation = '2 A -> B'\nrate = 1\nreverse_rate = 1"),
        "two rates need a reversible equation",
        "give one rate",
    ),
    "one rate of two": (
        reaction("equation = '2 A <-> B'\nrate = 1"),
        "needs a second rate",
        "add reverse_rate",
    ),
    "three rates": (
        reaction("equation = '2 A <-> B'\nrate = [1, 2, 3]"),
        "rate = [1, 2, 3]",
        "[forward, backward]",
    ),
    "reversible propensity": (
        reaction("equation = '2 A <-> B'\npropensity = 'A'"),
        "a reversible reaction takes rates",
        "write two reactions",
    ),
    "rate of species": (
        reaction("equation = '2 A -> B'\nrate = 'k*B'"),
        'cannot depend on species "B"',
        "propensity =",
    ),
    "rate of unknown": (
        reaction("equation = '2 A -> B'\nrate = 'dd'"),
        '"dd" is not a parameter',
        'Did you mean "d"',
    ),
    "propensity of unknown": (
        reaction("equation = '2 A -> B'\npropensity = 'k*a'"),
        '"a" is not a parameter or species; known names are k, d, A, B, t',
        "Define it in [parameters]",
    ),
    "propensity negative": (
        reaction("equation = '2 A -> B'\npropensity = '-k'"),
        'propensity = "-k" is -2',
        "not negative",
    ),
    "broken expression": (
        reaction("equation = '2 A -> B'\nrate = 'k*(1 + d'"),
        'expected ")" to close the parenthesis',
        "^",
    ),
    "attribute": (
        reaction("equation = '2 A -> B'\npropensity = 'A.__class__'"),
        'character "." cannot stand',
        "allowed are numbers, names",
    ),
    "hostile call": (
        reaction("equation = '2 A -> B'\nrate = '__import__(k)'"),
        '"__import__" is not a function',
        "functions are abs",
    ),
    "empty rate": (reaction("equation = '2 A -> B'\nrate = ''"), "the expression is empty", "give a number"),
    "reaction name twice": (
        GOOD.replace("[[reactions]]", "[[reactions]]\nname = 'r'"),
        'reactions 1 and 2 are both named "r"',
        "rename one",
    ),
    "reaction name not text": (
        reaction("equation = '2 A -> B'\nrate = 1\nname = 3"),
        "name = 3",
        "text in quotes",
    ),
    "initial twice": (
        GOOD + "[initial]\nstates = [[1, 2]]\nprobabilities = [1]\n",
        "species A has an initial, and there is an [initial] table",
        "keep one",
    ),
}

JOINT = GOOD.replace("initial = 3, ", "").replace("initial = 0, ", "")
WRONG |= {
    "joint unknown key": (
        JOINT + "[initial]\nstate = [[1, 2]]\nprobabilities = [1]\n",
        'unknown key "state"',
        'Did you mean "states"',
    ),
    "joint missing key": (JOINT + "[initial]\nstates = [[1, 2]]\n", "has no probabilities", "give states = "),
    "joint lengths": (
        JOINT + "[initial]\nstates = [[1, 2]]\nprobabilities = [0.5, 0.5]\n",
        "1 rows and probabilities 2 numbers",
        "give one each",
    ),
    "joint width": (
        JOINT + "[initial]\nstates = [[1, 2, 3]]\nprobabilities = [1]\n",
        "row 1 of states is [1, 2, 3]",
        "in the order A, B",
    ),
    "joint float": (
        JOINT + "[initial]\nstates = [[1, 2.5]]\nprobabilities = [1]\n",
        "[1, 2.5]",
        "give 2 whole counts",
    ),
    "joint outside": (
        JOINT + "[initial]\nstates = [[1, 31]]\nprobabilities = [1]\n",
        "B = 31, outside 0..30",
        "raise max of B",
    ),
    "joint negative": (
        JOINT + "[initial]\nstates = [[-1, 3]]\nprobabilities = [1]\n",
        "A = -1, outside 0..20",
        "correct it",
    ),
    "joint sum": (
        JOINT + "[initial]\nstates = [[1, 3]]\nprobabilities = [0.9]\n",
        "sum to 0.9",
        "divide each by 0.9",
    ),
    "joint repeated": (
        JOINT + "[initial]\nstates = [[1, 3], [1, 3]]\nprobabilities = [0.5, 0.5]\n",
        "stands twice",
        "each state once",
    ),
    "joint not a table": ("initial = 3\n" + JOINT, "initial = 3", "write [initial]"),
    "joint states not a list": (
        JOINT + "[initial]\nstates = 'x'\nprobabilities = [1]\n",
        "states has 0 rows",
        "give one each",
    ),
}


def test_the_good_files_are_good():
    load_model_text(GOOD)
    load_model_text(JOINT + "[initial]\nstates = [[1, 2]]\nprobabilities = [1]\n")


@pytest.mark.parametrize("name", WRONG)
def test_wrong_file_is_refused_with_cause_and_fix(name, tmp_path):
    text, cause, fix = WRONG[name]
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert cause in message and fix in message
    assert message.isascii() or not text.isascii()


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "toggle.toml").write_text(GOOD)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(InputError, match=r'togle\.toml: no such model file.*Did you mean "toggle\.toml"'):
        load_model(tmp_path / "togle.toml")
    with pytest.raises(InputError, match="no such model file"):
        load_model(tmp_path / "nowhere" / "x.toml")
    with pytest.raises(InputError, match="is a folder"):
        load_model(tmp_path)
    with pytest.raises(InputError, match=r"not UTF-8 text \(byte 2\); save the file as UTF-8"):
        load_model(tmp_path / "latin.toml")
    for suffix in ("xml", "sbml", "ant"):
        with pytest.raises(InputError, match=r"no such model file; give the path of an? (SBML|Antimony) file"):
            load_model(tmp_path / f"m.{suffix}")
    with open(tmp_path / "huge.toml", "wb") as file:
        os.truncate(file.fileno(), 20 * 2**20)
    with pytest.raises(InputError, match="20971520 bytes is more than"):
        load_model(tmp_path / "huge.toml")


def test_hostile_nesting_in_toml_is_an_input_error():
    with pytest.raises(InputError, match="not valid TOML"):
        load_model_text("x = " + "[" * 5000 + "]" * 5000, "deep.toml")


def test_numbers_with_thousands_of_digits_are_input_errors():
    with pytest.raises(InputError, match="not valid TOML"):
        load_model_text("x = " + "1" * 5000, "long.toml")
    with pytest.raises(InputError, match="whole coefficient"):
        load_model_text(reaction(f"equation = '{'1' * 5000} A -> B'\nrate = 1"), "long.toml")


def test_builder_errors_name_the_model():
    with pytest.raises(InputError, match=r'model "m": species X: max = 0'):
        ModelBuilder("m").species("X", initial=0, max=0)
    with pytest.raises(InputError, match=r'model "m": species name \'X\' is already the name of a species'):
        ModelBuilder("m").species("X", initial=0, max=1).species("X", initial=0, max=1)
    with pytest.raises(InputError, match=r'model "m": reaction 1 \("0 -> X"\) has neither rate'):
        ModelBuilder("m").species("X", initial=0, max=1).reaction("0 -> X")
    with pytest.raises(InputError, match=r'model "m": parameter name 3: use letters'):
        ModelBuilder("m").parameter(3, 1.0)


def test_equal_only_to_networks():
    net = load_model_text(GOOD)
    assert net != "toy" and isinstance(net, ReactionNetwork)
    assert repr(net) == "ReactionNetwork('toy', S=2, R=2, law='combinatorial')"
