"""Phases of one compile that go on at once: one of them acts, while the others wait for an LM."""

from __future__ import annotations

import contextvars
import functools
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from tp_dspy.optimization.events import Event, Listener, OutcomeArrived
from tp_dspy.optimization.ledger import ANOTHER_FAILED, INTERRUPTED, Ledger

__all__ = ["Turns"]

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

# Seconds that a second Ctrl-C waits for what has been paid for and is on its way; batches of workers end in as many.
_WIND_UP = 3.0
# Seconds between two looks whether Ctrl-C was pressed.
_TICK = 0.2


class _AbandonedError(BaseException):
    """Ends a thread that nobody waits for any more; like Ctrl-C it is no `Exception`."""


class Turns:
    """Lets several threads take turns at whatever they share: memory, listeners, files.

    What a phase does between two waits is over in milliseconds; what takes long is an LM, and for that it steps aside.
    So all that is written for one phase holds for many: nothing they share is touched by two at once, and a listener
    hears one event after the other.
    """

    def __init__(self) -> None:
        # No thread can give away another's turn.
        self._turn = threading.RLock()
        # Abandoned: what is on its way is kept, and nobody hears of it; then closed: the rest is nobody's.
        self._over = self._closed = False

    def aside(self, items: Iterable[Item]) -> Generator[Item, None, None]:
        """Iterate, and let others have their turns while the next item is waited for, or the end of a generator.

        To be closed by whoever iterates, who has the turn; the iterable's own code has not. What comes after the phases
        were abandoned is handed on all the same, as it was paid for; the end of it is the end of the phase.
        """
        iterator, end = iter(items), object()
        try:
            while True:
                self._turn.release()
                try:
                    item = next(iterator, end)
                except BaseException:
                    self._take()
                    raise
                self._turn.acquire()
                if item is end or self._closed:
                    self._go_on()
                    return
                yield item  # type: ignore[misc]
        finally:
            if isinstance(iterator, Generator):
                self._turn.release()
                try:
                    iterator.close()
                finally:
                    self._turn.acquire()

    def telling(self, listener: Listener) -> Listener:
        """Make a listener that is told nothing any more once the phases were abandoned; that ends the phase.

        Only of what was scored there may be more to keep.
        """

        def tell(event: Event) -> None:
            if self._over and isinstance(event, OutcomeArrived):
                return
            self._go_on()
            listener(event)

        return tell

    def _take(self) -> None:
        """Have the turn again, to do whatever an error asks for, if anybody still waits for it."""
        self._turn.acquire()
        self._go_on()

    def _go_on(self) -> None:
        if self._over:
            raise _AbandonedError

    def run(self, chains: Sequence[Callable[[], None]], at_once: int, ledger: Ledger) -> None:
        """Run functions in threads of their own, and wait for all.

        The first error halts the others, which end with what they have; then it is raised. Ctrl-C halts them too; once
        more, and nobody is waited for.

        Args:
            chains: What is to be done; begun in this order.
            at_once: How many at once, at least 1.
            ledger: Halts them.
        """
        todo = iter(chains)
        errors: list[BaseException] = []

        def work(ended: Future[None]) -> None:
            try:
                while True:
                    with self._turn:
                        chain = next(todo, None)
                        if chain is None or ledger.halted is not None:
                            return
                        chain()
            except BaseException as error:
                if self._over:
                    return  # Nobody waits for this any more.
                if errors:
                    logger.warning("Another target failed, too: %s: %s", type(error).__name__, error)
                errors.append(error)
                ledger.halt(f"{ANOTHER_FAILED} ({type(error).__name__})")
            finally:
                ended.set_result(None)

        # Not joined: Python 3.11 takes a thread for dead that goes on, where Ctrl-C breaks off a join.
        under_way: list[Future[None]] = []
        try:
            for _ in range(min(at_once, len(chains))):
                ended: Future[None] = Future()
                # A copied context carries dspy.context along.
                run = functools.partial(contextvars.copy_context().run, work, ended)
                threading.Thread(target=run, name="tp_dspy-phase", daemon=True).start()
                under_way.append(ended)
            while self._under_way(under_way, ledger):
                pass
        except BaseException:
            self._abandon(under_way, ledger)
            raise
        if errors:
            raise errors[0]

    def _under_way(self, threads: Sequence[Future[None]], ledger: Ledger) -> bool:
        """Wait a little; say whether any thread goes on."""
        try:
            return bool(wait(threads, timeout=_TICK).not_done)
        except KeyboardInterrupt:
            if ledger.halted is not None:
                raise  # The second one: stop now.
            ledger.halt(INTERRUPTED)
            return True

    def _abandon(self, threads: Sequence[Future[None]], ledger: Ledger) -> None:
        """Have nobody take another turn; what comes while this waits is kept."""
        ledger.halt(INTERRUPTED)
        self._over = True
        wait(threads, timeout=_WIND_UP)
        # Whoever is at it finishes what it writes; who has a turn later ends at once.
        had = self._turn.acquire(timeout=_WIND_UP)
        self._closed = True
        if had:
            self._turn.release()
