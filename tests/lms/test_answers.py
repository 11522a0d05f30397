"""Which answer a text gives, and when two answers are the same."""

from __future__ import annotations

import enum
from typing import Literal, Optional

import pytest
from dspy.experimental import Choice, Noul, Score
from hypothesis import given, settings
from hypothesis import strategies as st

from tp_dspy.lms.answers import (
    as_text,
    bare,
    choices_of_type,
    holds_nothing_else,
    listed_choices,
    read_choice,
    same_answer,
)

LETTERS = ["A", "B", "C", "D"]
MIXED = ["neutral", "very positive", "3.5", "no", "A"]


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


@pytest.mark.parametrize("text", ["B", " b ", "(B)", "**B**.", '"B"', "`b`:", "[[B]]", "(b).", "B.)"])
def test_a_wrapped_choice_is_that_choice_exactly(text):
    assert read_choice(text, LETTERS) == ("B", True)


@pytest.mark.parametrize("text", ["B. Heart", "B) Heart", "B, because it beats", "B is right", "B\nIt beats."])
def test_a_reply_may_go_on_after_its_choice(text):
    assert read_choice(text, LETTERS) == ("B", False)


@pytest.mark.parametrize("text", ["A heart attack", "Because of B", "E", "", "...", "Beating", "B-cells", "B's", "C#"])
def test_a_word_that_only_begins_like_a_choice_is_none(text):
    assert read_choice(text, LETTERS) == (None, False)


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("A, B, C or D", LETTERS),
        ("A/B/C/D", LETTERS),
        ("B or C", LETTERS),
        ("**A** | **B**", LETTERS),
        ("Yes or No", ["Yes", "No"]),
        ("yes/no", ["Yes", "No"]),
    ],
)
def test_repeating_the_options_is_no_answer(text, choices):
    assert read_choice(text, choices) == (None, False)


def test_a_comma_after_a_word_does_not_start_a_list_of_options():
    assert read_choice("Yes, no doubt", ["Yes", "No"]) == ("Yes", False)


def test_the_longer_of_two_choices_is_meant():
    assert read_choice("not hearsay, because", ["not hearsay", "not"]) == ("not hearsay", False)


@pytest.mark.parametrize("text", ["1.5", "1/2", "1,000", "12", "1-2"])
def test_another_number_is_not_the_choice_it_begins_with(text):
    assert read_choice(text, ["1", "2"]) == (None, False)


def test_nothing_is_not_a_choice_made_of_marks():
    assert read_choice("", ["<", ">"]) == (None, False)
    assert read_choice(">", ["<", ">"]) == (">", True)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4))
def test_what_is_read_is_always_one_of_the_choices(text, choices):
    choice, exact = read_choice(text, choices)
    assert choice is None or choice in choices
    assert choice is not None or not exact


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MIXED), st.sampled_from(["{}", "({})", "**{}**", "'{}'."]))
def test_every_choice_is_read_back_from_its_wrappings(choice, wrapping):
    assert read_choice(wrapping.format(choice), MIXED) == (choice, True)
    assert bare(wrapping.format(choice)) == choice.casefold()


@pytest.mark.parametrize(
    ("given_answer", "expected"),
    [
        ("the heart", "Heart."),
        ("1,234.50", "$1234.5"),
        ("50 %", "50"),
        ("5.0", "5"),
        ("1e3", "1000"),
        ("−5", "-5"),  # noqa: RUF001
        ("-5 °C", "minus 5 °C"),
        ("“Paris”", "paris"),
        ("COVID-19", "covid 19"),
        ("a", "A"),
        ("A.", "A"),
        ("1,5", "1.5"),
    ],
)
def test_spellings_of_one_answer_are_the_same(given_answer, expected):
    assert same_answer(given_answer, expected)
    assert same_answer(expected, given_answer)


@pytest.mark.parametrize(
    ("given_answer", "expected"),
    [
        ("1,5", "15"),
        ("1,2,3", "123"),
        ("-$5", "5"),
        ("-5 °C", "5 °C"),
        ("+", "-"),
        ("A", "B"),
        ("A", "The"),
        ("1.0001", "1"),
        ("", "x"),
    ],
)
def test_different_answers_differ(given_answer, expected):
    assert not same_answer(given_answer, expected)
    assert not same_answer(expected, given_answer)


@pytest.mark.parametrize(
    ("annotation", "choices"),
    [
        (Literal["yes", "no"], ("yes", "no")),
        (Literal[1, 2], ("1", "2")),
        (Literal["A", "B"] | None, ("A", "B")),
        (Optional[Colour], ("red", "green")),  # noqa: UP045
        (bool, ("True", "False")),
        (str, None),
        (int | str, None),
        (list[str], None),
    ],
)
def test_closed_types_list_their_answers(annotation, choices):
    assert choices_of_type(annotation) == choices


@pytest.mark.parametrize("choices", ["ABCD", {"A": 1}, [], ["A", " "], None, 3])
def test_what_is_no_list_of_answers_is_refused(choices):
    with pytest.raises(ValueError, match="expected a list of the allowed answers"):
        listed_choices(choices)


@pytest.mark.parametrize(
    ("reply", "answer", "alone"),
    [
        ("B", "B", True),
        ("Answer: B", "B", True),
        ("B. Heart", "B", False),
        ("The ratio is: 3:1", "The ratio is: 3:1", True),
        ("Ratio: 3:1", "3:1", True),
        ("Answer: B\nConfidence: 0.8", "B", True),
        ("Sure! Here you are\nAnswer: B\nConfidence: 0.8", "B", False),
        ("Answer: B\nConfidence: 0.8\nI hope this helps", "B", False),
        ("[[ ## answer ## ]]\nB\n\n[[ ## completed ## ]]", "B", True),
        ("Well: [[ ## answer ## ]]\nB\n\n[[ ## completed ## ]]", "B", False),
        ("[[ ## answer ## ]]\nB", "B", False),
        ('{"answer": "B"}', "B", True),
        ('{"answer": "B"} I think', "B", False),
        (None, "B", True),
        ("", "B", False),
    ],
)
def test_nothing_may_stand_around_a_strict_reply(reply, answer, alone):
    assert holds_nothing_else(reply, answer) is alone


def test_dspys_decisions_are_read_by_their_value() -> None:
    kind, rubric = Choice[("billing", "money"), ("technical", "bugs")], Score["poor", "fair", "good"]
    assert choices_of_type(Noul) == choices_of_type(Noul[(True, "blocked"), (False, "fine")]) == ("True", "False")
    assert choices_of_type(kind) == ("billing", "technical")
    assert choices_of_type(rubric) == ("0", "1", "2")
    assert as_text(Noul(value=True, confidence=0.4, probability=0.7)) == "True"
    assert as_text(kind(value="technical", confidence=0.5)) == "technical"
    assert as_text(rubric(value=1.6, confidence=0.5, level=2)) == "2"
