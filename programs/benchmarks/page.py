"""The run page of a long run: how big it is, and how long a browser takes until it can be used.

    uv run python -m programs.benchmarks.page --candidates 2000

Prints one JSON line: ``file_mb``; ``ready_ms``, from the start of the navigation until the table of candidates can be
sorted (headless Chromium, median of 5); ``sort_ms``, to sort all of them (median of 5); ``render_seconds``, to write
the page, plots included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from tp_dspy import TransferResult
from tp_dspy.optimization.candidates import Candidate, Measurement
from tp_dspy.optimization.evidence import Belief
from tp_dspy.report.page import write_page
from tp_dspy.runs.records import CandidateRecord, PhaseRecord, ProposalRecord
from tp_dspy.runs.side_by_side import SideBySide
from tp_dspy.scoring.evaluation import evaluate
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.set_objective import Metrics, SetObjective
from tp_dspy.scoring.weights import Weights

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

RULE = SetObjective(Weights.of(None))
_TEXT = (
    "read the question with care and weigh each option against what is known before you decide then reply with the "
    "letter of the best one only do not explain state how sure you are consider units dates names and exceptions"
)
_WORDS = _TEXT.split()
_SWITCHES = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-dev-shm-usage",
    "window-size=1280,900",
)


def long_run(candidates: int = 2000, *, proposals: int = 8, seed: int = 0) -> TransferResult:
    """Make what a long run would have found, without running it.

    Args:
        candidates: How many were scored, both phases together.
        proposals: How many there are in a round; each changes a few words of an earlier one.
        seed: Of all chance.
    """
    rng = random.Random(seed)
    own = Candidate({"self": "Answer the question."})
    source = phase(rng, [own], candidates // 2, proposals, {"medicine": 24, "law": 24})
    carried = [Candidate(record.instructions, "source") for record in source.ranked[:3]]
    target = phase(rng, [own, *carried], candidates - candidates // 2, proposals, {"finance": 48})
    winner = target.ranked[0]
    prompts = {"original": own.instructions, "best source": carried[0].instructions, "target": winner.instructions}
    return TransferResult(
        winner=winner,
        original=target.history[0],
        source=source,
        target=target,
        stopped="all rounds done",
        seconds=5_025.0,
        settings={"scorer_lm": "acme/small", "reference_lm": "acme/large", "objective": {"weights": {"ifr": 0.2}}},
        held_out=side_by_side(
            prompts, {name: outcomes(200, right, rng) for name, right in zip(prompts, (0.4, 0.6, 0.7), strict=True)}
        ),
    )


def phase(
    rng: random.Random, first: Sequence[Candidate], count: int, proposals: int, search: dict[str, int]
) -> PhaseRecord:
    """Make what a phase did: a climb from the first population, most of whose candidates a race drops."""
    history, made, dropped = [], [], []
    population = list(first)
    for number in range(count):
        round_ = max(0, (number - len(first)) // proposals + 1) if number >= len(first) else 0
        if number >= len(population):
            parent = rng.choice(history[-20:])
            text = edited(parent.instructions["self"], rng)
            population.append(Candidate({"self": text}, "proposal", parent=parent.id))
            reason = "it repeats an instruction that was tried already" if rng.random() < 0.1 else None
            made.append(ProposalRecord(predictor="self", text=text, reply=text, reason=reason, candidate=None))
        score = min(0.95, 0.3 + 0.5 * number / count + rng.gauss(0.0, 0.06))
        met = sum(search.values()) if number < len(first) or rng.random() < 0.35 else rng.choice((12, 24, 36))
        history.append(record(population[number], score, round_, met, search))
        if met < sum(search.values()):
            dropped.append(history[-1].id)
    whole = [one for one in history if one.id not in dropped]
    return PhaseRecord(
        ranked=sorted(whole, key=lambda one: -one.score)[:4],
        history=history,
        dropped=dropped,
        proposals=made,
        stopped="all rounds done",
        scorer_usage=Usage(40_000, 1_200, 9_000_000, 120_000, 12.34),
        reference_usage=Usage(count, 0, 2_000_000, 90_000, 3.21),
        interaction=0.03,
        search=search,
        selection={task: 60 for task in search},
    )


def edited(text: str, rng: random.Random) -> str:
    """Change a few words of a text, which grows to some 300 characters."""
    words = text.split()
    for _ in range(3):
        words[rng.randrange(len(words))] = rng.choice(_WORDS)
    while len(words) < 55 and rng.random() < 0.9:
        words.insert(rng.randrange(len(words) + 1), rng.choice(_WORDS))
    return " ".join(words)


def record(
    candidate: Candidate, score: float, round_: int, met: int, search: dict[str, int], **metrics: float
) -> CandidateRecord:
    """Make a scored candidate that has met some of the examples of a search."""
    of = {name: score for name in ("ifr", "accuracy", "auroc", "auprc_positive", "auprc_negative")}
    whole = met >= sum(search.values())
    return CandidateRecord(
        id=candidate.id,
        instructions=dict(candidate.instructions),
        origin=candidate.origin,
        score=score,
        by_task={
            task: Metrics(
                **{"n": met // len(search), "errors": 0, "ece": 1 - score, "brier": 0.2, "score": score}, **of
            )
            for task in search
        },
        round=round_,
        parent=candidate.parent,
        expected=Belief(score - 0.02, 0.03),
        measurement=Measurement(met, {"score": (score - 0.08, score + 0.08)} if whole else {}, None if whole else 0.9),
    )


def outcomes(count: int, right: float, rng: random.Random, *, reply: str = "B, as far as I know.") -> list[Outcome]:
    """Make outcomes of which a share is right, and some keep not to the form."""
    made = []
    for _ in range(count):
        if rng.random() < 0.1:
            made.append(Outcome("unparsed", reply="It depends.", expected="B", feedback="No letter could be read."))
            continue
        correct = rng.random() < right
        answer = "B" if correct else "C"
        words = "" if correct else "The answer is 'C'; expected 'B'."
        made.append(Outcome("ok", True, float(correct), rng.random(), answer, "B", reply, words))
    return made


def side_by_side(prompts: dict[str, Any], by_name: dict[str, list[Outcome]], text: str = "Case {}?") -> SideBySide:
    """Set prompts side by side."""
    size = len(next(iter(by_name.values())))
    examples = [dspy.Example(question=text.replace("{}", str(n))).with_inputs("question") for n in range(size)]
    evaluations = {name: evaluate(found, RULE, resamples=200) for name, found in by_name.items()}
    return SideBySide.of(evaluations, prompts, examples)


@contextlib.contextmanager
def browser(folder: Path, chromium: str, chromedriver: str) -> Iterator[Chrome]:
    """Start a headless Chromium whose profile is in a folder; its console is kept.

    Args:
        folder: For the profile.
        chromium: The browser's program.
        chromedriver: The driver's; named, so that none is looked for elsewhere.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in _SWITCHES:
        options.add_argument(f"--{word}")
    options.add_argument(f"--user-data-dir={folder}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=chromedriver))
    try:
        yield driver
    finally:
        driver.quit()


def ready_ms(driver: Chrome, page: Path) -> float:
    """Load a page; returns the milliseconds until its table could be sorted."""
    driver.get(page.as_uri())
    return float(driver.execute_script("return performance.getEntriesByName('tp-ready')[0].startTime"))


def sort_ms(driver: Chrome) -> float:
    """Sort the page's candidates by their score and draw them; returns the milliseconds."""
    return float(
        driver.execute_async_script(
            """const done = arguments[0], began = performance.now();
            document.querySelector('#candidates-table th[data-key=score] button').click();
            requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));"""
        )
    )


def main() -> None:
    """Measure, and print."""
    import shutil

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=2000)
    count = parser.parse_args().candidates
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        sys.exit("chromium and chromedriver are not there (Debian: apt-get install chromium chromium-driver).")
    result = long_run(count)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        began = time.perf_counter()
        page = write_page(result, Path(folder) / "report.html")
        figures: dict[str, float] = {"candidates": count, "file_mb": round(page.stat().st_size / 1e6, 2)}
        seconds = time.perf_counter() - began
        with browser(Path(folder) / "profile", chromium, chromedriver) as driver:
            figures["ready_ms"] = round(statistics.median(ready_ms(driver, page) for _ in range(5)))
            figures["sort_ms"] = round(statistics.median(sort_ms(driver) for _ in range(5)))
    print(json.dumps(figures | {"render_seconds": round(seconds, 2)}))


if __name__ == "__main__":
    main()
