"""How much is sent to other processes at once, and where to."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Load", "Portions"]

# A batch costs an executor some milliseconds of CPU (Dask: about 5 in all), as much as scoring a few pairs: so batches
# are to take so long, in seconds, if that many pairs are left; and no longer than this, as what a lost worker had under
# way is paid for again.
_LEAST_SECONDS, _MOST_SECONDS = 0.8, 6.0
_LONGEST = 32
# Where pairs take less than this, it is the messages that all wait for, until they take more than the other. A block
# then takes all threads of a worker for a second, and for no more than so many pairs each, as the next ones may be
# slower; and no more than so many bytes.
_FAST_SECONDS, _SLOW_SECONDS = 1.5, 4.5
_BLOCK_SECONDS, _MOST_EACH = 2.0, 10
_MOST_BYTES, _MOST_BYTES_UNDER_WAY = 1_000_000, 100_000_000
# Threads are not to wait for the slowest pair of a block: workers have pairs at hand for so many more seconds, and so
# many more for each thread. With these, 20,000 pairs (simulated: 4 workers of 64 threads, or 16 of 16 or 64; lognormal
# seconds of mean 0.05 to 5, sigma 0 to 1) take at most 1.07 times as long as with one queue for all threads.
_AHEAD_SECONDS, _AHEAD_EACH = 5.0, 6
# Until it is told what a pair takes.
_AHEAD_UNSURE = 2
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


class Portions:
    """Decides what is sent next.

    Batches are run one pair after the other, each by a place of the executor: the next begins when one has ended, which
    keeps all places busy however long a pair takes. Where pairs are fast that is more messages than pairs can be scored
    in the same time: blocks then go to workers that run them in all their threads. That is told from as many pairs as
    there are places, as the first to end are the fastest; where those before were fast, from small blocks.

    Args:
        places: Says how many batches the executor runs at once.
        threads: Says how many threads each worker has, by its address; none where there are no blocks.
        load: Of the executor.
        alone: Whether each pair is sent alone, as it has to wait for an endpoint.
        fast: Whether those scored before were.
    """

    def __init__(
        self,
        places: Callable[[], int],
        threads: Callable[[], Mapping[str, int]],
        load: Load,
        *,
        alone: bool = False,
        fast: bool = False,
    ) -> None:
        self.places, self.threads, self.load, self.alone, self.fast = places, threads, load, alone, fast
        self.together = False
        """Whether the next portion is a block."""
        self.seconds: float | None = None
        """What a pair takes, as the mean of the last ones."""
        self._known = 0
        self._bytes = 0.0

    def room(self) -> int:
        """Say how much may be under way, by `weight`."""
        share = max(1, self.places() // max(1, self.load.users))
        if not self.together:
            return share
        if not self.seconds or not self._sure():
            return share * (1 + _AHEAD_UNSURE)
        most = share * (1 + _AHEAD_EACH + min(_AHEAD_SECONDS / self.seconds, 4 * _MOST_EACH))
        return max(share, int(min(most, _MOST_BYTES_UNDER_WAY / max(1.0, self._bytes))))

    def _sure(self) -> bool:
        return self._known >= self.places()

    def size(self, left: int) -> int:
        """Say how many pairs to send next at most, of so many that are left, and decide how."""
        there = {} if self.alone else self.threads()
        if there and self._sure():
            assert self.seconds is not None
            self.fast = self.seconds < (_SLOW_SECONDS if self.together else _FAST_SECONDS)
        self.together = bool(there) and self.fast
        if self.together:
            each = sum(there.values()) / len(there)
            some = each / 4
            if self._sure() and self.seconds:
                whole = each * min(_MOST_EACH, _BLOCK_SECONDS / self.seconds) / max(1, self.load.users)
                # The last ones are to end together.
                some = min(whole, max(left / (6 * len(there)), some))
            else:
                some = min(some, left / (2 * len(there)))
            return max(1, round(min(some, _MOST_BYTES / max(1.0, self._bytes))))
        if self.alone or not self.seconds or (there and not self._sure()):
            return 1
        room = self.room()
        # Here too: of what is left for a place, a batch takes half.
        fair = max(left / (2 * room), min(_LEAST_SECONDS / self.seconds, left / room))
        return max(1, math.ceil(min(_LONGEST, _MOST_SECONDS / self.seconds, fair) - 0.5))

    def share(self) -> int:
        """Say how many threads of a worker a block is to be run in, at least 2."""
        return max(2, max(self.threads().values(), default=0) // max(1, self.load.users))

    def weight(self, pairs: int) -> int:
        """Say how much of the room the next portion takes."""
        return pairs if self.together else 1

    def place(self, pairs: int) -> tuple[str | None, Mapping[str, Any]]:
        """Choose the worker for a block: the one that has least to do for each of its threads.

        Returns:
            Its address, None for whichever is free; and with what arguments the portion is submitted.
        """
        there = self.threads() if self.together else {}
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

    def packed(self, size: int, pairs: int) -> None:
        """Learn how many bytes so many pairs take."""
        self._bytes = size / pairs if not self._bytes else 0.9 * self._bytes + 0.1 * size / pairs

    def took(self, seconds: float, pairs: int) -> None:
        """Learn how many seconds so many pairs took together."""
        weight = pairs / (min(_WINDOW, self._known) + pairs)
        self._known += pairs
        self.seconds = (self.seconds or 0.0) * (1.0 - weight) + seconds / pairs * weight
