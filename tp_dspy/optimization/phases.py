"""What a phase works on: panels of examples, and what the reference LM is told about the tasks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dspy

from tp_dspy.errors import ConfigurationError, DataError, SplitOverlapWarning
from tp_dspy.lms.adapter import InstructionAdapter
from tp_dspy.optimization.panel import Panel
from tp_dspy.optimization.reference_prompt import ReferencePrompt, TaskBrief
from tp_dspy.tasks.splitting import find_overlap, stratified_order
from tp_dspy.tasks.task import Task

__all__ = [
    "PhaseInput",
    "asked_by",
    "reference_prompts",
    "shared_answers",
    "source_input",
    "target_input",
    "warn_of_overlap",
]

logger = logging.getLogger(__name__)

_FEW = 8


@dataclass(frozen=True)
class PhaseInput:
    """The data of a phase.

    Attributes:
        search: What candidates are scored on.
        selection: What the finalists are chosen on; None when there is nothing apart from `search`.
        briefs: What the reference LM is told.
    """

    search: Panel
    selection: Panel | None
    briefs: tuple[TaskBrief, ...]

    @property
    def size(self) -> int:
        """How many examples there are to search on, over all tasks."""
        return sum(map(len, self.search.values()))

    @property
    def most(self) -> int:
        """How many examples the largest panel of a task has."""
        panels = [self.search, self.selection or {}]
        return max(len(examples) for panel in panels for examples in panel.values())

    def first(self, size: int) -> PhaseInput:
        """Give the same with so many examples per task and panel, at most."""

        def cut(panel: Panel) -> Panel:
            return {name: examples[:size] for name, examples in panel.items()}

        briefs = tuple(replace(brief, exemplars=brief.exemplars[:size]) for brief in self.briefs)
        return PhaseInput(cut(self.search), cut(self.selection) if self.selection is not None else None, briefs)

    @property
    def examples(self) -> list[dspy.Example]:
        """Everything that will be scored."""
        panels = [self.search, self.selection or {}]
        return [example for panel in panels for examples in panel.values() for example in examples]


def source_input(tasks: Sequence[Task], size: int, seed: int, answer: str) -> PhaseInput:
    """Prepare the source phase; test splits are not touched.

    Args:
        tasks: At least one source task; one without a validation split is divided by the seed.
        size: Examples per task and panel, at most.
        seed: Picks them.
        answer: The field that holds the answer, by which examples are stratified.

    Raises:
        ConfigurationError: If there is no task, something is not a `Task`, or two share a name.
        DataError: If a task is too small to be divided.
    """
    strangers = [task for task in tasks if not isinstance(task, Task)]
    if not tasks or strangers:
        raise ConfigurationError(
            f"source_tasks is {list(tasks)!r}; expected tp_dspy.Task objects, at least one, e.g. "
            "Task('anatomy', train=[...]) or Task.from_hub('cais/mmlu:anatomy')."
        )
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"source_tasks are named {names}; give each a name of its own.")
    divided = [task.split_validation(seed=seed, answer=answer) for task in tasks]
    search = {task.name: _some(task.train, size, seed, answer) for task in divided}
    selection = {task.name: _some(task.validation, size, seed, answer) for task in divided}
    briefs = [
        TaskBrief(task.name, task.description, task.domain, task.answers, tuple(search[task.name])) for task in divided
    ]
    return PhaseInput(search, selection, tuple(briefs))


def target_input(
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example] | None,
    size: int,
    seed: int,
    answer: str,
    description: str = "",
    *,
    name: str = "target",
    domain: str | None = None,
    answers: Sequence[str] | None = None,
) -> PhaseInput:
    """Prepare the target phase.

    Args:
        trainset: Target examples; at least one.
        valset: What the winner is chosen on; None or empty when there is nothing apart from `trainset`.
        size: Examples per panel, at most.
        seed: Picks them.
        answer: The field that holds the answer.
        description: What the target is, in words.
        name: What it is called.
        domain: Its domain.
        answers: Its answer space; by default read off the examples.

    Raises:
        DataError: If `trainset` is empty, or holds something that cannot be scored.

    Warns:
        SplitOverlapWarning: If the two share questions.
    """
    if len(trainset) == 0:
        raise DataError("trainset is empty; expected labelled examples of the target task (20 or more serve well).")
    if len(trainset) < _FEW:
        logger.warning("trainset has only %d examples; scores will be coarse. 20 or more serve well.", len(trainset))
    # A Task checks what it is given, and knows how to read the answer space off the examples.
    about: dict[str, Any] = {"description": description, "domain": domain, "answers": answers}
    task = Task(name, train=trainset, validation=valset or (), **about)
    search = {task.name: _some(task.train, size, seed, answer)}
    selection = {task.name: _some(task.validation, size, seed, answer)} if task.validation else None
    return PhaseInput(
        search, selection, (TaskBrief(task.name, description, domain, task.answers, tuple(search[task.name])),)
    )


def _some(examples: Iterable[dspy.Example], size: int, seed: int, answer: str) -> list[dspy.Example]:
    return stratified_order(examples, seed=seed, answer=answer)[:size]


def warn_of_overlap(tasks: Sequence[Task], target: Sequence[dspy.Example]) -> None:
    """Warn where a source task shares questions with the target's trainset or valset."""
    for task in tasks:
        shared = find_overlap(target, [*task.train, *task.validation])
        if shared:
            warnings.warn(
                f"{len(shared)} of {len(target)} target examples are also in the source task {task.name!r}; what "
                "transfer brings will look better than it is. Remove them from the source task.",
                SplitOverlapWarning,
                stacklevel=4,
            )


def shared_answers(briefs: Sequence[TaskBrief]) -> tuple[str, ...] | None:
    """Give the answer space if all tasks have the same one; else None."""
    spaces = {frozenset(brief.answers) if brief.answers else None for brief in briefs}
    return briefs[0].answers if len(spaces) == 1 else None


def asked_by(given: type[ReferencePrompt] | Sequence[type[ReferencePrompt]]) -> tuple[type[ReferencePrompt], ...]:
    """Read what a user gave as ``reference_prompt``: one way to ask, or several.

    Raises:
        ConfigurationError: If it is something else.
    """
    kinds = tuple(given) if isinstance(given, Sequence) else (given,)
    if not kinds or not all(isinstance(kind, type) and issubclass(kind, ReferencePrompt) for kind in kinds):
        raise ConfigurationError(
            f"reference_prompt is {given!r}; expected a subclass of tp_dspy.ReferencePrompt, or several in a list."
        )
    return kinds


def reference_prompts(
    program: dspy.Module,
    predictors: Iterable[str],
    briefs: Sequence[TaskBrief],
    answers: Sequence[str],
    kinds: Sequence[type[ReferencePrompt]] = (ReferencePrompt,),
) -> dict[str, list[ReferencePrompt]]:
    """Make the reference prompts of each predictor.

    Exemplars show the instruction where the configured adapter puts it, if that is an `InstructionAdapter`.

    Args:
        program: The program.
        predictors: Names of the predictors to be optimised.
        briefs: The tasks.
        answers: The output fields that hold the answers.
        kinds: What writes them, by turns; those that do not suit a predictor are left out, unless none does.
    """
    adapter = dspy.settings.adapter
    position = adapter.position if isinstance(adapter, InstructionAdapter) else "start"
    named = dict(program.named_predictors())
    names = list(predictors)
    prompts = {}
    for name in names:
        signature = named[name].signature
        step = ""
        if len(names) > 1:
            reads, writes = ", ".join(signature.input_fields), ", ".join(signature.output_fields)
            step = (
                f"The work is done in steps. This instruction is for the step {name!r}, "
                f"which reads {reads} and writes {writes}."
            )
        suit = [kind for kind in kinds if kind.suits(list(signature.output_fields), answers)]
        prompts[name] = [kind(tuple(briefs), tuple(answers), position, step) for kind in suit or kinds]
    return prompts
