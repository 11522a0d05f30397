"""OpenTelemetry: a compile is one trace, whatever threads it runs in, and says nothing of what was asked."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError

from programs.benchmarks.scripted import scripted_lm
from tests.trackers.conftest import Lab
from tp_dspy import InstructionAdapter
from tp_dspy.errors import MissingDependencyError
from tp_dspy.trackers import TelemetryCallback
from tp_dspy.trackers.telemetry import _tokens


class Spans:
    """Finished spans, and the path of names from the root to each."""

    def __init__(self) -> None:
        trace = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter = InMemorySpanExporter()
        provider = trace.TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")

    @property
    def all(self) -> Any:
        return self.exporter.get_finished_spans()

    def paths(self) -> Counter[str]:
        by_id = {span.context.span_id: span for span in self.all}

        def path(span: Any) -> list[str]:
            above = path(by_id[span.parent.span_id]) if span.parent else []
            return [*above, span.name.split()[0]]

        return Counter(" > ".join(path(span)) for span in self.all)


@pytest.fixture
def spans() -> Spans:
    return Spans()


def test_a_compile_is_one_trace_across_threads(lab: Lab, spans: Spans) -> None:
    with dspy.context(callbacks=[TelemetryCallback(tracer=spans.tracer)]):
        result = lab.compile(num_threads=4).detailed_results
    scored, asked = result.scorer_usage.calls, result.reference_usage.calls
    assert spans.paths() == {
        "compile": 1,
        "compile > module": scored,
        "compile > module > chat": scored,
        "compile > chat": asked,
    }
    assert len({span.context.trace_id for span in spans.all}) == 1
    (root,) = [span for span in spans.all if span.parent is None]
    assert root.name == "compile TransferPrompting" and all(span.end_time <= root.end_time for span in spans.all)


def test_an_evaluation_is_one_too_with_models_tokens_and_the_score(lab: Lab, spans: Spans) -> None:
    with dspy.context(lm=lab.scorer, adapter=InstructionAdapter(), callbacks=[TelemetryCallback(tracer=spans.tracer)]):
        evaluation = lab.objective.evaluate(lab.student, lab.target.test, num_threads=4)
    assert spans.paths() == {"evaluate": 1, "evaluate > module": 10, "evaluate > module > chat": 10}
    (root,) = [span for span in spans.all if span.name == "evaluate"]
    assert root.attributes["dspy.examples"] == 10
    assert root.attributes["dspy.score"] == round(100 * evaluation.metrics.score, 2)
    chats = [span.attributes for span in spans.all if span.name == "chat scripted/s"]
    assert {chat["gen_ai.request.model"] for chat in chats} == {"scripted/s"}
    assert sum(chat["gen_ai.usage.input_tokens"] for chat in chats) == evaluation.usage.prompt_tokens
    assert sum(chat["gen_ai.usage.output_tokens"] for chat in chats) == evaluation.usage.completion_tokens


def test_tokens_are_those_of_the_very_call_whatever_other_threads_have_added(lab: Lab) -> None:
    first, second = ["A"], ["A"]
    lab.scorer.history += [
        {"outputs": first, "usage": {"prompt_tokens": 5, "completion_tokens": 1}},
        {"outputs": second, "usage": {"prompt_tokens": 7}},
    ]
    assert _tokens(lab.scorer, first) == {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 1}
    assert _tokens(lab.scorer, second) == {"gen_ai.usage.input_tokens": 7}
    assert _tokens(lab.scorer, ["A"]) == {}


def said(spans: Spans) -> str:
    return "\n".join(span.to_json() for span in spans.all)


@pytest.mark.parametrize("content", [False, True])
def test_prompts_and_replies_are_told_only_when_asked_for(content: bool, lab: Lab, spans: Spans) -> None:
    callback = TelemetryCallback(content=content, tracer=spans.tracer)
    with dspy.context(lm=lab.scorer, adapter=InstructionAdapter(), callbacks=[callback]):
        lab.student(question=lab.target.test[0].question)
    assert (lab.target.test[0].question in said(spans)) is content
    assert ("Answer." in said(spans)) is content


def test_an_error_is_told_by_its_kind_and_its_text_only_when_asked_for(lab: Lab, spans: Spans) -> None:
    broken = scripted_lm(lambda prompt: AuthError("the prompt was: secret"))
    for content in (False, True):
        callback = TelemetryCallback(content=content, tracer=spans.tracer)
        with (
            dspy.context(lm=broken, adapter=InstructionAdapter(), callbacks=[callback]),
            pytest.raises(dspy.utils.exceptions.LMAuthError),
        ):
            lab.student(question="?")
        assert {span.status.status_code.name for span in spans.all} == {"ERROR"}
        assert all(span.attributes["error.type"] == "LMAuthError" for span in spans.all)
        assert ("secret" in said(spans)) is content


def test_spans_are_below_the_one_that_is_open_around_them(lab: Lab, spans: Spans) -> None:
    callback = TelemetryCallback(tracer=spans.tracer)
    with (
        spans.tracer.start_as_current_span("request"),
        dspy.context(lm=lab.scorer, adapter=InstructionAdapter(), callbacks=[callback]),
    ):
        lab.student(question=lab.target.test[0].question)
        lab.student(question=lab.target.test[1].question)
    assert spans.paths() == {"request": 1, "request > module": 2, "request > module > chat": 2}


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opentelemetry", "opentelemetry.trace"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match="pip install opentelemetry-sdk"):
        TelemetryCallback()
