import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from regraft.errors import DataError
from regraft.sections import Columns, Data
from regraft.task import Task
from tests.training.conftest import examples
from tests.training.test_data import GOOD, task_of
from training.data import PARTS, Parts, Row, split_hash
from training.dataset import examine, read_card, split_again
from training.split import grouped, leaks, split

ROWS = [Row(id_, text, label, id_) for id_, text, label in examples(300)]


def parts_of(rows: Sequence[Row], near_duplicates: float | None = None, **options: Any) -> Parts:
    return split(grouped(rows, near_duplicates).groups, Data(files=("none",), **options))


def test_the_split_is_stratified_and_takes_its_shares() -> None:
    parts = parts_of(ROWS)
    assert [len(part) for part in parts] == [210, 45, 45]
    assert [sum(row.label == "neutral" for row in part) for part in parts] == [70, 15, 15]


def test_the_split_does_not_depend_on_the_order_of_rows() -> None:
    assert parts_of(ROWS, 0.8, seed=3) == parts_of(ROWS[::-1], 0.8, seed=3)
    assert split_hash(parts_of(ROWS, seed=3)) != split_hash(parts_of(ROWS, seed=4))


def test_a_row_that_is_added_moves_few_others() -> None:
    before, after = parts_of(ROWS), parts_of([*ROWS, Row("new", "something new", "neutral", "new")])
    moved = {row.id for row in before.test} ^ {row.id for row in after.test}
    assert len(moved) <= 2


def in_groups(seed: int, sizes: tuple[int, int] = (1, 12)) -> list[Row]:
    """Some 1,000 rows of three labels, one of them rare, in groups that lean to one label each."""
    generator = random.Random(seed)
    rows: list[Row] = []
    while len(rows) < 1000:
        leaning = generator.choice(["a", "b"])
        for _ in range(generator.randint(*sizes)):
            label = "rare" if generator.random() < 0.03 else leaning if generator.random() < 0.8 else "a"
            rows.append(Row(f"{len(rows):04}", f"text {len(rows)}", label, "", group=f"group {len(rows) // 7}"))
    return rows


@pytest.mark.parametrize("seed", range(8))
def test_no_group_is_in_two_parts_and_labels_are_nearly_as_frequent_in_each(seed: int) -> None:
    rows = in_groups(seed)
    parts = parts_of(rows, seed=seed, columns=Columns(group="group"))
    where: dict[str | None, str] = {}
    for name, part in zip(PARTS, parts, strict=True):
        assert all(where.setdefault(row.group, name) == name for row in part)
    totals = Counter(row.label for row in rows)
    for part, share in zip(parts, (0.7, 0.15, 0.15), strict=True):
        for label, n in Counter(row.label for row in part).items():
            assert abs(n - share * totals[label]) <= max(0.05 * totals[label], 7)  # a group has 7 rows


def test_equal_texts_and_groups_stay_together_directly_or_by_way_of_others() -> None:
    chained = [Row(f"g{n}", f"text {n % 50}", "neutral", "", group=f"group {n // 20}") for n in range(200)]
    found = grouped([*ROWS, *chained], None)
    parts = split(found.groups, Data(files=("none",)))
    assert leaks(found.links, parts) == []
    assert len({name for name, part in zip(PARTS, parts, strict=True) for row in part if row.group}) == 1


def test_near_duplicates_stay_together() -> None:
    texts = [f"the parcel of {row.input} never came to the house of my aunt" for row in ROWS[:30]]
    rows = [
        Row(f"{n}-{k}", text + "!" * k, "a", f"{n}-{k}") for n, text in enumerate(texts) for k in range(3)
    ]  # fmt: skip
    found = grouped(rows, 0.9)
    assert sorted(map(len, found.groups)) == [3] * 30
    assert leaks(found.links, split(found.groups, Data(files=("none",)))) == []
    assert any("the same text" in str(link) and "%" in str(link) for link in found.links)


def test_a_group_larger_than_the_test_part_does_not_fill_it() -> None:
    rows = [Row(str(n), f"text {n}", "a", "", group="large" if n < 60 else None) for n in range(100)]
    parts = parts_of(rows, columns=Columns(group="group"))
    assert [len(part) for part in parts] == [70, 15, 15]


def test_three_large_groups_are_one_for_each_part() -> None:
    rows = [Row(str(n), f"text {n}", "a", "", group=str(n % 3)) for n in range(300)]
    assert [len(part) for part in parts_of(rows, columns=Columns(group="group"))] == [100, 100, 100]


def test_a_label_of_three_rows_is_in_every_part_and_of_two_is_learned() -> None:
    for count, sizes in ((3, [1, 1, 1]), (2, [2, 0, 0])):
        assert [len(part) for part in parts_of([Row(str(n), f"text {n}", "a", "") for n in range(count)])] == sizes


def test_the_newest_rows_are_the_test_part() -> None:
    rows = [row._replace(time=f"2026-05-{n // 20 + 1:02}", group=None) for n, row in enumerate(ROWS)]
    random.Random(0).shuffle(rows)
    parts = parts_of(rows, split="time", columns=Columns(time="at"))
    assert [len(part) for part in parts] == [210, 45, 45]
    assert max(row.time or "" for row in parts.train) <= min(row.time or "" for row in parts.validation)
    assert max(row.time or "" for row in parts.validation) <= min(row.time or "" for row in parts.test)


def test_a_group_is_as_new_as_its_newest_row() -> None:
    rows = [Row(f"{n:02}", f"text {n}", "a", "", time=f"2026-05-{n + 1:02}") for n in range(20)]
    rows[0] = rows[0]._replace(group="one")
    rows[19] = rows[19]._replace(group="one")
    parts = parts_of(rows, split="time", columns=Columns(time="at", group="group"))
    assert [row.id for row in parts.test] == ["00", "18", "19"]
    assert [row.id for row in parts.validation] == ["15", "16", "17"]


def test_parts_that_the_data_names_are_kept_and_their_leaks_named(tmp_path: Path) -> None:
    lines = [f"{n},text of row {n} with more,{('yes', 'no')[n % 2]},{PARTS[n % 3]}" for n in range(12)]
    content = "\n".join(["id,text,label,part", *lines, "x,Text of row 0  with more,yes,test", ""]).encode()
    task = task_of(tmp_path, content, columns={"id": "id", "part": "part"}, near_duplicates=None)
    examined = examine(task)
    assert [row.id for row in examined.parts.test] == ["11", "2", "5", "8", "x"]
    assert examined.findings.errors == [
        "at least 1 pairs of rows stand in two parts and should not: what is measured would be too good:",
        "  data.csv:2 and data.csv:14: the same text (train and test)",
    ]
    near = task.model_copy(update={"data": task.data.model_copy(update={"near_duplicates": 0.7})})
    assert "72% the same text (validation and test)" in "\n".join(examine(near).findings.errors)


def test_the_same_card_makes_the_same_split_whatever_the_task_says_by_now(tmp_path: Path) -> None:
    rows = "".join(f"{id_},{text},{'yes' if label == 'positive' else 'no'}\n" for id_, text, label in examples(60))
    task = task_of(tmp_path, b"id,text,label\n" + rows.encode() + b"5,,no\n", seed=5, maximum_bad_rows=0.1)
    examined = examine(task)
    (tmp_path / "card.json").write_text(json.dumps(examined.card))
    card = read_card(tmp_path / "card.json")
    assert (card["labels"], card["rows"]) == ({"no": 40, "yes": 20}, 60)
    assert card["bad_rows"] == ["data.csv:62: the column 'text' is empty"]
    later = Task.model_validate(
        task.model_dump() | {"labels": ["yes", "no", "maybe"], "data": {"files": task.data.files, "seed": 6}}
    )
    assert examine(later).parts != examined.parts
    assert split_again(card, later) == examined.parts
    (tmp_path / "data.csv").write_bytes(GOOD)
    with pytest.raises(DataError, match=r"not there, or changed since the card was written: data.csv"):
        split_again(card, later)


def test_a_card_that_does_not_come_out_says_so(tmp_path: Path) -> None:
    task = task_of(tmp_path, GOOD)
    card = examine(task).card
    with pytest.raises(DataError, match="do not come out as the card says"):
        split_again(card | {"split_sha256": "0"}, task)
    for content, complaint in (("{}", "is no data card"), ("no", "cannot be read")):
        (tmp_path / "card.json").write_text(content)
        with pytest.raises(DataError, match=complaint):
            read_card(tmp_path / "card.json")
