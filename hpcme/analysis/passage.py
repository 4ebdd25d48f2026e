"""When a condition is met: what the stored laws say about it, and what they do not.

A run stores the law of the state at each report time, not of paths. P(condition holds at t) follows from that at every
report time. The law of the first time at which the condition holds is another matter: the condition may hold and cease
in between. Both agree exactly where the condition, once met, cannot cease (is closed: no reaction leads out of it);
then P(first time <= t) = P(condition holds at t). Elsewhere P(condition holds at t) is only a lower bound of it, and so
is its largest value so far: whoever is there at time s <= t has been there by t. The largest value is what is reported.
An upper bound does not follow from laws at single times.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcme.analysis.cloud import MAX_STATES, SAMPLES
from hpcme.analysis.conditions import is_closed, probability_table, read_condition
from hpcme.errors import InputError
from hpcme.store.reader import Run


def passage_table(
    run: Run,
    condition: str,
    levels: tuple[float, ...] = (0.5,),
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    max_states: int = MAX_STATES,
) -> dict[str, Any]:
    """Probability of a condition at every report time, and when it is first above each level.

    levels: probabilities in (0, 1). Returns what conditions.probability_table does for all times, and

    "closed": True, False or None (not known, see conditions.is_closed)
    "reached" [T]: lower bound of P(the condition held at some time up to t); equal to it where closed is True
    "levels" [L], "first" [L]: first report time at which P(condition) >= level, NaN if never
    "between" [L][2]: for a closed condition, the report times between which the level was passed, NaN elsewhere
    Raises InputError: a level outside (0, 1), and as probability_table does.
    """
    for level in levels:
        if not 0.0 < level < 1.0:
            raise InputError(f"level {level:g} must be above 0 and below 1: it is a probability.")
    closed = is_closed(run, read_condition(condition, run.model()), max_states)
    table = probability_table(run, condition, samples=samples, seed=seed, max_states=max_states)
    p, times = table["probability"], table["times"]
    first, between = [], []
    for level in levels:
        hits = np.flatnonzero(p >= level)
        k = int(hits[0]) if len(hits) else None
        first.append(np.nan if k is None else float(times[k]))
        between.append([float(times[max(0, k - 1)]), float(times[k])] if closed and k is not None else [np.nan] * 2)
    return {
        **table,
        "closed": closed,
        "reached": np.maximum.accumulate(p),
        "levels": np.array(levels),
        "first": np.array(first),
        "between": np.array(between),
    }
