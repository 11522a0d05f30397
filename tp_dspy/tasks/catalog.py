"""Public data sets as tasks, by name.

Every task has one shape, so that one program fits all: the input `question` and the output `answer` (a letter, a label
in words, or free text), beside `id` and, where the answers are closed, `choices`; multiple-choice items also keep
`stem` and `options`.
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import dspy

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.tasks.entries import OVERLAPS, entries
from tp_dspy.tasks.hub import DATA_VARIABLE, DataSet, read_split
from tp_dspy.tasks.readers import LETTERS, Skip, lettered
from tp_dspy.tasks.splitting import divide, drop_repeats, example_key, find_overlap, normalize, stratified_order
from tp_dspy.tasks.task import Task

__all__ = ["CATALOG", "DATA_VARIABLE", "LETTERS", "DataSet", "lettered", "load", "overlapping"]

logger = logging.getLogger(__name__)

CATALOG: Mapping[str, DataSet] = MappingProxyType({data.name: data for data in entries()})
"""All data sets that `load` knows, by name."""

_FIXED_SEED = 0  # for parts that must be the same in every run, whatever the caller's seed
_PARTS = ("train", "validation", "test")
# Train, validation and test of a labelled split that has to serve as several of them.
_SHARES = {"divide": (0.4, 0.2, 0.4), "develop": (2 / 3, 1 / 3, 0.0)}
_NO_NAMES = {"main", "raw", "default"}  # configurations that say nothing of the data


def load(name: str, *, seed: int = 0, limit: int | None = None) -> Task:
    """Load a data set of the catalogue, from the hub or from the folder that `TP_DSPY_DATA` names.

    Splits are the hub's own where every copy of the data has them with answers; else they are fixed parts that depend
    on the items only. Figures on such a part of a test split are not comparable with published ones, which are on all
    of it; `DataSet.splits` says what a data set has. Repeated questions are dropped, save in a test split of the hub,
    which stays whole; what occurs in a later split is dropped from the earlier ones. What was dropped is logged, and
    so are the terms.

    Args:
        name: A key of `CATALOG`: "owner/name" or "owner/name:config", e.g. "cais/mmlu:anatomy". Or a part of it that
            only one data set has, in any case: "anatomy", "gsm8k", "medqa".
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
    _log_terms(data)
    parts: dict[str, list[dspy.Example]] = defaultdict(list)
    for split, part in data.splits:
        parts[part] += _examples(data, split)
    train, validation, test = _with_own_ids(_separate(data, parts))
    if limit is not None:
        train, validation, test = (stratified_order(part, seed=seed)[:limit] for part in (train, validation, test))
    about: dict[str, Any] = {"domain": data.domain, "description": data.description, "answers": data.answers}
    return Task(data.name, train=train, validation=validation, test=test, **about)


def overlapping(name: str) -> tuple[str, ...]:
    """List the data sets of the catalogue that share questions with one of them.

    Instructions that were tuned on one of the two must not be reported on the other.

    Args:
        name: As for `load`.

    Raises:
        DataError: The name is not in the catalogue.
    """
    known = _find(name).name
    return tuple(other for group in OVERLAPS if known in group for other in group if other != known)


def _log_terms(data: DataSet) -> None:
    terms = f"{data.name}: licence {data.licence}; cite {data.citation}."
    if data.non_commercial:
        logger.warning("%s Commercial use is not allowed.", terms)
    else:
        logger.info("%s", terms)
    if others := overlapping(data.name):
        logger.warning(
            "%s shares questions with %s; never tune on one and report on the other.", data.name, " and ".join(others)
        )


def _find(name: str) -> DataSet:
    if name in CATALOG:
        return CATALOG[name]
    matches = [data for data in CATALOG.values() if str(name).casefold() in _short_names(data)]
    if len(matches) == 1:
        return matches[0]
    near = [data.name for data in matches] or _nearest(str(name))
    more = f" and {len(near) - 8} more" if len(near) > 8 else ""
    raise DataError(
        f"The catalogue has {len(matches) or 'no'} data set{'s' if matches else ''} {name!r}; names are 'owner/name' "
        "or 'owner/name:config', or a part of one that no other has. "
        f"Near to it: {', '.join(near[:8])}{more}. "
        "For data of your own, name a file or make a Task of dspy.Examples."
    )


def _short_names(data: DataSet) -> set[str]:
    """Everything that may stand for a data set, where it stands for no other one."""
    config = data.config or ""
    _, _, last = data.hub.partition("/")
    names = {data.name, data.hub, last, f"{last}:{config}", config, *data.aliases}
    return {name.casefold() for name in names if name} - _NO_NAMES


def _nearest(name: str) -> list[str]:
    known = {short: data.name for data in CATALOG.values() for short in _short_names(data)}
    near = difflib.get_close_matches(name.casefold(), known, n=8, cutoff=0)
    return list(dict.fromkeys(known[short] for short in near))[:4]


def _examples(data: DataSet, split: str) -> list[dspy.Example]:
    rows = read_split(data, split)
    where = f"{data.name}, split {split!r}"
    if not rows:
        raise DataError(f"{where}: there are no rows. Get the file anew, or use the data set as the hub has it.")
    examples: list[dspy.Example] = []
    faults: list[str] = []
    skipped: Counter[str] = Counter()
    for index, row in enumerate(rows):
        try:
            examples.append(_checked(data.to_example(row), data.answers))
        except Skip as skip:
            skipped[str(skip)] += 1
        except KeyError as error:
            raise DataError(
                f"{where}: there is no column {error.args[0]!r}; the columns are {', '.join(row)}. "
                "Use the data set as the hub has it."
            ) from error
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            faults.append(f"row {index} ({error})")
    if faults:
        first = "; ".join(faults[:3]) + ("; ..." if len(faults) > 3 else "")
        raise DataError(
            f"{where}: {len(faults)} of {len(rows)} rows are not as expected: {first}. "
            "Use the data set as the hub has it."
        )
    for reason, count in skipped.items():
        logger.info("%s: left out %d of %d rows, since %s.", where, count, len(rows), reason)
    if not examples:
        raise DataError(f"{where}: all {len(rows)} rows were left out. Use the data set as the hub has it.")
    return examples


def _checked(example: dspy.Example, answers: Sequence[str] | None) -> dspy.Example:
    if not example.question.strip():
        raise ValueError("the question is empty")
    if not isinstance(example.answer, str) or not example.answer.strip():
        raise ValueError(f"the answer is {example.answer!r}, expected some text")
    for allowed in (example.get("choices"), answers):
        if allowed is not None and example.answer not in allowed:
            raise ValueError(f"the answer is {example.answer!r}, expected one of {', '.join(allowed) or 'none'}")
    return example


def _separate(data: DataSet, parts: Mapping[str, list[dspy.Example]]) -> list[list[dspy.Example]]:
    """Make train, validation and test of what was read, with no question in two of them."""
    pooled = [list(parts.get(name, [])) for name in _PARTS]
    for kind, shares in _SHARES.items():
        if kind in parts:
            for pool, part in zip(pooled, _fixed_parts(data, parts[kind], shares), strict=True):
                pool += part
    train, validation, test = drop_repeats(pooled[0]), drop_repeats(pooled[1]), pooled[2]
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
    for name, before, after in zip(_PARTS, pooled, apart, strict=True):
        if before and not after:
            raise DataError(
                f"{data.name}: all {len(before)} {name} examples also occur in a later split, which leaves none. "
                "Use the data set as the hub has it."
            )
    return apart


def _fixed_parts(
    data: DataSet, pool: list[dspy.Example], shares: tuple[float, float, float]
) -> list[list[dspy.Example]]:
    """Divide a pool in the same way in every run, with the labels of the whole in each part."""
    unique = drop_repeats(pool)
    if len(unique) < (needed := sum(share > 0 for share in shares)):
        raise DataError(
            f"{data.name}: {len(unique)} distinct questions are too few for {needed} parts. "
            "Use the data set as the hub has it."
        )
    return divide(stratified_order(unique, seed=_FIXED_SEED), shares)


def _stem_key(example: dspy.Example) -> str:
    return normalize(example.stem)


def _with_own_ids(parts: Sequence[Sequence[dspy.Example]]) -> list[list[dspy.Example]]:
    """Number the examples that share an id ("x", "x-2", ...), so that an id names one of them.

    The order of the rows plays no part; and the last part comes first, so that the ids of a test split do not depend
    on what was trained on.
    """
    count = Counter(example.id for part in parts for example in part)
    taken = set(count)
    numbered: Counter[str] = Counter()
    renamed: dict[int, dspy.Example] = {}
    for part in reversed(parts):
        shared = [example for example in part if count[example.id] > 1]
        for example in sorted(shared, key=lambda example: (example.id, example.question, example.answer)):
            numbered[example.id] += 1
            if numbered[example.id] == 1:
                continue
            while (own := f"{example.id}-{numbered[example.id]}") in taken:
                numbered[example.id] += 1
            taken.add(own)
            renamed[id(example)] = example.copy(id=own).with_inputs(*example.inputs().keys())
    return [[renamed.get(id(example), example) for example in part] for part in parts]
