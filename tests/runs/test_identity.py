"""What a run is known by: whatever decides an outcome changes it, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import dspy
import numpy as np
import pytest

from tp_dspy import InstructionAdapter, ObjectiveEvaluator
from tp_dspy.optimization.candidates import Candidate
from tp_dspy.runs.described import described, digest
from tp_dspy.runs.identity import compile_identity, context_identity

HELPERS = """
PREFIX = "the "
_seen = {}

def bare(text):
    return text.removeprefix(PREFIX)

def unused(text):
    return text
"""

MINE = """
import contextlib, dataclasses, enum, functools, re
from typing import Literal, Optional
import dspy, numpy, pydantic, tenacity
import helpers

API_KEY = "sk-1"
LABELS = ["yes", "no"]
PATTERN = re.compile("[a-z]+")
SEEN = []
MEMORY = {}
COUNT = 0
WEIGHTS = numpy.arange(3)
judge = dspy.Predict("question, answer -> right: bool")

class Grade(enum.Enum):
    GOOD = "good"

class Verdict(pydantic.BaseModel):
    "A verdict."
    grade: Grade
    reason: Optional[Literal["short", "long"]] = None

@dataclasses.dataclass
class Rule:
    least: float = 0.5
    def holds(self, value):
        return value >= self.least

class Counter:
    def __init__(self, floor):
        self.floor, self.calls = floor, 0
    def __call__(self, example, prediction):
        self.calls += 1
        return self.floor

class Signed(dspy.Signature):
    "Give the answer."
    question: str = dspy.InputField(desc="what is asked")
    answer: str = dspy.OutputField()

def search(query: str) -> str:
    return query + "?"

def reward(arguments, prediction):
    return 1.0

def deeper(text):
    return text.strip()

def clean(text):
    return deeper(text)

@functools.lru_cache
def level(text):
    return len(text) + 1

def strict(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)
    return inner

@tenacity.retry(stop=tenacity.stop_after_attempt(2))
def tried(text):
    return text + "!"

@strict
def rated(text):
    return text * 2

def within(example, prediction, tolerance, scale=1.0):
    global COUNT
    COUNT += 1
    SEEN.append(example)
    MEMORY[example.question] = prediction
    helpers._seen[example.question] = prediction
    kept = [one for one in LABELS if PATTERN.match(clean(one))]
    level("a"), rated("b"), tried("c"), helpers.bare("d"), judge, WEIGHTS
    return float(len(kept) > tolerance * scale)

class Base(dspy.Module):
    limit = 3

    @staticmethod
    def first(values):
        return values[0]

    @property
    def many(self):
        return 7

    def forward(self, **inputs):
        self.calls += 1
        self.log.append(inputs)
        self.memory["last"] = inputs
        return self.answer(**inputs)

class Mine(Base):
    def __init__(self):
        super().__init__()
        self.k, self.options, self.rule, self.odd = 3, ["a", {"b": (1, 2)}], Rule(), None
        self.calls, self.log, self.memory = 0, [], {}
        self.api_key = API_KEY
        self.client = contextlib.nullcontext()
        self.config = {"steps": 2}
        self.answer = dspy.ChainOfThought(Signed)
        self.verdict = dspy.Predict(dspy.Signature("question -> verdict: Verdict", custom_types={"Verdict": Verdict}))
        self.agent = dspy.ReAct("question -> answer", tools=[search], max_iters=4)
        self.best = dspy.BestOfN(dspy.Predict("question -> answer"), N=2, reward_fn=reward, threshold=1.0)
        self.frozen = dspy.Predict("question -> hint")
        self.frozen.demos = [dspy.Example(question="q", hint="h").with_inputs("question")]
        self.frozen._compiled = True

program = Mine()
match = functools.partial(within, tolerance=0.5)
follows = Rule().holds
confidence = Counter(0.5)
"""


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    with dspy.context(lm=dspy.LM("openai/one", temperature=0.0, api_key="sk-1"), adapter=InstructionAdapter()):
        yield
    sys.modules.pop("helpers", None)


def made(source: str, name: str = "mine") -> types.ModuleType:
    module = types.ModuleType(name)
    if name == "helpers":
        sys.modules[name] = module
    exec(compile(source, f"<{name}>", "exec", dont_inherit=True), module.__dict__)
    return module


def objective(mine: Any) -> ObjectiveEvaluator:
    return ObjectiveEvaluator(match=mine.match, follows=mine.follows, confidence=mine.confidence)


def identity(mine: str = MINE, helpers: str = HELPERS, lm: dspy.BaseLM | None = None) -> str:
    made(helpers, "helpers")
    module = made(mine)
    return context_identity(module.program, objective(module), lm)


def edited(source: str, old: str, new: str) -> str:
    assert source.count(old) == 1, old
    return source.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("values[0]", "values[-1]"),
        ("return 7", "return 8"),
        ("limit = 3", "limit = 4"),
        ("self.k, self.options, self.rule, self.odd = 3", "self.k, self.options, self.rule, self.odd = 4"),
        ('{"b": (1, 2)}', '{"b": (1, 3)}'),
        ("Rule(), None", "Rule(0.6), None"),
        ('{"steps": 2}', '{"steps": 3}'),
        ("least: float = 0.5", "least: float = 0.4"),
        ("value >= self.least", "value > self.least"),
        ("return self.answer(**inputs)", "return self.best(**inputs)"),
        ('desc="what is asked"', 'desc="the question"'),
        ("answer: str = dspy.OutputField()", "answer: int = dspy.OutputField()"),
        ('GOOD = "good"', 'GOOD = "fine"'),
        ('"A verdict."', '"A judgement."'),
        ('"short", "long"', '"short", "longer"'),
        ("max_iters=4", "max_iters=5"),
        ('return query + "?"', 'return query + "!"'),
        ("N=2", "N=3"),
        ("threshold=1.0", "threshold=0.9"),
        ("return 1.0", "return 0.9"),
        ('hint="h"', 'hint="i"'),
        ("question -> hint", "question -> tip"),
        # The metric, and what it calls.
        ("partial(within, tolerance=0.5)", "partial(within, tolerance=0.4)"),
        ("scale=1.0", "scale=2.0"),
        ("len(kept) > tolerance", "len(kept) >= tolerance"),
        ("text.strip()", "text.lstrip()"),
        ("len(text) + 1", "len(text) + 2"),
        ("text * 2", "text * 3"),
        ("return function(*args)", "return function(*args[:1])"),
        ('text + "!"', 'text + "?"'),
        ('LABELS = ["yes", "no"]', 'LABELS = ["yes", "nope"]'),
        ('"[a-z]+"', '"[a-z]*"'),
        ("numpy.arange(3)", "numpy.arange(3) * 2"),
        ("right: bool", "right: float"),
        ("Counter(0.5)", "Counter(0.6)"),
        ("follows = Rule()", "follows = Rule(0.7)"),
    ],
)
def test_what_decides_an_outcome_makes_it_another_run(old: str, new: str) -> None:
    assert identity(edited(MINE, old, new)) != identity()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"Give the answer."', '"Give it."'),  # the instruction, which is the candidate's
        ("COUNT = 0", "COUNT = 5"),
        ("SEEN = []", "SEEN = [1]"),
        ("MEMORY = {}", "MEMORY = {1: 2}"),
        ("self.calls, self.log, self.memory = 0, [], {}", "(self.calls, self.log, self.memory) = (0, [], {})"),
        ("sk-1", "sk-2"),
        ("\nclass Counter:", "\n\n\n# Counts.\nclass Counter:"),
    ],
)
def test_what_decides_nothing_does_not(old: str, new: str) -> None:
    assert identity(edited(MINE, old, new)) == identity()


def test_helpers_in_another_module_count_where_they_are_used() -> None:
    assert identity(helpers=edited(HELPERS, '"the "', '"a "')) != identity()
    assert identity(helpers=edited(HELPERS, "text.removeprefix(PREFIX)", "text.removesuffix(PREFIX)")) != identity()
    assert identity(helpers=edited(HELPERS, "_seen = {}", "_seen = {1: 2}")) == identity()
    assert identity(helpers=edited(HELPERS, "return text\n", "return None\n")) == identity()


def test_use_changes_nothing() -> None:
    """Neither the program nor the metric is another one for having been called."""
    made(HELPERS, "helpers")
    mine = made(MINE)
    judge = objective(mine)
    before = context_identity(mine.program, judge, None)
    example = dspy.Example(question="q", answer="a").with_inputs("question")
    assert mine.match(example, dspy.Prediction(answer="a")) == 1.0
    assert mine.confidence(example, None) == 0.5 and mine.confidence.calls == 1
    mine.program.answer = type("Quiet", (dspy.Module,), {"forward": lambda self, **inputs: None})()
    other = context_identity(mine.program, judge, None)
    mine.program(question="q")
    assert mine.program.calls == 1 and mine.program.log and mine.program.memory and mine.SEEN and mine.MEMORY
    assert context_identity(mine.program, judge, None) == other
    mine.program.answer = made(MINE).program.answer
    assert context_identity(mine.program, judge, None) == before
    assert context_identity(mine.program.deepcopy(), judge, None) == before


def test_lms_adapter_and_versions_count_and_where_an_lm_is_served_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity()
    assert identity(lm=dspy.LM("openai/one", temperature=0.0, api_key="sk-9", api_base="http://there/v1")) == before
    assert identity(lm=dspy.LM("openai/two", temperature=0.0)) != before
    assert identity(lm=dspy.LM("openai/one", temperature=0.5)) != before
    for adapter in (InstructionAdapter("end"), dspy.ChatAdapter()):
        with dspy.context(adapter=adapter):
            assert identity() != before
    monkeypatch.setattr("tp_dspy.runs.identity.versions_in_use", lambda: {"dspy": "9", "tp_dspy": "9", "python": "3"})
    assert identity() != before


def test_another_process_says_the_same() -> None:
    script = "\n".join(
        [
            "import dspy, sys",
            "from tests.runs.test_identity import *",
            "lm = dspy.LM('openai/one', temperature=0.0, api_key='sk-1')",
            "with dspy.context(lm=lm, adapter=InstructionAdapter()):",
            "    print(identity(), digest({'b', 'a', 1, print, str}))",
        ]
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{identity()} {digest({'b', 'a', 1, print, str})}\n"}


def test_things_that_refer_to_themselves_and_to_each_other() -> None:
    around: list[Any] = [1]
    around.append(around)
    assert described(around) == ["sequence", 1, ["inside itself", "list"]]
    shared = [2]
    assert described([shared, shared]) == described([[2], [2]])

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert digest(even) != digest(odd) and digest(even) == digest(even)


def test_values_that_are_equal_and_not_the_same() -> None:
    values = [None, 0, False, "", "0", [], {}, set(), b"", 0.5, np.zeros(1), np.zeros(1, dtype=int), np.float32(0), int]
    assert len({digest(value) for value in values}) == len(values)
    assert digest((1, 2)) == digest([1, 2]) and digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_of_objects_of_somebody_elses_it_is_known_what_is_plainly_a_setting() -> None:
    class Model:
        def __call__(self, text: str) -> str:
            return text

    Model.__module__ = "dspy.models"
    one, other = Model(), Model()
    one.__dict__ |= {"size": 3, "_cache": {}, "lock": threading.Lock()}
    other.__dict__ |= {"size": 3, "_cache": {1: 2}, "lock": threading.Lock()}
    assert digest(one) == digest(other)
    other.__dict__["size"] = 4
    assert digest(one) != digest(other)
    arrays = [np.array([{"a": 1}, "b"], dtype=object) for _ in range(2)]
    assert digest(arrays[0]) == digest(arrays[1])


def test_the_order_of_examples_is_part_of_a_compile() -> None:
    one, other = (compile_identity("c", {"seed": 0}, Candidate({"p": "I"}), order) for order in ("ab", "ba"))
    assert one != other and one == compile_identity("c", {"seed": 0}, Candidate({"p": "I"}), ["a", "b"])
