"""Runs that end early: by Ctrl-C, by being killed, by an LM that is gone, by their budget; and how they go on."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
from dspy.lm15 import AuthError

import tp_dspy
from programs.benchmarks.scripted import PromptView
from programs.benchmarks.worlds import World
from tp_dspy.cli.settings import Run

SOURCES = ["-s", "medicine.csv", "-s", "law.csv"]
LM = ["--scorer-lm", "acme/small", "--adapter", "plain", "--threads", "1"]
# One proposal a round: the scripted reference LM tells equal prompts apart by counting.
EFFORT = ["--examples", "5", "--rounds", "2", "--proposals", "1", "--top-k", "2", "--instruction", "Answer."]
COMPILE = ["compile", "question -> answer", "-t", "finance.csv", *SOURCES, *LM, *EFFORT]


class KilledError(BaseException):
    """Ends everything at once, as the end of the process would: nothing is written any more."""


def at_call(number: int, rule: Callable[[PromptView], Any], happens: Callable[[], object]) -> Callable[..., Any]:
    """A rule during whose n-th call something happens."""
    calls = 0

    def answer(prompt: PromptView) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and (instead := happens()) is not None:
            return instead
        return rule(prompt)

    return answer


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)  # Until the main thread has heard of it.


def raising(error: BaseException) -> Callable[[], None]:
    def happens() -> None:
        raise error

    return happens


def state(folder: str) -> str:
    return Run.of_folder(Path(folder)).state


def comparable(folder: str) -> str:
    result = tp_dspy.TransferResult.load(Path(folder) / "result.json")
    return str(result.model_dump_json(exclude={"created", "seconds"}, indent=1))


@pytest.fixture
def fresh(shell: Any, world: World) -> Callable[[], None]:
    """Starts the reference LM's counting anew."""

    def start() -> None:
        shell.rules = {
            "scorer": world.scorer_lm().scripted.rule,
            "reference": world.reference_lm().scripted.rule,
        }

    return start


@pytest.fixture
def unbroken(shell: Any, fresh: Callable[[], None]) -> tuple[str, dict[str, Any], int, int]:
    """Result, held-out table and cost of the same run, made in one go."""
    fresh()
    held_out = shell.run(*COMPILE, "--out", "runs/unbroken", "--json").json["held_out"]
    paid, asked = shell.paid, shell.asked
    fresh()
    return comparable("runs/unbroken"), held_out, paid, asked


@pytest.mark.parametrize("number", [20, 120], ids=["in the source phase", "in the target phase"])
def test_after_ctrl_c_resume_ends_as_an_unbroken_run_and_pays_for_the_rest_only(
    shell: Any, unbroken: tuple[str, dict[str, Any], int, int], number: int
) -> None:
    whole, held_out, paid, asked = unbroken
    rule = shell.rules["scorer"]
    shell.rules["scorer"] = at_call(number, rule, ctrl_c)
    said = shell.run(*COMPILE, "--out", "runs/broken", code=130)
    assert "Interrupted: what follows is the best so far." in said.out and "Instruction found:" in said.out
    assert "held-out examples" not in said.out, "who pressed Ctrl-C does not wait for more calls"
    assert state("runs/broken") == "interrupted"
    assert {"program.json", "result.json"} <= {path.name for path in Path("runs/broken").iterdir()}
    assert shell.paid - paid == number
    assert [row["state"] for row in shell.run("runs", "--json").json["runs"]] == ["interrupted", "all rounds done"]

    shell.rules["scorer"] = rule
    found = shell.run("resume", "runs/broken", "--json").json
    assert comparable("runs/broken") == whole and found["held_out"] == held_out
    assert state("runs/broken") == "all rounds done"
    assert (shell.paid, shell.asked) == (2 * paid, 2 * asked)


def test_an_interrupted_run_is_one_json_document_too(shell: Any, fresh: Callable[[], None]) -> None:
    fresh()
    shell.rules["scorer"] = at_call(20, shell.rules["scorer"], ctrl_c)
    found = shell.run(*COMPILE, "--json", code=130).json
    assert found["stopped"] == "interrupted" and found["held_out"] is None and found["test_calls"] == 0


def test_a_second_ctrl_c_stops_now(shell: Any, fresh: Callable[[], None]) -> None:
    fresh()
    shell.rules["scorer"] = at_call(20, shell.rules["scorer"], lambda: [ctrl_c(), ctrl_c()].clear())
    said = shell.run(*COMPILE, code=130)
    assert said.err.strip().splitlines()[-1].startswith("KeyboardInterrupt: Interrupted. What was paid for is kept")
    assert "Traceback" not in said.both and state("runs/finance") == "running"


def test_ctrl_c_during_the_final_measurement_leaves_a_run_to_go_on_with(
    shell: Any, unbroken: tuple[str, dict[str, Any], int, int]
) -> None:
    whole, held_out, paid, _ = unbroken
    rule = shell.rules["scorer"]
    shell.rules["scorer"] = at_call(paid - 3, rule, ctrl_c)
    shell.run(*COMPILE, "--out", "runs/broken", code=130)
    shell.rules["scorer"] = rule
    assert shell.run("resume", "runs/broken", "--json").json["held_out"] == held_out
    assert comparable("runs/broken") == whole


def test_a_run_that_was_killed_is_shown_as_unfinished_and_can_go_on(
    shell: Any, unbroken: tuple[str, dict[str, Any], int, int]
) -> None:
    whole, held_out, paid, asked = unbroken
    rule = shell.rules["scorer"]
    shell.rules["scorer"] = at_call(30, rule, raising(KilledError()))
    with pytest.raises(KilledError):
        shell.run(*COMPILE, "--out", "runs/killed")
    assert state("runs/killed") == "running" and not Path("runs/killed/result.json").exists()
    rows = {row["run"]: row["state"] for row in shell.run("runs", "--json").json["runs"]}
    assert rows == {"runs/killed": "unfinished", "runs/unbroken": "all rounds done"}
    said = shell.refused("report", "runs/killed")
    assert "it is unfinished; `tp-dspy resume runs/killed` goes on with it" in said
    assert "`tp-dspy resume runs/killed` goes on with it" in shell.refused("evaluate", "runs/killed")

    shell.rules["scorer"] = rule
    assert shell.run("resume", "runs/killed", "--json").json["held_out"] == held_out
    assert comparable("runs/killed") == whole
    assert shell.paid - 2 * paid in (0, 1, 2) and shell.asked == 2 * asked, "only what was under way is paid again"


def test_a_run_that_goes_on_elsewhere_is_running(shell: Any, fresh: Callable[[], None]) -> None:
    fresh()
    shell.rules["scorer"] = at_call(20, shell.rules["scorer"], raising(KilledError()))
    with pytest.raises(KilledError):
        shell.run(*COMPILE, "--out", "runs/busy")
    with filelock.FileLock("runs/busy/journal.sqlite.lock"):
        assert shell.run("runs", "--json").json["runs"][0]["state"] == "running"
        assert "it is running; wait until it has ended" in shell.refused("report", "runs/busy")
        said = shell.run("resume", "runs/busy", code=1)
        assert "in use by another process" in said.err.splitlines()[-1]


def test_an_lm_that_is_gone_half_way_leaves_a_run_to_go_on_with(
    shell: Any, unbroken: tuple[str, dict[str, Any], int, int]
) -> None:
    whole, _, paid, _ = unbroken
    rule = shell.rules["scorer"]
    shell.rules["scorer"] = at_call(25, rule, lambda: AuthError("the key has expired"))
    said = shell.run(*COMPILE, "--out", "runs/gone", code=1)
    assert said.err.splitlines()[-1].startswith("LMUnavailableError: ")
    shell.rules["scorer"] = rule
    shell.run("resume", "runs/gone")
    assert comparable("runs/gone") == whole and shell.paid <= 2 * paid + 2


def test_resume_with_a_larger_budget(shell: Any, unbroken: tuple[str, dict[str, Any], int, int]) -> None:
    whole, _, paid, _ = unbroken
    shell.run(*COMPILE, "--out", "runs/poor", "--max-calls", 40)
    first = shell.paid - paid
    assert first <= 40 + 3 * 8 and comparable("runs/poor") != whole
    assert "budget" in state("runs/poor")
    shell.run("resume", "runs/poor", "--max-calls", 5000)
    assert comparable("runs/poor") == whole
    assert Run.of_folder(Path("runs/poor")).job.budgets.scorer_calls == 5000
    shell.run("resume", "runs/poor")
    assert Run.of_folder(Path("runs/poor")).job.budgets.scorer_calls == 5000, "and that is kept"


def test_the_same_again_pays_for_the_test_only(shell: Any, unbroken: tuple[str, dict[str, Any], int, int]) -> None:
    whole, held_out, paid, asked = unbroken
    found = shell.run("resume", "runs/unbroken", "--json").json
    assert comparable("runs/unbroken") == whole and found["held_out"] == held_out
    assert shell.paid - paid == found["test_calls"] and shell.asked == asked


def test_resume_keeps_when_the_run_was_made(shell: Any, fresh: Callable[[], None]) -> None:
    fresh()
    shell.run(*COMPILE)
    record = json.loads(Path("runs/finance/run.json").read_text()) | {"created": "2020-02-02T02:02:02+00:00"}
    Path("runs/finance/run.json").write_text(json.dumps(record))
    shell.run("resume", "runs/finance")
    assert Run.of_folder(Path("runs/finance")).created == "2020-02-02T02:02:02+00:00"


def test_resume_of_what_is_no_run(shell: Any) -> None:
    Path("empty").mkdir()
    for folder in ("empty", "missing"):
        assert f"'{folder}' is no folder of a run: it has no run.json" in shell.refused("resume", folder)
    Path("empty/run.json").write_text('{"format": "tp_dspy.run", "version": 2}')
    assert "Update tp_dspy" in shell.refused("resume", "empty")
    Path("empty/run.json").write_text("half a fi")
    assert "is not JSON" in shell.refused("resume", "empty")


def test_ctrl_c_while_source_prompts_are_made_keeps_the_best_so_far(shell: Any, fresh: Callable[[], None]) -> None:
    fresh()
    shell.rules["scorer"] = at_call(70, shell.rules["scorer"], ctrl_c)
    said = shell.run("sources", "make", "question -> answer", *SOURCES, *LM, *EFFORT, "-o", "s.json", code=130)
    assert tp_dspy.SourcePrompts.load("s.json").phase.stopped == "interrupted" and "Saved: s.json" in said.out


def test_ctrl_c_while_prompts_are_carried_over_says_which_targets_are_missing(
    shell: Any, fresh: Callable[[], None]
) -> None:
    fresh()
    shell.run("sources", "make", "question -> answer", *SOURCES, *LM, *EFFORT, "-o", "s.json")
    before = shell.paid
    shell.rules["scorer"] = at_call(15, shell.rules["scorer"], ctrl_c)
    words = ["sources", "transfer", "s.json", "question -> answer", "-t", "finance.csv", "-t", "law.csv", *LM, *EFFORT]
    found = shell.run(*words, "--influence", "--json", code=130).json
    assert found["missing"] == ["law"] and "influence" not in found
    assert shell.paid - before == 15
