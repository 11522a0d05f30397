"""The reference prompt: what the reference LM is told, and asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import dspy

from tp_dspy.lms.adapter import InstructionAdapter, Position
from tp_dspy.optimization.guards import MARK
from tp_dspy.scoring.matching import expected_answers
from tp_dspy.scoring.outcomes import Outcome

__all__ = ["AdvicePrompt", "ReferencePrompt", "TaskBrief"]

# An exemplar shows the form of an item; a long passage would crowd out the history.
_EXEMPLAR_CHARS = 600
_REPLY_CHARS = 160
_LEAST_CHARS = 20
# The history may fill about 1,500 tokens; the worst entries go first.
_HISTORY_CHARS = 6000

_SITUATION = (
    "A language model is given an instruction, followed by one item, and must answer the item. "
    "You improve the instruction."
)
_ASK = (
    "Write one new instruction, different from those above, that will score higher. It must hold for every item and "
    "mention none of them. Say what to do, what each answer means, and in what form to reply."
)
_FORM = f"Write only the instruction, between {MARK} and </INS>."
_ITEMS = "The items:"
_EXEMPLARS = f"Some items with the right answer; the instruction goes where {MARK} stands:"
_PRIOR = "Scores of instructions on other tasks, from 0 to 100, worst first:"
_HISTORY = "Instructions tried so far with their scores, from 0 to 100, worst first:"
_FAILURES = "Where the best of them failed:"
_REJECTED = "Earlier replies could not be used:"
_KIND = "Questions of this kind:"
_ANSWERED = "Some of them with the right answers:"
_ASK_ADVICE = ("How does one find the right answer?", "Explain it in one or two general sentences.")
_FORM_ADVICE = ("Write only these sentences", f", between {MARK} and </INS>.")


@dataclass(frozen=True)
class TaskBrief:
    """What the reference LM is told about a task.

    Attributes:
        name: The task's name.
        description: What the items are, in words; may be empty.
        domain: Such as "medical"; None when unknown.
        answers: The allowed answers; None when any text is.
        exemplars: Training examples to draw from.
    """

    name: str
    description: str
    domain: str | None
    answers: tuple[str, ...] | None
    exemplars: tuple[dspy.Example, ...]

    def in_words(self) -> str:
        """Describe the task in one line."""
        text = " ".join(self.description.split()) or (f"{self.domain} items" if self.domain else "items")
        answers = f" Allowed answers: {', '.join(self.answers)}." if self.answers else ""
        return f"{text.rstrip('.')}.{answers}"


@dataclass(frozen=True)
class ReferencePrompt:
    """Builds the text that the reference LM is sent: plain text, no field markers, which weak LMs would copy.

    To ask in words of your own, override `build` in a subclass and pass that as `TransferPrompting(reference_prompt=)`;
    `exemplar`, `failure` and `TaskBrief.in_words` write the parts. A reply is unwrapped and guarded in any case: a text
    between `<INS>` and `</INS>`, or else the whole of it. Override `fixed_text`, too: who repeats it is no use.

    Attributes:
        tasks: The tasks of the phase.
        answers: The output fields that hold the answers; at least one.
        position: Where the instruction stands in what the scorer LM reads.
        step: For a program of several predictors: what the predictor at hand does, in words.
    """

    tasks: Sequence[TaskBrief]
    answers: tuple[str, ...]
    position: Position = "start"
    step: str = ""
    exchanges: ClassVar[bool] = False
    """Whether what `finish` adds takes the place of what it added before in the phase."""

    @classmethod
    def suits(cls, writes: Collection[str], answers: Collection[str]) -> bool:
        """Whether it is for a predictor: all are.

        Args:
            writes: The output fields of the predictor.
            answers: The output fields of the program that hold the answers.
        """
        return True

    def build(
        self,
        history: Sequence[tuple[str, float]],
        exemplars: Sequence[dspy.Example],
        failures: Sequence[tuple[dspy.Example, Outcome]] = (),
        prior: Sequence[tuple[str, float]] = (),
        rejected: Sequence[str] = (),
    ) -> str:
        """Write the reference prompt.

        What stays the same comes first, then what changes between rounds, last what changes within one: a server
        that keeps the prefix of earlier prompts has that much less to read.

        Args:
            history: Instructions and scores in [0, 1], worst first.
            exemplars: Examples to show, with `<INS>` where the instruction goes.
            failures: Examples that the best instruction got wrong or unfollowed, with what came back.
            prior: Instructions and scores from a source phase, as evidence from other tasks; beside their scores here
                where they were tried here.
            rejected: Why the last replies could not be used.
        """
        parts = [_SITUATION, f"{_ITEMS}\n{self._said()}"]
        if self.step:
            parts.append(self.step)
        tried = {text for text, _ in history}
        # A text that stands here twice is copied rather than improved: what was tried carries its prior along.
        if elsewhere := [pair for pair in prior if pair[0] not in tried]:
            parts += [_PRIOR, _pairs(elsewhere)]
        if exemplars:
            parts += [_EXEMPLARS, *(self.exemplar(example) for example in exemplars)]
        if history:
            parts += [_HISTORY, _pairs(history, dict(prior))]
        if failures:
            parts += [_FAILURES, "\n".join(self.failure(example, outcome) for example, outcome in failures)]
        parts += [*_why(rejected), _ASK, _FORM]
        return "\n\n".join(parts)

    def finish(self, text: str, parent: str) -> str:
        """Make an instruction of what was asked for; here that is the instruction itself. It may not be empty.

        Args:
            text: What the reference LM wrote, after the guards let it pass.
            parent: The instruction that it is to better; where the class `exchanges`, what that was made of before.
        """
        return text

    def exemplar(self, example: dspy.Example) -> str:
        """Show one example as the scorer LM would read it, `<INS>` in the instruction's place, with its answer."""
        inputs = {name: _short(value, _EXEMPLAR_CHARS) for name, value in example.inputs().items()}
        fields = {name: (str, dspy.InputField()) for name in inputs}
        signature = dspy.Signature({**fields, self.answers[0]: (str, dspy.OutputField())}, MARK)
        messages = InstructionAdapter(self.position).format(signature, [], inputs)
        text = "\n\n".join(message["content"] for message in messages)
        return f"{text} {_short(self._expected(example), _EXEMPLAR_CHARS)}".rstrip()

    def _said(self) -> str:
        """Describe the tasks, each in a line."""
        return "\n".join(f"- {brief.in_words()}" for brief in self.tasks)

    def _expected(self, example: dspy.Example) -> str:
        """Write the expected answer; of several fields each with its name, of several accepted answers the first."""
        listed = {name: expected_answers(example.get(name)) for name in self.answers}
        texts = {name: answers[0] if answers else "" for name, answers in listed.items()}
        if len(texts) == 1:
            return texts[self.answers[0]]
        return "; ".join(f"{name}: {text}" for name, text in texts.items())

    def failure(self, example: dspy.Example, outcome: Outcome) -> str:
        """Show what came back for an example, and what was expected."""
        reply = outcome.reply if outcome.reply is not None else (outcome.answer or "")
        return (
            f"- Item: {_line(example)}\n  Reply: {_short(reply, _REPLY_CHARS)!r}; "
            f"expected: {_short(self._expected(example), _REPLY_CHARS)}"
        )

    def fixed_text(self) -> str:
        """Return the prompt's own lines: an instruction that repeats one is no instruction."""
        return "\n".join([_SITUATION, _ITEMS, _EXEMPLARS, _PRIOR, _HISTORY, _FAILURES, _REJECTED, _ASK, _FORM])

    def labels(self) -> set[str]:
        """Return the labels of the items' fields, such as "Question"."""
        return _labels(name for brief in self.tasks for example in brief.exemplars[:1] for name in example.inputs())

    def answer_labels(self) -> set[str]:
        """Return the labels of the answer fields, such as "Answer"."""
        return _labels(self.answers)


class AdvicePrompt(ReferencePrompt):
    """Asks how to find the right answer, and sets what comes back before the instruction that is best so far.

    That one's words about the form of the reply are kept, so a reply need not be a whole instruction, which weak
    reference LMs seldom manage. What is asked says nothing of language models, instructions or scores, and not what is
    to be avoided: such LMs write down what they have just read. It is for predictors that write an answer.
    """

    exchanges: ClassVar[bool] = True

    @classmethod
    def suits(cls, writes: Collection[str], answers: Collection[str]) -> bool:
        """Whether it is for a predictor: for those that write an answer. How one finds it says nothing to others."""
        return any(name in writes for name in answers)

    def build(
        self,
        history: Sequence[tuple[str, float]],
        exemplars: Sequence[dspy.Example],
        failures: Sequence[tuple[dspy.Example, Outcome]] = (),
        prior: Sequence[tuple[str, float]] = (),
        rejected: Sequence[str] = (),
    ) -> str:
        """Write the reference prompt: the tasks, items with the right answers, and the request; see `ReferencePrompt`.

        The history is left out, and of the failures the right answers are shown.
        """
        parts = [f"{_KIND}\n{self._said()}"]
        if self.step:
            parts.append(self.step)
        shown = [*exemplars, *(example for example, _ in failures)]
        answered = [(_line(example), _short(self._expected(example), _REPLY_CHARS)) for example in shown]
        # Without an expected answer, as it may be where users check the answers themselves, there is nothing to show.
        lines = dict.fromkeys(f"- {item} -> {answer}" for item, answer in answered if answer)
        if lines:
            parts.append("\n".join([_ANSWERED, *lines]))
        return "\n\n".join([*parts, *_why(rejected), " ".join(_ASK_ADVICE), "".join(_FORM_ADVICE)])

    def finish(self, text: str, parent: str) -> str:
        """Set the advice before the parent."""
        return f"{text} {parent}"

    def fixed_text(self) -> str:
        """Return the prompt's own lines, without the first: good advice begins so ("For questions of this kind")."""
        return "\n".join([_ANSWERED, _REJECTED, *_ASK_ADVICE, _FORM_ADVICE[0], "".join(_FORM_ADVICE)])


def _why(rejected: Sequence[str]) -> list[str]:
    """Say why the last replies could not be used, if they could not."""
    return [f"{_REJECTED} {'; '.join(dict.fromkeys(rejected))}."] if rejected else []


def _line(example: dspy.Example) -> str:
    """Write an item in a line; a long field is cut rather than the short ones beside it."""
    texts = [" ".join(str(value).split()) for value in example.inputs().toDict().values()]
    room = 2 * _REPLY_CHARS
    for number, index in enumerate(sorted(range(len(texts)), key=lambda index: len(texts[index]))):
        texts[index] = _short(texts[index], max(_LEAST_CHARS, room // (len(texts) - number)))
        room -= len(texts[index])
    return " ".join(texts)


def _labels(names: Iterable[str]) -> set[str]:
    return {name.replace("_", " ").capitalize() for name in names}


def _pairs(pairs: Sequence[tuple[str, float]], prior: Mapping[str, float] | None = None) -> str:
    """Write pairs, worst first, as many of the best as there is room for; with what is known from other tasks."""
    shown: list[str] = []
    size = 0
    for text, score in reversed(pairs):
        entry = f"Instruction: {text}\nScore: {_whole(score)}"
        if prior and text in prior:
            entry += f" (on other tasks: {_whole(prior[text])})"
        size += len(entry)
        if shown and size > _HISTORY_CHARS:
            break
        shown.append(entry)
    return "\n\n".join(reversed(shown))


def _whole(score: float) -> int:
    """Show a score as OPRO does, as a whole number from 0 to 100."""
    return round(100 * min(max(score, 0.0), 1.0))


def _short(value: object, limit: int) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 4].rstrip() + " ..."
