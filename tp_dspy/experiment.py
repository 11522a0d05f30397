"""The whole job: compile a program, then measure it on examples that the compile has not seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from tp_dspy.errors import SplitOverlapError
from tp_dspy.optimization.candidates import Candidate
from tp_dspy.optimization.events import OutcomeArrived, PhaseBegan, StepBegan
from tp_dspy.optimization.ledger import INTERRUPTED
from tp_dspy.runs.artifacts import TransferResult
from tp_dspy.runs.events import Measured
from tp_dspy.runs.source_prompts import SourcePrompts
from tp_dspy.scoring.held_out import HeldOut, measure
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.session import Plan
from tp_dspy.tasks.splitting import find_overlap, stratified_order
from tp_dspy.tasks.task import Task
from tp_dspy.teleprompter import TransferPrompting

__all__ = ["Experiment", "Report"]

_ORIGINS = {
    "original": "the program itself: nothing measured better",
    "general": "the general instructions that ship with the library",
    "seed": "your own instructions",
    "proposal": "the reference LM",
    "source": "the source prompts at hand",
}


@dataclass(frozen=True)
class Report:
    """What an experiment found.

    Attributes:
        program: The compiled program.
        result: The compile's own record.
        held_out: Original, best source and target prompt on the target's test split; None where it has none, and after
            Ctrl-C.
        seconds: Wall time.
        saved: Files written, by what they hold.
    """

    program: dspy.Module
    result: TransferResult
    held_out: HeldOut | None
    seconds: float
    saved: dict[str, Path]

    @property
    def instructions(self) -> dict[str, str]:
        """The instructions found, by predictor name."""
        return dict(self.result.winner.instructions)

    @property
    def test_usage(self) -> Usage:
        """What the final measurement cost."""
        return self.held_out.usage if self.held_out is not None else Usage()

    def lineage(self) -> str:
        """Say where the target prompt came from, and what became of the reference LM's proposals."""
        phases = {"source": self.result.source, "target": self.result.target}
        origin = self.result.winner.origin
        found = "target"
        if origin == "source" and self.result.source is not None:
            found = "source"
            origin = next(r.origin for r in self.result.source.history if r.id == self.result.winner.id)
        replies = [proposal for phase in phases.values() if phase for proposal in phase.proposals]
        usable = sum(proposal.reason is None for proposal in replies)
        where = f", in the {found} phase" if origin != "original" else ""
        return f"{_ORIGINS[origin]}{where} ({usable} of the reference LM's {len(replies)} replies were usable)"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values; NaN (a metric that a set does not have) is null."""
        scored, asked = self.result.scorer_usage, self.result.reference_usage
        return {
            "instructions": self.instructions,
            "origin": self.result.winner.origin,
            "stopped": self.result.stopped,
            "held_out": self.held_out.to_dict() if self.held_out is not None else None,
            "scorer_calls": scored.calls,
            "reference_calls": asked.calls,
            "test_calls": self.test_usage.calls,
            "cached_calls": (scored + asked + self.test_usage).cached,
            "tokens": sum(u.prompt_tokens + u.completion_tokens for u in (scored, asked, self.test_usage)),
            "seconds": round(self.seconds, 1),
            "saved": {name: path.as_posix() for name, path in self.saved.items()},
        }


@dataclass(frozen=True)
class Experiment:
    """A program, its target, and what it may learn from.

    Attributes:
        program: The program; never changed.
        target: The target task; its test split is compared with the sources' questions, and else not touched before
            the compile has ended.
        teleprompter: Compiles.
        sources: Source tasks; none for source prompts at hand, or a single stage.
        source_prompts: Source prompts at hand.
        test_limit: Examples of the test split, at most.
        description: What the target's items are, for the reference LM; by default the task's own description.
    """

    program: dspy.Module
    target: Task
    teleprompter: TransferPrompting
    sources: Sequence[Task] = ()
    source_prompts: SourcePrompts | None = None
    test_limit: int = 200
    description: str = ""

    def check(self) -> None:
        """See that no source shares questions with the target's test split.

        Raises:
            SplitOverlapError: If one does.
        """
        for task in self.sources:
            shared = find_overlap(self.target.test, [*task.train, *task.validation])
            if shared:
                raise SplitOverlapError(
                    f"{len(shared)} of {len(self.target.test)} test questions of {self.target.name} are also in the "
                    f"source task {task.name}; choose another source, or take `source.without(target)`."
                )

    def plan(self) -> Plan:
        """Say what the compile would cost at most, without a call."""
        self.check()
        return self.teleprompter.plan(self.program, **self._given())

    def run(self) -> Report:
        """Compile, then measure original, best source and target prompt on the target's test split."""
        self.check()
        started = time.monotonic()
        compiled = self.teleprompter.compile(self.program, **self._given())
        result: TransferResult = compiled.detailed_results.model_copy(update={"name": self.target.name})
        self._keep(compiled, result)
        # Who pressed Ctrl-C is not waiting for more calls; the same again measures then.
        broken_off = result.stopped == INTERRUPTED
        held_out = self._held_out(compiled, result) if self.target.test and not broken_off else None
        folder = self.teleprompter.run_dir
        kept = ("program", "source_prompts", "result") if folder is not None else ()
        saved = {name: folder / f"{name}.json" for name in kept if folder is not None}
        saved = {name: path for name, path in saved.items() if path.exists()}
        return Report(compiled, compiled.detailed_results, held_out, time.monotonic() - started, saved)

    def _given(self) -> dict[str, Any]:
        return {
            "trainset": self.target.train,
            "valset": self.target.validation or None,
            "source_tasks": list(self.sources) or None,
            "source_prompts": self.source_prompts,
            "description": self.description or self.target.description,
        }

    def _held_out(self, compiled: dspy.Module, result: TransferResult) -> HeldOut:
        programs = {"original": self.program}
        # The same instructions in the same program are one program: it is run once.
        known = {result.winner.scored().candidate: compiled, Candidate.of(self.program): self.program}
        carried = self._carried(result)
        if carried is not None:
            programs["best source"] = known.get(carried) or carried.apply(self.program)
        programs["target"] = known[result.winner.scored().candidate]
        tp = self.teleprompter
        examples = stratified_order(self.target.test, seed=tp.seed, answer=tp.objective.answer)[: self.test_limit]
        tp.tell(PhaseBegan("test", len(programs), 0))
        tp.tell(StepBegan("test", len(programs) * len(examples)))

        def arrives(outcome: Outcome) -> None:
            tp.tell(OutcomeArrived("test", outcome))

        settings: dict[str, Any] = {
            "lm": tp.scorer.lm,
            "executor": tp.scorer.crew,
            "max_error_rate": tp.scorer.max_error_rate,
            "seed": tp.seed,
        }
        held_out = measure(tp.objective, programs, examples, verbose=False, arrives=arrives, **settings)
        self._keep(compiled, result.with_held_out(held_out))
        tp.tell(Measured("test", held_out, compiled.detailed_results))
        return held_out

    def _keep(self, compiled: dspy.Module, result: TransferResult) -> None:
        compiled.detailed_results = result
        if self.teleprompter.run_dir is not None:
            result.save(self.teleprompter.run_dir / "result.json")

    def _carried(self, result: TransferResult) -> Candidate | None:
        """Give the best source prompt as it is."""
        if self.source_prompts is not None:
            original = result.original.scored().candidate
            return self.source_prompts.candidates(original, 1, self.teleprompter.mapping)[0].candidate
        if result.source is not None:
            return result.source.ranked[0].scored().candidate
        return None
