"""The display in notebooks: in a real kernel one output, replaced in place, of which the last is kept."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbclient import NotebookClient

from tests.progress.scenes import HOSTILE, Told, a_phase, planned
from tp_dspy.progress import live
from tp_dspy.progress.notebook import Notebook, in_notebook

COMPILE = """
from tests.test_resume import Lab
_ = Lab(None).compile(rounds=1, verbose=True)
"""
SLOWLY = """
import sys, time
from tests.progress.scenes import a_phase, planned
from tp_dspy.progress import LiveProgress
with LiveProgress() as live:
    live(planned("source"))
    for event, _ in a_phase():
        live(event)
        time.sleep(0.08)
"""
BROKEN = """
from tp_dspy.optimization.events import StepBegan
with LiveProgress() as live:
    live(StepBegan("Scoring", 3))
    raise ValueError("of the user's own")
"""
BAR = """
from tp_dspy.scoring.bar import watched
from tp_dspy.scoring.outcomes import Outcome
def pairs():
    for i in range(20):
        time.sleep(0.05)
        yield i, Outcome("ok")
_ = list(watched(pairs(), 20, "Scoring"))
_ = list(watched(((i, Outcome("ok")) for i in range(20)), 20, "Over at once"))
"""
SILENT = "_ = Lab(None).compile(rounds=1, verbose=False)"


class Client(NotebookClient):
    """Runs a notebook, and keeps what the kernel sent for each cell."""

    def __init__(self, *cells: str) -> None:
        self.sent: dict[int, list[str]] = {}
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        root = str(Path(__file__).parents[2])
        super().__init__(notebook, timeout=90, allow_errors=True, resources={"metadata": {"path": root}})

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] not in ("status", "execute_input"):
            self.sent.setdefault(cell_index, []).append(msg["msg_type"])
        return super().process_message(msg, cell, cell_index)


@pytest.fixture(scope="module")
def client() -> Client:
    made = Client(COMPILE, SLOWLY, BROKEN, BAR, SILENT)
    made.execute()
    return made


def outputs(client: Client, cell: int) -> list[Any]:
    return list(client.nb.cells[cell].outputs)


def test_a_compile_leaves_one_output_with_both_phases(client: Client) -> None:
    [output] = outputs(client, 0)
    assert output.output_type == "display_data" and set(output.data) == {"text/html", "text/plain"}
    lines = output.data["text/plain"].splitlines()
    assert [line.split(": ")[0] for line in lines] == ["At most", "Source prompts", "Target prompt", "Spent"]
    assert output.data["text/html"].count("<table") == 1 and "progressbar" not in output.data["text/html"]


def test_it_is_replaced_in_place_at_most_twice_a_second(client: Client) -> None:
    [output] = outputs(client, 1)
    sent = client.sent[1]
    assert sent[0] == "display_data" and set(sent[1:]) == {"update_display_data"}
    seconds = 0.08 * len(a_phase())
    assert 3 <= len(sent) <= 2 + seconds / Notebook.interval
    kept = output.data["text/plain"].splitlines()
    assert kept[1].startswith("Source prompts: 0.712, +0.084 on the original"), "the last state is what is kept"


def test_an_error_leaves_the_state_and_the_traceback(client: Client) -> None:
    shown, error = outputs(client, 2)
    assert shown.data["text/plain"] == "Scoring: 0 scorer calls in 0:00; broken off: ValueError"
    assert error.output_type == "error" and error.ename == "ValueError"


def test_a_bar_needs_no_widgets_and_is_not_shown_for_what_is_over_at_once(client: Client) -> None:
    [output] = outputs(client, 3)
    assert output.data["text/plain"] == "Scoring: 20 scorer calls in 0:01"
    assert set(client.sent[3]) == {"display_data", "update_display_data"}, "no warning on standard error"


def test_it_is_silent_without_verbose(client: Client) -> None:
    assert outputs(client, 4) == [] and 4 not in client.sent


def test_what_ipython_captures_is_escaped_and_has_a_plain_form() -> None:
    InteractiveShell.instance()
    try:
        told, notebook = Told().tell(planned("target a", f"target {HOSTILE}")), Notebook()
        with capture_output() as captured:
            for event, after in a_phase(f"target {HOSTILE}")[:12]:
                told.tell(event, after)
            notebook.draw(told.view)
            notebook.draw(told.view)
            told.now += 1
            notebook.close(told.view)
        assert len(captured.outputs) == 2, "what has not changed is not sent again"
        for output in captured.outputs:
            assert "<script" not in output.data["text/html"]
            assert "Target 2/2 [red]&lt;script&gt;x" in output.data["text/html"]
            assert "Target 2/2 [red]<script>x" in output.data["text/plain"]
            assert "\x1b" not in "".join(output.data.values())
        assert (captured.stdout, captured.stderr) == ("", "")
    finally:
        InteractiveShell.clear_instance()


def test_only_a_kernel_is_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    def ipython(shell: object) -> types.ModuleType:
        module = types.ModuleType("IPython")
        module.get_ipython = lambda: shell  # type: ignore[attr-defined]
        return module

    monkeypatch.setitem(sys.modules, "IPython", ipython(None))
    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", ipython(types.SimpleNamespace()))
    assert not in_notebook(), "IPython on a terminal"
    monkeypatch.setitem(sys.modules, "IPython", ipython(types.SimpleNamespace(kernel=object())))
    assert in_notebook() and isinstance(live._here(), Notebook)
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook() and "IPython" not in sys.modules, "it is not imported to find out"
