"""What the bytecode of a function tells: what it does, what it looks up, and what it changes."""

from __future__ import annotations

import dis
import functools
import inspect
import types
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Place", "Reading", "arguments", "instructions", "read"]

Place = tuple[Literal["global", "import", "cell", "argument"], tuple[str, ...]]
"""Where a thing was looked up: ``helpers.LABELS`` is ("global", ("helpers", "LABELS")); imports begin with a module."""

_CHANGING = {
    "add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem", "popleft",
    "remove", "reverse", "rotate", "setdefault", "sort", "subtract", "update",
}  # fmt: skip


@dataclass
class Reading:
    """What code looks up and changes, the functions inside it included.

    Attributes:
        places: What it looks up among globals, what it imports, and what it looks up in these.
        changes: What it sets or changes, or something inside it: ``n += 1``, ``self.log.append(x)``, ``cache[k] = v``.
        names: Names of all attributes that it looks up, of anything.
    """

    places: set[Place] = field(default_factory=set)
    changes: set[Place] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def changes_at(self, kind: str, path: tuple[str, ...]) -> bool:
        """Whether something is changed, or something in it."""
        return any(one == kind and at[: len(path)] == path for one, at in self.changes)


@functools.lru_cache(maxsize=4096)
def read(code: types.CodeType) -> Reading:
    """Read code from its beginning to its end, which is right but where expressions hold branches.

    Local names stand for what was put there last; what a function gives back is nobody's.
    """
    reading = Reading()
    _read(code, {}, reading)
    return reading


def arguments(code: types.CodeType) -> tuple[str, ...]:
    """The names of a function's arguments."""
    flags = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + flags]


def _read(code: types.CodeType, outer: dict[str, Place | None], reading: Reading) -> None:
    local: dict[str, Place | None] = dict(outer) | {name: ("argument", (name,)) for name in arguments(code)}
    least = code.co_stacksize + 2
    stack: list[Place | None] = [None] * least
    seen: list[Place] = []
    for one in dis.get_instructions(code):
        kind, name = one.opname, one.argval
        on_top, below = stack[-1], stack[-2]
        if kind == "STORE_GLOBAL":
            reading.changes.add(("global", (name,)))
        elif kind == "STORE_FAST" or (kind == "STORE_DEREF" and name not in code.co_freevars):
            local[name] = on_top
        elif kind == "STORE_DEREF":
            reading.changes.add(outer.get(name) or ("cell", (name,)))
        elif kind in ("STORE_ATTR", "DELETE_ATTR") and on_top is not None:
            reading.changes.add((on_top[0], (*on_top[1], name)))
        elif kind in ("STORE_SUBSCR", "DELETE_SUBSCR") and below is not None:
            reading.changes.add(below)
        elif kind in ("LOAD_METHOD", "LOAD_ATTR"):
            reading.names.add(name)
            if on_top is not None:
                seen.append((on_top[0], (*on_top[1], name)))
                if name in _CHANGING:
                    reading.changes.add(on_top)
        _move(stack, one, local)
        if kind in ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME", "IMPORT_FROM") and stack[-1] is not None:
            seen.append(stack[-1])
        # Where branches meet again the stack is not known; there is always something to look at.
        stack[:0] = [None] * (least - len(stack))
    reading.places.update(place for place in seen if place[0] in ("global", "import"))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            _read(inner, {name: local.get(name) for name in inner.co_freevars if name in local}, reading)


def _move(stack: list[Place | None], one: dis.Instruction, local: dict[str, Place | None]) -> None:
    """Do to places on the stack what an instruction does to the things."""
    grows = dis.stack_effect(one.opcode, one.arg if one.opcode >= dis.HAVE_ARGUMENT else None)
    kind, name = one.opname, one.argval
    if kind == "COPY":
        stack.append(stack[-name])
    elif kind == "SWAP":
        stack[-1], stack[-name] = stack[-name], stack[-1]
    elif kind in ("LOAD_GLOBAL", "LOAD_NAME"):
        stack += [None] * (grows - 1) + [("global", (name,))]
    elif kind.startswith("LOAD_FAST") and isinstance(name, str):
        stack.append(local.get(name))
    elif kind.startswith("LOAD_FAST") and isinstance(name, tuple):
        stack += [local.get(one) for one in name]
    elif kind == "LOAD_DEREF":
        stack.append(local.get(name, ("cell", (name,))))
    elif kind in ("LOAD_ATTR", "LOAD_METHOD"):
        held = stack[-1]
        stack[-1:] = [held and (held[0], (*held[1], name)), *[None] * grows]
    elif kind == "IMPORT_NAME":
        stack[-2:] = [("import", (name,))]
    elif kind == "IMPORT_FROM":
        held = stack[-1]
        stack.append(held and (held[0], (*held[1], name)))
    elif grows > 0:
        stack += [None] * grows
    else:
        del stack[len(stack) + grows :]
        if stack and not kind.startswith(("STORE_", "DELETE_", "POP_", "BINARY_SUBSCR", "PRECALL", "CACHE", "NOP")):
            stack[-1] = None


def instructions(code: types.CodeType) -> list[Any]:
    """What code does, in plain values: without line numbers and comments, with what it says in its docstring."""
    shape = [code.co_flags, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, list(arguments(code))]
    constants = [_constant(constant) for constant in code.co_consts]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), shape, constants, list(code.co_names)]


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return instructions(value)
    # Sets have another order in every process.
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)
