"""How a text is asked and an answer read, as bytes on a connection: one Wire for each way of asking.

text -> `prepare` -> a question, made before the clock runs -> Talk.ask -> bytes.  bytes that came -> Talk.take ->
a whole answer or None.  Reply -> `read` -> label and probabilities, after the clock has stopped.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Answered(NamedTuple):
    """`logged` where the server says so."""

    label: str
    probabilities: list[float]
    logged: bool | None = None


class Reply(NamedTuple):
    """One whole answer as it came; for what is no answer, what there is to say of it."""

    ok: bool
    body: bytes


class Talk(Protocol):
    """One connection, on which the next question is asked when the last is answered."""

    def opening(self) -> bytes:
        """What is said before the first question."""

    def ask(self, question: bytes) -> bytes:
        """How `question` goes over this connection."""

    def take(self, data: bytes) -> Reply | None:
        """The answer, once all of it has come. Raises ConnectionError when there is no going on."""

    def owed(self) -> bytes:
        """What the server is to be told because of what came, beside the next question."""


class Wire(Protocol):
    def prepare(self, text: str) -> bytes: ...

    def talk(self) -> Talk: ...

    def read(self, reply: Reply) -> Answered:
        """Raises ValueError, KeyError, IndexError or TypeError for what is no answer."""


class Body(NamedTuple):
    """JSON, and what comes after it in the Open Inference Protocol's binary form."""

    json: bytes
    raw: bytes = b""


@dataclass(frozen=True)
class Http:
    """HTTP/1.1, the connection kept alive."""

    path: str
    ask: Callable[[str], Body]
    parse: Callable[[bytes], Answered]

    def prepare(self, text: str) -> bytes:
        body = self.ask(text)
        lines = [
            *(f"POST {self.path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"),
            f"content-length: {len(body.json) + len(body.raw)}",
            *([f"inference-header-content-length: {len(body.json)}"] if body.raw else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body.json + body.raw

    def talk(self) -> Talk:
        return HttpTalk()

    def read(self, reply: Reply) -> Answered:
        if not reply.ok:
            raise ValueError("another status than 200")
        return self.parse(reply.body)


class HttpTalk:
    def __init__(self) -> None:
        self._buffer = bytearray()

    def opening(self) -> bytes:
        return b""

    def ask(self, question: bytes) -> bytes:
        return question

    def owed(self) -> bytes:
        return b""

    def take(self, data: bytes) -> Reply | None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._buffer[:end]).lower()
        place = head.find(b"\r\ncontent-length:")
        if place < 0:
            raise ConnectionError(f"an answer without content-length: {head[:200]!r}")
        start = end + 4
        stop = start + int(head[place + 17 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < stop:
            return None
        body = bytes(self._buffer[start:stop])
        del self._buffer[:stop]
        ok = head[9:12] == b"200"
        return Reply(ok, body if ok else head.split(b"\r\n", 1)[0] + b" " + body)


def _json(path: str, ask: Callable[[str], Any], parse: Callable[[Any], Answered]) -> Http:
    return Http(path, lambda text: Body(json.dumps(ask(text)).encode()), lambda body: parse(json.loads(body)))


def _plain(answer: Any) -> Answered:
    return Answered(answer["label"], answer["probabilities"])


def _native(answer: Any) -> Answered:
    return Answered(answer["label"], list(answer["probabilities"].values()), answer["logged"])


# What the documentation of the servers that Regraft is compared with leads to, and Regraft's own.
PLAIN = _json("/predict", lambda text: {"text": text}, _plain)
BATCH_OF_ONE = _json("/predict", lambda text: {"texts": [text]}, lambda answer: _plain(answer[0]))
INFERENCE = _json("/inference", lambda text: {"text": text}, _plain)
NATIVE = _json("/predict", lambda text: {"input": text}, _native)
