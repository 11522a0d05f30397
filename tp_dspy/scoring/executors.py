"""Where attempts are made: threads of this process, or whatever has the interface of `concurrent.futures.Executor`.

Of a Dask cluster a program is sent to the scheduler once, and each worker that needs it fetches it once. Other
executors get it with each batch, and open it once in each process. Whatever ends is handed on by a thread of its own
here, so that no event loop waits for what a scorer does next.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib.metadata
import logging
import math
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import dspy

from tp_dspy.errors import ConfigurationError, TransferPromptingError, WorkersLostError
from tp_dspy.scoring.at_worker import Pairs, at_worker, end, read_batch, same
from tp_dspy.scoring.attempts import NOT_SENT, Asking, Batch, run_batch
from tp_dspy.scoring.clusters import DaskExecutor, connected, kept, local, wait_for_worker
from tp_dspy.scoring.gate import HaltedError
from tp_dspy.scoring.parcels import pack
from tp_dspy.scoring.throttle import Throttle, Throttles, until

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Crew", "Opened", "Pairs", "Threads", "Workers", "crew"]

logger = logging.getLogger(__name__)

# A batch costs the executor some milliseconds of CPU (Dask: about 5 in all), as much as scoring a few pairs: so batches
# are to take so long, in seconds, if that many pairs are left; and no longer than this, as what a lost worker had under
# way is paid for again.
_LEAST_SECONDS, _MOST_SECONDS = 0.8, 6.0
_LONGEST = 32
# Seconds between two looks whether the run is to end, and how large the cluster is.
_TICK, _OFTEN = 0.25, 1.0
# Seconds that are waited for what is under way when something has broken off the rest.
_WIND_UP = 2.0


class Opened(Protocol):
    """A crew at work."""

    def submit(self, asking: Asking, pairs: Pairs, last: bool) -> Future[Batch]:
        """Begin a batch."""
        ...

    def room(self) -> int:
        """Say how many batches may be under way."""
        ...

    def size(self, left: int) -> int:
        """Say how many pairs the next batch is to have at most, of so many that are left."""
        ...

    def wind_up(self) -> None:
        """Have what is under way end soon, where it can be told to, and wait for it a little."""
        ...


class Crew(Protocol):
    """Makes attempts."""

    def open(self, throttles: Throttles, ending: threading.Event | None) -> contextlib.AbstractContextManager[Opened]:
        """Be ready until the block ends; what is under way then ends by itself, or is cancelled.

        Args:
            throttles: What the endpoints may be asked for.
            ending: Set when no further call is to begin.
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
    def open(self, throttles: Throttles, ending: threading.Event | None) -> Iterator[Opened]:
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

    def wind_up(self) -> None:
        """Wait for nothing: a call that is under way cannot be told to end."""


class Workers:
    """Other processes, by way of an executor that others may use beside.

    Args:
        executor: Runs functions that can be pickled.
        capacity: How many it runs at once; of a Dask cluster, for now.
        most: Of these, how many are to be used at most; None for all.
        client: Of a Dask cluster, which keeps programs for all its workers, may grow, and can be told to end.
    """

    def __init__(
        self, executor: Executor, capacity: int, most: int | None = None, client: Client | None = None
    ) -> None:
        self.executor, self.capacity, self.most, self.client = executor, capacity, most, client

    @contextlib.contextmanager
    def open(self, throttles: Throttles, ending: threading.Event | None) -> Iterator[Opened]:
        """See `Crew`."""
        with (
            _sharing(self.client if self.client is not None else self.executor) as share,
            _AtWorkers(self, share, throttles, ending) as opened,
        ):
            yield opened

    def look_again(self) -> None:
        """See how large the cluster is by now."""
        if self.client is None:
            return
        try:
            before, self.capacity = self.capacity, int(self.client.scheduler_info(n_workers=0)["total_threads"])
        except Exception as error:  # whatever became of the scheduler, the futures tell
            logger.debug("The cluster does not say how large it is.", exc_info=error)
            return
        if before and not self.capacity:
            logger.warning("The cluster has no worker any more; waiting for one.")

    def tell_to_end(self, token: str) -> None:
        """Have batches make no further attempt, where that can be said."""
        if self.client is not None:
            tell = functools.partial(self.client.run, end, token, on_error="ignore", asynchronous=True)
            with contextlib.suppress(Exception):  # then they end by themselves
                self.client.loop.add_callback(tell)


_shares: dict[int, int] = {}
_shares_lock = threading.Lock()


@contextlib.contextmanager
def _sharing(what: object) -> Iterator[Callable[[], int]]:
    """Count who uses an executor at the moment; gives how many there are."""
    with _shares_lock:
        _shares[id(what)] = _shares.get(id(what), 0) + 1
    try:
        yield lambda: _shares.get(id(what), 1)
    finally:
        with _shares_lock:
            _shares[id(what)] -= 1
            if not _shares[id(what)]:
                del _shares[id(what)]


@dataclass(frozen=True)
class _Sent:
    """A program on its way.

    Attributes:
        asking: With the original, whose id would else be given to another.
        parcel: A `Parcel`, or a future of one.
        limits: The throttles of its endpoints that the user has set limits of.
    """

    asking: Asking
    parcel: Any
    limits: Sequence[Throttle]


class _AtWorkers:
    """Sends batches off, and hands on what came of them.

    What an executor calls back may be an event loop's thread, and what a scorer does next may wait: a thread of its own
    lies between them. Where the user set limits, another one waits for the endpoints before it sends a batch, of one
    pair then. A third looks whether the run is to end, and how large the cluster is.
    """

    def __init__(
        self, workers: Workers, share: Callable[[], int], throttles: Throttles, ending: threading.Event | None
    ) -> None:
        self.workers, self.share, self.throttles, self.ending = workers, share, throttles, ending
        self.token = uuid.uuid4().hex
        # Of whoever scores: threads of this class would see only what dspy.configure set.
        self.context = contextvars.copy_context()
        self.sent: dict[int, _Sent] = {}
        self.under_way: set[Future[Any]] = set()
        self.seconds: float | None = None
        self.requests = 1.0
        self.closed = False
        self.stopping = threading.Event()
        self.changed = threading.Condition()
        self.ended: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.limited = throttles.limited

    def __enter__(self) -> _AtWorkers:
        todo: list[tuple[str, Callable[[], None]]] = [
            ("tp_dspy-workers", functools.partial(_work, self.ended)),
            ("tp_dspy-watch", self._watch),
        ]
        if self.limited:
            todo.append(("tp_dspy-limits", functools.partial(_work, self.waiting)))
        for name, task in todo:
            threading.Thread(target=task, name=name, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        with self.changed:
            self.closed = True
            under_way = list(self.under_way)
        self.stopping.set()
        for future in under_way:
            future.cancel()
        self.sent.clear()
        self.waiting.put(None)
        self._end_if_over()

    def wind_up(self) -> None:
        """Have batches end after the pair that they are at, so that what they have paid for is known."""
        if not self.under_way:
            return
        self.stopping.set()
        self.workers.tell_to_end(self.token)
        with self.changed:
            self.changed.wait_for(lambda: not self.under_way, _WIND_UP)

    def room(self) -> int:
        capacity = self.workers.capacity
        if self.workers.most is not None:
            capacity = min(capacity, self.workers.most)
        return max(1, capacity // max(1, self.share()))

    def size(self, left: int) -> int:
        if self.limited or not self.seconds:
            return 1
        room = self.room()
        # The last ones are to end together: of what is left for a place, a batch takes half.
        fair = max(left / (2 * room), min(_LEAST_SECONDS / self.seconds, left / room))
        return max(1, math.ceil(min(_LONGEST, _MOST_SECONDS / self.seconds, fair) - 0.5))

    def submit(self, asking: Asking, pairs: Pairs, last: bool) -> Future[Batch]:
        sent = self.sent.get(id(asking))
        if sent is None:
            sent = self.sent[id(asking)] = self.context.copy().run(self._pack, asking)
        made: Future[Batch] = Future()
        if not sent.limits:
            self._send(sent, pairs, last, made, {})
        else:
            self.waiting.put(functools.partial(self._wait, sent, pairs, last, made))
        return made

    def _pack(self, asking: Asking) -> _Sent:
        parcel: Any = pack(asking)
        if self.workers.client is not None:
            # Kept by the scheduler, which makes it again where the worker that had it is lost.
            parcel = self.workers.client.submit(same, parcel, key=f"tp_dspy-{parcel.key}", pure=True)
        lms = [p.lm or asking.settings.get("lm") for _, p in asking.program.named_sub_modules(dspy.Predict)]
        throttles = dict.fromkeys(self.throttles.of(lm) for lm in lms if lm is not None)
        # In one order for all: two that hold a place each would else wait for each other.
        limits = sorted((throttle for throttle in throttles if throttle.limited), key=lambda throttle: throttle.name)
        # A call of each predictor for each run, until it is known better.
        self.requests = max(self.requests, float(len(lms) * asking.objective.runs))
        return _Sent(asking, parcel, limits)

    def _wait(self, sent: _Sent, pairs: Pairs, last: bool, made: Future[Batch]) -> None:
        """Wait for the endpoints, then send."""
        held: dict[Throttle, float] = {}
        try:
            with until(self.stopping):
                for throttle in sent.limits:
                    throttle.take(self.requests)
                    held[throttle] = self.requests
        except HaltedError:
            _give_back(held)
            made.set_result(Batch([NOT_SENT for _ in pairs]))
            return
        self._send(sent, pairs, last, made, held)

    def _send(self, sent: _Sent, pairs: Pairs, last: bool, made: Future[Batch], held: Mapping[Throttle, float]) -> None:
        with self.changed:
            if self.closed:
                _give_back(held)
                made.cancel()
                return
            arguments = (sent.parcel, pairs, last, self.token, self.workers.capacity)
            try:
                future = self.workers.executor.submit(at_worker, *arguments)
            except Exception as error:  # an executor that is broken or shut down says so here
                future = Future()
                future.set_exception(error)
            self.under_way.add(future)
        future.add_done_callback(lambda done: self.ended.put(lambda: self._take(done, made, held)))

    def _take(self, done: Future[Any], made: Future[Batch], held: Mapping[Throttle, float]) -> None:
        """Hand on what came of a batch."""
        try:
            batch = read_batch(*done.result())
        except BaseException as error:  # what an executor raises is its own affair: told to whoever scores
            _give_back(dict.fromkeys(held, 0.0))  # It may have been asked.
            made.set_exception(_lost(error))
        else:
            _give_back(held)
            self.throttles.settle(batch.tally)
            if batch.attempts:
                each = batch.seconds / len(batch.attempts)
                self.seconds = each if self.seconds is None else 0.9 * self.seconds + 0.1 * each
                requests = max((counts.requests for counts in batch.tally.values()), default=0) / len(batch.attempts)
                self.requests = max(1.0, 0.9 * self.requests + 0.1 * requests)
            made.set_result(batch)
        with self.changed:
            self.under_way.discard(done)
            self.changed.notify_all()
        self._end_if_over()

    def _end_if_over(self) -> None:
        with self.changed:
            if self.closed and not self.under_way:
                self.ended.put(None)

    def _watch(self) -> None:
        """Look whether the run is to end, and how large the cluster is."""
        looked = time.monotonic()
        while not self.stopping.wait(_TICK):
            if self.ending is not None and self.ending.is_set():
                self.stopping.set()
                self.workers.tell_to_end(self.token)
                if not self.workers.capacity:  # Nobody is there who would begin them.
                    for future in list(self.under_way):
                        future.cancel()
            elif time.monotonic() - looked >= _OFTEN:
                self.workers.look_again()
                looked = time.monotonic()


def _give_back(held: Mapping[Throttle, float]) -> None:
    for throttle, requests in held.items():
        throttle.give_back(requests)


def _work(what: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (task := what.get()) is not None:
        task()


def _lost(error: BaseException) -> BaseException:
    """Say what to do about an error of the executor, not of what it ran."""
    if isinstance(error, TransferPromptingError):
        return error
    name = type(error).__name__
    if isinstance(error, CancelledError | BrokenExecutor) or name in ("KilledWorker", "FutureCancelledError"):
        lost = WorkersLostError(
            f"Workers were lost while they scored ({name}: {error}). Start them anew, with more memory if that was it, "
            "and make the same call again: what the journal of the run_dir knows is not paid for again."
        )
    else:
        lost = WorkersLostError(
            f"A batch could not be run by a worker ({name}: {error}). Python, tp_dspy {_version()} and all that the "
            "program imports must be installed there."
        )
    lost.__cause__ = error
    return lost


def _version() -> str:
    return importlib.metadata.version("tp_dspy")


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
