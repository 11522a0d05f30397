"""InstructionAdapter: what the LM is shown, and what is read from its reply."""

from __future__ import annotations

import asyncio
import enum
import json
from pathlib import Path
from typing import Any, Literal

import dspy
import pydantic
import pytest
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given
from hypothesis import strategies as st

from programs.benchmarks.scripted import PromptView, ScriptedEngine, scripted_lm
from tp_dspy.errors import ConfigurationError
from tp_dspy.lms.adapter import InstructionAdapter

QA = dspy.Signature("question -> answer", "Answer with one letter.")
NOTE = dspy.Signature("patient_note, question -> answer, confidence: float", "Read the note.")


class Organ(enum.Enum):
    HEART = "heart"
    LUNG = "lung"


class Dose(pydantic.BaseModel):
    drug: str
    mg: int


def rendered(signature: Any, position: Any = "start", demos: Any = (), **inputs: Any) -> list[tuple[str, str]]:
    messages = InstructionAdapter(position).format(signature, list(demos), inputs)
    return [(message["role"], message["content"]) for message in messages]


def answer_of(kind: Any) -> Any:
    return dspy.Signature({"question": (str, dspy.InputField()), "answer": (kind, dspy.OutputField())}, "Answer.")


def read(kind: Any, reply: str) -> Any:
    return InstructionAdapter().parse(answer_of(kind), reply)["answer"]


# What the LM is shown


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("before", [("system", "Answer with one letter."), ("user", "Question: 1+1?\nA. 2\nAnswer:")]),
        ("start", [("user", "Answer with one letter.\n\nQuestion: 1+1?\nA. 2\nAnswer:")]),
        ("end", [("user", "Question: 1+1?\nA. 2\n\nAnswer with one letter.\nAnswer:")]),
        ("answer", [("user", "Question: 1+1?\nA. 2\nAnswer: Answer with one letter.")]),
    ],
)
def test_the_instruction_stands_where_the_position_says(position: str, expected: list[tuple[str, str]]) -> None:
    assert rendered(QA, position, question="1+1?\nA. 2") == expected


@pytest.mark.parametrize("position", ["before", "start", "end", "answer"])
def test_an_empty_instruction_leaves_nothing_behind(position: str) -> None:
    assert rendered(QA.with_instructions(" "), position, question="1+1?") == [("user", "Question: 1+1?\nAnswer:")]


REQUEST = "Reply with one line per field:\nAnswer: ...\nConfidence: a number"
INPUTS = "Patient note: Fever.\nQuestion: Flu?"


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("before", [("system", "Read the note."), ("user", f"{INPUTS}\n\n{REQUEST}")]),
        ("start", [("user", f"Read the note.\n\n{INPUTS}\n\n{REQUEST}")]),
        ("end", [("user", f"{INPUTS}\n\nRead the note.\n\n{REQUEST}")]),
        ("answer", [("user", f"{INPUTS}\n\n{REQUEST}\n\nRead the note.")]),
    ],
)
def test_several_outputs_are_asked_for_line_by_line(position: str, expected: list[tuple[str, str]]) -> None:
    assert rendered(NOTE, position, patient_note="Fever.", question="Flu?") == expected


def test_hints_come_from_the_description_and_the_type() -> None:
    class Rich(dspy.Signature):
        """Do it."""

        text: str = dspy.InputField()
        organ: Organ = dspy.OutputField(desc="where it is")
        verdict: Literal["yes", "no"] | None = dspy.OutputField()
        certain: bool = dspy.OutputField()
        days: int = dspy.OutputField()
        why: str = dspy.OutputField(desc="one sentence")

    (_, user), *_ = rendered(Rich, text="x")
    assert user.splitlines()[-5:] == [
        "Organ: where it is (heart or lung)",
        "Verdict: yes or no",
        "Certain: True or False",
        "Days: a whole number",
        "Why: one sentence",
    ]


def test_a_single_output_that_is_written_as_json_shows_its_schema() -> None:
    (_, user), *_ = rendered(answer_of(list[Dose]), question="Which?")
    request, label = user.splitlines()[-2:]
    assert request.startswith("Reply with JSON of this schema: {") and '"mg"' in request
    assert label == "Answer:"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_labels_are_names_in_words_or_the_users_own_prefix() -> None:
    class Labels(dspy.Signature):
        """Go."""

        patient_note: str = dspy.InputField()
        ECGReport: str = dspy.InputField()
        q: str = dspy.InputField(prefix="The question:")
        verdict: str = dspy.OutputField(prefix="Final verdict:")

    (_, user), *_ = rendered(Labels, patient_note="a", ECGReport="b", q="c")
    assert user == "Go.\n\nPatient note: a\nECG report: b\nThe question: c\nFinal verdict:"


@pytest.mark.parametrize("blank", [None, "", "  \n", []])
def test_blank_inputs_are_skipped(blank: Any) -> None:
    signature = dspy.Signature("context: list[str], question -> answer", "Go.")
    assert rendered(signature, context=blank, question="Flu?") == [("user", "Go.\n\nQuestion: Flu?\nAnswer:")]


@pytest.mark.parametrize(
    ("position", "first", "last"),
    [
        ("before", "Question: a\nAnswer:", "Question: z\nAnswer:"),
        ("start", "Question: a\nAnswer:", "Answer with one letter.\n\nQuestion: z\nAnswer:"),
        ("end", "Question: a\nAnswer:", "Question: z\n\nAnswer with one letter.\nAnswer:"),
        ("answer", "Question: a\nAnswer:", "Question: z\nAnswer: Answer with one letter."),
    ],
)
def test_demos_are_turns_and_the_instruction_is_shown_once(position: str, first: str, last: str) -> None:
    messages = rendered(QA, position, demos=[{"question": "a", "answer": "B"}], question="z")
    system = [("system", "Answer with one letter.")] if position == "before" else []
    assert messages == [*system, ("user", first), ("assistant", "B"), ("user", last)]


def test_demos_without_inputs_or_outputs_are_left_out() -> None:
    demos = [{"question": "a"}, {"answer": "B"}, {"question": "c", "answer": None}]
    assert rendered(QA, demos=demos, question="z") == rendered(QA, question="z")


def test_a_demo_that_lacks_one_of_several_outputs_keeps_its_form() -> None:
    """LabeledFewShot gives ChainOfThought demos without reasoning."""
    signature = dspy.ChainOfThought(QA).predict.signature
    _, (_, reply), _ = rendered(signature, demos=[{"question": "a", "answer": "B"}], question="z")
    assert reply == "Reasoning: Not supplied for this example.\nAnswer: B"


def test_history_turns_come_before_the_question_without_the_instruction() -> None:
    signature = dspy.Signature("history: dspy.History, question -> answer", "Be brief.")
    history = dspy.History(messages=[{"question": "a", "answer": "one"}, {"question": "b", "answer": "two"}])
    assert rendered(signature, history=history, question="c") == [
        ("user", "Question: a\nAnswer:"),
        ("assistant", "one"),
        ("user", "Question: b\nAnswer:"),
        ("assistant", "two"),
        ("user", "Be brief.\n\nQuestion: c\nAnswer:"),
    ]


def test_history_keeps_demos_complete() -> None:
    signature = dspy.Signature("history: dspy.History, question -> answer", "Be brief.")
    messages = rendered(signature, demos=[{"question": "a", "answer": "B"}], question="z")
    assert messages[:2] == [("user", "Question: a\nAnswer:"), ("assistant", "B")]


def test_images_stay_content_blocks() -> None:
    signature = dspy.Signature("image: dspy.Image, question -> answer", "Look.")
    image = dspy.Image("data:image/png;base64,iVBORw0KGgo=")
    (message,) = InstructionAdapter().format(signature, [], {"image": image, "question": "What?"})
    assert [block["type"] for block in message["content"]] == ["text", "image_url", "text"]


def test_a_position_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'middle'; expected one of 'before', 'start', 'end', 'answer'"):
        InstructionAdapter("middle")  # type: ignore[arg-type]


# What is read from the reply

LETTER = Literal["A", "B", "C"]


@pytest.mark.parametrize(
    ("kind", "reply", "value"),
    [
        (str, "  Answer: Paris \n", "Paris"),
        (str, "**Answer:** Paris", "Paris"),
        (str, "answer:\n\nFirst.\n\nSecond.", "First.\n\nSecond."),
        (str, "The answer: Paris", "The answer: Paris"),
        (str, '"Paris"', '"Paris"'),
        (str | None, "None", "None"),
        (LETTER, "B", "B"),
        (LETTER, "b", "B"),
        (LETTER, "Answer: B", "B"),
        (LETTER, "**B**.", "B"),
        (LETTER, "'[B]'", "B"),
        (LETTER, "B. Heart", "B"),
        (LETTER, "(B) Heart", "B"),
        (LETTER, "B\nbecause of the aorta", "B"),
        (LETTER, "A is correct.", "A"),
        (LETTER | None, "none", None),
        (Literal["yes", "no"], "No, because", "no"),
        (Literal["no", "not stated"], "Not stated.", "not stated"),
        (Literal["no", "not stated"], "Not stated in the note", "not stated"),
        (Literal["a", "A"], "A", "A"),
        (Literal[1, 2, 3], "2. Lung", 2),
        (Literal["C", "C++"], "C++ of course", "C++"),
        (Organ, "Lung", Organ.LUNG),
        (Organ, "HEART, since", Organ.HEART),
        (bool, "true", True),
        (bool, "No, because", False),
        (float, "0.8", 0.8),
        (float, "80%", 0.8),
        (float, "80 percent", 0.8),
        (float, "0,8", 0.8),
        (float, "~ 0.8 (high)", 0.8),
        (float, "**1e-3**", 0.001),
        (float, "-3", -3.0),
        (float | None, "null", None),
        (int, "3 apples", 3),
        (int, "1,234,567.", 1234567),
        (int, "3.0", 3),
        (int, "12345678901234567891", 12345678901234567891),
        (list[str], '```json\n["a", "b"]\n```', ["a", "b"]),
        (Dose, '{"drug": "x", "mg": 5}', Dose(drug="x", mg=5)),
        (dict[str, int], '{"x": 1}', {"x": 1}),
    ],
)
def test_one_output_is_read_leniently(kind: Any, reply: str, value: Any) -> None:
    parsed = read(kind, reply)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        (str, "   "),
        (str, "Answer:"),
        (LETTER, "D"),
        (LETTER, "Because"),
        (LETTER, "A heart attack"),
        (LETTER, "The answer is B"),
        (Literal["smoker", "non"], "non-smoker"),
        (bool, "maybe"),
        (Organ, "liver"),
        (float, "high"),
        (float, "nan"),
        (float, "3rd"),
        (float, "8/10"),
        (float, "1-2"),
        (float, "1e999"),
        (int, "3.5"),
        (int, "2024-05-01"),
        (list[int], "none of them"),
        (Dose, '{"drug": "x"}'),
    ],
)
def test_what_cannot_be_read_is_a_parse_error(kind: Any, reply: str) -> None:
    with pytest.raises(AdapterParseError):
        read(kind, reply)


@pytest.mark.parametrize(
    "reply",
    [
        "Answer: B\nConfidence: 0.8",
        "**Answer:** B\n**Confidence:** 80%",
        "- answer : B\n- confidence: 0.8 (fairly sure)",
        "Confidence: 0.8\nAnswer: B",
        "Sure!\nANSWER: B\n\nCONFIDENCE: 0.8\n\nAnswer: C",
    ],
)
def test_several_outputs_are_read_by_their_labels(reply: str) -> None:
    assert InstructionAdapter().parse(NOTE, reply) == {"answer": "B", "confidence": 0.8}


def test_a_value_runs_to_the_next_label() -> None:
    signature = dspy.Signature("question -> step_by_step, answer: Literal['A', 'B']")
    reply = "Step by step: First.\n\nThen: second.\nAnswer: B. Lung"
    assert InstructionAdapter().parse(signature, reply) == {"step_by_step": "First.\n\nThen: second.", "answer": "B"}
    assert InstructionAdapter().parse(signature, "step_by_step: x\nanswer: a")["answer"] == "A"


def test_a_missing_field_takes_its_default_or_is_a_parse_error() -> None:
    class Optional(dspy.Signature):
        question: str = dspy.InputField()
        answer: str = dspy.OutputField()
        source: str = dspy.OutputField(default="unknown")
        page: int | None = dspy.OutputField()

    parsed = InstructionAdapter().parse(Optional, "Answer: B")
    assert parsed == {"answer": "B", "source": "unknown", "page": None}
    with pytest.raises(AdapterParseError, match="InstructionAdapter failed to parse"):
        InstructionAdapter().parse(Optional, "Source: a book")


def test_a_parse_error_names_field_reply_and_options() -> None:
    with pytest.raises(AdapterParseError, match=r"Field answer cannot be read from 'D': expected one of A, B, C"):
        read(LETTER, "D")


PIECES = st.sampled_from(
    ["Answer:", "answer", "Confidence: ", "confİdence:", "**", "\n", "B", "0.8", "80%", "{", "1,000", "-"]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=5))).map("".join))
def test_any_reply_is_read_or_refused(reply: str) -> None:
    for signature in (NOTE, answer_of(LETTER), answer_of(float), answer_of(bool), answer_of(str)):
        try:
            values = InstructionAdapter().parse(signature, reply)
        except AdapterParseError:
            continue
        assert values.keys() == signature.output_fields.keys()


@given(st.lists(st.sampled_from(["A", "B", "C"]), min_size=1, max_size=3))
def test_what_a_demo_shows_can_be_read_back(letters: list[str]) -> None:
    signature = dspy.Signature({"question": (str, dspy.InputField())}, "Go.")
    for index in range(len(letters)):
        signature = signature.append(f"part_{index}", dspy.OutputField(), LETTER)
    outputs = {f"part_{index}": letter for index, letter in enumerate(letters)}
    adapter = InstructionAdapter()
    assert adapter.parse(signature, adapter.format_assistant_message_content(signature, outputs)) == outputs


# Inside DSPy


def solver(prompt: PromptView) -> str:
    return "B. Heart" if "pumps" in prompt.user else "no idea"


def test_predict_runs_on_it_sync_and_async() -> None:
    lm = scripted_lm(solver)
    predict = dspy.Predict(answer_of(LETTER))
    with dspy.context(lm=lm, adapter=InstructionAdapter("before")):
        assert predict(question="What pumps?").answer == "B"
        assert asyncio.run(predict.acall(question="What pumps?")).answer == "B"
    assert [call.prompt.system for call in lm.scripted.log] == ["Answer."] * 2
    assert lm.scripted.log[0].prompt.messages == (("user", "Question: What pumps?\nAnswer:"),)


def test_a_reply_that_cannot_be_read_costs_one_call() -> None:
    lm = scripted_lm(solver)
    with dspy.context(lm=lm, adapter=InstructionAdapter()), pytest.raises(AdapterParseError):
        dspy.Predict(answer_of(LETTER))(question="Who?")
    assert lm.scripted.calls == 1


def test_an_empty_reply_is_a_parse_error() -> None:
    with (
        dspy.context(lm=scripted_lm(lambda prompt: ""), adapter=InstructionAdapter()),
        pytest.raises(AdapterParseError),
    ):
        dspy.Predict(QA)(question="Who?")


def test_chain_of_thought_works() -> None:
    lm = scripted_lm(lambda prompt: "Reasoning: It beats.\nIt pumps.\nAnswer: B")
    with dspy.context(lm=lm, adapter=InstructionAdapter()):
        prediction = dspy.ChainOfThought(answer_of(LETTER))(question="What pumps?")
    assert (prediction.reasoning, prediction.answer) == ("It beats.\nIt pumps.", "B")


def test_callbacks_see_format_and_parse_once() -> None:
    seen: list[str] = []

    class Spy(BaseCallback):
        def on_adapter_format_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
            seen.append(f"format {len(outputs)}")

        def on_adapter_parse_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
            seen.append(f"parse {outputs}")

    adapter = InstructionAdapter("before", callbacks=[Spy()])
    with dspy.context(lm=scripted_lm(solver), adapter=adapter):
        dspy.Predict(QA)(question="What pumps?")
    assert seen == ["format 2", "parse {'answer': 'B. Heart'}"]


def test_saved_programs_do_not_depend_on_the_adapter(tmp_path: Path) -> None:
    program = dspy.ChainOfThought(QA.with_instructions("Answer briefly."))
    program.predict.demos = [dspy.Example(question="a", reasoning="r", answer="B")]
    states = []
    for adapter in (InstructionAdapter("answer"), dspy.ChatAdapter()):
        path = tmp_path / f"{type(adapter).__name__}.json"
        with dspy.context(adapter=adapter):
            program.save(path)
        states.append(json.loads(path.read_text()))
        loaded = dspy.ChainOfThought(QA)
        loaded.load(path)
        lm = scripted_lm(lambda prompt: "Reasoning: r\nAnswer: B")
        with dspy.context(lm=lm, adapter=InstructionAdapter("before")):
            assert loaded(question="z").answer == "B"
        assert lm.scripted.log[0].prompt.system == "Answer briefly."
    assert states[0] == states[1]


def test_the_scripted_engine_is_shared_by_copies() -> None:
    program = dspy.Predict(QA)
    program.lm = scripted_lm(solver)
    copy = program.deepcopy()
    with dspy.context(adapter=InstructionAdapter()):
        copy(question="What pumps?")
    engine = program.lm.scripted
    assert isinstance(engine, ScriptedEngine) and copy.lm.engine is engine and engine.calls == 1
