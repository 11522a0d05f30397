"""How fast it goes, and how much time is left at most."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tp_dspy.scoring.outcomes import Usage

__all__ = ["Pace"]

# Enough to tell a pace by: so many scored pairs, in so many seconds.
_PAIRS = 10
_SECONDS = 2.0
# What comes sooner than this was not asked of an LM: the journal knew it.
_INSTANT = 0.02


@dataclass(frozen=True)
class Pace:
    """How long scoring and proposing have taken; what the journal or a cache knew does not count.

    Attributes:
        pairs: Scored pairs that were paid for, as a count.
        seconds: The time that they took, together.
        rounds: Rounds that were waited for, as a count.
        waited: Seconds for their proposals, together.
        known: Outcomes that the journal may still bring, as a count.
        resumed: Whether there is a journal that knows anything; the replies of the reference LM, too.
        since: When what is under way began, or something was scored.
        brought: When the journal brought something last, or may have begun to.
        bringing: Whether the journal brings what it knows, which it does at the beginning of a step.
    """

    pairs: int = 0
    seconds: float = 0.0
    rounds: int = 0
    waited: float = 0.0
    known: int = 0
    resumed: bool = False
    since: float = 0.0
    brought: float = 0.0
    bringing: bool = False

    def resumes(self, known: int) -> Pace:
        """Take in that the journal knows so many outcomes."""
        return replace(self, known=known, resumed=known > 0)

    def begins(self, now: float, *, alone: bool = True) -> Pace:
        """Begin a step of scoring, or to wait for proposals; alone, or while others go on."""
        return replace(self, since=now if alone else self.since, brought=now, bringing=self.known > 0)

    def scored(self, usage: Usage, now: float, *, stepping: bool = True) -> Pace:
        """Take in a scored pair, of the step that began last or of another; the journal brings a whole step at once."""
        if stepping and self.bringing and now - self.brought < _INSTANT:
            return replace(self, since=now, brought=now, known=self.known - 1, bringing=self.known > 1)
        if usage.cached and not usage.calls:
            return replace(self, bringing=False)
        took = self.seconds + now - self.since
        return replace(self, pairs=self.pairs + 1, seconds=took, since=now, bringing=False)

    def proposed(self, now: float, *, waited: bool = True) -> Pace:
        """Take in the proposals of a round, and whether nothing else went on meanwhile."""
        if not waited:
            return replace(self, rounds=self.rounds + 1)
        if self.resumed and now - self.since < _INSTANT:
            return self
        return replace(self, rounds=self.rounds + 1, waited=self.waited + now - self.since)

    def left(self, pairs: int, rounds: int) -> tuple[float | None, int]:
        """Say how much time is left at most.

        Args:
            pairs: Pairs to be scored, at most.
            rounds: Rounds of proposals, at most.

        Returns:
            Seconds, None while nobody can know; and how many of the rounds are not in it, because none was seen yet.
        """
        if self.pairs < _PAIRS or self.seconds < _SECONDS:
            return None, 0
        seconds = pairs * self.seconds / self.pairs
        if not self.rounds:
            return seconds, rounds
        return seconds + rounds * self.waited / self.rounds, 0
