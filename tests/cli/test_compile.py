"""``tp-dspy compile``: what it prints, what it writes, what it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest

import tp_dspy
from programs.benchmarks.scripted import scripted_lm
from programs.benchmarks.worlds import World
from tp_dspy.cli.settings import Run

SOURCES = ["--source", "starter/legal:yes_no", "-s", "starter/medical:yes_no"]
LM = ["--scorer-lm", "acme/small"]


def printed_lines(out: str) -> str:
    """The lines of Python that a compile prints in the end."""
    block = out.split("To use it:\n")[1]
    return "\n".join(line.removeprefix("  ") for line in block.splitlines() if line.startswith("  "))


def execute(lines: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run them, with LMs that nobody has to pay for; what they asked for is there as `asked`."""
    namespace: dict[str, Any] = {"asked": []}
    scripted = scripted_lm(lambda prompt: "yes")

    def lm(*words: object, **options: object) -> dspy.LM:
        namespace["asked"].append((*words, options))
        return scripted

    with monkeypatch.context() as patch:
        patch.setattr(dspy, "LM", lm)
        patch.setattr(tp_dspy, "embedded_lm", lm)
        exec(lines, namespace)
    return namespace


def test_a_compile_prints_the_table_and_writes_all_it_found(
    shell: Any, mine: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = shell.run("compile", "question -> answer", "--target", mine, *SOURCES, *LM, *small)
    for words in ("On 12 held-out examples", "original", "best source", "target", "p = ", "Instruction found:"):
        assert words in said.out
    assert "guessed the columns question = 'Question', answer = 'Label'" in said.err
    assert "the embedded one" not in said.both, "only said of the LM that is used"

    folder = Path("runs/mine")
    result = tp_dspy.TransferResult.load(folder / "result.json")
    instruction = result.winner.instructions["self"]
    assert "yes or no" in instruction and instruction in said.out
    assert tp_dspy.SourcePrompts.load(folder / "source_prompts.json").prompts
    kept = Run.of_folder(folder)
    assert kept.state == result.stopped and result.held_out.prompts["target"].metrics.ifr == 1.0
    assert kept.job.scoring.sources == ["starter/legal:yes_no", "starter/medical:yes_no"]

    test = 12 * len({"original", "the source prompt, which is the target prompt"})
    assert shell.paid == result.scorer_usage.calls + test
    assert f"{result.scorer_usage.calls} calls of the scorer LM" in said.out and f"{test} for the test" in said.out
    lines = execute(printed_lines(said.out), monkeypatch)
    assert lines["asked"] == [("acme/small", {})]
    assert lines["program"].signature.instructions == instruction


def test_the_plain_lm_of_this_machine_is_configured_as_the_command_did(
    shell: Any, mine: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = shell.run("compile", "question -> answer", "-t", mine, *small, "--position", "end", "--out", "runs/other")
    assert "the embedded one" in said.err
    lines = execute(printed_lines(said.out), monkeypatch)
    assert lines["asked"] == [({"max_tokens": 4},)], "a reply as short as those that were measured"
    adapter = dspy.settings.adapter
    assert isinstance(adapter, tp_dspy.InstructionAdapter) and adapter.position == "end"
    assert lines["program"](question="Is it?").answer == "yes"


def test_long_lines_of_python_are_not_wrapped(
    shell: Any, mine: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"runs/{'a-long-name-' * 9}"
    said = shell.run("compile", "question -> answer", "-t", mine, *LM, *small, "--reply-tokens", 77, "--out", out)
    lines = execute(printed_lines(said.out), monkeypatch)
    assert lines["asked"] == [("acme/small", {"max_tokens": 77})]
    assert f"{out}/program.json" in said.out.split("Saved: ")[1].splitlines()[0], "a path stays in one piece in a pipe"


def test_json_is_all_that_is_printed(shell: Any, mine: str, small: list[str]) -> None:
    found = shell.run("compile", "question -> answer", "-t", mine, *SOURCES, *LM, *small, "--json").json
    assert found["held_out"]["programs"].keys() == {"original", "best source", "target"}
    assert found["held_out"]["programs"]["original"]["auroc"] is None, "no answers, no ranking: null, not 0"
    assert found["held_out"]["differences"]["target"]["low"] > 0
    assert "yes or no" in found["instructions"]["self"]
    assert found["scorer_calls"] + found["test_calls"] == shell.paid
    assert found["reference_calls"] == shell.asked
    assert all(Path(path).is_file() for path in found["saved"].values())


def test_what_a_program_prints_does_not_get_into_the_json(shell: Any, mine: str, small: list[str]) -> None:
    Path("chatty.py").write_text(
        "import dspy\n"
        "print('imported')\n"
        "class Chatty(dspy.Module):\n"
        "    def __init__(self):\n"
        "        self.ask = dspy.Predict('question -> answer')\n"
        "    def forward(self, question):\n"
        "        print('called')\n"
        "        return self.ask(question=question)\n"
    )
    said = shell.run("compile", "chatty.py", "-t", mine, *LM, *small, "--json")
    assert said.json["instructions"].keys() == {"ask"}
    assert "imported" in said.err and "called" in said.err


def test_the_target_phase_alone_with_source_prompts_of_an_earlier_run(shell: Any, mine: str, small: list[str]) -> None:
    shell.run("compile", "question -> answer", "-t", "starter/financial:yes_no", *SOURCES, *LM, *small, "--out", "one")
    paid = shell.paid
    made = "one/source_prompts.json"
    said = shell.run("compile", "question -> answer", "-t", mine, "--source-prompts", made, *LM, *small)
    result = tp_dspy.TransferResult.load("runs/mine/result.json")
    assert result.source is None and result.winner.origin == "source"
    assert "best source" in said.out and shell.paid - paid == result.scorer_usage.calls + 24


def test_a_state_can_be_loaded_to_begin_with(shell: Any, mine: str, small: list[str]) -> None:
    program = dspy.Predict(dspy.Signature("question -> answer", "Say yes or no, and nothing else."))
    program.save("begun.json")
    shell.run("compile", "question -> answer", "-t", mine, *LM, *small, "--load", "begun.json")
    result = tp_dspy.TransferResult.load("runs/mine/result.json")
    assert result.original.instructions == {"self": "Say yes or no, and nothing else."}
    assert result.original.score > 0


def test_a_signature_can_be_given_an_instruction(shell: Any, mine: str, small: list[str]) -> None:
    shell.run("compile", "question -> answer", "-t", mine, *LM, *small, "--instruction", "Is it? Say yes or no!")
    result = tp_dspy.TransferResult.load("runs/mine/result.json")
    assert result.original.instructions == {"self": "Is it? Say yes or no!"}


def test_a_program_with_fields_of_its_own(shell: Any, small: list[str]) -> None:
    rows = [(f"Clause {n}.", f"Party {n}", "yes" if n % 2 else "no") for n in range(20)]
    path = shell.table("contracts.csv", ("wording", "who", "outcome"), rows)
    columns = ["input.clause=wording", "input.party=who", "answer=outcome"]
    said = shell.run(
        *("compile", "clause, party -> verdict", "-t", path.name, "--answer", "verdict", *LM, *small),
        *(word for column in columns for word in ("--column", column)),
    )
    result = tp_dspy.TransferResult.load("runs/contracts/result.json")
    assert result.winner.score > 0 and "verdict" in printed_lines(said.out)
    prompt = shell.lms["scorer"].scripted.log[0].prompt.user
    assert "Clause" in prompt and "Party" in prompt


def test_weights_and_no_confidence(shell: Any, mine: str, small: list[str]) -> None:
    weights = ["--weight", "accuracy=0.75", "--weight", "ifr=0.25"]
    shell.run("compile", "question -> answer", "-t", mine, *LM, *small, "--confidence", "none", *weights)
    result = tp_dspy.TransferResult.load("runs/mine/result.json")
    assert result.settings["objective"]["confidence"] is None
    assert result.settings["objective"]["weights"] == {"accuracy": 0.75, "ifr": 0.25}
    assert all(call.prompt.config.logprobs is None for call in shell.lms["scorer"].scripted.log)


def test_a_budget_is_kept(shell: Any, world: World) -> None:
    words = ["compile", "question -> answer", "-t", "finance.csv", "-s", "medicine.csv", "--adapter", "plain", *LM]
    shell.run(*words, "--max-calls", 60, "--test-limit", 4, "--examples", 4, "--proposals", 1)
    result = tp_dspy.TransferResult.load("runs/finance/result.json")
    assert result.scorer_usage.calls <= 60 and shell.paid - result.scorer_usage.calls <= 3 * 4
    assert Run.of_folder(Path("runs/finance")).job.budgets.scorer_calls == 60


@pytest.mark.parametrize("as_json", [False, True])
def test_a_dry_run_calls_nobody_and_writes_nothing(shell: Any, mine: str, small: list[str], as_json: bool) -> None:
    words = ["compile", "question -> answer", "-t", mine, *SOURCES, *LM, *small, "--dry-run", "--out", "runs/dry"]
    said = shell.run(*words, *(["--json"] if as_json else []))
    if as_json:
        plan = said.json["plan"]
        assert plan["scorer_calls"] == sum(phase["scorer_calls"] for phase in plan["phases"]) > 0
        assert plan["reference_calls"] == 2 and [phase["phase"] for phase in plan["phases"]] == ["source", "target"]
    else:
        assert "scorer calls in all" in said.out and "Nothing was called" in said.out
    assert shell.paid == shell.asked == 0 and not Path("runs").exists()


def test_a_dry_run_tells_of_the_same_mistakes(shell: Any, mine: str) -> None:
    assert "--answer" in shell.refused("compile", "question -> verdict", "-t", mine, *LM, "--dry-run")


# --- A file of options


def test_options_can_be_in_a_file_and_what_is_typed_wins(shell: Any, mine: str) -> None:
    Path("mine.toml").write_text(
        'program = "question -> answer"\n'
        f'target = "{mine}"\n'
        'source = ["starter/legal:yes_no", "starter/medical:yes_no"]\n'
        'scorer-lm = "acme/small"\n'
        "examples = 2\nrounds = 1\nproposals = 1\ntop_k = 1\nmax_usd = 1.5\ntest_limit = 5\n"
        "dry-run = true\n"
        "[weight]\naccuracy = 0.75\nifr = 0.25\n"
        '[column]\nquestion = "Question"\n'
    )
    one = shell.run("compile", "--config", "mine.toml", "--json", code=2)
    assert "A budget in USD" in one.json["error"]["message"], "the file's budget counts"
    text = Path("mine.toml").read_text().replace("max_usd = 1.5\n", "max_calls = 500\n")
    Path("mine.toml").write_text(text)
    plan = shell.run("compile", "--config", "mine.toml", "--json").json["plan"]
    more = shell.run("compile", "--config", "mine.toml", "--examples", 4, "--json").json["plan"]
    assert more["scorer_calls"] == 2 * plan["scorer_calls"] > 0
    assert shell.paid == 0

    Path("mine.toml").write_text(text.replace("dry-run = true\n", ""))
    shell.run("compile", "clause -> answer", "--config", "mine.toml", code=2)
    shell.run("compile", "--config", "mine.toml", "--seed", 3)
    job = Run.of_folder(Path("runs/mine")).job
    assert job.program == "question -> answer" and job.effort.examples == 2 and job.effort.seed == 3
    assert job.scoring.weights == {"accuracy": 0.75, "ifr": 0.25} and job.scoring.columns == {"question": "Question"}
    assert job.scoring.sources == ["starter/legal:yes_no", "starter/medical:yes_no"] and job.test_limit == 5
    assert job.budgets.scorer_calls == 500


def test_a_single_value_does_for_what_may_be_repeated(shell: Any, mine: str, small: list[str]) -> None:
    Path("mine.toml").write_text('source = "starter/legal:yes_no"\n')
    said = shell.run("compile", "question -> answer", "-t", mine, *LM, *small, "--config", "mine.toml", "--dry-run")
    assert "source phase" in said.out


def test_options_of_several_columns_in_a_file(shell: Any, small: list[str]) -> None:
    rows = [(f"Which is {n}?", "one", "two", "first" if n % 2 else "second") for n in range(20)]
    path = shell.table("choice.csv", ("question", "first", "second", "right"), rows)
    Path("choice.toml").write_text('[column]\nanswer = "right"\noptions = ["first", "second"]\n')
    words = ["compile", "question -> answer", "-t", path.name, *LM, *small, "--config", "choice.toml", "--dry-run"]
    assert "column 'right' is none of the row's options" in shell.refused(*words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_call = 3\n", "sets 'max_call', which this command does not have. Near to it: max-calls"),
        ("zzzzzzzz = 3\n", "There are: adapter, answer, auto"),
        ("max_calls = ", "is not TOML"),
        ('max_calls = "many"\n', "Invalid value for '--max-calls'"),
        ("rounds = -1\n", "Invalid value for '--rounds'"),
        ('confidence = "sure"\n', "'logits'"),
        (None, "there is no file 'o.toml'"),
    ],
)
def test_a_file_of_options_that_cannot_be_used(shell: Any, mine: str, text: str | None, words: str) -> None:
    if text is not None:
        Path("o.toml").write_text(text)
    assert words in shell.refused("compile", "question -> answer", "-t", mine, *LM, "--config", "o.toml")


def test_a_folder_is_no_file_of_options(shell: Any, mine: str) -> None:
    Path("o").mkdir()
    assert "cannot be read" in shell.refused("compile", "question -> answer", "-t", mine, "--config", "o")


def test_the_record_of_a_run_is_plain_json_without_secrets(
    shell: Any, mine: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    shell.run("compile", "question -> answer", "-t", mine, *LM, *small)
    text = Path("runs/mine/run.json").read_text()
    assert json.loads(text)["format"] == "tp_dspy.run" and "sk-very-secret" not in text
