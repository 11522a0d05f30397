"""What the reference LM is asked, and the proposals that come of it."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError, Message, Response, ServerError, Usage

from programs.benchmarks.scripted import PromptView, Rule, scripted_lm
from tp_dspy.errors import LMUnavailableError
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate
from tp_dspy.optimization.reference import Proposal, Proposer, ReferencePrompt, TaskBrief
from tp_dspy.optimization.reference_prompt import AdvicePrompt
from tp_dspy.scoring.calls import CallRecord

ITEMS = tuple(
    dspy.Example(question=f"Does drug {name} help against disease {name}?", answer="yes").with_inputs("question")
    for name in ("kappa", "lambda", "sigma", "omega", "theta", "zeta")
)
BRIEF = TaskBrief("drugs", "questions about\n drugs.", "medical", ("yes", "no"), ITEMS)
PROMPT = ReferencePrompt((BRIEF,), ("answer",))
OWN = Candidate({"self": "Answer."})


def scored(text: str, score: float, predictor: str = "self") -> ScoredCandidate:
    return ScoredCandidate(Candidate({predictor: text}, "seed"), score, {})


HISTORY = [scored("Bad.", 0.071), ScoredCandidate(OWN, 0.5, {})]


def proposer(rule: Rule | dspy.LM, **kwargs: Any) -> Proposer:
    lm = rule if isinstance(rule, dspy.LM) else scripted_lm(rule)
    return Proposer(lm, kwargs.pop("prompts", {"self": [PROMPT]}), **kwargs)


def numbered(prefix: str = "Answer with care, in way") -> Callable[[PromptView], str]:
    """A rule whose every reply is another good instruction."""
    lock, count = threading.Lock(), iter(range(10_000))

    def rule(prompt: PromptView) -> str:
        with lock:
            return f"<INS>{prefix} number{next(count)}.</INS>"

    return rule


def reasons(proposals: list[Proposal]) -> list[str | None]:
    return [proposal.reason for proposal in proposals]


# In words of one's own.


class Own(ReferencePrompt):
    """Asks for a sentence to set before the parent."""

    def build(self, history: Any, *rest: Any) -> str:
        return f"Say in a sentence what {self.tasks[0].in_words()} ask for. Now: {history[-1][0]}"

    def finish(self, text: str, parent: str) -> str:
        return f"{text} {parent}"


def test_one_can_ask_in_words_of_ones_own_and_make_an_instruction_of_the_reply() -> None:
    asked: list[str] = []

    def rule(prompt: PromptView) -> str:
        asked.append(prompt.user)
        return "<INS>Judge the drug.</INS>" if len(asked) == 1 else "Judge the drug. Good." if len(asked) == 2 else "?!"

    own = {"self": [Own((BRIEF,), ("answer",))]}
    best = scored("Good.", 0.5)
    found = proposer(rule, prompts=own, threads=1).propose([scored("Bad.", 0.1), best], 3)
    assert asked[0].endswith("Now: Good.")
    assert [proposal.text for proposal in found][:2] == ["Judge the drug. Good.", "Judge the drug. Good."]
    assert found[0].candidate == best.candidate.with_instruction("self", "Judge the drug. Good.")
    assert found[0].candidate is not None and found[0].candidate.parent == best.candidate.id
    assert found[1].candidate is None and found[1].reason == "it repeats an instruction that was tried already"
    assert found[2].reason == "it is empty"


def test_what_the_parent_says_is_not_held_against_a_reply() -> None:
    rules = "Given {{question}}, reply.\nQuestion: read it first.\n" + "Yes if so, no if not.\n" * 12
    for parent in (rules, "Good. " * 300):
        own = {"self": [Own((BRIEF,), ("answer",))]}
        made = proposer(lambda prompt: "<INS>Judge the drug.</INS>", prompts=own, threads=1)
        (found,) = made.propose([scored(parent, 0.5)], 1)[:1]
        assert found.reason is None and found.text == f"Judge the drug. {parent}"


def test_what_is_added_over_and_over_comes_to_an_end() -> None:
    long = "Judge " + " ".join(f"by{i}" for i in range(120))
    made = proposer(numbered(long), prompts={"self": [Own((BRIEF,), ("answer",))]}, threads=1)
    best, found = scored("Good. " * 100, 0.1), []
    for _ in range(3):
        found.append(made.propose([best], 1)[0])
        best = scored(found[-1].text, 0.2)
    # What the phase began with, and the limit beside it.
    assert [one.reason for one in found[:2]] == [None, None] and len(found[1].text) > 1500
    assert found[2].reason == f"it has {len(found[2].text)} characters; at most 2100 are allowed"


def test_advice_is_set_before_the_best_and_takes_the_place_of_what_was_said_there_before() -> None:
    asked = proposer(numbered("Look at"), prompts={"self": [AdvicePrompt((BRIEF,), ("answer",))]}, threads=1)
    (first,) = asked.propose(HISTORY, 1)
    assert first.candidate is not None and first.text == "Look at number0. Answer."
    (second,) = asked.propose([*HISTORY, ScoredCandidate(first.candidate, 0.6, {})], 1)
    assert second.candidate is not None and second.text == "Look at number1. Answer."
    assert second.candidate.parent == first.candidate.id
    # What others made is built upon as it is.
    (third,) = asked.propose([*HISTORY, scored("Look at it. Answer.", 0.7)], 1)
    assert third.text == "Look at number2. Look at it. Answer."


def test_only_advice_is_exchanged() -> None:
    class Suffix(ReferencePrompt):
        def finish(self, text: str, parent: str) -> str:
            return f"{text} Reply in one word."

    class Rule(ReferencePrompt):
        def finish(self, text: str, parent: str) -> str:
            return f"{parent} {text}"

    def best_of(kinds: list[type[ReferencePrompt]], rounds: int) -> list[str]:
        prompts = {"self": [kind((BRIEF,), ("answer",)) for kind in kinds]}
        asked, history = proposer(numbered("Look at"), prompts=prompts, threads=1), list(HISTORY)
        for number in range(rounds):
            (found,) = asked.propose(history, 1)
            assert found.candidate is not None
            history.append(ScoredCandidate(found.candidate, 0.6 + number / 100, {}))
        return [one.candidate.instructions["self"] for one in history[len(HISTORY) :]]

    own = "Look at number0. Reply in one word."
    assert best_of([Suffix, AdvicePrompt], 2) == [own, f"Look at number1. {own}"]
    assert best_of([Rule], 2) == ["Answer. Look at number0.", "Answer. Look at number0. Look at number1."]
    assert best_of([AdvicePrompt, Rule, AdvicePrompt], 3)[1:] == [
        "Look at number0. Answer. Look at number1.",
        "Look at number2. Look at number0. Answer. Look at number1.",
    ]


def test_advice_that_was_refused_says_nothing_of_what_it_would_have_been() -> None:
    # The user's own sentence happens to be what the LM says.
    seed = scored("Look at it. Answer.", 0.4)
    replies = iter(["Look at it.", "Mind the sign."])
    asked = proposer(lambda prompt: next(replies), prompts={"self": [AdvicePrompt((BRIEF,), ("answer",))]}, threads=1)
    refused, made = asked.propose([*HISTORY[:1], seed, HISTORY[1]], 1)
    assert refused.reason == "it repeats an instruction that was tried already"
    assert made.text == "Mind the sign. Answer."
    replies = iter(["Heed the plus."])
    (later,) = asked.propose([*HISTORY, scored("Look at it. Answer.", 0.9)], 1)
    assert later.text == "Heed the plus. Look at it. Answer."


def test_each_way_to_ask_hears_of_its_own_replies_only() -> None:
    lm = scripted_lm(lambda prompt: "7" if "worst first" in prompt.user else "Hm")
    prompts = {"self": [kind((BRIEF,), ("answer",)) for kind in (AdvicePrompt, ReferencePrompt)]}
    assert not any(one.candidate for one in proposer(lm, prompts=prompts, threads=1).propose(HISTORY, 2))
    again = [call.prompt.user for call in lm.scripted.log if "could not be used" in call.prompt.user]
    assert (
        ["it is one word" in text for text in again] == ["worst first" not in text for text in again] == [True, False]
    )
    assert ["it is a score" in text for text in again] == [False, True]


def test_a_way_to_ask_is_written_once_for_all_calls_of_a_round() -> None:
    built = []

    class Counting(ReferencePrompt):
        def build(self, *arguments: Any, **more: Any) -> str:
            built.append(1)
            return super().build(*arguments, **more)

    proposer(numbered(), prompts={"self": [Counting((BRIEF,), ("answer",))]}).propose(HISTORY, 5)
    assert len(built) == 1


def test_several_ways_to_ask_take_turns_over_the_rounds_too() -> None:
    lm = scripted_lm(numbered())
    ways = [ReferencePrompt((BRIEF,), ("answer",)), AdvicePrompt((BRIEF,), ("answer",))]
    asked = proposer(lm, prompts={"first": ways, "second": ways}, threads=1)
    history = [ScoredCandidate(Candidate({"first": "Own one.", "second": "Own two."}), 0.5, {})]
    found = [*asked.propose(history, 3), *asked.propose(history, 2)]
    assert [p.predictor for p in found] == ["first", "second", "first", "second", "first"]
    whole = [not p.text.endswith(("Own one.", "Own two.")) for p in found]
    assert whole == ["Score: 50" in call.prompt.text for call in lm.scripted.log] == [True, False, False, True, True]


# Asking.


def test_every_proposal_is_its_own_call_with_its_own_rollout_and_they_run_at_the_same_time() -> None:
    barrier = threading.Barrier(4, timeout=5)
    answer = numbered()

    def rule(prompt: PromptView) -> str:
        barrier.wait()
        return answer(prompt)

    lm = scripted_lm(rule)
    asked = proposer(lm, temperature=0.7)
    proposals = asked.propose(HISTORY, 4)
    assert [proposal.reason for proposal in proposals] == [None] * 4
    assert lm.scripted.calls == 4 == asked.usage.calls and lm.scripted.max_concurrency == 4
    assert len({call.prompt.text for call in lm.scripted.log}) == 1  # one prompt: a server reads it once
    assert {call.prompt.config.temperature for call in lm.scripted.log} == {0.7}
    assert len({entry["kwargs"]["rollout_id"] for entry in lm.history}) == 4
    changed = proposals[0].candidate
    assert changed is not None and changed.origin == "proposal" and changed.instructions == {"self": proposals[0].text}


def test_with_a_caching_lm_the_seed_repeats_a_run_and_pays_nothing() -> None:
    lm = scripted_lm(numbered(), cache=True)

    def run(seed: int) -> list[str]:
        asked = proposer(lm, seed=seed, threads=1)
        return [p.text for _ in range(2) for p in asked.propose(HISTORY, 3)]

    first, paid = run(1), lm.scripted.calls
    assert paid == 6 and len(set(first)) == 6
    assert run(1) == first and lm.scripted.calls == paid
    assert run(2) != first and lm.scripted.calls == 2 * paid


def test_exemplars_are_drawn_afresh_each_round_and_kept_within_it() -> None:
    lm = scripted_lm(lambda prompt: "")  # nothing usable: each round asks twice
    asked = proposer(lm, exemplars=2)
    for _ in range(4):
        asked.propose(HISTORY, 1)
    drawn = [tuple(re.findall(r"drug (\w+)", call.prompt.text)) for call in lm.scripted.log]
    assert all(len(names) == 2 for names in drawn) and drawn[0::2] == drawn[1::2] and len(set(drawn)) > 1


def test_predictors_take_turns_over_the_rounds_too() -> None:
    lm = scripted_lm(numbered())
    prompts = {name: [ReferencePrompt((BRIEF,), ("answer",), step=f"Step {name}.")] for name in ("first", "second")}
    asked = proposer(lm, prompts=prompts)
    best = Candidate({"first": "Own one.", "second": "Own two."})
    history = [ScoredCandidate(best, 0.5, {})]
    turns = [proposal.predictor for _ in range(2) for proposal in asked.propose(history, 1)]
    assert turns == ["first", "second"]
    third = asked.propose(history, 3)
    assert [p.predictor for p in third] == ["first", "second", "first"]
    assert all(p.candidate is not None and len(p.candidate.instructions) == 2 for p in third)
    assert third[1].candidate is not None and third[1].candidate.instructions["first"] == "Own one."
    assert "Step second." in lm.scripted.log[1].prompt.text and "Own two." in lm.scripted.log[1].prompt.text
    assert "Own one." not in lm.scripted.log[1].prompt.text


def test_only_the_best_twenty_are_shown_but_none_may_come_back() -> None:
    history = [scored("Never scored.", float("nan")), *(scored(f"Old way {i}.", i / 30) for i in range(30))]
    lm = scripted_lm(lambda prompt: "Never scored." if "could not be used" in prompt.text else "Old way 3.")
    proposals = proposer(lm).propose(history, 1)
    assert [proposal.text for proposal in proposals] == ["Old way 3.", "Never scored."]
    assert all("tried already" in (proposal.reason or "") for proposal in proposals)
    shown = re.findall(r"Instruction: (.*)\n", lm.scripted.log[0].prompt.text)
    assert shown == [f"Old way {i}." for i in range(10, 30)]


def test_prior_scores_are_shown_and_those_that_were_never_measured_are_not() -> None:
    lm = scripted_lm(numbered())
    proposer(lm).propose(HISTORY, 1, prior=[scored("Lost.", float("nan")), scored("Carried over.", 0.83)])
    text = lm.scripted.log[0].prompt.text
    assert "on other tasks, from 0 to 100, worst first:\n\nInstruction: Carried over.\nScore: 83" in text
    assert "Lost." not in text


# What comes back.


def test_a_text_that_came_twice_in_a_round_or_in_an_earlier_one_is_taken_once() -> None:
    asked = proposer(lambda prompt: "<INS>Answer with care.</INS>")
    first = asked.propose(HISTORY, 3)
    assert [proposal.candidate is not None for proposal in first].count(True) == 1
    # Not in the history, as after a race that dropped it; it is known all the same.
    assert all("tried already" in (p.reason or "") for p in asked.propose(HISTORY, 2))


def test_when_nothing_survives_it_asks_once_more_and_says_why() -> None:
    lm = scripted_lm(lambda prompt: "Answer with care." if "could not be used" in prompt.text else "Question: why?")
    proposals = proposer(lm).propose(HISTORY, 2)
    assert lm.scripted.calls == 4
    assert "Earlier replies could not be used: it is an item, not an instruction." in lm.scripted.log[-1].prompt.text
    assert [p.candidate is not None for p in proposals] in ([False, False, True, False], [False, False, False, True])
    mute = scripted_lm(lambda prompt: "")
    assert reasons(proposer(mute).propose(HISTORY, 2)) == ["it is empty"] * 4 and mute.scripted.calls == 8


def test_a_failed_call_loses_its_own_proposal_only(caplog: pytest.LogCaptureFixture) -> None:
    answer = numbered()
    turns = iter(range(100))
    lm = scripted_lm(lambda prompt: ServerError("overload") if next(turns) in (1, 3) else answer(prompt))
    with caplog.at_level(logging.WARNING, "tp_dspy"):
        proposals = proposer(lm, threads=1).propose(HISTORY, 3)
    assert [p.candidate is not None for p in proposals] == [True, False, True]
    assert "the call failed (LMServerError" in (proposals[1].reason or "") and "overload" in caplog.text
    # When all fail there is no point in telling the LM.
    down = scripted_lm(lambda prompt: ServerError("down"))
    assert len(proposer(down).propose(HISTORY, 1)) == 2 and down.scripted.calls == 4  # Each is tried twice.
    assert all("could not be used" not in call.prompt.text for call in down.scripted.log)


def test_a_wrong_key_ends_it_at_once() -> None:
    asked = proposer(lambda prompt: AuthError("no such key"), threads=1)
    with pytest.raises(LMUnavailableError, match="no such key"):
        asked.check()
    with pytest.raises(LMUnavailableError, match="API key"):
        asked.propose(HISTORY, 8)
    assert asked.lm.scripted.calls <= 3  # the check, the first call, perhaps one that was under way


def test_a_server_that_nobody_started_is_found_out_by_the_check() -> None:
    lm = dspy.LM("openai/x", api_base="http://127.0.0.1:9/v1", api_key="none", num_retries=0, cache=False)
    with pytest.raises(LMUnavailableError, match="api_base"):
        proposer(lm).check()
    busy = proposer(lambda prompt: ServerError("busy"))
    busy.check()  # may pass by itself
    assert busy.lm.scripted.calls == 1


def test_half_a_surrogate_pair_does_not_get_into_a_candidate() -> None:
    lm = scripted_lm(lambda prompt: "Answer yes or no \ud83d.")
    proposal = proposer(lm).propose(HISTORY, 1)[0]
    assert proposal.text == "Answer yes or no ?." and proposal.candidate is not None
    proposal.reply.encode()


class Cut:
    """An engine whose replies the token limit breaks off."""

    def __init__(self, text: str) -> None:
        self.text = text

    def complete(self, request: Any) -> Response:
        return Response(
            id=None,
            model="cut",
            message=Message.assistant(self.text),
            finish_reason="length",
            usage=Usage(input_tokens=1, output_tokens=1),
        )


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("<INS>Read the item with care. Then answer with the let", "Read the item with care."),
        ("Read the item with care. Then answer yes or no.", "Read the item with care. Then answer yes or no."),
        ("<INS>Answer with the letter</INS> This is better bec", "Answer with the letter"),
        ("<INS>You are a helpful", None),
        ("<INS>", None),
    ],
)
@pytest.mark.parametrize("cache", [False, True])
def test_a_reply_that_the_token_limit_broke_off_keeps_its_whole_sentences(
    reply: str, text: str | None, cache: bool
) -> None:
    lm = dspy.LM(f"cut/{hash(reply)}", engine=Cut(reply), cache=cache, num_retries=0)
    for _ in range(2):  # from the cache, the second time
        proposal = proposer(lm).propose(HISTORY, 1)[0]
        if text is None:
            assert proposal.candidate is None and proposal.reason in (
                "it is unfinished: the token limit cut it off in a sentence",
                "it is empty",
            )
        else:
            assert proposal.text == text and proposal.candidate is not None


def test_the_token_limit_is_seen_through_litellm_and_the_responses_api_too() -> None:
    def seen(response: Any) -> bool:
        return CallRecord([{"response": response}]).finish_reason == "length"

    assert seen(SimpleNamespace(choices=[SimpleNamespace(finish_reason="length")]))
    assert seen({"choices": [{"finish_reason": "length"}]}) and seen(SimpleNamespace(status="incomplete"))
    assert not seen(SimpleNamespace(choices=[SimpleNamespace(finish_reason="stop")]))
    assert not seen(SimpleNamespace(status="completed")) and CallRecord().finish_reason is None


def test_ctrl_c_does_not_wait_for_slow_calls() -> None:
    began: list[float] = []

    def latency(prompt: PromptView) -> float:
        # Now, and not before: Python drops what is raised while it clears up, as it does in between.
        began.append(time.monotonic())
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        return 0.6

    lm = scripted_lm(numbered(), latency=latency)
    asked = proposer(lm, threads=1)
    with pytest.raises(KeyboardInterrupt):
        asked.propose(HISTORY, 8)
    assert time.monotonic() - began[0] < 0.4
    time.sleep(0.7)
    assert lm.scripted.calls == 1  # the other seven were never sent
