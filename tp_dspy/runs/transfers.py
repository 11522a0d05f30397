"""Many targets at once: the programs that came of one set of source prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dspy

from tp_dspy.runs.artifacts import TransferResult
from tp_dspy.sheets import Sheet, Shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Transfers"]

_COLUMNS = ["target", "original", "source", "target_prompt", "gain", "origin", "scorer_calls", "reference_calls"]
_COLUMNS += ["stopped"]


@dataclass(frozen=True, repr=False)
class Transfers(Shown, Mapping[str, dspy.Module]):
    """The compiled program of each target, by the target's name.

    Prints as a table; `to_frame` gives the figures.

    Attributes:
        programs: The programs; each has its `TransferResult` as ``detailed_results``.
        missing: Targets that the run did not come to before a budget or Ctrl-C ended it.
    """

    programs: Mapping[str, dspy.Module]
    missing: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> dspy.Module:
        return self.programs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.programs)

    def __len__(self) -> int:
        return len(self.programs)

    @property
    def results(self) -> dict[str, TransferResult]:
        """What was found for each target."""
        return {name: program.detailed_results for name, program in self.programs.items()}

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each target: three scores on what it was selected on, and what it cost.

        Returns:
            ``original``, ``source`` (the best of the source prompts as they are; NaN where none was a finalist) and
            ``target_prompt`` are scores of the selection; then ``gain`` (``target_prompt`` less ``original``),
            ``origin`` of the winner, ``scorer_calls`` and ``reference_calls`` (those that reached the LM: a program of
            two steps makes two of a pair, DSPy's cache answers some), and why the phase ``stopped``. The index is the
            ``target``.
        """
        import pandas as pd

        rows = []
        for name, result in self.results.items():
            finalists = result.target.ranked if result.target is not None else []
            carried = [record.score for record in finalists if record.origin == "source"]
            rows.append(
                {
                    "target": name,
                    "original": result.original.score,
                    "source": max(carried, default=float("nan")),
                    "target_prompt": result.winner.score,
                    "gain": result.winner.score - result.original.score,
                    "origin": result.winner.origin,
                    "scorer_calls": result.scorer_usage.calls,
                    "reference_calls": result.reference_usage.calls,
                    "stopped": result.stopped,
                }
            )
        return pd.DataFrame(rows, columns=_COLUMNS).set_index("target")

    def _sheet(self) -> Sheet:
        from tp_dspy.runs.tables import transfers_sheet

        return transfers_sheet(self)
