"""The Open Inference Protocol over gRPC, and feedback, for which it has no words: messages in, messages out."""

from collections.abc import Mapping
from typing import Any

from regraft.errors import InvalidInput, MalformedRequest
from regraft.task import Task
from service import oip
from service.grpc_calls import Caller, Handler
from service.inputs import Inputs
from service.parts import Parts
from service.proto import message
from service.schemas import FeedbackBody, check

_Infer = message("inference.ModelInferResponse")
_Metadata = message("inference.ModelMetadataResponse")
_ModelReady = message("inference.ModelReadyResponse")
_Server = message("inference.ServerMetadataResponse")
_ServerLive = message("inference.ServerLiveResponse")
_ServerReady = message("inference.ServerReadyResponse")
_Thanks = message("regraft.v1.GiveFeedbackResponse")


class Inference:
    """`handlers` by the names of the protocol's methods."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.handlers: Mapping[str, Handler] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
        }

    async def server_live(self, _: Any, __: Caller) -> Any:
        return _ServerLive(live=True)

    async def server_ready(self, _: Any, __: Caller) -> Any:
        return _ServerReady(ready=self._parts.following.ready)

    async def model_ready(self, request: Any, _: Caller) -> Any:
        self._check_model(request.name, request.version)
        return _ModelReady(ready=self._parts.following.ready)

    async def server_metadata(self, _: Any, __: Caller) -> Any:
        return _Server(**oip.SERVER)

    async def model_metadata(self, request: Any, _: Caller) -> Any:
        self._check_model(request.name, request.version)
        return _Metadata(
            name=request.name,
            versions=[request.version] if request.version else oip.versions(self._parts.following),
            platform=oip.PLATFORM,
            inputs=[column._asdict() for column in oip.inputs()],
            outputs=[column._asdict() for column in oip.outputs(self._parts.task.answers)],
        )

    async def model_infer(self, request: Any, caller: Caller) -> Any:
        self._check_model(request.model_name, request.model_version)
        inputs = await _inputs(self._parts.task, request)
        names = oip.wanted(self._parts.task, request.outputs)
        parameters = {name: _value(parameter) for name, parameter in request.parameters.items()}
        answer = await self._parts.predictor.predict(
            oip.request(
                inputs,
                parameters,
                version=request.model_version,
                trace_id=caller.trace_id,
                caller_name=caller.name,
            )
        )
        tensors = oip.tensors_of(answer, names)
        return _Infer(
            model_name=request.model_name,
            model_version=answer.predictions[0].version,
            id=request.id,
            parameters={name: _parameter(value) for name, value in oip.parameters_of(answer).items()},
            outputs=[{"name": one.name, "datatype": one.datatype, "shape": one.shape} for one in tensors],
            raw_output_contents=[one.raw() for one in tensors],
        )

    def _check_model(self, name: str, version: str) -> None:
        oip.check_model(self._parts.task, self._parts.following, name, version)


class Feedback:
    """`handlers` by the names of the service's methods."""

    def __init__(self, parts: Parts) -> None:
        self._box = parts.feedback
        self.handlers: Mapping[str, Handler] = {"Give": self.give}

    async def give(self, request: Any, caller: Caller) -> Any:
        body = check(FeedbackBody, {field.name: value for field, value in request.ListFields()})
        given = await self._box.give(body.as_event(caller.trace_id), key=caller.idempotency_key, caller=caller.name)
        return _Thanks(feedback_id=given.id, prediction_id=given.prediction_id, trace_id=given.trace_id)


async def _inputs(task: Task, request: Any) -> Inputs:
    """Raises MalformedRequest, InvalidInput, PayloadTooLarge."""
    shape = oip.declared(task, request.inputs)
    raws, contents = request.raw_input_contents, request.inputs[0].contents
    if not raws:
        return await oip.from_values(task, shape, contents.uint_contents if len(shape) > 1 else contents.bytes_contents)
    if contents.ListFields():
        raise InvalidInput("inputs[0]: has both contents and raw_input_contents")
    if len(raws) != 1:
        raise MalformedRequest(f"raw_input_contents: has {len(raws)} tensors, inputs has one")
    return await oip.from_raw(task, shape, raws[0])


def _value(parameter: Any) -> object:
    choice = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, choice) if choice else None


def _parameter(value: str | bool) -> dict[str, str | bool]:
    return {"bool_param": value} if isinstance(value, bool) else {"string_param": value}
