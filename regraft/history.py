"""The history: every event as Parquet, written by the recorder and queried offline by anyone.

records -> one file a batch -> HISTORY/events/<stream>.<first offset>-<last offset>.parquet -> SQL views. A file appears
whole or not at all, and the names alone say how far each stream has been recorded: so the recorder's place and its
output cannot disagree, whenever it is killed. Merging small files writes the larger one first; the small ones, whose
names show that they are covered, go a while later, when nobody reads them any more. Needs the `monitoring` or the
`training` extra (duckdb, pyarrow).
"""

import os
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from regraft.answers import Labels
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
        "low": pa.float64(),
        "high": pa.float64(),
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

# Rows that a reader can skip or take together by their times.
ROW_GROUP = 65_536

# How long files that a merged one covers stay, for queries that began before it was there.
READ_GRACE = timedelta(minutes=10)

# `records` may hold an event twice (a log that delivers at least once, two recorders at once); the views hold it once.
# An outcome is a prediction with what became known of it.
_VIEWS = """
CREATE VIEW events AS SELECT DISTINCT ON (id) * FROM records;
CREATE VIEW predictions AS
    SELECT DISTINCT ON (id) id, happened_at, version, arm, generation, subject, input, label, confidence, probabilities,
           features, audit_probability, shadow_version, shadow_label, shadow_probabilities, latency_ms, metadata,
           trace_id
    FROM records WHERE kind = 'prediction_made';
CREATE VIEW feedback AS
    SELECT DISTINCT ON (id) id, happened_at, prediction_id, correct, label, comment, subject
    FROM records WHERE kind = 'feedback_given';
CREATE VIEW reviews AS
    SELECT prediction_id, max(id) AS id, arg_max(happened_at, id) AS happened_at, arg_max(label, id) AS label,
           arg_max(reviewer, id) AS reviewer, arg_max(reason, id) AS reason
    FROM records WHERE kind = 'review_given' GROUP BY prediction_id;
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

# Both versions scored the prediction, whichever of them answered; only what chance drew into the audit is counted.
_DISAGREEMENTS = """
WITH drawn AS (
    SELECT DISTINCT ON (id) id, version, label, shadow_label
    FROM records
    WHERE kind = 'prediction_made' AND audit_probability IS NOT NULL AND happened_at >= $since
      AND (version, shadow_version) IN (($production, $candidate), ($candidate, $production)) AND label <> shadow_label
), reviewed AS (
    SELECT prediction_id, arg_max(label, id) AS truth
    FROM records WHERE kind = 'review_given' AND happened_at >= $since GROUP BY prediction_id
), sides AS (
    SELECT truth, CASE WHEN version = $candidate THEN label ELSE shadow_label END AS candidate,
           CASE WHEN version = $candidate THEN shadow_label ELSE label END AS production
    FROM drawn JOIN reviewed ON reviewed.prediction_id = drawn.id
), errors AS (
    SELECT {candidate} AS candidate, {production} AS production FROM sides
)
SELECT count(*) FILTER (candidate < production), count(*) FILTER (candidate > production),
       count(*) FILTER (candidate = production)
FROM errors
"""


class Disagreements(NamedTuple):
    """Reviewed audits on which two versions differ: the candidate was right, or nearer; production was; neither."""

    wins: int
    losses: int
    ties: int


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
        self._local = isinstance(self._fs, LocalFileSystem)

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
        parts: list[Part] = []
        for part in sorted(map(_parse, self._files()), key=lambda p: (p.stream, p.first, -p.last)):
            if parts and parts[-1].stream == part.stream and part.last <= parts[-1].last:
                continue
            parts.append(part)
        return parts

    def merge(
        self, *, small: int = 50_000, at_least: int = 16, most: int = 250_000, grace: timedelta = READ_GRACE
    ) -> int:
        """Join runs of `at_least` neighbouring files of under `small` offsets into ones of at most about `most`; say
        how many were joined. They are removed by a later call, `grace` after the file that covers them was written."""
        joined = 0
        run: list[Part] = []
        for part in [*self.parts(), None]:
            fits = part is not None and part.last - part.first < small
            follows = fits and part is not None and run and part.stream == run[0].stream
            if run and (not follows or part is None or part.last - run[0].first > most):
                joined += self._join(run) if len(run) >= at_least else 0
                run = []
            if fits and part is not None:
                run.append(part)
        self._remove_covered(datetime.now(UTC) - grace)
        return joined

    def disagreements(
        self, production: str, candidate: str, since: datetime, error: str = Labels.error
    ) -> Disagreements:
        """How the reviews decide between two versions, on audited predictions since `since` that both have scored;
        `error` is that of the task's answers."""
        sides = {name: error.format(truth="truth", label=name) for name in ("candidate", "production")}
        values = {"production": production, "candidate": candidate, "since": as_utc(since)}
        with self.connect() as connection:
            return Disagreements(*connection.execute(_DISAGREEMENTS.format(**sides), values).fetchall()[0])

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A database in memory with `events` (each event once) and the views `predictions`, `feedback`, `reviews`
        (the newest of each prediction), `flags` and `outcomes`, as of now. Close it after use.

        `records` is what the files hold, an event perhaps twice. Filtering it first and then taking each id once
        costs a fraction of filtering a view, which has to look at every row."""
        connection = duckdb.connect(config={"threads": 1})
        if not self._local:
            connection.register_filesystem(self._fs)
        paths = [part.path for part in self.parts()]
        if paths:
            listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
            files = f"read_parquet([{listed}], union_by_name = true)"  # older ones lack columns
            connection.execute(f"CREATE VIEW records AS SELECT * FROM {files}")  # noqa: S608
        else:
            connection.register("nothing", SCHEMA.empty_table())
            connection.execute("CREATE VIEW records AS SELECT * FROM nothing")
        connection.execute(_VIEWS)
        return connection

    def _join(self, parts: Sequence[Part]) -> int:
        tables = []
        for part in parts:
            with self._fs.open(part.path, "rb") as stream:
                tables.append(pq.read_table(stream, schema=SCHEMA))
        self._put(pa.concat_tables(tables), parts[0].stream, parts[0].first, parts[-1].last)
        return len(parts)

    def _remove_covered(self, before: datetime) -> None:
        """Remove each file that is covered by one written before `before`."""
        parts = self.parts()
        settled = [part for part in parts if _aware(self._fs.modified(part.path)) < before]
        for path in self._files():
            part = _parse(path)
            covered = any(p.stream == part.stream and p.first <= part.first and part.last <= p.last for p in settled)
            if covered and part not in parts:
                self._fs.rm_file(path)

    def _files(self) -> list[str]:
        if not self._fs.exists(self._folder):
            return []
        self._fs.invalidate_cache()
        return [path for path in self._fs.ls(self._folder, detail=False) if path.endswith(".parquet")]

    def _put(self, table: pa.Table, stream: str, first: int, last: int) -> None:
        self._fs.makedirs(self._folder, exist_ok=True)
        part = f"{self._folder}/.{uuid.uuid4().hex}.part"
        with self._fs.open(part, "wb") as target:
            pq.write_table(table, target, compression="zstd", row_group_size=ROW_GROUP)
            if self._local:
                target.flush()
                os.fsync(target.fileno())
        self._fs.mv(part, f"{self._folder}/{stream}.{first:019d}-{last:019d}.parquet")


def as_utc(moment: datetime) -> datetime:
    """As the column `happened_at` holds it: UTC, without saying so."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


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
            row["low"], row["high"] = event.interval or (None, None)
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
