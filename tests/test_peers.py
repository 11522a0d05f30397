"""The benchmark of peers: one budget for all of them, held-out figures from kept cells, no LM for a table."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import ServerError

from programs.benchmarks.peers import __main__ as command
from programs.benchmarks.peers.bench import Bench, Cell
from programs.benchmarks.peers.figures import Found, Table, keep, read
from programs.benchmarks.peers.fitting import capo_block, smallest_budget
from programs.benchmarks.peers.meter import BudgetSpentError, Meter
from programs.benchmarks.peers.methods import METHODS, missing
from programs.benchmarks.peers.setting import Setting, lms_of
from programs.benchmarks.peers.student import Answer
from programs.benchmarks.peers.suite import QUICK, SUITE, Target, listed
from programs.benchmarks.peers.tables import against, all_tables, as_json, as_markdown, markdown, write
from programs.benchmarks.peers.unseen import unseen
from programs.benchmarks.scripted import PromptView, scripted_lm
from programs.benchmarks.worlds import World
from tp_dspy import ObjectiveEvaluator, Task
from tp_dspy.errors import ConfigurationError, DataError, LMUnavailableError, ScoringFailedError
from tp_dspy.lms.gguf import model_name, resolve_gguf
from tp_dspy.lms.specs import ANSWER_TOKENS
from tp_dspy.tasks.catalog import CATALOG, overlapping

BUDGET = 130
SETTING = Setting("scripted", "scripted", BUDGET, 40, 8, 12)
TARGET = Target("finance", ("law", "medicine"), "Answer calmly stepwise precisely only.", "financial")
PEERS = ("copro", "miprov2", "gepa", "simba")
OURS = ("general", "opro", "scratch", "at_hand")
VARIANTS = ("one_stage", "no_racing", "one_source", "top_1", "accuracy", "no_general", "described")
VARIANTS += ("hidden_scores", "before", "end", "answer")


def proposer(world: World, broken: Callable[[int], bool] = lambda call: False) -> dspy.LM:
    """Answers whatever it is asked in the format asked for: every field gets an instruction with more words."""
    ours = world.reference_lm().scripted.rule
    calls = iter(range(1_000_000))

    def rule(prompt: PromptView) -> Any:
        number = next(calls)
        if broken(number):
            return "I would rather talk about the weather."
        outputs = prompt.system.partition("Your output fields are:")[2].partition("All interactions")[0]
        names = re.findall(r"^\d+\. `(\w+)`", outputs, re.M)
        if "<prompt>" in prompt.text:
            return f"<prompt>Answer calmly only {number}.</prompt>"
        if not names:
            return ours(prompt)
        word = ("calmly", "only", "stepwise", "precisely", "again")[number % 5]
        said = {name: f"Answer {word} {number}." for name in names} | {"module_advice": {"predict": f"Be {word}."}}
        said["proposed_prefix_for_output_field"] = "Answer:"
        if "JSON" in prompt.text:
            return json.dumps({name: said[name] for name in names})
        return "".join(
            f"[[ ## {name} ## ]]\n{json.dumps(v) if isinstance(v := said[name], dict) else v}\n\n" for name in names
        )

    return scripted_lm(rule, temperature=1.0)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    world = World(3)

    def load(name: str, *, seed: int) -> Any:
        return world.task(name, train=20, validation=20, test=20)

    monkeypatch.setattr("programs.benchmarks.peers.bench.load_task", load)

    def make(**how: Any) -> Bench:
        lms = world.scorer_lm(logprobs=True, top_logprobs=5), proposer(world, **how)
        return Bench(SETTING, tmp_path, threads=4, lms=lms)

    return make


def meter_of(world: World, budget: int | None) -> tuple[Meter, list[dspy.Example]]:
    task = world.task("finance", train=6)
    return Meter(Answer(), ObjectiveEvaluator(), {"train": task.train}, budget), task.train


def run(meter: Meter, examples: list[dspy.Example], instruction: str, world: World, threads: int = 1) -> None:
    program = Answer(instruction)
    with dspy.context(lm=world.scorer_lm(logprobs=True, top_logprobs=5), callbacks=[meter], adapter=None):
        dspy.Evaluate(devset=examples, metric=ObjectiveEvaluator(), num_threads=threads, max_errors=10**9)(program)


# The budget.


def test_the_meter_counts_pairs_and_a_repeat_is_free() -> None:
    world = World(1)
    meter, examples = meter_of(world, None)
    run(meter, examples, "Answer only.", world)
    run(meter, examples, "Answer only.", world)
    run(meter, examples[:2], "Answer.", world)
    assert (meter.runs, meter.pairs) == (14, 8)


@pytest.mark.parametrize("threads", [1, 6])
def test_no_run_is_made_beyond_the_budget_and_nobody_catches_its_end(threads: int) -> None:
    world = World(1)
    meter, examples = meter_of(world, 10)
    run(meter, examples, "Answer calmly only.", world, threads)
    with pytest.raises(BudgetSpentError, match="10 scorer calls"):
        run(meter, examples, "Answer wildly.", world, threads)
    meter.settle()
    assert meter.pairs == 10
    best = meter.best()
    assert best is not None and meter.program(best).predict.signature.instructions == "Answer calmly only."


def test_a_reply_that_did_not_come_is_not_counted() -> None:
    meter, _ = meter_of(World(3), 10)
    meter.most_replies = 2
    faults = iter([ServerError("down"), "one", ServerError("down"), "two"])
    lm = scripted_lm(lambda prompt: next(faults), num_retries=0, cache=False)
    lm.is_reference = True
    with dspy.context(callbacks=[meter]):
        for number in range(4):
            with contextlib.suppress(dspy.LMError):
                lm(f"Question {number}")
        with pytest.raises(BudgetSpentError):
            lm("One more")
    assert meter.replies == 2


def test_the_best_was_measured_on_a_whole_split() -> None:
    world = World(1)
    meter, examples = meter_of(world, None)
    run(meter, examples[:5], "Answer calmly stepwise precisely only.", world)
    assert meter.best() is None and not meter.incumbents
    run(meter, examples, "Answer wildly loudly.", world)
    assert meter.program(meter.best()).predict.signature.instructions == "Answer wildly loudly."
    assert [pairs for pairs, _ in meter.incumbents] == [11]


# The optimisers.


@pytest.mark.parametrize("name", [*PEERS, "capo", *OURS, *VARIANTS])
def test_every_optimiser_keeps_to_the_budget_and_sees_no_held_out_question(
    name: str, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing(name) is not None:
        pytest.skip(f"{missing(name)} is not installed; `uv sync --group peers` has promptolution")
    made = bench()
    held_out = {e.question for e in made._examples("finance", 0)[1]}
    asked: set[str] = set()
    compile = Bench._compile

    def watched(self: Bench, *arguments: Any) -> Any:
        before = len(made.scorer.scripted.log)
        found = compile(self, *arguments)
        asked.update(call.prompt.user for call in made.scorer.scripted.log[before:])
        return found

    monkeypatch.setattr(Bench, "_compile", watched)
    cell = made.run(Cell("finance", name, 0), TARGET)
    assert cell["reference_replies"] <= SETTING.replies
    assert 0 < cell["pairs"] <= BUDGET and cell["pairs"] <= cell["runs"]
    assert asked and not any(question in prompt for question in held_out for prompt in asked)
    assert all(len(outcomes) == 12 for outcomes in cell["outcomes"]) and len(cell["prompts"]) == len(cell["outcomes"])
    pairs = [pairs for pairs, _ in cell["incumbents"]]
    assert pairs == sorted(pairs) and all(n <= BUDGET for n in pairs)
    assert name == "general" or cell["reference_replies"] > 0
    assert not cell["ended"].startswith("failed") and cell["settings"]
    if name in (*OURS, *VARIANTS):
        asked, usable, better = cell["proposals"]
        # Beside the check of the reference LM, which comes before any proposal.
        assert asked == cell["reference_replies"] - 1 or asked == cell["reference_replies"] == 0
        assert asked >= usable >= better >= 0
    assert made.known(Cell("finance", name, 0), TARGET) == cell


def test_capo_has_all_examples_and_what_its_last_whole_step_chose(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    for examples in range(1, 40):
        assert examples % capo_block(examples) == 0 and capo_block(examples) >= min(examples, 4)
    assert [capo_block(n) for n in (12, 20, 30)] == [4, 10, 10]
    if missing("capo") is not None:
        pytest.skip("promptolution is not installed: `uv sync --group peers`")
    from promptolution.optimizers.capo import CAPO

    chosen: list[list[str]] = []
    step = CAPO._step

    def watched(self: Any) -> Any:
        made = step(self)
        chosen.append([prompt.instruction for prompt in made])
        return made

    monkeypatch.setattr(CAPO, "_step", watched)
    found = bench().run(Cell("finance", "capo", 0), TARGET)
    assert found["ended"] == "by itself" and found["pairs"] == BUDGET, "the budget ended it after a step"
    assert found["prompts"][found["final"]][0][1] == chosen[-1][0]


def test_capo_does_not_hide_that_a_reply_did_not_come(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing("capo") is not None:
        pytest.skip("promptolution is not installed: `uv sync --group peers`")
    made = bench()
    down = scripted_lm(lambda prompt: ServerError("down"), num_retries=0, cache=False)
    down.is_reference = True
    monkeypatch.setattr(Bench, "_reference", lambda *_: down)
    with pytest.raises(dspy.LMError):
        made.run(Cell("finance", "capo", 0), TARGET)
    assert made.known(Cell("finance", "capo", 0), TARGET) is None


def asked_by(made: Bench, name: str) -> list[str]:
    """Run a cell; give what the reference LM was asked for instructions with."""
    made.run(Cell("finance", name, 0), TARGET)
    asked = [call.prompt.user for call in made.reference.scripted.log if "<INS>" in call.prompt.user]
    assert asked
    return asked


@pytest.mark.parametrize("position", ["before", "end", "answer"])
def test_the_instruction_stands_where_the_ablation_says(bench: Callable[..., Bench], position: str) -> None:
    made = bench()
    asked = asked_by(made, position)
    last = made.scorer.scripted.log[-1].prompt  # of the held-out questions: it is measured as it was searched for
    assert bool(last.system) == (position == "before") and last.user.startswith("Question:")
    expected = {"before": "<INS>\n\nQuestion:", "end": "\n\n<INS>\nAnswer:", "answer": "Answer: <INS>"}
    assert all(expected[position] in prompt for prompt in asked)


def test_scores_can_be_hidden_from_the_reference_lm(bench: Callable[..., Bench]) -> None:
    for name in ("scratch", "hidden_scores"):
        asked = asked_by(bench(), name)
        assert all(("Score: " in prompt) == (name == "scratch") for prompt in asked)
        assert all("worst first" in prompt for prompt in asked)


def test_ways_to_ask_are_compared_and_each_has_source_prompts_of_its_own(bench: Callable[..., Bench]) -> None:
    made = bench()
    for name, ways in (("at_hand", {True}), ("advice", {True, False})):
        made.reference.scripted.log.clear()
        assert {"worst first" in prompt for prompt in asked_by(made, name)} == ways
    folders = sorted(path.name.split("-", 2)[2].rsplit("-", 1)[0] for path in (made.folder / "sources").iterdir())
    assert folders == ["AdvicePrompt-ReferencePrompt", "ReferencePrompt"]


def test_the_target_is_described_in_an_ablation_only(bench: Callable[..., Bench]) -> None:
    for name in ("one_stage", "described"):
        asked = asked_by(bench(), name)
        assert all(("lettered questions about" in prompt) == (name == "described") for prompt in asked)


def test_prompts_that_are_not_searched_for_cost_nothing(bench: Callable[..., Bench]) -> None:
    made = bench()
    original = made.run(Cell("finance", "original", 0), TARGET)
    by_hand = made.run(Cell("finance", "by_hand", 0), TARGET)
    assert original["pairs"] == by_hand["pairs"] == 0
    assert Found(by_hand).metrics["score"] > Found(original).metrics["score"]


def test_an_optimiser_that_ends_with_errors_begins_anew_and_has_its_best(
    bench: Callable[..., Bench],
) -> None:
    never = bench(broken=lambda call: True).run(Cell("finance", "copro", 0), TARGET)
    assert never["ended"].startswith("failed, after 4 errors") and never["prompts"][0][0][1] == "Answer the question."
    twice = bench(broken=lambda call: call < 8).run(Cell("finance", "copro", 1), TARGET)
    assert "errors" in twice["ended"] and not twice["ended"].startswith("failed")


def test_the_same_cell_with_another_seed_has_other_examples_and_the_same_questions(bench: Callable[..., Bench]) -> None:
    made = bench()
    (first, test), (second, again) = (made._examples("finance", seed) for seed in (0, 1))
    assert {e.question for e in first.train} != {e.question for e in second.train}
    assert [e.question for e in test] == [e.question for e in again] and len(test) == 12


def test_seeds_of_a_target_share_their_questions_and_an_interval_knows_it() -> None:
    right = [1, 0] * 20
    one = Table([cell("gepa", "law", 0, right)], ["gepa"]).mean("gepa", "accuracy")
    three = Table([cell("gepa", "law", seed, right) for seed in range(3)], ["gepa"]).mean("gepa", "accuracy")
    assert (three.value, three.low, three.high) == pytest.approx((one.value, one.low, one.high))


def test_an_outage_is_no_result_of_an_optimiser(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench()
    answer, calls = made.scorer.scripted.rule, iter(range(1_000_000))
    monkeypatch.setattr(made.scorer.scripted, "rule", lambda p: ServerError("down") if next(calls) > 40 else answer(p))
    with pytest.raises((LMUnavailableError, ScoringFailedError)):
        made.run(Cell("finance", "gepa", 0), TARGET)
    assert made.known(Cell("finance", "gepa", 0), TARGET) is None
    down = bench()
    monkeypatch.setattr(down.reference.scripted, "rule", lambda prompt: ServerError("down"))
    with pytest.raises(dspy.LMError):
        down.run(Cell("finance", "copro", 0), TARGET)


def test_a_cell_of_other_data_is_not_taken_for_known(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench()
    made.run(Cell("finance", "original", 0), TARGET)
    other = World(4)
    monkeypatch.setattr(
        "programs.benchmarks.peers.bench.load_task",
        lambda name, *, seed: other.task(name, train=20, validation=20, test=20),
    )
    with pytest.raises(ConfigurationError, match="other data or LMs"):
        made.known(Cell("finance", "original", 0), TARGET)
    assert made.known(Cell("finance", "original", 0), TARGET, again=True) is None


def test_a_table_grows_on_another_machine(bench: Callable[..., Bench], tmp_path: Path) -> None:
    here, cell = bench(), Cell("finance", "general", 0)
    found = here.run(cell, TARGET)
    keep([found, {**found, "seed": 1, "setting": found["setting"] | {"budget": 1}}], tmp_path / "kept.jsonl")
    (here.folder / cell.file).unlink()
    assert here.adopt(read(tmp_path / "kept.jsonl")) == 1, "the other is of another setting"
    taken = here.known(cell, TARGET)
    assert taken is not None and taken["outcomes"] == found["outcomes"] and not taken["prompts"]
    assert here.adopt([found]) == 0, "what is here stays"


def test_a_metric_that_raises_is_not_taken_for_a_score_of_nothing() -> None:
    def broken(example: dspy.Example, prediction: dspy.Prediction) -> float:
        raise ZeroDivisionError("of the metric")

    world = World(1)
    meter, examples = meter_of(world, None)
    meter.metric = broken
    run(meter, examples, "Answer only.", world)
    meter.settle()
    assert isinstance(meter.outage, ZeroDivisionError)


def test_a_file_that_another_server_has_loaded_counts_as_the_same_lm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("programs.benchmarks.peers.setting.embedded_lm", None)  # none is started
    scorer, reference = lms_of(Setting("embedded", "embedded", 1, 1, 1, 1), 2, server="http://127.0.0.1:9/v1")
    assert scorer.model == reference.model == f"openai/{model_name(resolve_gguf(None))}"
    assert {lm.kwargs["api_base"] for lm in (scorer, reference)} == {"http://127.0.0.1:9/v1"}
    assert scorer.kwargs["logprobs"] and scorer.kwargs["max_tokens"] == ANSWER_TOKENS
    assert (scorer.kwargs["temperature"], reference.kwargs["temperature"]) == (0.0, 1.0)


def test_each_of_two_local_lms_has_a_server_of_its_own(tmp_path: Path) -> None:
    one, other = tmp_path / "one.gguf", tmp_path / "other.gguf"
    for file in (one, other):
        file.write_bytes(b"GGUF" + file.name.encode())
    setting = Setting(str(one), str(other), 1, 1, 1, 1)
    urls = ("http://127.0.0.1:8/v1", "http://127.0.0.1:9/v1")
    lms = lms_of(setting, 2, None, *urls)
    assert tuple(lm.kwargs["api_base"] for lm in lms) == urls
    assert [lm.model.split("-")[0] for lm in lms] == ["openai/one", "openai/other"]
    with pytest.raises(ConfigurationError, match="give --reference-server for the second"):
        lms_of(setting, 2, server=urls[0])
    with pytest.raises(ConfigurationError, match="that LM is called elsewhere"):
        lms_of(Setting("openai/a", str(other), 1, 1, 1, 1), 2, None, *urls)


def test_an_optimiser_whose_budget_is_too_small_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Nothing(Bench):
        def __init__(self, *arguments: Any, **more: Any) -> None: ...

        def known(self, cell: Cell, target: Target, again: bool = False) -> None: ...

    monkeypatch.setattr(command, "Bench", Nothing)
    monkeypatch.setattr(dspy, "configure_cache", lambda **settings: None)
    arguments = ["peers", "--quick", "--budget", "20", "--methods", "simba", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="no target and seed"):
        command.main()
    assert "simba needs --budget" in capsys.readouterr().err


def test_a_split_with_a_question_twice_can_be_measured_whole() -> None:
    world = World(1)
    _, examples = meter_of(world, None)
    meter = Meter(Answer(), ObjectiveEvaluator(), {"train": [*examples, examples[0]]})
    run(meter, examples, "Answer only.", world)
    assert meter.best() is not None


def test_settings_that_do_not_fit_are_known_before() -> None:
    assert smallest_budget("copro", 20, 20) == 40 and smallest_budget("miprov2", 20, 20) == 60
    assert smallest_budget("gepa", 20, 20) == 0 and 80 < smallest_budget("simba", 20, 20) <= 200


def test_the_suite_keeps_sources_and_targets_apart_and_knows_its_names() -> None:
    targets = {target.name for target in SUITE}
    assert len(targets) >= 6 and {t.domain for t in SUITE} == {"medical", "legal", "financial", "general"}
    for target in SUITE:
        assert 2 <= len(target.sources) <= 3 and not targets & set(target.sources)
        assert all(name in CATALOG for name in (target.name, *target.sources))
        assert not set(overlapping(target.name)) & set(target.sources)
    assert len(QUICK) == 2


def test_the_program_of_every_optimiser_knows_the_allowed_answers() -> None:
    asked = dspy.Example(question="Which way?", answer="up", choices=["up", "down"]).with_inputs("question")
    lettered = dspy.Example(question="Which?\nA. 1\nB. 2", answer="A", choices=["A", "B"], options=["1", "2"])
    free = dspy.Example(question="Who?", answer="Ada").with_inputs("question")
    made = listed(
        Task("mixed", train=[asked, lettered.with_inputs("question"), free], test=[asked.copy(question="Now?")])
    )
    questions = [example.inputs()["question"] for example in (*made.train, *made.test)]
    assert questions == [
        "Which way?\nOptions: up, down",
        "Which?\nA. 1\nB. 2",
        "Who?",
        "Now?\nOptions: up, down",
    ]
    world = World(1)
    made = Bench(SETTING, Path(), threads=1, lms=(world.scorer_lm(), world.reference_lm()))
    shown = [made._examples(name, 0)[1][0].question for name in (QUICK[0].name, "starter/medical:choice")]
    assert shown[0].endswith("\nOptions: yes, no") and "Options:" not in shown[1] and "\nA. " in shown[1]


def test_data_that_was_never_seen_is_read_from_a_folder(tmp_path: Path) -> None:
    rows = {split: [f"{split} {i}" for i in range(8)] for split in ("train", "validation", "test")}
    for split, questions in rows.items():
        lines = [f"{question}?,{('yes', 'no')[i % 2]}" for i, question in enumerate(questions)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["question,label", *lines]))
    target, task = unseen([f"mine={tmp_path}", "starter/legal", "starter/medical"])
    assert target == Target("mine", ("starter/legal", "starter/medical"), "", "unseen")
    assert task.name == "mine" and [len(task.train), len(task.validation), len(task.test)] == [8, 8, 8]
    assert {e.question for e in task.test} == {f"test {i}?" for i in range(8)} and task.answers == ("no", "yes")
    one, _ = unseen([f"mine={tmp_path / 'train.csv'}", "starter/legal"])
    assert one.sources == ("starter/legal",)
    for wrong in (["mine"], [f"mine={tmp_path}"], [f"mine={tmp_path / 'empty'}", "starter/legal"]):
        with pytest.raises(DataError):
            unseen(wrong)


# The tables.


def cell(method: str, target: str, seed: int, right: list[int], **more: Any) -> dict[str, Any]:
    outcomes = [["ok", 1, float(hit), 0.9 if hit else 0.2] for hit in right]
    base = {"method": method, "target": target, "seed": seed, "settings": {"rounds": 3}, "ended": "by itself"}
    took = {"pairs": 100, "runs": 120, "reference_replies": 9, "seconds": 4.0}
    worse = [["ok", 0, 0.0, 0.5] for _ in right]
    took["proposals"] = [8, 6, 1] if method == "at_hand" else []
    shown = {"incumbents": [[20, 0], [60, 1]], "final": 1, "prompts": [["a"], ["b"]], "outcomes": [worse, outcomes]}
    return base | took | shown | more


def cells() -> list[dict[str, Any]]:
    good, fair = [1] * 9 + [0], [1] * 5 + [0] * 5
    return [
        cell(method, target, seed, good if method == "at_hand" else fair)
        for method in ("original", "gepa", "at_hand")
        for target in ("law", "medicine", "finance")
        for seed in (0, 1)
    ]


def test_means_differences_and_ranks_are_those_of_the_outcomes() -> None:
    table = Table([*cells(), cell("gepa", "extra", 0, [1])], ["original", "gepa", "at_hand"])
    assert len(table.blocks) == 6, "only where all were run"
    assert table.mean("at_hand", "accuracy").value == pytest.approx(0.9)
    assert table.mean("gepa", "accuracy").value == pytest.approx(0.5)
    difference = table.difference("at_hand", "gepa")
    assert (difference.wins, difference.ties, difference.losses) == (6, 0, 0)
    assert 0 < difference.mean.low < difference.mean.value < difference.mean.high
    assert math.isnan(difference.p_value), "three targets, whatever the seeds, are too few for a test"
    many = [c | {"target": f"{c['target']} {i}"} for i in (1, 2) for c in cells()]
    assert Table(many, ["gepa", "at_hand"]).difference("at_hand", "gepa").p_value == pytest.approx(0.03125)
    nothing = table.difference("gepa", "original")
    assert (nothing.wins, nothing.ties, nothing.losses) == (0, 6, 0) and math.isnan(nothing.p_value)
    assert nothing.mean.low == nothing.mean.high == 0.0, "the same questions are drawn for both"
    ranks = table.ranks()
    assert ranks.by_method == {"original": 2.5, "gepa": 2.5, "at_hand": 1.0} and ranks.p_value == pytest.approx(
        0.0498, abs=1e-3
    )


def test_a_target_weighs_the_same_however_many_seeds_it_has() -> None:
    right, wrong = [1] * 10, [0] * 10
    kept = [cell(m, "law", seed, right) for m in ("gepa", "at_hand") for seed in (0, 1, 2)]
    kept += [cell("gepa", "finance", 0, wrong), cell("at_hand", "finance", 0, right)]
    table = Table(kept, ["gepa", "at_hand"])
    assert len(table.blocks) == 4
    assert table.mean("gepa", "accuracy").value == pytest.approx(0.5), "of targets; of blocks it would be 0.75"
    scores = [table.of_target("gepa", target) for target in table.targets]
    assert table.mean("gepa").value == pytest.approx(sum(scores) / 2)
    assert table.curve("gepa", [100])[0] == pytest.approx(sum(scores) / 2)
    gain = table.difference("at_hand", "gepa")
    assert gain.mean.value == pytest.approx(abs(scores[0] - scores[1]) / 2) and gain.wins == 1 and gain.ties == 3
    assert "2 targets, each the mean of its seeds (4 blocks)" in next(iter(all_tables(table)))
    # So do the draws of the interval: half of them have one target twice, whatever its seeds.
    mean = table.mean("gepa", "accuracy")
    assert (mean.low, mean.high) == (0.0, 1.0)
    many = [cell(m, f"law {i}", seed, right) for m in ("gepa",) for i in range(5) for seed in range(1 + 4 * (i < 2))]
    many += [cell("gepa", f"finance {i}", 0, wrong) for i in range(5)]
    mean = Table(many, ["gepa"]).mean("gepa", "accuracy")
    assert mean.value == 0.5 and (mean.low, mean.high) == pytest.approx((0.2, 0.8), abs=0.01)


def test_the_curve_is_that_of_the_best_so_far() -> None:
    table = Table(cells(), ["gepa", "at_hand"])
    at = table.curve("at_hand", [10, 20, 59, 60, 100])
    assert math.isnan(at[0]) and at[1] == at[2] < at[3] == at[4]
    assert table.calls_to_reach("at_hand", "law", ["gepa"]) == ("gepa", 1.0), "both have it after 60 calls"
    assert table.calls_to_reach("gepa", "law", ["at_hand"]) == ("at_hand", None)
    idle = Table([*cells(), cell("copro", "law", 0, [1, 0] * 5, pairs=0, incumbents=[])], ["copro", "at_hand"])
    peer, ratio = idle.calls_to_reach("at_hand", "law", ["copro"])
    assert peer == "copro" and ratio is not None and math.isnan(ratio)
    assert "the peer made none" in markdown(idle)


def test_the_interval_draws_targets_and_not_single_cells_anew() -> None:
    apart = [cell("gepa", t, s, [hit] * 10) for t, hit in (("law", 1), ("medicine", 0)) for s in range(20)]
    mean = Table(apart, ["gepa"]).mean("gepa", "accuracy")
    assert (mean.low, mean.high) == (0.0, 1.0), "twenty seeds do not make up for two targets"


def test_the_table_is_made_of_kept_cells_without_an_lm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"law": QUICK[0].name, "medicine": QUICK[1].name}
    failed = "failed, after 4 errors (ValueError: cannot read 'a question: of mine')"
    kept = [one | {"target": names[one["target"]], "ended": failed} for one in cells() if one["target"] in names]
    file = tmp_path / "cells.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in kept))
    assert read(file) == kept
    monkeypatch.setattr(command, "Bench", None)
    arguments = ["peers", "--quick", "--table", "--cells", str(file), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*arguments, "--methods", "original", "gepa", "at_hand"])
    command.main()
    shown = capsys.readouterr().out
    assert "4 of 4 |" in shown and "with errors: compiles\nin which the optimiser" in shown
    assert "| Transfer-Prompting, source prompts at hand | 32 | 0.75 | 0.12 |" in shown
    assert "| dspy.GEPA |" in shown and "won : tied : lost" in shown and "4 : 0 : 0" in shown
    written = sorted(path.name for path in tmp_path.glob("*/tables/*"))
    assert written == ["curve.png", "curve.svg", "summary.md", "table.csv", "table.json", "table.md", "table.tex"]
    (short,) = tmp_path.glob("*/tables/summary.md")
    assert "| dspy.GEPA | " in short.read_text() and "nan" not in short.read_text()
    # What is passed on makes the same table, and quotes nobody.
    passed = tmp_path / "passed" / "cells.jsonl"
    monkeypatch.setattr("sys.argv", [*arguments, "--methods", "original", "gepa", "at_hand", "--keep", str(passed)])
    command.main()
    assert not any(one["prompts"] for one in read(passed)) and all(one["prompts"] for one in kept)
    assert {one["ended"] for one in read(passed)} == {"failed, after 4 errors (ValueError)"}
    assert markdown(Table(read(passed), list(METHODS))) == markdown(Table(kept, list(METHODS)))


ROOT = Path(command.__file__).parents[3]
KEPT = ROOT / "programs/benchmarks/peers/cells/qwen2.5-coder-0.5b-by-1.5b.jsonl"
README, MEASURED = (ROOT / page for page in ("README.md", "programs/benchmarks/README.md"))


def test_the_pages_have_the_tables_of_the_kept_cells(tmp_path: Path) -> None:
    readme, measured = README.read_text(encoding="utf-8"), MEASURED.read_text(encoding="utf-8")
    asked = re.search(rf"--cells {KEPT.relative_to(ROOT).as_posix()}.*?--methods ([\w ]+)\n```", readme, re.DOTALL)
    assert asked is not None
    table = Table(read(KEPT), asked[1].split())
    assert len(table.targets) == 6 and len(table.methods) == 11
    write(table, tmp_path)
    assert (tmp_path / "table.md").read_text().strip() in measured
    assert (tmp_path / "summary.md").read_text().strip() in readme
    assert as_markdown(against(table, "at_hand")) in readme


def test_the_page_has_what_advice_and_each_part_do_by_the_kept_cells() -> None:
    measured = MEASURED.read_text(encoding="utf-8")
    ways = Table(read(KEPT), ["at_hand", "scratch", "advice", "advice_scratch"])
    for ours, asked_for_advice in (("at_hand", "advice"), ("scratch", "advice_scratch")):
        mean = ways.difference(asked_for_advice, ours).mean
        assert f"{mean.value:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}]" in measured
    names = ["no_racing", "one_source", "one_stage", "before", "end", "hidden_scores"]
    names += ["described", "no_general", "accuracy", "top_1"]
    table = Table(read(KEPT), ["scratch", *names])
    assert len(table.targets) == 4
    for name in names:
        scores = " | ".join(f"{table.of_target(name, target):.3f}" for target in table.targets)
        mean = table.difference(name, "scratch").mean
        row = f"| {METHODS[name].title} | {scores} | {mean.value:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}] |"
        assert row in measured, row


def test_every_form_has_the_figures(tmp_path: Path) -> None:
    table = Table(cells(), list(METHODS))
    titles = " ".join(all_tables(table))
    assert "3 targets, each the mean of its seeds (6 blocks)" in titles and "Friedman" in titles
    mean, low, high = as_json(table)["methods"]["at_hand"]["metrics"]["accuracy"]
    assert mean == 0.9 and 0.6 < low < 0.9 < high <= 1.0 and f"0.900 [{low:.2f}, {high:.2f}]" in markdown(table)
    for path in write(table, tmp_path):
        assert path.stat().st_size > 0
    assert "toprule" in (tmp_path / "table.tex").read_text()


def test_a_metric_reads_the_log_probabilities_that_optimisers_do_not_show() -> None:
    world = World(1)
    example = world.example("finance", 0)
    with dspy.context(lm=world.scorer_lm(logprobs=True, top_logprobs=5), adapter=None):
        prediction = Answer("Answer only.")(question=example.question)
    assert set(prediction.keys()) == {"answer"} and prediction.logprobs is not None
    sure = ObjectiveEvaluator().outcome(example, prediction).confidence
    assert sure is not None and 0 < sure < 1
