"""Source prompts: what a source phase found, to be kept, looked at, put together and carried over to targets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate, match_predictors
from tp_dspy.optimization.evidence import Belief
from tp_dspy.optimization.phase_result import PhaseResult
from tp_dspy.optimization.phase_score import combined
from tp_dspy.runs.artifacts import Artifact
from tp_dspy.runs.records import CandidateRecord, PhaseRecord, TaskRecord
from tp_dspy.sheets import Sheet, Shown
from tp_dspy.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SourcePrompts"]


class SourcePrompts(Shown, Artifact):
    """The outcome of the source phase: prompts that did well over several source tasks, best first.

    Prints as a table; `to_frame` gives all metrics of each prompt on each task.

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

    @classmethod
    def of(
        cls, result: PhaseResult, original: Candidate, tasks: Sequence[Task], top_k: int, settings: dict[str, Any]
    ) -> SourcePrompts:
        """Make them from a source phase: its `top_k` best finalists."""
        ranked = [CandidateRecord.of(scored) for scored in result.ranked]
        return cls(
            prompts=ranked[:top_k],
            original=next(record for record in ranked if record.id == original.id),
            tasks=[TaskRecord.of(task) for task in tasks],
            phase=PhaseRecord.of(result),
            settings=settings,
        )

    # Carrying them over.

    def candidates(
        self, original: Candidate, top_k: int, mapping: Mapping[str, str] | None = None
    ) -> list[ScoredCandidate]:
        """Turn the best prompts into candidates for a program.

        Args:
            original: The program's own instructions.
            top_k: How many, at most.
            mapping: Predictor name of the program by predictor name here, where they differ.

        Returns:
            Candidates with their source scores, best first.

        Raises:
            ProgramError, ConfigurationError: If the predictors do not match; both lists are named.
        """
        records = self.prompts[:top_k]
        adapted = self.adapted(records, original, mapping)
        return [replace(r.scored(), candidate=c) for r, c in zip(records, adapted, strict=True)]

    def adapted(
        self, records: Iterable[CandidateRecord], original: Candidate, mapping: Mapping[str, str] | None = None
    ) -> list[Candidate]:
        """Turn records of this phase into candidates for a program; arguments and errors as in `candidates`."""
        matched = match_predictors(self.original.instructions, original.instructions, mapping)
        return [
            Candidate(
                {matched[name]: text for name, text in record.instructions.items()}, "source", self._prior(record)
            )
            for record in records
        ]

    def known(self, original: Candidate, mapping: Mapping[str, str] | None = None) -> Candidate:
        """Give a program's own instructions what is expected of them, where the source phase began with the same."""
        matched = match_predictors(self.original.instructions, original.instructions, mapping)
        same = {matched[name]: text for name, text in self.original.instructions.items()} == original.instructions
        return replace(original, prior=self._prior(self.original)) if same else original

    def judged(self, original: Candidate, mapping: Mapping[str, str] | None = None) -> set[str]:
        """Say which candidates the source phase has judged, on tasks that are still here, and not only begun to.

        Args:
            original: The program's own instructions.
            mapping: As in `candidates`.

        Returns:
            Their ids, as candidates for the program.
        """
        begun = set(self.phase.unfinished)
        met = [record for record in self.phase.history if any(metrics.n for metrics in record.by_task.values())]
        known = [record for record in met if record.id not in begun]
        return {candidate.id for candidate in self.adapted(known, original, mapping)}

    def _prior(self, record: CandidateRecord) -> Belief | None:
        """What a finalist's scores on the source tasks let expect of its score on another task."""
        if record.expected is None:
            return None
        # The new task differs from the mean of all tasks, and so does the mean of the few that were seen.
        elsewhere = self.phase.interaction**2 * (1.0 + 1.0 / max(1, len(record.by_task)))
        return Belief(record.expected.mean, math.sqrt(record.expected.sd**2 + elsewhere))

    # Putting them together, and taking them apart.

    def merge(self, *others: SourcePrompts, top_k: int | None = None) -> SourcePrompts:
        """Put source prompts of several runs together, e.g. of two domains.

        Tasks differ in how hard they are, so scores of different runs cannot be compared as they are. Prompts that
        both runs have scored, the original above all, tell by how much they differ, and all scores are brought to one
        level by that: the level of all tasks together.

        Args:
            *others: Made with programs that have the same predictors.
            top_k: How many prompts to keep, at least 1; by default as many as all have together.

        Raises:
            ProgramError: If the predictors do not match; both lists are named.
            ConfigurationError: If two have no prompt in common, or `top_k` is too small.
        """
        merged = self
        for other in others:
            matched = match_predictors(other.original.instructions, merged.original.instructions)
            merged = _merged(merged, _renamed(other, matched))
        keep = sum(len(one.prompts) for one in (self, *others)) if top_k is None else top_k
        if keep < 1:
            raise ConfigurationError(f"top_k is {top_k!r}; expected at least 1.")
        return merged.model_copy(update={"prompts": merged.phase.ranked[:keep]})

    def filter(self, *, tasks: Iterable[str] = (), domains: Iterable[str] = ()) -> SourcePrompts:
        """Keep only what is known from some of the source tasks, and rank the prompts by that.

        What was proposed with the other tasks in sight stays; it is judged without them.

        Args:
            tasks: Names of tasks.
            domains: Domains; a task is kept that is named or of one of these.

        Raises:
            ConfigurationError: If a name is unknown, or nothing is named.
        """
        names, wanted = set(tasks), set(domains)
        known = {task.name for task in self.tasks}, {task.domain for task in self.tasks if task.domain}
        strangers = sorted((names - known[0]) | (wanted - known[1]))
        if strangers or not (names or wanted):
            raise ConfigurationError(_unknown(strangers, *known))
        kept = [task for task in self.tasks if task.name in names or task.domain in wanted]
        return self._only({task.name for task in kept}, kept)

    def _only(self, names: set[str], tasks: list[TaskRecord]) -> SourcePrompts:
        penalty = self._penalty
        ranked = _ranked(_restricted(record, names, penalty) for record in self.phase.ranked)
        history = [_restricted(record, names, penalty) for record in self.phase.history]
        return self.model_copy(
            update={
                "prompts": ranked[: len(self.prompts)],
                "original": next(record for record in ranked if record.id == self.original.id),
                "tasks": tasks,
                "phase": self.phase.model_copy(update={"ranked": ranked, "history": history}),
            }
        )

    @property
    def _penalty(self) -> float:
        return float(self.settings.get("spread_penalty") or 0.0)

    # Looking at them.

    def to_frame(self) -> pd.DataFrame:
        """Return all metrics of each prompt on each task.

        Returns:
            A row for each prompt and task; prompts are numbered from 1, best first, and the original is 0. The
            instructions are in the columns that are named after the predictors.
        """
        import pandas as pd

        numbered = [*enumerate(self.prompts, start=1)]
        if all(record.id != self.original.id for record in self.prompts):
            numbered.append((0, self.original))
        rows: list[dict[str, Any]] = []
        for number, record in numbered:
            about = {"origin": record.origin, "mean_score": record.score, **record.instructions}
            rows += [
                {"prompt": number, "task": task, **metrics.as_dict(), **about}
                for task, metrics in record.by_task.items()
            ]
        return pd.DataFrame(rows).set_index(["prompt", "task"])

    def _sheet(self) -> Sheet:
        from tp_dspy.runs.tables import source_prompts_sheet

        return source_prompts_sheet(self)


def _unknown(strangers: Sequence[str], names: Iterable[str], domains: Iterable[str]) -> str:
    said = f"There is no source task or domain {', '.join(map(repr, strangers))}" if strangers else "Nothing was named"
    return f"{said}; the tasks are {sorted(names)}, the domains {sorted(domains)}. Name those to keep."


def _renamed(sources: SourcePrompts, matched: Mapping[str, str]) -> SourcePrompts:
    """Give predictors the names that they have elsewhere; the ids of the prompts follow from that."""
    if all(old == new for old, new in matched.items()):
        return sources
    phase, ids = sources.phase, dict[str, str]()

    def renamed(record: CandidateRecord) -> CandidateRecord:
        texts = {matched[name]: text for name, text in record.instructions.items()}
        ids[record.id] = Candidate(texts).id
        parent = ids.get(record.parent or "", record.parent)
        return record.model_copy(update={"id": ids[record.id], "instructions": texts, "parent": parent})

    history, ranked = [renamed(record) for record in phase.history], [renamed(record) for record in phase.ranked]
    proposals = [
        p.model_copy(update={"predictor": matched[p.predictor], "candidate": ids.get(p.candidate or "", p.candidate)})
        for p in phase.proposals
    ]
    partial = {name: [ids.get(id, id) for id in getattr(phase, name)] for name in ("dropped", "unfinished")}
    moved = {"history": history, "ranked": ranked, "proposals": proposals, **partial}
    original, prompts = renamed(sources.original), [renamed(record) for record in sources.prompts]
    return sources.model_copy(
        update={"original": original, "prompts": prompts, "phase": phase.model_copy(update=moved)}
    )


def _merged(first: SourcePrompts, second: SourcePrompts) -> SourcePrompts:
    """Merge two, all of whose finalists are kept."""
    penalty = first._penalty
    a = {record.id: record for record in first.phase.ranked}
    b = {record.id: record for record in second.phase.ranked}
    both = [_together(a[id], b[id], penalty) for id in a if id in b]
    levels = [r for r in both if not math.isnan(r.score + a[r.id].score + b[r.id].score)]
    if not levels:
        raise ConfigurationError(
            "The source prompts to be merged have no prompt in common that was scored in both runs, so that nothing "
            "tells how the difficulty of their tasks compares. Make them from one program with the same instruction, "
            "or give both the same seed_instructions."
        )
    lift_a = float(np.mean([r.score - a[r.id].score for r in levels]))
    lift_b = float(np.mean([r.score - b[r.id].score for r in levels]))
    shared = {r.id: _pooled(r, _lifted(a[r.id], lift_a), _lifted(b[r.id], lift_b)) for r in both}
    ranked = _ranked(
        [
            *(shared.get(id) or _lifted(record, lift_a) for id, record in a.items()),
            *(_lifted(record, lift_b) for id, record in b.items() if id not in a),
        ]
    )
    old = {record.id: record for record in first.phase.history}
    new = {record.id: record for record in second.phase.history}
    history = [_together(r, new[r.id], penalty) if r.id in new else r for r in old.values()]
    history += [record for id, record in new.items() if id not in old]
    tasks = [*first.tasks, *(t for t in second.tasks if t.name not in {task.name for task in first.tasks})]
    sizes = len(first.tasks), len(second.tasks)
    squares = [first.phase.interaction**2, second.phase.interaction**2]
    phase = PhaseRecord(
        ranked=ranked,
        history=history,
        # What either has not met whole: the score of both is on fewer examples than others have.
        dropped=list(dict.fromkeys([*first.phase.dropped, *second.phase.dropped])),
        unfinished=list(dict.fromkeys([*first.phase.unfinished, *second.phase.unfinished])),
        proposals=[*first.phase.proposals, *second.phase.proposals],
        stopped="merged",
        scorer_usage=first.phase.scorer_usage + second.phase.scorer_usage,
        reference_usage=first.phase.reference_usage + second.phase.reference_usage,
        interaction=math.sqrt(float(np.average(squares, weights=sizes))),
    )
    return SourcePrompts(
        prompts=ranked,
        original=next(record for record in ranked if record.id == first.original.id),
        tasks=tasks,
        phase=phase,
        settings=_common(first.settings, second.settings),
    )


def _common(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the settings that are the same; of LMs that differ, name both."""
    kept = {name: value for name, value in first.items() if second.get(name) == value}
    for name in ("reference_lm", "scorer_lm"):
        kept.setdefault(name, " and ".join(str(one.get(name)) for one in (first, second)))
    return kept


def _ranked(records: Iterable[CandidateRecord]) -> list[CandidateRecord]:
    return sorted(records, key=lambda record: record.scored().rank, reverse=True)


def _together(one: CandidateRecord, other: CandidateRecord, penalty: float) -> CandidateRecord:
    """Make one record of a prompt's scores in two runs."""
    by_task = {**other.by_task, **one.by_task}
    score = combined([metrics.score for metrics in by_task.values()], penalty) if by_task else math.nan
    return one.model_copy(update={"by_task": by_task, "score": score, "measurement": None})


def _restricted(record: CandidateRecord, names: set[str], penalty: float) -> CandidateRecord:
    """Judge a prompt by some of its tasks only; what is expected of it moves along, and less is known of it."""
    by_task = {task: metrics for task, metrics in record.by_task.items() if task in names}
    score = combined([metrics.score for metrics in by_task.values()], penalty) if by_task else math.nan
    expected = record.expected
    if expected is not None:
        moved = 0.0 if math.isnan(score) or math.isnan(record.score) else score - record.score
        expected = Belief(expected.mean + moved, expected.sd * math.sqrt(len(record.by_task) / max(1, len(by_task))))
    return record.model_copy(update={"by_task": by_task, "score": score, "expected": expected, "measurement": None})


def _lifted(record: CandidateRecord, lift: float) -> CandidateRecord:
    """Bring a record to another level."""
    expected = record.expected and Belief(record.expected.mean + lift, record.expected.sd)
    return record.model_copy(update={"score": record.score + lift, "expected": expected, "measurement": None})


def _pooled(together: CandidateRecord, one: CandidateRecord, other: CandidateRecord) -> CandidateRecord:
    """Weigh what two runs let expect of one prompt by how sure each is."""
    beliefs = [record.expected for record in (one, other) if record.expected is not None]
    if not beliefs:
        return together
    weights = [1.0 / max(belief.sd, 1e-3) ** 2 for belief in beliefs]
    mean = float(np.average([belief.mean for belief in beliefs], weights=weights))
    return together.model_copy(update={"expected": Belief(mean, 1.0 / math.sqrt(sum(weights)))})
