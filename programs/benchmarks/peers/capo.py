"""promptolution's CAPO on a DSPy program; it needs `uv sync --group peers`, and Python below 3.13."""

from __future__ import annotations

from typing import Any

import dspy
import numpy as np
import pandas as pd
from dspy.utils.parallelizer import ParallelExecutor
from promptolution.llms.base_llm import BaseLLM
from promptolution.optimizers.capo import CAPO
from promptolution.predictors.base_predictor import BasePredictor
from promptolution.tasks.base_task import BaseTask

from programs.benchmarks.peers.meter import BudgetSpentError

__all__ = ["capo"]


def _at_once(function: Any, of: list[Any], threads: int) -> list[Any]:
    # What is slow is not begun a second time: the budget would pay for both.
    executor = ParallelExecutor(num_threads=threads, disable_progress_bar=True, timeout=0)
    made = list(executor.execute(function, of)) if of else []
    if executor.exceptions_map:
        raise next(iter(executor.exceptions_map.values()))
    return made


class _LLM(BaseLLM):
    """The reference LM, for crossover and mutation."""

    def __init__(self, lm: dspy.LM, threads: int) -> None:
        super().__init__()
        self.lm, self.threads = lm, threads

    def _get_response(self, prompts: list[str], system_prompts: list[str]) -> list[str]:
        asked = [
            [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
            for prompt, system in zip(prompts, system_prompts, strict=True)
        ]
        return _at_once(self._one, asked, self.threads)

    def _one(self, messages: list[dict[str, str]]) -> str:
        reply = self.lm(messages=messages)[0]
        return reply if isinstance(reply, str) else str(reply["text"])


class _Program(BasePredictor):
    """A DSPy program under an instruction; what it gives as a prediction is its score already."""

    def __init__(self, llm: BaseLLM, student: dspy.Module, examples: list[dspy.Example], metric: Any, threads: int):
        super().__init__(llm)
        self.student, self.examples, self.metric, self.threads = student, examples, metric, threads

    def predict(self, prompts: Any, xs: list[str], system_prompts: Any = None) -> tuple[list[float], list[str]]:
        prompts = [prompts] * len(xs) if isinstance(prompts, str) else prompts
        pairs = [(prompt, self.examples[int(x)]) for prompt, x in zip(prompts, xs, strict=True)]
        scored = _at_once(self._one, pairs, self.threads)
        return [score for score, _ in scored], [text for _, text in scored]

    def _one(self, pair: tuple[str, dspy.Example]) -> tuple[float, str]:
        instruction, example = pair
        program = self.student.deepcopy()
        program.predict.signature = program.predict.signature.with_instructions(instruction)
        try:
            prediction = program(**example.inputs())
        except Exception:
            prediction = None
        made = self.metric(example, prediction)
        return float(getattr(made, "score", made)), str(prediction)

    def _extract_preds(self, preds: Any) -> Any:
        return preds


class _Task(BaseTask):
    """Examples by number."""

    def __init__(self, examples: list[dspy.Example], description: str, block: int) -> None:
        rows = {"x": [str(i) for i in range(len(examples))], "y": [str(e.answer) for e in examples]}
        super().__init__(
            pd.DataFrame(rows), "x", "y", description, n_subsamples=block, eval_strategy="sequential_block"
        )
        self.task_type = "reward"

    def _evaluate(self, xs: Any, ys: Any, preds: Any) -> Any:
        return np.asarray(preds, dtype=float)


class _Capo(CAPO):  # type: ignore[misc]
    """Keeps the error that its loop ends with, and swallows."""

    error: Exception | None = None

    def _step(self) -> Any:
        try:
            return super()._step()
        except Exception as error:
            self.error = error
            raise


def capo(
    student: dspy.Module,
    metric: Any,
    reference: dspy.LM,
    examples: list[dspy.Example],
    description: str,
    initial: list[str],
    threads: int,
    settings: dict[str, Any],
) -> str:
    """Run it to its end, which is that of the budget as a rule; give its first prompt.

    Raises:
        BudgetSpentError: If the budget ends before its first step does: it has chosen nothing yet.
        Exception: What ended a step, such as a reply that did not come.
    """
    llm = _LLM(reference, threads)
    optimiser = _Capo(
        _Program(llm, student, examples, metric, threads),
        _Task(examples, description, settings["block"]),
        llm,
        initial_prompts=initial,
        crossovers_per_iter=settings["crossovers_per_iter"],
        upper_shots=settings["upper_shots"],
        create_fs_reasoning=False,
        check_fs_accuracy=False,
        df_few_shots=pd.DataFrame({"x": [], "y": []}),
    )
    try:
        optimiser.optimize(settings["n_steps"])
    except BudgetSpentError:
        if not optimiser.scores:
            raise
    if optimiser.error is not None:
        raise optimiser.error
    # As its last whole step left them, best first.
    return str(optimiser.prompts[0].instruction)
