"""Medical questions answered from a small corpus of your own: retrieve the passages that fit, then answer from them.

    uv run python -m programs.medical_qa --help
    uv run python -m programs.medical_qa --corpus guidelines/*.txt --target mine.csv
        --scorer-lm openai/gpt-4o-mini --reference-lm openai/gpt-4o --source medqa anatomy --auto light

A passage is a paragraph of a text file. Without --corpus the few notes below are used, to see it run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import dspy
from sklearn.feature_extraction.text import TfidfVectorizer

from programs.running import arguments, run
from tp_dspy import ObjectiveEvaluator

__all__ = ["Corpus", "MedicalQA"]

NOTES = (
    "A resting heart rate of 60 to 100 beats a minute is normal in adults.",
    "Fever is a body temperature of 38 °C or more; above 40 °C it needs a doctor at once.",
    "Antibiotics act against bacteria. They do nothing against viruses, such as those of a cold or influenza.",
    "Insulin lowers blood glucose; in type 1 diabetes the pancreas makes too little of it or none.",
    "The left ventricle pumps blood into the aorta; the right ventricle pumps it to the lungs.",
    "Vitamin C prevents scurvy, vitamin D rickets; vitamin K is needed for blood to clot.",
    "Red blood cells carry oxygen; platelets take part in clotting; white blood cells fight infections.",
    "Blood type O negative can be given to nearly everybody in an emergency.",
)


class Corpus:
    """Passages, found by the words they share with a question (TF-IDF)."""

    def __init__(self, passages: Iterable[str]) -> None:
        self.passages = [passage.strip() for passage in passages if passage.strip()]
        self._vectorizer = TfidfVectorizer(stop_words="english", ngram_range=(1, 2))
        self._matrix = self._vectorizer.fit_transform(self.passages)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A program is copied for every candidate; the corpus is the same for all.
        return self

    @classmethod
    def of_files(cls, paths: Sequence[Path]) -> Self:
        """Read text files, a passage for each paragraph."""
        return cls(paragraph for path in paths for paragraph in path.read_text(encoding="utf-8").split("\n\n"))

    @property
    def edition(self) -> str:
        """Changes with the passages."""
        return hashlib.sha256("\n\n".join(self.passages).encode()).hexdigest()

    def best(self, question: str, count: int) -> list[str]:
        """Give the passages that fit a question best; none that shares no word with it."""
        scores = (self._matrix @ self._vectorizer.transform([question]).T).toarray().ravel()
        return [self.passages[index] for index in scores.argsort()[::-1][:count] if scores[index] > 0]


class Answer(dspy.Signature):
    """Answer the question; the notes may help."""

    notes: str = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class MedicalQA(dspy.Module):
    """Retrieves, then answers; the notes come back with the answer, as its source."""

    def __init__(self, corpus: Corpus | None = None, count: int = 2) -> None:
        super().__init__()
        self.corpus = corpus if corpus is not None else Corpus(NOTES)
        self.count = count
        # As a plain attribute it is part of what identifies a run: with other notes nothing is taken from its journal.
        self.edition = self.corpus.edition
        self.answer = dspy.Predict(Answer)

    def forward(self, question: str) -> dspy.Prediction:
        """Answer a question."""
        notes = self.corpus.best(question, self.count)
        prediction = self.answer(notes=" ".join(notes), question=question)
        prediction.notes = notes
        return prediction


def main() -> None:
    """Compile, measure and save."""
    sources = ["starter/financial:yes_no", "starter/legal:yes_no"]
    parser = arguments(__doc__ or "", sources=sources, target="starter/medical:yes_no")
    parser.add_argument("--corpus", nargs="+", type=Path, metavar="FILE", help="text files with the passages")
    given = parser.parse_args()
    corpus = Corpus.of_files(given.corpus) if given.corpus else None
    run(MedicalQA(corpus), ObjectiveEvaluator(confidence="logits"), given)


if __name__ == "__main__":
    main()
