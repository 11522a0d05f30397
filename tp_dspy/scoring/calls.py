"""Watching LM calls: what one piece of work called, what it got back, and what that cost. Safe in threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.utils.exceptions import (
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMUnsupportedFeatureError,
    LMUnsupportedModelError,
)
from dspy.utils.usage_tracker import UsageTracker

from tp_dspy.errors import LMUnavailableError
from tp_dspy.scoring.outcomes import Usage

__all__ = ["CallRecord", "record_calls", "unavailable"]

# Asking again cannot help with these: the key, the account, the model's name or the settings are wrong.
_HOPELESS = (LMAuthError, LMBillingError, LMConfigurationError, LMUnsupportedFeatureError, LMUnsupportedModelError)


@dataclass
class CallRecord:
    """The LM calls made inside one `record_calls` block.

    Attributes:
        history: DSPy's history entries, in order. DSPy appends to this list by that name.
        paid: Calls that reached the LM.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    paid: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """What the calls cost. A call answered from DSPy's cache keeps its old price there, and costs nothing here."""
        cached = max(0, len(self.history) - self.paid)
        costs = [entry.get("cost") for entry in self.history if entry.get("usage")]
        known = self.paid == 0 or (len(costs) == self.paid and None not in costs)
        usd = sum(cost for cost in costs if cost is not None) if known else None
        return Usage(self.paid, cached, self.prompt_tokens, self.completion_tokens, usd)

    def replies(self) -> list[tuple[str, Any]]:
        """List the raw replies with their log-probabilities (None where there are none), in order."""
        return [_text_and_logprobs(output) for entry in self.history for output in entry.get("outputs") or ()]


class _Tracker(UsageTracker):  # type: ignore[misc]
    """Counts calls that were paid for; whoever tracks usage outside still sees them."""

    def __init__(self, record: CallRecord, outer: UsageTracker | None) -> None:
        super().__init__()
        self.record, self.outer = record, outer

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        self.record.paid += 1
        self.record.prompt_tokens += int(usage_entry.get("prompt_tokens") or 0)
        self.record.completion_tokens += int(usage_entry.get("completion_tokens") or 0)
        if self.outer is not None:
            self.outer.add_usage(lm, usage_entry)


def _text_and_logprobs(output: Any) -> tuple[str, Any]:
    if isinstance(output, dict):
        return output.get("text") or "", output.get("logprobs")
    return output or "", None


@contextlib.contextmanager
def record_calls(**settings: Any) -> Iterator[CallRecord]:
    """Record the LM calls of the block, in this thread, under further DSPy settings.

    ``dspy.track_usage`` sees nothing in threads, and its total does not tell cached calls from paid ones. DSPy hands
    each call to a tracker (paid ones only) and to the history of every calling module; both are put in place here.
    """
    record = CallRecord()
    tracker = _Tracker(record, dspy.settings.usage_tracker)
    callers = [*(dspy.settings.caller_modules or []), record]
    with dspy.context(usage_tracker=tracker, caller_modules=callers, disable_history=False, **settings):
        yield record


def unavailable(error: Exception) -> LMUnavailableError | None:
    """Turn an error that asking again cannot mend into one that says so; None for any other."""
    if not isinstance(error, _HOPELESS):
        return None
    return LMUnavailableError(
        f"The LM cannot be called ({type(error).__name__}: {error}). Check the model's name, the API key and, for a "
        "server of your own, api_base; nothing further was called."
    )
