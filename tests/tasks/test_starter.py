"""The question sets that ship with the library: the loader, and the questions themselves."""

import json
import re
from collections import Counter, defaultdict
from itertools import combinations

import pytest

from tp_dspy.errors import DataError
from tp_dspy.tasks import starter
from tp_dspy.tasks.splitting import normalize
from tp_dspy.tasks.starter import STARTER_DOMAINS, STARTER_KINDS, load_starter
from tp_dspy.tasks.task import Task

ANSWERS = {
    "choice": {"A", "B", "C", "D"},
    "yes_no": {"yes", "no"},
    "sentiment": {"positive", "negative", "neutral"},
}
KINDS = {"financial": {"choice", "yes_no", "sentiment"}, "legal": {"choice", "yes_no"}, "medical": {"choice", "yes_no"}}
SPLITS = {"train", "validation", "test"}
PREFIX = {"choice": "c", "yes_no": "y", "sentiment": "s"}


# --- The loader, on a set of its own


@pytest.fixture
def own_set(tmp_path, monkeypatch):
    rows = []
    for split in SPLITS:
        rows += [
            {
                "id": f"c-{split}",
                "kind": "choice",
                "question": f"Which {split} one?",
                "options": list("wxyz"),
                "answer": "B",
            },
            {"id": f"y-{split}", "kind": "yes_no", "question": f"Is {split} it?", "answer": "no"},
            {"id": f"s-{split}", "kind": "sentiment", "question": f"Shares of {split} rose.", "answer": "positive"},
        ]
        for row in rows[-3:]:
            row |= {"split": split, "topic": "tests"}
    (tmp_path / "financial.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    monkeypatch.setattr(starter, "_data_folder", lambda: tmp_path)


def test_every_kind_has_the_catalogues_shape(own_set):
    examples = {example.kind: example for example in load_starter("financial").train}
    assert all(set(example.inputs().keys()) == {"question"} for example in examples.values())
    assert examples["choice"].question == "Which train one?\nA. w\nB. x\nC. y\nD. z"
    assert (examples["choice"].answer, examples["choice"].choices) == ("B", ["A", "B", "C", "D"])
    assert examples["yes_no"].question == "Is train it?"
    assert examples["yes_no"].choices == ["yes", "no"]
    assert examples["sentiment"].question == "Sentence: Shares of train rose."
    assert examples["sentiment"].choices == ["positive", "negative", "neutral"]
    assert examples["yes_no"].id == "y-train"


def test_a_kind_can_be_picked(own_set):
    task = Task.starter("financial", kind="yes_no")
    assert task.name == "starter/financial:yes_no"
    assert (len(task.train), len(task.validation), len(task.test)) == (1, 1, 1)
    assert task.answers == ("yes", "no")
    assert task.description == "yes/no questions about finance and economics"
    assert task.domain == "financial"


def test_all_kinds_together_say_so(own_set):
    task = load_starter("financial")
    assert task.name == "starter/financial"
    assert len(task.test) == 3
    assert all(word in task.description for word in ("multiple-choice", "yes/no", "sentences"))


def test_an_unknown_domain_lists_what_there_is():
    with pytest.raises(DataError, match=r"'cooking'.*'financial', 'legal', 'medical'"):
        load_starter("cooking")


def test_an_unknown_kind_lists_what_the_domain_has(own_set):
    with pytest.raises(DataError, match=r"'essay'.*'choice', 'yes_no', 'sentiment'"):
        load_starter("financial", kind="essay")


# --- The questions


@pytest.fixture(scope="module")
def sets():
    folder = starter._data_folder()
    read = {d: (folder / f"{d}.jsonl").read_text(encoding="utf-8").splitlines() for d in STARTER_DOMAINS}
    return {domain: [json.loads(line) for line in lines] for domain, lines in read.items()}


@pytest.mark.parametrize("domain", STARTER_DOMAINS)
def test_every_line_keeps_to_the_schema(sets, domain):
    assert len(sets[domain]) >= 120
    assert {row["kind"] for row in sets[domain]} == KINDS[domain] <= set(STARTER_KINDS)
    for row in sets[domain]:
        fields = [
            "id",
            "kind",
            "question",
            *(["options"] if row["kind"] == "choice" else []),
            "answer",
            "split",
            "topic",
        ]
        assert list(row) == fields, row["id"]
        assert re.fullmatch(rf"[a-z]+-{PREFIX[row['kind']]}-\d{{3}}", row["id"])
        assert row["answer"] in ANSWERS[row["kind"]], row["id"]
        assert row["split"] in SPLITS, row["id"]
        assert row["question"] == row["question"].strip() != "" and "\n" not in row["question"], row["id"]
        assert row["topic"].strip(), row["id"]


@pytest.mark.parametrize("domain", STARTER_DOMAINS)
def test_options_are_four_and_differ(sets, domain):
    for row in sets[domain]:
        if row["kind"] == "choice":
            assert all(isinstance(option, str) and option.strip() for option in row["options"]), row["id"]
            assert len({normalize(option) for option in row["options"]}) == len(row["options"]) == 4, row["id"]
            assert not any(re.match(r"\(?[A-Da-d][.)] ", option) for option in row["options"]), row["id"]


def test_ids_are_unique_over_all_sets(sets):
    ids = Counter(row["id"] for rows in sets.values() for row in rows)
    assert not [name for name, count in ids.items() if count > 1]


@pytest.mark.parametrize("domain", STARTER_DOMAINS)
def test_answers_are_balanced_in_every_split_of_every_kind(sets, domain):
    counts = defaultdict(Counter)
    for row in sets[domain]:
        counts[row["kind"], row["split"]][row["answer"]] += 1
    assert set(counts) == {(kind, split) for kind in KINDS[domain] for split in SPLITS}
    for (kind, split), answers in counts.items():
        share = max(answers.values()) / answers.total()
        assert set(answers) == ANSWERS[kind], (kind, split)
        assert share <= 1.35 / len(ANSWERS[kind]), (kind, split, answers)


def test_no_question_comes_back_in_another_split(sets):
    rows = [(set(normalize(r["question"]).split()), r) for rows in sets.values() for r in rows]
    near = [
        (a["id"], b["id"])
        for (words_a, a), (words_b, b) in combinations(rows, 2)
        if a["split"] != b["split"] and len(words_a & words_b) >= 0.8 * len(words_a | words_b)
    ]
    assert not near


@pytest.mark.parametrize("domain", STARTER_DOMAINS)
def test_the_sets_load_without_overlap(domain, recwarn):
    task = load_starter(domain)
    assert min(len(task.train), len(task.validation), len(task.test)) >= 24
    assert not recwarn.list
