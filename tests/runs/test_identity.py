"""What a run is known by: whatever decides an outcome changes it, and nothing else does."""
# ruff: noqa: E501 - each case is a program in a line

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
import types
import typing
import weakref
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import dspy
import numpy as np
import pytest

from tp_dspy import InstructionAdapter, ObjectiveEvaluator
from tp_dspy.optimization.candidates import Candidate
from tp_dspy.runs.described import digest
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
    names = [name for name in ("match", "follows", "confidence") if hasattr(mine, name)]
    return ObjectiveEvaluator(**{name: getattr(mine, name) for name in names})


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


HEAD = """
import argparse, collections, dataclasses, enum, functools, operator, re, types
from typing import Annotated, Literal, NamedTuple
import dspy, pydantic, typing_extensions
program = dspy.Predict("question -> answer")
def match(example, prediction): return 1.0
"""
# Answers of other types.
ANSWER = """
{}
class Asked(dspy.Signature):
    question: str = dspy.InputField()
    answer: {} = dspy.OutputField()
program = dspy.Predict(Asked)
"""
# A program with an attribute, and what it does.
PROGRAM = """
class P(dspy.Module):
    def __init__(self):
        super().__init__()
        self.predict = dspy.Predict("question -> answer")
        self.it = {}
    def change(self, value):
        self.it = value
    def forward(self, question):
        {}
program = P()
"""
# A metric, and what is beside it.
METRIC = """
{}
def match(example, prediction):
    {}
"""


@pytest.mark.parametrize(
    ("source", "old", "new"),
    [
        # What an LM is shown of the fields.
        ('program = dspy.Predict("question, hint -> answer")', "question, hint -> answer", "question -> hint, answer"),
        (ANSWER.format("", "float") .replace("OutputField()", "OutputField(ge=0, le=1)"), "le=1", "le=10"),
        (ANSWER.format("class Item(pydantic.BaseModel):\n    n: int = pydantic.Field(ge=0)", "Item"), "ge=0", "ge=1"),
        (ANSWER.format("class Item(pydantic.BaseModel):\n    n: int = pydantic.Field(alias='m')", "Item"), "'m'", "'k'"),
        (ANSWER.format("class Item(typing_extensions.TypedDict):\n    n: int", "Item"), "n: int", "n: str"),
        (ANSWER.format("class Item(NamedTuple):\n    n: int", "Item"), "n: int", "m: int"),
        (ANSWER.format("@dataclasses.dataclass\nclass Item:\n    n: int", "Item"), "n: int", "n: str"),
        (ANSWER.format("", "Annotated[int, pydantic.Field(ge=0)]"), "ge=0", "ge=1"),
        # Objects of one's own, and containers that hold what is not.
        (METRIC.format("@dataclasses.dataclass\nclass C:\n    t: float\nC = C(0.5)", "return C.t"), "0.5", "0.6"),
        (METRIC.format("C = types.SimpleNamespace(t=0.5)", "return C.t"), "0.5", "0.6"),
        (METRIC.format("class C:\n    def run(self): return 0.5\nC = C()", "return C.run()"), "0.5", "0.6"),
        (METRIC.format("def f(): return 0.5\nRULES = {0: f, 1: len}", "return RULES[0]()"), "0.5", "0.6"),
        (METRIC.format("FULL = re.compile('a').fullmatch", "return FULL('a') is not None"), "compile('a')", "compile('b')"),
        (METRIC.format("GET = operator.itemgetter('a')", "return GET(example)"), "('a')", "('b')"),
        (METRIC.format("class R:\n    __slots__ = ('t',)\n    def __call__(self): return self.t\nR = R()\nR.t = 1", "return R()"),
            "R.t = 1", "R.t = 2"),
        (PROGRAM.format("dspy.BestOfN(self.predict, N=2, reward_fn=R(0.5), threshold=1.0)", "return self.it()").replace(
            "class P", "class R:\n    def __init__(self, t): self.t = t\n    def __call__(self, *a): return self.t\nclass P"),
            "R(0.5)", "R(0.6)"),
        (PROGRAM.format("0", "return self.predict(question=question)") + "program.change(4)", "change(4)", "change(5)"),
        # What is imported inside, and packages.
        (METRIC.format("", "from helpers import bare\n    return bare('a')"), "return bare('a')", "return bare('a') + 'b'"),
        # Names like those of secrets, and names that others have, too.
        (METRIC.format("def has_secret(x): return 'key' in x", "return has_secret('a')"), "'key'", "'keys'"),
        (METRIC.format("VALID_TOKENS = ['a']", "return 'a' in VALID_TOKENS"), "['a']", "['b']"),
        ("program.demos = [dspy.Example(question='q', password='a').with_inputs('question')]", "'a'", "'b'"),
        (METRIC.format("def score(x): return 1.0", "example.score = score(1)\n    return example.score"), "1.0", "0.5"),
        (METRIC.format("labels = ['a']", "prediction.labels = 1\n    return 'a' in labels"), "['a']", "['b']"),
        # Signatures and LMs inside a metric.
        (METRIC.format("class J(dspy.Signature):\n    'Judge it.'\n    a = dspy.InputField()\n    b = dspy.OutputField()",
            "return dspy.Predict(J)(a='a').b"), "Judge it.", "Judge it strictly."),
        # What code does beside its instructions.
        (METRIC.format("", "try:\n        x = float('1')\n        y = float('2')\n    except ValueError:\n        return 0.0\n    return x"),
            "        y = float('2')\n    except ValueError:\n        return 0.0\n",
            "    except ValueError:\n        return 0.0\n    else:\n        y = float('2')\n"),
        (METRIC.format("def pick(*x): return len(x)", "return pick('abc')"), "(*x)", "(x)"),
        (METRIC.format("def sub(x, y): return x > y", "return sub(x=1, y=2)"), "sub(x, y): return x > y", "sub(y, x): return y > x"),
        ("class R:\n    @functools.lru_cache\n    def __call__(self, a, b): return 0.5\nmatch = R()", "0.5", "0.6"),
        (METRIC.format("@functools.singledispatch\ndef f(x): return x\n@f.register\ndef _(x: str): return 'a'", "return f('b')"),
            "return 'a'", "return 'c'"),
        ("match.least = 1", "= 1", "= 2"),
    ],
)  # fmt: skip
def test_what_else_decides(source: str, old: str, new: str) -> None:
    assert identity(HEAD + edited(source, old, new)) != identity(HEAD + source)


@pytest.mark.parametrize(
    ("source", "use"),
    [
        (PROGRAM.format("0", "P.calls = 1"), "program(question='q')"),
        (PROGRAM.format("0", "return self.index").replace(
            "    def forward", "    @functools.cached_property\n    def index(self): return [1]\n    def forward"), "program(question='q')"),
        (PROGRAM.format("{'n': 0}", "s = self.it; s['n'] += 1"), "program(question='q')"),
        (PROGRAM.format("types.SimpleNamespace(n=0)", "self.it.n += 1"), "program(question='q')"),
        ("class R:\n    def __init__(self): self.calls = 0\n    def m(self, a, b):\n        self.calls += 1\n        return 1.0\n"
            "match = R().m", "match(1, 2)"),
        ("@dataclasses.dataclass\nclass R:\n    calls: int = 0\n    def __call__(self, a, b):\n        self.calls += 1\n"
            "        return 1.0\nmatch = R()", "match(1, 2)"),
        ("class R(pydantic.BaseModel):\n    calls: int = 0\n    def m(self): self.calls += 1\n"
            + PROGRAM.format("R()", "self.it.m()"), "program(question='q')"),
        (METRIC.format("", "memo[example] = 1").replace("prediction)", "prediction, memo={})"), "match(1, 2)"),
        (METRIC.format("SEEN = []\ndef log(x): SEEN.append(x)", "log(1)\n    return float(len(SEEN) > 3)"), "match(1, 2)"),
        (METRIC.format("SEEN = []", "s = SEEN\n    s.append(1)"), "match(1, 2)"),
        (METRIC.format("answer = 'one'", "return example.answer == 'x'"), "answer = 'two'"),
        (PROGRAM.format("dspy.Retrieve(k=3)", "return None"), "program = P()"),
        (PROGRAM.format("dspy.BestOfN(self.predict, N=2, reward_fn=match, threshold=1.0)", "return None"), "program.it.fail_count -= 1"),
        (METRIC.format("W = {len: 0.5, frozenset({'yes', 'no', 'maybe'}): 1}", "return W"), "W = {frozenset({'maybe', 'no', 'yes'}): 1, len: 0.5}"),
    ],
)  # fmt: skip
def test_what_changes_by_use(source: str, use: str) -> None:
    made(HELPERS, "helpers")
    module = made(HEAD + source)
    before = context_identity(module.program, ObjectiveEvaluator(match=module.match), None)
    exec(use, module.__dict__)
    assert context_identity(module.program, ObjectiveEvaluator(match=module.match), None) == before


def test_a_saved_program_is_the_same_program(tmp_path: Any) -> None:
    made(HELPERS, "helpers")
    mine = made(MINE)
    mine.program.verdict.demos = [
        dspy.Example(question="q", verdict=mine.Verdict(grade=mine.Grade.GOOD)).with_inputs("question")
    ]
    mine.program.save(tmp_path / "program.json")
    loaded = mine.Mine()
    loaded.load(tmp_path / "program.json")
    assert context_identity(loaded, objective(mine), None) == context_identity(mine.program, objective(mine), None)


def test_the_lm_that_a_metric_asks_counts() -> None:
    source = HEAD + METRIC.format("judge = dspy.Predict('a -> b')", "return judge(a='a')")
    lm = dspy.LM("openai/student")
    before = identity(source, lm=lm), identity(HEAD, lm=lm)
    with dspy.context(lm=dspy.LM("openai/other")):
        assert identity(source, lm=lm) != before[0] and identity(HEAD, lm=lm) == before[1]


def test_an_lm_of_ones_own_is_its_code_and_settings() -> None:
    source = (
        HEAD
        + """
class L(dspy.BaseLM):
    def __init__(self, style):
        super().__init__("mine")
        self.style, self.calls = style, 0
    def forward(self, prompt=None, messages=None, **kwargs):
        self.calls += 1
        return "a"
"""
    )
    lms = [
        made(text).L(style)
        for text, style in ((source, "be nice"), (source, "be rude"), (source.replace('"a"', '"b"'), "be nice"))
    ]
    assert len({digest(lm) for lm in lms}) == 3
    lms[0].calls = 5
    assert digest(lms[0]) == digest(made(source).L("be nice"))
    assert digest(dspy.LM("openai/a")) != digest(dspy.LM("openai/a", use_developer_role=True))


def test_which_fields_are_inputs_counts() -> None:
    program, judge = dspy.Predict("question -> answer"), ObjectiveEvaluator()
    example = dspy.Example(question="q", hint="h", answer="a")
    one, other = (
        context_identity(program, judge, None, [example.with_inputs(*names)]) for names in ("q", ("q", "hint"))
    )
    assert one != other


class Refusing:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_anything_can_be_described_in_good_time() -> None:
    around: dict[str, Any] = {"children": []}
    around["children"].append({"parent": around})
    shared: list[Any] = []
    for _ in range(40):
        shared = [shared, shared]
    deep: list[Any] = []
    for _ in range(3000):
        deep = [deep]

    @dataclasses.dataclass
    class Partly:
        x: int = dataclasses.field(init=False)

    class Bare(dspy.BaseLM):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

    lost = weakref.proxy(Refusing())
    chain = "\n".join(f"def f{n}(x): return f{n + 1}(x)" for n in range(600)) + "\ndef f600(x): return x"
    odd = [
        around,
        shared,
        deep,
        Partly(),
        Bare(),
        Refusing(),
        lost,
        10**5000,
        np.longdouble(1),
        np.datetime64("2024-01-01"),
    ]
    odd += [made(chain).f0, MagicMock(), (n for n in "ab"), open, print, typing.TypeVar("T"), slice(1, None), Partly]
    began = time.monotonic()
    for one in odd:
        assert digest(one) == digest(one) == digest(one), one
    assert time.monotonic() - began < 5


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
    other: list[Any] = [2]
    other.append(other)
    assert digest(around) == digest(around) != digest(other)
    shared = [2]
    assert digest([shared, shared]) == digest([[2], [2]])

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
