"""What all cells of a table share, and its LMs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from tp_dspy import embedded_lm
from tp_dspy.errors import ConfigurationError
from tp_dspy.lms.gguf import model_name, resolve_gguf
from tp_dspy.lms.specs import ANSWER_TOKENS, is_local
from tp_dspy.runs.folders import file_name

__all__ = ["Setting", "lms_of"]

_CONTEXT = 4096
_INSTRUCTION_TOKENS = 384
# The small LM seldom ends by itself, and this is room enough for an instruction in any of the formats.
_FEWER_TOKENS = 128


@dataclass(frozen=True)
class Setting:
    """What all cells of a table share.

    Attributes:
        scorer: The scorer LM: "embedded", a GGUF file, or a model of DSPy's.
        reference: The reference LM, likewise.
        budget: Scorer calls of a compile: distinct pairs of prompt and example.
        replies: Replies of the reference LM that a compile may ask for.
        examples: Examples in each of the two splits that a compile gets.
        test: Held-out questions, at most.
    """

    scorer: str
    reference: str
    budget: int
    replies: int
    examples: int
    test: int

    @property
    def key(self) -> str:
        """A name for files: LMs by the stem of their files."""
        lms = [Path(lm).stem if is_local(lm) else lm for lm in (self.scorer, self.reference)]
        return file_name(f"{'-'.join(dict.fromkeys(lms))}-{self.budget}-{self.replies}-{self.examples}-{self.test}")


def lms_of(
    setting: Setting, threads: int, lm_threads: int | None = None, server: str | None = None
) -> tuple[dspy.LM, dspy.LM]:
    """Make scorer and reference LM of a setting.

    Args:
        setting: Names them.
        threads: Concurrent calls.
        lm_threads: CPU threads of a local LM; by default all.
        server: Where a llama.cpp server listens that has loaded the local file, such as ``http://127.0.0.1:8080/v1``:
            one that was built for this machine's CPU is 1.5 to 2.4 times as fast as what is installed. It counts as the
            same LM. Its key is taken from ``LLAMA_API_KEY``.

    Raises:
        ConfigurationError: If there is a server, and not one local file that it could have loaded.
    """
    files = {
        resolve_gguf(None if lm == "embedded" else lm) for lm in (setting.scorer, setting.reference) if is_local(lm)
    }
    if server is not None and len(files) != 1:
        raise ConfigurationError(
            f"--server has loaded one file, and the local LMs are {sorted(map(str, files)) or 'none'}; expected one."
        )
    local: dict[str, Any] = {"parallel": threads, "threads": lm_threads, "context": _CONTEXT}

    def make(spec: str, max_tokens: int, **settings: Any) -> dspy.LM:
        if not is_local(spec):
            return dspy.LM(spec, **settings)
        file = None if spec == "embedded" else spec
        if server is None:
            # With the same settings for both roles, so that one server does for both.
            return embedded_lm(file, max_tokens=max_tokens, **local, **settings)
        settings = {"temperature": 0.0, "engine": "lm15"} | settings
        return dspy.LM(
            f"openai/{model_name(resolve_gguf(file))}",
            api_base=server,
            api_key=os.environ.get("LLAMA_API_KEY", "none"),
            max_tokens=max_tokens,
            **settings,
        )

    tokens = _FEWER_TOKENS if setting.reference == "embedded" else _INSTRUCTION_TOKENS
    scorer = make(setting.scorer, ANSWER_TOKENS, logprobs=True, top_logprobs=10)
    return scorer, make(setting.reference, tokens, temperature=1.0)
