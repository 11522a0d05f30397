"""What keeps an executor busy."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from tp_dspy.scoring.dispatch import Dispatch


class AtOnce(Executor):
    """Has ended before it gives the future."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **more))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=8) as made:
        yield made


def test_every_item_is_done_and_no_more_at_once_than_there_is_room_for(pool: ThreadPoolExecutor) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work(item: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.001)
        with lock:
            now -= 1
        return item * item

    dispatch = Dispatch(range(300), lambda item: pool.submit(work, item), room=lambda: 5)
    assert {item: future.result() for item, future in dispatch} == {item: item * item for item in range(300)}
    assert most == 5


def test_a_place_is_taken_again_before_anybody_fetches_what_ended(pool: ThreadPoolExecutor) -> None:
    began = threading.Semaphore(0)
    dispatch = Dispatch(range(20), lambda item: pool.submit(began.release), room=lambda: 2)
    found = iter(dispatch)
    next(found)
    assert all(began.acquire(timeout=10) for _ in range(20)), "all have begun, though one was fetched"
    assert sum(1 for _ in found) == 19


def test_what_ends_at_once_takes_no_stack() -> None:
    executor = AtOnce()
    dispatch = Dispatch(range(20_000), lambda item: executor.submit(abs, item), room=lambda: 3)
    assert sum(future.result() for _, future in dispatch) == sum(range(20_000))


def test_nothing_to_do_ends_at_once(pool: ThreadPoolExecutor) -> None:
    assert list(Dispatch([], lambda item: pool.submit(abs, item), room=lambda: 2)) == []


def test_room_that_grows_is_used(pool: ThreadPoolExecutor) -> None:
    room, open_ = 1, threading.Event()
    under_way: list[int] = []

    def work(item: int) -> None:
        under_way.append(item)
        if item:
            open_.wait(10)

    def ended(item: int, future: Future[None]) -> None:
        nonlocal room
        room = 4

    dispatch = Dispatch(range(5), lambda item: pool.submit(work, item), room=lambda: room, ended=ended)
    found = iter(dispatch)
    assert next(found)[0] == 0
    deadline = time.monotonic() + 10
    while len(under_way) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(under_way) == 5
    open_.set()
    assert len(list(found)) == 4


def test_items_may_end_when_it_is_known_what_those_before_have_cost(pool: ThreadPoolExecutor) -> None:
    spent: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            if sum(spent) >= 6:
                return
            yield number

    dispatch = Dispatch(
        items(), lambda item: pool.submit(abs, item), room=lambda: 1, ended=lambda item, future: spent.append(item)
    )
    assert [item for item, _ in dispatch] == [0, 1, 2, 3]


@pytest.mark.parametrize("executor", ["threads", "at once"])
def test_an_error_in_what_is_told_ends_it_after_what_had_ended_before(executor: str, pool: ThreadPoolExecutor) -> None:
    runs = AtOnce() if executor == "at once" else pool
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 3:
            raise ValueError("enough")

    dispatch = Dispatch(
        range(50),
        lambda item: runs.submit(work, item),
        room=lambda: 1,
        ended=lambda item, future: future.result(),
    )
    fetched: list[int] = []
    with pytest.raises(ValueError, match="enough"):
        for item, _ in dispatch:
            fetched.append(item)
            time.sleep(0.02)
    assert begun == [0, 1, 2, 3] and fetched == [0, 1, 2]


def test_what_was_not_fetched_can_be_asked_for(pool: ThreadPoolExecutor) -> None:
    dispatch = Dispatch(range(6), lambda item: pool.submit(abs, item), room=lambda: 2)
    found = [next(iter(dispatch))[0]]
    deadline = time.monotonic() + 10
    while len(found) < 6 and time.monotonic() < deadline:
        found += [item for item, _ in dispatch.left()]
    assert sorted(found) == list(range(6))


@pytest.mark.parametrize("threads", [1, 4])
def test_after_it_is_closed_nothing_is_counted_that_does_not_run(threads: int) -> None:
    pool = ThreadPoolExecutor(max_workers=threads)
    counted, ran = itertools.count(), itertools.count()

    def items() -> Iterator[int]:
        for number in range(1000):
            next(counted)
            time.sleep(0.002)
            yield number

    dispatch = Dispatch(items(), lambda item: pool.submit(next, ran), room=lambda: threads)
    found = iter(dispatch)
    next(found)
    dispatch.close()
    pool.shutdown(wait=False)
    time.sleep(0.1)
    assert next(counted) == next(ran) < 1000


def test_it_may_be_closed_from_anywhere(pool: ThreadPoolExecutor) -> None:
    def items() -> Iterator[int]:
        for number in range(10):
            if number == 4:
                dispatch.close()
            yield number

    dispatch = Dispatch(items(), lambda item: pool.submit(abs, item), room=lambda: 2)
    assert sorted(item for item, _ in dispatch) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("where", ["ended", "submit", "items", "room"])
@pytest.mark.parametrize("room", [1, 4])
def test_an_error_of_the_driver_is_raised_to_whoever_iterates_and_nothing_more_begins(
    where: str, room: int, pool: ThreadPoolExecutor
) -> None:
    calls, begun = itertools.count(), itertools.count()

    def fails() -> None:
        if next(calls) == 8:
            raise RuntimeError("driver")

    def items() -> Iterator[int]:
        for number in range(300):
            if where == "items":
                fails()
            yield number

    def submit(item: int) -> Future[None]:
        if where == "submit":
            fails()
        next(begun)
        return pool.submit(time.sleep, 0.003)

    dispatch = Dispatch(
        items(),
        submit,
        room=lambda: (fails() if where == "room" else None) or room,
        ended=lambda item, future: fails() if where == "ended" else None,
    )
    with pytest.raises(RuntimeError, match="driver"):
        for _ in dispatch:
            time.sleep(0.01)
    assert next(begun) < 300 / 2


def test_a_future_that_was_cancelled_is_no_silence(pool: ThreadPoolExecutor) -> None:
    def submit(item: int) -> Future[int]:
        future: Future[int] = Future()
        if item == 2:
            future.cancel()
        else:
            future.set_result(item)
        return future

    with pytest.raises(CancelledError):
        [future.result() for _, future in Dispatch(range(5), submit, room=lambda: 1)]


def test_nothing_is_an_item_like_any_other(pool: ThreadPoolExecutor) -> None:
    dispatch = Dispatch([1, None, 2], lambda item: pool.submit(repr, item), room=lambda: 1)
    assert [item for item, _ in dispatch] == [1, None, 2]
