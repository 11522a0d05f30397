"""TransferPrompting: construct source prompts on several source tasks, then generate the target prompt on one."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dspy
from dspy.teleprompt import Teleprompter

from tp_dspy.errors import ConfigurationError, LMUnavailableError, ProgramError
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate
from tp_dspy.optimization.cycle import Cycle, PhaseResult
from tp_dspy.optimization.estimate import check_prices, estimate
from tp_dspy.optimization.events import Listener, Planned, Resumed, Spending
from tp_dspy.optimization.interrupts import graceful_interrupt
from tp_dspy.optimization.ledger import Ledger, sorted_out
from tp_dspy.optimization.memory import Memory, PlainMemory
from tp_dspy.optimization.panel import fingerprint
from tp_dspy.optimization.phases import (
    PhaseInput,
    reference_prompts,
    shared_answers,
    source_input,
    target_input,
    warn_of_overlap,
)
from tp_dspy.optimization.plan import PhasePlan, effort
from tp_dspy.optimization.population import Seed, answer_naming, first_population
from tp_dspy.optimization.racing import ExpectedGain, Racing
from tp_dspy.optimization.reference import Proposer
from tp_dspy.optimization.stopping import Budget, StopFile, StopRule, Usd
from tp_dspy.runs.artifacts import SourcePrompts, TransferResult, plain
from tp_dspy.runs.identity import compile_identity, context_identity
from tp_dspy.runs.journal import Journal
from tp_dspy.runs.progress import watching
from tp_dspy.scoring.objective import ObjectiveEvaluator
from tp_dspy.scoring.scorer import Scorer
from tp_dspy.scoring.throttle import Limits
from tp_dspy.tasks.task import Task

__all__ = ["TransferPrompting"]

logger = logging.getLogger(__name__)


class TransferPrompting(Teleprompter):  # type: ignore[misc]
    """Transfer-Prompting (arXiv 2502.14211) as a DSPy teleprompter.

    Only instructions move: demos, field metadata and LMs of the program's predictors stay as they are, and the
    program passed in is never changed.

    Args:
        objective: What a prompt is worth. Also a DSPy metric.
        reference_lm: Proposes instructions; by default the LM configured in DSPy.
        scorer_lm: Runs predictors that have no LM of their own; by default the LM configured in DSPy.
        auto: How much to do: "quick", "light", "medium" or "heavy". Sets those of the next four
            numbers that are not given.
        rounds: Rounds of proposals in each phase, at least 0.
        proposals: Proposals asked for in each round, at least 1.
        examples: Examples per task for the search, and as many again for the selection; at least 1.
        top_k: Source prompts that go on to the target, and finalists of each phase; at least 1.
        seed_instructions: Instructions of your own for the first population: texts, or texts by predictor name. None
            means the general ones that ship with the library, an empty list none at all; yours come before the
            general ones.
        spread_penalty: Times the standard deviation over source tasks, taken off the mean; at least 0. Prefers
            prompts that are good everywhere.
        temperature: Of the reference LM; at least 0.
        racing: The rule that drops candidates while they are scored: by default `ExpectedGain`; see
            `tp_dspy.optimization.racing` for `PairedBootstrap` and `FullScoring`.
        stop: When to stop: rules that end the search of a phase (`Patience`, `TargetScore`, a function that takes a
            `Progress` and returns why to stop, or None), budgets that the phases share (`ScorerCalls`,
            `ReferenceCalls`, `Tokens`, `Usd`, `Seconds`), and a `StopFile`; see `tp_dspy.optimization.stopping`.
        mapping: Target predictor name by source predictor name, where the programs differ.
        num_threads: Concurrent calls; by default DSPy's setting.
        limits: What the endpoints may be asked for, `Limits` for each of them or by model name. Under 429 fewer calls
            are made at once in any case.
        max_error_rate: Share of the scorer calls so far, in [0, 1], that may get no answer. Above it the compile stops
            with `ScoringFailedError`; with a `run_dir` the same call goes on later.
        run_dir: Where source prompts, the result and the compiled program are written, and a journal of everything
            that was paid for: the same call with the same folder goes on where the last one ended, however it did, and
            another call uses what it can. What a program reads from elsewhere (a corpus, a tool) is not seen: use
            another folder when that changes. None writes no file.
        seed: Makes the choice of examples and exemplars repeatable.
        verbose: Whether to show progress on a terminal. Elsewhere, and when False, there is only logging.
        listeners: Told every event (`tp_dspy.optimization.events`), in the thread that compiles.

    Raises:
        ConfigurationError: If an argument has a value that cannot work.
    """

    def __init__(
        self,
        objective: ObjectiveEvaluator,
        *,
        reference_lm: dspy.BaseLM | None = None,
        scorer_lm: dspy.BaseLM | None = None,
        auto: Literal["quick", "light", "medium", "heavy"] = "light",
        rounds: int | None = None,
        proposals: int | None = None,
        examples: int | None = None,
        top_k: int | None = None,
        seed_instructions: Sequence[Seed] | None = None,
        spread_penalty: float = 0.0,
        temperature: float = 1.0,
        racing: Racing | None = None,
        stop: Sequence[StopRule | Budget | StopFile] = (),
        mapping: Mapping[str, str] | None = None,
        num_threads: int | None = None,
        limits: Limits | Mapping[str, Limits] | None = None,
        max_error_rate: float = 0.1,
        run_dir: str | os.PathLike[str] | None = None,
        seed: int = 0,
        verbose: bool = True,
        listeners: Sequence[Listener] = (),
    ) -> None:
        super().__init__()
        if not isinstance(objective, ObjectiveEvaluator):
            raise ConfigurationError(f"objective is {objective!r}; expected a tp_dspy.ObjectiveEvaluator.")
        if reference_lm is not None and not isinstance(reference_lm, dspy.BaseLM):
            raise ConfigurationError(f"reference_lm is {reference_lm!r}; expected a dspy.LM.")
        if spread_penalty < 0 or temperature < 0:
            raise ConfigurationError(
                f"spread_penalty is {spread_penalty!r} and temperature {temperature!r}; expected at least 0."
            )
        self.objective = objective
        self.reference_lm = reference_lm
        self.effort = effort(auto, rounds=rounds, proposals=proposals, examples=examples, top_k=top_k)
        self.seed_instructions = seed_instructions
        self.spread_penalty = spread_penalty
        self.temperature = temperature
        self.racing: Racing = racing if racing is not None else ExpectedGain()
        self.stop = tuple(stop)
        sorted_out(self.stop)
        self.mapping = mapping
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self.seed = seed
        self.verbose = verbose
        self.listeners = tuple(listeners)
        self.scorer = Scorer(
            objective, lm=scorer_lm, num_threads=num_threads, max_error_rate=max_error_rate, limits=limits
        )

    def get_params(self) -> dict[str, Any]:
        """Return the settings as a copy: MLflow's autologging writes into what it gets."""
        return dict(self.__dict__)

    def compile(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
        source_tasks: Sequence[Task] | None = None,
        source_prompts: SourcePrompts | None = None,
        description: str = "",
    ) -> dspy.Module:
        """Compile a program for the target task.

        Args:
            student: The program; never changed.
            trainset: Target examples that candidates are scored on.
            teacher: Not used; other optimisers of DSPy are passed one.
            valset: Target examples that the finalists are compared on; without them the scores on `trainset` choose.
                The winner is the one of which most is expected, all evidence taken together, among those that did not
                measure below the original here.
            source_tasks: Runs the source phase on these first.
            source_prompts: The outcome of an earlier source phase, instead of `source_tasks`. With neither this is a
                single-stage optimiser on the target.
            description: What the target's items are, as a noun phrase for the reference LM.

        Returns:
            A copy of the program with the target prompt, and a `TransferResult` as ``detailed_results``. It is never
            one that was measured worse than the program's own instructions on the data it was selected on.

        Raises:
            ConfigurationError, ProgramError, DataError: Before any call is paid, where it can be known.
            LMUnavailableError: At the first call, when an LM cannot be called at all.
            ScoringFailedError: If too many scorer calls get no answer.
        """
        started = time.monotonic()
        if source_tasks and source_prompts is not None:
            raise ConfigurationError("Both source_tasks and source_prompts were given; pass one of them.")
        original, answering = self._read(student)
        target = target_input(trainset, valset, self.effort.examples, self.seed, self.objective.answer, description)
        sources = self._source_input(source_tasks) if source_tasks else None
        carried: list[ScoredCandidate] = []
        if source_prompts is not None:
            carried = source_prompts.candidates(original, self.effort.top_k, self.mapping)
            original = source_prompts.known(original, self.mapping)
        self.objective.check(student, target.examples + (sources.examples if sources else []))
        warn_of_overlap(source_tasks or (), [*trainset, *(valset or ())])

        answers = shared_answers((sources or target).briefs)
        first = first_population(original, answering, self.seed_instructions, answers)
        # Of use after a source phase only: a single stage has them in its first population.
        own, known = shared_answers(target.briefs), answers if sources is not None else None
        named = answer_naming(original, answering, self.seed_instructions, own, known)
        examples = target.examples + (sources.examples if sources else [])
        extra = [description, source_prompts.model_dump(mode="json") if source_prompts is not None else None]
        plans = self._plans(first, sources, target, carried, named)
        with self._run(plans, student, original, examples, extra) as cycle:
            source = None
            if sources is not None and source_tasks:
                source = self._phase("source", cycle, sources, first)
                made = self._source_prompts(source, source_tasks, original)
                carried = made.candidates(original, self.effort.top_k)
                original = made.known(original)
            result = None
            if cycle.ledger.halted is None:
                population = [original, *(scored.candidate for scored in carried), *named] if carried else first
                result = self._phase("target", cycle, target, population, carried)
        seconds = time.monotonic() - started
        return self._deliver(student, TransferResult.of(source, result, original, seconds, self._settings()))

    def construct_source_prompts(self, student: dspy.Module, *, source_tasks: Sequence[Task]) -> SourcePrompts:
        """Run the source phase alone: construct once, transfer to many targets.

        Args:
            student: The program; never changed.
            source_tasks: At least one task; test splits are not touched.

        Returns:
            The best prompts over the source tasks; `SourcePrompts.save` keeps them.

        Raises:
            As `compile`.
        """
        original, answering = self._read(student)
        sources = self._source_input(source_tasks)
        self.objective.check(student, sources.examples)
        first = first_population(original, answering, self.seed_instructions, shared_answers(sources.briefs))
        plans = self._plans(first, sources, None, [], [])
        with self._run(plans, student, original, sources.examples) as cycle:
            result = self._phase("source", cycle, sources, first)
        return self._source_prompts(result, source_tasks, original)

    # The steps of the two phases.

    def _read(self, student: dspy.Module) -> tuple[Candidate, str]:
        """Read the program's own instructions, and find the predictor that gives the answer."""
        if not isinstance(student, dspy.Module):
            raise ProgramError(f"student is {student!r}; expected a dspy.Module with at least one predictor.")
        original = Candidate.of(student)
        if not original.instructions:
            raise ProgramError(
                f"{type(student).__name__} has no predictor whose instruction could be optimised "
                f"({len(student.predictors())} predictors, all of them frozen by `_compiled`)."
            )
        named = dict(student.named_predictors())
        answers = set(self.objective.answers)
        giving = [n for n in original.instructions if answers & set(named[n].signature.output_fields)]
        return original, (giving or list(original.instructions))[-1]

    def _source_input(self, tasks: Sequence[Task]) -> PhaseInput:
        return source_input(tasks, self.effort.examples, self.seed, self.objective.answer)

    @contextlib.contextmanager
    def _run(
        self,
        plans: Sequence[PhasePlan],
        student: dspy.Module,
        original: Candidate,
        examples: Sequence[dspy.Example],
        extra: Sequence[Any] = (),
    ) -> Iterator[Cycle]:
        """Open what a compile needs: its ledger, whoever watches, and the memory of what was paid for."""
        _, budgets, files = sorted_out(self.stop)
        if self.run_dir is not None:
            files.append(StopFile(self.run_dir / "stop"))
        ledger = Ledger(plans, budgets, files)
        ledger.check()
        lms = self._lms(student)
        self.scorer.throttles.check(lms)
        if any(isinstance(budget, Usd) for budget in budgets):
            check_prices(lms)
        # The last one is the reference LM, whose prompts grow with the history.
        words = f"{PhasePlan.in_words(plans, self.objective.runs)} "
        words += estimate(plans, student, examples, lms[:-1], self.objective.runs)
        logger.info(words)
        with (
            graceful_interrupt(ledger),
            watching(self.listeners, self.verbose) as tell,
            self._memory(tell, student, original, examples, extra) as memory,
        ):
            tell(Planned("", plans, words))
            yield Cycle(student, self.scorer, self.racing, memory, self.spread_penalty, tell, ledger)
            spent = ledger.spent
            logger.info(PhasePlan.beside(plans, spent))
            tell(Spending("", spent))

    def _lms(self, student: dspy.Module) -> list[dspy.BaseLM]:
        """List the LMs that a compile calls."""
        own = [predictor.lm for _, predictor in student.named_sub_modules(dspy.Predict)]
        lms = [lm or self.scorer.lm or dspy.settings.lm for lm in own] + [self.reference_lm or dspy.settings.lm]
        return [lm for lm in lms if lm is not None]

    def _memory(
        self,
        tell: Listener,
        student: dspy.Module,
        original: Candidate,
        examples: Sequence[dspy.Example],
        extra: Sequence[Any] = (),
    ) -> contextlib.AbstractContextManager[Memory]:
        """Open what keeps outcomes and answers: the journal of the run folder, or this process."""
        if self.run_dir is None:
            return contextlib.nullcontext(PlainMemory())
        context = context_identity(student, self.objective, self.scorer.lm)
        # Stop rules are left out: with a larger budget it is the same compile, which goes on.
        decides = {**self._settings(), "racing": repr(self.racing), "seeds": self.seed_instructions}
        compile = compile_identity(
            context, decides, original, map(fingerprint, examples), plain([self.mapping, *extra])
        )
        journal = Journal(self.run_dir / "journal.sqlite", context=context, compile=compile)
        if known := len(journal):
            logger.info("%s knows %d outcomes; what is known is not paid for again.", journal.path, known)
            tell(Resumed("", known))
        return journal

    def _plans(
        self,
        first: Sequence[Candidate],
        sources: PhaseInput | None,
        target: PhaseInput | None,
        carried: Sequence[ScoredCandidate],
        named: Sequence[Candidate],
    ) -> list[PhasePlan]:
        plans = []
        if sources is not None:
            plans.append(PhasePlan.of("source", len(first), sources.search, sources.selection, self.effort))
        if target is not None:
            population = 1 + len(named) + (self.effort.top_k if sources is not None else len(carried))
            if sources is None and not carried:
                logger.info("Neither source tasks nor source prompts: a single stage, on the target alone.")
                population = len(first)
            plans.append(PhasePlan.of("target", population, target.search, target.selection, self.effort))
        return plans

    def _phase(
        self,
        name: str,
        cycle: Cycle,
        data: PhaseInput,
        population: Sequence[Candidate],
        prior: Sequence[ScoredCandidate] = (),
    ) -> PhaseResult:
        lm = self.reference_lm or dspy.settings.lm
        if lm is None:
            raise LMUnavailableError("There is no reference LM: pass reference_lm=, or call dspy.configure(lm=...).")
        prompts = reference_prompts(cycle.program, population[0].instructions, data.briefs, self.objective.answers)
        proposer = Proposer(
            self.scorer.throttles.govern(lm),
            prompts,
            self.temperature,
            self.seed,
            threads=self.scorer.num_threads,
            memory=cycle.memory,
            ledger=cycle.ledger,
        )
        result = cycle.run(
            name,
            population,
            search=data.search,
            selection=data.selection,
            proposer=proposer,
            rounds=self.effort.rounds,
            proposals_per_round=self.effort.proposals,
            finalists=self.effort.top_k,
            stop=sorted_out(self.stop)[0],
            prior=sorted(prior, key=lambda scored: scored.score),
        )
        logger.info("The %s phase ended (%s); best score %.3f.", name, result.stopped, result.best.score)
        return result

    def _source_prompts(self, result: PhaseResult, tasks: Sequence[Task], original: Candidate) -> SourcePrompts:
        prompts = SourcePrompts.of(result, original, tasks, self.effort.top_k, self._settings())
        if self.run_dir is not None:
            prompts.save(self.run_dir / "source_prompts.json")
        return prompts

    def _deliver(self, student: dspy.Module, result: TransferResult) -> dspy.Module:
        for task, metrics in result.winner.by_task.items():
            if missed := self.objective.rule.constraints.missed(metrics.as_dict()):
                logger.warning("No prompt keeps all constraints; the best on %s: %s.", task, "; ".join(missed))
        compiled = result.winner.scored().candidate.apply(student)
        compiled.detailed_results = result
        if self.run_dir is not None:
            result.save(self.run_dir / "result.json")
            compiled.save(self.run_dir / "program.json")
        return compiled

    def _settings(self) -> dict[str, Any]:
        lms = {"reference_lm": self.reference_lm or dspy.settings.lm, "scorer_lm": self.scorer.lm or dspy.settings.lm}
        return {
            **{name: getattr(lm, "model", None) for name, lm in lms.items()},
            **vars(self.effort),
            "objective": self.objective.describe(),
            "spread_penalty": self.spread_penalty,
            "temperature": self.temperature,
            "racing": type(self.racing).__name__,
            "seed": self.seed,
        }
