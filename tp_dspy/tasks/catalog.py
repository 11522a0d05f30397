"""Public data sets as tasks, each a few declarative lines.

Every task has one shape, so that one program fits all: the input `question` and the output `answer` (a letter, or a
label in words), beside `choices` (the allowed answers) and `id`; multiple-choice items also keep `stem` and `options`.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dspy

from tp_dspy.errors import ConfigurationError, DataError, HubUnavailableError
from tp_dspy.tasks.task import Task, divide, drop_repeats, example_key, find_overlap, normalize, stratified_order

__all__ = ["CATALOG", "DATA_VARIABLE", "LETTERS", "DataSet", "lettered", "load"]

logger = logging.getLogger(__name__)

DATA_VARIABLE = "TP_DSPY_DATA"
"""Environment variable that names a folder of parquet files to read instead of the hub."""

LETTERS = ("A", "B", "C", "D", "E", "F", "G", "H")

_FIXED_SEED = 0  # for parts that must be the same in every run, whatever the caller's seed
_SHARES = (0.4, 0.2, 0.4)  # train, validation, test of a labelled split that has to serve as all three

Row = Mapping[str, Any]


@dataclass(frozen=True)
class DataSet:
    """How a data set of the hub becomes a task.

    Attributes:
        hub: "owner/name" on the hub.
        config: The hub's configuration; None when it has one only.
        splits: Pairs of a hub split and what becomes of it: "train", "validation", "test", or "divide" for fixed
            parts of 40 % train, 20 % validation, 40 % test, which depend on the items only.
        to_example: Makes an example of one row.
        domain: "medical", "legal", "financial" or "general".
        description: What the task is, as a noun phrase.
        answers: The answer space; None where items differ in it.
        licence: As its authors state it.
        citation: What to cite.
        non_commercial: Whether the licence forbids commercial use.
        same_stem: Whether two items with one question text but other options count as shared between splits.
        script: Whether the hub's repository is a loader script, so that its parquet conversion has to be read.
    """

    hub: str
    config: str | None
    splits: tuple[tuple[str, str], ...]
    to_example: Callable[[Row], dspy.Example]
    domain: str
    description: str
    answers: tuple[str, ...] | None
    licence: str
    citation: str
    non_commercial: bool = False
    same_stem: bool = False
    script: bool = False

    @property
    def name(self) -> str:
        """The name that `load` takes: "owner/name" or "owner/name:config"."""
        return self.hub + (f":{self.config}" if self.config else "")


def load(name: str, *, seed: int = 0, limit: int | None = None) -> Task:
    """Load a data set of the catalogue, from the hub or from the folder that `TP_DSPY_DATA` names.

    Splits are the hub's own where it has them; else they are fixed parts that depend on the items only. Repeated
    questions are dropped, save in a test split of the hub, which stays whole for comparison with published results;
    what occurs in a later split is dropped from the earlier ones. What was dropped is logged, and so are the terms.

    Args:
        name: "owner/name" or "owner/name:config", e.g. "cais/mmlu:anatomy"; the keys of `CATALOG`.
        seed: Picks the examples when there is a limit; nothing else depends on it.
        limit: At most so many examples in each split, with the labels in proportion; None for all.

    Raises:
        ConfigurationError: `limit` is below 1.
        DataError: The name is not in the catalogue, or the data are not what the catalogue expects.
        HubUnavailableError: The hub cannot be reached or does not have it.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit is {limit!r}; expected at least 1, or None for all examples.")
    data = _find(name)
    terms = f"{data.name}: licence {data.licence}; cite {data.citation}."
    if data.non_commercial:
        logger.warning("%s Commercial use is not allowed.", terms)
    else:
        logger.info("%s", terms)
    parts: dict[str, list[dspy.Example]] = defaultdict(list)
    for split, part in data.splits:
        parts[part] += _examples(data, split)
    train, validation, test = _separate(data, parts)
    if limit is not None:
        train, validation, test = (stratified_order(part, seed=seed)[:limit] for part in (train, validation, test))
    about: dict[str, Any] = {"domain": data.domain, "description": data.description, "answers": data.answers}
    return Task(data.name, train=train, validation=validation, test=test, **about)


def lettered(question: str, options: Sequence[str]) -> str:
    """Return the question with its options below it, one a line: "A. ..."."""
    lines = (f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return "\n".join([question.strip(), *lines])


def _find(name: str) -> DataSet:
    if name in CATALOG:
        return CATALOG[name]
    hub, _, config = name.partition(":")
    configs = [data for data in CATALOG.values() if data.hub == hub]
    if not config and len(configs) == 1:
        return configs[0]
    near = [data.name for data in configs if not config] or _nearest(name)
    more = f" and {len(near) - 8} more" if len(near) > 8 else ""
    raise DataError(
        f"The catalogue has no data set {name!r}; names are 'owner/name' or 'owner/name:config'. "
        f"Near to it: {', '.join(near[:8])}{more}. For data of your own, make a Task of dspy.Examples."
    )


def _nearest(name: str) -> list[str]:
    folded = {known.casefold(): known for known in CATALOG}
    return [folded[near] for near in difflib.get_close_matches(name.casefold(), folded, n=4, cutoff=0)]


def _separate(data: DataSet, parts: Mapping[str, list[dspy.Example]]) -> list[list[dspy.Example]]:
    """Make train, validation and test of what was read, with no question in two of them."""
    pool = drop_repeats(parts.get("divide", []))
    divided = divide(stratified_order(pool, seed=_FIXED_SEED), _SHARES) if pool else [[], [], []]
    train = drop_repeats(parts.get("train", [])) + divided[0]
    validation = drop_repeats(parts.get("validation", [])) + divided[1]
    test = parts.get("test", []) + divided[2]
    repeats = sum(map(len, parts.values())) - len(train) - len(validation) - len(test)
    key = _stem_key if data.same_stem else example_key

    def without(examples: list[dspy.Example], later: list[dspy.Example]) -> list[dspy.Example]:
        shared = {id(example) for example in find_overlap(examples, later, key=key)}
        return [example for example in examples if id(example) not in shared]

    apart = [without(train, validation + test), without(validation, test), test]
    dropped = len(train) - len(apart[0]), len(validation) - len(apart[1])
    if repeats or any(dropped):
        logger.info(
            "%s: dropped %d repeats, and %d train and %d validation examples that also occur in a later split.",
            *(data.name, repeats, *dropped),
        )
    return apart


def _stem_key(example: dspy.Example) -> str:
    return normalize(example.stem)


def _examples(data: DataSet, split: str) -> list[dspy.Example]:
    examples = []
    rows, columns = _read(data, split)
    for index, row in enumerate(rows):
        try:
            examples.append(data.to_example(row))
        except KeyError as error:
            raise DataError(
                f"{data.name}, split {split!r}: there is no column {error.args[0]!r}; the columns are "
                f"{', '.join(columns)}. Use the data set as the hub has it."
            ) from error
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise DataError(f"{data.name}, split {split!r}, row {index}: not as expected ({error}).") from error
    return examples


def _read(data: DataSet, split: str) -> tuple[Iterable[Row], list[str]]:
    """Return the rows and column names of one hub split."""
    folder = os.environ.get(DATA_VARIABLE)
    with _quiet_progress():
        table = _read_folder(Path(folder), data, split) if folder else _read_hub(data, split)
    return table, list(table.column_names)


def _read_folder(folder: Path, data: DataSet, split: str) -> Any:
    import datasets

    path = Path(data.hub.replace("/", "__"), data.config or "", f"{split}.parquet")
    if not (folder / path).is_file():
        raise DataError(
            f"{data.name}: the folder that {DATA_VARIABLE} names has no file {path.as_posix()!r}. "
            f"Put it there, or unset {DATA_VARIABLE} to read the hub."
        )
    try:
        return datasets.load_dataset("parquet", data_files={split: str(folder / path)}, split=split)
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        raise DataError(
            f"{data.name}: {path.as_posix()!r} cannot be read as parquet ({error}). Get it anew."
        ) from error


def _read_hub(data: DataSet, split: str) -> Any:
    import datasets

    try:
        if data.script:  # datasets 4 runs no scripts; the hub's own conversion has a folder for each configuration
            return datasets.load_dataset(
                data.hub, data_dir=data.config or "default", split=split, revision="refs/convert/parquet"
            )
        return datasets.load_dataset(data.hub, data.config, split=split)
    except Exception as error:  # whatever the network, the hub or its client come up with, the mend is the same
        raise HubUnavailableError(
            f"{data.name} could not be loaded from the hub ({type(error).__name__}: {error}). Check the network, or "
            f"set {DATA_VARIABLE} to a folder with {data.hub.replace('/', '__')}/[<config>/]<split>.parquet, or take "
            "a set that ships with the library: Task.starter('medical'), 'legal' or 'financial'."
        ) from error


@contextmanager
def _quiet_progress() -> Iterator[None]:
    """Keep progress bars out of logs: none while stderr is not a terminal."""
    import datasets

    hide = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()


def _example(question: str, answer: str, choices: Sequence[str], **extra: Any) -> dspy.Example:
    identity = hashlib.sha256(question.encode(errors="backslashreplace")).hexdigest()[:12]
    example = dspy.Example(question=question, answer=answer, choices=list(choices), **({"id": identity} | extra))
    return example.with_inputs("question")


def _choice(stem: str, options: Sequence[str], right: int, **extra: Any) -> dspy.Example:
    if not 0 <= right < len(options) <= len(LETTERS):
        raise ValueError(f"option {right} of {len(options)} is the answer")
    letters = LETTERS[: len(options)]
    return _example(lettered(stem, options), letters[right], letters, stem=stem, options=list(options), **extra)


def _labelled(labels: tuple[str, ...]) -> Callable[[Row], dspy.Example]:
    """Make the reader of rows with a sentence and the index of a label."""

    def to_example(row: Row) -> dspy.Example:
        if not 0 <= row["label"] < len(labels):
            raise ValueError(f"label is {row['label']}, expected 0 to {len(labels) - 1}")
        return _example(f"Sentence: {row['sentence'].strip()}", labels[row["label"]], sorted(labels))

    return to_example


def _mmlu(row: Row) -> dspy.Example:
    return _choice(row["question"], row["choices"], row["answer"])


def _arc(row: Row) -> dspy.Example:
    # Some exams number their options; by position, all are lettered.
    options = row["choices"]
    return _choice(row["question"], options["text"], list(options["label"]).index(row["answerKey"]), id=row["id"])


def _pubmedqa(row: Row) -> dspy.Example:
    question = f"Context: {' '.join(row['context']['contexts'])}\nQuestion: {row['question'].strip()}"
    return _example(question, row["final_decision"], ("yes", "no", "maybe"), id=str(row["pubid"]))


_MMLU_SUBJECTS = {
    "medical": "anatomy clinical_knowledge college_biology college_medicine high_school_biology human_aging "
    "human_sexuality medical_genetics nutrition professional_medicine virology",
    "legal": "international_law jurisprudence professional_law",
    "financial": "business_ethics econometrics high_school_macroeconomics high_school_microeconomics management "
    "marketing professional_accounting",
    "general": "abstract_algebra astronomy college_chemistry college_computer_science college_mathematics "
    "college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics formal_logic "
    "global_facts high_school_chemistry high_school_computer_science high_school_european_history "
    "high_school_geography high_school_government_and_politics high_school_mathematics high_school_physics "
    "high_school_psychology high_school_statistics high_school_us_history high_school_world_history "
    "logical_fallacies machine_learning miscellaneous moral_disputes moral_scenarios philosophy prehistory "
    "professional_psychology public_relations security_studies sociology us_foreign_policy world_religions",
}


def _entries() -> Iterator[DataSet]:
    for domain, subjects in _MMLU_SUBJECTS.items():
        for subject in subjects.split():
            yield DataSet(
                "cais/mmlu",
                subject,
                # The hub's validation split is left alone: not every copy has it, and a task must be the same in all.
                (("dev", "train"), ("test", "divide")),
                _mmlu,
                domain,
                f"multiple-choice exam questions about {subject.replace('_', ' ')}, each with four lettered options of "
                "which one is right",
                LETTERS[:4],
                "MIT",
                "Hendrycks et al. 2021, arXiv 2009.03300",
            )
    for config in ("sentences_allagree", "sentences_50agree"):
        yield DataSet(
            "takala/financial_phrasebank",
            config,
            (("train", "divide"),),
            _labelled(("negative", "neutral", "positive")),
            "financial",
            "sentences from financial news, to be judged as positive, negative or neutral for an investor",
            ("negative", "neutral", "positive"),
            "CC BY-NC-SA 3.0",
            "Malo et al. 2014, arXiv 1307.5336",
            non_commercial=True,
            script=True,
        )
    yield DataSet(
        "gtfintechlab/fomc_communication",
        None,
        (("train", "train"), ("test", "test")),
        _labelled(("dovish", "hawkish", "neutral")),
        "financial",
        "sentences of the US Federal Open Market Committee, to be judged by their stance on monetary policy: dovish "
        "(easier), hawkish (tighter) or neutral",
        ("dovish", "hawkish", "neutral"),
        "CC BY-NC 4.0",
        "Shah et al. 2023, arXiv 2305.07972",
        non_commercial=True,
    )
    yield DataSet(
        "qiaojin/PubMedQA",
        "pqa_labeled",
        (("train", "divide"),),
        _pubmedqa,
        "medical",
        "questions about biomedical research, to be answered with yes, no or maybe from a study's abstract",
        ("yes", "no", "maybe"),
        "MIT",
        "Jin et al. 2019, arXiv 1909.06146",
    )
    for config, level in (("ARC-Challenge", "hard"), ("ARC-Easy", "easy")):
        yield DataSet(
            "allenai/ai2_arc",
            config,
            (("train", "train"), ("validation", "validation"), ("test", "test")),
            _arc,
            "general",
            f"{level} multiple-choice science questions for schools, each with lettered options of which one is right",
            None,
            "CC BY-SA 4.0",
            "Clark et al. 2018, arXiv 1803.05457",
            same_stem=True,
        )


CATALOG: Mapping[str, DataSet] = MappingProxyType({data.name: data for data in _entries()})
"""All data sets that `load` knows, by name."""
