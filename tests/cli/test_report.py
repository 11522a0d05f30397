"""``tp-dspy report``: the page, and what is said of a folder by what is in it."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import filelock
import pytest

from programs.benchmarks.page import long_run
from programs.benchmarks.worlds import World
from tp_dspy import TransferResult
from tp_dspy.runs.snapshots import RUNNING, SNAPSHOT

made = functools.cache(functools.partial(long_run, 30))
running = functools.cache(lambda: made().model_copy(update={"stopped": RUNNING, "held_out": None}))
pytestmark = pytest.mark.usefixtures("no_plots")


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


def test_a_complete_result_is_shown_rather_than_what_a_later_run_left_behind(shell: Any, run: Path) -> None:
    running().save(run / SNAPSHOT)
    os.utime(run / "result.json", (1, 1))
    said = shell.run("report", "run")
    assert "not ended yet" not in said.out and "Stopped: all rounds done" in said.out
    assert "the result of an earlier run" in said.err and "`tp-dspy report run/so_far.json`" in said.err
    said = shell.run("report", f"run/{SNAPSHOT}")
    assert "not ended yet" in said.out and "earlier run" not in said.err
    # One that the result has taken the place of says nothing new.
    os.utime(run / SNAPSHOT, (0, 0))
    assert "earlier run" not in shell.run("report", "run").err


def test_while_a_run_is_taken_up_again_it_is_shown_as_far_as_it_is_now(shell: Any, run: Path) -> None:
    running().save(run / SNAPSHOT)
    os.utime(run / "result.json", (1, 1))
    with filelock.FileLock("run/journal.sqlite.lock"):
        said = shell.run("report", "run")
    assert "not ended yet" in said.out and "earlier run" not in said.err


def test_what_was_found_so_far_has_given_way_to_the_result(shell: Any, run: Path) -> None:
    assert "Stopped: all rounds done" in shell.run("report", f"run/{SNAPSHOT}").out
    assert "'nothing' holds no result" in shell.refused("report", f"nothing/{SNAPSHOT}")


def test_what_cannot_be_reported(shell: Any, run: Path) -> None:
    Path("empty").mkdir()
    for name in ("empty", "nothing"):
        for how in ((), ("--watch",)):
            assert f"'{name}' holds no result: it is no run" in shell.refused("report", name, *how)
    assert "--no-page" in shell.refused("report", "run", "--watch", "--no-page")
    Path("bad.json").write_text("{}")
    assert "has the format None" in shell.refused("report", "bad.json")
    assert not Path("report.html").exists() and not (run / "report.html").exists()


@pytest.mark.parametrize("how", [[], ["--watch", "--every", "0.1"]], ids=["once", "watched"])
def test_a_run_of_python_code_that_has_found_nothing(shell: Any, how: list[str], swift: None) -> None:
    Path("run").mkdir()
    Path("run/journal.sqlite").touch()
    said = shell.run("report", "run", *how, code=2).err
    assert "it is a run of Python code" in said and "was broken off before it found anything" in said
    assert "the same call with the same run_dir" in said and "it is no run" not in said
    assert "On the command line" not in said, "there it is not this folder's command"
    if not how:
        with filelock.FileLock("run/journal.sqlite.lock"):
            assert "that is running and has found nothing yet; wait" in shell.refused("report", "run")


@pytest.mark.parametrize(
    ("text", "told"),
    [("half a fi", "is not JSON"), ('{"format": "tp_dspy.run", "version": 9}', "Update tp_dspy")],
)
def test_a_record_of_the_run_that_cannot_be_read(shell: Any, run: Path, text: str, told: str) -> None:
    (run / "run.json").write_text(text)
    assert "Stopped: all rounds done" in shell.run("report", "run").out, "the result can"
    assert "Stopped: all rounds done" in shell.run("report", "run", "--watch").out
    (run / "result.json").unlink()
    for words in (["report", "run"], ["resume", "run"], ["evaluate", "run"]):
        said = shell.refused(*words)
        assert "he record of the run cannot be read: run/run.json" in said and told in said
        assert "writes it anew, with --out run" in said and "it is cannot" not in said


def test_a_folder_with_source_prompts_only(shell: Any, world: World, swift: None) -> None:
    effort = ["--examples", "4", "--rounds", "1", "--proposals", "1", "--top-k", "2", "--adapter", "plain"]
    words = ["question -> answer", *effort, "--scorer-lm", "acme/small"]
    shell.run("sources", "make", *words, "-s", "law.csv", "--run-dir", "run", "-o", "elsewhere/source_prompts.json")
    for how in ([], ["--watch", "--every", "0.1"]):
        said = shell.run("report", "run", *how, code=2).err
        assert "it holds source prompts; `tp-dspy sources show run/source_prompts.json` shows them" in said
    assert "it holds source prompts" in shell.refused("report", "elsewhere")
    shell.run("sources", "transfer", "run/source_prompts.json", *words, "-t", "finance.csv", "--out", "many")
    assert "look at one of them: many/finance" in shell.refused("report", "many")
    assert "look at one of them: many/finance" in shell.run("report", "many", "--watch", "--every", "0.1", code=2).err
    assert "Winner" in shell.run("report", "many/finance", "--watch").out


# Where the page goes.


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("mine.csv/page.html", "mine.csv is a file, and no folder"),
        ("mine.csv/deep/page.html", "mine.csv is a file, and no folder"),
        ("run", "it is a folder"),
        ("/proc/nowhere/page.html", "No such file or directory"),
        (f"{'long' * 63}.html", "File name too long"),
    ],
    ids=["in a file", "deep in a file", "a folder", "no place for files", "too long"],
)
@pytest.mark.parametrize("how", [[], ["--watch"]], ids=["once", "watched"])
def test_a_place_that_cannot_be_written_to_is_told_before_there_is_work(
    shell: Any, mine: str, run: Path, monkeypatch: pytest.MonkeyPatch, place: str, reason: str, how: list[str]
) -> None:
    monkeypatch.setattr(TransferResult, "load", lambda path: pytest.fail("that is work"))
    said = shell.refused("report", "run", "--out", place, *how)
    assert f"cannot be written to '{place}': {reason}" in said and "--out" in said and "--no-page" in said
    found = shell.run("report", "run", "--out", place, "--json", *how, code=2).json
    assert found["error"]["type"] == "ConfigurationError"


def test_a_folder_that_may_only_be_read(shell: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Root may do everything, so that modes of files tell nothing here.
    (run / "journal.sqlite.lock").touch()
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    monkeypatch.setattr(Path, "touch", refuse)
    said = shell.refused("report", "run")
    assert "cannot be written to 'run/report.html': Permission denied" in said
    assert "Stopped: all rounds done" in shell.run("report", "run", "--no-page").out
