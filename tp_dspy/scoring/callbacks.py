"""DSPy's callbacks hear of an evaluation by the objective as they hear of one by ``dspy.Evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import dspy
from dspy.evaluate.evaluate import EvaluationResult
from dspy.utils.callback import with_callbacks

from tp_dspy.scoring.outcomes import Outcome

if TYPE_CHECKING:
    from tp_dspy.scoring.evaluation import Evaluation

__all__ = ["evaluated"]


class _Evaluating(dspy.Evaluate):  # type: ignore[misc]
    """What handlers get as the instance: they look at its ``devset`` and ``metric``."""

    def __init__(
        self, devset: Sequence[dspy.Example], metric: Any, work: Callable[[], tuple[Sequence[Outcome], Evaluation]]
    ) -> None:
        super().__init__(devset=list(devset), metric=metric, display_progress=False)
        self._work = work
        self.evaluation: Evaluation | None = None

    @with_callbacks  # type: ignore[untyped-decorator]
    def __call__(self, program: dspy.Module) -> EvaluationResult:
        outcomes, self.evaluation = self._work()
        results = [
            (example, dspy.Prediction(answer=outcome.answer, confidence=outcome.confidence), outcome.correct)
            for example, outcome in zip(self.devset, outcomes, strict=True)
        ]
        return EvaluationResult(score=round(100 * self.evaluation.metrics.score, 2), results=results)


def evaluated(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    metric: Any,
    work: Callable[[], tuple[Sequence[Outcome], Evaluation]],
) -> Evaluation:
    """Evaluate inside ``on_evaluate_start`` and ``on_evaluate_end``; what runs inside has this call as its parent.

    Args:
        program: What is evaluated.
        examples: On what.
        metric: The objective.
        work: Does it: outcomes in the order of the examples, and the evaluation.
    """
    evaluating = _Evaluating(examples, metric, work)
    evaluating(program)
    assert evaluating.evaluation is not None
    return evaluating.evaluation
