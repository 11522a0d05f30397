"""The reference prompt, and the proposals that the reference LM makes from it."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field

import dspy

from tp_dspy.lms.adapter import InstructionAdapter, Position
from tp_dspy.lms.answers import normalized
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate
from tp_dspy.optimization.guards import MARK, Guard, unwrap
from tp_dspy.scoring.calls import record_calls, unavailable
from tp_dspy.scoring.outcomes import Outcome, Usage

__all__ = ["Proposal", "Proposer", "ReferencePrompt", "TaskBrief"]

logger = logging.getLogger(__name__)

# An exemplar shows the form of an item; a long passage would crowd out the history.
_EXEMPLAR_CHARS = 600
_REPLY_CHARS = 160
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
        text = self.description or (f"{self.domain} items" if self.domain else "items")
        answers = f" Allowed answers: {', '.join(self.answers)}." if self.answers else ""
        return f"{text.rstrip('.')}.{answers}"


@dataclass(frozen=True)
class ReferencePrompt:
    """Builds the text that the reference LM is sent: plain text, no field markers, which weak LMs would copy.

    Attributes:
        tasks: The tasks of the phase.
        answer: The output field that holds the answer.
        position: Where the instruction stands in what the scorer LM reads.
        step: For a program of several predictors: what the predictor at hand does, in words.
    """

    tasks: Sequence[TaskBrief]
    answer: str
    position: Position = "start"
    step: str = ""

    def build(
        self,
        history: Sequence[tuple[str, float]],
        exemplars: Sequence[dspy.Example],
        failures: Sequence[tuple[dspy.Example, Outcome]] = (),
        prior: Sequence[tuple[str, float]] = (),
        rejected: Sequence[str] = (),
    ) -> str:
        """Write the reference prompt.

        Args:
            history: Instructions and scores in [0, 1], worst first.
            exemplars: Examples to show, with `<INS>` where the instruction goes.
            failures: Examples that the best instruction got wrong or unfollowed, with what came back.
            prior: Instructions and scores from a source phase, as evidence from other tasks.
            rejected: Why the last replies could not be used.
        """
        parts = [_SITUATION]
        parts.append("The items:\n" + "\n".join(f"- {brief.in_words()}" for brief in self.tasks))
        if self.step:
            parts.append(self.step)
        if exemplars:
            parts.append(f"Some items with the right answer; the instruction goes where {MARK} stands:")
            parts.extend(self.exemplar(example) for example in exemplars)
        if prior:
            parts.append("Scores of instructions on other tasks, from 0 to 100, worst first:")
            parts.append(_pairs(prior))
        if history:
            parts.append("Instructions tried so far with their scores, from 0 to 100, worst first:")
            parts.append(_pairs(history))
        if failures:
            parts.append("Where the best of them failed:")
            parts.append("\n".join(self._failure(example, outcome) for example, outcome in failures))
        if rejected:
            reasons = "; ".join(dict.fromkeys(rejected))
            parts.append(f"Earlier replies could not be used: {reasons}.")
        parts += [_ASK, _FORM]
        return "\n\n".join(parts)

    def exemplar(self, example: dspy.Example) -> str:
        """Show one example as the scorer LM would read it, `<INS>` in the instruction's place, with its answer."""
        inputs = {name: _short(value, _EXEMPLAR_CHARS) for name, value in example.inputs().items()}
        fields = {name: (str, dspy.InputField()) for name in inputs}
        signature = dspy.Signature({**fields, self.answer: (str, dspy.OutputField())}, MARK)
        messages = InstructionAdapter(self.position).format(signature, [], inputs)
        text = "\n\n".join(message["content"] for message in messages)
        return f"{text} {example.get(self.answer, '')}".rstrip()

    def _failure(self, example: dspy.Example, outcome: Outcome) -> str:
        item = " ".join(str(value) for value in example.inputs().toDict().values())
        reply = outcome.reply if outcome.reply is not None else (outcome.answer or "")
        return (
            f"- Item: {_short(' '.join(item.split()), 2 * _REPLY_CHARS)}\n  Reply: {_short(reply, _REPLY_CHARS)!r}; "
            f"expected: {_short(example.get(self.answer, ''), _REPLY_CHARS)}"
        )

    def fixed_text(self) -> str:
        """Return what the prompt says in every case: an instruction that repeats it is no instruction."""
        return "\n".join([_SITUATION, _ASK, _FORM])

    def labels(self) -> set[str]:
        """Return the labels of the items' fields, such as "Question"."""
        names = {name for brief in self.tasks for example in brief.exemplars[:1] for name in example.inputs()}
        return {name.replace("_", " ").capitalize() for name in names}


def _pairs(pairs: Sequence[tuple[str, float]]) -> str:
    shown: list[str] = []
    size = 0
    for text, score in reversed(pairs):
        entry = f"Instruction: {text}\nScore: {round(100 * score)}"
        size += len(entry)
        if shown and size > _HISTORY_CHARS:
            break
        shown.append(entry)
    return "\n\n".join(reversed(shown))


def _short(value: object, limit: int) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 4].rstrip() + " ..."


@dataclass(frozen=True)
class Proposal:
    """One reply of the reference LM.

    Attributes:
        reply: What came back.
        text: The instruction in it.
        predictor: The predictor it is for.
        reason: Why it was rejected; None when it was not.
        candidate: The candidate it makes; None when it was rejected.
    """

    reply: str
    text: str
    predictor: str
    reason: str | None = None
    candidate: Candidate | None = None


@dataclass
class Proposer:
    """Asks the reference LM for instructions.

    Attributes:
        lm: The reference LM.
        prompts: The reference prompt by predictor name; predictors take turns.
        temperature: Sampling temperature, at least 0.
        seed: Makes exemplars, and the samples of an LM that honours ``rollout_id``, repeatable.
        exemplars: Examples shown per call; drawn afresh each round.
        threads: Concurrent calls.
        usage: What the calls have cost so far.
    """

    lm: dspy.BaseLM
    prompts: Mapping[str, ReferencePrompt]
    temperature: float = 1.0
    seed: int = 0
    exemplars: int = 3
    threads: int = 8
    usage: Usage = field(default_factory=Usage)
    _asked: int = 0

    def __post_init__(self) -> None:
        self._guards = {}
        for name, prompt in self.prompts.items():
            texts = [
                str(value)
                for brief in prompt.tasks
                for example in brief.exemplars
                for value in example.inputs().toDict().values()
            ]
            self._guards[name] = Guard(texts, prompt=prompt.fixed_text(), labels=prompt.labels())

    def check(self) -> None:
        """Call the reference LM once, so that a wrong key or model name shows before anything else is paid.

        Raises:
            LMUnavailableError: If the LM cannot be called at all.
        """
        _, usage = self._one("Reply with the word: ready", self.seed)
        self.usage += usage

    def propose(
        self,
        history: Sequence[ScoredCandidate],
        count: int,
        *,
        failures: Sequence[tuple[dspy.Example, Outcome]] = (),
        prior: Sequence[ScoredCandidate] = (),
    ) -> list[Proposal]:
        """Ask for new candidates; once more, with the reasons, when no reply can be used.

        Each candidate changes one predictor of the best one so far.

        Args:
            history: Scored candidates, worst first; at least one.
            count: Calls to make; each is its own call.
            failures: What the best candidate got wrong.
            prior: Source prompts with their scores in the source phase.
        """
        proposals = self._ask(history, count, failures, prior, [])
        if not any(proposal.candidate for proposal in proposals):
            reasons = [proposal.reason for proposal in proposals if proposal.reason]
            logger.info("No usable proposal (%s); asking again.", "; ".join(dict.fromkeys(reasons)))
            proposals += self._ask(history, count, failures, prior, reasons)
        return proposals

    def _ask(
        self,
        history: Sequence[ScoredCandidate],
        count: int,
        failures: Sequence[tuple[dspy.Example, Outcome]],
        prior: Sequence[ScoredCandidate],
        reasons: list[str],
    ) -> list[Proposal]:
        best = history[-1].candidate
        names = list(self.prompts)
        texts: dict[str, str] = {}
        rng = random.Random(f"{self.seed}/{self._asked}")
        for name in names[:count]:
            prompt = self.prompts[name]
            pool = [example for brief in prompt.tasks for example in brief.exemplars]
            shown = rng.sample(pool, min(self.exemplars, len(pool)))
            texts[name] = prompt.build(
                _by_instruction(history, name), shown, failures, _by_instruction(prior, name), reasons
            )
        turns = [names[i % len(names)] for i in range(count)]
        replies = self._call([texts[name] for name in turns])
        known = {
            name: {normalized(scored.candidate.instructions[name]) for scored in (*history, *prior)} for name in names
        }
        return [self._read(reply, name, best, known[name]) for reply, name in zip(replies, turns, strict=True)]

    def _read(self, reply: str, name: str, best: Candidate, known: set[str]) -> Proposal:
        text = unwrap(reply)
        reason = self._guards[name].reject(text, known)
        if reason is not None:
            return Proposal(reply, text, name, reason)
        known.add(normalized(text))
        return Proposal(reply, text, name, candidate=best.with_instruction(name, text))

    def _call(self, prompts: Sequence[str]) -> list[str]:
        first = self._asked
        self._asked += len(prompts)
        with ThreadPoolExecutor(max_workers=self.threads, thread_name_prefix="tp_dspy-reference") as pool:
            futures = [
                pool.submit(copy_context().run, self._one, prompt, self.seed * 1_000_003 + first + i)
                for i, prompt in enumerate(prompts)
            ]
            answers = [future.result() for future in futures]
        for _, usage in answers:
            self.usage += usage
        return [reply for reply, _ in answers]

    def _one(self, prompt: str, rollout: int) -> tuple[str, Usage]:
        with record_calls() as record:
            try:
                self.lm(prompt, temperature=self.temperature, rollout_id=rollout)
            except Exception as error:
                hopeless = unavailable(error)
                if hopeless is not None:
                    raise hopeless from error
                # One lost proposal is no reason to lose a run: it is rejected as empty, and said.
                logger.warning("A call of the reference LM failed: %s: %s", type(error).__name__, error)
        replies = record.replies()
        return (replies[-1][0] if replies else ""), record.usage


def _by_instruction(history: Sequence[ScoredCandidate], predictor: str) -> list[tuple[str, float]]:
    """List one predictor's instructions with the best score each took part in, worst first."""
    best: dict[str, float] = {}
    for scored in history:
        text = scored.candidate.instructions[predictor]
        best[text] = max(scored.score, best.get(text, scored.score))
    return sorted(best.items(), key=lambda pair: pair[1])
