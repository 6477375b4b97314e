"""Follows the event log and tells what happens in it, with the evidence."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from regraft.eventlog import EventLog
from regraft.events import (
    CandidateRefused,
    CandidateRegistered,
    ColumnDrift,
    DriftMeasured,
    Event,
    ReleaseChanged,
    RetrainingRequested,
    VerdictReached,
)

TOLD = (DriftMeasured, RetrainingRequested, CandidateRegistered, CandidateRefused, VerdictReached, ReleaseChanged)
_START = time.monotonic()

E = TypeVar("E", bound=Event)


def say(text: str) -> None:
    seconds = int(time.monotonic() - _START)
    first, *more = text.splitlines()
    print(
        f"{seconds // 60:02d}:{seconds % 60:02d}  {first}", *(f"       {line}" for line in more), sep="\n", flush=True
    )


class StoryError(Exception):
    """A step of the story did not happen."""


class Timeline:
    def __init__(self, log: EventLog) -> None:
        self._consumer = log.consumer(kinds=TOLD)
        self.events: list[Event] = []
        self._news = asyncio.Condition()

    async def follow(self) -> None:
        while True:
            for record in self._consumer.poll():
                say(describe(record.event))
                async with self._news:
                    self.events.append(record.event)
                    self._news.notify_all()
            await asyncio.sleep(0.2)

    def events_of(self, kind: type[E], such: Callable[[E], bool] = lambda _: True) -> list[E]:
        return [event for event in self.events if isinstance(event, kind) and such(event)]

    async def wait_for(
        self,
        kind: type[E],
        such: Callable[[E], bool] = lambda _: True,
        *,
        seconds: float,
        count: int = 1,
        unless: type[Event] | None = None,
    ) -> E:
        """The `count`-th event of `kind` that is `such`.

        Raises StoryError when it has not come after `seconds`, or an event of the kind `unless` has.
        """

        def failed() -> bool:
            return unless is not None and bool(self.events_of(unless))

        async with self._news:
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait_for(lambda: len(self.events_of(kind, such)) >= count or failed())
            except TimeoutError:
                raise StoryError(f"no {kind.__name__} of the kind expected came within {seconds:.0f} s") from None
        if failed():
            raise StoryError(f"instead of a {kind.__name__} came a {unless}")
        return self.events_of(kind, such)[count - 1]


def describe(event: Event) -> str:
    match event:
        case DriftMeasured(drifted=False):
            return f"drift check of {event.rows} predictions: none (p = {event.p_value:.3f})"
        case DriftMeasured():
            moved = [f"{name} {c.statistic:.2f} (limit {c.threshold:.2f})" for name, c in _moved(event)]
            return (
                f"DRIFT in {event.rows} predictions (p = {event.p_value:.4f}): {len(moved)} columns, the most in\n"
                + (", ".join(moved[:4]))
            )
        case RetrainingRequested():
            return f"RETRAINING requested with {event.new_labels} new labels, because\n" + "\n".join(event.reasons)
        case CandidateRegistered():
            return f"CANDIDATE {event.version} trained and registered"
        case CandidateRefused():
            return f"candidate refused: {event.reason}"
        case VerdictReached():
            return f"VERDICT {event.outcome}: {event.reason}"
        case ReleaseChanged():
            candidate = f", candidate {event.candidate} with {event.share:.0%}" if event.candidate else ""
            return f"RELEASE by {event.who}: production {event.production}{candidate}\n{event.why}"
        case _:
            return str(event)


def _moved(event: DriftMeasured) -> list[tuple[str, ColumnDrift]]:
    """The drifted columns, those furthest above their limit first."""
    moved = [(name, column) for name, column in event.columns.items() if column.drifted]
    return sorted(moved, key=lambda item: -item[1].statistic / item[1].threshold)
