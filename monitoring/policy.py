"""When a candidate is trained without anybody asking for a particular one. Pure: state in, decision out.

a reason to train (worse than validated, drift, the schedule) -> nothing in the way -> one request
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from monitoring.loop import LoopState
from monitoring.quality import Estimate
from regraft.task import Retraining


class ReasonCode(StrEnum):
    """What may set off retraining; also the label of a metric, hence few."""

    FLOOR = "accuracy_floor"
    DROP = "accuracy_drop"
    DRIFT = "drift"
    SCHEDULE = "schedule"
    FORCED = "forced"


@dataclass(frozen=True)
class Reason:
    code: ReasonCode
    sentence: str


@dataclass(frozen=True)
class Decision:
    """`reasons` to train; `quiet` says of each other trigger why it is none; `waiting_for` is empty when `request`."""

    request: bool
    reasons: tuple[Reason, ...] = ()
    quiet: tuple[str, ...] = ()
    waiting_for: str = ""


@dataclass(frozen=True)
class PolicyState:
    """What the decision rests on. `accuracy` is the audited one of the production version since its release."""

    loop: LoopState
    accuracy: Estimate | None
    validation_accuracy: float | None
    new_labels: int


def due(state: PolicyState, rules: Retraining, now: datetime) -> Decision:
    """Whether to ask for a candidate now, and why or why not.

    Accuracy counts as fallen when at least `minimum_audits` are reviewed, the estimate is below what the task allows,
    and the whole interval is below the validation accuracy: the first alone would fire on the noise of few reviews,
    the last alone on falls too small to matter. Looked at again and again, it will train in vain more often than the
    interval's 95% says; that costs a training run and no quality, for a candidate has to prove itself.
    """
    if state.loop.release.production is None:
        return Decision(False, waiting_for="a version in production")
    found = (_accuracy(state, rules), _drift(state, rules), _schedule(state, rules, now))
    fired = tuple(one for one in found if isinstance(one, Reason))
    silent = tuple(one for one in found if isinstance(one, str))
    waiting = _in_the_way(state, rules, now) if fired else ["a reason to train again"]
    return Decision(not waiting, fired, silent, "; ".join(waiting))


def _accuracy(state: PolicyState, rules: Retraining) -> Reason | str:
    validated, accuracy = state.validation_accuracy, state.accuracy
    if validated is None or accuracy is None:
        return "there is no accuracy to compare"
    if accuracy.reviewed < rules.minimum_audits:
        return f"{accuracy.reviewed} of the {rules.minimum_audits} reviewed audits that make accuracy known"
    figures = (
        f"audited accuracy {accuracy.value:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%},"
        f" {accuracy.reviewed} reviews) against {validated:.1%} in validation"
    )
    under_floor = accuracy.value < rules.floor * validated
    if accuracy.high >= validated or not (under_floor or accuracy.value <= (1 - rules.drop) * validated):
        return f"{figures}: no fall of {rules.drop:.0%} that is sure to be one"
    if under_floor:
        return Reason(ReasonCode.FLOOR, f"{figures}: under {rules.floor:.0%} of it")
    return Reason(ReasonCode.DROP, f"{figures}: a fall of {1 - accuracy.value / validated:.1%}")


def _drift(state: PolicyState, rules: Retraining) -> Reason | str:
    check, request = state.loop.newest_check, state.loop.last_request
    if not rules.on_drift:
        return "drift sets off no retraining in this task"
    if check is None:
        return "drift of the production version was not checked yet"
    if request and check.at <= request.at:
        return "drift was not checked since the last retraining request"
    if not check.drifted:
        return f"no drift in the {check.rows} newest predictions checked (p = {check.p_value:.3g})"
    columns = ", ".join(sorted(name for name, column in check.columns.items() if column.drifted))
    return Reason(ReasonCode.DRIFT, f"drift in {columns} over {check.rows} predictions (p = {check.p_value:.3g})")


def _schedule(state: PolicyState, rules: Retraining, now: datetime) -> Reason | str:
    request = state.loop.last_request
    since = request.at if request else state.loop.production_since
    if rules.every is None or since is None:
        return "there is no schedule"
    age = now - since
    if age < rules.every:
        return f"the schedule is due in {_in_words(rules.every - age)}"
    return Reason(
        ReasonCode.SCHEDULE,
        f"the last {'request' if request else 'release'} is {_in_words(age)} old; due every {_in_words(rules.every)}",
    )


def in_the_way(loop: LoopState) -> list[str]:
    """What even a person's wish has to wait for: there is one job and one experiment at a time."""
    waiting = []
    if loop.under_way and loop.last_request:
        waiting.append(f"the candidate asked for at {loop.last_request.at:%Y-%m-%d %H:%M} UTC")
    if loop.release.candidate:
        waiting.append(f"the end of the experiment with {loop.release.candidate}")
    return waiting


def _in_the_way(state: PolicyState, rules: Retraining, now: datetime) -> list[str]:
    waiting = in_the_way(state.loop)
    request = state.loop.last_request
    if request and now - request.at < rules.cool_down:
        waiting.append(f"the end of the cool-down in {_in_words(rules.cool_down - (now - request.at))}")
    if state.new_labels < rules.new_labels:
        waiting.append(
            f"{rules.new_labels - state.new_labels} more new labels ({state.new_labels} of {rules.new_labels})"
        )
    return waiting


def _in_words(span: timedelta) -> str:
    seconds = span.total_seconds()
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
