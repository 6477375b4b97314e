"""The request path, in one method; it knows no transport. HTTP, gRPC and whatever comes translate to it.

request -> arm -> token ids -> batch -> scores (and, for the audited, the other arm's) -> event log -> answer
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from regraft.answers import Answers
from regraft.errors import DeadlineExceeded
from regraft.events import CALLER, NAMED_VERSION, Arm, PredictionMade, Shadow
from regraft.ids import new_id
from regraft.task import Task
from service.batching import Score
from service.deadlines import Deadline, Deadlines
from service.following import Following
from service.inputs import Input, Inputs, Keeper
from service.journal import PATIENCE_SECONDS, Journal
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


@dataclass(eq=False)
class Draft:
    """A request that was put on an arm, on its way to its predictions. `drawn`: places of the inputs to be audited."""

    request: PredictRequest
    started: float  # by time.perf_counter, as all of these
    ids: Sequence[str]
    subject: str
    arm: Arm
    generation: int
    model: Model
    other: Model | None
    rate: float
    drawn: Sequence[int]
    made_at: float = 0.0
    scores: Sequence[Score] = ()
    predictions: Sequence[PredictionMade] = ()

    @property
    def shadowed(self) -> Inputs:
        """Inputs that the other arm is to score as well."""
        return [self.request.inputs[index] for index in self.drawn] if self.other else []

    def make(self, scores: Sequence[Score]) -> Sequence[PredictionMade]:
        self.made_at = time.perf_counter()
        metadata, latency_ms = self.request.logged_metadata, (self.made_at - self.started) * 1000
        said = [self.model.answers.said(score.answers) for score in scores]
        self.predictions = [
            PredictionMade(
                id=self.ids[index],
                version=self.model.version,
                arm=self.arm,
                generation=self.generation,
                subject=self.subject,
                input=_text(self.request.inputs[index]),
                label=said[index].label,
                confidence=said[index].confidence,
                probabilities=said[index].probabilities,
                interval=said[index].interval,
                features=tuple(score.features),
                audit_probability=self.rate if index in self.drawn else None,
                latency_ms=latency_ms,
                metadata=metadata,
                trace_id=self.request.trace_id,
            )
            for index, score in enumerate(scores)
        ]
        self.scores = scores
        return self.predictions

    def add_shadows(self, shadows: Sequence[Shadow | None]) -> None:
        predictions = list(self.predictions)
        for index, shadow in zip(self.drawn, shadows, strict=True):
            if shadow is not None:
                predictions[index] = predictions[index].model_copy(update={"shadow": shadow})
        self.predictions = predictions


class Predictor:
    def __init__(
        self,
        task: Task,
        following: Following,
        journal: Journal | None,
        metrics: Metrics,
        deadlines: Deadlines,
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
        self._deadlines = deadlines
        self._straight = journal if wait_for_log and keeper is None else None

    async def predict(self, request: PredictRequest) -> Answer:
        """Raises NotReady, NotFound, InvalidInput, Overloaded, DeadlineExceeded, or what the network raised."""
        draft = self._draft(request)
        logged: bool | None = False
        try:
            with self._deadlines.within(self._timeout) as deadline:
                encodings = await draft.model.encode(request.inputs)
                if self._straight is None or draft.shadowed:
                    await self._score(draft, deadline, encodings)
                    logged = await self._log(draft.predictions, request.inputs)
                else:  # from the thread that scores to the log, and only then back to the event loop
                    logged = await draft.model.log(encodings, partial(_made, draft, deadline), self._straight)
        except TimeoutError as error:
            if not draft.predictions:
                raise DeadlineExceeded(f"no answer within {self._timeout:g} seconds") from error
        self._count_unlogged(draft.predictions, logged)
        if self._spans is not None:
            self._spans.predicted(draft.scores, version=draft.model.version, arm=draft.arm, logging_since=draft.made_at)
        self._observe(draft, time.perf_counter() - draft.started)
        return Answer(draft.predictions, draft.model.answers, logged)

    def _draft(self, request: PredictRequest) -> Draft:
        """Raises NotReady, NotFound."""
        started = time.perf_counter()
        serving = self._following.serving
        ids = [new_id() for _ in request.inputs]
        subject = request.subject or ids[0]  # whoever is not named is somebody new, all of the request's inputs alike
        arm = serving.arm_of(request.version) if request.version else serving.arm_for(subject)
        other = serving.other(arm)
        rate = self._audit.experiment_rate if other else self._audit.rate
        drawn = [index for index, one in enumerate(ids) if audited(one, rate)]
        return Draft(
            request, started, ids, subject, arm, serving.release.generation, serving.model(arm), other, rate, drawn
        )

    async def _score(self, draft: Draft, deadline: Deadline, encodings: Sequence[Any]) -> None:
        shadowing = _start_shadowing(draft.other, draft.shadowed)
        try:
            draft.make(await draft.model.score(encodings))
            deadline.extend(math.inf)  # what comes now has a patience of its own
            draft.add_shadows(await self._shadows(shadowing, len(draft.drawn)))
        finally:
            if shadowing:
                shadowing.cancel()

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
                return False
            kept = zip(predictions, references, strict=True)
            predictions = [one.model_copy(update={"input": reference}) for one, reference in kept]
        if not self._wait_for_log:
            self._journal.submit(predictions).add_done_callback(
                lambda logged: self._count_unlogged(predictions, logged.result())
            )
            return None
        return await self._journal.append(predictions)

    def _count_unlogged(self, predictions: Sequence[PredictionMade], logged: bool | None) -> None:
        if logged is False and self._journal is not None:
            self._metrics.unlogged.inc(len(predictions))

    def _observe(self, draft: Draft, seconds: float) -> None:
        series = draft.model.answers.series
        self._metrics.of_answers(draft.model.version, draft.arm).add(
            [series(one.label) for one in draft.predictions],
            [one.confidence for one in draft.predictions],
            [one.queue_seconds for one in draft.scores],
            seconds,
        )


def _made(draft: Draft, deadline: Deadline, scores: Sequence[Score]) -> Sequence[PredictionMade]:
    """In a session's thread. From here on it is the log that is waited for."""
    deadline.extend(PATIENCE_SECONDS)
    return draft.make(scores)


def _start_shadowing(other: Model | None, inputs: Inputs) -> asyncio.Task[list[Shadow]] | None:
    return asyncio.create_task(_shadow(other, inputs)) if other and inputs else None


async def _shadow(model: Model, inputs: Inputs) -> list[Shadow]:
    scores = await model.score(await model.encode(inputs))
    said = [model.answers.said(score.answers) for score in scores]
    return [Shadow(version=model.version, label=one.label, probabilities=one.probabilities) for one in said]


def _text(one: Input) -> str | None:
    return one if isinstance(one, str) else None
