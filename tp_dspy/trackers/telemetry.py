"""Spans for OpenTelemetry: a compile, its evaluations, the program's runs and their LM calls as one trace."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback

from tp_dspy.trackers.tracker import import_or_tell

__all__ = ["TelemetryCallback"]


def _starts(kind: str) -> Callable[..., None]:
    def start(self: TelemetryCallback, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start(kind, call_id, instance, inputs)

    return start


def _ends(kind: str) -> Callable[..., None]:
    def end(self: TelemetryCallback, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(kind, call_id, outputs, exception)

    return end


class TelemetryCallback(BaseCallback):  # type: ignore[misc]
    """A DSPy callback that opens a span for each compile, evaluation, module, LM and tool call, in whatever thread.

        dspy.configure(callbacks=[TelemetryCallback()])

    Spans go to the tracer provider that the application has set up. What runs inside one, e.g. HTTP requests that are
    instrumented, is below it. LM spans carry ``gen_ai.request.model`` and, where DSPy knows them,
    ``gen_ai.usage.input_tokens`` and ``gen_ai.usage.output_tokens``; calls that DSPy's cache answered have none.

    Args:
        content: Whether spans carry prompts, replies, inputs, outputs and the text of errors; without it they carry
            names and numbers only.
        tracer: An OpenTelemetry tracer; by default that of the global provider.

    Raises:
        MissingDependencyError: If opentelemetry is not installed.
    """

    on_compile_start, on_compile_end = _starts("compile"), _ends("compile")
    on_evaluate_start, on_evaluate_end = _starts("evaluate"), _ends("evaluate")
    on_module_start, on_module_end = _starts("module"), _ends("module")
    on_lm_start, on_lm_end = _starts("lm"), _ends("lm")
    on_tool_start, on_tool_end = _starts("tool"), _ends("tool")

    def __init__(self, *, content: bool = False, tracer: Any = None) -> None:
        super().__init__()
        self._content = content
        # Its top is only a folder, which other packages share.
        self._trace = import_or_tell("opentelemetry", type(self).__name__, "opentelemetry-sdk", "opentelemetry.trace")
        self._context: Any = importlib.import_module("opentelemetry.context")
        self._tracer = tracer or self._trace.get_tracer("tp_dspy")
        self._open: dict[str, tuple[Any, Any, Any]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> TelemetryCallback:
        # DSPy copies its settings for threads; what began in one place ends here.
        return self

    def _start(self, kind: str, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        parent = self._open.get(ACTIVE_CALL_ID.get() or "")
        # By DSPy's own call ids: they come along into its threads, where OpenTelemetry's context may not.
        within = self._trace.set_span_in_context(parent[0]) if parent is not None else None
        name, attributes = _about(kind, instance)
        if self._content:
            attributes["dspy.inputs"] = str(inputs)
        span = self._tracer.start_span(name, context=within, attributes=attributes)
        token = self._context.attach(self._trace.set_span_in_context(span))
        self._open[call_id] = span, token, instance

    def _end(self, kind: str, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        span, token, instance = self._open.pop(call_id)
        self._context.detach(token)
        if exception is not None:
            # An error's text may quote the prompt or the reply.
            text = str(exception) if self._content else ""
            kind_of_error = type(exception).__name__
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, f"{kind_of_error} {text}".strip()))
            span.set_attribute("error.type", kind_of_error)
        elif kind == "lm":
            span.set_attributes(_tokens(instance, outputs))
        elif kind == "evaluate" and hasattr(outputs, "score"):
            span.set_attribute("dspy.score", float(outputs.score))
        if self._content and exception is None:
            span.set_attribute("dspy.outputs", str(outputs))
        span.end()


def _about(kind: str, instance: Any) -> tuple[str, dict[str, Any]]:
    """Name a call, and say what it is."""
    attributes: dict[str, Any] = {"dspy.kind": kind}
    if kind == "lm":
        asked = {"gen_ai.operation.name": "chat", "gen_ai.request.model": instance.model}
        return f"chat {instance.model}", attributes | asked
    if kind == "evaluate":
        return "evaluate", attributes | {"dspy.examples": len(instance.devset)}
    what = instance.name if kind == "tool" else type(instance).__name__
    return f"{kind} {what}", attributes | {"dspy.name": what}


def _tokens(lm: Any, outputs: Any) -> dict[str, int]:
    """Find what a call cost in the LM's history, where other threads write too: the entry with these very outputs."""
    history = lm.history if isinstance(lm, dspy.BaseLM) else []
    usage: dict[str, Any] = next((entry["usage"] for entry in history[:-33:-1] if entry["outputs"] is outputs), {})
    names = {"gen_ai.usage.input_tokens": "prompt_tokens", "gen_ai.usage.output_tokens": "completion_tokens"}
    return {name: int(usage[field]) for name, field in names.items() if usage.get(field) is not None}
