"""The event log on Kafka, with a log on this machine in front of it.

what comes by the thousand -> local SQLite log, durable -> relay -> Kafka   (so answering never waits for a broker)
what state is folded from  -> Kafka, acknowledged by all replicas in sync   (so of two release changes one is first)
consumers                  <- Kafka

With the durability `broker` everything takes the second way.
"""

import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from regraft.errors import LogUnavailable
from regraft.eventlog.address import KafkaAddress
from regraft.eventlog.base import Backlog, Consumer
from regraft.eventlog.cluster import Cluster
from regraft.eventlog.publisher import Publisher
from regraft.eventlog.relay import NAME, Relay
from regraft.eventlog.sqlite import SQLiteLog
from regraft.eventlog.topic_consumer import TopicConsumer
from regraft.events import Event, kind_of

PUBLISH_SECONDS = 10.0  # for one who waits
RELAY_SECONDS = 30.0  # for the relay, which has time
CLOSE_SECONDS = 5.0


class KafkaLog:
    """Makes no connection until one is needed, so that it opens without a broker."""

    def __init__(self, address: KafkaAddress) -> None:
        """Raises ConfigError where the password cannot be read."""
        address.client_options()
        self._straight = address.durability == "broker"
        self._local = SQLiteLog(address.local)
        self._cluster = Cluster(address)
        self._publisher = Publisher(self._cluster, seconds=PUBLISH_SECONDS)
        self._relay = Relay(self._local, Publisher(self._cluster, seconds=RELAY_SECONDS), address.local)
        self._relay.start()
        self._consumers: weakref.WeakSet[TopicConsumer] = weakref.WeakSet()
        self._closed = False

    def append(self, events: Sequence[Event]) -> None:
        """Retained events are published one after the other: where this raises, some of them may be in the log, and the
        same append again completes it."""
        straight = [event for event in events if self._straight or event.retained]
        if straight and (refused := self._publisher.publish(straight)):
            raise LogUnavailable(f"Kafka refuses event {refused[0].event.id}: {refused[0].reason}")
        if first_local := [event for event in events if not (self._straight or event.retained)]:
            self._local.append(first_local)
            self._relay.wake()

    def consumer(
        self,
        name: str | None = None,
        *,
        kinds: Collection[type[Event]] | None = None,
        start: Mapping[str, int] | None = None,
    ) -> Consumer:
        consumer = TopicConsumer(self._cluster, name, {kind_of(kind) for kind in kinds or ()}, start)
        self._consumers.add(consumer)
        return consumer

    def flush(self, seconds: float) -> None:
        end, deadline = self._local.end(), time.monotonic() + seconds
        while self._local.committed(NAME) < end:
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{self.backlog().events} events still wait on this machine for Kafka")
            self._relay.wake()
            time.sleep(0.01)

    def backlog(self) -> Backlog:
        """Events on this machine that Kafka has not acknowledged, whoever appended them."""
        return self._local.behind(NAME)

    def trim(self, before: datetime) -> int:
        """Kafka forgets by itself, as its topics say. Here only what was forwarded is forgotten."""
        self._local.trim(before)
        return 0

    def close(self) -> None:
        """What is local is forwarded first, if Kafka takes it soon; otherwise when the log is opened again.

        Its consumers are closed with it."""
        if not self._closed:
            self._closed = True
            self._relay.stop(CLOSE_SECONDS)
            self._publisher.close()
            for consumer in list(self._consumers):
                consumer.close()
            self._local.close()
