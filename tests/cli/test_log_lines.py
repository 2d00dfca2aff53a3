"""A log gets a line after the first step, at most one in half a minute after it, and one at the end of a stage."""

from __future__ import annotations

import re
import time

import pytest

from dpc.cli.log_lines import LogLines, told_while_slow
from dpc.cli.progress import is_log, terminal
from dpc.run.reporter import Progress


class Log:
    """Lines with the time when they were written, on a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[tuple[float, str]] = []
        self.shown = LogLines(lambda text: self.lines.append((self.now, text)), lambda: self.now)


def test_a_stage_of_five_minutes_has_a_line_every_half_minute_with_what_is_left() -> None:
    log = Log()
    for step in range(101):
        log.shown.show(Progress("tune", step, 100, f"loss {step / 10:.3f}" if step else ""))
        log.now += 3
    times = [at for at, _ in log.lines]
    assert times == [3, *range(33, 300, 30), 300]
    assert log.lines[0][1] == "tune 1/100, loss 0.100, 20 a minute, 0:04:57 left"
    assert log.lines[1][1] == "tune 11/100, loss 1.100, 20 a minute, 0:04:27 left"
    assert log.lines[-1][1] == "tune 100/100, loss 10.000, after 0:05:00"


def test_a_step_of_two_minutes_is_not_silent_and_does_not_hide_the_step_before() -> None:
    log = Log()
    log.shown.show(Progress("dpc", 20, 60))  # Another command answered these.
    log.now = 29
    log.shown.tick()
    assert log.lines == []
    for log.now in range(30, 121):
        log.shown.tick()
    log.now = 150
    log.shown.show(Progress("dpc", 30, 60, "40.0% right"))
    assert [at for at, _ in log.lines] == [30, 60, 90, 120, 150]
    assert log.lines[0][1] == "dpc 20/60, after 0:00:30"
    assert log.lines[-1][1] == "dpc 30/60, 40.0% right, 4 a minute, 0:07:30 left"


def test_a_stage_that_begins_anew_has_a_first_line_again_and_one_that_ended_is_silent() -> None:
    log = Log()
    for name, done in (("tune", 0), ("tune", 1), ("tune", 2), ("tune", 0), ("tune", 1), ("act", 2)):
        log.now += 0.5
        log.shown.show(Progress(name, done, 2))
    assert [text.partition(",")[0] for _, text in log.lines] == ["tune 1/2", "tune 2/2", "tune 1/2", "act 2/2"]
    log.now += 1000
    log.shown.tick()
    assert len(log.lines) == 4


def test_a_slow_start_says_so_and_a_quick_one_does_not() -> None:
    told: list[str] = []
    with told_while_slow("loading a/b", told.append, 0.05):
        time.sleep(0.17)
    assert 1 <= len(told) <= 3
    assert told[0] == "loading a/b: 0:00:00 so far"
    with told_while_slow("loading a/b", told.append, 5.0):
        count = len(told)
    assert len(told) == count


def test_a_log_has_no_control_characters(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert is_log()
    with terminal() as report:
        report.say("1/2 tune a soft prompt into a folder whose name is long enough to be wrapped on a terminal of 80")
        for step in range(3):
            report.progress(Progress("tune", step, 2, "loss 1.0"))
    written = capsys.readouterr().err
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", written)
    assert len(written.splitlines()) == 3
