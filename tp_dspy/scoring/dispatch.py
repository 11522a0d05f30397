"""Keeping an executor busy: as much under way as it has room for, and the next begun when something ends."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

__all__ = ["Dispatch"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_NOTHING: Any = object()


class Dispatch(Generic[Item, Result]):
    """Runs items on an executor; iterate over it for each item and its future, as they end.

    The next item is asked for when there is room for it: by then it is known what those before it have cost, and
    nothing has to be called back that waits elsewhere. The thread in which something ends begins the next, so that the
    executor never waits for whoever iterates. A million items take no more memory than what is under way and what was
    not fetched yet.

    Args:
        items: What is to be done; their end is the end of all, also where they decide that no further one may begin.
        submit: Begins one.
        room: How much may be under way, at least 1; asked when something ends, as a cluster grows.
        weight: How much of that an item takes, at least 1; asked before it begins. One may take more than is left.
        ended: Told of each that ended, in its thread, before the next begins.

    What one of these functions raises lets nothing further begin, and is raised to whoever iterates, after what had
    ended before.
    """

    def __init__(
        self,
        items: Iterable[Item],
        submit: Callable[[Item], Future[Result]],
        *,
        room: Callable[[], int],
        weight: Callable[[Item], int] = lambda item: 1,
        ended: Callable[[Item, Future[Result]], None] = lambda item, future: None,
    ) -> None:
        self._items = iter(items)
        self._submit, self._room, self._weight, self._ended = submit, room, weight, ended
        self._results: queue.SimpleQueue[tuple[Item, Future[Result]] | BaseException | None] = queue.SimpleQueue()
        # Reentrant, as `close` may be called by what is called while it is held: the items, a collected generator.
        self._lock = threading.RLock()
        self._here = threading.local()
        self._under_way = 0
        self._over = False

    def close(self) -> None:
        """Begin nothing further."""
        with self._lock:
            self._finish()

    def __iter__(self) -> Iterator[tuple[Item, Future[Result]]]:
        self._fill()
        while (found := self._results.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found

    def left(self) -> Iterator[tuple[Item, Future[Result]]]:
        """Give what has ended and was not fetched, without waiting for more."""
        while not self._results.empty():
            found = self._results.get()
            if isinstance(found, tuple):
                yield found

    def _fill(self) -> None:
        """Begin what there is room for."""
        while (begun := self._next()) is not None:
            item, weight, future = begun
            # A future that has ended by now calls back at once, in this thread: this loop goes on anyway.
            self._here.filling = True
            try:
                future.add_done_callback(functools.partial(self._done, item, weight))
            finally:
                self._here.filling = False

    def _next(self) -> tuple[Item, int, Future[Result]] | None:
        """Begin one more, if there is room: in one go, so that after `close` nothing is counted that does not run."""
        with self._lock:
            if self._over or self._under_way >= max(1, self._room()):
                return None
            self._under_way += 1  # Not taken back where something raises: nobody is to say that this was all.
            item = next(self._items, _NOTHING)
            if item is not _NOTHING:
                weight = self._weight(item)
                self._under_way += weight - 1
                return item, weight, self._submit(item)
            self._under_way -= 1
            self._finish()
            return None

    def _done(self, item: Item, weight: int, future: Future[Result]) -> None:
        inline = getattr(self._here, "filling", False)
        try:
            self._ended(item, future)
            self._results.put((item, future))
            with self._lock:
                self._under_way -= weight
                if self._over:
                    self._finish()
            if not inline:
                self._fill()
        except BaseException as error:  # Futures keep to themselves what is raised here.
            with self._lock:
                self._over = True
            self._results.put(error)

    def _finish(self) -> None:
        """Begin nothing further; with nothing under way, say that this was all. The lock is held."""
        self._over = True
        if self._under_way == 0:
            self._results.put(None)
