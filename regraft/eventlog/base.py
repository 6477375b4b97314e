"""What every backend of the event log promises; tests/regraft/test_eventlog.py holds each of them to it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar

from regraft.events import Event

E = TypeVar("E", bound=Event)


class Record(NamedTuple):
    """An event where it stands: `offset` rises within a `stream` (the whole log, or one partition of a topic)."""

    stream: str
    offset: int
    event: Event


class Backlog(NamedTuple):
    """What was appended on this machine and cannot be read by consumers yet."""

    events: int
    oldest_seconds: float


class Consumer(Protocol):
    """One reader's way through the log. Not for several threads at once."""

    def poll(self, limit: int = 1000) -> list[Record]:
        """The next records, at most `limit`, at once; an empty list when there are none yet."""
        ...

    def commit(self) -> None:
        """All that was polled is done with. A consumer without a name has nothing to commit."""
        ...

    def lag(self) -> int:
        """How many records of its kinds are still to be polled. Kafka may count too many, never too few."""
        ...

    def close(self) -> None: ...


class EventLog(Protocol):
    """Safe to use from several threads and several processes at once. It is opened at its first use, and again after a
    failure: a disk that is away, or a broker, at the start is no other outage than one in mid-work."""

    def append(self, events: Sequence[Event]) -> None:
        """Durable when it returns; all of `events` or none. An event whose id the log already has is left out, here or,
        on Kafka, by consumers. What is durable may reach consumers a little later; see `flush`.

        Raises LogUnavailable when the log takes no events (a full or failing disk, a lock that is never let go).
        """
        ...

    def consumer(
        self,
        name: str | None = None,
        *,
        kinds: Collection[type[Event]] | None = None,
        start: Mapping[str, int] | None = None,
    ) -> Consumer:
        """A reader of `kinds` (None: all). It goes on after `start` (last offset done, by stream; a stream that is not
        in it from the beginning) if given, else after what `name` committed, else from the beginning. Retention waits
        for every name that ever committed."""
        ...

    def flush(self, seconds: float) -> None:
        """Wait until what was appended here before can be read by consumers. Raises LogUnavailable after `seconds`."""
        ...

    def backlog(self) -> Backlog:
        """Nothing, unless the log has a relay. Raises LogUnavailable."""
        ...

    def trim(self, before: datetime) -> int:
        """Forget events older than `before` that every named consumer has passed; say how many.

        Kinds marked `retained` stay for good. Kafka does this by itself."""
        ...

    def close(self) -> None:
        """Safe to call twice."""
        ...


def replay(log: EventLog, kind: type[E]) -> Iterator[E]:
    """Every event of `kind` that is in the log now, from the beginning."""
    with closing(log.consumer(kinds=[kind])) as consumer:
        while records := consumer.poll():
            for record in records:
                assert isinstance(record.event, kind)
                yield record.event
