"""Which predictions the next drift check looks at, and where its report goes."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import fsspec

from monitoring.live import HORIZON
from monitoring.loop import LoopState
from regraft.errors import NotFound
from regraft.history import as_utc
from regraft.sections import Drift

_FRESH = "kind = 'prediction_made' AND version = $version AND happened_at > $after"

_COUNT = f"SELECT count(DISTINCT id) FROM records WHERE {_FRESH}"  # noqa: S608

# First how far back the window reaches, on one narrow column (even if each event should stand there four times), then
# the few rows themselves.
_NEWEST = f"""
WITH reach AS (
    SELECT min(happened_at) AS start
    FROM (SELECT happened_at FROM records WHERE {_FRESH} ORDER BY happened_at DESC LIMIT 4 * $most)
), newest AS (
    SELECT DISTINCT ON (id) id, happened_at, input, label, confidence, features
    FROM records WHERE {_FRESH} AND happened_at >= (SELECT start FROM reach)
)
SELECT happened_at, input, label, confidence, features FROM newest ORDER BY happened_at DESC, id DESC LIMIT $most
"""  # noqa: S608


@dataclass(frozen=True)
class Window:
    """The newest rows that no earlier check has seen, in order of time."""

    start: datetime
    end: datetime
    rows: list[dict[str, Any]]


def begins(state: LoopState, now: datetime) -> datetime:
    """After this moment a prediction is fresh: answered since the release and since the last check's window."""
    last = state.newest_check.window_end if state.newest_check else now - HORIZON
    return max(last, state.production_since or last, now - HORIZON)


def count_fresh(connection: duckdb.DuckDBPyConnection, state: LoopState, now: datetime) -> int:
    values = {"version": state.release.production, "after": as_utc(begins(state, now))}
    return int(connection.execute(_COUNT, values).fetchall()[0][0])


def fresh(connection: duckdb.DuckDBPyConnection, state: LoopState, rules: Drift, now: datetime) -> Window | None:
    """The window of the next check of the production version; None while it has fewer rows than the task wants."""
    values = {"version": state.release.production, "after": as_utc(begins(state, now)), "most": rules.window}
    columns = ("happened_at", "input", "label", "confidence", "features")
    found = [dict(zip(columns, row, strict=True)) for row in connection.execute(_NEWEST, values).fetchall()][::-1]
    if len(found) < rules.minimum:
        return None
    start, end = (row["happened_at"].replace(tzinfo=UTC) for row in (found[0], found[-1]))
    return Window(start, end, found)


class Reports:
    """HISTORY/drift/<id>.html"""

    def __init__(self, history_url: str) -> None:
        self._fs, root = fsspec.core.url_to_fs(history_url)
        self._folder = f"{root}/drift"

    def save(self, check_id: str, html: str) -> str:
        """Returns the report's place under the history."""
        self._fs.makedirs(self._folder, exist_ok=True)
        part = f"{self._folder}/.{check_id}.part"
        self._fs.pipe_file(part, html.encode())
        self._fs.mv(part, self._path(check_id))
        return f"drift/{check_id}.html"

    def read(self, check_id: str) -> bytes:
        """Raises NotFound; an id is hexadecimal, so that none leads out of the folder."""
        if not re.fullmatch(r"[0-9a-f]{32}", check_id):
            raise NotFound(f"there is no drift report {check_id!r}")
        try:
            return bytes(self._fs.cat_file(self._path(check_id)))
        except FileNotFoundError as error:
            raise NotFound(f"there is no drift report {check_id!r}") from error

    def _path(self, check_id: str) -> str:
        return f"{self._folder}/{check_id}.html"
