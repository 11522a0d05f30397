"""``tp-dspy tasks``, ``tp-dspy runs`` and ``tp-dspy report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tp_dspy
from tp_dspy.tasks.catalog import CATALOG

LM = ["--scorer-lm", "acme/small"]


def test_all_tasks_are_listed_with_their_terms(shell: Any) -> None:
    said = shell.run("tasks")
    for name in ("starter/medical", *CATALOG):
        assert name in said.out, "a name is there to be copied, whole"
    assert all(len(line) <= 80 for line in said.out.splitlines())
    assert "no commercial use" not in shell.run("tasks", "--domain", "medical").out and "3 labels" in said.out
    assert said.out.count("commercial") >= 3, "terms that forbid a use are told"
    rows = shell.run("tasks", "--json").json["tasks"]
    assert {row["name"] for row in rows} >= {"starter/legal", *CATALOG}
    phrasebank = next(row for row in rows if row["name"].startswith("takala/financial_phrasebank"))
    assert phrasebank["non_commercial"] and phrasebank["answers"] == ["negative", "neutral", "positive"]


def test_tasks_of_a_domain(shell: Any) -> None:
    rows = shell.run("tasks", "--domain", "legal", "--json").json["tasks"]
    assert {row["domain"] for row in rows} == {"legal"} and rows[0]["name"] == "starter/legal"
    assert "there are financial, general, legal, medical" in shell.refused("tasks", "--domain", "law")


def test_one_task_is_shown(shell: Any, mine: str) -> None:
    said = shell.run("tasks", mine)
    assert "mine (no domain): 16 train, 12 validation, 12 test; answers: " in said.out
    assert "question: Is claim" in said.out and "expected: " in said.out
    found = shell.run("tasks", mine, "--json").json
    assert found["splits"] == {"train": 16, "validation": 12, "test": 12} and found["inputs"] == ["question"]
    assert sorted(found["answers"]) == ["no", "yes"]
    assert "starter/legal:yes_no (legal)" in shell.run("tasks", "starter/legal:yes_no").out
    columns = ["--column", "input.claim=Question", "--column", "answer=Label", "--answer", "verdict"]
    found = shell.run("tasks", mine, *columns, "--json").json
    assert found["inputs"] == ["claim"] and found["first"]["answer"] in ("yes", "no")
    assert "Near to it: cais/mmlu:anatomy" in shell.refused("tasks", "cais/mmlu:anatomi")


def test_no_runs(shell: Any) -> None:
    assert "There are no runs in runs." in shell.run("runs").out
    assert shell.run("runs", "--json").json == {"runs": []}
    assert shell.run("runs", "elsewhere", "--json").json == {"runs": []}


def test_several_runs(shell: Any, mine: str, small: list[str]) -> None:
    for name in ("one", "two"):
        shell.run("compile", "question -> answer", "-t", mine, *LM, *small, "--out", f"runs/{name}")
    # One that Python made, one that cannot be read, and one of a later version.
    Path("runs/python").mkdir()
    Path("runs/two/result.json").rename("runs/python/result.json")
    Path("runs/broken").mkdir()
    Path("runs/broken/result.json").write_text("half a fi")
    Path("runs/new").mkdir()
    Path("runs/new/run.json").write_text('{"format": "tp_dspy.run", "version": 9}')
    said = shell.run("runs")
    assert "5 runs" in said.out and "runs/one" in said.out
    rows = {row["run"]: row for row in shell.run("runs", "--json").json["runs"]}
    assert rows["runs/one"]["state"] == "all rounds done" and rows["runs/one"]["target"] == mine
    assert rows["runs/one"]["gain"] > 0 and rows["runs/one"]["scorer_calls"] > 0
    assert rows["runs/python"]["program"] is None and rows["runs/python"]["state"] == "all rounds done"
    assert "is not JSON" in rows["runs/broken"]["state"] and "version" in rows["runs/new"]["state"]


def test_a_report_says_what_a_run_found(shell: Any, mine: str, small: list[str]) -> None:
    words = ["-t", mine, "-s", "starter/legal:yes_no", *LM, *small]
    compiled = shell.run("compile", "question -> answer", *words, "--json").json
    said = shell.run("report", "runs/mine")
    for part in (
        "The source phase",
        "The target phase",
        "held-out examples",
        "of the scorer LM",
        "scripted/scorer",
        "Stopped:",
    ):
        assert part in " ".join(said.out.split())
    assert compiled["instructions"]["self"] in said.out
    found = shell.run("report", "runs/mine", "--json").json
    assert found["winner"]["instructions"] == compiled["instructions"]
    theirs, ours = compiled["held_out"]["programs"], found["held_out"]["prompts"]
    assert {n: p["metrics"]["score"] for n, p in ours.items()} == {n: p["score"] for n, p in theirs.items()}
    assert found["target"]["ranked"][0]["by_task"], "what is no number is null, and nothing breaks"
    assert "NaN" not in json.dumps(found)


def test_a_report_of_a_run_that_python_made(shell: Any, mine: str, small: list[str]) -> None:
    shell.run("compile", "question -> answer", "-t", mine, *LM, *small)
    Path("runs/mine/run.json").unlink()
    said = shell.run("report", "runs/mine", "--top", 1)
    winner = tp_dspy.TransferResult.load("runs/mine/result.json").winner
    assert winner.instructions["self"] in said.out


def test_what_cannot_be_reported(shell: Any) -> None:
    assert "'nothing' holds no result: it is no run" in shell.refused("report", "nothing")
    Path("bad").mkdir()
    Path("bad/result.json").write_text("{}")
    assert "has the format None" in shell.refused("report", "bad")
