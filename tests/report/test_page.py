"""The run page as it is written: what it says, whatever a run has found, and that texts of others are only text."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import math
import os
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs.benchmarks.page import RULE, long_run, outcomes, side_by_side
from tp_dspy import TransferResult
from tp_dspy.report import content, rows
from tp_dspy.report.headline import gain, headline
from tp_dspy.report.marks import HIDDEN, inert, script_json, visible
from tp_dspy.report.page import render_page, write_page
from tp_dspy.runs.snapshots import RUNNING
from tp_dspy.scoring.comparison import Comparison
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.sheets import number

small = functools.cache(functools.partial(long_run, 60))


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots have tests of their own, and take seconds."""
    monkeypatch.setattr("tp_dspy.report.page._figures", lambda result: [])


def page(result: TransferResult, **how: Any) -> str:
    return render_page(result, **how)


def words(text: str) -> str:
    """The text of a page without its markup."""
    body = text.split("<main", 1)[1].split("</main>", 1)[0]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def data(text: str) -> Any:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert block is not None
    return json.loads(block[1])


def of_difference(low: float, high: float, p: float) -> TransferResult:
    found = small().held_out
    difference = replace(
        found.differences["target"], score=(low + high) / 2, low=low, high=high, p_value=p, examples_needed=321.0
    )
    differences = {**found.differences, "target": difference}
    return small().model_copy(update={"held_out": found.model_copy(update={"differences": differences})})


# The headline.


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict", "chance"),
    [
        (0.1, 0.3, 0.001, "The target prompt is better than the original", "is hardly chance"),
        (0.01, 0.3, 0.03, "The target prompt is better than the original", "is unlikely to be chance"),
        (-0.1, 0.3, 0.4, "No clear difference to the original", "may well be chance"),
        (-0.3, -0.1, 0.001, "The target prompt is worse than the original", "is hardly chance"),
    ],
)
def test_the_headline_says_what_the_paired_difference_says(
    low: float, high: float, p: float, verdict: str, chance: str
) -> None:
    result = of_difference(low, high, p)
    said = words(page(result))
    first, target = (number(result.held_out.prompts[name].metrics.score) for name in ("original", "target"))
    assert f"{verdict} Original {first} → Target prompt {target} Score from 0 to 1, on 200 held-out examples" in said
    assert f"{(low + high) / 2:+.3f} 95 % interval {low:+.3f} to {high:+.3f}" in said
    assert f"That {chance}: between" in said and f"(p = {p:.3f}, two-sided paired bootstrap)" in said
    assert ("About 321 examples would be needed" in said) == (p >= 0.05)
    assert "Take it with care" not in said
    source = number(result.held_out.prompts["best source"].metrics.score)
    assert f"The best source prompt, as it was carried over, has {source} on the same." in said


def test_without_held_out_examples_it_warns_that_those_chose_the_winner() -> None:
    result = small().model_copy(update={"held_out": None, "selection": small().held_out})
    said = words(page(result))
    assert "Better than the original, on the examples that chose it" in said
    assert "on 200 examples that the winner was chosen on" in said
    assert "Take it with care: these examples also chose the winner" in said


def test_with_no_side_by_side_at_all_the_scores_of_the_search_are_told_and_warned_of() -> None:
    target = small().target.model_copy(update={"selection": None})
    result = small().model_copy(update={"held_out": None, "target": target})
    said = words(page(result))
    assert (
        f"Original {number(result.original.score)}" in said and f"Target prompt {number(result.winner.score)}" in said
    )
    assert "examples of the search" in said and "Take it with care" in said
    assert "The target prompt is better" not in said, "nothing paired was measured"
    assert 'id="metrics"' not in page(result) and 'id="questions"' not in page(result), "no empty sections"


def test_after_an_interruption_it_says_what_each_score_is_on() -> None:
    winner = small().winner
    met = {task: replace(metrics, n=12) for task, metrics in winner.by_task.items()}
    own = small().original.model_copy(update={"by_task": met})
    target = small().target.model_copy(update={"selection": None})
    result = small().model_copy(update={"held_out": None, "target": target, "original": own})
    assert "on 48 examples of the search; the original on 12" in words(page(result))
    assert math.isnan(gain(result).change), "they were not measured on the same"
    same = small().model_copy(update={"held_out": None, "target": target})
    assert gain(same).change == same.winner.score - same.original.score
    chosen = small().model_copy(update={"held_out": None})
    assert gain(chosen).basis == "48 examples that the winner was chosen on", "of several tasks, say"


def with_errors(first: int, target: int) -> TransferResult:
    """A result whose original got no answer to the first examples, and whose target got none to the last."""
    rng = random.Random(0)
    found = {
        "original": outcomes(40, 0.3, rng),
        "best source": outcomes(40, 0.5, rng),
        "target": outcomes(40, 0.8, rng),
    }
    found["original"][:first] = [Outcome("error")] * first
    found["target"][40 - target :] = [Outcome("error")] * target
    prompts = {name: prompt.instructions for name, prompt in small().held_out.prompts.items()}
    return small().model_copy(update={"held_out": side_by_side(prompts, found)})


def test_where_answers_are_missing_all_figures_are_on_what_both_answered() -> None:
    result = with_errors(5, 3)
    found = result.held_out
    change, (before, after) = found.differences["target"], found.paired["target"]
    said = words(page(result))
    assert "on 32 of 40 held-out examples: those that both prompts answered" in said
    assert f"Original {number(before)} → Target prompt {number(after)}" in said
    assert after - before == pytest.approx(change.score) and f"{change.score:+.3f} 95 % interval" in said
    assert "On 40 held-out examples; differences on the 32 that both prompts answered." in said
    assert "as it was carried over, has" in said and "on the 40 that it answered." in said
    whole = words(page(with_errors(0, 0)))
    assert "on 40 held-out examples" in whole and "both prompts answered" not in whole and "on the same." in whole


def test_where_nothing_was_answered_by_both_there_is_no_gain() -> None:
    result = with_errors(20, 20)
    said = words(page(result))
    assert "The two cannot be compared: no example was answered by both" in said
    assert "on 40 held-out examples, none of which both prompts answered" in said
    assert math.isnan(gain(result).change)


def test_a_file_from_before_the_paired_scores_were_kept_can_be_shown() -> None:
    held_out = with_errors(5, 0).held_out.model_copy(update={"paired": {}})
    found = gain(small().model_copy(update={"held_out": held_out}))
    own = [held_out.prompts[name].metrics.score for name in ("original", "target")]
    assert [found.before, found.after] == own and found.change == held_out.differences["target"].score


def test_it_says_honestly_that_nothing_better_was_found() -> None:
    result = small().model_copy(update={"winner": small().original})
    said = words(page(result))
    assert "No better prompt was found" in said
    assert "is the program's own instruction: none of 55 others that were tried was chosen" in said
    assert "hardly chance" not in said and "Nothing changed." in said


def test_it_says_where_the_winner_came_from() -> None:
    result = small()
    assert f"a prompt that the reference LM wrote in round {result.winner.round} of the target phase" in words(
        page(result)
    )
    carried = result.source.ranked[0]
    winner = carried.model_copy(update={"origin": "source", "parent": None})
    said = words(page(result.model_copy(update={"winner": winner})))
    assert "The target prompt is a source prompt, carried over as it is; the reference LM wrote it in round" in said


def test_a_run_that_goes_on_says_so_and_only_its_watched_page_loads_itself_again() -> None:
    result = small().model_copy(update={"stopped": RUNNING, "held_out": None})
    still, watched = page(result), page(result, refresh=5.0)
    for text in (still, watched):
        assert "This run has not ended yet." in words(text) and "Best so far" in words(text)
    assert '<noscript><meta http-equiv="refresh" content="5.0"></noscript>' in watched
    assert 'http-equiv="refresh"' not in still and data(still)["refresh"] is None and data(watched)["refresh"] == 5.0
    assert "has not ended" not in words(page(small()))


def test_a_run_that_ended_in_the_source_phase_is_shown() -> None:
    result = small()
    winner, own = result.source.ranked[0], result.source.history[0]
    result = result.model_copy(update={"target": None, "held_out": None, "winner": winner, "original": own})
    said = words(page(result))
    assert "The best source prompt so far" in said and "target phase not run" in said
    assert {row["phase"] for row in data(page(result))["rows"]} == {"source"}


def test_a_single_phase_and_scores_that_are_missing_are_no_trouble() -> None:
    result = small()
    nothing = result.winner.model_copy(update={"score": math.nan, "by_task": {}, "measurement": None, "expected": None})
    target = result.target.model_copy(
        update={"history": [nothing], "ranked": [nothing], "dropped": [], "proposals": []}
    )
    result = result.model_copy(
        update={"source": None, "target": target, "winner": nothing, "original": nothing, "held_out": None}
    )
    text = page(result)
    assert "Original - → Target prompt -" in words(text)
    (row,) = data(text)["rows"]
    assert row["score"] is None and row["ifr"] is None and row["met"] == 0


def test_a_difference_of_nan_is_no_verdict() -> None:
    record = Comparison(
        score=math.nan, low=math.nan, high=math.nan, p_value=math.nan, n=0, examples_needed=math.inf, by_metric={}
    )
    held_out = small().held_out.model_copy(update={"differences": {"target": record}})
    found = headline(small().model_copy(update={"held_out": held_out}))
    assert found.kind == "unclear" and "cannot be said" in found.lines[1]


# The parts.


def test_prompts_are_shown_in_full_with_what_changed() -> None:
    result = small()
    (group,) = content.prompts(result)
    assert [card["name"] for card in group["cards"]] == ["original", "best source", "target"]
    assert [(c["before"], c["after"]) for c in group["changes"]] == [
        ("original", "best source"),
        ("best source", "target"),
        ("original", "target"),
    ]
    text = page(result)
    for card in group["cards"]:
        assert f'<div class="text" dir="auto">{card["text"]}</div>' in text
    assert "<del>" in text and "<ins>" in text


def test_the_best_source_prompt_is_the_source_phases_winner_as_the_target_phase_knows_it_or_none() -> None:
    result = small().model_copy(update={"held_out": None})
    best, target = result.source.ranked[0], result.target

    def shown(history: list[Any], **more: Any) -> str | None:
        found = result.model_copy(update={"target": target.model_copy(update={"history": history}), **more})
        cards = {card["name"]: card["text"] for card in content.prompts(found)[0]["cards"]}
        return cards.get("best source")

    carried = [record for record in target.history if record.origin == "source"]
    others = [record for record in target.history if record.origin != "source"]
    assert len(carried) == 3 and {record.id for record in carried} == {r.id for r in result.source.ranked[:3]}
    # Those that a race dropped come behind the others.
    assert shown([*others, *carried[::-1]]) == best.instructions["self"]
    gone = [record for record in carried if record.id != best.id]
    assert shown([*others, *gone]) is None, "another one is not the best"
    assert shown(others) is None
    assert shown([*others, *carried], source=None) is None, "which of the three is the best was not kept"
    assert shown([*others, carried[1]], source=None) == carried[1].instructions["self"]


def test_every_predictor_has_its_prompts() -> None:
    result = small()
    more = {"second": "Check the answer."}
    new = {
        name: getattr(result, name).model_copy(update={"instructions": {**getattr(result, name).instructions, **more}})
        for name in ("winner", "original")
    }
    text = page(result.model_copy(update=new))
    assert (
        "Predictor self" in words(text)
        and "Predictor second" in words(text)
        and text.count("Check the answer.</div>") == 2
    )
    assert "Nothing changed." in words(text)


def test_the_metrics_table_marks_what_is_lower_and_what_is_clear() -> None:
    result = small()
    table = {row["name"]: row for row in content.metric_rows(result.held_out, {"ifr": 0.2})}
    assert next(iter(table)) == "score" and table["score"]["main"]
    assert table["calibration error (ECE)"]["lower"] and not table["accuracy (ACC)"]["lower"]
    assert table["instruction following (IFR)"]["weight"] == "0.20"
    target = result.held_out.prompts["target"]
    low, high = target.intervals["accuracy"]
    assert table["accuracy (ACC)"]["cells"][-1] == {
        "value": f"{target.metrics.accuracy:.3f}",
        "interval": f"{low:.2f} to {high:.2f}",
    }
    assert table["accuracy (ACC)"]["change"]["word"] == "better"


@pytest.mark.parametrize(
    ("name", "low", "high", "word"),
    [
        ("ece", -0.3, -0.1, "better"),
        ("ece", 0.1, 0.3, "worse"),
        ("accuracy", -0.3, -0.1, "worse"),
        ("accuracy", -0.1, 0.3, "unclear"),
    ],
)
def test_less_is_better_only_where_it_is(name: str, low: float, high: float, word: str) -> None:
    found = small().held_out
    by_metric = {**found.differences["target"].by_metric, name: ((low + high) / 2, low, high)}
    changed = replace(found.differences["target"], by_metric=by_metric)
    found = found.model_copy(update={"differences": {"target": changed}})
    label = {"ece": "calibration error (ECE)", "accuracy": "accuracy (ACC)"}[name]
    row = next(row for row in content.metric_rows(found, {}) if row["name"] == label)
    assert row["change"]["word"] == word


def test_without_any_confidence_there_is_no_row_of_how_many_have_one() -> None:
    rng = random.Random(0)
    prompts = {"original": {"self": "a"}, "target": {"self": "b"}}

    def names(sure: bool, weights: dict[str, float]) -> list[str]:
        made = {
            name: [replace(o, confidence=o.confidence if sure else None) for o in outcomes(9, 0.5, rng)]
            for name in prompts
        }
        return [row["name"] for row in content.metric_rows(side_by_side(prompts, made), weights)]

    assert names(False, {"accuracy": 1.0}) == ["score", "instruction following (IFR)", "accuracy (ACC)"]
    assert "with a confidence" in names(True, {"accuracy": 1.0})
    assert "with a confidence" in names(False, {"accuracy": 0.5, "ece": 0.5}), "it was asked for, and there is none"


def test_every_candidate_has_a_row_and_its_text_is_there_once() -> None:
    result = small()
    found = rows.candidates(result)
    assert len(found["rows"]) == len(result.source.history) + len(result.target.history)
    assert set(found["texts"]) == {r.id for p in (result.source, result.target) for r in p.history}
    fates = {row["id"]: row for row in found["rows"] if row["phase"] == "target"}
    assert fates[result.winner.id]["fate"] == "finalist 1, the winner"
    assert fates[result.target.ranked[1].id]["fate"] == "finalist 2"
    finalists = {record.id for record in result.target.ranked}
    gone = next(r for r in result.target.history if r.id in result.target.dropped and r.id not in finalists)
    assert fates[gone.id]["fate"] == f"dropped after {gone.measurement.examples} of 48 examples"
    assert fates[gone.id]["why"] == f"{gone.score:.2f} where the best had 0.90 on the same ones"
    whole = next(r for r in result.target.history if r.id not in {*result.target.dropped, *finalists})
    assert fates[whole.id]["fate"] == "all examples met"
    assert [row["kind"] for row in found["rows"][:5]] == ["finalist"] * 4 + ["met"], "finalists first"


def outcome(correct: float, *, followed: bool = True, status: str = "ok", answer: str = "B") -> Outcome:
    return Outcome(status, followed, correct, 0.5, answer, "B", answer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "target", "kinds"),
    [
        (outcome(1.0), outcome(1.0), None),
        (outcome(0.0), outcome(1.0), ["fixed"]),
        (outcome(0.2), outcome(0.7), ["fixed"]),
        (outcome(1.0), outcome(0.0), ["broken"]),
        (outcome(0.0), outcome(0.0), ["wrong"]),
        (outcome(0.0), outcome(0.0, followed=False), ["wrong", "unfollowed"]),
        (outcome(1.0), outcome(1.0, followed=False), ["unfollowed"]),
        (outcome(1.0, followed=False), outcome(1.0), ["other"]),
        (outcome(1.0, answer="b"), outcome(1.0), ["other"]),
        (outcome(0.0), outcome(0.0, status="error"), ["failed"]),
        (outcome(0.0, status="error"), outcome(1.0, followed=False), ["failed", "unfollowed"]),
    ],
)
def test_examples_are_kept_where_the_prompts_differ_or_the_target_falls_short(
    first: Outcome, target: Outcome, kinds: list[str] | None
) -> None:
    sure = outcome(1.0)
    found = side_by_side(
        {"original": {"self": "a"}, "target": {"self": "b"}}, {"original": [sure, first], "target": [sure, target]}
    )
    listed = rows.questions(found)
    assert [row["kinds"] for row in listed["rows"]] == ([] if kinds is None else [kinds])
    assert listed["total"] == 2 and (kinds is None or listed["rows"][0]["no"] == 2)


def test_a_source_prompt_that_is_the_target_prompt_is_not_shown_twice() -> None:
    rng = random.Random(0)
    same = outcomes(5, 0.5, rng)
    prompts = {"original": {"self": "a"}, "best source": {"self": "b"}, "target": {"self": "b"}}
    found = side_by_side(prompts, {"original": outcomes(5, 0.1, rng), "best source": same, "target": same})
    listed = rows.questions(found)
    assert listed["prompts"] == ["original", "best source = target"]
    assert all(len(row["said"]) == 2 for row in listed["rows"])


def test_cost_and_settings_are_told() -> None:
    result = small()
    said = words(page(result))
    total = result.scorer_usage + result.reference_usage
    assert f"{total.calls:,}" in said and f"{total.usd:,.2f} USD" in said and "1 h 23 min" in said
    assert dict(content.flat({"a": {"b": 0.123456789, "c": None, "d": [1, 2]}, "e": {}})) == {
        "a.b": "0.123457",
        "a.c": "none",
        "a.d": "1, 2",
        "e": "none",
    }
    unknown = result.target.model_copy(update={"scorer_usage": Usage(usd=None)})
    assert "unknown" in dict((a, b) for a, b, _ in content.facts(result.model_copy(update={"target": unknown})))["Cost"]


def test_without_scripts_the_first_candidates_are_there_to_read() -> None:
    text = page(small())
    without = "".join(re.findall(r"<noscript>(.*?)</noscript>", text, re.DOTALL))
    assert "Scripts are off" in without and "The first 20 of 60 candidates." in without
    assert small().winner.instructions["self"] in without


# One file, nothing from outside.


def test_its_policy_lets_its_own_script_run_and_nothing_else() -> None:
    text = page(small())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy[1]
    for rule in ("default-src 'none'", "base-uri 'none'", "form-action 'none'", "img-src data:"):
        assert rule in policy[1]
    assert "unsafe-inline" not in policy[1].split("script-src")[1].split(";")[0] and "unsafe-eval" not in policy[1]
    assert text.count("<script") == 2 and "<link" not in text
    assert not re.search(
        r"""(?:src|href)\s*=\s*["']?(?!#)[a-z/]""",
        text.split("<style>")[0] + text.split("</style>")[1].split('<script type="application/json"')[0],
    )
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert way not in script[1]


@given(st.text() | st.sampled_from(["</script>", "<!--", "]]>", "\u2028\u2029", "\ud800", "{{7*7}}", "\x00"]))
def test_json_in_the_page_cannot_end_its_block_and_reads_as_it_was(text: str) -> None:
    written = str(script_json({"text": [text]}))
    assert not set(written) & set("<>&\u2028\u2029") and not re.search("[\ud800-\udfff]", written)
    assert json.loads(written) == {"text": [text]}


def test_json_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json({"a": math.nan})


@given(st.text())
def test_text_in_the_page_is_escaped_and_holds_nothing_unseen(text: str) -> None:
    shown = str(visible(text))
    assert re.sub(r'<span class="mark">U\+[0-9A-F]{4,6}</span>', "", shown).count("<") == 0
    for found in (shown, inert(text)):
        assert not any(low <= ord(one) <= high for one in found for low, high in HIDDEN)
    plain = text.replace("\r\n", "\n")
    if not any(low <= ord(one) <= high for one in plain for low, high in HIDDEN):
        assert html.unescape(shown) == plain == inert(text) or "&" in plain


def test_what_is_not_seen_is_shown_and_what_is_seen_is_left_alone() -> None:
    assert visible("a\u200bb\u202e") == 'a<span class="mark">U+200B</span>b<span class="mark">U+202E</span>'
    assert visible("tab\tline\nend\r\nπ 日本 🙂\N{VARIATION SELECTOR-16}") == "tab\tline\nend\nπ 日本 🙂\ufe0f"
    assert inert("\ud800\x00") == "U+D800U+0000"


def test_hostile_names_and_texts_are_escaped_in_what_is_rendered() -> None:
    evil = "</script></title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}\u202e"
    result = small()
    search = {evil: 48}
    odd = result.model_copy(
        update={
            "stopped": evil,
            "created": evil,
            "versions": {evil: evil},
            "settings": {"scorer_lm": evil, evil: evil},
            "winner": result.winner.model_copy(update={"instructions": {evil: evil}}),
            "target": result.target.model_copy(update={"search": search, "stopped": evil}),
        }
    )
    text = page(odd)
    assert text.count("<script") == 2 and "<img" not in text and "\u202e" not in text.split("application/json")[0]
    assert "{{ 7*7 }}" in text and text.count("</title>") == 1


# The file.


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_page(small(), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    before = path.read_bytes()

    def full(file: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_page(small(), path)
    assert path.read_bytes() == before and [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_the_same_result_gives_the_same_page() -> None:
    assert page(small()) == page(small())


def test_a_result_that_was_saved_gives_the_same_page(tmp_path: Path) -> None:
    path = small().save(tmp_path / "result.json")
    assert page(TransferResult.load(path)) == page(small())


def test_a_metric_of_ones_own_has_its_row() -> None:
    found = small().held_out
    prompts = {
        name: one.model_copy(update={"metrics": type(one.metrics)(**{**vars(one.metrics), "custom": {"brevity": 0.5}})})
        for name, one in found.prompts.items()
    }
    table = content.metric_rows(found.model_copy(update={"prompts": prompts}), {"brevity": 0.3})
    row = next(row for row in table if row["name"] == "brevity")
    assert row["weight"] == "0.30" and [cell["value"] for cell in row["cells"]] == ["0.500"] * 3
    assert RULE.names, "the library's own come first"
    assert table[-1] is row
