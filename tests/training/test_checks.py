import re
from pathlib import Path

import pytest

from regraft.errors import DataError
from regraft.task import Task
from tests.training.test_data import GOOD, task_of
from training.checks import refuse, refuse_leaks
from training.data import Parts, Row
from training.dataset import examine, read_dataset
from training.split import grouped

ENOUGH = b"id,text,label\n" + b"".join(b"%d,text %d,%s\n" % (n, n, (b"yes", b"no")[n % 2]) for n in range(12))


def said(task: Task) -> str:
    return "\n".join(examine(task).findings.lines())


def test_training_stops_when_too_many_rows_are_bad(tmp_path: Path) -> None:
    content = ENOUGH + b"x,three,yes\ny,four,no\nz,five,maybe\n"
    read_dataset(task_of(tmp_path, content, maximum_bad_rows=0.07))
    with pytest.raises(DataError, match=r"1 of 15 rows are bad(.|\n)*data.csv:16: unknown label 'maybe'"):
        read_dataset(task_of(tmp_path, content, maximum_bad_rows=0.06))


def test_a_label_with_fewer_than_two_rows_stops_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer than 2 rows of label 'no', 'yes'"):
        read_dataset(task_of(tmp_path, GOOD))


def test_an_empty_part_stops_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the validation part is empty\nthe test part is empty"):
        read_dataset(task_of(tmp_path, GOOD + b"3,three,yes\n4,four,no\n"))


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    findings = examine(task_of(tmp_path, b"id,text,label\n1,,no\n")).findings
    assert len(findings.errors) == 2 + 2 + 3 - 1
    with pytest.raises(DataError, match=r"1 of 1 rows are bad(.|\n)*fewer than 2(.|\n)*the train part is empty"):
        refuse(findings)


def test_repeats_conflicts_imbalance_and_few_rows_are_said(tmp_path: Path) -> None:
    many = b"".join(b"a%d,text %d,yes\n" % (n, n) for n in range(30))
    lines = said(task_of(tmp_path, GOOD + many + b"x,ONE,yes\ny,  one ,no\n"))
    assert "34 rows: 2 no, 32 yes" in lines
    assert "rows that repeat an input: 2; each input stands in one part only" in lines
    assert "'one' is yes at data.csv:2, data.csv:34; no at data.csv:35" in lines
    assert "only 34 labelled rows" in lines
    assert "contrastive few-shot training" in lines
    assert "imbalance: 'yes' is 16 times as frequent as 'no'" in lines


def test_near_duplicates_and_large_groups_are_said(tmp_path: Path) -> None:
    alike = b"".join(b"a%d,the parcel that I was sent on Monday never came %d,yes\n" % (n, n) for n in range(4))
    lines = said(task_of(tmp_path, GOOD + alike))
    assert re.search(
        r"rows that nearly repeat another \(3\):\n  data.csv:\d and data.csv:\d: 9\d% the same text\n", lines
    )
    assert "4 rows, among them data.csv:4, belong together and stand in one part" in lines


def test_a_label_that_a_part_lacks_is_named(tmp_path: Path) -> None:
    content = b"text,label,at\n" + b"".join(
        b"text %d,%s,2026-05-%02d\n" % (n, b"no" if n < 15 else b"yes", n + 1) for n in range(20)
    )
    lines = said(task_of(tmp_path, content, columns={"time": "at"}, split="time"))
    assert "no row of label 'no' in the test part" in lines
    assert "no row of label 'yes' in the validation part" not in lines


def test_long_lists_are_cut(tmp_path: Path) -> None:
    task = task_of(tmp_path, GOOD + b"".join(b"b%d,,yes\n" % n for n in range(30)))
    assert "  ... and 10 more" in said(task).splitlines()


def test_a_leak_is_refused() -> None:
    rows = [Row("1", "One", "yes", "data.csv:2"), Row("2", " one", "yes", "data.csv:3")]
    with pytest.raises(DataError, match=r"data.csv:2 and data.csv:3: the same text \(train and test\)"):
        refuse_leaks(grouped(rows, None), Parts(rows[:1], [], rows[1:]))


def test_where_people_parted_a_repeat_nothing_else_is_said_of_it(tmp_path: Path) -> None:
    content = b"text,label,part\none,yes,train\none,yes,test\ntwo,no,validation\n"
    lines = said(task_of(tmp_path, content, columns={"part": "part"})).splitlines()
    assert "rows that repeat an input: 1" in lines


def test_findings_are_json_too(tmp_path: Path) -> None:
    found = examine(task_of(tmp_path, ENOUGH + b"y,,no\nz,TEXT 1,no\n")).findings.as_json()
    assert found["counts"] == {"no": 7, "yes": 6}
    assert found["bad"] == ["data.csv:14: the column 'text' is empty"]
    assert found["parts"]["test"]["rows"] == 2
    assert found["errors"][0].startswith("1 of 14 rows are bad")
