"""Who is let into the monitor where there are keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from monitoring.app import SCOPES, GuardedRoute, create_app, healthz
from monitoring.monitor import Monitor
from regraft.errors import ConfigError
from regraft.keys import Guard, Key, Scope, digest
from tests.fakes import Clock
from tests.monitoring.stage import Stage

RATED = Key("rated", digest("rated"), frozenset({Scope.REVIEW}), 0.5)
KEYS = [RATED, *(Key(str(scope), digest(str(scope)), frozenset({scope})) for scope in Scope)]
READING = [("GET", "/status"), ("GET", "/drift"), ("GET", "/drift/x")]
REVIEWING = [("GET", "/review/queue"), ("POST", "/review/labels")]
ADMINISTRATION = [("POST", "/drift/check"), ("POST", "/retraining")]


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    with Stage(tmp_path) as stage:
        monitor = Monitor(stage.settings)
        yield monitor
        monitor.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(monitor: Monitor, clock: Clock) -> TestClient:
    app = create_app(monitor)
    app.state.guard = Guard(KEYS, clock=clock)
    return TestClient(app, raise_server_exceptions=False)


def key(name: object) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


def test_each_way_in_asks_for_its_scope(client: TestClient) -> None:
    for ways, allowed in (
        (READING, {Scope.REVIEW, Scope.ADMIN}),
        (REVIEWING, {Scope.REVIEW}),
        (ADMINISTRATION, {Scope.ADMIN}),
    ):
        for method, path in ways:
            for scope in Scope:
                response = client.request(method, path, headers=key(scope))
                assert (response.status_code == 403) == (scope not in allowed), (path, scope)
                assert response.status_code != 401


@pytest.mark.parametrize("authorization", [None, "Bearer", "review", "Basic review", "Bearer nobody"])
def test_whoever_has_no_key_gets_no_answer(client: TestClient, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    for method, path in READING + REVIEWING + ADMINISTRATION:
        response = client.request(method, path, headers=headers, content=b"{")
        assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer")


def test_health_and_metrics_need_no_key(client: TestClient) -> None:
    assert client.get("/healthz").status_code == client.get("/metrics").status_code == 200


def test_too_many_requests_are_told_when_to_come_back(client: TestClient, clock: Clock) -> None:
    assert client.get("/status", headers=key("rated")).status_code == 200
    response = client.get("/status", headers=key("rated"))
    assert (response.status_code, response.json()["error"]["code"]) == (429, "too_many_requests")
    assert response.headers["retry-after"] == "2"
    clock.now += 2
    assert client.get("/status", headers=key("rated")).status_code == 200


def test_no_way_in_has_been_forgotten(monitor: Monitor) -> None:
    paths = {route.path for route in create_app(monitor).routes if isinstance(route, APIRoute)}
    assert paths == set(SCOPES)
    assert GuardedRoute("/new", healthz).scopes == (Scope.ADMIN,)


def test_the_openapi_page_shows_where_a_key_is_needed(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/retraining"]["post"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]


def test_the_monitor_reads_its_keys_from_the_file(monitor: Monitor, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    monitor.settings = monitor.settings.model_copy(update={"keys_file": str(path)})
    with pytest.raises(ConfigError, match="cannot be read"):
        create_app(monitor)
    path.write_text(f"- name: desk\n  sha256: {digest('desk')}\n  scopes: [review]\n")
    client = TestClient(create_app(monitor))
    assert [client.get("/status", headers=headers).status_code for headers in ({}, key("desk"))] == [401, 200]
