"""Data files of any format as records, one after the other, each with the place where it stands.

CSV, JSON lines, Parquet -> values by column; a folder of labelled folders -> each file and the folder it is in
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from regraft.errors import DataError


class Record(NamedTuple):
    """`place` is file:line; in Parquet, which has no lines, file:row, from 1."""

    place: str
    values: dict[str, Any]


class BadRow(NamedTuple):
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


def records(file: Path, wanted: Sequence[str]) -> Iterator[Record | BadRow]:
    """Every record of a table. Raises DataError for a file that cannot be read, or that lacks a `wanted` column."""
    if file.suffix.lower() not in READERS:
        raise DataError(f"{file}: data files are {', '.join(READERS)}" if file.exists() else f"{file}: does not exist")
    try:
        yield from READERS[file.suffix.lower()](file, wanted)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def _csv(file: Path, wanted: Sequence[str]) -> Iterator[Record | BadRow]:
    # What is not UTF-8 becomes half surrogates, so that one bad byte costs one row and not the file.
    text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, [])
    _require(f"{file}:1", wanted, header)
    while True:
        place = f"{file.name}:{reader.line_num + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(place, f"is not CSV: {error}")
            continue
        if not fields:
            continue
        if len(fields) != len(header):
            yield BadRow(place, f"{len(fields)} fields instead of {len(header)}")
        elif any("\udc80" <= character <= "\udcff" for character in "".join(fields)):
            yield BadRow(place, "is not UTF-8")
        else:
            yield Record(place, dict(zip(header, fields, strict=True)))


def _json_lines(file: Path, wanted: Sequence[str]) -> Iterator[Record | BadRow]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            place = f"{file.name}:{number}"
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                yield BadRow(place, "is not UTF-8")
            except (ValueError, RecursionError) as error:
                yield BadRow(place, f"is not JSON: {error}")
            else:
                if not isinstance(values, dict):
                    yield BadRow(place, "is no JSON object")
                elif missing := _missing(wanted, values):
                    yield BadRow(place, f"has no {missing}")
                else:
                    yield Record(place, values)


def _parquet(file: Path, wanted: Sequence[str]) -> Iterator[Record]:
    try:
        with pq.ParquetFile(file) as table:
            _require(str(file), wanted, table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(columns=list(wanted)):
                for values in batch.to_pylist():
                    number += 1
                    yield Record(f"{file.name}:{number}", values)
    except pa.ArrowException as error:
        raise DataError(f"{file}: is not Parquet: {error}") from error


Reader = Callable[[Path, Sequence[str]], Iterator[Record | BadRow]]
READERS: dict[str, Reader] = {
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}


def _missing(wanted: Sequence[str], there: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(repr(name) for name in wanted if name not in there)


def _require(place: str, wanted: Sequence[str], there: Sequence[str]) -> None:
    if missing := _missing(wanted, there):
        raise DataError(f"{place}: no column {missing}; there are {', '.join(there) or 'none'}")
