"""Phases of one compile that go on at once: one of them acts, while the others wait for an LM."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

from tp_dspy.optimization.events import Event, Listener
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
        self._turn = threading.Lock()
        self._over = False

    def aside(self, items: Iterable[Item]) -> Generator[Item, None, None]:
        """Iterate, and let others have their turns while the next item is waited for, or the end of a generator.

        Whoever iterates has the turn; the iterable's own code has not. What comes after the phase was abandoned is
        handed on once more, as it was paid for.
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
                if item is not end:
                    yield item  # type: ignore[misc]
                self._go_on()
                if item is end:
                    return
        finally:
            if isinstance(iterator, Generator):
                self._turn.release()
                try:
                    iterator.close()
                finally:
                    self._turn.acquire()

    def telling(self, listener: Listener) -> Listener:
        """Make a listener that is told nothing any more once the phases were abandoned; that ends the phase."""

        def tell(event: Event) -> None:
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

        def work() -> None:
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

        threads = [
            # A copied context carries dspy.context along.
            threading.Thread(target=contextvars.copy_context().run, args=(work,), name="tp_dspy-phase", daemon=True)
            for _ in range(min(at_once, len(chains)))
        ]
        try:
            for thread in threads:
                thread.start()
            while self._under_way(threads, ledger):
                pass
        except BaseException:
            self._abandon(threads, ledger)
            raise
        if errors:
            raise errors[0]

    def _under_way(self, threads: Sequence[threading.Thread], ledger: Ledger) -> bool:
        """Wait a little; say whether any thread goes on."""
        try:
            for thread in threads:
                thread.join(_TICK)
            return any(thread.is_alive() for thread in threads)
        except KeyboardInterrupt:
            if ledger.halted is not None:
                raise  # The second one: stop now.
            ledger.halt(INTERRUPTED)
            return True

    def _abandon(self, threads: Sequence[threading.Thread], ledger: Ledger) -> None:
        """Have nobody take another turn; what comes while this waits is kept."""
        ledger.halt(INTERRUPTED)
        self._over = True
        until = time.monotonic() + _WIND_UP
        for thread in threads:
            if thread.ident is not None:  # It was started.
                thread.join(max(0.0, until - time.monotonic()))
        # Whoever is at it finishes what it writes; who has a turn later ends at once.
        if self._turn.acquire(timeout=_WIND_UP):
            self._turn.release()
