"""The word-level difference gives both texts back, reads well, and takes no long time whatever the texts."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tp_dspy.report.words import difference

TEXTS = st.text(st.sampled_from("ab .\n,é\u200b"), max_size=60) | st.text(max_size=40)


@given(TEXTS, TEXTS)
def test_both_texts_come_back(before: str, after: str) -> None:
    pieces = difference(before, after)
    assert "".join(text for op, text in pieces if op != "insert") == before
    assert "".join(text for op, text in pieces if op != "delete") == after
    assert all(text for _, text in pieces)
    assert all(one[0] != other[0] for one, other in pairwise(pieces)), "neighbours of a kind are one piece"
    assert ("insert", "delete") not in {(one[0], other[0]) for one, other in pairwise(pieces)}


@given(TEXTS)
def test_equal_texts_do_not_differ(text: str) -> None:
    assert difference(text, text) == ([("equal", text)] if text else [])


def test_only_the_words_that_changed_are_marked() -> None:
    assert difference("Answer the question.", "Answer the hard question!") == [
        ("equal", "Answer the "),
        ("insert", "hard "),
        ("equal", "question"),
        ("delete", "."),
        ("insert", "!"),
    ]
    assert difference("one two", "one") == [("equal", "one"), ("delete", " two")]


def test_words_that_changed_in_a_row_are_one_change() -> None:
    assert difference("Say yes or no.", "Say A or B.") == [
        ("equal", "Say "),
        ("delete", "yes"),
        ("insert", "A"),
        ("equal", " or "),
        ("delete", "no"),
        ("insert", "B"),
        ("equal", "."),
    ]
    assert difference("the old dog", "the new cat") == [("equal", "the "), ("delete", "old dog"), ("insert", "new cat")]


@pytest.mark.parametrize("vocabulary", [2, 50, 99, 150, 1000, 10_000])
@pytest.mark.parametrize("sentences", [False, True])
def test_texts_of_ten_thousand_words_take_a_second_or_so(vocabulary: int, sentences: bool) -> None:
    rng = random.Random(vocabulary)
    words = [f"w{n}" for n in range(vocabulary)]
    before = [rng.choice(words) + ("." if sentences and n % 12 == 0 else "") for n in range(10_000)]
    other = [rng.choice(words) for _ in before]
    edited = [word if rng.random() < 0.9 else "new" for word in before]
    for after in (other, edited):
        began = time.process_time()
        pieces = difference(" ".join(before), " ".join(after))
        # A slow machine took 1.3 s.
        assert time.process_time() - began < 4.0
        assert "".join(text for op, text in pieces if op != "delete") == " ".join(after)


def test_a_few_edits_in_a_long_text_are_found_one_by_one() -> None:
    before = [f"w{n}" for n in range(10_000)]
    after = [*before[:3000], "added", *before[3000:7000], *before[7001:]]
    pieces = difference(" ".join(before), " ".join(after))
    assert [text.strip() for op, text in pieces if op != "equal"] == ["added", before[7000]]
