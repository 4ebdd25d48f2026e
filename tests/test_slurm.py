"""The batch scripts and `hpcme submit` under a real Slurm on this machine: see tests/slurm/start.sh.

The work is a small toggle switch with time steps so short that it outlasts the time limit of a job.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from cli_helpers import ROOT, process, run_words
from run_helpers import MPIEXEC, below, datasets, last_step, resumptions, same
from solver_cases import TOGGLE

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec")]
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
JOB = """model = "toggle.toml"
[time]
end = 2.0
report = { every = 0.5 }
[network]
width = 4
[solver]
scheme = "tdvp"
start_jumps = 3.0
dt = %.8f
[output]
samples = 100
report_samples = 1000
checkpoint_steps = 3
"""
# A job is asked to stop when 30 s of its minute are left, however early Slurm warns it.
LONG, SHORT = 60.0, 18.0  # seconds of work on two ranks, as a trial run measures them: half of it must be long enough


class Cluster:
    """The Slurm of the tests, a folder with jobs, and a site for each launcher."""

    def __init__(self, folder: Path, conf: str) -> None:
        self.folder, self.conf = folder, conf
        (folder / "toggle.toml").write_text(TOGGLE)
        for name, launcher, flags in (("mpiexec", MPIEXEC, ""), ("srun", shutil.which("srun"), "--mpi=pmi2")):
            places = [f"-DHPCME_PYTHON={sys.executable}", f"-DHPCME_LAUNCHER={launcher}"]
            places += [f"-DHPCME_LAUNCH_FLAGS={flags}", "-DHPCME_TIME=1", "-DHPCME_SIGNAL_SECONDS=30"]
            command = [CMAKE, "-S", str(ROOT), "-B", str(folder / name), *places]
            subprocess.run(command, check=True, capture_output=True)

    def call(self, *words: str) -> str:
        """A command of Slurm: what it prints."""
        done = run_words(self.folder, list(words), SLURM_CONF=self.conf)
        assert done.code == 0, f"{words}: {done.out}{done.err}"
        return done.out.strip()

    def submit(self, *words: object, launcher: str = "mpiexec") -> dict:
        """`hpcme submit --json`: its answer."""
        result = process(
            self.folder, "submit", *words, "--json", "--site", f"{launcher}/slurm", SLURM_CONF=self.conf
        )
        assert result.code == 0, result.err
        return json.loads(result.out)

    def scan(self, *words: object) -> dict:
        """`hpcme scan ... --json`: its answer."""
        more = ("--site", "mpiexec/slurm") if words[0] == "submit" else ()
        result = process(self.folder, "scan", *words, *more, "--json", SLURM_CONF=self.conf)
        assert result.code == 0, result.err
        return json.loads(result.out)

    def batch(self, command: str, *options: str) -> tuple[int, str]:
        """Run a shell command in a job of its own: its exit code and what it printed."""
        job = self.call("sbatch", "--parsable", "--output=batch-%j.log", *options, f"--wrap={command}")
        self.states(job)  # sbatch --wait looks every 10 s only
        return int(self.job(job)["ExitCode"].split(":")[0]), (self.folder / f"batch-{job}.log").read_text()

    def job(self, name: str) -> dict[str, str]:
        """What Slurm knows of a job or of one task (ID_TASK)."""
        words = self.call("scontrol", "show", "job", name).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def states(self, *names: str, seconds: float = 400.0) -> list[str]:
        """Wait until these jobs have ended for good: their states."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
        deadline = time.monotonic() + seconds
        while (found := [self.job(name)["JobState"] for name in names]) and not set(found) <= set(over):
            assert time.monotonic() < deadline, f"{names}: {found}\n{self.logs()}"
            time.sleep(0.5)
        return found

    def until_step(self, run: str, step: int) -> None:
        """Wait until a run has made this step safe."""
        deadline = time.monotonic() + 180
        while last_step(self.folder / run) < step:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    start = ROOT / "tests/slurm/start.sh"
    running = Path("/run/hpcme-slurm/slurmctld.pid").exists()
    done = subprocess.run(["bash", str(start)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    yield Cluster(tmp_path_factory.mktemp("slurm"), done.stdout.split()[-1])
    if not running:
        subprocess.run(["bash", str(start.with_name("stop.sh"))], check=True)


@pytest.fixture(scope="module")
def jobs(cluster):
    """long.toml and short.toml: their steps are so short that they take LONG and SHORT seconds on this machine."""
    (cluster.folder / "trial.toml").write_text(JOB % 0.02)
    done = process(
        cluster.folder, "run", "trial.toml", "--out", "trial", "--json", "--quiet", before=(MPIEXEC, "-n", "2")
    )
    assert done.code == 0, done.err
    data = json.loads(done.out)
    step = data["solver_seconds"] / data["steps"]
    for name, seconds in (("long", LONG), ("short", SHORT)):
        (cluster.folder / f"{name}.toml").write_text(JOB % (1.8 * step / seconds))


def whole(cluster: Cluster, job: str) -> dict:
    """Datasets of the uninterrupted run on two ranks, without Slurm."""
    out = f"whole-{job}"
    done = process(cluster.folder, "run", f"{job}.toml", "--out", out, "--quiet", before=(MPIEXEC, "-n", "2"))
    assert done.code == 0, done.err
    return datasets(cluster.folder / out / "results.h5")


def differing(cluster: Cluster, run: str, expected: dict) -> list[str]:
    found = datasets(cluster.folder / run / "results.h5")
    assert found.keys() == expected.keys()
    return [name for name in expected if not same(found[name], expected[name])]


def test_a_job_outlasts_its_time_limit_and_what_comes_then_finds_its_results(cluster, jobs):
    """A minute at a time, without a person, to the bits of the uninterrupted run; then post-processing."""
    data = cluster.submit("long.toml", "--then", "stats --json", "--then", "verify")
    job, after = data["job_id"], data["after_id"]
    assert cluster.states(job) == ["COMPLETED"], cluster.logs()
    log = (cluster.folder / f"hpcme-{job}.log").read_text()
    restarts = int(cluster.job(job)["Restarts"])
    assert restarts >= 2 and log.count("back into the queue") == restarts, log
    assert resumptions(cluster.folder / "runs/long") >= 2
    assert cluster.states(after) == ["COMPLETED"], cluster.logs()
    stats = json.loads((cluster.folder / "runs/long-stats.json").read_text())
    assert stats["times"] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert (cluster.folder / "runs/long-verify.txt").read_text()
    assert differing(cluster, "runs/long", whole(cluster, "long")) == []


def test_two_nodes_under_srun_stop_go_on_and_give_the_same_bits(cluster, jobs):
    words = ("--out", "nodes", "--nodes", 2, "--tasks", 1, "--time", 5)
    job = cluster.submit("short.toml", *words, launcher="srun")["job_id"]
    cluster.until_step(cluster.folder / "nodes", 20)
    cluster.call("scancel", "--signal=USR2", "--batch", job)
    assert cluster.states(job) == ["COMPLETED"], cluster.logs()
    log = (cluster.folder / f"hpcme-{job}.log").read_text()
    assert "on hn[1-2], 2 rank(s)" in log and "stopped after SIGUSR2" in log and "continuing from step" in log
    assert int(cluster.job(job)["Restarts"]) >= 1
    assert differing(cluster, "nodes", whole(cluster, "short")) == []


def test_an_array_survives_signals_and_kills(cluster, jobs):
    """One task is asked to stop, a step of another one is killed: the first goes on by itself, the second fails
    visibly, and the same line once more continues it. A failed array lets no post-processing begin."""
    text = (cluster.folder / "short.toml").read_text()
    for i in range(1, 7):
        (cluster.folder / f"a{i}.toml").write_text(text.replace("width = 4", f"width = {3 + i % 2}"))
    (cluster.folder / "jobs.txt").write_text("".join(f"a{i}.toml\n" for i in range(1, 7)))
    line = ("--array", "jobs.txt", "--out", "all", "--tasks", 1, "--at-once", 4, "--time", 5, "--then", "stats")
    data = cluster.submit(*line)
    job, tasks = data["job_id"], [f"{data['job_id']}_{i}" for i in range(1, 7)]
    for i in (2, 3):
        cluster.until_step(cluster.folder / f"all/a{i}", 20)
    kill_step(cluster.job(f"{job}_3")["JobId"])
    # While tasks of the array wait for their turn, scancel delivers the signal, hears "try again later", and repeats it
    # for half a minute: the task may be stopped twice, or have ended meanwhile.
    run_words(cluster.folder, ["scancel", "--signal=USR2", "--batch", f"{job}_2"], SLURM_CONF=cluster.conf)
    states = cluster.states(*tasks)
    assert states == ["COMPLETED", "COMPLETED", "FAILED", "COMPLETED", "COMPLETED", "COMPLETED"], cluster.logs()
    restarts = int(cluster.job(f"{job}_2")["Restarts"])
    assert restarts >= 1 and resumptions(cluster.folder / "all/a2") == restarts
    assert cluster.states(data["after_id"]) == ["CANCELLED"]

    data = cluster.submit(*line)
    assert [run["finished"] for run in data["runs"]] == [True, True, False, True, True, True]
    assert cluster.states(f"{data['job_id']}_3", data["after_id"]) == ["COMPLETED"] * 2, cluster.logs()
    assert resumptions(cluster.folder / "all/a3") == 1
    for i in range(1, 7):
        assert (cluster.folder / f"all/a{i}/results.h5").exists()
        assert (cluster.folder / f"all/a{i}-stats.txt").read_text()


SCAN = JOB.replace("dt = %.8f\n", "") + """[[scan.linked]]
b = [%s]
solver.dt = [%s]
"""


def test_a_scan_loses_two_tasks_and_has_a_bad_value(cluster, jobs):
    """24 tasks: two are killed at work and one has a rate that is negative. Status names the three, the same line once
    more repairs two, and the merged file holds 23 and says which one is missing and why."""
    slow, killed, bad = 2.0 / 400, (4, 17), 11
    values = [-0.5 if i == bad else 0.05 * i for i in range(1, 25)]
    steps = [slow if i in killed else 0.5 for i in range(1, 25)]
    text = SCAN % (", ".join(map(str, values)), ", ".join(map(str, steps)))
    (cluster.folder / "many.toml").write_text(text)
    line = ("submit", "many.toml", "--tasks", 1, "--time", 5)
    data = cluster.scan(*line)
    assert len(data["submitted"]) == 23 and [item["task"] for item in data["left_out"]] == [bad]
    for i in killed:
        cluster.until_step(cluster.folder / f"runs/many/task-{i:04d}", 5)
        kill_step(cluster.job(f"{data['job_id']}_{i}")["JobId"])
    states = cluster.states(*(f"{data['job_id']}_{i}" for i in data["submitted"]))
    assert [i for i, state in zip(data["submitted"], states, strict=True) if state != "COMPLETED"] == list(killed)

    found = cluster.scan("status", "many.toml")
    assert found["counts"] == {"done": 21, "interrupted": 2, "invalid": 1}
    left = {item["task"]: item["reason"] for item in found["tasks"] if item["state"] != "done"}
    assert left.keys() == {*killed, bad} and "not negative" in left[bad] and all(left.values())
    shown = process(cluster.folder, "scan", "status", "many.toml").out
    assert "21 done, 2 interrupted, 1 invalid" in shown and len(re.findall(r"^ +\d+  in", shown, re.M)) == 3

    data = cluster.scan(*line)
    assert data["submitted"] == list(killed)
    assert cluster.states(*(f"{data['job_id']}_{i}" for i in killed)) == ["COMPLETED"] * 2, cluster.logs()
    assert all(resumptions(cluster.folder / f"runs/many/task-{i:04d}") == 1 for i in killed)
    merged = cluster.scan("merge", "many.toml")
    assert merged["merged"] == 23
    assert [(item["task"], item["state"]) for item in merged["missing"]] == [(bad, "invalid")]
    with h5py.File(cluster.folder / "runs/many/merged.h5") as file:
        assert file["b"][()].tolist() == values and file["solver_dt"][()].tolist() == steps
        mask = file["mask"][()]
        assert mask.sum() == 23 and mask[bad - 1] == 0
        assert b"not negative" in file["reason"][bad - 1] and file["state"][bad - 1] == b"invalid"
        assert np.isnan(file["mean"][bad - 1]).all() and np.isfinite(file["mean"][mask == 1]).all()
    assert cluster.scan(*line)["job_id"] is None  # nothing is left that could be done


def test_small_tasks_share_a_job(cluster, jobs):
    """Three tasks in each array index, two at a time; a task that still waits with Slurm is not submitted again."""
    text = SCAN.split("[[scan")[0] + "[scan]\nb = [0.1, 0.2, 0.3, 0.4, 0.5]\n"
    (cluster.folder / "small.toml").write_text(text)
    line = ("submit", "small.toml", "--group", 3, "--tasks", 2, "--time", 5)
    data = cluster.scan(*line, "--sbatch=--hold")
    assert data["submitted"] == [1, 2, 3, 4, 5]
    assert cluster.scan("status", "small.toml")["counts"] == {"queued": 5}
    again = cluster.scan(*line)
    assert again["submitted"] == [] and again["job_id"] is None
    cluster.call("scontrol", "release", data["job_id"])
    assert cluster.states(*(f"{data['job_id']}_{i}" for i in (1, 2))) == ["COMPLETED"] * 2, cluster.logs()
    assert cluster.scan("status", "small.toml")["counts"] == {"done": 5}
    logs = [path.read_text() for path in sorted((cluster.folder / "runs/small/logs").glob("group-*.log"))]
    assert len(logs) == 2 and all("hpcme ended with exit code 0" in log for log in logs), logs


def kill_step(job: str) -> None:
    """SIGKILL to the slurmstepd of a job's first step, and to all that it started."""
    words = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words[int(file.parent.name)] = file.read_bytes()
    steps = {pid: text for pid, text in words.items() if text.startswith(b"slurmstepd: [")}
    daemon = next((pid for pid, text in steps.items() if f"[{job}.0]".encode() in text), None)
    assert daemon, f"job {job} is none of {steps.values()}"
    for pid in [daemon, *below(daemon)]:
        with contextlib.suppress(ProcessLookupError):  # a child may end with its parent
            os.kill(pid, signal.SIGKILL)


def test_a_cancelled_job_writes_its_checkpoint_and_stays_ended(cluster, jobs):
    job = cluster.submit("long.toml", "--out", "cancelled", "--time", 5)["job_id"]
    cluster.until_step(cluster.folder / "cancelled", 5)
    before = last_step(cluster.folder / "cancelled")
    cluster.call("scancel", job)
    assert cluster.states(job) == ["CANCELLED"]
    deadline = time.monotonic() + 30
    log = cluster.folder / f"hpcme-{job}.log"
    while "hpcme ended with exit code" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    assert "back into the queue" not in log.read_text() and "stopped after SIGTERM" in log.read_text()
    assert last_step(cluster.folder / "cancelled") > before
    assert not (cluster.folder / "cancelled/run.lock").exists()


@pytest.mark.parametrize("launcher", ["srun -W 20 --mpi=pmi2", f"{MPIEXEC} -n 2"], ids=["srun", "mpiexec"])
def test_doctor_finds_a_job_in_good_order(cluster, launcher):
    ends = "export HPCME_DEADLINE=$(($(date +%s) + 500)); "
    code, text = cluster.batch(f"{ends}{launcher} {sys.executable} -m hpcme doctor", "--ntasks=2")
    assert code == 0, text
    assert "1 node(s), 2 task(s)" in text and "may be requeued" in text and "2 processes" in text
    assert "8 min" in text and "all-reduce over 2 rank(s) adds up" in text and "PROBLEM" not in text


def test_doctor_sees_worlds_of_size_one_under_srun(cluster):
    code, text = cluster.batch(f"srun --mpi=none {sys.executable} -m hpcme doctor", "--ntasks=2")
    assert code == 65 and text.count("PROBLEM") == 2, text  # the line itself, and the last line that names it
    assert "started as 2 ranks by srun" in text and "sees only this process" in text and "--mpi=pmi2" in text


def test_doctor_sees_tasks_without_a_launcher_no_requeue_and_lost_gpus(cluster):
    options = ("--ntasks=2", "--gpus-per-node=1", "--no-requeue")
    code, text = cluster.batch(f"{sys.executable} -m hpcme doctor", *options)
    assert code == 65, text
    assert "2 tasks, but no launcher started this process" in text and "may not be requeued" in text
    assert "PROBLEM  GPUs: 0 allotted" in text and "HPCME_DEADLINE is not set" in text


def test_what_slurm_refuses_is_quoted(cluster, jobs):
    words = ("submit", "short.toml", "--site", "mpiexec/slurm", "--sbatch=--partition=nowhere")
    result = process(cluster.folder, *words, SLURM_CONF=cluster.conf)
    assert result.code == 65 and "sbatch refused:" in result.err and "artition" in result.err
    assert result.err.count("\n") == 1 and result.out == ""
