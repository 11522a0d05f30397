"""No reader asks for a column that its data set does not have: each reads made-up rows in the recorded columns."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tp_dspy.tasks.catalog import CATALOG, DATA_VARIABLE, load
from tp_dspy.tasks.readers import LETTERS, options_inside

SCHEMAS = json.loads((Path(__file__).parent / "schemas.json").read_text(encoding="utf-8"))
REAL_FOLDER = os.environ.get(DATA_VARIABLE)
ROWS = 12


def schema_of(data):
    columns = SCHEMAS.get(data.name) or SCHEMAS[data.hub]
    return pa.schema([(name, arrow_type(kind)) for name, kind in columns.items()])


def arrow_type(kind):
    if isinstance(kind, list):
        return pa.list_(arrow_type(kind[0]))
    if isinstance(kind, dict):
        return pa.struct([(name, arrow_type(inner)) for name, inner in kind.items()])
    return {"string": pa.string(), "bool": pa.bool_(), "int32": pa.int32(), "int64": pa.int64()}[kind]


def value(kind, text):
    """A value of a recorded type; texts, and so items, differ by `text`."""
    if isinstance(kind, list):
        return [value(kind[0], f"{text} part {i}") for i in range(4)]
    if isinstance(kind, dict):
        return {name: value(inner, f"{text} {name}") for name, inner in kind.items()}
    return {"string": text, "bool": len(text) % 2 == 0, "int32": 1, "int64": 1}[kind]


def special(data, number):
    """What has to fit together in a row, as opposed to any text."""
    four = [f"option {number} {i}" for i in range(4)]
    by_hub = {
        "GBaker/MedQA-USMLE-4-options": {"answer_idx": "C"},
        "allenai/ai2_arc": {"choices": {"text": four, "label": list("1234")}, "answerKey": "2"},
        "allenai/openbookqa": {"choices": {"text": four, "label": list("ABCD")}, "answerKey": "D"},
        "deepmind/aqua_rat": {"options": [f"{letter}){i}" for i, letter in enumerate("ABCDE")], "correct": "E"},
        "next-tat/TAT-QA": {"answer": json.dumps(["word"] * (1 + number % 2)), "scale": ""},
        "openai/gsm8k": {"answer": f"Sum it up.\n#### {number}"},
        "qiaojin/PubMedQA": {"pubid": number, "final_decision": ("yes", "no", "maybe")[number % 3]},
        "tau/commonsense_qa": {"choices": {"text": [*four, "e"], "label": list("ABCDE")}, "answerKey": "A"},
    }
    if data.to_example is options_inside:
        return {"input": f"Which {number}?\nOptions:\n(A) one\n(B) two", "target": "(B)"}
    if data.hub in ("nguha/legalbench", "lukaemon/bbh"):
        answers = data.answers or ("7",)
        return {"answer": answers[number % len(answers)], "target": answers[number % len(answers)]}
    return by_hub.get(data.hub, {})


def rows_for(data, split_number):
    columns = SCHEMAS.get(data.name) or SCHEMAS[data.hub]
    for number in range(split_number * ROWS, (split_number + 1) * ROWS):
        fitting = {name: kept for name, kept in special(data, number).items() if name in columns}
        yield {name: value(kind, f"{name} of item {number}") for name, kind in columns.items()} | fitting


@pytest.mark.parametrize("name", CATALOG)
def test_every_entry_reads_the_columns_on_record(name, tmp_path, monkeypatch):
    data = CATALOG[name]
    folder = tmp_path / data.hub.replace("/", "__") / (data.config or "")
    folder.mkdir(parents=True)
    for number, (split, _) in enumerate(data.splits):
        table = pa.Table.from_pylist(list(rows_for(data, number)), schema=schema_of(data))
        pq.write_table(table, folder / f"{split.split('|')[-1]}.parquet")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    task = load(name)
    read = [*task.train, *task.validation, *task.test]
    assert len(read) == ROWS * len(data.splits) // (2 if data.hub == "next-tat/TAT-QA" else 1)
    assert task.train and task.test
    for example in read:
        assert set(example.inputs().keys()) == {"question"}
        assert example.answer in example.get("choices", [example.answer])
        assert ("stem" in example) == ("options" in example)
        if "options" in example and data.to_example is not options_inside:
            assert example.choices == list(LETTERS[: len(example.options)])
            assert all(option in example.question for option in example.options)


def test_the_record_covers_the_catalogue_and_nothing_else():
    groups = {data.name if data.name in SCHEMAS else data.hub for data in CATALOG.values()}
    assert groups == set(SCHEMAS)


@pytest.mark.skipif(not REAL_FOLDER, reason=f"{DATA_VARIABLE} names no folder of data sets")
def test_the_record_agrees_with_the_real_files():
    compared = 0
    for data in CATALOG.values():
        folder = Path(REAL_FOLDER, data.hub.replace("/", "__"), data.config or "")
        for path in folder.glob("*.parquet"):
            assert pq.read_schema(path).remove_metadata().equals(schema_of(data)), path
            compared += 1
    assert compared >= 100
