"""A world in which instructions matter in a known way: some words help, most do nothing.

The scorer LM answers lettered questions. Whether it keeps to the format and whether it is right depend on the words of
the instruction, the same for every task of the world: that is what transfers. Words also help or harm on single
questions, by luck: instructions that are alike have the same luck, as with real LMs, so that a search on few questions
finds words which help on those and nowhere else. The reference LM reads the history in its prompt, takes the best
instruction and changes a few words of it: an honest hill climb that knows nothing of the words.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import dspy

from programs.benchmarks.scripted import PromptView, Reply, answer_logprobs, scripted_lm
from tp_dspy import Task

FORMAT_WORD = "only"
ACCURACY_WORDS = ("calmly", "stepwise", "precisely")
HARMFUL_WORDS = tuple(["quickly", "creatively", "loudly", "vaguely", "boldly", "briefly", "wildly", "casually"])
FILLERS = tuple(["really", "maybe", "gladly", "often", "soon", "again", "here", "there"])
VOCABULARY = (FORMAT_WORD, *ACCURACY_WORDS, *HARMFUL_WORDS, *FILLERS)
LETTERS = ("A", "B", "C", "D")


def uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass
class World:
    """One world; worlds of different seeds have different questions, truths and luck.

    Attributes:
        seed: Which world.
        noise: The share of the luck on a question, as a variance in [0, 1], that is the words'; the rest is the
            question's own and the same for all instructions.
        shift: What a word is worth on one task beyond what it is worth on all, at most: 0 for tasks that are alike, 0.2
            for tasks on which as much depends on the task as on the word.
        changes: Words that the reference LM changes at a time, at most.
        truth: The right letter of questions that are none of this world's own, by question.
    """

    seed: int = 0
    noise: float = 0.5
    shift: float = 0.0
    changes: int = 3
    truth: dict[str, str] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        # A copy of a program is in the same world.
        return self

    def task(self, name: str, *, train: int, validation: int = 0, test: int = 0) -> Task:
        """Make a task; the same name gives the same questions."""
        examples = [self.example(name, i) for i in range(train + validation + test)]
        return Task(
            name,
            train=examples[:train],
            validation=examples[train : train + validation],
            test=examples[train + validation :],
            description=f"lettered questions about {name}",
        )

    def example(self, name: str, index: int) -> dspy.Example:
        """Make one question of a task."""
        question = f"Case {index} of {name} in world {self.seed}: which letter holds?"
        return dspy.Example(question=question, answer=_truth(question), choices=list(LETTERS)).with_inputs("question")

    def rates(self, instruction: str, task: str) -> tuple[float, float]:
        """The true probability of keeping to the format, and of being right where it is kept to."""
        words = set(re.findall(r"[a-z]+", instruction.lower())) & set(VOCABULARY)
        right = 0.3 + 0.2 * len(words & set(ACCURACY_WORDS)) - 0.1 * len(words & set(HARMFUL_WORDS))
        if self.shift:
            right += sum(self.shift * (2 * uniform("shift", self.seed, task, word) - 1) for word in sorted(words))
        return 0.55 + 0.4 * (FORMAT_WORD in words), min(max(right, 0.05), 0.95)

    def quality(self, instruction: str, task: str = "finance") -> float:
        """The true share of right answers on a task."""
        follows, right = self.rates(instruction, task)
        return follows * right

    def scorer_lm(self, **kwargs: object) -> dspy.LM:
        """Answer by the rules of this world."""
        return scripted_lm(self.reply, **kwargs)

    def reference_lm(self, **kwargs: object) -> dspy.LM:
        """Change the best instruction of the history by up to `changes` words."""
        asked: Counter[str] = Counter()
        lock = threading.Lock()

        def propose(prompt: PromptView) -> str:
            with lock:
                asked[prompt.text] += 1
                rng = random.Random(f"{self.seed}/{asked[prompt.text]}/{prompt.text}")
            history = re.findall(r"Instruction: (.*)\nScore: \d+", prompt.text)
            words = history[-1].split() if history else ["Answer."]
            for _ in range(rng.randint(1, self.changes)):
                others = [word for word in VOCABULARY if word not in words]
                if len(words) > 2 and (rng.random() < 0.25 or not others):
                    words.pop(rng.randrange(1, len(words)))
                else:
                    words.append(rng.choice(others))
            return f"<INS>{' '.join(words)}</INS>"

        return scripted_lm(propose, **kwargs)

    def answer(self, question: str, instruction: str) -> tuple[str, float] | None:
        """Answer a question under an instruction: a letter and the probability of it; None is no letter at all."""
        task = re.search(r"^Case \d+ of (\w+) in world", question)
        follows, right = self.rates(instruction, task[1] if task else "")
        if self._luck("format", question, instruction) >= follows:
            return None
        correct = self._luck("answer", question, instruction) < right
        truth = self.truth.get(question) or _truth(question)
        others = [letter for letter in LETTERS if letter != truth]
        letter = truth if correct else others[int(3 * uniform("slip", question, instruction))]
        return letter, 0.4 + 0.5 * uniform("sure", question) if correct else 0.3 + 0.4 * uniform("unsure", question)

    def reply(self, prompt: PromptView) -> Reply:
        """Answer a prompt: the rule of the scorer LM."""
        # Wherever the instruction stands: what is left when the item is taken out, of which the last is the one asked.
        before, _, block = prompt.text.rpartition("Question: ")
        question, _, after = block.partition("\n")
        answer = self.answer(question, f"{before}{after.replace('Answer:', '')}".strip())
        if answer is None:
            return Reply("It depends on what you mean by that.", [("It depends on what you mean by that.", -1.0, {})])
        letter, sure = answer
        spread = {other: (1 - sure) / 3 for other in LETTERS if other != letter}
        return Reply.of(*answer_logprobs(letter, {letter: sure, **spread}))

    def _luck(self, what: str, question: str, instruction: str) -> float:
        """A number in [0, 1), uniform over questions for every instruction, alike for instructions that are alike."""
        words = sorted(set(re.findall(r"[a-z]+", instruction.lower())))
        by_word = sum(_normal(what, self.seed, question, word) for word in words) / math.sqrt(max(1, len(words)))
        own = _normal(what, self.seed, question)
        return NormalDist().cdf(math.sqrt(1 - self.noise) * own + math.sqrt(self.noise) * by_word)


class DirectStudent(dspy.Module):  # type: ignore[misc]
    """A program that answers as the scorer LM of a world would, without the way through adapter, LM and parser.

    For studies of many compiles. Its predictor holds the instruction and is never called; it reports its confidence as
    ``sure``.
    """

    def __init__(self, world: World, instruction: str) -> None:
        super().__init__()
        self.world = world
        self.predict = dspy.Predict(dspy.Signature("question -> answer", instruction))

    def forward(self, question: str) -> dspy.Prediction:
        """Answer one question."""
        answer = self.world.answer(question, self.predict.signature.instructions)
        return dspy.Prediction() if answer is None else dspy.Prediction(answer=answer[0], sure=answer[1])


def _truth(question: str) -> str:
    """The right letter: in the question itself, so that any process knows it."""
    return LETTERS[int(4 * uniform("truth", question))]


@lru_cache(maxsize=200_000)
def _normal(*parts: object) -> float:
    return NormalDist().inv_cdf(min(max(uniform(*parts), 1e-9), 1 - 1e-9))
