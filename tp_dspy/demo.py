"""The main job end to end: two source tasks, one target task, and a table on the target's held-out test split."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dspy

from tp_dspy.errors import ConfigurationError, DataError, SplitOverlapError
from tp_dspy.lms.adapter import InstructionAdapter, Position
from tp_dspy.lms.embedded import embedded_lm
from tp_dspy.optimization.events import Event, Listener, OutcomeArrived, PhaseBegan, StepBegan
from tp_dspy.runs.artifacts import TransferResult
from tp_dspy.scoring.comparison import Comparison
from tp_dspy.scoring.evaluation import Evaluation
from tp_dspy.scoring.objective import ObjectiveEvaluator
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.scorer import Job, Scorer
from tp_dspy.tasks.task import Task, find_overlap, stratified_order
from tp_dspy.teleprompter import TransferPrompting

__all__ = ["DEFAULT_SOURCES", "DEFAULT_TARGET", "Demo", "DemoReport", "load_task", "resolve_lm"]

DEFAULT_SOURCES = ("starter/medical:yes_no", "starter/legal:yes_no")
DEFAULT_TARGET = "starter/financial:yes_no"
# What one would write without thinking of the form of the answer.
ORIGINAL_INSTRUCTION = "Answer the question."
# Enough for a letter or a label, or the start of whatever comes instead; every further token is time.
_ANSWER_TOKENS = 4
# The small LM seldom ends by itself.
_INSTRUCTION_TOKENS = {"embedded": 64}
_MOST_INSTRUCTION_TOKENS = 256
METRICS = ("ifr", "accuracy", "ece", "auroc", "auprc_positive", "auprc_negative", "score")


def load_task(name: str, *, seed: int = 0, limit: int | None = None) -> Task:
    """Load a task by name: ``starter/<domain>[:<kind>]``, or a data set of the catalogue.

    Raises:
        DataError, HubUnavailableError: As the loaders do.
    """
    if name.startswith("starter/"):
        domain, _, kind = name.removeprefix("starter/").partition(":")
        return Task.starter(domain, kind=kind or None)
    return Task.from_hub(name, seed=seed, limit=limit)


def resolve_lm(spec: str, role: Literal["scorer", "reference"]) -> dspy.BaseLM:
    """Make an LM from what a user typed.

    Args:
        spec: "embedded" for the small LM that ships as a package; a GGUF file or ``hf://owner/repo/file.gguf`` for
            another one in this process; anything else is a DSPy model string such as ``openai/gpt-4o-mini``, with
            that LM's own settings.
        role: What it is for: a local scorer is kept to short answers, a local reference LM is not.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if spec == "embedded" or spec.endswith(".gguf"):
        model = None if spec == "embedded" else spec
        if role == "scorer":
            return embedded_lm(model, max_tokens=_ANSWER_TOKENS)
        return embedded_lm(model, max_tokens=_INSTRUCTION_TOKENS.get(spec, _MOST_INSTRUCTION_TOKENS))
    if "/" not in spec:
        raise ConfigurationError(
            f"{spec!r} is no LM: expected 'embedded', a .gguf file, or provider/model such as 'openai/gpt-4o-mini'."
        )
    return dspy.LM(spec)


@dataclass(frozen=True)
class DemoReport:
    """What the demo found, all on the target's test split.

    Attributes:
        original: The original instruction.
        source: The best source prompt.
        target: The target prompt.
        difference: Paired difference, target prompt minus original.
        result: The compile's own record.
        instructions: The three instructions by name.
        test_usage: What the final measurement cost.
        seconds: Wall time.
        saved: Files written.
    """

    original: Evaluation
    source: Evaluation
    target: Evaluation
    difference: Comparison
    result: TransferResult
    instructions: dict[str, str]
    test_usage: Usage
    seconds: float
    saved: dict[str, Path]

    def lineage(self) -> str:
        """Say where the target prompt came from, and what became of the reference LM's proposals."""
        phases = {"source": self.result.source, "target": self.result.target}
        origin = self.result.winner.origin
        found = "target"
        if origin == "source" and self.result.source is not None:
            found = "source"
            origin = next(r.origin for r in self.result.source.history if r.id == self.result.winner.id)
        words = {
            "original": "the program itself: nothing measured better",
            "general": "the general instructions that ship with the library",
            "seed": "your own instructions",
            "proposal": "the reference LM",
        }
        replies = [proposal for phase in phases.values() if phase for proposal in phase.proposals]
        usable = sum(proposal.reason is None for proposal in replies)
        where = f", in the {found} phase" if origin != "original" else ""
        return f"{words[origin]}{where} ({usable} of the reference LM's {len(replies)} replies were usable)"

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values; NaN (a metric that a set does not have) is null."""
        rows = {name: getattr(self, name) for name in ("original", "source", "target")}
        return {
            **{name: _row(row) for name, row in rows.items()},
            "difference": {
                name: _plain(getattr(self.difference, name)) for name in ("score", "low", "high", "p_value")
            },
            "scorer_calls": self.result.scorer_usage.calls,
            "reference_calls": self.result.reference_usage.calls,
            "cached_calls": self.result.scorer_usage.cached + self.result.reference_usage.cached,
            "test_calls": self.test_usage.calls,
            "seconds": round(self.seconds, 1),
            "instruction": self.instructions["target"],
            "instructions": self.instructions,
        }


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
    listeners: Sequence[Listener] = ()

    def load(self) -> tuple[list[Task], Task]:
        """Load the tasks; no source may share questions with the target's test split."""
        tasks = [load_task(name, seed=self.seed, limit=self.test_limit) for name in self.sources]
        target = load_task(self.target, seed=self.seed, limit=self.test_limit)
        if not target.test:
            raise DataError(f"{target.name} has no labelled test split to report on; choose another --target.")
        target = target.split_validation(seed=self.seed)
        for task in tasks:
            shared = find_overlap(target.test, [*task.train, *task.validation])
            if shared:
                raise SplitOverlapError(
                    f"{len(shared)} of {len(target.test)} test questions of {target.name} are also in the source task "
                    f"{task.name}; choose another source."
                )
        return tasks, target

    def run(self, tasks: Sequence[Task], target: Task) -> DemoReport:
        """Compile on the tasks, then measure three prompts on the target's test split.

        Args:
            tasks: The source tasks.
            target: The target task; its test split is not touched before the compile has ended.
        """
        started = time.monotonic()
        objective = ObjectiveEvaluator(confidence="logits")
        program = dspy.Predict(dspy.Signature("question -> answer", ORIGINAL_INSTRUCTION))
        with dspy.context(adapter=InstructionAdapter(self.position)):
            teleprompter = TransferPrompting(
                objective,
                reference_lm=self.reference_lm,
                scorer_lm=self.scorer_lm,
                auto=self.auto,  # type: ignore[arg-type]
                examples=self.examples,
                run_dir=self.out,
                seed=self.seed,
                verbose=False,
                listeners=self.listeners,
            )
            compiled = teleprompter.compile(
                program,
                trainset=target.train,
                valset=target.validation,
                source_tasks=tasks,
                description=target.description,
            )
            result: TransferResult = compiled.detailed_results
            best_source = result.source.ranked[0] if result.source else result.original
            instructions = {
                "original": ORIGINAL_INSTRUCTION,
                "source": best_source.instructions["self"],
                "target": result.winner.instructions["self"],
            }
            test = stratified_order(target.test, seed=self.seed)[: self.test_limit]
            measured = self._measure(objective, list(dict.fromkeys(instructions.values())), test)
        rows = {name: measured[text] for name, text in instructions.items()}
        return DemoReport(
            **rows,
            difference=objective.compare(rows["original"], rows["target"], seed=self.seed),
            result=result,
            instructions=instructions,
            test_usage=sum((row.usage for row in measured.values()), Usage()),
            seconds=time.monotonic() - started,
            saved={name: self.out / f"{name}.json" for name in ("program", "source_prompts", "result")},
        )

    def _measure(
        self, objective: ObjectiveEvaluator, texts: Sequence[str], examples: Sequence[dspy.Example]
    ) -> dict[str, Evaluation]:
        """Measure instructions on examples, all in one pool."""
        scorer = Scorer(objective, lm=self.scorer_lm)
        programs = [scorer.prepare(dspy.Predict(dspy.Signature("question -> answer", text))) for text in texts]
        jobs = [
            Job((text, index), program, example)
            for text, program in zip(texts, programs, strict=True)
            for index, example in enumerate(examples)
        ]
        self._tell(PhaseBegan("test", len(texts), 0))
        self._tell(StepBegan("test", len(jobs)))
        outcomes: dict[tuple[str, int], Outcome] = {}
        for key, outcome in scorer.score(jobs):
            outcomes[key] = outcome
            self._tell(OutcomeArrived("test", outcome))
        return {
            text: objective.summarize([outcomes[text, index] for index in range(len(examples))], seed=self.seed)
            for text in texts
        }

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)


def _row(row: Evaluation) -> dict[str, Any]:
    return {
        **{metric: _plain(getattr(row.metrics, metric)) for metric in METRICS},
        "intervals": {metric: [_plain(end) for end in row.intervals[metric]] for metric in METRICS},
        "n": row.metrics.n,
    }


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
