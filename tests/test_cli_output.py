"""Formats of results, and progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re

import pytest

from hpcme.cli import progress
from hpcme.cli.output import Table, bytes_text, csv_text, json_text, seconds_text, show, with_error
from hpcme.cli.progress import Display
from hpcme.dynamics.evolve import Progress


@pytest.mark.parametrize(
    "value, error, text",
    [
        (12.34567, 0.0234, "12.346 +- 0.023"),
        (1234.5, 67.0, "1234 +- 67"),
        (0.5, 0.0, "0.5"),
        (0.5, None, "0.5"),
        (None, 0.1, "-"),
        (float("nan"), 0.1, "-"),
        (-3.21, 0.5, "-3.21 +- 0.50"),
        (1.0, 1e-30, "1 +- 1.0e-30"),
    ],
)
def test_errors_are_given_with_two_digits(value, error, text):
    assert with_error(value, error) == text


def test_csv_reads_back_to_the_same_numbers():
    rows = [[0.1 + 0.2, 7, "a,b", None], [1e-300, -1, 'say "x"', float("-inf")]]
    text = csv_text(Table("ignored", ["x", "n", "name", "unknown"], rows))
    back = list(csv.reader(io.StringIO(text)))
    assert back[0] == ["x", "n", "name", "unknown"]
    assert [float(back[1][0]), int(back[1][1]), back[1][2], back[1][3]] == [0.1 + 0.2, 7, "a,b", ""]
    assert float(back[2][0]) == 1e-300 and back[2][2] == 'say "x"' and float(back[2][3]) == float("-inf")


def test_json_has_null_where_a_number_is_not_known():
    assert json.loads(json_text({"x": [1.5, float("nan"), float("inf")], "n": 3})) == {
        "x": [1.5, None, None],
        "n": 3,
    }


def test_tables_align_numbers_to_the_right_and_words_to_the_left(capsys):
    table = Table("title", ["name", "value"], [["A", 1.0], ["long", 123.456]], ["a note"])
    show(argparse.Namespace(json=False, csv=False), {}, lambda: [table], lambda: table)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["title", "  name    value", "  A           1", "  long  123.456", "  a note"]


def test_sizes_and_times_in_words():
    assert [bytes_text(x) for x in (12, 2048, 3 * 2**20, 5 * 2**40)] == ["12 B", "2 KiB", "3 MiB", "5 TiB"]
    assert [seconds_text(x) for x in (0.0123, 2.5, 65, 7265, 90000)] == [
        "12.3 ms",
        "2.5 s",
        "1 min 05 s",
        "2 h 01 min",
        "1 d 01 h",
    ]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return now


def _steps(display, clock, seconds, count):
    for i in range(1, count + 1):
        clock[0] += seconds
        display.step(Progress(t=i / count * 5.0, end=5.0, step=i, dt=0.01, bound=0.02, wall=0.0))


def test_a_log_gets_one_plain_line_every_ten_seconds(clock):
    stream = io.StringIO()
    with Display("hpcme", stream=stream) as display:
        _steps(display, clock, 0.5, 100)  # 50 s
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert all(
        re.fullmatch(r"hpcme: t = \S+ of 5, [\d.]+%, step \d+, dt 0.01, error <= 0.02, ETA .*", x)
        for x in lines
    )
    assert stream.getvalue().isprintable() or not re.search(r"[^\n -~]", stream.getvalue())
    # half way, in the line at 20 s of 50: the rest goes like what was seen, 0.5 s a step
    assert lines[1].endswith(", 40.0%, step 40, dt 0.01, error <= 0.02, ETA 30 s")


def test_a_terminal_gets_one_line_redrawn_in_place_and_wiped(clock):
    stream = Terminal()
    with Display("hpcme", stream=stream) as display:
        _steps(display, clock, 0.5, 10)
        display.say("a word in between")
        _steps(display, clock, 0.5, 1)
    drawn = stream.getvalue()
    assert "\n" not in drawn.replace("a word in between\n", "")
    frames = drawn.split("\r\x1b[K")
    assert max(map(len, frames)) < 100
    assert "[###" in frames[-2] and "100.0%" in frames[-2]
    assert frames[-1] == ""  # wiped at the end
    assert "\r\x1b[Ka word in between\n" in drawn  # and before a line


def test_narrow_and_dumb_terminals_are_respected(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    with Display("hpcme", stream=stream) as display:
        _steps(display, clock, 0.5, 10)
    assert max(map(len, stream.getvalue().split("\r\x1b[K"))) < 40
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Display("hpcme", stream=stream) as display:
        _steps(display, clock, 5.0, 10)
    assert (
        "\x1b" not in stream.getvalue()
        and "\r" not in stream.getvalue()
        and stream.getvalue().count("\n") == 5
    )


def test_quiet_shows_nothing_and_a_closed_stream_does_not_stop_the_work(clock):
    stream = Terminal()
    with Display("hpcme", quiet=True, stream=stream) as display:
        display.say("word")
        _steps(display, clock, 5.0, 10)
    assert stream.getvalue() == ""

    class Broken(Terminal):
        def write(self, text):
            raise BrokenPipeError

    with Display("hpcme", stream=Broken()) as display:
        display.say("word")
        _steps(display, clock, 5.0, 10)
        assert display.quiet
