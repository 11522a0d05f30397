"""Weighing noisy scores: right on average where the model holds, and sensible where it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from tp_dspy.optimization.evidence import Belief, Reading, interaction, paired_error, weigh

unit = st.floats(0.0, 1.0)


def search(rng: np.random.Generator, edit: float, error: float, size: int = 30) -> tuple[list[float], list[Reading]]:
    """A search as the cycle makes it: each new candidate is derived from the one with the best reading so far."""
    worth, readings = [rng.uniform(0.3, 0.7)], []
    readings.append(Reading(worth[0] + rng.normal(0, error)))
    for _ in range(size - 1):
        parent = int(np.argmax([reading.score for reading in readings]))
        worth.append(worth[parent] + rng.normal(-0.02, edit))
        readings.append(Reading(worth[-1] + rng.normal(0, error), parent=parent))
    return worth, readings


@pytest.mark.parametrize("edit", [0.02, 0.05, 0.15])
def test_what_is_expected_is_right_on_average_though_the_search_followed_the_lucky(edit: float) -> None:
    rng = np.random.default_rng(0)
    error, off, raw, expected, lucky = 0.1, [], [], [], []
    for _ in range(150):
        worth, readings = search(rng, edit, error)
        beliefs = weigh(readings, error)
        best = max(range(len(readings)), key=lambda index: readings[index].score)
        off += [(belief.mean - truth) / belief.sd for belief, truth in zip(beliefs, worth, strict=True)]
        raw += [(reading.score - truth) ** 2 for reading, truth in zip(readings, worth, strict=True)]
        expected += [(belief.mean - truth) ** 2 for belief, truth in zip(beliefs, worth, strict=True)]
        lucky.append((readings[best].score - worth[best], beliefs[best].mean - worth[best]))
    assert abs(np.mean(off)) < 0.15 and 0.75 < np.std(off) < 1.3
    assert np.mean(expected) < (0.8 if edit > 0.1 else 0.6) * np.mean(raw)
    read, believed = np.mean(lucky, axis=0)
    assert read > 0.05 and abs(believed) < 0.3 * read, "the best reading is a lucky one, and that is seen through"


def textbook(readings: list[Reading], error: float) -> list[tuple[float, float]]:
    """The same model as one multivariate normal distribution, conditioned on all readings: n cubed, and no tree."""
    count = len(readings)
    drawn = [index for index, reading in enumerate(readings) if reading.prior is None and reading.parent is not None]
    told = [index for index, reading in enumerate(readings) if reading.prior is not None]
    # Coefficients of: the level, the mean effect of an edit, and each candidate's own effect.
    effects, mean = np.zeros((count, 2 + count)), np.full(count, 0.5)
    spread = np.array([0.5, 0.1, *[0.5] * count])
    for index, reading in enumerate(readings):
        if reading.prior is not None:
            mean[index], spread[2 + index], effects[index, 0] = reading.prior.mean, reading.prior.sd, 1.0
        elif reading.parent is not None:
            effects[index], mean[index] = effects[reading.parent], mean[reading.parent]
            effects[index, 1] += 1.0
        effects[index, 2 + index] = 1.0
    scores = np.array([reading.score for reading in readings])
    noise = np.diag([error**2 / reading.share for reading in readings])
    rows = []
    for edit in (0.01, 0.02, 0.04, 0.08, 0.16, 0.32) if drawn else (0.0,):
        for surprise in (0.0, 0.05, 0.1, 0.2, 0.4) if told else (0.0,):
            variance = spread**2
            variance[[2 + index for index in drawn]] = edit**2
            variance[[2 + index for index in told]] += surprise**2
            prior = effects * variance @ effects.T
            gain = prior @ np.linalg.inv(prior + noise)
            after = mean + gain @ (scores - mean)
            log = multivariate_normal(mean, prior + noise).logpdf(scores)
            rows.append((log, after, np.diag(prior - gain @ prior)))
    logs, means, variances = (np.array(part) for part in zip(*rows, strict=True))
    share = np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum()
    expected = share @ means
    return list(zip(expected, np.sqrt(share @ (variances + (means - expected) ** 2)), strict=True))


@given(st.integers(0, 10_000), st.integers(1, 14), st.floats(0.02, 0.3))
def test_it_equals_conditioning_one_large_normal_distribution(seed: int, count: int, error: float) -> None:
    rng = np.random.default_rng(seed)
    readings = []
    for index in range(count):
        prior = Belief(rng.random(), rng.uniform(0.01, 0.2)) if rng.random() < 0.25 else None
        parent = int(rng.integers(index)) if index and rng.random() < 0.7 else None
        readings.append(Reading(rng.random(), prior, parent, rng.uniform(0.1, 1.0)))
    for belief, (mean, sd) in zip(weigh(readings, error), textbook(readings, error), strict=True):
        assert (belief.mean, belief.sd) == pytest.approx((mean, sd), abs=1e-6)


def test_a_lone_lucky_reading_is_not_believed_and_a_family_of_good_ones_is() -> None:
    family = [Reading(0.5), *(Reading(0.5, parent=0) for _ in range(9))]
    lone = weigh([*family, Reading(0.8, parent=0)], 0.1)[-1].mean
    many = weigh([*family, *(Reading(0.8, parent=0) for _ in range(9))], 0.1)[-1].mean
    assert 0.5 < lone < 0.6 < many < 0.8
    heirs = weigh([*family, Reading(0.8, parent=0), *(Reading(0.8, parent=10) for _ in range(5))], 0.1)
    assert heirs[10].mean > lone + 0.05, "its descendants speak for it"


def test_source_scores_count_where_the_target_bears_them_out_and_not_where_it_contradicts_them() -> None:
    told = [0.2, 0.4, 0.6, 0.8]
    priors = [Belief(score, 0.03) for score in told]
    # The target is harder by 0.15 for all, and a lucky reading puts the third above the fourth.
    borne = weigh([Reading(s, p) for s, p in zip([0.05, 0.27, 0.62, 0.58], priors, strict=True)], 0.1)
    assert borne[3].mean > borne[2].mean + 0.05
    contrary = weigh([Reading(s, p) for s, p in zip(told[::-1], priors, strict=True)], 0.05)
    assert [belief.mean for belief in contrary] == pytest.approx(told[::-1], abs=0.05)


def test_what_was_not_on_the_sources_must_beat_what_was() -> None:
    carried = [Reading(0.4, Belief(0.5, 0.03)), Reading(0.7, Belief(0.8, 0.03))]
    beliefs = weigh([*carried, *(Reading(0.65, parent=1) for _ in range(6)), Reading(0.75, parent=1)], 0.1)
    assert beliefs[1].mean > beliefs[-1].mean > beliefs[2].mean


def test_one_prior_alone_says_nothing_of_the_level() -> None:
    alone, without = weigh([Reading(0.3, Belief(0.9, 0.05))], 0.1), weigh([Reading(0.3)], 0.1)
    assert alone[0].mean == pytest.approx(without[0].mean, abs=0.03)


@given(st.lists(st.tuples(unit, unit), min_size=2, max_size=8), st.floats(-0.2, 0.2))
def test_the_level_of_the_sources_does_not_matter(pairs: list[tuple[float, float]], shift: float) -> None:
    here = weigh([Reading(score, Belief(told, 0.1)) for score, told in pairs], 0.1)
    there = weigh([Reading(score, Belief(told + shift, 0.1)) for score, told in pairs], 0.1)
    assert [belief.mean for belief in here] == pytest.approx([belief.mean for belief in there], abs=0.05)


@given(st.lists(unit, min_size=1, max_size=12), st.floats(0.0, 0.3))
def test_an_expectation_is_finite_and_a_sure_reading_is_taken_as_it_is(scores: list[float], error: float) -> None:
    readings = [Reading(score, parent=None if index == 0 else index - 1) for index, score in enumerate(scores)]
    for reading, belief in zip(readings, weigh(readings, error), strict=True):
        assert -0.5 < belief.mean < 1.5 and 0.0 <= belief.sd <= 1.5 * max(error, 0.001)
        if error == 0.0:
            assert belief.mean == pytest.approx(reading.score, abs=0.05)
    assert weigh([], 0.1) == []


def test_one_that_met_fewer_examples_is_believed_less() -> None:
    family = [Reading(0.5), *(Reading(0.5 + 0.1 * sign, parent=0) for sign in (-1, 1) * 4)]
    whole, part = (weigh([*family, Reading(0.9, parent=0, share=share)], 0.1)[-1] for share in (1.0, 0.25))
    assert whole.mean > part.mean + 0.1


def test_the_paired_error_leaves_out_what_all_share() -> None:
    rng = np.random.default_rng(1)
    common, own = rng.normal(0, 0.3, 4000), rng.normal(0, 0.05, (6, 4000))
    assert paired_error(common + own, 1000) == pytest.approx(0.05, rel=0.03)
    assert paired_error(common + own, 5) == pytest.approx(0.05 * math.sqrt(5 / 4), rel=0.03)
    assert paired_error(np.full((3, 10), 0.4) + common[:10], 9) == pytest.approx(0.0, abs=1e-12)
    assert paired_error(common[None], 1000) == pytest.approx(0.3, rel=0.05)
    assert paired_error(np.array([[0.1, math.nan], [0.2, 0.3]]), 4) == 0.0
    useless = np.zeros((20, 4000))
    assert paired_error(np.vstack([common + own, useless]), 1000) == pytest.approx(paired_error(common + own, 1000))
    assert paired_error(useless, 1000) == 0.0


def test_the_interaction_is_what_is_left_beyond_chance() -> None:
    rng = np.random.default_rng(2)
    error, there = 0.05, 0.1
    scores = rng.normal(0.5, 0.2, (400, 1)) + rng.normal(0, 0.3, (1, 3)) + rng.normal(0, there, (400, 3))
    read = scores + rng.normal(0, error, scores.shape)
    assert interaction(read, error) == pytest.approx(there, rel=0.1)
    same = rng.normal(0.5, 0.2, (400, 1)) + rng.normal(0, error, (400, 3))
    assert interaction(same, error) < 0.02
    assert interaction(read[:, :1], error) == pytest.approx(math.sqrt(0.2**2 + there**2), rel=0.1)
    assert interaction(read[:1], error) == 0.0
