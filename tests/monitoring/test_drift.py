import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, ks_2samp

from monitoring.drift import MINIMUM_ROWS, MOST_CATEGORIES, drift_test

Columns = Mapping[str, NDArray[Any]]


def table(rng: np.random.Generator, rows: int) -> Columns:
    """Two correlated numbers, one that is mostly ties, one heavy-tailed with gaps, a category and a boolean."""
    common = rng.normal(size=rows)
    heavy = rng.standard_t(2, size=rows)
    heavy[rng.random(rows) < 0.1] = math.nan
    return {
        "confidence": common + 0.3 * rng.normal(size=rows),
        "margin": common + 0.3 * rng.normal(size=rows),
        "words": rng.poisson(2, size=rows),
        "size": heavy,
        "label": np.where(common > 0.5, "good", rng.choice(["bad", "so-so", "rare"], rows, p=[0.5, 0.49, 0.01])),
        "weekend": rng.random(rows) < 0.3,
    }


def thirteen(rng: np.random.Generator, rows: int, *, shift: float = 0.0) -> Columns:
    return {"shifted": shift + rng.normal(size=rows)} | {f"other {i}": rng.normal(size=rows) for i in range(12)}


def expected(runs: int, alpha: float) -> tuple[int, int]:
    """How few and how many false alarms chance leaves to a test that keeps alpha, in 999 of 1,000 cases."""
    return int(binom.ppf(0.0005, runs, alpha)), int(binom.ppf(0.9995, runs, alpha))


@pytest.mark.parametrize(("rows", "runs"), [(200, 1000), (1000, 200)])
def test_false_alarms_come_as_often_as_stated_neither_more_nor_less(rows: int, runs: int) -> None:
    rng = np.random.default_rng(rows)
    results = [
        drift_test(table(rng, rows), table(rng, rows), alpha=0.05, permutations=99, rng=rng) for _ in range(runs)
    ]
    for alpha in (0.05, 0.01):
        alarms = sum(r.p_value <= alpha for r in results)
        fewest, most = expected(runs, alpha)
        print(f"{rows} rows, alpha {alpha}: {alarms} false alarms in {runs} ({fewest} to {most} expected)")
        assert fewest <= alarms <= most
    assert all(r.drifted == (r.p_value <= 0.05) for r in results)


def test_a_threshold_for_each_column_alone_would_alarm_too_often() -> None:
    rng = np.random.default_rng(1)
    runs, alarms = 100, 0
    for _ in range(runs):
        reference, current = thirteen(rng, 200), thirteen(rng, 200)
        alarms += any(ks_2samp(reference[name], current[name]).pvalue <= 0.05 for name in reference)
    print(f"unadjusted: {alarms} false alarms in {runs}")
    assert alarms > 5 * 0.05 * runs


def test_false_alarms_keep_to_alpha_when_window_and_reference_differ_in_size() -> None:
    rng = np.random.default_rng(2)
    runs, alpha = 500, 0.05
    alarms = sum(
        drift_test(table(rng, 500), table(rng, 60), alpha=alpha, permutations=99, rng=rng).drifted for _ in range(runs)
    )
    fewest, most = expected(runs, alpha)
    print(f"500 against 60 rows: {alarms} false alarms in {runs}")
    assert fewest <= alarms <= most


def test_no_column_alarms_more_often_than_its_fair_share() -> None:
    rng = np.random.default_rng(3)
    runs = 500
    results = [
        drift_test(table(rng, 200), table(rng, 200), alpha=0.1, permutations=99, rng=rng).columns for _ in range(runs)
    ]
    alarms = {name: sum(columns[name].drifted for columns in results) for name in results[0]}
    print(f"alarms by column in {runs}: {alarms}")
    assert max(alarms.values()) < 0.05 * runs


def test_many_different_categories_are_no_drift() -> None:
    rng = np.random.default_rng(4)
    runs, alpha, alarms = 500, 0.05, 0
    for _ in range(runs):
        words = {"word": rng.zipf(1.3, 200)}, {"word": rng.zipf(1.3, 200)}
        alarms += drift_test(*words, categorical=["word"], alpha=alpha, permutations=99, rng=rng).drifted
    print(f"many categories: {alarms} false alarms in {runs}")
    assert alarms <= expected(runs, alpha)[1]


@pytest.mark.parametrize(("rows", "shift", "at_least"), [(200, 0.6, 0.85), (1000, 0.3, 0.9)])
def test_a_shift_in_one_of_thirteen_columns_is_found(rows: int, shift: float, at_least: float) -> None:
    rng = np.random.default_rng(5)
    runs = 40
    results = [
        drift_test(thirteen(rng, rows), thirteen(rng, rows, shift=shift), permutations=199, rng=rng)
        for _ in range(runs)
    ]
    found = sum(r.columns["shifted"].drifted for r in results) / runs
    print(f"{rows} rows, one of thirteen columns shifted by {shift} sd: found {found:.2f}")
    assert found >= at_least


def test_a_column_given_twice_costs_nothing() -> None:
    rng = np.random.default_rng(23)
    reference, current = rng.normal(size=300), rng.normal(0.2, size=300)
    once = drift_test({"a": reference}, {"a": current}, rng=np.random.default_rng(24))
    columns = {"a": reference, "again": reference}, {"a": current, "again": current}
    twice = drift_test(*columns, rng=np.random.default_rng(24))
    assert once.columns["a"] == twice.columns["a"] == twice.columns["again"]


def test_only_the_column_that_moved_is_named() -> None:
    rng = np.random.default_rng(6)
    result = drift_test(thirteen(rng, 500), thirteen(rng, 500, shift=1.0), rng=rng)
    assert result.drifted
    assert [name for name, column in result.columns.items() if column.drifted] == ["shifted"]
    assert result.columns["shifted"].p_value == result.p_value == 1 / 2000


@pytest.mark.parametrize("shares", [[0.5, 0.35, 0.15, 0.0], [0.5, 0.4, 0.0, 0.1]], ids=["more often", "new"])
def test_a_category_that_comes_or_grows_is_found(shares: list[float]) -> None:
    rng = np.random.default_rng(7)
    names = ["a", "b", "c", "d"]
    reference = {"label": rng.choice(names, 1000, p=[0.55, 0.43, 0.02, 0.0])}
    assert drift_test(reference, {"label": rng.choice(names, 1000, p=shares)}, rng=rng).drifted


def test_values_that_go_missing_are_drift() -> None:
    rng = np.random.default_rng(8)
    reference, current = rng.normal(size=500), rng.normal(size=500)
    current[:100] = math.nan
    result = drift_test({"size": reference}, {"size": current}, rng=rng)
    assert result.columns["size"].drifted
    assert result.columns["size"].statistic == pytest.approx(0.2, abs=0.06)


def test_the_threshold_falls_as_the_rows_grow() -> None:
    rng = np.random.default_rng(9)
    thresholds = [
        drift_test(thirteen(rng, n), thirteen(rng, n), permutations=499, rng=rng).columns["shifted"].threshold
        for n in (50, 200, 800)
    ]
    assert thresholds[0] / thresholds[1] == pytest.approx(2, rel=0.2)
    assert thresholds[1] / thresholds[2] == pytest.approx(2, rel=0.2)


def test_the_statistic_of_numbers_is_the_kolmogorov_smirnov_distance_also_with_ties() -> None:
    rng = np.random.default_rng(10)
    reference, current = rng.poisson(3, 120), rng.poisson(4, 75)
    result = drift_test({"words": reference}, {"words": current}, permutations=99, rng=rng)
    assert result.columns["words"].statistic == pytest.approx(ks_2samp(reference, current).statistic)


def test_the_statistic_of_categories_is_the_total_variation_distance() -> None:
    reference, current = ["a"] * 60 + ["b"] * 40, ["a"] * 20 + ["b"] * 10 + ["c"] * 20
    result = drift_test({"label": reference}, {"label": current}, permutations=99, rng=np.random.default_rng(11))
    assert result.columns["label"].statistic == pytest.approx(0.4)
    assert result.columns["label"].kind == "categorical"


def test_whole_numbers_can_be_named_categories() -> None:
    rng = np.random.default_rng(12)
    columns = {"class": rng.integers(0, 3, 100)}, {"class": rng.integers(0, 3, 100)}
    assert drift_test(*columns, rng=rng).columns["class"].kind == "numeric"
    assert drift_test(*columns, categorical=["class"], rng=rng).columns["class"].kind == "categorical"


def test_a_constant_column_is_not_tested_and_does_not_stand_in_the_way_of_others() -> None:
    rng = np.random.default_rng(13)
    steady = np.full(100, 3.0)
    reference, current = rng.normal(size=100), rng.normal(2, size=100)
    result = drift_test({"one": steady, "two": reference}, {"one": steady, "two": current}, rng=rng)
    assert math.isnan(result.columns["one"].threshold)
    assert math.isnan(result.columns["one"].p_value)
    assert not result.columns["one"].drifted
    assert result.columns["two"].drifted


def test_when_no_column_can_be_tested_the_p_value_is_undefined() -> None:
    result = drift_test({"one": np.ones(50)}, {"one": np.ones(50)}, rng=np.random.default_rng(14))
    assert math.isnan(result.p_value)
    assert not result.drifted


def test_the_same_seed_gives_the_same_answer() -> None:
    columns = table(np.random.default_rng(15), 100), table(np.random.default_rng(16), 100)
    first, second = (drift_test(*columns, permutations=199, rng=np.random.default_rng(17)) for _ in range(2))
    assert first == second


def test_large_sides_are_cut_to_a_random_sample() -> None:
    rng = np.random.default_rng(18)
    sorted_by_time = {"value": np.sort(rng.normal(size=20_000))}
    window = {"value": rng.normal(size=20_000)}
    result = drift_test(sorted_by_time, window, most_rows=1000, permutations=199, rng=rng)
    assert not result.drifted
    assert result.columns["value"].threshold > 0.05


def test_categories_beyond_the_most_frequent_are_one() -> None:
    rng = np.random.default_rng(19)
    words = rng.permutation([f"word {i}" for i in range(1000)])  # each seen once
    result = drift_test({"word": words[:500]}, {"word": words[500:]}, permutations=199, rng=rng)
    assert result.columns["word"].statistic <= MOST_CATEGORIES / 500
    assert not result.drifted


@pytest.mark.parametrize(
    ("reference", "current", "message"),
    [
        ({"a": np.ones(50)}, {"b": np.ones(50)}, "same columns"),
        ({}, {}, "same columns"),
        ({"a": np.ones(50), "b": np.ones(49)}, {"a": np.ones(50), "b": np.ones(50)}, "one length"),
        ({"a": np.ones((50, 2))}, {"a": np.ones((50, 2))}, "flat"),
        ({"a": np.ones(50)}, {"a": np.ones(MINIMUM_ROWS - 1)}, "too few"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(reference: Columns, current: Columns, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drift_test(reference, current, rng=np.random.default_rng(20))


@pytest.mark.parametrize(("alpha", "permutations"), [(0.01, 98), (0.0, 1999), (1.0, 1999)])
def test_an_alpha_out_of_reach_is_refused(alpha: float, permutations: int) -> None:
    columns = {"a": np.arange(50)}
    with pytest.raises(ValueError, match="cannot reach alpha"):
        drift_test(columns, columns, alpha=alpha, permutations=permutations, rng=np.random.default_rng(21))


def test_a_misnamed_category_is_refused() -> None:
    columns = {"a": np.arange(50)}
    with pytest.raises(ValueError, match="not among the columns"):
        drift_test(columns, columns, categorical=["b"], rng=np.random.default_rng(22))
