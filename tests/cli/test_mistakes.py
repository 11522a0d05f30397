"""What is told of mistakes: one clear line, an exit code, no call paid; in JSON, too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dspy.lm15 import AuthError

from tp_dspy.cli.options import task_names
from tp_dspy.lms import specs

LM = ["--scorer-lm", "acme/small"]
COMPILE = ["compile", "question -> answer", *LM]
TWO = """
import dspy

class Two(dspy.Module):
    def __init__(self):
        self.think = dspy.Predict("question -> reasons")
        self.decide = dspy.Predict("question, reasons -> answer")

    def forward(self, question):
        return self.decide(question=question, reasons=self.think(question=question).reasons)
"""


def leaf_commands() -> list[list[str]]:
    group = ["make", "show", "merge", "filter", "transfer"]
    alone = ["demo", "tasks", "compile", "resume", "evaluate", "compare", "runs", "report"]
    return [*([name] for name in alone), *(["sources", name] for name in group)]


@pytest.mark.parametrize("command", leaf_commands(), ids=" ".join)
def test_every_command_shows_an_example_in_its_help(shell: Any, command: list[str]) -> None:
    said = shell.run(*command, "--help")
    assert "Example" in said.out and f"tp-dspy {' '.join(command)}" in " ".join(said.out.split())
    assert said.err == ""


def test_the_help_of_all_lists_every_command(shell: Any) -> None:
    said = shell.run("--help")
    assert all(command[0] in said.out for command in leaf_commands())


def test_names_of_tasks_are_completed() -> None:
    assert task_names("starter/l") == ["starter/legal"]
    assert "cais/mmlu:anatomy" in task_names("CAIS/mmlu:a")
    assert task_names("nothing/") == []


MISTAKES = [
    ([], "There is no target; name one with --target"),
    (["-t", "cais/mmlu:anatomi"], "Near to it: cais/mmlu:anatomy"),
    (["-t", "MINE", "-s", "starter/medicine"], "There is no starter set 'medicine'; there is 'financial', 'legal'"),
    (["-t", "starter/legal:sentiment"], "it has 'choice', 'yes_no'"),
    (["-t", "missing.csv"], "There is no file 'missing.csv'"),
    (["-t", "runs"], "cannot be read; expected one of"),
    (["-t", "MINE", "--column", "question=Frage"], "there is no column 'Frage'. The columns are 'Question'"),
    (["-t", "MINE", "--column", "asked=Question"], "'asked' is none of question, answer, options"),
    (["-t", "MINE", "--column", "Question"], "not of the form NAME=VALUE"),
    (["-t", "odd.csv"], "On the command line: --column question=COL"),
    (["-t", "labels.csv"], "column 'answer' is none of the row's options in 6 of 6 rows"),
    (["-t", "labels.csv", "--column", "choices=choices"], "column 'answer' is no allowed answer in 6 of 6 rows"),
    (["-t", "gap.csv"], "column 'answer' is empty in 1 of 6 rows: row 3"),
    (["-t", "MINE", "--auto", "huge"], "auto is 'huge'; expected one of"),
    (["-t", "MINE", "--rounds", "-1"], "--rounds"),
    (["-t", "MINE", "--examples", "0"], "--examples"),
    (["-t", "MINE", "--confidence", "sure"], "--confidence"),
    (["-t", "MINE", "--confidence", "verbalized"], "On the command line: --confidence logits"),
    (["-t", "MINE", "--confidence", "none", "--weight", "ece=1"], "need a confidence"),
    (["-t", "MINE", "--weight", "acuracy=1"], "expected some of ['ifr', 'accuracy'"),
    (["-t", "MINE", "--weight", "accuracy=much"], "the weight of 'accuracy' is 'much'; expected a number"),
    (["-t", "MINE", "--answer", "verdict"], "On the command line: --answer FIELD"),
    (["-t", "MINE", "--max-usd", "1"], "On the command line: --max-tokens"),
    (["-t", "MINE", "-s", "starter/legal", "--source-prompts", "s.json"], "either --source or --source-prompts"),
    (["-t", "MINE", "--source-prompts", "s.json"], "There is no file 's.json'"),
    (["-t", "MINE", "--load", "s.json"], "There is no file 's.json'"),
    (["-t", "MINE", "-s", "MINE"], "all 16 train examples also occur in 'mine'"),
    (["-t", "MINE", "--colour"], "No such option: --colour"),
]


@pytest.fixture
def files(shell: Any, mine: str) -> str:
    Path("runs").mkdir()
    shell.table("odd.csv", ("alpha", "beta"), [("a", "b"), ("c", "d"), ("e", "f")])
    rows = [(f"Q{n}?", "yes" if n % 2 else "no", '["red", "blue"]') for n in range(6)]
    shell.table("labels.csv", ("question", "answer", "choices"), rows)
    shell.table("gap.csv", ("question", "answer"), [(f"Q{n}?", "" if n == 1 else "yes") for n in range(6)])
    return mine


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=lambda value: value if isinstance(value, str) else None)
def test_a_mistake_is_told_in_one_line_before_a_call_is_paid(
    shell: Any, files: str, words: list[str], told: str
) -> None:
    typed = [files if word == "MINE" else word for word in words]
    if "s.json" in typed and "either" in told:
        shell.run("sources", "make", "question -> answer", "-s", "starter/legal", *LM, "--examples", 2, "-o", "s.json")
    assert told in shell.refused(*COMPILE, *typed)
    said = shell.run(*COMPILE, *typed, "--json", code=2)
    assert told in said.json["error"]["message"] or told in said.err
    assert not list(Path("runs").iterdir()), "no folder of a run that never began"


def test_a_program_that_takes_something_else_than_the_task_gives(shell: Any, mine: str) -> None:
    said = shell.refused("compile", "clause -> answer", *LM, "-t", mine)
    assert "takes ['clause'], and the examples give it ['question']" in said and "--column input.FIELD=COL" in said
    Path("two.py").write_text(TWO.replace("forward(self, question)", "forward(self, clause)"))
    assert "takes ['clause']" in shell.refused("evaluate", "two.py", *LM, "--on", mine)
    shell.refused("compile", "question, hint -> answer", *LM, "-t", mine, "-s", "starter/legal")
    shell.refused("sources", "make", "clause -> answer", *LM, "-s", "starter/legal")
    Path("mute.py").write_text(TWO.split("    def forward")[0])
    assert "Two has no method forward" in shell.refused("compile", "mute.py", *LM, "-t", mine)
    Path("thinks.py").write_text("import dspy\nprogram = dspy.ChainOfThought('clause -> answer')\n")
    assert "takes ['clause']" in shell.refused("compile", "thinks.py", *LM, "-t", mine)
    Path("any.py").write_text(TWO.replace("(self, question)", "(self, hint='', **given)").replace("question=q", "q=q"))
    shell.run("compile", "any.py", *LM, "-t", mine, "--dry-run")


def test_an_lm_that_is_none(shell: Any, mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(shell.folder)
    assert specs.resolve_lm.__module__ == "tp_dspy.lms.specs"
    said = shell.refused("compile", "question -> answer", "-t", mine, "--scorer-lm", "gpt-4o-mini")
    assert "'gpt-4o-mini' is no LM" in said and "openai/gpt-4o-mini" in said


def test_source_prompts_of_a_program_with_other_predictors(shell: Any, mine: str, small: list[str]) -> None:
    Path("two.py").write_text(TWO)
    shell.run("sources", "make", "two.py", "-s", "starter/legal:yes_no", *LM, *small, "-o", "two.json")
    said = shell.refused(*COMPILE, "-t", mine, "--source-prompts", "two.json")
    assert "['think', 'decide']" in said and "['self']" in said and "take a program with the same predictors" in said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 99}, "Update tp_dspy"),
        ({"format": "another"}, "has the format 'another'"),
        ({"prompts": []}, "is damaged"),
    ],
)
def test_a_file_of_source_prompts_that_cannot_be_read(shell: Any, mine: str, change: dict[str, Any], told: str) -> None:
    shell.run("sources", "make", "question -> answer", "-s", "starter/legal", *LM, "--examples", 2, "-o", "s.json")
    Path("s.json").write_text(json.dumps(json.loads(Path("s.json").read_text()) | change))
    assert told in shell.refused(*COMPILE, "-t", mine, "--source-prompts", "s.json")
    assert told in shell.refused("sources", "show", "s.json")


@pytest.mark.parametrize("command", ["compile", "evaluate"])
def test_an_lm_that_cannot_be_called_is_no_mistake_of_the_command(shell: Any, mine: str, command: str) -> None:
    shell.rules["scorer"] = lambda prompt: AuthError("no such key")
    words = [command, "question -> answer", *LM, "-t" if command == "compile" else "--on", mine]
    said = shell.run(*words, code=1)
    line = said.err.strip().splitlines()[-1]
    assert line.startswith("LMUnavailableError: ") and "no such key" in line
    assert "Traceback" not in said.both and said.out == ""
    assert shell.run(*words, "--json", code=1).json["error"]["type"] == "LMUnavailableError"


def test_an_lm_without_logprobs_needs_another_confidence(shell: Any, mine: str) -> None:
    shell.rules["scorer"] = lambda prompt: "yes"
    words = ["evaluate", "question -> answer", *LM, "--adapter", "plain", "--on", mine]
    said = shell.run(*words, code=1).err.splitlines()[-1]
    assert said.startswith("LogprobsUnavailableError: ") and "On the command line: --confidence logits" in said
    assert shell.run(*words, "--confidence", "none", "--json").json["metrics"]["ifr"] == 1.0


def test_an_error_nobody_foresaw_is_one_line_and_debug_shows_where_it_comes_from(
    shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*words: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr("tp_dspy.cli.tasks._rows", breaks)
    said = shell.run("tasks", code=1)
    assert said.err == "KeyError: 'unforeseen' (unexpected; --debug shows where it comes from)\n" and said.out == ""
    assert shell.run("tasks", "--json", code=1).json["error"]["type"] == "KeyError"
    assert isinstance(shell.run("tasks", "--debug", code=1).error, KeyError)


def test_debug_raises_what_was_foreseen_too(shell: Any) -> None:
    assert "no domain 'law'" in str(shell.run("tasks", "--domain", "law", "--debug", code=1).error)


def test_a_reader_that_stops_reading_is_no_error(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*words: object, **rest: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("tp_dspy.cli.output.Output.show", closed)
    said = shell.run("tasks", code=1)
    assert said.err == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compile"], "Missing argument"),
        (["compile", "question -> answer", "--max-calls", "0"], "--max-calls"),
        (["compile", "question -> answer", "--column", "x"], "NAME=VALUE"),
        (["compile", "question -> answer", "--config", "no.toml"], "no.toml"),
        (["nothing"], "No such command 'nothing'"),
        (["sources", "make"], "Missing argument"),
    ],
)
def test_what_cannot_even_be_read_is_json_where_json_is_wanted(shell: Any, words: list[str], told: str) -> None:
    said = shell.run(*words, "--json", code=2)
    assert told in said.json["error"]["message"] and said.json["error"]["type"] == "UsageError"
    assert told in said.err and "Traceback" not in said.err


def test_the_command_line_of_a_process() -> None:
    command = [sys.executable, "-m", "tp_dspy.cli", "tasks", "--domain", "law", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["type"] == "ConfigurationError"
    assert done.stderr.startswith("ConfigurationError: There is no domain 'law'")
