"""A user's own file becomes a task: columns are guessed where plain, and what is wrong is said by row."""

import csv
import io
import json
import logging
import re
import string
from collections import Counter

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tp_dspy.errors import ConfigurationError, DataError, SplitOverlapError
from tp_dspy.tasks.tabular import load_file
from tp_dspy.tasks.task import Task


def write(folder, text, name="mine.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def csv_text(rows, delimiter=","):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


def labelled(count=20, header=("question", "answer"), answers=("yes", "no")):
    return [header, *((f"Is {i} enough?", answers[i % len(answers)]) for i in range(count))]


def letters(answers, options=("red", "green", "blue", "grey"), header=("question", "A", "B", "C", "D", "answer")):
    return [header, *((f"Which is number {i}?", *options, answer) for i, answer in enumerate(answers))]


def everything(task):
    return sorted((*task.train, *task.validation, *task.test), key=lambda example: example.question)


def load(folder, rows, **layout):
    return Task.from_csv(write(folder, csv_text(rows)), **layout)


def refused(folder, rows, *words, error=DataError, **layout):
    """Check that each of the words is in the message of the error."""
    text = rows if isinstance(rows, (str, bytes)) else csv_text(rows)
    with pytest.raises(error) as caught:
        Task.from_csv(write(folder, text), **layout)
    for word in words:
        assert word in str(caught.value), str(caught.value)


# --- The plain case


def test_a_labelled_file_has_the_shape_of_the_catalogue(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        task = load(tmp_path, labelled(20), domain="legal", description="things")
    assert (task.name, task.domain, task.description) == ("mine", "legal", "things")
    assert (len(task.train), len(task.validation), len(task.test)) == (8, 6, 6)
    assert (task.inputs, task.answers) == (("question",), ("no", "yes"))
    assert all(Counter(e.answer for e in split)["yes"] == len(split) / 2 for split in (task.train, task.test))
    example = everything(task)[0]
    assert (example.question, example.answer, example.choices) == ("Is 0 enough?", "yes", ["no", "yes"])
    assert re.fullmatch("[0-9a-f]{12}", example.id)
    assert "guessed the columns question = 'question', answer = 'answer'" in caplog.text
    assert "the answers are labels: 'no', 'yes'" in caplog.text


def test_shares_and_seed_are_those_of_from_examples(tmp_path):
    one, other = (load(tmp_path, labelled(), shares=(0.5, 0, 0.5), seed=seed, name="n") for seed in (0, 1))
    assert (one.name, len(one.train), len(one.validation), len(one.test)) == ("n", 10, 0, 10)
    assert one.train != other.train
    refused(tmp_path, labelled(), "1 in all", error=ConfigurationError, shares=(1, 1, 1))


def test_free_text_has_no_choices(tmp_path, caplog):
    rows = [("Question", "Answer"), *((f"What is {i}?", f" the number\n{i}") for i in range(12))]
    with caplog.at_level(logging.INFO):
        task = load(tmp_path, rows)
    assert task.answers is None and "choices" not in task.train[0]
    assert {e.answer for e in everything(task)} == {f" the number\n{i}" for i in range(12)}
    assert "free text (12 distinct of 12)" in caplog.text


@pytest.mark.parametrize(("distinct", "expected"), [(12, True), (13, False)])
def test_more_than_twelve_answers_are_free_text(tmp_path, distinct, expected):
    task = load(tmp_path, labelled(60, answers=[f"label {i}" for i in range(distinct)]))
    assert (task.answers is not None) == expected


def test_answers_that_do_not_come_twice_are_free_text(tmp_path):
    assert load(tmp_path, labelled(7, answers="abcd")).answers is None
    assert load(tmp_path, labelled(8, answers="abcd")).answers == tuple("abcd")


# --- Guesses


@pytest.mark.parametrize("question", ["QUERY", "Text", "input", "Prompt:", "sentence", "Stem", "question_text", "q"])
@pytest.mark.parametrize(
    "answer", ["Label", "target", "output", "Gold", "Correct Answer", "answer-key", "answerKey", "A"]
)
def test_question_and_answer_are_guessed(tmp_path, question, answer):
    task = load(tmp_path, labelled(header=(question, answer)))
    assert task.answers == ("no", "yes")


@pytest.mark.parametrize("column", ["ID", "uid", "qid", "index"])
def test_ids_are_guessed(tmp_path, column, caplog):
    rows = [(column, *row) if n == 0 else (f"{n:03}", *row) for n, row in enumerate(labelled(10))]
    with caplog.at_level(logging.INFO):
        assert [e.id for e in everything(load(tmp_path, rows))] == [f"{n:03}" for n in range(1, 11)]
    assert f"id = '{column}'" in caplog.text


@pytest.mark.parametrize(
    "header",
    [
        ("A", "B", "C", "D"),
        ("(a)", "(b)", "(c)", "(d)"),
        ("option_a", "option_b", "option_c", "option_d"),
        ("Option A", "Option B", "Option C", "Option D"),
        ("opt_a", "opt_b", "opt_c", "opt_d"),
        ("opa", "opb", "opc", "opd"),
        ("choice1", "choice2", "choice3", "choice4"),
        ("choice_0", "choice_1", "choice_2", "choice_3"),
    ],
)
def test_option_columns_are_guessed(tmp_path, header):
    # In the reverse order of columns: the names settle it.
    rows = letters("BDBD", options=("grey", "blue", "green", "red"), header=("question", *header[::-1], "answer"))
    example = everything(load(tmp_path, rows))[0]
    assert example.question == "Which is number 0?\nA. red\nB. green\nC. blue\nD. grey"
    assert (example.stem, example.options) == ("Which is number 0?", ["red", "green", "blue", "grey"])
    assert (example.answer, example.choices) == ("B", ["A", "B", "C", "D"])


@pytest.mark.parametrize(
    "cell",
    ['["red", "it\'s", "blue"]', "['red', \"it's\", 'blue']", '{"A": "red", "B": "it\'s", "C": "blue"}'],
)
@pytest.mark.parametrize("column", ["Options", "choices"])
def test_a_list_column_is_guessed(tmp_path, column, cell):
    rows = [("question", column, "answer"), *((f"q{i}", cell, "it's") for i in range(6))]
    task = load(tmp_path, rows)
    assert (task.train[0].options, task.train[0].answer) == (["red", "it's", "blue"], "B")
    assert task.answers == ("A", "B", "C")


@pytest.mark.parametrize("column", ["Context", "passage", "background", "abstract", "Facts"])
def test_a_context_is_shown_before_the_question(tmp_path, column, caplog):
    rows = [("question", column, "label"), *((f"q{i}", "" if i == 5 else f"c{i}", "ab"[i % 2]) for i in range(6))]
    with caplog.at_level(logging.INFO):
        questions = [e.question for e in everything(load(tmp_path, rows))]
    assert questions == [*(f"Context: c{i}\nQuestion: q{i}" for i in range(5)), "q5"]
    assert f"context = '{column}'" in caplog.text
    plain = load(tmp_path, rows, inputs={"question": "question"})
    assert everything(plain)[0].question == "q0"


def test_options_go_below_a_context(tmp_path):
    rows = [("context", "question", "A", "B", "answer"), *((f"c{i}", f"q{i}", "x", "y", "A") for i in range(4))]
    example = everything(load(tmp_path, rows))[0]
    assert (example.question, example.stem) == ("Context: c0\nQuestion: q0\nA. x\nB. y", "q0")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (("text", "question", "answer"), ["'text' and 'question' could be the question", "question='<column>'"]),
        (("question", "label", "Answer"), ["'label' and 'Answer' could be the answer", "answer='<column>'"]),
        (("thing", "other", "answer"), ["no column is plainly the question", "'thing' (e.g. 'one one", "inputs="]),
        (("question", "x", "y"), ["no column is plainly the answer", "Pass answer='<column>'", "'y' (e.g. 'three')"]),
    ],
)
def test_what_is_not_plain_is_asked(tmp_path, header, words):
    rows = [header, *(("one " * 30, "two", "three") for _ in range(4))]
    refused(tmp_path, rows, *words, "mine.csv", "The columns are", "…")


def test_two_contexts_or_sets_of_options_are_asked(tmp_path):
    rows = [("question", "context", "facts", "answer"), *((f"q{i}", "c", "f", "yes") for i in range(4))]
    refused(tmp_path, rows, "'context' and 'facts' could be the context", "inputs=")
    rows = [("question", "A", "B", "options", "answer"), *((f"q{i}", "c", "f", "[]", "A") for i in range(4))]
    refused(tmp_path, rows, "could be the options", "['A', 'B']", "['options']")
    refused(
        tmp_path, letters("ABAB", header=("question", "A", "B", "D", "E", "answer")), "'A', 'B', 'D', 'E' have a gap"
    )


def test_columns_that_are_left_out_are_logged(tmp_path, caplog):
    rows = [("note", "question", "answer", "more"), *((i, f"q{i}", "yes", "x") for i in range(4))]
    with caplog.at_level(logging.INFO):
        load(tmp_path, rows)
    assert "not used: 'note', 'more'." in caplog.text


def test_the_first_row_may_not_be_a_header(tmp_path):
    refused(tmp_path, labelled()[1:], "no column is plainly the answer", "Are they the names of the columns?")


# --- Named columns


def test_named_columns_settle_it(tmp_path):
    rows = [
        ("text", "question", "label", "answer", "x1", "x2", "key"),
        *((f"t{i}", "q", "l", "x", "x", "y", i) for i in range(8)),
    ]
    named = {"question": "text", "answer": "answer", "options": ["x1", "x2"], "id": "key"}
    example = everything(load(tmp_path, rows, **named))[3]
    assert (example.question, example.answer, example.id) == ("t3\nA. x\nB. y", "A", "3")


def test_several_inputs_are_fields_of_their_own(tmp_path):
    rows = [("background", "q", "tag", "A", "B"), *((f"b{i}", f"q{i}", "B", "x", "y") for i in range(8))]
    inputs = {"query": "q", "context": "background"}
    task = load(tmp_path, rows, inputs=inputs, answer="tag", answer_field="verdict")
    assert set(task.inputs) == {"query", "context"}
    example = min(task.train + task.validation + task.test, key=lambda e: e.query)
    assert example.toDict() | {"id": ""} == {
        "query": "q0\nA. x\nB. y",
        "context": "b0",
        "verdict": "B",
        "choices": ["A", "B"],
        "stem": "q0",
        "options": ["x", "y"],
        "id": "",
    }


def test_an_answer_field_of_another_name_is_stratified(tmp_path):
    task = load(tmp_path, labelled(20), answer_field="verdict")
    assert Counter(e.verdict for e in task.test) == {"yes": 3, "no": 3}


def test_choices_of_single_rows_are_not_lettered(tmp_path):
    rows = [("question", "allowed", "answer"), *((f"q{i}", '["Up", "Down"]', "up ") for i in range(6))]
    task = load(tmp_path, rows, choices="allowed")
    assert (task.answers, task.train[0].answer) == (("Up", "Down"), "Up")
    assert "\n" not in task.train[0].question
    rows[3] = ("q", '["Up", "Down"]', "left")
    refused(tmp_path, rows, "no allowed answer in 1 of 6 rows: row 4 ('left')", "'Up', 'Down'", choices="allowed")


def test_a_missing_column_is_named_with_the_nearest(tmp_path):
    refused(
        tmp_path, labelled(), "no column 'Qestion'", "Nearest: 'question'", "'answer' (e.g. 'yes')", question="Qestion"
    )


@pytest.mark.parametrize(
    ("layout", "word"),
    [
        ({"question": "question", "inputs": {"q": "question"}}, "question and inputs were both given"),
        ({"options": "x", "choices": "y"}, "options and choices were both given"),
        ({"question": "answer", "answer": "answer"}, "'answer' was given for two things"),
        ({"inputs": {"answer": "question"}}, "'answer' is an input and the answer's field"),
        ({"answer_field": "question"}, "'question' is an input and the answer's field"),
        ({"inputs": {"my text": "question"}}, "'my text' cannot be a field"),
        ({"inputs": "question"}, "expected columns by field"),
        ({"inputs": {"id": "question"}}, "'id' is already the examples' own"),
        ({"answers": "yes"}, "several strings"),
        ({"name": " "}, "expected some text"),
    ],
)
def test_arguments_that_cannot_work(tmp_path, layout, word):
    refused(tmp_path, labelled(), word, error=ConfigurationError, **layout)


def test_unknown_arguments_are_refused(tmp_path):
    with pytest.raises(TypeError, match="qestion"):
        load(tmp_path, labelled(), qestion="x")


# --- Multiple choice


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("ABCD", "ABCD"),
        ("abca", "ABCA"),
        (["(B)", "C.", " d )", "A:"], "BCDA"),
        ("0123", "ABCD"),
        ("0112", "ABBC"),
        ("1224", "ABBD"),
        (["1.0", "4.0", "2.0", "2.0"], "ADBB"),
        (["red", "Grey ", "blue", "GREEN"], "ADCB"),
    ],
)
def test_answers_become_letters(tmp_path, answers, expected):
    task = load(tmp_path, letters(answers))
    assert [e.answer for e in everything(task)] == list(expected)


def test_numbers_that_fit_both_countings_are_asked(tmp_path):
    refused(
        tmp_path, letters("1223"), "numbers from 0 or numbers from 1", "in 4 of 4 rows: row 2 ('1')", "Write letters"
    )


def test_numbers_that_are_also_options_are_asked(tmp_path):
    refused(tmp_path, letters("1224", options="4321"), "numbers from 1 or texts of options")
    assert [e.answer for e in everything(load(tmp_path, letters("1224", options="1234")))] == list("ABBD")


def test_answers_that_are_no_option_are_shown_by_row(tmp_path):
    words = [
        "column 'answer' is none of the row's options in 4 of 9 rows: row 3 ('E'), row 4 ('x'), row 9 ('red')",
        "and 1 more",
    ]
    refused(tmp_path, letters(["A", "E", "x", "A", "B", "C", "D", "red", "?"]), *words, "Read as letters", "mine.csv")


def test_options_may_be_missing_at_the_end(tmp_path):
    rows = [("question", "A", "B", "C", "D", "answer"), ("q1", "x", "y", "z", "", "C"), ("q2", "x", "y", "", "", "3")]
    rows += [("q3", "x", "y", "z", "u", "D")]
    refused(tmp_path, rows, "none of the row's options in 1 of 3 rows: row 3 ('3')")
    rows[2] = ("q2", "x", "y", "", "", "b")
    examples = everything(load(tmp_path, rows))
    assert [e.choices for e in examples] == [list("ABC"), list("AB"), list("ABCD")]
    assert examples[1].question == "q2\nA. x\nB. y"


def test_options_that_cannot_be(tmp_path):
    def row(*options):
        return [
            ("question", "A", "B", "C", "answer"),
            *((f"q{i}", "x", "y", "z", "A") for i in range(5)),
            ("q", *options, "A"),
        ]

    refused(tmp_path, row("x", "", "z"), "the options have a gap in 1 of 6 rows: row 7")
    refused(tmp_path, row("x", "", ""), "not 2 to 26 options in 1 of 6 rows: row 7")
    cell = json.dumps([f"option {i}" for i in range(27)])
    many = [("question", "options", "answer"), *((f"q{i}", cell, "a") for i in range(5))]
    refused(tmp_path, many, "not 2 to 26 options in 5 of 5 rows: row 2")
    many[3] = ("q", "a|b", "a")
    refused(tmp_path, many, "column 'options' is not a list in 1 of 5 rows: row 4 ('a|b')", '["yes", "no"]')


@pytest.mark.parametrize("count", [9, 10, 11, 26])
@pytest.mark.parametrize("style", ["{letter}", "option_{letter}", "choice{number}", "choice_{index}", "list", "dict"])
def test_up_to_26_options(tmp_path, count, style):
    used, options = string.ascii_uppercase[:count], [f"thing {i}" for i in range(count)]
    if style in ("list", "dict"):
        cells, header = [json.dumps(options if style == "list" else dict(zip(used, options, strict=True)))], ["options"]
    else:
        signs = enumerate(used)
        cells, header = options, [style.format(letter=sign, number=i + 1, index=i) for i, sign in signs]
    right = ("A", used[-1], used[8], used[-1])
    rows = [("question", *header, "answer"), *((f"q{i}", *cells, letter) for i, letter in enumerate(right))]
    examples = everything(load(tmp_path, rows))
    assert [example.answer for example in examples] == list(right)
    assert (examples[0].options, examples[0].choices) == (options, list(used))
    lines = (f"{letter}. {option}" for letter, option in zip(used, options, strict=True))
    assert examples[0].question == "\n".join(["q0", *lines])


def test_letters_after_j_are_options_only_where_those_before_are(tmp_path):
    rows = letters("ABCD", header=("Q", "A", "B", "C", "D", "answer"))
    assert everything(load(tmp_path, rows))[0].options == ["red", "green", "blue", "grey"]
    rows = [("Q", *"ABCK", "answer"), *((f"q{i}", *"xyz?", "ABC"[i % 3]) for i in range(6))]
    assert everything(load(tmp_path, rows))[0].options == ["x", "y", "z"]
    header = [*string.ascii_uppercase[:11], "M"]
    refused(tmp_path, [("question", *header, "answer"), ("q", *header, "A")], "'K', 'M' have a gap")


# --- Labels


@pytest.mark.parametrize("rows", [labelled(8, answers=("yes", "Yes ")), letters("BBBB"), letters(["red"] * 4)])
def test_one_label_for_all_is_warned_of(tmp_path, caplog, rows):
    load(tmp_path, rows)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("which leaves nothing" in message for message in warned) == 1
    assert re.search(r"all [48] answers in column 'answer' are '(Yes|B|A)'", "".join(warned))


@pytest.mark.parametrize("rows", [labelled(8), letters("ABBB"), labelled(8, answers=[f"free {i}" for i in range(8)])])
def test_other_answers_are_not_warned_of(tmp_path, caplog, rows):
    load(tmp_path, rows)
    assert "which leaves nothing" not in caplog.text


def test_labels_in_several_spellings_are_one(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        task = load(tmp_path, labelled(12, answers=("Yes", "yes ", "Yes", "no", "NO", "no")))
    assert task.answers == ("Yes", "no")
    assert {e.answer for e in everything(task)} == {"Yes", "no"}
    assert "'yes' counts as 'Yes'" in caplog.text and "'NO' counts as 'no'" in caplog.text


def test_words_that_look_like_nothing_are_labels(tmp_path):
    task = load(tmp_path, labelled(20, answers=("NA", "None", "null", "007")))
    assert task.answers == ("007", "NA", "None", "null")


def test_given_answers_settle_the_spelling_and_the_space(tmp_path):
    task = load(tmp_path, labelled(20), answers=["YES", "NO", "MAYBE"])
    assert task.answers == ("YES", "NO", "MAYBE")
    assert (set(e.answer for e in task.train), task.train[0].choices) == ({"YES", "NO"}, ["YES", "NO", "MAYBE"])


def test_labels_outside_the_given_answers_are_shown_by_row(tmp_path):
    rows = labelled(20, answers=("yes", "no", "nope", "dunno"))
    words = "no allowed answer in 10 of 20 rows: row 4 ('nope'), row 5 ('dunno'), row 8 ('nope') and 7 more"
    refused(tmp_path, rows, words, "'yes', 'no'", answers=("yes", "no"))
    refused(tmp_path, letters("ABCD"), "no allowed answer in 1 of 4 rows: row 5 ('D')", answers=tuple("ABC"))


# --- Splits


def test_a_split_column_makes_the_splits(tmp_path):
    names = ("train", "Training", "TEST", "val", "dev", "valid", "eval", "validation", "train", "train")
    rows = [("question", "label", "Split"), *((f"q{i}", "ab"[i % 2], name) for i, name in enumerate(names))]
    task = load(tmp_path, rows)
    assert [[e.question for e in split] for split in (task.train, task.validation, task.test)] == [
        ["q0", "q1", "q8", "q9"],
        ["q3", "q4", "q5", "q6", "q7"],
        ["q2"],
    ]
    assert task.answers == ("a", "b")


def test_unknown_splits_are_shown_by_row(tmp_path):
    rows = [("question", "label", "split"), ("q", "a", "train"), *((f"q{i}", "a", f"s{i}") for i in range(4))]
    refused(tmp_path, rows, "'split' is no split in 4 of 5 rows: row 3 ('s0'), row 4 ('s1'), row 5 ('s2') and 1 more")
    rows = [("question", "label", "split"), *((f"q{i}", "a", "test") for i in range(4))]
    refused(tmp_path, rows, "'split' puts no row in train")


def test_fold_numbers_are_no_splits(tmp_path):
    rows = [("question", "label", "fold"), *((f"q{i}", "ab"[i % 2], i % 5) for i in range(20))]
    assert len(load(tmp_path, rows).train) == 8
    refused(tmp_path, rows, "'fold' is no split in 20 of 20 rows", split="fold")


def test_a_test_question_in_train_is_an_error(tmp_path):
    rows = [("question", "label", "split"), *((f"q{i}", "a", "train") for i in range(4)), ("Q3?", "a", "test")]
    refused(tmp_path, rows, "1 of 1 test examples are also in train", error=SplitOverlapError)


# --- Files as spreadsheets and people write them


def test_a_file_as_excel_writes_it(tmp_path):
    text = csv_text([("Frage", "Query", "Label"), *(("ä", f"Größe; {i}\nüber, 5 %?", "ja") for i in range(6))], ";")
    task = Task.from_csv(write(tmp_path, text.replace("\n", "\r\n").replace("\r\r", "\r"), encoding="utf-8-sig"))
    assert everything(task)[5].question == "Größe; 5\r\nüber, 5 %?"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_sniffed(tmp_path, delimiter):
    rows = [("question, as asked; or | not\tput", "answer"), *((f"a,b;c|d\te {i}", "yes") for i in range(6))]
    task = Task.from_csv(write(tmp_path, csv_text(rows, delimiter)), question=rows[0][0])
    assert everything(task)[0].question == "a,b;c|d\te 0"


def test_a_header_with_commas_does_not_deceive(tmp_path):
    text = "question (a, b);answer\n" + "".join(f"What{',' * (i % 3)} {i};yes\n" for i in range(6))
    assert everything(Task.from_csv(write(tmp_path, text), question="question (a, b)"))[0].question == "What 0"


def test_rows_are_numbered_as_a_spreadsheet_does(tmp_path):
    text = '\nquestion,answer\n"one\n\n\nrow",yes\n\ntwo,yes\n,,\n'.replace(",,", ",") + "three,\n,no\nfour,no\n"
    refused(tmp_path, text, "column 'question' is empty in 1 of 5 rows: row 8")
    refused(tmp_path, text.replace("\n,no", "\nx,no"), "column 'answer' is empty in 1 of 5 rows: row 7", "Fill in")


def test_short_rows_lack_their_last_cells(tmp_path):
    refused(tmp_path, "question,answer\none,yes\ntwo\n", "column 'answer' is empty in 1 of 2 rows: row 3")


def test_columns_without_a_name_and_spaces_around_names_are_fine(tmp_path):
    text = ", question , answer,\n" + "".join(f"{i},q{i},yes,\n" for i in range(6))
    assert load_file(write(tmp_path, text)).answers == ("yes",)


def test_long_documents_are_fine(tmp_path):
    before = csv.field_size_limit()
    rows = [("question", "answer"), *((f"{i} " + "word " * 40_000, "yes") for i in range(4))]
    assert len(load(tmp_path, rows).train[0].question) > 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is empty"]),
        ("\ufeff \n", ["is empty"]),
        (",,,\n,,\n", ["has no rows"]),
        ("question,answer\n", ["has no rows", "below the names"]),
        ("question,answer\nGrün,ja\nBlau,Übel\n".encode("latin-1"), ["line 2", "not UTF-8", "Save as UTF-8"]),
        ("question,answer\nx,y\n".encode("utf-16"), ["not UTF-8"]),
        ("question,answer\nx,y\n".encode("utf-16-le"), ["not UTF-8"]),
        ("question,answer,Answer ,answer\n1,2,3,4\n", ["'answer' occurs twice", "Rename"]),
        ("question,answer\na,b,c\nd,e\nf,g,h,\n", ["2 columns that row 1 names in 2 of 3 rows: row 2 (3), row 4 (4)"]),
        ('question,answer\nx,y\n"a" b,c\n', ["row 3 cannot be read", "write it twice"]),
        ('question,answer\nx,y\n"a,c\nd,e\n', ["row 3 cannot be read", "unexpected end"]),
        ("question^answer\nx^y\n", ["no column is plainly the answer", "'question^answer'"]),
        ("id,question,answer\n7,a,b\n7,c,d\n8,c,d\n9,e,f\n9,g,h\n", ["repeats an id in 4 of 5 rows: row 2 ('7')"]),
        ("question,answer\nx,yes\nX?,yes\n", ["1 distinct questions, too few"]),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, words):
    refused(tmp_path, content, *words, "mine")


def test_missing_files_are_named_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("no.csv", "no.tsv", "no.jsonl", "no.json", "no.parquet"):
        with pytest.raises(DataError, match=rf"no file '{name}' in .*Check the path"):
            load_file(name)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"'folder\.csv' cannot be read"):
        load_file("folder.csv")


# --- JSON, parquet and data frames


def test_csv_jsonl_json_parquet_and_frame_make_the_same_task(tmp_path):
    rows = [
        {
            "uid": f"{i:02}",
            "query": f'Größe "{i}",\nja?',
            "A": "x",
            "B": f"y {i}",
            "C": "z" if i % 2 else "",
            "gold": "AB"[i % 2],
        }
        for i in range(20)
    ]
    frame = pd.DataFrame(rows)
    write(tmp_path, csv_text([list(rows[0]), *(row.values() for row in rows)]))
    csv_tab = csv_text([list(rows[0]), *(row.values() for row in rows)], "\t")
    write(tmp_path, csv_tab, "mine.tsv")
    write(tmp_path, "\n".join(json.dumps(row) for row in rows), "mine.jsonl")
    write(tmp_path, json.dumps(rows, ensure_ascii=False, indent=1), "mine.json")
    frame.to_parquet(tmp_path / "mine.parquet")
    tasks = [load_file(tmp_path / f"mine.{suffix}") for suffix in ("csv", "tsv", "jsonl", "json", "parquet")]
    tasks += [Task.from_jsonl(tmp_path / "mine.jsonl"), Task.from_dataframe(frame.sample(frac=1), name="mine")]
    for task in tasks:
        assert (task.name, task.inputs, set(task.answers)) == ("mine", ("question",), set("ABC"))
        assert (task.train, task.validation, task.test) == (tasks[0].train, tasks[0].validation, tasks[0].test)


def test_values_become_clean_text(tmp_path):
    labels = [1, 1.0, True, 0.5, 12345678901234567890, "01"]
    lines = [json.dumps({"question": f"q{i}", "label": labels[i % 6]}) for i in range(12)]
    task = Task.from_jsonl(write(tmp_path, "\n\n".join(lines), "mine.jsonl"))
    assert task.answers == ("0.5", "01", "1", "12345678901234567890", "true")
    frame = pd.DataFrame(
        {"question": [f"q{i}" for i in range(8)], "label": pd.array([0, 1] * 4), "id": [7.0, *range(7)]}
    )
    task = Task.from_dataframe(frame.drop(columns="id"), name="f")
    assert task.answers == ("0", "1")
    frame["label"] = frame["label"].astype("category")
    assert Task.from_dataframe(frame.drop(columns="id"), name="f").answers == ("0", "1")


def test_nothing_is_an_empty_cell():
    frame = pd.DataFrame({"question": ["a", None, "c", "d"], "label": [1, 2, float("nan"), 2]}, index=list("wxyz"))
    with pytest.raises(
        DataError, match="Data frame 'f': column 'question' is empty in 1 of 4 rows: row 1 of the frame"
    ):
        Task.from_dataframe(frame, name="f")
    with pytest.raises(DataError, match="column 'label' is empty in 1 of 3 rows: row 1 of the frame"):
        Task.from_dataframe(frame.dropna(subset=["question"]), name="f")


def test_lists_in_frames_and_json(tmp_path):
    rows = [
        {"question": f"q{i}", "context": ["one", "two"], "choices": ["x", 2, True], "answer": i % 3} for i in range(6)
    ]
    task = Task.from_dataframe(pd.DataFrame(rows), name="f")
    assert everything(task)[0].question == "Context: one two\nQuestion: q0\nA. x\nB. 2\nC. true"
    rows[2]["answer"] = ["x"]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), "mine.jsonl")
    with pytest.raises(DataError, match="'answer' holds a list or an object in 1 of 6 rows: line 3"):
        load_file(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "x.jsonl",
            '{"question": "a", "answer": "b"}\n\n{"question": "a",}\n',
            ["line 3", "broken JSON", "character 18"],
        ),
        ("x.jsonl", '[{"question": "a"}]', ["line 1", "expected a JSON object", ".json files"]),
        ("x.jsonl", '{"a": 1}\n{"a": 1, "a": 2}', ["line 2", "'a' occurs twice"]),
        ("x.jsonl", '{"a": 1}\n{"A ": 1, "A": 2}', ["'A' occurs twice"]),
        ("x.json", '[{"a": 1},\n{"a" 2}]', ["broken JSON", "line 2, character 6"]),
        ("x.json", '{"data": []}', ["holds one dict", "list of objects"]),
        ("x.json", '[{"question": "q"}, 7]', ["item 2 is '7'"]),
        ("x.json", "[]", ["no rows"]),
        ("x.json", "[{}]", ["no column is plainly the answer"]),
        ("x.jsonl", b'{"question": "\xff"}', ["line 1", "UTF-8"]),
        ("x.parquet", "no parquet", ["cannot be read as parquet"]),
    ],
)
def test_json_and_parquet_that_cannot_be_used(tmp_path, name, content, words):
    with pytest.raises(DataError) as caught:
        load_file(write(tmp_path, content, name))
    for word in (name, *words):
        assert word in str(caught.value), str(caught.value)


def test_json_texts_may_hold_any_line_break(tmp_path):
    lines = [json.dumps({"question": f"a\u2028b\x85c {i}", "answer": "yes"}, ensure_ascii=False) for i in range(5)]
    task = load_file(write(tmp_path, "\r\n".join(lines), "mine.jsonl"))
    assert everything(task)[0].question == "a\u2028b\x85c 0"


def test_frames_that_cannot_be_used():
    with pytest.raises(DataError, match="Data frame 'f' is of type list; expected a pandas DataFrame"):
        Task.from_dataframe([1], name="f")
    with pytest.raises(DataError, match="'f': the column name 'a' occurs twice"):
        Task.from_dataframe(pd.DataFrame([["x", "y"]], columns=["a", "a"]), name="f")
    with pytest.raises(DataError, match="has no rows"):
        Task.from_dataframe(pd.DataFrame({"question": [], "answer": []}), name="f")


@pytest.mark.parametrize("name", ["mine.xlsx", "mine", "mine.txt"])
def test_other_suffixes_are_refused_with_those_that_will_do(tmp_path, name):
    with pytest.raises(ConfigurationError, match=r"expected \.csv, \.tsv, \.jsonl, \.json, \.parquet"):
        load_file(tmp_path / name)


# --- Nothing is lost


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from(",;\"'\n\r\t| "))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(cells.map(lambda text: f"x{text}x"), st.sampled_from(["p", "q"])), min_size=1, max_size=8),
    st.sampled_from(",;\t|"),
)
def test_no_text_is_altered_by_the_way_through_csv(tmp_path, pairs, delimiter):
    # Numbers make the questions distinct, whatever the text is.
    rows = [(f"{i} {text}", f"{i % 3}{answer}\n") for i, (text, answer) in enumerate(pairs + [("plain", "p")] * 3)]
    task = Task.from_csv(write(tmp_path, csv_text([("question", "answer"), *rows], delimiter)), answers=None)
    found = sorted((example.question, example.answer.strip()) for example in everything(task))
    assert found == sorted((question, answer.strip()) for question, answer in rows)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(string.ascii_letters + ' ",', min_size=1).filter(str.strip), min_size=3, max_size=40))
def test_splits_are_disjoint(tmp_path, questions):
    rows = [("question", "answer"), *((f"{i // 2} {text}", "ab"[i % 2]) for i, text in enumerate(questions))]
    if len({row[0].casefold() for row in rows[1:]}) < 6:
        rows += [(f"more {i}", "a") for i in range(6)]
    task = Task.from_csv(write(tmp_path, csv_text(rows)))
    splits = [{e.question for e in split} for split in (task.train, task.validation, task.test)]
    assert sum(map(len, splits)) == len(set.union(*splits)) and all(splits)
