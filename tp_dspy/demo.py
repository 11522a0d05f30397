"""The main job on what ships with the library: two source tasks, one target, and a table on its held-out questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from tp_dspy.errors import DataError
from tp_dspy.experiment import Experiment, Report
from tp_dspy.lms.adapter import InstructionAdapter, Position
from tp_dspy.optimization.events import Listener
from tp_dspy.scoring.objective import ObjectiveEvaluator
from tp_dspy.tasks.loading import load_task
from tp_dspy.tasks.task import Task
from tp_dspy.teleprompter import TransferPrompting

__all__ = ["DEFAULT_SOURCES", "DEFAULT_TARGET", "ORIGINAL_INSTRUCTION", "Demo"]

DEFAULT_SOURCES = ("starter/medical:yes_no", "starter/legal:yes_no")
DEFAULT_TARGET = "starter/financial:yes_no"
# What one would write without thinking of the form of the answer.
ORIGINAL_INSTRUCTION = "Answer the question."


@dataclass
class Demo:
    """One run of the demo.

    Attributes:
        sources: Names of the source tasks.
        target: Name of the target task.
        scorer_lm: Runs the program.
        reference_lm: Proposes instructions.
        auto: How much to do.
        examples: Examples per task and panel; None for what `auto` says.
        seed: Makes the choice of examples repeatable.
        out: Where results are written.
        test_limit: Examples of the test split, at most.
        position: Where the instruction stands in the prompt.
        executor: Where the program runs, as in `TransferPrompting`.
        listeners: Are told what happens.
    """

    sources: Sequence[str]
    target: str
    scorer_lm: dspy.BaseLM
    reference_lm: dspy.BaseLM
    auto: str = "quick"
    examples: int | None = None
    seed: int = 0
    out: Path = Path("runs/demo")
    test_limit: int = 200
    position: Position = "start"
    executor: Any = None
    listeners: Sequence[Listener] = ()

    def load(self) -> tuple[list[Task], Task]:
        """Load the tasks."""
        tasks = [load_task(name, seed=self.seed, limit=self.test_limit) for name in self.sources]
        target = load_task(self.target, seed=self.seed, limit=self.test_limit)
        if not target.test:
            raise DataError(f"{target.name} has no labelled test split to report on; choose another --target.")
        return tasks, target.split_validation(seed=self.seed)

    def run(self, tasks: Sequence[Task], target: Task) -> Report:
        """Compile on the tasks, then measure three prompts on the target's test split."""
        teleprompter = TransferPrompting(
            ObjectiveEvaluator(confidence="logits"),
            reference_lm=self.reference_lm,
            scorer_lm=self.scorer_lm,
            auto=self.auto,  # type: ignore[arg-type]
            examples=self.examples,
            executor=self.executor,
            run_dir=self.out,
            seed=self.seed,
            verbose=False,
            listeners=self.listeners,
        )
        program = dspy.Predict(dspy.Signature("question -> answer", ORIGINAL_INSTRUCTION))
        with dspy.context(adapter=InstructionAdapter(self.position)):
            return Experiment(program, target, teleprompter, tasks, test_limit=self.test_limit).run()
