"""The Open Inference Protocol, version 2 (https://github.com/kserve/open-inference-protocol), whatever carries it.

The model's name is the task's. Its one input is a tensor of texts, or of images: encoded ones as BYTES, raw pixels as
UINT8. Its outputs are columns of the predictions.

names, shapes, parameters -> checked -> PredictRequest -> the request path of all transports -> Answer -> tensors
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import regraft
from regraft.answers import Answers, Labels
from regraft.errors import InvalidInput, MalformedRequest, NotFound, PayloadTooLarge
from regraft.events import PredictionMade
from regraft.task import Task
from service import NAME
from service.following import Following
from service.inputs import Inputs, from_bytes, from_json, from_pixels
from service.predictor import Answer, PredictRequest
from service.schemas import LONGEST_NAME, caller
from service.tensors import Tensor, unpack

INPUT = "input"
SERVER = {"name": NAME, "version": regraft.__version__, "extensions": ["binary_tensor_data"]}
PLATFORM = "onnx_onnxv1"

# Parameters of tensors that mean another answer, or another input, by extensions that are not there.
_NOT_OFFERED = ("classification", "shared_memory_region")


class Column(NamedTuple):
    """A tensor as the model's metadata describes it; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


# Of one prediction: a text, a number, or a row of them.
_VALUES: Mapping[str, Callable[[PredictionMade], Any]] = {
    "label": lambda one: one.label,
    "value": lambda one: float(one.label),
    "low": lambda one: (one.interval or (math.nan,))[0],
    "high": lambda one: (one.interval or (math.nan,))[-1],
    "confidence": lambda one: one.confidence,
    "probabilities": lambda one: one.probabilities,
    "prediction_id": lambda one: one.id,
}


def inputs() -> list[Column]:
    return [Column(INPUT, "BYTES", (-1,))]


def outputs(answers: Answers) -> list[Column]:
    said = (
        [
            Column("label", "BYTES", (-1,)),
            Column("confidence", "FP32", (-1,)),
            Column("probabilities", "FP32", (-1, len(answers.names))),
        ]
        if isinstance(answers, Labels)
        else [Column(name, "FP32", (-1,)) for name in ("value", "low", "high", "confidence")]
    )
    return [*said, Column("prediction_id", "BYTES", (-1,))]


def versions(following: Following) -> list[str]:
    """Those that answer now, production first."""
    return following.serving.versions if following.ready else []


def check_model(task: Task, following: Following, name: str, version: str = "") -> None:
    """Raises NotFound for a name that is not the task's, and a version that does not answer now."""
    if name != task.name:
        raise NotFound(f"there is no model {_short(name)}; this server has {task.name!r}")
    if version and following.ready:
        following.serving.arm_of(version)


def declared(task: Task, tensors: Sequence[Any]) -> tuple[int, ...]:
    """The shape that the one input says it has: (n,), or (n, height, width, channels) of raw pixels. Of `tensors` name,
    datatype, shape and parameters are looked at. Raises InvalidInput, PayloadTooLarge."""
    if len(tensors) != 1:
        raise InvalidInput(f"inputs: one tensor is taken, {INPUT!r}; there are {len(tensors)}")
    (tensor,) = tensors
    if tensor.name != INPUT:
        raise InvalidInput(f"inputs[0].name: there is no input {_short(tensor.name)}, only {INPUT!r}")
    taken = ("BYTES", "UINT8") if task.input == "image" else ("BYTES",)
    if tensor.datatype not in taken:
        raise InvalidInput(f"inputs[0].datatype: should be {' or '.join(taken)}, not {_short(tensor.datatype)}")
    shape = tuple(tensor.shape[:5])
    if tensor.datatype == "UINT8":
        if len(shape) != 4 or shape[3] not in (1, 3, 4) or min(shape[1:3]) < 1:
            raise InvalidInput(f"inputs[0].shape: should be [n, height, width, 1, 3 or 4], not {_short(list(shape))}")
    elif not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise InvalidInput(f"inputs[0].shape: should be [n] or [n, 1], not {_short(list(shape))}")
    if shape[0] < 1:
        raise InvalidInput(f"inputs[0].shape: there should be at least one {task.input}")
    limit = task.serving.max_items
    if shape[0] > limit:
        raise PayloadTooLarge(
            f"inputs[0].shape: says {_short(shape[0])} {task.input}s; at most {limit} are taken", limit=limit
        )
    _check_offered("inputs[0]", tensor.parameters)
    return shape if len(shape) == 4 else shape[:1]


async def from_raw(task: Task, shape: tuple[int, ...], raw: bytes) -> Inputs:
    """Of a tensor's own bytes. Raises MalformedRequest, InvalidInput."""
    if len(shape) == 1:
        return from_bytes(task, unpack(raw, shape[0]))
    size = math.prod(shape)
    if len(raw) != size:
        raise MalformedRequest(f"input: the raw tensor should have {size} bytes, there are {len(raw)}")
    return await from_pixels(np.frombuffer(raw, dtype=np.uint8).reshape(shape))


async def from_values(task: Task, shape: tuple[int, ...], values: Sequence[Any]) -> Inputs:
    """Of elements one by one: strings, bytes, or numbers in whatever lists. Raises InvalidInput."""
    if len(shape) > 1:
        return await from_raw(task, shape, _pixels(values, math.prod(shape)))
    if len(values) != shape[0]:
        raise InvalidInput(f"inputs[0]: its shape says {shape[0]} {task.input}s, there are {len(values)}")
    if isinstance(values[0], bytes):
        return from_bytes(task, values)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise InvalidInput(f"inputs[0].data[{index}]: should be a string", index=index)
    return from_json(task, values)


def request(
    inputs: Inputs,
    parameters: Mapping[str, object],
    *,
    version: str = "",
    trace_id: str | None,
    caller_name: str | None,
) -> PredictRequest:
    """Raises InvalidInput."""
    for index, one in enumerate(inputs):
        if isinstance(one, str) and "\0" in one:
            raise InvalidInput(f"input[{index}]: must not hold the NUL character", index=index)
    said = caller(parameters, "parameters.")
    return PredictRequest(inputs, said.subject, said.metadata, trace_id, version or None, caller_name)


def wanted(task: Task, tensors: Sequence[Any]) -> list[str]:
    """Names of the outputs asked for, all when there are none; raises InvalidInput for one that there is not."""
    names, there = [tensor.name for tensor in tensors], [column.name for column in outputs(task.answers)]
    for index, name in enumerate(names):
        if name not in there:
            raise InvalidInput(f"outputs[{index}].name: there is no output {_short(name)}, only {', '.join(there)}")
        if name in names[:index]:
            raise InvalidInput(f"outputs[{index}].name: {name!r} is asked for twice")
        _check_offered(f"outputs[{index}]", tensors[index].parameters)
    return names or there


def tensors_of(answer: Answer, names: Sequence[str]) -> list[Tensor]:
    columns = {column.name: column for column in outputs(answer.answers)}
    return [_tensor(columns[name], answer.predictions) for name in names]


def parameters_of(answer: Answer) -> dict[str, str | bool]:
    """What else there is to say of an answer. `labels` is a JSON array: the columns of the probabilities, in order."""
    first = answer.predictions[0]
    parameters: dict[str, str | bool] = {"version": first.version, "arm": first.arm.value}
    if isinstance(answer.answers, Labels):
        parameters["labels"] = json.dumps(answer.answers.names, ensure_ascii=False)
    if answer.logged is not None:
        parameters["logged"] = answer.logged
    if first.trace_id is not None:
        parameters["trace_id"] = first.trace_id
    return parameters


def _tensor(column: Column, predictions: Sequence[PredictionMade]) -> Tensor:
    values = [_VALUES[column.name](one) for one in predictions]
    flat = [value for row in values for value in row] if len(column.shape) == 2 else values
    return Tensor(column.name, column.datatype, (len(predictions), *column.shape[1:]), flat)


def _check_offered(place: str, parameters: Mapping[str, object]) -> None:
    for name in _NOT_OFFERED:
        if name in parameters:
            raise InvalidInput(f"{place}.parameters.{name}: this extension is not there")


def _pixels(values: Sequence[Any], size: int) -> bytes:
    try:
        flat = np.asarray(values).reshape(-1)
    except ValueError:  # lists of unlike lengths
        flat = np.empty(0)
    if flat.dtype.kind not in "iu" or flat.size != size or flat.min() < 0 or flat.max() > 255:
        raise InvalidInput(f"inputs[0]: should hold {size} whole numbers from 0 to 255, as its shape says")
    return flat.astype(np.uint8).tobytes()


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= LONGEST_NAME else f"{shown[:LONGEST_NAME]}..."
