"""Ways to ask the reference LM for an instruction: `current` and `advice` are the library's, beside them are others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dspy
from gepa.strategies.instruction_proposal import InstructionProposalSignature

from tp_dspy.optimization.guards import MARK
from tp_dspy.optimization.reference_prompt import AdvicePrompt, ReferencePrompt
from tp_dspy.scoring.matching import expected_answers
from tp_dspy.scoring.outcomes import Outcome

__all__ = ["WAYS", "Failures", "HiddenScores", "Other", "Pairs", "Way"]

Pairs = Sequence[tuple[str, float]]
Failures = Sequence[tuple[dspy.Example, Outcome]]

_FORM = f"Write only the instruction, between {MARK} and </INS>."
_REJECTED = "Earlier replies could not be used:"
_FEW, _MANY = 3, 6
# Characters of an item that is shown in a line.
_ITEM = 320


@dataclass(frozen=True)
class Way(ReferencePrompt):
    """The library's way. It is given up to six failures here, of which it shows three, as in a compile."""

    def build(
        self, history: Pairs, exemplars: Sequence[dspy.Example], failures: Failures = (), *rest: Any, **more: Any
    ) -> str:
        """Write what is asked."""
        return super().build(history, exemplars, failures[:_FEW], *rest, **more)


class Other(Way):
    """Another way. A subclass writes what is asked, and may say what is to be made of a reply."""

    def build(
        self,
        history: Pairs,
        exemplars: Sequence[dspy.Example],
        failures: Failures = (),
        prior: Pairs = (),
        rejected: Sequence[str] = (),
    ) -> str:
        """Write what is asked; the second time with what was wrong the first time."""
        asked = self.ask(history, exemplars, failures)
        why = f"{_REJECTED} {'; '.join(dict.fromkeys(rejected))}."
        return f"{asked}\n\n{why}" if rejected else asked

    def ask(self, history: Pairs, exemplars: Sequence[dspy.Example], failures: Failures) -> str:
        """Write what is asked."""
        raise NotImplementedError

    def fixed_text(self) -> str:
        """Return what is asked without what belongs to the task: replies that repeat it are no use."""
        return f"{replace(self, tasks=()).ask([('', 0.0), ('', 0.0)], [], ())}\n{_REJECTED}"

    def said(self) -> str:
        """Say what the items are."""
        return "\n".join(f"- {brief.in_words()}" for brief in self.tasks)

    def failed(self, failures: Failures) -> str:
        """Show failures as the library does."""
        return "\n".join(self.failure(example, outcome) for example, outcome in failures)

    def shown(self, exemplars: Sequence[dspy.Example]) -> str:
        """Show exemplars as the library does."""
        return "\n\n".join(self.exemplar(example) for example in exemplars)


class Bare(Other):
    """OPRO's prompt: exemplars, history, and a request; nothing of the task in words."""

    def ask(self, history: Pairs, exemplars: Sequence[dspy.Example], failures: Failures) -> str:
        tried = "\n\n".join(f"Instruction: {text}\nScore: {round(100 * score)}" for text, score in history)
        ask = "Write a new instruction that is different from the old ones and scores as high as possible."
        return "\n\n".join([self.shown(exemplars), "Instructions with their scores, worst first:", tried, ask, _FORM])


class NoExemplars(Way):
    """Nothing to copy from but the failures."""

    def build(self, history: Pairs, exemplars: object, failures: Failures = (), *rest: Sequence[Any]) -> str:
        """Write what the library asks, without exemplars."""
        return ReferencePrompt.build(self, history, [], failures[:_FEW], *rest)


class NoFailures(Way):
    """Exemplars alone."""

    def build(self, history: Pairs, exemplars: Sequence[dspy.Example], failures: object = (), *rest: Any) -> str:
        """Write what the library asks, without failures."""
        return ReferencePrompt.build(self, history, exemplars, (), *rest)


class ManyFailures(Way):
    """Six failures in the place of the exemplars."""

    def build(self, history: Pairs, exemplars: object, failures: Failures = (), *rest: Any) -> str:
        """Write what the library asks, with more failures."""
        return ReferencePrompt.build(self, history, [], failures[:_MANY], *rest)


class HiddenScores(Way):
    """The instructions in their order, without the scores."""

    def build(self, *arguments: Any, **more: Any) -> str:
        """Write what the library asks, the scores taken out."""
        text = super().build(*arguments, **more)
        kept = [line for line in text.split("\n") if not line.startswith("Score: ")]
        return re.sub(r"( with their scores)?, from 0 to 100, worst first", ", worst first", "\n".join(kept))


class Edit(Other):
    """One parent, its failures, and the request to rewrite it: the idea of GEPA's reflection, in few words."""

    def ask(self, history: Pairs, exemplars: Sequence[dspy.Example], failures: Failures) -> str:
        return "\n\n".join(
            [
                "A language model is given this instruction, followed by one item, and must answer the item:",
                f"{MARK}{history[-1][0]}</INS>",
                f"The items:\n{self.said()}",
                f"Where it fails:\n{self.failed(failures[:_MANY])}",
                "Rewrite the instruction so that it answers such items rightly. Keep what it says about the form of "
                "the reply. Add how to decide between the answers. It must hold for every item and mention none of "
                "them.",
                _FORM,
            ]
        )


class Gepa(Other):
    """GEPA's own words about the parent and its failures; the form of the reply is ours."""

    def ask(self, history: Pairs, exemplars: Sequence[dspy.Example], failures: Failures) -> str:
        template = InstructionProposalSignature.default_prompt_template
        about = "\n\n".join(
            f"# Example {number}\n## Inputs\n{' '.join(map(str, example.inputs().toDict().values()))[:600]}\n"
            f"## Generated Outputs\n{(outcome.reply or outcome.answer or '')[:160]}\n## Feedback\n{outcome.feedback}"
            for number, (example, outcome) in enumerate(failures[:_FEW], start=1)
        )
        asked = template.rsplit("\n\n", 1)[0]
        return f"{asked.replace('<curr_param>', history[-1][0]).replace('<side_info>', about)}\n\n{_FORM}"


class Cross(Other):
    """Two parents to be merged: CAPO's crossover."""

    def ask(self, history: Pairs, exemplars: Sequence[dspy.Example], failures: Failures) -> str:
        second, best = history[-2][0], history[-1][0]
        return "\n\n".join(
            [
                f"A language model must answer items like these:\n{self.said()}",
                f"Two instructions for it:\n\n1. {best}\n\n2. {second}",
                "Merge them into one better instruction, which says what both say and how to decide between the "
                "answers.",
                _FORM,
            ]
        )


class Rewrite(Other):
    """The parent in other words: CAPO's mutation. It cannot be told what fails, and so copies nothing of it."""

    def ask(self, history: Pairs, exemplars: Sequence[dspy.Example], failures: Failures) -> str:
        return "\n\n".join(
            [
                f"A language model must answer items like these:\n{self.said()}",
                f"An instruction for it:\n\n{history[-1][0]}",
                "Say the same in quite other words: keep what it asks for, and change how it is said.",
                _FORM,
            ]
        )


class Graft(Other):
    """Asks for what the parent lacks, a guide to the decision, and sets it before the parent's own words."""

    def ask(self, history: Pairs, exemplars: Sequence[dspy.Example], failures: Failures) -> str:
        return "\n\n".join(
            [
                f"A language model must answer items like these:\n{self.said()}",
                f"Its instruction says in what form to reply:\n{history[-1][0]}",
                f"Where it fails:\n{self.failed(failures[:_MANY])}",
                "It does not know how to decide. Write one or two sentences that explain it: what each answer means, "
                "and what to look for. They must hold for every item and mention none of them.",
                f"Write only these sentences, between {MARK} and </INS>.",
            ]
        )

    def finish(self, text: str, parent: str) -> str:
        return f"{text} {parent}"


class Rules(Graft):
    """The same from labelled items, sorted by their answers: what tells them apart?"""

    def ask(self, history: Pairs, exemplars: Sequence[dspy.Example], failures: Failures) -> str:
        by_answer: dict[str, list[str]] = {}
        for brief in self.tasks:
            for example in brief.exemplars:
                answer = (expected_answers(example.get(self.answers[0])) or [""])[0]
                by_answer.setdefault(answer, []).append(_line(example))
        # Where the answers are letters they say nothing of the item, and one of each is plenty.
        groups = [
            f"Items with the answer {answer}:\n" + "\n".join(f"- {item}" for item in items[:3])
            for answer, items in sorted(by_answer.items())
        ]
        return "\n\n".join(
            [
                f"{self.said()}",
                *groups,
                "What tells items with one answer from those with another? Write one or two sentences that explain how "
                "to decide. They must hold for every item and mention none of them.",
                f"Write only these sentences, between {MARK} and </INS>.",
            ]
        )


class Plain(Other):
    """Nothing about language models, instructions and items, and no "do not": weak LMs write such words down again."""

    def ask(self, history: Pairs, exemplars: Sequence[dspy.Example], failures: Failures) -> str:
        return "\n\n".join(
            [
                f"Questions of this kind:\n{self.said()}",
                f"Some of them with the right answers:\n{self.answered(exemplars)}",
                f"A prompt that was tried:\n{history[-1][0]}",
                "Write a better prompt for them. Explain in it how to find the right answer, and end with the form of "
                "the reply.",
                f"Write only the prompt, between {MARK} and </INS>.",
            ]
        )

    def answered(self, examples: Sequence[dspy.Example]) -> str:
        """List items in a line each, with the answers."""
        lines = []
        for example in examples:
            answer = (expected_answers(example.get(self.answers[0])) or [""])[0]
            lines.append(f"- {_line(example)} -> {answer}")
        return "\n".join(lines)


class Advice(AdvicePrompt, Way):
    """The library's other way: advice in such words, set before the parent's own."""

    def build(
        self, history: Pairs, exemplars: Sequence[dspy.Example], failures: Failures = (), *rest: Any, **more: Any
    ) -> str:
        """Write what the library asks."""
        return AdvicePrompt.build(self, history, exemplars, failures[:_FEW], *rest, **more)


def _line(example: dspy.Example) -> str:
    """Write an item in a line."""
    return " ".join(" ".join(map(str, example.inputs().toDict().values())).split())[:_ITEM]


WAYS: Mapping[str, tuple[type[Way], float]] = {
    "current": (Way, 1.0),
    "cool": (Way, 0.6),
    "hot": (Way, 1.4),
    "bare": (Bare, 1.0),
    "no_exemplars": (NoExemplars, 1.0),
    "no_failures": (NoFailures, 1.0),
    "many_failures": (ManyFailures, 1.0),
    "hidden_scores": (HiddenScores, 1.0),
    "edit": (Edit, 1.0),
    "gepa": (Gepa, 1.0),
    "cross": (Cross, 1.0),
    "rewrite": (Rewrite, 1.0),
    "graft": (Graft, 1.0),
    "rules": (Rules, 1.0),
    "plain": (Plain, 1.0),
    "advice": (Advice, 1.0),
}
"""The ways by name, with the sampling temperature."""
