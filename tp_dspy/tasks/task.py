"""Tasks: named sets of examples, split so that what is searched on is never what is reported on."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import dspy

from tp_dspy.errors import ConfigurationError, DataError, SplitOverlapError, SplitOverlapWarning
from tp_dspy.tasks.splitting import divide, drop_repeats, example_key, find_overlap, stratified_order

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MOST_ANSWERS", "Task", "answer_space"]

logger = logging.getLogger(__name__)

TestSource = Sequence[dspy.Example] | Callable[[], Iterable[dspy.Example]]

_FEW_EXAMPLES = 10  # below this a warning is logged: one example more or less moves every metric
MOST_ANSWERS = 12  # more allowed answers than this are options of single items, not an answer space


class Task:
    """A named set of examples with a domain and a description in words. Read-only.

    Attributes:
        name: What reports call it.
        domain: "medical", "legal" or any other word; None when unknown.
        description: What the task is, as a noun phrase that a reference LM can read; may be empty.
        answers: The answer space in words; None when answers are free text or unknown.
        inputs: Names of the input fields, the same for all examples.
        train: What instructions are scored on.
        validation: What the winner is chosen on; may be empty.
        test: What is reported; may be empty.
    """

    name: str
    domain: str | None
    description: str
    answers: tuple[str, ...] | None
    inputs: tuple[str, ...]
    train: tuple[dspy.Example, ...]
    validation: tuple[dspy.Example, ...]
    _test: tuple[dspy.Example, ...] | None
    _test_source: TestSource

    def __init__(
        self,
        name: str,
        *,
        train: Iterable[dspy.Example],
        validation: Iterable[dspy.Example] = (),
        test: TestSource = (),
        domain: str | None = None,
        description: str = "",
        answers: Sequence[str] | None = None,
    ) -> None:
        """Check and keep the splits.

        Args:
            name: What reports call it.
            train: At least one example, with inputs set; fewer than 10 are logged as a warning.
            validation: Examples, or nothing.
            test: A list or tuple, whose overlap with the other splits is checked at once; or any other sequence, or a
                callable without arguments that returns examples: not touched before `task.test` is first read, and
                checked then, so that a search can prove that it never looks.
            domain: "medical", "legal" or any other word.
            description: What the task is, as a noun phrase.
            answers: The answer space. By default the union of the examples' `choices` fields, when every example of
                train and validation has one and the union has at most 12 members.

        Raises:
            ConfigurationError: `name` is empty, or `answers` is not a sequence of strings.
            DataError: Something is not an example, has no inputs set or other inputs than the rest, or train is empty.
            SplitOverlapError: A question of test also occurs in train or validation.

        Warns:
            SplitOverlapWarning: A question occurs in both train and validation.
        """
        if not isinstance(name, str) or not name.strip():
            raise ConfigurationError(f"A task's name is {name!r}; expected some text. Name it for the reports.")
        kept = vars(self)  # the only way in: attributes cannot be set
        kept.update(name=name, domain=domain, description=description)
        kept.update(train=_checked(name, "train", train), validation=_checked(name, "validation", validation))
        if not self.train:
            raise DataError(f"Task {name!r} has 0 train examples; expected at least 1, better {_FEW_EXAMPLES} or more.")
        kept["inputs"] = tuple(self.train[0].inputs().keys())
        self._check_inputs("train", self.train)
        self._check_inputs("validation", self.validation)
        kept["answers"] = answer_space(answers, self.train + self.validation)
        kept.update(_test_source=test, _test=None)
        if type(test) in (list, tuple):  # a subclass may be lazy
            kept["_test"] = self._read_test()
        if shared := find_overlap(self.validation, self.train):
            message = f"Task {name!r}: {len(shared)} of {len(self.validation)} validation examples are also in train."
            warnings.warn(message, SplitOverlapWarning, stacklevel=2)
        if len(self.train) < _FEW_EXAMPLES:
            logger.warning("Task %r has only %d train examples; scores will be coarse.", name, len(self.train))

    @property
    def test(self) -> tuple[dspy.Example, ...]:
        """The test split; a lazy one is read and checked now, which raises as the constructor would."""
        test = self._read_test() if self._test is None else self._test
        vars(self)["_test"] = test
        return test

    @classmethod
    def from_hub(cls, name: str, *, seed: int = 0, limit: int | None = None) -> Task:
        """Load a data set of the catalogue; see `tp_dspy.tasks.catalog.load`."""
        from tp_dspy.tasks import catalog

        return catalog.load(name, seed=seed, limit=limit)

    @classmethod
    def starter(cls, domain: str, *, kind: str | None = None) -> Task:
        """Load a question set that ships with the library; see `tp_dspy.tasks.starter.load_starter`."""
        from tp_dspy.tasks import starter

        return starter.load_starter(domain, kind=kind)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], **layout: Any) -> Task:
        """Make a task of a CSV file; what `layout` takes and what is guessed: see `tp_dspy.tasks.tabular.Layout`."""
        from tp_dspy.tasks import tabular

        return tabular.load_csv(path, **layout)

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str], **layout: Any) -> Task:
        """Make a task of a file with one JSON object a line; see `tp_dspy.tasks.tabular.Layout`."""
        from tp_dspy.tasks import tabular

        return tabular.load_jsonl(path, **layout)

    @classmethod
    def from_dataframe(cls, frame: pd.DataFrame, *, name: str, **layout: Any) -> Task:
        """Make a task of a pandas data frame; see `tp_dspy.tasks.tabular.Layout`."""
        from tp_dspy.tasks import tabular

        return tabular.load_dataframe(frame, name=name, **layout)

    @classmethod
    def from_examples(
        cls,
        name: str,
        examples: Iterable[dspy.Example],
        *,
        shares: tuple[float, float, float] = (0.4, 0.3, 0.3),
        seed: int = 0,
        answer: str = "answer",
        domain: str | None = None,
        description: str = "",
        answers: Sequence[str] | None = None,
    ) -> Task:
        """Split one list into train, validation and test with the labels of the whole in each.

        Args:
            name: The task's name.
            examples: Examples with inputs set; repeated questions are dropped, and logged.
            shares: What train, validation and test get; not negative, train above 0, 1 in all.
            seed: Picks the split, which does not depend on the order of `examples`.
            answer: Name of the field that holds the label.
            domain: As in `Task`.
            description: As in `Task`.
            answers: As in `Task`.

        Raises:
            ConfigurationError: `shares` are not as above.
            DataError: An example is unusable, or there are fewer questions than splits.
        """
        if len(shares) != 3 or min(shares) < 0 or shares[0] <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise ConfigurationError(f"shares are {shares!r}; expected three (train, validation, test), 1 in all.")
        listed = _checked(name, "examples", examples)
        unique = drop_repeats(listed, answer=answer)
        if len(unique) < len(listed):
            logger.info("Task %r: dropped %d repeated questions of %d.", name, len(listed) - len(unique), len(listed))
        if len(unique) < sum(share > 0 for share in shares):
            raise DataError(f"Task {name!r} has {len(unique)} distinct questions, too few for one in each split.")
        train, validation, test = divide(stratified_order(unique, seed=seed, answer=answer), shares)
        about: dict[str, Any] = {"domain": domain, "description": description, "answers": answers}
        return cls(name, train=train, validation=validation, test=test, **about)

    def split_validation(self, share: float = 0.5, seed: int = 0, *, answer: str = "answer") -> Task:
        """Return a task with a validation split, taken from train when there is none; test is not touched.

        Args:
            share: Share of train's questions that goes to validation, in (0, 1); each side gets at least one.
            seed: Picks them; the order of train plays no part. Repeats of a question stay together.
            answer: Name of the field that holds the label.

        Raises:
            ConfigurationError: `share` is not in (0, 1).
            DataError: Train has fewer than two distinct questions.
        """
        if not 0 < share < 1:
            raise ConfigurationError(f"share is {share!r}; expected a number between 0 and 1, both excluded.")
        if self.validation:
            return self
        unique = drop_repeats(self.train, answer=answer)
        if len(unique) < 2:
            raise DataError(
                f"Task {self.name!r} has {len(unique)} distinct train question; expected at least 2 to take a "
                "validation split from. Add examples or pass validation=."
            )
        _, held = divide(stratified_order(unique, seed=seed, answer=answer), (1 - share, share))
        validation = find_overlap(self.train, held)
        aside = {id(example) for example in validation}
        return self._with_splits([example for example in self.train if id(example) not in aside], validation)

    def without(self, *others: Task) -> Task:
        """Return a copy whose train and validation hold no question of any split of the others, as a source must.

        Args:
            *others: The tasks to stay clear of; a lazy test split of theirs is read. One's own test stays as it is.

        Raises:
            ConfigurationError: Something given is not a task.
            DataError: Nothing would be left in train.
        """
        if strangers := [type(other).__name__ for other in others if not isinstance(other, Task)]:
            raise ConfigurationError(f"without() was given a {strangers[0]}; expected tasks, as in without(a, b).")
        known = {example_key(e) for other in others for e in (*other.train, *other.validation, *other.test)}
        train, validation = (
            [example for example in split if example_key(example) not in known]
            for split in (self.train, self.validation)
        )
        dropped = len(self.train) - len(train), len(self.validation) - len(validation)
        names = ", ".join(repr(other.name) for other in others)
        if not train:
            raise DataError(
                f"Task {self.name!r}: all {dropped[0]} train examples also occur in {names}, so that none is left. "
                "Take a source with other questions."
            )
        if any(dropped):
            logger.info("Task %r: dropped %d train and %d validation examples for %s.", self.name, *dropped, names)
        return self._with_splits(train, validation)

    def _with_splits(self, train: Iterable[dspy.Example], validation: Iterable[dspy.Example]) -> Task:
        """Make the same task with another train and validation; a test that nobody has read stays unread."""
        return Task(
            self.name,
            train=train,
            validation=validation,
            test=self._test if self._test is not None else lambda: self.test,
            domain=self.domain,
            description=self.description,
            answers=self.answers,
        )

    def _read_test(self) -> tuple[dspy.Example, ...]:
        source = self._test_source
        test = _checked(self.name, "test", source() if callable(source) else source)
        self._check_inputs("test", test)
        for split, seen in (("train", self.train), ("validation", self.validation)):
            if shared := find_overlap(test, seen):
                first = "; ".join(repr(example_key(example)[:80]) for example in shared[:3])
                raise SplitOverlapError(
                    f"Task {self.name!r}: {len(shared)} of {len(test)} test examples are also in {split}, which the "
                    f"search may look at. Remove them from {split}. The first: {first}."
                )
        return test

    def _check_inputs(self, split: str, examples: Iterable[dspy.Example]) -> None:
        for index, example in enumerate(examples):
            if (names := set(example.inputs().keys())) != set(self.inputs):
                raise DataError(
                    f"Task {self.name!r}: {split}[{index}] has the inputs {sorted(names)}, train[0] has "
                    f"{sorted(self.inputs)}; expected the same. Call .with_inputs(...) with the same names everywhere."
                )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"A Task is read-only; to change {name!r}, make another one.")

    def __repr__(self) -> str:
        test = "unread" if self._test is None else len(self._test)
        sizes = f"train={len(self.train)}, validation={len(self.validation)}, test={test}"
        return f"Task({self.name!r}, {sizes}, domain={self.domain!r})"


def _checked(task: str, split: str, examples: Iterable[dspy.Example]) -> tuple[dspy.Example, ...]:
    try:
        kept = tuple(examples)
    except TypeError as error:
        kind = type(examples).__name__
        raise DataError(f"Task {task!r}: {split} is of type {kind}; expected a list of dspy.Example.") from error
    for index, example in enumerate(kept):
        where = f"Task {task!r}: {split}[{index}]"
        if not isinstance(example, dspy.Example):
            raise DataError(
                f"{where} is of type {type(example).__name__}; expected dspy.Example. "
                "Make one with dspy.Example(...).with_inputs(...)."
            )
        try:
            has_inputs = bool(example.inputs().keys())
        except (ValueError, AttributeError):  # a dspy.Prediction is an Example that cannot have inputs
            has_inputs = False
        if not has_inputs:
            raise DataError(
                f"{where} has no inputs; its fields are {list(example.keys())}. "
                'Say which of them the program is given, e.g. example.with_inputs("question").'
            )
    return kept


def answer_space(answers: Sequence[str] | None, examples: Iterable[dspy.Example]) -> tuple[str, ...] | None:
    """Check an answer space that was given, or read one off the examples' choices; None where there is none."""
    if answers is not None:
        if isinstance(answers, str) or not all(isinstance(answer, str) for answer in answers):
            raise ConfigurationError(f'answers is {answers!r}; expected several strings, e.g. ("yes", "no").')
        return tuple(answers) or None
    union: dict[str, None] = {}
    for example in examples:
        if not (choices := example.get("choices")):
            return None
        union |= dict.fromkeys(map(str, choices))
    return tuple(union) if len(union) <= MOST_ANSWERS else None
