"""Running a program once on one example, in the way in which it is scored."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import dspy
from dspy.utils.exceptions import AdapterParseError, LMInvalidRequestError, LMUnsupportedFeatureError

from tp_dspy.errors import LMUnavailableError
from tp_dspy.lms.answers import as_text
from tp_dspy.scoring.calls import CallRecord, Reply, record_calls
from tp_dspy.scoring.programs import copy_sharing_lms

if TYPE_CHECKING:
    from tp_dspy.scoring.objective import ObjectiveEvaluator

__all__ = [
    "call_defaults",
    "refuses_logprobs",
    "replies_to",
    "run_program",
    "samplers",
    "says_nothing",
    "uncached",
    "without_fallback",
]

# What decides an answer is among the first few alternatives; several providers allow no more than this.
_TOP_LOGPROBS = 10


def call_defaults(predictor: Any, objective: ObjectiveEvaluator, lm: dspy.BaseLM | None = None) -> dict[str, Any]:
    """Say what a predictor is to ask its LM for, where neither it nor the LM says otherwise.

    Args:
        predictor: A ``dspy.Predict``.
        objective: What the answers are judged by.
        lm: The LM of predictors that have none of their own; by default the configured one.

    Raises:
        LMUnavailableError: If there is no LM.
    """
    lm = predictor.lm or lm or dspy.settings.lm
    if lm is None or isinstance(lm, str):
        what = "There is no LM" if lm is None else f"{lm!r} is a name, not an LM,"
        raise LMUnavailableError(f"{what} to run the program: call dspy.configure(lm=dspy.LM(...)) or pass one.")
    defaults: dict[str, Any] = {}
    # Reasoning models take no temperature.
    if getattr(lm, "kwargs", {}).get("temperature") is None and not getattr(lm, "supports_reasoning", False):
        defaults["temperature"] = 0.0
    gives_answer = any(name in predictor.signature.output_fields for name in objective.answers)
    if objective.confidence == "logits" and gives_answer:
        defaults |= {"logprobs": True, "top_logprobs": _TOP_LOGPROBS}
    return defaults


def samplers(program: dspy.Module, objective: ObjectiveEvaluator) -> list[dspy.Module]:
    """Copy a program once for each sample of confidence by agreement: other rollouts, at a temperature above 0."""
    if objective.confidence != "agreement":
        return []
    copies = []
    for number in range(1, objective.samples + 1):
        copied = copy_sharing_lms(program)
        for _, predictor in copied.named_sub_modules(dspy.Predict):
            rollout = {"rollout_id": number, "temperature": objective.sample_temperature}
            predictor.config = {**predictor.config, **rollout}
        copies.append(copied)
    return copies


def replies_to(answers: Iterable[str], prediction: dspy.Prediction, record: CallRecord) -> dict[str, Reply | None]:
    """Find the replies that answer fields were read from."""
    given = {name: prediction.get(name) for name in answers}
    return {name: record.reply_to(name, None if value is None else as_text(value)) for name, value in given.items()}


def run_program(
    program: dspy.Module, example: dspy.Example, settings: Mapping[str, Any]
) -> tuple[Any, Exception | None, CallRecord]:
    """Run a program on an example.

    Returns:
        What it returned, with the error where the reply could not be parsed (an empty prediction); or None with any
        other error. And what it called.
    """
    # One trace per pair: the default one would collect all of them.
    with record_calls(trace=[], **settings) as record:
        try:
            return program(**example.inputs()), None, record
        except AdapterParseError as error:
            return dspy.Prediction(), error, record
        except Exception as error:
            return None, error, record


def says_nothing(record: CallRecord) -> bool:
    """Whether the last reply was empty."""
    replies = record.replies()
    return bool(replies) and not replies[-1][0].strip()


def uncached(program: dspy.Module) -> dspy.Module:
    """Copy a program so that it asks its LM, and not DSPy's cache."""
    copied = copy_sharing_lms(program)
    for _, predictor in copied.named_sub_modules(dspy.Predict):
        predictor.config = {**predictor.config, "cache": False}
    return copied


def refuses_logprobs(error: Exception | None) -> bool:
    """Whether a provider turned a request down because it asked for log-probabilities."""
    return isinstance(error, LMInvalidRequestError | LMUnsupportedFeatureError) and "logprobs" in str(error).casefold()


def without_fallback(adapter: dspy.Adapter | None) -> dspy.Adapter:
    """Take the silent second call out of a ChatAdapter, on a copy; any other adapter is used as it is."""
    if adapter is None:
        return dspy.ChatAdapter(use_json_adapter_fallback=False)
    # JSONAdapter inherits the switch and never uses it.
    if getattr(adapter, "use_json_adapter_fallback", False) and not isinstance(adapter, dspy.JSONAdapter):
        adapter = copy.copy(adapter)
        adapter.use_json_adapter_fallback = False
    return adapter
