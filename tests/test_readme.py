"""The README's Python runs as it stands; only the LMs and the hub are replaced."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import dspy
import pytest
from typer.testing import CliRunner

import tp_dspy
from programs.benchmarks.scripted import PromptView, Reply, answer_logprobs, certain, scripted_lm
from tp_dspy.cli import app
from tp_dspy.lms import specs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))


def chat(prompt: PromptView) -> Reply | str:
    """Propose where an instruction is asked for, answer in ChatAdapter's form elsewhere."""
    if "</INS>" in prompt.text:
        return f"<INS>Look closely, then answer. Attempt {len(prompt.text)}.</INS>"
    fields = certain("[[ ## reasoning ## ]]\n", "Because.\n\n", "[[ ## answer ## ]]\n")
    closing = certain("\n\n[[ ## completed ## ]]")
    return Reply.of(*fields, *answer_logprobs("yes", {"yes": 0.7, "no": 0.3}), *closing)


def from_hub(name: str) -> tp_dspy.Task:
    """Questions that ship with the library, under the name of a data set."""
    domain = {"anatomy": "medical", "clinical_knowledge": "legal"}[name.split(":")[1]]
    task = tp_dspy.Task.starter(domain, kind="yes_no")
    return tp_dspy.Task(name, train=task.train, validation=task.validation, domain=domain)


def plain(prompt: PromptView) -> Reply | str:
    """Propose where an instruction is asked for; elsewhere keep to the form once it is named."""
    if "<INS>" in prompt.text:
        return f"<INS>Answer yes or no, attempt {len(prompt.text)}.</INS>"
    return Reply.of(*answer_logprobs("yes" if " yes" in prompt.user else "Well", {"yes": 0.7, "Well": 0.2}))


def test_the_way_from_a_csv_to_a_loaded_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lm = scripted_lm(plain)
    monkeypatch.setattr(specs, "resolve_lm", lambda spec, role, max_tokens=None: lm)
    monkeypatch.setattr(tp_dspy, "embedded_lm", lambda **settings: lm)
    starter = {"hearsay": "medical", "strategyqa": "legal"}
    monkeypatch.setattr(tp_dspy.Task, "from_hub", lambda n, **rest: tp_dspy.Task.starter(starter[n], kind="yes_no"))
    own = tp_dspy.Task.starter("financial", kind="yes_no")
    with (tmp_path / "mine.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Label"])
        writer.writerows((e.question, e.answer) for e in (*own.train, *own.validation, *own.test))
    commands = [line for line in COMMANDS.replace("\\\n", " ").splitlines() if line.startswith("uv run tp-dspy")]
    assert len(commands) == 3
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command, comments=True)[3:])
        assert result.exit_code == 0, result.output
    assert "On 29 held-out examples" in result.output and "target against original, paired" in result.output
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "yes"


def test_the_ten_lines_for_ones_own_program_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lms = iter([scripted_lm(chat, logprobs=True, top_logprobs=10), scripted_lm(chat)])
    monkeypatch.setattr(dspy, "LM", lambda model, **settings: next(lms))
    monkeypatch.setattr(tp_dspy.Task, "from_hub", from_hub)
    own = tp_dspy.Task.starter("financial", kind="yes_no")
    names = {"my_examples": [*own.train, *own.validation, *own.test]}
    for block in BLOCKS[1:7]:
        exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert re.search(r"IFR\) +1\.000", out) and re.search(r"accuracy \(ACC\) +0\.483", out)
    assert "source prompts of 2 tasks" in out and "What each source task brought" in out
    assert "[[ ## question ## ]]" in out, "the prompt is rendered"
    assert "macro_f1" in out and "Second minus first" in out and "ECE without calibration" in out
    saved = ("triage.json", "medical-sources.json", "calibrated.json", "runs/triage/program.json")
    for name in (*saved, "runs/triage/result.json", "triage.html", "curve.svg", "candidates.csv"):
        assert (tmp_path / name).exists(), name


def test_the_two_commands_stand_in_the_readme() -> None:
    assert "pip install uv && uv run tp-dspy demo" in README
    assert "\nuv run pytest\n" in README


def anchors(text: str) -> set[str]:
    """The names under which headings are linked to, as GitHub makes them."""
    bare = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = (heading.lower() for heading in re.findall(r"^#+ (.+)$", bare, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "tp_dspy/METHOD.md", "programs/benchmarks/README.md"])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    source = ROOT / page
    text = source.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (source.parent / path).resolve() if path else source
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link
