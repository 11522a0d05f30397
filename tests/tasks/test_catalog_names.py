"""Data sets go by the name that the hub has for them, or by a part of it that no other has."""

from collections import Counter

import pytest

from tp_dspy.errors import DataError
from tp_dspy.tasks.catalog import CATALOG, DATA_VARIABLE, load


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Where nothing is, an error tells which data set was looked for."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("anatomy", "cais/mmlu:anatomy"),
        ("MMLU:Anatomy", "cais/mmlu:anatomy"),
        ("CAIS/MMLU:anatomy", "cais/mmlu:anatomy"),
        ("MedQA", "GBaker/MedQA-USMLE-4-options"),
        ("medmcqa", "openlifescienceai/medmcqa"),
        ("pubmedqa", "qiaojin/PubMedQA:pqa_labeled"),
        ("qiaojin/PubMedQA", "qiaojin/PubMedQA:pqa_labeled"),
        ("hearsay", "nguha/legalbench:hearsay"),
        ("casehold", "coastalcph/lex_glue:case_hold"),
        ("case_hold", "coastalcph/lex_glue:case_hold"),
        ("sentences_50agree", "takala/financial_phrasebank:sentences_50agree"),
        ("fomc", "gtfintechlab/fomc_communication"),
        ("tatqa", "next-tat/TAT-QA"),
        ("tat-qa", "next-tat/TAT-QA"),
        ("arc-challenge", "allenai/ai2_arc:ARC-Challenge"),
        ("OpenBookQA", "allenai/openbookqa:main"),
        ("commonsenseqa", "tau/commonsense_qa"),
        ("logiqa", "lucasmccabe/logiqa"),
        ("StrategyQA", "ChilleD/StrategyQA"),
        ("aqua", "deepmind/aqua_rat:raw"),
        ("gsm8k", "openai/gsm8k:main"),
        ("gsm8k:main", "openai/gsm8k:main"),
        ("word_sorting", "lukaemon/bbh:word_sorting"),
    ],
)
def test_a_part_that_only_one_data_set_has_is_a_name(short, name):
    with pytest.raises(DataError, match=f"^{name}: the folder"):
        load(short)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cais/mmlu:anatomie", "cais/mmlu:anatomy"),
        ("anatomie", "cais/mmlu:anatomy"),
        ("medqa-usmle", "GBaker/MedQA-USMLE-4-options"),
        ("gsm-8k", "openai/gsm8k:main"),
        ("allenai/ai2_arc", "allenai/ai2_arc:ARC-Easy"),
        ("phrasebank", "takala/financial_phrasebank"),
        ("cais/mmlu", "and 49 more"),
        ("bbh", "and 17 more"),
        ("main", "no data set 'main'"),
        ("raw", "no data set 'raw'"),
        ("", "no data set ''"),
        ("takala/financial_phrasebank:sentences_75agree", "sentences_50agree"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, near):
    with pytest.raises(DataError) as caught:
        load(name)
    assert repr(name) in str(caught.value)
    assert near in str(caught.value)


def test_no_two_data_sets_are_called_the_same():
    assert len({name.casefold() for name in CATALOG}) == len(CATALOG)
    for data in CATALOG.values():
        for alias in data.aliases:
            with pytest.raises(DataError, match=f"^{data.name}"):
                load(alias)


def test_the_catalogue_covers_its_data_sets_and_states_their_terms():
    subjects = [data for data in CATALOG.values() if data.hub == "cais/mmlu"]
    assert Counter(data.domain for data in subjects) == {"medical": 11, "legal": 3, "financial": 7, "general": 36}
    assert Counter(data.hub for data in CATALOG.values() if data.hub != "cais/mmlu") == {
        "GBaker/MedQA-USMLE-4-options": 1,
        "openlifescienceai/medmcqa": 1,
        "qiaojin/PubMedQA": 1,
        "nguha/legalbench": 8,
        "coastalcph/lex_glue": 1,
        "takala/financial_phrasebank": 2,
        "gtfintechlab/fomc_communication": 1,
        "next-tat/TAT-QA": 1,
        "allenai/ai2_arc": 2,
        "allenai/openbookqa": 1,
        "tau/commonsense_qa": 1,
        "lucasmccabe/logiqa": 1,
        "ChilleD/StrategyQA": 1,
        "deepmind/aqua_rat": 1,
        "openai/gsm8k": 1,
        "lukaemon/bbh": 25,
    }
    assert {data.domain for data in CATALOG.values()} == {"medical", "legal", "financial", "general"}
    assert all(data.licence and data.citation and data.description for data in CATALOG.values())
    kinds = {part for data in CATALOG.values() for _, part in data.splits}
    assert kinds <= {"train", "validation", "test", "divide", "develop"}
    assert {data.name for data in CATALOG.values() if data.non_commercial} == {
        "takala/financial_phrasebank:sentences_allagree",
        "takala/financial_phrasebank:sentences_50agree",
        "gtfintechlab/fomc_communication",
        "nguha/legalbench:learned_hands_courts",
        "lucasmccabe/logiqa",
    }
