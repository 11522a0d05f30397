"""What a compile works on: data, first populations and plans, all checked before a call is paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate
from tp_dspy.optimization.phases import PhaseInput
from tp_dspy.optimization.plan import Effort, PhasePlan
from tp_dspy.optimization.racing import usual_share
from tp_dspy.runs.source_prompts import SourcePrompts
from tp_dspy.session import Session
from tp_dspy.tasks.task import Task

__all__ = ["Work", "targets_by_name"]


@dataclass(frozen=True)
class Work:
    """What a compile works on, checked and planned.

    Attributes:
        original: The program's own instructions.
        sources: The data of the source phase; None without one.
        targets: The data of each target phase, by its name.
        first: The first population of a phase without source prompts.
        carried: Source prompts at hand.
        named: What a target phase adds to them, by its name.
        session: Opens what surrounds the phases.
        effort: How much each phase does.
    """

    original: Candidate
    sources: PhaseInput | None
    targets: dict[str, PhaseInput]
    first: list[Candidate]
    carried: list[ScoredCandidate]
    named: dict[str, list[Candidate]]
    session: Session
    effort: Effort

    @property
    def plans(self) -> list[PhasePlan]:
        """The phases, in order, and what they cost at most."""
        phases = {"source": self.sources} if self.sources is not None else {}
        carried = self.effort.top_k if self.sources is not None else len(self.carried)
        sizes = {name: 1 + len(self.named[name]) + carried if carried else len(self.first) for name in self.targets}
        return [
            PhasePlan.of(
                name,
                sizes.get(name, len(self.first)),
                data.search,
                data.selection,
                self.effort,
                usual_share(self.session.racing, data.search),
            )
            for name, data in (phases | self.targets).items()
        ]

    def after(self, made: SourcePrompts) -> Work:
        """Go on with the outcome of the source phase."""
        carried = made.candidates(self.original, self.effort.top_k)
        return replace(self, carried=carried, original=made.known(self.original))


def targets_by_name(targets: Mapping[str, Task] | Sequence[Task]) -> dict[str, Task]:
    """Name the targets for the phases.

    Raises:
        ConfigurationError: If there is none, something is no `Task`, or two share a name.
    """
    pairs = list(targets.items()) if isinstance(targets, Mapping) else [(getattr(t, "name", ""), t) for t in targets]
    strangers = [task for _, task in pairs if not isinstance(task, Task)]
    if not pairs or strangers:
        raise ConfigurationError(
            f"targets is {targets!r}; expected tp_dspy.Task objects, at least one, in a list or by name."
        )
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"targets are named {names}; give each a name of its own.")
    return dict(pairs)
