"""The batch scripts that CMake writes for a site: what they ask of Slurm, and when they requeue themselves.

The scripts run here under bash with stand-ins for squeue, scontrol, the launcher and hpcme; tests/test_slurm.py runs
them under a real Slurm.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The CMake of the environment that runs the tests comes first.
PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
CMAKE = shutil.which("cmake", path=PLACES)
pytestmark = pytest.mark.skipif(CMAKE is None, reason="there is no cmake (pip install cmake)")


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)
    return path


@pytest.fixture
def site(tmp_path):
    """A folder of stand-ins. The launcher says whose it is and runs the program once, handing signals on."""
    bin_dir = tmp_path / "bin"
    program(bin_dir / "python", "exit 1\n")
    program(
        bin_dir / "mpiexec",
        'if [ "$1" = --version ]; then echo "HYDRA build details"; exit; fi\n'
        'echo "launched: $*" >>log\nwhile [ "$1" != hpcme ]; do shift; done\nexec "$@"\n',
    )
    program(bin_dir / "squeue", 'echo "squeue $*" >>log; cat ends\n')
    program(bin_dir / "scontrol", 'echo "scontrol $*" >>log\n')
    program(
        bin_dir / "hpcme",
        'answer=\'[\\n {\\n  "step": %s,\\n  "t": 1\\n }\\n]\\n\'\n'
        'if [ "$1" = status ]; then printf "$answer" "$(cat step)"; exit; fi\n'
        'echo "hpcme $* deadline=${HPCME_DEADLINE:-none}" >>log\n. ./behaviour\n',
    )
    (tmp_path / "ends").write_text("2030-01-02T03:04:05\n")
    (tmp_path / "step").write_text("null\n")
    return tmp_path


def configure(site: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    places = [f"-DHPCME_PYTHON={site}/bin/python", f"-DHPCME_LAUNCHER={site}/bin/mpiexec"]
    command = [CMAKE, "-S", str(ROOT), "-B", str(site / "build"), *places, *options]
    return subprocess.run(command, capture_output=True, text=True, check=check)


def directives(site: Path, name: str = "hpcme") -> list[str]:
    text = (site / f"build/slurm/{name}.sbatch").read_text()
    head = text[: text.index("set -uo pipefail")]  # Slurm reads no directive after the first command
    return re.findall(r"^#SBATCH (.*)$", head, re.MULTILINE)


def start(site: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """A script and its arguments; without words, hpcme.sbatch with a job, a folder and a further option."""
    slurm = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "3", "TZ": "UTC"}
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "HPCME_"))}
    name, *arguments = words or ("hpcme.sbatch", "job.toml", "out folder", "--set", "run.seed=5")
    command = ["bash", str(site / "build/slurm" / name), *arguments]
    everything = clean | slurm | environment
    return subprocess.Popen(
        command, cwd=site, env=everything, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def begun(site: Path) -> subprocess.Popen[str]:
    """One part of a job, once the run in it has made the file `started`."""
    job = start(site)
    while not (site / "started").exists():
        assert job.poll() is None, job.stdout.read()
        time.sleep(0.02)
    return job


def part(site: Path, behaviour: str, *words: str, **environment: str) -> tuple[int, str, str]:
    """Run one part of a job to its end: exit code, output, and the log of the stand-ins."""
    (site / "behaviour").write_text(behaviour)
    job = start(site, *words, **environment)
    output, _ = job.communicate(timeout=60)
    return job.returncode, output, (site / "log").read_text()


def old_enough(site: Path) -> None:
    """Let the scripts of this site hand on signals at once, also to a program that has just been started."""
    for script in (site / "build/slurm").glob("*.sbatch"):
        text = script.read_text()
        assert "-lt 10 ]" in text or script.name == "hpcme-after.sbatch"
        script.write_text(text.replace("-lt 10 ]", "-lt 0 ]"))


def test_the_script_asks_for_what_the_site_said(site):
    configure(
        site, "-DHPCME_PARTITION=fast", "-DHPCME_ACCOUNT=abc123", "-DHPCME_QOS=high", "-DHPCME_MEMORY=32G",
        "-DHPCME_TIME=1-12:00:00", "-DHPCME_GPUS_PER_NODE=4", "-DHPCME_TASKS=4", "-DHPCME_CPUS_PER_TASK=8",
        "-DHPCME_NODES=3", "-DHPCME_SIGNAL_SECONDS=300",
        "-DHPCME_MODULES=cuda/12;gcc/13", "-DHPCME_SBATCH_EXTRA=--constraint=a100;--exclusive",
    )  # fmt: skip
    for name in ("hpcme", "hpcme-array", "hpcme-scan"):
        asked = directives(site, name)
        for line in (
            "--partition=fast", "--account=abc123", "--qos=high", "--mem=32G", "--time=1-12:00:00", "--nodes=3",
            "--gpus-per-node=4", "--ntasks-per-node=4", "--cpus-per-task=8", "--constraint=a100", "--exclusive",
            "--requeue", "--signal=B:USR2@300",
        ):  # fmt: skip
            assert line in asked
    for name in ("hpcme", "hpcme-array", "hpcme-scan", "hpcme-after"):
        text = (site / f"build/slurm/{name}.sbatch").read_text()
        assert "module load cuda/12\nmodule load gcc/13\n" in text
        assert re.search(r"@[A-Z_]+@", text) is None
        assert subprocess.run(["bash", "-n", str(site / f"build/slurm/{name}.sbatch")]).returncode == 0


@pytest.mark.parametrize(("further", "partition"), [((), "fast"), (("-DHPCME_AFTER_PARTITION=cpu",), "cpu")])
def test_post_processing_is_one_task_without_gpus(site, further, partition):
    configure(
        site, "-DHPCME_PARTITION=fast", "-DHPCME_ACCOUNT=abc123", "-DHPCME_GPUS_PER_NODE=4", "-DHPCME_NODES=3",
        "-DHPCME_AFTER_TIME=0:20:00", *further,
    )  # fmt: skip
    asked = directives(site, "hpcme-after")
    assert {"--ntasks=1", "--time=0:20:00", "--account=abc123", f"--partition={partition}"} <= set(asked)
    assert not [line for line in asked if line.startswith(("--gpus", "--nodes", "--signal"))]


def test_what_the_site_left_out_is_left_to_the_cluster(site):
    configure(site)
    asked = " ".join(directives(site))
    for option in ("partition", "account", "qos", "mem", "gpus"):
        assert f"--{option}" not in asked
    assert "module load" not in (site / "build/slurm/hpcme.sbatch").read_text()


def test_the_example_site_file_is_taken(site):
    configure(site, "-C", str(ROOT / "slurm/site-example.cmake"))
    assert {"--account=abc123", "--gpus-per-node=4", "--mail-type=END,FAIL"} <= set(directives(site))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("-DHPCME_TASKS=0", "HPCME_TASKS=0 must be a whole number, at least 1"),
        ("-DHPCME_GPUS_PER_NODE=many", "HPCME_GPUS_PER_NODE=many must be a whole number"),
        ("-DHPCME_TIME=tomorrow", "HPCME_TIME=tomorrow is not a Slurm time"),
        ("-DHPCME_PARTITION=a b", 'HPCME_PARTITION="a b" must be one word'),
        ("-DHPCME_SBATCH_EXTRA=constraint=a100", "every option must start with -"),
        ("-DHPCME_GPUS_PER_NODE=1", "every rank needs its own"),
        ("-DHPCME_NODES=0", "HPCME_NODES=0 must be a whole number, at least 1"),
        ("-DHPCME_SIGNAL_SECONDS=2m", "HPCME_SIGNAL_SECONDS=2m must be a whole number"),
        ("-DHPCME_AFTER_TIME=soon", "HPCME_AFTER_TIME=soon is not a Slurm time"),
    ],
)
def test_wrong_settings_are_refused_in_words(site, option, words):
    done = configure(site, option, check=False)
    assert done.returncode != 0
    assert words in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("version", "expected"),
    [("HYDRA build details", "TERM"), ("mpiexec (Open MPI) 5.0.11", "USR2"), ("slurm 22.05.8", "USR2")],
)
def test_the_launcher_decides_which_signal_asks_for_the_stop(site, version, expected):
    program(site / "bin/mpiexec", f'echo "{version}"\n')
    configure(site)
    assert f'\nstop_signal="{expected}"' in (site / "build/slurm/hpcme.sbatch").read_text()


@pytest.mark.parametrize(("flags", "warned"), [("", True), ("--mpi=pmix", False)])
def test_srun_without_a_way_to_join_its_ranks_is_warned_of(site, flags, warned):
    program(site / "bin/srun", 'echo "slurm 22.05.8"\n')
    done = configure(site, f"-DHPCME_LAUNCHER={site}/bin/srun", f"-DHPCME_LAUNCH_FLAGS={flags}")
    assert ("HPCME_LAUNCH_FLAGS has no --mpi" in " ".join(done.stderr.split())) == warned


def test_installing_puts_jobs_models_and_scripts_into_one_place(site):
    configure(site)
    install = [CMAKE, "--install", str(site / "build"), "--prefix", str(site / "place")]
    subprocess.run(install, check=True, capture_output=True)
    share = site / "place/share/hpcme"
    for name in ("hpcme", "hpcme-array", "hpcme-scan", "hpcme-after"):
        assert os.access(share / f"slurm/{name}.sbatch", os.X_OK)
    for job in (ROOT / "jobs").rglob("*.toml"):
        assert (share / job.relative_to(ROOT)).read_bytes() == job.read_bytes()


def test_a_part_runs_the_job_on_all_tasks_and_knows_its_deadline(site):
    configure(site, "-DHPCME_LAUNCH_FLAGS=--bind-to none")
    code, output, log = part(site, "exit 0")
    assert code == 0, output
    assert "launched: -n 3 --bind-to none hpcme run job.toml --out out folder --set run.seed=5\n" in log
    assert "squeue -h -j 77 -o %e" in log
    assert "scontrol" not in log


@pytest.mark.parametrize("code", [0, 65, 70, 74, 76, 143])
def test_every_end_but_75_is_passed_on_and_not_requeued(site, code):
    configure(site)
    (site / "step").write_text("3")
    ended, _, log = part(site, f"echo 9 >step; exit {code}")
    assert ended == code
    assert "scontrol" not in log


def test_a_stop_that_advanced_goes_back_into_the_queue(site):
    configure(site)
    code, output, log = part(site, "echo 12 >step; exit 75", SLURM_RESTART_COUNT="3")
    assert code == 0
    assert "advanced from step 0 to 12" in output
    assert log.splitlines()[-1] == "scontrol requeue 77"  # the last act


def test_a_stop_that_somebody_asked_for_is_not_requeued(site):
    configure(site)
    code, output, log = part(site, 'mkdir -p "out folder"; touch "out folder/STOP"; echo 12 >step; exit 75')
    assert code == 75
    assert "a file named STOP" in output and "scontrol" not in log


def test_a_stop_without_progress_ends_the_job(site):
    configure(site)
    (site / "step").write_text("12")
    code, output, log = part(site, "exit 75")
    assert code == 75
    assert "without having advanced" in output and "scontrol" not in log


@pytest.mark.parametrize(("restarts", "requeued"), [("1", True), ("2", False)])
def test_restarts_are_limited(site, restarts, requeued):
    configure(site, "-DHPCME_MAX_RESTARTS=2")
    code, output, log = part(site, "echo 12 >step; exit 75", SLURM_RESTART_COUNT=restarts)
    assert ("scontrol requeue 77" in log) == requeued
    assert code == (0 if requeued else 75)
    assert ("HPCME_MAX_RESTARTS=2" in output) != requeued


def test_one_task_of_an_array_requeues_itself_and_not_the_array(site):
    configure(site)
    _, _, log = part(site, "echo 12 >step; exit 75", SLURM_ARRAY_JOB_ID="77", SLURM_ARRAY_TASK_ID="4")
    assert "squeue -h -j 77_4 -o %e" in log
    assert log.splitlines()[-1] == "scontrol requeue 77_4"


def test_a_requeue_that_slurm_refuses_is_told(site):
    configure(site)
    program(site / "bin/scontrol", "exit 1\n")
    code, output, _ = part(site, "echo 12 >step; exit 75")
    assert code == 75
    assert "requeueing failed" in output


@pytest.mark.parametrize("ends", ["N/A", ""])
def test_without_a_time_limit_there_is_no_deadline(site, ends):
    configure(site)
    (site / "ends").write_text(ends)
    _, _, log = part(site, "exit 0")
    assert "deadline=none" in log


def test_the_deadline_is_the_end_that_slurm_told(site):
    configure(site)
    _, _, log = part(site, "exit 0")
    assert "deadline=1893553445" in log  # 2030-01-02 03:04:05 UTC


@pytest.mark.parametrize(("sent", "requeued"), [(signal.SIGUSR2, True), (signal.SIGTERM, False)])
def test_a_signal_reaches_the_run_and_the_script_waits_for_its_checkpoint(site, sent, requeued):
    """Near the time limit (USR2) the job goes on later; cancelled (TERM) it stays ended. Both save first."""
    configure(site)
    old_enough(site)
    (site / "behaviour").write_text(
        "trap 'sleep 1; echo 12 >step; echo checkpointed >>log; exit 75' TERM; touch started\n"
        "while :; do sleep 0.05; done\n"
    )
    job = begun(site)
    job.send_signal(sent)
    output, _ = job.communicate(timeout=60)
    log = (site / "log").read_text()
    assert "asking the run to stop at a checkpoint" in output
    assert "hpcme ended with exit code 75" in output
    assert "checkpointed" in log
    assert ("scontrol requeue 77" in log) == requeued
    assert job.returncode == (0 if requeued else 75)


@pytest.mark.parametrize(("step", "requeued"), [(12, True), (0, False)])
def test_a_run_that_died_of_the_signal_is_judged_by_what_is_on_disk(site, step, requeued):
    """It was about to end by itself (its handlers were gone), or had not yet begun."""
    configure(site)
    old_enough(site)
    (site / "behaviour").write_text(f"echo {step} >step; touch started\nexec sleep 60\n")
    job = begun(site)
    job.send_signal(signal.SIGUSR2)
    output, _ = job.communicate(timeout=60)
    assert "hpcme ended with exit code 143" in output
    assert ("scontrol requeue 77" in (site / "log").read_text()) == requeued
    assert job.returncode == (0 if requeued else 75)


def test_a_run_that_has_just_begun_gets_the_signal_later(site):
    configure(site)
    (site / "behaviour").write_text(
        "touch started; sleep 3\ntrap 'echo 12 >step; exit 75' TERM\nwhile :; do sleep 0.05; done\n"
    )
    job = begun(site)
    job.send_signal(signal.SIGUSR2)
    output, _ = job.communicate(timeout=60)
    assert "hpcme ended with exit code 75" in output and job.returncode == 0


def ends_in(site: Path, seconds: float) -> int:
    """Let squeue tell an end so far away, in whole seconds: that end, in seconds since 1970."""
    end = int(time.time() + seconds)
    (site / "ends").write_text(time.strftime("%Y-%m-%dT%H:%M:%S\n", time.gmtime(end)))
    return end


SAVES = "trap 'date +%s >asked; echo 12 >step; exit 75' TERM; touch started; while :; do sleep 0.05; done\n"


def test_a_warning_of_slurm_that_comes_early_waits_until_it_is_due(site):
    """Slurm may send it a minute early: at the very start of a short part, which would then never advance."""
    configure(site)
    old_enough(site)
    (site / "behaviour").write_text(SAVES)
    end = ends_in(site, 130)  # it is due 120 s before the end, as the site says by default
    job = begun(site)
    assert time.time() < end - 120, "too slow a start for this test"
    job.send_signal(signal.SIGUSR2)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 0 and "back into the queue" in output, output
    assert int((site / "asked").read_text()) >= end - 120


def test_a_job_that_is_cancelled_while_a_warning_waits_stops_at_once(site):
    configure(site)
    old_enough(site)
    (site / "behaviour").write_text(SAVES)
    end = ends_in(site, 175)
    job = begun(site)
    for sent in (signal.SIGUSR2, signal.SIGTERM):
        job.send_signal(sent)
        time.sleep(0.5)
    output, _ = job.communicate(timeout=30)
    assert job.returncode == 75 and "cancelled or preempted" in output
    assert int((site / "asked").read_text()) < end - 120
    # What was to repeat the warning is gone too: nothing is left that holds this pipe or signals a stranger.
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            assert cwd.readlink() != site, (cwd.parent / "cmdline").read_text()


def test_a_task_of_an_array_takes_its_line_of_the_list(site):
    configure(site)
    (site / "list").write_text("a.toml\truns/a\nb job.toml\truns/b folder\n")
    words = ("hpcme-array.sbatch", "list", "--set", "run.seed=5")
    task = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "2"}
    code, output, log = part(site, "echo 12 >step; exit 75", *words, **task)
    assert code == 0, output
    assert "launched: -n 3 hpcme run b job.toml --out runs/b folder --set run.seed=5\n" in log
    assert log.splitlines()[-1] == "scontrol requeue 77_2"
    (site / "list").write_text("a.toml\truns/a\nb.toml\n")
    code, output, _ = part(site, "exit 0", *words, **task)
    assert code == 65 and "line 2 of list is not JOB.toml and RUN_FOLDER" in output
    code, output, _ = part(site, "exit 0", *words)
    assert code == 65 and "usage: sbatch --array=1-N" in output


def test_a_group_of_tasks_runs_without_a_launcher_and_goes_on_while_any_of_them_advances(site):
    configure(site)
    program(
        site / "bin/hpcme",
        'answer=\'{\\n "tasks": [\\n {"step": 5},\\n {"step": null},\\n {"step": %s}\\n ]}\\n\'\n'
        'if [ "$2" = status ]; then echo "hpcme $*" >>log; printf "$answer" "$(cat step)"; exit; fi\n'
        'echo "hpcme $* deadline=${HPCME_DEADLINE:-none}" >>log\n. ./behaviour\n',
    )
    (site / "list").write_text("1-3\n4,6\n")
    words, task = ("hpcme-scan.sbatch", "list", "runs/s"), {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "2"}
    (site / "step").write_text("2")
    code, output, log = part(site, "echo 3 >step; exit 75", *words, **task)
    assert code == 0 and "advanced from step 7 to 8" in output, output
    assert "hpcme scan run runs/s --only 4,6 --processes 3 deadline=1893553445\n" in log and "launched" not in log
    assert "hpcme scan status runs/s --only 4,6 --json\n" in log and log.splitlines()[-1] == "scontrol requeue 77_2"
    code, output, _ = part(site, "exit 75", *words, **task)
    assert code == 75 and "without having advanced" in output
    assert part(site, "exit 65", *words, **task)[0] == 65
    code, output, _ = part(site, "exit 0", *words, **{**task, "SLURM_ARRAY_TASK_ID": "3"})
    assert code == 65 and "line 3 of list names no tasks" in output


def test_post_processing_runs_every_command_for_every_folder(site):
    configure(site)
    (site / "behaviour").write_text("")
    program(
        site / "bin/hpcme",
        'echo "hpcme $*" >>log\n[ "$1" != compare ] || { echo half; exit 65; }\necho "results of $2"\n',
    )
    commands = ("stats --json", "compare --with exact", "marginal --species 'A B'")
    words = ("hpcme-after.sbatch", "runs/a", "b c/", "--", *commands)
    (site / "runs").mkdir()
    code, output, log = part(site, "", *words)
    assert code == 65 and output.count("failed with exit code 65") == 2
    assert log.splitlines() == [
        "hpcme stats runs/a --json", "hpcme compare runs/a --with exact", "hpcme marginal runs/a --species A B",
        "hpcme stats b c/ --json", "hpcme compare b c/ --with exact", "hpcme marginal b c/ --species A B",
    ]  # fmt: skip
    assert sorted(path.name for path in (site / "runs").iterdir()) == ["a-marginal.txt", "a-stats.json"]
    assert (site / "b c-stats.json").read_text() == "results of b c/\n"


@pytest.mark.parametrize("name", ["hpcme", "hpcme-array", "hpcme-scan", "hpcme-after"])
def test_a_call_without_arguments_explains_itself(site, name):
    configure(site)
    script = site / f"build/slurm/{name}.sbatch"
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True)
    assert done.returncode == 65
    assert "usage: sbatch" in done.stdout and f"{name}.sbatch" in done.stdout
