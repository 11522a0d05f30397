"""What whoever waits is shown: bars on a terminal, lines elsewhere, the plan and what was spent."""

from __future__ import annotations

import io
import re

from rich.console import Console

from tests.test_resume import Lab
from tp_dspy.runs.progress import LiveProgress


def shown(terminal: bool, **settings: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=240, color_system=None)
    with LiveProgress(console, **settings) as live:
        Lab(None).compile(rounds=1, listen=live)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_lines_tell_the_plan_each_step_and_what_was_spent() -> None:
    lines = [re.sub(r"^ *\d+ s  ", "", line.strip()) for line in shown(False).splitlines() if line.strip()]
    assert lines[0].startswith("At most: source phase") and "tokens sent by the program" in lines[0]
    assert any(re.match(r"Source prompts: \d prompts to score", line) for line in lines)
    assert any(re.match(r"Target prompt: best 0\.\d+; round 1: 1 of 1 proposals usable", line) for line in lines)
    assert any(re.match(r"Target prompt: 0\.\d+ on what it was chosen on; all rounds done", line) for line in lines)
    assert lines[-1].startswith("Spent: ") and "price unknown" in lines[-1]


def test_bars_are_drawn_on_a_terminal_and_end_full() -> None:
    text = shown(True, summary=False)
    assert "Spent:" not in text and "At most" not in text
    ends = re.findall(r"(Source prompts|Target prompt) +━+ *(\d+)/(\d+)", text)
    last = {name: (int(done), int(total)) for name, done, total in ends}
    assert set(last) == {"Source prompts", "Target prompt"}
    assert all(done == total > 0 for done, total in last.values())
