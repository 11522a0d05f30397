"""Candidates: what identifies them, what they change in a program, and how programs are matched."""

from __future__ import annotations

import threading
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs.benchmarks.scripted import scripted_lm
from tp_dspy.errors import ConfigurationError, ProgramError
from tp_dspy.optimization.candidates import Candidate, free_predictors, match_predictors
from tp_dspy.optimization.evidence import Belief


class Triage(dspy.Signature):
    """Sort the note."""

    note: str = dspy.InputField(desc="what the patient says")
    label: str = dspy.OutputField(desc="urgent or not")


class TwoSteps(dspy.Module):
    """Two free predictors and a frozen submodule, each with an LM of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.summary = dspy.Predict("note -> summary")
        self.triage = dspy.ChainOfThought(Triage)
        self.frozen = dspy.ChainOfThought("note -> language")
        self.frozen._compiled = True
        self.summary.lm = scripted_lm(lambda prompt: "x")
        self.frozen.predict.lm = scripted_lm(lambda prompt: "x")
        self.triage.predict.demos = [dspy.Example(note="cold", label="not").with_inputs("note")]

    def forward(self, note: str) -> Any:
        return self.triage(note=note)


@given(st.dictionaries(st.text(min_size=1), st.text(), min_size=1))
def test_the_id_is_the_content_whatever_the_order_and_the_origin(instructions: dict[str, str]) -> None:
    turned = dict(reversed(list(instructions.items())))
    first, second = Candidate(instructions), Candidate(turned, "proposal", Belief(0.5, 0.1), "parent")
    assert first.id == second.id and first == second and hash(first) == hash(second)
    assert Candidate({**instructions, "one more": ""}).id != first.id


def test_the_id_stays_what_saved_files_and_journals_say_it_is() -> None:
    assert Candidate({"b": "Zwei", "a": "Ünïcode"}).id == "7469921500cc8f33"
    assert (
        len({Candidate({"a": "1", "b": "2"}).id, Candidate({"a": "2", "b": "1"}).id, Candidate({"a": '1","b":"2'}).id})
        == 3
    )


def test_half_a_surrogate_pair_and_a_changed_mapping_do_no_harm() -> None:
    texts = {"self": "broken \ud83d"}
    candidate = Candidate(texts)
    texts["self"] = "other"
    assert candidate.instructions == {"self": "broken \ud83d"} and len(candidate.id) == 16


def test_applying_changes_the_copy_and_nothing_else() -> None:
    student = TwoSteps()
    state, written = student.dump_state(), Triage.instructions
    original = Candidate.of(student)
    assert set(original.instructions) == {"summary", "triage.predict"}

    applied = original.with_instruction("triage.predict", "Say urgent or not.").apply(student)

    assert applied.triage.predict.signature.instructions == "Say urgent or not."
    assert applied.summary.signature.instructions == student.summary.signature.instructions
    assert student.dump_state() == state and Triage.instructions == written == "Sort the note."
    assert Candidate.of(student) == original
    kept = applied.triage.predict
    assert [dict(demo) for demo in kept.demos] == [{"note": "cold", "label": "not"}]
    assert kept.demos is not student.triage.predict.demos
    assert kept.signature.input_fields["note"].json_schema_extra["desc"] == "what the patient says"
    assert applied.frozen._compiled and applied.frozen.predict.signature.equals(student.frozen.predict.signature)


def test_lms_are_shared_those_of_frozen_submodules_too() -> None:
    student = TwoSteps()
    applied = Candidate.of(student).apply(student)
    assert applied.summary.lm is student.summary.lm
    assert applied.frozen.predict.lm is student.frozen.predict.lm
    assert applied.triage.predict.lm is None


def test_lms_are_shared_where_the_program_holds_something_that_cannot_be_copied() -> None:
    student = TwoSteps()
    student.lock = threading.Lock()
    applied = Candidate.of(student).with_instruction("summary", "Be short.").apply(student)
    assert applied.lock is student.lock and applied.summary.signature.instructions == "Be short."
    assert applied.frozen.predict.lm is student.frozen.predict.lm and applied.summary.lm is student.summary.lm
    assert applied.triage.predict is not student.triage.predict


def test_a_program_that_is_compiled_itself_may_be_optimised_its_frozen_parts_may_not() -> None:
    student = TwoSteps()
    student._compiled = True
    assert [name for name, _ in free_predictors(student)] == ["summary", "triage.predict"]
    alone = dspy.Predict("a -> b")
    alone._compiled = True
    assert [name for name, _ in free_predictors(alone)] == ["self"]


def test_instructions_for_a_predictor_that_is_not_there_are_refused() -> None:
    with pytest.raises(ProgramError, match=r"\['nobody'\].*\['self'\].*mapping"):
        Candidate({"nobody": "x"}).apply(dspy.Predict("a -> b"))


def test_predictors_match_by_name_or_one_to_one_or_by_mapping() -> None:
    assert match_predictors(["self"], ["triage.predict"]) == {"self": "triage.predict"}
    assert match_predictors(["a", "b"], ["b", "a"]) == {"a": "a", "b": "b"}
    assert match_predictors(["a", "b"], ["a", "c"], {"b": "c"}) == {"a": "a", "b": "c"}
    assert match_predictors(["a", "b"], ["b", "c"], {"a": "b", "b": "c"}) == {"a": "b", "b": "c"}


@pytest.mark.parametrize(
    ("source", "target", "mapping"),
    [
        (["a", "b"], ["a", "c"], None),
        (["a"], ["b", "c"], None),
        (["a", "b"], ["b"], None),
        (["a", "x"], ["x"], {"a": "x"}),  # x itself would be lost without a word
    ],
)
def test_predictors_without_a_partner_are_named_with_both_sides(source: Any, target: Any, mapping: Any) -> None:
    with pytest.raises(ProgramError) as caught:
        match_predictors(source, target, mapping)
    assert str(source) in str(caught.value) and str(target) in str(caught.value) and "mapping" in str(caught.value)


def test_a_mapping_of_strangers_or_of_two_to_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"\['y', 'z'\]"):
        match_predictors(["a"], ["b"], {"y": "b", "a": "z"})
    with pytest.raises(ConfigurationError, match="more than one instruction"):
        match_predictors(["a", "b"], ["c"], {"a": "c", "b": "c"})
