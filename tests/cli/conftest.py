"""What every test of the command line gets: an empty folder to work in, scripted LMs behind every name, and a shell."""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from programs.benchmarks.scripted import PromptView, Reply, answer_logprobs, certain, scripted_lm
from programs.benchmarks.worlds import World
from tp_dspy import cli
from tp_dspy.lms import specs

Rule = Callable[[PromptView], Any]


@dataclass(frozen=True)
class Said:
    """What a command said, apart by where it said it."""

    code: int
    out: str
    err: str
    error: BaseException | None

    @property
    def json(self) -> Any:
        """All of standard output, as one JSON document."""
        return json.loads(self.out)

    @property
    def both(self) -> str:
        return self.out + self.err


class Shell:
    """Types commands, in a folder of its own, and counts what the scripted LMs were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rules: dict[str, Rule] = {"scorer": yes_man, "reference": think_of_it}
        self.lms: dict[str, dspy.LM] = {}
        self.specs: list[str] = []
        self._paid = {"scorer": 0, "reference": 0}

    def run(self, *words: object, code: int | None = 0) -> Said:
        result = CliRunner().invoke(cli.app, [str(word) for word in words])
        error = None if isinstance(result.exception, SystemExit) else result.exception
        said = Said(result.exit_code, result.stdout, result.stderr, error)
        if code is not None:
            assert said.code == code, said.both
        return said

    def refused(self, *words: object, code: int = 2) -> str:
        """Type something that cannot work: no call, no traceback, nothing on standard output; what was said instead."""
        before = self.paid
        said = self.run(*words, code=code)
        assert "Traceback" not in said.both and said.error is None
        assert said.out == ""
        assert self.paid == before, "a mistake is told before a call is paid"
        return " ".join(said.err.replace("│", " ").split())

    def lm(self, spec: str, role: str, *, max_tokens: int | None = None) -> dspy.LM:
        """What `resolve_lm` does here: any name is a scripted LM, one for each role."""
        self.specs.append(spec)
        if role not in self.lms or self.lms[role].scripted.rule is not self.rules[role]:
            self._paid[role] += self.lms[role].scripted.calls if role in self.lms else 0
            # Always the same name: for a run folder another name is another LM.
            self.lms[role] = scripted_lm(self.rules[role], name=f"scripted/{role}")
        return self.lms[role]

    @property
    def paid(self) -> int:
        """Calls of the scorer LM so far."""
        return self._calls("scorer")

    @property
    def asked(self) -> int:
        """Calls of the reference LM so far."""
        return self._calls("reference")

    def _calls(self, role: str) -> int:
        return self._paid[role] + (self.lms[role].scripted.calls if role in self.lms else 0)

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
        """Write a CSV file."""
        path = self.folder / name
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
        return path


def yes_man(prompt: PromptView) -> Reply:
    """Says yes, and keeps to the form only where the instruction names it; in DSPy's chat, too."""
    if not re.search("yes or no|no or yes", prompt.text):
        return _formed(prompt, [("It depends on", -0.5, {})])
    return _formed(prompt, answer_logprobs("yes", {"yes": 0.6, "no": 0.4}))


def _formed(prompt: PromptView, tokens: list[Any]) -> Reply:
    if "[[ ##" not in prompt.system:
        return Reply.of(*tokens)
    fields = [name for name in ("verdict", "reasons", "answer") if f"`[[ ## {name} ## ]]`" in prompt.user]
    before = [token for name in fields for token in (*certain(f"[[ ## {name} ## ]]\n"), *tokens, *certain("\n\n"))]
    return Reply.of(*before, *certain("[[ ## completed ## ]]"))


def think_of_it(prompt: PromptView) -> str:
    return f"<INS>Think about it for {len(prompt.text)} seconds.</INS>"


once = functools.cache(get_command)
"""Typer builds all commands anew for each call; a fifth of the time of these tests."""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    made = Shell(tmp_path)
    monkeypatch.setattr(specs, "resolve_lm", made.lm)
    monkeypatch.setattr("typer.testing._get_command", once)
    return made


@pytest.fixture
def mine(shell: Shell) -> str:
    """A CSV file whose columns can be guessed: 40 yes/no questions."""
    rows = [(f"Is claim {n} of the contract void?", "yes" if n % 3 else "no") for n in range(40)]
    return shell.table("mine.csv", ("Question", "Label"), rows).name


@pytest.fixture
def world(shell: Shell) -> World:
    """A world in which a search finds something, as three CSV files with splits; its LMs answer plain prompts."""
    made = World(3)
    for name in ("medicine", "law", "finance"):
        task = made.task(name, train=8, validation=8, test=8)
        rows = [
            (example.question, example.answer, split)
            for split in ("train", "validation", "test")
            for example in getattr(task, split)
        ]
        shell.table(f"{name}.csv", ("question", "answer", "split"), rows)
    shell.rules = {"scorer": made.scorer_lm().scripted.rule, "reference": made.reference_lm().scripted.rule}
    return made


@pytest.fixture
def small() -> list[str]:
    """Options that keep a compile small."""
    return ["--examples", "3", "--rounds", "1", "--proposals", "1", "--top-k", "1", "--threads", "4"]


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots have tests of their own, and take seconds."""
    monkeypatch.setattr("tp_dspy.report.page._figures", lambda result: [])


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who watches a run is soon sure that nobody works on it any more."""
    monkeypatch.setattr("tp_dspy.cli.watching.SETTLING", 0.15)
