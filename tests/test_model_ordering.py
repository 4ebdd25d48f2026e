"""The order of the species that "auto" chooses: decided by the graph of the reactions, whatever a model lists first."""

import itertools
import json
import random
from pathlib import Path

import pytest
from cli_helpers import call

import hpcme
from hpcme.beginning import network_of
from hpcme.dynamics.start import marginals
from hpcme.exact.shorttime import short_time_law
from hpcme.model.builder import ModelBuilder
from hpcme.model.ordering import resolved_order, species_order
from hpcme.model.reader import load_model, load_model_text

MODELS = sorted((Path(__file__).parent.parent / "jobs" / "models").glob("*.toml"))

#: Species with their largest counts, and reactions: a propensity where the rate reads a species, else mass action.
NETWORKS = {
    "gene": ("G 1, r 20, p 20", ["0 -> G @ 1 - G", "G -> 0", "G -> G + r", "r -> 0", "r -> r + p", "p -> 0"]),
    "feedback": ("p 20, r 20, G 1", ["0 -> G @ 1 - G", "G + p -> p", "G -> G + r", "r -> 0", "r -> r + p", "p -> 0"]),
    "titrated feedback": ("p 9, r 9, G 1", ["0 -> G + p @ 1 - G", "G + p -> 0", "G -> G + r", "r -> r + p", "p -> 0"]),
    "chain": ("A 9, B 9, C 9, D 9", ["0 -> A", "A -> B", "B -> C", "C -> D", "D -> 0"]),
    "repressed chain": ("A 9, B 9, C 9", ["0 -> A @ 1/(1 + C)", "A -> B", "B -> C", "C -> 0"]),
    "closed chain": ("A 9, B 9, C 9", ["A -> B", "B -> C"]),
    "diamond": ("A 9, B 9, C 9, D 9", ["0 -> A", "A -> A + B", "A -> A + C", "B -> B + D @ B*C", "D -> 0", "B -> 0"]),
    "hub": ("A 9, B 9, C 9", ["A + B -> 2 B", "A + C -> 2 C", "B -> A", "C -> A"]),
    "unlike": ("A 9, B 9, G 1", ["0 -> A", "A -> 0", "0 -> B", "B -> 0", "0 -> G @ 1 - G", "G -> 0"]),
    "one": ("X 9", ["0 -> X", "X -> 0"]),
}
#: What the graph decides; species in braces have the same part in it.
EXPECTED = {
    "gene": ["G", "r", "p"],
    "feedback": ["G", "r", "p"],  # one loop, cut in front of the gene
    "titrated feedback": ["G", "r", "p"],
    "chain": ["A", "B", "C", "D"],
    "repressed chain": ["A", "B", "C"],
    "closed chain": ["C", "B", "A"],
    "diamond": ["A", {"B", "C"}, "D"],
    "hub": ["A", {"B", "C"}],
    "unlike": ["G", {"A", "B"}],
    "one": ["X"],
}


def build(name, listing=None, shuffled=None):
    """A network of the above with its species listed in another order, and its reactions shuffled."""
    species, reactions = NETWORKS[name]
    limits = dict(words.split() for words in species.split(", "))
    reactions = list(reactions)
    if shuffled is not None:
        shuffled.shuffle(reactions)
    lines = ["[model]", 'name = "net"', "[species]"]
    initial = {"closed chain": {"A": 9}, "hub": {"A": 3, "B": 3, "C": 3}}.get(name, {})
    for label in listing or limits:
        lines.append(f"{label} = {{ initial = {initial.get(label, 0)}, max = {limits[label]} }}")
    for reaction in reactions:
        equation, _, propensity = reaction.partition(" @ ")
        kinetics = f'propensity = "{propensity}"' if propensity else "rate = 1.0"
        lines += ["[[reactions]]", f'equation = "{equation}"', kinetics]
    return load_model_text("\n".join(lines), name)


def fits(order, expected):
    """Whether an order is the expected one, with any order inside the braces."""
    at = 0
    for part in expected:
        names = part if isinstance(part, set) else {part}
        if set(order[at : at + len(names)]) != names:
            return False
        at += len(names)
    return at == len(order)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_decides_whatever_is_listed_first(name):
    shuffled = random.Random(1)
    for listing in itertools.permutations(build(name).species):
        order = species_order(build(name, listing, shuffled))
        assert fits(order, EXPECTED[name]), (listing, order)
        # what the graph leaves open stays as the model lists it
        for part in (part for part in EXPECTED[name] if isinstance(part, set)):
            assert [s for s in order if s in part] == [s for s in listing if s in part]


def test_every_shipped_model_keeps_its_order():
    """The models list their species in the order that was found to be good; auto must not fall behind it."""
    assert len(MODELS) >= 12
    for path in MODELS:
        net = load_model(path)
        assert species_order(net) == list(net.species), path.stem


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_shipped_models_listed_otherwise_come_back_up_to_ties(path):
    """Shuffled text of the model: the graph restores the order but for species that play the same part."""
    net = load_model(path)
    ties = {
        "toggle_switch": [{"Gx", "Gy"}, {"Px", "Py"}], "toggle_switch_power": [{"Gx", "Gy"}, {"Px", "Py"}],
        "early_life": ["A", {"D", "L"}], "epidemic": [{"S", "I"}, "R"],
    }.get(path.stem, list(net.species))  # fmt: skip
    for seed in range(4):
        listing = list(net.species)
        random.Random(seed).shuffle(listing)
        text, _, rest = net.text.partition("[species]\n")
        block, _, rest = rest.partition("\n\n")
        lines = {line.split(" = ")[0]: line for line in block.splitlines()}
        assert set(lines) == set(net.species)
        other = load_model_text(text + "[species]\n" + "\n".join(lines[s] for s in listing) + "\n\n" + rest)
        assert list(other.species) == listing
        assert fits(species_order(other), ties), listing


def test_a_catalyst_comes_first_even_with_the_larger_limit():
    text = build("gene").text.replace("r = { initial = 0, max = 20 }", "r = { initial = 0, max = 90 }")
    net = load_model_text(text)
    assert net.limits.tolist() == [1, 90, 20]
    assert species_order(net) == ["G", "r", "p"]


def test_names_given_are_taken_as_they_are():
    net = build("gene")
    assert resolved_order(net, ["p", "G", "r"]) == ["p", "G", "r"]
    assert resolved_order(net, "auto") == species_order(net)
    assert resolved_order(net, ["p", "G", "r"], far=True) == ["p", "G", "r"]


@pytest.mark.parametrize("limits", [(9, 9, 9, 9), (9, 7, 5, 3), (3, 9, 4, 7)])
@pytest.mark.parametrize("closed", [False, True])
def test_totals_far_off_are_those_of_products(limits, closed):
    """Whatever the limits, and in a closed chain too; but a gene stays before what it makes."""
    builder = ModelBuilder("chain")
    for name, limit in zip("ABCD", limits, strict=True):
        builder.species(name, initial=3 if closed and name == "A" else 0, max=limit)
    if not closed:
        builder.reaction("0 -> A", rate=1.0)
    for k in range(3):
        builder.reaction(f"{'ABCD'[k]} -> {'ABCD'[k + 1]}", rate=1.0)
    assert resolved_order(builder.build(), "auto", far=True) == ["D", "C", "B", "A"]
    gene = resolved_order(build("gene"), "auto", far=True)
    assert gene.index("G") < gene.index("r") < gene.index("p")


def test_the_network_takes_the_order_and_frees_its_first_species():
    """A gene listed last comes first in the network, with a logit for every count of the first species alone."""
    net = build("unlike", ["A", "B", "G"]).with_limits({"A": 30, "B": 30, "G": 20})
    job = hpcme.load_job({"model": net, "time": {"end": 1.0}})
    assert job["solver.integrator"] == "exponential"
    _, states, p, _ = short_time_law(net, jumps=3.0, t_max=1.0, max_states=20_000)
    spec = network_of(job, marginals(states, p, net.limits))
    assert spec["order"] == ["G", "A", "B"]
    assert [head == "categorical" for head in spec["heads"]] == [False, False, True]


def test_check_shows_the_order(tmp_path, capsys):
    path = tmp_path / "net.toml"
    path.write_text(build("gene", ["p", "r", "G"]).text)
    assert json.loads(call(capsys, "check", path, "--json").out)["order"] == ["G", "r", "p"]
    assert "order of the species in the network: G, r, p\n" in call(capsys, "check", path, "--end", "1").out
    given = call(capsys, "check", path, "--end", "1", "--set", 'network.order=["r", "p", "G"]').out
    assert "order of the species in the network: r, p, G\n" in given
