"""What surrounds a compile: its accounts, whoever watches, and the memory of what was paid for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy

from tp_dspy.errors import LMUnavailableError
from tp_dspy.optimization.candidates import Candidate
from tp_dspy.optimization.cycle import Cycle
from tp_dspy.optimization.estimate import check_prices, estimate
from tp_dspy.optimization.events import Listener, Planned, Resumed, Spending
from tp_dspy.optimization.interrupts import graceful_interrupt
from tp_dspy.optimization.ledger import Ledger, sorted_out
from tp_dspy.optimization.memory import Memory, PlainMemory
from tp_dspy.optimization.panel import fingerprint
from tp_dspy.optimization.plan import PhasePlan
from tp_dspy.optimization.racing import Racing
from tp_dspy.optimization.stopping import Budget, StopFile, StopRule, Usd
from tp_dspy.progress import watching
from tp_dspy.runs.events import Failed
from tp_dspy.runs.identity import compile_identity, context_identity
from tp_dspy.runs.journal import Journal
from tp_dspy.scoring.scorer import Scorer

__all__ = ["Plan", "Session", "failure_told", "kept_on_failure"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a compile will do at most.

    Attributes:
        phases: The phases, in order.
        words: The same in one line, with tokens, and USD where the price is known.
    """

    phases: tuple[PhasePlan, ...]
    words: str

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain values."""
        return {
            "words": self.words,
            "scorer_calls": sum(phase.scorer_calls for phase in self.phases),
            "reference_calls": sum(phase.reference_calls for phase in self.phases),
            "phases": [vars(phase) | {"scorer_calls": phase.scorer_calls} for phase in self.phases],
        }


@contextlib.contextmanager
def failure_told(tell: Listener) -> Iterator[None]:
    """Tell the listeners that the compile was broken off, where an error does so."""
    try:
        yield
    except BaseException as error:
        tell(Failed("", error))
        raise


@contextlib.contextmanager
def kept_on_failure(name: str, done: Callable[[], object]) -> Iterator[None]:
    """Hand what was paid for and done over with the error that breaks the rest off, as its attribute `name`.

    Args:
        name: The attribute.
        done: Gives it; something empty where there is nothing yet.
    """
    try:
        yield
    except Exception as error:
        if found := done():
            setattr(error, name, found)
            error.add_note(f"What was done before it is in the error's attribute {name!r}.")
        raise


@dataclass(frozen=True)
class Session:
    """Opens what a compile of one program needs.

    Attributes:
        student: The program; never changed.
        original: Its instructions.
        examples: Everything that may be scored.
        scorer: Runs and judges pairs.
        reference_lm: Proposes instructions; None for the LM configured in DSPy.
        racing: The rule that drops candidates.
        spread_penalty: As in `TransferPrompting`.
        stop: The user's rules, budgets and stop files.
        run_dir: The folder of the journal; None keeps it in memory.
        decides: Settings that decide the course of a compile, as plain values.
        settings: What is told to others of how the compile is set up, as plain values.
        remark: What is to be said of the plan; may be empty.
        listeners: Are told every event.
        verbose: Whether to show progress on a terminal or in a notebook.
    """

    student: dspy.Module
    original: Candidate
    examples: Sequence[dspy.Example]
    scorer: Scorer
    reference_lm: dspy.BaseLM | None
    racing: Racing
    spread_penalty: float
    stop: Sequence[StopRule | Budget | StopFile]
    run_dir: Path | None
    decides: Mapping[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    remark: str = ""
    listeners: Sequence[Listener] = ()
    verbose: bool = False

    def plan(self, phases: Sequence[PhasePlan]) -> Plan:
        """Check everything, and say what the phases will cost at most; no call is made.

        Raises:
            ConfigurationError: If a stop file is there, a price is not known, or a limit names no LM of this compile.
        """
        self._ledger(phases)
        return self._planned(phases)

    def _planned(self, phases: Sequence[PhasePlan]) -> Plan:
        runs = self.scorer.objective.runs
        # The last one is the reference LM, whose prompts grow with the history.
        about = estimate(phases, self.student, self.examples, self._lms()[:-1], runs)
        return Plan(tuple(phases), " ".join(filter(None, [PhasePlan.in_words(phases, runs), self.remark, about])))

    @contextlib.contextmanager
    def open(self, phases: Sequence[PhasePlan], at_once: int = 1) -> Iterator[Cycle]:
        """Check the budgets, say what is planned, open the memory; afterwards say what was spent.

        Args:
            phases: The phases, in order.
            at_once: How many of them go on at once, for those who are told.

        Raises:
            ConfigurationError: As `plan`.
            JournalError: If the journal cannot be used.
        """
        ledger, plan = self._ledger(phases), self._planned(phases)
        logger.info(plan.words)
        with (
            graceful_interrupt(ledger),
            watching(self.listeners, self.verbose) as tell,
            self._memory(tell) as memory,
        ):
            with failure_told(tell):
                tell(Planned("", phases, plan.words, self.settings, ledger.budgets, lambda: ledger.spent, at_once))
                yield Cycle(self.student, self.scorer, self.racing, memory, self.spread_penalty, tell, ledger)
            spent = ledger.spent
            logger.info(PhasePlan.beside(phases, spent))
            tell(Spending("", spent))

    def _ledger(self, phases: Sequence[PhasePlan]) -> Ledger:
        """Make the accounts, after everything that limits them was checked."""
        _, budgets, files = sorted_out(self.stop)
        if self.run_dir is not None:
            files.append(StopFile(self.run_dir / "stop"))
        ledger = Ledger(phases, budgets, files)
        ledger.check()
        lms = self._lms()
        self.scorer.throttles.check(lms)
        if any(isinstance(budget, Usd) for budget in budgets):
            check_prices(lms)
        return ledger

    def reference(self) -> dspy.BaseLM:
        """Give the reference LM, under the throttle of its endpoint.

        Raises:
            LMUnavailableError: If there is none.
        """
        lm = self.reference_lm or dspy.settings.lm
        if lm is None:
            raise LMUnavailableError("There is no reference LM: pass reference_lm=, or call dspy.configure(lm=...).")
        return self.scorer.throttles.govern(lm)

    def _lms(self) -> list[dspy.BaseLM]:
        """List the LMs that a compile calls."""
        own = [predictor.lm for _, predictor in self.student.named_sub_modules(dspy.Predict)]
        lms = [lm or self.scorer.lm or dspy.settings.lm for lm in own] + [self.reference_lm or dspy.settings.lm]
        return [lm for lm in lms if lm is not None]

    def _memory(self, tell: Listener) -> contextlib.AbstractContextManager[Memory]:
        """Open what keeps outcomes and answers: the journal of the run folder, or this process."""
        if self.run_dir is None:
            return contextlib.nullcontext(PlainMemory())
        context = context_identity(self.student, self.scorer.objective, self.scorer.lm, self.examples)
        compile = compile_identity(context, self.decides, self.original, map(fingerprint, self.examples))
        journal = Journal(self.run_dir / "journal.sqlite", context=context, compile=compile)
        if known := len(journal):
            logger.info("%s knows %d outcomes; what is known is not paid for again.", journal.path, known)
            tell(Resumed("", known))
        return journal
