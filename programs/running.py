"""What the example programs share: their arguments, and the way from a program to a measured, saved one."""

from __future__ import annotations

import argparse
from pathlib import Path

import dspy

from tp_dspy import ObjectiveEvaluator, TransferPrompting
from tp_dspy.cli.settings import LMs
from tp_dspy.errors import TransferPromptingError
from tp_dspy.tasks.loading import load_task
from tp_dspy.tasks.splitting import stratified_order

__all__ = ["arguments", "run"]


def arguments(about: str, *, sources: list[str], target: str) -> argparse.ArgumentParser:
    """Make the parser that all programs begin with.

    Args:
        about: The program's own docstring.
        sources: Default source tasks.
        target: Default target task.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    task = "a file, starter/DOMAIN[:KIND], or a name of the catalogue (`tp-dspy tasks`)"
    parser.add_argument("--source", nargs="+", default=sources, help=f"source tasks: {task} (default: {sources})")
    parser.add_argument("--target", default=target, help=f"target task (default: {target})")
    parser.add_argument("--scorer-lm", default="embedded", help="runs the program: 'embedded', a .gguf, provider/model")
    parser.add_argument("--reference-lm", help="proposes instructions (default: the scorer LM)")
    parser.add_argument("--auto", default="quick", help="how much to do: quick, light, medium, heavy (default: quick)")
    parser.add_argument("--examples", type=int, help="examples per task and panel; overrides --auto")
    parser.add_argument("--test-limit", type=int, default=100, help="held-out examples, at most (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="makes the choice of examples repeatable (default: 0)")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/PROGRAM)")
    return parser


def run(program: dspy.Module, objective: ObjectiveEvaluator, given: argparse.Namespace) -> dspy.Module:
    """Compile a program on source tasks and target, measure it on held-out examples, save it.

    Returns:
        The compiled program.
    """
    out = given.out or Path("runs") / type(program).__name__
    lms = LMs(scorer=given.scorer_lm, reference=given.reference_lm)
    try:
        target = load_task(given.target, seed=given.seed).split_validation(seed=given.seed)
        sources = [load_task(name, seed=given.seed).without(target) for name in given.source]
        with lms.configured(program):
            teleprompter = TransferPrompting(
                objective,
                reference_lm=lms.reference_lm(),
                auto=given.auto,
                examples=given.examples,
                seed=given.seed,
                run_dir=out,
            )
            compiled = teleprompter.compile(
                program,
                trainset=target.train,
                valset=target.validation,
                source_tasks=sources,
                description=target.description,
            )
            held_out = stratified_order(target.test, seed=given.seed)[: given.test_limit]
            print(objective.evaluate_all({"as written": program, "compiled": compiled}, held_out))
    except TransferPromptingError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    for name, predictor in compiled.named_predictors():
        print(f"{name}: {predictor.signature.instructions}")
    compiled.save(out / "program.json")
    print(f"Saved: {(out / 'program.json').as_posix()}")
    return compiled
