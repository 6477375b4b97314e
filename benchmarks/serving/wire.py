"""How a text is asked and an answer read, as bytes on a connection: one Protocol each way of asking.

text -> `request` -> bytes, made before the clock runs.  bytes that came -> `take` -> a whole answer or None.
Reply -> `read` -> label and probabilities, after the clock has stopped.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Answered(NamedTuple):
    label: str
    probabilities: list[float]


class Reply(NamedTuple):
    """One whole answer as it came."""

    ok: bool
    body: bytes


@dataclass(frozen=True)
class Http:
    """JSON over HTTP/1.1, the connection kept alive."""

    path: str
    ask: Callable[[str], Any]
    parse: Callable[[Any], Answered]

    def request(self, text: str) -> bytes:
        body = json.dumps(self.ask(text)).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def take(self, buffer: bytearray) -> Reply | None:
        """The answer that `buffer` begins with, taken out of it; None while it is not complete."""
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(buffer[:end]).lower()
        place = head.find(b"\r\ncontent-length:")
        if place < 0:
            raise ValueError(f"an answer without content-length: {head[:200]!r}")
        start = end + 4
        stop = start + int(head[place + 17 :].split(b"\r\n", 1)[0])
        if len(buffer) < stop:
            return None
        body = bytes(buffer[start:stop])
        del buffer[:stop]
        return Reply(head[9:12] == b"200", body)

    def read(self, reply: Reply) -> Answered:
        """Raises ValueError, KeyError, IndexError or TypeError for what is no answer."""
        if not reply.ok:
            raise ValueError("another status than 200")
        return self.parse(json.loads(reply.body))


def _plain(answer: Any) -> Answered:
    return Answered(answer["label"], answer["probabilities"])


def _native(answer: Any) -> Answered:
    if answer["logged"] is False:
        raise ValueError("answered without being logged")
    return Answered(answer["label"], list(answer["probabilities"].values()))


# By the name that the table shows. The first three are what the others' documentation leads to.
PROTOCOLS = {
    "HTTP": Http("/predict", lambda text: {"text": text}, _plain),
    "HTTP, batch of one": Http("/predict", lambda text: {"texts": [text]}, lambda answer: _plain(answer[0])),
    "HTTP /inference": Http("/inference", lambda text: {"text": text}, _plain),
    "HTTP /predict": Http("/predict", lambda text: {"input": text}, _native),
}
