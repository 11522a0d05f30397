"""Data sets of many small tasks: MMLU, LegalBench and BIG-Bench Hard."""

from __future__ import annotations

from collections.abc import Iterator

from tp_dspy.tasks import readers
from tp_dspy.tasks.hub import CONVERTED, DataSet

__all__ = ["bbh", "legalbench", "mmlu"]

_FOUR = readers.LETTERS[:4]
_YES_NO = ("Yes", "No")

_MMLU = {
    "medical": "anatomy clinical_knowledge college_biology college_medicine high_school_biology human_aging "
    "human_sexuality medical_genetics nutrition professional_medicine virology",
    "legal": "international_law jurisprudence professional_law",
    "financial": "business_ethics econometrics high_school_macroeconomics high_school_microeconomics management "
    "marketing professional_accounting",
    "general": "abstract_algebra astronomy college_chemistry college_computer_science college_mathematics "
    "college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics formal_logic "
    "global_facts high_school_chemistry high_school_computer_science high_school_european_history "
    "high_school_geography high_school_government_and_politics high_school_mathematics high_school_physics "
    "high_school_psychology high_school_statistics high_school_us_history high_school_world_history "
    "logical_fallacies machine_learning miscellaneous moral_disputes moral_scenarios philosophy prehistory "
    "professional_psychology public_relations security_studies sociology us_foreign_policy world_religions",
}

_DIVERSITY = (
    "short accounts of who sues whom, from which states and for how much, to be judged by whether a US federal court "
    "has diversity jurisdiction: Yes if no plaintiff is from the same state as a defendant and the amount in "
    "controversy is above $75,000, else No; here with {}"
)
_TEXT = {"Text": "text"}
# Task: answers, what to write before each column, question, description.
_LEGALBENCH = {
    "abercrombie": (
        ("generic", "descriptive", "suggestive", "arbitrary", "fanciful"),
        _TEXT,
        "How distinctive is the mark?",
        "trademarks and what they are used for, to be placed on the Abercrombie scale of distinctiveness: generic (the "
        "name of the product itself), descriptive (names a quality of it), suggestive (hints at a quality, which takes "
        "some imagination), arbitrary (a real word that has nothing to do with it) or fanciful (an invented word)",
    ),
    "proa": (
        _YES_NO,
        {"Statute": "text"},
        "Does it create a private right of action?",
        "clauses of statutes, to be judged by whether they let a private person sue in court (Yes) or not (No)",
    ),
    **{
        f"diversity_{number}": (_YES_NO, _TEXT, "Is there diversity jurisdiction?", _DIVERSITY.format(parties))
        for number, parties in (
            (1, "two parties and one claim"),
            (3, "two parties and two claims, whose amounts add up"),
            (5, "two plaintiffs, one defendant and two claims, whose amounts add up"),
        )
    },
    "hearsay": (
        _YES_NO,
        _TEXT,
        "Is it hearsay?",
        "pieces of evidence and the issue they are to prove, to be judged by whether they are hearsay: Yes for a "
        "statement made outside of court that is offered to prove that what it says is true, else No",
    ),
    "learned_hands_courts": (
        _YES_NO,
        {"Post": "text"},
        "Is it about dealing with courts or lawyers?",
        "posts by people who seek legal help online, to be judged by whether they are about how to deal with courts, "
        "lawyers or court procedure: Yes or No",
    ),
    "corporate_lobbying": (
        _YES_NO,
        {
            "Title of the bill": "bill_title",
            "Summary of the bill": "bill_summary",
            "Company": "company_name",
            "Description of the company": "company_description",
        },
        "Is the bill relevant to the company?",
        "bills of the US Congress beside companies, to be judged by whether the bill could matter to the company so "
        "that it would lobby on it: Yes or No",
    ),
}

_COUNTS = ("three", "five", "seven")
# Tasks whose input lists lettered options.
_BBH_OPTIONS = {
    "date_understanding": "dates to be inferred from a short text",
    "disambiguation_qa": "sentences with a pronoun, of which to say what it refers to or that it is ambiguous",
    "geometric_shapes": "SVG paths, of which to name the shape that they draw",
    "hyperbaton": "pairs of phrases, of which to find the one with its adjectives in the usual order",
    **{
        f"logical_deduction_{n}_objects": f"clues to the order of {n} things, of which to infer a place"
        for n in _COUNTS
    },
    "movie_recommendation": "lists of films, to each of which a similar film is to be found",
    "penguins_in_a_table": "questions about a small table of penguins",
    "reasoning_about_colored_objects": "questions about the colours of things that lie on a surface",
    "ruin_names": "names of artists and films, of which to find the humorous edit",
    "salient_translation_error_detection": "flawed translations from German, of which to find the kind of error",
    "temporal_sequences": "accounts of somebody's day, from which to infer when they could have gone somewhere",
    **{
        f"tracking_shuffled_objects_{n}_objects": f"swaps among {n} people, after which to say who has what"
        for n in _COUNTS
    },
}
_BBH_WORDED = {
    "boolean_expressions": (("True", "False"), "logical expressions, to be worked out as True or False"),
    "formal_fallacies": (("valid", "invalid"), "arguments, to be judged as deductively valid or invalid"),
    "navigate": (_YES_NO, "walking instructions, of which to say whether they lead back to the start: Yes or No"),
    "sports_understanding": (
        ("yes", "no"),
        "made-up sentences about sports, of which to say whether they are plausible: yes if the person belongs to "
        "the sport that the sentence is about, else no",
    ),
    "web_of_lies": (_YES_NO, "chains of people who lie or tell the truth, of which to say if the last does: Yes or No"),
}
_BBH_FREE = {
    "dyck_languages": "sequences of brackets, to be completed so that all are closed; the answer is what is missing",
    "multistep_arithmetic_two": "arithmetic expressions of small numbers, to be worked out; the answer is the number",
    "object_counting": "lists of things, of which to count those of one kind; the answer is the number in digits",
    "word_sorting": "lists of words, to be put in alphabetical order; the answer is the words, with spaces between",
}


def mmlu() -> Iterator[DataSet]:
    """List the subjects of MMLU."""
    for domain, subjects in _MMLU.items():
        for subject in subjects.split():
            yield DataSet(
                hub="cais/mmlu",
                config=subject,
                # The hub's validation split is left alone: not every copy has it, and a task must be the same in all.
                splits=(("dev", "train"), ("test", "divide")),
                to_example=readers.mmlu,
                domain=domain,
                description=f"multiple-choice exam questions about {subject.replace('_', ' ')}, each with four "
                "lettered options of which one is right",
                answers=_FOUR,
                licence="MIT",
                citation="Hendrycks et al. 2021, arXiv 2009.03300",
            )


def legalbench() -> Iterator[DataSet]:
    """List the tasks of LegalBench."""
    for task, (answers, columns, question, description) in _LEGALBENCH.items():
        non_commercial = task == "learned_hands_courts"
        yield DataSet(
            hub="nguha/legalbench",
            config=task,
            splits=(("train", "train"), ("test", "divide")),
            to_example=readers.titled(columns, question, answers),
            domain="legal",
            description=description,
            answers=answers,
            licence="CC BY-NC-SA 4.0" if non_commercial else "CC BY 4.0",
            citation="Guha et al. 2023, arXiv 2308.11462",
            non_commercial=non_commercial,
            revision=CONVERTED,
        )


def bbh() -> Iterator[DataSet]:
    """List the tasks of BIG-Bench Hard."""
    tasks = {
        **{
            task: (readers.options_inside, None, f"{text}; each with lettered options of which one is right")
            for task, text in _BBH_OPTIONS.items()
        },
        **{task: (readers.worded(answers), answers, text) for task, (answers, text) in _BBH_WORDED.items()},
        **{task: (readers.free_text, None, text) for task, text in _BBH_FREE.items()},
    }
    for task, (reader, answers, description) in tasks.items():
        yield DataSet(
            hub="lukaemon/bbh",
            config=task,
            splits=(("test", "divide"),),
            to_example=reader,
            domain="general",
            description=description,
            answers=answers,
            licence="MIT",
            citation="Suzgun et al. 2022, arXiv 2210.09261",
            revision=CONVERTED,
        )
