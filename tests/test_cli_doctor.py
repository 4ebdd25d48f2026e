"""What `hpcme doctor` says about a Slurm job, told from its variables and a stand-in for scontrol."""

from __future__ import annotations

import os
import time

import pytest
from cli_helpers import LAUNCHERS

from hpcme.cli import doctor


@pytest.fixture
def findings(tmp_path, monkeypatch):
    """Set variables and scontrol's answer; returns what is found as one text, and the facts."""
    for name in list(os.environ):
        if name.startswith((*LAUNCHERS, "HPCME_DEADLINE", "CUDA")):
            monkeypatch.delenv(name)

    def get(answer: str | None, check=doctor._slurm, **variables: str) -> tuple[str, dict]:
        monkeypatch.setenv("PATH", str(tmp_path))
        if answer is not None:
            scontrol = tmp_path / "scontrol"
            scontrol.write_text(f"#!/bin/sh\necho \"$*\" >{tmp_path}/asked\necho '{answer}'\n")
            scontrol.chmod(0o755)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        report = doctor.Report()
        facts = check(report)
        return "\n".join(f"{word}: {what} FIX {fix}" for word, what, fix in report.lines), facts

    return get


JOB = "JobId=7 JobName=a b NumNodes=2 NumCPUs=4 NumTasks=4 Requeue=1 Restarts=0"


def test_outside_slurm_it_says_nothing(findings):
    assert findings(JOB) == ("", {})


def test_a_job_in_good_order(findings, tmp_path):
    text, facts = findings(
        JOB, SLURM_JOB_ID="7", PMI_SIZE="4", PMI_RANK="0", SLURM_NTASKS="1", HPCME_DEADLINE=str(time.time() + 200)
    )
    assert "PROBLEM" not in text and "NOTE" not in text
    assert "job 7, 2 node(s), 4 task(s)" in text and "may be requeued" in text and "3 min 20 s left" in text
    assert facts["slurm_tasks"] == 4 and facts["requeue"] is True and 190 < facts["seconds_left"] <= 200
    assert (tmp_path / "asked").read_text() == "show job 7\n"


def test_other_ranks_leave_it_to_rank_0(findings):
    assert findings(JOB, SLURM_JOB_ID="7", PMI_SIZE="4", PMI_RANK="1") == ("", {})


def test_one_task_of_an_array_asks_for_itself(findings, tmp_path):
    findings(JOB, SLURM_JOB_ID="9", SLURM_ARRAY_JOB_ID="9", SLURM_ARRAY_TASK_ID="3")
    assert (tmp_path / "asked").read_text() == "show job 9_3\n"


def test_tasks_without_a_launcher_are_a_problem(findings):
    text, _ = findings(JOB, SLURM_JOB_ID="7", SLURM_NTASKS="4")
    assert "PROBLEM: Slurm: the job has 4 tasks, but no launcher started this process" in text
    assert "srun --mpi=pmi2 (MPICH)" in text


def test_ranks_that_are_not_the_tasks_are_told(findings):
    text, _ = findings(JOB, SLURM_JOB_ID="7", PMI_SIZE="2", PMI_RANK="0")
    assert "NOTE: Slurm: MPICH mpiexec or srun --mpi=pmi2 started 2 rank(s) in a job of 4 task(s)" in text


def test_a_job_that_may_not_be_requeued_is_told(findings):
    text, facts = findings(JOB.replace("Requeue=1", "Requeue=0"), SLURM_JOB_ID="7", PMI_SIZE="4", PMI_RANK="0")
    assert "NOTE: Slurm: this job may not be requeued" in text and "JobRequeue=0" in text
    assert facts["requeue"] is False


def test_without_scontrol_what_is_unknown_is_called_unknown(findings):
    text, facts = findings(None, SLURM_JOB_ID="7", SLURM_NTASKS="4")
    assert "job 7, unknown node(s), unknown task(s)" in text and "PROBLEM" not in text
    assert facts["slurm_tasks"] is None and facts["requeue"] is None


@pytest.mark.parametrize(
    ("deadline", "words"),
    [
        ("", "NOTE: time: HPCME_DEADLINE is not set"),
        ("soon", 'PROBLEM: the environment variable HPCME_DEADLINE = "soon" is not a time'),
        ("1000", "PROBLEM: time: HPCME_DEADLINE passed"),
    ],
)
def test_a_deadline_of_no_use_is_told(findings, deadline, words):
    text, facts = findings(JOB, SLURM_JOB_ID="7", PMI_SIZE="4", PMI_RANK="0", HPCME_DEADLINE=deadline)
    assert words in text and "FIX " in text
    assert facts["seconds_left"] is None or facts["seconds_left"] < 0


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"SLURM_JOB_GPUS": "0,1", "CUDA_VISIBLE_DEVICES": "0,1"}, True),
        ({"CUDA_VISIBLE_DEVICES": "0"}, True),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, False),
        ({"CUDA_VISIBLE_DEVICES": ""}, False),
        ({}, False),
    ],
)
def test_gpus_that_torch_does_not_see_are_a_problem(findings, variables, problem):
    text, _ = findings(None, check=lambda report: doctor._gpus(report, 0), **variables)
    assert ("PROBLEM: GPUs: " in text) == problem
    assert ("NOTE: GPUs: torch sees none; the CPU will be used" in text) != problem
    if problem:
        assert "allotted" in text and "install a torch with CUDA" in text
