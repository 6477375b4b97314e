"""One cluster and its topics, as all clients of a log share it: made where missing, checked once a process."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, NoError, TopicAlreadyExistsError
from kafka.net.compat import KafkaNetClient

from regraft.errors import ConfigError, LogUnavailable
from regraft.eventlog.address import KafkaAddress


@contextmanager
def unavailable(what: str) -> Iterator[None]:
    """Kafka's errors as ours. Settings that went wrong under way (a password file that is gone) are an outage too."""
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogUnavailable(f"{what}: {str(error) or type(error).__name__}") from error
    except ConfigError as error:
        raise LogUnavailable(f"{what}: {error.message}") from error


class Cluster:
    def __init__(self, address: KafkaAddress) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._partitions: dict[str, int] = {}
        self._failed_at = 0.0
        # kafka-python tells of every broken connection; what it comes to is said once, by who gets LogUnavailable.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)

    def partitions(self) -> dict[str, int]:
        """How many partitions each topic has; topics that are missing are made.

        Raises LogUnavailable without a broker or the right to make them, and where the loop's topic has more than one
        partition: its order would not be one.
        """
        asked_at = time.monotonic()
        with self._lock:
            if not self._partitions:
                if self._failed_at > asked_at:  # by another thread; not each waits for a try of its own
                    raise LogUnavailable(self._unreachable)
                try:
                    with unavailable(self._unreachable):
                        self._partitions = self._ensured()
                except LogUnavailable:
                    self._failed_at = time.monotonic()
                    raise
            return self._partitions

    @property
    def _unreachable(self) -> str:
        return f"Kafka at {', '.join(self.address.servers)} is not to be reached"

    def connect(self, kind: Callable[..., Any], **options: Any) -> Any:
        """A client of this kind. One that finds no broker leaves nothing behind (by itself, 3.0.12, its thread)."""
        network: list[KafkaNetClient] = []

        def remembered(**given: Any) -> KafkaNetClient:
            network.append(KafkaNetClient(**given))
            return network[0]

        try:
            return kind(**self.address.client_options(), **options, kafka_client=remembered)
        except BaseException:
            for one in network:
                one.close()
            raise

    def _ensured(self) -> dict[str, int]:
        wanted = self.address.topics
        with self.connect(KafkaAdminClient) as admin:
            found = _described(admin, wanted)
            if missing := {name: wanted[name] for name in wanted.keys() - found.keys()}:
                made = admin.create_topics(missing, raise_errors=False)["topics"]
                for topic in made:
                    if topic["error_code"] not in (NoError.errno, TopicAlreadyExistsError.errno):  # another was first
                        raise LogUnavailable(f"Kafka makes no topic {topic['name']}: {topic['error_message']}")
                admin.wait_for_topics(list(missing))
                found = _described(admin, wanted)
        if found[self.address.loop] != 1:
            raise LogUnavailable(f"{self.address.loop} has {found[self.address.loop]} partitions and must have one")
        return found


def _described(admin: KafkaAdminClient, topics: dict[str, dict[str, object]]) -> dict[str, int]:
    described = admin.describe_topics(list(topics))
    return {topic["name"]: len(topic["partitions"]) for topic in described if not topic["error_code"]}
