"""Automatic limits in models: how they are written, kept, refused and left automatic."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from hpcme import InputError, ModelBuilder, load_job
from hpcme.exact.limits import resolve_limits
from hpcme.model.network import LARGEST_LIMIT
from hpcme.model.reader import load_model_text
from hpcme.model.startlaw import count_pmf, largest_count

TEXT = """[model]
name = "m"
[parameters]
k = 2.0
[species]
X = { initial = 3, max = "auto" }
Y = { initial = { poisson = 2.0 } }
Z = { initial = 1, max = 7 }
[[reactions]]
equation = "0 -> X"
rate = "k"
[[reactions]]
equation = "X -> Y"
rate = 1.0
[[reactions]]
equation = "Y -> Z"
rate = 1.0
[[reactions]]
equation = "Z -> 0"
rate = 1.0
"""


def built(**limits):
    builder = ModelBuilder("m").parameter("k", 2.0)
    for name, start in (("X", 3), ("Y", {"poisson": 2.0}), ("Z", 1)):
        builder.species(name, initial=start, **({"max": limits[name]} if name in limits else {}))
    for equation, rate in (("0 -> X", "k"), ("X -> Y", 1.0), ("Y -> Z", 1.0), ("Z -> 0", 1.0)):
        builder.reaction(equation, rate=rate)
    return builder.build()


def test_auto_and_nothing_say_the_same_everywhere():
    net = load_model_text(TEXT)
    assert net.auto_limits == (True, True, False) and net.bounds.tolist() == [LARGEST_LIMIT, LARGEST_LIMIT, 7]
    assert net == built(Z=7) == built(X=None, Y="auto", Z=7) == load_model_text(TEXT.replace(', max = "auto"', ""))
    assert 'max = "auto"' in net.text and load_model_text(net.text) == net
    assert net != built(X=1_000_000, Y=1_000_000, Z=7)


def test_everything_that_copies_a_network_keeps_what_was_written():
    net = load_model_text(TEXT)
    assert pickle.loads(pickle.dumps(net)) == net
    assert net.with_parameters({"k": 3.0}).auto_limits == net.auto_limits
    assert net.with_limits({"X": 20}).auto_limits == (False, True, False)
    assert net.with_limits({"X": 20}).with_limits({"X": "auto"}) == net


def test_who_needs_numbers_is_told_how_to_get_them():
    with pytest.raises(InputError, match=r'max of X, Y is "auto".*load_job.*resolve_limits.*give max'):
        _ = load_model_text(TEXT).limits


@pytest.mark.parametrize("value", ["most", 2.5, True, [3]])
def test_other_words_are_refused(value):
    with pytest.raises(InputError, match=r'max = .*whole number.*or "auto"'):
        built(X=value)


def test_the_job_of_a_model_has_numbers_and_knows_what_was_written():
    job = load_job({"model": load_model_text(TEXT), "time": {"end": 2.0}})
    assert job.model == load_model_text(TEXT) and not any(job.net.auto_limits)
    assert job.net.limits.tolist() == job.limits.numbers and job.net.limits[2] == 7
    assert job.net == resolve_limits(job.model, 2.0, job["run.seed"])[0]
    again = load_job({"model": load_model_text(TEXT), "time": {"end": 2.0}})
    assert again.net == job.net and again.hash == job.hash
    with_numbers = load_job({"model": job.net, "time": {"end": 2.0}})
    assert with_numbers.limits is None and with_numbers.model is with_numbers.net


def test_a_job_keeps_its_hash_when_its_limits_grow():
    from hpcme.exact.limits import grown

    job = load_job({"model": load_model_text(TEXT), "time": {"end": 2.0}})
    larger = job.with_limits(grown(job.model, job.limits, ["X"])[1])
    assert larger.hash == job.hash and larger.net.limits[0] > job.net.limits[0]
    assert larger.with_limits(job.limits).hash == job.hash


def test_without_an_end_limits_stay_automatic():
    job = load_job({"model": load_model_text(TEXT)}, need_end=False)
    assert job.limits is None and job.net.auto_limits == (True, True, False)
    job = load_job({"model": load_model_text(TEXT), "time": {"end": 2.0}}, need_limits=False)
    assert job.net.auto_limits == (True, True, False)


@pytest.mark.parametrize(
    ("law", "most"),
    [(5, 5), (0, 1), ({"uniform": [2, 9]}, 9), ({"table": [0.5, 0.5]}, 1), ({"binomial": {"n": 8, "p": 0.1}}, 8)],
)
def test_starting_laws_have_a_largest_count(law, most):
    assert largest_count(law, LARGEST_LIMIT, "x") == most


@pytest.mark.parametrize("mean", [1e-6, 0.3, 4.0, 100.0, 1e4])
def test_a_poisson_start_is_cut_where_nothing_is_left(mean):
    import scipy.stats

    most = largest_count({"poisson": mean}, LARGEST_LIMIT, "x")
    assert scipy.stats.poisson.sf(most, mean) < 1e-15
    assert np.isclose(count_pmf({"poisson": mean}, most, "x")[0].sum(), 1.0)


def test_starts_beyond_every_limit_and_wrong_ones_are_refused():
    with pytest.raises(InputError, match="goes up to a count of 2000000, beyond the largest limit"):
        ModelBuilder("m").species("X", initial=2_000_000).reaction("X -> 0", rate=1.0).build()
    with pytest.raises(InputError, match="cannot be negative"):
        ModelBuilder("m").species("X", initial=-1).reaction("X -> 0", rate=1.0).build()
    with pytest.raises(InputError, match="is not a law"):
        ModelBuilder("m").species("X", initial={"poison": 3.0}).reaction("X -> 0", rate=1.0).build()


def test_a_joint_start_may_have_automatic_limits():
    net = (
        ModelBuilder("m").species("A").species("B").initial([[3, 0], [1, 4]], [0.5, 0.5])
        .reaction("A -> B", rate=1.0).reaction("B -> 0", rate=1.0).build()
    )  # fmt: skip
    assert load_model_text(net.text) == net
    resolved, report = resolve_limits(net, 3.0)
    assert resolved.limits.tolist() == [3, 5] and [limit.how for limit in report] == ["conserved", "conserved"]
