"""Several programs on the same held-out examples: side by side, with intervals and paired differences."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dspy

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.scoring.bar import watched
from tp_dspy.scoring.calibrated import CalibratedProgram
from tp_dspy.scoring.comparison import Comparison, compare
from tp_dspy.scoring.evaluation import Evaluation
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.scorer import Job, Scorer
from tp_dspy.sheets import Cell, Line, Sheet, Shown, Table

if TYPE_CHECKING:
    import pandas as pd

    from tp_dspy.scoring.objective import ObjectiveEvaluator

__all__ = ["HEADINGS", "HeldOut", "measure"]

HEADINGS: Mapping[str, str] = {
    "ifr": "IFR",
    "accuracy": "ACC",
    "ece": "ECE ↓",
    "auroc": "AUROC",
    "auprc_positive": "PR-P",
    "auprc_negative": "PR-N",
    "score": "Score",
}
"""What the metrics are called where there is little room."""


@dataclass(frozen=True, repr=False)
class HeldOut(Shown):
    """Programs measured on the same examples; the first is what the others are compared with.

    Prints as a table; `to_dict` and `to_frame` give the figures.

    Attributes:
        evaluations: By the program's name.
        seed: Of the resampling.
        examples: What they were measured on.
        instructions: Of each program, by predictor name.
    """

    evaluations: Mapping[str, Evaluation]
    seed: int = 0
    examples: Sequence[dspy.Example] = ()
    instructions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """Name of the program that the others are compared with."""
        return next(iter(self.evaluations))

    @property
    def usage(self) -> Usage:
        """What it cost. A program that has two names was run once."""
        once = {id(evaluation.outcomes): evaluation.usage for evaluation in self.evaluations.values()}
        return sum(once.values(), Usage())

    def compare(self, name: str, base: str | None = None) -> Comparison:
        """Compare a program with another, by default the first: paired, on the examples that both have answers to."""
        unknown = [one for one in (name, base) if one is not None and one not in self.evaluations]
        if unknown:
            raise ConfigurationError(f"There is no program {unknown[0]!r}; there is {list(self.evaluations)}.")
        one, other = self.evaluations[base or self.first], self.evaluations[name]
        return compare(one.outcomes, other.outcomes, one.rule, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain values, NaN as None: a row for each program, and differences to the first."""
        from tp_dspy.scoring.reports import plain

        rows = {
            name: {
                **{metric: plain(value) for metric, value in evaluation.metrics.as_dict().items()},
                "intervals": {k: [plain(low), plain(high)] for k, (low, high) in evaluation.intervals.items()},
                "statuses": evaluation.statuses,
            }
            for name, evaluation in self.evaluations.items()
        }
        others = [name for name in self.evaluations if name != self.first]
        return {"programs": rows, "differences": {name: self.compare(name).to_dict() for name in others}}

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each program, the metrics as columns."""
        import pandas as pd

        rows = {name: evaluation.metrics.as_dict() for name, evaluation in self.evaluations.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("program")

    def _sheet(self) -> Sheet:
        n = self.evaluations[self.first].metrics.n
        rule = self.evaluations[self.first].rule
        # Brier score and coverage are left to `to_frame`: seven columns are what 80 characters take.
        names = [name for name in HEADINGS if name != "score"] + [*rule.custom, "score"]
        rows = [
            [name, *(_cell(one.metrics.as_dict()[metric], one.intervals.get(metric)) for metric in names)]
            for name, one in self.evaluations.items()
        ]
        head = ["prompt", *(HEADINGS.get(metric, metric) for metric in names)]
        title = f"On {n} held-out examples (95 % intervals below)"
        return Sheet([Table(title, head, rows, narrow=True), *map(Line, self._differences())])

    def _differences(self) -> list[str]:
        said = []
        for name in self.evaluations:
            if name != self.first:
                d = self.compare(name)
                said.append(
                    f"{name} against {self.first}, paired: score {d.score:+.3f} [{d.low:+.3f}, {d.high:+.3f}], "
                    f"p = {d.p_value:.3f} (two-sided bootstrap, {d.n} examples)."
                )
        return said


def measure(
    objective: ObjectiveEvaluator,
    programs: Mapping[str, dspy.Module],
    examples: Sequence[dspy.Example],
    *,
    lm: dspy.BaseLM | None = None,
    num_threads: int | None = None,
    executor: Any = None,
    max_error_rate: float = 0.1,
    seed: int = 0,
    verbose: bool = True,
    arrives: Callable[[Outcome], None] = lambda outcome: None,
) -> HeldOut:
    """Measure programs on the same examples, all in one pool; one that has two names is run once.

    Args:
        objective: What they are measured by.
        programs: By the name to report them under, the one to compare with first.
        examples: Examples that no search has seen; at least one.
        lm: As in `ObjectiveEvaluator.evaluate`; so for the next six.
        num_threads: Concurrent calls.
        executor: Where the programs run.
        max_error_rate: Share of calls that may end without an answer.
        seed: Seed of the resampling.
        verbose: Whether to show a progress bar.
        arrives: Told every outcome.

    Raises:
        ConfigurationError: If there is no program.
        DataError: If there are no examples.
        ProgramError, ScoringFailedError, LMUnavailableError, LogprobsUnavailableError: As `evaluate`.
    """
    if not programs:
        raise ConfigurationError("There are no programs to measure; pass at least one, by name.")
    if not examples:
        raise DataError("There are no examples to measure on; pass at least one.")
    for program in programs.values():
        objective.check(program, examples)
    scorer = Scorer(objective, lm=lm, num_threads=num_threads, executor=executor, max_error_rate=max_error_rate)
    # By identity: what two programs would be saved as says nothing of what else they hold, such as a corpus.
    same: dict[int, str] = {}
    for name, program in programs.items():
        same.setdefault(id(program), name)
    jobs = [
        Job((name, index), prepared, example)
        for name in same.values()
        for prepared in [scorer.prepare(programs[name])]
        for index, example in enumerate(examples)
    ]
    outcomes: dict[tuple[str, int], Outcome] = {}
    scored = scorer.score(jobs)
    # Closed at once where a listener breaks it off: no further call begins, and the bar leaves the screen.
    with contextlib.closing(watched(scored, len(jobs), "Held-out examples") if verbose else scored) as pairs:
        for key, outcome in pairs:
            outcomes[key] = outcome
            arrives(outcome)
    evaluations: dict[str, Evaluation] = {}
    for name in same.values():
        program, listed = programs[name], [outcomes[name, index] for index in range(len(examples))]
        if isinstance(program, CalibratedProgram):
            listed = program.applied_to(listed)
        evaluations[name] = objective.summarize(listed, seed=seed)
    by_name = {name: evaluations[same[id(program)]] for name, program in programs.items()}
    instructions = {
        name: {predictor: one.signature.instructions for predictor, one in program.named_predictors()}
        for name, program in programs.items()
    }
    return HeldOut(by_name, seed, tuple(examples), instructions)


def _cell(value: float, interval: tuple[float, float] | None) -> str | Cell:
    if math.isnan(value):
        return "-"
    low, high = interval or (math.nan, math.nan)
    return Cell(_short(value), f"{_short(low)}-{_short(high)}")


def _short(value: float) -> str:
    """Two digits, without the leading zero: seven intervals are to fit on 80 columns."""
    return "1.0" if value >= 0.995 else f"{value:.2f}".removeprefix("0")
