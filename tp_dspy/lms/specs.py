"""LMs by what a user types."""

from __future__ import annotations

from typing import Literal

import dspy

from tp_dspy.errors import ConfigurationError
from tp_dspy.lms.embedded import embedded_lm

__all__ = ["ANSWER_TOKENS", "is_local", "resolve_lm"]

ANSWER_TOKENS = 4
"""Of a local scorer: a letter or a label, or the start of whatever comes instead; every further token is time."""
# The small LM seldom ends by itself.
_SHORT_INSTRUCTION = 64
_INSTRUCTION_TOKENS = 256


def is_local(spec: str) -> bool:
    """Say whether an LM runs on this machine, in this process."""
    return spec == "embedded" or spec.endswith(".gguf")


def resolve_lm(spec: str, role: Literal["scorer", "reference"], *, max_tokens: int | None = None) -> dspy.BaseLM:
    """Make an LM from what a user typed.

    Args:
        spec: "embedded" for the small LM that ships as a package; a GGUF file or ``hf://owner/repo/file.gguf`` for
            another one in this process; anything else is a DSPy model string such as ``openai/gpt-4o-mini``, with
            that LM's own settings.
        role: What it is for: a local scorer is kept to short answers, a local reference LM is not.
        max_tokens: Tokens of a reply, at least 1; by default as said.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if is_local(spec):
        usual = ANSWER_TOKENS
        if role == "reference":
            usual = _SHORT_INSTRUCTION if spec == "embedded" else _INSTRUCTION_TOKENS
        return embedded_lm(None if spec == "embedded" else spec, max_tokens=max_tokens or usual)
    if "/" not in spec:
        raise ConfigurationError(
            f"{spec!r} is no LM: expected 'embedded', a .gguf file, or provider/model such as 'openai/gpt-4o-mini'."
        )
    return dspy.LM(spec, **({} if max_tokens is None else {"max_tokens": max_tokens}))
