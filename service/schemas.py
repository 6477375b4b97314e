"""The bodies of the HTTP interface: what requests may say, what answers look like.

bytes -> JSON -> the promised fields. The first arrow fails with MalformedRequest, the second with InvalidInput.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from regraft.answers import in_words
from regraft.errors import InvalidInput, MalformedRequest, RequestError
from regraft.events import FeedbackGiven


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold the NUL character")
    return text


LONGEST_NAME = 100  # of a caller's own key that is repeated in a sentence

_WHOLE = AfterValidator(_without_nul)
Text = Annotated[str, _WHOLE]
Subject = Annotated[
    str,
    Field(min_length=1, max_length=200, description="whom the request is about; the same subject keeps its arm"),
    _WHOLE,
]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=100), _WHOLE], Annotated[str, Field(max_length=1000), _WHOLE]],
    Field(max_length=32, description="logged with the prediction as it is"),
]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PredictBody(Body):
    input: Text = Field(description="the text to label, or the image in base64")
    subject: Subject | None = None
    metadata: Metadata | None = None


class PredictBatchBody(Body):
    inputs: list[Text] = Field(min_length=1, fail_fast=True, description="what to label; all are answered, or none")
    subject: Subject | None = None
    metadata: Metadata | None = None


class FeedbackBody(Body):
    prediction_id: str = Field(description="any well-formed prediction id; it is joined to its prediction later")
    correct: bool = Field(description="whether the answer was right")
    label: Text | None = Field(None, description="what would have been right, with correct: false")
    value: float | None = Field(None, allow_inf_nan=False, description="the same, of a task that answers with numbers")
    comment: Annotated[str, Field(max_length=5000), _WHOLE] | None = None
    subject: Subject | None = None

    def as_event(self, trace_id: str | None) -> FeedbackGiven:
        """Raises InvalidInput for two corrections at once."""
        if self.label is not None and self.value is not None:
            raise InvalidInput("value: there is a label already")
        label = self.label if self.value is None else in_words(self.value)
        return FeedbackGiven(**self.model_dump(exclude={"label", "value"}), label=label, trace_id=trace_id)


class CallerBody(Body):
    """What the Open Inference Protocol takes of the above among its parameters."""

    subject: Subject | None = None
    metadata: Metadata = {}


class PredictionAnswer(BaseModel):
    prediction_id: str = Field(description="what feedback refers to; in the event log exactly once when logged is true")
    confidence: float = Field(
        description="probability of the label; of a value, how narrow its interval is: 0 as wide as without a look at"
        " the input, 1 of no width"
    )
    version: str
    arm: Literal["production", "candidate"]
    logged: bool | None = Field(
        description="false: the event log did not take the prediction, or was not to (durability `off`); nothing else"
        " is wrong with it;"
        " null: with the durability `relaxed`, where the answer does not wait for the log"
    )
    trace_id: str | None = Field(description="trace id of the request's traceparent header")


class LabelAnswer(PredictionAnswer):
    label: str
    probabilities: dict[str, float] = Field(description="calibrated, by label")


class NumberAnswer(PredictionAnswer):
    value: float
    low: float = Field(description="with high, where the truth is to be expected")
    high: float


class BatchAnswer(BaseModel):
    predictions: list[LabelAnswer] | list[NumberAnswer]


class FeedbackAnswer(BaseModel):
    feedback_id: str
    prediction_id: str = Field(description="the id that the feedback will be joined to, in its normal form")
    trace_id: str | None = Field(description="trace id of the request's traceparent header")


class ServedRelease(BaseModel):
    """A release as this worker sees it."""

    generation: int
    production: str | None
    candidate: str | None
    share: float


class ReleaseAnswer(BaseModel):
    newest: ServedRelease = Field(description="what the event log says")
    serving: ServedRelease | None = Field(description="what answers now; null until a production version is loaded")
    stale: str | None = Field(
        description="why `serving` may not be the newest release: the event log cannot be read, or a version cannot be"
        " fetched yet; null while all is well"
    )
    loaded: list[str] = Field(description="versions in memory")
    refused: dict[str, str] = Field(description="versions of the newest release that must not serve, and why")


class Problem(BaseModel):
    code: str
    message: str
    retriable: bool
    details: dict[str, Any] | None = None


class ErrorAnswer(BaseModel):
    error: Problem


class OipError(BaseModel):
    """An error as the Open Inference Protocol has it, and what else there is to say of it."""

    error: str
    code: str
    retriable: bool
    details: dict[str, Any] | None = None


def caller(parameters: Mapping[str, object], place: str = "") -> CallerBody:
    """`subject` and `metadata.<name>` among the parameters are ours. Others are left alone: clients send some of their
    own accord. Raises InvalidInput."""
    metadata = {
        name.removeprefix("metadata."): value for name, value in parameters.items() if name.startswith("metadata.")
    }
    fields = {"metadata": metadata} | ({"subject": parameters["subject"]} if "subject" in parameters else {})
    try:
        return check(CallerBody, fields)
    except InvalidInput as error:
        raise InvalidInput(f"{place}{error.message}") from error


AnyBody = TypeVar("AnyBody", bound=Body)


def parse(kind: type[AnyBody], body: bytes) -> AnyBody:
    """Raises MalformedRequest or InvalidInput, whose sentence names the first field at fault."""
    if not body.strip():
        raise MalformedRequest("the body is empty; it should be a JSON object")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error, body) from error


def check(kind: type[AnyBody], fields: dict[str, Any]) -> AnyBody:
    """The same for what did not come as JSON. Raises InvalidInput."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _explain(error) from error


def _explain(error: ValidationError, body: bytes = b"") -> RequestError:
    problem = error.errors(include_url=False, include_input=False)[0]
    if problem["type"] == "json_invalid":
        try:
            body.decode("utf-8")
        except UnicodeDecodeError:
            return MalformedRequest("the body is not UTF-8")
        return MalformedRequest(f"the body is not JSON: {problem['ctx']['error']}")
    name = _name(problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return InvalidInput(f"{name}: there is no such field")
        case "missing":
            return InvalidInput(f"{name}: is missing")
        case "model_type":
            return InvalidInput("the body should be a JSON object")
    return InvalidInput(f"{name}: {problem['msg'].removeprefix('Value error, ')}")


def _name(place: tuple[int | str, ...]) -> str:
    """inputs, 3 -> inputs[3]"""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
