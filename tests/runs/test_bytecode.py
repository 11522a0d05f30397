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

from tp_dspy.runs.bytecode import changed, names

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


def reads(self: Any) -> Any:
    return [one for one in seen if one in fixed and self.limit > total], kept[0][0], cache.get("a")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (counts, {"total"}),
        (appends, {"seen"}),
        (caches, {"cache"}),
        (adds, {"cache", "tally"}),
        (sets, {"last", "first"}),
        (inside, {"kept", "cache"}),
        (reads, set()),
    ],
)
def test_what_code_changes(function: types.FunctionType, expected: set[str]) -> None:
    known = {"total", "seen", "cache", "kept", "fixed", "tally", "last", "first", "name", "question", "kind", "limit"}
    assert changed(function.__code__) & known == expected


def test_names_of_inner_functions_are_names() -> None:
    assert {"kept", "cache", "fixed"} <= names(inside.__code__)


@pytest.mark.parametrize("module", [argparse, asyncio.base_events, inspect, json.decoder, dspy.Predict, dspy.LM])
def test_any_code_can_be_read(module: Any) -> None:
    read = 0
    holders = [module, *(one for _, one in inspect.getmembers(module, inspect.isclass))]
    for holder in holders:
        for _, one in inspect.getmembers(holder, inspect.isfunction):
            code = one.__code__
            assert changed(code) <= names(code).union(code.co_freevars, code.co_cellvars)
            read += 1
    assert read > 3
