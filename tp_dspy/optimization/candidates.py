"""Candidates, their outcomes, and what they scored."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import dspy

from tp_dspy.errors import ConfigurationError, ProgramError
from tp_dspy.optimization.evidence import Belief
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.programs import copy_sharing_lms
from tp_dspy.scoring.set_objective import Metrics

__all__ = [
    "Candidate",
    "Measurement",
    "Origin",
    "Panel",
    "ScoredCandidate",
    "Standing",
    "free_predictors",
    "match_predictors",
    "read_program",
]

Panel = Mapping[str, Sequence[dspy.Example]]
"""What candidates are scored on: examples by task name, in the one order that every candidate meets."""

Origin = Literal["original", "seed", "general", "source", "proposal"]


@dataclass(frozen=True)
class Candidate:
    """One instruction per predictor of a program.

    Two candidates with the same instructions are the same candidate, wherever they came from.

    Attributes:
        instructions: Instruction by predictor name, as DSPy's ``named_predictors`` gives it.
        origin: Where it came from: the program itself (``original``), the user (``seed``), this library
            (``general``), a source phase (``source``), or the reference LM (``proposal``).
        prior: What a source phase lets expect of its score on another task, up to that task's difficulty; None where
            it has been in none.
        parent: Id of the candidate it was derived from; None where it was written from nothing.
    """

    instructions: Mapping[str, str]
    origin: Origin = field(default="original", compare=False)
    prior: Belief | None = field(default=None, compare=False)
    parent: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        # The id is worked out once: what the caller does to its own mapping later must not reach it.
        object.__setattr__(self, "instructions", dict(self.instructions))

    @cached_property
    def id(self) -> str:
        """Stable id: the first 16 hex digits of the sha256 of the instructions as canonical JSON."""
        text = json.dumps(dict(self.instructions), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self.id == other.id

    @classmethod
    def of(cls, program: dspy.Module) -> Candidate:
        """Read the instructions that a program has now, frozen submodules left out."""
        return cls({name: predictor.signature.instructions for name, predictor in free_predictors(program)})

    def with_instruction(self, predictor: str, text: str, origin: Origin = "proposal") -> Candidate:
        """Replace one predictor's instruction. A proposal is derived from this candidate, which it was to better."""
        parent = self.id if origin == "proposal" else None
        return Candidate({**self.instructions, predictor: text}, origin, parent=parent)

    def apply(self, program: dspy.Module) -> dspy.Module:
        """Copy a program and put these instructions into the copy.

        Demos, field metadata and everything else of the predictors survive; LMs, those of frozen submodules too, are
        shared, not copied.
        Signatures are replaced (``with_instructions``), never edited: an edit would change the user's class.

        Raises:
            ProgramError: If the program has no predictor of one of these names.
        """
        copied = copy_sharing_lms(program)
        after = dict(copied.named_predictors())
        unknown = sorted(set(self.instructions) - set(after))
        if unknown:
            raise ProgramError(
                f"The candidate has instructions for {unknown}, but the program's predictors are {sorted(after)}. "
                "Pass `mapping` to say which predictor takes which instruction."
            )
        for name, predictor in after.items():
            if name in self.instructions:
                predictor.signature = predictor.signature.with_instructions(self.instructions[name])
        return copied


def free_predictors(program: dspy.Module) -> list[tuple[str, Any]]:
    """List the predictors that may be optimised: those outside submodules that are frozen (``_compiled``).

    Args:
        program: A DSPy program. Its own ``_compiled`` flag does not count: whoever passes a program to an
            optimiser wants it optimised.
    """
    frozen = {
        id(predictor)
        for name, module in program.named_sub_modules()
        if module is not program and getattr(module, "_compiled", False)
        for _, predictor in module.named_predictors()
    }
    return [(name, predictor) for name, predictor in program.named_predictors() if id(predictor) not in frozen]


def read_program(program: dspy.Module, answers: Iterable[str]) -> tuple[Candidate, str]:
    """Read a program's own instructions, and find the predictor that gives the answer.

    Args:
        program: The program.
        answers: The output fields that hold the answer.

    Raises:
        ProgramError: If it is no DSPy program, or has no predictor that may be optimised.
    """
    if not isinstance(program, dspy.Module):
        kind = f"the class {program.__name__}; make an object of it" if isinstance(program, type) else repr(program)
        raise ProgramError(f"student is {kind}; expected a dspy.Module with at least one predictor.")
    original = Candidate.of(program)
    if not original.instructions:
        raise ProgramError(
            f"{type(program).__name__} has no predictor whose instruction could be optimised "
            f"({len(program.predictors())} predictors, all of them frozen by `_compiled`)."
        )
    named, wanted = dict(program.named_predictors()), set(answers)
    giving = [name for name in original.instructions if wanted & set(named[name].signature.output_fields)]
    return original, (giving or list(original.instructions))[-1]


def match_predictors(
    source: Iterable[str], target: Iterable[str], mapping: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Say which target predictor takes the instruction of which source predictor.

    Args:
        source: Predictor names of the program that the source prompts were made with.
        target: Predictor names of the program to be compiled.
        mapping: Target name by source name, where the names differ.

    Returns:
        Target name by source name.

    Raises:
        ProgramError: If a predictor on either side stays without a partner.
        ConfigurationError: If `mapping` names a predictor that neither side has, or a target predictor twice.
    """
    sources, targets = list(source), list(target)
    if mapping is not None:
        strangers = sorted((set(mapping) - set(sources)) | (set(mapping.values()) - set(targets)))
        if strangers:
            raise ConfigurationError(
                f"`mapping` names {strangers}; the source prompts have {sources} and the program has {targets}. "
                "Map source predictor names to target predictor names."
            )
        if len(set(mapping.values())) < len(mapping):
            raise ConfigurationError(
                f"`mapping` is {dict(mapping)}, which gives a target predictor more than one instruction. Map each of "
                f"{sources} to another one of {targets}."
            )
        free = set(targets) - set(mapping.values())
        matched = dict(mapping) | {name: name for name in sources if name in free and name not in mapping}
    elif len(sources) == len(targets) == 1:
        matched = {sources[0]: targets[0]}
    else:
        matched = {name: name for name in sources if name in targets}
    missing = [name for name in sources if name not in matched]
    lacking = [name for name in targets if name not in matched.values()]
    if missing or lacking:
        raise ProgramError(
            f"Source prompts are for predictors {sources}; the program has {targets}. Without a partner: "
            f"{missing} of the source prompts, {lacking} of the program. Pass `mapping` (source name -> target name)."
        )
    return matched


@dataclass(frozen=True)
class Standing:
    """How far a candidate has come on a panel of tasks.

    Attributes:
        candidate: The candidate.
        outcomes: Its outcomes so far by task name, in the panel's order of examples.
    """

    candidate: Candidate
    outcomes: Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True)
class Measurement:
    """How a candidate's score in a search came about.

    Attributes:
        examples: How many examples it has met, all tasks together.
        intervals: Rough 95 % bootstrap intervals of the score and of each metric, as means over tasks, by name; those
            that chance makes undefined are left out, and there are none for one that a race dropped.
        rival: For one that a race dropped: what the best had scored on the examples that it has met.
    """

    examples: int
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rival: float | None = None


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate and what it is worth on one panel of tasks.

    Attributes:
        candidate: The candidate.
        score: The phase's score: mean over tasks of the objective, minus the spread penalty; in [0, 1] without one.
            NaN if it was never scored, or no answer could be had.
        by_task: Metrics by task name, on the examples it has met: fewer than the others have where a race dropped it.
        round: The round it was scored in; 0 is the first population.
        expected: What is expected of it, all that is known taken together; None where nothing was weighed.
        measurement: How the score came about, where that was looked at.
    """

    candidate: Candidate
    score: float
    by_task: Mapping[str, Metrics]
    round: int = 0
    expected: Belief | None = None
    measurement: Measurement | None = None

    @property
    def violation(self) -> float:
        """By how much it misses the objective's constraints, as a mean over tasks; 0 where it keeps them all."""
        missed = [metrics.violation for metrics in self.by_task.values()]
        return math.fsum(missed) / len(missed) if missed else 0.0

    @property
    def merit(self) -> tuple[float, float]:
        """What was measured, for comparisons, higher is better: whoever keeps the constraints, then the score."""
        return -self.violation, self.score

    @property
    def rank(self) -> tuple[float, float, float]:
        """For ranking, higher is better: the constraints, the expected score in whole points, the measured score.

        What is expected is not known better than to a point of a hundred. A NaN is below all.
        """
        if math.isnan(self.score):
            return -math.inf, -math.inf, -math.inf
        expected = self.score if self.expected is None else round(self.expected.mean, 2)
        return -self.violation, expected, self.score
