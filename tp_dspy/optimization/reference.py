"""What the reference LM is asked, and the proposals that it makes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import dspy

from tp_dspy.errors import LMUnavailableError
from tp_dspy.lms.answers import normalized
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate
from tp_dspy.optimization.guards import Guard, cut_back, is_closed, unwrap
from tp_dspy.optimization.ledger import Ledger
from tp_dspy.optimization.memory import Answer, Memory, PlainMemory
from tp_dspy.optimization.reference_prompt import ReferencePrompt, TaskBrief
from tp_dspy.scoring.calls import nobody_listens, record_calls, unavailable
from tp_dspy.scoring.gate import HaltedError
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.throttle import troubled, until

__all__ = ["Proposal", "Proposer", "ReferencePrompt", "TaskBrief"]

logger = logging.getLogger(__name__)

# OPRO's published setting.
_SHOWN = 20
_FAILED = "the call failed"
# How often what failed or came back empty is asked for again, at most.
_AGAIN = 5
_ERROR_CHARS = 200


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


@dataclass(frozen=True)
class _Turn:
    """Whose turn it is: a predictor's, with one of its reference prompts, and what guards the replies to that."""

    name: str
    prompt: ReferencePrompt
    guard: Guard


def _guard(prompt: ReferencePrompt) -> Guard:
    """Make the guard of the replies to a reference prompt."""
    examples = [example for brief in prompt.tasks for example in brief.exemplars]
    return Guard(
        [str(value) for example in examples for value in example.inputs().toDict().values()],
        prompt=prompt.fixed_text(),
        labels=prompt.labels(),
        answers=prompt.answer_labels(),
        allowed={answer for brief in prompt.tasks for answer in brief.answers or ()},
    )


@dataclass
class Proposer:
    """Asks the reference LM for instructions.

    Attributes:
        lm: The reference LM.
        prompts: The reference prompts by predictor name. Predictors take turns, and so do the prompts of each.
        temperature: Sampling temperature, at least 0.
        seed: Makes exemplars, and the samples of an LM that honours ``rollout_id``, repeatable.
        exemplars: Examples shown per call; drawn afresh each round, the same for all its calls.
        threads: Concurrent calls.
        memory: Keeps answers; what it holds is not asked again.
        ledger: Lets calls begin, and adds up what they cost.
        usage: What the calls have cost so far.
        aside: Waits for replies; others may have their turns meanwhile.
    """

    lm: dspy.BaseLM
    prompts: Mapping[str, Sequence[ReferencePrompt]]
    temperature: float = 1.0
    seed: int = 0
    exemplars: int = 3
    threads: int = 8
    memory: Memory = field(default_factory=PlainMemory)
    ledger: Ledger = field(default_factory=Ledger)
    usage: Usage = field(default_factory=Usage)
    aside: Callable[[Any], Any] = iter
    _asked: int = field(default=0, init=False)
    _turns: list[_Turn] = field(default_factory=list, init=False, repr=False)
    _accepted: dict[str, set[str]] = field(default_factory=dict, init=False, repr=False)
    _before: dict[tuple[type, str, str], str] = field(default_factory=dict, init=False, repr=False)
    _room: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for number in range(max(map(len, self.prompts.values()))):
            # Each predictor begins with another one, or few calls for many predictors would all ask in the same way.
            for index, (name, prompts) in enumerate(self.prompts.items()):
                prompt = prompts[(number + index) % len(prompts)]
                self._turns.append(_Turn(name, prompt, _guard(prompt)))

    def check(self) -> None:
        """Call the reference LM once, so that a wrong key or model name shows before anything else is paid.

        Raises:
            LMUnavailableError: If the LM cannot be called at all, or nobody is listening.
        """
        self.usage += self._remembered("Reply with the word: ready", self.seed, checking=True).usage

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
            history: All scored candidates, worst first; at least one. The best 20 are shown.
            count: Calls to make; each is its own call.
            failures: What the best candidate got wrong.
            prior: Source prompts with their scores in the source phase, worst first.

        Raises:
            LMUnavailableError: If the LM cannot be called at all.
            HaltedError: If the ledger lets no further call begin.
        """
        rng = random.Random(f"{self.seed}/{self._asked}")
        pool = [example for brief in self._turns[0].prompt.tasks for example in brief.exemplars]
        shown = rng.sample(pool, min(self.exemplars, len(pool)))
        turns = self._next(count)
        proposals = self._ask(history, turns, shown, failures, prior, {})
        if not any(proposal.candidate for proposal in proposals):
            reasons = [proposal.reason for proposal in proposals if proposal.reason]
            logger.info("No usable proposal (%s); asking again.", "; ".join(dict.fromkeys(reasons)))
            # What the LM did wrong is its to mend, where it was asked so; that a call failed is not.
            told: dict[type, list[str]] = {}
            for turn, proposal in zip(turns, proposals, strict=True):
                if proposal.reason and not proposal.reason.startswith(_FAILED):
                    told.setdefault(type(turn.prompt), []).append(proposal.reason)
            proposals += self._ask(history, self._next(count), shown, failures, prior, told)
        return proposals

    def _next(self, count: int) -> list[_Turn]:
        """Say whose turns the next calls are: where one round ends the next goes on, even at one call a round."""
        return [self._turns[(self._asked + i) % len(self._turns)] for i in range(count)]

    def _ask(
        self,
        history: Sequence[ScoredCandidate],
        turns: Sequence[_Turn],
        exemplars: Sequence[dspy.Example],
        failures: Sequence[tuple[dspy.Example, Outcome]],
        prior: Sequence[ScoredCandidate],
        reasons: Mapping[type, Sequence[str]],
    ) -> list[Proposal]:
        best = history[-1].candidate
        texts = {
            id(turn): turn.prompt.build(
                _by_instruction(history[-_SHOWN:], turn.name),
                exemplars,
                failures,
                _by_instruction(prior, turn.name),
                reasons.get(type(turn.prompt), []),
            )
            for turn in {id(turn): turn for turn in turns}.values()
        }
        known = {}
        for name in {turn.name for turn in turns}:
            tried = [scored.candidate.instructions[name] for scored in (*history, *prior)]
            known[name] = {normalized(text) for text in tried} | self._accepted.setdefault(name, set())
            # What the phase began with may be long, and is built upon; what is built does not grow without end.
            self._room.setdefault(name, max(map(len, tried)))
        answers = self._call([texts[id(turn)] for turn in turns])
        return [self._read(answer, turn, best, known[turn.name]) for answer, turn in zip(answers, turns, strict=True)]

    def _read(self, answer: Answer, turn: _Turn, parent: Candidate, known: set[str]) -> Proposal:
        name = turn.name
        # A reply may hold half a surrogate pair, which no file and no request can carry.
        reply = answer.reply.encode("utf-8", "replace").decode()
        text = unwrap(reply)
        if answer.failure is not None:
            return Proposal(reply, text, name, answer.failure)
        if answer.cut_off and text and not is_closed(reply):
            whole = cut_back(text)
            if not whole:
                return Proposal(reply, text, name, "it is unfinished: the token limit cut it off in a sentence")
            text = whole
        reason = turn.guard.reject(text, known)
        before = parent.instructions[name]
        if reason is None:
            if turn.prompt.exchanges:
                before = self._before.get((type(turn.prompt), name, before), before)
            made = turn.prompt.finish(text, before)
            beside = 0 if made == text else self._room[name]
            text = made
            reason = turn.guard.reject_whole(text, known, beside)
        if reason is not None:
            return Proposal(reply, text, name, reason)
        if turn.prompt.exchanges:
            self._before[type(turn.prompt), name, text] = before
        known.add(normalized(text))
        # One that the race drops never gets into the history; it is not to be tried again all the same.
        self._accepted[name].add(normalized(text))
        return Proposal(reply, text, name, candidate=parent.with_instruction(name, text))

    def _call(self, prompts: Sequence[str]) -> list[Answer]:
        calls = [(prompt, self.seed * 1_000_003 + self._asked + i) for i, prompt in enumerate(prompts)]
        self._asked += len(prompts)
        known = {call: answer for call in calls if (answer := self.memory.answer(self._identity(*call))) is not None}
        for answer in known.values():
            self.ledger.known("reference", answer.usage)
        new = [call for call in calls if call not in known]
        known |= dict(zip(new, self._ask_all(new), strict=True))
        self.usage += sum((answer.usage for answer in known.values()), Usage())
        return [known[call] for call in calls]

    def _identity(self, prompt: str, rollout: int) -> str:
        """Say what decides an answer, short: prompts are long."""
        limit = (getattr(self.lm, "kwargs", None) or {}).get("max_tokens")
        parts = [str(self.lm.model), self.temperature, limit, rollout, prompt]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _remembered(self, prompt: str, rollout: int, *, checking: bool = False) -> Answer:
        known = self.memory.answer(self._identity(prompt, rollout))
        if known is not None:
            return known
        answer = self._one(prompt, rollout, checking=checking)
        self._keep(prompt, rollout, answer)
        return answer

    def _keep(self, prompt: str, rollout: int, answer: Answer) -> None:
        if answer.failure is None:
            self.memory.keep_answer(self._identity(prompt, rollout), answer)

    def _ask_all(self, calls: Sequence[tuple[str, int]]) -> list[Answer]:
        """Ask; once more, after the others, for what failed or came back empty; more often where there is trouble."""
        answers = self._pool(calls)
        again: set[int] = set()
        for _ in range(_AGAIN):
            lost = [i for i, answer in enumerate(answers) if answer.failure is not None or not answer.reply.strip()]
            for index, answer in zip(lost, self._pool([calls[i] for i in lost], last=True), strict=True):
                answers[index] = replace(answer, usage=answers[index].usage + answer.usage)
                again.add(index)
            if not troubled(self.lm):
                break
        for index in again:
            self._keep(*calls[index], answers[index])
        return answers

    def _pool(self, calls: Sequence[tuple[str, int]], *, last: bool = False) -> list[Answer]:
        if not calls:
            return []
        pool = ThreadPoolExecutor(max_workers=self.threads, thread_name_prefix="tp_dspy-reference")
        futures = {
            pool.submit(copy_context().run, partial(self._one, prompt, rollout, past_cache=last)): (prompt, rollout)
            for prompt, rollout in calls
        }
        try:
            # As they come, so that a killed run has as many as there were.
            refused = None
            with contextlib.closing(self.aside(as_completed(futures))) as ended:
                for future in ended:
                    error = future.exception()
                    if isinstance(error, HaltedError):
                        refused = error
                    elif not last and future.result().reply.strip():
                        self._keep(*futures[future], future.result())
            if refused is not None:
                raise refused
            return [future.result() for future in futures]
        except BaseException:
            done = [f for f in futures if f.done() and not f.cancelled() and f.exception() is None]
            self.usage += sum((future.result().usage for future in done), Usage())
            raise
        finally:
            # After Ctrl-C or a hopeless error nothing new is sent, and nobody waits for what is under way.
            pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, prompt: str, rollout: int, *, checking: bool = False, past_cache: bool = False) -> Answer:
        # Whether it answers at all is asked outside any budget.
        refused = None if checking else self.ledger.reference.begin()
        if refused is not None:
            raise HaltedError(refused)
        failure = None
        settings: dict[str, Any] = {"cache": False} if past_cache else {}
        with until(self.ledger.ending), record_calls() as record:
            try:
                self.lm(prompt, temperature=self.temperature, rollout_id=rollout, **settings)
            except HaltedError:
                if not checking:
                    self.ledger.reference.unsent()
                raise
            except Exception as error:
                hopeless = unavailable(error)
                if hopeless is not None:
                    raise hopeless from error
                if checking and nobody_listens(error):
                    raise LMUnavailableError(
                        f"The reference LM cannot be reached ({error}). Check that its server runs, and api_base."
                    ) from error
                # One lost proposal is no reason to lose a run: it is rejected, and said.
                failure = f"{_FAILED} ({type(error).__name__}: {str(error)[:_ERROR_CHARS]})"
                logger.warning("A call of the reference LM failed: %s: %s", type(error).__name__, error)
        self.ledger.reference.spent(record.usage)
        replies = record.replies()
        return Answer(replies[-1][0] if replies else "", record.finish_reason == "length", failure, record.usage)


def _by_instruction(history: Sequence[ScoredCandidate], predictor: str) -> list[tuple[str, float]]:
    """List one predictor's instructions with the best that is expected of each, worst first, never-scored ones out.

    One that misses a constraint is shown below all that keep them, the lower the more it misses.
    """
    known = [scored for scored in history if not math.isnan(scored.score)]
    least = min((scored.rank[1] for scored in known if scored.violation == 0), default=1.0)
    best: dict[str, float] = {}
    for scored in known:
        _, score, _ = scored.rank
        if scored.violation > 0:
            score = min(score, least) - scored.violation
        text = scored.candidate.instructions[predictor]
        best[text] = max(score, best.get(text, score))
    return sorted(best.items(), key=lambda pair: pair[1])
