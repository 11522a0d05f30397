"""What runs in a worker process: attempts at a batch of pairs, and what is said of them in plain values."""

from __future__ import annotations

import logging
import pickle
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import dspy

from tp_dspy.errors import TransferPromptingError
from tp_dspy.scoring.attempts import Attempt, Batch, run_batch
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.parcels import Parcel
from tp_dspy.scoring.throttle import Counts, tallied

__all__ = ["Pairs", "at_worker", "end", "read_batch", "same"]

logger = logging.getLogger(__name__)

Pairs = Sequence[tuple[dspy.Example, bool]]
"""Examples, and whether the reply to each was empty before."""

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


def at_worker(parcel: Parcel, pairs: Pairs, last: bool, token: str, capacity: int) -> tuple[Any, ...]:
    """Make attempts, in a process that may never have heard of the program; gives plain values, see `read_batch`."""
    try:
        asking = parcel.open(_threads_here() or capacity)
    except Exception as error:
        return [], _portable(error), 0.0, {}
    # What modules remember of their calls is for whoever looks at them, and here nobody does.
    with dspy.context(max_history_size=1), tallied() as tally:
        made = run_batch(asking, pairs, last=last, ending=_ending_of(token))
    flat = [(_flags(one), _of_outcome(one.outcome), _of_usage(one.outcome.usage)) for one in made.attempts]
    fatal = None if made.error is None else _portable(made.error)
    return flat, fatal, made.seconds, {name: tuple(vars(counts).values()) for name, counts in tally.items()}


def read_batch(flat: Any, error: BaseException | None, seconds: float, tally: Mapping[str, Any]) -> Batch:
    """Read what `at_worker` gave."""
    attempts = [
        Attempt(Outcome(**dict(zip(_OUTCOME, outcome, strict=True)), usage=Usage(*usage)), *flags)
        for flags, outcome, usage in flat
    ]
    return Batch(attempts, error, seconds, {name: Counts(*counts) for name, counts in tally.items()})


_OUTCOME = [field.name for field in fields(Outcome) if field.name != "usage"]
_of_outcome = attrgetter(*_OUTCOME)
_of_usage = attrgetter(*(field.name for field in fields(Usage)))
_flags = attrgetter(*(field.name for field in fields(Attempt) if field.name != "outcome"))


def _threads_here() -> int | None:
    """Say how many batches this process works at, if it is a Dask worker."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return int(get_worker().state.nthreads)
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
