"""What can happen, as frozen, versioned facts in the past tense; all state of the system is folded from these.

Each kind is one class. Its JSON carries `kind` and `schema_version`; a new field gets a default, so that every event
ever written can still be read (a stored sample of each stays in the tests).
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter

from regraft.ids import new_id

CALLER = "regraft.caller"  # in a prediction's metadata: the name of the caller's key, where there are keys
NAMED_VERSION = "regraft.named_version"  # in a prediction's metadata: the caller chose the version, not the split


class Arm(StrEnum):
    """Where a version stands in a release."""

    PRODUCTION = "production"
    CANDIDATE = "candidate"


class QueueReason(StrEnum):
    """Why a prediction is shown to a reviewer, by precedence: random samples before what somebody pointed at."""

    DISAGREEMENT = "disagreement"
    AUDIT = "audit"
    FLAG = "flag"
    LOW_CONFIDENCE = "low_confidence"
    DIRECT = "direct"


def now() -> datetime:
    return datetime.now(UTC)


class Event(BaseModel):
    """One thing that happened. `id` identifies it for de-duplication, `key` orders it among related events."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")

    retained: ClassVar[bool] = False  # kept for good: release state and the loop's history are folded from these

    schema_version: Literal[1] = 1
    id: str = Field(default_factory=new_id)
    at: AwareDatetime = Field(default_factory=now)

    @property
    def key(self) -> str:
        return self.id


class Shadow(BaseModel):
    """What the other arm's version would have answered; the caller never saw it."""

    model_config = ConfigDict(frozen=True)

    version: str
    label: str
    probabilities: tuple[float, ...]


class PredictionMade(Event):
    """An answer was given. Its event id is the prediction id.

    `subject` is who was named, or the first prediction of the request. `probabilities` are calibrated and in the order
    of the task's labels. Of a regression there are none: `label` is the number as text, `interval` where the truth is
    to be expected. `audit_probability` is the chance with which
    the prediction was drawn into the audit, or None if it was not drawn. `input` is None once redacted.
    """

    kind: Literal["prediction_made"] = "prediction_made"
    version: str
    arm: Arm
    generation: int
    subject: str | None = None
    input: str | None
    label: str
    confidence: float
    probabilities: tuple[float, ...]
    interval: tuple[float, float] | None = None
    features: tuple[float, ...]
    audit_probability: float | None = None
    shadow: Shadow | None = None
    latency_ms: float
    metadata: dict[str, str] = {}
    trace_id: str | None = None


class FeedbackGiven(Event):
    """A user said of a prediction that it was right or wrong; a hint, never a training label by itself."""

    kind: Literal["feedback_given"] = "feedback_given"
    prediction_id: str
    correct: bool
    label: str | None = None
    comment: str | None = None
    subject: str | None = None
    trace_id: str | None = None

    @property
    def key(self) -> str:
        return self.prediction_id


class ReviewGiven(Event):
    """A trusted person said what the right label is. The newest review of a prediction counts."""

    kind: Literal["review_given"] = "review_given"
    prediction_id: str
    label: str
    reviewer: str
    reason: QueueReason

    @property
    def key(self) -> str:
        return self.prediction_id


class ColumnDrift(BaseModel):
    """One column of a drift check: drifted when its statistic is above its threshold."""

    model_config = ConfigDict(frozen=True)

    statistic: float
    threshold: float
    drifted: bool


class DriftMeasured(Event):
    """A window of live predictions was compared with a version's reference."""

    retained: ClassVar[bool] = True

    kind: Literal["drift_measured"] = "drift_measured"
    version: str
    window_start: AwareDatetime
    window_end: AwareDatetime
    rows: int
    reference_rows: int
    alpha: float
    p_value: float
    drifted: bool
    columns: dict[str, ColumnDrift]
    report: str | None = None


class RetrainingRequested(Event):
    """The policy, or a person, asked for a candidate. Reviews given up to `at` may be used.

    `target` names conditions of the rows that it is about, a failing slice: they count for more in training.
    """

    retained: ClassVar[bool] = True

    kind: Literal["retraining_requested"] = "retraining_requested"
    reasons: tuple[str, ...]
    new_labels: int
    who: str = "policy"
    forced: bool = False
    target: dict[str, str] = {}


class CandidateRegistered(Event):
    """Retraining made a version that is fit for an A/B test; `evidence` holds the comparisons that say so."""

    retained: ClassVar[bool] = True

    kind: Literal["candidate_registered"] = "candidate_registered"
    request_id: str
    version: str
    evidence: dict[str, Any]


class CandidateRefused(Event):
    """Retraining ended without a version worth testing, or failed; `reason` is a sentence."""

    retained: ClassVar[bool] = True

    kind: Literal["candidate_refused"] = "candidate_refused"
    request_id: str
    reason: str
    evidence: dict[str, Any] = {}


class VerdictReached(Event):
    """An A/B test ended. `outcome` is promote, roll_back or keep."""

    retained: ClassVar[bool] = True

    kind: Literal["verdict_reached"] = "verdict_reached"
    production: str
    candidate: str
    outcome: Literal["promote", "roll_back", "keep"]
    reason: str
    evidence: dict[str, Any]


class ReleaseChanged(Event):
    """The release became this one, replacing generation `replaces`; of two that replace the same, the first counts."""

    retained: ClassVar[bool] = True

    kind: Literal["release_changed"] = "release_changed"
    replaces: int
    production: str
    candidate: str | None = None
    share: float = Field(default=0.0, ge=0.0, le=1.0)
    who: str
    why: str

    @property
    def key(self) -> str:
        return "release"


AnyEvent = Annotated[
    PredictionMade
    | FeedbackGiven
    | ReviewGiven
    | DriftMeasured
    | RetrainingRequested
    | CandidateRegistered
    | CandidateRefused
    | VerdictReached
    | ReleaseChanged,
    Field(discriminator="kind"),
]

KINDS: dict[str, type[Event]] = {
    cls.model_fields["kind"].default: cls
    for cls in (
        PredictionMade,
        FeedbackGiven,
        ReviewGiven,
        DriftMeasured,
        RetrainingRequested,
        CandidateRegistered,
        CandidateRefused,
        VerdictReached,
        ReleaseChanged,
    )
}

_ANY: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)


def kind_of(event: Event | type[Event]) -> str:
    return str(
        type(event).model_fields["kind"].default if isinstance(event, Event) else event.model_fields["kind"].default
    )


def decode(body: bytes | str) -> AnyEvent:
    """An event from its JSON. Raises `pydantic.ValidationError` where it is none."""
    return _ANY.validate_json(body)


def encode(event: Event) -> bytes:
    return event.model_dump_json().encode()
