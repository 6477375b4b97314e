"""The reviewers' desk: which predictions wait for a label, and what becomes of the labels given.

history -> queue (a snapshot, made anew every few seconds) -> a reviewer -> ReviewGiven -> log

Why a prediction waits, the first that fits: chance drew it and the versions of the running experiment differ on it,
chance drew it into the audit, a user flagged it, the model was unsure of it. What chance drew is never queued as a
flag: accuracy is estimated from audits alone, so a user's complaint must not change whether, or how soon, an audit is
reviewed.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import duckdb

from monitoring.live import HORIZON, recent_records
from regraft.errors import InvalidInput, NotFound
from regraft.eventlog import EventLog
from regraft.events import PredictionMade, QueueReason, ReviewGiven
from regraft.history import History, as_utc
from regraft.releases import Release
from regraft.task import Task

QUEUED = (QueueReason.DISAGREEMENT, QueueReason.AUDIT, QueueReason.FLAG, QueueReason.LOW_CONFIDENCE)

# Items of one reason that a snapshot holds; the rest are counted.
MOST_ITEMS = 1_000

# Labels remembered until the history has them.
MOST_REMEMBERED = 100_000

# Audits count while their version is on the release: no one asks any more how good another one is.
_REASON = """
CASE WHEN audit_probability IS NOT NULL THEN
         CASE WHEN version NOT IN ($production, $candidate) THEN NULL
              WHEN shadow_label <> label AND (version, shadow_version) IN
                   (($production, $candidate), ($candidate, $production)) THEN 'disagreement'
              ELSE 'audit' END
     WHEN coalesce(flagged, false) THEN 'flag'
     WHEN confidence < $unsure AND {recent} THEN 'low_confidence' END
"""

# The least confident share of the newest predictions, as a bound on confidence.
_UNSURE = """
SELECT quantile_disc(confidence, $share) FROM records
WHERE kind = 'prediction_made' AND happened_at >= $since AND {recent}
"""

_QUEUE = """
CREATE TEMP TABLE queue AS
WITH picked AS (
    SELECT DISTINCT ON (id) id, stream, log_offset, happened_at, version, input, label, confidence, audit_probability,
           shadow_version, shadow_label
    FROM records
    WHERE kind = 'prediction_made' AND happened_at >= $since AND input IS NOT NULL
      AND (audit_probability IS NOT NULL OR confidence < $unsure
           OR id IN (SELECT prediction_id FROM flags WHERE flagged))
), waiting AS (
    SELECT picked.*, {reason} AS reason
    FROM picked ANTI JOIN reviews ON reviews.prediction_id = picked.id
                LEFT JOIN flags ON flags.prediction_id = picked.id
)
SELECT * FROM waiting WHERE reason IS NOT NULL
"""

_HEADS = """
SELECT id, happened_at, version, input, label, confidence, reason FROM queue
QUALIFY row_number() OVER (PARTITION BY reason ORDER BY happened_at, id) <= $most ORDER BY happened_at, id
"""

_FOUND = """
WITH picked AS (
    SELECT DISTINCT ON (id) * FROM records
    WHERE kind = 'prediction_made' AND id IN (SELECT unnest($ids::VARCHAR[]))
), reviewed AS (
    SELECT prediction_id, label AS truth, reviewer AS by_whom FROM reviews
)
SELECT picked.id, {reason} AS reason, truth, by_whom
FROM picked LEFT JOIN reviewed ON reviewed.prediction_id = picked.id
            LEFT JOIN flags ON flags.prediction_id = picked.id
"""


@dataclass(frozen=True)
class QueueItem:
    """A prediction that waits. What the model said of it is for those who ask, after a first look of their own."""

    prediction_id: str
    at: datetime
    input: str
    version: str
    label: str
    confidence: float
    reason: QueueReason


@dataclass(frozen=True)
class Snapshot:
    """The queue as of one moment: the oldest items of each reason, how many there are, and when the oldest was made."""

    items: Mapping[QueueReason, tuple[QueueItem, ...]] = field(default_factory=dict)
    counts: Mapping[QueueReason, int] = field(default_factory=dict)
    oldest: datetime | None = None


@dataclass(frozen=True)
class GivenLabel:
    """What a reviewer says of one prediction."""

    prediction_id: str
    label: str
    reviewer: str


@dataclass(frozen=True)
class _Known:
    """A prediction that exists: why it waits, and its newest review as label and reviewer."""

    reason: QueueReason
    review: tuple[str, str] | None


def snapshot(connection: duckdb.DuckDBPyConnection, *, task: Task, release: Release, now: datetime) -> Snapshot:
    """The queue on a connection of the history."""
    values = _values(connection, task=task, release=release, now=now)
    reason = _REASON.format(recent=recent_records(connection))
    connection.execute(_QUEUE.format(reason=reason), values)
    items: dict[QueueReason, list[QueueItem]] = {one: [] for one in QUEUED}
    for row in connection.execute(_HEADS, {"most": MOST_ITEMS}).fetchall():
        key, at, version, text, label, confidence, why = row
        item = QueueItem(key, at.replace(tzinfo=UTC), text, version, label, confidence, QueueReason(why))
        items[item.reason].append(item)
    counted = dict(connection.execute("SELECT reason, count(*) FROM queue GROUP BY reason").fetchall())
    ((oldest,),) = connection.execute("SELECT min(happened_at) FROM queue").fetchall()
    connection.execute("DROP TABLE queue")
    return Snapshot(
        items={one: tuple(found) for one, found in items.items()},
        counts={one: counted.get(one.value, 0) for one in QUEUED},
        oldest=oldest.replace(tzinfo=UTC) if oldest else None,
    )


class ReviewDesk:
    """Safe to use from several threads. A label given is off the queue at once, before the history has it."""

    def __init__(self, log: EventLog, history: History, task: Task) -> None:
        self._log = log
        self._history = history
        self._task = task
        self._lock = threading.Lock()
        self._snapshot = Snapshot()
        self._release = Release()
        self._labelled: OrderedDict[str, ReviewGiven] = OrderedDict()  # by prediction

    def refresh(self, connection: duckdb.DuckDBPyConnection, release: Release, now: datetime) -> Snapshot:
        """Take in what the history has now."""
        fresh = snapshot(connection, task=self._task, release=release, now=now)
        with self._lock:
            remembered = list(self._labelled)
        recorded = _recorded(connection, remembered)
        with self._lock:
            self._snapshot, self._release = fresh, release
            for key, review in [(key, self._labelled.get(key)) for key in recorded]:
                if review and review.id <= recorded[key]:
                    del self._labelled[key]
        return fresh

    def queue(self, limit: int, reason: QueueReason | None = None) -> list[QueueItem]:
        """The next `limit` items: by reason, then oldest first."""
        with self._lock:
            reasons = QUEUED if reason is None else (reason,)
            items = (item for one in reasons for item in self._snapshot.items.get(one, ()))
            return list(islice((item for item in items if item.prediction_id not in self._labelled), limit))

    def counts(self) -> dict[QueueReason, int]:
        """How many wait, by reason."""
        with self._lock:
            done = {
                one: sum(item.prediction_id in self._labelled for item in items)
                for one, items in self._snapshot.items.items()
            }
            return {one: self._snapshot.counts.get(one, 0) - done.get(one, 0) for one in QUEUED}

    def label(self, given: Sequence[GivenLabel], now: datetime) -> list[ReviewGiven]:
        """Append a review for each label, all or none; one that repeats its prediction's newest review adds nothing.

        Raises InvalidInput for a label that the task does not take, NotFound for predictions that nobody has seen.
        """
        given = [self._accepted(index, one) for index, one in enumerate(given)]
        known = self._find([one.prediction_id for one in given], now)
        if missing := [one.prediction_id for one in given if one.prediction_id not in known]:
            raise NotFound(f"there is no prediction {missing[0]!r}", prediction_ids=missing)
        reviews = []
        with self._lock:
            newest = {key: found.review for key, found in known.items()}
            newest |= {key: (review.label, review.reviewer) for key, review in self._labelled.items() if key in known}
            for one in given:
                if newest.get(one.prediction_id) != (one.label, one.reviewer):
                    newest[one.prediction_id] = (one.label, one.reviewer)
                    reviews.append(ReviewGiven(reason=known[one.prediction_id].reason, **vars(one)))
            self._log.append(reviews)
            for review in reviews:
                self._labelled.pop(review.prediction_id, None)
                self._labelled[review.prediction_id] = review
            while len(self._labelled) > MOST_REMEMBERED:
                self._labelled.popitem(last=False)
        return reviews

    def _accepted(self, index: int, given: GivenLabel) -> GivenLabel:
        try:
            return replace(given, label=self._task.answers.accept(given.label))
        except ValueError as error:
            raise InvalidInput(str(error), index=index) from error

    def _find(self, ids: Sequence[str], now: datetime) -> dict[str, _Known]:
        with self._lock:
            release = self._release
            known = {
                item.prediction_id: _Known(item.reason, None)
                for items in self._snapshot.items.values()
                for item in items
                if item.prediction_id in ids
            }
        if missing := [one for one in ids if one not in known]:
            known |= self._find_recorded(missing, release, now)
        if missing := [one for one in ids if one not in known]:
            known |= self._find_in_log(missing)
        return known

    def _find_recorded(self, ids: Sequence[str], release: Release, now: datetime) -> dict[str, _Known]:
        with self._history.connect() as connection:
            values = _values(connection, task=self._task, release=release, now=now)
            values = {name: value for name, value in values.items() if name != "since"} | {"ids": list(ids)}
            query = _FOUND.format(reason=_REASON.format(recent=recent_records(connection)))
            rows = connection.execute(query, values).fetchall()
        return {
            key: _Known(QueueReason(reason or QueueReason.DIRECT), (label, reviewer) if label else None)
            for key, reason, label, reviewer in rows
        }

    def _find_in_log(self, ids: Sequence[str]) -> dict[str, _Known]:
        """Predictions so new that they are not recorded yet."""
        consumer = self._log.consumer(kinds=[PredictionMade], start=self._history.positions())
        wanted, known = set(ids), {}
        while wanted and (records := consumer.poll()):
            for event in (record.event for record in records if record.event.id in wanted):
                if isinstance(event, PredictionMade):
                    drawn = event.audit_probability is not None
                    known[event.id] = _Known(QueueReason.AUDIT if drawn else QueueReason.DIRECT, None)
                    wanted.discard(event.id)
        consumer.close()
        return known


def _recorded(connection: duckdb.DuckDBPyConnection, ids: Sequence[str]) -> dict[str, str]:
    """The newest recorded review's id of each of these predictions that has one."""
    query = "SELECT prediction_id, id FROM reviews WHERE prediction_id IN (SELECT unnest($ids::VARCHAR[]))"
    return dict(connection.execute(query, {"ids": list(ids)}).fetchall())


def _values(connection: duckdb.DuckDBPyConnection, *, task: Task, release: Release, now: datetime) -> dict[str, Any]:
    since = as_utc(now - HORIZON)
    query = _UNSURE.format(recent=recent_records(connection))
    ((least,),) = connection.execute(query, {"share": task.review.low_confidence_share, "since": since}).fetchall()
    return {
        "since": since,
        "unsure": task.review.low_confidence if least is None else min(task.review.low_confidence, least),
        "production": release.production or "",
        "candidate": release.candidate or "",
    }
