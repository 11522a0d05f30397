"""How much is sent to other processes at once, and where to."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Load", "Pace", "Portions"]

# A batch costs an executor some milliseconds of CPU (Dask: about 5 in all), as much as scoring a few pairs: so batches
# are to take so long, in seconds, if that many pairs are left; and no longer than this, as what a lost worker had under
# way is paid for again.
_LEAST_SECONDS, _MOST_SECONDS = 0.8, 6.0
_LONGEST = 32
# Where pairs take less than this, it is the messages that all wait for. A block then takes all threads of a worker for
# a second, and for no more than so many pairs each, as the next ones may be slower. It is told from as many pairs as
# there are places: the first to end are the fastest.
_FAST_SECONDS, _BLOCK_SECONDS, _MOST_EACH = 3.0, 1.0, 10
# Threads are not to wait for the slowest pair of a block: workers have pairs at hand for so many more seconds, and so
# many more for each thread. With these, 20,000 pairs (simulated: 4 workers of 64 threads, or 16 of 16 or 64; lognormal
# seconds, sigma 0 to 1) take no longer than with one queue for all threads.
_AHEAD_SECONDS, _AHEAD_EACH = 6.0, 6
# Pairs from which it is told what a pair takes, the last ones.
_WINDOW = 500


@dataclass
class Load:
    """What an executor has to do for all who use it.

    Attributes:
        users: How many score at the moment.
        under_way: Pairs that each worker of a cluster was given in blocks and has not ended.
    """

    users: int = 0
    under_way: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Pace:
    """What a pair takes, told from the last ones.

    Attributes:
        seconds: The mean; None while nothing is known.
        known: From how many pairs, in all.
    """

    seconds: float | None = None
    known: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def took(self, seconds: float, pairs: int) -> None:
        """Learn how many seconds so many pairs took together."""
        with self.lock:
            weight = pairs / (min(_WINDOW, self.known) + pairs)
            self.known += pairs
            self.seconds = (self.seconds or 0.0) * (1.0 - weight) + seconds / pairs * weight


class Portions:
    """Decides what is sent next.

    Batches are run one pair after the other, each by a place of the executor: the next begins when one has ended, which
    keeps all places busy however long a pair takes. Where pairs are fast that is more messages than pairs can be scored
    in the same time: blocks then go to workers that run them in all their threads.

    Args:
        places: Says how many batches the executor runs at once.
        threads: Says how many threads each worker has, by its address; none where there are no blocks.
        load: Of the executor.
        pace: Of earlier pairs, which is kept up to date here.
        limited: Whether each pair has to wait for an endpoint, and therefore is sent alone.
    """

    def __init__(
        self,
        places: Callable[[], int],
        threads: Callable[[], Mapping[str, int]],
        load: Load,
        pace: Pace,
        *,
        limited: bool,
    ) -> None:
        self.places, self.threads, self.load, self.pace, self.limited = places, threads, load, pace, limited
        self.together = False
        """Whether the next portion is a block."""

    def room(self) -> int:
        """Say how much may be under way, by `weight`."""
        users, places = max(1, self.load.users), self.places()
        if not self.together or not self.pace.seconds:
            return max(1, places // users)
        ahead = _AHEAD_EACH + min(_AHEAD_SECONDS / self.pace.seconds, 6 * _MOST_EACH)
        return max(1, int(places * (1 + ahead)) // users)

    def size(self, left: int) -> int:
        """Say how many pairs to send next at most, of so many that are left, and decide how."""
        there, seconds = self.threads(), self.pace.seconds
        if self.limited or not seconds or (there and self.pace.known < self.places()):
            return 1
        self.together = bool(there) and seconds < _FAST_SECONDS
        if self.together:
            each = sum(there.values()) / len(there)
            whole = each * min(_MOST_EACH, _BLOCK_SECONDS / seconds) / max(1, self.load.users)
            # The last ones are to end together.
            return max(1, round(min(whole, max(left / (6 * len(there)), each / 4))))
        room = self.room()
        # Here too: of what is left for a place, a batch takes half.
        fair = max(left / (2 * room), min(_LEAST_SECONDS / seconds, left / room))
        return max(1, math.ceil(min(_LONGEST, _MOST_SECONDS / seconds, fair) - 0.5))

    def weight(self, pairs: int) -> int:
        """Say how much of the room the next portion takes."""
        return pairs if self.together else 1

    def place(self, pairs: int) -> tuple[str | None, Mapping[str, Any]]:
        """Choose the worker for a block: the one that has least to do for each of its threads.

        Returns:
            Its address, None for whichever is free; and with what arguments the portion is submitted.
        """
        if not self.together:
            return None, {}
        there = self.threads()
        with self.load.lock:
            found = min(there, key=lambda one: self.load.under_way[one] / there[one], default=None)
            if found is None:
                return None, {}
            self.load.under_way[found] += pairs
        return found, {"workers": [found], "allow_other_workers": True}  # Another one, where it is lost.

    def ended(self, place: str | None, pairs: int) -> None:
        """Take note that a worker has no longer to do with a block."""
        if place is not None:
            with self.load.lock:
                self.load.under_way[place] -= pairs
