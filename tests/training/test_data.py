import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft.errors import DataError
from regraft.task import Task
from training.data import read, same_text, spread


def task_of(folder: Path, content: bytes, name: str = "data.csv", **data: Any) -> Task:
    (folder / name).write_bytes(content)
    return Task.model_validate(
        {
            "name": "tiny",
            "labels": ["no", "yes"],
            "backbone": {"source": "none"},
            "data": {"files": [str(folder / name)], "columns": {"id": "id"}} | data,
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
    assert table.rows[0].input == 'one\r\nand "more"'
    assert [row.place for row in table.bad] == ["data.csv:6"]


def test_a_byte_order_mark_belongs_to_no_column(tmp_path: Path) -> None:
    assert len(read(task_of(tmp_path, b"\xef\xbb\xbf" + GOOD)).rows) == 2


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.csv:1: no column 'label'; there are id, text"):
        read(task_of(tmp_path, b"id,text\n1,one\n"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.csv: cannot be read"):
        read(task_of(tmp_path, GOOD, files=[str(tmp_path / "other_data.csv")]))


def test_a_folder_is_no_data_of_a_task_for_texts(tmp_path: Path) -> None:
    (tmp_path / "folder" / "yes").mkdir(parents=True)
    (tmp_path / "folder" / "yes" / "one.txt").write_text("one")
    with pytest.raises(DataError, match="folder: is a folder, and only images are read from folders"):
        read(task_of(tmp_path, GOOD, files=[str(tmp_path / "folder")]))
    with pytest.raises(DataError, match="gone: does not exist"):
        read(task_of(tmp_path, GOOD, files=[str(tmp_path / "gone")]))


def test_things_are_spread_from_the_first_to_the_last() -> None:
    assert spread("abcdefg", 3) == ["a", "d", "g"]
    assert spread("ab", 3) == ["a", "b"]
    assert spread("", 3) == []


def test_case_and_white_space_make_no_other_text() -> None:
    assert same_text(" Straße\n  Nr. 1 ") == same_text("STRASSE nr. 1")


def test_an_empty_file_has_no_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are none"):
        read(task_of(tmp_path, b""))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": 3, "text": "", "label": "yes"}', "the column 'text' is empty"),
        (b'{"id": 3, "text": null, "label": "yes"}', "the column 'text' is empty"),
        (b'{"id": 3, "text": 3, "label": "yes"}', "the column 'text' holds int instead of text"),
        (b'{"id": [3], "text": "three", "label": "yes"}', "the column 'id' holds list, which is neither"),
        (b'{"id": null, "text": "three", "label": "yes"}', "the column 'id' is empty"),
        (b'{"id": 3, "text": "three"}', "has no 'label'"),
        (b'{"id": 3, "text": "three", "label": null}', "unknown label ''; the task has no, yes"),
        (b'{"id": 3, "text": "\\ud800", "label": "yes"}', "the column 'text' holds half of a surrogate pair, "),
        (b'{"id": 3, "text": "caf\xe9", "label": "yes"}', "is not UTF-8"),
        (b'{"id": 3', "is not JSON: Expecting ',' delimiter: line 2 column 1 (char 9)"),
        (b"[" * 100_000, "is not JSON: maximum recursion depth exceeded"),
        (b"[3]", "is no JSON object"),
        (b'{"id": 1, "text": "again", "label": "yes"}', "the id '1' is that of data.jsonl:1 too"),
    ],
)
def test_a_bad_line_of_json_is_listed_with_its_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    good = b'{"id": 1, "text": "one", "label": "yes", "more": {}}\n\n'
    table = read(task_of(tmp_path, good + line + b'\n{"id": "4", "text": "four", "label": "no"}', "data.jsonl"))
    (bad,) = table.bad
    assert bad.place == "data.jsonl:3"
    assert bad.reason.startswith(reason)
    assert [(row.id, row.place) for row in table.rows] == [("1", "data.jsonl:1"), ("4", "data.jsonl:4")]


def test_parquet_gives_rows_by_their_number(tmp_path: Path) -> None:
    columns = {"id": [1, 2, 3], "text": ["one", None, "three"], "label": ["yes", "no", "no"], "more": [1, 2, 3]}
    pq.write_table(pa.table(columns), tmp_path / "made.parquet")
    table = read(task_of(tmp_path, (tmp_path / "made.parquet").read_bytes(), "data.parquet"))
    assert [str(row) for row in table.bad] == ["data.parquet:2: the column 'text' is empty"]
    assert [(row.id, row.input, row.place) for row in table.rows] == [
        ("1", "one", "data.parquet:1"), ("3", "three", "data.parquet:3"),
    ]  # fmt: skip


def test_a_table_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.parquet: is not Parquet"):
        read(task_of(tmp_path, b"no", "data.parquet"))
    with pytest.raises(DataError, match=r"data files are .csv, .jsonl, .ndjson, .parquet"):
        read(task_of(tmp_path, b"no", "data.xls"))
    pq.write_table(pa.table({"id": ["1"], "text": ["one"]}), tmp_path / "made.parquet")
    with pytest.raises(DataError, match=r"data.parquet: no column 'label'; there are id, text"):
        read(task_of(tmp_path, (tmp_path / "made.parquet").read_bytes(), "data.parquet"))


@pytest.mark.parametrize(
    ("said", "moment"),
    [
        ("2026-05-01", "2026-05-01T00:00:00.000000+00:00"),
        ("2026-05-01T10:30:00+02:00", "2026-05-01T08:30:00.000000+00:00"),
        ("2026-05-01T10:30:00Z", "2026-05-01T10:30:00.000000+00:00"),
        (1777593600, "2026-05-01T00:00:00.000000+00:00"),
        ("1777593600.5", "2026-05-01T00:00:00.500000+00:00"),
    ],
)
def test_times_are_read_in_utc(tmp_path: Path, said: str | int, moment: str) -> None:
    line = json.dumps({"id": 1, "text": "one", "label": "yes", "at": said}).encode()
    (row,) = read(task_of(tmp_path, line, "data.jsonl", columns={"time": "at"})).rows
    assert row.time == moment


def test_times_of_parquet_are_read_and_what_is_no_time_is_a_bad_row(tmp_path: Path) -> None:
    for name, values in {"dates": [date(2026, 5, 1)], "moments": [datetime(2026, 5, 1)]}.items():  # noqa: DTZ001
        pq.write_table(pa.table({"text": ["one"], "label": ["yes"], "at": values}), tmp_path / name)
        task = task_of(tmp_path, (tmp_path / name).read_bytes(), f"{name}.parquet", columns={"time": "at"})
        assert read(task).rows[0].time == "2026-05-01T00:00:00.000000+00:00"
    task = task_of(tmp_path, b"text,label,at\none,yes,yesterday\ntwo,no,\n", columns={"time": "at"})
    assert [row.reason for row in read(task).bad] == [
        "the column 'at' holds 'yesterday', which is no time (ISO 8601)",
        "the column 'at' holds '', which is no time (ISO 8601)",
    ]


def test_conditions_groups_and_parts_are_read_where_the_task_names_them(tmp_path: Path) -> None:
    columns = {"conditions": ["shop", "month"], "group": "user", "part": "part"}
    content = b"text,label,shop,month,user,part\none,yes,web,5,u1,test\ntwo,no,,5,,dev\nthree,no,,,,train\n"
    table = read(task_of(tmp_path, content, columns=columns))
    assert [(row.conditions, row.group, row.part) for row in table.rows] == [
        ({"shop": "web", "month": "5"}, "u1", "test"),
        ({"shop": "", "month": ""}, None, "train"),
    ]
    assert [row.reason for row in table.bad] == ["unknown part 'dev'; there are train, validation, test"]
