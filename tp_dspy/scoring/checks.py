"""What a program and its examples must have to be scored at all: checked before any call is paid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dspy

from tp_dspy.errors import DataError, ProgramError
from tp_dspy.lms.answers import as_text, read_choice

if TYPE_CHECKING:
    from tp_dspy.scoring.objective import ObjectiveEvaluator

__all__ = ["check_examples", "check_program"]


def check_program(objective: ObjectiveEvaluator, program: dspy.Module) -> None:
    """Check that some predictor of a program, frozen ones among them, has the fields that the objective reads.

    Raises:
        ProgramError: If none has the answer field (or the confidence field).
    """
    fields = {name for _, p in program.named_sub_modules(dspy.Predict) for name in p.signature.output_fields}
    if objective.answer not in fields:
        raise ProgramError(
            f"The objective reads the answer from {objective.answer!r}; the program's output fields are "
            f"{sorted(fields)}. Pass ObjectiveEvaluator(answer=...) one of those."
        )
    if objective.confidence == "verbalized" and objective.confidence_field not in fields:
        raise ProgramError(
            f"Verbalised confidence is read from {objective.confidence_field!r}; the program's output fields are "
            f"{sorted(fields)}. Add such a field to the signature, or pass confidence='logits' or None."
        )


def check_examples(
    objective: ObjectiveEvaluator, examples: Sequence[dspy.Example], typed: Sequence[str] | None
) -> None:
    """Check that examples have inputs and an expected answer that is allowed.

    Args:
        objective: The objective; one with `match` needs no expected answers.
        examples: The examples.
        typed: The allowed answers by the type of the answer field, for examples that list none.

    Raises:
        DataError: If some do not; says how many, and which is the first.
    """
    answer = objective.answer
    no_inputs = [i for i, example in enumerate(examples) if getattr(example, "_input_keys", None) is None]
    if no_inputs:
        raise DataError(
            f"{_count(no_inputs, examples)} no inputs set. Say which fields the program is given: "
            'example.with_inputs("question").'
        )
    if objective.match is not None:
        return
    no_answer = [i for i, example in enumerate(examples) if example.get(answer) is None]
    if no_answer:
        raise DataError(
            f"{_count(no_answer, examples)} no {answer!r} (it has {sorted(examples[no_answer[0]].keys())}). "
            "Put the expected answer there, or pass `match` to score without one."
        )
    strange = [i for i, example in enumerate(examples) if not _expects_allowed(objective, example, typed)]
    if strange:
        first = examples[strange[0]]
        raise DataError(
            f"{_count(strange, examples)} an expected {answer!r} that is not allowed: {as_text(first[answer])!r} is "
            f"not among {list(objective.allowed(first) or typed or ())}. Mend the examples, or say what is allowed: "
            "ObjectiveEvaluator(choices=['A', 'B', ...])."
        )


def _expects_allowed(objective: ObjectiveEvaluator, example: dspy.Example, typed: Sequence[str] | None) -> bool:
    allowed = objective.allowed(example) or typed
    # The whole text must be the choice: "A heart attack" is no expected A.
    return allowed is None or read_choice(as_text(example[objective.answer]), allowed)[1]


def _count(indices: Sequence[int], examples: Sequence[Any]) -> str:
    return f"{len(indices)} of {len(examples)} examples cannot be scored: the first, number {indices[0]} (from 0), has"
