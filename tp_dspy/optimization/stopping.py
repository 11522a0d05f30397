"""Stop rules: when a phase has searched enough, and what a compile may spend.

Three kinds, all given as ``TransferPrompting(stop=[...])``; the first that applies stops:

- A rule (`Patience`, `TargetScore`, a function of your own) is asked before every round and ends the search of a
  phase; what was found is selected from, and the next phase follows.
- A budget (`ScorerCalls`, `ReferenceCalls`, `Tokens`, `Usd`, `Seconds`) is asked before every call. The phases share
  it by what is planned for each (`tp_dspy.optimization.ledger`), so that something is left to choose
  with. At most what was under way is spent beyond it.
- A halt (`StopFile`; Ctrl-C is one) ends the compile with the best so far; no further call begins.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tp_dspy.errors import ConfigurationError

__all__ = [
    "AllOf",
    "Budget",
    "Patience",
    "Progress",
    "ReferenceCalls",
    "ScorerCalls",
    "Seconds",
    "Spent",
    "StopFile",
    "StopRule",
    "TargetScore",
    "Tokens",
    "Usd",
]


@dataclass(frozen=True)
class Spent:
    """What a compile has spent so far.

    What an earlier try of it in the same ``run_dir`` paid for counts when this one comes to use it (but for `seconds`);
    what the journal there knows from another compile costs nothing, and does not count.

    Attributes:
        scorer_calls: Pairs of candidate and example that were scored, as a count; one may take several LM calls.
        reference_calls: Calls of the reference LM, as a count.
        tokens: Tokens sent and generated, both LMs.
        usd: US dollars as DSPy estimates them, both LMs; None when a call has no known price.
        seconds: Wall time of this call of ``compile``.
    """

    scorer_calls: int = 0
    reference_calls: int = 0
    tokens: int = 0
    usd: float | None = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """Where a phase stands when a stop rule is asked, before a round begins.

    Attributes:
        round: The round that would begin now; the first one after the first population is 1.
        best: The best score so far, in [0, 1] without a spread penalty; NaN while nothing keeps the constraints.
        rounds_without_gain: Rounds since `best` last rose.
        phase: "source", "target", or "target <name>" where there are several.
        spent: What the compile has spent.
    """

    round: int
    best: float
    rounds_without_gain: int
    phase: str = "target"
    spent: Spent = field(default_factory=Spent)


STOP_FILE = "stop file"
"""How the reason begins why a compile stopped that a `StopFile` ended."""

StopRule = Callable[[Progress], str | None]
"""Tells why to stop, or None to go on."""


@dataclass(frozen=True)
class Patience:
    """Stop after so many rounds without a better score."""

    rounds: int

    def __post_init__(self) -> None:
        _at_least_one("Patience", self.rounds, " rounds")

    def __call__(self, progress: Progress) -> str | None:
        """Apply the rule."""
        if progress.rounds_without_gain >= self.rounds:
            return f"no gain in {self.rounds} rounds"
        return None


@dataclass(frozen=True)
class TargetScore:
    """Stop once the best score reaches a value in [0, 1]."""

    score: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise ConfigurationError(f"TargetScore is {self.score!r}; expected a score in [0, 1].")

    def __call__(self, progress: Progress) -> str | None:
        """Apply the rule."""
        return f"target score {self.score:g} reached" if progress.best >= self.score else None


class AllOf:
    """Stop once all of several rules say so.

    A list of rules stops at the first.

    Args:
        *rules: Rules that are asked before every round; at least one.
    """

    def __init__(self, *rules: StopRule) -> None:
        if not rules or any(not callable(rule) for rule in rules):
            raise ConfigurationError(
                f"AllOf was given {list(rules)!r}; expected rules such as Patience(2) or TargetScore(0.9). Budgets and "
                "stop files stop by themselves: put them into the list beside it."
            )
        self.rules = rules

    def __repr__(self) -> str:
        return f"AllOf({', '.join(map(repr, self.rules))})"

    def __call__(self, progress: Progress) -> str | None:
        """Apply the rules."""
        reasons = [rule(progress) for rule in self.rules]
        return None if None in reasons else " and ".join(reason for reason in reasons if reason is not None)


@dataclass(frozen=True)
class Budget:
    """The most that a compile may spend of something.

    Attributes:
        limit: How much; above 0.
    """

    limit: float

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int | float) or not 0 < self.limit < math.inf:
            raise ConfigurationError(f"{type(self).__name__} is {self.limit!r}; expected a number above 0.")

    def spent(self, spent: Spent) -> float:
        """Read off how much was spent of it."""
        raise NotImplementedError

    def __str__(self) -> str:
        raise NotImplementedError


class _Calls(Budget):
    def __post_init__(self) -> None:
        _at_least_one(type(self).__name__, self.limit)


class ScorerCalls(_Calls):
    """At most so many scored pairs of candidate and example."""

    def spent(self, spent: Spent) -> float:
        """Count them."""
        return spent.scorer_calls

    def __str__(self) -> str:
        return f"{self.limit} scorer calls"


class ReferenceCalls(_Calls):
    """At most so many calls of the reference LM."""

    def spent(self, spent: Spent) -> float:
        """Count them."""
        return spent.reference_calls

    def __str__(self) -> str:
        return f"{self.limit} calls of the reference LM"


class Tokens(_Calls):
    """At most so many tokens, sent and generated, of both LMs together."""

    def spent(self, spent: Spent) -> float:
        """Count them."""
        return spent.tokens

    def __str__(self) -> str:
        return f"{self.limit:,} tokens"


class Usd(Budget):
    """At most so many US dollars, as DSPy estimates them. An LM without a known price is refused at the start."""

    def spent(self, spent: Spent) -> float:
        """Read them off; a call without a price is as good as the whole budget, as nobody knows."""
        return math.inf if spent.usd is None else spent.usd

    def __str__(self) -> str:
        return f"{self.limit:g} USD"


class Seconds(Budget):
    """At most so many seconds of wall time, in this call of ``compile``."""

    def spent(self, spent: Spent) -> float:
        """Read them off."""
        return spent.seconds

    def __str__(self) -> str:
        return f"{self.limit:g} seconds"


class StopFile:
    """End the compile with the best so far once a file is there: ``touch runs/med/stop`` from another terminal.

    With a ``run_dir`` the file ``stop`` in it is watched in any case. It is looked for twice a second at most, and
    never deleted: a compile does not begin while it is there.

    Args:
        path: The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._asked = -math.inf

    def __repr__(self) -> str:
        return f"StopFile({str(self.path)!r})"

    def begin(self) -> None:
        """Refuse to begin while the file is there.

        Raises:
            ConfigurationError: If it is.
        """
        if self.path.exists():
            raise ConfigurationError(f"The stop file {self.path} is there, from an earlier run; remove it to begin.")

    def reason(self) -> str | None:
        """Say why to stop; None to go on."""
        now = time.monotonic()
        if now - self._asked < 0.5:
            return None
        self._asked = now
        return f"{STOP_FILE} {self.path.name} found" if self.path.exists() else None


def _at_least_one(name: str, value: object, unit: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{name} is {value!r}{unit}; expected a whole number of at least 1.")
