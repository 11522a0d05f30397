"""The program that every optimiser gets. In a file of its own, as MIPROv2 and SIMBA show its source to the LM."""

import dspy

from programs.benchmarks.peers.quiet import quiet
from tp_dspy import InstructionAdapter
from tp_dspy.lms.adapter import Position


class Answer(dspy.Module):
    """Answer a question, the instruction at a position in a plain prompt."""

    def __init__(self, instruction: str = "Answer the question.", position: Position = "start") -> None:
        super().__init__()
        self.position = position
        self.predict = dspy.Predict(dspy.Signature("question -> answer", instruction))

    def forward(self, question: str) -> dspy.Prediction:
        """Answer it."""
        # Here and not for all: what COPRO, MIPROv2 and SIMBA ask the reference LM is laid out by DSPy's own adapter.
        with dspy.context(adapter=InstructionAdapter(self.position)):
            return quiet(self.predict(question=question))
