"""The Open Inference Protocol over HTTP: what a stock client gets, and what a wrong request gets."""

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from regraft.errors import Overloaded
from service import routes
from service.parts import Parts
from tests.service.conftest import Server, events_of, installation_in
from tests.service.stock import ask, check_what_a_stock_client_got
from tests.service.stock_client import TEXTS

INFER = "/v2/models/reviews/infer"
INPUT = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["hello"]}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def body(**changes: Any) -> dict[str, Any]:
    """A request with one input, whose fields `changes` replace; None takes one out."""
    return {"inputs": [{name: value for name, value in (INPUT | changes).items() if value is not None}]}


def binary(raw: bytes, size: Any = None, *, count: int = 1, length: str | None = None, **more: Any) -> dict[str, Any]:
    """Content and headers of a request whose input is `raw`."""
    size = len(raw) if size is None else size
    header = json.dumps(body(data=None, shape=[count], parameters={"binary_data_size": size}) | more).encode()
    headers = {"Inference-Header-Content-Length": str(len(header)) if length is None else length}
    return {"content": header + raw, "headers": headers | {"Content-Type": "application/octet-stream"}}


def element(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def infer(server: Server, content: dict[str, Any], path: str = INFER, **options: Any) -> dict[str, Any]:
    response = server.post(path, content, **options)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def columns(answer: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: output["data"] for output in answer["outputs"]}


@pytest.mark.parametrize("client", ["http", "http.aio"])
def test_a_stock_client_gets_what_it_asks_for(server: Server, client: str) -> None:
    found = ask(client, server.installation.settings.port)
    check_what_a_stock_client_got(server, client, found)
    assert found["error"][0] == "404"
    assert found["as_json"]["label"] == found["plain"]["label"]
    assert found["as_json"]["probabilities"] == found["plain"]["probabilities"]


def test_the_answer_is_that_of_the_native_interface(server: Server) -> None:
    native = server.post("/predict/batch", {"inputs": TEXTS}).json()["predictions"]
    found = columns(infer(server, body(shape=[3], data=TEXTS)))
    assert found["label"] == [one["label"] for one in native]
    assert found["confidence"] == pytest.approx([one["confidence"] for one in native], abs=1e-6)
    expected = [value for one in native for value in one["probabilities"].values()]
    assert found["probabilities"] == pytest.approx(expected, abs=1e-6)


def test_an_answer_says_what_it_is(server: Server) -> None:
    answer = infer(server, body() | {"id": "seven"}, headers={"traceparent": TRACEPARENT})
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("reviews", "v1", "seven")
    assert json.loads(answer["parameters"].pop("labels")) == ["negative", "neutral", "positive"]
    trace = TRACEPARENT[3:35]
    assert answer["parameters"] == {"version": "v1", "arm": "production", "logged": True, "trace_id": trace}
    shapes = {output["name"]: (output["datatype"], output["shape"]) for output in answer["outputs"]}
    assert shapes == {
        "label": ("BYTES", [1]),
        "confidence": ("FP32", [1]),
        "probabilities": ("FP32", [1, 3]),
        "prediction_id": ("BYTES", [1]),
    }


def test_an_answer_is_logged_with_what_the_request_says_of_itself(server: Server) -> None:
    about = {"subject": "ada", "metadata.source": "shop", "sequence_id": 5, "priority": 1}
    answer = infer(server, body() | {"parameters": about}, headers={"traceparent": TRACEPARENT})
    (id_,) = columns(answer)["prediction_id"]
    event = next(one for one in events_of(server.installation.log) if one.id == id_)
    assert (event.input, event.subject, event.metadata) == ("hello", "ada", {"source": "shop"})
    assert event.trace_id == TRACEPARENT[3:35]


def test_a_version_can_be_named(server: Server) -> None:
    answer = infer(server, body(), "/v2/models/reviews/versions/v1/infer")
    assert answer["model_version"] == "v1"
    assert "id" not in answer


@pytest.mark.parametrize(
    ("shape", "data"), [([2], ["a", "b"]), ([2, 1], ["a", "b"]), ([2, 1], [["a"], ["b"]])], ids=str
)
def test_texts_may_lie_flat_or_each_in_a_list_of_its_own(server: Server, shape: list[int], data: list[Any]) -> None:
    assert len(columns(infer(server, body(shape=shape, data=data)))["label"]) == 2


def test_raw_tensors_go_in_and_come_out_where_they_are_asked_for(server: Server) -> None:
    raw = b"".join(element(text.encode()) for text in TEXTS)
    asked = [
        {"name": "probabilities", "parameters": {"binary_data": True}},
        {"name": "confidence"},
        {"name": "label", "parameters": {"binary_data": True}},
    ]
    response = server.client.post(INFER, **binary(raw, count=3, outputs=asked))
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    header, rest = json.loads(response.content[:length]), response.content[length:]
    sizes = [output.get("parameters", {}).get("binary_data_size") for output in header["outputs"]]
    assert [output["name"] for output in header["outputs"]] == ["probabilities", "confidence", "label"]
    assert (sizes[0], sizes[1], sum(size or 0 for size in sizes)) == (36, None, len(rest))
    probabilities = np.frombuffer(rest[:36], "<f4").reshape(3, 3)
    assert header["outputs"][1]["data"] == pytest.approx(probabilities.max(axis=1))
    assert rest[36:].startswith(element(b"positive"))


def test_all_outputs_are_raw_when_the_request_says_so_and_an_output_may_differ(server: Server) -> None:
    every = server.post(INFER, body() | {"parameters": {"binary_data_output": True}})
    header = json.loads(every.content[: int(every.headers["inference-header-content-length"])])
    assert all("data" not in output for output in header["outputs"])
    asked = [{"name": "label", "parameters": {"binary_data": False}}]
    answer = infer(server, body() | {"parameters": {"binary_data_output": True}, "outputs": asked})
    assert [output["name"] for output in answer["outputs"]] == ["label"]


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({}, 422, "inputs: is missing"),
    ({"inputs": []}, 422, "inputs: one tensor is taken, 'input'; there are 0"),
    ({"inputs": [INPUT, INPUT]}, 422, "inputs: one tensor is taken, 'input'; there are 2"),
    (body(name="text"), 422, "inputs[0].name: there is no input 'text', only 'input'"),
    (body(name="x" * 9_000), 422, "x" * 50),
    (body(datatype="FP32", data=[1.0]), 422, "inputs[0].datatype: should be BYTES, not 'FP32'"),
    (body(datatype=None), 422, "inputs[0].datatype: is missing"),
    (body(shape=None), 422, "inputs[0].shape: is missing"),
    (body(shape=[1, 2]), 422, "inputs[0].shape: should be [n] or [n, 1], not [1, 2]"),
    (body(shape=[]), 422, "inputs[0].shape: should be [n] or [n, 1], not []"),
    (body(shape=[1] * 9_000), 422, "inputs[0].shape: should be [n] or [n, 1]"),
    (body(shape=[0], data=[]), 422, "inputs[0].shape: there should be at least one text"),
    (body(shape=[-1]), 422, "inputs[0].shape: there should be at least one text"),
    (body(shape=[1.5]), 422, "inputs[0].shape[0]: Input should be a valid integer"),
    (body(shape=[257], data=["a"] * 257), 413, "inputs[0].shape: says 257 texts; at most 256 are taken"),
    (body(shape=[10**30]), 413, "inputs[0].shape: says 1000"),
    (body(shape=[2]), 422, "inputs[0]: its shape says 2 texts, there are 1"),
    (body(data=None), 422, "inputs[0].data: is missing"),
    (body(data=[5]), 422, "inputs[0].data[0]: should be a string"),
    (body(data=[["a"]]), 422, "inputs[0].data[0]: should be a string"),
    (body(data=[[]]), 422, "inputs[0].data[0]: should be a string"),
    (body(shape=[2, 1], data=["a", ["b"]]), 422, "inputs[0].data[1]: should be a string"),
    (body(data="a"), 422, "inputs[0].data: Input should be a valid array"),
    (body(data=[" "]), 422, "input: the text is empty"),
    (body(shape=[2], data=["a", ""]), 422, "inputs[1]: the text is empty"),
    (body(data=["a\0"]), 422, "input[0]: must not hold the NUL character"),
    (body(data=["x" * 2_001]), 422, "input: the text has 2001 characters"),
    (body(parameters={"shared_memory_region": "x"}), 422, "inputs[0].parameters.shared_memory_region: this extension"),
    (body(parameters={"binary_data_size": 5}), 422, "inputs[0]: has both data and binary_data_size"),
    (body(data=None, parameters={"binary_data_size": 5}), 400, "binary_data_size: after the JSON there are 0 bytes"),
    (body() | {"outputs": [{"name": "logits"}]}, 422, "outputs[0].name: there is no output 'logits', only label, "),
    (body() | {"outputs": [{"name": "label"}] * 2}, 422, "outputs[1].name: 'label' is asked for twice"),
    (
        body() | {"outputs": [{"name": "label", "parameters": {"classification": 2}}]},
        422,
        "outputs[0].parameters.classification: this extension is not there",
    ),
    (
        body() | {"outputs": [{"name": "label", "parameters": {"binary_data": 1}}]},
        422,
        "outputs[0].parameters.binary_data: should be true or false",
    ),
    (body() | {"parameters": {"binary_data_output": "yes"}}, 422, "parameters.binary_data_output: should be true or"),
    (body() | {"parameters": {"subject": 5}}, 422, "parameters.subject: Input should be a valid string"),
    (body() | {"parameters": {"subject": ""}}, 422, "parameters.subject: String should have at least 1"),
    (body() | {"parameters": {"metadata.a": 5}}, 422, "parameters.metadata.a: Input should be a valid string"),
    (body() | {"parameters": {"metadata.a": "\0"}}, 422, "parameters.metadata.a: must not hold the NUL character"),
    (body() | {"id": 7}, 422, "id: Input should be a valid string"),
]


@pytest.mark.parametrize(("content", "status", "sentence"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_a_wrong_request_gets_its_own_sentence(
    server: Server, content: dict[str, Any], status: int, sentence: str
) -> None:
    refused(server.post(INFER, content), status, sentence)


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (binary(element(b"hello")[:-1]), 400, "input[0]: should have 5 bytes, 4 are left of the raw tensor"),
        (binary(b"\x05\0"), 400, "input: the raw tensor ends after 0 of 1 elements"),
        (binary(b""), 400, "input: the raw tensor ends after 0 of 1 elements"),
        (binary(element(b"a"), count=2), 400, "input: the raw tensor ends after 1 of 2 elements"),
        (binary(element(b"a") + b"xyz"), 400, "input: the raw tensor has 3 bytes after its 1 elements"),
        (binary(b"\xff\xff\xff\xffabc"), 400, "input[0]: should have 4294967295 bytes, 3 are left"),
        (binary(element(b"\xff\xfe")), 422, "input[0]: is not UTF-8"),
        (binary(element(b"")), 422, "input: the text is empty"),
        (binary(element(b"a\0")), 422, "input[0]: must not hold the NUL character"),
        (binary(element(b"a"), 4), 400, "binary_data_size: after the JSON there are 5 bytes"),
        (binary(element(b"a"), 6), 400, "binary_data_size: after the JSON there are 5 bytes"),
        (binary(element(b"a"), "5"), 400, "binary_data_size: after the JSON there are 5 bytes"),
        (binary(element(b"a"), True), 400, "binary_data_size: after the JSON there are 5 bytes"),
        (binary(element(b"a"), length="99999"), 400, "Inference-Header-Content-Length: should be a number of bytes"),
        (binary(element(b"a"), length="-1"), 400, "Inference-Header-Content-Length: should be a number of bytes"),
        (binary(element(b"a"), length="x"), 400, "Inference-Header-Content-Length: should be a number of bytes"),
        (binary(element(b"a"), length="9" * 5_000), 400, "Inference-Header-Content-Length: should be a number"),
        (binary(element(b"a"), length="0"), 400, "the body is empty"),
        (binary(element(b"a"), length="10"), 400, "the body is not JSON"),
        (binary(element(b"a"), inputs=[INPUT]), 400, "after the JSON there are 5 bytes that no tensor claims"),
        ({"content": b""}, 400, "the body is empty"),
        ({"content": b"{"}, 400, "the body is not JSON"),
        ({"content": b'{"id": "\xff"}'}, 400, "the body is not UTF-8"),
        ({"content": b"[]"}, 422, "the body should be a JSON object"),
        (binary(element(b"x" * 1_000_000)), 413, "the body has more than 1000000 bytes"),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "the body should be application/json"),
        ({"content": b"{}", "headers": {"content-encoding": "gzip"}}, 415, "the body should not be compressed"),
    ],
)
def test_wrong_bytes_get_their_own_sentence(
    server: Server, content: dict[str, Any], status: int, sentence: str
) -> None:
    refused(server.client.post(INFER, **content), status, sentence)


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("POST", "/v2/models/nothing/infer", 404, "there is no model 'nothing'; this server has 'reviews'"),
        ("POST", "/v2/models/reviews/versions/v9/infer", 404, "no version of this name answers now; there is v1"),
        ("GET", "/v2/models/nothing", 404, "there is no model 'nothing'"),
        ("GET", "/v2/models/nothing/ready", 404, "there is no model 'nothing'"),
        ("GET", "/v2/models/reviews/versions/v9", 404, "no version of this name"),
        ("GET", "/v2/models/reviews/versions/v9/ready", 404, "no version of this name"),
        ("GET", "/v2/nothing", 404, "there is nothing at /v2/nothing"),
        ("GET", INFER, 405, "Method Not Allowed"),
    ],
)
def test_what_is_not_there_is_said(server: Server, method: str, path: str, status: int, sentence: str) -> None:
    refused(server.client.request(method, path, json=body() if method == "POST" else None), status, sentence)


def refused(response: httpx.Response, status: int, sentence: str) -> None:
    """An error in the form of the protocol: its sentence, and our code beside it."""
    assert response.status_code == status, response.text
    problem = response.json()
    assert sentence in problem["error"]
    assert len(problem["error"]) < 500
    assert problem["code"]
    assert not problem["retriable"]


def test_the_openapi_page_shows_the_protocol(server: Server) -> None:
    paths = server.get("/docs.json").json()["paths"]
    assert {"/v2", "/v2/health/ready", "/v2/models/{name}", "/v2/models/{name}/versions/{version}/infer"} <= set(paths)
    schema = paths["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["inputs"]


async def test_before_a_version_is_loaded_the_server_lives_and_is_not_ready(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    parts = Parts.assemble(installation_in(tmp_path_factory.mktemp("empty")).settings)
    app = routes.build()
    app.state.parts = parts
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        statuses = {
            path: (await client.get(path)).status_code
            for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/reviews/ready", "/v2/models/reviews")
        }
        response = await client.post(INFER, json=body())
    assert list(statuses.values()) == [200, 503, 503, 200]
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")
    assert response.json()["retriable"]
    await parts.close()


@pytest.mark.parametrize(("error", "status"), [(Overloaded("full"), 503), (KeyError("secret"), 500)])
async def test_errors_of_the_core_keep_their_status(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    async def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr(parts.predictor, "predict", refuse)
    app = routes.build()
    app.state.parts = parts
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.post(INFER, json=body())
    assert response.status_code == status
    assert "secret" not in response.text
    if status == 500:
        assert response.json()["details"]["id"] in response.json()["error"]
