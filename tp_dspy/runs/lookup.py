"""Where code is from, which variables it finds, and which attributes of its objects it changes."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import logging
import pathlib
import sys
import sysconfig
import types
from collections.abc import Collection, Iterator
from typing import Any

from tp_dspy.runs.bytecode import Place, arguments, read

__all__ = [
    "Found", "attributes", "bare", "changed_attributes", "closed", "find", "held_code", "is_own", "name_of",
    "unchanged",
]  # fmt: skip

logger = logging.getLogger(__name__)

_INSTALLED = tuple({
    str(pathlib.Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")
})  # fmt: skip
_CONSTRUCTORS = {"__init__", "__new__", "__post_init__", "__init_subclass__", "__set_name__"}
_Function = types.FunctionType


def name_of(value: Any) -> str:
    """The full name of a function or a class."""
    name = value.__code__.co_qualname if isinstance(value, _Function) else value.__qualname__
    return f"{_module_of(value)}.{name}"


def held_code(function: types.FunctionType) -> dict[str, Any]:
    """The functions that a function of somebody else's holds, which may be of the user's own: it may wrap them."""
    return {name: one for name, one in [*closed(function), *vars(function).items()] if _is_code(one)}


def _is_code(value: Any) -> bool:
    """Whether it is a function, or a mapping to functions such as that of ``functools.singledispatch``."""
    return all(map(_is_code, value.values())) if isinstance(value, dict) and value else callable(value)


def bare(value: Any) -> Any:
    """The function in a static method, a class method, a property and the like."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        return value.fget
    if isinstance(value, functools.cached_property):
        return value.func
    if isinstance(value, functools.singledispatchmethod):
        return value.dispatcher
    wrapped = inspect.getattr_static(value, "__wrapped__", None)
    return wrapped if isinstance(wrapped, _Function) and not isinstance(value, _Function) else value


def _module_of(thing: Any) -> str:
    """The name of the module that a function, a class or a module is of; functools.wraps pretends to another."""
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    found = thing.__globals__.get("__name__") if isinstance(thing, _Function) else getattr(thing, "__module__", None)
    return found if isinstance(found, str) else ""


def is_own(thing: Any) -> bool:
    """Whether a function, a class or a module is of the user's own, and not installed."""
    name = _module_of(thing)
    if name.partition(".")[0] in ("dspy", "tp_dspy", *sys.builtin_module_names):
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is None or not _is_installed(file)


@functools.lru_cache(maxsize=4096)
def _is_installed(file: str) -> bool:
    path = pathlib.Path(file).resolve()
    return any(path.is_relative_to(folder) for folder in _INSTALLED)


def closed(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function closes over, by name."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a name that is bound later
            yield name, None


@dataclasses.dataclass(frozen=True)
class Found:
    """A variable that code names.

    Attributes:
        space: The address of the variables of its module.
        module: The name of the module; empty for the function's own, which may be another when it is run as a script.
        name: Its name.
        value: What it is.
    """

    space: int
    module: str
    name: str
    value: Any


def find(function: types.FunctionType, place: Place) -> Found | None:
    """Find a variable in the module of a function, or in one that this names or imports; None for any other."""
    kind, path = place
    if kind == "import":
        package = function.__globals__.get("__package__") or ""
        names = [path[0], *([f"{package}.{path[0]}"] if package else [])]
        module = next(filter(None, map(_imported, names)), None)
        if module is None:
            return Found(0, path[0], "", None)
        if len(path) > 1 and path[1] not in vars(module):  # ``import a.b`` gives a
            module = sys.modules.get(path[0].partition(".")[0], module)
        space, left = vars(module), path[1:]
        if not left or not is_own(module):
            return Found(0, path[0], ".".join(left), module)
    elif kind == "global" and path[0] in function.__globals__:
        module, space, left = None, function.__globals__, path
    else:
        return None
    while len(left) > 1 and isinstance(inner := space.get(left[0]), types.ModuleType) and is_own(inner):
        module, space, left = inner, vars(inner), left[1:]
    if left[0] not in space:
        return None
    return Found(id(space), module.__name__ if module is not None else "", left[0], space[left[0]])


def _imported(name: str) -> types.ModuleType | None:
    """A module that code imports when it is called: imported now, where it is of the user's own and can be."""
    if name in sys.modules:
        return sys.modules[name]
    try:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or not pathlib.Path(spec.origin).is_file() or _is_installed(spec.origin):
            return None
        return importlib.import_module(name)
    except Exception as error:  # whatever it does when it is imported: who calls the code will be told
        logger.debug("%s cannot be imported, and what is in it is not seen.", name, exc_info=error)
        return None


def attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object."""
    held = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if not name.startswith("__") and hasattr(value, name):
                held[name] = getattr(value, name)
    return held


def changed_attributes(kind: type, entries: Collection[str] | None) -> set[str]:
    """The attributes of its objects and of itself that the methods of a class change, constructors aside.

    Args:
        kind: The class.
        entries: The methods that are called, and what they call counts; None for all.
    """
    methods: dict[str, types.FunctionType] = {}
    cached: set[str] = set()
    for one_of in reversed(kind.__mro__):
        if is_own(one_of):
            for name, one in vars(one_of).items():
                if isinstance(one, functools.cached_property):
                    cached.add(name)
                method = inspect.unwrap(bare(one)) if callable(bare(one)) else None
                if isinstance(method, _Function):
                    methods[name] = method
    reached = set(methods) - _CONSTRUCTORS if entries is None else set(entries) & set(methods)
    todo = list(reached)
    while todo:
        more = (read(methods[todo.pop()].__code__).names & set(methods)) - reached - _CONSTRUCTORS
        reached |= more
        todo += more
    changed = set(cached)
    for method in (methods[name] for name in reached):
        first = arguments(method.__code__)[:1]
        for where, path in read(method.__code__).changes:
            if len(path) > 1 and (path[:1] == first if where == "argument" else path[0] == kind.__name__):
                changed.add(path[1])
    return changed


def unchanged(value: Any, entries: Collection[str] | None) -> dict[str, Any]:
    """The attributes of an object that its own methods do not change."""
    changed = changed_attributes(type(value), entries)
    return {name: one for name, one in attributes(value).items() if name not in changed}
