"""How a program travels to another process: everything that scoring it needs, once, and no key of any LM.

LMs are written down as DSPy saves them, and made anew where they arrive. What a key's place is taken by is the name of
an environment variable that has the key here: whoever runs the program there has keys of his own. A program or an
objective in which such a key is found all the same is not sent. Examples are not looked through.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import pickle
import platform
import re
import socket
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import dspy

from tp_dspy.errors import ConfigurationError, TransferPromptingError
from tp_dspy.scoring.attempts import Asking
from tp_dspy.scoring.throttle import Throttles, endpoint, original

__all__ = ["Parcel", "pack"]

# Of the settings of DSPy these belong to the process, to one call, or travel with what is asked.
_STAY = frozenset(
    [
        *("lm", "adapter", "callbacks", "trace", "usage_tracker", "track_usage", "caller_predict", "caller_modules"),
        *("branch_idx", "send_stream", "stream_listeners", "disable_history", "max_history_size", "max_trace_size"),
        "num_threads",
    ]
)
_SECRET = re.compile(r"key|token$|secret|passw|credential|authorization", re.IGNORECASE)
# Settings of LMs that are called like a secret and are none.
_NO_SECRET = re.compile(r"tokens$|^(max|min|top|rollout|prompt_cache)_|token_limit", re.IGNORECASE)
_HEADERS = re.compile(r"headers$", re.IGNORECASE)
_PLAIN_HEADERS = frozenset(("accept", "accept-encoding", "content-type", "user-agent"))
_WITH_PASSWORD = re.compile(r"://[^/@\s]+@")
# Shorter ones are no keys: "none", "EMPTY", "local" for a server that asks for none.
_LEAST_KEY = 8
# What a real key looks like, where it may be part of anything: long, with digits, no words, no address.
_KEYLIKE = re.compile(r"(?=.*\d)[^\s/:]{16,}")
# Programs that a process keeps: those of a step or two.
_KEPT = 64


def _versions() -> dict[str, str]:
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "dspy": importlib.metadata.version("dspy"),
        "tp_dspy": importlib.metadata.version("tp_dspy"),
    }


@dataclass(frozen=True)
class Parcel:
    """How a program is asked and judged, as it travels.

    Attributes:
        key: Tells contents apart.
        content: A pickled `Asking`, LMs as states.
        versions: What it was made with, which must be what it is opened with.
    """

    key: str
    content: bytes
    versions: Mapping[str, str]

    def open(self, most: int) -> Asking:
        """Unpack it, once in a process.

        Args:
            most: Calls under way at once at each endpoint, at most.

        Raises:
            ConfigurationError: If something differs here, or lacks.
        """
        with _lock:
            known = _opened.get(self.key)
            if known is None:
                known = _opened[self.key] = self._unpack(most)
            _opened.move_to_end(self.key)
            while len(_opened) > _KEPT:
                _opened.popitem(last=False)
            return known

    def _unpack(self, most: int) -> Asking:
        here = _versions()
        if differing := [name for name, version in self.versions.items() if here[name] != version]:
            told = ", ".join(f"{name} {here[name]} instead of {self.versions[name]}" for name in differing)
            raise ConfigurationError(f"The worker on {_place()} has {told}; install the driver's versions there.")
        try:
            made = _Unpickler(io.BytesIO(self.content), most).load()
        except TransferPromptingError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"The worker on {_place()} cannot unpack the program ({type(error).__name__}: {error}). What its code "
                "imports must be importable there; of a module that is not installed, "
                "cloudpickle.register_pickle_by_value(module) makes the code travel along."
            ) from error
        assert isinstance(made, Asking)
        return made


_opened: OrderedDict[str, Asking] = OrderedDict()
_lms: dict[bytes, dspy.BaseLM] = {}
_governing: list[Throttles] = []
_lock = threading.Lock()


def _place() -> str:
    return f"{socket.gethostname()} (process {os.getpid()})"


@dataclass(frozen=True)
class _FromEnvironment:
    """Stands for a text that holds keys: its pieces, and between them the names of variables."""

    pieces: tuple[str, ...]
    names: tuple[str, ...]

    def resolve(self, model: str) -> str:
        if lacking := sorted({name for name in self.names if name not in os.environ}):
            raise ConfigurationError(
                f"The worker on {_place()} has no environment variable {', '.join(lacking)}, which holds a key of "
                f"{model} where the program comes from. Keys do not travel: set it there."
            )
        values = [*(os.environ[name] for name in self.names), ""]
        return "".join(piece + value for piece, value in zip(self.pieces, values, strict=True))


def _secrets() -> dict[str, str]:
    """Environment variables that hold keys, as it seems: longest values first, as one may be part of another."""
    found = {n: v for n, v in os.environ.items() if _SECRET.search(n) and len(v) >= _LEAST_KEY}
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _concealed(value: Any, path: tuple[str, ...], model: str, secrets: Mapping[str, str]) -> Any:
    """Replace the keys in an LM's settings.

    Raises:
        ConfigurationError: If there is one that no environment variable has.
    """
    if isinstance(value, Mapping):
        return {key: _concealed(item, (*path, str(key)), model, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_concealed(item, path, model, secrets) for item in value]
    if not isinstance(value, str):
        return value
    by_value = {secret: name for name, secret in secrets.items()}
    parts = re.split("(" + "|".join(map(re.escape, secrets.values())) + ")", value) if secrets else [value]
    if len(parts) > 1:
        return _FromEnvironment(tuple(parts[::2]), tuple(by_value[secret] for secret in parts[1::2]))
    _refuse_key(value, path, f"The LM {model}")
    return value


def _refuse_key(value: Any, path: tuple[str, ...], whose: str) -> None:
    """Make sure that a setting is no key, by its name and place.

    Raises:
        ConfigurationError: If it seems to be one.
    """
    name = path[-1] if path else ""
    header = any(map(_HEADERS.search, path[:-1])) and name.casefold() not in _PLAIN_HEADERS
    named = header or (_SECRET.search(name) and not _NO_SECRET.search(name))
    if isinstance(value, str) and ((named and len(value) >= _LEAST_KEY) or _WITH_PASSWORD.search(value)):
        raise ConfigurationError(
            f"{whose} has a {'.'.join(path)} that was given by hand. Keys do not travel to workers: put it into an "
            "environment variable, here and on the workers, whose name says that it is a key (such as MY_API_KEY), "
            f"and pass {name}=os.environ['MY_API_KEY']."
        )


def _revealed(value: Any, model: str) -> Any:
    if isinstance(value, _FromEnvironment):
        return value.resolve(model)
    if isinstance(value, Mapping):
        return {key: _revealed(item, model) for key, item in value.items()}
    if isinstance(value, list):
        return [_revealed(item, model) for item in value]
    return value


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def persistent_id(self, value: Any) -> Any:
        """Write an LM down as DSPy saves it, in place of itself."""
        if not isinstance(value, dspy.BaseLM):
            return None
        lm = original(value)
        try:
            state = lm.dump_state()
        except TypeError as error:  # DSPy's words say what an engine must have
            raise ConfigurationError(f"The LM {lm.model} cannot be sent to workers: {error}") from error
        if lm.kwargs.get("api_key") is not None:
            state["api_key"] = lm.kwargs["api_key"]
        if not (dspy.cache.enable_memory_cache or dspy.cache.enable_disk_cache):
            state["cache"] = False  # Workers have caches of their own.
        return type(lm), _concealed(state, (), str(lm.model), _secrets()), endpoint(lm)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, most: int) -> None:
        super().__init__(file)
        self.most = most

    def persistent_load(self, value: Any) -> dspy.BaseLM:
        """Make an LM from what was written down, governed by the throttle of its endpoint in this process."""
        # One for all programs, with its connections.
        known = cloudpickle.dumps(value)
        if known not in _lms:
            made_of, state, name = value
            lm = made_of.load_state(_revealed(state, str(state["model"])), **_allowing(made_of))
            if not _governing:
                _governing.append(Throttles(None, self.most))
            _lms[known] = _governing[0].govern(lm, name)
        return _lms[known]


def _allowing(made_of: type[dspy.BaseLM]) -> dict[str, Any]:
    # As `dspy.BaseLM.load_state` itself looks at those of subclasses, which may not take it.
    code = getattr(made_of.load_state, "__func__", made_of.load_state).__code__
    return {"allow_custom_lm_class": True} if "allow_custom_lm_class" in code.co_varnames else {}


def pack(asking: Asking) -> Parcel:
    """Make a parcel.

    Raises:
        ConfigurationError: If something cannot be sent, or holds a key.
    """
    for _, predictor in asking.program.named_sub_modules(dspy.Predict):
        for name, value in predictor.config.items():
            _refuse_key(value, (name,), "A predictor's config")
    settings = {name: value for name, value in _settings() if name not in _STAY}
    asking = replace(asking, settings={**settings, **asking.settings})
    try:
        content = _pickled(asking)
    except TransferPromptingError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{_culprit(asking)} cannot be sent to workers ({type(error).__name__}: {error}). Make it of what can be "
            "pickled: open files, locks, clients and models when they are used."
        ) from error
    for name, secret in _secrets().items():
        if _KEYLIKE.fullmatch(secret) and secret.encode() in content:
            raise ConfigurationError(
                f"The value of the environment variable {name} is in what would be sent to workers, in the program or "
                "the objective. Keys do not travel: have it read from the environment where it is used."
            )
    return Parcel(hashlib.sha256(content).hexdigest(), content, _versions())


def _settings() -> Iterator[tuple[str, Any]]:
    """Settings of DSPy that somebody has made."""
    from dspy.dsp.utils.settings import DEFAULT_CONFIG

    for name, value in dspy.settings.copy().items():
        if name not in DEFAULT_CONFIG or DEFAULT_CONFIG[name] != value:
            yield name, value


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def _culprit(asking: Asking) -> str:
    """Say what of it cannot be pickled."""
    parts: dict[str, Any] = {"The program": asking.program, "The objective": asking.objective}
    parts |= {f"DSPy's setting {name}": value for name, value in asking.settings.items()}
    for name, part in parts.items():
        try:
            _pickled(part)
        except Exception:  # whichever; that is the question
            return name
    return "What is asked"
