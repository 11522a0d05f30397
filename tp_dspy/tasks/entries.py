"""The data sets of the catalogue, each a few declarative lines."""

from __future__ import annotations

from collections.abc import Iterator

from tp_dspy.tasks import readers, suites
from tp_dspy.tasks.hub import CONVERTED, DataSet

__all__ = ["OVERLAPS", "entries"]

OVERLAPS = (
    ("cais/mmlu:clinical_knowledge", "cais/mmlu:college_medicine"),
    ("takala/financial_phrasebank:sentences_allagree", "takala/financial_phrasebank:sentences_50agree"),
)
"""Groups of entries that share questions."""

_FOUR = readers.LETTERS[:4]
_FIVE = readers.LETTERS[:5]
_PUBLISHED = (("train", "train"), ("validation", "validation"), ("test", "test"))


def entries() -> Iterator[DataSet]:
    """List all data sets, by domain from the special to the general."""
    yield from suites.mmlu()
    yield from _medical()
    yield from _legal()
    yield from _financial()
    yield from _exams()
    yield from _mathematics()
    yield from suites.bbh()


def _medical() -> Iterator[DataSet]:
    yield DataSet(
        hub="GBaker/MedQA-USMLE-4-options",
        splits=(("test", "divide"),),
        to_example=readers.medqa,
        domain="medical",
        description="questions of the US medical licensing exam, each with four lettered options of which one is right",
        answers=_FOUR,
        licence="MIT",
        citation="Jin et al. 2020, arXiv 2009.13081",
        aliases=("medqa",),
    )
    yield DataSet(
        hub="openlifescienceai/medmcqa",
        splits=(("validation", "divide"),),  # the hub's test split has no answers
        to_example=readers.medmcqa,
        domain="medical",
        description="questions of Indian medical entrance exams, each with four lettered options of which one is right",
        answers=_FOUR,
        licence="MIT",
        citation="Pal et al. 2022, arXiv 2203.14371",
    )
    yield DataSet(
        hub="qiaojin/PubMedQA",
        config="pqa_labeled",
        splits=(("train", "divide"),),
        to_example=readers.pubmedqa,
        domain="medical",
        description="questions about biomedical research, to be answered with yes, no or maybe from a study's abstract",
        answers=("yes", "no", "maybe"),
        licence="MIT",
        citation="Jin et al. 2019, arXiv 1909.06146",
    )


def _legal() -> Iterator[DataSet]:
    yield from suites.legalbench()
    yield DataSet(
        hub="coastalcph/lex_glue",
        config="case_hold",
        splits=(("test", "divide"),),
        to_example=readers.casehold,
        domain="legal",
        description="excerpts of US court opinions with a cited holding taken out (<HOLDING>), each with five lettered "
        "holdings of which one belongs there",
        answers=_FIVE,
        licence="CC BY 4.0 on the hub, Apache-2.0 by its authors",
        citation="Zheng et al. 2021, arXiv 2104.08671, and Chalkidis et al. 2022, arXiv 2110.00976",
        aliases=("casehold",),
    )


def _financial() -> Iterator[DataSet]:
    for config in ("sentences_allagree", "sentences_50agree"):
        yield DataSet(
            hub="takala/financial_phrasebank",
            config=config,
            splits=(("train", "divide"),),
            to_example=readers.labelled(("negative", "neutral", "positive")),
            domain="financial",
            description="sentences from financial news, to be judged as positive, negative or neutral for an investor",
            answers=("negative", "neutral", "positive"),
            licence="CC BY-NC-SA 3.0",
            citation="Malo et al. 2014, arXiv 1307.5336",
            non_commercial=True,
            revision=CONVERTED,
        )
    yield DataSet(
        hub="gtfintechlab/fomc_communication",
        splits=(("train", "train"), ("test", "test")),
        to_example=readers.labelled(("dovish", "hawkish", "neutral")),
        domain="financial",
        description="sentences of the US Federal Open Market Committee, to be judged by their stance on monetary "
        "policy: dovish (easier), hawkish (tighter) or neutral",
        answers=("dovish", "hawkish", "neutral"),
        licence="CC BY-NC 4.0",
        citation="Shah et al. 2023, arXiv 2305.07972",
        non_commercial=True,
        aliases=("fomc",),
    )
    yield DataSet(
        hub="next-tat/TAT-QA",
        splits=(("validation", "develop"), ("test", "test")),
        to_example=readers.tatqa,
        domain="financial",
        description="questions about a table and some text of a financial report, each with one short answer: words "
        "of the report, a count, or a number with its scale as in 1,234.5 million, 67 thousand or 8.9%",
        licence="CC BY 4.0",
        citation="Zhu et al. 2021, arXiv 2105.07624",
        files=(("validation", "tatqa_dataset_dev.json"), ("test", "tatqa_dataset_test_gold.json")),
        flatten=readers.tatqa_rows,
        aliases=("tatqa",),
    )


def _exams() -> Iterator[DataSet]:
    for config, level in (("ARC-Challenge", "hard"), ("ARC-Easy", "easy")):
        yield DataSet(
            hub="allenai/ai2_arc",
            config=config,
            splits=_PUBLISHED,
            to_example=readers.keyed(),
            domain="general",
            description=f"{level} science questions for schools, each with lettered options of which one is right",
            licence="CC BY-SA 4.0",
            citation="Clark et al. 2018, arXiv 1803.05457",
            same_stem=True,
        )
    yield DataSet(
        hub="allenai/openbookqa",
        config="main",
        splits=_PUBLISHED,
        to_example=readers.keyed("question_stem"),
        domain="general",
        description="elementary science questions, each with four lettered options of which one is right",
        answers=_FOUR,
        licence="Apache-2.0",
        citation="Mihaylov et al. 2018, arXiv 1809.02789",
        same_stem=True,
    )
    yield DataSet(
        hub="tau/commonsense_qa",
        splits=(("train", "train"), ("validation", "test")),  # the hub's test split has no answers
        to_example=readers.keyed(),
        domain="general",
        description="everyday questions that take common sense, each with five lettered options of which one fits best",
        answers=_FIVE,
        licence="MIT",
        citation="Talmor et al. 2019, arXiv 1811.00937",
        aliases=("commonsenseqa",),
    )
    yield DataSet(
        hub="lucasmccabe/logiqa",
        splits=(("validation", "develop"), ("test", "test")),
        to_example=readers.logiqa,
        domain="general",
        description="logic questions of Chinese civil service exams in English translation, each with four lettered "
        "options of which one follows",
        answers=_FOUR,
        licence="none stated; LogiQA 2.0, which has the same questions, is under CC BY-NC-SA 4.0",
        citation="Liu et al. 2020, arXiv 2007.08124",
        non_commercial=True,
        revision=CONVERTED,
    )
    yield DataSet(
        hub="ChilleD/StrategyQA",
        # Copies differ in how they split the same questions.
        splits=(("train", "divide"), ("test|validation", "divide")),
        to_example=readers.strategyqa,
        domain="general",
        description="questions to be answered with yes or no from several facts that are not given",
        answers=("yes", "no"),
        licence="MIT",
        citation="Geva et al. 2021, arXiv 2101.02235",
    )


def _mathematics() -> Iterator[DataSet]:
    yield DataSet(
        hub="deepmind/aqua_rat",
        config="raw",
        splits=(("test", "divide"),),
        to_example=readers.aqua,
        domain="general",
        description="algebraic word problems, each with five lettered options of which one is right",
        answers=_FIVE,
        licence="Apache-2.0",
        citation="Ling et al. 2017, arXiv 1705.04146",
        aliases=("aqua",),
    )
    yield DataSet(
        hub="openai/gsm8k",
        config="main",
        splits=(("train", "train"), ("test", "test")),
        to_example=readers.gsm8k,
        domain="general",
        description="word problems of grade-school arithmetic; the answer is a number in digits, without unit",
        licence="MIT",
        citation="Cobbe et al. 2021, arXiv 2110.14168",
    )
