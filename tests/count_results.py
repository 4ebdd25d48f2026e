"""Add up the JUnit reports of all pytest runs that CTest started: the last lines of tests/run.sh.

    python tests/count_results.py BUILD_FOLDER CTEST_EXIT_CODE

Prints every failed test, the reasons of skipped ones and, as the last line, "N passed, N failed, N skipped".
A run that left no report of its failure (time-out, crash, a failure on one MPI rank) counts as one failed
test. The exit code is 1 when anything failed, or when nothing ran.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as xml
from collections import Counter
from pathlib import Path


def read_reports(folder: Path) -> tuple[Counter[str], Counter[str], dict[str, list[str]]]:
    """Counts of passed, failed and skipped tests, reasons of skipping, and failed tests by report."""
    count: Counter[str] = Counter()
    skips: Counter[str] = Counter()
    failed: dict[str, list[str]] = {}
    for report in sorted(folder.glob("*.xml")):
        for case in xml.parse(report).iter("testcase"):
            results = {child.tag: child for child in case}
            if results.keys() & {"failure", "error"}:
                count["failed"] += 1
                failed.setdefault(report.stem, []).append(f"{case.get('classname')}::{case.get('name')}")
            elif "skipped" in results:
                count["skipped"] += 1
                skips[results["skipped"].get("message", "")] += 1
            else:
                count["passed"] += 1
    return count, skips, failed


def broken_runs(build: Path) -> list[str]:
    """Names of the CTest tests that failed in its last run, whether or not they left a report."""
    log = build / "Testing" / "Temporary" / "LastTestsFailed.log"
    return [line.partition(":")[2] for line in log.read_text().splitlines()] if log.exists() else []


def main(build: Path, code: int) -> int:
    """Print the summary; returns the exit code of the whole suite. code: the exit code of ctest."""
    count, skips, failed = read_reports(build / "junit")
    for reason, times in skips.items():
        print(f"skipped {times} time(s): {reason}")
    for run, names in failed.items():
        for name in names:
            print(f"failed: {name} (in {run})")
    for run in broken_runs(build):
        if run not in failed:
            count["failed"] += 1
            print(f"failed: {run} broke off (time-out, crash, a failure on one rank): see its output above")
    if code and not count["failed"]:
        count["failed"] += 1
        print(f"failed: ctest ended with exit code {code}: see its output above")
    if not count.total():
        count["failed"] += 1
        print("failed: not one test ran")
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
