"""Maps of a scan from its merged file: the right numbers at the right places, and what is missing is told."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from analysis_fakes import certificate, network_run
from scipy.stats import poisson

from hpcme.analysis import plots_scan
from hpcme.analysis.plots_scan import is_merged, plot_scan, scan_map
from hpcme.cli.main import main
from hpcme.errors import InputError
from hpcme.model.reader import load_model_text
from hpcme.store.merged import Cell, Content, MergedAxis, write_merged

pytest.importorskip("matplotlib")

MODEL = """[model]
name = "bd"
time_unit = "h"
[parameters]
k = 1.0
d = 1.0
[species]
X = { initial = 0, max = 40 }
[[reactions]]
equation = "0 -> X"
rate = "k"
[[reactions]]
equation = "X -> 0"
rate = "d"
"""


TIMES = np.array([0.5, 1.0])
STATES = np.arange(41, dtype=np.int32)[:, None]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A merged scan of birth and death, whose laws are known (Poisson); the last of its 12 tasks is missing."""
    folder = tmp_path_factory.mktemp("scan")
    k, d, width = np.array([0.5, 2.0, 8.0]), np.array([0.5, 1.0]), np.array([2, 3])
    cells = []
    for number, (a, b, _) in enumerate(np.ndindex(3, 2, 2), 1):
        net = load_model_text(MODEL).with_parameters({"k": k[a], "d": d[b]})
        laws = [poisson.pmf(STATES[:, 0], mean(k[a], d[b], t)) for t in TIMES]
        extra = [certificate(0.01 * number * t) for t in TIMES]
        place = folder / f"task-{number:04d}"
        network_run(place, laws, TIMES, net, STATES, extra=extra).close()
        cells.append(Cell(number, place, "done" if number < 12 else "killed", "", net.hash, "j"))
    axes = [MergedAxis(name, name, scale, {}) for name, scale in (("k", k), ("d", d), ("network_width", width))]
    write_merged(folder / "merged.h5", Content(axes, cells, ["X"], [40], TIMES, "h", {}))
    return folder / "merged.h5"


def mean(k, d, t):
    return k / d * (1.0 - np.exp(-d * t))


def test_numbers_are_at_their_places(path):
    shown = scan_map(path, "mean", "X", 0.5)
    assert shown.names == ["k", "d"] and shown.values.shape == (3, 2) and shown.missing == 0
    np.testing.assert_allclose(shown.scales[0], [0.5, 2.0, 8.0])
    right = [[mean(k, d, 0.5) for d in (0.5, 1.0)] for k in (0.5, 2.0, 8.0)]
    np.testing.assert_allclose(shown.values, right, rtol=1e-6)
    assert shown.what == "mean of X (molecules)" and shown.fixed["network_width"] == 2 and shown.fixed["t"] == 0.5
    line = scan_map(path, "fano", at={"d": "1", "network_width": "2"})
    assert line.names == ["k"] and line.fixed["t"] == 1.0
    np.testing.assert_allclose(line.values, 1.0, rtol=1e-3)  # Poisson, but for the wall at 40
    bound = scan_map(path, "bound", at={"k": "8", "d": "0.5"})
    np.testing.assert_allclose(bound.values, [0.09, 0.10])
    with h5py.File(path) as file:
        np.testing.assert_array_equal(bound.values, file["extra_bound"][2, 0, :, -1])


def test_missing_tasks_are_counted_and_drawn(path, tmp_path, monkeypatch):
    shown = scan_map(path, "mean", at={"network_width": "3"})
    assert shown.missing == 1 and np.isnan(shown.values[2, 1]) and np.isfinite(shown.values).sum() == 5
    saved = []
    monkeypatch.setattr(plots_scan, "save_figure", lambda figure, out: saved.append(figure) or out)
    plot_scan(path, tmp_path / "a.png", shown)
    axis = saved[0].axes[0]
    assert axis.get_xlabel() == "k" and axis.get_ylabel() == "d" and "1 tasks missing" in saved[0].get_suptitle()
    assert axis.collections[0].get_array().mask.sum() == 1 and axis.patch.get_hatch() == "//"
    assert saved[0].axes[1].get_ylabel() == "mean of X (molecules)" and "t = 1 h" in saved[0].get_suptitle()


def test_the_command_knows_a_merged_file(path, tmp_path, capsys):
    assert is_merged(path) and not is_merged(path.parent / "task-0001" / "results.h5") and not is_merged(tmp_path)
    out = tmp_path / "a.png"
    words = ["--quantity", "sd", "--species", "X", "--at", "d=0.5", "network_width=3", "--out", str(out)]
    assert main(["plot", str(path), *words]) == 0 and out.read_bytes()[:4] == b"\x89PNG"
    assert main(["plot", str(path), "--kind", "time", "--out", str(out)]) == 65
    assert "merged file of a scan" in capsys.readouterr().err
    assert main(["plot", str(path.parent / "task-0001"), "--kind", "scan"]) == 65
    assert "which is a run" in capsys.readouterr().err
    assert main(["plot", str(path), "--at", "d"]) == 65 and "AXIS=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantity": "meen"}, 'no quantity "meen".*Did you mean "mean"'),
        ({"species": "Y"}, 'no species "Y" in this scan: it has X'),
        ({"quantity": "bound", "species": "X"}, "leave --species out"),
        ({"time": 0.7}, r"time 0\.7 is not stored.*nearest are"),
        ({"at": {"kk": "1"}}, 'no axis "kk": it has k, d, network_width.*Did you mean "k"'),
        ({"at": {"k": "3"}}, "axis k has no value 3: it has 0.5, 2, 8"),
        ({"at": {"k": "2", "d": "1", "network_width": "2"}}, "all axes of the scan are fixed"),
    ],
)
def test_what_is_not_there_is_told(path, settings, message):
    with pytest.raises(InputError, match=message):
        scan_map(path, **settings)
