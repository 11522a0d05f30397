"""The scorer: (program, example) pairs through one pool of threads, one judged outcome each."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import dspy
import pytest
from dspy.lm15 import (
    AuthError,
    ContextLengthError,
    InvalidRequestError,
    RateLimitError,
    ServerError,
    TimeoutError,
    TransportError,
    UnsupportedFeatureError,
    UnsupportedModelError,
)
from dspy.utils.callback import BaseCallback

from programs.benchmarks.scripted import PromptView, Reply, answer_logprobs, certain, scripted_lm
from tp_dspy.errors import (
    ConfigurationError,
    LMUnavailableError,
    LogprobsUnavailableError,
    ProgramError,
    ScoringFailedError,
)
from tp_dspy.lms.adapter import InstructionAdapter
from tp_dspy.scoring.objective import ObjectiveEvaluator
from tp_dspy.scoring.outcomes import Usage
from tp_dspy.scoring.scorer import Job, Scorer

CHAT = "[[ ## answer ## ]]\nB\n\n[[ ## completed ## ]]"
PLAIN = ObjectiveEvaluator(confidence=None)


class Lettered(dspy.Signature):
    """Answer with a letter."""

    question: str = dspy.InputField()
    answer: Literal["A", "B"] = dspy.OutputField()


def examples(n: int, **fields) -> list[dspy.Example]:
    return [dspy.Example(question=f"Item {i}.", answer="B", **fields).with_inputs("question") for i in range(n)]


def number(prompt: PromptView) -> int:
    return int(prompt.user.split("Item ")[1].split(".")[0])


@pytest.fixture(autouse=True)
def plain_prompts():
    with dspy.context(adapter=InstructionAdapter()):
        yield


def run(rule, n=1, *, program=None, objective=PLAIN, threads=4, max_error_rate=0.1, **lm_settings):
    """Score n examples; returns the outcomes and the engine."""
    lm = scripted_lm(rule, **lm_settings)
    scorer = Scorer(objective, lm=lm, num_threads=threads, max_error_rate=max_error_rate)
    return scorer.outcomes(program or dspy.Predict(Lettered), examples(n)), lm.scripted


# The pool.


def test_every_pair_gets_its_own_outcome():
    outcomes, engine = run(lambda prompt: "AB"[number(prompt) % 2], 20, threads=8)
    assert [outcome.answer for outcome in outcomes] == ["A", "B"] * 10
    assert engine.calls == 20


def test_a_slow_candidate_idles_no_thread():
    """One candidate takes 0.2 s an answer, the other none: in one pool both are done as soon as the slow one is."""

    def latency(prompt: PromptView) -> float:
        return 0.2 if "slow" in prompt.text else 0.0

    lm = scripted_lm(lambda prompt: "B", latency=latency)
    scorer = Scorer(PLAIN, lm=lm, num_threads=4)
    programs = {name: scorer.prepare(dspy.Predict(Lettered.with_instructions(name))) for name in ("slow", "fast")}
    jobs = [Job((name, i), program, e) for name, program in programs.items() for i, e in enumerate(examples(4))]
    order = [key for key, outcome in scorer.score(jobs) if outcome.correct == 1.0]
    assert sorted(order) == sorted((name, i) for name in programs for i in range(4))
    assert lm.scripted.max_concurrency == 4

    # With fewer slow answers than threads, the fast ones come first although they stand behind.
    jobs = [job for job in jobs if job.key[0] == "fast" or job.key[1] == 0]
    assert [key[0] for key, _ in scorer.score(jobs)] == ["fast"] * 4 + ["slow"]


def test_two_pairs_of_one_key_are_refused():
    job = Job("k", dspy.Predict(Lettered), examples(1)[0])
    with pytest.raises(ConfigurationError, match="same key"):
        list(Scorer(PLAIN, lm=scripted_lm(lambda p: "B")).score([job, job]))


def test_an_interrupt_cancels_what_has_not_begun():
    lm = scripted_lm(lambda prompt: "B", latency=0.03)
    scorer = Scorer(PLAIN, lm=lm, num_threads=2)
    program = scorer.prepare(dspy.Predict(Lettered))
    with pytest.raises(KeyboardInterrupt):
        for _ in scorer.score([Job(i, program, e) for i, e in enumerate(examples(50))]):
            raise KeyboardInterrupt
    time.sleep(0.15)
    assert lm.scripted.calls <= 6


# What is carried into the threads, and what is changed on the way.


class Watch(BaseCallback):
    def __init__(self) -> None:
        self.modules = 0

    def on_module_start(self, call_id, instance, inputs):
        self.modules += 1


def test_dspy_context_reaches_the_threads():
    watch, lm = Watch(), scripted_lm(lambda prompt: CHAT)
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(), callbacks=[watch]):
        outcomes = Scorer(PLAIN, num_threads=3).outcomes(dspy.Predict(Lettered), examples(6))
    assert [outcome.answer for outcome in outcomes] == ["B"] * 6
    assert watch.modules == 6
    assert "[[ ## question ## ]]" in lm.scripted.log[0].prompt.user


def test_the_trace_of_the_caller_does_not_collect_what_is_scored():
    with dspy.context(trace=[]):
        run(lambda prompt: "B", 3)
        assert dspy.settings.trace == []


def test_a_predictors_own_lm_goes_first():
    program, own = dspy.Predict(Lettered), scripted_lm(lambda prompt: "B")
    program.lm = own
    _, other = run(lambda prompt: "A", 3, program=program)
    assert (own.scripted.calls, other.calls) == (3, 0)
    assert len(own.history) == 3  # The LM itself, not a copy of it.


@pytest.mark.parametrize("adapter", [None, dspy.ChatAdapter(), dspy.JSONAdapter()])
def test_what_cannot_be_read_is_asked_once(adapter):
    lm = scripted_lm(lambda prompt: "no markers at all")
    with dspy.context(lm=lm, adapter=adapter):
        outcomes = Scorer(PLAIN, num_threads=2).outcomes(dspy.Predict(Lettered), examples(2))
    assert lm.scripted.calls == 2
    assert {outcome.status for outcome in outcomes} == {"unparsed"}
    assert outcomes[0].reply == "no markers at all"
    if isinstance(adapter, dspy.ChatAdapter):
        assert adapter.use_json_adapter_fallback  # The user's adapter is as it was.


def test_json_adapters_are_used_as_they_are():
    seen = []

    class Mine(dspy.JSONAdapter):
        def format(self, *args, **kwargs):
            seen.append(self)
            return super().format(*args, **kwargs)

    adapter = Mine()
    with dspy.context(lm=scripted_lm(lambda prompt: '{"answer": "B"}'), adapter=adapter):
        assert Scorer(PLAIN).outcomes(dspy.Predict(Lettered), examples(1))[0].correct == 1.0
    assert seen == [adapter]


@pytest.mark.parametrize(
    ("of_lm", "of_predictor", "sent"), [(None, None, 0.0), (0.7, None, 0.7), (None, 0.3, 0.3), (0.7, 0.3, 0.3)]
)
def test_the_temperature_is_0_where_nobody_set_one(of_lm, of_predictor, sent):
    config = {} if of_predictor is None else {"temperature": of_predictor}
    program = dspy.Predict(Lettered, **config)
    _, engine = run(lambda prompt: "B", program=program, temperature=of_lm)
    assert engine.log[0].prompt.config.temperature == sent
    assert program.config == config


class FactsThenAnswer(dspy.Module):
    """Two predictors and a third call afterwards; returns a prediction of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = dspy.Predict("question -> facts")
        self.answer = dspy.Predict(Lettered.append("facts", dspy.InputField()))
        self.remark = dspy.Predict("question, verdict -> remark")

    def forward(self, question):
        facts = self.facts(question=question).facts
        answer = self.answer(question=question, facts=facts).answer
        self.remark(question=question, verdict=answer)
        return dspy.Prediction(answer=answer)


def three_steps(prompt: PromptView) -> Reply:
    if "Verdict" in prompt.user:
        return Reply.of(*answer_logprobs("B", {"B": 0.1, "A": 0.9}))
    if "Facts: " in prompt.user:
        return Reply.of(*answer_logprobs("B", {"B": 0.8, "A": 0.2}))
    return Reply.of(*certain("Hearts beat."))


def test_confidence_is_that_of_the_call_that_answered():
    """Not of the facts before it, nor of the remark after it, and although the program hands on no logprobs."""
    (outcome,), engine = run(three_steps, program=FactsThenAnswer(), objective=ObjectiveEvaluator())
    assert outcome.confidence == pytest.approx(0.8)
    assert [call.prompt.config.logprobs is not None for call in engine.log] == [False, True, False]


def test_logprobs_are_asked_for_only_when_they_are_needed():
    _, engine = run(three_steps, program=FactsThenAnswer(), objective=PLAIN)
    assert [call.prompt.config.logprobs for call in engine.log] == [None] * 3


def test_of_several_tries_the_one_that_gave_the_answer_counts():
    class FirstOfTwo(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict(Lettered)

        def forward(self, question):
            first = self.ask(question=question).answer
            self.ask(question="Again: " + question)
            return dspy.Prediction(answer=first)

    def rule(prompt: PromptView) -> Reply:
        again = "Again" in prompt.user
        return Reply.of(*answer_logprobs("B" if again else "A", {"A": 0.7, "B": 0.3}))

    (outcome,), _ = run(rule, program=FirstOfTwo(), objective=ObjectiveEvaluator())
    assert (outcome.answer, outcome.confidence) == ("A", pytest.approx(0.7))


def test_an_lm_without_logprobs_is_noticed_at_once():
    with pytest.raises(LogprobsUnavailableError, match="confidence='verbalized'"):
        run(lambda prompt: "B", 200, objective=ObjectiveEvaluator(), threads=2)


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("logprobs are not supported with this model"),
        UnsupportedFeatureError("'top_logprobs' is not available"),
    ],
)
def test_a_provider_that_refuses_logprobs_is_told_apart_from_an_outage(error):
    with pytest.raises(LogprobsUnavailableError, match=r"refuses them.*'verbalized'.*'agreement'"):
        run(lambda prompt: error, 20, objective=ObjectiveEvaluator(), threads=1)
    # Without logits confidence it is an error like any other.
    with pytest.raises((ScoringFailedError, LMUnavailableError)):
        run(lambda prompt: error, 20, threads=1)


# Confidence by agreement.


def wavering(prompt: PromptView) -> str:
    """B at temperature 0; of the samples of an item every one but the first few says B too."""
    if prompt.config.temperature == 0.0:
        return "B"
    with lock:
        asked[number(prompt)] += 1
        return "A" if asked[number(prompt)] <= number(prompt) else "B"


lock = threading.Lock()
asked: Counter[int] = Counter()


def test_agreement_asks_again_at_a_temperature_and_counts_the_cost():
    asked.clear()
    objective = ObjectiveEvaluator(confidence="agreement", samples=4, sample_temperature=0.9)
    outcomes, engine = run(wavering, 4, objective=objective)
    assert [outcome.confidence for outcome in outcomes] == [1.0, 0.75, 0.5, 0.25]
    assert {outcome.usage.calls for outcome in outcomes} == {5} and engine.calls == 20
    assert Counter(call.prompt.config.temperature for call in engine.log) == {0.0: 4, 0.9: 16}


def test_samples_are_cached_one_by_one_so_that_the_next_run_repeats_them():
    asked.clear()
    lm = scripted_lm(wavering, cache=True)
    objective = ObjectiveEvaluator(confidence="agreement", samples=3)
    scorer = Scorer(objective, lm=lm, num_threads=2)
    first, again = (scorer.outcomes(dspy.Predict(Lettered), examples(3)) for _ in range(2))
    assert [outcome.confidence for outcome in first] == [outcome.confidence for outcome in again]
    assert lm.scripted.calls == 12 and {outcome.usage.cached for outcome in again} == {4}


def test_nothing_is_asked_again_where_there_is_no_answer_to_agree_with():
    outcomes, engine = run(lambda prompt: "It depends", 3, objective=ObjectiveEvaluator(confidence="agreement"))
    assert {outcome.status for outcome in outcomes} == {"unparsed"} and engine.calls == 3


def test_a_sample_that_gets_no_answer_is_the_worlds_fault():
    def rule(prompt: PromptView) -> str | Exception:
        return "B" if prompt.config.temperature == 0.0 or number(prompt) else ServerError("down")

    objective = ObjectiveEvaluator(confidence="agreement", samples=2)
    outcomes, _ = run(rule, 3, objective=objective, max_error_rate=0.5)
    assert [outcome.status for outcome in outcomes] == ["error", "ok", "ok"]
    assert outcomes[0].usage.calls == 6  # Its first answer was paid for, each time that it was tried.


def test_of_a_program_with_steps_every_step_is_asked_again():
    class Steps(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.think = dspy.Predict("question -> notes")
            self.answer = dspy.Predict("question, notes -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            return self.answer(question=question, notes=self.think(question=question).notes)

    objective = ObjectiveEvaluator(confidence="agreement", samples=2, choices=["A", "B"])
    outcomes, engine = run(lambda prompt: "B", 2, program=Steps(), objective=objective)
    assert engine.calls == 2 * 2 * 3 and {outcome.confidence for outcome in outcomes} == {1.0}


def test_a_program_that_returns_no_prediction_is_refused():
    class Bare(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict(Lettered)

        def forward(self, question):
            return self.ask(question=question).answer

    with pytest.raises(ProgramError, match=r"returned str; expected a dspy.Prediction"):
        run(lambda prompt: "B", program=Bare())


def test_a_defect_in_the_users_metric_is_not_the_worlds_fault():
    with pytest.raises(ZeroDivisionError):
        run(lambda prompt: "B", 5, objective=ObjectiveEvaluator(confidence=None, match=lambda e, p: 1 / 0))


# What it costs.


def counted(prompt: PromptView) -> Reply:
    return Reply("B", prompt_tokens=100 + number(prompt), completion_tokens=2)


def test_usage_is_exact_in_threads_and_cached_calls_count_apart():
    lm = scripted_lm(counted, cache=True)
    scorer = Scorer(PLAIN, lm=lm, num_threads=8)
    paid = sum((o.usage for o in scorer.outcomes(dspy.Predict(Lettered), examples(40))), Usage())
    assert (paid.calls, paid.cached, paid.completion_tokens) == (40, 0, 80)
    assert paid.prompt_tokens == sum(call.reply.prompt_tokens for call in lm.scripted.log) == 40 * 100 + sum(range(40))
    assert paid.usd is None  # A scripted engine has no price.
    again = sum((o.usage for o in scorer.outcomes(dspy.Predict(Lettered), examples(40))), Usage())
    assert again == Usage(calls=0, cached=40, prompt_tokens=0, completion_tokens=0, usd=0.0)
    assert lm.scripted.calls == 40


def test_whoever_tracks_usage_outside_still_sees_it():
    with dspy.track_usage() as tracker:
        run(counted, 10, threads=4)
    (tokens,) = tracker.get_total_tokens().values()
    assert (tokens["prompt_tokens"], tokens["completion_tokens"]) == (1045, 20)


class Busy(dspy.Module):
    """Tracks usage itself, and calls in threads of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(Lettered)

    def forward(self, question):
        with dspy.track_usage():
            self.ask(question=question)
        self.ask(question=question)
        pairs = [(self.ask, dspy.Example(question=question).with_inputs("question"))] * 2
        return dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)[0]


def test_usage_counts_what_a_program_does_on_its_own():
    outcomes, engine = run(counted, 3, program=Busy(), threads=3)
    usage = sum((outcome.usage for outcome in outcomes), Usage())
    assert engine.calls == usage.calls == 12
    assert (usage.cached, usage.completion_tokens) == (0, 24)


@pytest.mark.parametrize("size", [0, 2])
def test_a_short_history_in_dspy_changes_nothing(size):
    scorer = Scorer(ObjectiveEvaluator(), lm=scripted_lm(three_steps, cache=True))
    with dspy.context(max_history_size=size):
        (paid,), (cached,) = (scorer.outcomes(FactsThenAnswer(), examples(1)) for _ in range(2))
    assert (paid.usage.calls, paid.usage.cached, cached.usage.calls, cached.usage.cached) == (3, 0, 0, 3)
    assert paid.confidence == cached.confidence == pytest.approx(0.8)


# What goes wrong.


def test_unparsed_and_error_are_kept_apart():
    def rule(prompt: PromptView):
        return {0: "B", 1: "I would rather not say."}.get(number(prompt), ServerError("out of memory"))

    outcomes, engine = run(rule, 3, max_error_rate=0.5)
    assert [outcome.status for outcome in outcomes] == ["ok", "unparsed", "error"]
    assert outcomes[1].reply == "I would rather not say." and outcomes[1].usage.calls == 1
    assert "LMServerError" in outcomes[2].error and "out of memory" in outcomes[2].error
    assert engine.calls == 8  # The error was tried five times more, the others were not.


def test_an_error_that_passes_leaves_no_trace_but_its_cost():
    """The first call of the second step fails once; what the first step cost is not forgotten."""
    failed = threading.Event()

    def rule(prompt: PromptView):
        if "Facts: " in prompt.user and not failed.is_set():
            failed.set()
            return RateLimitError("slow down")
        return three_steps(prompt)

    (outcome,), engine = run(rule, program=FactsThenAnswer(), max_error_rate=0.0)
    assert (outcome.status, outcome.correct) == ("ok", 1.0)
    assert outcome.usage.calls == 4 and engine.calls == 5


KINDS = [
    (ServerError("overloaded"), "LMServerError", 5),
    (RateLimitError("slow down", retry_after=0.0), "LMRateLimitError", 5),
    (TimeoutError("no reply in 60 s"), "LMTimeoutError", 5),
    (TransportError("connection dropped"), "LMTransportError", 5),
    (ContextLengthError("too long"), "ContextWindowExceededError", 1),
    (InvalidRequestError("content policy"), "LMInvalidRequestError", 1),
    (ValueError("a fault of the engine's"), "LMUnexpectedError", 1),
    (Reply("", finish_reason="content_filter"), "content filter", 1),
    (Reply("I cann", finish_reason="content_filter"), "content filter", 1),
]


@pytest.mark.parametrize(("fault", "says", "again"), KINDS)
def test_whatever_fails_is_no_fault_of_the_prompt(fault, says, again):
    outcomes, engine = run(lambda prompt: fault if number(prompt) == 3 else "B", 8, max_error_rate=0.5)
    assert [outcome.status for outcome in outcomes].count("ok") == 7
    assert outcomes[3].status == "error" and says in outcomes[3].error
    assert engine.calls == 8 + again  # What cannot pass is tried once more, what can five times.


def test_transient_errors_are_no_failure_even_where_none_is_allowed():
    seen = set()

    def rule(prompt: PromptView):
        if number(prompt) % 5 == 0 and number(prompt) not in seen:
            seen.add(number(prompt))
            return RateLimitError("slow down")
        return "B"

    outcomes, _ = run(rule, 20, max_error_rate=0.0)
    assert {outcome.status for outcome in outcomes} == {"ok"}


def test_too_many_errors_stop_the_run_with_counts_and_reasons():
    def rule(prompt: PromptView):
        return ServerError("out of memory") if number(prompt) % 3 == 0 else "B"

    with pytest.raises(ScoringFailedError, match=r"5 of 15 .*max_error_rate=0.1.*5 x LMServerError.*out of memory"):
        run(rule, 15)


def test_a_dozen_that_always_fail_among_many_are_no_outage():
    outcomes, _ = run(lambda prompt: ServerError("gone") if number(prompt) % 15 == 7 else "B", 200, max_error_rate=0.1)
    assert Counter(outcome.status for outcome in outcomes) == {"ok": 187, "error": 13}


def test_one_failure_in_a_small_step_of_a_long_run_stops_nothing():
    lm = scripted_lm(lambda prompt: ServerError("gone") if number(prompt) == 1 else "B")
    scorer = Scorer(PLAIN, lm=lm, num_threads=2)
    jobs = [Job(n, scorer.prepare(dspy.Predict(Lettered)), example) for n, example in enumerate(examples(2))]
    with pytest.raises(ScoringFailedError, match="1 of 2 scorer calls"):
        list(scorer.score(jobs))
    assert dict(scorer.score(jobs, before=(100, 3)))[1].status == "error"
    with pytest.raises(ScoringFailedError, match="11 of 102 scorer calls"):
        list(scorer.score(jobs, before=(100, 10)))


def test_an_outage_is_not_paid_for_to_the_end():
    lm = scripted_lm(lambda prompt: ServerError("down") if number(prompt) >= 4 else "B", latency=0.001)
    with pytest.raises(ScoringFailedError, match="down"):
        Scorer(PLAIN, lm=lm, num_threads=2).outcomes(dspy.Predict(Lettered), examples(300))
    assert lm.scripted.calls < 100


@pytest.mark.parametrize(
    ("error", "says"), [(AuthError("bad key"), "bad key"), (UnsupportedModelError("no such model"), "no such model")]
)
def test_a_wrong_key_or_name_stops_at_once(error, says):
    lm = scripted_lm(lambda prompt: error)
    with pytest.raises(LMUnavailableError, match=says):
        Scorer(PLAIN, lm=lm, num_threads=4).outcomes(dspy.Predict(Lettered), examples(200))
    time.sleep(0.05)
    assert lm.scripted.calls <= 4  # Those that had begun.


@pytest.mark.parametrize("lm", [None, "openai/gpt-x"])
def test_without_an_lm_nothing_begins(lm):
    with dspy.context(lm=lm), pytest.raises(LMUnavailableError, match=r"dspy.configure\(lm="):
        Scorer(PLAIN).outcomes(dspy.Predict(Lettered), examples(3))


def test_lost_connections_are_errors_once_the_lm_has_answered():
    def rule(prompt: PromptView):
        return TransportError("connection reset") if number(prompt) in (5, 6, 7) else "B"

    outcomes, _ = run(rule, 40, threads=1)
    assert [i for i, outcome in enumerate(outcomes) if outcome.status == "error"] == [5, 6, 7]


class NoSuchModel(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.posts += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}).encode()
        self.send_response(404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), NoSuchModel)
    httpd.posts = 0
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def served(port: int, **settings) -> dspy.LM:
    return dspy.LM("openai/x", api_base=f"http://127.0.0.1:{port}/v1", api_key="none", cache=False, **settings)


def test_all_that_was_paid_for_is_told_when_an_error_ends_it_all():
    lm = scripted_lm(lambda prompt: AuthError("revoked") if number(prompt) == 7 else "B", latency=0.002, cache=False)
    scorer = Scorer(PLAIN, lm=lm, num_threads=2)
    program, told, late = scorer.prepare(dspy.Predict(Lettered)), [], []
    jobs = [Job(index, program, example) for index, example in enumerate(examples(30))]
    with pytest.raises(LMUnavailableError, match="revoked"):
        for key, _ in scorer.score(jobs, late=lambda key, outcome: late.append(key)):
            told.append(key)
            time.sleep(0.05)  # Whoever writes them down is slower than the threads.
    # One other may have been under way when it came.
    assert len(set(range(7)) - {*told}) <= 1, "what had ended before comes before the error"
    assert len({*told, *late}) == len(told) + len(late) >= lm.scripted.calls - 2, "all but what failed or was under way"


def test_an_lm_that_answers_is_not_taken_for_one_that_nobody_serves():
    asked = threading.Event()

    def rule(prompt: PromptView) -> str | Exception:
        if number(prompt) in (1, 2, 3):
            asked.wait(10)
            return TransportError("refused")
        return "B"

    def latency(prompt: PromptView) -> float:
        # Its samples are still under way when the others are refused.
        slow = asked.is_set() and number(prompt) == 0
        if number(prompt) == 0:
            asked.set()
        return 0.3 if slow else 0.0

    lm = scripted_lm(rule, latency=latency, num_retries=0, cache=False)
    agreement = ObjectiveEvaluator(confidence="agreement")
    outcomes = Scorer(agreement, lm=lm, num_threads=4, max_error_rate=0.5).outcomes(
        dspy.Predict(Lettered), examples(30)
    )
    assert [outcome.status for outcome in outcomes].count("error") == 3


def test_a_model_that_nobody_serves_stops_at_the_first_call(server):
    """With DSPy's own retries left on: a wrong name is not retried."""
    with pytest.raises(LMUnavailableError, match=r"does not exist.*model's name"):
        Scorer(PLAIN, lm=served(server.server_port), num_threads=2).outcomes(dspy.Predict(Lettered), examples(50))
    assert server.posts <= 2


@pytest.mark.parametrize("n", [1, 50])
def test_a_server_that_refuses_connections_is_named(n):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # The port is ours, and nobody listens there.
        port = taken.getsockname()[1]
        lm = served(port, num_retries=0)
        with pytest.raises(LMUnavailableError, match=rf"openai/x at http://127.0.0.1:{port}/v1\) cannot be reached"):
            Scorer(PLAIN, lm=lm, num_threads=2).outcomes(dspy.Predict(Lettered), examples(n))


# The bar.


@pytest.mark.parametrize("verbose", [True, False])
def test_where_there_is_no_terminal_nothing_is_shown(monkeypatch, capsys, verbose):
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich believe in one
    with dspy.context(lm=scripted_lm(lambda prompt: "B")):
        ObjectiveEvaluator(confidence=None).evaluate(dspy.Predict(Lettered), examples(3), verbose=verbose)
    assert capsys.readouterr() == ("", "")


# Empty replies.


def test_an_empty_reply_is_asked_for_once_more():
    """An endpoint in trouble may send nothing. What stays empty is the prompt's fault, and DSPy's cache is no help."""
    seen: Counter[int] = Counter()

    def rule(prompt: PromptView) -> str:
        seen[number(prompt)] += 1
        return "" if number(prompt) == 2 or (number(prompt) == 1 and seen[1] == 1) else "B"

    outcomes, engine = run(rule, 3, threads=1, cache=True)
    assert [outcome.status for outcome in outcomes] == ["ok", "ok", "unparsed"]
    assert [outcome.usage.calls for outcome in outcomes] == [1, 2, 2] and engine.calls == 5


class Hangup(BaseHTTPRequestHandler):
    """Takes every connection, and breaks it off."""

    def do_POST(self):
        self.connection.close()
        self.close_connection = True

    def log_message(self, *args):
        pass


def test_a_server_that_breaks_off_is_not_one_that_is_not_there():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hangup)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        lm = dspy.LM("openai/x", api_base=url, api_key="none", cache=False, num_retries=0)
        with pytest.raises(ScoringFailedError, match="LMTransportError"):
            Scorer(PLAIN, lm=lm, num_threads=2).outcomes(dspy.Predict(Lettered), examples(30))
    finally:
        server.shutdown()
        server.server_close()
