"""What leaves the library: tables, files for spreadsheets, summaries, and the prompt as the LM receives it."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest

from programs.benchmarks.scripted import PromptView, scripted_lm
from programs.benchmarks.transfer import Setting, optimiser, tasks_of
from programs.benchmarks.worlds import World
from tp_dspy import InstructionAdapter, ObjectiveEvaluator, TransferResult
from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.runs.artifacts import save_program
from tp_dspy.runs.frames import write_csv
from tp_dspy.runs.identity import context_identity
from tp_dspy.runs.prompts import render_prompt
from tp_dspy.scoring.evaluation import evaluate
from tp_dspy.scoring.held_out import HeldOut
from tp_dspy.scoring.outcomes import Outcome


@pytest.fixture(scope="module")
def compiled() -> dspy.Module:
    world, setting = World(3), Setting(3, 8, 8, 2, 0.5, 0.0, True)
    sources, target = tasks_of(world, setting)
    student = dspy.Predict(dspy.Signature("question -> answer", "Answer the question."))
    with dspy.context(adapter=InstructionAdapter()):
        return optimiser(world, setting, rounds=2).compile(
            student, trainset=target.train, valset=target.validation, source_tasks=sources
        )


def test_every_candidate_is_a_row_with_its_fate_and_interval(compiled: dspy.Module) -> None:
    result = compiled.detailed_results
    table = result.to_dataframe()
    assert len(table) == len(result.source.history) + len(result.target.history)
    for name, phase in (("source", result.source), ("target", result.target)):
        rows = table.loc[name]
        assert list(rows["id"]) == [record.id for record in phase.history]
        assert (rows["fate"] == "winner").sum() == 1
        # The original is a finalist even where a race has dropped it.
        finalists = {record.id for record in phase.ranked}
        assert set(rows.loc[rows["fate"] == "dropped", "id"]) == set(phase.dropped) - finalists
        whole = sum(phase.search.values())
        assert all((row.examples < whole) == (row.id in phase.dropped) for row in rows.itertuples())
        met = rows[rows["examples"] == whole]
        assert len(met) and ((met["low"] <= met["score"]) & (met["score"] <= met["high"])).all()
        assert rows[rows["fate"] == "dropped"]["low"].isna().all()
        first = phase.history[0]
        mean = math.fsum(metrics.ifr for metrics in first.by_task.values()) / len(first.by_task)
        assert rows["ifr"].iloc[0] == pytest.approx(mean) and rows["instruction"].iloc[0] == "Answer the question."
    assert table.loc["target"].set_index("id")["final"][result.winner.id] == result.winner.score


def test_a_dropped_candidate_says_what_the_best_had_on_the_same_examples(compiled: dspy.Module) -> None:
    result = compiled.detailed_results
    dropped = [r for phase in (result.source, result.target) for r in phase.history if r.id in phase.dropped]
    assert dropped and all(r.measurement.rival is not None and not r.measurement.intervals for r in dropped)
    assert sum(r.score < r.measurement.rival for r in dropped) > len(dropped) / 2


def test_what_finalists_did_is_kept_question_by_question(compiled: dspy.Module, tmp_path: Path) -> None:
    result = compiled.detailed_results
    kept = TransferResult.load(result.save(tmp_path / "r.json")).selection
    assert kept == result.selection and next(iter(kept.prompts)) == "original" and [*kept.prompts][-1] == "target"
    assert kept.prompts["target"].metrics.score == result.winner.score
    assert kept.prompts["original"].metrics.score == result.original.score
    gain = result.winner.score - result.original.score
    assert kept.differences["target"].score == pytest.approx(gain)
    for prompt in kept.prompts.values():
        assert len(prompt.outcomes) == len(kept.examples) == sum(result.target.selection.values())
        right = math.fsum(outcome.correct for outcome in prompt.outcomes) / len(prompt.outcomes)
        assert prompt.metrics.accuracy == pytest.approx(right)
    assert all(set(example.inputs) == {"question"} for example in kept.examples), "no labels among the inputs"


def test_no_cell_of_a_csv_starts_a_formula(compiled: dspy.Module, tmp_path: Path) -> None:
    evil = ["=cmd|'/c calc'!A0", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "plain", 'a=b\nsecond, "line"']
    table = compiled.detailed_results.to_dataframe().head(len(evil)).assign(instruction=evil, score=-0.5)
    table = table.rename(columns={"parent": "=parent"})
    rows = list(csv.DictReader(write_csv(table, tmp_path / "new" / "t.csv").open(encoding="utf-8-sig", newline="")))
    texts = [row["instruction"] for row in rows]
    assert texts == [text if text in evil[-2:] else f"'{text}" for text in evil]
    assert {row["score"] for row in rows} == {"-0.5"}, "a number is a number"
    assert "'=parent" in rows[0] and rows[0]["phase"] == "source"
    assert compiled.detailed_results.to_csv(tmp_path / "all.csv").stat().st_size > 1000


def test_a_result_prints_as_a_summary_and_is_escaped_in_notebooks(compiled: dspy.Module) -> None:
    result = compiled.detailed_results
    said = str(result)
    for part in ("Winner", result.winner.instructions["self"][:30], "The source phase", "target against original"):
        assert part in said
    assert "examples that the winner was chosen on" in said, "nothing was held out, and that is said"
    evil = result.winner.model_copy(update={"instructions": {"self": "<script>alert(1)</script>"}})
    shown = result.model_copy(update={"winner": evil})._repr_html_()
    assert "&lt;script&gt;" in shown and "<script>" not in shown
    assert repr(result) == said, "a shell shows what can be read"


class TwoSteps(dspy.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.gather = dspy.ChainOfThought("question -> facts: list[str]")
        self.decide = dspy.Predict(dspy.Signature("question, facts -> answer: Literal['yes', 'no']", "Decide."))

    def forward(self, question: str) -> dspy.Prediction:
        return self.decide(question=question, facts=self.gather(question=question.upper()).facts)


EXAMPLE = dspy.Example(question="Is <b> bold?", answer="yes").with_inputs("question")


@pytest.mark.parametrize(
    "adapter",
    [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter(), InstructionAdapter(), InstructionAdapter("before")],
    ids=lambda adapter: f"{type(adapter).__name__}",
)
def test_a_rendered_prompt_is_what_the_lm_receives(adapter: dspy.Adapter) -> None:
    seen: list[PromptView] = []

    def rule(view: PromptView) -> str:
        seen.append(view)
        return "?"

    program = dspy.Predict(dspy.Signature("question -> answer: Literal['yes', 'no']", "Say $x$ {y} <INS>."))
    program.demos = [dspy.Example(question="Q1?", answer="no").with_inputs("question")]
    with dspy.context(lm=scripted_lm(rule, cache=False), adapter=adapter):
        rendered = render_prompt(program, EXAMPLE)
        assert not seen, "no LM was called"
        with pytest.raises(dspy.utils.exceptions.AdapterParseError):
            program(question=EXAMPLE.question)
    sent = [(message["role"], message["content"]) for message in rendered.messages]
    received = seen[0]
    for role, content in sent:
        assert content.strip() in received.text, role
    assert "Say $x$ {y} <INS>." in str(rendered) and "Q1?" in str(rendered) and str(rendered) == rendered.text


def test_the_prompt_of_a_later_predictor_takes_its_inputs_from_the_example() -> None:
    first = render_prompt(TwoSteps(), EXAMPLE)
    assert "IS <B> BOLD?" in first.text, "what the program does before its first call is done"
    later = render_prompt(TwoSteps(), EXAMPLE.copy(facts=["a fact"]), predictor="decide")
    assert "a fact" in later.text and "Decide." in later.text and "IS <B>" not in later.text
    with pytest.raises(DataError, match=r"takes \['question', 'facts'\].* no \['facts'\]"):
        render_prompt(TwoSteps(), EXAMPLE, predictor="decide")
    with pytest.raises(ConfigurationError, match=r"no predictor 'judge'; there is \['gather.predict', 'decide'\]"):
        render_prompt(TwoSteps(), EXAMPLE, predictor="judge")


def test_a_result_renders_the_target_prompt_from_memory_and_from_a_file(compiled: Any, tmp_path: Path) -> None:
    result = compiled.detailed_results
    words = result.winner.instructions["self"]
    with dspy.context(adapter=InstructionAdapter()):
        shown = result.render_prompt(EXAMPLE)
        assert words in shown.text and "Question: Is <b> bold?" in shown.text
        loaded = TransferResult.load(result.save(tmp_path / "r.json"))
        with pytest.raises(ConfigurationError, match="pass program="):
            loaded.render_prompt(EXAMPLE)
        bare = dspy.Predict("question -> answer")
        assert loaded.render_prompt(EXAMPLE, program=bare).text == shown.text
    assert "[system]" in result.render_prompt(EXAMPLE, adapter=dspy.ChatAdapter()).text
    html = shown._repr_html_()
    assert "Is &lt;b&gt; bold?" in html
    assert json.loads(result.model_dump_json())["winner"]["id"] == result.winner.id, "the program is in no file"


def test_copies_of_a_compiled_program_share_its_result(compiled: dspy.Module) -> None:
    assert compiled.deepcopy().detailed_results is compiled.detailed_results


class Choosing(dspy.Signature):  # type: ignore[misc]
    """Choose."""

    question: str = dspy.InputField()
    answer: Literal["a", "b"] = dspy.OutputField()


def test_a_program_that_calls_no_lm_has_no_prompt() -> None:
    class Silent(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict(Choosing)

        def forward(self, question: str) -> dspy.Prediction:
            return dspy.Prediction(answer="a")

    with pytest.raises(ConfigurationError, match="made no LM call"):
        render_prompt(Silent(), EXAMPLE)


def test_the_saved_program_of_a_compile_holds_no_secret_of_its_lms(tmp_path: Path) -> None:
    held = {
        "extra_headers": {"Authorization": "Bearer s3cret-a"},
        "headers": {"Ocp-Apim-Subscription-Key": "s3cret-b"},
        "aws_secret_access_key": "s3cret-c",
        "hf_token": "s3cret-d",
        "api_base": "https://user:s3cret-e@host:1/v1?key=s3cret-f",
        "max_tokens": 7,
        "extra_body": {"thinking": False},
    }
    program = TwoSteps()
    program.decide.lm = dspy.LM("openai/x", **held)
    path = save_program(program, tmp_path / "new" / "program.json")
    text = path.read_text(encoding="utf-8")
    assert "s3cret" not in text and '"max_tokens": 7' in text and "https://host:1/v1" in text
    assert '"thinking": false' in text, "what decides answers stays"
    loaded = TwoSteps()
    loaded.load(path, allow_unsafe_lm_state=True)
    assert loaded.decide.lm.model == "openai/x" and loaded.decide.signature.instructions == "Decide."


def test_a_metric_of_ones_own_replaces_no_column(compiled: dspy.Module) -> None:
    result = compiled.detailed_results
    first = result.target.history[0]
    by_task = {name: replace(metrics, custom={"round": 0.5}) for name, metrics in first.by_task.items()}
    history = [first.model_copy(update={"by_task": by_task}), *result.target.history[1:]]
    target = result.target.model_copy(update={"history": history})
    row = result.model_copy(update={"target": target}).to_dataframe().loc[("target", 0)]
    assert row["round"] == first.round and row["metric: round"] == 0.5


def test_held_out_programs_are_checked_and_put_in_order(compiled: dspy.Module) -> None:
    result = compiled.detailed_results
    kept = result.selection

    def held_out(*names: str) -> HeldOut:
        rule = ObjectiveEvaluator().rule
        outcomes = [Outcome("ok", True, 1.0, 0.9, "a", "a"), Outcome("ok", True, 0.0, 0.6, "a", "b")]
        texts = {"original": {"self": "Answer."}, "target": result.winner.instructions, "other": {"self": "x"}}
        examples = [dspy.Example(question=str(i)).with_inputs("question") for i in range(2)]
        measured = {name: evaluate(outcomes, rule, resamples=20) for name in names}
        return HeldOut(measured, 0, examples, {name: texts[name] for name in names})

    assert kept is not None
    ordered = result.with_held_out(held_out("target", "other", "original")).held_out
    assert ordered is not None and next(iter(ordered.prompts)) == "original"
    with pytest.raises(ConfigurationError, match="expected 'original' and 'target'"):
        result.with_held_out(held_out("target", "other"))
    wrong = held_out("original", "target")
    wrong = replace(wrong, instructions={**wrong.instructions, "target": {"self": "Another."}})
    with pytest.raises(ConfigurationError, match="other instructions than the winner"):
        result.with_held_out(wrong)


def test_settings_that_decide_answers_tell_runs_apart() -> None:
    """What is left out of saved programs still counts there: a reply in the journal is of one LM with one body."""
    identities = {
        context_identity(TwoSteps(), ObjectiveEvaluator(), dspy.LM("openai/x", **settings))
        for settings in ({}, {"extra_body": {"thinking": False}}, {"extra_headers": {"X-Route": "a"}})
    }
    assert len(identities) == 3
