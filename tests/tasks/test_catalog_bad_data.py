"""Data that are not there, or not as the catalogue expects them, are answered with where, what and the mend."""

import logging

import pyarrow as pa
import pytest

from tp_dspy.errors import DataError
from tp_dspy.tasks.catalog import DATA_VARIABLE, load

SPLITS = ("train", "validation", "test")


def fomc(sentence, label):
    return {"index": 1, "sentence": sentence, "year": 2010, "label": label, "orig_index": 1}


def test_a_missing_file_is_named_relative_to_the_folder(put, tmp_path):
    with pytest.raises(DataError, match=r"'cais__mmlu/anatomy/dev\.parquet'") as caught:
        load("cais/mmlu:anatomy")
    assert DATA_VARIABLE in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_missing_column_is_answered_with_those_there_are(put):
    put("gtfintechlab__fomc_communication/train.parquet", [{"text": "Rates.", "label": 0}])
    with pytest.raises(DataError, match="no column 'sentence'; the columns are text, label"):
        load("gtfintechlab/fomc_communication")


@pytest.mark.parametrize("label", [3, -1, None])
def test_a_label_out_of_range_names_the_row(put, label):
    put("gtfintechlab__fomc_communication/train.parquet", [fomc("Fine.", 0), fomc("Odd.", label)])
    with pytest.raises(DataError, match=f"split 'train': 1 of 2 rows are not as expected: row 1 .label is {label}"):
        load("gtfintechlab/fomc_communication")


def test_answers_outside_the_answer_space_are_counted_and_the_first_shown(put):
    rows = [{"index": str(i), "answer": "Maybe" if i % 2 else "Yes", "text": f"Fact {i}."} for i in range(10)]
    put("nguha__legalbench/hearsay/train.parquet", rows)
    with pytest.raises(DataError) as caught:
        load("hearsay")
    message = str(caught.value)
    assert "split 'train': 5 of 10 rows are not as expected: row 1 (" in message
    assert "the answer is 'Maybe', expected one of Yes, No" in message
    assert [f"row {i} (" in message for i in range(10)] == [i in (1, 3, 5) for i in range(10)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": " ", "answer": "Sum.\n#### 1"}, "the question is empty"),
        ({"question": "Sum?", "answer": "Sum.\n#### "}, "the answer is ''"),
        ({"question": None, "answer": "Sum.\n#### 1"}, "row 0"),
    ],
)
def test_an_empty_question_or_answer_names_the_row(put, row, message):
    put("openai__gsm8k/main/train.parquet", [row])
    with pytest.raises(DataError, match="1 of 1 rows") as caught:
        load("gsm8k")
    assert message in str(caught.value)


def test_a_letter_that_is_no_option_is_not_left_out_in_silence(put):
    put("lukaemon__bbh/hyperbaton/test.parquet", [{"input": "Which?\nOptions:\n(A) a\n(B) b", "target": "(C)"}])
    with pytest.raises(DataError, match="the answer is 'C', expected one of A, B"):
        load("hyperbaton")


def test_rows_that_are_left_out_are_counted_in_the_log(put, caplog):
    rows = [{"input": f"Which {i}?\nOptions:\n(A) a\n(B) b", "target": "(B)" if i else "a, b"} for i in range(11)]
    put("lukaemon__bbh/ruin_names/test.parquet", rows)
    with caplog.at_level(logging.INFO):
        task = load("ruin_names")
    assert [len(getattr(task, split)) for split in SPLITS] == [4, 2, 4]
    assert "left out 1 of 11 rows, since the answer is not the letter of an option" in caplog.text
    put("lukaemon__bbh/ruin_names/test.parquet", rows[:1])
    with pytest.raises(DataError, match="all 1 rows were left out"):
        load("ruin_names")


def test_a_split_without_rows(put):
    put("lukaemon__bbh/navigate/test.parquet", [], pa.schema([("input", pa.string()), ("target", pa.string())]))
    with pytest.raises(DataError, match="lukaemon/bbh:navigate, split 'test': there are no rows"):
        load("navigate")


def test_a_split_too_small_to_divide(put):
    put("lukaemon__bbh/navigate/test.parquet", [{"input": f"Step {i}.", "target": "No"} for i in (1, 1, 2)])
    with pytest.raises(DataError, match="2 distinct questions are too few for 3 parts"):
        load("navigate")


def test_a_train_split_that_test_has_all_of(put):
    for split in ("train", "test"):
        put(f"gtfintechlab__fomc_communication/{split}.parquet", [fomc("Same.", 0)])
    with pytest.raises(DataError, match="all 1 train examples also occur in a later split"):
        load("fomc")


def test_all_alternatives_are_named_where_none_is_there(put):
    put("ChilleD__StrategyQA/train.parquet", [{"qid": "1", "question": "Is it?", "answer": True}])
    with pytest.raises(DataError, match=r"no file '\S+/test\.parquet' or '\S+/validation\.parquet'"):
        load("strategyqa")


def test_a_damaged_file_is_a_data_error(put, tmp_path):
    put("gtfintechlab__fomc_communication/train.parquet", [fomc("Fine.", 0)])
    (tmp_path / "data/gtfintechlab__fomc_communication/train.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        load("gtfintechlab/fomc_communication")
