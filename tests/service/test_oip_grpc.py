"""gRPC: what a stock client of the Open Inference Protocol gets, feedback, health, reflection, and what a wrong call
gets."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from regraft import errors
from regraft.errors import DeadlineExceeded, LogUnavailable, NotReady, Overloaded, RegraftError
from regraft.events import FeedbackGiven
from regraft.ids import new_id
from service import proto
from service.grpc_calls import STATUSES
from service.grpc_server import HEALTH, SERVICES, GrpcServer
from service.parts import Parts
from tests.service.conftest import Installation, Server, events_of, installation_in
from tests.service.grpc_caller import Give, Request, channel_to, element, give, infer, labels, raw, request, text
from tests.service.stock import ask, check_what_a_stock_client_got
from tests.service.stock_client import TEXTS

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Status = health_pb2.HealthCheckResponse
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_to(server.installation.settings.grpc_port) as channel:
        yield channel


@pytest.mark.parametrize("client", ["grpc", "grpc.aio"])
def test_a_stock_client_gets_what_it_asks_for(server: Server, client: str) -> None:
    found = ask(client, server.installation.settings.grpc_port)
    check_what_a_stock_client_got(server, client, found)
    assert found["error"][0] == "StatusCode.NOT_FOUND"


def test_the_answer_is_that_of_the_native_interface(server: Server, channel: grpc.Channel) -> None:
    native = server.post("/predict/batch", {"inputs": TEXTS}).json()["predictions"]
    response = infer(channel)(text(*TEXTS))
    assert labels(response) == [one["label"] for one in native]
    expected = [value for one in native for value in one["probabilities"].values()]
    assert np.frombuffer(response.raw_output_contents[2], "<f4") == pytest.approx(expected, abs=1e-6)
    assert [list(output.shape) for output in response.outputs] == [[3], [3], [3, 3], [3]]


def test_raw_contents_are_taken_like_others(channel: grpc.Channel) -> None:
    content = b"".join(element(one.encode()) for one in TEXTS)
    assert labels(infer(channel)(raw(content, count=3))) == labels(infer(channel)(text(*TEXTS)))


def test_what_the_call_says_of_itself_is_logged_and_told(server: Server, channel: grpc.Channel) -> None:
    about = {"subject": {"string_param": "ada"}, "metadata.source": {"string_param": "shop"}}
    asked = request(id="seven", parameters=about, outputs=[{"name": "prediction_id"}], model_version="v1")
    response = infer(channel)(asked, metadata=[("traceparent", TRACEPARENT)])
    assert (response.model_name, response.model_version, response.id) == ("reviews", "v1", "seven")
    assert [output.name for output in response.outputs] == ["prediction_id"]
    assert response.parameters["arm"].string_param == "production"
    assert response.parameters["logged"].bool_param
    assert response.parameters["trace_id"].string_param == TRACEPARENT[3:35]
    event = next(one for one in events_of(server.installation.log) if [one.id] == labels(response))
    assert (event.subject, event.metadata["source"], event.trace_id) == ("ada", "shop", TRACEPARENT[3:35])


def test_feedback_is_logged_under_the_prediction(server: Server, channel: grpc.Channel) -> None:
    unknown = new_id()
    given = Give(prediction_id=unknown.upper(), correct=False, label="neutral", comment="meh", subject="ada")
    thanks = give(channel)(given)
    assert thanks.prediction_id == unknown
    event = next(one for one in events_of(server.installation.log, FeedbackGiven) if one.id == thanks.feedback_id)
    assert (event.prediction_id, event.correct, event.label) == (unknown, False, "neutral")
    assert (event.comment, event.subject) == ("meh", "ada")


def test_feedback_sent_again_is_the_same_feedback(server: Server, channel: grpc.Channel) -> None:
    given = Give(prediction_id=new_id(), correct=False)
    first, again = (give(channel)(given).feedback_id for _ in range(2))
    keyed = {give(channel)(given, metadata=[("idempotency-key", "7")]).feedback_id for _ in range(2)}
    assert first == again
    assert len(keyed | {first}) == 2


def refused(call: Any, code: grpc.StatusCode, sentence: str) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    assert error.code() is code, error.details()
    assert sentence in error.details()
    return caught.value


def by_extension() -> Any:
    asked = request(contents=None)
    asked.inputs[0].parameters["shared_memory_region"].string_param = "x"
    return asked


WRONG: list[tuple[Any, grpc.StatusCode, str]] = [
    (Request(), NOT_FOUND, "there is no model ''; this server has 'reviews'"),
    (request(model_name="nothing"), NOT_FOUND, "there is no model 'nothing'; this server has 'reviews'"),
    (request(model_name="x" * 9_000), NOT_FOUND, "there is no model"),
    (request(model_version="v9"), NOT_FOUND, "no version of this name answers now; there is v1"),
    (request(inputs=[]), INVALID, "inputs: one tensor is taken, 'input'; there are 0"),
    (request(name="text"), INVALID, "inputs[0].name: there is no input 'text', only 'input'"),
    (request(datatype="FP32"), INVALID, "inputs[0].datatype: should be BYTES, not 'FP32'"),
    (request(shape=[1, 2]), INVALID, "inputs[0].shape: should be [n] or [n, 1], not [1, 2]"),
    (request(shape=[]), INVALID, "inputs[0].shape: should be [n] or [n, 1], not []"),
    (request(shape=[0]), INVALID, "inputs[0].shape: there should be at least one text"),
    (request(shape=[2]), INVALID, "inputs[0]: its shape says 2 texts, there are 1"),
    (request(contents=None), INVALID, "inputs[0]: its shape says 1 texts, there are 0"),
    (request(contents={"fp32_contents": [1.0]}), INVALID, "inputs[0]: its shape says 1 texts, there are 0"),
    (request(shape=[257]), EXHAUSTED, "inputs[0].shape: says 257 texts; at most 256 are taken"),
    (request(raw_input_contents=[b"x"]), INVALID, "inputs[0]: has both contents and raw_input_contents"),
    (
        request(contents=None, raw_input_contents=[element(b"x")] * 2),
        INVALID,
        "raw_input_contents: has 2 tensors, inputs has one",
    ),
    (raw(element(b"hello")[:-1]), INVALID, "input[0]: should have 5 bytes, 4 are left of the raw tensor"),
    (raw(b"\x05\0"), INVALID, "input: the raw tensor ends after 0 of 1 elements"),
    (raw(element(b"a"), count=2), INVALID, "input: the raw tensor ends after 1 of 2 elements"),
    (raw(element(b"a") + b"xyz"), INVALID, "input: the raw tensor has 3 bytes after its 1 elements"),
    (raw(element(b"\xff\xfe")), INVALID, "input[0]: is not UTF-8"),
    (request(contents={"bytes_contents": [b"\xff"]}), INVALID, "input[0]: is not UTF-8"),
    (text("a", " "), INVALID, "inputs[1]: the text is empty"),
    (text("a\0"), INVALID, "input[0]: must not hold the NUL character"),
    (text("x" * 2_001), INVALID, "input: the text has 2001 characters"),
    (text("x" * 1_000_000), EXHAUSTED, "larger than max (1000"),
    (request(outputs=[{"name": "logits"}]), INVALID, "outputs[0].name: there is no output 'logits'"),
    (request(outputs=[{"name": "label"}] * 2), INVALID, "outputs[1].name: 'label' is asked for twice"),
    (request(parameters={"subject": {"int64_param": 5}}), INVALID, "parameters.subject: Input should be a valid"),
    (request(parameters={"metadata.a": {}}), INVALID, "parameters.metadata.a: Input should be a valid string"),
    (
        request(parameters={"metadata.a": {"string_param": "x" * 1_001}}),
        INVALID,
        "parameters.metadata.a: String should have at most 1000",
    ),
    (by_extension(), INVALID, "inputs[0].parameters.shared_memory_region: this extension is not there"),
]


@pytest.mark.parametrize(("asked", "code", "sentence"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_a_wrong_request_gets_its_own_sentence(
    channel: grpc.Channel, asked: Any, code: grpc.StatusCode, sentence: str
) -> None:
    refused(lambda: infer(channel)(asked), code, sentence)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (Give(), "prediction_id: is missing"),
        (Give(prediction_id=new_id()), "correct: is missing"),
        (Give(prediction_id="nonsense", correct=True), "prediction_id: is no id of a prediction"),
        (
            Give(prediction_id=new_id(), correct=False, label="splendid"),
            "label: unknown label 'splendid'; the task has negative",
        ),
        (Give(prediction_id=new_id(), correct=True, label="neutral"), "label: says what would have been right"),
        (Give(prediction_id=new_id(), correct=False, label="🙂" * 20_000), "label: unknown label '🙂🙂"),
        (Give(prediction_id=new_id(), correct=False, comment="x" * 5_001), "comment: String should have at most"),
    ],
)
def test_feedback_that_makes_no_sense_is_refused(channel: grpc.Channel, given: Any, sentence: str) -> None:
    refused(lambda: give(channel)(given), INVALID, sentence)


def test_bytes_that_are_no_message_are_the_callers_fault(channel: grpc.Channel) -> None:
    method: Any = channel.unary_unary(f"/{proto.INFERENCE}/ModelInfer")
    for garbage in (b"\xff\xff\xff", b"\x0a\x01\xff"):  # the second: a model's name that is not UTF-8
        error: Any = refused(
            lambda body=garbage: method(body), INVALID, "the message is no inference.ModelInferRequest"
        )
        trailers = dict(error.trailing_metadata())
        assert (trailers["regraft-code"], trailers["regraft-retriable"]) == ("malformed_request", "false")


def test_a_compressed_message_must_keep_the_limit_as_well(server: Server) -> None:
    with channel_to(server.installation.settings.grpc_port, compression=grpc.Compression.Gzip) as channel:
        assert labels(infer(channel)(text("a positive thing"))) == ["positive"]
        refused(lambda: infer(channel)(text("x" * 5_000_000)), EXHAUSTED, "max")


def test_health_is_that_of_the_server_and_of_each_service(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", *SERVICES):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == Status.SERVING
    refused(lambda: stub.Check(health_pb2.HealthCheckRequest(service="nothing")), NOT_FOUND, "there is no such service")
    watched = stub.Watch(health_pb2.HealthCheckRequest(service="nothing"))
    assert next(iter(watched)).status == Status.SERVICE_UNKNOWN
    watched.cancel()


def test_reflection_shows_every_service_and_its_messages(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == set(SERVICES)
    pool = DescriptorPool(database)
    assert "Give" in pool.FindServiceByName(proto.FEEDBACK).methods_by_name
    assert "ModelInfer" in pool.FindServiceByName(proto.INFERENCE).methods_by_name
    assert "Check" in pool.FindServiceByName(HEALTH).methods_by_name


def test_errors_are_counted_by_their_code(server: Server, channel: grpc.Channel) -> None:
    name = 'regraft_errors_total{code="not_found"}'
    before = server.samples().get(name, 0)
    refused(lambda: infer(channel)(request(model_name="nothing")), NOT_FOUND, "")
    assert server.samples()[name] == before + 1


def kinds_of(kind: type[RegraftError]) -> Iterator[type[RegraftError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from kinds_of(one)


def test_every_error_has_a_status() -> None:
    assert {kind.status for kind in kinds_of(errors.RegraftError)} <= set(STATUSES)


@pytest.fixture
async def here(parts: Parts, installation: Installation) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server in this process."""
    settings = installation.settings
    server = GrpcServer(parts, host=settings.host, port=settings.grpc_port)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{settings.grpc_port}") as channel:
        yield channel
    await server.stop()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotReady("not yet"), grpc.StatusCode.UNAVAILABLE),
        (Overloaded("full"), grpc.StatusCode.UNAVAILABLE),
        (LogUnavailable("full"), grpc.StatusCode.UNAVAILABLE),
        (DeadlineExceeded("late"), grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
async def test_errors_of_the_core_have_their_status(
    parts: Parts, here: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch, error: RegraftError, code: grpc.StatusCode
) -> None:
    async def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr(parts.predictor, "predict", refuse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(here)(text("hello"))
    assert (caught.value.code(), caught.value.details()) == (code, error.message)
    assert dict(caught.value.trailing_metadata())["regraft-retriable"] == "true"


async def test_an_unknown_error_shows_an_id_alone_and_the_log_has_the_rest(
    parts: Parts, here: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(parts.predictor, "predict", refuse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(here)(text("hello"))
    details = caught.value.details() or ""
    assert (caught.value.code(), "secret" in details) == (grpc.StatusCode.INTERNAL, False)
    assert details.rpartition(" ")[2] in caplog.text
    assert "secret" in caplog.text


async def test_who_watches_sees_the_server_become_ready_and_stop(tmp_path_factory: pytest.TempPathFactory) -> None:
    installation = installation_in(tmp_path_factory.mktemp("empty"))
    parts = Parts.assemble(installation.settings)
    await parts.start()
    server = GrpcServer(parts, host="127.0.0.1", port=installation.settings.grpc_port)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{installation.settings.grpc_port}") as channel:
        ready: Any = channel.unary_unary(f"/{proto.INFERENCE}/ServerReady")
        assert await ready(b"") == b""  # false
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(channel)(text("hello"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        seen = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await seen.read()).status == Status.NOT_SERVING
        installation.publish("v1")
        installation.release("v1")
        async with asyncio.timeout(20):
            assert (await seen.read()).status == Status.SERVING
        assert await ready(b"") == proto.message("inference.ServerReadyResponse")(ready=True).SerializeToString()
        began = time.monotonic()
        stopping = asyncio.create_task(server.stop())
        assert (await seen.read()).status == Status.NOT_SERVING
        await stopping
        assert time.monotonic() - began < 5, "who watches does not hold up a stop"
    await parts.close()
