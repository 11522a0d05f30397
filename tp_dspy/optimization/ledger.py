"""The ledger of a compile: what it has spent, what it may still spend, and why it is to stop."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.plan import PhasePlan
from tp_dspy.optimization.shares import Part, makespan, parts_of, shares_of, stages_of
from tp_dspy.optimization.stopping import (
    STOP_FILE,
    Budget,
    ReferenceCalls,
    ScorerCalls,
    Seconds,
    Spent,
    StopFile,
    StopRule,
)
from tp_dspy.scoring.outcomes import Usage

__all__ = ["ANOTHER_FAILED", "INTERRUPTED", "Ledger", "broken_off", "sorted_out"]

logger = logging.getLogger(__name__)

INTERRUPTED = "interrupted"
"""Why a phase stopped that was ended by Ctrl-C."""
ANOTHER_FAILED = "another target failed"
"""How the reason begins why one stopped beside which another ended in an error."""

Kind = Literal["scorer", "reference"]


def broken_off(stopped: str) -> bool:
    """Say whether a phase that stopped for this reason was ended from outside: the same call would go on."""
    return stopped == INTERRUPTED or stopped.startswith((ANOTHER_FAILED, STOP_FILE))


def sorted_out(stop: Sequence[object]) -> tuple[list[StopRule], list[Budget], list[StopFile]]:
    """Sort what a user gave as ``stop`` into rules, budgets and stop files.

    Raises:
        ConfigurationError: If something is none of them, or two budgets limit the same.
    """
    budgets = [rule for rule in stop if isinstance(rule, Budget)]
    files = [rule for rule in stop if isinstance(rule, StopFile)]
    rules: list[StopRule] = [rule for rule in stop if callable(rule)]
    strangers = [rule for rule in stop if not callable(rule) and not isinstance(rule, Budget | StopFile)]
    if strangers:
        raise ConfigurationError(
            f"stop holds {strangers!r}; expected stop rules of tp_dspy, e.g. [Patience(2), Usd(5)], or functions that "
            "take a tp_dspy.Progress and return why to stop, or None."
        )
    kinds = [type(budget) for budget in budgets]
    twice = sorted({kind.__name__ for kind in kinds if kinds.count(kind) > 1})
    if twice:
        raise ConfigurationError(f"stop holds more than one budget of {twice}; give one limit of each kind.")
    return rules, budgets, files


class Ledger:
    """Keeps the accounts of one compile. Safe in threads.

    The phases share a budget. What they cannot do without is set aside for those that are to come: first populations,
    at what a race is likely to take, and selections. What is left goes to their searches, in proportion to what is
    planned for them. Unspent shares fall to whoever comes later. Where even the necessary is too much, the choice among
    source prompts is the first to do with less, as the targets make it again; then everything shrinks alike. Tokens,
    dollars and seconds are translated into pairs by what a pair has cost so far.

    Phases that go on at once have accounts of their own (`share`), with shares that are fixed: what one may spend is
    not to depend on how fast another one was.

    Args:
        plans: The phases, in order.
        budgets: The limits.
        files: Stop files.
        whole: The accounts of the compile, where these are of one phase: it has the last word, and sums up.
        limits: Of each budget, what these accounts may spend; by default all of it.
    """

    def __init__(
        self,
        plans: Sequence[PhasePlan] = (),
        budgets: Sequence[Budget] = (),
        files: Sequence[StopFile] = (),
        *,
        whole: Ledger | None = None,
        limits: Mapping[Budget, float] | None = None,
    ) -> None:
        self.plans = tuple(plans)
        self.budgets = tuple(budgets)
        self.files = tuple(files)
        self._whole = whole
        self._limits = {budget: budget.limit for budget in budgets} | dict(limits or {})
        self._parts: dict[Budget, dict[str, float]] = {}
        self._halted: str | None = None
        self.ending: threading.Event = whole.ending if whole is not None else threading.Event()
        """Set when it is to end: whoever waits for a better moment to call need not wait any longer."""
        self._stages = [stage for index, plan in enumerate(plans) for stage in stages_of(plan, index + 1 < len(plans))]
        self._at = 0
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._calls = {"scorer": 0, "reference": 0}
        self._usage = Usage()
        self.scorer = _Gate(self, "scorer")
        self.reference = _Gate(self, "reference")

    def divide(self, chains: Sequence[Sequence[str]], at_once: int) -> None:
        """Divide the budgets among phases that are to go on at once; from here on all is spent through `share`.

        Args:
            chains: The phases; those of a chain follow each other, and chains begin in this order.
            at_once: How many chains go on at once, at least 1.
        """
        self._at = len(self._stages)  # Nothing is set aside any more: each has its own.
        names = [plan.phase for plan in self.plans]
        for budget in self.budgets:
            if isinstance(budget, ReferenceCalls):
                wants = [float(plan.reference_calls) for plan in self.plans]
            else:
                stages = shares_of(budget.limit if isinstance(budget, ScorerCalls) else math.inf, self._stages)
                of = list(zip(self._stages, stages, strict=True))
                wants = [sum(want for stage, want in of if stage.phase == name) for name in names]
            if isinstance(budget, Seconds):
                # Time passes for all of them at once.
                whole = makespan([sum(wants[names.index(name)] for name in chain) for chain in chains], at_once)
                parts = [budget.limit * want / whole if whole else budget.limit for want in wants]
            else:
                parts = parts_of(budget.limit, wants, isinstance(budget, ScorerCalls | ReferenceCalls))
            self._parts[budget] = dict(zip(names, parts, strict=True))
            if isinstance(budget, ReferenceCalls) and min(parts) < max((plan.round for plan in self.plans), default=0):
                logger.warning(
                    "The budget of %s is less than a round of proposals for each of %d targets under way at once: one "
                    "of them has %d. Take a larger budget, or fewer targets.",
                    budget,
                    len(names),
                    min(parts),
                )

    def share(self, phase: str) -> Ledger:
        """Open the accounts of a phase that goes on beside others, see `divide`; it begins now."""
        limits = {budget: parts[phase] for budget, parts in self._parts.items()}
        for budget in filter(lambda budget: isinstance(budget, Seconds), limits):
            limits[budget] = min(limits[budget], max(0.0, budget.limit - self.spent.seconds))
        return Ledger([p for p in self.plans if p.phase == phase], self.budgets, whole=self, limits=limits)

    @property
    def halted(self) -> str | None:
        """Why the compile is to end; None while it goes on."""
        return self._whole.halted if self._whole is not None else self._halted

    @property
    def spent(self) -> Spent:
        """What the compile has spent so far."""
        return self._whole.spent if self._whole is not None else self._spent()

    def _spent(self) -> Spent:
        usage = self._usage
        return Spent(
            scorer_calls=self._calls["scorer"],
            reference_calls=self._calls["reference"],
            tokens=usage.prompt_tokens + usage.completion_tokens,
            usd=usage.usd,
            seconds=time.monotonic() - self._started,
        )

    def enter(self, phase: str, part: Part) -> None:
        """Begin a part of a phase: from here on its share of the budgets may be spent, too."""
        places = [index for index, stage in enumerate(self._stages) if (stage.phase, stage.part) == (phase, part)]
        self._at = places[0] if places else self._at

    def halt(self, reason: str) -> None:
        """Let no further call of the compile begin."""
        if self._whole is not None:
            self._whole.halt(reason)
            return
        self._halted = self._halted or reason
        self.ending.set()

    def known(self, kind: Kind, usage: Usage) -> None:
        """Take in what was paid for on an earlier try of this compile; what others paid for has no usage."""
        if usage.calls or usage.cached:
            with self._lock:
                self._calls[kind] += 1
                self._usage += usage
            if self._whole is not None:
                self._whole.known(kind, usage)

    def affordable(self, count: int, pairs: int, calls: int = 0) -> tuple[int, str | None]:
        """Say how many candidates the present stage can still pay for.

        Args:
            count: How many there would be.
            pairs: Scored pairs of each, at most.
            calls: Calls of the reference LM for each.

        Returns:
            At most `count`; and, where it is fewer, the budget that is to blame, in words.
        """
        spent, blamed = self._spent(), None
        for budget in self.budgets:
            left = self._allowance(budget, spent) - budget.spent(spent)
            each = calls if isinstance(budget, ReferenceCalls) else pairs * self._cost_of_pair(budget, spent)
            if each > 0 and not math.isnan(left) and math.floor(left / each + 1e-9) < count:
                count, blamed = max(0, math.floor(left / each + 1e-9)), self._in_words(budget, spent)
        return count, blamed

    def may_begin(self, kind: Kind) -> str | None:
        """Let a call begin, and count it: None; or say why no further one may."""
        with self._lock:
            for file in self.files:
                if self.halted is None and (reason := file.reason()):
                    self.halt(reason)
            if self.halted is not None:
                return self.halted
            spent = self._spent()
            for budget in self.budgets:
                step = _step(budget, kind)
                if step is None:
                    continue
                # A whole call more; or anything at all, where nobody knows what it will cost.
                after, most = budget.spent(spent) + step, self._allowance(budget, spent)
                if after > most + 1e-9 or (step == 0 and after >= most):
                    return self._in_words(budget, spent)
            refused = self._whole.may_begin(kind) if self._whole is not None else None
            self._calls[kind] += refused is None
            return refused

    def take_back(self, kind: Kind) -> None:
        """Count a call as one that did not begin: it waited to be sent when all was to end."""
        with self._lock:
            self._calls[kind] -= 1
            if self._whole is not None:
                self._whole.take_back(kind)

    @property
    def by_time(self) -> bool:
        """Whether there is a budget of seconds."""
        mine = any(isinstance(budget, Seconds) for budget in self.budgets)
        return mine or (self._whole is not None and self._whole.by_time)

    def add(self, usage: Usage) -> None:
        """Take in what a call has cost."""
        with self._lock:
            self._usage += usage
        if self._whole is not None:
            self._whole.add(usage)

    # What a stage may spend.

    def _cost_of_pair(self, budget: Budget, spent: Spent) -> float:
        if isinstance(budget, ScorerCalls):
            return 1.0
        return budget.spent(spent) / spent.scorer_calls if spent.scorer_calls else 0.0

    def _allowance(self, budget: Budget, spent: Spent) -> float:
        """What may have been spent of a budget by the end of the present stage."""
        now, limit = self._at + 1, self._limits[budget]
        if now >= len(self._stages):
            return limit
        if isinstance(budget, ReferenceCalls):
            parts = self._stages[:now], self._stages[now:]
            planned, later = (sum(stage.reference_calls for stage in part) for part in parts)
            return limit * planned / (planned + later) if planned + later else limit
        cost = self._cost_of_pair(budget, spent)
        if not 0 < cost < math.inf:
            return limit
        # Beyond what later stages have set aside it may take what there is.
        return limit - cost * sum(shares_of(limit / cost, self._stages)[now:])

    def _in_words(self, budget: Budget, spent: Spent) -> str:
        allowance = self._allowance(budget, spent)
        if allowance >= budget.limit * (1 - 1e-9):
            return f"the budget of {budget} is spent"
        stage = self._stages[self._at]
        share = f"{allowance:.0f}" if allowance >= 100 else f"{allowance:.3g}"
        part = f"'s {stage.part}" if allowance < self._limits[budget] * (1 - 1e-9) else ""
        return f"the share of the {stage.phase} phase{part} in the budget of {budget} is spent ({share})"

    # Before and after.

    def check(self) -> None:
        """Warn of budgets that the plan cannot keep to, before anything is paid.

        Raises:
            ConfigurationError: If a stop file is there.
        """
        for file in self.files:
            file.begin()
        least = sum(stage.least for stage in self._stages)
        for budget in self.budgets:
            if isinstance(budget, ScorerCalls) and budget.limit < least:
                logger.warning(
                    "The budget of %s is less than the %d that the first populations and the selections are likely to "
                    "take; take fewer examples (source_examples, too) or a smaller top_k, or expect a rougher choice.",
                    budget,
                    least,
                )
            elif isinstance(budget, ScorerCalls) and (few := self._few_proposals(budget.limit)) is not None:
                logger.warning(
                    "The budget of %s is likely to be enough for some %d proposals, less than a round of %d: the rest "
                    "goes to first populations and selections. To search more, take fewer examples (source_examples, "
                    "too), a smaller top_k, no source tasks or seed_instructions=[]; or a larger budget.",
                    budget,
                    few,
                    max(plan.round for plan in self.plans),
                )

    def _few_proposals(self, limit: float) -> int | None:
        """Count the proposals that so many pairs are likely to be enough for, where that is less than a round."""
        shares = shares_of(limit, self._stages)
        left = {
            stage.phase: share - stage.least for stage, share in zip(self._stages, shares, strict=True) if stage.more
        }
        each = {p.phase: p.raced * p.proposals / p.reference_calls for p in self.plans if p.reference_calls}
        count = sum(math.floor(left[phase] / cost + 1e-9) for phase, cost in each.items() if cost and phase in left)
        return count if count < max((plan.round for plan in self.plans), default=0) else None


@dataclass(frozen=True)
class _Gate:
    """One LM's gate; a `tp_dspy.scoring.gate.Gate`."""

    ledger: Ledger
    kind: Kind

    @property
    def ending(self) -> threading.Event:
        return self.ledger.ending

    @property
    def by_cost(self) -> bool:
        # Of seconds it is known that a batch takes few.
        return any(_step(b, self.kind) == 0 and not isinstance(b, Seconds) for b in self.ledger.budgets)

    @property
    def by_time(self) -> bool:
        return self.ledger.by_time

    def begin(self) -> str | None:
        return self.ledger.may_begin(self.kind)

    def unsent(self) -> None:
        self.ledger.take_back(self.kind)

    def spent(self, usage: Usage) -> None:
        self.ledger.add(usage)


def _step(budget: Budget, kind: Kind) -> int | None:
    """How much of a budget a call is known to take; None where it takes nothing."""
    if isinstance(budget, ScorerCalls):
        return 1 if kind == "scorer" else None
    if isinstance(budget, ReferenceCalls):
        return 1 if kind == "reference" else None
    return 0
