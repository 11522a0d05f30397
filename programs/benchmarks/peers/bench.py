"""A cell: one optimiser on one target with one seed. It is run once, measured on held-out questions, and kept."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import is_retryable_lm_error

from programs.benchmarks.peers.fitting import source_examples
from programs.benchmarks.peers.meter import BudgetSpentError, Meter, Prompt
from programs.benchmarks.peers.methods import METHODS, TOP_K, Asking, Job
from programs.benchmarks.peers.setting import Setting, lms_of
from programs.benchmarks.peers.student import Answer
from programs.benchmarks.peers.suite import Target, listed
from tp_dspy import ObjectiveEvaluator, ReferenceCalls, ScorerCalls, SourcePrompts, Task, TransferPrompting
from tp_dspy.errors import ConfigurationError, LMUnavailableError, TransferPromptingError
from tp_dspy.optimization.panel import fingerprint
from tp_dspy.runs.folders import file_name, write_whole
from tp_dspy.tasks.loading import load_task
from tp_dspy.tasks.splitting import stratified_order

__all__ = ["Bench", "Cell"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """A cell of the table."""

    target: str
    method: str
    seed: int

    @property
    def file(self) -> str:
        """Its file."""
        return f"{file_name(self.target)}-{self.method}-{self.seed}.json"


class Bench:
    """Runs cells, and knows those that were run.

    Args:
        setting: What the cells share.
        out: Where they are kept: outcomes, never questions.
        threads: Concurrent calls.
        lm_threads: CPU threads of a local LM; by default all.
        servers: Of the scorer and of the reference LM, as in `lms_of`.
        lms: Scorer and reference LM at hand, in the place of those that the setting names.
        tasks: Tasks at hand by name; others are loaded by their names.
    """

    def __init__(
        self,
        setting: Setting,
        out: Path,
        threads: int,
        lm_threads: int | None = None,
        servers: tuple[str | None, str | None] = (None, None),
        lms: tuple[dspy.LM, dspy.LM] | None = None,
        tasks: Mapping[str, Task] | None = None,
    ) -> None:
        self.setting, self.out, self.threads, self.servers = setting, out, threads, servers
        self.folder = out / setting.key
        self.tasks = dict(tasks or {})
        self.objective = ObjectiveEvaluator()
        self.scorer, self.reference = lms or lms_of(setting, threads, lm_threads, *servers)
        self.reference.is_reference = True

    def known(self, cell: Cell, target: Target, again: bool = False) -> dict[str, Any] | None:
        """Give a cell that was run.

        Args:
            cell: The cell.
            target: Its target.
            again: Whether one that was run with other data or LMs, or by another version of the method, is to be run
                anew.

        Raises:
            ConfigurationError: If it is such a one, and not to be run anew.
        """
        path = self.folder / cell.file
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["made_of"] != self._made_of(cell, target):
            if again:
                return None
            raise ConfigurationError(
                f"{path.as_posix()} was made of other data or LMs, or by another version of "
                f"the method; choose another --out, or run it anew with --again."
            )
        return found

    def adopt(self, cells: Iterable[Mapping[str, Any]]) -> int:
        """Take over cells of this setting that were run elsewhere; what is here already stays.

        Returns:
            How many were taken.
        """
        lms = {"scorer": self.scorer.model, "reference": self.reference.model}
        paths = {
            self.folder / Cell(cell["target"], cell["method"], cell["seed"]).file: cell
            for cell in cells
            if cell["setting"] == asdict(self.setting) | lms
        }
        missing = {path: cell for path, cell in paths.items() if not path.exists()}
        for path, cell in missing.items():
            write_whole(path, _line(cell))
        return len(missing)

    def _made_of(self, cell: Cell, target: Target) -> str:
        """Tell data and LMs apart, and versions of our methods."""
        given, test = self._examples(target.name, cell.seed)
        sources = [self._examples(name, cell.seed)[0] for name in target.sources]
        parts = [[fingerprint(e) for e in (*task.train, *task.validation)] for task in (given, *sources)]
        known = [*parts, [fingerprint(e) for e in test], self.scorer.model, self.reference.model]
        if (version := METHODS[cell.method].version) is not None:
            # It changes as this code does; its source prompts with it.
            known.append([version, TOP_K])
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]

    def run(self, cell: Cell, target: Target) -> dict[str, Any]:
        """Run a cell and keep it.

        Raises:
            TransferPromptingError, dspy.LMError: If an LM is not there, which says nothing of any optimiser.
        """
        method = METHODS[cell.method]
        task, test = self._examples(target.name, cell.seed)
        splits = {"train": task.train, "validation": task.validation, "all": [*task.train, *task.validation]}
        budget = self.setting.budget if method.searches else None
        given = {name: splits[name] for name in method.splits}
        student = Answer(position=method.position)
        meter = Meter(student, self.objective, given, budget, self.setting.replies)
        job = Job(
            student=student,
            target=task,
            sources=[self._examples(name, cell.seed)[0] for name in target.sources],
            prompts=lambda asking: self._source_prompts(cell, target, asking),
            by_hand=target.by_hand,
            metric=self.objective,
            scorer=self.scorer,
            reference=self._reference(cell),
            meter=meter,
            budget=self.setting.budget,
            replies=self.setting.replies,
            seed=cell.seed,
            threads=self.threads,
        )
        started = time.monotonic()
        with self._configured([meter]):
            ended, prompt = self._compile(job, cell)
        if meter.outage is not None:
            raise LMUnavailableError(f"{cell.file} is not kept, as a run got no answer or no score: {meter.outage}")
        seconds = time.monotonic() - started
        with self._configured([]):
            measured = self._measure(meter, [*(p for _, p in meter.incumbents), prompt], test)
        found = {
            **asdict(cell),
            "setting": asdict(self.setting) | {"scorer": self.scorer.model, "reference": self.reference.model},
            "made_of": self._made_of(cell, target),
            "ended": ended,
            "settings": job.settings,
            "proposals": job.proposals,
            "pairs": meter.pairs,
            "runs": meter.runs,
            "reference_replies": meter.replies,
            "seconds": round(seconds, 1),
            "incumbents": [[pairs, measured[0].index(list(p))] for pairs, p in meter.incumbents],
            "final": measured[0].index(list(prompt)),
            "prompts": measured[0],
            "outcomes": measured[1],
        }
        return self.keep(found)

    def keep(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a cell that was run, here or elsewhere; gives it as it is read again."""
        text = _line(found)
        write_whole(self.folder / Cell(found["target"], found["method"], found["seed"]).file, text)
        return json.loads(text)

    def _reference(self, cell: Cell, again: int = 0) -> dspy.LM:
        """Give the reference LM for a try at a cell: DSPy's cache would give all that ask alike the same replies."""
        return self.reference.copy(rollout_id=zlib.crc32(f"{cell.target}/{cell.seed}/{again}".encode()))

    def _compile(self, job: Job, cell: Cell) -> tuple[str, Prompt]:
        """Run an optimiser; say how it ended, and what prompt it found."""
        method, errors = METHODS[cell.method], list[str]()
        for again in range(method.tries):
            job.reference = self._reference(cell, again)
            try:
                with _silence():
                    made = method.compile(job)
                said = f"by itself, after {again} errors ({errors[-1]})" if errors else "by itself"
                return said, job.meter.prompt(made)
            except BudgetSpentError:
                errors.append("budget")
            except TransferPromptingError:
                raise
            except Exception as error:  # its own: an unparsable proposal, as a rule
                if is_retryable_lm_error(error):
                    raise
                errors.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
                logger.info("%s ended with %s", cell.method, errors[-1])
            job.meter.settle()
            if errors[-1] == "budget":
                break
        best = job.meter.best()
        failed = [error for error in errors if error != "budget"]
        said = "cut off by the budget" if errors[-1] == "budget" else "failed"
        said += f", after {len(failed)} errors ({failed[-1]})" if failed else ""
        return said, best if best is not None else job.meter.prompt(job.student)

    def _measure(
        self, meter: Meter, prompts: Sequence[Prompt], test: Sequence[dspy.Example]
    ) -> tuple[list[list[Any]], list[list[Any]]]:
        """Measure prompts on held-out questions: each once, with its outcomes in short."""
        distinct = list(dict.fromkeys(prompts))
        programs = {str(index): meter.program(prompt) for index, prompt in enumerate(distinct)}
        held_out = self.objective.evaluate_all(programs, test, verbose=False, num_threads=self.threads)
        outcomes = [
            [[o.status, int(o.followed), o.correct, o.confidence] for o in evaluation.outcomes]
            for evaluation in held_out.evaluations.values()
        ]
        return [list(prompt) for prompt in distinct], outcomes

    def _examples(self, name: str, seed: int) -> tuple[Task, list[dspy.Example]]:
        """Draw a compile's examples by the seed; the held-out questions are the same for all seeds."""
        task = (self.tasks.get(name) or listed(load_task(name, seed=0))).split_validation(seed=0)
        size = self.setting.examples
        drawn = [stratified_order(split, seed=seed)[:size] for split in (task.train, task.validation)]
        about: dict[str, Any] = {"domain": task.domain, "description": task.description, "answers": task.answers}
        given = Task(task.name, train=drawn[0], validation=drawn[1], test=[], **about)
        return given, stratified_order(task.test, seed=0)[: self.setting.test]

    def _source_prompts(self, cell: Cell, target: Target, asking: Asking) -> SourcePrompts:
        """Make the source prompts, with a budget of its own that is as large, or read those that were made."""
        seed, names = cell.seed, [kind.__name__ for kind in asking]
        made_of = self._made_of(cell, target)
        folder = self.folder / "sources" / file_name(f"{target.name}-{seed}-{'-'.join(names)}-{made_of}")
        path = folder / "source_prompts.json"
        if not path.exists():
            sources = [self._examples(name, seed)[0] for name in target.sources]
            with self._configured([]):
                TransferPrompting(
                    self.objective,
                    reference_lm=self.reference,
                    scorer_lm=self.scorer,
                    rounds=1_000,
                    proposals=8,
                    source_examples=source_examples(self.setting.examples, len(sources)),
                    top_k=TOP_K,
                    reference_prompt=asking,
                    stop=[ScorerCalls(self.setting.budget), ReferenceCalls(self.setting.replies)],
                    num_threads=self.threads,
                    seed=seed,
                    run_dir=folder,
                    verbose=False,
                ).construct_source_prompts(Answer(), source_tasks=sources)
        return SourcePrompts.load(path)

    @contextlib.contextmanager
    def _configured(self, callbacks: Sequence[BaseCallback]) -> Iterator[None]:
        # DSPy's own adapter for the optimisers' prompts: the program has one of its own.
        more: Mapping[str, Any] = {"adapter": None, "max_errors": 10**9, "num_threads": self.threads}
        with dspy.context(lm=self.scorer, callbacks=list(callbacks), **more):
            yield


def _line(cell: Mapping[str, Any]) -> bytes:
    return (json.dumps(cell, ensure_ascii=False) + "\n").encode()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what optimisers print, bars among it, off the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
