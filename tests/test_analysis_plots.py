"""Figures: written whole, readable (no text upon text), showing the numbers of the run."""

from __future__ import annotations

import builtins
import itertools

import numpy as np
import pytest
from analysis_fakes import STATES, TIMES, certificate, exact_run, means, network_run, product_law, trajectory_run
from analysis_fakes import identity as fake_identity
from store_fakes import QUICK, identity, make_report

from hpcme.analysis import plots, plots_error, plots_modes
from hpcme.analysis.compare import compare
from hpcme.errors import InputError, OutputError
from hpcme.model.reader import load_model_text
from hpcme.store.reader import open_run
from hpcme.store.reference import write_ssa_run
from hpcme.store.writer import RunWriter

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "network": network_run(folder / "network", [product_law(1.1 * means(t)) for t in TIMES]),
        "fsp": exact_run(folder / "fsp"),
        "ssa": trajectory_run(folder / "ssa"),
        "many": _many(folder / "many"),
        "wide": _wide(folder / "wide"),
        "two": network_run(folder / "two", TWO, extra=[certificate(b) for b in (0.01, 0.02, 0.2)], series=SERIES),
    }


#: Laws with two modes; steps of which the second was undone.
TWO = [w * product_law((2.0, 14.0)) + (1 - w) * product_law((16.0, 2.0)) for w in (0.9, 0.5, 0.2)]
SERIES = [
    {"dt": dt, "residual": 1e-3 * dt, "loss": -dt, "ess": 900.0, "wall": 0.5, "fault": fault}
    for dt, fault in ((0.1, 0), (0.4, 1), (0.2, 0))
]


def _wide(folder, species=8, number=300):
    """Trajectories of eight species with long names."""
    names = [f"Phosphorylated_{i}" for i in range(species)]
    rates = "".join(f'[[reactions]]\nequation = "0 -> {name}"\nrate = 3.0\n' for name in names)
    species_text = "".join(f"{name} = {{ initial = 0, max = 19 }}\n" for name in names)
    net = load_model_text(f'[model]\nname = "wide"\n[species]\n{species_text}{rates}')
    samples = np.random.default_rng(0).poisson(3.0, (1, number, species)).clip(max=19).astype(np.int32)
    facts = fake_identity(net, kind="ssa", report_times=[1.0])
    return open_run(write_ssa_run(folder, facts, [1.0], samples, np.ones(number, dtype=np.int64)))


def _many(folder, species=15):
    """A run of 15 species with long names, stopped."""
    names = [f"Phosphorylated_{i}" for i in range(species)]
    with RunWriter.create(folder, identity(species=names, limits=[7] * species), **QUICK) as writer:
        for index in range(30):
            report = make_report(index, network=False)
            values = 3 + np.sin(index / 5 + np.arange(species))
            report.mean, report.mean_se, report.sd_se = values, values / 50, values / 50
            report.covariance, report.covariance_se = np.eye(species), np.eye(species) / 50
            report.samples = None
            report.marginals = [np.exp(-((np.arange(8) - m) ** 2)) for m in values]
            report.marginals_se = [np.zeros(8)] * species
            writer.commit(index, None, report)
        writer.finish("stopped")
    return open_run(folder)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved during a test."""
    saved = []
    real = plots.save_figure
    for module in (plots, plots_error, plots_modes):
        monkeypatch.setattr(module, "save_figure", lambda figure, out: saved.append(figure) or real(figure, out))
    return saved


def texts_of(figure, monkeypatch):
    """All texts that are really drawn, with their boxes in pixels."""
    import matplotlib.text

    drawn = []
    real = matplotlib.text.Text.draw

    def record(text, renderer, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            drawn.append(text)
        return real(text, renderer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(matplotlib.text.Text, "draw", record)
        figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    return [(text.get_text(), text.get_window_extent(renderer)) for text in dict.fromkeys(drawn)]


DRAW = {
    "time courses": lambda runs, out: plots.plot_time_courses(runs["network"], out, reference=runs["fsp"]),
    "marginals": lambda runs, out: plots.plot_marginals(
        runs["network"], out, times=[0.5, 1, 2], reference=runs["fsp"]
    ),
    "one marginal": lambda runs, out: plots.plot_marginals(runs["ssa"], out, ["Y"]),
    "heat": lambda runs, out: plots.plot_heat(runs["fsp"], out, "X"),
    "joint": lambda runs, out: plots.plot_joint(runs["network"], out, ["X", "Y"], 1.0, samples=2000),
    "heat of all": lambda runs, out: plots.plot_heat(runs["network"], out),
    "heat of many species": lambda runs, out: plots.plot_heat(runs["many"], out),
    "corner": lambda runs, out: plots_modes.plot_corner(runs["fsp"], out),
    "corner of many species": lambda runs, out: plots_modes.plot_corner(runs["wide"], out),
    "modes": lambda runs, out: plots_modes.plot_modes(runs["two"], out, smooth=1.0),
    "modes of one species": lambda runs, out: plots_modes.plot_modes(runs["two"], out, ["X"], smooth=1.0),
    "convergence": lambda runs, out: plots_error.plot_convergence(runs["two"], out),
    "certificate": lambda runs, out: plots_error.plot_certificate(
        runs["two"], out, compare(runs["two"], runs["fsp"], samples=500)
    ),
    "certificate of a measured distance alone": lambda runs, out: plots_error.plot_certificate(
        runs["network"], out, compare(runs["network"], runs["fsp"])
    ),
    "overview": lambda runs, out: plots.plot_overview(runs["network"], out, reference=runs["fsp"]),
    "overview of trajectories": lambda runs, out: plots.plot_overview(runs["ssa"], out),
    "overview of many species": lambda runs, out: plots.plot_overview(runs["many"], out),
    "time courses of many species": lambda runs, out: plots.plot_time_courses(runs["many"], out),
    "marginals of many species": lambda runs, out: plots.plot_marginals(runs["many"], out),
}


@pytest.mark.parametrize("name", DRAW)
def test_no_text_lies_upon_text_or_outside(runs, figures, tmp_path, monkeypatch, name):
    out = DRAW[name](runs, tmp_path / "figure.png")
    assert out == tmp_path / "figure.png" and out.read_bytes()[:4] == b"\x89PNG"
    boxes = texts_of(figures[0], monkeypatch)
    assert len(boxes) > 5
    width, height = figures[0].canvas.get_width_height()
    for text, box in boxes:
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, (
            f"{text} is cut off"
        )
    for (first, a), (second, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{first!r} lies upon {second!r}"


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_file_types(runs, tmp_path, suffix, magic):
    assert plots.plot_heat(runs["fsp"], tmp_path / f"a{suffix}", "Y").read_bytes().startswith(magic)


def test_the_numbers_drawn_are_those_of_the_run(runs, figures, tmp_path):
    plots.plot_overview(runs["network"], tmp_path / "a.png", reference=runs["fsp"])
    course, first, second = figures[0].axes
    np.testing.assert_allclose(course.lines[0].get_ydata(), runs["network"].mean[:, 0])
    dashed = [line for line in course.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
    np.testing.assert_allclose(dashed[0].get_ydata(), runs["fsp"].mean[:, 0])
    np.testing.assert_allclose(first.lines[0].get_ydata(), runs["network"].marginal("X", 2.0))
    np.testing.assert_allclose(first.lines[1].get_ydata(), runs["fsp"].marginal("X", 2.0))
    assert first.lines[1].get_linestyle() == "--" and second.get_xlabel() == "Y (molecules)"
    assert (
        course.get_xlabel() == "time (model time unit)" and course.get_ylabel() == "mean and sd (molecules)"
    )
    assert {line.get_color() for line in course.lines} <= {*plots.OKABE_ITO, "black"}


def test_the_numbers_of_modes_and_errors_are_those_of_the_run(runs, figures, tmp_path):
    plots_modes.plot_modes(runs["two"], tmp_path / "a.png", smooth=1.0)
    weights, *laws = (axis for axis in figures[0].axes if axis.get_label() != "<colorbar>")
    assert [axis.get_title() for axis in laws] == ["t = 1", "t = 2"]
    inside = STATES[:, 0] > STATES[:, 1]  # the basin of (16, 2), nearly
    for k, law in enumerate(TWO):
        assert weights.lines[0].get_ydata()[k] == pytest.approx(law[inside].sum() / law.sum(), abs=0.01)
    assert weights.get_ylim()[0] < 0 and weights.get_ylabel() == "weight (probability)"
    plots_error.plot_certificate(runs["two"], tmp_path / "b.png", compare(runs["two"], runs["fsp"]))
    lines = {text.get_text(): line for text, line in zip(
        figures[1].axes[0].get_legend().get_texts(), figures[1].axes[0].lines, strict=True)}  # fmt: skip
    np.testing.assert_allclose(lines["certified bound"].get_ydata(), [0.01, 0.02, 0.2])
    np.testing.assert_allclose(lines["of it: projection"].get_ydata(), [0.002, 0.004, 0.04])
    right = [0.5 * np.abs(law / law.sum() - product_law(means(t))).sum() for law, t in zip(TWO, TIMES, strict=True)]
    np.testing.assert_allclose(lines["measured distance"].get_ydata(), right, atol=1e-6)
    plots_error.plot_convergence(runs["two"], tmp_path / "c.png")
    first = figures[2].axes[0]
    assert first.get_yscale() == "log" and first.lines[0].get_ydata().tolist() == [0.1, 0.2]
    assert first.lines[1].get_ydata().tolist() == [0.4]  # the step that was undone
    assert figures[2].axes[-1].lines[0].get_ydata().tolist() == [0.5, 1.5]  # wall-clock time adds up


def test_a_certain_start_does_not_eat_the_colours(runs, figures, tmp_path):
    laws = [np.where(STATES.sum(axis=1) == 0, 1.0, 1e-30), *(product_law(means(t)) for t in TIMES[1:])]
    run = network_run(tmp_path / "a", laws)
    plots.plot_heat(run, tmp_path / "a.png", "X")
    mesh = figures[0].axes[0].collections[0]
    assert mesh.norm.vmax == pytest.approx(max(run.marginal("X", t).max() for t in TIMES[1:]))
    assert mesh.get_array().max() == pytest.approx(1.0)


def test_hidden_species_are_announced(runs, figures, tmp_path):
    plots.plot_overview(runs["many"], tmp_path / "a.png")
    assert figures[0].get_suptitle() == f"{runs['many'].model().name}, network, status stopped, 6 of 15 species shown"
    assert len(figures[0].axes) == 7


def test_the_last_common_time_is_shown(runs, figures, tmp_path):
    early = exact_run(tmp_path / "early", times=np.array([0.5, 1.0]))
    plots.plot_overview(runs["network"], tmp_path / "a.png", reference=early)
    assert figures[0].axes[1].get_legend().get_texts()[0].get_text() == "t = 1"
    with pytest.raises(InputError, match="no report time in common"):
        plots.plot_overview(
            runs["network"], tmp_path / "a.png", exact_run(tmp_path / "no", times=np.array([9.0]))
        )


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda run, out: plots.plot_heat(run, out.with_suffix(".gif"), "X"),
            r'"\.gif": figure\.gif must end in \.png',
        ),
        (lambda run, out: plots.plot_heat(run, out, "Z"), 'no species "Z"'),
        (lambda run, out: plots.plot_marginals(run, out, ["X"], [0.5] * 5), "5 times were given"),
        (lambda run, out: plots.plot_marginals(run, out, []), "no species to show"),
        (lambda run, out: plots.plot_joint(run, out, ["X"]), "needs two species"),
        (lambda run, out: plots.plot_joint(run, out, ["X", "X"]), "two different species"),
        (lambda run, out: plots_modes.plot_corner(run, out, ["X"]), "2 to 6 different species"),
        (lambda run, out: plots_modes.plot_modes(run, out, ["X", "Z"]), 'no species "Z"'),
        (lambda run, out: plots_error.plot_convergence(run, out), "no series of steps"),
        (lambda run, out: plots_error.plot_certificate(run, out), "no certified bound"),
        (lambda run, out: plots.plot_joint(run, out, "XY"), "needs two species"),
    ],
)
def test_figures_that_are_refused(runs, tmp_path, draw, message):
    with pytest.raises(InputError, match=message):
        draw(runs["fsp"], tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_cannot_be_written(runs, tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        plots.plot_heat(runs["fsp"], tmp_path / "missing" / "a.png", "X")


def test_without_matplotlib_the_message_says_what_to_install(runs, tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"pip install"):
        plots.plot_overview(runs["fsp"], tmp_path / "a.png")


def test_a_single_time_has_a_heat_map(tmp_path):
    run = exact_run(tmp_path / "one", times=np.array([1.0]))
    assert plots.plot_heat(run, tmp_path / "a.png", "X").exists()
