"""The history: every event as Parquet, written by the recorder and queried offline by anyone.

records -> one file a batch -> HISTORY/events/<stream>.<first offset>-<last offset>.parquet -> SQL views. A file appears
whole or not at all, and the names alone say how far each stream has been recorded: so the recorder's place and its
output cannot disagree, whenever it is killed. Merging small files writes the larger one first; until the small ones are
gone their names show that they are covered. Needs the `monitoring` or the `training` extra (duckdb, pyarrow).
"""

import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from regraft.eventlog import Record
from regraft.events import FeedbackGiven, PredictionMade, ReviewGiven, encode, kind_of

_REALS = pa.list_(pa.float32())
SCHEMA = pa.schema(
    {
        "stream": pa.string(),
        "log_offset": pa.int64(),
        "id": pa.string(),
        "kind": pa.string(),
        "happened_at": pa.timestamp("us"),  # UTC
        "prediction_id": pa.string(),
        "version": pa.string(),
        "arm": pa.string(),
        "generation": pa.int64(),
        "subject": pa.string(),
        "input": pa.string(),
        "label": pa.string(),
        "confidence": pa.float64(),
        "probabilities": _REALS,
        "features": _REALS,
        "audit_probability": pa.float64(),
        "shadow_version": pa.string(),
        "shadow_label": pa.string(),
        "shadow_probabilities": _REALS,
        "latency_ms": pa.float64(),
        "metadata": pa.map_(pa.string(), pa.string()),
        "trace_id": pa.string(),
        "correct": pa.bool_(),
        "comment": pa.string(),
        "reviewer": pa.string(),
        "reason": pa.string(),
        "body": pa.string(),  # the JSON of every other kind
    }
)

# Views over the table `events`. An outcome is a prediction with what became known of it.
_VIEWS = """
CREATE VIEW predictions AS
    SELECT id, happened_at, version, arm, generation, subject, input, label, confidence, probabilities, features,
           audit_probability, shadow_version, shadow_label, shadow_probabilities, latency_ms, metadata, trace_id
    FROM events WHERE kind = 'prediction_made';
CREATE VIEW feedback AS
    SELECT id, happened_at, prediction_id, correct, label, comment, subject FROM events WHERE kind = 'feedback_given';
CREATE VIEW reviews AS
    SELECT prediction_id, arg_max(id, id) AS id, arg_max(happened_at, id) AS happened_at, arg_max(label, id) AS label,
           arg_max(reviewer, id) AS reviewer, arg_max(reason, id) AS reason
    FROM events WHERE kind = 'review_given' GROUP BY prediction_id;
CREATE VIEW flags AS
    SELECT prediction_id, bool_or(NOT correct) AS flagged, count(*) AS feedbacks, min(happened_at) AS happened_at
    FROM feedback GROUP BY prediction_id;
CREATE VIEW outcomes AS
    SELECT p.*, coalesce(f.flagged, false) AS flagged, f.happened_at AS flagged_at,
           p.shadow_label IS NOT NULL AND p.shadow_label <> p.label AS disagreement,
           r.label AS reviewed_label, r.reviewer, r.reason AS review_reason, r.happened_at AS reviewed_at,
           r.id AS review_id
    FROM predictions p LEFT JOIN reviews r ON r.prediction_id = p.id LEFT JOIN flags f ON f.prediction_id = p.id;
"""


class Part(NamedTuple):
    """One file: the records of `stream` from `first` to `last`, both included."""

    stream: str
    first: int
    last: int
    path: str


class History:
    def __init__(self, url: str) -> None:
        self._fs, root = fsspec.core.url_to_fs(url)
        self.root = str(root)
        self._folder = f"{self.root}/events"

    def write(self, records: Sequence[Record]) -> None:
        """Add `records` (all of one stream, in order, following what is recorded) as one file."""
        if not records:
            return
        table = pa.Table.from_pylist([_row(record) for record in records], schema=SCHEMA)
        self._put(table, records[0].stream, records[0].offset, records[-1].offset)

    def positions(self) -> dict[str, int]:
        """The last recorded offset of each stream."""
        positions: dict[str, int] = {}
        for part in self.parts():
            positions[part.stream] = max(part.last, positions.get(part.stream, part.last))
        return positions

    def parts(self) -> list[Part]:
        """The files that count, in order; those that a merged one covers are left out."""
        if not self._fs.exists(self._folder):
            return []
        self._fs.invalidate_cache()
        found = [_parse(path) for path in self._fs.ls(self._folder, detail=False) if path.endswith(".parquet")]
        parts: list[Part] = []
        for part in sorted(found, key=lambda p: (p.stream, p.first, -p.last)):
            if parts and parts[-1].stream == part.stream and part.last <= parts[-1].last:
                continue
            parts.append(part)
        return parts

    def merge(self, *, small: int = 50_000, at_least: int = 16) -> int:
        """Join runs of `at_least` neighbouring files of under `small` offsets into one; say how many files went."""
        removed = 0
        run: list[Part] = []
        for part in [*self.parts(), None]:
            fits = part is not None and part.last - part.first < small
            if run and (not fits or part is None or part.stream != run[0].stream):
                removed += self._join(run) if len(run) >= at_least else 0
                run = []
            if fits and part is not None:
                run.append(part)
        self._remove_covered()
        return removed

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A database in memory with `events` (each event once) and the views `predictions`, `feedback`, `reviews`
        (the newest of each prediction), `flags` and `outcomes`, as of now. Close it after use."""
        connection = duckdb.connect(config={"threads": 1})
        if not isinstance(self._fs, LocalFileSystem):
            connection.register_filesystem(self._fs)
        paths = [part.path for part in self.parts()]
        if paths:
            listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
            source = f"SELECT DISTINCT ON (id) * FROM read_parquet([{listed}])"  # noqa: S608
            connection.execute(f"CREATE VIEW events AS {source}")
        else:
            connection.register("no_events", SCHEMA.empty_table())
            connection.execute("CREATE VIEW events AS SELECT * FROM no_events")
        connection.execute(_VIEWS)
        return connection

    def _join(self, parts: Sequence[Part]) -> int:
        tables = []
        for part in parts:
            with self._fs.open(part.path, "rb") as stream:
                tables.append(pq.read_table(stream, schema=SCHEMA))
        self._put(pa.concat_tables(tables), parts[0].stream, parts[0].first, parts[-1].last)
        return len(parts)

    def _remove_covered(self) -> None:
        kept = {part.path for part in self.parts()}
        for path in self._fs.ls(self._folder, detail=False) if self._fs.exists(self._folder) else []:
            if path not in kept:
                self._fs.rm_file(path)

    def _put(self, table: pa.Table, stream: str, first: int, last: int) -> None:
        self._fs.makedirs(self._folder, exist_ok=True)
        part = f"{self._folder}/.{uuid.uuid4().hex}.part"
        with self._fs.open(part, "wb") as target:
            pq.write_table(table, target, compression="zstd")
        self._fs.mv(part, f"{self._folder}/{stream}.{first:019d}-{last:019d}.parquet")


def _parse(path: str) -> Part:
    stream, _, offsets = path.rsplit("/", 1)[-1].removesuffix(".parquet").rpartition(".")
    first, _, last = offsets.partition("-")
    return Part(stream, int(first), int(last), path)


def _row(record: Record) -> dict[str, Any]:
    event = record.event
    row: dict[str, Any] = {
        "stream": record.stream,
        "log_offset": record.offset,
        "kind": kind_of(event),
        "happened_at": event.at,
    }
    match event:
        case PredictionMade():
            row |= event.model_dump(exclude={"kind", "at", "shadow", "schema_version"})
            row["metadata"] = list(event.metadata.items())
            if event.shadow:
                row |= {
                    "shadow_version": event.shadow.version,
                    "shadow_label": event.shadow.label,
                    "shadow_probabilities": event.shadow.probabilities,
                }
        case FeedbackGiven() | ReviewGiven():
            row |= event.model_dump(exclude={"kind", "at", "schema_version"})
        case _:
            row |= {"id": event.id, "body": encode(event).decode()}
    return row
