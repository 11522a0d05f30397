"""The study of ways to ask: every way asks, what comes back is measured beside its parent, the table adds it up."""

from __future__ import annotations

from typing import Any

import pytest

from programs.benchmarks.proposals.__main__ import Study, table
from programs.benchmarks.proposals.ways import WAYS
from programs.benchmarks.scripted import PromptView, scripted_lm
from programs.benchmarks.worlds import World
from tp_dspy import Task


@pytest.fixture
def world() -> World:
    return World(1)


def task_of(world: World) -> Task:
    made = world.task("finance", train=8, test=10)
    return Task("finance", train=made.train, test=made.test, description="lettered questions", answers=["A", "B"])


def study(world: World, rule: Any) -> Study:
    scorer = world.scorer_lm(logprobs=True, top_logprobs=5)
    return Study(scorer, scripted_lm(rule), threads=1, examples=8, questions=10, replies=3)


@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_asks_and_is_measured(way: str, world: World) -> None:
    asked: list[PromptView] = []

    def rule(prompt: PromptView) -> str:
        asked.append(prompt)
        return f"<INS>Answer calmly, stepwise, precisely and only so, number{len(asked)}.</INS>"

    cell = study(world, rule).run(task_of(world), way, 0)
    assert len(asked) == 3 and asked[0].config.temperature == WAYS[way][1]
    prompt = asked[0].user
    assert "<INS>" in prompt and ("lettered questions" in prompt) == (way not in ("bare", "gepa"))
    assert ("Score: " in prompt) == (
        way not in ("hidden_scores", "edit", "gepa", "cross", "rewrite", "graft", "rules", "plain", "advice")
    )
    for reply in cell["replies"]:
        own = reply["reply"].removeprefix("<INS>").removesuffix("</INS>")
        grafted = way in ("graft", "rules", "advice")
        assert reply["text"] == (f"{own} {cell['parent']['text']}" if grafted else own)
        search, unseen = reply["measured"]
        assert len(search["outcomes"]) == 8 and len(unseen["outcomes"]) == 10
    unseen = cell["replies"][0]["measured"][1]["score"]
    assert unseen > cell["parent"]["measured"][1]["score"], "these words help in every world"


@pytest.mark.parametrize("way", list(WAYS))
def test_who_repeats_the_request_is_no_use(way: str, world: World) -> None:
    def rule(prompt: PromptView) -> str:
        asked = [line for line in prompt.user.splitlines() if len(line.split()) > 9 and "<INS>" not in line]
        return f"<INS>{next(line for line in reversed(asked) if 'Case' not in line)}</INS>"

    cell = study(world, rule).run(task_of(world), way, 0)
    assert {reply["rejected"] for reply in cell["replies"]} <= {
        "it repeats the request",
        "it repeats an instruction that was tried already",
    }


def test_the_table_counts_what_was_usable_and_what_was_better(world: World) -> None:
    replies = iter(
        ["<INS>Answer calmly, stepwise, precisely and only so.</INS>", "", "<INS>Answer wildly loudly.</INS>"]
    )
    cell = study(world, lambda prompt: next(replies, "")).run(task_of(world), "current", 0)
    cells = [cell["rejected"] for cell in cell["replies"]]
    assert cells == [None, "it is empty", None]
    columns = {column.header: list(column.cells) for column in table([cell]).columns}
    assert columns["replies"] == ["3"] and columns["usable"] == ["0.67"] and columns["beat parent"] == ["0.33"]
    assert columns["why not"] == ["1 it is empty"]
    good, parent = cell["replies"][0]["measured"][1]["score"], cell["parent"]["measured"][1]["score"]
    assert columns["gain, chosen"][0].startswith(f"{good - parent:+.3f}")
