"""The budget of scorer calls, the same for every optimiser, held from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import is_retryable_lm_error

__all__ = ["BudgetSpentError", "Meter", "Prompt"]

Prompt = tuple[Any, ...]
"""What tells two prompts apart: of each predictor its name, its instructions, and the labels of its output fields."""

# Runs that had begun when the budget ended are waited for: in vain beyond this, in seconds.
_PATIENCE = 60.0


class BudgetSpentError(BaseException):
    """The budget is spent. Not an `Exception`: DSPy, gepa, optuna and promptolution would go on after one."""


@dataclass
class _Run:
    prompt: Prompt
    asked: Hashable
    clean: bool


@dataclass
class Meter(BaseCallback):  # type: ignore[misc]
    """Counts runs of a program, and ends the compile when more are wanted than there is budget for.

    A callback of DSPy's, as all optimisers run the program through DSPy, in any thread. Repeating a pair (prompt,
    demos, inputs, sampling) is free. It scores every outcome itself, so that an optimiser that was cut off still has a
    result: the best prompt that it had measured on all examples of a split.

    Attributes:
        student: The program; runs of its class are counted.
        metric: Scores a prediction, as a DSPy metric.
        splits: Examples by the split's name, in the order in which splits are asked for a result.
        budget: Pairs that may be paid for; None for no limit.
        most_replies: Replies of the reference LM that may be asked for; None for no limit. Without one, a search whose
            proposals are all useless would never end, as it pays for no pair.
        watches: Whether to keep the best so far by what was measured, for optimisers that do not tell it.
        runs: Runs so far.
        pairs: Pairs paid for so far.
        replies: Replies of the reference LM so far: of LMs that have the attribute ``is_reference``.
        outage: Why a run got no answer or no score, where that was no prompt's fault: no optimiser is judged by it.
        incumbents: The prompt of the best mean on the whole of the first split that has one, with the pairs that had
            been paid for when it became that.
    """

    student: dspy.Module
    metric: Any
    splits: dict[str, Sequence[dspy.Example]]
    budget: int | None = None
    most_replies: int | None = None
    watches: bool = True
    runs: int = 0
    replies: int = 0
    outage: BaseException | None = None
    incumbents: list[tuple[int, Prompt]] = field(default_factory=list)
    _seen: set[Hashable] = field(default_factory=set)
    _open: dict[str, _Run] = field(default_factory=dict)
    _asked: dict[str, int] = field(default_factory=dict)
    _scores: dict[tuple[str, Prompt], dict[Hashable, float]] = field(default_factory=dict)
    _signatures: dict[Prompt, dict[str, Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._where: dict[Hashable, list[str]] = {}
        self._examples: dict[Hashable, dspy.Example] = {}
        self._sizes = {split: len({_inputs(e.inputs()) for e in examples}) for split, examples in self.splits.items()}
        for split, examples in self.splits.items():
            for example in examples:
                self._examples[_inputs(example.inputs())] = example
                self._where.setdefault(_inputs(example.inputs()), []).append(split)

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        return self

    @property
    def pairs(self) -> int:
        """Pairs paid for so far."""
        return len(self._seen)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Count a run of the program, or refuse it."""
        if type(instance) is not type(self.student):
            return
        prompt, signatures = self._prompt(instance)
        demos = tuple(str(p.demos) for _, p in instance.named_predictors() if p.demos)
        settings = [getattr(p.lm, "kwargs", {}) for _, p in instance.named_predictors()]
        sampling = tuple(
            (k.get("rollout_id"), k.get("temperature")) for k in settings if k.get("rollout_id") is not None
        )
        asked = _inputs(inputs["kwargs"])
        pair = (prompt, demos, sampling, asked)
        with self._lock:
            if pair not in self._seen and self.budget is not None and self.pairs >= self.budget:
                raise BudgetSpentError(f"{self.budget} scorer calls are spent")
            self.runs += 1
            self._seen.add(pair)
            self._signatures.setdefault(prompt, signatures)
            self._open[call_id] = _Run(prompt, asked, clean=not demos and not sampling)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Count what the reference LM is asked for, or refuse it."""
        if not getattr(instance, "is_reference", False):
            return
        asked = int((inputs.get("kwargs") or {}).get("n") or 1)
        with self._lock:
            if self.most_replies is not None and self.replies + asked > self.most_replies:
                raise BudgetSpentError(f"{self.most_replies} replies of the reference LM are spent")
            self.replies += asked
            self._asked[call_id] = asked

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Take back what was counted where no reply came: it will be asked for again."""
        with self._lock:
            asked = self._asked.pop(call_id, 0)
            self.replies -= asked if exception is not None else 0

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Score what a run gave."""
        with self._lock:
            run = self._open.get(call_id)
        if run is None:
            return
        # GEPA's traced runs give (prediction, trace).
        prediction = outputs[0] if isinstance(outputs, tuple) else outputs
        if exception is not None and is_retryable_lm_error(exception):
            self.outage = exception
        example, score = self._examples.get(run.asked), 0.0
        if example is not None and isinstance(prediction, dspy.Prediction) and exception is None:
            try:
                made = self.metric(example, prediction)
                score = float(getattr(made, "score", made))
            except Exception as error:  # DSPy logs what a callback raises, and goes on
                self.outage = error
        with self._lock:
            del self._open[call_id]
            if run.clean and example is not None:
                for split in self._where[run.asked]:
                    self._scores.setdefault((split, run.prompt), {}).setdefault(run.asked, score)
                best = self._best() if self.watches else None
                if best is not None and (not self.incumbents or best != self.incumbents[-1][1]):
                    self.incumbents.append((self.pairs, best))

    def settle(self) -> None:
        """Wait for the runs that are under way in threads of an optimiser that was cut off."""
        end = time.monotonic() + _PATIENCE
        while self._open and time.monotonic() < end:
            time.sleep(0.05)

    def best(self) -> Prompt | None:
        """Give the prompt of the best mean on the whole of a split, the first of equals; None where there is none."""
        with self._lock:
            return self._best()

    def _best(self) -> Prompt | None:
        for split, size in self._sizes.items():
            whole = {p: s for (name, p), s in self._scores.items() if name == split and len(s) == size}
            if whole:
                return max(whole, key=lambda prompt: sum(whole[prompt].values()))
        return None

    def program(self, prompt: Prompt | None) -> dspy.Module:
        """Give the program with a prompt; as it was with None."""
        made = self.student.deepcopy()
        if prompt is not None:
            for name, predictor in made.named_predictors():
                predictor.signature = self._signatures[prompt][name]
        return made

    def prompt(self, program: dspy.Module) -> Prompt:
        """Say what a program's prompt is, so that `program` can give it again."""
        prompt, signatures = self._prompt(program)
        self._signatures.setdefault(prompt, signatures)
        return prompt

    def _prompt(self, program: dspy.Module) -> tuple[Prompt, dict[str, Any]]:
        signatures = {name: predictor.signature for name, predictor in program.named_predictors()}
        labels = {n: [f.json_schema_extra["prefix"] for f in s.output_fields.values()] for n, s in signatures.items()}
        return tuple((n, s.instructions, *labels[n]) for n, s in signatures.items()), signatures


def _inputs(inputs: Any) -> Hashable:
    return tuple(sorted((name, str(value)) for name, value in dict(inputs).items()))
