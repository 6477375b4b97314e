"""The Open Inference Protocol as a load generator asks it, one text at a time: JSON, binary tensors, and gRPC."""

import json
import struct
from typing import Any

from benchmarks.serving.http2 import CallTalk, question
from benchmarks.serving.wire import Answered, Body, Http, Reply, Talk
from service import proto
from service.tensors import pack, unpack

MODEL = "reviews"
PATH = f"/v2/models/{MODEL}/infer"
INPUT: dict[str, Any] = {"name": "input", "datatype": "BYTES", "shape": [1]}

_Request, _Response = proto.message("inference.ModelInferRequest"), proto.message("inference.ModelInferResponse")


def _answered(label: str, probabilities: bytes, logged: bool | None) -> Answered:
    return Answered(label, [value for (value,) in struct.iter_unpack("<f", probabilities)], logged)


def _ask_json(text: str) -> Body:
    return Body(json.dumps({"inputs": [INPUT | {"data": [text]}]}).encode())


def _read_json(body: bytes) -> Answered:
    answer = json.loads(body)
    data = {output["name"]: output["data"] for output in answer["outputs"]}
    return Answered(data["label"][0], data["probabilities"], answer["parameters"].get("logged"))


def _ask_binary(text: str) -> Body:
    raw = pack([text.encode()])
    tensor = INPUT | {"parameters": {"binary_data_size": len(raw)}}
    return Body(json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode(), raw)


def _read_binary(body: bytes) -> Answered:
    # The JSON ends where it ends: the header that says so is not looked at. Latin-1, so that places are those of bytes.
    answer, place = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    tensors = {}
    for output in answer["outputs"]:
        size = output["parameters"]["binary_data_size"]
        tensors[output["name"]] = body[place : place + size]
        place += size
    (label,) = unpack(tensors["label"], 1)
    return _answered(label.decode(), tensors["probabilities"], answer["parameters"].get("logged"))


class Grpc:
    """One connection a caller, as products have it: nothing is gained for the server by calls that share one."""

    def prepare(self, text: str) -> bytes:
        tensor = INPUT | {"contents": {"bytes_contents": [text.encode()]}}
        message: bytes = _Request(model_name=MODEL, inputs=[tensor]).SerializeToString()
        return question(message)

    def talk(self) -> Talk:
        return CallTalk(f"/{proto.INFERENCE}/ModelInfer")

    def read(self, reply: Reply) -> Answered:
        if not reply.ok:
            raise ValueError("the call failed")
        answer = _Response.FromString(reply.body)
        raw = dict(zip((output.name for output in answer.outputs), answer.raw_output_contents, strict=True))
        (label,) = unpack(raw["label"], 1)
        logged = answer.parameters["logged"].bool_param if "logged" in answer.parameters else None
        return _answered(label.decode(), raw["probabilities"], logged)


OIP_JSON = Http(PATH, _ask_json, _read_json)
OIP_BINARY = Http(PATH, _ask_binary, _read_binary)
OIP_GRPC = Grpc()
