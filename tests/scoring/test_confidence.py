"""Confidence: from the reply's logprobs, and from what the LM says of itself."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any, Literal

import dspy
import numpy as np
import pytest
from dspy.clients.call_result import attributes
from hypothesis import given
from hypothesis import strategies as st

from programs.benchmarks.scripted import PromptView, Reply, Token, answer_logprobs, certain, scripted_lm
from tp_dspy.lms.adapter import InstructionAdapter
from tp_dspy.scoring.confidence import (
    answer_probability,
    find_answer_span,
    prediction_logprobs,
    reply_text,
    sequence_probability,
    verbalized_confidence,
)

LETTERS = ("A", "B", "C", "D")


def logprobs(*tokens: Token) -> dict[str, Any]:
    """OpenAI's shape, as plain dicts."""
    return {
        "content": [
            {
                "token": token,
                "logprob": logprob,
                "bytes": list(token.encode()),
                "top_logprobs": [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in others.items()],
            }
            for token, logprob, others in tokens
        ]
    }


def probability(*tokens: Token, answer: str, allowed: Any = LETTERS, field: str = "answer") -> float | None:
    return answer_probability(logprobs(*tokens), field=field, answer=answer, allowed=allowed)


def as_objects(item: Any) -> Any:
    if isinstance(item, dict):
        return SimpleNamespace(**{key: as_objects(value) for key, value in item.items()})
    return [as_objects(value) for value in item] if isinstance(item, list) else item


# The reply and the place of the answer


def test_reply_text_gives_each_token_its_characters() -> None:
    assert reply_text(logprobs(*certain("Answer:", " B", ""))) == ("Answer: B", [(0, 7), (7, 9), (9, 9)])


def test_tokens_that_split_a_character_are_joined_by_their_bytes() -> None:
    halves = [{"token": "\ufffd", "bytes": [0xC3]}, {"token": "\ufffd", "bytes": [0xA9]}, {"token": "t", "bytes": None}]
    assert reply_text({"content": halves}) == ("ét", [(0, 0), (0, 1), (1, 2)])


@pytest.mark.parametrize("empty", [None, {}, {"content": None}, {"content": []}, SimpleNamespace(content=None)])
def test_no_tokens_no_text(empty: Any) -> None:
    assert reply_text(empty) == ("", [])
    assert answer_probability(empty, field="answer", answer="A", allowed=LETTERS) is None
    assert sequence_probability(empty, field="answer", answer="A") is None


@pytest.mark.parametrize(
    ("text", "answer", "before"),
    [
        ("B", "B", ""),
        (" b. Heart", "B", " "),
        ("Answer: B", "B", "Answer: "),
        ("**Answer:** (B) Heart", "B", "**Answer:** ("),
        ("Reasoning: B is a bone.\nAnswer: B", "B", "Reasoning: B is a bone.\nAnswer: "),
        ("B\nAnswer: B", "B", ""),
        ("Final verdict: yes", "yes", "Final verdict: "),
        (
            "[[ ## reasoning ## ]]\nB?\n\n[[ ## answer ## ]]\nB\n",
            "B",
            "[[ ## reasoning ## ]]\nB?\n\n[[ ## answer ## ]]\n",
        ),
        ("[[ ## answer ## ]]\nB\n[[ ## answer ## ]]\nB", "B", "[[ ## answer ## ]]\n"),
        (
            '{"reasoning": "say \\"answer\\": B", "answer": "B"}',
            "B",
            '{"reasoning": "say \\"answer\\": B", "answer": "',
        ),
        ('{"answer": "B", "answer": "B"}', "B", '{"answer": "B", "answer": "'),
        ('{"answer": "B", "meta": {"answer": "A"}}', "B", '{"answer": "'),
        ('{"answer": true}', "True", '{"answer": '),
        ('{"answer": "say \\"hé\\"\\n"}', 'say "hé"\n', '{"answer": "'),
        ("Yes, because", "True", ""),
        ("[1, 2]", "[1, 2]", ""),
    ],
)
def test_the_answer_is_found_where_the_adapters_read_it(text: str, answer: str, before: str) -> None:
    span = find_answer_span(text, "answer", answer)
    assert span is not None and text[: span[0]] == before


@pytest.mark.parametrize(
    "text", ["", "Because", "The answer is B", "[[ ## other ## ]]\nB", '{"other": "B"}', "Question: B?\nA"]
)
def test_an_answer_elsewhere_is_not_found(text: str) -> None:
    assert find_answer_span(text, "answer", "B") is None


def test_fields_of_several_words_are_found_by_name_and_label() -> None:
    for header in ("final_verdict: ", "Final verdict: ", "FINAL VERDICT: "):
        for field in ("final_verdict", "finalVerdict", "Final verdict"):
            assert find_answer_span(f"Why: x\n{header}no", field, "no") == (7 + len(header), 9 + len(header))


# The probability of an answer among the allowed ones


def test_probability_is_normalised_over_the_allowed_answers() -> None:
    tokens = answer_logprobs("B", {"B": 0.6, "A": 0.2, "The": 0.2})
    assert probability(*tokens, answer="B") == pytest.approx(0.75)


def test_spellings_of_one_answer_add_up() -> None:
    tokens = answer_logprobs("yes", {"yes": 0.3, "Yes": 0.2, " yes": 0.1, "Y": 0.1, "no": 0.2, "NO": 0.1})
    assert probability(*tokens, answer="yes", allowed=["yes", "no"]) == pytest.approx(0.7)


def test_an_answer_in_another_case_counts() -> None:
    assert probability(*answer_logprobs("YES", {"YES": 0.5, "no": 0.5}), answer="yes", allowed=["Yes", "No"]) == 0.5


def test_a_shared_first_token_is_decided_by_the_next() -> None:
    """The token "ne" may become neutral or negative; "pos" left the road one step earlier."""
    tokens = [
        *answer_logprobs("ne", {"ne": 0.8, "pos": 0.2}),
        *answer_logprobs("utral", {"utral": 0.75, "gative": 0.25}),
    ]
    allowed = ["positive", "negative", "neutral"]
    assert probability(*tokens, answer="neutral", allowed=allowed) == pytest.approx(0.8 * 0.75)


def test_spellings_of_a_shared_first_token_add_up_before_the_next_decides() -> None:
    tokens = [
        *answer_logprobs("ne", {"ne": 0.4, " Ne": 0.4, "pos": 0.2}),
        *answer_logprobs("utral", {"utral": 0.75, "gative": 0.25}),
    ]
    allowed = ["positive", "negative", "neutral"]
    assert probability(*tokens, answer="neutral", allowed=allowed) == pytest.approx(0.8 * 0.75)


def test_an_undecided_alternative_is_left_out() -> None:
    tokens = answer_logprobs("pos", {"pos": 0.4, "ne": 0.4, "neg": 0.1, "neut": 0.1})
    allowed = ["positive", "negative", "neutral"]
    assert probability(*tokens, answer="pos", allowed=allowed) is None
    assert probability(*tokens, *certain("itive"), answer="positive", allowed=allowed) == pytest.approx(0.4 / 0.6)


def test_an_answer_that_begins_another_is_decided_by_what_follows() -> None:
    allowed = ["no", "not stated"]
    first = answer_logprobs("no", {"no": 0.9, "not": 0.1})
    follows = answer_logprobs("\n", {"\n": 0.6, ".": 0.2, "t": 0.2})
    assert probability(*first, *follows, answer="no", allowed=allowed) == pytest.approx((0.9 * 0.8) / (0.9 + 0.1))
    assert probability(*first, answer="no", allowed=allowed) == pytest.approx(0.9)


@pytest.mark.parametrize("wrapper", [' "', "**", "(", ": "])
def test_a_token_may_hold_marker_and_answer(wrapper: str) -> None:
    tokens = [
        *certain("Answer" if wrapper == ": " else ""),
        *answer_logprobs(f"{wrapper}B", {f"{wrapper}B": 0.6, f"{wrapper}A": 0.3, "A": 0.1}),
    ]
    assert probability(*tokens, answer="B") == pytest.approx(0.6)


def test_only_the_tokens_that_decide_count() -> None:
    """What comes after a decided answer, and what stands before it, is no doubt about it."""
    doubt = answer_logprobs(" so", {" so": 0.1, " A": 0.9})
    tokens = [*doubt, ("\n", -5.0, {}), *certain("Answer: "), *answer_logprobs("B", {"B": 0.7, "C": 0.3}), *doubt]
    assert probability(*tokens, answer="B") == pytest.approx(0.7)


def test_answers_that_are_not_shown_get_the_most_they_can_have_had() -> None:
    """An LM on its way to say something else is not certain of the letter it ends up with."""
    off = answer_logprobs("B", {"B": 0.12, "The": 0.3, "It": 0.2, "I": 0.02})  # 0.36 is not shown
    assert probability(*off, answer="B") == pytest.approx(0.12 / (0.12 + 3 * 0.02))
    crowded = answer_logprobs("B", {"B": 0.5, "The": 0.46})  # 0.04 is not shown, for A, C and D together
    assert probability(*crowded, answer="B") == pytest.approx(0.5 / 0.54)
    sure = answer_logprobs("B", {"B": 0.999, "C": 0.0008, "The": 0.0001})
    assert probability(*sure, answer="B") == pytest.approx(0.999, abs=3e-4)
    alone = [("B", math.log(0.7), {})]  # No alternatives are shown at all.
    assert probability(*alone, answer="B") == pytest.approx(0.7)
    # An answer that goes the same way as the one given is decided by a later token.
    several = [*answer_logprobs("very", {"very": 1.0}), *answer_logprobs(" good", {" good": 0.6, " bad": 0.4})]
    assert probability(*several, answer="very good", allowed=["very good", "very bad"]) == pytest.approx(0.6)


def test_true_and_false_may_be_said_as_yes_and_no() -> None:
    tokens = answer_logprobs("Yes", {"Yes": 0.6, "No": 0.2, "False": 0.1, "True": 0.1})
    assert probability(*tokens, answer="True", allowed=["True", "False"]) == pytest.approx(0.7)


def test_an_answer_whose_first_character_is_split_over_tokens() -> None:
    yes, no = "是".encode(), "否".encode()
    content = [
        {
            "token": "?",
            "bytes": list(yes[:2]),
            "logprob": math.log(0.6),
            "top_logprobs": [{"token": "否", "bytes": list(no), "logprob": math.log(0.4)}],
        },
        {"token": "?", "bytes": list(yes[2:]), "logprob": 0.0, "top_logprobs": []},
    ]
    found = answer_probability({"content": content}, field="answer", answer="是", allowed=["是", "否"])
    assert found == pytest.approx(0.6)


def test_none_when_there_is_nothing_to_measure() -> None:
    tokens = answer_logprobs("B", {"B": 1.0})
    assert probability(*tokens, answer="C") is None, "another answer than the reply's"
    assert probability(*tokens, answer="B", allowed=["yes", "no"]) is None, "not an allowed answer"
    impossible = {"content": [{"token": "B", "logprob": None, "bytes": None, "top_logprobs": None}]}
    assert answer_probability(impossible, field="answer", answer="B", allowed=LETTERS) is None


@pytest.mark.parametrize("shape", [lambda item: item, as_objects, attributes])
def test_dicts_and_objects_are_the_same(shape: Any) -> None:
    shaped = shape(logprobs(*answer_logprobs("B", {"B": 0.6, "A": 0.4})))
    assert answer_probability(shaped, field="answer", answer="B", allowed=LETTERS) == pytest.approx(0.6)
    assert sequence_probability(shaped, field="answer", answer="B") == pytest.approx(0.6)


weights = st.floats(0.001, 1.0)


@given(st.fixed_dictionaries({**dict.fromkeys(LETTERS, weights), "The": weights, " a": weights, "b.": weights}))
def test_single_token_answers_sum_to_one(raw: dict[str, float]) -> None:
    total = sum(raw.values())
    shares = {token: weight / total for token, weight in raw.items()}
    found = [probability(*answer_logprobs(letter, shares), answer=letter) for letter in LETTERS]
    assert all(share is not None and 0.0 <= share <= 1.0 for share in found)
    assert sum(share or 0.0 for share in found) == pytest.approx(1.0)


TEXTS = st.sampled_from(["A", "B", " ", "yes", "no", "not", "ye", "s", '"', "Answer:", "\n", "{", "[[ ## answer ## ]]"])
TOKENS = st.tuples(TEXTS, st.floats(-20, 0), st.dictionaries(TEXTS, st.floats(-20, 0), max_size=4))


@given(st.lists(TOKENS, max_size=8), st.sampled_from(["A", "yes", "no", "not"]))
def test_any_reply_gives_a_probability_or_nothing(tokens: list[Token], answer: str) -> None:
    found = probability(*tokens, answer=answer, allowed=["A", "B", "yes", "no", "not"])
    assert found is None or 0.0 <= found <= 1.0
    length_normalised = sequence_probability(logprobs(*tokens), field="answer", answer=answer)
    assert length_normalised is None or 0.0 <= length_normalised <= 1.0


# The probability of a free-text answer


def test_sequence_probability_is_the_geometric_mean_over_the_answers_tokens() -> None:
    tokens = [("Answer:", -9.0, {}), (" New", math.log(0.5), {}), (" York", math.log(0.125), {}), ("\nWhy:", -9.0, {})]
    found = sequence_probability(logprobs(*tokens), field="answer", answer="New York")
    assert found == pytest.approx(0.25)
    assert sequence_probability(logprobs(*tokens), field="answer", answer="Boston") is None


# All adapters


def spelled(prompt: PromptView) -> Reply:
    """Answer in the form that the prompt asks for, always with the same doubt."""
    if "JSON object" in prompt.text:
        before, after = ('{"reasoning"', ": ", '"Because A."', ', "answer": "'), '"}'
    elif "[[ ## " in prompt.text:
        before, after = ("[[ ## reasoning ## ]]\nBecause A.\n\n", "[[ ## answer ## ]]\n"), "\n\n[[ ## completed ## ]]"
    else:
        before, after = ("Reasoning", ":", " Because A.\n", "Answer:", " "), "\n"
    decision = answer_logprobs("B", {"B": 0.5, "A": 0.2, "b": 0.1, "E": 0.2})
    return Reply.of(*certain(*before), *decision, *certain(after))


@pytest.mark.parametrize(
    "adapter",
    [InstructionAdapter(), dspy.ChatAdapter(use_json_adapter_fallback=False), dspy.JSONAdapter()],
    ids=lambda adapter: type(adapter).__name__,
)
@pytest.mark.parametrize("cached", [False, True])
def test_the_same_doubt_gives_the_same_confidence_under_every_adapter(adapter: Any, cached: bool) -> None:
    class Letter(dspy.Signature):
        """Answer with a letter."""

        question: str = dspy.InputField()
        answer: Literal["A", "B", "C", "D"] = dspy.OutputField()

    lm = scripted_lm(spelled, cache=cached, logprobs=True, top_logprobs=5)
    with dspy.context(lm=lm, adapter=adapter):
        program = dspy.ChainOfThought(Letter)
        prediction = [program(question="Which?") for _ in range(2)][-1]
    assert lm.scripted.calls == (1 if cached else 2)
    found = answer_probability(
        prediction_logprobs(prediction), field="answer", answer=prediction.answer, allowed=LETTERS
    )
    assert found == pytest.approx(0.6 / 0.8)


def test_prediction_logprobs_are_none_where_the_lm_gave_none() -> None:
    with dspy.context(lm=scripted_lm(lambda prompt: "B"), adapter=InstructionAdapter()):
        assert prediction_logprobs(dspy.Predict("question -> answer")(question="Which?")) is None
    assert prediction_logprobs(dspy.Prediction(answer="B", logprobs={"content": []})) is None
    assert prediction_logprobs(dspy.Prediction(answer="B", logprobs=None)) is None


# What the LM says of itself


@pytest.mark.parametrize(
    ("value", "confidence"),
    [
        (0.8, 0.8),
        (1, 1.0),
        (np.float32(0.5), 0.5),
        ("0.8", 0.8),
        (".8", 0.8),
        ("80%", 0.8),
        ("80 percent", 0.8),
        ("80 per cent sure", 0.8),
        ("100%", 1.0),
        ("0,8", 0.8),
        ("~0.8", 0.8),
        ("Confidence: 0.8", 0.8),
        ("**Confidence (0-1):** 0.8", 0.8),
        ("Confidence (0-1) 0.8", 0.8),
        ("0.8 (high)", 0.8),
        ("0.95.", 0.95),
        ("8/10", 0.8),
        ("1 out of 10", 0.1),
        ("I am 90% sure", 0.9),
        ("1e-2", 0.01),
    ],
)
def test_verbalized_confidence_is_read_leniently(value: Any, confidence: float) -> None:
    assert verbalized_confidence(value) == pytest.approx(confidence)


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        None,
        "",
        "high",
        80,
        "80",
        "1.2",
        "120%",
        -0.1,
        "-0.5",
        math.nan,
        "nan",
        "GPT4",
        "3rd",
        "0.8x",
        "1/0",
        [0.8],
    ],
)
def test_what_is_no_confidence_is_none(value: Any) -> None:
    assert verbalized_confidence(value) is None


@given(st.one_of(st.text(max_size=30), st.floats(), st.integers()))
def test_any_value_gives_a_confidence_or_nothing(value: Any) -> None:
    found = verbalized_confidence(value)
    assert found is None or 0.0 <= found <= 1.0


@given(st.integers(0, 100))
def test_percentages_and_shares_agree(percent: int) -> None:
    assert verbalized_confidence(f"{percent}%") == pytest.approx(verbalized_confidence(json.dumps(percent / 100)))
