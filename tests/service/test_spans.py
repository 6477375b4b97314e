"""Spans as a collector gets them from a real server; and that without one nothing of the SDK is there."""

import os
import subprocess
import sys
from collections.abc import Iterator

import grpc
import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from regraft.errors import ConfigError
from regraft.events import FeedbackGiven
from regraft.ids import new_id
from service import proto
from service.parts import Parts
from service.trace import exporters, open_spans
from tests.service.collector import Collector, attributes, collecting
from tests.service.conftest import Installation, Server, events_of, installation_in, serving, wait_until
from tests.service.grpc_caller import Give, channel_to, give, infer, request, text

PARENT = "b7ad6b7169203331"
OPEN = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that samples nothing of its own accord, and sends what callers have sampled."""
    installation = installation_in(tmp_path_factory.mktemp("traced"), serving={"max_batch": 2, "sessions": 1})
    installation.publish("v1")
    installation.release("v1")
    variables = {
        OPEN: collector.url,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    with serving(installation, **variables) as server:
        wait_until(server.ready)
        yield server


def sampled(flags: str = "01") -> tuple[str, dict[str, str]]:
    """A new trace and the headers of a request in it."""
    trace = new_id()
    return trace, {"traceparent": f"00-{trace}-{PARENT}-{flags}", "tracestate": "vendor=x"}


def arrived(collector: Collector, trace: str, count: int) -> list[Span]:
    wait_until(lambda: len(collector.of(trace)) >= count)
    return collector.of(trace)


def check_children(spans: list[Span], root: Span, batches: list[int]) -> None:
    by_name: dict[str, list[Span]] = {}
    for span in spans:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
        if span is not root:
            assert span.parent_span_id == root.span_id
            by_name.setdefault(span.name, []).append(span)
    assert sorted(by_name) == ["inference", "log", "queue"]
    (queue,), (log,) = by_name["queue"], by_name["log"]
    about = {"regraft.version": "v1", "regraft.arm": "production"}
    assert attributes(queue.attributes) == attributes(log.attributes) == about
    assert sorted(attributes(one.attributes)["regraft.batch_size"] for one in by_name["inference"]) == batches
    last = max(by_name["inference"], key=lambda span: span.start_time_unix_nano)
    assert abs(last.start_time_unix_nano - queue.end_time_unix_nano) < 1e6, "the queue ends where the last run begins"
    assert log.start_time_unix_nano > last.end_time_unix_nano - 1e6


def test_a_request_over_http_has_its_spans(traced: Server, collector: Collector) -> None:
    trace, headers = sampled()
    answer = traced.post("/predict", {"input": "a positive day"}, headers=headers).json()
    assert answer["trace_id"] == trace
    spans = arrived(collector, trace, 4)
    (root,) = collector.named(trace, "POST /predict")
    assert (root.parent_span_id.hex(), root.trace_state, root.kind) == (PARENT, "vendor=x", Span.SPAN_KIND_SERVER)
    assert attributes(root.attributes) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "url.path": "/predict",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "regraft.version": "v1",
        "regraft.arm": "production",
        "regraft.inputs": 1,
    }
    check_children(spans, root, [1])
    about = collector.resources[-1]
    assert (about["service.name"], about["deployment.environment.name"]) == ("regraft", "test")
    assert events_of(traced.installation.log)[-1].trace_id == trace


def test_each_batch_of_a_request_has_a_span(traced: Server, collector: Collector) -> None:
    trace, headers = sampled()
    assert traced.post("/predict/batch", {"inputs": ["positive"] * 5}, headers=headers).status_code == 200
    spans = arrived(collector, trace, 6)
    (root,) = collector.named(trace, "POST /predict/batch")
    check_children(spans, root, [1, 2, 2])


def test_a_call_over_grpc_has_its_spans(traced: Server, collector: Collector) -> None:
    trace, headers = sampled()
    with channel_to(traced.installation.settings.grpc_port) as channel:
        answer = infer(channel)(text("a positive day"), metadata=tuple(headers.items()))
        spans = arrived(collector, trace, 4)
        assert answer.parameters["trace_id"].string_param == trace
        (root,) = collector.named(trace, f"{proto.INFERENCE}/ModelInfer")
        assert (root.parent_span_id.hex(), root.kind) == (PARENT, Span.SPAN_KIND_SERVER)
        found = attributes(root.attributes)
        assert (found["rpc.system.name"], found["rpc.response.status_code"]) == ("grpc", "OK")
        check_children(spans, root, [1])

        trace, headers = sampled()
        with pytest.raises(grpc.RpcError):
            infer(channel)(request(model_name="nothing"), metadata=tuple(headers.items()))
        (root,) = arrived(collector, trace, 1)
        assert attributes(root.attributes)["rpc.response.status_code"] == "NOT_FOUND"
        assert root.status.code == Status.STATUS_CODE_UNSET, "the caller's fault is none of the server's"

        trace, headers = sampled()
        given = give(channel)(Give(prediction_id=new_id(), correct=True), metadata=tuple(headers.items()))
        assert (given.trace_id, len(arrived(collector, trace, 1))) == (trace, 1)
        assert events_of(traced.installation.log, FeedbackGiven)[-1].trace_id == trace


def test_a_refused_request_has_a_span_with_its_status(traced: Server, collector: Collector) -> None:
    trace, headers = sampled()
    assert traced.post("/v2/models/x/infer", {}, headers=headers).status_code == 404
    (root,) = arrived(collector, trace, 1)
    assert (root.name, root.status.code) == ("POST /v2/models/{name}/infer", Status.STATUS_CODE_UNSET)
    assert attributes(root.attributes)["http.response.status_code"] == 404


def test_what_is_not_sampled_is_not_sent_but_has_its_trace_all_the_same(traced: Server, collector: Collector) -> None:
    unsampled, headers = sampled("00")
    assert traced.post("/predict", {"input": "a"}, headers=headers).json()["trace_id"] == unsampled
    begun_here = traced.post("/predict", {"input": "a"}).json()["trace_id"]
    assert len(begun_here) == 32
    feedback = traced.post("/feedback", {"prediction_id": new_id(), "correct": True}).json()["trace_id"]
    traced.get("/v2/health/live")
    last, headers = sampled()
    traced.post("/feedback", {"prediction_id": new_id(), "correct": True}, headers=headers)
    arrived(collector, last, 1)
    assert not {unsampled, begun_here, feedback} & {span.trace_id.hex() for span in collector.spans}
    assert "/v2/health/live" not in {span.name for span in collector.spans}


async def test_a_fault_of_ours_is_an_error_of_its_span_and_a_stop_sends_what_waits(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    from service import routes

    monkeypatch.setenv(OPEN, collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    parts = Parts.assemble(installation.settings)  # not started, so not ready
    app = routes.build()
    app.state.parts = parts
    trace, headers = sampled()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.post("/predict", json={"input": "a"}, headers=headers)).status_code == 503
    assert not collector.of(trace)
    await parts.close()
    (root,) = collector.of(trace)
    assert (root.status.code, attributes(root.attributes)["error.type"]) == (Status.STATUS_CODE_ERROR, "503")


NOTHING: list[dict[str, str]] = [
    {},
    {"OTEL_TRACES_EXPORTER": "none", OPEN: "http://x"},
    {"OTEL_SDK_DISABLED": "True", OPEN: "http://x"},
    {OPEN: ""},
]


@pytest.mark.parametrize("environment", NOTHING)
def test_nothing_is_exported_unless_it_is_asked_for(environment: dict[str, str]) -> None:
    assert exporters(environment) == []


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({OPEN: "http://x"}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp_proto_http", "console"]),
        ({"OTEL_TRACES_EXPORTER": "console", OPEN: "http://x"}, ["console"]),
    ],
)
def test_the_standard_variables_name_the_exporters(environment: dict[str, str], names: list[str]) -> None:
    assert [one.name for one in exporters(environment)] == names


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({OPEN: "x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp: there is no exporter 'otlp_proto_grpc' here"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin: there is no exporter 'zipkin' here"),
    ],
)
def test_an_exporter_that_is_not_installed_is_a_mistake(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        exporters(environment)


def test_without_an_exporter_nothing_of_the_sdk_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    assert open_spans() is None
    code = (
        "import sys, service.app, service.parts, service.trace; assert service.trace.open_spans() is None;"
        " print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
