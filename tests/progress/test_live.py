"""The display around real work: when it draws, that it never stands in the way, and that it is silent where asked."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.progress.scenes import a_phase, answer, planned
from tests.test_resume import Lab
from tp_dspy.optimization.events import PhaseBegan, StepBegan
from tp_dspy.progress import LiveProgress, counting, live
from tp_dspy.progress.view import View
from tp_dspy.scoring.outcomes import Outcome

ROOT = Path(__file__).parents[2]


class Recorder:
    """A renderer that keeps what it was to draw."""

    interval = 0.01
    eager = False

    def __init__(self) -> None:
        self.drawn: list[View] = []
        self.closed: list[View] = []
        self.threads: set[str] = set()

    def draw(self, view: View) -> None:
        self.threads.add(threading.current_thread().name)
        self.drawn.append(view)

    def close(self, view: View) -> None:
        self.closed.append(view)


def until(holds: object) -> None:
    deadline = time.monotonic() + 10
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_time_goes_on_while_nothing_is_told() -> None:
    recorder, started = Recorder(), threading.active_count()
    with LiveProgress(renderer=recorder) as shown:
        shown(planned())
        shown(a_phase()[0][0])
        until(lambda: len(recorder.drawn) >= 3)
    times = [view.seconds for view in recorder.drawn]
    assert times == sorted(times) and times[0] < times[-1] <= recorder.closed[0].seconds
    assert recorder.threads == {"tp_dspy-progress"}, "whoever compiles does not wait for the drawing"
    drawn = len(recorder.drawn)
    time.sleep(0.05)
    assert len(recorder.drawn) == drawn and threading.active_count() == started, "nothing goes on afterwards"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_ends_it_is_told_and_the_screen_is_free_again(error: type[BaseException]) -> None:
    for _ in range(2):
        recorder = Recorder()
        with pytest.raises(error), LiveProgress(renderer=recorder) as shown:
            shown(StepBegan("Scoring", 3))
            raise error
        assert [one.why for one in recorder.closed[0].ended] == [f"broken off: {error.__name__}"]


def test_the_screen_is_free_again_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(RuntimeError, match="can't start new thread"), LiveProgress(renderer=Recorder()):
            raise AssertionError("not reached")
    recorder = Recorder()
    with LiveProgress(renderer=recorder) as shown:
        shown(StepBegan("Scoring", 3))
        until(lambda: recorder.drawn)


def test_a_display_within_another_shows_nothing() -> None:
    outer, inner = Recorder(), Recorder()
    with LiveProgress(renderer=outer) as shown:
        shown(StepBegan("Scoring", 3))
        with LiveProgress(renderer=inner) as nested:
            nested(StepBegan("Scoring", 3))
            time.sleep(0.03)
        until(lambda: outer.drawn)
    assert inner.drawn == inner.closed == [] and len(outer.closed) == 1


def test_a_display_that_breaks_does_not_end_the_work(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recorder):
        def draw(self, view: View) -> None:
            raise OSError("the page was closed")

    with LiveProgress(renderer=Broken()) as shown:
        shown(StepBegan("Scoring", 3))
        until(lambda: "the work goes on" in caplog.text)
        shown(answer("Scoring"))


def test_what_is_counted_is_passed_on_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(live, "_here", lambda *, keep: recorder)

    def pairs() -> Iterator[tuple[int, Outcome]]:
        for index in range(5):
            until(lambda: len(recorder.drawn) > 2 * index)  # noqa: B023
            yield index, Outcome("error" if index == 2 else "ok")

    assert [index for index, _ in counting(pairs(), 5, "Scoring")] == [0, 1, 2, 3, 4]
    assert {view.title for view in recorder.drawn} == {"Scoring"}
    assert recorder.closed[0].ended[0].line == "Scoring: 5 scorer calls in 0:00; 1 without an answer"


def test_a_compile_is_told_in_lines_without_a_blank_one() -> None:
    console = Console(file=io.StringIO(), width=40)
    with LiveProgress(console) as shown:
        Lab(None).compile(rounds=1, listen=shown)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(re.match(r"\[\d:\d\d\] \S", line) for line in lines)
    said = [line.split("] ", 1)[1] for line in lines]
    assert said[0].startswith("At most: source phase") and "tokens sent by the program" in said[0]
    for title in ("Source prompts", "Target prompt"):
        phase = [line.removeprefix(title) for line in said if line.startswith(title)]
        assert re.match(r": scoring the first (\d prompts|prompt); best not known yet", phase[0])
        assert re.match(r": first prompts scored, waiting for proposals; best 0\.\d+", phase[1])
        assert re.match(r", round 1 of 1: 1 of 1 replies usable, the last round; best 0\.\d+", phase[2])
        assert re.match(r": 0\.\d+, [+]0\.\d+ on the original \(selection scores\); \d+ scorer calls", phase[3])
        assert len(phase) == 4
    assert said[-1].startswith("Spent: ") and "price unknown" in said[-1]


# In processes of their own.

WORK = """
import logging, sys
from tests.test_resume import Lab
from tp_dspy import ObjectiveEvaluator
import dspy
import tp_dspy
lab = Lab(None)
lab.compile(rounds=1, verbose=VERBOSE)
program = dspy.Predict("question -> answer")
lm = lab.world.scorer_lm()
with dspy.context(adapter=tp_dspy.InstructionAdapter()):
    ObjectiveEvaluator().evaluate(program, lab.target.train, lm=lm, verbose=VERBOSE)
    ObjectiveEvaluator().evaluate_all({"a": program}, lab.target.train, lm=lm, verbose=VERBOSE)
"""


@pytest.mark.parametrize("verbose", [True, False])
def test_nothing_is_written_into_a_pipe_by_a_library_call(verbose: bool) -> None:
    code = WORK.replace("VERBOSE", str(verbose))
    colourful = {**os.environ, "FORCE_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, env=colourful, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def in_a_terminal(code: str, *, interrupt_at: bytes | None = None) -> bytes:
    """Run code with a terminal, and press Ctrl-C twice where something appears on it."""
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=child, stdout=child, stderr=child, cwd=ROOT, env=environment, close_fds=True
    )
    os.close(child)
    said, pressed = b"", 0
    while True:
        try:
            data = os.read(parent, 65536)
        except OSError:  # How Linux says that the other end was closed.
            break
        if not data:
            break
        said += data
        if interrupt_at is not None and interrupt_at in said and pressed < 2:
            process.send_signal(signal.SIGINT)
            pressed += 1
            time.sleep(0.3)
    process.wait(timeout=30)
    os.close(parent)
    return said


def test_nothing_is_written_on_a_terminal_either_without_verbose() -> None:
    assert in_a_terminal(WORK.replace("VERBOSE", "False")) == b""


def test_two_interrupts_leave_a_terminal_that_can_be_used() -> None:
    code = """
import logging, time
logging.basicConfig(format="LOG %(message)s")
from tests.test_resume import Lab
lab = Lab(None, lambda prompt: float("world" in prompt.text))
lab.compile(verbose=True, num_threads=2)
"""
    said = in_a_terminal(code, interrupt_at=b"at most ").decode()
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") == 1
    assert said.index("\x1b[?25l") < said.index("\x1b[?25h") < said.index("Traceback")
    after = said[said.index("\x1b[?25h") :]
    assert re.search(r"Source prompts: \d+ scorer calls in 0:\d\d; broken off: KeyboardInterrupt\r\n", after)
    assert "━" not in after, "nothing is drawn over what follows"
    # The log line begins where the display was erased, at the beginning of a line.
    assert re.search(r"(\x1b\[2K|\r|\n|\x1b\[1A)LOG Interrupted: waiting for the calls under way", said)


def test_the_log_of_a_display_goes_through_logging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Lab(None).compile(rounds=1, verbose=True)
    told = [record.getMessage() for record in caplog.records if record.name == "tp_dspy.session"]
    assert told[0].startswith("At most: ") and told[1].startswith("Spent: ")


class Breaking:
    """A display whose terminal has gone."""

    interval, eager = 0.01, True

    def __init__(self, error: BaseException) -> None:
        self.error, self.shown = error, 0

    def draw(self, view: object) -> None:
        self.shown += 1
        raise self.error

    close = draw


@pytest.mark.parametrize("error", [OSError(5, "gone"), ValueError("closed file"), SystemExit(1)])
def test_a_display_that_breaks_ends_nothing(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    broken = Breaking(error)
    with LiveProgress(renderer=broken) as live:
        live(PhaseBegan("source", 3, 2))
        live(StepBegan("source", 12))
    assert broken.shown == 1 and "the work goes on without it" in caplog.text
