"""Each reader makes one shape of example of a row, and refuses a row that is not as it should be."""

import json

import pytest

from tp_dspy.tasks import readers
from tp_dspy.tasks.catalog import CATALOG, lettered
from tp_dspy.tasks.readers import Skip

FOUR = ["one", "two", "three", "four"]


def tat(answer, scale=""):
    row = {"uid": "u1", "table": [["", "2019"], ["Sales", "$5"]], "paragraphs": ["First.", "Second."], "scale": scale}
    return readers.tatqa(row | {"question": "How much? ", "answer": json.dumps(answer)})


def aqua(options, correct="B"):
    return readers.aqua({"question": "x?", "options": options, "rationale": "", "correct": correct})


def bbh(text, target):
    return readers.options_inside({"input": text, "target": target})


def test_lettered():
    assert lettered(" Which? ", ["one", "two"]) == "Which?\nA. one\nB. two"


# --- Multiple choice


@pytest.mark.parametrize(
    ("reader", "row", "stem", "answer"),
    [
        (readers.mmlu, {"question": "Who?", "choices": FOUR, "answer": 2}, "Who?", "C"),
        (
            readers.medqa,
            {"question": "Who?", "options": dict(zip("DCBA", FOUR[::-1], strict=True)), "answer_idx": "D"},
            "Who?",
            "D",
        ),
        (
            readers.medmcqa,
            {"question": "Who?", "opa": "one", "opb": "two", "opc": "three", "opd": "four", "cop": 0},
            "Who?",
            "A",
        ),
        (
            readers.logiqa,
            {"context": "All are here. ", "query": "Who?", "options": FOUR, "correct_option": 1},
            "All are here.\nWho?",
            "B",
        ),
        (
            readers.keyed("question_stem"),
            {"id": "7", "question_stem": "Who", "choices": {"text": FOUR, "label": list("1234")}, "answerKey": "4"},
            "Who",
            "D",
        ),
        (
            readers.aqua,
            {"question": "Who?", "options": ["A)one", "B) two", "C )three", "D)four"], "correct": "C"},
            "Who?",
            "C",
        ),
    ],
)
def test_options_are_lettered_by_position(reader, row, stem, answer):
    example = reader(row)
    assert (example.stem, example.options, example.answer) == (stem, FOUR, answer)
    assert example.choices == ["A", "B", "C", "D"]
    assert example.question == f"{stem}\nA. one\nB. two\nC. three\nD. four"
    assert set(example.inputs().keys()) == {"question"}


def test_casehold_asks_for_the_holding_that_was_taken_out():
    example = readers.casehold({"context": "See Doe (<HOLDING>).", "endings": [*FOUR, "five"], "label": 4})
    assert example.answer == "E"
    assert example.question.splitlines()[0] == "See Doe (<HOLDING>)."
    assert "<HOLDING>?" in example.question.splitlines()[1]


def test_ids_are_kept_where_all_copies_have_them():
    row = {"id": "", "question": "Who?", "opa": "1", "opb": "2", "opc": "3", "opd": "4", "cop": 0}
    assert readers.medmcqa(row).id == readers.medmcqa(row | {"id": "given"}).id != ""
    choices = {"text": FOUR, "label": list("ABCD")}
    assert readers.keyed()({"id": "7", "question": "Who", "choices": choices, "answerKey": "A"}).id == "7"


@pytest.mark.parametrize(
    ("reader", "row", "message"),
    [
        (readers.mmlu, {"question": "Who?", "choices": FOUR, "answer": 4}, "option 4 is the answer, expected 0 to 3"),
        (readers.mmlu, {"question": "Who?", "choices": FOUR, "answer": None}, "option None"),
        (readers.mmlu, {"question": "Who?", "choices": ["x"] * 9, "answer": 0}, "9 options"),
        (readers.medqa, {"question": "", "options": {"A": "x"}, "answer_idx": "E"}, "answer_idx is 'E'"),
        (readers.keyed(), {"choices": {"text": FOUR, "label": list("ABCD")}, "answerKey": ""}, "answerKey is ''"),
        (readers.aqua, {"question": "", "options": ["A)1", "C)2"], "correct": "A"}, r"expected 'A\)"),
        (readers.aqua, {"question": "", "options": ["1", "2"], "correct": "A"}, r"expected 'A\)"),
        (readers.strategyqa, {"question": "", "qid": "1", "answer": "yes"}, "expected True or False"),
        (readers.gsm8k, {"question": "", "answer": "It is 12."}, "expected '#### <number>'"),
        (readers.labelled(("a", "b")), {"sentence": "", "label": 2}, "expected 0 to 1"),
    ],
)
def test_a_row_that_is_not_as_expected(reader, row, message):
    with pytest.raises(ValueError, match=message):
        reader(row)


# --- Words and numbers


def test_strategyqa_answers_with_yes_or_no_and_keeps_its_facts_to_itself():
    example = readers.strategyqa({"qid": "q1", "question": "Is it?", "answer": True, "facts": "It is."})
    assert (example.question, example.answer, example.choices, example.id) == ("Is it?", "yes", ["yes", "no"], "q1")
    assert readers.strategyqa({"qid": "q2", "question": "Is it?", "answer": False}).answer == "no"


@pytest.mark.parametrize(("end", "number"), [("#### 12", "12"), ("####1,234,500 ", "1234500"), ("#### -3.5", "-3.5")])
def test_gsm8k_answers_with_the_number_alone(end, number):
    example = readers.gsm8k({"question": "How many?", "answer": f"10 + 2 = <<10+2=12>>12\n{end}"})
    assert example.answer == number
    assert "choices" not in example


def test_legalbench_shows_all_texts_and_asks():
    corporate = CATALOG["nguha/legalbench:corporate_lobbying"].to_example
    row = {"bill_title": "A", "bill_summary": "B ", "company_name": "C", "company_description": "D", "answer": "No"}
    example = corporate(row)
    assert example.question.splitlines() == [
        "Title of the bill: A",
        "Summary of the bill: B",
        "Company: C",
        "Description of the company: D",
        "Question: Is the bill relevant to the company?",
    ]
    assert (example.answer, example.choices) == ("No", ["Yes", "No"])
    scale = CATALOG["nguha/legalbench:abercrombie"]
    for label in ("generic", "descriptive", "suggestive", "arbitrary", "fanciful"):
        assert f"{label} (" in scale.description, "a reference LM is told what each class means"


# --- BIG-Bench-Hard


def test_options_inside_the_input_become_choices():
    text = "Which (A) colour?\nOptions:\n(A) red\n(B) light blue\n(C) green"
    example = bbh(text, "(B)")
    assert (example.question, example.answer, example.choices) == (text, "B", ["A", "B", "C"])
    assert (example.stem, example.options) == ("Which (A) colour?", ["red", "light blue", "green"])


def test_more_options_than_eight():
    lines = [f"({chr(65 + i)}) thing {i}" for i in range(18)]
    example = bbh("\n".join(["What?", "Options:", *lines]), "(R)")
    assert (example.answer, len(example.choices), example.options[17]) == ("R", 18, "thing 17")


def test_a_target_that_is_no_letter_is_left_out():
    with pytest.raises(Skip, match="not the letter"):
        bbh("Which?\nOptions:\n(A) Ant\n(B) and Bee", "Ant, and Bee")


def test_bbh_words_and_free_answers():
    words = readers.worded(("valid", "invalid"))({"input": "So it is.\n", "target": "invalid"})
    assert (words.question, words.answer, words.choices) == ("So it is.", "invalid", ["valid", "invalid"])
    free = readers.free_text({"input": "Sort: b a", "target": "a b"})
    assert free.answer == "a b"
    assert "choices" not in free


# --- TAT-QA


def test_tatqa_shows_table_and_text():
    example = tat(["cash"])
    assert example.question == "Table:\n | 2019\nSales | $5\nText:\nFirst.\nSecond.\nQuestion: How much?"
    assert (example.answer, example.id, "choices" in example) == ("cash", "u1", False)


@pytest.mark.parametrize(
    ("answer", "scale", "expected"),
    [
        (["cash and more"], "", "cash and more"),
        (["$1,496.5"], "million", "$1,496.5 million"),
        (13989, "million", "13,989 million"),
        (-12.6, "thousand", "-12.6 thousand"),
        (-416429, "", "-416,429"),
        (15.12, "percent", "15.12%"),
        (["13"], "percent", "13%"),
        (["(59.9)"], "percent", "-59.9%"),
        (["$ (20,597)"], "thousand", "-$20,597 thousand"),
        (["£(8.1m)"], "", "-£8.1m"),
        (["$3.0 million"], "million", "$3.0 million"),
        (["North America"], "percent", "North America"),
        (["loss (net)"], "", "loss (net)"),
        ("4", "", "4"),
        (0, "", "0"),
    ],
)
def test_tatqa_answers_carry_their_scale(answer, scale, expected):
    assert tat(answer, scale).answer == expected


@pytest.mark.parametrize(
    ("answer", "scale", "given"),
    [
        (15.12, "percent", "15.12"),
        (15.12, "percent", "15.12 %"),
        (-416429, "", "-416429"),
        (["(20,597)"], "thousand", "-$20,597 thousand"),
        (13989, "million", "$13,989 million"),
    ],
)
def test_tatqa_answers_match_what_lms_write(answer, scale, given):
    from tp_dspy.scoring.matching import match_answer

    assert match_answer(given, tat(answer, scale).answer, "auto", 1e-6) == 1


@pytest.mark.parametrize("answer", [["2019", "2018"], []])
def test_tatqa_questions_with_several_answers_are_left_out(answer):
    with pytest.raises(Skip, match="several answers"):
        tat(answer)


def test_tatqa_nested_json_is_flattened_to_a_row_a_question():
    contexts = [
        {
            "table": {"uid": f"t{n}", "table": [["", "2019"], ["Sales", "5"]]},
            "paragraphs": [{"uid": "p", "order": 1, "text": f"Text {n}."}],
            "questions": [
                {"uid": f"q{n}{i}", "order": i, "question": "Why?", "answer": answer, "scale": scale, "derivation": ""}
                for i, (answer, scale) in enumerate([(["growth"], ""), (1.5, "million"), ("3", "")])
            ],
        }
        for n in range(2)
    ]
    rows = readers.tatqa_rows(contexts)
    assert [row["uid"] for row in rows] == ["q00", "q01", "q02", "q10", "q11", "q12"]
    examples = [readers.tatqa(row) for row in rows]
    assert [example.answer for example in examples[3:]] == ["growth", "1.5 million", "3"]
    assert examples[4].question == "Table:\n | 2019\nSales | 5\nText:\nText 1.\nQuestion: Why?"
