"""The optimisers: each takes a `Job` and gives a program, in whatever way it is its own.

Settings are the documented defaults of each, save those that its budget decides: these are chosen so that it just fits,
with as many pairs as it can pay for (`Meter`), and kept with the result. Instructions only: no optimiser adds demos.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy

from programs.benchmarks.peers.fitting import capo_block, simba_settings, source_examples
from programs.benchmarks.peers.meter import Meter
from programs.benchmarks.proposals.ways import HiddenScores
from tp_dspy import (
    AdvicePrompt,
    InstructionAdapter,
    ObjectiveEvaluator,
    ReferenceCalls,
    ReferencePrompt,
    ScorerCalls,
    SourcePrompts,
    Task,
    TransferPrompting,
)
from tp_dspy.lms.adapter import Position
from tp_dspy.optimization.events import Event, RoundEnded
from tp_dspy.optimization.population import general_instructions
from tp_dspy.optimization.racing import FullScoring

__all__ = ["METHODS", "TOP_K", "Asking", "Job", "Method", "missing"]

# Of ours, of ours that ask for advice, and of CAPO, which has our general instructions. To be raised when what they
# find changes: cells of another version are not taken for known.
_VERSION, _VERSION_OF_ADVICE, _VERSION_OF_CAPO = 7, 8, 8
# With this and `source_examples`, budgets such as these leave the most to propose with: found in scripted worlds
# (`programs.benchmarks.tight`).
TOP_K = 2
# More rounds than any budget here lasts for.
_NO_END = 1_000


Asking = tuple[type[ReferencePrompt], ...]
"""What the reference LM is asked, by turns."""
_WHOLE: Asking = (ReferencePrompt,)
_BOTH: Asking = (AdvicePrompt, ReferencePrompt)


@dataclass
class Job:
    """What an optimiser gets.

    Attributes:
        student: The program.
        target: The target; its test split is empty.
        sources: Source tasks, for those that use them.
        prompts: Makes source prompts, asking in such ways, or reads those made before; paid for apart.
        by_hand: A prompt written by hand.
        metric: The objective, as a DSPy metric.
        scorer: The scorer LM, which is the configured one.
        reference: The reference LM.
        meter: Counts; for those that must know what is left.
        budget: Pairs that may be paid for.
        replies: Replies of the reference LM that may be asked for.
        seed: For those that have one.
        threads: Concurrent calls.
        settings: What the optimiser decided to run with; filled in by it.
        proposals: Of ours: replies asked for, usable, and better than their parent; filled in by it.
    """

    student: dspy.Module
    target: Task
    sources: list[Task]
    prompts: Callable[[Asking], SourcePrompts]
    by_hand: str
    metric: ObjectiveEvaluator
    scorer: dspy.LM
    reference: dspy.LM
    meter: Meter
    budget: int
    replies: int
    seed: int
    threads: int
    settings: dict[str, Any] = field(default_factory=dict)
    proposals: list[int] = field(default_factory=list)

    def uses(self, **settings: Any) -> dict[str, Any]:
        """Note settings, and give them back."""
        self.settings |= settings
        return settings


@dataclass(frozen=True)
class Method:
    """An optimiser.

    Attributes:
        compile: Runs it.
        title: What tables call it.
        splits: The splits of the target that it chooses by, the first that is measured whole.
        searches: Whether it has a budget, and runs that chance decides.
        tries: How often it may begin anew when it ended with an error: with other replies of the reference LM.
        position: Where the instruction stands in what the scorer LM reads.
        version: Which of our code a cell was made with; None for others' optimisers, which depend on nothing of ours.
    """

    compile: Callable[[Job], dspy.Module]
    title: str
    splits: tuple[str, ...] = ("validation", "train")
    searches: bool = True
    tries: int = 1
    position: Position = "start"
    version: int | None = _VERSION


def _original(job: Job) -> dspy.Module:
    return job.student


def _by_hand(job: Job) -> dspy.Module:
    made = job.student.deepcopy()
    made.predict.signature = made.predict.signature.with_instructions(job.by_hand)
    return made


def _ours(
    job: Job,
    *,
    one_stage: bool = False,
    at_hand: bool = False,
    objective: ObjectiveEvaluator | None = None,
    sources: int | None = None,
    described: bool = False,
    **settings: Any,
) -> dspy.Module:
    few = source_examples(len(job.target.validation), len(job.sources[:sources]))
    noted: dict[str, Any] = {"racing": "ExpectedGain", "rounds": _NO_END, "proposals": 8, "top_k": TOP_K}
    noted |= {"reference_prompt": _WHOLE} | settings
    noted |= {} if one_stage or at_hand else {"source_examples": few}
    job.uses(**{name: _plain(value) for name, value in noted.items()})
    job.meter.watches = False
    tp = TransferPrompting(
        objective or job.metric,
        reference_lm=job.reference,
        scorer_lm=job.scorer,
        examples=max(len(job.target.train), len(job.target.validation)),
        stop=[ScorerCalls(job.budget), ReferenceCalls(job.replies - 1)],  # one is for the check of the LM
        num_threads=job.threads,
        seed=job.seed,
        verbose=False,
        listeners=[_Incumbents(job.meter)],
        **{name: value for name, value in noted.items() if name != "racing" or not isinstance(value, str)},
    )
    # Only for what the reference LM is shown: the program has an adapter of its own.
    with dspy.context(adapter=InstructionAdapter(job.student.position)):
        made = tp.compile(
            job.student,
            trainset=job.target.train,
            valset=job.target.validation,
            source_tasks=None if one_stage or at_hand else job.sources[:sources],
            source_prompts=job.prompts(noted["reference_prompt"]) if at_hand else None,
            description=job.target.description if described else "",
        )
    result = made.detailed_results
    phases = [phase for phase in (result.source, result.target) if phase is not None]
    job.proposals = [sum(figures) for figures in zip(*(phase.proposal_yield for phase in phases), strict=True)]
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, int | str):
        return value
    if isinstance(value, tuple):
        return ", ".join(map(_plain, value))
    return value.__name__ if isinstance(value, type) else repr(value)


@dataclass
class _Incumbents:
    """Keeps the best so far after each round: what a compile would give that was ended there."""

    meter: Meter

    def __call__(self, event: Event) -> None:
        if isinstance(event, RoundEnded):
            program = event.so_far.best.candidate.apply(self.meter.student)
            self.meter.incumbents.append((self.meter.pairs, self.meter.prompt(program)))


def _copro(job: Job) -> dspy.Module:
    # It takes one set. Where both splits leave no room for a second round, which is what it is made for, the one that
    # all others choose by.
    both, one = [*job.target.train, *job.target.validation], list(job.target.validation)
    examples = both if job.budget >= 12 * len(both) else one
    slots = job.budget // len(examples)
    depth = 3 if slots >= 12 else 2 if slots >= 6 else 1
    settings = job.uses(breadth=max(2, slots // depth), depth=depth)
    teleprompter = dspy.COPRO(prompt_model=job.reference, metric=job.metric, **settings)
    return teleprompter.compile(job.student, trainset=examples, eval_kwargs={"num_threads": job.threads})


def _mipro(job: Job) -> dspy.Module:
    train, validation = job.target.train, job.target.validation
    # At most, and repeats are free: one bootstrap on the train split, each candidate once on the validation split.
    candidates = max(2, (job.budget - len(train)) // len(validation))
    # Each takes three replies, with three for all; a third is kept for what has to be asked for in another format.
    candidates = max(2, min(candidates, (2 * job.replies // 3 - 3) // 3))
    settings = job.uses(num_candidates=candidates, max_bootstrapped_demos=0, max_labeled_demos=0)
    teleprompter = dspy.MIPROv2(
        metric=job.metric,
        prompt_model=job.reference,
        task_model=job.scorer,
        auto=None,
        num_threads=job.threads,
        seed=job.seed + 1,  # it takes 0 for none given
        verbose=False,
        **settings,
    )
    trials = job.uses(num_trials=3 * candidates, minibatch=False)
    return teleprompter.compile(job.student, trainset=train, valset=validation, **trials)


def _gepa(job: Job) -> dspy.Module:
    # The meter ends it; this is for searches whose proposals all fail, which cost nothing, and would never end.
    settings = job.uses(max_metric_calls=10 * job.budget, add_format_failure_as_feedback=True)
    teleprompter = dspy.GEPA(
        metric=job.metric, reflection_lm=job.reference, num_threads=job.threads, seed=job.seed, **settings
    )
    return teleprompter.compile(job.student, trainset=job.target.train, valset=job.target.validation)


def _simba(job: Job) -> dspy.Module:
    examples = [*job.target.train, *job.target.validation]
    settings = job.uses(max_demos=0, **simba_settings(job.budget, len(examples)))
    teleprompter = dspy.SIMBA(metric=job.metric, prompt_model=job.reference, num_threads=job.threads, **settings)
    return teleprompter.compile(job.student, trainset=examples, seed=job.seed)


def _capo(job: Job) -> dspy.Module:
    from programs.benchmarks.peers.capo import capo

    random.seed(job.seed)  # it has none of its own
    initial = [job.student.predict.signature.instructions, *general_instructions(job.target.answers)]
    examples = list(job.target.validation)
    # A step takes two replies for each crossover.
    crossovers = max(1, min(4, job.replies // 2))
    settings = job.uses(
        block=capo_block(len(examples)),
        crossovers_per_iter=crossovers,
        upper_shots=0,
        n_steps=_NO_END,
        initial=len(initial),
    )
    text = capo(job.student, job.metric, job.reference, examples, initial[0], initial, job.threads, settings)
    job.meter.settle()
    made = job.student.deepcopy()
    made.predict.signature = made.predict.signature.with_instructions(text)
    return made


def _opro(job: Job) -> dspy.Module:
    return _ours(job, one_stage=True, racing=FullScoring(), seed_instructions=[])


_ACCURACY = ObjectiveEvaluator(weights={"accuracy": 1.0}, confidence=None)

METHODS: Mapping[str, Method] = {
    "original": Method(_original, "original prompt", searches=False, version=None),
    "by_hand": Method(_by_hand, "written by hand", searches=False, version=None),
    "general": Method(lambda job: _ours(job, one_stage=True, rounds=0), "general instructions, no search"),
    "opro": Method(_opro, "OPRO (our cycle)"),
    "copro": Method(_copro, "dspy.COPRO", tries=4, version=None),
    "miprov2": Method(_mipro, "dspy.MIPROv2", tries=4, version=None),
    "gepa": Method(_gepa, "dspy.GEPA", tries=4, version=None),
    "simba": Method(_simba, "dspy.SIMBA", splits=("all", "validation", "train"), tries=4, version=None),
    "capo": Method(_capo, "CAPO (promptolution)", tries=4, version=_VERSION_OF_CAPO),
    "scratch": Method(_ours, "Transfer-Prompting, from scratch"),
    "at_hand": Method(lambda job: _ours(job, at_hand=True), "Transfer-Prompting, source prompts at hand"),
    # Ablations.
    "advice": Method(
        lambda job: _ours(job, at_hand=True, reference_prompt=_BOTH),
        "ours at hand, asked for advice by turns",
        version=_VERSION_OF_ADVICE,
    ),
    "advice_scratch": Method(
        lambda job: _ours(job, reference_prompt=_BOTH),
        "ours from scratch, asked for advice by turns",
        version=_VERSION_OF_ADVICE,
    ),
    "one_stage": Method(lambda job: _ours(job, one_stage=True), "ours, one stage"),
    "no_racing": Method(lambda job: _ours(job, racing=FullScoring()), "ours, no racing"),
    "one_source": Method(lambda job: _ours(job, sources=1), "ours, one source"),
    "top_1": Method(lambda job: _ours(job, top_k=1), "ours, top 1"),
    "accuracy": Method(lambda job: _ours(job, objective=_ACCURACY), "ours, accuracy alone"),
    "described": Method(lambda job: _ours(job, described=True), "ours, told in a sentence what the target is"),
    "no_general": Method(lambda job: _ours(job, seed_instructions=[]), "ours, no general instructions"),
    "hidden_scores": Method(lambda job: _ours(job, reference_prompt=(HiddenScores,)), "ours, scores hidden"),
    "before": Method(_ours, "ours, instruction as system message", position="before"),
    "end": Method(_ours, "ours, instruction after the item", position="end"),
    "answer": Method(_ours, "ours, instruction begins the answer", position="answer"),
}


def missing(name: str) -> str | None:
    """Say what a method needs that is not installed; None where it can run."""
    package = {"capo": "promptolution", "miprov2": "optuna"}.get(name)
    return package if package is not None and importlib.util.find_spec(package) is None else None
