"""The allowed answers: listed by the user, by an example, or by the type of a field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import dspy

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.lms.answers import choices_of_type, listed_choices

__all__ = ["AllowedAnswers", "Choices", "TypedChoices"]

Choices = str | Sequence[str]
"""The allowed answers, or the name of the example's field that lists them."""

TypedChoices = Mapping[str, Sequence[str] | None]
"""The allowed answers by the types of a program's answer fields, by field; None for one that takes any text."""


@dataclass(frozen=True)
class AllowedAnswers:
    """Where the allowed answers of each answer field are to be found.

    Attributes:
        by_field: By answer field the allowed answers, or the name of the example's field that lists them.
    """

    by_field: Mapping[str, str | tuple[str, ...]]

    @classmethod
    def of(cls, choices: Choices | Mapping[str, Choices], answers: Sequence[str]) -> Self:
        """Read what a user gave.

        Raises:
            ConfigurationError: If the choices do not fit the answer fields.
        """
        if not isinstance(choices, Mapping):
            if len(answers) > 1 and choices == "choices":
                return cls({name: f"{name}_choices" for name in answers})
            if len(answers) > 1:
                raise ConfigurationError(
                    f"choices is {choices!r} and there are {len(answers)} answer fields; expected a mapping by field: "
                    f"{{{answers[0]!r}: [...]}}."
                )
            return cls(dict.fromkeys(answers, _own_choices(choices)))
        strangers = sorted(set(choices) - set(answers))
        if strangers:
            raise ConfigurationError(f"choices names {strangers}; the answer fields are {list(answers)}.")
        # A field that is not named has its answers by its type, or is free text.
        return cls({name: _own_choices(choices.get(name, f"{name}_choices")) for name in answers})

    def listed(self, example: dspy.Example, field: str) -> tuple[str, ...] | None:
        """Tell the allowed answers of a field that the settings or an example list; None when neither does.

        Raises:
            DataError: If the example's field of choices is no list of answers.
        """
        choices = self.by_field[field]
        if not isinstance(choices, str):
            return choices
        listed = example.get(choices)
        if listed is None or (isinstance(listed, list | tuple) and not listed):
            return None
        try:
            return listed_choices(listed)
        except ValueError as error:
            raise DataError(
                f"An example's {choices!r} is {error} Mend the example, or pass ObjectiveEvaluator(choices=...) "
                "the answers or the name of the field that lists them."
            ) from None

    def typed(self, program: dspy.Module) -> dict[str, tuple[str, ...] | None]:
        """Read the allowed answers off the types of a program's answer fields (the last predictor's that has each)."""
        signatures = [predictor.signature for _, predictor in program.named_sub_modules(dspy.Predict)]
        typed: dict[str, tuple[str, ...] | None] = {}
        for signature in signatures:
            fields = signature.output_fields
            typed |= {name: choices_of_type(fields[name].annotation) for name in self.by_field if name in fields}
        return typed


def _own_choices(choices: Choices) -> str | tuple[str, ...]:
    if isinstance(choices, str):
        return choices
    try:
        return listed_choices(choices)
    except ValueError as error:
        raise ConfigurationError(f"choices is {error} Or pass the name of a field of the examples.") from None
