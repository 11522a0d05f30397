"""TransferPrompting: construct source prompts on several source tasks, then generate the target prompt on one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import dspy
from dspy.teleprompt import Teleprompter

from tp_dspy.errors import ConfigurationError, ScoringFailedError
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate, read_program
from tp_dspy.optimization.cycle import Cycle
from tp_dspy.optimization.events import Event, Listener
from tp_dspy.optimization.ledger import sorted_out
from tp_dspy.optimization.phase_result import PhaseResult
from tp_dspy.optimization.phase_score import PhaseScore
from tp_dspy.optimization.phases import (
    PhaseInput,
    asked_by,
    reference_prompts,
    shared_answers,
    source_input,
    target_input,
    warn_of_overlap,
)
from tp_dspy.optimization.plan import Effort, PhasePlan, effort
from tp_dspy.optimization.population import Seed, first_population
from tp_dspy.optimization.racing import ExpectedGain, Racing
from tp_dspy.optimization.reference import Proposer
from tp_dspy.optimization.reference_prompt import ReferencePrompt
from tp_dspy.optimization.stopping import Budget, ScorerCalls, StopFile, StopRule
from tp_dspy.optimization.turns import Turns
from tp_dspy.runs.artifacts import TransferResult, plain
from tp_dspy.runs.delivery import deliver
from tp_dspy.runs.described import digest
from tp_dspy.runs.events import Constructed
from tp_dspy.runs.folders import folder_of
from tp_dspy.runs.influence import SourceInfluence, choices_without_each, influence
from tp_dspy.runs.snapshots import Snapshots
from tp_dspy.runs.source_prompts import SourcePrompts
from tp_dspy.runs.transfers import Transfers
from tp_dspy.scoring.gate import HaltedError
from tp_dspy.scoring.objective import ObjectiveEvaluator
from tp_dspy.scoring.programs import without_rivals
from tp_dspy.scoring.scorer import Scorer
from tp_dspy.scoring.throttle import Limits
from tp_dspy.session import Plan, Session, failure_told, kept_on_failure
from tp_dspy.tasks.task import Task
from tp_dspy.work import Work, targets_by_name

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
        auto: How much to do: "quick", "light", "medium" or "heavy". Sets those of rounds, proposals, examples and top_k
            that are not given.
        rounds: Rounds of proposals in each phase, at least 0.
        proposals: Proposals asked for in each round, at least 1.
        examples: Examples per task for the search, and as many again for the selection; at least 1.
        source_examples: The same for each source task. By default as many; under a budget of scorer calls so few, but
            at least four, that it is enough for what is planned to be proposed, or else leaves three quarters to that.
        top_k: Source prompts that go on to the target, and finalists of each phase; at least 1.
        seed_instructions: Instructions of your own for the first population: texts, or texts by predictor name. None
            means the general ones that ship with the library, an empty list none at all; yours come before the
            general ones. With source prompts at hand, those that their source phase has not judged.
        spread_penalty: Times the standard deviation over source tasks, taken off the mean; at least 0. Prefers
            prompts that are good everywhere.
        temperature: Of the reference LM; at least 0.
        reference_prompt: Writes what the reference LM is asked: a subclass of `ReferencePrompt`, to ask in other words;
            or several that take turns, such as ``[ReferencePrompt, AdvicePrompt]``.
        racing: The rule that drops candidates while they are scored: by default `ExpectedGain`; see
            `tp_dspy.optimization.racing` for `PairedBootstrap` and `FullScoring`.
        stop: When to stop: rules that end the search of a phase (`Patience`, `TargetScore`, a function that takes a
            `Progress` and returns why to stop, or None), budgets that the phases share (`ScorerCalls`,
            `ReferenceCalls`, `Tokens`, `Usd`, `Seconds`), and a `StopFile`; see `tp_dspy.optimization.stopping`.
        mapping: Target predictor name by source predictor name, where the programs differ.
        num_threads: Concurrent calls; by default DSPy's setting, or with a cluster all that it can.
        executor: Where the program runs while it is scored: by default in threads; "dask" for worker processes on this
            machine, "dask://host:port" for a Dask cluster, a ``distributed.Client``, or any
            ``concurrent.futures.Executor``. What is found does not depend on it. API keys do not travel: workers read
            their own environment.
        limits: What the endpoints may be asked for, `Limits` for each of them or by model name. Under 429 fewer calls
            are made at once in any case.
        max_error_rate: Share of the scorer calls so far, in [0, 1], that may get no answer. Above it the compile stops
            with `ScoringFailedError`; with a `run_dir` the same call goes on later.
        run_dir: Where source prompts, the result and the compiled program are written, and a journal of everything
            that was paid for: the same call with the same folder goes on where the last one ended, however it did, and
            another call uses what it can. Changed settings and code of your own (the program, the metric, what they
            call) are seen, what a program reads from elsewhere (a corpus, a server) is not: use another folder when
            that changes. None writes no file.
        seed: Makes the choice of examples and exemplars repeatable.
        verbose: Whether to show progress on a terminal or in a notebook. Elsewhere, and when False, there is only
            logging.
        listeners: Told every event (`tp_dspy.optimization.events`), one after the other, in the thread that compiles;
            with several targets at once, in that of the target.

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
        source_examples: int | None = None,
        top_k: int | None = None,
        seed_instructions: Sequence[Seed] | None = None,
        spread_penalty: float = 0.0,
        temperature: float = 1.0,
        reference_prompt: type[ReferencePrompt] | Sequence[type[ReferencePrompt]] = ReferencePrompt,
        racing: Racing | None = None,
        stop: Sequence[StopRule | Budget | StopFile] = (),
        mapping: Mapping[str, str] | None = None,
        num_threads: int | None = None,
        executor: Any = None,
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
        asked_by(reference_prompt)
        self.objective = objective
        self.reference_lm = reference_lm
        self.effort = effort(
            auto, rounds=rounds, proposals=proposals, examples=examples, source_examples=source_examples, top_k=top_k
        )
        self.seed_instructions = seed_instructions
        self.spread_penalty = spread_penalty
        self.temperature = temperature
        self.reference_prompt = reference_prompt
        self.racing: Racing = racing if racing is not None else ExpectedGain()
        self.stop = tuple(stop)
        sorted_out(self.stop)
        self.mapping = mapping
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self.seed = seed
        self.verbose = verbose
        self.listeners = tuple(listeners)
        self.scorer = Scorer(
            objective,
            lm=scorer_lm,
            num_threads=num_threads,
            executor=executor,
            max_error_rate=max_error_rate,
            limits=limits,
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
                measure below the original on the examples of both sets that both have met.
            source_tasks: Runs the source phase on these first.
            source_prompts: The outcome of an earlier source phase, instead of `source_tasks`. With neither this is a
                single-stage optimiser on the target.
            description: What the target's items are, as a noun phrase for the reference LM.

        Returns:
            A copy of the program with the target prompt, and a `TransferResult` as ``detailed_results``. It is never
            one that was measured worse than the program's own instructions on the data it was found and chosen on, as
            far as both have met it.

        Raises:
            ConfigurationError, ProgramError, DataError: Before any call is paid, where it can be known.
            LMUnavailableError: At the first call, when an LM cannot be called at all.
            ScoringFailedError: If too many scorer calls get no answer. After the source phase an error has its outcome
                as ``source_prompts``.
        """
        started = time.monotonic()
        work = self._work(student, trainset, valset, source_tasks, source_prompts, description)
        source = target = made = None
        with kept_on_failure("source_prompts", lambda: made), work.session.open(work.plans) as cycle:
            if work.sources is not None and source_tasks:
                source = self._phase("source", cycle, work, work.sources, work.first["source"])
                made = self._source_prompts(source, source_tasks, work)
                work = work.after(made)
            if cycle.ledger.halted is None:
                target = self._target_phase("target", cycle, work)
        seconds = time.monotonic() - started
        with failure_told(self.tell):
            settings = work.session.settings
            result = TransferResult.of(source, target, work.original, seconds, settings, self.objective)
            return self._deliver("target", student, result, self.run_dir)

    def plan(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        source_tasks: Sequence[Task] | None = None,
        source_prompts: SourcePrompts | None = None,
        description: str = "",
    ) -> Plan:
        """Say what `compile` with the same arguments would cost at most; everything is checked, no call is made.

        Raises:
            ConfigurationError, ProgramError, DataError: As `compile`.
        """
        work = self._work(student, trainset, valset, source_tasks, source_prompts, description)
        return work.session.plan(work.plans)

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
        work = self._prepare(student, self._source_input(source_tasks), {}, None)
        assert work.sources is not None
        with work.session.open(work.plans) as cycle:
            result = self._phase("source", cycle, work, work.sources, work.first["source"])
            prompts = self._source_prompts(result, source_tasks, work)
        if self.run_dir is not None:
            Snapshots.end(self.run_dir)
        return prompts

    def transfer_to(
        self,
        student: dspy.Module,
        targets: Mapping[str, Task] | Sequence[Task],
        *,
        source_prompts: SourcePrompts,
        at_once: int = 1,
    ) -> Transfers:
        """Carry source prompts over to many targets in one run: one plan, one budget, one journal.

        Each target gets a target phase of its own, in the order given, with its train split to search on and its
        validation split (where it has one) to choose on; test splits are not touched. A question that several targets
        have is paid for once. The phases are called "target <name>" in events and in `Progress`.

        Args:
            student: The program; never changed.
            targets: Tasks by the name to report them under, or tasks with names of their own.
            source_prompts: The outcome of a source phase.
            at_once: Targets under way at once, at least 1: more than one keep a cluster, or an endpoint that takes
                many calls, busy while one of them waits for its last answers. They share threads and workers alike,
                and take turns in this process, in threads of their own. What is found is the same, as far as budgets
                allow: with more than one, each has a fixed share of them, while one after the other the later ones
                have what is left over. Targets that share questions still follow each other.

        Returns:
            The compiled program of each target, with a report. When a budget or Ctrl-C ends the run, those that had
            been reached. With a `run_dir`, each is written to a folder of its own there as soon as it is done.

        Raises:
            As `compile`; an error that comes later has what had been reached as ``transfers``.
        """
        if not isinstance(at_once, int) or isinstance(at_once, bool) or at_once < 1:
            raise ConfigurationError(f"at_once is {at_once!r}; expected a whole number of at least 1.")
        targets = targets_by_name(targets)
        inputs = {f"target {name}": self._task_input(name, task) for name, task in targets.items()}
        work = self._prepare(student, None, inputs, source_prompts)
        compiled: dict[str, dspy.Module] = {}

        def reached() -> Transfers:
            found = {name: compiled[name] for name in targets if name in compiled}
            return Transfers(found, tuple(name for name in targets if name not in found))

        def carry(names: Sequence[str], cycle: Cycle) -> None:
            for name in names:
                if cycle.ledger.halted is not None:
                    return
                started, phase = time.monotonic(), f"target {name}"
                own = replace(cycle, ledger=cycle.ledger.share(phase)) if lanes > 1 else cycle
                target = self._target_phase(phase, own, work)
                seconds = time.monotonic() - started
                settings = work.session.settings
                result = TransferResult.of(None, target, work.original, seconds, settings, self.objective, name)
                compiled[name] = self._deliver(phase, student, result, folder_of(self.run_dir, name, list(targets)))

        lanes = min(at_once, len(work.chains))
        with kept_on_failure("transfers", reached), work.session.open(work.plans, lanes) as cycle:
            if lanes == 1:
                carry(list(targets), cycle)
            else:
                turns = Turns()
                cycle.ledger.divide(work.chains, lanes)
                beside = replace(cycle, aside=turns.aside, listener=turns.telling(cycle.listener))
                chains = [[phase.removeprefix("target ") for phase in chain] for chain in work.chains]
                turns.run([partial(carry, chain, beside) for chain in chains], lanes, cycle.ledger)
        return reached()

    def source_influence(
        self, student: dspy.Module, targets: Mapping[str, Task] | Sequence[Task], *, source_prompts: SourcePrompts
    ) -> SourceInfluence:
        """Say which source tasks helped which target: what would be lost on it, had a source not been there.

        Source by source, the prompts are chosen again without its scores, and the best of the chosen on the target is
        set against the best of those chosen with all. What the choice needs is in `source_prompts`; prompts that were
        not scored on a target yet are scored now, and with the `run_dir` of `transfer_to` few are left. It cannot
        undo that prompts were proposed with the source's examples in sight.

        Args:
            student: The program; never changed.
            targets: As in `transfer_to`.
            source_prompts: As there, of at least two tasks.

        Returns:
            A table of source tasks by targets.

        Raises:
            ConfigurationError: If there are fewer than two source tasks.
            ScoringFailedError: Also if a budget or Ctrl-C ends it.
            Else as `compile`.
        """
        chosen = choices_without_each(source_prompts, self.effort.top_k)
        targets = targets_by_name(targets)
        inputs = {f"target {name}": self._task_input(name, task) for name, task in targets.items()}
        # Work of its own: what a transfer has paid for is known here, and costs this nothing.
        work = self._prepare(student, None, inputs, source_prompts, "influence")
        candidates = source_prompts.adapted(chosen.records, work.original, self.mapping)
        plans = [PhasePlan(name, len(candidates) * data.size, 0, 0, 0) for name, data in inputs.items()]
        try:
            with work.session.open(plans) as cycle:
                met = [cycle.standings(name, candidates, data.search) for name, data in inputs.items()]
        except HaltedError as halt:
            raise ScoringFailedError(
                f"Not all prompts could be scored on the targets ({halt.reason}), and without that there is no table. "
                "With a run_dir, the same call goes on from here; give it a larger budget if one was spent."
            ) from None
        return influence(chosen, dict(zip(targets, met, strict=True)), PhaseScore(self.objective))

    # The steps of the phases.

    def _work(
        self,
        student: dspy.Module,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None,
        source_tasks: Sequence[Task] | None,
        source_prompts: SourcePrompts | None,
        description: str,
    ) -> Work:
        """Check and prepare what `compile` is asked for."""
        if source_tasks and source_prompts is not None:
            raise ConfigurationError("Both source_tasks and source_prompts were given; pass one of them.")
        target = target_input(trainset, valset, self.effort.examples, self.seed, self.objective.answer, description)
        sources = self._source_input(source_tasks) if source_tasks else None
        work = self._prepare(student, sources, {"target": target}, source_prompts)
        if sources is None and not work.carried:
            logger.info("Neither source tasks nor source prompts: a single stage, on the target alone.")
        warn_of_overlap(source_tasks or (), [*trainset, *(valset or ())])
        return work

    def _prepare(
        self,
        student: dspy.Module,
        sources: PhaseInput | None,
        targets: Mapping[str, PhaseInput],
        source_prompts: SourcePrompts | None,
        kind: str | None = None,
    ) -> Work:
        """Check everything that can be known before a call is paid, and plan the phases."""
        original, answering = read_program(student, self.objective.answers)
        student = without_rivals(student)
        phases = ({"source": sources} if sources is not None else {}) | dict(targets)
        answers = {name: shared_answers(data.briefs) for name, data in phases.items()}
        shared = answers.get("source")
        # The same answers in another order are no other instruction.
        named = {name: shared if shared and set(own or ()) == set(shared) else own for name, own in answers.items()}
        first = {n: first_population(original, answering, self.seed_instructions, own) for n, own in named.items()}
        carried: list[ScoredCandidate] = []
        judged = {candidate.id for candidate in first.get("source", ())}
        if source_prompts is not None:
            self._tell_of_another_lm(source_prompts)
            carried = source_prompts.candidates(original, self.effort.top_k, self.mapping)
            judged = source_prompts.judged(original, self.mapping) if self._judges_like(source_prompts) else set()
            original = source_prompts.known(original, self.mapping)
        extra: list[Any] = [source_prompts.model_dump(mode="json") if source_prompts is not None else None]
        extra += [brief.description for data in targets.values() for brief in data.briefs]
        extra += [kind] if kind is not None else []

        panels = [*targets.values(), *([sources] if sources is not None else [])]
        examples = [example for panel in panels for example in panel.examples]
        self.objective.check(student, examples)
        session = self._session(student, original, examples, extra)
        work = self._fitted(Work(original, sources, dict(targets), first, carried, judged, session, self.effort))
        # What identifies it is what was asked for: with a larger budget it goes on, though with more examples.
        session = replace(session, settings=self._settings(work.effort), remark=self._remark(sources, work))
        return replace(work, session=session if kind is not None else self._with_snapshots(session, list(phases)))

    def _fitted(self, work: Work) -> Work:
        """Fit the source phase to a budget of scorer calls, where the user leaves that to us."""
        limits = [budget for budget in self.stop if isinstance(budget, ScorerCalls)]
        if not limits or self.effort.source_examples is not None:
            return work
        return work.fitted(limits[0].limit)

    def _remark(self, given: PhaseInput | None, work: Work) -> str:
        """Say what was fitted."""
        if given is None or work.sources is None or given.most == work.sources.most:
            return ""
        return (
            f"Of each source task {work.sources.most} examples, not {given.most}, as the budget would else leave "
            "little to propose with (source_examples= says otherwise)."
        )

    def _session(
        self, student: dspy.Module, original: Candidate, examples: Sequence[dspy.Example], extra: Sequence[Any]
    ) -> Session:
        # Stop rules are left out: with a larger budget it is the same compile, which goes on.
        asks = digest(asked_by(self.reference_prompt))
        decides = {**self._settings(), "racing": repr(self.racing), "seeds": self.seed_instructions, "asks": asks}
        return Session(
            student=student,
            original=original,
            examples=examples,
            scorer=self.scorer,
            reference_lm=self.reference_lm,
            racing=self.racing,
            spread_penalty=self.spread_penalty,
            stop=self.stop,
            run_dir=self.run_dir,
            decides={**decides, "extra": plain([self.mapping, *extra])},
            listeners=self.listeners,
            verbose=self.verbose,
        )

    def _with_snapshots(self, session: Session, phases: Sequence[str]) -> Session:
        if self.run_dir is None:
            return session
        names = [phase.removeprefix("target ") for phase in phases]
        folders = {
            phase: self.run_dir if phase == name else folder_of(self.run_dir, name, names) or self.run_dir
            for phase, name in zip(phases, names, strict=True)
        }
        snapshots = Snapshots(folders, session.original, session.settings)
        # First, so that whoever is told of a round finds it in the folder.
        return replace(session, listeners=(snapshots, *session.listeners))

    def _source_input(self, tasks: Sequence[Task]) -> PhaseInput:
        size = self.effort.source_examples or self.effort.examples
        return source_input(tasks, size, self.seed, self.objective.answer)

    def _task_input(self, name: str, task: Task) -> PhaseInput:
        about = {"description": task.description, "name": name, "domain": task.domain, "answers": task.answers}
        size, seed = self.effort.examples, self.seed
        return target_input(task.train, task.validation, size, seed, self.objective.answer, **about)  # type: ignore[arg-type]

    def _target_phase(self, name: str, cycle: Cycle, work: Work) -> PhaseResult:
        """Generate the target prompt: from the source prompts where there are some, else from the first population."""
        return self._phase(name, cycle, work, work.targets[name], work.population(name), work.carried)

    def _phase(
        self,
        name: str,
        cycle: Cycle,
        work: Work,
        data: PhaseInput,
        population: Sequence[Candidate],
        prior: Sequence[ScoredCandidate] = (),
    ) -> PhaseResult:
        prompts = reference_prompts(
            cycle.program,
            population[0].instructions,
            data.briefs,
            self.objective.answers,
            asked_by(self.reference_prompt),
        )
        proposer = Proposer(
            work.session.reference(),
            prompts,
            self.temperature,
            self.seed,
            threads=self.scorer.num_threads,
            memory=cycle.memory,
            ledger=cycle.ledger,
            aside=cycle.aside,
        )
        result = cycle.run(
            name,
            population,
            search=data.search,
            selection=data.selection,
            proposer=proposer,
            rounds=work.effort.rounds,
            proposals_per_round=work.effort.proposals,
            finalists=work.effort.top_k,
            stop=sorted_out(self.stop)[0],
            prior=sorted(prior, key=lambda scored: scored.score),
        )
        logger.info("The %s phase ended (%s); best score %.3f.", name, result.stopped, result.best.score)
        return result

    def _source_prompts(self, result: PhaseResult, tasks: Sequence[Task], work: Work) -> SourcePrompts:
        prompts = SourcePrompts.of(result, work.original, tasks, work.effort.top_k, work.session.settings)
        if self.run_dir is not None:
            prompts.save(self.run_dir / "source_prompts.json")
        self.tell(Constructed("source", prompts))
        return prompts

    def _judges_like(self, source_prompts: SourcePrompts) -> bool:
        """Say whether what a source phase thought little of would be thought little of here."""
        made, now = plain(source_prompts.settings), plain(self._settings())
        return all(made.get(name) == now[name] for name in ("scorer_lm", "objective"))

    def _tell_of_another_lm(self, source_prompts: SourcePrompts) -> None:
        made, now = source_prompts.settings.get("scorer_lm"), self._settings()["scorer_lm"]
        if made != now:
            logger.info(
                "The source prompts were made with the scorer LM %s, and this is %s: they are scored anew on the "
                "target, and their source scores count as far as the target bears them out.",
                made,
                now,
            )

    def _deliver(self, phase: str, student: dspy.Module, result: TransferResult, folder: Path | None) -> dspy.Module:
        for task, metrics in result.winner.by_task.items():
            if missed := self.objective.rule.constraints.missed(metrics.as_dict()):
                logger.warning("No prompt keeps all constraints; the best on %s: %s.", task, "; ".join(missed))
        return deliver(result, student, folder, phase, self.listeners)

    def tell(self, event: Event) -> None:
        """Tell the listeners an event."""
        for listener in self.listeners:
            listener(event)

    def _settings(self, effort: Effort | None = None) -> dict[str, Any]:
        lms = {"reference_lm": self.reference_lm or dspy.settings.lm, "scorer_lm": self.scorer.lm or dspy.settings.lm}
        return {
            **{name: getattr(lm, "model", None) for name, lm in lms.items()},
            **vars(effort or self.effort),
            "objective": self.objective.describe(),
            "spread_penalty": self.spread_penalty,
            "temperature": self.temperature,
            "reference_prompt": ", ".join(kind.__name__ for kind in asked_by(self.reference_prompt)),
            "racing": type(self.racing).__name__,
            "seed": self.seed,
        }
