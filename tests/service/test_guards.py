"""Who is let in over HTTP and gRPC where there are keys; and that one real server reads them from its file."""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from fastapi.routing import APIRoute
from grpc_health.v1 import health_pb2, health_pb2_grpc

from regraft import keys_file
from regraft.events import CALLER
from regraft.ids import new_id
from regraft.keys import Guard, Key, Scope, digest, new_secret
from service import guards, proto, routes
from service.grpc_server import GrpcServer
from service.http import DirectRoute
from service.parts import Parts
from tests.fakes import Clock
from tests.service.conftest import Installation, Server, events_of, installation_in, serving, wait_until
from tests.service.grpc_caller import Give, channel_to, give, infer, text

SHOP, VOICE, DESK, SLOW = (f"regraft_{name}" for name in ("shop", "voice", "desk", "slow"))
KEYS = [
    Key("shop", digest(SHOP), frozenset({Scope.PREDICT})),
    Key("voice", digest(VOICE), frozenset({Scope.FEEDBACK})),
    Key("desk", digest(DESK), frozenset({Scope.REVIEW, Scope.ADMIN})),
    Key("slow", digest(SLOW), frozenset({Scope.PREDICT}), 0.5),
]
INFER = "/v2/models/reviews/infer"
TENSOR = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["hello"]}]}
BODIES: dict[str, Any] = {"/predict": {"input": "a"}, "/predict/batch": {"inputs": ["a"]}, INFER: TENSOR}
OPEN = ("/metrics", "/v2/health/live", "/v2/health/ready", "/v2/models/reviews/ready")
PREDICT = ("/predict", "/predict/batch", INFER, "/release", "/v2", "/v2/models/reviews")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guarded(parts: Parts, clock: Clock) -> Parts:
    return replace(parts, guard=Guard(KEYS, clock=clock))


@pytest.fixture
async def client(guarded: Parts) -> AsyncIterator[httpx.AsyncClient]:
    app = routes.build()
    app.state.parts = guarded
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
async def channel(guarded: Parts, installation: Installation) -> AsyncIterator[grpc.aio.Channel]:
    settings = installation.settings
    server = GrpcServer(guarded, host=settings.host, port=settings.grpc_port)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{settings.grpc_port}") as channel:
        yield channel
    await server.stop()


async def ask(client: httpx.AsyncClient, path: str, authorization: str | None = None) -> httpx.Response:
    headers = {} if authorization is None else {"authorization": authorization}
    body = BODIES.get(path)
    return await (client.post(path, json=body, headers=headers) if body else client.get(path, headers=headers))


def code(response: httpx.Response) -> str:
    """Of an error in either form."""
    body = response.json()
    return str(body["code"] if isinstance(body["error"], str) else body["error"]["code"])


NOT_LET_IN = [
    (None, 401, "unauthorized"),
    ("Bearer", 401, "unauthorized"),
    (SHOP, 401, "unauthorized"),
    (f"Basic {SHOP}", 401, "unauthorized"),
    ("Bearer regraft_nobody", 401, "unauthorized"),
    (f"Bearer {VOICE}", 403, "forbidden"),
    (f"Bearer {DESK}", 403, "forbidden"),
]


@pytest.mark.parametrize(("authorization", "status", "name"), NOT_LET_IN)
async def test_whoever_has_no_right_key_gets_no_answer(
    client: httpx.AsyncClient, authorization: str | None, status: int, name: str
) -> None:
    for path in PREDICT:
        response = await ask(client, path, authorization)
        assert (response.status_code, code(response)) == (status, name)
        assert ("www-authenticate" in response.headers) == (status == 401)


async def test_the_right_key_gets_an_answer(client: httpx.AsyncClient) -> None:
    for path in PREDICT:
        assert (await ask(client, path, f"Bearer {SHOP}")).status_code == 200


async def test_feedback_has_a_scope_of_its_own(client: httpx.AsyncClient) -> None:
    body = {"prediction_id": new_id(), "correct": True}
    for secret, status in ((SHOP, 403), (VOICE, 202)):
        response = await client.post("/feedback", json=body, headers={"authorization": f"Bearer {secret}"})
        assert response.status_code == status


async def test_health_and_metrics_need_no_key(client: httpx.AsyncClient) -> None:
    for path in OPEN:
        assert (await ask(client, path)).status_code == 200
    assert (await ask(client, "/nothing")).status_code == 404


async def test_a_body_is_not_read_from_whoever_is_not_let_in(client: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        pytest.fail("it was read")
        yield b""

    response = await client.post("/predict", content=body(), headers={"content-type": "application/json"})
    assert response.status_code == 401


async def test_too_many_requests_are_told_when_to_come_back(client: httpx.AsyncClient, clock: Clock) -> None:
    for path in ("/predict", INFER):
        assert (await ask(client, path, f"Bearer {SLOW}")).status_code == 200
        response = await ask(client, path, f"Bearer {SLOW}")
        assert (response.status_code, code(response)) == (429, "too_many_requests")
        assert response.headers["retry-after"] == "2"
        assert (await ask(client, path, f"Bearer {SHOP}")).status_code == 200
        clock.now += 2


async def test_the_log_knows_the_caller_by_name_and_nothing_shows_the_secret(
    client: httpx.AsyncClient, channel: grpc.aio.Channel, installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for path in BODIES:
        await ask(client, path, f"Bearer {SHOP}")
    await infer(channel)(text("hello"), metadata=[("authorization", f"Bearer {SHOP}")])
    refused = await ask(client, "/predict", f"Bearer {SHOP}x")
    made = events_of(installation.log)
    assert [one.metadata for one in made] == [{CALLER: "shop"}] * 4
    assert SHOP not in caplog.text + refused.text + str(made)


async def test_a_caller_cannot_take_the_name_of_another(client: httpx.AsyncClient, installation: Installation) -> None:
    body = {"input": "a", "metadata": {CALLER: "voice", "source": "x"}}
    await client.post("/predict", json=body, headers={"authorization": f"Bearer {SHOP}"})
    (one,) = events_of(installation.log)
    assert one.metadata == {CALLER: "shop", "source": "x"}


async def status_of(call: Any) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize(("authorization", "status", "name"), NOT_LET_IN)
async def test_grpc_refuses_the_same(
    channel: grpc.aio.Channel, authorization: str | None, status: int, name: str
) -> None:
    metadata = [] if authorization is None else [("authorization", authorization)]
    expected = grpc.StatusCode.UNAUTHENTICATED if status == 401 else grpc.StatusCode.PERMISSION_DENIED
    assert await status_of(infer(channel)(text("hello"), metadata=metadata)) is expected
    for method in ("ServerMetadata", "ModelMetadata"):
        call: Any = channel.unary_unary(f"/{proto.INFERENCE}/{method}")
        assert await status_of(call(b"", metadata=metadata)) is expected


async def test_grpc_lets_the_right_key_in_and_asks_none_for_health(channel: grpc.aio.Channel) -> None:
    shop, voice = [("authorization", f"Bearer {SHOP}")], [("authorization", f"Bearer {VOICE}")]
    given = Give(prediction_id=new_id(), correct=True)
    assert await status_of(infer(channel)(text("hello"), metadata=shop)) is grpc.StatusCode.OK
    assert await status_of(give(channel)(given, metadata=shop)) is grpc.StatusCode.PERMISSION_DENIED
    assert await status_of(give(channel)(given, metadata=voice)) is grpc.StatusCode.OK
    for method in ("ServerLive", "ServerReady"):
        call: Any = channel.unary_unary(f"/{proto.INFERENCE}/{method}")
        assert await call(b"")
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_grpc_says_when_it_is_too_much(channel: grpc.aio.Channel, clock: Clock) -> None:
    slow = [("authorization", f"Bearer {SLOW}")]
    ok, exhausted = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED
    for expected in (ok, exhausted):
        assert await status_of(infer(channel)(text("hello"), metadata=slow)) is expected
    clock.now += 2
    assert await status_of(infer(channel)(text("hello"), metadata=slow)) is ok


def test_no_way_in_has_been_forgotten() -> None:
    paths = {route.path for route in routes.build().routes if isinstance(route, APIRoute)}
    assert paths == set(guards._PATHS)
    services = (proto.POOL.FindServiceByName(name) for name in (proto.INFERENCE, proto.FEEDBACK))
    assert {f"{one.full_name}/{method.name}" for one in services for method in one.methods} == set(guards._METHODS)


def test_what_is_in_no_table_needs_an_administrator() -> None:
    assert guards.of_path("/new") == guards.of_method("new/New") == (Scope.ADMIN,)
    assert DirectRoute("/new", routes.release).scopes == (Scope.ADMIN,)


def test_the_openapi_page_shows_where_a_key_is_needed(server: Server) -> None:
    document = server.get("/docs.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/feedback"]["post"]["security"] == [{"key": ["feedback"]}]
    assert {"401", "403", "429"} <= set(document["paths"]["/feedback"]["post"]["responses"])
    assert not document["paths"]["/v2/health/live"]["get"].get("security")


def test_a_server_reads_its_keys_from_the_file_and_again_when_it_changes(tmp_path: Path) -> None:
    path, secret, later = tmp_path / "keys.yaml", new_secret(), new_secret()
    shop, voice = (Key(name, digest(one), frozenset({Scope.PREDICT})) for name, one in (("shop", secret), ("v", later)))
    keys_file.add(path, shop)
    bare = installation_in(tmp_path)
    installation = Installation(bare.settings.model_copy(update={"keys_file": str(path)}))
    installation.publish("v1")
    installation.release("v1")
    key = {"authorization": f"Bearer {secret}"}

    def status(given: str) -> int:
        return server.post("/predict", {"input": "a"}, headers={"authorization": f"Bearer {given}"}).status_code

    with serving(installation) as server:
        wait_until(server.ready)
        assert server.post("/predict", {"input": "a"}).status_code == 401
        assert status(secret) == 200
        assert server.client.post("/predict", content=b"{", headers=key).status_code == 415
        for page in ("/livez", "/readyz", "/healthz", "/metrics", "/docs.json"):
            assert server.get(page).status_code == 200
        with channel_to(installation.settings.grpc_port) as channel:
            assert infer(channel)(text("a"), metadata=list(key.items()))
            with pytest.raises(grpc.RpcError) as caught:
                infer(channel)(text("a"))
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert status(later) == 401
        keys_file.add(path, voice)
        wait_until(lambda: status(later) == 200)
        whole = path.read_text()
        path.write_text(whole[:-20])
        wait_until(lambda: [status(secret), "the keys of before stay" in server.output.read_text()] == [200, True])
        path.write_text(keys_file.entry(voice))
        wait_until(lambda: status(secret) == 401)
        assert status(later) == 200
    output = server.output.read_text()
    assert "the keys are now shop, v" in output
    assert secret not in output
    assert later not in output
    assert digest(secret) not in output
