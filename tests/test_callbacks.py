"""DSPy's own callbacks hear of a compile, an evaluation, the program and its LM calls, in whatever thread."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import dspy
import pytest
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback

from tests.test_resume import Lab
from tp_dspy import InstructionAdapter, ObjectiveEvaluator
from tp_dspy.errors import ScoringFailedError


class Heard(BaseCallback):  # type: ignore[misc]
    """Counts what it hears, and under which call."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.parents: dict[str, set[str | None]] = {}
        self.ids: dict[str, str] = {}
        self.last: dict[str, Any] = {}
        self.lock = threading.Lock()

    def _start(self, kind: str, call_id: str, instance: Any) -> None:
        with self.lock:
            self.counts[f"{kind} start"] += 1
            self.ids[call_id] = kind
            self.parents.setdefault(kind, set()).add(self.ids.get(ACTIVE_CALL_ID.get() or ""))
            self.last[kind] = instance

    def _end(self, kind: str, outputs: Any, exception: Exception | None) -> None:
        with self.lock:
            self.counts[f"{kind} end"] += 1
            self.last[f"{kind} end"] = exception or outputs

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("compile", call_id, instance)

    def on_compile_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self._end("compile", outputs, exception)

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("evaluate", call_id, instance)

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self._end("evaluate", outputs, exception)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("module", call_id, instance)

    def on_module_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self._end("module", outputs, exception)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("lm", call_id, instance)

    def on_lm_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self._end("lm", outputs, exception)


def test_a_compile_is_heard_with_all_that_it_does() -> None:
    heard, lab = Heard(), Lab(None)
    with dspy.context(callbacks=[heard]):
        result = lab.compile(num_threads=4)
    counts = heard.counts
    assert counts["compile start"] == counts["compile end"] == 1
    assert counts["module start"] == counts["module end"] == result.scorer_usage.calls
    assert counts["lm start"] == counts["lm end"] == result.scorer_usage.calls + result.reference_usage.calls
    # Each has its parent, across threads.
    assert heard.parents == {"compile": {None}, "module": {"compile"}, "lm": {"compile", "module"}}


def test_an_evaluation_is_heard_as_one_by_dspy_evaluate() -> None:
    heard, lab = Heard(), Lab(None)
    objective = ObjectiveEvaluator()
    program = dspy.Predict(dspy.Signature("question -> answer", "Answer."))
    with dspy.context(lm=lab.world.scorer_lm(), adapter=InstructionAdapter(), callbacks=[heard]):
        evaluation = objective.evaluate(program, lab.target.train, num_threads=4)
    assert heard.counts == dict.fromkeys(
        ["evaluate start", "evaluate end"], 1) | dict.fromkeys(
        ["module start", "module end", "lm start", "lm end"], 10)  # fmt: skip
    assert heard.parents == {"evaluate": {None}, "module": {"evaluate"}, "lm": {"module"}}
    assert heard.last["evaluate"].devset == list(lab.target.train) and heard.last["evaluate"].metric is objective
    told = heard.last["evaluate end"]
    assert told.score == round(100 * evaluation.metrics.score, 2) and len(told.results) == 10
    assert sum(correct for _, _, correct in told.results) / 10 == evaluation.metrics.accuracy


def test_a_failed_evaluation_is_heard_as_failed() -> None:
    heard, lab = Heard(), Lab(None)

    class Broken(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.step = dspy.Predict("question -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            raise OSError("no corpus")

    with dspy.context(lm=lab.world.scorer_lm(), callbacks=[heard]), pytest.raises(ScoringFailedError):
        ObjectiveEvaluator().evaluate(Broken(), lab.target.train)
    assert isinstance(heard.last["evaluate end"], ScoringFailedError)
