"""``tp-dspy evaluate`` and ``tp-dspy compare``: on the folder of a run, and on a program with a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from tp_dspy import TransferResult

LM = ["--scorer-lm", "acme/small"]


@pytest.fixture
def run(shell: Any, mine: str, small: list[str]) -> str:
    """A run whose instruction keeps to the form, as the original does not."""
    shell.run("compile", "question -> answer", "-t", mine, *LM, *small)
    shell.specs.clear()
    return "runs/mine"


@pytest.fixture
def states() -> tuple[str, str]:
    """Two saved states of a signature's program: one that says nothing of the form, one that does."""
    for name, instruction in (("old", "Answer."), ("new", "Answer yes or no.")):
        dspy.Predict(dspy.Signature("question -> answer", instruction)).save(f"{name}.json")
    return "old.json", "new.json"


def test_evaluating_a_run_gives_what_its_own_table_says(shell: Any, run: str) -> None:
    before = shell.paid
    said = shell.run("evaluate", run)
    assert "12 examples, 95 % intervals" in said.out and "instruction following (IFR)   1.000" in said.out
    assert "Reliability" in said.out and shell.paid - before == 12
    found = shell.run("evaluate", run, "--json").json
    table = TransferResult.load(Path(run) / "result.json").held_out.prompts["target"]
    assert {name: found["metrics"][name] for name in ("ifr", "accuracy", "ece", "score")} == {
        name: getattr(table.metrics, name) for name in ("ifr", "accuracy", "ece", "score")
    }
    assert tuple(found["intervals"]["score"]) == table.intervals["score"]
    assert set(shell.specs) == {"acme/small"}


def test_what_is_typed_beside_a_run_wins_over_what_the_run_knows(shell: Any, run: str, states: tuple[str, str]) -> None:
    rows = [(f"Is clause {n} void?", "yes" if n % 2 else "no", "test" if n > 4 else "train") for n in range(12)]
    other = shell.table("other.csv", ("question", "answer", "split"), rows).name
    words = ["--test-limit", 5, "--scorer-lm", "acme/large", "--on", other, "--json"]
    found = shell.run("evaluate", run, *words).json
    assert found["metrics"]["n"] == 5 and shell.specs == ["acme/large"]
    assert shell.run("evaluate", run, "--split", "train", "--json").json["metrics"]["n"] == 16
    assert shell.run("evaluate", run, "--confidence", "none", "--json").json["metrics"]["ece"] is None
    assert shell.run("evaluate", run, "--load", states[0], "--json").json["metrics"]["ifr"] == 0.0


def test_evaluating_a_program_on_a_task(shell: Any, mine: str, states: tuple[str, str]) -> None:
    words = ["evaluate", "question -> answer", "--on", mine, *LM, "--json"]
    assert shell.run(*words).json["metrics"]["ifr"] == 0.0
    assert shell.run(*words, "--load", states[1]).json["metrics"]["ifr"] == 1.0
    assert shell.run(*words, "--instruction", "Answer yes or no.").json["metrics"]["ifr"] == 1.0
    weighed = shell.run(*words, "--load", states[1], "--weight", "ifr=1").json
    assert weighed["metrics"]["score"] == 1.0


def test_threads_are_kept_to(shell: Any, mine: str) -> None:
    shell.run("evaluate", "question -> answer", "--on", mine, *LM, "--threads", 1)
    assert shell.lms["scorer"].scripted.max_concurrency == 1


def test_comparing_states_with_the_program_as_it_is(shell: Any, mine: str, states: tuple[str, str]) -> None:
    words = ["compare", "question -> answer", *states, "--on", mine, *LM]
    said = shell.run(*words)
    assert "as it is" in said.out and "new.json against as it is, paired: score +0." in said.out
    found = shell.run(*words, "--json").json
    assert list(found["programs"]) == ["as it is", "old.json", "new.json"]
    assert found["differences"]["new.json"]["low"] > 0
    based = shell.run(*words, "--base", "new.json", "--json").json
    assert list(based["programs"]) == ["new.json", "old.json"] and based["differences"]["old.json"]["high"] < 0


def test_comparing_runs(shell: Any, run: str, mine: str, small: list[str]) -> None:
    shell.run("compile", "question -> answer", "-t", mine, *LM, *small, "--out", "runs/another", "--seed", 5)
    said = shell.run("compare", run, "runs/mine/program.json", "runs/another/program.json")
    table = said.out.split("\n\n")[0].replace(" ", "")
    # Files that have the same beginning can be told apart.
    assert "…" not in table
    found = shell.run("compare", run, "runs/mine/program.json", "runs/another/program.json", "--json").json
    assert list(found["programs"]) == ["as it is", "runs/mine/program.json", "runs/another/program.json"]
    assert found["programs"]["as it is"]["ifr"] == 0.0


def test_a_state_that_does_not_fit(shell: Any, run: str, states: tuple[str, str]) -> None:
    Path("two.py").write_text(
        "import dspy\n"
        "class Two(dspy.Module):\n"
        "    def __init__(self):\n"
        "        self.first = dspy.Predict('question -> reasons')\n"
        "        self.second = dspy.Predict('question, reasons -> answer')\n"
    )
    for command in ("evaluate", "compare"):
        words = ["--load", states[0]] if command == "evaluate" else [states[0]]
        said = shell.refused(command, "two.py", *words, "--on", "mine.csv", *LM)
        assert "old.json does not fit the program" in said and "['first', 'second']" in said
    assert "There is no file 'no.json'" in shell.refused("compare", run, "no.json")


def test_what_cannot_be_measured(shell: Any, mine: str, run: str) -> None:
    assert "name a task with --on" in shell.refused("evaluate", "question -> answer", *LM)
    rows = [(f"Is {n} even?", "no" if n % 2 else "yes", "train" if n < 8 else "validation") for n in range(12)]
    path = shell.table("split.csv", ("question", "answer", "split"), rows).name
    said = shell.refused("evaluate", "question -> answer", "--on", path, *LM)
    assert "split has no test split; take another one with --split" in said
    assert shell.run("evaluate", "question -> answer", "--on", path, *LM, "--split", "validation")
    Path("empty").mkdir()
    assert "'empty' is no folder of a run" in shell.refused("evaluate", "empty")
    assert "An instruction was given" not in shell.refused("evaluate", run, "--split", "half")
