"""What a compile works on: data, first populations and plans, all checked before a call is paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from scipy.cluster.hierarchy import DisjointSet

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate
from tp_dspy.optimization.panel import fingerprint
from tp_dspy.optimization.phases import PhaseInput
from tp_dspy.optimization.plan import Effort, PhasePlan
from tp_dspy.optimization.racing import usual_share
from tp_dspy.runs.source_prompts import SourcePrompts
from tp_dspy.session import Session
from tp_dspy.tasks.task import Task

__all__ = ["Work", "targets_by_name"]

# The share of a budget that is to be left to proposals, at most. With half of it compiles of 700 and 1,000 calls end
# lower in scripted worlds (`programs.benchmarks.tight --first 600`).
_FOR_PROPOSALS = 0.75
# A source task of fewer examples says next to nothing of a candidate.
_FEWEST = 4


@dataclass(frozen=True)
class Work:
    """What a compile works on, checked and planned.

    Attributes:
        original: The program's own instructions.
        sources: The data of the source phase; None without one.
        targets: The data of each target phase, by its name.
        first: The first population of each phase, source prompts aside, by its name.
        carried: Source prompts at hand.
        judged: Ids of the candidates that the source phase has judged; before it, of those that it will.
        session: Opens what surrounds the phases.
        effort: How much each phase does.
    """

    original: Candidate
    sources: PhaseInput | None
    targets: dict[str, PhaseInput]
    first: dict[str, list[Candidate]]
    carried: list[ScoredCandidate]
    judged: Set[str]
    session: Session
    effort: Effort

    @property
    def plans(self) -> list[PhasePlan]:
        """The phases, in order, and what they cost at most; a source phase is taken to judge what it begins with."""
        phases = {"source": self.sources} if self.sources is not None else {}
        sizes = {name: len(first) for name, first in self.first.items()}
        if self.sources is not None or self.carried:
            carried = self.effort.top_k if self.sources is not None else len(self.carried)
            sizes |= {name: 1 + carried + len(self._unjudged(name)) for name in self.targets}
        return [
            PhasePlan.of(
                name,
                sizes[name],
                data.search,
                data.selection,
                self.effort,
                usual_share(self.session.racing, data.search),
            )
            for name, data in (phases | self.targets).items()
        ]

    def fitted(self, calls: float) -> Work:
        """Take so few examples of each source task that a budget leaves something to propose with; at least four.

        Beside first populations and choices there is to be enough for what is planned to be proposed, or else three
        quarters of the budget.

        Args:
            calls: The budget, in scored pairs.

        Returns:
            Itself where nothing is to be saved.
        """
        if self.sources is None or self._fits(calls) or (most := self.sources.most) <= _FEWEST:
            return self
        smaller = (self._with_source_examples(size) for size in range(most - 1, _FEWEST, -1))
        return next((work for work in smaller if work._fits(calls)), None) or self._with_source_examples(_FEWEST)

    def _fits(self, calls: float) -> bool:
        necessary, wanted = sum(plan.necessary for plan in self.plans), sum(plan.wanted for plan in self.plans)
        return necessary + min(wanted, _FOR_PROPOSALS * calls) <= calls

    def _with_source_examples(self, size: int) -> Work:
        assert self.sources is not None
        return replace(self, sources=self.sources.first(size), effort=replace(self.effort, source_examples=size))

    @property
    def chains(self) -> list[list[str]]:
        """The target phases in groups that share no question: those of a group are to follow each other."""
        first: dict[str, str] = {}
        groups: DisjointSet = DisjointSet(self.targets)
        for name, data in self.targets.items():
            # Whatever they hold to be right: the LM is asked the same, and DSPy's cache answers the second.
            for question in (fingerprint(example.inputs()) for example in data.examples):
                groups.merge(first.setdefault(question, name), name)
        chains: dict[str, list[str]] = {}
        for name in self.targets:
            chains.setdefault(groups[name], []).append(name)
        return list(chains.values())

    def after(self, made: SourcePrompts) -> Work:
        """Go on with the outcome of the source phase."""
        carried = made.candidates(self.original, self.effort.top_k)
        original = made.known(self.original)
        return replace(self, carried=carried, original=original, judged=made.judged(original))

    def population(self, target: str) -> list[Candidate]:
        """List what a target phase begins with: after the original and the source prompts, what is still unjudged.

        That is what says what the sources do not share, the target's allowed answers above all; and everything, where
        the source phase was broken off before it could judge.
        """
        if not self.carried:
            return self.first[target]
        carried = [scored.candidate for scored in self.carried]
        return list(dict.fromkeys([self.original, *carried, *self._unjudged(target)]))

    def _unjudged(self, target: str) -> list[Candidate]:
        return [candidate for candidate in self.first[target][1:] if candidate.id not in self.judged]


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
