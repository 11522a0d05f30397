"""What a value is, in plain values that are the same in every process: settings, and the code of functions and classes.

Where two descriptions differ for no reason a run pays again; where they agree for none it trusts what is stale.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import json
import pathlib
import re
import sys
import sysconfig
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dspy
import numpy as np
import pydantic

from tp_dspy.runs import bytecode
from tp_dspy.runs.artifacts import names_secret

__all__ = ["described", "digest", "settings_of", "state_of"]

_INSTALLED = tuple({
    str(pathlib.Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")
})  # fmt: skip
# Attributes of DSPy's modules and adapters that are no settings; and those of predictors that are their state.
_NOT_SETTINGS = {"callbacks", "history"}
_STATE = {"config", "demos", "fields", "lm", "signature", "stage", "traces", "train"}
_CONSTRUCTORS = {"__init__", "__new__", "__post_init__", "__init_subclass__", "__set_name__"}
_SPELLED = (
    complex, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction, pathlib.PurePath,
    range, re.Pattern, slice,
)  # fmt: skip
_Function = types.FunctionType


def digest(value: Any) -> str:
    """Hash a value: the sha256 of the canonical JSON of its description, as hex digits."""
    text = json.dumps(described(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def described(value: Any, *, apart: Iterable[Any] = ()) -> Any:
    """Describe a value.

    Containers, arrays, dataclasses, pydantic models and examples are what they hold, secrets aside. An LM is its model
    and its settings, wherever it is served. A function is its code, with what it closes over, its defaults, and the
    functions, classes and plain values of the user's own that it names; a class its methods, its plain attributes and
    its bases. A module of DSPy is its class and settings, a predictor its fields, instructions and demos, too. So is
    an object that can be called, or whose method is. Of any other object, such as a client, only the class is known:
    what it holds may change with its use; for the same reason variables that the code itself changes are left out.
    What is installed is known by its name.

    Args:
        value: Anything.
        apart: Objects that are described elsewhere, and only mentioned here.
    """
    return _Describing(apart).of(value)


def settings_of(module: dspy.Module, *, apart: Iterable[Any] = ()) -> dict[str, Any]:
    """Describe the public attributes of a module of DSPy that its own methods do not change.

    Args:
        module: The module.
        apart: See `described`.
    """
    return _Describing(apart).settings(module)


def state_of(predictor: Any) -> dict[str, Any]:
    """Say what a predictor, or another parameter of a program, is set to, with its LM."""
    state = {name: one for name, one in predictor.dump_state().items() if name not in ("lm", "traces", "train")}
    if isinstance(predictor, dspy.Predict):
        fields = [[name, field.annotation] for name, field in predictor.signature.fields.items()]
        state |= {"lm": predictor.lm, "config": predictor.config, "types": fields}
    return state


class _Describing:
    """One description: what comes up inside itself, or has been described as code, is only mentioned."""

    def __init__(self, apart: Iterable[Any]) -> None:
        self.apart = {id(one) for one in apart}
        self.code: dict[int, Any] = {}
        self.inside: set[int] = set()

    def of(self, value: Any) -> Any:
        if value is None or (isinstance(value, str | int | float) and not isinstance(value, enum.Enum)):
            return value
        if id(value) in self.apart:
            return ["apart", type(value).__qualname__]
        if id(value) in self.code:
            return ["as above", value.__qualname__]
        if id(value) in self.inside:
            return ["inside itself", type(value).__qualname__]
        if isinstance(value, type | _Function):
            self.code[id(value)] = value  # kept, so that no other gets its address
        self.inside.add(id(value))
        try:
            return self._data(value) or self._called(value) or self._object(value)
        finally:
            self.inside.discard(id(value))

    def _beside(self, value: Any) -> Any:
        code, self.code = self.code, self.code.copy()
        try:
            return self.of(value)
        finally:
            self.code = code

    def _data(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return ["mapping", self._items(value)]
        if isinstance(value, list | tuple):
            return ["sequence", *map(self.of, value)]
        if isinstance(value, set | frozenset):
            # In another order in every process, so that none may be described by what came before it.
            each = (self._beside(one) for one in value)
            return ["set", *sorted(each, key=lambda one: json.dumps(one, sort_keys=True))]
        if isinstance(value, bytes | bytearray):
            return ["bytes", hashlib.sha256(value).hexdigest()]
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:  # its bytes are addresses
                return ["array", self.of(value.tolist())]
            return ["array", str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
        if isinstance(value, np.generic):
            return ["value", value.item()]
        if isinstance(value, enum.Enum):
            return ["member", self.of(type(value)), value.name]
        if isinstance(value, _SPELLED):
            return ["value", repr(value)]
        if typing.get_origin(value) is not None:
            return ["type", self.of(typing.get_origin(value)), *map(self.of, typing.get_args(value))]
        if isinstance(value, dspy.Example):
            return ["example", self._items(dict(value))]
        if isinstance(value, dspy.BaseLM):
            # Where it is served and the keys are left out: the same model elsewhere answers the same.
            kept = {name: one for name, one in (value.kwargs or {}).items() if name not in ("api_base", "base_url")}
            return ["LM", value.model, getattr(value, "model_type", None), self._items(kept)]
        return None

    def _called(self, value: Any) -> Any:
        """Describe a class, or what is there to be called."""
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, _Function):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return ["method", value.__name__, self._holder(value.__self__)]
        if isinstance(value, functools.partial):
            return ["partial", self.of(value.func), self.of(value.args), self._items(value.keywords)]
        if isinstance(getattr(value, "__wrapped__", None), _Function):  # functools.lru_cache, dspy's decorators
            return self.of(value.__wrapped__)
        if isinstance(value, types.BuiltinFunctionType | types.ModuleType):
            return ["name", value.__name__]
        return None

    def _object(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, pydantic.BaseModel):
            return [self.of(kind), self._items(dict(value))]
        if dataclasses.is_dataclass(value):
            return [self.of(kind), self._items({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})]
        if isinstance(value, dspy.Module):
            state = {}
            if isinstance(value, dspy.Predict):
                state = self._items(state_of(value))
            return [self.of(kind), self.settings(value), state]
        return self._holder(value) if callable(value) or isinstance(value, dspy.Adapter) else self.of(kind)

    def _holder(self, value: Any) -> Any:
        """Describe an object by its class and its settings."""
        if isinstance(value, type | dspy.Module) or id(value) in self.apart:
            return self.of(value)
        held = {name: one for name, one in _unchanged(value).items() if name not in _NOT_SETTINGS}
        if not (_is_own(type(value)) or isinstance(value, dspy.Adapter)):
            # Of an object of somebody else's, such as a model, much may be no setting.
            held = {name: one for name, one in held.items() if not name.startswith("_") and _is_setting(one)}
        return [self.of(type(value)), self._items(held)]

    def settings(self, module: dspy.Module) -> dict[str, Any]:
        apart = _NOT_SETTINGS | _STATE if isinstance(module, dspy.Predict) else _NOT_SETTINGS
        held = {name: one for name, one in _unchanged(module).items() if name not in apart}
        return self._items({name: one for name, one in held.items() if not name.startswith("_")})

    def _items(self, items: Mapping[Any, Any]) -> dict[str, Any]:
        return {str(name): self.of(one) for name, one in items.items() if not names_secret(str(name))}

    def _class(self, kind: type) -> Any:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if not _is_own(kind) or issubclass(kind, dspy.Signature):  # whose instructions are what is optimised
            return ["class", name]
        held = {n: _bare(one) for n, one in sorted(vars(kind).items())}
        methods = {n: self.of(one) for n, one in held.items() if isinstance(one, _Function)}
        if issubclass(kind, enum.Enum):
            rest: Any = [[member.name, self.of(member.value)] for member in kind]
        elif issubclass(kind, pydantic.BaseModel):
            fields = kind.model_fields.items()
            rest = [kind.__doc__, [[n, self.of(f.annotation), f.description, self.of(f.default)] for n, f in fields]]
        else:
            rest = {n: self.of(one) for n, one in held.items() if not n.startswith("_") and _is_setting(one)}
        bases = [self.of(base) for base in kind.__bases__ if base is not object]
        return ["class", kind.__qualname__, methods, rest, bases]

    def _function(self, function: types.FunctionType) -> Any:
        changed = bytecode.changed(function.__code__)
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        closed = {name: _content(cell) for name, cell in cells if name not in changed}
        if not _is_own(function):
            # A decorator or a wrapper of somebody else's may hold a function of the user's own.
            kept = {name: one for name, one in closed.items() if callable(one) and _is_setting(one)}
            return ["function", f"{function.__module__}.{function.__qualname__}", self._items(kept)]
        named = self._items(dict(_named(function, changed)))
        defaults = [self.of(function.__defaults__), self.of(function.__kwdefaults__)]
        return ["function", bytecode.instructions(function.__code__), self._items(closed), defaults, named]


def _bare(value: Any) -> Any:
    """The function in a static method, a class method or a property."""
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    if isinstance(value, property):
        return value.fget
    return value.func if isinstance(value, functools.cached_property) else value


def _is_own(thing: Any) -> bool:
    """Whether a function, a class or a module is of the user's own, and not installed."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None) or ""
    if name.partition(".")[0] in ("dspy", "tp_dspy", *sys.builtin_module_names):
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is None or not _is_installed(file)


@functools.lru_cache(maxsize=4096)
def _is_installed(file: str) -> bool:
    path = pathlib.Path(file).resolve()
    return any(path.is_relative_to(folder) for folder in _INSTALLED)


def _is_setting(value: Any) -> bool:
    """Whether a variable is described where code names it: plain values, and what the user wrote."""
    if isinstance(value, Mapping):
        return all(map(_is_setting, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_setting, value))
    if isinstance(value, type | _Function | types.MethodType):
        return _is_own(value)
    if isinstance(value, functools.partial) or isinstance(getattr(value, "__wrapped__", None), _Function):
        return True
    plain = str | int | float | bytes | enum.Enum | np.ndarray | np.generic | pydantic.BaseModel
    known = (plain | dspy.Module | dspy.Example | dspy.BaseLM, _SPELLED)
    return value is None or isinstance(value, known) or typing.get_origin(value) is not None


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is bound later
        return None


def _named(function: types.FunctionType, changed: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """The variables that a function names, in its module or, by ``module.name``, in another of the user's own."""
    names = bytecode.names(function.__code__) - changed
    for name in sorted(names & function.__globals__.keys()):
        found = function.__globals__[name]
        if isinstance(found, types.ModuleType):
            if _is_own(found):
                inner = sorted(names & vars(found).keys())
                yield from ((f"{name}.{n}", vars(found)[n]) for n in inner if _is_setting(vars(found)[n]))
        elif _is_setting(found):
            yield name, found


def _unchanged(value: Any) -> dict[str, Any]:
    """The attributes of an object that no method of the user's own sets or changes, but for its constructors."""
    methods = [
        (name, _bare(one))
        for kind in type(value).__mro__
        if _is_own(kind)
        for name, one in vars(kind).items()
        if name not in _CONSTRUCTORS
    ]
    changed = set[str]().union(*(bytecode.changed(one.__code__) for _, one in methods if isinstance(one, _Function)))
    return {name: one for name, one in getattr(value, "__dict__", {}).items() if name not in changed}
