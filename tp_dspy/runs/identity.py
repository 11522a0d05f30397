"""What identifies a run: two that agree in all of this would pay for the same thing twice."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy

from tp_dspy.optimization.candidates import Candidate
from tp_dspy.runs.artifacts import plain
from tp_dspy.scoring.objective import ObjectiveEvaluator

__all__ = ["code", "compile_identity", "context_identity", "digest"]


def digest(parts: Any) -> str:
    """Hash plain values: the sha256 of their canonical JSON, as hex digits."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_described)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def context_identity(program: dspy.Module, objective: ObjectiveEvaluator, lm: dspy.BaseLM | None) -> str:
    """Identify what decides an outcome, beside the candidate and the example.

    These are the program (its code, demos, fields and frozen instructions), the LMs with their settings, the adapter
    and the objective, the code of the user's own functions included. What a program reads from elsewhere, such as a
    corpus, is not seen.

    Args:
        program: The program whose instructions are optimised.
        objective: Judges its answers.
        lm: Runs predictors that have no LM of their own; None for the configured one.
    """
    judge = objective.judge
    state = {name: _state(parameter) for name, parameter in program.named_parameters()}
    for name in Candidate.of(program).instructions:
        state[name].get("signature", {}).pop("instructions", None)
    frozen = {n: p.signature.instructions for n, p in program.named_sub_modules(dspy.Predict) if n not in state}
    modules = {type(module) for _, module in program.named_sub_modules()}
    lms = [p.lm or lm or dspy.settings.lm for _, p in program.named_sub_modules(dspy.Predict)]
    functions = [judge.confidence, judge.match, judge.follows, *objective.rule.custom.values()]
    return digest(
        {
            "code": sorted(code(kind) for kind in modules if not kind.__module__.startswith("dspy.")),
            "kinds": sorted(kind.__qualname__ for kind in modules),
            "attributes": [_attributes(module) for _, module in program.named_sub_modules()],
            "predictors": [_fields(predictor) for _, predictor in program.named_sub_modules(dspy.Predict)],
            "state": state,
            "frozen": sorted(frozen.values()),
            "lms": [_lm(one) for one in lms],
            "adapter": _described(dspy.settings.adapter),
            "objective": objective.describe(),
            "judge": [judge.confidence_field, judge.choices.by_field, judge.tolerance],
            "functions": [code(function) for function in functions if callable(function)],
        }
    )


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
    return digest([context, plain(settings), dict(original.instructions), list(examples), list(extra)])


def _attributes(module: dspy.Module) -> dict[str, Any]:
    """The plain settings of a module of the user's own; DSPy's have names made up anew for each object."""
    if type(module).__module__.startswith("dspy."):
        return {}
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {name: value for name, value in public.items() if isinstance(value, str | int | float)}


def _fields(predictor: Any) -> list[Any]:
    fields = [(name, str(field.annotation)) for name, field in predictor.signature.fields.items()]
    return [fields, plain(predictor.config)]


def _state(parameter: Any) -> dict[str, Any]:
    state: dict[str, Any] = dict(parameter.dump_state())
    for name in ("lm", "traces", "train"):
        state.pop(name, None)
    state["signature"] = dict(state.get("signature") or {})
    return state


def _lm(lm: Any) -> Any:
    # Where it is served and the keys are left out: the same model elsewhere answers the same.
    settings = {k: v for k, v in (getattr(lm, "kwargs", None) or {}).items() if k not in ("api_base", "base_url")}
    return [getattr(lm, "model", None), getattr(lm, "model_type", None), plain(settings)]


def _described(value: Any) -> Any:
    """Describe an object by its class and its plain attributes, without addresses in memory."""
    if value is None or isinstance(value, str | int | float):
        return value
    attributes = {k: plain(v) for k, v in vars(value).items()} if hasattr(value, "__dict__") else {}
    return [type(value).__qualname__, attributes]


def code(thing: Any) -> str:
    """Hash the code of a function or of the methods of a class: an edited metric is another metric."""
    if isinstance(thing, type):
        methods = [value for value in vars(thing).values() if isinstance(value, types.FunctionType)]
        return digest([thing.__qualname__, sorted(code(method) for method in methods)])
    function = getattr(thing, "function", thing)  # A SetMetric holds one.
    found = getattr(function, "__code__", None)
    if found is None and "__call__" in vars(type(function)):  # An object that can be called.
        return digest([code(type(function)), _described(function)])
    if found is None:
        return getattr(function, "__qualname__", type(function).__qualname__)
    cells = [plain(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]
    return digest([_instructions(found), cells, plain(getattr(function, "__defaults__", None))])


def _instructions(code: types.CodeType) -> list[Any]:
    return [code.co_code.hex(), [_constant(constant) for constant in code.co_consts], list(code.co_names)]


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _instructions(value)
    # Sets have another order in every process.
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)
