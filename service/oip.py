"""The Open Inference Protocol, version 2 (https://github.com/kserve/open-inference-protocol), whatever carries it.

The model's name is the task's. Its one input is a tensor of texts; its outputs are columns of the predictions.

names, shapes, parameters -> checked -> PredictRequest -> the request path of all transports -> Answer -> tensors
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import regraft
from regraft.errors import InvalidInput, NotFound, PayloadTooLarge
from regraft.task import Task
from service import NAME
from service.following import Following
from service.predictor import Answer, PredictRequest
from service.schemas import LONGEST_NAME, CallerBody, check
from service.tensors import Tensor

INPUT = "input"
SERVER = {"name": NAME, "version": regraft.__version__, "extensions": ["binary_tensor_data"]}
PLATFORM = "onnx_onnxv1"

# Parameters of tensors that mean another answer, or another input, by extensions that are not there.
_NOT_OFFERED = ("classification", "shared_memory_region")

_COLUMNS: Mapping[str, Callable[[Answer], Tensor]] = {
    "label": lambda answer: _texts("label", [one.label for one in answer.predictions]),
    "confidence": lambda answer: Tensor(
        "confidence", "FP32", (len(answer.predictions),), [one.confidence for one in answer.predictions]
    ),
    "probabilities": lambda answer: Tensor(
        "probabilities",
        "FP32",
        (len(answer.predictions), len(answer.labels)),
        [value for one in answer.predictions for value in one.probabilities],
    ),
    "prediction_id": lambda answer: _texts("prediction_id", [one.id for one in answer.predictions]),
}


class Column(NamedTuple):
    """A tensor as the model's metadata describes it; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def inputs() -> list[Column]:
    return [Column(INPUT, "BYTES", (-1,))]


def outputs(task: Task) -> list[Column]:
    return [
        Column("label", "BYTES", (-1,)),
        Column("confidence", "FP32", (-1,)),
        Column("probabilities", "FP32", (-1, len(task.labels))),
        Column("prediction_id", "BYTES", (-1,)),
    ]


def versions(following: Following) -> list[str]:
    """Those that answer now, production first."""
    return following.serving.versions if following.ready else []


def check_model(task: Task, following: Following, name: str, version: str = "") -> None:
    """Raises NotFound for a name that is not the task's, and a version that does not answer now."""
    if name != task.name:
        raise NotFound(f"there is no model {_short(name)}; this server has {task.name!r}")
    if version and following.ready:
        following.serving.arm_of(version)


def count_texts(task: Task, tensors: Sequence[Any]) -> int:
    """How many texts the one input says it has; of `tensors` name, datatype and shape are looked at.

    Raises InvalidInput, PayloadTooLarge."""
    if len(tensors) != 1:
        raise InvalidInput(f"inputs: one tensor is taken, {INPUT!r}; there are {len(tensors)}")
    (tensor,) = tensors
    if tensor.name != INPUT:
        raise InvalidInput(f"inputs[0].name: there is no input {_short(tensor.name)}, only {INPUT!r}")
    if tensor.datatype != "BYTES":
        raise InvalidInput(f"inputs[0].datatype: should be BYTES, not {_short(tensor.datatype)}")
    shape = list(tensor.shape[:4])
    if not (len(tensor.shape) == 1 or (len(tensor.shape) == 2 and shape[1] == 1)):
        raise InvalidInput(f"inputs[0].shape: should be [n] or [n, 1], not {_short(shape)}")
    if shape[0] < 1:
        raise InvalidInput("inputs[0].shape: there should be at least one text")
    limit = task.serving.max_items
    if shape[0] > limit:
        raise PayloadTooLarge(f"inputs[0].shape: says {_short(shape[0])} texts; at most {limit} are taken", limit=limit)
    _check_offered("inputs[0]", tensor.parameters)
    return int(shape[0])


def check_count(elements: Sequence[Any], count: int) -> None:
    if len(elements) != count:
        raise InvalidInput(f"inputs[0]: its shape says {count} texts, there are {len(elements)}")


def decode(elements: Sequence[bytes]) -> list[str]:
    """Raises InvalidInput that names the text at fault."""
    texts = []
    for index, element in enumerate(elements):
        try:
            texts.append(element.decode())
        except UnicodeDecodeError as error:
            raise InvalidInput(f"input[{index}]: is not UTF-8", index=index) from error
    return texts


def request(
    texts: Sequence[str],
    parameters: Mapping[str, object],
    *,
    version: str = "",
    trace_id: str | None,
    caller: str | None,
) -> PredictRequest:
    """`subject` and `metadata.<name>` among the parameters are ours. Others are left alone: clients send some of their
    own accord. Raises InvalidInput."""
    for index, text in enumerate(texts):
        if "\0" in text:
            raise InvalidInput(f"input[{index}]: must not hold the NUL character", index=index)
    metadata = {
        name.removeprefix("metadata."): value for name, value in parameters.items() if name.startswith("metadata.")
    }
    fields = {"metadata": metadata} | ({"subject": parameters["subject"]} if "subject" in parameters else {})
    try:
        said = check(CallerBody, fields)
    except InvalidInput as error:
        raise InvalidInput(f"parameters.{error.message}") from error
    return PredictRequest(texts, said.subject, said.metadata, trace_id, version or None, caller)


def wanted(tensors: Sequence[Any]) -> list[str]:
    """Names of the outputs asked for, all when there are none; raises InvalidInput for one that there is not."""
    names = [tensor.name for tensor in tensors]
    for index, name in enumerate(names):
        if name not in _COLUMNS:
            raise InvalidInput(f"outputs[{index}].name: there is no output {_short(name)}, only {', '.join(_COLUMNS)}")
        if name in names[:index]:
            raise InvalidInput(f"outputs[{index}].name: {name!r} is asked for twice")
        _check_offered(f"outputs[{index}]", tensors[index].parameters)
    return names or list(_COLUMNS)


def tensors_of(answer: Answer, names: Sequence[str]) -> list[Tensor]:
    return [_COLUMNS[name](answer) for name in names]


def parameters_of(answer: Answer) -> dict[str, str | bool]:
    """What else there is to say of an answer. `labels` is a JSON array: the columns of the probabilities, in order."""
    first = answer.predictions[0]
    parameters: dict[str, str | bool] = {
        "version": first.version,
        "arm": first.arm.value,
        "labels": json.dumps(answer.labels, ensure_ascii=False),
    }
    if answer.logged is not None:
        parameters["logged"] = answer.logged
    if first.trace_id is not None:
        parameters["trace_id"] = first.trace_id
    return parameters


def _texts(name: str, values: Sequence[str]) -> Tensor:
    return Tensor(name, "BYTES", (len(values),), values)


def _check_offered(place: str, parameters: Mapping[str, object]) -> None:
    for name in _NOT_OFFERED:
        if name in parameters:
            raise InvalidInput(f"{place}.parameters.{name}: this extension is not there")


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= LONGEST_NAME else f"{shown[:LONGEST_NAME]}..."
