"""Intervals hold as many truths as they say, whatever the network and the scale are worth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from regraft.answers import Numbers
from training.intervals import Intervals, Part, conformal, fit, measure
from training.network import Output

WIDTH = 6


def part(rows: int, seed: int, *, uneven: bool) -> Part:
    """The network says 0; how far off that is, the first of its vector's numbers tells, if `uneven`."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    scale = np.exp(vectors[:, 0]) if uneven else np.ones(rows)
    return Part(vectors, np.zeros(rows, dtype=np.float32), rng.normal(0, 1, rows) * scale)


def fitted(seed: int, *, uneven: bool, allowed: Numbers | None = None, level: float = 0.9) -> Intervals:
    parts = part(600, seed, uneven=uneven), part(300, seed + 1000, uneven=uneven)
    return fit(*parts, level=level, center=10.0, unit=2.0, allowed=allowed or Numbers())


def answered(intervals: Intervals, one: Part) -> np.ndarray:
    vectors = torch.from_numpy(one.vectors)
    columns: np.ndarray = intervals.module()(Output(vectors, vectors, torch.from_numpy(one.values)[:, None])).numpy()
    return columns


@pytest.mark.parametrize("uneven", [True, False])
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_they_hold_the_truth_as_often_as_they_say(level: float, uneven: bool) -> None:
    held = []
    for seed in range(40):
        fresh = part(500, seed + 2000, uneven=uneven)
        _, low, high, _ = answered(fitted(seed, uneven=uneven, level=level), fresh).T
        truth = 10 + 2 * fresh.truth
        held.append(np.mean((truth >= low) & (truth <= high)))
    assert np.mean(held) == pytest.approx(level, abs=0.01)


def test_where_residuals_can_be_foretold_width_follows_them_and_is_less_on_the_whole() -> None:
    found = fitted(0, uneven=True)
    assert found.adaptive
    assert found.mean_half < 0.85 * found.constant_half
    fresh = part(500, 99, uneven=True)
    columns = answered(found, fresh)
    half = columns[:, 2] - columns[:, 0]
    assert np.corrcoef(np.log(half), fresh.vectors[:, 0])[0, 1] > 0.9
    assert spearmanr(half, columns[:, 3]).statistic < -0.9  # the wider, the less sure
    measured = measure(columns, 10 + 2 * fresh.truth, found, resamples=200, seed=0)
    assert measured.coverage.low < 0.9 < measured.coverage.high
    errors = [one.error for one in measured.bins]
    assert errors[-1] > 3 * errors[0]
    assert measured.width.value < measured.constant_width


def test_answers_and_ends_are_in_the_callers_unit_and_range() -> None:
    found = fitted(1, uneven=False, allowed=Numbers(minimum=9.5, maximum=10.25))
    value, low, high, confidence = answered(found, part(50, 3, uneven=False)).T
    assert (value == 10).all()
    assert (low.min(), high.max()) == (9.5, 10.25)
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_widths_that_are_compared_are_all_within_the_range() -> None:
    found, fresh = fitted(1, uneven=False, allowed=Numbers(minimum=9.5, maximum=10.25)), part(50, 3, uneven=False)
    measured = measure(answered(found, fresh), 10 + 2 * fresh.truth, found, resamples=200, seed=0)
    assert measured.width.value == measured.constant_width == measured.alone_width == 0.75


def test_without_a_range_the_same_width_everywhere_is_the_constant_one() -> None:
    found, fresh = fitted(1, uneven=False), part(50, 3, uneven=False)
    found = replace(found, weights=np.zeros(WIDTH), bias=0.0, bounds=(0.0, 0.0), quantile=found.constant_half)
    measured = measure(answered(found, fresh), 10 + 2 * fresh.truth, found, resamples=200, seed=0)
    assert measured.width.value == pytest.approx(measured.constant_width)
    assert measured.alone_width == pytest.approx(2 * found.alone * found.unit)


def test_the_bound_is_the_quantile_that_one_more_score_stays_within() -> None:
    scores = np.arange(1.0, 20.0)  # of 20 ranks that one more could take, 18 are at or below the 18th score
    assert conformal(scores, 0.9) == 18
    assert conformal(scores[:5], 0.9) == 5
