"""The first population: who is in it, in what order, and what the general instructions must not say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Candidate
from tp_dspy.optimization.population import GENERAL_INSTRUCTIONS, first_population, general_instructions

ORIGINAL = Candidate({"draft": "Draft it.", "answer": "Answer it."})
# Words by which an instruction would be about one task rather than about form, care and role.
TASK_WORDS = r"medic|patient|clinic|legal|law|financ|market|sentiment|hearsay|multiple|option|math|\byes\b|\b[BCD]\b"


def texts(population: list[Candidate]) -> list[str]:
    return [candidate.instructions["answer"] for candidate in population]


def test_general_instructions_are_about_form_care_and_role_and_never_about_a_task() -> None:
    for text in general_instructions(None):
        assert not re.search(TASK_WORDS, text, re.IGNORECASE), text
        assert "{" not in text and text.strip() == text and len(text) < 120
    about = " ".join(GENERAL_INSTRUCTIONS).lower()
    assert "form" in about and "careful" in about and "expert" in about


def test_answers_are_named_where_they_are_known() -> None:
    assert general_instructions(()) == general_instructions(None) == list(GENERAL_INSTRUCTIONS)
    named = general_instructions(["yes", "no", "{maybe}"])[len(GENERAL_INSTRUCTIONS) :]
    assert named == [
        "Answer yes, no or {maybe}.",
        "Reply with one of these answers and nothing else: yes, no or {maybe}.",
    ]
    assert "Answer yes." in general_instructions(["yes"])


def test_the_original_is_first_then_the_users_seeds_then_the_general_ones() -> None:
    population = first_population(ORIGINAL, "answer", ["Mine."], ("A", "B"))
    assert population[0] is ORIGINAL
    assert [c.origin for c in population] == ["original", "seed"] + ["general"] * len(general_instructions(["A", "B"]))
    assert texts(population)[1] == "Mine." and "Answer A or B." in texts(population)
    assert {c.instructions["draft"] for c in population} == {"Draft it."}


def test_seeds_may_be_texts_by_predictor() -> None:
    _, seed, *_ = first_population(ORIGINAL, "answer", [{"draft": "Think.", "answer": "Say."}], None)
    assert dict(seed.instructions) == {"draft": "Think.", "answer": "Say."}


def test_an_empty_list_turns_the_general_ones_off_and_none_does_not() -> None:
    assert first_population(ORIGINAL, "answer", [], ("A", "B")) == [ORIGINAL]
    assert texts(first_population(ORIGINAL, "answer", None, None)) == ["Answer it.", *GENERAL_INSTRUCTIONS]


def test_what_is_there_twice_is_scored_once_and_the_original_stays_the_original() -> None:
    population = first_population(ORIGINAL, "answer", ["Answer it.", "Mine.", "Mine.", GENERAL_INSTRUCTIONS[0]], None)
    assert len(set(population)) == len(population)
    assert [c.origin for c in population][:3] == ["original", "seed", "seed"]


@pytest.mark.parametrize(
    "seeds",
    [["  "], [""], [{}], [{"nobody": "x"}], [{"answer": ""}], [{"answer": None}], [5], [None], "a text", {"a", "b"}, 7],
)
def test_seeds_that_cannot_work_are_shown_with_what_was_expected(seeds: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"seed_instructions .* expected"):
        first_population(ORIGINAL, "answer", seeds, None)
