"""How to make a run again: the model file, the job file and the command, from what the run stores."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from hpcme.model.writer import job_text
from hpcme.store.reader import Run

MODEL, JOB = "model.toml", "job.toml"


@dataclass(frozen=True)
class Recipe:
    """model, job: texts of the files MODEL and JOB; command: one line for a shell; remarks: what may differ."""

    model: str
    job: str
    command: str
    remarks: list[str]


def recipe_of(run: Run) -> Recipe:
    """The recipe of a run. The job holds every key that determines the results, with the value that the run used, so it
    does not depend on the defaults of another version."""
    facts = run.provenance
    values = json.loads(facts["job_text"]) if facts["job_text"].lstrip().startswith("{") else {}
    kind, trajectories = values.pop("reference", None), values.pop("trajectories", None)
    seed = values.pop("seed", None)
    values.setdefault("time.end", float(facts["report_times"][-1]))
    values.setdefault("time.report", [float(t) for t in facts["report_times"]])
    if values.get("network.kind") != "basis":
        values.pop("network.sight", None)  # stored with its default, and refused where it has no use
    words = ["hpcme", {"fsp": "fsp", "ssa": "ssa"}.get(kind, "run"), JOB]
    if kind == "ssa":
        words += ["--trajectories", str(trajectories), "--seed", str(seed)]
    ranks = facts.get("layout", {}).get("ranks", 1)
    if ranks > 1:
        words = ["mpiexec", "-n", str(ranks), *words]
    command = shlex.join([*words, "--out", f"runs/{_slug(run)}"])
    return Recipe(facts["model_text"], job_text({"model": MODEL, **values}), command, _remarks(run))


def _slug(run: Run) -> str:
    path = run.path.absolute()
    return (path.parent if path.suffix == ".h5" else path).name


def _remarks(run: Run) -> list[str]:
    facts = run.provenance
    made = [f"Version {facts.get('hpcme', 'unknown')} of hpcme"]
    if "seed" in facts:
        made.append(f"seed {facts['seed']}")
    if "ranks" in facts.get("layout", {}):
        made.append(f"ranks: {facts['layout']['ranks']}")
    remarks = [f"{', '.join(made)}. The versions of what it used stand in the table."]
    if run.kind == "network":
        remarks.append("The same job gives the same numbers on the same hardware, up to rounding on other hardware.")
    events = [event for event in facts.get("history", []) if event.get("event") not in ("created", "finished")]
    if events:
        remarks.append(f"The run was interrupted or continued: {len(events)} events are listed below.")
    return remarks
