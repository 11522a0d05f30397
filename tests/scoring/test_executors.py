"""Scoring by other processes: what travels, what does not, and that nothing else differs."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError, Request, Response

from programs.benchmarks.scaling import Travelling, scorer_lm
from programs.benchmarks.scripted import PromptView, Reply, _response
from programs.benchmarks.server import Server, served
from programs.benchmarks.worlds import World
from tp_dspy.errors import (
    ConfigurationError,
    LMUnavailableError,
    MissingDependencyError,
    ProgramError,
    WorkersLostError,
)
from tp_dspy.lms.adapter import InstructionAdapter
from tp_dspy.scoring import at_worker, clusters, parcels
from tp_dspy.scoring.executors import Threads, Workers, crew
from tp_dspy.scoring.objective import ObjectiveEvaluator
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.scorer import Job, Scorer
from tp_dspy.scoring.throttle import Limits, Throttle

PLAIN = ObjectiveEvaluator(confidence=None)
KEY = "sk-only-for-this-test-0123456789"


@pytest.fixture(autouse=True)
def plain_prompts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with dspy.context(adapter=InstructionAdapter()):
        yield


def examples(n: int, first: int = 0) -> list[dspy.Example]:
    return [dspy.Example(question=f"Item {i}.", answer="B").with_inputs("question") for i in range(first, first + n)]


def program(text: str = "Answer.") -> dspy.Predict:
    return dspy.Predict(dspy.Signature("question -> answer", text))


def http_lm(server: Server, **settings: Any) -> dspy.LM:
    # DSPy's own engine takes no headers.
    engine = {} if "extra_headers" in settings else {"engine": "lm15"}
    return dspy.LM("openai/scripted", api_base=server.url, cache=False, **engine, **settings)


class Inline(Executor):
    """Runs what it is given in threads; keeps it."""

    def __init__(self, threads: int = 4) -> None:
        self.pool = ThreadPoolExecutor(threads)
        self._max_workers = threads
        self.given: list[tuple[Any, ...]] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        self.given.append(args)
        return self.pool.submit(function, *args, **more)


def sizes(executor: Inline) -> list[int]:
    """Of the batches."""
    return [len(pickle.loads(pairs)) for _, pairs, *_ in executor.given]


# What is asked for.


@pytest.mark.parametrize("wrong", ["ray", 3, object(), ""])
def test_something_else_than_an_executor_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected None, 'dask'"):
        Scorer(PLAIN, lm=scorer_lm(0.0), executor=wrong)


def test_an_executor_of_unknown_size_wants_a_number() -> None:
    class Unknown(Executor): ...

    with pytest.raises(ConfigurationError, match="give num_threads"):
        crew(Unknown(), None)
    made = crew(Unknown(), 3)
    assert isinstance(made, Workers) and made.capacity == 3


def test_what_was_made_before_is_taken_as_it_is() -> None:
    made = crew(None, 5)
    assert isinstance(made, Threads) and made.number == 5 and crew(made, 7) is made
    scorer = Scorer(PLAIN, lm=scorer_lm(0.0), executor=made)
    assert scorer.num_threads == scorer.throttles.most == 5


def test_a_client_that_was_lost_is_made_anew() -> None:
    class Lost:
        status = "closed"

    class Running:
        status = "running"

    made = iter([Lost(), Running()])
    clusters._clients.pop("x", None)
    assert isinstance(clusters.kept("x", lambda: next(made)), Lost)
    found = clusters.kept("x", lambda: next(made))
    assert isinstance(found, Running) and clusters.kept("x", lambda: next(made)) is clusters._clients.pop("x")


def test_without_distributed_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"tp_dspy\[distributed\]"):
        crew("dask://127.0.0.1:1", 2)


# The seam, with an executor of this process.


def test_outcomes_are_what_threads_give() -> None:
    world = World(3)
    task = world.task("finance", train=30).train
    lm = dspy.LM("scripted/w", engine=Travelling(0.0, 3), cache=False)
    by_threads = Scorer(ObjectiveEvaluator(), lm=lm, num_threads=4).outcomes(program("Reply only, calmly."), task)
    executor = Inline()
    by_workers = Scorer(ObjectiveEvaluator(), lm=lm, executor=executor).outcomes(program("Reply only, calmly."), task)
    assert by_workers == by_threads and executor.given


def test_batches_are_of_one_program_and_grow_only_while_enough_is_left() -> None:
    executor = Inline(2)
    scorer = Scorer(PLAIN, lm=scorer_lm(0.002), executor=executor)
    prepared = [scorer.prepare(program(text)) for text in ("One.", "Two.")]
    jobs = [Job((n, i), one, e) for n, one in enumerate(prepared) for i, e in enumerate(examples(150))]
    assert len(dict(scorer.score(jobs))) == 300
    found = sizes(executor)
    assert sum(found) == 300 and max(found) > 8 and found[-1] <= 2
    assert len({parcel.key for parcel, *_ in executor.given}) == 2


def test_limits_hold_for_all_workers_together() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def rule(text: str) -> Reply:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return Reply("B")

    with served(rule) as server:
        scorer = Scorer(PLAIN, lm=http_lm(server), executor=Inline(8), limits=Limits(max_concurrency=2))
        scorer.outcomes(program(), examples(30))
        throttle = scorer.throttles.of(scorer.lm)
        assert most == 2 and throttle._under_way == 0 and throttle.answered == 30


def test_requests_a_minute_hold_for_all_workers_together() -> None:
    with served(lambda text: Reply("B")) as server:
        scorer = Scorer(PLAIN, lm=http_lm(server), executor=Inline(8), limits=Limits(requests_per_minute=300))
        began = time.monotonic()
        scorer.outcomes(program(), examples(15))
        # Five at once, then five a second.
        assert time.monotonic() - began >= 1.8


def test_what_several_calls_of_a_pair_took_is_waited_for_afterwards() -> None:
    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = program("First."), program("Second.")

        def forward(self, question: str) -> dspy.Prediction:
            self.one(question=question)
            return self.two(question=question)

    with served(lambda text: Reply("B")) as server:
        scorer = Scorer(PLAIN, lm=http_lm(server), executor=Inline(1), limits=Limits(requests_per_minute=240))
        began = time.monotonic()
        scorer.outcomes(Twice(), examples(6))
        assert len(server.answered) == 12 and time.monotonic() - began >= 1.2


def test_calls_of_threads_within_a_program_count() -> None:
    class Both(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = program("First."), program("Second.")

        def forward(self, question: str) -> dspy.Prediction:
            pair = dspy.Example(question=question).with_inputs("question")
            parallel = dspy.Parallel(num_threads=2, disable_progress_bar=True)
            return parallel([(self.one, pair), (self.two, pair)])[1]

    with served(lambda text: Reply("B")) as server:
        scorer = Scorer(PLAIN, lm=http_lm(server), executor=Inline(4), limits=Limits(requests_per_minute=240))
        began = time.monotonic()
        scorer.outcomes(Both(), examples(6))
        # Four at once, then four a second.
        assert len(server.answered) == scorer.throttles.answered == 12 and time.monotonic() - began >= 1.2


def test_requests_of_which_nobody_knows_are_not_given_back() -> None:
    throttle = Throttle(Limits(requests_per_minute=120), 100)
    began = time.monotonic()
    for _ in range(3):
        throttle.take()
        throttle.give_back(0.0)
    assert throttle._under_way == 0 and time.monotonic() - began >= 0.4
    # What was not sent is.
    throttle.give_back(throttle.take() * 0.0 + 1.0)
    began = time.monotonic()
    throttle.take()
    assert time.monotonic() - began < 0.4


@pytest.mark.parametrize("by_cost", [False, True])
def test_a_gate_is_asked_before_every_pair_also_within_batches(by_cost: bool) -> None:
    class Three:
        ending, by_time = threading.Event(), False

        def __init__(self) -> None:
            self.begun, self.by_cost = 0, by_cost

        def begin(self) -> str | None:
            self.begun += self.begun < 50
            return None if self.begun < 50 else "enough"

        def unsent(self) -> None: ...

        def spent(self, usage: Any) -> None: ...

    from tp_dspy.scoring.gate import HaltedError

    executor = Inline(2)
    scorer, gate = Scorer(PLAIN, lm=scorer_lm(0.002), executor=executor), Three()
    prepared = scorer.prepare(program())
    found = []
    with pytest.raises(HaltedError, match="enough"):
        for key, _ in scorer.score([Job(i, prepared, e) for i, e in enumerate(examples(400))], gate=gate):
            found.append(key)
    assert sorted(found) == list(range(49)) and sum(sizes(executor)) == 49
    # Where it is not known what a pair will cost, no more begin than there is room for.
    assert max(sizes(executor)) == 1 if by_cost else max(sizes(executor)) > 4


class Failing(Travelling):
    """Refuses the key from the twentieth item on."""

    def complete(self, request: Request) -> Response:
        prompt = PromptView.of(request)
        if int(prompt.user.split("Item ")[1].split(".")[0]) >= 20:
            raise AuthError("no such key")
        return _response(prompt, Reply("B"))


def test_an_error_that_ends_it_comes_after_what_its_batch_had_paid_for() -> None:
    lm = dspy.LM("scripted/failing", engine=Failing(0.0), cache=False, num_retries=0)
    scorer = Scorer(PLAIN, lm=lm, executor=Inline(1))
    prepared = scorer.prepare(program())
    found: dict[int, Outcome] = {}
    with pytest.raises(LMUnavailableError, match="no such key"):
        for key, outcome in scorer.score([Job(i, prepared, e) for i, e in enumerate(examples(40))]):
            found[key] = outcome
    assert sorted(found) == list(range(20))


def test_an_error_that_cannot_be_sent_is_told_in_words() -> None:
    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    assert str(at_worker._portable(Odd(1, 2))) == "Odd: 1 and 2"
    assert isinstance(at_worker._portable(ProgramError("x")), ProgramError)


def test_an_error_is_sent_without_what_cannot_be() -> None:
    pytest.importorskip("distributed")  # it has causes pickled with their errors
    cause = ValueError()
    cause.lock = threading.Lock()
    error = LMUnavailableError("no such key")
    error.__cause__ = cause
    made = pickle.loads(pickle.dumps(at_worker._portable(error)))
    assert isinstance(made, LMUnavailableError) and str(made) == "no such key"


def test_two_who_score_at_once_share_an_executor_evenly() -> None:
    executor = Inline(8)
    one, two = (Workers(executor, 8) for _ in range(2))
    throttles = Scorer(PLAIN, lm=scorer_lm(0.0)).throttles
    with one.open(throttles, None) as first:
        assert first.room() == 8
        with two.open(throttles, None) as second:
            assert (first.room(), second.room()) == (4, 4)
        assert first.room() == 8


def test_after_it_is_broken_off_nothing_further_is_sent() -> None:
    executor = Inline(2)
    scorer = Scorer(PLAIN, lm=scorer_lm(0.01), executor=executor)
    prepared = scorer.prepare(program())
    pairs = scorer.score([Job(i, prepared, e) for i, e in enumerate(examples(300))])
    next(pairs)
    pairs.close()
    sent = len(executor.given)
    time.sleep(0.2)
    assert len(executor.given) == sent
    deadline = time.monotonic() + 10
    while any(t.name == "tp_dspy-workers" for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(t.name == "tp_dspy-workers" for t in threading.enumerate())


@pytest.mark.parametrize("error", [BrokenExecutor("gone"), ImportError("no tp_dspy"), RuntimeError("shut down")])
@pytest.mark.parametrize("when", ["begun", "ended"])
def test_an_executor_that_fails_is_told_of_with_what_to_do(error: Exception, when: str) -> None:
    class Broken(Inline):
        def submit(self, function: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
            if when == "begun":
                raise error
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    with pytest.raises(WorkersLostError, match=str(error)) as raised:
        Scorer(PLAIN, lm=scorer_lm(0.0), executor=Broken()).outcomes(program(), examples(5))
    assert raised.value.__cause__ is error


# What travels.


def sent(lm: dspy.LM, made: dspy.Module | None = None, objective: ObjectiveEvaluator = PLAIN) -> parcels.Parcel:
    executor = Inline(1)
    Scorer(objective, lm=lm, executor=executor).outcomes(made or program(), examples(1))
    return executor.given[0][0]


def test_a_key_from_the_environment_is_read_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(lambda text: Reply("B")) as server:
        monkeypatch.setenv("VLLM_KEY", "another-key-of-ours")
        lm = http_lm(server, api_key="another-key-of-ours", extra_headers={"X-Auth": f"Bearer {KEY} {{ok}}"})
        parcel = sent(lm)
        assert b"another-key" not in parcel.content and KEY.encode() not in parcel.content
        assert b"VLLM_KEY" in parcel.content
        parcels._opened.clear(), parcels._lms.clear()
        made = parcel.open(1).settings["lm"]
        assert made.kwargs["api_key"] == "another-key-of-ours"
        assert made.kwargs["extra_headers"] == {"X-Auth": f"Bearer {KEY} {{ok}}"}
        parcels._opened.clear(), parcels._lms.clear()
        monkeypatch.delenv("VLLM_KEY")
        with pytest.raises(ConfigurationError, match="no environment variable VLLM_KEY"):
            parcel.open(1)


@pytest.mark.parametrize(
    "setting",
    [
        {"api_key": "given-by-hand"},
        {"extra_headers": {"Authorization": "Bearer abcd"}},
        {"extra_headers": {"X-Auth": "by-hand-too"}},
        {"api_base": "http://me:secret@127.0.0.1:9/v1"},
        {"aws_secret_access_key": "given-by-hand"},
    ],
)
def test_a_key_given_by_hand_is_not_sent(setting: dict[str, Any]) -> None:
    lm = dspy.LM("openai/scripted", cache=False, **setting)
    with pytest.raises(ConfigurationError, match="Keys do not travel") as raised:
        Scorer(PLAIN, lm=lm, executor=Inline()).outcomes(program(), examples(3))
    assert "secret@" not in str(raised.value)


def test_a_key_in_a_predictors_config_is_not_sent() -> None:
    made = dspy.Predict("question -> answer", api_key="given-by-hand")
    with pytest.raises(ConfigurationError, match="A predictor's config has a api_key"):
        Scorer(PLAIN, lm=scorer_lm(0.0), executor=Inline()).outcomes(made, examples(3))


@pytest.mark.parametrize(
    "key", ['{"a": {"private_key": "0123456789"}}', "pass{word}1234", '{"type": "service"}', "{}{{}}{x}"]
)
def test_a_key_may_hold_whatever_it_likes(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERTEX.CREDENTIALS", key)
    lm = dspy.LM("scripted/x", engine=Travelling(0.0), cache=False)
    lm.kwargs["vertex_credentials"] = f"{{of}} {key} and {key}"
    concealed = parcels._concealed(dict(lm.kwargs), (), "x", parcels._secrets())
    assert key not in repr(concealed)
    assert parcels._revealed(concealed, "x")["vertex_credentials"] == f"{{of}} {key} and {key}"


def test_a_word_that_happens_to_be_a_key_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "placeholder")
    monkeypatch.setenv("KEYCLOAK_URL", "https://keys.example.org/realm1")
    assert sent(scorer_lm(0.0), program("Write a placeholder; see https://keys.example.org/realm1."))


def test_what_is_no_key_may_be_given() -> None:
    with served(lambda text: Reply("B")) as server:
        assert sent(http_lm(server, api_key="none", max_tokens=20)).content


def test_a_program_that_holds_a_key_is_not_sent() -> None:
    made = program(f"Answer. {KEY}")
    with pytest.raises(ConfigurationError, match="environment variable OPENAI_API_KEY is in what would be sent"):
        Scorer(PLAIN, lm=scorer_lm(0.0), executor=Inline()).outcomes(made, examples(3))


def test_what_cannot_be_pickled_is_named() -> None:
    made = program()
    made.lock = threading.Lock()
    with pytest.raises(ConfigurationError, match=r"The program cannot be sent to workers \(TypeError: .*lock"):
        Scorer(PLAIN, lm=scorer_lm(0.0), executor=Inline()).outcomes(made, examples(3))
    with dspy.context(rm=threading.Lock()), pytest.raises(ConfigurationError, match="DSPy's setting rm cannot"):
        Scorer(PLAIN, lm=scorer_lm(0.0), executor=Inline()).outcomes(program(), examples(3))


def test_settings_of_dspy_travel_and_callbacks_stay() -> None:
    class Retriever:
        def __call__(self, query: str) -> str:
            return f"found for {query}"

    class Asks(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = program()

        def forward(self, question: str) -> dspy.Prediction:
            assert dspy.settings.rm(question).startswith("found for Item")
            return self.predict(question=question)

    with dspy.context(rm=Retriever(), callbacks=[dspy.utils.callback.BaseCallback()], house="of our own"):
        parcel = sent(scorer_lm(0.0), Asks())
    settings = parcel.open(1).settings
    assert settings["house"] == "of our own" and "callbacks" not in settings


def test_settings_travel_with_programs_that_begin_later() -> None:
    executor = Inline(1)
    scorer = Scorer(PLAIN, lm=scorer_lm(0.0), executor=executor)
    with dspy.context(house="of our own"):
        programs = [scorer.prepare(program(text)) for text in ("One.", "Two.", "Three.")]
        jobs = [Job((n, i), one, e) for n, one in enumerate(programs) for i, e in enumerate(examples(5))]
        assert len(dict(scorer.score(jobs))) == 15
    made = {args[0].key: args[0].open(1).settings["house"] for args in executor.given}
    assert list(made.values()) == ["of our own"] * 3


def test_with_dspys_cache_off_workers_do_not_use_theirs() -> None:
    lm = dspy.LM("scripted/travelling", engine=Travelling(0.0), cache=True)
    assert sent(lm).open(1).settings["lm"].cache is True
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    assert sent(lm, program("Uncached.")).open(1).settings["lm"].cache is False


def test_what_was_opened_remembers_no_calls() -> None:
    executor = Inline(2)
    Scorer(PLAIN, lm=scorer_lm(0.0), executor=executor).outcomes(program("Remembers."), examples(40))
    opened = executor.given[0][0].open(1)
    assert len(opened.program.history) <= 2 and len(opened.settings["lm"].history) <= 2


@pytest.mark.parametrize("name", ["Python", "dspy", "tp_dspy"])
def test_other_versions_are_named(name: str) -> None:
    parcel = sent(scorer_lm(0.0))
    other = parcels.Parcel("other", parcel.content, {**parcel.versions, name: "0.0.1"})
    with pytest.raises(ConfigurationError, match=rf"{name} .* instead of 0\.0\.1"):
        other.open(1)


def test_the_driver_is_told_of_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    here = parcels._versions()
    packed = iter([{**here, "dspy": "9.9"}])
    monkeypatch.setattr(parcels, "_versions", lambda: next(packed, here))
    with pytest.raises(ConfigurationError, match=r"dspy .* instead of 9\.9"):
        Scorer(PLAIN, lm=scorer_lm(0.0), executor=Inline()).outcomes(program("Versions."), examples(3))


# Real processes.


def test_a_pool_of_processes() -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool, served(lambda text: Reply("B")) as server:
        outcomes = Scorer(PLAIN, lm=http_lm(server), executor=pool).outcomes(program(), examples(40))
        assert sum(o.correct for o in outcomes) == 40 and len(server.answered) == 40


def test_a_pool_that_lost_a_process_is_told_of() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, served(lambda text: Reply("B")) as server:
        victim = pool.submit(os.getpid).result()
        scorer = Scorer(PLAIN, lm=http_lm(server), executor=pool)
        prepared = scorer.prepare(program())
        with pytest.raises(WorkersLostError, match="make the same call again"):
            for _ in scorer.score([Job(i, prepared, e) for i, e in enumerate(examples(5000))]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
