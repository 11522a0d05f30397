"""What tests of trackers share: scripted compiles, and nothing that calls home."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from programs.benchmarks.worlds import World
from tp_dspy import Event, InstructionAdapter, ObjectiveEvaluator, SourcePrompts, TransferPrompting
from tp_dspy.experiment import Experiment
from tp_dspy.runs.transfers import Transfers

# Read when mlflow and wandb are imported.
for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "WANDB_SILENT": "true"}.items():
    os.environ.setdefault(name, value)

Listen = Callable[[Event], None]


class Lab:
    """Small compiles in one world, heard by whoever listens; `calls` counts what their LMs were asked."""

    def __init__(self) -> None:
        self.world = World(3)
        self.scorer, self.reference = self.world.scorer_lm(name="scripted/s"), self.world.reference_lm()
        self.sources = [self.task(name) for name in ("medicine", "law")]
        self.target = self.task("finance")
        self.student = dspy.Predict(dspy.Signature("question -> answer", "Answer."))
        self.objective = ObjectiveEvaluator()

    def task(self, name: str) -> Any:
        return self.world.task(name, train=8, validation=6, test=10)

    @property
    def calls(self) -> int:
        return self.scorer.scripted.calls + self.reference.scripted.calls

    def optimiser(self, *listeners: Listen, **settings: Any) -> TransferPrompting:
        effort = {"rounds": 2, "proposals": 2, "examples": 6, "verbose": False, "num_threads": 2}
        lms = {"scorer_lm": self.scorer, "reference_lm": self.reference}
        return TransferPrompting(self.objective, listeners=listeners, **{**effort, **lms, **settings})

    def compile(self, *listeners: Listen, **settings: Any) -> dspy.Module:
        with dspy.context(adapter=InstructionAdapter()):
            tp = self.optimiser(*listeners, **settings)
            given = {"trainset": self.target.train, "valset": self.target.validation}
            return tp.compile(self.student, source_tasks=self.sources, **given)

    def experiment(self, *listeners: Listen) -> Any:
        with dspy.context(adapter=InstructionAdapter()):
            return Experiment(self.student, self.target, self.optimiser(*listeners), self.sources).run()

    def construct(self, *listeners: Listen) -> SourcePrompts:
        with dspy.context(adapter=InstructionAdapter()):
            return self.optimiser(*listeners).construct_source_prompts(self.student, source_tasks=self.sources)

    def transfer(
        self, prompts: SourcePrompts, names: list[str], *listeners: Listen, at_once: int = 1, **settings: Any
    ) -> Transfers:
        with dspy.context(adapter=InstructionAdapter()):
            targets = {name: self.task(f"task{index}") for index, name in enumerate(names)}
            optimiser = self.optimiser(*listeners, **settings)
            return optimiser.transfer_to(self.student, targets, source_prompts=prompts, at_once=at_once)


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A report that takes no time."""
    from tp_dspy.trackers import tracker

    written: list[Path] = []

    def write(result: Any, path: Path) -> None:
        path.write_text("<html>report</html>", encoding="utf-8")
        written.append(path)

    monkeypatch.setattr(tracker, "_write_page", write)
    return written
