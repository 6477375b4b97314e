"""How HTTP is spoken: callers come in by their key, bodies are read within their limits, every error leaves as the same
JSON.

bytes off the wire -> (key) -> (room) -> (type, size, time) -> handler -> bytes. FastAPI documents the routes; its
machinery for reading and writing them is left out, since it would cost more than the rest of a request.
"""

import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from regraft.errors import MalformedRequest, PayloadTooLarge, RegraftError, RequestTimeout, UnsupportedMediaType
from regraft.sections import Serving
from service import guards
from service.gate import ALWAYS_OPEN
from service.parts import Parts
from service.problems import presentable
from service.schemas import ErrorAnswer
from service.trace import trace_id

REMEMBERED_PATHS = 64
OIP = "/v2"  # the paths of the Open Inference Protocol, whose errors have another form

_BEARER = HTTPBearer(scheme_name="key", description="an API key, where the server has keys", auto_error=False)
_GUARDED = (401, 403, 429)

_PARAMETERS = re.compile(r"{(\w+)}")  # of a path
_NAME = {"type": "string", "minLength": 1}
_MEANINGS = {
    400: "not JSON, or not UTF-8",
    401: "no key, or none that is known here",
    403: "the key has not this scope",
    408: "the body did not arrive within its time limit",
    413: "the body, or the number of inputs, is above its limit",
    415: "the body is not declared as application/json",
    422: "a field is missing, unknown, or says what it cannot say; the sentence names it",
    429: "more requests a second than the key is good for; try again after Retry-After",
    503: "not ready, overloaded, or the event log takes no events; try again",
    504: "no answer within the time limit",
}


class DirectRoute(APIRoute):
    """A route whose handler takes the request and returns the response, with nothing in between but the guard and
    the errors. The dependency is there to be documented; nothing runs it."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.scopes = guards.of_path(path)
        if self.scopes:
            options["dependencies"] = [Security(_BEARER, scopes=list(self.scopes))]
            options["responses"] = documented_errors(*_GUARDED) | (options.get("responses") or {})
        named = [{"name": name, "in": "path", "required": True, "schema": _NAME} for name in _PARAMETERS.findall(path)]
        if named:
            options["openapi_extra"] = {"parameters": named} | (options.get("openapi_extra") or {})
        super().__init__(path, endpoint, **options)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        methods = self.methods or set()
        if scope["method"] not in methods:
            response = answer_error(request, HTTPException(405, headers={"Allow": ", ".join(methods)}))
        else:
            parts, served = parts_of(request), None
            if parts.spans is not None and self.scopes:
                served = parts.spans.http(scope["method"], self.path, scope["path"], request.headers)
            try:
                request.state.caller = parts.guard.admit(request.headers.get("authorization"), self.scopes)
                with parts.gate if self.scopes else ALWAYS_OPEN:
                    response = await self.endpoint(request)
            except Exception as error:  # noqa: BLE001
                response = answer_error(request, error)
            if served is not None:
                served.end("http.response.status_code", response.status_code, failed=response.status_code >= 500)
        await response(scope, receive, send)


class HotRoutes:
    """Finds ours among the routes before anybody else is asked, and remembers where: the way through BentoML's and
    FastAPI's routers and middlewares took longer than all the rest of a request but the network."""

    def __init__(self, app: FastAPI, otherwise: ASGIApp) -> None:
        self._app = app
        self._otherwise = otherwise
        self._find = lru_cache(maxsize=REMEMBERED_PATHS)(self._search)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route, parameters = self._find(scope["method"], scope["path"]) if scope["type"] == "http" else (None, {})
        if route is None:
            await self._otherwise(scope, receive, send)
        else:
            scope.update(app=self._app, path_params=parameters)
            await route.handle(scope, receive, send)

    def _search(self, method: str, path: str) -> tuple[DirectRoute | None, dict[str, Any]]:
        for route in self._app.routes:
            match, found = route.matches({"type": "http", "method": method, "path": path})
            if match is Match.FULL:
                return (route, found["path_params"]) if isinstance(route, DirectRoute) else (None, {})
        return None, {}


def json_response(answer: BaseModel | Mapping[str, Any], status: int = 200) -> Response:
    return Response(to_json(answer), status, media_type="application/json")


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def caller_of(request: Request) -> str | None:
    """The name of the key that the request came with, where one was needed."""
    name: str | None = request.state.caller
    return name


def trace_of(request: Request) -> str | None:
    """The caller's trace; where there are spans, one is begun for who has none."""
    spans = parts_of(request).spans
    return trace_id(request.headers.get("traceparent")) if spans is None else spans.trace_id()


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, limits: Serving, kinds: Collection[str] = ("application/json",)) -> bytes:
    """Raises UnsupportedMediaType, PayloadTooLarge as soon as too many bytes are announced or have come, and
    RequestTimeout."""
    limit = limits.max_body_bytes
    kind = media_type(request)
    if kind not in kinds:
        wanted = " or ".join(filter(None, kinds))
        raise UnsupportedMediaType(f"the body should be {wanted}, not {kind or 'of no declared type'}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body should not be compressed")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        with parts_of(request).deadlines.within(limits.body_seconds):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise MalformedRequest("the connection ended before the body did")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError as error:
        raise RequestTimeout(f"the body did not arrive within {limits.body_seconds:g} seconds") from error
    return bytes(body)


def answer_error(request: Request, error: Exception) -> Response:
    """The one place where errors become answers. What is not known to be safe to show is shown as an id alone."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        status, body = error.status_code, _problem(HTTPStatus(error.status_code).name.lower(), str(error.detail))
        headers |= error.headers or {}
    else:
        shown = presentable(error, f"{request.method} {request.url.path}")
        status, body = shown.status, shown.as_json()
        headers |= shown.headers
        if isinstance(error, PayloadTooLarge | RequestTimeout):
            headers["Connection"] = "close"  # the rest of the body is not read
    parts_of(request).metrics.errors.labels(body["error"]["code"]).inc()
    if request.url.path == OIP or request.url.path.startswith(f"{OIP}/"):
        problem = body["error"]
        body = {"error": problem.pop("message"), **problem}
    return Response(to_json(body), status, headers, "application/json")


def documented_body(kind: type[BaseModel], raw: Collection[str] = ()) -> dict[str, Any]:
    """For `openapi_extra`: the route reads this body, though FastAPI does not; or one of the `raw` types as it is."""
    schema = kind.model_json_schema()
    whole = _inlined(schema, schema.pop("$defs", {}))
    binary = {name: {"schema": {"type": "string", "format": "binary"}} for name in raw}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": whole}, **binary}}}


def documented_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer, "description": _MEANINGS[status]} for status in statuses}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """With definitions in the place of the references to them, which the page would not find."""
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(one, definitions) for name, one in schema.items()}


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body has more than {limit} bytes", limit=limit)


def _problem(code: str, message: str) -> dict[str, Any]:
    problem = RegraftError(message).as_json()
    problem["error"]["code"] = code
    return problem
