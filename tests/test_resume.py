"""Runs that are broken off and made again: nothing is paid twice, and the result is that of an unbroken run."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import ServerError

from programs.benchmarks.scripted import PromptView, scripted_lm
from programs.benchmarks.worlds import World
from tp_dspy import Event, InstructionAdapter, ObjectiveEvaluator, ScorerCalls, TransferPrompting, TransferResult
from tp_dspy.errors import JournalError, ScoringFailedError
from tp_dspy.runs.journal import Journal

# One proposal a round: the scripted reference LM tells equal prompts apart by counting, and a count is no part of them.
EFFORT: dict[str, Any] = {"rounds": 6, "proposals": 1, "examples": 10, "seed_instructions": [], "verbose": False}


class BrokenOffError(Exception):
    """Ends a compile at once, as an error nobody foresaw would."""


class Lab:
    """One world, one task set, and what it takes to compile on them again and again, each time with new LMs."""

    def __init__(self, run_dir: Path | None, latency: float | Callable[[PromptView], float] = 0.0) -> None:
        self.run_dir = run_dir
        self.latency = latency
        self.world = World(3)
        self.sources = [self.world.task(name, train=10, validation=10) for name in ("medicine", "law")]
        self.target = self.world.task("finance", train=10, validation=10)
        self.paid = 0
        self.asked = 0

    def compile(
        self, *, after: int | None = None, phase: str = "", objective: Any = None, listen: Any = None, **settings: Any
    ) -> Any:
        """Compile; with `after`, break off at that outcome (of a phase, where one is named)."""
        heard = 0

        def hear(event: Event) -> None:
            nonlocal heard
            if listen is not None:
                listen(event)
            heard += event.kind == "outcome" and event.phase.startswith(phase)
            if after is not None and heard > after:
                raise BrokenOffError

        # By default a scripted LM has a new name each time, and would be another LM.
        scorer = self.world.scorer_lm(name="scripted/s", latency=self.latency)
        reference = self.world.reference_lm(name="scripted/r", latency=self.latency)
        optimiser = TransferPrompting(
            objective or ObjectiveEvaluator(),
            reference_lm=reference,
            scorer_lm=scorer,
            run_dir=self.run_dir,
            listeners=[hear],
            **{"num_threads": 1, **EFFORT, **settings},
        )
        with dspy.context(adapter=InstructionAdapter()):
            try:
                return optimiser.compile(
                    dspy.Predict(dspy.Signature("question -> answer", "Answer.")),
                    trainset=self.target.train,
                    valset=self.target.validation,
                    source_tasks=self.sources,
                ).detailed_results
            finally:
                self.paid, self.asked = scorer.scripted.calls, reference.scripted.calls


def comparable(result: TransferResult) -> str:
    # As JSON: one NaN is no other NaN.
    return result.model_dump_json(exclude={"created", "seconds"}, indent=1)


@pytest.fixture
def unbroken() -> tuple[str, int, int]:
    lab = Lab(None)
    return comparable(lab.compile()), lab.paid, lab.asked


def test_the_same_call_again_costs_nothing_and_gives_the_same(tmp_path: Path, unbroken: Any) -> None:
    lab = Lab(tmp_path)
    assert comparable(lab.compile()) == unbroken[0] and (lab.paid, lab.asked) == unbroken[1:]
    assert comparable(lab.compile()) == unbroken[0] and (lab.paid, lab.asked) == (0, 0)


@pytest.mark.parametrize(("phase", "after"), [("source", 3), ("source", 90), ("target", 5), ("target", 40)])
def test_a_run_that_was_broken_off_ends_as_an_unbroken_one(
    tmp_path: Path, unbroken: Any, phase: str, after: int
) -> None:
    lab = Lab(tmp_path)
    with pytest.raises(BrokenOffError):
        lab.compile(after=after, phase=phase)
    paid, asked = lab.paid, lab.asked
    assert comparable(lab.compile()) == unbroken[0]
    # One call was under way, with one thread, and nobody heard of its outcome.
    assert paid + lab.paid - unbroken[1] in (0, 1) and asked + lab.asked == unbroken[2] and lab.paid > 0


def test_breaking_off_again_and_again_gets_there(tmp_path: Path, unbroken: Any) -> None:
    lab, paid, broken = Lab(tmp_path), 0, 0
    for after in range(20, 2000, 20):
        try:
            result = lab.compile(after=after)
            break
        except BrokenOffError:
            broken += 1
        finally:
            paid += lab.paid
    assert broken >= 5 and comparable(result) == unbroken[0]
    assert paid - unbroken[1] <= broken


def test_a_budget_counts_what_was_paid_before_the_break(tmp_path: Path) -> None:
    plain = Lab(None).compile(stop=[ScorerCalls(130)])
    lab = Lab(tmp_path)
    with pytest.raises(BrokenOffError):
        lab.compile(after=60, stop=[ScorerCalls(130)])
    result = lab.compile(stop=[ScorerCalls(130)])
    assert comparable(result) == comparable(plain) and "130 scorer calls" in result.stopped


def test_other_settings_use_what_is_known_and_report_their_own_cost(tmp_path: Path, unbroken: Any) -> None:
    lab = Lab(tmp_path)
    first = lab.compile()
    longer = lab.compile(rounds=8)
    assert 0 < lab.paid < 0.7 * unbroken[1]
    assert longer.scorer_usage.calls == lab.paid < first.scorer_usage.calls


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveEvaluator(strict=True),
        ObjectiveEvaluator(match=lambda example, prediction: float(prediction.answer == "A")),
        ObjectiveEvaluator(confidence=lambda example, prediction: 0.5),
    ],
)
def test_another_objective_does_not_take_outcomes_that_were_judged_otherwise(tmp_path: Path, objective: Any) -> None:
    lab = Lab(tmp_path)
    lab.compile(rounds=0)
    paid = lab.paid
    lab.compile(rounds=0, objective=objective)
    assert lab.paid == paid


def test_a_folder_in_use_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with (
        Journal(tmp_path / "journal.sqlite", context="x", compile="y"),
        pytest.raises(JournalError, match="in use by another process"),
    ):
        lab.compile()
    assert (lab.paid, lab.asked) == (0, 0)
    lab.compile(rounds=0)  # And the folder is free again.


def test_whoever_watches_is_told_what_is_known(tmp_path: Path) -> None:
    lab, told = Lab(tmp_path), []
    lab.compile(rounds=0)
    paid = lab.paid
    lab.compile(rounds=0, listen=told.append)
    assert [event.outcomes for event in told if event.kind == "resume"] == [paid]


def test_an_outage_stops_the_run_and_the_same_call_goes_on_when_it_is_over(tmp_path: Path, unbroken: Any) -> None:
    lab = Lab(tmp_path)
    inner, calls, down = lab.world.scorer_lm().scripted, itertools.count(), True

    def rule(prompt: PromptView) -> Any:
        return ServerError("gone") if next(calls) >= 60 and down else inner.rule(prompt)

    lab.world.scorer_lm = lambda **settings: scripted_lm(rule, **settings)  # type: ignore[method-assign]
    with pytest.raises(ScoringFailedError, match=r"gone.*make the same call again"):
        lab.compile()
    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        (kept,) = database.execute("SELECT count(*) FROM outcomes").fetchone()
    assert kept == 60  # All that was answered, and nothing of the outage.
    down = False
    result, before = comparable(lab.compile()), lab.paid
    assert result == unbroken[0] and before == unbroken[1] - kept


def test_it_compiles_inside_a_running_event_loop_as_notebooks_have_one(unbroken: Any) -> None:
    async def cell() -> Any:
        return Lab(None).compile()

    assert comparable(asyncio.run(cell())) == unbroken[0]
