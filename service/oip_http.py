"""The Open Inference Protocol over HTTP, with its binary tensor extension.

body -> (JSON, raw tensors) -> texts -> answer -> (JSON, raw tensors) -> body. Where any tensor is raw, the header
Inference-Header-Content-Length says where the JSON ends, and each raw tensor's binary_data_size says where it does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import ConfigDict, Field
from pydantic_core import to_json

from regraft.errors import InvalidInput, MalformedRequest
from regraft.task import Task
from service import oip
from service.http import caller_of, documented_body, parts_of, read_body, trace_of
from service.inputs import Inputs
from service.schemas import Body, OipError, parse
from service.tensors import Tensor

JSON_LENGTH = "inference-header-content-length"
MODEL = "/v2/models/{name}"
VERSION = MODEL + "/versions/{version}"
RAW = "application/octet-stream"
KINDS = ("application/json", RAW, "")  # stock clients name any of these, whatever they send


class _OipBody(Body):
    """Fields that are not known are the business of extensions that are not ours."""

    model_config = ConfigDict(extra="ignore")


class OutputBody(_OipBody):
    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class InputBody(OutputBody):
    datatype: str
    shape: list[int]
    data: list[Any] | None = Field(None, description="texts, images in base64, or pixels; flat, or in lists by shape")


class InferBody(_OipBody):
    id: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict, description="subject, and metadata.* of any name")
    inputs: list[InputBody] = Field(
        description="one tensor 'input': BYTES of shape [n] or [n, 1], or pixels, UINT8 of [n, height, width, channels]"
    )
    outputs: list[OutputBody] = Field(
        default_factory=list, description="which of those that the model's metadata names; all unless said"
    )


def add_routes(app: FastAPI) -> None:
    statuses = (400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504)
    errors: dict[int | str, dict[str, Any]] = {status: {"model": OipError} for status in statuses}
    guarded: dict[int | str, dict[str, Any]] = {status: errors[status] for status in (401, 403, 429)}
    infers: dict[str, Any] = {"openapi_extra": documented_body(InferBody), "responses": errors}
    unknown: dict[str, Any] = {"responses": {404: errors[404]}}
    known: dict[str, Any] = {"responses": guarded | unknown["responses"]}
    for path, of in ((MODEL, "the model"), (VERSION, "a version")):
        app.post(f"{path}/infer", summary=f"Open Inference Protocol: ask {of}", **infers)(infer)
        app.get(f"{path}/ready", summary=f"Open Inference Protocol: is {of} ready", **unknown)(model_ready)
        app.get(path, summary=f"Open Inference Protocol: tensors of {of}", **known)(model)
    app.get("/v2", summary="Open Inference Protocol: this server", responses=guarded)(server)
    app.get("/v2/health/live", summary="Open Inference Protocol: is it alive")(live)
    app.get("/v2/health/ready", summary="Open Inference Protocol: is it ready")(ready)


async def server(_: Request) -> Response:
    return _json(oip.SERVER)


async def live(_: Request) -> Response:
    return _json({"live": True})


async def ready(request: Request) -> Response:
    return _readiness(request, {})


async def model_ready(request: Request) -> Response:
    name, _ = _model(request)
    return _readiness(request, {"name": name})


async def model(request: Request) -> Response:
    parts = parts_of(request)
    name, version = _model(request)
    return _json(
        {
            "name": name,
            "versions": [version] if version else oip.versions(parts.following),
            "platform": oip.PLATFORM,
            "inputs": [column._asdict() for column in oip.inputs()],
            "outputs": [column._asdict() for column in oip.outputs(parts.task.answers)],
        }
    )


async def infer(request: Request) -> Response:
    parts = parts_of(request)
    name, version = _model(request)
    header, raw = _split(request, await read_body(request, parts.task.serving, KINDS))
    body = parse(InferBody, header)
    inputs = await _inputs(parts.task, body.inputs, raw)
    names = oip.wanted(parts.task, body.outputs)
    binary = _binary(parts.task, body)
    answer = await parts.predictor.predict(
        oip.request(
            inputs, body.parameters, version=version, trace_id=trace_of(request), caller_name=caller_of(request)
        )
    )
    shown: dict[str, Any] = {"model_name": name, "model_version": answer.predictions[0].version}
    if body.id is not None:
        shown["id"] = body.id
    return _answer(shown | {"parameters": oip.parameters_of(answer)}, oip.tensors_of(answer, names), binary)


def _model(request: Request) -> tuple[str, str]:
    """Name and version of the path; the version is "" where there is none. Raises NotFound."""
    parts = parts_of(request)
    name, version = request.path_params["name"], request.path_params.get("version", "")
    oip.check_model(parts.task, parts.following, name, version)
    return name, version


def _readiness(request: Request, about: Mapping[str, str]) -> Response:
    is_ready = parts_of(request).following.ready
    return _json({**about, "ready": is_ready}, 200 if is_ready else 503)


def _split(request: Request, body: bytes) -> tuple[bytes, bytes]:
    """The JSON, and what comes after it. Raises MalformedRequest."""
    length = request.headers.get(JSON_LENGTH)
    if length is None:
        return body, b""
    if not (length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= len(body)):
        raise MalformedRequest("Inference-Header-Content-Length: should be a number of bytes that the body has")
    return body[: int(length)], body[int(length) :]


async def _inputs(task: Task, tensors: Sequence[InputBody], raw: bytes) -> Inputs:
    """Raises MalformedRequest, InvalidInput, PayloadTooLarge."""
    shape = oip.declared(task, tensors)
    (tensor,) = tensors
    size = tensor.parameters.get("binary_data_size")
    if size is not None:
        if tensor.data is not None:
            raise InvalidInput("inputs[0]: has both data and binary_data_size")
        if type(size) is not int or size != len(raw):
            raise MalformedRequest(f"inputs[0].parameters.binary_data_size: after the JSON there are {len(raw)} bytes")
        return await oip.from_raw(task, shape, raw)
    if raw:
        raise MalformedRequest(f"after the JSON there are {len(raw)} bytes that no tensor claims by binary_data_size")
    if tensor.data is None:
        raise InvalidInput("inputs[0].data: is missing")
    nested = len(tensor.shape) == 2 and all(isinstance(one, list) and len(one) == 1 for one in tensor.data)
    return await oip.from_values(task, shape, [one[0] for one in tensor.data] if nested else tensor.data)


def _binary(task: Task, body: InferBody) -> set[str]:
    """Names of the outputs that are to be raw; of any, where the request says so and no output of its own."""
    default = _flag(body.parameters, "binary_data_output", "", False)
    if not body.outputs:
        return set(oip.wanted(task, [])) if default else set()
    return {
        output.name
        for index, output in enumerate(body.outputs)
        if _flag(output.parameters, "binary_data", f"outputs[{index}].", default)
    }


def _flag(parameters: Mapping[str, Any], name: str, place: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{place}parameters.{name}: should be true or false")
    return value


def _answer(shown: dict[str, Any], tensors: Sequence[Tensor], binary: set[str]) -> Response:
    outputs, raws = [], []
    for tensor in tensors:
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if tensor.name in binary:
            raws.append(tensor.raw())
            output["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            output["data"] = tensor.values
        outputs.append(output)
    header = to_json(shown | {"outputs": outputs})
    if not raws:
        return Response(header, media_type="application/json")
    return Response(b"".join([header, *raws]), headers={JSON_LENGTH: str(len(header))}, media_type=RAW)


def _json(answer: Mapping[str, Any], status: int = 200) -> Response:
    return Response(to_json(answer), status, media_type="application/json")
