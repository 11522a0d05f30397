"""Prompts on the same examples, question by question: what a reader compares before shipping one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy
from pydantic import Field

from tp_dspy.runs.records import Record
from tp_dspy.scoring.comparison import Comparison, compare
from tp_dspy.scoring.evaluation import Evaluation
from tp_dspy.scoring.outcomes import Outcome, Status
from tp_dspy.scoring.set_objective import Metrics

__all__ = ["ExampleRecord", "OutcomeRecord", "PromptRecord", "SideBySide"]


# Characters of an input that are kept: a long document, but not a picture.
_LONGEST = 20_000


class ExampleRecord(Record):
    """An example: its inputs, as text by field name."""

    inputs: dict[str, str]

    @classmethod
    def of(cls, example: dspy.Example) -> ExampleRecord:
        """Record an example with inputs set; of what is very long, such as an image, the beginning."""
        return cls(inputs={name: _writable(_shortened(str(v))) for name, v in example.inputs().toDict().items()})


class OutcomeRecord(Record):
    """What a prompt did on an example; attributes as of `tp_dspy.scoring.outcomes.Outcome`, without the cost."""

    status: Status
    followed: bool
    correct: float
    confidence: float | None
    answer: str | None
    expected: str | None
    reply: str | None
    feedback: str

    @classmethod
    def of(cls, outcome: Outcome) -> OutcomeRecord:
        """Record an outcome."""
        return cls(**{name: _writable(getattr(outcome, name)) for name in cls.model_fields})


class PromptRecord(Record):
    """A prompt on all of the examples.

    Attributes:
        instructions: Instruction by predictor name.
        metrics: Its metrics.
        intervals: 95 % bootstrap intervals of metrics and score, by name.
        outcomes: One for each example.
    """

    instructions: dict[str, str]
    metrics: Metrics
    intervals: dict[str, tuple[float, float]]
    outcomes: list[OutcomeRecord]


class SideBySide(Record):
    """Prompts on the same examples; the first is what the others are compared with.

    Attributes:
        examples: The examples, with the text of their inputs.
        prompts: By name: "original", "best source" where there is one, "target".
        differences: By name, of all but the first: that prompt less the first, paired. One that shares no answered
            example with the first has none.
        paired: By name, as `differences`: the score of the first and of that prompt on the examples that both have
            answers to. Empty in older files.
    """

    examples: list[ExampleRecord]
    prompts: dict[str, PromptRecord]
    differences: dict[str, Comparison]
    paired: dict[str, tuple[float, float]] = Field(default_factory=dict)

    @classmethod
    def of(
        cls,
        evaluations: Mapping[str, Evaluation],
        instructions: Mapping[str, Mapping[str, str]],
        examples: Sequence[dspy.Example],
        *,
        seed: int = 0,
    ) -> SideBySide:
        """Record evaluations on the same examples.

        Args:
            evaluations: By the prompt's name; the first is what the others are compared with.
            instructions: Of each prompt, by predictor name.
            examples: What they were evaluated on, with inputs set.
            seed: Of the resampling.
        """
        first, *others = evaluations
        base = evaluations[first]
        shared = {
            name: [pair for pair in _pairs(base, evaluations[name]) if "error" not in (pair[0].status, pair[1].status)]
            for name in others
        }
        return cls(
            examples=[
                ExampleRecord(inputs={k: _writable(str(v)) for k, v in e.inputs().toDict().items()}) for e in examples
            ],
            prompts={
                name: PromptRecord(
                    instructions=dict(instructions[name]),
                    metrics=evaluation.metrics,
                    intervals=dict(evaluation.intervals),
                    outcomes=[OutcomeRecord.of(outcome) for outcome in evaluation.outcomes],
                )
                for name, evaluation in evaluations.items()
            },
            differences={
                name: compare(base.outcomes, evaluations[name].outcomes, base.rule, seed=seed)
                for name in others
                if shared[name]
            },
            paired={name: _scores(base, evaluations[name], pairs) for name, pairs in shared.items() if pairs},
        )


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text) - _LONGEST:,} more characters)"


def _writable(value: Any) -> Any:
    """Half a surrogate pair, as LMs that are cut off leave it and data may hold, is no text that a file can hold."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _scores(first: Evaluation, second: Evaluation, shared: Sequence[tuple[Outcome, Outcome]]) -> tuple[float, float]:
    """Score both on the examples that they share; what is known already is not measured again."""
    if len(shared) == len(first.outcomes):
        return first.metrics.score, second.metrics.score
    one, other = (first.rule.measure(side).score for side in zip(*shared, strict=True))
    return one, other


def _pairs(first: Evaluation, second: Evaluation) -> Iterable[tuple[Outcome, Outcome]]:
    return zip(first.outcomes, second.outcomes, strict=True)
