"""Stored networks whose parameters do not fit are refused with what differs and what to do."""

from __future__ import annotations

import re

import numpy as np
import pytest
from solver_cases import model

from hpcme.errors import InputError
from hpcme.networks.build import build_network, load_law, network_spec, parameters_of


@pytest.fixture(scope="module", params=["gru", "transformer"])
def stored(request):
    """(net, description, parameters) of a small network."""
    net = model("driven")
    spec = network_spec(
        net, kind=request.param, width=6, depth=1, heads=["categorical", "spline"], order="auto", dtype="float64",
        support_states=1000, end=1.0,
    )  # fmt: skip
    return net, spec, parameters_of(build_network(spec, net, seed=3))


def refusal(stored, arrays) -> str:
    net, spec, _ = stored
    with pytest.raises(InputError) as caught:
        load_law(spec, arrays, net)
    text = str(caught.value)
    assert "another version of hpcme" in text and "Fix: open it with the version that wrote it" in text
    return text


def test_fitting_parameters_are_taken(stored):
    net, spec, arrays = stored
    law = load_law(spec, arrays, net)
    n = law.sample(20)
    assert np.array_equal(load_law(spec, dict(arrays), net).log_prob(n), law.log_prob(n))


def test_names_that_differ_are_named(stored):
    arrays = dict(stored[2])
    name = next(iter(arrays))
    arrays["cell.old"] = arrays.pop(name)
    text = refusal(stored, arrays)
    assert f"{name} is missing" in text and "cell.old is unknown" in text and "more." not in text


def test_shapes_that_differ_are_told(stored):
    arrays = dict(stored[2])
    name, value = next((name, value) for name, value in arrays.items() if value.ndim == 2)
    arrays[name] = value[:, :-1]
    rows, columns = value.shape
    assert f"{name} has shape ({rows}, {columns - 1}) instead of ({rows}, {columns})" in refusal(stored, arrays)


def test_of_many_differences_five_are_told(stored):
    arrays = stored[2]
    assert len(arrays) > 5
    text = refusal(stored, {})
    assert text.count(" is missing") == 5
    assert re.search(rf"and {len(arrays) - 5} more\.", text)
