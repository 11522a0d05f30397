"""The README's Python runs as it stands; only the LMs and the hub are replaced."""

from __future__ import annotations

import re
from pathlib import Path

import dspy
import pytest

import tp_dspy
from programs.benchmarks.scripted import PromptView, Reply, answer_logprobs, certain, scripted_lm

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def chat(prompt: PromptView) -> Reply | str:
    """Propose where an instruction is asked for, answer in ChatAdapter's form elsewhere."""
    if "</INS>" in prompt.text:
        return f"<INS>Look closely, then answer. Attempt {len(prompt.text)}.</INS>"
    fields = certain("[[ ## reasoning ## ]]\n", "Because.\n\n", "[[ ## answer ## ]]\n")
    closing = certain("\n\n[[ ## completed ## ]]")
    return Reply.of(*fields, *answer_logprobs("yes", {"yes": 0.7, "no": 0.3}), *closing)


def test_the_ten_lines_for_ones_own_program_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lms = iter([scripted_lm(chat, logprobs=True, top_logprobs=10), scripted_lm(chat)])
    monkeypatch.setattr(dspy, "LM", lambda model, **settings: next(lms))
    starter = {"anatomy": "medical", "clinical_knowledge": "legal"}
    monkeypatch.setattr(
        tp_dspy.Task, "from_hub", lambda name: tp_dspy.Task.starter(starter[name.split(":")[1]], kind="yes_no")
    )
    own = tp_dspy.Task.starter("financial", kind="yes_no")
    names = {"my_examples": [*own.train, *own.validation, *own.test]}
    for block in BLOCKS[:5]:
        exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert re.search(r"IFR\) +1\.000", out) and re.search(r"accuracy \(ACC\) +0\.483", out)
    assert "macro_f1" in out and "Second minus first" in out and "ECE without calibration" in out
    saved = ("triage.json", "medical-sources.json", "calibrated.json", "runs/triage/program.json")
    for name in (*saved, "runs/triage/result.json"):
        assert (tmp_path / name).exists(), name


def test_the_two_commands_stand_in_the_readme() -> None:
    assert "pip install uv && uv run tp-dspy demo" in README
    assert "\nuv run pytest\n" in README
