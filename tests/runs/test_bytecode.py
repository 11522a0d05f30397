"""What code changes, read off its bytecode."""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import types
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from tp_dspy.runs.bytecode import read

total, seen, cache, kept, fixed = 0, [], {}, [[]], {"a": 1}  # type: ignore[var-annotated]


def counts() -> None:
    global total
    total += 1


def appends(item: Any) -> None:
    seen.append(item if item else fixed["a"])


def caches(self: Any, item: Any) -> Any:
    cache[self.name, item.question.strip()] = len(fixed)
    return cache[self.name, item.question.strip()]


def adds(self: Any, item: Any) -> None:
    cache[item.question] = cache.get(item.question, 0) + fixed["a"]
    self.tally[item.kind] += 1


def sets(self: Any, item: Any) -> None:
    self.last, other = item, fixed
    other_name = other  # a local name is nobody's business
    del self.first[0]
    print(other_name)


def inside(item: Any) -> Callable[[], None]:
    def later() -> None:
        kept[0].append(item)
        cache.update(fixed)

    return later


def imports() -> Any:
    import json
    from os.path import join

    return json, join, asyncio.tasks.current_task


def reads(self: Any) -> Any:
    return [one for one in seen if one in fixed and self.limit > total], kept[0][0], cache.get("a")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (counts, ["total"]),
        (appends, ["seen"]),
        (caches, ["cache"]),
        (adds, ["cache", "self.tally"]),
        (sets, ["self.first", "self.last"]),
        (inside, ["cache", "kept"]),
        (reads, []),
    ],
)
def test_what_code_changes(function: types.FunctionType, expected: list[str]) -> None:
    assert sorted(".".join(path) for _, path in read(function.__code__).changes) == expected


def test_what_code_looks_up_among_globals_and_imports() -> None:
    assert {("global", (name,)) for name in ("kept", "cache", "fixed")} <= read(inside.__code__).places
    assert {("import", ("os.path", "join")), ("import", ("json",))} <= read(imports.__code__).places
    assert ("global", ("asyncio", "tasks", "current_task")) in read(imports.__code__).places
    assert "question" in read(caches.__code__).names and not any(
        "item" in path for _, path in read(adds.__code__).places
    )


@pytest.mark.parametrize("module", [argparse, asyncio.base_events, inspect, json.decoder, dspy.Predict, dspy.LM])
def test_any_code_can_be_read(module: Any) -> None:
    looked_at = 0
    holders = [module, *(one for _, one in inspect.getmembers(module, inspect.isclass))]
    for holder in holders:
        for _, one in inspect.getmembers(holder, inspect.isfunction):
            reading = read(one.__code__)
            assert all(path and all(isinstance(name, str) for name in path) for _, path in reading.changes)
            assert {path[0] for kind, path in reading.places if kind == "global"} <= reading.names | _all_names(
                one.__code__
            )
            looked_at += 1
    assert looked_at > 3


def _all_names(code: types.CodeType) -> set[str]:
    return set(code.co_names).union(*(_all_names(one) for one in code.co_consts if isinstance(one, types.CodeType)))
