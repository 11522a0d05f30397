"""Legal questions in two steps: extract the facts that decide the case, then decide on them.

    uv run python -m programs.legal_qa --help
    uv run python -m programs.legal_qa                                     # on the small LM of this machine
    uv run python -m programs.legal_qa --scorer-lm openai/gpt-4o-mini --reference-lm openai/gpt-4o
        --source diversity_1 proa --target hearsay --auto light

Both instructions are optimised, each for its own step; what counts is the answer at the end.
"""

from __future__ import annotations

import dspy

from programs.running import arguments, run
from tp_dspy import ObjectiveEvaluator

__all__ = ["LegalQA"]


class Extract(dspy.Signature):
    """State briefly the facts that decide the question."""

    question: str = dspy.InputField()
    facts: str = dspy.OutputField()


class Decide(dspy.Signature):
    """Answer the question on the facts."""

    question: str = dspy.InputField()
    facts: str = dspy.InputField()
    answer: str = dspy.OutputField()


class LegalQA(dspy.Module):
    """Extracts, then decides; the facts come back with the answer, for whoever wants to check."""

    def __init__(self) -> None:
        super().__init__()
        self.extract = dspy.Predict(Extract)
        self.decide = dspy.Predict(Decide)

    def forward(self, question: str) -> dspy.Prediction:
        """Answer a question."""
        facts = self.extract(question=question).facts
        decision = self.decide(question=question, facts=facts)
        decision.facts = facts
        return decision


def main() -> None:
    """Compile, measure and save."""
    sources = ["starter/financial:yes_no", "starter/medical:yes_no"]
    given = arguments(__doc__ or "", sources=sources, target="starter/legal:yes_no").parse_args()
    run(LegalQA(), ObjectiveEvaluator(confidence="logits"), given)


if __name__ == "__main__":
    main()
