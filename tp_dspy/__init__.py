"""Transfer-Prompting as a DSPy teleprompter: find instructions on source tasks, carry them over to a target task."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tp_dspy import errors
    from tp_dspy.lms.adapter import InstructionAdapter
    from tp_dspy.lms.embedded import embedded_lm
    from tp_dspy.optimization.events import Event
    from tp_dspy.optimization.reference_prompt import AdvicePrompt, ReferencePrompt
    from tp_dspy.optimization.stopping import (
        AllOf,
        Patience,
        Progress,
        ReferenceCalls,
        ScorerCalls,
        Seconds,
        StopFile,
        TargetScore,
        Tokens,
        Usd,
    )
    from tp_dspy.runs.artifacts import TransferResult
    from tp_dspy.runs.influence import SourceInfluence
    from tp_dspy.runs.source_prompts import SourcePrompts
    from tp_dspy.runs.transfers import Transfers
    from tp_dspy.scoring.calibrated import CalibratedProgram
    from tp_dspy.scoring.custom import SetMetric
    from tp_dspy.scoring.objective import ObjectiveEvaluator
    from tp_dspy.scoring.throttle import Limits
    from tp_dspy.tasks.task import Task
    from tp_dspy.teleprompter import TransferPrompting

__all__ = [
    "AdvicePrompt",
    "AllOf",
    "CalibratedProgram",
    "Event",
    "InstructionAdapter",
    "Limits",
    "ObjectiveEvaluator",
    "Patience",
    "Progress",
    "ReferenceCalls",
    "ReferencePrompt",
    "ScorerCalls",
    "Seconds",
    "SetMetric",
    "SourceInfluence",
    "SourcePrompts",
    "StopFile",
    "TargetScore",
    "Task",
    "Tokens",
    "TransferPrompting",
    "TransferResult",
    "Transfers",
    "Usd",
    "embedded_lm",
    "errors",
]

__version__ = "0.1.0"

# Where each name lives: `import tp_dspy` takes no longer than what is used of it (PEP 562).
_HOMES = {
    "AdvicePrompt": "optimization.reference_prompt",
    "AllOf": "optimization.stopping",
    "CalibratedProgram": "scoring.calibrated",
    "Event": "optimization.events",
    "InstructionAdapter": "lms.adapter",
    "Limits": "scoring.throttle",
    "ObjectiveEvaluator": "scoring.objective",
    "Patience": "optimization.stopping",
    "Progress": "optimization.stopping",
    "ReferenceCalls": "optimization.stopping",
    "ReferencePrompt": "optimization.reference_prompt",
    "ScorerCalls": "optimization.stopping",
    "Seconds": "optimization.stopping",
    "SetMetric": "scoring.custom",
    "SourceInfluence": "runs.influence",
    "SourcePrompts": "runs.source_prompts",
    "StopFile": "optimization.stopping",
    "TargetScore": "optimization.stopping",
    "Task": "tasks.task",
    "Tokens": "optimization.stopping",
    "TransferPrompting": "teleprompter",
    "TransferResult": "runs.artifacts",
    "Transfers": "runs.transfers",
    "Usd": "optimization.stopping",
    "embedded_lm": "lms.embedded",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("tp_dspy.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'tp_dspy' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tp_dspy.{_HOMES[name]}"), name)
    globals()[name] = value  # found at once the next time
    if name == "TransferPrompting" and "mlflow" in sys.modules:
        importlib.import_module("tp_dspy.trackers.autolog").patched(value)
    return value


if "mlflow" in sys.modules:
    # Its autolog patches the optimisers that are there when it is called: the public way to be seen by it.
    __getattr__("TransferPrompting")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
