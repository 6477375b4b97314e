"""What became of the events of all that was answered, as a consumer sees it that drops what it has seen."""

import os
import time
from collections import Counter
from contextlib import closing
from typing import NamedTuple

from regraft.eventlog import EventLog
from regraft.events import FeedbackGiven, PredictionMade
from tests.service.callers import Callers
from tests.service.conftest import Server, wait_until

# How long a fault lasts: a few seconds for every change, a minute or more to be sure.
SECONDS = float(os.environ.get("REGRAFT_FAULT_SECONDS", "3"))
PATIENCE = 60.0 + 10 * SECONDS  # until what waited has reached Kafka


class Tally(NamedTuple):
    """`lost` was said to be logged, or was thanked for, and no consumer gets it; `doubled` is what one gets twice."""

    answered: int
    unlogged: int
    feedback: int
    untaken: int
    seen: int
    lost: int
    doubled: int
    failed: int
    slowest: float

    def __str__(self) -> str:
        return (
            f"{self.answered} answered ({self.unlogged} as not logged, slowest {self.slowest:.2f} s), "
            f"{self.feedback} feedbacks taken ({self.untaken} refused), {self.failed} requests failed; "
            f"a consumer sees {self.seen}, lost {self.lost}, doubled {self.doubled}"
        )


def tally(callers: Callers, log: EventLog) -> Tally:
    """`log` is read from its beginning; what callers of other tests left in it counts as seen, not as lost."""
    seen: Counter[str] = Counter()
    with closing(log.consumer(kinds=[PredictionMade, FeedbackGiven])) as consumer:
        while records := consumer.poll():
            seen.update(record.event.id for record in records)
    promised = {answer["prediction_id"] for answer in callers.answers if answer["logged"]} | set(callers.feedback)
    return Tally(
        answered=len(callers.answers),
        unlogged=sum(not answer["logged"] for answer in callers.answers),
        feedback=len(callers.feedback),
        untaken=callers.untaken,
        seen=len(seen),
        lost=len(promised - seen.keys()),
        doubled=sum(count > 1 for count in seen.values()),
        failed=len(callers.failures),
        slowest=callers.slowest,
    )


def outlast(callers: Callers, seconds: float = SECONDS, *, then: int = 50) -> None:
    """Until `seconds` are over and `then` more answers have come."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, seconds=seconds + 1)
    count = len(callers.answers)
    wait_until(lambda: len(callers.answers) >= count + then)


def waiting(server: Server) -> float:
    """Events on the server's machine that Kafka has not acknowledged; 0 without a Kafka."""
    return server.samples()["regraft_outbox_events"]


def settled(server: Server) -> None:
    wait_until(lambda: waiting(server) == 0, seconds=PATIENCE, every=0.1)
