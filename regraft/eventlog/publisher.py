"""Events to Kafka, acknowledged by all replicas that are in sync before `publish` returns."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from kafka import KafkaProducer
from kafka.errors import InvalidConfigurationError, KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from regraft.errors import LogUnavailable
from regraft.eventlog.cluster import Cluster, unavailable
from regraft.eventlog.envelope import body_of, headers_of, source_of
from regraft.events import Event

_REFUSALS = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidConfigurationError)


class Refused(NamedTuple):
    """An event that Kafka will never take, and why (it is too large for the topic)."""

    event: Event
    reason: str


class Publisher:
    """Safe to use from several threads. Connects when first used, and anew after a failure.

    Within a partition the order of events is the order of the calls and of `events` in each: the producer is
    idempotent, so its own retries neither double nor reorder, and what one call sends expires together.
    """

    def __init__(self, cluster: Cluster, *, seconds: float) -> None:
        """`seconds`: how long Kafka may take to acknowledge, retries included."""
        self._cluster = cluster
        self._seconds = seconds
        self._source = source_of(cluster.address.prefix)
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None
        self._closed = False

    def publish(self, events: Sequence[Event]) -> list[Refused]:
        """All but those refused are durable at the broker. Raises LogUnavailable: then any part of them may be."""
        self._cluster.partitions()
        producer = None
        try:
            with unavailable("Kafka takes no events"):
                producer = self._opened()
                return self._sent(producer, events)
        except LogUnavailable:
            self._drop(producer)
            raise

    def close(self) -> None:
        """At once, for good; `publish` calls that are under way fail."""
        self._closed = True
        self._drop(self._producer)

    def _sent(self, producer: KafkaProducer, events: Sequence[Event]) -> list[Refused]:
        refused, sent = [], []
        for event in events:
            topic, key = self._cluster.address.topic(event), event.key.encode()
            try:
                future = producer.send(topic, body_of(event), key=key, headers=headers_of(event, self._source))
            except _REFUSALS as error:
                refused.append(Refused(event, str(error)))
            else:
                sent.append((event, future))
        deadline = time.monotonic() + self._seconds + 1
        for event, future in sent:
            try:
                future.get(timeout=max(0.0, deadline - time.monotonic()))
            except _REFUSALS as error:
                refused.append(Refused(event, str(error)))
        return refused

    def _opened(self) -> KafkaProducer:
        with self._lock:
            if self._closed:
                raise LogUnavailable("the event log is closed")
            if self._producer is None:
                self._producer = self._cluster.connect(
                    KafkaProducer,
                    acks="all",
                    enable_idempotence=True,
                    allow_auto_create_topics=False,
                    max_block_ms=self._seconds * 1000,
                    delivery_timeout_ms=self._seconds * 1000,
                    batch_size=256 * 1024,
                    metrics_enabled=False,
                )
            return self._producer

    def _drop(self, producer: KafkaProducer | None) -> None:
        with self._lock:
            mine = producer is not None and producer is self._producer
            if mine:
                self._producer = None
        if producer is None or not mine:
            return
        # KafkaProducer.close (3.0.12) raises and closes nothing while anything is on its way: that is failed first.
        producer._sender.force_close()
        producer._sender.join(self._seconds)
        with suppress(KafkaError):
            producer.close(timeout=0)
