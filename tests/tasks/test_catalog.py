"""The catalogue turns public data sets into tasks of one shape, without a question in two splits."""

import logging
import os
import random
from collections import Counter
from pathlib import Path

import datasets
import pytest

from tp_dspy.errors import ConfigurationError, DataError, HubUnavailableError
from tp_dspy.tasks.catalog import CATALOG, DATA_VARIABLE, lettered, load
from tp_dspy.tasks.task import Task, find_overlap

REAL_FOLDER = os.environ.get(DATA_VARIABLE)  # as the tests were started, before any fixture changes it
SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write rows where the catalogue looks for them."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv(DATA_VARIABLE, str(folder))

    def write(path, rows):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(str(folder / path))

    return write


def mmlu(stem, answer):
    options = [f"{stem} option {i}" for i in range(4)]
    return {"question": f"Which {stem}?", "subject": "anatomy", "choices": options, "answer": answer}


def arc(name, question, labels="ABCD", key="B"):
    choices = {"text": [f"{name} {label}" for label in labels], "label": list(labels)}
    return {"id": name, "question": question, "choices": choices, "answerKey": key}


def fomc(sentence, label):
    return {"index": 1, "sentence": sentence, "year": 2010, "label": label, "orig_index": 1}


def phrasebank(count):
    return [{"sentence": f"Company {i} reported .", "label": i % 3} for i in range(count)]


def questions(split):
    return [example.question for example in split]


# --- One shape


def test_mmlu_rows_become_lettered_questions(put):
    put("cais__mmlu/anatomy/test.parquet", [mmlu(f"bone {i}", i % 4) for i in range(20)])
    put("cais__mmlu/anatomy/dev.parquet", [mmlu(f"nerve {i}", i) for i in range(4)])
    task = Task.from_hub("cais/mmlu:anatomy")
    assert [len(getattr(task, split)) for split in SPLITS] == [4 + 8, 4, 8]
    assert {"Which nerve 2?"} <= {example.stem for example in task.train}, "dev goes to train"
    example = next(example for example in task.train if example.stem == "Which nerve 2?")
    assert example.question.splitlines()[0] == "Which nerve 2?"
    assert example.question.splitlines()[3] == "C. nerve 2 option 2"
    assert (example.answer, example.choices) == ("C", ["A", "B", "C", "D"])
    assert (task.name, task.domain, task.answers) == ("cais/mmlu:anatomy", "medical", ("A", "B", "C", "D"))
    assert "anatomy" in task.description


def test_arc_numbers_become_letters_and_its_splits_are_kept(put):
    put("allenai__ai2_arc/ARC-Easy/train.parquet", [arc("t1", "How?", "1234", "3"), arc("t2", "Who?", "ABCDE", "E")])
    put("allenai__ai2_arc/ARC-Easy/validation.parquet", [arc("v1", "Why?", "ABC", "C")])
    put("allenai__ai2_arc/ARC-Easy/test.parquet", [arc("x1", "When?")])
    task = load("allenai/ai2_arc:ARC-Easy")
    assert [(e.id, e.answer, len(e.choices)) for e in task.train] == [("t1", "C", 4), ("t2", "E", 5)]
    assert task.train[0].question.endswith("D. t1 4")
    assert [e.id for e in task.validation + task.test] == ["v1", "x1"]
    assert task.answers == ("A", "B", "C", "D", "E")


def test_pubmedqa_shows_the_abstract_before_the_question(put):
    rows = [
        {
            "pubid": i,
            "question": f"Does it {i}?",
            "context": {"contexts": [f"Aim {i}.", "Result."], "labels": ["A", "R"]},
            "final_decision": ("yes", "no", "maybe")[i % 3],
        }
        for i in range(30)
    ]
    put("qiaojin__PubMedQA/pqa_labeled/train.parquet", rows)
    task = load("qiaojin/PubMedQA")
    assert task.name == load("qiaojin/PubMedQA:pqa_labeled").name == "qiaojin/PubMedQA:pqa_labeled"
    example = next(e for split in SPLITS for e in getattr(task, split) if e.id == "4")
    assert example.question == "Context: Aim 4. Result.\nQuestion: Does it 4?"
    assert (example.answer, example.choices) == ("no", ["yes", "no", "maybe"])


def test_labels_are_words(put):
    put("takala__financial_phrasebank/sentences_allagree/train.parquet", phrasebank(30))
    task = load("takala/financial_phrasebank:sentences_allagree")
    answers = {e.question: e.answer for split in SPLITS for e in getattr(task, split)}
    assert answers["Sentence: Company 0 reported ."] == "negative"
    assert answers["Sentence: Company 1 reported ."] == "neutral"
    assert answers["Sentence: Company 2 reported ."] == "positive"
    assert set(task.answers) == set(task.train[0].choices) == {"negative", "neutral", "positive"}


def test_lettered():
    assert lettered(" Which? ", ["one", "two"]) == "Which?\nA. one\nB. two"


# --- Splits


def test_a_single_split_is_divided_once_and_for_all(put):
    rows = phrasebank(60)
    put("takala__financial_phrasebank/sentences_50agree/train.parquet", rows)
    name = "takala/financial_phrasebank:sentences_50agree"
    task = load(name)
    assert [len(getattr(task, split)) for split in SPLITS] == [24, 12, 24]
    assert Counter(e.answer for e in task.test) == {"negative": 8, "neutral": 8, "positive": 8}

    random.Random(0).shuffle(rows)
    put("takala__financial_phrasebank/sentences_50agree/train.parquet", rows)
    again, small = load(name, seed=7), load(name, seed=7, limit=6)
    for split in SPLITS:
        assert questions(getattr(again, split)) == questions(getattr(task, split))
        assert set(questions(getattr(small, split))) < set(questions(getattr(task, split)))
        assert Counter(e.answer for e in getattr(small, split)) == {"negative": 2, "neutral": 2, "positive": 2}
    assert questions(load(name, seed=8, limit=6).test) != questions(small.test)


def test_repeats_never_end_up_on_both_sides(put):
    put("takala__financial_phrasebank/sentences_50agree/train.parquet", phrasebank(30) + phrasebank(30))
    task = load("takala/financial_phrasebank:sentences_50agree")
    assert sum(len(getattr(task, split)) for split in SPLITS) == 30


def test_fomc_train_loses_repeats_and_what_test_asks(put, caplog):
    train = [fomc(f"Rates {i}.", i % 3) for i in range(20)]
    put("gtfintechlab__fomc_communication/train.parquet", [*train, fomc("Rates 3.", 1), fomc("Asked", 0)])
    put("gtfintechlab__fomc_communication/test.parquet", [fomc("asked.", 2), fomc("Twice.", 0), fomc("Twice.", 0)])
    with caplog.at_level(logging.INFO):
        task = load("gtfintechlab/fomc_communication")
    assert (len(task.train), len(task.validation)) == (20, 0)
    assert len(task.test) == 3, "the hub's own test split stays whole"
    assert [e.answer for e in task.test] == ["neutral", "dovish", "dovish"]
    assert "dropped 1 repeats, and 1 train and 0 validation" in caplog.text


def test_arc_drops_questions_that_test_asks_with_other_options(put):
    put("allenai__ai2_arc/ARC-Challenge/train.parquet", [arc("t1", "Shared?"), arc("t2", "Own?"), arc("t3", "Held?")])
    put("allenai__ai2_arc/ARC-Challenge/validation.parquet", [arc("v1", "Shared?"), arc("v2", "Held?")])
    put("allenai__ai2_arc/ARC-Challenge/test.parquet", [arc("x1", "shared?")])
    task = load("allenai/ai2_arc:ARC-Challenge")
    assert [[e.id for e in getattr(task, split)] for split in SPLITS] == [["t2"], ["v2"], ["x1"]]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_at_least_one(limit):
    with pytest.raises(ConfigurationError, match="at least 1"):
        load("cais/mmlu:anatomy", limit=limit)


# --- Names and terms


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cais/mmlu:anatomie", "cais/mmlu:anatomy"),
        ("CAIS/MMLU:anatomy", "cais/mmlu:anatomy"),
        ("pubmedqa", "qiaojin/PubMedQA:pqa_labeled"),
        ("allenai/ai2_arc", "allenai/ai2_arc:ARC-Easy"),
        ("cais/mmlu", "and 49 more"),
        ("takala/financial_phrasebank:sentences_75agree", "sentences_50agree"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, near):
    with pytest.raises(DataError) as caught:
        load(name)
    assert repr(name) in str(caught.value)
    assert near in str(caught.value)


def test_the_catalogue_covers_all_mmlu_subjects_and_states_its_terms():
    subjects = [data for data in CATALOG.values() if data.hub == "cais/mmlu"]
    assert len(subjects) == 57
    assert Counter(data.domain for data in subjects) == {"medical": 11, "legal": 3, "financial": 7, "general": 36}
    assert all(data.licence and data.citation and data.description for data in CATALOG.values())
    assert {data.hub for data in CATALOG.values() if data.non_commercial} == {
        "takala/financial_phrasebank",
        "gtfintechlab/fomc_communication",
    }


def test_terms_are_logged_and_non_commercial_ones_as_a_warning(put, caplog):
    put("takala__financial_phrasebank/sentences_allagree/train.parquet", phrasebank(30))
    put("cais__mmlu/anatomy/test.parquet", [mmlu(f"bone {i}", i % 4) for i in range(30)])
    put("cais__mmlu/anatomy/dev.parquet", [mmlu("nerve", 0)])
    with caplog.at_level(logging.INFO, logger="tp_dspy"):
        load("cais/mmlu:anatomy")
        load("takala/financial_phrasebank:sentences_allagree")
    terms = [(record.levelname, record.getMessage()) for record in caplog.records if "licence" in record.getMessage()]
    assert [level for level, _ in terms] == ["INFO", "WARNING"]
    assert "MIT" in terms[0][1] and "CC BY-NC-SA 3.0" in terms[1][1]


# --- Data that is not there, or not as expected


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
    with pytest.raises(DataError, match="split 'train', row 1"):
        load("gtfintechlab/fomc_communication")


def test_a_damaged_file_is_a_data_error(put, tmp_path):
    put("gtfintechlab__fomc_communication/train.parquet", [fomc("Fine.", 0)])
    (tmp_path / "data/gtfintechlab__fomc_communication/train.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        load("gtfintechlab/fomc_communication")


def test_a_hub_out_of_reach_offers_the_folder_and_the_starter_sets(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(HubUnavailableError, match="no route") as caught:
        load("cais/mmlu:anatomy")
    assert DATA_VARIABLE in str(caught.value)
    assert "cais__mmlu" in str(caught.value)
    assert "Task.starter('medical')" in str(caught.value)


def test_loader_scripts_are_read_from_the_hubs_parquet_conversion(monkeypatch):
    calls = []

    def hub(*args, **kwargs):
        calls.append((args, kwargs))
        is_mmlu = args[0] == "cais/mmlu"
        return datasets.Dataset.from_list([mmlu(f"bone {i}", 0) for i in range(9)] if is_mmlu else phrasebank(9))

    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    load("takala/financial_phrasebank:sentences_allagree")
    load("cais/mmlu:anatomy")
    script, dev, test = calls
    assert script[0] == ("takala/financial_phrasebank",)
    assert script[1] == {"data_dir": "sentences_allagree", "split": "train", "revision": "refs/convert/parquet"}
    assert dev == (("cais/mmlu", "anatomy"), {"split": "dev"})
    assert test == (("cais/mmlu", "anatomy"), {"split": "test"})


def test_progress_bars_are_quiet_only_while_reading(put, monkeypatch, capfd):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_DISABLE_PROGRESS_BARS", None)
    before = datasets.are_progress_bars_disabled()
    put("takala__financial_phrasebank/sentences_allagree/train.parquet", phrasebank(30))
    capfd.readouterr()
    load("takala/financial_phrasebank:sentences_allagree")
    assert "examples" not in capfd.readouterr().err
    assert datasets.are_progress_bars_disabled() == before


# --- The real data, where they are


needs_data = pytest.mark.skipif(not REAL_FOLDER, reason=f"{DATA_VARIABLE} names no folder of data sets")
EXPECTED = {
    "cais/mmlu:anatomy": (59, 27, 54),
    "cais/mmlu:professional_law": (618, 307, 614),
    "cais/mmlu:professional_accounting": None,
    "takala/financial_phrasebank:sentences_allagree": (903, 452, 904),
    "gtfintechlab/fomc_communication": None,
    "qiaojin/PubMedQA": (400, 200, 400),
    "allenai/ai2_arc:ARC-Challenge": None,
}


@needs_data
@pytest.mark.parametrize("name", EXPECTED)
def test_real_data_sets_load(name, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(Path(REAL_FOLDER).resolve()))
    task = load(name)
    sizes = tuple(len(getattr(task, split)) for split in SPLITS)
    assert sizes == (EXPECTED[name] or sizes)
    assert len(task.train) >= 40 and len(task.test) >= 40
    assert not find_overlap(task.train, task.validation)
    for split in SPLITS:
        for example in getattr(task, split):
            assert set(example.inputs().keys()) == {"question"}
            assert example.answer in example.choices
        assert len({e.id for e in getattr(task, split)}) == len(getattr(task, split)), "ids are unique"
