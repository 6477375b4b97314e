"""The event log in one SQLite file: write-ahead logging, many processes, nothing else to install.

Offsets are row ids, given under SQLite's single write lock, so they rise in the order of commits and a reader that has
seen offset n will never find a smaller one appear later.

Whatever `append` returned from survives kill -9. It also survives the loss of power, but for predictions of the last
moments: syncing each to disk costs a request more than all the rest of the log (4 ms against 0.03). What people said,
and what state is folded from, is always synced; and a named consumer is shown nothing that is not, so that no offset it
has seen is ever given again.
"""

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from regraft.errors import LogUnavailable
from regraft.eventlog.base import Backlog, Consumer, Record
from regraft.events import KINDS, Event, PredictionMade, decode, encode, kind_of

STREAM = "log"
BUSY_SECONDS = 30.0
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS events (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    at REAL NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS sparse ON events (kind, offset) WHERE kind <> 'prediction_made';
CREATE TABLE IF NOT EXISTS consumers (name TEXT PRIMARY KEY, offset INTEGER NOT NULL, holds INTEGER NOT NULL);
COMMIT;
"""


class SQLiteLog:
    """Each thread has a connection of its own; SQLite's lock orders the writers of all processes."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        weakref.finalize(self, _close_all, self._connections).atexit = False  # for a log that nobody closes
        self._lock = threading.Lock()
        self._made = False

    def append(self, events: Sequence[Event]) -> None:
        rows = [(event.id, kind_of(event), event.at.timestamp(), encode(event).decode()) for event in events]
        synced = not all(isinstance(event, PredictionMade) for event in events)
        try:
            with self._writing(synced=synced) as connection:
                connection.executemany("INSERT OR IGNORE INTO events (id, kind, at, body) VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise LogUnavailable(f"the event log takes no events: {error}") from error

    def consumer(
        self,
        name: str | None = None,
        *,
        kinds: Collection[type[Event]] | None = None,
        start: Mapping[str, int] | None = None,
    ) -> Consumer:
        names = sorted(kind_of(kind) for kind in kinds) if kinds is not None else []
        committed = self.committed(name) if name else 0
        position = committed if start is None else start.get(STREAM, 0)
        return SQLiteConsumer(self, name, names, position)

    def flush(self, seconds: float) -> None:
        """Consumers read what `append` wrote; there is nothing to wait for."""

    def backlog(self) -> Backlog:
        return Backlog(0, 0.0)

    def trim(self, before: datetime) -> int:
        transient = [name for name, kind in KINDS.items() if not kind.retained]
        marks = ", ".join("?" * len(transient))
        with self._writing() as connection:
            cursor = connection.execute(
                "DELETE FROM events WHERE offset <= (SELECT min(offset) FROM consumers WHERE holds) AND at < ?"  # noqa: S608
                f" AND kind IN ({marks})",
                (before.timestamp(), *transient),
            )
            return cursor.rowcount

    def close(self) -> None:
        with self._lock:
            _close_all(self._connections)
            self._local = threading.local()

    def read(self, names: Sequence[str], after: int, limit: int) -> list[tuple[int, str]]:
        where, values = _matching(names)
        query = f"SELECT offset, body FROM events WHERE {where} AND offset > ? ORDER BY offset LIMIT ?"  # noqa: S608
        return self._query(query, (*values, after, limit))

    def count(self, names: Sequence[str], after: int) -> int:
        where, values = _matching(names)
        query = f"SELECT count(*) FROM events WHERE {where} AND offset > ?"  # noqa: S608
        return int(self._query(query, (*values, after))[0][0])

    def commit(self, name: str, offset: int, names: Sequence[str]) -> None:
        """Retention need not wait for a consumer (`holds`) whose kinds all stay for good."""
        holds = not names or any(not KINDS[kind].retained for kind in names)
        try:
            with self._writing() as connection:
                connection.execute("INSERT OR REPLACE INTO consumers VALUES (?, ?, ?)", (name, offset, holds))
        except sqlite3.Error as error:
            raise LogUnavailable(f"the event log keeps no offsets: {error}") from error

    def committed(self, name: str) -> int:
        """The last offset that the consumer `name` is done with."""
        rows = self._query("SELECT offset FROM consumers WHERE name = ?", (name,))
        return int(rows[0][0]) if rows else 0

    def behind(self, name: str) -> Backlog:
        """What `name` has not committed. May count a few too many, never too few, and takes no longer for more."""
        committed = self.committed(name)
        oldest = self._query("SELECT at FROM events WHERE offset > ? ORDER BY offset LIMIT 1", (committed,))
        if not oldest:
            return Backlog(0, 0.0)
        return Backlog(self.end() - committed, max(0.0, time.time() - oldest[0][0]))

    def end(self) -> int:
        """The last offset."""
        return int(self._query("SELECT coalesce(max(offset), 0) FROM events", ())[0][0])

    def sync(self) -> None:
        """Everything that can be read now is on the disk after this. What is no longer in the write-ahead log was
        synced when SQLite moved it from there."""
        with suppress(FileNotFoundError):
            descriptor = os.open(f"{self._path}-wal", os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _query(self, query: str, values: Sequence[object]) -> list[Any]:
        try:
            return self._connection().execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise LogUnavailable(f"the event log cannot be read: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            with self._lock:
                connection = self._local.connection = self._connected()
                self._connections.append(connection)
        return connection

    def _connected(self) -> sqlite3.Connection:
        """Raises LogUnavailable."""
        connection = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            if not self._made:
                connection.executescript(_SCHEMA)
                self._made = True
        except (OSError, sqlite3.Error) as error:
            if connection is not None:
                connection.close()
            raise LogUnavailable(f"the event log {self._path} cannot be opened: {error}") from error
        return connection

    @contextmanager
    def _writing(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction. The write lock is taken first, so that waiting for it cannot end in a stale snapshot."""
        connection = self._connection()
        connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _close_all(connections: list[sqlite3.Connection]) -> None:
    while connections:
        connections.pop().close()


class SQLiteConsumer:
    def __init__(self, log: SQLiteLog, name: str | None, kinds: Sequence[str], position: int) -> None:
        self._log = log
        self._name = name
        self._kinds = kinds
        self._position = position
        self._committed: int | None = None

    def poll(self, limit: int = 1000) -> list[Record]:
        rows = self._log.read(self._kinds, self._position, limit)
        if rows:
            self._position = rows[-1][0]
            if self._name:
                self._log.sync()
        return [Record(STREAM, offset, decode(body)) for offset, body in rows]

    def commit(self) -> None:
        if self._name and self._position != self._committed:
            self._log.commit(self._name, self._position, self._kinds)
            self._committed = self._position

    def lag(self) -> int:
        return self._log.count(self._kinds, self._position)

    def close(self) -> None:
        pass


def _matching(names: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The WHERE clause for these kinds; it repeats the sparse index's own condition so that SQLite uses the index."""
    if not names:
        return "1", ()
    sparse = "" if "prediction_made" in names else "kind <> 'prediction_made' AND "
    return f"{sparse}kind IN ({', '.join('?' * len(names))})", names
