"""What clients send, and what they get for it: against a real server, and for states that are hard to bring about
there, against its routes in this process."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from regraft.errors import LogUnavailable
from regraft.events import FeedbackGiven
from regraft.ids import new_id
from service import routes
from service.parts import Parts
from tests.service.conftest import Installation, Server, events_of, installation_in

JSON = {"content-type": "application/json"}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def post(server: Server, body: bytes, path: str = "/predict", headers: dict[str, str] | None = None) -> httpx.Response:
    return server.client.post(path, content=body, headers=JSON if headers is None else headers)


def problem(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["message"]


@pytest.mark.parametrize(
    "text", ["a positive thing", "日本語のレビュー 🙂", "x", "\t tabs \n and lines", "\u202eabc", "e\u0301"]
)
def test_a_text_is_answered_and_logged(server: Server, text: str) -> None:
    response = server.post("/predict", {"input": text})
    assert response.status_code == 200
    answer = response.json()
    assert answer["logged"] is True
    assert (answer["version"], answer["arm"]) == ("v1", "production")
    assert answer["confidence"] == answer["probabilities"][answer["label"]] == max(answer["probabilities"].values())
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    event = next(one for one in events_of(server.installation.log) if one.id == answer["prediction_id"])
    assert event.input == text


def test_subject_metadata_and_trace_reach_the_log(server: Server) -> None:
    body = {"input": "hello", "subject": "ada", "metadata": {"source": "shop"}}
    answer = server.post("/predict", body, headers={"traceparent": TRACEPARENT}).json()
    assert answer["trace_id"] == TRACEPARENT[3:35]
    event = next(one for one in events_of(server.installation.log) if one.id == answer["prediction_id"])
    assert (event.subject, event.metadata, event.trace_id) == ("ada", {"source": "shop"}, TRACEPARENT[3:35])


def test_a_batch_is_answered_in_its_order(server: Server) -> None:
    predictions = server.post("/predict/batch", {"inputs": ["negative", "positive"] * 50}).json()["predictions"]
    assert [one["label"] for one in predictions] == ["negative", "positive"] * 50
    assert len({one["prediction_id"] for one in predictions}) == 100


def test_an_answer_alone_and_in_a_batch_is_the_same(server: Server) -> None:
    alone = server.post("/predict", {"input": "hello world"}).json()["probabilities"]
    texts = ["a much longer text than that, to stand beside it", "hello world", "x"]
    beside = server.post("/predict/batch", {"inputs": texts}).json()["predictions"][1]["probabilities"]
    assert beside == pytest.approx(alone, abs=1e-6)


BAD_BODIES: list[tuple[bytes, int, str, str]] = [
    (b"", 400, "malformed_request", "the body is empty"),
    (b" \n ", 400, "malformed_request", "the body is empty"),
    (b"{", 400, "malformed_request", "not JSON: EOF"),
    (b'{"input": "a"} x', 400, "malformed_request", "not JSON: trailing characters"),
    (b'{"input": "\xff"}', 400, "malformed_request", "not UTF-8"),
    ('{"input": "a"}'.encode("utf-16"), 400, "malformed_request", "not UTF-8"),
    (b'\xef\xbb\xbf{"input": "a"}', 400, "malformed_request", "not JSON"),
    (b'{"input": "\\ud800"}', 400, "malformed_request", "not JSON: unexpected end of hex escape"),
    (b'{"input": "\\udc00"}', 400, "malformed_request", "not JSON: lone leading surrogate"),
    (b'{"input": "a\x00"}', 400, "malformed_request", "not JSON: control character"),
    (b"[" * 5_000, 400, "malformed_request", "not JSON: recursion limit"),
    (b'{"input": "a", "metadata": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, 400, "malformed_request", "recursion"),
    (b'{"input": ' + b"9" * 5_000 + b"}", 400, "malformed_request", "number out of range"),
    (b'{"input": 1e999}', 422, "invalid_input", "input: Input should be a valid string"),
    (b'{"input": NaN}', 422, "invalid_input", "input: Input should be a valid string"),
    (b'{"input": -Infinity}', 422, "invalid_input", "input: Input should be a valid string"),
    (b'{"input": null}', 422, "invalid_input", "input: Input should be a valid string"),
    (b'{"input": true}', 422, "invalid_input", "input: Input should be a valid string"),
    (b'{"input": ["a"]}', 422, "invalid_input", "input: Input should be a valid string"),
    (b'{"input": "a\\u0000"}', 422, "invalid_input", "input: must not hold the NUL character"),
    (b'{"input": ""}', 422, "invalid_input", "input: the text is empty"),
    (b'{"input": " \\n\\u2003 "}', 422, "invalid_input", "input: the text is empty"),
    (json.dumps({"input": "x" * 2_001}).encode(), 422, "invalid_input", "input: the text has 2001 characters"),
    (b"[]", 422, "invalid_input", "the body should be a JSON object"),
    (b"null", 422, "invalid_input", "the body should be a JSON object"),
    (b'"input"', 422, "invalid_input", "the body should be a JSON object"),
    (b"{}", 422, "invalid_input", "input: is missing"),
    (b'{"input": "a", "imput": "b"}', 422, "invalid_input", "imput: there is no such field"),
    (b'{"input": "a", "' + b"k" * 9_000 + b'": 1}', 422, "invalid_input", "k" * 100 + "...: there is no such field"),
    (b'{"input": "a", "subject": ""}', 422, "invalid_input", "subject: String should have at least 1"),
    (b'{"input": "a", "subject": 5}', 422, "invalid_input", "subject: Input should be a valid string"),
    (json.dumps({"input": "a", "subject": "s" * 201}).encode(), 422, "invalid_input", "subject: String should have"),
    (b'{"input": "a", "metadata": {"a": 1}}', 422, "invalid_input", "metadata.a: Input should be a valid string"),
    (b'{"input": "a", "metadata": [1]}', 422, "invalid_input", "metadata: Input should be an object"),
    (
        json.dumps({"input": "a", "metadata": {str(n): "" for n in range(33)}}).encode(),
        422,
        "invalid_input",
        "metadata: Dictionary should have at most 32 items",
    ),
    (b'{"input": "' + b"x" * 1_000_000 + b'"}', 413, "payload_too_large", "the body has more than 1000000 bytes"),
]


@pytest.mark.parametrize(
    ("body", "status", "code", "sentence"), BAD_BODIES, ids=[f"{number}" for number in range(len(BAD_BODIES))]
)
def test_a_bad_body_gets_its_own_sentence(server: Server, body: bytes, status: int, code: str, sentence: str) -> None:
    got_status, got_code, message = problem(post(server, body))
    assert (got_status, got_code) == (status, code)
    assert sentence in message


@pytest.mark.parametrize(
    ("body", "status", "code", "sentence"),
    [
        (b'{"inputs": "a"}', 422, "invalid_input", "inputs: Input should be a valid array"),
        (b'{"inputs": []}', 422, "invalid_input", "inputs: List should have at least 1 item"),
        (b'{"inputs": ["a", 5]}', 422, "invalid_input", "inputs[1]: Input should be a valid string"),
        (b'{"inputs": ["a", "b", " "]}', 422, "invalid_input", "inputs[2]: the text is empty"),
        (b'{"input": "a"}', 422, "invalid_input", "inputs: is missing"),
        (json.dumps({"inputs": ["a"] * 257}).encode(), 413, "payload_too_large", "inputs: has 257 items; at most 256"),
    ],
)
def test_a_bad_batch_names_the_item(server: Server, body: bytes, status: int, code: str, sentence: str) -> None:
    got_status, got_code, message = problem(post(server, body, "/predict/batch"))
    assert (got_status, got_code) == (status, code)
    assert sentence in message


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        JSON | {"content-encoding": "gzip"},
    ],
)
def test_other_kinds_of_bodies_are_refused(server: Server, headers: dict[str, str]) -> None:
    assert problem(post(server, b'{"input": "a"}', headers=headers))[:2] == (415, "unsupported_media_type")


def test_a_declared_character_set_does_no_harm(server: Server) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert post(server, b'{"input": "a"}', headers=headers).status_code == 200


def test_a_body_that_does_not_say_its_size_is_cut_at_the_limit(server: Server) -> None:
    sent = 0

    def endless() -> Any:
        nonlocal sent
        while sent < 500_000_000:
            sent += 100_000
            yield b" " * 100_000

    with suppress(httpx.TransportError):  # the server hangs up while the client is still sending
        assert problem(server.client.post("/predict", content=endless(), headers=JSON))[0] == 413
    assert sent < 50_000_000
    assert server.alive()


def test_unknown_paths_and_methods_are_answered_like_other_errors(server: Server) -> None:
    assert problem(server.get("/nothing")) == (404, "not_found", "there is nothing at /nothing")
    assert problem(server.post("/v9/predict", {}))[:2] == (404, "not_found")
    response = server.get("/predict")
    assert problem(response)[:2] == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert problem(server.client.delete("/release"))[:2] == (405, "method_not_allowed")


def test_bentomls_own_pages_are_there(server: Server) -> None:
    for path in ("/livez", "/healthz", "/readyz", "/metrics", "/docs.json", "/schema.json"):
        assert server.get(path).status_code == 200
    assert "text/html" in server.get("/").headers["content-type"]


def test_the_openapi_page_shows_requests_answers_and_errors(server: Server) -> None:
    document = server.get("/docs.json").json()
    predict = document["paths"]["/predict"]["post"]
    body = predict["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["input"]
    assert set(body["properties"]) == {"input", "subject", "metadata"}
    assert set(predict["responses"]) == {"200", *map(str, (400, 401, 403, 408, 413, 415, 422, 429, 503, 504))}
    answers = predict["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
    for name, field in (("LabelAnswer", "label"), ("NumberAnswer", "value")):
        assert {"$ref": f"#/components/schemas/{name}"} in answers
        assert {"prediction_id", field} <= set(document["components"]["schemas"][name]["properties"])
    assert {"/predict/batch", "/feedback", "/release"} <= set(document["paths"])
    assert "202" in document["paths"]["/feedback"]["post"]["responses"]


def test_the_release_is_shown(server: Server) -> None:
    served = {"generation": 1, "production": "v1", "candidate": None, "share": 0.0}
    shown = {"newest": served, "serving": served, "stale": None, "loaded": ["v1"], "refused": {}}
    assert server.get("/release").json() == shown


def test_feedback_is_logged_under_the_prediction(server: Server) -> None:
    prediction = server.post("/predict", {"input": "hello"}).json()["prediction_id"]
    response = server.post(
        "/feedback",
        {"prediction_id": prediction, "correct": False, "label": "neutral", "comment": "meh", "subject": "ada"},
    )
    assert response.status_code == 202
    event = next(
        one for one in events_of(server.installation.log, FeedbackGiven) if one.id == response.json()["feedback_id"]
    )
    assert event.key == event.prediction_id == prediction
    assert (event.correct, event.label, event.comment, event.subject) == (False, "neutral", "meh", "ada")


def test_feedback_sent_again_is_logged_once(server: Server) -> None:
    """Whoever was told to try again cannot know whether the first was logged."""
    said = {"prediction_id": new_id(), "correct": False, "label": "neutral"}
    given = [server.post("/feedback", said | more).json()["feedback_id"] for more in ({}, {}, {"subject": "ada"}) * 2]
    assert len(set(given)) == 2
    logged = [one.id for one in events_of(server.installation.log, FeedbackGiven) if one.key == said["prediction_id"]]
    assert sorted(logged) == sorted(set(given))


def test_feedback_under_one_key_is_logged_once_and_the_first_counts(server: Server) -> None:
    said = {"prediction_id": new_id(), "correct": False}

    def give(key: str, **more: str) -> str:
        return str(server.post("/feedback", said | more, headers={"Idempotency-Key": key}).json()["feedback_id"])

    first, again, other = give("one", comment="meh"), give("one", comment="bah"), give("two", comment="meh")
    assert first == again != other
    logged = [one for one in events_of(server.installation.log, FeedbackGiven) if one.key == said["prediction_id"]]
    assert [(one.id, one.comment) for one in logged] == [(first, "meh"), (other, "meh")]


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_a_key_of_no_use_is_refused(server: Server, key: str) -> None:
    said = {"prediction_id": new_id(), "correct": True}
    response = server.post("/feedback", said, headers={"Idempotency-Key": key})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_input")
    assert "idempotency-key" in response.json()["error"]["message"]


def test_feedback_on_an_unknown_prediction_is_taken_to_be_joined_later(server: Server) -> None:
    unknown = new_id()
    hyphenated = f"{unknown[:8]}-{unknown[8:12]}-{unknown[12:16]}-{unknown[16:20]}-{unknown[20:]}".upper()
    response = server.post("/feedback", {"prediction_id": hyphenated, "correct": True})
    assert response.status_code == 202
    assert response.json()["prediction_id"] == unknown


def _id_at(seconds: float) -> str:
    return f"{int(seconds * 1000):012x}7000{8:x}{0:015x}"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prediction_id": "nonsense"}, "prediction_id: is no id of a prediction"),
        ({"prediction_id": ""}, "prediction_id: is no id of a prediction"),
        ({"prediction_id": "6ba7b810-9dad-41d1-80b4-00c04fd430c8"}, "prediction_id: is no id of a prediction"),
        ({"prediction_id": _id_at(time.time() + 3600)}, "prediction_id: is from the future"),
        ({"label": "splendid"}, "label: unknown label 'splendid'; the task has negative, neutral, positive"),
        ({"correct": True, "label": "neutral"}, "label: says what would have been right"),
        ({"correct": "yes"}, "correct: Input should be a valid boolean"),
        ({"correct": 1}, "correct: Input should be a valid boolean"),
        ({"comment": "x" * 5001}, "comment: String should have at most 5000"),
        ({"stars": 5}, "stars: there is no such field"),
    ],
)
def test_feedback_that_makes_no_sense_is_refused(server: Server, change: dict[str, Any], sentence: str) -> None:
    response = server.post("/feedback", {"prediction_id": new_id(), "correct": False} | change)
    assert problem(response)[:2] == (422, "invalid_input")
    assert sentence in problem(response)[2]


def test_errors_are_counted_by_code_and_paths_leave_no_trace_in_the_metrics(server: Server) -> None:
    name = 'regraft_errors_total{code="not_found"}'
    before = server.samples().get(name, 0)
    server.get("/some/odd/path")
    assert server.samples()[name] == before + 1
    assert "odd" not in server.get("/metrics").text


@pytest.fixture
async def client(parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    app = routes.build()
    app.state.parts = parts
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def slow(installation: Installation, parts: Parts) -> None:
    installation.publish("slow", behaviour="slow")
    installation.release("slow")
    await parts.following.refresh()


@pytest.mark.parametrize("installation", [{"serving": {"max_queue": 1, "sessions": 1}}], indirect=True)
async def test_when_the_queue_is_full_clients_are_told_to_try_again(
    installation: Installation, parts: Parts, client: httpx.AsyncClient
) -> None:
    await slow(installation, parts)
    responses = await asyncio.gather(*(client.post("/predict", json={"input": "hello"}) for _ in range(5)))
    refused = [response for response in responses if response.status_code != 200]
    assert len(refused) == 3
    assert {problem(response)[:2] for response in refused} == {(503, "overloaded")}
    assert {response.headers["retry-after"] for response in refused} == {"1"}


@pytest.mark.parametrize("installation", [{"serving": {"timeout_seconds": 0.01}}], indirect=True)
async def test_what_takes_too_long_is_a_504(
    installation: Installation, parts: Parts, client: httpx.AsyncClient
) -> None:
    await slow(installation, parts)
    assert problem(await client.post("/predict", json={"input": "hello"}))[:2] == (504, "deadline_exceeded")


async def test_feedback_that_cannot_be_logged_is_not_thanked_for(
    parts: Parts, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.log, "append", _raiser(LogUnavailable("full")))
    response = await client.post("/feedback", json={"prediction_id": new_id(), "correct": True})
    assert problem(response)[:2] == (503, "log_unavailable")


async def test_an_unknown_error_shows_an_id_alone_and_the_log_has_the_rest(
    parts: Parts, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parts.predictor, "predict", _raiser(KeyError("secret")))
    response = await client.post("/predict", json={"input": "hello"})
    assert problem(response)[:2] == (500, "internal")
    assert "secret" not in response.text
    assert response.json()["error"]["details"]["id"] in caplog.text
    assert "secret" in caplog.text


async def test_before_a_version_is_loaded_the_answer_is_not_ready(tmp_path_factory: pytest.TempPathFactory) -> None:
    parts = Parts.assemble(installation_in(tmp_path_factory.mktemp("empty")).settings)
    app = routes.build()
    app.state.parts = parts
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert problem(await client.post("/predict", json={"input": "hello"}))[:2] == (503, "not_ready")
        assert (await client.get("/release")).json()["serving"] is None
    await parts.close()


def _raiser(error: Exception) -> Callable[[object], None]:
    def refuse(_: object) -> None:
        raise error

    return refuse
