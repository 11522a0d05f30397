"""Transfer-Prompting as a DSPy teleprompter: find instructions on source tasks, carry them over to a target task."""

from tp_dspy.lms.adapter import InstructionAdapter
from tp_dspy.lms.embedded import embedded_lm
from tp_dspy.optimization.events import Event
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
    "AllOf",
    "CalibratedProgram",
    "Event",
    "InstructionAdapter",
    "Limits",
    "ObjectiveEvaluator",
    "Patience",
    "Progress",
    "ReferenceCalls",
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
]

__version__ = "0.1.0"
