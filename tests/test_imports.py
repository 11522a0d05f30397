"""What importing the library costs, and pulls in."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import tp_dspy

HEAVY = ("matplotlib", "mlflow", "wandb", "jinja2", "rich", "pandas", "typer", "selenium")


def run(code: str) -> tuple[str, float]:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip(), time.perf_counter() - started


@pytest.mark.parametrize("code", ["import tp_dspy", "from tp_dspy import *"])
def test_nothing_heavy_is_imported_until_it_is_needed(code: str) -> None:
    # DSPy itself imports IPython where it is installed, and that much of what it brings is not ours.
    before = f"import dspy, sys\nbefore = set(sys.modules)\n{code}\n"
    found, _ = run(before + f"print([name for name in {HEAVY!r} if name in sys.modules and name not in before])")
    assert found == "[]"


def test_the_import_takes_less_than_dspys_own() -> None:
    own, theirs = run("import tp_dspy")[1], run("import dspy")[1]
    assert own < 1.3 * theirs, (own, theirs)


def test_every_public_name_is_there_and_has_a_docstring() -> None:
    assert {*tp_dspy.__all__} <= {*dir(tp_dspy)}
    for name in tp_dspy.__all__:
        value = getattr(tp_dspy, name)
        assert value.__doc__, name
        assert value.__name__.split(".")[-1] == name
    with pytest.raises(AttributeError, match="no attribute 'Taks'"):
        _ = tp_dspy.Taks  # type: ignore[attr-defined]
