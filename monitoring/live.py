"""How good the versions on the release are now, measured on the history.

audited predictions, back to where the newest reviews reach -> accuracy, or mean error, with its interval
the newest predictions                                     -> flag rate, confidence and what it promises

A measurement reads what happened since the release, never more than HORIZON; of the unaudited many it takes only the
newest RECENT records. Nothing is kept between two measurements.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np

from monitoring.quality import Audits, Estimate, audited_accuracy, audited_error, estimated_accuracy, flag_rate
from regraft.answers import Answers, Labels
from regraft.events import Arm
from regraft.history import as_utc

HORIZON = timedelta(days=30)
RECENT = 200_000

# Audits of the version back to the one that makes `$most` reviewed ones, reviewed or not: so that the accuracy is that
# of the present, and no prediction is left out for being reviewed late. Strata: what makes reviewers look sooner.
_AUDITS = """
WITH audits AS (
    SELECT DISTINCT ON (id) id, happened_at, label, low, high, audit_probability, shadow_label
    FROM records
    WHERE kind = 'prediction_made' AND audit_probability IS NOT NULL AND version = $version AND happened_at >= $since
), judged AS (
    SELECT a.*, r.label AS truth, {error} AS error, coalesce(f.flagged, false) AS flagged
    FROM audits a LEFT JOIN reviews r ON r.prediction_id = a.id LEFT JOIN flags f ON f.prediction_id = a.id
), oldest AS (
    SELECT min(happened_at) AS happened_at
    FROM (SELECT happened_at FROM judged WHERE error IS NOT NULL ORDER BY happened_at DESC LIMIT $most)
    HAVING count(*) = $most
)
SELECT audit_probability AS probability, error IS NOT NULL AS reviewed, coalesce(error, 0) AS error,
       coalesce(TRY_CAST(truth AS DOUBLE) BETWEEN low AND high, false) AS held,
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
    """One version on the release. `live` rests on audits, and is what `figure` names: the accuracy, or of numbers the
    mean absolute error; `held` is then the share of truths within the intervals. `predictions`, `flag_rate`,
    `expected` (of labels: the accuracy that confidence promises) and `mean_confidence` are of its newest predictions
    and none of them says how often it is right."""

    version: str
    arm: Arm
    since: datetime
    predictions: int
    figure: str
    live: Estimate
    validation: float | None
    expected: Estimate | None
    held: Estimate | None
    flag_rate: Estimate
    mean_confidence: float

    def as_json(self) -> dict[str, Any]:
        """With the figure's own name."""
        shown = {name: value for name, value in asdict(self).items() if value is not None}
        renamed = {"live": self.figure, "expected": f"estimated_{self.figure}", "held": "interval_coverage"}
        named = {renamed.get(name, name): value for name, value in shown.items() if name != "validation"}
        return named | {f"validation_{self.figure}": self.validation}


def measure(
    connection: duckdb.DuckDBPyConnection,
    *,
    version: str,
    arm: Arm,
    released: datetime,
    now: datetime,
    answers: Answers,
    validation: float | None,
    newest_reviews: int,
) -> VersionQuality:
    """The quality of `version`, on a connection of the history. Its accuracy, or error, is over the `newest_reviews`
    reviewed audits and those not yet reviewed among them."""
    since = max(released, now - HORIZON)
    values: dict[str, Any] = {"version": version, "since": as_utc(since)}
    query = _AUDITS.format(error=answers.error.format(truth="r.label", label="a.label"))
    audits = connection.execute(query, values | {"most": newest_reviews}).fetchnumpy()
    recent = connection.execute(_RECENT.format(recent=recent_records(connection)), values).fetchnumpy()
    confidence = np.clip(np.asarray(recent["confidence"], dtype=float), 0, 1)
    flags, of_labels = int(np.sum(recent["flagged"], dtype=int)), isinstance(answers, Labels)
    return VersionQuality(
        version=version,
        arm=arm,
        since=since,
        predictions=len(confidence),
        figure=answers.figures[0],
        live=audited_accuracy(_audits(audits, audits["error"] == 0))
        if of_labels
        else audited_error(_audits(audits, audits["error"])),
        validation=validation,
        expected=estimated_accuracy(confidence) if of_labels else None,
        held=None if of_labels else audited_accuracy(_audits(audits, audits["held"])),
        flag_rate=flag_rate(flags, len(confidence)),
        mean_confidence=float(confidence.mean()) if len(confidence) else float("nan"),
    )


def _audits(rows: Mapping[str, Any], outcome: Any) -> Audits:
    return Audits(
        probability=np.asarray(rows["probability"], dtype=float),
        stratum=np.asarray(rows["stratum"], dtype=np.int64),
        reviewed=np.asarray(rows["reviewed"], dtype=bool),
        outcome=np.asarray(outcome),
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
