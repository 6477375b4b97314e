"""How good the versions on the release are now, measured on the history.

audited predictions, back to where the newest reviews reach -> accuracy with its interval
the newest predictions                                     -> flag rate, confidence and what it promises

A measurement reads what happened since the release, never more than HORIZON; of the unaudited many it takes only the
newest RECENT records. Nothing is kept between two measurements.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np

from monitoring.quality import Audits, Estimate, audited_accuracy, estimated_accuracy, flag_rate
from regraft.events import Arm
from regraft.history import as_utc

HORIZON = timedelta(days=30)
RECENT = 200_000

# Audits of the version back to the one that makes `$most` reviewed ones, reviewed or not: so that the accuracy is that
# of the present, and no prediction is left out for being reviewed late. Strata: what makes reviewers look sooner.
_AUDITS = """
WITH audits AS (
    SELECT DISTINCT ON (id) id, happened_at, label, audit_probability, shadow_label
    FROM records
    WHERE kind = 'prediction_made' AND audit_probability IS NOT NULL AND version = $version AND happened_at >= $since
), judged AS (
    SELECT a.*, r.label AS truth, coalesce(f.flagged, false) AS flagged
    FROM audits a LEFT JOIN reviews r ON r.prediction_id = a.id LEFT JOIN flags f ON f.prediction_id = a.id
), oldest AS (
    SELECT min(happened_at) AS happened_at
    FROM (SELECT happened_at FROM judged WHERE truth IS NOT NULL ORDER BY happened_at DESC LIMIT $most)
    HAVING count(*) = $most
)
SELECT audit_probability AS probability, truth IS NOT NULL AS reviewed, coalesce(truth = label, false) AS correct,
       CASE WHEN shadow_label <> label THEN 2 WHEN flagged THEN 1 ELSE 0 END AS stratum
FROM judged WHERE happened_at >= coalesce((SELECT happened_at FROM oldest), $since)
"""

_RECENT = """
WITH answered AS (
    SELECT DISTINCT ON (id) id, confidence
    FROM records
    WHERE kind = 'prediction_made' AND version = $version AND happened_at >= $since AND {recent}
)
SELECT confidence, coalesce(flagged, false) AS flagged FROM answered LEFT JOIN flags ON prediction_id = id
"""

_NEW_LABELS = """
SELECT count(DISTINCT prediction_id) FROM records WHERE kind = 'review_given' AND happened_at > $since
"""


@dataclass(frozen=True)
class VersionQuality:
    """One version on the release. `accuracy` rests on audits; `predictions`, `flag_rate`, `estimated_accuracy` and
    `mean_confidence` are of its newest predictions and none of them says how often it is right."""

    version: str
    arm: Arm
    since: datetime
    predictions: int
    accuracy: Estimate
    validation_accuracy: float | None
    estimated_accuracy: Estimate
    flag_rate: Estimate
    mean_confidence: float


def measure(
    connection: duckdb.DuckDBPyConnection,
    *,
    version: str,
    arm: Arm,
    released: datetime,
    now: datetime,
    validation_accuracy: float | None,
    newest_reviews: int,
) -> VersionQuality:
    """The quality of `version`, on a connection of the history. Its accuracy is over the `newest_reviews` reviewed
    audits and those not yet reviewed among them."""
    since = max(released, now - HORIZON)
    values: dict[str, Any] = {"version": version, "since": as_utc(since)}
    audits = connection.execute(_AUDITS, values | {"most": newest_reviews}).fetchnumpy()
    recent = connection.execute(_RECENT.format(recent=recent_records(connection)), values).fetchnumpy()
    confidence = np.clip(np.asarray(recent["confidence"], dtype=float), 0, 1)
    flags = int(np.sum(recent["flagged"], dtype=int))
    return VersionQuality(
        version=version,
        arm=arm,
        since=since,
        predictions=len(confidence),
        accuracy=audited_accuracy(
            Audits(
                probability=np.asarray(audits["probability"], dtype=float),
                stratum=np.asarray(audits["stratum"], dtype=np.int64),
                reviewed=np.asarray(audits["reviewed"], dtype=bool),
                correct=np.asarray(audits["correct"], dtype=bool),
            )
        ),
        validation_accuracy=validation_accuracy,
        estimated_accuracy=estimated_accuracy(confidence),
        flag_rate=flag_rate(flags, len(confidence)),
        mean_confidence=float(confidence.mean()) if len(confidence) else float("nan"),
    )


def new_labels(connection: duckdb.DuckDBPyConnection, since: datetime | None) -> int:
    """How many predictions were reviewed after `since` (None: ever)."""
    values = {"since": as_utc(since or datetime.fromtimestamp(0, UTC))}
    return int(connection.execute(_NEW_LABELS, values).fetchall()[0][0])


def recent_records(connection: duckdb.DuckDBPyConnection) -> str:
    """The SQL condition that holds for the newest RECENT records of each stream; files outside it are not opened."""
    ends = connection.execute("SELECT stream, max(log_offset) FROM records GROUP BY stream").fetchall()
    each = [f"stream = '{stream}' AND log_offset > {end - RECENT}" for stream, end in ends]
    return f"({' OR '.join(each)})" if each else "true"
