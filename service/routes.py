"""The HTTP interface: each handler reads a body, calls the core and writes the answer."""

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from regraft.errors import NotFound, PayloadTooLarge
from regraft.events import PredictionMade
from regraft.releases import Release
from service import inputs, metrics, oip_http
from service.feedback import LONGEST_KEY
from service.http import (
    DirectRoute,
    answer_error,
    caller_of,
    documented_body,
    documented_errors,
    json_response,
    media_type,
    parts_of,
    read_body,
    trace_of,
)
from service.predictor import Answer, PredictRequest
from service.schemas import (
    BatchAnswer,
    CallerBody,
    FeedbackAnswer,
    FeedbackBody,
    LabelAnswer,
    NumberAnswer,
    PredictBatchBody,
    PredictBody,
    ReleaseAnswer,
    ServedRelease,
    caller,
    parse,
)

IDEMPOTENCY_KEY = "Idempotency-Key"
_DOCUMENTED_KEY = {
    "parameters": [
        {
            "name": IDEMPOTENCY_KEY,
            "in": "header",
            "required": False,
            "description": "what you call this feedback by: sent again under the same key it is logged once. Without"
            " one, feedback that says the same of the same prediction is the same feedback",
            "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
        }
    ]
}
# BentoML's own pages, which it routes after what is mounted.
_PAGES = ("/", "/docs.json", "/static_content", "/assets")
_PROBES = ("/livez", "/readyz", "/healthz", "/schema.json")  # and before it; what arrives here is no GET


def build() -> FastAPI:
    """The application; it answers once `app.state.parts` is set."""
    app = FastAPI(title="Regraft", openapi_url=None)
    app.router.route_class = DirectRoute
    app.post(
        "/predict",
        summary="Answer one text or image",
        response_model=LabelAnswer | NumberAnswer,
        openapi_extra=documented_body(PredictBody, inputs.IMAGE_TYPES),
        responses=documented_errors(400, 408, 413, 415, 422, 503, 504),
    )(predict)
    app.post(
        "/predict/batch",
        summary="Answer several texts or images, or none if one of them is no valid input",
        response_model=BatchAnswer,
        openapi_extra=documented_body(PredictBatchBody),
        responses=documented_errors(400, 408, 413, 415, 422, 503, 504),
    )(predict_batch)
    app.post(
        "/feedback",
        summary="Say whether a prediction was right",
        status_code=202,
        response_model=FeedbackAnswer,
        openapi_extra=documented_body(FeedbackBody) | _DOCUMENTED_KEY,
        responses=documented_errors(400, 408, 413, 415, 422, 503),
    )(feedback)
    app.get("/release", summary="Which versions answer", response_model=ReleaseAnswer)(release)
    app.get("/metrics", include_in_schema=False)(show_metrics)
    oip_http.add_routes(app)
    app.router.routes.append(_Elsewhere(app.routes))
    return app


async def predict(request: Request) -> Response:
    parts = parts_of(request)
    raw = inputs.IMAGE_TYPES if parts.task.input == "image" else ()
    content = await read_body(request, parts.task.serving, ("application/json", *raw))
    if media_type(request) in raw:  # who asks, and whatever else there is to say, is in the query then
        given: inputs.Inputs = [content]
        said: PredictBody | CallerBody = caller(request.query_params)
    else:
        said = parse(PredictBody, content)
        given = inputs.from_json(parts.task, [said.input])
    answer = await parts.predictor.predict(
        PredictRequest(given, said.subject, said.metadata or {}, trace_of(request), caller=caller_of(request))
    )
    return json_response(_shown(answer, answer.predictions[0]))


async def predict_batch(request: Request) -> Response:
    parts = parts_of(request)
    limits = parts.task.serving
    body = parse(PredictBatchBody, await read_body(request, limits))
    if len(body.inputs) > limits.max_items:
        raise PayloadTooLarge(
            f"inputs: has {len(body.inputs)} items; at most {limits.max_items} are taken", limit=limits.max_items
        )
    given = inputs.from_json(parts.task, body.inputs)
    answer = await parts.predictor.predict(
        PredictRequest(given, body.subject, body.metadata or {}, trace_of(request), caller=caller_of(request))
    )
    return json_response({"predictions": [_shown(answer, one) for one in answer.predictions]})


async def feedback(request: Request) -> Response:
    parts = parts_of(request)
    body = parse(FeedbackBody, await read_body(request, parts.task.serving))
    given = await parts.feedback.give(
        body.as_event(trace_of(request)),
        key=request.headers.get(IDEMPOTENCY_KEY),
        caller=caller_of(request),
    )
    return json_response(
        FeedbackAnswer(feedback_id=given.id, prediction_id=given.prediction_id, trace_id=given.trace_id), 202
    )


async def release(request: Request) -> Response:
    following = parts_of(request).following
    served = following.serving.release if following.ready else None
    return json_response(
        ReleaseAnswer(
            newest=_release(following.release),
            serving=_release(served) if served else None,
            stale=following.stale,
            loaded=following.loaded,
            refused=following.refused,
        )
    )


async def show_metrics(request: Request) -> Response:
    return Response(parts_of(request).metrics.render(), media_type=metrics.CONTENT_TYPE)


async def _elsewhere(request: Request) -> Response:
    if request.url.path in _PROBES:
        return answer_error(request, HTTPException(405, headers={"Allow": "GET"}))
    return answer_error(request, NotFound(f"there is nothing at {request.url.path}"))


class _Elsewhere(Route):
    """Every path that nothing else answers. Another method on a known path is not one of them: that is a 405."""

    def __init__(self, known: list[BaseRoute]) -> None:
        super().__init__("/{path:path}", _elsewhere, include_in_schema=False)
        self._known = [route for route in known if route is not self]
        self.methods = None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = scope.get("path", "")
        if scope["type"] != "http" or path in _PAGES or path.startswith(("/static_content/", "/assets/")):
            return Match.NONE, {}
        if any(route.matches(scope)[0] is not Match.NONE for route in self._known):
            return Match.NONE, {}
        return Match.FULL, {"endpoint": self.endpoint}  # whatever the path holds; the pattern would miss a line break


def _shown(answer: Answer, prediction: PredictionMade) -> dict[str, Any]:
    """A LabelAnswer or NumberAnswer, as JSON has it: made by way of the model it would take three times as long."""
    common: dict[str, Any] = {
        "prediction_id": prediction.id,
        "confidence": prediction.confidence,
        "version": prediction.version,
        "arm": prediction.arm,
        "logged": answer.logged,
        "trace_id": prediction.trace_id,
    }
    if prediction.interval is not None:
        low, high = prediction.interval
        return common | {"value": float(prediction.label), "low": low, "high": high}
    names = answer.answers.as_task()["labels"]
    return common | {
        "label": prediction.label,
        "probabilities": dict(zip(names, prediction.probabilities, strict=True)),
    }


def _release(release: Release) -> ServedRelease:
    return ServedRelease(
        generation=release.generation,
        production=release.production,
        candidate=release.candidate,
        share=release.share,
    )
