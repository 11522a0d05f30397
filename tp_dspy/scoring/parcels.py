"""How a program travels to another process: everything that scoring it needs, once, and no key of any LM.

LMs are written down as DSPy saves them, and made anew where they arrive. What a key's place is taken by is the name of
an environment variable that has the key here: whoever runs the program there has keys of his own. What is found to
hold a key all the same is not sent.
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
from tp_dspy.scoring.throttle import Throttles, original

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
# Shorter ones are no keys: "none", "EMPTY", "local" for a server that asks for none.
_LEAST_KEY = 8
# Programs that a process keeps: those of a few steps.
_KEPT = 256


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
    """Stands for a text that holds a key, with the name of the variable in its place."""

    text: str
    names: tuple[str, ...]

    def resolve(self, model: str) -> str:
        if lacking := [name for name in self.names if name not in os.environ]:
            raise ConfigurationError(
                f"The worker on {_place()} has no environment variable {', '.join(lacking)}, which holds a key of "
                f"{model} where the program comes from. Keys do not travel: set it there."
            )
        return self.text.format(**{name: os.environ[name] for name in self.names})


def _secrets() -> dict[str, str]:
    """Environment variables that hold keys, as it seems: longest values first, as one may be part of another."""
    found = {n: v for n, v in os.environ.items() if _SECRET.search(n) and len(v) >= _LEAST_KEY}
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _concealed(value: Any, name: str, model: str, secrets: Mapping[str, str]) -> Any:
    """Replace the keys in an LM's settings."""
    if isinstance(value, Mapping):
        return {key: _concealed(item, str(key), model, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_concealed(item, name, model, secrets) for item in value]
    if not isinstance(value, str):
        return value
    found = [variable for variable, secret in secrets.items() if secret in value]
    if found:
        text = value.replace("{", "{{").replace("}", "}}")
        for variable in found:
            text = text.replace(secrets[variable], f"{{{variable}}}")
        return _FromEnvironment(text, tuple(v for v in found if f"{{{v}}}" in text))
    if _SECRET.search(name) and not _NO_SECRET.search(name) and len(value) >= _LEAST_KEY:
        raise ConfigurationError(
            f"The LM {model} has a {name} that was given by hand. Keys do not travel to workers: put it into an "
            "environment variable, here and on the workers, whose name says that it is a key (such as MY_API_KEY), "
            f"and pass {name}=os.environ['MY_API_KEY']."
        )
    return value


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
        return type(lm), _concealed(state, "", str(lm.model), _secrets())


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, most: int) -> None:
        super().__init__(file)
        self.most = most

    def persistent_load(self, value: Any) -> dspy.BaseLM:
        """Make an LM from what was written down, governed by the throttle of its endpoint in this process."""
        # One for all programs, with its connections.
        known = cloudpickle.dumps(value)
        if known not in _lms:
            made_of, state = value
            lm = made_of.load_state(_revealed(state, str(state["model"])), **_allowing(made_of))
            if not _governing:
                _governing.append(Throttles(None, self.most))
            _lms[known] = _governing[0].govern(lm)
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
        if secret.encode() in content:
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
