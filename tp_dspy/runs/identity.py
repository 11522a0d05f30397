"""What identifies a run: two that agree in all of this would pay for the same thing twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy
from dspy.predict.parameter import Parameter

from tp_dspy.optimization.candidates import Candidate, free_predictors
from tp_dspy.runs.artifacts import versions_in_use
from tp_dspy.runs.described import Settings, described, digest, state_of
from tp_dspy.scoring.objective import ObjectiveEvaluator

__all__ = ["compile_identity", "context_identity"]


def context_identity(
    program: dspy.Module,
    objective: ObjectiveEvaluator,
    lm: dspy.BaseLM | None,
    examples: Iterable[dspy.Example] = (),
) -> str:
    """Identify what decides an outcome, beside the candidate and the example.

    These are the program (its code, settings, demos, fields and frozen instructions), the LMs with their settings, the
    adapter, the objective, the code of the user's own functions, and the versions of DSPy and this library, which make
    prompts of it; `described` says how far it goes. What a program reads from elsewhere, such as a corpus, is not
    seen.

    Args:
        program: The program whose instructions are optimised.
        objective: Judges its answers.
        lm: Runs predictors that have no LM of their own; None for the configured one.
        examples: What may be scored; which of their fields are inputs counts.
    """
    judge = objective.judge
    modules = list(program.named_sub_modules())
    parts = [module for _, module in modules]
    predictors = [module for module in parts if isinstance(module, dspy.Predict)]
    optimised = {id(predictor) for _, predictor in free_predictors(program)}
    free = [predictor.signature.instructions for predictor in predictors if id(predictor) in optimised]
    parameters = {
        id(one): (name, one) for name, one in [*modules, *program.named_parameters()] if isinstance(one, Parameter)
    }
    functions = described([judge.confidence, judge.match, judge.follows, objective.rule.custom], free=free)
    known = {
        "versions": {name: version for name, version in versions_in_use().items() if name != "python"},
        "modules": [[name, type(part), Settings(part)] for name, part in modules],
        "parameters": [[name, {**state_of(one), "lm": None}] for name, one in parameters.values()],
        "lms": [predictor.lm or lm or dspy.settings.lm for predictor in predictors],
        "adapter": dspy.settings.adapter,
        "inputs": sorted({tuple(sorted(example.inputs().keys())) for example in examples}),
        "objective": objective.describe(),
        "judge": [judge.confidence_field, judge.choices.by_field, judge.tolerance],
        "functions": functions.digest,
        # Metrics ask the configured LM, whichever the program asks.
        "functions ask": dspy.settings.lm if functions.asks else None,
    }
    return digest(known, apart=parts, free=free)


def compile_identity(
    context: str,
    settings: Mapping[str, Any],
    original: Candidate,
    examples: Iterable[str],
    extra: Sequence[Any] = (),
) -> str:
    """Identify a compile.

    Args:
        context: See `context_identity`.
        settings: The settings of the optimiser.
        original: The program's own instructions.
        examples: The fingerprints of everything that may be scored.
        extra: What else decides the course of it, as plain values.
    """
    return digest([context, settings, dict(original.instructions), list(examples), list(extra)])
