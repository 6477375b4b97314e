"""How gRPC is spoken: every call is let in, read, answered and refused in one way.

key -> caller; (room); bytes -> message -> handler -> message -> bytes. Bytes that are no message are the caller's
fault, so they are read here and not by gRPC, which would call them an internal error.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from regraft.errors import MalformedRequest
from regraft.keys import Scope
from service import guards
from service.gate import ALWAYS_OPEN
from service.parts import Parts
from service.problems import presentable
from service.proto import POOL
from service.trace import trace_id

Context = grpc.aio.ServicerContext[Any, Any]


class Caller(NamedTuple):
    """What a call says of itself beside its message; `name` is its API key's."""

    name: str | None
    trace_id: str | None
    idempotency_key: str | None


Handler = Callable[[Any, Caller], Awaitable[Any]]

STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
CODE, RETRIABLE = "regraft-code", "regraft-retriable"  # trailing metadata of every error
SPAN_STATUS = "rpc.response.status_code"
PUSHBACK = "grpc-retry-pushback-ms"  # which gRPC's own retries wait for (gRFC A6)
LONGEST_SENTENCE = 500  # clients take 8 kB of trailers, in which a character may take 12 bytes


def service(name: str, handlers: Mapping[str, Handler], parts: Parts) -> grpc.GenericRpcHandler:
    """All methods of the service `name`; each handler gets the request and its caller, and returns the response."""
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in POOL.FindServiceByName(name).methods:
        kind = GetMessageClass(method.input_type)
        where = f"{name}/{method.name}"
        call = partial(_call, handlers[method.name], kind, parts, guards.of_method(where), where)
        methods[method.name] = grpc.unary_unary_rpc_method_handler(call)
    return grpc.method_handlers_generic_handler(name, methods)


async def _call(
    handler: Handler, kind: Any, parts: Parts, scopes: Sequence[Scope], where: str, body: bytes, context: Context
) -> bytes:
    served, said = None, _metadata(context)
    if parts.spans is not None and scopes:
        served = parts.spans.grpc(where, said)
    try:
        name = parts.guard.admit(said.get("authorization"), scopes)
        trace = parts.spans.trace_id() if served and parts.spans else trace_id(said.get("traceparent"))
        caller = Caller(name, trace, said.get("idempotency-key"))
        with parts.gate if scopes else ALWAYS_OPEN:
            answer = await handler(_read(kind, body), caller)
        content: bytes = answer.SerializeToString()
        if served is not None:
            served.end(SPAN_STATUS, "OK")
        return content
    except asyncio.CancelledError:
        if served is not None:
            served.end(SPAN_STATUS, "CANCELLED")
        raise
    except Exception as error:  # noqa: BLE001
        problem = presentable(error, where)
    if served is not None:
        served.end(SPAN_STATUS, STATUSES[problem.status].name, failed=problem.status >= 500)
    parts.metrics.errors.labels(problem.code).inc()
    trailers = [(CODE, problem.code), (RETRIABLE, str(problem.retriable).lower())]
    if "Retry-After" in problem.headers:
        trailers.append((PUSHBACK, f"{problem.headers['Retry-After']}000"))
    return await context.abort(STATUSES[problem.status], problem.message[:LONGEST_SENTENCE], tuple(trailers))


def _read(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise MalformedRequest(
            f"the message is no {kind.DESCRIPTOR.full_name}, or a string in it is not UTF-8"
        ) from error


def _metadata(context: Context) -> dict[str, str]:
    """Of several entries of one name the first counts."""
    entries = reversed(tuple(context.invocation_metadata() or ()))
    return {name: value for name, value in entries if isinstance(value, str)}
