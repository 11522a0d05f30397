"""``tp-dspy report``: the page, and watching a run that goes on."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from programs.benchmarks.page import long_run
from tp_dspy import TransferResult
from tp_dspy.runs.snapshots import RUNNING, SNAPSHOT

made = functools.cache(functools.partial(long_run, 30))
running = functools.cache(lambda: made().model_copy(update={"stopped": RUNNING, "held_out": None}))


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots have tests of their own, and take seconds."""
    monkeypatch.setattr("tp_dspy.report.page._figures", lambda result: [])


@pytest.fixture
def run(shell: Any) -> Path:
    """The folder of a run that has ended."""
    made().save("run/result.json")
    return Path("run")


def test_a_report_writes_the_page_and_says_where(shell: Any, run: Path) -> None:
    said = shell.run("report", "run")
    assert "The target phase" in said.out and "Stopped: all rounds done" in said.out, "the text is still there"
    assert "The page is run/report.html." in said.err
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Target prompt for" in page and 'http-equiv="refresh"' not in page


def test_the_page_goes_where_it_is_wanted_or_is_left_out(shell: Any, run: Path) -> None:
    shell.run("report", "run", "--out", "pages/mine.html")
    assert Path("pages/mine.html").is_file() and not (run / "report.html").exists()
    said = shell.run("report", "run", "--no-page")
    assert "The target phase" in said.out and "The page" not in said.both
    assert sorted(path.name for path in run.iterdir()) == ["result.json"]


def test_a_file_will_do_in_the_place_of_a_folder(shell: Any, run: Path) -> None:
    (run / "result.json").rename("elsewhere.json")
    assert "The page is report.html." in shell.run("report", "elsewhere.json").err
    assert Path("report.html").is_file()


def test_the_json_document_is_the_result_and_where_the_page_is(shell: Any, run: Path) -> None:
    found = shell.run("report", "run", "--json").json
    assert found.pop("page") == "run/report.html"
    assert found.keys() == made().model_dump().keys() and found["winner"]["id"] == made().winner.id
    assert shell.run("report", "run", "--json", "--no-page").json["page"] is None


def test_what_was_found_so_far_is_shown_where_there_is_no_result_yet(shell: Any) -> None:
    running().save(f"run/{SNAPSHOT}")
    said = shell.run("report", "run")
    assert "not ended yet" in said.out
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "This run has not ended yet." in page and 'http-equiv="refresh"' not in page, "nobody writes it again"


def test_a_run_that_was_taken_up_again_is_shown_as_far_as_it_is_now(shell: Any, run: Path) -> None:
    running().save(run / SNAPSHOT)
    os.utime(run / "result.json", (1, 1))
    assert "not ended yet" in shell.run("report", "run").out
    os.utime(run / SNAPSHOT, (0, 0))
    assert "not ended yet" not in shell.run("report", "run").out


def test_what_cannot_be_reported(shell: Any, run: Path) -> None:
    Path("empty").mkdir()
    for name in ("empty", "nothing"):
        for how in ((), ("--watch",)):
            assert f"'{name}' holds no result: it is no run" in shell.refused("report", name, *how)
    assert "--no-page" in shell.refused("report", "run", "--watch", "--no-page")
    Path("bad.json").write_text("{}")
    assert "has the format None" in shell.refused("report", "bad.json")
    assert not Path("report.html").exists() and not (run / "report.html").exists()


# Watching.


def meanwhile(*steps: Callable[[], Any]) -> threading.Thread:
    """Take steps one after the other while a command runs; each waits until the one before has shown."""

    def walk() -> None:
        for step in steps:
            step()

    thread = threading.Thread(target=walk, daemon=True)
    thread.start()
    return thread


def until(found: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def page() -> str:
    path = Path("run/report.html")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def test_a_watched_page_is_written_again_as_the_run_goes_on_until_it_has_ended(shell: Any) -> None:
    Path("run").mkdir()
    Path("run/journal.sqlite").touch()
    seen = []

    def end() -> None:
        made().save("run/result.json")
        Path("run", SNAPSHOT).unlink()

    thread = meanwhile(
        lambda: time.sleep(0.3),
        lambda: running().save(f"run/{SNAPSHOT}"),
        lambda: until(lambda: "has not ended" in page()),
        lambda: seen.append(page()),
        lambda: running().model_copy(update={"settings": {"scorer_lm": "another"}}).save(f"run/{SNAPSHOT}"),
        lambda: until(lambda: "another" in page()),
        end,
    )
    said = shell.run("report", "run", "--watch", "--every", "0.1")
    thread.join(5)
    assert '<noscript><meta http-equiv="refresh" content="0.1"></noscript>' in seen[0]
    assert "has not ended" not in page() and 'http-equiv="refresh"' not in page()
    assert said.err.count("The page is run/report.html.") == 1 and "Stopped: all rounds done" in said.out
    assert sorted(path.name for path in Path("run").iterdir()) == ["journal.sqlite", "report.html", "result.json"]


def test_watching_what_has_ended_writes_the_page_once(shell: Any, run: Path) -> None:
    assert shell.run("report", "run", "--watch", "--json").json["page"] == "run/report.html"
    assert "has not ended" not in page() != ""


def test_a_command_that_still_measures_is_waited_for(
    shell: Any, mine: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.run("compile", "question -> answer", "-t", mine, "--scorer-lm", "acme/small", *small, "--out", "run")
    whole = Path("run/run.json").read_text()
    state = TransferResult.load("run/result.json").stopped
    Path("run/run.json").write_text(whole.replace(f'"state": "{state}"', '"state": "running"'))
    thread = meanwhile(
        lambda: until(lambda: "is still being measured" in page()),
        lambda: Path("run/run.json").write_text(whole),
    )
    shell.run("report", "run", "--watch", "--every", "0.1")
    thread.join(5)
    assert "is still being measured" not in page() != ""


def test_ctrl_c_ends_a_watch_and_leaves_a_page_that_waits_for_nothing(shell: Any) -> None:
    running().save(f"run/{SNAPSHOT}")
    thread = meanwhile(
        lambda: until(lambda: 'http-equiv="refresh"' in page()),
        lambda: time.sleep(0.3),
        lambda: os.kill(os.getpid(), signal.SIGINT),
    )
    said = shell.run("report", "run", "--watch", "--every", "60", code=130)
    thread.join(5)
    assert "Interrupted" in said.err and "Traceback" not in said.both
    assert "has not ended" in page() and 'http-equiv="refresh"' not in page()
