"""Financial texts, judged directly: one predictor, one short answer, confidence from its log-probabilities.

    uv run python -m programs.financial_qa --help
    uv run python -m programs.financial_qa                                 # on the small LM of this machine
    uv run python -m programs.financial_qa --scorer-lm openai/gpt-4o-mini --reference-lm openai/gpt-4o
        --source takala/financial_phrasebank:sentences_allagree marketing --target fomc --auto light

The cheapest shape, and with few labels often all that is needed. (Mind the licences: PhraseBank and FOMC are not for
commercial use.)
"""

from __future__ import annotations

import dspy

from programs.running import arguments, run
from tp_dspy import ObjectiveEvaluator

__all__ = ["FinancialQA"]


class Judge(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class FinancialQA(dspy.Module):
    """Answers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = dspy.Predict(Judge)

    def forward(self, question: str) -> dspy.Prediction:
        """Answer a question."""
        return self.judge(question=question)


def main() -> None:
    """Compile, measure and save."""
    sources = ["starter/legal:yes_no", "starter/medical:yes_no"]
    given = arguments(__doc__ or "", sources=sources, target="starter/financial:yes_no").parse_args()
    run(FinancialQA(), ObjectiveEvaluator(confidence="logits"), given)


if __name__ == "__main__":
    main()
