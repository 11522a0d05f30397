"""What DSPy logs of calls while prompts are scored."""

from __future__ import annotations

import logging

import pytest

from tp_dspy.scoring import calls

CUT_OFF = "LM response was truncated; increase max_tokens or inspect history."


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_that_replies_are_cut_off_is_said_once_while_scoring_and_always_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls._said_once, "said", False)
    logger, heard = logging.getLogger("dspy.clients.lm"), Heard()
    monkeypatch.setattr(logger, "handlers", [heard])
    with calls.record_calls():
        for line in (CUT_OFF, CUT_OFF, "Something else.", CUT_OFF):
            logger.warning(line)
    assert heard.lines == [CUT_OFF, "Something else."]
    logger.warning(CUT_OFF)
    logger.warning(CUT_OFF)
    assert heard.lines[2:] == [CUT_OFF, CUT_OFF], "calls of the user's own are as DSPy has them"
