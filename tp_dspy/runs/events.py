"""What happens around the phases of a compile, for whoever shows or records it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import dspy

from tp_dspy.optimization.events import Event
from tp_dspy.runs.artifacts import TransferResult
from tp_dspy.scoring.held_out import HeldOut

__all__ = ["Compiled", "Failed", "Measured"]


@dataclass(frozen=True)
class Compiled(Event):
    """A target's program is there; the last event of its compile. `phase` is that of the target."""

    kind: ClassVar[str] = "compiled"
    result: TransferResult
    program: dspy.Module


@dataclass(frozen=True)
class Failed(Event):
    """The compile was broken off by an error, which is raised next; the last event of it."""

    kind: ClassVar[str] = "failed"
    error: BaseException


@dataclass(frozen=True)
class Measured(Event):
    """The prompts were measured on held-out examples, after the compile; `result` is that of `Compiled` with them."""

    kind: ClassVar[str] = "measured"
    held_out: HeldOut
    result: TransferResult
