"""What a compile on the command line is asked for, in a form that a run folder keeps and a later command reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import dspy
from pydantic import Field

from tp_dspy.errors import ArtifactError, ConfigurationError
from tp_dspy.runs.artifacts import Artifact
from tp_dspy.runs.records import Record

if TYPE_CHECKING:
    from tp_dspy.experiment import Experiment
    from tp_dspy.optimization.events import Listener
    from tp_dspy.tasks.task import Task
    from tp_dspy.teleprompter import TransferPrompting

__all__ = ["Budgets", "Effort", "Job", "LMs", "Run", "Scoring"]

RUN_FILE = "run.json"
RUNNING = "running"
"""State of a run whose command has not ended, or was ended before it could say so."""


class LMs(Record):
    """Who answers and who proposes.

    Attributes:
        scorer: Runs the program: "embedded", a .gguf file, or a DSPy model string.
        reference: Proposes; None for the same as the scorer.
        adapter: "auto" is plain prompts for LMs on this machine and DSPy's own for others.
        position: Where plain prompts have the instruction.
        reply_tokens: Tokens of a reply of the program, at most; None for what the LM is made with.
        threads: Concurrent calls; None for DSPy's setting, or for all that a cluster can.
        executor: Where the program runs: None for threads, "dask" or "dask://host:port".
    """

    scorer: str = "embedded"
    reference: str | None = None
    adapter: Literal["auto", "plain", "chat", "json"] = "auto"
    position: Literal["before", "start", "end", "answer"] = "start"
    reply_tokens: int | None = None
    threads: int | None = None
    executor: str | None = None

    @property
    def concurrency(self) -> dict[str, Any]:
        """How many calls are made at once, and where, as arguments."""
        return {"num_threads": self.threads, "executor": self.executor}

    def scorer_lm(self, program: dspy.Module | None = None) -> dspy.BaseLM:
        """Make the scorer LM; one on this machine is kept to answers as short as the program allows."""
        from tp_dspy.lms.specs import resolve_lm

        return resolve_lm(self.scorer, "scorer", max_tokens=self._tokens(program))

    def _tokens(self, program: dspy.Module | None) -> int | None:
        from tp_dspy.lms.specs import is_local

        if self.reply_tokens is None and is_local(self.scorer) and program is not None and not _is_short(program):
            return 128
        return self.reply_tokens

    def reference_lm(self) -> dspy.BaseLM:
        """Make the reference LM."""
        from tp_dspy.lms.specs import resolve_lm

        return resolve_lm(self.reference or self.scorer, "reference")

    def dspy_adapter(self) -> Any:
        """Make the adapter."""
        from tp_dspy.lms.adapter import InstructionAdapter
        from tp_dspy.lms.specs import is_local

        kind = self.adapter
        if kind == "auto":
            kind = "plain" if is_local(self.scorer) else "chat"
        if kind == "plain":
            return InstructionAdapter(self.position)
        return dspy.JSONAdapter() if kind == "json" else dspy.ChatAdapter()

    @contextlib.contextmanager
    def configured(self, program: dspy.Module | None = None) -> Iterator[dspy.BaseLM]:
        """Set DSPy's LM and adapter for a block."""
        lm = self.scorer_lm(program)
        with dspy.context(lm=lm, adapter=self.dspy_adapter()):
            yield lm

    def in_python(self, program: dspy.Module) -> str:
        """Say how to configure DSPy in the same way for a program, as a line of Python."""
        from tp_dspy.lms.specs import ANSWER_TOKENS, is_local

        tokens = self._tokens(program) or (ANSWER_TOKENS if is_local(self.scorer) else None)
        given = [] if self.scorer == "embedded" else [repr(self.scorer)]
        given += [] if tokens is None else [f"max_tokens={tokens}"]
        lm = f"{'tp_dspy.embedded_lm' if is_local(self.scorer) else 'dspy.LM'}({', '.join(given)})"
        adapter = self.dspy_adapter()
        name = type(adapter).__name__
        made = f"tp_dspy.{name}({self.position!r})" if name == "InstructionAdapter" else f"dspy.{name}()"
        return f"dspy.configure(lm={lm}, adapter={made})"


def _is_short(program: dspy.Module) -> bool:
    """Say whether a program gives nothing but one short answer."""
    predictors = program.predictors()
    return len(predictors) == 1 and len(predictors[0].signature.output_fields) == 1


class Budgets(Record):
    """What may be spent; None for no limit."""

    scorer_calls: int | None = None
    reference_calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None
    patience: int | None = None

    def rules(self) -> list[Any]:
        """Make the stop rules."""
        from tp_dspy.optimization import stopping

        kinds = {
            "scorer_calls": stopping.ScorerCalls,
            "reference_calls": stopping.ReferenceCalls,
            "tokens": stopping.Tokens,
            "usd": stopping.Usd,
            "seconds": stopping.Seconds,
            "patience": stopping.Patience,
        }
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        return [kinds[name](value) for name, value in given.items()]


class Effort(Record):
    """How much is done; None for what `auto` says.

    Attributes:
        auto: "quick", "light", "medium" or "heavy".
        rounds: As in `TransferPrompting`; so for the next four.
        proposals: Proposals of a round.
        examples: Examples per task and panel.
        source_examples: The same for each source task; None for as many, or fewer where a budget asks for it.
        top_k: Source prompts carried over.
        seed: Makes the choice of examples repeatable.
    """

    auto: str = "light"
    rounds: int | None = None
    proposals: int | None = None
    examples: int | None = None
    source_examples: int | None = None
    top_k: int | None = None
    seed: int = 0


class Scoring(Record):
    """What a program is scored on and by.

    Attributes:
        sources: Names or files of the source tasks.
        columns: How to read files: what `tp_dspy.tasks.tabular.Layout` takes.
        answer: The output field that holds the answer.
        confidence: Where confidence comes from.
        weights: Of the metrics, by name; None for the default.
        description: What the target's items are.
    """

    sources: list[str] = Field(default_factory=list)
    columns: dict[str, Any] = Field(default_factory=dict)
    answer: str = "answer"
    confidence: Literal["logits", "verbalized", "agreement", "none"] = "logits"
    weights: dict[str, float] | None = None
    description: str = ""

    def objective(self) -> Any:
        """Make the objective evaluator."""
        from tp_dspy.scoring.objective import ObjectiveEvaluator

        confidence = None if self.confidence == "none" else self.confidence
        return ObjectiveEvaluator(answer=self.answer, confidence=confidence, weights=self.weights)

    def task(self, name: str, seed: int) -> Task:
        """Load a task; the columns are for files, sources among them."""
        from tp_dspy.tasks.loading import is_file, load_task

        layout = {**self.columns, "answer_field": self.answer} if is_file(name) else {}
        return load_task(name, seed=seed, **layout)


class Job(Record):
    """A compile on the command line, whole.

    Attributes:
        program: See `tp_dspy.cli.programs.load_program`.
        instruction: Of a program that is a signature.
        load: State to load into the program first.
        target: Name or file of the target task.
        source_prompts: File of source prompts at hand.
        scoring: What it is scored on and by.
        lms: Who answers and who proposes.
        budgets: What may be spent.
        effort: How much is done.
        test_limit: Test examples, at most.
    """

    program: str
    target: str | None = None
    instruction: str | None = None
    load: str | None = None
    source_prompts: str | None = None
    scoring: Scoring = Field(default_factory=Scoring)
    lms: LMs = Field(default_factory=LMs)
    budgets: Budgets = Field(default_factory=Budgets)
    effort: Effort = Field(default_factory=Effort)
    test_limit: int = 200

    def student(self) -> dspy.Module:
        """Load the program."""
        from tp_dspy.cli.programs import load_program

        return load_program(self.program, instruction=self.instruction, state=self.load)

    def load_sources(self, *targets: Task) -> list[Task]:
        """Load the source tasks, without the questions of the targets."""
        tasks = [self.scoring.task(name, self.effort.seed) for name in self.scoring.sources]
        return [task.without(*targets) for task in tasks] if targets else tasks

    def load_target(self) -> Task:
        """Load the target, with a validation split."""
        if self.target is None:
            raise ConfigurationError("There is no target; name one with --target, e.g. my.csv or cais/mmlu:anatomy.")
        task = self.scoring.task(self.target, self.effort.seed)
        return task.split_validation(seed=self.effort.seed, answer=self.scoring.answer)

    def teleprompter(self, out: Path | None, listeners: list[Listener], lm: dspy.BaseLM) -> TransferPrompting:
        """Make the optimiser."""
        from tp_dspy.teleprompter import TransferPrompting

        return TransferPrompting(
            self.scoring.objective(),
            reference_lm=self.lms.reference_lm(),
            scorer_lm=lm,
            stop=self.budgets.rules(),
            **self.lms.concurrency,
            run_dir=out,
            verbose=False,
            listeners=listeners,
            **self.effort.model_dump(),
        )

    def experiment(
        self, out: Path | None, listeners: list[Listener], program: dspy.Module, lm: dspy.BaseLM
    ) -> Experiment:
        """Put everything together; inside `LMs.configured`."""
        from tp_dspy.experiment import Experiment
        from tp_dspy.runs.source_prompts import SourcePrompts

        target = self.load_target()
        at_hand = SourcePrompts.load(self.source_prompts) if self.source_prompts is not None else None
        teleprompter = self.teleprompter(out, listeners, lm)
        sources = self.load_sources(target)
        return Experiment(
            program, target, teleprompter, sources, at_hand, self.test_limit, description=self.scoring.description
        )


class Run(Artifact):
    """What a run folder keeps of the command that made it. API keys are read from the environment, never kept.

    Attributes:
        job: What was asked for.
        state: "running" until the command has ended; then why the compile stopped.
    """

    format: Literal["tp_dspy.run"] = "tp_dspy.run"
    settings: dict[str, Any] = Field(default_factory=dict)
    job: Job
    state: str = RUNNING

    _format: ClassVar[str] = "tp_dspy.run"

    @classmethod
    def of_folder(cls, folder: Path) -> Run:
        """Read what a run folder keeps.

        Raises:
            ConfigurationError: If it is no run folder of the command line.
            ArtifactError: If what it keeps cannot be read.
        """
        path = folder / RUN_FILE
        if not path.is_file():
            raise ConfigurationError(
                f"{str(folder)!r} is no folder of a run: it has no {RUN_FILE}. `tp-dspy runs` lists those there are."
            )
        try:
            return cls.load(path)
        except ArtifactError as error:
            raise ArtifactError(
                f"The record of the run cannot be read: {error} The command that began the run writes it anew, with "
                f"--out {folder.as_posix()}; what was paid for is in the journal, and is not paid for again."
            ) from error

    def keep(self, folder: Path) -> None:
        """Write it to a run folder."""
        self.save(folder / RUN_FILE)
