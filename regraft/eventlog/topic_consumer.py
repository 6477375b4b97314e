"""One reader's way through the topics of a log on Kafka.

fetch -> drop what the partition has shown before (by event id) -> keep the wanted kinds -> the caller works -> commit

All partitions are assigned by hand: every reader sees everything, whatever others do, and no rebalancing stops it. What
a named reader commits stands in Kafka under the group prefix.name, where every tool for lag finds it.
"""

import logging
import time
import weakref
from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import kafka
from kafka.structs import OffsetAndMetadata, TopicPartition

from regraft.errors import LogUnavailable
from regraft.eventlog.base import Record
from regraft.eventlog.cluster import Cluster, unavailable
from regraft.eventlog.envelope import id_of, read
from regraft.events import KINDS, Event, kind_of

LOGGER = logging.getLogger(__name__)
WINDOW = 5_000  # ids remembered of each partition; of the loop, which is small, all
LOOK_BACK = 1_000  # records before the start whose ids are learnt, of each partition; of the loop, all
POLL_SECONDS = 10.0  # that Kafka may take to show what it has
RECOMMIT_SECONDS = 3600.0  # Kafka forgets the offsets of a group that commits nothing for a week
_MS = 5_000


class Seen:
    """The last `most` ids (None: all)."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._ids: set[str] = set()
        self._order: deque[str] = deque()

    def add(self, event_id: str) -> bool:
        """Whether it is new."""
        if event_id in self._ids:
            return False
        self._ids.add(event_id)
        if self._most is not None:
            self._order.append(event_id)
            if len(self._order) > self._most:
                self._ids.discard(self._order.popleft())
        return True


class TopicConsumer:
    """Connects at the first poll, so that a reader can be made without a broker."""

    def __init__(
        self, cluster: Cluster, name: str | None, kinds: AbstractSet[str], start: Mapping[str, int] | None
    ) -> None:
        """`kinds` empty: all of them."""
        self._cluster = cluster
        self._name = name
        self._kinds = kinds
        self._start = start
        self._client: Any = None
        self._from: dict[Any, int] = {}  # by partition: the first offset to deliver
        self._seen: dict[Any, Seen] = {}
        self._committed: dict[Any, int] = {}
        self._committed_at = 0.0

    def poll(self, limit: int = 1000) -> list[Record]:
        """Raises LogUnavailable when Kafka does not show what it has; a later call goes on where this one stood."""
        deadline = time.monotonic() + POLL_SECONDS
        wait_ms = 0
        with unavailable("the event log cannot be read"):
            client = self._opened()
            while True:
                fetched = client.poll(timeout_ms=wait_ms, max_records=limit)
                if records := self._wanted(fetched):
                    return records
                if not fetched and self._at_end(client):
                    return []
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"the event log shows nothing new within {POLL_SECONDS:.0f} s, and has some")
                wait_ms = 50

    def commit(self) -> None:
        if self._name is None or self._client is None:
            return
        positions = {partition: self._position(partition) for partition in self._from}
        if positions == self._committed and time.monotonic() - self._committed_at < RECOMMIT_SECONDS:
            return
        with unavailable("the event log keeps no offsets"):
            offsets = {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in positions.items()}
            self._client.commit(offsets, timeout_ms=_MS)
        self._committed, self._committed_at = positions, time.monotonic()

    def lag(self) -> int:
        """May count too many, never too few: repeated events and, of the loop, other kinds too."""
        with unavailable("the event log cannot be read"):
            ends = self._opened().end_offsets(list(self._from), timeout_ms=_MS)
            return sum(max(0, ends[partition] - self._position(partition)) for partition in self._from)

    def close(self) -> None:
        if self._client is not None:
            self._close()
            self._client = None

    def _wanted(self, fetched: Mapping[Any, Any]) -> list[Record]:
        records = []
        for partition, messages in fetched.items():
            stream, seen, first = _stream(partition), self._seen[partition], self._from[partition]
            for message in messages:
                event_id = id_of(message.headers)
                if message.offset < first and event_id is not None:
                    seen.add(event_id)
                    continue
                event = read(message.value, f"{stream} at {message.offset}")
                if event is None or not seen.add(event.id) or message.offset < first:
                    continue
                if self._wants(event):
                    records.append(Record(stream, message.offset, event))
        return records

    def _wants(self, event: Event) -> bool:
        return not self._kinds or kind_of(event) in self._kinds

    def _at_end(self, client: Any) -> bool:
        ends = client.end_offsets(list(self._from), timeout_ms=_MS)
        return all((client.position(partition, timeout_ms=_MS) or 0) >= end for partition, end in ends.items())

    def _position(self, partition: Any) -> int:
        """The next offset to deliver; while ids are being learnt, the client stands before it."""
        return max(self._from[partition], self._client.position(partition, timeout_ms=_MS) or 0)

    def _opened(self) -> Any:
        if self._client is None:
            counts = self._cluster.partitions()
            address = self._cluster.address
            client = self._cluster.connect(
                kafka.KafkaConsumer,
                group_id=f"{address.prefix}.{self._name}" if self._name else None,
                enable_auto_commit=False,
                fetch_max_wait_ms=5,  # a fetch that waits holds up the question where the end is
                auto_offset_reset="earliest",
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
            partitions = [TopicPartition(topic, number) for topic in self._topics() for number in range(counts[topic])]
            try:
                self._place(client, partitions)
            except BaseException:
                client.close(autocommit=False, timeout_ms=0)
                raise
            self._client = client
            # Also for a reader that is forgotten and not closed: its thread and its sockets must not outlive it.
            self._close = weakref.finalize(self, client.close, autocommit=False, timeout_ms=0)
            self._close.atexit = False
        return self._client

    def _place(self, client: Any, partitions: list[Any]) -> None:
        """Where each partition is read from, and, some way before, where its ids are learnt from."""
        client.assign(partitions)
        begins = client.beginning_offsets(partitions, timeout_ms=_MS)
        ends = client.end_offsets(partitions, timeout_ms=_MS)
        for partition in partitions:
            first = self._first(client, partition)
            begin, end = begins[partition], ends[partition]
            if first is not None and first > end:
                raise LogUnavailable(
                    f"{_stream(partition)} ends at {end}, and {first} was already reached: this is another log"
                )
            if first is not None and first < begin:
                LOGGER.warning("%s was kept from %s on only, %s was next", _stream(partition), begin, first)
            first = max(begin, first or 0)
            in_loop = partition.topic == self._cluster.address.loop
            client.seek(partition, begin if in_loop else max(begin, first - LOOK_BACK))
            self._from[partition] = first
            self._seen[partition] = Seen(None if in_loop else WINDOW)

    def _first(self, client: Any, partition: Any) -> int | None:
        if self._start is not None:
            return self._start.get(_stream(partition), -1) + 1
        committed: int | None = client.committed(partition, timeout_ms=_MS) if self._name else None
        return committed

    def _topics(self) -> list[str]:
        address = self._cluster.address
        return sorted({address.topic(KINDS[kind]) for kind in self._kinds or KINDS})


def _stream(partition: Any) -> str:
    return f"{partition.topic}-{partition.partition}"
