"""What is saved of a run: source prompts and results, as JSON with a format and a version. Never pickle."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import dspy
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tp_dspy.errors import ArtifactError
from tp_dspy.optimization.candidates import Candidate, Origin, ScoredCandidate
from tp_dspy.optimization.cycle import PhaseResult
from tp_dspy.scoring.evaluation import Metrics
from tp_dspy.scoring.outcomes import Usage

__all__ = ["CandidateRecord", "PhaseRecord", "ProposalRecord", "SourcePrompts", "TaskRecord", "TransferResult"]


class _Record(BaseModel):
    # NaN is a value here (AUROC of a set with one class), and plain JSON has none: it is written as "NaN".
    model_config = ConfigDict(ser_json_inf_nan="strings", frozen=True, extra="forbid")


class CandidateRecord(_Record):
    """A candidate with its scores.

    Attributes:
        id: Stable id of the instructions.
        instructions: Instruction by predictor name.
        origin: Where it came from.
        score: Its score in the phase, in [0, 1] without a spread penalty; NaN if it was never scored.
        by_task: Metrics by task name.
        round: The round it was first scored in; 0 is the first population.
        prior: Its score in the source phase, for source prompts.
    """

    id: str
    instructions: dict[str, str]
    origin: Origin
    score: float
    by_task: dict[str, Metrics]
    round: int
    prior: float | None = None

    @classmethod
    def of(cls, scored: ScoredCandidate) -> CandidateRecord:
        """Record a scored candidate."""
        candidate = scored.candidate
        return cls(
            id=candidate.id,
            instructions=dict(candidate.instructions),
            origin=candidate.origin,
            score=scored.score,
            by_task=dict(scored.by_task),
            round=scored.round,
            prior=candidate.prior,
        )

    def scored(self) -> ScoredCandidate:
        """Give the candidate back."""
        return ScoredCandidate(
            Candidate(self.instructions, self.origin, self.prior), self.score, self.by_task, self.round
        )


class ProposalRecord(_Record):
    """One reply of the reference LM, and why it was rejected (None when it was not)."""

    predictor: str
    text: str
    reply: str
    reason: str | None
    candidate: str | None


class PhaseRecord(_Record):
    """What a phase did.

    Attributes:
        ranked: The finalists, best first, with their scores on the selection panel.
        history: Every candidate scored on the search panel, in order of arrival.
        dropped: Ids of candidates that the race dropped.
        proposals: Every reply of the reference LM.
        stopped: Why the phase ended.
        scorer_usage: What the scorer LM cost.
        reference_usage: What the reference LM cost.
    """

    ranked: list[CandidateRecord]
    history: list[CandidateRecord]
    dropped: list[str]
    proposals: list[ProposalRecord]
    stopped: str
    scorer_usage: Usage
    reference_usage: Usage

    @classmethod
    def of(cls, result: PhaseResult) -> PhaseRecord:
        """Record a phase."""
        return cls(
            ranked=[CandidateRecord.of(scored) for scored in result.ranked],
            history=[CandidateRecord.of(scored) for scored in result.history],
            dropped=[candidate.id for candidate in result.dropped],
            proposals=[
                ProposalRecord(
                    predictor=p.predictor,
                    text=p.text,
                    reply=p.reply,
                    reason=p.reason,
                    candidate=p.candidate.id if p.candidate else None,
                )
                for p in result.proposals
            ],
            stopped=result.stopped,
            scorer_usage=result.scorer_usage,
            reference_usage=result.reference_usage,
        )


class TaskRecord(_Record):
    """A task that took part, by name and size."""

    name: str
    domain: str | None
    description: str
    train: int
    validation: int


def _versions() -> dict[str, str]:
    return {"tp_dspy": _version("tp_dspy"), "dspy": _version("dspy"), "python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # A checkout that is not installed; no reason to lose a paid result.
        return "unknown"


# Names of settings that are secrets, in the many ways that LM clients spell them.
_SECRET = re.compile(
    r"(?i)api[-_]?key|secret|password|authorization|credential|(access|auth|bearer|ad|id)[-_]?token|^token$"
)


def _plain(value: Any) -> Any:
    """Turn settings into what JSON can hold: an LM becomes its model's name, and secrets are left out."""
    if isinstance(value, dspy.BaseLM):
        return value.model
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if not _SECRET.search(str(k))}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else type(value).__name__


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Artifact(_Record):
    """A record that is a file of its own."""

    version: Literal[1] = 1
    created: str = Field(default_factory=_now)
    versions: dict[str, str] = Field(default_factory=_versions)
    settings: dict[str, Any]

    _format: ClassVar[str]

    @field_validator("settings", mode="before")
    @classmethod
    def _keep_secrets_out(cls, settings: Any) -> Any:
        return _plain(settings)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a JSON file, all or nothing: a crash leaves the earlier file as it was.

        Args:
            path: The file; its folder is made when missing.

        Returns:
            The path.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that the last step is a rename, which happens whole or not at all.
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with draft.open("x", encoding="utf-8", newline="\n") as file:
                file.write(self.model_dump_json(indent=2))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote.

        Raises:
            ArtifactError: If it is not JSON, of another format, of an unknown version, or damaged.
            FileNotFoundError: If there is no such file.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(
                f"{path} is not JSON ({error}); expected a file that {cls.__name__}.save wrote."
            ) from error
        found = raw.get("format") if isinstance(raw, dict) else None
        if found != cls._format:
            raise ArtifactError(f"{path} has the format {found!r}; {cls.__name__} reads {cls._format!r}.")
        if raw.get("version") != 1:
            raise ArtifactError(
                f"{path} has version {raw.get('version')!r} of {cls._format!r}; this tp_dspy reads version 1. "
                "Update tp_dspy, or make the file again."
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}" for fault in error.errors()]
            more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
            raise ArtifactError(
                f"{path} is damaged: {'; '.join(faults[:3])}{more}. Make the file again with {cls.__name__}.save."
            ) from error


class SourcePrompts(_Artifact):
    """The outcome of the source phase: prompts that did well over several source tasks, best first.

    Attributes:
        prompts: The best candidates, with their scores on the source tasks.
        original: The program's own instructions, with their scores on the same tasks.
        tasks: The source tasks.
        phase: The whole phase.
        settings: How it was made.
    """

    format: Literal["tp_dspy.source_prompts"] = "tp_dspy.source_prompts"
    prompts: list[CandidateRecord] = Field(min_length=1)
    original: CandidateRecord
    tasks: list[TaskRecord]
    phase: PhaseRecord

    _format: ClassVar[str] = "tp_dspy.source_prompts"


class TransferResult(_Artifact):
    """The outcome of a compile: both phases, every candidate, metrics and cost. No example's text but in replies.

    Attributes:
        winner: The target prompt, scored on the data it was selected on.
        original: The program's own instructions, scored on the same data.
        source: The source phase; None when source prompts were at hand or there was none.
        target: The target phase; None when the run was interrupted before it.
        stopped: Why the compile ended.
        seconds: Wall time.
        settings: How it was made.
    """

    format: Literal["tp_dspy.transfer_result"] = "tp_dspy.transfer_result"
    winner: CandidateRecord
    original: CandidateRecord
    source: PhaseRecord | None
    target: PhaseRecord | None
    stopped: str
    seconds: float

    _format: ClassVar[str] = "tp_dspy.transfer_result"

    @property
    def scorer_usage(self) -> Usage:
        """What the scorer LM cost in this compile."""
        return sum((phase.scorer_usage for phase in (self.source, self.target) if phase), Usage())

    @property
    def reference_usage(self) -> Usage:
        """What the reference LM cost in this compile."""
        return sum((phase.reference_usage for phase in (self.source, self.target) if phase), Usage())
