"""The figures of jobs/reproduce.py: every system's means and marginals, and what is special about three of them.

Colours are those of hpcme.analysis.plots, readable by colour-blind people; what a run is compared with is dashed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpcme.analysis.laws import law_of
from hpcme.analysis.plots import OKABE_ITO, draw_marginals, new_figure, save_figure
from hpcme.kernels.neighbours import outflow

#: Species whose means share an axis, by system. D and L of early_life have one law, as have both sides of the switch.
MEANS = {
    "birth_death": [["X"]],
    "gene_expression": [["r"], ["p"]],
    "autoregulation": [["G"], ["P"]],
    "toggle_switch": [["Gx"], ["Px"]],
    "early_life": [["A"], ["D"]],
    "epidemic": [["S", "I", "R"]],
}
MARGINALS = {
    "birth_death": ["X"],
    "gene_expression": ["r", "p"],
    "autoregulation": ["P"],
    "toggle_switch": ["Px"],
    "early_life": ["A", "D"],
    "epidemic": ["S", "I"],
}
_CASCADE_MEANS, _CASCADE_MARGINALS = ["X1", "X2", "X4", "X8", "X12", "X15"], ["X1", "X8", "X15"]
_TIMES = 3  # marginals in one panel
_DRAWN = 200_000  # samples behind a correlation matrix

Found = list[tuple[Any, Any, Any]]  # case, run, reference


def draw_system(system: str, found: Found, folder: Path) -> Iterator[Path]:
    """Draw all figures of a system into a folder, one by one. Raises InputError (no matplotlib), OutputError."""
    yield means(system, found, folder / f"{system}_means.png")
    yield marginals(system, found, folder / f"{system}_marginals.png")
    if system == "toggle_switch":
        yield joint(found[0], ("Px", "Py"), folder / "toggle_switch_joint.png")
    elif system == "epidemic":
        yield forcing(found, folder / "epidemic_forcing.png")
    elif system in ("cascade_hill", "cascade_feedback"):
        yield correlations(found[0], folder / f"{system}_correlations.png")


def means(system: str, found: Found, out: Path) -> Path:
    """Means and standard deviations over time: a column for every variant. Cascades, whose bars would hide each other,
    have them in a panel of their own."""
    cascade = system not in MEANS
    groups = 2 * [_CASCADE_MEANS] if cascade else MEANS[system]
    figure = new_figure(max(4.4, 2.05 * len(found) + 0.9), 1.8 * len(groups) + 0.9)
    grid = figure.subplots(len(groups), len(found), squeeze=False, sharex="col")
    for line, species in enumerate(groups):
        for column, (case, run, reference) in enumerate(found):
            axis = grid[line, column]
            for colour, name in zip(OKABE_ITO, species, strict=False):
                if cascade:
                    _curve(axis, run, reference, ("mean", "sd")[line], name, colour)
                else:
                    _time_course(axis, run, reference, name, colour)
            axis.margins(x=0.04)
            if line == 0:
                axis.set_title(case.variant, fontsize="medium")
            if line == len(groups) - 1:
                axis.set_xlabel(f"time ({run.time_unit})")
            if column == 0:
                axis.set_ylabel(f"{('mean', 'sd')[line] if cascade else ', '.join(species)} (molecules)")
            if column == len(found) - 1 and line == 0 and len(species) > 1:
                axis.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    marks = "(marks)" if cascade else "(marks, bars)"
    return _titled(figure, f"{system}\nmean and sd of the network {marks}, {_of(found)} (lines)", out)


def _curve(axis, run, reference, moment: str, name: str, colour: str) -> None:
    """One moment ("mean" or "sd") of one species, the network as marks, the reference as a line."""
    i, j = run.species_index(name), reference.species_index(name)
    axis.plot(run.times, getattr(run, moment)[:, i], color=colour, marker="o", markersize=3.5, ls="", label=name)
    axis.plot(reference.times, getattr(reference, moment)[:, j], color=colour, linestyle="--", linewidth=1.0)


def _time_course(axis, run, reference, name: str, colour: str) -> None:
    """One species: the network at its report times, the reference as lines."""
    i, j = run.species_index(name), reference.species_index(name)
    axis.errorbar(
        run.times, run.mean[:, i], run.sd[:, i], color=colour, fmt="o", markersize=3.5, elinewidth=1.2, label=name
    )
    for sign, width in ((0.0, 1.2), (1.0, 0.7), (-1.0, 0.7)):
        line = reference.mean[:, j] + sign * reference.sd[:, j]
        axis.plot(reference.times, line, color=colour if sign else "black", linestyle="--", linewidth=width)


def marginals(system: str, found: Found, out: Path) -> Path:
    """Marginal laws at up to three times: columns are variants, in cascades species."""
    cascade = system not in MARGINALS
    species = _CASCADE_MARGINALS if cascade else MARGINALS[system]
    lines, columns = (len(found), len(species)) if cascade else (len(species), len(found))
    figure = new_figure(max(4.4, 2.3 * columns + 1.2), 1.9 * lines + 0.7)
    grid = figure.subplots(lines, columns, squeeze=False)
    for j, (case, run, reference) in enumerate(found):
        rows = np.unique(np.linspace(1, len(run.times) - 1, _TIMES).round().astype(int)).tolist()
        for k, name in enumerate(species):
            axis = grid[j, k] if cascade else grid[k, j]
            draw_marginals(axis, run, run.species_index(name), rows, reference)
            axis.set_title(case.variant if k == 0 else "", fontsize="medium")
            axis.get_legend().remove()
            axis.set_ylabel("probability" if axis in grid[:, 0] else "")
    handles, labels = grid[0, -1].get_legend_handles_labels()
    last = sorted(range(len(labels)), key=lambda i: not labels[i].startswith("t = "))  # times, then the reference
    grid[0, -1].legend(
        [handles[i] for i in last], [labels[i] for i in last], frameon=False, fontsize="small", loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )  # fmt: skip
    return _titled(figure, f"{system}\nnetwork (colours) and {_of(found)} (dashed)", out)


def _of(found: Found) -> str:
    """What the runs are compared with, in words."""
    return "trajectories" if found[0][0].reference == "ssa" else "exact law"


def joint(one: tuple[Any, Any, Any], species: tuple[str, str], out: Path) -> Path:
    """Joint law of two species, network, exact, and their difference, halfway into the run and at its end."""
    from matplotlib.colors import PowerNorm

    case, run, exact = one
    states = exact.fsp_states().astype(np.int64)
    i, j = (run.species_index(name) for name in species)
    rows = [(len(run.times) - 1) // 2, len(run.times) - 1]
    figure = new_figure(7.8, 2.3 * len(rows) + 0.6)
    for axes, k in zip(figure.subplots(len(rows), 3, squeeze=False, sharex=True, sharey=True), rows, strict=True):
        t = float(run.times[k])
        tables = []
        for p in (np.exp(law_of(run, t).log_prob(states)), exact.probability(t)):
            table = np.zeros((run.limits[i] + 1, run.limits[j] + 1))
            np.add.at(table, (states[:, i], states[:, j]), p)
            tables.append(table.T)
        top = max(table.max() for table in tables)
        for axis, table, name in zip(axes, tables, ("network", "exact"), strict=False):
            mesh = axis.pcolormesh(table, cmap="cividis", norm=PowerNorm(0.4, 0.0, top), rasterized=True)
            axis.set_title(f"{name}, t = {t:g}", fontsize="medium")
        figure.colorbar(mesh, ax=axes[:2], label="probability")
        far = np.abs(tables[0] - tables[1]).max()
        mesh = axes[2].pcolormesh(tables[0] - tables[1], cmap="PuOr", vmin=-far, vmax=far, rasterized=True)
        axes[2].set_title("network - exact", fontsize="medium")
        bar = figure.colorbar(mesh, ax=axes[2], label="difference")
        bar.formatter.set_powerlimits((0, 0))
        axes[0].set_ylabel(f"{species[1]} (molecules)")
        for axis in axes if k == rows[-1] else ():
            axis.set_xlabel(f"{species[0]} (molecules)")
    return _titled(figure, f"{case.system}, {case.variant}", out)


def forcing(found: Found, out: Path) -> Path:
    """The infection rate over time above the mean number of infected, for every strength of the season."""
    figure = new_figure(6.0, 4.6)
    above, below = figure.subplots(2, 1, sharex=True)
    for colour, (case, run, exact) in zip(OKABE_ITO, found, strict=False):
        net = run.model()
        k = next(k for k, reaction in enumerate(net.reactions) if dict(reaction.reactants) == {"S": 1, "I": 1})
        pair = np.array([[int(name in ("S", "I")) for name in net.species]], dtype=np.int32)
        t = np.linspace(0.0, float(run.times[-1]), 400)
        rate = [outflow(net.tables, pair, net.s, net.limits, float(x))[0][0, k] for x in t]
        above.plot(t, rate, color=colour, linewidth=1.4, label=case.variant)
        i = run.species_index("I")
        below.plot(exact.times, exact.mean[:, i], color=colour, linewidth=1.2, linestyle="--")
        below.errorbar(
            run.times, run.mean[:, i], 2.0 * run.mean_se[:, i], color=colour, fmt="o", markersize=3.5, capsize=1.5
        )
    below.plot([], [], color="black", linestyle="none", marker="o", markersize=3.5, label="network")
    below.plot([], [], color="black", linestyle="--", linewidth=1.2, label="exact")
    above.set_ylabel(f"infections per pair of S and I\n(per {found[0][1].time_unit})")
    below.set_ylabel("mean of I (molecules)")
    below.set_xlabel(f"time ({found[0][1].time_unit})")
    for axis in (above, below):
        axis.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return _titled(figure, "epidemic with a season", out)


def correlations(one: tuple[Any, Any, Any], out: Path) -> Path:
    """Correlation matrices at the end, network and trajectories, and their difference; the diagonal is left out."""
    _, run, ssa = one
    t = float(run.times[-1])
    matrices = [_correlation(n) for n in (law_of(run, t).sample(_DRAWN, seed=1), ssa.samples(t))]
    matrices.append(matrices[0] - matrices[1])
    off = ~np.eye(run.S, dtype=bool)
    top = max(np.abs(matrix[off]).max() for matrix in matrices)
    figure = new_figure(10.0, 3.6)
    axes = figure.subplots(1, 3, sharey=True)
    for axis, matrix, name in zip(axes, matrices, ("network", "trajectories", "difference"), strict=True):
        mesh = axis.pcolormesh(np.where(off, matrix, np.nan), cmap="PuOr", vmin=-top, vmax=top, rasterized=True)
        ticks = np.arange(0, run.S, 2)
        axis.set_xticks(ticks + 0.5, [run.species[i] for i in ticks], fontsize="x-small", rotation=60)
        axis.set_yticks(ticks + 0.5, [run.species[i] for i in ticks], fontsize="x-small")
        axis.set_title(name, fontsize="medium")
        axis.set_aspect("equal")
        axis.invert_yaxis()
    figure.colorbar(mesh, ax=axes, label="correlation")
    noise = np.sqrt(1.0 / _DRAWN + 1.0 / len(ssa.events))
    return _titled(figure, f"{run.model().name}, t = {t:g}; standard error of a difference {noise:.4f}", out)


def _correlation(n: np.ndarray) -> np.ndarray:
    """Correlation matrix of samples [N, S]; zero with a species that does not vary."""
    scale = np.outer(n.std(axis=0), n.std(axis=0))
    return np.divide(np.cov(n.T, bias=True), scale, out=np.zeros_like(scale), where=scale > 0.0)


def _titled(figure, title: str, out: Path) -> Path:
    figure.suptitle(title, fontsize="medium")
    return save_figure(figure, out)
