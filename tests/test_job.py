"""Job files: defaults, overrides, report times, identity, and errors that name key, value and what is allowed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from solver_cases import TOGGLE, evolution_of, job_of, model

from hpcme import load_job
from hpcme.dynamics.losses import LOSSES
from hpcme.dynamics.tdvp import INTEGRATORS
from hpcme.errors import InputError
from hpcme.model.job import parse_override
from hpcme.model.keys import KEYS
from hpcme.networks.build import KINDS

PACKAGE = Path(__file__).parents[1] / "hpcme"
#: Keys whose "auto" becomes a value as soon as the job is read.
CHOSEN = ("solver.scheme", "solver.integrator", "network.kind", "network.width", "network.sight", "solver.tolerance",
          "sampling.samples", "sampling.cover", "sampling.tail", "solver.optimiser", "solver.epochs",
          "sampling.exact_states", "network.support_states")  # fmt: skip


def write(folder: Path, text: str) -> Path:
    (folder / "toggle.toml").write_text(TOGGLE)
    path = folder / "job.toml"
    path.write_text(text)
    return path


GOOD = 'model = "toggle.toml"\n[parameters]\nb = 0.1\n[time]\nend = 2.0\nreport = {every = 0.5}\n[run]\nseed = 7\n'


def test_a_job_file_resolves_with_defaults(tmp_path):
    job = load_job(write(tmp_path, GOOD))
    assert job.net.parameters["b"] == 0.1 and job["run.seed"] == 7 and job.name == "job"
    assert job.report_times.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    given = {"time.end", "time.report", "run.seed", *CHOSEN}
    assert all(job[key] == spec.default for key, spec in KEYS.items() if key not in given)
    assert json.loads(job.text())["time.report"] == [0.0, 0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"solver.scheme": "tdvp"}, {"network.kind": "basis", "network.width": 12, "sampling.samples": 5000,
                                     "sampling.cover": 0.1, "sampling.tail": 0.3}),
        ({"solver.scheme": "tdvp", "solver.loss": "l2"}, {"sampling.tail": 0.3}),  # of no consequence there
        ({"solver.scheme": "tdvp", "network.kind": "made"}, {"network.kind": "made", "network.width": 32}),
        ({"network.kind": "transformer"}, {"network.width": 32, "network.depth": 1}),
        ({"solver.scheme": "projection", "network.kind": "nade"}, {"network.kind": "nade", "network.width": 32}),
        ({}, {"solver.scheme": "tdvp", "solver.integrator": "exponential", "network.kind": "basis",
              "network.head": "auto"}),  # its states can be summed over
        ({"solver.integrator": "waveform"}, {"network.head": "smooth", "sampling.tail": 0.5,
                                                "solver.tolerance": 0.004}),
        ({"solver.scheme": "tdvp", "sampling.exact": False}, {"solver.integrator": "auto", "network.head": "auto"}),
        ({"sampling.exact": False}, {"solver.scheme": "projection", "network.kind": "gru"}),
        ({"sampling.exact_states": 10}, {"solver.scheme": "projection", "network.kind": "gru"}),
        ({"solver.scheme": "projection"}, {"network.kind": "gru", "network.width": 32, "sampling.samples": 1000,
                                           "sampling.cover": 0.3, "sampling.tail": 0.1, "solver.optimiser": "natural"}),
        ({"solver.scheme": "projection", "solver.optimiser": "adam"}, {"sampling.samples": 2000, "solver.epochs": 20}),
        ({"solver.scheme": "projection", "solver.loss": "l2"}, {"sampling.tail": 0.0}),
        ({"solver.scheme": "projection", "network.kind": "basis"}, {"network.kind": "basis", "network.width": 12}),
    ],
)  # fmt: skip
def test_keys_left_at_auto_follow_the_scheme(given, chosen):
    job = load_job({"model": model("toggle"), "time": {"end": 1.0}}, overrides=given)
    assert {key: job[key] for key in chosen} == chosen
    # Sampled sums choose their integrator by the size of the network, projection has none.
    assert not [key for key in CHOSEN if job[key] == "auto" and key != "solver.integrator"]
    own = {"network.width": 9, "sampling.samples": 777, "sampling.cover": 0.2, "sampling.tail": 0.0}
    job = load_job({"model": model("toggle"), "time": {"end": 1.0}}, overrides={**given, **own})
    assert {key: job[key] for key in own} == own


def test_one_or_two_species_may_have_more_states_to_sum_over(tmp_path):
    text = '[model]\nname = "m"\n[species]\n{}[[reactions]]\nequation = "0 -> A"\nrate = 1.0\n'
    names = {"A": 250_000}, {"A": 250_000, "B": 1, "C": 1}
    few, many = (
        text.format("".join(f"{name} = {{ initial = 0, max = {most} }}\n" for name, most in limits.items()))
        for limits in names
    )
    jobs = [load_job({"model": model, "time": {"end": 1.0}}) for model in (few, many)]
    assert [job["solver.scheme"] for job in jobs] == ["tdvp", "projection"]
    assert [job["sampling.exact_states"] for job in jobs] == [1_500_000, 200_000]
    assert [job["network.support_states"] for job in jobs] == [1_500_000, 300_000]


def test_every_key_has_a_reader():
    """What a job may say is used by what runs it: neither its own checks nor the estimates of `hpcme check` count."""
    own_checks = {PACKAGE / "model" / "job.py", PACKAGE / "model" / "keys.py", PACKAGE / "cli" / "check.py"}
    files = set(PACKAGE.rglob("*.py")) - own_checks
    source = "".join(path.read_text() for path in files)
    own = (PACKAGE / "model" / "job.py").read_text()

    def read(key: str) -> bool:
        name = rf"\[\"{re.escape(key)}\"\]"
        return bool(re.search(rf"\bjob{name}", source) or re.search(rf"\bself\.values{name}", own))

    assert [key for key in ("solver.nothing", "run.seeds") if read(key)] == []
    assert not [key for key in KEYS if not read(key)]


def test_every_word_has_its_class():
    def of(key: str) -> set[str]:
        return set(KEYS[key].words) - {"auto"}

    assert set(KINDS) == of("network.kind")
    assert {*INTEGRATORS, "exponential"} == of("solver.integrator")
    assert set(LOSSES) == of("solver.loss")
    wanted = {"projection": {}, "tdvp": {"sampling__exact": False}, "exponential": {"solver__scheme": "tdvp"}}
    for name, keys in wanted.items():
        scheme = evolution_of(job_of("closed", 0.1, **{"solver__scheme": name, **keys})).scheme
        assert type(scheme).__name__.lower() == name


def test_a_model_file_is_a_job_with_defaults(tmp_path):
    write(tmp_path, GOOD)
    job = load_job(tmp_path / "toggle.toml", overrides={"time.end": 3})
    assert job.report_times.tolist() == pytest.approx(np.linspace(0, 3, 11).tolist()) and job.name == "toggle"
    with pytest.raises(InputError, match=r"time\.end.*missing"):
        load_job(tmp_path / "toggle.toml")
    assert load_job(tmp_path / "toggle.toml", need_end=False)["time.end"] is None


def test_report_times_always_hold_start_and_end(tmp_path):
    def times(report, end=1.0):
        return load_job({"model": model("driven"), "time": {"end": end, "report": report}}).report_times.tolist()

    assert times([0.3, 0.1, 0.3]) == [0.0, 0.1, 0.3, 1.0]
    assert times({"every": 0.4}) == [0.0, 0.4, 0.8, 1.0]
    assert times({"every": 0.1}, 0.3)[-2:] == [0.2, 0.3]  # 3 * 0.1 is not 0.3 in floating point
    assert times({"every": 5.0}) == [0.0, 1.0]


def test_identity_ignores_what_may_change_between_parts_of_a_run():
    job = load_job({"model": model("driven"), "time": {"end": 1.0}})
    same = load_job({"model": model("driven"), "time": {"end": 1.0}, "output": {"checkpoint_steps": 7, "dir": "x"}})
    other = load_job({"model": model("driven"), "time": {"end": 1.0}, "solver": {"epochs": 21}})
    assert job.hash == same.hash != other.hash


def test_overrides_are_read_as_toml_or_bare_words():
    assert parse_override("solver.epochs = 50") == ("solver.epochs", 50)
    assert parse_override("network.kind=made") == ("network.kind", "made")
    assert parse_override("time.report=[1, 2.5]") == ("time.report", [1, 2.5])
    for wrong in ("solver.epochs", "=3"):
        with pytest.raises(InputError, match="key=value"):
            parse_override(wrong)


WRONG = [
    ('model = "toggle.toml"\n', ["time.end", "missing"]),
    ("[time]\nend = 1\n", ["model", "missing"]),
    ('model = "togle.toml"\n[time]\nend = 1\n', ["togle.toml", "no"]),
    ("model = 3\n[time]\nend = 1\n", ["model = 3", "path"]),
    (GOOD + "[solvr]\nepochs = 1\n", ['"solvr"', 'mean "solver"']),
    (GOOD + "[solver]\nepoch = 1\n", ['"solver.epoch"', 'mean "solver.epochs"']),
    (GOOD + "[solver]\nepochs = 0\n", ["solver.epochs = 0", "1 to 1e+06"]),
    (GOOD + "[solver]\nepochs = 2.5\n", ["solver.epochs = 2.5", "integer"]),
    (GOOD + "[solver]\nepochs = true\n", ["solver.epochs = True", "integer"]),
    (GOOD + "[solver]\nlearning_rate = nan\n", ["solver.learning_rate", "number"]),
    (GOOD + '[solver]\nloss = "KL"\n', ["solver.loss = 'KL'", '"hellinger"']),
    (GOOD + '[solver]\nloss = "helinger"\n', ['mean "hellinger"']),
    (GOOD + '[solver]\ndt = "fast"\n', ["solver.dt = 'fast'", '"auto"']),
    (GOOD + "[solver]\ndt = 0\n", ["solver.dt = 0", "> 0"]),
    (GOOD + '[network]\nkind = "transfomer"\n', ["network.kind", '"gru"', '"made"', 'mean "transformer"']),
    (GOOD + '[network]\nkind = "basis"\ndepth = 2\n',
     ["network.depth = 2", '"transformer" and "nade" only', "Leave it out"]),
    (GOOD + '[network]\norder = ["Gx", "Gy", "Px"]\n', ["network.order", "every species once"]),
    (GOOD + '[network]\norder = "random"\n', ["network.order", '"auto"']),
    (GOOD + "[sampling]\nsamples = 10\nshards = 8\n", ["sampling.samples = 10", "sampling.shards = 8"]),
    (GOOD + '[sampling]\ntail = 0.2\n[solver]\nscheme = "projection"\nloss = "l2"\n',
     ["sampling.tail = 0.2", '"kl" only']),
    (GOOD + '[solver]\nscheme = "project"\n', ["solver.scheme = 'project'", '"tdvp"', 'mean "projection"']),
    (GOOD + "[solver]\ntolerance = 0\n", ["solver.tolerance = 0", "1e-09 to 1"]),
    (GOOD + '[solver]\nintegrator = "ros"\n', ["solver.integrator = 'ros'", '"implicit"', 'mean "ros2"']),
    (GOOD + "[sampling]\nexact = 1\n", ["sampling.exact = 1", 'true, false or "auto"']),
    (GOOD + '[sampling]\nsamples = "many"\n', ["sampling.samples = 'many'", "integer", 'or "auto"']),
    (GOOD + "[sampling]\ntail = 0.2\ncover = 0.8\n", ["sampling.cover = 0.8", "at most 0.9"]),
    (GOOD + "[sampling]\ncover = 1.0\n", ["sampling.cover = 1.0", "0 to 0.9"]),
    (GOOD.replace("seed = 7", "seed = -1"), ["run.seed = -1"]),
    (GOOD.replace("seed = 7", "deterministic = 1"), ["run.deterministic = 1", "true or false"]),
    (GOOD.replace("seed = 7", 'device = "gpu"'), ["run.device = 'gpu'", '"cuda"']),
    (GOOD.replace("end = 2.0", "end = -2.0"), ["time.end = -2.0"]),
    (GOOD.replace("end = 2.0", "end = 0"), ["time.end", "> 0"]),
    (GOOD.replace("{every = 0.5}", "{every = -1}"), ["time.report", "every"]),
    (GOOD.replace("{every = 0.5}", "{each = 1}"), ["time.report", "every"]),
    (GOOD.replace("{every = 0.5}", "[1, 3.0]"), ["time.report", "3.0", "0 to end"]),
    (GOOD.replace("{every = 0.5}", "5"), ["time.report = 5", "every"]),
    (GOOD.replace("{every = 0.5}", "{every = 1e-9}"), ["time.report", "100000"]),
    (GOOD.replace("b = 0.1", "bb = 0.1"), ["bb", 'mean "b"']),
    (GOOD.replace("b = 0.1", "b = -0.1"), ["-0.1"]),
    ("parameters = 3\n" + GOOD.replace("[parameters]\nb = 0.1\n", ""), ["parameters = 3", "table"]),
    (GOOD + '[output]\ndir = ""\n', ["output.dir", "text"]),
    ("model = \n", ["not valid TOML"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_wrong_jobs_are_refused_with_the_fix(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        load_job(write(tmp_path, text))
    for word in words:
        assert word in str(caught.value)
    assert caught.value.exit_code == 65


def test_files_that_are_no_jobs(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_job(tmp_path / "absent.toml")
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(InputError, match=r"must end in \.toml"):
        load_job(tmp_path / "job.json")
    (tmp_path / "bin.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        load_job(tmp_path / "bin.toml")


def test_a_file_that_cannot_be_read_is_told_with_the_fix(tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(InputError, match=r'jop\.toml: there is no such file\. Fix: .* Did you mean "job\.toml"\?'):
        load_job(tmp_path / "jop.toml")
    with pytest.raises(InputError, match=r"there is no such file\. Fix: [^?]*$"):  # nothing has a name like that
        load_job(tmp_path / "nowhere" / "x.toml")
    with pytest.raises(InputError, match=r'must end in \.toml.*Did you mean "job\.toml"\?'):
        (tmp_path / "job.txt").write_text(GOOD)
        load_job(tmp_path / "job.txt")
    with pytest.raises(InputError, match=r"is a folder\. Fix:"):
        load_job(tmp_path)
    with pytest.raises(InputError, match=r"not UTF-8 text \(byte 2\)\. Fix:"):
        (tmp_path / "latin.toml").write_bytes(b"# \xb5 \xe9")
        load_job(tmp_path / "latin.toml")
    with pytest.raises(InputError, match=r"not valid TOML: .* line 1.* Fix:"):
        (tmp_path / "half.toml").write_text("[time\n")
        load_job(tmp_path / "half.toml")
