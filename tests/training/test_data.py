from pathlib import Path
from typing import Any

import pytest

from regraft.errors import DataError
from regraft.task import Columns, Data, Task
from tests.training.conftest import examples
from training.checks import inspect, refuse, refuse_leaks
from training.data import Parts, Row, Table, data_card, read, same_text, split, split_hash


def task_of(folder: Path, content: bytes, **data: Any) -> Task:
    (folder / "data.csv").write_bytes(content)
    return Task.model_validate(
        {
            "name": "tiny",
            "labels": ["no", "yes"],
            "backbone": {"source": "none"},
            "data": {"files": [str(folder / "data.csv")], "columns": {"id": "id"}} | data,
            "serving": {"max_characters": 100},
        }
    )


GOOD = b"id,text,label\n1,one,yes\n2,two,no\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"3,,yes", "the column 'text' is empty"),
        (b"3,  ,yes", "the column 'text' is empty"),
        (b"3,three,maybe", "unknown label 'maybe'; the task has no, yes"),
        (b"3,three", "2 fields instead of 3"),
        (b"3,three,yes,more", "4 fields instead of 3"),
        (b"3,caf\xe9,yes", "is not UTF-8"),
        (b"1,again,yes", "the id '1' is that of data.csv:2 too"),
        (b"3," + b"x" * 101 + b",yes", "101 characters; serving.max_characters is 100"),
        (b"3," + b"x" * 200_000 + b",yes", "is not CSV: field larger than field limit (131072)"),
    ],
)
def test_a_bad_row_is_listed_with_its_line_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    table = read(task_of(tmp_path, GOOD + line + b"\n4,four,no\n"))
    assert [str(row) for row in table.bad] == [f"data.csv:4: {reason}"]
    assert [row.id for row in table.rows] == ["1", "2", "4"]


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    content = b'id,text,label\r\n1,"one\r\nand ""more""",yes\r\n\r\n2,two\x0bhalf,no\r\n3,,no\r\n'
    table = read(task_of(tmp_path, content))
    assert [row.place for row in table.rows] == ["data.csv:2", "data.csv:5"]
    assert table.rows[0].text == 'one\r\nand "more"'
    assert [row.line for row in table.bad] == [6]


def test_a_byte_order_mark_belongs_to_no_column(tmp_path: Path) -> None:
    assert len(read(task_of(tmp_path, b"\xef\xbb\xbf" + GOOD)).rows) == 2


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.csv:1: no column 'label'; there are id, text"):
        read(task_of(tmp_path, b"id,text\n1,one\n"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.csv: cannot be read"):
        read(task_of(tmp_path, GOOD, files=[str(tmp_path / "other_data.csv")]))


def test_training_stops_when_too_many_rows_are_bad(tmp_path: Path) -> None:
    content = GOOD + b"3,three,yes\n4,four,no\n5,five,maybe\n"
    allowed = task_of(tmp_path, content, maximum_bad_rows=0.2)
    refuse(allowed, inspect(allowed, read(allowed)))
    strict = task_of(tmp_path, content, maximum_bad_rows=0.19)
    with pytest.raises(DataError, match=r"1 of 5 rows are bad(.|\n)*data.csv:6: unknown label 'maybe'"):
        refuse(strict, inspect(strict, read(strict)))


def test_a_label_with_fewer_than_two_rows_stops_training(tmp_path: Path) -> None:
    task = task_of(tmp_path, GOOD)
    with pytest.raises(DataError, match="fewer than 2 rows of label 'no', 'yes'"):
        refuse(task, inspect(task, read(task)))


def test_repeats_conflicts_imbalance_and_few_rows_are_said(tmp_path: Path) -> None:
    many = b"".join(b"a%d,text %d,yes\n" % (n, n) for n in range(30))
    task = task_of(tmp_path, GOOD + many + b"x,ONE,yes\ny,  one ,no\n")
    said = "\n".join(inspect(task, read(task)).lines())
    assert "34 rows: 2 no, 32 yes" in said
    assert "2 rows repeat a text" in said
    assert "'one' is yes at data.csv:2, data.csv:34; no at data.csv:35" in said
    assert "only 34 labelled rows" in said
    assert "imbalance: 'yes' is 16 times as frequent as 'no'" in said


def test_long_lists_are_cut(tmp_path: Path) -> None:
    task = task_of(tmp_path, GOOD + b"".join(b"b%d,,yes\n" % n for n in range(30)))
    assert "  ... and 10 more" in inspect(task, read(task)).lines()


ROWS = [Row(id_, text, label, id_) for id_, text, label in examples(300)]


def test_the_split_is_stratified_and_takes_its_shares() -> None:
    parts = split(ROWS, Data(files=("none",)))
    assert [len(part) for part in parts] == [210, 45, 45]
    assert [sum(row.label == "neutral" for row in part) for part in parts] == [70, 15, 15]


def test_the_split_does_not_depend_on_the_order_of_rows() -> None:
    data = Data(files=("none",), seed=3)
    assert split(ROWS, data) == split(ROWS[::-1], data)
    assert split_hash(split(ROWS, data)) != split_hash(split(ROWS, Data(files=("none",), seed=4)))


def test_a_row_that_is_added_moves_few_others() -> None:
    data = Data(files=("none",))
    before, after = split(ROWS, data), split([*ROWS, Row("new", "something new", "neutral", "new")], data)
    moved = {row.id for row in before.test} ^ {row.id for row in after.test}
    assert len(moved) <= 2


def test_equal_texts_and_groups_stay_together_directly_or_by_way_of_others() -> None:
    groups = [Row(f"g{n}", f"text {n % 50}", "neutral", "", group=f"group {n // 20}") for n in range(200)]
    parts = split([*ROWS, *groups], Data(files=("none",), columns=Columns(group="group")))
    refuse_leaks(parts)
    where = {row.group: name for name, part in parts._asdict().items() for row in part if row.group}
    for name, part in parts._asdict().items():
        assert all(where[row.group] == name for row in part if row.group)


def test_a_leak_is_refused() -> None:
    row = Row("1", "One", "yes", "data.csv:2")
    with pytest.raises(DataError, match=r"data.csv:3: the text is in train and in test too"):
        refuse_leaks(Parts([row], [], [Row("2", " one", "yes", "data.csv:3")]))


def test_a_label_of_three_rows_is_in_every_part() -> None:
    rows = [Row(str(n), f"text {n}", "yes", "") for n in range(3)]
    assert [len(part) for part in split(rows, Data(files=("none",)))] == [1, 1, 1]


def test_the_data_card_says_enough_to_make_the_split_again(tmp_path: Path) -> None:
    task = task_of(tmp_path, GOOD + b"3,three,yes\n4,four,no\n5,,no\n")
    table = read(task)
    card = data_card(task, table, split(table.rows, task.data))
    assert card["labels"] == {"yes": 2, "no": 2}
    assert card["bad_rows"] == ["data.csv:6: the column 'text' is empty"]
    assert card["split_sha256"] == split_hash(
        split(read(task).rows, task.data.model_copy(update={"seed": card["seed"]}))
    )
    assert len(card["files"][0]["sha256"]) == 64


def test_case_and_white_space_make_no_other_text() -> None:
    assert same_text(" Straße\n  Nr. 1 ") == same_text("STRASSE nr. 1")


def test_an_empty_file_has_no_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are none"):
        read(task_of(tmp_path, b""))


def test_an_empty_table_is_refused_and_not_divided_by(tmp_path: Path) -> None:
    task = task_of(tmp_path, b"id,text,label\n")
    with pytest.raises(DataError, match="fewer than 2 rows"):
        refuse(task, inspect(task, Table([], [], {})))
