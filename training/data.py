"""From the task's data files to labelled rows, and the card that says what they were.

files -> records -> rows, and bad rows with the place and the reason -> (training/split.py) -> parts -> data card
"""

import hashlib
import numbers
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from regraft.errors import DataError
from regraft.sections import Columns
from regraft.task import Task
from training.pictures import check_file
from training.records import BadRow, Record, records

PARTS = ("train", "validation", "test")
LIMITS = ("max_characters", "max_pixels")  # of serving, which say what rows are bad

T = TypeVar("T")


class Row(NamedTuple):
    """One labelled example. `place` is where it was read: file:line, or the review that it came from."""

    id: str
    input: str  # the text, or the image's place: a path or an fsspec URL
    label: str
    place: str
    group: str | None = None
    time: str | None = None  # ISO 8601 in UTC, so that the order of strings is that of time
    part: str | None = None  # where the data itself says so
    conditions: Mapping[str, str] = {}
    content: str | None = None  # of an image, as regraft.inputs refers to it

    @property
    def key(self) -> str:
        """What inputs have in common that count as the same."""
        return self.content or same_text(self.input)


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
    """Every row of the task's files. Raises DataError for a file that is not there or lacks a column, and for a folder
    of what are no images."""
    rows: list[Row] = []
    bad: list[BadRow] = []
    seen: dict[str, str] = {}
    for name in task.data.files:
        for record in _records(Path(name), task):
            row = record if isinstance(record, BadRow) else _row(record, task, Path(name).parent)
            if isinstance(row, Row) and seen.setdefault(row.id, row.place) != row.place:
                row = BadRow(row.place, f"the id {row.id!r} is that of {seen[row.id]} too")
            (bad if isinstance(row, BadRow) else rows).append(row)  # type: ignore[arg-type]
    return Table(rows, bad, {name: file_hash(Path(name)) for name in task.data.files})


def spread(things: Sequence[T], count: int) -> list[T]:
    """`count` of them, from the first to the last: rows may lie by label."""
    places = np.linspace(0, len(things) - 1, min(count, len(things))).round().astype(int)
    return [things[place] for place in places]


def same_text(text: str) -> str:
    """What texts have in common that count as the same: case and white space aside."""
    return " ".join(text.casefold().split())


def files_in(folder: Path) -> list[Path]:
    """Also those of folders that are linked to; without hidden ones, such as desktops leave everywhere."""
    found = (*folder.iterdir(), *folder.glob("*/**/*"))
    return sorted(
        one for one in found if one.is_file() and not any(name[0] == "." for name in one.relative_to(folder).parts)
    )


def file_hash(file: Path) -> str:
    """Of a folder: of the names and the contents of all files in it."""
    if file.is_dir():
        lines = (f"{one.relative_to(file).as_posix()}\0{file_hash(one)}\n" for one in files_in(file))
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def split_hash(parts: Parts) -> str:
    """Says which row is in which part: equal hashes, equal splits."""
    digest = hashlib.sha256()
    for name, part in zip(Parts._fields, parts, strict=True):
        for row in part:
            digest.update(f"{name}\0{row.id}\0{row.key}\0{row.label}\n".encode())
    return digest.hexdigest()


class Counting(Protocol):
    """As much of training/distribution.py as is needed here."""

    def card(self, labels: Sequence[str]) -> dict[str, Any]: ...

    def counts(self, labels: Sequence[str]) -> dict[str, Any]: ...


def data_card(task: Task, table: Table, parts: Parts, distribution: Counting) -> dict[str, Any]:
    """What a version was trained on, complete enough to make the same split again; see `split_again`."""
    times = sorted(row.time for row in table.rows if row.time)
    return {
        "files": [{"name": Path(name).name, "sha256": sha256} for name, sha256 in table.files.items()],
        "settings": task.data.model_dump(mode="json", exclude={"files"}),
        "input": task.input,
        **{name: getattr(task.serving, name) for name in LIMITS},
        "rows": len(table.rows),
        "bad_rows": [str(row) for row in table.bad],
        **distribution.card([row.label for row in table.rows]),
        "times": {"first": times[0], "last": times[-1]} if times else None,
        "conditions": {
            name: dict(Counter(row.conditions[name] for row in table.rows).most_common())
            for name in task.data.columns.conditions
        },
        "parts": part_counts(parts, distribution),
        "split_sha256": split_hash(parts),
    }


def part_counts(parts: Parts, distribution: Counting) -> dict[str, Any]:
    return {
        name: {"rows": len(part), "labels": distribution.counts([row.label for row in part])}
        for name, part in parts._asdict().items()
    }


def _wanted(columns: Columns) -> list[str]:
    named = (columns.input, columns.label, columns.id, columns.group, columns.time, columns.part)
    return [name for name in (*named, *columns.conditions) if name is not None]


def _records(file: Path, task: Task) -> Iterator[Record | BadRow]:
    """Of a folder: each image in it, labelled with the name of the folder that it is in."""
    columns = task.data.columns
    if not file.is_dir():
        yield from records(file, _wanted(columns))
        return
    if task.input != "image":
        raise DataError(f"{file}: is a folder, and only images are read from folders; the task's input is {task.input}")
    for one in files_in(file):
        inside = one.relative_to(file)
        place = f"{file.name}/{inside.as_posix()}"
        if one.parent == file:
            yield BadRow(place, "lies in no labelled folder")
            continue
        yield Record(place, dict.fromkeys(_wanted(columns)) | {columns.label: inside.parts[0], columns.input: str(one)})


def _row(record: Record, task: Task, folder: Path) -> Row | BadRow:
    """`folder` is what places of images are relative to."""
    columns, values = task.data.columns, record.values
    try:
        given, content = _text(values, columns.input, task.serving.max_characters), None
        if task.input == "image":
            given, content = check_file(given, folder, task.serving.max_pixels)
        return Row(
            id=_said(values, columns.id) if columns.id else record.place,
            input=given,
            content=content,
            label=task.answers.accept(_said(values, columns.label, optional=True).strip()),
            place=record.place,
            group=_said(values, columns.group, optional=True) or None if columns.group else None,
            time=_time(values, columns.time) if columns.time else None,
            part=_part(values, columns.part) if columns.part else None,
            conditions={name: _said(values, name, optional=True) for name in columns.conditions},
        )
    except ValueError as error:
        return BadRow(record.place, str(error))


def _said(values: Mapping[str, Any], column: str, *, optional: bool = False) -> str:
    """A value as text. Raises ValueError for what is neither text nor number, or empty."""
    value = values[column]
    if value is None or value == "":
        if optional:
            return ""
        raise ValueError(f"the column '{column}' is empty")
    if not isinstance(value, str | numbers.Number | date):
        kind = type(value).__name__
        raise ValueError(f"the column '{column}' holds {kind}, which is neither text nor number")  # noqa: TRY004
    return _whole(str(value), column)


def _text(values: Mapping[str, Any], column: str, longest: int) -> str:
    text = values[column]
    if text is not None and not isinstance(text, str):
        raise ValueError(f"the column '{column}' holds {type(text).__name__} instead of text")
    if text is None or not text.strip():
        raise ValueError(f"the column '{column}' is empty")
    if len(text) > longest:
        raise ValueError(f"{len(text)} characters; serving.max_characters is {longest}")
    return _whole(text, column)


def _whole(text: str, column: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"the column '{column}' holds half of a surrogate pair, which is no character")
    return text


def _part(values: Mapping[str, Any], column: str) -> str:
    value = _said(values, column, optional=True).strip()
    if value not in PARTS:
        raise ValueError(f"unknown part {value!r}; there are {', '.join(PARTS)}")
    return value


def _time(values: Mapping[str, Any], column: str) -> str:
    """Of ISO 8601 or seconds since 1970; without a zone it is UTC."""
    value = values[column]
    try:
        if isinstance(value, date):
            moment = value if isinstance(value, datetime) else datetime.combine(value, time())
        else:
            moment = _moment(str(value))
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"the column '{column}' holds {value!r}, which is no time (ISO 8601)") from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return datetime.fromtimestamp(float(text), UTC)
