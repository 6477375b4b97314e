"""kill -9 loses no answer and doubles none."""

import random
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.service.callers import Callers, calling
from tests.service.conftest import Server, events_of, installation_in, serving, wait_until

ONE_BY_ONE, IN_BATCHES, BATCH = 6_000, 14_000, 25
KILLS = 5


@pytest.mark.slow
def test_a_killed_worker_takes_no_answered_prediction_with_it(tmp_path: Path) -> None:
    chance = random.Random(0)
    installation = installation_in(tmp_path, workers=2)
    installation.publish("v1")
    installation.release("v1")
    with serving(installation) as server:
        wait_until(lambda: server.ready() and len(server.workers()) == 2)
        with calling(server, threads=6, at_most=ONE_BY_ONE) as single:
            _kill_at(server, single, sorted(chance.sample(range(ONE_BY_ONE), 3)), chance)
            wait_until(lambda: len(single.answers) >= ONE_BY_ONE, seconds=120)
        with calling(server, threads=6, batch=BATCH, at_most=IN_BATCHES) as batched:
            _kill_at(server, batched, sorted(chance.sample(range(IN_BATCHES), 2)), chance)
            wait_until(lambda: len(batched.answers) >= IN_BATCHES, seconds=120)
    answers = [*single.answers, *batched.answers]
    logged = Counter(event.id for event in events_of(installation.log))
    lost = sum(logged[answer["prediction_id"]] == 0 for answer in answers)
    doubled = sum(count > 1 for count in logged.values())
    broken = len(single.failures) + len(batched.failures)
    print(f"{len(answers)} answered, {KILLS} kills, {broken} connections broken, {lost} lost, {doubled} doubled")
    assert all(answer["logged"] for answer in answers)
    assert len({answer["prediction_id"] for answer in answers}) == len(answers) >= ONE_BY_ONE + IN_BATCHES
    assert (lost, doubled) == (0, 0)
    assert not [failure for failure in single.failures + batched.failures if failure[0].isdigit()]


def _kill_at(server: Server, callers: Callers, moments: list[int], chance: random.Random) -> None:
    for moment in moments:
        wait_until(partial(_reached, server, callers, moment), seconds=120, every=0.002)
        chance.choice(_living(server)).send_signal(signal.SIGKILL)


def _reached(server: Server, callers: Callers, answers: int) -> bool:
    return len(callers.answers) >= answers and bool(_living(server))


def _living(server: Server) -> list[psutil.Process]:
    return [worker for worker in server.workers() if worker.status() != psutil.STATUS_ZOMBIE]
