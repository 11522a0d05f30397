"""Plain prompts for small and domain-tuned LMs, with the instruction at a chosen position.

Small and specialised LMs seldom keep to the field markers and types that DSPy's own adapters describe at length; they
do read one instruction, a question and an answer label. What they are told to do is then nearly all in the instruction.
"""

from __future__ import annotations

import enum
import json
import math
import re
import types
from collections.abc import Mapping
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Literal, Union, get_args, get_origin

import pydantic
from dspy.adapters import Adapter
from dspy.adapters.types import History, Reasoning
from dspy.adapters.utils import apply_output_field_defaults, format_field_value, get_annotation_name, parse_value
from dspy.signatures.signature import infer_prefix
from dspy.utils.exceptions import AdapterParseError

from tp_dspy.errors import ConfigurationError
from tp_dspy.lms.answers import bare, read_choice

__all__ = ["InstructionAdapter", "Position"]

Position = Literal["before", "start", "end", "answer"]

_NOT_SUPPLIED = "Not supplied for this example."
_WRAPPERS = " \t\r\n\"'`*_()[]{}<>“”‘’"  # noqa: RUF001
# Not followed by what would make it another thing: a fraction, a range, a date, a word such as "3rd".
_NUMBER = re.compile(
    r"([-+]?+(?:[1-9]\d{0,2}(?:,\d{3})++(?!\d)(?:\.\d++)?+|\d++(?:[.,]\d++)?+|\.\d++)(?:e[-+]?\d++)?+)"
    r"(?:\s*(%|per\s?cent\b)|(?!\w|[-:.,]\d|\s*/\s*\d))",
    re.IGNORECASE,
)


class InstructionAdapter(Adapter):  # type: ignore[misc]  # dspy is untyped
    """Shows an LM the instruction, the inputs, one to a line, and an answer label; nothing else.

    By ``position`` (the positions of OPRO, arXiv 2309.03409), for one input and one output:

    - ``"before"``: the instruction is the system message; the user message is ``Question: ...`` and ``Answer:``.
    - ``"start"``: no system message; the instruction, a blank line, the question, the label.
    - ``"end"``: no system message; the question, a blank line, the instruction, the label.
    - ``"answer"``: no system message; the question, and right after the label the instruction.

    A label is the field's explicit ``prefix``, or its name in words (``patient_note``: "Patient note"). Blank inputs
    are skipped. For several outputs, a request for one line per field takes the place of the answer label; ``"end"``
    puts the instruction before that request, ``"answer"`` after it. Outputs that are written as JSON (lists, pydantic
    models) add a line with their schema.

    Demos and ``dspy.History`` turns become user and assistant messages. The instruction is shown once: in the system
    message, or else in the last user message, next to the question it is about. A demo without any input or any output
    is left out.

    A reply that cannot be read is an ``AdapterParseError``: there is never a second LM call.

    Args:
        position: Where the instruction stands.
        callbacks: DSPy callbacks, run on `format` and `parse`.

    Raises:
        ConfigurationError: When ``position`` is not one of the four.
    """

    def __init__(self, position: Position = "start", callbacks: list[Any] | None = None) -> None:
        if position not in get_args(Position):
            options = ", ".join(repr(option) for option in get_args(Position))
            raise ConfigurationError(f"position is {position!r}; expected one of {options}.")
        super().__init__(callbacks=callbacks)
        self.position = position

    def format(self, signature: Any, demos: list[dict[str, Any]], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Make the chat messages for one call; the last one is the user message with the current inputs."""
        messages: list[dict[str, Any]] = super().format(signature, demos, inputs)
        return [message for message in messages if message["role"] != "system" or message["content"]]

    def format_system_message(self, signature: Any) -> str:
        """The instruction for position "before", else nothing."""
        return _instruction(signature) if self.position == "before" else ""

    def format_user_message_content(
        self, signature: Any, inputs: dict[str, Any], prefix: str = "", suffix: str = "", main_request: bool = False
    ) -> str:
        """Write the user message of a demo, a past turn, or (``main_request``, with the instruction) this call."""
        known = {name: field for name, field in signature.input_fields.items() if not _is_blank(inputs.get(name))}
        question = "\n".join(f"{_label(name, field)}: {_shown(field, inputs[name])}" for name, field in known.items())
        if not question and not main_request:
            return "\n\n".join(filter(None, [prefix, suffix]))
        instruction = _instruction(signature) if main_request and self.position != "before" else ""
        request, label = _request(signature.output_fields)
        if self.position == "end":
            paragraphs = [question, instruction, request]
        elif self.position != "answer":
            paragraphs = [instruction, question, request]
        elif label:
            paragraphs, label = [question, request], f"{label} {instruction}".rstrip()
        else:
            paragraphs = [question, request, instruction]
        block = "\n\n".join(filter(None, paragraphs))
        return "\n\n".join(filter(None, [prefix, "\n".join(filter(None, [block, label])), suffix]))

    def format_assistant_message_content(
        self, signature: Any, outputs: dict[str, Any], missing_field_message: str | None = None
    ) -> str:
        """Write a reply: the bare value for one output, else one ``Label: value`` line per output that has a value."""
        fields = signature.output_fields
        values = {name: missing_field_message if outputs.get(name) is None else outputs[name] for name in fields}
        lines = {name: _shown(fields[name], value) for name, value in values.items() if value is not None}
        if len(fields) == 1:
            return "".join(lines.values())
        return "\n".join(f"{_label(name, fields[name])}: {line}" for name, line in lines.items())

    def format_demos(self, signature: Any, demos: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write demos as user and assistant messages; one without inputs or without outputs is left out."""
        messages = []
        for demo in demos:
            user = self.format_user_message_content(signature, demo)
            if user and any(demo.get(name) is not None for name in signature.output_fields):
                reply = self.format_assistant_message_content(signature, demo, _NOT_SUPPLIED)
                messages += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
        return messages

    def format_conversation_history(
        self, signature: Any, history_field_name: str, inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Write past turns as user and assistant messages, without the instruction."""
        # The base class asks for past turns with main_request=True; DSPy replaces "", but not a blank, by its default.
        bare = signature.with_instructions(" ")
        messages: list[dict[str, Any]] = super().format_conversation_history(bare, history_field_name, inputs)
        return messages

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Read a reply.

        One output: the whole reply, without an echoed label. Several: lines that begin with a field's label or name, in
        any case; a value runs to the next such line, and the first of two counts. Options (Literal, enum, bool) may be
        wrapped in quotes, brackets or bold, and followed by prose ("(B) Heart", "No, because ..."), as may numbers;
        "80%" is 0.8 for a float. All other types are read as DSPy's adapters do.

        Args:
            signature: The ``dspy.Signature`` of the call.
            completion: The reply.

        Returns:
            The output values by name.

        Raises:
            AdapterParseError: When a required field is missing, or a value is not of its type.
        """
        values, fields = {}, signature.output_fields
        for name, text in _sections(fields, completion).items():
            try:
                values[name] = _parse(text, fields[name].annotation)
            except (ValueError, TypeError, RecursionError) as error:
                message = f"Field {name} cannot be read from {text!r}: {error}"
                raise AdapterParseError(type(self).__name__, signature, completion, message) from error
        values = dict(apply_output_field_defaults(signature, values))
        if values.keys() != fields.keys():
            raise AdapterParseError(type(self).__name__, signature, completion, parsed_result=values)
        return values


def _instruction(signature: Any) -> str:
    return str(signature.instructions).strip()


# A signature makes its mappings of fields anew each time it is asked; hence the helpers take what they need of them.
def _label(name: str, field: Any) -> str:
    return _label_of(name, (field.json_schema_extra or {}).get("prefix"))


@lru_cache(maxsize=1024)
def _label_of(name: str, prefix: str | None) -> str:
    inferred = infer_prefix(name)
    # Every signature fills in a prefix; one that differs from the inferred one was written by the user.
    if prefix and prefix.strip() and prefix != f"{inferred}:":
        return prefix.strip().rstrip(":").rstrip()
    first, *others = inferred.split() or [name]
    return " ".join([first, *(word if word.isupper() else word.lower() for word in others)])


def _is_blank(value: Any) -> bool:
    """Whether an input has nothing to show; past turns are messages of their own."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or isinstance(value, History) or (isinstance(value, list | dict) and not value)


def _shown(field: Any, value: Any) -> str:
    if type(value) is str:  # As it is; DSPy would make a serializer of its type for each.
        return value.strip()
    return str(format_field_value(field_info=field, value=value)).strip()


def _request(fields: Mapping[str, Any]) -> tuple[str, str]:
    """What to ask for, and the label that the reply continues; either may be empty."""
    if len(fields) == 1:
        ((name, field),) = fields.items()
        schema = _schema(field.annotation)
        return (f"Reply with JSON of this schema: {schema}" if schema else ""), f"{_label(name, field)}:"
    lines = [f"{_label(name, field)}: {_hint(name, field)}" for name, field in fields.items()]
    return "\n".join(["Reply with one line per field:", *lines]) if lines else "", ""


def _hint(name: str, field: Any) -> str:
    """What goes on the line of one of several fields."""
    described = (field.json_schema_extra or {}).get("desc") or ""
    described = "" if described == f"${{{name}}}" else described
    kind = _without_none(field.annotation)
    if choices := _choices(kind):
        typed = " or ".join(("True", "False") if kind is bool else dict.fromkeys(_written(c) for c in choices.values()))
    elif schema := _schema(kind):
        typed = f"JSON of this schema: {schema}"
    else:
        typed = "" if described else {int: "a whole number", float: "a number"}.get(kind, "...")
    return f"{described} ({typed})" if described and typed else described or typed


def _schema(annotation: Any) -> str:
    """The JSON schema of a type that is written as JSON; empty for words and numbers."""
    kind = _without_none(annotation)
    if kind in (str, int, float, Reasoning) or _choices(kind):
        return ""
    try:
        return json.dumps(pydantic.TypeAdapter(kind).json_schema(), ensure_ascii=False)
    except (pydantic.PydanticSchemaGenerationError, pydantic.errors.PydanticInvalidForJsonSchema):
        return str(get_annotation_name(kind))


def _sections(fields: Mapping[str, Any], completion: str) -> dict[str, str]:
    """The text of each output field that the reply has."""
    reply = completion.strip()
    headers: dict[str, str] = {}
    for name, field in fields.items():
        headers |= {name.casefold(): name, _label(name, field).casefold(): name}
    # re's notion of case is wider than casefold's ("İ"), hence the check.
    matches = _header_pattern(tuple(headers)).finditer(reply)
    found = [match for match in matches if match["name"].casefold() in headers]
    if len(fields) == 1:
        start = found[0].end() if found and found[0].start() == 0 else 0
        return dict.fromkeys(fields, reply[start:].strip()) if reply[start:].strip() else {}
    sections: dict[str, str] = {}
    for header, following in zip_longest(found, found[1:]):
        text = reply[header.end() : following.start() if following else None].strip()
        if text:
            sections.setdefault(headers[header["name"].casefold()], text)
    return sections


@lru_cache(maxsize=256)
def _header_pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Lines such as ``Answer: ...``, ``**Answer:** ...`` or ``- answer: ...``."""
    options = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"^[ \t>#*_-]*(?P<name>{options})[*_]*[ \t]*:[*_]*[ \t]*", re.IGNORECASE | re.MULTILINE)


def _parse(text: str, annotation: Any) -> Any:
    """Read one value; raises ValueError (pydantic's among them) or TypeError when it is not of the type."""
    kind = _without_none(annotation)
    if kind is str:
        return text
    if kind is not annotation and bare(text) in ("none", "null"):
        return None
    if choices := _choices(kind):
        return _parse_choice(text, choices)
    return _parse_number(text, kind) if kind in (int, float) else parse_value(text, annotation)


def _without_none(annotation: Any) -> Any:
    """``X`` for ``X | None``, anything else as it is."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation


def _choices(kind: Any) -> Mapping[str, Any]:
    """The values of a closed type by their spellings; empty for open types."""
    if kind is bool:
        return {"True": True, "False": False, "Yes": True, "No": False}
    if get_origin(kind) is Literal:
        return {_written(value): value for value in get_args(kind)}
    if isinstance(kind, enum.EnumMeta):
        members = list[enum.Enum](kind)
        return {member.name: member for member in members} | {_written(member): member for member in members}
    return {}


def _written(value: Any) -> str:
    return str(value.value if isinstance(value, enum.Enum) else value)


def _parse_choice(text: str, choices: Mapping[str, Any]) -> Any:
    spelling, _ = read_choice(text, list(choices))
    if spelling is None:
        raise ValueError(f"expected one of {', '.join(choices)}")
    return choices[spelling]


def _parse_number(text: str, kind: type[int] | type[float]) -> int | float:
    found = _NUMBER.match(text.lstrip(_WRAPPERS + "~≈$€£"))
    if not found:
        raise ValueError("expected a reply that begins with a number")
    digits = found[1]
    # "0,8" and "1,5" are decimals, "1,000" is a thousand.
    thousands = re.fullmatch(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", digits)
    digits = digits.replace(",", "" if thousands else ".")
    number = float(digits)
    if not math.isfinite(number) or (kind is int and not number.is_integer()):
        raise ValueError(f"expected a {'whole' if kind is int else 'finite'} number")
    if kind is int:
        return int(digits) if digits.lstrip("+-").isdecimal() else int(number)
    return number / 100 if found[2] else number
