"""From the task's data files to labelled rows in three parts that share no text and no group.

CSV files -> rows, and bad rows with the line and the reason -> groups -> train, validation, test
"""

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from regraft.errors import DataError
from regraft.task import Columns, Data, Task


class Row(NamedTuple):
    """One labelled example. `place` is where it was read: file:line, or the review that it came from."""

    id: str
    text: str
    label: str
    place: str
    group: str | None = None


class BadRow(NamedTuple):
    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class Table:
    """All that the files hold: good rows, bad rows, and the hash of each file."""

    rows: list[Row]
    bad: list[BadRow]
    files: dict[str, str]


class Parts(NamedTuple):
    train: list[Row]
    validation: list[Row]
    test: list[Row]


def read(task: Task) -> Table:
    """Every row of the task's files. Raises DataError for a file that is not there or lacks a column."""
    rows: list[Row] = []
    bad: list[BadRow] = []
    seen: dict[str, str] = {}
    for name in task.data.files:
        for row in _read_file(Path(name), task, seen):
            (bad if isinstance(row, BadRow) else rows).append(row)  # type: ignore[arg-type]
    files = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in task.data.files}
    return Table(rows, bad, files)


def same_text(text: str) -> str:
    """What texts have in common that count as the same: case and white space aside."""
    return " ".join(text.casefold().split())


def split(rows: Sequence[Row], data: Data) -> Parts:
    """Stratified by label, whole groups, the same for the same seed and rows in whatever order.

    Rows of one text or of one group id, directly or by way of others, stay together. Groups are taken in the order of
    a hash of the seed and their content, so a row that is added moves few others.
    """
    parts = Parts([], [], [])
    by_label: dict[str, list[list[Row]]] = defaultdict(list)
    for group in _groups(rows):
        by_label[group[0].label].append(group)
    for label in sorted(by_label):
        groups = sorted(by_label[label], key=lambda group: _rank(group, data.seed))
        total = sum(map(len, groups))
        wanted = [_wanted(total, data.test), _wanted(total, data.validation)]
        for group in groups:
            if wanted[0] > 0:
                target, wanted[0] = parts.test, wanted[0] - len(group)
            elif wanted[1] > 0:
                target, wanted[1] = parts.validation, wanted[1] - len(group)
            else:
                target = parts.train
            target.extend(group)
    return Parts(*(sorted(part, key=lambda row: row.id) for part in parts))


def split_hash(parts: Parts) -> str:
    """Says which row is in which part: equal hashes, equal splits."""
    digest = hashlib.sha256()
    for name, part in zip(Parts._fields, parts, strict=True):
        for row in part:
            digest.update(f"{name}\0{row.id}\0{same_text(row.text)}\0{row.label}\n".encode())
    return digest.hexdigest()


def data_card(task: Task, table: Table, parts: Parts) -> dict[str, Any]:
    """What a version was trained on, complete enough to make the same split again."""
    return {
        "files": [{"name": Path(name).name, "sha256": sha256} for name, sha256 in table.files.items()],
        "columns": task.data.columns.model_dump(),
        "rows": len(table.rows),
        "bad_rows": [str(row) for row in table.bad],
        "seed": task.data.seed,
        "shares": {"validation": task.data.validation, "test": task.data.test},
        "labels": dict(Counter(row.label for row in table.rows)),
        "parts": part_counts(parts),
        "split_sha256": split_hash(parts),
    }


def part_counts(parts: Parts) -> dict[str, Any]:
    return {
        name: {"rows": len(part), "labels": dict(sorted(Counter(row.label for row in part).items()))}
        for name, part in zip(Parts._fields, parts, strict=True)
    }


def _read_file(file: Path, task: Task, seen: dict[str, str]) -> Iterator[Row | BadRow]:
    columns = task.data.columns
    try:
        # What is not UTF-8 becomes half surrogates, so that one bad byte costs one row and not the file.
        text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, [])
    wanted = (columns.input, columns.label, columns.id, columns.group)
    if missing := [name for name in wanted if name is not None and name not in header]:
        raise DataError(f"{file}:1: no column {', '.join(map(repr, missing))}; there are {', '.join(header) or 'none'}")
    for line, fields in _lines(reader):
        if isinstance(fields, str):
            yield BadRow(file.name, line, fields)
        elif fields:
            row = _row(file.name, line, header, fields, task, columns)
            if isinstance(row, Row) and seen.setdefault(row.id, row.place) != row.place:
                row = BadRow(file.name, line, f"the id {row.id!r} is that of {seen[row.id]} too")
            yield row


def _lines(reader: Any) -> Iterator[tuple[int, list[str] | str]]:
    """The first line and the fields of each record, or why it is none."""
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, f"is not CSV: {error}"


def _row(file: str, line: int, header: list[str], fields: list[str], task: Task, columns: Columns) -> Row | BadRow:
    if len(fields) != len(header):
        return BadRow(file, line, f"{len(fields)} fields instead of {len(header)}")
    values = dict(zip(header, fields, strict=True))
    text, label = values[columns.input], values[columns.label].strip()
    if any("\udc80" <= character <= "\udcff" for character in "".join(fields)):
        return BadRow(file, line, "is not UTF-8")
    if not text.strip():
        return BadRow(file, line, f"the column '{columns.input}' is empty")
    if len(text) > task.serving.max_characters:
        return BadRow(file, line, f"{len(text)} characters; serving.max_characters is {task.serving.max_characters}")
    if label not in task.labels:
        return BadRow(file, line, f"unknown label {label!r}; the task has {', '.join(task.labels)}")
    identity = values[columns.id] if columns.id else f"{file}:{line}"
    return Row(identity, text, label, f"{file}:{line}", values[columns.group] or None if columns.group else None)


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows joined by text or group id, transitively (union-find)."""
    rows = list(rows)
    root = list(range(len(rows)))
    first: dict[tuple[str, str], int] = {}
    for index, row in enumerate(rows):
        keys = [("text", same_text(row.text))] + ([("group", row.group)] if row.group else [])
        for key in keys:
            root[_find(root, index)] = _find(root, first.setdefault(key, index))
    groups: dict[int, list[Row]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[_find(root, index)].append(row)
    return [sorted(group, key=lambda row: row.id) for group in groups.values()]


def _find(root: list[int], index: int) -> int:
    while root[index] != index:
        root[index] = root[root[index]]
        index = root[index]
    return index


def _rank(group: list[Row], seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{min(same_text(row.text) for row in group)}".encode()).digest()


def _wanted(total: int, share: float) -> int:
    """At least one row of a label in each part where there are three or more."""
    return max(round(total * share), 1 if total >= 3 else 0)
