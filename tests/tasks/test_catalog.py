"""The catalogue turns public data sets into tasks of one shape, without a question in two splits."""

import logging
import random
from collections import Counter

import pytest

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.tasks.catalog import load, overlapping
from tp_dspy.tasks.task import Task

SPLITS = ("train", "validation", "test")


def mmlu(stem, answer):
    options = [f"{stem} option {i}" for i in range(4)]
    return {"question": f"Which {stem}?", "subject": "anatomy", "choices": options, "answer": answer}


def arc(name, question, labels="ABCD", key="B"):
    choices = {"text": [f"{name} {label}" for label in labels], "label": list(labels)}
    return {"id": name, "question": question, "choices": choices, "answerKey": key}


def fomc(sentence, label):
    return {"index": 1, "sentence": sentence, "year": 2010, "label": label, "orig_index": 1}


def logiqa(number, answer=0):
    options = [f"{number} {letter}" for letter in "wxyz"]
    return {"context": f"Case {number}.", "query": "What follows?", "options": options, "correct_option": answer}


def strategyqa(numbers):
    return [{"qid": f"q{i}", "question": f"Is it {i}?", "answer": i % 2 == 0} for i in numbers]


def openbookqa(name, stem):
    return {"id": name, "question_stem": stem, "choices": arc(name, "")["choices"], "answerKey": "B"}


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


def test_openbookqa_drops_stems_that_test_completes_otherwise(put):
    put("allenai__openbookqa/main/train.parquet", [openbookqa("1", "The sun"), openbookqa("2", "The moon")])
    put("allenai__openbookqa/main/validation.parquet", [openbookqa("3", "The sea")])
    put("allenai__openbookqa/main/test.parquet", [openbookqa("4", "the sun")])
    assert [[e.id for e in getattr(load("openbookqa"), split)] for split in SPLITS] == [["2"], ["3"], ["4"]]


def test_a_labelled_split_beside_a_test_split_is_developed_on(put):
    rows = [logiqa(i, i % 4) for i in range(60)]
    put("lucasmccabe__logiqa/validation.parquet", rows)
    put("lucasmccabe__logiqa/test.parquet", [logiqa(i) for i in range(100, 130)])
    task = load("lucasmccabe/logiqa")
    assert [len(getattr(task, split)) for split in SPLITS] == [40, 20, 30]
    assert Counter(e.answer for e in task.validation) == dict.fromkeys("ABCD", 5)
    random.Random(0).shuffle(rows)
    put("lucasmccabe__logiqa/validation.parquet", rows)
    again = load("lucasmccabe/logiqa", seed=5)
    assert [questions(getattr(again, split)) for split in SPLITS] == [questions(getattr(task, s)) for s in SPLITS]


def test_copies_that_split_the_same_questions_differently_give_the_same_task(put, tmp_path):
    put("ChilleD__StrategyQA/train.parquet", strategyqa(range(40)))
    put("ChilleD__StrategyQA/validation.parquet", strategyqa(range(40, 50)))
    one = load("ChilleD/StrategyQA")
    (tmp_path / "data/ChilleD__StrategyQA/validation.parquet").unlink()
    put("ChilleD__StrategyQA/train.parquet", strategyqa(range(20, 50)))
    put("ChilleD__StrategyQA/test.parquet", strategyqa(range(20)))
    other = load("ChilleD/StrategyQA")
    assert [len(getattr(one, split)) for split in SPLITS] == [20, 10, 20]
    assert [questions(getattr(one, split)) for split in SPLITS] == [questions(getattr(other, s)) for s in SPLITS]


def test_what_the_hubs_small_train_split_repeats_is_in_train_once(put):
    put("cais__mmlu/anatomy/dev.parquet", [mmlu("bone 0", 0), mmlu("bone 0", 0), mmlu("nerve", 1)])
    put("cais__mmlu/anatomy/test.parquet", [mmlu(f"bone {i}", 0) for i in range(10)])
    task = load("anatomy")
    listed = [question for split in SPLITS for question in questions(getattr(task, split))]
    assert len(listed) == len(set(listed)) == 11


# --- Ids


def test_examples_that_share_an_id_are_numbered(put):
    rows = [fomc("Twice.", 0), fomc("Once.", 1), fomc("Twice.", 0), fomc("Twice.", 2)]
    put("gtfintechlab__fomc_communication/train.parquet", [fomc("Train.", 0)])
    named = []
    for order in (rows, rows[::-1]):
        put("gtfintechlab__fomc_communication/test.parquet", order)
        named.append({(e.id, e.question, e.answer) for e in load("fomc").test})
    assert named[0] == named[1], "whatever the order of the rows"
    first = min(e_id for e_id, question, _ in named[0] if "Twice" in question)
    assert {e_id for e_id, question, _ in named[0] if "Twice" in question} == {first, f"{first}-2", f"{first}-3"}


def test_ids_of_test_do_not_depend_on_train_and_no_id_is_taken_twice(put):
    put("allenai__ai2_arc/ARC-Easy/train.parquet", [arc("x", "How?"), arc("x-2", "Who?"), arc("x", "By whom?")])
    put("allenai__ai2_arc/ARC-Easy/validation.parquet", [arc("v", "Why?")])
    put("allenai__ai2_arc/ARC-Easy/test.parquet", [arc("x", "When?")])
    task = load("ARC-Easy")
    assert [e.id for e in task.test] == ["x"]
    assert {e.stem: e.id for e in task.train} == {"By whom?": "x-3", "How?": "x-4", "Who?": "x-2"}
    assert all(set(e.inputs().keys()) == {"question"} for e in task.train)


# --- Limits


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_at_least_one(limit):
    with pytest.raises(ConfigurationError, match="at least 1"):
        load("cais/mmlu:anatomy", limit=limit)


# --- Terms and overlaps


def test_data_sets_that_share_questions_are_named(put, caplog):
    assert overlapping("cais/mmlu:clinical_knowledge") == ("cais/mmlu:college_medicine",)
    assert overlapping("college_medicine") == ("cais/mmlu:clinical_knowledge",)
    assert overlapping("sentences_50agree") == ("takala/financial_phrasebank:sentences_allagree",)
    assert overlapping("anatomy") == ()
    with pytest.raises(DataError, match="no data set 'anatomie'"):
        overlapping("anatomie")
    for subject in ("college_medicine", "anatomy"):
        put(f"cais__mmlu/{subject}/test.parquet", [mmlu(f"bone {i}", 0) for i in range(20)])
        put(f"cais__mmlu/{subject}/dev.parquet", [mmlu("nerve", 0)])
        load(subject)
    warned = [record.getMessage() for record in caplog.records if "shares questions" in record.getMessage()]
    assert warned == [
        "cais/mmlu:college_medicine shares questions with cais/mmlu:clinical_knowledge; "
        "never tune on one and report on the other."
    ]


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
