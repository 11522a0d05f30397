"""Where attempts are made: threads of this process, or whatever has the interface of `concurrent.futures.Executor`."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import dspy

from tp_dspy.errors import ConfigurationError
from tp_dspy.scoring.at_worker import Pairs
from tp_dspy.scoring.attempts import Asking, Batch, run_batch
from tp_dspy.scoring.clusters import DaskExecutor, connected, kept, local, wait_for_worker
from tp_dspy.scoring.throttle import Throttles
from tp_dspy.scoring.workers import Workers

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Crew", "Opened", "Pairs", "Threads", "Workers", "crew"]


class Opened(Protocol):
    """A crew at work."""

    def submit(self, asking: Asking, pairs: Pairs, last: bool) -> Future[Batch]:
        """Begin a batch."""
        ...

    def room(self) -> int:
        """Say how much may be under way."""
        ...

    def size(self, left: int) -> int:
        """Say how many pairs the next batch is to have at most, of so many that are left."""
        ...

    def weight(self, pairs: Sequence[Any]) -> int:
        """Say how much of the room a batch takes."""
        ...

    def wind_up(self) -> None:
        """Have what is under way end soon, where it can be told to, and wait for it a little."""
        ...


class Crew(Protocol):
    """Makes attempts."""

    def open(
        self, throttles: Throttles, ending: threading.Event | None, *, ahead: bool = True
    ) -> contextlib.AbstractContextManager[Opened]:
        """Be ready until the block ends; what is under way then ends by itself, or is cancelled.

        Args:
            throttles: What the endpoints may be asked for.
            ending: Set when no further call is to begin.
            ahead: Whether workers may have pairs at hand that are not to begin at once.
        """
        ...


class Threads:
    """Threads of this process.

    Args:
        number: How many, which are as many calls at once.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._lock = threading.Lock()
        self._pools: dict[object, _Pool] = {}

    @contextlib.contextmanager
    def open(self, throttles: Throttles, ending: threading.Event | None, *, ahead: bool = True) -> Iterator[Opened]:
        """See `Crew`; the LMs are governed, so nothing is left to do with the throttles.

        Those who are at work for one run at the same time have the same threads: a program that is not to run in more
        of them at once never does. Another run does not wait for what hangs in this one.
        """
        run = ending if ending is not None else object()
        with self._lock:
            pool = self._pools.get(run)
            if pool is None:
                made = ThreadPoolExecutor(self.number, thread_name_prefix="tp_dspy-scorer")
                pool = self._pools[run] = _Pool(made)
            pool.users += 1
        try:
            yield _InThreads(pool.threads, self.number, lambda: pool.users, ending)
        finally:
            with self._lock:
                pool.users -= 1
                if not pool.users:
                    pool.threads.shutdown(wait=False)
                    del self._pools[run]


@dataclass
class _Pool:
    """Threads, and how many are at work with them."""

    threads: ThreadPoolExecutor
    users: int = 0


class _InThreads:
    def __init__(
        self, pool: ThreadPoolExecutor, number: int, share: Callable[[], int], ending: threading.Event | None
    ) -> None:
        self.pool, self.number, self.share, self.ending = pool, number, share, ending
        # Plain threads see only what dspy.configure set; a copied context carries dspy.context along.
        self.context = contextvars.copy_context()

    def submit(self, asking: Asking, pairs: Pairs, last: bool) -> Future[Batch]:
        run = functools.partial(run_batch, asking, pairs, last=last, ending=self.ending)
        return self.pool.submit(self.context.copy().run, run)

    def room(self) -> int:
        # Rounded up: what there is no thread for waits for one.
        return math.ceil(self.number / max(1, self.share()))

    def size(self, left: int) -> int:
        return 1

    def weight(self, pairs: Sequence[Any]) -> int:
        return 1

    def wind_up(self) -> None:
        """Wait for nothing: a call that is under way cannot be told to end."""


def crew(executor: Any, num_threads: int | None) -> Crew:
    """Find out where attempts are to be made.

    Args:
        executor: None for threads of this process; "dask" for worker processes on this machine;
            "dask://host:port" for a cluster; a ``distributed.Client``; any other `concurrent.futures.Executor`; or
            what this function gave before.
        num_threads: Concurrent calls, at least 1. None for DSPy's setting with threads and "dask", and for all that
            there is with a cluster.

    Raises:
        ConfigurationError: If it is something else, or a cluster cannot be reached or has no worker.
        MissingDependencyError: If it is a cluster, and distributed is not installed.
    """
    if isinstance(executor, Threads | Workers):
        return executor
    if executor is None:
        return Threads(num_threads or dspy.settings.num_threads)
    if isinstance(executor, str):
        if executor == "dask":
            threads = num_threads or dspy.settings.num_threads
            return _of_client(kept(f"{threads} here", lambda: local(threads)), num_threads)
        if executor.startswith("dask://"):
            address = executor.removeprefix("dask://")
            return _of_client(kept(address, lambda: connected(address)), num_threads)
    elif type(executor).__name__ == "Client" and hasattr(executor, "get_executor"):
        return _of_client(executor, num_threads)
    elif isinstance(executor, Executor):
        number = num_threads or getattr(executor, "_max_workers", None)
        if not isinstance(number, int):
            raise ConfigurationError(
                f"{type(executor).__name__} does not say how many calls it makes at once: give num_threads."
            )
        return Workers(executor, number)
    raise ConfigurationError(
        f"executor is {executor!r}; expected None, 'dask', 'dask://host:port', a distributed.Client, or a "
        "concurrent.futures.Executor."
    )


def _of_client(client: Client, most: int | None) -> Workers:
    wait_for_worker(client)
    made = Workers(DaskExecutor(client), 0, most, client)
    made.look_again()
    return made
