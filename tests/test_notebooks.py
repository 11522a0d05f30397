"""The notebooks as they are kept: run from top to bottom, with what they showed. `.ci/run` runs them anew."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = (
    "01_quickstart",
    "02_transfer_across_domains",
    "03_confidence_and_calibration",
    "04_chaining_with_dspy",
    "05_your_own_program",
)


@pytest.fixture(params=NAMES)
def notebook(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{request.param}.ipynb").read_text(encoding="utf-8"))
    return found


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def texts(notebook: dict[str, Any]) -> str:
    outputs = [output for cell in code_cells(notebook) for output in cell["outputs"]]
    return json.dumps([{k: v for k, v in output.items() if k != "image/png"} for output in outputs])


def test_it_was_run_from_top_to_bottom_without_an_error(notebook: dict[str, Any]) -> None:
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "error" not in kinds and kinds


def test_its_outputs_are_kept_and_hold_nothing_of_the_machine_they_were_made_on(notebook: dict[str, Any]) -> None:
    shown = [cell for cell in code_cells(notebook) if cell["outputs"]]
    assert len(shown) > len(code_cells(notebook)) / 3
    said = texts(notebook)
    assert not re.search(r"/(home|root|tmp|work|Users)/", said)
    # Colour codes and bars drawn again and again cannot be read on the web.
    assert "\\u001b[" not in said and "\\r" not in said
    assert "Warning" not in said and "truncated" not in said


def test_it_teaches_more_than_it_runs(notebook: dict[str, Any]) -> None:
    cells = notebook["cells"]
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    prose = sum(len("".join(cell["source"]).split()) for cell in cells if cell["cell_type"] == "markdown")
    assert prose > 150 and sum(cell["cell_type"] == "markdown" for cell in cells) >= 5


def test_a_notebook_of_plots_shows_plots() -> None:
    for name, least in (("01_quickstart", 2), ("02_transfer_across_domains", 2), ("03_confidence_and_calibration", 3)):
        notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
        pictures = [o for cell in code_cells(notebook) for o in cell["outputs"] if "image/png" in o.get("data", {})]
        assert len(pictures) >= least, name


def test_the_notebooks_are_those_that_are_listed() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(NAMES)
