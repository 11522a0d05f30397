"""The real data sets load, whole and clean: runs where `TP_DSPY_DATA` names the folder that they are in."""

import os
from pathlib import Path

import pytest

from tp_dspy.tasks.catalog import CATALOG, DATA_VARIABLE, load
from tp_dspy.tasks.splitting import find_overlap

FOLDER = os.environ.get(DATA_VARIABLE)  # as the tests were started, before any fixture changes it
SPLITS = ("train", "validation", "test")
# Train, validation, test.
COUNTS = {
    "cais/mmlu:anatomy": (59, 27, 54),
    "cais/mmlu:clinical_knowledge": (111, 53, 106),
    "cais/mmlu:college_biology": (62, 29, 58),
    "cais/mmlu:college_medicine": (74, 35, 69),
    "cais/mmlu:human_aging": (94, 45, 89),
    "cais/mmlu:human_sexuality": (58, 26, 52),
    "cais/mmlu:nutrition": (128, 61, 122),
    "cais/mmlu:professional_medicine": (114, 54, 109),
    "cais/mmlu:international_law": (54, 24, 48),
    "cais/mmlu:professional_law": (618, 307, 614),
    "cais/mmlu:high_school_macroeconomics": (161, 78, 156),
    "cais/mmlu:high_school_microeconomics": (100, 48, 95),
    "cais/mmlu:management": (46, 21, 41),
    "cais/mmlu:marketing": (98, 47, 94),
    "cais/mmlu:professional_accounting": (118, 56, 113),
    "cais/mmlu:abstract_algebra": (45, 20, 40),
    "cais/mmlu:astronomy": (66, 30, 61),
    "cais/mmlu:college_chemistry": (45, 20, 40),
    "cais/mmlu:college_computer_science": (45, 20, 40),
    "cais/mmlu:college_mathematics": (45, 20, 40),
    "cais/mmlu:college_physics": (40, 18, 36),
    "cais/mmlu:computer_security": (45, 20, 40),
    "cais/mmlu:conceptual_physics": (98, 47, 93),
    "cais/mmlu:electrical_engineering": (63, 29, 58),
    "cais/mmlu:elementary_mathematics": (156, 75, 151),
    "cais/mmlu:formal_logic": (56, 25, 50),
    "cais/mmlu:global_facts": (45, 20, 40),
    "cais/mmlu:high_school_chemistry": (86, 41, 81),
    "cais/mmlu:high_school_computer_science": (45, 20, 40),
    "cais/mmlu:high_school_european_history": (71, 33, 66),
    "cais/mmlu:high_school_geography": (84, 40, 79),
    "cais/mmlu:high_school_government_and_politics": (82, 39, 77),
    "cais/mmlu:high_school_mathematics": (113, 54, 108),
    "cais/mmlu:high_school_physics": (66, 30, 60),
    "cais/mmlu:high_school_psychology": (218, 107, 214),
    "cais/mmlu:high_school_statistics": (92, 43, 86),
    "cais/mmlu:high_school_world_history": (100, 47, 95),
    "cais/mmlu:logical_fallacies": (70, 33, 65),
    "cais/mmlu:machine_learning": (50, 22, 44),
    "cais/mmlu:miscellaneous": (318, 157, 313),
    "cais/mmlu:moral_disputes": (144, 69, 138),
    "cais/mmlu:moral_scenarios": (363, 179, 358),
    "cais/mmlu:philosophy": (130, 62, 124),
    "cais/mmlu:prehistory": (134, 65, 130),
    "cais/mmlu:public_relations": (48, 22, 43),
    "cais/mmlu:security_studies": (103, 49, 98),
    "cais/mmlu:sociology": (86, 40, 80),
    "cais/mmlu:us_foreign_policy": (44, 20, 40),
    "cais/mmlu:world_religions": (74, 34, 68),
    "GBaker/MedQA-USMLE-4-options": (509, 255, 509),
    "openlifescienceai/medmcqa": (1669, 834, 1668),
    "qiaojin/PubMedQA:pqa_labeled": (400, 200, 400),
    "nguha/legalbench:abercrombie": (43, 19, 38),
    "nguha/legalbench:proa": (43, 19, 38),
    "nguha/legalbench:diversity_1": (126, 60, 120),
    "nguha/legalbench:diversity_3": (126, 60, 120),
    "nguha/legalbench:diversity_5": (126, 60, 120),
    "nguha/legalbench:hearsay": (42, 19, 38),
    "nguha/legalbench:learned_hands_courts": (83, 38, 77),
    "nguha/legalbench:corporate_lobbying": (206, 98, 196),
    "coastalcph/lex_glue:case_hold": (400, 200, 400),
    "takala/financial_phrasebank:sentences_allagree": (903, 452, 904),
    "takala/financial_phrasebank:sentences_50agree": (1934, 967, 1934),
    "gtfintechlab/fomc_communication": (1916, 0, 496),
    "next-tat/TAT-QA": (967, 483, 1453),
    "allenai/ai2_arc:ARC-Challenge": (1048, 292, 1172),
    "allenai/openbookqa:main": (4907, 499, 500),
    "tau/commonsense_qa": (9741, 0, 1221),
    "lucasmccabe/logiqa": (434, 217, 651),
    "ChilleD/StrategyQA": (915, 458, 916),
    "deepmind/aqua_rat:raw": (101, 51, 102),
    "openai/gsm8k:main": (7473, 0, 1319),
    "lukaemon/bbh:date_understanding": (100, 50, 100),
    "lukaemon/bbh:disambiguation_qa": (100, 50, 100),
    "lukaemon/bbh:geometric_shapes": (100, 50, 100),
    "lukaemon/bbh:hyperbaton": (100, 50, 100),
    "lukaemon/bbh:logical_deduction_three_objects": (100, 50, 100),
    "lukaemon/bbh:logical_deduction_five_objects": (100, 50, 100),
    "lukaemon/bbh:logical_deduction_seven_objects": (100, 50, 100),
    "lukaemon/bbh:movie_recommendation": (99, 50, 100),
    "lukaemon/bbh:penguins_in_a_table": (59, 29, 58),
    "lukaemon/bbh:reasoning_about_colored_objects": (100, 50, 100),
    "lukaemon/bbh:ruin_names": (99, 50, 99),
    "lukaemon/bbh:salient_translation_error_detection": (100, 50, 100),
    "lukaemon/bbh:temporal_sequences": (100, 50, 100),
    "lukaemon/bbh:tracking_shuffled_objects_three_objects": (100, 50, 100),
    "lukaemon/bbh:tracking_shuffled_objects_five_objects": (100, 50, 100),
    "lukaemon/bbh:tracking_shuffled_objects_seven_objects": (100, 50, 100),
    "lukaemon/bbh:boolean_expressions": (100, 50, 100),
    "lukaemon/bbh:formal_fallacies": (100, 50, 100),
    "lukaemon/bbh:navigate": (100, 50, 100),
    "lukaemon/bbh:sports_understanding": (99, 50, 99),
    "lukaemon/bbh:web_of_lies": (100, 50, 100),
    "lukaemon/bbh:dyck_languages": (100, 50, 100),
    "lukaemon/bbh:multistep_arithmetic_two": (100, 50, 100),
    "lukaemon/bbh:object_counting": (100, 50, 100),
    "lukaemon/bbh:word_sorting": (100, 50, 100),
}

pytestmark = pytest.mark.skipif(not FOLDER, reason=f"{DATA_VARIABLE} names no folder of data sets")


@pytest.mark.parametrize("name", COUNTS)
def test_a_real_data_set_loads(name, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(Path(FOLDER).resolve()))
    task = load(name)
    splits = [getattr(task, split) for split in SPLITS]
    assert tuple(map(len, splits)) == COUNTS[name]
    for later, split in enumerate(splits[:2], start=1):
        assert not [example for other in splits[later:] for example in find_overlap(split, other)]
    examples = [example for split in splits for example in split]
    assert len({example.id for example in examples}) == len(examples), "ids are unique"
    for example in examples:
        assert set(example.inputs().keys()) == {"question"}
        assert example.question.strip() and example.answer.strip()
        assert example.answer in example.get("choices", [example.answer])
        assert CATALOG[name].answers is None or set(example.choices) <= set(CATALOG[name].answers)
    assert CATALOG[name].answers is None or {example.answer for example in examples} == set(CATALOG[name].answers)


def test_every_folder_is_in_the_catalogue_and_on_record():
    there = {
        name for name, data in CATALOG.items() if Path(FOLDER, data.hub.replace("/", "__"), data.config or "").is_dir()
    }
    assert there == set(COUNTS)
    hubs = {path.name for path in Path(FOLDER).iterdir() if "__" in path.name}
    assert hubs == {data.hub.replace("/", "__") for data in CATALOG.values()}


def test_what_is_declared_to_overlap_does(monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(Path(FOLDER).resolve()))
    for one, other, shared in (
        ("clinical_knowledge", "college_medicine", 83),
        ("sentences_allagree", "sentences_50agree", 2212),
    ):
        a, b = ([example for split in SPLITS for example in getattr(load(name), split)] for name in (one, other))
        assert len(find_overlap(a, b)) == shared
