"""What runs in a worker process: attempts at a batch of pairs, and what is said of them in plain values.

Pairs and what came of them travel as bytes: an executor that looks into the arguments and results of its tasks, as Dask
does into every list in them, spends as much CPU on these as scoring them takes.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import pickle
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any

import cloudpickle
import dspy

from tp_dspy.errors import TransferPromptingError
from tp_dspy.scoring.attempts import Attempt, Batch, run_batch
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.parcels import Parcel
from tp_dspy.scoring.throttle import Counts, tallied

__all__ = ["Pairs", "at_worker", "end", "packed", "read_batch", "same"]

logger = logging.getLogger(__name__)

Pairs = Sequence[tuple[dspy.Example, bool]]
"""Examples, and whether the reply to each was empty before."""

_SWITCH_SECONDS = 0.05
_YOUNG_OBJECTS = 10_000
# Pools of runs that have ended, or have no block here for now.
_IDLE_POOLS = 2
# Runs of which a worker remembers whether they are to end.
_REMEMBERED = 256


def same(parcel: Parcel) -> Parcel:
    """Give a program back: a task of a cluster's that others depend on."""
    return parcel


_ends: OrderedDict[str, threading.Event] = OrderedDict()
_ends_lock = threading.Lock()


def _ending_of(token: str) -> threading.Event:
    """In a worker: what is set when a run is to end."""
    with _ends_lock:
        event = _ends.setdefault(token, threading.Event())
        _ends.move_to_end(token)
        while len(_ends) > _REMEMBERED:
            _ends.popitem(last=False)
        return event


def end(token: str) -> None:
    """Have batches of a run make no further attempt in this process."""
    _ending_of(token).set()


def packed(pairs: Pairs) -> bytes:
    """Write pairs down for `at_worker`."""
    return bytes(cloudpickle.dumps(pairs))


def at_worker(parcel: Parcel, pairs: bytes, last: bool, token: str, capacity: int, threads: int = 1) -> bytes:
    """Make attempts, in a process that may never have heard of the program.

    Args:
        parcel: The program.
        pairs: From `packed`.
        last: Whether the pairs are being tried for the last time.
        token: Of the run, see `end`.
        capacity: How many calls the executor makes at once, for a process that does not know its own number.
        threads: How many threads of a Dask worker to make them in, instead of one after the other.

    Returns:
        What `read_batch` reads.
    """
    return pickle.dumps(_made(parcel, pairs, last, token, capacity, threads), pickle.HIGHEST_PROTOCOL)


def _made(parcel: Parcel, pairs: bytes, last: bool, token: str, capacity: int, threads: int) -> tuple[Any, ...]:
    worker = _worker()
    here = None if worker is None else int(worker.state.nthreads)
    try:
        asking = parcel.open(here or capacity)
    except Exception as error:
        return [], _portable(error), 0.0, {}
    # What modules remember of their calls is for whoever looks at them, and here nobody does.
    with dspy.context(max_history_size=1), tallied() as tally, contextlib.ExitStack() as stack:
        more: dict[str, Any] = {}
        if here is not None and threads > 1:
            number = min(threads, here)
            more = {"threads": stack.enter_context(_pool(worker, token, number)), "number": number}
        made = run_batch(asking, pickle.loads(pairs), last=last, ending=_ending_of(token), **more)
    flat = [
        (place, _flags(one), _of_outcome(one.outcome), _of_usage(one.outcome.usage))
        for place, one in made.attempts.items()
    ]
    fatal = None if made.error is None else _portable(made.error)
    return flat, fatal, made.seconds, {name: tuple(vars(counts).values()) for name, counts in dict(tally).items()}


def read_batch(made: bytes) -> Batch:
    """Read what `at_worker` gave."""
    flat, error, seconds, tally = pickle.loads(made)
    attempts = {
        place: Attempt(Outcome(**dict(zip(_OUTCOME, outcome, strict=True)), usage=Usage(*usage)), *flags)
        for place, flags, outcome, usage in flat
    }
    return Batch(attempts, error, seconds, {name: Counts(*counts) for name, counts in tally.items()})


@lru_cache(maxsize=1)
def _tune() -> None:
    """Set this process up for many threads that make short-lived objects; once."""
    # Threads that wait for the interpreter ask for it each time this is over, which with many of them took a tenth of
    # the CPU.
    sys.setswitchinterval(max(sys.getswitchinterval(), _SWITCH_SECONDS))
    # A full collection goes through all that dspy imports, and all threads wait: a tenth of the CPU, and 2 % of the
    # calls. Where collecting is switched off, it stays off.
    youngest, *older = gc.get_threshold()
    if youngest:
        gc.set_threshold(max(youngest, _YOUNG_OBJECTS), *older)
        gc.collect()
        gc.freeze()


@dataclass
class _Pool:
    """Threads, and how many blocks are being run in them."""

    threads: Executor
    blocks: int = 0


# By the run and the worker's address: what hangs in one run holds up no other. The oldest first.
_pools: OrderedDict[tuple[str, str], _Pool] = OrderedDict()
_pools_lock = threading.Lock()


@contextlib.contextmanager
def _pool(worker: Any, token: str, number: int) -> Iterator[Executor]:
    """Give the threads of a run in this worker, for a block."""
    # They do not keep a process from ending, as those of Python's own would, when the LM hangs.
    from distributed.threadpoolexecutor import ThreadPoolExecutor

    with _pools_lock:
        pool = _pools.get((token, worker.address))
        if pool is None:
            made = ThreadPoolExecutor(number, thread_name_prefix="tp_dspy-scorer")
            pool = _pools[token, worker.address] = _Pool(made)
            if worker.nanny:  # The process is the worker's own.
                _tune()
        pool.blocks += 1
    try:
        yield pool.threads
    finally:
        with _pools_lock:
            pool.blocks -= 1
            idle = [key for key, one in _pools.items() if not one.blocks]
            for key in idle[: max(0, len(idle) - _IDLE_POOLS)]:
                _pools.pop(key).threads.shutdown(wait=False)


_OUTCOME = [field.name for field in fields(Outcome) if field.name != "usage"]
_of_outcome = attrgetter(*_OUTCOME)
_of_usage = attrgetter(*(field.name for field in fields(Usage)))
_flags = attrgetter(*(field.name for field in fields(Attempt) if field.name != "outcome"))


def _worker() -> Any | None:
    """Give the Dask worker that this thread works for, if it does."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def _portable(error: BaseException) -> BaseException:
    """Give an error that can be sent: a copy of it, or one that tells of it.

    Without its cause, which distributed sends along, and which may hold what cannot be sent.
    """
    try:
        bare = type(error)(*error.args)
        if type(pickle.loads(pickle.dumps(bare))) is type(error):
            return bare
    except Exception:  # its class takes other arguments, is not known elsewhere, or holds what cannot be sent
        logger.debug("An error cannot be sent.", exc_info=error)
    return TransferPromptingError(f"{type(error).__name__}: {error}")
