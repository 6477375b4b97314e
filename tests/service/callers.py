"""Clients that keep a server busy from threads, and remember every answer."""

import http.client
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.service.conftest import Server

HEADERS = {"content-type": "application/json"}
RECONNECT_SECONDS = 0.02


@dataclass
class Callers:
    """`answers` are the predictions of all 200s, `feedback` the ids of what was taken with thanks, `untaken` how often
    feedback was refused because the log takes no events; `failures` is whatever else came back or broke."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    feedback: list[str] = field(default_factory=list)
    untaken: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def calling(
    server: Server, *, threads: int, batch: int = 1, at_most: int | None = None, feedback_every: int = 0
) -> Iterator[Callers]:
    """Until the block ends, or `at_most` predictions are answered. What fails is sent again, so is feedback that was
    not taken; it is given to one answer in `feedback_every`."""
    callers = Callers()
    port = server.installation.settings.port
    workers = [
        threading.Thread(target=_Caller(port, callers, number, batch, feedback_every).run, args=(at_most,))
        for number in range(threads)
    ]
    for worker in workers:
        worker.start()
    try:
        yield callers
    finally:
        callers.stop.set()
        for worker in workers:
            worker.join()


class _Caller:
    """One connection."""

    def __init__(self, port: int, callers: Callers, number: int, batch: int, feedback_every: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
        self._callers = callers
        self._number = number
        self._batch = batch
        self._feedback_every = feedback_every
        self._owed: deque[dict[str, Any]] = deque()
        self._count = 0

    def run(self, at_most: int | None) -> None:
        while not self._callers.stop.is_set() and (at_most is None or len(self._callers.answers) < at_most):
            self._predict()
            if self._owed:
                self._give_feedback(self._owed[0])
        self._connection.close()

    def _predict(self) -> None:
        texts = [f"caller {self._number} says {self._count} {place}" for place in range(self._batch)]
        path, body = ("/predict", {"input": texts[0]}) if self._batch == 1 else ("/predict/batch", {"inputs": texts})
        began = time.monotonic()
        status, content = self._post(path, body | {"subject": f"{self._number} {self._count}"})
        if status != 200:
            self._failed(status, content)
            return
        self._callers.slowest = max(self._callers.slowest, time.monotonic() - began)
        answer = json.loads(content)
        self._callers.answers += [answer] if self._batch == 1 else answer["predictions"]
        self._count += 1
        if self._feedback_every and self._count % self._feedback_every == 0:
            self._owed.append({"prediction_id": self._callers.answers[-1]["prediction_id"], "correct": False})

    def _give_feedback(self, body: dict[str, Any]) -> None:
        status, content = self._post("/feedback", body)
        if status == 202:
            self._callers.feedback.append(json.loads(content)["feedback_id"])
            self._owed.popleft()
        elif status == 503 and json.loads(content)["error"]["code"] == "log_unavailable":
            self._callers.untaken += 1
        else:
            self._failed(status, content)

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status 0 and the error where the connection broke."""
        try:
            self._connection.request("POST", path, json.dumps(body), HEADERS)
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self._callers.stop.wait(RECONNECT_SECONDS)
            return 0, repr(error).encode()

    def _failed(self, status: int, content: bytes) -> None:
        self._callers.failures.append(f"{status} {content.decode()}" if status else content.decode())
