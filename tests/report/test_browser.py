"""The run page in a real browser: it can be used, and nothing in it that an LM wrote does anything."""

from __future__ import annotations

import functools
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest

from programs.benchmarks.page import long_run, outcomes, ready_ms, side_by_side, sort_ms
from tp_dspy import TransferResult
from tp_dspy.report.words import difference
from tp_dspy.runs.records import ProposalRecord
from tp_dspy.runs.snapshots import RUNNING

pytestmark = pytest.mark.xdist_group("browser")

Open = Callable[..., Any]
MISSING = "\N{EN DASH}"
small = functools.cache(functools.partial(long_run, 60))
large = functools.cache(functools.partial(long_run, 2000))

HOSTILE = (
    "<script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    '"><svg onload=window.pwned=1>',
    "'><svg/onload=window.pwned=1>",
    "</script><script>window.pwned=1</script>",
    "</title></style><script>window.pwned=1</script>",
    "<style>*{display:none!important}</style>",
    "javascript:window.pwned=1",
    "<a href='javascript:window.pwned=1'>x</a>",
    "background:url(https://evil.example/x.png)",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "<base href='https://evil.example/'><form action=x><input autofocus onfocus=window.pwned=1></form>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "{{7*7}} {% raw %} ${7*7}",
    "<!-- <script>",
    "]]> --> &lt;b&gt; &amp;",
    "nul \x00 bell \x07 lone \ud800 surrogate",
    "to the right \u202egnp.exe\u202c and hidden\u200b\u200d\ufeff\u2066 words \u2028 \U000e0041",
    "__proto__ constructor toString",
    "W" * 5_000,
)
EVERYTHING = "\n".join(HOSTILE)


@functools.cache
def hostile() -> TransferResult:
    """A result that holds hostile text wherever a text can be."""
    rng = random.Random(0)
    result = long_run(40)

    def spoiled(record: Any, text: str) -> Any:
        by_task = {f"{task} {EVERYTHING}": metrics for task, metrics in record.by_task.items()}
        return record.model_copy(update={"instructions": {f"self {text}": text}, "by_task": by_task})

    def phase(record: Any) -> Any:
        history = [spoiled(one, HOSTILE[n % len(HOSTILE)]) for n, one in enumerate(record.history)]
        proposals = [
            ProposalRecord(predictor=text, text=text, reply=text, reason=f"no {text}", candidate=None)
            for text in (*HOSTILE, EVERYTHING)
        ]
        new = {one.id: one for one in history}
        ranked = [new[one.id] for one in record.ranked]
        search = {f"{task} {EVERYTHING}": n for task, n in record.search.items()}
        more = {"proposals": proposals, "stopped": EVERYTHING, "search": search}
        return record.model_copy(update={"history": history, "ranked": ranked, **more})

    def lived_through(text: str) -> list[Any]:
        found = outcomes(12, 0.5, rng, reply=text)
        return [
            type(one)(*(one.status, one.followed, one.correct, one.confidence, text, text, text, text)) for one in found
        ]

    prompts = {name: {"self": text} for name, text in zip(("original", "best source", "target"), HOSTILE, strict=False)}
    return result.model_copy(
        update={
            "winner": spoiled(result.winner, EVERYTHING),
            "original": spoiled(result.original, EVERYTHING[::-1]),
            "source": phase(result.source),
            "target": phase(result.target),
            "stopped": EVERYTHING,
            "created": EVERYTHING,
            "versions": {EVERYTHING: EVERYTHING},
            "settings": {"scorer_lm": EVERYTHING, "reference_lm": EVERYTHING, EVERYTHING: {EVERYTHING: EVERYTHING}},
            "held_out": side_by_side(prompts, {name: lived_through(EVERYTHING) for name in prompts}, EVERYTHING),
        }
    )


# Looking.


def test_the_page_loads_without_a_complaint_and_asks_for_nothing_but_itself(opened: Open) -> None:
    page = opened(small())
    assert page.complaints() == []
    assert page.requests() == [page.path.as_uri()]
    assert page.one("h1").text == "Target prompt for finance"
    assert len(page.all("figure svg")) >= 5
    ids = page.run("return [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids)), "an id is there once, in the plots, too"
    for link in page.all("nav a"):
        assert page.all(link.get_dom_attribute("href")), link.text


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
@pytest.mark.parametrize("made", [small, hostile], ids=["calm", "hostile"])
def test_no_width_makes_the_page_scroll_sideways(opened: Open, made: Any, width: int) -> None:
    page = opened(made(), width=width)
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    page.run("document.querySelector('#candidates-table .toggle').click()")
    assert page.run("return innerWidth") == width
    assert page.run("return document.documentElement.scrollWidth") <= width


def test_the_theme_follows_the_system_until_a_reader_chooses_and_then_stays(opened: Open) -> None:
    page = opened(small())
    ground = "return getComputedStyle(document.body).backgroundColor"

    def system(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        page.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 50))")

    system("light")
    light = page.run(ground)
    system("dark")
    dark = page.run(ground)
    assert light != dark and page.one("#theme").get_attribute("aria-pressed") == "true"
    page.click("#theme")
    assert page.run(ground) == light and page.one("#theme").get_attribute("aria-pressed") == "false"
    page.driver.refresh()
    assert page.run(ground) == light, "the choice outlives the page"
    system("")


def test_it_prints_with_all_that_was_folded_and_without_controls(opened: Open) -> None:
    page = opened(small())
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.all("details:not([open])") == []
    assert [one for one in page.all(".bar, .tools input, .more button, [data-copy]") if one.is_displayed()] == []
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.all("details:not([open])") != []
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert len(page.driver.print_page()) > 10_000


def test_paper_has_the_candidates_that_match_up_to_a_limit_and_says_what_is_left_out(opened: Open) -> None:
    page = opened(large())

    def printed() -> list[Any]:
        # To print thousands takes long.
        return page.run(
            "dispatchEvent(new Event('beforeprint'));"
            "const rows = document.querySelectorAll('#candidates-table tr.row').length;"
            "const left = document.getElementById('candidates-left').textContent;"
            "dispatchEvent(new Event('afterprint')); return [rows, left]"
        )

    shown, left = printed()
    assert shown == 200 and left.startswith("1,800 more candidates are left out of this print")
    assert len(page.all("#candidates-table tr.row")) == 100 and page.one("#candidates-more").text == "Show 100 more"
    assert not page.one("#candidates-left").is_displayed()
    page.choose("kind", "dropped")
    page.choose("phase", "source")
    page.one("#find").send_keys("consider")
    matching = int(page.one("#candidates-count").text.removeprefix("100 of ").split()[0].replace(",", ""))
    assert 200 < matching < 1000, "of those that pass the filter"
    assert printed() == [200, left.replace("1,800", f"{matching - 200}")]
    page.click("#clear")
    page.choose("kind", "finalist")
    assert printed() == [8, ""]
    page.click("#clear")
    page.click("#candidates-all")
    assert printed() == [2000, ""], "what a reader had shown is printed"


def test_printing_leaves_the_rows_as_they_were(opened: Open) -> None:
    page = opened(large())
    page.all("#candidates-table .toggle")[99].click()
    before = page.run("return document.querySelector('#candidates-table tbody').textContent")
    page.run("dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('beforeprint'))")
    assert len(page.all("#candidates-table tr.row")) == 200
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("return document.querySelector('#candidates-table tbody').textContent") == before
    # Whatever happens between the two.
    page.run("dispatchEvent(new Event('beforeprint'))")
    page.choose("phase", "source")
    page.run("dispatchEvent(new Event('afterprint'))")
    assert set(page.column("Phase")) == {"source"} and len(page.column("Phase")) == 100
    page.one("#find").send_keys("no such words")
    page.run("dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('afterprint'))")
    assert "No candidate matches." in page.one("#candidates-table").text


# Candidates.


def number(text: str) -> float:
    return math.inf if text == MISSING else float(text.replace(",", ""))


def test_every_column_sorts_numbers_as_numbers_with_what_is_missing_last(opened: Open) -> None:
    result = small()
    without = [r.model_copy(update={"expected": None, "by_task": {}}) for r in result.target.history[5:9]]
    history = [*result.target.history[:5], *without, *result.target.history[9:]]
    page = opened(result.model_copy(update={"target": result.target.model_copy(update={"history": history})}))
    for name in ("Score", "Expected", "IFR", "ACC", "ECE", "AUROC", "Examples", "Round"):
        head = f"//table[@id='candidates-table']//th[normalize-space()='{name}']"
        ways = []
        for _ in range(2):
            page.driver.find_element("xpath", f"{head}/button").click()
            way = page.driver.find_element("xpath", head).get_attribute("aria-sort")
            found = [number(cell) for cell in page.column(name)]
            known = [value for value in found if value < math.inf]
            assert known == sorted(known, reverse=way == "descending"), name
            assert found == known + [math.inf] * (60 - len(known)), "what is missing is last, either way"
            ways.append(way)
        assert sorted(ways) == ["ascending", "descending"]
        assert ways[0] == ("ascending" if name in ("ECE", "Round") else "descending"), "the best first"
    assert page.column("Expected").count(MISSING) == 4
    for name in ("Phase", "Origin", "Instruction"):
        page.driver.find_element(
            "xpath", f"//table[@id='candidates-table']//th[normalize-space()='{name}']/button"
        ).click()
        found = [cell.lower() for cell in page.column(name)]
        assert found == sorted(found), name
    page.driver.find_element("xpath", "//table[@id='candidates-table']//th[normalize-space()='No.']/button").click()
    assert page.column("No.")[:3] == ["S1", "S2", "S3"] and page.column("No.")[29:32] == ["S30", "T1", "T2"]
    assert len(page.all("#candidates-table th[aria-sort]")) == 1


def test_a_header_is_pressed_by_keyboard_and_tells_what_it_did(opened: Open) -> None:
    page = opened(small())
    button = page.one("#candidates-table th[data-key=accuracy] button")
    page.run("arguments[0].focus()", button)
    page.driver.switch_to.active_element.send_keys("\ue007")
    assert page.one("#candidates-table th[data-key=accuracy]").get_attribute("aria-sort") == "descending"
    page.driver.switch_to.active_element.send_keys(" ")
    assert page.one("#candidates-table th[data-key=accuracy]").get_attribute("aria-sort") == "ascending"
    assert page.driver.switch_to.active_element == button


def test_the_first_key_leads_past_the_menu(opened: Open) -> None:
    page = opened(small())
    page.one("body").send_keys("\ue004")
    assert page.driver.switch_to.active_element.text == "Skip to the content"
    page.driver.switch_to.active_element.send_keys("\ue007")
    assert page.run("return document.activeElement.id") == "main"


def test_filters_by_text_phase_fate_and_origin_narrow_each_other(opened: Open) -> None:
    result = small()
    page = opened(result)
    page.choose("phase", "target")
    assert set(page.column("Phase")) == {"target"} and len(page.column("Phase")) == 30
    page.choose("kind", "dropped")
    assert len(page.column("Fate")) == len(set(result.target.dropped) - {r.id for r in result.target.ranked})
    assert all(cell.startswith("dropped after ") for cell in page.column("Fate"))
    assert page.one("#candidates-count").text == f"{len(page.column('Fate'))} (of 60) shown"
    page.choose("origin", "source")
    assert set(page.column("Origin")) <= {"source"}
    page.click("#clear")
    assert len(page.column("Fate")) == 60 and page.one("#phase").get_attribute("value") == ""
    word = result.winner.instructions["self"].split()[0].upper()
    page.one("#find").send_keys(word)
    expected = sum(
        word.lower() in r.instructions["self"].lower() for r in (*result.source.history, *result.target.history)
    )
    assert len(page.column("Instruction")) == expected > 0
    page.one("#find").send_keys(" no such words")
    assert "No candidate matches." in page.one("#candidates-table").text


def test_a_row_opens_on_its_whole_instruction_its_metrics_and_its_lineage(opened: Open) -> None:
    result = small()
    page = opened(result)
    first = page.one("#candidates-table .toggle")
    assert first.get_attribute("aria-expanded") == "false"
    first.click()
    assert first.get_attribute("aria-expanded") == "true"
    detail = page.one("tr.detail").text
    assert result.winner.instructions["self"] in detail and "finance" in detail and "As a finalist" in detail
    chain = page.all("tr.detail .lineage li")
    by_id = {record.id: record for record in result.target.history}
    parent = by_id[result.winner.parent]
    assert parent.instructions["self"] in chain[0].text and f"score {parent.score:.3f}" in chain[0].text
    first.click()
    assert page.all("tr.detail") == []


def ancestry(result: TransferResult) -> list[str]:
    """The winner's instruction, and those that it was derived from, through both phases."""
    target, source = ({one.id: one for one in phase.history} for phase in (result.target, result.source))
    one, known, texts = result.winner, target, []
    while one is not None:
        texts.append(one.instructions["self"])
        if one.origin == "source" and known is target:
            known, one = source, source[one.id]
        else:
            one = known.get(one.parent)
    return texts


def test_lineage_says_word_by_word_what_each_step_changed(opened: Open) -> None:
    result = small()
    page = opened(result)
    page.click("#candidates-table .toggle")
    steps = page.all("tr.detail .step")
    texts = ancestry(result)
    assert len(steps) == len(page.all("tr.detail .lineage li")) == len(texts) - 1 > 1
    assert [step.get_attribute("open") is not None for step in steps] == [True] + [False] * (len(steps) - 1)
    assert len(page.all("tr.detail .step .diff")) == 1, "compared when it is asked for"
    for step, after, before in zip(steps, texts, texts[1:], strict=False):
        page.run("arguments[0].open = true", step)
        page.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        read = "return [...arguments[0].querySelectorAll(arguments[1])].map((one) => one.textContent).join('')"
        if before == after:
            assert "Nothing changed." in step.text
            continue
        assert page.run(read, step, ".diff > :not(ins)") == before
        assert page.run(read, step, ".diff > :not(del)") == after
        assert len(page.run(read, step, "del")) < len(before), "words, not the whole"
        page.run("arguments[0].open = false; arguments[0].open = true", step)
    assert len(page.all("tr.detail .step > :not(summary)")) == len(steps), "each once"


def test_lineage_of_a_prompt_carried_over_says_that_nothing_changed(opened: Open) -> None:
    page = opened(small())
    page.choose("origin", "source")
    page.click("#candidates-table .toggle")
    assert "Nothing changed." in page.one("tr.detail .lineage li").text


def test_lineage_of_several_predictors_names_those_that_changed(opened: Open) -> None:
    result = small()

    def renamed(record: Any) -> Any:
        text = record.instructions["self"]
        return record.model_copy(update={"instructions": {"first": "Always the same.", "second": text, "third": text}})

    target = result.target.model_copy(
        update={name: [renamed(one) for one in getattr(result.target, name)] for name in ("history", "ranked")}
    )
    page = opened(result.model_copy(update={"target": target}))
    page.click("#candidates-table .toggle")
    words = page.one("tr.detail .step").text
    assert "Instruction of second" in words and "Instruction of third" in words and "first" not in words


def test_the_difference_in_the_browser_is_one_and_takes_no_time(opened: Open) -> None:
    page = opened(small())
    script = (files("tp_dspy.report") / "templates" / "scripts" / "words.js").read_text(encoding="utf-8")
    rng = random.Random(0)
    texts = [
        "",
        " ",
        "one two",
        "Answer the question.",
        "Answer the hard question!",
        "\r\n",
        "日本語 e\u0301\u200b 🙂.",
        *HOSTILE[:-4],
    ]
    texts += ["".join(rng.choices("ab .\n,é", k=rng.randrange(40))) for _ in range(150)]
    pairs = [rng.sample(texts, 2) for _ in range(600)] + [[text, text] for text in texts]
    kept: tuple[list[str], list[str]] = [], []
    for (before, after), pieces in zip(
        pairs, page.run(f"{script}; return arguments[0].map(([a, b]) => difference(a, b))", pairs), strict=True
    ):
        assert "".join(text for op, text in pieces if op != "insert") == before
        assert "".join(text for op, text in pieces if op != "delete") == after
        assert all(text for _, text in pieces)
        assert all(one[0] != other[0] for one, other in pairwise(pieces))
        for found, some in zip(kept, (pieces, difference(before, after)), strict=True):
            found.extend(text for op, text in some if op == "equal")
    assert len("".join(kept[0])) > 0.95 * len("".join(kept[1])), "about as fine as that of the prompts above"
    for before, after in (
        ("Answer the question.", "Answer the hard question!"),
        ("one two", "one"),
        ("Say yes or no.", "Say A or B."),
        ("the old dog", "the new cat"),
    ):
        pieces = page.run(f"{script}; return difference(...arguments)", before, after)
        assert [tuple(piece) for piece in pieces] == difference(before, after)
    long = [" ".join(rng.choices(["a", "b", "c", *map(str, range(n))], k=20_000)) for n in (3, 3000)]
    took = page.run(
        f"{script}; const [one, other] = arguments; const began = performance.now();"
        "difference(one, other); difference(one, one + ' x'); return performance.now() - began",
        *long,
    )
    assert took < 500


def test_what_no_candidate_has_a_figure_of_has_no_column(opened: Open) -> None:
    result = small()

    def unsure(record: Any) -> Any:
        none = dict.fromkeys(("ece", "auroc", "auprc_positive", "auprc_negative", "brier"), math.nan)
        by_task = {task: replace(metrics, **none) for task, metrics in record.by_task.items()}
        return record.model_copy(update={"by_task": by_task})

    phases = {
        name: getattr(result, name).model_copy(
            update={
                "history": [unsure(one) for one in getattr(result, name).history],
                "ranked": [unsure(one) for one in getattr(result, name).ranked],
            }
        )
        for name in ("source", "target")
    }
    page = opened(result.model_copy(update=phases))
    heads = [head.text for head in page.all("#candidates-table th")]
    assert "ACC" in heads and "Expected" in heads and not {"ECE", "AUROC"} & set(heads)
    page.click("#candidates-table .toggle")
    detail = page.one("tr.detail").text
    assert "ACC" in detail and "ECE" not in detail and "PR-P" not in detail


def test_a_lineage_link_leads_to_the_parent_even_where_it_is_filtered_out(opened: Open) -> None:
    page = opened(large())
    page.choose("kind", "finalist")
    page.click("#candidates-table .toggle")
    links = page.all("tr.detail .lineage a")
    label = links[-1].text
    links[-1].click()
    focus = page.driver.switch_to.active_element
    assert focus.text == label and focus.get_attribute("aria-expanded") == "true"
    assert page.one("tr.found .toggle").text == label and page.one("#kind").get_attribute("value") == ""
    top = page.run("return document.querySelector('tr.found').getBoundingClientRect().top")
    assert 0 < top < page.run("return innerHeight")


def test_a_copy_button_gives_the_instruction_as_it_is(opened: Open) -> None:
    result = small()
    odd = result.winner.model_copy(update={"instructions": {"self": "a\u200bb \u202e<b>"}})
    page = opened(result.model_copy(update={"winner": odd}))
    page.run("navigator.clipboard.writeText = async (text) => { window.copied = text }")
    page.all("[data-copy]")[-1].click()
    assert page.run("return window.copied") == "a\u200bb \u202e<b>"
    assert "U+200B" in page.all("article.card")[-1].text


# Examples and replies.


def test_examples_are_told_apart_by_what_the_target_changed(opened: Open) -> None:
    result = small()
    page = opened(result)
    first, target = (result.held_out.prompts[name].outcomes for name in ("original", "target"))
    pairs = list(zip(first, target, strict=True))
    expected = {
        "fixed": sum(b.correct > a.correct for a, b in pairs),
        "broken": sum(b.correct < a.correct for a, b in pairs),
        "wrong": sum(a.correct == b.correct == 0.0 for a, b in pairs),
        "unfollowed": sum(not b.followed for _, b in pairs),
    }
    assert min(expected.values()) > 0
    for kind, count in expected.items():
        button = page.one(f"#question-kinds [data-kind={kind}]")
        assert button.text.endswith(f"({count})")
        page.run("arguments[0].click()", button)
        assert button.get_attribute("aria-pressed") == "true"
        while page.one("#questions-more").is_displayed():
            page.run("document.getElementById('questions-more').click()")
        assert len(page.all(".example")) == count
    broken = page.one("#question-kinds [data-kind=broken]")
    page.run("arguments[0].click()", broken)
    original, *_, last = page.all(".example:first-child .answer")
    assert "✓ right" in original.text and ("✗ wrong" in last.text or "could be read" in last.text)
    assert "expected\nB" in page.one(".example").text


def test_rejected_replies_are_listed_by_reason(opened: Open) -> None:
    page = opened(hostile())
    assert page.one("#rejected summary").text.startswith(f"{2 * (len(HOSTILE) + 1)} replies")
    page.click("#rejected summary")
    page.choose("reason", f"no {HOSTILE[0]}")
    rows = page.all("#rejected-table tr.row")
    assert len(rows) == 2 and HOSTILE[0] in rows[0].text


# Texts of others.


def test_hostile_text_stays_text_wherever_it_is(opened: Open) -> None:
    page = opened(hostile())
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    page.run("document.querySelectorAll('#candidates-table .toggle').forEach((one) => one.click())")
    page.run("document.querySelectorAll('.step').forEach((one) => { one.open = true })")
    for more in ("candidates-more", "rejected-more", "questions-more"):
        page.run("document.getElementById(arguments[0])?.click()", more)
    time.sleep(0.3)
    assert len(page.all(".step .diff ins")) > len(HOSTILE), "what changed is shown of each"
    assert page.run("return typeof window.pwned") == "undefined"
    assert page.complaints() == []
    assert set(page.requests()) == {page.path.as_uri()}
    outside = "main script, main img, main iframe, main style, main base, main form, main meta, main object, main embed"
    assert page.all(outside) == []
    assert len(page.all("script")) == 2 and len(page.all("style")) == 1
    assert page.run("return document.querySelectorAll('main a:not([href^=\"#\"])').length") == 0
    handlers = (
        "return [...document.querySelectorAll('*')]"
        ".filter((one) => [...one.attributes].some((attribute) => attribute.name.startsWith('on'))).length"
    )
    assert page.run(handlers) == 0
    assert len(page.all("main svg")) == len(page.all("figure svg"))
    assert page.one("h1").is_displayed(), "no style came in"


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.isprintable()])
def test_hostile_text_can_be_read(opened: Open, text: str) -> None:
    page = opened(hostile())
    page.one("#find").clear()
    page.run(
        "const f = document.getElementById('find'); f.value = arguments[0]; f.dispatchEvent(new Event('input'))", text
    )
    cells = page.run("return [...document.querySelectorAll('#candidates-table td.words')].map((c) => c.textContent)")
    assert text in cells
    cards = page.run("return document.getElementById('prompts').textContent")
    assert text in cards


def test_characters_that_cannot_be_seen_are_shown_in_html_and_script_alike(opened: Open) -> None:
    page = opened(hostile())
    shown = "U+202Egnp.exeU+202C and hiddenU+200BU+200DU+FEFFU+2066 words U+2028 U+E0041"
    for place in ("prompts", "candidates-table", "questions", "settings"):
        found = page.run("return document.getElementById(arguments[0]).textContent", place)
        # What a file cannot hold is a question mark in the outcomes from the start.
        lone = "?" if place == "questions" else "U+D800"
        assert shown in found and f"nul U+0000 bell U+0007 lone {lone} surrogate" in found, place
        assert not {"\u202e", "\u200b", "\x00", "\u2028", "\ufeff"} & set(found), place


# While a run goes on.


def test_a_page_that_loads_itself_again_keeps_what_the_reader_did(opened: Open) -> None:
    result = small().model_copy(update={"stopped": RUNNING})
    page = opened(result, refresh=3.0)
    assert "has not ended yet" in page.one(".banner").text and "every 3 seconds" in page.one(".banner").text
    page.choose("phase", "target")
    page.click("#candidates-table th[data-key=accuracy] button")
    page.click("#candidates-table .toggle")
    page.run("window.before = true; scrollTo(0, 900)")
    deadline = time.monotonic() + 20
    while page.run("return window.before === true"):
        assert time.monotonic() < deadline, "it loads itself again"
        time.sleep(0.1)
    assert set(page.column("Phase")) == {"target"}
    assert page.one("#candidates-table th[data-key=accuracy]").get_attribute("aria-sort") == "descending"
    assert len(page.all("tr.detail")) == 1
    assert abs(page.run("return scrollY") - 900) < 5
    page.run("scrollTo(0, 0)")
    page.click("#pause")
    page.run("window.before = true")
    time.sleep(4)
    assert page.run("return window.before === true"), "a reader can stop it"


# Size.


def test_a_run_of_2000_candidates_can_be_used_within_two_seconds(opened: Open) -> None:
    page = opened(large())
    assert page.path.stat().st_size < 5e6
    assert statistics.median(ready_ms(page.driver, page.path) for _ in range(3)) < 2000
    assert len(page.all("#candidates-table tr.row")) == 100, "rows are made when they are asked for"
    assert statistics.median(sort_ms(page.driver) for _ in range(3)) < 1000
    scores = [float(text) for text in page.column("Score")]
    every = sorted((r.score for p in (large().source, large().target) for r in p.history), reverse=True)
    assert scores == pytest.approx(every[:100], abs=6e-4), "all were sorted, not those in view"
    page.click("#candidates-more")
    assert len(page.all("#candidates-table tr.row")) == 200
    page.click("#candidates-all")
    assert len(page.all("#candidates-table tr.row")) == 2000
