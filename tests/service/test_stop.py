"""A stop cuts nobody off."""

import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.service.conftest import events_of, installation_in, serving, wait_until
from tests.service.grpc_caller import channel_to, infer, labels, request, text


def test_requests_in_flight_are_answered_and_logged_before_the_server_is_gone(tmp_path: Path) -> None:
    installation = installation_in(tmp_path, serving={"sessions": 1, "max_batch": 1})
    installation.publish("slow", behaviour="slow")
    installation.release("slow")
    with serving(installation) as server, ThreadPoolExecutor(8) as callers:
        wait_until(server.ready)
        answers = [callers.submit(server.post, "/predict", {"input": f"hello {number}"}) for number in range(8)]
        wait_until(lambda: len(events_of(installation.log)) >= 1)
        server.process.send_signal(signal.SIGTERM)
        responses = [answer.result() for answer in answers]
        assert server.process.wait(30) == 0
        assert server.workers_left() == []
    assert [response.status_code for response in responses] == [200] * 8
    assert {response.json()["prediction_id"] for response in responses} == {
        event.id for event in events_of(installation.log)
    }
    assert all(response.json()["logged"] for response in responses)


def test_calls_in_flight_are_answered_too_and_those_whose_time_is_over_are_given_up(tmp_path: Path) -> None:
    installation = installation_in(tmp_path, serving={"sessions": 1, "max_batch": 1})
    installation.publish("slow", behaviour="slow")
    installation.release("slow")
    with serving(installation) as server, channel_to(installation.settings.grpc_port) as channel:
        wait_until(server.ready)
        with pytest.raises(grpc.RpcError) as caught:
            infer(channel)(text(*["too much"] * 100), timeout=0.5)
        late: Any = caught.value
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        asked = request(outputs=[{"name": "prediction_id"}])
        calls = [infer(channel).future(asked) for _ in range(8)]
        wait_until(lambda: len(events_of(installation.log)) >= 1)
        server.process.send_signal(signal.SIGTERM)
        answered = {one for call in calls for one in labels(call.result(timeout=30))}
        assert server.process.wait(30) == 0
        assert server.workers_left() == []
    assert len(answered) == 8
    assert answered == {event.id for event in events_of(installation.log)}


def test_workers_do_not_outlive_a_master_that_was_killed(tmp_path: Path) -> None:
    installation = installation_in(tmp_path)
    installation.publish("v1")
    installation.release("v1")
    with serving(installation) as server:
        wait_until(server.ready)
        server.process.kill()
        wait_until(lambda: server.workers_left() == [])
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", installation.settings.port))
