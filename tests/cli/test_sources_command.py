"""``tp-dspy sources``: made once, looked at, put together, carried over to many targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

import tp_dspy
from programs.benchmarks.worlds import World

LM = ["--scorer-lm", "acme/small", "--adapter", "plain"]
EFFORT = ["--examples", "4", "--rounds", "1", "--proposals", "1", "--top-k", "2"]


@pytest.fixture
def made(shell: Any, world: World) -> str:
    program = ["question -> answer", "--instruction", "Answer."]
    shell.run("sources", "make", *program, "-s", "medicine.csv", "-s", "law.csv", *LM, *EFFORT, "-o", "both.json")
    return "both.json"


def test_making_and_showing_source_prompts(shell: Any, made: str) -> None:
    kept = tp_dspy.SourcePrompts.load(made)
    assert [task.name for task in kept.tasks] == ["medicine", "law"] and kept.original.instructions["self"] == "Answer."
    said = shell.run("sources", "show", made)
    assert "source prompts of 2 tasks" in said.out
    assert kept.prompts[0].instructions["self"] in " ".join(said.out.split())
    found = shell.run("sources", "show", made, "--json").json
    assert [prompt["id"] for prompt in found["prompts"]] == [prompt.id for prompt in kept.prompts]
    assert shell.run("sources", "make", "question -> answer", "-s", "law.csv", *LM, *EFFORT, "--json").json[
        "saved"
    ] == ("source_prompts.json")


def test_making_them_again_with_a_journal_costs_nothing(shell: Any, world: World) -> None:
    words = ["sources", "make", "question -> answer", "-s", "medicine.csv", *LM, *EFFORT, "--run-dir", "runs/made"]
    shell.run(*words)
    before = shell.paid, shell.asked
    shell.run(*words)
    assert (shell.paid, shell.asked) == before


def test_filtering_and_merging(shell: Any, made: str) -> None:
    shell.run("sources", "filter", made, "--task", "law", "-o", "law.json")
    shell.run("sources", "filter", made, "--task", "medicine", "-o", "medicine.json")
    assert [task.name for task in tp_dspy.SourcePrompts.load("law.json").tasks] == ["law"]
    found = shell.run("sources", "merge", "law.json", "medicine.json", "-o", "again.json", "--top-k", 1, "--json").json
    assert [task["name"] for task in found["tasks"]] == ["law", "medicine"] and found["saved"] == "again.json"
    assert len(found["prompts"]) == 1 == len(tp_dspy.SourcePrompts.load("again.json").prompts)


def test_what_cannot_be_merged_or_filtered(shell: Any, made: str) -> None:
    assert "There is no file 'no.json'" in shell.refused("sources", "merge", made, "no.json")
    assert "the tasks are ['law', 'medicine']" in shell.refused("sources", "filter", made, "--task", "tort")
    assert "Nothing was named" in shell.refused("sources", "filter", made)
    shell.run("sources", "make", "question -> answer", "-s", "law.csv", *LM, *EFFORT, "--rounds", 0, "-o", "other.json")
    other = tp_dspy.SourcePrompts.load("other.json")
    kept = {"ranked": [other.original], "history": [other.original]}
    alone = other.model_copy(update={"prompts": [other.original], "phase": other.phase.model_copy(update=kept)})
    alone.save("other.json")
    said = shell.refused("sources", "merge", made, "other.json")
    assert "no prompt in common" in said and "On the command line: the same program with the same --instruction" in said
    said = shell.refused("sources", "make", "question -> answer", *LM)
    assert "On the command line: --source NAME" in said
    said = shell.refused("sources", "make", "question -> answer", "-s", "law.csv", "-s", "law.csv", *LM)
    assert "each --source once" in said
    assert "Missing option" in shell.refused("sources", "transfer", made, "question -> answer", *LM)


def test_carrying_over_to_many_targets(shell: Any, made: str) -> None:
    words = ["sources", "transfer", made, "question -> answer", "-t", "finance.csv", "-t", "law.csv", *LM, *EFFORT]
    said = shell.run(*words, "--out", "runs/both")
    assert "finance" in said.out and "Saved under runs/both" in said.out
    for name in ("finance", "law"):
        program = dspy.Predict("question -> answer")
        program.load(f"runs/both/{name}/program.json")
        result = tp_dspy.TransferResult.load(f"runs/both/{name}/result.json")
        assert program.signature.instructions == result.winner.instructions["self"]
    rows = {row["run"]: row["state"] for row in shell.run("runs", "--json").json["runs"]}
    assert rows == {"runs/both/finance": "all rounds done", "runs/both/law": "all rounds done"}

    before = shell.paid
    found = shell.run(*words, "--out", "runs/both", "--influence", "--json").json
    assert [row["target"] for row in found["targets"]] == ["finance", "law"] and found["missing"] == []
    assert {row["source"] for row in found["influence"]} >= {"medicine", "law"}
    assert shell.paid - before <= 2 * 8, "the journal knows the rest"
    assert "medicine" in shell.run(*words, "--out", "runs/both", "--influence").out


def test_targets_can_be_under_way_at_once(shell: Any, made: str) -> None:
    words = ["sources", "transfer", made, "question -> answer", "-t", "finance.csv", "-t", "law.csv", *LM, *EFFORT]
    before = shell.paid
    found = shell.run(*words, "--at-once", 2, "--max-calls", 60, "--out", "runs/many", "--json").json
    assert [row["target"] for row in found["targets"]] == ["finance", "law"] and 30 < shell.paid - before <= 60
    assert all(row["scorer_calls"] <= 30 for row in found["targets"]), "a fixed share each"
    assert "Invalid value for '--at-once'" in shell.refused(*words, "--at-once", 0)


def test_a_budget_for_all_targets(shell: Any, made: str) -> None:
    words = ["sources", "transfer", made, "question -> answer", "-t", "finance.csv", "-t", "law.csv", *LM, *EFFORT]
    before = shell.paid
    found = shell.run(*words, "--max-calls", 30, "--out", "runs/poor", "--json").json
    assert shell.paid - before <= 30 and len(found["targets"]) + len(found["missing"]) == 2


def test_the_same_target_twice_is_refused(shell: Any, made: str) -> None:
    words = ["sources", "transfer", made, "question -> answer", "-t", "law.csv", "-t", "law.csv", *LM]
    assert "each --target once" in shell.refused(*words)
    assert not Path("runs").exists()


def test_options_can_be_in_a_file_here_too(shell: Any, world: World) -> None:
    Path("make.toml").write_text('source = ["law.csv"]\nscorer_lm = "acme/small"\nadapter = "plain"\nexamples = 2\n')
    found = shell.run("sources", "make", "question -> answer", "--config", "make.toml", "--rounds", 0, "--json").json
    assert [task["name"] for task in found["tasks"]] == ["law"]
