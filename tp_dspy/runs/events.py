"""What happens around the phases of a compile, for whoever shows or records it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import dspy

from tp_dspy.optimization.events import Event
from tp_dspy.runs.artifacts import TransferResult
from tp_dspy.runs.source_prompts import SourcePrompts
from tp_dspy.scoring.held_out import HeldOut

__all__ = ["Compiled", "Constructed", "Failed", "Measured"]


@dataclass(frozen=True)
class Constructed(Event):
    """The source prompts are there, after their phase has ended; `phase` is "source"."""

    kind: ClassVar[str] = "constructed"
    prompts: SourcePrompts


@dataclass(frozen=True)
class Compiled(Event):
    """A target's program is there. `phase` is that of the target.

    Of one target it is the last event of the compile, after the `Spending` of the whole; only `Measured` may follow. Of
    several targets each has its own, after its phase, and the `Spending` of the whole is the last event.
    """

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
