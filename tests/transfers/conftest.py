"""A scripted world, and source prompts that were made in it."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from programs.benchmarks.worlds import World
from tp_dspy import InstructionAdapter, ObjectiveEvaluator, SourcePrompts, TransferPrompting

SOURCES = ("medicine", "law")


@pytest.fixture(autouse=True)
def plain_prompts() -> None:
    dspy.configure(adapter=InstructionAdapter())


def student(instruction: str = "Answer.") -> dspy.Predict:
    return dspy.Predict(dspy.Signature("question -> answer", instruction))


def optimiser(world: World, **settings: Any) -> TransferPrompting:
    settings = {"rounds": 2, "proposals": 3, "examples": 8, "top_k": 2, "verbose": False, **settings}
    lms = {"reference_lm": world.reference_lm(), "scorer_lm": world.scorer_lm()}
    return TransferPrompting(ObjectiveEvaluator(), seed_instructions=[], **{**lms, **settings})


@pytest.fixture(scope="module")
def world() -> World:
    return World(3)


@pytest.fixture(scope="module")
def sources(world: World) -> SourcePrompts:
    with dspy.context(adapter=InstructionAdapter()):
        tasks = [world.task(name, train=8, validation=8) for name in SOURCES]
        return optimiser(world).construct_source_prompts(student(), source_tasks=tasks)
