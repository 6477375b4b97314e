"""What a user says of a prediction: checked against the task, then logged. It knows no transport.

The rule for prediction ids: any well-formed id that is not from the future is taken, and joined to its prediction
later, by whoever reads the log. The service does not look the prediction up, since retention may have trimmed it from
the log, or another server may have made it.

Whoever got no answer, or was told to try again, does not know whether the feedback was logged. So its event's id
follows from what was sent: sent again it is the same event, which the log and its consumers hold once. Two callers who
say the same of one prediction are told apart by their subjects, or by the key that each sends with it.
"""

import json
import time
import uuid

from regraft.errors import InvalidInput, LogUnavailable
from regraft.events import FeedbackGiven
from regraft.ids import derived_id
from regraft.task import Task
from service.journal import Journal
from service.metrics import Metrics

LONGEST_KEY = 200
CLOCK_SKEW_SECONDS = 60.0  # how far ahead the clock of the server that made the prediction may be


class FeedbackBox:
    def __init__(self, task: Task, journal: Journal, metrics: Metrics) -> None:
        self._answers = task.answers
        self._journal = journal
        self._metrics = metrics

    async def give(
        self, feedback: FeedbackGiven, *, key: str | None = None, caller: str | None = None
    ) -> FeedbackGiven:
        """The feedback as it was logged. `key` is what the caller calls it by: the first that has it counts.

        Raises InvalidInput, or LogUnavailable: no thanks for what is lost."""
        feedback = feedback.model_copy(update={"prediction_id": _normal_id(feedback.prediction_id)})
        if feedback.label is not None:
            feedback = feedback.model_copy(update={"label": self._accepted(feedback.label)})
        if feedback.label is not None and feedback.correct:
            raise InvalidInput("label: says what would have been right, so it does not go with correct: true")
        feedback = feedback.model_copy(update={"id": _id(feedback, key, caller)})
        if not await self._journal.append([feedback]):
            raise LogUnavailable("the feedback could not be logged; please send it again")
        self._metrics.feedback.labels(str(feedback.correct).lower()).inc()
        return feedback

    def _accepted(self, label: str) -> str:
        try:
            return self._answers.accept(label)
        except ValueError as error:
            raise InvalidInput(f"label: {error}") from error


def _id(feedback: FeedbackGiven, key: str | None, caller: str | None) -> str:
    if key is None:
        said = feedback.model_dump(include={"subject", "correct", "label", "comment"})
        return derived_id(feedback.prediction_id, json.dumps(["feedback", caller, said]))
    if not 0 < len(key) <= LONGEST_KEY:
        raise InvalidInput(f"idempotency-key: has {len(key)} characters; it should have 1 to {LONGEST_KEY}")
    return derived_id(feedback.prediction_id, json.dumps(["feedback by key", caller, key]))


def _normal_id(text: str) -> str:
    """The 32 hexadecimal digits of a UUID of version 7, hyphens and upper case taken out."""
    try:
        number = uuid.UUID(text)
    except ValueError as error:
        raise InvalidInput("prediction_id: is no id of a prediction") from error
    if number.version != 7:
        raise InvalidInput("prediction_id: is no id of a prediction")
    if (number.int >> 80) / 1000 > time.time() + CLOCK_SKEW_SECONDS:
        raise InvalidInput("prediction_id: is from the future")
    return number.hex
