"""Modes of the joint law of one or two species: where its peaks are, how much probability belongs to each, over time.

The method, on the table of probabilities of one or two counts:

1. The table is smoothed with a Gaussian of `smooth` counts (2 unless told; at most a sixteenth of an axis, so genes are
   left as they are; mirrored at the borders, so that no probability is lost), which takes away noise of sampling.
2. From every cell a path climbs to the highest of its neighbours (8 in two dimensions), until none is higher: steepest
   ascent. Cells whose paths end at the same peak are its basin of attraction.
3. Two basins that touch have a pass: over all pairs of touching cells, the highest of the lower cell of the pair. The
   peak that stands out least is joined to the neighbour with the highest pass as long as peak < (1 + prominence) pass,
   or the basin has less probability than `least`. So a mode is a peak that is at least `prominence` = 0.2 higher than
   any pass out of its basin, and holds at least `least` = 0.01 of the probability.
4. The weight of a mode is the probability of its basin in the table that is not smoothed; weights sum to 1.

Weights over time are those of the basins found at one time (the last, unless told), applied to the laws at all times;
each curve is the probability of a fixed set of states, the weight of a mode once the law has taken its shape. The
number of modes that each time has of its own is told besides. Standard errors of weights are those of counting samples
in given basins; where few samples lie, their borders are uncertain too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcme.analysis.cloud import MAX_STATES, SAMPLES, Cloud, cloud_of
from hpcme.errors import InputError
from hpcme.store.reader import Run

SMOOTH, PROMINENCE, LEAST = 2.0, 0.2, 0.01
_SIXTEENTH = 16.0
_CELLS = 50_000_000  # of tables that are held at a time: 400 MB


@dataclass(frozen=True)
class Modes:
    """Modes of one table, heaviest first.

    basin: number of the mode of each cell, int64 like the table. peak int64 [m,d]: counts at the top of the smoothed
    table; height float64 [m]: its value there; weight float64 [m]; mean float64 [m,d]: mean counts in the basin.
    """

    basin: np.ndarray
    peak: np.ndarray
    height: np.ndarray
    weight: np.ndarray
    mean: np.ndarray

    def __len__(self) -> int:
        return len(self.weight)


def find_modes(
    p: np.ndarray, smooth: float = SMOOTH, prominence: float = PROMINENCE, least: float = LEAST
) -> Modes:
    """Modes of a table of probabilities over one or two counts, p float64 [counts] or [counts, counts2]."""
    from scipy.ndimage import gaussian_filter

    p = np.asarray(p, dtype=np.float64)
    p = p / p.sum()
    width = [min(smooth, (size - 1) / _SIXTEENTH) for size in p.shape]
    height = gaussian_filter(p, width, mode="reflect")
    height = np.where(height > 1e-12 * height.max(), height, 0.0)  # what is left is rounding, and has no shape
    basin = _joined(_ascend(height), height, p, prominence, least)
    names, basin = np.unique(basin, return_inverse=True)
    basin = basin.reshape(p.shape)
    weight = np.bincount(basin.ravel(), p.ravel(), minlength=len(names))
    order = np.argsort(-weight, kind="stable")
    rank = np.argsort(order)
    basin = rank[basin]
    peaks, means = [], []
    for m in range(len(names)):
        inside = basin == m
        peaks.append(np.unravel_index(np.argmax(np.where(inside, height, -1.0)), p.shape))
        cells, w = np.argwhere(inside), p[inside]
        means.append(w @ cells / w.sum() if w.sum() > 0.0 else cells.mean(axis=0))
    peak = np.array(peaks, dtype=np.int64)
    return Modes(basin, peak, height[tuple(peak.T)], weight[order], np.array(means))


def _neighbours(shape: tuple[int, ...]) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Pairs of slices (here, there) of touching cells, each unordered pair of cells once."""
    steps = [(1,)] if len(shape) == 1 else [(0, 1), (1, -1), (1, 0), (1, 1)]
    cut = {0: (slice(None), slice(None)), 1: (slice(None, -1), slice(1, None)), -1: (slice(1, None), slice(None, -1))}
    return [tuple(tuple(cut[d][side] for d in step) for side in (0, 1)) for step in steps]


def _ascend(height: np.ndarray) -> np.ndarray:
    """The cell (flat index) in which steepest ascent from each cell ends; ties go to the smaller index."""
    number = np.arange(height.size).reshape(height.shape)
    best, up = height.copy(), number.copy()
    for here, there in _neighbours(height.shape):
        for a, b in ((here, there), (there, here)):
            better = (height[b] > best[a]) | ((height[b] == best[a]) & (number[b] < up[a]))
            best[a] = np.where(better, height[b], best[a])
            up[a] = np.where(better, number[b], up[a])
    up = up.ravel()
    while True:
        further = up[up]
        if np.array_equal(further, up):
            return up.reshape(height.shape)
        up = further


def _joined(top: np.ndarray, height: np.ndarray, p: np.ndarray, prominence: float, least: float) -> np.ndarray:
    """Basins after joining those that are no modes; each cell has the flat index of a peak."""
    names, basin = np.unique(top, return_inverse=True)
    basin = basin.reshape(top.shape)
    peak = height.ravel()[names]
    weight = np.bincount(basin.ravel(), p.ravel(), minlength=len(names))
    passes: dict[int, dict[int, float]] = {m: {} for m in range(len(names))}
    for here, there in _neighbours(top.shape):
        a, b, level = basin[here].ravel(), basin[there].ravel(), np.minimum(height[here], height[there]).ravel()
        border = a != b
        pairs, place = np.unique(np.stack([a[border], b[border]]), axis=1, return_inverse=True)
        highest = np.zeros(pairs.shape[1])
        np.maximum.at(highest, place.reshape(-1), level[border])
        for (x, y), value in zip(pairs.T.tolist(), highest.tolist(), strict=True):
            passes[x][y] = passes[y][x] = max(value, passes[x].get(y, 0.0))
    into = np.arange(len(names))
    while len(passes) > 1:
        weak = {}
        for m, around in passes.items():
            saddle = max(around.values())
            if peak[m] < (1.0 + prominence) * saddle or weight[m] < least:
                weak[m] = (peak[m] / saddle if saddle > 0.0 else np.inf, peak[m])
        # the highest peak of all is joined to another only for want of weight
        if not weak:
            break
        m = min(weak, key=lambda m: (weak[m], m))
        around = passes.pop(m)
        to = max(around, key=lambda k: (around[k], peak[k], -k))
        if peak[m] > peak[to]:
            peak[to], names[to] = peak[m], names[m]
        weight[to] += weight[m]
        into[into == m] = to
        for k, value in around.items():
            del passes[k][m]
            if k != to:
                passes[k][to] = passes[to][k] = max(value, passes[k].get(to, 0.0))
    return names[into[basin]]


def chosen_pair(run: Run, species: Sequence[str] | None) -> list[int]:
    """Species numbers of one or two names; None: the two whose counts vary most at the last time, or only the first of
    them where a table of both at all times would be too large."""
    if species is None:
        order = np.argsort(-run.sd[run.index()], kind="stable")[:2].tolist()
        return sorted(order if len(run.times) * np.prod(run.limits[order] + 1.0) <= _CELLS else order[:1])
    index = [run.species_index(name) for name in species]
    if len(index) not in (1, 2) or len(set(index)) < len(index):
        raise InputError(
            f"modes are of one species or of two different ones, not of {len(index)}: {', '.join(map(str, species))}."
        )
    return index


def pair_table(cloud: Cloud, index: Sequence[int], limits: np.ndarray) -> np.ndarray:
    """Probabilities of the counts of one or two species, float64 [limit + 1, ...] (longer where counts go beyond).
    Raises InputError for a table that would not fit into memory."""
    n = cloud.n[:, list(index)].astype(np.int64)
    shape = tuple(max(int(limits[i]), int(n[:, a].max(initial=0))) + 1 for a, i in enumerate(index))
    refuse_large(np.prod(shape, dtype=np.float64))
    flat = np.ravel_multi_index(tuple(n.T), shape)
    return np.bincount(flat, cloud.p, minlength=int(np.prod(shape))).reshape(shape)


def refuse_large(cells: float) -> None:
    """Raise InputError for tables of more cells than are held at a time."""
    if cells > _CELLS:
        raise InputError(
            f"a table of these species has {cells:.2g} cells, more than {_CELLS:.0e}. Fix: name one species, or species"
            " with lower limits (max in the model)."
        )


def modes_table(
    run: Run,
    species: Sequence[str] | None = None,
    time: float | None = None,
    *,
    smooth: float = SMOOTH,
    prominence: float = PROMINENCE,
    least: float = LEAST,
    samples: int = SAMPLES,
    seed: int = 0,
    max_states: int = MAX_STATES,
) -> dict[str, Any]:
    """Modes of one or two species (None: see chosen_pair) at a stored time (None: the last), and weights over time.

    Returns {"kind", "species" [d], "time", "peak" int64 [m,d], "height" [m], "weight" [m], "weight_se" [m], "mean"
    [m,d], "times" [T], "weights" [T,m], "weights_se" [T,m], "count" int64 [T] (modes that each time has of its own),
    "basin" int64 (table of mode numbers from 0), "tables": list of T tables of probabilities, "method"}. Standard
    errors are those of sampling with the basins as they are; zero where laws are summed. Raises InputError.
    """
    for name, value, high in (("smooth", smooth, 1e3), ("prominence", prominence, 1e6), ("least", least, 0.5)):
        if not 0.0 <= value <= high:
            raise InputError(f"{name} = {value:g} must be from 0 to {high:g}.")
    index = chosen_pair(run, species)
    chosen = run.index(time)
    refuse_large(len(run.times) * np.prod(run.limits[index] + 1.0))
    tables, numbers, counts, method = [], [], [], ""
    modes = None
    for k, t in enumerate(run.times):
        cloud = cloud_of(run, float(t), samples=samples, seed=seed, max_states=max_states)
        tables.append(pair_table(cloud, index, run.limits))
        numbers.append(np.inf if cloud.exact else cloud.number)
        own = find_modes(tables[-1], smooth, prominence, least)
        counts.append(len(own))
        if k == chosen:
            modes, method = own, cloud.method
    shares = np.array([_weights(table, modes) for table in tables])
    spread = np.where(shares < 1.0 - 1e-12, shares * (1.0 - shares), 0.0)  # no errors out of rounding
    errors = np.sqrt(spread / np.array(numbers)[:, None])
    return {
        "kind": run.kind,
        "species": [run.species[i] for i in index],
        "time": float(run.times[chosen]),
        "peak": modes.peak,
        "height": modes.height,
        "weight": modes.weight,
        "weight_se": errors[chosen],
        "mean": modes.mean,
        "times": run.times,
        "weights": shares,
        "weights_se": errors,
        "count": np.array(counts, dtype=np.int64),
        "basin": modes.basin,
        "tables": tables,
        "method": method,
    }


def _weights(table: np.ndarray, modes: Modes) -> np.ndarray:
    """Share of a table in each basin; counts past the table of the modes belong to the basin at its border."""
    where = np.indices(table.shape).reshape(table.ndim, -1)
    cells = tuple(np.minimum(axis, size - 1) for axis, size in zip(where, modes.basin.shape, strict=True))
    return np.bincount(modes.basin[cells], table.ravel(), minlength=len(modes)) / table.sum()
