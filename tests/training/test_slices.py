import io

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from training.slices import (
    ALPHA,
    Condition,
    by_rate,
    by_size,
    by_size_of,
    by_time,
    by_value,
    holm,
    measure,
    of_images,
    of_texts,
    proportion,
)


def conditions(rng: np.random.Generator, rows: int) -> list[Condition]:
    """Overlapping ways to part rows, none of which has to do with errors."""
    return [
        by_value(f"column {number}", [f"value {place}" for place in rng.integers(0, 4, rows)]) for number in range(5)
    ]


def test_chance_names_a_slice_as_rarely_as_is_promised() -> None:
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(400):
        right = rng.random(300) < 0.8
        alarms += any(one.fails for one in measure(by_rate(right), conditions(rng, 300)))
    assert alarms / 400 < ALPHA + 0.02


def test_a_slice_that_fails_is_named_and_no_other_one() -> None:
    rng = np.random.default_rng(1)
    source = rng.integers(0, 4, 600)
    right = rng.random(600) < np.where(source == 2, 0.5, 0.85)
    found = measure(by_rate(right), [by_value("source", [f"shop {place}" for place in source]), *conditions(rng, 600)])
    (failing,) = [one for one in found if one.fails]
    assert (failing.condition, failing.value) == ("source", "shop 2")
    assert failing.rows == np.sum(source == 2)
    assert failing.figure.value == np.mean(right[source == 2])
    assert failing.elsewhere == np.mean(right[source != 2])
    assert failing.figure.low < failing.figure.value < failing.figure.high


def test_better_than_elsewhere_is_no_failure() -> None:
    right = np.array([False] * 90 + [True] * 30)
    found = measure(by_rate(right), [by_value("source", ["a"] * 90 + ["b"] * 30)])
    assert {one.value: one.fails for one in found} == {"a": True, "b": False}


def test_numbers_that_are_off_by_less_on_average_do_not_fail_by_their_ranks() -> None:
    errors = np.array([1.0] * 50 + [0.5] * 45 + [100.0] * 5)
    sources = by_value("source", ["a"] * 50 + ["b"] * 50)
    a, b = measure(by_size_of(errors), [sources])
    assert a.figure.value < a.elsewhere
    assert not a.fails
    assert not b.fails
    a, b = measure(by_size_of(errors.clip(max=0.9)), [sources])
    assert (a.fails, b.fails) == (True, False)


def test_slices_of_few_rows_or_of_nearly_all_are_left_out() -> None:
    right = np.ones(100, dtype=bool)
    assert measure(by_rate(right), [by_value("source", ["a"] * 95 + ["b"] * 5)]) == []
    assert measure(by_rate(right), [by_value("source", [None] * 100)]) == []


def test_holm_multiplies_by_how_many_are_left_and_never_turns_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("right", "rows"), [(10, 10), (0, 10), (7, 20), (500, 1000)])
def test_shares_have_the_interval_of_wilson(right: int, rows: int) -> None:
    metric, wilson = proportion(right, rows), binomtest(right, rows).proportion_ci(method="wilson")
    assert (metric.value, metric.low, metric.high) == pytest.approx((right / rows, wilson.low, wilson.high), abs=1e-4)


def test_sizes_are_parted_into_like_many_rows_and_named_by_their_ends() -> None:
    words = by_size("words", list(range(1, 101)))
    assert words.values == ["1 to 26", "27 to 51", "52 to 76", "77 to 100"]
    assert np.bincount(words.places).tolist() == [26, 25, 25, 24]
    assert by_size("words", [3] * 10).values == ["3"]


def test_times_are_parted_into_periods_named_by_their_days() -> None:
    days = [f"2026-0{month}-{day:02}T12:00:00+00:00" for month in (1, 2) for day in range(1, 21)]
    periods = by_time([None, *days])
    assert periods.values[0] == "2026-01-01 to 2026-01-11"
    assert periods.values[-1] == "2026-02-12 to 2026-02-20"
    assert periods.places[0] == -1
    assert np.bincount(periods.places[1:]).tolist() == [11, 10, 10, 9]
    assert by_time([None, None]).values == []


def test_texts_are_parted_by_length_and_by_what_is_in_them() -> None:
    found = {one.name: one for one in of_texts(["one two", "THREE?", "vier ä", "5!"])}
    named = {name: [one.values[place] for place in one.places] for name, one in found.items()}
    assert named["a question mark"] == ["without", "with", "without", "without"]
    assert named["many capitals"] == ["without", "with", "without", "without"]
    assert named["letters beyond ASCII"] == ["without", "without", "with", "without"]
    assert named["digits"] == ["without", "without", "without", "with"]
    assert named["words"] == ["2", "1", "2", "1"]


def test_images_are_parted_by_quality_and_size() -> None:
    contents = []
    for number in range(40):
        file = io.BytesIO()
        Image.new("RGB", (20 + number, 20), (6 * number,) * 3).save(file, "PNG")
        contents.append(file.getvalue())
    found = {one.name: one for one in of_images(contents)}
    assert found["brightness"].values[0] == "0.00 to 0.24"
    assert found["pixels"].values[-1] == "1,020 to 1,180"
    assert found["sharpness"].values == ["0.000"]
    assert np.bincount(found["brightness"].places).tolist() == [11, 10, 10, 9]
