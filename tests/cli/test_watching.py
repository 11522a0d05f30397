"""``tp-dspy report --watch``: the page while a run goes on, and how the watch ends, however the run does."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest

from programs.benchmarks.page import long_run
from programs.benchmarks.scripted import PromptView
from programs.benchmarks.worlds import World
from tp_dspy import SourcePrompts, TransferResult
from tp_dspy.cli.folders import at_work, has_ended, is_busy
from tp_dspy.runs.snapshots import RUNNING, SNAPSHOT

made = functools.cache(functools.partial(long_run, 30))
running = functools.cache(lambda: made().model_copy(update={"stopped": RUNNING, "held_out": None}))
pytestmark = pytest.mark.usefixtures("no_plots", "swift")

WATCH = ["report", "run", "--watch", "--every", "0.1"]
LM = ["--scorer-lm", "acme/small"]


@pytest.fixture
def journal(shell: Any) -> Iterator[filelock.BaseFileLock]:
    """The folder of a run of Python code that goes on."""
    Path("run").mkdir()
    Path("run/journal.sqlite").touch()
    with filelock.FileLock("run/journal.sqlite.lock", thread_local=False) as held:
        yield held


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


def end() -> None:
    made().save("run/result.json")
    Path("run", SNAPSHOT).unlink()


def test_a_watched_page_is_written_again_as_the_run_goes_on_until_it_has_ended(
    shell: Any, journal: filelock.BaseFileLock
) -> None:
    seen = []
    thread = meanwhile(
        lambda: time.sleep(0.5),
        lambda: running().save(f"run/{SNAPSHOT}"),
        lambda: until(lambda: "has not ended" in page()),
        lambda: seen.append(page()),
        lambda: time.sleep(0.5),
        lambda: running().model_copy(update={"settings": {"scorer_lm": "another"}}).save(f"run/{SNAPSHOT}"),
        lambda: until(lambda: "another" in page()),
        journal.release,
        end,
    )
    said = shell.run(*WATCH)
    thread.join(5)
    assert '<noscript><meta http-equiv="refresh" content="0.1"></noscript>' in seen[0]
    assert "has not ended" not in page() and 'http-equiv="refresh"' not in page()
    assert said.err.count("The page is run/report.html.") == 1 and "Stopped: all rounds done" in said.out
    assert "nobody works" not in said.err
    files = {path.name for path in Path("run").iterdir()}
    assert files == {"journal.sqlite", "journal.sqlite.lock", "report.html", "result.json"}


def test_watching_what_has_ended_writes_the_page_once(shell: Any) -> None:
    made().save("run/result.json")
    assert shell.run("report", "run", "--watch", "--json").json["page"] == "run/report.html"
    assert "has not ended" not in page() != ""


@pytest.mark.parametrize("named", ["run", f"run/{SNAPSHOT}"])
def test_the_file_of_what_was_found_so_far_stands_for_its_folder(
    shell: Any, journal: filelock.BaseFileLock, named: str
) -> None:
    running().save(f"run/{SNAPSHOT}")
    thread = meanwhile(lambda: until(lambda: "has not ended" in page()), end, journal.release)
    said = shell.run("report", named, *WATCH[2:])
    thread.join(5)
    assert "has not ended" not in page() != "" and "Stopped: all rounds done" in said.out


def test_a_run_of_python_code_that_was_killed_ends_the_watch(shell: Any, journal: filelock.BaseFileLock) -> None:
    running().save(f"run/{SNAPSHOT}")
    thread = meanwhile(lambda: until(lambda: 'http-equiv="refresh"' in page()), journal.release)
    said = shell.run(*WATCH)
    thread.join(5)
    assert (
        "run has not ended, and nobody works on it any more" in said.err
        and "same call with the same run_dir" in said.err
    )
    assert "not ended yet" in said.out and "has not ended" in page() and 'http-equiv="refresh"' not in page()


def test_a_command_that_was_killed_ends_the_watch_and_how_to_mend_it_is_told(
    shell: Any, mine: str, small: list[str]
) -> None:
    shell.run("compile", "question -> answer", "-t", mine, *LM, *small, "--out", "run")
    state = TransferResult.load("run/result.json").stopped
    record = Path("run/run.json").read_text().replace(f'"state": "{state}"', '"state": "running"')
    Path("run/run.json").write_text(record)
    # While it measured: there is a result, without the held-out table.
    said = shell.run(*WATCH)
    assert (
        "run has not ended, and nobody works on it any more" in said.err and "`tp-dspy resume run` goes on" in said.err
    )
    assert 'http-equiv="refresh"' not in page() != ""
    # In the middle.
    Path("run/result.json").unlink()
    running().save(f"run/{SNAPSHOT}")
    assert "`tp-dspy resume run` goes on with it" in shell.run(*WATCH).err
    # Before it had found anything.
    Path("run", SNAPSHOT).unlink()
    assert "it is unfinished; `tp-dspy resume run` goes on with it" in shell.run(*WATCH, code=2).err


def test_nobody_at_work_for_one_look_is_no_end(shell: Any, mine: str, small: list[str]) -> None:
    shell.run("compile", "question -> answer", "-t", mine, *LM, *small, "--out", "run")
    whole = Path("run/run.json").read_text()
    state = TransferResult.load("run/result.json").stopped
    Path("run/run.json").write_text(whole.replace(f'"state": "{state}"', '"state": "running"'))
    held = filelock.FileLock("run/run.lock", thread_local=False)
    thread = meanwhile(
        lambda: until(lambda: page() != ""),
        held.acquire,
        lambda: time.sleep(0.5),
        lambda: Path("run/run.json").write_text(whole),
        held.release,
    )
    said = shell.run(*WATCH)
    thread.join(5)
    assert "nobody works" not in said.err and "is still being measured" not in page() != ""


def test_a_later_run_that_was_killed_leaves_the_complete_result_on_the_page(
    shell: Any, journal: filelock.BaseFileLock
) -> None:
    made().save("run/result.json")
    os.utime("run/result.json", (1, 1))
    running().save(f"run/{SNAPSHOT}")
    thread = meanwhile(lambda: until(lambda: "has not ended" in page()), journal.release)
    said = shell.run(*WATCH)
    thread.join(5)
    assert "nobody works on it any more" in said.err and "`tp-dspy report run/so_far.json`" in said.err
    assert "Stopped: all rounds done" in said.out and "has not ended" not in page() != ""


def test_one_of_several_targets_is_worked_on_as_long_as_their_run(shell: Any, journal: filelock.BaseFileLock) -> None:
    running().save(f"run/a/{SNAPSHOT}")
    made().save("run/b/result.json")
    assert is_busy(Path("run/a")) and not has_ended(Path("run/a"), True)
    assert has_ended(Path("run/b"), True), "whatever becomes of the others"
    shell.run("report", "run/b", *WATCH[2:])
    journal.release()
    assert "nobody works on it any more" in shell.run("report", "run/a", *WATCH[2:]).err


def test_making_source_prompts_can_be_watched_to_the_end(
    shell: Any, world: World, journal: filelock.BaseFileLock
) -> None:
    words = ["--examples", "4", "--rounds", "1", "--proposals", "1", "--top-k", "2", "--adapter", "plain", *LM]
    shell.run("sources", "make", "question -> answer", *words, "-s", "law.csv", "-o", "made.json")
    prompts = SourcePrompts.load("made.json")
    running().save(f"run/{SNAPSHOT}")
    thread = meanwhile(
        lambda: until(lambda: "has not ended" in page()),
        lambda: prompts.save("run/source_prompts.json"),
        journal.release,
        Path("run", SNAPSHOT).unlink,
    )
    found = shell.run(*WATCH, "--json")
    thread.join(5)
    assert found.json["winner"]["id"] == prompts.prompts[0].id and found.json["stopped"] == prompts.phase.stopped
    assert "`tp-dspy sources show run/source_prompts.json` shows them" in found.err and "nobody works" not in found.err
    assert "has not ended" not in page() != ""


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


# What a command holds while it works.


def looking(shell: Any, found: list[bool | None]) -> None:
    """See at each call of the scorer LM whether the run is worked on."""
    rule = shell.rules["scorer"]

    def answer(prompt: PromptView) -> Any:
        found.append(is_busy(Path("run")) and not has_ended(Path("run"), is_busy(Path("run"))))
        return rule(prompt)

    shell.rules["scorer"] = answer


@pytest.mark.parametrize("command", ["compile", "demo"])
def test_a_command_is_at_work_until_it_has_measured(shell: Any, mine: str, small: list[str], command: str) -> None:
    found: list[bool | None] = []
    looking(shell, found)
    if command == "demo":
        shell.run("demo", "--out", "run", "--examples", 2, "--test-limit", 4)
    else:
        shell.run("compile", "question -> answer", "-t", mine, *LM, *small, "--out", "run")
    assert len(found) == shell.paid and all(found)
    assert is_busy(Path("run")) is False and has_ended(Path("run"), False)


def test_a_run_is_held_from_the_start_of_its_resumption(shell: Any, mine: str, small: list[str]) -> None:
    Path("mine.py").write_text(
        "import dspy\nfrom pathlib import Path\nfrom tp_dspy.cli.folders import is_busy\n"
        "print('busy:', is_busy(Path('run')))\nprogram = dspy.Predict('question -> answer')\n"
    )
    assert "busy: False" in shell.run("compile", "mine.py", "-t", mine, *LM, *small, "--out", "run").out
    assert "busy: True" in shell.run("resume", "run").out


def test_two_commands_at_once_do_not_work_on_one_run(shell: Any, mine: str, small: list[str]) -> None:
    words = ["compile", "question -> answer", "-t", mine, *LM, *small, "--out", "run"]
    shell.run(*words)
    record = Path("run/run.json").read_text()
    with at_work(Path("run")):
        for again in (words, ["resume", "run"]):
            assert "run is in use by another process" in shell.refused(*again, code=1)
    assert Path("run/run.json").read_text() == record
