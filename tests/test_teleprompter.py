"""TransferPrompting as its users see it: the property of the method, what is kept, what is refused."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import dspy
import pytest

from programs.benchmarks.scripted import Reply, answer_logprobs, scripted_lm
from programs.benchmarks.transfer import Setting, run
from programs.benchmarks.worlds import World
from tp_dspy import (
    AdvicePrompt,
    InstructionAdapter,
    ObjectiveEvaluator,
    ReferencePrompt,
    ScorerCalls,
    SourcePrompts,
    Task,
    TransferPrompting,
)
from tp_dspy.errors import (
    ConfigurationError,
    DataError,
    LMUnavailableError,
    NoUsableProposalWarning,
    ProgramError,
    SplitOverlapWarning,
)
from tp_dspy.optimization.candidates import Candidate
from tp_dspy.optimization.racing import FullScoring


@pytest.fixture(autouse=True)
def plain_prompts() -> None:
    dspy.configure(adapter=InstructionAdapter())


def student(instruction: str = "Answer.") -> dspy.Predict:
    return dspy.Predict(dspy.Signature("question -> answer", instruction))


def optimiser(world: World, **settings: object) -> TransferPrompting:
    settings = {"rounds": 2, "proposals": 4, "examples": 12, "seed_instructions": [], "verbose": False, **settings}
    return TransferPrompting(
        ObjectiveEvaluator(), reference_lm=world.reference_lm(), scorer_lm=world.scorer_lm(), **settings
    )


# The property of the method.


def test_words_found_on_the_sources_beat_a_single_stage_of_as_many_calls_on_the_target() -> None:
    # A few worlds guard it and prove nothing; the evidence is `python -m programs.benchmarks.transfer`, over as many as
    # one likes. The single stage is the same optimiser without source tasks, and goes on until it has spent as much.
    rows = [run(Setting(seed, target=4, source=16, rounds=6)) for seed in range(3)]
    for row in rows:
        assert row.calls_alone == pytest.approx(row.calls_both, rel=0.03)
    both, alone = (statistics.mean(getattr(row, name) for row in rows) for name in ("both", "alone"))
    assert both > alone + 0.05, rows


def test_source_prompts_are_scored_again_on_the_target_with_their_source_score_as_prior() -> None:
    world = World(1)
    sources = [world.task(name, train=12, validation=12) for name in ("medicine", "law")]
    target = world.task("finance", train=12, validation=12)
    compiled = optimiser(world).compile(
        student(), trainset=target.train, valset=target.validation, source_tasks=sources
    )
    record = compiled.detailed_results
    carried = [entry for entry in record.target.history if entry.origin == "source"]
    assert carried
    by_id = {entry.id: entry for entry in record.source.ranked}
    assert all(entry.prior.mean == by_id[entry.id].expected.mean for entry in carried)
    # It was measured on other tasks: less is known of this one.
    assert all(entry.prior.sd >= by_id[entry.id].expected.sd for entry in carried)
    own = next(entry for entry in record.target.history if entry.origin == "original")
    assert own.prior is not None, "the original's source score tells how hard the target is"


# What comes back is never measured worse than what went in.


@pytest.mark.parametrize("seed", range(6))
def test_the_target_prompt_is_never_scored_below_the_original_on_what_it_was_found_and_chosen_on(seed: int) -> None:
    world = World(seed, noise=1.0)
    target = world.task("finance", train=8, validation=8)
    tp = optimiser(world)
    tp.racing = FullScoring()  # all have met all
    compiled = tp.compile(student("Answer only calmly."), trainset=target.train, valset=target.validation)
    record = compiled.detailed_results
    programs = {"original": student("Answer only calmly."), "target": compiled}
    with dspy.context(lm=world.scorer_lm()):
        measured = tp.objective.evaluate_all(programs, [*target.train, *target.validation], verbose=False)
    assert measured.evaluations["target"].metrics.score >= measured.evaluations["original"].metrics.score
    assert record.winner.instructions["self"] == compiled.signature.instructions


# What is kept.


class Triage(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.facts = dspy.Predict(dspy.Signature("question -> facts", "List the facts."))
        self.decide = dspy.Predict(dspy.Signature("question, facts -> answer", "Decide."))

    def forward(self, question: str) -> dspy.Prediction:
        return self.decide(question=question, facts=self.facts(question=question).facts)


def test_the_student_is_unchanged_and_demos_survive() -> None:
    world = World(2)
    target = world.task("finance", train=8, validation=8)
    program = student()
    program.demos = [dspy.Example(question="Which letter comes first?", answer="A")]
    program.lm = world.scorer_lm(name="scripted/attached")
    before = json.dumps(program.dump_state(), default=str)
    signature = program.signature
    compiled = optimiser(world).compile(program, trainset=target.train, valset=target.validation)
    assert json.dumps(program.dump_state(), default=str) == before
    assert program.signature is signature
    assert signature.instructions == "Answer."
    assert compiled is not program
    assert compiled.demos == program.demos
    assert compiled.lm is program.lm
    assert not compiled._compiled
    shown = program.lm.scripted.log[-1].prompt.messages
    assert any("Which letter comes first?" in text for _, text in shown), "demos are used while scoring"


def test_several_predictors_are_optimised_one_by_one_and_reload(tmp_path: Path) -> None:
    def answer(prompt: object) -> Reply | str:
        if "Facts:" not in prompt.user:
            return "some facts"
        return Reply.of(*answer_logprobs("A", {"A": 0.9 if "carefully" in prompt.user else 0.4, "B": 0.1}))

    def propose(prompt: object) -> str:
        step = "facts" if "'facts'" in prompt.text else "decide"
        return f"<INS>Work carefully on the {step}, attempt {len(reference.scripted.log)}.</INS>"

    reference = scripted_lm(propose)
    examples = [
        dspy.Example(question=f"Question {i}?", answer="A", choices=["A", "B"]).with_inputs("question")
        for i in range(10)
    ]
    optimise = TransferPrompting(
        ObjectiveEvaluator(weights={"ece": 1.0}),
        reference_lm=reference,
        scorer_lm=scripted_lm(answer),
        rounds=2,
        proposals=4,
        seed_instructions=[],
        verbose=False,
    )
    compiled = optimise.compile(Triage(), trainset=examples)
    tried = {tuple(sorted(entry.instructions)) for entry in compiled.detailed_results.target.history}
    assert tried == {("decide", "facts")}
    changed = {name for p in compiled.detailed_results.target.proposals if p.reason is None for name in [p.predictor]}
    assert changed == {"facts", "decide"}
    assert "carefully" in compiled.decide.signature.instructions
    compiled.save(tmp_path / "program.json")
    again = Triage()
    again.load(tmp_path / "program.json")
    assert again.decide.signature.instructions == compiled.decide.signature.instructions
    assert again.facts.signature.instructions == compiled.facts.signature.instructions


def test_the_saved_program_answers_the_same_in_a_fresh_process(tmp_path: Path) -> None:
    world = World(3)
    target = world.task("finance", train=12, validation=12, test=5)
    compiled = optimiser(world, run_dir=tmp_path).compile(student(), trainset=target.train, valset=target.validation)
    lm = world.scorer_lm()
    with dspy.context(lm=lm):
        here = [compiled(**example.inputs()).answer for example in target.test]
    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
import dspy
from programs.benchmarks.worlds import World
from tp_dspy import InstructionAdapter
world = World(3)
target = world.task("finance", train=12, validation=12, test=5)
program = dspy.Predict("question -> answer")
program.load(sys.argv[2])
dspy.configure(lm=world.scorer_lm(), adapter=InstructionAdapter())
print(json.dumps([program(**example.inputs()).answer for example in target.test]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(tmp_path / "program.json")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == here


def test_source_prompts_are_made_once_and_serve_many_targets(tmp_path: Path) -> None:
    world = World(4)
    teleprompter = optimiser(world, rounds=1)
    made = teleprompter.construct_source_prompts(
        student(), source_tasks=[world.task("medicine", train=10, validation=10)]
    )
    path = made.save(tmp_path / "sources.json")
    assert SourcePrompts.load(path).prompts[0].instructions == made.prompts[0].instructions
    calls = teleprompter.scorer.lm.scripted.calls
    for name in ("finance", "law"):
        target = world.task(name, train=8, validation=8)
        compiled = teleprompter.compile(
            student(), trainset=target.train, valset=target.validation, source_prompts=SourcePrompts.load(path)
        )
        assert compiled.detailed_results.source is None
    assert teleprompter.scorer.lm.scripted.calls > calls


# The test split is not looked at.


class Sealed:
    """Examples that nobody may touch until they are unsealed."""

    def __init__(self, examples: list[dspy.Example]) -> None:
        self.examples, self.sealed, self.touched = examples, True, threading.Event()

    def _open(self) -> list[dspy.Example]:
        if self.sealed:
            self.touched.set()
            raise AssertionError("the test split was touched during the search")
        return self.examples

    def __len__(self) -> int:
        return len(self._open())

    def __getitem__(self, index: int) -> dspy.Example:
        return self._open()[index]

    def __iter__(self):
        return iter(self._open())


def test_the_test_split_is_never_touched_by_the_search() -> None:
    world = World(5)
    plain = [world.task(name, train=10, test=6) for name in ("medicine", "law", "finance")]
    seals = [Sealed(list(task.test)) for task in plain]
    tasks = [
        Task(task.name, train=task.train, test=seal, description=task.description)
        for task, seal in zip(plain, seals, strict=True)
    ]
    *sources, target = tasks
    optimiser(world).compile(student(), trainset=target.train, source_tasks=sources)
    assert not any(seal.touched.is_set() for seal in seals)
    seals[-1].sealed = False
    assert len(target.test) == 6


# Bad input.


def test_bad_input_is_refused_before_any_call_is_paid() -> None:
    world = World(6)
    target = world.task("finance", train=8)
    teleprompter = optimiser(world)

    def refused(kind: type[Exception], words: str, program: object = None, **arguments: object) -> None:
        with pytest.raises(kind, match=words):
            teleprompter.compile(program or student(), **{"trainset": target.train, **arguments})

    refused(DataError, "trainset is empty", trainset=[])
    refused(DataError, "with_inputs", trainset=[dspy.Example(question="q", answer="A")])
    refused(DataError, "no 'answer'", trainset=[dspy.Example(question="q").with_inputs("question")] * 9)
    refused(ConfigurationError, "source_tasks", source_tasks=[target.train])
    refused(ProgramError, "output fields", program=dspy.Predict("question -> verdict"))
    refused(ProgramError, "no predictor", program=dspy.Module())
    refused(ProgramError, r"dspy\.Module", program="question -> answer")
    for wrong in ({"auto": "huge"}, {"rounds": -1}, {"examples": 0}, {"max_error_rate": 2},
                  {"num_threads": 0}, {"spread_penalty": -1.0}, {"reference_prompt": ReferencePrompt((), ())},
                  {"reference_prompt": []}, {"reference_prompt": [ReferencePrompt, str]}, {"reference_prompt": "both"},
                  {"seed_instructions": "Answer."}):  # fmt: skip
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            optimiser(world, **wrong).compile(student(), trainset=target.train)
    assert teleprompter.scorer.lm.scripted.calls == 0
    assert teleprompter.reference_lm.scripted.calls == 0


def test_source_and_target_that_share_questions_are_warned_of() -> None:
    world = World(7)
    source = world.task("finance", train=10, validation=4)
    target = world.task("finance", train=6)
    with pytest.warns(SplitOverlapWarning, match=r"6 of 6 target examples.*'finance'"):
        optimiser(world, rounds=0).compile(student(), trainset=target.train, source_tasks=[source])


def test_an_lm_that_nobody_serves_fails_before_the_other_is_paid() -> None:
    world = World(8)
    refusing = scripted_lm(lambda prompt: dspy.lm15.AuthError("invalid api key"))
    target = world.task("finance", train=8)
    scorer_lm = world.scorer_lm()
    teleprompter = TransferPrompting(ObjectiveEvaluator(), reference_lm=refusing, scorer_lm=scorer_lm, verbose=False)
    with pytest.raises(LMUnavailableError, match="invalid api key"):
        teleprompter.compile(student(), trainset=target.train)
    assert scorer_lm.scripted.calls == 0
    with pytest.raises(LMUnavailableError, match="no reference LM"):
        TransferPrompting(ObjectiveEvaluator(), scorer_lm=scorer_lm, verbose=False).compile(
            student(), trainset=target.train
        )


def test_a_reference_lm_that_returns_nothing_usable_is_warned_of_and_the_best_so_far_comes_back() -> None:
    world = World(9)
    mute = scripted_lm(lambda prompt: "")
    target = world.task("finance", train=8, validation=8)
    teleprompter = TransferPrompting(
        ObjectiveEvaluator(),
        reference_lm=mute,
        scorer_lm=world.scorer_lm(),
        rounds=1,
        proposals=2,
        seed_instructions=["Answer only calmly stepwise."],
        verbose=False,
    )
    with pytest.warns(NoUsableProposalWarning, match="it is empty"):
        compiled = teleprompter.compile(student(), trainset=target.train, valset=target.validation)
    assert compiled.signature.instructions == "Answer only calmly stepwise."


def test_the_reference_lm_is_asked_in_the_users_words() -> None:
    class Curt(ReferencePrompt):
        def build(self, history: object, *rest: object) -> str:
            return f"One instruction for {self.tasks[0].description}, please."

    world = World(1)
    target = world.task("finance", train=8)
    tp = optimiser(world, reference_prompt=Curt, rounds=1)
    made = tp.compile(student(), trainset=target.train, description="lettered questions")
    log = [call.prompt.user for call in tp.reference_lm.scripted.log]  # type: ignore[union-attr]
    assert log[1:] == ["One instruction for lettered questions, please."] * 4
    assert made.detailed_results.settings["reference_prompt"] == "Curt"


def test_several_ways_to_ask_share_the_replies() -> None:
    world = World(1)
    target = world.task("finance", train=8)
    ways = {}
    for name, given in (("default", {}), ("both", {"reference_prompt": [ReferencePrompt, AdvicePrompt]})):
        tp = optimiser(world, rounds=1, **given)
        made = tp.compile(student(), trainset=target.train, description="lettered questions").detailed_results
        log = [call.prompt.user for call in tp.reference_lm.scripted.log]  # type: ignore[union-attr]
        ways[name] = (made.settings["reference_prompt"], sum("right answers" in text for text in log), len(log) - 1)
    assert ways == {"default": ("ReferencePrompt", 0, 4), "both": ("ReferencePrompt, AdvicePrompt", 2, 4)}


def test_an_edited_reference_prompt_is_another_compile(tmp_path: Path) -> None:
    class Own(ReferencePrompt):
        def build(self, *arguments: object) -> str:
            return "One instruction, please."

    class Edited(ReferencePrompt):
        def build(self, *arguments: object) -> str:
            return "One instruction, please!"

    Edited.__name__, Edited.__qualname__ = Own.__name__, Own.__qualname__

    world = World(1)
    target = world.task("finance", train=8)

    shared = optimiser(world)

    def paid(kind: type[ReferencePrompt]) -> int:
        tp = optimiser(world, reference_prompt=kind, rounds=0, run_dir=tmp_path)
        tp.scorer, tp.reference_lm = shared.scorer, shared.reference_lm
        return int(tp.compile(student(), trainset=target.train).detailed_results.scorer_usage.calls)

    assert paid(Own) == 8
    assert paid(Own) == 8, "the same compile, which knows what it has paid"
    assert paid(Edited) == 0, "what another has paid for costs this one nothing"


def test_source_tasks_can_have_fewer_examples_than_the_target() -> None:
    world = World(1)
    sources = [world.task(name, train=12, validation=12) for name in ("medicine", "law")]
    target = world.task("finance", train=12, validation=12)
    tp = optimiser(world, source_examples=5, rounds=0)
    made = tp.compile(student(), trainset=target.train, valset=target.validation, source_tasks=sources)
    result = made.detailed_results
    assert result.source.search == result.source.selection == {"medicine": 5, "law": 5}
    assert result.target.search == result.target.selection == {"target": 12}


def test_ctrl_c_gives_the_best_so_far() -> None:
    world = World(10)
    sources = [world.task("medicine", train=10, validation=10)]
    target = world.task("finance", train=8, validation=8)

    def interrupt(event: object) -> None:
        if event.kind == "proposals":
            raise KeyboardInterrupt

    compiled = optimiser(
        world, seed_instructions=["Answer only calmly stepwise precisely."], listeners=[interrupt]
    ).compile(student(), trainset=target.train, valset=target.validation, source_tasks=sources)
    record = compiled.detailed_results
    assert record.stopped == "interrupted"
    assert record.target is None
    assert "calmly stepwise" in compiled.signature.instructions


def test_settings_are_given_as_a_copy() -> None:
    teleprompter = optimiser(World(0))
    teleprompter.get_params().clear()
    assert teleprompter.get_params()["seed"] == 0


def test_the_target_phase_names_answers_that_the_sources_do_not_have() -> None:
    world = World(11)
    sources = [world.task("medicine", train=10, validation=10)]
    labels = [
        dspy.Example(question=f"Label case {i}?", answer="low", choices=["low", "high"]).with_inputs("question")
        for i in range(8)
    ]
    world.truth.update({example.question: "A" for example in labels})

    def origins(**settings: object) -> list[str]:
        compiled = optimiser(world, rounds=0, **settings).compile(student(), trainset=labels, source_tasks=sources)
        history = compiled.detailed_results.target.history
        assert all("low or high" in entry.instructions["self"] for entry in history if entry.origin == "general")
        return [entry.origin for entry in history]

    assert origins(seed_instructions=None).count("general") == 2
    assert "general" not in origins(seed_instructions=[])
    same = optimiser(world, rounds=0, seed_instructions=None)
    target = world.task("finance", train=8)
    compiled = same.compile(student(), trainset=target.train, source_tasks=sources)
    assert "general" not in [entry.origin for entry in compiled.detailed_results.target.history]
    # Nor where the same answers come in another order.
    turned = [example.copy(choices=example.choices[::-1]) for example in target.train]
    compiled = same.compile(student(), trainset=turned, source_tasks=sources)
    assert "general" not in [entry.origin for entry in compiled.detailed_results.target.history]


def test_a_target_phase_tries_what_the_source_phase_was_broken_off_before_judging() -> None:
    world = World(3)
    lm = world.scorer_lm()
    world.scorer_lm = lambda: lm  # type: ignore[method-assign]
    sources = [world.task(name, train=12, validation=12) for name in ("medicine", "law")]
    target = world.task("finance", train=8, validation=8)
    seeds = ["Answer calmly.", "Answer stepwise."]

    def first(prompts: SourcePrompts, **settings: object) -> list[tuple[str, str]]:
        tp = optimiser(world, rounds=0, **settings)
        made = tp.compile(student(), trainset=target.train, valset=target.validation, source_prompts=prompts)
        return [(entry.origin, entry.instructions["self"]) for entry in made.detailed_results.target.history]

    def made(**settings: object) -> SourcePrompts:
        tp = optimiser(world, rounds=0, seed_instructions=seeds, **settings)
        return tp.construct_source_prompts(student(), source_tasks=sources)

    # Broken off before it had met anybody.
    broken = made(stop=[ScorerCalls(20)])
    assert not broken.phase.history
    assert [text for origin, text in first(broken, seed_instructions=seeds) if origin == "seed"] == seeds
    # After it had begun with all, and dropped some.
    begun = made(stop=[ScorerCalls(104)], source_examples=12)
    texts = {record.id: record.instructions["self"] for record in begun.phase.history}
    unfinished = {texts[id] for id in begun.phase.unfinished} - {"Answer."}
    carried = {record.instructions["self"] for record in begun.prompts} - {"Answer."}
    tried = {text for origin, text in first(begun, seed_instructions=seeds) if origin != "original"}
    assert unfinished - carried and tried == unfinished | carried
    assert {texts[id] for id in begun.phase.dropped} - tried, "judged, and not carried over"
    # A whole source phase has judged them: the best comes as a source prompt, and the other not at all.
    whole = made(racing=FullScoring(), top_k=1)
    again = first(whole, seed_instructions=seeds, top_k=1)
    assert sorted(origin for origin, _ in again) == ["original", "source"]
    own = Candidate({"self": "Answer."}, "original")
    assert begun.merge(whole).judged(own) == whole.merge(begun).judged(own), "in whatever order"
    # What one gives beside source prompts is tried, as they do not hold it.
    assert ("seed", "Answer precisely.") in first(whole, seed_instructions=["Answer precisely."], top_k=1)
    # Another LM may think otherwise of what this one dropped.
    other = whole.model_copy(update={"settings": {**whole.settings, "scorer_lm": "another"}})
    assert {*seeds} < {text for _, text in first(other, seed_instructions=seeds, top_k=1)}


def test_what_was_judged_on_other_tasks_only_is_not_judged() -> None:
    world = World(3)

    def made(name: str, seed: str) -> SourcePrompts:
        tp = optimiser(world, rounds=0, seed_instructions=["Answer calmly.", seed], racing=FullScoring())
        task = world.task(name, train=12, validation=12)
        task = Task(name, train=task.train, validation=task.validation, domain=name)
        return tp.construct_source_prompts(student(), source_tasks=[task])

    both = made("medicine", "Answer stepwise.").merge(made("law", "Answer precisely."))
    own = Candidate({"self": "Answer."}, "original")
    ids = {text: own.with_instruction("self", text).id for text in ("Answer stepwise.", "Answer precisely.")}
    assert both.judged(own) >= set(ids.values())
    assert ids["Answer stepwise."] not in both.filter(domains=["law"]).judged(own)
    assert ids["Answer precisely."] in both.filter(domains=["law"]).judged(own)


def test_what_earlier_optimisers_left_on_a_program_is_neither_copied_nor_counted() -> None:
    world = World(1)
    task = world.task("finance", train=8, validation=8)
    given = {"trainset": task.train, "valset": task.validation}
    bare, laden = student(), student()
    laden.candidate_programs = [{"score": 1.0, "program": student("Rival.")} for _ in range(6)]
    laden.trial_logs = {1: {"full_eval_program": student("Another.")}}
    assert optimiser(world).plan(laden, **given).words == optimiser(world).plan(bare, **given).words
    compiled = optimiser(world).compile(laden, **given)
    assert compiled.signature.instructions == optimiser(world).compile(bare, **given).signature.instructions
    assert not hasattr(compiled, "candidate_programs") and not hasattr(compiled, "trial_logs")
    assert len(laden.candidate_programs) == 6, "the student is as it was"


def test_the_programs_of_a_result_begin_with_the_winner_even_when_the_target_phase_was_cut_off() -> None:
    world = World(2)
    sources = [world.task(name, train=12, validation=12) for name in ("medicine", "law")]
    target = world.task("finance", train=12, validation=12)

    def interrupt(event: object) -> None:
        if event.kind == "phase" and event.phase == "target":
            raise KeyboardInterrupt

    program = student()
    compiled = optimiser(world, rounds=4, listeners=[interrupt]).compile(
        program, trainset=target.train, valset=target.validation, source_tasks=sources
    )
    best = compiled.detailed_results.programs(program, top_k=2)
    assert compiled.signature.instructions != "Answer."
    assert best[0].signature.instructions == compiled.signature.instructions
    assert len({one.signature.instructions for one in best}) == 2
