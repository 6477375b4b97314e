"""What each limit says when it is reached, over HTTP and gRPC, and that it leaves the worker as it was."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import httpx
import pytest

from regraft.errors import Overloaded
from service import proto, routes
from service.gate import Gate
from service.grpc_server import GrpcServer
from service.parts import Parts
from tests.service.conftest import Installation, Server, installation_in, serving, wait_until
from tests.service.grpc_caller import infer, text

ONE_AT_A_TIME = {"serving": {"max_requests": 1}}


@pytest.fixture
async def client(parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    app = routes.build()
    app.state.parts = parts
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
async def port(parts: Parts, installation: Installation) -> AsyncIterator[int]:
    """Where gRPC is spoken in this process."""
    server = GrpcServer(parts, host="127.0.0.1", port=installation.settings.grpc_port)
    await server.start()
    yield installation.settings.grpc_port
    await server.stop()


def test_a_gate_lets_so_many_in_and_forgets_who_left() -> None:
    gate = Gate(2)
    with gate, gate:
        for _ in range(3):
            with pytest.raises(Overloaded), gate:
                pytest.fail("it was let in")
    with pytest.raises(ValueError, match="within"), gate:
        raise ValueError("within")
    assert gate.inside == 0


@pytest.mark.parametrize("installation", [ONE_AT_A_TIME], indirect=True)
async def test_who_comes_when_the_worker_is_full_is_told_to_come_again(
    parts: Parts, client: httpx.AsyncClient, port: int
) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ready: Any = channel.unary_unary(f"/{proto.INFERENCE}/ServerReady")
        with parts.gate:
            for path, body in (("/predict", {"input": "a"}), ("/feedback", {}), ("/v2/models/reviews/infer", {})):
                response = await client.post(path, json=body)
                assert response.status_code == 503
                assert response.headers["retry-after"] == "1"
                error = response.json() if path.startswith("/v2") else response.json()["error"]
                assert (error["code"], error["retriable"], error["details"]) == ("overloaded", True, {"limit": 1})
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await infer(channel)(text("hello"))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            trailers = dict(caught.value.trailing_metadata())
            assert (trailers["regraft-code"], trailers["grpc-retry-pushback-ms"]) == ("overloaded", "1000")
            for path in ("/metrics", "/v2/health/live", "/v2/health/ready"):
                assert (await client.get(path)).status_code == 200
            assert await ready(b"")
        assert (await client.post("/predict", json={"input": "a"})).status_code == 200
        assert await infer(channel)(text("hello"))


@pytest.mark.parametrize("installation", [ONE_AT_A_TIME], indirect=True)
async def test_a_grpc_client_that_retries_waits_as_long_as_it_is_told(parts: Parts, port: int) -> None:
    retry = {"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1}
    policy = {"name": [{}], "retryPolicy": retry | {"retryableStatusCodes": ["UNAVAILABLE"]}}
    options = [("grpc.service_config", json.dumps({"methodConfig": [policy]}))]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        began = time.monotonic()
        with parts.gate:
            call = asyncio.ensure_future(_asked(channel))
            async with asyncio.timeout(10):
                while not parts.metrics.errors.labels("overloaded")._value.get():  # noqa: ASYNC110 - no event tells of it
                    await asyncio.sleep(0.01)
        await call
        assert time.monotonic() - began > 0.9


async def _asked(channel: grpc.aio.Channel) -> Any:
    return await infer(channel)(text("hello"))


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits for a body for a moment only, and takes two requests at a time."""
    limits = {"body_seconds": 0.3, "max_requests": 2}
    installation = installation_in(tmp_path_factory.mktemp("hasty"), serving=limits)
    installation.publish("v1")
    installation.release("v1")
    with serving(installation) as running:
        wait_until(running.ready)
        yield running


def slow_body(server: Server) -> socket.socket:
    """A request of which some is still to come."""
    connection = socket.create_connection(("127.0.0.1", server.installation.settings.port), timeout=20)
    head = "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
    connection.sendall(head.encode() + b'{"inp')
    return connection


def test_a_body_that_never_ends_is_a_408_and_costs_the_connection(hasty: Server) -> None:
    with slow_body(hasty) as connection:
        content = b"".join(iter(lambda: connection.recv(4096), b""))  # until the server closes it
    head, _, body = content.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    error = json.loads(body)["error"]
    assert (error["code"], error["retriable"]) == ("request_timeout", True)
    assert "within 0.3 seconds" in error["message"]


def test_slow_clients_fill_a_worker_only_until_their_time_is_up(hasty: Server) -> None:
    slow = [slow_body(hasty) for _ in range(2)]
    wait_until(lambda: hasty.post("/predict", {"input": "a"}).status_code == 503, every=0.005)
    assert hasty.ready()
    wait_until(lambda: hasty.post("/predict", {"input": "a"}).status_code == 200)
    for connection in slow:
        connection.close()


def test_a_body_that_trickles_has_no_more_time_than_others(hasty: Server) -> None:
    with slow_body(hasty) as connection:
        connection.settimeout(0.02)
        content, began = b"", time.monotonic()
        while not content and time.monotonic() - began < 10:
            connection.sendall(b" ")
            try:
                content = connection.recv(4096)
            except TimeoutError:
                continue
        assert content.startswith(b"HTTP/1.1 408 ")
