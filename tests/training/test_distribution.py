"""How numbers are spread: strata, contradictions, oddities. Labels are looked at in test_checks.py."""

import re

import numpy as np
import pytest

from regraft.answers import Labels, Numbers, in_words
from regraft.sections import Data
from training.data import PARTS, Parts, Row
from training.distribution import answers_in, distribution_of
from training.split import grouped, split

NUMBERS = distribution_of(Numbers())


def rows(count: int) -> list[Row]:
    values = np.random.default_rng(0).lognormal(size=count)
    return [Row(f"{n:04}", f"text {n}", f"{value:.4f}", f"a.csv:{n}") for n, value in enumerate(values)]


def test_the_split_holds_as_many_small_and_large_numbers_in_each_part() -> None:
    parts = split(grouped(rows(1000), None).groups, Data(files=("none",)), NUMBERS.strata)
    assert [len(part) for part in parts] == [700, 150, 150]
    for share in (0.1, 0.5, 0.9):
        found = [np.quantile([float(row.label) for row in part], share) for part in parts]
        assert max(found) < 1.15 * min(found), share
    assert parts == split(grouped(rows(1000)[::-1], None).groups, Data(files=("none",)), NUMBERS.strata)
    assert Parts._fields == PARTS


@pytest.mark.parametrize(("values", "strata"), [(range(100), 10), (range(12), 2), ([7] * 90 + [8] * 10, 2), ([], 0)])
def test_there_are_fewer_strata_where_rows_are_few_or_alike(values: list[int], strata: int) -> None:
    found = NUMBERS.strata([str(value) for value in values])
    assert len(set(found)) == strata


def test_an_input_contradicts_itself_only_by_more_than_all_differ() -> None:
    labels = ["0", "1", "2", "3", "4"]  # their deviation is 1.41
    contradict = NUMBERS.contradiction(labels)
    assert not contradict(["1", "2.4"])
    assert contradict(["1", "2.5"])
    assert distribution_of(Labels(("a", "b"))).contradiction([])(["a", "b"])


def test_numbers_that_are_all_the_same_or_mostly_one_are_said() -> None:
    assert NUMBERS.errors(["3", "3"], 1e-3) == [
        "all rows have the same number, or there are none: nothing can be learned"
    ]
    assert NUMBERS.errors([], 1e-3) != []
    assert NUMBERS.errors(["3", "4"], 1e-3) == []
    said = NUMBERS.notes(["0"] * 6 + ["1", "2", "3"], Parts([], [], []))
    assert said == ["6 of 9 numbers are 0: is it a number at all, or whether it is 0?"]


def offset(center: float, deviation: float) -> list[str]:
    return [in_words(center + sign * deviation) for sign in (-1, 1)] * 10


def test_numbers_that_float32_does_not_tell_apart_are_refused_with_the_way_out() -> None:
    """Two steps of 24 bits are a thousandth of a deviation at 4194 deviations."""
    for center, deviation in ((2020, 10), (2020, 0.5), (-4100, 1), (0, 1e-9)):
        assert NUMBERS.errors(offset(center, deviation), 1e-3) == [], center
    for center, deviation in ((2020, 0.01), (-4200, 1), (1_700_000_000, 3600)):
        (said,) = NUMBERS.errors(offset(center, deviation), 1e-3)
        assert f"subtract a constant, such as {center}, from all of them" in said
    assert NUMBERS.errors(offset(2020, 0.01), 1e-1) == []


def test_planted_numbers_that_are_far_out_are_found_and_little_else() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 6, 400)
    good, bad = ([f"{kind}{n}" for n in range(5)] for kind in ("good", "bad"))
    texts = [" ".join(rng.permutation([*good[:n], *bad[n:], f"word{i}"])) for i, n in enumerate(counts)]
    values = counts + rng.normal(0, 0.3, 400)
    planted = set(range(0, 400, 40))
    labelled = [
        Row(str(i), text, f"{2020 + value + (5 if i in planted else 0):.3f}", f"a.csv:{i}")
        for i, (text, value) in enumerate(zip(texts, values, strict=True))
    ]
    found = NUMBERS.suspects(labelled, seed=0, looks=None)
    places = {one.split(":")[1] for one in found[:10]}
    assert len(places & {str(i) for i in planted}) >= 9
    assert len(found) <= 12
    said = r" is 20\d\d\.\d+; about 20\d\d\.\d{1,2} is likelier \(.+ times as far off as is usual\)"
    assert re.search(said, found[0])
    assert NUMBERS.suspects(labelled[:10], seed=0, looks=None) == []


def test_the_card_says_what_the_task_answered_with() -> None:
    allowed = Numbers(minimum=0, maximum=5)
    card = distribution_of(allowed).card(["1", "2", "3"])
    assert card["values"]["mean"] == 2
    assert answers_in(card) == allowed
    assert answers_in(distribution_of(Labels(("a", "b"))).card(["a"])) == Labels(("a", "b"))
    assert NUMBERS.in_words(["1", "2", "3"]) == "1 to 3, mean 2, half of them from 1.5 to 2.5"
    assert NUMBERS.in_words([]) == "no numbers"
