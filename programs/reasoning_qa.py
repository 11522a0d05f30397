"""Reasoning questions: a chain of thought, an answer, and how sure the LM says it is.

    uv run python -m programs.reasoning_qa --help
    uv run python -m programs.reasoning_qa --scorer-lm openai/gpt-4o-mini --reference-lm openai/gpt-4o
        --source strategyqa aqua --target logiqa --auto light

The confidence is an output field ("verbalized"): for LMs that return no log-probabilities. It takes an LM that can keep
to three fields; the small one of this machine cannot, and the table says so.
"""

from __future__ import annotations

import dspy

from programs.running import arguments, run
from tp_dspy import ObjectiveEvaluator

__all__ = ["ReasoningQA"]


class Reason(dspy.Signature):
    """Answer the question, and say how sure you are."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()
    confidence: float = dspy.OutputField(desc="probability that the answer is right, from 0 to 1")


class ReasoningQA(dspy.Module):
    """Thinks before it answers; `dspy.ChainOfThought` adds the field for that."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = dspy.ChainOfThought(Reason)

    def forward(self, question: str) -> dspy.Prediction:
        """Answer a question."""
        return self.reason(question=question)


def main() -> None:
    """Compile, measure and save."""
    sources = ["starter/legal:choice", "starter/medical:choice"]
    given = arguments(__doc__ or "", sources=sources, target="starter/financial:choice").parse_args()
    run(ReasoningQA(), ObjectiveEvaluator(confidence="verbalized"), given)


if __name__ == "__main__":
    main()
