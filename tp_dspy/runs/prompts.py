"""The prompt as the LM receives it: an instruction is a part of it, and who copies only that loses the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.scoring.running import without_fallback
from tp_dspy.sheets import Line, Sheet, Shown

__all__ = ["RenderedPrompt", "render_prompt"]


@dataclass(frozen=True, repr=False)
class RenderedPrompt(Shown):
    """What one LM call sends. Prints as text.

    Attributes:
        messages: The chat messages, each with "role" and "content".
        settings: What goes along with them, e.g. a response format, as plain values.
    """

    messages: Sequence[dict[str, Any]]
    settings: dict[str, Any]

    @property
    def text(self) -> str:
        """The messages as one text, each below its role."""
        return "\n\n".join(f"[{message['role']}]\n{_content(message)}" for message in self.messages)

    def __str__(self) -> str:
        return self.text  # not broken into lines: it is to be what is sent

    def _sheet(self) -> Sheet:
        lines = []
        for message in self.messages:
            lines += [Line(f"[{message['role']}]", strong=True), Line(_content(message)), Line("")]
        if self.settings:
            lines.append(Line(f"Sent along: {json.dumps(self.settings, default=str, ensure_ascii=False)}"))
        return Sheet(lines)


def render_prompt(
    program: dspy.Module,
    example: dspy.Example,
    *,
    predictor: str | None = None,
    adapter: dspy.Adapter | None = None,
) -> RenderedPrompt:
    """Render what an LM receives from a program. No LM is called: the call is caught when it begins.

    Args:
        program: The program.
        example: An example with inputs set.
        predictor: Whose prompt. By default that of the first LM call that the program makes, with all that it does
            before (such as a retrieval). Another predictor is called by itself, with its inputs from the example.
        adapter: Formats the prompt; by default the one configured in DSPy.

    Raises:
        ConfigurationError: If there is no such predictor, or the program calls no LM.
        DataError: If the example lacks an input of the predictor.
    """
    adapter = without_fallback(adapter or dspy.settings.adapter)
    called, inputs = _what_to_call(program, example, predictor)
    lm = dspy.settings.lm if isinstance(dspy.settings.lm, dspy.BaseLM) else dspy.LM("none/none")
    with dspy.context(lm=lm, adapter=adapter, callbacks=[_Catcher()], allow_tool_async_sync_conversion=True):
        try:
            called(**inputs)
        except _CaughtError as caught:
            return RenderedPrompt(caught.messages, caught.settings)
    raise ConfigurationError(f"{type(program).__name__} made no LM call on this example, so there is no prompt.")


def _what_to_call(
    program: dspy.Module, example: dspy.Example, predictor: str | None
) -> tuple[dspy.Module, dict[str, Any]]:
    if predictor is None:
        return program, example.inputs().toDict()
    named = dict(program.named_predictors())
    if predictor not in named:
        raise ConfigurationError(f"The program has no predictor {predictor!r}; there is {list(named)}.")
    wanted, given = list(named[predictor].signature.input_fields), example.toDict()
    missing = [name for name in wanted if name not in given]
    if missing:
        raise DataError(
            f"The predictor {predictor!r} takes {wanted}, and the example has no {missing}, which other predictors "
            "give. Add values for them to the example, such as example.copy(facts='...')."
        )
    return named[predictor], {name: given[name] for name in wanted}


class _CaughtError(BaseException):
    """Ends a program where it would have called an LM. No `Exception`, so that nobody takes it for a failed call."""

    def __init__(self, messages: list[dict[str, Any]], settings: dict[str, Any]) -> None:
        super().__init__()
        self.messages, self.settings = messages, settings


class _Catcher(BaseCallback):  # type: ignore[misc]
    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        messages = inputs.get("messages") or [{"role": "user", "content": inputs.get("prompt") or ""}]
        raise _CaughtError([dict(message) for message in messages], dict(inputs.get("kwargs") or {}))


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", part)) if isinstance(part, dict) else str(part) for part in content)
    return str(content or "")
