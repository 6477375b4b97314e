"""Labelled rows in three parts that share no input, no near-duplicate and no group; or pairs that leak, by name.

rows -> groups of what belongs together -> (stratum by stratum, or by time) -> train, validation, test
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from regraft.sections import Data
from training.data import PARTS, Parts, Row
from training.duplicates import Sets
from training.lookalikes import Looks, alike


class Link(NamedTuple):
    """Two rows that belong in one part, and why."""

    first: Row
    second: Row
    why: str

    def __str__(self) -> str:
        return f"{self.first.place} and {self.second.place}: {self.why}"


class Groups(NamedTuple):
    groups: list[list[Row]]
    links: list[Link]  # enough of them to connect every group


class Stratified(NamedTuple):
    """A group, and the strata of its labels."""

    rows: Sequence[Row]
    strata: set[str]


Strata = Callable[[Sequence[str]], Sequence[str]]  # labels -> the stratum of each


class Leak(NamedTuple):
    link: Link
    parts: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.link} ({self.parts[0]} and {self.parts[1]})"


def grouped(rows: Sequence[Row], near_duplicates: float | None, looks: Looks | None = None) -> Groups:
    """Rows joined by input, by likeness or by group id, directly or by way of others; `looks` are of images."""
    rows = sorted(rows, key=lambda row: row.id)
    sets, links = Sets(len(rows)), []
    for first, second, why in _belonging(rows, near_duplicates, looks or {}):
        if sets.join(first, second):
            links.append(Link(rows[first], rows[second], why))
    groups: dict[int, list[Row]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[sets.find(index)].append(row)
    return Groups(list(groups.values()), links)


def split(groups: Sequence[Sequence[Row]], data: Data, strata: Strata = list) -> Parts:
    """Whole groups in parts of the sizes that `data` asks for; the same for the same rows in whatever order.

    At random, strata of the labels (each label, unless said otherwise) are as frequent in each part as in all; groups
    are taken in the order of a hash of the seed and their content, so that a row that is added moves few others. By
    time, the newest groups are the test part and those before them the validation part. Parts that the data itself
    names stay as they are.
    """
    if data.columns.part:
        chosen = [[row for group in groups for row in group if row.part == name] for name in PARTS]
    elif data.split == "time":
        chosen = _by_time(groups, data)
    else:
        chosen = _by_stratum(groups, data, strata)
    return Parts(*(sorted(part, key=lambda row: row.id) for part in chosen))


def leaks(links: Sequence[Link], parts: Parts) -> list[Leak]:
    """The links that lead from one part to another. There is none if and only if no group is in two parts."""
    where = {row.id: name for name, part in zip(PARTS, parts, strict=True) for row in part}
    ends = ((link, where[link.first.id], where[link.second.id]) for link in links)
    return [Leak(link, (first, second)) for link, first, second in ends if first != second]


def _belonging(rows: Sequence[Row], near_duplicates: float | None, looks: Looks) -> Iterator[tuple[int, int, str]]:
    first_of: dict[tuple[str, str], int] = {}
    same = "the same picture" if looks else "the same text"
    for index, row in enumerate(rows):
        for kind, key in ((same, row.key), ("the same group", row.group)):
            if key and (first := first_of.setdefault((kind, key), index)) != index:
                yield first, index, kind
    if near_duplicates is not None:
        places = [index for (kind, _), index in first_of.items() if kind == same]
        keys = [rows[place].key for place in places]
        for pair in alike(keys, near_duplicates, looks):
            yield places[pair.first], places[pair.second], f"{pair.similarity:.0%} {same}"


def _by_time(groups: Sequence[Sequence[Row]], data: Data) -> list[list[Row]]:
    """A group is as new as its newest row, so nothing that is trained on is newer than a group held out."""
    train: list[Row] = []
    validation: list[Row] = []
    test: list[Row] = []
    total = sum(map(len, groups))
    newest_first = sorted(groups, key=lambda group: (max(row.time or "" for row in group), group[0].id), reverse=True)
    for group in newest_first:
        if len(test) < total * data.test:
            test.extend(group)
        elif len(validation) < total * data.validation:
            validation.extend(group)
        else:
            train.extend(group)
    return [train, validation, test]


def _by_stratum(groups: Sequence[Sequence[Row]], data: Data, strata: Strata) -> list[list[Row]]:
    """A group joins the test part if that comes nearer to its share of each stratum, else validation, else train."""
    rows = [row for group in groups for row in group]
    stratum = dict(zip((row.id for row in rows), strata([row.label for row in rows]), strict=True))
    totals = Counter(stratum.values())
    lacking = [{one: round(total * share) for one, total in totals.items()} for share in (data.test, data.validation)]
    chosen: list[list[Stratified]] = [[], [], []]  # test, validation, train
    for group in sorted(groups, key=lambda group: _rank(group, data.seed)):
        counts = Counter(stratum[row.id] for row in group)
        target = next((place for place in (0, 1) if _nearer(lacking[place], counts, totals)), 2)
        chosen[target].append(Stratified(group, set(counts)))
        if target < 2:
            lacking[target] = {one: n - counts[one] for one, n in lacking[target].items()}
    _give_each_its_strata(chosen)
    test, validation, train = ([row for group in part for row in group.rows] for part in chosen)
    return [train, validation, test]


def _nearer(lacking: dict[str, int], counts: Counter[str], totals: Counter[str]) -> bool:
    """In squared distance, each stratum's over its number of rows, so that rare labels count."""
    change = sum(((lacking[one] - n) ** 2 - lacking[one] ** 2) / totals[one] for one, n in counts.items())
    return change < 0


def _give_each_its_strata(chosen: list[list[Stratified]]) -> None:
    """Of a stratum with three groups or more, at least one is in each part: the smallest one of training moves."""
    train = chosen[2]
    left = Counter(_all_strata(train))
    often = {one for one, groups in Counter(_all_strata(chosen[0] + chosen[1] + train)).items() if groups >= 3}
    for part in chosen[:2]:
        for missing in sorted(often - set(_all_strata(part))):
            there = [group for group in train if missing in group.strata]
            if spare := [group for group in there if min(left[one] for one in group.strata) > 1]:
                smallest = min(spare, key=lambda group: len(group.rows))
                train.remove(smallest)
                part.append(smallest)
                left.subtract(smallest.strata)


def _all_strata(groups: Sequence[Stratified]) -> Iterator[str]:
    """Each stratum as often as there are groups that hold it."""
    return (one for group in groups for one in group.strata)


def _rank(group: Sequence[Row], seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{min(row.key for row in group)}".encode()).digest()
