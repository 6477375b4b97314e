"""The simulated people: callers who send rated snippets, users who flag wrong answers, reviewers who know the crowd."""

import asyncio
import csv
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

DATA = Path(__file__).resolve().parent / "data"
CALLERS = 8
FLAG_SHARE = 0.25  # of the wrong answers that a user sees
REVIEW_SECONDS = 1.0


class Snippet(NamedTuple):
    text: str
    label: str


def snippets(name: str) -> list[Snippet]:
    with (DATA / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        return [Snippet(row["text"], row["label"]) for row in csv.DictReader(stream)]


class Callers:
    """Products that call the service, and their users."""

    def __init__(self, service: str) -> None:
        self._http = httpx.AsyncClient(base_url=service, timeout=30)
        self._random = random.Random(0)
        self.sent = self.right = self.flagged = 0

    async def send(self, source: Iterable[Snippet], *, per_second: float, until: asyncio.Event | None = None) -> None:
        """Send what `source` holds, at most so much a second, until it is empty or `until` is set."""
        waiting = iter(source)
        await asyncio.gather(*(self._caller(waiting, CALLERS / per_second, until) for _ in range(CALLERS)))

    async def serving(self) -> str | None:
        """The version that the service has in production."""
        release: dict[str, Any] = (await self._http.get("/release")).raise_for_status().json()
        production: str | None = (release["serving"] or {}).get("production")
        return production

    async def _caller(self, waiting: Iterator[Snippet], pause: float, until: asyncio.Event | None) -> None:
        for snippet in waiting:
            if until is not None and until.is_set():
                return
            answer, _ = await asyncio.gather(self._ask(snippet), asyncio.sleep(pause))
            await self._perhaps_flag(snippet, answer)

    async def _ask(self, snippet: Snippet) -> dict[str, Any]:
        subject = f"user-{self._random.randrange(500)}"
        response = await self._http.post("/predict", json={"input": snippet.text, "subject": subject})
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        self.sent += 1
        self.right += answer["label"] == snippet.label
        return answer

    async def _perhaps_flag(self, snippet: Snippet, answer: dict[str, Any]) -> None:
        if answer["label"] != snippet.label and self._random.random() < FLAG_SHARE:
            flag = {"prediction_id": answer["prediction_id"], "correct": False}
            (await self._http.post("/feedback", json=flag)).raise_for_status()
            self.flagged += 1


class Reviewers:
    """They work through the review queue; what they answer is what the crowd said of the text."""

    def __init__(self, monitor: str, known: Iterable[Snippet]) -> None:
        self._http = httpx.AsyncClient(base_url=monitor, timeout=60)
        self._crowd = {snippet.text: snippet.label for snippet in known}
        self.reviewed = 0

    async def work(self) -> None:
        while True:
            queue = (await self._http.get("/review/queue", params={"limit": 100})).raise_for_status().json()["items"]
            reviews = [
                {"prediction_id": item["prediction_id"], "label": self._crowd[item["input"]], "reviewer": "crowd"}
                for item in queue
            ]
            if reviews:
                (await self._http.post("/review/labels", json={"reviews": reviews})).raise_for_status()
                self.reviewed += len(reviews)
            await asyncio.sleep(REVIEW_SECONDS)
