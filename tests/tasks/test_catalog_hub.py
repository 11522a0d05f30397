"""Splits are read from the hub in the form that it has them in, without noise, and with a way out when that fails."""

import json

import datasets
import huggingface_hub
import huggingface_hub.utils
import pytest

from tp_dspy.errors import DataError, HubUnavailableError
from tp_dspy.tasks.catalog import CATALOG, DATA_VARIABLE, load
from tp_dspy.tasks.hub import CONVERTED, read_split

ROWS = [{"question": f"Which {i}?", "choices": list("wxyz"), "answer": 0} for i in range(9)]


@pytest.fixture
def hub(monkeypatch):
    """Let the hub answer with what a function returns; list what it was asked for."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    calls = []

    def install(answer):
        def load_dataset(*args, **kwargs):
            calls.append((args, kwargs))
            return datasets.Dataset.from_list(answer(*args, **kwargs))

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return install


@pytest.fixture
def tatqa_files(tmp_path, monkeypatch):
    """Let the hub have the files of TAT-QA with these contents."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)

    def install(contents):
        def download(repository, filename, *, repo_type, revision):
            assert (repository, repo_type, revision) == ("next-tat/TAT-QA", "dataset", None)
            path = tmp_path / filename
            path.write_text(json.dumps(contents(filename)), encoding="utf-8")
            return str(path)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)

    return install


def context(name):
    questions = [
        {"uid": f"{name} {i}", "question": f"What {i}?", "answer": ["a", "b"][: 1 + (i == 0)], "scale": ""}
        for i in range(7)
    ]
    return {"table": {"table": [["x"]]}, "paragraphs": [{"text": name}], "questions": questions}


def test_the_main_branch_is_read_by_configuration(hub):
    calls = hub(lambda *args, **kwargs: ROWS if kwargs["split"] == "test" else ROWS[:1])
    load("cais/mmlu:anatomy")
    assert calls == [(("cais/mmlu", "anatomy"), {"split": split}) for split in ("dev", "test")]


def test_loader_scripts_are_read_from_the_hubs_parquet_copy(hub):
    calls = hub(lambda *args, **kwargs: [{"sentence": f"Company {i}.", "label": i % 3} for i in range(9)])
    load("takala/financial_phrasebank:sentences_allagree")
    (call,) = calls
    assert call[0] == ("takala/financial_phrasebank",)
    assert call[1] == {"data_dir": "sentences_allagree", "split": "train", "revision": CONVERTED}


def test_a_copy_with_one_configuration_is_read_as_a_whole(hub):
    calls = hub(lambda *args, **kwargs: ROWS)
    read_split(CATALOG["lucasmccabe/logiqa"], "test")
    assert calls == [(("lucasmccabe/logiqa",), {"split": "test", "revision": CONVERTED})]


def test_a_repository_that_turns_out_to_be_a_script_is_read_from_its_copy(hub):
    def answer(*args, **kwargs):
        if "revision" not in kwargs:
            raise RuntimeError("Dataset scripts are no longer supported, but found mmlu.py")
        return ROWS

    calls = hub(answer)
    assert len(read_split(CATALOG["cais/mmlu:anatomy"], "test")) == 9
    assert calls[1] == (("cais/mmlu",), {"data_dir": "anatomy", "split": "test", "revision": CONVERTED})


def test_the_first_alternative_that_the_hub_has_is_read(hub):
    def answer(*args, **kwargs):
        if kwargs["split"] == "test":
            raise ValueError('Unknown split "test". Should be one of ["train", "validation"].')
        return [{"qid": kwargs["split"]}]

    hub(answer)
    strategyqa = CATALOG["ChilleD/StrategyQA"]
    assert read_split(strategyqa, "test|validation") == [{"qid": "validation"}]
    with pytest.raises(HubUnavailableError, match="Unknown split"):
        read_split(strategyqa, "test")


@pytest.mark.parametrize("name", ["cais/mmlu:anatomy", "next-tat/TAT-QA", "ChilleD/StrategyQA"])
def test_a_hub_out_of_reach_offers_the_folder_and_the_starter_sets(name, monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(HubUnavailableError, match="no route") as caught:
        load(name)
    assert DATA_VARIABLE in str(caught.value)
    assert CATALOG[name].hub.replace("/", "__") in str(caught.value)
    assert "Task.starter('medical')" in str(caught.value)


def test_tatqa_is_read_from_its_json(tatqa_files):
    tatqa_files(lambda filename: [context(filename)])
    task = load("tat-qa")
    assert [len(task.train), len(task.validation), len(task.test)] == [4, 2, 6]
    assert {example.id.split()[0] for example in task.test} == {"tatqa_dataset_test_gold.json"}


@pytest.mark.parametrize("contents", [{"data": []}, [{"table": {}}], [3], [{**context("x"), "questions": [{}]}]])
def test_json_of_another_form_is_a_data_error(tatqa_files, contents):
    tatqa_files(lambda filename: contents)
    with pytest.raises(DataError, match=r"'tatqa_dataset_dev\.json' of the hub is not nested as expected"):
        load("tat-qa")


def test_every_split_in_json_has_its_file():
    for data in CATALOG.values():
        assert bool(data.files) == bool(data.flatten)
        assert not data.files or dict(data.files).keys() == {split for split, _ in data.splits}


@pytest.mark.parametrize("shown_before", [True, False])
def test_progress_bars_are_quiet_only_while_reading(hub, monkeypatch, shown_before):
    libraries = (datasets, huggingface_hub.utils)
    seen = []

    def answer(*args, **kwargs):
        seen.extend(library.are_progress_bars_disabled() for library in libraries)
        return ROWS

    hub(answer)
    before = [library.are_progress_bars_disabled() for library in libraries]
    for library in libraries:
        (library.enable_progress_bars if shown_before else library.disable_progress_bars)()
    read_split(CATALOG["cais/mmlu:anatomy"], "test")
    after = [library.are_progress_bars_disabled() for library in libraries]
    for library, disabled in zip(libraries, before, strict=True):
        (library.disable_progress_bars if disabled else library.enable_progress_bars)()
    assert seen == [True, True]
    assert after == [not shown_before] * 2
