"""Running the tasks of a scan as processes of this machine, some at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime

from hpcme.errors import HpcmeError, MoreTime, OutputError
from hpcme.parallel.launch import without_launcher
from hpcme.scan.tasks import Scan, Task

_LOOK = 0.05  # seconds between looks at the processes


def run_tasks(
    scan: Scan,
    tasks: list[Task],
    processes: int,
    stop: Callable[[], bool],
    ended: Callable[[Task, int], None] = lambda task, code: None,
) -> dict[int, int]:
    """Run tasks, each in a process of its own that works on one rank, at most `processes` at a time.

    Returns exit codes by task number (negative: the signal that killed the process); tasks that had not begun when
    `stop` asked to end are absent. Those that had are asked to write their checkpoint (SIGTERM). ended(task, code) is
    called as tasks end. The CPUs that may be used here are shared among the processes. Raises OutputError when a log
    cannot be written; what runs is then asked to stop.
    """
    waiting = list(reversed(tasks))
    running: dict[int, tuple[Task, subprocess.Popen]] = {}
    codes: dict[int, int] = {}
    asked = False
    try:
        while running or (waiting and not asked):
            if not asked and stop():
                asked = True
                _ask_to_stop(running)
            while waiting and len(running) < processes and not asked:
                task = waiting.pop()
                running[task.number] = (task, _start(scan, task, processes))
            for number, (task, process) in list(running.items()):
                code = process.poll()
                if asked and code == -signal.SIGTERM:  # one that was just starting knew no signals yet
                    code = MoreTime.exit_code
                if code is not None:
                    del running[number]
                    codes[number] = code
                    _log(scan, task, f"hpcme ended with exit code {code}")
                    ended(task, code)
            time.sleep(_LOOK)
    finally:
        _ask_to_stop(running)
        for _, process in running.values():
            process.wait()
    return codes


def exit_code(codes: list[int]) -> int:
    """The exit code of a scan from those of its tasks: 0 when all are, 75 when one wants more time, else that of the
    first that failed (70 for one that was killed)."""
    if MoreTime.exit_code in codes:
        return MoreTime.exit_code
    failed = next((code for code in codes if code != 0), 0)
    return failed if failed >= 0 else HpcmeError.exit_code


def _start(scan: Scan, task: Task, processes: int) -> subprocess.Popen:
    """Start a task; a session of its own keeps a Ctrl-C in the terminal from reaching it twice."""
    words = [sys.executable, "-m", "hpcme", "run", str(scan.job_file(task)), "--out", str(scan.run_folder(task))]
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    environment = {"HPCME_THREADS": str(threads), **without_launcher(os.environ)}
    _log(scan, task, f"task {task.number} begins: {task.described()}")
    with scan.log(task).open("ab") as log:
        return subprocess.Popen(
            [*words, "--quiet"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def _ask_to_stop(running: dict[int, tuple[Task, subprocess.Popen]]) -> None:
    for _, process in running.values():
        process.send_signal(signal.SIGTERM)


def _log(scan: Scan, task: Task, line: str) -> None:
    try:
        with scan.log(task).open("a", encoding="utf-8") as log:
            log.write(f"hpcme: {datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
    except OSError as error:
        raise OutputError(f"the log {scan.log(task)} cannot be written: {error.strerror}.") from None
