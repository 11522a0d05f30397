"""Ctrl-C during a compile: once to end with the best so far, twice to stop now."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from tp_dspy.optimization.ledger import INTERRUPTED, Ledger

__all__ = ["graceful_interrupt"]

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def graceful_interrupt(ledger: Ledger) -> Iterator[None]:
    """Turn the first Ctrl-C of a block into a halt: nothing further begins, and what is under way is kept.

    The second raises KeyboardInterrupt, as the first would without this. A handler of the user's own stays, and so does
    everything outside the main thread, where Python lets nobody listen.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return

    def halt(number: int, frame: FrameType | None) -> None:
        if ledger.halted is not None:
            signal.default_int_handler(number, frame)
        ledger.halt(INTERRUPTED)
        logger.warning(
            "Interrupted: waiting for the calls under way, then ending with the best so far. Again: stop now."
        )

    signal.signal(signal.SIGINT, halt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
