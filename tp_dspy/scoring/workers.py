"""Attempts made by other processes: batches are sent off, and what comes of them is handed on.

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
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dspy

from tp_dspy.errors import ConfigurationError, TransferPromptingError, WorkersLostError
from tp_dspy.scoring.at_worker import Pairs, at_worker, end, packed, read_batch, same
from tp_dspy.scoring.attempts import NOT_SENT, Asking, Batch
from tp_dspy.scoring.gate import HaltedError
from tp_dspy.scoring.parcels import pack
from tp_dspy.scoring.portions import Load, Portions
from tp_dspy.scoring.throttle import Throttle, Throttles, until

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Workers"]

logger = logging.getLogger(__name__)

# Seconds between two looks whether the run is to end, and how large the cluster is (so many for each hundred workers).
_TICK, _OFTEN = 0.25, 1.0
# A worker with fewer threads is sent as few messages without blocks.
_MANY_THREADS = 8
# Seconds that are waited for what is under way when something has broken off the rest.
_WIND_UP = 2.0


class Workers:
    """Other processes, by way of an executor that others may use beside.

    Args:
        executor: Runs functions that can be pickled.
        capacity: How many it runs at once; a Dask cluster is asked.
        most: Of these, how many are to be used at most; None for all.
        client: Of a Dask cluster, which keeps programs for all its workers, may grow, and can be told to end.
    """

    def __init__(
        self, executor: Executor, capacity: int, most: int | None = None, client: Client | None = None
    ) -> None:
        self.executor, self.places, self.most, self.client = executor, capacity, most, client
        self.threads: Mapping[str, int] = {}
        """Of each worker of the cluster, by its address."""
        self.fast = False
        """Whether pairs were fast the last time."""

    @contextlib.contextmanager
    def open(self, throttles: Throttles, ending: threading.Event | None, *, ahead: bool = True) -> Iterator[_AtWorkers]:
        """Be ready, see `tp_dspy.scoring.executors.Crew`."""
        with (
            _loading(self.client if self.client is not None else self.executor) as load,
            _AtWorkers(self, load, throttles, ending, ahead=ahead) as opened,
        ):
            yield opened

    def blocks(self) -> Mapping[str, int]:
        """Say what threads each worker has, where all of them may be used: blocks take as many as there are."""
        there = self.threads
        enough = self.most is None or self.most >= sum(there.values())
        return there if enough and all(number >= _MANY_THREADS for number in there.values()) else {}

    @property
    def capacity(self) -> int:
        """How many batches may be under way at once."""
        places = self.places if self.client is None else sum(self.threads.values())
        return places if self.most is None else min(self.most, places)

    def look_again(self) -> None:
        """See how large the cluster is by now."""
        if self.client is None:
            return
        try:
            # Not `scheduler_info`, which the client's own look at the scheduler may have emptied meanwhile.
            workers = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        except Exception as error:  # whatever became of the scheduler, the futures tell
            logger.debug("The cluster does not say how large it is.", exc_info=error)
            return
        before, self.threads = self.threads, {address: int(one["nthreads"]) for address, one in workers.items()}
        if before and not self.threads:
            logger.warning("The cluster has no worker any more; waiting for one.")

    def tell_to_end(self, token: str) -> None:
        """Have batches make no further attempt, where that can be said."""
        if self.client is not None:
            tell = functools.partial(self.client.run, end, token, on_error="ignore", asynchronous=True)
            with contextlib.suppress(Exception):  # then they end by themselves
                self.client.loop.add_callback(tell)


_loads: dict[int, Load] = {}
_loads_lock = threading.Lock()


@contextlib.contextmanager
def _loading(what: object) -> Iterator[Load]:
    """Count among those who use an executor at the moment; gives what it has to do for all of them."""
    with _loads_lock:
        load = _loads.setdefault(id(what), Load())
        load.users += 1
    try:
        yield load
    finally:
        with _loads_lock:
            load.users -= 1
            if not load.users:
                del _loads[id(what)]


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
        self, workers: Workers, load: Load, throttles: Throttles, ending: threading.Event | None, *, ahead: bool
    ) -> None:
        self.workers, self.throttles, self.ending = workers, throttles, ending
        self.portions = Portions(
            lambda: workers.capacity,
            workers.blocks if ahead else dict,
            load,
            alone=throttles.limited,
            fast=workers.fast,
        )
        self.token = uuid.uuid4().hex
        # Of whoever scores: threads of this class would see only what dspy.configure set.
        self.context = contextvars.copy_context()
        self.sent: dict[int, _Sent] = {}
        self.under_way: set[Future[Any]] = set()
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
        self.workers.fast = self.portions.fast
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
        return self.portions.room()

    def size(self, left: int) -> int:
        return self.portions.size(left)

    def weight(self, pairs: Sequence[Any]) -> int:
        return self.portions.weight(len(pairs))

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
            made.set_result(Batch(dict.fromkeys(range(len(pairs)), NOT_SENT)))
            return
        self._send(sent, pairs, last, made, held)

    def _send(self, sent: _Sent, pairs: Pairs, last: bool, made: Future[Batch], held: Mapping[Throttle, float]) -> None:
        with self.changed:
            if self.closed:
                _give_back(held)
                made.cancel()
                return
            # Decided with the size, also where the worker that it was for has gone.
            threads = self.portions.share() if self.portions.together else 1
            place, where = self.portions.place(len(pairs))
            try:
                content = self._packed(pairs)
                arguments = (sent.parcel, content, last, self.token, self.workers.capacity, threads)
                future = self.workers.executor.submit(at_worker, *arguments, **where)
            except Exception as error:  # an executor that is broken or shut down says so here
                future = Future()
                future.set_exception(error)
            self.under_way.add(future)
        future.add_done_callback(lambda done: self.ended.put(lambda: self._take(done, made, held, place, len(pairs))))

    def _packed(self, pairs: Pairs) -> bytes:
        try:
            content = packed(pairs)
        except Exception as error:
            raise ConfigurationError(
                f"An example cannot be sent to workers ({type(error).__name__}: {error}). Make its fields of what can "
                "be pickled."
            ) from error
        self.portions.packed(len(content), len(pairs))
        return content

    def _take(
        self, done: Future[Any], made: Future[Batch], held: Mapping[Throttle, float], place: str | None, pairs: int
    ) -> None:
        """Hand on what came of a batch."""
        self.portions.ended(place, pairs)
        try:
            batch = read_batch(done.result())
        except BaseException as error:  # what an executor raises is its own affair: told to whoever scores
            _give_back(dict.fromkeys(held, 0.0))  # It may have been asked.
            made.set_exception(_lost(error))
        else:
            _give_back(held)
            self.throttles.settle(batch.tally)
            if batch.attempts:
                self.portions.took(batch.seconds, len(batch.attempts))
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
            elif time.monotonic() - looked >= _OFTEN * (1 + len(self.workers.threads) // 100):
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
