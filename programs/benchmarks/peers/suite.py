"""The targets, their sources, and a prompt for each that a person wrote who read a few of its training questions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import dspy

from tp_dspy import Task

__all__ = ["QUICK", "SUITE", "Target", "listed"]


@dataclass(frozen=True)
class Target:
    """A target task.

    Attributes:
        name: As in the catalogue, or a starter set.
        sources: Source tasks, likewise; none of them is a target.
        by_hand: A good prompt, written by hand.
        domain: Medical, legal, financial or general.
    """

    name: str
    sources: tuple[str, ...]
    by_hand: str
    domain: str


_PHRASEBANK = "takala/financial_phrasebank:sentences_allagree"
_LETTER = "Answer with only the letter of the correct option."

SUITE: tuple[Target, ...] = (
    Target(
        "nguha/legalbench:hearsay",
        ("nguha/legalbench:proa", "nguha/legalbench:learned_hands_courts", _PHRASEBANK),
        "Hearsay is a statement made out of court that is offered to prove that what it says is true. Something done "
        "without words, or a statement offered for another purpose or made in this court, is not. Is the evidence "
        "hearsay? Answer Yes or No, nothing else.",
        "legal",
    ),
    Target(
        "gtfintechlab/fomc_communication",
        (_PHRASEBANK, "cais/mmlu:high_school_macroeconomics"),
        "Decide which way the sentence leans on monetary policy. hawkish: tighter policy, higher rates, worry about "
        "inflation. dovish: easier policy, lower rates, worry about jobs or growth. neutral: neither. Reply with one "
        "of the words dovish, hawkish, neutral, and nothing else.",
        "financial",
    ),
    Target(
        "qiaojin/PubMedQA:pqa_labeled",
        ("cais/mmlu:clinical_knowledge", "openlifescienceai/medmcqa", "nguha/legalbench:proa"),
        "Read the abstract and answer the research question from it. Say yes if the findings support it, no if they "
        "speak against it, maybe if they leave it open. Reply with one word: yes, no or maybe.",
        "medical",
    ),
    Target("cais/mmlu:anatomy", ("cais/mmlu:nutrition", "openlifescienceai/medmcqa"), _LETTER, "medical"),
    Target("tau/commonsense_qa", ("allenai/openbookqa:main", "cais/mmlu:miscellaneous"), _LETTER, "general"),
    Target(
        "lukaemon/bbh:sports_understanding",
        ("ChilleD/StrategyQA", "lukaemon/bbh:navigate"),
        "Is the sentence about sports plausible? It is if the athlete named plays the sport that the action belongs "
        "to. Answer yes or no, nothing else.",
        "general",
    ),
    Target(
        "nguha/legalbench:abercrombie",
        ("nguha/legalbench:proa", "nguha/legalbench:learned_hands_courts", _PHRASEBANK),
        "How distinctive is the mark for the product? generic: the common name of the product. descriptive: says what "
        "the product is like. suggestive: hints at it, so that one has to think. arbitrary: a real word that has "
        "nothing to do with it. fanciful: an invented word. Reply with one of these words, nothing else.",
        "legal",
    ),
    Target(
        "cais/mmlu:marketing",
        ("cais/mmlu:management", "cais/mmlu:high_school_microeconomics"),
        _LETTER,
        "financial",
    ),
)
"""Real tasks of the catalogue, from the hub or from the folder that ``TP_DSPY_DATA`` names."""

QUICK: tuple[Target, ...] = (
    Target(
        "starter/financial:yes_no",
        ("starter/medical:yes_no", "starter/legal:yes_no"),
        "Decide whether the statement about finance is right. Reply with one word, yes or no.",
        "financial",
    ),
    Target(
        "starter/legal:yes_no",
        ("starter/medical:yes_no", "starter/financial:yes_no"),
        "Decide whether the statement about law is right. Reply with one word, yes or no.",
        "legal",
    ),
)
"""Two targets that ship with the library, for a first look without any download."""


def listed(task: Task) -> Task:
    """Write the allowed answers below each question that does not list options.

    So the program of every optimiser knows them. A table in which some could name them, and others had to find out,
    would compare just that.
    """

    def shown(examples: Iterable[dspy.Example]) -> list[dspy.Example]:
        return [
            # Lettered options are part of the question already, and others may be.
            example
            if example.get("options") or not example.get("choices") or "\nOptions:" in example.question
            else example.copy(question=f"{example.question}\nOptions: {', '.join(example.choices)}")
            for example in examples
        ]

    about = {"domain": task.domain, "description": task.description, "answers": task.answers}
    splits = {"train": shown(task.train), "validation": shown(task.validation), "test": shown(task.test)}
    return Task(task.name, **splits, **about)  # type: ignore[arg-type]
