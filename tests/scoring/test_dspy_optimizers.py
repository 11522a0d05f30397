"""The objective as the metric of DSPy's own optimisers: each is run for real, and only the LMs are scripted."""

from __future__ import annotations

import itertools
import json
import logging
import re
import statistics
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import dspy
import pytest
from dspy.teleprompt import BootstrapFewShotWithOptuna, InferRules, KNNFewShot
from dspy.utils.exceptions import AdapterParseError

from programs.benchmarks.scripted import PromptView, Reply, answer_logprobs, certain, scripted_lm
from tp_dspy import ObjectiveEvaluator, TransferPrompting

Kind = Literal["none", "verbalized", "logits", "typed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PARITY = ("even", "odd")

BAD = "Answer."
USELESS = "Answer with feeling."
GOOD = "Go step by step, then name the parity."


def examples(numbers: Sequence[int]) -> list[dspy.Example]:
    return [
        dspy.Example(question=f"Which parity has {n}?", answer=PARITY[n % 2]).with_inputs("question") for n in numbers
    ]


TRAIN, HELD_OUT = examples(range(8)), examples(range(8, 16))


class World:
    """An LM that is right once it is told to go step by step, or shown how; and one that proposes instructions.

    Otherwise it takes half of the odd numbers for even ones and hedges about the other half. Some luck comes with
    temperature 1: every other reply to a question is right.

    Attributes:
        kind: Where confidence comes from; ``typed`` has none, and there a hedging reply cannot be parsed. Otherwise it
            is an answer that is no choice.
        proposals: The instructions that the prompt LM proposes, one after another.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.proposals: Iterator[str] = itertools.cycle([USELESS, GOOD])
        asked = {"logprobs": True, "top_logprobs": 5} if kind == "logits" else {}
        self.lm = scripted_lm(self._answer, **asked)
        self.prompt_lm = scripted_lm(self._propose)
        self.tosses: Counter[int] = Counter()
        self.lock = threading.Lock()
        confidence = kind if kind in ("verbalized", "logits") else None
        self.objective = ObjectiveEvaluator(confidence=confidence, choices=PARITY)
        dspy.configure(lm=self.lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False))

    def program(self, instruction: str = BAD) -> dspy.Predict:
        """A program with a signature class of its own: some optimisers write into the class."""
        fields = {"question": (str, dspy.InputField()), "answer": (str, dspy.OutputField())}
        if self.kind == "typed":
            fields["answer"] = (Literal[PARITY], dspy.OutputField())
        if self.kind == "verbalized":
            fields["confidence"] = (float, dspy.OutputField())
        return dspy.Predict(dspy.Signature(fields, instruction))

    def _answer(self, prompt: PromptView) -> Reply:
        number = int(re.findall(r"parity has (\d+)", prompt.user)[-1])
        taught = "step" in prompt.system or any(role == "assistant" for role, _ in prompt.messages)
        if prompt.config.temperature == 1.0:
            with self.lock:
                self.tosses[number] += 1
            taught = taught or self.tosses[number] % 2 == 0
        said = PARITY[number % 2] if taught else "It depends" if number % 4 == 3 else "even"
        tokens = answer_logprobs(said, {said: 0.9, "neither": 0.1})
        if said in PARITY:
            tokens = answer_logprobs(said, {"even": 0.1, "odd": 0.1, said: 0.9})
        end = "\n\n[[ ## confidence ## ]]\n0.9" if self.kind == "verbalized" else "\n\n[[ ## completed ## ]]"
        return Reply.of(*certain("[[ ## answer ## ]]\n"), *tokens, *certain(end))

    def _propose(self, prompt: PromptView) -> str:
        asks = ("<INS>", "new_instruction", "proposed_instruction", "module_advice", "natural_language_rules")
        text = next(self.proposals) if any(ask in prompt.text for ask in asks) else "Numbers."
        if "<INS>" in prompt.text:
            return f"<INS>{text}</INS>"
        if "new_instruction" in prompt.text:
            return json.dumps({"new_instruction": text})
        names = ["observations", "summary", "program_description", "module_description", "discussion", "reasoning"]
        names += ["proposed_instruction", "proposed_prefix_for_output_field", "natural_language_rules"]
        replies = {**dict.fromkeys(names, text), "module_advice": json.dumps({"self": text})}
        return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in replies.items())

    # The truth: the metric on one prediction after another, with none of DSPy's machinery around it.

    def predict(self, program: dspy.Module, example: dspy.Example) -> dspy.Prediction:
        try:
            return program(**example.inputs())
        except AdapterParseError:
            return dspy.Prediction()

    def feedback(self, program: dspy.Module, example: dspy.Example) -> str:
        return self.objective(example, self.predict(program, example)).feedback

    def true_score(self, program: dspy.Module, on: Sequence[dspy.Example] = TRAIN) -> float:
        return statistics.mean(self.objective(e, self.predict(program, e)).score for e in on)

    def true_percent(self, program: dspy.Module, on: Sequence[dspy.Example] = TRAIN) -> float:
        return pytest.approx(100 * self.true_score(program, on), abs=0.006)  # Evaluate rounds to two places

    def check_better(self, program: dspy.Module) -> None:
        """It is right on examples that no optimiser saw, as the original is not."""
        before = self.objective.evaluate(self.program(), HELD_OUT, num_threads=2)
        after = self.objective.evaluate(program, HELD_OUT, num_threads=2)
        assert (before.metrics.accuracy, before.metrics.ifr) == (0.5, 0.75)
        assert (after.metrics.accuracy, after.metrics.ifr) == (1.0, 1.0)
        assert after.metrics.score > before.metrics.score + 0.2


def in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def prompts(lm: dspy.LM) -> list[PromptView]:
    """What the LM was sent, in order."""
    return [call.prompt for call in lm.scripted.log]


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def has_right_demos(program: dspy.Predict) -> bool:
    return bool(program.demos) and all(is_right(demo["question"], demo["answer"]) for demo in program.demos)


def is_right(question: str, answer: str) -> bool:
    return answer == PARITY[int(re.search(r"\d+", question)[0]) % 2]


# Evaluate.

# Of eight, four are right, two wrong and two no answer at all. Followed counts 0.2, right 0.4 (0.8 without confidence),
# and what is left, 0.4, is 1 - (confidence - right)^2, with a confidence of 0.9.
RIGHT, WRONG = 0.6 + 0.4 * 0.99, 0.2 + 0.4 * 0.19
SCORES = {"none": (1.0, 0.2), "typed": (1.0, 0.2), "verbalized": (RIGHT, WRONG), "logits": (RIGHT, WRONG)}


def test_evaluate_averages_it(world: World) -> None:
    evaluate = dspy.Evaluate(devset=TRAIN, metric=world.objective, num_threads=2)
    right, wrong = SCORES[world.kind]
    result = evaluate(world.program())
    assert [float(score) for *_, score in result.results] == pytest.approx([right, wrong, right, 0.0] * 2)
    assert result.score == pytest.approx(100 * (4 * right + 2 * wrong) / 8, abs=0.006)
    assert evaluate(world.program(GOOD)).score == pytest.approx(100 * right)


def test_an_lm_without_logprobs_is_scored_without_calibration(caplog: pytest.LogCaptureFixture) -> None:
    world = World("logits")
    dspy.configure(lm=scripted_lm(world._answer))
    optimizer = dspy.COPRO(prompt_model=world.prompt_lm, metric=world.objective, breadth=2, depth=2)
    compiled = optimizer.compile(world.program(), trainset=TRAIN, eval_kwargs={"num_threads": 1})
    scores = {c["instruction"]: c["score"] for c in compiled.candidate_programs}
    assert scores == {BAD: 55.0, USELESS: 55.0, GOOD: 100.0}
    assert compiled.signature.instructions == GOOD
    assert len([r for r in caplog.records if r.name.startswith("tp_dspy") and r.levelno == logging.WARNING]) == 1
    optimizer = dspy.BootstrapFewShot(metric=world.objective, max_labeled_demos=0)
    assert has_right_demos(optimizer.compile(world.program(), trainset=TRAIN))


# Demos.


@pytest.mark.parametrize("threshold", [None, 0.9])
def test_bootstrapping_keeps_only_what_was_followed_and_right(world: World, threshold: float | None) -> None:
    optimizer = dspy.BootstrapFewShot(
        metric=world.objective, metric_threshold=threshold, max_bootstrapped_demos=8, max_labeled_demos=0
    )
    compiled = optimizer.compile(world.program(), trainset=TRAIN)
    assert [demo.question for demo in compiled.demos] == [e.question for e in TRAIN[::2]]
    assert has_right_demos(compiled)
    world.check_better(compiled)


def test_bootstrapping_tries_again_until_one_is_right(world: World) -> None:
    optimizer = dspy.BootstrapFewShot(
        metric=world.objective, max_bootstrapped_demos=8, max_labeled_demos=0, max_rounds=3
    )
    compiled = optimizer.compile(world.program(), trainset=TRAIN)
    assert len(compiled.demos) == len(TRAIN)
    assert has_right_demos(compiled)


def test_random_search_finds_demos(world: World) -> None:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=world.objective,
        max_bootstrapped_demos=2,
        max_labeled_demos=0,
        num_candidate_programs=1,
        num_threads=2,
    )
    compiled = optimizer.compile(world.program(), trainset=TRAIN, valset=HELD_OUT)
    tried = {candidate["seed"]: candidate for candidate in compiled.candidate_programs}
    assert set(tried) == {-3, -2, -1, 0}
    for candidate in tried.values():
        assert candidate["score"] == world.true_percent(candidate["program"], HELD_OUT)
    assert compiled.candidate_programs[0]["score"] > tried[-3]["score"]
    assert has_right_demos(compiled)
    world.check_better(compiled)


def test_optuna_picks_a_demo(world: World) -> None:
    optimizer = BootstrapFewShotWithOptuna(
        metric=world.objective, max_labeled_demos=0, num_candidate_programs=2, num_threads=2
    )
    compiled = optimizer.compile(world.program(), max_demos=2, trainset=TRAIN)
    assert has_right_demos(compiled)
    world.check_better(compiled)


def test_nearest_neighbours_become_demos_where_they_are_right(world: World) -> None:
    def embed(texts: list[str]) -> list[list[float]]:
        return [[1.0, float(re.search(r"\d+", text)[0])] for text in texts]

    optimizer = KNNFewShot(3, TRAIN, vectorizer=dspy.Embedder(embed), metric=world.objective, max_labeled_demos=0)
    compiled = optimizer.compile(world.program())
    world.check_better(compiled)
    shown = [prompt.messages for prompt in prompts(world.lm) if len(prompt.messages) > 1]
    assert len(shown) >= len(HELD_OUT)
    for messages in shown:
        for (_, question), (_, reply) in zip(messages[:-1:2], messages[1:-1:2], strict=True):
            assert is_right(question, re.search(r"answer ## \]\]\s+(\w+)", reply)[1])


# Instructions.


def test_copro_finds_the_good_instruction(world: World) -> None:
    optimizer = dspy.COPRO(prompt_model=world.prompt_lm, metric=world.objective, breadth=2, depth=2)
    compiled = optimizer.compile(world.program(), trainset=TRAIN, eval_kwargs={"num_threads": 2})
    scores = {c["instruction"]: c["score"] for c in compiled.candidate_programs}
    assert set(scores) == {BAD, USELESS, GOOD}
    for candidate in compiled.candidate_programs:
        assert candidate["score"] == world.true_percent(candidate["program"])
    assert scores[GOOD] > scores[BAD] > 0
    attempts = world.prompt_lm.scripted.log[-1].prompt.text
    assert f"Score #1: {scores[BAD]}" in attempts, "what it tells its prompt LM"
    assert compiled.signature.instructions == GOOD
    world.check_better(compiled)


def test_infer_rules_adds_rules(world: World) -> None:
    world.proposals = itertools.repeat(GOOD)
    optimizer = InferRules(
        num_candidates=1, num_threads=2, metric=world.objective, max_bootstrapped_demos=0, max_labeled_demos=0
    )
    optimizer.rules_induction_program.teacher_settings = {"lm": world.prompt_lm}
    compiled = optimizer.compile(world.program(), trainset=TRAIN, valset=HELD_OUT)
    assert compiled.signature.instructions.startswith(BAD) and compiled.signature.instructions.endswith(GOOD)
    assert not compiled.demos
    assert optimizer.evaluate_program(compiled, HELD_OUT) == world.true_percent(compiled, HELD_OUT)
    world.check_better(compiled)


@pytest.mark.parametrize("minibatch", [False, True])
def test_mipro_finds_the_good_instruction(world: World, minibatch: bool) -> None:
    optimizer = dspy.MIPROv2(
        metric=world.objective,
        prompt_model=world.prompt_lm,
        auto=None,
        num_candidates=3,
        num_threads=2,
        max_bootstrapped_demos=0,
        max_labeled_demos=0,
    )
    compiled = optimizer.compile(
        world.program(), trainset=TRAIN, valset=HELD_OUT, num_trials=6, minibatch=minibatch, minibatch_size=4
    )
    full = [trial for trial in compiled.trial_logs.values() if "full_eval_score" in trial]
    assert len(full) >= 2
    for trial in full:
        assert trial["full_eval_score"] == world.true_percent(trial["full_eval_program"], HELD_OUT)
    partial = [trial for trial in compiled.trial_logs.values() if "mb_score" in trial]
    assert bool(partial) == minibatch
    for trial in partial:
        # The good instruction is as good on one half of the examples as on another.
        good = trial["mb_program"].signature.instructions == GOOD
        assert trial["mb_score"] == world.true_percent(world.program(GOOD)) if good else trial["mb_score"] > 0
    assert compiled.score == world.true_percent(compiled, HELD_OUT)
    assert compiled.score > full[0]["full_eval_score"] > 0
    assert compiled.signature.instructions == GOOD
    assert not compiled.demos
    world.check_better(compiled)


def test_mipro_finds_demos(world: World) -> None:
    world.proposals = itertools.repeat(USELESS)
    optimizer = dspy.MIPROv2(
        metric=world.objective,
        prompt_model=world.prompt_lm,
        auto=None,
        num_candidates=3,
        num_threads=2,
        max_bootstrapped_demos=2,
        max_labeled_demos=0,
    )
    compiled = optimizer.compile(world.program(), trainset=TRAIN, valset=HELD_OUT, num_trials=4, minibatch=False)
    for trial in compiled.trial_logs.values():
        assert trial["full_eval_score"] == world.true_percent(trial["full_eval_program"], HELD_OUT)
    assert has_right_demos(compiled)
    world.check_better(compiled)


@pytest.mark.parametrize("max_demos", [0, 2])
def test_simba_learns_from_what_went_well_and_what_did_not(
    world: World, max_demos: int, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = dspy.SIMBA(
        metric=world.objective,
        prompt_model=world.prompt_lm,
        bsize=4,
        num_candidates=2,
        max_steps=2,
        max_demos=max_demos,
        num_threads=2,
    )
    world.proposals = itertools.repeat(USELESS if max_demos else GOOD)
    compiled = optimizer.compile(world.program(), trainset=TRAIN)
    # It swallows what the program raises, and gives the metric None for a prediction; and what the metric raises.
    logged = [record for record in caplog.records if record.levelno >= logging.WARNING]
    swallowed = [record.getMessage() for record in logged if record.name == "dspy.teleprompt.simba_utils"]
    assert [text for text in swallowed if "Adapter ChatAdapter failed to parse" not in text] == []
    assert bool(swallowed) == (world.kind == "typed")
    for candidate in compiled.candidate_programs:
        assert candidate["score"] == pytest.approx(world.true_score(candidate["program"]))
    scores = [candidate["score"] for candidate in compiled.candidate_programs]
    assert scores[0] > world.true_score(world.program()) > 0
    world.check_better(compiled)
    if max_demos:
        assert has_right_demos(compiled)
        return
    assert GOOD in compiled.signature.instructions
    told = prompts(world.prompt_lm)[0].text
    number = int(re.search(r"parity has (\d+)", told)[1])
    assert in_json(world.feedback(world.program(), TRAIN[number])) in told
    assert in_json(world.feedback(world.program(GOOD), TRAIN[number])) in told


# GEPA.


def objectives(world: World, program: dspy.Module, on: Sequence[dspy.Example]) -> dict[str, float]:
    """The mean of each objective, over the examples whose replies could be parsed, as GEPA takes it."""
    predictions = [(e, world.predict(program, e)) for e in on]
    judged = [world.objective(e, p).objective_scores for e, p in predictions if "answer" in p]
    return {name: statistics.mean(scores[name] for scores in judged) for name in judged[0]}


@pytest.mark.parametrize("frontier", ["instance", "objective", "hybrid", "cartesian"])
def test_gepa_reads_the_feedback_and_keeps_a_frontier(
    world: World, frontier: str, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = dspy.GEPA(
        metric=world.objective,
        reflection_lm=world.prompt_lm,
        max_metric_calls=40,
        num_threads=2,
        track_stats=True,
        gepa_kwargs={"frontier_type": frontier},
    )
    compiled = optimizer.compile(world.program(), trainset=TRAIN, valset=HELD_OUT)
    record = compiled.detailed_results
    assert [c.signature.instructions for c in record.candidates] == [BAD, GOOD]
    assert record.val_aggregate_scores == pytest.approx([world.true_score(c, HELD_OUT) for c in record.candidates])
    for candidate, scores in zip(record.candidates, record.val_aggregate_subscores, strict=True):
        assert scores == pytest.approx(objectives(world, candidate, HELD_OUT))
        assert set(scores) >= {"ifr", "accuracy", *(["calibration"] if world.objective.confidence else [])}
    before, after = record.val_aggregate_subscores
    assert after["accuracy"] == 1.0 > before["accuracy"]
    assert record.per_objective_best_candidates["accuracy"] == {1}
    assert not [r for r in caplog.records if "different from the overall metric score" in r.getMessage()]
    # The first reflection is on the original: what the metric says of each of its replies is there, in words.
    reflection = prompts(world.prompt_lm)[0].text
    shown = [TRAIN[int(number)] for number in dict.fromkeys(re.findall(r"parity has (\d+)", reflection))]
    wrong = [e for e in shown if world.predict(world.program(), e).get("answer") != e.answer]
    assert wrong
    assert len(shown) == 3 or world.kind == "typed", "it does not reflect on what could not be parsed"
    for example in wrong:
        feedback = world.feedback(world.program(), example)
        assert example.answer in feedback and world.predict(world.program(), example).answer in feedback
    for example in shown:
        assert in_json(world.feedback(world.program(), example)) in reflection
    assert compiled.signature.instructions == GOOD
    world.check_better(compiled)


# BetterTogether.


@pytest.mark.parametrize("strategy", ["transfer -> demos", "demos -> transfer", "copro -> demos", "gepa -> demos"])
def test_better_together_chains_steps(world: World, strategy: str) -> None:
    metric, lms = world.objective, {"reference_lm": world.prompt_lm, "scorer_lm": world.lm}
    optimizer = dspy.BetterTogether(
        metric,
        demos=dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=2, max_labeled_demos=0),
        copro=dspy.COPRO(prompt_model=world.prompt_lm, metric=metric, breadth=2, depth=2),
        gepa=dspy.GEPA(metric=metric, reflection_lm=world.prompt_lm, max_metric_calls=40, num_threads=2),
        transfer=TransferPrompting(
            metric, **lms, rounds=1, proposals=2, examples=8, seed_instructions=[], verbose=False
        ),
    )
    program = world.program()
    program.set_lm(world.lm)
    compiled = optimizer.compile(
        program,
        trainset=TRAIN,
        valset=HELD_OUT,
        num_threads=2,
        seed=0,
        strategy=strategy,
        optimizer_compile_args={"copro": {"eval_kwargs": {"num_threads": 2}}},
    )
    assert not compiled.flag_compilation_error_occurred
    tried = {candidate["strategy"]: candidate for candidate in compiled.candidate_programs}
    first = strategy.split(" -> ")[0]
    assert set(tried) == {"", first, strategy}
    for candidate in tried.values():
        assert candidate["score"] == world.true_percent(candidate["program"], HELD_OUT)
    assert tried[first]["score"] > tried[""]["score"] > 0
    assert tried[strategy]["score"] == tried[first]["score"]
    # What the first step found is there after the second.
    for made in (tried[first]["program"], tried[strategy]["program"]):
        assert has_right_demos(made) if first == "demos" else made.signature.instructions == GOOD
    assert has_right_demos(tried[strategy]["program"])
    world.check_better(compiled)
