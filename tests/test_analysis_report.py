"""The report: what a reader finds in it, that it needs nothing else, how it looks in a browser, and that it can be
followed to make the run again."""

from __future__ import annotations

import builtins
import html
import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from analysis_fakes import (
    STATES,
    TIMES,
    certificate,
    exact_run,
    means,
    network_run,
    product_law,
    trajectory_run,
)
from analysis_systems import solved
from cli_helpers import SWITCH, call, write_inputs

import hpcme
from hpcme.analysis.recipe import recipe_of
from hpcme.analysis.report import write_report
from hpcme.driver import identity
from hpcme.errors import InputError
from hpcme.model.job import load_job
from hpcme.store.reader import open_run

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(BROWSER is None, reason="there is no browser (Debian: apt-get install chromium)")
_VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Checks that tags are closed in order; collects headings, sentences, images and what the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found["id"]} if "id" in found else set()
        if tag == "img":
            self.images.append(found)
        self.links += [found[name] for name in ("src", "href") if name in found]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def toggle(tmp_path_factory):
    """The report of the toggle switch to t = 10, against the exact law."""
    return write_report(solved("toggle_switch"), tmp_path_factory.mktemp("report") / "toggle.html", "exact")


def test_a_reader_sees_modes_weights_errors_and_the_way_to_it(toggle):
    text = Reader(toggle.read_text(encoding="utf-8")).text
    found = re.search(r"joint law of Px and Py has four modes: at Px = (\d+), Py = (\d+) \((\d+\.\d) % of", text)
    assert sorted(map(int, found.groups()[:2]))[0] <= 2 and 44 <= max(map(int, found.groups()[:2])) <= 54
    assert 37 < float(found[3]) < 41 and re.search(r"two heaviest hold 7[5-9] % together", text)
    assert "Weights over time" in text and "mode: counts at its peak" not in text
    bound, measured, worst = map(float, re.search(
        r"total variation distance to the exact law is at most (0\.\d+)\..*Measured against the exact law: "
        r"(0\.\d+) at t = 10, at most (0\.\d+) \(t = \d+\)", text).groups())  # fmt: skip
    assert measured <= worst <= bound and worst < 0.02
    version = f"Version {hpcme.__version__} of hpcme, seed 0"
    for words in ("How to reproduce it", "hpcme run job.toml", version, "[model]"):
        assert words in text
    assert 'equation = "Gx -> Gx + Px"' in text


def test_the_page_needs_nothing_else(toggle):
    text = toggle.read_text(encoding="utf-8")
    page = Reader(text)
    assert len(page.images) >= 10 and all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert all(image["alt"] for image in page.images)
    assert all(link.startswith("data:") or link[1:] in page.ids for link in page.links)
    assert not re.search(r"<script|<link|@import|url\(|<iframe", text)
    assert "Content-Security-Policy" in text and "default-src 'none'" in text
    assert toggle.stat().st_size < 3_000_000


def test_what_it_says_can_be_followed_to_the_same_run(tmp_path):
    """model.toml and job.toml of the page make a job with the identity of the run, for a job with many settings."""
    write_inputs(tmp_path)
    job = tmp_path / "job.toml"
    job.write_text(job.read_text() + '[run]\nseed = 7\n[parameters]\n"on" = 1.5\n')
    run = hpcme.solve(job, out=tmp_path / "run")
    text = write_report(run, tmp_path / "a.html").read_text(encoding="utf-8")
    blocks = [html.unescape(block) for block in re.findall(r"<pre><code>(.*?)</code></pre>", text, re.S)]
    command, job_text, model_text = blocks
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "job.toml").write_text(job_text)
    (tmp_path / "again" / "model.toml").write_text(model_text)
    found, right = identity(load_job(tmp_path / "again" / "job.toml")), run.provenance
    assert found["job_hash"] == right["job_hash"] and found["model_hash"] == right["model_hash"]
    assert shlex.split(command) == ["hpcme", "run", "job.toml", "--out", "runs/run"]


def test_references_have_recipes_that_make_the_same_files(tmp_path, capsys, monkeypatch):
    (tmp_path / "switch.toml").write_text(SWITCH)
    monkeypatch.chdir(tmp_path)
    for kind, more in (("fsp", []), ("ssa", ["--trajectories", "50", "--seed", "3"])):
        assert call(capsys, kind, "switch.toml", "--end", 1, "--every", 0.5, "--out", kind, "--quiet", *more).code == 0
        with open_run(kind) as run:
            recipe, right = recipe_of(run), run.provenance
        (tmp_path / "job.toml").write_text(recipe.job)
        (tmp_path / "model.toml").write_text(recipe.model)
        words = shlex.split(recipe.command)
        assert words[:2] == ["hpcme", kind] and words[-2:] == ["--out", f"runs/{kind}"]
        assert call(capsys, *words[1:-1], f"{kind}-again", "--quiet").code == 0
        with open_run(f"{kind}-again") as again, open_run(kind) as run:
            assert again.provenance["job_hash"] == right["job_hash"]
            np.testing.assert_array_equal(again.mean, run.mean)


def test_the_command_and_its_reference_runs(tmp_path, capsys):
    exact_run(tmp_path / "exact").close()
    trajectory_run(tmp_path / "ssa").close()
    out = tmp_path / "a.html"
    words = ("--reference", tmp_path / "exact", "--out", out, "--json", "--quiet")
    found = call(capsys, "report", tmp_path / "ssa", *words)
    assert json.loads(found.out) == {"report": str(out), "bytes": out.stat().st_size}
    text = Reader(out.read_text()).text
    assert "4000 exact trajectories" in text and "largest distance of a marginal law" in text
    assert "dashed: exact" in text
    assert "one mode" in text and "Solver" not in text
    for words, message in (
        (["--out", tmp_path / "a.pdf"], 'a report is a .html file, not ".pdf"'),
        (["--species", "X", "Y", "X"], "one species or of two"),
        (["--out", tmp_path / "none" / "a.html"], "there is no folder"),
        (["--reference", tmp_path / "none"], "does not exist"),
    ):
        found = call(capsys, "report", tmp_path / "exact", *words, *([] if "--out" in words else ["--out", out]))
        assert found.code == 65 and message in found.err, found.err


@pytest.mark.parametrize("number", [1, 2])
def test_a_run_under_way_has_a_report(tmp_path, number):
    """Of one or two times, stopped; the page says so, and shows what there is."""
    laws = [np.where(STATES.sum(axis=1) == 0, 1.0, 0.0), product_law(means(1.0))][:number]
    run = network_run(tmp_path / "a", laws, TIMES[:number], status="stopped", extra=[certificate(1.0)] * number)
    text = Reader(write_report(run, tmp_path / "a.html").read_text()).text
    assert "the run is not finished (status stopped)" in text and f"to t = {TIMES[number - 1]:g}" in text
    assert "at most 1 at 99.9" in text or "a bound of 1 says nothing" in text


def test_names_are_text_and_never_markup(tmp_path):
    run = exact_run(tmp_path / "a")
    facts = run.provenance | {"note": "<script>alert(1)</script> & more"}
    type(run).provenance, before = property(lambda self: facts), type(run).provenance
    try:
        text = write_report(run, tmp_path / "a.html").read_text()
    finally:
        type(run).provenance = before
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    run = exact_run(tmp_path / "a")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match="pip install"):
        write_report(run, tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


LOOK = """<script>
addEventListener("load", () => {
  const page = document.getElementById("page").contentDocument, root = page.documentElement;
  const boxes = [...page.querySelectorAll("section, header, figure, p, li, .scroll, pre")].map(
    x => x.getBoundingClientRect());
  const images = [...page.images];
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify({
    width: root.clientWidth, needs: root.scrollWidth, height: root.scrollHeight,
    right: Math.max(...boxes.map(x => x.right)),
    loaded: images.filter(x => x.complete && x.naturalWidth > 0).length, images: images.length,
    narrowest: Math.min(...images.map(x => x.getBoundingClientRect().width)),
    columns: new Set(images.slice(0, 4).map(x => Math.round(x.getBoundingClientRect().left))).size,
    smallest: Math.min(...[...page.querySelectorAll("p, td, figcaption, li span, pre")].map(
      x => parseFloat(page.defaultView.getComputedStyle(x).fontSize))),
  });
  document.body.append(out);
});
</script>"""


def _browse(folder, *words):
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={folder}/profile", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--virtual-time-budget=20000", *words],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@browser
@pytest.mark.parametrize("width", [1280, 400])
def test_it_looks_right_in_a_browser(toggle, tmp_path, width):
    """Offline, nothing sticks out of the window, every figure is drawn and wide enough to be read; in a frame, since a
    window of a browser cannot be as narrow as a telephone."""
    source = html.escape(toggle.read_text(encoding="utf-8"))
    frame = f'<iframe id="page" style="border:0" width="{width}" height="3000" srcdoc="{source}"></iframe>'
    (tmp_path / "look.html").write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">{frame}{LOOK}', encoding="utf-8"
    )
    dom = _browse(tmp_path, "--window-size=1300,3000", "--dump-dom", f"file://{tmp_path}/look.html")
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.S)[1]))
    assert found["width"] == width and found["needs"] <= width and found["right"] <= width + 1
    assert found["loaded"] == found["images"] >= 10
    assert found["columns"] == (2 if width > 760 else 1)
    assert found["narrowest"] >= 0.8 * width / found["columns"] * (1 if width < 760 else 0.9)
    assert found["smallest"] >= 13.0


@browser
def test_a_screenshot_shows_figures_in_colour(toggle, tmp_path):
    _browse(tmp_path, "--window-size=1280,2400", f"--screenshot={tmp_path}/shot.png", f"file://{toggle}")
    image = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)
    assert image.shape[1] == 1280
    background = (np.abs(image - [0xF4, 0xF5, 0xF7]).sum(axis=2) < 12).mean()
    white, blue = (image.min(axis=2) > 250).mean(), (np.abs(image - [0x12, 0x32, 0x4F]).sum(axis=2) < 12).mean()
    assert 0.02 < background < 0.6 and white > 0.2 and blue > 0.02
    cividis = np.abs(image - [0, 48, 111]).sum(axis=2) < 60  # the dark end of the maps
    assert cividis.mean() > 0.01
