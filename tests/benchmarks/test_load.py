"""The load generator, with its own HTTP and gRPC, against servers that others wrote."""

import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import grpc
import pytest

from benchmarks.serving.contenders import ECHO, OTHERS, REGRAFT_PROTOCOLS, regraft
from benchmarks.serving.load import WIRES, Generator, Job, Outcome, judge
from benchmarks.serving.material import TASK
from benchmarks.serving.oip_wire import MODEL, OIP_GRPC
from regraft.task import Task
from service import proto
from service.tensors import pack

Request, Response = proto.message("inference.ModelInferRequest"), proto.message("inference.ModelInferResponse")
TEXTS = ["yes", "no" * 4_000, "refused"]
LABELS = ["yes", "no", "no"]
PROBABILITIES = [[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one write an answer

    def do_POST(self) -> None:
        text = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        place = TEXTS.index(text)
        answer = {"label": LABELS[place], "probabilities": dict(zip("ab", PROBABILITIES[place], strict=True))}
        body = json.dumps(answer | {"logged": text == "yes"}).encode()
        self.send_response(429 if text == "refused" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def _infer(request: Any, context: grpc.ServicerContext) -> Any:
    (content,) = request.inputs[0].contents.bytes_contents
    place = TEXTS.index(content.decode())
    if TEXTS[place] == "refused":
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "come again")
    return Response(
        parameters={"logged": {"bool_param": TEXTS[place] == "yes"}},
        outputs=[{"name": "label"}, {"name": "large"}, {"name": "probabilities"}],
        raw_output_contents=[pack([LABELS[place].encode()]), bytes(100_000), struct.pack("<2f", *PROBABILITIES[place])],
    )


@pytest.fixture
def http_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Http) as server:
        thread = Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def grpc_port() -> Iterator[int]:
    method = grpc.unary_unary_rpc_method_handler(
        _infer, request_deserializer=Request.FromString, response_serializer=Response.SerializeToString
    )
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(proto.INFERENCE, {"ModelInfer": method})])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port
        server.stop(None).wait()


@pytest.fixture(params=["native", "oip grpc"])
def asked(request: pytest.FixtureRequest) -> tuple[str, int]:
    """A wire, and the port of a server for it."""
    return request.param, request.getfixturevalue("grpc_port" if "grpc" in request.param else "http_port")


def _load(asked: tuple[str, int], *places: int, **more: Any) -> Outcome:
    texts, labels = [TEXTS[place] for place in places], [LABELS[place] for place in places]
    probabilities = [PROBABILITIES[place] for place in places]
    job = Job(asked[1], asked[0], 4, texts, labels, probabilities, 30.0, limit=200, **more)
    generator = Generator(job)
    outcome = judge(job, *generator.run())
    outcome.sent = generator.sent
    return outcome


def test_every_answer_is_counted_and_compared(asked: tuple[str, int]) -> None:
    outcome = _load(asked, 0, 1)
    assert (outcome.sent, outcome.answered, outcome.failed, outcome.wrong) == (200, 200, 0, 0), outcome.failures
    assert 0 < outcome.p50_ms <= outcome.p99_ms
    assert outcome.own_cpu_seconds > 0


def test_what_is_refused_is_a_failure_and_the_others_go_on(asked: tuple[str, int]) -> None:
    outcome = _load(asked, 0, 2)
    assert (outcome.answered, outcome.failed) == (100, 100)
    assert ("429" if "native" in asked else "come again") in outcome.failures[0]


def test_a_question_that_takes_several_frames_is_none_for_the_load_generator() -> None:
    with pytest.raises(ValueError, match="one frame"):
        OIP_GRPC.prepare("long" * 5_000)


def test_every_server_is_asked_in_a_way_that_there_is() -> None:
    contenders = [ECHO, *OTHERS, regraft("local", list(REGRAFT_PROTOCOLS))]
    assert {wire for one in contenders for wire in one.protocols.values()} == set(WIRES)


def test_the_version_to_serve_is_of_a_task_that_can_be_read() -> None:
    assert Task.load(TASK).name == MODEL


def test_an_answer_that_should_be_logged_and_is_not_is_a_failure(asked: tuple[str, int]) -> None:
    outcome = _load(asked, 0, 1, logged=True)
    assert (outcome.answered, outcome.failed) == (100, 100)


def test_another_answer_than_the_right_one_is_wrong(http_port: int) -> None:
    job = Job(http_port, "native", 2, TEXTS[:2], ["no", "no"], [[0.25, 0.75], [0.25, 0.75]], 30.0, limit=100)
    outcome = judge(job, *Generator(job).run())
    assert (outcome.answered, outcome.wrong, outcome.labels_changed) == (100, 50, 50)
    assert outcome.largest_difference == 0.5
