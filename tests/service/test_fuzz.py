"""Requests that nobody would write by hand, against a real server, over HTTP, raw tensors and gRPC: whatever comes gets
an answer or is the caller's fault, and is never an internal error.

REGRAFT_FUZZ_EXAMPLES: how many of each kind; with a number, they are others each time.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regraft.ids import new_id
from service import proto
from tests.service.conftest import Server
from tests.service.grpc_caller import Give, Request, channel_to, element, give, infer

EXAMPLES = os.environ.get("REGRAFT_FUZZ_EXAMPLES")
INFER = "/v2/models/reviews/infer"
JSON_LENGTH = "inference-header-content-length"
ANSWERS = {200, 202, 400, 404, 413, 415, 422}
CODES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

fuzzed = settings(
    max_examples=int(EXAMPLES or 60),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

numbers = st.integers() | st.sampled_from([-1, 2**31, 2**63, 10**30]) | st.floats()  # not a number and infinity as well
scalars = st.none() | st.booleans() | numbers | st.text(max_size=20)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)
texts = st.text(min_size=1, max_size=40) | st.sampled_from(["a positive day", " ", "\0", "x" * 2_001, "\u202e🙂\u0301"])


def mostly(*good: Any) -> st.SearchStrategy[Any]:
    """Three times in four one of these."""
    one = st.sampled_from(good)
    return st.one_of(one, one, one, junk)


words = st.lists(st.sampled_from(["a positive day", "neutral", "e\u0301 🙂"]), min_size=1, max_size=3)
right = words.map(lambda one: {"name": "input", "datatype": "BYTES", "shape": [len(one)], "data": one})
tensors = right | st.fixed_dictionaries(
    {
        "name": mostly("input"),
        "datatype": mostly("BYTES", "FP32", "INT64"),
        "shape": mostly([1], [2], [1, 1], [0], [-1], [2**63], [10**30], [256], [257], []),
        "data": mostly(["hello"], ["a", "b"], [["a"]], [[["a"]]], [1.5], [float("nan")], [])
        | st.lists(texts, max_size=3),
    },
    optional={"parameters": mostly({}, {"binary_data_size": 3}, {"binary_data_size": -1}, {"classification": 1})},
)
bodies = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, min_size=1, max_size=1) | st.lists(tensors, max_size=2) | mostly([])},
    optional={
        "id": mostly("7", ""),
        "parameters": mostly(
            {"subject": "ada"}, {"metadata.a": "b"}, {"subject": float("nan")}, {"binary_data_output": 1}
        ),
        "outputs": mostly([], [{"name": "label"}], [{"name": "label"}] * 2, [{"name": "label", "parameters": None}]),
    },
)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    """With one connection kept, as most examples leave it open."""
    with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
        yield client
    assert server.alive()
    assert "internal error" not in server.output.read_text()


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_to(server.installation.settings.grpc_port) as channel:
        yield channel
    assert "internal error" not in server.output.read_text()


def said(response: httpx.Response) -> Any:
    """The body, once it is what every answer is: JSON, with a code where it is an error."""
    assert response.status_code in ANSWERS, response.text
    if response.headers["content-type"] == "application/octet-stream":
        return json.loads(response.content[: int(response.headers[JSON_LENGTH])])
    body = response.json()
    if response.status_code >= 400:
        error = body if isinstance(body["error"], str) else body["error"]
        assert error["code"]
        assert error["retriable"] is False
    return body


@fuzzed
@given(body=bodies | junk)
def test_any_json_gets_an_answer_or_is_refused(client: httpx.Client, body: Any) -> None:
    response = client.post(INFER, content=json.dumps(body), headers={"content-type": "application/json"})
    answer = said(response)
    if response.status_code == 200:
        (tensor,) = body["inputs"]
        assert {output["shape"][0] for output in answer["outputs"]} == {tensor["shape"][0]} == {len(tensor["data"])}


@fuzzed
@given(
    path=st.sampled_from(["/predict", "/predict/batch", "/feedback", INFER]),
    body=st.binary(max_size=200) | junk.map(lambda value: json.dumps(value).encode()),
    headers=st.dictionaries(
        st.sampled_from(
            ["content-type", "traceparent", "tracestate", JSON_LENGTH, "content-encoding", "authorization"]
        ),
        st.sampled_from(
            ["application/json", "application/json", "0", "7", "-1", "1e3", "gzip", "00-x-y-z", "\xff\xfe"]
        ),
    ),
)
def test_any_bytes_get_an_answer_or_are_refused(
    client: httpx.Client, path: str, body: bytes, headers: dict[str, str]
) -> None:
    encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    said(client.post(path, content=body, headers=encoded))


@fuzzed
@given(
    sent=words.map(lambda one: [text.encode() for text in one])
    | st.lists(texts.map(str.encode) | st.binary(max_size=20), min_size=1, max_size=4),
    cut=st.just(0) | st.integers(0, 60),
    more=st.just(b"") | st.binary(max_size=9),
    wrong=st.sampled_from([None, None, "size", "count", "header"]),
    by=st.integers(-5, 2**40),
)
def test_raw_tensors_are_taken_whole_or_not_at_all(
    client: httpx.Client, sent: list[bytes], cut: int, more: bytes, wrong: str | None, by: int
) -> None:
    whole = b"".join(map(element, sent))
    raw = whole[: max(0, len(whole) - cut)] + more if wrong is None else whole
    tensor = {
        "name": "input",
        "datatype": "BYTES",
        "shape": [len(sent) + (by if wrong == "count" else 0)],
        "parameters": {"binary_data_size": len(raw) + (by if wrong == "size" else 0)},
    }
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = len(header) + (by if wrong == "header" else 0)
    response = client.post(INFER, content=header + raw, headers={JSON_LENGTH: str(length)})
    answer = said(response)
    if response.status_code == 200:
        assert raw == whole or len(raw) == len(whole), "lengths that fit by chance"
        assert [output["shape"][0] for output in answer["outputs"]] == [len(sent)] * 4


int64 = st.sampled_from([1, 1, 1, 2, 0, -1, 257, 2**31, 2**63 - 1, -(2**63)])
contents = st.fixed_dictionaries(
    {},
    optional={
        "bytes_contents": st.lists(texts.map(str.encode) | st.binary(max_size=9), max_size=3),
        "fp32_contents": st.lists(st.floats(width=32), max_size=2),
        "int64_contents": st.lists(int64, max_size=2),
        "bool_contents": st.lists(st.booleans(), max_size=2),
    },
)
messages = st.fixed_dictionaries(
    {"model_name": st.sampled_from(["reviews"] * 4 + ["", "x"])},
    optional={
        "model_version": st.sampled_from(["", "v1", "v9"]),
        "id": st.text(max_size=9),
        "parameters": st.dictionaries(
            st.sampled_from(["subject", "metadata.a", "x"]),
            st.sampled_from([{"string_param": "a"}, {"double_param": float("nan")}, {"int64_param": 1}, {}]),
        ),
        "inputs": words.map(
            lambda one: [
                {
                    "name": "input",
                    "datatype": "BYTES",
                    "shape": [len(one)],
                    "contents": {"bytes_contents": [text.encode() for text in one]},
                }
            ]
        )
        | st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["input"] * 3 + [""]),
                    "datatype": st.sampled_from(["BYTES"] * 3 + ["FP32", ""]),
                    "shape": st.lists(int64, max_size=3),
                },
                optional={"contents": contents},
            ),
            max_size=2,
        ),
        "outputs": st.lists(st.sampled_from([{"name": "label"}, {"name": "x"}]), max_size=2),
        "raw_input_contents": st.lists(
            st.binary(max_size=30) | texts.map(lambda one: element(one.encode())), max_size=2
        ),
    },
)


def code_of(call: Any, request: Any) -> grpc.StatusCode:
    try:
        call(request, timeout=30)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@fuzzed
@given(message=messages)
def test_any_message_gets_an_answer_or_is_refused(channel: grpc.Channel, message: dict[str, Any]) -> None:
    assert code_of(infer(channel), Request(**message)) in CODES


@fuzzed
@given(message=messages, cut=st.integers(1, 40), more=st.binary(max_size=20))
def test_messages_that_are_cut_or_followed_by_more_do_no_harm(
    channel: grpc.Channel, message: dict[str, Any], cut: int, more: bytes
) -> None:
    whole: bytes = Request(**message).SerializeToString()
    for method in (f"/{proto.INFERENCE}/ModelInfer", f"/{proto.FEEDBACK}/Give"):
        assert code_of(channel.unary_unary(method), whole[:-cut] + more) in CODES


@fuzzed
@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            "prediction_id": st.text(max_size=40) | st.builds(new_id),
            "correct": st.booleans(),
            "label": st.text(max_size=9) | st.sampled_from(["neutral"]),
            "comment": st.text(max_size=9),
            "subject": st.text(max_size=9),
        },
    )
)
def test_any_feedback_is_taken_or_refused(channel: grpc.Channel, fields: dict[str, Any]) -> None:
    assert code_of(give(channel), Give(**fields)) in CODES
