"""The event log: append-only, the only truth about what happened, behind one interface with several backends.

append -> (durable) -> consumers, each of which gets every record of its kinds in the log's order and says with `commit`
how far its work is done. A consumer that dies goes on from its last commit, so it may see records twice, never not at
all; `Event.id` tells a repeated event.
"""

from regraft.errors import ConfigError
from regraft.eventlog.base import Backlog, Consumer, EventLog, Record, replay
from regraft.eventlog.sqlite import SQLiteLog

__all__ = ["Backlog", "Consumer", "EventLog", "Record", "SQLiteLog", "open_log", "replay"]


def open_log(url: str) -> EventLog:
    """The log at `url`, made at its first use. Raises ConfigError for a URL that no backend knows."""
    scheme, _, path = url.partition(":///")
    if scheme == "sqlite" and path:
        return SQLiteLog(path)
    if url.startswith("kafka://"):
        from regraft.eventlog.address import KafkaAddress
        from regraft.eventlog.kafka import KafkaLog  # who has no broker need not load the client

        return KafkaLog(KafkaAddress.parse(url))
    raise ConfigError(f"no event log backend for {url!r}; use sqlite:///path/to/log.sqlite or kafka://host:port/prefix")
