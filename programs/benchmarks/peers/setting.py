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
    setting: Setting,
    threads: int,
    lm_threads: int | None = None,
    server: str | None = None,
    reference_server: str | None = None,
) -> tuple[dspy.LM, dspy.LM]:
    """Make scorer and reference LM of a setting.

    Args:
        setting: Names them.
        threads: Concurrent calls.
        lm_threads: CPU threads of a local LM; by default all.
        server: Where a llama.cpp server listens that has loaded the local file, such as ``http://127.0.0.1:8080/v1``:
            one that was built for this machine's CPU is 1.5 to 2.4 times as fast as what is installed. It counts as the
            same LM. Its key is taken from ``LLAMA_API_KEY``.
        reference_server: Likewise for the reference LM, where that is another local file.

    Raises:
        ConfigurationError: If a server is given for what is no local LM, or one for two files.
    """
    files = [None if not is_local(lm) else "" if lm == "embedded" else lm for lm in (setting.scorer, setting.reference)]
    if reference_server is None and files[0] == files[1]:
        reference_server = server
    servers = (server, reference_server)
    for file, url, option in zip(files, servers, ("--server", "--reference-server"), strict=True):
        if url is not None and file is None:
            raise ConfigurationError(f"{option} is {url}, and that LM is called elsewhere; expected a local LM for it.")
    if server is not None and reference_server is None and files[1] is not None:
        raise ConfigurationError(
            f"--server has loaded one file, and the local LMs are {files[0]} and {files[1] or 'embedded'}; give "
            "--reference-server for the second."
        )
    local: dict[str, Any] = {"parallel": threads, "threads": lm_threads, "context": _CONTEXT}

    def make(spec: str, file: str | None, url: str | None, max_tokens: int, **settings: Any) -> dspy.LM:
        if file is None:
            return dspy.LM(spec, **settings)
        if url is None:
            # With the same settings for both roles, so that one server does for both.
            return embedded_lm(file or None, max_tokens=max_tokens, **local, **settings)
        settings = {"temperature": 0.0, "engine": "lm15"} | settings
        return dspy.LM(
            f"openai/{model_name(resolve_gguf(file or None))}",
            api_base=url,
            api_key=os.environ.get("LLAMA_API_KEY", "none"),
            max_tokens=max_tokens,
            **settings,
        )

    tokens = _FEWER_TOKENS if setting.reference == "embedded" else _INSTRUCTION_TOKENS
    scorer = make(setting.scorer, files[0], server, ANSWER_TOKENS, logprobs=True, top_logprobs=10)
    return scorer, make(setting.reference, files[1], reference_server, tokens, temperature=1.0)
