"""What the bytecode of a function tells: what it does, what it names, and what it changes."""

from __future__ import annotations

import dis
import functools
import types
from typing import Any

__all__ = ["changed", "instructions", "names"]

_CHANGING = {
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove",
    "setdefault", "update",
}  # fmt: skip


def _inner(code: types.CodeType) -> list[types.CodeType]:
    return [one for one in code.co_consts if isinstance(one, types.CodeType)]


def names(code: types.CodeType) -> set[str]:
    """All names that code looks up, and the functions inside it."""
    return set(code.co_names).union(*map(names, _inner(code)))


@functools.lru_cache(maxsize=4096)
def changed(code: types.CodeType) -> frozenset[str]:
    """The variables and attributes that code, and the functions inside it, set or change: ``n += 1``, ``l.append(x)``.

    A reading of the code from its beginning to its end, which is right but where expressions hold branches.
    """
    found: set[str | None] = set()
    least = code.co_stacksize + 1
    stack: list[str | None] = [None] * least  # by what name each thing on it was looked up
    for one in dis.get_instructions(code):
        kind = one.opname
        if kind.startswith(("STORE_GLOBAL", "STORE_ATTR", "STORE_DEREF", "DELETE_GLOBAL", "DELETE_ATTR")):
            found.add(one.argval)
        elif kind in ("STORE_SUBSCR", "DELETE_SUBSCR"):
            found.add(stack[-2])
        elif kind in ("LOAD_METHOD", "LOAD_ATTR") and one.argval in _CHANGING:
            found.add(stack[-1])
        _move(stack, one)
        # Where branches meet again the stack is not known; there is always something to look at.
        stack[:0] = [None] * (least - len(stack))
    named = {name for name in found if name is not None}
    return frozenset(named.union(*map(changed, _inner(code))))


def _move(stack: list[str | None], one: dis.Instruction) -> None:
    """Do to names on the stack what an instruction does to the things."""
    grows = dis.stack_effect(one.opcode, one.arg if one.opcode >= dis.HAVE_ARGUMENT else None)
    if one.opname == "COPY":
        stack.append(stack[-one.argval])
    elif one.opname == "SWAP":
        stack[-1], stack[-one.argval] = stack[-one.argval], stack[-1]
    elif one.opname in ("LOAD_ATTR", "LOAD_METHOD"):
        stack[-1:] = [one.argval] + [None] * grows
    elif one.opname in (
        "LOAD_GLOBAL",
        "LOAD_DEREF",
        "LOAD_NAME",
    ):
        stack += [None] * (grows - 1) + [one.argval]
    elif grows > 0:
        stack += [None] * grows
    else:
        del stack[len(stack) + grows :]
        if stack and not one.opname.startswith(("STORE_", "DELETE_", "POP_", "BINARY_SUBSCR")):
            stack[-1] = None


def instructions(code: types.CodeType) -> list[Any]:
    """What code does, in plain values: without line numbers and comments, with what it says in its docstring."""
    return [code.co_code.hex(), [_constant(constant) for constant in code.co_consts], list(code.co_names)]


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return instructions(value)
    # Sets have another order in every process.
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)
