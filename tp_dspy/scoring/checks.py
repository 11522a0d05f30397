"""What a program and its examples must have to be scored at all: checked before any call is paid."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dspy

from tp_dspy.errors import DataError, ProgramError
from tp_dspy.lms.answers import as_text, read_choice
from tp_dspy.scoring.matching import expected_answers

if TYPE_CHECKING:
    from tp_dspy.scoring.choices import TypedChoices
    from tp_dspy.scoring.judge import Judge

__all__ = ["check_examples", "check_inputs", "check_program"]


def check_program(judge: Judge, program: dspy.Module) -> None:
    """Check that some predictor of a program, frozen ones among them, has the fields that are read.

    Raises:
        ProgramError: If none has an answer field (or the confidence field).
    """
    fields = {name for _, p in program.named_sub_modules(dspy.Predict) for name in p.signature.output_fields}
    for answer in judge.answers:
        if answer not in fields:
            raise ProgramError(
                f"The objective reads the answer from {answer!r}; the program's output fields are "
                f"{sorted(fields)}. Pass ObjectiveEvaluator(answer=...) one of those."
            )
    if judge.confidence == "verbalized" and judge.confidence_field not in fields:
        raise ProgramError(
            f"Verbalised confidence is read from {judge.confidence_field!r}; the program's output fields are "
            f"{sorted(fields)}. Add such a field to the signature, or pass confidence='logits', 'agreement' or None."
        )


def check_examples(judge: Judge, examples: Sequence[dspy.Example], typed: TypedChoices) -> None:
    """Check that examples have inputs and an expected answer that is allowed.

    Args:
        judge: Says what is read; one with a function as `match` needs no expected answers.
        examples: The examples.
        typed: The allowed answers by the types of the answer fields, for examples that list none.

    Raises:
        DataError: If some do not; says how many, and which is the first.
    """
    no_inputs = [i for i, example in enumerate(examples) if getattr(example, "_input_keys", None) is None]
    if no_inputs:
        raise DataError(
            f"{_count(no_inputs, examples)} no inputs set. Say which fields the program is given: "
            'example.with_inputs("question").'
        )
    if callable(judge.match):
        return
    for answer in judge.answers:
        no_answer = [i for i, example in enumerate(examples) if not expected_answers(example.get(answer))]
        if no_answer:
            raise DataError(
                f"{_count(no_answer, examples)} no {answer!r} (it has {sorted(examples[no_answer[0]].keys())}). "
                "Put the expected answer there, or pass a function as `match` to score without one."
            )
        strange = [i for i, example in enumerate(examples) if not _expects_allowed(judge, example, answer, typed)]
        if strange:
            first = examples[strange[0]]
            allowed = judge.choices.listed(first, answer) or typed.get(answer) or ()
            raise DataError(
                f"{_count(strange, examples)} an expected {answer!r} that is not allowed: {as_text(first[answer])!r} "
                f"is not among {list(allowed)}. Mend the examples, or say what is allowed: "
                "ObjectiveEvaluator(choices=['A', 'B', ...])."
            )


def check_inputs(program: dspy.Module, examples: Sequence[dspy.Example]) -> None:
    """Check that a program takes what examples give it; DSPy would call the LM all the same, with fields left empty.

    Raises:
        ProgramError: If it takes something else.
    """
    forward = getattr(type(program), "forward", None)
    if forward is None:
        raise ProgramError(f"{type(program).__name__} has no method forward; expected a program that can be called.")
    _, *named = inspect.signature(forward).parameters.values()
    if any(parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) for parameter in named):
        # DSPy's own modules take what their signature says, and leave the rest.
        inner = program.predict if isinstance(program, dspy.ChainOfThought) else program
        needs = set(getattr(getattr(inner, "signature", None), "input_fields", ()))
        takes = None
    else:
        needs = {parameter.name for parameter in named if parameter.default is parameter.empty}
        takes = {parameter.name for parameter in named}
    for given in {frozenset(example.inputs().keys()) for example in examples}:
        if needs - given or (takes is not None and given - takes):
            raise ProgramError(
                f"The program takes {sorted(takes or needs)}, and the examples give it {sorted(given)}. Give them the "
                "program's names: Task.from_csv(..., inputs={field: column}), or with_inputs() of your own examples."
            )


def _expects_allowed(judge: Judge, example: dspy.Example, answer: str, typed: TypedChoices) -> bool:
    allowed = judge.choices.listed(example, answer) or typed.get(answer)
    # The whole text must be the choice: "A heart attack" is no expected A.
    return allowed is None or all(read_choice(text, allowed)[1] for text in expected_answers(example[answer]))


def _count(indices: Sequence[int], examples: Sequence[Any]) -> str:
    return f"{len(indices)} of {len(examples)} examples cannot be scored: the first, number {indices[0]} (from 0), has"
