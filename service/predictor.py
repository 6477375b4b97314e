"""The request path, in one method; it knows no transport. HTTP, gRPC and whatever comes translate to it.

request -> arm -> token ids -> batch -> scores (and, for the audited, the other arm's) -> event log -> answer
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from regraft.answers import Answers
from regraft.errors import DeadlineExceeded
from regraft.events import CALLER, NAMED_VERSION, PredictionMade, Shadow
from regraft.ids import new_id
from regraft.task import Task
from service.batching import Score
from service.following import Following
from service.inputs import Input, Inputs, Keeper
from service.journal import Journal
from service.metrics import Metrics
from service.models import Model
from service.router import audited

if TYPE_CHECKING:
    from service.spans import Spans

logger = logging.getLogger(__name__)

SHADOW_PATIENCE_SECONDS = 0.5  # how much longer than its own scores an audited request waits for the other arm's


@dataclass(frozen=True)
class PredictRequest:
    """`subject` is who the request is about: it decides on the arm. Without one, chance does; with a `version`, that
    one answers, and the prediction says so in its metadata: an experiment must not take it for an arm by lot. It
    says as well who the `caller` was, by the name of the key."""

    inputs: Inputs
    subject: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    trace_id: str | None = None
    version: str | None = None
    caller: str | None = None

    @property
    def logged_metadata(self) -> dict[str, str]:
        ours = {NAMED_VERSION: self.version, CALLER: self.caller}
        return self.metadata | {name: value for name, value in ours.items() if value}


@dataclass(frozen=True)
class Answer:
    """Predictions in the order of the inputs, and whether they are in the event log (None: nobody waited for it)."""

    predictions: Sequence[PredictionMade]
    answers: Answers
    logged: bool | None


class Predictor:
    def __init__(
        self,
        task: Task,
        following: Following,
        journal: Journal | None,
        metrics: Metrics,
        *,
        keeper: Keeper | None = None,
        wait_for_log: bool = True,
        spans: "Spans | None" = None,
    ) -> None:
        """Without a journal predictions are answered and forgotten. `keeper` is for inputs that the event log has no
        room for; events then carry references to them."""
        self._keeper = keeper
        self._spans = spans
        self._wait_for_log = wait_for_log
        self._timeout = task.serving.timeout_seconds
        self._audit = task.audit
        self._following = following
        self._journal = journal
        self._metrics = metrics

    async def predict(self, request: PredictRequest) -> Answer:
        """Raises NotReady, NotFound, InvalidInput, Overloaded, DeadlineExceeded, or what the network raised."""
        started = time.perf_counter()
        serving = self._following.serving
        ids = [new_id() for _ in request.inputs]
        subject = request.subject or ids[0]  # whoever is not named is somebody new, all of the request's inputs alike
        arm = serving.arm_of(request.version) if request.version else serving.arm_for(subject)
        model, other = serving.model(arm), serving.other(arm)
        rate = self._audit.experiment_rate if other else self._audit.rate
        drawn = [index for index, one in enumerate(ids) if audited(one, rate)]
        try:
            async with asyncio.timeout(self._timeout):
                encodings = await model.encode(request.inputs)
                shadowing = _start_shadowing(other, [request.inputs[index] for index in drawn])
                try:
                    scores = await model.score(encodings)
                    latency = time.perf_counter() - started
                    shadows = dict(zip(drawn, await self._shadows(shadowing, len(drawn)), strict=True))
                finally:
                    if shadowing:
                        shadowing.cancel()
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer within {self._timeout:g} seconds") from error
        metadata, latency_ms = request.logged_metadata, latency * 1000
        said = [model.answers.said(score.answers) for score in scores]
        predictions = [
            PredictionMade(
                id=ids[index],
                version=model.version,
                arm=arm,
                generation=serving.release.generation,
                subject=subject,
                input=_text(request.inputs[index]),
                label=said[index].label,
                confidence=said[index].confidence,
                probabilities=said[index].probabilities,
                interval=said[index].interval,
                features=tuple(score.features),
                audit_probability=rate if index in shadows else None,
                shadow=shadows.get(index),
                latency_ms=latency_ms,
                metadata=metadata,
                trace_id=request.trace_id,
            )
            for index, score in enumerate(scores)
        ]
        logging_since = time.perf_counter()
        logged = await self._log(predictions, request.inputs)
        if self._spans is not None:
            self._spans.predicted(scores, version=model.version, arm=arm, logging_since=logging_since)
        self._observe(predictions, model.answers, scores, time.perf_counter() - started)
        return Answer(predictions, model.answers, logged)

    async def _shadows(self, shadowing: asyncio.Task[list[Shadow]] | None, size: int) -> Sequence[Shadow | None]:
        """One for each audited input; None where there is no other arm, or it is slow or fails: no caller must tell."""
        if shadowing is None:
            return [None] * size
        await asyncio.wait([shadowing], timeout=SHADOW_PATIENCE_SECONDS)
        if shadowing.done() and not shadowing.exception():
            return shadowing.result()
        reason = "failed" if shadowing.done() else "slow"
        logger.warning("audited predictions go without the other arm's answer: %s", reason)
        self._metrics.shadows_dropped.labels(reason).inc(size)
        return [None] * size

    async def _log(self, predictions: Sequence[PredictionMade], inputs: Inputs) -> bool | None:
        if self._journal is None:
            return False
        if self._keeper is not None:
            references = await self._keeper.keep(inputs)  # first, so that what the log refers to is there
            if references is None:
                self._count_unlogged(predictions, logged=False)
                return False
            kept = zip(predictions, references, strict=True)
            predictions = [one.model_copy(update={"input": reference}) for one, reference in kept]
        if not self._wait_for_log:
            self._journal.submit(predictions).add_done_callback(
                lambda logged: self._count_unlogged(predictions, logged.result())
            )
            return None
        logged = await self._journal.append(predictions)
        self._count_unlogged(predictions, logged)
        return logged

    def _count_unlogged(self, predictions: Sequence[PredictionMade], logged: bool) -> None:
        if not logged:
            self._metrics.unlogged.inc(len(predictions))

    def _observe(
        self, predictions: Sequence[PredictionMade], answers: Answers, scores: Sequence[Score], seconds: float
    ) -> None:
        metrics = self._metrics.of_answers(predictions[0].version, predictions[0].arm)
        for prediction, score in zip(predictions, scores, strict=True):
            metrics.predictions(answers.series(prediction.label)).inc()
            metrics.confidence.observe(prediction.confidence)
            metrics.queue_seconds.observe(score.queue_seconds)
        metrics.request_seconds.observe(seconds)


def _start_shadowing(other: Model | None, inputs: Inputs) -> asyncio.Task[list[Shadow]] | None:
    return asyncio.create_task(_shadow(other, inputs)) if other and inputs else None


async def _shadow(model: Model, inputs: Inputs) -> list[Shadow]:
    scores = await model.score(await model.encode(inputs))
    said = [model.answers.said(score.answers) for score in scores]
    return [Shadow(version=model.version, label=one.label, probabilities=one.probabilities) for one in said]


def _text(one: Input) -> str | None:
    return one if isinstance(one, str) else None
