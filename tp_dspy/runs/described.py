"""What a value is, in plain values that are the same in every process: settings, and the code of functions and classes.

Where two descriptions differ for no reason a run pays again; where they agree for none it trusts what is stale.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import inspect
import json
import logging
import operator
import pathlib
import re
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any

import dspy
import numpy as np
import pydantic
from dspy.predict.parameter import Parameter

from tp_dspy.runs.artifacts import names_secret
from tp_dspy.runs.bytecode import instructions, read
from tp_dspy.runs.lookup import (
    attributes,
    bare,
    changed_attributes,
    closed,
    find,
    held_code,
    is_own,
    name_of,
    unchanged,
)

__all__ = ["Description", "Settings", "described", "digest", "state_of"]

logger = logging.getLogger(__name__)

# Attributes of DSPy's objects that are no settings; and those that are the state of a predictor.
_NOT_SETTINGS = {"callbacks", "history", "fail_count"}
_STATE = {"config", "demos", "fields", "lm", "signature", "stage", "traces", "train"}
_ENTRIES = {"forward", "aforward", "__call__", "acall"}
_SPELLED = (
    complex, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction, pathlib.PurePath,
    range, re.Pattern,
)  # fmt: skip
_GETTERS = (operator.itemgetter, operator.attrgetter, operator.methodcaller)
_MAPPINGS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter, types.MappingProxyType)
_Function = types.FunctionType
_DEEPEST = 60


@dataclasses.dataclass(frozen=True)
class Settings:
    """Stands for the public attributes of a module of DSPy that its own methods do not change when it is called."""

    module: dspy.Module


@dataclasses.dataclass(frozen=True)
class Description:
    """What a value was found to be.

    Attributes:
        digest: The sha256 of it, as hex digits.
        asks: Whether the value may ask the configured LM: it holds a module of DSPy, or code that names DSPy.
    """

    digest: str
    asks: bool


def digest(value: Any, **settings: Any) -> str:
    """Describe a value as `described` does, and give the digest alone."""
    return described(value, **settings).digest


def described(value: Any, *, apart: Collection[Any] = (), free: Collection[str] = ()) -> Description:
    """Describe a value.

    Containers, arrays, dataclasses, pydantic models and examples are what they hold. An LM is its class, model and
    settings, wherever it is served. A function is its code, with what it closes over, its defaults, and the variables,
    functions and classes that it names, in its module or in others; a class its methods, attributes and bases. An
    object of the user's own is its class and its attributes, a module of DSPy its class and public attributes, a
    predictor its fields, instructions and demos, too. Of an object of somebody else's only the class is known, and
    where it can be called the attributes that are plain. What is installed is known by its name.

    Own modules that code imports when it is called are imported. What cannot be described or imported is not seen, as
    the log tells at its lowest level. Text under the name of a secret is left out, and so are variables and attributes
    that the code itself changes: they change with its use.

    Args:
        value: Anything.
        apart: Objects that are described elsewhere, and only mentioned here.
        free: Instructions that may be others: those of the candidate. A signature that has one is described without.
    """
    describing = _Describing(apart, free, set())
    made = describing.whole(value)
    if describing.changes:  # Where something is read is not always where it is changed.
        describing = _Describing(apart, free, describing.changes)
        made = describing.whole(value)
    return Description(hashlib.sha256(_json(made).encode(errors="backslashreplace")).hexdigest(), describing.asks)


def state_of(predictor: Any) -> dict[str, Any]:
    """Say what a predictor, or another parameter of a program, is set to."""
    if not isinstance(predictor, dspy.Predict):
        return {name: one for name, one in predictor.dump_state().items() if name not in ("lm", "traces", "train")}
    # As they are saved; as pairs, for a field of an example may be called like a secret.
    demos = [list(demo.items()) for demo in predictor.dump_state()["demos"]]
    return {"signature": predictor.signature, "demos": demos, "config": predictor.config, "lm": predictor.lm}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


class _Describing:
    """One description: a root, and a table of the functions and classes met, which refer to each other by number."""

    def __init__(self, apart: Collection[Any], free: Collection[str], changed: set[tuple[int, str]]) -> None:
        self.apart = {id(one): number for number, one in enumerate(apart)}
        self.free = {text.strip() for text in free}
        self.changed = changed  # variables, by the address of those of their module
        self.changes: set[tuple[int, str]] = set()
        self.asks = False
        self.table: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.known: dict[int, tuple[Any, str]] = {}  # with the thing, so that no other gets its address
        self.inside: dict[int, int] = {}

    def whole(self, value: Any) -> list[Any]:
        root, done = self.of(value), list[Any]()
        while len(done) < len(self.table):
            done.append(self._guarded(self._code, self.table[len(done)]))
        return [root, done]

    def of(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (str, bool, float):
            return value
        if kind is int:
            return value if abs(value) < 2**63 else ["int", hex(value)]
        if id(value) in self.apart:
            return ["apart", self.apart[id(value)]]
        if id(value) in self.known:
            return self.known[id(value)][1]
        if id(value) in self.inside:
            return ["inside", len(self.inside) - self.inside[id(value)]]
        if len(self.inside) >= _DEEPEST:
            return ["deep", kind.__qualname__]
        if issubclass(kind, type) or kind is _Function:  # isinstance asks the thing itself, which may refuse
            return self._guarded(self._reference, value)
        self.inside[id(value)] = len(self.inside)
        try:
            made = hashlib.sha256(_json(self._guarded(self._new, value)).encode(errors="backslashreplace")).hexdigest()
        finally:
            del self.inside[id(value)]
        self.known[id(value)] = (value, made)
        return made

    def _guarded(self, describe: Any, value: Any) -> Any:
        try:
            return describe(value)
        except Exception as error:  # anything may be among what a program holds, and none of it may end a compile
            logger.debug("A %s cannot be described.", type(value).__qualname__, exc_info=error)
            return ["opaque", type(value).__qualname__]

    def _reference(self, value: Any) -> Any:
        signature = isinstance(value, type) and issubclass(value, dspy.Signature)
        if not (signature or is_own(value)) and (isinstance(value, type) or not held_code(value)):
            return ["name", name_of(value)]
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.table)
            self.table.append(value)
        return ["code", self.numbers[id(value)]]

    # Data.

    def _new(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, list | tuple | collections.deque):
            return ["sequence", *map(self.of, value)]
        if isinstance(value, _MAPPINGS) or (isinstance(value, Mapping) and is_own(kind)):
            shown = [(key, one) for key, one in value.items() if not _is_secret(key, one)]
            return ["mapping", sorted(([self.of(key), self.of(one)] for key, one in shown), key=_json)]
        if isinstance(value, set | frozenset):
            return ["set", *sorted((self.of(one) for one in sorted(value, key=_place_in_set)), key=_json)]
        if isinstance(value, enum.Enum):
            return ["member", self.of(kind), value.name]
        if isinstance(value, str | int | float):
            return ["value", kind.__qualname__, repr(value)]
        if isinstance(value, bytes | bytearray):
            return ["bytes", hashlib.sha256(value).hexdigest()]
        if isinstance(value, np.ndarray):
            held = self.of(value.tolist()) if value.dtype.hasobject else hashlib.sha256(value.tobytes()).hexdigest()
            return ["array", str(value.dtype), list(value.shape), held]
        if isinstance(value, (*_SPELLED, np.generic)):
            return ["value", kind.__qualname__, repr(value)]
        if isinstance(value, slice):
            return ["slice", self.of(value.start), self.of(value.stop), self.of(value.step)]
        if typing.get_origin(value) is not None:
            return ["type", self.of(typing.get_origin(value)), *map(self.of, typing.get_args(value))]
        if isinstance(value, dspy.Example):
            return ["example", sorted(([name, self.of(one)] for name, one in dict(value).items()), key=_json)]
        return self._called(value) or self._object(value)

    def _called(self, value: Any) -> Any:
        if isinstance(value, types.MethodType):
            return ["method", value.__name__, self._holder(value.__self__, {value.__name__})]
        if isinstance(value, functools.partial | functools.partialmethod):
            return ["partial", self.of(value.func), self.of(value.args), self.of(value.keywords)]
        if isinstance(value, _GETTERS):
            return ["getter", self.of(value.__reduce__()[1])]
        wrapped = inspect.getattr_static(value, "__wrapped__", None)
        if isinstance(wrapped, _Function):  # functools.lru_cache
            return ["wraps", type(value).__qualname__, self.of(wrapped)]
        if isinstance(value, types.BuiltinFunctionType):
            held = None if isinstance(value.__self__, types.ModuleType | None) else self.of(value.__self__)
            return ["name", value.__qualname__, held]
        return ["name", value.__name__] if isinstance(value, types.ModuleType) else None

    def _object(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, Settings):
            return self._settings(value.module)
        if isinstance(value, dspy.BaseLM):
            return self._lm(value)
        if isinstance(value, dspy.Module):
            self.asks = True
            state = self.of(state_of(value)) if isinstance(value, Parameter) else None
            return [self.of(kind), self._settings(value), state]
        if isinstance(value, pydantic.BaseModel) and not is_own(kind):
            return [self.of(kind), self._attributes(dict(value))]
        return self._holder(value, {"__call__"} if callable(value) else None)

    def _lm(self, lm: dspy.BaseLM) -> Any:
        # Where it is served and the keys are left out: the same model elsewhere answers the same.
        kwargs = {k: v for k, v in (getattr(lm, "kwargs", None) or {}).items() if k not in ("api_base", "base_url")}
        settings = [getattr(lm, name, None) for name in ("model", "model_type", "use_developer_role")]
        own = {}
        if is_own(type(lm)):
            shown = set(vars(dspy.LM("openai/any"))) | _NOT_SETTINGS
            own = {name: one for name, one in unchanged(lm, _ENTRIES).items() if name not in shown and name[0] != "_"}
        engine = getattr(lm, "engine", None)
        engine = engine if isinstance(engine, str | None) else type(engine)
        kwargs = {name: one for name, one in kwargs.items() if not names_secret(str(name))}
        return ["LM", self.of(type(lm)), self.of(settings), self.of(kwargs), self.of(engine), self._attributes(own)]

    def _settings(self, module: dspy.Module) -> Any:
        left_out = _NOT_SETTINGS | _STATE if isinstance(module, Parameter) else _NOT_SETTINGS
        held = unchanged(module, _ENTRIES).items()
        return self._attributes({name: one for name, one in held if name not in left_out and name[0] != "_"})

    def _holder(self, value: Any, entries: Collection[str] | None) -> Any:
        """Describe an object by its class and its attributes, as far as they are settings."""
        kind = type(value)
        if isinstance(value, type | dspy.Module) or id(value) in self.apart:
            return self.of(value)
        left_out = _NOT_SETTINGS | _STATE if isinstance(value, Parameter) else _NOT_SETTINGS
        known = isinstance(value, dspy.Adapter | types.SimpleNamespace | argparse.Namespace)
        if not (is_own(kind) or known or dataclasses.is_dataclass(value)):
            if entries is None or kind.__module__ == "builtins":
                return self.of(kind)
            # Of a thing of somebody else's that can be called, such as a model, much may be no setting.
            plain = (str, int, float, bool, type(None), tuple)
            shown = {name: one for name, one in attributes(value).items() if name not in left_out and name[0] != "_"}
            held = {name: one for name, one in shown.items() if type(one) in plain}
            return [self.of(kind), self._attributes(held)]
        held = {name: one for name, one in unchanged(value, entries).items() if name not in left_out}
        return [self.of(kind), self._attributes(held)]

    def _attributes(self, held: Mapping[str, Any]) -> Any:
        return [[str(name), self.of(one)] for name, one in sorted(held.items()) if not _is_secret(name, one)]

    # Code.

    def _code(self, value: Any) -> Any:
        return self._class(value) if isinstance(value, type) else self._function(value)

    def _class(self, kind: type) -> Any:
        if issubclass(kind, dspy.Signature):
            return ["signature", self._signature(kind)]
        parts: dict[str, Any] = {}
        changed = changed_attributes(kind, None)
        plain = not issubclass(kind, pydantic.BaseModel | enum.Enum)
        for name, one in vars(kind).items():
            found, setting = bare(one), plain and name not in changed and not name.startswith(("__", "_abc_"))
            if isinstance(found, _Function) or setting:
                parts[name] = found
        if issubclass(kind, enum.Enum):
            parts["members of it"] = [(member.name, member.value) for member in kind]
        elif issubclass(kind, pydantic.BaseModel):
            fields = kind.model_fields.items()
            parts["fields of it"] = [(name, _field(one), one.default_factory) for name, one in fields]
            parts["shown of it"] = [kind.__doc__, dict(kind.model_config)]
        else:
            parts["types of it"] = dict(vars(kind).get("__annotations__", {}))
        bases = [self.of(base) for base in kind.__bases__ if base is not object]
        return ["class", kind.__qualname__, self._attributes(parts), bases]

    def _signature(self, signature: Any) -> Any:
        instructions = str(signature.instructions).strip()
        fields = [[name, self.of(_field(one))] for name, one in signature.fields.items()]
        return [None if instructions in self.free else instructions, fields]

    def _function(self, function: types.FunctionType) -> Any:
        if not is_own(function):
            return ["name", name_of(function), self._attributes(held_code(function))]
        reading = read(function.__code__)
        named = {}
        for place in sorted(reading.places):
            if (found := find(function, place)) is not None:
                self.asks |= found.value is dspy or found.module.partition(".")[0] == "dspy"
                code = isinstance(found.value, type | _Function | types.MethodType)
                if code or (found.space, found.name) not in self.changed:
                    named[f"{found.module}.{found.name}"] = found.value
        self.changes |= {(found.space, found.name) for at in reading.changes if (found := find(function, at))}
        cells = {n: one for n, one in closed(function) if callable(one) or not reading.changes_at("cell", (n,))}
        given = inspect.signature(function, follow_wrapped=False).parameters.items()
        defaults = {name: one.default for name, one in given if not reading.changes_at("argument", (name,))}
        held = [self._attributes(each) for each in (named, cells, defaults, function.__annotations__, vars(function))]
        return ["function", instructions(function.__code__), held]


def _field(field: Any) -> list[Any]:
    """What of a pydantic field is shown to an LM, or decides what is read."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return [field.annotation, field.metadata, field.default, field.alias, field.description, extra]


def _is_secret(name: Any, value: Any) -> bool:
    return isinstance(value, str | bytes) and isinstance(name, str) and names_secret(name)


def _place_in_set(value: Any) -> tuple[str, str]:
    """What members of a set are sorted by before they are numbered."""
    if isinstance(value, type | _Function):
        code = value.__code__.co_code.hex() if isinstance(value, _Function) else ""
        return f"{value.__module__}.{value.__qualname__}", code
    return type(value).__qualname__, repr(value) if isinstance(value, str | int | float | tuple | bytes) else ""
