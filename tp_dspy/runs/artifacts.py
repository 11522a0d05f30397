"""What is saved of a run, as JSON with a format and a version. Never pickle."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import tempfile
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import dspy
from pydantic import Field, PrivateAttr, ValidationError, field_validator

from tp_dspy.errors import ArtifactError, ConfigurationError
from tp_dspy.optimization.candidates import Candidate, Standing
from tp_dspy.optimization.phase_result import PhaseResult
from tp_dspy.runs.folders import write_whole
from tp_dspy.runs.records import CandidateRecord, PhaseRecord, Record
from tp_dspy.runs.side_by_side import SideBySide
from tp_dspy.scoring.held_out import HeldOut
from tp_dspy.scoring.objective import ObjectiveEvaluator
from tp_dspy.scoring.outcomes import Usage
from tp_dspy.sheets import Sheet, Shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from tp_dspy.runs.prompts import RenderedPrompt

__all__ = ["Artifact", "TransferResult", "names_secret", "plain", "save_program", "versions_in_use", "without_secrets"]


def versions_in_use() -> dict[str, str]:
    """Say which versions of this library, DSPy and Python there are."""
    return {"tp_dspy": _version("tp_dspy"), "dspy": _version("dspy"), "python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # A checkout that is not installed; no reason to lose a paid result.
        return "unknown"


# Names of settings that are secrets, in the many ways that LM clients spell them.
_SECRET = re.compile(
    r"(?i)api[-_]?key|secret|password|authorization|credential|(access|auth|bearer|ad|id|hf)[-_]?token|^token$"
    r"|subscription[-_]?key"
)


def names_secret(name: str) -> bool:
    """Whether a setting of this name is a secret."""
    return _SECRET.search(name) is not None


def plain(value: Any) -> Any:
    """Turn settings into what JSON can hold: an LM becomes its model's name, and secrets are left out."""
    if isinstance(value, dspy.BaseLM):
        return value.model
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items() if not names_secret(str(k))}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else type(value).__name__


def without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of an LM's settings what may be a secret, for what is given away or saved.

    Beside the names of secrets these are headers, whose keys providers name as they like, and user and query of the
    server's address. What identifies a run is another matter: there they count (`tp_dspy.runs.identity`).
    """
    kept = {name: value for name, value in plain(settings).items() if not name.lower().endswith("headers")}
    for name in ("api_base", "base_url"):
        if isinstance(kept.get(name), str):
            parts = urllib.parse.urlsplit(kept[name])
            kept[name] = urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return kept


def save_program(program: dspy.Module, path: Path) -> Path:
    """Save a program's state as JSON without secrets: DSPy leaves the keys of LMs out, but not headers that hold one.

    Args:
        program: The program.
        path: The file; its folder is made when missing.

    Returns:
        The path.
    """
    with tempfile.TemporaryDirectory(prefix="tp_dspy-") as folder:
        draft = Path(folder) / "program.json"
        program.save(draft)
        state = json.loads(draft.read_text(encoding="utf-8"))
    # In ASCII: a demo may hold half a surrogate pair, which no UTF-8 can.
    return write_whole(path, json.dumps(_lms_without_secrets(state), indent=2).encode())


def _lms_without_secrets(state: Any) -> Any:
    if isinstance(state, list):
        return [_lms_without_secrets(one) for one in state]
    if not isinstance(state, dict):
        return state
    return {
        k: without_secrets(v) if k == "lm" and isinstance(v, dict) else _lms_without_secrets(v)
        for k, v in state.items()
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Artifact(Record):
    """A record that is a file of its own."""

    version: Literal[1] = 1
    created: str = Field(default_factory=_now)
    versions: dict[str, str] = Field(default_factory=versions_in_use)
    settings: dict[str, Any]

    _format: ClassVar[str]

    @field_validator("settings", mode="before")
    @classmethod
    def _keep_secrets_out(cls, settings: Any) -> Any:
        return plain(settings)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a JSON file, all or nothing: a crash leaves the earlier file as it was.

        Args:
            path: The file; its folder is made when missing.

        Returns:
            The path.
        """
        return write_whole(Path(path), self.model_dump_json(indent=2).encode())

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


class TransferResult(Shown, Artifact):
    """The outcome of a compile: both phases, every candidate, metrics and cost.

    Prints as a summary; `report` writes a page with everything, `to_dataframe` and `to_csv` give each candidate,
    `render_prompt` the prompt as the LM receives it. It is as private as the data: what the finalists did on the
    examples that they were chosen on is in it, with the text of the examples.

    Attributes:
        winner: The target prompt, scored on the data it was selected on.
        original: The program's own instructions, scored on the same data.
        source: The source phase; None when source prompts were at hand or there was none.
        target: The target phase; None when the run was interrupted before it.
        stopped: Why the compile ended.
        seconds: Wall time.
        settings: How it was made.
        selection: Original, best source and target prompt on the examples that the winner was chosen on; None after an
            interruption.
        held_out: The same on examples that the compile has not seen; None where they were not measured.
        name: Name of the target, where it is known; a compile itself is given examples only.
    """

    format: Literal["tp_dspy.transfer_result"] = "tp_dspy.transfer_result"
    winner: CandidateRecord
    original: CandidateRecord
    source: PhaseRecord | None
    target: PhaseRecord | None
    stopped: str
    seconds: float
    selection: SideBySide | None = None
    held_out: SideBySide | None = None
    name: str = ""

    _format: ClassVar[str] = "tp_dspy.transfer_result"
    # The compiled program, while it is at hand: a file has none.
    _program: dspy.Module | None = PrivateAttr(default=None)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> TransferResult:
        return self  # read-only, and large: copies of the program share it

    @classmethod
    def of(
        cls,
        source: PhaseResult | None,
        target: PhaseResult | None,
        original: Candidate,
        seconds: float,
        settings: dict[str, Any],
        objective: ObjectiveEvaluator | None = None,
        name: str = "",
    ) -> TransferResult:
        """Make it from the phases that ran; at least one did. With the objective, finalists are compared in detail.

        A target phase that was interrupted before it had scored anything has no winner of its own: then the source
        phase's is the best so far.
        """
        last = target if target is not None and (target.history or source is None) else source
        if last is None:
            raise ValueError("source and target are both None; a result needs a phase.")
        return cls(
            winner=CandidateRecord.of(last.best),
            original=CandidateRecord.of(next(s for s in last.ranked if s.candidate == original)),
            source=PhaseRecord.of(source) if source else None,
            target=PhaseRecord.of(target) if target else None,
            stopped=(target or last).stopped,
            seconds=seconds,
            settings=settings,
            selection=_selection(last, source, original, objective) if objective is not None else None,
            name=name,
        )

    def with_held_out(self, held_out: HeldOut) -> TransferResult:
        """Add what the prompts did on examples that the compile has not seen, for reports.

        Args:
            held_out: What `ObjectiveEvaluator.evaluate_all` gave for the programs "original", "target" and, if you
                like, "best source"; others may be among them.

        Raises:
            ConfigurationError: If one of those two is missing, or "target" has other instructions than the winner.
        """
        instructions = held_out.instructions
        missing = [name for name in ("original", "target") if name not in instructions]
        if missing:
            raise ConfigurationError(
                f"The held-out table has the programs {list(instructions)}; expected 'original' and 'target' among "
                "them."
            )
        if any(instructions["target"].get(name) != text for name, text in self.winner.instructions.items()):
            raise ConfigurationError(
                "The held-out program 'target' has other instructions than the winner of this compile. Pass the "
                "program that it returned, or one made of it, as 'target'."
            )
        ordered = {"original": held_out.evaluations["original"], **held_out.evaluations}
        measured = SideBySide.of(ordered, instructions, held_out.examples, seed=held_out.seed)
        return self.model_copy(update={"held_out": measured})

    def programs(self, student: dspy.Module, top_k: int = 3) -> list[dspy.Module]:
        """Make the programs of the best target prompts, e.g. for ``dspy.Ensemble``.

        Args:
            student: The program that was compiled, or one with the same predictors.
            top_k: How many, at most.

        Returns:
            Copies of the student, the winner first.
        """
        phases = [phase for phase in (self.target, self.source) if phase is not None]
        # Where the target phase was interrupted before it had scored anything, the source phase chose the winner.
        finalists = next((p.ranked for p in phases if p.ranked[0].id == self.winner.id), [self.winner])
        return [record.scored().candidate.apply(student) for record in finalists[:top_k]]

    # To look at.

    def _sheet(self) -> Sheet:
        from tp_dspy.runs.tables import result_sheet

        return result_sheet(self)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained HTML page: summary, plots, every candidate, the examples side by side.

        Returns:
            The path.
        """
        from tp_dspy.report.page import write_page

        return write_page(self, path)

    def plots(self) -> dict[str, Figure]:
        """Draw all plots that make sense for this result, by name; see `tp_dspy.report.plots`."""
        from tp_dspy.report.plots import figures

        return figures(self)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row for each candidate of each phase; see `tp_dspy.runs.frames.result_frame` for the columns."""
        from tp_dspy.runs.frames import result_frame

        return result_frame(self)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dataframe` for spreadsheets; texts that one would take for a formula get an apostrophe in front.

        Returns:
            The path.
        """
        from tp_dspy.runs.frames import write_csv

        return write_csv(self.to_dataframe(), path)

    def render_prompt(
        self,
        example: dspy.Example,
        *,
        program: dspy.Module | None = None,
        predictor: str | None = None,
        adapter: dspy.Adapter | None = None,
    ) -> RenderedPrompt:
        """Render the target prompt exactly as the LM receives it; no LM is called.

        Copy this rather than the instruction alone when you leave DSPy: field markers, demos and the order of things
        are part of what was scored.

        Args:
            example: An example with inputs set.
            program: The program that was compiled; needed for a result that was loaded from a file.
            predictor: Whose prompt; see `tp_dspy.runs.prompts.render_prompt`.
            adapter: Formats the prompt; by default the one configured in DSPy.

        Raises:
            ConfigurationError: If there is no program at hand, or no such predictor.
            DataError: If the example lacks an input of the predictor.
        """
        from tp_dspy.runs.prompts import render_prompt

        if program is not None:
            program = self.winner.scored().candidate.apply(program)
        program = program if program is not None else self._program
        if program is None:
            raise ConfigurationError(
                "A result that was loaded from a file has no program: pass program=, the one that was compiled."
            )
        return render_prompt(program, example, predictor=predictor, adapter=adapter)

    @property
    def scorer_usage(self) -> Usage:
        """What the scorer LM cost in this compile."""
        return sum((phase.scorer_usage for phase in (self.source, self.target) if phase), Usage())

    @property
    def reference_usage(self) -> Usage:
        """What the reference LM cost in this compile."""
        return sum((phase.reference_usage for phase in (self.source, self.target) if phase), Usage())


def _selection(
    phase: PhaseResult, source: PhaseResult | None, original: Candidate, objective: ObjectiveEvaluator
) -> SideBySide | None:
    """Set the prompts that matter side by side, on the examples by which they were chosen: those all have answers to.

    Returns:
        None for several tasks, whose scores make one in another way; and where there is nothing to compare.
    """
    finals = phase.finals
    if finals is None or len(finals.panel) != 1:
        return None
    chosen = {"original": original, "target": phase.best.candidate}
    # Of source prompts at hand the one of which most was expected; whom a race dropped comes late in the history.
    at_hand = max(
        (s.candidate for s in phase.history if s.candidate.origin == "source"),
        key=lambda candidate: round(candidate.prior.mean, 2) if candidate.prior is not None else -math.inf,
        default=None,
    )
    carried = source.best.candidate if source is not None else at_hand
    known: dict[str, Standing] = {standing.candidate.id: standing for standing in finals.standings}
    if carried is not None and carried.id in known:
        chosen = {"original": original, "best source": carried, "target": phase.best.candidate}
    ((task, examples),) = finals.panel.items()
    by_prompt = [standing.outcomes[task] for standing in finals.standings]
    rows = [i for i in range(len(examples)) if all(outcomes[i].status != "error" for outcomes in by_prompt)]
    if not rows:
        return None
    evaluations = {
        name: objective.summarize([known[c.id].outcomes[task][i] for i in rows]) for name, c in chosen.items()
    }
    instructions = {name: c.instructions for name, c in chosen.items()}
    return SideBySide.of(evaluations, instructions, [examples[i] for i in rows])
