"""Source prompts for many targets and other LMs, and which source helped which target."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError

from programs.benchmarks.adapt import Curves, run
from programs.benchmarks.scripted import PromptView, Reply, answer_logprobs, scripted_lm
from programs.benchmarks.transfer import Setting
from programs.benchmarks.worlds import World
from tests.transfers.conftest import SOURCES, optimiser, student
from tp_dspy import ObjectiveEvaluator, ScorerCalls, SourcePrompts, Task, TransferPrompting
from tp_dspy.errors import ConfigurationError, LMUnavailableError, ProgramError, ScoringFailedError
from tp_dspy.runs.transfers import Transfers


def targets(world: World) -> dict[str, Task]:
    return {name: world.task(name, train=8, validation=8) for name in ("finance", "banking/retail", "banking:retail")}


# Many targets.


def test_each_target_gets_a_program_of_its_own(world: World, sources: SourcePrompts, tmp_path: Path) -> None:
    seen: list[str] = []
    tp = optimiser(world, run_dir=tmp_path, listeners=[lambda event: seen.append(event.phase)])
    made = tp.transfer_to(student(), targets(world), source_prompts=sources)
    assert list(made) == list(targets(world)) and made.missing == ()
    assert list(dict.fromkeys(filter(None, seen))) == [f"target {name}" for name in targets(world)]
    for name, program in made.items():
        result = made.results[name]
        assert program.signature.instructions == result.winner.instructions["self"]
        assert result.winner.score >= result.original.score
        assert set(result.winner.by_task) == {name}
        carried = {record.id for record in result.target.history if record.origin == "source"}
        # The original may be one of them, and is called by its own name.
        assert carried == {record.id for record in sources.prompts} - {result.original.id} != set()
    frame = made.to_frame()
    assert (frame["gain"] >= 0).all() and (frame["scorer_calls"] > 0).all()
    assert frame["scorer_calls"].sum() == tp.scorer.lm.scripted.calls
    # Names that a file system would take for one are told apart.
    assert {path.parent.name for path in tmp_path.glob("*/program.json")} == {
        "finance",
        "banking_retail-1",
        "banking_retail-2",
    }
    text = str(made)
    assert "banking/retail" in text and made["finance"].signature.instructions in text


def test_a_question_of_several_targets_is_paid_for_once(world: World, sources: SourcePrompts) -> None:
    task = world.task("finance", train=8, validation=8)
    tp = optimiser(world, rounds=0)
    tp.transfer_to(student(), {"one": task}, source_prompts=sources)
    once = tp.scorer.lm.scripted.calls
    both = optimiser(world, rounds=0)
    made = both.transfer_to(student(), {"one": task, "two": task}, source_prompts=sources)
    assert both.scorer.lm.scripted.calls == once
    assert made["one"].signature.instructions == made["two"].signature.instructions
    assert made.results["two"].scorer_usage.calls == 0


def test_a_target_alone_is_compiled_as_by_compile(world: World, sources: SourcePrompts) -> None:
    task = world.task("finance", train=8, validation=8)
    made = optimiser(world).transfer_to(student(), [task], source_prompts=sources)
    compiled = optimiser(world).compile(
        student(),
        trainset=task.train,
        valset=task.validation,
        source_prompts=sources,
        description=task.description,
    )
    assert made["finance"].signature.instructions == compiled.signature.instructions
    assert made.results["finance"].winner.score == compiled.detailed_results.winner.score


def test_the_targets_share_a_budget(world: World, sources: SourcePrompts) -> None:
    names = ["finance", "banking", "insurance"]
    tp = optimiser(world, rounds=5, stop=[ScorerCalls(150)])
    made = tp.transfer_to(student(), [world.task(n, train=8, validation=8) for n in names], source_prompts=sources)
    assert tp.scorer.lm.scripted.calls <= 150
    assert list(made) == names
    spent = made.to_frame()["scorer_calls"]
    assert spent.min() >= 150 / 3 / 2, spent


def test_what_was_not_reached_is_named(world: World, sources: SourcePrompts, tmp_path: Path) -> None:
    def press_control_c_in_the_second(event: Any) -> None:
        if event.phase == "target banking" and event.kind == "outcome":
            raise KeyboardInterrupt

    tp = optimiser(world, run_dir=tmp_path, listeners=[press_control_c_in_the_second])
    tasks = [world.task(name, train=8, validation=8) for name in ("finance", "banking", "insurance")]
    made = tp.transfer_to(student(), tasks, source_prompts=sources)
    assert list(made) == ["finance", "banking"] and made.missing == ("insurance",)
    assert made.results["finance"].stopped == "all rounds done"
    assert made.results["banking"].stopped == "interrupted"
    assert "Not reached before the run ended: insurance" in str(made)
    calls = tp.scorer.lm.scripted.calls
    again = optimiser(world, run_dir=tmp_path, scorer_lm=tp.scorer.lm, reference_lm=tp.reference_lm)
    whole = again.transfer_to(student(), tasks, source_prompts=sources)
    assert isinstance(whole, Transfers) and whole.missing == ()
    fresh = optimiser(world).transfer_to(student(), tasks, source_prompts=sources)
    assert [p.signature.instructions for p in whole.values()] == [p.signature.instructions for p in fresh.values()]
    assert tp.scorer.lm.scripted.calls - calls < fresh.to_frame()["scorer_calls"].sum()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "targets is \\[\\]; expected tp_dspy.Task objects"),
        ({"a": "cais/mmlu:anatomy"}, "expected tp_dspy.Task objects"),
        ("twice", "targets are named \\['finance', 'finance'\\]"),
    ],
)
def test_targets_that_are_none(world: World, sources: SourcePrompts, given: Any, words: str) -> None:
    given = [world.task("finance", train=4)] * 2 if given == "twice" else given
    tp = optimiser(world)
    with pytest.raises(ConfigurationError, match=words):
        tp.transfer_to(student(), given, source_prompts=sources)
    assert tp.scorer.lm.scripted.calls == 0


def test_adapting_saved_source_prompts_takes_less_than_a_third_of_the_calls_of_a_search_from_scratch() -> None:
    # Three worlds guard it; the evidence is `python -m programs.benchmarks.adapt`, over twenty and more.
    curves = [run(Setting(seed, target=10, rounds=8), budgets=(150, 450)) for seed in range(3)]
    adapted, scratch = (
        [statistics.mean(q) for q in zip(*c, strict=True)] for c in zip(*map(_pair, curves), strict=True)
    )
    assert adapted[0] > scratch[1], (adapted, scratch)


def _pair(curves: Curves) -> tuple[list[float], list[float]]:
    return curves.adapted, curves.scratch


# Another LM.


def test_source_prompts_serve_another_scorer_lm(
    world: World, sources: SourcePrompts, caplog: pytest.LogCaptureFixture
) -> None:
    task = world.task("finance", train=8, validation=8)
    other = world.scorer_lm(name="scripted/another")
    with caplog.at_level("INFO", logger="tp_dspy"):
        compiled = optimiser(world, scorer_lm=other).compile(
            student(), trainset=task.train, valset=task.validation, source_prompts=sources
        )
    assert "this is scripted/another" in caplog.text
    assert other.scripted.calls > 0
    result = compiled.detailed_results
    assert all(record.by_task["target"].n == 8 for record in result.target.history if record.origin == "source")


# Plans.


def test_a_plan_is_the_ceiling_of_what_compile_spends_and_costs_nothing(world: World) -> None:
    tasks = [world.task(name, train=8, validation=8) for name in SOURCES]
    target = world.task("finance", train=8, validation=8)
    tp = optimiser(world)
    given = {"trainset": target.train, "valset": target.validation, "source_tasks": tasks}
    plan = tp.plan(student(), **given)
    assert tp.scorer.lm.scripted.calls == tp.reference_lm.scripted.calls == 0
    figures = plan.to_dict()
    assert [phase["phase"] for phase in figures["phases"]] == ["source", "target"]
    tp.compile(student(), **given)
    assert 0 < tp.scorer.lm.scripted.calls <= figures["scorer_calls"]
    # One more asks only whether the LM is there.
    assert tp.reference_lm.scripted.calls == figures["reference_calls"] + 1
    assert str(figures["scorer_calls"]) in plan.words


def test_a_plan_finds_what_is_wrong(world: World) -> None:
    with pytest.raises(ProgramError, match="the class Predict; make an object of it"):
        optimiser(world).plan(dspy.Predict, trainset=world.task("finance", train=4).train)


# Which source helped.

# Law asks for care, medicine for brevity; whoever shows both has one of them go wrong.
WANTED = {"medicine": "short", "law": "careful", "finance": "careful", "banking": "short"}
INSTRUCTIONS = ["Be careful.", "Be short.", "Be quick."]


def wanting(prompt: PromptView) -> Reply:
    domain = re.search(r"about (\w+)", prompt.user)[1]
    right = 0.9 if WANTED[domain] in prompt.user else 0.1
    number = int(re.search(r"Question: (\d+)", prompt.user)[1])
    answer = "A" if (number % 10) / 10 < right else "B"
    return Reply.of(*answer_logprobs(answer, {"A": 0.5, "B": 0.5}))


def about(domain: str, count: int = 40) -> Task:
    examples = [
        dspy.Example(question=f"{i} about {domain}?", answer="A", choices=["A", "B"]).with_inputs("question")
        for i in range(count)
    ]
    return Task(domain, train=examples[: count // 2], validation=examples[count // 2 :], domain=domain)


def choosing(**settings: Any) -> TransferPrompting:
    settings = {"rounds": 0, "examples": 20, "top_k": 1, "verbose": False, **settings}
    settings.setdefault("scorer_lm", scripted_lm(wanting))
    lm = scripted_lm(lambda prompt: "")
    objective = ObjectiveEvaluator(weights={"accuracy": 1.0})
    return TransferPrompting(objective, reference_lm=lm, seed_instructions=INSTRUCTIONS, **settings)


def test_leaving_a_source_out_shows_whom_it_helped(tmp_path: Path) -> None:
    tp = choosing(run_dir=tmp_path)
    # Two domains that want care, one that wants brevity: with all of them, careful is chosen.
    tasks = [about("law", 40), about("finance", 40), about("medicine", 40)]
    made = tp.construct_source_prompts(student(), source_tasks=tasks)
    assert made.prompts[0].instructions["self"].startswith("Be careful")
    again = choosing(run_dir=tmp_path, scorer_lm=tp.scorer.lm)
    merged = again.source_influence(student(), {"banking": about("banking")}, source_prompts=made)
    frame = merged.to_frame()
    # Without law (or finance) it is a draw between care and brevity, and the first in order stays.
    assert set(frame.index.get_level_values("source")) == {"law", "finance", "medicine"}
    assert frame.loc[("medicine", "banking"), "replaced"] == 0
    assert frame.loc[("medicine", "banking"), "gain"] == 0.0
    only = made.filter(tasks=["law", "medicine"])
    found = again.source_influence(student(), {"banking": about("banking")}, source_prompts=only).to_frame()
    # Without law, brevity wins, which is what banking wants: law did harm there, medicine did good.
    law, medicine = found.loc[("law", "banking")], found.loc[("medicine", "banking")]
    assert law["gain"] < -0.5 and law["high"] < 0 and law["replaced"] == 1
    assert medicine["gain"] == 0.0
    assert "law" in str(merged) and "same prompts" in str(merged)


def test_influence_needs_two_sources_and_what_the_transfer_knew_is_not_paid_for_again(tmp_path: Path) -> None:
    tp = choosing(run_dir=tmp_path, top_k=4)
    made = tp.construct_source_prompts(student(), source_tasks=[about("law"), about("medicine")])
    tasks = {"finance": about("finance")}
    tp.transfer_to(student(), tasks, source_prompts=made)
    calls = tp.scorer.lm.scripted.calls
    spent: list[int] = []
    tp.listeners = [lambda event: spent.append(event.spent.scorer_calls) if event.kind == "spent" else None]
    found = tp.source_influence(student(), tasks, source_prompts=made)
    here = tp.scorer.lm.scripted.calls - calls
    assert spent[-1] == here, "what the transfer paid for is no cost of this"
    elsewhere = choosing(top_k=4)
    assert elsewhere.source_influence(student(), tasks, source_prompts=made) == found
    assert here <= elsewhere.scorer.lm.scripted.calls - 20, "one prompt at least came to the end of the target phase"
    tp.source_influence(student(), tasks, source_prompts=made)
    assert tp.scorer.lm.scripted.calls == calls + here
    assert found.by_target["finance"]["law"].gain >= 0.0
    with pytest.raises(ConfigurationError, match="1 source tasks"):
        tp.source_influence(student(), tasks, source_prompts=made.filter(tasks=["law"]))


def test_influence_with_too_small_a_budget_says_so(tmp_path: Path) -> None:
    made = choosing().construct_source_prompts(student(), source_tasks=[about("law"), about("medicine")])
    tp = choosing(stop=[ScorerCalls(5)], run_dir=tmp_path)
    with pytest.raises(ScoringFailedError, match=r"5 scorer calls is spent.*same call goes on"):
        tp.source_influence(student(), {"finance": about("finance")}, source_prompts=made)
    assert math.isclose(tp.scorer.lm.scripted.calls, 5)


def test_influence_may_spend_its_whole_budget_on_all_targets() -> None:
    made = choosing(top_k=4).construct_source_prompts(student(), source_tasks=[about("law"), about("medicine")])
    tasks = {"finance": about("finance"), "banking": about("banking")}
    free = choosing(top_k=4)
    found = free.source_influence(student(), tasks, source_prompts=made)
    tp = choosing(top_k=4, stop=[ScorerCalls(free.scorer.lm.scripted.calls)])
    assert tp.source_influence(student(), tasks, source_prompts=made) == found


def test_an_error_hands_over_what_was_done_before_it(world: World, sources: SourcePrompts) -> None:
    def dead(task: str) -> dspy.LM:
        alive = world.scorer_lm().scripted.rule

        def rule(prompt: PromptView) -> Any:
            if f"of {task} in" in prompt.user:
                raise AuthError("the key has expired")
            return alive(prompt)

        return scripted_lm(rule)

    tasks = targets(world)
    with pytest.raises(LMUnavailableError) as caught:
        optimiser(world, scorer_lm=dead("banking:retail")).transfer_to(student(), tasks, source_prompts=sources)
    assert list(caught.value.transfers) == ["finance", "banking/retail"]
    assert caught.value.transfers.missing == ("banking:retail",) and "'transfers'" in caught.value.__notes__[0]

    given = {
        "trainset": tasks["finance"].train,
        "source_tasks": [world.task(name, train=8, validation=8) for name in SOURCES],
    }
    with pytest.raises(LMUnavailableError) as caught:
        optimiser(world, scorer_lm=dead("finance")).compile(student(), **given)
    made = caught.value.source_prompts
    compiled = optimiser(world).compile(student(), trainset=tasks["finance"].train, source_prompts=made)
    assert compiled.detailed_results.winner.score >= compiled.detailed_results.original.score
    with pytest.raises(LMUnavailableError) as caught:
        optimiser(world, scorer_lm=dead(SOURCES[0])).compile(student(), **given)
    assert not hasattr(caught.value, "source_prompts")
