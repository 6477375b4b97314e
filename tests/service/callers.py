"""Clients that keep a server busy from threads, and remember every answer."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.service.conftest import Server

HEADERS = {"content-type": "application/json"}


@dataclass
class Callers:
    """`answers` are the predictions of all 200s; `failures` whatever else came back or broke."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def calling(server: Server, *, threads: int, batch: int = 1, at_most: int | None = None) -> Iterator[Callers]:
    """Until the block ends, or `at_most` predictions are answered. What fails is sent again."""
    callers = Callers()
    workers = [
        threading.Thread(target=_call, args=(server.installation.settings.port, callers, number, batch, at_most))
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


def _call(port: int, callers: Callers, number: int, batch: int, at_most: int | None) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
    path = "/predict" if batch == 1 else "/predict/batch"
    count = 0
    while not callers.stop.is_set() and (at_most is None or len(callers.answers) < at_most):
        texts = [f"caller {number} says {count} {place}" for place in range(batch)]
        body: dict[str, Any] = {"input": texts[0]} if batch == 1 else {"inputs": texts}
        body["subject"] = f"{number} {count}"
        try:
            connection.request("POST", path, json.dumps(body), HEADERS)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            callers.failures.append(repr(error))
            connection.close()
            continue
        if response.status == 200:
            answer = json.loads(content)
            callers.answers += [answer] if batch == 1 else answer["predictions"]
            count += 1
        else:
            callers.failures.append(f"{response.status} {content.decode()}")
    connection.close()
