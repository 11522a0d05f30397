"""Chains of TransferPrompting with DSPy's own optimisers, on the small LM that runs in this process.

    uv run python -m programs.chaining                       # every chain, a few minutes, no key
    uv run python -m programs.chaining --chain demos ensemble --limit 20

Source prompts are made once, on medical and legal yes/no questions; each chain then compiles for financial ones, and is
measured on questions that no step has seen: before, after its first and after its second step. Calls are those that its
steps made of the LM that answers. With an LM of your own only `Bench.open` changes.

Not here is ReAnchor, which fits the thresholds of answers that are given as probabilities in JSON: this LM writes none.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import dspy
from dspy.utils.callback import BaseCallback

from tp_dspy import (
    InstructionAdapter,
    ObjectiveEvaluator,
    SourcePrompts,
    Task,
    TransferPrompting,
    embedded_lm,
)

ANSWER_TOKENS, INSTRUCTION_TOKENS = 4, 64
# So little, of everything, that all chains take a few minutes; take more of each for work of your own.
EFFORT = {"rounds": 1, "proposals": 2, "examples": 8, "top_k": 3}
TRAIN, VALIDATION = 16, 12


class Calls(BaseCallback):  # type: ignore[misc]
    """Counts the calls of the LM that answers; the one that proposes writes longer replies."""

    count = 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Count a call."""
        self.count += instance.kwargs["max_tokens"] == ANSWER_TOKENS


@dataclass(frozen=True)
class Bench:
    """What all chains share."""

    program: dspy.Module
    task: Task
    objective: ObjectiveEvaluator
    transfer: TransferPrompting
    source_prompts: SourcePrompts
    reference_lm: dspy.BaseLM

    @classmethod
    def open(cls) -> Self:
        """Set up LMs, program and tasks, and make the source prompts."""
        # Log-probabilities are asked for here, as DSPy's optimisers do not: the objective reads confidence from them.
        lm = embedded_lm(max_tokens=ANSWER_TOKENS, logprobs=True, top_logprobs=10, cache=False)
        reference_lm = embedded_lm(max_tokens=INSTRUCTION_TOKENS, cache=False)
        dspy.configure(lm=lm, adapter=InstructionAdapter(), num_threads=4)
        program = dspy.Predict(dspy.Signature("question -> answer", "Answer the question."))
        objective = ObjectiveEvaluator()
        transfer = TransferPrompting(objective, reference_lm=reference_lm, **EFFORT, verbose=False)
        sources = [Task.starter(domain, kind="yes_no") for domain in ("medical", "legal")]
        made = transfer.construct_source_prompts(program, source_tasks=sources)
        task = Task.starter("financial", kind="yes_no").split_validation()
        return cls(program, task, objective, transfer, made, reference_lm)

    @property
    def data(self) -> dict[str, Any]:
        """What every optimiser is given."""
        # BetterTogether shuffles in place, and a task's splits are tuples.
        return {"trainset": list(self.task.train[:TRAIN]), "valset": list(self.task.validation[:VALIDATION])}

    def transferred(self, program: dspy.Module) -> dspy.Module:
        """Compile with TransferPrompting: the one step that all chains have."""
        return self.transfer.compile(program, **self.data, source_prompts=self.source_prompts)

    def measured(self, program: dspy.Module, limit: int) -> str:
        """Measure a program on held-out questions: score, IFR and ACC."""
        # Several chains come to the same program, which is measured but once.
        lm = dspy.settings.lm.copy(cache=True)
        metrics = self.objective.evaluate(program, self.task.test[:limit], lm=lm, verbose=False).metrics
        return f"{metrics.score:.2f} {metrics.ifr:.2f} {metrics.accuracy:.2f}"


# The chains: each yields the program after each of its steps.

Chain = Callable[[Bench], Iterator[dspy.Module]]


def demos(bench: Bench) -> Iterator[dspy.Module]:
    """TransferPrompting, then BootstrapFewShot."""
    prompted = bench.transferred(bench.program)
    yield prompted
    bootstrap = dspy.BootstrapFewShot(metric=bench.objective, max_bootstrapped_demos=2, max_labeled_demos=2)
    yield bootstrap.compile(prompted, trainset=bench.data["trainset"])


def search(bench: Bench) -> Iterator[dspy.Module]:
    """TransferPrompting, then BootstrapFewShotWithRandomSearch."""
    prompted = bench.transferred(bench.program)
    yield prompted
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=bench.objective, max_bootstrapped_demos=2, max_labeled_demos=2, num_candidate_programs=2
    )
    yield optimizer.compile(prompted, **bench.data)


def demos_first(bench: Bench) -> Iterator[dspy.Module]:
    """BootstrapFewShot, then TransferPrompting: prompts are scored with the demos in place."""
    bootstrap = dspy.BootstrapFewShot(metric=bench.objective, max_bootstrapped_demos=2, max_labeled_demos=2)
    shown = bootstrap.compile(bench.program, trainset=bench.data["trainset"])
    yield shown
    yield bench.transferred(shown)


def mipro(bench: Bench) -> Iterator[dspy.Module]:
    """MIPROv2 for instructions only, then TransferPrompting: its instruction is what is to be bettered."""
    optimizer = dspy.MIPROv2(
        metric=bench.objective,
        prompt_model=bench.reference_lm,
        auto=None,
        num_candidates=3,
        max_bootstrapped_demos=0,
        max_labeled_demos=0,
    )
    once = {"num_trials": 3, "minibatch": False, "data_aware_proposer": False}
    instructed = optimizer.compile(bench.program, **bench.data, **once)
    yield instructed
    yield bench.transferred(instructed)


def gepa(bench: Bench) -> Iterator[dspy.Module]:
    """TransferPrompting, then GEPA with a frontier over the objective's own scores."""
    prompted = bench.transferred(bench.program)
    yield prompted
    optimizer = dspy.GEPA(
        metric=bench.objective,
        reflection_lm=bench.reference_lm,
        max_metric_calls=50,
        gepa_kwargs={"frontier_type": "hybrid"},
    )
    yield optimizer.compile(prompted, **bench.data)


def together(bench: Bench) -> Iterator[dspy.Module]:
    """Both in one, with BetterTogether, which keeps the best of all steps."""
    optimizer = dspy.BetterTogether(
        bench.objective,
        t=bench.transfer,
        b=dspy.BootstrapFewShot(metric=bench.objective, max_bootstrapped_demos=2, max_labeled_demos=2),
    )
    student = bench.program.deepcopy()
    student.set_lm(dspy.settings.lm)
    best = optimizer.compile(
        student,
        **bench.data,
        strategy="t -> b",
        optimizer_compile_args={"t": {"source_prompts": bench.source_prompts}},
    )
    yield {tried["strategy"]: tried["program"] for tried in best.candidate_programs}["t"]
    yield best


def ensemble(bench: Bench) -> Iterator[dspy.Module]:
    """TransferPrompting, then a vote of its three best prompts."""
    prompted = bench.transferred(bench.program)
    yield prompted
    best = prompted.detailed_results.programs(bench.program, top_k=3)
    # By the field's name: with log-probabilities a prediction's last field is those.
    yield dspy.Ensemble(reduce_fn=partial(dspy.majority, field="answer")).compile(best)


CHAINS: dict[str, Chain] = {
    "demos": demos,
    "search": search,
    "demos-first": demos_first,
    "mipro": mipro,
    "gepa": gepa,
    "together": together,
    "ensemble": ensemble,
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep DSPy's optimisers from printing as they go."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def main() -> None:
    """Run chains and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chain", nargs="+", choices=CHAINS, default=list(CHAINS), help="which ones; all by default")
    parser.add_argument("--limit", type=int, default=40, help="held-out questions, at most (default: 40)")
    arguments = parser.parse_args()
    # The table is all that is told.
    dspy.disable_logging()
    logging.getLogger("tp_dspy").setLevel(logging.ERROR)
    began = time.monotonic()
    bench = Bench.open()
    before = bench.measured(bench.program, arguments.limit)
    print(f"Source prompts: {time.monotonic() - began:.0f} s. In each cell: score, IFR, ACC.\n", flush=True)
    row = "{:12} {:16} {:16} {:16} {:>6} {:>8}".format
    print(row("chain", "before", "after step 1", "after step 2", "calls", "seconds"))
    for name in arguments.chain:
        calls, began = Calls(), time.monotonic()
        with dspy.context(callbacks=[calls]), quiet():
            programs = list(CHAINS[name](bench))
        seconds = time.monotonic() - began
        after = [bench.measured(program, arguments.limit) for program in programs]
        print(row(name, before, *after, calls.count, f"{seconds:.0f}"), flush=True)


if __name__ == "__main__":
    main()
