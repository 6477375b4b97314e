"""A gRPC client with messages of our own descriptor pool, and requests for it."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from service import proto

INFER, GIVE = f"/{proto.INFERENCE}/ModelInfer", f"/{proto.FEEDBACK}/Give"
Request, Response = proto.message("inference.ModelInferRequest"), proto.message("inference.ModelInferResponse")
Give, Thanks = proto.message("regraft.v1.GiveFeedbackRequest"), proto.message("regraft.v1.GiveFeedbackResponse")
INPUT = {"name": "input", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"hello"]}}


@contextmanager
def channel_to(port: int, **options: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{port}", **options) as channel:
        yield channel


def infer(channel: Any) -> Any:
    """The method, to be called with a Request; of a channel for threads or for asyncio."""
    return channel.unary_unary(
        INFER, request_serializer=Request.SerializeToString, response_deserializer=Response.FromString
    )


def give(channel: Any) -> Any:
    return channel.unary_unary(GIVE, request_serializer=Give.SerializeToString, response_deserializer=Thanks.FromString)


def request(**changes: Any) -> Any:
    """For one text; `changes` replace fields of the request, or else of its one input."""
    own = {name: changes.pop(name) for name in list(changes) if name in Request.DESCRIPTOR.fields_by_name}
    fields = {name: value for name, value in (INPUT | changes).items() if value is not None}
    return Request(**({"model_name": "reviews", "inputs": [fields]} | own))


def text(*texts: str) -> Any:
    return request(shape=[len(texts)], contents={"bytes_contents": [one.encode() for one in texts]})


def raw(content: bytes, *, count: int = 1) -> Any:
    return request(shape=[count], contents=None, raw_input_contents=[content])


def element(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def labels(response: Any) -> list[str]:
    """Those of a response whose first output they are."""
    content, found = response.raw_output_contents[0], []
    while content:
        (length,) = struct.unpack_from("<I", content)
        found.append(content[4 : 4 + length].decode())
        content = content[4 + length :]
    return found
