"""Servers that log to Kafka, while the test watches with a log of its own, as another machine would."""

from pathlib import Path
from typing import Any

from regraft.errors import LogUnavailable
from regraft.ids import new_id
from tests.brokers import Broker
from tests.faults.counting import PATIENCE
from tests.service.conftest import Installation, installation_in, wait_until


def on_kafka(kafka: Broker, folder: Path, durability: str = "local") -> Installation:
    """With version v1 in production. The relay is not this process's: its log has another outbox."""
    settings = installation_in(folder).settings
    url = f"kafka://{kafka.address}/regraft.{new_id()}"
    log: dict[str, Any] = {"log_url": f"{url}?local={folder}/watcher.sqlite"}
    installation = Installation(settings.model_copy(update=log))
    installation.settings = settings.model_copy(update={"log_url": url, "durability": durability})
    installation.publish("v1")
    wait_until(lambda: released(installation), seconds=PATIENCE)
    return installation


def released(installation: Installation) -> bool:
    """Not at the first try where the broker has just come back."""
    try:
        installation.release("v1")
    except LogUnavailable:
        return False
    return True
