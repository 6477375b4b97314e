"""The monitor over HTTP: what stands where, the reviewers' queue, drift reports, and a wish to train again.

This file only translates: bytes -> checked request -> Monitor -> JSON. Errors leave in the form of regraft.errors.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from monitoring.monitor import Monitor
from monitoring.review import GivenLabel, QueueItem
from regraft import keys_file
from regraft.errors import InvalidInput, MalformedRequest, RegraftError
from regraft.events import DriftMeasured, QueueReason, RetrainingRequested
from regraft.ids import new_id
from regraft.keys import Scope
from regraft.preprocessing.image import MOST_PIXELS, open_image
from regraft.versions import VersionStore

LOGGER = logging.getLogger(__name__)
MOST_REVIEWS = 1_000
Name = Annotated[str, Field(min_length=1, max_length=200)]

# Where there are keys, one of these scopes is needed; what is not named here needs admin.
SCOPES: Mapping[str, Sequence[Scope]] = {
    "/healthz": (),
    "/metrics": (),
    "/status": (Scope.REVIEW, Scope.ADMIN),
    "/review/queue": (Scope.REVIEW,),
    "/review/labels": (Scope.REVIEW,),
    "/review/inputs/{reference}": (Scope.REVIEW,),
    "/drift": (Scope.REVIEW, Scope.ADMIN),
    "/drift/{check_id}": (Scope.REVIEW, Scope.ADMIN),
    "/drift/check": (Scope.ADMIN,),
    "/versions/{version}/report": (Scope.REVIEW, Scope.ADMIN),
    "/retraining": (Scope.ADMIN,),
}
_BEARER = HTTPBearer(scheme_name="key", description="an API key, where the monitor has keys", auto_error=False)


class GuardedRoute(APIRoute):
    """Lets nobody in without a key of the right scope, before the body is read."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.scopes = SCOPES.get(path, (Scope.ADMIN,))
        if self.scopes:  # for the page that describes the interface
            options["dependencies"] = [*(options.get("dependencies") or ()), Security(_BEARER)]
        super().__init__(path, endpoint, **options)

    async def handle(self, scope: Connection, receive: Receive, send: Send) -> None:
        request = Request(scope)
        request.app.state.guard.admit(request.headers.get("authorization"), self.scopes)
        await super().handle(scope, receive, send)


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class ReviewBody(Body):
    """One label, a name or a number: what the reviewer says is right."""

    prediction_id: Name
    label: Name | float
    reviewer: Name


class ReviewsBody(Body):
    """Several labels at once: all are taken or none."""

    reviews: Annotated[list[ReviewBody], Field(min_length=1, max_length=MOST_REVIEWS)]


def _one_or_many(body: Any) -> str:
    return "many" if isinstance(body, ReviewsBody) or (isinstance(body, dict) and "reviews" in body) else "one"


LabelsBody = Annotated[
    Annotated[ReviewBody, Tag("one")] | Annotated[ReviewsBody, Tag("many")], Discriminator(_one_or_many)
]


class QueueQuery(Body):
    limit: Annotated[int, Field(ge=1, le=MOST_REVIEWS)] = 20
    reason: QueueReason | None = None
    reveal: bool = False


class RetrainingBody(Body):
    who: Name
    why: Annotated[str, Field(min_length=1, max_length=2_000)]
    target: dict[str, str] = Field({}, max_length=8)  # conditions of the rows that it is about


def create_app(monitor: Monitor) -> FastAPI:
    """The monitor's threads start and stop with the app. Raises ConfigError for a bad file of keys."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        monitor.start()
        yield
        await run_in_threadpool(monitor.stop)

    app = FastAPI(title="Regraft monitor", lifespan=lifespan)
    app.router.route_class = GuardedRoute
    app.state.monitor = monitor
    app.state.guard = keys_file.guard(monitor.settings.keys_file)
    app.add_api_route("/healthz", healthz)
    app.add_api_route("/metrics", metrics, response_class=Response)
    app.add_api_route("/status", status)
    app.add_api_route("/review/queue", review_queue)
    app.add_api_route("/review/labels", review_labels, methods=["POST"])
    app.add_api_route("/review/inputs/{reference}", review_input, response_class=Response)
    app.add_api_route("/drift", drift_checks)
    app.add_api_route("/drift/check", check_drift, methods=["POST"])
    app.add_api_route("/drift/{check_id}", drift_report, response_class=HTMLResponse)
    app.add_api_route("/versions/{version}/report", version_report, response_class=HTMLResponse)
    app.add_api_route("/retraining", request_retraining, methods=["POST"], status_code=202)
    app.add_exception_handler(RegraftError, _known_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unknown_error)
    return app


def _monitor(request: Request) -> Monitor:
    monitor: Monitor = request.app.state.monitor
    return monitor


def healthz() -> Response:
    return _json({"status": "ok"})


def metrics(request: Request) -> Response:
    return Response(_monitor(request).metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def status(request: Request) -> Response:
    """Everything that the last look found; `decision` says why retraining was asked for, or why not."""
    monitor = _monitor(request)
    standing = monitor.standing
    loop = standing.loop
    return _json(
        {
            "at": standing.at,
            "task": monitor.task.name,
            "release": asdict(loop.release) | {"production_since": loop.production_since},
            "quality": [quality.as_json() for quality in standing.quality],
            "queue": monitor.desk.counts(),
            "oldest_unreviewed": standing.oldest_unreviewed,
            "new_labels": standing.new_labels,
            "experiment": standing.disagreements._asdict() if standing.disagreements else None,
            "drift": _summary(loop.newest_check) if loop.newest_check else None,
            "decision": asdict(standing.decision),
            "last_request": _request(loop.last_request) if loop.last_request else None,
            "outcome": loop.outcome.model_dump(exclude={"evidence"}) if loop.outcome else None,
            "verdict": loop.verdict.model_dump(exclude={"evidence"}) if loop.verdict else None,
            "lag": {"recorder": monitor.lag()},
        }
    )


def review_queue(request: Request, query: Annotated[QueueQuery, Query()]) -> Response:
    """What waits for a label. Blind unless `reveal`: a first look that knows the answer tends to agree with it."""
    monitor = _monitor(request)
    images = monitor.task.input == "image"
    queue = monitor.desk.queue(query.limit, query.reason)
    items = [_item(item, reveal=query.reveal) | (_picture(item) if images else {}) for item in queue]
    asked = monitor.task.answers.as_task()  # the labels there are, or the range of numbers
    return _json({**asked, "waiting": monitor.desk.counts(), "items": items})


def review_labels(request: Request, body: LabelsBody) -> Response:
    """`accepted` counts labels taken; `added` those of them that were not yet on record just so."""
    given = body.reviews if isinstance(body, ReviewsBody) else [body]
    labels = [GivenLabel(one.prediction_id, str(one.label), one.reviewer) for one in given]
    added = _monitor(request).desk.label(labels, datetime.now(UTC))
    reviews = [{"id": review.id, "prediction_id": review.prediction_id, "reason": review.reason} for review in added]
    return _json({"accepted": len(given), "added": len(added), "reviews": reviews})


def review_input(request: Request, reference: str) -> Response:
    """The picture that the queue refers to, and nothing that a browser could take for anything else."""
    content = _monitor(request).inputs.read(reference)
    with open_image(content, MOST_PIXELS) as image:
        kind = Image.MIME.get(image.format or "", "application/octet-stream")
    headers = {
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Disposition": "inline",
        "Cache-Control": "private, max-age=3600",  # it never changes, but may be removed
    }
    return Response(content, headers=headers, media_type=kind)


def drift_checks(request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> Response:
    """The newest checks, newest first."""
    checks = _monitor(request).standing.loop.checks
    return _json({"checks": [_summary(check) for check in reversed(checks[-limit:])]})


def drift_report(request: Request, check_id: str) -> HTMLResponse:
    # The report carries scripts of its own and inputs of strangers: it may talk to nobody.
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; font-src data:"
    content = _monitor(request).reports.read(check_id.removesuffix(".html"))
    return HTMLResponse(content, headers={"Content-Security-Policy": f"sandbox allow-scripts; {policy}"})


def version_report(request: Request, version: str) -> HTMLResponse:
    """How good the version is, against what, and where it fails, as it was when the version was made."""
    content = VersionStore(_monitor(request).settings.versions).read(version, "report.html")
    policy = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # it has no scripts at all
    return HTMLResponse(content, headers={"Content-Security-Policy": policy})


def check_drift(request: Request) -> Response:
    """One check, now; answers when it is done, after some seconds."""
    check_id = _monitor(request).check_drift()
    return _json({"id": check_id, "report": f"/drift/{check_id}"})


def request_retraining(request: Request, body: RetrainingBody) -> Response:
    asked = _monitor(request).force_retraining(who=body.who, why=body.why, target=body.target)
    return _json(_request(asked), status=202)


def _item(item: QueueItem, *, reveal: bool) -> dict[str, Any]:
    blind = {"prediction_id": item.prediction_id, "at": item.at, "input": item.input}
    shown = {"reason": item.reason, "version": item.version, "label": item.label, "confidence": item.confidence}
    return blind | shown if reveal else blind


def _picture(item: QueueItem) -> dict[str, str]:
    return {"picture": f"/review/inputs/{item.input}"}


def _summary(check: DriftMeasured) -> dict[str, Any]:
    report = f"/drift/{check.id}" if check.report else None
    return check.model_dump(exclude={"kind", "schema_version"}) | {"report": report}


def _request(request: RetrainingRequested) -> dict[str, Any]:
    return request.model_dump(exclude={"kind", "schema_version"})


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`nan`, an undefined figure, leaves as null."""
    return Response(to_json(content, inf_nan_mode="null"), status, headers, "application/json")


async def _known_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RegraftError)
    return _json(error.as_json(), error.status, error.headers)


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    if any(problem["type"] == "json_invalid" for problem in problems):
        return await _known_error(request, MalformedRequest("the body is not JSON"))
    places = [{"where": ".".join(map(str, one["loc"])), "problem": one["msg"]} for one in problems]
    sentence = "; ".join(f"{place['where']}: {place['problem']}" for place in places[:5])
    return await _known_error(request, InvalidInput(sentence, problems=places))


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    body = {"error": {"code": code, "message": str(error.detail), "retriable": False}}
    return _json(body, error.status_code)


async def _unknown_error(_: Request, error: Exception) -> Response:
    error_id = new_id()
    LOGGER.error("error %s", error_id, exc_info=error)
    return _json({"error": {"code": "internal", "message": f"internal error {error_id}", "retriable": False}}, 500)
