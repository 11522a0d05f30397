"""What can be typed for a program, and what is said where it is none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dspy
import pytest

from tp_dspy.cli.programs import in_python, load_program
from tp_dspy.errors import ProgramError

FILE = """
import dspy

from neighbour import INSTRUCTION

class Direct(dspy.Module):
    def __init__(self):
        self.ask = dspy.Predict(dspy.Signature("question -> answer", INSTRUCTION))

    def forward(self, question):
        return self.ask(question=question)

class Needy(dspy.Module):
    def __init__(self, size):
        self.ask = dspy.Predict("question -> answer")

def make():
    return Direct()

class Holder:
    ready = Direct()

ANSWER = 42
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    Path("many.py").write_text(FILE)
    Path("neighbour.py").write_text("INSTRUCTION = 'Say it.'\n")
    Path("one.py").write_text(FILE.replace("Needy(dspy.Module)", "Needy"))
    Path("a_package").mkdir()
    Path("a_package/inside.py").write_text("import dspy\nready = dspy.Predict('question -> answer')\n")
    Path("elsewhere").mkdir()
    Path("elsewhere/my-own.py").write_text("import dspy\nready = dspy.Predict('question -> answer', n=1)\n")
    Path("x.py").write_text("import dspy\nclass P(dspy.Module):\n    def __init__(self):\n        pass\n")
    return tmp_path


SPECS = [
    "question -> answer",
    "question: str, hint -> answer: bool",
    "many.py:Direct",
    "many.py:make",
    "many.py:Holder.ready",
    "one.py",
    "a_package.inside:ready",
    "a_package.inside",
    "x:P",
    "elsewhere/my-own.py",
]


@pytest.mark.parametrize("spec", SPECS)
def test_a_program_is_found_and_the_lines_for_it_give_the_same(
    spec: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = load_program(spec)
    monkeypatch.syspath_prepend(folder)  # As in a Python that was started here.
    assert isinstance(program, dspy.Module)
    namespace: dict[str, Any] = {"dspy": dspy}
    exec("\n".join(in_python(spec)), namespace)
    again = namespace["program"]
    assert type(again).__name__ == type(program).__name__
    assert again.dump_state() == program.dump_state()


def test_an_absolute_path_is_a_file(folder: Path) -> None:
    assert [name for name, _ in load_program(f"{folder}/many.py:Direct").named_predictors()] == ["ask"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("many.py", ["does not say which object", "Direct, Needy", "Name one: 'many.py:NAME'"]),
        ("many.py:Directly", ["has no 'Directly'", "its programs are Direct, Needy"]),
        ("many.py:ANSWER", ["is of type int; expected a dspy.Module"]),
        ("many.py:Needy", ["could not be made without arguments", "TypeError", "size", "Name a function"]),
        ("neighbour.py", ["it has no dspy.Module of its own"]),
        ("missing.py:Direct", ["There is no file 'missing.py'"]),
        ("no_such_package.inside:ready", ["There is no module 'no_such_package'"]),
        ("a_package.outside:ready", ["There is no module 'a_package.outside'"]),
        ("medqa", ["There is no module 'medqa'", "a signature such as 'question -> answer'"]),
        ("question -> ", ["is no signature", "'question -> answer'"]),
        ("question -> answer: nothing", ["is no signature"]),
        ("..x:P", ["names no module"]),
        ("", ["names no module"]),
    ],
)
def test_what_is_no_program_is_told_apart(spec: str, words: list[str]) -> None:
    with pytest.raises(ProgramError) as raised:
        load_program(spec)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_thing", "there is no module 'no_such_thing'"),
        ("1 / 0", "raised ZeroDivisionError on import: division by zero"),
        ("def broken(:", "raised SyntaxError on import"),
        ("import sys; sys.exit(3)", "raised SystemExit on import"),
        ("from neighbour import NOTHING", "raised ImportError on import"),
    ],
)
@pytest.mark.parametrize("spec", ["broken.py", "broken:Direct"])
def test_a_file_that_breaks_on_import(text: str, words: str, spec: str) -> None:
    Path("broken.py").write_text(text)
    with pytest.raises(ProgramError, match=words):
        load_program(spec)


def test_a_state_of_another_program_is_refused() -> None:
    load_program("many.py:Direct").save("ask.json")
    assert load_program("one.py", state="ask.json").ask.signature.instructions == "Say it."
    with pytest.raises(ProgramError, match=r"ask\.json does not fit the program .* its predictors are \['self'\]"):
        load_program("question -> answer", state="ask.json")
    with pytest.raises(ProgramError, match=r"There is no file 'no\.json'"):
        load_program("question -> answer", state="no.json")
    Path("bad.json").write_text("{")
    with pytest.raises(ProgramError, match="does not fit"):
        load_program("question -> answer", state="bad.json")


def test_an_instruction_is_for_signatures_only() -> None:
    assert load_program("question -> answer", instruction="Do.").signature.instructions == "Do."
    with pytest.raises(ProgramError, match=r"An instruction was given for 'one\.py'"):
        load_program("one.py", instruction="Do.")


def test_the_command_says_so_in_one_line(shell: Any, mine: str) -> None:
    Path("broken.py").write_text("1 / 0")
    said = shell.refused("compile", "broken.py", "-t", mine, "--scorer-lm", "acme/small")
    assert said == "ProgramError: broken.py raised ZeroDivisionError on import: division by zero"
