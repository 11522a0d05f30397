"""``tp-dspy demo``: what it prints and writes, and what it refuses."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import dspy
import pytest

import tp_dspy
from programs.benchmarks.scripted import PromptView
from tp_dspy import demo, experiment
from tp_dspy.errors import SplitOverlapError

METRICS = {"ifr", "accuracy", "ece", "auroc", "auprc_positive", "auprc_negative", "score"}


def test_the_demo_prints_the_table_and_writes_all_it_found(shell: Any) -> None:
    words = ["demo", "--out", "run", "--examples", 6, "--test-limit", 30]
    said = shell.run(*words)
    for part in ("original", "best source", "target", "On 30 held-out examples", "p = ", "calls of the scorer LM"):
        assert part in said.out
    assert "program.load('run/program.json')" in said.out and "tp_dspy.embedded_lm(max_tokens=4)" in said.out
    assert "135M parameters" in said.out, "the default LM's limits are told"

    paid, asked = shell.paid, shell.asked
    table = shell.run(*words[:2], "other", *words[3:], "--json").json
    rows = table["held_out"]["programs"]
    assert list(rows) == ["original", "best source", "target"]
    assert all(row.keys() >= METRICS for row in rows.values()) and rows["original"]["n"] == 30
    assert rows["original"]["ifr"] == 0.0 and rows["target"]["ifr"] == 1.0
    assert rows["original"]["auroc"] is None, "no answers, no ranking: null, not 0"
    difference = table["held_out"]["differences"]["target"]
    assert {"score", "low", "high", "p_value"} <= difference.keys() and difference["low"] > 0
    instruction = table["instructions"]["self"]
    assert "yes or no" in instruction
    assert table["scorer_calls"] + table["test_calls"] == shell.paid - paid
    assert table["reference_calls"] == shell.asked - asked

    program = dspy.Predict("question -> answer")
    program.load("other/program.json")
    assert program.signature.instructions == instruction
    assert tp_dspy.TransferResult.load("other/result.json").winner.instructions["self"] == instruction
    assert tp_dspy.SourcePrompts.load("other/source_prompts.json").prompts
    assert "Winner" in shell.run("report", "other").out


def test_one_gguf_file_for_both(shell: Any) -> None:
    said = shell.run("demo", "--gguf", "model.gguf", "--examples", 2, "--test-limit", 4, "--out", "run")
    assert shell.specs == ["model.gguf", "model.gguf"]
    assert "tp_dspy.embedded_lm('model.gguf', max_tokens=4)" in said.out and "135M parameters" not in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--target", "starter/medicine"], "'medical'"),
        (["--target", "takala/financial_phrasebanc"], "financial_phrasebank"),
        (["--source", "starter/law"], "'legal'"),
        (["--auto", "huge"], "auto is 'huge'"),
        (["--examples", "0"], "--examples"),
        (["--position", "middle"], "--position"),
    ],
)
def test_a_mistake_gets_one_clear_line(shell: Any, words: list[str], told: str) -> None:
    assert told in shell.refused("demo", *words)
    assert not Path("runs").exists()


def test_an_lm_that_is_none_gets_one_clear_line(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert "openai/gpt-4o-mini" in shell.refused("demo", "--scorer-lm", "gpt-4o-mini")


def test_a_source_that_holds_the_targets_test_questions_is_refused(shell: Any) -> None:
    target = tp_dspy.Task.starter("legal", kind="yes_no")
    leaking = tp_dspy.Task("leak", train=target.test)
    runner = demo.Demo(["leak"], target.name, shell.lm("a", "scorer"), shell.lm("b", "reference"), out=Path("run"))
    with pytest.raises(SplitOverlapError, match=r"40 of 40 test questions.*leak"):
        runner.run([leaking], target)
    assert shell.paid == 0 and not Path("run").exists()


def test_ctrl_c_ends_with_the_best_so_far(shell: Any) -> None:
    rule = shell.rules["scorer"]

    def interrupted(prompt: PromptView) -> Any:
        if shell.paid == 40:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        return rule(prompt)

    shell.rules["scorer"] = interrupted
    said = shell.run("demo", "--examples", 6, "--out", "run", code=130)
    assert "Interrupted: what follows is the best so far." in said.out
    assert tp_dspy.TransferResult.load("run/result.json").stopped == "interrupted"


def test_an_experiment_without_a_test_split_says_so(shell: Any) -> None:
    task = tp_dspy.Task.starter("legal", kind="yes_no")
    bare = tp_dspy.Task("bare", train=task.train, validation=task.validation)
    lms = {"scorer_lm": shell.lm("a", "scorer"), "reference_lm": shell.lm("b", "reference")}
    teleprompter = tp_dspy.TransferPrompting(
        tp_dspy.ObjectiveEvaluator(), **lms, auto="quick", examples=2, rounds=0, verbose=False
    )
    program = dspy.Predict("question -> answer")
    with dspy.context(adapter=tp_dspy.InstructionAdapter()):
        report = experiment.Experiment(program, bare, teleprompter).run()
    assert report.held_out is None and report.to_dict()["held_out"] is None and report.saved == {}
    assert report.test_usage.calls == 0 and "general instructions" in report.lineage()
