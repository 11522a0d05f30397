"""What is drawn: on a terminal of 80 columns, as lines in a log file, and as HTML and text in a notebook."""

from __future__ import annotations

import io
import logging
import re
import sys
from html.parser import HTMLParser

import pytest
from rich.console import Console
from rich.logging import RichHandler

from tests.progress.scenes import HOSTILE, Told, a_phase, answer, planned, plans
from tp_dspy.optimization.events import RoundEnded, Spending, StepBegan
from tp_dspy.optimization.plan import PhasePlan
from tp_dspy.optimization.stopping import Seconds, Spent, Tokens, Usd
from tp_dspy.progress.lines import Lines
from tp_dspy.progress.notebook import as_html, as_text
from tp_dspy.progress.terminal import Terminal, frame

SPENT = Spent(scorer_calls=112_142, reference_calls=1_108, tokens=94_812_210, usd=1.23456)
BUDGETS = (Tokens(100_000_000), Usd(20), Seconds(36_000))


def screen(terminal: bool = True, width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None, _environ={})


def text_of(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def drawn(renderable: object) -> list[str]:
    console = screen()
    console.print(renderable)
    return text_of(console).splitlines()


def full() -> Told:
    """The middle of the second of 30 targets, with large figures and a hostile name."""
    names = ["target first", f"target {HOSTILE}", *(f"target {n}" for n in range(28))]
    told = Told().tell(planned(*names, budgets=BUDGETS, spent=SPENT))
    for event, after in [*a_phase(names[0]), *a_phase(names[1], each=60.0)[:-2]]:
        told.tell(event, after)
    return told.tell(answer(names[1], status="error")).tell(answer(names[1], calls=0, cached=1))


def test_the_frame_fits_80_columns_with_large_figures() -> None:
    lines = drawn(frame(full().view))
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert [line.split()[0] for line in lines[2:]] == ["Best", "Calls", "Cost", "Time", "Errors"]
    assert lines[0].startswith("Target 2/30 [red]<script>") and "round 1 of 4" in lines[0]
    assert lines[1].rstrip().endswith("22 of at most 100") and "━" in lines[1]


def test_the_frame_shows_names_as_they_are() -> None:
    text = "\n".join(drawn(frame(full().view)))
    assert "[red]<script>" in text and "\x1b" not in text and "\u202e" not in text


def test_what_is_over_stays_as_a_table_above() -> None:
    console = screen()
    terminal = Terminal(console)
    told = full()
    terminal.draw(told.view)
    terminal.close(told.tell(Spending("", SPENT)).view)
    text = text_of(console)
    head = "Phase                   Selection    Gain   Calls     Time  Ended"
    row = "1/30 first                  0.712  +0.084      20     0:22  all rounds done"
    assert text.count(head) == text.count(row) == 1
    assert text.index(head) < text.index(row) < text.index("Spent: 112142 scorer calls")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is there again"


def test_what_was_spent_in_a_round_is_no_line_of_its_own() -> None:
    console, told = screen(terminal=False), Told().tell(planned())
    lines = Lines(console)
    for event, after in a_phase()[:-2]:
        for one in [Spending("source", SPENT), event] if isinstance(event, RoundEnded) else [event]:
            told.tell(one, after)
            lines.draw(told.view)
            after = 0.0
    said = [line.split("] ", 1)[1].split(";")[0] for line in text_of(console).splitlines()]
    assert said[1:] == [
        "Source prompts: scoring the first 6 prompts",
        "Source prompts: first prompts scored, waiting for proposals",
        "Source prompts, round 1 of 4: 5 of 8 replies usable, waiting for proposals",
    ]


def test_a_frame_that_has_not_changed_is_not_drawn_again() -> None:
    console = screen()
    terminal, told = Terminal(console), full()
    terminal.draw(told.view)
    before = text_of(console)
    terminal.draw(told.view)
    assert text_of(console) == before
    told.now += 1
    terminal.draw(told.view)
    assert text_of(console) != before, "the clock"
    terminal.close(told.view)


def test_a_bar_leaves_nothing_on_the_terminal() -> None:
    console = screen()
    terminal, told = Terminal(console, keep=False), Told().tell(StepBegan("Scoring", 40)).tell(answer("Scoring"))
    terminal.draw(told.view)
    assert "Scoring" in text_of(console) and "1 of 40" in text_of(console)
    shown = len(text_of(console))
    told.state = told.state.closed(told.now)
    terminal.close(told.view)
    assert re.sub(r"\x1b\[[0-9?]*[A-Za-z]|\s", "", text_of(console)[shown:]) == ""


def test_log_handlers_write_above_the_display_and_get_their_stream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    tty, file = Screen(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", tty)
    console = Console(file=tty, force_terminal=True, width=80, color_system=None, _environ={})
    rich = RichHandler(console=Console(file=tty))
    handlers = [logging.StreamHandler(tty), logging.StreamHandler(file), rich]
    logger, own = logging.getLogger("tests.progress.logging"), rich.console
    for handler in handlers:
        logger.addHandler(handler)
    try:
        terminal, told = Terminal(console), full()
        terminal.draw(told.view)
        shown = len(tty.getvalue())
        logger.warning("A [bold]warning[/].")
        # The frame is erased first, then comes the line, then the frame again.
        added = tty.getvalue()[shown:]
        assert re.match(r"(\r|\x1b\[[0-9]*[A-Z])+A \[bold\]warning\[/\]\.", added)
        assert added.index("warning") < added.index("Target 2/30")
        assert rich.console is console
        terminal.close(told.view)
        assert [handler.stream for handler in handlers[:2]] == [tty, file]  # type: ignore[attr-defined]
        assert rich.console is own and sys.stderr is tty
        assert file.getvalue() == "A [bold]warning[/].\n"
    finally:
        for handler in handlers:
            logger.removeHandler(handler)


def test_lines_come_for_phases_and_rounds_and_after_silence_and_each_tells_the_time() -> None:
    console = screen(terminal=False)
    lines, told = Lines(console), Told().tell(planned("source"))
    for event, after in a_phase()[:12]:
        told.tell(event, after)
        lines.draw(told.view)
    told.now += 24.9
    lines.draw(told.view)
    told.now += 0.1
    lines.draw(told.view)
    lines.draw(told.view)
    for event, after in a_phase()[12:]:
        told.tell(event, after)
        lines.draw(told.view)
    lines.close(told.tell(Spending("", Spent())).view)
    said = text_of(console).splitlines()
    assert [re.sub(r";.*", "", line) for line in said] == [
        "[0:00] At most: source phase 100 scorer and 8 reference calls",
        "[0:00] Source prompts: scoring the first 6 prompts",
        "[0:30] Source prompts: scoring the first 6 prompts",
        "[0:35] Source prompts: first prompts scored, waiting for proposals",
        "[0:45] Source prompts, round 1 of 4: 5 of 8 replies usable, waiting for proposals",
        "[0:47] Source prompts: 0.712, +0.084 on the original (selection scores)",
        f"[0:47] {PhasePlan.beside(plans('source'), Spent())}",
    ]
    assert said[4].endswith(
        "; best 0.712, +0.084 on the original (search scores); calls 0 of 100 scorer, 0 of 8 reference; "
        "at most ~3 min left"
    )
    assert "\r" not in text_of(console) and "\x1b" not in text_of(console)


def test_html_is_well_formed_and_inert_and_keeps_no_colour_of_its_own() -> None:
    told = full()
    html = as_html(told.tell(Spending("", SPENT)).view) + as_html(full().view)
    assert "<script" not in html and "&lt;script&gt;" in html and "\x1b" not in html
    tags: list[str] = []

    class Check(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            assert {name for name, _ in attrs} <= {"class", "style", "role"} | {
                f"aria-value{x}" for x in ("min", "max", "now")
            }

        def handle_endtag(self, tag: str) -> None:
            assert tags.pop() == tag

    Check().feed(html)
    assert tags == []
    styles = " ".join(re.findall(r'style="([^"]*)"', html))
    assert not re.search(r"(?<![-\w])color: (?!inherit)", styles), "text is as light or dark as the page has it"


def test_text_for_notebooks_tells_the_same() -> None:
    assert as_text(full().view).splitlines()[1:] == [
        "Target 1/30 first: 0.712, +0.084 on the original (selection scores); 20 scorer calls in 0:22; all rounds done",
        full().view.title,
        "22 of at most 100",
        *(f"{label:<6}  {text}" for label, text in full().view.rows),
    ]
