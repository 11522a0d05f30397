"""The first population: the program's own instruction, the user's seeds, and the library's general ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Candidate

__all__ = ["GENERAL_INSTRUCTIONS", "Seed", "first_population", "general_instructions"]

Seed = str | Mapping[str, str]

# About the form of the answer, care and role; never about a task. A weak reference LM does not find these by itself.
GENERAL_INSTRUCTIONS: tuple[str, ...] = (
    "Reply with the answer only, in exactly the form asked for. Do not explain.",
    "Read the item carefully and begin your reply with your final answer.",
    "You are a careful expert in the field. Weigh what is given, decide, and state only your decision.",
    "Answer as briefly as possible: one word or one letter.",
)
# The same, where the allowed answers are known and few.
_NAMING_ANSWERS: tuple[str, ...] = (
    "Answer {answers}.",
    "Reply with one of these answers and nothing else: {answers}.",
)


def general_instructions(answers: Sequence[str] | None) -> list[str]:
    """List the general instructions; with the allowed answers named in some, where they are known."""
    if not answers:
        return [*GENERAL_INSTRUCTIONS]
    *most, last = answers
    words = f"{', '.join(most)} or {last}" if most else last
    return [*GENERAL_INSTRUCTIONS, *(text.format(answers=words) for text in _NAMING_ANSWERS)]


def first_population(
    original: Candidate,
    answering: str,
    seeds: Sequence[Seed] | None,
    answers: Sequence[str] | None,
) -> list[Candidate]:
    """Make the first population of a phase.

    Args:
        original: The program's own instructions; always the first.
        answering: The predictor that gives the answer: general instructions are about its form.
        seeds: The user's instructions: texts for the answering predictor, or texts by predictor name. None means
            the general ones that ship with the library; an empty sequence means none at all; seeds of one's own come
            in addition to the general ones.
        answers: The allowed answers, shared by all tasks of the phase; None when unknown.

    Raises:
        ConfigurationError: If a seed is empty or names a predictor that the program does not have.
    """
    population = [original]
    if (seeds is not None and not isinstance(seeds, Sequence)) or isinstance(seeds, str):
        raise ConfigurationError(f"seed_instructions is {seeds!r}; expected a list of texts, or None.")
    for seed in seeds or ():
        texts = {answering: seed} if isinstance(seed, str) else dict(seed) if isinstance(seed, Mapping) else {}
        unknown = sorted(set(texts) - set(original.instructions))
        if unknown or not texts or not all(isinstance(text, str) and text.strip() for text in texts.values()):
            raise ConfigurationError(
                f"seed_instructions holds {seed!r}; expected a text, or texts by predictor name out of "
                f"{sorted(original.instructions)}."
            )
        population.append(Candidate({**original.instructions, **texts}, "seed"))
    if seeds is None or len(seeds):
        population += [original.with_instruction(answering, text, "general") for text in general_instructions(answers)]
    return list(dict.fromkeys(population))
