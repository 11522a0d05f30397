"""What is sent to workers at once, simulated: that all threads are busy however long pairs take, with few messages."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from tp_dspy.scoring.portions import Load, Portions


@dataclass
class Sent:
    """A portion under way."""

    place: str | None
    weight: int
    pairs: int
    todo: deque[float]
    left: int
    seconds: float = 0.0


@dataclass
class Cluster:
    """Runs pairs of known seconds in virtual time, as workers do: blocks in all their threads, batches in one each."""

    workers: int
    threads: int
    blocks: bool = True
    fast: bool = False
    now: float = 0.0
    messages: int = 0
    most: int = 0
    events: list[tuple[float, int, Sent]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.there = {f"worker-{i}": self.threads for i in range(self.workers)}
        self.free = dict(self.there)
        self.waiting: dict[str, deque[Sent]] = {name: deque() for name in self.there}
        places = self.workers * self.threads
        there = self.there if self.blocks else {}
        self.portions = Portions(lambda: places, lambda: there, Load(1), fast=self.fast)
        self.count = 0

    def run(self, seconds: Sequence[float]) -> float:
        """Score all; gives how long it takes."""
        todo, under_way = deque(seconds), 0
        while True:
            while todo and under_way < self.portions.room():
                sent = self.send(todo)
                under_way += sent.weight
            if not self.events:
                return self.now
            self.now, _, sent = heapq.heappop(self.events)
            sent.left -= 1
            if sent.place is not None:
                self.free[sent.place] += 1
                self.begin(sent.place)
            if not sent.left:
                under_way -= sent.weight
                self.portions.ended(sent.place, sent.pairs)
                self.portions.took(sent.seconds, sent.pairs)

    def send(self, todo: deque[float]) -> Sent:
        pairs = min(len(todo), self.portions.size(len(todo)))
        weight, (place, _) = self.portions.weight(pairs), self.portions.place(pairs)
        mine = deque(todo.popleft() for _ in range(pairs))
        sent = Sent(place, weight, pairs, mine, pairs)
        self.messages += 1
        if place is None:
            sent.seconds, sent.left = sum(mine), 1
            self.end_after(sent.seconds, sent)
        else:
            self.most = max(self.most, pairs)
            self.waiting[place].append(sent)
            self.begin(place)
        return sent

    def begin(self, place: str) -> None:
        queue = self.waiting[place]
        while queue and self.free[place]:
            if not queue[0].todo:
                queue.popleft()
                continue
            took = queue[0].todo.popleft()
            queue[0].seconds += took
            self.free[place] -= 1
            self.end_after(took, queue[0])

    def end_after(self, seconds: float, sent: Sent) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now + seconds, self.count, sent))


def one_queue(seconds: Sequence[float], threads: int) -> float:
    """How long all take if each thread takes the next pair when it is free."""
    free = [0.0] * threads
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def lognormal(mean: float, sigma: float, pairs: int, seed: int) -> list[float]:
    chance = random.Random(seed)
    return [mean * math.exp(chance.gauss(0.0, sigma) - sigma * sigma / 2.0) for _ in range(pairs)]


@pytest.mark.parametrize("sigma", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("mean", [0.05, 0.2, 1.0, 3.0, 10.0])
@pytest.mark.parametrize(("workers", "threads"), [(4, 64), (16, 16), (16, 64)])
def test_no_thread_waits_for_long(workers: int, threads: int, mean: float, sigma: float) -> None:
    for pairs in (60, 500, 20_000):
        shares = []
        for seed in range(3):
            seconds = lognormal(mean, sigma, pairs, seed)
            shares.append(Cluster(workers, threads).run(seconds) / one_queue(seconds, workers * threads))
        assert sum(shares) / 3 < 1.08


def test_where_pairs_are_fast_there_are_few_messages() -> None:
    for workers, threads, pairs in ((4, 64, 20_000), (16, 64, 80_000)):
        seconds, places = lognormal(0.2, 0.6, pairs, 1), workers * threads
        with_blocks, without = Cluster(workers, threads), Cluster(workers, threads, blocks=False)
        with_blocks.run(seconds), without.run(seconds)
        # Of those of one pair, with which it begins, there are twice as many as places.
        assert with_blocks.messages - 2 * places < (without.messages - 2 * places) / 5
        assert threads < with_blocks.most <= threads * 10


def test_where_pairs_are_slow_each_place_has_its_own() -> None:
    cluster = Cluster(4, 64)
    cluster.run(lognormal(6.0, 0.6, 5_000, 1))
    assert cluster.most == 0


def test_a_step_after_a_fast_one_begins_with_small_blocks() -> None:
    first = Cluster(4, 64)
    first.run(lognormal(0.2, 0.6, 600, 1))
    seconds = lognormal(0.2, 0.6, 600, 2)
    then = Cluster(4, 64, fast=first.portions.fast)
    assert then.run(seconds) < 1.1 * one_queue(seconds, 256)
    assert then.messages < 70 < 500 < first.messages


@pytest.mark.parametrize("mean", [8.0, 30.0])
def test_where_pairs_are_not_fast_any_more_it_shows_soon(mean: float) -> None:
    """No more than three for each thread are under way until it is known."""
    seconds = lognormal(mean, 0.6, 5_000, 1)
    cluster = Cluster(4, 64, fast=True)
    assert cluster.run(seconds) < 1.15 * one_queue(seconds, 256)
    assert cluster.most <= 16 and not cluster.portions.fast


def portions(threads: dict[str, int], load: Load, seconds: float) -> Portions:
    places = sum(threads.values())
    made = Portions(lambda: places, lambda: threads, load)
    made.took(seconds * places, places)
    return made


def test_those_who_share_a_cluster_give_their_blocks_to_different_workers() -> None:
    load, there = Load(2), {"a": 8, "b": 8, "c": 16}
    first, second = (portions(there, load, 0.1) for _ in range(2))
    assert all(one.size(10_000) > 8 for one in (first, second))
    chosen = [one.place(40)[0] for one in (first, second, first, second)]
    # By what there is to do for each thread.
    assert sorted(map(str, chosen)) == ["a", "b", "c", "c"]
    assert load.under_way == {"a": 40, "b": 40, "c": 80}
    first.ended("c", 40)
    assert second.place(1)[0] == "c"
    # Each has half of what is under way at most.
    alone = portions(there, Load(1), 0.1)
    alone.size(10_000)
    assert first.room() == alone.room() // 2


def test_a_block_is_for_another_worker_where_its_own_is_lost() -> None:
    there = {"a": 8}
    one = portions(there, Load(1), 0.1)
    one.size(1_000)
    assert one.place(10) == ("a", {"workers": ["a"], "allow_other_workers": True})
    there.clear()  # between the decision and the place
    assert one.place(10) == (None, {}) and one.together
    one.ended("a", 10)
    assert not one.load.under_way["a"]


def test_a_cluster_that_grew_is_not_flooded() -> None:
    there = {"a": 16, "b": 16}
    one = Portions(lambda: sum(there.values()), lambda: there, Load(1))
    one.took(0.1 * 40, 40)
    assert one.size(10_000) > 16 and one.room() > 32 * 4
    there |= {f"more-{i}": 64 for i in range(16)}
    assert one.size(10_000) > 8 and one.room() == 3 * sum(there.values())


def test_it_does_not_go_to_and_fro() -> None:
    one = portions({"a": 16}, Load(1), 1.2)
    one.size(1_000)
    assert one.together
    one.took(3.0 * 2_000, 2_000)
    one.size(1_000)
    assert one.together
    one.took(9.0 * 2_000, 2_000)
    assert one.size(1_000) < 16 and not one.together
    one.took(3.0 * 9_000, 9_000)
    one.size(1_000)
    assert not one.together


def test_large_examples_go_in_small_blocks() -> None:
    one = portions({"a": 64, "b": 64}, Load(1), 0.1)
    assert one.size(10_000) > 200
    one.packed(50_000_000, 50)
    assert one.size(10_000) == 1 and one.room() == 128
    for _ in range(60):
        one.packed(20_000, 10)
    assert 100 < one.size(10_000) <= 500


def test_pairs_that_wait_for_an_endpoint_go_alone() -> None:
    one = Portions(lambda: 64, lambda: {"a": 64}, Load(1), alone=True, fast=True)
    one.took(0.01 * 500, 500)
    assert one.size(10_000) == one.weight(1) == 1 and one.place(1) == (None, {})
