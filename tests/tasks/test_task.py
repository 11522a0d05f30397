"""A Task keeps the splits apart, and says what is wrong with examples before any LM is paid."""

import logging
import random
import warnings
from collections import Counter

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tp_dspy.errors import ConfigurationError, DataError, SplitOverlapError, SplitOverlapWarning
from tp_dspy.tasks.splitting import divide, drop_repeats, example_key, find_overlap, normalize, stratified_order
from tp_dspy.tasks.task import Task


def item(question, answer="yes", **extra):
    return dspy.Example(question=question, answer=answer, **extra).with_inputs("question")


def items(prefix, count, answers=("yes", "no")):
    return [item(f"{prefix} number {i}", answers[i % len(answers)]) for i in range(count)]


def texts(examples):
    return {example.question for example in examples}


class Untouchable(list):
    """A test split that must not be looked at."""

    def _fail(self, *args):
        raise AssertionError("the test split was touched")

    __iter__ = __len__ = __getitem__ = __bool__ = __contains__ = __eq__ = _fail
    __hash__ = None


# --- What a task keeps


def test_a_task_holds_read_only_tuples():
    task = Task("t", train=items("train", 12), validation=items("val", 3), test=items("test", 4), domain="legal")
    assert [type(split) for split in (task.train, task.validation, task.test)] == [tuple] * 3
    assert task.inputs == ("question",)
    assert repr(task) == "Task('t', train=12, validation=3, test=4, domain='legal')"
    with pytest.raises(AttributeError, match="read-only"):
        task.train = ()


def test_later_changes_of_the_given_list_do_not_reach_the_task():
    train = items("train", 12)
    task = Task("t", train=train)
    train.clear()
    assert len(task.train) == 12


def test_the_answer_space_is_the_union_of_choices():
    train = [item("one", choices=["yes", "no"]), item("two", choices=["no", "maybe"])]
    assert Task("t", train=train).answers == ("yes", "no", "maybe")
    assert Task("t", train=train, answers=["yes", "no"]).answers == ("yes", "no")
    assert Task("t", train=[*train, item("three")]).answers is None
    assert Task("t", train=train, validation=[item("three")]).answers is None


def test_many_choices_are_no_answer_space():
    assert Task("t", train=[item(str(i), choices=[f"o{i}"]) for i in range(12)]).answers is not None
    assert Task("t", train=[item(str(i), choices=[f"o{i}"]) for i in range(13)]).answers is None


def test_answers_given_as_one_string_are_refused():
    with pytest.raises(ConfigurationError, match="several strings"):
        Task("t", train=items("train", 12), answers="yes")


def test_few_train_examples_are_logged(caplog):
    with caplog.at_level(logging.WARNING):
        Task("enough", train=items("train", 10))
        assert not caplog.records
        Task("small", train=items("train", 9))
    assert "9 train examples" in caplog.text


# --- Examples that cannot be used


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ([], ["0 train examples", "at least 1"]),
        ([item("fine"), {"question": "a dict"}], [r"train\[1\]", "dict", "dspy.Example"]),
        ("text", [r"train\[0\]", "str"]),
        (7, ["train is of type int", "list of dspy.Example"]),
        ([dspy.Example(question="q", answer="a")], [r"train\[0\]", "'question', 'answer'", "with_inputs"]),
        ([dspy.Example(question="q").with_inputs("text")], [r"train\[0\] has no inputs"]),
        ([dspy.Prediction(question="q")], [r"train\[0\] has no inputs"]),
        ([item("q"), dspy.Example(text="q").with_inputs("text")], [r"train\[1\]", "'text'", "'question'"]),
    ],
)
def test_unusable_examples_are_refused_by_index_and_with_the_mend(train, words):
    with pytest.raises(DataError) as caught:
        Task("t", train=train)
    for word in words:
        assert caught.match(word)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_other_splits_are_checked_too(split):
    with pytest.raises(DataError, match=rf"{split}\[0\] has the inputs \['text'\]"):
        Task("t", train=items("train", 12), **{split: [dspy.Example(text="q").with_inputs("text")]})


# --- Overlap


def test_the_key_ignores_what_a_reader_ignores():
    assert example_key(item("  What\n IS it?")) == example_key(item("what is \u201cit\u201d"))
    assert example_key(item("ﬁne")) == example_key(item("fine", answer="no"))
    assert example_key(item("the court's view")) == example_key(item("the court\u2019s view"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = -3", "x = 3"),
        ("pay 1.5", "pay 15"),
        ("up 5%", "up 5"),
        ("2 + 2", "2 2"),
        ("!", "?"),
        ("f(2)*f(3)", "f(2), f(3)"),
    ],
)
def test_the_key_keeps_what_makes_another_question(one, other):
    assert example_key(item(one)) != example_key(item(other))


def test_find_overlap_returns_the_shared_examples_in_order():
    a, b = [item("One"), item("two"), item("three!")], [item("Three"), item("ONE?")]
    assert find_overlap(a, b) == [a[0], a[2]]
    assert find_overlap(a, []) == []


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_test_question_that_the_search_sees_is_an_error(split):
    splits = {"train": items("train", 12), "validation": items("val", 4)}
    splits[split] = [*splits[split], item("Leaked question?")]
    with pytest.raises(SplitOverlapError, match=f"1 of 3 test examples are also in {split}.*leaked question"):
        Task("t", **splits, test=[*items("test", 2), item("leaked  QUESTION")])


def test_train_and_validation_may_share_but_not_silently():
    with pytest.warns(SplitOverlapWarning, match="2 of 3 validation examples") as caught:
        Task("t", train=items("same", 12), validation=[*items("same", 2), item("new")])
    assert caught[0].filename == __file__


# --- A test split that a search never looks at


def test_a_lazy_sequence_is_not_touched_until_test_is_read():
    task = Task("t", train=items("train", 12), test=Untouchable(items("test", 2)))
    assert "test=unread" in repr(task)
    assert task.split_validation().validation
    with pytest.raises(AssertionError, match="touched"):
        task.test  # noqa: B018


def test_a_callable_is_called_once_and_also_serves_the_split_task():
    calls = []

    def read():
        calls.append(1)
        return iter(items("test", 5))

    task = Task("t", train=items("train", 12), test=read)
    split = task.split_validation()
    assert not calls
    assert split.test == task.test == split.test
    assert (len(task.test), len(calls)) == (5, 1)


def test_a_lazy_test_is_checked_whenever_it_is_read():
    task = Task("t", train=items("train", 12), test=lambda: items("train", 1))
    for _ in range(2):
        with pytest.raises(SplitOverlapError):
            task.test  # noqa: B018


def test_a_sequence_of_the_old_protocol_will_do():
    class Old:
        def __getitem__(self, index):
            return items("test", 3)[index]

    assert len(Task("t", train=items("train", 12), test=Old()).test) == 3


# --- Stratified order


labels = st.lists(st.sampled_from("ABCD"), min_size=8, max_size=60)


@settings(deadline=None)
@given(labels, st.integers(0, 5))
def test_every_prefix_is_balanced(answers, seed):
    examples = [item(f"q{i}", answer) for i, answer in enumerate(answers)]
    order = stratified_order(examples, seed=seed)
    assert sorted(e.question for e in order) == sorted(e.question for e in examples)
    shares = {label: count / len(answers) for label, count in Counter(answers).items()}
    for m in range(1, len(order) + 1):
        seen = Counter(e.answer for e in order[:m])
        assert all(abs(seen[label] - m * share) < 1 for label, share in shares.items())


@settings(deadline=None)
@given(labels, st.randoms(use_true_random=False))
def test_the_order_given_plays_no_part(answers, rng: random.Random):
    examples = [item(f"q{i}", answer) for i, answer in enumerate(answers)]
    other = rng.sample(examples, len(examples))
    assert stratified_order(examples, seed=3) == stratified_order(other, seed=3)


def test_the_seed_picks_the_order():
    examples = items("q", 40)
    assert (
        stratified_order(examples, seed=0) == stratified_order(examples, seed=0) != stratified_order(examples, seed=1)
    )


def test_free_text_is_only_shuffled():
    examples = [item(f"q{i}", f"free text {i // 2 if i < 4 else i}") for i in range(30)]
    order = stratified_order(examples, seed=0)
    assert order != examples and texts(order) == texts(examples)


def test_examples_without_the_answer_field_are_only_shuffled():
    examples = [dspy.Example(question=f"q{i}").with_inputs("question") for i in range(20)]
    assert texts(stratified_order(examples, seed=0)) == texts(examples)


def test_which_of_two_contradictory_repeats_stays_does_not_depend_on_the_order():
    a, b = item("Same question", "yes"), item("same question?", "no")
    assert len(drop_repeats([a, b])) == 1
    assert drop_repeats([a, b]) == drop_repeats([b, a])
    assert len(drop_repeats([a, a])) == 1


# --- Making splits


@given(st.integers(3, 200), st.lists(st.integers(1, 50), min_size=1, max_size=3))
def test_divide_loses_nothing_and_leaves_no_part_empty(count, weights):
    ordered = items("q", count)
    parts = divide(ordered, [weight / sum(weights) for weight in weights])
    assert [example for part in parts for example in part] == ordered
    assert all(parts)


def test_split_validation_divides_train_by_label():
    train = items("q", 40, answers=("yes", "yes", "yes", "no"))
    task = Task("t", train=train, test=items("test", 4), domain="d", description="x").split_validation(0.25)
    assert (len(task.train), len(task.validation), len(task.test)) == (30, 10, 4)
    assert not texts(task.train) & texts(task.validation)
    assert Counter(e.answer for e in task.validation)["no"] in (2, 3)
    assert (task.domain, task.description) == ("d", "x")


def test_split_validation_does_not_depend_on_the_order_of_train():
    train = items("q", 21)
    one, other = (Task("t", train=given).split_validation(seed=4) for given in (train, train[::-1]))
    assert texts(one.validation) == texts(other.validation)
    assert texts(one.validation) != texts(Task("t", train=train).split_validation(seed=5).validation)


def test_split_validation_keeps_repeats_on_one_side():
    train = [example for example in items("q", 12) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SplitOverlapWarning)
        task = Task("t", train=train).split_validation()
    assert len(task.train) + len(task.validation) == 24


def test_split_validation_leaves_a_given_validation_alone():
    task = Task("t", train=items("train", 12), validation=items("val", 2))
    assert task.split_validation() is task


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_each_side_gets_at_least_one(share):
    task = Task("t", train=items("q", 12)).split_validation(share)
    assert task.train and task.validation


def test_split_validation_needs_two_questions():
    with pytest.raises(DataError, match="at least 2"):
        Task("t", train=[item("only"), item("Only?")]).split_validation()
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        Task("t", train=items("q", 12)).split_validation(1.0)


def test_from_examples_splits_one_list(caplog):
    examples = [*items("q", 100), *items("q", 5)]
    with caplog.at_level(logging.INFO):
        task = Task.from_examples("t", examples, domain="medical")
    assert (len(task.train), len(task.validation), len(task.test)) == (40, 30, 30)
    assert "dropped 5 repeated questions of 105" in caplog.text
    assert all(Counter(e.answer for e in split)["yes"] == len(split) / 2 for split in (task.train, task.test))


def test_from_examples_may_leave_splits_out():
    task = Task.from_examples("t", items("q", 20), shares=(0.5, 0, 0.5))
    assert (len(task.train), len(task.validation), len(task.test)) == (10, 0, 10)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.5, 0.5), (0, 0.5, 0.5), (1.2, -0.2, 0)])
def test_from_examples_wants_shares_that_make_one(shares):
    with pytest.raises(ConfigurationError, match="1 in all"):
        Task.from_examples("t", items("q", 20), shares=shares)


def test_from_examples_wants_one_question_a_split():
    with pytest.raises(DataError, match="2 distinct questions"):
        Task.from_examples("t", items("q", 2))


# --- A source that holds nothing of the target


def test_without_drops_what_occurs_in_any_split_of_the_others(caplog):
    source = Task("source", train=items("q", 20), validation=items("v", 4), domain="d", description="x")
    target = Task(
        "target",
        train=[*items("t", 10), item("Q number 0?")],
        validation=[item("q number 1"), item("v number 3")],
        test=lambda: [item("Q, number 2"), item("V number 2!")],
    )
    other = Task("other", train=[*items("o", 10), item("q number 19")])
    with caplog.at_level(logging.INFO):
        apart = source.without(target, other)
    assert texts(apart.train) == {f"q number {i}" for i in range(3, 19)}
    assert texts(apart.validation) == {"v number 0", "v number 1"}
    assert (apart.name, apart.domain, apart.description) == ("source", "d", "x")
    assert "dropped 4 train and 2 validation examples for 'target', 'other'" in caplog.text


def test_without_leaves_the_own_test_alone():
    source = Task("source", train=items("q", 20), test=Untouchable(items("test", 2)))
    assert "test=unread" in repr(source.without(Task("other", train=items("q", 10))))
    shared = Task("source", train=items("q", 20), test=items("t", 3))
    assert texts(shared.without(Task("other", train=items("t", 10))).test) == texts(shared.test)


def test_without_others_is_a_copy():
    source = Task("source", train=items("q", 20), validation=items("v", 4))
    assert (source.without().train, source.without().validation) == (source.train, source.validation)


def test_without_does_not_depend_on_the_name_of_the_input():
    other = Task("other", train=[dspy.Example(text=f"q number {i}").with_inputs("text") for i in range(10)])
    assert len(Task("source", train=items("q", 20)).without(other).train) == 10


def test_without_says_when_nothing_is_left():
    source, target = Task("source", train=items("q", 12)), Task("target", train=items("q", 12))
    with pytest.raises(DataError, match="'source': all 12 train examples also occur in 'target'"):
        source.without(target)
    with pytest.raises(ConfigurationError, match="given a list; expected tasks"):
        source.without([target])


def test_brackets_that_stand_alone_are_what_a_question_is_about() -> None:
    assert normalize("[ { (") != normalize("[ { [") != normalize("[ {")
    assert normalize("( True ) and False") != normalize("True and ( False )")
    assert normalize("Heart (left side)") == normalize("heart, left side")
    assert normalize("(A) Heart") == normalize("A. Heart")
