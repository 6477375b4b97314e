"""Kafka goes away and comes back, its relays die or double, the service dies meanwhile, and callers ask all the time:
nothing that was answered is lost or doubled, and no request fails that could be answered."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from regraft.eventlog import SQLiteLog, relay
from regraft.events import PredictionMade
from tests.brokers import Broker
from tests.faults.conftest import on_kafka
from tests.faults.counting import PATIENCE, SECONDS, Tally, outlast, settled, tally, waiting
from tests.service.callers import Callers, calling
from tests.service.conftest import Installation, Server, serving, wait_until

pytestmark = pytest.mark.kafka


class Relayed(NamedTuple):
    """A server whose events another process relays, until that is killed and the server does it itself."""

    server: Server
    relay: subprocess.Popen[bytes]
    outbox: SQLiteLog


@pytest.fixture(scope="module")
def relayed(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relayed]:
    installation = on_kafka(kafka, tmp_path_factory.mktemp("relayed"))
    with ExitStack() as stack:
        one = stack.enter_context(relaying(installation))
        wait_until((installation.settings.home / "outbox.sqlite.relay").exists)
        server = stack.enter_context(serving(installation))
        wait_until(server.ready)
        yield Relayed(server, one, SQLiteLog(installation.settings.home / "outbox.sqlite"))
    installation.log.close()


@contextmanager
def relaying(installation: Installation) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "regraft.eventlog.relay"]
    with subprocess.Popen(command, env=os.environ | installation.settings.as_environment()) as process:
        try:
            yield process
        finally:
            process.terminate()


def written(installation: Installation) -> int:
    """Records of predictions in Kafka, repeated ones too."""
    with closing(installation.log.consumer(kinds=[PredictionMade])) as consumer:
        return consumer.lag()


def counted(what: str, server: Server, callers: Callers) -> Tally:
    """Once all has reached Kafka."""
    settled(server)
    counts = tally(callers, server.installation.log)
    print(f"{what}: {counts}")
    return counts


@pytest.mark.parametrize("fault", ["paused", "killed"])
def test_a_broker_that_is_away_costs_no_answer(kafka: Broker, relayed: Relayed, fault: str) -> None:
    with calling(relayed.server, threads=4, feedback_every=20) as callers:
        wait_until(lambda: len(callers.answers) > 100)
        with getattr(kafka, fault)():
            outlast(callers)
            assert waiting(relayed.server) > 0
        outlast(callers, 1.0)
    counts = counted(f"broker {fault} for {SECONDS:g} s", relayed.server, callers)
    assert callers.failures == []
    assert (counts.lost, counts.doubled, counts.unlogged, counts.untaken) == (0, 0, 0, 0)
    assert counts.slowest < 2


def test_a_relay_that_is_killed_in_mid_batch_loses_and_doubles_nothing(kafka: Broker, relayed: Relayed) -> None:
    with calling(relayed.server, threads=4, batch=25) as callers:
        wait_until(lambda: len(callers.answers) > 100)
        with kafka.paused():
            outlast(callers, then=500)
            done = relayed.outbox.committed(relay.NAME)
        wait_until(lambda: relayed.outbox.committed(relay.NAME) > done, seconds=PATIENCE, every=0.001)
        relayed.relay.send_signal(signal.SIGKILL)
        left = relayed.outbox.behind(relay.NAME).events
    counts = counted(f"relay killed with {left} events to go", relayed.server, callers)
    assert left > 0
    assert callers.failures == []
    assert (counts.lost, counts.doubled, counts.unlogged) == (0, 0, 0)


def test_two_relays_at_work_on_one_log_double_nothing_for_a_consumer(kafka: Broker, relayed: Relayed) -> None:
    """The lease keeps this from happening; its file is taken away, so that two hold one."""
    installation = relayed.server.installation
    before = written(installation)
    (installation.settings.home / "outbox.sqlite.relay").unlink()
    with relaying(installation), calling(relayed.server, threads=4) as callers:
        wait_until(lambda: written(installation) > before + len(callers.answers) + 500, seconds=PATIENCE, every=0.2)
    counts = counted(f"two relays, {written(installation) - before} written", relayed.server, callers)
    assert callers.failures == []
    assert (counts.lost, counts.doubled, counts.unlogged) == (0, 0, 0)


def test_a_service_killed_while_the_broker_is_away_answers_again_before_it_is_back(
    kafka: Broker, tmp_path: Path
) -> None:
    installation = on_kafka(kafka, tmp_path)
    with ExitStack() as stack, serving(installation) as first:
        wait_until(first.ready)
        callers = stack.enter_context(calling(first, threads=4, feedback_every=20))
        wait_until(lambda: len(callers.answers) > 100)
        with kafka.killed():
            outlast(callers)
            for pid in (first.process.pid, *(worker.pid for worker in first.workers())):
                os.kill(pid, signal.SIGKILL)
            second = stack.enter_context(serving(installation))
            wait_until(second.ready, seconds=PATIENCE)
            outlast(callers)
            stale = second.get("/release").json()["stale"]
        wait_until(lambda: second.get("/release").json()["stale"] is None, seconds=PATIENCE)
        callers.stop.set()
        counts = counted("service killed in an outage", second, callers)
    installation.log.close()
    assert "the release cannot be read" in stale
    assert not [failure for failure in callers.failures if failure[0].isdigit()]  # not answered, never answered wrongly
    assert (counts.lost, counts.doubled, counts.unlogged, counts.untaken) == (0, 0, 0, 0)


def test_with_durability_broker_what_is_said_to_be_logged_is_in_kafka(kafka: Broker, tmp_path: Path) -> None:
    installation = on_kafka(kafka, tmp_path, durability="broker")
    with serving(installation) as server:
        wait_until(server.ready)
        with calling(server, threads=4, feedback_every=20) as callers:
            wait_until(lambda: len(callers.answers) > 100)
            with kafka.killed():
                outlast(callers, then=4)
                away = callers.answers[-1]["logged"]
            wait_until(lambda: callers.answers[-1]["logged"], seconds=PATIENCE)
            outlast(callers, 1.0)
        counts = counted("durability broker", server, callers)
    installation.log.close()
    assert away is False
    assert callers.failures == []
    assert (counts.lost, counts.doubled) == (0, 0)
    assert counts.unlogged > 0
