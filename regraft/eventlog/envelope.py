"""Events as Kafka records: CloudEvents 1.0 in binary mode, so that anybody's consumer can read them.

The headers say what it is (the specification's Kafka protocol binding), the value is the event's JSON, the key what
orders it among related events.
"""

import logging
from collections.abc import Iterable

from pydantic import ValidationError

from regraft.events import Event, decode, encode, kind_of

LOGGER = logging.getLogger(__name__)
TYPE_PREFIX = "regraft."
Headers = Iterable[tuple[str, bytes | None]]


def headers_of(event: Event, source: str) -> list[tuple[str, bytes]]:
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": event.id,
        "ce_source": source,
        "ce_type": TYPE_PREFIX + kind_of(event),
        "ce_time": event.at.isoformat(),
        "content-type": "application/json",
    }
    return [(name, value.encode()) for name, value in attributes.items()]


def source_of(prefix: str) -> str:
    """The CloudEvents source, a URI reference: /regraft/reviews for the prefix regraft.reviews."""
    return "/" + prefix.replace(".", "/")


def id_of(headers: Headers) -> str | None:
    """The event's id, for a record that need not be read in full."""
    return next((value.decode(errors="replace") for name, value in headers if name == "ce_id" and value), None)


def body_of(event: Event) -> bytes:
    return encode(event)


def read(value: bytes | None, where: str) -> Event | None:
    """The event in a record; None, and a line in the log, for what strangers or later versions wrote."""
    try:
        return decode(value or b"")
    except ValidationError as error:
        LOGGER.error("%s holds no event that this version knows: %s", where, error.errors()[0]["msg"])  # noqa: TRY400
        return None
