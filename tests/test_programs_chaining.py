"""The example of chains, on a scripted LM."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from programs.chaining import CHAINS, Bench
from tests.scoring.test_dspy_optimizers import GOOD, HELD_OUT, TRAIN, USELESS, examples
from tests.test_chaining import Lessons
from tp_dspy import Task


@pytest.fixture
def bench() -> Bench:
    lessons = Lessons()
    lessons.proposals = itertools.cycle([USELESS, GOOD, "Answer with joy.", "Answer with care."])
    source = Task("more numbers", train=examples(range(24, 32)), validation=examples(range(32, 40)))
    target = Task("numbers", train=TRAIN, validation=HELD_OUT, test=examples(range(16, 24)))
    program, transfer = lessons.program(), lessons.transfer(top_k=3)
    made = transfer.construct_source_prompts(program, source_tasks=[source])
    return Bench(program, target, lessons.objective, transfer, made, lessons.prompt_lm)


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_yields_a_program_after_each_of_its_two_steps(bench: Bench, name: str) -> None:
    first, second = CHAINS[name](bench)
    before, between, after = [float(bench.measured(one, 8).split()[0]) for one in (bench.program, first, second)]
    if name == "ensemble":
        assert after >= before, "two of the three that vote may be as bad as the original"
    else:
        assert before <= between <= after > before


def test_it_says_how_to_call_it() -> None:
    command = [sys.executable, "-m", "programs.chaining", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "--chain demos ensemble" in done.stdout
