"""The reference prompt, word for word."""

from __future__ import annotations

import re

import dspy
import pytest

from tests.optimization.test_reference import BRIEF, ITEMS, PROMPT, proposer, scored
from tp_dspy.optimization.phases import reference_prompts
from tp_dspy.optimization.reference_prompt import AdvicePrompt, ReferencePrompt, TaskBrief
from tp_dspy.scoring.outcomes import Outcome

GOLDEN = """\
A language model is given an instruction, followed by one item, and must answer the item. You improve the instruction.

The items:
- questions about drugs. Allowed answers: yes, no.
- legal items.

Scores of instructions on other tasks, from 0 to 100, worst first:

Instruction: Say it.
Score: 0

Some items with the right answer; the instruction goes where <INS> stands:

<INS>

Question: Does drug kappa help against disease kappa?
Answer: yes

Instructions tried so far with their scores, from 0 to 100, worst first:

Instruction: Bad.
Score: 7

Instruction: Good.
Score: 100

Where the best of them failed:

- Item: Does drug lambda help against disease lambda?
  Reply: 'It depends.'; expected: yes

Earlier replies could not be used: it is empty; it is an item, not an instruction.

Write one new instruction, different from those above, that will score higher. It must hold for every item and mention \
none of them. Say what to do, what each answer means, and in what form to reply.

Write only the instruction, between <INS> and </INS>."""


def test_the_prompt_word_for_word() -> None:
    prompt = ReferencePrompt((BRIEF, TaskBrief("law", "", "legal", None, ())), ("answer",))
    failure = (ITEMS[1], Outcome("unparsed", reply="It depends."))
    built = prompt.build(
        [("Bad.", 0.071), ("Good.", 1.04)],
        ITEMS[:1],
        [failure],
        prior=[("Say it.", -0.2)],  # a spread penalty can push a score below 0
        rejected=["it is empty", "it is empty", "it is an item, not an instruction"],
    )
    assert built == GOLDEN


ADVICE = """\
Questions of this kind:
- questions about drugs. Allowed answers: yes, no.

Step one.

Some of them with the right answers:
- Does drug kappa help against disease kappa? -> yes
- Does drug lambda help against disease lambda? -> yes

Earlier replies could not be used: it is empty.

How does one find the right answer? Explain it in one or two general sentences.

Write only these sentences, between <INS> and </INS>."""


def test_the_prompt_for_advice_word_for_word() -> None:
    prompt = AdvicePrompt((BRIEF,), ("answer",), step="Step one.")
    failures = [(item, Outcome("unparsed", reply="It depends.")) for item in ITEMS[:2]]
    assert prompt.build([("Bad.", 0.071)], ITEMS[:1], failures, rejected=["it is empty"] * 2) == ADVICE
    bare = AdvicePrompt((BRIEF,), ("answer",)).build([("Bad.", 0.071)], [])
    assert "right answers:" not in bare and bare.startswith("Questions of this kind:\n- questions about drugs.")


def test_items_without_an_expected_answer_are_not_shown_with_one() -> None:
    free = dspy.Example(question="Write on rain.").with_inputs("question")
    prompt = AdvicePrompt((BRIEF,), ("answer",))
    assert "rain" not in prompt.build([], [free]) and "right answers" not in prompt.build([], [free])
    assert "kappa? -> yes\n\nHow" in prompt.build([], [ITEMS[0], free])


def test_a_long_field_is_cut_and_the_question_beside_it_is_not() -> None:
    asked = "Who found penicillin?"
    long = dspy.Example(context="Lorem ipsum " * 100, question=asked, answer="Fleming").with_inputs(
        "context", "question"
    )
    (line,) = [line for line in AdvicePrompt((BRIEF,), ("answer",)).build([], [long]).splitlines() if "->" in line]
    assert line.startswith("- Lorem ipsum") and line.endswith(f" ... {asked} -> Fleming") and 300 < len(line) <= 340
    failure = PROMPT.failure(long, Outcome("unparsed", reply="?"))
    assert f"{asked}\n" in failure
    many = dspy.Example({f"f{i}": "x" * 100 for i in range(40)}, answer="y").with_inputs(*(f"f{i}" for i in range(40)))
    assert len(AdvicePrompt((BRIEF,), ("answer",)).build([], [many])) < 1200


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("For questions of this kind, weigh what is told of the trial.", None),
        ("How does one find the right answer?", "it repeats the request"),
        ("Write only these sentences.", "it repeats the request"),
        ("Explain it in one or two general sentences.", "it repeats the request"),
        ("Some of them with the right answers: yes and no.", "it repeats the request"),
    ],
)
def test_what_is_asked_for_may_come_back_and_the_request_not(reply: str, reason: str | None) -> None:
    asked = proposer(lambda prompt: reply, prompts={"self": [AdvicePrompt((BRIEF,), ("answer",))]}, threads=1)
    found = asked.propose([scored("Answer.", 0.5)], 1)[0]
    assert found.reason == reason


def test_advice_is_for_predictors_that_write_an_answer() -> None:
    program = dspy.Module()
    program.rewrite = dspy.Predict("question -> query")
    program.decide = dspy.Predict("query -> answer")
    made = reference_prompts(program, ["rewrite", "decide"], [BRIEF], ["answer"], (AdvicePrompt, ReferencePrompt))
    assert {name: [type(one) for one in prompts] for name, prompts in made.items()} == {
        "rewrite": [ReferencePrompt],
        "decide": [AdvicePrompt, ReferencePrompt],
    }
    alone = reference_prompts(program, ["rewrite"], [BRIEF], ["answer"], (AdvicePrompt,))
    assert [type(one) for one in alone["rewrite"]] == [AdvicePrompt], "as one wishes"


def test_the_mark_stands_once_in_every_exemplar_and_otherwise_only_where_it_is_asked_for() -> None:
    for position in ("before", "start", "end", "answer"):
        prompt = ReferencePrompt((BRIEF,), ("answer",), position)
        exemplars = [prompt.exemplar(item) for item in ITEMS[:3]]
        assert all(text.count("<INS>") == 1 and text.endswith("yes") for text in exemplars)
        assert prompt.build([("A b.", 0.5)], ITEMS[:3]).count("<INS>") == 3 + 2
    assert PROMPT.build([("A b.", 0.5)], ()).count("<INS>") == 1


def test_scores_are_whole_numbers_worst_first() -> None:
    built = PROMPT.build([(f"Way {i}.", i / 7) for i in range(8)], ())
    shown = re.findall(r"Score: (.*)", built)
    assert shown == ["0", "14", "29", "43", "57", "71", "86", "100"]


def test_the_size_stays_bounded_and_the_best_stay_in() -> None:
    long = dspy.Example(question="word " * 5000, answer="yes " * 900).with_inputs("question")
    history = [(f"Instruction {i}: " + "detail " * 100, i / 200) for i in range(200)]
    failures = [(long, Outcome("ok", reply="reply " * 1000))] * 3
    built = PROMPT.build(history, [long] * 3, failures, prior=history)
    assert len(built) < 20_000
    assert "Instruction 199:" in built and "Instruction 150:" not in built
    # The best is shown however long it is: it is what is to be improved.
    assert "x" * 9000 in PROMPT.build([("Bad.", 0.1), ("x" * 9000, 0.9)], ())


def test_what_changes_between_rounds_comes_after_what_does_not() -> None:
    prior = [("Say it.", 0.3)]
    first = PROMPT.build([("Bad.", 0.1)], ITEMS[:2], prior=prior)
    second = PROMPT.build([("Bad.", 0.1), ("Good.", 0.5)], ITEMS[2:4], prior=prior)
    shared = first[: next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)]
    assert all(part in shared for part in ("You improve the instruction.", "Allowed answers", "Say it.\nScore: 30"))


def test_a_source_prompt_that_was_tried_here_stands_in_the_history_once_with_both_scores() -> None:
    built = PROMPT.build([("Bad.", 0.1), ("Carried.", 0.59)], [], prior=[("Lost.", 0.3), ("Carried.", 0.44)])
    assert built.count("Carried.") == 1
    assert "Instruction: Carried.\nScore: 59 (on other tasks: 44)" in built
    assert "on other tasks, from 0 to 100, worst first:\n\nInstruction: Lost.\nScore: 30\n" in built
